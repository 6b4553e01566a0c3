/* normflow: what drafts of pictures go by. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/* Not installed. Of each of a model's T blocks two linear functions, by which nf-flow-draft.c finds D values
 * of a token in fewer passes: slopes (D, D), how a token answers to the one before it, and a first guess
 * (2 D + 1, D) of a token from the one before it, from its latent, and 1. They are the least squares of rows
 * that were added, of any number of pictures. They decide how long decoding takes, never what comes out. One
 * thread at a time. */
typedef struct _NfHints NfHints;

NfHints *nf_hints_new (guint T, guint D);
void nf_hints_free (NfHints *hints);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfHints, nf_hints_free)

/* In block t the token after one that was moved by MOVED (D) moved by ANSWER (D). */
void nf_hints_add_answer (NfHints *hints, guint t, const float *moved, const float *answer);

/* In block t a token X (D) had the latent Z (D) and came after BEFORE (D). */
void nf_hints_add_token (NfHints *hints, guint t, const float *before, const float *z, const float *x);

/* Fits everything to all rows so far. PICTURES: of how many they are. */
void nf_hints_fit (NfHints *hints, guint pictures);

/* Floats of a block. */
#define NF_HINTS_FLOATS(D) ((3 * (gsize)(D) + 1) * (gsize)(D))

/* (T, 3 D + 1, D): of each block slopes, then guess. */
const float *nf_hints_get (NfHints *hints);

/* As safetensors: "slopes" (T, D, D), "guess" (T, 2 D + 1, D), and DIGEST of the model. */
gboolean nf_hints_write (NfHints *hints, const char *path, const char *digest, GError **error);

/* The hints in the file PATH, which must be those of the model DIGEST, of T blocks and D values, and finite;
 * nothing can be added to them. NULL with %NF_ERROR_NOT_FOUND if there is no file, %NF_ERROR_DATA or others
 * if there is something wrong with it. */
NfHints *nf_hints_read (const char *path, const char *digest, guint T, guint D, GError **error);

/* Where hints of the model file MODEL are found: beside it, "x.hints.safetensors" of "x.safetensors". */
char *nf_hints_path_beside (const char *model);

/* Where a session keeps those that it measured: in the cache, NULL if there is to be none. */
char *nf_hints_path_cached (const char *digest);
