# SPDX-License-Identifier: Apache-2.0
"""A BSM and a BSD/A as processes, and terminals of both profiles that ask the BSM."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from servers_support import System, _service

from pybcast.https.contexts import terminal_context
from pybcast.interaction import Digest, InteractionClient
from pybcast.keys import SRK
from pybcast.testing.parties import CardParty, DrmParty, make_card, make_device, make_group, rights_issuer
from pybcast.wire.times import NTP_UNIX

A, B = "urn:example:service:A", "urn:example:service:B"
SERVICES: Final = _service("A", 1, "bsm", "push", key_period=120) + _service("B", 2, "bsda", "push", key_period=120)
TABLE: Final = """
[interaction]
listen = "127.0.0.1:0"
certificate = "bsm.pem"
key = "bsm-key.pem"
authority = "terminals/ca.pem"
rate = 50.0
"""


class Terminals:
    """A BSM and a BSD/A, Alice with a card, Dora with a device."""

    def __init__(self, folder: Path, *, peers: str = "", terminals: str = "", before: Callable[[], object] = bool) -> None:
        """``peers``, ``terminals``: more lines of the BSM's ``[server]`` and ``[interaction]``.  ``before``: the servers start."""
        self.system = System(folder, SERVICES)
        self.folder = folder
        config = folder / "bsm.toml"
        text = config.read_text().replace("11" * 20, rights_issuer()[0].id.hex())
        config.write_text(text.replace("[server]\n", f"[server]\n{peers}\n") + f"{TABLE}{terminals}\n")
        rng, now = random.Random(11), time.time() + NTP_UNIX
        group = make_group(rng)
        self.card: CardParty = make_card(rng, "alice", now)
        self.device: DrmParty = make_device(rng, "dora", group, 5, now)
        srk = self.card.card.register(self.card.registration, now)
        assert srk is not None
        self.srk: SRK = srk
        status, _, err = self.system.command("pki", "terminal", str(folder / "terminals"), "dora", "--udn", self.device.device.udn)
        assert status == 0, err
        before()
        self.system.start("bsm", "bsda")
        self._given("group.json", {
            "address": group.address, "root": group.root.reveal(), "ugk": group.ugk.reveal(), "riak": group.riak.reveal(),
        })  # fmt: skip
        assert self.system.command("bsm", "group", "add", "bsm.toml", str(folder / "group.json"))[0] == 0
        card, device = self.card.subscriber, self.device.subscriber
        assert card.smk is not None and device.udk is not None and device.riak is not None
        self._given("alice.json", {
            "smk": card.smk.reveal(), "idr": card.idr, "srk": srk.reveal(), "registration": self.card.registration,
        })  # fmt: skip
        self._given("dora.json", {
            "group": device.group, "position": "5", "udk": device.udk.reveal(), "riak": device.riak.reveal(), "udn": device.udn,
            "registration": self.device.registration,
        })  # fmt: skip
        for name in ("alice", "dora"):
            keys = str(folder / f"{name}.json")
            words = ("bsm", "subscriber", "add", "bsm.toml", name, "--keys", keys, "--service", A, "--service", B)
            status, _, err = self.system.command(*words)
            assert status == 0, err

    def _given(self, name: str, values: dict[str, bytes | str]) -> None:
        text = {key: value.hex() if isinstance(value, bytes) else value for key, value in values.items()}
        (self.folder / name).write_text(json.dumps(text))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.system.running['bsm'].ready()['interaction_port']}"

    def alice(self, srk: SRK | None = None) -> InteractionClient:
        digest = Digest.of(self.card.subscriber.idr, srk or self.srk)
        return InteractionClient(self.url, context=terminal_context(self.folder / "ca.pem"), digest=digest)

    def stranger(self) -> InteractionClient:
        """Someone without certificate and password."""
        return InteractionClient(self.url, context=terminal_context(self.folder / "ca.pem"), digest=None)

    def dora(self) -> InteractionClient:
        own = self.folder / "terminals"
        context = terminal_context(self.folder / "ca.pem", own / "dora.pem", own / "dora-key.pem")
        return InteractionClient(self.url, context=context, digest=None)
