# SPDX-License-Identifier: Apache-2.0
"""The BSD/A (service distribution/adaptation): it plans the crypto periods of its streams, gets them sealed, and hands them to
the edge.

**What it is for.**  A stream is encrypted under one traffic key (TEK) for one crypto period after the other.  The BSD/A makes
the TEKs, has a STKM sealed for each period that carries the TEK to terminals, and gives both to the edge before they are
needed.  The edge puts the STKMs on air and gives the keys to the encoder at their time.  So the BSD/A works ahead, in batches,
and may die for as long as its plan reaches: nothing on air needs it.

**The life of a period** (``tables.PERIOD``).  What its states mean to an operator:

* *keyed*: the TEK is in the store (R41), and its STKM is still missing.
* *sealed*: its STKMs are in the store.  They can go to the edge, and nothing of them is on air yet.
* *handed out*: the edge has it.  Its COUNTER counts as used (R1, R45).  What it is there is ``tables.EDGE``.
* *kept aside*: the BSM asked that its key ends before it (R50).  It comes back, or is dropped when the next key is here.
* *missed*: its end passed and it was never sealed, or the edge refused it: an alarm says why.
* *over*: a later period is in use.

**Who seals.**  With F4 the BSM's keys are here and the BSD/A seals by itself (``here``); with F3 it sends the BSM the half of
each STKM that it owns, and checks what comes back (``bybsm``).  A stream changes from one to the other with a key, never
between two.

**One input.**  Every input says what happened and the time; the machine (``machine``) finds the streams that it concerns, and
those whose time has come.  Each of these does the same work, in this order (``stream``): prepare the periods that the plan
lacks, seal or ask for STKMs, hand out what is sealed, give up what is too late, ask for keys, forget what is over.  What
changed is stored, as one transaction, before anything leaves.

**Rules it holds.**  A TEK is stored before its STKM leaves (R41).  Nothing that is prepared changes but by R10 and R46.
Periods begin and end where keys and rights do (R9, R33).  A pair of headends makes the same periods, TEKs and STKMs (R33).
What the edge has is taken back only by a recall that the edge confirms (R46); the request that needs it is answered after that.

**What can go wrong.**

* *The BSM dies.*  With F4 nothing happens until the keys that are here end.  With F3 no new period is sealed: requests are
  repeated, the edge goes on to the end of its plan and says when less than three periods are left.  Then the key in use is held
  (R40), or traffic stops where its authority ends (R9).
* *A key is withdrawn at once* (R10).  The BSM sends its successor with ``replace``.  What was handed out for the new key's time
  is recalled; what the edge gives back is dropped, its COUNTERs are burnt, and it is sealed again under the new key.  What has
  begun its lead stays: then the BSM is told that it is too late (27).  In a pair the old key ends in two steps (R50,
  ``cutting``).
* *The clock is put back.*  Periods that nobody would have prepared yet are given up, with an alarm; keys of a time to come are
  forgotten, and their COUNTERs are not used again.  The edge holds the key in use until there is one for the time that it is
  now.
* *The store is lost, or an older one was put back.*  Nothing that was made before is used again (R33).  The edge goes on with
  its plan; the BSM is asked for fresh keys, and nothing is sealed under the old ones.  The stream has recovered when a key made
  since is in use.
* *The edge dies.*  The next one says that it has nothing, and is told everything again (``handing``).  Encoders keep their key.
* *A peer sends something wrong.*  It gets a status, nothing has moved, and its good neighbours in the same message are kept
  where the interface says so (F3's answer), else nothing of it is taken.
"""
