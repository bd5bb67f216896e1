# SPDX-License-Identifier: Apache-2.0
"""Everything to try out two servers, what they put on air and two terminals, on one machine: certificates, keys, configurations."""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path
from typing import Final

from pybcast.backend import pki
from pybcast.errors import ConfigError
from pybcast.flows import Profile
from pybcast.servers.trial import FQDN, Trial
from pybcast.wire.times import NTP_UNIX

BSM_ID, BSDA_ID = "urn:example:bsm", "urn:example:bsda"
PORTS: Final = {"bsm": (8443, 9443), "bsda": (8444, 9444)}
"""Back-end interface; health and figures."""
INTERACTION_PORT: Final = 8445
TERMINALS: Final = "terminals"
"""Folder of the terminals, and of the authority of DRM terminals: not that of the servers."""
SUBSCRIBERS: Final[tuple[tuple[str, Profile], ...]] = (("alice", "smartcard"), ("bob", "drm"))
"""Names and profiles; each has a terminal, and a right to every service."""
SERVICES: Final = ("urn:example:news", "urn:example:sport")
GROUP: Final = "239.255.1.1"
"""Multicast, of the range that belongs to one site (RFC 2365); it stays on the loopback interface."""
LTKM_PORT: Final = 4359
"""UDP, of the LTKM push."""
FLUTE_PORT: Final = 4001
STKM_PORTS: Final = (5004, 5006)
"""Of each service; those of the Smartcard Profile go to the next port."""

_SERVER: Final = """\
# {title}

[server]
role = "{role}"
id = "urn:example:{role}"             # absolute URI; the certificate names it too
listen = "127.0.0.1:{port}"           # the back-end interface
status = "127.0.0.1:{status}"           # /healthz and /metrics
database = "{role}.db"                # relative to this file
witness = "witness/{role}.witness"    # tells when the database was put back: never copy or restore it
kek = "file:{role}.kek"               # wraps the keys in the database; or env:NAME, command:WORDS
{own}
[tls]
certificate = "{role}.pem"
key = "{role}-key.pem"
authority = "ca.pem"
{terminals}
[log]
format = "text"                       # or json
level = "info"
{air}
[[peers]]
id = "urn:example:{other}"
url = "https://127.0.0.1:{other_port}"
"""

_BSM: Final = """\
fqdn = "{fqdn}"              # its name in MIKEY messages
rights_issuer_id = "{issuer}" # SHA-1 of its RSA key (DRM Profile)
"""

_TERMINALS: Final = """
[interaction]                         # HTTPS for terminals
listen = "127.0.0.1:{port}"
certificate = "bsm.pem"
key = "bsm-key.pem"
authority = "terminals/ca.pem"        # of DRM terminals: see `pybcast pki terminal`; cards prove that they were registered
"""

_AIR: Final = """
[air]
events = "air.jsonl"                  # what goes on air: ids and lengths; "-" for standard output
keys = "keys.sock"                    # a Unix socket that tells encoders under which key to protect
sender = "stkm.sock"                  # of `pybcast air stkm`, which executes the plans: STKMs on air, keys to encoders
carousel = "carousel.sock"            # of `pybcast air carousel`, which turns LTKMs and registration material
interface = "127.0.0.1"               # the address of the interface that datagrams leave by
ttl = 1                               # of multicast
ltkm = "{group}:{ltkm}"           # the LTKM push, one message a datagram
flute = "{group}:{flute}"          # the same as an object carousel, with repair symbols
rate = 2000000                        # bits a second, of each of the two
"""

_SERVICES: Final = """
# Both servers hold the same services.

[[services]]
id = "urn:example:news"
profiles = ["drm", "smartcard"]
generation = "bsm"                    # the BSM seals (F3, F5)
period = 4                            # seconds a traffic key is used
key_period = 120                      # seconds a SEK or SEAK is used
carousel_cycle = 2.0                  # seconds for a turn of the LTKMs; 10 is usual
look_ahead = 5                        # periods prepared beyond the running one
serviceBaseCID = "news"               # DRM Profile
socID = "soc.example"
key_domain_id = "12f410"              # Smartcard Profile: MCC and MNC
key_group = 1                         # one for each stream
stkm = "{group}:{news}"           # where its STKMs go; those of the Smartcard Profile to the next port

[[services]]
id = "urn:example:sport"
profiles = ["drm", "smartcard"]
generation = "bsda"                   # the BSD/A seals (F4)
interaction = true                    # and gives the STKMs to the BSM (F6)
delivery = "push"                     # or pull
period = 4
key_period = 120
carousel_cycle = 2.0
serviceBaseCID = "sport"
socID = "soc.example"
key_domain_id = "12f410"
key_group = 2
stkm = "{group}:{sport}"
"""


def configuration(role: str, issuer: bytes) -> str:
    """The configuration file of ``bsm`` or ``bsda``.  ``issuer``: id of the rights issuer (20 bytes)."""
    other = "bsda" if role == "bsm" else "bsm"
    own = _BSM.format(fqdn=FQDN, issuer=issuer.hex()) if role == "bsm" else ""
    title = "BSM: subscribers, rights, long-term keys" if role == "bsm" else "BSD/A: traffic keys, and what goes on air"
    port, status = PORTS[role]
    head = _SERVER.format(
        role=role, other=other, title=title, port=port, status=status, other_port=PORTS[other][0], own=own,
        air=_AIR.format(group=GROUP, ltkm=LTKM_PORT, flute=FLUTE_PORT) if role == "bsda" else "",
        terminals=_TERMINALS.format(port=INTERACTION_PORT) if role == "bsm" else "",
    )  # fmt: skip
    text = head + _SERVICES.format(group=GROUP, news=STKM_PORTS[0], sport=STKM_PORTS[1])
    return re.sub(r"^([^#\n]+?) +# ", lambda line: f"{line[1]:<37} # ", text, flags=re.M)  # comments below each other


def write(directory: Path) -> list[Path]:
    """A folder with all of it.  ``ConfigError`` when something is there already; nothing is overwritten."""
    names = [f"{role}.{kind}" for role in PORTS for kind in ("toml", "kek")]
    if existing := [name for name in names if (directory / name).exists()]:
        raise ConfigError(f"{directory}: {', '.join(existing)} exists already")
    made = pki.init(directory, {"bsm": BSM_ID, "bsda": BSDA_ID}) + pki.init(directory / TERMINALS, {})
    trial = Trial(directory / TERMINALS, time.time() + NTP_UNIX, authority="../ca.pem")
    for position, (name, profile) in enumerate(SUBSCRIBERS):
        trial.add(name, profile, position, SERVICES)
    made += trial.write()
    for role in PORTS:
        made.append(_put(directory / f"{role}.toml", configuration(role, trial.issuer.id)))
        made.append(_put(directory / f"{role}.kek", secrets.token_hex(32) + "\n"))
    return made


def _put(path: Path, text: str) -> Path:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return path
