/* normflow: files that are written. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* A name beside PATH, hidden and unused, with the same extension: to write to before renaming. (transfer
 * full) */
char *nf_temporary_name (const char *path, GError **error);

/* Refuses a name (nullable) that says something else than ENDING (without the dot): the file would not be
 * what its name says, and is most likely one to read. One without an ending, or with one that says nothing,
 * is fine. */
gboolean nf_check_ending (const char *path, const char *ending, GError **error);

/* Refuses an output, which is to get its name once it is complete, that is INPUT (nullable), a folder or no
 * regular file, or for which there is no folder, or none that can be written to. */
gboolean nf_check_output (const char *path, const char *input, GError **error);

/* Refuses the same of FILES, and any that is one of INPUTS or another output. (element-type filename), NULL
 * among them are none. STREAM (nullable) is an output that is written line by line where it is: it may be a
 * pipe or a device. */
gboolean nf_check_outputs (const char *stream, const GPtrArray *files, const GPtrArray *inputs,
                           GError **error);

/* Whether two names are of one regular file, or would be of one that is not there yet. */
gboolean nf_same_file (const char *a, const char *b);

/* Flushes TEMPORARY to the disk and gives it its name. */
gboolean nf_publish (const char *temporary, const char *path, GError **error);

/* Says WANTED instead of NAME in the error's message. */
void nf_error_rename (GError *error, const char *name, const char *wanted);

G_END_DECLS
