/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MIKEY with pre-shared keys (RFC 3830, 4563, 5410; smartcard-profile 1-5, 7): what its kinds of message share.
 *
 * mikey.c walks and builds payloads; mikey_stkm.c, mikey_ltkm.c and mikey_verification.c are the kinds, each with a profile that
 * says which payloads it has, in which order, and what it adds to the checks.
 */
#ifndef BCAST_MIKEY_H
#define BCAST_MIKEY_H

#include "messages.h"

enum { VERSION = 1, COUNTER = 2, EMPTY_MAP = 1, EXT_KEY_ID = 3, EXT_OMA_BCAST = 5 };
enum { LTKM_SUBTYPE = 1, STKM_SUBTYPE = 2, REPORTING_SUBTYPE = 3 };
enum { TGK = 0, TEK = 2, TEK_SALT = 3, KV_NONE = 0, KV_INTERVAL = 2 };
enum { MANAGEMENT_VERSION = 0 }; /* confidence: guess (smartcard-profile 7, decisions 10, 12, 14) */

typedef struct parse parse;

typedef struct profile {
    uint8_t data_type;
    bool may_request_verification;
    bool initiator;        /* the first identity is IDi, the second IDr; else the only one is IDr */
    uint8_t order[6];      /* payloads other than EXT; SP may be left out */
    uint8_t key_ids;       /* Key IDs that must be there: the first of domain, SEK, TEK */
    uint8_t subtype;       /* of EXT 5; 0: no EXT 5 in this kind */
    uint8_t required;      /* EXT type that must be there; 0: none */
    bool key_id_extension; /* EXT 3 may be there */
    /* Management data behind the subtype octet (EXT 5); may the encrypted key data have this length; key data in clear. */
    bool (*management)(parse *m);
    bool (*key_length)(const parse *m, uint32_t length);
    bool (*key_data)(parse *m);
} profile;

/* A message being read: where its parts go, whichever kind it is. */
struct parse {
    reader *r;
    const profile *profile;
    uint32_t payload; /* index of the current one */
    uint8_t current, step, identities;
    uint32_t extensions; /* EXT 3 and 5, as bits */
    bool canonical, partial, v;
    /* what was found */
    uint8_t csb_id[4], key_domain_id[3], sek_id[4], tek_id[4], tek_id_length, encr_alg;
    uint32_t counter;
    bcast_span other_key_ids, id[2], encr_data, rand;
    uint8_t id_type[2];
    uint32_t mac_at;
    bcast_smartcard_stkm *stkm;
    bcast_smartcard_ltkm *ltkm;
    bcast_verification *answer;
};

/* --- reading ----------------------------------------------------------------------------------------------------------------- */

/* The whole message, payload by payload. */
bool mikey_read(parse *m);
/* Key data up to the key (RFC 3830 6.13); `types`: those allowed, as bits. */
bool key_data_head(reader *r, uint32_t types, unsigned kv, uint8_t *type, uint8_t key[16]);
/* The end of decrypted key data, which stood at `at` of the message: its offsets count from there. */
bool decrypted(reader *r, bool ok, uint32_t at);

/* --- building ---------------------------------------------------------------------------------------------------------------- */

enum { HEADER = 10, T_PAYLOAD = 6, RAND_PAYLOAD = 18, ID_HEAD = 4, EXT_HEAD = 4, KEMAC_HEAD = 4, DOMAIN_AND_SEK = 11, TEK_ID = 4 };

/* The field that makes a message too long: the first of the longest. */
typedef struct longest {
    uint32_t length;
    int scope, field;
    uint32_t index[2];
} longest;

void consider(longest *l, uint32_t length, int scope, int field, uint32_t first, uint32_t second);
void consider_items(longest *l, const source *s, bcast_span span, int scope, int field, uint32_t payload, uint32_t first);

/* The limit of a message: what the caller says, 0 meaning one card command (rules R20). */
static inline uint32_t limit_of(uint32_t max_size)
{
    return max_size == 0 ? BCAST_CARD_MESSAGE_MAX : max_size < BCAST_MESSAGE_MAX ? max_size : BCAST_MESSAGE_MAX;
}

/* Key IDs beyond the known: types above 2, whole items.  false and an error otherwise.  `known`: how many stand before them. */
bool check_key_ids(const source *s, bcast_span span, uint32_t known);

INLINE void write_header(writer *w, unsigned data_type, unsigned next, unsigned v, const uint8_t csb_id[4])
{
    put_u8(w, VERSION);
    put_u8(w, data_type);
    put_u8(w, next);
    put_u8(w, v << 7);
    put_bytes(w, csb_id, 4);
    put_u8(w, 0);
    put_u8(w, EMPTY_MAP);
}

INLINE void write_extension(writer *w, unsigned next, unsigned type, uint32_t length)
{
    put_u8(w, next);
    put_u8(w, type);
    put_u16(w, length);
}

INLINE void write_domain_and_sek(writer *w, const uint8_t domain[3], const uint8_t sek_id[4])
{
    put_u16(w, 0x0003);
    put_bytes(w, domain, 3);
    put_u16(w, 0x0104);
    put_bytes(w, sek_id, 4);
}

INLINE void write_counter(writer *w, unsigned next, uint32_t counter)
{
    put_u8(w, next);
    put_u8(w, COUNTER);
    put_u32(w, counter);
}

INLINE void write_identity(writer *w, unsigned next, unsigned type, const uint8_t *base, bcast_span id)
{
    put_u8(w, next);
    put_u8(w, type);
    put_u16(w, id.length);
    put_span(w, base, id);
}

/* --- mikey_management.c ------------------------------------------------------------------------------------------------------ */

/* Access criteria and terminal binding (smartcard-profile 5.3). */
bool tail_read(reader *r, bcast_management_tail *tail, bool criteria, bool binding);
/* Bytes of it; UINT32_MAX and an error when it cannot be written. */
uint32_t tail_measure(const source *s, const bcast_management_tail *tail);
uint32_t tail_size(const bcast_management_tail *tail);
void tail_write(writer *w, const bcast_management_tail *tail, const uint8_t *base);
void consider_tail(longest *l, const source *s, const bcast_management_tail *tail);

/* The SPE block (smartcard-profile 7). */
bool policy_read(reader *r, bcast_policy *policy);
uint32_t policy_measure(const source *s, const bcast_policy *policy);
uint32_t policy_size(const bcast_policy *policy);
void policy_write(writer *w, const bcast_policy *policy);

#endif
