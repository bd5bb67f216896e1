/* SPDX-License-Identifier: Apache-2.0 */
/* STKM of the DRM Profile (drm-profile 1.1, rows 1-29): reading, then writing, each in the order of the table. */
#include "messages.h"

/* confidence: guess - protocol_version 0 for BCAST 1.0 (drm-profile 1.2) */
enum { PROTOCOL_VERSION = 0 };

/* The Modified Julian Date of 1900-01-01, where NTP seconds start; 16 bits of it end with 2038-04-22 (rules R15). */
enum { MJD_OF_NTP_EPOCH = 15020, LAST_MJD = 65535, DAY = 86400 };

static bool read_id(reader *r, bcast_drm_stkm *m, bool length_first, int length_field, int field, int next_field)
{
    m->id_length = 4;
    if (length_first) {
        if (!take_u8(r, length_field, &m->id_length))
            return false;
        if (m->id_length < 1 || m->id_length > BCAST_ID_MAX)
            return refuse_last(r, BCAST_E_BAD_LENGTH, length_field);
    }
    return take_copy(r, m->id_length, field, m->id)
           && (!(m->present & BCAST_DRM_NEXT) || take_copy(r, m->id_length, next_field, m->next_id));
}

static bool read_timestamp(reader *r, int64_t *timestamp)
{
    /* confidence: likely - MJD 16 bits + 6 BCD digits hhmmss UTC (drm-profile 1.1 row 20) */
    const uint8_t *p;
    const uint32_t at = r->at;
    if (!take(r, 5, BCAST_F_TIMESTAMP, &p))
        return false;
    unsigned part[3];
    bool ok = true;
    for (int i = 0; i < 3; i++) {
        ok = ok && p[2 + i] >> 4 <= 9 && (p[2 + i] & 15) <= 9;
        part[i] = (p[2 + i] >> 4) * 10U + (p[2 + i] & 15);
    }
    if (!ok || part[0] > 23 || part[1] > 59 || part[2] > 59)
        return refuse(r, BCAST_E_BAD_VALUE, at, BCAST_F_TIMESTAMP);
    *timestamp = ((int64_t)load_u16(p) - MJD_OF_NTP_EPOCH) * DAY + part[0] * 3600 + part[1] * 60 + part[2];
    return true;
}

bool criteria_read(reader *r, bcast_span *span, uint32_t *count, int which_index)
{
    uint8_t number, byte;
    const uint8_t *value;
    if (!take_u8(r, BCAST_F_NUMBER_OF_CRITERIA, &number))
        return false;
    const uint32_t start = r->at;
    for (uint32_t i = 0; i < number; i++) {
        r->index[which_index] = i;
        if (!take_u8(r, BCAST_F_CRITERION_TAG, &byte) || !take_u8(r, BCAST_F_CRITERION_LENGTH, &byte)
            || !take(r, byte, BCAST_F_CRITERION_VALUE, &value))
            return false;
    }
    r->index[which_index] = 0;
    *count = number;
    *span = (bcast_span){start, r->at - start};
    return true;
}

/* A MAC, or the encrypted PEK: where it stands; zero in a partial STKM (rules R13). */
static bool read_sealed(reader *r, uint32_t length, bool partial, int field, uint32_t *at)
{
    const uint8_t *p;
    *at = r->at;
    if (!take(r, length, field, &p))
        return false;
    for (uint32_t i = 0; partial && i < length; i++)
        if (p[i] != 0)
            return refuse(r, BCAST_E_BAD_VALUE, *at, field);
    return true;
}

bool drm_read(reader *r, bool partial, bcast_drm_stkm *m)
{
    uint8_t byte;
    if (!take_u8(r, BCAST_F_PROTOCOL_VERSION, &byte))
        return false;
    if (byte >> 4 != PROTOCOL_VERSION)
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_PROTOCOL_VERSION);
    m->protection_after_reception = byte >> 2 & 3;
    if (byte & 2)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
    m->present = byte & 1 ? BCAST_DRM_CRITERIA : 0;

    if (!take_u8(r, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL, &byte))
        return false;
    m->traffic_protection_protocol = byte >> 5;
    if (!known_protocol(m->traffic_protection_protocol))
        return refuse_last(r, BCAST_E_UNSUPPORTED, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL);
    m->traffic_authentication_flag = byte >> 4 & 1;
    m->present |= (uint8_t)((byte & 8 ? BCAST_DRM_NEXT : 0) | (byte & 4 ? BCAST_DRM_TIMESTAMP : 0)
                            | (byte & 2 ? BCAST_DRM_PROGRAMME : 0) | (byte & 1 ? BCAST_DRM_SERVICE : 0));
    if ((byte & 3) == 0)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_SERVICE_FLAG);

    const bool next = m->present & BCAST_DRM_NEXT;
    bool ok;
    switch (m->traffic_protection_protocol) {
    case BCAST_IPSEC: ok = read_id(r, m, false, 0, BCAST_F_SECURITY_PARAMETER_INDEX, BCAST_F_NEXT_SECURITY_PARAMETER_INDEX); break;
    case BCAST_SRTP: /* confidence: guess - 112-bit salts in clear, no flag octet before them (row 12d) */
        ok = read_id(r, m, true, BCAST_F_MASTER_KEY_INDEX_LENGTH, BCAST_F_MASTER_KEY_INDEX, BCAST_F_NEXT_MASTER_KEY_INDEX)
             && take_copy(r, BCAST_SALT_LENGTH, BCAST_F_MASTER_SALT, m->salt)
             && (!next || take_copy(r, BCAST_SALT_LENGTH, BCAST_F_NEXT_MASTER_SALT, m->next_salt));
        break;
    default: ok = read_id(r, m, true, BCAST_F_KEY_INDICATOR_LENGTH, BCAST_F_KEY_INDICATOR, BCAST_F_NEXT_KEY_INDICATOR);
    }
    if (!ok || !take_u8(r, BCAST_F_MATERIAL_LENGTH, &m->material_length))
        return false;
    if (m->material_length != (m->traffic_protection_protocol == BCAST_IPSEC && m->traffic_authentication_flag ? 32 : 16))
        return refuse_last(r, BCAST_E_BAD_LENGTH, BCAST_F_MATERIAL_LENGTH);
    m->material_at = r->at;
    if (!take_copy(r, m->material_length, BCAST_F_MATERIAL, m->traffic_key_material))
        return false;
    if (next) {
        m->next_material_at = r->at;
        if (!take_copy(r, m->material_length, BCAST_F_NEXT_MATERIAL, m->next_traffic_key_material))
            return false;
    }

    if (!take_u8(r, BCAST_F_RESERVED, &byte))
        return false;
    if (byte >> 4 != 0)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
    m->traffic_key_lifetime = byte & 15;
    if ((m->present & BCAST_DRM_TIMESTAMP) && !read_timestamp(r, &m->timestamp))
        return false;
    if (m->present & BCAST_DRM_CRITERIA) {
        if (!take_u8(r, BCAST_F_RESERVED, &byte)) /* confidence: guess - this octet (row 21a) */
            return false;
        if (byte != 0)
            return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
        if (!criteria_read(r, &m->access_criteria, &m->number_of_access_criteria, 0))
            return false;
    }

    if (m->present & BCAST_DRM_PROGRAMME) {
        if (!take_u8(r, BCAST_F_RESERVED, &byte))
            return false;
        if (byte >> 1 != 0)
            return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
        if (byte & 1) {
            m->present |= BCAST_DRM_PERMISSIONS;
            if (!take_u8(r, BCAST_F_PERMISSIONS_CATEGORY, &m->permissions_category))
                return false;
        }
        if ((m->present & BCAST_DRM_SERVICE)
            && !read_sealed(r, BCAST_KEY_LENGTH, partial, BCAST_F_ENCRYPTED_PEK, &m->encrypted_PEK_at))
            return false;
        if (!take_u32(r, BCAST_F_PROGRAMME_CID_EXTENSION, &m->programme_CID_extension)
            || !read_sealed(r, BCAST_DRM_MAC_LENGTH, partial, BCAST_F_PROGRAMME_MAC, &m->programme_MAC_at))
            return false;
    }
    if (m->present & BCAST_DRM_SERVICE)
        if (!take_u32(r, BCAST_F_SERVICE_CID_EXTENSION, &m->service_CID_extension)
            || !read_sealed(r, BCAST_DRM_MAC_LENGTH, partial, BCAST_F_SERVICE_MAC, &m->service_MAC_at))
            return false;
    m->size = r->at;
    return finished(r);
}

/* --- writing ----------------------------------------------------------------------------------------------------------------- */

int criteria_count(const source *s, bcast_span span, int scope, uint32_t payload)
{
    const bool listed = scope != BCAST_S_MESSAGE;
    uint32_t at = span.offset, left_over = span.length;
    int count = 0;
    if (!span_fits(span, s->base_length)) {
        decline(s, BCAST_E_SPAN, scope, BCAST_F_ACCESS_CRITERIA, payload, 0);
        return -1;
    }
    for (; left_over > 0; count++) {
        const uint32_t here = (uint32_t)count;
        const uint32_t size = left_over < 2 ? 0 : 2U + s->base[at + 1];
        if (left_over < 2 || left_over < size) {
            decline(s, BCAST_E_BAD_LENGTH, scope, BCAST_F_CRITERION_LENGTH, listed ? payload : here, listed ? here : 0);
            return -1;
        }
        at += size;
        left_over -= size;
    }
    if (count > 255) {
        decline(s, BCAST_E_BAD_LENGTH, scope, BCAST_F_NUMBER_OF_CRITERIA, payload, 0);
        return -1;
    }
    return count;
}

/* The times that 16 bits of MJD can say: NTP seconds of 1858-11-17 00:00:00 and of the last second of 2038-04-22. */
#define FIRST_TIME (-(int64_t)MJD_OF_NTP_EPOCH * DAY)
#define LAST_TIME (((int64_t)LAST_MJD + 1 - MJD_OF_NTP_EPOCH) * DAY - 1)

/* Which field is wrong, in the order of the table.  Called when something is. */
__attribute__((cold)) static uint32_t explain(const source *s, const bcast_drm_stkm *m)
{
    static const uint16_t id_fields[3][2] = {{BCAST_F_SECURITY_PARAMETER_INDEX, BCAST_F_SECURITY_PARAMETER_INDEX},
                                             {BCAST_F_MASTER_KEY_INDEX_LENGTH, BCAST_F_MASTER_KEY_INDEX},
                                             {BCAST_F_KEY_INDICATOR_LENGTH, BCAST_F_KEY_INDICATOR}};
    int code = BCAST_E_BAD_VALUE, field;
    if (!(m->present & (BCAST_DRM_SERVICE | BCAST_DRM_PROGRAMME)))
        field = BCAST_F_SERVICE_FLAG;
    else if (m->protection_after_reception > 3)
        field = BCAST_F_PROTECTION_AFTER_RECEPTION;
    else if (!known_protocol(m->traffic_protection_protocol)) {
        code = BCAST_E_UNSUPPORTED;
        field = BCAST_F_TRAFFIC_PROTECTION_PROTOCOL;
    } else if (m->traffic_authentication_flag > 1)
        field = BCAST_F_TRAFFIC_AUTHENTICATION_FLAG;
    else if (m->traffic_protection_protocol == BCAST_IPSEC ? m->id_length != 4 : m->id_length < 1 || m->id_length > BCAST_ID_MAX) {
        code = BCAST_E_BAD_LENGTH;
        field = id_fields[m->traffic_protection_protocol][0];
    } else if (m->material_length != (m->traffic_protection_protocol == BCAST_IPSEC && m->traffic_authentication_flag ? 32 : 16)) {
        code = BCAST_E_BAD_LENGTH;
        field = BCAST_F_TRAFFIC_KEY_MATERIAL;
    } else if (m->traffic_key_lifetime > 15)
        field = BCAST_F_TRAFFIC_KEY_LIFETIME;
    else if ((m->present & BCAST_DRM_PERMISSIONS) && !(m->present & BCAST_DRM_PROGRAMME))
        field = BCAST_F_PERMISSIONS_CATEGORY;
    else
        field = BCAST_F_NONE; /* an unknown bit in `present` */
    return decline(s, field == BCAST_F_NONE ? BCAST_E_ARGUMENT : code, BCAST_S_MESSAGE, field, 0, 0);
}

/* Too long: the longest field that is not fixed is a criterion, if any is longer than the key material. */
__attribute__((cold)) static uint32_t too_long(const source *s, const bcast_drm_stkm *m)
{
    uint32_t best = m->material_length, which = 0, at = m->access_criteria.offset;
    const uint32_t end = at + m->access_criteria.length;
    int field = BCAST_F_MATERIAL;
    for (uint32_t i = 0; at < end; i++, at += 2U + s->base[at + 1])
        if (s->base[at + 1] > best) {
            best = s->base[at + 1];
            which = i;
            field = BCAST_F_CRITERION_VALUE;
        }
    return decline(s, BCAST_E_BAD_LENGTH, BCAST_S_MESSAGE, field, which, 0);
}

/* Bytes that the optional parts add, by `present`: service 16, programme 17, both 16 more, timestamp 5, criteria 2, permissions 1.
 */
#define PARTS(p) \
    (((p)&1 ? 16 : 0) + ((p)&2 ? 17 : 0) + (((p)&3) == 3 ? 16 : 0) + ((p)&4 ? 5 : 0) + ((p)&16 ? 2 : 0) + ((p)&32 ? 1 : 0))
#define FOUR(p) PARTS(p), PARTS((p) + 1), PARTS((p) + 2), PARTS((p) + 3)
#define SIXTEEN(p) FOUR(p), FOUR((p) + 4), FOUR((p) + 8), FOUR((p) + 12)
static const uint8_t parts[64] = {SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)};

/* A shape that differs from the one before: check it, and remember it. */
__attribute__((noinline)) static bool learn(const source *s, const bcast_drm_stkm *m, drm_memory *memory)
{
    const unsigned present = m->present, protocol = m->traffic_protection_protocol;
    const bool ipsec = protocol == BCAST_IPSEC, next = present & BCAST_DRM_NEXT;
    const unsigned material = 16U << (ipsec & m->traffic_authentication_flag);
    const bool bad = ((present & (BCAST_DRM_SERVICE | BCAST_DRM_PROGRAMME)) == 0) | (present > 63) | (protocol > BCAST_ISMACRYP)
                     | (m->protection_after_reception > 3) | (m->traffic_authentication_flag > 1) | (m->traffic_key_lifetime > 15)
                     | (m->material_length != material) | (m->id_length - 1U >= BCAST_ID_MAX) | (ipsec & (m->id_length != 4))
                     | ((present & (BCAST_DRM_PERMISSIONS | BCAST_DRM_PROGRAMME)) == BCAST_DRM_PERMISSIONS);
    if (bad)
        return explain(s, m) != 0;
    /* What is there with every key, then the flags, the two lengths and the lifetime. */
    const unsigned before = m->id_length + (protocol == BCAST_SRTP ? BCAST_SALT_LENGTH : 0U);
    memory->shape = drm_shape(m);
    memory->material_at = 2U + !ipsec + (before << next) + 1U;
    memory->size = parts[present] + ((before + material) << next) + 4U + !ipsec;
    memory->flags[0] =
        (uint8_t)(PROTOCOL_VERSION << 4 | (unsigned)m->protection_after_reception << 2 | (present & BCAST_DRM_CRITERIA ? 1U : 0U));
    memory->flags[1] = (uint8_t)(protocol << 5 | (unsigned)m->traffic_authentication_flag << 4 | (next ? 8U : 0U)
                                 | (present & BCAST_DRM_TIMESTAMP ? 4U : 0U) | (present & BCAST_DRM_PROGRAMME ? 2U : 0U)
                                 | (present & BCAST_DRM_SERVICE ? 1U : 0U));
    return true;
}

static inline unsigned bcd(uint32_t value) { return value / 10 << 4 | value % 10; }

static void learn_time(int64_t ntp, drm_memory *memory)
{
    const uint64_t time = (uint64_t)(ntp - FIRST_TIME);
    const uint32_t day = (uint32_t)(time / DAY), second = (uint32_t)(time - (uint64_t)day * DAY);
    writer w = {memory->clock};
    put_u16(&w, day);
    put_u8(&w, bcd(second / 3600));
    put_u8(&w, bcd(second / 60 % 60));
    put_u8(&w, bcd(second % 60));
    memory->time = ntp;
}

uint32_t drm_measure_anew(const source *s, const bcast_drm_stkm *m, drm_memory *memory)
{
    if ((drm_shape(m) != memory->shape || memory->size == 0) && !learn(s, m, memory))
        return 0;
    if ((m->present & BCAST_DRM_TIMESTAMP) && m->timestamp != memory->time) {
        if (m->timestamp < FIRST_TIME || m->timestamp > LAST_TIME)
            return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MESSAGE, BCAST_F_TIMESTAMP, 0, 0);
        learn_time(m->timestamp, memory);
    }
    uint32_t size = memory->size;
    if (m->present & BCAST_DRM_CRITERIA) {
        if (criteria_count(s, m->access_criteria, BCAST_S_MESSAGE, 0) < 0)
            return 0;
        size += m->access_criteria.length;
        if (size > BCAST_DRM_STKM_MAX)
            return too_long(s, m);
    }
    return size;
}

void drm_write(uint8_t *out, const bcast_drm_stkm *m, const uint8_t *base, const uint8_t *encrypted_PEK, const drm_memory *memory)
{
    const unsigned present = m->present, protocol = m->traffic_protection_protocol;
    const bool next = present & BCAST_DRM_NEXT;
    const uint32_t id_length = m->id_length;
    writer w = {out};
    put_bytes(&w, memory->flags, sizeof memory->flags);
    if (protocol != BCAST_IPSEC)
        put_u8(&w, id_length);
    /* Sixteen bytes at once, whatever the length: what follows is longer and is written over the rest. */
    memcpy(w.at, m->id, BCAST_ID_MAX);
    w.at += id_length;
    if (next) {
        memcpy(w.at, m->next_id, BCAST_ID_MAX);
        w.at += id_length;
    }
    if (protocol == BCAST_SRTP) {
        put_bytes(&w, m->salt, BCAST_SALT_LENGTH);
        if (next)
            put_bytes(&w, m->next_salt, BCAST_SALT_LENGTH);
    }
    put_u8(&w, m->material_length);
    if (LIKELY(m->material_length == BCAST_KEY_LENGTH)) {
        put_bytes(&w, m->traffic_key_material, BCAST_KEY_LENGTH);
        if (next)
            put_bytes(&w, m->next_traffic_key_material, BCAST_KEY_LENGTH);
    } else {
        put_bytes(&w, m->traffic_key_material, BCAST_MATERIAL_MAX);
        if (next)
            put_bytes(&w, m->next_traffic_key_material, BCAST_MATERIAL_MAX);
    }
    put_u8(&w, m->traffic_key_lifetime);
    if (present & BCAST_DRM_TIMESTAMP)
        put_bytes(&w, memory->clock, sizeof memory->clock);
    if (UNLIKELY(present & BCAST_DRM_CRITERIA)) {
        put_u8(&w, 0);
        uint8_t *number = w.at++;
        unsigned count = 0;
        for (uint32_t i = 0; i < m->access_criteria.length; i += 2U + base[m->access_criteria.offset + i + 1])
            count++;
        *number = (uint8_t)count;
        put_span(&w, base, m->access_criteria);
    }
    if (present & BCAST_DRM_PROGRAMME) {
        const bool permissions = present & BCAST_DRM_PERMISSIONS;
        put_u8(&w, permissions);
        if (permissions)
            put_u8(&w, m->permissions_category);
        if (present & BCAST_DRM_SERVICE)
            put_bytes(&w, encrypted_PEK, BCAST_KEY_LENGTH);
        put_u32(&w, m->programme_CID_extension);
        w.at += BCAST_DRM_MAC_LENGTH;
    }
    if (present & BCAST_DRM_SERVICE)
        put_u32(&w, m->service_CID_extension);
}
