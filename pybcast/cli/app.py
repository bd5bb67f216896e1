# SPDX-License-Identifier: Apache-2.0
"""The commands of ``pybcast``."""

from __future__ import annotations

import io
import json as jsonlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from cryptography.hazmat.backends import default_backend

import pybcast
from pybcast import codec, wire
from pybcast._native.engine import NAMES as PROVIDERS
from pybcast._native.engine import available, current, engine
from pybcast.broadcast import flute_fields
from pybcast.captures.pcap import FLUTE, GROUPS, Hint, hint_of, identify
from pybcast.cli import bench as bench_
from pybcast.cli import input as reading
from pybcast.cli import keygen as keymaking
from pybcast.cli import output, protect, seeing, servers, xfrm
from pybcast.cli.input import Form, Item
from pybcast.cli.status import BAD_MESSAGE, INTERRUPTED, USAGE, answering, our_fault, output_failed
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

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would print the values of local variables: keys
    rich_markup_mode=None,  # help texts hold [brackets]
    context_settings={"help_option_names": ["-h", "--help"]},
    help="OMA BCAST key messages: read, explain, make and check them.\n\n"
    "Exit status: 0 good; 1 the message is bad, or does not belong to the keys; 2 usage, files or configuration. "
    "Results go to standard output, errors and warnings to standard error; with --json each is one JSON object on a line.",
)

SPECIFICATION: Final[dict[Kind, tuple[str, str]]] = {
    "drm-stkm": ("drm-profile 1 (IEC 62455 KSM)", "short-term key message, DRM Profile: traffic key of one crypto period"),
    "drm-ltkm": ("drm-profile 2 (BCRO)", "long-term key message, DRM Profile: broadcast rights object with SEAK or PEAK"),
    "drm-registration": ("drm-profile 3, rules R22", "registration key material, DRM Profile: a device's or domain's keys"),
    "smartcard-stkm": ("smartcard-profile 4.4, 5.3 (RFC 3830, RFC 5410)", "short-term key message, Smartcard Profile: traffic key"),
    "smartcard-ltkm": ("smartcard-profile 4.4, 5.4 (TS 33.246)", "long-term key message, Smartcard Profile: SEK or PEK"),
    "smartcard-verification": ("smartcard-profile 4.4 (TS 33.246)", "a card's answer to a long-term key message"),
    "smartcard-reporting": ("smartcard-profile 5.5, rules R25", "the same with consumption reporting"),
    "smartcard-parental": ("smartcard-profile 5.5", "parental control message"),
    "smartcard-registration": ("smartcard-profile 9, rules R24", "registration push, Smartcard Profile: RAND and AUTN for a card"),
    "mikey": ("RFC 3830, RFC 4563", "any MIKEY message with a pre-shared key, payload by payload"),
}

PROFILES: Final = ("drm", "smartcard", "both")


def _one_of(what: str, names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text[:40]!r} is not a {what}{did_you_mean(text, names)}; choose from: {', '.join(names)}")
        return text

    return parse


def _starting(names: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


KindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        parser=_one_of("kind", KINDS),
        autocompletion=_starting(KINDS),
        help="What the message is; `pybcast kinds` lists them.",
        show_default=False,
    ),
]
KINDS_OR_GROUPS: Final = (*KINDS, *GROUPS)
KindOrGroupArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        parser=_one_of("kind", KINDS_OR_GROUPS),
        autocompletion=_starting(KINDS_OR_GROUPS),
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
        parser=_one_of("leniency", LENIENCIES),
        autocompletion=_starting(LENIENCIES),
        help=f"Accept a departure from the layout; may be repeated: {', '.join(LENIENCIES)}.",
        show_default=False,
    ),
]
JsonArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="JSON as decode --json writes it: one message, or one a line.")]
HexOption = Annotated[bool, typer.Option("--hex", help="Hexadecimal digits on standard output, one message a line (the default).")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write to a file, whole or not at all.", show_default=False)
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...",
        autocompletion=_starting(keymaking.NAMES),
        help=f"Names of keys: {', '.join(keymaking.NAMES)}.",
        show_default=False,
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them, with seak and peak as their halves.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file if it exists: its keys are gone.")]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        parser=_one_of("provider", PROVIDERS),
        autocompletion=_starting(PROVIDERS),
        help=f"One of {', '.join(PROVIDERS)}; all that are at hand by default.",
        show_default=False,
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", min=1, max=1 << 20, help="Messages a call; 1, 8, 64 and 1024 by default.", show_default=False),
]
ServicesOption = Annotated[
    int | None,
    typer.Option(
        "--services",
        min=1,
        max=bench_.MAX_SERVICES,
        help="Services or subscribers with keys of their own; 1 and 10000 by default.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, max=bench_.MAX_THREADS, help="Threads that work at once.")]
RoundsOption = Annotated[
    int | None,
    typer.Option("--rounds", min=1, max=1000, help="Rounds, the best of which counts; 9 by default.", show_default=False),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="Draw throughput against batch size and threads, instead (.png, .svg).", show_default=False
    ),
]
MessagesOption = Annotated[
    int | None, typer.Option("--messages", min=1, max=1 << 20, help="Messages a round; 10000 by default.", show_default=False)
]
SecondsOption = Annotated[float, typer.Option("--seconds", help="Length of the programme.")]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile", metavar="NAME", parser=_one_of("profile", PROFILES), help="Whose terminals watch: drm, smartcard, both."
    ),
]
FolderOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where pictures and captures go.")]
InProcessOption = Annotated[bool, typer.Option("--in-process", help="Only the flows, in this process: no servers.")]
PartialOption = Annotated[bool, typer.Option("--partial", help="The message is a partial STKM, on its way from BSD/A to BSM.")]


def _version(wanted: bool) -> None:
    if wanted:
        output.say(f"pybcast {pybcast.__version__}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")]


@app.callback()
def options(version: VersionOption = False) -> None:
    """Options of every command."""


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def kinds(json: JsonOption = False) -> None:
    """List the kinds of message."""
    with answering(as_json=json):
        if json:
            for kind in KINDS:
                specification, what = SPECIFICATION[kind]
                output.say_json({"kind": kind, "specification": specification, "what": what})
        else:
            output.table(("kind", "specification", "what"), ((kind, *SPECIFICATION[kind]) for kind in KINDS))


@app.command()
def keygen(names: NamesArgument = None, every: AllOption = False, out: OutOption = None, force: ForceOption = False) -> None:
    """Make random keys: a key file for --keys.

    On standard output, or with --out in a file that only its owner can read and that does not exist yet.
    """
    with answering(as_json=False):
        if every == bool(names):
            raise ConfigError("name the keys to make, or --all")
        made = jsonlib.dumps(keymaking.generate(keymaking.ALL if every else names or ()), indent=2)
        if out is None:
            output.say(made)
        else:
            reading.write(out, f"{made}\n".encode("ascii"), secret=True, overwrite=force)


@app.command()
def info(json: JsonOption = False) -> None:
    """Show versions and what is built in."""
    with answering(as_json=json):
        engines = [engine(name).information() for name in available()]
        facts = {
            "pybcast": pybcast.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(terse=True),
            "cryptography": version("cryptography"),
            "openssl": default_backend().openssl_version_text(),
            "construct": version("construct"),
            "libbcast": engines[0].version,
            "libcrypto": engines[0].libcrypto_version,
            "ipsec_mb": [f"{e.ipsec_mb_version} ({e.ipsec_mb_isa})" for e in engines if e.ipsec_mb_isa],
            "providers": [e.provider for e in engines],
            "provider alone": current().name,
            "provider of batches": current(batch=True).name,
            "kinds": list(KINDS),
        }
        if json:
            output.say_json(facts)
        else:
            output.table(
                ("what", "found"), ((name, ", ".join(v) or "none" if isinstance(v, list) else v) for name, v in facts.items())
            )


@app.command()
def bench(
    json: JsonOption = False,
    provider: ProviderOption = None,
    batch: BatchOption = None,
    services: ServicesOption = None,
    threads: ThreadsOption = 1,
    rounds: RoundsOption = None,
    messages: MessagesOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure the C core on this machine.

    Sealing and opening, beside the floor (the bare primitive calls of the same provider) and the reference. About half a minute.
    """
    with answering(as_json=json):
        if plot is not None:
            counts = sorted({1, 2, threads, os.cpu_count() or 1})
            found = list(bench_.measure(provider, batch, services, threads, rounds, messages))
            largest = max(row["batch"] for row in found)
            for count in counts:
                if count != threads:
                    found += bench_.measure(provider, largest, services or 10_000, count, rounds, messages)
            bench_.plot(found, plot)
            output.say(str(plot))
            return
        if json:
            rows = bench_.measure(provider, batch, services, threads, rounds, messages)
            output.say("[\n" + ",\n".join(jsonlib.dumps(row) for row in rows) + "\n]")
            return
        found = list(bench_.measure(provider, batch, services, threads, rounds, messages))
        heads = [name.replace("_", " ") for name in bench_.NAMES]
        output.table(heads, ([str(value) for value in row.values()] for row in found))


@app.command()
def demo(
    json: JsonOption = False,
    seconds: SecondsOption = 20,
    profile: ProfileOption = "both",
    out: FolderOption = Path("demo-out"),
    in_process: InProcessOption = False,
) -> None:
    """Run two services from keys to decrypted picture.

    BSM, BSD/A and terminals, all on this machine: both servers as processes that speak TLS; one of them is killed in between.
    """
    with answering(as_json=json):
        try:
            from pybcast.demo import run as run_demo

            status = run_demo(seconds=seconds, profile=profile, json=json, out=out, in_process=in_process)
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] == "pybcast":
                raise
            raise ConfigError(f"the demo needs {missing.name}: pip install '.[media,server]' in pybcast's folder") from None
        if status:
            raise typer.Exit(status)


servers.register(app)
protect.register(app)
seeing.register(app)
xfrm.register(app)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; give its exit status.  Raises nothing."""
    for name in ("stdout", "stderr"):  # Python has none where the shell closed it (>&-)
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())
    try:
        try:
            app(args=None if args is None else list(args), prog_name="pybcast")
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else USAGE if ended.code else 0
        else:
            status = 0
        sys.stdout.flush()
    except OSError as error:
        status = output_failed(error)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as fault:  # the last resort
        status = our_fault(fault)
    return status
