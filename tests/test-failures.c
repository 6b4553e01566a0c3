/* normflow: what is left when the device fails. SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE
#include "stream-fixture.h"

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>

/* The library finds these before the driver's and GLib's: call number `left` of a kind fails, once. */
typedef enum
{
  NOTHING,
  BUFFER,
  LAUNCH,
  MEMORY,
} Kind;

static struct
{
  Kind kind;
  guint left;
  guint launches; /* all there were */
} failing;

static gboolean
fails (Kind kind)
{
  return failing.kind == kind && failing.left > 0 && --failing.left == 0;
}

cl_mem
clCreateBuffer (cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *status)
{
  static typeof (&clCreateBuffer) real;
  if (!real)
    real = (typeof (real))dlsym (RTLD_NEXT, "clCreateBuffer");
  if (!fails (BUFFER))
    return real (context, flags, size, host, status);
  *status = CL_MEM_OBJECT_ALLOCATION_FAILURE;
  return NULL;
}

cl_int
clEnqueueNDRangeKernel (cl_command_queue queue, cl_kernel kernel, cl_uint n, const size_t *offset,
                        const size_t *global, const size_t *local, cl_uint n_events, const cl_event *events,
                        cl_event *event)
{
  static typeof (&clEnqueueNDRangeKernel) real;
  if (!real)
    real = (typeof (real))dlsym (RTLD_NEXT, "clEnqueueNDRangeKernel");
  failing.launches++;
  return fails (LAUNCH) ? CL_OUT_OF_RESOURCES
                        : real (queue, kernel, n, offset, global, local, n_events, events, event);
}

gpointer
g_try_malloc_n (gsize n, gsize size)
{
  gsize bytes;
  return fails (MEMORY) || !g_size_checked_mul (&bytes, n, size) || bytes == 0 ? NULL : malloc (bytes);
}

static void
fail_at (Kind kind, guint call)
{
  failing.kind = kind;
  failing.left = call;
}

/* Nothing fails any more. Returns: whether anything did. */
static gboolean
has_failed (void)
{
  const gboolean failed = failing.left == 0;
  failing.kind = NOTHING;
  failing.left = 0;
  return failed;
}

/* Whatever a picture's size asks the host for may be refused: the session goes on with the next picture. */
static void
test_host_memory (void **state)
{
  enum
  {
    W = 24,
    H = 16
  };
  const NfConfig config = random_picture_config (NF_PIXELS_GRAY, 8, 4, 2);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = model_new_scaled (&config, "cpu", 0.05);
  guint8 samples[W * H], decoded[W * H];
  float latents[W * H];
  for (guint i = 0; i < W * H; i++)
    samples[i] = (guint8)(100 + i % W);
  const NfFrame in = { .width = W, .height = H, .planes = { { samples, W, 1 } } },
                out = { .width = W, .height = H, .planes = { { decoded, W, 1 } } };
  guint refused = 0;
  for (guint call = 1;; call++)
    {
      g_autoptr (NfSession) session = nf_session_new (model, &error);
      nf_test_ok (session, error);
      memset (decoded, 0, sizeof decoded);
      fail_at (MEMORY, call);
      const gboolean done = nf_session_encode_frame (session, &in, latents, NULL, NULL, &error)
                            && nf_session_decode_frame (session, latents, -1, NULL, &out, &error);
      if (!has_failed ())
        {
          nf_test_ok (done, error);
          break;
        }
      assert_false (done);
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_NO_MEMORY));
      g_clear_error (&error);
      refused++;
      nf_test_ok (nf_session_encode_frame (session, &in, latents, NULL, NULL, &error), error);
      nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out, &error), error);
      assert_memory_equal (decoded, samples, sizeof samples);
    }
  assert_true (refused >= 5);
}

#define MOST 400 /* calls that are made to fail; the tests end before that */

/* Training */

#define SAMPLES 6

static const NfConfig trained = { .channels = 1,
                                  .img_size = 8,
                                  .patch_size = 4,
                                  .width = 32,
                                  .n_blocks = 2,
                                  .n_layers = 1,
                                  .nvp = FALSE,
                                  .head_dim = 16,
                                  .expansion = 2,
                                  .layout = NF_PIXELS_GRAY };

static GBytes *
state_of (NfTrainer *trainer, GError **error)
{
  g_autofree char *path = nf_test_temporary (".checkpoint"), *bytes = NULL;
  gsize size;
  if (!nf_trainer_save (trainer, path, error))
    {
      assert_false (g_file_test (path, G_FILE_TEST_EXISTS));
      return NULL;
    }
  assert_true (g_file_get_contents (path, &bytes, &size, NULL));
  g_unlink (path);
  return g_bytes_new_take (g_steal_pointer (&bytes), size);
}

/* Whichever launch fails, in a step or in an evaluation with averaged weights, the trainer is what it was, or
 * knows that it is not, writes nothing and does nothing until it has a checkpoint again. */
static void
trainer_fails (gboolean evaluating)
{
  NfTrainOptions options;
  guint8 tiles[SAMPLES * 64];
  const NfTrainBatch batch = { SAMPLES, tiles, NULL, NULL };
  guint kept = 0, spoilt = 0;
  g_autofree char *checkpoint = nf_test_temporary (".checkpoint"), *model_path = nf_test_temporary (".model");
  nf_train_options_init (&options);
  options.lr = options.lr_min = 1e-2;
  options.warmup = 0;
  options.ema = 0.9;
  for (guint i = 0; i < sizeof tiles; i++)
    tiles[i] = (guint8)(i * 37);

  for (guint call = 1;; call++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfModel) model = nf_model_new (&trained, nf_test_device ("cpu"), 3, &error);
      nf_test_ok (model, error);
      g_autoptr (NfTrainer) trainer = nf_trainer_new (model, &options, &error);
      nf_test_ok (trainer, error);
      NfTrainReport report;
      double loss;
      for (guint i = 0; i < 2; i++)
        nf_test_ok (nf_trainer_step (trainer, &batch, &report, &error), error);
      nf_test_ok (nf_trainer_save (trainer, checkpoint, &error), error);
      g_autoptr (GBytes) before = state_of (trainer, &error);
      nf_test_ok (before, error);

      fail_at (LAUNCH, call);
      const gboolean done = evaluating ? nf_trainer_evaluate (trainer, &batch, TRUE, &loss, &error)
                                       : nf_trainer_step (trainer, &batch, &report, &error);
      if (!has_failed ())
        {
          nf_test_ok (done, error);
          break;
        }
      assert_true (call < MOST);
      assert_false (done);
      g_clear_error (&error);

      g_autoptr (GBytes) after = state_of (trainer, &error);
      if (after)
        {
          assert_true (g_bytes_equal (before, after));
          nf_test_ok (nf_trainer_step (trainer, &batch, &report, &error), error);
          kept++;
          continue;
        }
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DEVICE));
      assert_non_null (strstr (error->message, "--resume"));
      assert_false (nf_trainer_step (trainer, &batch, &report, NULL));
      assert_false (nf_trainer_evaluate (trainer, &batch, TRUE, &loss, NULL));
      assert_false (nf_trainer_save_model (trainer, model_path, NULL, NULL));
      assert_false (g_file_test (model_path, G_FILE_TEST_EXISTS));
      g_clear_error (&error);
      nf_test_ok (nf_trainer_restore (trainer, checkpoint, &error), error);
      g_autoptr (GBytes) restored = state_of (trainer, &error);
      nf_test_ok (restored, error);
      assert_true (g_bytes_equal (before, restored));
      nf_test_ok (nf_trainer_step (trainer, &batch, &report, &error), error);
      spoilt++;
    }
  assert_true (kept > 0 && spoilt > 0);
  g_unlink (checkpoint);
}

static void
test_step (void **state)
{
  trainer_fails (FALSE);
}

static void
test_evaluate (void **state)
{
  trainer_fails (TRUE);
}

/* Streams */

#define DRAWN 9 /* frames, more than a window has */

static gboolean
draw (NfStream *stream, guint8 frames[DRAWN][BYTES], GError **error)
{
  nf_stream_reset (stream);
  for (guint i = 0; i < DRAWN; i++)
    {
      NfFrame frame = { .width = WIDTH, .height = HEIGHT };
      for (guint p = 0; p < 3; p++)
        frame.planes[p] = (NfPlane){ frames[i] + p, 3 * WIDTH, 3 };
      if (!nf_stream_sample (stream, 3, i, 1, action_of (i), NULL, NULL, &frame, error))
        return FALSE;
    }
  return TRUE;
}

/* Whatever there was no memory for when frames were drawn and denoised, the stream draws the same next time.
 */
static void
test_stream (void **state)
{
  static const struct
  {
    NfDenoise denoise;
    guint look_ahead;
  } cases[] = { { NF_DENOISE_SCORE, 0 }, { NF_DENOISE_LEARNED, 0 }, { NF_DENOISE_LEARNED, 1 } };
  for (guint c = 0; c < G_N_ELEMENTS (cases); c++)
    {
      NfConfig config = random_video_config ();
      config.noise = NF_NOISE_GAUSSIAN;
      config.noise_std = 0.1;
      if (cases[c].denoise == NF_DENOISE_LEARNED)
        {
          config.denoiser_layers = 2;
          config.denoiser_frames = 3;
        }
      config.temporal_causal = 1 + cases[c].look_ahead;
      g_autoptr (NfModel) model = model_new (&config, "cpu");
      g_autofree guint8 *wanted = g_malloc0 (DRAWN * BYTES), *got = g_malloc0 (DRAWN * BYTES);
      for (guint call = 0;; call++)
        {
          g_autoptr (GError) error = NULL;
          g_autoptr (NfStream) stream = nf_stream_new (model, &error);
          nf_test_ok (stream, error);
          nf_test_ok (nf_stream_set_denoise (stream, cases[c].denoise, &error), error);
          if (call == 0)
            {
              nf_test_ok (draw (stream, (gpointer)wanted, &error), error);
              continue;
            }
          fail_at (BUFFER, call);
          const gboolean done = draw (stream, (gpointer)got, &error);
          if (!has_failed ())
            {
              nf_test_ok (done && call > 3, error);
              break;
            }
          assert_true (call < MOST);
          assert_false (done);
          assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_NO_MEMORY));
          g_clear_error (&error);
          assert_int_equal (nf_stream_get_index (stream), 0);
          memset (got, 0, DRAWN * BYTES);
          nf_test_ok (draw (stream, (gpointer)got, &error), error);
          assert_memory_equal (got, wanted, DRAWN * BYTES);
        }
    }
}

/* Sizes */

/* Without memory for another size, samples keep the one they had. */
static void
test_size (void **state)
{
  NfConfig config = random_text_config (0);
  config.txt_size = config.txt_dim = 0;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfSession) session = nf_test_session (model);
  float x[16 * 16 * 3 / 2], z[G_N_ELEMENTS (x)], small[8 * 8 * 3 / 2], large[G_N_ELEMENTS (x)];
  nf_random_normal (2, 0, G_N_ELEMENTS (x), 0.5, x);
  nf_test_ok (nf_session_encode (session, x, 1, NULL, small, NULL, NULL, &error), error);
  nf_test_ok (nf_session_set_size (session, 16, 16, 0, &error), error);
  nf_test_ok (nf_session_encode (session, x, 1, NULL, large, NULL, NULL, &error), error);
  nf_test_ok (nf_session_set_size (session, 8, 8, 0, &error), error);
  for (guint call = 1;; call++)
    {
      fail_at (BUFFER, call);
      const gboolean done = nf_session_set_size (session, 16, 16, 0, &error);
      if (!has_failed ())
        {
          nf_test_ok (done && call > 1, error);
          break;
        }
      assert_false (done);
      g_clear_error (&error);
      nf_test_ok (nf_session_encode (session, x, 1, NULL, z, NULL, NULL, &error), error);
      assert_memory_equal (z, small, sizeof small);
    }
  nf_test_ok (nf_session_encode (session, x, 1, NULL, z, NULL, NULL, &error), error);
  assert_memory_equal (z, large, sizeof large);
}

#define ROLLED 7
#define CONTEXT 2

/* A video in windows, the last of which is shorter, leaves the size of samples as it was, made or not. */
static void
test_roll (void **state)
{
  const NfConfig config = random_video_config ();
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autofree float *z = g_new (float, ROLLED *BYTES), *wanted = g_new (float, ROLLED *BYTES),
                   *y = g_new (float, ROLLED *BYTES), *window = g_new (float, FRAMES *BYTES);
  nf_random_normal (2, 0, ROLLED * BYTES, 1, z);
  for (guint call = 0;; call++)
    {
      g_autoptr (NfSession) session = nf_test_session (model);
      if (call == 0)
        {
          nf_test_ok (nf_session_decode (session, z, 1, NULL, NULL, window, &error), error);
          nf_test_ok (nf_session_roll (session, NULL, 1, 0, ROLLED, CONTEXT, z, NULL, wanted, &error), error);
        }
      fail_at (BUFFER, call);
      const gboolean done = nf_session_roll (session, NULL, 1, 0, ROLLED, CONTEXT, z, NULL, y, &error);
      const gboolean failed = has_failed () && call > 0;
      assert_true (call < MOST && done == !failed);
      g_clear_error (&error);
      nf_test_ok (nf_session_decode (session, z, 1, NULL, NULL, y, &error), error);
      assert_memory_equal (y, window, FRAMES * BYTES * sizeof *y);
      nf_test_ok (nf_session_roll (session, NULL, 1, 0, ROLLED, CONTEXT, z, NULL, y, &error), error);
      assert_memory_equal (y, wanted, ROLLED * BYTES * sizeof *y);
      if (call > 0 && !failed)
        break;
    }
}

/* Reading */

/* When a call has failed, nothing is written any more into what it was given. */
static void
test_read (void **state)
{
  NfConfig config = random_text_config (0);
  config.txt_size = config.txt_dim = 0;
  config.img_size = 64;
  config.width = 128;
  config.n_blocks = 4;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu,kernels=cpu,launch=each", &error);
  nf_test_ok (device, error);
  g_autoptr (NfModel) model = nf_model_new (&config, device, 5, &error);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_test_session (model);
  const guint images = 8;
  const gsize n = (gsize)images * 64 * 64 * 3 / 2, all = n * config.n_blocks;
  g_autofree float *x = g_new0 (float, n), *z = g_new (float, n), *blocks = g_new (float, all);

  nf_test_ok (nf_session_encode (session, x, images, NULL, z, blocks, NULL, &error), error);
  failing.launches = 0;
  nf_test_ok (nf_session_encode (session, x, images, NULL, z, blocks, NULL, &error), error);
  const guint launches = failing.launches;
  for (guint i = 0; i < 3; i++)
    {
      fail_at (LAUNCH, launches - i);
      assert_false (nf_session_encode (session, x, images, NULL, z, blocks, NULL, &error));
      assert_true (has_failed ());
      g_clear_error (&error);
      memset (blocks, 0x55, all * sizeof *blocks);
      g_usleep (G_USEC_PER_SEC / 4);
      for (gsize j = 0; j < all * sizeof *blocks; j++)
        assert_int_equal (((guint8 *)blocks)[j], 0x55);
    }
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_step),        cmocka_unit_test (test_evaluate), cmocka_unit_test (test_stream),
    cmocka_unit_test (test_host_memory), cmocka_unit_test (test_size),     cmocka_unit_test (test_roll),
    cmocka_unit_test (test_read),
  };
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests_name ("failures", tests, NULL, NULL);
}
