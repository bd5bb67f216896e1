/* SPDX-License-Identifier: Apache-2.0 */
/* STKM of the Smartcard Profile (smartcard-profile 4.4, 5.3): reading, then building. */
#include "mikey.h"

/* --- reading ------------------------------------------------------------------------------------------------------------------ */

/* confidence: guess - widths and order; the names are likely (smartcard-profile 5.3, decision 10) */
static bool management(parse *m)
{
    reader *r = m->r;
    bcast_smartcard_stkm *s = m->stkm;
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
    return tail_read(r, &s->tail, first & 1, first >> 1 & 1);
}

static bool key_length(const parse *m, uint32_t length)
{
    if (m->stkm->has_management) /* rules R18 */
        return length == (m->stkm->traffic_protection_protocol == BCAST_SRTP ? TEK_SALT_DATA : TEK_DATA);
    return length == TEK_DATA || length == TEK_SALT_DATA;
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

static bool clear_key(parse *m) { return tek_data(m->r, m->stkm); }

static const profile stkm_profile = {
    .data_type = 0,
    .order = {PAYLOAD_T, PAYLOAD_KEMAC},
    .key_ids = 3,
    .subtype = STKM_SUBTYPE,
    .required = EXT_KEY_ID,
    .key_id_extension = true,
    .management = management,
    .key_length = key_length,
    .key_data = clear_key,
};

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
    if (!mikey_read(&m))
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

bool stkm_key_read(const uint8_t *clear, uint32_t length, uint32_t at, uint32_t lenient, bcast_smartcard_stkm *s,
                   bcast_error *error)
{
    const uint32_t head = load_u32(clear);
    if (LIKELY(head == TEK_HEAD && length == TEK_DATA)) {
        memcpy(s->tek, clear + 4, BCAST_KEY_LENGTH);
        return true;
    }
    if (LIKELY(head == TEK_SALT_HEAD && length == TEK_SALT_DATA && load_u16(clear + TEK_DATA) == BCAST_SALT_LENGTH)) {
        memcpy(s->tek, clear + 4, BCAST_KEY_LENGTH);
        memcpy(s->salt, clear + TEK_DATA + 2, BCAST_SALT_LENGTH);
        s->has_salt = 1;
        return true;
    }
    reader r = reading(clear, length, lenient, error);
    r.scope = BCAST_S_ENCR_DATA;
    return decrypted(&r, tek_data(&r, s), at);
}

/* --- building ----------------------------------------------------------------------------------------------------------------- */

uint32_t stkm_measure_anew(const source *s, const bcast_smartcard_stkm *m, bool partial)
{
    if (UNLIKELY((m->has_salt > 1) | (m->has_management > 1)))
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, m->has_salt > 1 ? BCAST_F_SALT : BCAST_F_MANAGEMENT, 0, 0);
    if (UNLIKELY(m->has_management && (m->traffic_protection_protocol == BCAST_SRTP) != m->has_salt)) /* rules R18 */
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_SALT, 0, 0);
    if (UNLIKELY(!partial && !names_key(m->sek_id))) /* in a partial STKM the BSM's ids are not there yet */
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_SEK_ID, 0, 0);
    if (UNLIKELY(m->tek_id_length != 2))
        return decline(s, BCAST_E_BAD_LENGTH, BCAST_S_PAYLOAD, BCAST_F_KEY_ID_LENGTH, 0, 2);
    if (UNLIKELY(!partial && !names_tek(m->tek_id)))
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_TEK_ID, 0, 0);
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
            const uint32_t tail = tail_measure(s, &m->tail);
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

uint32_t stkm_write_anew(uint8_t *out, const bcast_smartcard_stkm *m, const uint8_t *base, const uint8_t *csb_id, bool partial,
                         stkm_memory *memory)
{
    const uint32_t ids = DOMAIN_AND_SEK + TEK_ID + m->other_key_ids.length, key_data = m->has_salt ? TEK_SALT_DATA : TEK_DATA;
    writer w = {out};
    write_header(&w, 0, PAYLOAD_EXT, 0, csb_id);
    write_extension(&w, m->has_management ? PAYLOAD_EXT : PAYLOAD_T, EXT_KEY_ID, ids);
    write_domain_and_sek(&w, m->key_domain_id, m->sek_id);
    put_u16(&w, 0x0202);
    put_bytes(&w, m->tek_id, 2);
    put_span(&w, base, m->other_key_ids);
    if (m->has_management) {
        write_extension(&w, PAYLOAD_T, EXT_OMA_BCAST, 3 + tail_size(&m->tail));
        put_u8(&w, STKM_SUBTYPE);
        put_u8(&w, MANAGEMENT_VERSION << 4 | (unsigned)m->protection_after_reception << 2 | (unsigned)m->tail.has_binding << 1
                       | m->tail.has_criteria);
        put_u8(&w, (unsigned)m->traffic_protection_protocol << 5 | (unsigned)m->traffic_authentication_flag << 4
                       | m->traffic_key_lifetime);
        tail_write(&w, &m->tail, base);
    }
    write_counter(&w, PAYLOAD_KEMAC, m->counter);
    put_u8(&w, PAYLOAD_LAST);
    put_u8(&w, partial ? 0 : AES_CM_128);
    put_u16(&w, key_data);
    const uint32_t at = (uint32_t)(w.at - out);
    put_u32(&w, m->has_salt ? TEK_SALT_HEAD : TEK_HEAD);
    put_bytes(&w, m->tek, BCAST_KEY_LENGTH);
    if (m->has_salt) {
        put_u16(&w, BCAST_SALT_LENGTH);
        put_bytes(&w, m->salt, BCAST_SALT_LENGTH);
    }
    put_u8(&w, partial ? 0 : HMAC_SHA_1_160);

    if (!partial && stkm_fixed(m) && !(m->tail.has_criteria | m->tail.has_binding)) {
        memory->shape = stkm_shape(m);
        memory->key_at = at;
        memory->size = at + key_data + 1U + BCAST_MIKEY_MAC_LENGTH;
        memcpy(memory->head, out, at);
    }
    return at;
}
