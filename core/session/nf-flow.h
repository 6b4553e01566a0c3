/* normflow: the whole flow on a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-model-private.h"
#include "nf-session.h"

/* Not installed. A chain of blocks with a queue and work memory: what sessions and trainers share. One thread
 * at a time. Data are on the device, in natural token order, at most nf_flow_get_batch() samples at a time;
 * like all operations these only enqueue. */

typedef struct _NfFlow NfFlow;

NfFlow *nf_flow_new (NfModel *model, GError **error);
void nf_flow_free (NfFlow *flow);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfFlow, nf_flow_free)

NfOps *nf_flow_get_ops (NfFlow *flow);

typedef enum
{
  NF_FLOW_ENCODE,
  NF_FLOW_DECODE,
  NF_FLOW_DECODE_GUIDED, /* two branches a sample */
  NF_FLOW_GRADIENTS,
} NfFlowWork;

/* Samples that go through at a time: as many as keep the arithmetic busy and the memory small. Takes the
 * memory that WORK needs. 0 on failure. */
guint nf_flow_prepare (NfFlow *flow, NfFlowWork work, GError **error);

/* Where samples go in (B, N, D), where results come out; overwritten by the next call of anything. */
NfBuffer *nf_flow_get_input (NfFlow *flow);
NfBuffer *nf_flow_get_output (NfFlow *flow);

/* (B, N), nats: half the squared norm of z, and the log-determinant. */
NfBuffer *nf_flow_get_half_square (NfFlow *flow);
NfBuffer *nf_flow_get_log_det (NfFlow *flow);

/* LABELS (B) or NULL for none; kept by value. */
void nf_flow_set_labels (NfFlow *flow, const gint *labels, guint B, guint branches);

/* Output z of the input x, and what the prior and the log-determinant are made of. blocks: NULL, or where the
 * value after block t of these samples goes, blocks + t blocks_stride, on the host, valid once finished. */
void nf_flow_forward (NfFlow *flow, guint B, float *blocks, gsize blocks_stride);

/* Divides the output by the prior's standard deviations, so that it is standard normal also in
 * volume-preserving models, as nf_flow_inverse() wants it; half squares follow, the log-determinant misses -
 * nf_model_get_log_deviations(). */
void nf_flow_standardise (NfFlow *flow, guint B);

/* Output dL/dx of L = g (sum of z²/2 - sum of the log-determinant); gradients of parameters are added to
 * GRADIENTS unless it is NULL. */
void nf_flow_backward (NfFlow *flow, guint B, float g, NfBuffer *gradients);

/* Output x of the input z. STEP is told how many of the (T N) token steps are done; FALSE from it ends early.
 */
gboolean nf_flow_inverse (NfFlow *flow, guint B, const NfDecodeOptions *options,
                          gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                          GError **error);
