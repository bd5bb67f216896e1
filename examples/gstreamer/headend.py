#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A GStreamer headend under the traffic keys of a BSD/A: H.264 in SRTP with MKI, the keys changed while it runs.

    headend.py --keys keys.sock --service urn:example:news --to 239.1.1.1:5004

``srtpenc`` takes ``key`` and ``mki`` while it plays, but one after the other, and a packet may come between the two: so both
are set where no packet can pass, in a probe on its sink pad.  A key that was named ahead is taken at its time, whoever is
dead then.  Needs python3-gi and the plugins base, good, bad (srtpenc) and ugly (x264enc).

``srtpenc`` 1.22 begins its rollover counter anew with each key, while receivers go on counting (RFC 3711): a stream must end
before its 65,536th packet.  The sequence numbers begin at 0, and the program ends there.  For streams without end use
``pybcast protect``.
"""

import argparse
import json
import signal
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402
from keylines import follow, ntp_now  # noqa: E402

LAST_PACKET = 65_535
HANDOVER = 0.5  # seconds after the end of a key's authority in which the next one's line may come
SOURCE = "videotestsrc is-live=true ! video/x-raw,format=I420,width=640,height=360,framerate=25/1"
ENCODER = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 bitrate=1000 threads=1 aud=false"


class Headend:
    def __init__(self, options):
        self.ready = threading.Event()  # the first key is there
        self.key = None  # what was said last: a dict, or None for "let nothing out"
        self.next = None  # the key that follows by itself at its start
        self.lock = threading.Lock()  # of these two
        self.in_use = None
        self.packets = self.dropped = self.changes = 0
        host, port = options.to.rsplit(":", 1)
        interface = f" multicast-iface={options.interface}" if options.interface else ""
        self.pipeline = Gst.parse_launch(
            f"{options.source} ! queue ! {options.encoder} ! video/x-h264,profile=baseline ! h264parse"
            " ! rtph264pay name=pay pt=96 config-interval=-1 seqnum-offset=0"
            " ! srtpenc name=srtp rtp-cipher=aes-128-icm rtp-auth=hmac-sha1-80"
            f" ! udpsink host={host} port={port} ttl-mc={options.ttl} auto-multicast=true buffer-size=4194304 sync=false{interface}"
        )
        self.srtp = self.pipeline.get_by_name("srtp")
        pad = self.pipeline.get_by_name("pay").get_static_pad("src").get_peer()  # srtpenc's
        pad.add_probe(Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST, self.before_packet)

    def told(self, said):
        with self.lock:
            if said["event"] == "NextKey" and said["protocol"] == "SRTP":
                self.next = said
            elif said["event"] == "UseKey" and said["protocol"] == "SRTP":
                self.key, self.next = said, None
                if not self.ready.is_set():
                    self.use(said)
                    self.ready.set()
            elif said["event"] == "StopTraffic":
                self.key = self.next = None

    def use(self, key):
        self.srtp.set_property("mki", Gst.Buffer.new_wrapped(bytes.fromhex(key["mki"])))
        self.srtp.set_property("key", Gst.Buffer.new_wrapped(bytes.fromhex(key["tek"] + key["salt"])))
        self.changes += self.in_use is not None and self.in_use["mki"] != key["mki"]
        self.in_use = key

    def before_packet(self, pad, info):
        """The one place where the key may change: no packet is in srtpenc now."""
        packets = info.get_buffer_list().length() if info.type & Gst.PadProbeType.BUFFER_LIST else 1
        with self.lock:
            if self.next and ntp_now() >= self.next["start"]:
                self.key, self.next = self.next, None
            key = self.key
        end = key and key["authority_end"]
        if key is None or (end is not None and ntp_now() >= end + HANDOVER):
            self.dropped += packets  # nothing may leave without authority
            return Gst.PadProbeReturn.DROP
        if self.packets + packets > LAST_PACKET:
            self.pipeline.get_bus().post(Gst.Message.new_application(self.pipeline, Gst.Structure.new_empty("wrap")))
            return Gst.PadProbeReturn.DROP
        if key["mki"] != self.in_use["mki"]:
            self.use(key)
        self.packets += packets
        return Gst.PadProbeReturn.OK


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", required=True, help="the BSD/A's key socket")
    parser.add_argument("--service", required=True)
    parser.add_argument("--stream", type=int, default=1)
    parser.add_argument("--to", required=True, help="HOST:PORT")
    parser.add_argument("--interface", default="", help="name of the interface, of multicast")
    parser.add_argument("--ttl", type=int, default=1, help="of multicast")
    parser.add_argument(
        "--source", default="videotestsrc is-live=true ! video/x-raw,format=I420,width=640,height=360,framerate=25/1"
    )
    parser.add_argument(
        "--encoder", default="x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 bitrate=1000 threads=1 aud=false"
    )
    Gst.init(None)
    options = parser.parse_args()
    headend = Headend(options)
    follow(options.keys, options.service, options.stream, headend.told)
    headend.ready.wait()
    loop, status = GLib.MainLoop(), 0

    def on_message(bus, message):
        nonlocal status
        if message.type == Gst.MessageType.ERROR:
            error, detail = message.parse_error()
            print(f"headend: {error.message}: {detail}", file=sys.stderr)
            status = 1
            loop.quit()
        elif message.type == Gst.MessageType.APPLICATION:
            print("headend: 65,535 packets: start again, with another SSRC", file=sys.stderr)
            loop.quit()
        elif message.type == Gst.MessageType.EOS:
            loop.quit()

    bus = headend.pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    for number in (signal.SIGTERM, signal.SIGINT):
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, headend.pipeline.send_event, Gst.Event.new_eos())
    headend.pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    headend.pipeline.set_state(Gst.State.NULL)
    print(json.dumps({"packets": headend.packets, "dropped": headend.dropped, "changes": headend.changes}), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
