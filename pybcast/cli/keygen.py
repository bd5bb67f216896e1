# SPDX-License-Identifier: Apache-2.0
"""Random keys under the names of a key file."""

from __future__ import annotations

import secrets
import typing
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pybcast.errors import ConfigError
from pybcast.keys import Key, Keys

_RSA_BITS: Final = 2048  # rules R23: the default of DRM registration


def _symmetric() -> dict[str, int]:
    """The keys of the ring and their sizes in bytes, read from its types."""
    sizes = {}
    for name, hint in typing.get_type_hints(Keys).items():
        for kind in typing.get_args(hint):
            if isinstance(kind, type) and issubclass(kind, Key):
                sizes[name] = kind.SIZES[0]
    return sizes


SIZES: Final = _symmetric() | {"csb_id": 4, "rand": 16}
RSA: Final = ("device_key", "rights_issuer_key")
NAMES: Final = (*SIZES, *RSA)

HALVES: Final = {"seak": ("sek", "sas"), "peak": ("pek", "pas")}
"""A SEAK is SEK || SAS and a PEAK is PEK || PAS: random ones of both would contradict each other."""

ALL: Final = tuple(name for name in NAMES if name not in HALVES)


def generate(names: Iterable[str]) -> dict[str, str]:
    """A key file's content: hexadecimal text (PEM for the RSA keys) from the operating system's randomness.

    ``ConfigError`` for an unknown name, and for a key together with a half of it.
    """
    wanted = dict.fromkeys(names)
    for name in wanted:
        if name not in NAMES:
            raise ConfigError(f"no key has the name {name[:40]!r}; names: {' '.join(NAMES)}")
    for whole, halves in HALVES.items():
        if whole in wanted and not wanted.keys().isdisjoint(halves):
            raise ConfigError(f"{whole} is {' || '.join(halves)}: name it or them")
    made = {name: _pem() if name in RSA else secrets.token_hex(SIZES[name]) for name in wanted}
    Keys.from_dict(made)  # what we write, we can read
    return made


def _pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
