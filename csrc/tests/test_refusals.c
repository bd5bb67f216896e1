/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged messages: the same verdict, offset and field path as the Python reference, for every line of the data file. */
#include "test.h"

static bool named(const char *list, const char *name, uint8_t *out)
{
    const char *at = strstr(list, name);
    if (at == NULL)
        return false;
    char text[65];
    at += strlen(name) + 1;
    size_t n = strcspn(at, ", ");
    if (n >= sizeof text)
        return false;
    memcpy(text, at, n);
    text[n] = '\0';
    return unhex(text, out) > 0;
}

static int run(const char *operation, const char *kind, uint32_t partial, uint32_t lenient, const char *keys, const uint8_t *data,
               size_t size, bcast_error *error)
{
    union {
        bcast_drm_stkm drm;
        bcast_smartcard_stkm stkm;
        bcast_smartcard_ltkm ltkm;
        bcast_verification verification;
    } m;
    if (strcmp(operation, "decode") == 0) {
        if (strcmp(kind, "drm-stkm") == 0)
            return bcast_drm_stkm_decode(data, size, partial, lenient, &m.drm, error);
        if (strcmp(kind, "smartcard-stkm") == 0)
            return bcast_smartcard_stkm_decode(data, size, partial, lenient, &m.stkm, error);
        if (strcmp(kind, "smartcard-ltkm") == 0)
            return bcast_smartcard_ltkm_decode(data, size, lenient, &m.ltkm, error);
        return bcast_verification_decode(data, size, strcmp(kind, "smartcard-reporting") == 0, lenient, &m.verification, error);
    }
    uint8_t key[32], csb_id[4], rand[16];
    int code;
    if (named(keys, "smk", key)) {
        bcast_smk *smk = NULL;
        void *room = storage(BCAST_SMK_SIZE);
        CHECK(bcast_smk_init(room, BCAST_SMK_SIZE, provider, key, &smk) == BCAST_OK);
        code = bcast_smartcard_ltkm_open(provider, smk, data, size, lenient, &m.ltkm, error);
        drop_smk(smk);
        return code;
    }
    bcast_smartcard_key *sek = NULL;
    void *room = storage(BCAST_SMARTCARD_KEY_SIZE);
    const size_t rand_length = named(keys, "rand", rand) ? sizeof rand : 0; /* "rand=": the empty RAND */
    CHECK(named(keys, "sek", key) && strstr(keys, "rand=") != NULL);
    const bool prepared = named(keys, "csb_id", csb_id);
    CHECK(bcast_smartcard_key_init(room, BCAST_SMARTCARD_KEY_SIZE, provider, key, prepared ? csb_id : NULL, rand, rand_length, &sek)
          == BCAST_OK);
    code = bcast_smartcard_stkm_open(provider, sek, data, size, lenient, &m.stkm, error);
    drop_smartcard(sek);
    return code;
}

static void refusals(void)
{
    static char line[70000], hex[60000];
    static uint8_t bytes[30000];
    NEED(refusals_file != NULL);
    FILE *file = fopen(refusals_file, "r");
    NEED(file != NULL);
    unsigned lines = 0, refused = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        char operation[16], kind[32], keys[300], verdict[32], offset[16], field[BCAST_PATH_MAX], path[BCAST_PATH_MAX];
        unsigned partial, lenient;
        if (sscanf(line, "%15s %31s %u %u %299s %59999s %31s %15s %127s", operation, kind, &partial, &lenient, keys, hex, verdict,
                   offset, field)
            != 9) {
            CHECK(false); /* not a line of the data file */
            continue;
        }
        lines++;
        if (small && lines % 8 != 0)
            continue;
        const size_t size = unhex(hex, bytes);
        uint8_t *data = malloc(size != 0 ? size : 1); /* of the exact size, so that one byte too many is seen */
        if (data == NULL)
            abort();
        memcpy(data, bytes, size);
        bcast_error error;
        size_t length;
        const int code = run(operation, kind, partial, lenient, keys, data, size, &error);
        free(data);
        bool same = strcmp(code == BCAST_OK ? "ok" : bcast_status_name(code), verdict) == 0 && error.code == code;
        if (same && offset[0] != '-') {
            refused++;
            CHECK(bcast_error_path(&error, path, sizeof path, &length) == BCAST_OK);
            same = error.offset == (uint32_t)strtoul(offset, NULL, 10) && strcmp(length == 0 ? "-" : path, field) == 0;
        }
        if (!same) {
            (void)bcast_error_path(&error, path, sizeof path, &length);
            printf("%s here: %s %u %s\n", line, bcast_status_name(code), error.offset, path);
        }
        CHECK(same);
    }
    CHECK(lines > 3000 && refused > lines / 20);
    (void)fclose(file);
}

const struct test refusal_tests[] = {{"refusals", refusals}, {NULL, NULL}};
