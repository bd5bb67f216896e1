/* SPDX-License-Identifier: Apache-2.0 */
/* The card's answer to an LTKM under its SMK: one at a time, never many at once. */
#include "batch.h"

static bool verification_mac(bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, const bcast_verification *m,
                             const uint8_t *data, uint32_t covered, const uint8_t *idr, uint8_t mac[SHA1_LENGTH])
{
    /* confidence: likely - that identities and COUNTER are the bare values; what is covered is sure (smartcard-profile 1.5) */
    const mac_key *const keys[1] = {&key->mac};
    uint8_t counter[4];
    store_u32(counter, m->counter);
    const part parts[4] = {{data, covered}, {ltkm->idi, ltkm->idi_length}, {idr, m->idr.length}, {counter, sizeof counter}};
    make_labels(p, 0, m->csb_id, ltkm->rand);
    const bool ok = mikey_prf_burst(p, keys, 1) && evp_hmac_parts(p, p->derived[PSK_AUTH], SHA1_LENGTH, parts, 4, mac);
    OPENSSL_cleanse(p->derived, 3 * sizeof *p->derived);
    return ok;
}

static bool answered_ok(const bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, bcast_error *error)
{
    if (p == NULL || key == NULL || ltkm == NULL || ltkm->rand == NULL || (ltkm->idi == NULL && ltkm->idi_length != 0)
        || ltkm->idi_length > BCAST_INPUT_MAX)
        return fail(error, BCAST_E_ARGUMENT, 0);
    return (batch_status(p, NULL, 0) == BCAST_OK && key_ready(p, (const key_head *)key, SMK_MAGIC))
           || fail(error, BCAST_E_NOT_READY, 0);
}

int bcast_verification_seal(bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, const bcast_verification *m,
                            const uint8_t *base, size_t base_length, uint8_t *out, size_t room, size_t *length, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!one_status(p, base, base_length, length, error) || !answered_ok(p, key, ltkm, error))
        return error->code;
    if (m == NULL) {
        fail(error, BCAST_E_ARGUMENT, 0);
        return error->code;
    }
    const source src = {base, base_length, error};
    const uint32_t size = verification_measure(&src, m);
    if (size == 0)
        return error->code;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    const sink s = {.arena = out, .room = room};
    if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
        return no_room(error, length);
    if (overlap(ltkm->rand, 16, out, room) || overlap(ltkm->idi, ltkm->idi_length, out, room)) {
        fail(error, BCAST_E_OVERLAP, 0);
        return no_room(error, length);
    }
    const uint32_t covered = size - BCAST_MIKEY_MAC_LENGTH;
    verification_write(out, m, base);
    if (!verification_mac(p, key, ltkm, m, out, covered, m->idr.length == 0 ? NULL : base + m->idr.offset, out + covered)) {
        OPENSSL_cleanse(out, size);
        *length = 0;
        fail(error, BCAST_E_CRYPTO, 0);
    }
    return error->code;
}

int bcast_verification_decode(const uint8_t *data, size_t data_length, uint32_t reporting, uint32_t lenient,
                              bcast_verification *message, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!admit_decode(data, data_length, reporting, lenient, message, sizeof *message, error))
        return error->code;
    reader r = reading(data, data_length, lenient, error);
    return decoded(verification_read(&r, reporting != 0, message), message, sizeof *message, error);
}

int bcast_verification_open(bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, const uint8_t *data,
                            size_t data_length, uint32_t reporting, uint32_t lenient, bcast_verification *message,
                            bcast_error *error)
{
    bcast_error unused;
    uint8_t mac[SHA1_LENGTH];
    error = error != NULL ? error : &unused;
    clear_error(error);
    if (bcast_verification_decode(data, data_length, reporting, lenient, message, error) != BCAST_OK)
        return error->code;
    if (answered_ok(p, key, ltkm, error)) {
        if (!verification_mac(p, key, ltkm, message, data, message->mac_at, data + message->idr.offset, mac))
            fail(error, BCAST_E_CRYPTO, 0);
        else if (!same_mac(mac, data + message->mac_at, sizeof mac))
            fail(error, BCAST_E_INTEGRITY, 0);
    }
    if (error->code != BCAST_OK)
        memset(message, 0, sizeof *message);
    OPENSSL_cleanse(mac, sizeof mac);
    return error->code;
}
