#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# serve-latents.sh VIDEO|/dev/videoN [PORT]
#
# Encodes a video, in real time, or a camera, and offers the latents to any number of receive-latents.sh on
# port 5000, or PORT. A receiver may join at any time. The network carries 4 bytes a sample, four times
# the video itself: this is a representation, not compression.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 1 && $# -le 2 ]] || usage 2
need_elements gdppay tcpserversink
# A camera must never wait, a file must not run ahead of its clock.
case $1 in
  /dev/*) source=(v4l2src "device=$(quoted "$1")" ! queue leaky=downstream max-size-buffers=2) ;;
  *)
    set_source "$1"
    source+=(! clocksync)
    ;;
esac

gst-launch-1.0 "${source[@]}" ! videoconvert ! flowencode post-messages=false ! video/x-flow-latent ! gdppay \
  ! tcpserversink host=0.0.0.0 "port=$(quoted "${2:-5000}")" recover-policy=keyframe sync-method=latest-keyframe
