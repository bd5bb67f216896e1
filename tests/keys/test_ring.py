# SPDX-License-Identifier: Apache-2.0
"""The key ring."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from pybcast.errors import ConfigError, KeyUnavailable
from pybcast.keys import Keys, load_public_key
from pybcast.keys.types import PAS, PEAK, PEK, SAS, SEAK, SEK, SMK, TEK, K
from pybcast.secret import Secret

RSA = json.loads((Path(__file__).parents[1] / "vectors" / "more.json").read_text())["test_rsa_keys"]
HEX16, HEX32 = "a5" * 16, "a5" * 32


def public_pem(key: RSAPrivateKey) -> str:
    data = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data.decode()


def test_from_dict_fills_every_field() -> None:
    names16 = ("sek", "sas", "pek", "pas", "riak", "iek", "k", "opc", "ck", "ik", "session_key")
    values: dict[str, object] = dict.fromkeys(names16, HEX16) | {
        "seak": HEX32, "peak": HEX32, "smk": HEX32, "csb_id": "01020304", "rand": HEX16, "idi": "bsm.example.com", "impi": "a@b",
        "device_key": RSA["device"], "rights_issuer_key": RSA["rights_issuer"],
    }  # fmt: skip
    keys = Keys.from_dict(values)
    assert isinstance(keys.device_key, RSAPrivateKey)
    assert isinstance(keys.rights_issuer_key, RSAPrivateKey)
    for name in names16:
        value = getattr(keys, name)
        assert value.reveal() == b"\xa5" * 16
        assert type(value).__name__.lower() == name.replace("_", "")
    assert keys.smk == SMK.from_hex(HEX32)
    assert (keys.csb_id, keys.rand, keys.idi, keys.impi) == (bytes((1, 2, 3, 4)), b"\xa5" * 16, b"bsm.example.com", "a@b")
    assert Keys.from_dict({"idi_hex": "0177"}).idi == b"\x01w"
    assert Keys.from_dict({"sek": None, "idi": None}) == Keys()


def test_public_keys_are_taken_where_they_suffice() -> None:
    full = Keys.from_dict({"device_key": RSA["device"], "rights_issuer_key": RSA["rights_issuer"]})
    assert isinstance(full.device_key, RSAPrivateKey)
    assert isinstance(full.rights_issuer_key, RSAPrivateKey)
    keys = Keys.from_dict(
        {"device_public_key": public_pem(full.device_key), "rights_issuer_key": public_pem(full.rights_issuer_key)}
    )
    assert isinstance(keys.device_public_key, RSAPublicKey)
    assert isinstance(keys.rights_issuer_key, RSAPublicKey)
    assert load_public_key(public_pem(full.device_key).encode()) == keys.device_public_key


def test_seak_and_peak_fill_their_halves() -> None:
    seak, peak = bytes(range(32)), bytes(range(100, 132))
    keys = Keys(seak=SEAK(seak), peak=PEAK(peak))
    assert (keys.sek, keys.sas, keys.pek, keys.pas) == (SEK(seak[:16]), SAS(seak[16:]), PEK(peak[:16]), PAS(peak[16:]))
    assert isinstance(keys.sek, SEK)
    assert isinstance(keys.pas, PAS)
    assert Keys(seak=SEAK(seak), sek=SEK(seak[:16])).sas == SAS(seak[16:])


@pytest.mark.parametrize(
    ("values", "names"),
    [({"seak": HEX32, "sek": "00" * 16}, "seak and sek"), ({"peak": HEX32, "pas": "00" * 16}, "peak and pas")],
)
def test_contradicting_keys_are_refused(values: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        Keys.from_dict(values)


EC = ec.generate_private_key(ec.SECP256R1())
EC_PRIVATE = EC.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
EC_PUBLIC = EC.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sek", "a5a5", "sek: expected 16 bytes"),
        ("smk", HEX16, "smk: expected 32 bytes"),
        ("sek", "a5zz", "sek: not hexadecimal"),
        ("sek", 5, "sek: expected text"),
        ("sek", ["a5"], "sek: expected text"),
        ("csb_id", "a5a5a5", "csb_id: expected 4 bytes"),
        ("rand", "a5", "rand: expected 16 or 0 bytes"),
        ("rand", "a5zz", "rand: not hexadecimal"),
        ("idi_hex", "a5zz", "idi_hex: not hexadecimal"),
        ("sekk", HEX16, "unknown key name: 'sekk'"),
        ("a5" * 100, HEX16, "unknown key name"),
        ("device_key", "a5a5", "device_key: not an unencrypted PEM private key"),
        ("device_public_key", "a5a5", "device_public_key: not a PEM public key"),
        ("rights_issuer_key", "a5a5", "rights_issuer_key: not a PEM public key"),
        ("device_key", EC_PRIVATE, "device_key: not an RSA key"),
        ("rights_issuer_key", EC_PUBLIC, "rights_issuer_key: not an RSA key"),
    ],
)
def test_bad_fields_are_named_and_never_shown(name: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Keys.from_dict({name: value})
    text = str(caught.value)
    assert len(text) < 100
    assert not isinstance(value, str) or value not in text


def test_idi_is_given_once() -> None:
    with pytest.raises(ConfigError, match="idi and idi_hex"):
        Keys.from_dict({"idi": "a", "idi_hex": "61"})


def test_an_encrypted_private_key_is_refused() -> None:
    full = Keys.from_dict({"device_key": RSA["device"]}).device_key
    assert full is not None
    data = full.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    with pytest.raises(ConfigError, match="not an unencrypted PEM"):
        Keys.from_dict({"device_key": data.decode()})


def test_a_plain_secret_becomes_the_right_type_and_bytes_are_refused() -> None:
    wrong: dict[str, Any] = {"sek": Secret(bytes(16)), "k": TEK(bytes(16))}
    keys = Keys(**wrong)
    assert type(keys.sek) is SEK
    assert type(keys.k) is K
    with pytest.raises(ConfigError, match="sek: expected a SEK"):
        Keys(sek=bytes(16))  # type: ignore[arg-type]


def test_nothing_of_a_ring_is_printed_or_pickled() -> None:
    keys = Keys.from_dict({"seak": HEX32, "smk": HEX32, "device_key": RSA["device"], "rights_issuer_key": RSA["rights_issuer"]})
    for text in (repr(keys), str(keys)):
        assert "a5a5" not in text
        assert r"\xa5" not in text
        assert "RSA" not in text
    with pytest.raises(TypeError):
        pickle.dumps(keys)
    with pytest.raises(TypeError):
        hash(keys)


def test_wipe() -> None:
    keys = Keys.from_dict({"seak": HEX32, "device_key": RSA["device"], "rights_issuer_key": RSA["rights_issuer"]})
    keys.wipe()
    for key in (keys.seak, keys.sek, keys.sas):
        assert key is not None
        with pytest.raises(KeyUnavailable):
            key.reveal()
    assert keys.device_key is None
    assert keys.rights_issuer_key is None
