/* SPDX-License-Identifier: Apache-2.0 */
/* What the harnesses share: one provider, fixed keys, input in memory of the exact size. */
#ifndef BCAST_FUZZ_H
#define BCAST_FUZZ_H

#include <bcast.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A contradiction is a finding: stop where it is seen. */
#define MUST(condition)   \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

static inline void *fuzz_room(size_t size)
{
    void *p = aligned_alloc(BCAST_ALIGNMENT, (size + BCAST_ALIGNMENT - 1) / BCAST_ALIGNMENT * BCAST_ALIGNMENT);
    MUST(p != NULL);
    return memset(p, 0, size);
}

static bcast_provider *fuzz_provider;
static bcast_drm_key *fuzz_drm_key;
static bcast_smartcard_key *fuzz_card_key;
static bcast_smk *fuzz_smk;
/* The same SEK without a CSB ID: it opens what the one above opens, by another way. */
static bcast_smartcard_key *fuzz_opening_key;

static inline void fuzz_keys(bcast_provider *p, bcast_drm_key **drm, bcast_smartcard_key **card, bcast_smk **smk)
{
    static const uint8_t raw[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    const bcast_drm_keys keys = {raw, raw + 16, raw + 32, raw + 48};
    const uint32_t use = BCAST_USE_SEAL | BCAST_USE_OPEN;
    MUST(bcast_drm_key_init(fuzz_room(BCAST_DRM_KEY_SIZE), BCAST_DRM_KEY_SIZE, p, &keys, use, drm) == BCAST_OK);
    MUST(bcast_smartcard_key_init(fuzz_room(BCAST_SMARTCARD_KEY_SIZE), BCAST_SMARTCARD_KEY_SIZE, p, raw, raw + 16, raw + 32,
                                  BCAST_RAND_LENGTH, card)
         == BCAST_OK);
    MUST(bcast_smk_init(fuzz_room(BCAST_SMK_SIZE), BCAST_SMK_SIZE, p, raw, smk) == BCAST_OK);
}

static inline void fuzz_set_up(void)
{
    if (fuzz_provider != NULL)
        return;
    MUST(bcast_provider_open(fuzz_room(BCAST_PROVIDER_SIZE), BCAST_PROVIDER_SIZE, "evp", &fuzz_provider) == BCAST_OK);
    fuzz_keys(fuzz_provider, &fuzz_drm_key, &fuzz_card_key, &fuzz_smk);
    static const uint8_t raw[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    MUST(bcast_smartcard_key_init(fuzz_room(BCAST_SMARTCARD_KEY_SIZE), BCAST_SMARTCARD_KEY_SIZE, fuzz_provider, raw, NULL, raw + 32,
                                  BCAST_RAND_LENGTH, &fuzz_opening_key)
         == BCAST_OK);
}

/* An error says something true: a known code, a path, an offset in the message; and nothing is left in the output. */
static inline void fuzz_error(int code, const bcast_error *error, size_t size, const void *message, size_t message_size)
{
    char path[BCAST_PATH_MAX];
    size_t length;
    MUST(error->code == code && strcmp(bcast_status_name(code), "unknown") != 0);
    MUST(bcast_error_path(error, path, sizeof path, &length) == BCAST_OK);
    if (code == BCAST_OK)
        return;
    if (code >= 200 && code < 300)
        MUST(error->offset <= size);
    for (size_t i = 0; i < message_size; i++)
        MUST(((const uint8_t *)message)[i] == 0);
}

/* Ids that a builder takes: no Key Group and no Key Number 0000, no TEK ID 0000 or ffff. */
static inline bool fuzz_names_key(const uint8_t sek_id[4])
{
    return (sek_id[0] | sek_id[1]) != 0 && (sek_id[2] | sek_id[3]) != 0;
}
static inline bool fuzz_names_tek(const uint8_t tek_id[2])
{
    return (tek_id[0] | tek_id[1]) != 0 && (tek_id[0] & tek_id[1]) != 0xff;
}

/* A copy of the exact size, so that one byte too many is seen. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + (size == 0));
    MUST(copy != NULL);
    if (size != 0)
        memcpy(copy, data, size);
    return copy;
}

#endif
