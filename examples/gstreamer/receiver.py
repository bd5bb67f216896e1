#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A GStreamer receiver under the traffic keys that a terminal obtained: SRTP with MKI in, pictures out.

    receiver.py --keys terminal.sock --service urn:example:news --from 239.1.1.1:5004

``srtpdec`` asks for keys (``request-key``) when a stream begins and is answered with all that the terminal holds, the next one too.
When the terminal tells of another key, the stream is taken from ``srtpdec`` (``remove-key``), so that it asks again; its rollover
counter is handed over, as it belongs to the stream and not to a key.  That is done in a probe on the sink pad, where no packet is
under way.  A stream that has wrapped before we tuned in does not tell its counter: up to 64 are tried, and again when packets come
and none opens any more, as after the loss of more than 32,767.  Needs python3-gi and the
plugins base, good, bad (srtpdec), and a decoder of H.264.
"""

import argparse
import json
import re
import signal
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402
from keylines import follow, ntp_now  # noqa: E402

MAX_KEYS = 16  # that srtpdec takes for a stream
ROC_TRIES = 64
PACKETS_OF_A_TRY = 2
LOST = 32  # packets in a row that do not open before the counter is looked for again
DECODERS = ("avdec_h264", "openh264dec")


class Receiver:
    def __init__(self, options):
        host, port = options.source.rsplit(":", 1)
        interface = f" multicast-iface={options.interface}" if options.interface else ""
        decoder = next((name for name in DECODERS if Gst.ElementFactory.find(name)), "decodebin")
        self.pipeline = Gst.parse_launch(
            f"udpsrc name=source address={host} port={port} auto-multicast=true buffer-size=4194304{interface}"
            ' caps="application/x-srtp,media=video,encoding-name=H264,clock-rate=90000,payload=96"'
            f" ! srtpdec name=srtp ! rtpjitterbuffer name=buffer latency={options.latency} ! rtph264depay ! h264parse ! {decoder}"
            f" ! identity name=frames ! {options.sink}"
        )
        self.srtp = self.pipeline.get_by_name("srtp")
        self.srtp.connect("request-key", self.on_request_key)
        self.pipeline.get_by_name("source").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self.before_packet)
        self.pipeline.get_by_name("buffer").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, self.after_packet)
        self.pipeline.get_by_name("frames").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self.count_frame)
        self.keys = {}  # MKI -> what the terminal said of it, the newest last
        self.changed = False
        self.lock = threading.Lock()
        self.positions = {}  # SSRC -> its rollover counter and last sequence number
        self.opened = set()  # SSRCs whose counter is known, as packets have opened
        self.tried = {}  # SSRC -> packets of searches
        self.unopened = {}  # SSRC -> packets that came since one has opened
        self.packets = self.frames = self.asked = 0

    def told(self, said):
        with self.lock:
            if said["event"] == "TekReady" and said["protocol"] == "SRTP":
                known = self.keys.pop(said["mki"], None)
                self.keys[said["mki"]] = said
                if known is not None and known["tek"] == said["tek"]:
                    return
                while len(self.keys) > MAX_KEYS:
                    del self.keys[next(iter(self.keys))]
                self.changed = True
            elif said["event"] == "TekExpired":
                self.changed |= self.keys.pop(said["mki"], None) is not None

    def before_packet(self, pad, info):
        """Hand over the keys when they have changed; no packet is in srtpdec now."""
        self.packets += 1
        with self.lock:
            for mki in [mki for mki, key in self.keys.items() if ntp_now() >= key["until"]]:
                del self.keys[mki]  # a terminal that died does not say it
                self.changed = True
            changed, self.changed = self.changed, False
        header = info.get_buffer().extract_dup(0, 12)
        if len(header) == 12:
            seq, ssrc = int.from_bytes(header[2:4], "big"), int.from_bytes(header[8:], "big")
            if changed:
                counters = self.counters()
                for known in counters:
                    self.srtp.emit("remove-key", known)
                for known, (_, last) in list(self.positions.items()):
                    if known in counters:
                        self.positions[known] = counters[known], last
            if ssrc in self.positions:
                roc, last = self.positions[ssrc]
                if changed:  # srtpdec takes the counter it is given for that of the very next packet
                    roc = max(0, roc + (last - seq > 0x8000) - (seq - last > 0x8000))
                self.positions[ssrc] = self.search(ssrc, roc), seq
            else:
                self.positions[ssrc] = 0, seq
        return Gst.PadProbeReturn.OK

    def search(self, ssrc, roc):
        """The counter to try for this packet, while none of the stream opens."""
        self.unopened[ssrc] = self.unopened.get(ssrc, 0) + 1
        if not self.keys:
            return roc
        if ssrc in self.opened:
            if self.unopened[ssrc] <= LOST:
                return roc
            self.opened.remove(ssrc)
            return self.counters().get(ssrc, roc)
        self.tried[ssrc] = self.tried.get(ssrc, 0) + 1
        if self.tried[ssrc] % PACKETS_OF_A_TRY:
            return roc
        self.srtp.emit("remove-key", ssrc)
        return (roc + 1) % ROC_TRIES

    def after_packet(self, pad, info):
        """A packet has opened."""
        ssrc = int.from_bytes(info.get_buffer().extract_dup(8, 4), "big")
        self.opened.add(ssrc)
        self.unopened[ssrc] = 0
        return Gst.PadProbeReturn.OK

    def counters(self):
        """SSRC -> rollover counter, of the streams that srtpdec has opened."""
        stats = self.srtp.get_property("stats").to_string().replace("\\", "")
        return {int(ssrc): int(roc) for ssrc, roc in re.findall(r"ssrc=\(uint\)(\d+), roc=\(uint\)(\d+)", stats)}

    def on_request_key(self, srtp, ssrc):
        with self.lock:
            keys = list(self.keys.values())[::-1]
        if not keys:
            return None
        self.asked += 1
        fields = ["srtp-cipher=aes-128-icm", "srtp-auth=hmac-sha1-80", "srtcp-cipher=aes-128-icm", "srtcp-auth=hmac-sha1-80"]
        fields.append(f"roc=(uint){self.positions.get(ssrc, (0, 0))[0]}")
        for number, key in enumerate(keys, 1):
            suffix = "" if number == 1 else str(number)
            fields += [f"srtp-key{suffix}=(buffer){key['tek']}{key['salt']}", f"mki{suffix}=(buffer){key['mki']}"]
        return Gst.Caps.from_string("application/x-srtp, " + ", ".join(fields))

    def count_frame(self, pad, info):
        self.frames += 1
        return Gst.PadProbeReturn.OK


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", required=True, help="the terminal's key socket")
    parser.add_argument("--service", required=True)
    parser.add_argument("--stream", type=int, default=1)
    parser.add_argument("--from", dest="source", required=True, help="HOST:PORT")
    parser.add_argument("--interface", default="", help="name of the interface, of multicast")
    parser.add_argument("--latency", type=int, default=100, help="milliseconds")
    parser.add_argument("--sink", default="videoconvert ! autovideosink")
    Gst.init(None)
    options = parser.parse_args()
    receiver = Receiver(options)
    follow(options.keys, options.service, options.stream, receiver.told)
    loop, status = GLib.MainLoop(), 0

    def on_message(bus, message):
        nonlocal status
        if message.type == Gst.MessageType.ERROR:
            error, detail = message.parse_error()
            print(f"receiver: {error.message}: {detail}", file=sys.stderr)
            status = 1
            loop.quit()
        elif message.type == Gst.MessageType.EOS:
            loop.quit()

    bus = receiver.pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    for number in (signal.SIGTERM, signal.SIGINT):
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, receiver.pipeline.send_event, Gst.Event.new_eos())
    receiver.pipeline.set_state(Gst.State.PLAYING)
    print("receiver: listening", file=sys.stderr, flush=True)
    loop.run()
    receiver.pipeline.set_state(Gst.State.NULL)
    print(json.dumps({"packets": receiver.packets, "frames": receiver.frames, "asked": receiver.asked}), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
