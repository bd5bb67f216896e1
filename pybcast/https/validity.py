# SPDX-License-Identifier: Apache-2.0
"""When the certificates in a file begin and end: so that an operator hears of it before peers refuse them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509

from pybcast.errors import ConfigError

MAX_FILE: Final = 16 << 20  # octets: thousands of authorities
WARN: Final = timedelta(days=30)  # before the end: time for an authority that is a department - confidence: own
Light = Literal["green", "yellow", "red"]


@dataclass(frozen=True)
class Validity:
    """When one file can be used.  ``key``: where it is named in the configuration."""

    key: str
    path: Path
    begins: datetime
    ends: datetime

    def light(self, now: datetime) -> Light:
        """Red outside of its time, yellow when it ends soon."""
        return "red" if not self.begins <= now < self.ends else "yellow" if self.ends - now < WARN else "green"

    def why(self, now: datetime) -> str:
        """What is to be said of it; nothing while all is well."""
        if now < self.begins:
            return f"{self.path}: begins only at {_shown(self.begins)}"
        if now >= self.ends:
            return f"{self.path}: ended at {_shown(self.ends)}"
        days = (self.ends - now).days
        return f"{self.path}: ends at {_shown(self.ends)}, in {days} days" if self.light(now) == "yellow" else ""

    @property
    def shown(self) -> str:
        """Its end, RFC 3339."""
        return _shown(self.ends)


def validity(path: Path, key: str, *, authority: bool = False) -> Validity:
    """Of a certificate with its chain: the time in which all hold.  Of authorities: that of the one which
    has begun and ends last.

    ``ConfigError`` names the file when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = x509.load_pem_x509_certificates(file.read(MAX_FILE))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: expected certificates in PEM") from None
    if authority:
        begun = [each for each in found if each.not_valid_before_utc <= now()] or found
        found = [max(begun, key=lambda each: each.not_valid_after_utc)]
    begins, ends = max(each.not_valid_before_utc for each in found), min(each.not_valid_after_utc for each in found)
    return Validity(key, path, begins, ends)


def now() -> datetime:
    return datetime.now(UTC)


def _shown(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
