# SPDX-License-Identifier: Apache-2.0
"""The interaction channel: HTTPS between terminals and the BSM (F6 and the pull of LTKMs; rules R35, R36)."""

from pybcast.interaction.client import Fetched, InteractionClient
from pybcast.interaction.digest import Digest
from pybcast.interaction.errors import (
    BadAnswer,
    Forbidden,
    InteractionError,
    Limited,
    NotKnown,
    Refused,
    Unauthorised,
    Unavailable,
    Unreachable,
)

__all__ = [
    "BadAnswer", "Digest", "Fetched", "Forbidden", "InteractionClient", "InteractionError", "Limited", "NotKnown", "Refused",
    "Unauthorised", "Unavailable", "Unreachable",
]  # fmt: skip
