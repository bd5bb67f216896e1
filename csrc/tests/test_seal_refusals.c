/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every message that is refused before anything is written, one rule at a time: a good message, the fields that are set otherwise,
 * and the code and place that must come out - alone, behind a good one in a batch, and before one.
 */
#include "test.h"

enum kind { DRM, DRM_PARTIAL, STKM, STKM_PARTIAL, LTKM, VERIFICATION, KINDS };

/* A field and its value; a size of 0 ends the list. */
typedef struct set {
    size_t at, size;
    uint64_t value;
} set;

typedef struct refusal {
    enum kind kind;
    const char *base; /* hexadecimal, what spans count from */
    set sets[5];
    int code, scope, field;
    uint32_t index[2];
} refusal;

#define D(field, value)                                                                          \
    {                                                                                            \
        offsetof(bcast_drm_stkm, field), sizeof(((bcast_drm_stkm *)0)->field), (uint64_t)(value) \
    }
#define S(field, value)                                                                                      \
    {                                                                                                        \
        offsetof(bcast_smartcard_stkm, field), sizeof(((bcast_smartcard_stkm *)0)->field), (uint64_t)(value) \
    }
#define L(field, value)                                                                                      \
    {                                                                                                        \
        offsetof(bcast_smartcard_ltkm, field), sizeof(((bcast_smartcard_ltkm *)0)->field), (uint64_t)(value) \
    }
#define V(field, value)                                                                                  \
    {                                                                                                    \
        offsetof(bcast_verification, field), sizeof(((bcast_verification *)0)->field), (uint64_t)(value) \
    }
#define MESSAGE BCAST_S_MESSAGE
#define PAYLOAD BCAST_S_PAYLOAD
#define MANAGEMENT BCAST_S_MANAGEMENT
#define POLICY BCAST_S_POLICY

/* Special bases, made by base_of(). */
static const char many_items[] = "many", long_items[] = "long", middling_items[] = "middling", long_text[] = "text";

static const refusal table[] = {
    /* DRM STKM, in the order of the layout; the good one: service, IPsec, 4-byte SPI, 16 bytes of material */
    {DRM, "", {D(present, 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SERVICE_FLAG, {0, 0}},
    {DRM, "", {D(present, BCAST_DRM_TIMESTAMP)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SERVICE_FLAG, {0, 0}},
    {DRM, "", {D(protection_after_reception, 4)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_PROTECTION_AFTER_RECEPTION, {0, 0}},
    {DRM, "", {D(protection_after_reception, 255)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_PROTECTION_AFTER_RECEPTION, {0, 0}},
    {DRM, "", {D(traffic_protection_protocol, 3)}, BCAST_E_UNSUPPORTED, MESSAGE, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL, {0, 0}},
    {DRM, "", {D(traffic_protection_protocol, 255)}, BCAST_E_UNSUPPORTED, MESSAGE, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL, {0, 0}},
    {DRM, "", {D(traffic_authentication_flag, 2)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TRAFFIC_AUTHENTICATION_FLAG, {0, 0}},
    {DRM, "", {D(id_length, 3)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_SECURITY_PARAMETER_INDEX, {0, 0}},
    {DRM, "", {D(id_length, 5)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_SECURITY_PARAMETER_INDEX, {0, 0}},
    {DRM,
     "",
     {D(traffic_protection_protocol, BCAST_SRTP), D(id_length, 0)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_MASTER_KEY_INDEX_LENGTH,
     {0, 0}},
    {DRM,
     "",
     {D(traffic_protection_protocol, BCAST_SRTP), D(id_length, 17)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_MASTER_KEY_INDEX_LENGTH,
     {0, 0}},
    {DRM,
     "",
     {D(traffic_protection_protocol, BCAST_ISMACRYP), D(id_length, 0)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_KEY_INDICATOR_LENGTH,
     {0, 0}},
    {DRM,
     "",
     {D(traffic_protection_protocol, BCAST_ISMACRYP), D(id_length, 17)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_KEY_INDICATOR_LENGTH,
     {0, 0}},
    {DRM, "", {D(material_length, 0)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_TRAFFIC_KEY_MATERIAL, {0, 0}},
    {DRM, "", {D(material_length, 32)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_TRAFFIC_KEY_MATERIAL, {0, 0}},
    {DRM, "", {D(traffic_authentication_flag, 1)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_TRAFFIC_KEY_MATERIAL, {0, 0}},
    {DRM,
     "",
     {D(traffic_protection_protocol, BCAST_SRTP), D(traffic_authentication_flag, 1), D(material_length, 32)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_TRAFFIC_KEY_MATERIAL,
     {0, 0}},
    {DRM, "", {D(traffic_key_lifetime, 16)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TRAFFIC_KEY_LIFETIME, {0, 0}},
    {DRM,
     "",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_PERMISSIONS)},
     BCAST_E_BAD_VALUE,
     MESSAGE,
     BCAST_F_PERMISSIONS_CATEGORY,
     {0, 0}},
    {DRM, "", {D(present, BCAST_DRM_SERVICE | 64)}, BCAST_E_ARGUMENT, MESSAGE, BCAST_F_NONE, {0, 0}},
    {DRM, "", {D(present, BCAST_DRM_SERVICE | 128)}, BCAST_E_ARGUMENT, MESSAGE, BCAST_F_NONE, {0, 0}},
    {DRM,
     "",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_TIMESTAMP), D(timestamp, INT64_C(-1297728001))},
     BCAST_E_BAD_VALUE,
     MESSAGE,
     BCAST_F_TIMESTAMP,
     {0, 0}},
    {DRM,
     "",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_TIMESTAMP), D(timestamp, INT64_C(4364582400))},
     BCAST_E_BAD_VALUE,
     MESSAGE,
     BCAST_F_TIMESTAMP,
     {0, 0}},
    {DRM,
     "",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_TIMESTAMP), D(timestamp, INT64_MIN)},
     BCAST_E_BAD_VALUE,
     MESSAGE,
     BCAST_F_TIMESTAMP,
     {0, 0}},
    {DRM,
     "",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_TIMESTAMP), D(timestamp, INT64_MAX)},
     BCAST_E_BAD_VALUE,
     MESSAGE,
     BCAST_F_TIMESTAMP,
     {0, 0}},
    {DRM,
     "0100",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.offset, 1), D(access_criteria.length, 2)},
     BCAST_E_SPAN,
     MESSAGE,
     BCAST_F_ACCESS_CRITERIA,
     {0, 0}},
    {DRM,
     "0100",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.offset, UINT32_MAX), D(access_criteria.length, 2)},
     BCAST_E_SPAN,
     MESSAGE,
     BCAST_F_ACCESS_CRITERIA,
     {0, 0}},
    {DRM,
     "01000105",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.length, 4)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_CRITERION_LENGTH,
     {1, 0}},
    {DRM,
     "010001",
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.length, 3)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_CRITERION_LENGTH,
     {1, 0}},
    {DRM,
     many_items,
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.length, 512)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_NUMBER_OF_CRITERIA,
     {0, 0}},
    {DRM,
     long_items,
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.length, 6 * 252)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_CRITERION_VALUE,
     {0, 0}},
    {DRM,
     middling_items,
     {D(present, BCAST_DRM_SERVICE | BCAST_DRM_CRITERIA), D(access_criteria.length, 250 * 6)},
     BCAST_E_BAD_LENGTH,
     MESSAGE,
     BCAST_F_MATERIAL,
     {0, 0}},
    {DRM_PARTIAL, "", {D(present, 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SERVICE_FLAG, {0, 0}},
    {DRM_PARTIAL, "", {D(traffic_key_lifetime, 16)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TRAFFIC_KEY_LIFETIME, {0, 0}},

    /* Smartcard STKM; the good one: management data, SRTP, salt */
    {STKM, "", {S(has_salt, 2)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SALT, {0, 0}},
    {STKM, "", {S(has_management, 2)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_MANAGEMENT, {0, 0}},
    {STKM, "", {S(has_salt, 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SALT, {0, 0}},
    {STKM, "", {S(traffic_protection_protocol, BCAST_IPSEC)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SALT, {0, 0}},
    {STKM, "", {S(sek_id[1], 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SEK_ID, {0, 0}},
    {STKM, "", {S(sek_id[3], 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SEK_ID, {0, 0}},
    {STKM, "", {S(tek_id[1], 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TEK_ID, {0, 0}},
    {STKM, "", {S(tek_id[0], 255), S(tek_id[1], 255)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TEK_ID, {0, 0}},
    {STKM, "", {S(tek_id_length, 4)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_ID_LENGTH, {0, 2}},
    {STKM, "", {S(tek_id_length, 0)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_ID_LENGTH, {0, 2}},
    {STKM, "0300", {S(other_key_ids.offset, 1), S(other_key_ids.length, 2)}, BCAST_E_SPAN, MESSAGE, BCAST_F_OTHER_KEY_IDS, {0, 0}},
    {STKM, "03000200", {S(other_key_ids.length, 4)}, BCAST_E_BAD_VALUE, PAYLOAD, BCAST_F_KEY_ID_TYPE, {0, 4}},
    {STKM, "03000405", {S(other_key_ids.length, 4)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_ID_LENGTH, {0, 4}},
    {STKM, "", {S(protection_after_reception, 4)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_PROTECTION_AFTER_RECEPTION, {1, 0}},
    {STKM,
     "",
     {S(traffic_protection_protocol, 3), S(has_salt, 0)},
     BCAST_E_UNSUPPORTED,
     MANAGEMENT,
     BCAST_F_TRAFFIC_PROTECTION_PROTOCOL,
     {1, 0}},
    {STKM, "", {S(traffic_authentication_flag, 2)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_TRAFFIC_AUTHENTICATION_FLAG, {1, 0}},
    {STKM, "", {S(traffic_key_lifetime, 16)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_TRAFFIC_KEY_LIFETIME, {1, 0}},
    {STKM, "", {S(tail.has_criteria, 2)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_ACCESS_CRITERIA_FLAG, {1, 0}},
    {STKM, "", {S(tail.has_binding, 2)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_TERMINAL_BINDING_FLAG, {1, 0}},
    {STKM,
     "0100",
     {S(tail.has_criteria, 1), S(tail.access_criteria.length, 3)},
     BCAST_E_SPAN,
     MANAGEMENT,
     BCAST_F_ACCESS_CRITERIA,
     {1, 0}},
    {STKM,
     "01000107",
     {S(tail.has_criteria, 1), S(tail.access_criteria.length, 4)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_CRITERION_LENGTH,
     {1, 1}},
    {STKM,
     many_items,
     {S(tail.has_criteria, 1), S(tail.access_criteria.length, 512)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_NUMBER_OF_CRITERIA,
     {1, 0}},
    {STKM,
     "00",
     {S(tail.has_binding, 1), S(tail.permissions_issuer_uri.length, 2)},
     BCAST_E_SPAN,
     MANAGEMENT,
     BCAST_F_PERMISSIONS_ISSUER_URI,
     {1, 0}},
    {STKM,
     long_text,
     {S(tail.has_binding, 1), S(tail.permissions_issuer_uri.length, 256), S(max_size, 1000)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH,
     {1, 0}},
    {STKM,
     long_text,
     {S(tail.has_binding, 1), S(tail.permissions_issuer_uri.length, 200)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_PERMISSIONS_ISSUER_URI,
     {1, 0}},
    {STKM,
     long_items,
     {S(tail.has_criteria, 1), S(tail.access_criteria.length, 252)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_CRITERION_VALUE,
     {1, 0}},
    {STKM, long_items, {S(other_key_ids.length, 252)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_ID_VALUE, {0, 3}},
    {STKM, "", {S(max_size, 102)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_ENCR_DATA, {3, 0}},
    {STKM, "", {S(max_size, 1), S(has_management, 0)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_ENCR_DATA, {2, 0}},
    {STKM_PARTIAL, "", {S(max_size, 82)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_DATA, {3, 0}},
    {STKM_PARTIAL, "", {S(has_salt, 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SALT, {0, 0}},

    /* Smartcard LTKM; the good one: management data, window 1..9, no policy */
    {LTKM, "", {L(ts_low, UINT32_MAX), L(ts_high, 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SEK, {0, 0}},
    {LTKM, "", {L(ts_low, 10), L(ts_high, 9)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TS_HIGH, {0, 0}},
    {LTKM, "", {L(ts_low, 0), L(ts_high, BCAST_WINDOW_MAX + 1U)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_TS_HIGH, {0, 0}},
    {LTKM, "", {L(interval_length, 2)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_INTERVAL_LENGTH, {0, 0}},
    {LTKM, "", {L(interval_length, 0)}, BCAST_E_BAD_LENGTH, MESSAGE, BCAST_F_INTERVAL_LENGTH, {0, 0}},
    {LTKM, "", {L(key_data_type, 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_KEY_DATA_TYPE, {0, 0}},
    {LTKM, "", {L(key_data_type, 1)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_KEY_DATA_TYPE, {0, 0}},
    {LTKM, "", {L(key_data_type, 3)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_KEY_DATA_TYPE, {0, 0}},
    {LTKM, "", {L(sek_id[1], 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SEK_ID, {0, 0}},
    {LTKM, "", {L(sek_id[3], 0)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_SEK_ID, {0, 0}},
    {LTKM, "", {L(verification_requested, 2)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_V, {0, 0}},
    {LTKM, "0300", {L(other_key_ids.length, 3)}, BCAST_E_SPAN, MESSAGE, BCAST_F_OTHER_KEY_IDS, {0, 0}},
    {LTKM, "0200", {L(other_key_ids.length, 2)}, BCAST_E_BAD_VALUE, PAYLOAD, BCAST_F_KEY_ID_TYPE, {0, 2}},
    {LTKM, "0301", {L(other_key_ids.length, 2)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_ID_LENGTH, {0, 2}},
    {LTKM, "00", {L(idi.length, 2)}, BCAST_E_SPAN, MESSAGE, BCAST_F_IDI, {0, 0}},
    {LTKM, "00", {L(idr.offset, 1), L(idr.length, 1)}, BCAST_E_SPAN, MESSAGE, BCAST_F_IDR, {0, 0}},
    {LTKM, "", {L(has_management, 2)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_SECURITY_POLICY_EXT_FLAG, {1, 0}},
    {LTKM, "", {L(has_policy, 2)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_SECURITY_POLICY_EXT_FLAG, {1, 0}},
    {LTKM, "", {L(consumption_reporting_flag, 1)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_CONSUMPTION_REPORTING_FLAG, {1, 0}},
    {LTKM,
     "",
     {L(verification_requested, 1), L(consumption_reporting_flag, 2)},
     BCAST_E_BAD_VALUE,
     MANAGEMENT,
     BCAST_F_CONSUMPTION_REPORTING_FLAG,
     {1, 0}},
    {LTKM, "", {L(has_policy, 1), L(policy.present, 16)}, BCAST_E_ARGUMENT, POLICY, BCAST_F_NONE, {1, 0}},
    {LTKM, "", {L(has_policy, 1), L(policy.purse_mode, 1)}, BCAST_E_BAD_VALUE, POLICY, BCAST_F_PURSE_MODE, {1, 0}},
    {LTKM,
     "",
     {L(has_policy, 1), L(policy.present, BCAST_POLICY_PURSE), L(policy.purse_mode, 2)},
     BCAST_E_BAD_VALUE,
     POLICY,
     BCAST_F_PURSE_MODE,
     {1, 0}},
    {LTKM, "", {L(has_policy, 1), L(policy.playback_mode, 1)}, BCAST_E_BAD_VALUE, POLICY, BCAST_F_PLAYBACK_MODE, {1, 0}},
    {LTKM, "", {L(has_policy, 1), L(policy.tek_mode, 1)}, BCAST_E_BAD_VALUE, POLICY, BCAST_F_TEK_MODE, {1, 0}},
    {LTKM, "", {L(tail.has_criteria, 2)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_ACCESS_CRITERIA_FLAG, {1, 0}},
    {LTKM, "", {L(tail.has_binding, 255)}, BCAST_E_BAD_VALUE, MANAGEMENT, BCAST_F_TERMINAL_BINDING_FLAG, {1, 0}},
    {LTKM,
     "0101",
     {L(tail.has_criteria, 1), L(tail.access_criteria.length, 2)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_CRITERION_LENGTH,
     {1, 0}},
    {LTKM, "", {L(idr_type, 2)}, BCAST_E_UNSUPPORTED, PAYLOAD, BCAST_F_ID_TYPE, {5, 0}},
    {LTKM, "", {L(idr_type, 2), L(has_management, 0)}, BCAST_E_UNSUPPORTED, PAYLOAD, BCAST_F_ID_TYPE, {4, 0}},
    {LTKM, "", {L(max_size, 60)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_ENCR_DATA, {6, 0}},
    {LTKM, long_text, {L(idi.length, 200)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_ID, {4, 0}},
    {LTKM, long_text, {L(idi.length, 100), L(idr.length, 101)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_ID, {5, 0}},
    {LTKM, long_items, {L(other_key_ids.length, 252)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_KEY_ID_VALUE, {0, 2}},
    {LTKM,
     long_text,
     {L(tail.has_binding, 1), L(tail.permissions_issuer_uri.length, 255)},
     BCAST_E_BAD_LENGTH,
     MANAGEMENT,
     BCAST_F_PERMISSIONS_ISSUER_URI,
     {1, 0}},

    /* Verification message; the good one: no identity, no reporting */
    {VERIFICATION, "", {V(has_reporting, 2)}, BCAST_E_BAD_VALUE, MESSAGE, BCAST_F_REPORTING, {0, 0}},
    {VERIFICATION, "00", {V(idr.length, 2)}, BCAST_E_SPAN, MESSAGE, BCAST_F_IDR, {0, 0}},
    {VERIFICATION, "", {V(idr_type, 2)}, BCAST_E_UNSUPPORTED, PAYLOAD, BCAST_F_ID_TYPE, {1, 0}},
    {VERIFICATION,
     "000000",
     {V(idr_type, 2), V(has_reporting, 1), V(reporting.length, 3)},
     BCAST_E_UNSUPPORTED,
     PAYLOAD,
     BCAST_F_ID_TYPE,
     {2, 0}},
    {VERIFICATION, "0000", {V(has_reporting, 1), V(reporting.length, 3)}, BCAST_E_SPAN, MESSAGE, BCAST_F_REPORTING, {0, 0}},
    {VERIFICATION,
     "0000",
     {V(has_reporting, 1), V(reporting.length, 2)},
     BCAST_E_TRUNCATED,
     MANAGEMENT,
     BCAST_F_NUMBER_OF_ENTRIES,
     {0, 0}},
    {VERIFICATION,
     "100000",
     {V(has_reporting, 1), V(reporting.length, 3)},
     BCAST_E_UNSUPPORTED,
     MANAGEMENT,
     BCAST_F_PROTOCOL_VERSION,
     {0, 0}},
    {VERIFICATION,
     "010000",
     {V(has_reporting, 1), V(reporting.length, 3)},
     BCAST_E_BAD_VALUE,
     MANAGEMENT,
     BCAST_F_RESERVED,
     {0, 0}},
    {VERIFICATION,
     "000001",
     {V(has_reporting, 1), V(reporting.length, 3)},
     BCAST_E_TRUNCATED,
     BCAST_S_ENTRY,
     BCAST_F_ENTRY_KEY_DOMAIN_ID,
     {0, 0}},
    {VERIFICATION,
     "00000000",
     {V(has_reporting, 1), V(reporting.length, 4)},
     BCAST_E_TRAILING_BYTES,
     MANAGEMENT,
     BCAST_F_NONE,
     {0, 0}},
    {VERIFICATION, "", {V(max_size, 41)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_VER_DATA, {2, 0}},
    {VERIFICATION, long_text, {V(idr.length, 230)}, BCAST_E_BAD_LENGTH, PAYLOAD, BCAST_F_ID, {1, 0}},
};

typedef union any {
    bcast_drm_stkm drm;
    bcast_smartcard_stkm stkm;
    bcast_smartcard_ltkm ltkm;
    bcast_verification verification;
} any;

static void good(enum kind kind, any *m)
{
    memset(m, 0, sizeof *m);
    if (kind <= DRM_PARTIAL) {
        m->drm = (bcast_drm_stkm){.present = BCAST_DRM_SERVICE, .id_length = 4, .material_length = 16};
    } else if (kind <= STKM_PARTIAL) {
        m->stkm = (bcast_smartcard_stkm){
            .sek_id = {0, 1, 0, 1}, .tek_id = {0, 1}, .tek_id_length = 2, .has_salt = 1, .has_management = 1,
            .traffic_protection_protocol = BCAST_SRTP};
    } else if (kind == LTKM) {
        m->ltkm = (bcast_smartcard_ltkm){
            .sek_id = {0, 1, 0, 1}, .sek = {1}, .ts_low = 1, .ts_high = 9, .key_data_type = BCAST_LTKM_KEY_TYPE,
            .interval_length = 4, .has_management = 1};
    }
}

static void apply(any *m, const set *s)
{
    for (; s->size != 0; s++) {
        uint8_t *to = (uint8_t *)m + s->at;
        const uint8_t byte = (uint8_t)s->value;
        const uint32_t word = (uint32_t)s->value;
        if (s->size == 1)
            *to = byte;
        else if (s->size == 4)
            memcpy(to, &word, sizeof word);
        else
            memcpy(to, &s->value, sizeof s->value);
    }
}

static uint32_t base_of(const char *text, uint8_t *base)
{
    memset(base, 0, 2000);
    if (text == many_items) /* 256 empty ones */
        return 512;
    if (text == long_items) { /* six of 250 bytes; as Key IDs of type 3 */
        for (size_t i = 0; i < 6; i++) {
            base[i * 252] = 3;
            base[i * 252 + 1] = 250;
        }
        return 6 * 252;
    }
    if (text == middling_items) { /* 250 of 4 bytes: none is longer than the key material */
        for (size_t i = 0; i < 250; i++)
            base[i * 6 + 1] = 4;
        return 250 * 6;
    }
    if (text == long_text)
        return 300;
    return (uint32_t)unhex(text, base);
}

static bcast_drm_key *drm;
static bcast_smartcard_key *card;
static bcast_smk *smk;

static int seal(enum kind kind, const any *m, const uint8_t *base, uint32_t base_length, uint8_t *out, size_t room, size_t *length,
                bcast_error *error)
{
    static const uint8_t rand[16];
    static const bcast_answered ltkm = {rand, NULL, 0};
    switch (kind) {
    case DRM: return bcast_drm_stkm_seal(provider, drm, &m->drm, base, base_length, out, room, length, error);
    case DRM_PARTIAL: return bcast_drm_stkm_partial(&m->drm, base, base_length, out, room, length, error);
    case STKM: return bcast_smartcard_stkm_seal(provider, card, &m->stkm, base, base_length, out, room, length, error);
    case STKM_PARTIAL: return bcast_smartcard_stkm_partial(&m->stkm, base, base_length, out, room, length, error);
    case LTKM: return bcast_smartcard_ltkm_seal(provider, smk, &m->ltkm, base, base_length, out, room, length, error);
    default: return bcast_verification_seal(provider, smk, &ltkm, &m->verification, base, base_length, out, room, length, error);
    }
}

/* The middle one of three is refused, the others are done. */
static void in_company(const refusal *r, const any *m, const any *other, const uint8_t *base, uint32_t base_length)
{
    uint8_t arena[1000];
    size_t used;
    int code;
    bcast_error error;
    uint32_t lengths[3];
    const bcast_error fine = {0, BCAST_NO_OFFSET, 0, 0, {0, 0}};
#define THREE(job, k, field, call)                                                                                 \
    do {                                                                                                           \
        job jobs[3] = {{.key = k, .message = &other->field},                                                       \
                       {.key = k, .message = &m->field, .base = base, .base_length = base_length},                 \
                       {.key = k, .message = &other->field}};                                                      \
        code = call(provider, jobs, 3, arena, sizeof arena, &used);                                                \
        error = jobs[1].error;                                                                                     \
        for (int i = 0; i < 3; i++)                                                                                \
            lengths[i] = jobs[i].length;                                                                           \
        CHECK(memcmp(&jobs[0].error, &fine, sizeof fine) == 0 && memcmp(&jobs[2].error, &fine, sizeof fine) == 0); \
    } while (0)
    if (r->kind == DRM)
        THREE(bcast_drm_seal_job, drm, drm, bcast_drm_stkm_seal_batch);
    else if (r->kind == STKM)
        THREE(bcast_smartcard_seal_job, card, stkm, bcast_smartcard_stkm_seal_batch);
    else if (r->kind == LTKM)
        THREE(bcast_ltkm_seal_job, smk, ltkm, bcast_smartcard_ltkm_seal_batch);
    else
        return;
    CHECK(code == BCAST_E_SOME && used == 2 * (size_t)lengths[0] && lengths[0] == lengths[2] && lengths[0] != 0 && lengths[1] == 0);
    CHECK(error.code == r->code && error.scope == r->scope && error.field == r->field && error.offset == BCAST_NO_OFFSET
          && error.index[0] == r->index[0] && error.index[1] == r->index[1]);
}

static void refusal_table(void)
{
    static uint8_t base[2000];
    uint8_t out[300];
    size_t length;
    bcast_error error;
    any m, other;
    static const uint8_t raw[64] = {1, 2, 3};
    drm = drm_key(raw, raw + 16, raw + 32, raw + 48);
    card = smartcard_key("303132333435363738393a3b3c3d3e3f", "a1b2c3d4", "202122232425262728292a2b2c2d2e2f");
    smk = smk_key("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    for (int kind = 0; kind < KINDS; kind++) {
        good((enum kind)kind, &m);
        CHECK(seal((enum kind)kind, &m, NULL, 0, out, sizeof out, &length, &error) == BCAST_OK && length > 0);
    }
    for (const refusal *r = table; r < table + sizeof table / sizeof *table; r++) {
        const uint32_t base_length = base_of(r->base, base);
        good(r->kind, &m);
        other = m;
        apply(&m, r->sets);
        memset(out, 0x5a, sizeof out);
        const int code = seal(r->kind, &m, base, base_length, out, sizeof out, &length, &error);
        const bool same = code == r->code && error.code == code && error.scope == r->scope && error.field == r->field
                          && error.offset == BCAST_NO_OFFSET && error.index[0] == r->index[0] && error.index[1] == r->index[1];
        if (!same)
            printf("row %d: %s, scope %u, field %u, index %u %u\n", (int)(r - table), bcast_status_name(code), error.scope,
                   error.field, error.index[0], error.index[1]);
        CHECK(same && length == 0);
        for (size_t i = 0; i < sizeof out; i++)
            CHECK(out[i] == 0x5a);
        in_company(r, &m, &other, base, base_length);
    }
    /* A structure of nothing but zeros, or ones: whatever is said, it is the same alone, first and later. */
    for (int kind = 0; kind < KINDS; kind++)
        for (int value = 0; value < 256; value += 255) {
            refusal r = {.kind = (enum kind)kind};
            good((enum kind)kind, &other);
            memset(&m, value, sizeof m);
            r.code = seal((enum kind)kind, &m, NULL, 0, out, sizeof out, &length, &error);
            if (r.code == BCAST_OK)
                continue; /* a verification message of zeros is a good one */
            r.scope = error.scope;
            r.field = error.field;
            memcpy(r.index, error.index, sizeof r.index);
            CHECK(length == 0);
            in_company(&r, &m, &other, NULL, 0);
        }
    drop_drm(drm);
    drop_smartcard(card);
    drop_smk(smk);
}

const struct test seal_refusal_tests[] = {{"seal refusals", refusal_table}, {NULL, NULL}};
