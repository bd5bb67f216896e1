/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long sealing and opening take, beside the floor: the same primitive calls on the same bytes with the same keys and provider
 * and nothing else, measured in turn with them.  One JSON object a line.
 *
 *   bench [--provider NAME] [--job NAME] [--services N] [--batch N] [--threads N] [--rounds N] [--messages N] [--seconds N]
 *
 * --seconds: how many different timestamps there are; 1 unless told, since services change keys in the same second.
 * ns_per_message and floor_ns are the smallest of the rounds, which on a shared machine is the least disturbed one.
 */
#define _GNU_SOURCE
#include "crypto.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SERVICES = 10000, ROOM = 256 };
enum job { DRM_SEAL, DRM_OPEN, STKM_SEAL, STKM_OPEN, LTKM_SEAL, JOBS };
static const char *const job_names[JOBS] = {"drm-stkm-seal", "drm-stkm-open", "smartcard-stkm-seal", "smartcard-stkm-open",
                                            "smartcard-ltkm-seal"};
static const char identities[] = "bsm.example.comMTIzNDU2Nzg5MDEyMzQ1Ng==@bsf.example.com";

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void *room(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (p == NULL)
        abort();
    memset(p, 0, (size + 63) / 64 * 64);
    return p;
}

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "bench: %s failed\n", what);
        exit(1);
    }
}

/* One thread's world: keys of every service, its messages, and where they go. */
typedef struct world {
    bcast_provider *p;
    uint32_t services, messages;
    uint32_t *service;                    /* of each message; no division in what is measured */
    uint8_t *drm_keys, *stkm_keys, *smks; /* storage, one after the other */
    bcast_drm_stkm *drm, *drm_out;
    bcast_smartcard_stkm *stkm, *stkm_out;
    bcast_smartcard_ltkm *ltkm;
    bcast_drm_seal_job *drm_seal;
    bcast_drm_open_job *drm_open;
    bcast_smartcard_seal_job *stkm_seal;
    bcast_smartcard_open_job *stkm_open;
    bcast_ltkm_seal_job *ltkm_seal;
    uint8_t *arena;
    size_t arena_size;
    uint8_t (*derived)[3][SHA1_LENGTH];
} world;

static const struct bcast_drm_key *drm_key(const world *w, uint32_t i)
{
    return (const void *)(w->drm_keys + (size_t)w->service[i] * BCAST_DRM_KEY_SIZE);
}
static const struct bcast_smartcard_key *stkm_key(const world *w, uint32_t i)
{
    return (const void *)(w->stkm_keys + (size_t)w->service[i] * BCAST_SMARTCARD_KEY_SIZE);
}
static const struct bcast_smk *smk(const world *w, uint32_t i)
{
    return (const void *)(w->smks + (size_t)w->service[i] * BCAST_SMK_SIZE);
}

static void build(world *w, const char *provider, uint32_t services, uint32_t messages, uint32_t seconds)
{
    uint32_t n = w->messages = messages;
    w->services = services;
    must(bcast_provider_open(room(BCAST_PROVIDER_SIZE), BCAST_PROVIDER_SIZE, provider, &w->p) == BCAST_OK, "provider");
    w->drm_keys = room((size_t)services * BCAST_DRM_KEY_SIZE);
    w->stkm_keys = room((size_t)services * BCAST_SMARTCARD_KEY_SIZE);
    w->smks = room((size_t)services * BCAST_SMK_SIZE);
    for (uint32_t i = 0; i < services; i++) {
        uint8_t raw[64];
        for (unsigned k = 0; k < sizeof raw; k++)
            raw[k] = (uint8_t)(i * 7 + i / 256 + k * 3);
        const bcast_drm_keys keys = {raw, raw + 16, raw + 32, raw + 48};
        bcast_drm_key *a;
        bcast_smartcard_key *b;
        bcast_smk *c;
        must(bcast_drm_key_init(w->drm_keys + (size_t)i * BCAST_DRM_KEY_SIZE, BCAST_DRM_KEY_SIZE, w->p, &keys,
                                BCAST_USE_SEAL | BCAST_USE_OPEN, &a)
                 == BCAST_OK,
             "key");
        must(bcast_smartcard_key_init(w->stkm_keys + (size_t)i * BCAST_SMARTCARD_KEY_SIZE, BCAST_SMARTCARD_KEY_SIZE, w->p, raw,
                                      raw + 16, raw + 20, BCAST_RAND_LENGTH, &b)
                 == BCAST_OK,
             "key");
        must(bcast_smk_init(w->smks + (size_t)i * BCAST_SMK_SIZE, BCAST_SMK_SIZE, w->p, raw, &c) == BCAST_OK, "key");
    }
    w->service = room(n * sizeof *w->service);
    for (uint32_t i = 0; i < n; i++)
        w->service[i] = i % services;
    w->drm = room(n * sizeof *w->drm);
    w->drm_out = room(n * sizeof *w->drm);
    w->stkm = room(n * sizeof *w->stkm);
    w->stkm_out = room(n * sizeof *w->stkm);
    w->ltkm = room(n * sizeof *w->ltkm);
    w->drm_seal = room(n * sizeof *w->drm_seal);
    w->drm_open = room(n * sizeof *w->drm_open);
    w->stkm_seal = room(n * sizeof *w->stkm_seal);
    w->stkm_open = room(n * sizeof *w->stkm_open);
    w->ltkm_seal = room(n * sizeof *w->ltkm_seal);
    w->derived = room(n * sizeof *w->derived);
    w->arena_size = (size_t)n * ROOM;
    w->arena = room(w->arena_size);
    for (uint32_t i = 0; i < n; i++) {
        /* SRTP, MKI of 6 bytes, next key, timestamp, service and programme: 131 bytes, two MACs. */
        bcast_drm_stkm *d = &w->drm[i];
        d->present = BCAST_DRM_SERVICE | BCAST_DRM_PROGRAMME | BCAST_DRM_NEXT | BCAST_DRM_TIMESTAMP;
        d->protection_after_reception = 3;
        d->traffic_protection_protocol = BCAST_SRTP;
        d->traffic_authentication_flag = 1;
        d->traffic_key_lifetime = 6;
        d->id_length = 6;
        d->material_length = 16;
        memset(d->traffic_key_material, (int)i & 255, 16);
        memset(d->next_traffic_key_material, (int)(i >> 3) & 255, 16);
        d->timestamp = 3413018730 + (int64_t)(i % seconds);
        d->service_CID_extension = i;
        d->programme_CID_extension = i + 1;
        /* TEK and salt, management data: 103 bytes. */
        bcast_smartcard_stkm *s = &w->stkm[i];
        s->counter = 3413018730U + i % seconds;
        s->sek_id[1] = s->sek_id[3] = s->tek_id[1] = 1;
        s->tek_id_length = 2;
        s->has_salt = s->has_management = 1;
        s->protection_after_reception = 3;
        s->traffic_protection_protocol = BCAST_SRTP;
        s->traffic_authentication_flag = 1;
        s->traffic_key_lifetime = 6;
        memset(s->tek, (int)i & 255, 16);
        /* The LTKM of a subscriber with identities of common length: 167 bytes. */
        bcast_smartcard_ltkm *l = &w->ltkm[i];
        l->counter = i;
        l->sek_id[1] = l->sek_id[3] = 1;
        l->ts_high = 1000;
        l->key_data_type = BCAST_LTKM_KEY_TYPE;
        l->interval_length = 4;
        l->idi = (bcast_span){0, 15};
        l->idr = (bcast_span){15, 40};
        w->drm_seal[i] = (bcast_drm_seal_job){.key = drm_key(w, i), .message = d};
        w->stkm_seal[i] = (bcast_smartcard_seal_job){.key = stkm_key(w, i), .message = s};
        w->ltkm_seal[i] = (bcast_ltkm_seal_job){
            .key = smk(w, i), .message = l, .base = (const uint8_t *)identities, .base_length = sizeof identities - 1};
    }
}

/* --- ours -------------------------------------------------------------------------------------------------------------------- */

static void ours(world *w, enum job job, uint32_t batch)
{
    size_t used, at = 0;
    int status = BCAST_OK;
    for (uint32_t i = 0; i < w->messages && status == BCAST_OK; i += batch) {
        const uint32_t n = w->messages - i < batch ? w->messages - i : batch;
        used = 0;
        switch (job) {
        case DRM_SEAL:
            status = bcast_drm_stkm_seal_batch(w->p, w->drm_seal + i, n, w->arena + at, w->arena_size - at, &used);
            break;
        case DRM_OPEN: status = bcast_drm_stkm_open_batch(w->p, w->drm_open + i, n); break;
        case STKM_SEAL:
            status = bcast_smartcard_stkm_seal_batch(w->p, w->stkm_seal + i, n, w->arena + at, w->arena_size - at, &used);
            break;
        case STKM_OPEN: status = bcast_smartcard_stkm_open_batch(w->p, w->stkm_open + i, n); break;
        default: status = bcast_smartcard_ltkm_seal_batch(w->p, w->ltkm_seal + i, n, w->arena + at, w->arena_size - at, &used);
        }
        at += used;
    }
    must(status == BCAST_OK, job_names[job]);
}

/* Sealed messages for the opening jobs. */
static void prepare(world *w, enum job job)
{
    size_t at = 0, used;
    if (job == DRM_OPEN) {
        must(bcast_drm_stkm_seal_batch(w->p, w->drm_seal, w->messages, w->arena, w->arena_size, &used) == BCAST_OK, "seal");
        for (uint32_t i = 0; i < w->messages; at += w->drm_seal[i].length, i++)
            w->drm_open[i] = (bcast_drm_open_job){
                .key = drm_key(w, i), .data = w->arena + at, .message = &w->drm_out[i], .data_length = w->drm_seal[i].length};
    } else if (job == STKM_OPEN) {
        must(bcast_smartcard_stkm_seal_batch(w->p, w->stkm_seal, w->messages, w->arena, w->arena_size, &used) == BCAST_OK, "seal");
        for (uint32_t i = 0; i < w->messages; at += w->stkm_seal[i].length, i++)
            w->stkm_open[i] = (bcast_smartcard_open_job){
                .key = stkm_key(w, i), .data = w->arena + at, .message = &w->stkm_out[i], .data_length = w->stkm_seal[i].length};
    }
}

/* --- the floor --------------------------------------------------------------------------------------------------------------- */

/* What the messages of build() look like: offsets of the primitives' inputs. */
enum {
    DRM_SIZE = 131,
    DRM_MATERIAL = 44,
    DRM_NEXT = 60,
    DRM_FIRST = 103,
    DRM_SECOND = 119,
    STKM_SIZE = 103,
    STKM_DATA = 46,
    LTKM_SIZE = 167,
    LTKM_DATA = 116
};

static void hmac_evp(bcast_provider *p, const mac_key *key, const uint8_t *data, uint32_t length, uint8_t *out, uint32_t size)
{
    uint8_t tag[SHA1_LENGTH];
    (void)EVP_MD_CTX_copy_ex(p->digest, key->evp.inner);
    (void)EVP_DigestUpdate(p->digest, data, length);
    (void)EVP_DigestFinal_ex(p->digest, tag, NULL);
    (void)EVP_MD_CTX_copy_ex(p->digest, key->evp.outer);
    (void)EVP_DigestUpdate(p->digest, tag, sizeof tag);
    (void)EVP_DigestFinal_ex(p->digest, tag, NULL);
    memcpy(out, tag, size);
}

static void raw_evp(bcast_provider *p, const uint8_t *raw, const uint8_t *data, uint32_t length, uint8_t *out)
{
    uint8_t block[SHA1_BLOCK];
    for (int pad = 0; pad < 2; pad++) {
        memset(block, pad ? 0x5c : 0x36, sizeof block);
        for (int i = 0; i < SHA1_LENGTH; i++)
            block[i] ^= raw[i];
        (void)EVP_DigestInit_ex2(p->digest, p->sha1, NULL);
        (void)EVP_DigestUpdate(p->digest, block, sizeof block);
        (void)EVP_DigestUpdate(p->digest, pad ? out : data, pad ? SHA1_LENGTH : length);
        (void)EVP_DigestFinal_ex(p->digest, out, NULL);
    }
}

static void floor_evp(world *w, enum job job)
{
    bcast_provider *p = w->p;
    uint8_t tag[SHA1_LENGTH], stream[48], label[48];
    int n;
    memset(label, 1, sizeof label);
    for (uint32_t i = 0; i < w->messages; i++) {
        const struct bcast_drm_key *d = drm_key(w, i);
        const struct bcast_smartcard_key *s = stkm_key(w, i);
        uint8_t *m;
        switch (job) {
        case DRM_SEAL:
            m = w->arena + (size_t)i * DRM_SIZE;
            (void)EVP_EncryptUpdate(d->pek_encrypt.evp, m + DRM_MATERIAL, &n, m + DRM_MATERIAL, 16);
            (void)EVP_EncryptUpdate(d->pek_encrypt.evp, m + DRM_NEXT, &n, m + DRM_NEXT, 16);
            hmac_evp(p, &d->pak, m, DRM_FIRST, m + DRM_FIRST, 12);
            hmac_evp(p, &d->sak, m, DRM_SECOND, m + DRM_SECOND, 12);
            break;
        case DRM_OPEN:
            m = w->arena + (size_t)i * DRM_SIZE;
            hmac_evp(p, &d->pak, m, DRM_FIRST, tag, 12);
            hmac_evp(p, &d->sak, m, DRM_SECOND, tag, 12);
            (void)EVP_DecryptUpdate(d->pek_decrypt.evp, w->drm_out[i].traffic_key_material, &n, m + DRM_MATERIAL, 16);
            (void)EVP_DecryptUpdate(d->pek_decrypt.evp, w->drm_out[i].next_traffic_key_material, &n, m + DRM_NEXT, 16);
            break;
        case STKM_SEAL:
        case STKM_OPEN:
            m = w->arena + (size_t)i * STKM_SIZE;
            (void)EVP_EncryptUpdate(s->encr.evp, stream, &n, stream, 48);
            memcpy(m + STKM_DATA, stream, 36);
            hmac_evp(p, &s->auth, m, STKM_SIZE - 20, job == STKM_SEAL ? m + STKM_SIZE - 20 : tag, 20);
            break;
        default:
            m = w->arena + (size_t)i * LTKM_SIZE;
            for (int k = 0; k < 3; k++) {
                hmac_evp(p, &smk(w, i)->mac, label, 25, label, 20);
                hmac_evp(p, &smk(w, i)->mac, label, 45, w->derived[i][k], 20);
            }
            (void)EVP_EncryptInit_ex2(p->encrypt, p->ecb, w->derived[i][0], NULL, NULL);
            (void)EVP_EncryptUpdate(p->encrypt, stream, &n, stream, 32);
            memcpy(m + LTKM_DATA, stream, 30);
            raw_evp(p, w->derived[i][2], m, LTKM_SIZE - 20, m + LTKM_SIZE - 20);
        }
    }
}

#ifdef BCAST_WITH_IPSEC_MB
static IMB_JOB *hash_job(IMB_JOB *job, const mac_key *key, const uint8_t *data, uint32_t length, uint8_t *out, uint32_t size)
{
    job->src = data;
    job->msg_len_to_hash_in_bytes = length;
    job->auth_tag_output = out;
    job->auth_tag_output_len_in_bytes = size;
    job->u.HMAC._hashed_auth_key_xor_ipad = key->mb.inner;
    job->u.HMAC._hashed_auth_key_xor_opad = key->mb.outer;
    return job + 1;
}

static void hash_submit(bcast_provider *p, uint32_t n)
{
    for (uint32_t at = 0; at < n; at += BURST)
        (void)IMB_SUBMIT_HASH_BURST_NOCHECK(p->mb, p->hash + at, n - at < BURST ? n - at : BURST, IMB_AUTH_HMAC_SHA_1);
}

static IMB_JOB *cipher_job(IMB_JOB *job, const aes_key *key, const uint8_t *iv, const uint8_t *in, uint8_t *out, uint32_t length)
{
    job->enc_keys = job->dec_keys = key->schedule;
    job->iv = iv;
    job->src = in;
    job->dst = out;
    job->msg_len_to_cipher_in_bytes = length;
    return job + 1;
}

static void counter_submit(bcast_provider *p, uint32_t n)
{
    (void)IMB_SUBMIT_CIPHER_BURST_NOCHECK(p->mb, p->cipher, n, IMB_CIPHER_CNTR, IMB_DIR_ENCRYPT, IMB_KEY_128_BYTES);
}

static void sha1_jobs(bcast_provider *p, uint32_t n, uint32_t length)
{
    for (uint32_t i = 0; i < n; i++) {
        IMB_JOB *job = IMB_GET_NEXT_JOB(p->mb);
        memset(job, 0, sizeof *job);
        job->cipher_mode = IMB_CIPHER_NULL;
        job->cipher_direction = IMB_DIR_ENCRYPT;
        job->chain_order = IMB_ORDER_HASH_CIPHER;
        job->hash_alg = IMB_AUTH_SHA_1;
        job->src = p->blocks[i];
        job->msg_len_to_hash_in_bytes = length;
        job->auth_tag_output = p->tags[i];
        job->auth_tag_output_len_in_bytes = SHA1_LENGTH;
        (void)IMB_SUBMIT_JOB_NOCHECK(p->mb);
    }
    while (IMB_FLUSH_JOB(p->mb) != NULL)
        ;
}

static void floor_mb(world *w, enum job job, uint32_t batch)
{
    static const uint8_t zeros[64];
    bcast_provider *p = w->p;
    alignas(16) uint8_t unused[176];
    uint8_t labels[3 * BURST][48];
    if (batch > BURST)
        batch = BURST;
    for (uint32_t first = 0; first < w->messages; first += batch) {
        const uint32_t n = w->messages - first < batch ? w->messages - first : batch;
        const uint32_t half = BURST / 2;
        IMB_JOB *c = p->cipher, *h = p->hash;
        switch (job) {
        case DRM_SEAL:
            for (uint32_t from = 0; from < n; from += half) { /* two blocks a message: half as many messages */
                c = p->cipher;
                const uint32_t to = n - from < half ? n : from + half;
                for (uint32_t i = first + from; i < first + to; i++) {
                    uint8_t *m = w->arena + (size_t)i * DRM_SIZE;
                    c = cipher_job(c, &drm_key(w, i)->pek_encrypt, m + DRM_MATERIAL, zeros, m + DRM_MATERIAL, 16);
                    c = cipher_job(c, &drm_key(w, i)->pek_encrypt, m + DRM_NEXT, zeros, m + DRM_NEXT, 16);
                }
                counter_submit(p, (uint32_t)(c - p->cipher));
            }
            for (int second = 0; second < 2; second++) {
                const uint32_t at = second ? DRM_SECOND : DRM_FIRST;
                h = p->hash;
                for (uint32_t i = first; i < first + n; i++) {
                    uint8_t *m = w->arena + (size_t)i * DRM_SIZE;
                    if (n < 3)
                        raw_evp(p, second ? drm_key(w, i)->sak.mb.raw : drm_key(w, i)->pak.mb.raw, m, at, p->tags[0]);
                    else
                        h = hash_job(h, second ? &drm_key(w, i)->sak : &drm_key(w, i)->pak, m, at, m + at, 12);
                }
                hash_submit(p, (uint32_t)(h - p->hash));
            }
            break;
        case DRM_OPEN:
            for (uint32_t from = 0; from < n; from += half) {
                const uint32_t to = n - from < half ? n : from + half;
                h = p->hash;
                c = p->cipher;
                for (uint32_t i = first + from; i < first + to; i++) {
                    uint8_t *m = w->arena + (size_t)i * DRM_SIZE;
                    if (2 * n < 3) {
                        raw_evp(p, drm_key(w, i)->pak.mb.raw, m, DRM_FIRST, p->tags[0]);
                        raw_evp(p, drm_key(w, i)->sak.mb.raw, m, DRM_SECOND, p->tags[0]);
                    } else {
                        h = hash_job(h, &drm_key(w, i)->pak, m, DRM_FIRST, p->tags[h - p->hash], 12);
                        h = hash_job(h, &drm_key(w, i)->sak, m, DRM_SECOND, p->tags[h - p->hash], 12);
                    }
                    c = cipher_job(c, &drm_key(w, i)->pek_decrypt, zeros, m + DRM_MATERIAL, w->drm_out[i].traffic_key_material, 16);
                    c = cipher_job(c, &drm_key(w, i)->pek_decrypt, zeros, m + DRM_NEXT, w->drm_out[i].next_traffic_key_material,
                                   16);
                }
                hash_submit(p, (uint32_t)(h - p->hash));
                (void)IMB_SUBMIT_CIPHER_BURST_NOCHECK(p->mb, p->cipher, (uint32_t)(c - p->cipher), IMB_CIPHER_CBC, IMB_DIR_DECRYPT,
                                                      IMB_KEY_128_BYTES);
            }
            break;
        case STKM_SEAL:
        case STKM_OPEN:
            for (uint32_t i = first; i < first + n; i++) {
                uint8_t *m = w->arena + (size_t)i * STKM_SIZE;
                c = cipher_job(c, &stkm_key(w, i)->encr, stkm_key(w, i)->iv, job == STKM_SEAL ? m + STKM_DATA : m + STKM_DATA,
                               job == STKM_SEAL ? m + STKM_DATA : p->blocks[i - first], 36);
                if (n < 3)
                    raw_evp(p, stkm_key(w, i)->auth.mb.raw, m, STKM_SIZE - 20, p->tags[0]);
                else
                    h = hash_job(h, &stkm_key(w, i)->auth, m, STKM_SIZE - 20,
                                 job == STKM_SEAL ? m + STKM_SIZE - 20 : p->tags[i - first], 20);
            }
            counter_submit(p, n);
            hash_submit(p, (uint32_t)(h - p->hash));
            break;
        default:
            for (int pass = 0; pass < 2; pass++) {
                h = p->hash;
                for (uint32_t k = 0; k < 3 * n; k++) {
                    const mac_key *key = &smk(w, first + k / 3)->mac;
                    uint8_t *out = pass ? w->derived[first + k / 3][k % 3] : labels[k];
                    if (3 * n < 3)
                        raw_evp(p, key->mb.raw, labels[k], pass ? 45 : 25, out);
                    else
                        h = hash_job(h, key, pass ? labels[k] : labels[k] + 20, pass ? 45 : 25, out, 20);
                    if (h == p->hash + BURST || k + 1 == 3 * n) {
                        hash_submit(p, (uint32_t)(h - p->hash));
                        h = p->hash;
                    }
                }
            }
            for (uint32_t i = first; i < first + n; i++) {
                uint8_t *m = w->arena + (size_t)i * LTKM_SIZE;
                aes_key *schedule = (aes_key *)(void *)p->mb_schedules[i - first];
                IMB_AES_KEYEXP_128(p->mb, w->derived[i][0], schedule->schedule, unused);
                c = cipher_job(c, schedule, w->derived[i][1], m + LTKM_DATA, m + LTKM_DATA, 30);
            }
            counter_submit(p, n);
            if (n < 3) {
                for (uint32_t i = first; i < first + n; i++)
                    raw_evp(p, w->derived[i][2], w->arena + (size_t)i * LTKM_SIZE, LTKM_SIZE - 20, p->tags[0]);
            } else {
                sha1_jobs(p, n, SHA1_BLOCK + LTKM_SIZE - 20);
                sha1_jobs(p, n, SHA1_BLOCK + SHA1_LENGTH);
            }
        }
    }
}
#endif

static void run_floor(world *w, enum job job, uint32_t batch)
{
#ifdef BCAST_WITH_IPSEC_MB
    if (w->p->mb != NULL) {
        floor_mb(w, job, batch);
        return;
    }
#endif
    (void)batch;
    floor_evp(w, job);
}

/* --- measuring --------------------------------------------------------------------------------------------------------------- */

typedef struct task {
    world *w;
    enum job job;
    uint32_t batch, rounds;
    double best, floor;
    pthread_barrier_t *barrier;
} task;

static void *work(void *argument)
{
    task *t = argument;
    t->best = t->floor = 1e18;
    for (uint32_t r = 0; r <= t->rounds; r++) { /* round 0 warms up */
        double start, time;
        prepare(t->w, t->job); /* the floor has written over the arena */
        if (t->barrier != NULL)
            (void)pthread_barrier_wait(t->barrier);
        start = now();
        ours(t->w, t->job, t->batch);
        if (t->barrier != NULL) /* a round of several threads lasts as long as the slowest */
            (void)pthread_barrier_wait(t->barrier);
        time = now() - start;
        if (r != 0 && time < t->best)
            t->best = time;
        start = now();
        run_floor(t->w, t->job, t->batch);
        time = now() - start;
        if (r != 0 && time < t->floor)
            t->floor = time;
    }
    return NULL;
}

static void measure(world *w, uint32_t threads, enum job job, uint32_t batch, uint32_t rounds)
{
    task tasks[64];
    pthread_t ids[64];
    pthread_barrier_t barrier;
    (void)pthread_barrier_init(&barrier, NULL, threads);
    for (uint32_t i = 0; i < threads; i++) {
        tasks[i] = (task){&w[i], job, batch, rounds, 0, 0, threads > 1 ? &barrier : NULL};
        if (threads == 1)
            (void)work(&tasks[i]);
        else
            must(pthread_create(&ids[i], NULL, work, &tasks[i]) == 0, "thread");
    }
    double best = 0, lowest = 0;
    for (uint32_t i = 0; i < threads; i++) {
        if (threads > 1)
            (void)pthread_join(ids[i], NULL);
        best = tasks[i].best > best ? tasks[i].best : best;
        lowest = tasks[i].floor > lowest ? tasks[i].floor : lowest;
    }
    (void)pthread_barrier_destroy(&barrier);
    const double messages = w->messages, each = best / messages, floor = lowest / messages;
    printf("{\"job\": \"%s\", \"provider\": \"%s\", \"batch\": %u, \"services\": %u, \"threads\": %u, \"ns_per_message\": %.1f, "
           "\"floor_ns\": %.1f, \"ratio_to_floor\": %.3f, \"messages_per_s\": %.0f}\n",
           job_names[job], w->p->crypto->name, batch, w->services, threads, each, floor, each / floor, threads * 1e9 / each);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    static world worlds[64];
    static const uint32_t batches[] = {1, 8, 64, 1024}, services[] = {1, SERVICES};
    const char *provider = NULL, *only = NULL;
    uint32_t batch = 0, one_service = 0, threads = 1, rounds = 9, messages = SERVICES, seconds = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        const uint32_t value = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--provider") == 0)
            provider = argv[i + 1];
        else if (strcmp(argv[i], "--job") == 0)
            only = argv[i + 1];
        else if (strcmp(argv[i], "--batch") == 0)
            batch = value;
        else if (strcmp(argv[i], "--services") == 0)
            one_service = value;
        else if (strcmp(argv[i], "--threads") == 0)
            threads = value < 1 ? 1 : value > 64 ? 64 : value;
        else if (strcmp(argv[i], "--rounds") == 0)
            rounds = value < 1 ? 1 : value;
        else if (strcmp(argv[i], "--messages") == 0)
            messages = value < 1 ? 1 : value;
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = value < 1 ? 1 : value;
        else
            must(false, argv[i]);
    }
    static const char *const names[] = {"evp", "ipsec_mb"};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        bcast_provider *probe;
        void *place = room(BCAST_PROVIDER_SIZE);
        const bool there = (provider == NULL || strcmp(provider, names[n]) == 0)
                           && bcast_provider_open(place, BCAST_PROVIDER_SIZE, names[n], &probe) == BCAST_OK;
        if (there)
            bcast_provider_close(probe);
        free(place);
        for (size_t s = 0; there && s < 2; s++) {
            if (one_service != 0 && s != 0)
                continue;
            for (uint32_t t = 0; t < threads; t++)
                build(&worlds[t], names[n], one_service != 0 ? one_service : services[s], messages, seconds);
            for (int job = 0; job < JOBS; job++)
                for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                    if ((only == NULL || strcmp(only, job_names[job]) == 0) && (batch == 0 || b == 0))
                        measure(worlds, threads, (enum job)job, batch != 0 ? batch : batches[b], rounds);
            /* The process ends soon; what a run holds is left to it. */
        }
    }
    return 0;
}
