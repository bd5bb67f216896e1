# SPDX-License-Identifier: Apache-2.0
"""The broadcast channel: STKM sender, LTKM push and object carousel, SDP, captures, and the terminal's side of them."""
