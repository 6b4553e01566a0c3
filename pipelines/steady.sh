#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# steady.sh [--decode] [FRAMES [MODEL]]
#
# Sends FRAMES (100000) frames of 32x32, or of the model's size, through flowencode, with --decode through flowdecode too,
# and prints, every ten seconds, how many have come through, how many a second just now, and the resident memory of the
# process in MiB. The last two should stay as they are. MODEL is normflow-yuv420-32-small unless said otherwise.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
back=()
if [[ ${1:-} == --decode ]]; then
  back=(yes)
  shift
fi
frames=${1:-100000}
model=${2:-normflow-yuv420-32-small}
[[ $# -le 2 && $frames =~ ^[1-9][0-9]*$ ]] || usage 2
need_elements flowdecode fpsdisplaysink
command -v normflow >/dev/null || use_build
size=$(model_size "$model" 32x32)
size=$(as_size "$size")
[[ ${#back[@]} -eq 0 ]] || back=(! queue ! flowdecode "model=$(quoted "$model")")

printf '%10s %10s %10s\n' frames frames/s MiB
exec 3< <(exec gst-launch-1.0 -v videotestsrc pattern=ball num-buffers="$frames" \
  ! "video/x-raw,format=I420,$size" ! videoconvert ! flowencode "model=$(quoted "$model")" message-interval=1000000000 "${back[@]}" \
  ! fpsdisplaysink text-overlay=false sync=false fps-update-interval=10000 video-sink=fakesink)
pid=$!
while read -r line; do
  [[ $line =~ rendered:\ ([0-9]+),.*current:\ ([0-9.]+) ]] || continue
  memory=$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$pid/status")
  printf '%10d %10.1f %10.1f\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "$memory"
done <&3
wait "$pid"
