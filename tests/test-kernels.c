/* normflow: kernels of exp, norms, the gate, pixels and training. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "kernels-fixture.h"

/* exp, GELU */

static const char math_source[]
    = "__kernel void test_math (__global const float *x, __global float *y, int n)\n"
      "{\n"
      "  const int i = get_global_id (0) * VW;\n"
      "  const floatv v = nf_loadv (x + i);\n"
      "  nf_storev (nf_expv (v), y + i);\n"
      "  nf_storev (nf_geluv (v), y + n + i);\n"
      "  nf_storev (nf_gelu_slopev (v), y + 2 * n + i);\n"
      "  for (int j = i; j < i + VW; j++)\n"
      "    {\n"
      "      y[3 * n + j] = nf_exp (x[j]);\n"
      "      y[4 * n + j] = nf_gelu (x[j]);\n"
      "      y[5 * n + j] = nf_gelu_slope (x[j]);\n"
      "    }\n"
      "}\n";

#define POINTS 16384

static cl_program
build_math (Rig *rig)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) launch
      = g_resources_lookup_data ("/normflow/kernels/launch.h", G_RESOURCE_LOOKUP_FLAGS_NONE, &error);
  nf_test_ok (launch, error);
  g_autoptr (GBytes) common
      = g_resources_lookup_data ("/normflow/kernels/common.cl", G_RESOURCE_LOOKUP_FLAGS_NONE, &error);
  nf_test_ok (common, error);
  gsize launch_size, size;
  const char *const sources[]
      = { g_bytes_get_data (launch, &launch_size), g_bytes_get_data (common, &size), math_source };
  const size_t sizes[] = { launch_size, size, strlen (math_source) };
  const cl_device_id id = nf_device_get_id (rig->device);
  g_autofree char *options
      = g_strdup_printf ("-cl-std=CL1.2 -DVW=%d%s%s", rig->VW, rig->bf16 ? " -DNF_BF16=1" : "",
                         rig->bf16 && !rig->rounds ? " -DNF_BF16_WEIGHTS=1" : "");
  cl_int status;
  cl_program program = clCreateProgramWithSource (nf_device_get_context (rig->device), G_N_ELEMENTS (sources),
                                                  (const char **)sources, sizes, &status);
  assert_int_equal (status, CL_SUCCESS);
  assert_int_equal (clBuildProgram (program, 1, &id, options, NULL, NULL), CL_SUCCESS);
  return program;
}

/* The largest error of y against f over the points, relative to |f| + FLOOR. */
static double
worst (const double *x, const float *y, double (*f) (double), double floor_)
{
  double most = 0;
  for (gsize i = 0; i < POINTS; i++)
    {
      const double want = f (x[i]);
      const double error = fabs ((double)y[i] - want) / (fabs (want) + floor_);
      most = error <= most ? most : error;
    }
  return most;
}

static void
check_math (Rig *rig, cl_program program, double low, double high, gboolean gelu_too)
{
  g_autofree double *x = g_new (double, POINTS);
  for (gsize i = 0; i < POINTS; i++)
    x[i] = (double)(float)(low + (high - low) * (double)i / (POINTS - 1));
  Memory *in = give (rig, x, POINTS), *out = room (rig, 6 * POINTS);
  const Argument arguments[] = { BUFFER (in), BUFFER (out), INT (POINTS) };
  launch (rig, &program, 1, "test_math", SIZES (POINTS / rig->VW, 1, 1), ONE_EACH, arguments, 3);
  g_autofree float *y = take (rig, out);
  assert_memory_equal (y, y + 3 * POINTS, 3 * POINTS * sizeof (float));
  assert_true (worst (x, y, exp, 0) < 2e-7);
  if (!gelu_too)
    return;
  /* far to the left GELU and its slope are differences of nearly equal numbers: exact to the last bit of |x|
   */
  assert_true (worst (x, y + POINTS, gelu, MAX (fabs (low), 1)) < (rig->rounds ? 1.7e-5 : 2e-7));
  assert_true (worst (x, y + 2 * POINTS, gelu_slope, 1) < (rig->rounds ? 1e-4 : 3e-7));
}

static void
test_math (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  cl_program program = build_math (&rig);
  check_math (&rig, program, -86.9, 87.9, FALSE);
  check_math (&rig, program, -1e-3, 1e-3, TRUE);
  check_math (&rig, program, -1.5, 1.5, TRUE);
  check_math (&rig, program, -12, 12, TRUE);

  /* beyond the range exp stays at its ends, GELU at its limits */
  const double far[16] = { -1e30, -200, -88, 89, 200, 1e30, -40, 40, -1e4, 1e4, -INFINITY };
  Memory *in = room (&rig, POINTS), *out = room (&rig, 6 * POINTS);
  g_autofree float *x = g_new0 (float, POINTS), *single = nf_test_to_float (far, 16);
  memcpy (x, single, 16 * sizeof (float));
  put (&rig, in, 0, x, POINTS);
  const Argument arguments[] = { BUFFER (in), BUFFER (out), INT (POINTS) };
  launch (&rig, &program, 1, "test_math", SIZES (POINTS / rig.VW, 1, 1), ONE_EACH, arguments, 3);
  g_autofree float *y = take (&rig, out);
  for (guint i = 0; i < 10; i++)
    {
      const double clamped = exp (CLAMP (far[i], -87, 88));
      assert_true (fabs ((double)y[i] - clamped) <= 2e-7 * clamped);
      assert_true (fabs ((double)y[POINTS + i] - MAX (far[i], 0)) <= (far[i] > 0 ? 1e-7 * far[i] : 2e-5));
    }
  assert_true (y[10] >= 0 && y[10] < 1e-37f);
  assert_true (y[11] == 1.0f); /* exp (0) */
  clReleaseProgram (program);
}

/* Rows */

/* Forward and backward on rows around OFFSET. In the second way of use y is x, R is y, dx is dy. */
static void
check_norm (Rig *rig, int M, int d, int rms, int in_place, double offset, double tolerance)
{
  const gsize n = (gsize)M * d;
  g_autofree double *x = numbers (1, n, 1), *wb = numbers (2, 2 * (gsize)d, 1), *dy = numbers (3, n, 1),
                    *dx = numbers (4, n, 1), *R = numbers (5, n, 1), *y = g_new (double, n),
                    *dyc = g_new (double, n);
  for (gsize i = 0; i < n; i++)
    x[i] = (double)(float)(x[i] + offset);
  const size_t global[3] = { (size_t)M * (rig->gpu ? NF_GROUP : 1), 1, 1 },
               local[3] = { rig->gpu ? NF_GROUP : 1, 1, 1 };
  Memory *in = give_at (rig, 1, x, n), *weights = give_at (rig, 3, wb, 2 * (gsize)d),
         *out = in_place ? give_at (rig, 2, R, n) : room (rig, 2 + n), *dys = give_at (rig, 4, dy, n),
         *dycs = room (rig, 5 + n), *dxs = in_place ? dys : give_at (rig, 6, dx, n);
  RUN (rig, "nf_norm", global, local, BUFFER (in), LONG (1), BUFFER (weights), LONG (3), LONG (3 + d),
       BUFFER (in_place ? out : NONE), LONG (in_place ? 2 : 0), INT (in_place), BUFFER (out), LONG (2),
       INT (0), INT (rms), INT (d));
  RUN (rig, "nf_norm_backward", global, local, BUFFER (in), LONG (1), BUFFER (weights), LONG (3),
       BUFFER (dys), LONG (4), BUFFER (dycs), LONG (5), BUFFER (dxs), LONG (in_place ? 4 : 6),
       INT (!in_place), INT (rms), INT (d));
  const guint step = left_width (rig, d) + 3;
  Memory *left = room (rig, 7 + (gsize)M * step);
  const gboolean halved = d % 32 == 0;
  if (halved)
    RUN (rig, "nf_norm", global, local, BUFFER (in), LONG (1), BUFFER (weights), LONG (3), LONG (3 + d),
         BUFFER (NONE), LONG (0), INT (0), BUFFER (left), LONG (7), INT (step), INT (rms), INT (d));
  RUN (rig, "nf_norm", global, local, BUFFER (in), LONG (1), BUFFER (weights), LONG (3), LONG (3 + d),
       BUFFER (NONE), LONG (0), INT (0), BUFFER (in), LONG (1), INT (0), INT (rms), INT (d));
  for (int m = 0; m < M; m++)
    {
      const double *row = x + (gsize)m * d, *g = dy + (gsize)m * d;
      double mean = 0, square = 0, mean_g = 0, mean_gc = 0;
      for (int i = 0; i < d && !rms; i++)
        mean += row[i] / d;
      for (int i = 0; i < d; i++)
        square += (row[i] - mean) * (row[i] - mean) / d;
      const double rstd = 1 / sqrt (square + (rms ? 1e-6 : 1e-5));
      for (int i = 0; i < d; i++)
        {
          const double c = (row[i] - mean) * rstd, w = wb[i] + rms;
          y[(gsize)m * d + i] = c * w + (rms ? 0 : wb[d + i]);
          dyc[(gsize)m * d + i] = g[i] * c;
          mean_g += rms ? 0 : g[i] * w / d;
          mean_gc += g[i] * w * c / d;
        }
      for (int i = 0; i < d; i++)
        {
          double *to = dx + (gsize)m * d + i;
          *to = (in_place ? 0 : *to)
                + rstd * (g[i] * (wb[i] + rms) - mean_g - (row[i] - mean) * rstd * mean_gc);
        }
    }
  g_autofree float *got_alone = take_at (rig, in, 1), *got_y = take_at (rig, out, 2),
                   *got_dyc = take_at (rig, dycs, 5), *got_dx = take_at (rig, dxs, in_place ? 4 : 6);
  nf_test_close_float ("norm in place", got_alone, y, n, tolerance);
  if (halved)
    check_left (rig, "norm, left", left, 7, step, got_alone, M, d);
  for (gsize i = 0; i < n && in_place; i++)
    y[i] += R[i];
  nf_test_close_float ("norm", got_y, y, n, tolerance);
  nf_test_close_float ("norm, dyc", got_dyc, dyc, n, tolerance);
  nf_test_close_float ("norm, dx", got_dx, dx, n, tolerance);
}

static void
test_norm (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (int way = 0; way < 4; way++)
    {
      const int rms = way & 1, in_place = way >> 1;
      /* of two values the gradient of a layer norm is a difference of nearly equal numbers */
      if (rms || !in_place)
        check_norm (&rig, 3, 2, rms, in_place, 0, 1e-4);
      check_norm (&rig, 5, 20, rms, in_place, 0, TOLERANCE);
      check_norm (&rig, 4, 64, rms, in_place, 0, TOLERANCE);
      check_norm (&rig, 7, 131, rms, in_place, 0, TOLERANCE);
      /* two passes: a mean far from 0 costs the digits of the mean and no more */
      check_norm (&rig, 3, 100, rms, in_place, 1000, 1e-4);
    }
}

/* Norms that leave integers leave those of the floats that they would leave. */
static void
test_norm_of_integers (void **state)
{
  enum
  {
    M = 5
  };
  static const int widths[] = { 64, 96, 160, 544 };
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (widths) && rig.madd; i++)
    for (int way = 0; way < 4; way++)
      {
        const int d = widths[i], rms = way & 1, add = way >> 1, width = left_words (&rig, d),
                  step = width + 3;
        const gsize n = (gsize)M * d;
        g_autofree double *x = numbers (1, n, 1), *wb = numbers (2, 2 * (gsize)d, 1), *R = numbers (5, n, 1);
        for (int j = 0; j < d; j++)
          {
            x[d + j] = R[d + j] = 0; /* with rms so is the norm */
            x[2 * d + j] *= 1e15;
          }
        x[3 * d + 7] = INFINITY;
        Memory *in = give_at (&rig, 1, x, n), *weights = give_at (&rig, 3, wb, 2 * (gsize)d),
               *floats = room (&rig, 4 + n), *want = room (&rig, (gsize)M * step),
               *got = room (&rig, (gsize)M * step);
        const Memory *added = add ? give_at (&rig, 2, R, n) : NONE;
        for (int left = 0; left < 2; left++)
          RUN (&rig, "nf_norm", SIZES (M, 1, 1), ONE_EACH, BUFFER (in), LONG (1), BUFFER (weights), LONG (3),
               LONG (3 + d), BUFFER (added), LONG (add ? 2 : 0), INT (add), BUFFER (left ? got : floats),
               LONG (left ? 0 : 4), INT (left ? step : 0), INT (rms), INT (d));
        RUN (&rig, "nf_make_left", SIZES (M, 1, 1), ONE_EACH, BUFFER (floats), LONG (4), INT (d),
             BUFFER (want), INT (step), INT (d));
        g_autofree float *of_floats = take (&rig, want), *of_norm = take (&rig, got);
        for (int m = 0; m < M; m++)
          if (m == 3)
            assert_false (isfinite (of_norm[m * step + width - 1]));
          else
            assert_memory_equal (of_norm + m * step, of_floats + m * step, width * sizeof (float));
        assert_true ((of_norm[step + width - 1] == 0) == rms);
        for (int m = 0; m < M; m++)
          {
            check_untouched ("behind a row", of_norm + m * step + width, step - width);
            /* up to a whole step for the matrix unit, of its upper and its lower bytes */
            const guint32 *end = (const guint32 *)of_norm + m * step + d / 64 * 32;
            for (int j = 8; rig.amx && d % 64 && j < 16; j++)
              assert_true (end[j] == 0 && end[16 + j] == 0);
          }
      }
}

/* The gate */

static double
gelu_tanh (double x)
{
  return x / 2 * (1 + tanh (sqrt (2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double
gelu_tanh_slope (double x)
{
  const double t = tanh (sqrt (2 / M_PI) * (x + 0.044715 * x * x * x));
  return (1 + t) / 2 + x / 2 * (1 - t * t) * sqrt (2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

static void
test_gate (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[] = { 1, 37, 64, 1003 };
  for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
    for (int vectors = 1; vectors < 6; vectors += 4)
      {
        const int n = sizes[s];
        const size_t items = divide_up (n, (size_t)vectors * rig.VW);
        g_autofree double *gate = numbers (1, n, 6), *up = numbers (2, n, 1), *dh = numbers (3, n, 1),
                          *hidden = g_new (double, n), *dgate = g_new (double, n), *dup = g_new (double, n);
        if (n > 1)
          {
            gate[0] = 1e20;
            gate[1] = -1e20;
            up[0] = up[1] = 1e-20;
          }
        for (int i = 0; i < n; i++)
          {
            const double slope = fabs (gate[i]) < 100 ? gelu_tanh_slope (gate[i]) : gate[i] > 0;
            hidden[i] = (fabs (gate[i]) < 100 ? gelu_tanh (gate[i]) : MAX (gate[i], 0)) * up[i];
            dgate[i] = dh[i] * up[i] * slope;
            dup[i] = dh[i] * (fabs (gate[i]) < 100 ? gelu_tanh (gate[i]) : MAX (gate[i], 0) * 0);
          }
        Memory *gates = give_at (&rig, 1, gate, n), *ups = give_at (&rig, 2, up, n),
               *out = room (&rig, 3 + n), *d = give_at (&rig, 4, dh, n), *dgates = room (&rig, 5 + n);
        RUN (&rig, "nf_gate", SIZES (items, 1, 1), ONE_EACH, BUFFER (gates), LONG (1), BUFFER (ups), LONG (2),
             BUFFER (out), LONG (3), INT (0), INT (n), LONG (n), INT (vectors));
        const guint width = 32, step = left_width (&rig, width) + 5;
        Memory *left = room (&rig, 6 + (gsize)n / width * step);
        if (n % width == 0)
          RUN (&rig, "nf_gate", SIZES (items, 1, 1), ONE_EACH, BUFFER (gates), LONG (1), BUFFER (ups),
               LONG (2), BUFFER (left), LONG (6), INT (step), INT (width), LONG (n), INT (vectors));
        RUN (&rig, "nf_gate_backward", SIZES (items, 1, 1), ONE_EACH, BUFFER (gates), LONG (1), BUFFER (ups),
             LONG (2), BUFFER (d), LONG (4), BUFFER (dgates), LONG (5), BUFFER (d), LONG (4), LONG (n),
             INT (vectors));
        g_autofree float *got = take_at (&rig, out, 3), *got_gate = take_at (&rig, dgates, 5),
                         *got_up = take_at (&rig, d, 4);
        if (n % width == 0)
          check_left (&rig, "gate, left", left, 6, step, got, n / width, width);
        if (n > 1)
          {
            /* far out: the identity, and nothing */
            assert_true (fabs ((double)got_up[0] / (1e20 * dh[0]) - 1) < 1e-6);
            assert_true (fabs ((double)got_up[1]) < 1e-6);
            got_up[0] = got_up[1] = 0;
            dup[0] = dup[1] = 0;
          }
        nf_test_close_float ("gate", got, hidden, n, TOLERANCE);
        nf_test_close_float ("gate, dgate", got_gate, dgate, n, TOLERANCE);
        nf_test_close_float ("gate, dup", got_up, dup, n, TOLERANCE);
      }
}

/* Another, in two parts that know nothing of each other, as planes of samples. */
static double *
two_reflections (int D)
{
  const int first = D * 2 / 3, second = D - first;
  g_autofree double *a = reflection (first), *b = reflection (second);
  double *W = g_new0 (double, D *D);
  for (int i = 0; i < first; i++)
    memcpy (W + i * D, a + i * first, first * sizeof *a);
  for (int i = 0; i < second; i++)
    memcpy (W + (first + i) * D + first, b + i * second, second * sizeof *b);
  return W;
}

/* Pixels */

typedef struct
{
  int width, height, chroma_height, planes, p, side, yuv;
  cl_ulong4 at;
  cl_int4 stride, step;
  gsize bytes;
} Layout;

/* Planes one after the other with odd strides; samples of an interleaved picture are 4 apart. MORE: a row of
 * chroma more, as of an interlaced frame. */
static void
layout_init (Layout *l, int planes, int yuv, gboolean interleaved, gboolean more)
{
  *l = (Layout){
    .width = 13, .height = 10, .chroma_height = more ? 6 : 5, .planes = planes, .p = 4, .side = 2, .yuv = yuv
  };
  for (int i = 0; i < planes; i++)
    {
      const int w = yuv && i ? (l->width + 1) / 2 : l->width, rows = yuv && i ? l->chroma_height : l->height;
      l->step.s[i] = interleaved ? 4 : 1;
      l->stride.s[i] = interleaved ? 4 * w + 8 : w + 3;
      l->at.s[i] = interleaved ? (cl_ulong)i : l->bytes;
      l->bytes = interleaved ? (gsize)l->stride.s[i] * rows : l->bytes + (gsize)l->stride.s[i] * rows;
    }
}

/* The sample that feature f of a token of the frame stands for, clamped to the frame; FALSE if outside. */
static gboolean
locate_sample (const Layout *l, int tile, int n, int f, gsize *byte)
{
  const int tiles_x = (int)divide_up (l->width, l->p * l->side), square = l->p * l->p;
  int plane = f / square, ps = l->p;
  if (l->yuv && f >= square)
    {
      ps /= 2;
      f -= square;
      plane = 1 + f / (ps * ps);
    }
  f %= ps * ps;
  const int x = (tile % tiles_x * l->side + n % l->side) * ps + f % ps,
            y = (tile / tiles_x * l->side + n / l->side) * ps + f / ps;
  const int w = l->yuv && plane ? (l->width + 1) / 2 : l->width,
            h = l->yuv && plane ? l->chroma_height : l->height;
  *byte = l->at.s[plane] + (gsize)MIN (y, h - 1) * l->stride.s[plane]
          + (gsize)MIN (x, w - 1) * l->step.s[plane];
  return x < w && y < h;
}

static int
steps_of (int mode)
{
  return mode == 4 ? -32 : mode == 0 || mode == 3 ? 0 : 32;
}

/* Tokens, after 3 floats, into a frame, of all tiles; whether a sample was said to be no finite number. */
static gboolean
run_to_pixels (Rig *rig, const Layout *l, int D, int mode, Memory *x, Memory *frame, Memory *W,
               gboolean has_basis, Memory *noise)
{
  const int N = l->side * l->side, tiles_x = (int)divide_up (l->width, l->p * l->side),
            tiles = tiles_x * (int)divide_up (l->height, l->p * l->side);
  Memory *odd = room (rig, 2);
  RUN (rig, "nf_tokens_to_pixels", SIZES (N, tiles, 1), ONE_EACH, BUFFER (x), LONG (3), BUFFER (frame),
       VALUE (l->at), VALUE (l->stride), VALUE (l->step), INT (l->width), INT (l->height),
       INT (l->chroma_height), INT (0), INT (tiles_x), INT (l->p), INT (l->side), INT (l->side), INT (l->yuv),
       INT (0), INT (steps_of (mode)), BUFFER (W), INT (has_basis), INT (D), BUFFER (noise), INT (mode == 4),
       BUFFER (odd), LONG (1));
  g_autofree float *after = take_at (rig, odd, 1);
  guint32 word;
  memcpy (&word, after, sizeof word);
  assert_true (word == 1 || word == nan_bits ());
  return word == 1;
}

static void
check_pixels (Rig *rig, int planes, int yuv, gboolean interleaved, int mode, gboolean has_basis,
              double *(*make_basis) (int))
{
  Layout l;
  layout_init (&l, planes, yuv, interleaved, mode == 1);
  const int D = yuv ? l.p * l.p * 3 / 2 : planes * l.p * l.p, N = l.side * l.side;
  const int tiles_x = (int)divide_up (l.width, l.p * l.side),
            tiles = tiles_x * (int)divide_up (l.height, l.p * l.side);
  const int steps = steps_of (mode);
  const gsize n = (gsize)tiles * N * D, words = divide_up (l.bytes, 4);
  g_autofree guint8 *frame = g_malloc0 (words * 4);
  g_autoptr (GRand) rand = g_rand_new_with_seed (5);
  for (gsize i = 0; i < words * 4; i++)
    frame[i] = (guint8)g_rand_int_range (rand, 0, 256);
  g_autofree double *basis = make_basis (D);
  Memory *bytes = room (rig, words), *x = room (rig, 3 + n), *W = give_basis (rig, basis, D),
         *back = room (rig, words);
  const cl_uint2 seed = { { 1, 2 } }, stream = { { 3, 4 } };
  const double std = 0.05;
  g_autofree double *noise = numbers (6, (gsize)N * D, 0.3);
  Memory *known_noise = give (rig, noise, (gsize)N * D);
  g_autofree float *raw = g_new (float, words);
  memcpy (raw, frame, words * 4);
  put (rig, bytes, 0, raw, words);
  RUN (rig, "nf_pixels_to_tokens", SIZES (N, tiles, 1), ONE_EACH, BUFFER (bytes), VALUE (l.at),
       VALUE (l.stride), VALUE (l.step), INT (l.width), INT (l.height), INT (l.chroma_height), LONG (0),
       INT (0), INT (tiles_x), INT (l.p), INT (l.side), INT (l.side), INT (yuv), INT (0), INT (mode),
       INT (steps), FLOAT (std), VALUE (seed), VALUE (stream), BUFFER (W), INT (has_basis), BUFFER (x),
       LONG (3), INT (D), BUFFER (known_noise));
  g_autofree float *tokens = take_at (rig, x, 3);
  double sum = 0, squares = 0;
  for (int t = 0; t < tiles * N; t++)
    for (int f = 0; f < D; f++)
      {
        gsize byte;
        double y = 0;
        locate_sample (&l, t / N, t % N, f, &byte);
        for (int i = 0; i < D; i++)
          y += (double)tokens[(gsize)t * D + i] * (has_basis ? basis[(gsize)i * D + f] : i == f);
        const double k = frame[byte], in_bin = (y + 1) * 128 - k;
        if (mode == 0)
          assert_true (fabs (y - (k * 2 / 255 - 1)) < 1e-5);
        else if (mode == 4)
          {
            /* the noise that was given, on a lattice of 2^-12 */
            const double wanted = k * 2 / 255 - 1 + noise[(gsize)(t % N) * D + f];
            assert_true (fabs (y - wanted) < 1.0 / 8192 + 1e-5);
            if (!has_basis)
              assert_true (y * 4096 == round (y * 4096));
          }
        else if (mode == 3)
          {
            sum += y - (k * 2 / 255 - 1);
            squares += (y - (k * 2 / 255 - 1)) * (y - (k * 2 / 255 - 1));
          }
        else
          {
            assert_true (in_bin > -1e-3 && in_bin < 1 + 1e-3);
            sum += in_bin - 0.5;
            squares += (in_bin - 0.5) * (in_bin - 0.5);
          }
      }
  /* moments of the noise, to five standard errors */
  const double variance = mode == 3 ? std * std : 1.0 / 12;
  if (mode != 0 && mode != 4)
    {
      assert_true (fabs (sum / n) < 5 * sqrt (variance / n));
      assert_true (fabs (squares / n / variance - 1) < 5 * sqrt (2.0 / n));
    }
  if (mode == 3)
    return;
  assert_false (run_to_pixels (rig, &l, D, mode, x, back, W, has_basis, known_noise));
  g_autofree float *returned = take (rig, back);
  g_autofree guint8 *written = g_malloc0 (words * 4), *known = g_memdup2 (returned, words * 4);
  for (int t = 0; t < tiles * N; t++)
    for (int f = 0; f < D; f++)
      {
        gsize byte;
        if (!locate_sample (&l, t / N, t % N, f, &byte))
          continue;
        written[byte]++;
        /* uniform noise may fall so near the edge of its bin that a change of basis carries it over */
        if (mode != 2 || !has_basis)
          assert_int_equal (known[byte], frame[byte]);
      }
  const guint32 bits = nan_bits ();
  for (gsize i = 0; i < words * 4; i++)
    if (!written[i])
      assert_int_equal (known[i], ((const guint8 *)&bits)[i % 4]);
    else
      assert_int_equal (written[i], 1);

  /* one sample that is none, in the last token of all that is partly outside the frame, is told; not if the
   * frame has no place for it. By a basis all of a token are none then. */
  static const float strange[] = { (float)NAN, (float)INFINITY, (float)-INFINITY };
  for (guint i = 0; i < G_N_ELEMENTS (strange); i++)
    for (int inside = has_basis; inside < 2; inside++)
      {
        gsize at = n, byte;
        do
          at--;
        while (locate_sample (&l, (int)(at / D) / N, (int)(at / D) % N, (int)(at % D), &byte) != inside);
        put (rig, x, 3 + at, &strange[i], 1);
        assert_int_equal (run_to_pixels (rig, &l, D, mode, x, back, W, has_basis, known_noise), inside);
        put (rig, x, 3 + at, &tokens[at], 1);
      }
}

static void
test_pixels (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (int mode = 0; mode < 5; mode++)
    for (int has_basis = 0; has_basis < 2; has_basis++)
      {
        check_pixels (&rig, 3, 1, FALSE, mode, has_basis, two_reflections);
        check_pixels (&rig, 3, 0, TRUE, mode, has_basis, reflection);
        check_pixels (&rig, 1, 0, FALSE, mode, has_basis, reflection);
      }
}

/* Steps on flat arrays: these kernels work on whole vectors of padded arrays. */

static void
test_adamw (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  const gsize n = 64 * 70;
  g_autofree double *theta = numbers (1, n, 1), *grad = numbers (2, n, 1), *m = numbers (3, n, 0.1),
                    *v = numbers (4, n, 0.1), *average = numbers (5, n, 1);
  for (gsize i = 0; i < n; i++)
    v[i] = fabs (v[i]);
  Memory *t = give (&rig, theta, n), *g = give (&rig, grad, n), *ms = give (&rig, m, n),
         *vs = give (&rig, v, n), *a = give (&rig, average, n);
  const double clip = 0.5, lr = 0.0625, beta1 = 0.875, beta2 = 0.96875, fix1 = 2, fix2 = 3, eps = 1e-8,
               decay = 0.125, ema = 0.75;
  RUN (&rig, "nf_adamw", SIZES (divide_up (n, (size_t)NF_ADAMW_VECTORS * rig.VW), 1, 1), ONE_EACH, BUFFER (t),
       BUFFER (g), BUFFER (ms), BUFFER (vs), BUFFER (a), LONG (n), FLOAT (clip), FLOAT (lr), FLOAT (beta1),
       FLOAT (beta2), FLOAT (fix1), FLOAT (fix2), FLOAT (eps), FLOAT (decay), FLOAT (ema));
  for (gsize i = 0; i < n; i++)
    {
      const double gi = grad[i] * clip;
      m[i] = beta1 * m[i] + (1 - beta1) * gi;
      v[i] = beta2 * v[i] + (1 - beta2) * gi * gi;
      theta[i] = theta[i] * (1 - lr * decay) - lr * m[i] * fix1 / (sqrt (v[i] * fix2) + eps);
      average[i] = ema * average[i] + (1 - ema) * theta[i];
    }
  g_autofree float *got_t = take (&rig, t), *got_m = take (&rig, ms), *got_v = take (&rig, vs),
                   *got_a = take (&rig, a);
  nf_test_close_float ("parameters", got_t, theta, n, TOLERANCE);
  nf_test_close_float ("first moment", got_m, m, n, TOLERANCE);
  nf_test_close_float ("second moment", got_v, v, n, TOLERANCE);
  nf_test_close_float ("average", got_a, average, n, TOLERANCE);
}

static void
test_sums_and_denoise (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  const gsize n = 1003, count = 128, parts = divide_up (n, count);
  g_autofree double *x = numbers (1, n, 1), *want = g_new0 (double, parts);
  for (gsize i = 0; i < n; i++)
    want[i / count] += x[i] * x[i];
  Memory *in = give_at (&rig, 2, x, n), *sums = room (&rig, parts);
  RUN (&rig, "nf_sum_squares", SIZES (parts, 1, 1), ONE_EACH, BUFFER (in), LONG (2), LONG (n), LONG (count),
       BUFFER (sums));
  g_autofree float *got = take (&rig, sums);
  nf_test_close_float ("sums of squares", got, want, parts, TOLERANCE);
  /* one value that is no number is seen */
  const float nan_value = NAN;
  put (&rig, in, 2 + n - 1, &nan_value, 1);
  RUN (&rig, "nf_sum_squares", SIZES (parts, 1, 1), ONE_EACH, BUFFER (in), LONG (2), LONG (n), LONG (count),
       BUFFER (sums));
  g_autofree float *with_nan = take (&rig, sums);
  assert_true (isnan (with_nan[parts - 1]));

  const gsize whole = 192;
  g_autofree double *y = numbers (3, whole, 1), *grad = numbers (4, whole, 1);
  Memory *ys = give_at (&rig, 1, y, whole), *gs = give_at (&rig, 3, grad, whole),
         *out = room (&rig, 2 + whole);
  RUN (&rig, "nf_denoise", SIZES (whole / rig.VW, 1, 1), ONE_EACH, BUFFER (ys), LONG (1), BUFFER (gs),
       LONG (3), BUFFER (out), LONG (2), FLOAT (0.25));
  for (gsize i = 0; i < whole; i++)
    y[i] -= 0.25 * grad[i];
  g_autofree float *denoised = take_at (&rig, out, 2);
  nf_test_close_float ("score step", denoised, y, whole, TOLERANCE);
}

int
main (int argc, char **argv)
{
  static const KernelTest tests[] = {
    { "exp, gelu", test_math, PRODUCTS },
    { "norms", test_norm },
    { "norms of integers", test_norm_of_integers, PRODUCTS },
    { "gate", test_gate },
    { "pixels", test_pixels },
    { "adamw", test_adamw },
    { "sums and denoise", test_sums_and_denoise },
  };
  return run_kernel_tests ("kernels", tests, G_N_ELEMENTS (tests), argc, argv);
}
