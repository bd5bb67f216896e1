/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Intel Multi-Buffer Crypto for IPsec: many independent items in the lanes of one processor.
 *
 * What was measured (1.3, AVX-512, one core; ns per item in a burst of 1 | 4 | 64) and what follows from it:
 *   HMAC-SHA-1 of 125 bytes 533 | 197 | 59, from libcrypto with the padded key hashed anew 280 | 280 | 280: HMACs that come alone
 * or in pairs go there; one AES block with CBC 54 | 31 | 16, with counter mode 9 | 7 | 7: counter mode over zeros from a counter
 * block X is AES of X, so that is how single blocks, and CBC of two, are encrypted; SHA-1 of a padded key and message as a job 72
 * at 64, two single-block calls for the states of a key 136: keys that serve one message are hashed with it. The library is loaded
 * when the provider is opened; its manager and job structures are compiled in, hence the version check.
 */
#define _GNU_SOURCE
#include "crypto.h"

#include <dlfcn.h>
#include <openssl/crypto.h>

/* Below this many HMACs in a burst, libcrypto is faster. */
#define HASH_LEAST 3

static const uint8_t zeros[SHA1_BLOCK];

/* --- keys -------------------------------------------------------------------------------------------------------------------- */

static bool mb_aes_set(bcast_provider *p, aes_key *key, const uint8_t raw[16], bool encrypt)
{
    alignas(16) uint8_t other[sizeof key->schedule];
    if (encrypt)
        IMB_AES_KEYEXP_128(p->mb, raw, key->schedule, other);
    else
        IMB_AES_KEYEXP_128(p->mb, raw, other, key->schedule);
    OPENSSL_cleanse(other, sizeof other);
    return true;
}

static void mb_aes_wipe(aes_key *key) { OPENSSL_cleanse(key, sizeof *key); }

static bool mb_mac_set(bcast_provider *p, mac_key *key, const uint8_t *raw, uint32_t length)
{
    uint8_t inner[SHA1_BLOCK], outer[SHA1_BLOCK];
    memset(inner, 0x36, sizeof inner);
    memset(outer, 0x5c, sizeof outer);
    for (uint32_t i = 0; i < length; i++) {
        inner[i] ^= raw[i];
        outer[i] ^= raw[i];
    }
    IMB_SHA1_ONE_BLOCK(p->mb, inner, key->mb.inner);
    IMB_SHA1_ONE_BLOCK(p->mb, outer, key->mb.outer);
    memcpy(key->mb.raw, raw, length);
    memset(key->mb.raw + length, 0, sizeof key->mb.raw - length);
    OPENSSL_cleanse(inner, sizeof inner);
    OPENSSL_cleanse(outer, sizeof outer);
    return true;
}

static void mb_mac_wipe(mac_key *key) { OPENSSL_cleanse(key, sizeof *key); }

/* --- ciphers ----------------------------------------------------------------------------------------------------------------- */

static inline void counter_job(IMB_JOB *job, const void *schedule, const uint8_t *iv, const uint8_t *in, uint8_t *out,
                               uint32_t length)
{
    job->enc_keys = schedule;
    job->iv = iv;
    job->src = in;
    job->dst = out;
    job->msg_len_to_cipher_in_bytes = length;
}

static inline bool counter_burst(bcast_provider *p, uint32_t n)
{
    return n == 0
           || IMB_SUBMIT_CIPHER_BURST_NOCHECK(p->mb, p->mb_cipher, n, IMB_CIPHER_CNTR, IMB_DIR_ENCRYPT, IMB_KEY_128_BYTES) == n;
}

static bool mb_cbc_encrypt(bcast_provider *p, const cbc_op *ops, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += BURST) {
        const uint32_t last = n - first < BURST ? n : first + BURST;
        uint32_t longest = AES_BLOCK;
        for (uint32_t at = 0; at < longest; at += AES_BLOCK) {
            uint32_t jobs = 0;
            for (uint32_t i = first; i < last; i++) {
                longest = ops[i].length > longest ? ops[i].length : longest;
                if (ops[i].length <= at)
                    continue;
                uint8_t *block = ops[i].data + at;
                if (at != 0)
                    for (int k = 0; k < AES_BLOCK; k++)
                        block[k] ^= block[k - AES_BLOCK];
                counter_job(&p->mb_cipher[jobs++], ops[i].key->schedule, block, zeros, block, AES_BLOCK);
            }
            if (!counter_burst(p, jobs))
                return false;
        }
    }
    return true;
}

static bool mb_cbc_decrypt(bcast_provider *p, const cbc_op *ops, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        for (uint32_t i = 0; i < jobs; i++) {
            const cbc_op *op = &ops[first + i];
            IMB_JOB *job = &p->mb_cipher[i];
            job->dec_keys = op->key->schedule;
            job->iv = zeros;
            job->src = op->data;
            job->dst = op->data;
            job->msg_len_to_cipher_in_bytes = op->length;
        }
        if (IMB_SUBMIT_CIPHER_BURST_NOCHECK(p->mb, p->mb_cipher, jobs, IMB_CIPHER_CBC, IMB_DIR_DECRYPT, IMB_KEY_128_BYTES) != jobs)
            return false;
    }
    return true;
}

static bool mb_ctr(bcast_provider *p, const ctr_op *ops, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        for (uint32_t i = 0; i < jobs; i++) {
            const ctr_op *op = &ops[first + i];
            counter_job(&p->mb_cipher[i], op->key->schedule, op->iv, op->data, op->data, op->length);
        }
        if (!counter_burst(p, jobs))
            return false;
    }
    return true;
}

static bool mb_ctr_once(bcast_provider *p, const ctr_op *ops, uint32_t n)
{
    alignas(16) uint8_t unused[176];
    bool ok = true;
    for (uint32_t first = 0; ok && first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        for (uint32_t i = 0; i < jobs; i++) {
            const ctr_op *op = &ops[first + i];
            IMB_AES_KEYEXP_128(p->mb, op->raw, p->mb_schedules[i], unused);
            counter_job(&p->mb_cipher[i], p->mb_schedules[i], op->iv, op->data, op->data, op->length);
        }
        ok = counter_burst(p, jobs);
        OPENSSL_cleanse(p->mb_schedules, jobs * sizeof *p->mb_schedules);
    }
    OPENSSL_cleanse(unused, sizeof unused);
    return ok;
}

/* --- HMAC -------------------------------------------------------------------------------------------------------------------- */

static bool mb_hmac(bcast_provider *p, const mac_op *ops, uint32_t n, uint32_t out_length)
{
    if (n < HASH_LEAST) {
        for (uint32_t i = 0; i < n; i++) {
            const part whole = {ops[i].data, ops[i].length};
            uint8_t tag[SHA1_LENGTH];
            if (!evp_hmac_parts(p, ops[i].key->mb.raw, sizeof ops[i].key->mb.raw, &whole, 1, tag))
                return false;
            memcpy(ops[i].out, tag, out_length);
        }
        return true;
    }
    for (uint32_t first = 0; first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        for (uint32_t i = 0; i < jobs; i++) {
            const mac_op *op = &ops[first + i];
            IMB_JOB *job = &p->mb_hash[i];
            job->src = op->data;
            job->msg_len_to_hash_in_bytes = op->length;
            job->auth_tag_output = op->out;
            job->auth_tag_output_len_in_bytes = out_length;
            job->u.HMAC._hashed_auth_key_xor_ipad = op->key->mb.inner;
            job->u.HMAC._hashed_auth_key_xor_opad = op->key->mb.outer;
        }
        if (IMB_SUBMIT_HASH_BURST_NOCHECK(p->mb, p->mb_hash, jobs, IMB_AUTH_HMAC_SHA_1) != jobs)
            return false;
    }
    return true;
}

/* SHA-1 of `n` rows of p->blocks, lengths[i] bytes each, into the row's start behind a padded key. */
static bool hash_blocks(bcast_provider *p, uint32_t n, const uint32_t *lengths, uint8_t *const *outputs)
{
    uint32_t completed = 0;
    const IMB_JOB *result;
    for (uint32_t i = 0; i < n; i++) {
        IMB_JOB *job = IMB_GET_NEXT_JOB(p->mb);
        memset(job, 0, sizeof *job);
        job->cipher_mode = IMB_CIPHER_NULL;
        job->cipher_direction = IMB_DIR_ENCRYPT;
        job->chain_order = IMB_ORDER_HASH_CIPHER;
        job->hash_alg = IMB_AUTH_SHA_1;
        job->src = p->blocks[i];
        job->msg_len_to_hash_in_bytes = lengths[i];
        job->auth_tag_output = outputs[i];
        job->auth_tag_output_len_in_bytes = SHA1_LENGTH;
        result = IMB_SUBMIT_JOB_NOCHECK(p->mb);
        completed += result != NULL && result->status == IMB_STATUS_COMPLETED;
    }
    while ((result = IMB_FLUSH_JOB(p->mb)) != NULL)
        completed += result->status == IMB_STATUS_COMPLETED;
    return completed == n;
}

static void pad_key(uint8_t *block, const uint8_t raw[SHA1_LENGTH], uint8_t pad)
{
    memset(block + SHA1_LENGTH, pad, SHA1_BLOCK - SHA1_LENGTH);
    for (int i = 0; i < SHA1_LENGTH; i++)
        block[i] = raw[i] ^ pad;
}

static bool mb_hmac_once(bcast_provider *p, const mac_op *ops, uint32_t n, uint32_t out_length)
{
    bool ok = true;
    for (uint32_t first = 0; ok && first < n; first += BURST) {
        const uint32_t last = n - first < BURST ? n : first + BURST;
        uint32_t lengths[BURST], jobs = 0;
        uint8_t *outputs[BURST];
        const mac_op *taken[BURST];
        uint8_t tags[BURST][SHA1_LENGTH];
        for (uint32_t i = first; ok && i < last; i++) {
            const mac_op *op = &ops[i];
            if (last - first < HASH_LEAST || op->length > ONCE_BLOCK - SHA1_BLOCK) {
                const part whole = {op->data, op->length};
                uint8_t tag[SHA1_LENGTH];
                ok = evp_hmac_parts(p, op->raw, SHA1_LENGTH, &whole, 1, tag);
                memcpy(op->out, tag, out_length);
                continue;
            }
            pad_key(p->blocks[jobs], op->raw, 0x36);
            memcpy(p->blocks[jobs] + SHA1_BLOCK, op->data, op->length);
            lengths[jobs] = SHA1_BLOCK + op->length;
            outputs[jobs] = tags[jobs];
            taken[jobs++] = op;
        }
        if (!ok || jobs == 0)
            continue;
        ok = hash_blocks(p, jobs, lengths, outputs);
        for (uint32_t i = 0; ok && i < jobs; i++) {
            pad_key(p->blocks[i], taken[i]->raw, 0x5c);
            memcpy(p->blocks[i] + SHA1_BLOCK, tags[i], SHA1_LENGTH);
            lengths[i] = SHA1_BLOCK + SHA1_LENGTH;
        }
        ok = ok && hash_blocks(p, jobs, lengths, outputs);
        for (uint32_t i = 0; ok && i < jobs; i++)
            memcpy(taken[i]->out, tags[i], out_length);
        for (uint32_t i = 0; i < jobs; i++)
            OPENSSL_cleanse(p->blocks[i], SHA1_BLOCK);
    }
    return ok;
}

static const crypto crypto_ipsec_mb = {
    .name = "ipsec_mb",
    .aes_set = mb_aes_set,
    .aes_wipe = mb_aes_wipe,
    .mac_set = mb_mac_set,
    .mac_wipe = mb_mac_wipe,
    .cbc_encrypt = mb_cbc_encrypt,
    .cbc_decrypt = mb_cbc_decrypt,
    .ctr = mb_ctr,
    .hmac = mb_hmac,
    .ctr_once = mb_ctr_once,
    .hmac_once = mb_hmac_once,
};

/* --- loading ----------------------------------------------------------------------------------------------------------------- */

/* POSIX's way to make a function out of what dlsym gives. */
#define SYMBOL(p, name, pointer) (*(void **)(&(pointer)) = dlsym((p)->mb_library, name), (pointer) != NULL)

static const char *isa(const IMB_MGR *mgr)
{
    static const char *const names[] = {[IMB_ARCH_NOAESNI] = "noaesni",
                                        [IMB_ARCH_SSE] = "sse",
                                        [IMB_ARCH_AVX] = "avx",
                                        [IMB_ARCH_AVX2] = "avx2",
                                        [IMB_ARCH_AVX512] = "avx512"};
    return mgr->used_arch < sizeof names / sizeof *names && names[mgr->used_arch] != NULL ? names[mgr->used_arch] : "";
}

int ipsec_mb_open(bcast_provider *p)
{
    IMB_MGR *(*allocate)(uint64_t);
    void (*initialise)(IMB_MGR *, IMB_ARCH *);
    unsigned (*version)(void);
    const char *(*version_text)(void);
    p->mb_library = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    if (p->mb_library == NULL)
        return BCAST_E_NO_PROVIDER;
    if (!SYMBOL(p, "imb_get_version", version) || !SYMBOL(p, "imb_get_version_str", version_text)
        || !SYMBOL(p, "alloc_mb_mgr", allocate) || !SYMBOL(p, "free_mb_mgr", p->mb_free)
        || !SYMBOL(p, "init_mb_mgr_auto", initialise) || version() >> 8 != IMB_VERSION_NUM >> 8)
        return BCAST_E_NO_PROVIDER;
    p->mb = allocate(0);
    if (p->mb == NULL)
        return BCAST_E_CRYPTO;
    initialise(p->mb, NULL);
    if (p->mb->submit_hash_burst_nocheck == NULL || p->mb->submit_cipher_burst_nocheck == NULL)
        return BCAST_E_NO_PROVIDER;
    p->mb_version = version_text();
    p->mb_isa = isa(p->mb);
    for (int i = 0; i < BURST; i++) { /* what is the same in every job */
        p->mb_cipher[i].iv_len_in_bytes = AES_BLOCK;
        p->mb_cipher[i].key_len_in_bytes = IMB_KEY_128_BYTES;
        p->mb_cipher[i].hash_alg = IMB_AUTH_NULL;
        p->mb_hash[i].cipher_mode = IMB_CIPHER_NULL;
        p->mb_hash[i].hash_alg = IMB_AUTH_HMAC_SHA_1;
        p->mb_hash[i].chain_order = IMB_ORDER_HASH_CIPHER;
    }
    p->crypto = &crypto_ipsec_mb;
    return BCAST_OK;
}

void ipsec_mb_close(bcast_provider *p)
{
    if (p->mb != NULL)
        p->mb_free(p->mb);
    if (p->mb_library != NULL)
        (void)dlclose(p->mb_library);
}
