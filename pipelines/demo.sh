#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# demo.sh [--frames N] [--model MODEL] [--output FOLDER] [--no-play] [VIDEO]
#
# Takes a video through the flow and back and shows the result: installs missing Debian packages (as root),
# builds into build/, encodes, scores and decodes VIDEO, or a built-in one of 60 frames, and writes pictures
# and videos into demo-output/. Of VIDEO the first N frames are taken (25; 0 is all of them), in I420. MODEL is one of
# pictures in yuv420, as the bundled one.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

frames=25
model=
output=$root/demo-output
play=yes
video=
while [[ $# -gt 0 ]]; do
  case $1 in
    --frames) frames=${2:-} && shift ;;
    --model) model=${2:-} && shift ;;
    --output) output=${2:-} && shift ;;
    --no-play) play=no ;;
    -*) usage 2 ;;
    *)
      [[ -z $video ]] || usage 2
      video=$1
      ;;
  esac
  shift
done
[[ $frames =~ ^[0-9]+$ && -n $output ]] || usage 2
frames=$((10#$frames))
[[ -z $video || -f $video ]] || fail "there is no file $video"
[[ -z $model || $model != */* || -f $model ]] || fail "there is no model file $model"
if [[ -f $model ]]; then model=$(realpath -- "$model"); fi
if [[ -n $video ]]; then video=$(realpath -- "$video"); fi

# Only what this script writes is removed from the folder, which may be anybody's.
made=("$output"/{input.mkv,decoded.mkv,score.png,score-map.png,scores.ndjson,sheet.png,samples.png,pipeline.log})
for file in "${made[@]}"; do
  [[ ! $video -ef $file ]] || fail "$video is where a result will be: give it another name, or another folder with --output"
done

step() {
  printf '\n== %s\n' "$*"
}

# Packages, build

install_packages() {
  local missing=() package
  while read -r package; do
    [[ -n $package && $package != \#* ]] || continue
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done <"$root/tests/packages.txt"
  [[ ${#missing[@]} -gt 0 ]] || return 0
  step "Installing ${#missing[@]} Debian packages"
  if [[ $EUID -ne 0 ]]; then
    fail "some packages are missing; as root: apt-get install ${missing[*]}"
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -q -y --no-install-recommends "${missing[@]}"
}

build() {
  step "Building in build/"
  [[ -e $root/build/build.ninja ]] || meson setup "$root/build" "$root"
  ninja -C "$root/build"
}

install_packages
build
use_build
if [[ -n $model ]]; then
  input=$(model_input "$model") || exit 1
  [[ $input != frame* ]] || fail "$model is a model of videos: give one of pictures (continue.sh and surprise.sh take those of videos)"
  [[ $input == *' yuv420' ]] || fail "$model takes no yuv420, which the video here is: give one that does (normflow info MODEL tells)"
fi

# The video

size='width=320,height=240,framerate=25/1'

# Clouds that drift and ripple (three octaves of noise), a ball that moves, a little sensor noise; from 1.2 s
# to 1.6 s a patch of static that does not belong there, for the score to find.
cloud() {
  echo videotestsrc pattern=snow num-buffers=1 ! "video/x-raw,$1,framerate=25/1" ! videoscale method=lanczos \
    ! video/x-raw,width=320,height=244 ! imagefreeze num-buffers=60
}

make_video() {
  # shellcheck disable=SC2046 # words of a pipeline
  gst-launch-1.0 -q \
    compositor name=clouds sink_1::alpha=0.35 sink_2::alpha=0.12 ! videoconvert ! warptv ! videoconvert ! scene.sink_0 \
    $(cloud width=8,height=6) ! clouds.sink_0 \
    $(cloud width=20,height=15) ! clouds.sink_1 \
    $(cloud width=80,height=60) ! clouds.sink_2 \
    videotestsrc pattern=chroma-zone-plate kx2=2 ky2=3 kt=1 num-buffers=60 ! "video/x-raw,$size" ! scene.sink_1 \
    videotestsrc pattern=ball background-color=0 foreground-color=0xffe0a040 num-buffers=60 \
    ! "video/x-raw,format=AYUV,$size" ! scene.sink_2 \
    videotestsrc pattern=snow num-buffers=60 ! "video/x-raw,$size" ! scene.sink_3 \
    videotestsrc pattern=snow num-buffers=10 timestamp-offset=1200000000 \
    ! video/x-raw,width=80,height=60,framerate=25/1 ! scene.sink_4 \
    compositor name=scene sink_0::ypos=-2 sink_1::alpha=0.2 sink_3::alpha=0.015 sink_4::xpos=200 sink_4::ypos=130 \
    ! "video/x-raw,format=AYUV,$size" ! videoconvert ! video/x-raw,format=I420 \
    ! avenc_ffv1 ! matroskamux ! filesink "location=$(quoted "$1")"
}

# The first frames of a video, without loss unless it is not 4:2:0. identity ends with the frame after them. A decoder
# ahead of that hands on frames that it still has when it is told to stop; the queue does not, but for one that waits at
# its end: that one is the second identity's to stop at.
copy_video() {
  local limit=()
  [[ $frames -eq 0 ]] || limit=(identity "eos-after=$((frames + 1))" ! identity "eos-after=$((frames + 1))" !)
  set_source "$1"
  gst-launch-1.0 -q -e "${source[@]}" ! queue ! videoconvert ! video/x-raw,format=I420 ! "${limit[@]}" avenc_ffv1 \
    ! matroskamux ! filesink "location=$(quoted "$2")"
}

# The path

mkdir -p "$output"
rm -f -- "${made[@]}"
cd -- "$output"
options=()
tool_options=()
if [[ -n $model ]]; then
  options=("model=$(quoted "$model")")
  tool_options=(--model "$model")
fi

if [[ -z $video ]]; then
  step "Drawing a video"
  make_video input.mkv
else
  step "Copying $( ((frames)) && echo "the first $frames frames" || echo "all frames") of $video"
  copy_video "$video" input.mkv
fi

step "Through the flow and back"
pipeline=(filesrc location=input.mkv ! matroskademux ! avdec_ffv1 ! tee name=video
  video. ! queue ! videocodectestsink name=before
  video. ! queue ! flowencode name=flow "${options[@]}" ! queue ! flowdecode "${options[@]}" ! tee name=again
  again. ! queue ! videocodectestsink name=after
  again. ! queue ! avenc_ffv1 ! matroskamux ! filesink location=decoded.mkv)
echo "gst-launch-1.0 ${pipeline[*]}"
echo "(The first time on a machine kernels are compiled, which takes up to a minute.)"
gst-launch-1.0 -mv "${pipeline[@]}" >pipeline.log || {
  grep -A3 ERROR pipeline.log >&2 || true
  fail "the pipeline failed; all messages are in $output/pipeline.log"
}

# "Got message #1 from element "flow" (element): flow-score, ..., bits-per-dim=(double)1.5, ...;"
of_message() {
  sed -n "s/^Got message .* from element \"$1\" .*$2=([a-z0-9]*)\([^,;]*\)[,;].*/\1/p" pipeline.log
}

# "Execution ended after 0:00:12.345678901" in seconds.
elapsed=$(sed -n 's/^Execution ended after \([0-9:.]*\)$/\1/p' pipeline.log | awk -F: '{ print $1 * 3600 + $2 * 60 + $3 }')
before=$(of_message before checksum)
after=$(of_message after checksum)
count=$(of_message flow bits-per-dim | wc -l)
bits=$(of_message flow bits-per-dim | awk '{ sum += $1 } END { if (NR) printf "%.4f", sum / NR }')
dimensions=$(sed -n 's/^.*GstFlowEncode:flow.*: caps = video\/x-raw.* width=(int)\([0-9]*\), height=(int)\([0-9]*\).*$/\1x\2/p' \
  pipeline.log | head -n 1)
[[ -n $before && $count -gt 0 ]] || fail "no frame went through the flow; see $output/pipeline.log"

step "Scores, sheet and samples"
normflow eval "${tool_options[@]}" --json scores.ndjson --plot score.png --map score-map.png --peers input.mkv
normflow sheet "${tool_options[@]}" --frames 3 --every "$((count > 3 ? count * 2 / 7 : 1))" input.mkv sheet.png
gst-launch-1.0 -q flowsample "${options[@]}" seed=1 num-buffers=1 ! video/x-flow-latent,width=256,height=256 \
  ! flowdecode "${options[@]}" ! videoconvert ! videoscale method=nearest-neighbour ! video/x-raw,width=512,height=512 \
  ! pngenc ! filesink location=samples.png

step "Result"
echo "frames        $count"
echo "size          $dimensions"
echo "bits/dim      $bits (8 without a model)"
echo "speed         $(awk "BEGIN { printf \"%.2f\", $count / $elapsed }") frames/s through both directions at once"
if [[ $before == "$after" ]]; then
  echo "lossless      yes, every byte came back (MD5 of all frames before and after: $before)"
else
  echo "lossless      NO: MD5 of all frames is $before before, $after after"
fi
cat <<END

In $output:
  input.mkv       the video that was used (lossless: FFV1)
  decoded.mkv     the video that came out of the latents (FFV1)
  score.png       bits per dimension of each frame over time, beside PNG and FFV1
  score-map.png   where the frame with the highest score is hard to predict
  scores.ndjson   the numbers of score.png, a line of JSON each frame
  sheet.png       original | latents as a picture | decoded | with noise | denoised
  samples.png     pictures drawn from the model's prior, an independent one in each tile
  pipeline.log    all messages of the pipeline
END

if [[ $play == yes && -n ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]]; then
  step "Playing decoded.mkv"
  gst-launch-1.0 -q filesrc location=decoded.mkv ! matroskademux ! avdec_ffv1 ! videoconvert ! autovideosink \
    || echo "(no picture: the display did not take it)"
fi
[[ $before == "$after" ]]
