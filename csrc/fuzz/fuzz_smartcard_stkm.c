/* SPDX-License-Identifier: Apache-2.0 */
/* Smartcard STKM: decode, open, walk; what decodes in canonical order is built again to the same bytes. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1)
        return 0;
    const uint32_t flags = bytes[0];
    size--;
    uint8_t *data = fuzz_copy(bytes + 1, size);
    bcast_smartcard_stkm m, again;
    bcast_error error;
    bcast_payload payload = {0};
    uint8_t out[70000];
    size_t length;
    fuzz_set_up();
    int code = bcast_smartcard_stkm_open(fuzz_provider, fuzz_card_key, data, size, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    bcast_error other_error;
    MUST(bcast_smartcard_stkm_open(fuzz_provider, fuzz_opening_key, data, size, flags & 7, &again, &other_error) == code);
    MUST(memcmp(&error, &other_error, sizeof error) == 0 && memcmp(&m, &again, sizeof m) == 0);
    code = bcast_smartcard_stkm_decode(data, size, flags >> 3 & 1, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    while (bcast_mikey_next(data, size, &payload) == 1)
        MUST(payload.length > 0 && payload.offset + payload.length <= size);
    if (code == BCAST_OK && m.size <= BCAST_MESSAGE_MAX && m.tek_id_length == 2 && m.canonical) {
        m.max_size = BCAST_MESSAGE_MAX;
        if (m.partial) {
            MUST(bcast_smartcard_stkm_partial(&m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
            MUST(length == m.size && memcmp(out, data, length) == 0);
        } else if (m.encr_data.length == 36) {
            m.has_salt = 1;
        }
        if (!fuzz_names_key(m.sek_id) || !fuzz_names_tek(m.tek_id)) {
            MUST(bcast_smartcard_stkm_seal(fuzz_provider, fuzz_card_key, &m, data, size, out, sizeof out, &length, &error)
                 == BCAST_E_BAD_VALUE);
            free(data);
            return 0;
        }
        MUST(bcast_smartcard_stkm_seal(fuzz_provider, fuzz_card_key, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
        MUST(length == m.size + (m.partial ? 20 : 0));
        MUST(memcmp(out + 8, data + 8, m.encr_data.offset - 8 - 4 + 1) == 0); /* all but CSB ID, up to the algorithm */
        MUST(bcast_smartcard_stkm_open(fuzz_provider, fuzz_card_key, out, length, 0, &again, &error) == BCAST_OK);
        MUST(memcmp(m.tek, again.tek, 16) == 0 && m.counter == again.counter && again.canonical == 1);
    }
    free(data);
    return 0;
}
