# SPDX-License-Identifier: Apache-2.0
"""The back-end interface between BSM and BSD/A."""
