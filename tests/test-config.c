/* normflow: configurations, good and hostile. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#define GOOD                                                                                                 \
  "\"in_channels\": 3, \"img_size\": 16, \"patch_size\": 4, \"channels\": 64, \"num_blocks\": 3, "           \
  "\"layers_per_block\": 2"

static NfConfig *
read_config (const char *json)
{
  g_autoptr (GError) error = NULL;
  NfConfig *config = nf_config_from_json (json, "a.file", &error);
  nf_test_ok (config, error);
  assert_null (error);
  return config;
}

/* A refusal says where the configuration came from and mentions what is wrong. */
static void
check_refused (const char *json, NfError code, const char *mentions)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfConfig) config = nf_config_from_json (json, "a.file", &error);
  if (config)
    fail_msg ("%.200s: was accepted", json);
  if (!g_error_matches (error, NF_ERROR, (gint)code))
    fail_msg ("%.200s: wrong kind of error: %s", json, error->message);
  if (!strstr (error->message, "a.file") || !strstr (error->message, mentions))
    fail_msg ("%.200s: \"%s\" does not mention a.file and %s", json, error->message, mentions);
  assert_true (g_utf8_validate (error->message, -1, NULL));
}

static void
test_defaults (void **state)
{
  g_autoptr (NfConfig) config = read_config ("{" GOOD "}");
  assert_int_equal (config->channels, 3);
  assert_int_equal (config->img_size, 16);
  assert_int_equal (config->patch_size, 4);
  assert_int_equal (config->width, 64);
  assert_int_equal (config->n_blocks, 3);
  assert_int_equal (config->n_layers, 2);
  assert_true (config->nvp);
  assert_int_equal (config->n_classes, 0);
  assert_int_equal (config->head_dim, 64);
  assert_int_equal (config->expansion, 4);
  assert_int_equal (config->layout, NF_PIXELS_RGB);
  assert_int_equal (config->basis, NF_BASIS_PIXEL);
  assert_int_equal (config->noise, NF_NOISE_UNIFORM);
  assert_true (config->noise_std == 0);
  assert_int_equal (nf_config_tokens (config), 16);
  assert_int_equal (nf_config_features (config), 48);
  assert_int_equal (nf_config_tile_bytes (config), 3 * 16 * 16);
}

static void
test_layouts (void **state)
{
  g_autoptr (NfConfig) gray = read_config ("{\"in_channels\": 1, \"img_size\": 15, \"patch_size\": 5, "
                                           "\"channels\": 64, \"num_blocks\": 1, \"layers_per_block\": 1}");
  assert_int_equal (gray->layout, NF_PIXELS_GRAY);
  assert_int_equal (nf_config_features (gray), 25);

  g_autoptr (NfConfig) yuv = read_config ("{" GOOD ", \"pixel_layout\": \"yuv420\", \"basis\": \"dct\"}");
  assert_int_equal (yuv->layout, NF_PIXELS_YUV420);
  assert_int_equal (yuv->basis, NF_BASIS_DCT);
  assert_int_equal (nf_config_features (yuv), 24);
  assert_int_equal (nf_config_tile_bytes (yuv), 16 * 16 * 3 / 2);

  NfPixelLayout layout;
  for (guint i = NF_PIXELS_RGB; i <= NF_PIXELS_YUV420; i++)
    {
      assert_true (nf_pixel_layout_from_name (nf_pixel_layout_name ((NfPixelLayout)i), &layout));
      assert_int_equal (layout, i);
    }
  assert_false (nf_pixel_layout_from_name ("RGB", &layout));
  assert_false (nf_pixel_layout_from_name ("", &layout));
}

static void
assert_same (const NfConfig *a, const NfConfig *b)
{
  assert_int_equal (a->channels, b->channels);
  assert_int_equal (a->img_size, b->img_size);
  assert_int_equal (a->patch_size, b->patch_size);
  assert_int_equal (a->width, b->width);
  assert_int_equal (a->n_blocks, b->n_blocks);
  assert_int_equal (a->n_layers, b->n_layers);
  assert_int_equal (a->nvp, b->nvp);
  assert_int_equal (a->n_classes, b->n_classes);
  assert_int_equal (a->head_dim, b->head_dim);
  assert_int_equal (a->expansion, b->expansion);
  assert_int_equal (a->layout, b->layout);
  assert_int_equal (a->basis, b->basis);
  assert_int_equal (a->noise, b->noise);
  assert_true (a->noise_std == b->noise_std);
}

static void
test_round_trip (void **state)
{
  const NfConfig configs[] = {
    { 3, 16, 4, 64, 3, 2, TRUE, 0, 64, 4, NF_PIXELS_RGB, NF_BASIS_PIXEL, NF_NOISE_UNIFORM, 0 },
    { 1, 8, 2, 48, 1, 1, FALSE, 7, 16, 2, NF_PIXELS_GRAY, NF_BASIS_DCT, NF_NOISE_GAUSSIAN, 0.1 },
    { 3, 4096, 16, 768, 8, 8, TRUE, 1000, 64, 4, NF_PIXELS_YUV420, NF_BASIS_DCT, NF_NOISE_GAUSSIAN, 1.0 / 3 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      g_autoptr (GError) error = NULL;
      nf_test_ok (nf_config_check (&configs[i], "here", &error), error);
      g_autofree char *json = nf_config_to_json (&configs[i]);
      assert_null (strchr (json, '\n'));
      g_autoptr (NfConfig) again = read_config (json);
      assert_same (again, &configs[i]);
      g_autoptr (NfConfig) copy = nf_config_copy (again);
      assert_same (copy, &configs[i]);
    }
}

static void
test_golden_files (void **state)
{
  static const char *const names[] = { "tarflow_uncond", "tarflow_class", "tarflow_vp" };
  const guint classes[] = { 0, 5, 0 }, tokens[] = { 16, 16, 16 }, features[] = { 48, 16, 12 };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *name = g_strconcat (names[i], ".weights.safetensors", NULL);
      g_autofree char *path = nf_test_file ("golden", name);
      g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
      nf_test_ok (file, error);
      g_autoptr (NfConfig) config = read_config (nf_tensor_file_get_metadata (file, "config"));
      assert_int_equal (config->n_classes, classes[i]);
      assert_int_equal (nf_config_tokens (config), tokens[i]);
      assert_int_equal (nf_config_features (config), features[i]);
      assert_int_equal (config->nvp, i != 2);
    }
}

#define FAMILY                                                                                               \
  "\"family\": \"starflow\", \"in_channels\": 4, \"img_size\": 8, \"patch_size\": 1, \"channels\": 64, "     \
  "\"rope\": true"
#define STARFLOW FAMILY ", \"num_blocks\": 3, \"layers_per_block\": [1, 2, 3]"
#define VIDEO STARFLOW ", \"sos\": true, \"frames\": 4, \"shallow_block_local\": true"

/* No window is another one than a window of 0. */
static void
test_denoiser_windows (void **state)
{
  static const struct
  {
    const char *member, *written;
    guint frames;
  } cases[] = {
    { "", NULL, 0 },
    { ", \"denoiser_window\": null", NULL, 0 },
    { ", \"denoiser_window\": 0", "\"denoiser_window\": 0", 1 },
    { ", \"denoiser_window\": 10", "\"denoiser_window\": 10", 11 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *json
          = g_strdup_printf ("{%s, \"learnable_self_denoiser\": true%s}", VIDEO, cases[i].member);
      g_autoptr (NfConfig) config = read_config (json);
      assert_int_equal (config->denoiser_frames, cases[i].frames);
      g_autofree char *again = nf_config_to_json (config);
      assert_int_equal (strstr (again, "denoiser_window") != NULL, cases[i].written != NULL);
      assert_true (!cases[i].written || strstr (again, cases[i].written));
      g_autoptr (NfConfig) same = read_config (again);
      assert_true (nf_config_equal (config, same));
    }
}

static void
test_families (void **state)
{
  g_autoptr (NfConfig) config = read_config ("{" STARFLOW ", \"txt_size\": 6, \"txt_dim\": 12}");
  assert_int_equal (config->family, NF_FAMILY_STARFLOW);
  assert_int_equal (nf_config_layers (config, 0), 1);
  assert_int_equal (nf_config_layers (config, 2), 3);
  assert_true (nf_config_has_text (config, 2));
  assert_int_equal (nf_config_frames (config), 1);
  g_autoptr (NfConfig) video = read_config ("{" VIDEO ", \"temporal_causal\": 2}");
  assert_int_equal (nf_config_frames (video), 4);

  /* ours is said where it is set, and not a word otherwise: digests of models without it stay what they are
   */
  g_autoptr (NfConfig) placed
      = read_config ("{" VIDEO ", \"temporal_causal\": 1, \"frame_positions\": true}");
  g_autofree char *with = nf_config_to_json (placed), *without = nf_config_to_json (video);
  g_autoptr (NfConfig) back = read_config (with);
  assert_true (back->frame_positions && nf_config_equal (placed, back));
  assert_null (strstr (without, "frame_positions"));
  NfConfig wide = *video;
  wide.top_width = wide.width;
  g_autofree char *evenly_wide = nf_config_to_json (&wide);
  assert_string_equal (evenly_wide, without);
  assert_true (nf_config_equal (&wide, video));
  g_autoptr (NfConfig) controlled
      = read_config ("{" VIDEO ", \"temporal_causal\": 1, \"action_dim\": 2, \"controls\": true}");
  g_autofree char *steered = nf_config_to_json (controlled);
  g_autoptr (NfConfig) steered_back = read_config (steered);
  assert_true (steered_back->controls && nf_config_equal (controlled, steered_back));
  assert_null (strstr (without, "controls"));

  g_autoptr (NfConfig) shorter
      = read_config ("{" FAMILY ", \"num_blocks\": 4, \"layers_per_block\": [2, 0, 2, 2]}");
  g_autofree char *json = nf_config_to_json (shorter);
  g_autoptr (NfConfig) again = read_config (json);
  for (guint t = 0; t < 4; t++)
    {
      assert_int_equal (nf_config_layers (again, t), t == 1 ? 0 : 2);
      assert_int_equal (nf_config_is_identity (again, t), t == 1);
    }

  /* a list of equal numbers is written as the number that it is read back as */
  g_autoptr (NfConfig) equal = read_config ("{" FAMILY ", \"num_blocks\": 2, \"layers_per_block\": 3}");
  g_autofree char *number = nf_config_to_json (equal);
  equal->layers[0] = equal->layers[1] = 3;
  g_autofree char *list = nf_config_to_json (equal);
  assert_string_equal (list, number);
  assert_false (nf_config_lists_layers (equal));
  equal->layers[1] = 2;
  g_autofree char *other = nf_config_to_json (equal);
  assert_non_null (strstr (other, "\"layers_per_block\": [3, 2]"));

  check_refused ("{" GOOD ", \"family\": \"tarflow\", \"rope\": true}", NF_ERROR_UNSUPPORTED, "rope");
  check_refused ("{" GOOD ", \"family\": 1}", NF_ERROR_CONFIG, "family");
  check_refused ("{" GOOD ", \"family\": \"\\u001b[31m\\nline\"}", NF_ERROR_UNSUPPORTED, "?[31m?line");
  check_refused ("{" GOOD ", \"rotary\": true}", NF_ERROR_UNSUPPORTED, "rotary");
}

/* How many heads there are may be said where the width says it, too: the model is the same. What was written
 * is kept, since digests are of it. */
static void
test_equal_heads (void **state)
{
  static const struct
  {
    const char *a, *b;
    gboolean equal;
  } cases[] = {
    { "", ", \"num_heads\": 2", TRUE },
    { "", ", \"num_kv_heads\": 2", TRUE },
    { ", \"num_heads\": 4", ", \"num_heads\": 4, \"num_kv_heads\": 4", TRUE },
    { "", ", \"num_heads\": 4", FALSE },
    { "", ", \"num_kv_heads\": 1", FALSE },
    { ", \"top_block_channels\": 128", ", \"top_block_channels\": 128, \"num_heads\": 2", FALSE },
    { ", \"top_block_channels\": 128", ", \"top_block_channels\": 128, \"num_kv_heads\": 2", FALSE },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *one = g_strdup_printf ("{" STARFLOW ", \"head_dim\": 32%s}", cases[i].a),
                      *other = g_strdup_printf ("{" STARFLOW ", \"head_dim\": 32%s}", cases[i].b);
      g_autoptr (NfConfig) a = read_config (one);
      g_autoptr (NfConfig) b = read_config (other);
      if (nf_config_equal (a, b) != cases[i].equal || nf_config_equal (b, a) != cases[i].equal)
        fail_msg ("%s and %s", one, other);
      g_autofree char *json_a = nf_config_to_json (a), *json_b = nf_config_to_json (b);
      assert_string_not_equal (json_a, json_b);
    }
}

/* Combinations without a meaning here are refused by name. */
static void
test_combinations (void **state)
{
  static const struct
  {
    const char *members, *mentions;
  } cases[] = {
    { STARFLOW ", \"txt_size\": 6", "txt_dim" },
    { STARFLOW ", \"txt_dim\": 6", "txt_size" },
    { STARFLOW ", \"soft_clip\": -1", "soft_clip" },
    { STARFLOW ", \"head_dim\": 8, \"txt_size\": 6, \"txt_dim\": 6", "at least 16" },
    { STARFLOW ", \"action_dim\": 3", "action_dim" },
    { STARFLOW ", \"frames\": 4, \"shallow_block_local\": true, \"temporal_causal\": 1, \"action_dim\": 3",
      "action_dim is 3: actions need a video model with a start token" },
    { STARFLOW ", \"denoiser_layers\": 2", "denoiser_layers is 2, but learnable_self_denoiser is not true" },
    { STARFLOW ", \"frame_positions\": true", "frame_positions" },
    { VIDEO ", \"temporal_causal\": 1, \"controls\": true", "action_dim" },
    { VIDEO ", \"temporal_causal\": 0, \"frame_positions\": true", "frame_positions" },
    { VIDEO ", \"temporal_causal\": 0, \"seq_order\": \"L2R\"", "temporal_causal 0" },
    { VIDEO ", \"temporal_causal\": 1, \"local_attn_window\": 3", "local_attn_window is 3" },
    { FAMILY ", \"num_blocks\": 2, \"layers_per_block\": [1, 0]", "layers_per_block is 0 for block 1" },
    { FAMILY ", \"num_blocks\": 2, \"layers_per_block\": 0", "layers_per_block is 0 for block 1" },
    { FAMILY ", \"num_blocks\": 2, \"layers_per_block\": [1, 257]", "layers_per_block is 257 for block 1" },
    { "\"family\": \"starflow\", \"in_channels\": 4, \"img_size\": 8, \"patch_size\": 1, \"channels\": 64, "
      "\"num_blocks\": 1, \"layers_per_block\": 1, \"frames\": 2, \"shallow_block_local\": true, "
      "\"temporal_causal\": 1",
      "without rope" },
    { "\"in_channels\": 3, \"img_size\": 4096, \"patch_size\": 16, \"channels\": 1024, \"num_blocks\": 1, "
      "\"layers_per_block\": 1, \"expansion\": 32",
      "65536 tokens of a sample, with 32768 values each where channels (the width) is 1024" },
    { "\"family\": \"starflow\", \"in_channels\": 4, \"img_size\": 1, \"patch_size\": 1, \"channels\": 64, "
      "\"rope\": true, \"num_blocks\": 1, \"layers_per_block\": 1, \"sos\": true, \"frames\": 32768, "
      "\"shallow_block_local\": true, \"temporal_causal\": 1, \"action_dim\": 65536",
      "32768 frames, with action_dim 65536" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *json = g_strdup_printf ("{%s}", cases[i].members);
      check_refused (json, NF_ERROR_CONFIG, cases[i].mentions);
    }
  /* the last values that are not */
  g_autoptr (NfConfig) wide
      = read_config ("{\"in_channels\": 3, \"img_size\": 4096, \"patch_size\": 16, \"channels\": 1024, "
                     "\"num_blocks\": 1, \"layers_per_block\": 1, \"expansion\": 31}");
  assert_int_equal (wide->expansion, 31);
  check_refused ("{" STARFLOW ", \"num_classes\": 5}", NF_ERROR_UNSUPPORTED, "num_classes");
  check_refused ("{" STARFLOW ", \"use_adaln\": true}", NF_ERROR_UNSUPPORTED, "use_adaln");
  check_refused ("{" STARFLOW ", \"use_pretrained_lm\": \"gemma3_1b\"}", NF_ERROR_UNSUPPORTED,
                 "use_pretrained_lm");

  /* without effect on what is computed */
  g_autoptr (NfConfig) window
      = read_config ("{" VIDEO ", \"temporal_causal\": 1, \"local_attn_window\": 4, \"use_mm_attn\": 1}");
  assert_int_equal (nf_config_frames (window), 4);
}

static void
test_members (void **state)
{
  static const char *const members[]
      = { "img_size", "patch_size", "channels", "num_blocks", "layers_per_block" };
  /* numbers that are none, too small, too large, or would wrap around in some width */
  static const char *const bad[] = { "0",   "-1",     "-16",        "1.5",        "16.0",
                                     "1e1", "\"16\"", "true",       "null",       "[16, 2]",
                                     "{}",  "65537",  "2147483648", "4294967312", "999999999999999999" };
  for (guint i = 0; i < G_N_ELEMENTS (members); i++)
    {
      g_autofree char *quoted = g_strdup_printf ("\"%s\":", members[i]);
      const char *at = strstr ("{" GOOD "}", quoted);
      const gsize before = (gsize)(at - "{" GOOD "}");
      const char *after = at + strcspn (at, ",}");
      for (guint j = 0; j < G_N_ELEMENTS (bad); j++)
        {
          g_autofree char *json
              = g_strdup_printf ("%.*s%s %s%s", (int)before, "{" GOOD "}", quoted, bad[j], after);
          check_refused (json, NF_ERROR_CONFIG, members[i]);
        }
      g_autofree char *json = g_strdup_printf ("%.*s\"nvp\": true%s", (int)before, "{" GOOD "}", after);
      check_refused (json, NF_ERROR_CONFIG, members[i]);
    }
  for (guint j = 2; j < G_N_ELEMENTS (bad); j++)
    {
      static const char *const more[] = { "head_dim", "expansion" };
      if (strcmp (bad[j], "null") == 0)
        continue; /* the default, in official files */
      for (guint i = 0; i < G_N_ELEMENTS (more); i++)
        {
          g_autofree char *json = g_strdup_printf ("{" GOOD ", \"%s\": %s}", more[i], bad[j]);
          check_refused (json, NF_ERROR_CONFIG, more[i]);
        }
    }
  check_refused ("{" GOOD ", \"num_classes\": -1}", NF_ERROR_CONFIG, "num_classes");
  check_refused ("{" GOOD ", \"num_classes\": 1000001}", NF_ERROR_CONFIG, "num_classes");
  check_refused ("{" GOOD ", \"nvp\": 2}", NF_ERROR_CONFIG, "nvp");
  check_refused ("{" GOOD ", \"nvp\": \"yes\"}", NF_ERROR_CONFIG, "nvp");
  check_refused ("{" GOOD ", \"pixel_layout\": \"yuv444\"}", NF_ERROR_CONFIG, "yuv420");
  check_refused ("{" GOOD ", \"pixel_layout\": 1}", NF_ERROR_CONFIG, "pixel_layout");
  check_refused ("{" GOOD ", \"basis\": \"wavelet\"}", NF_ERROR_CONFIG, "dct");
  check_refused ("{" GOOD ", \"noise_type\": null}", NF_ERROR_CONFIG, "noise_type");
  check_refused ("{" GOOD ", \"max_log_scale\": -0.1}", NF_ERROR_CONFIG, "max_log_scale");
  check_refused ("{" GOOD ", \"max_log_scale\": 81}", NF_ERROR_CONFIG, "max_log_scale");
  check_refused ("{" GOOD ", \"noise_std\": -0.1}", NF_ERROR_CONFIG, "noise_std");
  check_refused ("{" GOOD ", \"noise_std\": 1e999}", NF_ERROR_CONFIG, "noise_std");
  check_refused ("{" GOOD ", \"noise_std\": \"0.1\"}", NF_ERROR_CONFIG, "noise_std");
  check_refused ("{" GOOD ", \"in_channels\": 3}", NF_ERROR_FORMAT, "in_channels");
}

static void
test_relations (void **state)
{
  const NfConfig good
      = { 3, 16, 4, 64, 3, 2, TRUE, 0, 64, 4, NF_PIXELS_RGB, NF_BASIS_PIXEL, NF_NOISE_UNIFORM, 0 };
  NfConfig c[12];
  const char *const mentions[G_N_ELEMENTS (c)]
      = { "patch_size 5", "head_dim 48", "odd",       "features",  "tokens",       "in_channels",
          "in_channels",  "parameters",  "noise_std", "noise_std", "pixel_layout", "family" };
  for (guint i = 0; i < G_N_ELEMENTS (c); i++)
    c[i] = good;
  c[0].patch_size = 5;
  c[1].head_dim = 48;
  c[2].img_size = 15, c[2].patch_size = 5, c[2].layout = NF_PIXELS_YUV420;
  c[3].img_size = 128, c[3].patch_size = 64;
  c[5].channels = 1;
  c[6].channels = 3, c[6].layout = NF_PIXELS_GRAY;
  c[7].width = 16384, c[7].n_blocks = 64, c[7].n_layers = 256, c[7].expansion = 64;
  c[8].noise_std = (double)NAN;
  c[9].noise_std = (double)INFINITY;
  c[10].layout = (NfPixelLayout)17;
  c[11].family = (NfFamily)9;
  c[4].img_size = 4096, c[4].patch_size = 4;
  for (guint i = 0; i < G_N_ELEMENTS (c); i++)
    {
      g_autoptr (GError) error = NULL;
      if (nf_config_check (&c[i], "--option", &error))
        fail_msg ("case %u, about %s, was accepted", i, mentions[i]);
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_CONFIG));
      if (!strstr (error->message, mentions[i]) || !strstr (error->message, "--option"))
        fail_msg ("\"%s\" does not mention %s", error->message, mentions[i]);
    }
}

static void
test_not_json (void **state)
{
  static const char *const texts[] = {
    "",
    " ",
    "{",
    "{" GOOD,
    "{" GOOD "}}",
    "{" GOOD "} {}",
    "{" GOOD "} x",
    "[" GOOD "]",
    "[]",
    "null",
    "17",
    "\"text\"",
    "var a = {" GOOD "}",
    "{" GOOD "} // remark",
    "{ /* remark */ " GOOD "}",
    "{" GOOD ",}",
    "{" GOOD ", \"noise_std\": NaN}",
    "{" GOOD ", \"noise_std\": Infinity}",
    "{" GOOD ", \"noise_std\": .5}",
    "{" GOOD ", \"noise_std\": 1.}",
    "{" GOOD ", \"noise_std\": 1e}",
    "{" GOOD ", \"noise_std\": +1}",
    "{" GOOD ", \"num_classes\": 010}",
    "{" GOOD ", \"num_classes\": 0x10}",
    "{" GOOD ", \"num_classes\": -18446744073709551600}",
    "{" GOOD ", \"num_classes\": 18446744073709551632}",
    "{" GOOD ", 'basis': \"dct\"}",
    "{" GOOD ", \"basis\": \"dct}",
    "{" GOOD ", \"basis\": \"dct\n\"}",
    "{" GOOD ", \"basis\": \"\xff\xfe\"}",
    "{" GOOD ", \"nvp\": truely}",
  };
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    check_refused (texts[i], NF_ERROR_FORMAT, "the configuration");
}

/* A parser that recurses would run out of stack, one that collects would fill memory. */
static void
test_deep_and_long (void **state)
{
  for (guint i = 0; i < 2; i++)
    {
      g_autofree char *inner = g_strnfill (60000, "[{"[i]);
      g_autofree char *json = g_strconcat ("{\"img_size\": ", inner, NULL);
      check_refused (json, NF_ERROR_FORMAT, "nested");
    }
  g_autofree char *spaces = g_strnfill (70000, ' ');
  g_autofree char *json = g_strconcat ("{" GOOD, spaces, "}", NULL);
  check_refused (json, NF_ERROR_FORMAT, "too long");
  g_autofree char *name = g_strnfill (60000, 'x');
  g_autofree char *odd = g_strconcat ("{" GOOD ", \"", name, "\": 1}", NULL);
  check_refused (odd, NF_ERROR_UNSUPPORTED, "xxx");
}

/* How frames of any size lie on a model's tiles. */
static void
test_grid (void **state)
{
  static const struct
  {
    guint width, height, tiles_x, tiles_y;
    guint64 rgb, gray, yuv420;
  } frames[] = {
    { 1, 1, 1, 1, 3, 1, 3 },
    { 16, 32, 1, 2, 1536, 512, 768 },
    { 17, 31, 2, 2, 1581, 527, 527 + 2 * 9 * 16 },
    { 16384, 16384, 1024, 1024, 805306368, 268435456, 402653184 },
  };
  g_autoptr (NfConfig) config = read_config ("{" GOOD ", \"pixel_layout\": \"yuv420\"}");
  for (guint i = 0; i < G_N_ELEMENTS (frames); i++)
    {
      const guint width = frames[i].width, height = frames[i].height;
      g_autoptr (GError) error = NULL;
      NfGrid grid;
      nf_test_ok (nf_grid_init (&grid, config, width, height, &error), error);
      assert_int_equal (grid.tiles_x, frames[i].tiles_x);
      assert_int_equal (grid.tiles_y, frames[i].tiles_y);
      assert_int_equal (grid.grid_width, 4 * frames[i].tiles_x);
      assert_int_equal (grid.grid_height, 4 * frames[i].tiles_y);
      assert_int_equal (grid.features, 24);
      assert_int_equal (nf_grid_latents (&grid), 384 * (gsize)frames[i].tiles_x * frames[i].tiles_y);
      assert_int_equal (nf_frame_samples (NF_PIXELS_RGB, width, height), frames[i].rgb);
      assert_int_equal (nf_frame_samples (NF_PIXELS_GRAY, width, height), frames[i].gray);
      assert_int_equal (nf_frame_samples (NF_PIXELS_YUV420, width, height), frames[i].yuv420);
    }
  static const guint bad[][2]
      = { { 0, 16 }, { 16, 0 }, { 16385, 16 }, { 16, 16385 }, { G_MAXUINT, G_MAXUINT } };
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      NfGrid grid;
      assert_false (nf_grid_init (&grid, config, bad[i][0], bad[i][1], &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_defaults),      cmocka_unit_test (test_layouts),
    cmocka_unit_test (test_round_trip),    cmocka_unit_test (test_golden_files),
    cmocka_unit_test (test_families),      cmocka_unit_test (test_denoiser_windows),
    cmocka_unit_test (test_combinations),  cmocka_unit_test (test_members),
    cmocka_unit_test (test_relations),     cmocka_unit_test (test_not_json),
    cmocka_unit_test (test_deep_and_long), cmocka_unit_test (test_grid),
    cmocka_unit_test (test_equal_heads),
  };
  return cmocka_run_group_tests_name ("config", tests, NULL, NULL);
}
