/* SPDX-License-Identifier: Apache-2.0 */
/* The layouts, without keys: reading (left to right, see cursor.h), and writing in two steps - measure, which checks everything,
 * and write. */
#ifndef BCAST_MESSAGES_H
#define BCAST_MESSAGES_H

#include "cursor.h"

/* What is being sealed, and where what is wrong with it is told. */
typedef struct source {
    const uint8_t *base;
    size_t base_length;
    bcast_error *error;
} source;

/* A failure found while building; 0, for `return`. */
__attribute__((cold)) static inline uint32_t decline(const source *s, int code, int scope, int field, uint32_t first,
                                                     uint32_t second)
{
    *s->error = (bcast_error){code, BCAST_NO_OFFSET, (uint16_t)field, (uint16_t)scope, {first, second}};
    return 0;
}

/* Start reading `length` bytes; *error is cleared. */
static inline reader reading(const uint8_t *data, size_t length, uint32_t lenient, bcast_error *error)
{
    *error = (bcast_error){0, BCAST_NO_OFFSET, 0, 0, {0, 0}};
    return (reader){.data = data, .end = (uint32_t)length, .lenient = lenient, .error = error};
}

/* Nothing may follow, unless that is allowed. */
static inline bool finished(reader *r)
{
    if (left(r) == 0 || (r->lenient & BCAST_LENIENT_TRAILING_BYTES))
        return true;
    r->scope = BCAST_S_MESSAGE;
    return refuse(r, BCAST_E_TRAILING_BYTES, r->at, BCAST_F_NONE);
}

/* --- stkm_drm.c -------------------------------------------------------------------------------------------------------------- */

/* traffic_protection_protocol: DCF is not for streams and 4..7 are reserved (rules R17). */
static inline bool known_protocol(unsigned protocol) { return protocol <= BCAST_ISMACRYP; }

/* number_of_access_criteria_descriptors and the descriptors: the same in both profiles. */
bool criteria_read(reader *r, bcast_span *span, uint32_t *count, int which_index);
/* How many descriptors the span holds, -1 and an error when it does not hold together. */
int criteria_count(const source *s, bcast_span span, int scope, uint32_t payload);

bool drm_read(reader *r, bool partial, bcast_drm_stkm *message);

/*
 * What is remembered from the message before: the services of a batch are alike and change keys in the same second.  The first
 * eight octets of a bcast_drm_stkm decide where everything stands.
 */
typedef struct drm_memory {
    uint64_t shape; /* those octets */
    uint32_t size;  /* without access criteria; 0: nothing yet */
    uint32_t material_at;
    uint8_t flags[2]; /* as on the wire */
    uint8_t clock[5]; /* `time`, as on the wire */
    int64_t time;
} drm_memory;
/* Modified Julian Date 0, midnight: all zero on the wire, as the clock is. */
#define DRM_NOTHING ((drm_memory){.time = INT64_C(-15020) * 86400})

uint32_t drm_measure_anew(const source *s, const bcast_drm_stkm *message, drm_memory *memory);
static inline uint64_t drm_shape(const bcast_drm_stkm *m)
{
    uint64_t shape;
    _Static_assert(offsetof(bcast_drm_stkm, material_length) == 7 && offsetof(bcast_drm_stkm, id) == 8, "eight octets");
    memcpy(&shape, m, sizeof shape);
    return shape;
}
/* The size of the message; 0 and an error when it cannot be written.  Its MACs are its last fields. */
INLINE uint32_t drm_measure(const source *s, const bcast_drm_stkm *m, drm_memory *memory)
{
    if (LIKELY(drm_shape(m) == memory->shape && !(m->present & BCAST_DRM_CRITERIA)
               && (!(m->present & BCAST_DRM_TIMESTAMP) || m->timestamp == memory->time) && memory->size != 0))
        return memory->size;
    return drm_measure_anew(s, m, memory);
}
/* After drm_measure() of the same message.  Bytes of MACs are left as they are. */
void drm_write(uint8_t *out, const bcast_drm_stkm *message, const uint8_t *base, const uint8_t *encrypted_PEK,
               const drm_memory *memory);
static inline uint32_t drm_service_MAC(uint32_t size) { return size - BCAST_DRM_MAC_LENGTH; }
static inline uint32_t drm_programme_MAC(uint32_t size, unsigned present)
{
    return size - BCAST_DRM_MAC_LENGTH - (present & BCAST_DRM_SERVICE ? 4 + BCAST_DRM_MAC_LENGTH : 0U);
}

/* --- mikey_*.c --------------------------------------------------------------------------------------------------------------- */

enum {
    PAYLOAD_LAST = 0,
    PAYLOAD_KEMAC = 1,
    PAYLOAD_T = 5,
    PAYLOAD_ID = 6,
    PAYLOAD_V = 9,
    PAYLOAD_SP = 10,
    PAYLOAD_RAND = 11,
    PAYLOAD_ERR = 12,
    PAYLOAD_EXT = 21
};

enum { AES_CM_128 = 1, HMAC_SHA_1_160 = 1 };

/* Key data of the three kinds, in bytes (smartcard-profile 4.5). */
enum { TEK_DATA = 20, TEK_SALT_DATA = 36, SEK_DATA = 30, SEK_DATA_SHORT = 26 };

bool stkm_read(reader *r, bool partial, bcast_smartcard_stkm *message);
/* The decrypted key data of a STKM; `at`: where it stood in the message. */
bool stkm_key_read(const uint8_t *clear, uint32_t length, uint32_t at, uint32_t lenient, bcast_smartcard_stkm *message,
                   bcast_error *error);

/*
 * What is remembered from the message before, when nothing in it was of variable length.  The eight octets from has_salt on decide
 * the shape; what stands before the key is then the same but for the identifiers and the COUNTER.
 */
typedef struct stkm_memory {
    uint64_t shape; /* those octets */
    uint32_t size;  /* 0: nothing yet */
    uint32_t key_at;
    bool same; /* the message measured last has this shape */
    uint8_t head[48];
} stkm_memory;
#define STKM_NOTHING ((stkm_memory){.size = 0})

uint32_t stkm_measure_anew(const source *s, const bcast_smartcard_stkm *message, bool partial);
static inline uint64_t stkm_shape(const bcast_smartcard_stkm *m)
{
    uint64_t shape;
    _Static_assert(offsetof(bcast_smartcard_stkm, tail.has_binding) == offsetof(bcast_smartcard_stkm, has_salt) + 7,
                   "eight octets");
    memcpy(&shape, (const uint8_t *)m + offsetof(bcast_smartcard_stkm, has_salt), sizeof shape);
    return shape;
}
/* Key Group 0000 is forbidden, Key Number 0000 asks for "the current one": neither names a key (TS 33.246 6.3.2.1). */
INLINE bool names_key(const uint8_t sek_id[4]) { return load_u16(sek_id) != 0 && load_u16(sek_id + 2) != 0; }
/* A TEK ID is above 0 and never ffff (TS 33.246 6.3.3.1). */
INLINE bool names_tek(const uint8_t tek_id[2]) { return load_u16(tek_id) != 0 && load_u16(tek_id) != 0xffff; }

/* Is there nothing outside the shape but values of fixed length, and ids that may be? */
INLINE bool stkm_fixed(const bcast_smartcard_stkm *m)
{
    return m->tek_id_length == 2 && m->max_size == 0 && m->other_key_ids.length == 0 && names_key(m->sek_id) && names_tek(m->tek_id);
}
/* The size of the message; 0 and an error when it cannot be written. */
INLINE uint32_t stkm_measure(const source *s, const bcast_smartcard_stkm *m, bool partial, stkm_memory *memory)
{
    memory->same = stkm_shape(m) == memory->shape && memory->size != 0 && stkm_fixed(m) && !partial;
    return LIKELY(memory->same) ? memory->size : stkm_measure_anew(s, m, partial);
}
/* Key data up to the key (RFC 3830 6.13): last payload, type and no validity, 16 bytes. */
enum { TEK_HEAD = 0x00200010, TEK_SALT_HEAD = 0x00300010 };
uint32_t stkm_write_anew(uint8_t *out, const bcast_smartcard_stkm *message, const uint8_t *base, const uint8_t *csb_id,
                         bool partial, stkm_memory *memory);
/* After stkm_measure() of the same message.  Returns where the key data stands, in clear; MAC bytes are left as they are. */
INLINE uint32_t stkm_write(uint8_t *out, const bcast_smartcard_stkm *m, const uint8_t *base, const uint8_t *csb_id, bool partial,
                           stkm_memory *memory)
{
    if (UNLIKELY(!memory->same))
        return stkm_write_anew(out, m, base, csb_id, partial, memory);
    /* HDR 10, EXT 3 with heads 4 + 2, 2, 2; EXT 5; T before the head of KEMAC. */
    const uint32_t at = memory->key_at;
    memcpy(out, memory->head, sizeof memory->head);
    memcpy(out + 4, csb_id, 4);
    memcpy(out + 16, m->key_domain_id, 3);
    memcpy(out + 21, m->sek_id, 4);
    memcpy(out + 27, m->tek_id, 2);
    store_u32(out + at - 8, m->counter);
    writer w = {out + at};
    if (m->has_salt) {
        put_u32(&w, TEK_SALT_HEAD);
        put_bytes(&w, m->tek, BCAST_KEY_LENGTH);
        put_u16(&w, BCAST_SALT_LENGTH);
        put_bytes(&w, m->salt, BCAST_SALT_LENGTH);
    } else {
        put_u32(&w, TEK_HEAD);
        put_bytes(&w, m->tek, BCAST_KEY_LENGTH);
    }
    put_u8(&w, HMAC_SHA_1_160);
    return at;
}

bool ltkm_read(reader *r, bcast_smartcard_ltkm *message);
bool ltkm_key_read(const uint8_t *clear, uint32_t length, uint32_t at, uint32_t lenient, bcast_smartcard_ltkm *message,
                   bcast_error *error);
uint32_t ltkm_measure(const source *s, const bcast_smartcard_ltkm *message);
uint32_t ltkm_write(uint8_t *out, const bcast_smartcard_ltkm *message, const uint8_t *base);

bool verification_read(reader *r, bool reporting, bcast_verification *message);
uint32_t verification_measure(const source *s, const bcast_verification *message);
void verification_write(uint8_t *out, const bcast_verification *message, const uint8_t *base);

#endif
