/* normflow: devices and what they compute by, as text. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-device-private.h"

/* Not installed, and only for nf-device.c and nf-candidate.c. */

typedef enum
{
  NF_KERNELS_BY_DEVICE,
  NF_KERNELS_CPU,
  NF_KERNELS_GPU,
} NfKernels;

/* How kernels are compiled, as far as it was said. */
typedef struct
{
  NfKernels kernels;
  guint vectors;                 /* 0: the device decides */
  const char *precision;         /* NULL: not said */
  const char *bf16, *f32, *int8; /* likewise */
  const char *launch;            /* likewise */
} NfDeviceForm;

/* By #NfPrecision, #NfBf16Form, #NfF32Form, #NfInt8Form, and "lists" before "each"; NULL at the end. */
extern const char *const nf_precision_names[];
extern const char *const nf_bf16_names[];
extern const char *const nf_f32_names[];
extern const char *const nf_int8_names[];
extern const char *const nf_launch_names[];

/* What to open: the caller's word SPEC (nullable), where it says nothing the environment's, else "auto". What
 * is only preferred of products goes to PREFERRED. NAME is to be freed. */
gboolean nf_device_spec_resolve (const char *spec, char **name, NfDeviceForm *form, NfDeviceForm *preferred,
                                 GError **error);

/* TRUE if NAME is PLATFORM:DEVICE. */
gboolean nf_device_spec_is_index (const char *name);

/* What nf_device_get_arithmetic() says of these; it is never freed. */
const char *nf_arithmetic_name (const char *form, gboolean gpu_kernels, guint vector_width);
