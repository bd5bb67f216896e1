# SPDX-License-Identifier: Apache-2.0
"""The terminal: it hears STKMs, LTKMs and registration material, and turns them into the traffic keys it is entitled to.

**What it is for.**  It is the receiving end, for tests, players and monitors.  What a key may open is decided by its card
(Smartcard Profile: ``card``) or DRM agent (DRM Profile: ``device``); the machine decides in which order they are asked, and
what is worth asking.

**The life of a reception** (``tables.RECEPTION``).  *Dark*: nothing can be opened.  *Collecting*: STKMs are heard and not
opened yet, for as long as a tune-in takes: the one of the running period goes first, for a card refuses an older one after a
newer (R6). *Playing*: a traffic key is held; it may be used until its lifetime ends (R42), whatever is heard.

**LTKMs and registration material** turn on a carousel (``objects``).  A whole cycle is collected before the card is asked, in
rising COUNTER (R7): in the order of reception a card would refuse good ones.

**What can go wrong.**  A key is missing: the STKM is kept, and tried again when LTKMs have come.  The clock is fast: no harm.
It is slow by d seconds: who plays goes on, who tunes in is dark for d seconds, as all that it hears lies in its future (R6).
The clock also decides dates of certificates, ends of rights and of SMKs: it is to be set from the network before anything is
believed.  Somebody floods it: what anyone can send costs a bounded amount of work per datagram, and of memory for good.
"""
