# SPDX-License-Identifier: Apache-2.0
"""Many messages in one call of the C core: contents in one piece of memory, results in another, no Python object per message.

A headend that changes the keys of thousands of services at once does three things::

    keys = prepare(rings, "smartcard-stkm")          # once: a key context for each service
    batch = Records("smartcard-stkm", len(rings))    # once: room for what the messages say
    batch.set("counter", start)                      # each period: columns, from numbers, bytes, arrays
    batch.set("tek", teks)                           # 16 bytes for each message, one after the other
    sealed = seal_many(batch, keys)                  # one call, other threads run meanwhile
    send(sealed.arena)                               # or sealed[i], the bytes of one message

Columns are the members of the C structures of ``bcast.h`` (:attr:`Records.columns`): numbers in the byte order of the machine, byte
strings as on the wire.  Whatever has the buffer protocol is taken: ``bytes``, ``array.array``, NumPy arrays; NumPy is not needed.
A :class:`Records` is itself such a buffer, and ``numpy.frombuffer(batch.buffer, numpy.dtype(batch.layout))`` shows it as a table.

Every item has a status of its own; a bad one takes no room and stops nobody.  Contents, bytes and errors become Python objects
only when they are asked for by index.

Threads: a call lends a provider and the prepared keys for its duration.  Two threads that seal at once prepare their keys each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Self

from pybcast._native._bcast import ffi, lib
from pybcast._native.engine import (
    DRM,
    SMARTCARD,
    SMK,
    ContextKind,
    Contexts,
    Engine,
    SetUp,
    Worker,
    current,
    drm_set_up,
    engine,
    smartcard_set_up,
    smk_set_up,
)
from pybcast._native.errors import typed
from pybcast._native.numbers import NO_OFFSET, Member, Status, Use, members
from pybcast.codec import _core, reference
from pybcast.codec._common import Lenient, require
from pybcast.errors import BcastError, ConfigError, KeyUnavailable
from pybcast.keys import SMK as SmkKey
from pybcast.keys import Keys
from pybcast.messages import SEK_KEY_TYPE, ClearDrmStkm, ClearSmartcardLtkm, ClearSmartcardStkm
from pybcast.secret import Secret
from pybcast.wire.smartcard import MAX_SIZE as MAX_CARD_MESSAGE

Buffer = Any
"""Anything with the buffer protocol, in one piece.  (``collections.abc.Buffer`` came with Python 3.12.)"""

BatchKind = Literal["drm-stkm", "smartcard-stkm", "smartcard-ltkm"]
Content = ClearDrmStkm | ClearSmartcardStkm | ClearSmartcardLtkm
Direction = Literal["seal", "open", "both"]


class _Shape(NamedTuple):
    """What differs between the kinds.  ``typical``: bytes of a message without its variable parts, at most."""

    content: type
    ctype: str
    contexts: ContextKind
    set_up: Callable[[Keys, int], SetUp]
    pack: Callable[[Any, int, Any, bytearray, int], bool]
    unpack: Callable[[Any, int, Any], Any]
    typical: int
    seal_job: str
    seal_jobs: Any
    seal: Any
    open_job: str
    open_jobs: Any
    open: Any


def _drm(keys: Keys, use: int) -> SetUp:
    if keys.sek is None and keys.pek is None:
        raise KeyUnavailable("sek")
    return drm_set_up(keys.sek, keys.sas, keys.pek, keys.pas, use)


def _smartcard(keys: Keys, use: int) -> SetUp:
    csb_id = require(keys.csb_id, "csb_id") if use & Use.SEAL else keys.csb_id
    return smartcard_set_up(require(keys.sek, "sek"), csb_id, require(keys.rand, "rand"))


def _smk(keys: Keys, _: int) -> SetUp:
    return smk_set_up(require(keys.smk, "smk"))


_SHAPES: Final[dict[str, _Shape]] = {
    "drm-stkm": _Shape(
        ClearDrmStkm, "bcast_drm_stkm", DRM, _drm, _core.pack_drm_stkm, _core.unpack_drm_stkm, 192,
        "bcast_drm_seal_job[]", lib.pybcast_seal_jobs_drm, lib.bcast_drm_stkm_seal_batch,
        "bcast_drm_open_job[]", lib.pybcast_open_jobs_drm, lib.bcast_drm_stkm_open_batch,
    ),
    "smartcard-stkm": _Shape(
        ClearSmartcardStkm, "bcast_smartcard_stkm", SMARTCARD, _smartcard, _core.pack_smartcard_stkm, _core.unpack_smartcard_stkm,
        112,
        "bcast_smartcard_seal_job[]", lib.pybcast_seal_jobs_stkm, lib.bcast_smartcard_stkm_seal_batch,
        "bcast_smartcard_open_job[]", lib.pybcast_open_jobs_stkm, lib.bcast_smartcard_stkm_open_batch,
    ),
    "smartcard-ltkm": _Shape(
        ClearSmartcardLtkm, "bcast_smartcard_ltkm", SMK, _smk, _core.pack_smartcard_ltkm, _core.unpack_smartcard_ltkm, 224,
        "bcast_ltkm_seal_job[]", lib.pybcast_seal_jobs_ltkm, lib.bcast_smartcard_ltkm_seal_batch,
        "bcast_ltkm_open_job[]", lib.pybcast_open_jobs_ltkm, lib.bcast_smartcard_ltkm_open_batch,
    ),
}  # fmt: skip
_COLUMNS: Final = {kind: members(shape.ctype) for kind, shape in _SHAPES.items()}
_BY_CONTENT: Final = {shape.content: kind for kind, shape in _SHAPES.items()}
_USES: Final = {"seal": int(Use.SEAL), "open": int(Use.OPEN), "both": int(Use.SEAL | Use.OPEN)}
_ELSEWHERE: Final = 0xFFFFFFFF
_SMK_SIZE: Final = int(lib.BCAST_SMK_LENGTH)
_ARENA: Final = ffi.new_allocator(should_clear_after_alloc=False)  # the core writes it, and clears what it does not use


def _shape(kind: str) -> _Shape:
    try:
        return _SHAPES[kind]
    except KeyError:
        raise ConfigError(f"no batches of {kind!r}; there are: {', '.join(_SHAPES)}") from None


def _view(value: Any, what: str) -> Any:
    """The bytes of a buffer, where they lie."""
    try:
        return ffi.from_buffer("uint8_t[]", value)
    except (TypeError, BufferError, ValueError):
        raise TypeError(f"{what}: expected a contiguous buffer, found {type(value).__name__}") from None


# --- keys -------------------------------------------------------------------------------------------------------------


class _Smks(Sequence[Keys]):
    """Key rings of one SMK each, made when they are asked for."""

    def __init__(self, smks: Buffer) -> None:
        self.data = bytearray(smks)
        if len(self.data) % _SMK_SIZE:
            raise ValueError(f"smks: expected {_SMK_SIZE} bytes for each, {len(self.data)} bytes found")

    def __len__(self) -> int:
        return len(self.data) // _SMK_SIZE

    def __getitem__(self, i: Any) -> Any:
        at = range(len(self))[i] * _SMK_SIZE
        return Keys(smk=SmkKey(self.data[at : at + _SMK_SIZE]))


class PreparedKeys:
    """Key contexts of many key rings, set up once: all that can be computed before a message is there.

    Up to 1 KiB each; with the provider evp a DRM service also holds about 2 KiB (to seal) of libcrypto's.  One user at a time:
    a second one meets ``ConfigError``.  ``wipe()`` when done; a key ring that is wiped later does not wipe what was made here.
    """

    def __init__(self, rings: Sequence[Keys], kind: BatchKind, *, use: Direction = "both", provider: str | None = None) -> None:
        shape = _shape(kind)
        self.kind: BatchKind = kind
        self.rings: Sequence[Keys] = rings if isinstance(rings, _Smks) else tuple(rings)
        self.engine: Engine = current(batch=True) if provider is None else engine(provider)
        self._wiped = False
        worker = self.engine.take()
        try:
            if isinstance(rings, _Smks):
                made = Contexts.of_smks(worker, rings.data)
            else:
                made = Contexts(worker, shape.contexts, [shape.set_up(ring, _USES[use]) for ring in self.rings])
            self._free = [made]
        finally:
            self.engine.idle.append(worker)

    def __len__(self) -> int:
        return len(self.rings)

    def __repr__(self) -> str:
        return f"<PreparedKeys of {len(self)} {self.kind}, {self.engine.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def take(self) -> Contexts:
        """The contexts, for one call.  ``KeyUnavailable`` when wiped, ``ConfigError`` when another call has them."""
        if self._wiped:
            raise KeyUnavailable("prepared keys")
        try:
            return self._free.pop()
        except IndexError:
            raise ConfigError("these prepared keys are in use: prepare some for each thread") from None

    def give(self, contexts: Contexts) -> None:
        """Hand back what :meth:`take` gave."""
        self._free.append(contexts)
        if self._wiped:
            self.wipe()

    def wipe(self) -> None:
        """Clear every context, for good; one that is in use as soon as its call ends."""
        self._wiped = True
        while self._free:
            self._free.pop().wipe()
        if isinstance(self.rings, _Smks):
            self.rings.data[:] = bytes(len(self.rings.data))


def prepare(rings: Keys | Sequence[Keys], kind: BatchKind, *, use: Direction = "both", provider: str | None = None) -> PreparedKeys:
    """Set up key contexts for batches, one for each key ring.

    ``use``: for what; less is faster and smaller for DRM services.  ``provider``: evp or ipsec_mb, else as ``PYBCAST_PROVIDER``
    says.  ``KeyUnavailable`` names the key that a ring lacks: DRM ``sek`` or ``pek`` at least, Smartcard STKM ``sek`` and ``rand``,
    and to seal ``csb_id``, LTKM ``smk``.  ``ConfigError`` for a kind without batches.
    """
    return PreparedKeys((rings,) if isinstance(rings, Keys) else rings, kind, use=use, provider=provider)


def prepare_smks(smks: Buffer, *, provider: str | None = None) -> PreparedKeys:
    """Set up the SMKs of many subscribers for LTKMs, 32 bytes each, one after the other: what :func:`prepare` does, in one call.

    ``ValueError`` when it is no whole number of them.
    """
    return PreparedKeys(_Smks(smks), "smartcard-ltkm", provider=provider)


# --- contents ---------------------------------------------------------------------------------------------------------


class Records:
    """What ``count`` messages of one kind say, as structures of the C core in one piece of memory.

    ``base``: the bytes that spans (``access_criteria``, ``idi``, ...) count from, shared by all messages; a span is a pair of
    columns, ``idi.offset`` and ``idi.length``.  ``buffer``: memory of the caller's to use instead of new memory, for example a
    structured NumPy array with the dtype ``numpy.dtype(Records.layout_of(kind))``; ``ValueError`` when it is no whole number of
    structures, ``count`` of them, or not aligned to 8 bytes.

    Holds keys in clear: ``wipe()`` when done.  Indexing gives the content of one message as its dataclass.
    """

    def __init__(self, kind: BatchKind, count: int | None = None, *, base: Buffer = b"", buffer: Buffer | None = None) -> None:
        shape = _shape(kind)
        self.kind: BatchKind = kind
        self._size: int = ffi.sizeof(shape.ctype)
        self._shape = shape
        self.base = base
        if buffer is None:
            if count is None or count < 0:
                raise ValueError("count: expected the number of messages")
            self._count = count
            self._memory = ffi.new("uint64_t[]", max(1, -(-count * self._size // 8)))
        else:
            self._memory = _view(buffer, "buffer")
            self._count = len(self._memory) // self._size
            if len(self._memory) % self._size or (count is not None and count != self._count):
                raise ValueError(
                    f"buffer: expected a whole number of {self._size}-byte structures, {len(self._memory)} bytes found"
                )
            if int(ffi.cast("uintptr_t", self._memory)) % 8:
                raise ValueError("buffer: its address is not a multiple of 8")
        self.pointer = ffi.cast(f"{shape.ctype} *", self._memory)
        self._bytes = ffi.cast("uint8_t *", self._memory)
        self.buffer = memoryview(ffi.buffer(self._bytes, self._count * self._size))
        if kind == "smartcard-stkm" and buffer is None:
            self.set("tek_id_length", 2)
        elif kind == "smartcard-ltkm" and buffer is None:
            self.set("interval_length", 4)
            self.set("key_data_type", SEK_KEY_TYPE)

    @staticmethod
    def layout_of(kind: BatchKind) -> dict[str, Any]:
        """The columns of a kind in the form that ``numpy.dtype`` takes."""
        shape, columns = _shape(kind), {name: m for name, m in _COLUMNS[kind].items() if "." in name or not _spans(kind, name)}
        return {
            "names": list(columns),
            "formats": [f"V{m.size}" if m.code[-1] == "s" else f"={m.code}" for m in columns.values()],
            "offsets": [m.offset for m in columns.values()],
            "itemsize": ffi.sizeof(shape.ctype),
        }

    @property
    def layout(self) -> dict[str, Any]:
        """As :meth:`layout_of`."""
        return self.layout_of(self.kind)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names that ``set``, ``get`` and ``column`` know: the members of the structure."""
        return tuple(_COLUMNS[self.kind])

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Records of {self._count} {self.kind}>"

    def _member(self, name: str) -> Member:
        try:
            return _COLUMNS[self.kind][name]
        except KeyError:
            raise ValueError(f"{self.kind} has no column {name!r}") from None

    def set(self, name: str, value: int | Secret | Buffer) -> None:
        """Fill a column: one value for all (a number, or bytes of the column's width), or a buffer with one for each message.

        ``ValueError`` for an unknown name, a number that does not fit, and a buffer of another size.
        """
        member = self._member(name)
        if isinstance(value, int):
            try:
                value = struct.pack(f"={member.code}", value)
            except struct.error:
                raise ValueError(f"{name}: {value!r} does not fit into {member.size} bytes") from None
        elif isinstance(value, Secret):
            value = value.reveal()
        source = _view(value, name)
        if len(source) not in (member.size, member.size * self._count):
            raise ValueError(
                f"{name}: expected {member.size} bytes, or {member.size} for each of {self._count}, found {len(source)}"
            )
        step = member.size if len(source) == member.size * self._count else 0
        lib.pybcast_column_set(self._bytes + member.offset, self._size, source, step, member.size, self._count)

    def get(self, name: str) -> bytes:
        """A column, its values one after the other."""
        member = self._member(name)
        out = ffi.new("uint8_t[]", max(1, member.size * self._count))
        lib.pybcast_column_get(out, self._bytes + member.offset, self._size, member.size, self._count)
        return bytes(ffi.buffer(out, member.size * self._count))

    def column(self, name: str) -> memoryview:
        """A column of numbers where it lies, to read and write by index or ``numpy.asarray``.  ``ValueError`` for bytes."""
        member = self._member(name)
        if member.code[-1] == "s" or self._size % member.size:
            raise ValueError(f"{name}: not a column of numbers")
        return _numbers(self.buffer, member, self._size)

    def put(self, i: int, content: Content, *, max_card_message: int = MAX_CARD_MESSAGE) -> None:
        """Write the content of one message; its variable parts are appended to ``base``, which must be a ``bytearray`` then.

        ``ValueError`` for what the structure cannot say (another class, a field of a wrong size, a ``layout`` of payloads).
        """
        at = range(self._count)[i] * self._size
        base = bytearray()
        try:
            fits = type(content) is self._shape.content and self._shape.pack(self.buffer, at, content, base, max_card_message)
        except _core._NOT_BUILT:
            fits = False
        if not fits:
            raise ValueError(f"item {i}: not what a {self._shape.ctype} can say")
        if base:
            if not isinstance(self.base, bytearray):
                raise ValueError(f"item {i}: its variable parts need a bytearray as base")
            self._shape.pack(self.buffer, at, content, self.base, max_card_message)

    def __getitem__(self, i: int) -> Any:
        return self._shape.unpack(self.buffer, range(self._count)[i] * self._size, memoryview(self.base).cast("B"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def wipe(self) -> None:
        """Overwrite everything with zeros.  (Columns given out by ``get`` are the caller's.)"""
        self.buffer[:] = bytes(len(self.buffer))


def _spans(kind: str, name: str) -> bool:
    """Whether a member is a structure whose own members are columns too."""
    return any(other.startswith(f"{name}.") for other in _COLUMNS[kind])


def _numbers(buffer: memoryview, member: Member, stride: int) -> memoryview:
    whole = buffer.cast("B").cast(member.code)  # type: ignore[call-overload]  # a code of ours
    found: memoryview = whole[member.offset // member.size :: stride // member.size]
    return found


# --- sealing ----------------------------------------------------------------------------------------------------------


class _Many:
    """What the results of both directions share: a status for each item."""

    def __init__(self, ctype: str, count: int, jobs: Any) -> None:
        self._ctype, self._jobs, self._count = ctype, jobs, count
        self.all_done = True

    def __len__(self) -> int:
        return self._count

    def _member(self, name: str) -> tuple[Member, int]:
        ctype = self._ctype.removesuffix("[]")
        return members(ctype)[name], ffi.sizeof(ctype)

    def _column(self, name: str) -> memoryview:
        member, size = self._member(name)
        return _numbers(memoryview(ffi.buffer(self._jobs, self._count * size)), member, size)

    def packed(self, name: str) -> Any:
        """A column of the jobs as 32-bit numbers without gaps: a copy."""
        member, size = self._member(name)
        out = ffi.new("uint32_t[]", max(1, self._count))
        at = ffi.cast("uint8_t *", self._jobs) + member.offset
        lib.pybcast_column_get(ffi.cast("uint8_t *", out), at, size, member.size, self._count)
        return ffi.buffer(out, 4 * self._count)

    @property
    def status(self) -> memoryview:
        """``enum bcast_status`` of each item, 32-bit numbers; 0: done."""
        return self._column("error.code")

    @property
    def failed(self) -> list[int]:
        """The indices of the items that were not done."""
        return [] if self.all_done else [i for i, code in enumerate(self.status) if code]

    def error(self, i: int) -> BcastError | None:
        """What was wrong with an item, ``None`` when it was done."""
        i = range(self._count)[i]
        return self._error(i) if self._jobs[i].error.code else None

    def _error(self, i: int) -> BcastError:
        raise NotImplementedError  # pragma: no cover - both directions have one


class SealedMany(_Many):
    """Sealed messages, one after the other in ``arena``.

    ``arena``: all of them, without gaps, as a ``memoryview``.  ``offsets``, ``lengths``, ``status``: 32-bit numbers, one for each
    item, where they lie.  ``sealed[i]``: the bytes of one message; raises what ``seal`` would have raised for it.
    """

    def __init__(
        self,
        shape: _Shape,
        records: Records,
        jobs: Any,
        ring: Callable[[int], Keys],
        messages: Sequence[Content] | None,
        limit: int,
    ) -> None:
        super().__init__(shape.seal_job, len(records), jobs)
        self._records, self._ring, self._messages, self._limit = records, ring, messages, limit
        self._elsewhere: dict[int, bytes | BcastError] = {}
        self._arena: Any = b""
        self.arena = memoryview(b"")

    def _fill(self, arena: Any, used: int) -> None:
        self._arena = arena
        self.arena = memoryview(ffi.buffer(arena, used)).toreadonly()

    @property
    def offsets(self) -> memoryview:
        """Where each message begins in ``arena``; meaningless for one that failed."""
        return self._column("offset")

    @property
    def lengths(self) -> memoryview:
        """Bytes of each message; 0 for one that failed."""
        return self._column("length")

    def __getitem__(self, i: int) -> bytes:
        i = range(self._count)[i]
        job = self._jobs[i]
        if job.error.code:
            raise self._error(i)
        if i in self._elsewhere:
            found = self._elsewhere[i]
            assert isinstance(found, bytes)
            return found
        return bytes(self.arena[job.offset : job.offset + job.length])

    def __iter__(self) -> Iterator[bytes]:
        if not self.all_done or self._elsewhere:
            return (self[i] for i in range(self._count))
        arena = self.arena.tobytes()
        return (arena[at : at + length] for at, length in zip(self.offsets, self.lengths, strict=True))

    def results(self) -> Iterator[bytes | BcastError]:
        """The bytes of each message, or what was wrong with it."""
        return iter(self) if self.all_done else (self.error(i) or self[i] for i in range(self._count))

    def _error(self, i: int) -> BcastError:
        found = self._elsewhere.get(i)
        if isinstance(found, BcastError):
            return found
        native = typed(ffi.addressof(self._jobs[i], "error"))

        def ask() -> bytes:
            content = self._records[i] if self._messages is None else self._messages[i]
            return reference.seal(content, self._ring(i), max_card_message=self._limit)

        try:
            return _core.seal_refusal(native, ask)
        except (ValueError, TypeError, IndexError):
            return native  # a record that says what no content can

    def put(self, i: int, result: bytes | BcastError) -> None:
        """Set what became of an item that the core does not build."""
        self._elsewhere[i] = result
        job = self._jobs[i]
        job.offset, job.length = _ELSEWHERE, 0 if isinstance(result, BcastError) else len(result)
        job.error.code = (
            int(getattr(Status, f"E_{result.code.upper()}", Status.E_BAD_VALUE)) if isinstance(result, BcastError) else 0
        )


def _which(which: Buffer | None, count: int) -> Any:
    if which is None:
        return ffi.NULL
    found = _view(which, "which")
    if len(found) != 4 * count:
        raise ValueError(f"which: expected {count} 32-bit numbers, found {len(found)} bytes")
    return ffi.cast("uint32_t *", ffi.from_buffer(which))


class _Lent:
    """Prepared keys for one call, and the ring of an item."""

    def __init__(
        self,
        keys: PreparedKeys | Keys | Sequence[Keys],
        kind: BatchKind,
        count: int,
        which: Buffer | None,
        use: Direction,
        provider: str | None,
    ) -> None:
        self.own = not isinstance(keys, PreparedKeys)
        self.keys = keys if isinstance(keys, PreparedKeys) else prepare(keys, kind, use=use, provider=provider)
        try:
            if self.keys.kind != kind:
                raise ConfigError(f"keys prepared for {self.keys.kind} do not serve {kind}")
            if which is None and len(self.keys) not in (1, count):
                raise ValueError(f"keys: expected 1 or {count} of them, or `which`, found {len(self.keys)}")
            self.which = _which(which, count)
            self._buffer = which
        except BaseException:
            self.done()
            raise

    def ring(self, i: int) -> Keys:
        at = self.which[i] if self.which != ffi.NULL else 0 if len(self.keys) == 1 else i
        return self.keys.rings[at]

    def without(self, items: list[int], count: int) -> Any:
        """``which`` for the core, with no keys for these items: they are not to be sealed by it."""
        if not items:
            return self.which
        every = range(count)
        chosen = list(self.which[0:count]) if self.which != ffi.NULL else [0] * count if len(self.keys) == 1 else list(every)
        for i in items:
            chosen[i] = _ELSEWHERE
        return ffi.new("uint32_t[]", chosen)

    def done(self) -> None:
        if self.own:
            self.keys.wipe()


def seal_many(
    messages: Records | Sequence[Content],
    keys: PreparedKeys | Keys | Sequence[Keys],
    *,
    which: Buffer | None = None,
    max_card_message: int = MAX_CARD_MESSAGE,
    provider: str | None = None,
) -> SealedMany:
    """Seal many messages of one kind: each item as :func:`pybcast.codec.seal` would, byte for byte.

    ``messages``: :class:`Records`, for speed, or contents as dataclasses.  ``keys``: :func:`prepare`\\ d ones, or key rings (set up
    for this call and wiped after it); one for all, or one for each message, or any number with ``which``, the index of the keys of
    each message, as 32-bit numbers.  ``max_card_message`` is for dataclasses; records have it in the column ``max_size``.
    ``provider``: evp or ipsec_mb, where the keys are not prepared yet.

    Nothing is raised for an item: see :class:`SealedMany`.  ``ValueError``, ``TypeError`` and ``ConfigError`` for arguments that do
    not go together, ``KeyUnavailable`` for key rings that lack a key or prepared keys that were wiped.
    """
    records, contents, elsewhere = _records(messages, keys, max_card_message)
    shape, count = records._shape, len(records)
    lent = _Lent(keys, records.kind, count, which, "seal", provider)
    try:
        jobs = ffi.new(shape.seal_job, max(1, count))
        result = SealedMany(shape, records, jobs, lent.ring, contents, max_card_message)
        contexts = lent.keys.take()
        worker = lent.keys.engine.take()
        try:
            _seal(shape, worker, contexts, lent.without(elsewhere, count), records, result)
        finally:
            lent.keys.engine.idle.append(worker)
            lent.keys.give(contexts)
        for i in elsewhere:
            result.put(i, _by_reference(messages[i], lent.ring(i), max_card_message))
        if elsewhere:
            result.all_done = not any(result.status)
    finally:
        lent.done()
        if contents is not None:
            records.wipe()
    return result


def _by_reference(message: Any, keys: Keys, limit: int) -> bytes | BcastError:
    try:
        return reference.seal(message, keys, max_card_message=limit)
    except BcastError as error:
        return error


def _records(messages: Any, keys: Any, limit: int) -> tuple[Records, Sequence[Content] | None, list[int]]:
    """Records, the contents they were made of, and the indices of those that the core does not build."""
    if isinstance(messages, Records):
        return messages, None, []
    if isinstance(keys, PreparedKeys):
        kind: BatchKind = keys.kind
    elif len(messages) and type(messages[0]) in _BY_CONTENT:
        kind = _BY_CONTENT[type(messages[0])]  # type: ignore[assignment]
    else:
        raise TypeError("messages: expected Records, or contents of one kind that has batches")
    records, elsewhere = Records(kind, len(messages), base=bytearray()), []
    size, shape, base = records._size, records._shape, records.base
    for i, message in enumerate(messages):
        if type(message) is not shape.content:
            raise TypeError(f"item {i}: expected a {shape.content.__name__}, found {type(message).__name__}")
        try:
            if shape.pack(records.buffer, i * size, message, base, limit):
                continue
        except _core._NOT_BUILT:
            pass
        elsewhere.append(i)
    return records, messages, elsewhere


def _seal(shape: _Shape, worker: Worker, contexts: Contexts, which: Any, records: Records, result: SealedMany) -> None:
    count, used = len(records), ffi.new("size_t *")
    base = _view(records.base, "base") if len(memoryview(records.base)) else ffi.NULL
    length = len(base) if base else 0
    shape.seal_jobs(result._jobs, count, records.pointer, contexts.place, contexts.count, which, base, length)
    room = max(1, count * shape.typical + length)
    arena = _ARENA("uint8_t[]", room)
    status = shape.seal(worker.provider, result._jobs, count, arena, room, used)
    if status == Status.E_SOME and Status.E_ROOM in result.status:
        # Longer than usual.  How long is told without touching a key; nothing that was sealed is kept.
        shape.seal(worker.provider, result._jobs, count, ffi.NULL, 0, used)
        room = max(1, used[0])
        arena = _ARENA("uint8_t[]", room)
        status = shape.seal(worker.provider, result._jobs, count, arena, room, used)
    result.all_done = _whole(status)
    result._fill(arena, used[0])


def _whole(status: int) -> bool:
    """Whether every item was done; raises when the call itself was refused."""
    if status not in (Status.OK, Status.E_SOME):
        raise typed(ffi.new("bcast_error *", {"code": status, "offset": NO_OFFSET}))
    return bool(status == Status.OK)


# --- opening ----------------------------------------------------------------------------------------------------------


class OpenedMany(_Many):
    """Opened messages.  ``records``: their contents as columns; ``opened[i]``: one as its dataclass, or what ``open`` would raise.

    Holds keys in clear: ``wipe()`` when done.
    """

    def __init__(self, shape: _Shape, records: Records, jobs: Any, ring: Callable[[int], Keys], lenient: Lenient) -> None:
        super().__init__(shape.open_job, len(records), jobs)
        self.records, self._ring, self._lenient = records, ring, lenient

    def _data(self, i: int) -> bytes:
        job = self._jobs[i]
        return bytes(ffi.buffer(job.data, job.data_length)) if job.data != ffi.NULL else b""

    def __getitem__(self, i: int) -> Any:
        i = range(self._count)[i]
        if self._jobs[i].error.code:
            raise self._error(i)
        data, record = self._data(i), self.records.pointer[i]
        if not getattr(record, "canonical", 1):
            return reference.open(data, self._ring(i), self.records.kind, lenient=self._lenient)
        return self.records._shape.unpack(self.records.buffer, i * self.records._size, data)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self._count))

    def _error(self, i: int) -> BcastError:
        native = typed(ffi.addressof(self._jobs[i], "error"))
        try:
            return _core.open_refusal(
                native, lambda: reference.open(self._data(i), self._ring(i), self.records.kind, lenient=self._lenient)
            )
        except IndexError:
            return native  # `which` names keys that are not there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def wipe(self) -> None:
        """Overwrite the contents with zeros."""
        self.records.wipe()


def open_many(
    data: SealedMany | Buffer | Sequence[bytes],
    keys: PreparedKeys | Keys | Sequence[Keys],
    kind: BatchKind,
    *,
    lengths: Buffer | None = None,
    offsets: Buffer | None = None,
    which: Buffer | None = None,
    lenient: Lenient = (),
    provider: str | None = None,
) -> OpenedMany:
    """Open many messages of one kind: each as :func:`pybcast.codec.open` would.

    ``data``: a buffer with the messages and their ``lengths`` (32-bit numbers), which stand one after the other, or at ``offsets``;
    or a list of byte strings; or what :func:`seal_many` gave.  The buffer is read where it lies, and must stay as it is as long as
    the result is used.  ``keys``, ``which``, ``provider`` as for :func:`seal_many`; a Smartcard STKM opens with the CSB ID of its
    own header, faster when the key ring has the same.

    Nothing is raised for an item: see :class:`OpenedMany`.  Replay and validity are the caller's: the counters are a column.
    """
    shape = _shape(kind)
    if isinstance(data, SealedMany):
        lengths, offsets, data = data.packed("length"), None, data.arena
    elif isinstance(data, list | tuple):
        lengths, data = struct.pack(f"={len(data)}I", *map(len, data)), b"".join(data)
    if lengths is None:
        raise ValueError("lengths: expected one for each message in the buffer")
    sizes, source = _view(lengths, "lengths"), _view(data, "data")
    if len(sizes) % 4 or (offsets is not None and len(_view(offsets, "offsets")) != len(sizes)):
        raise ValueError("lengths, offsets: expected as many 32-bit numbers in each")
    count = len(sizes) // 4
    lent = _Lent(keys, kind, count, which, "open", provider)
    try:
        records = Records(kind, count, base=data)
        jobs = ffi.new(shape.open_job, max(1, count))
        result = OpenedMany(shape, records, jobs, lent.ring, lenient)
        contexts = lent.keys.take()
        worker = lent.keys.engine.take()
        try:
            places = ffi.NULL if offsets is None else ffi.cast("uint32_t *", ffi.from_buffer(offsets))
            shape.open_jobs(
                jobs, count, records.pointer, contexts.place, contexts.count, lent.which, source, len(source), places,
                ffi.cast("uint32_t *", sizes), _core.lenient_bits(lenient),
            )  # fmt: skip
            status = shape.open(worker.provider, jobs, count)
        finally:
            lent.keys.engine.idle.append(worker)
            lent.keys.give(contexts)
    finally:
        lent.done()
    result.all_done = _whole(status)
    return result
