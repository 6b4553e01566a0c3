/* normflow: errors. Copyright the normflow authors. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * NfError:
 * @NF_ERROR_NO_DEVICE: no OpenCL device fits the request
 * @NF_ERROR_DEVICE: an OpenCL call failed
 * @NF_ERROR_BUILD: a kernel did not compile; the message ends with the build log
 * @NF_ERROR_NO_MEMORY: the device or the host refused an allocation
 * @NF_ERROR_NOT_FOUND: a file, model or tensor is missing
 * @NF_ERROR_READ: a file could not be read
 * @NF_ERROR_WRITE: a file could not be written
 * @NF_ERROR_FORMAT: a file is damaged or of another kind
 * @NF_ERROR_CONFIG: a configuration is impossible, or contradicts the weights
 * @NF_ERROR_UNSUPPORTED: valid, but not implemented here
 * @NF_ERROR_ARGUMENT: a caller's value is out of range
 * @NF_ERROR_DATA: numbers are not finite, or data disagrees with its description
 * @NF_ERROR_CANCELLED: the caller's #GCancellable was cancelled
 *
 * What went wrong, for programs; the message is for people and names the file, option or value and what to
 * do. Device errors, where a comment speaks of them, are %NF_ERROR_DEVICE, %NF_ERROR_BUILD and
 * %NF_ERROR_NO_MEMORY.
 */
typedef enum
{
  NF_ERROR_NO_DEVICE,
  NF_ERROR_DEVICE,
  NF_ERROR_BUILD,
  NF_ERROR_NO_MEMORY,
  NF_ERROR_NOT_FOUND,
  NF_ERROR_READ,
  NF_ERROR_WRITE,
  NF_ERROR_FORMAT,
  NF_ERROR_CONFIG,
  NF_ERROR_UNSUPPORTED,
  NF_ERROR_ARGUMENT,
  NF_ERROR_DATA,
  NF_ERROR_CANCELLED,
} NfError;

/** NF_ERROR: domain of all errors of the library; their codes are #NfError. */
#define NF_ERROR (nf_error_quark ())
GQuark nf_error_quark (void);

/**
 * nf_is_word:
 * @text: (nullable): from a file or from afar
 *
 * Returns: whether it is made of 1 to 64 lower-case letters, digits and "-", as digests and names of forms
 * are: it can stand in a message, or on a terminal, as it is.
 */
gboolean nf_is_word (const char *text);

/**
 * nf_shorten:
 * @text: from a file or from afar
 *
 * Returns: (transfer full): its beginning, up to 64 bytes, fit for a line of a message: UTF-8, with a
 * question mark in the place of each control character.
 */
char *nf_shorten (const char *text);

G_END_DECLS
