# SPDX-License-Identifier: Apache-2.0
"""The broadcast channel: STKM sender, LTKM push and carousel, the link to the processes that send them, session descriptions,
captures, and the terminal's side of it.

Whatever is bound to the clock runs in a process of its own: a BSD/A at work would hold it back.
"""
