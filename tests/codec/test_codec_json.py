# SPDX-License-Identifier: Apache-2.0
"""Messages as plain JSON: names, forms, and refusals that say where."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from codec_support import CASES, NAMED, Case, case, first, run
from hypothesis import given
from hypothesis import strategies as st

from pybcast import codec
from pybcast.codec import decode, from_dict, to_dict
from pybcast.errors import BadValue, BcastError, ConfigError, WireError
from pybcast.messages import (
    KINDS,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    ClearSmartcardStkm,
    Extension,
    Kemac,
    KeyId,
    KeyIds,
    LtkmManagement,
    MikeyMessage,
    OpenedSmartcardRegistration,
    PartialDrmStkm,
    RegistrationMessage,
    RegistrationTag,
    SecurityPolicy,
    SecurityPolicyExtension,
    SmartcardRegistration,
    SmartcardVerification,
    SrtpId,
    StkmManagement,
    TerminalBinding,
)
from pybcast.secret import Secret


def shown(c: Case) -> dict[str, Any]:
    return to_dict(codec.open(c.data, c.keys, c.kind))


# --- Forms ------------------------------------------------------------------------------------------------------------


def test_names_and_shapes_of_a_drm_stkm() -> None:
    assert to_dict(codec.open(NAMED["drm_stkm_B"], case("drm_stkm_B").keys, "drm-stkm")) == {
        "kind": "drm-stkm",
        "protocol_version": 0,
        "protection_after_reception": 0,
        "traffic_protection_protocol": 0,
        "traffic_authentication_flag": 1,
        "traffic_key_lifetime": 6,
        "id": "0000029b",
        "next_id": "0000029c",
        "salt": None,
        "next_salt": None,
        "timestamp": "2008-02-26T12:45:30Z",
        "access_criteria": [[1, "0a0c"]],
        "permissions_category": 0,
        "programme_CID_extension": 0x11223344,
        "service_CID_extension": 1,
        "traffic_key_material": run(0x50, 32),
        "next_traffic_key_material": run(0x70, 32),
    }


def test_a_sealed_message_shows_what_is_on_air_and_a_partial_one_says_so() -> None:
    sealed = to_dict(decode(NAMED["drm_stkm_A"], "drm-stkm"))
    assert sealed["service_MAC"] == "341132128dac0b7b3509d751"
    assert sealed["encrypted_traffic_key_material"] == "b2e415d6f91aa972922cbf41c8819d3a"
    assert sealed["encrypted_PEK"] is None
    assert "traffic_key_material" not in sealed
    data = bytes.fromhex("0c010000029b10505152535455565758595a5b5c5d5e5f0500000001000000000000000000000000")
    partial = to_dict(decode(data, "drm-stkm", partial=True))
    assert list(partial)[:2] == ["kind", "partial"]
    assert partial["partial"] is True
    assert isinstance(from_dict(partial), PartialDrmStkm)
    assert not isinstance(from_dict({**partial, "partial": False}), PartialDrmStkm)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_redaction_hides_every_secret_and_nothing_else(c: Case) -> None:
    message = codec.open(c.data, c.keys, c.kind)
    full, redacted = to_dict(message), to_dict(message, redact=True)
    secrets = [value.reveal() for value in _secrets(message)]
    text = json.dumps(redacted)
    assert bool(secrets) == (full != redacted)
    for secret in secrets:
        assert secret.hex() not in text
        assert full.keys() == redacted.keys()


def _secrets(value: object) -> list[Secret]:
    if isinstance(value, Secret):
        return [value]
    if dataclasses.is_dataclass(value):
        return [s for f in dataclasses.fields(value) for s in _secrets(getattr(value, f.name))]
    if isinstance(value, tuple):
        return [s for one in value for s in _secrets(one)]
    return []


def test_identities_are_text_when_they_can_be_read() -> None:
    values = shown(case("L1"))
    assert values["idi"] == "bsm.example.com"
    assert "idi_hex" not in values
    message = from_dict({**values, "idi": None, "idi_hex": "017777"})
    assert isinstance(message, ClearSmartcardLtkm)
    assert message.idi == b"\x01ww"
    again = to_dict(message)
    assert again["idi_hex"] == "017777"
    assert "idi" not in again
    del values["idi"]
    assert from_dict({**values, "idi_hex": "6162"}).idi == b"ab"  # type: ignore[union-attr]
    unusable: list[tuple[dict[str, object], str]] = [
        ({"idi": "a", "idi_hex": "61"}, "idi"),
        ({"idi": "ä"}, "idi"),
        ({"idi_hex": "6"}, "idi_hex"),
        ({}, "idi"),
    ]
    for bad, name in unusable:
        with pytest.raises(BadValue) as caught:
            from_dict({**values, **bad})
        assert caught.value.field == name


def test_times_beyond_a_calendar_are_numbers() -> None:
    values = shown(case("drm_stkm_B"))
    for seconds in (0, 3413018730, 2**32, 2**40, 2**63):
        message = from_dict({**values, "timestamp": seconds})
        assert message.timestamp == seconds  # type: ignore[union-attr]
        assert from_dict(json.loads(json.dumps(to_dict(message)))) == message
    assert to_dict(from_dict({**values, "timestamp": 0}))["timestamp"] == "1900-01-01T00:00:00Z"
    unusable: tuple[object, ...] = ("2008-02-26", "2008-02-26T12:45:30", "2008-13-26T12:45:30Z", 1.5, True, [], "x")
    for bad in unusable:
        with pytest.raises(BadValue, match="timestamp"):
            from_dict({**values, "timestamp": bad})


def test_management_data_and_management_say_the_same() -> None:
    values = shown(case("L3"))
    assert values["management_data"] == "00"
    assert values["management"] == {
        "protocol_version": 0, "consumption_reporting_flag": 0, "security_policy_ext": None, "access_criteria": None,
        "terminal_binding": None,
    }  # fmt: skip
    message = from_dict(values)
    without = {name: value for name, value in values.items() if name != "management"}
    assert from_dict(without) == message
    assert from_dict({**values, "management_data": None}) == message
    changed = {**values, "management": {**values["management"], "access_criteria": []}}
    with pytest.raises(BadValue, match="management_data"):
        from_dict(changed)
    with pytest.raises(WireError, match=r"management_data.protocol_version") as caught:
        from_dict({**without, "management_data": "f0"})
    assert caught.value.offset is None
    with pytest.raises(BadValue, match="management_data"):
        from_dict({**without, "management_data": "zz"})


def test_everything_optional_survives() -> None:
    stkm = ClearSmartcardStkm(
        counter=1,
        key_domain_id=b"\1\2\3",
        sek_id=b"\0\1\0\2",
        tek_id=b"\0\3",
        tek=Secret(bytes(16)),
        management=StkmManagement(
            protection_after_reception=3,
            traffic_protection_protocol=1,  # type: ignore[arg-type]
            traffic_authentication_flag=True,
            traffic_key_lifetime=4,
            access_criteria=(),
            terminal_binding=TerminalBinding(0x2D834AE4, b"http://x"),
        ),
        salt=bytes(14),
        other_key_ids=(KeyId(9, b"kept"),),
        layout=("T", "EXT3", Extension(200, b"\xff"), SecurityPolicy(0, 0, ((1, b"\2"),)), "EXT5", "KEMAC"),
    )
    values = to_dict(stkm)
    assert values["management"]["terminal_binding"] == ["2d834ae4", b"http://x".hex()]  # type: ignore[index]
    assert from_dict(json.loads(json.dumps(values))) == stkm
    ltkm = dataclasses.replace(
        _opened("L1"),
        management=LtkmManagement(
            security_policy_ext=SecurityPolicyExtension(security_policy_extension=91, cost_value=1, purse=2, purse_mode=1),
            access_criteria=(),
        ),
    )
    assert from_dict(json.loads(json.dumps(to_dict(ltkm)))) == ltkm
    mikey = MikeyMessage(
        csb_id=bytes(4),
        v=True,
        cs_id_map_type=0,
        cs_id_map=(SrtpId(0, 0xFFFFFFFF, 1),),
        payloads=(KeyIds((KeyId(0, b"abc"),)), Extension(5, b"\0"), Kemac(0, b"clear key", 0, b"")),
    )
    assert from_dict(json.loads(json.dumps(to_dict(mikey)))) == mikey
    assert b"clear key".hex() not in json.dumps(to_dict(mikey, redact=True))


def _opened(name: str) -> Any:
    c = case(name)
    return codec.open(c.data, c.keys, c.kind)


def test_a_pin_is_text() -> None:
    c = first("smartcard-parental")
    values = shown(c)
    assert values["pin"] == "00998877"
    message = from_dict({**values, "pin": "12"})
    assert isinstance(message, ClearSmartcardParental)
    assert message.pin == Secret(b"12")
    with pytest.raises(BadValue, match="pin"):
        from_dict({**values, "pin": "ä"})
    with pytest.raises(BadValue, match="pin"):
        from_dict({**values, "pin": 12})


def test_a_push_before_and_after_it_was_opened() -> None:
    c = first("smartcard-registration")
    sealed, opened = to_dict(decode(c.data, c.kind)), shown(c)
    assert isinstance(from_dict(sealed), SmartcardRegistration)
    assert isinstance(from_dict(opened), OpenedSmartcardRegistration)
    assert opened.keys() - sealed.keys() == {"smk", "srk"}
    without = {name: value for name, value in opened.items() if name != "srk"}
    with pytest.raises(BadValue, match="srk"):
        from_dict(without)
    with pytest.raises(BadValue, match="srk"):
        from_dict({**opened, "srk": "xyz"})
    with pytest.raises(BadValue, match="targetid"):
        from_dict({**opened, "targetid": "00"})


def test_the_kind_of_a_verification_fits_its_reporting() -> None:
    plain, report = shown(case("V1")), shown(first("smartcard-reporting"))
    assert isinstance(from_dict(plain), SmartcardVerification)
    for values, kind in ((plain, "smartcard-reporting"), (report, "smartcard-verification")):
        with pytest.raises(BadValue, match="reporting"):
            from_dict({**values, "kind": kind})


def test_registration_messages_by_their_tag() -> None:
    values = shown(first("drm-registration"))
    assert values["message_tag"] == 0x21
    without = {name: value for name, value in values.items() if name != "message_tag"}
    assert from_dict(without) == from_dict({**without, "message_tag": None}) == from_dict(values)
    other = RegistrationMessage(message_tag=RegistrationTag.join_domain_msg, longform_udn="0" * 20, body=b"b", signature=b"s")
    assert from_dict(to_dict(other)) == other
    for bad in (0x20, 0x2B, "21", True, object()):
        with pytest.raises(BadValue, match="message_tag"):
            from_dict({**values, "message_tag": bad})


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "", "stkm", 5, ["drm-stkm"], {}])
def test_a_missing_or_unknown_kind_is_a_configuration_error(kind: object) -> None:
    with pytest.raises(ConfigError, match="kind: expected one of drm-stkm"):
        from_dict({"kind": kind})
    with pytest.raises(ConfigError, match="kind"):
        from_dict({})


@pytest.mark.parametrize("values", [None, [], "text", 5])
def test_what_is_no_object_is_refused(values: Any) -> None:
    with pytest.raises(BadValue, match="an object"):
        from_dict(values)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_object_names_its_first_missing_field(kind: str) -> None:
    with pytest.raises(BadValue, match="expected present, found absent") as caught:
        from_dict({"kind": kind})
    assert caught.value.field


STKM_B = shown(case("drm_stkm_B"))
BCRO = shown(case("drm_bcro"))
LTKM = {name: value for name, value in shown(case("L3")).items() if name != "management_data"}
MIKEY = to_dict(decode(NAMED["L3"], "mikey"))
REPORT = shown(next(c for c in CASES if c.kind == "smartcard-reporting" and shown(c)["reporting"]["entries"]))


@pytest.mark.parametrize(
    ("base", "path", "value", "field"),
    [
        (STKM_B, ["traffic_key_lifetime"], "6", "traffic_key_lifetime"),
        (STKM_B, ["traffic_key_lifetime"], 6.0, "traffic_key_lifetime"),
        (STKM_B, ["traffic_key_lifetime"], True, "traffic_key_lifetime"),
        (STKM_B, ["traffic_key_lifetime"], None, "traffic_key_lifetime"),
        (STKM_B, ["traffic_protection_protocol"], 4, "traffic_protection_protocol"),
        (STKM_B, ["traffic_protection_protocol"], "srtp", "traffic_protection_protocol"),
        (STKM_B, ["traffic_authentication_flag"], 2, "traffic_authentication_flag"),
        (STKM_B, ["traffic_authentication_flag"], 1.0, "traffic_authentication_flag"),
        (STKM_B, ["traffic_authentication_flag"], "1", "traffic_authentication_flag"),
        (STKM_B, ["id"], "0000029", "id"),
        (STKM_B, ["id"], "xx", "id"),
        (STKM_B, ["id"], 667, "id"),
        (STKM_B, ["id"], {}, "id"),
        (STKM_B, ["traffic_key_material"], "abcdefgh", "traffic_key_material"),
        (STKM_B, ["traffic_key_material"], None, "traffic_key_material"),
        (STKM_B, ["access_criteria"], "01", "access_criteria"),
        (STKM_B, ["access_criteria", 0], 1, "access_criteria[0]"),
        (STKM_B, ["access_criteria", 0], [1], "access_criteria[0]"),
        (STKM_B, ["access_criteria", 0], [1, "00", 2], "access_criteria[0]"),
        (STKM_B, ["access_criteria", 0, 0], "1", "access_criteria[0].tag"),
        (STKM_B, ["access_criteria", 0, 1], 1, "access_criteria[0].value"),
        (STKM_B, ["acces_criteria"], None, "acces_criteria"),
        (STKM_B, ["partial "], True, "?"),
        (STKM_B, ["a5" * 30], True, "?"),
        (BCRO, ["address_mode"], 4, "address_mode"),
        (BCRO, ["assets"], {}, "assets"),
        (BCRO, ["assets", 0], [], "assets[0]"),
        (BCRO, ["assets", 0, "BCI"], None, "assets[0].BCI"),
        (BCRO, ["assets", 0, "bci"], "00", "assets[0].bci"),
        (BCRO, ["permissions", 0, "constraints"], [[1]], "permissions[0].constraints[0]"),
        (BCRO, ["permissions", 0, "action"], "play", "permissions[0].action"),
        (LTKM, ["management"], "00", "management"),
        (LTKM, ["management", "security_policy_ext"], {"purse": 1}, "management.security_policy_ext.security_policy_extension"),
        (LTKM, ["management", "terminal_binding"], ["00", ""], "management.terminal_binding.terminal_binding_key_id"),
        (LTKM, ["verification_requested"], None, "verification_requested"),
        (LTKM, ["idi"], 5, "idi"),
        (LTKM, ["layout"], ["T", "X"], "layout[1]"),
        (LTKM, ["layout"], [{"ext_type": 1}], "layout[0].data"),
        (LTKM, ["layout"], [{"policy_no": 1, "prot_type": 0, "params": [[0]]}], "layout[0].params[0]"),
        (LTKM, ["layout"], [["T"]], "layout[0]"),
        (LTKM, ["other_key_ids"], [[9, 9]], "other_key_ids[0].value"),
        (REPORT, ["reporting", "entries", 0, "key_group"], 1, "reporting.entries[0].key_group"),
        (REPORT, ["reporting", "entries", 0, "ts"], 1, "reporting.entries[0].ts"),
        (MIKEY, ["payloads", 0], "T", "payloads[0]"),
        (MIKEY, ["payloads", 0], {"payload": "X"}, "payloads[0].payload"),
        (MIKEY, ["payloads", 0], {}, "payloads[0].payload"),
        (MIKEY, ["payloads", 0], {"payload": ["T"]}, "payloads[0].payload"),
        (MIKEY, ["payloads", 0], {"payload": "T", "ts_type": 2}, "payloads[0].ts_value"),
        (MIKEY, ["cs_id_map"], [[1, 2]], "cs_id_map[0]"),
    ],
)  # fmt: skip
def test_an_unusable_field_is_named(base: dict[str, Any], path: list[Any], value: object, field: str) -> None:
    values: Any = copy.deepcopy(base)
    inner = values
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(WireError) as caught:
        from_dict(values)
    assert caught.value.field == field
    assert caught.value.offset is None
    assert "abcdefgh" not in str(caught.value)


def test_keys_and_bytes_may_stand_beside_the_fields() -> None:
    message = from_dict(STKM_B)
    extra = {"message": "00", "name": "B", "sek": run(0x10), "rand": "00", "keys": {}, "impi": "x"}
    assert from_dict({**STKM_B, **extra}) == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["00", "T", "EXT3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
SHOWN = [to_dict(message) for c in CASES for message in (codec.open(c.data, c.keys, c.kind), decode(c.data, c.kind))] + [MIKEY]


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [p for name, one in value.items() for p in ((*path, name), *_places(one, (*path, name)))]
    if isinstance(value, list):
        return [p for i, one in enumerate(value) for p in ((*path, i), *_places(one, (*path, i)))]
    return []


@given(st.sampled_from(SHOWN), st.data())
def test_any_json_is_read_or_refused_with_a_typed_error(base: dict[str, Any], data: st.DataObject) -> None:
    values: Any = copy.deepcopy(base)
    path = data.draw(st.sampled_from(_places(values)))
    inner = values
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = data.draw(JSON)
    try:
        message = from_dict(values)
    except BcastError as error:
        assert isinstance(error, WireError | ConfigError)
        assert not isinstance(error, WireError) or error.offset is None
    else:
        assert from_dict(to_dict(message)) == message


@given(
    st.dictionaries(
        st.sampled_from(["kind", "id", "partial", "encr_data", "smk", "message_tag", "x"]), JSON | st.sampled_from(KINDS)
    )
)
def test_any_object_is_read_or_refused_with_a_typed_error(values: dict[str, Any]) -> None:
    with pytest.raises((WireError, ConfigError)):
        from_dict(values)
