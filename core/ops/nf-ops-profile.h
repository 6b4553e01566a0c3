/* normflow: where time goes. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-ops.h"

/* Not installed, and only for nf-ops.c: the times of commands of a queue that notes them. One thread at a
 * time. */
typedef struct _NfOpsProfile NfOpsProfile;

NfOpsProfile *nf_ops_profile_new (void);

/* Where the event of the command that is enqueued next goes: under WHAT, and DETAIL unless it is "". Good
 * until another one is noted. */
cl_event *nf_ops_profile_note (NfOpsProfile *self, const char *what, const char *detail);

/* What nf_ops_end_profile() returns. Takes SELF; waits for what was noted, as does freeing. */
GPtrArray *nf_ops_profile_end (NfOpsProfile *self);
void nf_ops_profile_free (NfOpsProfile *self);
