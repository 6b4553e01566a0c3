#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# train-pong-64-fine.sh OUTPUT.safetensors
#
# Trains a model as the bundled normflow-pong-64-fine was trained: on the world pong, simulated on the fly; 3457 steps,
# then 3444 with a past that has errors, then 3200 of fewer samples. The model is the mean of what the last two made, in
# half precision. What is between is OUTPUT.stage1 to OUTPUT.stage3. On a large GPU the first two stages take ten
# minutes; the third takes half an hour on two cores with AMX. See README.md.

set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi

normflow train -o "$1.stage1" --world pong --actions --config '{"family": "starflow", "img_size": 64, "patch_size": 8,
  "channels": 192, "num_blocks": 2, "layers_per_block": [1, 4], "head_dim": 32, "top_block_channels": 192,
  "rope": true, "rope_1d": true, "sos": true, "use_softplus": true, "soft_clip": 4, "use_final_norm": true,
  "cond_top_only": true, "seq_order": "L2R", "temporal_causal": 1, "shallow_block_local": true, "frames": 8,
  "frame_positions": true, "pixel_layout": "rgb", "noise_type": "gaussian", "noise_std": 0.1}' \
  --denoiser 1 --precision bf16 --steps 3457 --batch 64 --lr 1.5e-3 --warmup 300 --ema 0.999 --seed 1 \
  --validation-tiles 64 --validate-every 500 --overwrite
normflow train -o "$1.stage2" --init "$1.stage1" --world pong --actions --context-errors 0.012 --steps 3444 --batch 64 \
  --lr 8e-4 --warmup 100 --ema 0.999 --seed 2 --validation-tiles 64 --validate-every 500 --overwrite
normflow train -o "$1.stage3" --init "$1.stage2" --world pong --actions --context-errors 0.01 --steps 3200 --batch 16 \
  --lr 3e-4 --warmup 60 --ema 0.998 --seed 3 --precision bf16 --validation-tiles 64 --validate-every 400 --overwrite
normflow convert --mean "$1.stage2" --dtype f16 "$1.stage3" "$1"
