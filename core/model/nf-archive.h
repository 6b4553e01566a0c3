/* normflow: archives whose members lie in them as they are. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-error.h"

/* Not installed. The stored members of a ZIP archive in memory, as PyTorch and NumPy write them. */

typedef struct
{
  char *name;
  guint64 header, at; /* places of its local header and of its bytes in the archive */
  guint64 size;
} NfArchiveMember;

typedef struct
{
  GArray *members;   /* of NfArchiveMember, in order of their places */
  GHashTable *index; /* name -> 1 + place in members */
} NfArchive;

/* Reads the directory of the archive in the SIZE bytes of DATA. Archives that are compressed, encrypted, in
 * several parts, that name a member twice, that have names with "..", or whose directory and members
 * disagree, overlap or lie outside are refused with %NF_ERROR_FORMAT; WHAT says in messages what it is. */
NfArchive *nf_archive_read (const guint8 *data, gsize size, const char *what, GError **error);
void nf_archive_free (NfArchive *archive);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfArchive, nf_archive_free)

/* NULL if there is none of this name. */
const NfArchiveMember *nf_archive_lookup (const NfArchive *archive, const char *name);
