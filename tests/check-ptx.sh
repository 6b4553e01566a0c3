#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check-ptx.sh
#
# The GPU variant of products in each precision as an NVIDIA GPU would get it: compiled to PTX by clang, and that
# by the assembler of the CUDA toolkit, where the toolkit is installed.

set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../core/kernels"
if ! command -v clang >/dev/null || ! command -v ptxas >/dev/null; then
  echo "no clang or no ptxas (of the CUDA toolkit): nothing was checked"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -r -- "$folder"' EXIT
cat common.cl rows_gpu.cl matmul.cl matmul_gpu.cl pack.cl >"$folder/kernels.cl"
for options in "" "-DNF_BF16=1" "-DNF_BF16=1 -DNF_BF16_MMA=1" "-DNF_BF16=1 -DNF_BF16_WEIGHTS=1" \
  "-DNF_BF16=1 -DNF_BF16_WEIGHTS=1 -DNF_BF16_MMA=1"; do
  # shellcheck disable=SC2086
  clang -x cl -cl-std=CL1.2 -target nvptx64-nvidia-nvcl -Xclang -finclude-default-header -Xclang -target-cpu -Xclang sm_80 \
    -Xclang -target-feature -Xclang +ptx70 -O3 -DVW=16 -DNF_GPU_KERNELS=1 $options -S -o "$folder/kernels.ptx" "$folder/kernels.cl"
  # functions of OpenCL itself are the driver's: empty ones stand for them
  sed -i -z 's/\(_Z[0-9A-Za-z_]*\n([^()]*)\n\);/\1{ ret; }/g' "$folder/kernels.ptx"
  ptxas -arch=sm_80 -o "$folder/kernels.cubin" "$folder/kernels.ptx"
  mma=$(grep -c mma.sync "$folder/kernels.ptx" || true)
  echo "products ${options:-in float32}: assembled, $mma mma.sync"
  [[ $options != *MMA* || $mma -gt 0 ]]
done
