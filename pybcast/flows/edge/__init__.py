# SPDX-License-Identifier: Apache-2.0
"""The edge: executes the plans of a BSD/A, whether that lives or not (R44-R49).

A BSD/A decides ahead what is on air when, and hands it out as plans, batches of crypto periods of one stream.  The edge does what
a plan says at the time at which it says it: it puts the STKMs of a period on air when its lead begins (R6), counts their
repetitions, tells the encoder the next key after the third (R47), lets it switch at the start, takes the period before off the
air, and holds (R40) or stops (R9) when nothing follows.  It asks nobody.

One period walks through ``tables.EDGE``.  To an operator: *waiting* periods are what the stream lives on when the servers die;
*on air* ones are repeated and no encoder knows their key yet; a *ready* one is known to the encoder; one is *in use*, or *held*
past its end with an alarm until there is another; *stopped* means that the right to the key ended and nothing may leave (R9).

What can go wrong, and what it does then: a plan that does not fit what it has is refused whole, with a reason (R45).  A plan that
runs out is an alarm while there is still time (R49).  An edge that starts holds nothing and is told everything; until STKMs have
been on air three times again, encoders keep the key that they have (R48).  A clock that is set back makes leads of what is on air
lie ahead again: a recall takes that back too, and the key in use is held.

Keys are in memory only, in copies of the edge's own, wiped when they are used up or recalled (R48).  Without I/O: each input
returns the outputs to carry out in order.  Work for one period touches its stream alone.
"""
