/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batch shapes.  The input: a kind, the room of the arena, then jobs, each a length octet and that many bytes that are a message or
 * overwrite the fields of one.  The fastest provider there is does them together; evp must get the same one by one.
 */
#include "fuzz.h"

enum { MOST = 200, LONGEST = 1500, BEHIND = 64 };

static bcast_provider *fast;
static bcast_drm_key *fast_drm_key;
static bcast_smartcard_key *fast_card_key;
static bcast_smk *fast_smk;

static void set_up(void)
{
    if (fast != NULL)
        return;
    fuzz_set_up();
    MUST(bcast_provider_open(fuzz_room(BCAST_PROVIDER_SIZE), BCAST_PROVIDER_SIZE, NULL, &fast) == BCAST_OK);
    fuzz_keys(fast, &fast_drm_key, &fast_card_key, &fast_smk);
}

/* What decodes does not say all that sealing asks for. */
static void whole_drm(bcast_drm_stkm *m) { (void)m; }
static void whole_stkm(bcast_smartcard_stkm *m)
{
    m->max_size = 0;
    m->has_salt = m->has_salt || m->encr_data.length == 36;
}
static void whole_ltkm(bcast_smartcard_ltkm *m)
{
    m->key_data_type = BCAST_LTKM_KEY_TYPE;
    m->interval_length = 4;
    m->ts_high = m->counter & 0xff;
}

#define DECODE_DRM(d, n, m, e) bcast_drm_stkm_decode(d, n, 0, 4, m, e)
#define DECODE_STKM(d, n, m, e) bcast_smartcard_stkm_decode(d, n, 0, 7, m, e)
#define DECODE_LTKM(d, n, m, e) bcast_smartcard_ltkm_decode(d, n, 7, m, e)

/* The same for each kind. */
#define SHAPES(kind, type, seal_job, open_job, call, decode, whole, slow_key, fast_key)                                         \
    static void shapes_##kind(uint8_t *data, size_t size, size_t room)                                                          \
    {                                                                                                                           \
        static open_job open_jobs[MOST];                                                                                        \
        static seal_job seal_jobs[MOST];                                                                                        \
        static type opened[MOST], messages[MOST], one;                                                                          \
        static uint8_t arena[0x10000 + BEHIND], out[LONGEST];                                                                   \
        size_t n = 0, used, sum = 0, length;                                                                                    \
        bcast_error error;                                                                                                      \
        memset(messages, 0, sizeof messages);                                                                                   \
        for (size_t at = 0; at < size && n < MOST; n++) {                                                                       \
            const size_t piece = data[at] < size - at - 1 ? data[at] : size - at - 1;                                           \
            at++;                                                                                                               \
            open_jobs[n] = (open_job){.key = piece % 7 == 6 ? NULL : fast_key,                                                  \
                                      .data = data + at,                                                                        \
                                      .data_length = (uint32_t)piece,                                                           \
                                      .message = &opened[n],                                                                    \
                                      .lenient = (uint32_t)piece & 4};                                                          \
            if (decode(data + at, piece, &messages[n], &error) == BCAST_OK)                                                     \
                whole(&messages[n]);                                                                                            \
            else                                                                                                                \
                memcpy(&messages[n], data + at, piece < sizeof messages[n] ? piece : sizeof messages[n]);                       \
            seal_jobs[n] = (seal_job){.key = piece % 5 == 4 ? NULL : fast_key,                                                  \
                                      .message = &messages[n],                                                                  \
                                      .base = data + at,                                                                        \
                                      .base_length = (uint32_t)piece};                                                          \
            at += piece;                                                                                                        \
        }                                                                                                                       \
        (void)call##_open_batch(fast, open_jobs, n);                                                                            \
        for (size_t i = 0; i < n; i++) {                                                                                        \
            const int code = call##_open(fuzz_provider, open_jobs[i].key == NULL ? NULL : slow_key, open_jobs[i].data,          \
                                         open_jobs[i].data_length, open_jobs[i].lenient, &one, &error);                         \
            MUST(code == open_jobs[i].error.code && memcmp(&error, &open_jobs[i].error, sizeof error) == 0);                    \
            MUST(memcmp(&one, &opened[i], sizeof one) == 0);                                                                    \
        }                                                                                                                       \
        memset(arena, 0x5a, sizeof arena);                                                                                      \
        (void)call##_seal_batch(fast, seal_jobs, n, arena, room, &used);                                                        \
        MUST(used <= room);                                                                                                     \
        for (size_t i = used; i < room + BEHIND; i++)                                                                           \
            MUST(arena[i] == 0x5a);                                                                                             \
        for (size_t i = 0; i < n; i++) {                                                                                        \
            const int code = call##_seal(fuzz_provider, seal_jobs[i].key == NULL ? NULL : slow_key, seal_jobs[i].message,       \
                                         seal_jobs[i].base, seal_jobs[i].base_length, out, sizeof out, &length, &error);        \
            sum += seal_jobs[i].length;                                                                                         \
            if (seal_jobs[i].error.code == BCAST_E_ROOM)                                                                        \
                continue;                                                                                                       \
            MUST(code == BCAST_E_ROOM                                                                                           \
                 || (code == seal_jobs[i].error.code && memcmp(&error, &seal_jobs[i].error, sizeof error) == 0));               \
            MUST(code != BCAST_OK || (length == seal_jobs[i].length && memcmp(out, arena + seal_jobs[i].offset, length) == 0)); \
        }                                                                                                                       \
        MUST(sum == used);                                                                                                      \
        /* What was sealed opens, in the company of what was not. */                                                            \
        for (size_t i = 0; i < n; i++) {                                                                                        \
            open_jobs[i].key = fast_key;                                                                                        \
            open_jobs[i].data = arena + seal_jobs[i].offset;                                                                    \
            open_jobs[i].data_length = seal_jobs[i].length;                                                                     \
        }                                                                                                                       \
        (void)call##_open_batch(fast, open_jobs, n);                                                                            \
        for (size_t i = 0; i < n; i++)                                                                                          \
            MUST(open_jobs[i].error.code == (seal_jobs[i].length != 0 ? BCAST_OK : BCAST_E_TRUNCATED)                           \
                 && (seal_jobs[i].length == 0 || opened[i].size == seal_jobs[i].length));                                       \
    }
SHAPES(drm, bcast_drm_stkm, bcast_drm_seal_job, bcast_drm_open_job, bcast_drm_stkm, DECODE_DRM, whole_drm, fuzz_drm_key,
       fast_drm_key)
SHAPES(stkm, bcast_smartcard_stkm, bcast_smartcard_seal_job, bcast_smartcard_open_job, bcast_smartcard_stkm, DECODE_STKM,
       whole_stkm, fuzz_card_key, fast_card_key)
SHAPES(ltkm, bcast_smartcard_ltkm, bcast_ltkm_seal_job, bcast_ltkm_open_job, bcast_smartcard_ltkm, DECODE_LTKM, whole_ltkm,
       fuzz_smk, fast_smk)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static void (*const kinds[])(uint8_t *, size_t, size_t) = {shapes_drm, shapes_stkm, shapes_ltkm};
    if (size < 3)
        return 0;
    set_up();
    uint8_t *data = fuzz_copy(bytes + 3, size - 3);
    kinds[bytes[0] % 3](data, size - 3, (size_t)bytes[1] * 256 + bytes[2]);
    free(data);
    return 0;
}
