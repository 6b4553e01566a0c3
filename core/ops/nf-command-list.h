/* normflow: many launches as one. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kernels/listed.h"
#include "nf-device-private.h"

/* Not installed. Commands are written one after the other into memory that host and device share, and one
 * kernel runs them (core/kernels/list.cl): a launch takes longer than most kernels of a step of decoding. One
 * thread at a time. */
typedef struct _NfCommandList NfCommandList;

/* Of a kernel, as for clSetKernelArg(): SIZE bytes at VALUE. Of a buffer VALUE is its cl_mem, or NULL if
 * there is none. */
typedef struct
{
  gsize size;
  const void *value;
  gboolean is_buffer;
  const NfBuffer *buffer;
} NfArgument;

/* A list for PROGRAM, in which nf_list is, upon QUEUE. NULL without an error if the device does not see
 * memory where the host does. */
NfCommandList *nf_command_list_new (NfDevice *device, cl_program program, cl_command_queue queue,
                                    GError **error);

/* Lists that were enqueued hold nothing any more: they must be done, or are waited for. */
void nf_command_list_retire (NfCommandList *self);

/* Waits for what was enqueued. */
void nf_command_list_free (NfCommandList *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfCommandList, nf_command_list_free)

/* FALSE if these are too many for a command. None of them is 0. */
gboolean nf_command_list_takes (const gsize items[3]);

/* One more command of ITEMS along each axis, of which x changes first, or, BY_COLUMNS, last. Buffers may be
 * freed from here on. */
cl_int nf_command_list_add (NfCommandList *self, NfListed command, const gsize items[3], gboolean by_columns,
                            const NfArgument *arguments, guint n);

/* COUNT rows of FLOATS floats, so many floats apart; likewise. */
gboolean nf_command_list_takes_rows (gsize floats, guint count);
cl_int nf_command_list_copy (NfCommandList *self, const NfBuffer *from, gsize from_at, gsize from_step,
                             const NfBuffer *to, gsize to_at, gsize to_step, gsize floats, guint count);
cl_int nf_command_list_fill (NfCommandList *self, const NfBuffer *x, gsize at, float value, gsize floats);

/* Another queue; what was added must be enqueued. */
void nf_command_list_set_queue (NfCommandList *self, cl_command_queue queue);

/* Enqueues what was added. */
cl_int nf_command_list_flush (NfCommandList *self);
