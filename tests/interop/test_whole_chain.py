# SPDX-License-Identifier: Apache-2.0
"""The whole chain with GStreamer at both ends: every server and terminal a process, STKMs, LTKMs and media on multicast.

Three services - DRM Profile, Smartcard Profile, both on one stream - each with an encoder that nobody here wrote, carry H.264
through thirty key changes and rollovers of the long-term keys, while BSM and BSD/A are dead together for eight of them.  No picture
is lost and no key is held: the edge executes what was planned.
A device whose right is withdrawn sees everything until the rollover, and nothing after it; a card is told before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest
from gst import FfmpegPlayer, GstHeadend, GstReceiver, Player, need_gstreamer, requires_ffmpeg

from pybcast.demo.chain import SERVERS, Chain, Service, Viewer
from pybcast.demo.daemons import Feed
from pybcast.demo.keyside import ntp_now
from pybcast.flows.events import TekReady, UseKey
from pybcast.outlets.udp import Pair

CHANGES: Final = 30
RATE: Final = 25  # pictures a second
LOOK: Final = 0.02
LIMIT: Final = 150.0  # seconds for the whole run on a busy machine
KEY_PERIOD: Final = 24  # seconds
LEAD: Final = 14  # seconds that the next long-term key is there ahead: longer than the servers are dead
KEYS: Final = {"period": 1, "key_period": KEY_PERIOD, "rollover_lead": LEAD, "cycle": 1.0, "look_ahead": 14}
DEAD: Final = 8  # key changes while both servers are dead
SERVICES: Final = (
    Service(name="D", number=1, profiles=("drm",), generation="bsda", **KEYS),  # type: ignore[arg-type]
    Service(name="S", number=2, profiles=("smartcard",), generation="bsm", **KEYS),  # type: ignore[arg-type]
    Service(name="T", number=3, profiles=("drm", "smartcard"), generation="bsm", **KEYS),  # type: ignore[arg-type]
)
BOB, ALICE = Viewer("bob", "drm"), Viewer("alice", "smartcard")
CAROL, DAVE = Viewer("carol", "drm"), Viewer("dave", "smartcard")
VIEWERS: Final = (BOB, ALICE, CAROL, DAVE)


class Watching:
    """The key sockets of everyone, as they say what is used and what is known."""

    def __init__(self, chain: Chain, *names: str) -> None:
        self._chain = chain
        self._feeds = {name: Feed(chain.folder / ("keys.sock" if name == "encoder" else f"{name}.sock")) for name in names}
        self.used: dict[str, list[bytes]] = {service.name: [] for service in SERVICES}
        self.known: dict[tuple[str, str], list[bytes]] = {}

    def look(self) -> None:
        for name, feed in self._feeds.items():
            for output in feed.outputs():
                service = output.service[-1]
                if isinstance(output, UseKey) and output.mki not in self.used[service][-1:]:
                    self.used[service].append(output.mki)
                elif isinstance(output, TekReady):
                    known = self.known.setdefault((name, service), [])
                    known += [output.mki] if output.mki not in known else []

    def until(self, good: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not good():
            assert time.monotonic() < deadline, f"{what}: {self.used}, {self.known}"
            self._chain.check()
            self.look()
            time.sleep(LOOK)  # sockets of others, and of processes that may die: nothing to wait on

    def close(self) -> None:
        for feed in self._feeds.values():
            feed.close()


def key_begins(chain: Chain, service: Service) -> int:
    """When the newest long-term key of a service begins, NTP seconds; the others follow it in steps of ``KEY_PERIOD``."""
    rows = chain.pybcast("bsm", "key", "list", "bsm.toml", "--service", service.id, "--json").splitlines()
    return max(int(json.loads(row)["valid_from"]) for row in rows)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with Chain(tmp_path, SERVICES, VIEWERS, ntp_now()) as running:
        running.describe()
        yield running


@requires_ffmpeg
@pytest.mark.media
def test_no_picture_is_lost(chain: Chain, tmp_path: Path) -> None:
    need_gstreamer()
    with ExitStack() as stack:
        with closing(Pair.bind()) as pair:
            port = pair.port
        ffmpeg: Player = stack.enter_context(FfmpegPlayer(port, tmp_path))
        chain.tune(ALICE, "--relay", f"127.0.0.1:{port}")  # of S, her first
        for other in (BOB, CAROL, DAVE):
            chain.tune(other)
        watching = Watching(chain, "encoder", *(viewer.name for viewer in VIEWERS))
        stack.callback(watching.close)
        for viewer in VIEWERS:
            chain.await_ready(viewer.name)
        viewers = {"D": ("bob", "carol"), "S": ("alice",), "T": ("bob", "alice")}
        # Keys that a terminal knows before they are used: then nothing is missed from the first picture on.
        watching.until(
            lambda: all(
                watching.used[s] and watching.used[s][-1] in watching.known.get((v, s), ()) for s in viewers for v in viewers[s]
            ),
            "first keys",
        )
        places = {s.name: f"{chain.media_group}:{chain.media_ports[s.name]}" for s in SERVICES}
        lo = ("--interface", "lo")
        players = {
            (v, s.name): stack.enter_context(GstReceiver(tmp_path / f"{v}.sock", s.id, places[s.name], stream=s.number, more=lo))
            for s in SERVICES
            for v in viewers[s.name]
        }
        heads = {
            s.name: stack.enter_context(
                GstHeadend(tmp_path / "keys.sock", s.id, places[s.name], stream=s.number, rate=RATE, more=lo)
            )
            for s in SERVICES
        }
        begun = {name: len(used) for name, used in watching.used.items()}
        for head in heads.values():
            head.start()
        watching.until(lambda: all(len(used) >= begun[s] + 5 for s, used in watching.used.items()), "five keys")
        begins = {service.name: key_begins(chain, service) for service in SERVICES}
        rollover = {}
        for who, withdrawn in ((CAROL, SERVICES[0]), (DAVE, SERVICES[1])):
            # Before the next long-term key is on its way to him: one that he has been given is his until it ends.
            begin = begins[withdrawn.name]
            watching.until(lambda b=begin: 1 <= (ntp_now() - b) % KEY_PERIOD <= KEY_PERIOD - LEAD - 2, "a key's beginning")  # type: ignore[misc]
            rollover[who] = int(ntp_now() - begin) // KEY_PERIOD * KEY_PERIOD + KEY_PERIOD + begin
            chain.pybcast("bsm", "subscriber", "withdraw", "bsm.toml", who.name, withdrawn.id)
        old = watching.used["S"][-1][:4]
        watching.until(lambda: all(len(used) >= begun[s] + 9 for s, used in watching.used.items()), "keys")
        for role in SERVERS:
            chain.kill(role)
        before = {s: len(used) for s, used in watching.used.items()}
        watching.until(lambda: all(len(used) >= before[s] + DEAD for s, used in watching.used.items()), "keys of dead servers")
        for role in SERVERS:
            chain.start(role)
        watching.until(lambda: all(len(used) > begun[s] + CHANGES + 5 for s, used in watching.used.items()), "thirty key changes")
        watching.until(lambda: ntp_now() > max(rollover.values()) + 2, "the rollover")
        alarms = [e for e in chain.logs["stkm"].lines() if e.get("event") == "alarm"]
        assert not alarms, "no key was held, and no plan short"
        sent = {name: head.finish() for name, head in heads.items()}
        for (name, shown_there), player in players.items():
            if name != CAROL.name:
                assert player.wait(sent[shown_there]), (name, shown_there, player.tail())
                assert player.finish() == list(range(sent[shown_there])), (name, shown_there)
        for service, head in heads.items():
            assert head.figures()["changes"] >= CHANGES, "without them nothing is shown"
            assert len({mki[:-2] for mki in watching.used[service]}) >= 2 or service == "D", "a rollover"
        # R10: a device is told nothing; it has everything under the old key, and nothing under the new one.
        shown = players["carol", "D"].finish()
        assert 0 < len(shown) < sent["D"] and shown == list(range(len(shown)))
        starts = [int.from_bytes(mki, "big") for mki in watching.used["D"]]  # a MKI of the DRM Profile is the period's start
        under_old = [mki for mki, start in zip(watching.used["D"], starts, strict=True) if start < rollover[CAROL] % 2**32]
        known = watching.known["carol", "D"]
        assert starts[-1] > rollover[CAROL] % 2**32 > int.from_bytes(known[-1], "big") and under_old[-1] in known
        assert set(known) >= set(under_old[begun["D"] - 1 :])
        # The encoder starts within two periods of where they were counted from.
        assert len(shown) >= RATE * (len(under_old) - begun["D"] - 2), "not before the rollover"
        # R3: a card is told, and obeys before that.
        assert watching.known["dave", "S"][-1][:4] == old
        assert watching.known["dave", "S"][-1] < max(mki for mki in watching.used["S"] if mki[:4] == old)
        assert ffmpeg.wait(sent["S"] - 2), ffmpeg.tail()
        assert ffmpeg.finish() == list(range(sent["S"])), "the relay's way"
