/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealing and opening.  One message is a batch of one.
 *
 * A batch goes in bursts, a burst in stages: every item is checked and written (or read), then all items are encrypted, then all
 * are authenticated - or, when opening, authenticated before any is decrypted.  A provider thus sees many independent items at
 * once. While an item is written, the keys of later ones are fetched: ten thousand services do not fit in a near cache.
 */
#include "crypto.h"

#include <openssl/crypto.h>

/* Items ahead that are fetched: far enough to hide a third-level cache behind the writing of messages, near enough to stay. */
#define AHEAD 4
#define LINE 64

INLINE void fetch(const void *object, size_t length)
{
#pragma GCC unroll 8
    for (size_t at = 0; at < length; at += LINE)
        __builtin_prefetch((const void *)((uintptr_t)object + at));
}

/* Do two ranges share a byte?  One comparison: a starts less than its length before b, or less than b's length after it. */
INLINE bool overlap(const void *a, size_t a_length, const void *b, size_t b_length)
{
    if (a_length == 0 || b_length == 0)
        return false;
    return (uintptr_t)a - (uintptr_t)b + (a_length - 1) < a_length - 1 + b_length;
}

INLINE void clear_error(bcast_error *error) { *error = (bcast_error){0, BCAST_NO_OFFSET, 0, 0, {0, 0}}; }

__attribute__((cold)) static bool fail(bcast_error *error, int code, int field)
{
    *error = (bcast_error){code, BCAST_NO_OFFSET, (uint16_t)field, BCAST_S_MESSAGE, {0, 0}};
    return false;
}

/* The arguments of a batch call as such. */
static int batch_status(const bcast_provider *p, const void *jobs, size_t count)
{
    if (p == NULL || (jobs == NULL && count != 0) || count > UINT32_MAX)
        return BCAST_E_ARGUMENT;
    return (uintptr_t)p % BCAST_ALIGNMENT == 0 && provider_ready(p) ? BCAST_OK : BCAST_E_NOT_READY;
}

/* --- what every sealing has in common ---------------------------------------------------------------------------------------- */

/* Where a batch writes: its arena, how much of it is used, where the burst at hand began. */
typedef struct sink {
    uint8_t *arena;
    size_t room, at, start, done;
} sink;

static int sink_open(sink *s, const bcast_provider *p, const void *jobs, size_t count, size_t job_size, uint8_t *arena, size_t room,
                     size_t *used)
{
    if (used == NULL)
        return BCAST_E_ARGUMENT;
    *used = 0;
    const int status = batch_status(p, jobs, count);
    if (status != BCAST_OK)
        return status;
    room = room < UINT32_MAX ? room : UINT32_MAX; /* offsets are 32 bits */
    if (arena != NULL && (overlap(arena, room, jobs, count * job_size) || overlap(arena, room, p, sizeof *p)))
        return BCAST_E_OVERLAP;
    *s = (sink){.arena = arena, .room = room};
    return BCAST_OK;
}

INLINE bool admit(const bcast_provider *p, bcast_error *error, const key_head *key, uint64_t magic, const void *message,
                  const uint8_t *base, uint32_t base_length)
{
    clear_error(error);
    if (UNLIKELY(key == NULL || message == NULL || (base == NULL && base_length != 0)))
        return fail(error, BCAST_E_ARGUMENT, 0);
    return LIKELY(key_ready(p, key, magic)) || fail(error, BCAST_E_NOT_READY, 0);
}

/* Room for `size` bytes that overlap nothing the job reads. */
INLINE bool reserve(const sink *s, uint32_t size, const void *message, size_t message_size, const source *src, const void *key,
                    size_t key_size)
{
    if (UNLIKELY(s->room - s->at < size))
        return fail(src->error, BCAST_E_ROOM, 0);
    const uint8_t *out = s->arena + s->at;
    return LIKELY(!overlap(out, size, message, message_size) && !overlap(out, size, src->base, src->base_length)
                  && !overlap(out, size, key, key_size))
           || fail(src->error, BCAST_E_OVERLAP, 0);
}

/* The library failed: what the burst wrote goes away ... */
__attribute__((cold)) static void roll_back(sink *s)
{
    OPENSSL_cleanse(s->arena + s->start, s->at - s->start);
    s->at = s->start;
}

/* ... and so do its jobs; 1 for one that was done. */
__attribute__((cold)) static size_t undo(uint32_t *length, bcast_error *error)
{
    if (error->code != BCAST_OK)
        return 0;
    *length = 0;
    fail(error, BCAST_E_CRYPTO, 0);
    return 1;
}

static int sink_close(const sink *s, size_t count, size_t *used)
{
    *used = s->at;
    return s->done == count ? BCAST_OK : BCAST_E_SOME;
}

/* A call for one message: prepare `error` and `length`, and tell whether the arguments can be used. */
static bool one_status(const bcast_provider *p, const void *input, size_t input_length, size_t *length, bcast_error *error)
{
    clear_error(error);
    if (length != NULL)
        *length = 0;
    if (p == NULL || length == NULL || input_length > BCAST_INPUT_MAX || (input == NULL && input_length != 0))
        return fail(error, BCAST_E_ARGUMENT, 0);
    return true;
}

/* ... and its end.  `status`: what the batch of one gave. */
static int one_result(int status, size_t used, const bcast_error *result, size_t *length, bcast_error *error)
{
    if (status != BCAST_OK && status != BCAST_E_SOME) {
        fail(error, status, 0);
        return status;
    }
    *error = *result;
    *length = used;
    return result->code;
}

/* --- DRM STKM: seal ---------------------------------------------------------------------------------------------------------- */

/* What sealing touches of a context that has a programme; one without has its schedule behind it. */
#define DRM_HOT offsetof(struct bcast_drm_key, sek_encrypt)

/* The key that a message needs and the context lacks, in the order SEK, SAS, PEK, PAS; 0: none. */
INLINE int drm_missing(uint32_t held, unsigned present)
{
    const uint32_t needed =
        (present & BCAST_DRM_SERVICE ? HAS_SEK | HAS_SAS : 0U) | (present & BCAST_DRM_PROGRAMME ? HAS_PEK | HAS_PAS : 0U);
    const uint32_t missing = needed & ~held;
    if (LIKELY(missing == 0))
        return 0;
    return missing & HAS_SEK   ? BCAST_F_KEY_SEK
           : missing & HAS_SAS ? BCAST_F_KEY_SAS
           : missing & HAS_PEK ? BCAST_F_KEY_PEK
                               : BCAST_F_KEY_PAS;
}

int bcast_drm_stkm_seal_batch(bcast_provider *p, bcast_drm_seal_job *jobs, size_t count, uint8_t *arena, size_t room, size_t *used)
{
    sink s;
    mjd_bcd clock = {.time = NO_TIME};
    const int status = sink_open(&s, p, jobs, count, sizeof *jobs, arena, room, used);
    if (status != BCAST_OK)
        return status;
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t ciphers = 0, programmes = 0, services = 0;
        s.start = s.at;
        for (size_t i = first; i < last; i++) {
            bcast_drm_seal_job *job = &jobs[i];
            const struct bcast_drm_key *key = job->key;
            const bcast_drm_stkm *m = job->message;
            if (i + AHEAD < count) {
                fetch(jobs[i + AHEAD].message, sizeof *m);
                fetch(jobs[i + AHEAD].key, DRM_HOT);
            }
            job->offset = (uint32_t)s.at;
            job->length = 0;
            if (!admit(p, &job->error, (const key_head *)key, DRM_KEY_MAGIC, m, job->base, job->base_length))
                continue;
            const source src = {job->base, job->base_length, &job->error};
            const uint32_t size = drm_measure(&src, m);
            if (UNLIKELY(size == 0))
                continue;
            if (LIKELY(arena != NULL)) {
                const int missing = drm_missing(key->held, m->present);
                if (UNLIKELY(missing != 0 || !(key->use & BCAST_USE_SEAL))) {
                    fail(&job->error, missing != 0 ? BCAST_E_KEY_UNAVAILABLE : BCAST_E_USE, missing);
                    continue;
                }
                if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
                    continue;
                drm_places places;
                uint8_t *out = arena + s.at;
                drm_write(out, m, job->base, key->encrypted_PEK, &clock, &places);
                const aes_key *tkm = m->present & BCAST_DRM_PROGRAMME ? &key->pek_encrypt : &key->sek_encrypt;
                p->cbc[ciphers++] = (cbc_op){tkm, out + places.material, m->material_length};
                if (places.next_material != 0)
                    p->cbc[ciphers++] = (cbc_op){tkm, out + places.next_material, m->material_length};
                if (m->present & BCAST_DRM_PROGRAMME) {
                    const uint32_t at = places.programme_MAC;
                    p->mac[programmes++] = (mac_op){.key = &key->pak, .data = out, .out = out + at, .length = at};
                }
                if (m->present & BCAST_DRM_SERVICE) {
                    const uint32_t at = places.service_MAC;
                    p->mac[BURST + services++] = (mac_op){.key = &key->sak, .data = out, .out = out + at, .length = at};
                }
            }
            job->length = size;
            s.at += size;
            s.done++;
        }
        const crypto *c = p->crypto;
        if (ciphers != 0
            && UNLIKELY(!(c->cbc_encrypt(p, p->cbc, ciphers) && c->hmac(p, p->mac, programmes, BCAST_DRM_MAC_LENGTH)
                          && c->hmac(p, p->mac + BURST, services, BCAST_DRM_MAC_LENGTH)))) { /* service_MAC covers programme_MAC */
            roll_back(&s);
            for (size_t i = first; i < last; i++)
                s.done -= undo(&jobs[i].length, &jobs[i].error);
        }
    }
    return sink_close(&s, count, used);
}

int bcast_drm_stkm_seal(bcast_provider *p, const bcast_drm_key *key, const bcast_drm_stkm *message, const uint8_t *base,
                        size_t base_length, uint8_t *out, size_t room, size_t *length, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!one_status(p, base, base_length, length, error))
        return error->code;
    bcast_drm_seal_job job = {.key = key, .message = message, .base = base, .base_length = (uint32_t)base_length};
    size_t used;
    const int status = bcast_drm_stkm_seal_batch(p, &job, 1, out, room, &used);
    if (status == BCAST_E_SOME && job.error.code == BCAST_E_ROOM)
        used = drm_measure(&(source){base, base_length, &unused}, message);
    return one_result(status, used, &job.error, length, error);
}

int bcast_drm_stkm_partial(const bcast_drm_stkm *m, const uint8_t *base, size_t base_length, uint8_t *out, size_t room,
                           size_t *length, bcast_error *error)
{
    static const uint8_t zeros[BCAST_KEY_LENGTH];
    bcast_error unused;
    error = error != NULL ? error : &unused;
    clear_error(error);
    if (length != NULL)
        *length = 0;
    if (m == NULL || length == NULL || (base == NULL && base_length != 0) || base_length > BCAST_INPUT_MAX) {
        fail(error, BCAST_E_ARGUMENT, 0);
        return error->code;
    }
    const source src = {base, base_length, error};
    const uint32_t size = drm_measure(&src, m);
    if (size == 0)
        return error->code;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    const sink s = {.arena = out, .room = room};
    if (!reserve(&s, size, m, sizeof *m, &src, NULL, 0))
        return error->code;
    drm_places places;
    drm_write(out, m, base, zeros, &(mjd_bcd){.time = NO_TIME}, &places);
    return BCAST_OK;
}

/* --- opening: what is common ------------------------------------------------------------------------------------------------- */

/* What every opening job must bring.  The message is cleared. */
static inline bool admit_open(const bcast_provider *p, bcast_error *error, const key_head *key, uint64_t magic, const uint8_t *data,
                              uint32_t data_length, uint32_t lenient, void *message, size_t message_size)
{
    clear_error(error);
    if (UNLIKELY(message == NULL))
        return fail(error, BCAST_E_ARGUMENT, 0);
    if (UNLIKELY(overlap(message, message_size, data, data_length)))
        return fail(error, BCAST_E_OVERLAP, 0);
    memset(message, 0, message_size);
    if (UNLIKELY(key == NULL || (data == NULL && data_length != 0) || data_length > BCAST_INPUT_MAX || lenient > 7))
        return fail(error, BCAST_E_ARGUMENT, 0);
    return LIKELY(key_ready(p, key, magic)) || fail(error, BCAST_E_NOT_READY, 0);
}

/* Arguments of a decoder; the message is cleared. */
static bool admit_decode(const uint8_t *data, size_t data_length, uint32_t flag, uint32_t lenient, void *message,
                         size_t message_size, bcast_error *error)
{
    clear_error(error);
    if (message == NULL)
        return fail(error, BCAST_E_ARGUMENT, 0);
    if (overlap(message, message_size, data, data_length))
        return fail(error, BCAST_E_OVERLAP, 0);
    memset(message, 0, message_size);
    return ((data != NULL || data_length == 0) && data_length <= BCAST_INPUT_MAX && flag <= 1 && lenient <= 7)
           || fail(error, BCAST_E_ARGUMENT, 0);
}

/* The code of a decoder, whose message is cleared when it is not 0. */
static int decoded(bool ok, void *message, size_t message_size, const bcast_error *error)
{
    if (!ok)
        memset(message, 0, message_size);
    return error->code;
}

static void wipe_failed(void *message, size_t message_size, bcast_error *error, int code, int field)
{
    OPENSSL_cleanse(message, message_size);
    fail(error, code, field);
}

/* --- DRM STKM: open ---------------------------------------------------------------------------------------------------------- */

/* CBC with a zero IV under a PEK that came with the message. */
static bool decrypt_under(bcast_provider *p, const uint8_t pek[16], uint8_t *material, uint32_t length)
{
    uint8_t first[AES_BLOCK];
    memcpy(first, material, sizeof first);
    if (!evp_block_once(p, pek, false, material, length))
        return false;
    for (uint32_t i = AES_BLOCK; i < length; i++)
        material[i] ^= first[i - AES_BLOCK];
    return true;
}

/* Which key decrypts the material, once the MACs are right.  NULL with code 0: encrypted_PEK, to be unwrapped. */
static const aes_key *drm_material_key(const struct bcast_drm_key *key, const bcast_drm_stkm *m, const uint8_t *data, int *code,
                                       int *field)
{
    *code = *field = 0;
    if (!(m->present & BCAST_DRM_PROGRAMME) || (m->encrypted_PEK_at != 0 && (key->held & HAS_SEK))) {
        if (!(key->held & HAS_SEK)) {
            *code = BCAST_E_KEY_UNAVAILABLE;
            *field = BCAST_F_KEY_SEK;
            return NULL;
        }
        if (!(m->present & BCAST_DRM_PROGRAMME))
            return &key->sek_decrypt;
        if (!(key->held & HAS_PEK))
            return NULL;
        if (!same_mac(key->encrypted_PEK, data + m->encrypted_PEK_at, BCAST_KEY_LENGTH))
            *code = BCAST_E_INTEGRITY;
        return &key->pek_decrypt;
    }
    if (!(key->held & HAS_PEK)) {
        *code = BCAST_E_KEY_UNAVAILABLE;
        *field = BCAST_F_KEY_PEK;
    }
    return &key->pek_decrypt;
}

/* After the MACs: compare, choose keys, decrypt.  Returns how many were opened. */
static size_t drm_open_burst(bcast_provider *p, bcast_drm_open_job *jobs, uint32_t n, bool authenticated)
{
    uint32_t ciphers = 0;
    size_t done = 0;
    for (uint32_t i = 0; i < n; i++) {
        item *it = &p->items[i];
        bcast_drm_open_job *job = &jobs[it->job];
        bcast_drm_stkm *m = job->message;
        bool ok = true;
        int code = BCAST_OK, field = 0;
        for (uint32_t k = 0; k < it->count; k++) {
            const mac_op *op = &p->mac[it->mac + k];
            ok &= same_mac(op->out, op->data + op->length, BCAST_DRM_MAC_LENGTH);
        }
        const aes_key *key = NULL;
        if (!authenticated)
            code = BCAST_E_CRYPTO;
        else if (!ok)
            code = BCAST_E_INTEGRITY;
        else
            key = drm_material_key(job->key, m, job->data, &code, &field);
        if (UNLIKELY(code != BCAST_OK)) {
            wipe_failed(m, sizeof *m, &job->error, code, field);
            it->count = 0;
            continue;
        }
        if (key != NULL) {
            p->cbc[ciphers++] = (cbc_op){key, m->traffic_key_material, m->material_length};
            if (m->present & BCAST_DRM_NEXT)
                p->cbc[ciphers++] = (cbc_op){key, m->next_traffic_key_material, m->material_length};
        } else {
            uint8_t pek[BCAST_KEY_LENGTH];
            memcpy(pek, job->data + m->encrypted_PEK_at, sizeof pek);
            const cbc_op unwrap = {&job->key->sek_decrypt, pek, sizeof pek};
            ok = p->crypto->cbc_decrypt(p, &unwrap, 1) && decrypt_under(p, pek, m->traffic_key_material, m->material_length)
                 && (!(m->present & BCAST_DRM_NEXT) || decrypt_under(p, pek, m->next_traffic_key_material, m->material_length));
            OPENSSL_cleanse(pek, sizeof pek);
            if (!ok) {
                wipe_failed(m, sizeof *m, &job->error, BCAST_E_CRYPTO, 0);
                it->count = 0;
                continue;
            }
        }
        done++;
    }
    if (ciphers != 0 && !p->crypto->cbc_decrypt(p, p->cbc, ciphers)) {
        for (uint32_t i = 0; i < n; i++)
            if (p->items[i].count != 0)
                wipe_failed(jobs[p->items[i].job].message, sizeof(bcast_drm_stkm), &jobs[p->items[i].job].error, BCAST_E_CRYPTO, 0);
        return 0;
    }
    return done;
}

int bcast_drm_stkm_open_batch(bcast_provider *p, bcast_drm_open_job *jobs, size_t count)
{
    const int status = batch_status(p, jobs, count);
    if (status != BCAST_OK)
        return status;
    size_t done = 0;
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t n = 0, macs = 0;
        for (size_t i = first; i < last; i++) {
            bcast_drm_open_job *job = &jobs[i];
            const struct bcast_drm_key *key = job->key;
            bcast_drm_stkm *m = job->message;
            if (i + AHEAD < count) {
                fetch(jobs[i + AHEAD].data, jobs[i + AHEAD].data_length < 256 ? jobs[i + AHEAD].data_length : 256);
                fetch(jobs[i + AHEAD].key, offsetof(struct bcast_drm_key, pek_encrypt));
                fetch(jobs[i + AHEAD].message, sizeof *m);
            }
            if (!admit_open(p, &job->error, (const key_head *)key, DRM_KEY_MAGIC, job->data, job->data_length, job->lenient, m,
                            sizeof *m))
                continue;
            reader r = reading(job->data, job->data_length, job->lenient, &job->error);
            if (UNLIKELY(!drm_read(&r, false, m))) {
                memset(m, 0, sizeof *m);
                continue;
            }
            item it = {.job = (uint32_t)i, .mac = macs};
            if (m->programme_MAC_at != 0 && (key->held & HAS_PAS))
                p->mac[macs + it.count++] = (mac_op){.key = &key->pak, .data = job->data, .length = m->programme_MAC_at};
            if (m->service_MAC_at != 0 && (key->held & HAS_SAS))
                p->mac[macs + it.count++] = (mac_op){.key = &key->sak, .data = job->data, .length = m->service_MAC_at};
            if (UNLIKELY(it.count == 0 || !(key->use & BCAST_USE_OPEN))) {
                wipe_failed(m, sizeof *m, &job->error, it.count == 0 ? BCAST_E_KEY_UNAVAILABLE : BCAST_E_USE,
                            it.count != 0            ? 0
                            : m->service_MAC_at == 0 ? BCAST_F_KEY_PAS
                                                     : BCAST_F_KEY_SAS);
                continue;
            }
            for (uint32_t k = 0; k < it.count; k++, macs++)
                p->mac[macs].out = p->tags[macs];
            p->items[n++] = it;
        }
        if (n != 0)
            done += drm_open_burst(p, jobs, n, p->crypto->hmac(p, p->mac, macs, BCAST_DRM_MAC_LENGTH));
    }
    return done == count ? BCAST_OK : BCAST_E_SOME;
}

int bcast_drm_stkm_open(bcast_provider *p, const bcast_drm_key *key, const uint8_t *data, size_t data_length, uint32_t lenient,
                        bcast_drm_stkm *message, bcast_error *error)
{
    bcast_error unused;
    size_t length;
    error = error != NULL ? error : &unused;
    if (!one_status(p, data, data_length, &length, error))
        return error->code;
    bcast_drm_open_job job = {
        .key = key, .data = data, .message = message, .data_length = (uint32_t)data_length, .lenient = lenient};
    return one_result(bcast_drm_stkm_open_batch(p, &job, 1), 0, &job.error, &length, error);
}

int bcast_drm_stkm_decode(const uint8_t *data, size_t data_length, uint32_t partial, uint32_t lenient, bcast_drm_stkm *message,
                          bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!admit_decode(data, data_length, partial, lenient, message, sizeof *message, error))
        return error->code;
    reader r = reading(data, data_length, lenient, error);
    return decoded(drm_read(&r, partial != 0, message), message, sizeof *message, error);
}

/* --- Smartcard STKM ---------------------------------------------------------------------------------------------------------- */

int bcast_smartcard_stkm_seal_batch(bcast_provider *p, bcast_smartcard_seal_job *jobs, size_t count, uint8_t *arena, size_t room,
                                    size_t *used)
{
    sink s;
    const int status = sink_open(&s, p, jobs, count, sizeof *jobs, arena, room, used);
    if (status != BCAST_OK)
        return status;
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t n = 0;
        s.start = s.at;
        for (size_t i = first; i < last; i++) {
            bcast_smartcard_seal_job *job = &jobs[i];
            const struct bcast_smartcard_key *key = job->key;
            const bcast_smartcard_stkm *m = job->message;
            if (i + AHEAD < count) {
                fetch(jobs[i + AHEAD].message, sizeof *m);
                fetch(jobs[i + AHEAD].key, sizeof *key);
            }
            job->offset = (uint32_t)s.at;
            job->length = 0;
            if (!admit(p, &job->error, (const key_head *)key, SMARTCARD_KEY_MAGIC, m, job->base, job->base_length))
                continue;
            const source src = {job->base, job->base_length, &job->error};
            const uint32_t size = stkm_measure(&src, m, false);
            if (UNLIKELY(size == 0))
                continue;
            if (LIKELY(arena != NULL)) {
                if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
                    continue;
                uint8_t *out = arena + s.at;
                const uint32_t at = stkm_write(out, m, job->base, key->csb_id, false);
                ctr_op *cipher = &p->ctr[n];
                cipher->key = &key->encr;
                cipher->data = out + at;
                cipher->length = m->has_salt ? TEK_SALT_DATA : TEK_DATA;
                mikey_counter(cipher->iv, key->iv, m->counter);
                const uint32_t covered = size - BCAST_MIKEY_MAC_LENGTH;
                p->mac[n++] = (mac_op){.key = &key->auth, .data = out, .out = out + covered, .length = covered};
            }
            job->length = size;
            s.at += size;
            s.done++;
        }
        if (n != 0 && UNLIKELY(!(p->crypto->ctr(p, p->ctr, n) && p->crypto->hmac(p, p->mac, n, BCAST_MIKEY_MAC_LENGTH)))) {
            roll_back(&s);
            for (size_t i = first; i < last; i++)
                s.done -= undo(&jobs[i].length, &jobs[i].error);
        }
    }
    return sink_close(&s, count, used);
}

int bcast_smartcard_stkm_seal(bcast_provider *p, const bcast_smartcard_key *key, const bcast_smartcard_stkm *message,
                              const uint8_t *base, size_t base_length, uint8_t *out, size_t room, size_t *length,
                              bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!one_status(p, base, base_length, length, error))
        return error->code;
    bcast_smartcard_seal_job job = {.key = key, .message = message, .base = base, .base_length = (uint32_t)base_length};
    size_t used;
    const int status = bcast_smartcard_stkm_seal_batch(p, &job, 1, out, room, &used);
    if (status == BCAST_E_SOME && job.error.code == BCAST_E_ROOM)
        used = stkm_measure(&(source){base, base_length, &unused}, message, false);
    return one_result(status, used, &job.error, length, error);
}

int bcast_smartcard_stkm_partial(const bcast_smartcard_stkm *m, const uint8_t *base, size_t base_length, uint8_t *out, size_t room,
                                 size_t *length, bcast_error *error)
{
    static const uint8_t no_csb_id[4];
    bcast_error unused;
    error = error != NULL ? error : &unused;
    clear_error(error);
    if (length != NULL)
        *length = 0;
    if (m == NULL || length == NULL || (base == NULL && base_length != 0) || base_length > BCAST_INPUT_MAX) {
        fail(error, BCAST_E_ARGUMENT, 0);
        return error->code;
    }
    const source src = {base, base_length, error};
    const uint32_t size = stkm_measure(&src, m, true);
    if (size == 0)
        return error->code;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    const sink s = {.arena = out, .room = room};
    if (!reserve(&s, size, m, sizeof *m, &src, NULL, 0))
        return error->code;
    (void)stkm_write(out, m, base, no_csb_id, true);
    return BCAST_OK;
}

static size_t stkm_open_burst(bcast_provider *p, bcast_smartcard_open_job *jobs, uint32_t n, bool authenticated)
{
    size_t done = 0;
    uint32_t opened = 0;
    for (uint32_t i = 0; i < n; i++) {
        const item it = p->items[i];
        bcast_smartcard_open_job *job = &jobs[it.job];
        bcast_smartcard_stkm *m = job->message;
        if (UNLIKELY(!authenticated || !same_mac(p->tags[i], job->data + m->mac_at, BCAST_MIKEY_MAC_LENGTH))) {
            wipe_failed(m, sizeof *m, &job->error, authenticated ? BCAST_E_INTEGRITY : BCAST_E_CRYPTO, 0);
            continue;
        }
        uint8_t *clear = p->clear[opened];
        memcpy(clear, job->data + m->encr_data.offset, m->encr_data.length);
        p->ctr[opened] = (ctr_op){.key = &job->key->encr, .data = clear, .length = m->encr_data.length};
        mikey_counter(p->ctr[opened].iv, job->key->iv, m->counter);
        p->items[opened++] = it;
    }
    const bool decrypted = opened == 0 || p->crypto->ctr(p, p->ctr, opened);
    for (uint32_t i = 0; i < opened; i++) {
        bcast_smartcard_open_job *job = &jobs[p->items[i].job];
        bcast_smartcard_stkm *m = job->message;
        if (UNLIKELY(!decrypted))
            wipe_failed(m, sizeof *m, &job->error, BCAST_E_CRYPTO, 0);
        else if (LIKELY(stkm_key_read(p->clear[i], m->encr_data.length, m->encr_data.offset, job->lenient, m, &job->error)))
            done++;
        else
            OPENSSL_cleanse(m, sizeof *m);
    }
    OPENSSL_cleanse(p->clear, opened * sizeof *p->clear);
    return done;
}

int bcast_smartcard_stkm_open_batch(bcast_provider *p, bcast_smartcard_open_job *jobs, size_t count)
{
    const int status = batch_status(p, jobs, count);
    if (status != BCAST_OK)
        return status;
    size_t done = 0;
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t n = 0;
        for (size_t i = first; i < last; i++) {
            bcast_smartcard_open_job *job = &jobs[i];
            const struct bcast_smartcard_key *key = job->key;
            bcast_smartcard_stkm *m = job->message;
            if (i + AHEAD < count) {
                fetch(jobs[i + AHEAD].data, jobs[i + AHEAD].data_length < 256 ? jobs[i + AHEAD].data_length : 256);
                fetch(jobs[i + AHEAD].key, sizeof *key);
                fetch(jobs[i + AHEAD].message, sizeof *m);
            }
            if (!admit_open(p, &job->error, (const key_head *)key, SMARTCARD_KEY_MAGIC, job->data, job->data_length, job->lenient,
                            m, sizeof *m))
                continue;
            reader r = reading(job->data, job->data_length, job->lenient, &job->error);
            if (UNLIKELY(!stkm_read(&r, false, m))) {
                OPENSSL_cleanse(m, sizeof *m); /* a partial one has its key in clear */
                continue;
            }
            if (UNLIKELY(m->partial)) { /* rules R11 */
                const uint32_t at = m->encr_data.offset - 3;
                OPENSSL_cleanse(m, sizeof *m);
                job->error = (bcast_error){BCAST_E_UNSUPPORTED, at, BCAST_F_ENCR_ALG, BCAST_S_KEMAC, {0, 0}};
                continue;
            }
            if (UNLIKELY(memcmp(key->csb_id, m->csb_id, 4) != 0)) { /* a STKM under another SEK (smartcard-profile 4.4) */
                wipe_failed(m, sizeof *m, &job->error, BCAST_E_INTEGRITY, 0);
                continue;
            }
            p->mac[n] = (mac_op){.key = &key->auth, .data = job->data, .out = p->tags[n], .length = m->mac_at};
            p->items[n++].job = (uint32_t)i;
        }
        if (n != 0)
            done += stkm_open_burst(p, jobs, n, p->crypto->hmac(p, p->mac, n, BCAST_MIKEY_MAC_LENGTH));
    }
    return done == count ? BCAST_OK : BCAST_E_SOME;
}

int bcast_smartcard_stkm_open(bcast_provider *p, const bcast_smartcard_key *key, const uint8_t *data, size_t data_length,
                              uint32_t lenient, bcast_smartcard_stkm *message, bcast_error *error)
{
    bcast_error unused;
    size_t length;
    error = error != NULL ? error : &unused;
    if (!one_status(p, data, data_length, &length, error))
        return error->code;
    bcast_smartcard_open_job job = {
        .key = key, .data = data, .message = message, .data_length = (uint32_t)data_length, .lenient = lenient};
    return one_result(bcast_smartcard_stkm_open_batch(p, &job, 1), 0, &job.error, &length, error);
}

int bcast_smartcard_stkm_decode(const uint8_t *data, size_t data_length, uint32_t partial, uint32_t lenient,
                                bcast_smartcard_stkm *message, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!admit_decode(data, data_length, partial, lenient, message, sizeof *message, error))
        return error->code;
    reader r = reading(data, data_length, lenient, error);
    return decoded(stkm_read(&r, partial != 0, message), message, sizeof *message, error);
}

/* --- Smartcard LTKM ---------------------------------------------------------------------------------------------------------- */

/* The three keys of each of the `n` messages whose labels stand in p->labels; false when the library failed. */
static void make_labels(bcast_provider *p, uint32_t i, const uint8_t csb_id[4], const uint8_t rand[16])
{
    for (uint32_t k = 0; k < 3; k++)
        mikey_label(p->labels[3 * i + k].label, (int)k, csb_id, rand);
}

static void wipe_derived(bcast_provider *p, uint32_t n)
{
    OPENSSL_cleanse(p->labels, (size_t)3 * n * sizeof *p->labels);
    OPENSSL_cleanse(p->derived, (size_t)3 * n * sizeof *p->derived);
}

int bcast_smartcard_ltkm_seal_batch(bcast_provider *p, bcast_ltkm_seal_job *jobs, size_t count, uint8_t *arena, size_t room,
                                    size_t *used)
{
    sink s;
    const mac_key *keys[BURST];
    struct {
        uint8_t *out;
        uint32_t covered;
    } written[BURST];
    const int status = sink_open(&s, p, jobs, count, sizeof *jobs, arena, room, used);
    if (status != BCAST_OK)
        return status;
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t n = 0;
        s.start = s.at;
        for (size_t i = first; i < last; i++) {
            bcast_ltkm_seal_job *job = &jobs[i];
            const struct bcast_smk *key = job->key;
            const bcast_smartcard_ltkm *m = job->message;
            if (i + AHEAD < count) {
                fetch(jobs[i + AHEAD].message, sizeof *m);
                fetch(jobs[i + AHEAD].key, sizeof *key);
                fetch(jobs[i + AHEAD].base, 64);
            }
            job->offset = (uint32_t)s.at;
            job->length = 0;
            if (!admit(p, &job->error, (const key_head *)key, SMK_MAGIC, m, job->base, job->base_length))
                continue;
            const source src = {job->base, job->base_length, &job->error};
            const uint32_t size = ltkm_measure(&src, m);
            if (UNLIKELY(size == 0))
                continue;
            if (LIKELY(arena != NULL)) {
                if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
                    continue;
                uint8_t *out = arena + s.at;
                const uint32_t at = ltkm_write(out, m, job->base), covered = size - BCAST_MIKEY_MAC_LENGTH;
                make_labels(p, n, m->csb_id, m->rand);
                keys[n] = &key->mac;
                /* The keys of these two come out of the PRF, which needs p->mac. */
                p->ctr[n] = (ctr_op){.raw = p->derived[3 * n + PSK_ENCR], .data = out + at, .length = SEK_DATA};
                store_u32(p->ctr[n].iv + 2, load_u32(m->csb_id));
                store_u32(p->ctr[n].iv + 10, m->counter);
                written[n].out = out;
                written[n++].covered = covered;
            }
            job->length = size;
            s.at += size;
            s.done++;
        }
        if (n == 0)
            continue;
        bool ok = mikey_prf_burst(p, keys, n);
        for (uint32_t i = 0; ok && i < n; i++) {
            for (uint32_t k = 0; k < 14; k++) /* CSB ID and COUNTER are there already (RFC 3830 4.2.3) */
                p->ctr[i].iv[k] ^= p->derived[3 * i + PSK_SALT][k];
            p->mac[i] = (mac_op){.raw = p->derived[3 * i + PSK_AUTH],
                                 .data = written[i].out,
                                 .out = written[i].out + written[i].covered,
                                 .length = written[i].covered};
        }
        ok = ok && p->crypto->ctr_once(p, p->ctr, n) && p->crypto->hmac_once(p, p->mac, n, BCAST_MIKEY_MAC_LENGTH);
        wipe_derived(p, n);
        if (UNLIKELY(!ok)) {
            roll_back(&s);
            for (size_t i = first; i < last; i++)
                s.done -= undo(&jobs[i].length, &jobs[i].error);
        }
    }
    return sink_close(&s, count, used);
}

int bcast_smartcard_ltkm_seal(bcast_provider *p, const bcast_smk *key, const bcast_smartcard_ltkm *message, const uint8_t *base,
                              size_t base_length, uint8_t *out, size_t room, size_t *length, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!one_status(p, base, base_length, length, error))
        return error->code;
    bcast_ltkm_seal_job job = {.key = key, .message = message, .base = base, .base_length = (uint32_t)base_length};
    size_t used;
    const int status = bcast_smartcard_ltkm_seal_batch(p, &job, 1, out, room, &used);
    if (status == BCAST_E_SOME && job.error.code == BCAST_E_ROOM)
        used = ltkm_measure(&(source){base, base_length, &unused}, message);
    return one_result(status, used, &job.error, length, error);
}

static size_t ltkm_open_burst(bcast_provider *p, bcast_ltkm_open_job *jobs, uint32_t n, const mac_key *const *keys)
{
    size_t done = 0;
    uint32_t opened = 0;
    bool ok = mikey_prf_burst(p, keys, n);
    for (uint32_t i = 0; ok && i < n; i++) {
        const bcast_ltkm_open_job *job = &jobs[p->items[i].job];
        p->mac[i] =
            (mac_op){.raw = p->derived[3 * i + PSK_AUTH], .data = job->data, .out = p->tags[i], .length = job->message->mac_at};
    }
    ok = ok && p->crypto->hmac_once(p, p->mac, n, BCAST_MIKEY_MAC_LENGTH);
    for (uint32_t i = 0; i < n; i++) {
        const item it = p->items[i];
        bcast_ltkm_open_job *job = &jobs[it.job];
        bcast_smartcard_ltkm *m = job->message;
        if (UNLIKELY(!ok || !same_mac(p->tags[i], job->data + m->mac_at, BCAST_MIKEY_MAC_LENGTH))) {
            wipe_failed(m, sizeof *m, &job->error, ok ? BCAST_E_INTEGRITY : BCAST_E_CRYPTO, 0);
            continue;
        }
        uint8_t *clear = p->clear[opened], iv[AES_BLOCK];
        memcpy(clear, job->data + m->encr_data.offset, m->encr_data.length);
        p->ctr[opened] = (ctr_op){.raw = p->derived[3 * i + PSK_ENCR], .data = clear, .length = m->encr_data.length};
        mikey_iv(iv, p->derived[3 * i + PSK_SALT], m->csb_id);
        mikey_counter(p->ctr[opened].iv, iv, m->counter);
        p->items[opened++] = it;
    }
    ok = ok && (opened == 0 || p->crypto->ctr_once(p, p->ctr, opened));
    for (uint32_t i = 0; i < opened; i++) {
        bcast_ltkm_open_job *job = &jobs[p->items[i].job];
        bcast_smartcard_ltkm *m = job->message;
        if (UNLIKELY(!ok))
            wipe_failed(m, sizeof *m, &job->error, BCAST_E_CRYPTO, 0);
        else if (LIKELY(ltkm_key_read(p->clear[i], m->encr_data.length, m->encr_data.offset, job->lenient, m, &job->error)))
            done++;
        else
            OPENSSL_cleanse(m, sizeof *m);
    }
    OPENSSL_cleanse(p->clear, opened * sizeof *p->clear);
    wipe_derived(p, n);
    return done;
}

int bcast_smartcard_ltkm_open_batch(bcast_provider *p, bcast_ltkm_open_job *jobs, size_t count)
{
    const int status = batch_status(p, jobs, count);
    if (status != BCAST_OK)
        return status;
    size_t done = 0;
    const mac_key *keys[BURST];
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t n = 0;
        for (size_t i = first; i < last; i++) {
            bcast_ltkm_open_job *job = &jobs[i];
            bcast_smartcard_ltkm *m = job->message;
            if (!admit_open(p, &job->error, (const key_head *)job->key, SMK_MAGIC, job->data, job->data_length, job->lenient, m,
                            sizeof *m))
                continue;
            reader r = reading(job->data, job->data_length, job->lenient, &job->error);
            if (UNLIKELY(!ltkm_read(&r, m))) {
                memset(m, 0, sizeof *m);
                continue;
            }
            make_labels(p, n, m->csb_id, m->rand);
            keys[n] = &job->key->mac;
            p->items[n++].job = (uint32_t)i;
        }
        if (n != 0)
            done += ltkm_open_burst(p, jobs, n, keys);
    }
    return done == count ? BCAST_OK : BCAST_E_SOME;
}

int bcast_smartcard_ltkm_open(bcast_provider *p, const bcast_smk *key, const uint8_t *data, size_t data_length, uint32_t lenient,
                              bcast_smartcard_ltkm *message, bcast_error *error)
{
    bcast_error unused;
    size_t length;
    error = error != NULL ? error : &unused;
    if (!one_status(p, data, data_length, &length, error))
        return error->code;
    bcast_ltkm_open_job job = {
        .key = key, .data = data, .message = message, .data_length = (uint32_t)data_length, .lenient = lenient};
    return one_result(bcast_smartcard_ltkm_open_batch(p, &job, 1), 0, &job.error, &length, error);
}

int bcast_smartcard_ltkm_decode(const uint8_t *data, size_t data_length, uint32_t lenient, bcast_smartcard_ltkm *message,
                                bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!admit_decode(data, data_length, 0, lenient, message, sizeof *message, error))
        return error->code;
    reader r = reading(data, data_length, lenient, error);
    return decoded(ltkm_read(&r, message), message, sizeof *message, error);
}

/* --- verification message: one card's answer, never many at once ------------------------------------------------------------- */

static bool verification_mac(bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, const bcast_verification *m,
                             const uint8_t *data, uint32_t covered, const uint8_t *idr, uint8_t mac[SHA1_LENGTH])
{
    /* confidence: likely - the bare identities and the 4-byte COUNTER, without payload headers (smartcard-profile 1.5) */
    const mac_key *const keys[1] = {&key->mac};
    uint8_t counter[4];
    store_u32(counter, m->counter);
    const part parts[4] = {{data, covered}, {ltkm->idi, ltkm->idi_length}, {idr, m->idr.length}, {counter, sizeof counter}};
    make_labels(p, 0, m->csb_id, ltkm->rand);
    const bool ok = mikey_prf_burst(p, keys, 1) && evp_hmac_parts(p, p->derived[PSK_AUTH], SHA1_LENGTH, parts, 4, mac);
    wipe_derived(p, 1);
    return ok;
}

static bool answered_ok(const bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, bcast_error *error)
{
    if (key == NULL || ltkm == NULL || ltkm->rand == NULL || (ltkm->idi == NULL && ltkm->idi_length != 0)
        || ltkm->idi_length > BCAST_INPUT_MAX)
        return fail(error, BCAST_E_ARGUMENT, 0);
    return (batch_status(p, NULL, 0) == BCAST_OK && key_ready(p, (const key_head *)key, SMK_MAGIC))
           || fail(error, BCAST_E_NOT_READY, 0);
}

int bcast_verification_seal(bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, const bcast_verification *m,
                            const uint8_t *base, size_t base_length, uint8_t *out, size_t room, size_t *length, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!one_status(p, base, base_length, length, error) || !answered_ok(p, key, ltkm, error))
        return error->code;
    if (m == NULL) {
        fail(error, BCAST_E_ARGUMENT, 0);
        return error->code;
    }
    const source src = {base, base_length, error};
    const uint32_t size = verification_measure(&src, m);
    if (size == 0)
        return error->code;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    const sink s = {.arena = out, .room = room};
    if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
        return error->code;
    if (overlap(out, size, ltkm->rand, 16) || overlap(out, size, ltkm->idi, ltkm->idi_length)) {
        fail(error, BCAST_E_OVERLAP, 0);
        return error->code;
    }
    const uint32_t covered = size - BCAST_MIKEY_MAC_LENGTH;
    verification_write(out, m, base);
    if (!verification_mac(p, key, ltkm, m, out, covered, m->idr.length == 0 ? NULL : base + m->idr.offset, out + covered)) {
        OPENSSL_cleanse(out, size);
        *length = 0;
        fail(error, BCAST_E_CRYPTO, 0);
    }
    return error->code;
}

int bcast_verification_decode(const uint8_t *data, size_t data_length, uint32_t reporting, uint32_t lenient,
                              bcast_verification *message, bcast_error *error)
{
    bcast_error unused;
    error = error != NULL ? error : &unused;
    if (!admit_decode(data, data_length, reporting, lenient, message, sizeof *message, error))
        return error->code;
    reader r = reading(data, data_length, lenient, error);
    return decoded(verification_read(&r, reporting != 0, message), message, sizeof *message, error);
}

int bcast_verification_open(bcast_provider *p, const bcast_smk *key, const bcast_answered *ltkm, const uint8_t *data,
                            size_t data_length, uint32_t reporting, uint32_t lenient, bcast_verification *message,
                            bcast_error *error)
{
    bcast_error unused;
    uint8_t mac[SHA1_LENGTH];
    error = error != NULL ? error : &unused;
    clear_error(error);
    if (bcast_verification_decode(data, data_length, reporting, lenient, message, error) != BCAST_OK)
        return error->code;
    if (answered_ok(p, key, ltkm, error)) {
        if (!verification_mac(p, key, ltkm, message, data, message->mac_at, data + message->idr.offset, mac))
            fail(error, BCAST_E_CRYPTO, 0);
        else if (!same_mac(mac, data + message->mac_at, sizeof mac))
            fail(error, BCAST_E_INTEGRITY, 0);
    }
    if (error->code != BCAST_OK)
        memset(message, 0, sizeof *message);
    OPENSSL_cleanse(mac, sizeof mac);
    return error->code;
}
