/* normflow: PyTorch checkpoints as models, and where their configurations come from. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "nf-test.h"
#include "torch-writer.h"

#include "nf-checkpoint.h"
#include "nf-recipe.h"
#include "nf-weights.h"

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

/* The path with another ending. */
static char *
beside (const char *ending)
{
  return g_strdup_printf ("%.*s%s", (int)(strlen (path) - strlen (".pth")), path, ending);
}

static void
write_text (const char *name, const char *text)
{
  g_autoptr (GError) error = NULL;
  nf_test_ok (g_file_set_contents (name, text, -1, &error), error);
}

/* The file's tensors as PyTorch writes them, with what a wrapper adds to their names. */
static void
write_pth (NfTensorFile *file, const char *prefix)
{
  GByteArray *pickle = g_byte_array_new ();
  g_autoptr (GError) error = NULL;
  NF_PUT (pickle, "\x80\x02");
  nf_put_file (pickle, file, prefix);
  NF_PUT (pickle, ".");
  g_autoptr (GByteArray) bytes = nf_zip_file (pickle, file);
  g_unlink (path); /* never written over: the last file may be mapped */
  nf_test_ok (g_file_set_contents (path, (const char *)bytes->data, bytes->len, &error), error);
}

static NfTensorFile *
open_file (const char *name)
{
  g_autoptr (GError) error = NULL;
  NfTensorFile *file = nf_tensor_file_open (name, &error);
  nf_test_ok (file, error);
  return file;
}

static char *
get_digest (const char *name)
{
  g_autoptr (GError) error = NULL;
  char *digest = nf_model_digest_of_file (name, &error);
  nf_test_ok (digest, error);
  return digest;
}

/* Each golden model as a checkpoint: the same weights and, with its configuration in a file beside it, the
 * same model. */
static void
test_twins (void **state)
{
  static const char *const prefixes[] = { "", "module.", "_orig_mod.", "module._fsdp_wrapped_module." };
  g_autofree char *folder = nf_test_file ("golden", ""), *json_path = beside (".json");
  g_autoptr (GError) error = NULL;
  g_autoptr (GDir) dir = g_dir_open (folder, 0, &error);
  nf_test_ok (dir, error);
  guint n = 0;
  for (const char *name; (name = g_dir_read_name (dir));)
    {
      if (!g_str_has_suffix (name, ".weights.safetensors"))
        continue;
      g_autofree char *twin_path = g_build_filename (folder, name, NULL), *wanted = get_digest (twin_path);
      g_autoptr (NfTensorFile) twin = open_file (twin_path);
      write_pth (twin, prefixes[n++ % G_N_ELEMENTS (prefixes)]);
      write_text (json_path, nf_tensor_file_get_metadata (twin, "config"));
      g_autofree char *digest = get_digest (path);
      g_unlink (json_path);
      assert_string_equal (digest, wanted);
    }
  assert_true (n >= 3);
}

/* A model of images may have the switches of videos. What it is written with says so. */
static void
test_causal_images (void **state)
{
  g_autofree char *twin_path = nf_test_file ("golden", "starflow_wide.weights.safetensors"),
                  *json_path = beside (".json");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) twin = open_file (twin_path);
  write_pth (twin, "");
  write_text (json_path, nf_tensor_file_get_metadata (twin, "config"));
  g_autoptr (NfTensorFile) file = open_file (path);
  g_autoptr (NfConfig) config = nf_checkpoint_config (
      file, NULL, (const char *const[]){ "temporal_causal=2", "frames=0", NULL }, &error);
  nf_test_ok (config, error);
  g_autofree char *json = nf_config_to_json (config);
  write_text (json_path, json);
  g_autoptr (NfConfig) again = nf_checkpoint_config (file, NULL, NULL, &error);
  g_unlink (json_path);
  nf_test_ok (again, error);
  assert_true (nf_config_equal (config, again));
  assert_int_equal (again->frames, 0);
}

/* PyTorch's own file, whose shapes say everything. */
static void
test_official (void **state)
{
  g_autofree char *torch_path = nf_test_file ("golden", "tarflow_vp.pth"),
                  *twin_path = nf_test_file ("golden", "tarflow_vp.weights.safetensors"),
                  *torch = get_digest (torch_path), *twin = get_digest (twin_path);
  assert_string_equal (torch, twin);
}

/* Weights of a configuration in a file that does not say it; with one more tensor if SURPLUS is its name,
 * without the tensor MISSING. */
static void
write_weights (const NfConfig *config, const char *surplus, const char *missing)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfWeights) weights = nf_weights_new (config);
  g_autofree char *whole_path = nf_test_temporary (".safetensors");
  assert_non_null (weights->theta);
  nf_parameters_initialise (weights->parameters, 1, weights->theta);
  nf_test_ok (nf_weights_write (weights, whole_path, NULL, &error), error);
  g_autoptr (NfTensorFile) whole = open_file (whole_path);
  g_unlink (whole_path);
  const guint n = nf_tensor_file_count (whole);
  g_autofree NfTensor *tensors = g_new (NfTensor, n + 1);
  guint kept = 0;
  for (guint i = 0; i < n; i++)
    {
      tensors[kept] = *nf_tensor_file_get (whole, i);
      if (g_strcmp0 (tensors[kept].name, missing) != 0)
        kept++;
    }
  if (surplus)
    {
      tensors[kept] = tensors[0];
      tensors[kept++].name = (char *)surplus;
    }
  g_unlink (path);
  nf_test_ok (nf_tensor_file_write (path, tensors, kept, NULL, &error), error);
}

/* With SETTINGS, and what no shape says. */
static void
check_found (const NfConfig *config, const char *const *settings)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  if (settings)
    g_strv_builder_addv (builder, (const char **)settings);
  g_strv_builder_add (builder, "noise_type=uniform");
  g_auto (GStrv) all = g_strv_builder_end (builder);
  write_weights (config, NULL, NULL);
  g_autoptr (NfTensorFile) file = open_file (path);
  g_autoptr (NfConfig) found = nf_checkpoint_config (file, NULL, (const char *const *)all, &error);
  nf_test_ok (found, error);
  g_autofree char *is = nf_config_to_json (found), *wanted = nf_config_to_json (config);
  assert_string_equal (is, wanted);
}

static const NfConfig tarflow = { .channels = 3,
                                  .img_size = 16,
                                  .patch_size = 4,
                                  .width = 128,
                                  .n_blocks = 3,
                                  .n_layers = 2,
                                  .nvp = TRUE,
                                  .head_dim = 64,
                                  .expansion = 4 };

static const NfConfig starflow = { .channels = 4,
                                   .layout = NF_PIXELS_LATENT,
                                   .img_size = 6,
                                   .patch_size = 1,
                                   .width = 128,
                                   .top_width = 192,
                                   .n_blocks = 3,
                                   .n_layers = 1,
                                   .layers = { 1, 1, 4 },
                                   .nvp = TRUE,
                                   .head_dim = 64,
                                   .expansion = 4,
                                   .family = NF_FAMILY_STARFLOW,
                                   .txt_size = 5,
                                   .txt_dim = 12,
                                   .rope = TRUE,
                                   .sos = TRUE,
                                   .softplus = TRUE,
                                   .soft_clip = 4,
                                   .final_norm = TRUE,
                                   .cond_top_only = TRUE,
                                   .left_to_right = TRUE };

static void
test_shapes (void **state)
{
  NfConfig c[8];
  for (guint i = 0; i < G_N_ELEMENTS (c); i++)
    c[i] = tarflow;
  c[1].n_classes = 7;
  c[2].nvp = FALSE;
  c[3].channels = 1, c[3].layout = NF_PIXELS_GRAY;
  c[4].layout = NF_PIXELS_YUV420;
  c[5].patch_size = 1, c[5].img_size = 5;
  c[6].width = 192, c[6].expansion = 2, c[6].n_blocks = 1, c[6].n_layers = 5;
  c[7].patch_size = 2, c[7].layout = NF_PIXELS_YUV420, c[7].img_size = 6;
  for (guint i = 0; i < G_N_ELEMENTS (c); i++)
    check_found (&c[i], c[i].layout == NF_PIXELS_YUV420 ? (const char *const[]){ "pixel_layout=yuv420", NULL }
                                                        : NULL);
  check_found (&c[7], (const char *const[]){ "patch_size=2", NULL });
  NfConfig narrow = tarflow;
  narrow.width = 96, narrow.head_dim = 32;
  check_found (&narrow, (const char *const[]){ "head_dim=32", NULL });

  /* what shapes of a STARFlow do not say */
  NfConfig s[7];
  for (guint i = 0; i < G_N_ELEMENTS (s); i++)
    s[i] = starflow;
  s[1].txt_size = s[1].txt_dim = 0, s[1].cond_top_only = FALSE;
  s[2].rms_norm = s[2].qk_norm = s[2].post_norm = s[2].no_bias = s[2].gated = TRUE;
  s[3].n_heads = 4, s[3].n_kv_heads = 2, s[3].top_width = 0;
  s[4].sos = s[4].final_norm = s[4].cond_top_only = FALSE;
  s[5].rope = FALSE;
  s[6].n_heads = 2; /* as many as the width holds, but not the top block's */
  for (guint i = 0; i < G_N_ELEMENTS (s); i++)
    check_found (&s[i],
                 (const char *const[]){ "patch_size=1", "img_size=6", "use_softplus=true", "soft_clip=4",
                                        "seq_order=L2R", "hf_style_rope=false", "temporal_causal=0",
                                        s[i].txt_size ? "txt_size=5" : "txt_size=0",
                                        s[i].rope ? NULL : "head_dim=64", NULL });
}

/* Memory for a variance is taken where there is one, and a digest is as if there always were. */
static void
test_variance (void **state)
{
  const char *const missing[] = { NULL, "var" };
  g_autoptr (GError) error = NULL;
  g_autofree char *json_path = beside (".json");
  write_text (json_path, "{\"noise_type\": \"uniform\"}");
  for (guint i = 0; i < 2; i++)
    {
      write_weights (&tarflow, NULL, missing[i]);
      g_autoptr (NfTensorFile) file = open_file (path);
      g_autoptr (NfWeights) weights = nf_weights_open (file, NULL, &error);
      nf_test_ok (weights, error);
      assert_null (weights->variance);
      g_autofree char *digest = nf_weights_digest (weights, NULL, NULL, &error);
      assert_non_null (nf_weights_need_variance (weights));
      g_autofree char *digest_of_ones = nf_weights_digest (weights, NULL, NULL, &error);
      assert_string_equal (digest, digest_of_ones);
    }
  g_unlink (json_path);
  g_autofree char *name = nf_test_file ("golden", "tarflow_vp.weights.safetensors");
  g_autoptr (NfTensorFile) file = open_file (name);
  g_autoptr (NfWeights) weights = nf_weights_open (file, NULL, &error);
  nf_test_ok (weights, error);
  assert_non_null (weights->variance);
}

/* Blocks without layers have no weights: only who says so means them. */
static void
test_identities (void **state)
{
  NfConfig c = starflow;
  const char *settings[] = { "patch_size=1",
                             "img_size=6",
                             "use_softplus=true",
                             "soft_clip=4",
                             "seq_order=L2R",
                             "hf_style_rope=false",
                             "temporal_causal=0",
                             "txt_size=5",
                             "num_blocks=3",
                             NULL,
                             NULL };
  c.n_layers = 0;
  c.layers[0] = 0, c.layers[1] = 2, c.layers[2] = 1;
  write_weights (&c, NULL, NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = open_file (path);
  assert_null (nf_checkpoint_config (file, NULL, settings, &error));
  assert_non_null (strstr (error->message, "blocks.0.proj_in.weight is missing"));
  settings[9] = "layers_per_block=[0, 2, 1]";
  check_found (&c, settings);
}

static void
check_refused (NfTensorFile *file, const char *config, const char *const *settings, NfError code,
               const char *mentions)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfConfig) found = nf_checkpoint_config (file, config, settings, &error);
  if (found)
    fail_msg ("a configuration was found, though \"%s\"", mentions);
  if (!g_error_matches (error, NF_ERROR, (gint)code) || !strstr (error->message, mentions))
    fail_msg ("\"%s\" is of the wrong kind or does not mention \"%s\"", error->message, mentions);
}

/* A name that official training gives says the noise, whatever is added to it; what nothing says is taken for
 * that of 8-bit samples, and told to be. */
static void
test_noise (void **state)
{
  static const struct
  {
    const char *name, *setting, *wrong;
    NfNoise noise;
    double std;
    gboolean guessed;
  } cases[] = {
    { "afhq_model_4_128_3_2_0.07.pth", NULL, NULL, NF_NOISE_GAUSSIAN, 0.07 },
    { "a_model_4_128_3_2_uniform.pth", NULL, NULL, NF_NOISE_UNIFORM, 0 },
    { "a_model_4_128_3_2_0.07.pt", NULL, NULL, NF_NOISE_GAUSSIAN, 0.07 },
    { "a_model_4_128_3_2_1.0.ckpt", NULL, NULL, NF_NOISE_GAUSSIAN, 1 },
    { "a_model_4_128_3_2_0.07_ema.pth", NULL, NULL, NF_NOISE_GAUSSIAN, 0.07 },
    { "a_model_4_128_3_2_0.07.pth.tar", NULL, NULL, NF_NOISE_GAUSSIAN, 0.07 },
    { "a_model_4_128_3_2_1.pt", NULL, NULL, NF_NOISE_GAUSSIAN, 1 },
    { "a_model_4_128_3_2_0.07 (1).pth", NULL, NULL, NF_NOISE_GAUSSIAN, 0.07 },
    { "a_model_4_128_3_2_uniform_ep10.pt", NULL, NULL, NF_NOISE_UNIFORM, 0 },
    { "a_model_4_128_3_2_0.07.pth", "noise_type=uniform", NULL, NF_NOISE_UNIFORM, 0 },
    { "a_model_4_128_3_2_0.07.pth", "noise_std=0.05", NULL, NF_NOISE_GAUSSIAN, 0.05 },
    { "a_model_4_128_3_2_uniform.pth", "noise_std=0.05", NULL, NF_NOISE_GAUSSIAN, 0.05 },
    { "a.pth", "noise_type=uniform", NULL, NF_NOISE_UNIFORM, 0 },
    { "a.pth", "noise_std=0.05", NULL, NF_NOISE_GAUSSIAN, 0.05 },
    { "a.pth", NULL, NULL, NF_NOISE_UNIFORM, 0, TRUE },
    { "a_model_4_64_3_2_0.07.pth", NULL, NULL, NF_NOISE_UNIFORM, 0, TRUE }, /* of another model */
    { "a_model_4_128_3_2_-1.pth", NULL, NULL, NF_NOISE_UNIFORM, 0, TRUE },
    { "a_model_4_128_3_2_0.07.1.pth", NULL, NULL, NF_NOISE_UNIFORM, 0, TRUE },
    { "a_model_4_128_3_2_uniformly.pth", NULL, NULL, NF_NOISE_UNIFORM, 0, TRUE },
    { "a_model_4_128.pth", NULL, NULL, NF_NOISE_UNIFORM, 0, TRUE },
  };
  g_autoptr (GError) error = NULL;
  g_autofree char *folder = g_dir_make_tmp ("normflow-test-XXXXXX", &error);
  nf_test_ok (folder, error);
  write_weights (&tarflow, NULL, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *name = g_build_filename (folder, cases[i].name, NULL);
      assert_int_equal (g_rename (path, name), 0);
      g_autoptr (NfTensorFile) file = open_file (name);
      const char *const settings[] = { cases[i].setting, NULL };
      if (cases[i].wrong)
        check_refused (file, NULL, settings, NF_ERROR_CONFIG, cases[i].wrong);
      else
        {
          g_autoptr (NfConfig) config = nf_checkpoint_config (file, NULL, settings, &error);
          nf_test_ok (config, error);
          assert_int_equal (config->noise, cases[i].noise);
          assert_true (config->noise_std == cases[i].std);
        }
      assert_int_equal (nf_checkpoint_says_noise (file, NULL, settings), !cases[i].guessed);
      assert_int_equal (g_rename (name, path), 0);
    }
  g_rmdir (folder);
}

/* A deviation is said of Gaussian noise alone, wherever it is said. */
static void
test_deviations (void **state)
{
  static const struct
  {
    const char *json, *setting;
    NfNoise noise;
  } cases[] = {
    { "{}", "noise_std=0.1", NF_NOISE_GAUSSIAN },
    { "{\"noise_std\": 0.1}", NULL, NF_NOISE_GAUSSIAN },
    { "{\"noise_std\": 0.1}", "noise_type=gaussian", NF_NOISE_GAUSSIAN },
    { "{\"noise_std\": 0.1}", "noise_std=0", NF_NOISE_UNIFORM },
    { "{\"noise_std\": 0, \"noise_type\": \"gaussian\"}", NULL, NF_NOISE_GAUSSIAN },
  };
  g_autofree char *json_path = beside (".json");
  write_weights (&tarflow, NULL, NULL);
  g_autoptr (NfTensorFile) file = open_file (path);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      write_text (json_path, cases[i].json);
      g_autoptr (NfConfig) config
          = nf_checkpoint_config (file, NULL, (const char *const[]){ cases[i].setting, NULL }, &error);
      g_unlink (json_path);
      nf_test_ok (config, error);
      assert_int_equal (config->noise, cases[i].noise);
    }
}

/* A name that official training gives says the patch, and with it the planes. */
static void
test_named_patches (void **state)
{
  static const struct
  {
    guint C, p;
    const char *name, *setting, *wrong, *noise;
  } cases[] = {
    { 4, 2, "a_model_2_128_3_2_0.07.pth", NULL, NULL },
    { 4, 2, "a_model_2_128_3_2_0.07.pth", "in_channels=4", NULL },
    { 12, 1, "a_model_1_128_3_2_0.07.pth", NULL, NULL },
    { 6, 1, "a_model_1_128_3_2_0.07.pth", NULL, NULL },
    { 3, 2, "a_model_2_128_3_2_0.07.pth", NULL, NULL },
    { 3, 2, "a_model_4_128_3_2_0.07.pth", NULL,
      "its name says a patch_size that does not divide its tokens of 12" },
    { 3, 2, "a_model_4_128_3_2_0.07.pth", "patch_size=2", "do not say noise_type;" },
    { 6, 1, "a.pth", NULL, "do not say patch_size", "noise_type=uniform" },
    { 4, 2, "a.pth", "patch_size=65536", "is impossible", "noise_type=uniform" },
  };
  g_autoptr (GError) error = NULL;
  g_autofree char *folder = g_dir_make_tmp ("normflow-test-XXXXXX", &error);
  nf_test_ok (folder, error);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      NfConfig config = tarflow;
      config.channels = cases[i].C, config.patch_size = cases[i].p;
      config.layout = config.channels == 3 ? NF_PIXELS_RGB : NF_PIXELS_LATENT;
      write_weights (&config, NULL, NULL);
      g_autofree char *name = g_build_filename (folder, cases[i].name, NULL);
      assert_int_equal (g_rename (path, name), 0);
      g_autoptr (NfTensorFile) file = open_file (name);
      const char *const settings[] = { cases[i].noise ? cases[i].noise : cases[i].setting,
                                       cases[i].noise ? cases[i].setting : NULL, NULL };
      g_autoptr (NfConfig) found = nf_checkpoint_config (file, NULL, settings, &error);
      if (cases[i].wrong)
        {
          assert_null (found);
          assert_non_null (strstr (error->message, cases[i].wrong));
          g_clear_error (&error);
        }
      else
        {
          nf_test_ok (found, error);
          config.noise = NF_NOISE_GAUSSIAN, config.noise_std = 0.07;
          assert_true (nf_config_equal (found, &config));
        }
      g_unlink (name);
    }
  g_rmdir (folder);
}

/* What nothing says is asked for by name, all of it at once. */
static void
test_open (void **state)
{
  write_weights (&starflow, NULL, NULL);
  g_autoptr (NfTensorFile) file = open_file (path);
  check_refused (file, NULL, NULL, NF_ERROR_CONFIG,
                 "do not say patch_size, img_size, use_softplus, soft_clip, seq_order, hf_style_rope and "
                 "temporal_causal;");
  check_refused (file, NULL,
                 (const char *const[]){ "patch_size=1", "img_size=6", "use_softplus=1", "soft_clip=4",
                                        "seq_order=L2R", "hf_style_rope=0", "noise_std=0.3", NULL },
                 NF_ERROR_CONFIG, "do not say temporal_causal;");
  check_refused (file, NULL, (const char *const[]){ "patch_size", NULL }, NF_ERROR_ARGUMENT, "NAME=VALUE");
  check_refused (file, NULL, (const char *const[]){ "=1", NULL }, NF_ERROR_ARGUMENT, "NAME=VALUE");
  check_refused (file, path, NULL, NF_ERROR_FORMAT, path);
  check_refused (file, "/nowhere/config.yaml", NULL, NF_ERROR_NOT_FOUND, "/nowhere/config.yaml");
  check_refused (file, "/", NULL, NF_ERROR_FORMAT, "/: it is not a regular file");

  NfConfig narrow = tarflow;
  narrow.width = 96, narrow.head_dim = 32;
  write_weights (&narrow, NULL, NULL);
  g_autoptr (NfTensorFile) small = open_file (path);
  check_refused (small, NULL, NULL, NF_ERROR_CONFIG, "do not say head_dim;");

  g_autoptr (NfTensorFile) expected = NULL;
  g_autofree char *other = nf_test_file ("golden", "tarflow_vp.expected.safetensors");
  expected = open_file (other);
  check_refused (expected, NULL, NULL, NF_ERROR_CONFIG, "blocks.0.proj_in.weight");
}

/* Heads of official code are as many as each width holds, whatever is left. */
static void
test_uneven_heads (void **state)
{
  static const float values[192 * 192];
  NfConfig config = starflow;
  config.width = 96, config.n_heads = 1;
  write_weights (&config, NULL, NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) even = open_file (path);
  const guint n = nf_tensor_file_count (even);
  g_autofree NfTensor *tensors = nf_test_tensors (even);
  for (guint i = 0; i < n; i++)
    {
      if (strcmp (tensors[i].name, "blocks.2.attn_blocks.0.attention.proj.weight") != 0)
        continue;
      assert_int_equal (tensors[i].dims[1], 64);
      tensors[i].dims[1] = 192, tensors[i].n_elements = G_N_ELEMENTS (values);
      tensors[i].dtype = NF_DTYPE_F32, tensors[i].data = (const guint8 *)values;
    }
  g_unlink (path);
  nf_test_ok (nf_tensor_file_write (path, tensors, n, NULL, &error), error);
  const char *const settings[] = {
    "patch_size=1",        "img_size=6",        "use_softplus=true", "soft_clip=4",        "seq_order=L2R",
    "hf_style_rope=false", "temporal_causal=0", "txt_size=5",        "noise_type=uniform", NULL
  };
  g_autoptr (NfTensorFile) file = open_file (path);
  check_refused (file, NULL, settings, NF_ERROR_CONFIG,
                 "channels (the width) 96 is not a multiple of head_dim 64");
  g_autoptr (NfConfig) found = nf_checkpoint_config (even, NULL, settings, &error);
  nf_test_ok (found, error);
  assert_int_equal (found->n_heads, 1);
}

/* Weights that their configuration contradicts */

static void
check_model_refused (const char *mentions)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *digest = nf_model_digest_of_file (path, &error);
  if (digest)
    fail_msg ("a model was accepted, though \"%s\"", mentions);
  if (!g_error_matches (error, NF_ERROR, NF_ERROR_CONFIG) || !strstr (error->message, path)
      || !strstr (error->message, mentions))
    fail_msg ("\"%s\" is of the wrong kind or does not mention the file and \"%s\"", error->message,
              mentions);
}

static void
test_contradictions (void **state)
{
  static const struct
  {
    const char *json, *mentions;
  } cases[] = {
    { "{\"num_blocks\": 2}", "blocks.2." },
    { "{\"num_blocks\": 4}", "blocks.3.proj_in.weight" },
    { "{\"layers_per_block\": 1}", "blocks.0.attn_blocks.1." },
    { "{\"layers_per_block\": 3}", "blocks.0.attn_blocks.2." },
    { "{\"channels\": 64}", "blocks.0.proj_in.weight is (128, 48), its configuration needs (64, 48)" },
    { "{\"nvp\": false}", "blocks.0.proj_out.weight is (96, 128), its configuration needs (48, 128)" },
    { "{\"num_classes\": 3}", "blocks.0.class_embed" },
    { "{\"expansion\": 2}", "mlp.main.0.weight" },
    { "{\"img_size\": 32}", "blocks.0.pos_embed is (16, 128), its configuration needs (64, 128)" },
    { "{\"head_dim\": 48}", "head_dim 48" },
    { "{\"max_log_scale\": 1e30}", "max_log_scale is 1e+30, it must be 0 to 80" },
    { "{\"noise_std\": 1e999}", "noise_std is inf, it must be 0 to 2" },
    { "{\"patch_size\": 2, \"in_channels\": 3}", "blocks.0.proj_in.weight" },
    { "{\"family\": \"starflow\", \"sos\": true, \"patch_size\": 1, \"img_size\": 4}", "blocks.0.sos_embed" },
  };
  g_autofree char *json_path = beside (".json");
  write_weights (&tarflow, NULL, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      write_text (json_path, cases[i].json);
      g_autoptr (GError) error = NULL;
      g_autofree char *digest = nf_model_digest_of_file (path, &error);
      g_unlink (json_path);
      if (digest)
        fail_msg ("%s was accepted", cases[i].json);
      if (!g_error_matches (error, NF_ERROR, NF_ERROR_CONFIG) || !strstr (error->message, cases[i].mentions))
        fail_msg ("%s: \"%s\" does not mention \"%s\"", cases[i].json, error->message, cases[i].mentions);
    }

  write_text (json_path, "{\"noise_type\": \"uniform\"}");
  write_weights (&tarflow, "blocks.0.surplus", NULL);
  check_model_refused ("blocks.0.surplus");
  write_weights (&tarflow, "optimizer", NULL);
  check_model_refused ("optimizer");
  write_weights (&tarflow, NULL, "blocks.1.attn_blocks.1.mlp.norm.bias");
  check_model_refused ("blocks.1.attn_blocks.1.mlp.norm.bias");
  write_weights (&tarflow, NULL, "blocks.2.proj_out.bias");
  check_model_refused ("blocks.2.proj_out.bias");
  g_unlink (json_path);
  write_weights (&tarflow, NULL, "blocks.0.pos_embed");
  check_model_refused ("do not say");
}

/* Of a STARFlow no parameter, but the buffer of its rotations says how wide heads are and how long texts. */
static void
test_rotations (void **state)
{
  static const struct
  {
    const char *setting, *mentions;
  } cases[] = {
    { "\"head_dim\": 64", "feat_rope.freqs_cos is (70, 32), its configuration needs (70, 64)" },
    { "\"txt_size\": 9", "feat_rope.freqs_cos is (70, 32), its configuration needs (73, 32)" },
    { "\"img_size\": 4, \"pt_seq_len\": 8", NULL }, /* the same model with smaller pictures */
  };
  g_autofree char *twin_path = nf_test_file ("golden", "starflow_text.weights.safetensors"),
                  *json_path = beside (".json");
  g_autoptr (NfTensorFile) twin = open_file (twin_path);
  write_pth (twin, "");
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *json = g_strdup_printf (
          "{%s, \"in_channels\": 4, \"patch_size\": 1, \"rope\": true, \"use_softplus\": true, "
          "\"soft_clip\": 4, \"seq_order\": \"L2R\"}",
          cases[i].setting);
      write_text (json_path, json);
      g_autofree char *digest = nf_model_digest_of_file (path, &error);
      g_unlink (json_path);
      if (!cases[i].mentions)
        nf_test_ok (digest, error);
      else if (digest)
        fail_msg ("%s was accepted", cases[i].setting);
      else if (!strstr (error->message, cases[i].mentions))
        fail_msg ("\"%s\" does not mention \"%s\"", error->message, cases[i].mentions);
    }
}

/* Positions may be scaled to another number of tokens than the images of training have: shapes say it, too.
 */
static void
test_scaled_positions (void **state)
{
  static const char *const settings[] = { ", \"pt_seq_len\": 4", "" };
  NfConfig config = starflow;
  config.pt_seq_len = 4;
  write_weights (&config, NULL, NULL);
  g_autofree char *json_path = beside (".json");
  g_autoptr (NfTensorFile) file = open_file (path);
  const NfTensor *rotations = nf_tensor_file_lookup (file, "feat_rope.freqs_sin");
  assert_int_equal (rotations->dims[0], 4 * 4 + config.txt_size);
  assert_int_equal (rotations->dims[1], config.head_dim);
  g_autofree char *told = NULL;
  for (guint i = 0; i < G_N_ELEMENTS (settings); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *json = g_strdup_printf (
          "{\"in_channels\": 4, \"patch_size\": 1, \"rope\": true, \"use_softplus\": true, \"soft_clip\": 4, "
          "\"cond_top_only\": true, \"seq_order\": \"L2R\"%s}",
          settings[i]);
      write_text (json_path, json);
      g_autofree char *digest = nf_model_digest_of_file (path, &error);
      g_unlink (json_path);
      nf_test_ok (digest, error);
      if (told)
        assert_string_equal (digest, told);
      else
        told = g_steal_pointer (&digest);
    }
}

/* Without masks the length of texts follows from rotations and what positions are scaled to: as many as "var"
 * has rows, or what a configuration says. */
static void
test_rotated_text (void **state)
{
  const char *const settings[] = { "patch_size=1",        "use_softplus=true", "soft_clip=4", "seq_order=L2R",
                                   "hf_style_rope=false", "temporal_causal=0", NULL };
  g_autofree char *yaml_path = beside (".yaml");
  g_autoptr (GError) error = NULL;
  NfConfig config = starflow;
  write_weights (&config, NULL, "blocks.0.attn_mask");
  g_autoptr (NfTensorFile) file = open_file (path);
  g_autoptr (NfConfig) found = nf_checkpoint_config (file, NULL, settings, &error);
  nf_test_ok (found, error);
  assert_true (nf_config_equal (found, &config));
  /* JSON, with a byte order mark */
  write_text (yaml_path, "\xef\xbb\xbf {\"patch_size\": 1, \"use_softplus\": true, \"soft_clip\": 4, "
                         "\"seq_order\": \"L2R\", \"hf_style_rope\": false, \"temporal_causal\": 0}");
  g_autoptr (NfConfig) marked = nf_checkpoint_config (file, yaml_path, NULL, &error);
  g_unlink (yaml_path);
  nf_test_ok (marked, error);
  assert_true (nf_config_equal (marked, &config));
  /* a setting is one value, which a float can hold */
  check_refused (file, NULL,
                 (const char *const[]){ "patch_size=1", "use_softplus=true", "soft_clip=4,\"x\":3",
                                        "seq_order=L2R", "hf_style_rope=false", "temporal_causal=0", NULL },
                 NF_ERROR_CONFIG, "\"soft_clip\" must be a number");
  check_refused (file, NULL,
                 (const char *const[]){ "patch_size=1", "use_softplus=true", "soft_clip=1e-300",
                                        "seq_order=L2R", "hf_style_rope=false", "temporal_causal=0", NULL },
                 NF_ERROR_CONFIG, "\"soft_clip\" must be 0 or a number");

  config.pt_seq_len = 9;
  write_weights (&config, NULL, "blocks.0.attn_mask");
  write_text (yaml_path, "patch_size: 1\nuse_softplus: 1\nsoft_clip: 4\nseq_order: L2R\npt_seq_len: 9\n");
  g_autofree char *digest = nf_model_digest_of_file (path, &error);
  g_unlink (yaml_path);
  nf_test_ok (digest, error);
}

/* Leaves what a module's named_parameters() are, of which averages are made. */
static void
drop_buffers (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) whole = open_file (path);
  g_autofree NfTensor *tensors = nf_test_tensors (whole);
  guint kept = 0;
  for (guint i = 0; i < nf_tensor_file_count (whole); i++)
    if (g_str_has_prefix (tensors[i].name, "blocks.") && !g_str_has_suffix (tensors[i].name, ".attn_mask"))
      tensors[kept++] = tensors[i];
  g_unlink (path);
  nf_test_ok (nf_tensor_file_write (path, tensors, kept, NULL, &error), error);
}

/* A STARFlow's heads may have any width, and its positions any scale: where no buffer is kept, and norms do
 * not tell either, they are asked for. */
static void
test_without_buffers (void **state)
{
  static const char all[] = "patch_size=1 img_size=6 txt_size=5 use_softplus=true soft_clip=4 seq_order=L2R "
                            "cond_top_only=true hf_style_rope=false temporal_causal=0",
                    more[] = " head_dim=32 pt_seq_len=4";
  g_auto (GStrv) settings = g_strsplit (all, " ", -1);
  g_autofree char *whole = g_strconcat (all, more, NULL);
  g_auto (GStrv) told = g_strsplit (whole, " ", -1);
  g_autoptr (GError) error = NULL;
  NfConfig c = starflow;
  c.head_dim = 32, c.pt_seq_len = 4;
  write_weights (&c, NULL, NULL);
  drop_buffers ();
  g_autoptr (NfTensorFile) file = open_file (path);
  check_refused (file, NULL, (const char *const *)settings, NF_ERROR_CONFIG,
                 "do not say pt_seq_len and head_dim;");
  g_autoptr (NfConfig) found = nf_checkpoint_config (file, NULL, (const char *const *)told, &error);
  nf_test_ok (found, error);
  assert_true (nf_config_equal (found, &c));

  /* norms tell of heads, learned positions need no scale */
  c.qk_norm = TRUE, c.rope = FALSE, c.pt_seq_len = 0;
  write_weights (&c, NULL, NULL);
  drop_buffers ();
  g_autoptr (NfTensorFile) normed = open_file (path);
  g_autoptr (NfConfig) learned = nf_checkpoint_config (normed, NULL, (const char *const *)settings, &error);
  nf_test_ok (learned, error);
  assert_true (nf_config_equal (learned, &c));

  /* rotations tell of both, without "var", too */
  c = starflow;
  c.head_dim = 32, c.pt_seq_len = 4;
  write_weights (&c, NULL, "var");
  g_autoptr (NfTensorFile) rotated = open_file (path);
  g_autoptr (NfConfig) scaled = nf_checkpoint_config (rotated, NULL, (const char *const *)settings, &error);
  nf_test_ok (scaled, error);
  assert_true (nf_config_equal (scaled, &c));
}

/* YAML */

/* The sizes of the two official configurations. */
#define IMAGE_YAML                                                                                           \
  "arguments:\n- no_flip: 1\n- img_size: 256\n- txt_size: 128\n- channel_size: 4\n- patch_size: 1\n"         \
  "- channels: 3072\n- blocks: 6\n- layers_per_block: 2 2 2 2 2 24\n- noise_std: 0.3\n- lr: 6.4e-05\n"       \
  "- nvp: 1\n- rope: 1\n- adaln: 0\n- sos: 1\n- seq_order: L2R\n- use_softplus: 1\n- cond_top_only: 1\n"     \
  "- use_final_norm: 1\n- vae: stabilityai/sd-vae-ft-ema\n- text: google/flan-t5-xl\n- soft_clip: 4\n"
#define VIDEO_YAML                                                                                           \
  "arguments:\n- img_size: 640\n- txt_size: 256\n- vid_size: '81:16'\n- channel_size: 48\n- patch_size: 1\n" \
  "- channels: 3072\n- top_block_channels: 4096\n- blocks: 6\n- layers_per_block: 2 2 2 2 2 24\n- nvp: 1\n"  \
  "- rope: 1\n- sos: 1\n- seq_order: L2R\n- pt_seq_len: 32\n- use_softplus: 1\n- cond_top_only: 1\n"         \
  "- use_final_norm: 1\n- learnable_self_denoiser: 1\n- conditional_denoiser: 1\n- denoiser_window: 10\n"    \
  "- temporal_causal: 2\n- shallow_block_local: 1\n- vae: Wan-AI/Wan2.2-TI2V-5B-Diffusers:0.6\n- "           \
  "soft_clip: 4\n"

static void
test_recipes (void **state)
{
  static const struct
  {
    const char *yaml, *members;
  } cases[] = {
    { IMAGE_YAML, "img_size=32 txt_size=128 in_channels=4 patch_size=1 channels=3072 num_blocks=6 "
                  "layers_per_block=[2,2,2,2,2,24] "
                  "noise_std=0.29999999999999999 nvp=1 rope=1 sos=1 "
                  "seq_order=\"L2R\" use_softplus=1 "
                  "cond_top_only=1 use_final_norm=1 soft_clip=4" },
    { VIDEO_YAML, "img_size=40 txt_size=256 frames=21 in_channels=48 patch_size=1 channels=3072 "
                  "top_block_channels=4096 num_blocks=6 "
                  "layers_per_block=[2,2,2,2,2,24] nvp=1 rope=1 sos=1 seq_order=\"L2R\" pt_seq_len=32 "
                  "use_softplus=1 cond_top_only=1 "
                  "use_final_norm=1 learnable_self_denoiser=1 conditional_denoiser=1 denoiser_window=10 "
                  "temporal_causal=2 "
                  "shallow_block_local=1 soft_clip=4" },
    /* pairs alone, a list as YAML has it, and a size that no autoencoder changes */
    { "# one\nblocks: 2\nlayers_per_block: [1, 3]\nimg_size: 64\n",
      "num_blocks=2 layers_per_block=[1,3] img_size=64" },
    /* options that were not given */
    { "blocks: 2\ntop_block_channels: null\nnum_heads: None\nnum_kv_heads: ~\nvid_size:\n", "num_blocks=2" },
    /* numbers as Python reads them */
    { "noise_std: .25\nsoft_clip: +4.\nnoise_type: gaussian\n",
      "noise_std=0.25 soft_clip=4.0 noise_type=\"gaussian\"" },
    { "noise_std: -.5\nsoft_clip: 25e-1\n", "noise_std=-0.5 soft_clip=2.5" },
    { "soft_clip: 0x10\nhead_dim: .\nchannels: '-'\n", "soft_clip=\"0x10\" head_dim=\".\" channels=\"-\"" },
    /* of an unknown autoencoder */
    { "img_size: 64\nvae: other\nblocks: 2\n", "num_blocks=2" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (JsonObject) object
          = nf_recipe_read (cases[i].yaml, strlen (cases[i].yaml), "a.yaml", &error);
      nf_test_ok (object, error);
      g_auto (GStrv) wanted = g_strsplit (cases[i].members, " ", -1);
      for (guint j = 0; wanted[j]; j++)
        {
          char *value = strchr (wanted[j], '=');
          *value++ = '\0';
          if (!json_object_has_member (object, wanted[j]))
            fail_msg ("case %u: there is no member %s", i, wanted[j]);
          g_autofree char *is = json_to_string (json_object_get_member (object, wanted[j]), FALSE);
          assert_string_equal (is, value);
        }
      assert_int_equal (json_object_get_size (object), g_strv_length (wanted));
    }
}

static void
test_bad_recipes (void **state)
{
  static const struct
  {
    const char *yaml;
    NfError code;
    const char *mentions;
  } cases[] = {
    { "", NF_ERROR_FORMAT, "no training arguments" },
    { "arguments:\n", NF_ERROR_FORMAT, "arguments" },
    { "just words", NF_ERROR_FORMAT, "no list" },
    { "- 1\n- 2\n", NF_ERROR_FORMAT, "no list" },
    { "blocks: 2\n\tpatch_size: 1\n", NF_ERROR_FORMAT, "line 2" },
    { "blocks: [2\n", NF_ERROR_FORMAT, "not YAML" },
    { "blocks: 2\nblocks: 3\n", NF_ERROR_FORMAT, "blocks" },
    { "arguments:\n- blocks: 2\n- blocks: 2\n", NF_ERROR_FORMAT, "blocks" },
    { "blocks: {a: 1}\n", NF_ERROR_FORMAT, "blocks" },
    { "blocks: [[1]]\n", NF_ERROR_FORMAT, "blocks" },
    { "arguments:\n- blocks:\n    deep: 2\n", NF_ERROR_FORMAT, "blocks" },
    { "a: &x 1\nb: *x\n", NF_ERROR_FORMAT, "anchors" },
    { "a: &x [1, 1]\nb: &y [*x, *x]\n", NF_ERROR_FORMAT, "anchors" },
    { "blocks: 2\n--- \npatch_size: 3\n", NF_ERROR_FORMAT, "several documents" },
    { "arguments:\n- blocks: 2\n- use_softplus\n", NF_ERROR_FORMAT, "\"use_softplus\"" },
    { "arguments:\n- soft_clip 4\n- blocks: 2\n", NF_ERROR_FORMAT, "\"soft_clip 4\"" },
    { "arguments:\n- soft_clip\n- 4\n", NF_ERROR_FORMAT, "\"soft_clip\"" },
    { "arguments:\n- blocks: 2\npatch_size: {a: 1}\n", NF_ERROR_FORMAT, "patch_size" },
    { "wheels: 4\n", NF_ERROR_UNSUPPORTED, "\"wheels\"" },
    { "adaln: 1\n", NF_ERROR_UNSUPPORTED, "adaln" },
    { "use_pretrained_lm: gemma3_1b\n", NF_ERROR_UNSUPPORTED, "use_pretrained_lm" },
    { "layers_per_block: 2 x 2\n", NF_ERROR_CONFIG, "layers_per_block" },
    { "layers_per_block: 2 -2\n", NF_ERROR_CONFIG, "layers_per_block" },
    { "img_size: big\n", NF_ERROR_CONFIG, "img_size" },
    { "vid_size: ':16'\n", NF_ERROR_CONFIG, "vid_size" },
    { "blocks: 2\x01\n", NF_ERROR_FORMAT, "not YAML" },
    { "blocks: \xff\xfe\n", NF_ERROR_FORMAT, "not YAML" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (JsonObject) object
          = nf_recipe_read (cases[i].yaml, strlen (cases[i].yaml), "bad.yaml", &error);
      if (object)
        fail_msg ("\"%s\" was accepted", cases[i].yaml);
      if (!g_error_matches (error, NF_ERROR, (gint)cases[i].code) || !strstr (error->message, "bad.yaml")
          || !strstr (error->message, cases[i].mentions))
        fail_msg ("\"%s\": \"%s\" is of the wrong kind or does not mention the file and \"%s\"",
                  cases[i].yaml, error->message, cases[i].mentions);
    }
  /* deep, and long */
  g_autoptr (GString) text = g_string_new ("blocks: ");
  for (guint i = 0; i < 100000; i++)
    g_string_append_c (text, '[');
  g_autoptr (GError) error = NULL;
  assert_null (nf_recipe_read (text->str, text->len, "deep.yaml", &error));
  g_clear_error (&error);
  g_string_truncate (text, 0);
  for (guint i = 0; i < 1000; i++)
    g_string_append_printf (text, "a%u: 1\n", i);
  assert_null (nf_recipe_read (text->str, text->len, "long.yaml", &error));
}

/* A STARFlow and the YAML that it was trained with, beside it and given. */
static void
test_yaml (void **state)
{
  static const char yaml[]
      = "arguments:\n- img_size: 48\n- txt_size: 5\n- channel_size: 4\n- patch_size: 1\n- channels: 128\n"
        "- top_block_channels: 192\n- blocks: 3\n- layers_per_block: 1 1 4\n- nvp: 1\n- rope: 1\n- sos: 1\n"
        "- seq_order: L2R\n- use_softplus: 1\n- cond_top_only: 1\n- use_final_norm: 1\n"
        "- vae: stabilityai/sd-vae-ft-ema\n- soft_clip: 4\n- noise_std: 0.3\n";
  g_autofree char *yaml_path = beside (".yaml"), *wanted = NULL;
  g_autoptr (GError) error = NULL;
  NfConfig config = starflow;
  config.noise = NF_NOISE_GAUSSIAN, config.noise_std = 0.3;
  wanted = nf_config_to_json (&config);
  write_weights (&starflow, NULL, NULL);
  write_text (yaml_path, yaml);
  g_autoptr (NfTensorFile) file = open_file (path);
  for (guint given = 0; given < 2; given++)
    {
      g_autoptr (NfConfig) found = nf_checkpoint_config (file, given ? yaml_path : NULL, NULL, &error);
      nf_test_ok (found, error);
      g_autofree char *is = nf_config_to_json (found);
      assert_string_equal (is, wanted);
    }
  /* settings come first */
  g_autoptr (NfConfig) set = nf_checkpoint_config (
      file, yaml_path, (const char *const[]){ "soft_clip=2.5", "hw=[3, 12]", NULL }, &error);
  nf_test_ok (set, error);
  assert_true (set->soft_clip == 2.5);
  assert_int_equal (nf_config_rows (set), 3);
  assert_int_equal (nf_config_columns (set), 12);
  g_unlink (yaml_path);
}

/* Official training has noise of 0.3 unless its arguments say another. */
static void
test_yaml_noise (void **state)
{
  static const struct
  {
    const char *yaml, *setting;
    NfNoise noise;
    double std;
  } cases[] = {
    { "", NULL, NF_NOISE_GAUSSIAN, 0.3 },
    { "- noise_type: gaussian\n", NULL, NF_NOISE_GAUSSIAN, 0.3 },
    { "- noise_std: null\n", NULL, NF_NOISE_GAUSSIAN, 0.3 },
    { "- noise_std: 0.5\n", NULL, NF_NOISE_GAUSSIAN, 0.5 },
    { "- noise_type: uniform\n", NULL, NF_NOISE_UNIFORM, 0 },
    { "", "noise_type=uniform", NF_NOISE_UNIFORM, 0 },
    { "", "noise_std=0.1", NF_NOISE_GAUSSIAN, 0.1 },
  };
  g_autofree char *yaml_path = beside (".yaml");
  write_weights (&starflow, NULL, NULL);
  g_autoptr (NfTensorFile) file = open_file (path);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *yaml = g_strconcat (
          "arguments:\n- img_size: 6\n- txt_size: 5\n- channel_size: 4\n- patch_size: 1\n- rope: 1\n"
          "- sos: 1\n- seq_order: L2R\n- cond_top_only: 1\n- use_final_norm: 1\n",
          cases[i].yaml, NULL);
      write_text (yaml_path, yaml);
      const char *const settings[] = { cases[i].setting, NULL };
      g_autoptr (NfConfig) config = nf_checkpoint_config (file, yaml_path, settings, &error);
      nf_test_ok (config, error);
      assert_int_equal (config->noise, cases[i].noise);
      assert_true (config->noise_std == cases[i].std);
    }
  g_unlink (yaml_path);
}

/* Official training has patches of 4 and 3 planes unless its arguments say others. */
static void
test_yaml_patch (void **state)
{
  static const char yaml[]
      = "img_size: 24\nchannels: 128\nblocks: 3\nlayers_per_block: 1 1 4\nrope: 1\nsos: 1\n"
        "txt_size: 5\ncond_top_only: 1\nuse_final_norm: 1\ntop_block_channels: 192\n";
  g_autofree char *yaml_path = beside (".yaml");
  g_autoptr (GError) error = NULL;
  NfConfig config = starflow;
  config.channels = 3, config.layout = NF_PIXELS_RGB, config.patch_size = 4, config.img_size = 24;
  write_weights (&config, NULL, NULL);
  write_text (yaml_path, yaml);
  g_autoptr (NfTensorFile) file = open_file (path);
  g_autoptr (NfConfig) found = nf_checkpoint_config (file, yaml_path, NULL, &error);
  nf_test_ok (found, error);
  assert_int_equal (found->channels, 3);
  assert_int_equal (found->patch_size, 4);
  assert_int_equal (found->img_size, 24);

  /* which do not fit */
  write_weights (&starflow, NULL, NULL);
  g_autoptr (NfTensorFile) other = open_file (path);
  check_refused (other, yaml_path, NULL, NF_ERROR_CONFIG, "do not say patch_size;");
  g_unlink (yaml_path);
}

/* Without rotations, text and the like a STARFlow has no tensor of its own: who tells members says the
 * family.
 */
static void
test_plain_starflow (void **state)
{
  static const struct
  {
    const char *ending, *text, *setting;
  } cases[] = {
    { ".yaml", "img_size: 16\npatch_size: 4\nchannel_size: 3\nblocks: 3\n", "family=starflow" },
    { ".yaml", "img_size: 16\nblocks: 3\nuse_softplus: 0\nrope: 0\nseq_order: R2L\n", NULL },
    { ".json", "{\"img_size\": 16, \"patch_size\": 4, \"seq_order\": \"R2L\", \"soft_clip\": 0}", NULL },
    { ".json", "{\"img_size\": 16, \"patch_size\": 4, \"in_channels\": 3}", "use_softplus=false" },
    { ".json", "{\"family\": \"starflow\", \"patch_size\": 4}", NULL },
  };
  write_weights (&tarflow, NULL, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *beside_path = beside (cases[i].ending);
      write_text (beside_path, cases[i].text);
      g_autoptr (NfTensorFile) file = open_file (path);
      g_autoptr (NfConfig) config
          = nf_checkpoint_config (file, NULL, (const char *const[]){ cases[i].setting, NULL }, &error);
      g_unlink (beside_path);
      nf_test_ok (config, error);
      assert_int_equal (config->family, NF_FAMILY_STARFLOW);
      assert_int_equal (config->patch_size, 4);
      assert_false (config->rope);
    }

  /* YAML that could be either's */
  g_autofree char *yaml_path = beside (".yaml");
  write_text (yaml_path, "img_size: 16\npatch_size: 4\n");
  g_autoptr (NfTensorFile) file = open_file (path);
  check_refused (file, NULL, NULL, NF_ERROR_CONFIG, "do not say family;");
  NfConfig c = tarflow;
  c.nvp = FALSE;
  write_weights (&c, NULL, NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) preserving = open_file (path);
  g_autoptr (NfConfig) config = nf_checkpoint_config (preserving, NULL, NULL, &error);
  g_unlink (yaml_path);
  nf_test_ok (config, error);
  assert_int_equal (config->family, NF_FAMILY_TARFLOW);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_twins),          cmocka_unit_test (test_causal_images),
    cmocka_unit_test (test_official),       cmocka_unit_test (test_shapes),
    cmocka_unit_test (test_variance),       cmocka_unit_test (test_noise),
    cmocka_unit_test (test_named_patches),  cmocka_unit_test (test_identities),
    cmocka_unit_test (test_open),           cmocka_unit_test (test_contradictions),
    cmocka_unit_test (test_rotations),      cmocka_unit_test (test_scaled_positions),
    cmocka_unit_test (test_recipes),        cmocka_unit_test (test_bad_recipes),
    cmocka_unit_test (test_yaml),           cmocka_unit_test (test_yaml_noise),
    cmocka_unit_test (test_yaml_patch),     cmocka_unit_test (test_uneven_heads),
    cmocka_unit_test (test_plain_starflow), cmocka_unit_test (test_deviations),
    cmocka_unit_test (test_rotated_text),   cmocka_unit_test (test_without_buffers),
  };
  return cmocka_run_group_tests_name ("checkpoint", tests, set_up, tear_down);
}
