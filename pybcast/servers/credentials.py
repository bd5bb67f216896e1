# SPDX-License-Identifier: Apache-2.0
"""A terminal's credentials: the TOML file that says whose card or device it is, and where it remembers what it has received."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pybcast.errors import ConfigError
from pybcast.flows import Device, Profile, SimulatedCard
from pybcast.flows.journal import State
from pybcast.https.contexts import Context, terminal_context
from pybcast.keys import KEK, OPC, K
from pybcast.servers.tables import LogTable
from pybcast.servers.toml import TomlFile, secret_of

MAX_PEM: Final = 1 << 20

S = TypeVar("S", KEK, K, OPC)
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class TerminalTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[terminal]``: ``state``: its database.  ``kek``: source of the key that wraps what is in it.  ``interface``: the
    interface that it listens on, by its IPv4 address or its name.
    """

    state: _Text
    kek: _Text
    interface: str = "127.0.0.1"


class CardTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[card]``: a simulated card (Smartcard Profile).  ``k``, ``opc``: sources of its subscription's keys, 16 bytes each."""

    k: _Text
    opc: _Text
    impi: _Text


class DeviceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[device]``: a DRM Profile device.  ``udn``: 20 digits.  ``key``: PEM, its RSA key.  ``anchors``: PEM, roots it trusts."""

    udn: _Text
    key: _Text
    anchors: tuple[_Text, ...]


class ChannelTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[interaction]``: ``authority``: PEM of those who certify the BSM.  ``url``: in place of the one that the SDP says.

    ``certificate``, ``key``: PEM, the device's own (DRM Profile); a card has its registration (HTTP Digest).  ``crl``: PEM,
    certificates that the authority has taken back.
    """

    authority: _Text
    url: str = ""
    certificate: str = ""
    key: str = ""
    crl: str = ""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file.  ``[parental]``: rating type = highest rating that may be shown."""

    terminal: TerminalTable
    card: CardTable | None = None
    device: DeviceTable | None = None
    interaction: ChannelTable | None = None
    parental: dict[str, Annotated[int, msgspec.Meta(ge=0, le=255)]] = {}
    log: LogTable = LogTable()


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Credentials that were understood; secrets and certificates are read by the methods."""

    path: Path
    file: File
    parental: dict[int, int] = field(default_factory=dict)

    @property
    def profile(self) -> Profile:
        return "drm" if self.file.card is None else "smartcard"

    @property
    def state(self) -> Path:
        """The database."""
        return self.path.parent / self.file.terminal.state

    def kek(self) -> KEK:
        return self._secret(self.file.terminal.kek, "terminal.kek", KEK)

    def agent(self, state: State) -> SimulatedCard | Device:
        """The card or the device, with what it remembers."""
        if self.file.card is not None:
            card = self.file.card
            return SimulatedCard(
                k=self._secret(card.k, "card.k", K), opc=self._secret(card.opc, "card.opc", OPC), impi=card.impi, state=state
            )
        device = self.file.device
        assert device is not None
        anchors = [found for i, name in enumerate(device.anchors) for found in self._certificates(f"device.anchors[{i + 1}]", name)]
        return Device(udn=device.udn, key=self._rsa_key(device.key), anchors=anchors, state=state)

    def context(self) -> Context:
        """TLS towards the BSM: 1.2 or later, its certificate checked."""
        channel = self.file.interaction
        assert channel is not None
        base = self.path.parent
        certificate = (base / channel.certificate, base / channel.key) if channel.certificate else ()
        return terminal_context(base / channel.authority, *certificate, crl=base / channel.crl if channel.crl else None)

    def revocation_lists(self) -> list[Path]:
        """The file that says which certificates were taken back."""
        channel = self.file.interaction
        return [self.path.parent / channel.crl] if channel is not None and channel.crl else []

    def _secret(self, source: str, key: str, make: type[S]) -> S:
        return secret_of(self.path, source, key, make)

    def _pem(self, key: str, name: str) -> str:
        path = self.path.parent / name
        try:
            with path.open("rb") as file:
                return file.read(MAX_PEM).decode("ascii", "replace")
        except OSError as error:
            raise ConfigError(f"{self.path}: {key}: {path}: {error.strerror}") from None

    def _certificates(self, key: str, name: str) -> list[bytes]:
        try:
            found = x509.load_pem_x509_certificates(self._pem(key, name).encode())
        except ValueError:
            raise ConfigError(f"{self.path}: {key}: {name}: expected certificates in PEM") from None
        return [certificate.public_bytes(serialization.Encoding.DER) for certificate in found]

    def _rsa_key(self, name: str) -> RSAPrivateKey:
        try:
            key = serialization.load_pem_private_key(self._pem("device.key", name).encode(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise ConfigError(f"{self.path}: device.key: {name}: expected an RSA key in PEM, not encrypted")
        return key


def load(path: Path) -> Credentials:
    """Read and check credentials.  ``ConfigError``: FILE:LINE: key: reason."""
    toml = TomlFile(path)
    file = toml.convert(File)
    if (file.card is None) == (file.device is None):
        raise toml.refuse((), "expected [card] (Smartcard Profile) or [device] (DRM Profile), one of them")
    if file.device is not None and not (len(file.device.udn) == 20 and file.device.udn.isascii() and file.device.udn.isdigit()):
        raise toml.refuse(("device", "udn"), "expected 20 digits")
    if file.device is not None and not file.device.anchors:
        raise toml.refuse(("device", "anchors"), "expected at least one")
    sources = {"k": file.card.k, "opc": file.card.opc} if file.card is not None else {}
    found = {name: toml.source(("card", name), source) for name, source in sources.items()}
    kek = toml.source(("terminal", "kek"), file.terminal.kek)
    channel = file.interaction
    if channel is not None:
        if channel.url and not channel.url.startswith("https://"):
            raise toml.refuse(("interaction", "url"), "expected https://...")
        if bool(channel.certificate) != bool(channel.key):
            raise toml.refuse(("interaction", "certificate"), "needs interaction.key, and that one it")
        if file.device is not None and not channel.certificate:
            raise toml.refuse(("interaction", "certificate"), "missing: a device says with it who it is")
    levels: dict[int, int] = {}
    for name, level in file.parental.items():
        if not name.isascii() or not name.isdigit() or int(name) > 255:
            raise toml.refuse(("parental", name), "expected a rating type, 0..255")
        levels[int(name)] = level
    file = msgspec.structs.replace(
        file, terminal=msgspec.structs.replace(file.terminal, kek=kek),
        card=None if file.card is None else msgspec.structs.replace(file.card, **found),
    )  # fmt: skip
    return Credentials(path=path, file=file, parental=levels)
