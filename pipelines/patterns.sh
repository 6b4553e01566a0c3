#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# patterns.sh [MODEL [WIDTHxHEIGHT [OPTION of `normflow eval` ...]]]
#
# Pictures that look like no video, there and back: every pattern of videotestsrc and eight plain colours, two frames of
# each, of the model's size, or 64x64 pixels, if no size is given. Tells in how many frames and samples what came back
# differs.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
model=${1:-normflow-yuv420-32}
need_elements videotestsrc concat avenc_ffv1 matroskamux
command -v normflow >/dev/null || use_build
size=${2:-$(model_size "$model" 64x64)}
[[ $size =~ ^[0-9]+x[0-9]+$ ]] || usage 2
folder=$(mktemp -d)
leftovers+=("$folder")

sources=()
# Adds two frames of a videotestsrc with these properties.
add() {
  sources+=(videotestsrc num-buffers=2 "$@" !
    "video/x-raw,format=BGRx,width=${size%x*},height=${size#*x},framerate=10/1" ! c.)
}
for pattern in smpte snow black white red green blue checkers-1 checkers-2 checkers-4 checkers-8 circular blink smpte75 \
  zone-plate gamut chroma-zone-plate ball smpte100 bar pinwheel spokes gradient colors smpte-rp-219; do
  add pattern=$pattern
done
for color in 0xff808080 0xff646464 0xff00ff00 0xff123456 0xfff0e010 0xff00c0ff 0xffff00ff 0xff404040; do
  add pattern=solid-color foreground-color=$color
done
gst-launch-1.0 -q concat name=c ! avenc_ffv1 ! matroskamux ! filesink "location=$(quoted "$folder/patterns.mkv")" "${sources[@]}"
normflow eval --check -m "$model" "${@:3}" "$folder/patterns.mkv"
