/* normflow: damaged model files of every kind. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Good files are damaged in their header and their bytes, the same way each time. Whatever comes out is
 * opened: either it is refused with one error that names the file, or everything in it can be used. Built
 * with AddressSanitizer this finds reads outside of the file. */
#include "fuzz.h"

static GByteArray *
make_seed (guint which)
{
  static const char *const configs[] = {
    "{\"family\": \"tarflow\", \"in_channels\": 1, \"img_size\": 4, \"patch_size\": 2, \"channels\": 64, "
    "\"num_blocks\": 1, \"layers_per_block\": 1}",
    "{\"img_size\": 16, \"patch_size\": 4, \"channels\": 128, \"num_blocks\": 2, \"layers_per_block\": 3, "
    "\"pixel_layout\": \"yuv420\", \"basis\": \"dct\", \"noise_type\": \"gaussian\", \"noise_std\": 0.05}",
  };
  static const guint8 data[64] = { 0, 1, 2, 3, 0x80, 0x3f, 0xff, 0x7f };
  const NfTensor tensors[] = {
    { "blocks.0.weight", NF_DTYPE_F32, 2, { 2, 3 }, 6, data },
    { "blocks.0.bias", NF_DTYPE_BF16, 1, { 5 }, 5, data },
    { "half", NF_DTYPE_F16, 3, { 2, 1, 4 }, 8, data },
    { "double", NF_DTYPE_F64, 0, { 0 }, 1, data },
    { "empty", NF_DTYPE_I64, 2, { 0, 3 }, 0, data },
    { "mask", NF_DTYPE_BOOL, 1, { 7 }, 7, data },
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "config", (gpointer)configs[which % G_N_ELEMENTS (configs)]);
  g_autofree char *path = nf_test_temporary (".safetensors");
  nf_test_ok (nf_tensor_file_write (path, tensors, G_N_ELEMENTS (tensors) - which, metadata, &error), error);
  char *contents;
  gsize size;
  nf_test_ok (g_file_get_contents (path, &contents, &size, &error), error);
  g_unlink (path);
  return g_byte_array_new_take ((guint8 *)contents, size);
}

static void
insert (GByteArray *bytes, guint at, const void *data, guint n)
{
  if (bytes->len + n > MAX_SIZE)
    return;
  const guint tail = bytes->len - at;
  g_byte_array_set_size (bytes, bytes->len + n);
  memmove (bytes->data + at + n, bytes->data + at, tail);
  memcpy (bytes->data + at, data, n);
}

/* The digits at or behind AT, if there are any, become others. */
static void
change_number (GByteArray *bytes, guint at, Dice *dice)
{
  static const char *const numbers[] = { "0",
                                         "1",
                                         "-1",
                                         "2",
                                         "3",
                                         "4",
                                         "7",
                                         "8",
                                         "24",
                                         "65536",
                                         "2147483648",
                                         "4294967295",
                                         "4294967296",
                                         "4611686018427387904",
                                         "9223372036854775807",
                                         "18446744073709551615",
                                         "18446744073709551616",
                                         "1e3",
                                         "1.5",
                                         "-0",
                                         "00" };
  while (at < bytes->len && !g_ascii_isdigit (bytes->data[at]))
    at++;
  guint end = at;
  while (end < bytes->len && g_ascii_isdigit (bytes->data[end]))
    end++;
  if (at == end)
    return;
  const char *number = numbers[roll (dice, G_N_ELEMENTS (numbers))];
  g_byte_array_remove_range (bytes, at, end - at);
  insert (bytes, at, number, (guint)strlen (number));
}

static void
mutate (GByteArray *bytes, Dice *dice)
{
  static const char *const words[] = { "{",
                                       "}",
                                       "[",
                                       "]",
                                       ",",
                                       ":",
                                       "\"",
                                       "\\",
                                       "\\u0000",
                                       "\\ud800",
                                       "null",
                                       "true",
                                       "NaN",
                                       "/*",
                                       "F32",
                                       "F64",
                                       "I64",
                                       "\"shape\"",
                                       "\"data_offsets\"",
                                       "__metadata__",
                                       "\"dtype\":\"U8\",",
                                       "\xff",
                                       "\xc3\xa4",
                                       "[[[[[[[[[[[[[[[[[[[[",
                                       "{}" };
  const guint at = roll (dice, bytes->len);
  switch (roll (dice, 9))
    {
    case 0:
      bytes->data[at] ^= (guint8)(1 << roll (dice, 8));
      break;
    case 1:
      bytes->data[at] = (guint8)roll (dice, 256);
      break;
    case 2:
      g_byte_array_set_size (bytes, at + 1);
      break;
    case 3:
      g_byte_array_remove_range (bytes, at, 1 + roll (dice, MIN (16, bytes->len - at)));
      if (bytes->len == 0)
        g_byte_array_append (bytes, (const guint8 *)"{", 1);
      break;
    case 4:
      {
        const char *word = words[roll (dice, G_N_ELEMENTS (words))];
        insert (bytes, at, word, (guint)strlen (word));
        break;
      }
    case 5:
      {
        /* a piece comes twice */
        const guint n = 1 + roll (dice, MIN (64, bytes->len - at));
        g_autofree guint8 *piece = g_memdup2 (bytes->data + at, n);
        insert (bytes, roll (dice, bytes->len), piece, n);
        break;
      }
    case 6: /* the header's length */
      bytes->data[at % MIN (8, bytes->len)] = (guint8)roll (dice, 256);
      break;
    default:
      change_number (bytes, at, dice);
    }
}

/* Most mutations of a header change its length: half of the time it is put right, so that more than the first
 * check is tried. DATA: bytes behind the header. */
static void
repair (GByteArray *bytes, guint data)
{
  if (bytes->len < 8 + data)
    return;
  const guint64 length = GUINT64_TO_LE ((guint64)(bytes->len - 8 - data));
  memcpy (bytes->data, &length, sizeof length);
}

static void
damage (GByteArray *bytes, Dice *dice)
{
  guint64 header;
  memcpy (&header, bytes->data, sizeof header);
  const guint data = bytes->len - 8 - (guint)GUINT64_FROM_LE (header);
  for (guint n = 1 + roll (dice, 3); n > 0; n--)
    mutate (bytes, dice);
  if (roll (dice, 2))
    repair (bytes, data);
}

static gboolean
use (const char *path)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = open_damaged (path, &error);
  if (!file)
    {
      assert_int_equal (error->code, NF_ERROR_FORMAT);
      return FALSE;
    }
  const char *json = nf_tensor_file_get_metadata (file, "config");
  g_autoptr (NfConfig) config = json ? nf_config_from_json (json, path, &error) : NULL;
  if (config)
    {
      assert_true (nf_config_tile_bytes (config) > 0);
      g_autofree char *again = nf_config_to_json (config);
      g_autoptr (NfConfig) same = nf_config_from_json (again, path, NULL);
      assert_non_null (same);
    }
  else if (json)
    assert_non_null (error);
  return TRUE;
}

static void
test_mutations (void **state)
{
  static const Fuzz fuzz = { ".fuzz", 2026, make_seed, damage, use };
  fuzz_run (&fuzz);
}

int
main (void)
{
  const struct CMUnitTest tests[] = { cmocka_unit_test (test_mutations) };
  return cmocka_run_group_tests_name ("fuzz-tensor-file", tests, NULL, NULL);
}
