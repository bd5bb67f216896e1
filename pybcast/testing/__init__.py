# SPDX-License-Identifier: Apache-2.0
"""Test your own codec with ours: valid messages, broken messages, and what a parser owes for each.

Fuzzing other people's codecs with it is one of our uses.  Four parts, all public:

* ``corpus``: valid messages in bulk from a seed (:func:`corpus`, :func:`write_corpus`), no dependency.
* ``mutate``: :func:`mutate` damages bytes at random and fast; ``CATALOGUE`` holds mutations that break exactly one named rule
  each, with the error, field and offset a parser owes.
* ``strategies``: Hypothesis strategies for every kind (``pip install hypothesis``).
* a simulated card, terminal and link, for flows.

A parser of yours, here called ``parse``, that refuses with ``ValueError``:

>>> import random
>>> from pybcast.testing import CATALOGUE, NotApplicable, corpus, mutate
>>> def parse(data):                                 # put yours here
...     from pybcast.wire import decode
...     return decode(data, "drm-stkm")
>>> valid = list(corpus("drm-stkm", 50, seed=1))
>>> rng = random.Random(1)
>>> for data in valid:
...     _ = parse(data)                              # takes what is valid,
...     try:
...         _ = parse(mutate(data, rng))             # never fails but by refusing,
...     except ValueError:
...         pass
>>> accepted = []
>>> for mutation in CATALOGUE:
...     if mutation.kind == "drm-stkm" and not mutation.partial:
...         for data in filter(mutation.applies, valid):
...             try:
...                 _ = parse(mutation(data))        # and refuses what breaks one rule.
...             except ValueError:
...                 continue
...             accepted.append((mutation.name, mutation.rule))
>>> accepted
[]

``pybcast.testing`` imports without Hypothesis; touching ``pybcast.testing.strategies`` without it raises ``ConfigError``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from pybcast.testing.corpus import corpus, write_corpus
from pybcast.testing.mutate import CATALOGUE, Fault, Mutation, NotApplicable, mutate

if TYPE_CHECKING:
    from pybcast.testing import strategies as strategies

__all__ = ["CATALOGUE", "Fault", "Mutation", "NotApplicable", "corpus", "mutate", "write_corpus"]


def __getattr__(name: str) -> ModuleType:
    if name != "strategies":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("pybcast.testing.strategies")
