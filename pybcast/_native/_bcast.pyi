# SPDX-License-Identifier: Apache-2.0
# The extension module that cffi makes from bcast.h: its names are those of the header, and what they are only the compiler knows.
from typing import Any

ffi: Any
lib: Any
