# SPDX-License-Identifier: Apache-2.0
"""Build hook.  Everything static is in pyproject.toml; the C core's ``cffi_modules=[...]`` will be named here."""

from setuptools import setup

setup()
