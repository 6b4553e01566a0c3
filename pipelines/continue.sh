#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# continue.sh VIDEO MODEL [OUT.mp4 [HORIZON]]
#
# A real past and four different futures of it: a model of videos continues the video by 64 frames, or HORIZON,
# from four seeds, in a grid; underneath, the score of every frame given those before it, of the past (gray) and of
# the first future (red). OUT.mp4 is continue.mp4 if it is not given. What was done in the video is read from
# VIDEO.actions.ndjson, if there is one.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 && $# -le 4 ]] || usage 2
need_elements compositor videorate rawvideoparse imagefreeze openh264enc h264parse mp4mux
set_source "$1"
encoder=(flowencode "model=$(quoted "$2")")
[[ ! -f $1.actions.ndjson ]] || encoder+=("actions-location=$(quoted "$1.actions.ndjson")")
model=$(quoted "$2") out=${3:-continue.mp4} horizon=${4:-64}
[[ $horizon =~ ^[1-9][0-9]*$ ]] || fail "$horizon is not a number of frames"
need_ending mp4 "$out"
begin_result "$out" "$1" "$1.actions.ndjson" "$2"
work=$(mktemp -d)
leftovers+=("$work")

# Latents of models of videos, which alone know a past, say how many frames their samples have.
gst-launch-1.0 -v "${source[@]}" ! "${scaler[@]}" ! "${encoder[@]}" name=past ! fakesink num-buffers=1 sync=false \
  >"$work/caps" 2>"$work/errors" || fail "$(cat "$work/errors")"
grep -q 'FlowEncode:past.*caps = .*, frames=(int)' "$work/caps" \
  || fail "$2 is a model of pictures, which do not go on: give one of videos, such as normflow-room-64x48 (normflow info MODEL tells)"

# First the scores: of the past as it is coded, of the future as it is coded again.
gst-launch-1.0 -m "${source[@]}" ! "${scaler[@]}" ! "${encoder[@]}" name=past \
  ! flowsample "model=$model" seed=1 "horizon=$horizon" ! flowdecode "model=$model" ! flowencode name=all "model=$model" \
  ! fakesink sync=false >"$work/log" 2>"$work/errors" || fail "$(cat "$work/errors")"
scores() {
  sed -n "s/.*element \"$1\".*flow-score,.*bits-per-dim=(double)\\([^,]*\\),.*/\\1/p" "$work/log"
}
scores all >"$work/scores"
past=$(scores past | wc -l)
all=$(wc -l <"$work/scores")
[[ $past -gt 0 && $all -gt $past ]] || fail "no scores came out: $(tail -n 3 "$work/log")"
# The video's rate, else by its first frame: times of Matroska are whole milliseconds.
rate=$(sed -n '/.*FlowEncode:past.*caps = .*framerate=(fraction)\([0-9/]*\).*/{s//\1/p;q}' "$work/caps")
duration=$(sed -n '/.*flow-score,.* duration=(guint64)\([0-9]*\).*/{s//\1/p;q}' "$work/log")
if [[ ! $rate =~ ^[1-9] ]]; then
  rate=25/1
  if [[ $duration =~ ^[1-9][0-9]{1,9}$ ]]; then
    rate=1000000000/$duration
  elif [[ $past -eq 1 ]]; then
    fail "$1 is a still picture, or has no times: make a video of it, such as with ffmpeg -loop 1 -i PICTURE -t 1 VIDEO.mkv"
  fi
fi

# A picture of them, raw RGB; no byte of it is 0, which not every awk can print.
LC_ALL=C awk -v past="$past" '
  { y[NR] = $1; if (NR == 1 || $1 < low) low = $1; if (NR == 1 || $1 > high) high = $1 }
  END {
    W = 512; H = 96; if (high == low) high = low + 1
    for (r = 0; r < H; r++)
      for (c = 0; c < W; c++) {
        n = 1 + int (c * NR / W); m = n > 1 ? n - 1 : 1
        a = int ((H - 1) * (high - y[n]) / (high - low)); b = int ((H - 1) * (high - y[m]) / (high - low))
        if (a > b) { t = a; a = b; b = t }
        if (r < a || r > b) printf "%c%c%c", 255, 255, 255
        else if (n <= past) printf "%c%c%c", 96, 96, 96
        else printf "%c%c%c", 208, 32, 32
      }
  }' "$work/scores" >"$work/curve.rgb"

place() { # future $1 of the four
  local row=$(($1 / 2)) column=$(($1 % 2))
  echo "sink_$1::xpos=$((column * 256)) sink_$1::ypos=$((row * 256)) sink_$1::width=256 sink_$1::height=256 sink_$1::sizing-policy=keep-aspect-ratio"
}
branches=()
# videorate: times of whole milliseconds would end a frame late
for i in 0 1 2 3; do
  branches+=(t. ! queue max-size-buffers=4 ! flowsample "model=$model" "seed=$((i + 1))" "horizon=$horizon" ! flowdecode "model=$model"
    ! videoconvert ! videorate ! queue max-size-buffers=4 ! "c.sink_$i")
done
# shellcheck disable=SC2046 # words are wanted
with_h264 gst-launch-1.0 -q -e compositor name=c background=black $(place 0) $(place 1) $(place 2) $(place 3) \
  sink_4::xpos=0 sink_4::ypos=512 ! videoconvert ! "video/x-raw,format=I420,width=512,height=608,framerate=$rate" ! openh264enc bitrate=4000000 \
  ! h264parse ! mp4mux ! filesink "location=$(quoted "$part")" \
  "${source[@]}" ! "${scaler[@]}" ! "${encoder[@]}" post-messages=false ! tee name=t "${branches[@]}" \
  filesrc "location=$(quoted "$work/curve.rgb")" ! rawvideoparse width=512 height=96 format=rgb ! videoconvert ! imagefreeze "num-buffers=$all" \
  ! "video/x-raw,framerate=$rate" ! c.sink_4
keep_results
echo "$out: $past real frames and $horizon drawn ones, four times"
