/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcrypto through EVP: the provider that is always there, and the odd jobs of the other one.
 *
 * What was measured (OpenSSL 3.0.19, one core; ns per call) and what follows from it:
 *   one ECB update, 1-3 blocks 10 | CBC, new IV and update 98 | CTR, new IV and update 77 | AES key set-up 94
 *   HMAC of 125 bytes: from two copied midstates 204 | EVP_MAC, re-init without key 246 | EVP_MAC, copied 518 | with key 434
 * So an AES key is one kept ECB context, which needs no IV and never a re-init, and CBC and CTR over the one to three blocks of a
 * key are made of it; a HMAC key is two kept digest contexts.
 */
#include "crypto.h"

#include <openssl/crypto.h>
#include <stdio.h>

/* Nothing here was tried with an earlier one. */
#define LIBCRYPTO_LEAST 0x30000030UL

/* Blocks of counter mode handed to the library at once: a TEK with its salt, or a SEK with its window, are three. */
#define CTR_BLOCKS 8

static bool update(EVP_CIPHER_CTX *context, bool encrypt, uint8_t *out, const uint8_t *in, uint32_t length)
{
    int written = 0;
    const int ok = encrypt ? EVP_EncryptUpdate(context, out, &written, in, (int)length)
                           : EVP_DecryptUpdate(context, out, &written, in, (int)length);
    return ok == 1 && written == (int)length;
}

static bool rekey(bcast_provider *p, EVP_CIPHER_CTX *context, const uint8_t raw[16], bool encrypt)
{
    return (encrypt ? EVP_EncryptInit_ex2(context, p->ecb, raw, NULL, NULL) : EVP_DecryptInit_ex2(context, p->ecb, raw, NULL, NULL))
               == 1
           && EVP_CIPHER_CTX_set_padding(context, 0) == 1;
}

int evp_open(bcast_provider *p)
{
    if (OpenSSL_version_num() < LIBCRYPTO_LEAST)
        return BCAST_E_NO_PROVIDER;
    (void)snprintf(p->libcrypto_version, sizeof p->libcrypto_version, "%s", OpenSSL_version(OPENSSL_VERSION_STRING));
    p->ecb = EVP_CIPHER_fetch(NULL, "AES-128-ECB", NULL);
    p->sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
    p->digest = EVP_MD_CTX_new();
    p->encrypt = EVP_CIPHER_CTX_new();
    p->decrypt = EVP_CIPHER_CTX_new();
    return p->ecb != NULL && p->sha1 != NULL && p->digest != NULL && p->encrypt != NULL && p->decrypt != NULL ? BCAST_OK
                                                                                                              : BCAST_E_CRYPTO;
}

void evp_close(bcast_provider *p)
{
    EVP_CIPHER_free(p->ecb);
    EVP_MD_free(p->sha1);
    EVP_MD_CTX_free(p->digest);
    EVP_CIPHER_CTX_free(p->encrypt);
    EVP_CIPHER_CTX_free(p->decrypt);
}

bool evp_block_once(bcast_provider *p, const uint8_t raw[16], bool encrypt, uint8_t *data, uint32_t length)
{
    EVP_CIPHER_CTX *context = encrypt ? p->encrypt : p->decrypt;
    return rekey(p, context, raw, encrypt) && update(context, encrypt, data, data, length);
}

/* --- keys -------------------------------------------------------------------------------------------------------------------- */

static bool evp_aes_set(bcast_provider *p, aes_key *key, const uint8_t raw[16], bool encrypt)
{
    key->evp = EVP_CIPHER_CTX_new();
    return key->evp != NULL && rekey(p, key->evp, raw, encrypt);
}

static void evp_aes_wipe(aes_key *key) { EVP_CIPHER_CTX_free(key->evp); }

/* The state after the padded key: RFC 2104. */
static bool padded(bcast_provider *p, EVP_MD_CTX *context, const uint8_t *raw, uint32_t length, uint8_t pad)
{
    uint8_t block[SHA1_BLOCK];
    memset(block, pad, sizeof block);
    for (uint32_t i = 0; i < length; i++)
        block[i] ^= raw[i];
    const bool ok = EVP_DigestInit_ex2(context, p->sha1, NULL) == 1 && EVP_DigestUpdate(context, block, sizeof block) == 1;
    OPENSSL_cleanse(block, sizeof block);
    return ok;
}

static bool evp_mac_set(bcast_provider *p, mac_key *key, const uint8_t *raw, uint32_t length)
{
    key->evp.inner = EVP_MD_CTX_new();
    key->evp.outer = EVP_MD_CTX_new();
    return key->evp.inner != NULL && key->evp.outer != NULL && padded(p, key->evp.inner, raw, length, 0x36)
           && padded(p, key->evp.outer, raw, length, 0x5c);
}

static void evp_mac_wipe(mac_key *key)
{
    EVP_MD_CTX_free(key->evp.inner);
    EVP_MD_CTX_free(key->evp.outer);
}

/* --- operations -------------------------------------------------------------------------------------------------------------- */

static void xor_block(uint8_t *to, const uint8_t *with)
{
    uint64_t a[2], b[2];
    memcpy(a, to, sizeof a);
    memcpy(b, with, sizeof b);
    a[0] ^= b[0];
    a[1] ^= b[1];
    memcpy(to, a, sizeof a);
}

/*
 * Fetch what a handle points to before it is used.  A handle's parts were allocated one after the other when the key was set up, so
 * they mostly lie behind it; where they do not, a fetch does no harm.  With ten thousand services it saves a third of the time.
 */
#define AHEAD 3
#define CIPHER_HANDLE 704
#define DIGEST_HANDLES 448
static inline void fetch(const void *handle, uint32_t length)
{
    for (uint32_t at = 0; at < length; at += 64)
        __builtin_prefetch((const void *)((uintptr_t)handle + at));
}

static bool evp_cbc_encrypt(bcast_provider *p, op *ops, uint32_t n, uint32_t longest)
{
    (void)p;
    (void)longest;
    for (uint32_t i = 0; i < n; i++) {
        EVP_CIPHER_CTX *context = op_encrypts_with(&ops[i])->evp;
        uint8_t *data = ops[i].dst;
        if (i + AHEAD < n)
            fetch(op_encrypts_with(&ops[i + AHEAD])->evp, CIPHER_HANDLE);
        for (uint32_t at = 0; at < ops[i].msg_len_to_cipher_in_bytes; at += AES_BLOCK) {
            if (at != 0)
                xor_block(data + at, data + at - AES_BLOCK);
            if (!update(context, true, data + at, data + at, AES_BLOCK))
                return false;
        }
    }
    return true;
}

static bool evp_cbc_decrypt(bcast_provider *p, op *ops, uint32_t n)
{
    (void)p;
    for (uint32_t i = 0; i < n; i++) {
        EVP_CIPHER_CTX *context = op_decrypts_with(&ops[i])->evp;
        uint8_t *data = ops[i].dst, cipher[AES_BLOCK] = {0};
        if (i + AHEAD < n)
            fetch(op_decrypts_with(&ops[i + AHEAD])->evp, CIPHER_HANDLE);
        /* From the end, so that the block before is still ciphertext. */
        for (uint32_t at = (uint32_t)ops[i].msg_len_to_cipher_in_bytes; at > 0; at -= AES_BLOCK) {
            uint8_t *block = data + at - AES_BLOCK;
            if (at > AES_BLOCK)
                memcpy(cipher, block - AES_BLOCK, AES_BLOCK);
            if (!update(context, false, block, block, AES_BLOCK))
                return false;
            if (at > AES_BLOCK)
                xor_block(block, cipher);
        }
    }
    return true;
}

static bool counter_mode(EVP_CIPHER_CTX *context, const op *o)
{
    uint8_t stream[CTR_BLOCKS * AES_BLOCK];
    const uint32_t length = (uint32_t)o->msg_len_to_cipher_in_bytes;
    bool ok = true;
    for (uint32_t at = 0, block = 0; ok && at < length; at += sizeof stream) {
        const uint32_t piece = length - at < sizeof stream ? length - at : (uint32_t)sizeof stream;
        const uint32_t blocks = (piece + AES_BLOCK - 1) / AES_BLOCK;
        uint32_t i;
        for (i = 0; i < blocks; i++, block++) {
            memcpy(stream + i * AES_BLOCK, o->iv, AES_BLOCK);
            stream[i * AES_BLOCK + 14] = (uint8_t)(block >> 8);
            stream[i * AES_BLOCK + 15] = (uint8_t)block;
        }
        ok = update(context, true, stream, stream, blocks * AES_BLOCK);
        for (i = 0; i + AES_BLOCK <= piece; i += AES_BLOCK) {
            xor_block(stream + i, o->src + at + i);
            memcpy(o->dst + at + i, stream + i, AES_BLOCK);
        }
        for (; i < piece; i++)
            o->dst[at + i] = o->src[at + i] ^ stream[i];
        OPENSSL_cleanse(stream, blocks * AES_BLOCK);
    }
    return ok;
}

static bool evp_ctr(bcast_provider *p, op *ops, uint32_t n)
{
    (void)p;
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            fetch(op_encrypts_with(&ops[i + AHEAD])->evp, CIPHER_HANDLE);
        if (!counter_mode(op_encrypts_with(&ops[i])->evp, &ops[i]))
            return false;
    }
    return true;
}

static bool evp_ctr_once(bcast_provider *p, op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!rekey(p, p->encrypt, ops[i].enc_keys, true) || !counter_mode(p->encrypt, &ops[i]))
            return false;
    return true;
}

static bool evp_hmac(bcast_provider *p, op *ops, uint32_t n)
{
    uint8_t tag[SHA1_LENGTH];
    for (uint32_t i = 0; i < n; i++) {
        const op *o = &ops[i];
        const mac_key *key = op_authenticates_with(o);
        if (i + AHEAD < n)
            fetch(op_authenticates_with(&ops[i + AHEAD])->evp.inner, DIGEST_HANDLES);
        if (EVP_MD_CTX_copy_ex(p->digest, key->evp.inner) != 1
            || EVP_DigestUpdate(p->digest, o->src, o->msg_len_to_hash_in_bytes) != 1
            || EVP_DigestFinal_ex(p->digest, tag, NULL) != 1 || EVP_MD_CTX_copy_ex(p->digest, key->evp.outer) != 1
            || EVP_DigestUpdate(p->digest, tag, sizeof tag) != 1 || EVP_DigestFinal_ex(p->digest, tag, NULL) != 1)
            return false;
        memcpy(o->auth_tag_output, tag, o->auth_tag_output_len_in_bytes);
    }
    return true;
}

bool evp_hmac_parts(bcast_provider *p, const uint8_t *raw, uint32_t raw_length, const part *parts, uint32_t n,
                    uint8_t out[SHA1_LENGTH])
{
    uint8_t inner[SHA1_LENGTH];
    bool ok = padded(p, p->digest, raw, raw_length, 0x36);
    for (uint32_t i = 0; ok && i < n; i++)
        ok = parts[i].length == 0 || EVP_DigestUpdate(p->digest, parts[i].data, parts[i].length) == 1;
    ok = ok && EVP_DigestFinal_ex(p->digest, inner, NULL) == 1;
    ok = ok && padded(p, p->digest, raw, raw_length, 0x5c);
    return ok && EVP_DigestUpdate(p->digest, inner, sizeof inner) == 1 && EVP_DigestFinal_ex(p->digest, out, NULL) == 1;
}

bool evp_hmac_alone(bcast_provider *p, const uint8_t *raw, uint32_t raw_length, const op *o)
{
    const part whole = {o->src, o->msg_len_to_hash_in_bytes};
    uint8_t tag[SHA1_LENGTH];
    if (!evp_hmac_parts(p, raw, raw_length, &whole, 1, tag))
        return false;
    memcpy(o->auth_tag_output, tag, o->auth_tag_output_len_in_bytes);
    return true;
}

static bool evp_hmac_once(bcast_provider *p, op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!evp_hmac_alone(p, ops[i].u.HMAC._hashed_auth_key_xor_ipad, SHA1_LENGTH, &ops[i]))
            return false;
    return true;
}

const crypto crypto_evp = {
    .name = "evp",
    .aes_set = evp_aes_set,
    .aes_wipe = evp_aes_wipe,
    .mac_set = evp_mac_set,
    .mac_wipe = evp_mac_wipe,
    .cbc_encrypt = evp_cbc_encrypt,
    .cbc_decrypt = evp_cbc_decrypt,
    .ctr = evp_ctr,
    .hmac = evp_hmac,
    .ctr_once = evp_ctr_once,
    .hmac_once = evp_hmac_once,
};
