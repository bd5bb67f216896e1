# SPDX-License-Identifier: Apache-2.0
"""Where traffic keys leave the key system: the protection of the streams themselves."""

from pybcast.outlets.srtp import RolloverUnknown, SrtpProtector, SrtpUnprotector

__all__ = ["RolloverUnknown", "SrtpProtector", "SrtpUnprotector"]
