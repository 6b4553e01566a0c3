/* normflow: the command draws and denoises pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-folder.h"

#include <cairo.h>

static void
test_sample (void **state)
{
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "7", "a.png");
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "7", "b.png");
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "8", "c.png");
  assert_png ("a.png");
  assert_same_files ("a.png", "b.png");
  g_autoptr (GBytes) a = contents ("a.png"), c = contents ("c.png");
  assert_false (g_bytes_equal (a, c));
  /* letters of an ending are of either case */
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "7", "A.PNG");
  assert_same_files ("a.png", "A.PNG");
  GOOD ("sheet", "-q", "-m", model, "-n", "1", video, "SHEET.Png");
  BAD (1, "the model is one of pictures", "sample", "-q", "-m", model, "a.SafeTensors");
  GOOD ("sample", "-q", "-m", model, "--count", "3", "d.mkv");
  BAD (1, "class", "sample", "-q", "-m", model, "--class", "5", "e.png");
  BAD (2, "e.xyz", "sample", "-q", "-m", model, "e.xyz");
  BAD (2, "must end in", "sample", "-q", "-m", "nothing.safetensors", "e.jpg"); /* before there is a model */
}

/* One is not called several. */
static void
test_one (void **state)
{
  const struct
  {
    const char *said;
    const char *const *arguments;
  } cases[]
      = { { "1 picture of 16x16 in", ARGUMENTS ("sample", "-m", model, "-n", "1", "one.png") },
          { "1 video of 1 frame of 64x64 in",
            ARGUMENTS ("sample", "-m", "normflow-pong-64", "--frames", "1", "one.mkv") },
          { "1 frame of 41x27, ", ARGUMENTS ("encode", "-m", model, "-n", "1", video, "one.safetensors") },
          { "1 frame of 41x27, ", ARGUMENTS ("decode", "-m", model, "one.safetensors", "one.y4m") },
          { "1 frame of 64x64 in", ARGUMENTS ("world", "pong", "-n", "1", "one-world.mkv") },
          { "2 frames of 64x64 in", ARGUMENTS ("world", "pong", "-n", "2", "one-world.mkv") } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *text = good (cases[i].arguments);
      if (!strstr (text, cases[i].said))
        fail_msg ("%s", text);
    }
}

/* What a limit ended early is told, as decode tells it, whatever is drawn; without one nothing is. */
static void
test_residual (void **state)
{
#define HURRIED "--method", "jacobi", "--max-sweeps", "1"
  g_autofree char *latent_video = nf_test_file ("golden", "starflow_v.weights.safetensors");
  const char *const *const cases[] = {
    ARGUMENTS ("sample", "-q", "-m", model, "-n", "2", HURRIED, "hurried.mkv"),
    ARGUMENTS ("sample", "-q", "-m", model, "-n", "2", HURRIED, "hurried.png"),
    ARGUMENTS ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", HURRIED, "hurried.mkv"),
    ARGUMENTS ("sample", "-q", "-m", latent_video, "-n", "9", HURRIED, "hurried.safetensors"),
    ARGUMENTS ("sample", "-q", "-m", latent_video, "--frames", "11", "--context", "2", HURRIED,
               "hurried.safetensors"),
    ARGUMENTS ("eval", "world", "normflow-pong-64", "--world", "pong", "--windows", "0", "--events", "0",
               "--seeds", "0", "--timed", "2", HURRIED),
    ARGUMENTS ("eval", "-q", "-m", model, "--check", "-n", "1", HURRIED, video),
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_auto (Result) result = run (cases[i]);
      /* what was hurried is no longer what was encoded */
      const gboolean checked = i + 1 == G_N_ELEMENTS (cases);
      g_autofree char *told = g_strdup_printf (
          "normflow %s%s: values that were taken before they had settled were off by up to ", cases[i][0],
          strcmp (cases[i][1], "world") == 0 ? " world" : "");
      if ((result.status != 0) != checked || !strstr (result.errors, told))
        fail_msg ("case %u: %d: %s", i, result.status, result.errors);
    }
  g_auto (Result) calm
      = run (ARGUMENTS ("sample", "-q", "-m", model, "-n", "2", "--method", "jacobi", "calm.mkv"));
  assert_string_equal (calm.errors, "");
#undef HURRIED
}

/* Samples of a model of another model's latents are floats; encoding gives back what was drawn. */
static void
test_sample_floats (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *weights = nf_test_file ("golden", "starflow_text.weights.safetensors"),
                  *path = in_folder ("floats.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--count", "9", "--seed", "3", "floats.safetensors");
  BAD (1, ".safetensors", "sample", "-q", "-m", weights, "--count", "1", "wrong.png");
  BAD (1, "one of pictures", "sample", "-q", "-m", model, "--count", "1", "wrong.safetensors");
  BAD (2, "--size", "sample", "-q", "-m", weights, "--size", "5", "wrong.safetensors");
  BAD (1, "no frames", "sample", "-q", "-m", weights, "--given", "floats.safetensors", "wrong.safetensors");
  BAD (1, "--frames", "sample", "-q", "-m", weights, "--count", "2", "--frames", "2", "wrong.safetensors");
  BAD (2, "wavelets", "sample", "-q", "-m", weights, "--denoise", "wavelets", "wrong.safetensors");
  assert_missing ("wrong.safetensors");

  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *samples = nf_tensor_file_lookup (file, "samples");
  assert_non_null (samples);
  assert_true (samples->n_dims == 4 && samples->dims[0] == 9 && samples->dims[1] == 4 && samples->dims[2] == 8
               && samples->dims[3] == 8);
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  nf_test_ok (device, error);
  g_autoptr (NfModel) loaded = nf_model_load (weights, device, NULL, NULL, NULL, &error);
  nf_test_ok (loaded, error);
  g_autoptr (NfSession) session = nf_session_new (loaded, &error);
  nf_test_ok (session, error);
  const gsize n = 4 * 8 * 8;
  g_autofree float *pixels = g_new (float, 9 * n), *tokens = g_new (float, 9 * n), *z = g_new (float, 9 * n),
                   *drawn = g_new (float, n);
  nf_tensor_to_float (samples, pixels);
  nf_patchify (nf_model_get_config (loaded), pixels, 9, tokens);
  nf_test_ok (nf_session_encode (session, tokens, 9, NULL, z, NULL, NULL, &error), error);
  for (guint i = 0; i < 9; i++)
    {
      nf_random_normal (3, i, n, 1, drawn);
      for (gsize k = 0; k < n; k++)
        assert_true (fabsf (z[i * n + k] - drawn[k]) < 1e-3f);
    }
}

static void
check_samples (const char *name, guint64 count, guint64 frames, guint64 rows, guint64 columns)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder (name);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *samples = nf_tensor_file_lookup (file, "samples");
  assert_non_null (samples);
  assert_int_equal (samples->n_dims, 5);
  assert_true (samples->dims[0] == count && samples->dims[1] == frames && samples->dims[2] == 6
               && samples->dims[3] == rows && samples->dims[4] == columns);
}

/* Videos: of another model's latents, of any length and size, and as continuations; of pixels, side by side.
 */
static void
test_sample_videos (void **state)
{
  g_autofree char *weights = nf_test_file ("golden", "starflow_v.weights.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--count", "2", "--frames", "3", "three.safetensors");
  check_samples ("three.safetensors", 2, 3, 4, 6);
  GOOD ("sample", "-q", "-m", weights, "--size", "3x2", "small.safetensors");
  check_samples ("small.safetensors", 1, 5, 2, 3);
  GOOD ("sample", "-q", "-m", weights, "--given", "three.safetensors", "--count", "2", "on.safetensors");
  check_samples ("on.safetensors", 2, 5, 4, 6);
  BAD (1, "3 frames", "sample", "-q", "-m", weights, "--given", "three.safetensors", "--count", "2",
       "--frames", "3", "wrong.safetensors");
  /* frames that are the same have noise that is not */
  GOOD ("convert", "-q", "--noise", "gaussian", "--noise-std", "0.3", weights, "noisy-video.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--frames", "3", "one.safetensors");
  GOOD ("sample", "-q", "-m", "noisy-video.safetensors", "--given", "one.safetensors", "--count", "2",
        "--denoise", "none", "noises.safetensors");
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder ("noises.safetensors");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *noises = nf_tensor_file_lookup (file, "samples");
  const gsize frame = 6 * 4 * 6;
  g_autofree float *values = g_new (float, noises->n_elements);
  nf_tensor_to_float (noises, values);
  assert_int_equal (noises->n_elements, 2 * 5 * frame);
  for (guint i = 0; i < 3; i++)
    assert_memory_not_equal (values + i * frame, values + (5 + i) * frame, frame * sizeof *values);
  BAD (1, "given", "sample", "-q", "-m", weights, "--given", "small.safetensors", "wrong.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--frames", "11", "--context", "2", "long.safetensors");
  check_samples ("long.safetensors", 1, 11, 4, 6);
  GOOD ("sample", "-q", "-m", weights, "--frames", "7", "--given", "three.safetensors", "--count", "2",
        "long.safetensors");
  check_samples ("long.safetensors", 2, 7, 4, 6);
  GOOD ("sample", "-q", "-m", weights, "--frames", "7", "--context", "0", "long.safetensors");
  check_samples ("long.safetensors", 1, 7, 4, 6);
  BAD (1, "--context 5", "sample", "-q", "-m", weights, "--frames", "9", "--context", "5",
       "wrong.safetensors");
  BAD (1, "--context 2", "sample", "-q", "-m", weights, "--frames", "4", "--context", "2",
       "wrong.safetensors");
  BAD (1, "--context 2", "sample", "-q", "-m", "normflow-yuv420-32", "--context", "2", "wrong.mkv");
  BAD (1, "--context 0", "sample", "-q", "-m", "normflow-pong-64", "--context", "0", "wrong.mkv");
  BAD (1, "1 to 7", "sample", "-q", "-m", "normflow-pong-64", "--context", "8", "wrong.mkv");
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "10", "--context", "2", "two.mkv");
  BAD (1, "learned", "sample", "-q", "-m", "normflow-yuv420-32-noisy", "--denoise", "learned", "wrong.mkv");
  BAD (1, "--given", "sample", "-q", "-m", "normflow-pong-64", "--given", "three.safetensors", "wrong.mkv");
  assert_missing ("wrong.safetensors");

  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", "--seed", "3", "one-%d.png");
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", "--seed", "2", "--count", "2",
        "two-%d.png");
  assert_missing ("one-3.png");
  assert_png ("two-2.png");
}

static cairo_surface_t *
read_png (const char *name)
{
  g_autofree char *path = in_folder (name);
  cairo_surface_t *surface = cairo_image_surface_create_from_png (path);
  assert_int_equal (cairo_surface_status (surface), CAIRO_STATUS_SUCCESS);
  return surface;
}

static guint32
pixel (cairo_surface_t *surface, int x, int y)
{
  const guint8 *row = cairo_image_surface_get_data (surface) + y * cairo_image_surface_get_stride (surface);
  guint32 value;
  memcpy (&value, row + x * (int)sizeof value, sizeof value);
  return value & 0xffffff;
}

/* Pictures that are higher than wide, and of several tiles: on a sheet they are as they are alone. */
static void
test_sample_tall (void **state)
{
  const int sizes[][2] = { { 4, 8 }, { 10, 9 } };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &error);
  nf_test_ok (device, error);
  NfConfig config = random_picture_config (NF_PIXELS_GRAY, 8, 2, 2);
  config.rope = TRUE;
  config.rows = 8;
  config.columns = 4;
  config.family = NF_FAMILY_STARFLOW;
  g_autofree char *tall = in_folder ("tall.safetensors");
  random_model_write (tall, &config, device, 3);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      const int width = sizes[i][0], height = sizes[i][1];
      g_autofree char *size = g_strdup_printf ("%dx%d", width, height);
      GOOD ("sample", "-q", "-m", tall, "--count", "3", "--seed", "7", i ? "--size" : "-q", i ? size : "-q",
            "tall.png");
      GOOD ("sample", "-q", "-m", tall, "--count", "3", "--seed", "7", i ? "--size" : "-q", i ? size : "-q",
            "tall-%d.png");
      cairo_surface_t *sheet = read_png ("tall.png");
      const int gap = (cairo_image_surface_get_width (sheet) - 2 * width) / 3;
      for (int k = 0; k < 3; k++)
        {
          g_autofree char *name = g_strdup_printf ("tall-%d.png", k + 1);
          cairo_surface_t *one = read_png (name);
          assert_int_equal (cairo_image_surface_get_width (one), width);
          assert_int_equal (cairo_image_surface_get_height (one), height);
          for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
              assert_int_equal (pixel (one, x, y), pixel (sheet, gap + k % 2 * (width + gap) + x,
                                                          gap + k / 2 * (height + height % 2 + gap) + y));
          cairo_surface_destroy (one);
        }
      cairo_surface_destroy (sheet);
    }
}

/* Latents lie where their samples do, in whichever order a token has them: flows that change nothing show the
 * same. */
static void
test_sheet_of_either_family (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &error);
  nf_test_ok (device, error);
  g_autofree char *picture = in_folder ("stripes.png");
  cairo_surface_t *surface = cairo_image_surface_create (CAIRO_FORMAT_RGB24, 16, 8);
  cairo_surface_flush (surface);
  for (int y = 0; y < 8; y++)
    for (int x = 0; x < 16; x++)
      {
        const guint32 value = 0x1e64c8 + 0x141e28 * (guint)(x % 3) + 0x60000 * (guint)(y % 4);
        memcpy (cairo_image_surface_get_data (surface) + y * cairo_image_surface_get_stride (surface) + x * 4,
                &value, sizeof value);
      }
  cairo_surface_mark_dirty (surface);
  assert_int_equal (cairo_surface_write_to_png (surface, picture), CAIRO_STATUS_SUCCESS);
  cairo_surface_destroy (surface);
  for (guint i = 0; i < 2; i++)
    {
      NfConfig config = random_picture_config (NF_PIXELS_RGB, 8, 4, 2);
      config.rope = i == 1;
      config.family = i ? NF_FAMILY_STARFLOW : NF_FAMILY_TARFLOW;
      config.noise = NF_NOISE_GAUSSIAN;
      config.noise_std = 0.1;
      g_autofree char *same = in_folder (i ? "star.safetensors" : "tar.safetensors");
      random_model_write_scaled (same, &config, device, 3, 0);
      GOOD ("sheet", "-q", "-m", same, "-n", "1", picture, i ? "star.png" : "tar.png");
    }
  assert_same_files ("tar.png", "star.png");
}

/* How much green differs from one pixel of a row to the next. */
static double
roughness (const char *name)
{
  cairo_surface_t *surface = read_png (name);
  const int width = cairo_image_surface_get_width (surface),
            height = cairo_image_surface_get_height (surface);
  double sum = 0;
  for (int y = 0; y < height; y++)
    for (int x = 1; x < width; x++)
      sum += abs ((int)(pixel (surface, x, y) >> 8 & 255) - (int)(pixel (surface, x - 1, y) >> 8 & 255));
  cairo_surface_destroy (surface);
  return sum / (width * height);
}

/* Sheets of training lose the noise of a model of noisy pictures, as samples do. */
static void
test_train_samples (void **state)
{
  const char *noisy = "normflow-yuv420-32-noisy";
  g_autofree char *path = g_strdup_printf ("%s/%s.safetensors", g_getenv ("NORMFLOW_MODEL_PATH"), noisy);
  /* nothing else is written beside them meanwhile: here it could not be */
  g_autofree char *beside = in_folder ("sheets/step-00000001.png.safetensors");
  assert_int_equal (g_mkdir_with_parents (beside, 0777), 0);
  GOOD ("train", "-q", "-o", "noisy.safetensors", "--init", path, "--steps", "1", "--batch", "1", "--lr",
        "1e-9", "--validation-tiles", "0", "--samples", "sheets", "--sample-every", "1", video);
  GOOD ("sample", "-q", "-m", noisy, "--count", "1", "--size", "256x256", "--denoise", "none", "noise.png");
  assert_true (roughness ("sheets/step-00000001.png") < 0.8 * roughness ("noise.png"));
}

/* Text features: the same text gives the same bytes, and so does one text for each picture. */
static void
test_text (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &error);
  nf_test_ok (device, error);
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autofree char *seeing = in_folder ("seeing.safetensors"), *text = in_folder ("text.safetensors"),
                  *four = in_folder ("four.safetensors"), *wide = in_folder ("wide.safetensors");
  random_model_write_scaled (seeing, &config, device, 3, 0.2);
  random_text_write (text, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 1, 1);
  random_text_write (four, "text", 4, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 1, 1);
  random_text_write (wide, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES + 1, 1, 1);

  /* a threshold of scores with a text is for a pipeline with it */
  g_autofree char *line
      = good (ARGUMENTS ("calibrate", "-q", "-m", seeing, "--text", text, "--precision", "f32", video)),
      *wanted = g_strdup_printf (" model=%s text=%s precision=f32 threshold=", seeing, text);
  assert_non_null (strstr (line, wanted));

  GOOD ("sample", "-q", "-m", seeing, "--text", text, "--count", "2", "0.y4m");
  GOOD ("sample", "-q", "-m", seeing, "--text", four, "--count", "4", "1.y4m");
  GOOD ("sample", "-q", "-m", seeing, "--text", text, "--guidance", "2", "--count", "2", "2.y4m");
  g_autoptr (GBytes) one = contents ("0.y4m"), each = contents ("1.y4m"), guided = contents ("2.y4m");
  const gsize header
      = (gsize)(strchr (g_bytes_get_data (one, NULL), '\n') - (const char *)g_bytes_get_data (one, NULL)),
      frame = (g_bytes_get_size (one) - header) / 2;
  const char *a = g_bytes_get_data (one, NULL), *b = g_bytes_get_data (each, NULL);
  assert_memory_equal (a, b, header + frame);
  assert_memory_not_equal (a + header + frame, b + header + frame, frame);
  assert_false (g_bytes_equal (one, guided));
  GOOD ("sample", "-q", "-m", seeing, "--text", four, "--count", "4", "1.png");

  GOOD ("encode", "-q", "-m", seeing, "--text", text, "0.y4m", "seen.safetensors");
  g_auto (Result) alike
      = run (ARGUMENTS ("decode", "-q", "-m", seeing, "--text", text, "seen.safetensors", "again.y4m"));
  assert_int_equal (alike.status, 0);
  assert_string_equal (alike.errors, "");
  assert_same_files ("0.y4m", "again.y4m");
  /* latents say which text was seen */
  g_auto (Result) unlike = run (ARGUMENTS ("decode", "-q", "-m", seeing, "seen.safetensors", "other.y4m"));
  assert_int_equal (unlike.status, 0);
  assert_non_null (strstr (unlike.errors, "but those of --text are none"));
  assert_non_null (strstr (unlike.errors, "give the file that they were made with"));
  g_autofree char *seen = good (ARGUMENTS ("info", "--json", "seen.safetensors"));
  assert_non_null (strstr (seen, "\"text_digest\" : \""));
  GOOD ("encode", "-q", "-m", seeing, "0.y4m", "unseen.safetensors");
  g_auto (Result) surplus
      = run (ARGUMENTS ("decode", "-q", "-m", seeing, "--text", text, "unseen.safetensors", "unseen.y4m"));
  assert_int_equal (surplus.status, 0);
  assert_non_null (strstr (surplus.errors, "made with the text features none"));
  assert_non_null (strstr (surplus.errors, "leave it out"));
  g_autoptr (GBytes) other_text = contents ("other.y4m");
  assert_false (g_bytes_equal (one, other_text));

  BAD (1, "is input and output", "encode", "-q", "-m", seeing, "--text", text, "0.y4m", text);
  BAD (1, "text is F32 (1, 2, 4); this model needs real numbers (B, 2, 3)", "encode", "-q", "-m", seeing,
       "--text", wide, "0.y4m", "bad.safetensors");
  assert_missing ("bad.safetensors");
  BAD (1, "sees no text", "eval", "-q", "-m", model, "--text", text, video);
  BAD (1, "4 samples", "sample", "-q", "-m", seeing, "--text", four, "--count", "3", "bad.png");
  BAD (1, "4 samples", "encode", "-q", "-m", seeing, "--text", four, "0.y4m", "bad.safetensors");
  BAD (1, "lead away from: --text", "sample", "-q", "-m", seeing, "--guidance", "2", "bad.png");
}

static void
test_denoise (void **state)
{
  GOOD ("denoise", "-q", "-m", model, "--sigma", "0", "-n", "3", video, "same.y4m");
  assert_frames ("same.y4m", 0, 3);
  GOOD ("denoise", "-q", "-m", model, "--noise", "0.05", "--noisy", "noisy.mkv", "-n", "2", video,
        "clean.mkv");
  g_autofree char *none
      = good (ARGUMENTS ("denoise", "-q", "-m", model, "--noise", "0.000001", "-n", "1", video, "clean.mkv"));
  assert_non_null (strstr (none, "1e-06: - dB, denoised: "));
  assert_null (strstr (none, "inf"));
  /* what a model that was trained with uniform noise does is said, once, if anything is done */
  static const char *const noted = "note: normflow-yuv420-32-small was not trained with Gaussian noise";
  for (guint i = 0; i < 4; i++)
    {
      const char *of = i == 3 ? "normflow-yuv420-32-noisy" : "normflow-yuv420-32-small";
      g_auto (Result) result = run (ARGUMENTS ("denoise", "-m", of, "-s", i == 1 ? "0" : "0.1", "-n", "1",
                                               video, "clean.mkv", i == 2 ? "-q" : NULL));
      assert_int_equal (result.status, 0);
      const char *note = strstr (result.errors, i == 0 ? noted : "Gaussian");
      if ((note != NULL) != (i == 0) || (note && strstr (note + 1, noted)))
        fail_msg ("run %u: %s", i, result.errors);
    }
  GOOD ("sheet", "-q", "-m", model, "-n", "2", video, "sheet.png");
  assert_png ("sheet.png");
  BAD (2, "sigma", "denoise", "-q", "-m", model, video, "clean.mkv");
  BAD (2, "sigma", "denoise", "-q", "-m", model, "--sigma", "-1", video, "clean.mkv");
  BAD (1, "normflow-pong-64 is a model of videos, which takes no noise out of single frames: denoise",
       "denoise", "-q", "-m", "normflow-pong-64", "--sigma", "0.1", "nothing.mkv", "clean.mkv");
  BAD (1, "--tiles is for models of pictures, which normflow-pong-64 is not", "bench", "decode", "-q", "-m",
       "normflow-pong-64", "--tiles", "1");
  BAD (1, "--frames is for models of videos", "bench", "decode", "-q", "-m", model, "--frames", "1");
  g_autofree char *latents = nf_test_file ("golden", "starflow_text.weights.safetensors");
  g_auto (Result) refused = run (ARGUMENTS ("bench", "decode", "-q", "-m", latents));
  assert_int_equal (refused.status, 1);
  assert_non_null (strstr (refused.errors, "a model of another model's latents, which has no pictures"));
  assert_non_null (strstr (refused.errors, "normflow bench step decode -m "));
  assert_string_equal (refused.output, "");
  /* before there is a model */
  BAD (2, "must end in", "denoise", "-m", "nothing.safetensors", "--sigma", "0.1", video, "clean.jpg");
  BAD (2, "noisy.jpg", "denoise", "-m", "nothing.safetensors", "--noise", "0.1", "--noisy", "noisy.jpg",
       video, "clean.mkv");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_sample),        cmocka_unit_test (test_one),
    cmocka_unit_test (test_residual),      cmocka_unit_test (test_sample_floats),
    cmocka_unit_test (test_sample_videos), cmocka_unit_test (test_train_samples),
    cmocka_unit_test (test_sample_tall),   cmocka_unit_test (test_sheet_of_either_family),
    cmocka_unit_test (test_text),          cmocka_unit_test (test_denoise),
  };
  return cmocka_run_group_tests_name ("tool-sample", tests, set_up, tear_down);
}
