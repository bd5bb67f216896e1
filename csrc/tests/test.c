/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runner: every test with every provider; prints "N passed, N failed".
 *
 *   test [--small] [--provider NAME] [--rounds N] [--seed N] REFUSALS
 *
 * --rounds: of the identity test, 1,779 random messages each; --seed: which ones.
 */
#include "test.h"

bcast_provider *provider;
const char *refusals_file;
bool small;
unsigned rounds = 20;
static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

static unsigned failures;
static const char *running;

void check(bool ok, const char *file, int line, const char *what)
{
    if (ok)
        return;
    if (failures++ < 20)
        printf("%s:%d: %s: %s\n", file, line, running, what);
}

static unsigned nibble(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10); }

size_t unhex(const char *text, uint8_t *out)
{
    size_t n = 0;
    for (; text != NULL && text[0] != '\0' && text[1] != '\0' && text[0] != '-'; text += 2)
        out[n++] = (uint8_t)(nibble(text[0]) << 4 | nibble(text[1]));
    return n;
}

bool all(const void *data, uint8_t value, size_t length)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < length; i++)
        if (p[i] != value)
            return false;
    return true;
}

/* xorshift: the same cases every time, unless another seed is asked for. */
uint32_t random32(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

void random_bytes(uint8_t *out, size_t length)
{
    for (size_t i = 0; i < length; i++)
        out[i] = (uint8_t)random32();
}

void *storage(size_t size)
{
    void *p = aligned_alloc(BCAST_ALIGNMENT, (size + BCAST_ALIGNMENT - 1) / BCAST_ALIGNMENT * BCAST_ALIGNMENT);
    if (p == NULL)
        abort();
    memset(p, 0xa5, size); /* not even zero */
    return p;
}

void release(void *object) { free(object); }

bcast_drm_key *drm_key(const uint8_t *sek, const uint8_t *sas, const uint8_t *pek, const uint8_t *pas)
{
    bcast_drm_key *key = NULL;
    const bcast_drm_keys keys = {sek, sas, pek, pas};
    CHECK(
        bcast_drm_key_init(storage(BCAST_DRM_KEY_SIZE), BCAST_DRM_KEY_SIZE, provider, &keys, BCAST_USE_SEAL | BCAST_USE_OPEN, &key)
        == BCAST_OK);
    return key;
}

bcast_smartcard_key *smartcard_key(const char *sek, const char *csb_id, const char *rand)
{
    uint8_t a[16], b[4], c[16];
    bcast_smartcard_key *key = NULL;
    unhex(sek, a);
    unhex(csb_id, b);
    const size_t rand_length = unhex(rand, c);
    CHECK(bcast_smartcard_key_init(storage(BCAST_SMARTCARD_KEY_SIZE), BCAST_SMARTCARD_KEY_SIZE, provider, a,
                                   csb_id == NULL ? NULL : b, c, rand_length, &key)
          == BCAST_OK);
    return key;
}

bcast_smk *smk_key(const char *smk)
{
    uint8_t raw[32];
    bcast_smk *key = NULL;
    unhex(smk, raw);
    CHECK(bcast_smk_init(storage(BCAST_SMK_SIZE), BCAST_SMK_SIZE, provider, raw, &key) == BCAST_OK);
    return key;
}

void drop_drm(bcast_drm_key *key)
{
    bcast_drm_key_wipe(key);
    release(key);
}

void drop_smartcard(bcast_smartcard_key *key)
{
    bcast_smartcard_key_wipe(key);
    release(key);
}

void drop_smk(bcast_smk *key)
{
    bcast_smk_wipe(key);
    release(key);
}

static uint32_t random_items(uint8_t *base, uint32_t count, uint8_t least)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t length = (uint8_t)(random32() % 9);
        base[at++] = (uint8_t)(least + random32() % 200);
        base[at++] = length;
        random_bytes(base + at, length);
        at += length;
    }
    return at;
}

void random_drm(bcast_drm_stkm *m, uint8_t *base, uint32_t *base_length)
{
    memset(m, 0, sizeof *m);
    m->present = (uint8_t)(1 + random32() % 63);
    if (!(m->present & (BCAST_DRM_SERVICE | BCAST_DRM_PROGRAMME)))
        m->present |= BCAST_DRM_SERVICE;
    if (!(m->present & BCAST_DRM_PROGRAMME))
        m->present &= (uint8_t)~BCAST_DRM_PERMISSIONS;
    m->protection_after_reception = random32() & 3;
    m->traffic_protection_protocol = (uint8_t)(random32() % 3);
    m->traffic_authentication_flag = random32() & 1;
    m->traffic_key_lifetime = random32() & 15;
    m->permissions_category = m->present & BCAST_DRM_PERMISSIONS ? (uint8_t)random32() : 0;
    m->id_length = m->traffic_protection_protocol == BCAST_IPSEC ? 4 : (uint8_t)(1 + random32() % 16);
    m->material_length = m->traffic_protection_protocol == BCAST_IPSEC && m->traffic_authentication_flag ? 32 : 16;
    random_bytes(m->id, m->id_length);
    random_bytes(m->traffic_key_material, m->material_length);
    const bool srtp = m->traffic_protection_protocol == BCAST_SRTP;
    if (srtp)
        random_bytes(m->salt, sizeof m->salt);
    if (m->present & BCAST_DRM_NEXT) {
        random_bytes(m->next_id, m->id_length);
        random_bytes(m->next_traffic_key_material, m->material_length);
        if (srtp)
            random_bytes(m->next_salt, sizeof m->next_salt);
    }
    if (m->present & BCAST_DRM_PROGRAMME)
        m->programme_CID_extension = random32();
    if (m->present & BCAST_DRM_SERVICE)
        m->service_CID_extension = random32();
    if (m->present & BCAST_DRM_TIMESTAMP)
        m->timestamp = INT64_C(-1297728000) + random32() + (int64_t)(random32() % 1364000000);
    *base_length = 0;
    if (m->present & BCAST_DRM_CRITERIA) {
        m->number_of_access_criteria = random32() % 5;
        *base_length = random_items(base, m->number_of_access_criteria, 1);
        m->access_criteria = (bcast_span){0, *base_length};
    }
}

static uint32_t random_tail(bcast_management_tail *tail, uint8_t *base, uint32_t at)
{
    tail->has_criteria = random32() % 3 == 0;
    tail->has_binding = random32() % 5 == 0;
    if (tail->has_criteria) {
        tail->number_of_access_criteria = (uint16_t)(random32() % 4);
        const uint32_t size = random_items(base + at, tail->number_of_access_criteria, 1);
        tail->access_criteria = (bcast_span){at, size};
        at += size;
    }
    if (tail->has_binding) {
        tail->terminal_binding_key_id = random32();
        tail->permissions_issuer_uri = (bcast_span){at, random32() % 20};
        random_bytes(base + at, tail->permissions_issuer_uri.length);
        at += tail->permissions_issuer_uri.length;
    }
    return at;
}

void random_stkm(bcast_smartcard_stkm *m, uint8_t *base, uint32_t *base_length)
{
    memset(m, 0, sizeof *m);
    m->counter = random32();
    random_bytes(m->key_domain_id, 3);
    random_bytes(m->sek_id, 4);
    m->sek_id[1] |= 1;
    m->sek_id[3] |= 1;
    random_bytes(m->tek_id, 2);
    m->tek_id[0] &= 0xfe;
    m->tek_id[1] |= 1;
    m->tek_id_length = 2;
    random_bytes(m->tek, 16);
    m->has_management = random32() % 4 != 0;
    *base_length = random32() % 6 == 0 ? random_items(base, 1, 3) : 0;
    m->other_key_ids = (bcast_span){0, *base_length};
    if (m->has_management) {
        m->protection_after_reception = random32() & 3;
        m->traffic_protection_protocol = (uint8_t)(random32() % 3);
        m->traffic_authentication_flag = random32() & 1;
        m->traffic_key_lifetime = random32() & 15;
        *base_length = random_tail(&m->tail, base, *base_length);
    }
    m->has_salt = m->has_management ? m->traffic_protection_protocol == BCAST_SRTP : (uint8_t)(random32() & 1);
    if (m->has_salt)
        random_bytes(m->salt, sizeof m->salt);
}

void random_ltkm(bcast_smartcard_ltkm *m, uint8_t *base, uint32_t *base_length)
{
    memset(m, 0, sizeof *m);
    m->counter = random32();
    m->max_size = 1000;
    random_bytes(m->csb_id, 4);
    random_bytes(m->rand, 16);
    random_bytes(m->key_domain_id, 3);
    random_bytes(m->sek_id, 4);
    m->sek_id[1] |= 1;
    m->sek_id[3] |= 1;
    random_bytes(m->sek, 16);
    m->verification_requested = random32() & 1;
    m->ts_low = random32();
    m->ts_high = m->ts_low + random32() % (BCAST_WINDOW_MAX + 1U);
    m->key_data_type = BCAST_LTKM_KEY_TYPE;
    m->interval_length = 4;
    m->idi_type = (uint8_t)random32();
    m->idr_type = random32() & 1;
    uint32_t at = 0;
    m->idi = (bcast_span){0, random32() % 30};
    at += m->idi.length;
    m->idr = (bcast_span){at, random32() % 50};
    at += m->idr.length;
    random_bytes(base, at);
    m->has_management = random32() & 1;
    if (m->has_management) {
        m->consumption_reporting_flag = m->verification_requested & random32() & 1;
        m->has_policy = random32() & 1;
        if (m->has_policy) {
            m->policy.security_policy_extension = (uint8_t)random32();
            m->policy.present = random32() & 15;
            m->policy.cost_value = m->policy.present & BCAST_POLICY_COST ? random32() : 0;
            m->policy.purse = m->policy.present & BCAST_POLICY_PURSE ? random32() : 0;
            m->policy.playback = m->policy.present & BCAST_POLICY_PLAYBACK ? random32() : 0;
            m->policy.tek = m->policy.present & BCAST_POLICY_TEK ? random32() : 0;
            m->policy.purse_mode = m->policy.present & BCAST_POLICY_PURSE ? random32() & 1 : 0;
            m->policy.tek_mode = m->policy.present & BCAST_POLICY_TEK ? random32() & 1 : 0;
        }
        at = random_tail(&m->tail, base, at);
    }
    *base_length = at;
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    unsigned passed = 0, failed = 0, providers = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--small") == 0)
            small = true;
        else if (strcmp(argv[i], "--provider") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = (unsigned)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            state ^= strtoull(argv[++i], NULL, 10) << 20;
        else
            refusals_file = argv[i];
    }
    static const char *const names[] = {"evp", "ipsec_mb"};
    const struct test *const groups[] = {vector_tests, refusal_tests, seal_refusal_tests,
                                         misuse_tests, fault_tests,   identity_tests};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        bcast_information about;
        void *room = storage(BCAST_PROVIDER_SIZE);
        if (only != NULL && strcmp(only, names[n]) != 0) {
            release(room);
            continue;
        }
        const int status = bcast_provider_open(room, BCAST_PROVIDER_SIZE, names[n], &provider);
        if (status != BCAST_OK) {
            printf("provider %s: %s\n", names[n], bcast_status_name(status));
            failed += status != BCAST_E_NO_PROVIDER;
            release(room);
            continue;
        }
        providers++;
        (void)bcast_info(provider, &about);
        printf("provider %s: libbcast %s, libcrypto %s%s%s %s\n", about.provider, about.version, about.libcrypto_version,
               about.ipsec_mb_version[0] != '\0' ? ", ipsec_mb " : "", about.ipsec_mb_version, about.ipsec_mb_isa);
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (const struct test *t = groups[g]; t->name != NULL; t++) {
                running = t->name;
                failures = 0;
                t->run();
                *(failures == 0 ? &passed : &failed) += 1;
                if (failures != 0)
                    printf("FAILED %s (%u checks)\n", t->name, failures);
            }
        bcast_provider_close(provider);
        release(room);
    }
    if (providers == 0)
        failed++;
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
