#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# steady.sh [--decode] [FRAMES [MODEL]]
#
# Sends FRAMES (100000) frames of 32x32, or of the model's size, through flowencode, with --decode through flowdecode too,
# and prints, every ten seconds, how many have come through, how many a second meanwhile, and the resident memory of the
# process in MiB. The last two should stay as they are. The last line is of the whole run, with the last memory that was
# seen. MODEL is normflow-yuv420-32-small unless said otherwise.

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
  ! fpsdisplaysink text-overlay=false sync=false fps-update-interval=500 video-sink=fakesink)
pid=$!
lines=0 rates=0 average=- memory=-
while read -r line; do
  [[ $line =~ rendered:\ ([0-9]+),.*current:\ ([0-9.]+),\ average:\ ([0-9.]+) ]] || continue
  average=${BASH_REMATCH[3]%?} rates+="+${BASH_REMATCH[2]}"
  seen=$(awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$pid/status" 2>/dev/null) || :
  memory=${seen:-$memory}
  ((++lines % 20 == 0)) || continue
  printf '%10d %10s %10s\n' "${BASH_REMATCH[1]}" "$(awk "BEGIN { printf \"%.1f\", ($rates) / 20 }")" "$memory"
  rates=0
done <&3
wait "$pid"
printf '%10d %10s %10s\n' "$frames" "$average" "$memory"
