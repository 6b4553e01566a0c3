#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# train-pong-64.sh OUTPUT.safetensors
#
# Trains a model as the bundled normflow-pong-64 was trained: on the world pong, simulated on the fly; 12000
# steps of a schedule for 19500, then 7300 with a schedule of their own, and weights rounded to half precision.
# What is between is OUTPUT.stage1 and OUTPUT.stage2. On a large GPU this takes a quarter of an hour. See README.md.

set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi

normflow train -o "$1.stage1" --world pong --actions --config '{"family": "starflow", "img_size": 64, "patch_size": 16,
  "channels": 64, "num_blocks": 2, "layers_per_block": [1, 4], "head_dim": 32, "top_block_channels": 256,
  "rope": true, "rope_1d": true, "sos": true, "use_softplus": true, "soft_clip": 4, "use_final_norm": true,
  "cond_top_only": true, "seq_order": "L2R", "temporal_causal": 1, "shallow_block_local": true, "frames": 8,
  "pixel_layout": "rgb", "noise_type": "gaussian", "noise_std": 0.1}' \
  --denoiser 1 --steps 19500 --stop-after 12000 --batch 64 --lr 1.5e-3 --warmup 300 --ema 0.999 --seed 1 \
  --validation-tiles 64 --validate-every 500
normflow train -o "$1.stage2" --init "$1.stage1" --world pong --actions --steps 7300 --batch 64 --lr 6e-4 --warmup 100 \
  --ema 0.999 --seed 2 --validation-tiles 64 --validate-every 500
normflow convert --dtype f16 "$1.stage2" "$1"
