# SPDX-License-Identifier: Apache-2.0
"""The BSM (subscription management): it knows who may see what, makes the long-term keys, and gets them to those people alone.

**What it is for.**  Traffic keys reach terminals in STKMs, and a STKM opens only under a long-term key: a SEK on a card, a SEAK
or a programme's PEAK in a device.  The BSM makes these keys, one after the other for each stream, and an LTKM of each for
everyone who has a right to it.  The BSD/As broadcast the LTKMs and put the STKMs on air.  Who seals the STKMs is a choice: the
BSM, out of halves that a BSD/A sends (F3), or the BSD/A, with the key that the BSM gives it (F4).

**The life of a long-term key** (``tables.KEY``).  What its states mean to an operator:

* *created*: only within the input that makes it.
* *issued*: its LTKMs go out and the BSD/As are told of it; nothing on air needs it yet.  Groups of devices get theirs at once,
  cards a thousand at a time (``issuing`` says how far that is).  Who is granted a right later gets the LTKMs of every key that
  has not ended.
* *on air*: its time has begun.
* *ended*: nothing on air needs it, so a card may lose it.  That is a period after its end.  Of a key that was cut short it is
  when every BSD/A knows of the next one and what was prepared before has run out; else after the end that was told first.  Ten
  periods later the key is forgotten.

A card keeps two keys of a stream, so the next one is not made before the last but one has *ended*.

**One input.**  Commands, ``receive`` and ``tick`` say what happened and the time.  The machine (``machine``) finds the streams
that the input is about, and those whose time has come.  Each of them does the same work, in this order (``stream``): keys
begin, end and are forgotten (``keychain``); the next keys are made (``rollover``), where R50 asks for it after both BSD/As have
agreed (``attempts``); programmes that wait get theirs (``programmes``); BSD/As are told of keys or windows, and asked where
delivery is pulled.  Then LTKMs go out, a few pages at a time (``delivery``).  What would take long, LTKMs for everyone, is done
by ``tick`` alone, in short goes: no request waits for it.  What changed is stored, as one transaction, before anything leaves.

**Where the rest is.**  ``stkms``: STKMs that are sealed here, or come from the BSD/A, for terminals that fetch them.
``members``: subscribers and rights.  ``ltkm``: LTKMs as they are made.  ``pages``: LTKMs that turn on the carousel together.
``registration``: what a new subscriber gets first (F1).

**Rules it holds.**

* A key belongs to one stream and to one kind of sealer, for good; every STKM that is sealed here goes through the allocator
  (R1).
* COUNTERs and key numbers only rise, and are stored before they are used (R2).
* A right begins and ends with keys and windows: nothing is sealed across such an edge, and the BSD/A is told where it is (R9,
  R32).
* LTKMs for cards are made again every five turns of the carousel, more rarely where there are very many: each has a new
  COUNTER, so that a lost one is healed (R7).
* Withdrawn is who does not get the next key.  His card is told (R3), but what counts is that key (R10).
* Both profiles of a stream change key at the same time (R38).
* A STKM that is refused has moved nothing.  In F3 each has a status of its own; a delivery (F6) is taken whole or not (R27).

**What can go wrong.**

* *A key is withdrawn at once* (R10).  The next one is made for the first start of a period that LTKMs can reach everyone before
  (``rekey_lead``), unless the old one ends before that by itself.  It ends the old one there: STKMs that were sealed for later
  are given to nobody, and their COUNTERs are burnt.  The BSD/As hear of it with ``replace``.  Where two keys live already, it
  waits until the older one has ended.
* *A pair would seal on under the old key* (R50).  With F3 the new key begins after all that was sealed here.  With F4, and
  after a restore, both BSD/As must first confirm that they seal nothing from then on.  If one does not, the old key goes on,
  the alarm ``key-waits`` names that one, and the attempt is made again when both know.  ``rekey --without`` goes on without one
  that is off air.
* *A BSD/A is dead.*  Requests are repeated under the same messageID until nobody needs the answer.  Pages of LTKMs wait in the
  store.  The other BSD/A of the pair is not held up, but for R50.
* *A BSD/A lost its store* (R33).  It says so when it asks for keys.  No key of the service that it can have sealed under is
  given to it again; new ones are made as if these were withdrawn at once, and until then it hears that they come later.
* *A BSD/A refuses a key or a window.*  An alarm says why, and it is offered again ten seconds later.
* *The BSM dies.*  It goes on from its store: LTKMs for everyone where they had come to, pages that a BSD/A has not confirmed
  under the same messageIDs.  Keys that a BSD/A has not confirmed are offered to it again.  COUNTERs and key numbers that can
  have been used since the last commit are passed over (R51).  Nothing on air needs it until a BSD/A has used up what was sealed
  (F3) or the keys that it has (F4).
* *An older store was put back* (R2, R51).  COUNTERs and key numbers jump, and every stream gets new keys as if they were
  withdrawn at once.  What the lost store can have sealed is not sealed again, nor given to terminals.  The alarm ``restored``
  stands until a key that this store did not have is in force.
* *The clock was put back.*  The process makes the machine anew.  Keys of a time that nobody would have made yet are forgotten,
  with an alarm, and the next ones have numbers of their own.
* *Its clock is more than a period ahead of a headend's.*  It takes a key for ended that this one still has on air, and makes the
  one after the next: a card that gets it may lose the one on air.  Keep the servers' clocks within a period of each other.
* *The clock was put forward.*  The store may be that much older than it seems, so what can have been used in that time is
  passed over (R51).
* *An LTKM or a STKM cannot be made*, as a date after 2038 in the DRM Profile (R15).  An alarm or a status says so; the others
  go on.
"""
