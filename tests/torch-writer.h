/* normflow: a small writer of PyTorch checkpoints, good and bad, for tests. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#pragma once

#include "nf-tensor-file.h"

#include <glib.h>
#include <string.h>

/* Bytes */

static inline void
nf_put (GByteArray *bytes, const void *data, gsize n)
{
  g_byte_array_append (bytes, data, (guint)n);
}

#define NF_PUT(bytes, literal) nf_put (bytes, literal, sizeof (literal) - 1)

static inline void
nf_put_number (GByteArray *bytes, guint64 number, guint n)
{
  for (guint i = 0; i < n; i++)
    nf_put (bytes, (const guint8[]){ i < 8 ? (guint8)(number >> 8 * i) : 0 }, 1);
}

/* Pickles, in protocol 2 as PyTorch writes them */

static inline void
nf_put_string (GByteArray *pickle, const char *text)
{
  NF_PUT (pickle, "X");
  nf_put_number (pickle, strlen (text), 4);
  nf_put (pickle, text, strlen (text));
}

static inline void
nf_put_integer (GByteArray *pickle, gint64 number)
{
  NF_PUT (pickle, "\x8a\x08");
  nf_put_number (pickle, (guint64)number, 8);
}

static inline void
nf_put_integers (GByteArray *pickle, guint n, const gint64 *numbers)
{
  NF_PUT (pickle, "(");
  for (guint i = 0; i < n; i++)
    nf_put_integer (pickle, numbers[i]);
  NF_PUT (pickle, "t");
}

/* TYPE is a name such as "Float". */
static inline void
nf_put_storage (GByteArray *pickle, const char *type, const char *key, gint64 n)
{
  NF_PUT (pickle, "(");
  nf_put_string (pickle, "storage");
  NF_PUT (pickle, "ctorch\n");
  nf_put (pickle, type, strlen (type));
  NF_PUT (pickle, "Storage\n");
  nf_put_string (pickle, key);
  nf_put_string (pickle, "cpu");
  nf_put_integer (pickle, n);
  NF_PUT (pickle, "tQ");
}

typedef struct
{
  const char *type, *key;
  gint64 n; /* of the storage */
  gint64 offset;
  guint n_dims;
  gint64 dims[9], strides[9];
} NfTorchTensor;

/* METADATA is the pickle of its seventh argument, if it has one. */
static inline void
nf_put_tensor_with (GByteArray *pickle, const NfTorchTensor *tensor, const void *metadata, gsize size)
{
  NF_PUT (pickle, "ctorch._utils\n_rebuild_tensor_v2\n(");
  nf_put_storage (pickle, tensor->type, tensor->key, tensor->n);
  nf_put_integer (pickle, tensor->offset);
  nf_put_integers (pickle, tensor->n_dims, tensor->dims);
  nf_put_integers (pickle, tensor->n_dims, tensor->strides);
  NF_PUT (pickle, "\x89"
                  "ccollections\nOrderedDict\n)R");
  nf_put (pickle, metadata, size);
  NF_PUT (pickle, "tR");
}

static inline void
nf_put_tensor (GByteArray *pickle, const NfTorchTensor *tensor)
{
  nf_put_tensor_with (pickle, tensor, "", 0);
}

/* A dictionary of one float "w" with the storage "0". */
static inline GByteArray *
nf_torch_pickle (void)
{
  GByteArray *pickle = g_byte_array_new ();
  const NfTorchTensor tensor = { "Float", "0", 1, 0, 1, { 1 }, { 1 } };
  NF_PUT (pickle, "\x80\x02}");
  nf_put_string (pickle, "w");
  nf_put_tensor (pickle, &tensor);
  NF_PUT (pickle, "s.");
  return pickle;
}

/* ZIP archives */

typedef struct
{
  GByteArray *bytes, *directory;
  guint n;
  gboolean zip64; /* sizes, places and the end record are */
  /* what the next member gets instead of what is right */
  guint method, flags;
  gint64 at_shift, size_shift;
  const char *local_name;
} NfZip;

static inline void
nf_zip_init (NfZip *zip)
{
  *zip = (NfZip){ .bytes = g_byte_array_new (), .directory = g_byte_array_new () };
}

static inline void
nf_zip_clear (NfZip *zip)
{
  g_byte_array_unref (zip->bytes);
  g_byte_array_unref (zip->directory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfZip, nf_zip_clear)

static inline void
nf_zip_add (NfZip *zip, const char *name, const void *data, gsize size)
{
  const guint64 at = zip->bytes->len + (guint64)zip->at_shift, claimed = size + (guint64)zip->size_shift;
  const char *local = zip->local_name ? zip->local_name : name;

  NF_PUT (zip->bytes, "PK\3\4\0\0");
  nf_put_number (zip->bytes, zip->flags, 2);
  nf_put_number (zip->bytes, zip->method, 2);
  nf_put_number (zip->bytes, 0, 8); /* time, checksum */
  nf_put_number (zip->bytes, claimed, 4);
  nf_put_number (zip->bytes, claimed, 4);
  nf_put_number (zip->bytes, strlen (local), 2);
  nf_put_number (zip->bytes, 6, 2);
  nf_put (zip->bytes, local, strlen (local));
  NF_PUT (zip->bytes, "FB\2\0ZZ"); /* PyTorch's padding */
  nf_put (zip->bytes, data, size);

  NF_PUT (zip->directory, "PK\1\2\0\0\0\0");
  nf_put_number (zip->directory, zip->flags, 2);
  nf_put_number (zip->directory, zip->method, 2);
  nf_put_number (zip->directory, 0, 8);
  nf_put_number (zip->directory, zip->zip64 ? 0xffffffff : claimed, 4);
  nf_put_number (zip->directory, zip->zip64 ? 0xffffffff : claimed, 4);
  nf_put_number (zip->directory, strlen (name), 2);
  nf_put_number (zip->directory, zip->zip64 ? 28 : 0, 2);
  nf_put_number (zip->directory, 0, 2 + 2 + 2 + 4); /* comment, disk, attributes */
  nf_put_number (zip->directory, zip->zip64 ? 0xffffffff : at, 4);
  nf_put (zip->directory, name, strlen (name));
  if (zip->zip64)
    {
      nf_put_number (zip->directory, 1 | 24 << 16, 4);
      nf_put_number (zip->directory, claimed, 8);
      nf_put_number (zip->directory, claimed, 8);
      nf_put_number (zip->directory, at, 8);
    }
  zip->n++;
}

/* Ends the archive and returns its bytes. */
static inline GByteArray *
nf_zip_end (NfZip *zip)
{
  const guint64 at = zip->bytes->len;

  nf_put (zip->bytes, zip->directory->data, zip->directory->len);
  if (zip->zip64)
    {
      const guint64 end64 = zip->bytes->len;
      NF_PUT (zip->bytes, "PK\6\6");
      nf_put_number (zip->bytes, 44, 8);
      nf_put_number (zip->bytes, 0, 4 + 8); /* versions, disks */
      nf_put_number (zip->bytes, zip->n, 8);
      nf_put_number (zip->bytes, zip->n, 8);
      nf_put_number (zip->bytes, zip->directory->len, 8);
      nf_put_number (zip->bytes, at, 8);
      NF_PUT (zip->bytes, "PK\6\7\0\0\0\0");
      nf_put_number (zip->bytes, end64, 8);
      nf_put_number (zip->bytes, 1, 4);
    }
  NF_PUT (zip->bytes, "PK\5\6\0\0\0\0");
  nf_put_number (zip->bytes, zip->zip64 ? 0xffff : zip->n, 2);
  nf_put_number (zip->bytes, zip->zip64 ? 0xffff : zip->n, 2);
  nf_put_number (zip->bytes, zip->zip64 ? 0xffffffff : zip->directory->len, 4);
  nf_put_number (zip->bytes, zip->zip64 ? 0xffffffff : at, 4);
  nf_put_number (zip->bytes, 0, 2);
  return zip->bytes;
}

/* FILE's tensors as a dictionary, names after PREFIX; their numbers are members of the archive m. */
static inline void
nf_put_file (GByteArray *pickle, NfTensorFile *file, const char *prefix)
{
  static const char *const types[] = { [NF_DTYPE_F32] = "Float", [NF_DTYPE_F64] = "Double" };
  NF_PUT (pickle, "}(");
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      g_autofree char *key = g_strdup_printf ("%u", i), *name = g_strconcat (prefix, tensor->name, NULL);
      NfTorchTensor to = { types[tensor->dtype], key, (gint64)tensor->n_elements, 0, tensor->n_dims };
      gint64 stride = 1;
      for (guint j = tensor->n_dims; j > 0; j--)
        {
          to.dims[j - 1] = (gint64)tensor->dims[j - 1];
          to.strides[j - 1] = stride;
          stride *= to.dims[j - 1];
        }
      nf_put_string (pickle, name);
      nf_put_tensor (pickle, &to);
    }
  NF_PUT (pickle, "u");
}

/* An archive of PICKLE, which is taken, and the numbers of FILE. */
static inline GByteArray *
nf_zip_file (GByteArray *pickle, NfTensorFile *file)
{
  NfZip zip;
  nf_zip_init (&zip);
  nf_zip_add (&zip, "m/data.pkl", pickle->data, pickle->len);
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      g_autofree char *name = g_strdup_printf ("m/data/%u", i);
      nf_zip_add (&zip, name, tensor->data, tensor->n_elements * nf_dtype_size (tensor->dtype));
    }
  g_byte_array_unref (pickle);
  GByteArray *bytes = g_byte_array_ref (nf_zip_end (&zip));
  nf_zip_clear (&zip);
  return bytes;
}

/* Legacy files: everything before the object's pickle. */
static inline void
nf_put_legacy_head (GByteArray *bytes)
{
  NF_PUT (bytes, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
  NF_PUT (bytes, "\x80\x02M\xe9\x03.");
  NF_PUT (bytes, "\x80\x02}(");
  nf_put_string (bytes, "protocol_version");
  NF_PUT (bytes, "M\xe9\x03");
  nf_put_string (bytes, "little_endian");
  NF_PUT (bytes, "\x88");
  nf_put_string (bytes, "type_sizes");
  NF_PUT (bytes, "}(");
  nf_put_string (bytes, "int");
  NF_PUT (bytes, "K\4uu.");
}
