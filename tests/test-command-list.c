/* normflow: many launches as one. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Lists are how everything else in these tests runs where it can; here is what they must keep to: order,
 * memory, and the bits that each launch for itself gives. */
#include "nf-test.h"
#include "nf-command-list.h"
#include "nf-model-private.h"
#include "nf-ops.h"
#include "nf-session-private.h"

#define HEAD_DIM 16
#define FEATURES 48

static NfOps *
open_ops (NfDevice *device)
{
  g_autoptr (GError) error = NULL;
  NfOps *ops = nf_ops_new (device, HEAD_DIM, FEATURES, &error);
  nf_test_ok (ops, error);
  return ops;
}

/* Where there are none the rest has no meaning. */
static NfDevice *
open_with_lists (void)
{
  NfDevice *device = nf_test_device ("cpu");
  if (!nf_device_launches_lists (device))
    skip ();
  return device;
}

/* A value wanders through buffers of all sizes, forward and back, with ever more done to it: longer than a
 * list, and with more buffers than one holds. */
static void
wander (NfDevice *device, guint seed)
{
  enum
  {
    BUFFERS = 300,
    STEPS = 6000
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfOps) ops = open_ops (device);
  g_autoptr (GRand) random = g_rand_new_with_seed (seed);
  NfBuffer *buffers[BUFFERS];
  g_autofree float *expected = g_new0 (float, BUFFERS * 64), *found = g_new0 (float, BUFFERS * 64);
  for (guint i = 0; i < BUFFERS; i++)
    {
      buffers[i] = nf_ops_alloc (ops, 64);
      nf_ops_fill (ops, nf_view (buffers[i], 0), (float)i, 64);
      for (guint j = 0; j < 64; j++)
        expected[i * 64 + j] = (float)i;
    }
  for (guint s = 0; s < STEPS; s++)
    {
      const guint from = (guint)g_rand_int_range (random, 0, BUFFERS),
                  at = (guint)g_rand_int_range (random, 0, 32), n = (guint)g_rand_int_range (random, 1, 33);
      const guint to = (from + 1 + (guint)g_rand_int_range (random, 0, BUFFERS - 1)) % BUFFERS;
      float *of = expected + from * 64 + at, *with = expected + to * 64 + at;
      switch (s % 3)
        {
        case 0:
          nf_ops_copy (ops, nf_view (buffers[from], at), nf_view (buffers[to], at), n);
          memcpy (with, of, n * sizeof *of);
          break;
        case 1:
          nf_ops_fill (ops, nf_view (buffers[to], at), (float)s, n);
          for (guint i = 0; i < n; i++)
            with[i] = (float)s;
          break;
        default:
          /* whole vectors of 16 from the start of a buffer */
          nf_ops_denoise (ops, nf_view (buffers[from], 0), nf_view (buffers[to], 0), nf_view (buffers[to], 0),
                          0.5f, 48);
          for (guint i = 0; i < 48; i++)
            expected[to * 64 + i] = expected[from * 64 + i] - 0.5f * expected[to * 64 + i];
        }
    }
  for (guint i = 0; i < BUFFERS; i++)
    {
      if (!nf_ops_read (ops, nf_view (buffers[i], 0), found + i * 64, 64 * sizeof *found, &error))
        fail_msg ("%s", error->message);
      nf_buffer_free (buffers[i]);
    }
  assert_memory_equal (found, expected, BUFFERS * 64 * sizeof *found);
}

static void
test_order (void **state)
{
  wander (open_with_lists (), 1);
}

static gpointer
wander_in_thread (gpointer data)
{
  for (guint seed = 0; seed < 3; seed++)
    wander (nf_test_device ("cpu"), GPOINTER_TO_UINT (data) + seed);
  return NULL;
}

/* More queues than cores: a list's work-items come late, or after one another. */
static void
test_many_queues (void **state)
{
  (void)open_with_lists ();
  GThread *threads[8];
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("wanderer", wander_in_thread, GUINT_TO_POINTER (10 * i + 2));
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);
}

/* What is enqueued may use a buffer that its owner has freed. */
static void
test_freed_buffers (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfOps) ops = open_ops (open_with_lists ());
  const gsize n = 100000;
  g_autofree float *found = g_new0 (float, n);
  NfBuffer *last = nf_ops_alloc (ops, n);
  for (guint i = 0; i < 200; i++)
    {
      NfBuffer *next = nf_ops_alloc (ops, n);
      nf_ops_fill (ops, nf_view (last, i), (float)i, 1);
      nf_ops_copy (ops, nf_view (last, 0), nf_view (next, 0), n);
      nf_buffer_free (last);
      last = next;
    }
  nf_test_ok (nf_ops_read (ops, nf_view (last, 0), found, n * sizeof *found, &error), error);
  nf_buffer_free (last);
  for (guint i = 0; i < n; i++)
    assert_true (found[i] == (i < 200 ? (float)i : 0.0f));
}

static void CL_CALLBACK
note_end (cl_mem mem, void *ended)
{
  (void)mem;
  g_atomic_int_set ((gint *)ended, TRUE);
}

/* But not for longer than it takes. */
static void
test_memory_is_given_back (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfOps) ops = open_ops (open_with_lists ());
  gint ended = FALSE;
  NfBuffer *buffer = nf_ops_alloc (ops, 1000);
  assert_int_equal (clSetMemObjectDestructorCallback (buffer->mem, note_end, &ended), CL_SUCCESS);
  nf_ops_fill (ops, nf_view (buffer, 0), 1.0f, 1000);
  nf_buffer_free (buffer);
  assert_false (g_atomic_int_get (&ended));
  nf_test_ok (nf_ops_finish (ops, &error), error);
  assert_true (g_atomic_int_get (&ended));
}

/* A queue that takes nothing is an error once; what comes after it on another one happens. */
static void
test_refused_launch (void **state)
{
  NfDevice *device = open_with_lists ();
  const char *const files[]
      = { "rows_cpu.cl",      "matmul.cl", "matmul_cpu.cl", "pack.cl",  "gate.cl", "append.cl", "heads.cl",
          "attention_cpu.cl", "flow.cl",   "pixels.cl",     "listed.h", "list.cl", NULL };
  g_autoptr (GError) error = NULL;
  if (nf_device_uses_amx (device))
    skip ();
  cl_program program = nf_device_get_program (device, files, "-DDH=16 -DD_MAX=64 -DNF_LIST=1", &error);
  nf_test_ok (program, error);
  cl_command_queue queue = nf_device_new_queue (device, &error);
  nf_test_ok (queue, error);
  g_autoptr (NfCommandList) list = nf_command_list_new (device, program, queue, &error);
  nf_test_ok (list, error);
  NfBuffer *buffer = nf_buffer_new (device, 1000 * sizeof (float), &error);
  nf_test_ok (buffer, error);
  for (guint round = 0; round < 10; round++)
    {
      cl_int status = CL_SUCCESS;
      nf_command_list_set_queue (list, NULL);
      /* by itself when it is full, else when it is asked to */
      for (guint i = 0; i < (round % 2 ? 3000u : 3u) && status == CL_SUCCESS; i++)
        status = nf_command_list_fill (list, buffer, 0, -1.0f, 1000);
      if (status == CL_SUCCESS)
        status = nf_command_list_flush (list);
      assert_int_equal (status, CL_INVALID_COMMAND_QUEUE);
      nf_command_list_set_queue (list, queue);
      assert_int_equal (nf_command_list_fill (list, buffer, 0, (float)round, 1000), CL_SUCCESS);
      assert_int_equal (nf_command_list_flush (list), CL_SUCCESS);
      assert_int_equal (clFinish (queue), CL_SUCCESS);
      for (guint i = 0; i < 1000; i++)
        assert_true (((float *)buffer->memory)[i] == (float)round);
    }
  nf_buffer_free (buffer);
  g_clear_pointer (&list, nf_command_list_free);
  clReleaseCommandQueue (queue);
}

/* A command of more items than it can count is a launch of its own. */
static void
test_many_items (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfOps) ops = open_ops (open_with_lists ());
  const guint M = (1 << 20) + 3;
  g_autofree float *found = g_new0 (float, M);
  NfBuffer *z = nf_ops_alloc (ops, M), *half_square = nf_ops_alloc (ops, M);
  nf_ops_fill (ops, nf_view (z, 0), 2.0f, M);
  nf_ops_prior (ops, nf_view (z, 0), NULL, half_square, 0.0f, M, 1);
  nf_ops_fill (ops, nf_view (z, 0), 3.0f, M);
  nf_test_ok (nf_ops_read (ops, nf_view (half_square, 0), found, M * sizeof *found, &error), error);
  for (guint i = 0; i < M; i++)
    assert_true (found[i] == 2.0f);
  nf_buffer_free (z);
  nf_buffer_free (half_square);
}

/* Rows of a matrix, some apart, with more floats in them than one item copies. */
static void
test_rows (void **state)
{
  enum
  {
    ROWS = 5,
    FLOATS = 9001,
    FROM = 9100,
    TO = 9050
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfOps) ops = open_ops (open_with_lists ());
  g_autofree float *in = g_new0 (float, ROWS *FROM), *out = g_new0 (float, ROWS *TO);
  NfBuffer *from = nf_ops_alloc (ops, ROWS * FROM), *to = nf_ops_alloc (ops, ROWS * TO);
  for (guint i = 0; i < ROWS * FROM; i++)
    in[i] = (float)i;
  nf_ops_write (ops, nf_view (from, 0), in, ROWS * FROM * sizeof *in);
  nf_ops_fill (ops, nf_view (to, 0), -1.0f, ROWS * TO);
  nf_ops_copy_rows (ops, nf_view (from, 3), FROM, nf_view (to, 7), TO, FLOATS, ROWS);
  nf_test_ok (nf_ops_read (ops, nf_view (to, 0), out, ROWS * TO * sizeof *out, &error), error);
  for (guint r = 0; r < ROWS; r++)
    for (guint i = 0; i < TO; i++)
      assert_true (out[r * TO + i] == (i < 7 || i >= 7 + FLOATS ? -1.0f : in[r * FROM + 3 + i - 7]));
  nf_buffer_free (from);
  nf_buffer_free (to);
}

#define SAMPLES 3

/* What a model makes of random values: latents, values again, log-determinants and, where there are some,
 * gradients, one after the other. */
static GArray *
compute (const char *path, const char *spec)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (spec, &error);
  nf_test_ok (device, error);
  g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_session_new (model, &error);
  nf_test_ok (session, error);
  const NfConfig *config = nf_model_get_config (model);
  const guint N = nf_config_tokens (config) * nf_config_frames (config),
              n = SAMPLES * N * nf_config_features (config);
  GArray *all = g_array_sized_new (FALSE, TRUE, sizeof (float), 3 * n + SAMPLES * N);
  g_array_set_size (all, 3 * n + SAMPLES * N);
  g_autofree float *x = g_new (float, n);
  nf_random_normal (7, 0, n, 0.5, x);
  float *z = (float *)all->data, *back = z + n, *gradients = back + n, *log_det = gradients + n;
  nf_test_ok (nf_session_encode (session, x, SAMPLES, NULL, z, NULL, log_det, &error), error);
  nf_test_ok (nf_session_decode (session, z, SAMPLES, NULL, NULL, back, &error), error);
  double loss;
  if (nf_device_has_gradients (device))
    nf_test_ok (nf_session_gradients (session, x, SAMPLES, NULL, &loss, gradients, NULL, &error), error);
  return all;
}

static void
test_same_bits (void **state)
{
  static const char *const cases[][2] = { { "tarflow_class", "" },
                                          { "tarflow_class", ",precision=bf16-weights" },
                                          { "tarflow_class", ",precision=int8-weights" },
                                          { "starflow_gqa_swiglu", ",precision=int8-weights,int8=fma" },
                                          { "starflow_v_whole", ",precision=bf16" },
                                          { "starflow_gqa_swiglu", ",f32=auto" },
                                          { "starflow_gqa_swiglu", ",vectors=8" } };
  (void)open_with_lists ();
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *file = g_strconcat (cases[i][0], ".weights.safetensors", NULL),
                      *path = nf_test_file ("golden", file),
                      *lists = g_strconcat ("cpu,launch=lists", cases[i][1], NULL),
                      *each = g_strconcat ("cpu,launch=each", cases[i][1], NULL);
      g_autoptr (GArray) a = compute (path, lists), b = compute (path, each);
      assert_int_equal (a->len, b->len);
      assert_memory_equal (a->data, b->data, a->len * sizeof (float));
    }
}

#define BATCH 3

/* The parameters that some steps lead to. */
static GArray *
train (const NfConfig *config, const char *spec)
{
  static const gint labels[BATCH] = { 0, -1, 1 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (spec, &error);
  nf_test_ok (device, error);
  g_autoptr (NfModel) model = nf_model_new (config, device, 3, &error);
  nf_test_ok (model, error);
  NfTrainOptions options;
  nf_train_options_init (&options);
  options.steps = 4;
  options.warmup = 1;
  options.ema = 0.9;
  g_autoptr (NfTrainer) trainer = nf_trainer_new (model, &options, &error);
  nf_test_ok (trainer, error);
  const gsize bytes = (gsize)BATCH * nf_config_frames (config) * nf_config_tile_bytes (config);
  g_autofree guint8 *tiles = g_malloc (bytes);
  for (guint step = 0; step < options.steps; step++)
    {
      NfTrainReport report;
      for (gsize i = 0; i < bytes; i++)
        tiles[i] = (guint8)(100 + 40 * nf_random_uniform (7, step, i));
      nf_test_ok (nf_trainer_step (trainer,
                                   &(NfTrainBatch){ BATCH, tiles, config->n_classes ? labels : NULL, NULL },
                                   &report, &error),
                  error);
      assert_false (report.skipped);
    }
  const guint n = (guint)nf_model_count_parameters (model);
  GArray *theta = g_array_sized_new (FALSE, FALSE, sizeof (float), n);
  g_array_set_size (theta, n);
  nf_test_ok (nf_ops_read (nf_trainer_get_ops (trainer), nf_view (nf_model_get_theta (model), 0), theta->data,
                           n * sizeof (float), &error),
              error);
  return theta;
}

/* All kernels of training, in each form of products. */
static void
test_same_training (void **state)
{
  static const NfConfig configs[] = {
    { .channels = 1,
      .img_size = 8,
      .patch_size = 2,
      .width = 32,
      .n_blocks = 2,
      .n_layers = 1,
      .nvp = TRUE,
      .n_classes = 2,
      .head_dim = 16,
      .expansion = 4,
      .layout = NF_PIXELS_GRAY },
    { .channels = 3,
      .img_size = 8,
      .patch_size = 2,
      .width = 64,
      .n_blocks = 2,
      .n_layers = 1,
      .nvp = TRUE,
      .n_kv_heads = 2,
      .head_dim = 16,
      .expansion = 4,
      .layout = NF_PIXELS_RGB,
      .family = NF_FAMILY_STARFLOW,
      .rms_norm = TRUE,
      .rope = TRUE,
      .sos = TRUE,
      .softplus = TRUE,
      .final_norm = TRUE,
      .qk_norm = TRUE,
      .gated = TRUE },
    { .channels = 1,
      .img_size = 8,
      .patch_size = 4,
      .width = 40,
      .n_blocks = 2,
      .n_layers = 1,
      .nvp = TRUE,
      .head_dim = 20,
      .expansion = 4,
      .layout = NF_PIXELS_GRAY,
      .rope = TRUE,
      .frame_positions = TRUE,
      .family = NF_FAMILY_STARFLOW,
      .frames = 3,
      .temporal_causal = 1,
      .shallow_local = TRUE },
  };
  static const char *const precisions[] = { "", ",precision=bf16", ",f32=auto", ",vectors=8" };
  (void)open_with_lists ();
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    /* heads of another size are programs of their own, which take long to compile */
    for (guint j = 0; j < (configs[i].head_dim == 16 ? G_N_ELEMENTS (precisions) : 1); j++)
      {
        g_autofree char *lists = g_strconcat ("cpu,launch=lists", precisions[j], NULL),
                        *each = g_strconcat ("cpu,launch=each", precisions[j], NULL);
        g_autoptr (GArray) a = train (&configs[i], lists), b = train (&configs[i], each);
        assert_int_equal (a->len, b->len);
        assert_memory_equal (a->data, b->data, a->len * sizeof (float));
      }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_order),          cmocka_unit_test (test_many_queues),
    cmocka_unit_test (test_freed_buffers),  cmocka_unit_test (test_memory_is_given_back),
    cmocka_unit_test (test_refused_launch), cmocka_unit_test (test_many_items),
    cmocka_unit_test (test_rows),           cmocka_unit_test (test_same_bits),
    cmocka_unit_test (test_same_training),
  };
  return cmocka_run_group_tests_name ("command lists", tests, NULL, NULL);
}
