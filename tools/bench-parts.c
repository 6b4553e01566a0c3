/* normflow bench: products, attention, norms, and OpenBLAS beside them. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "bench.h"

#include "nf-ops.h"

#include <dlfcn.h>

/* Small parts are repeated within a sample, as launches follow each other in real work. */
#define LAUNCHES 16

typedef struct
{
  NfOps *ops;
  NfMatmul product;
  NfAttention attention;
  NfView x, y, w, b;
  NfBuffer *values;
  guint M, d;
} Part;

static gboolean
run_matmul (gpointer data, GError **error)
{
  Part *part = data;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_matmul (part->ops, &part->product);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_attention (gpointer data, GError **error)
{
  Part *part = data;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_attention (part->ops, &part->attention);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_matmul_tn (gpointer data, GError **error)
{
  Part *part = data;
  const NfMatmul *p = &part->product;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_matmul_tn (part->ops, p->A, p->lda, FALSE, p->R, p->ldr, FALSE, p->C, p->M, p->N, p->K);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_attention_backward (gpointer data, GError **error)
{
  Part *part = data;
  const NfAttention *a = &part->attention;
  const NfAttentionBackward backward = { .qkv = a->Q,
                                         .out = a->out,
                                         .dout = part->x,
                                         .dqkv = part->y,
                                         .keys = a->keys,
                                         .values = part->values,
                                         .stats = a->stats,
                                         .N = a->Nq,
                                         .B = a->B,
                                         .H = a->H,
                                         .scale = a->scale };
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_attention_backward (part->ops, &backward);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_layernorm (gpointer data, GError **error)
{
  Part *part = data;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_norm (part->ops, NF_NORM_LAYER, part->x, part->w, part->b, nf_view (NULL, 0), part->y, FALSE,
                 part->M, part->d);
  return nf_ops_finish (part->ops, error);
}

/* N random floats on the device; NULL is reported by nf_ops_finish(). */
static NfBuffer *
random_buffer (NfOps *ops, gsize n)
{
  NfBuffer *buffer = nf_ops_alloc (ops, n);
  if (!buffer)
    return NULL;
  g_autofree float *values = g_new (float, n);
  nf_bench_fill_random (values, n);
  nf_ops_write (ops, nf_view (buffer, 0), values, n * sizeof (float));
  return buffer;
}

gboolean
nf_bench_matmul (NfBench *bench, guint M, guint N, guint K, GError **error)
{
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, 64, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) A = random_buffer (ops, (gsize)M * (K + 16));
  g_autoptr (NfBuffer) W = random_buffer (ops, (gsize)N * K);
  g_autoptr (NfBuffer) B = nf_ops_alloc (ops, nf_ops_packed_size (ops, N, K, TRUE));
  g_autoptr (NfBuffer) bias = random_buffer (ops, N);
  g_autoptr (NfBuffer) C = random_buffer (ops, (gsize)M * N);
  /* as layers leave them where they can: left rows, else floats apart by no power of two */
  const guint left = nf_ops_left_step (ops, K);
  g_autoptr (NfBuffer) rows = nf_ops_alloc (ops, (gsize)M * MAX (left, 1));
  if (W && B)
    nf_ops_pack (ops, nf_view (W, 0), nf_view (B, 0), N, K, TRUE);
  if (A && W && rows && left > 0)
    nf_ops_norm (ops, NF_NORM_LAYER, nf_view (A, 0), nf_view (W, 0), nf_view (NULL, 0), nf_view (NULL, 0),
                 nf_view (rows, 0), TRUE, M, K);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  Part part = { .ops = ops,
                .product = { .A = nf_view (left > 0 ? rows : A, 0),
                             .lda = left > 0 ? left : K + 16,
                             .B = nf_view (B, 0),
                             .bias = nf_view (bias, 0),
                             .C = nf_view (C, 0),
                             .ldc = N,
                             .M = M,
                             .N = N,
                             .K = K,
                             .flags = NF_MATMUL_BIAS | (left > 0 ? NF_MATMUL_LEFT_A : 0) } };
  g_autofree char *size = g_strdup_printf ("%u×%u×%u", M, N, K);
  if (!nf_bench_measure (bench, "matmul", size, LAUNCHES * 2.0 * M * N * K, run_matmul, &part, error))
    return FALSE;
  nf_bench_divide_last (bench, LAUNCHES);
  return TRUE;
}

gboolean
nf_bench_matmul_tn (NfBench *bench, guint M, guint N, guint K, GError **error)
{
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, 64, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) A = random_buffer (ops, (gsize)M * N);
  g_autoptr (NfBuffer) X = random_buffer (ops, (gsize)M * K);
  g_autoptr (NfBuffer) C = nf_ops_alloc (ops, (gsize)N * K);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  Part part = { .ops = ops,
                .product = { .A = nf_view (A, 0),
                             .lda = N,
                             .R = nf_view (X, 0),
                             .ldr = K,
                             .C = nf_view (C, 0),
                             .M = M,
                             .N = N,
                             .K = K } };
  g_autofree char *size = g_strdup_printf ("weight, %u×%u×%u", M, N, K);
  if (!nf_bench_measure (bench, "gradient", size, LAUNCHES * 2.0 * M * N * K, run_matmul_tn, &part, error))
    return FALSE;
  nf_bench_divide_last (bench, LAUNCHES);
  return TRUE;
}

gboolean
nf_bench_attention (NfBench *bench, guint B, guint N, guint H, gboolean backward, GError **error)
{
  const guint DH = 64, d = H * DH;
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, DH, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) qkv = random_buffer (ops, (gsize)B * N * 3 * d);
  g_autoptr (NfBuffer) keys = nf_ops_alloc (ops, nf_ops_keys_size (ops, B, H, N));
  g_autoptr (NfBuffer) values = nf_ops_alloc (ops, nf_ops_keys_size (ops, B, H, N));
  g_autoptr (NfBuffer) out = nf_ops_alloc (ops, (gsize)B * N * d);
  g_autoptr (NfBuffer) stats = nf_ops_alloc (ops, 2 * (gsize)B * N * H);
  g_autoptr (NfBuffer) dout = random_buffer (ops, (gsize)B * N * d);
  g_autoptr (NfBuffer) dqkv = nf_ops_alloc (ops, (gsize)B * N * 3 * d);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  const gsize batch = (gsize)N * 3 * d;
  nf_ops_append (ops, nf_view (qkv, d), 3 * d, batch, FALSE, keys, 0, N, N, B, H);
  Part part = { .ops = ops,
                .attention = { .Q = nf_view (qkv, 0),
                               .q_row = 3 * d,
                               .q_batch = batch,
                               .out = nf_view (out, 0),
                               .out_row = d,
                               .out_batch = (gsize)N * d,
                               .keys = keys,
                               .capacity = N,
                               .stats = backward ? stats : NULL,
                               .Nq = N,
                               .B = B,
                               .H = H,
                               .split = B,
                               .scale = 0.125f,
                               .scale2 = 0.125f },
                .values = values,
                .x = nf_view (dout, 0),
                .y = nf_view (dqkv, 0) };
  g_autofree char *size
      = g_strdup_printf ("%sB %u, N %u, H %u, DH %u", backward ? "attention, " : "", B, N, H, DH);
  const double flops = LAUNCHES * 2.0 * B * H * DH * N * (N + 1);
  if (!backward)
    {
      if (!nf_bench_measure (bench, "attention", size, flops, run_attention, &part, error))
        return FALSE;
    }
  else
    {
      /* scores again, then the gradients of P, V, Q and K: five products where forward has two */
      nf_ops_attention (ops, &part.attention);
      if (!nf_bench_measure (bench, "gradient", size, 2.5 * flops, run_attention_backward, &part, error))
        return FALSE;
    }
  nf_bench_divide_last (bench, LAUNCHES);
  return TRUE;
}

gboolean
nf_bench_layernorm (NfBench *bench, guint M, guint d, GError **error)
{
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, 64, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) x = random_buffer (ops, (gsize)M * d);
  g_autoptr (NfBuffer) y = nf_ops_alloc (ops, (gsize)M * d);
  g_autoptr (NfBuffer) wb = random_buffer (ops, 2 * (gsize)d);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  Part part = { .ops = ops,
                .x = nf_view (x, 0),
                .y = nf_view (y, 0),
                .w = nf_view (wb, 0),
                .b = nf_view (wb, d),
                .M = M,
                .d = d };
  g_autofree char *size = g_strdup_printf ("%u×%u", M, d);
  /* each value is read and written once */
  if (!nf_bench_measure_bound (bench, "layernorm", size,
                               (NfBenchBound){ .bytes = LAUNCHES * 2.0 * sizeof (float) * M * d,
                                               .memory = 2 * sizeof (float) * (gsize)M * d },
                               run_layernorm, &part, error))
    return FALSE;
  nf_bench_divide_last (bench, LAUNCHES);
  return TRUE;
}

/* OpenBLAS, beside our products */

enum
{
  CBLAS_ROW_MAJOR = 101,
  CBLAS_NO_TRANSPOSE = 111,
};

typedef void (*Sgemm) (int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                       int lda, const float *b, int ldb, float beta, float *c, int ldc);

typedef struct
{
  Sgemm sgemm;
  int M, N, K;
  float *A, *B, *C;
} Blas;

static gboolean
run_sgemm (gpointer data, GError **error)
{
  Blas *blas = data;
  for (guint i = 0; i < LAUNCHES; i++)
    blas->sgemm (CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_NO_TRANSPOSE, blas->M, blas->N, blas->K, 1,
                 blas->A, blas->K, blas->B, blas->N, 0, blas->C, blas->N);
  return TRUE;
}

gboolean
nf_bench_openblas (NfBench *bench, guint M, guint N, guint K, GError **error)
{
  void *library = dlopen ("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  Blas blas = { .M = (int)M, .N = (int)N, .K = (int)K };

  if (library)
    blas.sgemm = (Sgemm)dlsym (library, "cblas_sgemm");
  if (!blas.sgemm)
    {
      /* its threads may outlive us, so the library stays loaded where it was used */
      if (library)
        dlclose (library);
      if (bench->selected[0])
        nf_progress_note (bench->command->progress, "openblas left out: there is no libopenblas.so.0 with "
                                                    "cblas_sgemm() (Debian: libopenblas0)");
      return TRUE;
    }
  g_autofree float *A = g_new (float, (gsize)M *K), *B = g_new (float, (gsize)K *N),
                   *C = g_new (float, (gsize)M *N);
  nf_bench_fill_random (A, (gsize)M * K);
  nf_bench_fill_random (B, (gsize)K * N);
  blas.A = A;
  blas.B = B;
  blas.C = C;
  g_autofree char *size = g_strdup_printf ("%u×%u×%u", M, N, K);
  if (!nf_bench_measure (bench, "openblas", size, LAUNCHES * 2.0 * M * N * K, run_sgemm, &blas, error))
    return FALSE;
  nf_bench_divide_last (bench, LAUNCHES);
  return TRUE;
}
