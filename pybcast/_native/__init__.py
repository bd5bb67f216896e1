# SPDX-License-Identifier: Apache-2.0
"""The only door to the C core (``csrc/``): its calls through cffi, its providers, its key contexts, its errors as ours.

It knows messages as C structures and keys as bytes; what they mean is for :mod:`pybcast.codec` to say.  The core is compiled in, so
there is nothing to fall back to: what is looked at here, once, is that the library fits the header it was built with and that the
libcrypto at hand is not older than what the core was written for.
"""

from __future__ import annotations

from typing import Final

from pybcast._native._bcast import ffi, lib
from pybcast._native.numbers import VERSION
from pybcast.errors import ConfigError

LIBCRYPTO_MIN: Final = (3, 0, 3)
"""The first with ``EVP_MD_CTX_copy_ex`` and fetching as the core uses them, without known faults in either."""


def library_version() -> str:
    """Of the C core at hand, for example ``1.0.0``."""
    text: str = ffi.string(lib.bcast_version()).decode("ascii")
    return text


def libcrypto_version() -> tuple[int, int, int]:
    """Of the libcrypto that was loaded."""
    number: int = lib.pybcast_libcrypto_number()
    return number >> 16, number >> 8 & 255, number & 255


def check_versions(header: tuple[int, ...], library: str, libcrypto: tuple[int, ...]) -> None:
    """``ConfigError`` when header, library and libcrypto do not go together."""
    if int(library.split(".")[0]) != header[0]:
        raise ConfigError(f"libbcast {library} does not fit the header {'.'.join(map(str, header))} that pybcast was built with")
    if libcrypto < LIBCRYPTO_MIN:
        found, wanted = ".".join(map(str, libcrypto)), ".".join(map(str, LIBCRYPTO_MIN))
        raise ConfigError(f"libcrypto {found} is older than {wanted}")


check_versions(VERSION, library_version(), libcrypto_version())
