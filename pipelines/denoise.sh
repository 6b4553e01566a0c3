#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# denoise.sh VIDEO|/dev/videoN SIGMA [OUT.mkv]
#
# Takes Gaussian noise out of a video by one exact step along the model's score. SIGMA is the noise's standard
# deviation where black is -1 and white 1: noise of S 8-bit steps has sigma S/127.5, so 0.05 is some 6 steps.
# The result is shown, or stored without loss.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 && $# -le 3 ]] || usage 2
awk -v "s=$2" 'BEGIN { exit !(s + 0 == s && s >= 0 && s <= 1) }' || fail "SIGMA is \"$2\", it must be 0 to 1, such as 0.05"
case $1 in
  /dev/*) source=(v4l2src "device=$(quoted "$1")" ! queue leaky=downstream max-size-buffers=2) ;;
  *) set_source "$1" ;;
esac
if [[ $# == 3 ]]; then
  need_elements avenc_ffv1
  need_ending mkv "$3"
  begin_result "$3" "$1"
  ! is_live "$1" || keep_what_comes
  sink=(avenc_ffv1 ! matroskamux ! filesink "location=$(quoted "$part")")
else
  need_elements
  sink=(videoconvert ! autovideosink)
fi

gst-launch-1.0 -e "${source[@]}" ! videoconvert ! flowdenoise "sigma=$2" ! queue ! "${sink[@]}"
keep_results
