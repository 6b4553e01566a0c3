/* normflow: progress on a terminal or in a log. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* One line on stderr that tells how far a command is: redrawn up to five times a second on a terminal;
 * elsewhere a line of its own every 30 seconds, so that log files are not flooded. One thread. */
typedef struct _NfProgress NfProgress;

/* QUIET: nothing but notes. */
NfProgress *nf_progress_new (gboolean quiet);
void nf_progress_free (NfProgress *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfProgress, nf_progress_free)

/* TRUE if a line would be shown now; for callers whose line costs something to make. */
gboolean nf_progress_due (NfProgress *self);

/* Shows the line if one is due. */
void nf_progress_update (NfProgress *self, const char *format, ...) G_GNUC_PRINTF (2, 3);

/* Prints a line that stays. */
void nf_progress_note (NfProgress *self, const char *format, ...) G_GNUC_PRINTF (2, 3);

/* Wipes the redrawn line. */
void nf_progress_clear (NfProgress *self);

/* Fits nf_model_load(): DATA is an NfProgress. */
void nf_progress_model (const char *phase, double fraction, gpointer data);

/* "1:02:03" or "2:03". (transfer full) */
char *nf_progress_duration (double seconds);

G_END_DECLS
