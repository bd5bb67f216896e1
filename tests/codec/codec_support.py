# SPDX-License-Identifier: Apache-2.0
"""What the codec tests share: the vectors, each with the keys that open it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pybcast.codec import Keys
from pybcast.messages import Kind

VECTORS = Path(__file__).parents[1] / "vectors"
H = bytes.fromhex


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


NAMED: dict[str, bytes] = {name: H(text) for name, text in load("named.json")["messages"].items()}
MORE = load("more.json")
RSA_KEYS = Keys.from_dict(
    {"device_key": MORE["test_rsa_keys"]["device"], "rights_issuer_key": MORE["test_rsa_keys"]["rights_issuer"]}
)


@dataclass(frozen=True)
class Case:
    """A sealed message, the keys that open it, and the JSON that its content must show."""

    name: str
    kind: Kind
    data: bytes
    keys: Keys
    shown: dict[str, Any]


def keys_of(vector: dict[str, Any], *names: str) -> Keys:
    return Keys.from_dict({name: vector[name] for name in names})


def run(start: int, size: int = 16) -> str:
    return bytes(range(start, start + size)).hex()


DRM_KEYS = Keys.from_dict({"seak": run(0x10, 32), "peak": run(0x30, 32)})
LTKM_KEYS = Keys.from_dict({"smk": run(0, 32), "idi": "bsm.example.com", "rand": run(0x20)})
STKM_KEYS = Keys.from_dict({"sek": run(0x30), "csb_id": "a1b2c3d4", "rand": run(0x20)})
BCRO_KEYS = Keys.from_dict({"iek": "e1ed9cbc8d7c509b027de058acd70ff9", "riak": run(0xC0)})


def _named() -> list[Case]:
    tek = run(0x40)
    kinds: list[tuple[str, Kind, Keys, dict[str, Any]]] = [
        ("drm_stkm_A", "drm-stkm", DRM_KEYS, {"id": "0000029b", "traffic_key_material": run(0x50), "service_CID_extension": 1}),
        ("drm_stkm_B", "drm-stkm", DRM_KEYS, {
            "next_id": "0000029c", "traffic_key_material": run(0x50, 32), "next_traffic_key_material": run(0x70, 32),
            "timestamp": "2008-02-26T12:45:30Z", "access_criteria": [[1, "0a0c"]], "permissions_category": 0,
            "programme_CID_extension": 0x11223344, "service_CID_extension": 1, "traffic_key_lifetime": 6}),
        ("drm_stkm_C", "drm-stkm", DRM_KEYS, {"id": "07", "traffic_key_material": run(0x50), "service_CID_extension": None}),
        ("drm_stkm_D", "drm-stkm", DRM_KEYS, {"salt": run(0xA0, 14), "traffic_authentication_flag": 1, "id": "0001"}),
        ("drm_bcro", "drm-ltkm", BCRO_KEYS, {"address_mode": 1, "group_address": "00010203"}),
        ("L1", "smartcard-ltkm", LTKM_KEYS, {"sek": run(0x30), "ts_low": 1, "ts_high": 0xFFFF, "key_data_type": 0, "counter": 1}),
        ("L2", "smartcard-ltkm", LTKM_KEYS, {"sek": run(0x30), "key_data_type": 2, "idi": "bsm.example.com"}),
        ("L3", "smartcard-ltkm", LTKM_KEYS, {"verification_requested": 1, "management_data": "00", "counter": 2}),
        ("S1", "smartcard-stkm", STKM_KEYS, {"tek": tek, "salt": None, "management": None, "counter": 5, "tek_id": "0001"}),
        ("S2", "smartcard-stkm", STKM_KEYS, {"tek": tek, "salt": run(0x50, 14)}),
        ("S3", "smartcard-stkm", STKM_KEYS, {"tek": tek, "sek_id": "00070001", "key_domain_id": "12f410"}),
        ("V1", "smartcard-verification", LTKM_KEYS, {"counter": 2, "csb_id": "a1b2c3d4", "reporting": None}),
    ]  # fmt: skip
    return [Case(name, kind, NAMED[name], keys, shown) for name, kind, keys, shown in kinds]


def _from_files() -> list[Case]:
    out: list[Case] = []

    def add(kind: Kind, vector: dict[str, Any], keys: Keys, shown: dict[str, Any]) -> None:
        out.append(Case(f"{kind}-{len(out)}", kind, H(vector["message"]), keys, shown))

    def part(vector: dict[str, Any], *names: str) -> dict[str, Any]:
        return {name: vector[name] for name in names}

    for v in load("drm_stkm.json")["vectors"]:
        add("drm-stkm", v, Keys.from_dict(v["keys"]), v["fields"])
    for v in MORE["drm_ltkm"]:
        add("drm-ltkm", v, keys_of(v, "iek", "riak"), v["fields"])
    for v in MORE["drm_registration"]:
        add("drm-registration", v, RSA_KEYS, part(v, "longform_udn", "drm_time", "hash", "keyset_items"))
    for v in MORE["smartcard_registration"]:
        shown = part(v, "gba_u", "rand", "autn", "smk", "srk")
        add("smartcard-registration", v, keys_of(v, "k", "opc", "impi"), shown)
        add("smartcard-registration", v, keys_of(v, "ck", "ik", "impi"), shown)
    for v in MORE["parental"]:
        add("smartcard-parental", v, keys_of(v, "smk"), part(v, "counter", "rating_type", "level_granted", "pin"))
    for v in MORE["verification"]:
        kind: Kind = "smartcard-reporting" if H(v["message"])[2] == 21 else "smartcard-verification"
        add(kind, v, keys_of(v, "smk", "rand", "idi"), part(v, "counter", "csb_id", "idr"))
    files = load("smartcard.json")
    names = ("key_domain_id", "sek_id", "tek_id", "counter", "tek", "salt", "management")
    for v in files["stkm"]:
        add("smartcard-stkm", v, keys_of(v, "sek", "csb_id", "rand"), part(v, *names))
    for v in files["ltkm"]:
        shown = {name: value for name, value in v.items() if name not in ("smk", "message")}
        add("smartcard-ltkm", v, keys_of(v, "smk"), shown)
    return out


CASES = _named() + _from_files()
DETERMINISTIC = [case for case in CASES if case.kind != "drm-registration"]
"""An RSA block and signature differ each time they are made."""
SEALED = [case for case in DETERMINISTIC if case.name != "L1"]
"""L1 has key data type 0, which is read and no longer made."""


def case(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


def first(kind: Kind) -> Case:
    return next(c for c in CASES if c.kind == kind)
