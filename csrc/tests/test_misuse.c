/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments that cannot be right, room that is too small, batches that are half bad, and messages cut short. */
#include "test.h"

#include "crypto.h"

static uint8_t sek[16] = {1}, sas[16] = {2}, pek[16] = {3}, pas[16] = {4};

static void providers(void)
{
    bcast_provider *p = provider;
    bcast_information about;
    void *room = storage(BCAST_PROVIDER_SIZE + 64);
    CHECK(bcast_provider_open(NULL, BCAST_PROVIDER_SIZE, NULL, &p) == BCAST_E_ARGUMENT && p == NULL);
    CHECK(bcast_provider_open(room, BCAST_PROVIDER_SIZE, NULL, NULL) == BCAST_E_ARGUMENT);
    CHECK(bcast_provider_open(room, 100, NULL, &p) == BCAST_E_STORAGE);
    CHECK(bcast_provider_open((uint8_t *)room + 8, BCAST_PROVIDER_SIZE, NULL, &p) == BCAST_E_STORAGE);
    CHECK(bcast_provider_open(room, BCAST_PROVIDER_SIZE, "des", &p) == BCAST_E_NO_PROVIDER && p == NULL);
    CHECK(bcast_provider_open(room, BCAST_PROVIDER_SIZE, NULL, &p) == BCAST_OK && p != NULL);
    CHECK(bcast_info(p, &about) == BCAST_OK && strcmp(about.version, bcast_version()) == 0 && about.provider[0] != '\0');
    CHECK(bcast_info(p, NULL) == BCAST_E_ARGUMENT);
    bcast_provider_close(p);
    CHECK(bcast_info(p, &about) == BCAST_E_NOT_READY && strcmp(about.provider, "") == 0);
    bcast_provider_close(p);
    bcast_provider_close(NULL);
    CHECK(all(room, 0, 64)); /* nothing of it is left */
    release(room);
}

static void contexts(void)
{
    uint8_t *room = storage(BCAST_DRM_KEY_SIZE + 64);
    bcast_drm_key *key = NULL;
    bcast_smk *smk = NULL;
    const bcast_drm_keys none = {NULL, NULL, NULL, NULL}, some = {sek, sas, NULL, NULL};
    const uint8_t raw[32] = {7};
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, &none, BCAST_USE_SEAL, &key) == BCAST_E_ARGUMENT && key == NULL);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, NULL, BCAST_USE_SEAL, &key) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, &some, 0, &key) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, &some, 4, &key) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_key_init(room, 10, provider, &some, BCAST_USE_SEAL, &key) == BCAST_E_STORAGE);
    CHECK(bcast_drm_key_init(room + 4, BCAST_DRM_KEY_SIZE, provider, &some, BCAST_USE_SEAL, &key) == BCAST_E_STORAGE);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, NULL, &some, BCAST_USE_SEAL, &key) == BCAST_E_NOT_READY);
    CHECK(bcast_drm_key_init(NULL, BCAST_DRM_KEY_SIZE, provider, &some, BCAST_USE_SEAL, &key) == BCAST_E_ARGUMENT);
    CHECK(bcast_smk_init(room, 10, provider, raw, &smk) == BCAST_E_STORAGE);
    CHECK(bcast_smk_init(room, BCAST_SMK_SIZE, provider, NULL, &smk) == BCAST_E_ARGUMENT);
    bcast_drm_key_wipe(NULL);
    bcast_smartcard_key_wipe(NULL);
    bcast_smk_wipe(NULL);

    /* One that seals does not open, a wiped one and one of another kind do neither. */
    bcast_drm_stkm m;
    uint8_t base[100], out[300];
    uint32_t base_length;
    size_t length;
    bcast_error error;
    do
        random_drm(&m, base, &base_length);
    while (m.present & BCAST_DRM_PROGRAMME);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, &some, BCAST_USE_SEAL, &key) == BCAST_OK);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
    bcast_drm_stkm opened;
    CHECK(bcast_drm_stkm_open(provider, key, out, length, 0, &opened, &error) == BCAST_E_USE && all(&opened, 0, sizeof opened));
    CHECK(bcast_smartcard_stkm_open(provider, (const void *)key, out, length, 0, &(bcast_smartcard_stkm){0}, &error) != BCAST_OK);
    bcast_drm_key_wipe(key);
    CHECK(all(room, 0, BCAST_DRM_KEY_SIZE - 64));
    bcast_drm_key_wipe(key);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, &length, &error) == BCAST_E_NOT_READY);
    CHECK(length == 0 && error.code == BCAST_E_NOT_READY);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, provider, &some, BCAST_USE_OPEN, &key) == BCAST_OK);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, &length, &error) == BCAST_E_USE);
    bcast_drm_key_wipe(key);

    /* A SEK without a CSB ID opens, but does not seal. */
    const uint8_t rand[16] = {5}, csb_id[4] = {6};
    bcast_smartcard_stkm s, t;
    bcast_smartcard_key *card = NULL;
    random_stkm(&s, base, &base_length);
    CHECK(bcast_smartcard_key_init(room, BCAST_SMARTCARD_KEY_SIZE, provider, raw, csb_id, rand, 16, &card) == BCAST_OK);
    CHECK(bcast_smartcard_stkm_seal(provider, card, &s, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
    bcast_smartcard_key_wipe(card);
    CHECK(all(room, 0, sizeof(struct bcast_smartcard_key)));
    CHECK(bcast_smartcard_key_init(room, BCAST_SMARTCARD_KEY_SIZE, provider, raw, NULL, rand, 16, &card) == BCAST_OK);
    CHECK(bcast_smartcard_stkm_open(provider, card, out, length, 0, &t, &error) == BCAST_OK && memcmp(s.tek, t.tek, 16) == 0);
    CHECK(bcast_smartcard_stkm_seal(provider, card, &s, base, base_length, out, sizeof out, &length, &error) == BCAST_E_USE);
    CHECK(length == 0 && error.code == BCAST_E_USE);
    bcast_smartcard_key_wipe(card);
    CHECK(all(room, 0, sizeof(struct bcast_smartcard_key)));
    release(room);
}

static void arguments(void)
{
    bcast_drm_stkm m;
    uint8_t base[100], out[600];
    uint32_t base_length;
    size_t length = 77, used = 77;
    bcast_error error;
    random_drm(&m, base, &base_length);
    bcast_drm_key *key = drm_key(sek, sas, pek, pas);
    CHECK(bcast_drm_stkm_seal(NULL, key, &m, base, base_length, out, sizeof out, &length, &error) == BCAST_E_ARGUMENT
          && length == 0);
    CHECK(bcast_drm_stkm_seal(provider, NULL, &m, base, base_length, out, sizeof out, &length, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_seal(provider, key, NULL, base, base_length, out, sizeof out, &length, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, NULL, 5, out, sizeof out, &length, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, NULL, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, SIZE_MAX, out, sizeof out, &length, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, &length, NULL) == BCAST_OK);
    CHECK(bcast_drm_stkm_open(provider, key, NULL, 5, 0, &m, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_open(provider, key, out, length, 8, &m, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_open(provider, key, out, length, 0, NULL, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_open(provider, key, NULL, 0, 0, &m, &error) == BCAST_E_TRUNCATED && error.offset == 0);
    CHECK(bcast_drm_stkm_open(provider, key, out, (size_t)BCAST_INPUT_MAX + 1, 0, &m, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_decode(out, length, 2, 0, &m, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_decode(NULL, 0, 0, 0, NULL, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_drm_stkm_seal_batch(provider, NULL, 3, out, sizeof out, &used) == BCAST_E_ARGUMENT && used == 0);
    CHECK(bcast_drm_stkm_seal_batch(provider, NULL, 0, out, sizeof out, &used) == BCAST_OK && used == 0);
    CHECK(bcast_drm_stkm_open_batch(provider, NULL, 0) == BCAST_OK);
    CHECK(bcast_drm_stkm_open_batch(NULL, NULL, 0) == BCAST_E_ARGUMENT);
    CHECK(bcast_error_path(NULL, NULL, 0, &length) == BCAST_E_ARGUMENT);
    char path[4];
    error = (bcast_error){BCAST_E_BAD_VALUE, 0, BCAST_F_ENCR_DATA, BCAST_S_PAYLOAD, {3, 0}};
    CHECK(bcast_error_path(&error, path, sizeof path, &length) == BCAST_E_ROOM && length == strlen("payloads[3].encr_data"));
    error.field = BCAST_F_COUNT;
    CHECK(bcast_error_path(&error, path, sizeof path, &length) == BCAST_E_ARGUMENT);
    for (uint16_t scope = 0; scope <= BCAST_S_ENCR_DATA_END; scope++) /* every path fits, and every field has a name */
        for (uint16_t field = 0; field < BCAST_F_COUNT; field++) {
            error = (bcast_error){0, 0, field, scope, {UINT32_MAX, UINT32_MAX}};
            CHECK(bcast_error_path(&error, NULL, 0, &length) == BCAST_OK && length < BCAST_PATH_MAX
                  && (length > 0 || field + scope == 0));
        }
    drop_drm(key);
}

/* Each pointer NULL in turn, and each number that cannot be, of every function. */
static void nulls(void)
{
    bcast_drm_stkm d = {.present = BCAST_DRM_SERVICE, .id_length = 4, .material_length = 16};
    bcast_smartcard_stkm s = {.sek_id = {0, 1, 0, 1}, .tek_id = {0, 1}, .tek_id_length = 2};
    bcast_smartcard_ltkm l = {.sek_id = {0, 1, 0, 1}, .key_data_type = BCAST_LTKM_KEY_TYPE, .interval_length = 4};
    bcast_verification v = {0};
    static const uint8_t rand[32];
    const bcast_answered a = {rand, NULL, 0};
    bcast_drm_key *dk = drm_key(sek, sas, pek, pas), *dn;
    bcast_smartcard_key *ck = smartcard_key("303132333435363738393a3b3c3d3e3f", "a1b2c3d4", "202122232425262728292a2b2c2d2e2f"),
                        *cn;
    bcast_smk *sk = smk_key("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"), *sn;
    uint8_t o[200];
    uint8_t *room = storage(BCAST_DRM_KEY_SIZE);
    size_t n, used;
    bcast_error e;
    bcast_provider *const p = provider;
    const size_t huge = (size_t)BCAST_INPUT_MAX + 1;
#define NO(call) CHECK((call) == BCAST_E_ARGUMENT)
#define SEALS(call, key, m)                            \
    NO(call(NULL, key, &m, NULL, 0, o, 200, &n, &e));  \
    NO(call(p, NULL, &m, NULL, 0, o, 200, &n, &e));    \
    NO(call(p, key, NULL, NULL, 0, o, 200, &n, &e));   \
    NO(call(p, key, &m, NULL, 1, o, 200, &n, &e));     \
    NO(call(p, key, &m, o, huge, o, 200, &n, &e));     \
    NO(call(p, key, &m, NULL, 0, o, 200, NULL, &e));   \
    NO(call(p, key, &m, NULL, 0, o, 200, NULL, NULL)); \
    CHECK(call(p, key, &m, NULL, 0, NULL, 0, &n, NULL) == BCAST_OK && n > 30)
    SEALS(bcast_drm_stkm_seal, dk, d);
    SEALS(bcast_smartcard_stkm_seal, ck, s);
    SEALS(bcast_smartcard_ltkm_seal, sk, l);
#define PARTIALS(call, m)                    \
    NO(call(NULL, NULL, 0, o, 200, &n, &e)); \
    NO(call(&m, NULL, 1, o, 200, &n, &e));   \
    NO(call(&m, o, huge, o, 200, &n, &e));   \
    NO(call(&m, NULL, 0, o, 200, NULL, &e)); \
    CHECK(call(&m, NULL, 0, NULL, 0, &n, NULL) == BCAST_OK && n > 30)
    PARTIALS(bcast_drm_stkm_partial, d);
    PARTIALS(bcast_smartcard_stkm_partial, s);
    memset(o, 0, sizeof o);
#define OPENS(call, key, m)                                    \
    NO(call(NULL, key, o, 9, 0, memset(&m, 7, sizeof m), &e)); \
    CHECK(all(&m, 0, sizeof m));                               \
    NO(call(p, NULL, o, 9, 0, memset(&m, 7, sizeof m), &e));   \
    CHECK(all(&m, 0, sizeof m));                               \
    NO(call(p, key, NULL, 9, 0, memset(&m, 7, sizeof m), &e)); \
    CHECK(all(&m, 0, sizeof m));                               \
    NO(call(p, key, o, huge, 0, memset(&m, 7, sizeof m), &e)); \
    CHECK(all(&m, 0, sizeof m));                               \
    NO(call(p, key, o, 9, 8, memset(&m, 7, sizeof m), &e));    \
    CHECK(all(&m, 0, sizeof m));                               \
    NO(call(p, key, o, 9, 0, NULL, &e));                       \
    NO(call(p, key, o, 9, 0, NULL, NULL));                     \
    CHECK(call(p, key, NULL, 0, 0, &m, NULL) == BCAST_E_TRUNCATED)
    OPENS(bcast_drm_stkm_open, dk, d);
    OPENS(bcast_smartcard_stkm_open, ck, s);
    OPENS(bcast_smartcard_ltkm_open, sk, l);
    NO(bcast_drm_stkm_decode(NULL, 1, 0, 0, &d, &e));
    NO(bcast_drm_stkm_decode(o, huge, 0, 0, &d, &e));
    NO(bcast_drm_stkm_decode(o, 9, 2, 0, &d, &e));
    NO(bcast_drm_stkm_decode(o, 9, 0, 8, &d, &e));
    NO(bcast_smartcard_stkm_decode(NULL, 1, 0, 0, &s, &e));
    NO(bcast_smartcard_stkm_decode(o, 9, 0, 0, NULL, &e));
    NO(bcast_smartcard_stkm_decode(o, 9, 2, 0, &s, &e));
    NO(bcast_smartcard_ltkm_decode(NULL, 1, 0, &l, &e));
    NO(bcast_smartcard_ltkm_decode(o, 9, 0, NULL, &e));
    NO(bcast_smartcard_ltkm_decode(o, 9, 99, &l, &e));
    NO(bcast_verification_decode(NULL, 1, 0, 0, &v, &e));
    NO(bcast_verification_decode(o, 9, 2, 0, &v, &e));
    NO(bcast_verification_decode(o, 9, 0, 0, NULL, &e));
    memset(&v, 0, sizeof v);
    NO(bcast_verification_seal(NULL, sk, &a, &v, NULL, 0, o, 200, &n, &e));
    NO(bcast_verification_seal(p, NULL, &a, &v, NULL, 0, o, 200, &n, &e));
    NO(bcast_verification_seal(p, sk, NULL, &v, NULL, 0, o, 200, &n, &e));
    NO(bcast_verification_seal(p, sk, &a, NULL, NULL, 0, o, 200, &n, &e));
    NO(bcast_verification_seal(p, sk, &a, &v, NULL, 1, o, 200, &n, &e));
    NO(bcast_verification_seal(p, sk, &a, &v, NULL, 0, o, 200, NULL, &e));
    NO(bcast_verification_seal(p, sk, &(bcast_answered){rand, rand, huge}, &v, NULL, 0, o, 200, &n, &e));
    NO(bcast_verification_open(p, sk, &a, NULL, 1, 0, 0, &v, &e));
    memset(&v, 0, sizeof v);
    CHECK(bcast_verification_seal(p, sk, &a, &v, NULL, 0, o, 200, &n, &e) == BCAST_OK);
    NO(bcast_verification_open(NULL, sk, &a, o, n, 0, 0, &v, &e));
    NO(bcast_verification_open(p, NULL, &a, o, n, 0, 0, &v, &e));
    CHECK(bcast_verification_open(p, sk, &a, o, n, 0, 0, &v, &e) == BCAST_OK);
    NO(bcast_verification_open(p, sk, &a, o, 9, 0, 0, NULL, &e));

    /* Batches as such, and jobs with nothing in them. */
    bcast_drm_seal_job ds = {0};
    bcast_smartcard_seal_job ss = {0};
    bcast_ltkm_seal_job ls = {0};
    bcast_drm_open_job dopen = {0};
    bcast_smartcard_open_job so = {0};
    bcast_ltkm_open_job lo = {0};
#define BATCHES(seal, open, sealed, opened)                                                                          \
    NO(seal(NULL, &sealed, 1, o, 200, &used));                                                                       \
    NO(seal(p, NULL, 1, o, 200, &used));                                                                             \
    NO(seal(p, &sealed, 1, o, 200, NULL));                                                                           \
    NO(open(NULL, &opened, 1));                                                                                      \
    NO(open(p, NULL, 1));                                                                                            \
    CHECK(seal(p, NULL, 0, NULL, 0, &used) == BCAST_OK && used == 0 && open(p, NULL, 0) == BCAST_OK);                \
    CHECK(seal(p, &sealed, 1, o, 200, &used) == BCAST_E_SOME && used == 0 && sealed.error.code == BCAST_E_ARGUMENT); \
    CHECK(open(p, &opened, 1) == BCAST_E_SOME && opened.error.code == BCAST_E_ARGUMENT);                             \
    if (sizeof(size_t) > 4) {                                                                                        \
        NO(seal(p, &sealed, (size_t)UINT32_MAX + 1, o, 200, &used));                                                 \
        NO(open(p, &opened, (size_t)UINT32_MAX + 1));                                                                \
    }
    BATCHES(bcast_drm_stkm_seal_batch, bcast_drm_stkm_open_batch, ds, dopen)
    BATCHES(bcast_smartcard_stkm_seal_batch, bcast_smartcard_stkm_open_batch, ss, so)
    BATCHES(bcast_smartcard_ltkm_seal_batch, bcast_smartcard_ltkm_open_batch, ls, lo)

    /* Contexts. */
    const bcast_drm_keys keys = {sek, sas, pek, pas};
    NO(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, p, &keys, BCAST_USE_SEAL, NULL));
    NO(bcast_smartcard_key_init(NULL, BCAST_DRM_KEY_SIZE, p, rand, rand, rand, 16, &cn));
    NO(bcast_smartcard_key_init(room, BCAST_DRM_KEY_SIZE, p, NULL, rand, rand, 16, &cn));
    NO(bcast_smartcard_key_init(room, BCAST_DRM_KEY_SIZE, p, rand, rand, NULL, 16, &cn));
    NO(bcast_smartcard_key_init(room, BCAST_DRM_KEY_SIZE, p, rand, rand, NULL, 0, &cn)); /* not known is not empty */
    NO(bcast_smartcard_key_init(room, BCAST_DRM_KEY_SIZE, p, rand, rand, rand, 15, &cn));
    NO(bcast_smartcard_key_init(room, BCAST_DRM_KEY_SIZE, p, rand, rand, rand, 17, &cn));
    NO(bcast_smartcard_key_init(room, BCAST_DRM_KEY_SIZE, p, rand, rand, rand, 16, NULL));
    NO(bcast_smk_init(NULL, BCAST_DRM_KEY_SIZE, p, rand, &sn));
    NO(bcast_smk_init(room, BCAST_DRM_KEY_SIZE, p, rand, NULL));
    CHECK(bcast_smartcard_key_init(room, 8, p, rand, rand, rand, 16, &cn) == BCAST_E_STORAGE && cn == NULL);
    CHECK(bcast_smartcard_key_init(room + 32, BCAST_SMARTCARD_KEY_SIZE, p, rand, rand, rand, 16, &cn) == BCAST_E_STORAGE);
    CHECK(bcast_smk_init(room + 1, BCAST_SMK_SIZE, p, rand, &sn) == BCAST_E_STORAGE && sn == NULL);
    CHECK(bcast_smk_init(room, BCAST_SMK_SIZE, NULL, rand, &sn) == BCAST_E_NOT_READY);
    CHECK(bcast_smartcard_key_init(room, BCAST_SMARTCARD_KEY_SIZE, NULL, rand, rand, rand, 16, &cn) == BCAST_E_NOT_READY);
    CHECK(bcast_drm_key_init(room, BCAST_DRM_KEY_SIZE, NULL, &keys, BCAST_USE_SEAL, &dn) == BCAST_E_NOT_READY && dn == NULL);

    /* Walkers. */
    bcast_span span = {0, 4};
    bcast_item one;
    bcast_payload payload = {0};
    CHECK(bcast_item_next(NULL, &span, &one) == 0 && bcast_item_next(o, NULL, &one) == 0 && bcast_item_next(o, &span, NULL) == 0);
    CHECK(bcast_mikey_next(NULL, 10, &payload) == 0 && bcast_mikey_next(o, 10, NULL) == 0 && bcast_mikey_next(o, 9, &payload) == 0
          && bcast_mikey_next(o, huge, &payload) == 0);
    CHECK(bcast_error_path(&e, NULL, 0, NULL) == BCAST_E_ARGUMENT);
    release(room);
    drop_drm(dk);
    drop_smartcard(ck);
    drop_smk(sk);
}

/* Every room from nothing to enough: nothing is written before it is enough, and nothing behind it ever. */
static void rooms(void)
{
    static const uint8_t rand[16];
    const bcast_answered answered = {rand, NULL, 0};
    bcast_verification v = {0};
    bcast_drm_stkm m;
    bcast_smartcard_stkm s;
    bcast_smartcard_ltkm l;
    uint8_t base[300], raw[32] = {9}, out[1024];
    uint32_t base_length;
    size_t need, length;
    bcast_error error;
    bcast_drm_key *drm = drm_key(sek, sas, pek, pas);
    bcast_smartcard_key *card = smartcard_key("303132333435363738393a3b3c3d3e3f", "a1b2c3d4", "202122232425262728292a2b2c2d2e2f");
    bcast_smk *smk = NULL;
    CHECK(bcast_smk_init(storage(BCAST_SMK_SIZE), BCAST_SMK_SIZE, provider, raw, &smk) == BCAST_OK);
    for (int kind = 0; kind < 6; kind++) {
#define SEAL(o, r)                                                                                         \
    (kind == 0   ? bcast_drm_stkm_seal(provider, drm, &m, base, base_length, o, r, &length, &error)        \
     : kind == 1 ? bcast_drm_stkm_partial(&m, base, base_length, o, r, &length, &error)                    \
     : kind == 2 ? bcast_smartcard_stkm_seal(provider, card, &s, base, base_length, o, r, &length, &error) \
     : kind == 3 ? bcast_smartcard_stkm_partial(&s, base, base_length, o, r, &length, &error)              \
     : kind == 4 ? bcast_smartcard_ltkm_seal(provider, smk, &l, base, base_length, o, r, &length, &error)  \
                 : bcast_verification_seal(provider, smk, &answered, &v, base, base_length, o, r, &length, &error))
        if (kind < 2)
            random_drm(&m, base, &base_length);
        else if (kind < 4)
            random_stkm(&s, base, &base_length);
        else
            random_ltkm(&l, base, &base_length); /* an identity of it is that of the verification message */
        if (kind == 5)
            v = (bcast_verification){.counter = 7, .idr = {0, l.idi.length}};
        CHECK(SEAL(NULL, 0) == BCAST_OK && length > 0);
        need = length;
        for (size_t room = 0; room <= need; room++) {
            memset(out, 0x5a, sizeof out);
            const int code = SEAL(out + 1, room); /* not aligned */
            CHECK(code == (room < need ? BCAST_E_ROOM : BCAST_OK) && length == need && error.code == code);
            CHECK(out[0] == 0x5a && all(out + 1 + need, 0x5a, sizeof out - 1 - need));
            CHECK(room == need || all(out, 0x5a, sizeof out));
        }
    }
    drop_drm(drm);
    drop_smartcard(card);
    drop_smk(smk);
}

static void overlaps(void)
{
    union {
        bcast_drm_stkm m;
        uint8_t bytes[2000];
    } u;
    uint8_t base[100], sealed[300];
    uint32_t base_length;
    size_t length, used;
    bcast_error error;
    bcast_drm_key *key = drm_key(sek, sas, pek, pas);
    memset(&u, 0, sizeof u);
    do
        random_drm(&u.m, base, &base_length);
    while (u.m.present & BCAST_DRM_CRITERIA);
    CHECK(bcast_drm_stkm_seal(provider, key, &u.m, base, base_length, u.bytes, 2000, &length, &error) == BCAST_E_OVERLAP);
    CHECK(bcast_drm_stkm_seal(provider, key, &u.m, base, base_length, u.bytes + sizeof u.m - 1, 1000, &length, &error)
          == BCAST_E_OVERLAP);
    CHECK(bcast_drm_stkm_seal(provider, key, &u.m, base, base_length, u.bytes + sizeof u.m, 1000, &length, &error) == BCAST_OK);
    memcpy(sealed, u.bytes + sizeof u.m, length);
    CHECK(bcast_drm_stkm_seal(provider, key, &u.m, sealed, sizeof sealed, sealed + 3, 200, &used, &error) == BCAST_E_OVERLAP);
    bcast_drm_stkm copy = u.m;
    memcpy(u.bytes + 10, sealed, length);
    CHECK(bcast_drm_stkm_open(provider, key, u.bytes + 10, length, 0, &u.m, &error) == BCAST_E_OVERLAP);
    bcast_drm_seal_job job = {.key = key, .message = &copy, .base = base, .base_length = base_length};
    CHECK(bcast_drm_stkm_seal_batch(provider, &job, 1, (uint8_t *)&job, 1000, &used) == BCAST_E_OVERLAP);
    drop_drm(key);
}

/* Of each kind: an output that shares a byte with the message, the base, the key or the list of jobs. */
static void overlaps_everywhere(void)
{
    static alignas(64) uint8_t room[8192];
    const uint8_t raw[64] = {7};
    static const uint8_t rand[16];
    const bcast_answered ltkm = {rand, NULL, 0};
    uint8_t base[300];
    uint32_t base_length;
    size_t length;
    bcast_error error;
    enum { KEY = 0, MESSAGE = 1024, JOBS = 2048, OUT = 4096 };
    for (int kind = 0; kind < 6; kind++) {
        const size_t sizes[] = {sizeof(bcast_drm_stkm), sizeof(bcast_smartcard_stkm), sizeof(bcast_smartcard_ltkm),
                                sizeof(bcast_drm_stkm), sizeof(bcast_smartcard_stkm), sizeof(bcast_verification)};
        bcast_drm_key *drm = NULL;
        bcast_smartcard_key *card = NULL;
        bcast_smk *smk = NULL;
        memset(room, 0, sizeof room);
        void *m = room + MESSAGE;
        size_t key_size = 0;
        const bcast_drm_keys keys = {raw, raw + 16, raw + 32, raw + 48};
        if (kind % 3 == 0) {
            random_drm(m, base, &base_length);
            CHECK(bcast_drm_key_init(room + KEY, BCAST_DRM_KEY_SIZE, provider, &keys, 3, &drm) == BCAST_OK);
            key_size = sizeof(struct bcast_drm_key);
        } else if (kind % 3 == 1) {
            random_stkm(m, base, &base_length);
            CHECK(bcast_smartcard_key_init(room + KEY, BCAST_SMARTCARD_KEY_SIZE, provider, raw, raw, raw, 16, &card) == BCAST_OK);
            key_size = sizeof(struct bcast_smartcard_key);
        } else {
            if (kind == 2)
                random_ltkm(m, base, &base_length);
            CHECK(bcast_smk_init(room + KEY, BCAST_SMK_SIZE, provider, raw, &smk) == BCAST_OK);
            key_size = sizeof(struct bcast_smk);
        }
#define INTO(o, r)                                                                                        \
    (kind == 0   ? bcast_drm_stkm_seal(provider, drm, m, base, base_length, o, r, &length, &error)        \
     : kind == 1 ? bcast_smartcard_stkm_seal(provider, card, m, base, base_length, o, r, &length, &error) \
     : kind == 2 ? bcast_smartcard_ltkm_seal(provider, smk, m, base, base_length, o, r, &length, &error)  \
     : kind == 3 ? bcast_drm_stkm_partial(m, base, base_length, o, r, &length, &error)                    \
     : kind == 4 ? bcast_smartcard_stkm_partial(m, base, base_length, o, r, &length, &error)              \
                 : bcast_verification_seal(provider, smk, &ltkm, m, base, base_length, o, r, &length, &error))
        CHECK(INTO(room + OUT, 1000) == BCAST_OK && length > 30);
        const size_t need = length;
        CHECK(INTO(room + MESSAGE + sizes[kind] - 1, 1000) == BCAST_E_OVERLAP && length == 0 && error.code == BCAST_E_OVERLAP);
        CHECK(INTO(room + MESSAGE + sizes[kind], 1000) == BCAST_OK && length == need);
        CHECK(INTO(room + MESSAGE - need, need) == BCAST_OK);
        CHECK(INTO(room + MESSAGE - need + 1, need) == BCAST_E_OVERLAP && length == 0);
        CHECK(INTO(room + MESSAGE - need, need + 1) == BCAST_E_OVERLAP); /* all that is given counts */
        if (kind < 3 || kind == 5) {
            CHECK(INTO(room + KEY + key_size - 1, 500) == BCAST_E_OVERLAP && length == 0);
            CHECK(INTO(room + KEY, 500) == BCAST_E_OVERLAP);
        }
        if (base_length != 0) {
            memcpy(room + OUT, base, base_length);
            CHECK((kind == 0 ? bcast_drm_stkm_seal(provider, drm, m, room + OUT, base_length, room + OUT, 500, &length, &error)
                   : kind == 1
                       ? bcast_smartcard_stkm_seal(provider, card, m, room + OUT, base_length, room + OUT, 500, &length, &error)
                   : kind == 2
                       ? bcast_smartcard_ltkm_seal(provider, smk, m, room + OUT, base_length, room + OUT, 500, &length, &error)
                       : BCAST_E_OVERLAP)
                  == BCAST_E_OVERLAP);
        }
        /* Opening: the message over its bytes, and over the key. */
        CHECK(INTO(room + OUT, 1000) == BCAST_OK);
        if (kind < 3) {
            for (size_t at = OUT - sizes[kind] + 1; at <= OUT + need - 1; at += sizes[kind] + need - 2) {
                /* where the structure may stand: its alignment is the compiler's business */
                void *to = room + at / 8 * 8 + (at < OUT ? 8 : 0);
                const int code = kind == 0   ? bcast_drm_stkm_open(provider, drm, room + OUT, need, 0, to, &error)
                                 : kind == 1 ? bcast_smartcard_stkm_open(provider, card, room + OUT, need, 0, to, &error)
                                             : bcast_smartcard_ltkm_open(provider, smk, room + OUT, need, 0, to, &error);
                CHECK(code == BCAST_E_OVERLAP && error.code == code);
            }
            CHECK((kind == 0   ? bcast_drm_stkm_open(provider, drm, room + OUT, need, 0, (void *)(room + KEY + 64), &error)
                   : kind == 1 ? bcast_smartcard_stkm_open(provider, card, room + OUT, need, 0, (void *)(room + KEY + 64), &error)
                               : bcast_smartcard_ltkm_open(provider, smk, room + OUT, need, 0, (void *)(room + KEY + 64), &error))
                  == BCAST_E_OVERLAP);
        }
        if (kind == 0) {
            bcast_drm_seal_job *jobs = (void *)(room + JOBS);
            *jobs = (bcast_drm_seal_job){.key = drm, .message = m, .base = base, .base_length = base_length};
            CHECK(bcast_drm_stkm_seal_batch(provider, jobs, 1, room + JOBS - 10, 11, &length) == BCAST_E_OVERLAP && length == 0);
            CHECK(bcast_drm_stkm_seal_batch(provider, jobs, 1, (uint8_t *)provider + 100, 11, &length) == BCAST_E_OVERLAP);
        }
        bcast_drm_key_wipe(drm);
        bcast_smartcard_key_wipe(card);
        bcast_smk_wipe(smk);
    }
}

/* Contexts that were never set up, or belong to something else. */
static void strangers(void)
{
    bcast_drm_stkm d, d_out;
    bcast_smartcard_stkm s, s_out;
    bcast_smartcard_ltkm l, l_out;
    bcast_verification v = {0}, v_out;
    uint8_t base[3][300], out[600];
    uint32_t lengths[3];
    size_t length;
    bcast_error error;
    static const uint8_t rand[16];
    const bcast_answered ltkm = {rand, NULL, 0};
    random_drm(&d, base[0], &lengths[0]);
    random_stkm(&s, base[1], &lengths[1]);
    random_ltkm(&l, base[2], &lengths[2]);
    bcast_drm_key *drm = drm_key(sek, sas, pek, pas);
    bcast_smartcard_key *card = smartcard_key("303132333435363738393a3b3c3d3e3f", "a1b2c3d4", "202122232425262728292a2b2c2d2e2f");
    bcast_smk *smk = smk_key("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");

    /* All zero, never set up, of another kind, and where no context can stand. */
    uint8_t *zeros = storage(1024), *noise = storage(1024);
    memset(zeros, 0, 1024);
    random_bytes(noise, 1024);
    const void *const wrong[] = {zeros, noise, drm, card, smk, (const uint8_t *)drm + 8};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (wrong[i] != (const void *)drm) {
            CHECK(bcast_drm_stkm_seal(provider, wrong[i], &d, base[0], lengths[0], out, sizeof out, &length, &error)
                  == BCAST_E_NOT_READY);
            CHECK(bcast_drm_stkm_open(provider, wrong[i], out, 50, 0, &d_out, &error) == BCAST_E_NOT_READY
                  && all(&d_out, 0, sizeof d_out));
        }
        if (wrong[i] != (const void *)card) {
            CHECK(bcast_smartcard_stkm_seal(provider, wrong[i], &s, base[1], lengths[1], out, sizeof out, &length, &error)
                  == BCAST_E_NOT_READY);
            CHECK(bcast_smartcard_stkm_open(provider, wrong[i], out, 50, 0, &s_out, &error) == BCAST_E_NOT_READY
                  && all(&s_out, 0, sizeof s_out));
        }
        if (wrong[i] != (const void *)smk) {
            CHECK(bcast_smartcard_ltkm_seal(provider, wrong[i], &l, base[2], lengths[2], out, sizeof out, &length, &error)
                  == BCAST_E_NOT_READY);
            CHECK(bcast_smartcard_ltkm_open(provider, wrong[i], out, 50, 0, &l_out, &error) == BCAST_E_NOT_READY
                  && all(&l_out, 0, sizeof l_out));
            CHECK(bcast_verification_seal(provider, wrong[i], &ltkm, &v, NULL, 0, out, sizeof out, &length, &error)
                      == BCAST_E_NOT_READY
                  && length == 0);
        }
    }
    CHECK(bcast_verification_seal(provider, smk, &ltkm, &v, NULL, 0, out, sizeof out, &length, &error) == BCAST_OK);
    CHECK(bcast_verification_open(provider, (const void *)zeros, &ltkm, out, length, 0, 0, &v_out, &error) == BCAST_E_NOT_READY
          && all(&v_out, 0, sizeof v_out));
    CHECK(bcast_verification_open(provider, NULL, &ltkm, out, length, 0, 0, &v_out, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_verification_open(provider, smk, NULL, out, length, 0, 0, &v_out, &error) == BCAST_E_ARGUMENT);
    CHECK(bcast_verification_open(provider, smk, &(bcast_answered){NULL, NULL, 0}, out, length, 0, 0, &v_out, &error)
          == BCAST_E_ARGUMENT);
    CHECK(bcast_verification_open(provider, smk, &(bcast_answered){rand, NULL, 1}, out, length, 0, 0, &v_out, &error)
          == BCAST_E_ARGUMENT);
    CHECK(bcast_verification_open(provider, smk, &ltkm, out, length, 2, 0, &v_out, &error) == BCAST_E_ARGUMENT);

    /* A provider that was never opened, or is closed; a context made with another one. */
    bcast_provider *other = NULL;
    void *room = storage(BCAST_PROVIDER_SIZE);
    CHECK(bcast_drm_stkm_seal(room, drm, &d, base[0], lengths[0], out, sizeof out, &length, &error) == BCAST_E_NOT_READY);
    CHECK(bcast_smk_init(noise, BCAST_SMK_SIZE, room, rand, &(bcast_smk *){NULL}) == BCAST_E_NOT_READY);
    bcast_information about;
    (void)bcast_info(provider, &about);
    const char *name = strcmp(about.provider, "evp") == 0 ? "ipsec_mb" : "evp";
    if (bcast_provider_open(room, BCAST_PROVIDER_SIZE, name, &other) == BCAST_OK) {
        CHECK(bcast_drm_stkm_seal(other, drm, &d, base[0], lengths[0], out, sizeof out, &length, &error) == BCAST_E_NOT_READY);
        CHECK(bcast_smartcard_stkm_seal(other, card, &s, base[1], lengths[1], out, sizeof out, &length, &error)
              == BCAST_E_NOT_READY);
        CHECK(bcast_smartcard_ltkm_seal(other, smk, &l, base[2], lengths[2], out, sizeof out, &length, &error)
              == BCAST_E_NOT_READY);
        bcast_provider_close(other);
        CHECK(bcast_drm_stkm_seal(other, drm, &d, base[0], lengths[0], out, sizeof out, &length, &error) == BCAST_E_NOT_READY);
    }
    /* Another one of the same name is as good. */
    if (bcast_provider_open(room, BCAST_PROVIDER_SIZE, about.provider, &other) == BCAST_OK) {
        CHECK(bcast_drm_stkm_seal(other, drm, &d, base[0], lengths[0], out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(bcast_drm_stkm_open(provider, drm, out, length, 0, &d_out, &error) == BCAST_OK);
        bcast_provider_close(other);
    }
    release(room);
    release(zeros);
    release(noise);
    drop_drm(drm);
    drop_smartcard(card);
    drop_smk(smk);
}

/* Spans and lengths that lie. */
static void lies(void)
{
    bcast_drm_stkm m;
    bcast_smartcard_ltkm l;
    uint8_t base[300], out[600], raw[32] = {9};
    uint32_t base_length;
    size_t length;
    bcast_error error;
    bcast_drm_key *key = drm_key(sek, sas, pek, pas);
    bcast_smk *smk = NULL;
    CHECK(bcast_smk_init(storage(BCAST_SMK_SIZE), BCAST_SMK_SIZE, provider, raw, &smk) == BCAST_OK);
    random_drm(&m, base, &base_length);
    m.present |= BCAST_DRM_CRITERIA;
    static const bcast_span bad[] = {{0, 301}, {301, 1}, {UINT32_MAX, 2}, {2, UINT32_MAX}, {299, 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        m.access_criteria = bad[i];
        CHECK(bcast_drm_stkm_seal(provider, key, &m, base, 300, out, sizeof out, &length, &error) == BCAST_E_SPAN);
        random_ltkm(&l, base, &base_length);
        *(i & 1 ? &l.idi : &l.idr) = bad[i];
        CHECK(bcast_smartcard_ltkm_seal(provider, smk, &l, base, 300, out, sizeof out, &length, &error) == BCAST_E_SPAN);
    }
    memset(base, 0xff, sizeof base); /* a descriptor longer than the span */
    m.access_criteria = (bcast_span){0, 100};
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, 300, out, sizeof out, &length, &error) == BCAST_E_BAD_LENGTH);
    CHECK(error.field == BCAST_F_CRITERION_LENGTH && error.offset == BCAST_NO_OFFSET);
    memset(base, 0, sizeof base);
    m.access_criteria = (bcast_span){0, 99};
    CHECK(bcast_drm_stkm_seal(provider, key, &m, base, 300, out, sizeof out, &length, &error) == BCAST_E_BAD_LENGTH
          && error.index[0] == 49);
    static uint8_t many[3000];
    memset(many, 0, sizeof many);
    m.access_criteria = (bcast_span){0, 512};
    CHECK(bcast_drm_stkm_seal(provider, key, &m, many, sizeof many, out, sizeof out, &length, &error) == BCAST_E_BAD_LENGTH);
    CHECK(error.field == BCAST_F_NUMBER_OF_CRITERIA);
    for (unsigned i = 0; i < 6; i++)
        many[i * 252 + 1] = 250;
    m.access_criteria = (bcast_span){0, 6 * 252};
    CHECK(bcast_drm_stkm_seal(provider, key, &m, many, sizeof many, out, sizeof out, &length, &error) == BCAST_E_BAD_LENGTH);
    CHECK(error.field == BCAST_F_CRITERION_VALUE);
    random_ltkm(&l, base, &base_length);
    l.max_size = 60;
    CHECK(bcast_smartcard_ltkm_seal(provider, smk, &l, base, base_length, out, sizeof out, &length, &error) == BCAST_E_BAD_LENGTH);

    /* Each field out of its range is named. */
    const struct {
        size_t at;
        uint8_t value;
        int code;
        int field;
    } wrong[] = {
        {offsetof(bcast_drm_stkm, protection_after_reception), 4, BCAST_E_BAD_VALUE, BCAST_F_PROTECTION_AFTER_RECEPTION},
        {offsetof(bcast_drm_stkm, traffic_protection_protocol), 3, BCAST_E_UNSUPPORTED, BCAST_F_TRAFFIC_PROTECTION_PROTOCOL},
        {offsetof(bcast_drm_stkm, traffic_authentication_flag), 2, BCAST_E_BAD_VALUE, BCAST_F_TRAFFIC_AUTHENTICATION_FLAG},
        {offsetof(bcast_drm_stkm, traffic_key_lifetime), 16, BCAST_E_BAD_VALUE, BCAST_F_TRAFFIC_KEY_LIFETIME},
        {offsetof(bcast_drm_stkm, material_length), 17, BCAST_E_BAD_LENGTH, BCAST_F_TRAFFIC_KEY_MATERIAL},
        {offsetof(bcast_drm_stkm, present), 4, BCAST_E_BAD_VALUE, BCAST_F_SERVICE_FLAG},
        {offsetof(bcast_drm_stkm, present), 33, BCAST_E_BAD_VALUE, BCAST_F_PERMISSIONS_CATEGORY},
        {offsetof(bcast_drm_stkm, present), 65, BCAST_E_ARGUMENT, BCAST_F_NONE},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        random_drm(&m, base, &base_length);
        ((uint8_t *)&m)[wrong[i].at] = wrong[i].value;
        CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, &length, &error) == wrong[i].code);
        CHECK(error.field == wrong[i].field && error.offset == BCAST_NO_OFFSET && length == 0);
    }
    for (int i = 0; i < 4; i++) {
        do
            random_drm(&m, base, &base_length);
        while (!(m.present & BCAST_DRM_TIMESTAMP));
        m.timestamp = i == 0   ? INT64_C(-1297728001)
                      : i == 1 ? INT64_C(-1297728000)
                      : i == 2 ? INT64_C(4364582399)
                               : INT64_C(4364582400);
        CHECK(bcast_drm_stkm_seal(provider, key, &m, base, base_length, out, sizeof out, &length, &error)
              == (i == 0 || i == 3 ? BCAST_E_BAD_VALUE : BCAST_OK)); /* rules R15 */
    }
    /* rules R3, R4, R19, what names no key, and the key data type */
    for (int i = 0; i < 8; i++) {
        random_ltkm(&l, base, &base_length);
        switch (i) {
        case 0:
            l.ts_low = UINT32_MAX;
            l.ts_high = 0;
            break;
        case 1: l.ts_high = l.ts_low + BCAST_WINDOW_MAX + 1U; break;
        case 2: l.sek_id[2] = l.sek_id[3] = 0; break;
        case 3: l.interval_length = 2; break;
        case 4: l.key_data_type = 1; break;
        case 5: l.key_data_type = 0; break;
        case 6: l.sek_id[0] = l.sek_id[1] = 0; break;
        default: l.has_management = l.consumption_reporting_flag = 1; l.verification_requested = 0;
        }
        CHECK(bcast_smartcard_ltkm_seal(provider, smk, &l, base, base_length, out, sizeof out, &length, &error)
              == (i == 3 ? BCAST_E_BAD_LENGTH : BCAST_E_BAD_VALUE));
    }
    random_ltkm(&l, base, &base_length);
    l.ts_low = UINT32_MAX;
    l.ts_high = 0;
    memset(l.sek, 0, sizeof l.sek);
    CHECK(bcast_smartcard_ltkm_seal(provider, smk, &l, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
    drop_drm(key);
    drop_smk(smk);
}

/* Every truncation of a message of each kind, in buffers of the exact size. */
static void truncations(void)
{
    bcast_drm_stkm m;
    bcast_smartcard_stkm s;
    bcast_smartcard_ltkm l;
    uint8_t base[300], out[1024], raw[32] = {9};
    uint32_t base_length;
    size_t length;
    bcast_error error;
    bcast_drm_key *drm = drm_key(sek, sas, pek, pas);
    bcast_smartcard_key *card = smartcard_key("303132333435363738393a3b3c3d3e3f", "a1b2c3d4", "202122232425262728292a2b2c2d2e2f");
    bcast_smk *smk = NULL;
    CHECK(bcast_smk_init(storage(BCAST_SMK_SIZE), BCAST_SMK_SIZE, provider, raw, &smk) == BCAST_OK);
    for (int round = 0; round < (small ? 3 : 60); round++) {
        const int kind = round % 3;
        if (kind == 0) {
            random_drm(&m, base, &base_length);
            CHECK(bcast_drm_stkm_seal(provider, drm, &m, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
        } else if (kind == 1) {
            random_stkm(&s, base, &base_length);
            CHECK(bcast_smartcard_stkm_seal(provider, card, &s, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
        } else {
            random_ltkm(&l, base, &base_length);
            CHECK(bcast_smartcard_ltkm_seal(provider, smk, &l, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
        }
        for (size_t cut = 0; cut <= length; cut++) {
            uint8_t *data = malloc(cut + (cut == 0));
            if (data == NULL)
                abort();
            memcpy(data, out, cut);
            const int code = kind == 0   ? bcast_drm_stkm_open(provider, drm, data, cut, 0, &m, &error)
                             : kind == 1 ? bcast_smartcard_stkm_open(provider, card, data, cut, 0, &s, &error)
                                         : bcast_smartcard_ltkm_open(provider, smk, data, cut, 0, &l, &error);
            CHECK(code == (cut == length ? BCAST_OK : BCAST_E_TRUNCATED) && (code == BCAST_OK || error.offset <= cut));
            free(data);
        }
    }
    drop_drm(drm);
    drop_smartcard(card);
    drop_smk(smk);
}

const struct test misuse_tests[] = {
    {"providers", providers},
    {"contexts", contexts},
    {"arguments", arguments},
    {"nulls", nulls},
    {"rooms", rooms},
    {"overlaps", overlaps},
    {"overlaps everywhere", overlaps_everywhere},
    {"strangers", strangers},
    {"lies", lies},
    {"truncations", truncations},
    {NULL, NULL},
};
