# SPDX-License-Identifier: Apache-2.0
# The measurement of csrc/bench as an extension module.
from typing import Any

ffi: Any
lib: Any
