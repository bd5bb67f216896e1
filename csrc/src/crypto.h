/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table behind which AES-128 and HMAC-SHA-1 are computed, and the objects that know it.
 *
 * Few operations are all that the messages need, each on many independent items at once (`n` up to BURST times a few; a provider
 * cuts it as it likes).  Items may share keys.  A function gives false when the library failed; what the items' outputs hold then
 * is undefined and the caller clears it.
 */
#ifndef BCAST_CRYPTO_H
#define BCAST_CRYPTO_H

#include "messages.h"

#include <openssl/evp.h>
#include <stdalign.h>
#ifdef BCAST_WITH_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

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

/*
 * One cipher or MAC to compute.  Where ipsec_mb is built in this is that library's own job structure: what a message needs is
 * written once, where it will be read.  evp takes the same fields.  The functions below fill it in.
 */
#ifdef BCAST_WITH_IPSEC_MB
typedef IMB_JOB op;
#else
typedef struct op {
    const void *enc_keys, *dec_keys;
    const uint8_t *src, *iv;
    uint8_t *dst, *auth_tag_output;
    size_t msg_len_to_cipher_in_bytes, msg_len_to_hash_in_bytes, auth_tag_output_len_in_bytes;
    struct {
        struct {
            const uint8_t *_hashed_auth_key_xor_ipad, *_hashed_auth_key_xor_opad;
        } HMAC;
    } u;
} op;
#endif

/* `length` bytes (whole blocks) with CBC and a zero IV, in place. */
INLINE void op_cbc_encrypt(op *o, const aes_key *key, uint8_t *data, uint32_t length)
{
    static const uint8_t zeros[AES_BLOCK];
    o->enc_keys = key;
    o->src = zeros; /* what ipsec_mb makes of it: see mb_cbc_encrypt() */
    o->iv = data;
    o->dst = data;
    o->msg_len_to_cipher_in_bytes = length;
}
INLINE void op_cbc_decrypt(op *o, const aes_key *key, uint8_t *data, uint32_t length)
{
    static const uint8_t zeros[AES_BLOCK];
    o->dec_keys = key;
    o->src = data;
    o->iv = zeros;
    o->dst = data;
    o->msg_len_to_cipher_in_bytes = length;
}

/*
 * `length` bytes with counter mode, `in` may be `out`.  `key`: an aes_key, or for ctr_once 16 bytes.  `iv` stays where it is until
 * the operation; its last two bytes are zero: at most 65,536 blocks (RFC 3830 4.2.3).
 */
INLINE void op_ctr(op *o, const void *key, const uint8_t iv[AES_BLOCK], const uint8_t *in, uint8_t *out, uint32_t length)
{
    o->enc_keys = key;
    o->src = in;
    o->iv = iv;
    o->dst = out;
    o->msg_len_to_cipher_in_bytes = length;
}

/* The first `size` bytes of HMAC-SHA-1 over `length` bytes. */
INLINE void op_hmac(op *o, const mac_key *key, const uint8_t *data, uint32_t length, uint8_t *out, uint32_t size)
{
    o->u.HMAC._hashed_auth_key_xor_ipad = key->mb.inner; /* also where evp finds its handles */
    o->u.HMAC._hashed_auth_key_xor_opad = key->mb.outer;
    o->src = data;
    o->msg_len_to_hash_in_bytes = length;
    o->auth_tag_output = out;
    o->auth_tag_output_len_in_bytes = size;
}
INLINE void op_hmac_once(op *o, const uint8_t raw[SHA1_LENGTH], const uint8_t *data, uint32_t length, uint8_t *out, uint32_t size)
{
    o->u.HMAC._hashed_auth_key_xor_ipad = raw;
    o->src = data;
    o->msg_len_to_hash_in_bytes = length;
    o->auth_tag_output = out;
    o->auth_tag_output_len_in_bytes = size;
}

INLINE const aes_key *op_encrypts_with(const op *o) { return o->enc_keys; }
INLINE const aes_key *op_decrypts_with(const op *o) { return o->dec_keys; }
INLINE const mac_key *op_authenticates_with(const op *o) { return (const void *)o->u.HMAC._hashed_auth_key_xor_ipad; }

/* An operation may change what it was given. */
typedef struct crypto {
    const char *name;
    bool (*aes_set)(bcast_provider *p, aes_key *key, const uint8_t raw[16], bool encrypt);
    void (*aes_wipe)(aes_key *key);
    bool (*mac_set)(bcast_provider *p, mac_key *key, const uint8_t *raw, uint32_t length); /* length <= 32 */
    void (*mac_wipe)(mac_key *key);
    bool (*cbc_encrypt)(bcast_provider *p, op *ops, uint32_t n, uint32_t longest); /* longest: of the lengths */
    bool (*cbc_decrypt)(bcast_provider *p, op *ops, uint32_t n);
    bool (*ctr)(bcast_provider *p, op *ops, uint32_t n);
    bool (*hmac)(bcast_provider *p, op *ops, uint32_t n);
    /* The same with keys that serve one message only. */
    bool (*ctr_once)(bcast_provider *p, op *ops, uint32_t n);
    bool (*hmac_once)(bcast_provider *p, op *ops, uint32_t n);
} crypto;

extern const crypto crypto_evp;

/* One message of a burst that is opened. */
typedef struct item {
    uint32_t job;
    uint32_t mac;   /* index of its first MAC */
    uint32_t count; /* MACs to compare; 0 once it has failed */
} item;

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
    alignas(16) uint8_t mb_schedules[BURST][176]; /* keys that serve one message */
#endif

    /* work space of a burst */
    op cipher[BURST + 1]; /* the last: for one that comes between */
    op hash[3 * BURST];
    item items[BURST];
    uint8_t iv[BURST][AES_BLOCK];
    uint8_t tags[2 * BURST][SHA1_LENGTH];
    uint8_t derived[3 * BURST][SHA1_LENGTH];
    uint8_t clear[BURST][40]; /* decrypted key data, 36 bytes used */
    union {                   /* one after the other */
        struct {
            uint8_t chain[SHA1_LENGTH]; /* A1 */
            uint8_t label[28];          /* 25 used */
        } labels[3 * BURST];
        uint8_t blocks[BURST][ONCE_BLOCK]; /* one-time HMAC: padded key and message */
    };
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
    uint8_t held; /* HAS_... */
    uint8_t use;
    uint8_t seals; /* BCAST_DRM_SERVICE, BCAST_DRM_PROGRAMME: the parts that it can seal */
    uint8_t reserved[5];
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
    bool has_csb_id; /* what follows up to `encr` is ready; without it each message is opened with keys of its own */
    uint8_t rand_length;
    uint8_t iv[16]; /* of COUNTER 0 */
    mac_key auth;
    aes_key encr;
    /* for messages under another CSB ID */
    uint8_t sek[BCAST_KEY_LENGTH];
    uint8_t rand[BCAST_RAND_LENGTH];
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
/* What `o` asks for, under such a key. */
bool evp_hmac_alone(bcast_provider *p, const uint8_t *raw, uint32_t raw_length, const op *o);

#ifdef BCAST_WITH_IPSEC_MB
/* crypto_ipsec_mb.c: BCAST_E_NO_PROVIDER when the library is not there or not the one this was built for */
int ipsec_mb_open(bcast_provider *p);
void ipsec_mb_close(bcast_provider *p);
#endif

/* keys.c: the MIKEY PRF of `n` keys, three labels each: labels[3i..] must hold the labels, derived[3i..] gets the keys. */
bool mikey_prf_burst(bcast_provider *p, const mac_key *const *keys, uint32_t n);
enum { LABEL_HEAD = 9 };
void mikey_label(uint8_t label[25], int which, const uint8_t csb_id[4], const uint8_t rand[16]);
/* The three keys of messages under one SEK, CSB ID and RAND, which may be empty; needs no room of a burst. */
bool mikey_keys(bcast_provider *p, const uint8_t sek[16], const uint8_t csb_id[4], const uint8_t *rand, uint32_t rand_length,
                uint8_t derived[3][SHA1_LENGTH]);
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
INLINE bool same_mac(const uint8_t *a, const uint8_t *b, size_t length)
{
    uint64_t x, y, difference = 0;
    uint32_t u, v;
    size_t at = 0;
    for (; at + 8 <= length; at += 8) {
        memcpy(&x, a + at, 8);
        memcpy(&y, b + at, 8);
        difference |= x ^ y;
        __asm__("" : "+r"(difference)); /* the compiler must not stop early */
    }
    if (at < length) {
        memcpy(&u, a + at, 4);
        memcpy(&v, b + at, 4);
        difference |= u ^ v;
        __asm__("" : "+r"(difference));
    }
    return difference == 0;
}

/* OPENSSL_cleanse() for many bytes at once, which that clears eight at a time. */
INLINE void wipe_burst(void *data, size_t size)
{
    memset(data, 0, size);
    __asm__ __volatile__("" : : "r"(data) : "memory"); /* the compiler must not drop it */
}

static inline bool provider_ready(const bcast_provider *p) { return p != NULL && p->magic == PROVIDER_MAGIC; }

static inline bool key_ready(const bcast_provider *p, const key_head *head, uint64_t magic)
{
    return head != NULL && (uintptr_t)head % BCAST_ALIGNMENT == 0 && head->magic == magic && head->crypto == p->crypto;
}

#endif
