/* SPDX-License-Identifier: Apache-2.0 */
/* STKM of the Smartcard Profile under its SEK: sealing, then opening. */
#include "batch.h"

int bcast_smartcard_stkm_seal_batch(bcast_provider *p, bcast_smartcard_seal_job *jobs, size_t count, uint8_t *arena, size_t room,
                                    size_t *used)
{
    sink s;
    stkm_memory memory = STKM_NOTHING;
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
            const uint32_t size = stkm_measure(&src, m, false, &memory);
            if (UNLIKELY(size == 0))
                continue;
            if (LIKELY(arena != NULL)) {
                if (UNLIKELY(!key->has_csb_id)) {
                    fail(&job->error, BCAST_E_USE, 0);
                    continue;
                }
                if (!reserve(&s, size, m, sizeof *m, &src, key, sizeof *key))
                    continue;
                uint8_t *out = arena + s.at;
                const uint32_t at = stkm_write(out, m, job->base, key->csb_id, false, &memory);
                mikey_counter(p->iv[n], key->iv, m->counter);
                op_ctr(&p->cipher[n], &key->encr, p->iv[n], out + at, out + at, m->has_salt ? TEK_SALT_DATA : TEK_DATA);
                const uint32_t covered = size - BCAST_MIKEY_MAC_LENGTH;
                op_hmac(&p->hash[n++], &key->auth, out, covered, out + covered, BCAST_MIKEY_MAC_LENGTH);
            }
            job->length = size;
            s.at += size;
            s.done++;
        }
        if (n != 0 && UNLIKELY(!(p->crypto->ctr(p, p->cipher, n) && p->crypto->hmac(p, p->hash, n)))) {
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
        used = stkm_measure(&(source){base, base_length, &unused}, message, false, &STKM_NOTHING);
    return one_result(status, used, &job.error, length, error);
}

int bcast_smartcard_stkm_partial(const bcast_smartcard_stkm *m, const uint8_t *base, size_t base_length, uint8_t *out, size_t room,
                                 size_t *length, bcast_error *error)
{
    static const uint8_t no_csb_id[4];
    bcast_error unused;
    error = error != NULL ? error : &unused;
    stkm_memory memory = STKM_NOTHING;
    if (!admit_partial(m, base, base_length, length, error))
        return error->code;
    const source src = {base, base_length, error};
    const uint32_t size = stkm_measure(&src, m, true, &memory);
    if (size == 0)
        return error->code;
    *length = size;
    if (out == NULL)
        return BCAST_OK;
    const sink s = {.arena = out, .room = room};
    if (!reserve(&s, size, m, sizeof *m, &src, NULL, 0))
        return no_room(error, length);
    (void)stkm_write(out, m, base, no_csb_id, true, &memory);
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
        mikey_counter(p->iv[opened], job->key->iv, m->counter);
        op_ctr(&p->cipher[opened], &job->key->encr, p->iv[opened], job->data + m->encr_data.offset, p->clear[opened],
               m->encr_data.length);
        p->items[opened++] = it;
    }
    const bool decrypted = opened == 0 || p->crypto->ctr(p, p->cipher, opened);
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
    wipe_burst(p->clear, opened * sizeof *p->clear);
    return done;
}

/*
 * A message under another CSB ID than the one the context is ready for: its keys are derived with the CSB ID of its own header
 * (smartcard-profile 4.4).  It comes between the messages of a burst, so it works in room that they leave free.
 */
__attribute__((noinline)) static size_t stkm_open_alone(bcast_provider *p, bcast_smartcard_open_job *job)
{
    const struct bcast_smartcard_key *key = job->key;
    bcast_smartcard_stkm *m = job->message;
    uint8_t derived[3][SHA1_LENGTH], tag[SHA1_LENGTH], base[AES_BLOCK], iv[AES_BLOCK], clear[TEK_SALT_DATA];
    op *cipher = &p->cipher[BURST], *hash = &p->hash[BURST];
    bool opened = false;
    op_hmac_once(hash, derived[PSK_AUTH], job->data, m->mac_at, tag, sizeof tag);
    bool ok = mikey_keys(p, key->sek, m->csb_id, key->rand, key->rand_length, derived) && p->crypto->hmac_once(p, hash, 1);
    if (ok && !same_mac(tag, job->data + m->mac_at, BCAST_MIKEY_MAC_LENGTH)) {
        wipe_failed(m, sizeof *m, &job->error, BCAST_E_INTEGRITY, 0);
    } else {
        if (ok) {
            mikey_iv(base, derived[PSK_SALT], m->csb_id);
            mikey_counter(iv, base, m->counter);
            op_ctr(cipher, derived[PSK_ENCR], iv, job->data + m->encr_data.offset, clear, m->encr_data.length);
            ok = p->crypto->ctr_once(p, cipher, 1);
        }
        if (!ok)
            wipe_failed(m, sizeof *m, &job->error, BCAST_E_CRYPTO, 0);
        else if (stkm_key_read(clear, m->encr_data.length, m->encr_data.offset, job->lenient, m, &job->error))
            opened = true;
        else
            OPENSSL_cleanse(m, sizeof *m);
    }
    OPENSSL_cleanse(derived, sizeof derived);
    OPENSSL_cleanse(iv, sizeof iv);
    OPENSSL_cleanse(base, sizeof base);
    OPENSSL_cleanse(clear, sizeof clear);
    return opened;
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
            if (!admit_open(p, &job->error, (const key_head *)key, sizeof *key, SMARTCARD_KEY_MAGIC, job->data, job->data_length,
                            job->lenient, m, sizeof *m))
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
            if (UNLIKELY(!key->has_csb_id || memcmp(key->csb_id, m->csb_id, 4) != 0)) {
                done += stkm_open_alone(p, job);
                continue;
            }
            op_hmac(&p->hash[n], &key->auth, job->data, m->mac_at, p->tags[n], BCAST_MIKEY_MAC_LENGTH);
            p->items[n++].job = (uint32_t)i;
        }
        if (n != 0)
            done += stkm_open_burst(p, jobs, n, p->crypto->hmac(p, p->hash, n));
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
        return decoded(false, message, message == NULL ? 0 : sizeof *message, error);
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
