#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# surprise.sh VIDEO MODEL [OUT.mp4]
#
# Draws where a video surprises a model of videos: red patches over the picture, and the frame's score, given the
# frames before it, as a curve underneath. OUT.mp4 is surprise.mp4 if it is not given; OUT.ndjson beside it has a line
# a frame: bits per dimension, how many standard deviations that is above the usual, and the patch that surprises most.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 && $# -le 3 ]] || usage 2
need_elements avenc_mpeg4 mp4mux
command -v watch-surprise >/dev/null || use_build
[[ $1 == *://* || -f $1 ]] || fail "there is no file $1"
out=${3:-surprise.mp4}
command -v watch-surprise >/dev/null || fail "watch-surprise is not built: ./pipelines/demo.sh builds what is needed"
watch-surprise "$1" "$2" "$out" >"${out%.mp4}.ndjson"
echo "$out, ${out%.mp4}.ndjson: $(wc -l <"${out%.mp4}.ndjson") frames"
