#!/usr/bin/env bash
# normflow: play.sh on a screen that nobody sees. SPDX-License-Identifier: LGPL-2.1-or-later
# play.sh SCRIPT MODEL ACTIONS SHOT
#
# Runs SCRIPT, the pipeline's play.sh, with synthetic keys: up for a second, down for a second, then q. SHOT becomes
# a picture of the screen, raw RGB of 800x600.
set -euo pipefail

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf -- "$work"' EXIT
mkfifo "$work/display"
Xvfb -displayfd 3 -screen 0 800x600x24 3>"$work/display" 2>"$work/xvfb.log" &
read -r number <"$work/display"
export DISPLAY=:$number

"$1" "$2" pong "$3" &
player=$!
# It has begun once a few actions are there.
for _ in {1..150}; do
  [[ -s $3 && $(wc -l <"$3") -ge 60 ]] && break
  kill -0 "$player"
  sleep 0.2
done
xdotool mousemove 300 200
xdotool keydown Up
sleep 1
xdotool keyup Up
sleep 0.3
xdotool keydown Down
sleep 1
xdotool keyup Down
timeout 20 gst-launch-1.0 -q ximagesrc num-buffers=1 ! videoconvert ! video/x-raw,format=RGB ! filesink "location=$4"
xdotool key q
wait "$player"
