#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# stream.sh VIDEO MODEL [PORT]
#
# Sends the latents of a video, in real time, through a model of videos over TCP on this machine, with a key
# frame every 8 frames. One receiver is there from the start, is cut off after 8 frames and connects again;
# another joins after that. Says what each of them got, and checks that every frame that came out is, byte
# for byte, the one that went in. PORT is 5001 if it is not given.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 2 && $# -le 3 ]] || usage 2
need_elements gdppay tcpserversink checksumsink
set_source "$1"
model=$2
port=${3:-5001}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf -- "$work"' EXIT

# Each line the time of a frame and its checksum.
receive() {
  exec gst-launch-1.0 -q tcpclientsrc host=127.0.0.1 "port=$(quoted "$port")" ! gdpdepay ! flowdecode "model=$(quoted "$model")" ! videoconvert \
    ! video/x-raw,format=RGB ! checksumsink sync=false >"$work/$1" 2>"$work/$1.log"
}

# The sender is gone before $1; $2 is another log.
ended() {
  local why
  why=$(cat "$work/sent.log" ${2:+"$2"})
  fail "the sender ended before $1: ${why:-the video is too short for that, a few seconds are needed}"
}

# Starts receiver $1, again until the sender is there; its process is in $receiver.
join() {
  local try
  for try in {1..50}; do
    receive "$1" &
    receiver=$!
    sleep 0.4
    if kill -0 "$receiver" 2>/dev/null; then
      return
    fi
    kill -0 "$sender" 2>/dev/null || ended "receiver $1 was there"
  done
  cat "$work/$1.log" >&2
  fail "no connection to port $port in $try tries"
}

# Waits until receiver $1 has got $2 frames.
await() {
  until [[ $(wc -l <"$work/$1") -ge $2 ]]; do
    kill -0 "$sender" 2>/dev/null || ended "receiver $1 had $2 frames" "$work/$1.log"
    sleep 0.1
  done
}

gst-launch-1.0 -q "${source[@]}" ! clocksync ! "${scaler[@]}" ! tee name=t \
  t. ! queue ! flowencode "model=$(quoted "$model")" post-messages=false key-int-max=8 ! gdppay \
  ! tcpserversink host=127.0.0.1 "port=$(quoted "$port")" \
  t. ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! identity name=copy ! videoconvert ! video/x-raw,format=RGB \
  ! checksumsink sync=false >"$work/sent" 2>"$work/sent.log" &
sender=$!
join first
first=$receiver
await first 8
kill "$first"
join again
again=$receiver
await again 1
join late
late=$receiver
wait "$sender" || fail "the sender: $(cat "$work/sent.log")"
wait "$again" "$late" || fail "a receiver: $(cat "$work/again.log" "$work/late.log")"

printf 'sent: %d frames\n' "$(wc -l <"$work/sent")"
for name in first again late; do
  printf '%s: %d frames from %s on\n' "$name" "$(wc -l <"$work/$name")" "$(head -n 1 "$work/$name" | cut -d ' ' -f 1)"
  [[ -s $work/$name ]] || fail "receiver $name got nothing"
  # a killed one may have written half a line
  if grep -E ' [0-9a-f]{40}$' "$work/$name" | grep -Fxvq -f "$work/sent"; then
    fail "receiver $name got a frame that was not sent"
  fi
done
echo "every frame that arrived is the one that was sent"
