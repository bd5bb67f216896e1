# SPDX-License-Identifier: Apache-2.0
"""The mark of tests that encode and play real video in real time."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "media: plays real video over loopback UDP, in real time")
