#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check-kernels.sh
#
# The kernels in each form, read by clang as a driver would: a warning of theirs would be on the terminal of
# everyone who uses PoCL.

set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../core/kernels"
if ! command -v clang >/dev/null; then
  echo "no clang: nothing was checked"
  exit 0
fi

# check OPTIONS FILE…
check() {
  # shellcheck disable=SC2086
  cat launch.h common.cl "${@:2}" | clang -x cl -cl-std=CL1.2 -Xclang -finclude-default-header -target x86_64-linux-gnu -march=sapphirerapids \
    -DDH=64 -DD_MAX=64 $1 -Werror -fsyntax-only -
}

# check_list OPTIONS FILE…: what may be in a command list, as one, without and with gradients
check_list() {
  check "$1 -DNF_LIST=1" rows_cpu.cl matmul.cl matmul_cpu.cl pack.cl gate.cl append.cl heads.cl "${@:2}" flow.cl pixels.cl listed.h list.cl
  check "$1 -DNF_LIST=2" rows_cpu.cl matmul.cl matmul_cpu.cl pack.cl gate.cl append.cl heads.cl "${@:2}" optimizer.cl flow.cl pixels.cl listed.h list.cl
}

forms=0
for vectors in 4 8 16; do
  for gpu in 0 1; do
    for precision in "" "-DNF_BF16=1" "-DNF_BF16=1 -DNF_BF16_WEIGHTS=1" "-DNF_INT8_WEIGHTS=1"; do
      kind=$([[ $gpu = 1 ]] && echo gpu || echo cpu)
      options="-DVW=$vectors -DNF_GPU_KERNELS=$gpu $precision"
      check "$options" "rows_$kind.cl" pack.cl gate.cl optimizer.cl matmul.cl mma.cl "matmul_$kind.cl"
      if [[ $kind = cpu ]]; then
        check "$options" append.cl heads.cl attention_cpu.cl
        check_list "$options" attention_cpu.cl
      else
        check "$options" append.cl heads.cl rows_gpu.cl mma.cl attention_mma.cl attention_gpu.cl
      fi
      check "$options" flow.cl pixels.cl
      forms=$((forms + 1))
    done
  done
done
for unit in "-DNF_BF16=1 -DNF_BF16_DOT=1" "-DNF_BF16=1 -DNF_BF16_AMX=1" "-DNF_F32_AMX=1" "-DNF_BF16=1 -DNF_BF16_WEIGHTS=1 -DNF_WEIGHTS_AMX=1" \
  "-DNF_INT8_WEIGHTS=1 -DNF_INT8_MADD=1" "-DNF_INT8_WEIGHTS=1 -DNF_INT8_MADD=1 -DNF_INT8_VNNI=1" \
  "-DNF_INT8_WEIGHTS=1 -DNF_INT8_MADD=1 -DNF_INT8_AMX=1" "-DNF_FETCH_FEW=0"; do
  options="-DVW=16 -DNF_GPU_KERNELS=0 $unit"
  amx=()
  [[ $unit != *AMX* ]] || amx=(amx.cl matmul_amx.cl)
  [[ $unit != *INT8_AMX* ]] || amx=(amx.cl matmul_amx_int8.cl)
  check "$options" rows_cpu.cl matmul.cl matmul_cpu.cl pack.cl gate.cl optimizer.cl "${amx[@]}"
  [[ $unit != *BF16_AMX* && $unit != *INT8_AMX* ]] || check "$options" amx.cl amx_probe.cl
  if [[ $unit = *BF16_AMX* ]]; then
    check_list "$options" attention_cpu.cl "${amx[@]}" attention_amx.cl
    check "$options" append.cl heads.cl attention_cpu.cl amx.cl attention_amx.cl
  else
    check_list "$options" attention_cpu.cl "${amx[@]}"
    check "$options" append.cl heads.cl attention_cpu.cl
  fi
  forms=$((forms + 1))
done
echo "kernels in $forms forms: no warning"
