/* SPDX-License-Identifier: Apache-2.0 */
/* Codes and places of errors in words. */
#include "cursor.h"

const char *bcast_version(void) { return "1.0.0"; }
_Static_assert(BCAST_VERSION_MAJOR == 1 && BCAST_VERSION_MINOR == 0 && BCAST_VERSION_PATCH == 0, "bcast_version()");

const char *bcast_status_name(int status)
{
    switch (status) {
    case BCAST_OK: return "ok";
    case BCAST_E_ARGUMENT: return "argument";
    case BCAST_E_STORAGE: return "storage";
    case BCAST_E_NOT_READY: return "not_ready";
    case BCAST_E_ROOM: return "room";
    case BCAST_E_OVERLAP: return "overlap";
    case BCAST_E_SPAN: return "span";
    case BCAST_E_USE: return "use";
    case BCAST_E_NO_PROVIDER: return "no_provider";
    case BCAST_E_TRUNCATED: return "truncated";
    case BCAST_E_TRAILING_BYTES: return "trailing_bytes";
    case BCAST_E_BAD_LENGTH: return "bad_length";
    case BCAST_E_BAD_VALUE: return "bad_value";
    case BCAST_E_UNSUPPORTED: return "unsupported";
    case BCAST_E_INTEGRITY: return "integrity";
    case BCAST_E_KEY_UNAVAILABLE: return "key_unavailable";
    case BCAST_E_CRYPTO: return "crypto";
    case BCAST_E_KNOWN_ANSWER: return "known_answer";
    case BCAST_E_SOME: return "some";
    default: return "unknown";
    }
}

/* '#' stands for the next index. */
static const char *const scopes[] = {
    [BCAST_S_MESSAGE] = "",
    [BCAST_S_PAYLOAD] = "payloads[#].",
    [BCAST_S_MANAGEMENT] = "payloads[#].management.",
    [BCAST_S_POLICY] = "payloads[#].management.security_policy_ext.",
    [BCAST_S_ENTRY] = "payloads[#].management.entries[#].",
    [BCAST_S_KEY_DATA] = "payloads[#].key_data[#].",
    [BCAST_S_KEMAC] = "KEMAC.",
    [BCAST_S_ENCR_DATA] = "KEMAC.encr_data.[#].",
    [BCAST_S_ENCR_DATA_END] = "KEMAC.encr_data.",
};

static const char *const fields[BCAST_F_COUNT] = {
    [BCAST_F_NONE] = "",
    [BCAST_F_PROTOCOL_VERSION] = "protocol_version",
    [BCAST_F_PROTECTION_AFTER_RECEPTION] = "protection_after_reception",
    [BCAST_F_RESERVED] = "reserved_for_future_use",
    [BCAST_F_ACCESS_CRITERIA_FLAG] = "access_criteria_flag",
    [BCAST_F_TRAFFIC_PROTECTION_PROTOCOL] = "traffic_protection_protocol",
    [BCAST_F_TRAFFIC_AUTHENTICATION_FLAG] = "traffic_authentication_flag",
    [BCAST_F_TRAFFIC_KEY_LIFETIME] = "traffic_key_lifetime",
    [BCAST_F_NUMBER_OF_CRITERIA] = "number_of_access_criteria_descriptors",
    [BCAST_F_ACCESS_CRITERIA] = "access_criteria",
    [BCAST_F_CRITERION_TAG] = "access_criteria[#].tag",
    [BCAST_F_CRITERION_LENGTH] = "access_criteria[#].length",
    [BCAST_F_CRITERION_VALUE] = "access_criteria[#].value",
    [BCAST_F_NEXT_TRAFFIC_KEY_FLAG] = "next_traffic_key_flag",
    [BCAST_F_TIMESTAMP_FLAG] = "timestamp_flag",
    [BCAST_F_PROGRAMME_FLAG] = "programme_flag",
    [BCAST_F_SERVICE_FLAG] = "service_flag",
    [BCAST_F_SECURITY_PARAMETER_INDEX] = "security_parameter_index",
    [BCAST_F_NEXT_SECURITY_PARAMETER_INDEX] = "next_security_parameter_index",
    [BCAST_F_MASTER_KEY_INDEX_LENGTH] = "master_key_index_length",
    [BCAST_F_MASTER_KEY_INDEX] = "master_key_index",
    [BCAST_F_NEXT_MASTER_KEY_INDEX] = "next_master_key_index",
    [BCAST_F_MASTER_SALT] = "master_salt",
    [BCAST_F_NEXT_MASTER_SALT] = "next_master_salt",
    [BCAST_F_KEY_INDICATOR_LENGTH] = "key_indicator_length",
    [BCAST_F_KEY_INDICATOR] = "key_indicator",
    [BCAST_F_NEXT_KEY_INDICATOR] = "next_key_indicator",
    [BCAST_F_MATERIAL_LENGTH] = "encrypted_traffic_key_material_length",
    [BCAST_F_MATERIAL] = "encrypted_traffic_key_material",
    [BCAST_F_NEXT_MATERIAL] = "next_encrypted_traffic_key_material",
    [BCAST_F_TIMESTAMP] = "timestamp",
    [BCAST_F_PERMISSIONS_FLAG] = "permissions_flag",
    [BCAST_F_PERMISSIONS_CATEGORY] = "permissions_category",
    [BCAST_F_ENCRYPTED_PEK] = "encrypted_PEK",
    [BCAST_F_PROGRAMME_CID_EXTENSION] = "programme_CID_extension",
    [BCAST_F_PROGRAMME_MAC] = "programme_MAC",
    [BCAST_F_SERVICE_CID_EXTENSION] = "service_CID_extension",
    [BCAST_F_SERVICE_MAC] = "service_MAC",
    [BCAST_F_VERSION] = "version",
    [BCAST_F_DATA_TYPE] = "data_type",
    [BCAST_F_NEXT_PAYLOAD] = "next_payload",
    [BCAST_F_V] = "v",
    [BCAST_F_PRF_FUNC] = "prf_func",
    [BCAST_F_CSB_ID] = "csb_id",
    [BCAST_F_NUMBER_OF_CS] = "number_of_cs",
    [BCAST_F_CS_ID_MAP_TYPE] = "cs_id_map_type",
    [BCAST_F_EXT_TYPE] = "ext_type",
    [BCAST_F_LENGTH] = "length",
    [BCAST_F_DATA] = "data",
    [BCAST_F_KEY_ID_TYPE] = "ids[#].type",
    [BCAST_F_KEY_ID_LENGTH] = "ids[#].length",
    [BCAST_F_KEY_ID_VALUE] = "ids[#].value",
    [BCAST_F_SUBTYPE] = "subtype",
    [BCAST_F_TS_TYPE] = "ts_type",
    [BCAST_F_TS_VALUE] = "ts_value",
    [BCAST_F_RAND_LEN] = "rand_len",
    [BCAST_F_RAND] = "rand",
    [BCAST_F_ID_TYPE] = "id_type",
    [BCAST_F_ID_LEN] = "id_len",
    [BCAST_F_ID] = "id",
    [BCAST_F_POLICY_NO] = "policy_no",
    [BCAST_F_PROT_TYPE] = "prot_type",
    [BCAST_F_PARAM_LENGTH] = "param_length",
    [BCAST_F_PARAMS] = "params",
    [BCAST_F_PARAM_TYPE] = "params[#].type",
    [BCAST_F_PARAM_LEN] = "params[#].len",
    [BCAST_F_PARAM_VALUE] = "params[#].value",
    [BCAST_F_ENCR_ALG] = "encr_alg",
    [BCAST_F_ENCR_DATA_LEN] = "encr_data_len",
    [BCAST_F_ENCR_DATA] = "encr_data",
    [BCAST_F_KEY_DATA] = "key_data",
    [BCAST_F_MAC_ALG] = "mac_alg",
    [BCAST_F_MAC] = "mac",
    [BCAST_F_AUTH_ALG] = "auth_alg",
    [BCAST_F_VER_DATA] = "ver_data",
    [BCAST_F_TYPE] = "type",
    [BCAST_F_KV] = "kv",
    [BCAST_F_KEY_LEN] = "key_len",
    [BCAST_F_KEY] = "key",
    [BCAST_F_SALT_LEN] = "salt_len",
    [BCAST_F_SALT] = "salt",
    [BCAST_F_VF_LEN] = "vf_len",
    [BCAST_F_VF] = "vf",
    [BCAST_F_VT_LEN] = "vt_len",
    [BCAST_F_VT] = "vt",
    [BCAST_F_MANAGEMENT] = "management",
    [BCAST_F_TERMINAL_BINDING_FLAG] = "terminal_binding_flag",
    [BCAST_F_TERMINAL_BINDING_KEY_ID] = "terminal_binding_key_id",
    [BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH] = "permissions_issuer_uri_length",
    [BCAST_F_PERMISSIONS_ISSUER_URI] = "permissions_issuer_uri",
    [BCAST_F_SECURITY_POLICY_EXT_FLAG] = "security_policy_ext_flag",
    [BCAST_F_CONSUMPTION_REPORTING_FLAG] = "consumption_reporting_flag",
    [BCAST_F_SECURITY_POLICY_EXTENSION] = "security_policy_extension",
    [BCAST_F_COST_FLAG] = "cost_flag",
    [BCAST_F_PURSE_FLAG] = "purse_flag",
    [BCAST_F_PURSE_MODE] = "purse_mode",
    [BCAST_F_PLAYBACK_FLAG] = "playback_flag",
    [BCAST_F_PLAYBACK_MODE] = "playback_mode",
    [BCAST_F_TEK_FLAG] = "tek_flag",
    [BCAST_F_TEK_MODE] = "tek_mode",
    [BCAST_F_COST_VALUE] = "cost_value",
    [BCAST_F_PURSE] = "purse",
    [BCAST_F_PLAYBACK] = "playback",
    [BCAST_F_TEK] = "tek",
    [BCAST_F_STATUS] = "status",
    [BCAST_F_NUMBER_OF_ENTRIES] = "number_of_entries",
    [BCAST_F_ENTRY_KEY_DOMAIN_ID] = "key_domain_id",
    [BCAST_F_ENTRY_KEY_GROUP] = "key_group",
    [BCAST_F_ENTRY_KEY_NUMBER] = "key_number",
    [BCAST_F_TS_LOW] = "ts_low",
    [BCAST_F_TS_HIGH] = "ts_high",
    [BCAST_F_TRAFFIC_KEY_MATERIAL] = "traffic_key_material",
    [BCAST_F_NEXT_TRAFFIC_KEY_MATERIAL] = "next_traffic_key_material",
    [BCAST_F_SEK] = "sek",
    [BCAST_F_SEK_ID] = "sek_id",
    [BCAST_F_TEK_ID] = "tek_id",
    [BCAST_F_KEY_DATA_TYPE] = "key_data_type",
    [BCAST_F_INTERVAL_LENGTH] = "interval_length",
    [BCAST_F_IDI] = "idi",
    [BCAST_F_IDR] = "idr",
    [BCAST_F_OTHER_KEY_IDS] = "other_key_ids",
    [BCAST_F_REPORTING] = "reporting",
    [BCAST_F_KEY_SEK] = "sek",
    [BCAST_F_KEY_SAS] = "sas",
    [BCAST_F_KEY_PEK] = "pek",
    [BCAST_F_KEY_PAS] = "pas",
};

static size_t decimal(uint32_t value, char *out)
{
    char digits[10];
    size_t n = 0, i = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (n > 0)
        out[i++] = digits[--n];
    return i;
}

int bcast_error_path(const bcast_error *error, char *out, size_t room, size_t *length)
{
    char path[BCAST_PATH_MAX]; /* the longest: 48 + 38 characters with two indices of 10 digits */
    size_t size = 0, index = 0;
    if (length != NULL)
        *length = 0;
    if (error == NULL || length == NULL || error->field >= BCAST_F_COUNT || error->scope >= sizeof scopes / sizeof *scopes)
        return BCAST_E_ARGUMENT;
    const char *const parts[2] = {scopes[error->scope], fields[error->field]};
    for (int i = 0; i < 2; i++)
        for (const char *c = parts[i]; *c != '\0'; c++)
            if (*c == '#')
                size += decimal(index < 2 ? error->index[index++] : 0, path + size);
            else
                path[size++] = *c;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    if (room <= size)
        return BCAST_E_ROOM;
    memcpy(out, path, size);
    out[size] = '\0';
    return BCAST_OK;
}
