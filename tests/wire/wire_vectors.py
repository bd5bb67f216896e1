# SPDX-License-Identifier: Apache-2.0
"""Every known message of tests/vectors, and of the layout notes, as one list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pybcast.messages import Kind, Leniency

FOLDER: Final = Path(__file__).parent.parent / "vectors"
ROOMY: Final = 1 << 20
"""A max_size that never refuses: vectors are not bound to one card command."""


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@dataclass(frozen=True)
class Known:
    name: str
    kind: Kind
    data: bytes
    partial: bool = False
    lenient: tuple[Leniency, ...] = ()


# smartcard-profile 8.2.  GStreamer: header only; gortsplib a-c: SRTP-ID map, NULL algorithms; d ends with a stray octet; e: SPI.
# (e as printed there lacks the #CS octet 01 that its length of 34 and its SRTP-ID entry need.)
PUBLIC: Final = {
    "gstreamer_header": "01000000123456780000",
    "gstreamer_two_srtp_ids": "01000000123456780200" + "011234567800000000" + "022345678900000001",
    "gortsplib_a": (
        "01000500e69d51f801000030685760000000000b00ebfe6f2db1c13fd00a10c2dde443a84930a5757a7ed9c3a417fb0100000015000101"
        "01011002010103010a0701010801010a0101000000220020001e9091783dfce8ddcd443a53508b64509f35bd8a86bc4d8b7637a502493d"
        "af00"
    ),
    "gortsplib_b": (
        "01000500feaf9752010000cc836237000000000b00ebfef66ba28c9b840a10276e94180e8875c2eaad31d82f8646200100000015000101"
        "01011002010103010a0701010801010a0101000000220020001e991b0f148f094b4e5b8b3053cd6276877fcced1866f141772adddde706"
        "4b00"
    ),
    "gortsplib_c": (
        "010005007de127a6020000cc8362370000000000b5cc3bf2000000000b00ebfef66ba2b1f6870a1061bb199432530356a2d18807152375"
        "95010000001500010101011002010103010a0701010801010a0101000000220020001e991b0f148f094b4e5b8b3053cd6276877fcced18"
        "66f141772adddde7064b00"
    ),
    "gortsplib_e": "01000100123456780100" + "031122334455667788" + "0000000a00210003aabbcc02112200",
}
STRAY_OCTET: Final = (
    "01000500b1405657010000726ef4db000000000b00ecd15081bedce3970a10dd72248395c2cc1a6de60e422a7f570901000000180001010101100201"
    "010301140701010801010a01010b010a000000220020001e5db18d956f6967cc0d73f8b4e776a48a08c4220e521dcaa3b800f584fc250000"
)


def _named(name: str) -> Kind:
    if name.startswith("drm"):
        return "drm-ltkm" if name == "drm_bcro" else "drm-stkm"
    kinds: dict[str, Kind] = {"L": "smartcard-ltkm", "S": "smartcard-stkm", "V": "smartcard-verification"}
    return kinds[name[0]]


def _all() -> Iterator[Known]:
    for index, item in enumerate(load("drm_stkm")["vectors"]):
        yield Known(f"drm_stkm_{index}", "drm-stkm", bytes.fromhex(item["message"]))
        yield Known(f"drm_stkm_{index}_partial", "drm-stkm", bytes.fromhex(item["partial"]), partial=True)
    smartcard = load("smartcard")
    for index, item in enumerate(smartcard["stkm"]):
        yield Known(f"smartcard_stkm_{index}", "smartcard-stkm", bytes.fromhex(item["message"]))
    for index, item in enumerate(smartcard["ltkm"]):
        yield Known(f"smartcard_ltkm_{index}", "smartcard-ltkm", bytes.fromhex(item["message"]))
    for name, message in load("named")["messages"].items():
        yield Known(name, _named(name), bytes.fromhex(message))
    for item in load("card_messages")["vectors"]:
        kind: Kind = "smartcard-stkm" if item["kind"] == "stkm" else "smartcard-ltkm"
        yield Known(f"card_{item['name']}", kind, bytes.fromhex(item["message"]), lenient=("mtk-id-4",) if "stkm" in kind else ())
    more = load("more")
    for index, item in enumerate(more["drm_ltkm"]):
        yield Known(f"drm_ltkm_{index}", "drm-ltkm", bytes.fromhex(item["message"]))
    for index, item in enumerate(more["drm_registration"]):
        yield Known(f"drm_registration_{index}", "drm-registration", bytes.fromhex(item["message"]))
    for index, item in enumerate(more["smartcard_registration"]):
        yield Known(f"smartcard_registration_{index}", "smartcard-registration", bytes.fromhex(item["message"]))
    for index, item in enumerate(more["parental"]):
        yield Known(f"parental_{index}", "smartcard-parental", bytes.fromhex(item["message"]))
    for index, item in enumerate(more["verification"]):
        data = bytes.fromhex(item["message"])
        yield Known(f"verification_{index}", "smartcard-reporting" if data[2] == 21 else "smartcard-verification", data)
    for index, item in enumerate(more["smartcard_partial"]):
        yield Known(f"smartcard_partial_{index}", "smartcard-stkm", bytes.fromhex(item["partial"]), partial=True)
        yield Known(f"smartcard_completed_{index}", "smartcard-stkm", bytes.fromhex(item["complete"]))
    libmikey = load("mikey_libmikey")
    for index, item in enumerate(libmikey["vectors"]):
        yield Known(f"libmikey_{index}", "mikey", bytes.fromhex(item["message"]))
    for index, item in enumerate(libmikey["disagreements_with_rfc3830"]):
        if "message" in item["libmikey"]:
            yield Known(f"libmikey_disagreement_{index}", "mikey", bytes.fromhex(item["libmikey"]["message"]))
    for name, message in PUBLIC.items():
        yield Known(name, "mikey", bytes.fromhex(message))


ALL: Final = tuple(_all())
AS_MIKEY: Final = tuple(
    Known(f"{known.name}_as_mikey", "mikey", known.data)
    for known in ALL
    if known.kind.startswith("smartcard") and known.kind != "smartcard-registration"
)
EVERY: Final = ALL + AS_MIKEY
BY_NAME: Final = {known.name: known for known in EVERY}
