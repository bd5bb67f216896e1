/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Intel Multi-Buffer Crypto for IPsec: many independent items in the lanes of one processor.
 *
 * What was measured (1.3, AVX-512, one core; ns per item in a burst of 1 | 4 | 64) and what follows from it:
 * - HMAC-SHA-1 of 125 bytes 533 | 197 | 59; from libcrypto with the padded key hashed anew 280: those that come alone or in pairs
 *   go there.
 * - one AES block with CBC 54 | 31 | 16, with counter mode 9 | 7 | 7.  Counter mode over zeros from a counter block X is AES of X:
 *   so single blocks, and CBC of two, are encrypted.
 * - SHA-1 of a padded key and message as a job 72 at 64; two single-block calls for the states of a key 136: keys that serve one
 *   message are hashed with it.
 *
 * The library is loaded when the provider is opened; its manager and job structures are compiled in, hence the version check.
 */
#define _GNU_SOURCE
#include "crypto.h"

#include <dlfcn.h>
#include <openssl/crypto.h>

/* Below this many HMACs in a burst, libcrypto is faster. */
#define HASH_LEAST 3

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

static inline bool counter_burst(bcast_provider *p, op *ops, uint32_t n)
{
    return n == 0 || IMB_SUBMIT_CIPHER_BURST_NOCHECK(p->mb, ops, n, IMB_CIPHER_CNTR, IMB_DIR_ENCRYPT, IMB_KEY_128_BYTES) == n;
}

/* Block after block: counter mode over zeros from the block as counter, see above.  op_cbc_encrypt() has prepared the first. */
static bool mb_cbc_encrypt(bcast_provider *p, op *ops, uint32_t n, uint32_t longest)
{
    for (uint32_t first = 0; first < n; first += BURST) {
        op *const burst = ops + first;
        uint32_t jobs = n - first < BURST ? n - first : BURST;
        uint32_t rest[BURST];
        if (LIKELY(longest == AES_BLOCK)) {
            if (!counter_burst(p, burst, jobs))
                return false;
            continue;
        }
        for (uint32_t i = 0; i < jobs; i++) {
            rest[i] = (uint32_t)burst[i].msg_len_to_cipher_in_bytes - AES_BLOCK;
            burst[i].msg_len_to_cipher_in_bytes = AES_BLOCK;
        }
        while (jobs != 0) {
            if (!counter_burst(p, burst, jobs))
                return false;
            uint32_t still = 0;
            for (uint32_t i = 0; i < jobs; i++) {
                if (rest[i] == 0)
                    continue;
                uint8_t *block = burst[i].dst + AES_BLOCK;
                for (int k = 0; k < AES_BLOCK; k++)
                    block[k] ^= block[k - AES_BLOCK];
                op_cbc_encrypt(&burst[still], op_encrypts_with(&burst[i]), block, AES_BLOCK);
                rest[still++] = rest[i] - AES_BLOCK;
            }
            jobs = still;
        }
    }
    return true;
}

static bool mb_cbc_decrypt(bcast_provider *p, op *ops, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        if (IMB_SUBMIT_CIPHER_BURST_NOCHECK(p->mb, ops + first, jobs, IMB_CIPHER_CBC, IMB_DIR_DECRYPT, IMB_KEY_128_BYTES) != jobs)
            return false;
    }
    return true;
}

static bool mb_ctr(bcast_provider *p, op *ops, uint32_t n)
{
    for (uint32_t first = 0; first < n; first += BURST)
        if (!counter_burst(p, ops + first, n - first < BURST ? n - first : BURST))
            return false;
    return true;
}

static bool mb_ctr_once(bcast_provider *p, op *ops, uint32_t n)
{
    alignas(16) uint8_t unused[176];
    bool ok = true;
    for (uint32_t first = 0; ok && first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        for (uint32_t i = 0; i < jobs; i++) {
            IMB_AES_KEYEXP_128(p->mb, ops[first + i].enc_keys, p->mb_schedules[i], unused);
            ops[first + i].enc_keys = p->mb_schedules[i];
        }
        ok = counter_burst(p, ops + first, jobs);
        OPENSSL_cleanse(p->mb_schedules, jobs * sizeof *p->mb_schedules);
    }
    OPENSSL_cleanse(unused, sizeof unused);
    return ok;
}

/* --- HMAC -------------------------------------------------------------------------------------------------------------------- */

static bool mb_hmac(bcast_provider *p, op *ops, uint32_t n)
{
    if (n < HASH_LEAST) {
        for (uint32_t i = 0; i < n; i++)
            if (!evp_hmac_alone(p, op_authenticates_with(&ops[i])->mb.raw, sizeof(((mac_key *)0)->mb.raw), &ops[i]))
                return false;
        return true;
    }
    for (uint32_t first = 0; first < n; first += BURST) {
        const uint32_t jobs = n - first < BURST ? n - first : BURST;
        if (IMB_SUBMIT_HASH_BURST_NOCHECK(p->mb, ops + first, jobs, IMB_AUTH_HMAC_SHA_1) != jobs)
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

static bool mb_hmac_once(bcast_provider *p, op *ops, uint32_t n)
{
    bool ok = true;
    for (uint32_t first = 0; ok && first < n; first += BURST) {
        const uint32_t last = n - first < BURST ? n : first + BURST;
        uint32_t lengths[BURST], jobs = 0;
        uint8_t *outputs[BURST];
        const op *taken[BURST];
        uint8_t tags[BURST][SHA1_LENGTH];
        for (uint32_t i = first; ok && i < last; i++) {
            const op *o = &ops[i];
            const uint8_t *raw = o->u.HMAC._hashed_auth_key_xor_ipad;
            const uint32_t length = (uint32_t)o->msg_len_to_hash_in_bytes;
            if (last - first < HASH_LEAST || length > ONCE_BLOCK - SHA1_BLOCK) {
                ok = evp_hmac_alone(p, raw, SHA1_LENGTH, o);
                continue;
            }
            pad_key(p->blocks[jobs], raw, 0x36);
            memcpy(p->blocks[jobs] + SHA1_BLOCK, o->src, length);
            lengths[jobs] = SHA1_BLOCK + length;
            outputs[jobs] = tags[jobs];
            taken[jobs++] = o;
        }
        if (jobs == 0)
            continue;
        ok = ok && hash_blocks(p, jobs, lengths, outputs);
        for (uint32_t i = 0; ok && i < jobs; i++) {
            pad_key(p->blocks[i], taken[i]->u.HMAC._hashed_auth_key_xor_ipad, 0x5c);
            memcpy(p->blocks[i] + SHA1_BLOCK, tags[i], SHA1_LENGTH);
            lengths[i] = SHA1_BLOCK + SHA1_LENGTH;
        }
        ok = ok && hash_blocks(p, jobs, lengths, outputs);
        for (uint32_t i = 0; ok && i < jobs; i++)
            memcpy(taken[i]->auth_tag_output, tags[i], taken[i]->auth_tag_output_len_in_bytes);
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
    /* What is the same in every job. */
    for (size_t i = 0; i < sizeof p->cipher / sizeof *p->cipher; i++) {
        p->cipher[i].iv_len_in_bytes = AES_BLOCK;
        p->cipher[i].key_len_in_bytes = IMB_KEY_128_BYTES;
        p->cipher[i].hash_alg = IMB_AUTH_NULL;
    }
    for (size_t i = 0; i < sizeof p->hash / sizeof *p->hash; i++) {
        p->hash[i].cipher_mode = IMB_CIPHER_NULL;
        p->hash[i].hash_alg = IMB_AUTH_HMAC_SHA_1;
        p->hash[i].chain_order = IMB_ORDER_HASH_CIPHER;
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
