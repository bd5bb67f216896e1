# SPDX-License-Identifier: Apache-2.0
"""Terminals as processes: a session description in, traffic keys and clear media out.  Needs the extra ``server``."""
