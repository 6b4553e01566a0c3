# normflow: what the pipelines here share; sourced, not run. SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash

set -euo pipefail
# Not CDPATH's business.
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# The comment at the head of the script is its help text.
usage() {
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  exit "${1:-0}"
}

case ${1:-} in
  -h | --help) usage ;;
esac
for argument; do
  [[ $argument != *\\ ]] || fail "gst-launch-1.0 takes nothing that ends in \\: $argument"
done

# Elements and command: the installed ones, else those of build/.
use_build() {
  if [[ -e $root/build/plugins/libgstnormflow.so ]]; then
    export GST_PLUGIN_PATH=$root/build/plugins${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}
    export GST_REGISTRY=$root/build/plugins/registry.bin
    export NORMFLOW_MODEL_PATH=${NORMFLOW_MODEL_PATH:+$NORMFLOW_MODEL_PATH:}$root/models
    export PATH=$root/build/tools:$root/build/pipelines:$PATH
  fi
}

# gst-inspect-1.0 --exists would want plugins of GStreamer's own version.
has_element() {
  gst-inspect-1.0 "$1" >/dev/null 2>&1
}

need_elements() {
  local element
  has_element flowencode || use_build
  for element in flowencode "$@"; do
    has_element "$element" \
      || fail "GStreamer has no element $element: ./pipelines/demo.sh installs and builds what is needed"
  done
}

# The value $1 in the words of gst-launch-1.0: "location=$(quoted "$file")". It takes \ and " as a shell does, but reads
# on after what ends in \.
quoted() {
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

# Runs a command that ends in openh264enc, which at every end of a stream says on stderr that it got no frame.
with_h264() {
  "$@" 2> >(grep -v '^\[OpenH264\].*cmInitParaError' >&2)
}

# Files and folders that go when the script ends.
leftovers=()
live=
leave() {
  local i
  # who signals this shell alone means what it has started, too; what comes from elsewhere is to be completed
  if pkill "-${live:-TERM}" -P $$ 2>/dev/null; then
    for ((i = 0; i < 50; i++)); do
      pgrep -P $$ >/dev/null || break
      sleep 0.1
    done
  fi
  [[ -z $live ]] || keep_results
  rm -rf -- "${leftovers[@]}"
}
trap leave EXIT

# What comes from $1 while it lasts, and ends as it will: what came until then is a result, too.
is_live() {
  [[ $1 == /dev/* || ($1 == *://* && $1 != file://*) ]]
}
keep_what_comes() {
  live=INT # the signal that ends it
  trap - INT
}

# File $2 is to be of kind $1, as its name tells.
need_ending() {
  [[ ${2,,} == *."$1" ]] || fail "$2 is not called .$1, which is what ${0##*/} writes"
}

# Begins file $1, a result; the others are what it is made from. It is written to $part, a file of the same name in a folder
# beside it, and takes its place by keep_results: whatever ends the script before leaves what was there.
results=()
parts=()
begin_result() {
  local input path folder
  for input in "${@:2}"; do
    path=$input
    [[ $path != file://* ]] || path=$(printf '%b' "${input//%/\\x}" 2>/dev/null)
    [[ ! ${path#file://} -ef $1 ]] || fail "$1 is read: give what is written another name"
  done
  [[ ! -d $1 ]] || fail "$1 is a folder: give a file"
  part=$1
  # a pipe, or /dev/null
  [[ ! -e $1 || -f $1 ]] || return 0
  results+=("$(realpath -- "$1" 2>/dev/null)") || fail "there is no folder for $1"
  folder=$(mktemp -d -- "$(dirname -- "${results[-1]}")/.part.XXXXXX") || fail "$1 cannot be written"
  leftovers+=("$folder")
  part=$folder/${1##*/}
  parts+=("$part")
  trap 'exit 130' INT
}

keep_results() {
  local i
  for i in "${!results[@]}"; do
    [[ ! -s ${parts[i]} ]] || mv -fT -- "${parts[i]}" "${results[i]}"
  done
}

# The words of a pipeline that shrinks video to a model's size as training does, to the mean of areas. With 8 bits
# videoscale has weights of 8 bits, too, which do not add up: pictures shrunk to a twelfth came out 1.7 steps too bright.
# shellcheck disable=SC2034 # for those who source this
scaler=(videoconvert ! "video/x-raw,format={AYUV64,ARGB64}" ! videoscale method=lanczos envelope=1 ! videoconvert dither=none)

# $1 is a file of video. Of one of sound GStreamer would say "not-linked", and that late.
need_video() {
  local said
  [[ -f $1 ]] || fail "there is no file $1"
  said=$(gst-launch-1.0 -q filesrc "location=$(quoted "$1")" ! decodebin ! videoconvert ! fakesink num-buffers=1 2>&1) && return
  said=$(sed -n 's/^ERROR: .*: //p' <<<"$said" | grep -v '^Internal data stream' | head -n 1) || :
  fail "there is no video in $1 that GStreamer can decode${said:+: $said}"
}

# The words of a pipeline that reads and decodes $1, a file or a URI, into the array source.
set_source() {
  case $1 in
    *://*) source=(uridecodebin "uri=$(quoted "$1")") ;;
    *)
      need_video "$1"
      source=(filesrc "location=$(quoted "$1")" ! decodebin)
      ;;
  esac
}

# What model $1 sees: "frame" of videos or "image", WIDTHxHEIGHT, of what, the layout.
model_input() {
  local info
  info=$(normflow info "$1") || return
  sed -nE '/^(frame|image) /p' <<<"$info"
}

# WIDTHxHEIGHT of the frames of model $1, $2 if it takes any.
model_size() {
  local input
  input=$(model_input "$1") || return
  if [[ $input =~ ^frame\ +([0-9]+x[0-9]+)\ pixels ]]; then
    echo "${BASH_REMATCH[1]}"
  else
    echo "$2"
  fi
}

# WIDTHxHEIGHT as caps fields.
as_size() {
  [[ $1 =~ ^([0-9]+)x([0-9]+)$ ]] || fail "$1 is not a size such as 640x360"
  printf 'width=%s,height=%s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
}
