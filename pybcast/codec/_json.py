# SPDX-License-Identifier: Apache-2.0
"""Messages as plain JSON and back, without loss; names are the specification's and those of the vector files.

One table per dataclass, in the order of the fields.  Bytes are lower-case hex, flags 0 or 1, MJD times ISO 8601 in UTC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final

from pybcast import messages as m
from pybcast.errors import BadValue, ConfigError, WireError
from pybcast.keys import Keys
from pybcast.secret import Secret
from pybcast.wire.drm_registration import RESPONSES
from pybcast.wire.management import decode_ltkm_management, encode_ltkm_management

_NTP_EPOCH: Final = datetime(1900, 1, 1, tzinfo=UTC)
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class _Type:
    """How one kind of value stands in JSON: ``show(value, redact)`` and ``read(json, path)``."""

    show: Callable[[Any, bool], object]
    read: Callable[[object, str], Any]


def _kind_of(value: object) -> str:
    """What was found, in words that are JSON's and never the content (it may be a key in the wrong place)."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return {str: "other text", int: "another number", float: "a fraction"}.get(type(value), "something else")


def _bad(path: str, expected: str, value: object) -> BadValue:
    return BadValue(None, path, expected, _kind_of(value))


# --- Plain values ----------------------------------------------------------------------------------------------------


def _read_int(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(path, "a whole number", value)
    return value


def _read_flag(value: object, path: str) -> bool:
    if value not in (0, 1) or isinstance(value, float):
        raise _bad(path, "0 or 1", value)
    return bool(value)


def _read_text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _bad(path, "text", value)
    return value


def _read_hex(value: object, path: str) -> bytes:
    try:
        return bytes.fromhex(_read_text(value, path))
    except ValueError:  # BadValue is one too: not text at all
        raise _bad(path, "hexadecimal text", value) from None


def _show_time(value: int, redact: bool) -> object:
    try:
        return (_NTP_EPOCH + timedelta(seconds=value)).strftime(_TIME_FORMAT)
    except OverflowError:  # beyond what a calendar can say: the number itself
        return value


def _read_time(value: object, path: str) -> int:
    if isinstance(value, str):
        try:
            moment = datetime.strptime(value, _TIME_FORMAT).replace(tzinfo=UTC)
        except ValueError:
            raise _bad(path, "a time like 2015-06-11T21:59:06Z, or NTP seconds", value) from None
        return int((moment - _NTP_EPOCH).total_seconds())
    return _read_int(value, path)


def _read_pin(value: object, path: str) -> Secret:
    text = _read_text(value, path)
    if not text.isascii():
        raise _bad(path, "digits", value)
    return Secret(text.encode())


def _show_pin(value: Secret, redact: bool) -> object:
    return None if redact else value.reveal().decode("ascii", "backslashreplace")


def _read_list(value: object, path: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise _bad(path, "a list", value)
    return list(value)


INT: Final = _Type(lambda v, _: int(v), _read_int)
FLAG: Final = _Type(lambda v, _: int(v), _read_flag)
TEXT: Final = _Type(lambda v, _: v, _read_text)
HEX: Final = _Type(lambda v, _: v.hex(), _read_hex)
SECRET: Final = _Type(lambda v, redact: None if redact else v.reveal().hex(), lambda v, path: Secret(_read_hex(v, path)))
PIN: Final = _Type(_show_pin, _read_pin)
TIME: Final = _Type(_show_time, _read_time)
IDENTITY: Final = _Type(lambda v, _: v.decode("ascii"), lambda v, path: _read_ascii(v, path))
"""Bytes that are nearly always printable ASCII: then text under its name, else hex under ``<name>_hex``."""


def _read_ascii(value: object, path: str) -> bytes:
    text = _read_text(value, path)
    if not text.isascii():
        raise _bad(path, "ASCII text (or the field with _hex)", value)
    return text.encode()


def _number(cls: type[IntEnum]) -> _Type:
    def read(value: object, path: str) -> IntEnum:
        number = _read_int(value, path)
        if number not in list(cls):
            raise _bad(path, " or ".join(str(int(v)) for v in cls), value)
        return cls(number)

    return _Type(lambda v, _: int(v), read)


def _optional(item: _Type) -> _Type:
    return _Type(
        lambda v, redact: None if v is None else item.show(v, redact),
        lambda v, path: None if v is None else item.read(v, path),
    )


def _many(item: _Type) -> _Type:
    return _Type(
        lambda v, redact: [item.show(one, redact) for one in v],
        lambda v, path: tuple(item.read(one, f"{path}[{i}]") for i, one in enumerate(_read_list(v, path))),
    )


def _row(cls: Callable[..., Any], *items: tuple[str, _Type]) -> _Type:
    """A short list: ``[tag, value]``."""

    def show(value: Any, redact: bool) -> object:
        values = value if isinstance(value, tuple) else [getattr(value, name) for name, _ in items]
        return [item.show(one, redact) for (_, item), one in zip(items, values, strict=True)]

    def read(value: object, path: str) -> Any:
        row = _read_list(value, path)
        if len(row) != len(items):
            raise _bad(path, "[" + ", ".join(name for name, _ in items) + "]", value)
        return cls(*(item.read(one, f"{path}.{name}") for (name, item), one in zip(items, row, strict=True)))

    return _Type(show, read)


def _pair(*values: Any) -> tuple[Any, ...]:
    return values


# --- Objects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    """One dataclass: its fields by their JSON names, which are its attributes' names.

    ``left_out``: fields that are shown only where they are not ``None``.
    """

    cls: type[Any]
    items: Mapping[str, _Type]
    left_out: frozenset[str] = field(default_factory=frozenset)

    def show(self, value: Any, redact: bool) -> dict[str, object]:
        out: dict[str, object] = {}
        for name, item in self.items.items():
            one = getattr(value, name)
            if item is IDENTITY and not all(0x20 <= octet < 0x7F for octet in one):
                out[f"{name}_hex"] = one.hex()
            elif one is not None or name not in self.left_out:
                out[name] = item.show(one, redact)
        return out

    def read(self, value: object, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise _bad(path, "an object", value)
        self.refuse_unknown(value, path)
        return self.make(value, path)

    def names(self) -> set[str]:
        return set(self.items) | {f"{name}_hex" for name, item in self.items.items() if item is IDENTITY}

    def refuse_unknown(self, value: Mapping[str, object], path: str, also: Collection[str] = ()) -> None:
        for name in value:
            if name not in self.names() and name not in also:
                shown = name if isinstance(name, str) and name.isidentifier() and len(name) <= 40 else "?"
                raise BadValue(None, _join(path, shown), "a known name", "an unknown one")

    def make(self, value: Mapping[str, object], path: str) -> Any:
        required = {
            f.name
            for f in dataclasses.fields(self.cls)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        out: dict[str, Any] = {}
        for name, item in self.items.items():
            if item is IDENTITY and value.get(f"{name}_hex") is not None:
                if value.get(name) is not None:
                    raise BadValue(None, _join(path, name), f"{name} or {name}_hex", "both")
                out[name] = _read_hex(value[f"{name}_hex"], _join(path, f"{name}_hex"))
            elif name in value:
                out[name] = item.read(value[name], _join(path, name))
            elif name in required:
                raise BadValue(None, _join(path, name), "present", "absent")
        return self.cls(**out)

    def as_type(self) -> _Type:
        return _Type(self.show, self.read)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


CRITERIA: Final = _optional(_many(_row(m.AccessCriterion, ("tag", INT), ("value", HEX))))


def _read_binding_id(value: object, path: str) -> int:
    data = _read_hex(value, path)
    if len(data) != 4:
        raise _bad(path, "8 hexadecimal digits", value)
    return int.from_bytes(data, "big")


BINDING: Final = _optional(
    _row(
        m.TerminalBinding,
        ("terminal_binding_key_id", _Type(lambda v, _: f"{v:08x}", _read_binding_id)),
        ("permissions_issuer_uri", HEX),
    )
)

# --- DRM Profile -----------------------------------------------------------------------------------------------------

_DRM_STKM: Final = {
    "protocol_version": INT,
    "protection_after_reception": INT,
    "traffic_protection_protocol": _number(m.Protocol),
    "traffic_authentication_flag": FLAG,
    "traffic_key_lifetime": INT,
    "id": HEX,
    "next_id": _optional(HEX),
    "salt": _optional(HEX),
    "next_salt": _optional(HEX),
    "timestamp": _optional(TIME),
    "access_criteria": CRITERIA,
    "permissions_category": _optional(INT),
    "programme_CID_extension": _optional(INT),
    "service_CID_extension": _optional(INT),
}
_DRM_CLEAR: Final = _DRM_STKM | {"traffic_key_material": SECRET, "next_traffic_key_material": _optional(SECRET)}
_DRM_SEALED: Final = _DRM_STKM | {
    "encrypted_traffic_key_material": HEX,
    "next_encrypted_traffic_key_material": _optional(HEX),
    "encrypted_PEK": _optional(HEX),
    "programme_MAC": _optional(HEX),
    "service_MAC": _optional(HEX),
}

_ASSET: Final = {"asset_is_service": FLAG, "BCI": HEX, "permissions_category": _optional(INT)}
_PERMISSION: Final = _Object(
    m.Permission,
    {"action": INT, "constraints": _many(_row(m.Constraint, ("type", INT), ("value", HEX)))},
)
_BCRO: Final = {
    "protocol_version": INT,
    "address_mode": _number(m.AddressMode),
    "group_size_flag": FLAG,
    "stateful_flag": FLAG,
    "rights_issuer_id": _optional(HEX),
    "group_address": _optional(HEX),
    "bit_access_mask": _optional(HEX),
    "position_in_group": _optional(INT),
    "domain_id": _optional(HEX),
    "domain_generation": _optional(INT),
    "bcro_timestamp": _optional(TIME),
    "refresh_time": _optional(TIME),
}
_BCRO_ADDRESS: Final = frozenset({"group_address", "bit_access_mask", "position_in_group", "domain_id", "domain_generation"})
_PERMISSIONS: Final = {"permissions": _many(_PERMISSION.as_type())}

_HEADER: Final = {
    "message_tag": _number(m.RegistrationTag),
    "protocol_version": INT,
    "longform_udn": TEXT,
    "status": INT,
    "signature_type": INT,
    "hash": TEXT,
}
_RESPONSE: Final = _HEADER | {
    "rights_issuer_id": HEX,
    "drm_time": TIME,
    "certificates": _optional(_many(HEX)),
    "ocsp_responses": _optional(_many(HEX)),
}
_RESPONSE_SEALED: Final = _RESPONSE | {
    "session_key_block": _optional(HEX),
    "keyset_block": _optional(HEX),
    "signature": HEX,
}
_RESPONSE_CLEAR: Final = _RESPONSE | {
    "keyset_items": _optional(_many(_row(m.KeysetItem, ("tag", INT), ("value", SECRET)))),
}
_OTHER_REGISTRATION: Final = _HEADER | {
    "ri_certificate_flag": FLAG,
    "ocsp_flag": FLAG,
    "keyset_flag": FLAG,
    "body": HEX,
    "signature": HEX,
}

# --- Smartcard Profile and MIKEY -------------------------------------------------------------------------------------

_KEY_IDS: Final = _many(_row(m.KeyId, ("type", INT), ("value", HEX)))
_PARAMS: Final = _many(_row(_pair, ("type", INT), ("value", HEX)))
_EXTENSION: Final = _Object(m.Extension, {"ext_type": INT, "data": HEX})
_POLICY: Final = _Object(m.SecurityPolicy, {"policy_no": INT, "prot_type": INT, "params": _PARAMS})
_SLOTS: Final = ("EXT3", "EXT5", "T", "RAND", "IDi", "IDr", "KEMAC", "V")


def _show_slot(value: Any, redact: bool) -> object:
    if isinstance(value, m.Extension):
        return _EXTENSION.show(value, redact)
    if isinstance(value, m.SecurityPolicy):
        return _POLICY.show(value, redact)
    return value


def _read_slot(value: object, path: str) -> Any:
    if isinstance(value, Mapping):
        return (_EXTENSION if "ext_type" in value else _POLICY).read(value, path)
    if value not in _SLOTS:
        raise _bad(path, "one of " + ", ".join(_SLOTS) + ", or an object", value)
    return value


_LAYOUT: Final = {"layout": _optional(_many(_Type(_show_slot, _read_slot)))}

_STKM_MANAGEMENT: Final = _Object(
    m.StkmManagement,
    {
        "protocol_version": INT,
        "protection_after_reception": INT,
        "traffic_protection_protocol": _number(m.Protocol),
        "traffic_authentication_flag": FLAG,
        "traffic_key_lifetime": INT,
        "access_criteria": CRITERIA,
        "terminal_binding": BINDING,
    },
)
_SPE: Final = {
    "security_policy_extension": INT,
    "cost_value": _optional(INT),
    "purse": _optional(INT),
    "purse_mode": INT,
    "playback": _optional(INT),
    "playback_mode": INT,
    "tek": _optional(INT),
    "tek_mode": INT,
}
_LTKM_MANAGEMENT: Final = _Object(
    m.LtkmManagement,
    {
        "protocol_version": INT,
        "consumption_reporting_flag": FLAG,
        "security_policy_ext": _optional(_Object(m.SecurityPolicyExtension, _SPE).as_type()),
        "access_criteria": CRITERIA,
        "terminal_binding": BINDING,
    },
)
_REPORTING: Final = _Object(
    m.Reporting,
    {
        "protocol_version": INT,
        "status": INT,
        "entries": _many(
            _Object(
                m.ReportingEntry,
                {"key_domain_id": HEX, "key_group": HEX, "key_number": INT, "ts_low": INT, "ts_high": INT} | _SPE,
            ).as_type()
        ),
    },
)
_STKM_IDS: Final = {"key_domain_id": HEX, "sek_id": HEX, "tek_id": HEX, "counter": INT}
_STKM_REST: Final = {"management": _optional(_STKM_MANAGEMENT.as_type()), "other_key_ids": _KEY_IDS} | _LAYOUT
_SUBSCRIBER: Final = {"idi": IDENTITY, "idr": IDENTITY, "idi_type": INT, "idr_type": INT}
_LTKM: Final = {
    "csb_id": HEX,
    "rand": HEX,
    "key_domain_id": HEX,
    "sek_id": HEX,
    "counter": INT,
    **_SUBSCRIBER,
    "verification_requested": FLAG,
    "management": _optional(_LTKM_MANAGEMENT.as_type()),
    "other_key_ids": _KEY_IDS,
    **_LAYOUT,
}
_KEMAC: Final = {"encr_data": HEX, "mac": HEX}
_PARENTAL: Final = {
    "protocol_version": INT,
    "csb_id": HEX,
    "rand": HEX,
    "counter": INT,
    **_SUBSCRIBER,
    "verification_requested": FLAG,
    "rating_type": INT,
    "level_granted": INT,
    **_LAYOUT,
}
_PUSH: Final = {
    "protocol_version": INT,
    "gba_u": FLAG,
    "target_id": HEX,
    "key_lifetime": INT,
    "rand": HEX,
    "autn": HEX,
    "naf_fqdn": TEXT,
    "btid": TEXT,
    "mac": HEX,
}
_PUSH_OBJECT: Final = _Object(m.SmartcardRegistration, _PUSH)


def _show_kemac_data(value: m.Kemac, redact: bool) -> object:
    return None if redact and value.encr_alg == 0 else value.encr_data.hex()  # NULL encryption: keys in clear


_PAYLOADS: Final[dict[str, _Object]] = {
    "T": _Object(m.Timestamp, {"ts_type": INT, "ts_value": HEX}),
    "RAND": _Object(m.Rand, {"rand": HEX}),
    "ID": _Object(m.Identity, {"id_type": INT, "id": HEX}),
    "SP": _POLICY,
    "KEMAC": _Object(m.Kemac, {"encr_alg": INT, "encr_data": HEX, "mac_alg": INT, "mac": HEX}),
    "V": _Object(m.Verification, {"auth_alg": INT, "ver_data": HEX}),
    "ERR": _Object(m.ErrorPayload, {"error_no": INT}),
    "EXT": _EXTENSION,
    "KEY_IDS": _Object(m.KeyIds, {"ids": _KEY_IDS}),
}
_PAYLOAD_NAMES: Final = {table.cls: name for name, table in _PAYLOADS.items()}


def _show_payload(value: Any, redact: bool) -> object:
    name = _PAYLOAD_NAMES[type(value)]
    out = {"payload": name} | _PAYLOADS[name].show(value, redact)
    if isinstance(value, m.Kemac):
        out["encr_data"] = _show_kemac_data(value, redact)
    return out


def _read_payload(value: object, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _bad(path, "an object", value)
    name = value.get("payload")
    if not isinstance(name, str) or name not in _PAYLOADS:
        raise _bad(_join(path, "payload"), "one of " + ", ".join(_PAYLOADS), name)
    return _PAYLOADS[name].read({k: v for k, v in value.items() if k != "payload"}, path)


_MIKEY: Final = {
    "data_type": INT,
    "v": FLAG,
    "prf_func": INT,
    "csb_id": HEX,
    "cs_id_map_type": INT,
    "cs_id_map": _many(_row(m.SrtpId, ("policy_no", INT), ("ssrc", INT), ("roc", INT))),
    "payloads": _many(_Type(_show_payload, _read_payload)),
}

# --- Whole messages --------------------------------------------------------------------------------------------------


def _bcro(cls: type[Any], asset_cls: type[Any], key: dict[str, _Type], mac: dict[str, _Type]) -> _Object:
    assets = {"assets": _many(_Object(asset_cls, _ASSET | key).as_type())}
    return _Object(cls, _BCRO | assets | _PERMISSIONS | mac, _BCRO_ADDRESS)


_TABLES: Final = {
    table.cls: table
    for table in (
        _Object(m.DrmStkm, _DRM_SEALED),
        _Object(m.ClearDrmStkm, _DRM_CLEAR),
        _Object(m.PartialDrmStkm, _DRM_CLEAR),
        _bcro(m.Bcro, m.Asset, {"encrypted_key": HEX}, {"MAC": HEX}),
        _bcro(m.ClearBcro, m.ClearAsset, {"key": SECRET}, {}),
        _Object(m.RegistrationResponse, _RESPONSE_SEALED),
        _Object(m.DeviceRegistrationResponse, _RESPONSE_SEALED),
        _Object(m.DomainRegistrationResponse, _RESPONSE_SEALED),
        _Object(m.DomainUpdateResponse, _RESPONSE_SEALED),
        _Object(m.ClearRegistrationResponse, _RESPONSE_CLEAR),
        _Object(m.RegistrationMessage, _OTHER_REGISTRATION),
        _Object(m.SmartcardStkm, _STKM_IDS | {"csb_id": HEX} | _STKM_REST | _KEMAC),
        _Object(m.ClearSmartcardStkm, _STKM_IDS | {"tek": SECRET, "salt": _optional(HEX)} | _STKM_REST),
        _Object(m.PartialSmartcardStkm, _STKM_IDS | {"tek": SECRET, "salt": _optional(HEX)} | _STKM_REST),
        _Object(m.SmartcardLtkm, _LTKM | _KEMAC),
        _Object(
            m.ClearSmartcardLtkm,
            _LTKM | {"sek": SECRET, "ts_low": INT, "ts_high": INT, "key_data_type": INT, "interval_length": INT},
        ),
        _Object(
            m.SmartcardVerification,
            {
                "csb_id": HEX,
                "counter": INT,
                "idr": IDENTITY,
                "idr_type": INT,
                "reporting": _optional(_REPORTING.as_type()),
                "mac": HEX,
                **_LAYOUT,
            },
        ),
        _Object(m.SmartcardParental, _PARENTAL | {"pin_present": FLAG} | _KEMAC),
        _Object(m.ClearSmartcardParental, _PARENTAL | {"pin": _optional(PIN)}),
        _PUSH_OBJECT,
        _Object(m.MikeyMessage, _MIKEY),
    )
}
_OPENED_PUSH: Final = _Object(m.OpenedSmartcardRegistration, {"smk": SECRET, "srk": SECRET})
_PARTIALS: Final = (m.PartialDrmStkm, m.PartialSmartcardStkm)

_COMPANIONS: Final = frozenset(
    {"kind", "partial", "management_data", "message", "name", "keys"} | {f.name for f in dataclasses.fields(Keys)}
)
"""Names that may stand beside a message's own, as they do in vector files: its bytes, and the keys that it is sealed with."""


def to_dict(message: m.Message | m.ClearMessage, *, redact: bool = False) -> dict[str, object]:
    """A message as plain JSON.

    ``kind`` first, then every field by its specification name; ``"partial": true`` marks a partial STKM.  Nothing is lost, so **the
    keys of an opened or partial message are in it, readable**.  ``redact`` puts null in their place, for logs; such an object
    cannot be read back.
    """
    out: dict[str, object] = {"kind": message.kind}
    if isinstance(message, m.OpenedSmartcardRegistration):
        return out | _PUSH_OBJECT.show(message.registration, redact) | _OPENED_PUSH.show(message, redact)
    if isinstance(message, _PARTIALS):
        out["partial"] = True
    out |= _TABLES[type(message)].show(message, redact)
    if isinstance(message, m.SmartcardLtkm | m.ClearSmartcardLtkm):
        out["management_data"] = None if message.management is None else encode_ltkm_management(message.management).hex()
    return out


def from_dict(values: Mapping[str, Any]) -> m.Message | m.ClearMessage:
    """A message from plain JSON, as :func:`to_dict` makes it; fields with a default may be missing.

    Which form it is, its fields say: with ``partial`` a partial STKM, with MAC or signature a sealed message, else the content.
    Names of keys and of vector files (``message``, ``sek``, ``rand``, ...) may stand beside the message's own; any other is
    refused, so that a misspelt field is not silently dropped.

    Raises ``ConfigError`` for a missing or unknown ``kind``; ``WireError`` (``offset`` None) with the path of an unusable field.
    """
    if not isinstance(values, Mapping):
        raise _bad("", "an object", values)
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in m.KINDS:
        raise ConfigError(f"kind: expected one of {', '.join(m.KINDS)}")
    cls = _class_of(kind, values)
    if cls is m.OpenedSmartcardRegistration:
        _PUSH_OBJECT.refuse_unknown(values, "", _COMPANIONS | _OPENED_PUSH.names())
        return m.OpenedSmartcardRegistration(
            registration=_PUSH_OBJECT.make(values, ""), smk=SECRET.read(values["smk"], "smk"), srk=_srk(values)
        )
    table = _TABLES[cls]
    table.refuse_unknown(values, "", _COMPANIONS)
    if kind == "drm-registration" and values.get("message_tag") is None:
        # A vector's own fields; every other message of the family says its tag.
        values = {**values, "message_tag": int(m.RegistrationTag.device_registration_response)}
    if kind == "smartcard-ltkm":
        values = _with_management(values)
    message: m.Message | m.ClearMessage = table.make(values, "")
    if message.kind != kind:
        raise BadValue(
            None, "reporting", f"as the kind {kind} has it", "present" if message.kind == "smartcard-reporting" else "absent"
        )
    return message


def _srk(values: Mapping[str, object]) -> Secret:
    if "srk" not in values:
        raise BadValue(None, "srk", "present", "absent")
    srk: Secret = SECRET.read(values["srk"], "srk")
    return srk


def _with_management(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """``management_data`` (hex) in the place of a missing ``management``; both must say the same."""
    data = values.get("management_data")
    if data is None:
        return values
    try:
        parsed = decode_ltkm_management(_read_hex(data, "management_data"))
    except WireError as e:
        if e.offset is None:
            raise
        raise type(e)(None, f"management_data.{e.field}", e.expected, e.found) from None
    shown = _LTKM_MANAGEMENT.show(parsed, False)
    if values.get("management") is None:
        return {**values, "management": shown}
    if _LTKM_MANAGEMENT.read(values["management"], "management") != parsed:
        raise BadValue(None, "management_data", "the bytes of management", "others")
    return values


_FORMS: Final[dict[str, tuple[str, type[Any], type[Any]]]] = {
    "drm-stkm": ("encrypted_traffic_key_material", m.DrmStkm, m.ClearDrmStkm),
    "drm-ltkm": ("MAC", m.Bcro, m.ClearBcro),
    "smartcard-stkm": ("encr_data", m.SmartcardStkm, m.ClearSmartcardStkm),
    "smartcard-ltkm": ("encr_data", m.SmartcardLtkm, m.ClearSmartcardLtkm),
    "smartcard-verification": ("", m.SmartcardVerification, m.SmartcardVerification),
    "smartcard-reporting": ("", m.SmartcardVerification, m.SmartcardVerification),
    "smartcard-parental": ("encr_data", m.SmartcardParental, m.ClearSmartcardParental),
    "smartcard-registration": ("smk", m.OpenedSmartcardRegistration, m.SmartcardRegistration),
    "mikey": ("", m.MikeyMessage, m.MikeyMessage),
}
"""Per kind: the field that tells the first form from the second."""


def _class_of(kind: str, values: Mapping[str, Any]) -> type[Any]:
    partial = values.get("partial", False)
    if kind in ("drm-stkm", "smartcard-stkm") and partial is True:
        return m.PartialDrmStkm if kind == "drm-stkm" else m.PartialSmartcardStkm
    if kind != "drm-registration":
        name, first, second = _FORMS[kind]
        return first if name in values else second
    tag = m.RegistrationTag.device_registration_response
    if values.get("message_tag") is not None:
        tag = _HEADER["message_tag"].read(values["message_tag"], "message_tag")
    if tag not in RESPONSES:
        return m.RegistrationMessage
    return RESPONSES[tag] if "signature" in values else m.ClearRegistrationResponse
