# SPDX-License-Identifier: Apache-2.0
"""The C core asked directly, and its answers in the form in which the reference's can be compared with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from pybcast._native._bcast import ffi, lib
from pybcast._native.engine import NAMES, available
from pybcast._native.errors import path
from pybcast._native.numbers import NO_OFFSET, Status
from pybcast.codec import _core
from pybcast.errors import BcastError, KeyUnavailable, WireError
from pybcast.messages import Kind, Leniency

PROVIDERS: Final = NAMES
"""Both; a test of one that cannot be loaded is skipped and says so (where CI is set, it fails)."""

Verdict = tuple[object, ...]
"""``("ok", content)``, or the code with what it says: offset and path of a field, or the name of a key."""


def need(provider: str) -> None:
    if provider not in available():
        pytest.skip(f"needs the provider {provider}: install the package libipsec-mb-dev and build again")


def verdict(error: BcastError) -> Verdict:
    if isinstance(error, WireError):
        return error.code, error.offset, error.field
    return (error.code, error.key_id) if isinstance(error, KeyUnavailable) else (error.code,)


def outcome(call: Callable[[], object]) -> Verdict:
    try:
        return "ok", call()
    except BcastError as error:
        return verdict(error)


@contextmanager
def bare_core() -> Iterator[None]:
    """``seal`` and ``open`` raise the core's own errors, not the reference's words for them."""
    patch = pytest.MonkeyPatch()
    patch.setattr(_core, "seal_refusal", lambda native, ask: native)
    patch.setattr(_core, "open_refusal", lambda native, ask: native)
    with patch.context():
        yield
    patch.undo()


UNPACK: Final[dict[Kind, tuple[str, Callable[[Any, int, Any], Any]]]] = {
    "drm-stkm": ("bcast_drm_stkm", _core.unpack_drm_stkm),
    "smartcard-stkm": ("bcast_smartcard_stkm", _core.unpack_smartcard_stkm),
    "smartcard-ltkm": ("bcast_smartcard_ltkm", _core.unpack_smartcard_ltkm),
    "smartcard-verification": ("bcast_verification", _core.unpack_verification),
    "smartcard-reporting": ("bcast_verification", _core.unpack_verification),
}


def core_decode(data: bytes, kind: Kind, *, partial: bool = False, lenient: Collection[Leniency] = ()) -> tuple[Verdict, Any]:
    """Verdict of the core's ``_decode``, and the structure when it is ``ok``."""
    ctype, unpack = UNPACK[kind]
    message, error = ffi.new(f"{ctype} *"), ffi.new("bcast_error *")
    # Of the exact size, so that a sanitizer sees one byte too many.
    exact = ffi.new("uint8_t[]", bytes(data)) if data else ffi.new("uint8_t[]", 1)
    size, bits = len(data), _core.lenient_bits(tuple(lenient))
    if kind == "drm-stkm":
        status = lib.bcast_drm_stkm_decode(exact, size, partial, bits, message, error)
    elif kind == "smartcard-stkm":
        status = lib.bcast_smartcard_stkm_decode(exact, size, partial, bits, message, error)
    elif kind == "smartcard-ltkm":
        status = lib.bcast_smartcard_ltkm_decode(exact, size, bits, message, error)
    else:
        status = lib.bcast_verification_decode(exact, size, kind == "smartcard-reporting", bits, message, error)
    assert status == error.code
    if status == Status.OK:
        return ("ok", unpack(ffi.buffer(message), 0, data)), message
    code = ffi.string(lib.bcast_status_name(status)).decode()
    return (code, None if error.offset == NO_OFFSET else error.offset, path(error)), None
