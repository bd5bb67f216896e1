/* SPDX-License-Identifier: Apache-2.0 */
/* Known answers: every vector sealed, opened, decoded, built in its partial form and completed. */
#include "test.h"
#include "vectors.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static bool same_drm(const bcast_drm_stkm *a, const bcast_drm_stkm *b)
{
    return a->present == b->present && a->protection_after_reception == b->protection_after_reception
           && a->traffic_protection_protocol == b->traffic_protection_protocol
           && a->traffic_authentication_flag == b->traffic_authentication_flag && a->traffic_key_lifetime == b->traffic_key_lifetime
           && a->permissions_category == b->permissions_category && a->id_length == b->id_length
           && a->material_length == b->material_length && memcmp(a->id, b->id, 16) == 0 && memcmp(a->next_id, b->next_id, 16) == 0
           && memcmp(a->traffic_key_material, b->traffic_key_material, 32) == 0
           && memcmp(a->next_traffic_key_material, b->next_traffic_key_material, 32) == 0 && memcmp(a->salt, b->salt, 14) == 0
           && memcmp(a->next_salt, b->next_salt, 14) == 0 && a->programme_CID_extension == b->programme_CID_extension
           && a->service_CID_extension == b->service_CID_extension && a->timestamp == b->timestamp
           && a->access_criteria.length == b->access_criteria.length;
}

static void drm_one(const struct drm_vector *v)
{
    uint8_t wanted[1400], partial[1400], base[1400], out[1400], raw[4][16];
    const size_t size = unhex(v->message, wanted), base_length = unhex(v->base, base);
    size_t length;
    bcast_error error;
    bcast_drm_stkm opened;
    NEED(unhex(v->partial, partial) == size);
    unhex(v->sek, raw[0]);
    unhex(v->sas, raw[1]);
    unhex(v->pek, raw[2]);
    unhex(v->pas, raw[3]);
    bcast_drm_key *key = drm_key(raw[0], raw[1], raw[2], raw[3]);

    CHECK(bcast_drm_stkm_seal(provider, key, &v->fields, base, base_length, NULL, 0, &length, &error) == BCAST_OK
          && length == size);
    CHECK(bcast_drm_stkm_seal(provider, key, &v->fields, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
    CHECK(length == size && memcmp(out, wanted, size) == 0);
    memset(&opened, 0xee, sizeof opened);
    CHECK(bcast_drm_stkm_open(provider, key, wanted, size, 0, &opened, &error) == BCAST_OK);
    CHECK(same_drm(&opened, &v->fields) && opened.size == size);
    CHECK(opened.access_criteria.length == 0 || memcmp(wanted + opened.access_criteria.offset, base, base_length) == 0);

    CHECK(bcast_drm_stkm_partial(&v->fields, base, base_length, out, sizeof out, &length, &error) == BCAST_OK);
    CHECK(length == size && memcmp(out, partial, size) == 0);
    CHECK(bcast_drm_stkm_decode(partial, size, 1, 0, &opened, &error) == BCAST_OK && same_drm(&opened, &v->fields));
    CHECK(bcast_drm_stkm_decode(wanted, size, 1, 0, &opened, &error) == BCAST_E_BAD_VALUE);
    CHECK(bcast_drm_stkm_decode(partial, size, 1, 0, &opened, &error) == BCAST_OK);
    CHECK(bcast_drm_stkm_seal(provider, key, &opened, partial, size, out, sizeof out, &length, &error) == BCAST_OK);
    CHECK(length == size && memcmp(out, wanted, size) == 0); /* completed */

    /* Whoever holds less opens what is his. */
    const bool service = v->fields.present & BCAST_DRM_SERVICE, programme = v->fields.present & BCAST_DRM_PROGRAMME;
    bcast_drm_key *subscriber = drm_key(raw[0], raw[1], NULL, NULL), *viewer = drm_key(NULL, NULL, raw[2], raw[3]);
    CHECK(bcast_drm_stkm_open(provider, subscriber, wanted, size, 0, &opened, &error)
          == (service ? BCAST_OK : BCAST_E_KEY_UNAVAILABLE));
    CHECK(service ? same_drm(&opened, &v->fields) : error.field == BCAST_F_KEY_PAS);
    CHECK(bcast_drm_stkm_open(provider, viewer, wanted, size, 0, &opened, &error)
          == (programme ? BCAST_OK : BCAST_E_KEY_UNAVAILABLE));
    CHECK(programme ? same_drm(&opened, &v->fields) : error.field == BCAST_F_KEY_SAS);

    /* Another PEK under the same MACs does not pass. */
    raw[2][5] ^= 1;
    bcast_drm_key *other = drm_key(raw[0], raw[1], raw[2], raw[3]);
    if (service && programme)
        CHECK(bcast_drm_stkm_open(provider, other, wanted, size, 0, &opened, &error) == BCAST_E_INTEGRITY);
    drop_drm(key);
    drop_drm(subscriber);
    drop_drm(viewer);
    drop_drm(other);
}

static void drm_vectors_test(void)
{
    for (size_t i = 0; i < COUNT(drm_vectors); i++)
        drm_one(&drm_vectors[i]);
}

/* The worked examples: SEK 10..1f, SAS 20..2f, PEK 30..3f, PAS 40..4f. */
static void drm_named(void)
{
    uint8_t raw[64], data[200], out[200];
    size_t length;
    bcast_error error;
    bcast_drm_stkm m;
    for (unsigned i = 0; i < 64; i++)
        raw[i] = (uint8_t)(0x10 + i);
    bcast_drm_key *key = drm_key(raw, raw + 16, raw + 32, raw + 48);
    unsigned found = 0;
    for (size_t i = 0; i < COUNT(named_vectors); i++) {
        if (named_vectors[i].name[0] != 'd')
            continue;
        found++;
        const size_t size = unhex(named_vectors[i].message, data);
        CHECK(bcast_drm_stkm_open(provider, key, data, size, 0, &m, &error) == BCAST_OK);
        for (unsigned k = 0; k < 16; k++)
            CHECK(m.traffic_key_material[k] == 0x50 + k);
        CHECK(bcast_drm_stkm_seal(provider, key, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(length == size && memcmp(out, data, size) == 0);
    }
    CHECK(found == 4);
    drop_drm(key);
}

static bool same_stkm(const bcast_smartcard_stkm *a, const bcast_smartcard_stkm *b)
{
    return a->counter == b->counter && memcmp(a->key_domain_id, b->key_domain_id, 3) == 0 && memcmp(a->sek_id, b->sek_id, 4) == 0
           && memcmp(a->tek_id, b->tek_id, 4) == 0 && a->tek_id_length == b->tek_id_length && memcmp(a->tek, b->tek, 16) == 0
           && a->has_salt == b->has_salt && memcmp(a->salt, b->salt, 14) == 0 && a->has_management == b->has_management
           && a->protection_after_reception == b->protection_after_reception
           && a->traffic_protection_protocol == b->traffic_protection_protocol
           && a->traffic_authentication_flag == b->traffic_authentication_flag
           && a->traffic_key_lifetime == b->traffic_key_lifetime;
}

static void stkm_vectors_test(void)
{
    for (size_t i = 0; i < COUNT(stkm_vectors); i++) {
        const struct stkm_vector *v = &stkm_vectors[i];
        uint8_t wanted[300], out[300];
        const size_t size = unhex(v->message, wanted);
        size_t length;
        bcast_error error;
        bcast_smartcard_stkm m;
        bcast_smartcard_key *key = smartcard_key(v->sek, v->csb_id, v->rand);
        CHECK(bcast_smartcard_stkm_seal(provider, key, &v->fields, NULL, 0, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(length == size && memcmp(out, wanted, size) == 0);
        CHECK(bcast_smartcard_stkm_open(provider, key, wanted, size, 0, &m, &error) == BCAST_OK);
        CHECK(same_stkm(&m, &v->fields) && m.size == size && m.canonical == 1 && !m.partial);
        drop_smartcard(key);
        for (int other = 0; other < 3; other++) { /* the CSB ID is the message's own; the RAND is the SEK's */
            key = smartcard_key(v->sek, other == 1 ? NULL : "00000000", other == 2 ? "" : v->rand);
            const int code = bcast_smartcard_stkm_open(provider, key, wanted, size, 0, &m, &error);
            CHECK(code == (other == 2 ? BCAST_E_INTEGRITY : BCAST_OK) && error.code == code);
            CHECK(other == 2 ? all(&m, 0, sizeof m) : same_stkm(&m, &v->fields) && m.size == size);
            wanted[4] ^= 1; /* a CSB ID that its keys were not derived with */
            CHECK(bcast_smartcard_stkm_open(provider, key, wanted, size, 0, &m, &error) == BCAST_E_INTEGRITY);
            wanted[4] ^= 1;
            drop_smartcard(key);
        }
    }
}

/* A message of a real card, with all 160 bits of its MAC: an empty RAND, a TEK ID of four bytes. */
static void opened_card_vectors_test(void)
{
    CHECK(COUNT(opened_card_vectors) > 0);
    for (size_t i = 0; i < COUNT(opened_card_vectors); i++) {
        const struct stkm_vector *v = &opened_card_vectors[i];
        uint8_t data[300], out[300];
        const size_t size = unhex(v->message, data);
        size_t length;
        bcast_error error;
        bcast_smartcard_stkm m;
        for (int other = 0; other < 2; other++) {
            bcast_smartcard_key *key = smartcard_key(v->sek, other ? NULL : v->csb_id, v->rand);
            CHECK(bcast_smartcard_stkm_open(provider, key, data, size, 0, &m, &error) == BCAST_E_BAD_LENGTH);
            CHECK(error.field == BCAST_F_KEY_ID_LENGTH && error.offset == 26);
            CHECK(bcast_smartcard_stkm_open(provider, key, data, size, BCAST_LENIENT_MTK_ID_4, &m, &error) == BCAST_OK);
            CHECK(same_stkm(&m, &v->fields) && m.canonical == 1);
            drop_smartcard(key);
            key = smartcard_key(v->sek, other ? NULL : v->csb_id, "1234567890abcdeffedcba0987654321"); /* the RAND of message A */
            CHECK(bcast_smartcard_stkm_open(provider, key, data, size, BCAST_LENIENT_MTK_ID_4, &m, &error) == BCAST_E_INTEGRITY);
            drop_smartcard(key);
        }
        /* Sealing under an empty RAND: the same content with a TEK ID that may be built. */
        bcast_smartcard_key *key = smartcard_key(v->sek, v->csb_id, v->rand);
        bcast_smartcard_stkm again = v->fields;
        again.tek_id_length = 2;
        memset(again.tek_id + 2, 0, 2);
        CHECK(bcast_smartcard_stkm_seal(provider, key, &again, NULL, 0, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(bcast_smartcard_stkm_open(provider, key, out, length, 0, &m, &error) == BCAST_OK && same_stkm(&m, &again));
        CHECK(memcmp(out + length - 41, data + size - 41, 20) == 0); /* the ciphertext does not depend on the TEK ID */
        drop_smartcard(key);
    }
}

static void partial_vectors_test(void)
{
    for (size_t i = 0; i < COUNT(partial_vectors); i++) {
        const struct partial_vector *v = &partial_vectors[i];
        uint8_t partial[300], complete[300], out[300];
        const size_t size = unhex(v->partial, partial), complete_size = unhex(v->complete, complete);
        size_t length;
        bcast_error error;
        bcast_smartcard_stkm m;
        bcast_smartcard_key *key = smartcard_key(v->sek, v->csb_id, v->rand);
        CHECK(bcast_smartcard_stkm_decode(partial, size, 1, 0, &m, &error) == BCAST_OK && m.partial == 1);
        CHECK(bcast_smartcard_stkm_partial(&m, partial, size, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(length == size && memcmp(out, partial, size) == 0);
        CHECK(bcast_smartcard_stkm_decode(complete, complete_size, 1, 0, &m, &error) == BCAST_E_BAD_VALUE);
        CHECK(bcast_smartcard_stkm_open(provider, key, partial, size, 0, &m, &error) == BCAST_E_UNSUPPORTED); /* rules R11 */
        CHECK(error.field == BCAST_F_ENCR_ALG && partial[error.offset] == 0 && error.scope == BCAST_S_KEMAC);
        CHECK(bcast_smartcard_stkm_decode(partial, size, 1, 0, &m, &error) == BCAST_OK);
        unhex(v->key_domain_id, m.key_domain_id);
        unhex(v->sek_id, m.sek_id);
        unhex(v->tek_id, m.tek_id);
        bcast_smartcard_stkm goal;
        CHECK(bcast_smartcard_stkm_open(provider, key, complete, complete_size, 0, &goal, &error) == BCAST_OK);
        m.counter = goal.counter;
        m.protection_after_reception = goal.protection_after_reception;
        CHECK(bcast_smartcard_stkm_seal(provider, key, &m, partial, size, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(length == complete_size && memcmp(out, complete, complete_size) == 0);
        drop_smartcard(key);
    }
}

static void ltkm_vectors_test(void)
{
    for (size_t i = 0; i < COUNT(ltkm_vectors); i++) {
        const struct ltkm_vector *v = &ltkm_vectors[i];
        uint8_t wanted[400], base[400], out[400];
        const size_t size = unhex(v->message, wanted), base_length = unhex(v->base, base);
        size_t length;
        bcast_error error;
        bcast_smartcard_ltkm m;
        bcast_smk *key = smk_key(v->smk);
        CHECK(bcast_smartcard_ltkm_seal(provider, key, &v->fields, base, base_length, out, sizeof out, &length, &error)
              == BCAST_OK);
        CHECK(length == size && memcmp(out, wanted, size) == 0);
        CHECK(bcast_smartcard_ltkm_open(provider, key, wanted, size, 0, &m, &error) == BCAST_OK);
        CHECK(memcmp(m.sek, v->fields.sek, 16) == 0 && m.ts_low == v->fields.ts_low && m.ts_high == v->fields.ts_high
              && m.counter == v->fields.counter && m.idr.length == v->fields.idr.length && m.canonical == 1 && m.size == size);
        memset(out, 0, sizeof out);
        CHECK(bcast_smartcard_ltkm_seal(provider, key, &m, wanted, size, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(length == size && memcmp(out, wanted, size) == 0);
        drop_smk(key);
    }
}

static void smartcard_named(void)
{
    uint8_t data[300], out[300];
    size_t length;
    bcast_error error;
    bcast_smk *smk = smk_key("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    bcast_smartcard_key *sek = smartcard_key("303132333435363738393a3b3c3d3e3f", "a1b2c3d4", "202122232425262728292a2b2c2d2e2f");
    unsigned found = 0;
    for (size_t i = 0; i < COUNT(named_vectors); i++) {
        const size_t size = unhex(named_vectors[i].message, data);
        found += named_vectors[i].name[0] != 'd';
        if (named_vectors[i].name[0] == 'L') {
            bcast_smartcard_ltkm m;
            CHECK(bcast_smartcard_ltkm_open(provider, smk, data, size, 0, &m, &error) == BCAST_OK);
            CHECK(m.sek[0] == 0x30 && m.ts_low == 1 && m.ts_high == 0xffff);
            const int code = bcast_smartcard_ltkm_seal(provider, smk, &m, data, size, out, sizeof out, &length, &error);
            if (strcmp(named_vectors[i].name, "L1") == 0) /* key data type 0: for readers only */
                CHECK(m.key_data_type == 0 && code == BCAST_E_BAD_VALUE && error.field == BCAST_F_KEY_DATA_TYPE);
            else
                CHECK(m.key_data_type == 2 && code == BCAST_OK && length == size && memcmp(out, data, size) == 0);
        } else if (named_vectors[i].name[0] == 'S') {
            bcast_smartcard_stkm m;
            CHECK(bcast_smartcard_stkm_open(provider, sek, data, size, 0, &m, &error) == BCAST_OK);
            CHECK(m.tek[0] == 0x40 && m.counter == 5);
            CHECK(bcast_smartcard_stkm_seal(provider, sek, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
            CHECK(length == size && memcmp(out, data, size) == 0);
        } else if (named_vectors[i].name[0] == 'V') {
            bcast_verification m;
            uint8_t rand[16];
            unhex("202122232425262728292a2b2c2d2e2f", rand);
            const bcast_answered ltkm = {rand, (const uint8_t *)"bsm.example.com", 15};
            CHECK(bcast_verification_open(provider, smk, &ltkm, data, size, 0, 0, &m, &error) == BCAST_OK && m.counter == 2);
            CHECK(bcast_verification_seal(provider, smk, &ltkm, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
            CHECK(length == size && memcmp(out, data, size) == 0);
        }
    }
    CHECK(found == 7);
    drop_smk(smk);
    drop_smartcard(sek);
}

static void verification_vectors_test(void)
{
    for (size_t i = 0; i < COUNT(verification_vectors); i++) {
        const struct verification_vector *v = &verification_vectors[i];
        uint8_t data[600], out[600], rand[16], idi[100];
        const size_t size = unhex(v->message, data);
        unhex(v->rand, rand);
        const bcast_answered ltkm = {rand, idi, unhex(v->idi, idi)};
        size_t length;
        bcast_error error;
        bcast_verification m;
        bcast_smk *key = smk_key(v->smk);
        CHECK(bcast_verification_open(provider, key, &ltkm, data, size, v->reporting, 0, &m, &error) == BCAST_OK);
        CHECK(m.has_reporting == v->reporting && m.canonical == 1);
        m.max_size = 600;
        CHECK(bcast_verification_seal(provider, key, &ltkm, &m, data, size, out, sizeof out, &length, &error) == BCAST_OK);
        CHECK(length == size && memcmp(out, data, size) == 0);
        data[size - 1] ^= 1;
        CHECK(bcast_verification_open(provider, key, &ltkm, data, size, v->reporting, 0, &m, &error) == BCAST_E_INTEGRITY);
        drop_smk(key);
    }
}

/* Messages that real cards took: layout only, the keys of all but one are unknown. */
static void card_messages(void)
{
    uint8_t data[300];
    bcast_error error;
    for (size_t i = 0; i < COUNT(card_vectors); i++) {
        const size_t size = unhex(card_vectors[i].message, data);
        bcast_payload payload = {0};
        unsigned payloads = 0;
        if (strcmp(card_vectors[i].kind, "ltkm") == 0) {
            bcast_smartcard_ltkm m;
            CHECK(bcast_smartcard_ltkm_decode(data, size, 0, &m, &error) == BCAST_OK && m.size == size && m.canonical == 1);
        } else {
            bcast_smartcard_stkm m;
            CHECK(bcast_smartcard_stkm_decode(data, size, 0, 0, &m, &error) == BCAST_E_BAD_LENGTH);
            CHECK(bcast_smartcard_stkm_decode(data, size, 0, BCAST_LENIENT_MTK_ID_4, &m, &error) == BCAST_OK);
            CHECK(m.tek_id_length == 4 && m.size == size);
        }
        while (bcast_mikey_next(data, size, &payload) == 1)
            payloads++;
        CHECK(payloads == (card_vectors[i].kind[0] == 'l' ? 6 : 3) && payload.number == 1
              && payload.offset + payload.length == size);
    }
}

/* After any single-bit change nothing opens: every bit of a message is under a MAC, or is the MAC. */
static void every_bit(void)
{
    const struct drm_vector *v = &drm_vectors[0];
    uint8_t data[300], raw[4][16];
    bcast_error error;
    bcast_drm_stkm m;
    const bcast_drm_stkm nothing = {0};
    unhex(v->sek, raw[0]);
    unhex(v->sas, raw[1]);
    unhex(v->pek, raw[2]);
    unhex(v->pas, raw[3]);
    bcast_drm_key *key = drm_key(raw[0], raw[1], raw[2], raw[3]);
    size_t size = unhex(v->message, data);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(bcast_drm_stkm_open(provider, key, data, size, 0, &m, &error) != BCAST_OK);
        CHECK(memcmp(&m, &nothing, sizeof m) == 0);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    drop_drm(key);
    bcast_smartcard_key *sek = smartcard_key(stkm_vectors[1].sek, stkm_vectors[1].csb_id, stkm_vectors[1].rand);
    bcast_smartcard_stkm s;
    size = unhex(stkm_vectors[1].message, data);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(bcast_smartcard_stkm_open(provider, sek, data, size, 0, &s, &error) != BCAST_OK && s.tek[0] == 0);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    drop_smartcard(sek);
}

const struct test vector_tests[] = {
    {"drm vectors", drm_vectors_test},
    {"drm named", drm_named},
    {"stkm vectors", stkm_vectors_test},
    {"opened card vectors", opened_card_vectors_test},
    {"partial vectors", partial_vectors_test},
    {"ltkm vectors", ltkm_vectors_test},
    {"smartcard named", smartcard_named},
    {"verification vectors", verification_vectors_test},
    {"card messages", card_messages},
    {"every bit", every_bit},
    {NULL, NULL},
};
