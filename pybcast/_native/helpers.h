/* SPDX-License-Identifier: Apache-2.0 */
/* What a batch needs per message, so that Python does nothing per message: jobs from columns, columns in and out of structures. */
#ifndef PYBCAST_HELPERS_H
#define PYBCAST_HELPERS_H

#include "bcast.h"

#include <openssl/crypto.h>
#include <stdbool.h>
#include <string.h>

/* What stays the same from one sealing to the next, so that a call has few arguments. */
typedef struct pybcast_frame {
    bcast_provider *provider;
    void *message;
    uint8_t *out;
    size_t room;
    const bcast_answered *answered; /* verification messages */
    bcast_error error;
} pybcast_frame;

/* Seal frame->message into frame->out: the length, or minus the status.  The message, which holds a key, is cleared. */
#define PYBCAST_SEAL(function, message_type, ...)                                                                               \
    {                                                                                                                           \
        size_t length = 0;                                                                                                      \
        const int status = function(frame->provider, __VA_ARGS__, frame->message, base, base_length, frame->out, frame->room,   \
                                    &length, &frame->error);                                                                    \
        OPENSSL_cleanse(frame->message, sizeof(message_type));                                                                  \
        return status == BCAST_OK ? (int64_t)length : -(int64_t)status;                                                         \
    }
static int64_t pybcast_seal_drm(pybcast_frame *frame, const bcast_drm_key *key, const uint8_t *base, size_t base_length)
    PYBCAST_SEAL(bcast_drm_stkm_seal, bcast_drm_stkm, key)
static int64_t pybcast_seal_stkm(pybcast_frame *frame, const bcast_smartcard_key *key, const uint8_t *base, size_t base_length)
    PYBCAST_SEAL(bcast_smartcard_stkm_seal, bcast_smartcard_stkm, key)
static int64_t pybcast_seal_ltkm(pybcast_frame *frame, const bcast_smk *key, const uint8_t *base, size_t base_length)
    PYBCAST_SEAL(bcast_smartcard_ltkm_seal, bcast_smartcard_ltkm, key)
static int64_t pybcast_seal_verification(pybcast_frame *frame, const bcast_smk *key, const uint8_t *base, size_t base_length)
    PYBCAST_SEAL(bcast_verification_seal, bcast_verification, key, frame->answered)

/* Write the partial STKM frame->message into frame->out, where the TEK then stands in clear; otherwise as PYBCAST_SEAL. */
#define PYBCAST_PARTIAL(function, message_type)                                                                                 \
    {                                                                                                                           \
        size_t length = 0;                                                                                                      \
        const int status = function(frame->message, base, base_length, frame->out, frame->room, &length, &frame->error);        \
        OPENSSL_cleanse(frame->message, sizeof(message_type));                                                                  \
        return status == BCAST_OK ? (int64_t)length : -(int64_t)status;                                                         \
    }
static int64_t pybcast_partial_drm(pybcast_frame *frame, const uint8_t *base, size_t base_length)
    PYBCAST_PARTIAL(bcast_drm_stkm_partial, bcast_drm_stkm)
static int64_t pybcast_partial_stkm(pybcast_frame *frame, const uint8_t *base, size_t base_length)
    PYBCAST_PARTIAL(bcast_smartcard_stkm_partial, bcast_smartcard_stkm)

/* The context of job `i`: the only one, the i-th, or the one that `which` names.  NULL, which the batch refuses, beyond the table. */
static inline const void *pybcast_key(const uint8_t *keys, size_t key_count, size_t key_size, const uint32_t *which, size_t i)
{
    const size_t at = which != NULL ? which[i] : key_count == 1 ? 0 : i;
    return at < key_count ? keys + at * key_size : NULL;
}

#define PYBCAST_SEAL_JOBS(name, job, message_type, key_size)                                                                    \
    static void name(job *jobs, size_t count, const message_type *messages, const uint8_t *keys, size_t key_count,              \
                     const uint32_t *which, const uint8_t *base, uint32_t base_length)                                          \
    {                                                                                                                           \
        for (size_t i = 0; i < count; i++) {                                                                                    \
            jobs[i].key = pybcast_key(keys, key_count, key_size, which, i);                                                     \
            jobs[i].message = messages + i;                                                                                     \
            jobs[i].base = base;                                                                                                \
            jobs[i].base_length = base_length;                                                                                  \
        }                                                                                                                       \
    }
PYBCAST_SEAL_JOBS(pybcast_seal_jobs_drm, bcast_drm_seal_job, bcast_drm_stkm, BCAST_DRM_KEY_SIZE)
PYBCAST_SEAL_JOBS(pybcast_seal_jobs_stkm, bcast_smartcard_seal_job, bcast_smartcard_stkm, BCAST_SMARTCARD_KEY_SIZE)
PYBCAST_SEAL_JOBS(pybcast_seal_jobs_ltkm, bcast_ltkm_seal_job, bcast_smartcard_ltkm, BCAST_SMK_SIZE)

/* offsets == NULL: the messages stand one after the other.  A message that does not lie inside the data becomes NULL. */
#define PYBCAST_OPEN_JOBS(name, job, message_type, key_size)                                                                    \
    static void name(job *jobs, size_t count, message_type *messages, const uint8_t *keys, size_t key_count,                    \
                     const uint32_t *which, const uint8_t *data, size_t data_length, const uint32_t *offsets,                   \
                     const uint32_t *lengths, uint32_t lenient)                                                                 \
    {                                                                                                                           \
        size_t next = 0;                                                                                                        \
        for (size_t i = 0; i < count; i++) {                                                                                    \
            const size_t at = offsets != NULL ? offsets[i] : next;                                                              \
            const bool inside = at <= data_length && lengths[i] <= data_length - at;                                            \
            jobs[i].key = pybcast_key(keys, key_count, key_size, which, i);                                                     \
            jobs[i].data = inside ? data + at : NULL;                                                                           \
            jobs[i].data_length = lengths[i];                                                                                   \
            jobs[i].lenient = lenient;                                                                                          \
            jobs[i].message = messages + i;                                                                                     \
            next = at + lengths[i];                                                                                             \
        }                                                                                                                       \
    }
PYBCAST_OPEN_JOBS(pybcast_open_jobs_drm, bcast_drm_open_job, bcast_drm_stkm, BCAST_DRM_KEY_SIZE)
PYBCAST_OPEN_JOBS(pybcast_open_jobs_stkm, bcast_smartcard_open_job, bcast_smartcard_stkm, BCAST_SMARTCARD_KEY_SIZE)
PYBCAST_OPEN_JOBS(pybcast_open_jobs_ltkm, bcast_ltkm_open_job, bcast_smartcard_ltkm, BCAST_SMK_SIZE)

/* Contexts of `count` SMKs of 32 bytes, one after the other in `place`; none of them when it fails. */
static int pybcast_smks_init(uint8_t *place, size_t count, bcast_provider *provider, const uint8_t *smks)
{
    for (size_t i = 0; i < count; i++) {
        bcast_smk *key = NULL;
        const int status = bcast_smk_init(place + i * BCAST_SMK_SIZE, BCAST_SMK_SIZE, provider, smks + i * BCAST_SMK_LENGTH, &key);
        if (status != BCAST_OK) {
            while (i-- > 0)
                bcast_smk_wipe((bcast_smk *)(void *)(place + i * BCAST_SMK_SIZE));
            return status;
        }
    }
    return BCAST_OK;
}

/* step == 0: the same value for all. */
static void pybcast_column_set(uint8_t *to, size_t stride, const uint8_t *from, size_t step, size_t width, size_t count)
{
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * stride, from + i * step, width);
}

static void pybcast_column_get(uint8_t *to, const uint8_t *from, size_t stride, size_t width, size_t count)
{
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * width, from + i * stride, width);
}

static const char *pybcast_libcrypto_version(void) { return OpenSSL_version(OPENSSL_VERSION); }
static unsigned pybcast_libcrypto_number(void)
{
    return OPENSSL_version_major() << 16 | OPENSSL_version_minor() << 8 | OPENSSL_version_patch();
}

#endif
