# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: how hard property tests look, and what a missing tool means.

Hypothesis profiles: ``dev`` (default) and ``ci`` draw the same examples on every run, so that a red run is red for everyone;
``long`` (``PYBCAST_LONG=1``) draws new ones, ``PYBCAST_EXAMPLES`` for each test.  None has a deadline: that would be a timed test.

A test that drives another implementation says what it needs::

    @pytest.mark.requires_tool("tshark", package="tshark")
    @pytest.mark.requires_library("libsrtp2.so.1", package="libsrtp2-1")

It is skipped, and listed at the end, where that is missing; with ``CI=true`` a skipped test is a failed one, unless what it needs
does not exist for this Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections import Counter
from collections.abc import Generator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

IN_CI: Final = os.environ.get("CI", "").lower() == "true"
LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"

# too_slow measures the machine, not the test.
_COMMON: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("dev", _COMMON, max_examples=50, derandomize=True)
settings.register_profile("ci", _COMMON, max_examples=200, derandomize=True)
settings.register_profile("long", _COMMON, max_examples=int(os.environ.get("PYBCAST_EXAMPLES", "5000")))
settings.load_profile("long" if LONG else "ci" if IN_CI else "dev")

_PACKAGE: Final = "missing package"
_ELSEWHERE: Final = "exists for another Python only"


def _has_library(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def _core_dumps_stay_as_they_are() -> Generator[None]:
    """Commands that run in the tests' own process would switch core dumps off in it, and in every child, for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pybcast.coredumps.switch_off", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _databases_are_closed(request: pytest.FixtureRequest) -> Generator[None]:
    """Python 3.13 warns of each that a test of the store leaves open, long after the test."""
    if request.path.parent.name != "store":
        yield
        return
    from pybcast.errors import StoreError
    from pybcast.store import Database

    opened: list[Database] = []
    begin = Database.__init__

    def noted(self: Database, *values: Any, **named: Any) -> None:
        opened.append(self)
        begin(self, *values, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "__init__", noted)
        yield
    for database in opened:
        with contextlib.suppress(StoreError):
            database.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, present in (("requires_tool", lambda tool: shutil.which(tool) is not None), ("requires_library", _has_library)):
        for mark in item.iter_markers(name):
            need, package = mark.args[0], mark.kwargs["package"]
            if not present(need):
                item.user_properties.append((_PACKAGE, package))
                pytest.skip(f"needs {need}: install the package {package}")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if _ELSEWHERE in reason:
            return
        report.outcome = "failed"
        report.longrepr = f"{reason}\nCI=true: every test must run, a skipped one fails"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The closing list: which packages would let the skipped tests run."""
    skipped = terminalreporter.stats.get("skipped", [])
    packages = Counter(value for report in skipped for key, value in getattr(report, "user_properties", ()) if key == _PACKAGE)
    if not skipped:
        return
    terminalreporter.section("tests that did not run")
    for package, count in sorted(packages.items()):
        terminalreporter.line(f"{count} for want of the package {package}")
    if packages:
        terminalreporter.line(f"to run them: apt-get install {' '.join(sorted(packages))}   (or: .ci/setup interop core)")
    if others := len(skipped) - packages.total():
        terminalreporter.line(f"{others} for other reasons, each in the short summary")
