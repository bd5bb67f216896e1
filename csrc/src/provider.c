/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a provider: load it, let it compute its known answers, give it out. */
#include "crypto.h"

#include <openssl/crypto.h>

#ifndef BCAST_WITH_IPSEC_MB
#define BCAST_WITH_IPSEC_MB_VALUE 0
#else
#define BCAST_WITH_IPSEC_MB_VALUE 1
#endif

/* --- known answers ----------------------------------------------------------------------------------------------------------- */

/* Alone, in a short and in a long burst: providers have different code for each. */
static const uint32_t known_sizes[] = {1, 5, BURST};

/* AES: SP 800-38A F.1.1, the first block ... */
static const uint8_t aes_raw[16] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c};
static const uint8_t aes_plain[16] = {0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96,
                                      0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a};
static const uint8_t aes_cipher[16] = {0x3a, 0xd7, 0x7b, 0xb4, 0x0d, 0x7a, 0x36, 0x60,
                                       0xa8, 0x9e, 0xca, 0xf3, 0x24, 0x66, 0xef, 0x97};
/* ... and the second. */
static const uint8_t aes_second[16] = {0xae, 0x2d, 0x8a, 0x57, 0x1e, 0x03, 0xac, 0x9c,
                                       0x9e, 0xb7, 0x6f, 0xac, 0x45, 0xaf, 0x8e, 0x51};
static const uint8_t aes_second_cipher[16] = {0xf5, 0xd3, 0xd5, 0x85, 0x03, 0xb9, 0x69, 0x9d,
                                              0xe7, 0x85, 0x89, 0x5a, 0x96, 0xfd, 0xba, 0xaf};

/* AES-CM key stream: RFC 3711 B.2, same key. */
static const uint8_t cm_iv[16] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0, 0};
static const uint8_t cm_stream[48] = {
    0xe0, 0x3e, 0xad, 0x09, 0x35, 0xc9, 0x5e, 0x80, 0xe1, 0x66, 0xb1, 0x6d, 0xd9, 0x2b, 0x4e, 0xb4,
    0xd2, 0x35, 0x13, 0x16, 0x2b, 0x02, 0xd0, 0xf7, 0x2a, 0x43, 0xa2, 0xfe, 0x4a, 0x5f, 0x97, 0xab,
    0x41, 0xe9, 0x5b, 0x3b, 0xb0, 0xa2, 0xe8, 0xdd, 0x47, 0x79, 0x01, 0xe4, 0xfc, 0xa8, 0x94, 0xc0,
};

/* HMAC-SHA-1: RFC 2202 case 3, 20 x aa, 50 x dd. */
static const uint8_t hmac_tag[20] = {0x12, 0x5d, 0x73, 0x42, 0xb9, 0xac, 0x11, 0xcd, 0x91, 0xa3,
                                     0x9a, 0xf4, 0x8a, 0xa1, 0x7b, 0x4f, 0x63, 0xf1, 0x75, 0xd3};

static bool all_equal(const uint8_t *data, size_t stride, uint32_t n, const uint8_t *wanted, size_t length)
{
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(data + i * stride, wanted, length) != 0)
            return false;
    return true;
}

static bool known_aes(bcast_provider *p, uint32_t n, const aes_key *encrypt, const aes_key *decrypt)
{
    enum { STRIDE = 48 };
    uint8_t data[BURST * STRIDE], plain[32], cipher[32];
    memcpy(plain, aes_plain, 16);
    memcpy(cipher, aes_cipher, 16);
    memcpy(cipher + 16, aes_second_cipher, 16);
    for (int i = 0; i < 16; i++) /* so that CBC gives the second block as ECB does */
        plain[16 + i] = (uint8_t)(aes_second[i] ^ aes_cipher[i]);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(data + i * STRIDE, plain, 32);
        op_cbc_encrypt(&p->cipher[i], encrypt, data + i * STRIDE, 32);
    }
    if (!p->crypto->cbc_encrypt(p, p->cipher, n, 32) || !all_equal(data, STRIDE, n, cipher, 32))
        return false;
    for (uint32_t i = 0; i < n; i++)
        op_cbc_decrypt(&p->cipher[i], decrypt, data + i * STRIDE, 32);
    if (!p->crypto->cbc_decrypt(p, p->cipher, n) || !all_equal(data, STRIDE, n, plain, 32))
        return false;
    for (int once = 0; once < 2; once++) {
        memset(data, 0, sizeof data);
        for (uint32_t i = 0; i < n; i++) { /* 36 bytes: a TEK with its salt */
            uint8_t *to = data + i * STRIDE;
            op_ctr(&p->cipher[i], once ? (const void *)aes_raw : encrypt, cm_iv, to, to, 36);
        }
        if (!(once ? p->crypto->ctr_once : p->crypto->ctr)(p, p->cipher, n) || !all_equal(data, STRIDE, n, cm_stream, 36))
            return false;
    }
    return true;
}

static bool known_hmac(bcast_provider *p, uint32_t n, const mac_key *key, const uint8_t raw[20])
{
    static const uint8_t data[50] = {
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd,
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd,
        0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd,
    };
    for (int once = 0; once < 2; once++) {
        memset(p->tags, 0, sizeof p->tags);
        for (uint32_t i = 0; i < n; i++) {
            if (once)
                op_hmac_once(&p->hash[i], raw, data, sizeof data, p->tags[i], SHA1_LENGTH);
            else
                op_hmac(&p->hash[i], key, data, sizeof data, p->tags[i], SHA1_LENGTH);
        }
        if (!(once ? p->crypto->hmac_once : p->crypto->hmac)(p, p->hash, n)
            || !all_equal(p->tags[0], SHA1_LENGTH, n, hmac_tag, SHA1_LENGTH))
            return false;
    }
    return true;
}

static int known_answers(bcast_provider *p)
{
    const crypto *c = p->crypto;
    uint8_t raw[20];
    mac_key mac;
    aes_key encrypt, decrypt;
    memset(raw, 0xaa, sizeof raw);
    memset(&mac, 0, sizeof mac);
    memset(&encrypt, 0, sizeof encrypt);
    memset(&decrypt, 0, sizeof decrypt);
    int status = BCAST_OK;
    if (!c->aes_set(p, &encrypt, aes_raw, true) || !c->aes_set(p, &decrypt, aes_raw, false)
        || !c->mac_set(p, &mac, raw, sizeof raw))
        status = BCAST_E_CRYPTO;
    for (size_t i = 0; status == BCAST_OK && i < sizeof known_sizes / sizeof *known_sizes; i++)
        if (!known_aes(p, known_sizes[i], &encrypt, &decrypt) || !known_hmac(p, known_sizes[i], &mac, raw))
            status = BCAST_E_KNOWN_ANSWER;
    c->aes_wipe(&encrypt);
    c->aes_wipe(&decrypt);
    c->mac_wipe(&mac);
    return status;
}

/* --- open, close ------------------------------------------------------------------------------------------------------------- */

static int open_one(bcast_provider *p, bool ipsec_mb)
{
    memset(p, 0, sizeof *p);
    p->crypto = &crypto_evp;
    int status = evp_open(p);
#ifdef BCAST_WITH_IPSEC_MB
    if (status == BCAST_OK && ipsec_mb)
        status = ipsec_mb_open(p);
#else
    if (status == BCAST_OK && ipsec_mb)
        status = BCAST_E_NO_PROVIDER;
#endif
    if (status == BCAST_OK)
        status = known_answers(p);
    p->magic = PROVIDER_MAGIC;
    if (status != BCAST_OK)
        bcast_provider_close(p);
    return status;
}

int bcast_provider_open(void *storage, size_t room, const char *name, bcast_provider **provider)
{
    if (provider != NULL)
        *provider = NULL;
    if (storage == NULL || provider == NULL)
        return BCAST_E_ARGUMENT;
    if (room < sizeof(struct bcast_provider) || (uintptr_t)storage % BCAST_ALIGNMENT != 0)
        return BCAST_E_STORAGE;
    struct bcast_provider *p = storage;
    int status = BCAST_E_NO_PROVIDER;
    if (name == NULL || strcmp(name, "ipsec_mb") == 0)
        status = open_one(p, true);
    if ((name == NULL && status != BCAST_OK) || (name != NULL && strcmp(name, "evp") == 0))
        status = open_one(p, false);
    if (status == BCAST_OK)
        *provider = p;
    return status;
}

void bcast_provider_close(bcast_provider *p)
{
    if (!provider_ready(p))
        return;
#ifdef BCAST_WITH_IPSEC_MB
    ipsec_mb_close(p);
#endif
    evp_close(p);
    OPENSSL_cleanse(p, sizeof *p);
}

int bcast_info(const bcast_provider *p, bcast_information *information)
{
    if (information == NULL)
        return BCAST_E_ARGUMENT;
    *information = (bcast_information){bcast_version(), "", "", "", "", BCAST_WITH_IPSEC_MB_VALUE, BURST};
    if (!provider_ready(p))
        return BCAST_E_NOT_READY;
    information->provider = p->crypto->name;
    information->libcrypto_version = p->libcrypto_version;
#ifdef BCAST_WITH_IPSEC_MB
    if (p->mb != NULL) {
        information->ipsec_mb_version = p->mb_version;
        information->ipsec_mb_isa = p->mb_isa;
    }
#endif
    return BCAST_OK;
}
