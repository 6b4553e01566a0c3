/* normflow: kernels of products, and of sums beside them. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernels-fixture.h"

#include <float.h>

/* A column of a matrix into a panel: its scale, then integers, four in a word on a GPU and for the matrix
 * unit, else by rows, or, for vpmaddwd, by pairs of rows. */
static void
pack_bytes (const Rig *rig, const double *x, int rows, gsize row_step, float *panel, int column)
{
  const int NR = rig->NR;
  gint8 *bytes = (gint8 *)(panel + NR);
  float largest = 0;
  for (int row = 0; row < rows; row++)
    {
      const float size = fabsf ((float)x[row * row_step]);
      largest = size > largest || isnan (size) ? size : largest;
    }
  const float scale = panel[column] = largest / 127.0f;
  for (int row = 0; row < rows; row++)
    {
      const gsize at = rig->gpu || rig->amx ? ((gsize)(row / 4) * NR + column) * 4 + row % 4
                       : rig->madd          ? ((gsize)(row / 2) * NR + column) * 2 + row % 2
                                            : (gsize)row * NR + column;
      bytes[at] = scale > 0 && isfinite (scale) ? (gint8)rintf ((float)x[row * row_step] / scale) : 0;
    }
}

/* Panels of NR columns of a matrix (rows, columns), element (row, column) at row·row_step +
 * column·column_step. */
static float *
pack (const Rig *rig, const double *W, int rows, int columns, gsize row_step, gsize column_step)
{
  const int NR = rig->NR, n = elements (rig, rows), step = rig->bf16 ? 2 : 1;
  const gsize panels = divide_up (columns, NR);
  float *packed = g_new0 (float, panels *n *NR);
  for (int column = 0; rig->bytes && column < columns; column++)
    pack_bytes (rig, W + column * column_step, rows, row_step, packed + (gsize)(column / NR) * n * NR,
                column % NR);
  for (int row = 0; !rig->bytes && row < rows; row++)
    for (int column = 0; column < columns; column++)
      {
        const double x = W[row * row_step + column * column_step];
        float *to = &packed[((gsize)(column / NR) * n + row / step) * NR + column % NR];
        guint32 word;
        if (!rig->bf16)
          {
            *to = (float)x;
            continue;
          }
        memcpy (&word, to, sizeof word);
        word |= to_bf16 (x) << (row % 2 * 16);
        memcpy (to, &word, sizeof word);
      }
  return packed;
}

/* X_at and ld are of X (rows, columns), or (columns, rows) if transposed. */
static void
run_pack (Rig *rig, const Memory *X, gsize X_at, int ld, const Memory *panels, gsize panels_at, int rows,
          int columns, int width, int transposed)
{
  const size_t n = divide_up (columns, width);
  const size_t cpu[3] = { rig->bytes ? 1 : divide_up (rows, NF_PACK_ROWS), n, 1 };
  const size_t gpu[3]
      = { divide_up (n * width, NF_GROUP) * NF_GROUP, rig->bytes ? 1 : elements (rig, rows), 1 };
  RUN (rig, "nf_pack", rig->gpu ? gpu : cpu, SIZES (rig->gpu ? NF_GROUP : 1, 1, 1), BUFFER (X), LONG (X_at),
       INT (ld), BUFFER (panels), LONG (panels_at), INT (rows), INT (columns), INT (width), INT (transposed));
}

static void
test_pack (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[][2] = { { 1, 1 }, { 5, 40 }, { 33, 7 }, { 64, 65 }, { 130, 32 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (int transposed = 0; transposed < 2; transposed++)
      {
        const int N = sizes[i][0], K = sizes[i][1];
        const int rows = transposed ? K : N, columns = transposed ? N : K;
        const gsize panels = divide_up (columns, rig.NR), n = panels * elements (&rig, rows) * rig.NR;
        g_autofree double *W = numbers (i, (gsize)N * K, 1);
        Memory *in = give_at (&rig, 3, W, (gsize)N * K), *out = room (&rig, 5 + n);
        run_pack (&rig, in, 3, K, out, 5, rows, columns, rig.NR, transposed);
        g_autofree float *got = take_at (&rig, out, 5);
        g_autofree float *want
            = pack (&rig, W, rows, columns, transposed ? 1 : (gsize)K, transposed ? (gsize)K : 1);
        assert_memory_equal (got, want, n * sizeof (float));
      }
}

enum
{
  BIAS = 1,
  GELU = 2,
  RESIDUAL = 4,
  SAVE = 8,
  ACCUMULATE = 16,
  GELU_SLOPE = 32,
  PANELS = 64,
  LEFT = 128,
  ROUND = 256,
};

/* C (rows ldc apart) of one launch; every optional operand is there whether FLAGS use it or not. */
typedef struct
{
  int M, N, K, lda, ldc, ldr, rmod, flags;
  gboolean rows; /* B is given as it is, not packed */
  int panels;    /* of a work-item of many rows by the matrix unit, or 0 for one */
  double *A, *W, *bias, *R, *C, *P;
  float *P_words;   /* P as left rows, if it is such */
  gboolean of_left; /* few rows of integers are left rows before the product */
} Product;

static void
product_clear (Product *p)
{
  g_free (p->A);
  g_free (p->W);
  g_free (p->bias);
  g_free (p->R);
  g_free (p->C);
  g_free (p->P);
  g_free (p->P_words);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Product, product_clear)

static void
product_init (const Rig *rig, Product *p, int M, int N, int K, int flags, double spread)
{
  g_assert (M > 0 && N > 0 && K > 0);
  *p = (Product){
    .M = M, .N = N, .K = K, .lda = K + 3, .ldc = N + 5, .ldr = N + 2, .rmod = 5, .flags = flags
  };
  p->A = numbers (1, (gsize)M * p->lda, spread);
  p->W = numbers (2, (gsize)K * N, 1);
  round_left (rig, p->A, M, K, p->lda);
  round_right (rig, p->W, K, N);
  p->bias = numbers (3, N, spread);
  p->R = numbers (4, (gsize)p->rmod * p->ldr, spread);
  p->C = numbers (5, (gsize)M * p->ldc, spread);
  p->P = numbers (6, (gsize)M * N, 3);
}

#define MATMUL_GROUP(rig) SIZES ((rig)->gpu ? NF_GROUP_X : 1, (rig)->gpu ? NF_GROUP_Y : 1, 1)

/* Rows first .. first+count-1 of the product; P, unless NULL, gets what was saved. */
static float *
run_product (Rig *rig, const Product *p, int first, int count, int tiles, float **saved)
{
  g_autofree float *packed = pack (rig, p->W, p->K, p->N, p->N, 1);
  const gsize panels = divide_up (p->N, rig->NR),
              n = p->rows ? (gsize)p->K * p->N : panels * elements (rig, p->K) * rig->NR;
  Memory *A = give_at (rig, 7, p->A + (gsize)first * p->lda, (gsize)count * p->lda - 3),
         *B = room (rig, 16 + n), *bias = give_at (rig, 1, p->bias, p->N),
         *R = give_at (rig, 2, p->R, (gsize)p->rmod * p->ldr - 2),
         *C = give_at (rig, 3, p->C + (gsize)first * p->ldc, (gsize)count * p->ldc - 5),
         *P = give_at (rig, 4, p->P + (gsize)first * p->N, (gsize)count * p->N), *before = P;
  gsize A_at = 7;
  int lda = p->lda, ldb = p->rows ? p->N : 0, flags = p->flags;
  g_autofree float *rows = nf_test_to_float (p->W, (gsize)p->K * p->N);
  put (rig, B, 16, p->rows ? rows : packed, n);
  if (p->P_words)
    put (rig, P, 4, p->P_words, (gsize)count * p->N);
  const gboolean few = rig->madd && count <= 2 && !(flags & (SAVE | GELU_SLOPE));
  if (few && !p->of_left) /* each work-item has left rows of its own */
    {
      flags |= ROUND;
      ldb = left_words (rig, p->K) + 3;
      before = room (rig, 4 + panels * count * ldb);
    }
  else if (rig->rounds || rig->amx || rig->madd)
    {
      lda = left_words (rig, p->K) + 5;
      Memory *halved = room (rig, (gsize)count * lda);
      const size_t words = divide_up (elements (rig, p->K), NF_GROUP) * NF_GROUP;
      RUN (rig, "nf_make_left", rig->gpu ? SIZES (words, count, 1) : SIZES (count, 1, 1),
           SIZES (rig->gpu ? NF_GROUP : 1, 1, 1), BUFFER (A), LONG (7), INT (p->lda), BUFFER (halved),
           INT (lda), INT (p->K));
      A = halved;
      A_at = 0;
    }
  const size_t tile = (size_t)rig->MR * tiles;
  const gsize each = rig->amx && !few ? MAX (p->panels, 1)
                     : count > 2      ? 1
                                      : 1 + 3 * tiles % 8; /* panels of a work-item */
  const size_t cpu[3] = { divide_up (panels, each), divide_up (count, tile), 1 };
  const size_t gpu[3]
      = { divide_up (p->N, NF_TILE_N) * NF_GROUP_X, divide_up (count, NF_TILE_M) * NF_GROUP_Y, 1 };
  RUN (rig, "nf_matmul", rig->gpu ? gpu : cpu, MATMUL_GROUP (rig), BUFFER (A), LONG (A_at), INT (lda),
       BUFFER (B), LONG (16), BUFFER (bias), LONG (1), BUFFER (R), LONG (2), INT (p->ldr), INT (p->rmod),
       BUFFER (C), LONG (3), INT (p->ldc), BUFFER (before), LONG (4), INT (count), INT (p->N),
       INT (rig->amx || !rig->rounds ? p->K : elements (rig, p->K)), INT (flags), INT (tiles), INT (ldb));
  g_autofree float *all = take_at (rig, P, 4);
  if (saved)
    *saved = g_steal_pointer (&all);
  return take_at (rig, C, 3);
}

static void
check_product (Rig *rig, const Product *p, int tiles)
{
  g_autofree float *saved = NULL;
  g_autofree float *got = run_product (rig, p, 0, p->M, tiles, &saved);
  const gsize n = (gsize)p->M * p->ldc - 5;
  g_autofree double *want = g_memdup2 (p->C, n * sizeof (double)),
                    *want_saved = g_memdup2 (p->P, (gsize)p->M * p->N * sizeof (double));
  for (int m = 0; m < p->M; m++)
    for (int j = 0; j < p->N; j++)
      {
        double v = 0, *c = want + (gsize)m * p->ldc + j, *P = want_saved + (gsize)m * p->N + j;
        for (int k = 0; k < p->K; k++)
          v += p->A[(gsize)m * p->lda + k] * p->W[(gsize)k * p->N + j];
        if (p->flags & BIAS)
          v += p->bias[j];
        if (p->flags & SAVE)
          *P = v;
        if (p->flags & GELU)
          v = gelu (v);
        if (p->flags & GELU_SLOPE)
          v *= gelu_slope (*P);
        if (p->flags & RESIDUAL)
          v += p->R[(gsize)(m % p->rmod) * p->ldr + j];
        *c = p->flags & ACCUMULATE ? v + *c : v;
      }
  g_autofree char *what = g_strdup_printf ("%d×%d×%d, flags %d", p->M, p->N, p->K, p->flags);
  const double tolerance = rig->mma && rig->bf16 && !rig->rounds ? SPLIT_TOLERANCE : PRODUCT_TOLERANCE;
  nf_test_close_float (what, got, want, n,
                       rig->rounds && p->flags & (GELU | GELU_SLOPE) ? SHORT_GELU_TOLERANCE : tolerance);
  nf_test_close_float (what, saved, want_saved, (gsize)p->M * p->N, tolerance);
  /* what lies between rows stays */
  for (int m = 0; m + 1 < p->M; m++)
    for (int j = p->N; j < p->ldc; j++)
      assert_true ((double)got[(gsize)m * p->ldc + j] == p->C[(gsize)m * p->ldc + j]);
}

static void
test_matmul (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[][3] = { { 1, 1, 1 },      { 2, 3, 40 },     { 7, 33, 5 },   { 13, 70, 129 },
                                  { 48, 16, 64 },   { 67, 100, 31 },  { 32, 32, 32 }, { 49, 33, 520 },
                                  { 75, 45, 1090 }, { 1, 150, 1090 }, { 2, 150, 71 }, { 1, 230, 71 } };
  static const int flags[] = { 0,
                               BIAS,
                               BIAS | GELU,
                               BIAS | GELU | SAVE,
                               BIAS | RESIDUAL,
                               GELU_SLOPE,
                               ACCUMULATE,
                               BIAS | SAVE | GELU | RESIDUAL | ACCUMULATE };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (guint f = 0; f < G_N_ELEMENTS (flags); f++)
      {
        g_auto (Product) p;
        product_init (&rig, &p, sizes[i][0], sizes[i][1], sizes[i][2], flags[f], 1);
        check_product (&rig, &p, 1 + f % 3);
        if (!rig.amx || rig.bytes)
          continue;
        /* the same of B as it is */
        g_autofree float *packed = run_product (&rig, &p, 0, p.M, 2, NULL);
        p.rows = TRUE;
        g_autofree float *as_it_is = run_product (&rig, &p, 0, p.M, 2, NULL);
        for (int m = 0; m < p.M; m++)
          assert_memory_equal (packed + (gsize)m * p.ldc, as_it_is + (gsize)m * p.ldc, p.N * sizeof (float));
      }
  /* sums of the largest integers that there are */
  for (int few = 0; few < 2; few++)
    {
      g_auto (Product) p;
      product_init (&rig, &p, few ? 1 : 14, 70, 1090, 0, 1);
      for (gsize i = 0; i < (gsize)p.M * p.lda; i++)
        p.A[i] = 1;
      for (gsize i = 0; i < (gsize)p.K * p.N; i++)
        p.W[i] = i % p.N % 2 ? 1 : -1;
      check_product (&rig, &p, 2);
    }
  /* where nothing overflows, the size of the values plays no part */
  static const double spreads[] = { 1e-18, 1e15 };
  for (guint i = 0; i < G_N_ELEMENTS (spreads); i++)
    {
      g_auto (Product) p;
      product_init (&rig, &p, 14, 35, 50, BIAS | RESIDUAL, spreads[i]);
      check_product (&rig, &p, 2);
    }
}

/* Whole tiles of several panels in a work-item, whose ends are written meanwhile, give the bits of single
 * ones. */
static void
test_matmul_whole (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[][3] = { { 64, 160, 40 }, { 130, 100, 520 }, { 97, 224, 1090 } };
  static const int flags[]
      = { 0, BIAS, BIAS | RESIDUAL, BIAS | ACCUMULATE, BIAS | GELU | SAVE, GELU_SLOPE, BIAS | GELU };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (guint f = 0; f < G_N_ELEMENTS (flags); f++)
      for (int wraps = 0; wraps < (flags[f] & RESIDUAL ? 2 : 1); wraps++)
        {
          g_auto (Product) p;
          product_init (&rig, &p, sizes[i][0], sizes[i][1], sizes[i][2], flags[f], 1);
          if (!wraps)
            {
              p.rmod = p.M + 2;
              g_free (p.R);
              p.R = numbers (4, (gsize)p.rmod * p.ldr, 1);
            }
          g_autofree float *saved = NULL, *saved_one = NULL;
          g_autofree float *one = run_product (&rig, &p, 0, p.M, 1, &saved_one);
          p.panels = 3;
          g_autofree float *whole = run_product (&rig, &p, 0, p.M, 4, &saved);
          assert_memory_equal (whole, one, ((gsize)p.M * p.ldc - 5) * sizeof (float));
          assert_memory_equal (saved, saved_one, (gsize)p.M * p.N * sizeof (float));
          check_product (&rig, &p, 3);
        }
}

/* Any part of the rows gives the same bits, however many row tiles a work-item has. */
static void
check_batches (Rig *rig, const Product *p)
{
  static const int parts[][3] = { { 0, 1, 1 },   { 76, 1, 1 },  { 5, 13, 1 }, { 17, 20, 1 },
                                  { 30, 47, 8 }, { 64, 13, 3 }, { 11, 4, 2 }, { 70, 5, 1 } };
  g_autofree float *all = run_product (rig, p, 0, p->M, 2, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
    {
      g_autofree float *part = run_product (rig, p, parts[i][0], parts[i][1], parts[i][2], NULL);
      for (int m = 0; m < parts[i][1]; m++)
        assert_memory_equal (part + (gsize)m * p->ldc, all + (gsize)(parts[i][0] + m) * p->ldc,
                             p->N * sizeof (float));
    }
}

static void
test_matmul_batches (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  g_auto (Product) p, deep;
  product_init (&rig, &p, 77, 50, 300, BIAS | GELU | SAVE | RESIDUAL, 1);
  product_init (&rig, &deep, 77, 150, 1100, BIAS | GELU | RESIDUAL, 1);
  p.rmod = deep.rmod = 1; /* rows count from the first of each launch */
  check_batches (&rig, &p);
  check_batches (&rig, &deep);
}

/* Is a row of left rows, of WIDTH words and gaps up to STEP, what a product made in floats? The gap stays. */
static void
check_left_row (const Rig *rig, const float *got, const float *want, int N, int width, const float *gap,
                int step)
{
  for (int j = 0; j < N; j++)
    {
      double value = (double)want[j];
      if (rig->planes == 1 && !reads_floats (rig))
        value = (double)from_half (to_half (want[j]));
      const double error = fabs ((double)read_left (rig, got, j) - value);
      assert_true (error <= (rig->planes == 2 ? ldexp (fabs (value), -17) : 0));
    }
  assert_memory_equal (got + width, gap, (step - width) * sizeof (float));
}

/* The values of a product as another one reads them, in rows of words, and so what GELU gets; what lies
 * between these stays. */
static void
check_product_left (Rig *rig, int M, int N, int K, int flags, int panels)
{
  g_auto (Product) p, left;
  product_init (rig, &p, M, N, K, flags, 1);
  product_init (rig, &left, M, N, K, flags | LEFT, 1);
  const int width = rig->planes > 1 ? left_words (rig, N) : (int)left_width (rig, N), step = width + 13;
  const gsize n = (gsize)M * N;
  p.panels = left.panels = panels;
  left.ldc = step;
  g_free (left.C);
  left.C = numbers (6, (gsize)M * step, 1);
  g_autofree float *C = nf_test_to_float (left.C, (gsize)M * step);
  if (flags & (SAVE | GELU_SLOPE))
    {
      left.P_words = g_new0 (float, n);
      for (gsize i = 0; i < n; i++)
        {
          const guint16 half = to_half ((float)p.P[i]);
          p.P[i] = (double)from_half (half);
          memcpy ((guint16 *)(left.P_words + i / N * step) + i % N, &half, sizeof half);
        }
    }
  g_autofree float *saved = NULL, *saved_words = NULL;
  g_autofree float *floats = run_product (rig, &p, 0, M, 2, &saved),
                   *words = run_product (rig, &left, 0, M, 2, &saved_words);
  for (int m = 0; m < M; m++)
    {
      const int ends = m + 1 < M ? step : width;
      const gsize at = (gsize)m * step;
      check_left_row (rig, words + at, floats + (gsize)m * p.ldc, N, width, C + at + width, ends);
      if (flags & SAVE)
        check_left_row (rig, saved_words + at, saved + (gsize)m * N, N, width, left.P_words + at + width,
                        ends);
    }
}

static void
test_matmul_left (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  if (rig.madd) /* a row's scale is not known as it is written */
    return;
  check_product_left (&rig, 75, 96, 40, BIAS | GELU, 2);
  check_product_left (&rig, 75, 160, 1090, BIAS | GELU, 2);
  check_product_left (&rig, 75, 96, 520, BIAS, 2);
  check_product_left (&rig, 75, 128, 40, 0, 2);
  if (!rig.rounds || rig.gpu) /* no gradients of left rows */
    return;
  for (int panels = 1; panels < 4; panels++)
    {
      check_product_left (&rig, 75, 128, 40, BIAS | GELU | SAVE, panels);
      check_product_left (&rig, 75, 160, 1090, GELU_SLOPE, panels);
    }
}

/* Products of floats by other instructions than fma() are as exact as by this, whatever sizes values have and
 * however much of a sum cancels out: root mean squares of errors, relative to the sum of the products' sizes.
 * Where a float is the sum of two bfloat16 each is exact to 2^-17.
 */
static double
get_error (const Product *p, const float *got)
{
  double squares = 0;
  for (int m = 0; m < p->M; m++)
    for (int j = 0; j < p->N; j++)
      {
        double sum = 0, size = 0;
        for (int k = 0; k < p->K; k++)
          {
            const double x = p->A[(gsize)m * p->lda + k] * p->W[(gsize)k * p->N + j];
            sum += x;
            size += fabs (x);
          }
        const double error = ((double)got[(gsize)m * p->ldc + j] - sum) / size;
        squares += error * error;
      }
  return sqrt (squares / (p->M * p->N));
}

static void
test_matmul_accuracy (void **state)
{
  const Setting *setting = *state;
  static const Setting fma_setting = { "cpu", 16 };
  if (!setting->by || setting->operands == HALVED
      || (setting->operands == BYTES && strcmp (setting->by, "fma")))
    return;
  g_auto (Rig) rig, plain;
  rig_init (&rig, setting, HEAD_DIM);
  rig_init (&plain, &fma_setting, HEAD_DIM);
  static const int depths[] = { 1, 33, 512, 2048 };
  for (guint i = 0; i < G_N_ELEMENTS (depths); i++)
    for (int kind = 0; kind < 4; kind++)
      {
        g_auto (Product) p;
        const int K = depths[i];
        product_init (&rig, &p, 37, 40, K, 0, 1);
        g_free (p.A); /* not rounded */
        p.A = numbers (1, (gsize)p.M * p.lda, 1);
        for (gsize e = 0; kind == 1 && e < (gsize)p.M * p.lda; e++) /* nothing cancels */
          p.A[e] = fabs (p.A[e]);
        for (gsize e = 0; kind == 1 && e < (gsize)K * p.N; e++)
          p.W[e] = fabs (p.W[e]);
        for (int m = 0; kind == 2 && m < p.M; m++) /* nearly everything does */
          for (int k = 0; k + 1 < K; k += 2)
            p.A[(gsize)m * p.lda + k + 1] = -p.A[(gsize)m * p.lda + k];
        for (int k = 0; kind == 2 && k + 1 < K; k += 2)
          for (int j = 0; j < p.N; j++)
            p.W[(gsize)(k + 1) * p.N + j] = (double)(float)(p.W[(gsize)k * p.N + j] * (1 + 1e-6 * j));
        for (gsize e = 0; kind == 3 && e < (gsize)p.M * p.lda; e++) /* 20 orders of magnitude */
          p.A[e] = (double)(float)(p.A[e] * pow (10, e * 7 % 21 - 10.0));
        round_right (&rig, p.W, K, p.N);
        g_autofree float *got = run_product (&rig, &p, 0, p.M, 2, NULL),
                         *by_fma = run_product (&plain, &p, 0, p.M, 2, NULL);
        const double error = get_error (&p, got), fma_error = get_error (&p, by_fma);
        const double most = rig.planes == 2 || (rig.mma && rig.bf16) ? ldexp (1, -17)
                            : rig.mma                                ? ldexp (1, -20)
                                                                     : 2 * fma_error;
        if (!(error <= most))
          fail_msg ("K %d, kind %d: an error of %g, by fma %g", K, kind, error, fma_error);
      }
}

/* Instructions for integers all give the same bits. */
static void
test_matmul_integers (void **state)
{
  const Setting *setting = *state;
  static const Setting madd_setting = { "cpu", 16, "madd", BYTES };
  static const int sizes[][3]
      = { { 1, 70, 40 }, { 2, 33, 71 }, { 3, 100, 1090 }, { 35, 97, 513 }, { 64, 164, 512 } };
  static const int flags[] = { BIAS | GELU, BIAS | RESIDUAL, BIAS | GELU | SAVE, ACCUMULATE, GELU_SLOPE };
  if (setting->operands != BYTES || strcmp (setting->by, "fma") == 0 || setting->vector_width != 16)
    return;
  g_auto (Rig) rig, plain;
  rig_init (&rig, setting, HEAD_DIM);
  rig_init (&plain, &madd_setting, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_auto (Product) p;
      product_init (&rig, &p, sizes[i][0], sizes[i][1], sizes[i][2], BIAS | GELU, 1);
      g_free (p.A); /* not rounded */
      p.A = numbers (1, (gsize)p.M * p.lda, 3);
      for (int panels = 1; panels <= 4; panels++)
        {
          g_autofree float *saved = NULL, *saved_by_madd = NULL;
          p.panels = panels;
          p.of_left = panels % 2;
          p.flags = flags[(i + panels) % G_N_ELEMENTS (flags)];
          g_autofree float *got = run_product (&rig, &p, 0, p.M, panels, &saved),
                           *by_madd = run_product (&plain, &p, 0, p.M, 2, &saved_by_madd);
          assert_memory_equal (got, by_madd, ((gsize)p.M * p.ldc - 5) * sizeof (float));
          assert_memory_equal (saved, saved_by_madd, (gsize)p.M * p.N * sizeof (float));
        }
    }
}

/* What is no number or infinite spoils its row or its column, whose scale it makes so, and touches nothing
 * else. */
static void
test_matmul_scales (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  if (!rig.bytes)
    return;
  const double values[] = { INFINITY, -INFINITY, NAN };
  for (guint i = 0; i < G_N_ELEMENTS (values); i++)
    for (int side = 0; side < 2; side++)
      for (int count = 1; count < 36; count += 34)
        {
          g_auto (Product) p;
          product_init (&rig, &p, 35, 37, 70, 0, 1);
          const int first = p.M - count, row = 34, column = 35, k = 66;
          g_autofree float *before = run_product (&rig, &p, first, count, 2, NULL);
          if (side == 0)
            p.A[row * p.lda + k] = values[i];
          else
            p.W[k * p.N + column] = values[i];
          g_autofree float *got = run_product (&rig, &p, first, count, 2, NULL);
          for (int m = 0; m < count; m++)
            for (int j = 0; j < p.N; j++)
              {
                const float v = got[m * p.ldc + j];
                if (side == 0 ? first + m == row : j == column)
                  assert_false (isfinite (v));
                else
                  assert_memory_equal (&v, &before[m * p.ldc + j], sizeof v);
              }
        }
}

/* What is no number, infinite, or nearly so, comes out as by fma(), and touches no other element. */
static void
test_matmul_special (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  if (rig.rounds || rig.bytes)
    return;
  const double exact = rig.planes == 2 || rig.mma ? 1e-5 : 1e-6;
  const double values[] = { INFINITY, -INFINITY, NAN, FLT_MAX, -FLT_MAX, 1e38, 3.4e38 };
  for (guint i = 0; i < G_N_ELEMENTS (values); i++)
    for (int side = 0; side < 3; side++)
      {
        g_auto (Product) p;
        product_init (&rig, &p, 67, 70, 70, 0, 1); /* row 33 and column 35 are of whole tiles */
        p.panels = 3;
        g_autofree float *before = run_product (&rig, &p, 0, p.M, 2, NULL);
        const int row = 33, column = 35, k = 66;
        if (side != 1)
          p.A[row * p.lda + k] = values[i];
        if (side != 0)
          p.W[k * p.N + column] = side != 1 ? 0.5 : rig.bf16 ? round_to_bf16 (values[i]) : values[i];
        g_autofree float *got = run_product (&rig, &p, 0, p.M, 2, NULL);
        for (int m = 0; m < p.M; m++)
          for (int j = 0; j < p.N; j++)
            {
              const double v = (double)got[m * p.ldc + j];
              if ((side == 0 || m != row) && (side == 1 || m != row) && (side == 0 || j != column))
                assert_true (v == (double)before[m * p.ldc + j]);
              else
                {
                  float want = 0;
                  for (int at = 0; at < p.K; at++)
                    want = fmaf ((float)p.A[m * p.lda + at], (float)p.W[at * p.N + j], want);
                  /* for tensor cores what is infinite is the sum of that and of no number */
                  if (isnan (want)   ? !isnan (v)
                      : isinf (want) ? v != (double)want && !(rig.mma && isnan (v))
                                     : !(fabs (v - (double)want) <= exact * fabs ((double)want) + 1e-5))
                    fail_msg ("%g at side %d: row %d, column %d is %g, not %g", values[i], side, m, j, v,
                              (double)want);
                }
            }
      }
}

/* The gradient of weights C (+)= Aᵀ X. With several PARTS, of the GPU variant, nf_column_sums adds them up.
 */
static void
check_matmul_tn (Rig *rig, int M, int N, int K, int accumulate, int parts)
{
  const int lda = N + 2, ldx = K + 1;
  const gsize n = (gsize)N * K;
  g_autofree double *A = numbers (1, (gsize)M * lda, 1), *X = numbers (2, (gsize)M * ldx, 1),
                    *C = numbers (3, n, 1);
  round_left (rig, A, 1, M * lda, M * lda);
  round_right (rig, X, 1, M * ldx);
  Memory *a = give_at (rig, 5, A, (gsize)M * lda - 2), *x = give_at (rig, 2, X, (gsize)M * ldx - 1),
         *c = accumulate ? give_at (rig, 9, C, n) : room (rig, 9 + n);
  const size_t left = divide_up (N, rig->MR), right = divide_up (K, rig->NR), tiles = 2;
  const size_t inner = elements (rig, M);
  const int step = left_words (rig, M) + 2; /* of rows for the matrix unit, which takes X as it is */
  Memory *a_panels = room (rig, rig->amx ? (gsize)N * step : left * rig->MR * inner),
         *x_panels = rig->amx ? x : room (rig, right * rig->NR * inner);
  if (rig->amx)
    RUN (rig, "nf_pack_left",
         SIZES (divide_up (M, NF_STEP_VALUES), divide_up (N, NF_LEFT_BLOCKS * rig->VW), 1), ONE_EACH,
         BUFFER (a), LONG (5), INT (lda), BUFFER (a_panels), INT (step), INT (M), INT (N), INT (0));
  else
    {
      run_pack (rig, a, 5, lda, a_panels, 0, M, N, rig->MR, 0);
      run_pack (rig, x, 2, ldx, x_panels, 0, M, K, rig->NR, 0);
    }
  const size_t cpu[3] = { right, divide_up (left, tiles), 1 };
  const size_t gpu[3]
      = { divide_up (K, NF_TILE_N) * NF_GROUP_X, divide_up (N, NF_TILE_M) * NF_GROUP_Y, parts };
  Memory *out = parts > 1 ? room (rig, 9 + parts * n) : c;
  RUN (rig, "nf_matmul", rig->gpu ? gpu : cpu, MATMUL_GROUP (rig), BUFFER (a_panels), LONG (0), INT (step),
       BUFFER (x_panels), LONG (rig->amx ? 2 : 0), BUFFER (c), LONG (0), BUFFER (c), LONG (0), INT (0),
       INT (1), BUFFER (out), LONG (9), INT (K), BUFFER (c), LONG (0), INT (N), INT (K),
       INT (rig->amx ? (gsize)M : inner),
       INT ((rig->amx ? 0 : PANELS) | (accumulate && parts == 1 ? ACCUMULATE : 0)), INT (tiles),
       INT (rig->amx ? ldx : 0));
  if (parts > 1)
    RUN (rig, "nf_column_sums", SIZES (divide_up (n, NF_GROUP) * NF_GROUP, NF_SUM_LINES, 1),
         SIZES (NF_GROUP, NF_SUM_LINES, 1), BUFFER (out), LONG (9), INT (n), BUFFER (c), LONG (9),
         INT (parts), INT (n), INT (accumulate));
  for (int r = 0; r < N; r++)
    for (int k = 0; k < K; k++)
      {
        double v = accumulate ? C[(gsize)r * K + k] : 0;
        for (int m = 0; m < M; m++)
          v += A[(gsize)m * lda + r] * X[(gsize)m * ldx + k];
        C[(gsize)r * K + k] = v;
      }
  g_autofree float *got = take_at (rig, c, 9);
  g_autofree char *what = g_strdup_printf ("transposed %d×%d×%d in %d", M, N, K, parts);
  nf_test_close_float (what, got, C, n, PRODUCT_TOLERANCE);
}

static void
test_matmul_tn (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  if (rig.bf16 && !rig.rounds && !rig.amx) /* no gradients of weights */
    return;
  static const int sizes[][3] = { { 1, 1, 1 },    { 5, 3, 70 },  { 40, 13, 33 }, { 33, 12, 32 },
                                  { 129, 67, 5 }, { 17, 7, 17 }, { 70, 140, 65 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (int accumulate = 0; accumulate < 2; accumulate++)
      for (int parts = 1; parts <= (rig.gpu ? 3 : 1); parts += 2)
        check_matmul_tn (&rig, sizes[i][0], sizes[i][1], sizes[i][2], accumulate, parts);
}

/* Rows */

/* On a CPU with so many vectors of columns for a work-item, and maybe of left rows. */
static void
run_column_sums (Rig *rig, Memory *x, gsize x_at, int ldx, Memory *sums, int M, int N, int accumulate,
                 int vectors, gboolean left)
{
  if (rig->gpu)
    RUN (rig, "nf_column_sums", SIZES (divide_up (N, NF_GROUP) * NF_GROUP, NF_SUM_LINES, 1),
         SIZES (NF_GROUP, NF_SUM_LINES, 1), BUFFER (x), LONG (x_at), INT (ldx), BUFFER (sums), LONG (2),
         INT (M), INT (N), INT (accumulate));
  else
    RUN (rig, "nf_column_sums", SIZES (divide_up (divide_up (N, rig->VW), vectors), 1, 1), ONE_EACH,
         BUFFER (x), LONG (x_at), INT (ldx), BUFFER (sums), LONG (2), INT (M), INT (N), INT (accumulate),
         INT (left));
}

static void
test_column_sums (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[][3]
      = { { 1, 1, 1 }, { 3, 70, 2 }, { 50, 33, 1 }, { 201, 16, 1 }, { 40, 300, 4 }, { 9, 230, 7 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (int accumulate = 0; accumulate < 2; accumulate++)
      {
        const int M = sizes[i][0], N = sizes[i][1], ldx = N + 3;
        g_autofree double *x = numbers (1, (gsize)M * ldx, 1), *s = numbers (2, N, 1);
        Memory *in = give_at (&rig, 1, x, (gsize)(M - 1) * ldx + N),
               *out = accumulate ? give_at (&rig, 2, s, N) : room (&rig, 2 + N);
        run_column_sums (&rig, in, 1, ldx, out, M, N, accumulate, sizes[i][2], FALSE);
        for (int n = 0; n < N; n++)
          {
            s[n] = accumulate ? s[n] : 0;
            for (int m = 0; m < M; m++)
              s[n] += x[(gsize)m * ldx + n];
          }
        g_autofree float *got = take_at (&rig, out, 2);
        nf_test_close_float ("sums of columns", got, s, N, PRODUCT_TOLERANCE);
      }
}

/* What gradients make of left rows of a product is what they make of its rounded floats, bit by bit: panels
 * on either side, sums of columns. */
static void
test_left_gradients (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  if (!rig.rounds || rig.gpu)
    return;
  static const int sizes[][2] = { { 1, 64 }, { 70, 96 }, { 33, 160 }, { 130, 224 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      const int M = sizes[i][0], N = sizes[i][1], ldx = N + 3, ld = left_words (&rig, N) + 5;
      g_autofree double *X = numbers (1, (gsize)M * ldx, 1);
      round_left (&rig, X, M, N, ldx);
      Memory *x = give_at (&rig, 1, X, (gsize)(M - 1) * ldx + N), *left = room (&rig, 7 + (gsize)M * ld);
      RUN (&rig, "nf_make_left", SIZES (M, 1, 1), ONE_EACH, BUFFER (x), LONG (1), INT (ldx), BUFFER (left),
           INT (ld), INT (N));
      const int widths[] = { rig.NR, rig.MR };
      for (guint w = 0; w < G_N_ELEMENTS (widths); w++)
        {
          const int width = widths[w];
          const gsize panels = divide_up (N, width), n = panels * elements (&rig, M) * width;
          Memory *want = room (&rig, 5 + n), *got = room (&rig, 5 + n);
          run_pack (&rig, x, 1, ldx, want, 5, M, N, width, 0);
          RUN (&rig, "nf_pack_halves", SIZES (divide_up (M, NF_PACK_ROWS), panels, 1), ONE_EACH,
               BUFFER (left), LONG (0), INT (ld), BUFFER (got), LONG (5), INT (M), INT (N), INT (width));
          g_autofree float *of_floats = take_at (&rig, want, 5), *of_left = take_at (&rig, got, 5);
          assert_memory_equal (of_left, of_floats, n * sizeof (float));
        }
      if (rig.amx)
        {
          const int step = left_words (&rig, M) + 2;
          Memory *want = room (&rig, (gsize)N * step), *got = room (&rig, (gsize)N * step);
          for (int of_left = 0; of_left < 2; of_left++)
            RUN (&rig, "nf_pack_left",
                 SIZES (divide_up (M, NF_STEP_VALUES), divide_up (N, NF_LEFT_BLOCKS * rig.VW), 1), ONE_EACH,
                 BUFFER (of_left ? left : x), LONG (of_left ? 0 : 1), INT (of_left ? ld : ldx),
                 BUFFER (of_left ? got : want), INT (step), INT (M), INT (N), INT (of_left));
          g_autofree float *of_floats = take (&rig, want), *of_halves = take (&rig, got);
          assert_memory_equal (of_halves, of_floats, (gsize)N * step * sizeof (float));
        }
      Memory *want = room (&rig, 2 + N), *got = room (&rig, 2 + N);
      run_column_sums (&rig, x, 1, ldx, want, M, N, FALSE, 4, FALSE);
      run_column_sums (&rig, left, 0, ld, got, M, N, FALSE, 3, TRUE);
      g_autofree float *of_floats = take_at (&rig, want, 2), *of_left = take_at (&rig, got, 2);
      assert_memory_equal (of_left, of_floats, N * sizeof (float));
    }
}

int
main (int argc, char **argv)
{
  static const KernelTest tests[] = {
    { "pack", test_pack, PRODUCTS },
    { "matmul", test_matmul, PRODUCTS },
    { "matmul in batches", test_matmul_batches, PRODUCTS },
    { "matmul, whole tiles", test_matmul_whole, PRODUCTS },
    { "matmul, left", test_matmul_left, PRODUCTS },
    { "matmul, accuracy", test_matmul_accuracy, PRODUCTS },
    { "matmul, special values", test_matmul_special, PRODUCTS },
    { "matmul, scales", test_matmul_scales, PRODUCTS },
    { "matmul, integers", test_matmul_integers, PRODUCTS },
    { "matmul transposed", test_matmul_tn, GRADIENTS },
    { "column sums", test_column_sums },
    { "gradients of left rows", test_left_gradients, PRODUCTS },
  };
  return run_kernel_tests ("kernels-products", tests, G_N_ELEMENTS (tests), argc, argv);
}
