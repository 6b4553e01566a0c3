/* normflow: damaged PyTorch checkpoints of every kind. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Good checkpoints of both forms are damaged in pickle, directory and bytes, the same way each time. Whatever
 * comes out is opened: either it is refused with one error that names the file, or everything in it can be
 * used. Built with AddressSanitizer this finds reads outside of the file. */
#include "fuzz.h"
#include "torch-writer.h"

/* A trainer's dictionary with two sets of tensors, some of them strided and shared. */
static void
put_object (GByteArray *pickle)
{
  static const NfTorchTensor tensors[] = {
    { "Float", "0", 6, 0, 2, { 2, 3 }, { 3, 1 } },      { "Float", "0", 6, 0, 2, { 3, 2 }, { 1, 3 } },
    { "BFloat16", "1", 8, 1, 1, { 3 }, { 2 } },         { "Long", "2", 3, 2 },
    { "Half", "3", 8, 0, 3, { 2, 1, 4 }, { 4, 4, 1 } }, { "Bool", "4", 7, 7, 1, { 0 }, { 1 } },
  };
  NF_PUT (pickle, "\x80\x02}q\0(");
  nf_put_string (pickle, "model");
  NF_PUT (pickle, "ccollections\nOrderedDict\n)Rq\1(");
  for (guint i = 0; i < G_N_ELEMENTS (tensors); i++)
    {
      g_autofree char *name = g_strdup_printf ("module.blocks.%u.weight", i);
      nf_put_string (pickle, name);
      nf_put_tensor (pickle, &tensors[i]);
    }
  NF_PUT (pickle, "u}");
  nf_put_string (pickle, "_metadata");
  NF_PUT (pickle, "h\1sb");
  /* h\1 is the dictionary itself: held from here on, but only after it was filled */
  nf_put_string (pickle, "step");
  NF_PUT (pickle, "M\x10\x27");
  nf_put_string (pickle, "lr");
  NF_PUT (pickle, "](G?\x1a\x36\xe2\xeb\x1c\x43\x2d\x88N\x8a\1\xff"
                  "eu.");
}

/* Bytes 0, 1, 2, ... */
static const guint8 *
numbers (void)
{
  static guint8 data[64];
  for (guint i = 0; i < sizeof data; i++)
    data[i] = (guint8)i;
  return data;
}

static const guint storage_sizes[][2] = { { 6, 4 }, { 8, 2 }, { 3, 8 }, { 8, 2 }, { 7, 1 } };

static GByteArray *
make_seed (guint which)
{
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  put_object (pickle);
  if (which < 2)
    {
      g_auto (NfZip) zip;
      nf_zip_init (&zip);
      zip.zip64 = which == 1;
      nf_zip_add (&zip, "a/data.pkl", pickle->data, pickle->len);
      nf_zip_add (&zip, "a/byteorder", "little", 6);
      for (guint i = 0; i < G_N_ELEMENTS (storage_sizes); i++)
        {
          g_autofree char *name = g_strdup_printf ("a/data/%u", i);
          nf_zip_add (&zip, name, numbers (), storage_sizes[i][0] * storage_sizes[i][1]);
        }
      return g_byte_array_ref (nf_zip_end (&zip));
    }
  GByteArray *bytes = g_byte_array_new ();
  nf_put_legacy_head (bytes);
  nf_put (bytes, pickle->data, pickle->len);
  NF_PUT (bytes, "\x80\x02](");
  for (guint i = 0; i < G_N_ELEMENTS (storage_sizes); i++)
    nf_put_string (bytes, (const char[]){ (char)('0' + i), '\0' });
  NF_PUT (bytes, "e.");
  for (guint i = 0; i < G_N_ELEMENTS (storage_sizes); i++)
    {
      nf_put_number (bytes, storage_sizes[i][0], 8);
      nf_put (bytes, numbers (), storage_sizes[i][0] * storage_sizes[i][1]);
    }
  return bytes;
}

/* Replaces N bytes at AT by those of DATA; of the same length, so that places in an archive stay right. */
static void
overwrite (GByteArray *bytes, guint at, const void *data, guint n)
{
  memcpy (bytes->data + at, data, MIN (n, bytes->len - at));
}

static void
mutate (GByteArray *bytes, Dice *dice)
{
  static const guint8 opcodes[]
      = "()]}.01NKMJXqrhjtuesabRQcGl\x85\x86\x87\x88\x89\x8a\x8c\x8d\x93\x94\x95\x80\x81";
  static const guint64 sizes[]
      = { 0, 1, 2, 3, 7, 8, 24, 255, 65535, G_MAXINT32, G_MAXUINT32, G_MAXINT64, G_MAXUINT64 };
  static const char *const words[]
      = { "PK\1\2", "PK\3\4", "PK\5\6", "PK\6\6", "PK\6\7", "Float", "Long", "torch", "os\nsystem\n" };
  const guint at = roll (dice, bytes->len);
  switch (roll (dice, 8))
    {
    case 0:
      bytes->data[at] ^= (guint8)(1 << roll (dice, 8));
      break;
    case 1:
      bytes->data[at] = (guint8)roll (dice, 256);
      break;
    case 2:
      bytes->data[at] = opcodes[roll (dice, sizeof opcodes - 1)];
      break;
    case 3:
      {
        const guint64 size = GUINT64_TO_LE (sizes[roll (dice, G_N_ELEMENTS (sizes))]);
        overwrite (bytes, at, &size, 1u << roll (dice, 4));
        break;
      }
    case 4:
      {
        /* one piece in the place of another */
        guint8 piece[32];
        const guint n = 1 + roll (dice, MIN (sizeof piece, bytes->len - at));
        memcpy (piece, bytes->data + at, n);
        overwrite (bytes, roll (dice, bytes->len), piece, n);
        break;
      }
    case 5:
      {
        const char *word = words[roll (dice, G_N_ELEMENTS (words))];
        overwrite (bytes, at, word, (guint)strlen (word));
        break;
      }
    case 6:
      if (roll (dice, 4) == 0)
        g_byte_array_set_size (bytes, at + 1);
      else
        bytes->data[at]++;
      break;
    default:
      g_byte_array_remove_range (bytes, at, 1 + roll (dice, MIN (16, bytes->len - at)));
      if (bytes->len == 0)
        g_byte_array_append (bytes, (const guint8 *)"P", 1);
    }
}

static void
damage (GByteArray *bytes, Dice *dice)
{
  for (guint n = 1 + roll (dice, 3); n > 0; n--)
    mutate (bytes, dice);
}

static gboolean
use (const char *path)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = open_damaged (path, &error);
  return file != NULL;
}

static void
test_mutations (void **state)
{
  static const Fuzz fuzz = { ".pth", 1912, make_seed, damage, use };
  fuzz_run (&fuzz);
}

int
main (void)
{
  const struct CMUnitTest tests[] = { cmocka_unit_test (test_mutations) };
  return cmocka_run_group_tests_name ("fuzz-torch-file", tests, NULL, NULL);
}
