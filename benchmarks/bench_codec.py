# SPDX-License-Identifier: Apache-2.0
"""What one message costs on one core: decode, encode, seal and open, each kind, beside the cryptography alone.

Names are ``kind-op``.  Contenders of one group do the same work on the same bytes: ``bench_reference`` is
``pybcast.codec.reference``; ``bench_core`` is ``pybcast.codec`` where that is the C core, with each provider; ``bench_floor``
is the bare primitive calls of Python that the message cannot do without, its keys already derived.  The figure in brackets
behind a time is the ratio to the fastest of the group.  ``bench_derive`` is what the reference pays, beside that, to get from
a key ring to the keys of one message.  ``bench_1024`` is that many messages, alone and in batches; ``pybcast bench`` measures
the core without Python around it.

Every round works on the same message; that the result is right is asserted once, after the measured calls.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

from pybcast import codec, messages
from pybcast import keys as k
from pybcast._native.engine import available, using
from pybcast.codec import Records, open_many, prepare, reference, rights_issuer_id, seal_many
from pybcast.codec.batch import BatchKind
from pybcast.keys.mikey import iv
from pybcast.messages import Kind
from pybcast.secret import Secret

T = TypeVar("T")
Op = Literal["decode", "encode", "seal", "open"]


class Benchmark(Protocol):
    """The fixture of pytest-benchmark: runs a call many times and gives its result."""

    group: str

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...


# --- one message of each kind, as a headend sends it ------------------------------------------------------------------


def _bytes(use: str, size: int) -> bytes:
    """Bytes that look random and are the same on every run."""
    return hashlib.shake_128(use.encode()).digest(size)


NTP: Final = 3_913_056_000  # 2024-01-01
CSB_ID, RAND, SALT = _bytes("CSB ID", 4), _bytes("RAND", 16), _bytes("salt", 14)
IDI, IDR = b"bsm.example.com", b"QjEyMzQ1Njc4OTAxMjM0NQ==@bsf.example.com"
DOMAIN, SEK_ID = bytes.fromhex("12f410"), bytes.fromhex("00010002")
IMPI: Final = "001010123456789@ims.example.com"
TEST_RSA: Final = json.loads((Path(__file__).parents[1] / "tests" / "vectors" / "more.json").read_text("utf-8"))["test_rsa_keys"]
ISSUER, DEVICE = k.load_private_key(TEST_RSA["rights_issuer"]), k.load_private_key(TEST_RSA["device"])

SEAK, RIAK, SEK, SMK = k.SEAK(_bytes("SEAK", 32)), k.RIAK(_bytes("RIAK", 16)), k.SEK(_bytes("SEK", 16)), k.SMK(_bytes("SMK", 32))
CK, IK = k.CK(_bytes("CK", 16)), k.IK(_bytes("IK", 16))
DRM: Final = k.Keys(seak=SEAK)
BCRO: Final = k.Keys(iek=k.IEK(_bytes("IEK", 16)), riak=RIAK)
REGISTRATION: Final = k.Keys(rights_issuer_key=ISSUER, device_key=DEVICE, session_key=k.SessionKey(_bytes("SK", 16)))
CARD: Final = k.Keys(sek=SEK, csb_id=CSB_ID, rand=RAND)
SUBSCRIBER: Final = k.Keys(smk=SMK, rand=RAND, idi=IDI)
AKA: Final = k.Keys(ck=CK, ik=IK, impi=IMPI)

VERIFICATION: Final = messages.SmartcardVerification(counter=7, csb_id=CSB_ID, idr=IDR)
REPORT: Final = messages.ReportingEntry(
    security_policy_extension=1, cost_value=5, purse=100, playback=3, key_domain_id=DOMAIN, key_group=SEK_ID[:2], key_number=2,
    ts_low=1, ts_high=999,
)  # fmt: skip
CONTENTS: Final[dict[Kind, tuple[Any, k.Keys]]] = {
    "drm-stkm": (
        messages.ClearDrmStkm(
            protection_after_reception=3, traffic_protection_protocol=messages.Protocol.SRTP, traffic_authentication_flag=True,
            traffic_key_lifetime=6, id=SEK_ID + b"\0\1", salt=SALT, timestamp=NTP, service_CID_extension=1,
            traffic_key_material=Secret(_bytes("TEK", 16)),
        ),
        DRM,
    ),
    "drm-ltkm": (
        messages.ClearBcro(
            address_mode=messages.AddressMode.UNIQUE_DEVICE, rights_issuer_id=rights_issuer_id(ISSUER.public_key()),
            group_address=bytes.fromhex("00010203"), position_in_group=5, bcro_timestamp=NTP,
            permissions=(messages.Permission(1),),
            assets=(messages.ClearAsset(asset_is_service=True, BCI=_bytes("BCI", 16), key=Secret(_bytes("SEAK", 32))),),
        ),
        BCRO,
    ),
    "drm-registration": (
        messages.ClearRegistrationResponse(
            message_tag=messages.RegistrationTag.device_registration_response, longform_udn="5" * 20,
            rights_issuer_id=rights_issuer_id(ISSUER.public_key()), drm_time=NTP,
            keyset_items=tuple(messages.KeysetItem(tag, Secret(_bytes(f"item {tag}", 16))) for tag in (1, 2, 5)),
        ),
        REGISTRATION,
    ),
    "smartcard-stkm": (
        messages.ClearSmartcardStkm(
            counter=NTP % 2**32, key_domain_id=DOMAIN, sek_id=SEK_ID, tek_id=b"\0\1", tek=Secret(_bytes("TEK", 16)), salt=SALT,
            management=messages.StkmManagement(
                protection_after_reception=3, traffic_protection_protocol=messages.Protocol.SRTP, traffic_authentication_flag=True,
                traffic_key_lifetime=6,
            ),
        ),
        CARD,
    ),
    "smartcard-ltkm": (
        messages.ClearSmartcardLtkm(
            counter=7, csb_id=CSB_ID, rand=RAND, key_domain_id=DOMAIN, sek_id=SEK_ID, idi=IDI, idr=IDR,
            sek=Secret(_bytes("SEK", 16)), ts_low=1, ts_high=86400,
        ),
        SUBSCRIBER,
    ),
    "smartcard-verification": (VERIFICATION, SUBSCRIBER),
    "smartcard-reporting": (replace(VERIFICATION, reporting=messages.Reporting(entries=(REPORT,))), SUBSCRIBER),
    "smartcard-parental": (
        messages.ClearSmartcardParental(
            counter=8, csb_id=CSB_ID, rand=RAND, idi=IDI, idr=IDR, rating_type=1, level_granted=3, pin=Secret(b"1234")
        ),
        SUBSCRIBER,
    ),
    "smartcard-registration": (
        messages.SmartcardRegistration(
            gba_u=True, target_id=k.target_id(RAND, IMPI), key_lifetime=NTP % 2**32, rand=RAND, autn=_bytes("AUTN", 16),
            naf_fqdn="bsm.example.com", btid=k.btid(RAND, "bsf.example.com"),
        ),
        AKA,
    ),
}  # fmt: skip
BYTES: Final[dict[Kind, bytes]] = {kind: codec.seal(*content) for kind, content in CONTENTS.items()}
BYTES["mikey"] = BYTES["smartcard-ltkm"]

REFERENCE: Final = [
    pytest.param(kind, op, id=f"{kind}-{op}")
    for op in get_args(Op)
    for kind in BYTES
    if kind != "mikey" or op in ("decode", "encode")
]


@pytest.mark.parametrize(("kind", "op"), REFERENCE)
def bench_reference(benchmark: Benchmark, kind: Kind, op: Op) -> None:
    benchmark.group = f"{kind}-{op}" if op in ("seal", "open") else op
    data = BYTES[kind]
    if op == "decode":
        assert codec.encode(benchmark(codec.decode, data, kind)) == data
        return
    if op == "encode":
        assert benchmark(codec.encode, codec.decode(data, kind)) == data
        return
    content, keys = CONTENTS[kind]
    if op == "open":
        assert benchmark(reference.open, data, keys, kind) == codec.open(data, keys, kind)
    else:
        sealed = benchmark(reference.seal, content, keys)
        # RSA signatures and encryption are randomised: there only what it says is the same.
        assert sealed == data or kind == "drm-registration"
        assert codec.open(sealed, keys, kind) == codec.open(data, keys, kind)


# --- the C core -------------------------------------------------------------------------------------------------------

CORE: Final[tuple[Kind, ...]] = (
    "drm-stkm", "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting",
)  # fmt: skip
BATCHES: Final[tuple[BatchKind, ...]] = ("drm-stkm", "smartcard-stkm", "smartcard-ltkm")
COUNT: Final = 1024


@pytest.mark.parametrize("provider", available())
@pytest.mark.parametrize(("kind", "op"), [pytest.param(kind, op, id=f"{kind}-{op}") for op in ("seal", "open") for kind in CORE])
def bench_core(benchmark: Benchmark, kind: Kind, op: Literal["seal", "open"], provider: str) -> None:
    benchmark.group = f"{kind}-{op}"
    content, keys = CONTENTS[kind]
    with using(provider):
        if op == "open":
            assert benchmark(codec.open, BYTES[kind], keys, kind) == reference.open(BYTES[kind], keys, kind)
        else:
            assert benchmark(codec.seal, content, keys) == BYTES[kind]


@pytest.mark.parametrize("contender", ["alone", *available()])
@pytest.mark.parametrize(("kind", "op"), [pytest.param(kind, op, id=f"{kind}-{op}") for op in ("seal", "open") for kind in BATCHES])
def bench_1024(benchmark: Benchmark, kind: BatchKind, op: Literal["seal", "open"], contender: str) -> None:
    """1,024 messages a round: one at a time, or in one call of a provider (their contents in place already)."""
    benchmark.group = f"{kind}-{op} x {COUNT}"
    content, ring = CONTENTS[kind]
    data = BYTES[kind]
    if contender == "alone":
        alone = (lambda: codec.seal(content, ring)) if op == "seal" else (lambda: codec.open(data, ring, kind))
        assert benchmark(lambda: [alone() for _ in range(COUNT)])[-1] == alone()
        return
    with prepare([ring] * COUNT, kind, provider=contender) as keys:
        batch = Records(kind, COUNT, base=bytearray())
        for i in range(COUNT):
            batch.put(i, content)
        if op == "seal":
            sealed = benchmark(seal_many, batch, keys)
            assert sealed.all_done
            assert sealed[COUNT - 1] == data
        else:
            opened = benchmark(open_many, seal_many(batch, keys), keys, kind)
            assert opened.all_done
            assert opened[COUNT - 1] == content


# --- the floor --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """The primitive calls of one message.  ``seal`` gives the ciphertext and the MAC in it, ``open`` the plaintext."""

    seal: Callable[[], tuple[bytes, bytes]]
    open: Callable[[], bytes]


def _aes_and_hmac(
    data: bytes,
    encrypted: bytes,
    key: bytes,
    mode: modes.CBC | modes.CTR,
    auth_key: bytes,
    size: int,
    *,
    more: bytes = b"",
    sha: Any = hashlib.sha1,
) -> Floor:
    """AES on ``encrypted``, which may be empty, and a MAC of ``size`` bytes at the end over all before it and ``more``."""
    covered, mac = data[:-size] + more, data[-size:]

    def open_() -> bytes:
        assert hmac.compare_digest(hmac.digest(auth_key, covered, sha)[:size], mac)
        if not encrypted:
            return b""
        context = Cipher(algorithms.AES(key), mode).decryptor()
        return context.update(encrypted) + context.finalize()

    clear = open_()

    def seal() -> tuple[bytes, bytes]:
        context = Cipher(algorithms.AES(key), mode).encryptor() if clear else None
        return context.update(clear) + context.finalize() if context else b"", hmac.digest(auth_key, covered, sha)[:size]

    assert seal() == (encrypted, mac)
    return Floor(seal, open_)


def _floor(kind: Kind) -> Floor:
    data = BYTES[kind]
    message: Any = codec.decode(data, kind)
    zero_iv, no_key = modes.CBC(bytes(16)), bytes(16)
    match kind:
        case "drm-stkm":
            sek, sas = SEAK.split()
            return _aes_and_hmac(
                data, message.encrypted_traffic_key_material, sek.reveal(), zero_iv, k.derive_sak(sas).reveal(), 12
            )
        case "drm-ltkm":
            bak = k.derive_bak(RIAK)
            return _aes_and_hmac(data, message.assets[0].encrypted_key, _bytes("IEK", 16), zero_iv, bak.reveal(), 12)
        case "drm-registration":
            return _rsa(data, message)
        case "smartcard-registration":
            derived = k.registration_keys(CK, IK, RAND, IMPI, message.naf_fqdn, gba_u=message.gba_u)
            return _aes_and_hmac(data, b"", no_key, zero_iv, derived.mac_key.reveal(), 12, sha=hashlib.sha256)
    shared = SEK if kind == "smartcard-stkm" else SMK
    mikey, counter = k.psk_keys(shared, CSB_ID, RAND), message.counter.to_bytes(4)
    if isinstance(message, messages.SmartcardVerification):
        return _aes_and_hmac(data, b"", no_key, zero_iv, mikey.auth.reveal(), 20, more=IDI + IDR + counter)
    start = modes.CTR(iv(mikey.salt, CSB_ID, counter))
    return _aes_and_hmac(data, message.encr_data, mikey.encr.reveal(), start, mikey.auth.reveal(), 20)


def _rsa(data: bytes, message: messages.RegistrationResponse) -> Floor:
    """RSA-PSS over the message, RSA-OAEP of the session key, AES key wrap of the key set."""
    assert message.session_key_block is not None and message.keyset_block is not None
    session_key, session_key_block, keyset_block = _bytes("SK", 16), message.session_key_block, message.keyset_block
    verifying, encrypting = ISSUER.public_key(), DEVICE.public_key()
    oaep, pss = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None), padding.PSS(padding.MGF1(SHA256()), 32)

    def open_() -> bytes:
        verifying.verify(message.signature, data[:-256], pss, SHA256())
        return aes_key_unwrap(DEVICE.decrypt(session_key_block, oaep), keyset_block)

    clear = open_()

    def seal() -> tuple[bytes, bytes]:
        encrypting.encrypt(session_key, oaep)
        return aes_key_wrap(session_key, clear), ISSUER.sign(data[:-256], pss, SHA256())

    assert seal()[0] == keyset_block
    return Floor(seal, open_)


@pytest.mark.parametrize(
    ("kind", "op"), [pytest.param(kind, op, id=f"{kind}-{op}") for op in ("seal", "open") for kind in CONTENTS]
)
def bench_floor(benchmark: Benchmark, kind: Kind, op: Literal["seal", "open"]) -> None:
    benchmark.group = f"{kind}-{op}"
    floor = _floor(kind)  # its results have been compared with the message
    assert benchmark(floor.seal if op == "seal" else floor.open) is not None


# --- derivation -------------------------------------------------------------------------------------------------------

DERIVATIONS: Final[dict[str, Callable[[], Any]]] = {
    "drm-stkm": lambda: k.derive_sak(SEAK.split()[1]),
    "smartcard-stkm": lambda: k.psk_keys(SEK, CSB_ID, RAND),
    "smartcard-ltkm": lambda: k.psk_keys(SMK, CSB_ID, RAND),
}


@pytest.mark.parametrize("kind", DERIVATIONS)
def bench_derive(benchmark: Benchmark, kind: str) -> None:
    benchmark.group = "derive"
    assert benchmark(DERIVATIONS[kind]) == DERIVATIONS[kind]()
