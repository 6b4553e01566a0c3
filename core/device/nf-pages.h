/* normflow: memory in large pages. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/* Memory of ours that a CPU computes in. What it reads once and then not for long, the parameters of a model,
 * lies in as many pages as it has 4 KiB, and finding each of them takes longer than reading it does. Where
 * the system gives pages of 2 MiB to those who ask (Linux's transparent_hugepage=madvise, or always), large
 * buffers ask. */
typedef struct _NfPages NfPages;

/* SIZE bytes of zeros that start at a multiple of 128, or of 2 MiB if there may be large pages; NULL if there
 * is no room. Thread-safe, as are the others. */
NfPages *nf_pages_new (gsize size);
void *nf_pages_get_memory (NfPages *self);
void nf_pages_free (NfPages *self);
