# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, how it ends, and that nothing it reads makes it fall over."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast import codec
from pybcast.cli import bench, main, output
from pybcast.cli import input as reading
from pybcast.cli.keygen import ALL, NAMES
from pybcast.errors import ConfigError, WireError
from pybcast.keys import Keys
from pybcast.messages import KINDS, LENIENCIES, Kind

VECTORS: Final = Path(__file__).parents[1] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


NAMED: Final[dict[str, str]] = load("named.json")["messages"]
DRM: Final = load("drm_stkm.json")["vectors"]
SMARTCARD: Final = load("smartcard.json")
MORE: Final = load("more.json")
RSA: Final = MORE["test_rsa_keys"]

STKM_A: Final = NAMED["drm_stkm_A"]


def kind_of(name: str) -> Kind:
    if name.startswith("drm"):
        return "drm-ltkm" if name == "drm_bcro" else "drm-stkm"
    kinds: dict[str, Kind] = {"L": "smartcard-ltkm", "S": "smartcard-stkm", "V": "smartcard-verification"}
    return kinds[name[0]]


def answer(message: str) -> Kind:
    """A card's answer with an extension payload reports."""
    payloads: Any = codec.to_dict(codec.decode(bytes.fromhex(message), "mikey"))["payloads"]
    return "smartcard-reporting" if any("ext_type" in payload for payload in payloads) else "smartcard-verification"


@dataclass(frozen=True)
class Sample:
    """One message, and the key file that opens it."""

    kind: Kind
    message: str
    keys: dict[str, str]


SEALED: Final = [
    *(Sample("drm-stkm", v["message"], v["keys"]) for v in DRM[:8]),
    *(Sample("smartcard-stkm", v["message"], {n: v[n] for n in ("sek", "csb_id", "rand")}) for v in SMARTCARD["stkm"][:8]),
    *(Sample("smartcard-ltkm", v["message"], {"smk": v["smk"]}) for v in SMARTCARD["ltkm"][:8]),
    *(Sample("drm-ltkm", v["message"], {n: v[n] for n in ("iek", "riak") if v.get(n)}) for v in MORE["drm_ltkm"]),
    *(Sample("smartcard-parental", v["message"], {"smk": v["smk"]}) for v in MORE["parental"]),
    *(Sample(answer(v["message"]), v["message"], {n: v[n] for n in ("smk", "rand", "idi")}) for v in MORE["verification"]),
    *(
        Sample("smartcard-registration", v["message"], {n: v[n] for n in ("k", "opc", "impi")})
        for v in MORE["smartcard_registration"]
    ),
]
REGISTRATION: Final = [
    Sample("drm-registration", v["message"], {"device_key": RSA["device"], "rights_issuer_key": RSA["rights_issuer"]})
    for v in MORE["drm_registration"]
]
EVERY: Final = [*(Sample(kind_of(name), message, {}) for name, message in NAMED.items()), *SEALED, *REGISTRATION]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The one error that stands on standard error as JSON."""
        (line,) = self.err.splitlines()
        found = json.loads(line)["error"]
        assert list(found) == ["code", "offset", "field", "expected", "found"]
        assert isinstance(found, dict)
        return found


@contextmanager
def streams(stdin: bytes) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    kept = sys.stdin, sys.stdout, sys.stderr
    out, err = io.StringIO(), io.StringIO()
    sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(stdin)), out, err
    try:
        yield out, err
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept


def pybcast(*args: str | Path, stdin: bytes | str = b"") -> Done:
    """The command in this process, through the same entry as the installed script."""
    with streams(stdin.encode() if isinstance(stdin, str) else stdin) as (out, err):
        status = main([str(arg) for arg in args])
    return Done(status, out.getvalue(), err.getvalue())


def process(*args: str, stdin: bytes = b"", program: str | None = None) -> Done:
    """The command as a process of its own."""
    start = ["-m", "pybcast.cli"] if program is None else ["-c", program]
    done = subprocess.run([sys.executable, *start, *args], input=stdin, capture_output=True, check=False)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Of the first DRM STKM vector."""
    return write_keys(tmp_path, DRM[0]["keys"])


def write_keys(folder: Path, keys: dict[str, str]) -> Path:
    path = folder / "keys.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(keys))
    return path


# --- a process of its own --------------------------------------------------------------------------------------------


def test_statuses_of_the_process() -> None:
    assert process("decode", "drm-stkm", STKM_A, "--json").status == 0
    assert process("decode", "drm-stkm", STKM_A[:-2]).status == 1
    assert process("decode", "no-such-kind", STKM_A).status == 2
    assert process("kinds").status == 0


def test_bytes_through_a_pipe() -> None:
    done = process("decode", "drm-stkm", "-", "--json", stdin=bytes.fromhex(STKM_A))
    assert (done.status, done.err) == (0, "")
    assert done.objects == [codec.to_dict(codec.decode(bytes.fromhex(STKM_A), "drm-stkm"))]


def test_the_reader_goes_away() -> None:
    """``pybcast decode ... | head -1`` is quiet, and its status is no verdict on the messages."""
    lines = f"{STKM_A}\n".encode() * 5000  # more than a pipe holds
    with subprocess.Popen(
        [sys.executable, "-m", "pybcast.cli", "decode", "drm-stkm", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdin is not None and running.stdout is not None and running.stderr is not None
        running.stdin.write(lines)
        running.stdin.close()
        assert json.loads(running.stdout.readline())
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from pybcast.cli import main; sys.exit(main())"
    done = process("kinds", program=program)
    assert (done.status, done.out) == (2, "")
    assert "pip install '.[cli]' in pybcast's folder" in done.err
    assert len(done.err.splitlines()) == 1


def test_demo_without_the_extra() -> None:
    program = "import sys; sys.modules['av'] = sys.modules['pylibsrtp'] = None; from pybcast.cli import main; sys.exit(main())"
    done = process("demo", program=program)
    assert (done.status, done.out.strip()) == (2, "")
    assert "pip install '.[media]' in pybcast's folder" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    command = f"{sys.executable} -m pybcast.cli decode drm-stkm {STKM_A} --json {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ascii_terminal() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "pybcast.cli", "explain", "drm-stkm", STKM_A]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"traffic_key_lifetime" in done.stdout


# --- decode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", EVERY, ids=lambda s: s.kind)
def test_decode_prints_the_message(sample: Sample) -> None:
    done = pybcast("decode", sample.kind, sample.message, "--json")
    assert (done.status, done.err) == (0, "")
    assert done.objects == [codec.to_dict(codec.decode(bytes.fromhex(sample.message), sample.kind))]
    table = pybcast("decode", sample.kind, sample.message).out
    assert [leaf for leaf, _ in output.flat(done.objects[0]) if leaf not in table] == []


@pytest.mark.parametrize("name", ["raw", "hex", "lines"])
def test_every_way_in_is_the_same(tmp_path: Path, name: str) -> None:
    data = bytes.fromhex(STKM_A)
    content = {"raw": data, "hex": STKM_A.encode(), "lines": f"# a capture\r\n\r\n{STKM_A.upper()}  # STKM A\r\n".encode()}[name]
    path = tmp_path / name
    path.write_bytes(content)
    expected = pybcast("decode", "drm-stkm", STKM_A, "--json").out
    assert pybcast("decode", "drm-stkm", path, "--json").out == expected
    assert pybcast("decode", "drm-stkm", "-", "--json", stdin=content).out == expected
    assert pybcast("decode", "drm-stkm", "--json", stdin=content).out == expected


def test_form_is_not_guessed_when_said(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(STKM_A.encode())
    assert pybcast("decode", "drm-stkm", path, "--input", "hex").status == 0
    assert pybcast("decode", "drm-stkm", path, "--input", "raw").status == 1


def test_a_file_wins_over_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / STKM_A[:32]).write_bytes(bytes.fromhex(STKM_A))
    assert pybcast("decode", "drm-stkm", STKM_A[:32]).status == 0


def test_one_bad_message_among_good_ones() -> None:
    lines = f"{STKM_A}\n# next: cut, then not hexadecimal\n{STKM_A[:-2]}\nxyz\n{STKM_A}\n"
    done = pybcast("decode", "drm-stkm", "--json", stdin=lines)
    assert done.status == 1
    assert len(done.objects) == 2
    first, second = (json.loads(line) for line in done.err.splitlines())
    assert (first["line"], first["error"]["code"]) == (3, "truncated")
    assert (second["line"], second["error"]["code"]) == (4, "bad_value")
    text = pybcast("decode", "drm-stkm", stdin=lines)
    assert [line.split(":")[:2] for line in text.err.splitlines()] == [["pybcast", " line 3"], ["pybcast", " line 4"]]


@pytest.mark.parametrize("form", ["{}", "mikey {}", "key-mgmt:mikey {}", "a=key-mgmt:mikey {}", "A=KEY-MGMT: MIKEY  {}", " {} "])
def test_mikey_in_base64_is_taken_as_in_hexadecimal(form: str) -> None:
    """As a session description carries it (RFC 4567), as an argument and on standard input."""
    data = bytes.fromhex(NAMED["L1"])
    text = form.format(base64.b64encode(data).decode())
    plain = pybcast("decode", "mikey", NAMED["L1"], "--json")
    assert plain.status == 0
    for found in (pybcast("decode", "mikey", text, "--json"), pybcast("decode", "mikey", "--json", stdin=f"# x\n{text} # y\r\n")):
        assert (found.status, found.out) == (0, plain.out)
    assert pybcast("explain", "auto", text.replace("=\n", "")).status == 0
    unpadded = pybcast("decode", "mikey", text.strip().rstrip("="), "--json")
    assert (unpadded.status, unpadded.out) == (0, plain.out)


def test_mikey_in_base64_in_files_of_several_lines() -> None:
    first, second = (bytes.fromhex(NAMED[name]) for name in ("L1", "S1"))
    wrapped = base64.encodebytes(first).decode()
    assert wrapped.count("\n") > 1
    alone = pybcast("decode", "mikey", first.hex(), "--json")
    assert pybcast("decode", "mikey", "--json", stdin=wrapped) == alone
    both = "".join(f"{base64.b64encode(data).decode()}\n" for data in (first, second)) + first.hex() + "\n"
    assert len(pybcast("decode", "auto", "--json", stdin=both).objects) == 3


@pytest.mark.parametrize(
    "text",
    [
        "AQ",
        "AQAA=",
        "AQA",
        "AQ==",
        "AQAA====",
        "AQ AA",
        "AQ-_",
        "aqAA",
        "BQAA",
        "mikey",
        "a=key-mgmt:mikey",
        "a=key-mgmt:other AQAA",
    ],
)
def test_what_is_no_mikey_in_base64_ends_with_an_error(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pybcast("decode", "mikey", text).status in (1, 2)
    assert pybcast("decode", "mikey", stdin=text + "\n").status == 1
    assert pybcast("decode", "mikey", "--input", "hex", stdin=b"AQ\xff\n\xfe").status == 1


def test_an_error_says_where() -> None:
    done = pybcast("decode", "drm-stkm", STKM_A[:-2], "--json")
    assert (done.status, done.out) == (1, "")
    with pytest.raises(WireError) as caught:
        codec.decode(bytes.fromhex(STKM_A[:-2]), "drm-stkm")
    assert done.error == caught.value.as_dict()
    assert done.error["code"] == "truncated"
    text = pybcast("decode", "drm-stkm", STKM_A[:-2])
    assert text.err == f"pybcast: {caught.value}\n"


def test_leniency_must_be_named() -> None:
    assert pybcast("decode", "drm-stkm", STKM_A + "00").status == 1
    assert pybcast("decode", "drm-stkm", STKM_A + "00", "--lenient", "trailing-bytes").status == 0
    assert pybcast("decode", "drm-stkm", STKM_A, "--lenient", "everything").status == 2


def test_partial() -> None:
    partial = DRM[0]["partial"]
    done = pybcast("decode", "drm-stkm", partial, "--partial", "--json")
    assert done.status == 0
    assert done.objects[0]["traffic_key_material"] == DRM[0]["fields"]["traffic_key_material"]
    assert pybcast("decode", "drm-stkm", DRM[0]["message"], "--partial").status == 1


@pytest.mark.parametrize("sample", [*SEALED, *REGISTRATION], ids=lambda s: s.kind)
def test_decode_with_keys(sample: Sample, tmp_path: Path) -> None:
    done = pybcast("decode", sample.kind, sample.message, "--keys", write_keys(tmp_path, sample.keys), "--json")
    assert (done.status, done.err) == (0, "")
    (content,) = done.objects
    assert content.pop("verified") is True
    opened = codec.open(bytes.fromhex(sample.message), Keys.from_dict(sample.keys), sample.kind)
    assert content == codec.to_dict(opened)


def test_opened_content_is_the_vector_s(key_file: Path) -> None:
    done = pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", key_file, "--json")
    assert done.objects[0]["traffic_key_material"] == DRM[0]["fields"]["traffic_key_material"]


def test_wrong_keys(tmp_path: Path) -> None:
    keys = dict.fromkeys(DRM[0]["keys"], "00" * 16)
    done = pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", write_keys(tmp_path, keys), "--json")
    assert (done.status, done.out, done.error["code"]) == (1, "", "integrity")


def test_missing_keys(tmp_path: Path) -> None:
    done = pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", write_keys(tmp_path, {}), "--json")
    assert (done.status, done.out, done.error["code"]) == (1, "", "key_unavailable")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"sek": 5}',
        '{"sek": "%s00"}',
        '{"sek": "%s", "sek": "%s"}',
        '{"%s": "sek"}',
        '{"sek": "%sx"}',
        "[" * 100_000,
    ],
)
def test_bad_key_file_shows_no_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.touch(mode=0o600)
    digits = "c0ffee00c0ffee00c0ffee00c0ffee00"
    path.write_text(content.replace("%s", digits if '"%s": ' not in content else "x"))
    done = pybcast("decode", "drm-stkm", STKM_A, "--keys", path, "--json")
    assert (done.status, done.out, done.error["code"]) == (2, "", "config")
    assert "c0ffee" not in done.err


def test_key_file_that_others_can_read(key_file: Path) -> None:
    key_file.chmod(0o640)
    done = pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", key_file)
    assert done.status == 0
    assert done.err.startswith("pybcast: warning: ")
    assert "0640" in done.err
    assert json.loads(pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", key_file, "--json").err)["warning"]


def test_partial_is_for_stkms() -> None:
    assert pybcast("decode", "drm-ltkm", NAMED["drm_bcro"], "--partial").status == 2
    assert pybcast("explain", "mikey", NAMED["S1"], "--partial").status == 2


def test_keys_and_partial_exclude_each_other(key_file: Path) -> None:
    assert pybcast("decode", "drm-stkm", STKM_A, "--keys", key_file, "--partial").status == 2


# --- explain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", EVERY, ids=lambda s: s.kind)
def test_explain_every_byte(sample: Sample) -> None:
    data = bytes.fromhex(sample.message)
    done = pybcast("explain", sample.kind, sample.message, "--json")
    assert (done.status, done.err) == (0, "")
    (found,) = done.objects
    assert found["length"] == len(data)
    covered: set[int] = set()
    for row in found["rows"]:
        assert row["confidence"] in {"sure", "likely", "guess", "own"}
        assert bytes.fromhex(row["bytes"]) == data[row["offset"] : row["offset"] + row["length"]]
        covered.update(range(row["offset"], row["offset"] + row["length"]))
    assert covered == set(range(len(data)))
    table = pybcast("explain", sample.kind, sample.message).out
    assert [row["field"] for row in found["rows"] if row["field"] not in table] == []


def test_explain_up_to_the_fault() -> None:
    done = pybcast("explain", "drm-stkm", STKM_A[:-2], "--json")
    assert done.status == 1
    assert done.error["code"] == "truncated"
    fields = [row["field"] for row in done.objects[0]["rows"]]
    assert "traffic_key_lifetime" in fields
    assert done.error["field"] not in fields


# --- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", EVERY, ids=lambda s: s.kind)
def test_encode_gives_the_bytes_back(sample: Sample) -> None:
    decoded = pybcast("decode", sample.kind, sample.message, "--json").out
    done = pybcast("encode", sample.kind, "-", stdin=decoded)
    assert (done.status, done.out, done.err) == (0, f"{sample.message}\n", "")


@pytest.mark.parametrize("sample", SEALED, ids=lambda s: s.kind)
def test_sealing_gives_the_bytes_back(sample: Sample, tmp_path: Path) -> None:
    keys = write_keys(tmp_path, sample.keys)
    opened = pybcast("decode", sample.kind, sample.message, "--keys", keys, "--json").out
    done = pybcast("encode", sample.kind, "-", "--keys", keys, stdin=opened)
    assert (done.status, done.out, done.err) == (0, f"{sample.message}\n", "")


def test_several_messages(tmp_path: Path) -> None:
    messages = [v["message"] for v in DRM[:3]]
    decoded = pybcast("decode", "drm-stkm", "--json", stdin="\n".join(messages)).out
    assert pybcast("encode", "drm-stkm", "-", stdin=decoded).out.split() == messages
    assert pybcast("encode", "drm-stkm", "-", "--out", tmp_path / "x", stdin=decoded).status == 2


def test_out_is_whole_or_not_at_all(tmp_path: Path) -> None:
    decoded = pybcast("decode", "drm-stkm", STKM_A, "--json").out
    path = tmp_path / "stkm"
    done = pybcast("encode", "drm-stkm", "-", "--out", path, stdin=decoded)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert path.read_bytes() == bytes.fromhex(STKM_A)
    assert pybcast("encode", "drm-stkm", "-", "--out", path, stdin="{}").status == 1
    assert path.read_bytes() == bytes.fromhex(STKM_A)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stkm"]
    assert pybcast("encode", "drm-stkm", "-", "--out", tmp_path, stdin=decoded).status == 2
    assert pybcast("encode", "drm-stkm", "-", "--out", tmp_path / "no" / "x", stdin=decoded).status == 2
    assert pybcast("encode", "drm-stkm", "-", "--out", path, "--hex", stdin=decoded).status == 2


def test_a_partial_stkm_is_written_for_its_owner_only(tmp_path: Path) -> None:
    decoded = pybcast("decode", "drm-stkm", DRM[0]["partial"], "--partial", "--json").out
    path = tmp_path / "partial"
    assert pybcast("encode", "drm-stkm", "-", "--out", path, stdin=decoded).status == 0
    assert path.read_bytes().hex() == DRM[0]["partial"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        '{"kind": "drm-stkm"}',
        '{"a": 1, "a": 1}',
        '{"a": NaN}',
        "[" * 100_000,
        "\x00",
        "{}\n{}\n",
        "\ud800",
    ],
)
def test_encode_refuses(text: str) -> None:
    done = pybcast("encode", "drm-stkm", "-", "--json", stdin=text.encode("utf-8", "surrogatepass"))
    assert (done.status, done.out) == (1, "")
    assert done.err


def test_encode_names_the_field() -> None:
    fields = {**pybcast("decode", "drm-stkm", STKM_A, "--json").objects[0], "traffic_key_lifetime": 16}
    done = pybcast("encode", "drm-stkm", "-", "--json", stdin=json.dumps(fields))
    assert (done.status, done.error["field"]) == (1, "traffic_key_lifetime")


def test_encode_takes_the_form_that_fits_the_keys(tmp_path: Path) -> None:
    keys = write_keys(tmp_path, DRM[0]["keys"])
    sealed = pybcast("decode", "drm-stkm", DRM[0]["message"], "--json").out
    clear = pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", keys, "--json").out
    partial = pybcast("decode", "drm-stkm", DRM[0]["partial"], "--partial", "--json").out
    for content, args in ((clear, ()), (sealed, ("--keys", str(keys))), (partial, ("--keys", str(keys)))):
        done = pybcast("encode", "drm-stkm", "-", "--json", *args, stdin=content)
        assert (done.status, done.out, done.error["code"]) == (2, "", "config")
        assert DRM[0]["fields"]["traffic_key_material"] not in done.err


def test_kinds_must_agree() -> None:
    decoded = pybcast("decode", "drm-stkm", STKM_A, "--json").out
    assert pybcast("encode", "drm-ltkm", "-", stdin=decoded).status == 1


# --- the others ------------------------------------------------------------------------------------------------------


def test_kinds() -> None:
    done = pybcast("kinds", "--json")
    assert [row["kind"] for row in done.objects] == list(KINDS)
    assert all(row["specification"] and row["what"] for row in done.objects)
    assert all(kind in pybcast("kinds").out for kind in KINDS)


def test_info() -> None:
    (found,) = pybcast("info", "--json").objects
    assert found["kinds"] == list(KINDS)
    assert found["openssl"].startswith("OpenSSL") or found["openssl"]
    assert f"pybcast {found['pybcast']}\n" == pybcast("--version").out
    assert found["openssl"] in pybcast("info").out
    assert found["providers"][0] == "evp"
    assert bool(found["ipsec_mb"]) == ("ipsec_mb" in found["providers"])
    assert found["provider alone"] in found["providers"]
    assert found["provider of batches"] in found["providers"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["libbcast"])
    assert found["libcrypto"].startswith("3.") or found["libcrypto"]


QUICK: Final = ("--batch", "8", "--services", "3", "--rounds", "1", "--messages", "64")


def test_bench() -> None:
    rows = json.loads(pybcast("bench", "--json", "--provider", "evp", *QUICK).out)
    jobs = ["drm-stkm-seal", "drm-stkm-open", "smartcard-stkm-seal", "smartcard-stkm-open", "smartcard-ltkm-seal"]
    assert [row["job"] for row in rows] == jobs
    for row in rows:
        assert list(row) == [
            "job", "provider", "batch", "services", "threads", "ns_per_message", "floor_ns", "ratio_to_floor", "messages_per_s",
            "ratio_to_reference",
        ]  # fmt: skip
        assert (row["provider"], row["batch"], row["services"], row["threads"]) == ("evp", 8, 3, 1)
        assert row["ns_per_message"] > 0 < row["floor_ns"]
        assert row["ratio_to_reference"] > 0
    table = pybcast("bench", "--provider", "evp", "--threads", "2", *QUICK).out
    assert "ratio to floor" in table
    assert table.count("-seal") == 3


def test_bench_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "bench.svg"
    done = pybcast("bench", "--provider", "evp", "--plot", picture, *QUICK)
    assert (done.status, done.out) == (0, f"{picture}\n")
    assert b"<svg" in picture.read_bytes()
    assert "cannot be written" in pybcast("bench", "--provider", "evp", "--plot", tmp_path / "no" / "x.svg", *QUICK).err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="matplotlib"):
        bench.plot([], picture)


def test_bench_of_every_provider() -> None:
    rows = json.loads(pybcast("bench", "--json", *QUICK).out)
    assert {row["provider"] for row in rows} == set(pybcast("info", "--json").objects[0]["providers"])


@pytest.mark.parametrize("args", [["--provider", "abacus"], ["--batch", "0"], ["--threads", "65"], ["--services", "x"]])
def test_bench_refuses(args: list[str]) -> None:
    done = pybcast("bench", *args)
    assert (done.status, done.out) == (2, "")


def test_bench_tells_when_the_measurement_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="ended with status 1"):
        list(bench.measure("evp", rounds=1))


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (("statsu",), "status"), (("chekc",), "check"), (("bsm", "subscribr"), "subscriber"),
        (("bsm", "subscriber", "imprt"), "import"),
        (("bsda", "bakcup"), "backup"), (("bsm", "programme", "remov"), "remove"), (("air", "carosel"), "carousel"),
        (("decode", "drm-stmk", "00"), "drm-stkm"), (("explain", "smartcard_ltkm", "00"), "smartcard-ltkm"),
        (("encode", "micky", "-"), "mikey"), (("explain", "STKM", "00"), "stkm"), (("decode", "drm-bcro", "00"), ""),
        (("decode", "drm-stkm", "00", "--lenient", "mtk-id4"), "mtk-id-4"),
    ],
)  # fmt: skip
def test_a_word_that_is_like_one_of_ours(args: tuple[str, ...], near: str) -> None:
    done = pybcast(*args)
    assert done.status == 2
    assert re.search(rf"[Dd]id you mean '?{near}'?\?", done.err) if near else "choose from: drm-stkm" in done.err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"smk": "00"}', "smk: expected 32 bytes"), ('{"smk": "zz"}', "smk: "), ('{"smk": 5}', "smk: expected text"),
        ('{"smkk": "00"}', "unknown key name: 'smkk'; did you mean smk?"), ("[]", "not a JSON object"), ("{", "not JSON"),
        ('{"riak": "0"}', "riak: "), ('{"device_key": "PEM"}', "device_key: not an unencrypted"),
        ('{"idi": "a", "idi_hex": "61"}', "idi and idi_hex"),
        ('{"smk": "00", "smk": "00"}', "not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_key_file_names_the_file(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    path.chmod(0o600)
    done = pybcast("decode", "smartcard-ltkm", "00", "--keys", path)
    assert done.status == 2 and f"{path}: {why}" in done.err


def test_keygen_makes_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    done = pybcast("keygen", "--all", "--out", path)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = json.loads(path.read_text())
    assert set(made) == set(ALL)
    Keys.from_dict(made)
    assert set(NAMES) - set(ALL) == {"seak", "peak"}
    assert pybcast("decode", "drm-stkm", STKM_A, "--keys", path).status == 1  # it is read, and its keys are other ones


def test_keygen_is_random_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert pybcast("keygen", "seak", "--out", path).status == 0
    first = path.read_text()
    refused = pybcast("keygen", "seak", "--out", path)
    assert (refused.status, path.read_text()) == (2, first)
    assert "--force" in refused.err
    assert pybcast("keygen", "seak", "--out", path, "--force").status == 0
    assert path.read_text() != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("args", [[], ["nonesuch"], ["seak", "sek"], ["peak", "pas"], ["--all", "sek"]])
def test_keygen_refuses(args: list[str]) -> None:
    done = pybcast("keygen", *args)
    assert (done.status, done.out) == (2, "")


def test_made_keys_seal_and_open(tmp_path: Path, key_file: Path) -> None:
    """An engineer's first hour: keys, a message under them, and its content back."""
    content = pybcast("decode", "drm-stkm", DRM[0]["message"], "--keys", key_file, "--json").out
    mine = tmp_path / "mine.json"
    assert pybcast("keygen", *DRM[0]["keys"], "--out", mine).status == 0
    sealed = pybcast("encode", "drm-stkm", "-", "--keys", mine, stdin=content).out.strip()
    assert sealed != DRM[0]["message"]
    assert pybcast("decode", "drm-stkm", sealed, "--keys", mine, "--json").out == content
    assert pybcast("decode", "drm-stkm", sealed, "--keys", key_file).status == 1


@pytest.mark.parametrize("command", ["decode", "explain", "encode", "kinds", "keygen", "info", "bench", "demo"])
def test_help(command: str) -> None:
    done = pybcast(command, "--help")
    assert (done.status, done.err) == (0, "")
    assert command in pybcast("--help").out


@pytest.mark.parametrize("seconds", ["0", "3601", "nan", "inf", "x", "-1"])
def test_demo_takes_sane_lengths_only(seconds: str) -> None:
    assert pybcast("demo", "--seconds", seconds).status == 2


@pytest.mark.parametrize(
    "args",
    [
        ["decode"], ["decode", "drm-stkm", "no such file"], ["decode", "drm-stkm", "abc"], ["decode", "drm-stkm", "."],
        ["decode", "drm-stkm", STKM_A, "--keys", "/nonexistent"], ["decode", "drm-stkm", STKM_A, "--keys", "-"],
        ["decode", "drm-stkm", ""], ["decode", "drm-stkm", "a\0b"], ["decode", "drm-stkm", "f" * 5000 + "x"],
        ["encode", "drm-stkm", "/nonexistent"], ["encode", "drm-stkm"], ["nonesuch"], ["--nonesuch"], [],
        ["demo", "--profile", "radio"],
    ],
)  # fmt: skip
def test_usage(args: list[str]) -> None:
    done = pybcast(*args)
    assert done.status == 2
    assert done.err


# --- bounds and last resorts -----------------------------------------------------------------------------------------


def test_input_without_end() -> None:
    done = pybcast("decode", "drm-stkm", "/dev/zero", "--json")
    assert (done.status, done.error["code"]) == (2, "config")
    assert str(reading.MAX_INPUT) in str(done.error["found"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "read", interrupted)
    done = pybcast("decode", "drm-stkm", "-")
    assert (done.status, done.out, done.err) == (130, "", "")


def test_what_nobody_foresaw_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("c0ffee")

    monkeypatch.setattr(codec, "decode", broken)
    monkeypatch.delenv("PYBCAST_TRACEBACK", raising=False)
    done = pybcast("decode", "drm-stkm", STKM_A)
    assert done.status == 70
    assert "RuntimeError" in done.err
    assert "c0ffee" not in done.err
    assert len(done.err.splitlines()) == 1


def test_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "pybcast.cli", "kinds", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_message_does_not_steer_the_terminal() -> None:
    assert output.plain("\x1b[31mred\x07\n\u202e") == "\\x1b[31mred\\x07\\n\\u202e"


def test_flat() -> None:
    value = {"a": {"b": [1, {"c": None}], "d": []}, "e": True}
    assert list(output.flat(value)) == [("a.b[0]", 1), ("a.b[1].c", "absent"), ("a.d", "empty"), ("e", "yes")]


MESSAGES: Final = [bytes.fromhex(sample.message) for sample in EVERY]
mutated: Final = st.builds(
    lambda message, at, value, cut: (message[:at] + bytes([value]) + message[at + 1 :])[: len(message) - cut],
    st.sampled_from(MESSAGES),
    st.integers(0, 120),
    st.integers(0, 255),
    st.integers(0, 3),
)
inputs: Final = st.one_of(
    st.binary(max_size=300), mutated, mutated.map(lambda data: data.hex().encode() + b"\n"), st.text().map(str.encode)
)
switches: Final = st.lists(
    st.sampled_from(
        ["--json", "--partial", "--lenient", *LENIENCIES, "--input", "raw", "hex", "--keys", str(VECTORS / "kat.json")]
    ),
    max_size=4,
)


def ends_well(*args: str, stdin: bytes = b"") -> None:
    done = pybcast(*args, stdin=stdin)
    assert done.status in {0, 1, 2}, done.err
    assert "Traceback" not in done.err + done.out
    assert bool(done.err) == (done.status != 0)


@given(st.sampled_from(["decode", "explain"]), st.sampled_from(KINDS), inputs, switches)
def test_any_bytes(command: str, kind: str, data: bytes, args: list[str]) -> None:
    ends_well(command, kind, "-", *args, stdin=data)


json_values: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=20).map(bytes.hex),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


CONTENTS: Final[list[tuple[Kind, dict[str, Any]]]] = [
    *((sample.kind, codec.to_dict(codec.decode(bytes.fromhex(sample.message), sample.kind))) for sample in EVERY),
    *(
        (sample.kind, codec.to_dict(codec.open(bytes.fromhex(sample.message), Keys.from_dict(sample.keys), sample.kind)))
        for sample in (*SEALED, *REGISTRATION)
    ),
]


@pytest.fixture(scope="module")
def every_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    assert pybcast("keygen", "--all", "--out", path).status == 0
    path.write_text(json.dumps({**json.loads(path.read_text()), "impi": "a@b", "idi": "bsm"}))
    return path


@given(data=st.data())
def test_any_json(every_key: Path, data: st.DataObject) -> None:
    """A valid message or content with some fields replaced by anything, encoded or sealed."""
    kind, fields = data.draw(st.sampled_from(CONTENTS))
    args = ("--keys", str(every_key)) if data.draw(st.booleans()) else ()
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(fields)), json_values, max_size=2))
    extra = data.draw(st.dictionaries(st.text(max_size=5), json_values, max_size=1))
    ends_well("encode", kind, "-", "--json", *args, stdin=json.dumps({**fields, **changes, **extra}).encode())


@given(st.sampled_from(["decode", "explain", "encode", "kinds", "info"]), st.lists(st.text(max_size=12), max_size=4))
def test_any_words(command: str, words: list[str]) -> None:
    # A word that begins with - and abbreviates nothing is refused; files named by chance are only read.
    done = pybcast(command, *words)
    assert done.status in {0, 1, 2}, done.err
    assert "Traceback" not in done.err + done.out
