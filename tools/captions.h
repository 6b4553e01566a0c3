/* normflow: text features of training files. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-trainer.h"

G_BEGIN_DECLS

/* A file with a tensor (captions, txt_size, txt_dim) for each training file, called as that is without its
 * folder. What "null_text", (1, txt_size, txt_dim), says is what samples are told that are told nothing. */
typedef struct _NfCaptions NfCaptions;

/* Of the files NAMES (element-type filename, not empty), in which labels are numbers: each must have some. */
NfCaptions *nf_captions_open (const char *path, GPtrArray *names, GError **error);
void nf_captions_free (NfCaptions *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfCaptions, nf_captions_free)

/* The sizes of the text in CONFIG, of the first file, if that has the shape of text. */
gboolean nf_captions_get_size (NfCaptions *self, NfConfig *config, GError **error);

/* Before what follows: reads all of it once. Whether all are finite, and of the sizes in CONFIG, which must
 * stay. */
gboolean nf_captions_check (NfCaptions *self, const NfConfig *config, GError **error);

/* What tells these captions, in their order, from others. */
const char *nf_captions_get_digest (NfCaptions *self);

/* (1, txt_size, txt_dim), or NULL. */
const float *nf_captions_get_nothing (NfCaptions *self);

/* Sets what the samples of BATCH are told, whose labels are there: where there are several captions one of
 * them, drawn by (SEED, FIRST + sample). Good until the next call. */
gboolean nf_captions_tell (NfCaptions *self, NfTrainBatch *batch, guint64 seed, guint64 first,
                           GError **error);

G_END_DECLS
