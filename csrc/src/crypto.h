/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table behind which AES-128 and HMAC-SHA-1 are computed, and the objects that know it.
 *
 * Five operations are all that the messages need, each on many independent items at once (`n` up to BURST times a few; a provider
 * cuts it as it likes).  Items may share keys.  A function gives false when the library failed; what the items' outputs hold then
 * is undefined and the caller clears it.
 */
#ifndef BCAST_CRYPTO_H
#define BCAST_CRYPTO_H

#include "messages.h"

#include <openssl/evp.h>
#include <stdalign.h>

/* Messages that go through a stage together: enough for four rounds of 16 lanes, few enough for the first-level cache. */
#define BURST 64

#define AES_BLOCK 16
#define SHA1_LENGTH 20
#define SHA1_BLOCK 64
#define ONCE_BLOCK (SHA1_BLOCK + 256) /* the longest message that a card takes, behind a padded key */

/* One direction of an AES key. */
typedef union aes_key {
    EVP_CIPHER_CTX *evp;
    alignas(16) uint8_t schedule[176];
} aes_key;

/* A HMAC-SHA-1 key. */
typedef union mac_key {
    struct {
        EVP_MD_CTX *inner; /* after K xor ipad */
        EVP_MD_CTX *outer; /* after K xor opad */
    } evp;
    struct {
        uint8_t inner[SHA1_LENGTH]; /* the same states as bytes */
        uint8_t outer[SHA1_LENGTH];
        uint8_t raw[32]; /* the key, padded with zeros as HMAC does: for what comes alone */
    } mb;
} mac_key;

/* `length` bytes (whole blocks) with CBC and a zero IV, in place. */
typedef struct cbc_op {
    const aes_key *key;
    uint8_t *data;
    uint32_t length;
} cbc_op;

/* `length` bytes with counter mode, in place.  The last two bytes of iv are zero: at most 65,536 blocks (RFC 3830 4.2.3). */
typedef struct ctr_op {
    union {
        const aes_key *key;
        const uint8_t *raw; /* ctr_once: 16 bytes */
    };
    uint8_t *data;
    uint32_t length;
    uint8_t iv[AES_BLOCK];
} ctr_op;

/* HMAC-SHA-1 of `length` bytes; how many bytes of it are wanted is the same for all items. */
typedef struct mac_op {
    union {
        const mac_key *key;
        const uint8_t *raw; /* hmac_once: 20 bytes */
    };
    const uint8_t *data;
    uint8_t *out;
    uint32_t length;
} mac_op;

typedef struct crypto {
    const char *name;
    bool (*aes_set)(bcast_provider *p, aes_key *key, const uint8_t raw[16], bool encrypt);
    void (*aes_wipe)(aes_key *key);
    bool (*mac_set)(bcast_provider *p, mac_key *key, const uint8_t *raw, uint32_t length); /* length <= 32 */
    void (*mac_wipe)(mac_key *key);
    bool (*cbc_encrypt)(bcast_provider *p, const cbc_op *ops, uint32_t n);
    bool (*cbc_decrypt)(bcast_provider *p, const cbc_op *ops, uint32_t n);
    bool (*ctr)(bcast_provider *p, const ctr_op *ops, uint32_t n);
    bool (*hmac)(bcast_provider *p, const mac_op *ops, uint32_t n, uint32_t out_length);
    /* The same with keys that serve one message only. */
    bool (*ctr_once)(bcast_provider *p, const ctr_op *ops, uint32_t n);
    bool (*hmac_once)(bcast_provider *p, const mac_op *ops, uint32_t n, uint32_t out_length);
} crypto;

extern const crypto crypto_evp;

/* One message of a burst that is opened. */
typedef struct item {
    uint32_t job;
    uint32_t mac;   /* index of its first MAC */
    uint32_t count; /* MACs to compare; 0 once it has failed */
} item;

#ifdef BCAST_WITH_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

struct bcast_provider {
    uint64_t magic;
    const crypto *crypto;

    /* libcrypto: for every provider */
    EVP_CIPHER *ecb;
    EVP_MD *sha1;
    EVP_MD_CTX *digest;      /* scratch */
    EVP_CIPHER_CTX *encrypt; /* scratch, rekeyed for keys that serve one message */
    EVP_CIPHER_CTX *decrypt;
    char libcrypto_version[24];

#ifdef BCAST_WITH_IPSEC_MB
    void *mb_library;
    IMB_MGR *mb;
    void (*mb_free)(IMB_MGR *);
    const char *mb_version;
    const char *mb_isa;
    IMB_JOB mb_cipher[BURST];
    IMB_JOB mb_hash[BURST];
    alignas(16) uint8_t mb_schedules[BURST][176]; /* keys that serve one message */
#endif

    /* work space of a burst */
    item items[BURST];
    cbc_op cbc[2 * BURST];
    ctr_op ctr[BURST];
    mac_op mac[3 * BURST];
    uint8_t tags[2 * BURST][SHA1_LENGTH];
    struct {
        uint8_t chain[SHA1_LENGTH]; /* A1 */
        uint8_t label[28];          /* 25 used */
    } labels[3 * BURST];
    uint8_t derived[3 * BURST][SHA1_LENGTH];
    uint8_t clear[BURST][40];          /* decrypted key data, 36 bytes used */
    uint8_t blocks[BURST][ONCE_BLOCK]; /* one-time HMAC: padded key and message */
};

#define PROVIDER_MAGIC UINT64_C(0x6263617374707631)
_Static_assert(sizeof(struct bcast_provider) <= BCAST_PROVIDER_SIZE, "BCAST_PROVIDER_SIZE");

/* What the key contexts begin with. */
typedef struct key_head {
    uint64_t magic;
    const crypto *crypto;
} key_head;

/* Hot first: what sealing touches stands in the first lines. */
struct bcast_drm_key {
    key_head head;
    uint32_t held; /* HAS_... */
    uint32_t use;
    uint8_t encrypted_PEK[AES_BLOCK]; /* SEK and PEK never change in a context, so neither does this */
    mac_key pak;
    mac_key sak;
    aes_key pek_encrypt;
    aes_key sek_encrypt;
    aes_key pek_decrypt;
    aes_key sek_decrypt;
};
enum { HAS_SEK = 1, HAS_SAS = 2, HAS_PEK = 4, HAS_PAS = 8 };

struct bcast_smartcard_key {
    key_head head;
    uint8_t csb_id[4];
    uint8_t iv[16]; /* of COUNTER 0 */
    mac_key auth;
    aes_key encr;
};

struct bcast_smk {
    key_head head;
    mac_key mac;
};

#define DRM_KEY_MAGIC UINT64_C(0x6263617374646b31)
#define SMARTCARD_KEY_MAGIC UINT64_C(0x6263617374736b31)
#define SMK_MAGIC UINT64_C(0x62636173746d6b31)
_Static_assert(sizeof(struct bcast_drm_key) <= BCAST_DRM_KEY_SIZE, "BCAST_DRM_KEY_SIZE");
_Static_assert(sizeof(struct bcast_smartcard_key) <= BCAST_SMARTCARD_KEY_SIZE, "BCAST_SMARTCARD_KEY_SIZE");
_Static_assert(sizeof(struct bcast_smk) <= BCAST_SMK_SIZE, "BCAST_SMK_SIZE");

/* crypto_evp.c: libcrypto, whichever provider */
int evp_open(bcast_provider *p);
void evp_close(bcast_provider *p);
/* One AES block under a key used once; both directions. */
bool evp_block_once(bcast_provider *p, const uint8_t raw[16], bool encrypt, uint8_t *data, uint32_t length);
typedef struct part {
    const uint8_t *data;
    size_t length;
} part;
/* HMAC-SHA-1 over parts, under a key of up to 64 bytes that is used once. */
bool evp_hmac_parts(bcast_provider *p, const uint8_t *raw, uint32_t raw_length, const part *parts, uint32_t n,
                    uint8_t out[SHA1_LENGTH]);

#ifdef BCAST_WITH_IPSEC_MB
/* crypto_ipsec_mb.c: BCAST_E_NO_PROVIDER when the library is not there or not the one this was built for */
int ipsec_mb_open(bcast_provider *p);
void ipsec_mb_close(bcast_provider *p);
#endif

/* keys.c: the MIKEY PRF of `n` keys, three labels each: labels[3i..] must hold the labels, derived[3i..] gets the keys. */
bool mikey_prf_burst(bcast_provider *p, const mac_key *const *keys, uint32_t n);
void mikey_label(uint8_t label[25], int which, const uint8_t csb_id[4], const uint8_t rand[16]);
/* The AES-CM start value of a message with COUNTER 0; the COUNTER is mixed in with mikey_counter(). */
void mikey_iv(uint8_t iv[16], const uint8_t salt[14], const uint8_t csb_id[4]);
static inline void mikey_counter(uint8_t to[16], const uint8_t iv[16], uint32_t counter)
{
    memcpy(to, iv, 16);
    store_u32(to + 10, load_u32(iv + 10) ^ counter);
}
enum { PSK_ENCR = 0, PSK_SALT = 1, PSK_AUTH = 2 };

/*
 * Equal, in a time that depends on `length` alone (12, 16 or 20): whole words, no branch before the end.  CRYPTO_memcmp does the
 * same a byte at a time behind a call; make dudect measures this one.
 */
static inline bool same_mac(const uint8_t *a, const uint8_t *b, size_t length)
{
    uint32_t difference = 0;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t x, y;
        memcpy(&x, a + i, 4);
        memcpy(&y, b + i, 4);
        difference |= x ^ y;
        __asm__("" : "+r"(difference)); /* the compiler must not stop early */
    }
    return difference == 0;
}

static inline bool provider_ready(const bcast_provider *p) { return p != NULL && p->magic == PROVIDER_MAGIC; }

static inline bool key_ready(const bcast_provider *p, const key_head *head, uint64_t magic)
{
    return head != NULL && (uintptr_t)head % BCAST_ALIGNMENT == 0 && head->magic == magic && head->crypto == p->crypto;
}

#endif
