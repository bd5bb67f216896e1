# SPDX-License-Identifier: Apache-2.0
"""What a key socket of pybcast says, for a program that knows nothing else of pybcast: one JSON object a line."""

import json
import os
import socket
import struct
import threading
import time

VERSION = 1  # of the lines, which the first one says; events and fields that are not known are passed over
NTP_UNIX = 2_208_988_800  # its times are NTP seconds: since 1900
RETRY = 0.2  # seconds until connecting again


def ntp_now():
    return time.time() + NTP_UNIX


def owner(connection):
    """The user who listens at the other end."""
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]


def follow(path, service, stream, told):
    """Call ``told`` with each line about one stream, in a thread of its own, for ever.

    What was told last holds while nobody is there.
    """

    def run():
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(path)
                    if owner(connection) not in (0, os.geteuid()):
                        raise OSError("another user listens there")
                    with connection.makefile("rb") as lines:
                        for line in lines:
                            said = json.loads(line)
                            if said.get("event") == "Keys" and said.get("version") != VERSION:
                                raise OSError("lines of another version")
                            if (said.get("service"), said.get("stream")) == (service, stream):
                                told(said)
            except (OSError, ValueError, RecursionError):
                pass  # nobody there, or gone in the middle of a line
            time.sleep(RETRY)

    threading.Thread(target=run, daemon=True).start()
