/* normflow: safetensors files, good and hostile. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <glib/gstdio.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder;

static char *
in_folder (const char *name)
{
  return g_build_filename (folder, name, NULL);
}

static int
set_up (void **state)
{
  folder = g_dir_make_tmp ("normflow-test-XXXXXX", NULL);
  return folder ? 0 : 1;
}

static int
tear_down (void **state)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  for (const char *name; dir && (name = g_dir_read_name (dir));)
    {
      g_autofree char *path = in_folder (name);
      g_remove (path);
    }
  g_rmdir (folder);
  g_clear_pointer (&folder, g_free);
  return 0;
}

/* Writes bytes as they come. */
static char *
write_bytes (const char *name, const void *data, gsize size)
{
  g_autoptr (GError) error = NULL;
  char *path = in_folder (name);
  nf_test_ok (g_file_set_contents (path, data, (gssize)size, &error), error);
  return path;
}

/* A file with this header, its length and N_DATA bytes 0, 1, 2, ... */
static char *
write_file (const char *header, gsize n_data)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  const guint64 length = GUINT64_TO_LE ((guint64)strlen (header));
  g_byte_array_append (bytes, (const guint8 *)&length, sizeof length);
  g_byte_array_append (bytes, (const guint8 *)header, (guint)strlen (header));
  for (gsize i = 0; i < n_data; i++)
    g_byte_array_append (bytes, (const guint8[]){ (guint8)i }, 1);
  return write_bytes ("file.safetensors", bytes->data, bytes->len);
}

static void
check_path_refused (const char *path, NfError code, const char *mentions)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  if (file)
    fail_msg ("%s was accepted, though %s", path, mentions);
  if (!g_error_matches (error, NF_ERROR, (gint)code) || !strstr (error->message, path)
      || !strstr (error->message, mentions))
    fail_msg ("\"%s\" is of the wrong kind or does not mention the file and \"%s\"", error->message,
              mentions);
  assert_true (g_utf8_validate (error->message, -1, NULL));
}

static void
check_refused (const char *header, gsize n_data, const char *mentions)
{
  g_autofree char *path = write_file (header, n_data);
  check_path_refused (path, NF_ERROR_FORMAT, mentions);
}

/* Reading */

static void
test_reading (void **state)
{
  g_autoptr (GError) error = NULL;
  /* out of order, a scalar, an empty tensor, odd places, a padded header */
  g_autofree char *path
      = write_file ("{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                    "\"a.\\u00e4\":{\"shape\":[2,1,2],\"data_offsets\":[7,15],\"dtype\":\"BF16\"},"
                    "\"__metadata__\":{\"config\":\"{}\",\"\":\"empty\",\"escapes\":"
                    "\"\\\"\\\\\\/\\t \\u00E9 \\ud83d\\ude00\"},"
                    "\"s\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[3,7]},"
                    "\"e\":{\"dtype\":\"F64\",\"shape\":[5,0],\"data_offsets\":[7,7]}}   ",
                    15);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  assert_string_equal (nf_tensor_file_get_path (file), path);
  assert_string_equal (nf_tensor_file_get_metadata (file, "config"), "{}");
  assert_string_equal (nf_tensor_file_get_metadata (file, ""), "empty");
  assert_string_equal (nf_tensor_file_get_metadata (file, "escapes"), "\"\\/\t é 😀");
  assert_null (nf_tensor_file_get_metadata (file, "other"));
  assert_int_equal (nf_tensor_file_count (file), 4);
  const char *const order[] = { "b", "a.ä", "s", "e" };
  for (guint i = 0; i < 4; i++)
    {
      assert_string_equal (nf_tensor_file_get (file, i)->name, order[i]);
      assert_ptr_equal (nf_tensor_file_lookup (file, order[i]), nf_tensor_file_get (file, i));
    }
  assert_null (nf_tensor_file_lookup (file, "c"));
  assert_null (nf_tensor_file_lookup (file, "__metadata__"));

  const NfTensor *tensor = nf_tensor_file_lookup (file, "a.ä");
  assert_int_equal (tensor->dtype, NF_DTYPE_BF16);
  assert_int_equal (tensor->n_dims, 3);
  assert_int_equal (tensor->dims[0], 2);
  assert_int_equal (tensor->dims[1], 1);
  assert_int_equal (tensor->n_elements, 4);
  const guint8 bytes[] = { 7, 8, 9, 10, 11, 12, 13, 14 };
  assert_memory_equal (tensor->data, bytes, sizeof bytes);

  double scalar;
  tensor = nf_tensor_file_lookup (file, "s");
  assert_int_equal (tensor->n_dims, 0);
  assert_int_equal (tensor->n_elements, 1);
  nf_tensor_to_double (tensor, &scalar);
  assert_true (scalar == 0x06050403);
  tensor = nf_tensor_file_lookup (file, "e");
  assert_int_equal (tensor->n_elements, 0);
  nf_tensor_to_float (tensor, NULL);
}

static void
test_nothing_in_it (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = write_file ("{}", 0);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  assert_int_equal (nf_tensor_file_count (file), 0);
}

static void
check_values (NfDtype dtype, const void *data, guint n, const double *expected)
{
  const NfTensor tensor
      = { .name = "t", .dtype = dtype, .n_dims = 1, .dims = { n }, .n_elements = n, .data = data };
  g_autofree double *d = g_new (double, n);
  g_autofree float *f = g_new (float, n);
  nf_tensor_to_double (&tensor, d);
  nf_tensor_to_float (&tensor, f);
  for (guint i = 0; i < n; i++)
    if (isnan (expected[i])
            ? !isnan (d[i]) || !isnan (f[i])
            : d[i] != expected[i] || f[i] != (float)expected[i] || !signbit (d[i]) != !signbit (expected[i]))
      fail_msg ("%s: element %u is %g, not %g", nf_dtype_name (dtype), i, d[i], expected[i]);
}

static void
test_conversions (void **state)
{
  /* little-endian */
  static const guint8 f16[] = { 0x00, 0x3c, 0x00, 0x80, 0x01, 0x00, 0xff, 0x03, 0x00, 0x04,
                                0xff, 0x7b, 0x00, 0x7c, 0x00, 0xfc, 0x01, 0x7c, 0x55, 0xb5 };
  const double half[]
      = { 1,           -0.0,      0x1p-24, 0x3ffp-24, 0x1p-14, 65504, (double)INFINITY, -(double)INFINITY,
          (double)NAN, -0x555p-12 };
  check_values (NF_DTYPE_F16, f16, 10, half);
  static const guint8 bf16[] = { 0x80, 0x3f, 0x00, 0x80, 0x01, 0x00, 0x7f, 0x7f, 0x80, 0xff, 0xc0, 0x7f };
  const double brain[] = { 1, -0.0, 0x1p-133, 0x1.fep127, -(double)INFINITY, (double)NAN };
  check_values (NF_DTYPE_BF16, bf16, 6, brain);
  static const guint8 f32[] = { 0, 0, 0, 0x80, 0x01, 0, 0, 0, 0xdb, 0x0f, 0x49, 0x40 };
  const double single[] = { -0.0, 0x1p-149, 0x1.921fb6p1 };
  check_values (NF_DTYPE_F32, f32, 3, single);
  static const guint8 f64[] = { 0x18, 0x2d, 0x44, 0x54, 0xfb, 0x21, 0x09, 0xc0 };
  const double dbl[] = { -0x1.921fb54442d18p1 };
  check_values (NF_DTYPE_F64, f64, 1, dbl);
  static const guint8 i64[] = { 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0x80 };
  const double wide[] = { -2, -0x1p63 };
  check_values (NF_DTYPE_I64, i64, 2, wide);
  static const guint8 i32[] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x80, 1, 2, 0, 0 };
  const double word[] = { -1, -0x1p31, 513 };
  check_values (NF_DTYPE_I32, i32, 3, word);
  static const guint8 u8[] = { 0, 2, 255 };
  const double byte[] = { 0, 2, 255 }, truth[] = { 0, 1, 1 };
  check_values (NF_DTYPE_U8, u8, 3, byte);
  check_values (NF_DTYPE_BOOL, u8, 3, truth);

  const gsize sizes[] = { 4, 8, 2, 2, 8, 4, 1, 1 };
  const char *const names[] = { "F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL" };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      assert_int_equal (nf_dtype_size ((NfDtype)i), sizes[i]);
      assert_string_equal (nf_dtype_name ((NfDtype)i), names[i]);
    }
}

/* Refusing */

static void
test_paths (void **state)
{
  g_autofree char *nothing = in_folder ("nothing");
  check_path_refused (nothing, NF_ERROR_NOT_FOUND, "No such file");
  check_path_refused (folder, NF_ERROR_READ, "not a regular file");
  g_autofree char *below = g_build_filename (folder, "file", "below", NULL);
  g_autofree char *file = write_bytes ("file", "x", 1);
  check_path_refused (below, NF_ERROR_NOT_FOUND, "Not a directory");
  g_autofree char *pipe = in_folder ("pipe");
  assert_int_equal (mkfifo (pipe, 0600), 0);
  check_path_refused (pipe, NF_ERROR_READ, "not a regular file");
  if (geteuid () != 0)
    {
      assert_int_equal (g_chmod (file, 0), 0);
      check_path_refused (file, NF_ERROR_READ, "denied");
    }
}

static void
test_lengths (void **state)
{
  static const guint64 lengths[]
      = { 0, 1, 3, 4096, 1 << 26, G_MAXUINT32, G_MAXINT64, G_MAXUINT64 - 7, G_MAXUINT64 };
  for (gsize size = 0; size < 8; size++)
    {
      g_autofree char *path = write_bytes ("short", "\2\0\0\0\0\0\0\0", size);
      check_path_refused (path, NF_ERROR_FORMAT, "no safetensors file");
    }
  for (guint i = 0; i < G_N_ELEMENTS (lengths); i++)
    {
      guint8 bytes[10] = "????????{}";
      const guint64 length = GUINT64_TO_LE (lengths[i]);
      memcpy (bytes, &length, sizeof length);
      g_autofree char *path = write_bytes ("length", bytes, sizeof bytes);
      check_path_refused (path, NF_ERROR_FORMAT, "claims a header");
    }
}

/* A header that is in the file and all of it garbage must not fill memory either. */
static void
test_huge_header (void **state)
{
  const gsize n = (gsize)32 << 20;
  g_autofree char *path = in_folder ("huge");
  g_autofree char *header = g_strnfill (n, '[');
  const guint64 length = GUINT64_TO_LE ((guint64)n);
  FILE *out = g_fopen (path, "w");
  assert_non_null (out);
  assert_int_equal (fwrite (&length, sizeof length, 1, out), 1);
  assert_int_equal (fwrite (header, n, 1, out), 1);
  assert_int_equal (fclose (out), 0);
  check_path_refused (path, NF_ERROR_FORMAT, "claims a header");
}

#define T(name, dtype, shape, begin, end)                                                                    \
  "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void
test_headers (void **state)
{
  check_refused ("[]", 0, "not a JSON object");
  check_refused ("{\"a\":", 0, "not a JSON object");
  check_refused ("{} {}", 0, "not a JSON object");
  check_refused ("{\"\xff\":{}}", 0, "UTF-8");
  check_refused ("{\"a\":17}", 0, "tensor a ");
  check_refused ("{\"a\":{}}", 0, "tensor a lacks");
  check_refused ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor a lacks");
  check_refused ("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor a lacks");
  check_refused ("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a lacks");
  check_refused ("{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a lacks");
  check_refused ("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "tensor a lacks");
  check_refused ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "tensor a lacks");
  check_refused ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}}", 4, "tensor a lacks");
  check_refused ("{" T ("a", "F8_E4M3", "[1]", 0, 1) "}", 1, "F8_E4M3");
  check_refused ("{" T ("a", "f32", "[1]", 0, 4) "}", 4, "dtype f32");
  check_refused ("{\"__metadata__\":[]}", 0, "__metadata__");
  check_refused ("{\"__metadata__\":{\"config\":{}}}", 0, "\"config\" is not a string");
  check_refused ("{\"__metadata__\":{\"n\":1}}", 0, "\"n\" is not a string");
  check_refused ("{" T ("a", "U8", "[1]", 0, 1) "," T ("a", "U8", "[1]", 1, 2) "}", 2, "\"a\" twice");
  check_refused ("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
                 "\"shape\" twice");
  check_refused ("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "\"k\" twice");
  /* escapes that JSON has not, and those of no letter */
  static const char *const escapes[]
      = { "a\\351b", "a\\256", "q\\z", "\\x41", "\\ud800", "\\ud800\\u0041", "\\udc00x", "\\u12g4", "\\u12" };
  for (guint i = 0; i < G_N_ELEMENTS (escapes); i++)
    {
      g_autofree char *header = g_strdup_printf ("{\"__metadata__\":{\"k\":\"%s\"}}", escapes[i]);
      check_refused (header, 0, "that JSON does not know");
    }
  check_refused ("{\"__metadata__\":{\"k\":\"a\\u0000b\"}}", 0, "a NUL in it (\\u0000)");
  check_refused ("{\"x\\n\\u001b[2J\":17}", 0, "tensor x??[2J");
  check_refused (
      "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":"
      "{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}}}}}}}",
      0, "nested");
}

static void
test_shapes (void **state)
{
  static const char *const impossible[] = { "[-1]",
                                            "[-4,-1]",
                                            "[1.0]",
                                            "[\"1\"]",
                                            "[null]",
                                            "[[1]]",
                                            "[4294967296,4294967296]",
                                            "[4294967296,4294967296,0]",
                                            "[999999999999999999,999999999999999999]" };
  for (guint i = 0; i < G_N_ELEMENTS (impossible); i++)
    {
      g_autofree char *header = g_strdup_printf (
          "{\"t.x\":{\"dtype\":\"U8\",\"shape\":%s,\"data_offsets\":[0,1]}}", impossible[i]);
      check_refused (header, 1, "tensor t.x has an impossible shape");
    }
  check_refused ("{" T ("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "9 dimensions");
  check_refused ("{" T ("a", "U8", "[18446744073709551617]", 0, 1) "}", 1, "JSON");
  check_refused ("{" T ("a", "F32", "[2]", 0, 4) "}", 4, "tensor a has a shape that does not fit");
  check_refused ("{" T ("a", "F32", "[1]", 0, 8) "}", 8, "tensor a has a shape that does not fit");
  check_refused ("{" T ("a", "F32", "[]", 0, 0) "}", 0, "tensor a has a shape that does not fit");
  check_refused ("{" T ("a", "F32", "[0]", 0, 4) "}", 4, "tensor a has a shape that does not fit");
  /* 2^62 elements of 4 bytes are 2^64 bytes */
  check_refused ("{" T ("a", "F32", "[4294967296,1073741824]", 0, 0) "}", 0,
                 "tensor a has a shape that does not fit");
}

static void
test_ranges (void **state)
{
  check_refused ("{" T ("a", "U8", "[2]", 0, 2) "}", 1, "truncated");
  check_refused ("{" T ("a", "U8", "[1]", 999999999999999999, 999999999999999999) "}", 1, "tensor a claims");
  check_refused ("{" T ("a", "U8", "[999999999999999999]", 0, 999999999999999999) "}", 1, "tensor a claims");
  check_refused ("{" T ("a", "U8", "[1]", 1, 0) "}", 1, "tensor a claims");
  check_refused ("{" T ("a", "U8", "[1]", -1, 0) "}", 1, "tensor a claims");
  check_refused ("{" T ("a", "U8", "[1]", 0.0, 1) "}", 1, "tensor a claims");
  check_refused ("{" T ("a", "U8", "[2]", 0, 2) "," T ("b", "U8", "[2]", 1, 3) "}", 3, "tensor b overlap");
  check_refused ("{" T ("a", "U8", "[2]", 0, 2) "," T ("b", "U8", "[2]", 0, 2) "}", 2, "overlap");
  check_refused ("{" T ("a", "U8", "[4]", 0, 4) "," T ("b", "U8", "[1]", 1, 2) "}", 4, "tensor b overlap");
  check_refused ("{" T ("a", "U8", "[1]", 0, 1) "," T ("b", "U8", "[1]", 2, 3) "}", 3,
                 "tensor b come after a hole");
  check_refused ("{" T ("a", "U8", "[1]", 1, 2) "}", 2, "tensor a come after a hole");
  check_refused ("{" T ("a", "U8", "[1]", 0, 1) "}", 4, "3 bytes at its end");
  check_refused ("{}", 1, "1 bytes at its end");
}

/* Cut anywhere, a good file is a bad one. */
static void
test_truncation (void **state)
{
  g_autofree char *path
      = write_file ("{" T ("a", "F32", "[2,2]", 0, 16) "," T ("b", "U8", "[3]", 16, 19) "}", 19);
  g_autofree char *contents = NULL;
  gsize size;
  assert_true (g_file_get_contents (path, &contents, &size, NULL));
  for (gsize n = 0; n < size; n++)
    {
      g_autofree char *cut = write_bytes ("cut", contents, n);
      check_path_refused (cut, NF_ERROR_FORMAT, "cut");
    }
}

/* What is read part by part is what was there at opening, or an error: also where the file becomes shorter
 * than a page that is read. */
static void
test_reading_parts (void **state)
{
  enum
  {
    N = 1 << 16
  };
  g_autoptr (GError) error = NULL;
  g_autofree char *header = g_strdup_printf ("{" T ("a", "U8", "[%d]", 0, % d) "}", N, N),
                  *path = write_file (header, N);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *tensor = nf_tensor_file_lookup (file, "a");
  float parts[3];
  nf_test_ok (nf_tensor_file_read (file, tensor, 254, 3, parts, &error), error);
  assert_true (parts[0] == 254 && parts[1] == 255 && parts[2] == 0);
  nf_test_ok (nf_tensor_file_read (file, tensor, N - 3, 3, parts, &error), error);
  assert_true (parts[2] == 255);
  nf_test_ok (nf_tensor_file_read (file, tensor, N, 0, parts, &error), error);

  assert_int_equal (truncate (path, N / 2), 0);
  assert_false (nf_tensor_file_read (file, tensor, N - 3, 3, parts, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_READ) && strstr (error->message, path));
  g_clear_error (&error);
  assert_false (nf_tensor_file_read (file, tensor, 0, 3, parts, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA) && strstr (error->message, "written into"));
}

/* Writing */

static const float values[] = { 1, -2, 3.5f, 1e-40f, -0.0f, 65504 };
static const guint8 flags[] = { 1, 0, 1 };

static const NfTensor written[] = {
  { "z.weight", NF_DTYPE_F32, 2, { 2, 3 }, 6, (const guint8 *)values },
  { "a \"quoted\" ä", NF_DTYPE_BOOL, 1, { 3 }, 3, flags },
  { "none", NF_DTYPE_F64, 2, { 0, 7 }, 0, NULL },
  { "scalar", NF_DTYPE_F32, 0, { 0 }, 1, (const guint8 *)values },
};

static void
test_writing (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "config", (gpointer) "{\"a\": [1, 2]}\n");
  g_hash_table_insert (metadata, (gpointer) "author", (gpointer) "Zoë");
  g_autofree char *path = in_folder ("written.safetensors");
  nf_test_ok (nf_tensor_file_write (path, written, G_N_ELEMENTS (written), metadata, &error), error);

  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  assert_int_equal (nf_tensor_file_count (file), G_N_ELEMENTS (written));
  assert_string_equal (nf_tensor_file_get_metadata (file, "config"), "{\"a\": [1, 2]}\n");
  assert_string_equal (nf_tensor_file_get_metadata (file, "author"), "Zoë");
  for (guint i = 1; i < G_N_ELEMENTS (written); i++)
    assert_true (strcmp (nf_tensor_file_get (file, i - 1)->name, nf_tensor_file_get (file, i)->name) < 0);
  for (guint i = 0; i < G_N_ELEMENTS (written); i++)
    {
      const NfTensor *tensor = nf_tensor_file_lookup (file, written[i].name);
      assert_non_null (tensor);
      assert_int_equal (tensor->dtype, written[i].dtype);
      assert_int_equal (tensor->n_dims, written[i].n_dims);
      assert_memory_equal (tensor->dims, written[i].dims, sizeof tensor->dims);
      assert_int_equal (tensor->n_elements, written[i].n_elements);
      if (tensor->n_elements > 0)
        assert_memory_equal (tensor->data, written[i].data,
                             tensor->n_elements * nf_dtype_size (tensor->dtype));
    }
}

/* Equal content gives equal bytes, in whatever order it comes. */
static void
test_determinism (void **state)
{
  NfTensor reversed[G_N_ELEMENTS (written)];
  g_autoptr (GError) error = NULL;
  char *contents[2];
  gsize sizes[2];
  for (guint i = 0; i < G_N_ELEMENTS (written); i++)
    reversed[i] = written[G_N_ELEMENTS (written) - 1 - i];
  for (guint i = 0; i < 2; i++)
    {
      static const char *const keys[] = { "one", "two", "three" };
      g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
      for (guint j = 0; j < 3; j++)
        g_hash_table_insert (metadata, (gpointer)keys[i ? j : 2 - j], (gpointer)keys[i ? j : 2 - j]);
      g_autofree char *path = in_folder ("same");
      nf_test_ok (
          nf_tensor_file_write (path, i ? reversed : written, G_N_ELEMENTS (written), metadata, &error),
          error);
      nf_test_ok (g_file_get_contents (path, &contents[i], &sizes[i], &error), error);
    }
  assert_int_equal (sizes[0], sizes[1]);
  assert_memory_equal (contents[0], contents[1], sizes[0]);
  g_free (contents[0]);
  g_free (contents[1]);
}

static guint
count_files (void)
{
  guint n = 0;
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  while (g_dir_read_name (dir))
    n++;
  return n;
}

/* A file that somebody has open stays what it was; one that cannot be written leaves nothing behind. */
static void
test_replacing (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder ("replaced");
  nf_test_ok (nf_tensor_file_write (path, written, 1, NULL, &error), error);
  g_autoptr (NfTensorFile) before = nf_tensor_file_open (path, &error);
  nf_test_ok (before, error);
  const guint n_files = count_files ();

  nf_test_ok (nf_tensor_file_write (path, written + 1, 1, NULL, &error), error);
  assert_int_equal (count_files (), n_files);
  assert_memory_equal (nf_tensor_file_lookup (before, "z.weight")->data, values, sizeof values);
  g_autoptr (NfTensorFile) after = nf_tensor_file_open (path, &error);
  nf_test_ok (after, error);
  assert_null (nf_tensor_file_lookup (after, "z.weight"));
  assert_non_null (nf_tensor_file_lookup (after, written[1].name));

  g_autofree char *lost = g_build_filename (folder, "no-folder", "file", NULL);
  assert_false (nf_tensor_file_write (lost, written, 1, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_WRITE));
  assert_non_null (strstr (error->message, lost));
  g_clear_error (&error);

  g_autofree char *taken = in_folder ("taken");
  assert_int_equal (g_mkdir (taken, 0700), 0);
  assert_false (nf_tensor_file_write (taken, written, 1, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_WRITE));
  assert_int_equal (count_files (), n_files + 1);
}

/* Two tensors of one name, or names that are no text, are no file: what is there stays. */
static void
test_names (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder ("names");
  NfTensor twice[] = { written[0], written[1], written[0] }, reserved = written[0];
  reserved.name = "__metadata__";
  nf_test_ok (nf_tensor_file_write (path, written, 1, NULL, &error), error);
  const guint n_files = count_files ();
  assert_false (nf_tensor_file_write (path, twice, 3, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, written[0].name));
  g_clear_error (&error);
  assert_false (nf_tensor_file_write (path, &reserved, 1, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  g_clear_error (&error);
  reserved.name = "caf\xe9";
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "note", (gpointer) "caf\xe9");
  for (guint i = 0; i < 2; i++)
    {
      assert_false (nf_tensor_file_write (path, i ? &reserved : written, 1, i ? NULL : metadata, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
      assert_non_null (strstr (error->message, "UTF-8"));
      g_clear_error (&error);
    }
  assert_int_equal (count_files (), n_files);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
}

/* What would be refused when it is read is not written: elements are as many as dimensions say. */
static void
test_bad_shapes (void **state)
{
  static const struct
  {
    guint64 n_elements;
    guint n_dims;
    guint64 dims[2];
    const char *part;
  } bad[] = { { 3, 2, { 2, 2 }, "has 3 elements, but its dimensions make 4" },
              { 0, 0, { 0 }, "has 0 elements, but its dimensions make 1" },
              { 4, 1, { 0 }, "has 4 elements, but its dimensions make 0" },
              { 0, 2, { G_MAXUINT64, 0 }, "has an impossible shape" },
              { 0, 2, { (guint64)1 << 32, (guint64)1 << 32 }, "has an impossible shape" },
              { (guint64)1 << 62, 1, { (guint64)1 << 62 }, "has an impossible shape" },
              { 1, NF_TENSOR_MAX_DIMS + 1, { 1, 1 }, "dimensions, at most" } };
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder ("shapes");
  const guint8 data[16] = { 0 };
  const guint n_files = count_files ();
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      NfTensor tensor = { "odd", NF_DTYPE_F32, bad[i].n_dims, { 0 }, bad[i].n_elements, data };
      memcpy (tensor.dims, bad[i].dims, sizeof bad[i].dims);
      assert_false (nf_tensor_file_write (path, &tensor, 1, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
      if (!strstr (error->message, path) || !strstr (error->message, "odd")
          || !strstr (error->message, bad[i].part))
        fail_msg ("\"%s\" does not mention \"%s\"", error->message, bad[i].part);
      g_clear_error (&error);
    }
  assert_int_equal (count_files (), n_files);
}

/* A disk that is full: the old file survives. */
static void
test_no_space (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder ("full");
  const guint64 n = 100000;
  g_autofree guint8 *zeros = g_malloc0 (n);
  const NfTensor large = { "large", NF_DTYPE_U8, 1, { n }, n, zeros };
  nf_test_ok (nf_tensor_file_write (path, written, 1, NULL, &error), error);
  const guint n_files = count_files ();

  struct rlimit limit, small;
  assert_int_equal (getrlimit (RLIMIT_FSIZE, &limit), 0);
  small = (struct rlimit){ .rlim_cur = 4096, .rlim_max = limit.rlim_max };
  void (*handler) (int) = signal (SIGXFSZ, SIG_IGN);
  assert_int_equal (setrlimit (RLIMIT_FSIZE, &small), 0);
  const gboolean done = nf_tensor_file_write (path, &large, 1, NULL, &error);
  assert_int_equal (setrlimit (RLIMIT_FSIZE, &limit), 0);
  signal (SIGXFSZ, handler);

  assert_false (done);
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_WRITE));
  assert_non_null (strstr (error->message, path));
  g_clear_error (&error);
  assert_int_equal (count_files (), n_files);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  assert_non_null (nf_tensor_file_lookup (file, "z.weight"));
}

int
main (void)
{
#define CASE(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    CASE (test_reading),     CASE (test_nothing_in_it), CASE (test_conversions),   CASE (test_paths),
    CASE (test_lengths),     CASE (test_huge_header),   CASE (test_headers),       CASE (test_shapes),
    CASE (test_ranges),      CASE (test_truncation),    CASE (test_reading_parts), CASE (test_writing),
    CASE (test_determinism), CASE (test_replacing),     CASE (test_no_space),      CASE (test_names),
    CASE (test_bad_shapes),
  };
  return cmocka_run_group_tests_name ("tensor-file", tests, NULL, NULL);
}
