/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two cursors.  No other code moves a pointer over a message.
 *
 * Reading: a window [at, end) on the message and where to tell what is wrong.  Checks run strictly left to right: a field is read
 * (TRUNCATED), checked, and only then the next one is touched.  The first failure is kept and every function after it fails too.
 * Writing: the size was measured before, so that put_* never meets the end; that is what a null buffer gives.
 */
#ifndef BCAST_CURSOR_H
#define BCAST_CURSOR_H

#include <bcast.h>
#include <stdbool.h>
#include <string.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
/* Small, and on the way of every message: calls would cost more than the work. */
#define INLINE static inline __attribute__((always_inline))

typedef struct reader {
    const uint8_t *data;
    uint32_t at;
    uint32_t end; /* of the enclosing area */
    uint32_t lenient;
    uint16_t scope; /* where the fields being read stand */
    uint32_t index[2];
    bcast_error *error;
} reader;

/* Describe a failure; false, for `return`. */
__attribute__((cold)) static inline bool refuse(reader *r, int code, uint32_t offset, int field)
{
    if (r->error->code == BCAST_OK)
        *r->error = (bcast_error){code, offset, (uint16_t)field, r->scope, {r->index[0], r->index[1]}};
    return false;
}

static inline uint32_t left(const reader *r) { return r->end - r->at; }

/* Step over `count` bytes, or TRUNCATED where the field starts. */
static inline bool take(reader *r, uint32_t count, int field, const uint8_t **bytes)
{
    *bytes = r->data + r->at;
    if (UNLIKELY(left(r) < count))
        return refuse(r, BCAST_E_TRUNCATED, r->at, field);
    r->at += count;
    return true;
}

static inline bool take_u8(reader *r, int field, uint8_t *value)
{
    const uint8_t *p;
    const bool ok = take(r, 1, field, &p);
    *value = ok ? *p : 0;
    return ok;
}

static inline uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline bool take_u16(reader *r, int field, uint16_t *value)
{
    const uint8_t *p;
    const bool ok = take(r, 2, field, &p);
    *value = ok ? load_u16(p) : 0;
    return ok;
}

static inline bool take_u32(reader *r, int field, uint32_t *value)
{
    const uint8_t *p;
    if (!take(r, 4, field, &p))
        return false;
    *value = load_u32(p);
    return true;
}

static inline bool take_copy(reader *r, uint32_t count, int field, uint8_t *to)
{
    const uint8_t *p;
    if (!take(r, count, field, &p))
        return false;
    memcpy(to, p, count);
    return true;
}

static inline bool take_span(reader *r, uint32_t count, int field, bcast_span *span)
{
    const uint8_t *p;
    const uint32_t at = r->at;
    if (!take(r, count, field, &p))
        return false;
    *span = (bcast_span){at, count};
    return true;
}

/* The octet just read has a value that is refused. */
static inline bool refuse_last(reader *r, int code, int field) { return refuse(r, code, r->at - 1, field); }

typedef struct writer {
    uint8_t *at;
} writer;

INLINE void put_u8(writer *w, unsigned value) { *w->at++ = (uint8_t)value; }

INLINE void put_u16(writer *w, unsigned value)
{
    uint16_t v = (uint16_t)value;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap16(v);
#endif
    memcpy(w->at, &v, 2);
    w->at += 2;
}

INLINE void store_u32(uint8_t *to, uint32_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    memcpy(to, &value, 4);
}

INLINE void put_u32(writer *w, uint32_t value)
{
    store_u32(w->at, value);
    w->at += 4;
}

INLINE void put_bytes(writer *w, const uint8_t *bytes, uint32_t count)
{
    if (count != 0) /* a NULL base goes with an empty span */
        memcpy(w->at, bytes, count);
    w->at += count;
}

INLINE void put_zeros(writer *w, uint32_t count)
{
    memset(w->at, 0, count);
    w->at += count;
}

/* The bytes of a span that was found to lie in its base. */
INLINE void put_span(writer *w, const uint8_t *base, bcast_span span)
{
    if (span.length != 0)
        put_bytes(w, base + span.offset, span.length);
}

static inline bool span_fits(bcast_span span, size_t base_length)
{
    return span.length == 0 || (span.offset <= base_length && span.length <= base_length - span.offset);
}

#endif
