/* SPDX-License-Identifier: Apache-2.0 */
/* DRM STKM: decode, open; what decodes is built again to the same bytes; what is sealed from it opens to it. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1)
        return 0;
    const uint32_t flags = bytes[0];
    size--;
    uint8_t *data = fuzz_copy(bytes + 1, size);
    bcast_drm_stkm m, again;
    bcast_error error;
    uint8_t out[70000];
    size_t length;
    fuzz_set_up();
    int code = bcast_drm_stkm_open(fuzz_provider, fuzz_drm_key, data, size, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    code = bcast_drm_stkm_decode(data, size, flags >> 3 & 1, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    if (code == BCAST_OK && m.size <= BCAST_DRM_STKM_MAX) {
        /* The table of decoded fields against the bytes: written again, they are the same but for what the keys make. */
        MUST(bcast_drm_stkm_partial(&m, data, size, out, sizeof out, &length, &error) == BCAST_OK && length == m.size);
        for (size_t i = 0; i < length; i++) {
            const bool made = (m.encrypted_PEK_at != 0 && i - m.encrypted_PEK_at < 16)
                              || (m.programme_MAC_at != 0 && i - m.programme_MAC_at < 12)
                              || (m.service_MAC_at != 0 && i - m.service_MAC_at < 12);
            MUST(made || out[i] == data[i]);
        }
        MUST(bcast_drm_stkm_seal(fuzz_provider, fuzz_drm_key, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
        MUST(bcast_drm_stkm_open(fuzz_provider, fuzz_drm_key, out, length, 0, &again, &error) == BCAST_OK);
        MUST(memcmp(m.traffic_key_material, again.traffic_key_material, 32) == 0 && m.present == again.present);
    }
    free(data);
    return 0;
}
