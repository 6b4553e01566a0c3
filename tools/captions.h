/* normflow: text features of training files. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-trainer.h"

G_BEGIN_DECLS

/* A file with a tensor (B, txt_size, txt_dim) for each training file, called as that is without its folder:
 * the text features of its B captions. What "null_text", (1, txt_size, txt_dim), says is what samples are
 * told that are told nothing. */
typedef struct _NfCaptions NfCaptions;

NfCaptions *nf_captions_open (const char *path, GError **error);
void nf_captions_free (NfCaptions *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfCaptions, nf_captions_free)

/* The sizes of the text in CONFIG, of the first file that has one. */
void nf_captions_get_size (NfCaptions *self, NfConfig *config);

/* Before the first batch: each of NAMES (element-type filename), which labels are numbers in, has its
 * captions, as CONFIG sees text. */
gboolean nf_captions_check (NfCaptions *self, GPtrArray *names, const NfConfig *config, GError **error);

/* Sets what the samples of BATCH are told, whose labels are there: where there are several captions one of
 * them, drawn by (SEED, FIRST + sample). Good until the next call. */
gboolean nf_captions_tell (NfCaptions *self, NfTrainBatch *batch, guint64 seed, guint64 first,
                           GError **error);

G_END_DECLS
