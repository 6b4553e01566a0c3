/* normflow: the names, shapes and places of a model's parameters. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#pragma once

#include "nf-config.h"
#include "nf-tensor-file.h"

/* Not installed. All trainable values lie in one array; gradients, moments and averages have the same places.
 * First come those that kernels read as they are, then the matrices, of which only packing reads: a model
 * that does not learn has no need of these on its device. Names are those of the official state_dict. */

typedef enum
{
  NF_PARAMETER_WEIGHT,    /* of a linear layer: initially uniform ±1/sqrt(fan-in) */
  NF_PARAMETER_BIAS,      /* of a linear layer: the same */
  NF_PARAMETER_ZERO,      /* initially 0 */
  NF_PARAMETER_ONE,       /* initially 1 */
  NF_PARAMETER_EMBEDDING, /* initially 0.01 × normal */
  NF_PARAMETER_NORMAL,    /* initially normal */
} NfParameterKind;

typedef struct
{
  char *name;
  NfParameterKind kind;
  guint fan_in;
  guint n_dims;
  guint64 dims[3];
  gboolean matrix; /* of a linear layer: read by packing alone */
  gsize listed;    /* where it begins among all values in the order of the list */
  gsize at;        /* and in the array */
  gsize n;
} NfParameter;

typedef struct
{
  GArray *list;      /* of NfParameter, in the order in which official modules have them */
  GHashTable *index; /* name -> 1 + place in the list */
  gsize n;           /* values of all */
  gsize n_kept;      /* values of those that are no matrices */
} NfParameters;

/* Prefix of the denoiser's names. */
#define NF_DENOISER "learnable_self_denoiser"

NfParameters *nf_parameters_new (const NfConfig *config);
void nf_parameters_free (NfParameters *parameters);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfParameters, nf_parameters_free)

/* NULL if there is none of this name. */
const NfParameter *nf_parameters_lookup (const NfParameters *parameters, const char *name);

/* The one that begins AT. */
const NfParameter *nf_parameters_find (const NfParameters *parameters, gsize at);

/* Fills THETA as the official code initialises. */
void nf_parameters_initialise (const NfParameters *parameters, guint64 seed, float *theta);

/* From THETA to all values in the order of the list, as files of training and callers have them, and back. */
void nf_parameters_list (const NfParameters *parameters, const float *theta, float *listed);
void nf_parameters_unlist (const NfParameters *parameters, const float *listed, float *theta);

/* A model's numbers. */
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
