#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# train-room-64x48.sh OUTPUT.safetensors one-by-one-person-detection.mp4 bottle-detection.mp4
#
# Trains a model as the bundled normflow-room-64x48 was trained, on two videos of a fixed camera. See README.md.

set -euo pipefail

if [[ $# -lt 2 || $1 == -* ]]; then
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
output=$1
shift

normflow train -o "$output" --config '{"family": "starflow", "img_size": 64, "hw": [48, 64], "patch_size": 16,
  "channels": 64, "num_blocks": 2, "layers_per_block": [1, 2], "head_dim": 32, "top_block_channels": 192,
  "rope": true, "rope_1d": true, "sos": true, "use_softplus": true, "use_final_norm": true, "cond_top_only": true,
  "seq_order": "L2R", "temporal_causal": 1, "shallow_block_local": true, "frames": 6, "pixel_layout": "yuv420",
  "basis": "dct", "noise_type": "uniform"}' \
  --steps 1500 --stop-after 500 --batch 8 --lr 2e-3 --warmup 80 --ema 0.99 --seed 1 --validation-tiles 32 \
  --validate-every 250 --overwrite "$@"
