/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libbcast: seal and open the key messages of OMA BCAST content protection.
 *
 * Short-term key messages (STKM) of the DRM Profile and of the Smartcard Profile, long-term key messages (LTKM) of the Smartcard
 * Profile and the card's answer to them (verification message), one at a time or many in one call.
 *
 * THE CONTRACT
 *
 * In short.  Open a provider once per thread.  Set up a key context once per key.  Then one call per message, or one per batch:
 *
 *     static alignas(BCAST_ALIGNMENT) unsigned char a[BCAST_PROVIDER_SIZE], b[BCAST_DRM_KEY_SIZE];
 *     bcast_provider *provider;
 *     bcast_drm_key *key;
 *     if (bcast_provider_open(a, sizeof a, NULL, &provider) != BCAST_OK
 *         || bcast_drm_key_init(b, sizeof b, provider, &keys, BCAST_USE_SEAL, &key) != BCAST_OK)
 *         ...
 *     for (;;) {                                                  one crypto period after the other
 *         status = bcast_drm_stkm_seal(provider, key, &message, NULL, 0, packet, sizeof packet, &length, &error);
 *         ...
 *     }
 *     bcast_drm_key_wipe(key);                                    contexts first, then their provider
 *     bcast_provider_close(provider);
 *
 *   examples/headend.c is this as a whole program.
 *
 * Ownership.  The caller owns every byte.  Nothing here allocates, does I/O, reads a clock or a random source, or keeps anything in
 *   a global.  The two kinds of object - a provider and key contexts - live in storage the caller gives, of the sizes below.
 *   (libcrypto allocates for the handles it makes when a provider is opened and a key is set up, and for a moment inside an HMAC.)
 *   A function keeps no pointer beyond its return, with one exception: a provider must outlive the key contexts set up with it.
 *
 * Threads.  A provider and a key context belong to one thread at a time.  Different threads use different providers; a key context
 *   may be used with any open provider of the same name, as long as no other thread uses it meanwhile.  Two threads that seal for
 *   one service need a key context each.  There is no lock and no hidden state: give each thread a provider and its share of
 *   the services.  fork(): open the provider in the child.
 *
 * Lengths first.  A function that writes takes (out, room, length): with out == NULL it stores in *length what it would write and
 *   does nothing else; with too little room it stores the same and gives BCAST_E_ROOM, nothing written.  Buffers need no alignment;
 *   objects need BCAST_ALIGNMENT.  Output must not overlap any input of the same call (BCAST_E_OVERLAP); all the room that was
 *   given counts as output, not only the bytes that are needed.  When opening, each message structure must lie apart from the
 *   bytes and the key of its own job, which is checked, and from those of the other jobs, which is not.
 *
 * Failure.  A function gives BCAST_OK (0) or one code of enum bcast_status, and describes it in *error where it takes one (NULL is
 *   allowed).  On failure every output the call was given is zero, key material first: *length is 0 (but for BCAST_E_ROOM), a
 *   message structure is all zero bytes, an object pointer is NULL, and an output buffer is as it was or cleared, never half a
 *   message.  The codes are grouped by who is at fault.
 *
 * Versions.  The major number of the library is its ABI: numbers keep their meaning, structures their layout, functions their
 *   shape.  Structures are plain data without pointers into the library; clear them (= {0}) before filling them in, so that
 *   fields you do not know stay 0.
 *
 * Order of opening.  Layout, then every MAC whose key the context holds, in constant time, and only then is any key decrypted
 *   (rules R11, R12).  Replay and validity windows are the caller's: the COUNTER or timestamp is returned.
 *
 * Numbers are in network order on the wire and in host order here; byte strings are as on the wire.  Names of fields are those of
 * the specification; where a name is given after "wire:" it is the path in errors.  "(layout notes: drm-profile 1.1)" and the like
 * say where a rule comes from.
 */
#ifndef BCAST_H
#define BCAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is declared here is exported, everything else in the library is hidden. */
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/*
 * What stands between the two marks is plain C declarations without macros: bindings read it as it is.
 */
/* cdef begin */

/* Version of this header.  The library's own is bcast_version(): the same major number means the same ABI. */
#define BCAST_VERSION_MAJOR 1
#define BCAST_VERSION_MINOR 0
#define BCAST_VERSION_PATCH 0

/*
 * STORAGE.  Bytes to give to an object, and the alignment of its first byte.  The sizes are the same on every platform and hold
 * room for either provider.  With ipsec_mb they are all there is; with evp a context also owns handles of
 * libcrypto's: 2.1 KiB for a DRM service that seals, 3.4 KiB for one that opens too (3.0.19).
 */
#define BCAST_ALIGNMENT 64           /* one cache line; also what AES key schedules need (16) */
#define BCAST_PROVIDER_SIZE 98304    /* mostly work space for one burst of 64 messages */
#define BCAST_DRM_KEY_SIZE 896
#define BCAST_SMARTCARD_KEY_SIZE 320
#define BCAST_SMK_SIZE 128

/* Sizes and limits of the layouts, each with the reason. */
#define BCAST_KEY_LENGTH 16              /* SEK, SAS, PEK, PAS, TEK, TAS: AES-128 (drm-profile 1.3) */
#define BCAST_SMK_LENGTH 32              /* a GBA key (smartcard-profile 4.1) */
#define BCAST_RAND_LENGTH 16             /* RAND of an LTKM, 128 bits (TS 33.246 6.4.5.1) */
#define BCAST_LTKM_KEY_TYPE 2            /* key data type that is built, TEK (TS 33.246 6.4.5.1); 0, TGK, is read too */
#define BCAST_SALT_LENGTH 14             /* SRTP master salt, 112 bits (RFC 3711) */
#define BCAST_ID_MAX 16                  /* master_key_index, key_indicator (rules R17) */
#define BCAST_MATERIAL_MAX 32            /* TEK || TAS (drm-profile 1.3) */
#define BCAST_DRM_MAC_LENGTH 12          /* HMAC-SHA-1-96 (drm-profile 1.5) */
#define BCAST_MIKEY_MAC_LENGTH 20        /* HMAC-SHA-1-160 (RFC 3830) */
#define BCAST_DRM_STKM_MAX 1400          /* built: one UDP payload below every MTU (drm-profile 6) */
#define BCAST_CARD_MESSAGE_MAX 251       /* built: one card command (rules R20); see bcast_smartcard_stkm.max_size */
#define BCAST_MESSAGE_MAX 65535          /* built, whatever the caller allows: one UDP payload */
#define BCAST_INPUT_MAX 0x7fffffff       /* read: offsets are 32 bits with room for "none" */
#define BCAST_WINDOW_MAX 2147483646      /* ts_high - ts_low: what serial-number comparison orders, 2^31 - 2 (rules R4) */
#define BCAST_NO_OFFSET 0xffffffff       /* bcast_error.offset: found while building, there are no bytes yet */

/*
 * STATUS.  The hundreds say who has to act.
 *   1xx  the caller: an argument; nothing was looked at.
 *   2xx  the message: its bytes (opening) or its fields (sealing) break the layout.  error.offset and error.field say where.
 *   3xx  the keys: well formed, but not for these keys.
 *   4xx  neither: the cryptographic library failed.
 */
enum bcast_status {
    BCAST_OK = 0,

    BCAST_E_ARGUMENT = 100,      /* a NULL that must not be, an unknown flag, a length beyond BCAST_INPUT_MAX */
    BCAST_E_STORAGE = 101,       /* storage too small or not aligned */
    BCAST_E_NOT_READY = 102,     /* an object that was never set up, or was wiped, or is of another kind or provider */
    BCAST_E_ROOM = 103,          /* output too small; *length says what is needed */
    BCAST_E_OVERLAP = 104,       /* output overlaps an input */
    BCAST_E_SPAN = 105,          /* a span of the message reaches beyond its base; error.field says which */
    BCAST_E_USE = 106,           /* the context was not set up for this direction (enum bcast_use) */
    BCAST_E_NO_PROVIDER = 107,   /* no provider of that name here, or its version is not one this build can use */

    BCAST_E_TRUNCATED = 200,     /* the message ends before the field does; offset: where the field starts */
    BCAST_E_TRAILING_BYTES = 201, /* bytes after the last field; offset: the first of them */
    BCAST_E_BAD_LENGTH = 202,    /* a length field, or the size of a value, is not what the layout allows */
    BCAST_E_BAD_VALUE = 203,     /* reserved bits, a duplicate, a contradiction between fields */
    BCAST_E_UNSUPPORTED = 204,   /* a well-defined number that is refused: version, protocol, algorithm, payload */

    BCAST_E_INTEGRITY = 300,     /* a MAC, or a key it vouches for, does not fit; says nothing more, on purpose */
    BCAST_E_KEY_UNAVAILABLE = 301, /* the context lacks a key; error.field: BCAST_F_KEY_... */

    BCAST_E_CRYPTO = 400,        /* the library refused or failed in the middle; the output of the item is zero */
    BCAST_E_KNOWN_ANSWER = 401,  /* a provider computed its known answers wrongly and is not used */
    BCAST_E_SOME = 402           /* batch: at least one item failed; its own status says how, the others are done */
};

/*
 * WHERE AN ERROR IS.  `field` names a row of a layout, `scope` the table it stands in, `index` the places in lists,
 * outermost first.  bcast_error_path() writes the dotted path: access_criteria[1].length, payloads[3].encr_data.
 * Two fields that share a name share a number: the scope tells them apart.
 */
enum bcast_scope {
    BCAST_S_MESSAGE = 0,     /* the message itself */
    BCAST_S_PAYLOAD = 1,     /* payloads[i]. */
    BCAST_S_MANAGEMENT = 2,  /* payloads[i].management. */
    BCAST_S_POLICY = 3,      /* payloads[i].management.security_policy_ext. */
    BCAST_S_ENTRY = 4,       /* payloads[i].management.entries[j]. */
    BCAST_S_KEY_DATA = 5,    /* payloads[i].key_data[j]. : key data in clear, a partial STKM */
    BCAST_S_KEMAC = 6,       /* KEMAC. : found after decryption, or when opening */
    BCAST_S_ENCR_DATA = 7,   /* KEMAC.encr_data.[j]. */
    BCAST_S_ENCR_DATA_END = 8 /* KEMAC.encr_data. : bytes after the key */
};

enum bcast_field {
    BCAST_F_NONE = 0,                        /* the message as a whole */
    /* both profiles */
    BCAST_F_PROTOCOL_VERSION,                /* 4 bits: 0 */
    BCAST_F_PROTECTION_AFTER_RECEPTION,      /* 2 bits: 0..3 */
    BCAST_F_RESERVED,                        /* bits that must be 0; the offset tells which of several */
    BCAST_F_ACCESS_CRITERIA_FLAG,            /* 1 bit */
    BCAST_F_TRAFFIC_PROTECTION_PROTOCOL,     /* 3 bits: enum bcast_protocol; 3 (DCF) and 4..7 are refused */
    BCAST_F_TRAFFIC_AUTHENTICATION_FLAG,     /* 1 bit */
    BCAST_F_TRAFFIC_KEY_LIFETIME,            /* 4 bits: n of 2^n seconds */
    BCAST_F_NUMBER_OF_CRITERIA,              /* 8 bits: 0..255 */
    BCAST_F_ACCESS_CRITERIA,                 /* the list as a span */
    BCAST_F_CRITERION_TAG,                   /* 8 bits, any */
    BCAST_F_CRITERION_LENGTH,                /* 8 bits: bytes of the value */
    BCAST_F_CRITERION_VALUE,                 /* 0..255 bytes */
    /* DRM STKM (drm-profile 1.1) */
    BCAST_F_NEXT_TRAFFIC_KEY_FLAG,           /* 1 bit */
    BCAST_F_TIMESTAMP_FLAG,                  /* 1 bit */
    BCAST_F_PROGRAMME_FLAG,                  /* 1 bit */
    BCAST_F_SERVICE_FLAG,                    /* 1 bit; also named when neither part is there */
    BCAST_F_SECURITY_PARAMETER_INDEX,        /* 4 bytes; IPsec */
    BCAST_F_NEXT_SECURITY_PARAMETER_INDEX,   /* 4 bytes; IPsec, next key */
    BCAST_F_MASTER_KEY_INDEX_LENGTH,         /* 8 bits: 1..16; SRTP */
    BCAST_F_MASTER_KEY_INDEX,                /* 1..16 bytes; SRTP */
    BCAST_F_NEXT_MASTER_KEY_INDEX,           /* as long; SRTP, next key */
    BCAST_F_MASTER_SALT,                     /* 14 bytes, in clear; SRTP */
    BCAST_F_NEXT_MASTER_SALT,                /* 14 bytes; SRTP, next key */
    BCAST_F_KEY_INDICATOR_LENGTH,            /* 8 bits: 1..16; ISMACryp */
    BCAST_F_KEY_INDICATOR,                   /* 1..16 bytes; ISMACryp */
    BCAST_F_NEXT_KEY_INDICATOR,              /* as long; ISMACryp, next key */
    BCAST_F_MATERIAL_LENGTH,                 /* 8 bits: 16, or 32 for IPsec with authentication */
    BCAST_F_MATERIAL,                        /* 16 or 32 bytes, encrypted */
    BCAST_F_NEXT_MATERIAL,                   /* as long; next key */
    BCAST_F_TIMESTAMP,                       /* 40 bits: Modified Julian Date 16, hhmmss in BCD 24, UTC */
    BCAST_F_PERMISSIONS_FLAG,                /* 1 bit */
    BCAST_F_PERMISSIONS_CATEGORY,            /* 8 bits, any */
    BCAST_F_ENCRYPTED_PEK,                   /* 16 bytes; service and programme */
    BCAST_F_PROGRAMME_CID_EXTENSION,         /* 32 bits */
    BCAST_F_PROGRAMME_MAC,                   /* 12 bytes */
    BCAST_F_SERVICE_CID_EXTENSION,           /* 32 bits */
    BCAST_F_SERVICE_MAC,                     /* 12 bytes */
    /* MIKEY header and payloads (RFC 3830, 4563, 5410) */
    BCAST_F_VERSION,                         /* 8 bits: 1 */
    BCAST_F_DATA_TYPE,                       /* 8 bits: 0 PSK, 1 PSK verification */
    BCAST_F_NEXT_PAYLOAD,                    /* 8 bits: which payloads may follow is the kind's */
    BCAST_F_V,                               /* 1 bit: verification wanted; LTKM only */
    BCAST_F_PRF_FUNC,                        /* 7 bits: 0 */
    BCAST_F_CSB_ID,                          /* 4 bytes; 0 in a partial STKM */
    BCAST_F_NUMBER_OF_CS,                    /* 8 bits: 0 */
    BCAST_F_CS_ID_MAP_TYPE,                  /* 8 bits: 1, empty map */
    BCAST_F_EXT_TYPE,                        /* 8 bits: 3 Key IDs, 5 management data, others are skipped */
    BCAST_F_LENGTH,                          /* 16 bits: bytes of the EXT payload's data */
    BCAST_F_DATA,                            /* that data */
    BCAST_F_KEY_ID_TYPE,                     /* 8 bits: 0 domain, 1 SEK, 2 TEK, in this order; above: others */
    BCAST_F_KEY_ID_LENGTH,                   /* 8 bits: 3, 4, 2 */
    BCAST_F_KEY_ID_VALUE,                    /* as many bytes */
    BCAST_F_SUBTYPE,                         /* 8 bits: 1 LTKM, 2 STKM, 3 reporting */
    BCAST_F_TS_TYPE,                         /* 8 bits: 2, COUNTER */
    BCAST_F_TS_VALUE,                        /* 32 bits: the COUNTER */
    BCAST_F_RAND_LEN,                        /* 8 bits: 16 */
    BCAST_F_RAND,                            /* 16 bytes */
    BCAST_F_ID_TYPE,                         /* 8 bits: 0 NAI, 1 URI; that of IDi is any */
    BCAST_F_ID_LEN,                          /* 16 bits */
    BCAST_F_ID,                              /* as many bytes */
    BCAST_F_POLICY_NO,                       /* 8 bits; SP payload, skipped */
    BCAST_F_PROT_TYPE,                       /* 8 bits */
    BCAST_F_PARAM_LENGTH,                    /* 16 bits */
    BCAST_F_PARAMS,                          /* as many bytes */
    BCAST_F_PARAM_TYPE,                      /* 8 bits */
    BCAST_F_PARAM_LEN,                       /* 8 bits */
    BCAST_F_PARAM_VALUE,                     /* as many bytes */
    BCAST_F_ENCR_ALG,                        /* 8 bits: 1 AES-CM-128; 0 in a partial STKM */
    BCAST_F_ENCR_DATA_LEN,                   /* 16 bits: 20 TEK, 36 TEK and salt, 30 SEK and window */
    BCAST_F_ENCR_DATA,                       /* as many bytes */
    BCAST_F_KEY_DATA,                        /* the same in clear; partial STKM */
    BCAST_F_MAC_ALG,                         /* 8 bits: 1 HMAC-SHA-1-160; 0 in a partial STKM */
    BCAST_F_MAC,                             /* 20 bytes */
    BCAST_F_AUTH_ALG,                        /* 8 bits: 1; V payload */
    BCAST_F_VER_DATA,                        /* 20 bytes; V payload */
    /* key data (RFC 3830 6.13) */
    BCAST_F_TYPE,                            /* 4 bits: STKM 2 TEK, 3 TEK and salt; LTKM 2 TEK, 0 TGK */
    BCAST_F_KV,                              /* 4 bits: 0 none, 2 interval */
    BCAST_F_KEY_LEN,                         /* 16 bits: 16 */
    BCAST_F_KEY,                             /* 16 bytes */
    BCAST_F_SALT_LEN,                        /* 16 bits: 14 */
    BCAST_F_SALT,                            /* 14 bytes */
    BCAST_F_VF_LEN,                          /* 8 bits: 4 */
    BCAST_F_VF,                              /* 32 bits: first COUNTER that the SEK opens */
    BCAST_F_VT_LEN,                          /* 8 bits: 4 */
    BCAST_F_VT,                              /* 32 bits: last one */
    /* management data (smartcard-profile 5.3, 5.4, 7) */
    BCAST_F_MANAGEMENT,                      /* has_management */
    BCAST_F_TERMINAL_BINDING_FLAG,           /* 1 bit */
    BCAST_F_TERMINAL_BINDING_KEY_ID,         /* 32 bits */
    BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH,   /* 8 bits */
    BCAST_F_PERMISSIONS_ISSUER_URI,          /* 0..255 bytes */
    BCAST_F_SECURITY_POLICY_EXT_FLAG,        /* 1 bit */
    BCAST_F_CONSUMPTION_REPORTING_FLAG,      /* 1 bit; only with V */
    BCAST_F_SECURITY_POLICY_EXTENSION,       /* 8 bits, any */
    BCAST_F_COST_FLAG,                       /* 1 bit */
    BCAST_F_PURSE_FLAG,                      /* 1 bit */
    BCAST_F_PURSE_MODE,                      /* 1 bit: 0 add, 1 set; only with its flag, as those below */
    BCAST_F_PLAYBACK_FLAG,                   /* 1 bit */
    BCAST_F_PLAYBACK_MODE,                   /* 1 bit */
    BCAST_F_TEK_FLAG,                        /* 1 bit */
    BCAST_F_TEK_MODE,                        /* 1 bit */
    BCAST_F_COST_VALUE,                      /* 32 bits */
    BCAST_F_PURSE,                           /* 32 bits */
    BCAST_F_PLAYBACK,                        /* 32 bits */
    BCAST_F_TEK,                             /* 32 bits */
    BCAST_F_STATUS,                          /* 8 bits, any */
    BCAST_F_NUMBER_OF_ENTRIES,               /* 8 bits */
    BCAST_F_ENTRY_KEY_DOMAIN_ID,             /* 3 bytes */
    BCAST_F_ENTRY_KEY_GROUP,                 /* 16 bits */
    BCAST_F_ENTRY_KEY_NUMBER,                /* 16 bits */
    BCAST_F_TS_LOW,                          /* 32 bits */
    BCAST_F_TS_HIGH,                         /* 32 bits; ts_high - ts_low at most BCAST_WINDOW_MAX */
    /* fields of the structures below that are no row of a layout */
    BCAST_F_TRAFFIC_KEY_MATERIAL,            /* material_length does not suit the protocol */
    BCAST_F_NEXT_TRAFFIC_KEY_MATERIAL,       /* not used */
    BCAST_F_SEK,                             /* not zero in a withdrawal */
    BCAST_F_SEK_ID,                          /* Key Group 0000 or Key Number 0000: no key has such an id */
    BCAST_F_TEK_ID,                          /* 0000 or ffff: no TEK has such an id */
    BCAST_F_KEY_DATA_TYPE,                   /* not 2 */
    BCAST_F_INTERVAL_LENGTH,                 /* not 4 */
    BCAST_F_IDI,                             /* the span of the initiator's identity */
    BCAST_F_IDR,                             /* the span of the responder's identity */
    BCAST_F_OTHER_KEY_IDS,                   /* the span of further Key IDs */
    BCAST_F_REPORTING,                       /* has_reporting, or the span of the reporting data */
    /* keys, with BCAST_E_KEY_UNAVAILABLE */
    BCAST_F_KEY_SEK,                         /* encrypts PEK, and the material without a programme */
    BCAST_F_KEY_SAS,                         /* authenticates the service part */
    BCAST_F_KEY_PEK,                         /* encrypts the material with a programme */
    BCAST_F_KEY_PAS,                         /* authenticates the programme part */
    BCAST_F_COUNT                            /* how many numbers there are; not a field */
};

typedef struct bcast_error {
    int32_t code;       /* enum bcast_status; 0 when nothing is wrong */
    uint32_t offset;    /* from the start of the message; BCAST_NO_OFFSET when building */
    uint16_t field;     /* enum bcast_field */
    uint16_t scope;     /* enum bcast_scope */
    uint32_t index[2];  /* payload and list item, counted from 0; unused ones are 0 */
} bcast_error;

/*
 * A part of the message whose length varies: `length` bytes at `offset` from the base.  When opening, the base is the message
 * itself; when sealing, a buffer of the caller's (so that what was opened can be sealed again with the old message as the base).
 * A span of length 0 is empty whatever its offset.
 */
typedef struct bcast_span {
    uint32_t offset;
    uint32_t length;
} bcast_span;

/* Numbers of the protocol fields (drm-profile 1.2). */
enum bcast_protocol {
    BCAST_IPSEC = 0,
    BCAST_SRTP = 1,
    BCAST_ISMACRYP = 2
};

/* Departures from the layout that a caller may allow when opening or decoding; 0 is strict.  Bits, to be or'ed. */
enum bcast_lenient {
    BCAST_LENIENT_MTK_ID_4 = 1,       /* a 4-byte TEK ID, as in CMMB cards (smartcard-profile 2) */
    BCAST_LENIENT_INTERVAL_2 = 2,     /* a 2+2 byte interval, as in 3GPP's own messages (smartcard-profile 4.5) */
    BCAST_LENIENT_TRAILING_BYTES = 4  /* bytes after the last field are ignored; message.size says where it ends */
};

/*
 * What a key context is set up for.  Bits.  Setting up only what is used saves time, handles (evp) and cache: a headend needs SEAL,
 * a terminal or a monitoring probe OPEN.  What it was not set up for gives BCAST_E_USE.
 */
enum bcast_use {
    BCAST_USE_SEAL = 1,
    BCAST_USE_OPEN = 2
};

/* -------------------------------------------------------------------------------------------------------------------------------
 * PROVIDERS: who computes AES and HMAC-SHA-1.
 *
 *   "evp"       libcrypto (OpenSSL 3.0.3 or later), algorithms fetched once when the provider is opened.  Everywhere.
 *   "ipsec_mb"  Intel Multi-Buffer Crypto for IPsec 1.3, loaded when opened; x86-64.  Made for batches: from 4 messages a call
 *               it overtakes evp, at 64 it is three to four times as fast.  Still opens libcrypto, for what comes alone.
 *
 * Which one computed a message cannot be seen from its bytes.  Each computes its known answers before it is given out: AES-128
 * (SP 800-38A), AES-CM (RFC 3711 B.2) and HMAC-SHA-1 (RFC 2202), alone, in a short burst and in a long one.
 *
 * Opening takes a millisecond or two: once per thread, not per message.
 */
typedef struct bcast_provider bcast_provider;

/*
 * Open a provider in `storage` (BCAST_PROVIDER_SIZE bytes, aligned).  `name`: "evp", "ipsec_mb", or NULL for the fastest there is.
 * *provider points into storage, or is NULL on failure.  BCAST_E_ARGUMENT: storage or provider is NULL.  BCAST_E_STORAGE: too
 * little or not aligned.  BCAST_E_NO_PROVIDER: no such name, or its library is not installed, or not of the version this was built
 * for (ipsec_mb: same major and minor number).  BCAST_E_KNOWN_ANSWER: it computes wrongly; with NULL the next one is taken
 * instead.  BCAST_E_CRYPTO: its library could not be initialised.
 */
int bcast_provider_open(void *storage, size_t room, const char *name, bcast_provider **provider);

/* Give back what the provider holds and clear its storage.  Wipe the key contexts made with it first.  NULL is ignored. */
void bcast_provider_close(bcast_provider *provider);

/* What is at work.  Strings live as long as the provider; those of a part that is not there are "". */
typedef struct bcast_information {
    const char *version;            /* of this library */
    const char *provider;           /* "evp", "ipsec_mb" */
    const char *libcrypto_version;  /* of the one loaded */
    const char *ipsec_mb_version;   /* of the one loaded; "" with evp */
    const char *ipsec_mb_isa;       /* what it chose for this processor: "avx512", "avx2", ... */
    uint32_t ipsec_mb_built;        /* 1: this library was built with support for it */
    uint32_t burst;                 /* messages that share one call of the provider; larger batches are cut */
} bcast_information;
/* BCAST_E_NOT_READY with a NULL or closed provider; version, ipsec_mb_built and burst are told even then. */
int bcast_info(const bcast_provider *provider, bcast_information *information);

/* "1.0.0", of the library at hand. */
const char *bcast_version(void);

/* -------------------------------------------------------------------------------------------------------------------------------
 * KEY CONTEXTS: everything that can be computed once per key.
 *
 * AES schedules, HMAC midstates, the keys derived with f_auth and with the MIKEY PRF, the encrypted PEK.  Sealing and opening set
 * up nothing.  Every _init takes storage (size and alignment above) and returns the context in it; every _wipe gives back the
 * provider's handles and clears the storage, and may be called again (NULL and cleared storage are ignored).  Setting up storage
 * that holds a context without wiping it first loses the handles of the old one (evp).  The key bytes handed in may be cleared as
 * soon as _init returns.
 *
 * A context must not be moved or copied: use it where it was set up.  One array holds them all:
 *
 *     unsigned char *room = aligned_alloc(BCAST_ALIGNMENT, (size_t)services * BCAST_DRM_KEY_SIZE);
 *     for (size_t i = 0; i < services; i++)
 *         status = bcast_drm_key_init(room + i * BCAST_DRM_KEY_SIZE, BCAST_DRM_KEY_SIZE, provider, &keys[i], use, &key[i]);
 *
 * What they cost: up to 15 microseconds each, once per key and never per message.  Every _init gives BCAST_E_ARGUMENT for a NULL
 * that must not be, BCAST_E_STORAGE for storage that is too small or not aligned, BCAST_E_NOT_READY for a provider that is not open, and
 * BCAST_E_CRYPTO when the library fails; *key is NULL then and the storage is clear.
 */
typedef struct bcast_drm_key bcast_drm_key;              /* one service and/or programme of the DRM Profile */
typedef struct bcast_smartcard_key bcast_smartcard_key;  /* one SEK with its RAND, and the CSB ID it is used with */
typedef struct bcast_smk bcast_smk;                      /* one subscriber's SMK */

/* Keys of a DRM service; each 16 bytes or NULL when not held.  A pair belongs together (SEAK = SEK || SAS, PEAK = PEK || PAS). */
typedef struct bcast_drm_keys {
    const uint8_t *sek;
    const uint8_t *sas;
    const uint8_t *pek;
    const uint8_t *pas;
} bcast_drm_keys;

/*
 * `use`: enum bcast_use.  BCAST_E_ARGUMENT when no key is given.
 *
 * Sealing the service part takes SEK and SAS, the programme part PEK and PAS, both parts all four.  Opening takes what the viewer
 * has: SEK and SAS (a subscriber to the service), PEK and PAS (who bought the programme), or all four.
 */
int bcast_drm_key_init(void *storage, size_t room, bcast_provider *provider, const bcast_drm_keys *keys, uint32_t use,
                       bcast_drm_key **key);
void bcast_drm_key_wipe(bcast_drm_key *key);

/*
 * `sek` 16 bytes.  `rand`, `rand_length`: the RAND of the LTKM that delivered this SEK, BCAST_RAND_LENGTH bytes, the same for all
 * its subscribers; or the empty RAND, length 0, of a SEK that was provisioned and not delivered (smartcard-profile 4.4).  `rand` is
 * never NULL: a SEK whose RAND is not known opens nothing (BCAST_E_ARGUMENT).
 *
 * `csb_id`, 4 bytes: what sealing puts into each STKM, and what opening is prepared for.  A STKM opens with the CSB ID of its own
 * header, whichever it is; one under another CSB ID than this takes three runs of the PRF more.  NULL: there is none, each STKM is
 * opened so, and sealing gives BCAST_E_USE.
 */
int bcast_smartcard_key_init(void *storage, size_t room, bcast_provider *provider, const uint8_t *sek, const uint8_t *csb_id,
                             const uint8_t *rand, size_t rand_length, bcast_smartcard_key **key);
void bcast_smartcard_key_wipe(bcast_smartcard_key *key);

/*
 * `smk` 32 bytes: the subscriber management key that GBA gave this subscriber (smartcard-profile 4.1).  Serves LTKMs and
 * verification messages, both directions.  Which SMK a message is under is the caller's knowledge: its identities say whose it is.
 */
int bcast_smk_init(void *storage, size_t room, bcast_provider *provider, const uint8_t *smk, bcast_smk **key);
void bcast_smk_wipe(bcast_smk *key);

/* -------------------------------------------------------------------------------------------------------------------------------
 * DRM PROFILE: STKM (drm-profile 1.1)
 *
 * One message tells: which keys encrypt the stream now (and, when wanted, next), for how long, under which rights.  The key
 * material is encrypted under PEK when there is a programme part, else under SEK; PEK itself travels encrypted under SEK when
 * there are both.  programme_MAC covers everything before it, service_MAC everything before it and so programme_MAC too.
 */

/* bcast_drm_stkm.present: which optional parts there are.  Bits. */
enum bcast_drm_present {
    BCAST_DRM_SERVICE = 1,      /* service_flag: service_CID_extension, service_MAC */
    BCAST_DRM_PROGRAMME = 2,    /* programme_flag: programme_CID_extension, programme_MAC; with SERVICE also encrypted_PEK */
    BCAST_DRM_TIMESTAMP = 4,    /* timestamp_flag */
    BCAST_DRM_NEXT = 8,         /* next_traffic_key_flag: next_id, next_traffic_key_material (SRTP: next_salt) */
    BCAST_DRM_CRITERIA = 16,    /* access_criteria_flag */
    BCAST_DRM_PERMISSIONS = 32  /* permissions_flag: permissions_category; needs PROGRAMME */
};

/*
 * The content of a STKM.  Sealing reads it, opening fills it; decoding fills it with what is on the wire, key material still
 * encrypted (or, in a partial STKM, in clear).  Sealing ignores the fields of parts that `present` leaves out.
 *
 * A period of 32 seconds of an IPsec service, without a programme:
 *
 *     bcast_drm_stkm message = {
 *         .present = BCAST_DRM_SERVICE | BCAST_DRM_TIMESTAMP,
 *         .traffic_protection_protocol = BCAST_IPSEC,
 *         .traffic_key_lifetime = 5,
 *         .id_length = 4,                          the SPI
 *         .material_length = BCAST_KEY_LENGTH,
 *         .service_CID_extension = 17,
 *         .timestamp = now + 2208988800,           from Unix time
 *     };
 *     memcpy(message.id, spi, 4);
 *     memcpy(message.traffic_key_material, tek, BCAST_KEY_LENGTH);
 */
typedef struct bcast_drm_stkm {
    uint8_t present;                      /* enum bcast_drm_present */
    uint8_t protection_after_reception;   /* 0..3 */
    uint8_t traffic_protection_protocol;  /* enum bcast_protocol */
    uint8_t traffic_authentication_flag;  /* 0, 1 */
    uint8_t traffic_key_lifetime;         /* n of 2^n seconds, 0..15 */
    uint8_t permissions_category;         /* with PERMISSIONS */
    uint8_t id_length;                    /* of id and next_id: IPsec 4, else 1..16 */
    uint8_t material_length;              /* 32 for IPsec with traffic_authentication_flag (TEK || TAS), else 16 (TEK) */
    uint8_t id[16];                       /* wire: security_parameter_index, master_key_index or key_indicator, by protocol */
    uint8_t next_id[16];
    uint8_t traffic_key_material[32];     /* SECRET.  TEK, TEK || TAS */
    uint8_t next_traffic_key_material[32]; /* SECRET */
    uint8_t salt[14];                     /* wire: master_salt; SRTP only */
    uint8_t next_salt[14];
    uint32_t programme_CID_extension;
    uint32_t service_CID_extension;
    uint32_t number_of_access_criteria;   /* opening; when sealing it is counted */
    int64_t timestamp;                    /* NTP seconds (since 1900-01-01 UTC), 64 bits, 1858-11-17 .. 2038-04-22 (rules R15) */
    bcast_span access_criteria;           /* with CRITERIA: the descriptors, each tag 8, length 8, value; at most 255 */
    /* opening and decoding only: where things stand */
    uint32_t size;                        /* bytes of the message */
    uint32_t material_at;                 /* offsets; 0 = not there */
    uint32_t next_material_at;
    uint32_t encrypted_PEK_at;
    uint32_t programme_MAC_at;
    uint32_t service_MAC_at;
} bcast_drm_stkm;

/*
 * Seal one STKM: encrypt the key material, put in the encrypted PEK, programme_MAC, service_MAC.
 *
 * base, base_length: what message->access_criteria is a span of; NULL, 0 when there is none.
 * out, room, *length: as everywhere (LENGTHS FIRST); at least 38 bytes, at most BCAST_DRM_STKM_MAX.
 * The same message under the same context gives the same bytes, on every machine and with every provider.
 *
 * BCAST_E_KEY_UNAVAILABLE: a flag asks for a key that the context lacks (SEK and SAS with SERVICE, PEK and PAS with PROGRAMME).
 * BCAST_E_USE: the context was set up for opening only.  BCAST_E_BAD_LENGTH, _BAD_VALUE, _UNSUPPORTED: the field of the message
 * that the layout does not allow; too long a message names its longest field.  BCAST_E_SPAN: access_criteria lies outside base.
 */
int bcast_drm_stkm_seal(bcast_provider *provider, const bcast_drm_key *key, const bcast_drm_stkm *message, const uint8_t *base,
                        size_t base_length, uint8_t *out, size_t room, size_t *length, bcast_error *error);

/*
 * Open one STKM: layout, MACs, then keys.  *message holds its content, the key material in clear; its spans and offsets count
 * from data.  lenient: enum bcast_lenient.
 *
 * Every MAC whose key is held is checked.  A subscriber to the service holds SEK and SAS and gets PEK out of the message; who
 * bought the programme holds PEK and PAS; who holds all four has both MACs checked, and encrypted_PEK must be his PEK.
 *
 * BCAST_E_TRUNCATED .. _UNSUPPORTED: the layout, with offset and field.  BCAST_E_KEY_UNAVAILABLE: no MAC could be checked, or
 * the key that encrypts the material is missing.  BCAST_E_INTEGRITY: a MAC or the PEK does not fit.  *message is zero then.
 * A repeated or old message opens: compare its timestamp with the last one (rules R14).
 *
 * What a monitoring probe does with a datagram:
 *
 *     status = bcast_drm_stkm_open(provider, key, datagram, size, 0, &message, &error);
 *     if (status >= 200 && status < 300)       broken: error.offset, and bcast_error_path() for the field
 *     else if (status == BCAST_E_INTEGRITY)    not of this service, or forged, or of another key period
 *     else if (status == BCAST_OK)             message.traffic_key_material, wanted from message.timestamp on
 */
int bcast_drm_stkm_open(bcast_provider *provider, const bcast_drm_key *key, const uint8_t *data, size_t data_length,
                        uint32_t lenient, bcast_drm_stkm *message, bcast_error *error);

/*
 * The fields of a STKM without any key: nothing is verified, key material stays as it is on the wire.
 * partial 1: it must be a partial one, encrypted_PEK and MACs zero (rules R13), and its key material is in clear; the bytes alone
 * do not tell, so ask for 1 only where a partial STKM is expected.  Errors as bcast_drm_stkm_open's first three.
 */
int bcast_drm_stkm_decode(const uint8_t *data, size_t data_length, uint32_t partial, uint32_t lenient, bcast_drm_stkm *message,
                          bcast_error *error);

/*
 * The partial STKM of flow F3 (drm-profile 1.7): key material IN CLEAR, zeros for encrypted_PEK and MACs.  To complete one:
 * decode it, put the BSM's own fields in, seal with the partial message as the base, into another buffer:
 *
 *     bcast_drm_stkm_decode(partial, size, 1, 0, &message, &error);
 *     message.service_CID_extension = extension;
 *     bcast_drm_stkm_seal(provider, key, &message, partial, size, out, room, &length, &error);
 */
int bcast_drm_stkm_partial(const bcast_drm_stkm *message, const uint8_t *base, size_t base_length, uint8_t *out, size_t room,
                           size_t *length, bcast_error *error);

/*
 * BATCHES.  `jobs` are done in order, their results stand one after the other in the arena.  Each job has a key context, an input
 * and a status of its own; a bad one takes no room and stops nobody.  BCAST_OK: all done.  BCAST_E_SOME: look at the jobs.
 * Any other status: an argument of the call itself, no job was looked at.  A context may stand in many jobs.
 * arena == NULL: only job.length (and its status) and *used are set, no key is touched.  A job that finds the arena full gives
 * BCAST_E_ROOM; later, smaller ones may still fit.  Nothing outside the arena is written, and in it nothing after *used is left.
 * A job is input and output: the caller may hand the same array in again.
 *
 * The bytes do not depend on how jobs are grouped: one call for 10,000 gives what 10,000 calls for one give.  64 jobs and more are
 * worth a batch; bcast_information.burst is what a provider takes at once.  Offsets are 32 bits: of an arena of more than 4 GiB
 * the first 4 GiB are used.  When the cryptographic library fails, all jobs of that burst have BCAST_E_CRYPTO and no bytes.
 *
 *     bcast_drm_seal_job jobs[N];
 *     for (i = 0; i < N; i++)
 *         jobs[i] = (bcast_drm_seal_job){.key = key[i], .message = &message[i]};
 *     status = bcast_drm_stkm_seal_batch(provider, jobs, N, arena, sizeof arena, &used);
 *     for (i = 0; i < N; i++)
 *         if (jobs[i].error.code == BCAST_OK)
 *             send(socket[i], arena + jobs[i].offset, jobs[i].length, 0);
 */
typedef struct bcast_drm_seal_job {
    const bcast_drm_key *key;
    const bcast_drm_stkm *message;
    const uint8_t *base;
    uint32_t base_length;
    uint32_t offset;      /* out: where in the arena */
    uint32_t length;      /* out: bytes; 0 on failure */
    bcast_error error;    /* out */
} bcast_drm_seal_job;
int bcast_drm_stkm_seal_batch(bcast_provider *provider, bcast_drm_seal_job *jobs, size_t count, uint8_t *arena, size_t room,
                              size_t *used);

/* A job of opening: as above without an arena.  *message is zero unless error.code is BCAST_OK. */
typedef struct bcast_drm_open_job {
    const bcast_drm_key *key;
    const uint8_t *data;
    bcast_drm_stkm *message;  /* out; one per job */
    uint32_t data_length;
    uint32_t lenient;
    bcast_error error;        /* out */
} bcast_drm_open_job;
int bcast_drm_stkm_open_batch(bcast_provider *provider, bcast_drm_open_job *jobs, size_t count);

/* -------------------------------------------------------------------------------------------------------------------------------
 * SMARTCARD PROFILE: STKM (smartcard-profile 4.4, 5.3)
 *
 * Sealing builds the canonical order HDR, EXT 3, EXT 5, T, KEMAC.  Opening takes EXT payloads anywhere (rules R16); `canonical`
 * says whether sealing the same fields again would give the same order, and bcast_mikey_next() walks the payloads when not.
 *
 * The key context holds what the LTKM delivered, SEK and RAND, and the CSB ID.  A crypto period is then
 *
 *     bcast_smartcard_stkm message = {
 *         .counter = counter,                      start of the period; never twice under one context
 *         .tek_id_length = 2,
 *         .has_salt = 1,                           SRTP
 *         .has_management = 1,
 *         .traffic_protection_protocol = BCAST_SRTP,
 *         .traffic_key_lifetime = 5,
 *     };
 *     memcpy(message.sek_id, sek_id, 4);           and key_domain_id, tek_id, tek, salt
 *     status = bcast_smartcard_stkm_seal(provider, key, &message, NULL, 0, packet, sizeof packet, &length, &error);
 */

/* Access criteria and terminal binding: the tail of both kinds of management data (smartcard-profile 5.3). */
typedef struct bcast_management_tail {
    uint8_t has_criteria;                 /* access_criteria_flag */
    uint8_t has_binding;                  /* terminal_binding_flag; never set by the flows (rules R18) */
    uint16_t number_of_access_criteria;   /* opening; when sealing it is counted */
    uint32_t terminal_binding_key_id;
    bcast_span access_criteria;           /* the descriptors, each tag 8, length 8, value */
    bcast_span permissions_issuer_uri;    /* up to 255 bytes */
} bcast_management_tail;

/*
 * The content of a STKM.  Sealing reads it, opening fills it; decoding leaves tek and salt 0, but for a partial STKM.  Without
 * has_management the four fields behind it and the tail are ignored.
 */
typedef struct bcast_smartcard_stkm {
    uint32_t counter;                     /* wire: payloads[i].ts_value; start of the crypto period (rules R5) */
    uint32_t max_size;                    /* sealing: bytes the message may have; 0 = BCAST_CARD_MESSAGE_MAX */
    uint8_t csb_id[4];                    /* opening; when sealing it is the context's */
    uint8_t key_domain_id[3];
    uint8_t sek_id[4];                    /* Key Group, Key Number; when building neither is 0000 */
    uint8_t tek_id[4];                    /* the first tek_id_length bytes; when building neither 0000 nor ffff */
    uint8_t tek_id_length;                /* 2 (4 is read under BCAST_LENIENT_MTK_ID_4, never built) */
    uint8_t tek[16];                      /* SECRET */
    uint8_t salt[14];                     /* with has_salt */
    uint8_t has_salt;                     /* TEK+SALT; with management: exactly when the protocol is SRTP (rules R18) */
    uint8_t has_management;               /* EXT 5, subtype 2: what follows */
    uint8_t protection_after_reception;   /* 0..3 */
    uint8_t traffic_protection_protocol;  /* enum bcast_protocol */
    uint8_t traffic_authentication_flag;
    uint8_t traffic_key_lifetime;         /* n of 2^n seconds, 0..15 */
    bcast_management_tail tail;
    bcast_span other_key_ids;             /* Key IDs of types above 2, each type 8, length 8, value */
    /* opening and decoding only */
    uint8_t partial;                      /* decoding: NULL algorithms, key data in clear */
    uint8_t canonical;                    /* payload order is the one that sealing builds */
    uint16_t reserved;
    uint32_t size;                        /* bytes of the message */
    bcast_span encr_data;
    uint32_t mac_at;
} bcast_smartcard_stkm;

/*
 * Seal one STKM: encrypt TEK (and salt) with AES-CM under COUNTER, append HMAC-SHA-1.
 *
 * AES-CM: two different messages under one context must never have one COUNTER (rules R1); that is the caller's to ensure.
 * base: what the spans of the message count from.  At least 80 bytes; at most max_size, else BCAST_E_BAD_LENGTH with the longest
 * field.  BCAST_E_BAD_VALUE at `salt`: a salt without SRTP, or SRTP without one; at `sek_id` or `tek_id`: no key has that id.
 * BCAST_E_USE: the context has no CSB ID.  Other errors as bcast_drm_stkm_seal.
 */
int bcast_smartcard_stkm_seal(bcast_provider *provider, const bcast_smartcard_key *key, const bcast_smartcard_stkm *message,
                              const uint8_t *base, size_t base_length, uint8_t *out, size_t room, size_t *length,
                              bcast_error *error);

/*
 * Open one STKM: layout, MAC, then the key.  Window and replay are the caller's: compare message->counter with what the LTKM allows
 * and with the last one (rules R3, R4).  The CSB ID is that of the message's own header (smartcard-profile 4.4).
 *
 * BCAST_E_UNSUPPORTED at KEMAC.encr_alg: a partial STKM, NULL algorithms (rules R11).  BCAST_E_INTEGRITY: the MAC does not fit; so
 * it is with a wrong CSB ID or RAND.  What was wrong inside a message whose MAC is right has the path KEMAC.encr_data...
 */
int bcast_smartcard_stkm_open(bcast_provider *provider, const bcast_smartcard_key *key, const uint8_t *data, size_t data_length,
                              uint32_t lenient, bcast_smartcard_stkm *message, bcast_error *error);

/* Without a key.  tek and salt are filled from a partial STKM only.  `partial` 1: it must be one. */
int bcast_smartcard_stkm_decode(const uint8_t *data, size_t data_length, uint32_t partial, uint32_t lenient,
                                bcast_smartcard_stkm *message, bcast_error *error);

/* The partial STKM of flow F3: CSB ID 0, NULL algorithms, TEK IN CLEAR. */
int bcast_smartcard_stkm_partial(const bcast_smartcard_stkm *message, const uint8_t *base, size_t base_length, uint8_t *out,
                                 size_t room, size_t *length, bcast_error *error);

/* As bcast_drm_seal_job and bcast_drm_open_job. */
typedef struct bcast_smartcard_seal_job {
    const bcast_smartcard_key *key;
    const bcast_smartcard_stkm *message;
    const uint8_t *base;
    uint32_t base_length;
    uint32_t offset;
    uint32_t length;
    bcast_error error;
} bcast_smartcard_seal_job;
int bcast_smartcard_stkm_seal_batch(bcast_provider *provider, bcast_smartcard_seal_job *jobs, size_t count, uint8_t *arena,
                                    size_t room, size_t *used);

typedef struct bcast_smartcard_open_job {
    const bcast_smartcard_key *key;
    const uint8_t *data;
    bcast_smartcard_stkm *message;
    uint32_t data_length;
    uint32_t lenient;
    bcast_error error;
} bcast_smartcard_open_job;
int bcast_smartcard_stkm_open_batch(bcast_provider *provider, bcast_smartcard_open_job *jobs, size_t count);

/* -------------------------------------------------------------------------------------------------------------------------------
 * SMARTCARD PROFILE: LTKM (smartcard-profile 4.4, 4.5, 5.4)
 *
 * Each subscriber has an SMK of his own, so each message is protected by keys derived for it alone: three runs of the MIKEY PRF,
 * one AES and one HMAC key set-up are part of sealing one, about four times the work of a STKM.
 *
 * Issuing a SEK to all subscribers: one message that they share but for `counter` and the span of `idr`, one job each:
 *
 *     message[i] = common;
 *     message[i].counter = ++counter_of[i];        stored before the message leaves (rules R2)
 *     message[i].idr = (bcast_span){offset_of[i], length_of[i]};
 *     jobs[i] = (bcast_ltkm_seal_job){.key = smk[i], .message = &message[i], .base = names, .base_length = names_length};
 *     status = bcast_smartcard_ltkm_seal_batch(provider, jobs, count, arena, room, &used);
 */

/* Which values a security policy extension carries.  Bits. */
enum bcast_policy_present {
    BCAST_POLICY_COST = 1,
    BCAST_POLICY_PURSE = 2,
    BCAST_POLICY_PLAYBACK = 4,
    BCAST_POLICY_TEK = 8
};

/* SPE block (smartcard-profile 7, decision 12).  A mode (0 add, 1 set) needs its value. */
typedef struct bcast_policy {
    uint8_t security_policy_extension;    /* any number; meanings are unverified */
    uint8_t present;                      /* enum bcast_policy_present */
    uint8_t purse_mode;
    uint8_t playback_mode;
    uint8_t tek_mode;
    uint8_t reserved[3];
    uint32_t cost_value;
    uint32_t purse;
    uint32_t playback;
    uint32_t tek;
} bcast_policy;

/* The content of an LTKM: which SEK, for which COUNTERs of STKMs, to whom. */
typedef struct bcast_smartcard_ltkm {
    uint32_t counter;                     /* wire: payloads[i].ts_value; rising per SMK (rules R2) */
    uint32_t max_size;                    /* sealing: as in bcast_smartcard_stkm */
    uint8_t csb_id[4];                    /* of the SEK, as is rand */
    uint8_t rand[16];
    uint8_t key_domain_id[3];
    uint8_t verification_requested;       /* V; 0 for broadcast (rules R19) */
    uint8_t sek_id[4];                    /* as in bcast_smartcard_stkm */
    uint8_t sek[16];                      /* SECRET.  Zero in a withdrawal */
    uint32_t ts_low;                      /* the COUNTERs of STKMs that the SEK opens; ffffffff..00000000 withdraws it (rules R4) */
    uint32_t ts_high;
    uint8_t key_data_type;                /* BCAST_LTKM_KEY_TYPE (0 is read, never built) */
    uint8_t interval_length;              /* 4 (2 is read under BCAST_LENIENT_INTERVAL_2, never built) */
    uint8_t idi_type;                     /* 0 NAI; any is taken */
    uint8_t idr_type;                     /* 0 NAI, 1 URI */
    uint8_t has_management;               /* EXT 5, subtype 1: what follows */
    uint8_t consumption_reporting_flag;   /* needs verification_requested */
    uint8_t has_policy;
    uint8_t reserved;
    bcast_policy policy;
    bcast_management_tail tail;
    bcast_span idi;                       /* bare identities */
    bcast_span idr;
    bcast_span other_key_ids;
    /* opening and decoding only */
    uint32_t canonical;
    uint32_t size;
    bcast_span encr_data;
    uint32_t mac_at;
} bcast_smartcard_ltkm;

/*
 * Seal one LTKM: derive the message's keys from SMK, CSB ID and RAND, encrypt SEK and window, append HMAC-SHA-1.
 *
 * The same warning as for STKMs: one COUNTER per SMK, for everything under it, rising (rules R2).
 * BCAST_E_BAD_VALUE: sek (a withdrawal carries zero bytes), ts_high (a window wider than BCAST_WINDOW_MAX), key_data_type, sek_id
 * (no key has that id), consumption_reporting_flag without verification_requested.  Other errors as bcast_smartcard_stkm_seal.
 */
int bcast_smartcard_ltkm_seal(bcast_provider *provider, const bcast_smk *key, const bcast_smartcard_ltkm *message,
                              const uint8_t *base, size_t base_length, uint8_t *out, size_t room, size_t *length,
                              bcast_error *error);
/* Open one LTKM.  Whether its COUNTER is new, and what its window or withdrawal means, is the caller's (rules R2-R4). */
int bcast_smartcard_ltkm_open(bcast_provider *provider, const bcast_smk *key, const uint8_t *data, size_t data_length,
                              uint32_t lenient, bcast_smartcard_ltkm *message, bcast_error *error);
/* Without a key: sek, ts_low, ts_high, key_data_type and interval_length stay 0. */
int bcast_smartcard_ltkm_decode(const uint8_t *data, size_t data_length, uint32_t lenient, bcast_smartcard_ltkm *message,
                                bcast_error *error);

/* As bcast_drm_seal_job and bcast_drm_open_job; a job is a subscriber. */
typedef struct bcast_ltkm_seal_job {
    const bcast_smk *key;
    const bcast_smartcard_ltkm *message;
    const uint8_t *base;
    uint32_t base_length;
    uint32_t offset;
    uint32_t length;
    bcast_error error;
} bcast_ltkm_seal_job;
int bcast_smartcard_ltkm_seal_batch(bcast_provider *provider, bcast_ltkm_seal_job *jobs, size_t count, uint8_t *arena, size_t room,
                                    size_t *used);

typedef struct bcast_ltkm_open_job {
    const bcast_smk *key;
    const uint8_t *data;
    bcast_smartcard_ltkm *message;
    uint32_t data_length;
    uint32_t lenient;
    bcast_error error;
} bcast_ltkm_open_job;
int bcast_smartcard_ltkm_open_batch(bcast_provider *provider, bcast_ltkm_open_job *jobs, size_t count);

/* -------------------------------------------------------------------------------------------------------------------------------
 * SMARTCARD PROFILE: the card's answer to an LTKM with V = 1 (smartcard-profile 1.5, 4.4), with or without LTKM reporting (R25).
 *
 * Its MAC covers things it does not carry: RAND and IDi of the LTKM that is answered, which the caller kept (rules R36).
 *
 *     const bcast_answered ltkm = {rand, idi, idi_length};
 *     status = bcast_verification_open(provider, smk, &ltkm, data, size, 0, 0, &answer, &error);
 *     if (status == BCAST_OK && answer.counter == counter)      the card has the key
 */
/* The content of a card's answer. */
typedef struct bcast_verification {
    uint32_t counter;                     /* that of the LTKM */
    uint32_t max_size;                    /* sealing: as in bcast_smartcard_stkm */
    uint8_t csb_id[4];
    uint8_t idr_type;
    uint8_t has_reporting;                /* EXT 5, subtype 3 */
    uint8_t canonical;                    /* opening */
    uint8_t number_of_entries;            /* opening */
    bcast_span idr;
    bcast_span reporting;                 /* the LTKM reporting data after the subtype octet */
    uint32_t size;                        /* opening and decoding only */
    uint32_t mac_at;
} bcast_verification;

/* What the LTKM said: RAND (16 bytes) and the bare IDi. */
typedef struct bcast_answered {
    const uint8_t *rand;
    const uint8_t *idi;
    size_t idi_length;
} bcast_answered;

/* Make a card's answer.  Errors as bcast_smartcard_stkm_seal; what is wrong in `reporting` has payloads[0].management paths. */
int bcast_verification_seal(bcast_provider *provider, const bcast_smk *key, const bcast_answered *ltkm,
                            const bcast_verification *message, const uint8_t *base, size_t base_length, uint8_t *out, size_t room,
                            size_t *length, bcast_error *error);
/*
 * Verify a card's answer; *message is filled only when its MAC fits what was answered (else BCAST_E_INTEGRITY).
 * reporting 1: the message must carry LTKM reporting; 0: it must not.  Whether COUNTER is that of the LTKM is the caller's.
 */
int bcast_verification_open(bcast_provider *provider, const bcast_smk *key, const bcast_answered *ltkm, const uint8_t *data,
                            size_t data_length, uint32_t reporting, uint32_t lenient, bcast_verification *message,
                            bcast_error *error);
/* Without a key: nothing is verified. */
int bcast_verification_decode(const uint8_t *data, size_t data_length, uint32_t reporting, uint32_t lenient,
                              bcast_verification *message, bcast_error *error);

/* -------------------------------------------------------------------------------------------------------------------------------
 * LOOKING INTO LISTS, and telling what is wrong
 */

/* One access criteria descriptor, or one Key ID: they have the same shape. */
typedef struct bcast_item {
    uint8_t tag;
    uint8_t length;
    uint16_t reserved;
    uint32_t value_at;    /* offset from the base of the span */
} bcast_item;

/*
 * The next item of `span`, which is moved past it: 1, or 0 at the end (and where the bytes do not hold together).
 * `base` as in the call that gave the span.
 *
 *     bcast_span rest = message.access_criteria;
 *     while (bcast_item_next(datagram, &rest, &item) == 1)
 *         use(item.tag, datagram + item.value_at, item.length);
 */
int bcast_item_next(const uint8_t *base, bcast_span *span, bcast_item *item);

/* One payload of a MIKEY message that was opened or decoded. */
typedef struct bcast_payload {
    uint8_t number;       /* 1 KEMAC, 5 T, 6 ID, 9 V, 10 SP, 11 RAND, 21 EXT */
    uint8_t ext_type;     /* of an EXT */
    uint16_t reserved;
    uint32_t offset;      /* of the payload, its next-payload octet first */
    uint32_t length;
} bcast_payload;

/*
 * Walk the payloads of a message that opened or decoded: clear *payload before the first call, hand it back for the next.
 * 1, or 0 at the end.  `size`: message.size.
 */
int bcast_mikey_next(const uint8_t *data, size_t size, bcast_payload *payload);

/* "truncated", "bad_value", ...: the code in words, as the Python side spells it.  Never NULL. */
const char *bcast_status_name(int status);

/*
 * The dotted path of the field of `error`, ended with NUL; *length without it.  Out, room, length as everywhere.
 * No path is longer than BCAST_PATH_MAX with its NUL.
 *
 *     char path[BCAST_PATH_MAX];
 *     if (bcast_error_path(&error, path, sizeof path, &length) == BCAST_OK)
 *         log("%s at byte %u: %s", bcast_status_name(error.code), error.offset, path);
 *
 * might say "bad_length at byte 26: payloads[0].ids[2].length".
 */
#define BCAST_PATH_MAX 128
int bcast_error_path(const bcast_error *error, char *out, size_t room, size_t *length);

/* cdef end */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
