#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# train-bounce-64.sh OUTPUT.safetensors
#
# Trains a model as the bundled normflow-bounce-64 was trained: on the world bounce, simulated on the fly; 10647
# steps of a schedule for 20000, then 4300 with a schedule of their own. Then, with positions in a frame and a past
# with errors, 532 and 256 smaller steps, the mean of what was before and after these, 700 steps more, and once more
# the mean, in half precision. What is between is OUTPUT.stage1 to OUTPUT.stage5, OUTPUT.placed and OUTPUT.mean. On a
# large GPU the first two stages take a quarter of an hour; the others take about as long on two cores with AMX. See
# README.md.

set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi

normflow train -o "$1.stage1" --world bounce --config '{"family": "starflow", "img_size": 64, "patch_size": 16,
  "channels": 64, "num_blocks": 2, "layers_per_block": [1, 4], "head_dim": 32, "top_block_channels": 256,
  "rope": true, "rope_1d": true, "sos": true, "use_softplus": true, "soft_clip": 4, "use_final_norm": true,
  "cond_top_only": true, "seq_order": "L2R", "temporal_causal": 1, "shallow_block_local": true, "frames": 8,
  "pixel_layout": "rgb", "noise_type": "gaussian", "noise_std": 0.1}' \
  --steps 20000 --stop-after 10647 --batch 64 --lr 1.5e-3 --warmup 300 --ema 0.999 --seed 1 \
  --validation-tiles 64 --validate-every 500 --overwrite
normflow train -o "$1.stage2" --init "$1.stage1" --world bounce --steps 4300 --batch 64 --lr 6.5e-4 --warmup 50 \
  --ema 0.999 --seed 2 --validation-tiles 64 --validate-every 500 --overwrite
normflow convert --dtype f16 --set frame_positions=true "$1.stage2" "$1.placed"
normflow train -o "$1.stage3" --init "$1.placed" --world bounce --steps 2400 --stop-after 532 --batch 16 --lr 4e-4 \
  --warmup 50 --ema 0.997 --context-errors 0.05 --seed 3 --validation-tiles 0 --precision bf16 --overwrite
normflow train -o "$1.stage4" --init "$1.stage3" --world bounce --steps 5500 --stop-after 256 --batch 16 --lr 3e-4 \
  --warmup 50 --ema 0.998 --context-errors 0.01 --seed 4 --validation-tiles 0 --precision bf16 --overwrite
normflow convert --mean "$1.stage4" --dtype f16 "$1.placed" "$1.mean"
normflow train -o "$1.stage5" --init "$1.mean" --world bounce --steps 700 --batch 16 --lr 2.5e-4 --warmup 40 \
  --ema 0.99 --context-errors 0.01 --seed 5 --validation-tiles 0 --precision bf16 --overwrite
normflow convert --mean "$1.stage5" --dtype f16 "$1.mean" "$1"
