/* SPDX-License-Identifier: Apache-2.0 */
/* STKM of the DRM Profile under its keys: sealing, then opening. */
#include "batch.h"

/* What sealing touches of a context that has a programme; one without has its schedule behind it. */
#define DRM_HOT offsetof(struct bcast_drm_key, sek_encrypt)

/* The key that a message needs and the context lacks, in the order SEK, SAS, PEK, PAS; 0: none. */
static int drm_missing(uint32_t held, unsigned present)
{
    const uint32_t needed =
        (present & BCAST_DRM_SERVICE ? HAS_SEK | HAS_SAS : 0U) | (present & BCAST_DRM_PROGRAMME ? HAS_PEK | HAS_PAS : 0U);
    const uint32_t missing = needed & ~held;
    return missing & HAS_SEK   ? BCAST_F_KEY_SEK
           : missing & HAS_SAS ? BCAST_F_KEY_SAS
           : missing & HAS_PEK ? BCAST_F_KEY_PEK
           : missing & HAS_PAS ? BCAST_F_KEY_PAS
                               : 0;
}

int bcast_drm_stkm_seal_batch(bcast_provider *p, bcast_drm_seal_job *jobs, size_t count, uint8_t *arena, size_t room, size_t *used)
{
    sink s;
    drm_memory memory = DRM_NOTHING;
    const int status = sink_open(&s, p, jobs, count, sizeof *jobs, arena, room, used);
    if (status != BCAST_OK)
        return status;
    for (size_t first = 0; first < count; first += BURST) {
        const size_t last = count - first < BURST ? count : first + BURST;
        uint32_t ciphers = 0, longest = AES_BLOCK, programmes = 0, services = 0;
        bool ok = true;
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
            const uint32_t size = drm_measure(&src, m, &memory);
            if (UNLIKELY(size == 0))
                continue;
            if (LIKELY(arena != NULL)) {
                if (UNLIKELY(m->present & ~key->seals & (BCAST_DRM_SERVICE | BCAST_DRM_PROGRAMME))) {
                    const int missing = drm_missing(key->held, m->present);
                    fail(&job->error, missing != 0 ? BCAST_E_KEY_UNAVAILABLE : BCAST_E_USE, missing);
                    continue;
                }
                if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
                    continue;
                uint8_t *out = arena + s.at;
                drm_write(out, m, job->base, key->encrypted_PEK, &memory);
                if (ciphers > BURST - 2) { /* up to two in a message */
                    ok = ok && p->crypto->cbc_encrypt(p, p->cipher, ciphers, longest);
                    ciphers = 0;
                }
                const aes_key *tkm = m->present & BCAST_DRM_PROGRAMME ? &key->pek_encrypt : &key->sek_encrypt;
                uint8_t *material = out + memory.material_at;
                longest |= m->material_length; /* 16 or 32 */
                op_cbc_encrypt(&p->cipher[ciphers++], tkm, material, m->material_length);
                if (m->present & BCAST_DRM_NEXT)
                    op_cbc_encrypt(&p->cipher[ciphers++], tkm, material + m->material_length, m->material_length);
                if (m->present & BCAST_DRM_PROGRAMME) {
                    const uint32_t at = drm_programme_MAC(size, m->present);
                    op_hmac(&p->hash[programmes++], &key->pak, out, at, out + at, BCAST_DRM_MAC_LENGTH);
                }
                if (m->present & BCAST_DRM_SERVICE) {
                    const uint32_t at = drm_service_MAC(size);
                    op_hmac(&p->hash[BURST + services++], &key->sak, out, at, out + at, BCAST_DRM_MAC_LENGTH);
                }
            }
            job->length = size;
            s.at += size;
            s.done++;
        }
        if (ciphers == 0)
            continue;
        const crypto *c = p->crypto;
        ok = ok && c->cbc_encrypt(p, p->cipher, ciphers, longest) && c->hmac(p, p->hash, programmes)
             && c->hmac(p, p->hash + BURST, services); /* service_MAC covers programme_MAC */
        if (UNLIKELY(!ok)) {
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
        used = drm_measure(&(source){base, base_length, &unused}, message, &DRM_NOTHING);
    return one_result(status, used, &job.error, length, error);
}

int bcast_drm_stkm_partial(const bcast_drm_stkm *m, const uint8_t *base, size_t base_length, uint8_t *out, size_t room,
                           size_t *length, bcast_error *error)
{
    static const uint8_t zeros[BCAST_KEY_LENGTH];
    bcast_error unused;
    error = error != NULL ? error : &unused;
    drm_memory memory = DRM_NOTHING;
    if (!admit_partial(m, base, base_length, length, error))
        return error->code;
    const source src = {base, base_length, error};
    const uint32_t size = drm_measure(&src, m, &memory);
    if (size == 0)
        return error->code;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    const sink s = {.arena = out, .room = room};
    if (!reserve(&s, size, m, sizeof *m, &src, NULL, 0))
        return no_room(error, length);
    drm_write(out, m, base, zeros, &memory);
    if (m->present & BCAST_DRM_PROGRAMME)
        memset(out + drm_programme_MAC(size, m->present), 0, BCAST_DRM_MAC_LENGTH);
    if (m->present & BCAST_DRM_SERVICE)
        memset(out + drm_service_MAC(size), 0, BCAST_DRM_MAC_LENGTH);
    return BCAST_OK;
}

/* --- opening ----------------------------------------------------------------------------------------------------------------- */

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
    bool decrypted = true;
    for (uint32_t i = 0; i < n; i++) {
        item *it = &p->items[i];
        bcast_drm_open_job *job = &jobs[it->job];
        bcast_drm_stkm *m = job->message;
        bool ok = true;
        int code = BCAST_OK, field = 0;
        for (uint32_t k = 0; k < it->count; k++) {
            const op *o = &p->hash[it->mac + k];
            ok &= same_mac(o->auth_tag_output, o->src + o->msg_len_to_hash_in_bytes, BCAST_DRM_MAC_LENGTH);
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
            if (ciphers > BURST - 2) {
                decrypted = decrypted && p->crypto->cbc_decrypt(p, p->cipher, ciphers);
                ciphers = 0;
            }
            op_cbc_decrypt(&p->cipher[ciphers++], key, m->traffic_key_material, m->material_length);
            if (m->present & BCAST_DRM_NEXT)
                op_cbc_decrypt(&p->cipher[ciphers++], key, m->next_traffic_key_material, m->material_length);
        } else {
            uint8_t pek[BCAST_KEY_LENGTH];
            memcpy(pek, job->data + m->encrypted_PEK_at, sizeof pek);
            op *unwrap = &p->cipher[BURST];
            op_cbc_decrypt(unwrap, &job->key->sek_decrypt, pek, sizeof pek);
            ok = p->crypto->cbc_decrypt(p, unwrap, 1) && decrypt_under(p, pek, m->traffic_key_material, m->material_length)
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
    decrypted = decrypted && (ciphers == 0 || p->crypto->cbc_decrypt(p, p->cipher, ciphers));
    if (UNLIKELY(!decrypted)) {
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
            if (!admit_open(p, &job->error, (const key_head *)key, sizeof *key, DRM_KEY_MAGIC, job->data, job->data_length,
                            job->lenient, m, sizeof *m))
                continue;
            reader r = reading(job->data, job->data_length, job->lenient, &job->error);
            if (UNLIKELY(!drm_read(&r, false, m))) {
                memset(m, 0, sizeof *m);
                continue;
            }
            item it = {.job = (uint32_t)i, .mac = macs};
            if (m->programme_MAC_at != 0 && (key->held & HAS_PAS)) {
                const uint32_t k = macs + it.count++;
                op_hmac(&p->hash[k], &key->pak, job->data, m->programme_MAC_at, p->tags[k], BCAST_DRM_MAC_LENGTH);
            }
            if (m->service_MAC_at != 0 && (key->held & HAS_SAS)) {
                const uint32_t k = macs + it.count++;
                op_hmac(&p->hash[k], &key->sak, job->data, m->service_MAC_at, p->tags[k], BCAST_DRM_MAC_LENGTH);
            }
            if (UNLIKELY(it.count == 0 || !(key->use & BCAST_USE_OPEN))) {
                wipe_failed(m, sizeof *m, &job->error, it.count == 0 ? BCAST_E_KEY_UNAVAILABLE : BCAST_E_USE,
                            it.count != 0            ? 0
                            : m->service_MAC_at == 0 ? BCAST_F_KEY_PAS
                                                     : BCAST_F_KEY_SAS);
                continue;
            }
            macs += it.count;
            p->items[n++] = it;
        }
        if (n != 0)
            done += drm_open_burst(p, jobs, n, p->crypto->hmac(p, p->hash, macs));
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
        return decoded(false, message, message == NULL ? 0 : sizeof *message, error);
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
