/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the Smartcard Profile: MIKEY with pre-shared keys (RFC 3830, 4563, 5410; smartcard-profile 1-5, 7).
 *
 * One reader for all kinds: a profile says which payloads a kind has, in which order, and what it adds to the checks.
 */
#include "messages.h"

enum { VERSION = 1, COUNTER = 2, AES_CM_128 = 1, HMAC_SHA_1_160 = 1, EMPTY_MAP = 1, EXT_KEY_ID = 3, EXT_OMA_BCAST = 5 };
enum { LTKM_SUBTYPE = 1, STKM_SUBTYPE = 2, REPORTING_SUBTYPE = 3 };
enum { TGK = 0, TEK = 2, TEK_SALT = 3, KV_NONE = 0, KV_INTERVAL = 2 };
enum { MANAGEMENT_VERSION = 0 }; /* confidence: guess (smartcard-profile 7, decisions 10, 12, 14) */

typedef struct profile {
    uint8_t data_type;
    bool may_request_verification;
    uint8_t order[6];      /* payloads other than EXT; SP may be left out */
    uint8_t key_ids;       /* Key IDs that must be there: the first of domain, SEK, TEK */
    uint8_t subtype;       /* of EXT 5; 0: no EXT 5 in this kind */
    uint8_t required;      /* EXT type that must be there; 0: none */
    bool key_id_extension; /* EXT 3 may be there */
} profile;

static const profile stkm_profile = {0, false, {PAYLOAD_T, PAYLOAD_KEMAC}, 3, STKM_SUBTYPE, EXT_KEY_ID, true};
static const profile ltkm_profile = {
    0, true, {PAYLOAD_T, PAYLOAD_RAND, PAYLOAD_ID, PAYLOAD_ID, PAYLOAD_SP, PAYLOAD_KEMAC}, 2, LTKM_SUBTYPE, EXT_KEY_ID, true};
/* confidence: likely - order of the verification message (RFC 3830 3.1, smartcard-profile 4.4) */
static const profile verification_profile = {1, false, {PAYLOAD_T, PAYLOAD_ID, PAYLOAD_V}, 0, 0, 0, false};
static const profile reporting_profile = {1, false, {PAYLOAD_T, PAYLOAD_ID, PAYLOAD_V}, 0, REPORTING_SUBTYPE, EXT_OMA_BCAST, false};

/* A message being read: where its parts go, whichever kind it is. */
typedef struct parse {
    reader *r;
    const profile *profile;
    uint32_t payload; /* index of the current one */
    uint8_t current, step, identities;
    uint32_t seen;       /* payload numbers, as bits */
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
} parse;

/* --- the chain --------------------------------------------------------------------------------------------------------------- */

/* PSK mode knows none, KEMAC, T, ID, V, SP, RAND, ERR, EXT: others could not be skipped (rules R16). */
static bool known_payload(unsigned number)
{
    const uint32_t known = 1U << PAYLOAD_LAST | 1U << PAYLOAD_KEMAC | 1U << PAYLOAD_T | 1U << PAYLOAD_ID | 1U << PAYLOAD_V
                           | 1U << PAYLOAD_SP | 1U << PAYLOAD_RAND | 1U << PAYLOAD_ERR | 1U << PAYLOAD_EXT;
    return number < 32 && (known >> number & 1) != 0;
}

/* Every next_payload: may this payload come now? */
static bool follow(parse *m)
{
    reader *r = m->r;
    uint8_t number;
    if (!take_u8(r, BCAST_F_NEXT_PAYLOAD, &number))
        return false;
    const profile *f = m->profile;
    if (m->current == PAYLOAD_KEMAC || m->current == PAYLOAD_V) { /* the last: its MAC covers all before it */
        if (number != PAYLOAD_LAST || (f->required != 0 && !(m->extensions >> f->required & 1)))
            return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_NEXT_PAYLOAD);
    } else if (!known_payload(number)) {
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_NEXT_PAYLOAD);
    } else if (number != PAYLOAD_EXT) {
        if (f->order[m->step] == PAYLOAD_SP && number != PAYLOAD_SP)
            m->step++;
        if (number == PAYLOAD_LAST || number != f->order[m->step])
            return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_NEXT_PAYLOAD);
        m->step++;
    }
    m->current = number;
    return true;
}

static bool header(parse *m)
{
    reader *r = m->r;
    uint8_t byte;
    const uint8_t *p;
    if (!take_u8(r, BCAST_F_VERSION, &byte))
        return false;
    if (byte != VERSION)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_VERSION);
    if (!take_u8(r, BCAST_F_DATA_TYPE, &byte))
        return false;
    if (byte != m->profile->data_type)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_DATA_TYPE);
    if (!follow(m) || !take_u8(r, BCAST_F_V, &byte))
        return false;
    m->v = byte >> 7;
    if (m->v && !m->profile->may_request_verification)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_V);
    if (byte & 0x7f)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_PRF_FUNC);
    if (!take(r, 4, BCAST_F_CSB_ID, &p))
        return false;
    memcpy(m->csb_id, p, 4);
    if (m->partial && load_u32(p) != 0)
        return refuse(r, BCAST_E_BAD_VALUE, r->at - 4, BCAST_F_CSB_ID);
    if (!take_u8(r, BCAST_F_NUMBER_OF_CS, &byte))
        return false;
    if (byte != 0)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_NUMBER_OF_CS);
    if (!take_u8(r, BCAST_F_CS_ID_MAP_TYPE, &byte))
        return false;
    return byte == EMPTY_MAP || refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_CS_ID_MAP_TYPE);
}

/* --- management data --------------------------------------------------------------------------------------------------------- */

static bool read_tail(reader *r, bcast_management_tail *tail, bool criteria, bool binding)
{
    uint8_t length;
    tail->has_criteria = criteria;
    tail->has_binding = binding;
    if (criteria) {
        uint32_t count = 0;
        if (!criteria_read(r, &tail->access_criteria, &count, 1))
            return false;
        tail->number_of_access_criteria = (uint16_t)count;
    }
    /* confidence: guess - terminal binding block (smartcard-profile 5.3) */
    return !binding
           || (take_u32(r, BCAST_F_TERMINAL_BINDING_KEY_ID, &tail->terminal_binding_key_id)
               && take_u8(r, BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH, &length)
               && take_span(r, length, BCAST_F_PERMISSIONS_ISSUER_URI, &tail->permissions_issuer_uri));
}

/* confidence: guess - widths and order; the names are likely (smartcard-profile 5.3, decision 10) */
static bool read_stkm_management(reader *r, bcast_smartcard_stkm *s)
{
    uint8_t first, second;
    if (!take_u8(r, BCAST_F_PROTOCOL_VERSION, &first))
        return false;
    if (first >> 4 != MANAGEMENT_VERSION)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_PROTOCOL_VERSION);
    if (!take_u8(r, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL, &second))
        return false;
    if (!known_protocol(second >> 5))
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL);
    s->has_management = 1;
    s->protection_after_reception = first >> 2 & 3;
    s->traffic_protection_protocol = second >> 5;
    s->traffic_authentication_flag = second >> 4 & 1;
    s->traffic_key_lifetime = second & 15;
    return read_tail(r, &s->tail, first & 1, first >> 1 & 1);
}

/* confidence: own - framing of the SPE block (decision 12); its numbers are passed through (decision 13) */
static bool read_policy(reader *r, bcast_policy *policy)
{
    uint8_t flags;
    if (!take_u8(r, BCAST_F_SECURITY_POLICY_EXTENSION, &policy->security_policy_extension)
        || !take_u8(r, BCAST_F_COST_FLAG, &flags))
        return false;
    policy->present = (uint8_t)((flags & 0x80 ? BCAST_POLICY_COST : 0) | (flags & 0x40 ? BCAST_POLICY_PURSE : 0)
                                | (flags & 0x10 ? BCAST_POLICY_PLAYBACK : 0) | (flags & 0x04 ? BCAST_POLICY_TEK : 0));
    policy->purse_mode = flags >> 5 & 1;
    policy->playback_mode = flags >> 3 & 1;
    policy->tek_mode = flags >> 1 & 1;
    if (policy->purse_mode && !(policy->present & BCAST_POLICY_PURSE))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_PURSE_MODE);
    if (policy->playback_mode && !(policy->present & BCAST_POLICY_PLAYBACK))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_PLAYBACK_MODE);
    if (policy->tek_mode && !(policy->present & BCAST_POLICY_TEK))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_TEK_MODE);
    if (flags & 1)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
    return (!(policy->present & BCAST_POLICY_COST) || take_u32(r, BCAST_F_COST_VALUE, &policy->cost_value))
           && (!(policy->present & BCAST_POLICY_PURSE) || take_u32(r, BCAST_F_PURSE, &policy->purse))
           && (!(policy->present & BCAST_POLICY_PLAYBACK) || take_u32(r, BCAST_F_PLAYBACK, &policy->playback))
           && (!(policy->present & BCAST_POLICY_TEK) || take_u32(r, BCAST_F_TEK, &policy->tek));
}

/* confidence: guess - names likely, widths guess (smartcard-profile 5.4) */
static bool read_ltkm_management(reader *r, bcast_smartcard_ltkm *l, bool v)
{
    uint8_t flags;
    if (!take_u8(r, BCAST_F_PROTOCOL_VERSION, &flags))
        return false;
    if (flags >> 4 != MANAGEMENT_VERSION)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_PROTOCOL_VERSION);
    if ((flags & 4) && !v) /* rules R19 */
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_CONSUMPTION_REPORTING_FLAG);
    l->has_management = 1;
    l->has_policy = flags >> 3 & 1;
    l->consumption_reporting_flag = flags >> 2 & 1;
    if (l->has_policy) {
        r->scope = BCAST_S_POLICY;
        if (!read_policy(r, &l->policy))
            return false;
        r->scope = BCAST_S_MANAGEMENT;
    }
    return read_tail(r, &l->tail, flags >> 1 & 1, flags & 1);
}

/* confidence: own (rules R25, decision 14) */
static bool read_reporting(reader *r, bcast_verification *a)
{
    uint8_t byte;
    const uint8_t *p;
    const uint32_t start = r->at;
    if (!take_u8(r, BCAST_F_PROTOCOL_VERSION, &byte))
        return false;
    if (byte >> 4 != MANAGEMENT_VERSION)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_PROTOCOL_VERSION);
    if (byte & 15)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
    if (!take_u8(r, BCAST_F_STATUS, &byte) || !take_u8(r, BCAST_F_NUMBER_OF_ENTRIES, &a->number_of_entries))
        return false;
    r->scope = BCAST_S_ENTRY;
    for (uint32_t i = 0; i < a->number_of_entries; i++) {
        bcast_policy policy;
        r->index[1] = i;
        if (!take(r, 3, BCAST_F_ENTRY_KEY_DOMAIN_ID, &p) || !take(r, 2, BCAST_F_ENTRY_KEY_GROUP, &p)
            || !take(r, 2, BCAST_F_ENTRY_KEY_NUMBER, &p) || !take(r, 4, BCAST_F_TS_LOW, &p) || !take(r, 4, BCAST_F_TS_HIGH, &p)
            || !read_policy(r, &policy))
            return false;
    }
    r->scope = BCAST_S_MANAGEMENT;
    r->index[1] = 0;
    a->has_reporting = 1;
    a->reporting = (bcast_span){start, r->at - start};
    return true;
}

static bool oma_extension(parse *m)
{
    reader *r = m->r;
    uint8_t subtype;
    if (!take_u8(r, BCAST_F_SUBTYPE, &subtype))
        return false;
    if (subtype != m->profile->subtype)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_SUBTYPE);
    r->scope = BCAST_S_MANAGEMENT;
    const bool ok = subtype == STKM_SUBTYPE   ? read_stkm_management(r, m->stkm)
                    : subtype == LTKM_SUBTYPE ? read_ltkm_management(r, m->ltkm, m->v)
                                              : read_reporting(r, m->answer);
    r->scope = BCAST_S_PAYLOAD;
    return ok;
}

/* --- payloads ---------------------------------------------------------------------------------------------------------------- */

static bool key_ids(parse *m)
{
    reader *r = m->r;
    uint8_t *const values[3] = {m->key_domain_id, m->sek_id, m->tek_id};
    uint8_t type, length;
    const uint8_t *p;
    m->other_key_ids = (bcast_span){0, 0};
    for (uint32_t i = 0; left(r) > 0 || i < m->profile->key_ids; i++) {
        const bool known = i < m->profile->key_ids;
        r->index[1] = i;
        if (!known && m->other_key_ids.offset == 0)
            m->other_key_ids.offset = r->at;
        if (!take_u8(r, BCAST_F_KEY_ID_TYPE, &type))
            return false;
        if (known ? type != i : type <= 2)
            return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_KEY_ID_TYPE);
        if (!take_u8(r, BCAST_F_KEY_ID_LENGTH, &length))
            return false;
        if (known) {
            const bool fits = type == 0   ? length == 3
                              : type == 1 ? length == 4
                                          : length == 2 || (length == 4 && (r->lenient & BCAST_LENIENT_MTK_ID_4));
            if (!fits)
                return refuse_last(r, BCAST_E_BAD_LENGTH, BCAST_F_KEY_ID_LENGTH);
        }
        if (!take(r, length, BCAST_F_KEY_ID_VALUE, &p))
            return false;
        if (known) {
            memcpy(values[type], p, length);
            if (type == 2)
                m->tek_id_length = length;
        } else {
            m->other_key_ids.length = r->at - m->other_key_ids.offset;
        }
    }
    r->index[1] = 0;
    return true;
}

static bool extension(parse *m)
{
    reader *r = m->r;
    const profile *f = m->profile;
    uint8_t type;
    uint16_t length;
    if (m->step != 0) /* behind T */
        m->canonical = false;
    if (!follow(m) || !take_u8(r, BCAST_F_EXT_TYPE, &type))
        return false;
    if (type == EXT_KEY_ID || type == EXT_OMA_BCAST) {
        const bool allowed = type == EXT_KEY_ID ? f->key_id_extension : f->subtype != 0;
        if ((m->extensions >> type & 1) || !allowed)
            return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_EXT_TYPE);
        if (type == EXT_KEY_ID && (m->extensions >> EXT_OMA_BCAST & 1))
            m->canonical = false;
        m->extensions |= 1U << type;
    } else {
        m->canonical = false;
    }
    if (!take_u16(r, BCAST_F_LENGTH, &length))
        return false;
    if (type == EXT_OMA_BCAST && length == 0)
        return refuse(r, BCAST_E_BAD_LENGTH, r->at - 2, BCAST_F_LENGTH);
    if (left(r) < length)
        return refuse(r, BCAST_E_TRUNCATED, r->at, BCAST_F_DATA);
    const uint32_t outer = r->end;
    r->end = r->at + length;
    if (type != EXT_KEY_ID && type != EXT_OMA_BCAST)
        r->at = r->end;
    else if (!(type == EXT_KEY_ID ? key_ids(m) : oma_extension(m)))
        return false;
    if (left(r) > 0)
        return refuse(r, BCAST_E_TRAILING_BYTES, r->at, BCAST_F_DATA);
    r->end = outer;
    return true;
}

static bool timestamp(parse *m)
{
    reader *r = m->r;
    uint8_t type;
    if (!follow(m) || !take_u8(r, BCAST_F_TS_TYPE, &type))
        return false;
    if (type != COUNTER)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_TS_TYPE);
    return take_u32(r, BCAST_F_TS_VALUE, &m->counter);
}

static bool rand_payload(parse *m)
{
    reader *r = m->r;
    uint8_t length;
    if (!follow(m) || !take_u8(r, BCAST_F_RAND_LEN, &length))
        return false;
    if (length != 16)
        return refuse_last(r, BCAST_E_BAD_LENGTH, BCAST_F_RAND_LEN);
    return take_span(r, 16, BCAST_F_RAND, &m->rand);
}

static bool identity(parse *m)
{
    reader *r = m->r;
    uint8_t type;
    uint16_t length;
    const unsigned which = m->identities++ & 1;
    if (!follow(m) || !take_u8(r, BCAST_F_ID_TYPE, &type))
        return false;
    if (type > 1) /* NAI, URI */
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_ID_TYPE);
    m->id_type[which] = type;
    return take_u16(r, BCAST_F_ID_LEN, &length) && take_span(r, length, BCAST_F_ID, &m->id[which]);
}

static bool security_policy(parse *m)
{
    reader *r = m->r;
    uint8_t byte;
    uint16_t length;
    const uint8_t *p;
    m->canonical = false;
    if (!follow(m) || !take_u8(r, BCAST_F_POLICY_NO, &byte) || !take_u8(r, BCAST_F_PROT_TYPE, &byte)
        || !take_u16(r, BCAST_F_PARAM_LENGTH, &length))
        return false;
    if (left(r) < length)
        return refuse(r, BCAST_E_TRUNCATED, r->at, BCAST_F_PARAMS);
    const uint32_t outer = r->end;
    r->end = r->at + length;
    for (uint32_t i = 0; left(r) > 0; i++) {
        r->index[1] = i;
        if (!take_u8(r, BCAST_F_PARAM_TYPE, &byte) || !take_u8(r, BCAST_F_PARAM_LEN, &byte)
            || !take(r, byte, BCAST_F_PARAM_VALUE, &p))
            return false;
    }
    r->index[1] = 0;
    r->end = outer;
    return true;
}

static bool tek_data(reader *r, bcast_smartcard_stkm *s);

static bool kemac_lengths(parse *m, uint16_t length)
{
    if (m->stkm == NULL)
        return length == SEK_DATA || (length == SEK_DATA_SHORT && (m->r->lenient & BCAST_LENIENT_INTERVAL_2));
    if (m->stkm->has_management) /* rules R18 */
        return length == (m->stkm->traffic_protection_protocol == BCAST_SRTP ? TEK_SALT_DATA : TEK_DATA);
    return length == TEK_DATA || length == TEK_SALT_DATA;
}

static bool kemac(parse *m)
{
    reader *r = m->r;
    uint8_t alg;
    uint16_t length;
    const uint8_t *p;
    if (!follow(m) || !take_u8(r, BCAST_F_ENCR_ALG, &m->encr_alg))
        return false;
    if (m->encr_alg > AES_CM_128 || (m->stkm == NULL || m->partial ? m->encr_alg != (m->stkm == NULL) : false))
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_ENCR_ALG);
    if (m->encr_alg == 0 && load_u32(m->csb_id) != 0) /* NULL is a partial STKM's, and that has no CSB ID yet (rules R11, R13) */
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_ENCR_ALG);
    if (!take_u16(r, BCAST_F_ENCR_DATA_LEN, &length))
        return false;
    if (!kemac_lengths(m, length))
        return refuse(r, BCAST_E_BAD_LENGTH, r->at - 2, BCAST_F_ENCR_DATA_LEN);
    m->encr_data = (bcast_span){r->at, length};
    if (m->encr_alg != 0) {
        if (!take(r, length, BCAST_F_ENCR_DATA, &p))
            return false;
    } else {
        if (left(r) < length)
            return refuse(r, BCAST_E_TRUNCATED, r->at, BCAST_F_KEY_DATA);
        const uint32_t outer = r->end;
        r->end = r->at + length;
        r->scope = BCAST_S_KEY_DATA;
        if (!tek_data(r, m->stkm))
            return false;
        r->scope = BCAST_S_PAYLOAD;
        if (left(r) > 0)
            return refuse(r, BCAST_E_TRAILING_BYTES, r->at, BCAST_F_KEY_DATA);
        r->end = outer;
    }
    if (!take_u8(r, BCAST_F_MAC_ALG, &alg))
        return false;
    if (alg != m->encr_alg) /* encrypted and authenticated, or neither (rules R11) */
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_MAC_ALG);
    m->mac_at = r->at;
    return alg == 0 || take(r, BCAST_MIKEY_MAC_LENGTH, BCAST_F_MAC, &p);
}

static bool v_payload(parse *m)
{
    reader *r = m->r;
    uint8_t alg;
    const uint8_t *p;
    if (!follow(m) || !take_u8(r, BCAST_F_AUTH_ALG, &alg))
        return false;
    if (alg != HMAC_SHA_1_160)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_AUTH_ALG);
    m->mac_at = r->at;
    return take(r, BCAST_MIKEY_MAC_LENGTH, BCAST_F_VER_DATA, &p);
}

static bool read_message(parse *m)
{
    reader *r = m->r;
    if (!header(m))
        return false;
    r->scope = BCAST_S_PAYLOAD;
    for (; m->current != PAYLOAD_LAST; m->payload++) {
        bool ok = false;
        r->index[0] = m->payload;
        switch (m->current) { /* follow() lets no other number pass */
        case PAYLOAD_KEMAC: ok = kemac(m); break;
        case PAYLOAD_T: ok = timestamp(m); break;
        case PAYLOAD_ID: ok = identity(m); break;
        case PAYLOAD_V: ok = v_payload(m); break;
        case PAYLOAD_SP: ok = security_policy(m); break;
        case PAYLOAD_RAND: ok = rand_payload(m); break;
        case PAYLOAD_EXT: ok = extension(m); break;
        default: break;
        }
        if (!ok)
            return false;
    }
    r->scope = BCAST_S_MESSAGE;
    r->index[0] = 0;
    return finished(r);
}

/* --- kinds ------------------------------------------------------------------------------------------------------------------- */

/*
 * The shape that every builder here gives a STKM: no payload and no Key ID more than needed, management data of two octets or none.
 * It is recognised at a glance.  Anything else, wrong or right, is for the reader below: this one refuses nothing.
 */
static bool stkm_plain(const reader *r, bcast_smartcard_stkm *s)
{
    const uint8_t *d = r->data;
    if (r->end < 80 || load_u32(d) != 0x01001500 || load_u32(d + 8) >> 16 != 0x0001 || load_u32(d + 11) != 0x03000f00 || d[15] != 3
        || load_u16(d + 19) != 0x0104 || load_u16(d + 25) != 0x0202)
        return false;
    const bool management = d[10] == PAYLOAD_EXT;
    const uint8_t *t = d + (management ? 36 : 29);
    const uint32_t length = load_u16(t + 8);
    if ((!management && d[10] != PAYLOAD_T) || load_u16(t) != 0x0102 || load_u16(t + 6) != 0x0001
        || (length != TEK_DATA && length != TEK_SALT_DATA))
        return false;
    const uint32_t encr_data = (uint32_t)(t - d) + 10, mac = encr_data + length + 1;
    if (r->end != mac + BCAST_MIKEY_MAC_LENGTH || d[mac - 1] != HMAC_SHA_1_160)
        return false;
    if (management) {
        const unsigned first = d[34], second = d[35];
        if (load_u32(d + 29) != 0x05050003 || d[33] != STKM_SUBTYPE || (first & 0xf3) != 0 || !known_protocol(second >> 5)
            || length != (second >> 5 == BCAST_SRTP ? TEK_SALT_DATA : TEK_DATA))
            return false;
        s->has_management = 1;
        s->protection_after_reception = (uint8_t)(first >> 2);
        s->traffic_protection_protocol = (uint8_t)(second >> 5);
        s->traffic_authentication_flag = second >> 4 & 1;
        s->traffic_key_lifetime = second & 15;
    }
    s->counter = load_u32(t + 2);
    memcpy(s->csb_id, d + 4, 4);
    memcpy(s->key_domain_id, d + 16, 3);
    memcpy(s->sek_id, d + 21, 4);
    memcpy(s->tek_id, d + 27, 2);
    s->tek_id_length = 2;
    s->canonical = 1;
    s->size = r->end;
    s->encr_data = (bcast_span){encr_data, length};
    s->mac_at = mac;
    return true;
}

bool stkm_read(reader *r, bool partial, bcast_smartcard_stkm *s)
{
    if (LIKELY(!partial && stkm_plain(r, s)))
        return true;
    parse m = {.r = r, .profile = &stkm_profile, .canonical = true, .partial = partial, .stkm = s};
    if (!read_message(&m))
        return false;
    s->counter = m.counter;
    memcpy(s->csb_id, m.csb_id, 4);
    memcpy(s->key_domain_id, m.key_domain_id, 3);
    memcpy(s->sek_id, m.sek_id, 4);
    memcpy(s->tek_id, m.tek_id, 4);
    s->tek_id_length = m.tek_id_length;
    s->other_key_ids = m.other_key_ids;
    s->partial = m.encr_alg == 0;
    s->canonical = m.canonical;
    s->size = r->at;
    s->encr_data = m.encr_data;
    s->mac_at = m.mac_at;
    return true;
}

bool ltkm_read(reader *r, bcast_smartcard_ltkm *l)
{
    parse m = {.r = r, .profile = &ltkm_profile, .canonical = true, .ltkm = l};
    if (!read_message(&m))
        return false;
    l->counter = m.counter;
    memcpy(l->csb_id, m.csb_id, 4);
    memcpy(l->rand, r->data + m.rand.offset, 16);
    memcpy(l->key_domain_id, m.key_domain_id, 3);
    memcpy(l->sek_id, m.sek_id, 4);
    l->verification_requested = m.v;
    l->idi = m.id[0];
    l->idr = m.id[1];
    l->idi_type = m.id_type[0];
    l->idr_type = m.id_type[1];
    l->other_key_ids = m.other_key_ids;
    l->canonical = m.canonical;
    l->size = r->at;
    l->encr_data = m.encr_data;
    l->mac_at = m.mac_at;
    return true;
}

bool verification_read(reader *r, bool reporting, bcast_verification *a)
{
    parse m = {.r = r, .profile = reporting ? &reporting_profile : &verification_profile, .canonical = true, .answer = a};
    if (!read_message(&m))
        return false;
    a->counter = m.counter;
    memcpy(a->csb_id, m.csb_id, 4);
    a->idr = m.id[0];
    a->idr_type = m.id_type[0];
    a->canonical = m.canonical;
    a->size = r->at;
    a->mac_at = m.mac_at;
    return true;
}

/* --- key data ---------------------------------------------------------------------------------------------------------------- */

static bool key_data_head(reader *r, uint32_t types, unsigned kv, uint8_t *type, uint8_t key[16])
{
    uint8_t byte;
    uint16_t length;
    *type = 0;
    if (!take_u8(r, BCAST_F_NEXT_PAYLOAD, &byte))
        return false;
    if (byte != PAYLOAD_LAST)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_NEXT_PAYLOAD);
    if (!take_u8(r, BCAST_F_TYPE, &byte))
        return false;
    *type = byte >> 4;
    if (!(types >> *type & 1))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_TYPE);
    if ((byte & 15) != kv)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_KV);
    if (!take_u16(r, BCAST_F_KEY_LEN, &length))
        return false;
    if (length != BCAST_KEY_LENGTH)
        return refuse(r, BCAST_E_BAD_LENGTH, r->at - 2, BCAST_F_KEY_LEN);
    return take_copy(r, BCAST_KEY_LENGTH, BCAST_F_KEY, key);
}

static bool tek_data(reader *r, bcast_smartcard_stkm *s)
{
    uint8_t type;
    uint16_t length;
    if (!key_data_head(r, 1U << TEK | 1U << TEK_SALT, KV_NONE, &type, s->tek))
        return false;
    if (type == TEK)
        return true;
    if (!take_u16(r, BCAST_F_SALT_LEN, &length))
        return false;
    if (length != BCAST_SALT_LENGTH)
        return refuse(r, BCAST_E_BAD_LENGTH, r->at - 2, BCAST_F_SALT_LEN);
    s->has_salt = 1;
    return take_copy(r, BCAST_SALT_LENGTH, BCAST_F_SALT, s->salt);
}

static bool sek_data(reader *r, bcast_smartcard_ltkm *l)
{
    uint8_t length;
    uint32_t *const bounds[2] = {&l->ts_low, &l->ts_high};
    if (!key_data_head(r, 1U << TGK | 1U << TEK, KV_INTERVAL, &l->key_data_type, l->sek))
        return false;
    for (int i = 0; i < 2; i++) {
        const uint8_t *p;
        if (!take_u8(r, i == 0 ? BCAST_F_VF_LEN : BCAST_F_VT_LEN, &length))
            return false;
        const bool fits =
            i == 0 ? length == 4 || (length == 2 && (r->lenient & BCAST_LENIENT_INTERVAL_2)) : length == l->interval_length;
        if (!fits)
            return refuse_last(r, BCAST_E_BAD_LENGTH, i == 0 ? BCAST_F_VF_LEN : BCAST_F_VT_LEN);
        l->interval_length = length;
        if (!take(r, length, i == 0 ? BCAST_F_VF : BCAST_F_VT, &p))
            return false;
        *bounds[i] = length == 4 ? load_u32(p) : load_u16(p);
    }
    return true;
}

/* Key data stands at `at` of the message: that is where its offsets count from. */
static bool decrypted(reader *r, bool ok, uint32_t at)
{
    if (ok && left(r) > 0 && !(r->lenient & BCAST_LENIENT_TRAILING_BYTES)) {
        r->scope = BCAST_S_ENCR_DATA_END;
        ok = refuse(r, BCAST_E_TRAILING_BYTES, r->at, BCAST_F_NONE);
    }
    if (!ok)
        r->error->offset += at;
    return ok;
}

bool stkm_key_read(const uint8_t *clear, uint32_t length, uint32_t at, uint32_t lenient, bcast_smartcard_stkm *s,
                   bcast_error *error)
{
    const uint32_t head = load_u32(clear);
    if (LIKELY(head == 0x00200010 && length == TEK_DATA)) {
        memcpy(s->tek, clear + 4, BCAST_KEY_LENGTH);
        return true;
    }
    if (LIKELY(head == 0x00300010 && length == TEK_SALT_DATA && load_u16(clear + TEK_DATA) == BCAST_SALT_LENGTH)) {
        memcpy(s->tek, clear + 4, BCAST_KEY_LENGTH);
        memcpy(s->salt, clear + TEK_DATA + 2, BCAST_SALT_LENGTH);
        s->has_salt = 1;
        return true;
    }
    reader r = reading(clear, length, lenient, error);
    r.scope = BCAST_S_ENCR_DATA;
    return decrypted(&r, tek_data(&r, s), at);
}

bool ltkm_key_read(const uint8_t *clear, uint32_t length, uint32_t at, uint32_t lenient, bcast_smartcard_ltkm *l,
                   bcast_error *error)
{
    reader r = reading(clear, length, lenient, error);
    r.scope = BCAST_S_ENCR_DATA;
    return decrypted(&r, sek_data(&r, l), at);
}

/* --- measuring --------------------------------------------------------------------------------------------------------------- */

/* The field that makes a message too long: the first of the longest. */
typedef struct longest {
    uint32_t length;
    int scope, field;
    uint32_t index[2];
} longest;

static void consider(longest *l, uint32_t length, int scope, int field, uint32_t first, uint32_t second)
{
    if (length > l->length)
        *l = (longest){length, scope, field, {first, second}};
}

static void consider_items(longest *l, const source *s, bcast_span span, int scope, int field, uint32_t payload, uint32_t first)
{
    bcast_item item;
    for (uint32_t i = first; bcast_item_next(s->base, &span, &item) == 1; i++)
        consider(l, item.length, scope, field, payload, i);
}

static void consider_tail(longest *l, const source *s, const bcast_management_tail *tail)
{
    if (tail->has_criteria)
        consider_items(l, s, tail->access_criteria, BCAST_S_MANAGEMENT, BCAST_F_CRITERION_VALUE, 1, 0);
    if (tail->has_binding)
        consider(l, tail->permissions_issuer_uri.length, BCAST_S_MANAGEMENT, BCAST_F_PERMISSIONS_ISSUER_URI, 1, 0);
}

/* The limit of a message: what the caller says, 0 meaning one card command (rules R20). */
static uint32_t limit_of(uint32_t max_size)
{
    return max_size == 0 ? BCAST_CARD_MESSAGE_MAX : max_size < BCAST_MESSAGE_MAX ? max_size : BCAST_MESSAGE_MAX;
}

/* Bytes of the tail of management data; UINT32_MAX and an error when it cannot be written. */
static uint32_t measure_tail(const source *s, const bcast_management_tail *tail)
{
    uint32_t size = 0;
    if (tail->has_criteria > 1)
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_ACCESS_CRITERIA_FLAG, 1, 0) - 1;
    if (tail->has_binding > 1)
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_TERMINAL_BINDING_FLAG, 1, 0) - 1;
    if (tail->has_criteria) {
        if (criteria_count(s, tail->access_criteria, BCAST_S_MANAGEMENT, 1) < 0)
            return UINT32_MAX;
        size += 1 + tail->access_criteria.length;
    }
    if (tail->has_binding) {
        if (!span_fits(tail->permissions_issuer_uri, s->base_length))
            return decline(s, BCAST_E_SPAN, BCAST_S_MANAGEMENT, BCAST_F_PERMISSIONS_ISSUER_URI, 1, 0) - 1;
        if (tail->permissions_issuer_uri.length > 255)
            return decline(s, BCAST_E_BAD_LENGTH, BCAST_S_MANAGEMENT, BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH, 1, 0) - 1;
        size += 5 + tail->permissions_issuer_uri.length;
    }
    return size;
}

/* Key IDs beyond the known: types above 2, whole items.  false and an error otherwise.  `known`: how many stand before them. */
static bool check_key_ids(const source *s, bcast_span span, uint32_t known)
{
    bcast_span rest = span;
    bcast_item item;
    if (!span_fits(span, s->base_length) || span.length > BCAST_MESSAGE_MAX)
        return decline(s, BCAST_E_SPAN, BCAST_S_MESSAGE, BCAST_F_OTHER_KEY_IDS, 0, 0);
    uint32_t i = known;
    for (; bcast_item_next(s->base, &rest, &item) == 1; i++)
        if (item.tag <= 2)
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_PAYLOAD, BCAST_F_KEY_ID_TYPE, 0, i);
    return rest.length == 0 || decline(s, BCAST_E_BAD_LENGTH, BCAST_S_PAYLOAD, BCAST_F_KEY_ID_LENGTH, 0, i);
}

enum { HEADER = 10, T_PAYLOAD = 6, RAND_PAYLOAD = 18, ID_HEAD = 4, EXT_HEAD = 4, KEMAC_HEAD = 4, DOMAIN_AND_SEK = 11, TEK_ID = 4 };

uint32_t stkm_measure(const source *s, const bcast_smartcard_stkm *m, bool partial)
{
    /* The common one: nothing of variable length, nothing wrong.  Whatever is not is looked at in order, below. */
    const unsigned srtp = m->traffic_protection_protocol == BCAST_SRTP;
    const bool other = ((m->has_salt | m->has_management) > 1) | (m->tek_id_length != 2) | (m->other_key_ids.length != 0)
                       | (m->max_size != 0) | partial
                       | (m->has_management
                          & ((m->protection_after_reception > 3) | !known_protocol(m->traffic_protection_protocol)
                             | (m->traffic_authentication_flag > 1) | (m->traffic_key_lifetime > 15) | (srtp != m->has_salt)
                             | m->tail.has_criteria | m->tail.has_binding));
    if (LIKELY(!other))
        return 80U + (TEK_SALT_DATA - TEK_DATA) * m->has_salt + 7U * m->has_management;

    if (UNLIKELY((m->has_salt > 1) | (m->has_management > 1)))
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, m->has_salt > 1 ? BCAST_F_SALT : BCAST_F_MANAGEMENT, 0, 0);
    if (UNLIKELY(m->has_management && (m->traffic_protection_protocol == BCAST_SRTP) != m->has_salt)) /* rules R18 */
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_SALT, 0, 0);
    if (UNLIKELY(m->tek_id_length != 2))
        return decline(s, BCAST_E_BAD_LENGTH, BCAST_S_PAYLOAD, BCAST_F_KEY_ID_LENGTH, 0, 2);
    if (UNLIKELY(m->other_key_ids.length != 0) && !check_key_ids(s, m->other_key_ids, 3))
        return 0;
    uint32_t size = HEADER + EXT_HEAD + DOMAIN_AND_SEK + TEK_ID + m->other_key_ids.length + T_PAYLOAD + KEMAC_HEAD
                    + (m->has_salt ? TEK_SALT_DATA : TEK_DATA) + 1U + (partial ? 0U : BCAST_MIKEY_MAC_LENGTH);
    if (m->has_management) {
        if (UNLIKELY(m->protection_after_reception > 3))
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_PROTECTION_AFTER_RECEPTION, 1, 0);
        if (UNLIKELY(!known_protocol(m->traffic_protection_protocol)))
            return decline(s, BCAST_E_UNSUPPORTED, BCAST_S_MANAGEMENT, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL, 1, 0);
        if (UNLIKELY(m->traffic_authentication_flag > 1))
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_TRAFFIC_AUTHENTICATION_FLAG, 1, 0);
        if (UNLIKELY(m->traffic_key_lifetime > 15))
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_TRAFFIC_KEY_LIFETIME, 1, 0);
        size += EXT_HEAD + 1U + 2U;
        if (m->tail.has_criteria | m->tail.has_binding) {
            const uint32_t tail = measure_tail(s, &m->tail);
            if (tail == UINT32_MAX)
                return 0;
            size += tail;
        }
    }
    if (UNLIKELY(size > limit_of(m->max_size))) {
        longest l = {0};
        consider_items(&l, s, m->other_key_ids, BCAST_S_PAYLOAD, BCAST_F_KEY_ID_VALUE, 0, 3);
        if (m->has_management)
            consider_tail(&l, s, &m->tail);
        consider(&l, m->has_salt ? TEK_SALT_DATA : TEK_DATA, BCAST_S_PAYLOAD, partial ? BCAST_F_KEY_DATA : BCAST_F_ENCR_DATA,
                 m->has_management ? 3 : 2, 0);
        return decline(s, BCAST_E_BAD_LENGTH, l.scope, l.field, l.index[0], l.index[1]);
    }
    return size;
}

static uint32_t measure_policy(const source *s, const bcast_policy *p)
{
    const int scope = BCAST_S_POLICY;
    if (p->present > 15)
        return decline(s, BCAST_E_ARGUMENT, scope, BCAST_F_NONE, 1, 0);
    if (p->purse_mode > ((p->present & BCAST_POLICY_PURSE) != 0))
        return decline(s, BCAST_E_BAD_VALUE, scope, BCAST_F_PURSE_MODE, 1, 0);
    if (p->playback_mode > ((p->present & BCAST_POLICY_PLAYBACK) != 0))
        return decline(s, BCAST_E_BAD_VALUE, scope, BCAST_F_PLAYBACK_MODE, 1, 0);
    if (p->tek_mode > ((p->present & BCAST_POLICY_TEK) != 0))
        return decline(s, BCAST_E_BAD_VALUE, scope, BCAST_F_TEK_MODE, 1, 0);
    uint32_t size = 2;
    for (int i = 0; i < 4; i++)
        size += (p->present >> i & 1) * 4U;
    return size;
}

uint32_t ltkm_measure(const source *s, const bcast_smartcard_ltkm *m)
{
    static const uint8_t no_key[BCAST_KEY_LENGTH];
    const uint32_t identity_at = m->has_management ? 4 : 3;
    if (m->ts_low == UINT32_MAX && m->ts_high == 0) { /* a withdrawal, tested before any window (rules R3, R4) */
        if (UNLIKELY(memcmp(m->sek, no_key, sizeof no_key) != 0))
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_SEK, 0, 0);
    } else if (UNLIKELY(m->ts_high - m->ts_low > BCAST_WINDOW_MAX)) {
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_TS_HIGH, 0, 0);
    }
    if (UNLIKELY(m->interval_length != 4))
        return decline(s, BCAST_E_BAD_LENGTH, BCAST_S_MESSAGE, BCAST_F_INTERVAL_LENGTH, 0, 0);
    if (UNLIKELY(m->key_data_type != TGK
                 && m->key_data_type != TEK)) /* confidence: own - TGK; which a card expects is unknown (decision 1) */
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_KEY_DATA_TYPE, 0, 0);
    if (UNLIKELY((m->sek_id[2] | m->sek_id[3])
                 == 0)) /* confidence: likely - 0 asks for "the current one" (smartcard-profile 4.3) */
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_SEK_ID, 0, 0);
    if (UNLIKELY(m->verification_requested > 1))
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_V, 0, 0);
    if (UNLIKELY(m->other_key_ids.length != 0) && !check_key_ids(s, m->other_key_ids, 2))
        return 0;
    if (UNLIKELY(!span_fits(m->idi, s->base_length) || m->idi.length > BCAST_MESSAGE_MAX))
        return decline(s, BCAST_E_SPAN, BCAST_S_MESSAGE, BCAST_F_IDI, 0, 0);
    if (UNLIKELY(!span_fits(m->idr, s->base_length) || m->idr.length > BCAST_MESSAGE_MAX))
        return decline(s, BCAST_E_SPAN, BCAST_S_MESSAGE, BCAST_F_IDR, 0, 0);
    uint32_t size = HEADER + EXT_HEAD + DOMAIN_AND_SEK + m->other_key_ids.length + T_PAYLOAD + RAND_PAYLOAD + 2 * ID_HEAD
                    + m->idi.length + m->idr.length + KEMAC_HEAD + SEK_DATA + 1U + BCAST_MIKEY_MAC_LENGTH;
    if (m->has_management) {
        if (UNLIKELY(m->has_management > 1 || m->has_policy > 1))
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_SECURITY_POLICY_EXT_FLAG, 1, 0);
        if (UNLIKELY(m->consumption_reporting_flag > m->verification_requested)) /* rules R19 */
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_CONSUMPTION_REPORTING_FLAG, 1, 0);
        const uint32_t policy = m->has_policy ? measure_policy(s, &m->policy) : 0;
        if (m->has_policy && policy == 0)
            return 0;
        const uint32_t tail = measure_tail(s, &m->tail);
        if (tail == UINT32_MAX)
            return 0;
        size += EXT_HEAD + 1U + 1U + policy + tail;
    }
    if (UNLIKELY((m->idi_type > 1) | (m->idr_type > 1)))
        return decline(s, BCAST_E_UNSUPPORTED, BCAST_S_PAYLOAD, BCAST_F_ID_TYPE, identity_at + (m->idi_type <= 1), 0);
    if (UNLIKELY(size > limit_of(m->max_size))) {
        longest l = {0};
        consider_items(&l, s, m->other_key_ids, BCAST_S_PAYLOAD, BCAST_F_KEY_ID_VALUE, 0, 2);
        if (m->has_management)
            consider_tail(&l, s, &m->tail);
        consider(&l, 16, BCAST_S_PAYLOAD, BCAST_F_RAND, identity_at - 1, 0);
        consider(&l, m->idi.length, BCAST_S_PAYLOAD, BCAST_F_ID, identity_at, 0);
        consider(&l, m->idr.length, BCAST_S_PAYLOAD, BCAST_F_ID, identity_at + 1, 0);
        consider(&l, SEK_DATA, BCAST_S_PAYLOAD, BCAST_F_ENCR_DATA, identity_at + 2, 0);
        return decline(s, BCAST_E_BAD_LENGTH, l.scope, l.field, l.index[0], l.index[1]);
    }
    return size;
}

uint32_t verification_measure(const source *s, const bcast_verification *m)
{
    const uint32_t identity_at = m->has_reporting ? 2 : 1;
    if (m->has_reporting > 1)
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_REPORTING, 0, 0);
    if (!span_fits(m->idr, s->base_length) || m->idr.length > BCAST_MESSAGE_MAX)
        return decline(s, BCAST_E_SPAN, BCAST_S_MESSAGE, BCAST_F_IDR, 0, 0);
    if (m->idr_type > 1)
        return decline(s, BCAST_E_UNSUPPORTED, BCAST_S_PAYLOAD, BCAST_F_ID_TYPE, identity_at, 0);
    uint32_t size = HEADER + T_PAYLOAD + ID_HEAD + m->idr.length + 2U + BCAST_MIKEY_MAC_LENGTH;
    if (m->has_reporting) {
        bcast_verification unused;
        if (!span_fits(m->reporting, s->base_length) || m->reporting.length > BCAST_MESSAGE_MAX)
            return decline(s, BCAST_E_SPAN, BCAST_S_MESSAGE, BCAST_F_REPORTING, 0, 0);
        reader r = reading(s->base + m->reporting.offset, m->reporting.length, 0, s->error);
        r.scope = BCAST_S_MANAGEMENT;
        if (!read_reporting(&r, &unused) || (left(&r) > 0 && !refuse(&r, BCAST_E_TRAILING_BYTES, 0, BCAST_F_NONE))) {
            s->error->offset = BCAST_NO_OFFSET;
            return 0;
        }
        size += EXT_HEAD + 1U + m->reporting.length;
    }
    if (size > limit_of(m->max_size)) {
        longest l = {0};
        consider(&l, m->idr.length, BCAST_S_PAYLOAD, BCAST_F_ID, identity_at, 0);
        consider(&l, BCAST_MIKEY_MAC_LENGTH, BCAST_S_PAYLOAD, BCAST_F_VER_DATA, identity_at + 1, 0);
        return decline(s, BCAST_E_BAD_LENGTH, l.scope, l.field, l.index[0], l.index[1]);
    }
    return size;
}

/* --- writing ----------------------------------------------------------------------------------------------------------------- */

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

static void write_identity(writer *w, unsigned next, unsigned type, const uint8_t *base, bcast_span id)
{
    put_u8(w, next);
    put_u8(w, type);
    put_u16(w, id.length);
    put_span(w, base, id);
}

static void write_tail(writer *w, const bcast_management_tail *tail, const uint8_t *base)
{
    if (tail->has_criteria) {
        uint8_t *number = w->at++;
        bcast_span rest = tail->access_criteria;
        bcast_item item;
        unsigned count = 0;
        while (bcast_item_next(base, &rest, &item) == 1)
            count++;
        *number = (uint8_t)count;
        put_span(w, base, tail->access_criteria);
    }
    if (tail->has_binding) {
        put_u32(w, tail->terminal_binding_key_id);
        put_u8(w, tail->permissions_issuer_uri.length);
        put_span(w, base, tail->permissions_issuer_uri);
    }
}

static uint32_t tail_size(const bcast_management_tail *tail)
{
    return (tail->has_criteria ? 1 + tail->access_criteria.length : 0)
           + (tail->has_binding ? 5 + tail->permissions_issuer_uri.length : 0);
}

uint32_t stkm_write(uint8_t *out, const bcast_smartcard_stkm *m, const uint8_t *base, const uint8_t *csb_id, bool partial)
{
    /* HDR, EXT 3 with three Key IDs: one copy, then what differs. */
    static const uint8_t head[HEADER + EXT_HEAD + DOMAIN_AND_SEK + TEK_ID] = {
        VERSION,  0, PAYLOAD_EXT, 0, [9] = EMPTY_MAP, [10] = PAYLOAD_T, EXT_KEY_ID, 0, DOMAIN_AND_SEK + TEK_ID, 0, 3,
        [19] = 1, 4, [25] = 2,    2};
    memcpy(out, head, sizeof head);
    memcpy(out + 4, csb_id, 4);
    memcpy(out + 16, m->key_domain_id, 3);
    memcpy(out + 21, m->sek_id, 4);
    memcpy(out + 27, m->tek_id, 2);
    writer w = {out + sizeof head};
    if (UNLIKELY(m->other_key_ids.length != 0)) {
        out[12] = (uint8_t)((DOMAIN_AND_SEK + TEK_ID + m->other_key_ids.length) >> 8);
        out[13] = (uint8_t)(DOMAIN_AND_SEK + TEK_ID + m->other_key_ids.length);
        put_span(&w, base, m->other_key_ids);
    }
    if (m->has_management) {
        const bool tail = m->tail.has_criteria | m->tail.has_binding;
        out[10] = PAYLOAD_EXT;
        write_extension(&w, PAYLOAD_T, EXT_OMA_BCAST, 3 + (UNLIKELY(tail) ? tail_size(&m->tail) : 0));
        put_u8(&w, STKM_SUBTYPE);
        put_u8(&w, MANAGEMENT_VERSION << 4 | (unsigned)m->protection_after_reception << 2 | (unsigned)m->tail.has_binding << 1
                       | m->tail.has_criteria);
        put_u8(&w, (unsigned)m->traffic_protection_protocol << 5 | (unsigned)m->traffic_authentication_flag << 4
                       | m->traffic_key_lifetime);
        if (UNLIKELY(tail))
            write_tail(&w, &m->tail, base);
    }
    write_counter(&w, PAYLOAD_KEMAC, m->counter);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, partial ? 0 : AES_CM_128);
    put_u16(&w, m->has_salt ? TEK_SALT_DATA : TEK_DATA);
    const uint32_t at = (uint32_t)(w.at - out);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, m->has_salt ? TEK_SALT << 4 | KV_NONE : TEK << 4 | KV_NONE);
    put_u16(&w, BCAST_KEY_LENGTH);
    put_bytes(&w, m->tek, BCAST_KEY_LENGTH);
    if (m->has_salt) {
        put_u16(&w, BCAST_SALT_LENGTH);
        put_bytes(&w, m->salt, BCAST_SALT_LENGTH);
    }
    put_u8(&w, partial ? 0 : HMAC_SHA_1_160);
    return at;
}

static uint32_t policy_size(const bcast_policy *p)
{
    return 2U + 4U * ((p->present & 1U) + (p->present >> 1 & 1U) + (p->present >> 2 & 1U) + (p->present >> 3 & 1U));
}

static void write_policy(writer *w, const bcast_policy *p)
{
    put_u8(w, p->security_policy_extension);
    put_u8(w, (p->present & BCAST_POLICY_COST ? 0x80U : 0U) | (p->present & BCAST_POLICY_PURSE ? 0x40U : 0U)
                  | (unsigned)p->purse_mode << 5 | (p->present & BCAST_POLICY_PLAYBACK ? 0x10U : 0U)
                  | (unsigned)p->playback_mode << 3 | (p->present & BCAST_POLICY_TEK ? 0x04U : 0U) | (unsigned)p->tek_mode << 1);
    if (p->present & BCAST_POLICY_COST)
        put_u32(w, p->cost_value);
    if (p->present & BCAST_POLICY_PURSE)
        put_u32(w, p->purse);
    if (p->present & BCAST_POLICY_PLAYBACK)
        put_u32(w, p->playback);
    if (p->present & BCAST_POLICY_TEK)
        put_u32(w, p->tek);
}

uint32_t ltkm_write(uint8_t *out, const bcast_smartcard_ltkm *m, const uint8_t *base)
{
    writer w = {out};
    write_header(&w, 0, PAYLOAD_EXT, m->verification_requested, m->csb_id);
    write_extension(&w, m->has_management ? PAYLOAD_EXT : PAYLOAD_T, EXT_KEY_ID, DOMAIN_AND_SEK + m->other_key_ids.length);
    write_domain_and_sek(&w, m->key_domain_id, m->sek_id);
    put_span(&w, base, m->other_key_ids);
    if (m->has_management) {
        write_extension(&w, PAYLOAD_T, EXT_OMA_BCAST, 1 + 1 + (m->has_policy ? policy_size(&m->policy) : 0) + tail_size(&m->tail));
        put_u8(&w, LTKM_SUBTYPE);
        put_u8(&w, MANAGEMENT_VERSION << 4 | (unsigned)m->has_policy << 3 | (unsigned)m->consumption_reporting_flag << 2
                       | (unsigned)m->tail.has_criteria << 1 | m->tail.has_binding);
        if (m->has_policy)
            write_policy(&w, &m->policy);
        write_tail(&w, &m->tail, base);
    }
    write_counter(&w, PAYLOAD_RAND, m->counter);
    put_u8(&w, PAYLOAD_ID);
    put_u8(&w, 16);
    put_bytes(&w, m->rand, 16);
    write_identity(&w, PAYLOAD_ID, m->idi_type, base, m->idi);
    write_identity(&w, PAYLOAD_KEMAC, m->idr_type, base, m->idr);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, AES_CM_128);
    put_u16(&w, SEK_DATA);
    const uint32_t at = (uint32_t)(w.at - out);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, (unsigned)m->key_data_type << 4 | KV_INTERVAL);
    put_u16(&w, BCAST_KEY_LENGTH);
    put_bytes(&w, m->sek, BCAST_KEY_LENGTH);
    put_u8(&w, 4);
    put_u32(&w, m->ts_low);
    put_u8(&w, 4);
    put_u32(&w, m->ts_high);
    put_u8(&w, HMAC_SHA_1_160);
    return at;
}

void verification_write(uint8_t *out, const bcast_verification *m, const uint8_t *base)
{
    writer w = {out};
    write_header(&w, 1, m->has_reporting ? PAYLOAD_EXT : PAYLOAD_T, 0, m->csb_id);
    if (m->has_reporting) {
        write_extension(&w, PAYLOAD_T, EXT_OMA_BCAST, 1 + m->reporting.length);
        put_u8(&w, REPORTING_SUBTYPE);
        put_span(&w, base, m->reporting);
    }
    write_counter(&w, PAYLOAD_ID, m->counter);
    write_identity(&w, PAYLOAD_V, m->idr_type, base, m->idr);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, HMAC_SHA_1_160);
}

/* --- walking ----------------------------------------------------------------------------------------------------------------- */

int bcast_item_next(const uint8_t *base, bcast_span *span, bcast_item *item)
{
    if (base == NULL || span == NULL || item == NULL || span->length < 2)
        return 0;
    const uint8_t *p = base + span->offset;
    if (span->length - 2 < p[1])
        return 0;
    *item = (bcast_item){p[0], p[1], 0, span->offset + 2};
    span->offset += 2U + p[1];
    span->length -= 2U + p[1];
    return 1;
}

int bcast_mikey_next(const uint8_t *data, size_t size, bcast_payload *payload)
{
    if (data == NULL || payload == NULL || size < HEADER || size > BCAST_INPUT_MAX)
        return 0;
    const size_t at = payload->length == 0 ? HEADER : (size_t)payload->offset + payload->length;
    const uint8_t number = payload->length == 0 ? data[2] : payload->offset < size ? data[payload->offset] : PAYLOAD_LAST;
    if (number == PAYLOAD_LAST || at >= size)
        return 0;
    const uint8_t *p = data + at;
    const size_t rest = size - at;
    size_t length;
    switch (number) {
    case PAYLOAD_T: length = 6; break;
    case PAYLOAD_RAND: length = rest < 2 ? rest + 1 : 2U + p[1]; break;
    case PAYLOAD_ID: length = rest < 4 ? rest + 1 : 4U + load_u16(p + 2); break;
    case PAYLOAD_SP: length = rest < 5 ? rest + 1 : 5U + load_u16(p + 3); break;
    case PAYLOAD_EXT: length = rest < 4 ? rest + 1 : 4U + load_u16(p + 2); break;
    default: length = rest; /* KEMAC, V: the last */
    }
    if (length > rest)
        return 0;
    *payload = (bcast_payload){number, number == PAYLOAD_EXT ? p[1] : (uint8_t)0, 0, (uint32_t)at, (uint32_t)length};
    return 1;
}
