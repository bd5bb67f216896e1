# SPDX-License-Identifier: Apache-2.0
"""JSON from outside: every place that reads some reads it here, so that what is nested too deep is an error like any other.

Python's reader follows nesting by recursion: what is nested a thousand deep raises ``RecursionError``, and what is nested a little
less is read and then breaks the first function that walks through it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from pybcast.errors import BadValue

MAX_DEPTH: Final = 64  # levels: eight times what the deepest message of ours has
TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"


def read(text: bytes | str, field: str = "", *, strict: bool = False) -> Any:
    """What a JSON text says.  ``BadValue`` at ``field`` for anything else; it names a place, never what stands there.

    ``strict``: for files that people write: a name twice in one object, and NaN or Infinity, are refused too.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant) if strict else json.loads(text)
    except RecursionError:
        raise BadValue(None, field, "JSON", TOO_DEEP) from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise BadValue(None, field, "JSON", f"{line}column {error.colno}: {error.msg}") from None
    except UnicodeError:
        raise BadValue(None, field, "JSON", "not UTF-8") from None
    except ValueError as error:  # of strict, and a number of thousands of digits
        found = str(error) if isinstance(error, _Refused) else "a number that is too long"
        raise BadValue(None, field, "JSON", found) from None
    return bounded(value, field)


def bounded(value: Any, field: str = "", most: int = MAX_DEPTH) -> Any:
    """The same value (of JSON, MessagePack, TOML).  ``BadValue`` when lists and objects in it are nested deeper than ``most``."""
    level = _nested([value])
    for _ in range(most):
        if not level:
            return value
        level = _nested(inner for item in level for inner in (item.values() if isinstance(item, dict) else item))
    if not level:
        return value
    raise BadValue(None, field, f"at most {most} levels", f"nested deeper than {most} levels")


def _nested(items: Iterable[Any]) -> list[Any]:
    return [item for item in items if isinstance(item, dict | list | tuple)]


class _Refused(ValueError):
    """What strict reading refuses."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise _Refused("a name occurs twice")
    return names


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is not JSON")
