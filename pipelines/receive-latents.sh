#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# receive-latents.sh HOST [PORT] [VIDEO.mkv]
#
# Takes latents from serve-latents.sh on HOST, port 5000 or PORT, and shows the video, or stores it without
# loss. Both sides need the same model.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 1 && $# -le 3 ]] || usage 2
need_elements gdpdepay tcpclientsrc
if [[ $# == 3 ]]; then
  need_elements avenc_ffv1
  need_ending mkv "$3"
  begin_result "$3"
  keep_what_comes
  sink=(avenc_ffv1 ! matroskamux ! filesink "location=$(quoted "$part")")
else
  sink=(videoconvert ! autovideosink sync=false)
fi

gst-launch-1.0 -e tcpclientsrc "host=$(quoted "$1")" "port=$(quoted "${2:-5000}")" ! gdpdepay ! flowdecode ! queue ! "${sink[@]}"
keep_results
