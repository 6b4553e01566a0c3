/* normflow: the OpenCL devices that there are. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-cpu.h"
#include "nf-device-private.h"

/* Not installed, and only for nf-device.c. A CPU or GPU that a driver offers, before it is opened. */
typedef struct
{
  NfDeviceInfo *info;
  cl_platform_id platform;
  cl_device_id id;
} NfCandidate;

#define NF_MMA_CAPABILITY 8 /* NVIDIA's mma.sync with bfloat16 and with tf32 (PTX ISA 7.0) */

/* All there are, which the array owns; CPU is the machine's. NULL with NF_ERROR_NO_DEVICE if the OpenCL
 * loader fails. */
GPtrArray *nf_candidates_list (const NfCpu *cpu, GError **error);

/* The first usable one that fits NAME, GPUs before CPUs if NAME leaves that open. Else NULL with
 * NF_ERROR_NO_DEVICE: why, and what there is. */
NfCandidate *nf_candidates_choose (GPtrArray *candidates, const char *name, GError **error);

/* A context with it alone. */
cl_context nf_candidate_open (const NfCandidate *candidate, GError **error);

/* Everything about device and driver that a compiled program may depend on; free with g_free(). */
char *nf_candidate_identify (const NfCandidate *candidate, const NfCpu *cpu);

gboolean nf_cl_has_extension (cl_device_id id, const char *name);
