/* normflow bench: whole models. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench.h"

#include "nf-model-private.h"
#include "nf-ops.h"
#include "nf-session-private.h"

#include <string.h>

/* Sizes */

NfBenchSize *
nf_bench_size_new_of_file (const char *file)
{
  NfBenchSize *size = g_new0 (NfBenchSize, 1);

  size->name = g_path_get_basename (file);
  size->file = file;
  size->loaded = TRUE;
  return size;
}

void
nf_bench_size_free (NfBenchSize *size)
{
  g_free (size->name);
  g_free (size);
}

NfBenchSize *
nf_bench_size_new (const char *name, GError **error)
{
  static const char pattern[]
      = "^(\\d{1,4})x(\\d{1,4})p(\\d{1,4})-(\\d{1,5})(?:-(\\d{1,3})x(\\d{1,3}))?(?:h(\\d{1,3}))?$";
  const char *said = strcmp (name, "tiny") == 0 ? "16x16p4-64-2x2" : name;
  g_autoptr (GRegex) regex = g_regex_new (pattern, 0, 0, NULL);
  g_autoptr (GMatchInfo) match = NULL;
  guint numbers[7] = { 0, 0, 0, 0, 4, 4, 64 };
  g_autoptr (NfBenchSize) size = g_new0 (NfBenchSize, 1);

  size->name = g_strdup (name);
  size->loaded = strcmp (name, "bundled") == 0;
  if (size->loaded)
    return g_steal_pointer (&size);
  if (!g_regex_match (regex, said, 0, &match))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "what is known are tiny, bundled and names such as 64x64p4-512, 64x64p4-512-4x4 (sides, "
                   "patch, width, blocks and layers) or 64x64p4-480-4x4h48 (values of a head), not \"%s\"",
                   name);
      return NULL;
    }
  for (int i = 0; i < g_match_info_get_match_count (match) - 1; i++)
    {
      g_autofree char *number = g_match_info_fetch (match, i + 1);
      if (*number)
        numbers[i] = (guint)g_ascii_strtoull (number, NULL, 10);
    }
  if (numbers[0] != numbers[1])
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "a model's picture is a square, %s is none", name);
      return NULL;
    }
  size->config = (NfConfig){ .channels = 3,
                             .img_size = numbers[0],
                             .patch_size = numbers[2],
                             .width = numbers[3],
                             .n_blocks = numbers[4],
                             .n_layers = numbers[5],
                             .nvp = TRUE,
                             .head_dim = numbers[6],
                             .expansion = 4,
                             .layout = NF_PIXELS_RGB };
  return nf_config_check (&size->config, name, error) ? g_steal_pointer (&size) : NULL;
}

/* Runs */

typedef struct
{
  NfSession *session;
  NfTrainer *trainer;
  guint B;
  float *x, *z;
  guint8 *tiles;
  NfFrame frame;
} Run;

static gboolean
run_encode (gpointer data, GError **error)
{
  Run *run = data;
  return nf_session_encode (run->session, run->x, run->B, NULL, run->z, NULL, NULL, error);
}

static gboolean
run_frame (gpointer data, GError **error)
{
  Run *run = data;
  NfScore score;
  return nf_session_encode_frame (run->session, &run->frame, run->z, &score, NULL, error);
}

/* Token by token: windows settle at once on a model whose weights are as they began, which says nothing. */
static gboolean
run_decode (gpointer data, GError **error)
{
  Run *run = data;
  const NfDecodeOptions options = { .method = NF_DECODE_SEQUENTIAL };
  return nf_session_decode (run->session, run->z, run->B, NULL, &options, run->x, error);
}

/* Decoding B samples token by token reads, at every step of a block, its weights, and of each sample the keys
 * and values so far; the first token of a block without a start token is what it is. Blocks come one after
 * the other: the memory is that of the largest one's. */
static NfBenchBound
bound_steps (NfModel *model, NfOps *ops, guint B)
{
  const double element = 4.0 / nf_device_values_per_word (nf_model_get_device (model));
  NfBenchBound bound = { 0 };

  for (guint t = 0; t < nf_model_count_blocks (model); t++)
    {
      const NfFlowBlock *block = nf_model_get_block (model, t);
      const NfTransformerShape *shape = &block->transformer.shape;
      const gboolean local
          = nf_model_get_config (model)->shallow_local && t + 1 < nf_model_count_blocks (model);
      /* a frame's tokens where frames are samples of their own */
      const double N = local ? nf_model_get_shape (model)->frame : nf_model_get_shape (model)->N,
                   steps = block->sos.buffer ? N : N - 1, samples = B * (nf_model_get_shape (model)->N / N),
                   inner = (double)shape->H * shape->head_dim, keys = 2.0 * shape->Hkv * shape->head_dim,
                   layer = shape->d * (inner + keys) + inner * shape->d
                           + (shape->gated ? 3.0 : 2.0) * shape->d * shape->hidden,
                   ends
                   = (double)block->in.n_in * block->in.n_out + (double)block->out.n_in * block->out.n_out,
                   weights = element * (shape->K * layer + ends),
                   row = samples * shape->K * shape->Hkv * (double)nf_ops_key_bytes (ops);
      bound.bytes += steps * weights + row * steps * (steps + 1) / 2;
      bound.memory = MAX (bound.memory, (gsize)(weights + row * N));
    }
  return bound;
}

static gboolean
run_train (gpointer data, GError **error)
{
  Run *run = data;
  NfTrainReport report;
  const NfTrainBatch batch = { .B = run->B, .tiles = run->tiles };
  return nf_trainer_step (run->trainer, &batch, &report, error);
}

/* nf_bench_measure(), and if a profile is wanted WORK once more, its commands timed by OPS. */
static gboolean
measure_model (NfBench *bench, const char *what, const char *size, NfBenchBound bound, NfBenchWork work,
               Run *run, NfOps *ops, GError **error)
{
  if (!nf_bench_measure_bound (bench, what, size, bound, work, run, error))
    return FALSE;
  if (!bench->profile)
    return TRUE;
  NfBenchResult *result = bench->results->pdata[bench->results->len - 1];
  if (!nf_ops_start_profile (ops, error) || !work (run, error))
    return FALSE;
  result->times = nf_ops_end_profile (ops, error);
  return result->times != NULL;
}

/* What a model cannot do is no failure. Returns: TRUE, for REFUSAL is noted. */
static gboolean
leave_out (NfBench *bench, const char *what, const char *size, const GError *refusal)
{
  nf_progress_note (bench->command->progress, "%s of %s left out: %s", what, size, refusal->message);
  return TRUE;
}

static gboolean
bench_train (NfBench *bench, const NfConfig *config, const char *size, double flops, GError **error)
{
  const gsize bytes = (gsize)bench->batch * nf_config_frames (config) * nf_config_tile_bytes (config);
  g_autoptr (GRand) random = g_rand_new_with_seed (1);
  g_autofree guint8 *tiles = g_malloc (bytes);
  g_autoptr (GError) refusal = NULL;
  NfTrainOptions options;

  nf_train_options_init (&options);
  options.steps = NF_BENCH_MAX_REPETITIONS + 1;
  if (!nf_trainer_check (config, &options, &refusal))
    return leave_out (bench, "train", size, refusal);
  for (gsize i = 0; i < bytes; i++)
    tiles[i] = (guint8)g_rand_int (random);
  /* a model of its own: training changes it */
  g_autoptr (NfModel) model = nf_model_new (config, bench->device, 1, error);
  if (!model)
    return FALSE;
  g_autoptr (NfTrainer) trainer = nf_trainer_new (model, &options, error);
  if (!trainer)
    return FALSE;
  Run run = { .trainer = trainer, .B = bench->batch, .tiles = tiles };
  /* forward, and backward with respect to inputs and to parameters */
  return measure_model (bench, "train", size, (NfBenchBound){ .flops = 3 * flops }, run_train, &run,
                        nf_trainer_get_ops (trainer), error);
}

/* A whole frame, with all that becomes of it between host and device. */
static gboolean
bench_frame (NfBench *bench, NfSession *session, const char *name, GError **error)
{
  const guint width = bench->quick ? 64 : 1280, height = bench->quick ? 48 : 720;
  NfModel *model = nf_session_get_model (session);
  const NfConfig *config = nf_model_get_config (model);
  const gboolean yuv = config->layout == NF_PIXELS_YUV420;
  const gsize pixels = (gsize)width * height;
  g_autoptr (GError) failure = NULL;
  NfGrid grid;

  if (!nf_grid_init (&grid, config, width, height, error))
    return FALSE;
  g_autofree guint8 *bytes = g_malloc (3 * pixels);
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  g_autoptr (GRand) random = g_rand_new_with_seed (1);
  /* nearly even: noise is so unlikely that its latents overflow */
  for (gsize i = 0; i < 3 * pixels; i++)
    bytes[i] = (guint8)(128 + g_rand_int (random) % 8);
  Run run = { .session = session, .z = latents, .frame = { .width = width, .height = height } };
  for (guint c = 0; c < 3; c++)
    {
      const gint half = (gint)width / 2;
      guint8 *chroma = bytes + pixels + (c == 2 ? pixels / 4 : 0);
      run.frame.planes[c] = yuv ? c == 0 ? (NfPlane){ bytes, (gint)width, 1 } : (NfPlane){ chroma, half, 1 }
                                : (NfPlane){ bytes + c, 3 * (gint)width, 3 };
    }
  g_autofree char *label = g_strdup_printf ("%s, %u×%u", name, width, height);
  const double flops = nf_model_get_flops (model) * grid.tiles_x * grid.tiles_y;
  if (measure_model (bench, "frame", label, (NfBenchBound){ .flops = flops }, run_frame, &run,
                     nf_flow_get_ops (session->flow), &failure))
    return TRUE;
  if (g_error_matches (failure, NF_ERROR, NF_ERROR_UNSUPPORTED))
    return leave_out (bench, "frame", name, failure);
  g_propagate_error (error, g_steal_pointer (&failure));
  return FALSE;
}

gboolean
nf_bench_model (NfBench *bench, const NfBenchSize *size, GError **error)
{
  if (!nf_bench_selects (bench, "encode") && !nf_bench_selects (bench, "frame")
      && !nf_bench_selects (bench, "decode") && !nf_bench_selects (bench, "step")
      && !nf_bench_selects (bench, "train"))
    return TRUE;

  g_autoptr (NfModel) model = NULL;
  if (size->loaded)
    {
      const char *file = size->file;
      g_autoptr (GError) missing = NULL;
      model = nf_model_load (file, bench->device, NULL, NULL, bench->command->cancellable, &missing);
      if (!file && g_error_matches (missing, NF_ERROR, NF_ERROR_NOT_FOUND))
        {
          nf_progress_note (bench->command->progress, "bundled model left out: %s", missing->message);
          return TRUE;
        }
      if (!model)
        {
          g_propagate_error (error, g_steal_pointer (&missing));
          return FALSE;
        }
    }
  else
    model = nf_model_new (&size->config, bench->device, 1, error);
  if (!model)
    return FALSE;

  const NfConfig *config = nf_model_get_config (model);
  const gsize n = (gsize)bench->batch * nf_config_frames (config) * nf_config_tokens (config)
                  * nf_config_features (config);
  const double flops = bench->batch * nf_model_get_flops (model);
  g_autofree char *label = g_strdup_printf ("%s, batch %u", size->name, bench->batch);
  if (nf_bench_selects (bench, "encode") || nf_bench_selects (bench, "frame")
      || nf_bench_selects (bench, "decode") || nf_bench_selects (bench, "step"))
    {
      g_autofree float *x = g_new (float, n), *z = g_new (float, n);
      g_autoptr (NfSession) session = nf_session_new (model, error);
      if (!session)
        return FALSE;
      nf_session_set_cancellable (session, bench->command->cancellable);
      nf_bench_fill_random (x, n);
      nf_bench_fill_random (z, n);
      /* nearly even, as the frames of bench_frame() */
      for (gsize i = 0; i < n; i++)
        x[i] *= 0.02f;
      Run run = { .session = session, .B = bench->batch, .x = x, .z = z };
      NfOps *ops = nf_flow_get_ops (session->flow);
      if (nf_bench_selects (bench, "encode")
          && !measure_model (bench, "encode", label, (NfBenchBound){ .flops = flops }, run_encode, &run, ops,
                             error))
        return FALSE;
      if (nf_bench_selects (bench, "frame") && !bench_frame (bench, session, size->name, error))
        return FALSE;
      if (nf_bench_selects (bench, "decode")
          && !measure_model (bench, "decode", label, (NfBenchBound){ .flops = flops }, run_decode, &run, ops,
                             error))
        return FALSE;
      const NfBenchBound steps = bound_steps (model, ops, bench->batch);
      if (nf_bench_selects (bench, "step") && steps.bytes > 0)
        {
          if (!measure_model (bench, "step", label, steps, run_decode, &run, ops, error))
            return FALSE;
          nf_bench_divide_last (bench, nf_model_get_shape (model)->N);
        }
    }
  return !nf_bench_takes_gradients (bench, "train") || bench_train (bench, config, label, flops, error);
}
