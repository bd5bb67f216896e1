/* SPDX-License-Identifier: Apache-2.0 */
/* What sealing and opening have in common, off the fast path. */
#include "batch.h"

int batch_status(const bcast_provider *p, const void *jobs, size_t count)
{
    if (p == NULL || (jobs == NULL && count != 0) || count > UINT32_MAX)
        return BCAST_E_ARGUMENT;
    return (uintptr_t)p % BCAST_ALIGNMENT == 0 && provider_ready(p) ? BCAST_OK : BCAST_E_NOT_READY;
}

bool one_status(const bcast_provider *p, const void *input, size_t input_length, size_t *length, bcast_error *error)
{
    clear_error(error);
    if (length != NULL)
        *length = 0;
    if (p == NULL || length == NULL || input_length > BCAST_INPUT_MAX || (input == NULL && input_length != 0))
        return fail(error, BCAST_E_ARGUMENT, 0);
    return true;
}

int one_result(int status, size_t used, const bcast_error *result, size_t *length, bcast_error *error)
{
    if (status != BCAST_OK && status != BCAST_E_SOME) {
        fail(error, status, 0);
        return status;
    }
    *error = *result;
    *length = used;
    return result->code;
}

int sink_open(sink *s, const bcast_provider *p, const void *jobs, size_t count, size_t job_size, uint8_t *arena, size_t room,
              size_t *used)
{
    if (used == NULL)
        return BCAST_E_ARGUMENT;
    *used = 0;
    const int status = batch_status(p, jobs, count);
    if (status != BCAST_OK)
        return status;
    room = room < UINT32_MAX ? room : UINT32_MAX; /* offsets are 32 bits */
    if (arena != NULL && (overlap(arena, room, jobs, count * job_size) || overlap(arena, room, p, sizeof *p)))
        return BCAST_E_OVERLAP;
    *s = (sink){.arena = arena, .room = room};
    return BCAST_OK;
}

int sink_close(const sink *s, size_t count, size_t *used)
{
    *used = s->at;
    return s->done == count ? BCAST_OK : BCAST_E_SOME;
}

__attribute__((cold)) void roll_back(sink *s)
{
    OPENSSL_cleanse(s->arena + s->start, s->at - s->start);
    s->at = s->start;
}

__attribute__((cold)) size_t undo(uint32_t *length, bcast_error *error)
{
    if (error->code != BCAST_OK)
        return 0;
    *length = 0;
    fail(error, BCAST_E_CRYPTO, 0);
    return 1;
}

int no_room(const bcast_error *error, size_t *length)
{
    if (error->code != BCAST_E_ROOM)
        *length = 0;
    return error->code;
}

bool admit_partial(const void *message, const uint8_t *base, size_t base_length, size_t *length, bcast_error *error)
{
    clear_error(error);
    if (length != NULL)
        *length = 0;
    return (message != NULL && length != NULL && (base != NULL || base_length == 0) && base_length <= BCAST_INPUT_MAX)
           || fail(error, BCAST_E_ARGUMENT, 0);
}

bool admit_decode(const uint8_t *data, size_t data_length, uint32_t flag, uint32_t lenient, void *message, size_t message_size,
                  bcast_error *error)
{
    clear_error(error);
    if (message == NULL)
        return fail(error, BCAST_E_ARGUMENT, 0);
    if (data_length <= BCAST_INPUT_MAX && overlap(message, message_size, data, data_length))
        return fail(error, BCAST_E_OVERLAP, 0);
    memset(message, 0, message_size);
    return ((data != NULL || data_length == 0) && data_length <= BCAST_INPUT_MAX && flag <= 1 && lenient <= 7)
           || fail(error, BCAST_E_ARGUMENT, 0);
}

int decoded(bool ok, void *message, size_t message_size, const bcast_error *error)
{
    if (!ok && message_size != 0)
        memset(message, 0, message_size);
    return error->code;
}

void wipe_failed(void *message, size_t message_size, bcast_error *error, int code, int field)
{
    OPENSSL_cleanse(message, message_size);
    fail(error, code, field);
}
