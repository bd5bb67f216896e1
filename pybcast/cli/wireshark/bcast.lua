-- SPDX-License-Identifier: Apache-2.0
-- Wireshark dissector of OMA BCAST key messages: STKM, LTKM, registration, verification and reporting, both profiles.
--
-- It reads a message as `pybcast explain` does: the same fields, names, values and meanings, checked in the same order, and of a bad
-- message the fields up to the fault, which is expert information.  Filter names are pybcast's field paths without list indices,
-- for example bcast.payloads.management.traffic_key_lifetime.  Keys in clear are not shown, as there.
--
-- The tables in the middle are generated from pybcast's own layouts (tests/dissector_tables.py); around them stands what reads
-- them, in Lua 5.2 to 5.4: no bit operators, no integer division.

local VERSION = "1"

-- generated: tables
local K = {
  PAYLOADS = {[0] = "none", [1] = "KEMAC", [5] = "T", [6] = "ID", [9] = "V", [10] = "SP", [11] = "RAND", [12] = "ERR", [21] = "EXT"},
  FINAL = {[1] = true, [9] = true},
  ONCE = {[1] = true, [5] = true, [9] = true, [11] = true},
  LAST = 0,
  T = 5,
  SP = 10,
  EXT = 21,
  KEY_DATA = 20,
  EXT_KEY_ID = 3,
  EXT_OMA_BCAST = 5,
  EXT_TYPES = {[0] = "vendor ID", [1] = "SDP IDs", [2] = "TESLA I-Key", [3] = "Key ID", [4] = "CSB-ID", [5] = "OMA BCAST", [7] = "3GPP key params"},
  KEY_ID_TYPES = {[0] = "MBMS Key Domain ID", [1] = "MBMS Service Key ID (SEK/PEK)", [2] = "MBMS Traffic Key ID (TEK)"},
  TS_SIZES = {[0] = 8, [1] = 8, [2] = 4, [3] = 4},
  MAC_SIZES = {[0] = 0, [1] = 20, [2] = 32},
  VER_SIZES = {[0] = 0, [1] = 20},
  MAP_TYPES = {[0] = "SRTP-ID", [1] = "empty map"},
  SALTED = {[1] = true, [3] = true, [5] = true},
  MODULUS_BITS = {[0] = 1024, [1] = 2048, [2] = 4096},
  KEYSET_TAGS = {[33] = true, [38] = true, [39] = true},
  EVERYONE = "FFFFFFFFFFFFFFFFFFFF",
  WRAP_BLOCK = 8,
  GROUP_SIZES = {[0] = 256, [1] = 512},
  CONSTRAINT_LENGTHS = {[1] = 4, [2] = 5, [3] = 5, [4] = 4, [5] = 4},
  TIME_CONSTRAINTS = {2, 3},
  KEY_LENGTH = 16,
  IPSEC = 0,
  SRTP = 1,
  ISMACRYP = 2,
  NULL = 0,
  AES_CM_128 = 1,
  HMAC_SHA_1_160 = 1,
  TEK_DATA = 20,
  TEK_SALT_DATA = 36,
  SEK_DATA = 30,
  SEK_DATA_SHORT_INTERVAL = 26,
  PIN_DATA = 12,
  HEADS = {[5] = {2, 0}, [11] = {2, 1}, [6] = {4, 2}, [10] = {5, 2}, [21] = {4, 2}},
  TEK = 2,
  REPORTING_SUBTYPE = 3,
  PARENTAL_SUBTYPE = 4,
  FIRST_BYTE = {[32] = "drm-ltkm", [64] = "smartcard-registration", [33] = "drm-registration", [34] = "drm-registration", [35] = "drm-registration", [36] = "drm-registration", [37] = "drm-registration", [38] = "drm-registration", [39] = "drm-registration", [40] = "drm-registration", [41] = "drm-registration", [42] = "drm-registration"},
  MJD_OF_NTP_EPOCH = 15020,
  LONGEST_SHOWN = 64,
  LENIENCIES = {"mtk-id-4", "interval-2", "trailing-bytes", "rsa-1024"},
  SUMMARY = {"longform_udn", "status", "target_id", "group_address", "position_in_group", "domain_id", "bcro_timestamp", "drm_time", "assets.BCI", "security_parameter_index", "master_key_index", "key_indicator", "timestamp", "programme_CID_extension", "service_CID_extension", "csb_id", "payloads.ts_value", "payloads.id", "TSI", "TOI", "SBN", "ESI"},
  KEY_ID_LABELS = {[0] = "key_domain_id", [1] = "sek_id", [2] = "tek_id"},
}
local N, T = {}, {}
N[1] = {[0] = "content protection", [1] = "content protection", [2] = "content protection, also of playback of a recording", [3] = "service protection only"}
N[2] = {[0] = "IPsec", [1] = "SRTP", [2] = "ISMACryp", [3] = "DCF"}
N[3] = {[1] = "parental_rating", [2] = "location_based_restriction", [3] = "blackout"}
T[1] = {
  {name = "tag", shape = {"uint", 1}, ground = "likely", meaning = "access criteria tag", names = N[3]},
  {name = "length", shape = {"uint", 1}, ground = "likely", meaning = "bytes of value"},
  {name = "value", shape = {"octets", function(c) return c.length end}, ground = "likely", meaning = "value of the descriptor"},
}
T[2] = {
  {name = "protocol_version", shape = {"bits", 4}, ground = "likely", meaning = "0: BCAST 1.0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "protection_after_reception", shape = {"bits", 2}, ground = "likely", meaning = "protection once received", names = N[1]},
  {name = "reserved_for_future_use", shape = {"bits", 1}, ground = "likely", meaning = "reserved, 0", check = {"zero"}},
  {name = "access_criteria_flag", shape = {"bits", 1}, ground = "sure", meaning = "access criteria follow", unset = "no access criteria"},
  {name = "traffic_protection_protocol", shape = {"bits", 3}, ground = "sure", meaning = "protocol", check = {"supported_protocol"}, names = N[2]},
  {name = "traffic_authentication_flag", shape = {"bits", 1}, ground = "sure", meaning = "traffic is authenticated", unset = "traffic is not authenticated"},
  {name = "next_traffic_key_flag", shape = {"bits", 1}, ground = "sure", meaning = "the next traffic key is carried too", unset = "no next traffic key"},
  {name = "timestamp_flag", shape = {"bits", 1}, ground = "sure", meaning = "timestamp follows", unset = "no timestamp"},
  {name = "programme_flag", shape = {"bits", 1}, ground = "sure", meaning = "programme part follows", unset = "no programme part"},
  {name = "service_flag", shape = {"bits", 1}, ground = "sure", meaning = "service part follows", unset = "no service part", check = {"programme_or_service"}},
  {name = "security_parameter_index", shape = {"octets", 4}, ground = "sure", meaning = "SPI of the security association", when = function(c) return (c.traffic_protection_protocol == 0) end},
  {name = "next_security_parameter_index", shape = {"octets", 4}, ground = "likely", meaning = "SPI of the next one", when = function(c) return ((c.traffic_protection_protocol == 0) and c.next_traffic_key_flag ~= 0) end},
  {name = "master_key_index_length", shape = {"uint", 1}, ground = "likely", meaning = "bytes", when = function(c) return (c.traffic_protection_protocol == 1) end, check = {"between", error = "bad_length", high = 16, low = 1}},
  {name = "master_key_index", shape = {"octets", function(c) return c.master_key_index_length end}, ground = "likely", meaning = "MKI", when = function(c) return (c.traffic_protection_protocol == 1) end},
  {name = "next_master_key_index", shape = {"octets", function(c) return c.master_key_index_length end}, ground = "likely", meaning = "MKI of the next key", when = function(c) return ((c.traffic_protection_protocol == 1) and c.next_traffic_key_flag ~= 0) end},
  {name = "master_salt", shape = {"octets", 14}, ground = "guess", meaning = "master salt, in clear", when = function(c) return (c.traffic_protection_protocol == 1) end},
  {name = "next_master_salt", shape = {"octets", 14}, ground = "guess", meaning = "salt of the next key", when = function(c) return ((c.traffic_protection_protocol == 1) and c.next_traffic_key_flag ~= 0) end},
  {name = "key_indicator_length", shape = {"uint", 1}, ground = "likely", meaning = "bytes", when = function(c) return (c.traffic_protection_protocol == 2) end, check = {"between", error = "bad_length", high = 16, low = 1}},
  {name = "key_indicator", shape = {"octets", function(c) return c.key_indicator_length end}, ground = "likely", meaning = "key indicator of the AU header", when = function(c) return (c.traffic_protection_protocol == 2) end},
  {name = "next_key_indicator", shape = {"octets", function(c) return c.key_indicator_length end}, ground = "likely", meaning = "of the next key", when = function(c) return ((c.traffic_protection_protocol == 2) and c.next_traffic_key_flag ~= 0) end},
  {name = "encrypted_traffic_key_material_length", shape = {"uint", 1}, ground = "sure", meaning = "bytes", check = {"material_length"}},
  {name = "encrypted_traffic_key_material", shape = {"octets", function(c) return c.encrypted_traffic_key_material_length end}, ground = "sure", meaning = "TEK or TEK || TAS under PEK or SEK; in clear in a partial STKM", secret = {"partial"}},
  {name = "next_encrypted_traffic_key_material", shape = {"octets", function(c) return c.encrypted_traffic_key_material_length end}, ground = "sure", meaning = "the same for the next key", when = function(c) return c.next_traffic_key_flag ~= 0 end, secret = {"partial"}},
  {name = "reserved_for_future_use", shape = {"bits", 4}, ground = "likely", meaning = "reserved, 0", check = {"zero"}},
  {name = "traffic_key_lifetime", shape = {"bits", 4}, ground = "likely", meaning = "2^n seconds", show = {"traffic_key_lifetime"}},
  {name = "timestamp", shape = {"converted", 5, {"read_mjd_bcd"}}, ground = "sure", meaning = "UTC, MJD + BCD", when = function(c) return c.timestamp_flag ~= 0 end, show = {"iso"}},
  {name = "reserved_for_future_use", shape = {"bits", 8}, ground = "guess", meaning = "reserved, 0", when = function(c) return c.access_criteria_flag ~= 0 end, check = {"zero"}},
  {name = "number_of_access_criteria_descriptors", shape = {"uint", 1}, ground = "likely", meaning = "number of descriptors", when = function(c) return c.access_criteria_flag ~= 0 end},
  {name = "access_criteria", shape = {"list", T[1], function(c) return c.number_of_access_criteria_descriptors end, 0}, ground = "likely", meaning = "access criteria descriptors", when = function(c) return c.access_criteria_flag ~= 0 end},
  {name = "reserved_for_future_use", shape = {"bits", 7}, ground = "likely", meaning = "reserved, 0", when = function(c) return c.programme_flag ~= 0 end, check = {"zero"}},
  {name = "permissions_flag", shape = {"bits", 1}, ground = "sure", meaning = "permissions category follows", unset = "no permissions category", when = function(c) return c.programme_flag ~= 0 end},
  {name = "permissions_category", shape = {"uint", 1}, ground = "sure", meaning = "permissions category", when = {"permissions"}},
  {name = "encrypted_PEK", shape = {"octets", 16}, ground = "sure", meaning = "PEK under SEK; zeros in a partial STKM", when = function(c) return (c.programme_flag ~= 0 and c.service_flag ~= 0) end, check = {"zero_when_partial"}},
  {name = "programme_CID_extension", shape = {"uint", 4}, ground = "sure", meaning = "which PEK", when = function(c) return c.programme_flag ~= 0 end, show = {"hex08"}},
  {name = "programme_MAC", shape = {"octets", 12}, ground = "sure", meaning = "HMAC-SHA-1-96 under PAK over all before it", when = function(c) return c.programme_flag ~= 0 end, check = {"zero_when_partial"}},
  {name = "service_CID_extension", shape = {"uint", 4}, ground = "sure", meaning = "which SEK", when = function(c) return c.service_flag ~= 0 end, show = {"hex08"}},
  {name = "service_MAC", shape = {"octets", 12}, ground = "sure", meaning = "HMAC-SHA-1-96 under SAK over all before it", when = function(c) return c.service_flag ~= 0 end, check = {"zero_when_partial"}},
}
N[4] = {[0] = "256", [1] = "512"}
N[5] = {[0] = "whole group", [1] = "subset of a group", [2] = "unique device", [3] = "domain"}
T[3] = {
  {name = "asset_is_service", shape = {"bits", 1}, ground = "own", meaning = "SEAK of a service", unset = "PEAK of a programme"},
  {name = "permissions_category_flag", shape = {"bits", 1}, ground = "own", meaning = "permissions category follows", unset = "no permissions category"},
  {name = "reserved_for_future_use", shape = {"bits", 6}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "BCI", shape = {"octets", 16}, ground = "own", meaning = "binary content id"},
  {name = "permissions_category", shape = {"uint", 1}, ground = "own", meaning = "permissions category", when = function(c) return c.permissions_category_flag ~= 0 end},
  {name = "encrypted_key", shape = {"octets", 32}, ground = "own", meaning = "SEAK or PEAK under the IEK"},
}
N[6] = {[1] = "access (live)", [2] = "play", [3] = "save", [4] = "export"}
N[7] = {[1] = "count", [2] = "start", [3] = "end", [4] = "interval, s", [5] = "tokens"}
T[4] = {
  {name = "type", shape = {"uint", 1}, ground = "own", meaning = "constraint", check = {"one_of", error = "unsupported", wanted = {1, 2, 3, 4, 5}}, names = N[7]},
  {name = "length", shape = {"uint", 1}, ground = "own", meaning = "bytes of value", check = {"constraint_length"}},
  {name = "value", shape = {"octets", function(c) return c.length end}, ground = "own", meaning = "number, or MJD + BCD", check = {"constraint_value"}},
}
T[5] = {
  {name = "action", shape = {"uint", 1}, ground = "own", meaning = "action", check = {"one_of", error = "unsupported", wanted = {1, 2, 3, 4}}, names = N[6]},
  {name = "constraint_count", shape = {"uint", 1}, ground = "own", meaning = "number of constraints"},
  {name = "constraints", shape = {"list", T[4], function(c) return c.constraint_count end, 0}, ground = "own", meaning = "constraints"},
}
T[6] = {
  {name = "message_tag", shape = {"uint", 1}, ground = "own", meaning = "BCRO", check = {"equals", error = "unsupported", wanted = 32}},
  {name = "protocol_version", shape = {"bits", 4}, ground = "own", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "bcro_timestamp_flag", shape = {"bits", 1}, ground = "own", meaning = "bcro_timestamp follows", unset = "no bcro_timestamp"},
  {name = "stateful_flag", shape = {"bits", 1}, ground = "own", meaning = "constraint counters survive restarts", unset = "constraint counters end with a restart"},
  {name = "refresh_time_flag", shape = {"bits", 1}, ground = "own", meaning = "refresh_time follows", unset = "no refresh_time"},
  {name = "rights_issuer_flag", shape = {"bits", 1}, ground = "own", meaning = "rights_issuer_id follows", unset = "no rights_issuer_id"},
  {name = "group_size_flag", shape = {"bits", 1}, ground = "own", meaning = "positions in a group", names = N[4]},
  {name = "address_mode", shape = {"bits", 3}, ground = "own", meaning = "who is addressed", check = {"one_of", error = "unsupported", wanted = {0, 1, 2, 3}}, names = N[5]},
  {name = "bcro_length", shape = {"bits", 12}, ground = "own", meaning = "bytes, header and MAC included", check = {"total_length"}},
  {name = "rights_issuer_id", shape = {"octets", 20}, ground = "own", meaning = "SHA-1 of the rights issuer's public key", when = function(c) return c.rights_issuer_flag ~= 0 end},
  {name = "group_address", shape = {"octets", 4}, ground = "own", meaning = "group", when = function(c) return (c.address_mode ~= 3) end},
  {name = "bit_access_mask", shape = {"octets", {"bit_access_mask_length"}}, ground = "own", meaning = "bit 7 of the first byte is position 0; 1: may use", when = function(c) return (c.address_mode == 1) end, check = {"subset"}},
  {name = "reserved_for_future_use", shape = {"bits", 7}, ground = "own", meaning = "reserved, 0", when = function(c) return (c.address_mode == 2) end, check = {"zero"}},
  {name = "position_in_group", shape = {"bits", 9}, ground = "own", meaning = "device", when = function(c) return (c.address_mode == 2) end, check = {"position"}},
  {name = "domain_id", shape = {"octets", 6}, ground = "own", meaning = "broadcast domain", when = function(c) return (c.address_mode == 3) end},
  {name = "domain_generation", shape = {"uint", 2}, ground = "own", meaning = "its generation", when = function(c) return (c.address_mode == 3) end},
  {name = "bcro_timestamp", shape = {"converted", 5, {"read_mjd_bcd"}}, ground = "own", meaning = "UTC, MJD + BCD", when = function(c) return c.bcro_timestamp_flag ~= 0 end, show = {"iso"}},
  {name = "refresh_time", shape = {"converted", 5, {"read_mjd_bcd"}}, ground = "own", meaning = "do not use after this without a newer one", when = function(c) return c.refresh_time_flag ~= 0 end, show = {"iso"}},
  {name = "number_of_assets", shape = {"uint", 1}, ground = "own", meaning = "number of assets", check = {"at_least_one"}},
  {name = "assets", shape = {"list", T[3], function(c) return c.number_of_assets end, 0}, ground = "own", meaning = "assets"},
  {name = "number_of_permissions", shape = {"uint", 1}, ground = "own", meaning = "number of permissions", check = {"at_least_one"}},
  {name = "permissions", shape = {"list", T[5], function(c) return c.number_of_permissions end, 0}, ground = "own", meaning = "permissions"},
  {name = "MAC", shape = {"octets", 12}, ground = "own", meaning = "HMAC-SHA-1-96 under BAK over all before it"},
}
N[8] = {[33] = "device_registration_response", [34] = "re_register_msg", [35] = "update_ri_certificate_msg", [36] = "update_drmtime_msg", [37] = "update_contact_number_msg", [38] = "domain_registration_response", [39] = "domain_update_response", [40] = "join_domain_msg", [41] = "leave_domain_msg", [42] = "token_delivery_response"}
N[9] = {[0] = "1024", [1] = "2048", [2] = "4096"}
N[10] = {[0] = "SHA-1", [1] = "SHA-256"}
T[7] = {
  {name = "length", shape = {"uint", 2}, ground = "own", meaning = "bytes"},
  {name = "der", shape = {"octets", function(c) return c.length end}, ground = "own", meaning = "DER"},
}
T[8] = {
  {name = "message_tag", shape = {"uint", 1}, ground = "own", meaning = "message", check = {"one_of", error = "unsupported", wanted = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42}}, names = N[8]},
  {name = "protocol_version", shape = {"bits", 4}, ground = "own", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "reserved_for_future_use", shape = {"bits", 4}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "message_length", shape = {"uint", 2}, ground = "own", meaning = "bytes of the whole message", check = {"total_length"}},
  {name = "longform_udn", shape = {"converted", 10, {"read_udn"}}, ground = "own", meaning = "whose: 20 BCD digits; 20 x F everyone"},
  {name = "status", shape = {"uint", 1}, ground = "own", meaning = "0: success"},
  {name = "signature_type", shape = {"bits", 2}, ground = "own", meaning = "RSA modulus, bits", check = {"signature_type"}, names = N[9]},
  {name = "ri_certificate_flag", shape = {"bits", 1}, ground = "own", meaning = "certificates follow", unset = "no certificates"},
  {name = "ocsp_flag", shape = {"bits", 1}, ground = "own", meaning = "OCSP responses follow", unset = "no OCSP responses"},
  {name = "keyset_flag", shape = {"bits", 1}, ground = "own", meaning = "a key set follows", unset = "no key set", check = {"keyset_needs_success"}},
  {name = "hash", shape = {"bits", 1}, ground = "own", meaning = "of the signature", names = N[10]},
  {name = "reserved_for_future_use", shape = {"bits", 2}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "body", shape = {"remaining", {"signature_length"}}, ground = "own", meaning = "body, not looked into", when = {"body_when"}},
  {name = "rights_issuer_id", shape = {"octets", 20}, ground = "own", meaning = "SHA-1 of the rights issuer's public key", when = {"known"}},
  {name = "drm_time", shape = {"converted", 5, {"read_mjd_bcd"}}, ground = "own", meaning = "UTC, MJD + BCD", when = {"known"}, show = {"iso"}},
  {name = "certificate_count", shape = {"uint", 1}, ground = "own", meaning = "number of certificates", when = {"with", flag = "ri_certificate_flag"}},
  {name = "certificates", shape = {"list", T[7], function(c) return c.certificate_count end, 0}, ground = "own", meaning = "leaf first", when = {"with", flag = "ri_certificate_flag"}},
  {name = "ocsp_response_count", shape = {"uint", 1}, ground = "own", meaning = "number of OCSP responses", when = {"with", flag = "ocsp_flag"}},
  {name = "ocsp_responses", shape = {"list", T[7], function(c) return c.ocsp_response_count end, 0}, ground = "own", meaning = "OCSP responses", when = {"with", flag = "ocsp_flag"}},
  {name = "session_key_block_length", shape = {"uint", 2}, ground = "own", meaning = "bytes", when = {"with", flag = "keyset_flag"}, check = {"session_key_block_length"}},
  {name = "session_key_block", shape = {"octets", function(c) return c.session_key_block_length end}, ground = "own", meaning = "SK under the device's key", when = {"with", flag = "keyset_flag"}},
  {name = "keyset_block_length", shape = {"uint", 2}, ground = "own", meaning = "bytes", when = {"with", flag = "keyset_flag"}, check = {"keyset_block_length"}},
  {name = "keyset_block", shape = {"octets", function(c) return c.keyset_block_length end}, ground = "own", meaning = "key set under SK", when = {"with", flag = "keyset_flag"}},
  {name = "signature", shape = {"octets", {"signature_length"}}, ground = "own", meaning = "RSASSA-PSS over all before it"},
}
N[11] = {[0] = "PSK message", [1] = "PSK verification message", [6] = "error"}
N[12] = {[0] = "none", [1] = "KEMAC", [5] = "T", [6] = "ID", [9] = "V", [10] = "SP", [11] = "RAND", [12] = "ERR", [21] = "EXT"}
N[13] = {[0] = "SRTP-ID", [1] = "empty map"}
T[9] = {
  {name = "policy_no", shape = {"uint", 1}, ground = "sure", meaning = "number of the policy"},
  {name = "ssrc", shape = {"uint", 4}, ground = "sure", meaning = "SSRC", show = {"hex08"}},
  {name = "roc", shape = {"uint", 4}, ground = "sure", meaning = "rollover counter"},
}
N[14] = {[0] = "NTP-UTC", [1] = "NTP", [2] = "COUNTER", [3] = "NTP-UTC-32"}
T[10] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ts_type", shape = {"uint", 1}, ground = "sure", meaning = "TS type", check = {"one_of", error = "unsupported", wanted = {2}}, names = N[14]},
  {name = "ts_value", shape = {"octets", {"ts_value_length"}}, ground = "sure", meaning = "time or COUNTER"},
}
T[11] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "rand_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of RAND", check = {"equals", error = "bad_length", wanted = 16}},
  {name = "rand", shape = {"octets", function(c) return c.rand_len end}, ground = "sure", meaning = "RAND"},
}
N[15] = {[0] = "NAI", [1] = "URI", [2] = "byte string"}
T[12] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "id_type", shape = {"uint", 1}, ground = "sure", meaning = "ID type", check = {"identity_type", strict = true}, names = N[15]},
  {name = "id_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of ID"},
  {name = "id", shape = {"octets", function(c) return c.id_len end}, ground = "sure", meaning = "identity", show = {"printable"}},
}
T[13] = {
  {name = "type", shape = {"uint", 1}, ground = "sure", meaning = "parameter"},
  {name = "len", shape = {"uint", 1}, ground = "sure", meaning = "bytes"},
  {name = "value", shape = {"octets", function(c) return c.len end}, ground = "sure", meaning = "value"},
}
T[14] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "policy_no", shape = {"uint", 1}, ground = "sure", meaning = "number of the policy"},
  {name = "prot_type", shape = {"uint", 1}, ground = "sure", meaning = "0: SRTP"},
  {name = "param_length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of parameters"},
  {name = "params", shape = {"area", function(c) return c.param_length end, {"list", T[13], nil, 0}}, ground = "sure", meaning = "parameters"},
}
N[16] = {[0] = "NULL", [1] = "AES-CM-128", [2] = "AES-KW-128", [3] = "AES-CM-256"}
N[17] = {[0] = "TGK", [1] = "TGK+SALT", [2] = "TEK", [3] = "TEK+SALT", [4] = "GTGK", [5] = "GTGK+SALT", [6] = "env key", [7] = "env psk"}
N[18] = {[0] = "none", [1] = "SPI/MKI", [2] = "interval"}
T[15] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "20: another key follows", check = {"zero"}},
  {name = "type", shape = {"bits", 4}, ground = "sure", meaning = "kind of key", check = {"one_of", error = "bad_value", wanted = {2, 3}}, names = N[17]},
  {name = "kv", shape = {"bits", 4}, ground = "sure", meaning = "kind of validity", check = {"zero"}, names = N[18]},
  {name = "key_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of key", check = {"equals", error = "bad_length", wanted = 16}},
  {name = "key", shape = {"secret", function(c) return c.key_len end}, ground = "sure", meaning = "key"},
  {name = "salt_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of salt", when = {"has_salt"}, check = {"equals", error = "bad_length", wanted = 14}},
  {name = "salt", shape = {"secret", function(c) return c.salt_len end}, ground = "sure", meaning = "salt", when = {"has_salt"}},
  {name = "spi_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of SPI or MKI", when = function(c) return (c.kv == 1) end},
  {name = "spi", shape = {"octets", function(c) return c.spi_len end}, ground = "sure", meaning = "SPI or MKI", when = function(c) return (c.kv == 1) end},
  {name = "vf_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of VF", when = function(c) return (c.kv == 2) end},
  {name = "vf", shape = {"octets", function(c) return c.vf_len end}, ground = "sure", meaning = "valid from (TS low)", when = function(c) return (c.kv == 2) end},
  {name = "vt_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of VT", when = function(c) return (c.kv == 2) end},
  {name = "vt", shape = {"octets", function(c) return c.vt_len end}, ground = "sure", meaning = "valid to (TS high)", when = function(c) return (c.kv == 2) end},
}
N[19] = {[0] = "NULL", [1] = "HMAC-SHA-1-160", [2] = "HMAC-SHA-256-256"}
T[16] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "encr_alg", shape = {"uint", 1}, ground = "sure", meaning = "encryption", check = {"stkm_encr_alg"}, names = N[16]},
  {name = "encr_data_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of key data", check = {"stkm_encr_data_len"}},
  {name = "encr_data", shape = {"octets", function(c) return c.encr_data_len end}, ground = "sure", meaning = "encrypted key data", when = function(c) return (c.encr_alg ~= 0) end},
  {name = "key_data", shape = {"area", function(c) return c.encr_data_len end, {"opaque", {"keydata", T[15]}}}, ground = "sure", meaning = "key data in clear", when = function(c) return (c.encr_alg == 0) end},
  {name = "mac_alg", shape = {"uint", 1}, ground = "sure", meaning = "MAC", check = {"as_encr_alg"}, names = N[19]},
  {name = "mac", shape = {"octets", {"mac_length"}}, ground = "sure", meaning = "MAC over all before it"},
}
T[17] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "auth_alg", shape = {"uint", 1}, ground = "sure", meaning = "MAC", check = {"one_of", error = "unsupported", wanted = {1}}, names = N[19]},
  {name = "ver_data", shape = {"octets", {"ver_data_length"}}, ground = "sure", meaning = "MAC of the verification"},
}
N[20] = {[0] = "auth failure", [1] = "invalid TS", [2] = "PRF", [3] = "MAC alg", [4] = "encr alg", [5] = "hash", [6] = "DH", [7] = "ID", [8] = "cert", [9] = "SP", [10] = "SP param", [11] = "data type", [12] = "unspecified", [13] = "unsupported message type", [14] = "ticket", [15] = "TP param"}
T[18] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "error_no", shape = {"uint", 1}, ground = "sure", meaning = "error", names = N[20]},
  {name = "reserved", shape = {"uint", 2}, ground = "sure", meaning = "reserved, 0", check = {"zero"}},
}
N[21] = {[0] = "vendor ID", [1] = "SDP IDs", [2] = "TESLA I-Key", [3] = "Key ID", [4] = "CSB-ID", [5] = "OMA BCAST", [7] = "3GPP key params"}
N[22] = {[0] = "MBMS Key Domain ID", [1] = "MBMS Service Key ID (SEK/PEK)", [2] = "MBMS Traffic Key ID (TEK)"}
T[19] = {
  {name = "type", shape = {"uint", 1}, ground = "sure", meaning = "Key ID type (RFC 4563)", check = {"key_id_type", strict = true}, names = N[22]},
  {name = "length", shape = {"uint", 1}, ground = "sure", meaning = "bytes of Key ID", check = {"key_id_length"}},
  {name = "value", shape = {"octets", function(c) return c.length end}, ground = "sure", meaning = "Key ID"},
}
T[20] = {
  {name = "ids", shape = {"list", T[19], nil, 3}, ground = "sure", meaning = "Key IDs"},
}
T[21] = {
  {name = "protocol_version", shape = {"bits", 4}, ground = "guess", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "protection_after_reception", shape = {"bits", 2}, ground = "guess", meaning = "protection once received", names = N[1]},
  {name = "terminal_binding_flag", shape = {"bits", 1}, ground = "guess", meaning = "terminal binding follows", unset = "no terminal binding"},
  {name = "access_criteria_flag", shape = {"bits", 1}, ground = "guess", meaning = "access criteria follow", unset = "no access criteria"},
  {name = "traffic_protection_protocol", shape = {"bits", 3}, ground = "guess", meaning = "protocol", check = {"supported_protocol"}, names = N[2]},
  {name = "traffic_authentication_flag", shape = {"bits", 1}, ground = "guess", meaning = "traffic is authenticated", unset = "traffic is not authenticated"},
  {name = "traffic_key_lifetime", shape = {"bits", 4}, ground = "guess", meaning = "2^n seconds", show = {"traffic_key_lifetime"}},
  {name = "number_of_access_criteria_descriptors", shape = {"uint", 1}, ground = "likely", meaning = "number of descriptors", when = function(c) return c.access_criteria_flag ~= 0 end},
  {name = "access_criteria", shape = {"list", T[1], function(c) return c.number_of_access_criteria_descriptors end, 0}, ground = "likely", meaning = "access criteria descriptors", when = function(c) return c.access_criteria_flag ~= 0 end},
  {name = "terminal_binding_key_id", shape = {"uint", 4}, ground = "likely", meaning = "which TBK", when = function(c) return c.terminal_binding_flag ~= 0 end},
  {name = "permissions_issuer_uri_length", shape = {"uint", 1}, ground = "guess", meaning = "bytes", when = function(c) return c.terminal_binding_flag ~= 0 end},
  {name = "permissions_issuer_uri", shape = {"octets", function(c) return c.permissions_issuer_uri_length end}, ground = "guess", meaning = "where to ask for the TBK", when = function(c) return c.terminal_binding_flag ~= 0 end},
}
T[22] = {
  {name = "subtype", shape = {"uint", 1}, ground = "sure", meaning = "RFC 5410 subtype", check = {"equals", error = "unsupported", wanted = 2}},
  {name = "management", shape = {"fields", T[21]}, ground = "likely", meaning = "OMA BCAST data", check = {"remember_management"}},
}
T[23] = {
  {name = "data", shape = {"remaining", {"data_kept"}}, ground = "sure", meaning = "content, not looked into"},
}
T[24] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ext_type", shape = {"uint", 1}, ground = "sure", meaning = "general extension", check = {"extension"}, names = N[21]},
  {name = "length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of data", check = {"extension_length"}},
  {name = "data", shape = {"area", function(c) return c.length end, {"switch", function(c) return c.ext_type end, {[3] = {"fields", T[20]}, [5] = {"fields", T[22]}}, {"fields", T[23]}}, inline = true}, ground = "sure", meaning = "content"},
}
T[25] = {
  {name = "version", shape = {"uint", 1}, ground = "sure", meaning = "MIKEY version", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "data_type", shape = {"uint", 1}, ground = "sure", meaning = "message type", check = {"one_of", error = "unsupported", wanted = {0}}, names = N[11]},
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "v", shape = {"bits", 1}, ground = "sure", meaning = "a verification message is wanted", unset = "no verification message is wanted", check = {"no_verification"}},
  {name = "prf_func", shape = {"bits", 7}, ground = "sure", meaning = "0: MIKEY-1", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "csb_id", shape = {"octets", 4}, ground = "sure", meaning = "crypto session bundle", check = {"csb_id"}},
  {name = "number_of_cs", shape = {"uint", 1}, ground = "sure", meaning = "crypto sessions", check = {"equals", error = "bad_value", wanted = 0}},
  {name = "cs_id_map_type", shape = {"uint", 1}, ground = "sure", meaning = "map of crypto sessions", check = {"equals", error = "unsupported", wanted = 1}, names = N[13]},
  {name = "cs_id_map", shape = {"list", T[9], function(c) return c.number_of_cs end, 0}, ground = "sure", meaning = "SRTP-ID entries", when = function(c) return (c.cs_id_map_type == 0) end},
  {name = "payloads", shape = {"chain", {[5] = T[10], [11] = T[11], [6] = T[12], [10] = T[14], [1] = T[16], [9] = T[17], [12] = T[18], [21] = T[24]}}, ground = "sure", meaning = "payloads"},
}
T[26] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "20: another key follows", check = {"one_of", error = "bad_value", wanted = {0, 20}}},
  {name = "type", shape = {"bits", 4}, ground = "sure", meaning = "kind of key", check = {"one_of", error = "unsupported", wanted = {0, 1, 2, 3, 4, 5, 6, 7}}, names = N[17]},
  {name = "kv", shape = {"bits", 4}, ground = "sure", meaning = "kind of validity", check = {"one_of", error = "unsupported", wanted = {0, 1, 2}}, names = N[18]},
  {name = "key_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of key"},
  {name = "key", shape = {"secret", function(c) return c.key_len end}, ground = "sure", meaning = "key"},
  {name = "salt_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of salt", when = {"has_salt"}},
  {name = "salt", shape = {"secret", function(c) return c.salt_len end}, ground = "sure", meaning = "salt", when = {"has_salt"}},
  {name = "spi_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of SPI or MKI", when = function(c) return (c.kv == 1) end},
  {name = "spi", shape = {"octets", function(c) return c.spi_len end}, ground = "sure", meaning = "SPI or MKI", when = function(c) return (c.kv == 1) end},
  {name = "vf_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of VF", when = function(c) return (c.kv == 2) end},
  {name = "vf", shape = {"octets", function(c) return c.vf_len end}, ground = "sure", meaning = "valid from (TS low)", when = function(c) return (c.kv == 2) end},
  {name = "vt_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of VT", when = function(c) return (c.kv == 2) end},
  {name = "vt", shape = {"octets", function(c) return c.vt_len end}, ground = "sure", meaning = "valid to (TS high)", when = function(c) return (c.kv == 2) end},
}
T[27] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "encr_alg", shape = {"uint", 1}, ground = "sure", meaning = "encryption", check = {"equals", error = "unsupported", wanted = 1}, names = N[16]},
  {name = "encr_data_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of key data", check = {"ltkm_encr_data_len"}},
  {name = "encr_data", shape = {"octets", function(c) return c.encr_data_len end}, ground = "sure", meaning = "encrypted key data", when = function(c) return (c.encr_alg ~= 0) end},
  {name = "key_data", shape = {"area", function(c) return c.encr_data_len end, {"opaque", {"keydata", T[26]}}}, ground = "sure", meaning = "key data in clear", when = function(c) return (c.encr_alg == 0) end},
  {name = "mac_alg", shape = {"uint", 1}, ground = "sure", meaning = "MAC", check = {"equals", error = "unsupported", wanted = 1}, names = N[19]},
  {name = "mac", shape = {"octets", {"mac_length"}}, ground = "sure", meaning = "MAC over all before it"},
}
T[28] = {
  {name = "ids", shape = {"list", T[19], nil, 2}, ground = "sure", meaning = "Key IDs"},
}
N[23] = {[0] = "add", [1] = "set"}
T[29] = {
  {name = "security_policy_extension", shape = {"uint", 1}, ground = "own", meaning = "SPE; the meanings of its numbers are unverified"},
  {name = "cost_flag", shape = {"bits", 1}, ground = "own", meaning = "cost_value follows", unset = "no cost_value"},
  {name = "purse_flag", shape = {"bits", 1}, ground = "own", meaning = "purse follows", unset = "no purse"},
  {name = "purse_mode", shape = {"bits", 1}, ground = "own", meaning = "how to apply purse", check = {"mode_of", value_flag = "purse_flag"}, names = N[23]},
  {name = "playback_flag", shape = {"bits", 1}, ground = "own", meaning = "playback follows", unset = "no playback"},
  {name = "playback_mode", shape = {"bits", 1}, ground = "own", meaning = "how to apply playback", check = {"mode_of", value_flag = "playback_flag"}, names = N[23]},
  {name = "tek_flag", shape = {"bits", 1}, ground = "own", meaning = "tek follows", unset = "no tek"},
  {name = "tek_mode", shape = {"bits", 1}, ground = "own", meaning = "how to apply tek", check = {"mode_of", value_flag = "tek_flag"}, names = N[23]},
  {name = "reserved_for_future_use", shape = {"bits", 1}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "cost_value", shape = {"uint", 4}, ground = "own", meaning = "cost", when = function(c) return c.cost_flag ~= 0 end},
  {name = "purse", shape = {"uint", 4}, ground = "own", meaning = "purse", when = function(c) return c.purse_flag ~= 0 end},
  {name = "playback", shape = {"uint", 4}, ground = "own", meaning = "playback counter", when = function(c) return c.playback_flag ~= 0 end},
  {name = "tek", shape = {"uint", 4}, ground = "own", meaning = "TEK counter", when = function(c) return c.tek_flag ~= 0 end},
}
T[30] = {
  {name = "protocol_version", shape = {"bits", 4}, ground = "guess", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "security_policy_ext_flag", shape = {"bits", 1}, ground = "guess", meaning = "SPE block follows", unset = "no SPE block"},
  {name = "consumption_reporting_flag", shape = {"bits", 1}, ground = "guess", meaning = "the card shall report", unset = "the card need not report", check = {"reporting_needs_v"}},
  {name = "access_criteria_flag", shape = {"bits", 1}, ground = "guess", meaning = "access criteria follow", unset = "no access criteria"},
  {name = "terminal_binding_flag", shape = {"bits", 1}, ground = "guess", meaning = "terminal binding follows", unset = "no terminal binding"},
  {name = "security_policy_ext", shape = {"fields", T[29]}, ground = "own", meaning = "SPE block", when = function(c) return c.security_policy_ext_flag ~= 0 end},
  {name = "number_of_access_criteria_descriptors", shape = {"uint", 1}, ground = "likely", meaning = "number of descriptors", when = function(c) return c.access_criteria_flag ~= 0 end},
  {name = "access_criteria", shape = {"list", T[1], function(c) return c.number_of_access_criteria_descriptors end, 0}, ground = "likely", meaning = "access criteria descriptors", when = function(c) return c.access_criteria_flag ~= 0 end},
  {name = "terminal_binding_key_id", shape = {"uint", 4}, ground = "likely", meaning = "which TBK", when = function(c) return c.terminal_binding_flag ~= 0 end},
  {name = "permissions_issuer_uri_length", shape = {"uint", 1}, ground = "guess", meaning = "bytes", when = function(c) return c.terminal_binding_flag ~= 0 end},
  {name = "permissions_issuer_uri", shape = {"octets", function(c) return c.permissions_issuer_uri_length end}, ground = "guess", meaning = "where to ask for the TBK", when = function(c) return c.terminal_binding_flag ~= 0 end},
}
T[31] = {
  {name = "subtype", shape = {"uint", 1}, ground = "sure", meaning = "RFC 5410 subtype", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "management", shape = {"fields", T[30]}, ground = "likely", meaning = "OMA BCAST data", check = {"remember_management"}},
}
T[32] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ext_type", shape = {"uint", 1}, ground = "sure", meaning = "general extension", check = {"extension"}, names = N[21]},
  {name = "length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of data", check = {"extension_length"}},
  {name = "data", shape = {"area", function(c) return c.length end, {"switch", function(c) return c.ext_type end, {[3] = {"fields", T[28]}, [5] = {"fields", T[31]}}, {"fields", T[23]}}, inline = true}, ground = "sure", meaning = "content"},
}
T[33] = {
  {name = "version", shape = {"uint", 1}, ground = "sure", meaning = "MIKEY version", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "data_type", shape = {"uint", 1}, ground = "sure", meaning = "message type", check = {"one_of", error = "unsupported", wanted = {0}}, names = N[11]},
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "v", shape = {"bits", 1}, ground = "sure", meaning = "a verification message is wanted", unset = "no verification message is wanted"},
  {name = "prf_func", shape = {"bits", 7}, ground = "sure", meaning = "0: MIKEY-1", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "csb_id", shape = {"octets", 4}, ground = "sure", meaning = "crypto session bundle", check = {"csb_id"}},
  {name = "number_of_cs", shape = {"uint", 1}, ground = "sure", meaning = "crypto sessions", check = {"equals", error = "bad_value", wanted = 0}},
  {name = "cs_id_map_type", shape = {"uint", 1}, ground = "sure", meaning = "map of crypto sessions", check = {"equals", error = "unsupported", wanted = 1}, names = N[13]},
  {name = "cs_id_map", shape = {"list", T[9], function(c) return c.number_of_cs end, 0}, ground = "sure", meaning = "SRTP-ID entries", when = function(c) return (c.cs_id_map_type == 0) end},
  {name = "payloads", shape = {"chain", {[5] = T[10], [11] = T[11], [6] = T[12], [10] = T[14], [1] = T[27], [9] = T[17], [12] = T[18], [21] = T[32]}}, ground = "sure", meaning = "payloads"},
}
T[34] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "encr_alg", shape = {"uint", 1}, ground = "sure", meaning = "encryption", check = {"one_of", error = "unsupported", wanted = {0, 1, 2, 3}}, names = N[16]},
  {name = "encr_data_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of key data"},
  {name = "encr_data", shape = {"octets", function(c) return c.encr_data_len end}, ground = "sure", meaning = "encrypted key data", when = function(c) return (c.encr_alg ~= 0) end},
  {name = "key_data", shape = {"area", function(c) return c.encr_data_len end, {"opaque", {"keydata", T[26]}}}, ground = "sure", meaning = "key data in clear", when = function(c) return (c.encr_alg == 0) end},
  {name = "mac_alg", shape = {"uint", 1}, ground = "sure", meaning = "MAC", check = {"one_of", error = "unsupported", wanted = {0, 1, 2}}, names = N[19]},
  {name = "mac", shape = {"octets", {"mac_length"}}, ground = "sure", meaning = "MAC over all before it"},
}
T[35] = {
  {name = "ids", shape = {"list", T[19], nil, 0}, ground = "sure", meaning = "Key IDs"},
}
T[36] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ext_type", shape = {"uint", 1}, ground = "sure", meaning = "general extension", check = {"extension"}, names = N[21]},
  {name = "length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of data", check = {"extension_length"}},
  {name = "data", shape = {"area", function(c) return c.length end, {"switch", function(c) return c.ext_type end, {[3] = {"fields", T[35]}}, {"fields", T[23]}}, inline = true}, ground = "sure", meaning = "content"},
}
T[37] = {
  {name = "version", shape = {"uint", 1}, ground = "sure", meaning = "MIKEY version", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "data_type", shape = {"uint", 1}, ground = "sure", meaning = "message type", check = {"one_of", error = "unsupported", wanted = {1}}, names = N[11]},
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "v", shape = {"bits", 1}, ground = "sure", meaning = "a verification message is wanted", unset = "no verification message is wanted", check = {"no_verification"}},
  {name = "prf_func", shape = {"bits", 7}, ground = "sure", meaning = "0: MIKEY-1", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "csb_id", shape = {"octets", 4}, ground = "sure", meaning = "crypto session bundle", check = {"csb_id"}},
  {name = "number_of_cs", shape = {"uint", 1}, ground = "sure", meaning = "crypto sessions", check = {"equals", error = "bad_value", wanted = 0}},
  {name = "cs_id_map_type", shape = {"uint", 1}, ground = "sure", meaning = "map of crypto sessions", check = {"equals", error = "unsupported", wanted = 1}, names = N[13]},
  {name = "cs_id_map", shape = {"list", T[9], function(c) return c.number_of_cs end, 0}, ground = "sure", meaning = "SRTP-ID entries", when = function(c) return (c.cs_id_map_type == 0) end},
  {name = "payloads", shape = {"chain", {[5] = T[10], [11] = T[11], [6] = T[12], [10] = T[14], [1] = T[34], [9] = T[17], [12] = T[18], [21] = T[36]}}, ground = "sure", meaning = "payloads"},
}
T[38] = {
  {name = "key_domain_id", shape = {"octets", 3}, ground = "own", meaning = "Key Domain ID"},
  {name = "key_group", shape = {"octets", 2}, ground = "own", meaning = "Key Group part of the SEK ID"},
  {name = "key_number", shape = {"uint", 2}, ground = "own", meaning = "Key Number part of the SEK ID"},
  {name = "ts_low", shape = {"uint", 4}, ground = "own", meaning = "first COUNTER of the window"},
  {name = "ts_high", shape = {"uint", 4}, ground = "own", meaning = "last COUNTER of the window"},
  {name = "security_policy_extension", shape = {"uint", 1}, ground = "own", meaning = "SPE; the meanings of its numbers are unverified"},
  {name = "cost_flag", shape = {"bits", 1}, ground = "own", meaning = "cost_value follows", unset = "no cost_value"},
  {name = "purse_flag", shape = {"bits", 1}, ground = "own", meaning = "purse follows", unset = "no purse"},
  {name = "purse_mode", shape = {"bits", 1}, ground = "own", meaning = "how to apply purse", check = {"mode_of", value_flag = "purse_flag"}, names = N[23]},
  {name = "playback_flag", shape = {"bits", 1}, ground = "own", meaning = "playback follows", unset = "no playback"},
  {name = "playback_mode", shape = {"bits", 1}, ground = "own", meaning = "how to apply playback", check = {"mode_of", value_flag = "playback_flag"}, names = N[23]},
  {name = "tek_flag", shape = {"bits", 1}, ground = "own", meaning = "tek follows", unset = "no tek"},
  {name = "tek_mode", shape = {"bits", 1}, ground = "own", meaning = "how to apply tek", check = {"mode_of", value_flag = "tek_flag"}, names = N[23]},
  {name = "reserved_for_future_use", shape = {"bits", 1}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "cost_value", shape = {"uint", 4}, ground = "own", meaning = "cost", when = function(c) return c.cost_flag ~= 0 end},
  {name = "purse", shape = {"uint", 4}, ground = "own", meaning = "purse", when = function(c) return c.purse_flag ~= 0 end},
  {name = "playback", shape = {"uint", 4}, ground = "own", meaning = "playback counter", when = function(c) return c.playback_flag ~= 0 end},
  {name = "tek", shape = {"uint", 4}, ground = "own", meaning = "TEK counter", when = function(c) return c.tek_flag ~= 0 end},
}
T[39] = {
  {name = "protocol_version", shape = {"bits", 4}, ground = "guess", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "reserved_for_future_use", shape = {"bits", 4}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "status", shape = {"uint", 1}, ground = "own", meaning = "management data status"},
  {name = "number_of_entries", shape = {"uint", 1}, ground = "own", meaning = "number of entries"},
  {name = "entries", shape = {"list", T[38], function(c) return c.number_of_entries end, 0}, ground = "own", meaning = "entries"},
}
T[40] = {
  {name = "subtype", shape = {"uint", 1}, ground = "sure", meaning = "RFC 5410 subtype", check = {"equals", error = "unsupported", wanted = 3}},
  {name = "management", shape = {"fields", T[39]}, ground = "likely", meaning = "OMA BCAST data", check = {"remember_management"}},
}
T[41] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ext_type", shape = {"uint", 1}, ground = "sure", meaning = "general extension", check = {"extension"}, names = N[21]},
  {name = "length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of data", check = {"extension_length"}},
  {name = "data", shape = {"area", function(c) return c.length end, {"switch", function(c) return c.ext_type end, {[3] = {"fields", T[35]}, [5] = {"fields", T[40]}}, {"fields", T[23]}}, inline = true}, ground = "sure", meaning = "content"},
}
T[42] = {
  {name = "version", shape = {"uint", 1}, ground = "sure", meaning = "MIKEY version", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "data_type", shape = {"uint", 1}, ground = "sure", meaning = "message type", check = {"one_of", error = "unsupported", wanted = {1}}, names = N[11]},
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "v", shape = {"bits", 1}, ground = "sure", meaning = "a verification message is wanted", unset = "no verification message is wanted", check = {"no_verification"}},
  {name = "prf_func", shape = {"bits", 7}, ground = "sure", meaning = "0: MIKEY-1", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "csb_id", shape = {"octets", 4}, ground = "sure", meaning = "crypto session bundle", check = {"csb_id"}},
  {name = "number_of_cs", shape = {"uint", 1}, ground = "sure", meaning = "crypto sessions", check = {"equals", error = "bad_value", wanted = 0}},
  {name = "cs_id_map_type", shape = {"uint", 1}, ground = "sure", meaning = "map of crypto sessions", check = {"equals", error = "unsupported", wanted = 1}, names = N[13]},
  {name = "cs_id_map", shape = {"list", T[9], function(c) return c.number_of_cs end, 0}, ground = "sure", meaning = "SRTP-ID entries", when = function(c) return (c.cs_id_map_type == 0) end},
  {name = "payloads", shape = {"chain", {[5] = T[10], [11] = T[11], [6] = T[12], [10] = T[14], [1] = T[34], [9] = T[17], [12] = T[18], [21] = T[41]}}, ground = "sure", meaning = "payloads"},
}
T[43] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "encr_alg", shape = {"uint", 1}, ground = "sure", meaning = "encryption", check = {"equals", error = "unsupported", wanted = 1}, names = N[16]},
  {name = "encr_data_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of key data", check = {"parental_encr_data_len"}},
  {name = "encr_data", shape = {"octets", function(c) return c.encr_data_len end}, ground = "sure", meaning = "encrypted key data", when = function(c) return (c.encr_alg ~= 0) end},
  {name = "key_data", shape = {"area", function(c) return c.encr_data_len end, {"opaque", {"keydata", T[26]}}}, ground = "sure", meaning = "key data in clear", when = function(c) return (c.encr_alg == 0) end},
  {name = "mac_alg", shape = {"uint", 1}, ground = "sure", meaning = "MAC", check = {"equals", error = "unsupported", wanted = 1}, names = N[19]},
  {name = "mac", shape = {"octets", {"mac_length"}}, ground = "sure", meaning = "MAC over all before it"},
}
T[44] = {
  {name = "protocol_version", shape = {"bits", 4}, ground = "guess", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "pin_present", shape = {"bits", 1}, ground = "own", meaning = "KEMAC carries a PIN", unset = "no PIN"},
  {name = "reserved_for_future_use", shape = {"bits", 3}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "rating_type", shape = {"uint", 1}, ground = "own", meaning = "rating type"},
  {name = "level_granted", shape = {"uint", 1}, ground = "own", meaning = "level granted"},
}
T[45] = {
  {name = "subtype", shape = {"uint", 1}, ground = "sure", meaning = "RFC 5410 subtype", check = {"equals", error = "unsupported", wanted = 4}},
  {name = "management", shape = {"fields", T[44]}, ground = "likely", meaning = "OMA BCAST data", check = {"remember_management"}},
}
T[46] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ext_type", shape = {"uint", 1}, ground = "sure", meaning = "general extension", check = {"extension"}, names = N[21]},
  {name = "length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of data", check = {"extension_length"}},
  {name = "data", shape = {"area", function(c) return c.length end, {"switch", function(c) return c.ext_type end, {[3] = {"fields", T[35]}, [5] = {"fields", T[45]}}, {"fields", T[23]}}, inline = true}, ground = "sure", meaning = "content"},
}
T[47] = {
  {name = "version", shape = {"uint", 1}, ground = "sure", meaning = "MIKEY version", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "data_type", shape = {"uint", 1}, ground = "sure", meaning = "message type", check = {"one_of", error = "unsupported", wanted = {0}}, names = N[11]},
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "v", shape = {"bits", 1}, ground = "sure", meaning = "a verification message is wanted", unset = "no verification message is wanted"},
  {name = "prf_func", shape = {"bits", 7}, ground = "sure", meaning = "0: MIKEY-1", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "csb_id", shape = {"octets", 4}, ground = "sure", meaning = "crypto session bundle", check = {"csb_id"}},
  {name = "number_of_cs", shape = {"uint", 1}, ground = "sure", meaning = "crypto sessions", check = {"equals", error = "bad_value", wanted = 0}},
  {name = "cs_id_map_type", shape = {"uint", 1}, ground = "sure", meaning = "map of crypto sessions", check = {"equals", error = "unsupported", wanted = 1}, names = N[13]},
  {name = "cs_id_map", shape = {"list", T[9], function(c) return c.number_of_cs end, 0}, ground = "sure", meaning = "SRTP-ID entries", when = function(c) return (c.cs_id_map_type == 0) end},
  {name = "payloads", shape = {"chain", {[5] = T[10], [11] = T[11], [6] = T[12], [10] = T[14], [1] = T[43], [9] = T[17], [12] = T[18], [21] = T[46]}}, ground = "sure", meaning = "payloads"},
}
T[48] = {
  {name = "message_tag", shape = {"uint", 1}, ground = "own", meaning = "Smartcard registration", check = {"equals", error = "unsupported", wanted = 64}},
  {name = "protocol_version", shape = {"bits", 4}, ground = "own", meaning = "0", check = {"equals", error = "unsupported", wanted = 0}},
  {name = "reserved_for_future_use", shape = {"bits", 3}, ground = "own", meaning = "reserved, 0", check = {"zero"}},
  {name = "gba_u", shape = {"bits", 1}, ground = "own", meaning = "keys stay on the card", unset = "keys leave the card"},
  {name = "message_length", shape = {"uint", 2}, ground = "own", meaning = "bytes of the whole message", check = {"total_length"}},
  {name = "target_id", shape = {"octets", 8}, ground = "own", meaning = "whose: SHA-256(RAND || IMPI), first 8 bytes"},
  {name = "key_lifetime", shape = {"uint", 4}, ground = "own", meaning = "end, NTP seconds"},
  {name = "RAND", shape = {"octets", 16}, ground = "own", meaning = "challenge"},
  {name = "AUTN", shape = {"octets", 16}, ground = "own", meaning = "authentication token"},
  {name = "naf_fqdn_length", shape = {"uint", 1}, ground = "own", meaning = "bytes", check = {"not_empty"}},
  {name = "naf_fqdn", shape = {"converted", function(c) return c.naf_fqdn_length end, {"read_ascii"}}, ground = "own", meaning = "FQDN of the BSM"},
  {name = "btid_length", shape = {"uint", 1}, ground = "own", meaning = "bytes", check = {"not_empty"}},
  {name = "btid", shape = {"converted", function(c) return c.btid_length end, {"read_ascii"}}, ground = "own", meaning = "B-TID"},
  {name = "MAC", shape = {"octets", 12}, ground = "own", meaning = "HMAC-SHA-256-96 over all before it"},
}
T[49] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ts_type", shape = {"uint", 1}, ground = "sure", meaning = "TS type", check = {"one_of", error = "unsupported", wanted = {0, 1, 2, 3}}, names = N[14]},
  {name = "ts_value", shape = {"octets", {"ts_value_length"}}, ground = "sure", meaning = "time or COUNTER"},
}
T[50] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "rand_len", shape = {"uint", 1}, ground = "sure", meaning = "bytes of RAND"},
  {name = "rand", shape = {"octets", function(c) return c.rand_len end}, ground = "sure", meaning = "RAND"},
}
T[51] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "id_type", shape = {"uint", 1}, ground = "sure", meaning = "ID type", check = {"identity_type", strict = false}, names = N[15]},
  {name = "id_len", shape = {"uint", 2}, ground = "sure", meaning = "bytes of ID"},
  {name = "id", shape = {"octets", function(c) return c.id_len end}, ground = "sure", meaning = "identity", show = {"printable"}},
}
T[52] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "auth_alg", shape = {"uint", 1}, ground = "sure", meaning = "MAC", check = {"one_of", error = "unsupported", wanted = {0, 1}}, names = N[19]},
  {name = "ver_data", shape = {"octets", {"ver_data_length"}}, ground = "sure", meaning = "MAC of the verification"},
}
T[53] = {
  {name = "type", shape = {"uint", 1}, ground = "sure", meaning = "Key ID type (RFC 4563)", check = {"key_id_type", strict = false}, names = N[22]},
  {name = "length", shape = {"uint", 1}, ground = "sure", meaning = "bytes of Key ID", check = {"key_id_length"}},
  {name = "value", shape = {"octets", function(c) return c.length end}, ground = "sure", meaning = "Key ID"},
}
T[54] = {
  {name = "ids", shape = {"list", T[53], nil, 0}, ground = "sure", meaning = "Key IDs"},
}
T[55] = {
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "ext_type", shape = {"uint", 1}, ground = "sure", meaning = "general extension", check = {"extension"}, names = N[21]},
  {name = "length", shape = {"uint", 2}, ground = "sure", meaning = "bytes of data", check = {"extension_length"}},
  {name = "data", shape = {"area", function(c) return c.length end, {"switch", function(c) return c.ext_type end, {[3] = {"fields", T[54]}}, {"fields", T[23]}}, inline = true}, ground = "sure", meaning = "content"},
}
T[56] = {
  {name = "version", shape = {"uint", 1}, ground = "sure", meaning = "MIKEY version", check = {"equals", error = "unsupported", wanted = 1}},
  {name = "data_type", shape = {"uint", 1}, ground = "sure", meaning = "message type", check = {"one_of", error = "unsupported", wanted = {0, 1, 6}}, names = N[11]},
  {name = "next_payload", shape = {"uint", 1}, ground = "sure", meaning = "next payload", check = {"follow"}, names = N[12]},
  {name = "v", shape = {"bits", 1}, ground = "sure", meaning = "a verification message is wanted", unset = "no verification message is wanted"},
  {name = "prf_func", shape = {"bits", 7}, ground = "sure", meaning = "0: MIKEY-1"},
  {name = "csb_id", shape = {"octets", 4}, ground = "sure", meaning = "crypto session bundle", check = {"csb_id"}},
  {name = "number_of_cs", shape = {"uint", 1}, ground = "sure", meaning = "crypto sessions"},
  {name = "cs_id_map_type", shape = {"uint", 1}, ground = "sure", meaning = "map of crypto sessions", check = {"empty_map"}, names = N[13]},
  {name = "cs_id_map", shape = {"list", T[9], function(c) return c.number_of_cs end, 0}, ground = "sure", meaning = "SRTP-ID entries", when = function(c) return (c.cs_id_map_type == 0) end},
  {name = "payloads", shape = {"chain", {[5] = T[49], [11] = T[50], [6] = T[51], [10] = T[14], [1] = T[34], [9] = T[52], [12] = T[18], [21] = T[55]}}, ground = "sure", meaning = "payloads"},
}
local KINDS = {
  ["drm-stkm"] = {table = T[2]},
  ["drm-ltkm"] = {table = T[6]},
  ["drm-registration"] = {table = T[8]},
  ["smartcard-stkm"] = {table = T[25], profile = {strict = true, key_ids = {{3}, {4}, {2}}, extensions = {[3] = true}, refused_extensions = {}, order = {5, 1}}},
  ["smartcard-ltkm"] = {table = T[33], profile = {strict = true, key_ids = {{3}, {4}}, extensions = {[3] = true}, refused_extensions = {}, order = {5, 11, 6, 6, 10, 1}}},
  ["smartcard-verification"] = {table = T[37], profile = {strict = true, key_ids = {}, extensions = {}, refused_extensions = {[3] = true, [5] = true}, order = {5, 6, 9}}},
  ["smartcard-reporting"] = {table = T[42], profile = {strict = true, key_ids = {}, extensions = {[5] = true}, refused_extensions = {[3] = true}, order = {5, 6, 9}}},
  ["smartcard-parental"] = {table = T[47], profile = {strict = true, key_ids = {}, extensions = {[5] = true}, refused_extensions = {[3] = true}, order = {5, 11, 6, 6, 10, 1}}},
  ["smartcard-registration"] = {table = T[48]},
  ["mikey"] = {table = T[56], profile = {strict = false, key_ids = {}, extensions = {}, refused_extensions = {}}},
}
local ORDER = {"drm-stkm", "drm-ltkm", "drm-registration", "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting", "smartcard-parental", "smartcard-registration", "mikey"}
local FIELDS = {
  {"protocol_version", "uint"},
  {"protection_after_reception", "uint", N[1]},
  {"reserved_for_future_use", "uint"},
  {"access_criteria_flag", "uint"},
  {"traffic_protection_protocol", "uint", N[2]},
  {"traffic_authentication_flag", "uint"},
  {"next_traffic_key_flag", "uint"},
  {"timestamp_flag", "uint"},
  {"programme_flag", "uint"},
  {"service_flag", "uint"},
  {"security_parameter_index", "bytes"},
  {"next_security_parameter_index", "bytes"},
  {"master_key_index_length", "uint"},
  {"master_key_index", "bytes"},
  {"next_master_key_index", "bytes"},
  {"master_salt", "bytes"},
  {"next_master_salt", "bytes"},
  {"key_indicator_length", "uint"},
  {"key_indicator", "bytes"},
  {"next_key_indicator", "bytes"},
  {"encrypted_traffic_key_material_length", "uint"},
  {"encrypted_traffic_key_material", "bytes"},
  {"encrypted_traffic_key_material.hidden", "none"},
  {"next_encrypted_traffic_key_material", "bytes"},
  {"next_encrypted_traffic_key_material.hidden", "none"},
  {"traffic_key_lifetime", "uint"},
  {"timestamp", "string"},
  {"number_of_access_criteria_descriptors", "uint"},
  {"access_criteria.tag", "uint", N[3]},
  {"access_criteria.length", "uint"},
  {"access_criteria.value", "bytes"},
  {"permissions_flag", "uint"},
  {"permissions_category", "uint"},
  {"encrypted_PEK", "bytes"},
  {"programme_CID_extension", "uint"},
  {"programme_MAC", "bytes"},
  {"service_CID_extension", "uint"},
  {"service_MAC", "bytes"},
  {"message_tag", "uint", N[8]},
  {"bcro_timestamp_flag", "uint"},
  {"stateful_flag", "uint"},
  {"refresh_time_flag", "uint"},
  {"rights_issuer_flag", "uint"},
  {"group_size_flag", "uint", N[4]},
  {"address_mode", "uint", N[5]},
  {"bcro_length", "uint"},
  {"rights_issuer_id", "bytes"},
  {"group_address", "bytes"},
  {"bit_access_mask", "bytes"},
  {"position_in_group", "uint"},
  {"domain_id", "bytes"},
  {"domain_generation", "uint"},
  {"bcro_timestamp", "string"},
  {"refresh_time", "string"},
  {"number_of_assets", "uint"},
  {"assets.asset_is_service", "uint"},
  {"assets.permissions_category_flag", "uint"},
  {"assets.reserved_for_future_use", "uint"},
  {"assets.BCI", "bytes"},
  {"assets.permissions_category", "uint"},
  {"assets.encrypted_key", "bytes"},
  {"number_of_permissions", "uint"},
  {"permissions.action", "uint", N[6]},
  {"permissions.constraint_count", "uint"},
  {"permissions.constraints.type", "uint", N[7]},
  {"permissions.constraints.length", "uint"},
  {"permissions.constraints.value", "bytes"},
  {"MAC", "bytes"},
  {"message_length", "uint"},
  {"longform_udn", "string"},
  {"status", "uint"},
  {"signature_type", "uint", N[9]},
  {"ri_certificate_flag", "uint"},
  {"ocsp_flag", "uint"},
  {"keyset_flag", "uint"},
  {"hash", "uint", N[10]},
  {"body", "bytes"},
  {"drm_time", "string"},
  {"certificate_count", "uint"},
  {"certificates.length", "uint"},
  {"certificates.der", "bytes"},
  {"ocsp_response_count", "uint"},
  {"ocsp_responses.length", "uint"},
  {"ocsp_responses.der", "bytes"},
  {"session_key_block_length", "uint"},
  {"session_key_block", "bytes"},
  {"keyset_block_length", "uint"},
  {"keyset_block", "bytes"},
  {"signature", "bytes"},
  {"version", "uint"},
  {"data_type", "uint", N[11]},
  {"next_payload", "uint", N[12]},
  {"v", "uint"},
  {"prf_func", "uint"},
  {"csb_id", "bytes"},
  {"number_of_cs", "uint"},
  {"cs_id_map_type", "uint", N[13]},
  {"cs_id_map.policy_no", "uint"},
  {"cs_id_map.ssrc", "uint"},
  {"cs_id_map.roc", "uint"},
  {"payloads.next_payload", "uint", N[12]},
  {"payloads.ts_type", "uint", N[14]},
  {"payloads.ts_value", "bytes"},
  {"payloads.rand_len", "uint"},
  {"payloads.rand", "bytes"},
  {"payloads.id_type", "uint", N[15]},
  {"payloads.id_len", "uint"},
  {"payloads.id", "bytes"},
  {"payloads.policy_no", "uint"},
  {"payloads.prot_type", "uint"},
  {"payloads.param_length", "uint"},
  {"payloads.params.type", "uint"},
  {"payloads.params.len", "uint"},
  {"payloads.params.value", "bytes"},
  {"payloads.encr_alg", "uint", N[16]},
  {"payloads.encr_data_len", "uint"},
  {"payloads.encr_data", "bytes"},
  {"payloads.key_data.next_payload", "uint"},
  {"payloads.key_data.type", "uint", N[17]},
  {"payloads.key_data.kv", "uint", N[18]},
  {"payloads.key_data.key_len", "uint"},
  {"payloads.key_data.key", "none"},
  {"payloads.key_data.salt_len", "uint"},
  {"payloads.key_data.salt", "none"},
  {"payloads.key_data.spi_len", "uint"},
  {"payloads.key_data.spi", "bytes"},
  {"payloads.key_data.vf_len", "uint"},
  {"payloads.key_data.vf", "bytes"},
  {"payloads.key_data.vt_len", "uint"},
  {"payloads.key_data.vt", "bytes"},
  {"payloads.mac_alg", "uint", N[19]},
  {"payloads.mac", "bytes"},
  {"payloads.auth_alg", "uint", N[19]},
  {"payloads.ver_data", "bytes"},
  {"payloads.error_no", "uint", N[20]},
  {"payloads.reserved", "uint"},
  {"payloads.ext_type", "uint", N[21]},
  {"payloads.length", "uint"},
  {"payloads.ids.type", "uint", N[22]},
  {"payloads.ids.length", "uint"},
  {"payloads.ids.value", "bytes"},
  {"payloads.subtype", "uint"},
  {"payloads.management.protocol_version", "uint"},
  {"payloads.management.protection_after_reception", "uint", N[1]},
  {"payloads.management.terminal_binding_flag", "uint"},
  {"payloads.management.access_criteria_flag", "uint"},
  {"payloads.management.traffic_protection_protocol", "uint", N[2]},
  {"payloads.management.traffic_authentication_flag", "uint"},
  {"payloads.management.traffic_key_lifetime", "uint"},
  {"payloads.management.number_of_access_criteria_descriptors", "uint"},
  {"payloads.management.access_criteria.tag", "uint", N[3]},
  {"payloads.management.access_criteria.length", "uint"},
  {"payloads.management.access_criteria.value", "bytes"},
  {"payloads.management.terminal_binding_key_id", "uint"},
  {"payloads.management.permissions_issuer_uri_length", "uint"},
  {"payloads.management.permissions_issuer_uri", "bytes"},
  {"payloads.data", "bytes"},
  {"payloads.management.security_policy_ext_flag", "uint"},
  {"payloads.management.consumption_reporting_flag", "uint"},
  {"payloads.management.security_policy_ext.security_policy_extension", "uint"},
  {"payloads.management.security_policy_ext.cost_flag", "uint"},
  {"payloads.management.security_policy_ext.purse_flag", "uint"},
  {"payloads.management.security_policy_ext.purse_mode", "uint", N[23]},
  {"payloads.management.security_policy_ext.playback_flag", "uint"},
  {"payloads.management.security_policy_ext.playback_mode", "uint", N[23]},
  {"payloads.management.security_policy_ext.tek_flag", "uint"},
  {"payloads.management.security_policy_ext.tek_mode", "uint", N[23]},
  {"payloads.management.security_policy_ext.reserved_for_future_use", "uint"},
  {"payloads.management.security_policy_ext.cost_value", "uint"},
  {"payloads.management.security_policy_ext.purse", "uint"},
  {"payloads.management.security_policy_ext.playback", "uint"},
  {"payloads.management.security_policy_ext.tek", "uint"},
  {"payloads.management.reserved_for_future_use", "uint"},
  {"payloads.management.status", "uint"},
  {"payloads.management.number_of_entries", "uint"},
  {"payloads.management.entries.key_domain_id", "bytes"},
  {"payloads.management.entries.key_group", "bytes"},
  {"payloads.management.entries.key_number", "uint"},
  {"payloads.management.entries.ts_low", "uint"},
  {"payloads.management.entries.ts_high", "uint"},
  {"payloads.management.entries.security_policy_extension", "uint"},
  {"payloads.management.entries.cost_flag", "uint"},
  {"payloads.management.entries.purse_flag", "uint"},
  {"payloads.management.entries.purse_mode", "uint", N[23]},
  {"payloads.management.entries.playback_flag", "uint"},
  {"payloads.management.entries.playback_mode", "uint", N[23]},
  {"payloads.management.entries.tek_flag", "uint"},
  {"payloads.management.entries.tek_mode", "uint", N[23]},
  {"payloads.management.entries.reserved_for_future_use", "uint"},
  {"payloads.management.entries.cost_value", "uint"},
  {"payloads.management.entries.purse", "uint"},
  {"payloads.management.entries.playback", "uint"},
  {"payloads.management.entries.tek", "uint"},
  {"payloads.management.pin_present", "uint"},
  {"payloads.management.rating_type", "uint"},
  {"payloads.management.level_granted", "uint"},
  {"gba_u", "uint"},
  {"target_id", "bytes"},
  {"key_lifetime", "uint"},
  {"RAND", "bytes"},
  {"AUTN", "bytes"},
  {"naf_fqdn_length", "uint"},
  {"naf_fqdn", "string"},
  {"btid_length", "uint"},
  {"btid", "string"},
}
-- end of generated tables

-- what reads the tables -----------------------------------------------------------------------------------------------

local F, C, V, S = {}, {}, {}, {} -- conditions and lengths; checks; conversions; how values are shown

local function fail(offset, path, code, expected, found)
  error({offset = offset, field = path, code = code, expected = expected, found = found}, 0)
end

local function bytes(count)
  return string.format("%d %s", count, count == 1 and "byte" or "bytes")
end

local function hex(data)
  return (data:gsub(".", function(char) return string.format("%02x", char:byte()) end))
end

local function has(list, value)
  for _, item in ipairs(list) do
    if item == value then return true end
  end
  return false
end

local function either(list)
  local sorted = {}
  for _, item in ipairs(list) do sorted[#sorted + 1] = item end
  table.sort(sorted)
  local texts = {}
  for place, item in ipairs(sorted) do texts[place] = string.format("%d", item) end
  return table.concat(texts, " or ")
end

local function any(data)
  return data:find("[^%z]") ~= nil
end

-- A number, or what says it: a function of the fields before it, or the name of one.
local function quantity(value, c, run)
  if type(value) == "number" then return value end
  if type(value) == "function" then return value(c) end
  return F[value[1]](c, run, value)
end

local function applies(condition, c, run)
  if type(condition) == "function" then return condition(c) end
  return F[condition[1]](c, run, condition)
end

local function take(run, count, start, path)
  if run.position + count > run.stop then
    fail(start, path, "truncated", bytes(run.position - start + count), bytes(run.stop - start))
  end
  local piece = run.data:sub(run.position + 1, run.position + count)
  run.position = run.position + count
  return piece
end

local function number(data)
  local value = 0
  for place = 1, #data do value = value * 256 + data:byte(place) end
  return value
end

local parse_table

-- Shapes that hold fields of their own: they add no row themselves.
local COMPOSITE = {}

local function parse_composite(shape, run, c, path, start)
  return COMPOSITE[shape[1]](shape, run, c, path, start)
end

function COMPOSITE.fields(shape, run, c, path)
  return parse_table(shape[2], run, path)
end

function COMPOSITE.list(shape, run, c, path)
  local items, count = {}, shape[3] and quantity(shape[3], c, run)
  while count and #items < count or not count and (run.position < run.stop or #items < shape[4]) do
    items[#items + 1] = parse_table(shape[2], run, string.format("%s[%d]", path, #items))
  end
  return items
end

function COMPOSITE.area(shape, run, c, path, start)
  local length, outer = quantity(shape[2], c, run), run.stop
  if length > outer - run.position then fail(start, path, "truncated", bytes(length), bytes(outer - run.position)) end
  run.stop = run.position + length
  local inner = path
  if shape.inline then inner = path:match("^(.*)%.[^.]*$") or "" end
  local value = parse_composite(shape[3], run, c, inner, start)
  if run.position < run.stop then fail(run.position, path, "trailing_bytes", "no more bytes", bytes(run.stop - run.position)) end
  run.stop = outer
  return value
end

function COMPOSITE.switch(shape, run, c, path, start)
  return parse_composite(shape[3][quantity(shape[2], c, run)] or shape[4], run, c, path, start)
end

function COMPOSITE.opaque(shape, run, c, path, start)
  return parse_composite(shape[2], run, c, path, start)
end

function COMPOSITE.keydata(shape, run, c, path)
  local items = {}
  while #items == 0 and run.position < run.stop or #items > 0 and items[#items].next_payload == K.KEY_DATA do
    items[#items + 1] = parse_table(shape[2], run, string.format("%s[%d]", path, #items))
  end
  return items
end

function COMPOSITE.chain(shape, run, c, path)
  local items = {}
  while run.state.current ~= K.LAST do
    local current = run.state.current
    local place = string.format("%s[%d]", path, #items)
    run.groups[place] = K.PAYLOADS[current]
    items[#items + 1] = parse_table(shape[2][current], run, place)
  end
  return items
end

local function shown(row, value, data, c, run)
  if row.shape[1] == "secret" or row.secret and applies(row.secret, c, run) then
    return string.format("<%d secret bytes>", #data), true
  end
  if row.show then return S[row.show[1]](value) end
  if type(value) == "string" then
    if row.shape[1] == "converted" then return value end
    if #value <= K.LONGEST_SHOWN then return hex(value) end
    return string.format("%s... (%d bytes)", hex(value:sub(1, K.LONGEST_SHOWN)), #value)
  end
  local text = string.format("%d", value)
  local name = row.names and row.names[value]
  return name and string.format("%s (%s)", text, name) or text
end

local function check(row, value, c, run, start, path)
  if row.check then
    local code, expected, found = C[row.check[1]](value, c, run, row.check)
    if code then fail(start, path, code, expected, found) end
  end
end

function parse_table(rows, run, path)
  local c, prefix = {}, path == "" and "" or path .. "."
  local word, spare = 0, 0 -- bits of the bytes read last; how many of them are still to be used
  for _, row in ipairs(rows) do
    if not row.when or applies(row.when, c, run) then
      local name, shape = prefix .. row.name, row.shape
      local start = run.position - (spare > 0 and 1 or 0)
      local kind, value = shape[1], nil
      if kind == "bits" then
        if shape[2] > spare then
          local missing = math.floor((shape[2] - spare + 7) / 8)
          word = word % 2 ^ spare * 256 ^ missing + number(take(run, missing, start, name))
          spare = spare + 8 * missing
        end
        spare = spare - shape[2]
        value = math.floor(word / 2 ^ spare) % 2 ^ shape[2]
        value = math.floor(value)
      elseif kind == "uint" then
        value = number(take(run, shape[2], start, name))
      elseif kind == "octets" or kind == "secret" then
        value = take(run, quantity(shape[2], c, run), start, name)
      elseif kind == "converted" then
        local code, expected, found
        value, code, expected, found = V[shape[3][1]](take(run, quantity(shape[2], c, run), start, name))
        if code then fail(start, name, code, expected, found) end
      elseif kind == "remaining" then
        value = take(run, math.max(0, run.stop - run.position - quantity(shape[2], c, run)), start, name)
      else
        c[row.name] = parse_composite(shape, run, c, name, start)
        check(row, c[row.name], c, run, start, name)
      end
      if value ~= nil then
        check(row, value, c, run, start, name)
        c[row.name] = value
        if run.position > start then
          local data = run.data:sub(start + 1, run.position)
          local text, hidden = shown(row, value, data, c, run)
          run.rows[#run.rows + 1] = {
            offset = start, length = run.position - start, field = name, row = row, value = value, data = data, text = text,
            hidden = hidden,
          }
        end
      end
    end
  end
  return c
end

-- Key material of a DRM STKM is shown only where a MAC vouches that it is ciphertext: a partial one looks the same.
local function veil(run, fault)
  local hide = fault ~= nil
  for _, row in ipairs(run.rows) do
    if row.field:find("_MAC$") and not row.text:find("[^0]") then hide = true end
  end
  for _, row in ipairs(run.rows) do
    if hide and (row.field == "encrypted_traffic_key_material" or row.field == "next_encrypted_traffic_key_material") then
      row.text, row.hidden = string.format("<%d secret bytes>", row.length), true
    end
  end
end

-- The rows of a message, and the fault that ended it: `pybcast explain`.
local function explain(data, kind, lenient, partial)
  local entry = KINDS[kind]
  local run = {
    data = data, position = 0, stop = #data, rows = {}, groups = {}, lenient = lenient, partial = partial, sized = false,
    profile = entry.profile, state = {current = K.LAST, step = 1, seen = {}, extensions = {}, key_ids = {}, identities = 0},
  }
  local good, fault = pcall(function()
    parse_table(entry.table, run, "")
    if run.position < run.stop and (run.sized or not lenient["trailing-bytes"]) then
      fail(run.position, "", "trailing_bytes", "end of message", bytes(run.stop - run.position))
    end
  end)
  if good then
    fault = nil
  elseif type(fault) ~= "table" then
    fault = {offset = run.position, field = "", code = "internal", expected = "", found = tostring(fault)}
  end
  if kind == "drm-stkm" then veil(run, fault) end
  return run, fault
end

-- conditions and lengths ----------------------------------------------------------------------------------------------

function F.partial(c, run) return run.partial end
function F.permissions(c) return c.programme_flag ~= 0 and c.permissions_flag ~= 0 end
function F.known(c) return K.KEYSET_TAGS[c.message_tag] ~= nil end
function F.body_when(c) return K.KEYSET_TAGS[c.message_tag] == nil end
function F.with(c, run, by) return K.KEYSET_TAGS[c.message_tag] ~= nil and c[by.flag] ~= 0 end
function F.has_salt(c) return K.SALTED[c.type] ~= nil end
function F.signature_length(c) return K.MODULUS_BITS[c.signature_type] / 8 end
function F.bit_access_mask_length(c) return K.GROUP_SIZES[c.group_size_flag] / 8 end
function F.ts_value_length(c) return K.TS_SIZES[c.ts_type] end
function F.mac_length(c) return K.MAC_SIZES[c.mac_alg] end
function F.ver_data_length(c) return K.VER_SIZES[c.auth_alg] end
function F.data_kept() return 0 end

-- values --------------------------------------------------------------------------------------------------------------

function V.read_mjd_bcd(data)
  local digits = hex(data:sub(3))
  if digits:find("%D") then return nil, "bad_value", "6 BCD digits hhmmss", digits end
  local hour, minute, second = tonumber(digits:sub(1, 2)), tonumber(digits:sub(3, 4)), tonumber(digits:sub(5))
  if hour > 23 or minute > 59 or second > 59 then
    local text = string.format("%s:%s:%s", digits:sub(1, 2), digits:sub(3, 4), digits:sub(5))
    return nil, "bad_value", "a time of day up to 23:59:59", text
  end
  return (number(data:sub(1, 2)) - K.MJD_OF_NTP_EPOCH) * 86400 + hour * 3600 + minute * 60 + second
end

function V.read_udn(data)
  local text = hex(data):upper()
  if text ~= K.EVERYONE and text:find("%D") then return nil, "bad_value", "20 BCD digits, or 20 x F", text end
  return text
end

function V.read_ascii(data)
  if data:find("[\128-\255]") then return nil, "bad_value", "ASCII", "other bytes" end
  return data
end

function S.traffic_key_lifetime(value) return string.format("%d (%d s)", value, 2 ^ value) end
function S.hex08(value) return string.format("%08x", value) end

-- A day of the Gregorian calendar from its number, counted in eras of 400 years that begin in March.
function S.iso(ntp)
  local days, second = math.floor(ntp / 86400), ntp % 86400
  local shifted = days + K.MJD_OF_NTP_EPOCH + 678881 -- days since 0000-03-01
  local era = math.floor(shifted / 146097)
  local day = shifted % 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local in_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local shifted_month = math.floor((5 * in_year + 2) / 153)
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  return string.format(
    "%04d-%02d-%02dT%02d:%02d:%02dZ", year + era * 400 + (month <= 2 and 1 or 0), month,
    in_year - math.floor((153 * shifted_month + 2) / 5) + 1, math.floor(second / 3600), math.floor(second / 60) % 60, second % 60
  )
end

-- As Python shows a string.
function S.printable(value)
  if value:find("[%z\1-\31\127]") then return hex(value) end
  local text = value:gsub("[\128-\255]", function(char) return string.format("\\x%02x", char:byte()) end)
  local quote = text:find("'", 1, true) and not text:find('"', 1, true) and '"' or "'"
  text = text:gsub("\\", "\\\\")
  if quote == "'" then text = text:gsub("'", "\\'") end
  return quote .. text .. quote
end

-- checks: nothing, or code, expected, found -----------------------------------------------------------------------------

local function decimal(value) return string.format("%d", value) end

function C.zero(value)
  if value ~= 0 then return "bad_value", "0", decimal(value) end
end

function C.equals(value, c, run, by)
  if value ~= by.wanted then return by.error, decimal(by.wanted), decimal(value) end
end

function C.between(value, c, run, by)
  if value < by.low or value > by.high then return by.error, string.format("%d..%d", by.low, by.high), decimal(value) end
end

function C.one_of(value, c, run, by)
  if not has(by.wanted, value) then return by.error, either(by.wanted), decimal(value) end
end

local function allowed(list, value, code)
  if not has(list, value) then return code, either(list), decimal(value) end
end

function C.total_length(value, c, run)
  run.sized = true
  if value == run.stop then return end
  if value > run.stop or not run.lenient["trailing-bytes"] then
    return "bad_length", string.format("%d (size of the message)", run.stop), decimal(value)
  end
  run.stop = math.max(value, run.position)
end

function C.supported_protocol(value)
  if value ~= K.IPSEC and value ~= K.SRTP and value ~= K.ISMACRYP then
    return "unsupported", "0 (IPsec), 1 (SRTP) or 2 (ISMACryp)", decimal(value)
  end
end

-- DRM Profile

function C.programme_or_service(value, c)
  if value == 0 and c.programme_flag == 0 then return "bad_value", "1, since programme_flag is 0", "0" end
end

function C.material_length(value, c)
  local twice = c.traffic_protection_protocol == K.IPSEC and c.traffic_authentication_flag ~= 0
  local wanted = twice and 2 * K.KEY_LENGTH or K.KEY_LENGTH
  if value ~= wanted then return "bad_length", decimal(wanted), decimal(value) end
end

function C.zero_when_partial(value, c, run)
  if run.partial and any(value) then return "bad_value", string.format("%d zero bytes", #value), "other bytes" end
end

function C.subset(value)
  if not any(value) then return "bad_value", "at least one position", "an empty subset" end
  if not value:find("[^\255]") then
    return "bad_value", "at least one position left out (address_mode 0 means all)", "a full mask"
  end
end

function C.position(value, c)
  local size = K.GROUP_SIZES[c.group_size_flag]
  if value >= size then return "bad_value", string.format("0..%d in a group of %d", size - 1, size), decimal(value) end
end

function C.at_least_one(value)
  if value == 0 then return "bad_length", "at least 1", "0" end
end

function C.not_empty(value) return C.at_least_one(value) end

function C.constraint_length(value, c)
  local wanted = K.CONSTRAINT_LENGTHS[c.type]
  if value ~= wanted then return "bad_length", decimal(wanted), decimal(value) end
end

function C.constraint_value(value, c)
  if has(K.TIME_CONSTRAINTS, c.type) then
    local _, code, expected, found = V.read_mjd_bcd(value)
    return code, expected, found
  end
end

function C.signature_type(value, c, run)
  return allowed(run.lenient["rsa-1024"] and {0, 1, 2} or {1, 2}, value, "unsupported")
end

function C.keyset_needs_success(value, c)
  if value ~= 0 and c.status ~= 0 and K.KEYSET_TAGS[c.message_tag] then
    return "bad_value", string.format("0, since status is %d", c.status), "1"
  end
end

function C.session_key_block_length(value, c, run)
  local sizes = {}
  for code, bits in pairs(K.MODULUS_BITS) do
    if code ~= 0 or run.lenient["rsa-1024"] then sizes[#sizes + 1] = math.floor(bits / 8) end
  end
  return allowed(sizes, value, "bad_length")
end

function C.keyset_block_length(value)
  if value < 3 * K.WRAP_BLOCK or value % K.WRAP_BLOCK ~= 0 then
    return "bad_length", "a multiple of 8, at least 24", decimal(value)
  end
end

-- MIKEY

local function payload(code)
  return K.PAYLOADS[code] and string.format("%d (%s)", code, K.PAYLOADS[code]) or decimal(code)
end

local function named_extension(code)
  return string.format("%d (%s)", code, K.EXT_TYPES[code])
end

local function missing_extension(profile, progress)
  local least
  for code in pairs(profile.extensions) do
    if not progress.extensions[code] and (not least or code < least) then least = code end
  end
  return least
end

local function in_order(value, profile, progress)
  if profile.order[progress.step] == K.SP and value ~= K.SP then progress.step = progress.step + 1 end
  local wanted = profile.order[progress.step]
  if value ~= wanted then return "bad_value", string.format("%s or %s", payload(wanted), payload(K.EXT)), payload(value) end
  progress.step = progress.step + 1
end

function C.follow(value, c, run)
  local profile, progress = run.profile, run.state
  if K.FINAL[progress.current] then
    if value ~= K.LAST then
      return "bad_value", string.format("0 (%s is the last payload)", K.PAYLOADS[progress.current]), payload(value)
    end
    local missing = missing_extension(profile, progress)
    if missing then
      return "bad_value", string.format("EXT %s before it", named_extension(missing)), "none"
    end
  elseif not K.PAYLOADS[value] then
    return "unsupported", "a payload of pre-shared-key mode", decimal(value)
  elseif K.ONCE[value] and progress.seen[value] then
    return "bad_value", string.format("no second %s", K.PAYLOADS[value]), payload(value)
  elseif profile.order and value ~= K.EXT then
    local code, expected, found = in_order(value, profile, progress)
    if code then return code, expected, found end
  end
  progress.seen[value] = true
  progress.current = value
end

function C.empty_map(value, c)
  local code, expected, found = allowed({0, 1}, value, "unsupported")
  if code then return code, expected, found end
  if value == 1 and c.number_of_cs ~= 0 then
    return "bad_value", "0 (SRTP-ID), since the number of crypto sessions is not 0", "1 (empty map)"
  end
end

function C.no_verification(value)
  if value ~= 0 then return "bad_value", "0, no verification message can be asked for here", "1" end
end

function C.csb_id(value, c, run)
  if run.partial and any(value) then return "bad_value", "00000000 in a partial STKM", hex(value) end
  run.state.header = c
  c.csb_id = value
end

function C.extension(value, c, run)
  local progress = run.state
  if (value == K.EXT_KEY_ID or value == K.EXT_OMA_BCAST) and progress.extensions[value] then
    return "bad_value", string.format("no second EXT %d", value), named_extension(value)
  end
  if run.profile.refused_extensions[value] then
    return "bad_value", string.format("no EXT %d in this kind", value), named_extension(value)
  end
  progress.extensions[value] = true
end

function C.extension_length(value, c)
  if c.ext_type == K.EXT_OMA_BCAST and value == 0 then return "bad_length", "at least 1 (the subtype)", "0" end
end

function C.key_id_type(value, c, run)
  local known, profile = run.state.key_ids, run.profile
  if #known < #profile.key_ids then
    if value ~= #known then return "bad_value", decimal(#known), decimal(value) end
  elseif K.KEY_ID_TYPES[value] and (profile.strict or has(known, value)) then
    return "bad_value", string.format("no %s Key ID of type %d", profile.strict and "further" or "second", value), decimal(value)
  end
  known[#known + 1] = value
end

function C.key_id_length(value, c, run)
  local lengths = run.profile.key_ids[c.type + 1]
  if not lengths then return end
  local also = {}
  for _, length in ipairs(lengths) do also[#also + 1] = length end
  if c.type == 2 and run.lenient["mtk-id-4"] then
    also[#also + 1] = 4
  elseif c.type == 2 and value == 4 then
    return "bad_length", "2 (4 with mtk-id-4)", "4"
  end
  return allowed(also, value, "bad_length")
end

function C.remember_management(value, c, run) run.state.management = value end

-- Of two identities, the first is IDi, whose type receivers ignore.
function C.identity_type(value, c, run)
  local progress, identities = run.state, 0
  progress.identities = progress.identities + 1
  for _, number in ipairs(run.profile.order or {}) do
    if K.PAYLOADS[number] == "ID" then identities = identities + 1 end
  end
  local initiator = progress.identities == 1 and identities == 2
  if run.profile.strict and not initiator and value ~= 0 and value ~= 1 then
    return "unsupported", "0 (NAI) or 1 (URI)", decimal(value)
  end
end

function C.mode_of(value, c, run, by)
  if value ~= 0 and c[by.value_flag] == 0 then
    return "bad_value", string.format("0, since %s is 0", by.value_flag), decimal(value)
  end
end

function C.reporting_needs_v(value, c, run)
  if value ~= 0 and run.state.header.v == 0 then return "bad_value", "0, since V is 0", "1" end
end

function C.stkm_encr_alg(value, c, run)
  if value ~= K.NULL and value ~= K.AES_CM_128 then
    return "unsupported", "1 (AES-CM-128), or 0 (NULL) in a partial STKM", decimal(value)
  end
  if run.partial and value ~= K.NULL then return "unsupported", "0 (NULL) in a partial STKM", decimal(value) end
  if value == K.NULL and any(run.state.header.csb_id) then
    return "bad_value", "1 (AES-CM-128), since csb_id is not 0", "0 (NULL)"
  end
end

function C.stkm_encr_data_len(value, c, run)
  local code, expected, found = allowed({K.TEK_DATA, K.TEK_SALT_DATA}, value, "bad_length")
  local block = run.state.management
  if code or not block then return code, expected, found end
  return allowed({block.traffic_protection_protocol == K.SRTP and K.TEK_SALT_DATA or K.TEK_DATA}, value, "bad_length")
end

function C.as_encr_alg(value, c)
  return allowed({c.encr_alg ~= 0 and K.HMAC_SHA_1_160 or K.NULL}, value, "unsupported")
end

function C.ltkm_encr_data_len(value, c, run)
  return allowed(run.lenient["interval-2"] and {K.SEK_DATA, K.SEK_DATA_SHORT_INTERVAL} or {K.SEK_DATA}, value, "bad_length")
end

function C.parental_encr_data_len(value, c, run)
  return allowed({run.state.management.pin_present ~= 0 and K.PIN_DATA or 0}, value, "bad_length")
end

-- Wireshark -----------------------------------------------------------------------------------------------------------

local bcast = Proto("bcast", "OMA BCAST key message")
local by_path, kind_field = {}, ProtoField.string("bcast.kind", "kind")
local all_fields = {kind_field}
for _, entry in ipairs(FIELDS) do
  local path, kind, names = entry[1], entry[2], entry[3]
  local filter, label = "bcast." .. path, path:gsub("%.hidden$", ""):match("[^.]*$")
  if kind == "uint" then
    by_path[path] = ProtoField.uint32(filter, label, base.DEC, names)
  else
    by_path[path] = ProtoField[kind](filter, label)
  end
  all_fields[#all_fields + 1] = by_path[path]
end
bcast.fields = all_fields

local EXPERT = {
  truncated = ProtoExpert.new("bcast.truncated", "Truncated", expert.group.MALFORMED, expert.severity.ERROR),
  trailing_bytes = ProtoExpert.new("bcast.trailing_bytes", "Trailing bytes", expert.group.MALFORMED, expert.severity.ERROR),
  bad_length = ProtoExpert.new("bcast.bad_length", "Bad length", expert.group.MALFORMED, expert.severity.ERROR),
  bad_value = ProtoExpert.new("bcast.bad_value", "Bad value", expert.group.MALFORMED, expert.severity.ERROR),
  unsupported = ProtoExpert.new("bcast.unsupported", "Unsupported", expert.group.UNDECODED, expert.severity.WARN),
  internal = ProtoExpert.new("bcast.internal", "Fault of the dissector", expert.group.UNDECODED, expert.severity.ERROR),
  cut = ProtoExpert.new("bcast.cut", "Cut by the capture", expert.group.UNDECODED, expert.severity.NOTE),
}
local experts = {}
for _, item in pairs(EXPERT) do experts[#experts + 1] = item end
bcast.experts = experts

bcast.prefs.drm_ports = Pref.range("DRM STKM ports", "", "UDP ports of STKMs of the DRM Profile", 65535)
bcast.prefs.smartcard_ports = Pref.range("Smartcard STKM ports", "", "UDP ports of STKMs of the Smartcard Profile", 65535)
bcast.prefs.stkm_ports = Pref.range("STKM ports", "", "UDP ports of STKMs of either profile, told apart by trying", 65535)
bcast.prefs.ltkm_ports = Pref.range("LTKM ports", "4359", "UDP ports of LTKMs and registration material", 65535)
bcast.prefs.heuristic = Pref.bool(
  "Find messages on other ports", true, "Take a datagram that is a message of the Smartcard Profile, a BCRO or registration in every field"
)
bcast.prefs.heuristic_drm = Pref.bool(
  "... DRM STKMs too", false, "They have no mark of their own: now and then a foreign datagram will look like one"
)
for _, name in ipairs(K.LENIENCIES) do
  bcast.prefs["lenient_" .. name:gsub("-", "_")] = Pref.bool("Accept " .. name, false, "As `--lenient " .. name .. "` of pybcast")
end

local function leniencies()
  local found = {}
  for _, name in ipairs(K.LENIENCIES) do found[name] = bcast.prefs["lenient_" .. name:gsub("-", "_")] or nil end
  return found
end

local function plain(text)
  return (text:gsub("[^ -~]", function(char)
    local short = ({["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t"})[char]
    return short or string.format("\\x%02x", char:byte())
  end))
end

-- What tells one message from another, in one line.
local function summary(kind, run)
  local parts, id_type = {kind}, nil
  for _, row in ipairs(run.rows) do
    local path = row.field:gsub("%[%d+%]", "")
    if path == "payloads.ids.type" then id_type = row.value end
    if path == "payloads.ids.value" then
      if K.KEY_ID_LABELS[id_type] then parts[#parts + 1] = K.KEY_ID_LABELS[id_type] .. "=" .. row.text end
    elseif has(K.SUMMARY, path) then
      parts[#parts + 1] = path:match("[^.]*$") .. "=" .. row.text
    end
  end
  return plain(table.concat(parts, " "))
end

local LONGEST_LABEL = 200 -- Wireshark cuts labels at 240 bytes

local function add_row(tree, tvb, row)
  local path = row.field:gsub("%[%d+%]", "")
  local field, range = by_path[row.hidden and by_path[path .. ".hidden"] and path .. ".hidden" or path], tvb(row.offset, row.length)
  local item
  if type(row.value) == "number" and row.row.shape[1] ~= "converted" then
    item = tree:add(field, range, row.value)
  elseif row.row.shape[1] == "converted" then
    item = tree:add(field, range, plain(row.text))
  else
    item = tree:add(field, range)
  end
  local text = plain(row.text)
  if #text > LONGEST_LABEL then text = text:sub(1, LONGEST_LABEL) .. "..." end
  item:set_text(string.format("%s: %s", row.field:match("[^.]*$"), text))
  local meaning = row.row.unset and row.value == 0 and row.row.unset or row.row.meaning
  item:append_text(string.format(" [%s; %s]", meaning, row.row.ground))
end

-- The parts of a path that hold others: payloads[1], payloads[1].management.
local function groups_of(path)
  local found, place = {}, 0
  while true do
    place = path:find(".", place + 1, true)
    if not place then return found end
    found[#found + 1] = path:sub(1, place - 1)
  end
end

local function show(tvb, pinfo, tree, kind, run, fault)
  local length = tvb:len()
  local title = string.format("OMA BCAST %s, %s", kind, bytes(length))
  local root = tree:add(bcast, tvb(0, length), title)
  root:add(kind_field, kind):set_generated()
  local last, made = {}, {}
  for _, row in ipairs(run.rows) do
    for _, group in ipairs(groups_of(row.field)) do last[group] = row.offset + row.length end
  end
  for _, row in ipairs(run.rows) do
    local place = root
    for _, group in ipairs(groups_of(row.field)) do
      if not made[group] then
        local label = group:match("[^.]*$")
        if run.groups[group] then label = string.format("%s: %s", label, run.groups[group]) end
        made[group] = place:add(tvb(row.offset, last[group] - row.offset), label)
      end
      place = made[group]
    end
    add_row(place, tvb, row)
  end
  if tvb:reported_len() > length then root:add_proto_expert_info(EXPERT.cut, "the capture holds only the beginning of this message") end
  if fault then
    local where = fault.field == "" and "message" or fault.field
    local text = string.format(
      "%s: %s at offset %d: expected %s, found %s", fault.code, where, fault.offset, fault.expected, plain(fault.found)
    )
    if fault.offset < length then
      root:add_tvb_expert_info(EXPERT[fault.code], tvb(fault.offset, length - fault.offset), text)
    else
      root:add_proto_expert_info(EXPERT[fault.code], text)
    end
  end
  pinfo.cols.protocol = "BCAST"
  pinfo.cols.info = summary(kind, run) .. (fault and " [" .. fault.code .. "]" or "")
  return length
end

local function data_of(tvb)
  return tvb:len() > 0 and tvb:raw(0, tvb:len()) or ""
end

local function dissect(tvb, pinfo, tree, kind, partial)
  local run, fault = explain(data_of(tvb), kind, leniencies(), partial)
  return show(tvb, pinfo, tree, kind, run, fault)
end

-- The first kind whose layout holds; none: the first of them, with its fault.
local function dissect_first(tvb, pinfo, tree, kinds, only_good)
  local data, lenient = data_of(tvb), leniencies()
  local first
  for _, kind in ipairs(kinds) do
    local run, fault = explain(data, kind, lenient, false)
    if not fault then return show(tvb, pinfo, tree, kind, run, nil) end
    first = first or {kind, run, fault}
  end
  if only_good or not first then return 0 end
  return show(tvb, pinfo, tree, first[1], first[2], first[3])
end

-- Subtypes of the OMA extension and types of Key IDs, as far as the payloads hold together.
local function extensions_of(data)
  local function octet(at) return data:byte(at + 1) or 0 end
  local function number_at(at, width)
    local value = 0
    for place = at, at + width - 1 do value = value * 256 + octet(place) end
    return value
  end
  local subtypes, key_ids = {}, {}
  local number, at = octet(2), 10 + (octet(9) == 0 and 9 * octet(8) or 0)
  while at < #data and K.HEADS[number] do
    local head, width = K.HEADS[number][1], K.HEADS[number][2]
    local content = at + head
    local stop = content + (number == K.T and (K.TS_SIZES[octet(at + 1)] or 0) or number_at(content - width, width))
    if number == K.EXT and octet(at + 1) == K.EXT_OMA_BCAST and content < stop and content < #data then
      subtypes[octet(content)] = true
    elseif number == K.EXT and octet(at + 1) == K.EXT_KEY_ID then
      local entry = content
      while entry < stop and entry < #data do
        key_ids[octet(entry)] = true
        entry = entry + 2 + octet(entry + 1)
      end
    end
    number, at = octet(at), stop
  end
  return subtypes, key_ids
end

-- The kind of a MIKEY message, by what it carries.
local function mikey_kind(data)
  local subtypes, key_ids = extensions_of(data)
  if data:byte(2) == 1 then return subtypes[K.REPORTING_SUBTYPE] and "smartcard-reporting" or "smartcard-verification" end
  if subtypes[K.PARENTAL_SUBTYPE] then return "smartcard-parental" end
  return key_ids[K.TEK] and "smartcard-stkm" or "smartcard-ltkm"
end

-- The first byte of an LTKM or registration object tells its family.
local function kinds_by_first_byte(data)
  return {K.FIRST_BYTE[data:byte(1) or 0] or mikey_kind(data)}
end

local udp_ports = DissectorTable.get("udp.port")
local protocols = {}

local function protocol(name, title, dissector)
  local made = Proto("bcast-" .. name, "OMA BCAST " .. title)
  made.dissector = dissector
  udp_ports:add_for_decode_as(made)
  protocols[name] = made
end

for _, kind in ipairs(ORDER) do
  protocol(kind, kind, function(tvb, pinfo, tree) return dissect(tvb, pinfo, tree, kind, false) end)
end
for _, kind in ipairs({"drm-stkm", "smartcard-stkm"}) do
  protocol(kind .. "-partial", kind .. ", partial", function(tvb, pinfo, tree) return dissect(tvb, pinfo, tree, kind, true) end)
end
protocol("stkm", "STKM, profile by trying", function(tvb, pinfo, tree)
  return dissect_first(tvb, pinfo, tree, (tvb:len() > 1 and tvb(0, 2):uint() == 0x0100) and {"smartcard-stkm", "drm-stkm"} or {"drm-stkm", "smartcard-stkm"})
end)
protocol("ltkm", "LTKM or registration", function(tvb, pinfo, tree)
  return dissect_first(tvb, pinfo, tree, kinds_by_first_byte(data_of(tvb)))
end)

function bcast.dissector(tvb, pinfo, tree)
  local data = data_of(tvb)
  local kinds = kinds_by_first_byte(data)
  -- A STKM of the DRM Profile may begin as MIKEY does, but not the other way round.
  if not K.FIRST_BYTE[data:byte(1) or 0] then
    if data:byte(1) ~= 1 or (data:byte(2) or 2) > 1 then kinds = {} end
    kinds[#kinds + 1] = "drm-stkm"
  end
  return dissect_first(tvb, pinfo, tree, kinds)
end
udp_ports:add_for_decode_as(bcast)

local PORTS = {
  {"drm_ports", "drm-stkm"}, {"smartcard_ports", "smartcard-stkm"}, {"stkm_ports", "stkm"}, {"ltkm_ports", "ltkm"},
}
local registered = {}

local function ports_changed()
  for _, entry in ipairs(PORTS) do
    local wanted, name = tostring(bcast.prefs[entry[1]] or ""), entry[2]
    if registered[name] ~= wanted then
      if (registered[name] or "") ~= "" then udp_ports:remove(registered[name], protocols[name]) end
      if wanted ~= "" then udp_ports:add(wanted, protocols[name]) end
      registered[name] = wanted
    end
  end
end
bcast.prefs_changed = ports_changed
ports_changed()

bcast:register_heuristic("udp", function(tvb, pinfo, tree)
  if not bcast.prefs.heuristic or tvb:len() < 16 then return false end
  local data = data_of(tvb)
  local first = data:byte(1)
  if first == 1 or first >= 0x20 and first <= 0x2A or first == 0x40 then
    if dissect_first(tvb, pinfo, tree, kinds_by_first_byte(data), true) > 0 then return true end
  end
  if bcast.prefs.heuristic_drm and first < 0x10 then return dissect_first(tvb, pinfo, tree, {"drm-stkm"}, true) > 0 end
  return false
end)

local media_types = DissectorTable.get("media_type")
media_types:add("application/vnd.oma.bcast.stkm", protocols["stkm"])
media_types:add("application/vnd.oma.bcast.ltkm", protocols["ltkm"])

set_plugin_info({version = VERSION, author = "pybcast", repository = "", description = "OMA BCAST key messages"})
