#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# FFmpeg as an encoder in front of `pybcast protect`, since its own SRTP has neither MKI nor changing keys: clear RTP on loopback.
#
#   encode.sh HOST:PORT INPUT...      INPUT as ffmpeg takes it: -re -i film.mp4, -f v4l2 -i /dev/video0, -re -f lavfi -i testsrc2
#
# RTP_OPTIONS: more for ffmpeg's RTP, such as "-ssrc 1".
# Packets have ffmpeg's own size, up to 1,472 bytes, to which protect adds 16; a network that loses IP fragments wants ?pkt_size=1456.
# SPS and PPS come before every key frame, so that anyone may tune in.
set -eu
to=$1
shift
exec ffmpeg -hide_banner -loglevel warning "$@" -an -pix_fmt yuv420p \
  -c:v libx264 -preset ultrafast -tune zerolatency -threads 1 -g 25 -b:v 1M -x264-params repeat-headers=1:annexb=1 \
  -payload_type 96 ${RTP_OPTIONS:-} -f rtp "rtp://$to" >/dev/null
