#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# decode-file.sh LATENTS.gdp [VIDEO.mkv]
#
# Makes video from latents that encode-to-file.sh stored: into a lossless file (FFV1 in Matroska), or, without
# a second name, onto the screen. The model must be the one that made the latents.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 1 && $# -le 2 ]] || usage 2
[[ -f $1 ]] || fail "there is no file $1"
# gdpdepay says nothing of what is none
[[ $(head -c 2 "$1" | od -An -tx1) == ' 01 00' ]] || fail "$1 is no file that encode-to-file.sh stored"
need_elements gdpdepay
if [[ $# == 2 ]]; then
  need_elements avenc_ffv1
  need_ending mkv "$2"
  begin_result "$2" "$1"
  at_once=0 # nobody watches
  sink=(avenc_ffv1 ! matroskamux ! filesink "location=$(quoted "$part")")
else
  at_once=1
  sink=(videoconvert ! autovideosink)
fi

gst-launch-1.0 -e filesrc "location=$(quoted "$1")" ! gdpdepay ! flowdecode "frames-at-once=$at_once" ! queue ! "${sink[@]}"
keep_results
