# SPDX-License-Identifier: Apache-2.0
"""A BSM that issues a key to everyone until it is killed; says a line for each input that was stored, and ``done`` at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from pybcast.flows import BSM, Persist, Right, StreamConfig, Subscriber
from pybcast.flows.journal import Journal
from pybcast.keys import KEK, SMK
from pybcast.messages import Protocol
from pybcast.store import SqliteStore

KEK_A: Final = KEK(bytes(range(32)))
START: Final = 3_990_000_000
SIZE: Final = 9500
CONFIG: Final = StreamConfig(
    service="urn:example:service", stream=1, profiles=("smartcard",), generation="bsda", bsm="urn:example:bsm",
    bsdas=("urn:example:bsda",), protocol=Protocol.SRTP, period=10, start=START, key_period=86_400, rollover_lead=3600,
    key_domain_id=b"\x12\xf4\x10", key_group=1,
)  # fmt: skip
RIGHT: Final = Right(service=CONFIG.service, stream=1, start=START, end=START + 10**9)


def machine(store: SqliteStore) -> BSM:
    """Made of what is stored."""
    return BSM(
        me=CONFIG.bsm, fqdn="bsm.example.com", streams=[CONFIG], randomness=os.urandom, state=store.load(), members=store.members()
    )


def enrol(store: SqliteStore) -> None:
    members, journal = store.members(), Journal(store.load())
    members.bind(journal)
    names = [f"subscriber-{n}" for n in range(SIZE)]
    members.put([Subscriber(id=name, smk=SMK(os.urandom(32)), idr=name) for name in names])
    members.grant([(name, RIGHT) for name in names])
    store.write([output for output in journal.take() if isinstance(output, Persist)])


def main() -> None:
    path = Path(sys.argv[1])
    new = not path.exists()
    with SqliteStore(path, KEK_A) as store:
        if new:
            enrol(store)
        bsm = machine(store)
        futures = []
        now = START
        while now == START or bsm.issuing():
            outputs = bsm.tick(now)
            now += 1
            futures.append(store.submit([output for output in outputs if isinstance(output, Persist)]))
            while futures and (len(futures) > 3 or futures[0].done()):
                futures.pop(0).result()
                os.write(1, b"stored\n")
        for future in futures:
            future.result()
    os.write(1, b"done\n")


if __name__ == "__main__":
    main()
