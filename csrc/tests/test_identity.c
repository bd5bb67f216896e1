/* SPDX-License-Identifier: Apache-2.0 */
/* The same bytes whichever provider and batch size, from random messages under many keys; what is sealed opens to what it was. */
#include "test.h"

enum { KEYS = 200, ROOM = 400 };

static bcast_provider *first; /* evp, to compare with */
static bcast_drm_key *drm_keys[2][KEYS];
static bcast_smartcard_key *card_keys[2][KEYS];
static bcast_smartcard_key *opening_keys[KEYS]; /* some ready for the CSB ID, some for another one, some for none */
static bcast_smk *smks[2][KEYS];

static void set_up(void)
{
    bcast_provider *const under_test = provider;
    NEED(bcast_provider_open(storage(BCAST_PROVIDER_SIZE), BCAST_PROVIDER_SIZE, "evp", &first) == BCAST_OK);
    for (size_t i = 0; i < KEYS; i++) {
        uint8_t raw[64];
        char hex[3][65];
        random_bytes(raw, sizeof raw);
        for (size_t k = 0; k < 32; k++)
            for (size_t part = 0; part < 3; part++)
                (void)snprintf(hex[part] + 2 * k, 3, "%02x", raw[(part * 16 + k) % 64]);
        for (int which = 0; which < 2; which++) {
            provider = which == 0 ? first : under_test;
            drm_keys[which][i] = drm_key(raw, raw + 16, raw + 32, raw + 48);
            smks[which][i] = smk_key(hex[0]);
            hex[0][32] = hex[1][8] = hex[2][32] = '\0';
            if (i % 10 == 9) /* provisioned: an empty RAND */
                hex[2][0] = '\0';
            card_keys[which][i] = smartcard_key(hex[0], hex[1], hex[2]);
            if (which == 1)
                opening_keys[i] = smartcard_key(hex[0], i % 4 == 3 ? NULL : i % 4 == 2 ? "0badcafe" : hex[1], hex[2]);
            (void)snprintf(hex[0] + 32, 33, "%s", "00000000000000000000000000000000");
            for (size_t k = 16; k < 32; k++)
                (void)snprintf(hex[0] + 2 * k, 3, "%02x", raw[k]);
        }
    }
    provider = under_test;
}

static void tear_down(void)
{
    for (int which = 0; which < 2; which++)
        for (size_t i = 0; i < KEYS; i++) {
            drop_drm(drm_keys[which][i]);
            drop_smartcard(card_keys[which][i]);
            if (which == 1)
                drop_smartcard(opening_keys[i]);
            drop_smk(smks[which][i]);
        }
    bcast_provider_close(first);
    release(first);
}

static const size_t sizes[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 128, 200};

static void identity(void)
{
    static bcast_drm_stkm drm[KEYS], drm_out[KEYS];
    static bcast_smartcard_stkm stkm[KEYS], stkm_out[KEYS];
    static bcast_smartcard_ltkm ltkm[KEYS], ltkm_out[KEYS];
    static uint8_t bases[KEYS][300], wanted[KEYS * ROOM], arena[KEYS * ROOM + 16];
    static bcast_drm_seal_job ds[KEYS];
    static bcast_drm_open_job dopen[KEYS];
    static bcast_smartcard_seal_job ss[KEYS];
    static bcast_smartcard_open_job so[KEYS];
    static bcast_ltkm_seal_job ls[KEYS];
    static bcast_ltkm_open_job lo[KEYS];
    uint32_t base_lengths[KEYS];
    set_up();
    const unsigned times = small ? 1 : rounds;
    unsigned long cases = 0;
    for (unsigned round = 0; round < times; round++)
        for (int kind = 0; kind < 3; kind++)
            for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
                const size_t n = sizes[z];
                cases += n;
                size_t at = 0, used, length;
                bcast_error error;
                bool bad[KEYS];
                for (size_t i = 0; i < n; i++) {
                    /* One by one with evp; every fifth is spoilt. */
                    bad[i] = random32() % 5 == 0;
                    int code;
                    if (kind == 0) {
                        random_drm(&drm[i], bases[i], &base_lengths[i]);
                        drm[i].traffic_key_lifetime = bad[i] ? 16 : drm[i].traffic_key_lifetime;
                        code = bcast_drm_stkm_seal(first, drm_keys[0][i], &drm[i], bases[i], base_lengths[i], wanted + at, ROOM,
                                                   &length, &error);
                        ds[i] = (bcast_drm_seal_job){
                            .key = drm_keys[1][i], .message = &drm[i], .base = bases[i], .base_length = base_lengths[i]};
                    } else if (kind == 1) {
                        random_stkm(&stkm[i], bases[i], &base_lengths[i]);
                        stkm[i].tek_id_length = bad[i] ? 4 : 2;
                        code = bcast_smartcard_stkm_seal(first, card_keys[0][i], &stkm[i], bases[i], base_lengths[i], wanted + at,
                                                         ROOM, &length, &error);
                        ss[i] = (bcast_smartcard_seal_job){
                            .key = card_keys[1][i], .message = &stkm[i], .base = bases[i], .base_length = base_lengths[i]};
                    } else {
                        random_ltkm(&ltkm[i], bases[i], &base_lengths[i]);
                        ltkm[i].interval_length = bad[i] ? 2 : 4;
                        code = bcast_smartcard_ltkm_seal(first, smks[0][i], &ltkm[i], bases[i], base_lengths[i], wanted + at, ROOM,
                                                         &length, &error);
                        ls[i] = (bcast_ltkm_seal_job){
                            .key = smks[1][i], .message = &ltkm[i], .base = bases[i], .base_length = base_lengths[i]};
                    }
                    CHECK((code == BCAST_OK) == !bad[i] && (length == 0) == bad[i]);
                    at += length;
                }
                bool any = false;
                for (size_t i = 0; i < n; i++)
                    any |= bad[i];
                /* Together with the other, once for the sizes and once in earnest. */
                for (int dry = 1; dry >= 0; dry--) {
                    uint8_t *out = dry ? NULL : arena + round % 16;
                    memset(arena, 0x5a, sizeof arena);
                    const int code = kind == 0   ? bcast_drm_stkm_seal_batch(provider, ds, n, out, dry ? 0 : at, &used)
                                     : kind == 1 ? bcast_smartcard_stkm_seal_batch(provider, ss, n, out, dry ? 0 : at, &used)
                                                 : bcast_smartcard_ltkm_seal_batch(provider, ls, n, out, dry ? 0 : at, &used);
                    CHECK(code == (any ? BCAST_E_SOME : BCAST_OK) && used == at);
                }
                const uint8_t *sealed = arena + round % 16;
                CHECK(memcmp(sealed, wanted, at) == 0 && sealed[at] == 0x5a && (round % 16 == 0 || sealed[-1] == 0x5a));
                /* And back; every seventh message is damaged. */
                size_t opened = 0;
                for (size_t i = 0; i < n; i++) {
                    const uint32_t offset = kind == 0 ? ds[i].offset : kind == 1 ? ss[i].offset : ls[i].offset;
                    const uint32_t size = kind == 0 ? ds[i].length : kind == 1 ? ss[i].length : ls[i].length;
                    const int code = kind == 0 ? ds[i].error.code : kind == 1 ? ss[i].error.code : ls[i].error.code;
                    CHECK((code != BCAST_OK) == bad[i] && (size == 0) == bad[i]);
                    if (size != 0 && random32() % 7 == 0) {
                        arena[round % 16 + offset + random32() % size] ^= (uint8_t)(1 << random32() % 8);
                        bad[i] = true;
                    }
                    dopen[i] = (bcast_drm_open_job){
                        .key = drm_keys[1][i], .data = sealed + offset, .data_length = size, .message = &drm_out[i]};
                    so[i] = (bcast_smartcard_open_job){
                        .key = opening_keys[i], .data = sealed + offset, .data_length = size, .message = &stkm_out[i]};
                    lo[i] = (bcast_ltkm_open_job){
                        .key = smks[1][i], .data = sealed + offset, .data_length = size, .message = &ltkm_out[i]};
                }
                (void)(kind == 0   ? bcast_drm_stkm_open_batch(provider, dopen, n)
                       : kind == 1 ? bcast_smartcard_stkm_open_batch(provider, so, n)
                                   : bcast_smartcard_ltkm_open_batch(provider, lo, n));
                for (size_t i = 0; i < n; i++) {
                    const int code = kind == 0 ? dopen[i].error.code : kind == 1 ? so[i].error.code : lo[i].error.code;
                    CHECK((code == BCAST_OK) == !bad[i]);
                    opened += code == BCAST_OK;
                    if (code != BCAST_OK)
                        continue;
                    if (kind == 0)
                        CHECK(memcmp(drm[i].traffic_key_material, drm_out[i].traffic_key_material, 32) == 0
                              && memcmp(drm[i].next_traffic_key_material, drm_out[i].next_traffic_key_material, 32) == 0
                              && drm[i].timestamp == drm_out[i].timestamp && drm[i].present == drm_out[i].present
                              && drm[i].number_of_access_criteria == drm_out[i].number_of_access_criteria);
                    else if (kind == 1)
                        CHECK(memcmp(stkm[i].tek, stkm_out[i].tek, 16) == 0 && memcmp(stkm[i].salt, stkm_out[i].salt, 14) == 0
                              && stkm[i].counter == stkm_out[i].counter && stkm_out[i].canonical == 1
                              && stkm[i].tail.number_of_access_criteria == stkm_out[i].tail.number_of_access_criteria
                              && stkm[i].tail.terminal_binding_key_id == stkm_out[i].tail.terminal_binding_key_id
                              && stkm[i].other_key_ids.length == stkm_out[i].other_key_ids.length);
                    else
                        CHECK(memcmp(ltkm[i].sek, ltkm_out[i].sek, 16) == 0 && ltkm[i].ts_high == ltkm_out[i].ts_high
                              && ltkm[i].key_data_type == ltkm_out[i].key_data_type
                              && memcmp(&ltkm[i].policy, &ltkm_out[i].policy, sizeof(bcast_policy)) == 0
                              && ltkm[i].idr_type == ltkm_out[i].idr_type && ltkm_out[i].canonical == 1);
                }
                CHECK(n < 20 || opened > n / 3);
            }
    printf("identity: %lu messages\n", cases);
    tear_down();
}

const struct test identity_tests[] = {{"identity", identity}, {NULL, NULL}};
