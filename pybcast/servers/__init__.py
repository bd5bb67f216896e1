# SPDX-License-Identifier: Apache-2.0
"""BSM and BSD/A as processes: flows, back end, store and clock wired together.

``config`` reads their files, ``runner`` carries out what a flow asks, ``daemon`` is the life of a process, ``bsm`` and ``bsda``
are what is different between the two.  Needs the extra ``server``.
"""
