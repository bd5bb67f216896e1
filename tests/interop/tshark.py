# SPDX-License-Identifier: Apache-2.0
"""tshark (Wireshark) as an independent reader of our bytes: one process for any number of packets, through a capture file.

A test that uses it says so: ``@pytest.mark.requires_tool("tshark", package="tshark")``.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RAW_IP: Final = 101  # LINKTYPE_RAW: packets begin with their IP header, of either version
MIKEY_PORT: Final = 2269
HEADERS: Final = 28  # bytes of IPv4 and UDP before a message
PATIENCE: Final = 120  # seconds after which a tshark that hangs is killed; it needs about 2


@dataclass(frozen=True)
class Node:
    """One field as tshark shows it: where it lies in the packet, its bytes in hexadecimal (bit fields: the number), its
    line on the screen, its parts."""

    name: str
    show: str
    offset: int
    size: int
    value: str
    text: str
    parts: tuple[Node, ...]

    def walk(self) -> Iterator[Node]:
        """This field and everything below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


def ipv4(protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet to a multicast address."""
    source, destination = bytes((192, 0, 2, 1)), bytes((233, 252, 0, 1))
    fields = (0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, destination)
    total: int = sum(struct.unpack(">10H", struct.pack(">BBHHHBBH4s4s", *fields)))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack(">BBHHHBBH4s4s", *fields[:7], checksum, *fields[8:]) + payload


def udp(payload: bytes, port: int) -> bytes:
    """A UDP datagram, without a checksum, as IPv4 allows."""
    return struct.pack(">4H", 40000, port, 8 + len(payload), 0) + payload


def capture(packets: Sequence[bytes]) -> bytes:
    """A capture file (classic pcap) of IP packets, a second apart."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, RAW_IP)]
    for second, packet in enumerate(packets):
        parts.append(struct.pack("<IIII", second, 0, len(packet), len(packet)) + packet)
    return b"".join(parts)


def dissect(packets: Sequence[bytes], *options: str) -> list[tuple[Node, ...]]:
    """The protocols that tshark finds in each IP packet.

    The user's own Wireshark settings are not used.  Raises ``CalledProcessError`` or ``TimeoutExpired``.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packets.pcap"
        file.write_bytes(capture(packets))
        done = subprocess.run(
            ["tshark", "-n", "-r", str(file), "-T", "pdml", *options],
            env=os.environ | {"WIRESHARK_CONFIG_DIR": folder},
            capture_output=True,
            check=True,
            timeout=PATIENCE,
        )
    # A long label may be cut inside a character.
    tree = ET.fromstring(done.stdout.decode("utf-8", "replace"))
    found = [tuple(map(_node, packet.findall("proto"))) for packet in tree.iter("packet")]
    assert len(found) == len(packets), f"tshark shows {len(found)} of {len(packets)} packets"
    return found


def dissect_mikey(messages: Sequence[bytes]) -> list[tuple[Node, ...]]:
    """The same for MIKEY messages, each alone in a UDP datagram."""
    packets = [ipv4(17, udp(message, MIKEY_PORT)) for message in messages]
    return dissect(packets, "-d", f"udp.port=={MIKEY_PORT},mikey")


def _node(element: ET.Element) -> Node:
    return Node(
        name=element.get("name", ""),
        show=element.get("show", ""),
        offset=int(element.get("pos", "0")),
        size=int(element.get("size", "0")),
        value=element.get("value", ""),
        text=element.get("showname", ""),
        parts=tuple(_node(child) for child in element if child.tag in ("field", "proto")),
    )
