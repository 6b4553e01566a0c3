/* normflow: archives whose members lie in them as they are. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The format is in PKWARE's APPNOTE.TXT: a local header before each member, a directory of central headers
 * behind all of them, then (for large archives) the ZIP64 end record and its locator, then the end record. */
#include "nf-archive.h"
#include "nf-error-private.h"
#include "nf-json.h"

#include <string.h>

#define LOCAL 0x04034b50
#define CENTRAL 0x02014b50
#define END 0x06054b50
#define END64 0x06064b50
#define LOCATOR64 0x07064b50
#define LOCAL_SIZE 30
#define CENTRAL_SIZE 46
#define END_SIZE 22
#define END64_SIZE 56
#define LOCATOR64_SIZE 20
#define MAX_COMMENT 65535
#define EXTRA64 1

#define MAX_MEMBERS 200000
#define FLAG_ENCRYPTED (1 << 0 | 1 << 6 | 1 << 13)

typedef struct
{
  const guint8 *data;
  guint64 size;
  const char *what;
  GError **error;
} Reader;

/* A central header. */
typedef struct
{
  guint64 local; /* place of the local header */
  guint64 size, packed;
  guint method, flags, disk;
  guint name_length;
  const guint8 *name;
} Entry;

#define FAIL(reader, ...) nf_error_malformed ((reader)->error, (reader)->what, __VA_ARGS__)

static guint64
number (const guint8 *at, guint n)
{
  guint64 value = 0;
  for (guint i = n; i > 0; i--)
    value = value << 8 | at[i - 1];
  return value;
}

/* The place of the end record, which with its comment ends the file. */
static gboolean
find_end (const Reader *r, guint64 *end)
{
  for (guint64 comment = 0; comment <= MAX_COMMENT && comment + END_SIZE <= r->size; comment++)
    {
      const guint8 *at = r->data + (r->size - END_SIZE - comment);
      if (number (at, 4) == END && number (at + 20, 2) == comment)
        {
          *end = (guint64)(at - r->data);
          return TRUE;
        }
    }
  return FAIL (r, "the ZIP archive has no end; is it truncated?");
}

/* Where the directory is, its length and number of members. */
static gboolean
find_directory (const Reader *r, guint64 *at, guint64 *length, guint64 *n)
{
  guint64 end = 0;
  if (!find_end (r, &end))
    return FALSE;
  const guint8 *record = r->data + end;
  guint64 disks = number (record + 4, 2) | number (record + 6, 2), here = number (record + 8, 2);
  *n = number (record + 10, 2);
  *length = number (record + 12, 4);
  *at = number (record + 16, 4);

  guint64 directory_end = end;
  if (end >= LOCATOR64_SIZE && number (record - LOCATOR64_SIZE, 4) == LOCATOR64)
    {
      const guint64 end64 = number (record - LOCATOR64_SIZE + 8, 8);
      if (end64 > end - LOCATOR64_SIZE || end - LOCATOR64_SIZE - end64 < END64_SIZE
          || number (r->data + end64, 4) != END64
          || number (r->data + end64 + 4, 8) != end - LOCATOR64_SIZE - end64 - 12)
        return FAIL (
            r, "the ZIP archive's ZIP64 record is not where it should be: it is damaged, or has several "
               "archives as a file of torch.distributed.checkpoint (.distcp) does, which "
               "torch.distributed.checkpoint.format_utils.dcp_to_torch_save() turns into one");
      const guint8 *record64 = r->data + end64;
      disks = number (record64 + 16, 4) | number (record64 + 20, 4) | number (record - LOCATOR64_SIZE + 4, 4);
      here = number (record64 + 24, 8);
      /* What the old record can say it must say too. */
      if ((*n != 0xffff && *n != number (record64 + 32, 8))
          || (*length != 0xffffffff && *length != number (record64 + 40, 8))
          || (*at != 0xffffffff && *at != number (record64 + 48, 8)))
        return FAIL (r, "the ZIP archive's two end records disagree");
      *n = number (record64 + 32, 8);
      *length = number (record64 + 40, 8);
      *at = number (record64 + 48, 8);
      directory_end = end64;
    }
  if (disks != 0 || here != *n)
    return FAIL (r, "the ZIP archive is in several parts");
  if (*at > directory_end || *length != directory_end - *at)
    return FAIL (r, "the ZIP archive's directory is not where it should be");
  if (*n > MAX_MEMBERS || *n > *length / CENTRAL_SIZE)
    return FAIL (r, "the ZIP archive claims %" G_GUINT64_FORMAT " members", *n);
  return TRUE;
}

/* Puts the 64-bit numbers of the ZIP64 extra field where 32 bits did not suffice. */
static void
read_extra (const guint8 *extra, guint length, Entry *entry)
{
  guint64 *const large[] = { &entry->size, &entry->packed, &entry->local };
  for (guint at = 0; at + 4 <= length;)
    {
      const guint id = (guint)number (extra + at, 2), n = (guint)number (extra + at + 2, 2);
      if (n > length - at - 4)
        break;
      for (guint i = 0, from = 0; id == EXTRA64 && i < G_N_ELEMENTS (large); i++)
        if (*large[i] == 0xffffffff && from + 8 <= n)
          {
            *large[i] = number (extra + at + 4 + from, 8);
            from += 8;
          }
      at += 4 + n;
    }
}

static gboolean
check_name (const Reader *r, const char *name, gsize length, const char *shown)
{
  if (!g_utf8_validate_len (name, length, NULL) || length == 0)
    return FAIL (r, "the ZIP archive has a member whose name is no text: \"%s\"", shown);
  g_auto (GStrv) parts = g_strsplit (name, "/", -1);
  gboolean strange = strchr (name, '\\') || strchr (name, ':');
  for (char **part = parts; *part; part++)
    strange = strange || !**part || strcmp (*part, "..") == 0 || strcmp (*part, ".") == 0;
  return !strange
         || FAIL (r, "the ZIP archive has a member with a name that no checkpoint has: \"%s\"", shown);
}

/* Checks the local header against the central one, and finds the bytes. */
static gboolean
read_member (const Reader *r, const Entry *entry, guint64 directory, NfArchive *archive)
{
  g_autofree char *name = g_strndup ((const char *)entry->name, entry->name_length);
  g_autofree char *shown = nf_shorten (name);
  if (!check_name (r, name, entry->name_length, shown))
    return FALSE;
  if (entry->flags & FLAG_ENCRYPTED)
    return FAIL (r, "member %s is encrypted", shown);
  if (entry->method != 0 || entry->size != entry->packed)
    return FAIL (r, "member %s is compressed; checkpoints keep their members as they are", shown);
  if (entry->disk != 0)
    return FAIL (r, "member %s is in another part", shown);

  const guint8 *local
      = entry->local <= directory && directory - entry->local >= LOCAL_SIZE ? r->data + entry->local : NULL;
  if (!local || number (local, 4) != LOCAL || number (local + 8, 2) != 0
      || number (local + 6, 2) & FLAG_ENCRYPTED || number (local + 26, 2) != entry->name_length)
    return FAIL (r, "member %s is not where the directory says", shown);
  const guint64 header = LOCAL_SIZE + number (local + 26, 2) + number (local + 28, 2);
  if (header > directory - entry->local || entry->size > directory - entry->local - header)
    return FAIL (r, "member %s reaches beyond the members' part of the archive", shown);
  if (memcmp (local + LOCAL_SIZE, entry->name, entry->name_length) != 0)
    return FAIL (r, "member %s has another name where the directory says it is", shown);

  const NfArchiveMember member = {
    .name = g_steal_pointer (&name), .header = entry->local, .at = entry->local + header, .size = entry->size
  };
  g_array_append_val (archive->members, member);
  return TRUE;
}

static int
compare_places (gconstpointer a, gconstpointer b)
{
  const NfArchiveMember *x = a, *y = b;
  return (x->header > y->header) - (x->header < y->header);
}

/* No byte serves twice, and no name. */
static gboolean
check_members (const Reader *r, NfArchive *archive)
{
  guint64 end = 0;
  g_array_sort (archive->members, compare_places);
  for (guint i = 0; i < archive->members->len; i++)
    {
      const NfArchiveMember *member = &g_array_index (archive->members, NfArchiveMember, i);
      g_autofree char *shown = nf_shorten (member->name);
      if (member->header < end)
        return FAIL (r, "member %s overlaps with another", shown);
      end = member->at + member->size;
      if (!g_hash_table_insert (archive->index, member->name, GUINT_TO_POINTER (i + 1)))
        return FAIL (r, "the ZIP archive has member %s twice", shown);
    }
  return TRUE;
}

static gboolean
read_directory (const Reader *r, guint64 at, guint64 length, guint64 n, NfArchive *archive)
{
  const guint64 directory = at, end = at + length;
  for (guint64 i = 0; i < n; i++)
    {
      const guint8 *header = r->data + at;
      if (end - at < CENTRAL_SIZE || number (header, 4) != CENTRAL)
        return FAIL (r, "the ZIP archive's directory is damaged");
      const guint name = (guint)number (header + 28, 2), extra = (guint)number (header + 30, 2),
                  comment = (guint)number (header + 32, 2);
      if (end - at - CENTRAL_SIZE < (guint64)name + extra + comment)
        return FAIL (r, "the ZIP archive's directory is damaged");
      Entry entry = { .flags = (guint)number (header + 8, 2),
                      .method = (guint)number (header + 10, 2),
                      .packed = number (header + 20, 4),
                      .size = number (header + 24, 4),
                      .disk = (guint)number (header + 34, 2),
                      .local = number (header + 42, 4),
                      .name_length = name,
                      .name = header + CENTRAL_SIZE };
      read_extra (header + CENTRAL_SIZE + name, extra, &entry);
      if (!read_member (r, &entry, directory, archive))
        return FALSE;
      at += CENTRAL_SIZE + (guint64)name + extra + comment;
    }
  return at == end || FAIL (r, "the ZIP archive's directory has more members than it says");
}

static void
member_clear (gpointer data)
{
  g_free (((NfArchiveMember *)data)->name);
}

NfArchive *
nf_archive_read (const guint8 *data, gsize size, const char *what, GError **error)
{
  const Reader reader = { .data = data, .size = size, .what = what, .error = error };
  guint64 at, length, n;
  if (!find_directory (&reader, &at, &length, &n))
    return NULL;
  g_autoptr (NfArchive) archive = g_new0 (NfArchive, 1);
  archive->members = g_array_new (FALSE, FALSE, sizeof (NfArchiveMember));
  g_array_set_clear_func (archive->members, member_clear);
  archive->index = g_hash_table_new (g_str_hash, g_str_equal);
  if (!read_directory (&reader, at, length, n, archive) || !check_members (&reader, archive))
    return NULL;
  return g_steal_pointer (&archive);
}

void
nf_archive_free (NfArchive *archive)
{
  g_hash_table_unref (archive->index);
  g_array_unref (archive->members);
  g_free (archive);
}

const NfArchiveMember *
nf_archive_lookup (const NfArchive *archive, const char *name)
{
  const guint i = GPOINTER_TO_UINT (g_hash_table_lookup (archive->index, name));
  return i ? &g_array_index (archive->members, NfArchiveMember, i - 1) : NULL;
}
