#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# score-camera.sh [/dev/videoN|VIDEO] [THRESHOLD [HYSTERESIS]]
#
# Prints the mean score of each second of a camera's picture (/dev/video0 unless said otherwise) and tells when
# it goes over a threshold and when it is back: "normflow calibrate NORMAL.mp4" suggests both numbers. Frames
# that the model has no time for are dropped, not queued.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -le 3 ]] || usage 2
# shellcheck disable=SC2119 # none besides
need_elements
input=${1:-/dev/video0}
options=()
[[ -z ${2:-} ]] || options+=("threshold=$(quoted "$2")")
[[ -z ${3:-} ]] || options+=("threshold-hysteresis=$(quoted "$3")")
case $input in
  /dev/*)
    [[ -e $input ]] || fail "there is no camera $input"
    source=(v4l2src "device=$(quoted "$input")" ! queue leaky=downstream max-size-buffers=2)
    ;;
  *) set_source "$input" ;;
esac

# -m prints every message of the bus; two kinds are of interest here.
gst-launch-1.0 -m "${source[@]}" ! videoconvert ! flowencode message-interval=1000000000 smoothing-window=5 \
  "${options[@]}" ! fakesink \
  | sed -un 's/^Got message .*(element): \(flow-\(score\|anomaly\), .*\);$/\1/p' \
  | sed -u 's/([a-z0-9]*)//g'
