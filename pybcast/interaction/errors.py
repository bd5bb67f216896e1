# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a terminal and the BSM on the interaction channel, as a terminal sees it."""

from __future__ import annotations

from typing import ClassVar

from pybcast.errors import TransportError


class InteractionError(TransportError):
    """A request to the BSM that brought nothing.  None of its texts repeats what was sent or received."""

    code: ClassVar[str] = "interaction"


class Unreachable(InteractionError):
    """No connection, no TLS with it, or no whole answer in time: try again later."""

    code = "unreachable"


class BadAnswer(InteractionError):
    """An answer that is none of this interface: too long, of another type, or not the BSM's."""

    code = "bad_answer"


class Refused(InteractionError):
    """The BSM refused.  ``status``: of HTTP; ``problem``: its type (RFC 9457), or nothing."""

    code = "refused"

    def __init__(self, status: int, problem: str = "") -> None:
        self.status, self.problem = status, problem
        super().__init__(status, problem)

    def __str__(self) -> str:
        return f"HTTP {self.status}{f': {self.problem}' if self.problem else ''}"


class Unauthorised(Refused):
    """401: the certificate or the password is not known there, or not any more."""

    code = "unauthorised"


class Forbidden(Refused):
    """403: known, and without a right to this."""

    code = "forbidden"


class NotKnown(Refused):
    """404: no such service, stream or profile there."""

    code = "not_known"


class Limited(Refused):
    """429: too many requests.  ``retry_after``: seconds to wait."""

    code = "limited"

    def __init__(self, status: int, problem: str = "", retry_after: float = 1.0) -> None:
        super().__init__(status, problem)
        self.retry_after = retry_after


class Unavailable(Refused):
    """5xx: the BSM has no answer now: try again later."""

    code = "unavailable"
