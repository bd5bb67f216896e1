/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sealing and opening have in common, whichever message.  One message is a batch of one.
 *
 * A batch goes in bursts, a burst in stages: every item is checked and written (or read), then all items are encrypted, then all
 * are authenticated - or, when opening, authenticated before any is decrypted.  A provider thus sees many independent items at
 * once.  While an item is written, the keys of later ones are fetched: ten thousand services do not fit in a near cache.
 */
#ifndef BCAST_BATCH_H
#define BCAST_BATCH_H

#include "crypto.h"

#include <openssl/crypto.h>

/* Items ahead that are fetched: far enough to hide a third-level cache behind the writing of messages, near enough to stay. */
#define AHEAD 8
#define LINE 64

INLINE void fetch(const void *object, size_t length)
{
#pragma GCC unroll 8
    for (size_t at = 0; at < length; at += LINE)
        __builtin_prefetch((const void *)((uintptr_t)object + at));
}

/* Do two ranges share a byte?  One comparison: a starts less than its length before b, or less than b's length after it. */
INLINE bool overlap(const void *a, size_t a_length, const void *b, size_t b_length)
{
    if (a_length == 0 || b_length == 0)
        return false;
    return (uintptr_t)a - (uintptr_t)b + (a_length - 1) < a_length - 1 + b_length;
}

INLINE void clear_error(bcast_error *error) { *error = (bcast_error){0, BCAST_NO_OFFSET, 0, 0, {0, 0}}; }

__attribute__((cold)) static inline bool fail(bcast_error *error, int code, int field)
{
    *error = (bcast_error){code, BCAST_NO_OFFSET, (uint16_t)field, BCAST_S_MESSAGE, {0, 0}};
    return false;
}

/* The arguments of a batch call as such. */
int batch_status(const bcast_provider *p, const void *jobs, size_t count);

/* A call for one message: prepare `error` and `length`, and tell whether the arguments can be used. */
bool one_status(const bcast_provider *p, const void *input, size_t input_length, size_t *length, bcast_error *error);
/* ... and its end.  `status`: what the batch of one gave. */
int one_result(int status, size_t used, const bcast_error *result, size_t *length, bcast_error *error);

/* --- sealing ----------------------------------------------------------------------------------------------------------------- */

/* Where a batch writes: its arena, how much of it is used, where the burst at hand began. */
typedef struct sink {
    uint8_t *arena;
    size_t room, at, start, done;
} sink;

int sink_open(sink *s, const bcast_provider *p, const void *jobs, size_t count, size_t job_size, uint8_t *arena, size_t room,
              size_t *used);
int sink_close(const sink *s, size_t count, size_t *used);

INLINE bool admit(const bcast_provider *p, bcast_error *error, const key_head *key, uint64_t magic, const void *message,
                  const uint8_t *base, uint32_t base_length)
{
    clear_error(error);
    if (UNLIKELY(key == NULL || message == NULL || (base == NULL && base_length != 0)))
        return fail(error, BCAST_E_ARGUMENT, 0);
    return LIKELY(key_ready(p, key, magic)) || fail(error, BCAST_E_NOT_READY, 0);
}

/*
 * Room for `size` bytes.  What the job reads must lie outside the whole room given: within it, the result of another job could
 * stand in its place before it is read.
 */
INLINE bool reserve(const sink *s, uint32_t size, const void *message, size_t message_size, const source *src, const void *key,
                    size_t key_size)
{
    if (UNLIKELY(s->room - s->at < size))
        return fail(src->error, BCAST_E_ROOM, 0);
    return LIKELY(!overlap(message, message_size, s->arena, s->room) && !overlap(src->base, src->base_length, s->arena, s->room)
                  && !overlap(key, key_size, s->arena, s->room))
           || fail(src->error, BCAST_E_OVERLAP, 0);
}

/* The code, after reserve() has failed in a call for one message: its length is told when room is all that lacked. */
int no_room(const bcast_error *error, size_t *length);

/* The library failed: what the burst wrote goes away ... */
void roll_back(sink *s);
/* ... and so do its jobs; 1 for one that was done. */
size_t undo(uint32_t *length, bcast_error *error);

/* Arguments of a builder that needs no key. */
bool admit_partial(const void *message, const uint8_t *base, size_t base_length, size_t *length, bcast_error *error);

/* --- opening ----------------------------------------------------------------------------------------------------------------- */

/* What every opening job must bring.  The message is cleared. */
INLINE bool admit_open(const bcast_provider *p, bcast_error *error, const key_head *key, size_t key_size, uint64_t magic,
                       const uint8_t *data, uint32_t data_length, uint32_t lenient, void *message, size_t message_size)
{
    clear_error(error);
    if (UNLIKELY(message == NULL))
        return fail(error, BCAST_E_ARGUMENT, 0);
    if (UNLIKELY((data_length <= BCAST_INPUT_MAX && overlap(message, message_size, data, data_length))
                 || overlap(message, message_size, key, key_size)))
        return fail(error, BCAST_E_OVERLAP, 0);
    memset(message, 0, message_size);
    if (UNLIKELY(key == NULL || (data == NULL && data_length != 0) || data_length > BCAST_INPUT_MAX || lenient > 7))
        return fail(error, BCAST_E_ARGUMENT, 0);
    return LIKELY(key_ready(p, key, magic)) || fail(error, BCAST_E_NOT_READY, 0);
}

/* Arguments of a decoder; the message is cleared. */
bool admit_decode(const uint8_t *data, size_t data_length, uint32_t flag, uint32_t lenient, void *message, size_t message_size,
                  bcast_error *error);
/* The code of a decoder, whose message is cleared when it is not 0. */
int decoded(bool ok, void *message, size_t message_size, const bcast_error *error);
/* A message that read well but must not be given out. */
void wipe_failed(void *message, size_t message_size, bcast_error *error, int code, int field);

/* Labels of the keys of the i-th message of a burst. */
INLINE void make_labels(bcast_provider *p, uint32_t i, const uint8_t csb_id[4], const uint8_t rand[16])
{
    for (uint32_t k = 0; k < 3; k++)
        mikey_label(p->labels[3 * i + k].label, (int)k, csb_id, rand);
}

#endif
