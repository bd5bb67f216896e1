/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoders against a table of the layout that shares nothing with them.
 *
 * DRM STKM: the table of drm-profile 1.1, walked one row at a time: the same fields, or the same code at the same offset and field.
 * MIKEY: what was accepted is walked payload by payload (RFC 3830 6): the same fields at the same places.
 */
#include "fuzz.h"

static uint64_t number(const uint8_t *p, unsigned length)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < length; i++)
        value = value << 8 | p[i];
    return value;
}

/* --- DRM STKM ---------------------------------------------------------------------------------------------------------------- */

enum when {
    IPSEC = 1,
    SRTP = 2,
    ISMACRYP = 4,
    NEXT = 8,
    TIMESTAMP = 16,
    CRITERIA = 32,
    PROGRAMME = 64,
    SERVICE = 128,
    PERMISSIONS = 256
};
enum bytes { ID = 100, MATERIAL = 101, LIST = 102 }; /* lengths that other fields say */
enum rule { ANY, ZERO, VERSION_0, PROTOCOL, PARTS, ID_RANGE, MATERIAL_RANGE, BCD, SEALED };

typedef struct row {
    unsigned when; /* all of these must be so */
    unsigned bits; /* of an octet; 0: whole bytes */
    unsigned bytes;
    int field;
    enum rule rule;
    size_t to, size; /* where the structure has it; 0: nowhere */
} row;
#define TO(name) offsetof(bcast_drm_stkm, name), sizeof(((bcast_drm_stkm *)0)->name)
#define AT(name) offsetof(bcast_drm_stkm, name), 0 /* the offset is kept, not the bytes */

static const row rows[] = {
    {0, 4, 0, BCAST_F_PROTOCOL_VERSION, VERSION_0, 0, 0},
    {0, 2, 0, BCAST_F_PROTECTION_AFTER_RECEPTION, ANY, TO(protection_after_reception)},
    {0, 1, 0, BCAST_F_RESERVED, ZERO, 0, 0},
    {0, 1, 0, BCAST_F_ACCESS_CRITERIA_FLAG, ANY, 0, 0},
    {0, 3, 0, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL, PROTOCOL, TO(traffic_protection_protocol)},
    {0, 1, 0, BCAST_F_TRAFFIC_AUTHENTICATION_FLAG, ANY, TO(traffic_authentication_flag)},
    {0, 1, 0, BCAST_F_NEXT_TRAFFIC_KEY_FLAG, ANY, 0, 0},
    {0, 1, 0, BCAST_F_TIMESTAMP_FLAG, ANY, 0, 0},
    {0, 1, 0, BCAST_F_PROGRAMME_FLAG, ANY, 0, 0},
    {0, 1, 0, BCAST_F_SERVICE_FLAG, PARTS, 0, 0},
    {IPSEC, 0, 4, BCAST_F_SECURITY_PARAMETER_INDEX, ANY, TO(id)},
    {IPSEC | NEXT, 0, 4, BCAST_F_NEXT_SECURITY_PARAMETER_INDEX, ANY, TO(next_id)},
    {SRTP, 8, 0, BCAST_F_MASTER_KEY_INDEX_LENGTH, ID_RANGE, TO(id_length)},
    {SRTP, 0, ID, BCAST_F_MASTER_KEY_INDEX, ANY, TO(id)},
    {SRTP | NEXT, 0, ID, BCAST_F_NEXT_MASTER_KEY_INDEX, ANY, TO(next_id)},
    {SRTP, 0, 14, BCAST_F_MASTER_SALT, ANY, TO(salt)},
    {SRTP | NEXT, 0, 14, BCAST_F_NEXT_MASTER_SALT, ANY, TO(next_salt)},
    {ISMACRYP, 8, 0, BCAST_F_KEY_INDICATOR_LENGTH, ID_RANGE, TO(id_length)},
    {ISMACRYP, 0, ID, BCAST_F_KEY_INDICATOR, ANY, TO(id)},
    {ISMACRYP | NEXT, 0, ID, BCAST_F_NEXT_KEY_INDICATOR, ANY, TO(next_id)},
    {0, 8, 0, BCAST_F_MATERIAL_LENGTH, MATERIAL_RANGE, TO(material_length)},
    {0, 0, MATERIAL, BCAST_F_MATERIAL, ANY, TO(traffic_key_material)},
    {NEXT, 0, MATERIAL, BCAST_F_NEXT_MATERIAL, ANY, TO(next_traffic_key_material)},
    {0, 4, 0, BCAST_F_RESERVED, ZERO, 0, 0},
    {0, 4, 0, BCAST_F_TRAFFIC_KEY_LIFETIME, ANY, TO(traffic_key_lifetime)},
    {TIMESTAMP, 0, 5, BCAST_F_TIMESTAMP, BCD, 0, 0},
    {CRITERIA, 8, 0, BCAST_F_RESERVED, ZERO, 0, 0},
    {CRITERIA, 8, 0, BCAST_F_NUMBER_OF_CRITERIA, ANY, 0, 0},
    {CRITERIA, 0, LIST, BCAST_F_CRITERION_TAG, ANY, 0, 0},
    {PROGRAMME, 7, 0, BCAST_F_RESERVED, ZERO, 0, 0},
    {PROGRAMME, 1, 0, BCAST_F_PERMISSIONS_FLAG, ANY, 0, 0},
    {PROGRAMME | PERMISSIONS, 8, 0, BCAST_F_PERMISSIONS_CATEGORY, ANY, TO(permissions_category)},
    {PROGRAMME | SERVICE, 0, 16, BCAST_F_ENCRYPTED_PEK, SEALED, AT(encrypted_PEK_at)},
    {PROGRAMME, 0, 4, BCAST_F_PROGRAMME_CID_EXTENSION, ANY, TO(programme_CID_extension)},
    {PROGRAMME, 0, 12, BCAST_F_PROGRAMME_MAC, SEALED, AT(programme_MAC_at)},
    {SERVICE, 0, 4, BCAST_F_SERVICE_CID_EXTENSION, ANY, TO(service_CID_extension)},
    {SERVICE, 0, 12, BCAST_F_SERVICE_MAC, SEALED, AT(service_MAC_at)},
};

/* 16 bits of Modified Julian Date, then hhmmss in decimal; NTP seconds count from MJD 15020. */
static bool clock_of(const uint8_t *p, int64_t *ntp)
{
    static const unsigned limits[3] = {24, 60, 60};
    int64_t seconds = 0;
    for (int i = 0; i < 3; i++) {
        const unsigned tens = p[2 + i] / 16, ones = p[2 + i] % 16;
        if (tens > 9 || ones > 9 || tens * 10 + ones >= limits[i])
            return false;
        seconds = seconds * 60 + tens * 10 + ones;
    }
    *ntp = ((int64_t)number(p, 2) - 15020) * 86400 + seconds;
    return true;
}

static void fields_drm(const uint8_t *data, size_t size, bool partial, bool trailing)
{
    bcast_drm_stkm m;
    bcast_error error;
    const int code = bcast_drm_stkm_decode(data, size, partial, trailing ? BCAST_LENIENT_TRAILING_BYTES : 0, &m, &error);
    unsigned facts = 0, bit = 0, id_length = 4, material = 0, criteria = 0, authentication = 0;
    size_t at = 0;
    bool compared[sizeof m] = {false};
#define REFUSED(status, where, what)                                                                                          \
    do {                                                                                                                      \
        MUST(code == (status) && error.code == code && error.offset == (where) && error.field == (what) && error.scope == 0); \
        return;                                                                                                               \
    } while (0)
    for (const row *r = rows; r < rows + sizeof rows / sizeof *rows; r++) {
        uint64_t value = 0;
        size_t start = at;
        if ((facts & r->when) != r->when)
            continue;
        if (r->bits != 0) {
            if (bit == 0 && at == size)
                REFUSED(BCAST_E_TRUNCATED, at, r->field);
            value = (uint64_t)(data[at] >> (8 - bit - r->bits)) & ((1U << r->bits) - 1);
            bit += r->bits;
            if (bit == 8) {
                bit = 0;
                at++;
            }
        } else if (r->bytes == LIST) {
            for (unsigned i = 0; i < criteria; i++) {
                static const int parts[3] = {BCAST_F_CRITERION_TAG, BCAST_F_CRITERION_LENGTH, BCAST_F_CRITERION_VALUE};
                for (int k = 0; k < 3; k++) {
                    const size_t length = k < 2 ? 1 : data[at - 1];
                    if (size - at < length) {
                        MUST(error.index[0] == i);
                        REFUSED(BCAST_E_TRUNCATED, at, parts[k]);
                    }
                    at += length;
                }
            }
            if (code == BCAST_OK)
                MUST(m.number_of_access_criteria == criteria && m.access_criteria.offset == start
                     && m.access_criteria.length == at - start);
        } else {
            const size_t length = r->bytes == ID ? id_length : r->bytes == MATERIAL ? material : r->bytes;
            if (size - at < length)
                REFUSED(BCAST_E_TRUNCATED, at, r->field);
            at += length;
            if (code == BCAST_OK && r->to != 0 && r->size == 0) { /* where it stands */
                uint32_t place;
                memcpy(&place, (const uint8_t *)&m + r->to, sizeof place);
                MUST(place == start);
            } else if (code == BCAST_OK && r->size == 4 && length == 4 && r->rule == ANY
                       && r->to > offsetof(bcast_drm_stkm, next_salt)) {
                uint32_t word;
                memcpy(&word, (const uint8_t *)&m + r->to, sizeof word);
                MUST(word == number(data + start, 4));
            } else if (code == BCAST_OK && r->size != 0) {
                MUST(memcmp((const uint8_t *)&m + r->to, data + start, length) == 0);
            }
        }
        if (code == BCAST_OK && r->bits != 0 && r->size == 1) {
            MUST(((const uint8_t *)&m)[r->to] == value);
            compared[r->to] = true;
        }
        switch (r->rule) {
        case ANY: break;
        case ZERO:
            if (value != 0)
                REFUSED(BCAST_E_BAD_VALUE, start, r->field);
            break;
        case VERSION_0:
            if (value != 0)
                REFUSED(BCAST_E_UNSUPPORTED, start, r->field);
            break;
        case PROTOCOL:
            if (value > 2)
                REFUSED(BCAST_E_UNSUPPORTED, start, r->field);
            facts |= 1U << value;
            break;
        case PARTS:
            if (value == 0 && !(facts & PROGRAMME))
                REFUSED(BCAST_E_BAD_VALUE, start, r->field);
            break;
        case ID_RANGE:
            if (value < 1 || value > 16)
                REFUSED(BCAST_E_BAD_LENGTH, start, r->field);
            id_length = (unsigned)value;
            break;
        case MATERIAL_RANGE:
            material = (facts & IPSEC) && authentication ? 32 : 16;
            if (value != material)
                REFUSED(BCAST_E_BAD_LENGTH, start, r->field);
            break;
        case BCD: {
            int64_t ntp;
            if (!clock_of(data + start, &ntp))
                REFUSED(BCAST_E_BAD_VALUE, start, r->field);
            MUST(code != BCAST_OK || m.timestamp == ntp);
            break;
        }
        case SEALED:
            for (size_t i = start; partial && i < at; i++)
                if (data[i] != 0)
                    REFUSED(BCAST_E_BAD_VALUE, start, r->field);
        }
        if (r->field == BCAST_F_TRAFFIC_AUTHENTICATION_FLAG)
            authentication = (unsigned)value;
        if (r->field == BCAST_F_NUMBER_OF_CRITERIA)
            criteria = (unsigned)value;
        static const struct {
            int field;
            unsigned fact, present;
        } flags[] = {{BCAST_F_ACCESS_CRITERIA_FLAG, CRITERIA, BCAST_DRM_CRITERIA},
                     {BCAST_F_NEXT_TRAFFIC_KEY_FLAG, NEXT, BCAST_DRM_NEXT},
                     {BCAST_F_TIMESTAMP_FLAG, TIMESTAMP, BCAST_DRM_TIMESTAMP},
                     {BCAST_F_PROGRAMME_FLAG, PROGRAMME, BCAST_DRM_PROGRAMME},
                     {BCAST_F_SERVICE_FLAG, SERVICE, BCAST_DRM_SERVICE},
                     {BCAST_F_PERMISSIONS_FLAG, PERMISSIONS, BCAST_DRM_PERMISSIONS}};
        for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
            if (r->field == flags[i].field) {
                facts |= value != 0 ? flags[i].fact : 0;
                MUST(code != BCAST_OK || ((m.present & flags[i].present) != 0) == (value != 0));
            }
    }
    if (at < size && !trailing)
        REFUSED(BCAST_E_TRAILING_BYTES, at, BCAST_F_NONE);
    MUST(code == BCAST_OK && m.size == at && m.id_length == id_length && compared[offsetof(bcast_drm_stkm, material_length)]);
}

/* --- MIKEY ------------------------------------------------------------------------------------------------------------------- */

/* What the three kinds of message have of each payload; NULL where a kind has none. */
typedef struct found {
    size_t size;
    uint32_t mac_at, counter;
    const uint8_t *csb_id, *key_domain_id, *sek_id, *tek_id, *rand;
    const bcast_span *encr_data, *id[2];
    unsigned tek_id_length;
} found;

static void fields_mikey(const uint8_t *data, const found *f)
{
    MUST(number(data + 4, 4) == number(f->csb_id, 4));
    unsigned payload = data[2], identities = 0;
    size_t at = 10;
    while (payload != 0) {
        const uint8_t *p = data + at;
        const unsigned here = payload;
        payload = p[0];
        switch (here) {
        case 5: /* T: type 8, COUNTER 32 */
            MUST(p[1] == 2 && number(p + 2, 4) == f->counter);
            at += 6;
            break;
        case 11: /* RAND: length 8 */
            MUST(p[1] == 16 && f->rand != NULL && memcmp(f->rand, p + 2, 16) == 0);
            at += 18;
            break;
        case 6: /* ID: type 8, length 16 */
            MUST(identities < 2 && f->id[identities] != NULL);
            MUST(f->id[identities]->offset == at + 4 && f->id[identities]->length == number(p + 2, 2));
            identities++;
            at += 4 + (size_t)number(p + 2, 2);
            break;
        case 10: at += 5 + (size_t)number(p + 3, 2); break;
        case 21: /* EXT: type 8, length 16; type 3: Key IDs, each type 8, length 8 */
            if (p[1] == 3) {
                MUST(p[4] == 0 && p[5] == 3 && memcmp(p + 6, f->key_domain_id, 3) == 0);
                MUST(p[9] == 1 && p[10] == 4 && memcmp(p + 11, f->sek_id, 4) == 0);
                MUST(f->tek_id == NULL || (p[15] == 2 && p[16] == f->tek_id_length && memcmp(p + 17, f->tek_id, p[16]) == 0));
            }
            at += 4 + (size_t)number(p + 2, 2);
            break;
        case 1: { /* KEMAC: algorithm 8, length 16, data, algorithm 8, MAC */
            const size_t length = (size_t)number(p + 2, 2);
            MUST(f->encr_data != NULL && f->encr_data->offset == at + 4 && f->encr_data->length == length);
            MUST(p[1] == p[4 + length]);
            at += 5 + length;
            MUST(f->mac_at == at);
            at += p[1] == 0 ? 0 : 20;
            break;
        }
        case 9: /* V: algorithm 8, MAC */
            MUST(p[1] == 1 && f->mac_at == at + 2);
            at += 22;
            break;
        default: MUST(false);
        }
    }
    MUST(at == f->size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    bcast_error error;
    if (size < 1)
        return 0;
    const unsigned flags = bytes[0] >> 2;
    const uint32_t lenient = flags & 7, partial = flags >> 3 & 1;
    uint8_t *data = fuzz_copy(bytes + 1, --size);
    switch (bytes[0] & 3) {
    case 0: fields_drm(data, size, partial, (lenient & BCAST_LENIENT_TRAILING_BYTES) != 0); break;
    case 1: {
        bcast_smartcard_stkm m;
        if (bcast_smartcard_stkm_decode(data, size, partial, lenient, &m, &error) == BCAST_OK)
            fields_mikey(data, &(found){.size = m.size,
                                        .mac_at = m.mac_at,
                                        .counter = m.counter,
                                        .csb_id = m.csb_id,
                                        .key_domain_id = m.key_domain_id,
                                        .sek_id = m.sek_id,
                                        .tek_id = m.tek_id,
                                        .tek_id_length = m.tek_id_length,
                                        .encr_data = &m.encr_data});
        break;
    }
    case 2: {
        bcast_smartcard_ltkm m;
        if (bcast_smartcard_ltkm_decode(data, size, lenient, &m, &error) == BCAST_OK)
            fields_mikey(data, &(found){.size = m.size,
                                        .mac_at = m.mac_at,
                                        .counter = m.counter,
                                        .csb_id = m.csb_id,
                                        .key_domain_id = m.key_domain_id,
                                        .sek_id = m.sek_id,
                                        .rand = m.rand,
                                        .id = {&m.idi, &m.idr},
                                        .encr_data = &m.encr_data});
        break;
    }
    default: {
        bcast_verification m;
        if (bcast_verification_decode(data, size, partial, lenient, &m, &error) == BCAST_OK)
            fields_mikey(
                data, &(found){.size = m.size, .mac_at = m.mac_at, .counter = m.counter, .csb_id = m.csb_id, .id = {&m.idr, NULL}});
    }
    }
    free(data);
    return 0;
}
