# SPDX-License-Identifier: Apache-2.0
"""The commands that read, explain and make messages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from pybcast import codec, wire
from pybcast.broadcast import flute_fields
from pybcast.captures.pcap import FLUTE, GROUPS, Hint, hint_of, identify
from pybcast.cli import input as reading
from pybcast.cli import output
from pybcast.cli.input import Form, Item
from pybcast.cli.status import BAD_MESSAGE, answering
from pybcast.errors import BadValue, BcastError, ConfigError, did_you_mean
from pybcast.keys import Keys
from pybcast.messages import (
    KINDS,
    LENIENCIES,
    ClearMessage,
    Kind,
    Leniency,
    Message,
    PartialDrmStkm,
    PartialSmartcardStkm,
    SmartcardRegistration,
)


def one_of(what: str, names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text[:40]!r} is not a {what}{did_you_mean(text, names)}; choose from: {', '.join(names)}")
        return text

    return parse


def starting(names: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


KindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        parser=one_of("kind", KINDS),
        autocompletion=starting(KINDS),
        help="What the message is; `pybcast kinds` lists them.",
        show_default=False,
    ),
]
KINDS_OR_GROUPS: Final = (*KINDS, *GROUPS)
KindOrGroupArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        parser=one_of("kind", KINDS_OR_GROUPS),
        autocompletion=starting(KINDS_OR_GROUPS),
        help="What the messages are; `pybcast kinds` lists them. Also stkm (either profile), ltkm (or registration), flute (FLUTE "
        "packets), auto (any: the first kind whose layout holds; in a file of `pybcast capture`, what it says).",
        show_default=False,
    ),
]
InputArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE|-|HEX",
        help="A file, - for standard input (the default), or one message in hexadecimal digits; a MIKEY message also in base64. "
        "A partial STKM holds keys in clear: it belongs in a file.",
        show_default=False,
    ),
]
FormOption = Annotated[
    Form,
    typer.Option(
        "--input",
        help="How the input is written. auto: pcap and pcapng (each UDP datagram is a message) are known by their first bytes, "
        "printable ASCII is hex (one message a line, blank lines and # comments ignored; also base64 of MIKEY, as "
        "a=key-mgmt:mikey has it), anything else is one raw message.",
    ),
]
PortOption = Annotated[
    list[int] | None,
    typer.Option(
        "--port", min=0, max=65535, help="Of a capture, only what was sent to this port; may be repeated.", show_default=False
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", metavar="FILE", help="Key file: a JSON object as `pybcast keygen` writes it.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")]
LenientOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lenient",
        metavar="NAME",
        parser=one_of("leniency", LENIENCIES),
        autocompletion=starting(LENIENCIES),
        help=f"Accept a departure from the layout; may be repeated: {', '.join(LENIENCIES)}.",
        show_default=False,
    ),
]
JsonArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="JSON as decode --json writes it: one message, or one a line.")]
HexOption = Annotated[bool, typer.Option("--hex", help="Hexadecimal digits on standard output, one message a line (the default).")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write to a file, whole or not at all.", show_default=False)
]
PartialOption = Annotated[bool, typer.Option("--partial", help="The message is a partial STKM, on its way from BSD/A to BSM.")]


def decode(
    kind: KindOrGroupArgument,
    message: InputArgument = None,
    keys: KeysOption = None,
    json: JsonOption = False,
    lenient: LenientOption = None,
    partial: PartialOption = False,
    form: FormOption = Form.auto,
    port: PortOption = None,
) -> None:
    """Show what a message says.

    Without keys: the fields as they stand on the wire. With --keys: MACs and signatures are checked, the keys inside are
    decrypted AND SHOWN, and "verified" is true.
    """
    with answering(as_json=json):
        _partial_exists(kind, partial)
        ring = _ring(keys, partial=partial, as_json=json)

        departures = cast(list[Leniency], lenient or [])

        def show(data: bytes, found_kind: Hint, item: Item) -> None:
            fields = _content(data, found_kind, ring, departures, partial=partial)
            if json:  # of a capture, what `encode` takes is "message"
                output.say_json({**item.where, "message": fields} if item.packet is not None else fields)
            else:
                output.table(("field", "value"), output.flat(fields), title=item.place)

        _each(message, form, port, kind, departures, show, as_json=json)


def _partial_exists(kind: str, partial: bool) -> None:
    if partial and (kind in GROUPS or not wire.KINDS[cast(Kind, kind)].partial):
        raise ConfigError(f"--partial: {kind} has no partial form")


def _ring(path: Path | None, *, partial: bool, as_json: bool) -> Keys | None:
    if path is None:
        return None
    if partial:
        raise ConfigError("--keys with --partial: a partial STKM is in clear, no key opens it")
    return reading.load_keys(path, as_json=as_json)


def _content(data: bytes, asked: Hint, ring: Keys | None, lenient: list[Leniency], *, partial: bool) -> dict[str, Any]:
    if asked == FLUTE:
        return {"kind": FLUTE, **flute_fields.fields(data)}
    kind = cast(Kind, asked)
    if ring is None:
        return codec.to_dict(codec.decode(data, kind, partial=partial, lenient=lenient))
    return {**codec.to_dict(codec.open(data, ring, kind, lenient=lenient)), "verified": True}


def _each(
    argument: str | None,
    form: Form,
    ports: list[int] | None,
    asked: str,
    lenient: list[Leniency],
    show: Callable[[bytes, Hint, Item], None],
    *,
    as_json: bool,
) -> None:
    """Show every message of an input; a bad one is reported with its place, and the next one follows.

    ``asked``: the kind, or a group of kinds; then the kind of each message is found, and a report names it.
    """
    bad = False
    for item in reading.messages(argument, form, ports or (), as_json=as_json):
        where, place = dict(item.where), item.place
        try:
            if isinstance(item.content, BcastError):
                raise item.content
            hint = hint_of(item.comment) if asked == "auto" else asked
            kind = identify(item.content, hint, lenient=lenient)[0] if hint in GROUPS else hint
            if asked in GROUPS:
                where["kind"], place = kind, f"{place}: {kind}" if place else kind
            show(item.content, kind, item)
        except ConfigError:
            raise
        except BcastError as error:
            output.report(error, as_json=as_json, where=where, place=place)
            bad = True
    if bad:
        sys.stdout.flush()
        raise typer.Exit(BAD_MESSAGE)


def explain(
    kind: KindOrGroupArgument,
    message: InputArgument = None,
    json: JsonOption = False,
    lenient: LenientOption = None,
    partial: PartialOption = False,
    form: FormOption = Form.auto,
    port: PortOption = None,
) -> None:
    """Show what each byte of a message means.

    One row for each field: where it stands, its bytes and value, what that means, and on what ground the layout is known: sure,
    likely, guess or own (chosen here). Of a bad message: the fields up to the fault, then the fault.
    """
    with answering(as_json=json):
        _partial_exists(kind, partial)

        departures = cast(list[Leniency], lenient or [])

        def show(data: bytes, found_kind: Hint, item: Item) -> None:
            if found_kind == FLUTE:
                found = flute_fields.explain(data)
            else:
                found = codec.explain(data, cast(Kind, found_kind), partial=partial, lenient=departures)
            rows = [(row, data[row.offset : row.offset + row.length].hex()) for row in found.rows]
            if json:
                output.say_json(
                    {
                        **(item.where if item.packet is not None else {}),
                        "kind": found_kind,
                        "length": len(data),
                        "rows": [
                            {
                                "offset": row.offset,
                                "length": row.length,
                                "bytes": digits,
                                "field": row.field,
                                "value": row.value,
                                "meaning": row.meaning,
                                "confidence": row.confidence.value,
                            }
                            for row, digits in rows
                        ],
                    }
                )
            else:
                output.table(
                    ("offset", "size", "bytes", "field", "value: meaning", "ground"),
                    (
                        (row.offset, row.length, _short(digits), row.field, _reading(row, digits), row.confidence)
                        for row, digits in rows
                    ),
                    title=item.place if kind not in GROUPS else " ".join((f"{found_kind}", *([item.place] if item.place else []))),
                    right=("offset", "size"),
                    whole=("bytes", "ground"),
                )
            if found.error is not None:
                raise found.error

        _each(message, form, port, kind, departures, show, as_json=json)


def _short(digits: str) -> str:
    """Eight bytes are enough for the eye; --json has them all."""
    return digits if len(digits) <= 16 else f"{digits[:14]}.."


def _reading(row: wire.Row, digits: str) -> str:
    """A value that is the bytes themselves is not said twice."""
    return row.meaning if row.value == digits else f"{row.value}: {row.meaning}"


def encode(
    kind: KindArgument,
    message: JsonArgument,
    keys: KeysOption = None,
    hex: HexOption = False,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Make the bytes of a message from JSON.

    Without keys: the fields as they stand on the wire. With --keys: the content in clear is encrypted and authenticated.
    """
    with answering(as_json=json):
        if hex and out is not None:
            raise ConfigError("--hex and --out exclude each other")
        ring = _ring(keys, partial=False, as_json=json)
        made: list[tuple[bytes, bool]] = []
        bad = False
        for line, fields in reading.json_messages(message):
            try:
                data, clear = _encoded(fields, cast(Kind, kind), ring)
            except ConfigError:
                raise
            except BcastError as error:
                output.report(
                    error,
                    as_json=json,
                    where=None if line is None else {"line": line},
                    place=None if line is None else f"line {line}",
                )
                bad = True
                continue
            made.append((data, clear))
            if out is None:
                output.say_json({"kind": kind, "message": data.hex()}) if json else output.say(data.hex())
        if bad:
            raise typer.Exit(BAD_MESSAGE)
        if out is not None:
            if len(made) != 1:
                raise ConfigError(f"--out holds one message, not {len(made)}")
            reading.write(out, made[0][0], secret=made[0][1])


def _encoded(fields: dict[str, Any], kind: Kind, ring: Keys | None) -> tuple[bytes, bool]:
    """The bytes of a message, and whether they hold keys in clear."""
    fields.pop("verified", None)  # decode's verdict on the bytes it read, not a field
    message = codec.from_dict({"kind": kind, **fields})
    if message.kind != kind:
        raise BadValue(None, "kind", kind, message.kind)
    partial = isinstance(message, PartialDrmStkm | PartialSmartcardStkm)
    if ring is None:
        if not isinstance(message, Message):
            raise ConfigError(f"the {kind} is content in clear: --keys seals it")
        return codec.encode(message), partial
    if partial:
        raise ConfigError(f"the {kind} is partial: only its BSM, which knows the policy, completes it")
    if not isinstance(message, ClearMessage | SmartcardRegistration):
        raise ConfigError(f"the {kind} is sealed already: without --keys it is written as it stands")
    return codec.seal(message, ring), False
