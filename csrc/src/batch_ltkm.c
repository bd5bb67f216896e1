/* SPDX-License-Identifier: Apache-2.0 */
/* LTKM of the Smartcard Profile under an SMK: sealing, then opening. */
#include "batch.h"

int bcast_smartcard_ltkm_seal_batch(bcast_provider *p, bcast_ltkm_seal_job *jobs, size_t count, uint8_t *arena, size_t room,
                                    size_t *used)
{
    sink s;
    const mac_key *keys[BURST];
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
                const uint32_t at = ltkm_write(out, m, job->base);
                make_labels(p, n, m->csb_id, m->rand);
                keys[n] = &key->mac;
                memset(p->iv[n], 0, AES_BLOCK); /* the salt comes out of the PRF */
                memcpy(p->iv[n] + 2, m->csb_id, 4);
                store_u32(p->iv[n] + 10, m->counter);
                op_ctr(&p->cipher[n], p->derived[3 * n + PSK_ENCR], p->iv[n], out + at, out + at, SEK_DATA);
                n++;
            }
            job->length = size;
            s.at += size;
            s.done++;
        }
        if (n == 0)
            continue;
        bool ok = mikey_prf_burst(p, keys, n);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < 14; k++) /* RFC 3830 4.2.3 */
                p->iv[i][k] ^= p->derived[3 * i + PSK_SALT][k];
        /* The PRF had the room of these. */
        uint32_t macs = 0;
        for (size_t i = first; i < last; i++) {
            if (jobs[i].length == 0)
                continue;
            uint8_t *out = arena + jobs[i].offset;
            const uint32_t covered = jobs[i].length - BCAST_MIKEY_MAC_LENGTH;
            op_hmac_once(&p->hash[macs], p->derived[3 * macs + PSK_AUTH], out, covered, out + covered, BCAST_MIKEY_MAC_LENGTH);
            macs++;
        }
        ok = ok && p->crypto->ctr_once(p, p->cipher, n) && p->crypto->hmac_once(p, p->hash, n);
        wipe_burst(p->derived, (size_t)3 * n * sizeof *p->derived);
        wipe_burst(p->iv, n * sizeof *p->iv);
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
        op_hmac_once(&p->hash[i], p->derived[3 * i + PSK_AUTH], job->data, job->message->mac_at, p->tags[i],
                     BCAST_MIKEY_MAC_LENGTH);
    }
    ok = ok && p->crypto->hmac_once(p, p->hash, n);
    for (uint32_t i = 0; i < n; i++) {
        const item it = p->items[i];
        bcast_ltkm_open_job *job = &jobs[it.job];
        bcast_smartcard_ltkm *m = job->message;
        if (UNLIKELY(!ok || !same_mac(p->tags[i], job->data + m->mac_at, BCAST_MIKEY_MAC_LENGTH))) {
            wipe_failed(m, sizeof *m, &job->error, ok ? BCAST_E_INTEGRITY : BCAST_E_CRYPTO, 0);
            continue;
        }
        uint8_t iv[AES_BLOCK];
        mikey_iv(iv, p->derived[3 * i + PSK_SALT], m->csb_id);
        mikey_counter(p->iv[opened], iv, m->counter);
        op_ctr(&p->cipher[opened], p->derived[3 * i + PSK_ENCR], p->iv[opened], job->data + m->encr_data.offset, p->clear[opened],
               m->encr_data.length);
        p->items[opened++] = it;
    }
    ok = ok && (opened == 0 || p->crypto->ctr_once(p, p->cipher, opened));
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
    wipe_burst(p->clear, opened * sizeof *p->clear);
    wipe_burst(p->derived, (size_t)3 * n * sizeof *p->derived);
    wipe_burst(p->iv, n * sizeof *p->iv);
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
            if (!admit_open(p, &job->error, (const key_head *)job->key, sizeof *job->key, SMK_MAGIC, job->data, job->data_length,
                            job->lenient, m, sizeof *m))
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
        return decoded(false, message, message == NULL ? 0 : sizeof *message, error);
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
