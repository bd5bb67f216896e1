# SPDX-License-Identifier: Apache-2.0
"""The ``openssl`` program finds the same ciphertexts and MACs in the worked examples (drm-profile 8.2, smartcard-profile 8.4).

Keys are derived by ``pybcast.keys``; where a derivation is made of HMACs alone, by ``openssl`` too.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from pybcast.keys import PEAK, RIAK, SEAK, SEK, SMK, derive_bak, derive_pak, derive_sak, psk_keys
from pybcast.messages import KeyData, Kind
from pybcast.wire import decode, decode_key_data

pytestmark = pytest.mark.requires_tool("openssl", package="openssl")

NAMED: Final[dict[str, str]] = json.loads((Path(__file__).parents[1] / "vectors" / "named.json").read_text("utf-8"))["messages"]
PATIENCE: Final = 60  # seconds after which a program that hangs is killed


def octets(first: int, size: int = 16) -> bytes:
    """Bytes that count up: the keys of the worked examples."""
    return bytes(range(first, first + size))


SEAK_, PEAK_ = SEAK(octets(0x10, 32)), PEAK(octets(0x30, 32))
TEK, TAS, NEXT = octets(0x50), octets(0x60), octets(0x70, 32)
CSB_ID, RAND = bytes.fromhex("a1b2c3d4"), octets(0x20)


def openssl(*arguments: str, data: bytes) -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True, timeout=PATIENCE).stdout


def aes(mode: str, key: bytes, data: bytes, iv: bytes | None = None, *, decrypt: bool = False) -> bytes:
    start = () if iv is None else ("-iv", iv.hex())
    return openssl("enc", "-d" if decrypt else "-e", f"-aes-128-{mode}", "-K", key.hex(), *start, "-nopad", data=data)


def hmac_sha1(key: bytes, data: bytes) -> bytes:
    return openssl("dgst", "-sha1", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary", data=data)


def message(name: str, kind: Kind) -> tuple[bytes, Any]:
    data = bytes.fromhex(NAMED[name])
    return data, decode(data, kind)


# --- DRM Profile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "material", "following"),
    [("drm_stkm_A", TEK, b""), ("drm_stkm_B", TEK + TAS, NEXT), ("drm_stkm_C", TEK, b""), ("drm_stkm_D", TEK, b"")],
)
def test_drm_stkm(name: str, material: bytes, following: bytes) -> None:
    """AES-CBC with a zero IV, AES-ECB of the PEK, 12 bytes of HMAC-SHA-1 over what stands before (drm-profile 1.3, 1.5)."""
    data, stkm = message(name, "drm-stkm")
    (sek, sas), (pek, pas) = SEAK_.split(), PEAK_.split()
    service, programme = stkm.service_CID_extension is not None, stkm.programme_CID_extension is not None
    key = (pek if programme else sek).reveal()
    assert aes("cbc", key, material, bytes(16)) == stkm.encrypted_traffic_key_material
    if following:
        assert aes("cbc", key, following, bytes(16)) == stkm.next_encrypted_traffic_key_material
    if programme:
        end = data.index(stkm.programme_MAC)
        assert hmac_sha1(derive_pak(pas).reveal(), data[:end])[:12] == stkm.programme_MAC
    if service:
        assert hmac_sha1(derive_sak(sas).reveal(), data[:-12])[:12] == stkm.service_MAC
    if service and programme:
        assert aes("ecb", sek.reveal(), pek.reveal()) == stkm.encrypted_PEK


def test_bcro() -> None:
    data, bcro = message("drm_bcro", "drm-ltkm")
    iek, bak = bytes.fromhex("e1ed9cbc8d7c509b027de058acd70ff9"), derive_bak(RIAK(octets(0xC0)))
    assert hmac_sha1(bak.reveal(), data[:-12])[:12] == bcro.MAC
    assert aes("cbc", iek, SEAK_.reveal(), bytes(16)) == bcro.assets[0].encrypted_key


# --- Smartcard Profile -----------------------------------------------------------------------------------------------


def mikey_iv(salt: bytes, counter: int) -> bytes:
    """RFC 3830, 4.2.3."""
    return (int.from_bytes(salt) << 16 ^ int.from_bytes(CSB_ID) << 80 ^ counter << 16).to_bytes(16)


def psk_prf(key: bytes, constant: str, size: int) -> bytes:
    """The MIKEY PRF for at most 20 bytes from a key of at most 32 (RFC 3830, 4.1.2 and 4.1.4), every HMAC by ``openssl``."""
    label = bytes.fromhex(constant) + b"\xff" + CSB_ID + RAND
    return hmac_sha1(key, hmac_sha1(key, label) + label)[:size]


@pytest.mark.parametrize("key", [SEK(octets(0x30)), SMK(octets(0x00, 32))], ids=["SEK", "SMK"])
def test_mikey_keys(key: SEK | SMK) -> None:
    derived = psk_keys(key, CSB_ID, RAND)
    assert psk_prf(key.reveal(), "150533E1", 16) == derived.encr.reveal()
    assert psk_prf(key.reveal(), "29B88916", 14) == derived.salt.reveal()
    assert psk_prf(key.reveal(), "2D22AC75", 20) == derived.auth.reveal()


@pytest.mark.parametrize(("name", "salt"), [("S1", None), ("S2", octets(0x50, 14)), ("S3", None)])
def test_smartcard_stkm(name: str, salt: bytes | None) -> None:
    item = opened(name, "smartcard-stkm", SEK(octets(0x30)))
    assert (item.key.reveal(), item.salt) == (octets(0x40), salt)


@pytest.mark.parametrize("name", ["L1", "L2", "L3"])
def test_smartcard_ltkm(name: str) -> None:
    item = opened(name, "smartcard-ltkm", SMK(octets(0, 32)))
    assert item.key.reveal() == octets(0x30)
    assert item.interval is not None


def opened(name: str, kind: Kind, key: SEK | SMK) -> KeyData:
    """The key in KEMAC, decrypted (AES-CM is AES-CTR) after its MAC has been found right, by ``openssl``."""
    data, sealed = message(name, kind)
    encr, salt, auth = (psk_prf(key.reveal(), *way) for way in (("150533E1", 16), ("29B88916", 14), ("2D22AC75", 20)))
    assert hmac_sha1(auth, data[:-20]) == sealed.mac
    clear = aes("ctr", encr, sealed.encr_data, mikey_iv(salt, sealed.counter), decrypt=True)
    (item,) = decode_key_data(clear, kind="smartcard-stkm" if kind == "smartcard-stkm" else "smartcard-ltkm")
    return item


def test_smartcard_verification() -> None:
    """HMAC-SHA-1 over the message || IDi || IDr || COUNTER (smartcard-profile 1.5)."""
    data, answer = message("V1", "smartcard-verification")
    auth = psk_prf(octets(0, 32), "2D22AC75", 20)
    assert hmac_sha1(auth, data[:-20] + b"bsm.example.com" + answer.idr + answer.counter.to_bytes(4)) == answer.mac
