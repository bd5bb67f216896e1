# SPDX-License-Identifier: Apache-2.0
"""MIKEY in pre-shared-key mode, payload by payload (RFC 3830 with RFC 4563 and RFC 5410; smartcard-profile 1-3).

One set of tables serves the kind ``mikey`` and, through a :class:`Profile`, the messages of the Smartcard Profile: a profile adds
checks, it never changes a layout.

Checks at a ``next_payload``, in this order.  That of KEMAC or V: 0, and the extensions that must be there have come.  Any other:
the number is known (it could not be skipped otherwise); T, RAND, KEMAC and V come once; the profile's order.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Final, Literal

from construct import this

from pybcast.errors import BadLength, BadValue, Unsupported
from pybcast.messages import (
    ErrorPayload,
    Extension,
    Identity,
    Kemac,
    KeyData,
    KeyId,
    KeyIds,
    Leniency,
    MikeyMessage,
    MikeyPayload,
    Rand,
    SecurityPolicy,
    SrtpId,
    Timestamp,
    Verification,
)
from pybcast.wire.schema import (
    LIKELY,
    SURE,
    Area,
    Bits,
    Check,
    Composite,
    Context,
    Cursor,
    Fault,
    List,
    Octets,
    Opaque,
    Remaining,
    Run,
    SecretOctets,
    Switch,
    Table,
    UInt,
    Values,
    equals,
    field,
    leniencies,
    one_of,
    read,
    write,
    zero,
)

LAST, KEMAC, T, ID, V, SP, RAND, ERR, KEY_DATA, EXT = 0, 1, 5, 6, 9, 10, 11, 12, 20, 21
"""next payload numbers (IANA mikey-payloads; smartcard-profile 1.2).  The others belong to modes we do not speak."""
PAYLOADS: Final = {LAST: "none", KEMAC: "KEMAC", T: "T", ID: "ID", V: "V", SP: "SP", RAND: "RAND", ERR: "ERR", EXT: "EXT"}
FINAL: Final = frozenset((KEMAC, V))  # nothing may follow: their MAC covers all before it (rules R16)
ONCE: Final = frozenset((T, RAND, KEMAC, V))  # rules R16
EXT_KEY_ID, EXT_OMA_BCAST = 3, 5

VERSION: Final = 1
DATA_TYPES: Final = {0: "PSK message", 1: "PSK verification message", 6: "error"}
MAP_TYPES: Final = {0: "SRTP-ID", 1: "empty map"}
TS_SIZES: Final = {0: 8, 1: 8, 2: 4, 3: 4}
TS_TYPES: Final = {0: "NTP-UTC", 1: "NTP", 2: "COUNTER", 3: "NTP-UTC-32"}
ID_TYPES: Final = {0: "NAI", 1: "URI", 2: "byte string"}
ENCR_ALGS: Final = {0: "NULL", 1: "AES-CM-128", 2: "AES-KW-128", 3: "AES-CM-256"}
MAC_SIZES: Final = {0: 0, 1: 20, 2: 32}
MAC_ALGS: Final = {0: "NULL", 1: "HMAC-SHA-1-160", 2: "HMAC-SHA-256-256"}
VER_SIZES: Final = {0: 0, 1: 20}
EXT_TYPES: Final = {0: "vendor ID", 1: "SDP IDs", 2: "TESLA I-Key", 3: "Key ID", 4: "CSB-ID", 5: "OMA BCAST", 7: "3GPP key params"}
KEY_ID_TYPES: Final = {0: "MBMS Key Domain ID", 1: "MBMS Service Key ID (SEK/PEK)", 2: "MBMS Traffic Key ID (TEK)"}
KEY_TYPES: Final = {0: "TGK", 1: "TGK+SALT", 2: "TEK", 3: "TEK+SALT", 4: "GTGK", 5: "GTGK+SALT", 6: "env key", 7: "env psk"}
SALTED: Final = frozenset((1, 3, 5))
KV_TYPES: Final = {0: "none", 1: "SPI/MKI", 2: "interval"}
ERRORS: Final = {
    0: "auth failure", 1: "invalid TS", 2: "PRF", 3: "MAC alg", 4: "encr alg", 5: "hash", 6: "DH", 7: "ID", 8: "cert", 9: "SP",
    10: "SP param", 11: "data type", 12: "unspecified", 13: "unsupported message type", 14: "ticket", 15: "TP param",
}  # fmt: skip

KeyDataKind = Literal["mikey", "smartcard-stkm", "smartcard-ltkm", "smartcard-parental"]


_KNOWN_ENCR_ALG: Final = one_of(ENCR_ALGS, Unsupported)
_KNOWN_MAC_ALG: Final = one_of(MAC_SIZES, Unsupported)


@dataclass
class Progress:
    """What the chain's rules remember while a message is read or written."""

    current: int = LAST
    step: int = 0
    seen: set[int] = dataclass_field(default_factory=set)
    extensions: set[int] = dataclass_field(default_factory=set)
    identities: int = 0
    key_ids: list[int] = dataclass_field(default_factory=list)
    header: Any = None
    management: Any = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a kind allows beyond RFC 3830.  The defaults are those of the kind ``mikey``.

    ``order``: the payloads other than EXT, in order (SP may be left out).  ``key_ids``: the Key IDs by type, with their lengths.
    ``subtype``, ``management``: the content of EXT 5.  ``extensions``: EXT types that must be there; ``refused_extensions``: may
    not.
    """

    strict: bool = False
    data_types: tuple[int, ...] = (0, 1, 6)
    may_request_verification: bool = True
    order: tuple[int, ...] | None = None
    key_ids: tuple[tuple[int, ...], ...] = ()
    subtype: int = 0
    management: Composite | None = None
    extensions: frozenset[int] = frozenset()
    refused_extensions: frozenset[int] = frozenset()
    key_data: KeyDataKind = "mikey"
    encr_data_len: Check | None = None
    encr_alg: Check = _KNOWN_ENCR_ALG
    mac_alg: Check = _KNOWN_MAC_ALG

    def follow(self, value: int, context: Context) -> None:
        """Check of every ``next_payload``: may this payload come now?"""
        progress: Progress = context._run.state
        if progress.current in FINAL:
            if value != LAST:
                raise Fault(BadValue, f"0 ({PAYLOADS[progress.current]} is the last payload)", _payload(value))
            missing = self.extensions - progress.extensions
            if missing:
                raise Fault(BadValue, f"EXT {min(missing)} ({EXT_TYPES[min(missing)]}) before it", "none")
        elif value not in PAYLOADS:
            raise Fault(Unsupported, "a payload of pre-shared-key mode", str(value))
        elif value in ONCE and value in progress.seen:
            raise Fault(BadValue, f"no second {PAYLOADS[value]}", _payload(value))
        elif self.order is not None and value != EXT:
            self._in_order(value, progress)
        progress.seen.add(value)
        progress.current = value

    def _in_order(self, value: int, progress: Progress) -> None:
        assert self.order is not None
        if self.order[progress.step] == SP and value != SP:
            progress.step += 1
        wanted = self.order[progress.step]
        if value != wanted:
            raise Fault(BadValue, f"{_payload(wanted)} or {_payload(EXT)}", _payload(value))
        progress.step += 1


def _payload(number: int) -> str:
    return f"{number} ({PAYLOADS[number]})" if number in PAYLOADS else str(number)


# --- rows ------------------------------------------------------------------------------------------------------------


class Chain(Composite):
    """The payloads, each announced by the octet before it."""

    def __init__(self, tables: Mapping[int, Table]) -> None:
        super().__init__()
        self.tables = tables

    def _parse(self, stream: Cursor, context: Context, path: str) -> list[Context]:
        progress: Progress = context._run.state
        items: list[Context] = []
        while progress.current != LAST:
            number = progress.current
            item = self.tables[number]._parse(stream, context, f"{path}[{len(items)}]")
            item["_number"] = number
            items.append(item)
        return items

    def _build(self, obj: Sequence[Values], stream: io.BytesIO, context: Context, path: str) -> list[Context]:
        return [self.tables[item["_number"]]._build(item, stream, context, f"{path}[{index}]") for index, item in enumerate(obj)]


class KeyDataChain(Composite):
    """Key data sub-payloads, concatenated; 20 announces another one."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def _parse(self, stream: Cursor, context: Context, path: str) -> list[Context]:
        items: list[Context] = []
        while stream.position < stream.end if not items else items[-1].next_payload == KEY_DATA:
            items.append(self.table._parse(stream, context, f"{path}[{len(items)}]"))
        return items

    def _build(self, obj: Sequence[Values], stream: io.BytesIO, context: Context, path: str) -> list[Context]:
        return [self.table._build(item, stream, context, f"{path}[{index}]") for index, item in enumerate(obj)]


class Message(Table):
    """The table of a whole message: starts the chain's memory."""

    def _parse(self, stream: Cursor, context: Context, path: str) -> Context:
        context._run.state = Progress()
        return super()._parse(stream, context, path)

    def _build(self, obj: Values, stream: io.BytesIO, context: Context, path: str) -> Context:
        context._run.state = Progress()
        return super()._build(obj, stream, context, path)


def _empty_map(value: int, context: Context) -> None:
    one_of(MAP_TYPES, Unsupported)(value, context)
    if value == 1 and context.number_of_cs:
        raise Fault(BadValue, "0 (SRTP-ID), since the number of crypto sessions is not 0", "1 (empty map)")


def _no_verification(value: int, context: Context) -> None:
    if value:
        raise Fault(BadValue, "0, no verification message can be asked for here", "1")


def _csb_id(value: bytes, context: Context) -> None:
    if context._run.partial and any(value):
        raise Fault(BadValue, "00000000 in a partial STKM", value.hex())
    context._run.state.header = context


def _has_salt(context: Context) -> bool:
    return context.type in SALTED


def _key_data_checks(kind: KeyDataKind) -> dict[str, Check]:
    def interval(value: int, context: Context) -> None:
        allowed = {4, 2} if "interval-2" in context._run.lenient else {4}
        one_of(allowed, BadLength)(value, context)

    def same(value: int, context: Context) -> None:
        equals(context.vf_len, BadLength)(value, context)

    if kind == "smartcard-stkm":  # smartcard-profile 4.5; the salt is 14 bytes (rules R18)
        return {
            "next_payload": zero, "type": one_of((2, 3), BadValue), "kv": zero,
            "key_len": equals(16, BadLength), "salt_len": equals(14, BadLength),
        }  # fmt: skip
    if kind == "smartcard-ltkm":  # smartcard-profile 4.5, decisions 1 and 3: TEK, and the TGK of the first edition
        return {
            "next_payload": zero, "type": one_of((0, 2), BadValue), "kv": equals(2, BadValue),
            "key_len": equals(16, BadLength), "vf_len": interval, "vt_len": same,
        }  # fmt: skip
    if kind == "smartcard-parental":  # smartcard-profile 7, decision 15
        return {"next_payload": zero, "type": equals(2, BadValue), "kv": zero, "key_len": equals(8, BadLength)}
    return {}


def _key_data_table(kind: KeyDataKind) -> Table:
    check = {"next_payload": one_of((LAST, KEY_DATA), BadValue), "type": one_of(KEY_TYPES, Unsupported)}
    check |= {"kv": one_of(KV_TYPES, Unsupported)} | _key_data_checks(kind)
    return Table(
        field("next_payload", UInt(1), SURE, "20: another key follows", check=check["next_payload"]),
        field("type", Bits(4), SURE, "kind of key", names=KEY_TYPES, check=check["type"]),
        field("kv", Bits(4), SURE, "kind of validity", names=KV_TYPES, check=check["kv"]),
        field("key_len", UInt(2, BadLength), SURE, "bytes of key", measures="key", check=check.get("key_len")),
        field("key", SecretOctets(this.key_len), SURE, "key"),
        field("salt_len", UInt(2, BadLength), SURE, "bytes of salt", when=_has_salt, measures="salt", check=check.get("salt_len")),
        field("salt", SecretOctets(this.salt_len), SURE, "salt", when=_has_salt),
        field("spi_len", UInt(1, BadLength), SURE, "bytes of SPI or MKI", when=this.kv == 1, measures="spi"),
        field("spi", Octets(this.spi_len), SURE, "SPI or MKI", when=this.kv == 1),
        field("vf_len", UInt(1, BadLength), SURE, "bytes of VF", when=this.kv == 2, measures="vf", check=check.get("vf_len")),
        field("vf", Octets(this.vf_len), SURE, "valid from (TS low)", when=this.kv == 2),
        field("vt_len", UInt(1, BadLength), SURE, "bytes of VT", when=this.kv == 2, measures="vt", check=check.get("vt_len")),
        field("vt", Octets(this.vt_len), SURE, "valid to (TS high)", when=this.kv == 2),
    )


_KEY_DATA_CHAINS: Final[dict[KeyDataKind, KeyDataChain]] = {
    "mikey": KeyDataChain(_key_data_table("mikey")),
    "smartcard-stkm": KeyDataChain(_key_data_table("smartcard-stkm")),
    "smartcard-ltkm": KeyDataChain(_key_data_table("smartcard-ltkm")),
    "smartcard-parental": KeyDataChain(_key_data_table("smartcard-parental")),
}


def message(profile: Profile) -> Message:
    """The tables of RFC 3830 section 6 under a profile."""
    strict = profile.strict

    def extension(value: int, context: Context) -> None:
        progress: Progress = context._run.state
        if value in (EXT_KEY_ID, EXT_OMA_BCAST) and value in progress.extensions:
            raise Fault(BadValue, f"no second EXT {value}", f"{value} ({EXT_TYPES[value]})")
        if value in profile.refused_extensions:
            raise Fault(BadValue, f"no EXT {value} in this kind", f"{value} ({EXT_TYPES[value]})")
        progress.extensions.add(value)

    def extension_length(value: int, context: Context) -> None:
        if context.ext_type == EXT_OMA_BCAST and not value:
            raise Fault(BadLength, "at least 1 (the subtype)", "0")

    def key_id_type(value: int, context: Context) -> None:
        known = context._run.state.key_ids
        if len(known) < len(profile.key_ids):
            equals(len(known), BadValue)(value, context)
        elif value in KEY_ID_TYPES and (strict or value in known):
            raise Fault(BadValue, f"no {'further' if strict else 'second'} Key ID of type {value}", str(value))
        known.append(value)

    def key_id_length(value: int, context: Context) -> None:
        if context.type >= len(profile.key_ids):
            return
        allowed = profile.key_ids[context.type]
        if context.type == 2 and "mtk-id-4" in context._run.lenient:
            allowed = (*allowed, 4)
        elif context.type == 2 and value == 4:
            raise Fault(BadLength, "2 (4 with mtk-id-4)", "4")
        one_of(allowed, BadLength)(value, context)

    def remember_management(value: Context, context: Context) -> None:
        context._run.state.management = value

    def identity_type(value: int, context: Context) -> None:
        progress: Progress = context._run.state
        progress.identities += 1
        # Of two, the first is IDi, whose type receivers ignore (TS 33.246 6.4.5.1).
        initiator = progress.identities == 1 and (profile.order or ()).count(ID) == 2
        if strict and not initiator and value not in (0, 1):
            raise Fault(Unsupported, "0 (NAI) or 1 (URI)", str(value))

    following = field("next_payload", UInt(1), SURE, "next payload", names=PAYLOADS, check=profile.follow)
    key_id = Table(
        field("type", UInt(1), SURE, "Key ID type (RFC 4563)", names=KEY_ID_TYPES, check=key_id_type),
        field("length", UInt(1, BadLength), SURE, "bytes of Key ID", measures="value", check=key_id_length),
        field("value", Octets(this.length), SURE, "Key ID"),
    )
    contents: dict[int, Composite] = {
        EXT_KEY_ID: Table(field("ids", List(key_id, least=len(profile.key_ids)), SURE, "Key IDs")),
    }
    if profile.management is not None:
        subtype = equals(profile.subtype, Unsupported)
        contents[EXT_OMA_BCAST] = Table(
            field("subtype", UInt(1), SURE, "RFC 5410 subtype", check=subtype, default=profile.subtype),
            field("management", profile.management, LIKELY, "OMA BCAST data", check=remember_management),
        )
    opaque = Table(field("data", Remaining(lambda context: 0), SURE, "content, not looked into"))
    tables = {
        T: Table(
            following,
            field("ts_type", UInt(1), SURE, "TS type", names=TS_TYPES, check=one_of((2,) if strict else TS_SIZES, Unsupported)),
            field("ts_value", Octets(lambda context: TS_SIZES[context.ts_type]), SURE, "time or COUNTER"),
        ),
        RAND: Table(
            following,
            field(
                "rand_len",
                UInt(1, BadLength),
                SURE,
                "bytes of RAND",
                measures="rand",
                check=equals(16, BadLength) if strict else None,
            ),
            field("rand", Octets(this.rand_len), SURE, "RAND"),
        ),
        ID: Table(
            following,
            field("id_type", UInt(1), SURE, "ID type", names=ID_TYPES, check=identity_type),
            field("id_len", UInt(2, BadLength), SURE, "bytes of ID", measures="id"),
            field("id", Octets(this.id_len), SURE, "identity", show=_printable),
        ),
        SP: Table(
            following,
            field("policy_no", UInt(1), SURE, "number of the policy"),
            field("prot_type", UInt(1), SURE, "0: SRTP"),
            field("param_length", UInt(2, BadLength), SURE, "bytes of parameters", measures="params"),
            field("params", Area(this.param_length, List(_POLICY_PARAM)), SURE, "parameters"),
        ),
        KEMAC: Table(
            following,
            field("encr_alg", UInt(1), SURE, "encryption", names=ENCR_ALGS, check=profile.encr_alg),
            field(
                "encr_data_len",
                UInt(2, BadLength),
                SURE,
                "bytes of key data",
                check=profile.encr_data_len,
                measures=("encr_data", "key_data"),
            ),
            field("encr_data", Octets(this.encr_data_len), SURE, "encrypted key data", when=this.encr_alg != 0),
            field(
                "key_data",
                Area(this.encr_data_len, Opaque(_KEY_DATA_CHAINS[profile.key_data])),
                SURE,
                "key data in clear",
                when=this.encr_alg == 0,
            ),
            field("mac_alg", UInt(1), SURE, "MAC", names=MAC_ALGS, check=profile.mac_alg),
            field("mac", Octets(lambda context: MAC_SIZES[context.mac_alg]), SURE, "MAC over all before it"),
        ),
        V: Table(
            following,
            field("auth_alg", UInt(1), SURE, "MAC", names=MAC_ALGS, check=one_of((1,) if strict else VER_SIZES, Unsupported)),
            field("ver_data", Octets(lambda context: VER_SIZES[context.auth_alg]), SURE, "MAC of the verification"),
        ),
        ERR: Table(
            following,
            field("error_no", UInt(1), SURE, "error", names=ERRORS),
            field("reserved", UInt(2), SURE, "reserved, 0", check=zero, default=0),
        ),
        EXT: Table(
            following,
            field("ext_type", UInt(1), SURE, "general extension", names=EXT_TYPES, check=extension),
            field("length", UInt(2, BadLength), SURE, "bytes of data", check=extension_length, measures="data"),
            field("data", Area(this.length, Switch(this.ext_type, contents, opaque), inline=True), SURE, "content"),
        ),
    }
    return Message(
        field("version", UInt(1), SURE, "MIKEY version", check=equals(VERSION, Unsupported), default=VERSION),
        field("data_type", UInt(1), SURE, "message type", names=DATA_TYPES, check=one_of(profile.data_types, Unsupported)),
        following,
        field(
            "v", Bits(1), SURE, "a verification message is wanted", unset="no verification message is wanted",
            check=None if profile.may_request_verification else _no_verification,
        ),
        field("prf_func", Bits(7), SURE, "0: MIKEY-1", check=equals(0, Unsupported) if strict else None),
        field("csb_id", Octets(4), SURE, "crypto session bundle", check=_csb_id),
        field("number_of_cs", UInt(1, BadLength), SURE, "crypto sessions", check=equals(0, BadValue) if strict else None),
        field(
            "cs_id_map_type", UInt(1), SURE, "map of crypto sessions", names=MAP_TYPES,
            check=equals(1, Unsupported) if strict else _empty_map,
        ),
        field("cs_id_map", List(_SRTP_ID, this.number_of_cs), SURE, "SRTP-ID entries", when=this.cs_id_map_type == 0),
        field("payloads", Chain(tables), SURE, "payloads"),
    )  # fmt: skip


def _printable(value: bytes) -> str:
    text = value.decode("ascii", "backslashreplace")
    return repr(text) if text.isprintable() else value.hex()


_POLICY_PARAM: Final = Table(
    field("type", UInt(1), SURE, "parameter"),
    field("len", UInt(1, BadLength), SURE, "bytes", measures="value"),
    field("value", Octets(this.len), SURE, "value"),
)
_SRTP_ID: Final = Table(
    field("policy_no", UInt(1), SURE, "number of the policy"),
    field("ssrc", UInt(4), SURE, "SSRC", show="{:08x}".format),
    field("roc", UInt(4), SURE, "rollover counter"),
)

MIKEY: Final = message(Profile())


# --- messages --------------------------------------------------------------------------------------------------------


def payload_message(item: Context) -> MikeyPayload:
    """One payload out of its table."""
    match item["_number"]:
        case 5:
            return Timestamp(item.ts_type, item.ts_value)
        case 11:
            return Rand(item.rand)
        case 6:
            return Identity(item.id_type, item.id)
        case 10:
            return SecurityPolicy(item.policy_no, item.prot_type, tuple((p.type, p.value) for p in item.params))
        case 1:
            encr_data = item.key_data if item.encr_alg == 0 else item.encr_data
            return Kemac(item.encr_alg, encr_data, item.mac_alg, item.mac)
        case 9:
            return Verification(item.auth_alg, item.ver_data)
        case 12:
            return ErrorPayload(item.error_no)
    if item.ext_type == EXT_KEY_ID:
        return KeyIds(tuple(KeyId(entry.type, entry.value) for entry in item["data"].ids))
    return Extension(item.ext_type, item["data"]["data"])


def payload_values(payload: MikeyPayload) -> Values:
    """One payload into its table, ``next_payload`` still open."""
    match payload:
        case Timestamp():
            return {"_number": T, "ts_type": payload.ts_type, "ts_value": payload.ts_value}
        case Rand():
            return {"_number": RAND, "rand": payload.rand}
        case Identity():
            return {"_number": ID, "id_type": payload.id_type, "id": payload.id}
        case SecurityPolicy():
            params = [{"type": number, "value": value} for number, value in payload.params]
            return {"_number": SP, "policy_no": payload.policy_no, "prot_type": payload.prot_type, "params": params}
        case Kemac():
            data = "key_data" if payload.encr_alg == 0 else "encr_data"
            return {
                "_number": KEMAC, "encr_alg": payload.encr_alg, data: payload.encr_data,
                "mac_alg": payload.mac_alg, "mac": payload.mac,
            }  # fmt: skip
        case Verification():
            return {"_number": V, "auth_alg": payload.auth_alg, "ver_data": payload.ver_data}
        case ErrorPayload():
            return {"_number": ERR, "error_no": payload.error_no}
        case KeyIds():
            ids = [{"type": entry.type, "value": entry.value} for entry in payload.ids]
            return {"_number": EXT, "ext_type": EXT_KEY_ID, "data": {"ids": ids}}
        case Extension():
            return {"_number": EXT, "ext_type": payload.ext_type, "data": {"data": payload.data}}
    raise BadValue(None, "payloads", "MIKEY payloads", type(payload).__name__)


def chain(header: Values, payloads: list[Values]) -> Values:
    """A whole message: every payload announced by the one before it."""
    numbers = [payload["_number"] for payload in payloads]
    for owner, number in zip([header, *payloads], [*numbers, LAST], strict=True):
        owner["next_payload"] = number
    return header | {"payloads": payloads}


def decode(data: bytes, run: Run) -> MikeyMessage:
    """Any PSK-mode MIKEY message out of its bytes."""
    found = read(MIKEY, data, run)
    return MikeyMessage(
        data_type=found.data_type,
        v=bool(found.v),
        prf_func=found.prf_func,
        csb_id=found.csb_id,
        cs_id_map_type=found.cs_id_map_type,
        cs_id_map=tuple(SrtpId(entry.policy_no, entry.ssrc, entry.roc) for entry in found.get("cs_id_map", ())),
        payloads=tuple(payload_message(item) for item in found.payloads),
    )


def encode(message: MikeyMessage, run: Run) -> bytes:
    """A MIKEY message as bytes."""
    entries = [{"policy_no": entry.policy_no, "ssrc": entry.ssrc, "roc": entry.roc} for entry in message.cs_id_map]
    header: Values = {
        "data_type": message.data_type,
        "v": message.v,
        "prf_func": message.prf_func,
        "csb_id": message.csb_id,
        "number_of_cs": len(entries),
        "cs_id_map_type": message.cs_id_map_type,
        "cs_id_map": entries if message.cs_id_map_type == 0 else None,
    }
    return write(MIKEY, chain(header, [payload_values(payload) for payload in message.payloads]), run)


def decode_key_data(data: bytes, *, lenient: Collection[Leniency] = (), kind: KeyDataKind = "mikey") -> tuple[KeyData, ...]:
    """The keys inside a KEMAC payload, once decrypted.

    ``data``: the Key data sub-payloads, concatenated; none gives ``()``.  ``kind`` says whose KEMAC it was and adds that kind's
    checks: ``smartcard-stkm`` one TEK of 16 bytes, with a salt of 14 or none; ``smartcard-ltkm`` one key of 16 bytes (TGK or TEK)
    with a 4 + 4 byte interval (2 + 2 too under ``interval-2``); ``smartcard-parental`` one key of 8 bytes, the PIN.  Raises
    ``WireError`` with offsets in ``data``.  RFC 3830 6.13 (sure), smartcard-profile 4.5.
    """
    found = read(_KEY_DATA_CHAINS[kind], data, Run(lenient=leniencies(lenient)))
    return tuple(
        KeyData(
            key_type=item.type,
            key=item.key,
            salt=item.salt.reveal() if item.type in SALTED else None,
            spi=item.get("spi"),
            interval=(item.vf, item.vt) if item.kv == 2 else None,
        )
        for item in found
    )


def encode_key_data(items: Sequence[KeyData], *, kind: KeyDataKind = "mikey", lenient: Collection[Leniency] = ()) -> bytes:
    """The content of a KEMAC payload before encryption: the way back from :func:`decode_key_data`.  The result is a secret."""
    values: list[Values] = []
    for index, item in enumerate(items):
        if item.spi is not None and item.interval is not None:
            raise BadValue(None, f"[{index}].kv", "an SPI or an interval", "both")
        entry: Values = {
            "next_payload": KEY_DATA if index + 1 < len(items) else LAST,
            "type": item.key_type,
            "kv": 1 if item.spi is not None else 2 if item.interval is not None else 0,
            "key": item.key,
            "spi": item.spi,
            "salt": item.salt,
        }
        if item.interval is not None:
            entry["vf"], entry["vt"] = item.interval
        values.append(entry)
    return write(_KEY_DATA_CHAINS[kind], values, Run(lenient=leniencies(lenient)))
