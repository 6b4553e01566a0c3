/* normflow: kernels of heads and attention. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernels-fixture.h"

/* Heads */

/* nf_heads and nf_heads_backward on one layout of rows. */
typedef struct
{
  int B, count, H, Hkv, DH, normed, rotated, half_split, in_place, row, batch, position0, positions;
} HeadsCase;

/* y of x, one head, by w (1 + offset) and the angles of a position. */
static void
turn_head (const HeadsCase *c, const double *x, const double *w, const double *angles, double *y)
{
  double square = 0;
  for (int i = 0; i < c->DH; i++)
    square += x[i] * x[i] / c->DH;
  for (int i = 0; i < c->DH; i++)
    y[i] = c->normed ? x[i] / sqrt (square + 1e-6) * (1 + w[i]) : x[i];
  for (int i = 0; i < c->DH / 2 && c->rotated; i++)
    {
      double *a = y + (c->half_split ? i : 2 * i), *b = c->half_split ? a + c->DH / 2 : a + 1;
      const double cosine = angles[2 * i], sine = angles[2 * i + 1], was = *a;
      *a = was * cosine - *b * sine;
      *b = *b * cosine + was * sine;
    }
}

/* dx from dy of the same, dw += . */
static void
turn_head_back (const HeadsCase *c, const double *x, const double *w, const double *angles, double *dy,
                double *dw)
{
  for (int i = 0; i < c->DH / 2 && c->rotated; i++)
    {
      double *a = dy + (c->half_split ? i : 2 * i), *b = c->half_split ? a + c->DH / 2 : a + 1;
      const double cosine = angles[2 * i], sine = angles[2 * i + 1], was = *a;
      *a = was * cosine + *b * sine;
      *b = *b * cosine - was * sine;
    }
  if (!c->normed)
    return;
  double square = 0, mean = 0;
  for (int i = 0; i < c->DH; i++)
    square += x[i] * x[i] / c->DH;
  const double r = 1 / sqrt (square + 1e-6);
  for (int i = 0; i < c->DH; i++)
    {
      dw[i] += dy[i] * x[i] * r;
      mean += dy[i] * (1 + w[i]) * x[i] * r / c->DH;
    }
  for (int i = 0; i < c->DH; i++)
    dy[i] = r * (dy[i] * (1 + w[i]) - x[i] * r * mean);
}

static void
check_heads (Rig *rig, const HeadsCase *c)
{
  const int heads = c->H + 2 * c->Hkv, turned = c->H + c->Hkv, DH = c->DH;
  const gsize n = (gsize)(c->B - 1) * c->batch + (gsize)(c->count - 1) * c->row + heads * DH,
              n_table = (gsize)c->positions * DH, n_sums = (gsize)c->B * c->count * turned * DH;
  g_autofree double *x = numbers (1, n, 1), *w = numbers (2, 2 * DH, 0.5), *angles = numbers (3, n_table, 3),
                    *dy = numbers (4, n, 1), *want = g_memdup2 (x, n * sizeof (double)),
                    *want_d = g_memdup2 (dy, n * sizeof (double)), *want_sums = g_new0 (double, n_sums);
  for (gsize i = 0; i < n_table; i += 2)
    {
      angles[i + 1] = (double)(float)sin (angles[i]);
      angles[i] = (double)(float)cos (angles[i]);
    }
  Memory *from = give_at (rig, 1, x, n), *to = c->in_place ? from : give_at (rig, 1, x, n),
         *ws = give_at (rig, 3, w, 2 * DH), *table = give_at (rig, 2, angles, n_table),
         *d = give_at (rig, 4, dy, n), *sums = room (rig, n_sums);
  if (!c->in_place)
    {
      /* rows are written whole, what lies between them is not */
      g_autofree float *nothing = g_new0 (float, heads *DH);
      for (int m = 0; m < c->B * c->count; m++)
        put (rig, to, 1 + (gsize)(m / c->count) * c->batch + (gsize)(m % c->count) * c->row, nothing,
             heads * DH);
    }
  const int shared = rig->gpu ? turned : 1;
  /* before what it reads is overwritten */
  RUN (rig, "nf_heads_backward", SIZES (c->B * c->count, shared, 1), ONE_EACH, BUFFER (from), LONG (1),
       BUFFER (d), LONG (4), BUFFER (ws), LONG (3), BUFFER (ws), LONG (3 + DH), INT (c->normed),
       BUFFER (table), LONG (2), INT (c->rotated), INT (c->half_split), LONG (c->row), LONG (c->batch),
       INT (c->position0), INT (c->count), INT (c->H), INT (c->Hkv), BUFFER (sums));
  RUN (rig, "nf_heads", SIZES (c->B * c->count, shared, 1), ONE_EACH, BUFFER (from), LONG (1), BUFFER (to),
       LONG (1), BUFFER (ws), LONG (3), BUFFER (ws), LONG (3 + DH), INT (c->normed), BUFFER (table), LONG (2),
       INT (c->rotated), INT (c->half_split), LONG (c->row), LONG (c->batch), INT (c->position0),
       INT (c->count), INT (c->H), INT (c->Hkv), INT (c->in_place ? turned : heads));
  for (int m = 0; m < c->B * c->count; m++)
    for (int h = 0; h < turned; h++)
      {
        const int r = m % c->count;
        const gsize at = (gsize)(m / c->count) * c->batch + (gsize)r * c->row + h * DH;
        const double *weight = w + (h < c->H ? 0 : DH), *angle = angles + (gsize)(c->position0 + r) * DH;
        turn_head (c, x + at, weight, angle, want + at);
        turn_head_back (c, x + at, weight, angle, want_d + at, want_sums + ((gsize)m * turned + h) * DH);
      }
  g_autofree float *got = take_at (rig, to, 1), *got_d = take_at (rig, d, 4), *got_sums = take (rig, sums);
  nf_test_close_float ("heads", got, want, n, TOLERANCE);
  nf_test_close_float ("heads, backward", got_d, want_d, n, TOLERANCE);
  if (c->normed)
    nf_test_close_float ("heads, what dw is the sum of", got_sums, want_sums, n_sums, TOLERANCE);
  else
    check_untouched ("what dw is the sum of", got_sums, n_sums);
}

static void
test_heads (void **state)
{
  static const int sizes[] = { HEAD_DIM, 6, 64 };
  for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
    {
      g_auto (Rig) rig;
      rig_init (&rig, *state, sizes[s]);
      for (int bits = 0; bits < 16; bits++)
        {
          HeadsCase c = { .B = 2,
                          .count = 3,
                          .H = 4,
                          .Hkv = 2,
                          .DH = sizes[s],
                          .normed = bits & 1,
                          .rotated = bits >> 1 & 1,
                          .half_split = bits >> 2 & 1,
                          .in_place = bits >> 3,
                          .row = 8 * sizes[s] + 5,
                          .batch = 4 * (8 * sizes[s] + 5),
                          .position0 = 2,
                          .positions = 5 };
          check_heads (&rig, &c);
        }
    }
}

/* Attention */

/* Which keys queries meet: NfMask of nf-ops.h. */
typedef struct
{
  int frames, prefix, frame, ahead, window;
} Mask;

/* qkv (B, N, (H + 2 Hkv) DH) of B samples, as attention reads it and as it was given; the keys and values as
 * nf_append left them. */
typedef struct
{
  int B, H, Hkv, N, DH, d, row, blocks;
  Mask mask;
  double *qkv, *given;
  Memory *in, *keys;
  Memory *key_blocks, *value_blocks; /* for the backward pass */
  Memory *left;                      /* NULL, or qkv in left rows, which are then read */
  int left_step;
} Heads;

static void
heads_clear (Heads *h)
{
  g_free (h->qkv);
  g_free (h->given);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Heads, heads_clear)

/* Where the query, key or value heads begin in a row. */
static int
head_part (const Heads *h, int part)
{
  return part == 0 ? 0 : h->d + (part - 1) * h->Hkv * h->DH;
}

/* Floats of the keys and values of a sample, or words of them. */
static gsize
keys_size (Rig *rig, const Heads *h)
{
  const gsize features = rig->half_keys
                             ? h->DH + 2 * divide_up (h->DH, rig->NR) * rig->VW
                             : 2 * (rig->amx && rig->rounds ? divide_up (h->DH, 32) * 16 : (gsize)h->DH);
  return h->Hkv * h->blocks * features * rig->VW / (rig->half_keys ? 2 : 1);
}

static Memory *
append (Rig *rig, const Heads *h, int part, gboolean values_too)
{
  Memory *keys = room (rig, h->B * keys_size (rig, h));
  const int row = h->left ? h->left_step : h->row, at = head_part (h, part) / (h->left ? 2 : 1);
  const int rows = (rig->amx && rig->rounds) || rig->half_keys ? rig->NR : rig->VW; /* of a block */
  /* in goes, as decoding does it; some rows come when those on both sides are there, which they must leave
   * alone. A block for the matrix unit begins with its first row. */
  const int half = h->N / 2, ends[] = { 0, half, MIN (half + 1, h->N), MIN (half + 6, h->N), h->N };
  static const int ascending[] = { 0, 1, 2, 3 }, last_between[] = { 0, 1, 3, 2 };
  const int *goes = rig->amx && rig->rounds ? ascending : last_between;
  for (int go = 0; go < 4; go++)
    {
      const int n0 = ends[goes[go]], count = ends[goes[go] + 1] - n0;
      if (count > 0)
        RUN (rig, "nf_append",
             SIZES (rig->gpu ? count : (n0 + count - 1) / rows - n0 / rows + 1, h->Hkv, h->B), ONE_EACH,
             BUFFER (h->left ? h->left : h->in), LONG ((gsize)n0 * row + at), INT (row),
             LONG ((gsize)h->N * row), BUFFER (keys), LONG (0), INT (n0), INT (count), INT (h->blocks),
             INT (h->Hkv), INT (values_too | (h->left ? 2 : 0)));
    }
  return keys;
}

static void
heads_init (Rig *rig, Heads *h, int B, int H, int Hkv, int N, int DH, const Mask *mask, double spread)
{
  *h = (Heads){ .B = B,
                .H = H,
                .Hkv = Hkv,
                .N = N,
                .DH = DH,
                .d = H * DH,
                .row = (H + 2 * Hkv) * DH,
                .blocks = 2 * (int)divide_up (N, rig->NR) };
  const gsize n = (gsize)B * N * h->row;
  if (mask)
    h->mask = *mask;
  h->qkv = numbers (11, n, spread);
  h->given = g_memdup2 (h->qkv, n * sizeof *h->qkv);
  h->in = give (rig, h->qkv, n);
  h->keys = append (rig, h, 1, TRUE);
  if (!rig->amx)
    {
      h->key_blocks = append (rig, h, 1, FALSE);
      h->value_blocks = append (rig, h, 2, FALSE);
    }
  if (rig->amx)
    round_right (rig, h->qkv, 1, (int)n);
  for (gsize i = 0; rig->half_keys && i < n; i++)
    if (i % (gsize)h->row >= (gsize)h->d)
      h->qkv[i] = round_to_bf16 (h->qkv[i]);
}

/* HEAD is a query head; its keys and values are those that it shares with others. */
static const double *
head_row (const Heads *h, int part, int b, int n, int head)
{
  const int of_part = part ? head / (h->H / h->Hkv) : head;
  return h->qkv + ((gsize)b * h->N + n) * h->row + head_part (h, part) + of_part * h->DH;
}

static gboolean
meets (const Mask *m, int query, int key)
{
  const int of_query = query < m->prefix ? -1
                       : m->frame        ? (query - m->prefix) / m->frame
                                         : 0,
            of_key = key < m->prefix ? -1
                     : m->frame      ? (key - m->prefix) / m->frame
                                     : 0;
  if (!m->frames)
    return key <= query && (!m->window || of_query < 0 || of_key < 0 || of_key >= of_query - m->window);
  if (of_key < 0)
    return TRUE;
  /* a prefix as frames before the first */
  const int least = of_query < 0 ? -(int)divide_up (m->prefix - query, m->frame) : of_query;
  return of_key >= least + m->ahead - 1 - m->window && of_key <= MAX (of_query, 0) + m->ahead - 1;
}

static cl_int8
kernel_mask (const Heads *h)
{
  const Mask *m = &h->mask;
  const gboolean framed = m->frames || m->window;
  return (cl_int8){ { !m->frames, m->prefix, framed ? m->frame : 0, m->frames ? m->ahead - 1 : 0, m->window,
                      h->N } };
}

/* P (N) of one query, its maximum and its sum. */
static void
softmax (const Heads *h, int b, int n, int head, double scale, double *P, double *m, double *l)
{
  *m = -INFINITY;
  *l = 0;
  for (int j = 0; j < h->N; j++)
    {
      P[j] = scale * dot (head_row (h, 0, b, n, head), head_row (h, 1, b, j, head), h->DH);
      *m = meets (&h->mask, n, j) ? MAX (*m, P[j]) : *m;
    }
  for (int j = 0; j < h->N; j++)
    {
      P[j] = meets (&h->mask, n, j) ? exp (P[j] - *m) : 0;
      *l += P[j];
    }
  for (int j = 0; j < h->N; j++)
    P[j] /= *l > 0 ? *l : 1;
}

/* Of what is made of weights of softmax in bfloat16. */
#define WEIGHT_TOLERANCE 2e-3
#define GRADIENT_TOLERANCE 5e-3

/* Words of a row on the left of a product, and some that stay. */
#define LEFT_STEP(rig, h) (((rig)->planes > 1 ? left_words (rig, (h)->d) : (int)left_width (rig, (h)->d)) + 5)

/* Queries q0 .. q0+Nq-1 of samples b0 .. b0+B-1; out (B, Nq, d), stats (B, H, Nq, 2). */
static float *
run_attention (Rig *rig, const Heads *h, int b0, int B, int q0, int Nq, double scale, double scale2,
               int split, gboolean left, Memory **stats, Memory **out_memory)
{
  const int step = left ? LEFT_STEP (rig, h) : h->d;
  const int row = h->left ? h->left_step : h->row;
  const gsize sample = (gsize)h->N * row;
  const size_t group = rig->gpu ? NF_GROUP : 1;
  const gsize keys_at = b0 * keys_size (rig, h);
  const cl_int8 mask = kernel_mask (h);
  Memory *out = room (rig, 3 + (gsize)B * Nq * step), *kept = room (rig, (gsize)B * h->H * Nq * 2);
  RUN (rig, "nf_attention", SIZES (divide_up (Nq, rig->gpu ? NF_QUERIES_OF_GPU : rig->QT) * group, h->H, B),
       SIZES (group, 1, 1), BUFFER (h->left ? h->left : h->in), LONG (b0 * sample + (gsize)q0 * row),
       INT (row), LONG (sample), BUFFER (h->keys), LONG (keys_at), INT (h->blocks), BUFFER (out), LONG (3),
       INT (step), LONG ((gsize)Nq * step), INT (left | (h->left ? 2 : 0)), BUFFER (kept),
       INT (stats != NULL), INT (q0), INT (Nq), FLOAT (scale), FLOAT (scale2), INT (split), INT (h->H),
       INT (h->Hkv), VALUE (mask));
  if (stats)
    *stats = kept;
  if (out_memory)
    *out_memory = out;
  return take_at (rig, out, 3);
}

static void
check_attention (Rig *rig, int B, int H, int Hkv, int N, int DH, const Mask *mask, double spread)
{
  g_auto (Heads) h;
  heads_init (rig, &h, B, H, Hkv, N, DH, mask, spread);
  /* scales exact in single precision */
  const double scale = (double)(float)(1 / sqrt (DH)), scale2 = (double)(float)(0.7 / sqrt (DH));
  const int split = B - 1;
  Memory *stats;
  g_autofree float *out = run_attention (rig, &h, 0, B, 0, N, scale, scale2, split, FALSE, &stats, NULL);
  g_autofree float *got_stats = take (rig, stats);
  g_autofree double *want = g_new0 (double, (gsize)B *N *h.d), *P = g_new (double, N),
                    *want_stats = g_new (double, (gsize)B *H *N * 2);
  for (int b = 0; b < B; b++)
    for (int head = 0; head < H; head++)
      for (int n = 0; n < N; n++)
        {
          const gsize at = (((gsize)b * H + head) * N + n) * 2;
          double *s = want_stats + at;
          softmax (&h, b, n, head, b < split ? scale : scale2, P, &s[0], &s[1]);
          if (!(s[1] > 0))
            {
              assert_true (isinf (got_stats[at]) && got_stats[at + 1] <= 0);
              s[0] = 0;
              got_stats[at] = 0;
            }
          for (int j = 0; j < N; j++)
            for (int e = 0; e < DH; e++)
              want[((gsize)b * N + n) * h.d + head * DH + e] += P[j] * head_row (&h, 2, b, j, head)[e];
        }
  /* a score of size s is known to s times the rounding error, and so is its exponential */
  const double tolerance = TOLERANCE * MAX (1, spread * spread);
  nf_test_close_float ("attention", out, want, (gsize)B * N * h.d,
                       rig->coarse ? WEIGHT_TOLERANCE : tolerance);
  if (h.d % 2 == 0)
    {
      Memory *left;
      g_autofree float *words = run_attention (rig, &h, 0, B, 0, N, scale, scale2, split, TRUE, NULL, &left);
      check_left (rig, "attention, left", left, 3, LEFT_STEP (rig, &h), out, B * N, h.d);
    }
  nf_test_close_float ("statistics of the softmax", got_stats, want_stats, (gsize)B * H * N * 2,
                       rig->coarse && rig->mma ? WEIGHT_TOLERANCE : tolerance);

  /* alone, one by one and a few at a time: the same bits */
  for (int n = 0; n < N; n += 1 + n / 3)
    for (int count = 1; count <= MIN (4, N - n); count += 3)
      {
        const int b = B - 1;
        g_autofree float *alone
            = run_attention (rig, &h, b, 1, n, count, scale, scale2, b < split ? 1 : 0, FALSE, NULL, NULL);
        assert_memory_equal (alone, out + ((gsize)b * N + n) * h.d, (gsize)count * h.d * sizeof (float));
      }
}

static void
test_attention (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  check_attention (&rig, 1, 1, 1, 1, HEAD_DIM, NULL, 1);
  check_attention (&rig, 3, 2, 2, 37, HEAD_DIM, NULL, 1);
  check_attention (&rig, 2, 1, 1, 70, HEAD_DIM, NULL, 1);
  /* query heads that share keys */
  check_attention (&rig, 2, 6, 2, 37, HEAD_DIM, NULL, 1);
  check_attention (&rig, 2, 3, 1, 33, HEAD_DIM, NULL, 1);
  /* scores of hundreds: one key takes all */
  check_attention (&rig, 2, 1, 1, 40, HEAD_DIM, NULL, 12);
  /* more keys than softmax is brought up to date for at a time */
  check_attention (&rig, 1, 1, 1, 300, HEAD_DIM, NULL, 3);
}

/* What comes out, as a product by the matrix unit reads it: as sums of two or three bfloat16. */
static void
test_attention_planes (void **state)
{
  g_auto (Rig) rig;
  const int B = 2, H = 3, N = 37, DH = 32;
  g_auto (Heads) h;
  Memory *left;
  rig_init (&rig, *state, DH);
  heads_init (&rig, &h, B, H, 1, N, DH, NULL, 1);
  const double scale = (double)(float)(1 / sqrt (DH));
  const int step = LEFT_STEP (&rig, &h), width = left_words (&rig, h.d);
  g_autofree float *floats = run_attention (&rig, &h, 0, B, 0, N, scale, scale, B, FALSE, NULL, NULL),
                   *words = run_attention (&rig, &h, 0, B, 0, N, scale, scale, B, TRUE, NULL, &left);
  for (int n = 0; n < B * N; n++)
    {
      const float *got = words + (gsize)n * step;
      for (int e = 0; e < h.d; e++)
        {
          const double want = (double)floats[(gsize)n * h.d + e];
          const double error = fabs ((double)read_left (&rig, got, e) - want);
          assert_true (error <= (rig.planes == 2 ? ldexp (fabs (want), -17) : 0));
        }
      if (n + 1 < B * N)
        check_untouched ("attention, planes", got + width, (gsize)(step - width));
    }
}

/* Queries, keys and values as the product before leaves them for the matrix unit: the bits of floats that are
 * rounded when they are read. */
static void
test_attention_of_left (void **state)
{
  g_auto (Rig) rig;
  static const int sizes[][4] = { { 2, 2, 2, 70 }, { 3, 6, 3, 33 }, { 1, 1, 1, 1 } }; /* B, H, Hkv, N */
  rig_init (&rig, *state, 64);
  if (!rig.amx || !rig.rounds)
    return;
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      const int B = sizes[i][0], N = sizes[i][3];
      g_auto (Heads) h;
      heads_init (&rig, &h, B, sizes[i][1], sizes[i][2], N, 64, NULL, 1);
      g_autofree float *out = run_attention (&rig, &h, 0, B, 0, N, 0.125, 0.125, B, FALSE, NULL, NULL),
                       *keys = take (&rig, h.keys);
      h.left_step = left_words (&rig, h.row) + 5;
      Memory *left = room (&rig, (gsize)B * N * h.left_step);
      RUN (&rig, "nf_make_left", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (h.in), LONG (0), INT (h.row),
           BUFFER (left), INT (h.left_step), INT (h.row));
      h.left = left;
      h.keys = append (&rig, &h, 1, TRUE);
      g_autofree float *keys_of_left = take (&rig, h.keys);
      assert_memory_equal (keys_of_left, keys, B * keys_size (&rig, &h) * sizeof (float));
      g_autofree float *of_left = run_attention (&rig, &h, 0, B, 0, N, 0.125, 0.125, B, FALSE, NULL, NULL);
      assert_memory_equal (of_left, out, (gsize)B * N * h.d * sizeof (float));
    }
}

static void
check_attention_backward (Rig *rig, int B, int H, int Hkv, int N, int DH, const Mask *mask)
{
  g_auto (Heads) h;
  heads_init (rig, &h, B, H, Hkv, N, DH, mask, 1.5);
  const double scale = (double)(float)(1 / sqrt (DH));
  const gsize n_out = (gsize)B * N * h.d, n_qkv = (gsize)B * N * h.row;
  const cl_int8 passed = kernel_mask (&h);
  Memory *stats, *out;
  g_autofree float *values = run_attention (rig, &h, 0, B, 0, N, scale, scale, B, FALSE, &stats, &out);
  g_autofree double *O = nf_test_to_double (values, n_out), *dO = numbers (12, n_out, 1),
                    *want = g_new0 (double, n_qkv), *P = g_new (double, N);
  Memory *dout = give_at (rig, 5, dO, n_out), *dqkv = room (rig, 7 + n_qkv);
  const size_t group = rig->gpu ? NF_GROUP : 1;
  const size_t tiles = 2 * divide_up (N, NF_QUERIES_OF_GPU);
  RUN (rig, "nf_attention_backward",
       SIZES (rig->gpu ? tiles * group : (size_t)Hkv, rig->gpu ? Hkv : B, rig->gpu ? B : 1),
       SIZES (group, 1, 1), BUFFER (h.in), LONG (0), BUFFER (h.key_blocks), BUFFER (h.value_blocks),
       INT (h.blocks), BUFFER (out), LONG (3), BUFFER (dout), LONG (5), BUFFER (stats), BUFFER (dqkv),
       LONG (7), INT (N), INT (H), INT (Hkv), VALUE (passed), FLOAT (scale));
  for (int b = 0; b < B; b++)
    for (int head = 0; head < H; head++)
      for (int n = 0; n < N; n++)
        {
          double m, l;
          const gsize at = ((gsize)b * N + n) * h.d + head * DH;
          const double *g = dO + at, *q = head_row (&h, 0, b, n, head);
          const double own = dot (g, O + at, DH);
          double *dq = want + (q - h.qkv);
          softmax (&h, b, n, head, scale, P, &m, &l);
          for (int j = 0; j < N; j++)
            {
              const double *k = head_row (&h, 1, b, j, head), *v = head_row (&h, 2, b, j, head);
              const double dS = scale * P[j] * (dot (g, v, DH) - own);
              const double *k_given = rig->half_keys ? h.given + (k - h.qkv) : k;
              double *dk = want + (k - h.qkv), *dv = want + (v - h.qkv);
              for (int e = 0; e < DH; e++)
                {
                  dq[e] += dS * k_given[e];
                  dk[e] += dS * q[e];
                  dv[e] += P[j] * g[e];
                }
            }
        }
  g_autofree float *got = take_at (rig, dqkv, 7);
  nf_test_close_float ("attention, backward", got, want, n_qkv, rig->coarse ? GRADIENT_TOLERANCE : TOLERANCE);
}

static void
test_attention_backward (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  check_attention_backward (&rig, 1, 1, 1, 1, HEAD_DIM, NULL);
  check_attention_backward (&rig, 2, 3, 3, 37, HEAD_DIM, NULL);
  check_attention_backward (&rig, 1, 2, 2, 70, HEAD_DIM, NULL);
  check_attention_backward (&rig, 2, 6, 2, 37, HEAD_DIM, NULL);
  /* more queries and keys than are taken at a time */
  check_attention_backward (&rig, 1, 2, 1, 300, HEAD_DIM, NULL);
}

/* Prefixes, frames and windows, with gaps of many blocks between what a query sees. */
static void
test_attention_masks (void **state)
{
  static const struct
  {
    int N;
    Mask mask;
  } cases[] = {
    { 47, { 0, 5, 6, 0, 2 } },     /* causal, a window of two frames back */
    { 150, { 0, 3, 7, 0, 1 } },    /* the same, far from the prefix */
    { 100, { 0, 0, 4, 0, 3 } },    /* no prefix */
    { 47, { 1, 5, 6, 2, 3 } },     /* a denoiser's: one frame ahead */
    { 130, { 1, 5, 5, 2, 2 } },    /* the same, far from the prefix */
    { 24, { 1, 0, 24, 1, 0 } },    /* all meet all */
    { 42, { 1, 2, 8, 1, 100 } },   /* frames up to one's own */
    { 41, { 1, 0, 8, 2, 0 } },     /* the next frame only: the last meets nothing */
    { 141, { 1, 40, 101, 0, 1 } }, /* the frame before only: the first meets the prefix */
    { 61, { 1, 13, 5, 4, 1 } },    /* so far ahead that part of the prefix does not see the first frames */
    { 200, { 1, 40, 6, 9, 2 } },   /* the same, far behind */
    { 33, { 1, 9, 4, 3, 0 } },     /* one frame each */
    { 310, { 0, 3, 20, 0, 1 } },   /* so far from the prefix that whole parts are passed over */
  };
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      check_attention (&rig, 2, 2, 1, cases[i].N, HEAD_DIM, &cases[i].mask, 1);
      check_attention_backward (&rig, 2, 2, 1, cases[i].N, HEAD_DIM, &cases[i].mask);
    }
}

/* Heads of other sizes are other programs; of the last the GPU form does not unroll its loops over chunks. */
static void
test_head_sizes (void **state)
{
  static const int sizes[] = { 4, 64, 80, 257 };
  const Setting *setting = *state;
  const guint n = G_N_ELEMENTS (sizes) - (strcmp (setting->variant, "gpu") == 0 ? 0 : 1);
  for (guint i = 0; i < n; i++)
    {
      g_auto (Rig) rig;
      rig_init (&rig, setting, sizes[i]);
      check_attention (&rig, 2, 2, 1, 41, sizes[i], NULL, 1);
      check_attention_backward (&rig, 2, 2, 1, 41, sizes[i], NULL);
    }
}

int
main (int argc, char **argv)
{
  static const KernelTest tests[] = {
    { "heads", test_heads },
    { "attention", test_attention, ATTENTION },
    { "attention of left rows", test_attention_of_left, ATTENTION },
    { "attention backward", test_attention_backward, ATTENTION },
    { "attention in planes", test_attention_planes, PLANES },
    { "attention masks", test_attention_masks, ATTENTION },
    { "head sizes", test_head_sizes, ATTENTION },
  };
  return run_kernel_tests ("kernels-attention", tests, G_N_ELEMENTS (tests), argc, argv);
}
