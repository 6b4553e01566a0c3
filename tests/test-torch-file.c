/* normflow: PyTorch checkpoints, good and hostile. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"
#include "torch-writer.h"

#include <sys/resource.h>
#include <unistd.h>

static char *path;

static int
set_up (void **state)
{
  path = nf_test_temporary (".pth");
  return 0;
}

static int
tear_down (void **state)
{
  g_unlink (path);
  g_clear_pointer (&path, g_free);
  return 0;
}

static void
write_bytes (const void *data, gsize size)
{
  g_autoptr (GError) error = NULL;
  g_unlink (path); /* never written over: the last file may be mapped */
  nf_test_ok (g_file_set_contents_full (path, data, (gssize)size, G_FILE_SET_CONTENTS_NONE, 0600, &error),
              error);
}

static NfTensorFile *
open_bytes (const void *data, gsize size, const char *state)
{
  g_autoptr (GError) error = NULL;
  write_bytes (data, size);
  NfTensorFile *file = nf_tensor_file_open_state (path, state, &error);
  nf_test_ok (file, error);
  return file;
}

/* What lies at the path must be refused. */
static void
check_file_refused (NfError code, const char *mentions)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  if (file)
    fail_msg ("a checkpoint was accepted, though \"%s\"", mentions);
  if (!g_error_matches (error, NF_ERROR, (gint)code) || !strstr (error->message, path)
      || !strstr (error->message, mentions))
    fail_msg ("\"%s\" is of the wrong kind or does not mention the file and \"%s\"", error->message,
              mentions);
  assert_true (g_utf8_validate (error->message, -1, NULL));
}

static void
check_refused_as (NfError code, const void *data, gsize size, const char *mentions)
{
  write_bytes (data, size);
  check_file_refused (code, mentions);
}

static void
check_refused (const void *data, gsize size, const char *mentions)
{
  check_refused_as (NF_ERROR_FORMAT, data, size, mentions);
}

/* An archive of this pickle and one storage "0" of N bytes 0, 1, 2, ... */
static GByteArray *
archive (const void *pickle, gsize size, gsize n)
{
  g_auto (NfZip) zip;
  g_autofree guint8 *data = g_new (guint8, n + 1);
  for (gsize i = 0; i < n; i++)
    data[i] = (guint8)i;
  nf_zip_init (&zip);
  nf_zip_add (&zip, "any/data.pkl", pickle, size);
  nf_zip_add (&zip, "any/byteorder", "little", 6);
  nf_zip_add (&zip, "any/data/0", data, n);
  nf_zip_add (&zip, "any/version", "3\n", 2);
  return g_byte_array_ref (nf_zip_end (&zip));
}

static void
check_pickle_refused_as (NfError code, const void *pickle, gsize size, const char *mentions)
{
  g_autoptr (GByteArray) bytes = archive (pickle, size, 64);
  check_refused_as (code, bytes->data, bytes->len, mentions);
}

static void
check_pickle_refused (const void *pickle, gsize size, const char *mentions)
{
  check_pickle_refused_as (NF_ERROR_FORMAT, pickle, size, mentions);
}

#define REFUSED(literal, mentions) check_pickle_refused (literal, sizeof (literal) - 1, mentions)

/* Reading */

static void
check_tensor (NfTensorFile *file, const char *name, NfDtype dtype, guint n_dims, const guint64 *dims,
              const double *values)
{
  const NfTensor *tensor = nf_tensor_file_lookup (file, name);
  if (!tensor)
    fail_msg ("there is no tensor %s", name);
  assert_int_equal (tensor->dtype, dtype);
  assert_int_equal (tensor->n_dims, n_dims);
  guint64 n = 1;
  for (guint i = 0; i < n_dims; i++)
    {
      assert_int_equal (tensor->dims[i], dims[i]);
      n *= dims[i];
    }
  assert_int_equal (tensor->n_elements, n);
  g_autofree double *is = g_new (double, n + 1);
  nf_tensor_to_double (tensor, is);
  for (guint64 i = 0; i < n; i++)
    if (is[i] != values[i])
      fail_msg ("%s: element %u is %g, not %g", name, (guint)i, is[i], values[i]);
}

/* Every type of storage, holding 1 and -2 (or what comes nearest). */
static const struct
{
  const char *name;
  NfDtype dtype;
  guint size;
  guint8 data[16];
  double second;
} types[] = {
  { "Float", NF_DTYPE_F32, 4, { 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0 }, -2 },
  { "Double", NF_DTYPE_F64, 8, { 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0 }, -2 },
  { "Half", NF_DTYPE_F16, 2, { 0, 0x3c, 0, 0xc0 }, -2 },
  { "BFloat16", NF_DTYPE_BF16, 2, { 0x80, 0x3f, 0, 0xc0 }, -2 },
  { "Long", NF_DTYPE_I64, 8, { 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, -2 },
  { "Int", NF_DTYPE_I32, 4, { 1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff }, -2 },
  { "Byte", NF_DTYPE_U8, 1, { 1, 254 }, 254 },
  { "Bool", NF_DTYPE_BOOL, 1, { 1, 1 }, 1 },
};

/* All of them in one dictionary, whose pickle is appended to BYTES. */
static void
put_types (GByteArray *bytes)
{
  NF_PUT (bytes, "\x80\x02}(");
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      nf_put_string (bytes, types[i].name);
      nf_put_tensor (bytes, &(NfTorchTensor){ types[i].name, types[i].name, 2, 0, 1, { 2 }, { 1 } });
    }
  nf_put_string (bytes, "scalar");
  nf_put_tensor (bytes, &(NfTorchTensor){ "Float", "Float", 2, 1 });
  nf_put_string (bytes, "empty");
  nf_put_tensor (bytes, &(NfTorchTensor){ "Float", "Float", 2, 0, 2, { 0, 3 }, { 3, 1 } });
  NF_PUT (bytes, "u.");
}

static void
check_types (NfTensorFile *file)
{
  assert_int_equal (nf_tensor_file_count (file), G_N_ELEMENTS (types) + 2);
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      const double values[] = { 1, types[i].second };
      check_tensor (file, types[i].name, types[i].dtype, 1, (const guint64[]){ 2 }, values);
      assert_string_equal (nf_tensor_file_get (file, i)->name, types[i].name);
    }
  check_tensor (file, "scalar", NF_DTYPE_F32, 0, NULL, (const double[]){ -2 });
  check_tensor (file, "empty", NF_DTYPE_F32, 2, (const guint64[]){ 0, 3 }, NULL);
}

static GByteArray *
make_zip (gboolean zip64)
{
  g_auto (NfZip) zip;
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  nf_zip_init (&zip);
  zip.zip64 = zip64;
  put_types (pickle);
  nf_zip_add (&zip, "model_8/data.pkl", pickle->data, pickle->len);
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      g_autofree char *name = g_strconcat ("model_8/data/", types[i].name, NULL);
      nf_zip_add (&zip, name, types[i].data, 2 * types[i].size);
    }
  nf_zip_add (&zip, "model_8/version", "3\n", 2);
  return g_byte_array_ref (nf_zip_end (&zip));
}

/* The keys in another order than in the object. */
static GByteArray *
make_legacy (void)
{
  GByteArray *bytes = g_byte_array_new ();
  nf_put_legacy_head (bytes);
  put_types (bytes);
  NF_PUT (bytes, "\x80\x02](");
  for (guint i = G_N_ELEMENTS (types); i > 0; i--)
    nf_put_string (bytes, types[i - 1].name);
  NF_PUT (bytes, "e.");
  for (guint i = G_N_ELEMENTS (types); i > 0; i--)
    {
      nf_put_number (bytes, 2, 8);
      nf_put (bytes, types[i - 1].data, 2 * types[i - 1].size);
    }
  return bytes;
}

static void
test_reading (void **state)
{
  for (guint zip64 = 0; zip64 < 2; zip64++)
    {
      g_autoptr (GByteArray) bytes = make_zip (zip64);
      g_autoptr (NfTensorFile) file = open_bytes (bytes->data, bytes->len, NULL);
      check_types (file);
      assert_int_equal (g_hash_table_size (nf_tensor_file_get_all_metadata (file)), 0);
    }
  g_autoptr (GByteArray) bytes = make_legacy ();
  g_autoptr (NfTensorFile) file = open_bytes (bytes->data, bytes->len, NULL);
  check_types (file);
}

/* A comment may follow the archive, if it is all that follows. */
static void
test_comment (void **state)
{
  g_autoptr (GByteArray) bytes = make_zip (FALSE);
  bytes->data[bytes->len - 2] = 3;
  NF_PUT (bytes, "abc");
  g_autoptr (NfTensorFile) file = open_bytes (bytes->data, bytes->len, NULL);
  check_types (file);
  NF_PUT (bytes, "d");
  check_refused (bytes->data, bytes->len, "has no end");
}

static void
test_strides (void **state)
{
  static const struct
  {
    const char *name;
    NfTorchTensor tensor;
    double values[26];
  } cases[] = {
    { "whole", { "Byte", "0", 24, 0, 2, { 3, 4 }, { 4, 1 } }, { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 } },
    { "second half",
      { "Byte", "0", 24, 12, 2, { 3, 4 }, { 4, 1 } },
      { 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23 } },
    { "transposed", { "Byte", "0", 24, 0, 2, { 4, 3 }, { 1, 4 } }, { 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11 } },
    { "every other",
      { "Byte", "0", 24, 1, 1, { 12 }, { 2 } },
      { 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 } },
    { "cut", { "Byte", "0", 24, 5, 3, { 2, 1, 3 }, { 12, 77, 4 } }, { 5, 9, 13, 17, 21, 25 - 0 } },
    { "expanded", { "Byte", "0", 24, 23, 2, { 2, 3 }, { 0, 0 } }, { 23, 23, 23, 23, 23, 23 } },
    { "beyond its storage", { "Byte", "0", 24, 22, 2, { 13, 2 }, { 0, 1 } }, { 22, 23, 22, 23, 22, 23, 22,
                                                                               23, 22, 23, 22, 23, 22, 23,
                                                                               22, 23, 22, 23, 22, 23, 22,
                                                                               23, 22, 23, 22, 23 } },
    { "permuted",
      { "Byte", "0", 24, 0, 3, { 2, 2, 3 }, { 3, 12, 1 } },
      { 0, 1, 2, 12, 13, 14, 3, 4, 5, 15, 16, 17 } },
    { "one", { "Byte", "0", 24, 7, 2, { 1, 1 }, { 99, 99 } }, { 7 } },
  };
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  NF_PUT (pickle, "\x80\x02}(");
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    if (strcmp (cases[i].name, "cut") != 0)
      {
        nf_put_string (pickle, cases[i].name);
        nf_put_tensor (pickle, &cases[i].tensor);
      }
  NF_PUT (pickle, "u.");
  g_autoptr (GByteArray) bytes = archive (pickle->data, pickle->len, 24);
  g_autoptr (NfTensorFile) file = open_bytes (bytes->data, bytes->len, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      const NfTorchTensor *tensor = &cases[i].tensor;
      guint64 dims[9];
      for (guint j = 0; j < tensor->n_dims; j++)
        dims[j] = (guint64)tensor->dims[j];
      if (strcmp (cases[i].name, "cut") != 0)
        check_tensor (file, cases[i].name, NF_DTYPE_U8, tensor->n_dims, dims, cases[i].values);
    }

  /* "cut" ends one element behind the storage */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02}");
  nf_put_string (pickle, "cut");
  nf_put_tensor (pickle, &cases[4].tensor);
  NF_PUT (pickle, "s.");
  check_pickle_refused (pickle->data, pickle->len, "reaches beyond the 24 elements of its storage 0");
}

/* Dictionaries in dictionaries */

static void
put_weight (GByteArray *pickle, const char *name, gint64 offset)
{
  nf_put_string (pickle, name);
  nf_put_tensor (pickle, &(NfTorchTensor){ "Byte", "0", 64, offset, 1, { 1 }, { 1 } });
}

static void
check_weights (const GByteArray *pickle, const char *state, const char *names)
{
  g_autoptr (GByteArray) bytes = archive (pickle->data, pickle->len, 64);
  g_autoptr (NfTensorFile) file = open_bytes (bytes->data, bytes->len, state);
  g_auto (GStrv) wanted = g_strsplit (names, " ", -1);
  assert_int_equal (nf_tensor_file_count (file), g_strv_length (wanted));
  for (guint i = 0; wanted[i]; i++)
    {
      /* NAME=VALUE */
      char *value = strchr (wanted[i], '=');
      *value++ = '\0';
      check_tensor (file, wanted[i], NF_DTYPE_U8, 1, (const guint64[]){ 1 },
                    (const double[]){ g_ascii_strtod (value, NULL) });
    }
}

static void
test_wrappers (void **state)
{
  g_autoptr (GByteArray) trainer = g_byte_array_new ();
  /* a trainer's: weights, an optimizer's state under numbers, a step, a random state, things that are no
   * tensors */
  NF_PUT (trainer, "\x80\x02}(");
  nf_put_string (trainer, "model");
  NF_PUT (trainer, "}(");
  put_weight (trainer, "module.blocks.0.proj_in.weight", 1);
  put_weight (trainer, "module.var", 2);
  NF_PUT (trainer, "u");
  nf_put_string (trainer, "optimizer");
  NF_PUT (trainer, "}(");
  nf_put_string (trainer, "state");
  NF_PUT (trainer, "}K\0}(");
  put_weight (trainer, "exp_avg", 3);
  NF_PUT (trainer, "us");
  nf_put_string (trainer, "param_groups");
  NF_PUT (trainer, "](}(");
  nf_put_string (trainer, "lr");
  NF_PUT (trainer, "G?\x1a\x36\xe2\xeb\x1c\x43\x2d");
  nf_put_string (trainer, "betas");
  NF_PUT (trainer, "G?\xec\xcc\xcc\xcc\xcc\xcc\xcdN\x86");
  nf_put_string (trainer, "params");
  NF_PUT (trainer, "](K\0K\1eueu");
  put_weight (trainer, "rng_state", 4);
  nf_put_string (trainer, "epoch");
  NF_PUT (trainer, "J\xff\xff\xff\xff");
  nf_put_string (trainer, "name");
  nf_put_string (trainer, "a run");
  const guint end = trainer->len;
  NF_PUT (trainer, "u.");
  check_weights (trainer, NULL, "blocks.0.proj_in.weight=1 var=2");
  check_weights (trainer, "model", "blocks.0.proj_in.weight=1 var=2");
  check_weights (trainer, ".", "rng_state=4");

  /* and an average beside them */
  g_byte_array_set_size (trainer, end);
  nf_put_string (trainer, "ema");
  NF_PUT (trainer, "}");
  nf_put_string (trainer, "shadow");
  NF_PUT (trainer, "}(");
  put_weight (trainer, "blocks.0.proj_in.weight", 5);
  NF_PUT (trainer, "usu.");
  check_weights (trainer, "ema.shadow", "blocks.0.proj_in.weight=5");
  check_pickle_refused_as (
      NF_ERROR_ARGUMENT, trainer->data, trainer->len,
      "several sets of weights, \"model\", \"ema.shadow\"; take one with: normflow convert --state NAME");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open_state (path, "ema", &error);
  assert_null (file);
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, "no weights called \"ema\", only \"model\", \"ema.shadow\""));
}

/* The same dictionary under two names */
static void
test_shared_state (void **state)
{
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  NF_PUT (pickle, "\x80\x02}(");
  nf_put_string (pickle, "model");
  NF_PUT (pickle, "}(");
  put_weight (pickle, "blocks.0.a", 3);
  NF_PUT (pickle, "uq\0");
  nf_put_string (pickle, "ema");
  NF_PUT (pickle, "h\0u.");
  check_weights (pickle, NULL, "blocks.0.a=3");
  check_weights (pickle, "model", "blocks.0.a=3");
  check_weights (pickle, "ema", "blocks.0.a=3");
}

/* Weights beside other things in a tuple, and in a list of such */
static void
test_listed_state (void **state)
{
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  NF_PUT (pickle, "\x80\x02](K\7}(");
  put_weight (pickle, "blocks.0.a", 3);
  NF_PUT (pickle, "u}\x86");
  const guint end = pickle->len;
  NF_PUT (pickle, "e.");
  check_weights (pickle, NULL, "blocks.0.a=3");
  check_weights (pickle, "1.0", "blocks.0.a=3");
  g_byte_array_set_size (pickle, end);
  NF_PUT (pickle, "}(");
  put_weight (pickle, "blocks.0.a", 4);
  NF_PUT (pickle, "ue.");
  check_weights (pickle, "2", "blocks.0.a=4");
  check_pickle_refused_as (
      NF_ERROR_ARGUMENT, pickle->data, pickle->len,
      "several sets of weights, \"1.0\", \"2\"; take one with: normflow convert --state NAME");
}

/* Weights are looked for so deep and no deeper. */
static void
test_deep_state (void **state)
{
  for (guint depth = 3; depth <= 4; depth++)
    {
      g_autoptr (GByteArray) pickle = g_byte_array_new ();
      NF_PUT (pickle, "\x80\x02");
      for (guint i = 0; i < depth; i++)
        {
          NF_PUT (pickle, "}");
          nf_put_string (pickle, "in");
        }
      NF_PUT (pickle, "}");
      put_weight (pickle, "blocks.0.a", 3);
      for (guint i = 0; i <= depth; i++)
        NF_PUT (pickle, "s");
      NF_PUT (pickle, ".");
      if (depth == 3)
        check_weights (pickle, "in.in.in", "blocks.0.a=3");
      else
        check_pickle_refused (pickle->data, pickle->len,
                              "holds no weights, which are a dictionary of names and tensors in at most 3 "
                              "dictionaries, lists and tuples");
    }
}

/* safetensors have one set of weights, and no name for it. */
static void
test_state_of_safetensors (void **state)
{
  g_autoptr (GError) error = NULL;
  write_bytes ("\2\0\0\0\0\0\0\0{}", 10);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open_state (path, "model", &error);
  assert_null (file);
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, "no PyTorch checkpoint"));
}

static void
test_prefixes (void **state)
{
  static const char *const names[][2] = {
    { "module.var", "var" },
    { "module.module.b", "b" },
    { "_orig_mod.module.c", "c" },
    { "module._orig_mod._fsdp_wrapped_module.blocks.0.d", "blocks.0.d" },
    { "blocks.1._fsdp_wrapped_module._checkpoint_wrapped_module.attn_blocks.0._orig_mod.e",
      "blocks.1.attn_blocks.0.e" },
    { "submodule.f", "submodule.f" },
    { "blocks.2.module.g", "blocks.2.g" },
    { "a_orig_mod.h", "a_orig_mod.h" },
  };
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  g_autoptr (GString) wanted = g_string_new (NULL);
  NF_PUT (pickle, "\x80\x02}(");
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      put_weight (pickle, names[i][0], i);
      g_string_append_printf (wanted, "%s%s=%u", i ? " " : "", names[i][1], i);
    }
  const guint end = pickle->len;
  NF_PUT (pickle, "u.");
  check_weights (pickle, NULL, wanted->str);

  /* two that become one */
  g_byte_array_set_size (pickle, end);
  put_weight (pickle, "var", 9);
  NF_PUT (pickle, "u.");
  check_pickle_refused (pickle->data, pickle->len, "holds tensor var twice");
  g_byte_array_set_size (pickle, end);
  put_weight (pickle, "module.", 9);
  NF_PUT (pickle, "u.");
  check_pickle_refused (pickle->data, pickle->len, "impossible name");
  g_byte_array_set_size (pickle, end);
  put_weight (pickle, "x\x1b[2J", 9);
  NF_PUT (pickle, "u.");
  check_pickle_refused (pickle->data, pickle->len, "impossible name, \"x?[2J\"");
}

/* A flow that is an attribute of the module that was saved; counters of those who average. */
static void
test_owners (void **state)
{
  static const char *const counters[] = { "n_averaged", "initted", "step", NULL };
  static const struct
  {
    const char *names[4], *wanted;
  } cases[] = {
    { { "model.blocks.0.a", "model.var" }, "blocks.0.a=0 var=1" },
    { { "module.flow.blocks.0.a", "module.flow._orig_mod.b" }, "blocks.0.a=0 b=1" },
    { { "n_averaged", "module.blocks.0.a", "module.var" }, "blocks.0.a=1 var=2" },
    { { "n_averaged", "module.model.blocks.0.a" }, "blocks.0.a=1" },
    { { "initted", "online_model.blocks.0.a", "step", "ema_model.blocks.0.a" }, "blocks.0.a=3" },
    { { "online_model.blocks.0.a", "online_model.var" }, "blocks.0.a=0 var=1" },
    { { "model.module.blocks.0.a", "model.module.var" }, "blocks.0.a=0 var=1" },
    { { "net.flow.blocks.0.a", "net.flow.var" }, "blocks.0.a=0 var=1" },
    { { "net.flow.blocks.0.a", "net.flow.blocks.0.b" }, "blocks.0.a=0 blocks.0.b=1" },
    { { "a.module.b.c.d.blocks.0.a", "a.b.c.d._orig_mod.var" }, "blocks.0.a=0 var=1" },
    { { "net.flow.blocks.0.a", "net.flows.b" }, "flow.blocks.0.a=0 flows.b=1" },
    { { "blocks.0.module.a", "blocks.1.module.a" }, "blocks.0.a=0 blocks.1.a=1" },
    { { "blocks.0.a", "blocks.1.a" }, "blocks.0.a=0 blocks.1.a=1" },
    { { "model.blocks.0.a", "models.b" }, "model.blocks.0.a=0 models.b=1" },
    { { "model.blocks.0.a", "ema.blocks.0.a" }, "model.blocks.0.a=0 ema.blocks.0.a=1" },
    { { "text" }, "text=0" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GByteArray) pickle = g_byte_array_new ();
      NF_PUT (pickle, "\x80\x02}(");
      for (guint j = 0; j < G_N_ELEMENTS (cases[i].names) && cases[i].names[j]; j++)
        if (g_strv_contains (counters, cases[i].names[j]))
          {
            const gboolean scalar = g_str_equal (cases[i].names[j], counters[0]);
            const NfTorchTensor counter = { "Byte", "0", 64, j, scalar ? 0 : 1, { 1 }, { 1 } };
            nf_put_string (pickle, cases[i].names[j]);
            nf_put_tensor (pickle, &counter);
          }
        else
          put_weight (pickle, cases[i].names[j], j);
      NF_PUT (pickle, "u.");
      check_weights (pickle, NULL, cases[i].wanted);
    }
}

/* What modules, parameters and newer protocols write. */
static void
test_forms (void **state)
{
  const NfTorchTensor tensor = { "Byte", "0", 64, 7, 1, { 1 }, { 1 } };
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  /* a module's state_dict() with its versions; the pickle remembers much and forgets something */
  NF_PUT (pickle, "\x80\x02"
                  "ccollections\nOrderedDict\nq\0)Rq\1(");
  nf_put_string (pickle, "parameter");
  NF_PUT (pickle, "ctorch._utils\n_rebuild_parameter\n(");
  nf_put_tensor (pickle, &tensor);
  NF_PUT (pickle, "\x88h\0)Rtr\1\1\0\0R");
  nf_put_string (pickle, "state");
  NF_PUT (pickle, "ctorch._utils\n_rebuild_parameter_with_state\n(");
  nf_put_tensor (pickle, &tensor);
  NF_PUT (pickle, "\x88h\0)R}tRq\2");
  nf_put_string (pickle, "again");
  NF_PUT (pickle, "h\2");
  nf_put_string (pickle, "typed");
  NF_PUT (pickle, "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n"
                  "ctorch.nn.parameter\nParameter\n(");
  nf_put_storage (pickle, "Byte", "0", 64);
  NF_PUT (pickle, "K\7K\1\x85K\1\x85\x89h\0)Rt}tR");
  NF_PUT (pickle, "(K\5N1K\6"
                  "0"); /* POP_MARK, POP */
  NF_PUT (pickle, "u}");
  nf_put_string (pickle, "_metadata");
  NF_PUT (pickle, "h\0)R(");
  nf_put_string (pickle, "");
  NF_PUT (pickle, "}");
  nf_put_string (pickle, "version");
  NF_PUT (pickle, "K\1susb.");
  check_weights (pickle, NULL, "parameter=7 state=7 again=7 typed=7");

  /* protocol 4: frames, STACK_GLOBAL, MEMOIZE, short strings; torch.Size; the older _rebuild_tensor */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x04\x95\xff\0\0\0\0\0\0\0}\x94\x8c\3var\x94\x8c\x0ctorch._utils\x94\x8c\x0f_rebuild_"
                  "tensor\x94\x93\x94(");
  nf_put_storage (pickle, "Byte", "0", 64);
  NF_PUT (pickle, "K\7\x8c\5torch\x8c\4Size\x93K\1\x85\x85RK\1\x85tR"
                  "\x8d\2\0\0\0\0\0\0\0w2h\4(");
  nf_put_storage (pickle, "Byte", "0", 64);
  NF_PUT (pickle, "\x8a\0K\1\x85K\1\x85tR");
  g_byte_array_set_size (pickle, pickle->len);
  NF_PUT (pickle, "0"
                  "0s.");
  check_weights (pickle, NULL, "var=7");
}

/* Refusing */

static void
test_code (void **state)
{
  g_autofree char *trap = nf_test_temporary (".trap");
  g_autofree char *shell = g_strdup_printf ("touch %s", trap);
  static const char *const names[][2] = {
    { "os", "system" },
    { "posix", "system" },
    { "builtins", "eval" },
    { "builtins", "exec" },
    { "subprocess", "Popen" },
    { "__builtin__", "getattr" },
    { "torch", "load" },
    { "torch.hub", "load" },
    { "torch._utils", "_rebuild_qtensor" },
    { "numpy.core.multiarray", "_reconstruct" },
    { "argparse", "Namespace" },
    { "collections", "defaultdict" },
    { "torch", "ShortStorage" },
    { "torch", "ComplexFloatStorage" },
    { "torch.storage", "UntypedStorage" },
    { "torch", "Float"
               "Storage2" },
    { "", "" },
    { "os\x1b", "x" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    for (guint stacked = 0; stacked < 2; stacked++)
      {
        g_autoptr (GByteArray) pickle = g_byte_array_new ();
        g_autofree char *lines = g_strdup_printf ("c%s\n%s\n", names[i][0], names[i][1]),
                        *wanted
                        = g_strdup_printf ("asks for %s.%s,", i == 17 ? "os?" : names[i][0], names[i][1]);
        NF_PUT (pickle, "\x80\x02");
        if (stacked)
          {
            nf_put_string (pickle, names[i][0]);
            nf_put_string (pickle, names[i][1]);
            NF_PUT (pickle, "\x93");
          }
        else
          nf_put (pickle, lines, strlen (lines));
        nf_put_string (pickle, shell);
        NF_PUT (pickle, "\x85R.");
        check_pickle_refused (pickle->data, pickle->len, wanted);
      }
  assert_false (g_file_test (trap, G_FILE_TEST_EXISTS));

  REFUSED ("\x80\x02(ios\nsystem\n.", "INST (0x69)");
  REFUSED ("\x80\x02(cos\nsystem\no.", "asks for os.system");
  REFUSED ("\x80\x02(K\1o.", "OBJ (0x6f)");
  REFUSED ("\x80\x02"
           "ccollections\nOrderedDict\n)\x81.",
           "NEWOBJ (0x81)");
  REFUSED ("\x80\x04"
           "ccollections\nOrderedDict\n)}\x92.",
           "NEWOBJ_EX (0x92)");
  REFUSED ("\x80\x02\x82\1.", "EXT1");
  REFUSED ("\x80\x02\x83\1\0.", "EXT2");
  REFUSED ("\x80\x02\x84\1\0\0\0.", "EXT4");
  REFUSED ("\x80\x02P0\n.", "PERSID");
  REFUSED ("}I01\n.", "protocols 0 and 1");
  REFUSED ("\x80\x02I01\n.", "INT (0x49)");
  REFUSED ("\x80\x02S'x'\n.", "STRING (0x53)");
  REFUSED ("\x80\x02"
           "C\1x.",
           "SHORT_BINBYTES");
  REFUSED ("\x80\x02\x8b\1\0\0\0\1.", "LONG4");
  REFUSED ("\x80\x05\x97.", "NEXT_BUFFER");
  REFUSED ("\x80\x02\x8f.", "EMPTY_SET");
  REFUSED ("\x80\x02K\1"
           "2.",
           "DUP");
  REFUSED ("\x80\x02\xfe.", "opcode 0xfe");
  REFUSED ("\x80\x01}.", "protocol 1");
  REFUSED ("\x80\x06}.", "protocol 6");
}

/* Known names in other ways than weights need. */
static void
test_misuse (void **state)
{
  REFUSED ("\x80\x02"
           "ccollections\nOrderedDict\n](K\1e\x85R.",
           "collections.OrderedDict is used in a way");
  REFUSED ("\x80\x02"
           "ccollections\nOrderedDict\n]R.",
           "calls what is no function");
  REFUSED ("\x80\x02K\1)R.", "calls what is no function");
  REFUSED ("\x80\x02"
           "ctorch\nFloatStorage\n)R.",
           "torch.FloatStorage is used in a way");
  REFUSED ("\x80\x02"
           "ctorch\nSize\n)R.",
           "torch.Size is used in a way");
  REFUSED ("\x80\x02"
           "ctorch\nTensor\n)R.",
           "torch.Tensor is used in a way");
  REFUSED ("\x80\x02"
           "ctorch._utils\n_rebuild_parameter\nK\1\x85R.",
           "_rebuild_parameter is used in a way");
  REFUSED ("\x80\x02"
           "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\n"
           "ctorch\nTensor\n)}tR.",
           "_rebuild_from_type_v2 is used in a way");
  REFUSED ("\x80\x02"
           "ctorch._utils\n_rebuild_tensor_v2\n)R.",
           "not made of a storage");
  REFUSED ("\x80\x02K\1}b.", "gives attributes to what is no dictionary");
  REFUSED ("\x80\x02}K\1b.", "gives attributes to what is no dictionary");
  REFUSED ("\x80\x02K\1Q.", "something else than a storage");
  REFUSED ("\x80\x02(X\7\0\0\0storageN"
           "X\1\0\0\0"
           "0X\3\0\0\0cpuK\1tQ.",
           "something else than a storage");
  REFUSED ("\x80\x02(X\6\0\0\0moduleN"
           "X\1\0\0\0"
           "0X\3\0\0\0cpuK\1tQ.",
           "something else than a storage");
  REFUSED ("\x80\x02(X\7\0\0\0storagectorch\nTensor\nX\1\0\0\0"
           "0X\3\0\0\0cpuK\1tQ.",
           "something else than a storage");
  REFUSED ("\x80\x02(X\7\0\0\0storagectorch\nByteStorage\nX\1\0\0\0"
           "0X\3\0\0\0cpuK\1)tQ.",
           "is a view of another");
  REFUSED ("\x80\x02K\1K\2\x93.", "a name is not a string");
  REFUSED ("\x80\x02"
           "cos",
           "has no end");
}

static void
test_machine (void **state)
{
  REFUSED ("", "ends in the middle");
  REFUSED ("\x80", "ends in the middle");
  REFUSED ("\x80\x02.", "leaves 0 values");
  REFUSED ("\x80\x02}}.", "leaves 2 values");
  REFUSED ("\x80\x02(}.", "1 marks");
  REFUSED ("\x80\x02}.x", "follows after the end");
  REFUSED ("\x80\x02}.", "holds no weights");
  REFUSED ("\x80\x02N.", "holds no weights");
  REFUSED ("\x80\x02"
           "0.",
           "takes a value that is not there");
  REFUSED ("\x80\x02K\1(0.", "takes a value that is not there");
  REFUSED ("\x80\x02"
           "1.",
           "lacks a mark");
  REFUSED ("\x80\x02t.", "lacks a mark");
  REFUSED ("\x80\x02u.", "lacks a mark");
  REFUSED ("\x80\x02(u.", "takes a value that is not there");
  REFUSED ("\x80\x02}((u.", "takes a value that is not there");
  REFUSED ("\x80\x02K\1\x86.", "takes a value that is not there");
  REFUSED ("\x80\x02K\1(K\1\x86.", "takes a value that is not there");
  REFUSED ("\x80\x02"
           "a.",
           "takes a value that is not there");
  REFUSED ("\x80\x02]a.", "takes a value that is not there");
  REFUSED ("\x80\x02](K\1a.", "takes a value that is not there");
  REFUSED ("\x80\x02}s.", "takes a value that is not there");
  REFUSED ("\x80\x02}K\1s.", "takes a value that is not there");
  REFUSED ("\x80\x02}K\1a.", "adds to what is no list");
  REFUSED ("\x80\x02]K\1K\2s.", "adds to what is no dictionary");
  REFUSED ("\x80\x02)K\1a.", "adds to what is no list");
  REFUSED ("\x80\x02}(K\1u.", "key without a value");
  REFUSED ("\x80\x02}NNs.", "neither a string nor a whole number");
  REFUSED ("\x80\x02})Ns.", "neither a string nor a whole number");
  REFUSED ("\x80\x02}G\x3f\xf8\0\0\0\0\0\0Ns.", "neither a string nor a whole number");
  REFUSED ("\x80\x02X\1\0\0\0\xff.", "not UTF-8");
  REFUSED ("\x80\x02X\1\0\0\0\0.", "not UTF-8");
  REFUSED ("\x80\x02X\xff\xff\xff\xff.", "ends in the middle");
  REFUSED ("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "ends in the middle");
  REFUSED ("\x80\x02\x8a\xff.", "ends in the middle");
  REFUSED ("\x80\x02G\1\2\3.", "ends in the middle");
  REFUSED ("\x80\x02q\0.", "takes a value that is not there");
  REFUSED ("\x80\x02h\0.", "recalls value 0");
  REFUSED ("\x80\x02}q\2h\1.", "recalls value 1");
  REFUSED ("\x80\x02}q\2j\xff\xff\xff\xff.", "recalls value 4294967295");
  REFUSED ("\x80\x02}r\xff\xff\xff\xff.", "remembers a value as its 4294967295th");
  REFUSED ("\x80\x02}r\0\0\x08\0.", "remembers a value as its 524288th");
}

/* Values that hold themselves, at once or around a corner */
static void
test_circles (void **state)
{
  REFUSED ("\x80\x02]q\0h\0a.", "changes after it became part of another");
  REFUSED ("\x80\x02}q\0X\1\0\0\0ah\0s.", "changes after it became part of another");
  REFUSED ("\x80\x02]q\0(]q\1h\0ah\1e.", "changes after it became part of another");
  REFUSED ("\x80\x02]q\0]q\1h\0a0h\1a.", "changes after it became part of another");
  REFUSED ("\x80\x02]q\0\x85"
           "0h\0(h\0e.",
           "changes after it became part of another");
}

/* Small pickles that would become large */
static void
test_bombs (void **state)
{
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  /* nesting */
  NF_PUT (pickle, "\x80\x02)");
  for (guint i = 0; i < 100000; i++)
    NF_PUT (pickle, "\x85");
  NF_PUT (pickle, ".");
  check_pickle_refused (pickle->data, pickle->len, "nested more than 32 deep");

  /* values */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02");
  for (guint i = 0; i < 600000; i++)
    NF_PUT (pickle, "]0");
  NF_PUT (pickle, "}.");
  check_pickle_refused (pickle->data, pickle->len, "more than 524288 values");

  /* one value, again and again on the stack; marks */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02}q\0");
  for (guint i = 0; i < 200000; i++)
    NF_PUT (pickle, "h\0");
  NF_PUT (pickle, ".");
  check_pickle_refused (pickle->data, pickle->len, "piles up more than 131072 values");
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02}");
  for (guint i = 0; i < 200000; i++)
    NF_PUT (pickle, "(");
  NF_PUT (pickle, ".");
  check_pickle_refused (pickle->data, pickle->len, "more than 131072 marks");

  /* twice the one before, 31 times: harmless as long as nobody walks through it */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02}q\0");
  for (guint8 i = 0; i < 31; i++)
    {
      NF_PUT (pickle, "0}(");
      nf_put_string (pickle, "a");
      nf_put (pickle, (const guint8[]){ 'h', i }, 2);
      nf_put_string (pickle, "b");
      nf_put (pickle, (const guint8[]){ 'h', i, 'u', 'q', (guint8)(i + 1) }, 5);
    }
  NF_PUT (pickle, ".");
  check_pickle_refused (pickle->data, pickle->len, "holds no weights");

  /* a pickle that is too long */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02");
  g_byte_array_set_size (pickle, (17 << 20) + 1);
  memset (pickle->data + 2, '(', pickle->len - 2);
  for (guint i = 2; i + 1 < pickle->len; i += 2)
    memcpy (pickle->data + i, "N0", 2);
  check_pickle_refused (pickle->data, pickle->len, "more than ");
}

/* TENSOR under the name "w" with a storage of 64 bytes */
static void
check_tensor_refused (const NfTorchTensor *tensor, const char *mentions)
{
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  NF_PUT (pickle, "\x80\x02}");
  nf_put_string (pickle, "w");
  nf_put_tensor (pickle, tensor);
  NF_PUT (pickle, "s.");
  check_pickle_refused (pickle->data, pickle->len, mentions);
}

#define PICKLE(literal) literal, sizeof (literal) - 1

/* What PyTorch says of a tensor besides: nothing, or that its elements are not what is stored. */
static void
test_metadata (void **state)
{
  static const struct
  {
    const char *pickle;
    gsize size;
    const char *mentions; /* NULL for what is read */
  } cases[] = {
    { PICKLE (""), NULL },
    { PICKLE ("N"), NULL },
    { PICKLE ("}"), NULL },
    { PICKLE ("}X\3\0\0\0"
              "neg\x89s"),
      NULL },
    { PICKLE ("}X\4\0\0\0"
              "conjNs"),
      NULL },
    { PICKLE ("}X\3\0\0\0"
              "neg\x88s"),
      "tensor w is marked \"neg\"" },
    { PICKLE ("}X\3\0\0\0"
              "neg\x88s"),
      "Save tensor.resolve_neg().clone()" },
    { PICKLE ("}X\3\0\0\0"
              "negK\1s"),
      "tensor w is marked \"neg\"" },
    { PICKLE ("}X\4\0\0\0"
              "conj\x88s"),
      "Save tensor.resolve_conj().clone()" },
    { PICKLE ("}(X\4\0\0\0"
              "conj\x89X\3\0\0\0"
              "odd\x88u"),
      "tensor w is marked \"odd\"" },
    { PICKLE ("}K\7\x88s"), "tensor w is marked \"7\"" },
    { PICKLE ("}X\1\0\0\0"
              "\x1b}s"),
      "tensor w is marked \"?\"" },
    { PICKLE ("K\1"), "metadata is no dictionary" },
  };
  const NfTorchTensor tensor = { "Byte", "0", 64, 0, 1, { 1 }, { 1 } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GByteArray) pickle = g_byte_array_new ();
      NF_PUT (pickle, "\x80\x02}");
      nf_put_string (pickle, "w");
      nf_put_tensor_with (pickle, &tensor, cases[i].pickle, cases[i].size);
      NF_PUT (pickle, "s.");
      if (cases[i].mentions)
        check_pickle_refused (pickle->data, pickle->len, cases[i].mentions);
      else
        check_weights (pickle, NULL, "w=0");
    }
}

static void
test_sizes (void **state)
{
  const gint64 huge = G_MAXINT64, wrap = (gint64)1 << 32;
  const struct
  {
    NfTorchTensor tensor;
    const char *mentions;
  } cases[] = {
    { { "Byte", "0", 65, 0, 1, { 1 }, { 1 } }, "storage 0 claims 65 elements of type U8, but has 64 bytes" },
    { { "Byte", "0", 63, 0, 1, { 1 }, { 1 } }, "storage 0 claims 63 elements of type U8, but has 64 bytes" },
    { { "Float", "0", 64, 0, 1, { 1 }, { 1 } },
      "storage 0 claims 64 elements of type F32, but has 64 bytes" },
    { { "Byte", "0", (gint64)1 << 40, 0, 1, { (gint64)1 << 40 }, { 1 } },
      "storage 0 claims 1099511627776 elements" },
    { { "Float", "0", huge, 0, 1, { 1 }, { 1 } }, "storage 0 claims 9223372036854775807 elements" },
    { { "Float", "0", ((gint64)1 << 62) + 16, 0, 1, { 1 }, { 1 } }, "storage 0 claims" },
    { { "Byte", "0", -1, 0, 1, { 1 }, { 1 } }, "storage 0 claims -1 elements" },
    { { "Byte", "1", 64, 0, 1, { 1 }, { 1 } }, "lacks its storage 1" },
    { { "Byte", "../../../etc/passwd", 64, 0, 1, { 1 }, { 1 } }, "lacks its storage ../../../etc/passwd" },
    { { "Byte", "../version", 2, 0, 1, { 1 }, { 1 } }, "lacks its storage ../version" },
    { { "Byte", "x\x1b", 2, 0, 1, { 1 }, { 1 } }, "lacks its storage x?" },
    { { "Byte", "0", 64, 0, 1, { 65 }, { 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, 60, 1, { 5 }, { 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, 64, 1, { 1 }, { 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, 65, 1, { 0 }, { 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, huge, 1, { 1 }, { 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, 0, 1, { 2 }, { huge } }, "reaches beyond" },
    { { "Byte", "0", 64, 63, 2, { 3, 3 }, { huge, huge } }, "reaches beyond" },
    { { "Byte", "0", 64, 0, 1, { 100000 }, { 0 } }, "tensors that are not row by row, w among them" },
    { { "Byte", "0", 64, 0, 1, { (gint64)1 << 50 }, { 0 } }, "strides of 0" },
    { { "Byte", "0", 64, 0, 2, { wrap, wrap / 2 - 1 }, { 0, 0 } }, "strides of 0" },
    { { "Byte", "0", 64, 63, 2, { wrap, 2 }, { 0, 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, 0, 2, { wrap, wrap }, { 0, 0 } }, "reaches beyond" },
    { { "Byte", "0", 64, 0, 3, { wrap, wrap, 0 }, { 1, 1, 1 } }, "reaches beyond" },
    { { "Byte", "0", 64, -1, 1, { 1 }, { 1 } }, "not made of a storage" },
    { { "Byte", "0", 64, 0, 1, { -1 }, { 1 } }, "impossible shape" },
    { { "Byte", "0", 64, 0, 1, { 2 }, { -1 } }, "impossible shape" },
    { { "Byte", "0", 64, 0, 9, { 1, 1, 1, 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
      "9 dimensions" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    check_tensor_refused (&cases[i].tensor, cases[i].mentions);

  /* one storage, two descriptions */
  g_autoptr (GByteArray) pickle = g_byte_array_new ();
  NF_PUT (pickle, "\x80\x02}(");
  put_weight (pickle, "a", 0);
  nf_put_string (pickle, "b");
  nf_put_tensor (pickle, &(NfTorchTensor){ "Float", "0", 16, 0, 1, { 1 }, { 1 } });
  NF_PUT (pickle, "u.");
  check_pickle_refused (pickle->data, pickle->len, "storage 0 is described twice, differently");

  /* many tensors that would each copy the whole storage */
  g_byte_array_set_size (pickle, 0);
  NF_PUT (pickle, "\x80\x02}(");
  for (guint i = 0; i < 2000; i++)
    {
      g_autofree char *name = g_strdup_printf ("w.%u", i);
      nf_put_string (pickle, name);
      if (i == 0)
        {
          nf_put_tensor (pickle, &(NfTorchTensor){ "Byte", "0", 1 << 20, 0, 2, { 1024, 1024 }, { 1, 1024 } });
          NF_PUT (pickle, "q\0");
        }
      else
        NF_PUT (pickle, "h\0");
    }
  NF_PUT (pickle, "u.");
  g_autoptr (GByteArray) bytes = archive (pickle->data, pickle->len, 1 << 20);
  check_refused (bytes->data, bytes->len, "more bytes than it has");
}

/* Archives */

#define ADD(zip, name, literal) nf_zip_add (zip, name, literal, sizeof (literal) - 1)

static void
check_zip_refused (NfZip *zip, const char *mentions)
{
  g_autoptr (GByteArray) pickle = nf_torch_pickle ();
  nf_zip_add (zip, "a/data.pkl", pickle->data, pickle->len);
  GByteArray *bytes = nf_zip_end (zip);
  check_refused (bytes->data, bytes->len, mentions);
  nf_zip_clear (zip);
  nf_zip_init (zip);
}

static void
test_archives (void **state)
{
  g_auto (NfZip) zip;
  nf_zip_init (&zip);
  for (guint method = 1; method < 100; method += 7)
    {
      zip.method = method;
      ADD (&zip, "a/data/0", "\0\0\0\0");
      zip.method = 0;
      check_zip_refused (&zip, "member a/data/0 is compressed");
    }
  static const guint encrypted[] = { 1, 1 << 6, 1 << 13 };
  for (guint i = 0; i < G_N_ELEMENTS (encrypted); i++)
    {
      zip.flags = encrypted[i];
      ADD (&zip, "a/data/0", "\0\0\0\0");
      zip.flags = 0;
      check_zip_refused (&zip, "encrypted");
    }
  static const char *const names[]
      = { "/etc/passwd", "../a", "a/../b", "a//b", "a/.", "a\\b", "C:a", "a/", "x\xff", "" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      nf_zip_add (&zip, names[i], "", 0);
      check_zip_refused (&zip, "has a member ");
    }
  zip.local_name = "a/data/1";
  ADD (&zip, "a/data/0", "\0\0\0\0");
  zip.local_name = NULL;
  check_zip_refused (&zip, "has another name");
  zip.local_name = "a/data/0123";
  ADD (&zip, "a/data/0", "\0\0\0\0");
  zip.local_name = NULL;
  check_zip_refused (&zip, "is not where the directory says");

  ADD (&zip, "a/data/0", "\0\0\0\0");
  ADD (&zip, "a/data/0", "\1\1\1\1");
  check_zip_refused (&zip, "member a/data/0 twice");
  /* both entries of one local header */
  ADD (&zip, "a/data/0", "\0\0\0\0");
  zip.at_shift = -(gint64)zip.bytes->len;
  ADD (&zip, "a/data/0", "\0\0\0\0");
  zip.at_shift = 0;
  check_zip_refused (&zip, "overlaps");
  static const gint64 shifts[] = { 1, 1000, -1, G_MAXINT32 };
  for (guint i = 0; i < G_N_ELEMENTS (shifts); i++)
    {
      zip.at_shift = shifts[i];
      ADD (&zip, "a/data/0", "\0\0\0\0");
      zip.at_shift = 0;
      check_zip_refused (&zip, "is not where the directory says");
    }
  /* into the next member, into the directory, to the end of the world */
  static const gint64 growths[] = { 1, 100, 10000, 0x7fffff00 };
  for (guint i = 0; i < G_N_ELEMENTS (growths); i++)
    {
      zip.size_shift = growths[i];
      ADD (&zip, "a/data/0", "\0\0\0\0");
      zip.size_shift = 0;
      check_zip_refused (&zip,
                         growths[i] < 200 ? "overlaps with another" : "reaches beyond the members' part");
    }
  for (guint i = 0; i < 4; i++)
    {
      static const guint64 sizes[] = { G_MAXINT64, G_MAXUINT64 - 100, (guint64)1 << 40, (guint64)1 << 63 };
      zip.zip64 = TRUE;
      zip.size_shift = (gint64)sizes[i];
      ADD (&zip, "a/data/0", "\0\0\0\0");
      zip.size_shift = 0;
      check_zip_refused (&zip, "reaches beyond the members' part");
      zip.zip64 = TRUE;
      zip.at_shift = (gint64)sizes[i];
      ADD (&zip, "a/data/0", "\0\0\0\0");
      zip.at_shift = 0;
      check_zip_refused (&zip, "is not where the directory says");
    }

  ADD (&zip, "b/data.pkl", "}.");
  check_zip_refused (&zip, "several data.pkl");
  ADD (&zip, "a/constants.pkl", ").");
  check_zip_refused (&zip, "TorchScript");
  ADD (&zip, "a/byteorder", "big");
  check_zip_refused (&zip, "byte order");
  check_zip_refused (&zip, "lacks its storage 0");
  GByteArray *bytes = nf_zip_end (&zip);
  check_refused (bytes->data, bytes->len, "claims a header"); /* an empty archive begins with its end */
}

static void
test_directory (void **state)
{
  g_autoptr (GByteArray) good = make_zip (FALSE), large = make_zip (TRUE);
  const struct
  {
    const GByteArray *bytes;
    guint back; /* from the end */
    guint8 change;
    const char *mentions;
  } cases[] = {
    { good, 22 - 4, 1, "several parts" },
    { good, 22 - 6, 1, "several parts" },
    { good, 22 - 8, 1, "several parts" },
    { good, 22 - 10, 1, "several parts" },
    { good, 22 - 12, 1, "directory is not where it should be" },
    { good, 22 - 16, 1, "directory is not where it should be" },
    { good, 22 - 19, 1, "directory is not where it should be" },
    { large, 22 + 20 - 8, 1, "ZIP64 record is not where" },
    { large, 22 + 20 - 15, 0x80, "ZIP64 record is not where" },
    { large, 22 + 20 - 4, 1, "several parts" },
    { large, 22 + 20 + 56 - 4, 1, "ZIP64 record is not where" },
    { large, 22 + 20 + 56 - 24, 1, "several parts" },
    { large, 22 + 20 + 56 - 40, 1, "directory is not where it should be" },
    { large, 22 + 20 + 56 - 55, 0x80, "directory is not where it should be" },
    { large, 22 - 12, 1, "two end records disagree" },
    { large, 22 - 16, 1, "two end records disagree" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GByteArray) bytes = g_byte_array_new ();
      nf_put (bytes, cases[i].bytes->data, cases[i].bytes->len);
      bytes->data[bytes->len - cases[i].back] ^= cases[i].change;
      check_refused (bytes->data, bytes->len, cases[i].mentions);
    }
  /* one more and one less than there are */
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (GByteArray) bytes = g_byte_array_new ();
      nf_put (bytes, good->data, good->len);
      bytes->data[bytes->len - 14] += (guint8)(2 * i - 1);
      bytes->data[bytes->len - 12] += (guint8)(2 * i - 1);
      check_refused (bytes->data, bytes->len, i ? "directory is damaged" : "more members than it says");
    }
}

/* Legacy files */

static void
test_legacy (void **state)
{
  static const char head[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  NF_PUT (bytes, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x18.N.N.");
  check_refused (bytes->data, bytes->len, "no PyTorch checkpoint");
  check_refused ("\x80\x02\x8a\1\5.N.N.", 11, "no PyTorch checkpoint");
  g_byte_array_set_size (bytes, 0);
  nf_put (bytes, head, sizeof head - 1);
  NF_PUT (bytes, "\x80\x02M\xea\x03.}.");
  check_refused (bytes->data, bytes->len, "another version than 1001");
  g_byte_array_set_size (bytes, 0);
  nf_put (bytes, head, sizeof head - 1);
  NF_PUT (bytes, "\x80\x02M\xe9\x03.}.");
  check_refused (bytes->data, bytes->len, "byte order");

  g_autoptr (GByteArray) object = nf_torch_pickle ();
  const struct
  {
    const char *keys;
    guint keys_size;
    const char *storages;
    guint storages_size;
    const char *mentions;
  } cases[] = {
#define CASE(keys, storages, mentions) { keys, sizeof keys - 1, storages, sizeof storages - 1, mentions }
    CASE ("N.", "\1\0\0\0\0\0\0\0\0\0\0\0", "list of its storages is missing"),
    CASE ("].", "", "lacks 1 of its storages"),
    CASE ("]X\1\0\0\0"
          "1a.",
          "\1\0\0\0\0\0\0\0\0\0\0\0", "a storage that it does not use"),
    CASE ("]K\1a.", "\1\0\0\0\0\0\0\0\0\0\0\0", "a storage that it does not use"),
    CASE ("](X\1\0\0\0"
          "0X\1\0\0\0"
          "0e.",
          "\1\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0", "lists one twice"),
    CASE ("]X\1\0\0\0"
          "0a.",
          "\1\0\0\0\0\0\0", "storage 0 is missing; is it truncated?"),
    CASE ("]X\1\0\0\0"
          "0a.",
          "\1\0\0\0\0\0\0\0\0\0\0", "but 3 bytes are left"),
    CASE ("]X\1\0\0\0"
          "0a.",
          "\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "storage 0 claims 2 elements"),
    CASE ("]X\1\0\0\0"
          "0a.",
          "\1\0\0\0\0\0\0\x80\0\0\0\0", "storage 0 claims 9223372036854775809 elements"),
    CASE ("]X\1\0\0\0"
          "0a.",
          "\1\0\0\0\0\0\0\0\0\0\0\0?", "1 bytes at its end"),
#undef CASE
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_byte_array_set_size (bytes, 0);
      nf_put_legacy_head (bytes);
      nf_put (bytes, object->data, object->len);
      nf_put (bytes, cases[i].keys, cases[i].keys_size);
      nf_put (bytes, cases[i].storages, cases[i].storages_size);
      check_refused (bytes->data, bytes->len, cases[i].mentions);
    }
  /* a storage of more bytes than any file */
  g_byte_array_set_size (bytes, 0);
  nf_put_legacy_head (bytes);
  NF_PUT (bytes, "\x80\x02}");
  nf_put_string (bytes, "w");
  nf_put_tensor (bytes, &(NfTorchTensor){ "Float", "0", G_MAXINT64 / 4, 0, 1, { 1 }, { 1 } });
  NF_PUT (bytes, "s.]X\1\0\0\0"
                 "0a.");
  nf_put_number (bytes, G_MAXINT64 / 4, 8);
  NF_PUT (bytes, "abcd");
  check_refused (bytes->data, bytes->len, "but 4 bytes are left");
}

/* Cut off after any byte, either form is refused, and refused as what it is. */
static void
test_truncation (void **state)
{
  for (guint form = 0; form < 3; form++)
    {
      g_autoptr (GByteArray) bytes = form == 2 ? make_legacy () : make_zip (form == 1);
      write_bytes (bytes->data, bytes->len);
      for (gsize size = bytes->len; size-- > 0;)
        {
          assert_int_equal (truncate (path, (off_t)size), 0);
          check_file_refused (NF_ERROR_FORMAT, size < 4   ? "no safetensors file"
                                               : form < 2 ? "ZIP archive has no end; is it truncated?"
                                                          : "");
        }
    }
}

/* All of it within little memory: nothing is taken for what is only claimed. */
static void
test_memory (void **state)
{
  struct rlimit before;
  assert_int_equal (getrlimit (RLIMIT_AS, &before), 0);
  const struct rlimit little = { MIN ((rlim_t)1 << 30, before.rlim_max), before.rlim_max };
#if !defined(__SANITIZE_ADDRESS__)
  assert_int_equal (setrlimit (RLIMIT_AS, &little), 0);
#endif
  test_bombs (state);
  test_sizes (state);
  test_legacy (state);
  assert_int_equal (setrlimit (RLIMIT_AS, &before), 0);
  (void)little;
}

/* Official ones: written by PyTorch itself */
/* What a checkpoint may be saved as that is none of the forms read here is called by its name. */
static void
test_other_forms (void **state)
{
  static const char *const tensors[][2] = {
    { "_rebuild_sparse_tensor", "save tensor.to_dense()" },
    { "_rebuild_qtensor", "save tensor.dequantize()" },
    { "_rebuild_nested_tensor", "a nested tensor" },
    { "_rebuild_tensor_v3", "a tensor of float8 or another rare type" },
    { "_rebuild_meta_tensor_no_storage", "a tensor of the device meta" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (tensors); i++)
    {
      g_autoptr (GByteArray) pickle = g_byte_array_new ();
      g_autofree char *line = g_strdup_printf ("ctorch._utils\n%s\n", tensors[i][0]);
      NF_PUT (pickle, "\x80\x02}");
      nf_put (pickle, line, strlen (line));
      check_pickle_refused (pickle->data, pickle->len, tensors[i][0]);
      check_pickle_refused (pickle->data, pickle->len, tensors[i][1]);
    }

  static const char *const storages[][2] = { { "Char", "a tensor of int8" },
                                             { "Short", "a tensor of int16" },
                                             { "ComplexFloat", "a tensor of complex64" },
                                             { "ComplexDouble", "a tensor of complex128" } };
  for (guint i = 0; i < G_N_ELEMENTS (storages); i++)
    {
      const NfTorchTensor tensor = { storages[i][0], "0", 64, 7, 1, { 1 }, { 1 } };
      g_autoptr (GByteArray) pickle = g_byte_array_new ();
      g_autofree char *named = g_strdup_printf ("torch.%sStorage for \"w\", before", storages[i][0]);
      NF_PUT (pickle, "\x80\x02}");
      nf_put_string (pickle, "w");
      nf_put_tensor (pickle, &tensor);
      NF_PUT (pickle, "s.");
      check_pickle_refused (pickle->data, pickle->len, named);
      check_pickle_refused (pickle->data, pickle->len, storages[i][1]);
    }

  static const char index[] = "{\"metadata\": {\"total_size\": 8},\n"
                              " \"weight_map\": {\"w\": \"pytorch_model-00001-of-00002.bin\"}}",
                    other[] = "{\"blocks\": [1, 2, 3]}";
  check_refused (index, sizeof index - 1, "the index of a checkpoint in several files");
  check_refused (other, sizeof other - 1, "it is JSON");

  /* a file of torch.distributed.checkpoint has an archive for each tensor, one after the other */
  g_autoptr (GByteArray) pickle = nf_torch_pickle (), several = g_byte_array_new ();
  for (guint i = 0; i < 2; i++)
    {
      g_auto (NfZip) zip;
      nf_zip_init (&zip);
      zip.zip64 = TRUE;
      nf_zip_add (&zip, "any/data.pkl", pickle->data, pickle->len);
      nf_zip_add (&zip, "any/data/0", "1234", 4);
      const GByteArray *bytes = nf_zip_end (&zip);
      nf_put (several, bytes->data, bytes->len);
    }
  check_refused (several->data, several->len, ".distcp");
}

static void
test_golden (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *torch_path = nf_test_file ("golden", "tarflow_vp.pth"),
                  *twin_path = nf_test_file ("golden", "tarflow_vp.weights.safetensors");
  g_autoptr (NfTensorFile) torch = nf_tensor_file_open (torch_path, &error);
  nf_test_ok (torch, error);
  g_autoptr (NfTensorFile) twin = nf_tensor_file_open (twin_path, &error);
  nf_test_ok (twin, error);
  assert_int_equal (nf_tensor_file_count (torch), nf_tensor_file_count (twin));
  for (guint i = 0; i < nf_tensor_file_count (twin); i++)
    {
      const NfTensor *a = nf_tensor_file_get (twin, i), *b = nf_tensor_file_lookup (torch, a->name);
      assert_non_null (b);
      assert_int_equal (a->dtype, b->dtype);
      assert_int_equal (a->n_dims, b->n_dims);
      assert_memory_equal (a->dims, b->dims, sizeof a->dims);
      assert_memory_equal (a->data, b->data, a->n_elements * nf_dtype_size (a->dtype));
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_reading),      cmocka_unit_test (test_comment),
    cmocka_unit_test (test_strides),      cmocka_unit_test (test_wrappers),
    cmocka_unit_test (test_shared_state), cmocka_unit_test (test_listed_state),
    cmocka_unit_test (test_deep_state),   cmocka_unit_test (test_state_of_safetensors),
    cmocka_unit_test (test_prefixes),     cmocka_unit_test (test_owners),
    cmocka_unit_test (test_forms),        cmocka_unit_test (test_code),
    cmocka_unit_test (test_misuse),       cmocka_unit_test (test_machine),
    cmocka_unit_test (test_circles),      cmocka_unit_test (test_bombs),
    cmocka_unit_test (test_sizes),        cmocka_unit_test (test_archives),
    cmocka_unit_test (test_directory),    cmocka_unit_test (test_legacy),
    cmocka_unit_test (test_truncation),   cmocka_unit_test (test_memory),
    cmocka_unit_test (test_golden),       cmocka_unit_test (test_metadata),
    cmocka_unit_test (test_other_forms),
  };
  return cmocka_run_group_tests_name ("torch-file", tests, set_up, tear_down);
}
