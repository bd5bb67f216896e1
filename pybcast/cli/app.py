# SPDX-License-Identifier: Apache-2.0
"""The commands of ``pybcast``."""

from __future__ import annotations

import io
import json as jsonlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.backends import default_backend

import pybcast
from pybcast._native.engine import NAMES as PROVIDERS
from pybcast._native.engine import available, current, engine
from pybcast.cli import bench as bench_
from pybcast.cli import input as reading
from pybcast.cli import keygen as keymaking
from pybcast.cli import output, protect, seeing, servers, xfrm
from pybcast.cli.messages import JsonOption, OutOption, decode, encode, explain, one_of, starting
from pybcast.cli.status import INTERRUPTED, USAGE, answering, our_fault, output_failed
from pybcast.errors import ConfigError
from pybcast.messages import KINDS, Kind

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


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...",
        autocompletion=starting(keymaking.NAMES),
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
        parser=one_of("provider", PROVIDERS),
        autocompletion=starting(PROVIDERS),
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
        "--profile", metavar="NAME", parser=one_of("profile", PROFILES), help="Whose terminals watch: drm, smartcard, both."
    ),
]
FolderOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where pictures and captures go.")]
InProcessOption = Annotated[bool, typer.Option("--in-process", help="Only the flows, in this process: no servers.")]


def _version(wanted: bool) -> None:
    if wanted:
        output.say(f"pybcast {pybcast.__version__}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")]


@app.callback()
def options(version: VersionOption = False) -> None:
    """Options of every command."""


app.command()(decode)
app.command()(explain)
app.command()(encode)


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
