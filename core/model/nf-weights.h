/* normflow: a model's numbers, from files and into them. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-parameters.h"
#include "nf-tensor-file.h"

/* Not installed. A model's numbers. */
typedef struct
{
  NfConfig *config;
  NfParameters *parameters;
  float *theta;       /* all of them, or NULL: they are in */
  NfTensorFile *file; /* or NULL */
  float *variance;    /* (N, D): variance of the prior, or NULL: 1 everywhere */
} NfWeights;

/* Those of FILE, which stays open: every parameter of CONFIG (nullable: what FILE says of itself) there, of
 * the right shape, and nothing else but the official buffers. */
NfWeights *nf_weights_open (NfTensorFile *file, const NfConfig *config, GError **error);
NfWeights *nf_weights_new (const NfConfig *config);

/* The variance, never NULL from now on. */
float *nf_weights_need_variance (NfWeights *weights);

/* The numbers of one parameter, which are finite. */
gboolean nf_weights_get (const NfWeights *weights, const NfParameter *parameter, float *out, GError **error);

/* theta of all parameters in memory of their own; NULL on failure. */
float *nf_weights_get_all (const NfWeights *weights, GError **error);
void nf_weights_free (NfWeights *weights);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfWeights, nf_weights_free)

/* Writes a model file: the parameters, the official buffers, and in its metadata "config" and METADATA's
 * strings. */
gboolean nf_weights_write (const NfWeights *weights, const char *path, GHashTable *metadata, GError **error);

/* Told which share of the numbers has been read; FALSE with an error stops it. */
typedef gboolean (*NfWeightsStep) (double fraction, gpointer data, GError **error);

/* SHA-256 of configuration and numbers, 64 hexadecimal digits; NULL if a file's numbers are not finite, or
 * STEP (may be NULL) stopped it. */
char *nf_weights_digest (const NfWeights *weights, NfWeightsStep step, gpointer data, GError **error);
