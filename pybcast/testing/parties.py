# SPDX-License-Identifier: Apache-2.0
"""Ready-made parties for tests and demonstrations: a rights issuer, devices, cards, and their registration."""

from __future__ import annotations

import datetime
import functools
import random
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pybcast.flows import Device, Group, RightsIssuer, SimulatedCard, Subscriber, device_registration, smartcard_registration
from pybcast.keys import OPC, RIAK, UDK, UGK, GroupRoot, K, Milenage

FQDN, BSF = "bsm.example.com", "bsf.example.com"
GROUP = bytes.fromhex("00010203")


@functools.cache
def rsa_key(n: int) -> rsa.RSAPrivateKey:
    """The n-th RSA test key of this process, 2048 bits (made once: it takes a while)."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def rights_issuer() -> tuple[RightsIssuer, bytes]:
    """A rights issuer with a certificate under a root of its own, and that root's certificate (DER)."""
    begin, end = datetime.datetime(1990, 1, 1), datetime.datetime(2090, 1, 1)

    def certificate(name: str, key: rsa.RSAPrivateKey, issuer: str, issuer_key: rsa.RSAPrivateKey, ca: bool) -> bytes:
        subject, issued_by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, issuer))
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issued_by).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    root_key, issuer_key = rsa_key(-1), rsa_key(-2)
    root = certificate("Test root", root_key, "Test root", root_key, True)
    leaf = certificate("Test rights issuer", issuer_key, "Test root", root_key, False)
    return RightsIssuer(issuer_key, (leaf,)), root


def make_group(rng: random.Random, address: bytes = GROUP) -> Group:
    """A subscriber group of 256 with random keys."""
    return Group(
        address=address, size=256, root=GroupRoot(rng.randbytes(16)), ugk=UGK(rng.randbytes(16)), riak=RIAK(rng.randbytes(16))
    )


@dataclass(frozen=True)
class DrmParty:
    """A device, its subscription, and the registration message that the BSM broadcasts for it."""

    device: Device
    subscriber: Subscriber
    registration: bytes


def make_device(rng: random.Random, name: str, group: Group, position: int, now: float) -> DrmParty:
    """A DRM Profile device at ``position`` of ``group``."""
    issuer, root = rights_issuer()
    udn, key = f"{position:020d}", rsa_key(position % 4)
    subscriber = Subscriber(
        id=name, group=group.address, position=position, udk=UDK(rng.randbytes(16)), riak=RIAK(rng.randbytes(16)), udn=udn
    )
    message = device_registration(issuer, udn=udn, device_key=key.public_key(), group=group, subscriber=subscriber, now=now)
    return DrmParty(Device(udn=udn, key=key, anchors=[root]), subscriber, message)


@dataclass(frozen=True)
class CardParty:
    """A card, its subscription, and the registration push that the BSM broadcasts for it."""

    card: SimulatedCard
    subscriber: Subscriber
    registration: bytes


def make_card(rng: random.Random, name: str, now: float, *, gba_u: bool = True, lifetime: int = 365 * 86400) -> CardParty:
    """A Smartcard Profile card, registered by one authentication vector of its home network."""
    k, opc, impi = K(rng.randbytes(16)), OPC(rng.randbytes(16)), f"{name}@ims.example.com"
    rand, sqn = rng.randbytes(16), rng.randbytes(2).rjust(6, b"\1")
    home = Milenage(k, opc)
    subscriber, push = smartcard_registration(
        name=name,
        rand=rand,
        autn=home.autn(rand, sqn, b"\x80\0"),
        ck=home.f3(rand),
        ik=home.f4(rand),
        impi=impi,
        fqdn=FQDN,
        bsf=BSF,
        until=int(now) + lifetime,
        gba_u=gba_u,
    )
    return CardParty(SimulatedCard(k=k, opc=opc, impi=impi), subscriber, push)
