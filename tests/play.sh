#!/usr/bin/env bash
# normflow: play.sh on a screen that nobody sees. SPDX-License-Identifier: LGPL-2.1-or-later
# play.sh SCRIPT MODEL ACTIONS SHOT
#
# Runs SCRIPT, the pipeline's play.sh, with synthetic keys: up for 20 frames, down for 20 frames, then q. SHOT becomes
# a picture of the screen, raw RGB of 800x600.
set -euo pipefail
actions=$3

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf -- "$work"' EXIT
mkfifo "$work/display"
Xvfb -displayfd 3 -screen 0 800x600x24 3>"$work/display" 2>"$work/xvfb.log" &
read -r number <"$work/display"
export DISPLAY=:$number

"$1" "$2" pong "$3" &
player=$!
# Waits until command $* is true of what has been done so far.
await() {
  for _ in {1..600}; do
    if [[ -s $actions ]] && "$@"; then
      return
    fi
    kill -0 "$player"
    sleep 0.1
  done
  echo "not within a minute: $*" >&2
  exit 1
}

# Action $1 was done $2 times.
done_times() {
  [[ $(grep -c "\"action\":$1" "$actions") -ge $2 ]]
}

# Nothing is being done.
idle() {
  tail -n 1 "$actions" | grep -q '"action":0'
}

await done_times 0 60
xdotool mousemove 300 200
xdotool keydown Up
await done_times 1 20
xdotool keyup Up
await idle
xdotool keydown Down
await done_times 2 20
xdotool keyup Down
await idle
timeout 60 gst-launch-1.0 -q ximagesrc num-buffers=1 ! videoconvert ! video/x-raw,format=RGB ! filesink "location=$4"
xdotool key q
wait "$player"
