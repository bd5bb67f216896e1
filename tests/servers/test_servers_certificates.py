# SPDX-License-Identifier: Apache-2.0
"""Certificates that end: told 30 days before, refused by ``check`` and a reload, and renewed as the handbook says."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from servers_support import BSM_ID, System

from pybcast.backend import pki
from pybcast.cli import main
from pybcast.errors import ConfigError
from pybcast.https.validity import WARN, validity

NOW: Final = datetime.now(UTC)
DOCS: Final = Path(__file__).parents[2] / "docs" / "operating.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates by one authority: ``old``, ``early``, ``soon`` (10 days) and ``good``."""
    made = tmp_path_factory.mktemp("certificates")
    pki.init(made, {"good": BSM_ID})
    pki.issue(made, "old", BSM_ID, days=1, now=NOW - timedelta(days=30))
    pki.issue(made, "early", BSM_ID, now=NOW + timedelta(days=30))
    pki.issue(made, "soon", BSM_ID, days=10)
    return made


def joined(folder: Path, *names: str) -> Path:
    path = folder / "joined.pem"
    path.write_bytes(b"".join((folder / f"{name}.pem").read_bytes() for name in names))
    return path


def test_when_a_file_of_certificates_can_be_used(folder: Path) -> None:
    for name, light, why in (
        ("old", "red", "ended at"), ("early", "red", "begins only at"), ("soon", "yellow", "ends at"), ("good", "green", ""),
    ):  # fmt: skip
        found = validity(folder / f"{name}.pem", "tls.certificate")
        assert found.light(NOW) == light and why in found.why(NOW) and bool(why) == bool(found.why(NOW))
    for names, chain, authorities in (
        (("good", "old"), "red", "green"), (("old", "good"), "red", "green"), (("good", "soon"), "yellow", "green"),
        (("good", "early"), "red", "green"), (("soon", "old"), "red", "yellow"), (("old", "early"), "red", "red"),
    ):  # fmt: skip
        path = joined(folder, *names)
        assert validity(path, "k").light(NOW) == chain, "a chain holds while each of it does"
        assert validity(path, "k", authority=True).light(NOW) == authorities, "of authorities one is enough"
    good = validity(folder / "good.pem", "k")
    for before, light in ((WARN, "green"), (WARN - timedelta(seconds=1), "yellow"), (timedelta(0), "red")):
        assert good.light(good.ends - before) == light


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None]
)
def test_a_file_that_holds_no_certificate(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{path}: (expected certificates in PEM|No such file)"):
        validity(path, "k")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    for name, days, begun in (("old", 1, 30), ("early", 60, -30), ("soon", 10, 0)):
        pki.issue(tmp_path, name, BSM_ID, days=days, now=NOW - timedelta(days=begun))
    yield made
    made.close()


def use(system: System, name: str) -> None:
    """Put a certificate and its key in the place of the BSM's."""
    for end in (".pem", "-key.pem"):
        shutil.copy(system.folder / f"{name}{end}", system.folder / f"bsm{end}")


def test_check_refuses_and_warns(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(system.folder / "bsm.toml")
    shutil.copy(system.folder / "bsm.pem", system.folder / "first.pem")
    shutil.copy(system.folder / "bsm-key.pem", system.folder / "first-key.pem")
    for name, status, why in (
        ("old", 2, "ended at 20"), ("early", 2, "begins only at 20"), ("soon", 0, "warning: "), ("first", 0, ""),
    ):  # fmt: skip
        use(system, name)
        assert main(["check", config]) == status
        err = capsys.readouterr().err
        assert why in err and bool(err) == bool(why)
        assert not why or f"{config}: tls.certificate: {system.folder / 'bsm.pem'}: " in err


def test_a_running_server_says_so_and_takes_a_new_one(system: System) -> None:
    for end in (".pem", "-key.pem"):
        shutil.copy(system.folder / f"bsm{end}", system.folder / f"first{end}")
    use(system, "soon")
    system.start("bsm")
    bsm = system.running["bsm"]

    def alarm(code: str, active: bool) -> None:
        bsm.wait(lambda seen: any((e.get("code"), e.get("active")) == (code, active) for e in seen), code)

    def certificate() -> tuple[str, float, float]:
        (answer,) = system.shown("status", "bsm.toml")
        row = next(row for row in answer["certificates"] if row["certificate"] == "tls.certificate")
        return row["light"], row["days"], bsm.metrics()['pybcast_certificate_end_seconds{of="tls.certificate"}']

    alarm("certificate-ends", True)
    light, days, seconds = certificate()
    assert light == "yellow" and 9 < days <= 10 and 9 * 86400 < seconds <= 10 * 86400
    shown = system.command("status", "bsm.toml")[1]
    assert "tls.certificate ends 20" in shown and "alarm certificate-ends" in shown
    for name in ("old", "early"):
        mark = len(bsm.events)
        use(system, name)
        bsm.process.send_signal(signal.SIGHUP)
        seen = bsm.wait(lambda seen, mark=mark: any(e.get("event") == "not-reloaded" for e in seen[mark:]), name)  # type: ignore[misc]
        assert "tls.certificate" in next(e for e in seen[mark:] if e.get("event") == "not-reloaded")["why"]
        assert certificate()[0] == "yellow", "the old one stays in use"
    use(system, "first")
    bsm.process.send_signal(signal.SIGHUP)
    alarm("certificate-ends", False)
    assert certificate()[0] == "green" and certificate()[1] > 30
    system.kill("bsm")
    use(system, "old")
    system.start("bsm")  # its terminals and encoders have nothing to do with this certificate
    bsm = system.running["bsm"]
    alarm("certificate-ended", True)
    assert certificate()[0] == "red" and system.command("status", "bsm.toml")[0] == 1


def test_the_handbook_renews_one(system: System) -> None:
    """The commands of the document, for this folder and without its users."""
    section = DOCS.read_text("utf-8").partition("\n## Certificates\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.+?)```", section, re.DOTALL)
    use(system, "soon")
    system.start("bsm")
    bsm = system.running["bsm"]
    pki.issue(system.folder, "new-bsm", BSM_ID)
    commands = block.replace("/etc/pybcast/", f"{system.folder}/").replace(" -o root -g pybcast", "").splitlines()
    assert [words.split()[0] for words in commands] == ["install", "install", "pybcast", "systemctl"]
    for words in commands:
        if words == "systemctl reload pybcast-bsm":
            bsm.process.send_signal(signal.SIGHUP)
        elif words.startswith("pybcast "):
            assert main(words.split()[1:]) == 0
        else:
            subprocess.run(words.split(), cwd=system.folder, check=True, timeout=30)
    bsm.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload")
    (answer,) = system.shown("status", "bsm.toml")
    assert {row["light"] for row in answer["certificates"]} == {"green"}
    assert [row["file"] for row in answer["certificates"]] == ["bsm.pem", "ca.pem"]
