/* normflow: actions beside a video. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include "nf-error.h"

G_BEGIN_DECLS

/* An actions file is NDJSON, a line a frame, frames from 0 without a gap:
 *
 *   {"frame":0,"pts":0,"action":1}
 *
 * `action` of frame t is what happens between it and frame t+1; 0 is none. `pts` is the frame's time in
 * nanoseconds, or null. A reader ignores other members, and empty lines. The file of a video is named like it
 * with `.actions.ndjson` after it. */

#define NF_ACTIONS_SUFFIX ".actions.ndjson"
#define NF_ACTIONS_NO_TIME G_MAXUINT64

/**
 * nf_actions_read:
 * @n_actions: actions there are, above which one is refused; 0 for any up to 65535
 *
 * Returns: (transfer full): guint of each frame; NULL with %NF_ERROR_NOT_FOUND, %NF_ERROR_READ or, naming the
 * line, %NF_ERROR_FORMAT.
 */
GArray *nf_actions_read (const char *path, guint n_actions, GError **error);

/** NfActionsWriter: Writes an actions file, line by line. One thread at a time. */
typedef struct _NfActionsWriter NfActionsWriter;

/** nf_actions_writer_open: Replaces what is at @path. Returns: (transfer full): NULL with %NF_ERROR_WRITE. */
NfActionsWriter *nf_actions_writer_open (const char *path, GError **error);

/**
 * nf_actions_writer_put:
 * @pts: nanoseconds, or %NF_ACTIONS_NO_TIME
 *
 * Writes the next frame's line.
 */
gboolean nf_actions_writer_put (NfActionsWriter *self, guint64 pts, guint action, GError **error);

/** nf_actions_writer_rewind: Removes the lines of @frame and what follows it; @frame is at most the number of
 * lines. */
gboolean nf_actions_writer_rewind (NfActionsWriter *self, guint64 frame, GError **error);

/** nf_actions_writer_close: Flushes; FALSE if not all of it could be written. The writer is still to be
 * freed. */
gboolean nf_actions_writer_close (NfActionsWriter *self, GError **error);
void nf_actions_writer_free (NfActionsWriter *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfActionsWriter, nf_actions_writer_free)

G_END_DECLS
