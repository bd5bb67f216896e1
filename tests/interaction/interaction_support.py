# SPDX-License-Identifier: Apache-2.0
"""A BSM with sealed STKMs behind a real TLS server, its clock in the test's hand, and terminals that ask it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import random
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pybcast import codec
from pybcast.backend import pki
from pybcast.flows import BSM, BackendMessage, Output, PartialItem, Period, Profile, Right, StreamConfig, Tag, TrafficKey
from pybcast.flows.stream import stkm
from pybcast.https import contexts
from pybcast.https.contexts import terminal_context
from pybcast.interaction import Digest, InteractionClient
from pybcast.interaction.limits import Limits
from pybcast.interaction.server import UDN_URI, InteractionServer
from pybcast.keys import SRK, TEK
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.testing.parties import FQDN, CardParty, DrmParty, make_card, make_device, make_group, rights_issuer

START: Final = 3_990_000_000
SERVICE, BSM_URI, BSDA_URI = "urn:example:service/A?b", "urn:example:bsm", "urn:example:bsda"
REALM: Final = f"3GPP-bootstrapping@{FQDN}"
CONFIG: Final = StreamConfig(
    service=SERVICE, stream=1, profiles=("drm", "smartcard"), generation="bsm", bsm=BSM_URI, bsdas=(BSDA_URI,),
    protocol=Protocol.SRTP, period=8, start=START, key_period=640, rollover_lead=320, socID="soc", serviceBaseCID="service-1",
    key_domain_id=b"\x12\xf4\x10", key_group=7,
)  # fmt: skip
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """A test's work, with an end."""
    return asyncio.run(asyncio.wait_for(work, 60))


@functools.cache
def certificates() -> Path:
    """Of a server, and of terminals under an authority of their own: ``dora`` (UDN 5), ``nobody``, ``expired``, ``server``."""
    folder = Path(tempfile.mkdtemp(prefix="pybcast-interaction-"))
    atexit.register(_remove, folder, os.getpid())
    pki.init(folder, {"bsm": BSM_URI})
    pki.init(folder / "terminals", {"server": BSDA_URI})
    for name, udn in (("dora", 5), ("nobody", 77)):
        pki.issue(folder / "terminals", name, f"{UDN_URI}{udn:020d}", hosts=(), listens=False)
    pki.issue(folder / "terminals", "expired", f"{UDN_URI}{5:020d}", hosts=(), listens=False, days=0)
    pki.init(folder / "others", {"forged": f"{UDN_URI}{5:020d}"})
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a child that was forked has it not
        shutil.rmtree(folder, ignore_errors=True)


def server_context() -> contexts.Context:
    folder = certificates()
    context = contexts.server_context(
        contexts.TlsFiles(certificate=folder / "bsm.pem", key=folder / "bsm-key.pem", authority=folder / "terminals" / "ca.pem")
    )
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def context_of(name: str = "", folder: str = "terminals") -> ssl.SSLContext:
    """TLS of a terminal, with a certificate where it is named."""
    base = certificates()
    if not name:
        return terminal_context(base / "ca.pem")
    return terminal_context(base / "ca.pem", base / folder / f"{name}.pem", base / folder / f"{name}-key.pem")


class DirectMachine:
    """A BSM without a queue: what it says to persist counts as stored."""

    def __init__(self, machine: BSM, now: Callable[[], float]) -> None:
        self.machine, self._now = machine, now
        self.questions = 0

    async def ask_machine(self, question: Callable[[BSM, float], T]) -> T:
        await asyncio.sleep(0)
        self.questions += 1
        return question(self.machine, self._now())

    async def command(self, action: Callable[[BSM, float], tuple[T, list[Output]]]) -> T:
        await asyncio.sleep(0)
        return action(self.machine, self._now())[0]


class Bench:
    """``card``: Alice's; ``device``: Dora's; both entitled to ``SERVICE``."""

    def __init__(self, limits: Limits | None = None, config: StreamConfig = CONFIG) -> None:
        self.now, self.mono = float(START), 1000.0
        issuer, _ = rights_issuer()
        rng = random.Random(3)
        self.bsm = BSM(me=BSM_URI, fqdn=FQDN, streams=[config], randomness=random.Random(1).randbytes, rights_issuer_id=issuer.id)
        self.config = config
        self.bsm.tick(self.now)
        group = make_group(rng)
        self.bsm.add_group(group, self.now)
        self.card: CardParty = make_card(rng, "alice", self.now)
        srk = self.card.card.register(self.card.registration, self.now)
        assert srk is not None
        self.srk: SRK = srk
        self.device: DrmParty = make_device(rng, "dora", group, 5, self.now)
        self.device.device.register(self.device.registration, self.now)
        for party in (self.card, self.device):
            self.bsm.add_subscriber(party.subscriber, self.now, party.registration)
            self.grant(party.subscriber.id)
        self.machine = DirectMachine(self.bsm, lambda: self.now)
        self.seen: list[tuple[str, int]] = []
        self.server = InteractionServer(
            machine=self.machine, realm=REALM, clock=lambda: self.now, monotonic=lambda: self.mono,
            limits=limits or Limits(), observer=lambda path, status, _: self.seen.append((path, status)),
        )  # fmt: skip
        self._clients: list[InteractionClient] = []
        self._ids = 0

    @property
    def digest(self) -> Digest:
        return Digest.of(self.card.subscriber.idr, self.srk)

    @staticmethod
    def right() -> Right:
        return Right(service=SERVICE, stream=1, start=START - 60, end=START + 10_000)

    def grant(self, name: str) -> None:
        self.bsm.grant(name, self.right(), self.now)

    def seal(self, *numbers: int) -> None:
        """F3: the STKMs of these periods, of both profiles."""
        profiles: Sequence[Profile] = ("drm", "smartcard")
        for profile in profiles:
            items = []
            for number in numbers:
                of = Period(number, START + 8 * number, START + 8 * number + 8)
                rng = random.Random(number)
                content = stkm.partial(self.config, profile, of, TrafficKey(TEK(rng.randbytes(16)), rng.randbytes(14), None))
                secret = Secret(codec.encode(content))
                items.append(PartialItem(stream=1, period_start=of.start, period_end=of.end, tek_id=str(number), content=secret))
            self._ids += 1
            message = BackendMessage(
                tag=Tag.TEKDelivery, message_id=f"{self._ids:032x}", source=BSDA_URI, destination=BSM_URI,
                service=self.config.service, stream=1, profile=profile, items=tuple(items),
            )  # fmt: skip
            self.bsm.receive(message, self.now, BSDA_URI)
        self.server.waiting.changed(self.config.service)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"

    def terminal(self, certificate: str = "", folder: str = "terminals", *, digest: Digest | None = None) -> InteractionClient:
        client = InteractionClient(self.url, context=context_of(certificate, folder), digest=digest)
        self._clients.append(client)
        return client

    def alice(self) -> InteractionClient:
        return self.terminal(digest=self.digest)

    def dora(self) -> InteractionClient:
        return self.terminal("dora")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Bench]:
        await self.server.start("127.0.0.1", 0, server_context())
        try:
            yield self
        finally:
            for client in self._clients:
                await client.close()
            await self.server.stop()
