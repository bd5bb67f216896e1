# SPDX-License-Identifier: Apache-2.0
"""Session descriptions (RFC 8866) of a service: where its STKMs, LTKMs and protected media are, and which belong together.

Written and read: the attributes of RFC 5159; STKM streams as ``application/vnd.oma.bcast.stkm`` and, read only as they stand, as
their predecessor ``ipdc-ksm``; ISMACryp's fmtp names; FLUTE sessions as 3GPP TS 26.346 describes them; and, in attributes of our
own, what none of these has a name for (signalling 5.2-5.4).
confidence: own - attributes of session descriptions: x-bcast-service, -carousel-cycle, -interaction, -protection, -service-class

They are::

    a=x-bcast-service:URI                  GlobalServiceID; of one STKM stream where it stands below its m= line
    a=x-bcast-carousel-cycle:SECONDS       R7
    a=x-bcast-interaction:URL              base of the interaction channel (R35)
    a=x-bcast-protection:srtp 6            of a STKM stream: protocol and traffic_key_lifetime (R18)
    a=x-bcast-service-class:URN            of a FLUTE session: OMNA service class of what it carries

An attribute of media (these two, ``flute-tsi``, ``flute-ch``, those of SRTP) may stand in the session part, once for all of them;
one below an m= line holds in its place.  Blank lines are passed over.

``parse`` is total: a ``Description``, or a ``WireError`` whose field is ``line[N].a.NAME`` (N counts from 1) and whose offset is
that of the line.  What a description says once for all its media is put to each of them, so that ``parse(write(d)) == d`` while
``write(parse(text))`` is a normal form of the text.  What a description says is used, or refused, or stands in ``ignored`` with its
line and the reason: nothing is passed over in silence.  A medium that asks for what is not supported is ignored alone.  Attributes
that are not known are kept in ``other`` as well.
"""

from pybcast.sdp.ismacryp import Ismacryp, Parameters
from pybcast.sdp.model import (
    KMSTYPE_NAMES,
    KMSTYPES,
    LTKM_PORT,
    MAX_TEXT,
    SERVICE_CLASS,
    Description,
    Endpoint,
    FluteSession,
    Ignored,
    Media,
    StkmStream,
)
from pybcast.sdp.reading import parse
from pybcast.sdp.writing import write

__all__ = [
    "KMSTYPES", "KMSTYPE_NAMES", "LTKM_PORT", "MAX_TEXT", "SERVICE_CLASS", "Description", "Endpoint", "FluteSession", "Ignored",
    "Ismacryp", "Media", "Parameters", "StkmStream", "parse", "write",
]  # fmt: skip
