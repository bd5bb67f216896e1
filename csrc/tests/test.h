/* SPDX-License-Identifier: Apache-2.0 */
/* A test is a function; it fails when one of its checks does. */
#ifndef BCAST_TEST_H
#define BCAST_TEST_H

#include <bcast.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The provider that the tests run with now; every test runs once with each. */
extern bcast_provider *provider;
extern const char *refusals_file;
extern bool small; /* fewer random cases: for slow machines (valgrind, qemu) */
extern unsigned rounds;

void check(bool ok, const char *file, int line, const char *what);
#define CHECK(condition) check((condition), __FILE__, __LINE__, #condition)
/* For the rest of a test that would make no sense without it. */
#define NEED(condition)               \
    do {                              \
        const bool ok_ = (condition); \
        CHECK(ok_);                   \
        if (!ok_)                     \
            return;                   \
    } while (0)

/* Bytes out of hexadecimal text; the number of them. */
size_t unhex(const char *text, uint8_t *out);
bool all(const void *data, uint8_t value, size_t length); /* is every byte `value`? */
uint32_t random32(void);
void random_bytes(uint8_t *out, size_t length);

void *storage(size_t size); /* aligned, freed by release() */
void release(void *object);
bcast_drm_key *drm_key(const uint8_t *sek, const uint8_t *sas, const uint8_t *pek, const uint8_t *pas);
/* csb_id NULL: a key that only opens; rand "": the empty RAND. */
bcast_smartcard_key *smartcard_key(const char *sek, const char *csb_id, const char *rand);
bcast_smk *smk_key(const char *smk);
void drop_drm(bcast_drm_key *key);
void drop_smartcard(bcast_smartcard_key *key);
void drop_smk(bcast_smk *key);

/* Random messages that seal. */
void random_drm(bcast_drm_stkm *message, uint8_t *base, uint32_t *base_length);
void random_stkm(bcast_smartcard_stkm *message, uint8_t *base, uint32_t *base_length);
void random_ltkm(bcast_smartcard_ltkm *message, uint8_t *base, uint32_t *base_length);

struct test {
    const char *name;
    void (*run)(void);
};
extern const struct test vector_tests[], refusal_tests[], seal_refusal_tests[], misuse_tests[], fault_tests[],
    identity_tests[]; /* ended by NULL */

#endif
