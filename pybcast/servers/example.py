# SPDX-License-Identifier: Apache-2.0
"""Everything that two servers on one machine need to try them out: certificates, keys at rest, configurations."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from pybcast.backend import pki
from pybcast.errors import ConfigError

BSM_ID, BSDA_ID = "urn:example:bsm", "urn:example:bsda"
PORTS: Final = {"bsm": (8443, 9443), "bsda": (8444, 9444)}
"""Back-end interface; health and figures."""
INTERACTION_PORT: Final = 8445
TERMINALS: Final = "terminals"
"""Folder of the authority of DRM terminals: not that of the servers."""

_SERVER: Final = """\
# {title}

[server]
role = "{role}"
id = "urn:example:{role}"             # absolute URI; the certificate names it too
listen = "127.0.0.1:{port}"           # the back-end interface
status = "127.0.0.1:{status}"           # /healthz and /metrics
database = "{role}.db"                # relative to this file
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
fqdn = "bsm.example.com"              # its name in MIKEY messages
rights_issuer_id = "{issuer}" # SHA-1 of its RSA key (DRM Profile)
"""

_TERMINALS: Final = """
[interaction]                         # HTTPS for terminals
listen = "127.0.0.1:{port}"
certificate = "bsm.pem"
key = "bsm-key.pem"
authority = "terminals/ca.pem"        # of DRM terminals: see `pybcast pki terminal`; others have passwords
"""

_AIR: Final = """
[air]
events = "air.jsonl"                  # what goes on air: ids and lengths; "-" for standard output
keys = "keys.sock"                    # a Unix socket that tells encoders under which key to protect
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
"""


def configuration(role: str) -> str:
    """The configuration file of ``bsm`` or ``bsda``."""
    other = "bsda" if role == "bsm" else "bsm"
    own = _BSM.format(issuer=secrets.token_hex(20)) if role == "bsm" else ""
    title = "BSM: subscribers, rights, long-term keys" if role == "bsm" else "BSD/A: traffic keys, and what goes on air"
    port, status = PORTS[role]
    head = _SERVER.format(
        role=role, other=other, title=title, port=port, status=status, other_port=PORTS[other][0], own=own,
        air=_AIR if role == "bsda" else "", terminals=_TERMINALS.format(port=INTERACTION_PORT) if role == "bsm" else "",
    )  # fmt: skip
    return head + _SERVICES


def write(directory: Path) -> list[Path]:
    """A folder with all of it.  ``ConfigError`` when something is there already; nothing is overwritten."""
    files = {f"{role}.toml": configuration(role) for role in PORTS} | {
        f"{role}.kek": secrets.token_hex(32) + "\n" for role in PORTS
    }
    if existing := [name for name in files if (directory / name).exists()]:
        raise ConfigError(f"{directory}: {', '.join(existing)} exists already")
    made = pki.init(directory, {"bsm": BSM_ID, "bsda": BSDA_ID}) + pki.init(directory / TERMINALS, {})
    for name, text in files.items():
        path = directory / name
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        made.append(path)
    return made
