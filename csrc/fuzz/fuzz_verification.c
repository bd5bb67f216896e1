/* SPDX-License-Identifier: Apache-2.0 */
/* Verification and reporting: decode, open; what decodes in canonical order is made again to the same bytes up to the MAC. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1)
        return 0;
    const uint32_t flags = bytes[0];
    size--;
    uint8_t *data = fuzz_copy(bytes + 1, size);
    static const uint8_t rand[16] = {9};
    const bcast_answered ltkm = {rand, (const uint8_t *)"bsm", 3};
    bcast_verification m, again;
    bcast_error error;
    uint8_t out[70000];
    size_t length;
    fuzz_set_up();
    const uint32_t reporting = flags >> 3 & 1;
    int code = bcast_verification_open(fuzz_provider, fuzz_smk, &ltkm, data, size, reporting, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    code = bcast_verification_decode(data, size, reporting, flags & 7, &m, &error);
    fuzz_error(code, &error, size, &m, sizeof m);
    if (code == BCAST_OK && m.size <= BCAST_MESSAGE_MAX && m.canonical) {
        m.max_size = BCAST_MESSAGE_MAX;
        MUST(bcast_verification_seal(fuzz_provider, fuzz_smk, &ltkm, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
        MUST(length == m.size && memcmp(out, data, m.mac_at) == 0);
        MUST(bcast_verification_open(fuzz_provider, fuzz_smk, &ltkm, out, length, reporting, 0, &again, &error) == BCAST_OK);
    }
    free(data);
    return 0;
}
