# SPDX-License-Identifier: Apache-2.0
"""The back-end interface between BSM and BSD/A: SP-4 and CP-4, XML over mutually authenticated HTTPS.

``Server`` listens and hands (message, peer) to a handler; ``Client`` asks and brings answers; ``encode`` and ``decode`` turn
messages into XML and back; ``Peers`` says whose certificate may touch what; ``pki`` makes certificates for tests.  Needs what
the extra ``server`` brings.
"""

from __future__ import annotations

from pybcast.backend.audit import Exchanged
from pybcast.backend.client import Client, ClientLimits, Retry
from pybcast.backend.errors import BadAnswer, BadMessage, PeerRefused, PeerUnreachable, Unparseable, WrongPeer
from pybcast.backend.identity import Peer, Peers
from pybcast.backend.server import PATH, Handler, Server, ServerLimits
from pybcast.backend.standing import Standing
from pybcast.backend.xml import MAX_ANSWER, MAX_REQUEST, NAMESPACE, decode, encode

__all__ = [
    "MAX_ANSWER",
    "MAX_REQUEST",
    "NAMESPACE",
    "PATH",
    "BadAnswer",
    "BadMessage",
    "Client",
    "ClientLimits",
    "Exchanged",
    "Handler",
    "Peer",
    "PeerRefused",
    "PeerUnreachable",
    "Peers",
    "Retry",
    "Server",
    "ServerLimits",
    "Standing",
    "Unparseable",
    "WrongPeer",
    "decode",
    "encode",
]
