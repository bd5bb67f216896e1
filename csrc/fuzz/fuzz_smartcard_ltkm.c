/* SPDX-License-Identifier: Apache-2.0 */
/* Smartcard LTKM: decode, open, walk; what decodes in canonical order is built again to the same bytes up to the key. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1)
        return 0;
    const uint32_t flags = bytes[0];
    size--;
    uint8_t *data = fuzz_copy(bytes + 1, size);
    bcast_smartcard_ltkm m, again;
    bcast_error error;
    bcast_payload payload = {0};
    uint8_t out[70000];
    size_t length;
    fuzz_set_up();
    int code = bcast_smartcard_ltkm_open(fuzz_provider, fuzz_smk, data, size, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    code = bcast_smartcard_ltkm_decode(data, size, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    while (bcast_mikey_next(data, size, &payload) == 1)
        MUST(payload.length > 0 && payload.offset + payload.length <= size);
    if (code == BCAST_OK && m.size <= BCAST_MESSAGE_MAX && m.canonical && m.encr_data.length == 30
        && fuzz_names_key(m.sek_id)) {
        m.key_data_type = BCAST_LTKM_KEY_TYPE;
        m.max_size = BCAST_MESSAGE_MAX;
        m.interval_length = 4;
        m.ts_high = 7;
        MUST(bcast_smartcard_ltkm_seal(fuzz_provider, fuzz_smk, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
        MUST(length == m.size && memcmp(out, data, m.encr_data.offset) == 0);
        MUST(bcast_smartcard_ltkm_open(fuzz_provider, fuzz_smk, out, length, 0, &again, &error) == BCAST_OK && again.ts_high == 7);
    }
    free(data);
    return 0;
}
