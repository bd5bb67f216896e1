/* SPDX-License-Identifier: Apache-2.0 */
/* Key contexts, and the derivations that fill them: f_auth (drm-profile 1.4) and the MIKEY PRF (RFC 3830 4.1). */
#include "crypto.h"

#include <openssl/crypto.h>

/* --- f_auth ------------------------------------------------------------------------------------------------------------------ */

/* confidence: own - no public text has the constants of f_auth; one per use, so that one seed never gives one key for two uses. */
enum { C_PAK = 0x02, C_SAK = 0x03 };

/* AES-XCBC-MAC of a message that ends in a short block (RFC 3566 4): all that f_auth needs. */
static bool xcbc(bcast_provider *p, const uint8_t subkeys[48], const uint8_t *data, uint32_t length, uint8_t out[16])
{
    memset(out, 0, AES_BLOCK);
    for (uint32_t at = 0;; at += AES_BLOCK) {
        const bool last = length - at < AES_BLOCK;
        const uint32_t piece = last ? length - at : AES_BLOCK;
        for (uint32_t i = 0; i < piece; i++)
            out[i] ^= data[at + i];
        if (last) {
            out[piece] ^= 0x80;
            for (uint32_t i = 0; i < AES_BLOCK; i++)
                out[i] ^= subkeys[32 + i];
        }
        if (!evp_block_once(p, subkeys, true, out, AES_BLOCK))
            return false;
        if (last)
            return true;
    }
}

/* T1 = PRF(seed, C || 01), T2 = PRF(seed, T1 || C || 02); the first 20 bytes of T1 || T2. */
static bool f_auth(bcast_provider *p, const uint8_t seed[16], int constant, uint8_t out[SHA1_LENGTH])
{
    /* confidence: guess - the expansion is IKEv2's (RFC 7296 2.13); that the PRF is AES-XCBC-PRF-128 is likely. */
    uint8_t subkeys[48], t1[16], t2[16], input[33];
    for (int i = 0; i < 48; i++)
        subkeys[i] = (uint8_t)(1 + i / 16);
    bool ok = evp_block_once(p, seed, true, subkeys, sizeof subkeys);
    memset(input + 16, constant, 16);
    input[32] = 0x01;
    ok = ok && xcbc(p, subkeys, input + 16, 17, t1);
    memcpy(input, t1, 16);
    input[32] = 0x02;
    ok = ok && xcbc(p, subkeys, input, 33, t2);
    memcpy(out, t1, 16);
    memcpy(out + 16, t2, 4);
    OPENSSL_cleanse(subkeys, sizeof subkeys);
    OPENSSL_cleanse(t1, sizeof t1);
    OPENSSL_cleanse(t2, sizeof t2);
    OPENSSL_cleanse(input, sizeof input);
    return ok;
}

/* --- MIKEY ------------------------------------------------------------------------------------------------------------------- */

/* A label without its RAND (RFC 3830 4.1.4): constant || FF || CSB ID.  The bare RAND follows, or nothing when it is empty. */
static void label_head(uint8_t label[LABEL_HEAD], int which, const uint8_t csb_id[4])
{
    static const uint8_t constants[3][5] = {
        [PSK_ENCR] = {0x15, 0x05, 0x33, 0xe1, 0xff},
        [PSK_SALT] = {0x29, 0xb8, 0x89, 0x16, 0xff},
        [PSK_AUTH] = {0x2d, 0x22, 0xac, 0x75, 0xff},
    };
    memcpy(label, constants[which], 5);
    memcpy(label + 5, csb_id, 4);
}

void mikey_label(uint8_t label[25], int which, const uint8_t csb_id[4], const uint8_t rand[16])
{
    label_head(label, which, csb_id);
    memcpy(label + LABEL_HEAD, rand, BCAST_RAND_LENGTH);
}

bool mikey_prf_burst(bcast_provider *p, const mac_key *const *keys, uint32_t n)
{
    /* 20 bytes or less from a key of one chunk: P(s, label) = HMAC(s, A1 || label), A1 = HMAC(s, label) (RFC 3830 4.1.2). */
    for (uint32_t i = 0; i < 3 * n; i++)
        op_hmac(&p->hash[i], keys[i / 3], p->labels[i].label, 25, p->labels[i].chain, SHA1_LENGTH);
    bool ok = p->crypto->hmac(p, p->hash, 3 * n);
    for (uint32_t i = 0; i < 3 * n; i++)
        op_hmac(&p->hash[i], keys[i / 3], p->labels[i].chain, SHA1_LENGTH + 25, p->derived[i], SHA1_LENGTH);
    ok = ok && p->crypto->hmac(p, p->hash, 3 * n);
    wipe_burst(p->labels, (size_t)3 * n * sizeof *p->labels); /* others use this room next */
    return ok;
}

bool mikey_keys(bcast_provider *p, const uint8_t sek[16], const uint8_t csb_id[4], const uint8_t *rand, uint32_t rand_length,
                uint8_t derived[3][SHA1_LENGTH])
{
    bool ok = true;
    for (int which = 0; ok && which < 3; which++) {
        uint8_t head[LABEL_HEAD], chain[SHA1_LENGTH];
        const part label[3] = {{chain, sizeof chain}, {head, sizeof head}, {rand, rand_length}};
        label_head(head, which, csb_id);
        ok = evp_hmac_parts(p, sek, BCAST_KEY_LENGTH, label + 1, 2, chain)
             && evp_hmac_parts(p, sek, BCAST_KEY_LENGTH, label, 3, derived[which]);
        OPENSSL_cleanse(chain, sizeof chain);
    }
    return ok;
}

void mikey_iv(uint8_t iv[16], const uint8_t salt[14], const uint8_t csb_id[4])
{
    /* (salt xor (0000 || CSB ID || T, left-padded to 64 bits)) || 0000 (RFC 3830 4.2.3) */
    memcpy(iv, salt, 14);
    iv[14] = iv[15] = 0;
    for (int i = 0; i < 4; i++)
        iv[2 + i] ^= csb_id[i];
}

/* --- contexts ---------------------------------------------------------------------------------------------------------------- */

static int storage_status(const void *storage, size_t room, size_t size, const bcast_provider *p)
{
    if (storage == NULL)
        return BCAST_E_ARGUMENT;
    if (room < size || (uintptr_t)storage % BCAST_ALIGNMENT != 0)
        return BCAST_E_STORAGE;
    return provider_ready(p) ? BCAST_OK : BCAST_E_NOT_READY;
}

static void drm_release(struct bcast_drm_key *key)
{
    const crypto *c = key->head.crypto;
    if (key->held & HAS_PAS)
        c->mac_wipe(&key->pak);
    if (key->held & HAS_SAS)
        c->mac_wipe(&key->sak);
    if (key->held & HAS_PEK) {
        c->aes_wipe(&key->pek_encrypt);
        c->aes_wipe(&key->pek_decrypt);
    }
    if (key->held & HAS_SEK) {
        c->aes_wipe(&key->sek_encrypt);
        c->aes_wipe(&key->sek_decrypt);
    }
    OPENSSL_cleanse(key, sizeof *key);
}

static bool drm_authentication(bcast_provider *p, mac_key *to, const uint8_t *seed, int constant)
{
    uint8_t raw[SHA1_LENGTH];
    const bool ok = f_auth(p, seed, constant, raw) && p->crypto->mac_set(p, to, raw, sizeof raw);
    OPENSSL_cleanse(raw, sizeof raw);
    return ok;
}

static bool drm_encryption(bcast_provider *p, uint32_t use, aes_key *encrypt, aes_key *decrypt, const uint8_t *raw)
{
    return (!(use & BCAST_USE_SEAL) || p->crypto->aes_set(p, encrypt, raw, true))
           && (!(use & BCAST_USE_OPEN) || p->crypto->aes_set(p, decrypt, raw, false));
}

int bcast_drm_key_init(void *storage, size_t room, bcast_provider *provider, const bcast_drm_keys *keys, uint32_t use,
                       bcast_drm_key **out)
{
    if (out != NULL)
        *out = NULL;
    if (out == NULL || keys == NULL || use == 0 || use > (BCAST_USE_SEAL | BCAST_USE_OPEN)
        || (keys->sek == NULL && keys->sas == NULL && keys->pek == NULL && keys->pas == NULL))
        return BCAST_E_ARGUMENT;
    const int status = storage_status(storage, room, sizeof(struct bcast_drm_key), provider);
    if (status != BCAST_OK)
        return status;
    struct bcast_drm_key *key = storage;
    memset(key, 0, sizeof *key);
    key->head.crypto = provider->crypto;
    key->use = (uint8_t)use;
    key->held = (uint8_t)((keys->sek != NULL ? HAS_SEK : 0U) | (keys->sas != NULL ? HAS_SAS : 0U)
                          | (keys->pek != NULL ? HAS_PEK : 0U) | (keys->pas != NULL ? HAS_PAS : 0U));
    if (use & BCAST_USE_SEAL)
        key->seals = (uint8_t)((keys->sek != NULL && keys->sas != NULL ? BCAST_DRM_SERVICE : 0)
                               | (keys->pek != NULL && keys->pas != NULL ? BCAST_DRM_PROGRAMME : 0));
    bool ok = keys->sas == NULL || drm_authentication(provider, &key->sak, keys->sas, C_SAK);
    ok = ok && (keys->pas == NULL || drm_authentication(provider, &key->pak, keys->pas, C_PAK));
    ok = ok && (keys->sek == NULL || drm_encryption(provider, use, &key->sek_encrypt, &key->sek_decrypt, keys->sek));
    ok = ok && (keys->pek == NULL || drm_encryption(provider, use, &key->pek_encrypt, &key->pek_decrypt, keys->pek));
    if (ok && keys->sek != NULL && keys->pek != NULL) {
        memcpy(key->encrypted_PEK, keys->pek, BCAST_KEY_LENGTH);
        ok = evp_block_once(provider, keys->sek, true, key->encrypted_PEK, BCAST_KEY_LENGTH);
    }
    if (!ok) {
        drm_release(key);
        return BCAST_E_CRYPTO;
    }
    key->head.magic = DRM_KEY_MAGIC;
    *out = key;
    return BCAST_OK;
}

void bcast_drm_key_wipe(bcast_drm_key *key)
{
    if (key != NULL && key->head.magic == DRM_KEY_MAGIC)
        drm_release(key);
}

static void smartcard_release(struct bcast_smartcard_key *key)
{
    key->head.crypto->aes_wipe(&key->encr);
    key->head.crypto->mac_wipe(&key->auth);
    OPENSSL_cleanse(key, sizeof *key);
}

int bcast_smartcard_key_init(void *storage, size_t room, bcast_provider *provider, const uint8_t *sek, const uint8_t *csb_id,
                             const uint8_t *rand, size_t rand_length, bcast_smartcard_key **out)
{
    if (out != NULL)
        *out = NULL;
    if (out == NULL || sek == NULL || rand == NULL || (rand_length != 0 && rand_length != BCAST_RAND_LENGTH))
        return BCAST_E_ARGUMENT;
    const int status = storage_status(storage, room, sizeof(struct bcast_smartcard_key), provider);
    if (status != BCAST_OK)
        return status;
    struct bcast_smartcard_key *key = storage;
    const crypto *c = provider->crypto;
    memset(key, 0, sizeof *key);
    key->head.crypto = c;
    key->rand_length = (uint8_t)rand_length;
    memcpy(key->rand, rand, rand_length);
    memcpy(key->sek, sek, BCAST_KEY_LENGTH);
    if (csb_id != NULL) {
        uint8_t(*const derived)[SHA1_LENGTH] = provider->derived;
        key->has_csb_id = true;
        memcpy(key->csb_id, csb_id, 4);
        bool ok = mikey_keys(provider, sek, csb_id, rand, key->rand_length, derived);
        if (ok) {
            mikey_iv(key->iv, derived[PSK_SALT], csb_id);
            ok = c->aes_set(provider, &key->encr, derived[PSK_ENCR], true)
                 && c->mac_set(provider, &key->auth, derived[PSK_AUTH], SHA1_LENGTH);
        }
        OPENSSL_cleanse(derived, 3 * sizeof *derived);
        if (!ok) {
            smartcard_release(key);
            return BCAST_E_CRYPTO;
        }
    }
    key->head.magic = SMARTCARD_KEY_MAGIC;
    *out = key;
    return BCAST_OK;
}

void bcast_smartcard_key_wipe(bcast_smartcard_key *key)
{
    if (key != NULL && key->head.magic == SMARTCARD_KEY_MAGIC)
        smartcard_release(key);
}

int bcast_smk_init(void *storage, size_t room, bcast_provider *provider, const uint8_t *smk, bcast_smk **out)
{
    if (out != NULL)
        *out = NULL;
    if (out == NULL || smk == NULL)
        return BCAST_E_ARGUMENT;
    const int status = storage_status(storage, room, sizeof(struct bcast_smk), provider);
    if (status != BCAST_OK)
        return status;
    struct bcast_smk *key = storage;
    memset(key, 0, sizeof *key);
    key->head.crypto = provider->crypto;
    if (!provider->crypto->mac_set(provider, &key->mac, smk, BCAST_SMK_LENGTH)) {
        provider->crypto->mac_wipe(&key->mac);
        OPENSSL_cleanse(key, sizeof *key);
        return BCAST_E_CRYPTO;
    }
    key->head.magic = SMK_MAGIC;
    *out = key;
    return BCAST_OK;
}

void bcast_smk_wipe(bcast_smk *key)
{
    if (key == NULL || key->head.magic != SMK_MAGIC)
        return;
    key->head.crypto->mac_wipe(&key->mac);
    OPENSSL_cleanse(key, sizeof *key);
}
