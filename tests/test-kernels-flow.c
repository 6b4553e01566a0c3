/* normflow: kernels of the flow's own steps. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernels-fixture.h"

static const int flow_features[] = { 1, 12, FEATURES };

static Memory *
give_words (Rig *rig, const gint32 *words, gsize n)
{
  Memory *memory = room (rig, n);
  put (rig, memory, 0, (const float *)(gconstpointer)words, n);
  return memory;
}

enum
{
  SCALE_NONE,
  SCALE_EXP,
  SCALE_SOFTPLUS,
};

static double
soft_clipped (double x, double a)
{
  return a > 0 ? a * tanh (x / a) : x;
}

static double
sigma_of (int scale, double raw)
{
  const double y = raw + log (M_E - 1);
  return scale == SCALE_NONE ? 1 : scale == SCALE_EXP ? exp (raw) : MAX (y, 0) + log1p (exp (-fabs (y)));
}

static int
flipped (int n, int frame, int flip)
{
  return flip ? n / frame * frame + frame - 1 - n % frame : n;
}

/* ROWS_MORE: rows of o beyond those that say something. */
static void
check_affine (Rig *rig, int D, int scale, int shift, int flip, int out_flip, double clip, int prefix,
              int extra, int rows_more, double spread)
{
  const int B = 2, N = 6, frame = 3, M = B * N, width = scale ? 2 * D : D,
            S = prefix + N + N / frame * extra - shift + rows_more;
  const double g = 0.125,
               most = clip == 4    ? 0.5
                      : spread > 6 ? 1
                                   : INFINITY,
               least = most < INFINITY ? NF_LEAST_LOG_SCALE : -INFINITY;
  g_autofree double *u = numbers (1, (gsize)M * D, 1), *o = numbers (2, (gsize)B * S * width, spread),
                    *dz = numbers (3, (gsize)M * D, 1), *log_det = numbers (4, M, 1);
  g_autofree double *z = g_new (double, M *D), *du = g_new (double, M *D),
                    *d_o = g_new0 (double, B *S *width), *logs = g_new0 (double, M *D);
  for (int b = 0; b < B; b++)
    for (int n = 0; n < N; n++)
      for (int i = 0; i < D; i++)
        {
          const gsize m = (gsize)b * N + n, out = ((gsize)b * N + flipped (n, frame, out_flip)) * D + i,
                      at = m * D + i;
          if (shift && !n)
            {
              z[out] = u[at];
              du[at] = dz[out];
              continue;
            }
          const gsize row = ((gsize)b * S + prefix + n + (n / frame + 1) * extra - shift) * width;
          const double mu = soft_clipped (o[row + width - D + i], clip),
                       raw = scale ? soft_clipped (o[row + i], clip) : 0,
                       sigma = sigma_of (scale, scale == SCALE_EXP ? CLAMP (raw, least, most) : raw);
          const double y = raw + log (M_E - 1), slope = scale == SCALE_SOFTPLUS ? 1 / ((1 + exp (-y)) * sigma)
                                                        : raw > most || raw < least ? 0
                                                                                    : 1;
          z[out] = (u[at] - mu) / sigma;
          logs[at] = -log (sigma);
          log_det[(gsize)b * N + flipped (n, frame, flip)] -= log (sigma);
          du[at] = dz[out] / sigma;
          d_o[row + width - D + i] = -du[at] * (clip > 0 ? 1 - mu * mu / (clip * clip) : 1);
          if (scale)
            d_o[row + i] = (g - dz[out] * z[out]) * slope * (clip > 0 ? 1 - raw * raw / (clip * clip) : 1);
        }
  g_autofree double *before = numbers (4, M, 1);
  Memory *us = give_at (rig, 1, u, (gsize)M * D), *os = give (rig, o, (gsize)B * S * width),
         *zs = room (rig, 2 + (gsize)M * D), *dets = give (rig, before, M),
         *dzs = give_at (rig, 3, dz, (gsize)M * D), *dus = room (rig, 4 + (gsize)M * D),
         *d_os = room (rig, (gsize)B * S * width), *scales = room (rig, 5 + (gsize)M * D);
  RUN (rig, "nf_affine", SIZES (M, 1, 1), ONE_EACH, BUFFER (us), LONG (1), BUFFER (os), BUFFER (zs), LONG (2),
       BUFFER (dets), BUFFER (scales), LONG (5), INT (1), INT (N), INT (D), INT (S), INT (prefix),
       INT (extra), INT (frame), INT (shift), INT (scale), FLOAT (clip), FLOAT (most), FLOAT (0), FLOAT (0),
       INT (flip), INT (out_flip), INT (1), BUFFER (NONE), INT (0), INT (-1), BUFFER (NONE), INT (0),
       BUFFER (NONE), INT (0), INT (0), INT (0));
  RUN (rig, "nf_affine_backward", SIZES (B * MAX (S, prefix + N), 1, 1), ONE_EACH, BUFFER (us), LONG (1),
       BUFFER (os), BUFFER (dzs), LONG (3), BUFFER (dus), LONG (4), BUFFER (d_os), INT (N), INT (D), INT (S),
       INT (prefix), INT (extra), INT (frame), INT (shift), INT (scale), FLOAT (clip), FLOAT (most),
       INT (out_flip), FLOAT (g));
  g_autofree float *got_z = take_at (rig, zs, 2), *got_log = take (rig, dets),
                   *got_du = take_at (rig, dus, 4), *got_do = take (rig, d_os),
                   *got_scales = take_at (rig, scales, 5);
  nf_test_close_float ("affine step", got_z, z, (gsize)M * D, TOLERANCE);
  nf_test_close_float ("log-determinant", got_log, log_det, M, TOLERANCE);
  nf_test_close_float ("-log sigma", got_scales, logs, (gsize)M * D, TOLERANCE);
  nf_test_close_float ("affine step, du", got_du, du, (gsize)M * D, TOLERANCE);
  nf_test_close_float ("affine step, do", got_do, d_o, (gsize)B * S * width, TOLERANCE);
  /* without log_scales */
  RUN (rig, "nf_affine", SIZES (M, 1, 1), ONE_EACH, BUFFER (us), LONG (1), BUFFER (os), BUFFER (zs), LONG (2),
       BUFFER (dets), BUFFER (NONE), LONG (0), INT (0), INT (N), INT (D), INT (S), INT (prefix), INT (extra),
       INT (frame), INT (shift), INT (scale), FLOAT (clip), FLOAT (most), FLOAT (0), FLOAT (0), INT (flip),
       INT (out_flip), INT (0), BUFFER (NONE), INT (0), INT (-1), BUFFER (NONE), INT (0), BUFFER (NONE),
       INT (0), INT (0), INT (0));
}

static void
test_affine (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (flow_features); i++)
    for (int scale = 0; scale < 3; scale++)
      for (int bits = 0; bits < 8; bits++)
        {
          const int shift = bits & 1, flip = bits >> 1 & 1, out_flip = bits >> 2;
          check_affine (&rig, flow_features[i], scale, shift, flip, out_flip, 0, 0, !shift, shift, 1);
          check_affine (&rig, flow_features[i], scale, shift, flip, out_flip, 0.75, 2, !shift && flip, flip,
                        2);
          check_affine (&rig, flow_features[i], scale, shift, flip, out_flip, 4, 1, 0, 0, 3);
          if (scale == SCALE_EXP)
            check_affine (&rig, flow_features[i], scale, shift, flip, out_flip, 0, 0, 0, 0, 9);
        }
}

/* Tokens n0 .. n0+count-1 of N; the unguided rows come after all others. */
static void
check_affine_inverse (Rig *rig, int D, int scale, int guidance, double clip, int keep_first, int has_basis)
{
  const int B = 3, N = 5, n0 = 1, count = 3, o_rows = 4, o_first = 1, width = scale ? 2 * D : D, steps = 32;
  const cl_float4 weights = { { 0.5f, 0.125f, 0.25f, -0.0625f } };
  const gsize n_u = (gsize)B * N * D, n_o = 2 * (gsize)B * o_rows * width;
  g_autofree double *z = numbers (1, n_u, 0.5), *x = numbers (3, n_u, 0.5), *o = numbers (2, n_o, 0.4),
                    *basis = reflection (D), *want = g_memdup2 (x, sizeof (double) * n_u),
                    *want_sigmas = g_memdup2 (x, sizeof (double) * n_u);
  for (int b = 0; b < B; b++)
    for (int r = 0; r < count; r++)
      for (int i = 0; i < D; i++)
        {
          const gsize at = ((gsize)b * N + n0 + r) * D + i, row = ((gsize)b * o_rows + o_first + r) * width;
          const double *c = o + row, *f = c + (gsize)B * o_rows * width;
          double mu = soft_clipped (c[width - D + i], clip), raw = scale ? soft_clipped (c[i], clip) : 0;
          const double mu_f = soft_clipped (f[width - D + i], clip),
                       raw_f = scale ? soft_clipped (f[i], clip) : 0;
          const double w = (double)(weights.s[0] + (float)r * weights.s[1]),
                       w_shift = (double)(weights.s[2] + (float)r * weights.s[3]);
          if (guidance == 1)
            {
              mu += w_shift * (mu - mu_f);
              raw += w * (raw - raw_f);
            }
          double sigma = sigma_of (scale, raw);
          if (guidance == 2)
            {
              const double ratio = MIN (sigma / sigma_of (scale, raw_f), 1), s = ratio * ratio,
                           k = 1 + w - w * s;
              sigma /= sqrt (k);
              mu = ((1 + w) * mu - w * s * mu_f) / k;
            }
          want[at] = keep_first && !r ? z[at] : z[at] * sigma + mu;
          if (!keep_first || r)
            want_sigmas[at] = sigma;
        }
  for (int snap = 0; snap < 2; snap++)
    {
      Memory *zs = give_at (rig, 3, z, n_u), *xs = give_at (rig, 2, x, n_u), *os = give (rig, o, n_o),
             *W = give_basis (rig, basis, D), *changes = room (rig, B * count), *sigmas = give (rig, x, n_u);
      RUN (rig, "nf_affine_inverse", SIZES (B * count, 1, 1), ONE_EACH, BUFFER (zs), LONG (3), BUFFER (xs),
           LONG (2), BUFFER (os), INT (B), INT (N), INT (D), INT (n0), INT (count), INT (o_rows),
           INT (o_first), INT (scale), FLOAT (clip), FLOAT (INFINITY), FLOAT (0), INT (guidance),
           VALUE (weights), INT (keep_first), INT (snap ? steps : -1), BUFFER (W), INT (has_basis),
           BUFFER (changes), INT (1), BUFFER (sigmas), INT (snap), BUFFER (NONE), LONG (0), INT (0), INT (0));
      g_autofree float *got = take_at (rig, xs, 2), *got_changes = take (rig, changes);
      for (int m = 0; m < B * count; m++)
        {
          double most = 0;
          for (int i = 0; i < D; i++)
            {
              const gsize at = ((gsize)(m / count) * N + n0 + m % count) * D + i;
              most = MAX (most, fabs ((double)got[at] - x[at]));
            }
          assert_true (fabs ((double)got_changes[m] - most) <= 1e-6);
        }
      if (!snap)
        {
          g_autofree float *untouched = take (rig, sigmas);
          nf_test_close_float ("inverse step", got, want, n_u, TOLERANCE);
          nf_test_close_float ("no sigmas", untouched, x, n_u, 0);
          continue;
        }
      g_autofree float *got_sigmas = take (rig, sigmas);
      nf_test_close_float ("sigmas", got_sigmas, want_sigmas, n_u, TOLERANCE);
      for (int m = 0; m < B * count; m++)
        for (int j = 0; j < D; j++)
          {
            /* in the samples' own basis: at a point of the lattice, the nearest or nearly so */
            double y = 0, target = 0;
            for (int i = 0; i < D; i++)
              {
                const gsize at = ((gsize)(m / count) * N + n0 + m % count) * D + i;
                const double w = has_basis ? basis[i * D + j] : (i == j);
                y += w * (double)got[at];
                target += w * want[at];
              }
            const double place = (y + 1) * 128 * steps - 0.5;
            assert_true (fabs (place - round (place)) < 0.02);
            assert_true (fabs (y - target) < 0.51 / (128 * steps) + 1e-5 || fabs (target) > 0.99);
          }
    }
}

static void
test_drafts (void **state)
{
  g_auto (Rig) rig;
  const int B = 3, N = 9, D = FEATURES, n0 = 2, count = 5;
  const gsize n = (gsize)(B * N * D);
  rig_init (&rig, *state, HEAD_DIM);
  g_autofree double *z = numbers (1, B * N * D, 1), *x = numbers (2, B * N * D, 1),
                    *weights = numbers (3, (2 * D + 1) * D, 0.2), *before = numbers (4, B * count * D, 1),
                    *places = numbers (5, B * N * D, 0.001);
  for (gsize i = 0; i < n; i++)
    places[i] = (double)(float)((places[i] + 0.004) - 1);

  Memory *zs = give (&rig, z, B * N * D), *xs = give (&rig, x, B * N * D),
         *ws = give (&rig, weights, (2 * D + 1) * D);
  RUN (&rig, "nf_foresee", SIZES (B, 1, 1), ONE_EACH, BUFFER (zs), LONG (0), BUFFER (xs), LONG (0),
       BUFFER (ws), LONG (0), INT (N), INT (D), INT (n0), INT (count));
  g_autofree float *guessed = take (&rig, xs);
  g_autofree double *wanted = g_memdup2 (x, n * sizeof *x);
  for (int b = 0; b < B; b++)
    for (int t = n0; t < n0 + count; t++)
      for (int j = 0; j < D; j++)
        {
          double sum = weights[2 * D * D + j];
          for (int i = 0; i < D; i++)
            sum += wanted[(b * N + t - 1) * D + i] * weights[i * D + j]
                   + z[(b * N + t) * D + i] * weights[(D + i) * D + j];
          wanted[(b * N + t) * D + j] = sum;
        }
  for (gsize i = 0; i < n; i++)
    assert_true (fabs ((double)guessed[i] - wanted[i]) < 1e-4 * (1 + fabs (wanted[i])));

  g_autofree double *old_z = numbers (6, B * N * D, 1), *old_x = numbers (7, B * N * D, 1),
                    *sigmas = numbers (8, B * N * D, 0.5);
  for (int moving = 0; moving < 2; moving++)
    {
      Memory *recalled = give (&rig, x, B * N * D), *ozs = give (&rig, old_z, B * N * D),
             *oxs = give (&rig, old_x, B * N * D), *ss = give (&rig, sigmas, B * N * D);
      RUN (&rig, "nf_recall", SIZES (B, 1, 1), ONE_EACH, BUFFER (zs), LONG (0), BUFFER (recalled), LONG (0),
           BUFFER (ozs), BUFFER (oxs), BUFFER (ss), BUFFER (ws), LONG (D), INT (moving), INT (N), INT (D),
           INT (n0), INT (count));
      g_autofree float *got = take (&rig, recalled);
      memcpy (wanted, x, n * sizeof *x);
      for (int b = 0; b < B; b++)
        for (int t = n0; t < n0 + count; t++)
          for (int j = 0; j < D; j++)
            {
              const int at = (b * N + t) * D;
              double sum = old_x[at + j] + sigmas[at + j] * (z[at + j] - old_z[at + j]);
              for (int i = 0; i < D && moving; i++)
                sum += (wanted[at - D + i] - old_x[at - D + i]) * weights[D + i * D + j];
              wanted[at + j] = sum;
            }
      for (gsize i = 0; i < n; i++)
        assert_true (fabs ((double)got[i] - wanted[i]) < 1e-4 * (1 + fabs (wanted[i])));
    }

  for (int both = 0; both < 4; both++)
    {
      const int placed = both & 1, sloped = both >> 1;
      Memory *moving = give (&rig, x, B * N * D), *bs = give (&rig, before, B * count * D),
             *ps = give (&rig, places, B * N * D), *changes = room (&rig, 2 * B * count);
      RUN (&rig, "nf_settle", SIZES (B, 1, 1), ONE_EACH, BUFFER (moving), LONG (0), BUFFER (bs), BUFFER (ws),
           LONG (0), INT (sloped), BUFFER (ps), LONG (0), INT (placed), BUFFER (NONE), INT (0),
           BUFFER (changes), INT (N), INT (D), INT (n0), INT (count));
      g_autofree float *got = take (&rig, moving), *got_changes = take (&rig, changes);
      for (int b = 0; b < B; b++)
        for (int r = 0; r < count; r++)
          {
            const int at = (b * N + n0 + r) * D;
            double most = 0, off = 0;
            for (int j = 0; j < D; j++)
              {
                /* by what the kernel itself says of the token before: snapping has jumps */
                double value = x[at + j];
                for (int i = 0; i < D && r > 0 && sloped; i++)
                  value
                      += ((double)got[at - D + i] - before[(b * count + r - 1) * D + i]) * weights[i * D + j];
                const double said = value, steps = ((double)got[at + j] - places[at + j]) * 128;
                if (placed)
                  {
                    assert_true (fabs (steps - rint (steps)) < 1e-3 && steps > -0.5 && steps < 255.5);
                    value = CLAMP (value, places[at + j], places[at + j] + 255.0 / 128);
                  }
                assert_true (fabs ((double)got[at + j] - value) < (placed ? 0.5 / 128 + 1e-5 : 1e-5));
                off = MAX (off, fabs ((double)got[at + j] - said));
                most = MAX (most, fabs ((double)got[at + j] - before[(b * count + r) * D + j]));
              }
            assert_true (fabs ((double)got_changes[b * count + r] - most) < 1e-6);
            assert_true (fabs ((double)got_changes[(B + b) * count + r] - (placed ? off : 0)) < 1e-5);
          }
      for (int b = 0; b < B; b++)
        for (int i = 0; i < n0 * D; i++)
          assert_true ((double)got[b * N * D + i] == x[b * N * D + i]);
    }
}

static void
test_affine_inverse (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (flow_features); i++)
    for (int scale = 0; scale < 3; scale++)
      for (int guidance = 0; guidance < 3; guidance++)
        for (int bits = 0; bits < 8; bits++)
          check_affine_inverse (&rig, flow_features[i], scale, guidance, bits & 1 ? 0.5 : 0, bits >> 1 & 1,
                                bits >> 2);

  /* in place, and a value that is no number is a change that is none */
  const int B = 2, D = FEATURES;
  const cl_float4 weights = { { 0 } };
  g_autofree double *x = numbers (1, B * D, 1), *o = numbers (2, B * D, 1);
  x[4] = NAN;
  Memory *xs = give (&rig, x, B * D), *os = give (&rig, o, B * D), *changes = room (&rig, B);
  RUN (&rig, "nf_affine_inverse", SIZES (B, 1, 1), ONE_EACH, BUFFER (xs), LONG (0), BUFFER (xs), LONG (0),
       BUFFER (os), INT (B), INT (1), INT (D), INT (0), INT (1), INT (1), INT (0), INT (SCALE_NONE),
       FLOAT (0), FLOAT (INFINITY), FLOAT (0), INT (0), VALUE (weights), INT (0), INT (-1), BUFFER (NONE),
       INT (0), BUFFER (changes), INT (1), BUFFER (NONE), INT (0), BUFFER (NONE), LONG (0), INT (0), INT (0));
  g_autofree float *got = take (&rig, xs), *got_changes = take (&rig, changes);
  assert_true (isnan (got_changes[0]));
  double most = 0;
  for (int i = D; i < 2 * D; i++)
    {
      most = MAX (most, fabs (o[i]));
      assert_true (fabs ((double)got[i] - x[i] - o[i]) < 1e-6);
    }
  assert_true (fabs ((double)got_changes[1] - most) < 1e-6);
}

/* u through the affine step and back, all tokens known: what encoding and decoding do. On lattices the very
 * same u comes back, although z was rounded. */
/* u (B, N, FEATURES) through nf_affine() and back, o as both read it. */
static float *
go_there_and_back (Rig *rig, const double *u, const double *o, int B, int N, int scale, double clip,
                   double most, double per_unit_z, double per_unit_u)
{
  const int D = FEATURES;
  const gsize n = (gsize)B * N * D;
  const cl_float4 weights = { { 0 } };
  Memory *us = give (rig, u, n), *os = give (rig, o, scale ? 2 * n : n), *z = room (rig, n),
         *back = room (rig, n), *dets = room (rig, B * N), *misses = room (rig, 2 * B * N);
  RUN (rig, "nf_affine", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (us), LONG (0), BUFFER (os), BUFFER (z),
       LONG (0), BUFFER (dets), BUFFER (NONE), LONG (0), INT (0), INT (N), INT (D), INT (N), INT (0), INT (0),
       INT (N), INT (0), INT (scale), FLOAT (clip), FLOAT (most), FLOAT (per_unit_z), FLOAT (per_unit_u),
       INT (0), INT (0), INT (0), BUFFER (misses), INT (1), INT (-1), BUFFER (NONE), INT (0), BUFFER (NONE),
       INT (0), INT (0), INT (0));
  RUN (rig, "nf_affine_inverse", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (z), LONG (0), BUFFER (back), LONG (0),
       BUFFER (os), INT (B), INT (N), INT (D), INT (0), INT (N), INT (N), INT (0), INT (scale), FLOAT (clip),
       FLOAT (most), FLOAT (per_unit_u), INT (0), VALUE (weights), INT (0), INT (-1), BUFFER (NONE), INT (0),
       BUFFER (NONE), INT (0), BUFFER (NONE), INT (0), BUFFER (NONE), LONG (0), INT (0), INT (0));
  float *got = take (rig, back);
  g_autofree float *missed = take (rig, misses);
  for (int m = 0; m < B * N && per_unit_u > 0; m++)
    {
      int wrong = 0;
      for (int i = 0; i < D; i++)
        wrong += (double)got[m * D + i] != u[m * D + i];
      assert_true (missed[2 * m] == (float)wrong);
      assert_true (missed[2 * m + 1] == 0);
    }
  return got;
}

static void
test_affine_there_and_back (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (int scale = 0; scale < 3; scale++)
    for (int form = 0; form < 4; form++)
      {
        const gboolean clipped = form & 1, on_lattice = form & 2;
        const double per_unit_u = on_lattice ? 256 : 0, per_unit_z = on_lattice ? 1 << 18 : 0;
        const int B = 2, N = 6, D = FEATURES, width = scale ? 2 * D : D;
        const double clip = clipped ? 4 : 0, most = clipped ? 0.5 : INFINITY;
        const gsize n = (gsize)B * N * D;
        g_autofree double *u = numbers (1, n, 1), *o = numbers (2, (gsize)B * N * width, 6);
        for (gsize i = 0; on_lattice && i < n; i++)
          u[i] = rint (u[i] * per_unit_u) / per_unit_u;
        g_autofree float *got
            = go_there_and_back (&rig, u, o, B, N, scale, clip, most, per_unit_z, per_unit_u);
        nf_test_close_float ("there and back", got, u, n, on_lattice ? 0 : 2e-6);
      }
}

/* As nf_affine() rounds: to 2^-BITS, to 2^-BITS of an eighth of what is larger than 8, and to 23 bits. */
static double
on_lattice (double x, int bits)
{
  int exponent;
  (void)frexp (x, &exponent); /* below 2^exponent */
  const double per_unit = exp2 (bits - MAX (exponent - MIN (3, 23 - bits), 0));
  return floor (x * per_unit + 0.5) / per_unit;
}

/* Values between blocks, large ones too, come back on their lattice from latents, of floats and of a finer
 * lattice. */
static void
test_affine_lattices (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  enum
  {
    B = 3,
    N = 2000,
    D = FEATURES
  };
  for (int bits = 17; bits < 22; bits += 2)
    {
      const gsize n = (gsize)B * N * D;
      g_autofree double *u = numbers (1, n, 1), *o = numbers (2, 2 * n, 1), *d = numbers (3, n, 1);
      for (gsize i = 0; i < n; i++)
        {
          u[i] = on_lattice (u[i] * exp2 ((double)(i % 7)), bits);
          o[i / D * 2 * D + D + i % D] = u[i] + 3.9 * d[i] * fmax (fabs (u[i]) / 8, 1);
        }
      g_autofree float *got
          = go_there_and_back (&rig, u, o, B, N, 1, 0, INFINITY, bits < 19 ? 1 << 19 : 0, 1 << bits);
      nf_test_close_float ("on the lattice", got, u, n, 0);
    }
}

/* A scale that its limit holds, by as much as lattices differ: steps of z are as long as those of u, and
 * shifts of half a step more or less leave floats to decide. */
static void
test_affine_ties (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  enum
  {
    B = 3,
    N = 2000,
    D = FEATURES
  };
  for (int bits = 15; bits < 20; bits += 2)
    {
      const gsize n = (gsize)B * N * D;
      const double per_unit = exp2 (bits);
      g_autofree double *u = numbers (1, n, 1), *o = numbers (2, 2 * n, 1);
      for (gsize i = 0; i < n; i++)
        {
          double *const raw = &o[i / D * 2 * D + i % D], *const mu = raw + D;
          u[i] = on_lattice (u[i] * exp2 ((double)(i % 3)), bits);
          *raw = bits < 19 ? 3 : *raw;
          *mu = (floor (*mu * per_unit) + 0.5 + (double)((gint)(i % 5) - 2) / 512) / per_unit;
        }
      g_autofree float *got
          = go_there_and_back (&rig, u, o, B, N, 1, 0, G_LN2 * 2, bits < 19 ? 4 * per_unit : 0, per_unit);
      nf_test_close_float ("half a step off", got, u, n, 0);
    }

  /* floats are too far apart for this: that values are missed is counted */
  const gsize n = (gsize)B * N * D;
  g_autofree double *u = numbers (1, n, 1), *o = numbers (2, 2 * n, 1);
  gsize missed = 0;
  for (gsize i = 0; i < n; i++)
    {
      double *const raw = &o[i / D * 2 * D + i % D], *const mu = raw + D;
      u[i] = on_lattice (u[i], 19);
      *raw = 3;
      *mu = 40 + *mu;
    }
  g_autofree float *got = go_there_and_back (&rig, u, o, B, N, 1, 0, G_LN2 * 2, 0, exp2 (19));
  for (gsize i = 0; i < n; i++)
    missed += (double)got[i] != u[i];
  assert_true (missed > n / 10 && missed < n);
}

/* u (B, N, D), on a lattice that z has no bits for, through nf_affine() with a list of ROOM_FOR corrections,
 * and back with those that are in it. Returns how many there were to be. */
static guint
correct_missed (Rig *rig, const double *u, const double *o, int B, int N, int D, gsize room_for)
{
  enum
  {
    FIRST = 5, /* sample */
    BLOCK = 2
  };
  const gsize n = (gsize)B * N * D, tokens = (gsize)B * N;
  const float coarse = 1 << 10, fine = 1 << 14;
  const cl_float4 weights = { { 0 } };
  g_autofree double *empty = g_new0 (double, 4 * (room_for + 1));
  Memory *us = give (rig, u, n), *os = give (rig, o, 2 * n), *z = room (rig, n), *back = room (rig, n),
         *dets = room (rig, tokens), *misses = room (rig, 2 * tokens),
         *list = give (rig, empty, 4 * (room_for + 1));
  RUN (rig, "nf_affine", SIZES (tokens, 1, 1), ONE_EACH, BUFFER (us), LONG (0), BUFFER (os), BUFFER (z),
       LONG (0), BUFFER (dets), BUFFER (NONE), LONG (0), INT (0), INT (N), INT (D), INT (N), INT (0), INT (0),
       INT (N), INT (0), INT (SCALE_EXP), FLOAT (0), FLOAT (INFINITY), FLOAT (coarse), FLOAT (fine), INT (0),
       INT (0), INT (0), BUFFER (misses), INT (1), INT (-1), BUFFER (NONE), INT (0), BUFFER (list),
       INT (room_for), INT (FIRST), INT (BLOCK));
  g_autofree float *listed = take (rig, list), *counts = take (rig, misses);
  const gint32 *const words = (const gint32 *)(gconstpointer)listed;
  const guint found = (guint)words[0], kept = (guint)MIN (found, room_for);
  float sum = 0;
  for (gsize m = 0; m < tokens; m++)
    sum += counts[2 * m];
  assert_true (sum == (float)found);

  /* as decoding wants them: where each token's begin, then the number and bits of each */
  g_autofree gint32 *wanted = g_new (gint32, tokens + 1 + 2 * kept);
  gint32 end = (gint32)tokens + 1;
  for (gsize m = 0; m <= tokens; m++)
    {
      wanted[m] = end;
      for (guint i = 0; i < kept; i++)
        {
          const gint32 *entry = words + 4 * (i + 1);
          const gint32 token = (entry[0] - FIRST) * N + entry[2] / D;
          assert_int_equal (entry[1], BLOCK);
          assert_true (entry[0] >= FIRST && token < (gint32)tokens);
          if (token != (gint32)m)
            continue;
          wanted[end++] = entry[2] % D;
          wanted[end++] = entry[3];
        }
    }
  Memory *corrections = give_words (rig, wanted, (gsize)end);
  RUN (rig, "nf_affine_inverse", SIZES (tokens, 1, 1), ONE_EACH, BUFFER (z), LONG (0), BUFFER (back),
       LONG (0), BUFFER (os), INT (B), INT (N), INT (D), INT (0), INT (N), INT (N), INT (0), INT (SCALE_EXP),
       FLOAT (0), FLOAT (INFINITY), FLOAT (fine), INT (0), VALUE (weights), INT (0), INT (-1), BUFFER (NONE),
       INT (0), BUFFER (NONE), INT (0), BUFFER (NONE), INT (0), BUFFER (corrections), LONG (0), INT (N),
       INT (0));
  g_autofree float *got = take (rig, back);
  guint wrong = 0;
  for (gsize i = 0; i < n; i++)
    wrong += got[i] != (float)u[i];
  assert_int_equal (wrong, found - kept);
  return found;
}

/* What decoding will not find is listed, value by value, as far as there is room, and found with that. */
static void
test_affine_corrections (void **state)
{
  enum
  {
    B = 2,
    N = 40
  };
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (flow_features); i++)
    {
      const int D = flow_features[i];
      const gsize n = (gsize)B * N * D;
      g_autofree double *u = numbers (1, n, 1), *o = numbers (2, 2 * n, 1);
      for (gsize k = 0; k < n; k++)
        u[k] = rint (u[k] * (1 << 14)) / (1 << 14);
      const guint all = correct_missed (&rig, u, o, B, N, D, n);
      assert_true (all > n / 10 && all < n);
      assert_int_equal (correct_missed (&rig, u, o, B, N, D, 3), all);
    }
}

/* Samples on their lattice through nf_affine() with scales of up to exp (SPREAD), and back to the lattice:
 * how many come back on another point is what nf_affine() said. Returns it. */
static gsize
count_lost (Rig *rig, int D, int scale, int steps, gboolean has_basis, double spread)
{
  enum
  {
    B = 2,
    N = 40,
    BEFORE = 3 /* what is there is added to */
  };
  const int width = scale ? 2 * D : D;
  const gsize n = (gsize)B * N * D;
  const double per_bin = steps ? steps : 1, step = steps ? 1 / (128 * fabs (per_bin)) : 2.0 / 255;
  const cl_float4 weights = { { 0 } };
  g_autofree double *y = numbers (1, n, 1), *o = numbers (2, (gsize)B * N * width, spread),
                    *u = g_new (double, n), *W = reflection (D), *counts = g_new (double, 2 * B * N);
  for (gsize i = 0; i < n; i++)
    y[i] = steps > 0 ? (floor (y[i] / step) + 0.5) * step
           : steps   ? rint (y[i] / step) * step
                     : (double)((float)rint ((y[i] + 1) * 127.5) * (2.0f / 255.0f) - 1.0f);
  for (gsize i = 0; i < n; i++)
    {
      u[i] = has_basis ? 0 : y[i];
      for (int j = 0; has_basis && j < D; j++)
        u[i] += W[(gint)(i % (gsize)D) * D + j] * y[i / (gsize)D * (gsize)D + (gsize)j];
      o[i / (gsize)D * (gsize)width + (gsize)(width - D) + i % (gsize)D] /= spread;
    }
  for (guint i = 0; i < 2 * B * N; i++)
    counts[i] = BEFORE;
  Memory *us = give (rig, u, n), *os = give (rig, o, (gsize)B * N * width), *z = room (rig, n),
         *back = room (rig, n), *dets = room (rig, B * N), *misses = give (rig, counts, 2 * B * N),
         *basis = has_basis ? give_basis (rig, W, D) : NULL;
  RUN (rig, "nf_affine", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (us), LONG (0), BUFFER (os), BUFFER (z),
       LONG (0), BUFFER (dets), BUFFER (NONE), LONG (0), INT (0), INT (N), INT (D), INT (N), INT (0), INT (0),
       INT (N), INT (0), INT (scale), FLOAT (0), FLOAT (INFINITY), FLOAT (1 << 17), FLOAT (0), INT (0),
       INT (0), INT (1), BUFFER (misses), INT (1), INT (steps), BUFFER (basis), INT (has_basis),
       BUFFER (NONE), INT (0), INT (0), INT (0));
  RUN (rig, "nf_affine_inverse", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (z), LONG (0), BUFFER (back), LONG (0),
       BUFFER (os), INT (B), INT (N), INT (D), INT (0), INT (N), INT (N), INT (0), INT (scale), FLOAT (0),
       FLOAT (INFINITY), FLOAT (0), INT (0), VALUE (weights), INT (0), INT (steps), BUFFER (basis),
       INT (has_basis), BUFFER (NONE), INT (0), BUFFER (NONE), INT (0), BUFFER (NONE), LONG (0), INT (0),
       INT (0));
  g_autofree float *got = take (rig, back), *lost = take (rig, misses);
  gsize all = 0;
  for (gsize m = 0; m < B * N; m++)
    {
      guint wrong = 0;
      for (int i = 0; i < D; i++)
        {
          double x = has_basis ? 0 : (double)got[m * (gsize)D + (gsize)i];
          for (int j = 0; has_basis && j < D; j++)
            x += W[j * D + i] * (double)got[m * (gsize)D + (gsize)j];
          wrong += fabs (x - y[m * (gsize)D + (gsize)i]) > step / 2;
        }
      assert_true (lost[2 * m] == BEFORE);
      assert_true (lost[2 * m + 1] == (float)(BEFORE + wrong));
      all += wrong;
    }
  return all;
}

/* What the data's own lattice does not hold is counted, sample by sample. */
static void
test_affine_snapped (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int steps[] = { 32, 0, -32 };
  for (guint i = 0; i < G_N_ELEMENTS (flow_features); i++)
    for (guint s = 0; s < G_N_ELEMENTS (steps); s++)
      for (int has_basis = 0; has_basis < 2; has_basis++)
        {
          const int D = flow_features[i];
          for (int scale = 0; scale < 3; scale++)
            assert_int_equal (count_lost (&rig, D, scale, steps[s], has_basis, 1), 0);
          assert_true (count_lost (&rig, D, SCALE_EXP, steps[s], has_basis, steps[s] ? 8 : 12) > 0);
          assert_true (count_lost (&rig, D, SCALE_SOFTPLUS, steps[s], has_basis, steps[s] ? 3000 : 60000)
                       > 0);
        }
}

static void
test_shift_in (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint f = 0; f < G_N_ELEMENTS (flow_features); f++)
    {
      const int B = 3, N = 5, D = flow_features[f];
      const gsize n = (gsize)B * N * D;
      g_autofree double *u = numbers (1, n, 1), *sos = numbers (2, D, 1), *dto = numbers (3, n, 1),
                        *du = numbers (4, n, 1), *dsos = numbers (5, D, 1);
      Memory *us = give_at (&rig, 1, u, n), *soss = give_at (&rig, 2, sos, D), *d = give_at (&rig, 3, dto, n),
             *dus = give_at (&rig, 4, du, n), *dsoss = give_at (&rig, 5, dsos, D);
      for (int n0 = 0; n0 < 3; n0++)
        {
          const int count = n0 ? 2 : N;
          Memory *to = room (&rig, 6 + (gsize)B * count * D);
          RUN (&rig, "nf_shift_in", SIZES (B * count, 1, 1), ONE_EACH, BUFFER (us), LONG (1), BUFFER (soss),
               LONG (2), BUFFER (to), LONG (6), INT (n0), INT (count), INT (N), INT (D));
          g_autofree float *got = take_at (&rig, to, 6);
          for (int m = 0; m < B * count; m++)
            for (int i = 0; i < D; i++)
              {
                const int before = n0 + m % count - 1;
                const double want = before < 0 ? sos[i] : u[((gsize)(m / count) * N + before) * D + i];
                assert_true ((double)got[(gsize)m * D + i] == want);
              }
        }
      for (int wanted = 0; wanted < 2; wanted++)
        RUN (&rig, "nf_shift_in_backward", SIZES (divide_up (D, rig.VW), N, 1), ONE_EACH, BUFFER (d),
             LONG (3), BUFFER (dus), LONG (4), BUFFER (wanted ? dsoss : NONE), LONG (wanted ? 5 : 0),
             INT (wanted), INT (B), INT (N), INT (D));
      for (int m = 0; m < B * N; m++)
        for (int i = 0; i < D; i++)
          if (m % N)
            du[(gsize)(m - 1) * D + i] += 2 * dto[(gsize)m * D + i];
          else
            dsos[i] += dto[(gsize)m * D + i];
      g_autofree float *got = take_at (&rig, dus, 4), *got_sos = take_at (&rig, dsoss, 5);
      nf_test_close_float ("shift, du", got, du, n, TOLERANCE);
      nf_test_close_float ("shift, dsos", got_sos, dsos, D, TOLERANCE);
    }
}

static void
test_prior (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint f = 0; f < G_N_ELEMENTS (flow_features); f++)
    {
      const int M = 7, D = flow_features[f];
      g_autofree double *z = numbers (f, (gsize)M * D, 2), *dz = g_new (double, M *D),
                        *half = g_new (double, M);
      for (int m = 0; m < M; m++)
        {
          half[m] = 0.5 * dot (z + m * D, z + m * D, D);
          for (int i = 0; i < D; i++)
            dz[m * D + i] = 0.25 * z[m * D + i];
        }
      Memory *zs = give_at (&rig, 1, z, (gsize)M * D), *dzs = room (&rig, (gsize)M * D),
             *sums = room (&rig, M);
      RUN (&rig, "nf_prior", SIZES (M, 1, 1), ONE_EACH, BUFFER (zs), LONG (1), BUFFER (dzs), INT (1),
           BUFFER (sums), FLOAT (0.25), INT (D));
      g_autofree float *got_dz = take (&rig, dzs), *got_half = take (&rig, sums);
      nf_test_close_float ("z²/2", got_half, half, M, TOLERANCE);
      nf_test_close_float ("dz", got_dz, dz, (gsize)M * D, TOLERANCE);
      /* without dz */
      RUN (&rig, "nf_prior", SIZES (M, 1, 1), ONE_EACH, BUFFER (zs), LONG (1), BUFFER (NONE), INT (0),
           BUFFER (sums), FLOAT (1), INT (D));
    }
}

static void
test_reorder (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  const int B = 2, N = 6, D = FEATURES;
  g_autofree double *x = numbers (1, (gsize)B * N * D, 1), *scale = numbers (2, (gsize)N * D, 1),
                    *want = g_new (double, B *N *D);
  for (int way = 0; way < 3; way++)
    for (int scaled = 0; scaled < 2; scaled++)
      {
        const int flip = way > 0, frame = way == 1 ? N : 3;
        for (int b = 0; b < B; b++)
          for (int n = 0; n < N; n++)
            for (int i = 0; i < D; i++)
              {
                const int m = flipped (n, frame, flip);
                want[(b * N + n) * D + i] = x[(b * N + m) * D + i] * (scaled ? scale[m * D + i] : 1);
              }
        Memory *in = give_at (&rig, 1, x, (gsize)B * N * D), *out = room (&rig, 2 + (gsize)B * N * D),
               *s = give_at (&rig, 3, scale, (gsize)N * D);
        RUN (&rig, "nf_reorder", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (in), LONG (1), BUFFER (out), LONG (2),
             INT (N), INT (D), INT (flip), INT (frame), BUFFER (s), LONG (3), INT (scaled));
        g_autofree float *got = take_at (&rig, out, 2);
        nf_test_close_float ("order", got, want, (gsize)B * N * D, 1e-7);
      }
}

static void
test_grid (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  const int side = 3, tiles_x = 2, tiles_y = 2, tile0 = 1, tiles = 3, D = 5, width = side * tiles_x;
  const gsize n_tokens = (gsize)tiles * side * side * D, n_grid = (gsize)width * side * tiles_y * D;
  g_autofree double *tokens = numbers (1, n_tokens, 1);
  Memory *in = give_at (&rig, 2, tokens, n_tokens), *grid = room (&rig, n_grid),
         *back = room (&rig, 3 + n_tokens);
  RUN (&rig, "nf_grid", SIZES (side * side, tiles, 1), ONE_EACH, BUFFER (in), LONG (2), BUFFER (grid),
       INT (tile0), INT (tiles_x), INT (side), INT (side), INT (D), INT (1));
  RUN (&rig, "nf_grid", SIZES (side * side, tiles, 1), ONE_EACH, BUFFER (back), LONG (3), BUFFER (grid),
       INT (tile0), INT (tiles_x), INT (side), INT (side), INT (D), INT (0));
  g_autofree float *got = take (&rig, grid), *again = take_at (&rig, back, 3);
  for (int t = 0; t < tiles; t++)
    for (int n = 0; n < side * side; n++)
      for (int i = 0; i < D; i++)
        {
          const int y = (tile0 + t) / tiles_x * side + n / side, x = (tile0 + t) % tiles_x * side + n % side;
          const gsize at = ((gsize)t * side * side + n) * D + i;
          assert_true ((double)got[((gsize)y * width + x) * D + i] == tokens[at]);
          assert_true ((double)again[at] == tokens[at]);
        }
  /* the tile that is not ours */
  check_untouched ("the first tile", got, (gsize)side * D);
}

static void
test_class_and_position (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  const int B = 3, N = 4, d = 19, classes = 5;
  const cl_int labels[] = { 2, -1, 2 };
  const gsize n = (gsize)B * N * d, n_E = (gsize)classes * d;
  g_autofree double *h = numbers (1, n, 1), *E = numbers (2, n_E, 1), *dE = numbers (3, n_E, 1),
                    *dpos = numbers (4, (gsize)N * d, 1);
  Memory *hs = give_at (&rig, 1, h, n), *Es = give_at (&rig, 2, E, n_E), *dh = give_at (&rig, 1, h, n),
         *dEs = give_at (&rig, 3, dE, n_E), *dposs = give_at (&rig, 4, dpos, (gsize)N * d),
         *label = room (&rig, B);
  put (&rig, label, 0, (const float *)labels, B);
  RUN (&rig, "nf_class_embed", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (hs), LONG (1), BUFFER (Es), LONG (2),
       BUFFER (label), INT (N), INT (d), INT (classes));
  RUN (&rig, "nf_class_embed_backward", SIZES (d, classes, 1), ONE_EACH, BUFFER (dh), LONG (1), BUFFER (dEs),
       LONG (3), BUFFER (label), INT (B), INT (N), INT (d), INT (classes));
  RUN (&rig, "nf_position_backward", SIZES (d, N, 1), ONE_EACH, BUFFER (dh), LONG (1), BUFFER (dposs),
       LONG (4), INT (B), INT (N), INT (d), INT (1), INT (2));
  g_autofree double *want = g_memdup2 (h, n * sizeof (double));
  for (int b = 0; b < B; b++)
    for (int t = 0; t < N; t++)
      for (int i = 0; i < d; i++)
        {
          const gsize at = ((gsize)b * N + t) * d + i;
          for (int c = 0; c < classes; c++)
            if (labels[b] == c || labels[b] < 0)
              {
                const double share = labels[b] < 0 ? 1.0 / classes : 1;
                want[at] += share * E[(gsize)c * d + i];
                dE[(gsize)c * d + i] += share * h[at];
              }
          dpos[(gsize)flipped (t, 2, 1) * d + i] += h[at];
        }
  g_autofree float *got = take_at (&rig, hs, 1), *got_E = take_at (&rig, dEs, 3),
                   *got_pos = take_at (&rig, dposs, 4);
  nf_test_close_float ("class embedding", got, want, n, TOLERANCE);
  nf_test_close_float ("its gradient", got_E, dE, n_E, TOLERANCE);
  nf_test_close_float ("gradient of positions", got_pos, dpos, (gsize)N * d, TOLERANCE);
}

int
main (int argc, char **argv)
{
  static const KernelTest tests[] = {
    { "affine", test_affine },
    { "affine inverse", test_affine_inverse },
    { "drafts", test_drafts },
    { "there and back", test_affine_there_and_back },
    { "lattices", test_affine_lattices },
    { "ties", test_affine_ties },
    { "snapped", test_affine_snapped },
    { "corrections", test_affine_corrections },
    { "shift in", test_shift_in },
    { "prior", test_prior },
    { "reorder", test_reorder },
    { "grid", test_grid },
    { "class and position", test_class_and_position },
  };
  return run_kernel_tests ("kernels-flow", tests, G_N_ELEMENTS (tests), argc, argv);
}
