/* SPDX-License-Identifier: Apache-2.0 */
/* The chain of MIKEY payloads: reading it, whichever kind of message it is, and walking it. */
#include "mikey.h"

/* --- the chain ---------------------------------------------------------------------------------------------------------------- */

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

/* --- payloads ----------------------------------------------------------------------------------------------------------------- */

static bool oma_extension(parse *m)
{
    reader *r = m->r;
    uint8_t subtype;
    if (!take_u8(r, BCAST_F_SUBTYPE, &subtype))
        return false;
    if (subtype != m->profile->subtype)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_SUBTYPE);
    r->scope = BCAST_S_MANAGEMENT;
    const bool ok = m->profile->management(m);
    r->scope = BCAST_S_PAYLOAD;
    return ok;
}

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
    if (length != BCAST_RAND_LENGTH)
        return refuse_last(r, BCAST_E_BAD_LENGTH, BCAST_F_RAND_LEN);
    return take_span(r, BCAST_RAND_LENGTH, BCAST_F_RAND, &m->rand);
}

static bool identity(parse *m)
{
    reader *r = m->r;
    uint8_t type;
    uint16_t length;
    const unsigned which = m->identities++ & 1;
    if (!follow(m) || !take_u8(r, BCAST_F_ID_TYPE, &type))
        return false;
    if (type > 1 && !(m->profile->initiator && which == 0)) /* NAI, URI; the type of IDi is ignored (smartcard-profile 4.3) */
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

static bool kemac(parse *m)
{
    reader *r = m->r;
    uint8_t alg;
    uint16_t length;
    const uint8_t *p;
    if (!follow(m) || !take_u8(r, BCAST_F_ENCR_ALG, &m->encr_alg))
        return false;
    const bool may_be_clear = m->profile->key_data != NULL;
    if (m->encr_alg > AES_CM_128 || (m->encr_alg == 0 ? !may_be_clear : m->partial))
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_ENCR_ALG);
    if (m->encr_alg == 0 && load_u32(m->csb_id) != 0) /* NULL is a partial STKM's, and that has no CSB ID yet (rules R11, R13) */
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_ENCR_ALG);
    if (!take_u16(r, BCAST_F_ENCR_DATA_LEN, &length))
        return false;
    if (!m->profile->key_length(m, length))
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
        if (!m->profile->key_data(m))
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

bool mikey_read(parse *m)
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

/* --- key data ----------------------------------------------------------------------------------------------------------------- */

bool key_data_head(reader *r, uint32_t types, unsigned kv, uint8_t *type, uint8_t key[16])
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

bool decrypted(reader *r, bool ok, uint32_t at)
{
    if (ok && left(r) > 0 && !(r->lenient & BCAST_LENIENT_TRAILING_BYTES)) {
        r->scope = BCAST_S_ENCR_DATA_END;
        ok = refuse(r, BCAST_E_TRAILING_BYTES, r->at, BCAST_F_NONE);
    }
    if (!ok)
        r->error->offset += at;
    return ok;
}

/* --- building ----------------------------------------------------------------------------------------------------------------- */

void consider(longest *l, uint32_t length, int scope, int field, uint32_t first, uint32_t second)
{
    if (length > l->length)
        *l = (longest){length, scope, field, {first, second}};
}

void consider_items(longest *l, const source *s, bcast_span span, int scope, int field, uint32_t payload, uint32_t first)
{
    bcast_item item;
    for (uint32_t i = first; bcast_item_next(s->base, &span, &item) == 1; i++)
        consider(l, item.length, scope, field, payload, i);
}

bool check_key_ids(const source *s, bcast_span span, uint32_t known)
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
