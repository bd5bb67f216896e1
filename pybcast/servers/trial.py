# SPDX-License-Identifier: Apache-2.0
"""Subscribers to try the servers out with: a rights issuer, a group, cards and devices, as files an operator would have.

On air a home network makes the authentication vectors, and whoever runs a rights issuer registers devices; here one folder is all
of them.  It gets ``group.json`` and ``subscribers.csv`` for the BSM, and for each terminal ``NAME.toml`` with its secrets.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pybcast.backend import pki
from pybcast.errors import ConfigError
from pybcast.flows import Group, Profile, RightsIssuer, Subscriber, device_registration, smartcard_registration
from pybcast.interaction.server import UDN_URI
from pybcast.keys import OPC, RIAK, UDK, UGK, GroupRoot, K, Milenage, registration_keys
from pybcast.wire.times import NTP_UNIX

FQDN: Final = "bsm.example.com"
BSF: Final = "bsf.example.com"
GROUP: Final = bytes.fromhex("00010203")
YEARS: Final = 10
AMF: Final = b"\x80\0"  # TS 33.102 annex H: the separation bit, as for every vector outside of UMTS
COLUMNS: Final = (
    "subscriber", "smk", "idr", "srk", "udn", "group", "position", "udk", "riak", "registration", "services",
)  # fmt: skip

_TERMINAL: Final = """\
# A terminal of the {profile} Profile: pybcast terminal {name}.toml SDP

[terminal]
state = "{name}.db"                 # what it has received
kek = "file:{name}.kek"             # wraps the keys in it
interface = "127.0.0.1"             # where it listens

{agent}
[interaction]
authority = "{authority}"             # who certified the BSM
{own}
[log]
format = "{format}"
level = "{level}"
"""
_CARD: Final = """\
[card]                              # simulated
k = "file:{name}.k"
opc = "file:{name}.opc"
impi = "{impi}"
"""
_DEVICE: Final = """\
[device]
udn = "{udn}"
key = "{name}-device.pem"
anchors = ["issuer-root.pem"]
"""


def rsa_key() -> rsa.RSAPrivateKey:
    """A new key of 2048 bits (R23)."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Trial:
    """A folder of subscribers.  Existing files are never overwritten: ``ConfigError``.

    ``now``: NTP seconds.  ``log``: format and level of the terminals' logs.  ``authority``: PEM, relative to the folder, of who
    certified the BSM.
    """

    folder: Path
    now: float
    log: tuple[str, str] = ("text", "warning")
    authority: str = "ca.pem"
    files: list[Path] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        root, leaf = rsa_key(), rsa_key()
        root_certificate = self._certificate("Test root", root, "Test root", root, authority=True)
        certificate = self._certificate("Test rights issuer", leaf, "Test root", root, authority=False)
        self.issuer = RightsIssuer(leaf, (certificate.public_bytes(serialization.Encoding.DER),))
        self._put("issuer-root.pem", root_certificate.public_bytes(serialization.Encoding.PEM))
        self._put("issuer-key.pem", _pem(leaf))
        self.group = Group(
            address=GROUP, size=256, root=GroupRoot(os.urandom(16)), ugk=UGK(os.urandom(16)), riak=RIAK(os.urandom(16))
        )
        keys = {
            "address": GROUP,
            "root": self.group.root.reveal(),
            "ugk": self.group.ugk.reveal(),
            "riak": self.group.riak.reveal(),
        }
        said = {name: value.hex() for name, value in keys.items()} | {"size": self.group.size}
        self._put("group.json", json.dumps(said).encode())

    def add(self, name: str, profile: Profile, position: int, services: tuple[str, ...]) -> None:
        """A subscriber.  ``position``: of a device in its group.  The folder has a test authority (``pki.init``)."""
        if profile == "smartcard":
            self.card(name, services)
        else:
            udn = self.device(name, position, services)
            self.files += pki.issue(self.folder, name, f"{UDN_URI}{udn}", hosts=(), listens=False)

    def card(self, name: str, services: tuple[str, ...]) -> None:
        """A subscriber with a card, registered by one authentication vector of his home network."""
        k, opc, impi = K(os.urandom(16)), OPC(os.urandom(16)), f"{name}@ims.example.com"
        rand, sqn, home = os.urandom(16), os.urandom(2).rjust(6, b"\1"), Milenage(k, opc)
        ck, ik = home.f3(rand), home.f4(rand)
        until = int(self.now) + YEARS * 365 * 86400
        subscriber, push = smartcard_registration(
            name=name, rand=rand, autn=home.autn(rand, sqn, AMF), ck=ck, ik=ik, impi=impi, fqdn=FQDN, bsf=BSF, until=until,
            gba_u=True,
        )  # fmt: skip
        assert subscriber.smk is not None
        srk = registration_keys(ck, ik, rand, impi, FQDN, gba_u=True).srk
        self.rows.append({
            "subscriber": name, "smk": subscriber.smk.reveal().hex(), "idr": subscriber.idr, "srk": srk.reveal().hex(),
            "registration": push.hex(), "services": " ".join(services),
        })  # fmt: skip
        self._put(f"{name}.k", k.reveal().hex().encode())
        self._put(f"{name}.opc", opc.reveal().hex().encode())
        self._terminal(name, "Smartcard", _CARD.format(name=name, impi=impi), "")

    def device(self, name: str, position: int, services: tuple[str, ...]) -> str:
        """A subscriber with a DRM Profile device at ``position`` of the group; gives its UDN."""
        udn, key = f"{secrets.randbelow(10**12):015d}{position:05d}", rsa_key()
        subscriber = Subscriber(id=name, group=GROUP, position=position, udk=UDK(os.urandom(16)), riak=RIAK(os.urandom(16)))
        message = device_registration(
            self.issuer, udn=udn, device_key=key.public_key(), group=self.group, subscriber=subscriber, now=self.now
        )
        assert subscriber.udk is not None and subscriber.riak is not None
        self.rows.append({
            "subscriber": name, "udn": udn, "group": GROUP.hex(), "position": str(position), "udk": subscriber.udk.reveal().hex(),
            "riak": subscriber.riak.reveal().hex(), "registration": message.hex(), "services": " ".join(services),
        })  # fmt: skip
        self._put(f"{name}-device.pem", _pem(key))
        own = f'certificate = "{name}.pem"            # who it is\nkey = "{name}-key.pem"\n'
        self._terminal(name, "DRM", _DEVICE.format(name=name, udn=udn), own)
        return udn

    def write(self) -> list[Path]:
        """The list for the BSM; all files that were made."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows)
        self._put("subscribers.csv", text.getvalue().encode())
        return self.files

    def _terminal(self, name: str, profile: str, agent: str, own: str) -> None:
        self._put(f"{name}.kek", secrets.token_hex(32).encode())
        self._put(
            f"{name}.toml",
            _TERMINAL.format(
                profile=profile,
                name=name,
                agent=agent,
                own=own,
                format=self.log[0],
                level=self.log[1],
                authority=self.authority,
            ).encode(),
        )

    def _put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        self.files.append(path)

    def _certificate(
        self, name: str, key: rsa.RSAPrivateKey, issuer: str, issuer_key: rsa.RSAPrivateKey, *, authority: bool
    ) -> x509.Certificate:
        begin = datetime.datetime.fromtimestamp(self.now - NTP_UNIX, datetime.UTC) - datetime.timedelta(days=1)
        subject, issued_by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issued_by).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin)
        builder = builder.not_valid_after(begin + datetime.timedelta(days=365 * YEARS))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        return builder.sign(issuer_key, hashes.SHA256())


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
