# SPDX-License-Identifier: Apache-2.0
"""Who the other server is, and what it may touch (R26)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pybcast.backend.xml import is_uri
from pybcast.errors import ConfigError, PeerFlowError
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.tables import Status


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server that this one speaks with.

    ``id``: absolute URI, the ``source`` it may claim.  ``services``: the GlobalServiceIDs it may touch, in any container, also one
    that changes; ``urn:x-bcast:all`` is a right of its own (R26, R29).  ``certificate``: the name its certificate carries,
    ``URI:...``, ``DNS:...`` or ``CN:...``; by default ``URI:`` and the id.  ``fingerprints``: where given, SHA-256 of the
    certificates it may show, in hexadecimal, with or without colons.  ``url``: where it listens, for asking it.

    ``ConfigError`` for an id that is no absolute URI, a name of another form, and what is no fingerprint.
    """

    id: str
    services: Container[str] = field(default=frozenset(), repr=False)
    certificate: str = ""
    fingerprints: frozenset[str] = frozenset()
    url: str | None = None

    def __post_init__(self) -> None:
        if not is_uri(self.id):
            raise ConfigError(f"peer {self.id!r}: the id must be an absolute URI (R28)")
        if not self.certificate:
            object.__setattr__(self, "certificate", f"URI:{self.id}")
        if not self.certificate.startswith(("URI:", "DNS:", "CN:")) or self.certificate.endswith(":"):
            raise ConfigError(f"peer {self.id}: certificate: expected URI:..., DNS:... or CN:...")
        object.__setattr__(self, "fingerprints", frozenset(map(_fingerprint, self.fingerprints)))
        if "" in self.fingerprints:
            raise ConfigError(f"peer {self.id}: fingerprints: expected 64 hexadecimal digits each, SHA-256 of a certificate")
        if self.url is not None and not self.url.startswith(("https://", "http://")):
            raise ConfigError(f"peer {self.id}: url: expected https://...")

    def shown(self, names: Container[str], data: bytes | None) -> bool:
        """Whether a certificate with these names, and this DER, is one of the peer's."""
        if self.certificate not in names:
            return False
        return not self.fingerprints or hashlib.sha256(data or b"").hexdigest() in self.fingerprints


class Peers:
    """The servers known here, by id and by certificate.  ``ConfigError`` when two share one of them."""

    def __init__(self, peers: Iterable[Peer]) -> None:
        self._by_id: Final[dict[str, Peer]] = {}
        self._by_name: Final[dict[str, Peer]] = {}
        for peer in peers:
            if peer.id in self._by_id:
                raise ConfigError(f"peer {peer.id}: configured twice")
            if peer.certificate in self._by_name:
                raise ConfigError(f"peer {peer.id}: {peer.certificate} is also the name of {self._by_name[peer.certificate].id}")
            self._by_id[peer.id] = self._by_name[peer.certificate] = peer

    def get(self, peer_id: str) -> Peer | None:
        return self._by_id.get(peer_id)

    def of_certificate(self, names: Collection[str], data: bytes | None = None) -> Peer | None:
        """The peer whose name a certificate carries; ``None`` for a stranger, and for one that would be two peers.

        ``data``: the certificate in DER, for peers whose fingerprints are given.
        """
        found = {self._by_name[name].id: self._by_name[name] for name in names if name in self._by_name}
        peer = next(iter(found.values())) if len(found) == 1 else None
        return peer if peer is not None and peer.shown(names, data) else None


def _fingerprint(text: str) -> str:
    """64 digits in lower case; empty for what is none.  With colons it is what ``openssl x509 -fingerprint -sha256`` says."""
    digits = text.replace(":", "").lower()
    return digits if re.fullmatch("[0-9a-f]{64}", digits) else ""


def certificate_names(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The names in a verified certificate, as ``ssl.SSLObject.getpeercert()`` shows it: ``URI:...``, ``DNS:...``, else ``CN:...``.

    Subject alternative names; the common name counts only where there is none (as RFC 6125 6.4.4 has it for hosts).
    confidence: own - a certificate stands for a peer by a URI, a DNS name or, without such, its common name (R26)
    """
    if not certificate:
        return frozenset()
    names = {f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ()) if kind in ("URI", "DNS")}
    if not certificate.get("subjectAltName"):
        names = {f"CN:{value}" for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"}
    return frozenset(names)


def authorise(message: BackendMessage, peer: Peer | None) -> None:
    """Whether this peer may say this: its own id as ``source``, and a service of its own.  ``PeerFlowError`` status 11 (R26)."""
    if peer is None:
        raise PeerFlowError(Status.NOT_PERMITTED, "the certificate belongs to no configured peer")
    if message.source != peer.id:
        raise PeerFlowError(Status.NOT_PERMITTED, "source is not the id of the peer's certificate")
    if message.service not in peer.services:
        raise PeerFlowError(Status.NOT_PERMITTED, "no right to this service")
