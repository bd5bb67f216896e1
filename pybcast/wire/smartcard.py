# SPDX-License-Identifier: Apache-2.0
"""The messages of the Smartcard Profile that are MIKEY: STKM, LTKM, verification, reporting, parental control
(smartcard-profile 4.4, 5 and 7).

Each is a :class:`~pybcast.wire.mikey.Profile` - the checks that make a MIKEY message one of this kind - and a mapping between its
payloads and the dataclass.  The payload order is fixed but for EXT, which may stand anywhere before the last; ``layout`` keeps
another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pybcast.errors import BadLength, BadValue, Unsupported
from pybcast.messages import (
    Extension,
    KeyData,
    KeyId,
    Kind,
    PartialSmartcardStkm,
    PayloadSlot,
    Protocol,
    SecurityPolicy,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardStkm,
    SmartcardVerification,
)
from pybcast.secret import Secret
from pybcast.wire import management
from pybcast.wire.management import ParentalManagement
from pybcast.wire.mikey import (
    EXT,
    EXT_KEY_ID,
    EXT_OMA_BCAST,
    ID,
    KEMAC,
    RAND,
    SP,
    TS_SIZES,
    Message,
    Profile,
    T,
    V,
    chain,
    decode_key_data,
    encode_key_data,
    message,
    payload_message,
    payload_values,
)
from pybcast.wire.schema import Context, Fault, Run, Values, equals, one_of, read, write

MAX_SIZE: Final = 251  # confidence: likely - what one card command takes; a limit for building only (rules R20)
COUNTER: Final = 2  # TS type of every T here (smartcard-profile 4.6)
NULL, AES_CM_128, HMAC_SHA_1_160 = 0, 1, 1
KEY_DOMAIN, SEK, TEK = 0, 1, 2

# The Key data sub-payload of each kind, in bytes: 4 of header, the key, and what follows it (smartcard-profile 4.5, 7).
TEK_DATA: Final = 20
TEK_SALT_DATA: Final = 36  # TEK+SALT with a 14-byte salt (TS 33.246 6.4.5.3; sure)
SEK_DATA: Final = 30  # confidence: likely - that its interval (4 + 4 bytes) bounds COUNTERs of STKMs; in 3GPP it bounds MTK IDs
SEK_DATA_SHORT_INTERVAL: Final = 26  # leniency interval-2
PIN_DATA: Final = 12  # confidence: own - decision 15

CANONICAL: Final[tuple[PayloadSlot, ...]] = ("EXT3", "EXT5", "T", "RAND", "IDi", "IDr", "KEMAC", "V")
"""The order that needs no ``layout``; a kind uses those of them it has."""


# --- what makes a MIKEY message one of these -------------------------------------------------------------------------


def _stkm_encr_alg(value: int, context: Context) -> None:
    """NULL encryption is a partial STKM's, and a partial STKM has no CSB ID yet (rules R11, R13)."""
    if value not in (NULL, AES_CM_128):
        raise Fault(Unsupported, "1 (AES-CM-128), or 0 (NULL) in a partial STKM", str(value))
    if context._run.partial and value != NULL:
        raise Fault(Unsupported, "0 (NULL) in a partial STKM", str(value))
    if value == NULL and any(context._run.state.header.csb_id):
        raise Fault(BadValue, "1 (AES-CM-128), since csb_id is not 0", "0 (NULL)")


def _stkm_encr_data_len(value: int, context: Context) -> None:
    one_of((TEK_DATA, TEK_SALT_DATA), BadLength)(value, context)
    block = context._run.state.management
    if block is not None:
        srtp = block.traffic_protection_protocol == Protocol.SRTP
        equals(TEK_SALT_DATA if srtp else TEK_DATA, BadLength)(value, context)


def _as_encr_alg(value: int, context: Context) -> None:
    """Encrypted and authenticated, or neither (rules R11)."""
    equals(HMAC_SHA_1_160 if context.encr_alg else NULL, Unsupported)(value, context)


def _ltkm_encr_data_len(value: int, context: Context) -> None:
    allowed = (SEK_DATA, SEK_DATA_SHORT_INTERVAL) if "interval-2" in context._run.lenient else (SEK_DATA,)
    one_of(allowed, BadLength)(value, context)


def _parental_encr_data_len(value: int, context: Context) -> None:
    equals(PIN_DATA if context._run.state.management.pin_present else 0, BadLength)(value, context)


_AUTHENTICATED: Final[dict[str, Any]] = {
    "encr_alg": equals(AES_CM_128, Unsupported),
    "mac_alg": equals(HMAC_SHA_1_160, Unsupported),
}

STKM: Final = message(
    Profile(
        strict=True,
        data_types=(0,),
        may_request_verification=False,
        order=(T, KEMAC),
        key_ids=((3,), (4,), (2,)),
        subtype=management.STKM_SUBTYPE,
        management=management.STKM_MANAGEMENT,
        extensions=frozenset((EXT_KEY_ID,)),
        key_data="smartcard-stkm",
        encr_data_len=_stkm_encr_data_len,
        encr_alg=_stkm_encr_alg,
        mac_alg=_as_encr_alg,
    )
)
LTKM: Final = message(
    Profile(
        strict=True,
        data_types=(0,),
        order=(T, RAND, ID, ID, SP, KEMAC),
        key_ids=((3,), (4,)),
        subtype=management.LTKM_SUBTYPE,
        management=management.LTKM_MANAGEMENT,
        extensions=frozenset((EXT_KEY_ID,)),
        encr_data_len=_ltkm_encr_data_len,
        **_AUTHENTICATED,
    )
)
PARENTAL: Final = message(
    Profile(
        strict=True,
        data_types=(0,),
        order=(T, RAND, ID, ID, SP, KEMAC),
        subtype=management.PARENTAL_SUBTYPE,
        management=management.PARENTAL,
        extensions=frozenset((EXT_OMA_BCAST,)),
        refused_extensions=frozenset((EXT_KEY_ID,)),
        encr_data_len=_parental_encr_data_len,
        **_AUTHENTICATED,
    )
)
VERIFICATION: Final = message(
    Profile(
        strict=True,
        data_types=(1,),
        may_request_verification=False,
        order=(T, ID, V),
        refused_extensions=frozenset((EXT_KEY_ID, EXT_OMA_BCAST)),
    )
)
REPORTING: Final = message(
    Profile(
        strict=True,
        data_types=(1,),
        may_request_verification=False,
        order=(T, ID, V),
        subtype=management.REPORTING_SUBTYPE,
        management=management.REPORTING,
        extensions=frozenset((EXT_OMA_BCAST,)),
        refused_extensions=frozenset((EXT_KEY_ID,)),
    )
)


# --- which of these a message is --------------------------------------------------------------------------------------


def kind_of(data: bytes) -> Kind:
    """The kind of a MIKEY message, by what it carries (rules R16).  Never fails: a broken message is of the kind that it begins as.

    Data type 1 is a verification message, with EXT 5 of subtype 3 a reporting one.  Any other with EXT 5 of subtype 4 is parental
    control, else with a Key ID of type 2, of whatever length, a STKM, else an LTKM.
    """
    subtypes, key_ids = _extensions(data)
    if data[1:2] == b"\1":
        return "smartcard-reporting" if management.REPORTING_SUBTYPE in subtypes else "smartcard-verification"
    if management.PARENTAL_SUBTYPE in subtypes:
        return "smartcard-parental"
    return "smartcard-stkm" if TEK in key_ids else "smartcard-ltkm"


def _extensions(data: bytes) -> tuple[set[int], set[int]]:
    """Subtypes of EXT 5 and types of Key IDs, as far as the payloads hold together."""
    subtypes: set[int] = set()
    key_ids: set[int] = set()
    number, at = _octet(data, 2), 10 + (9 * _octet(data, 8) if _octet(data, 9) == 0 else 0)  # 9: an entry of an SRTP-ID map
    while at < len(data) and number in HEADS:
        head, width = HEADS[number]
        content = at + head
        end = content + (TS_SIZES.get(_octet(data, at + 1), 0) if number == T else int.from_bytes(data[content - width : content]))
        if number == EXT and _octet(data, at + 1) == EXT_OMA_BCAST:
            subtypes.update(data[content:end][:1])
        elif number == EXT and _octet(data, at + 1) == EXT_KEY_ID:
            entry = content
            while entry < min(end, len(data)):
                key_ids.add(data[entry])
                entry += 2 + _octet(data, entry + 1)
        number, at = data[at], end
    return subtypes, key_ids


HEADS: Final = {T: (2, 0), RAND: (2, 1), ID: (4, 2), SP: (5, 2), EXT: (4, 2)}
"""Octets of a payload before its content, and how many of them, the last, are its length.  KEMAC and V end a message."""


def _octet(data: bytes, at: int) -> int:
    return data[at] if at < len(data) else 0


# --- payloads <-> slots ----------------------------------------------------------------------------------------------

_SLOTS: Final[dict[int, PayloadSlot]] = {T: "T", RAND: "RAND", KEMAC: "KEMAC", V: "V"}


class _Parts:
    """The payloads of a message read, by slot, and their order."""

    def __init__(self, found: Context, identities: Sequence[PayloadSlot]) -> None:
        self.header = found
        self.by_slot: dict[PayloadSlot, Context] = {}
        order: list[PayloadSlot] = []
        names = iter(identities)
        for item in found.payloads:
            slot = self._slot(item, names)
            order.append(slot)
            self.by_slot[slot] = item
        canonical = [slot for slot in CANONICAL if slot in self.by_slot]
        self.layout = None if order == canonical else tuple(order)

    @staticmethod
    def _slot(item: Context, identities: Any) -> PayloadSlot:
        number = item["_number"]
        if number in _SLOTS:
            return _SLOTS[number]
        if number == ID:
            slot: PayloadSlot = next(identities)
            return slot
        if number == EXT and item.ext_type == EXT_KEY_ID:
            return "EXT3"
        if number == EXT and item.ext_type == EXT_OMA_BCAST:
            return "EXT5"
        kept = payload_message(item)
        assert isinstance(kept, Extension | SecurityPolicy)
        return kept

    def common(self) -> Values:
        return {"counter": int.from_bytes(self.by_slot["T"].ts_value, "big"), "layout": self.layout}

    def key_ids(self, known: int) -> tuple[Any, tuple[KeyId, ...]]:
        """The values of the ``known`` first Key IDs, and the others."""
        ids = self.by_slot["EXT3"]["data"].ids
        return [entry.value for entry in ids[:known]], tuple(KeyId(entry.type, entry.value) for entry in ids[known:])

    def management(self) -> Context | None:
        item = self.by_slot.get("EXT5")
        return None if item is None else item["data"].management

    def party(self) -> Values:
        """Sender, receiver and RAND of a message under the SMK."""
        sender, receiver = self.by_slot["IDi"], self.by_slot["IDr"]
        return {
            "csb_id": self.header.csb_id,
            "rand": self.by_slot["RAND"].rand,
            "idi": sender.id,
            "idi_type": sender.id_type,
            "idr": receiver.id,
            "idr_type": receiver.id_type,
            "verification_requested": bool(self.header.v),
        }


def _key_ids(known: Sequence[bytes], others: Sequence[KeyId]) -> Values:
    ids: list[Values] = [{"type": number, "value": value} for number, value in enumerate(known)]
    ids += [{"type": entry.type, "value": entry.value} for entry in others]
    return {"_number": EXT, "ext_type": EXT_KEY_ID, "data": {"ids": ids}}


def _oma(values: Values) -> Values:
    return {"_number": EXT, "ext_type": EXT_OMA_BCAST, "data": {"management": values}}


def _counter(value: int) -> Values:
    return {"_number": T, "ts_type": COUNTER, "counter": value}


def _ts_value(counter: int, index: int) -> bytes:
    if not isinstance(counter, int) or not 0 <= counter < 1 << 32:
        raise BadValue(None, f"payloads[{index}].ts_value", "0..4294967295", str(counter))
    return counter.to_bytes(4, "big")


def _identity(number: int, value: bytes) -> Values:
    return {"_number": ID, "id_type": number, "id": value}


def _kemac(encr_data: bytes, mac: bytes) -> Values:
    return {
        "_number": KEMAC, "encr_alg": AES_CM_128, "encr_data": encr_data,
        "mac_alg": HMAC_SHA_1_160, "mac": mac,
    }  # fmt: skip


def _party(source: SmartcardLtkm | SmartcardParental) -> dict[PayloadSlot, Values]:
    return {
        "RAND": {"_number": RAND, "rand": source.rand},
        "IDi": _identity(source.idi_type, source.idi),
        "IDr": _identity(source.idr_type, source.idr),
    }


def _write(
    table: Message, header: Values, slots: dict[PayloadSlot, Values], layout: tuple[PayloadSlot, ...] | None, run: Run
) -> bytes:
    order = [slot for slot in CANONICAL if slot in slots] if layout is None else list(layout)
    named = [slot for slot in order if isinstance(slot, str)]
    if sorted(named) != sorted(slot for slot in slots if isinstance(slot, str)):
        raise BadValue(None, "layout", f"each of {', '.join(str(slot) for slot in slots)} once", ", ".join(named) or "none")
    payloads = [dict(slots[slot]) if isinstance(slot, str) else payload_values(slot) for slot in order]
    for index, payload in enumerate(payloads):
        if payload["_number"] == T:
            payload["ts_value"] = _ts_value(payload["counter"], index)
    return write(table, chain({"prf_func": 0, "number_of_cs": 0, "cs_id_map_type": 1} | header, payloads), run)


# --- STKM ------------------------------------------------------------------------------------------------------------


def decode_stkm(data: bytes, run: Run) -> SmartcardStkm | PartialSmartcardStkm:
    """A Smartcard Profile STKM out of its bytes; with NULL encryption and NULL MAC a partial one."""
    found = read(STKM, data, run)
    parts = _Parts(found, ())
    (key_domain_id, sek_id, tek_id), others = parts.key_ids(3)
    block, kemac = parts.management(), parts.by_slot["KEMAC"]
    common = parts.common() | {
        "key_domain_id": key_domain_id,
        "sek_id": sek_id,
        "tek_id": tek_id,
        "management": None if block is None else management.stkm_message(block),
        "other_key_ids": others,
    }
    if kemac.encr_alg == NULL:
        (key,) = decode_key_data(kemac.key_data, kind="smartcard-stkm")
        return PartialSmartcardStkm(**common, tek=key.key, salt=key.salt)
    return SmartcardStkm(**common, csb_id=found.csb_id, encr_data=kemac.encr_data, mac=kemac.mac)


def encode_stkm(source: SmartcardStkm | PartialSmartcardStkm, run: Run) -> bytes:
    """A Smartcard Profile STKM as bytes."""
    slots: dict[PayloadSlot, Values] = {
        "EXT3": _key_ids((source.key_domain_id, source.sek_id, source.tek_id), source.other_key_ids),
        "T": _counter(source.counter),
    }
    if source.management is not None:
        slots["EXT5"] = _oma(management.stkm_values(source.management))
    if isinstance(source, PartialSmartcardStkm):
        run.partial = True
        key = KeyData(key_type=2 if source.salt is None else 3, key=Secret(source.tek), salt=source.salt)
        key_data = encode_key_data((key,))
        csb_id = bytes(4)
        slots["KEMAC"] = {
            "_number": KEMAC, "encr_alg": NULL, "key_data": key_data, "mac_alg": NULL, "mac": b"",
        }  # fmt: skip
    else:
        csb_id = source.csb_id
        slots["KEMAC"] = _kemac(source.encr_data, source.mac)
    return _write(STKM, {"data_type": 0, "v": 0, "csb_id": csb_id}, slots, source.layout, run)


# --- LTKM ------------------------------------------------------------------------------------------------------------


def decode_ltkm(data: bytes, run: Run) -> SmartcardLtkm:
    """A Smartcard Profile LTKM out of its bytes."""
    parts = _Parts(read(LTKM, data, run), ("IDi", "IDr"))
    (key_domain_id, sek_id), others = parts.key_ids(2)
    block, kemac = parts.management(), parts.by_slot["KEMAC"]
    return SmartcardLtkm(
        **parts.common(),
        **parts.party(),
        key_domain_id=key_domain_id,
        sek_id=sek_id,
        management=None if block is None else management.ltkm_message(block),
        other_key_ids=others,
        encr_data=kemac.encr_data,
        mac=kemac.mac,
    )


def encode_ltkm(source: SmartcardLtkm, run: Run) -> bytes:
    """A Smartcard Profile LTKM as bytes."""
    slots: dict[PayloadSlot, Values] = {
        "EXT3": _key_ids((source.key_domain_id, source.sek_id), source.other_key_ids),
        "T": _counter(source.counter),
        "KEMAC": _kemac(source.encr_data, source.mac),
        **_party(source),
    }
    if source.management is not None:
        slots["EXT5"] = _oma(management.ltkm_values(source.management))
    return _write(LTKM, {"data_type": 0, "v": source.verification_requested, "csb_id": source.csb_id}, slots, source.layout, run)


# --- parental control ------------------------------------------------------------------------------------------------


def decode_parental(data: bytes, run: Run) -> SmartcardParental:
    """A parental control message out of its bytes."""
    parts = _Parts(read(PARENTAL, data, run), ("IDi", "IDr"))
    block, kemac = parts.management(), parts.by_slot["KEMAC"]
    assert block is not None
    return SmartcardParental(
        **parts.common(),
        **parts.party(),
        protocol_version=block.protocol_version,
        pin_present=bool(block.pin_present),
        rating_type=block.rating_type,
        level_granted=block.level_granted,
        encr_data=kemac.encr_data,
        mac=kemac.mac,
    )


def encode_parental(source: SmartcardParental, run: Run) -> bytes:
    """A parental control message as bytes."""
    block = ParentalManagement(
        protocol_version=source.protocol_version,
        pin_present=source.pin_present,
        rating_type=source.rating_type,
        level_granted=source.level_granted,
    )
    slots: dict[PayloadSlot, Values] = {
        "EXT5": _oma(management.parental_values(block)),
        "T": _counter(source.counter),
        "KEMAC": _kemac(source.encr_data, source.mac),
        **_party(source),
    }
    header: Values = {"data_type": 0, "v": source.verification_requested, "csb_id": source.csb_id}
    return _write(PARENTAL, header, slots, source.layout, run)


# --- verification and reporting --------------------------------------------------------------------------------------


def _verification(parts: _Parts, block: Context | None) -> SmartcardVerification:
    receiver = parts.by_slot["IDr"]
    return SmartcardVerification(
        **parts.common(),
        csb_id=parts.header.csb_id,
        idr=receiver.id,
        idr_type=receiver.id_type,
        reporting=None if block is None else management.reporting_message(block),
        mac=parts.by_slot["V"].ver_data,
    )


def decode_verification(data: bytes, run: Run) -> SmartcardVerification:
    """A card's verification message out of its bytes."""
    return _verification(_Parts(read(VERIFICATION, data, run), ("IDr",)), None)


def decode_reporting(data: bytes, run: Run) -> SmartcardVerification:
    """A card's verification message with LTKM reporting out of its bytes."""
    parts = _Parts(read(REPORTING, data, run), ("IDr",))
    return _verification(parts, parts.management())


def encode_verification(source: SmartcardVerification, run: Run) -> bytes:
    """A verification message, with or without reporting, as bytes."""
    slots: dict[PayloadSlot, Values] = {
        "T": _counter(source.counter),
        "IDr": _identity(source.idr_type, source.idr),
        "V": {"_number": V, "auth_alg": HMAC_SHA_1_160, "ver_data": source.mac},
    }
    table = VERIFICATION
    if source.reporting is not None:
        slots["EXT5"] = _oma(management.reporting_values(source.reporting))
        table = REPORTING
    return _write(table, {"data_type": 1, "v": 0, "csb_id": source.csb_id}, slots, source.layout, run)
