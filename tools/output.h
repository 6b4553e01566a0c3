/* normflow: video that a sub-command writes. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "common.h"
#include "media.h"

G_BEGIN_DECLS

/* An nf_media_writer that gives the file its name only once it is complete, so that nothing is overwritten by
 * what fails at once. Each picture of a sequence, nf_media_is_sequence(), is such a file. */
typedef struct _NfOutput NfOutput;

/* INPUT (nullable) must be another file. COMMAND (nullable) notes what times the file does not hold. */
NfOutput *nf_output_open (NfCommand *command, const char *path, const char *input, NfPixelLayout layout,
                          guint width, guint height, int rate_n, int rate_d, const char *look,
                          GError **error);
gboolean nf_output_put (NfOutput *self, const NfFrame *frame, GError **error);
gboolean nf_output_close (NfOutput *self, GError **error);

/* After a failure or interruption, also of nf_output_close(): the frames that were written are kept, in
 * NAME.partial.EXT if there was a file of that name, and a line on stderr says so. BESIDE (nullable) is what
 * the name of a file that goes with it has more, and there is none of that either. Returns: (transfer none)
 * (nullable): where; NULL if there are none, or they are lost. */
const char *nf_output_keep (NfOutput *self, NfCommand *command, const char *beside);

/* If all is WRITTEN, nf_output_close(), else, or where that fails, nf_output_keep(). Returns: whether the
 * output is complete. */
gboolean nf_output_end (NfOutput *self, gboolean written, NfCommand *command, GError **error);

void nf_output_free (NfOutput *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfOutput, nf_output_free)

G_END_DECLS
