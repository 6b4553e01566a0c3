/* normflow: a CPU's matrix unit. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-cpu.h"
#include "nf-program-cache.h"

/* Not installed, and only for nf-device.c. NULL if kernels on the CPU of INFO may use AMX: CPU, which it is,
 * has it (for bytes, if BYTES, else for bfloat16), its driver compiles inline assembly, Linux lets this
 * process use it, and a small product by PROGRAMS (with -DNF_INT8_AMX=1; -DNF_BF16_AMX=1 or -DNF_F32_AMX=1)
 * is right. Else why not. The permission is the process's, also for threads that a driver has already
 * started, and is never given back. */
char *nf_amx_find_fault (const NfDeviceInfo *info, const NfCpu *cpu, gboolean bytes, NfProgramCache *programs,
                         cl_context context, cl_device_id id);
