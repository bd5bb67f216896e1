# SPDX-License-Identifier: Apache-2.0
"""Two servers for tests: their configuration, and the processes."""

from __future__ import annotations

from typing import Final

BSM_ID, BSDA_ID = "urn:example:bsm", "urn:example:bsda"


def _service(letter: str, number: int, generation: str, delivery: str) -> str:
    return f"""
[[services]]
id = "urn:example:service:{letter}"
profiles = ["drm", "smartcard"]
generation = "{generation}"
delivery = "{delivery}"
synchronous = false
interaction = {"true" if generation == "bsda" else "false"}
period = 2
key_period = 20
look_ahead = 3
carousel_cycle = 1.0
serviceBaseCID = "service-{letter}"
socID = "soc.example"
key_domain_id = "12f410"
key_group = {number}
"""


SERVICES: Final = "".join((
    _service("A", 1, "bsm", "push"), _service("B", 2, "bsda", "push"),
    _service("C", 3, "bsm", "pull"), _service("D", 4, "bsda", "pull"),
))  # fmt: skip


def toml(role: str, port: int = 0, peer_port: int = 2) -> str:
    """The configuration of one of the two."""
    other = "bsda" if role == "bsm" else "bsm"
    own = f'fqdn = "bsm.example.com"\nrights_issuer_id = "{"11" * 20}"' if role == "bsm" else ""
    air = "" if role == "bsm" else '[air]\nevents = "-"\n'
    return f"""# a {role}
[server]
role = "{role}"
id = "urn:example:{role}"
listen = "127.0.0.1:{port}"
status = "127.0.0.1:0"
database = "{role}.db"
kek = "file:kek"
{own}

[tls]
certificate = "{role}.pem"
key = "{role}-key.pem"
authority = "ca.pem"

[log]
format = "json"
level = "info"

{air}
[[peers]]
id = "urn:example:{other}"
url = "https://127.0.0.1:{peer_port}"
{SERVICES}"""


BSM_TOML: Final = toml("bsm")
BSDA_TOML: Final = toml("bsda")
