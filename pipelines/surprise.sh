#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# surprise.sh VIDEO MODEL [OUT.mp4 [LABELS]]
#
# Draws where a video surprises a model of videos: red patches over the picture, and the frame's score, given the
# frames before it, as a curve underneath. OUT.mp4 is surprise.mp4 if it is not given; OUT.ndjson beside it has a line
# a frame: bits per dimension, how many standard deviations that is above the usual (0 for the first eight frames, which
# only say what that is), and the patch that surprises most.
# With LABELS, a file of lines "surprising FIRST LAST" and "usual FIRST LAST" (frames from 0), the chance that a surprising
# frame costs more bits than a usual one is told: the area under the ROC curve. What was done in the video is read from
# VIDEO.actions.ndjson, if there is one.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 && $# -le 4 ]] || usage 2
need_elements openh264enc h264parse mp4mux
command -v watch-surprise >/dev/null || use_build
[[ $1 == *://* ]] || need_video "$1"
out=${3:-surprise.mp4}
labels=${4:-}
[[ -z $labels || -f $labels ]] || fail "there is no file $labels"
command -v watch-surprise >/dev/null || fail "watch-surprise is not built: ./pipelines/demo.sh builds what is needed"
need_ending mp4 "$out"
lines=${out%.*}.ndjson
begin_result "$lines" "$1" "$1.actions.ndjson" "$2" "$labels"
lines_part=$part
begin_result "$out" "$1" "$1.actions.ndjson" "$2" "$labels"
with_h264 watch-surprise "$1" "$2" "$part" >"$lines_part"
keep_results
echo "$out, $lines: $(wc -l <"$lines") frames"

# The area under the ROC curve of the bits per dimension in lines of JSON, $1, for the labels, $2.
area() {
  awk '
    FNR == NR && /^#|^$/ { next }
    FNR == NR && ($1 != "surprising" && $1 != "usual" || $2 !~ /^[0-9]+$/ || $3 !~ /^[0-9]+$/) {
      printf "line %d of the labels is not \"surprising FIRST LAST\" or \"usual FIRST LAST\": %s\n", FNR, $0 >"/dev/stderr"
      failed = 1
      exit 1
    }
    FNR == NR { for (i = $2; i <= $3; i++) label[i + 0] = $1; next }
    match($0, /"bits_per_dim": [-0-9.e]+/) {
      bits = substr($0, RSTART + 16, RLENGTH - 16) + 0
      frame = FNR - 1
      if (label[frame] == "surprising") high[++n] = bits
      if (label[frame] == "usual") low[++m] = bits
    }
    END {
      if (failed) exit 1
      if (!n || !m) { print "no surprising or no usual frame of the labels is in the video" >"/dev/stderr"; exit 1 }
      for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) sum += high[i] > low[j] ? 1 : high[i] == low[j] ? 0.5 : 0
      printf "area under the ROC curve: %.4f (%d surprising frames, %d usual ones)\n", sum / n / m, n, m
    }' "$2" "$1"
}
[[ -z $labels ]] || area "$lines" "$labels"
