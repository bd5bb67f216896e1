# SPDX-License-Identifier: Apache-2.0
"""Run in a network namespace of its own (``unshare -rn python alone.py FOLDER``) by a test: the sender on a virtual cable.

What leaves is looked at where the cable ends: Ethernet, IP, UDP.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from saying import Saying, configuration, plan, state_until
from servers_support import Process

from pybcast.broadcast.link import Begin

HERE: Final = "10.9.8.7"
ETH_P_IP: Final = 0x0800


def main(folder: Path) -> None:
    for command in (
        "link set lo up", "link add air0 type veth peer name air1", f"addr add {HERE}/24 dev air0", "link set air0 up",
        "link set air1 up",
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    configuration(
        folder, {"A": "239.1.2.3:5004", "B": "239.1.2.4:5006"},
        air={"interface": HERE, "ttl": 7, "heartbeat": "239.1.2.9:5999", "detection": 0.5},
    )  # fmt: skip
    cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
    cable.bind(("air1", ETH_P_IP))
    cable.settimeout(30)
    sender = Process("bsda", folder, command=("air", "stkm"))
    sender.ready()
    now = time.time()
    said = [plan("A", now, now + 60, now + 120, lead=60), plan("B", now, now + 60)]
    with Saying(folder / "air.sock", *said, begin=Begin("urn:example:bsda", b"m" * 32)):
        state_until(folder / "air.sock", datagrams=6)
        seen: dict[tuple[str, int], list[bytes]] = {}
        heartbeats = 0
        while heartbeats < 5 or len(seen) < 4 or any(len(rows) < 8 for rows in seen.values()):
            data = cable.recv(2048)
            mac, (ttl, protocol), host = data[:6], data[22:24], socket.inet_ntoa(data[30:34])
            source, port, length = struct.unpack(">HHH", data[34:40])
            if protocol != socket.IPPROTO_UDP:
                continue
            assert (ttl, socket.inet_ntoa(data[26:30])) == (7, HERE) and source
            assert mac == b"\x01\x00\x5e" + bytes([socket.inet_aton(host)[1] & 127]) + socket.inet_aton(host)[2:]
            if (host, port) == ("239.1.2.9", 5999):
                heartbeats += 1
            else:
                seen.setdefault((host, port), []).append(data[42 : 34 + length])
        first, second = said[0].periods
        for at, place in enumerate((("239.1.2.3", 5004), ("239.1.2.3", 5005))):
            content = seen[place]
            both = [first.stkms[at].data, second.stkms[at].data]
            begin = content.index(both[0])
            content = content[begin:]
            assert content[0::2] == [both[0]] * len(content[0::2]) and content[1::2] == [both[1]] * len(content[1::2]), place
        for at, place in enumerate((("239.1.2.4", 5006), ("239.1.2.4", 5007))):
            assert set(seen[place]) == {said[1].periods[0].stkms[at].data}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
            foreign.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HERE))
            for garbage in (b"", b"x", bytes(60), b"BCSH" + os.urandom(60), os.urandom(1400)):
                foreign.sendto(garbage, ("239.1.2.9", 5999))
        state = state_until(folder / "air.sock", strange_heartbeats=5)
        assert state["active"] and not state["errors"], state
    assert sender.end(signal.SIGTERM) == 0, sender.tail()
    sender.check()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
