#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# generate.sh [SEED] [WIDTHxHEIGHT] [OUT.png]
#
# Draws latents from the prior and decodes them: one picture of independent samples, a tile each (256x256
# unless said otherwise), in a PNG file, or, without a name, a slow show of them on the screen. The same seed
# gives the same latents on every machine. What a model of Gaussian noise draws loses its noise.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -le 3 && ${1:-1} =~ ^[0-9]+$ ]] || usage 2
seed=${1:-1}
size=$(as_size "${2:-256x256}")
if [[ $# == 3 ]]; then
  need_elements pngenc
  need_ending png "$3"
  begin_result "$3"
  frames=1
  sink=(pngenc ! filesink "location=$(quoted "$part")")
else
  need_elements
  frames=-1
  sink=(autovideosink)
fi

gst-launch-1.0 flowsample "seed=$seed" "num-buffers=$frames" ! "video/x-flow-latent,$size,framerate=1/1" \
  ! flowdecode ! videoconvert ! "${sink[@]}"
keep_results
