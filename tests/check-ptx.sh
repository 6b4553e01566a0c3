#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check-ptx.sh
#
# The GPU variant of all kernels in each precision as an NVIDIA GPU would get them: compiled to PTX by clang, and that by the
# assembler of the CUDA toolkit, where the toolkit is installed.

set -euo pipefail
shopt -s inherit_errexit # what fails in assemble() fails

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../core/kernels"
if ! command -v clang >/dev/null || ! command -v ptxas >/dev/null; then
  echo "no clang or no ptxas (of the CUDA toolkit): nothing was checked"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -r -- "$folder"' EXIT

# assemble OPTIONS FILE…: how many mma.sync there are
assemble() {
  local options=$1
  shift
  cat launch.h common.cl "$@" >"$folder/kernels.cl"
  # shellcheck disable=SC2086
  clang -x cl -cl-std=CL1.2 -target nvptx64-nvidia-nvcl -Xclang -finclude-default-header -Xclang -target-cpu -Xclang sm_80 \
    -Xclang -target-feature -Xclang +ptx70 -O3 -DVW=16 -DNF_GPU_KERNELS=1 $options -S -o "$folder/kernels.ptx" "$folder/kernels.cl"
  # functions of OpenCL itself are the driver's: empty ones stand for them
  sed -i -z 's/\(_Z[0-9A-Za-z_]*\n([^()]*)\n\);/\1{ ret; }/g' "$folder/kernels.ptx"
  ptxas -arch=sm_80 -o "$folder/kernels.cubin" "$folder/kernels.ptx"
  grep -c mma.sync "$folder/kernels.ptx" || true
}

for options in "" "-DNF_F32_MMA=1" "-DNF_BF16=1" "-DNF_BF16=1 -DNF_BF16_MMA=1" "-DNF_BF16=1 -DNF_BF16_WEIGHTS=1" \
  "-DNF_BF16=1 -DNF_BF16_WEIGHTS=1 -DNF_BF16_MMA=1" "-DNF_INT8_WEIGHTS=1"; do
  products=$(assemble "$options" rows_gpu.cl pack.cl gate.cl optimizer.cl matmul.cl mma.cl matmul_gpu.cl)
  [[ $options != *MMA* || $products -gt 0 ]]
  for head in 64 20 128; do
    attention=$(assemble "$options -DDH=$head" append.cl heads.cl rows_gpu.cl mma.cl attention_mma.cl attention_gpu.cl)
    case $options/$head in
      *WEIGHTS* | */128) [[ $attention -eq 0 ]] ;;
      *MMA*) [[ $attention -gt 0 ]] ;;
    esac
  done
  echo "${options:-in float32}: assembled, $products mma.sync in products"
done
tokens=$(assemble -DD_MAX=24 flow.cl pixels.cl)
[[ $tokens -eq 0 ]]
echo "tokens and pixels: assembled"
