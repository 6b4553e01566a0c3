/* normflow: the names, shapes and places of a model's parameters. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#pragma once

#include "nf-config.h"

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
