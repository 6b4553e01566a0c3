#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# train-yuv420-32.sh OUTPUT.safetensors VIDEO...
#
# Trains a model as the bundled normflow-yuv420-32 was trained: 1280 steps of a schedule that was meant for 7000,
# then 4000 steps with a schedule of their own; then the scales are limited. About 95 minutes on two cores. What
# is between is kept in OUTPUT.stage1 and OUTPUT.stage2. See README.md.

set -euo pipefail

if [[ $# -lt 2 || $1 == -* ]]; then
  sed -n '3,/^$/s/^# \{0,1\}//p' "$0"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
output=$1
shift
common=(--scales "1,0.5" --cache 2048 --validate-every 250 --overwrite)

normflow train -o "$output.stage1" --basis dct --steps 7000 --stop-after 1280 --lr 1e-3 --ema 0.999 --seed 1 \
  "${common[@]}" "$@"
normflow train -o "$output.stage2" --init "$output.stage1" --steps 4000 --warmup 60 --lr 8e-4 --ema 0.998 --seed 2 \
  "${common[@]}" "$@"
# log 4
normflow convert --set max_log_scale=1.3862943611198906 "$output.stage2" "$output"
