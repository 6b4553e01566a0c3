/* normflow: a slow TARFlow in double precision. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-session.h"

/* What tests compare the library with: the flow of Zhai et al. (2024, arXiv 2412.06329) written from its
 * formulas for one token at a time in plain C, without any of the library's arithmetic. Letters for sizes are
 * those of nf-config.h. Arrays are those of NfSession in double: tokens (B, N, D), labels -1 or NULL for
 * none. */

typedef struct
{
  char *name;
  guint n_dims;
  guint64 dims[3];
  gsize n;
  double *value, *gradient;
} NfReferenceParameter;

typedef struct
{
  NfConfig *config;
  guint N, D, d, H, hidden, T, K;
  GPtrArray *parameters; /* of NfReferenceParameter */
  GHashTable *index;     /* name -> parameter */
  double *variance;      /* (N, D), of the prior */
} NfReference;

/* All parameters 0, variances 1. */
NfReference *nf_reference_new (const NfConfig *config);
void nf_reference_free (NfReference *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfReference, nf_reference_free)

/* The parameter of this official name; aborts if there is none. */
NfReferenceParameter *nf_reference_parameter (NfReference *self, const char *name);

/* Takes every value from LOOKUP (name, wanted length), which may return NULL to leave one as it is. "var" is
 * asked for, too. */
typedef const double *(*NfReferenceLookup) (const char *name, gsize n, gpointer data);
void nf_reference_fill (NfReference *self, NfReferenceLookup lookup, gpointer data);

/* Fills from a model file of this configuration; FALSE if a parameter is missing or has another length. */
gboolean nf_reference_read (NfReference *self, const char *path, GError **error);

/* Random parameters, exactly representable in single precision, of a flow that does something in every part:
 * SCALE is the spread of proj_out, about that of log-scales and shifts. */
void nf_reference_randomise (NfReference *self, guint64 seed, double scale);

/* Writes a model file. */
gboolean nf_reference_write (NfReference *self, const char *path, GError **error);

/* z (B, N, D); blocks (T, B, N, D) and log_det (B, N) may be NULL. */
void nf_reference_encode (NfReference *self, const double *x, guint B, const gint *labels, double *z,
                          double *blocks, double *log_det);

/* OPTIONS may be NULL. Samples are not snapped. */
void nf_reference_decode (NfReference *self, const double *z, guint B, const gint *labels,
                          const NfDecodeOptions *options, double *x);

/* L = mean(z²)/2 - mean log-determinant; its gradient by x (B, N, D) if not NULL, and by each parameter in
 * parameter->gradient, overwritten. */
double nf_reference_gradients (NfReference *self, const double *x, guint B, const gint *labels,
                               double *grad_x);

/* x = y + sigma² grad log p(y). */
void nf_reference_denoise (NfReference *self, const double *y, guint B, const gint *labels, double sigma,
                           double *x);

/* Images (B, C, S, S) to tokens (B, N, D) in the basis of pixels, and back. */
void nf_reference_patchify (const NfReference *self, const double *images, guint B, double *tokens);
void nf_reference_unpatchify (const NfReference *self, const double *tokens, guint B, double *images);

/* ‖a-b‖/‖b‖; infinite if one of them holds a number that is not finite. */
double nf_reference_error (const double *a, const double *b, gsize n);
