#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# encode-to-file.sh VIDEO LATENTS.gdp [half]
#
# Sends a video through the flow and stores the latents, with caps and times, in GStreamer's own GDP form;
# decode-file.sh makes the video again. Float32 latents give back every byte and take 4 bytes a sample; with
# the word "half" they are float16: half the room, and no longer exact.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 && $# -le 3 ]] || usage 2
need_elements gdppay
set_source "$1"
format=F32LE
[[ $# -lt 3 || $3 == half ]] || usage 2
[[ $# -lt 3 ]] || format=F16LE
begin_result "$2" "$1"
! is_live "$1" || keep_what_comes

gst-launch-1.0 -e "${source[@]}" ! videoconvert ! flowencode post-messages=false \
  ! "video/x-flow-latent,latent-format=$format" ! gdppay ! filesink "location=$(quoted "$part")"
keep_results
ls -l -- "$2"
