# SPDX-License-Identifier: Apache-2.0
"""Certificates of rights issuers: chains, dates, sizes; and responses that carry their own."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from codec_support import RSA_KEYS, first
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pybcast import codec
from pybcast.codec import Keys, rights_issuer_id, seal, verify_chain
from pybcast.codec import _certificates as certificates_module
from pybcast.errors import BadLength, BadValue, Integrity, KeyUnavailable, Unsupported
from pybcast.messages import ClearRegistrationResponse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AT = int((NOW - datetime(1900, 1, 1, tzinfo=UTC)).total_seconds())
DAY = timedelta(days=1)
assert isinstance(RSA_KEYS.rights_issuer_key, rsa.RSAPrivateKey)
LEAF_KEY: rsa.RSAPrivateKey = RSA_KEYS.rights_issuer_key


@cache
def key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(
    subject: str,
    issuer: str,
    *,
    subject_key: Any = None,
    issuer_key: Any = None,
    ca: bool | None = True,
    path_length: int | None = None,
    start: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
    algorithm: Any = None,
) -> bytes:
    public = (subject_key or key(subject)).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of(issuer))
        .public_key(public)
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    return builder.sign(issuer_key or key(issuer), algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


ROOT = issue("root", "root")
MIDDLE = issue("middle", "root")
LEAF = issue("leaf", "middle", subject_key=LEAF_KEY, ca=False)


def test_a_chain_with_and_without_its_anchor() -> None:
    public = LEAF_KEY.public_key()
    for chain in ([LEAF, MIDDLE], [LEAF, MIDDLE, ROOT]):
        assert verify_chain(chain, [issue("other", "other"), ROOT], AT) == public
    assert verify_chain([LEAF], [MIDDLE], AT) == public
    assert verify_chain([LEAF], [LEAF], AT) == public
    assert verify_chain([ROOT], [ROOT], AT) == key("root").public_key()


def test_a_chain_that_does_not_reach_an_anchor() -> None:
    for chain, anchors in (
        ([LEAF, MIDDLE], []),
        ([LEAF], [ROOT]),
        ([MIDDLE, LEAF], [ROOT]),
        ([LEAF, MIDDLE], [issue("root", "root", subject_key=key("impostor"), issuer_key=key("impostor"))]),
        ([LEAF, issue("middle", "root", subject_key=key("impostor")), ROOT], [ROOT]),
    ):
        with pytest.raises(Integrity):
            verify_chain(chain, anchors, AT)


@pytest.mark.parametrize("bad", ["leaf", "middle", "root"])
@pytest.mark.parametrize("late", [True, False])
def test_every_certificate_must_be_in_date(bad: str, late: bool) -> None:
    dates = {"start": NOW + DAY, "end": NOW + 2 * DAY} if late else {"start": NOW - 2 * DAY, "end": NOW - DAY}
    when: dict[str, dict[str, Any]] = {"leaf": {}, "middle": {}, "root": {}} | {bad: dates}
    root = issue("root", "root", **when["root"])
    middle = issue("middle", "root", **when["middle"])
    leaf = issue("leaf", "middle", subject_key=LEAF_KEY, ca=False, **when["leaf"])
    for chain in ([leaf, middle], [leaf, middle, root]):
        with pytest.raises(Integrity):
            verify_chain(chain, [root], AT)
    with pytest.raises(Integrity):
        verify_chain([LEAF, MIDDLE], [ROOT], 2**63)


def test_only_authorities_issue_and_a_path_length_holds() -> None:
    for ca in (False, None):
        middle = issue("middle", "root", ca=ca)
        with pytest.raises(Integrity):
            verify_chain([LEAF, middle], [ROOT], AT)
    zero = issue("root", "root", path_length=0)
    with pytest.raises(Integrity):
        verify_chain([LEAF, MIDDLE], [zero], AT)
    one = issue("root", "root", path_length=1)
    assert verify_chain([LEAF, MIDDLE], [one], AT) == LEAF_KEY.public_key()


def test_a_signature_with_a_weak_hash_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates_module, "_HASHES", ("sha512",))
    with pytest.raises(Integrity):
        verify_chain([LEAF, MIDDLE], [ROOT], AT)


def test_certificates_that_cannot_be_used_are_named() -> None:
    for count in (0, 9):
        with pytest.raises(BadLength, match="certificates"):
            verify_chain([LEAF] * count, [ROOT], AT)
    with pytest.raises(BadValue, match=r"certificates\[1\]"):
        verify_chain([LEAF, b"no certificate"], [ROOT], AT)
    with pytest.raises(BadValue, match=r"anchors\[0\]"):
        verify_chain([LEAF, MIDDLE], [b"no certificate"], AT)
    curve = issue("leaf", "middle", subject_key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Unsupported, match=r"certificates\[0\]: expected an RSA key, found another"):
        verify_chain([curve, MIDDLE], [ROOT], AT)
    # An algorithm that is no public-key algorithm: rsaEncryption's number in the key, one digit off.
    unknown = LEAF.replace(bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06092a864886f70d01017f"))
    with pytest.raises(Unsupported, match="an unknown key"):
        verify_chain([unknown, MIDDLE], [ROOT], AT)


def test_short_keys_pass_by_name_only() -> None:
    short = issue("leaf", "middle", subject_key=key("short", 1024), ca=False)
    with pytest.raises(Unsupported, match="2048 bits"):
        verify_chain([short, MIDDLE], [ROOT], AT)
    assert verify_chain([short, MIDDLE], [ROOT], AT, lenient=("rsa-1024",)) == key("short", 1024).public_key()


# --- Responses that carry their certificates --------------------------------------------------------------------------


def response(**values: Any) -> ClearRegistrationResponse:
    c = first("drm-registration")
    message = codec.open(c.data, c.keys, c.kind)
    assert isinstance(message, ClearRegistrationResponse)
    return dataclasses.replace(message, **values)


DEVICE_ONLY = Keys(device_key=RSA_KEYS.device_key)


def test_a_response_is_verified_with_its_own_certificate_when_no_key_is_held() -> None:
    message = response(certificates=(LEAF, MIDDLE), ocsp_responses=(b"ocsp",))
    data = seal(message, RSA_KEYS)
    result = codec.open(data, DEVICE_ONLY, "drm-registration")
    assert result == message
    assert codec.from_dict(codec.to_dict(result)) == message
    assert isinstance(result, ClearRegistrationResponse)
    assert result.certificates is not None
    assert rights_issuer_id(verify_chain(result.certificates, [ROOT], AT)) == result.rights_issuer_id


def test_a_response_whose_certificate_did_not_sign_it() -> None:
    for other in (MIDDLE, ROOT):
        data = seal(response(certificates=(other,)), RSA_KEYS)
        with pytest.raises(Integrity):
            codec.open(data, DEVICE_ONLY, "drm-registration")
        assert codec.open(data, RSA_KEYS, "drm-registration") == response(certificates=(other,))  # a held key decides


@pytest.mark.parametrize(
    ("certificates", "error"),
    [
        (None, KeyUnavailable),
        ((), KeyUnavailable),
        ((b"no certificate",), BadValue),
        ((issue("leaf", "middle", subject_key=key("short", 1024)),), Unsupported),
    ],
)
def test_a_response_without_a_usable_certificate(certificates: Any, error: Any) -> None:
    data = seal(response(certificates=certificates), RSA_KEYS)
    with pytest.raises(error) as caught:
        codec.open(data, DEVICE_ONLY, "drm-registration")
    if error is not KeyUnavailable:
        assert caught.value.offset == 44
        assert data[44:].startswith(certificates[0])


def test_short_keys_are_not_used_to_make_anything() -> None:
    with pytest.raises(Unsupported, match="signature_type"):
        seal(response(), dataclasses.replace(RSA_KEYS, rights_issuer_key=key("short", 1024)))
    with pytest.raises(Unsupported, match="session_key_block"):
        seal(response(), dataclasses.replace(RSA_KEYS, device_public_key=key("short", 1024).public_key()))


def test_one_flipped_bit_is_refused_and_never_crashes() -> None:
    """Any bit of the leaf: the parser raises more than ``ValueError`` (version numbers, doubled extensions, serial numbers
    below 1).
    """
    for bit in range(8 * len(LEAF)):
        damaged = bytearray(LEAF)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            verify_chain([bytes(damaged), MIDDLE], [ROOT], AT)
        except (BadLength, BadValue, Integrity, Unsupported):
            continue
        body = x509.load_der_x509_certificate(bytes(damaged))
        assert body.tbs_certificate_bytes == x509.load_der_x509_certificate(LEAF).tbs_certificate_bytes, bit


def test_serial_numbers_below_one_are_refused() -> None:
    damaged = LEAF.replace(b"\x02\x01\x07", b"\x02\x01\x00", 1)
    assert damaged != LEAF
    with pytest.raises(BadValue, match="serial number"):
        verify_chain([damaged, MIDDLE], [ROOT], AT)
