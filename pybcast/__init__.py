# SPDX-License-Identifier: Apache-2.0
"""pybcast: the open implementation of the OMA BCAST content-protection back end."""

__version__ = "0.1.0"
