# SPDX-License-Identifier: Apache-2.0
"""Numbers and shapes of ``bcast.h`` as Python sees them: read from the compiled header, never written down again."""

from __future__ import annotations

import enum
import functools
import struct
from typing import Any, Final, NamedTuple

from pybcast._native._bcast import ffi, lib


def _enum(name: str, prefix: str) -> Any:
    """``enum bcast_<name>`` as an ``IntEnum`` without the prefix of its members."""
    members = {text.removeprefix(prefix): number for text, number in ffi.typeof(f"enum bcast_{name}").relements.items()}
    cls: Any = enum.IntEnum(name.title().replace("_", ""), members)  # type: ignore[misc]  # its members are the header's
    cls.__doc__ = f"enum bcast_{name} of bcast.h."
    cls.__module__ = __name__
    return cls


Status: Final = _enum("status", "BCAST_")
Scope: Final = _enum("scope", "BCAST_S_")
Field: Final = _enum("field", "BCAST_F_")
Lenient: Final = _enum("lenient", "BCAST_LENIENT_")
Use: Final = _enum("use", "BCAST_USE_")
DrmPresent: Final = _enum("drm_present", "BCAST_DRM_")
PolicyPresent: Final = _enum("policy_present", "BCAST_POLICY_")

ALIGNMENT: Final[int] = lib.BCAST_ALIGNMENT
NO_OFFSET: Final[int] = lib.BCAST_NO_OFFSET
VERSION: Final = (lib.BCAST_VERSION_MAJOR, lib.BCAST_VERSION_MINOR, lib.BCAST_VERSION_PATCH)
"""Of the header that this was built with."""


class Member(NamedTuple):
    """A member of a C structure: where it stands, how many bytes it has, and its code for ``struct`` and the buffer protocol."""

    offset: int
    size: int
    code: str


def _code(ctype: Any) -> str:
    if ctype.kind == "primitive":
        size: int = ffi.sizeof(ctype)
        signed = bool(ffi.cast(ctype, -1) < 0)
        return {1: "bB", 2: "hH", 4: "iI", 8: "qQ"}[size][not signed]
    if ctype.kind == "array":
        return f"{ctype.length}s"
    return f"{ffi.sizeof(ctype)}s"  # a pointer: never read or written through this


@functools.cache
def members(name: str) -> dict[str, Member]:
    """Every member of a structure by its dotted name, ``tail.access_criteria.offset``; nested structures as a whole too."""
    found: dict[str, Member] = {}

    def walk(ctype: Any, prefix: str, base: int) -> None:
        for field, about in ctype.fields:
            offset, size = base + about.offset, ffi.sizeof(about.type)
            if about.type.kind == "struct":
                found[prefix + field] = Member(offset, size, f"{size}s")
                walk(about.type, f"{prefix}{field}.", offset)
            else:
                found[prefix + field] = Member(offset, size, _code(about.type))

    walk(ffi.typeof(name), "", 0)
    return found


def packer(name: str, *fields: str) -> struct.Struct:
    """Packs and unpacks the named members of a structure, in the order of the header, and zeros all others.

    ``KeyError`` for a name the header does not know, ``ValueError`` for another order: a header that changed is seen at import.
    """
    known, at, codes = members(name), 0, "="
    for field in fields:
        member = known[field]
        if member.offset < at:
            raise ValueError(f"{name}.{field} stands before the member named before it")
        codes += f"{member.offset - at}x{member.code}"
        at = member.offset + member.size
    return struct.Struct(f"{codes}{ffi.sizeof(name) - at}x")
