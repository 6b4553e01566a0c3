/* normflow: damaged PyTorch checkpoints of every kind. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Good checkpoints of both forms are damaged in pickle, directory and bytes, the same way each time. Whatever
 * comes out is opened: either it is refused with one error that names the file, or everything in it can be
 * used. Built with AddressSanitizer this finds reads outside of the file. */
#include "nf-test.h"
#include "torch-writer.h"

#include <unistd.h>

#define MUTATIONS 6000
#define MAX_SIZE 65536

typedef struct
{
  guint64 run, draws;
} Dice;

/* Less than N. */
static guint32
roll (Dice *dice, guint32 n)
{
  guint32 words[4];
  nf_random_u32x4 (1912, dice->run, dice->draws++, words);
  return (guint32)(((guint64)words[0] * n) >> 32);
}

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

/* Returns TRUE if the file was accepted. */
static gboolean
use (const char *path)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  if (!file)
    {
      assert_non_null (error);
      assert_true (error->domain == NF_ERROR);
      assert_non_null (strstr (error->message, path));
      assert_true (g_utf8_validate (error->message, -1, NULL));
      return FALSE;
    }
  assert_null (error);
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      assert_in_range (tensor->n_elements, 0, MAX_SIZE);
      g_autofree float *f = g_new (float, tensor->n_elements + 1);
      g_autofree double *d = g_new (double, tensor->n_elements + 1);
      nf_tensor_to_float (tensor, f);
      nf_tensor_to_double (tensor, d);
      assert_ptr_equal (nf_tensor_file_lookup (file, tensor->name), tensor);
    }
  g_autoptr (GError) problem = NULL;
  g_autofree char *digest = nf_model_digest_of_file (path, &problem);
  assert_true (digest || problem);
  return TRUE;
}

static void
test_mutations (void **state)
{
  g_autofree char *path = nf_test_temporary (".pth");
  g_autoptr (GPtrArray) seeds = g_ptr_array_new_with_free_func ((GDestroyNotify)g_byte_array_unref);
  guint accepted = 0;
  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (GError) error = NULL;
      GByteArray *seed = make_seed (i);
      g_ptr_array_add (seeds, seed);
      g_unlink (path);
      nf_test_ok (g_file_set_contents_full (path, (const char *)seed->data, (gssize)seed->len,
                                            G_FILE_SET_CONTENTS_NONE, 0600, &error),
                  error);
      assert_true (use (path));
    }
  for (guint run = 0; run < MUTATIONS; run++)
    {
      g_autoptr (GError) error = NULL;
      Dice dice = { .run = run };
      const GByteArray *seed = seeds->pdata[roll (&dice, seeds->len)];
      g_autoptr (GByteArray) bytes = g_byte_array_new ();
      g_byte_array_append (bytes, seed->data, seed->len);
      for (guint n = 1 + roll (&dice, 3); n > 0; n--)
        mutate (bytes, &dice);
      g_unlink (path);
      nf_test_ok (g_file_set_contents_full (path, (const char *)bytes->data, (gssize)bytes->len,
                                            G_FILE_SET_CONTENTS_NONE, 0600, &error),
                  error);
      accepted += use (path);
    }
  g_unlink (path);
  /* some do no harm: otherwise only one check would be tried */
  print_message ("%u of %d were accepted\n", accepted, MUTATIONS);
  assert_in_range (accepted, MUTATIONS / 100, MUTATIONS / 2);
}

int
main (void)
{
  const struct CMUnitTest tests[] = { cmocka_unit_test (test_mutations) };
  return cmocka_run_group_tests_name ("fuzz-torch-file", tests, NULL, NULL);
}
