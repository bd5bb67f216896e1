/* SPDX-License-Identifier: Apache-2.0 */
/* A library that fails in the middle: whichever call it is, what was begun is gone, and what was done stays. */
#include "test.h"

#include "crypto.h"

static uint8_t sek[16] = {1}, sas[16] = {2}, pek[16] = {3}, pas[16] = {4};

static const crypto *real;
static unsigned calls, fails_at;

static bool works(void) { return ++calls != fails_at; }
static bool bad_cbc_encrypt(bcast_provider *p, op *o, uint32_t n, uint32_t l) { return works() && real->cbc_encrypt(p, o, n, l); }
static bool bad_cbc_decrypt(bcast_provider *p, op *o, uint32_t n) { return works() && real->cbc_decrypt(p, o, n); }
static bool bad_ctr(bcast_provider *p, op *o, uint32_t n) { return works() && real->ctr(p, o, n); }
static bool bad_ctr_once(bcast_provider *p, op *o, uint32_t n) { return works() && real->ctr_once(p, o, n); }
static bool bad_hmac(bcast_provider *p, op *o, uint32_t n) { return works() && real->hmac(p, o, n); }
static bool bad_hmac_once(bcast_provider *p, op *o, uint32_t n) { return works() && real->hmac_once(p, o, n); }
static bool bad_aes_set(bcast_provider *p, aes_key *k, const uint8_t raw[16], bool e)
{
    return works() && real->aes_set(p, k, raw, e);
}
static bool bad_mac_set(bcast_provider *p, mac_key *k, const uint8_t *raw, uint32_t l)
{
    return works() && real->mac_set(p, k, raw, l);
}

static void faults(void)
{
    enum { N = 150 };
    static uint8_t arena[N * 400];
    real = provider->crypto;
    crypto faulty = *real;
    faulty.cbc_encrypt = bad_cbc_encrypt;
    faulty.cbc_decrypt = bad_cbc_decrypt;
    faulty.ctr = bad_ctr;
    faulty.ctr_once = bad_ctr_once;
    faulty.hmac = bad_hmac;
    faulty.hmac_once = bad_hmac_once;
    faulty.aes_set = bad_aes_set;
    faulty.mac_set = bad_mac_set;
    provider->crypto = &faulty;

    /* Setting up a key: whichever call fails, nothing is left, nothing leaks. */
    const bcast_drm_keys keys = {sek, sas, pek, pas};
    void *room = storage(BCAST_DRM_KEY_SIZE);
    bcast_drm_key *key = NULL;
    for (fails_at = 1; fails_at < 20; fails_at++) {
        calls = 0;
        const int code = bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, &keys, BCAST_USE_SEAL | BCAST_USE_OPEN, &key);
        CHECK(code == (calls < fails_at ? BCAST_OK : BCAST_E_CRYPTO) && (code == BCAST_OK) == (key != NULL));
        if (code == BCAST_OK)
            break;
        CHECK(all(room, 0, 800));
    }
    NEED(key != NULL);
    const uint8_t raw[32] = {5};
    void *card_room = storage(BCAST_SMARTCARD_KEY_SIZE);
    bcast_smartcard_key *card = NULL;
    for (fails_at = 1; fails_at < 20 && card == NULL; fails_at++) {
        calls = 0;
        (void)bcast_smartcard_key_init(card_room, BCAST_SMARTCARD_KEY_SIZE, provider, raw, raw, raw, 16, &card);
    }
    NEED(card != NULL);
    const uint8_t other_csb_id[4] = {1};
    void *other_room = storage(BCAST_SMARTCARD_KEY_SIZE);
    bcast_smartcard_key *other_card = NULL;
    fails_at = 0;
    CHECK(bcast_smartcard_key_init(other_room, BCAST_SMARTCARD_KEY_SIZE, provider, raw, other_csb_id, raw, 16, &other_card)
          == BCAST_OK);
    bcast_smk *smk = NULL;
    fails_at = 1;
    calls = 0;
    void *smk_room = storage(BCAST_SMK_SIZE);
    CHECK(bcast_smk_init(smk_room, BCAST_SMK_SIZE, provider, raw, &smk) == BCAST_E_CRYPTO && smk == NULL);
    CHECK(bcast_smk_init(smk_room, BCAST_SMK_SIZE, provider, raw, &smk) == BCAST_OK);

    /* A card's answer, one at a time. */
    const bcast_answered answered = {raw, raw, sizeof raw};
    bcast_verification answer = {.counter = 3}, answer_out;
    uint8_t out[64];
    size_t answer_length;
    bcast_error answer_error;
    for (fails_at = 1;; fails_at++) {
        calls = 0;
        memset(out, 0x5a, sizeof out);
        const int code =
            bcast_verification_seal(provider, smk, &answered, &answer, NULL, 0, out, sizeof out, &answer_length, &answer_error);
        if (calls < fails_at) {
            CHECK(code == BCAST_OK && fails_at > 1);
            break;
        }
        CHECK(code == BCAST_E_CRYPTO && answer_length == 0 && all(out, 0, 42) && all(out + 42, 0x5a, sizeof out - 42));
    }
    for (fails_at = 1;; fails_at++) {
        calls = 0;
        const int code = bcast_verification_open(provider, smk, &answered, out, answer_length, 0, 0, &answer_out, &answer_error);
        if (calls < fails_at) {
            CHECK(code == BCAST_OK && answer_out.counter == 3);
            break;
        }
        CHECK(code == BCAST_E_CRYPTO && all(&answer_out, 0, sizeof answer_out));
    }

    /* Batches: the burst in which it happens is lost, the others are done; the arena holds nothing of the lost ones. */
    static bcast_drm_stkm drm[N], drm_out[N];
    static bcast_smartcard_stkm stkm[N], stkm_out[N];
    static bcast_smartcard_ltkm ltkm[N], ltkm_out[N];
    static bcast_drm_seal_job drm_seal[N];
    static bcast_drm_open_job drm_open[N];
    static bcast_smartcard_seal_job stkm_seal[N];
    static bcast_smartcard_open_job stkm_open[N];
    static bcast_ltkm_seal_job ltkm_seal[N];
    static bcast_ltkm_open_job ltkm_open[N];
    static uint8_t bases[N][200];
    uint32_t base_length;
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < N; i++) {
            uint32_t length;
            if (kind == 0) {
                random_drm(&drm[i], bases[i], &length);
                drm_seal[i] = (bcast_drm_seal_job){.key = key, .message = &drm[i], .base = bases[i], .base_length = length};
            } else if (kind == 1) {
                random_stkm(&stkm[i], bases[i], &length);
                stkm_seal[i] =
                    (bcast_smartcard_seal_job){.key = card, .message = &stkm[i], .base = bases[i], .base_length = length};
            } else {
                random_ltkm(&ltkm[i], bases[i], &length);
                ltkm_seal[i] = (bcast_ltkm_seal_job){.key = smk, .message = &ltkm[i], .base = bases[i], .base_length = length};
            }
        }
        for (fails_at = 1;; fails_at++) {
            size_t used = 0, good = 0, sum = 0;
            calls = 0;
            memset(arena, 0x5a, sizeof arena);
            const int code = kind == 0   ? bcast_drm_stkm_seal_batch(provider, drm_seal, N, arena, sizeof arena, &used)
                             : kind == 1 ? bcast_smartcard_stkm_seal_batch(provider, stkm_seal, N, arena, sizeof arena, &used)
                                         : bcast_smartcard_ltkm_seal_batch(provider, ltkm_seal, N, arena, sizeof arena, &used);
            for (size_t i = 0; i < N; i++) {
                const bcast_error *e = kind == 0 ? &drm_seal[i].error : kind == 1 ? &stkm_seal[i].error : &ltkm_seal[i].error;
                const uint32_t length = kind == 0 ? drm_seal[i].length : kind == 1 ? stkm_seal[i].length : ltkm_seal[i].length;
                good += e->code == BCAST_OK;
                sum += length;
                CHECK(e->code == BCAST_OK || (e->code == BCAST_E_CRYPTO && length == 0));
            }
            CHECK(sum == used && used < sizeof arena && (arena[used] == 0x5a || arena[used] == 0));
            if (calls < fails_at) {
                CHECK(code == BCAST_OK && good == N);
                break;
            }
            CHECK(code == BCAST_E_SOME && (good == 64 + 22 || good == 128));
        }
        /* All are sealed now: open them. */
        size_t at = 0;
        for (size_t i = 0; i < N; i++) {
            if (kind == 0) {
                drm_open[i] =
                    (bcast_drm_open_job){.key = key, .data = arena + at, .data_length = drm_seal[i].length, .message = &drm_out[i]};
                at += drm_seal[i].length;
            } else if (kind == 1) {
                stkm_open[i] = (bcast_smartcard_open_job){
                    .key = card, .data = arena + at, .data_length = stkm_seal[i].length, .message = &stkm_out[i]};
                at += stkm_seal[i].length;
            } else {
                ltkm_open[i] = (bcast_ltkm_open_job){
                    .key = smk, .data = arena + at, .data_length = ltkm_seal[i].length, .message = &ltkm_out[i]};
                at += ltkm_seal[i].length;
            }
        }
        for (fails_at = 1;; fails_at++) {
            size_t good = 0;
            calls = 0;
            const int code = kind == 0   ? bcast_drm_stkm_open_batch(provider, drm_open, N)
                             : kind == 1 ? bcast_smartcard_stkm_open_batch(provider, stkm_open, N)
                                         : bcast_smartcard_ltkm_open_batch(provider, ltkm_open, N);
            for (size_t i = 0; i < N; i++) {
                const bcast_error *e = kind == 0 ? &drm_open[i].error : kind == 1 ? &stkm_open[i].error : &ltkm_open[i].error;
                const void *m = kind == 0 ? (void *)&drm_out[i] : kind == 1 ? (void *)&stkm_out[i] : (void *)&ltkm_out[i];
                const size_t size = kind == 0 ? sizeof *drm_out : kind == 1 ? sizeof *stkm_out : sizeof *ltkm_out;
                good += e->code == BCAST_OK;
                CHECK(e->code == BCAST_OK || (e->code == BCAST_E_CRYPTO && all(m, 0, size)));
            }
            if (calls < fails_at) {
                CHECK(code == BCAST_OK && good == N);
                break;
            }
            CHECK(code == BCAST_E_SOME && (good == 64 + 22 || good == 128));
        }
    }
    /* A message under another CSB ID than the context's, which is opened alone. */
    bcast_smartcard_stkm alone;
    bcast_error alone_error;
    random_stkm(&stkm[0], bases[0], &base_length);
    fails_at = 0;
    CHECK(bcast_smartcard_stkm_seal(provider, card, &stkm[0], bases[0], base_length, arena, sizeof arena, &answer_length,
                                    &alone_error)
          == BCAST_OK);
    for (fails_at = 1;; fails_at++) {
        calls = 0;
        const int code = bcast_smartcard_stkm_open(provider, other_card, arena, answer_length, 0, &alone, &alone_error);
        if (calls < fails_at) {
            CHECK(code == BCAST_OK && fails_at > 2 && memcmp(alone.tek, stkm[0].tek, 16) == 0);
            break;
        }
        CHECK(code == BCAST_E_CRYPTO && all(&alone, 0, sizeof alone));
    }
    fails_at = 0;
    drop_drm(key);
    drop_smartcard(card);
    drop_smartcard(other_card);
    drop_smk(smk);
    provider->crypto = real;
}

const struct test fault_tests[] = {{"faults", faults}, {NULL, NULL}};
