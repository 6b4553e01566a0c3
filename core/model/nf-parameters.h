/* normflow: the names, shapes and places of a model's parameters. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#pragma once

#include "nf-config.h"
#include "nf-tensor-file.h"

/* Not installed. All trainable values lie in one array, one parameter after the other in the order of this
 * table; gradients, moments and averages have the same places. Names are those of the official state_dict. */

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
  gsize at;
  gsize n;
} NfParameter;

typedef struct
{
  GArray *list;      /* of NfParameter */
  GHashTable *index; /* name -> 1 + place in the list */
  gsize n;           /* values of all */
  gsize n_flow;      /* values of the flow; those of a learned denoiser follow */
} NfParameters;

/* Prefix of the denoiser's names. */
#define NF_DENOISER "learnable_self_denoiser"

NfParameters *nf_parameters_new (const NfConfig *config);
void nf_parameters_free (NfParameters *parameters);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfParameters, nf_parameters_free)

/* NULL if there is none of this name. */
const NfParameter *nf_parameters_lookup (const NfParameters *parameters, const char *name);

/* Where the parameter of this printf-style name lies; it must exist. */
gsize nf_parameters_at (const NfParameters *parameters, const char *format, ...) G_GNUC_PRINTF (2, 3);

/* Fills THETA as the official code initialises. */
void nf_parameters_initialise (const NfParameters *parameters, guint64 seed, float *theta);

/* A model's numbers on the host. */
typedef struct
{
  NfConfig *config;
  NfParameters *parameters;
  float *theta;
  float *variance; /* (N, D): variance of the prior, 1 unless volume-preserving */
} NfWeights;

/* Reads and checks FILE: every parameter there, of the right shape, finite, and nothing else but the official
 * buffers. */
NfWeights *nf_weights_read (NfTensorFile *file, GError **error);
NfWeights *nf_weights_new (const NfConfig *config);
void nf_weights_free (NfWeights *weights);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfWeights, nf_weights_free)

/* Writes a model file: the parameters, the official buffers, and in its metadata "config" and METADATA's
 * strings. */
gboolean nf_weights_write (const NfWeights *weights, const char *path, GHashTable *metadata, GError **error);

/* SHA-256 of configuration and numbers, 64 hexadecimal digits. */
char *nf_weights_digest (const NfWeights *weights);
