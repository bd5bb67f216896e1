/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who allocates while messages are sealed and opened: a count of malloc, calloc and realloc calls, by the library that asked.
 * Ours must be none; what libcrypto needs inside a HMAC is reported.
 */
#define _GNU_SOURCE
#include <bcast.h>

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1000 };
static const char *const names[] = {"evp", "ipsec_mb"};
static unsigned long ours, theirs;
static int counting;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

/* The caller's address lies in this program (libbcast.a is linked into it) or in a shared library. */
static void count(const void *caller)
{
    Dl_info info;
    static const void *program;
    if (!counting)
        return;
    counting = 0;
    if (program == NULL && dladdr((const void *)names, &info) != 0)
        program = info.dli_fbase;
    if (dladdr(caller, &info) != 0 && info.dli_fbase == program)
        ours++;
    else
        theirs++;
    counting = 1;
}

void *malloc(size_t size)
{
    count(__builtin_return_address(0));
    return __libc_malloc(size);
}
void *calloc(size_t n, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_realloc(p, size);
}

static void *room(size_t size)
{
    void *p = aligned_alloc(BCAST_ALIGNMENT, (size + 63) / 64 * 64);
    if (p == NULL)
        abort();
    return memset(p, 0, size);
}

static void report(const char *provider, const char *what, unsigned messages)
{
    counting = 0;
    printf("%-9s %-22s ours %lu, libraries %.2f per message\n", provider, what, ours, (double)theirs / messages);
}

static void start(void)
{
    ours = theirs = 0;
    counting = 1;
}

int main(void)
{
    static bcast_drm_seal_job seal[N];
    static bcast_drm_open_job open_jobs[N];
    static bcast_ltkm_seal_job issue[N];
    static bcast_drm_stkm opened[N];
    static uint8_t arena[N * 400];
    unsigned long total = 0;
    const uint8_t raw[64] = {1, 2, 3};
    for (int i = 0; i < 2; i++) {
        bcast_provider *p;
        bcast_drm_key *key;
        bcast_smk *smk;
        size_t used, at = 0, length;
        bcast_error error;
        const bcast_drm_keys keys = {raw, raw + 16, raw + 32, raw + 48};
        bcast_drm_stkm m = {.present = BCAST_DRM_SERVICE | BCAST_DRM_PROGRAMME, .id_length = 4, .material_length = 16};
        bcast_smartcard_ltkm l = {
            .sek_id = {0, 1, 0, 1}, .key_data_type = BCAST_LTKM_KEY_TYPE, .interval_length = 4, .ts_high = 5};
        if (bcast_provider_open(room(BCAST_PROVIDER_SIZE), BCAST_PROVIDER_SIZE, names[i], &p) != BCAST_OK
            || bcast_drm_key_init(room(BCAST_DRM_KEY_SIZE), BCAST_DRM_KEY_SIZE, p, &keys, 3, &key) != BCAST_OK
            || bcast_smk_init(room(BCAST_SMK_SIZE), BCAST_SMK_SIZE, p, raw, &smk) != BCAST_OK)
            continue;
        for (int k = 0; k < N; k++) {
            seal[k] = (bcast_drm_seal_job){.key = key, .message = &m};
            issue[k] = (bcast_ltkm_seal_job){.key = smk, .message = &l};
        }
        start();
        (void)bcast_drm_stkm_seal_batch(p, seal, N, arena, sizeof arena, &used);
        report(names[i], "drm-stkm-seal batch", N);
        total += ours;
        for (int k = 0; k < N; at += seal[k++].length)
            open_jobs[k] =
                (bcast_drm_open_job){.key = key, .data = arena + at, .data_length = seal[k].length, .message = &opened[k]};
        start();
        (void)bcast_drm_stkm_open_batch(p, open_jobs, N);
        report(names[i], "drm-stkm-open batch", N);
        total += ours;
        start();
        for (int k = 0; k < N; k++)
            (void)bcast_drm_stkm_seal(p, key, &m, NULL, 0, arena, sizeof arena, &length, &error);
        report(names[i], "drm-stkm-seal single", N);
        total += ours;
        start();
        (void)bcast_smartcard_ltkm_seal_batch(p, issue, N, arena, sizeof arena, &used);
        report(names[i], "smartcard-ltkm-seal batch", N);
        total += ours;
        bcast_drm_key_wipe(key);
        bcast_smk_wipe(smk);
        bcast_provider_close(p);
    }
    return total != 0;
}
