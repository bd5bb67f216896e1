# SPDX-License-Identifier: Apache-2.0
"""Providers (who computes AES and HMAC) and key contexts, one user at a time.

A provider of the C core, and a key context, belong to one thread at a time, and a call into the core lets other threads run.  So
both are lent: whoever needs one takes it out of a list and puts it back, and makes one more where the list is empty.  Taking and
putting back are single steps of a list, which need no lock.  There are as many as were ever in use at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from pybcast._native._bcast import ffi, lib
from pybcast._native.numbers import ALIGNMENT, Status
from pybcast.errors import ConfigError, CryptoError, KeyUnavailable
from pybcast.secret import Secret

NAMES: Final = ("evp", "ipsec_mb")
"""Providers that the core knows; whether each is at hand is seen by opening it."""
VARIABLE: Final = "PYBCAST_PROVIDER"

SCRATCH: Final = ("bcast_drm_stkm", "bcast_smartcard_stkm", "bcast_smartcard_ltkm", "bcast_verification")


def storage(size: int) -> tuple[Any, Any]:
    """``size`` zero bytes at an address fit for an object of the core: what owns them, and where they begin."""
    owner = ffi.new("uint8_t[]", size + ALIGNMENT - 1)
    return owner, owner + (-int(ffi.cast("uintptr_t", owner)) % ALIGNMENT)


Scratch = tuple[Any, Any, Any]
"""A message of the worker's own, its bytes, and the frame of calls that seal it."""


class Worker:
    """An open provider with room to work in, for one user at a time.

    ``scratch``: by structure, a message zero when idle.  ``out``: room for any message that is built.
    """

    __slots__ = ("_owner", "error", "out", "out_buffer", "provider", "scratch")

    def __init__(self, name: str) -> None:
        self.provider = ffi.NULL
        self._owner, place = storage(lib.BCAST_PROVIDER_SIZE)
        opened = ffi.new("bcast_provider **")
        status = lib.bcast_provider_open(place, lib.BCAST_PROVIDER_SIZE, name.encode(), opened)
        if status == Status.E_NO_PROVIDER:
            raise ConfigError(f"the provider {name} is not at hand here")
        if status != Status.OK:
            raise CryptoError(f"the provider {name} is not used: {ffi.string(lib.bcast_status_name(status)).decode()}")
        self.provider = opened[0]
        self.out = ffi.new("uint8_t[]", lib.BCAST_MESSAGE_MAX)
        self.out_buffer = ffi.buffer(self.out)
        self.error = ffi.new("bcast_error *")
        self.scratch = {name: self._scratch(name) for name in SCRATCH}

    def _scratch(self, name: str) -> Scratch:
        message = ffi.new(f"{name} *")
        frame = ffi.new("pybcast_frame *", (self.provider, message, self.out, lib.BCAST_MESSAGE_MAX))
        return message, ffi.buffer(message), frame

    def __del__(self, close: Callable[[Any], None] = lib.bcast_provider_close) -> None:  # at exit the module may be gone
        close(self.provider)


class Information(NamedTuple):
    """What is at work.  ``ipsec_mb_version``, ``ipsec_mb_isa``: empty with ``evp``.  ``burst``: messages that share a call."""

    version: str
    provider: str
    libcrypto_version: str
    ipsec_mb_version: str
    ipsec_mb_isa: str
    ipsec_mb_built: bool
    burst: int


class Engine:
    """One provider by name, with its idle workers."""

    __slots__ = ("idle", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.idle: list[Worker] = [Worker(name)]

    def take(self) -> Worker:
        """A worker of one's own, to be appended to ``idle`` again."""
        try:
            return self.idle.pop()
        except IndexError:
            return Worker(self.name)

    def information(self) -> Information:
        """Versions of the core and of the libraries behind it."""
        worker, found = self.take(), ffi.new("bcast_information *")
        lib.bcast_info(worker.provider, found)
        texts = [ffi.string(getattr(found, name)).decode("ascii", "replace") for name in Information._fields[:5]]
        self.idle.append(worker)
        version, provider, libcrypto, ipsec_mb, isa = texts
        return Information(version, provider, libcrypto, ipsec_mb, isa, bool(found.ipsec_mb_built), found.burst)


_engines: Final[dict[str, Engine]] = {}
_chosen: list[tuple[Engine, Engine]] = []
ALONE: Final[list[Engine]] = []
"""The last one is :func:`current`, once that was asked: what a hot path looks at."""


def engine(name: str) -> Engine:
    """The engine of a provider.  ``ConfigError`` names those at hand, for one that is unknown or not here."""
    if name not in _engines:
        try:
            if name not in NAMES:
                raise ConfigError(f"unknown provider {name!r}")
            _engines[name] = Engine(name)
        except ConfigError as error:
            raise ConfigError(f"{error}; at hand: {', '.join(['auto', *available()])}") from None
    return _engines[name]


def available() -> tuple[str, ...]:
    """The providers that can be used on this machine, the fastest for batches last."""
    found = []
    for name in NAMES:
        try:
            _engines.setdefault(name, _engines.get(name) or Engine(name))
        except ConfigError:
            continue
        found.append(name)
    return tuple(found)


def _pair(name: str) -> tuple[Engine, Engine]:
    """Engines for a message alone and for a batch.  ``auto``: evp alone, where it is faster, and the last of :func:`available`."""
    return (engine("evp"), engine(available()[-1])) if name == "auto" else (engine(name), engine(name))


def _choose(pair: tuple[Engine, Engine]) -> None:
    _chosen.append(pair)
    ALONE.append(pair[0])


def current(batch: bool = False) -> Engine:
    """The engine of ``seal`` and ``open``, or of batches: what ``PYBCAST_PROVIDER`` says (evp, ipsec_mb, auto), looked at once."""
    if not _chosen:
        try:
            _choose(_pair(os.environ.get(VARIABLE) or "auto"))
        except ConfigError as error:
            raise ConfigError(f"{VARIABLE}: {error}") from None
    return _chosen[-1][batch]


@contextmanager
def using(name: str) -> Iterator[None]:
    """Another provider (evp, ipsec_mb, auto) for a while, in the whole process: for tests and measurements."""
    current()
    _choose(_pair(name))
    try:
        yield
    finally:
        _chosen.pop()
        ALONE.pop()


# --- key contexts -----------------------------------------------------------------------------------------------------


class ContextKind(NamedTuple):
    """A kind of key context: its C type, its size in bytes, and the call that gives its handles back and clears it."""

    ctype: str
    size: int
    wipe: Callable[[Any], None]


DRM: Final = ContextKind("bcast_drm_key", lib.BCAST_DRM_KEY_SIZE, lib.bcast_drm_key_wipe)
SMARTCARD: Final = ContextKind("bcast_smartcard_key", lib.BCAST_SMARTCARD_KEY_SIZE, lib.bcast_smartcard_key_wipe)
SMK: Final = ContextKind("bcast_smk", lib.BCAST_SMK_SIZE, lib.bcast_smk_wipe)

SetUp = Callable[[Worker, Any], None]
"""Sets one context up in the storage given, or raises."""


def _bytes(secret: Secret | None) -> Any:
    """The bytes of a secret for the time of one call.  Its own buffer: a copy could not be wiped."""
    if secret is None:
        return ffi.NULL
    if secret.wiped:
        secret.reveal()  # raises
    return ffi.from_buffer("uint8_t[]", secret._buffer)


def _done(status: int) -> None:
    if status != Status.OK:
        raise CryptoError(f"a key context cannot be set up: {ffi.string(lib.bcast_status_name(status)).decode()}")


def drm_set_up(sek: Secret | None, sas: Secret | None, pek: Secret | None, pas: Secret | None, use: int) -> SetUp:
    """Keys of a DRM service: at least one of them."""

    def set_up(worker: Worker, place: Any) -> None:
        held = [_bytes(secret) for secret in (sek, sas, pek, pas)]
        _done(
            lib.bcast_drm_key_init(
                place, DRM.size, worker.provider, ffi.new("bcast_drm_keys *", held), use, ffi.new("bcast_drm_key **")
            )
        )

    return set_up


def smartcard_set_up(sek: Secret, csb_id: bytes | None, rand: bytes) -> SetUp:
    """A SEK with its RAND, which may be empty, and the CSB ID that it is used with; without one it only opens."""

    def set_up(worker: Worker, place: Any) -> None:
        made = ffi.new("bcast_smartcard_key **")
        own = ffi.NULL if csb_id is None else csb_id
        _done(lib.bcast_smartcard_key_init(place, SMARTCARD.size, worker.provider, _bytes(sek), own, rand, len(rand), made))

    return set_up


def smk_set_up(smk: Secret) -> SetUp:
    """A subscriber's SMK."""

    def set_up(worker: Worker, place: Any) -> None:
        _done(lib.bcast_smk_init(place, SMK.size, worker.provider, _bytes(smk), ffi.new("bcast_smk **")))

    return set_up


def answered(rand: bytes, idi: bytes) -> Any:
    """What a verification message answers: RAND and IDi of the LTKM, as a ``bcast_answered`` that keeps the bytes alive."""
    owners = ffi.new("uint8_t[]", rand), ffi.new("uint8_t[]", idi)
    return ffi.gc(ffi.new("bcast_answered *", (*owners, len(idi))), lambda _, owners=owners: None)


class Contexts:
    """Key contexts of one kind in one storage, wiped when asked and when let go.  One user at a time."""

    __slots__ = ("_owner", "_worker", "count", "kind", "place")

    def __init__(self, worker: Worker, kind: ContextKind, set_ups: Sequence[SetUp], room: int = 0) -> None:
        self.kind, self.count = kind, 0
        self._worker = worker  # it must outlive what was set up with it
        self._owner, self.place = storage(kind.size * max(1, room, len(set_ups)))
        for set_up in set_ups:
            set_up(worker, self.place + self.count * kind.size)
            self.count += 1

    @classmethod
    def of_smks(cls, worker: Worker, smks: bytearray) -> Contexts:
        """Of many SMKs in one call, 32 bytes each."""
        count = len(smks) // lib.BCAST_SMK_LENGTH
        made = cls(worker, SMK, (), count)
        _done(lib.pybcast_smks_init(made.place, count, worker.provider, ffi.from_buffer("uint8_t[]", smks)))
        made.count = count
        return made

    def pointer(self, i: int = 0, cast: Callable[[str, Any], Any] = ffi.cast) -> Any:
        """Context ``i``."""
        return cast(f"{self.kind.ctype} *", self.place + i * self.kind.size)

    def wipe(self) -> None:
        """Give the handles back and clear the storage; for good."""
        for i in range(self.count):
            self.kind.wipe(self.pointer(i))
        self.count = 0

    def __del__(self) -> None:
        self.wipe()


class Pool:
    """The contexts of one key ring for one use: as many as were ever in use at once."""

    __slots__ = ("answered", "closed", "engine", "free", "kind", "secrets", "set_up")

    def __init__(self, engine: Engine, kind: ContextKind, secrets: tuple[Secret, ...], set_up: SetUp) -> None:
        self.engine, self.kind, self.secrets, self.set_up = engine, kind, secrets, set_up
        self.answered: Any = ffi.NULL
        self.free: list[tuple[Any, Contexts]] = []
        self.closed = False

    def take(self, worker: Worker) -> tuple[Any, Contexts]:
        """A context of one's own: the pointer for the call, and what owns it.  ``KeyUnavailable`` when a key was wiped."""
        try:
            return self.free.pop()
        except IndexError:
            made = Contexts(worker, self.kind, (self.set_up,))
        if any(secret.wiped for secret in self.secrets):  # meanwhile, in another thread: what was read may be half a key
            made.wipe()
            raise KeyUnavailable("a key that was wiped")
        return made.pointer(), made

    def give(self, held: tuple[Any, Contexts]) -> None:
        """Take a context back.  One that was lent while the pool was wiped is wiped now."""
        self.free.append(held)
        if self.closed:
            self.wipe()

    def wipe(self) -> None:
        """Wipe every context that is here, and those that come back."""
        self.closed = True
        while self.free:
            self.free.pop()[1].wipe()

    def __deepcopy__(self, memo: dict[int, object]) -> Pool:
        return self
