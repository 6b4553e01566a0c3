/* normflow: actions beside a video. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include "nf-error.h"

G_BEGIN_DECLS

/* An actions file is NDJSON, a line a frame, frames from 0 without a gap:
 *
 *   {"frame":0,"pts":0,"action":1}
 *
 * `action` of frame t is what happens between it and frame t+1; 0 is none, and null is unknown, which is not
 * the same to a model. In its place a file may have continuous controls, as many numbers in each line; a
 * model is told of unknown ones by zeros:
 *
 *   {"frame":0,"pts":0,"controls":[0.5,-1]}
 *
 * `pts` is the frame's time in nanoseconds, 0 to %G_MAXINT64, or null, or left out. A reader ignores other
 * members, and empty lines. The file of a video is named like it with `.actions.ndjson` after it. */

/** NF_ACTIONS_SUFFIX: what follows the name of a video in that of its actions file. */
#define NF_ACTIONS_SUFFIX ".actions.ndjson"

/** NF_ACTIONS_NO_TIME: stands for a time that is not known. */
#define NF_ACTIONS_NO_TIME G_MAXUINT64

/** NF_ACTIONS_UNKNOWN: stands for an action that is not known. */
#define NF_ACTIONS_UNKNOWN G_MAXUINT

/**
 * nf_actions_read:
 * @n_actions: actions there are, above which one is refused; 0 for any up to 65535
 *
 * Returns: (transfer full): guint of each frame, or %NF_ACTIONS_UNKNOWN; NULL with %NF_ERROR_NOT_FOUND,
 * %NF_ERROR_READ or, naming the line, %NF_ERROR_FORMAT.
 */
GArray *nf_actions_read (const char *path, guint n_actions, GError **error);

/** nf_actions_read_known: The same for what has to know each action, as a world does: null is
 * %NF_ERROR_FORMAT. Returns: (transfer full): as nf_actions_read() does, each one known. */
GArray *nf_actions_read_known (const char *path, guint n_actions, GError **error);

/** NF_ACTIONS_MAX_CONTROLS: most numbers that control a frame. */
#define NF_ACTIONS_MAX_CONTROLS 1024

/**
 * nf_actions_has_controls:
 *
 * Returns: whether the first line of the file at @path has controls in the place of an action; FALSE too if
 * it cannot be read, which reading it will say.
 */
gboolean nf_actions_has_controls (const char *path);

/**
 * nf_actions_read_controls:
 * @n_controls: (out): numbers of each frame, 1 to %NF_ACTIONS_MAX_CONTROLS; 0 if the file has no frame
 *
 * Returns: (transfer full): floats, @n_controls of each frame; NULL with %NF_ERROR_NOT_FOUND, %NF_ERROR_READ
 * or, naming the line, %NF_ERROR_FORMAT (other than finite numbers, or not as many as in the first line).
 */
GArray *nf_actions_read_controls (const char *path, guint *n_controls, GError **error);

/** NfActionsWriter: Writes an actions file, line by line. One thread at a time; once it is closed it can only
 * be freed. */
typedef struct _NfActionsWriter NfActionsWriter;

/** nf_actions_writer_open: Replaces what is at @path. Returns: (transfer full): NULL with %NF_ERROR_WRITE. */
NfActionsWriter *nf_actions_writer_open (const char *path, GError **error);

/**
 * nf_actions_writer_put:
 * @action: 0 to 65535, or %NF_ACTIONS_UNKNOWN
 * @pts: nanoseconds, at most %G_MAXINT64, or %NF_ACTIONS_NO_TIME
 *
 * Writes the next frame's line, which can be read at once; all of it or, if that fails, nothing.
 *
 * Returns: FALSE with %NF_ERROR_WRITE; with %NF_ERROR_ARGUMENT, and nothing written, if the file's lines are
 * of controls, or @action is above 65535 or @pts out of range: more than nf_actions_read() takes.
 */
gboolean nf_actions_writer_put (NfActionsWriter *self, guint64 pts, guint action, GError **error);

/**
 * nf_actions_writer_put_controls:
 * @controls: (array length=n): finite numbers, as many as in the first line
 * @n: 1 to %NF_ACTIONS_MAX_CONTROLS
 *
 * The same with controls in the place of an action.
 *
 * Returns: FALSE with %NF_ERROR_WRITE; with %NF_ERROR_ARGUMENT, and nothing written, if the file's lines are
 * of actions, or @controls, @n or @pts are others.
 */
gboolean nf_actions_writer_put_controls (NfActionsWriter *self, guint64 pts, const float *controls, guint n,
                                         GError **error);

/**
 * nf_actions_writer_rewind:
 * @frame: at most the number of lines
 *
 * Removes the lines of @frame and what follows it.
 *
 * Returns: FALSE with %NF_ERROR_WRITE, as of what is no plain file.
 */
gboolean nf_actions_writer_rewind (NfActionsWriter *self, guint64 frame, GError **error);

/** nf_actions_writer_close: Closes the file; the writer is still to be freed. Returns: FALSE with
 * %NF_ERROR_WRITE if not all of it, of lines before, too, could be written. */
gboolean nf_actions_writer_close (NfActionsWriter *self, GError **error);

/** nf_actions_writer_free: @self: (nullable) (transfer full): what is freed. Its file is closed, if it is
 * open, and nothing said of what could not be written. */
void nf_actions_writer_free (NfActionsWriter *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfActionsWriter, nf_actions_writer_free)

G_END_DECLS
