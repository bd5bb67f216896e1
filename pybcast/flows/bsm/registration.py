# SPDX-License-Identifier: Apache-2.0
"""Registration key material: how it is made (R23, R24), and how it gets to the BSD/As, which broadcast it (F1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from pybcast import codec
from pybcast.errors import LocalFlowError, PeerFlowError
from pybcast.flows.bsm.members import Group, Subscriber
from pybcast.flows.events import FlowDone
from pybcast.flows.journal import Journal, RowKey, Table
from pybcast.flows.peers.exchange import Peering
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage
from pybcast.flows.serial import counter_of
from pybcast.flows.tables import Status, Tag
from pybcast.keys import BDK, CK, IK, RIAK, GroupTree, Keys, btid, gba_u_autn, registration_keys, target_id
from pybcast.messages import ClearRegistrationResponse, KeysetItem, KeysetTag, RegistrationTag, SmartcardRegistration
from pybcast.secret import Secret


@dataclass(frozen=True)
class RightsIssuer:
    """The BSM as a rights issuer: its RSA key and its certificates (DER, leaf first)."""

    key: RSAPrivateKey
    certificates: tuple[bytes, ...]

    @property
    def id(self) -> bytes:
        """rights_issuer_id: SHA-1 of the public key (20 bytes)."""
        return codec.rights_issuer_id(self.key.public_key())


def _keyset(tag: KeysetTag, value: bytes) -> KeysetItem:
    return KeysetItem(int(tag), Secret(value))


def device_registration(
    issuer: RightsIssuer, *, udn: str, device_key: RSAPublicKey, group: Group, subscriber: Subscriber, now: float
) -> bytes:
    """device_registration_response for one device: the group's keys, its own, and where it stands in the group.

    RIAK items: the device's own first, then the group's (R21 has one for each; their order is own).
    """
    if subscriber.udk is None or subscriber.riak is None:
        raise LocalFlowError(f"subscriber {subscriber.id} has no device keys")
    sgks = GroupTree(group.root, group.size).sgks(subscriber.position)
    udf = group.address + bytes([group.size == 512]) + subscriber.position.to_bytes(2, "big")
    items = (
        _keyset(KeysetTag.UGK, group.ugk.reveal()),
        _keyset(KeysetTag.UDK, subscriber.udk.reveal()),
        *(_keyset(KeysetTag.SGK, bytes([level]) + sgk.reveal()) for level, sgk in enumerate(sgks, 1)),
        _keyset(KeysetTag.UDF, udf),
        _keyset(KeysetTag.RIAK, subscriber.riak.reveal()),
        _keyset(KeysetTag.RIAK, group.riak.reveal()),
    )
    return _response(issuer, RegistrationTag.device_registration_response, udn, device_key, items, now)


def domain_registration(
    issuer: RightsIssuer, *, udn: str, device_key: RSAPublicKey, domain_id: bytes, generation: int, bdk: BDK, riak: RIAK,
    now: float, update: bool = False,
) -> bytes:  # fmt: skip
    """domain_registration_response (or domain_update_response): a broadcast domain's key of one generation."""
    items = (
        _keyset(KeysetTag.BDK, domain_id + generation.to_bytes(2, "big") + bdk.reveal()),
        _keyset(KeysetTag.RIAK, riak.reveal()),
    )
    tag = RegistrationTag.domain_update_response if update else RegistrationTag.domain_registration_response
    return _response(issuer, tag, udn, device_key, items, now)


def _response(
    issuer: RightsIssuer, tag: RegistrationTag, udn: str, device_key: RSAPublicKey, items: Sequence[KeysetItem], now: float
) -> bytes:
    clear = ClearRegistrationResponse(
        message_tag=tag,
        longform_udn=udn,
        rights_issuer_id=issuer.id,
        drm_time=int(now),
        certificates=issuer.certificates,
        keyset_items=tuple(items),
        signature_type=issuer.key.key_size,
    )
    return codec.seal(clear, Keys(rights_issuer_key=issuer.key, device_public_key=device_key))


def smartcard_registration(
    *, name: str, rand: bytes, autn: bytes, ck: CK, ik: IK, impi: str, fqdn: str, bsf: str, until: int, gba_u: bool
) -> tuple[Subscriber, bytes]:
    """A registration push for one card, from an authentication vector imported from the home network (R36).

    ``autn``: as the home network made it; for GBA_U it is transformed here (R24).  ``until``: NTP second at which the keys end.
    Gives the subscriber with the SMK that the card will derive and the SRK of its terminal's passwords, and the push.
    """
    keys = registration_keys(ck, ik, rand, impi, fqdn, gba_u=gba_u)
    identity = btid(rand, bsf)
    message = SmartcardRegistration(
        gba_u=gba_u,
        target_id=target_id(rand, impi),
        key_lifetime=counter_of(until),
        rand=rand,
        autn=gba_u_autn(autn, ik) if gba_u else autn,
        naf_fqdn=fqdn,
        btid=identity,
    )
    return Subscriber(id=name, smk=keys.smk, idr=identity, srk=keys.srk), codec.seal(message, Keys(ck=ck, ik=ik, impi=impi))


REGISTRATIONS: Final = Table("registration", bytes, "name")
REGISTERED: Final = Table("registered", bool, "name bsda")


class Registrations:
    """The registration material to broadcast, and which of the ``bsdas`` have it (F1)."""

    def __init__(self, journal: Journal, peers: Peering, bsdas: Collection[str]) -> None:
        self._journal, self._peers, self._bsdas = journal, peers, bsdas
        self._rows, self._registered = journal.open(REGISTRATIONS), journal.open(REGISTERED)
        self._asked: dict[str, RowKey] = {}

    @staticmethod
    def _row_key(subscriber: str) -> RowKey:
        return (f"{subscriber}/registration",)

    def get(self, subscriber: str) -> bytes | None:
        return self._rows.get(self._row_key(subscriber))

    def put(self, subscriber: str, data: bytes, now: float) -> None:
        if self.get(subscriber) != data:
            self.forget(subscriber)
        self._rows.put(self._row_key(subscriber), data)
        self._offer(self._row_key(subscriber), data, now)

    def forget(self, subscriber: str) -> None:
        row_key = self._row_key(subscriber)
        self._rows.drop(row_key)
        for bsda in self._bsdas:
            self._registered.drop((*row_key, bsda))

    def resume(self, now: float) -> None:
        """The process has started: what a BSD/A has not confirmed goes to it."""
        for row_key, data in self._rows.all().items():
            self._offer(row_key, data, now)

    def _offer(self, row_key: RowKey, data: bytes, now: float) -> None:
        for bsda in self._bsdas:
            if self._registered.get((*row_key, bsda)) is None:
                message_id = self._peers.ask(Tag.RegDelivery, bsda, ALL_SERVICES, now, until=now + 86400, items=(data,))
                self._asked[message_id] = row_key

    def confirmed(self, message: BackendMessage) -> None:
        """A BSD/A has it."""
        self._registered.put((*self._asked.pop(message.message_id), message.destination), True)
        self._journal.emit(FlowDone("F1", None, message.service))

    def give(self, message: BackendMessage, now: float) -> BackendMessage:
        """F1, pulled."""
        if message.service != ALL_SERVICES or message.source not in self._bsdas:
            raise PeerFlowError(Status.NOT_PERMITTED, "no right to registration material (R26)")
        data = tuple(self._rows.all().values())
        if data:
            self._journal.emit(FlowDone("F1", None, ALL_SERVICES))
        return message.answer(Status.SUCCESS if data else Status.NON_EXISTENT, data, now=now)
