#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# train-room-64x48-noisy.sh OUTPUT.safetensors bottle-detection.mp4 one-by-one-person-detection.mp4
#
# Trains a model as the bundled normflow-room-64x48-noisy was trained, on two videos of a fixed camera, with noise and a
# past that has errors: 500 steps of a schedule for 1893, less than a minute on a large GPU. What is trained is
# OUTPUT.float32, the model is that in half precision. See README.md.

set -euo pipefail

if [[ $# -lt 2 || $1 == -* ]]; then
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
output=$1
shift

normflow train -o "$output.float32" --config '{"family": "starflow", "img_size": 64, "hw": [48, 64], "patch_size": 8,
  "channels": 128, "num_blocks": 2, "layers_per_block": [1, 4], "head_dim": 32, "top_block_channels": 192,
  "rope": true, "rope_1d": true, "sos": true, "use_softplus": true, "soft_clip": 4, "use_final_norm": true,
  "cond_top_only": true, "seq_order": "L2R", "temporal_causal": 1, "shallow_block_local": true, "frames": 8,
  "frame_positions": true, "pixel_layout": "yuv420", "noise_type": "gaussian", "noise_std": 0.1}' \
  --denoiser 1 --context-errors 0.01 --precision bf16 --steps 1893 --stop-after 500 --batch 48 --lr 1.5e-3 \
  --warmup 100 --ema 0.998 --seed 1 --validation-tiles 64 --validate-every 250 --overwrite "$@"
normflow convert --dtype f16 "$output.float32" "$output"
