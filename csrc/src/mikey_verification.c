/* SPDX-License-Identifier: Apache-2.0 */
/* The card's answer to an LTKM, with or without reporting (smartcard-profile 1.5, 4.4; rules R25): reading, then building. */
#include "mikey.h"

/* --- reading ------------------------------------------------------------------------------------------------------------------ */

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
            || !policy_read(r, &policy))
            return false;
    }
    r->scope = BCAST_S_MANAGEMENT;
    r->index[1] = 0;
    a->has_reporting = 1;
    a->reporting = (bcast_span){start, r->at - start};
    return true;
}

/* The order is sure: TS 33.246 6.4.5.2. */
static const profile verification_profile = {.data_type = 1, .order = {PAYLOAD_T, PAYLOAD_ID, PAYLOAD_V}};

static bool management(parse *m) { return read_reporting(m->r, m->answer); }
static const profile reporting_profile = {
    .data_type = 1,
    .order = {PAYLOAD_T, PAYLOAD_ID, PAYLOAD_V},
    .subtype = REPORTING_SUBTYPE,
    .required = EXT_OMA_BCAST,
    .management = management,
};

bool verification_read(reader *r, bool reporting, bcast_verification *a)
{
    parse m = {.r = r, .profile = reporting ? &reporting_profile : &verification_profile, .canonical = true, .answer = a};
    if (!mikey_read(&m))
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

/* --- building ----------------------------------------------------------------------------------------------------------------- */

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
