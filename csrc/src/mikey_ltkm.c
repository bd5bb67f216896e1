/* SPDX-License-Identifier: Apache-2.0 */
/* LTKM of the Smartcard Profile (smartcard-profile 4.4, 4.5, 5.4): reading, then building. */
#include "mikey.h"

/* --- reading ------------------------------------------------------------------------------------------------------------------ */

/* confidence: guess - names likely, widths guess (smartcard-profile 5.4) */
static bool management(parse *m)
{
    reader *r = m->r;
    bcast_smartcard_ltkm *l = m->ltkm;
    uint8_t flags;
    if (!take_u8(r, BCAST_F_PROTOCOL_VERSION, &flags))
        return false;
    if (flags >> 4 != MANAGEMENT_VERSION)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_PROTOCOL_VERSION);
    if ((flags & 4) && !m->v) /* rules R19 */
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_CONSUMPTION_REPORTING_FLAG);
    l->has_management = 1;
    l->has_policy = flags >> 3 & 1;
    l->consumption_reporting_flag = flags >> 2 & 1;
    if (l->has_policy) {
        r->scope = BCAST_S_POLICY;
        if (!policy_read(r, &l->policy))
            return false;
        r->scope = BCAST_S_MANAGEMENT;
    }
    return tail_read(r, &l->tail, flags >> 1 & 1, flags & 1);
}

/* TEK is what TS 33.246 6.4.5.1 prescribes; TGK is what the first edition of the layout notes built. */
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

static bool key_length(const parse *m, uint32_t length)
{
    return length == SEK_DATA || (length == SEK_DATA_SHORT && (m->r->lenient & BCAST_LENIENT_INTERVAL_2));
}

static const profile ltkm_profile = {
    .data_type = 0,
    .may_request_verification = true,
    .initiator = true,
    .order = {PAYLOAD_T, PAYLOAD_RAND, PAYLOAD_ID, PAYLOAD_ID, PAYLOAD_SP, PAYLOAD_KEMAC},
    .key_ids = 2,
    .subtype = LTKM_SUBTYPE,
    .required = EXT_KEY_ID,
    .key_id_extension = true,
    .management = management,
    .key_length = key_length,
};

bool ltkm_read(reader *r, bcast_smartcard_ltkm *l)
{
    parse m = {.r = r, .profile = &ltkm_profile, .canonical = true, .ltkm = l};
    if (!mikey_read(&m))
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

bool ltkm_key_read(const uint8_t *clear, uint32_t length, uint32_t at, uint32_t lenient, bcast_smartcard_ltkm *l,
                   bcast_error *error)
{
    reader r = reading(clear, length, lenient, error);
    r.scope = BCAST_S_ENCR_DATA;
    return decrypted(&r, sek_data(&r, l), at);
}

/* --- building ----------------------------------------------------------------------------------------------------------------- */

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
    if (UNLIKELY(m->key_data_type != BCAST_LTKM_KEY_TYPE))
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_KEY_DATA_TYPE, 0, 0);
    if (UNLIKELY(!names_key(m->sek_id)))
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
        const uint32_t policy = m->has_policy ? policy_measure(s, &m->policy) : 0;
        if (m->has_policy && policy == 0)
            return 0;
        const uint32_t tail = tail_measure(s, &m->tail);
        if (tail == UINT32_MAX)
            return 0;
        size += EXT_HEAD + 1U + 1U + policy + tail;
    }
    if (UNLIKELY(m->idr_type > 1)) /* NAI, URI; the type of IDi is ignored (smartcard-profile 4.3) */
        return decline(s, BCAST_E_UNSUPPORTED, BCAST_S_PAYLOAD, BCAST_F_ID_TYPE, identity_at + 1, 0);
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
            policy_write(&w, &m->policy);
        tail_write(&w, &m->tail, base);
    }
    write_counter(&w, PAYLOAD_RAND, m->counter);
    put_u8(&w, PAYLOAD_ID);
    put_u8(&w, BCAST_RAND_LENGTH);
    put_bytes(&w, m->rand, BCAST_RAND_LENGTH);
    write_identity(&w, PAYLOAD_ID, m->idi_type, base, m->idi);
    write_identity(&w, PAYLOAD_KEMAC, m->idr_type, base, m->idr);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, AES_CM_128);
    put_u16(&w, SEK_DATA);
    const uint32_t at = (uint32_t)(w.at - out);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, BCAST_LTKM_KEY_TYPE << 4 | KV_INTERVAL);
    put_u16(&w, BCAST_KEY_LENGTH);
    put_bytes(&w, m->sek, BCAST_KEY_LENGTH);
    put_u8(&w, 4);
    put_u32(&w, m->ts_low);
    put_u8(&w, 4);
    put_u32(&w, m->ts_high);
    put_u8(&w, HMAC_SHA_1_160);
    return at;
}
