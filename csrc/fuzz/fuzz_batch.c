/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batch shapes: the input is a list of jobs, each a length octet and that many bytes that are a STKM or overwrite the fields of
 * one. The batch must do with each job what the single call does, in whatever company.
 */
#include "fuzz.h"

enum { MOST = 200 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static bcast_drm_open_job open_jobs[MOST];
    static bcast_drm_seal_job seal_jobs[MOST];
    static bcast_drm_stkm opened[MOST], messages[MOST];
    static uint8_t arena[MOST * 1500];
    size_t n = 0, used, sum = 0;
    bcast_drm_stkm one;
    bcast_error error;
    uint8_t out[1500];
    size_t length;
    if (size < 2)
        return 0;
    fuzz_set_up();
    const size_t room = (size_t)bytes[0] * 256 + bytes[1];
    uint8_t *data = fuzz_copy(bytes + 2, size - 2);
    size -= 2;
    for (size_t at = 0; at < size && n < MOST; n++) {
        const size_t piece = data[at] < size - at - 1 ? data[at] : size - at - 1;
        at++;
        open_jobs[n] = (bcast_drm_open_job){.key = piece % 7 == 6 ? NULL : fuzz_drm_key,
                                            .data = data + at,
                                            .data_length = (uint32_t)piece,
                                            .message = &opened[n],
                                            .lenient = (uint32_t)piece & 4};
        if (bcast_drm_stkm_decode(data + at, piece, 0, 4, &messages[n], &error) != BCAST_OK)
            memcpy(&messages[n], data + at, piece < sizeof messages[n] ? piece : sizeof messages[n]);
        seal_jobs[n] = (bcast_drm_seal_job){.key = piece % 5 == 4 ? NULL : fuzz_drm_key,
                                            .message = &messages[n],
                                            .base = data + at,
                                            .base_length = (uint32_t)piece};
        at += piece;
    }
    (void)bcast_drm_stkm_open_batch(fuzz_provider, open_jobs, n);
    for (size_t i = 0; i < n; i++) {
        const int code = bcast_drm_stkm_open(fuzz_provider, open_jobs[i].key, open_jobs[i].data, open_jobs[i].data_length,
                                             open_jobs[i].lenient, &one, &error);
        MUST(code == open_jobs[i].error.code && memcmp(&error, &open_jobs[i].error, sizeof error) == 0);
        MUST(memcmp(&one, &opened[i], sizeof one) == 0);
    }
    memset(arena, 0x5a, sizeof arena);
    (void)bcast_drm_stkm_seal_batch(fuzz_provider, seal_jobs, n, arena, room, &used);
    MUST(used <= room);
    for (size_t i = used; i < room + 64; i++)
        MUST(arena[i] == 0x5a);
    for (size_t i = 0; i < n; i++) {
        const int code = bcast_drm_stkm_seal(fuzz_provider, seal_jobs[i].key, seal_jobs[i].message, seal_jobs[i].base,
                                             seal_jobs[i].base_length, out, sizeof out, &length, &error);
        sum += seal_jobs[i].length;
        if (seal_jobs[i].error.code == BCAST_E_ROOM)
            continue;
        MUST(code == seal_jobs[i].error.code && memcmp(&error, &seal_jobs[i].error, sizeof error) == 0);
        MUST(code != BCAST_OK || (length == seal_jobs[i].length && memcmp(out, arena + seal_jobs[i].offset, length) == 0));
    }
    MUST(sum == used);
    free(data);
    return 0;
}
