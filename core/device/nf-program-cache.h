/* normflow: compiled kernels, in memory and on disk. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-device-private.h"

/* Not installed, and only for nf-device.c and nf-candidate.c. Compiled programs of one device; any thread may
 * ask. */
typedef struct _NfProgramCache NfProgramCache;

/* IDENTITY names device, driver and everything else besides source and options that decides what a binary is.
 * DEFINES are compiler options that every program of the device gets. ID and CONTEXT must outlive the cache.
 */
NfProgramCache *nf_program_cache_new (cl_context context, cl_device_id id, const char *identity,
                                      const char *defines);
void nf_program_cache_free (NfProgramCache *self);

/* Returns: (transfer none): where PoCL keeps what it compiles, or a folder above. */
const char *nf_pocl_cache_folder (void);

/* The DEFINES it was made with. */
const char *nf_program_cache_get_defines (NfProgramCache *self);

/* See nf_device_get_program(). */
cl_program nf_program_cache_get (NfProgramCache *self, const char *const *files, const char *options,
                                 GError **error);

/* Seconds spent so far in compiling and loading. Does not wait for a compilation in progress. */
double nf_program_cache_get_seconds (NfProgramCache *self);
