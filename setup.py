# SPDX-License-Identifier: Apache-2.0
"""Build hook: the C core.  Everything static is in pyproject.toml."""

import runpy

from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildCore(build_ext):
    """Looks before it compiles: what is missing is said in one line, with the package to install."""

    def run(self) -> None:
        line = runpy.run_path("pybcast/_native/build.py")["missing"]()
        if line is not None:
            raise SystemExit(f"pybcast: its C core cannot be built: {line}")
        super().run()


setup(
    cffi_modules=["pybcast/_native/build.py:ffibuilder", "pybcast/_native/build.py:benchmark"],
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
