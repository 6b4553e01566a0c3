/* normflow: every kernel against plain loops in double precision. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Both variants, every vector width. Buffers end where the address space does: 64 floats after the last
 * value, as promised in nf-ops.h, lies a page that cannot be read, and those 64 are NaN and must stay so. */
#include "nf-test.h"
#include "nf-device-private.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#define PADDING 64
#define GROUP 64
#define HEAD_DIM 20 /* no whole vectors */
#define FEATURES 27
#define PRODUCT_TOLERANCE 1e-6
#define TOLERANCE 3e-6

typedef struct
{
  const char *variant;
  guint vector_width;
} Setting;

typedef struct
{
  cl_mem mem;
  float *host;
  gsize n;
  void *map;
  gsize map_size;
} Memory;

/* Programs as nf-ops.c has them, a queue, and the memory of one test. */
typedef struct
{
  NfDevice *device;
  cl_program programs[3];
  cl_command_queue queue;
  gboolean gpu;
  int VW, NR, MR, QT;
  GPtrArray *memory;
} Rig;

static void
memory_free (Memory *memory)
{
  clReleaseMemObject (memory->mem);
  munmap (memory->map, memory->map_size);
  g_free (memory);
}

static void
rig_clear (Rig *rig)
{
  clFinish (rig->queue);
  g_clear_pointer (&rig->memory, g_ptr_array_unref);
  clReleaseCommandQueue (rig->queue);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Rig, rig_clear)

static void
rig_init (Rig *rig, const Setting *setting, guint head_dim)
{
  g_autoptr (GError) error = NULL;
  const gboolean gpu = strcmp (setting->variant, "gpu") == 0;
  const char *const files[][5] = {
    { gpu ? "matmul_gpu.cl" : "matmul_cpu.cl", "pack.cl", gpu ? "rows_gpu.cl" : "rows_cpu.cl",
      "optimizer.cl" },
    { "append.cl", gpu ? "rows_gpu.cl" : "attention_cpu.cl", gpu ? "attention_gpu.cl" : NULL },
    { "flow.cl", "pixels.cl" },
  };

  *rig = (Rig){ .device = nf_test_device (setting->variant), .gpu = gpu, .VW = setting->vector_width };
  rig->NR = 2 * rig->VW;
  rig->MR = rig->VW == 16 ? 12 : 6;
  rig->QT = (head_dim + rig->VW - 1) / rig->VW <= 4 ? 6 : 3;
  /* the last definition of VW counts, without a warning */
  for (guint i = 0; i < G_N_ELEMENTS (files); i++)
    {
      /* only attention is compiled for one size of heads */
      g_autofree char *options = g_strdup_printf ("-w -DVW=%d -DDH=%u -DD_MAX=%d", rig->VW,
                                                  i == 1 ? head_dim : HEAD_DIM, MAX (FEATURES, 48));
      rig->programs[i] = nf_device_get_program (rig->device, files[i], options, &error);
      nf_test_ok (rig->programs[i], error);
    }
  rig->queue = nf_device_new_queue (rig->device, &error);
  nf_test_ok (rig->queue, error);
  rig->memory = g_ptr_array_new_with_free_func ((GDestroyNotify)memory_free);
}

static guint32
nan_bits (void)
{
  return 0x7fc05a5a;
}

/* N floats, NaN, then the padding, then nothing. */
static Memory *
room (Rig *rig, gsize n)
{
  const gsize page = (gsize)sysconf (_SC_PAGESIZE), bytes = (n + PADDING) * sizeof (float);
  const gsize pages = (bytes + page - 1) / page * page;
  Memory *memory = g_new0 (Memory, 1);
  cl_int status;

  memory->n = n;
  memory->map_size = pages + page;
  memory->map = mmap (NULL, memory->map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal (memory->map, MAP_FAILED);
  assert_int_equal (mprotect ((char *)memory->map + pages, page, PROT_NONE), 0);
  memory->host = (float *)((char *)memory->map + pages - bytes);
  const guint32 bits = nan_bits ();
  for (gsize i = 0; i < n + PADDING; i++)
    memcpy (memory->host + i, &bits, sizeof bits);
  memory->mem = clCreateBuffer (nf_device_get_context (rig->device), CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR,
                                bytes, memory->host, &status);
  assert_int_equal (status, CL_SUCCESS);
  g_ptr_array_add (rig->memory, memory);
  return memory;
}

static void
put (Rig *rig, Memory *memory, gsize at, const float *values, gsize n)
{
  assert_true (at + n <= memory->n);
  assert_int_equal (clEnqueueWriteBuffer (rig->queue, memory->mem, CL_TRUE, at * sizeof (float),
                                          n * sizeof (float), values, 0, NULL, NULL),
                    CL_SUCCESS);
}

/* Values at AT in a buffer, that the places before must not change is seen by take(). */
static Memory *
give_at (Rig *rig, gsize at, const double *values, gsize n)
{
  Memory *memory = room (rig, at + n);
  g_autofree float *single = nf_test_to_float (values, n);
  put (rig, memory, at, single, n);
  return memory;
}

static Memory *
give (Rig *rig, const double *values, gsize n)
{
  return give_at (rig, 0, values, n);
}

static void
check_untouched (const char *what, const float *values, gsize n)
{
  const guint32 bits = nan_bits ();
  for (gsize i = 0; i < n; i++)
    if (memcmp (values + i, &bits, sizeof bits) != 0)
      fail_msg ("%s: value %" G_GSIZE_FORMAT " was written", what, i);
}

/* N values from AT on; what lies before and after must be as it was. */
static float *
take_at (Rig *rig, const Memory *memory, gsize at)
{
  const gsize all = memory->n + PADDING;
  g_autofree float *values = g_new (float, all);
  assert_int_equal (
      clEnqueueReadBuffer (rig->queue, memory->mem, CL_TRUE, 0, all * sizeof (float), values, 0, NULL, NULL),
      CL_SUCCESS);
  check_untouched ("before the values", values, at);
  check_untouched ("the padding", values + memory->n, PADDING);
  return g_memdup2 (values + at, (memory->n - at) * sizeof (float));
}

static float *
take (Rig *rig, const Memory *memory)
{
  return take_at (rig, memory, 0);
}

typedef struct
{
  size_t size;
  const void *value;
} Argument;

#define BUFFER(m)                                                                                            \
  {                                                                                                          \
    sizeof (cl_mem), (m) ? &((const Memory *)(m))->mem : NULL                                                \
  }
#define LONG(x)                                                                                              \
  {                                                                                                          \
    sizeof (cl_ulong), &(cl_ulong) { (x) }                                                                   \
  }
#define INT(x)                                                                                               \
  {                                                                                                          \
    sizeof (cl_int), &(cl_int) { (cl_int) (x) }                                                              \
  }
#define FLOAT(x)                                                                                             \
  {                                                                                                          \
    sizeof (cl_float), &(cl_float) { (cl_float) (x) }                                                        \
  }
#define VALUE(x)                                                                                             \
  {                                                                                                          \
    sizeof (x), &(x)                                                                                         \
  }
#define NONE ((const Memory *)NULL)

static void
launch (Rig *rig, const cl_program *programs, guint n_programs, const char *name, const size_t global[3],
        const size_t local[3], const Argument *arguments, guint n)
{
  cl_int status = CL_INVALID_KERNEL_NAME;
  cl_uint wanted = 0;
  cl_kernel kernel = NULL;
  for (guint i = 0; i < n_programs && status == CL_INVALID_KERNEL_NAME; i++)
    kernel = clCreateKernel (programs[i], name, &status);
  if (status != CL_SUCCESS)
    fail_msg ("there is no kernel %s (%d)", name, status);
  assert_int_equal (clGetKernelInfo (kernel, CL_KERNEL_NUM_ARGS, sizeof wanted, &wanted, NULL), CL_SUCCESS);
  assert_int_equal (wanted, n);
  for (guint i = 0; i < n; i++)
    assert_int_equal (clSetKernelArg (kernel, i, arguments[i].size, arguments[i].value), CL_SUCCESS);
  assert_int_equal (clEnqueueNDRangeKernel (rig->queue, kernel, 3, NULL, global, local, 0, NULL, NULL),
                    CL_SUCCESS);
  assert_int_equal (clFinish (rig->queue), CL_SUCCESS);
  clReleaseKernel (kernel);
}

#define SIZES(...) ((const size_t[3]){ __VA_ARGS__ })
#define RUN(rig, name, global, local, ...)                                                                   \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    const Argument arguments_[] = { __VA_ARGS__ };                                                           \
    launch (rig, (rig)->programs, G_N_ELEMENTS ((rig)->programs), name, global, local, arguments_,           \
            G_N_ELEMENTS (arguments_));                                                                      \
  }                                                                                                          \
  G_STMT_END
#define ONE_EACH SIZES (1, 1, 1)

static size_t
divide_up (size_t a, size_t b)
{
  return (a + b - 1) / b;
}

/* Numbers as kernels see them, SPREAD times [-1, 1). */
static double *
numbers (guint32 seed, gsize n, double spread)
{
  double *x = nf_test_random (seed, n);
  for (gsize i = 0; i < n; i++)
    x[i] = (double)(float)(x[i] * spread);
  return x;
}

static double
gelu (double x)
{
  return 0.5 * x * erfc (-x * M_SQRT1_2);
}

static double
gelu_slope (double x)
{
  return 0.5 * erfc (-x * M_SQRT1_2) + x * exp (-0.5 * x * x) / sqrt (2 * M_PI);
}

/* exp, erf, GELU */

static const char math_source[]
    = "__kernel void test_math (__global const float *x, __global float *y, int n)\n"
      "{\n"
      "  const int i = get_global_id (0) * VW;\n"
      "  const floatv v = nf_loadv (x + i);\n"
      "  nf_storev (nf_expv (v), y + i);\n"
      "  nf_storev (nf_erfv (v), y + n + i);\n"
      "  nf_storev (nf_geluv (v), y + 2 * n + i);\n"
      "  nf_storev (nf_gelu_slopev (v), y + 3 * n + i);\n"
      "  for (int j = i; j < i + VW; j++)\n"
      "    {\n"
      "      y[4 * n + j] = nf_exp (x[j]);\n"
      "      y[5 * n + j] = nf_erf (x[j]);\n"
      "      y[6 * n + j] = nf_gelu (x[j]);\n"
      "      y[7 * n + j] = nf_gelu_slope (x[j]);\n"
      "    }\n"
      "}\n";

#define POINTS 16384

static cl_program
build_math (Rig *rig)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) common
      = g_resources_lookup_data ("/normflow/kernels/common.cl", G_RESOURCE_LOOKUP_FLAGS_NONE, &error);
  nf_test_ok (common, error);
  gsize size;
  const char *const sources[] = { g_bytes_get_data (common, &size), math_source };
  const size_t sizes[] = { size, strlen (math_source) };
  const cl_device_id id = nf_device_get_id (rig->device);
  g_autofree char *options = g_strdup_printf ("-cl-std=CL1.2 -DVW=%d", rig->VW);
  cl_int status;
  cl_program program = clCreateProgramWithSource (nf_device_get_context (rig->device), 2,
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
check_math (Rig *rig, cl_program program, double low, double high, gboolean erf_too)
{
  g_autofree double *x = g_new (double, POINTS);
  for (gsize i = 0; i < POINTS; i++)
    x[i] = (double)(float)(low + (high - low) * (double)i / (POINTS - 1));
  Memory *in = give (rig, x, POINTS), *out = room (rig, 8 * POINTS);
  const Argument arguments[] = { BUFFER (in), BUFFER (out), INT (POINTS) };
  launch (rig, &program, 1, "test_math", SIZES (POINTS / rig->VW, 1, 1), ONE_EACH, arguments, 3);
  g_autofree float *y = take (rig, out);
  assert_memory_equal (y, y + 4 * POINTS, 4 * POINTS * sizeof (float));
  assert_true (worst (x, y, exp, 0) < 2e-7);
  if (!erf_too)
    return;
  assert_true (worst (x, y + POINTS, erf, 1e-30) < 2.5e-7);
  /* far to the left GELU and its slope are differences of nearly equal numbers: exact to the last bit of |x|
   */
  assert_true (worst (x, y + 2 * POINTS, gelu, MAX (fabs (low), 1)) < 2e-7);
  assert_true (worst (x, y + 3 * POINTS, gelu_slope, 1) < 3e-7);
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

  /* beyond the range exp stays at its ends, erf and GELU at their limits */
  const double far[16] = { -1e30, -200, -88, 89, 200, 1e30, -40, 40, -1e4, 1e4, -INFINITY };
  Memory *in = room (&rig, POINTS), *out = room (&rig, 8 * POINTS);
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
      assert_true (fabs ((double)y[POINTS + i] - (far[i] > 0 ? 1 : -1)) < 2e-7);
      assert_true (fabs ((double)y[2 * POINTS + i] - MAX (far[i], 0)) <= 1e-7 * fabs (far[i]));
    }
  assert_true (y[10] >= 0 && y[10] < 1e-37f);
  assert_true (y[11] == 1.0f); /* exp (0) */
  clReleaseProgram (program);
}

/* Products */

/* Panels of NR columns of a matrix (rows, columns), element (row, column) at row·row_step +
 * column·column_step. */
static double *
pack (const double *W, int rows, int columns, gsize row_step, gsize column_step, int NR)
{
  const gsize panels = divide_up (columns, NR);
  double *packed = g_new0 (double, panels *rows *NR);
  for (int row = 0; row < rows; row++)
    for (int column = 0; column < columns; column++)
      packed[((gsize)(column / NR) * rows + row) * NR + column % NR]
          = W[row * row_step + column * column_step];
  return packed;
}

#define PACK_ROWS 64 /* of a work-item */

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
        const gsize panels = divide_up (columns, rig.NR), n = panels * rows * rig.NR;
        g_autofree double *W = numbers (i, (gsize)N * K, 1);
        Memory *in = give_at (&rig, 3, W, (gsize)N * K), *out = room (&rig, 5 + n);
        RUN (&rig, "nf_pack", SIZES (divide_up (rows, PACK_ROWS), panels, 1), ONE_EACH, BUFFER (in), LONG (3),
             INT (K), BUFFER (out), LONG (5), INT (rows), INT (columns), INT (rig.NR), INT (transposed));
        g_autofree float *got = take_at (&rig, out, 5);
        g_autofree double *want
            = pack (W, rows, columns, transposed ? 1 : (gsize)K, transposed ? (gsize)K : 1, rig.NR);
        g_autofree float *single = nf_test_to_float (want, n);
        assert_memory_equal (got, single, n * sizeof (float));
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
};

/* C (rows ldc apart) of one launch; every optional operand is there whether FLAGS use it or not. */
typedef struct
{
  int M, N, K, lda, ldc, ldr, rmod, flags;
  double *A, *W, *bias, *R, *C, *P;
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
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Product, product_clear)

static void
product_init (Product *p, int M, int N, int K, int flags, double spread)
{
  *p = (Product){
    .M = M, .N = N, .K = K, .lda = K + 3, .ldc = N + 5, .ldr = N + 2, .rmod = 5, .flags = flags
  };
  p->A = numbers (1, (gsize)M * p->lda, spread);
  p->W = numbers (2, (gsize)K * N, 1);
  p->bias = numbers (3, N, spread);
  p->R = numbers (4, (gsize)p->rmod * p->ldr, spread);
  p->C = numbers (5, (gsize)M * p->ldc, spread);
  p->P = numbers (6, (gsize)M * N, 3);
}

/* Rows first .. first+count-1 of the product; P, unless NULL, gets what was saved. */
static float *
run_product (Rig *rig, const Product *p, int first, int count, int tiles, float **saved)
{
  g_autofree double *packed = pack (p->W, p->K, p->N, p->N, 1, rig->NR);
  const gsize panels = divide_up (p->N, rig->NR);
  Memory *A = give_at (rig, 7, p->A + (gsize)first * p->lda, (gsize)count * p->lda - 3),
         *B = give_at (rig, 16, packed, panels * p->K * rig->NR), *bias = give_at (rig, 1, p->bias, p->N),
         *R = give_at (rig, 2, p->R, (gsize)p->rmod * p->ldr - 2),
         *C = give_at (rig, 3, p->C + (gsize)first * p->ldc, (gsize)count * p->ldc - 5),
         *P = give_at (rig, 4, p->P + (gsize)first * p->N, (gsize)count * p->N);
  const size_t tile = (size_t)rig->MR * tiles;
  const size_t cpu[3] = { panels, divide_up (count, tile), 1 };
  const size_t gpu[3] = { panels * rig->NR, divide_up (count, 64) * 8, 1 };
  const size_t group[3] = { rig->gpu ? rig->NR : 1, rig->gpu ? 8 : 1, 1 };
  RUN (rig, "nf_matmul", rig->gpu ? gpu : cpu, group, BUFFER (A), LONG (7), INT (p->lda), BUFFER (B),
       LONG (16), BUFFER (bias), LONG (1), BUFFER (R), LONG (2), INT (p->ldr), INT (p->rmod), BUFFER (C),
       LONG (3), INT (p->ldc), BUFFER (P), LONG (4), INT (count), INT (p->N), INT (p->K), INT (p->flags),
       INT (tiles));
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
  nf_test_close_float (what, got, want, n, PRODUCT_TOLERANCE);
  nf_test_close_float (what, saved, want_saved, (gsize)p->M * p->N, PRODUCT_TOLERANCE);
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
  static const int sizes[][3]
      = { { 1, 1, 1 }, { 2, 3, 40 }, { 7, 33, 5 }, { 13, 70, 129 }, { 48, 16, 64 }, { 67, 100, 31 } };
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
        product_init (&p, sizes[i][0], sizes[i][1], sizes[i][2], flags[f], 1);
        check_product (&rig, &p, 1 + f % 3);
      }
  /* where nothing overflows, the size of the values plays no part */
  static const double spreads[] = { 1e-18, 1e15 };
  for (guint i = 0; i < G_N_ELEMENTS (spreads); i++)
    {
      g_auto (Product) p;
      product_init (&p, 14, 35, 50, BIAS | RESIDUAL, spreads[i]);
      check_product (&rig, &p, 2);
    }
}

/* Any part of the rows gives the same bits, however many row tiles a work-item has. */
static void
test_matmul_batches (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  g_auto (Product) p;
  product_init (&p, 77, 50, 300, BIAS | GELU | SAVE, 1);
  p.flags |= RESIDUAL;
  p.rmod = 1; /* rows count from the first of each launch */
  g_autofree float *all = run_product (&rig, &p, 0, p.M, 2, NULL);
  static const int parts[][3] = { { 0, 1, 1 }, { 76, 1, 1 }, { 5, 13, 1 }, { 30, 47, 8 }, { 64, 13, 3 } };
  for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
    {
      g_autofree float *part = run_product (&rig, &p, parts[i][0], parts[i][1], parts[i][2], NULL);
      for (int m = 0; m < parts[i][1]; m++)
        assert_memory_equal (part + (gsize)m * p.ldc, all + (gsize)(parts[i][0] + m) * p.ldc,
                             p.N * sizeof (float));
    }
}

static void
test_matmul_tn (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[][3]
      = { { 1, 1, 1 }, { 5, 3, 70 }, { 40, 13, 33 }, { 33, 12, 32 }, { 129, 67, 5 }, { 17, 7, 17 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (int accumulate = 0; accumulate < 2; accumulate++)
      {
        const int M = sizes[i][0], N = sizes[i][1], K = sizes[i][2], lda = N + 2, ldx = K + 1;
        const gsize n = (gsize)N * K;
        g_autofree double *A = numbers (1, (gsize)M * lda, 1), *X = numbers (2, (gsize)M * ldx, 1),
                          *C = numbers (3, n, 1);
        Memory *a = give_at (&rig, 5, A, (gsize)M * lda - 2), *x = give_at (&rig, 2, X, (gsize)M * ldx - 1),
               *c = accumulate ? give_at (&rig, 9, C, n) : room (&rig, 9 + n);
        const size_t left = divide_up (N, rig.MR), right = divide_up (K, rig.NR), tiles = 2;
        Memory *a_panels = room (&rig, left * rig.MR * (size_t)M),
               *x_panels = room (&rig, right * rig.NR * (size_t)M);
        RUN (&rig, "nf_pack", SIZES (divide_up (M, PACK_ROWS), left, 1), ONE_EACH, BUFFER (a), LONG (5),
             INT (lda), BUFFER (a_panels), LONG (0), INT (M), INT (N), INT (rig.MR), INT (0));
        RUN (&rig, "nf_pack", SIZES (divide_up (M, PACK_ROWS), right, 1), ONE_EACH, BUFFER (x), LONG (2),
             INT (ldx), BUFFER (x_panels), LONG (0), INT (M), INT (K), INT (rig.NR), INT (0));
        const size_t cpu[3] = { right, divide_up (left, tiles), 1 };
        const size_t gpu[3] = { right * rig.NR, divide_up (N, 64) * 8, 1 };
        RUN (&rig, "nf_matmul", rig.gpu ? gpu : cpu, SIZES (rig.gpu ? rig.NR : 1, rig.gpu ? 8 : 1, 1),
             BUFFER (a_panels), LONG (0), INT (0), BUFFER (x_panels), LONG (0), BUFFER (c), LONG (0),
             BUFFER (c), LONG (0), INT (0), INT (1), BUFFER (c), LONG (9), INT (K), BUFFER (c), LONG (0),
             INT (N), INT (K), INT (M), INT (PANELS | (accumulate ? ACCUMULATE : 0)), INT (tiles));
        for (int r = 0; r < N; r++)
          for (int k = 0; k < K; k++)
            {
              double v = accumulate ? C[(gsize)r * K + k] : 0;
              for (int m = 0; m < M; m++)
                v += A[(gsize)m * lda + r] * X[(gsize)m * ldx + k];
              C[(gsize)r * K + k] = v;
            }
        g_autofree float *got = take_at (&rig, c, 9);
        g_autofree char *what = g_strdup_printf ("transposed %d×%d×%d", M, N, K);
        nf_test_close_float (what, got, C, n, PRODUCT_TOLERANCE);
      }
}

/* Rows */

static void
test_column_sums (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  static const int sizes[][2] = { { 1, 1 }, { 3, 70 }, { 50, 33 }, { 201, 16 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (int accumulate = 0; accumulate < 2; accumulate++)
      {
        const int M = sizes[i][0], N = sizes[i][1], ldx = N + 3;
        g_autofree double *x = numbers (1, (gsize)M * ldx, 1), *s = numbers (2, N, 1);
        Memory *in = give_at (&rig, 1, x, (gsize)M * ldx - 3),
               *out = accumulate ? give_at (&rig, 2, s, N) : room (&rig, 2 + N);
        const size_t items = rig.gpu ? divide_up (N, GROUP) * GROUP : divide_up (N, rig.VW);
        RUN (&rig, "nf_column_sums", SIZES (items, 1, 1), SIZES (rig.gpu ? GROUP : 1, 1, 1), BUFFER (in),
             LONG (1), INT (ldx), BUFFER (out), LONG (2), INT (M), INT (N), INT (accumulate));
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

/* Forward and backward on rows around OFFSET. */
static void
check_layernorm (Rig *rig, int M, int d, double offset, double tolerance)
{
  const gsize n = (gsize)M * d;
  g_autofree double *x = numbers (1, n, 1), *wb = numbers (2, 2 * (gsize)d, 1), *dy = numbers (3, n, 1),
                    *dx = numbers (4, n, 1), *y = g_new (double, n), *dyc = g_new (double, n);
  for (gsize i = 0; i < n; i++)
    x[i] = (double)(float)(x[i] + offset);
  const size_t global[3] = { (size_t)M * (rig->gpu ? GROUP : 1), 1, 1 },
               local[3] = { rig->gpu ? GROUP : 1, 1, 1 };
  Memory *in = give_at (rig, 1, x, n), *weights = give_at (rig, 3, wb, 2 * (gsize)d),
         *out = room (rig, 2 + n), *dys = give_at (rig, 4, dy, n), *dycs = room (rig, 5 + n),
         *dxs = give_at (rig, 6, dx, n);
  RUN (rig, "nf_layernorm", global, local, BUFFER (in), LONG (1), BUFFER (weights), LONG (3), LONG (3 + d),
       BUFFER (out), LONG (2), INT (d));
  RUN (rig, "nf_layernorm_backward", global, local, BUFFER (in), LONG (1), BUFFER (weights), LONG (3),
       BUFFER (dys), LONG (4), BUFFER (dycs), LONG (5), BUFFER (dxs), LONG (6), INT (d));
  for (int m = 0; m < M; m++)
    {
      const double *row = x + (gsize)m * d, *g = dy + (gsize)m * d;
      double mean = 0, square = 0, mean_g = 0, mean_gc = 0;
      for (int i = 0; i < d; i++)
        mean += row[i] / d;
      for (int i = 0; i < d; i++)
        square += (row[i] - mean) * (row[i] - mean) / d;
      const double rstd = 1 / sqrt (square + 1e-5);
      for (int i = 0; i < d; i++)
        {
          const double c = (row[i] - mean) * rstd;
          y[(gsize)m * d + i] = c * wb[i] + wb[d + i];
          dyc[(gsize)m * d + i] = g[i] * c;
          mean_g += g[i] * wb[i] / d;
          mean_gc += g[i] * wb[i] * c / d;
        }
      for (int i = 0; i < d; i++)
        dx[(gsize)m * d + i] += rstd * (g[i] * wb[i] - mean_g - (row[i] - mean) * rstd * mean_gc);
    }
  g_autofree float *got_y = take_at (rig, out, 2), *got_dyc = take_at (rig, dycs, 5),
                   *got_dx = take_at (rig, dxs, 6);
  nf_test_close_float ("layer norm", got_y, y, n, tolerance);
  nf_test_close_float ("layer norm, dyc", got_dyc, dyc, n, tolerance);
  nf_test_close_float ("layer norm, dx", got_dx, dx, n, tolerance);
}

static void
test_layernorm (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  /* of two values the gradient is a difference of nearly equal numbers */
  check_layernorm (&rig, 3, 2, 0, 1e-4);
  check_layernorm (&rig, 5, 20, 0, TOLERANCE);
  check_layernorm (&rig, 4, 64, 0, TOLERANCE);
  check_layernorm (&rig, 7, 131, 0, TOLERANCE);
  /* two passes: a mean far from 0 costs the digits of the mean and no more */
  check_layernorm (&rig, 3, 100, 1000, 1e-4);
}

/* Attention */

/* qkv (B, N, 3d) of B samples, the keys as nf_append left them. */
typedef struct
{
  int B, H, N, DH, d, blocks;
  double *qkv;
  Memory *in, *keys, *values;
} Heads;

static void
heads_clear (Heads *h)
{
  g_free (h->qkv);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Heads, heads_clear)

static Memory *
append (Rig *rig, const Heads *h, int part)
{
  Memory *keys = room (rig, (gsize)h->B * h->H * h->blocks * h->DH * rig->VW);
  /* in two goes: as decoding does it */
  const int first = h->N / 2;
  for (int go = 0; go < 2; go++)
    {
      const int n0 = go ? first : 0, count = go ? h->N - first : first;
      if (count > 0)
        RUN (rig, "nf_append", SIZES (count, h->H, h->B), ONE_EACH, BUFFER (h->in),
             LONG ((gsize)n0 * 3 * h->d + (gsize)part * h->d), INT (3 * h->d), LONG ((gsize)h->N * 3 * h->d),
             BUFFER (keys), LONG (0), INT (n0), INT (h->blocks), INT (h->H));
    }
  return keys;
}

static void
heads_init (Rig *rig, Heads *h, int B, int H, int N, int DH, double spread)
{
  *h = (Heads){ .B = B, .H = H, .N = N, .DH = DH, .d = H * DH, .blocks = 2 * (int)divide_up (N, rig->NR) };
  const gsize n = (gsize)B * N * 3 * h->d;
  h->qkv = numbers (11, n, spread);
  h->in = give (rig, h->qkv, n);
  h->keys = append (rig, h, 1);
  h->values = append (rig, h, 2);
}

static const double *
head_row (const Heads *h, int part, int b, int n, int head)
{
  return h->qkv + ((gsize)b * h->N + n) * 3 * h->d + part * h->d + head * h->DH;
}

static double
dot (const double *a, const double *b, int n)
{
  double sum = 0;
  for (int i = 0; i < n; i++)
    sum += a[i] * b[i];
  return sum;
}

/* P (N) of one query, its maximum and its sum. */
static void
softmax (const Heads *h, int b, int n, int head, double scale, double *P, double *m, double *l)
{
  *m = -INFINITY;
  *l = 0;
  for (int j = 0; j <= n; j++)
    {
      P[j] = scale * dot (head_row (h, 0, b, n, head), head_row (h, 1, b, j, head), h->DH);
      *m = MAX (*m, P[j]);
    }
  for (int j = 0; j <= n; j++)
    *l += exp (P[j] - *m);
  for (int j = 0; j <= n; j++)
    P[j] = exp (P[j] - *m) / *l;
}

/* Queries q0 .. q0+Nq-1 of samples b0 .. b0+B-1; out (B, Nq, d), stats (B, H, Nq, 2). */
static float *
run_attention (Rig *rig, const Heads *h, int b0, int B, int q0, int Nq, double scale, double scale2,
               int split, Memory **stats, Memory **out_memory)
{
  const gsize sample = (gsize)h->N * 3 * h->d;
  const size_t group = rig->gpu ? GROUP : 1;
  const gsize keys_at = (gsize)b0 * h->H * h->blocks * h->DH * rig->VW;
  Memory *out = room (rig, 3 + (gsize)B * Nq * h->d), *kept = room (rig, (gsize)B * h->H * Nq * 2);
  RUN (rig, "nf_attention", SIZES (rig->gpu ? Nq * group : divide_up (Nq, rig->QT), h->H, B),
       SIZES (group, 1, 1), BUFFER (h->in), LONG (b0 * sample + (gsize)q0 * 3 * h->d), INT (3 * h->d),
       LONG (sample), BUFFER (h->keys), LONG (keys_at), INT (h->blocks), BUFFER (h->in),
       LONG (b0 * sample + 2 * h->d), INT (3 * h->d), LONG (sample), BUFFER (out), LONG (3), INT (h->d),
       LONG ((gsize)Nq * h->d), BUFFER (kept), INT (stats != NULL), INT (q0), INT (Nq), FLOAT (scale),
       FLOAT (scale2), INT (split), INT (h->H));
  if (stats)
    *stats = kept;
  if (out_memory)
    *out_memory = out;
  return take_at (rig, out, 3);
}

static void
check_attention (Rig *rig, int B, int H, int N, int DH, double spread)
{
  g_auto (Heads) h;
  heads_init (rig, &h, B, H, N, DH, spread);
  /* scales exact in single precision */
  const double scale = (double)(float)(1 / sqrt (DH)), scale2 = (double)(float)(0.7 / sqrt (DH));
  const int split = B - 1;
  Memory *stats;
  g_autofree float *out = run_attention (rig, &h, 0, B, 0, N, scale, scale2, split, &stats, NULL);
  g_autofree float *got_stats = take (rig, stats);
  g_autofree double *want = g_new0 (double, (gsize)B *N *h.d), *P = g_new (double, N),
                    *want_stats = g_new (double, (gsize)B *H *N * 2);
  for (int b = 0; b < B; b++)
    for (int head = 0; head < H; head++)
      for (int n = 0; n < N; n++)
        {
          double *s = want_stats + (((gsize)b * H + head) * N + n) * 2;
          softmax (&h, b, n, head, b < split ? scale : scale2, P, &s[0], &s[1]);
          for (int j = 0; j <= n; j++)
            for (int e = 0; e < DH; e++)
              want[((gsize)b * N + n) * h.d + head * DH + e] += P[j] * head_row (&h, 2, b, j, head)[e];
        }
  /* a score of size s is known to s times the rounding error, and so is its exponential */
  const double tolerance = TOLERANCE * MAX (1, spread * spread);
  nf_test_close_float ("attention", out, want, (gsize)B * N * h.d, tolerance);
  nf_test_close_float ("statistics of the softmax", got_stats, want_stats, (gsize)B * H * N * 2, tolerance);

  /* alone, one by one and a few at a time: the same bits */
  for (int n = 0; n < N; n += 1 + n / 3)
    for (int count = 1; count <= MIN (4, N - n); count += 3)
      {
        const int b = B - 1;
        g_autofree float *alone
            = run_attention (rig, &h, b, 1, n, count, scale, scale2, b < split ? 1 : 0, NULL, NULL);
        assert_memory_equal (alone, out + ((gsize)b * N + n) * h.d, (gsize)count * h.d * sizeof (float));
      }
}

static void
test_attention (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  check_attention (&rig, 1, 1, 1, HEAD_DIM, 1);
  check_attention (&rig, 3, 2, 37, HEAD_DIM, 1);
  check_attention (&rig, 2, 1, 70, HEAD_DIM, 1);
  /* scores of hundreds: one key takes all */
  check_attention (&rig, 2, 1, 40, HEAD_DIM, 12);
}

static void
check_attention_backward (Rig *rig, int B, int H, int N, int DH)
{
  g_auto (Heads) h;
  heads_init (rig, &h, B, H, N, DH, 1.5);
  const double scale = (double)(float)(1 / sqrt (DH));
  const gsize n_out = (gsize)B * N * h.d, n_qkv = 3 * n_out;
  Memory *stats, *out;
  g_autofree float *values = run_attention (rig, &h, 0, B, 0, N, scale, scale, B, &stats, &out);
  g_autofree double *O = nf_test_to_double (values, n_out), *dO = numbers (12, n_out, 1),
                    *want = g_new0 (double, n_qkv), *P = g_new (double, N);
  Memory *dout = give_at (rig, 5, dO, n_out), *dqkv = room (rig, 7 + n_qkv);
  const size_t group = rig->gpu ? GROUP : 1;
  RUN (rig, "nf_attention_backward", SIZES (H * group, B, 1), SIZES (group, 1, 1), BUFFER (h.in), LONG (0),
       BUFFER (h.keys), BUFFER (h.values), INT (h.blocks), BUFFER (out), LONG (3), BUFFER (dout), LONG (5),
       BUFFER (stats), BUFFER (dqkv), LONG (7), INT (N), INT (H), FLOAT (scale));
  for (int b = 0; b < B; b++)
    for (int head = 0; head < H; head++)
      for (int n = 0; n < N; n++)
        {
          double m, l;
          const gsize at = ((gsize)b * N + n) * h.d + head * DH;
          const double *g = dO + at, *q = head_row (&h, 0, b, n, head);
          const double own = dot (g, O + at, DH);
          double *dq = want + ((gsize)b * N + n) * 3 * h.d + head * DH;
          softmax (&h, b, n, head, scale, P, &m, &l);
          for (int j = 0; j <= n; j++)
            {
              const double *k = head_row (&h, 1, b, j, head), *v = head_row (&h, 2, b, j, head);
              const double dS = scale * P[j] * (dot (g, v, DH) - own);
              double *dk = want + ((gsize)b * N + j) * 3 * h.d + h.d + head * DH, *dv = dk + h.d;
              for (int e = 0; e < DH; e++)
                {
                  dq[e] += dS * k[e];
                  dk[e] += dS * q[e];
                  dv[e] += P[j] * g[e];
                }
            }
        }
  g_autofree float *got = take_at (rig, dqkv, 7);
  nf_test_close_float ("attention, backward", got, want, n_qkv, TOLERANCE);
}

static void
test_attention_backward (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  check_attention_backward (&rig, 1, 1, 1, HEAD_DIM);
  check_attention_backward (&rig, 2, 3, 37, HEAD_DIM);
  check_attention_backward (&rig, 1, 2, 70, HEAD_DIM);
}

/* Heads of other sizes are other programs. */
static void
test_head_sizes (void **state)
{
  static const int sizes[] = { 4, 64, 80 };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_auto (Rig) rig;
      rig_init (&rig, *state, sizes[i]);
      check_attention (&rig, 2, 2, 41, sizes[i], 1);
      check_attention_backward (&rig, 2, 2, 41, sizes[i]);
    }
}

/* The flow */

static const int flow_features[] = { 1, 12, FEATURES };

static void
check_affine (Rig *rig, int D, int nvp, int flip, int out_flip)
{
  const int B = 2, N = 5, M = B * N, width = nvp ? 2 * D : D;
  const double g = 0.125;
  g_autofree double *u = numbers (1, (gsize)M * D, 1), *o = numbers (2, (gsize)M * width, 1),
                    *dz = numbers (3, (gsize)M * D, 1), *log_det = numbers (4, M, 1);
  g_autofree double *z = g_new (double, M *D), *du = g_new (double, M *D), *d_o = g_new0 (double, M *width);
  for (int b = 0; b < B; b++)
    for (int n = 0; n < N; n++)
      for (int i = 0; i < D; i++)
        {
          const gsize m = (gsize)b * N + n, out = (gsize)b * N + (out_flip ? N - 1 - n : n), at = m * D + i;
          const double *before = o + (m - 1) * width;
          const double mu = n ? before[width - D + i] : 0, alpha = n && nvp ? before[i] : 0;
          z[out * D + i] = (u[at] - mu) * exp (-alpha);
          log_det[(gsize)b * N + (flip ? N - 1 - n : n)] -= alpha;
          du[at] = dz[out * D + i] * exp (-alpha);
          if (n)
            d_o[(m - 1) * width + width - D + i] = -du[at];
          if (n && nvp)
            d_o[(m - 1) * width + i] = g - dz[out * D + i] * z[out * D + i];
        }
  g_autofree double *before = numbers (4, M, 1);
  Memory *us = give_at (rig, 1, u, (gsize)M * D), *os = give (rig, o, (gsize)M * width),
         *zs = room (rig, 2 + (gsize)M * D), *logs = give (rig, before, M),
         *dzs = give_at (rig, 3, dz, (gsize)M * D), *dus = room (rig, 4 + (gsize)M * D),
         *d_os = room (rig, (gsize)M * width);
  RUN (rig, "nf_affine", SIZES (M, 1, 1), ONE_EACH, BUFFER (us), LONG (1), BUFFER (os), BUFFER (zs), LONG (2),
       BUFFER (logs), INT (N), INT (D), INT (nvp), INT (flip), INT (out_flip), INT (1));
  RUN (rig, "nf_affine_backward", SIZES (M, 1, 1), ONE_EACH, BUFFER (us), LONG (1), BUFFER (os), BUFFER (dzs),
       LONG (3), BUFFER (dus), LONG (4), BUFFER (d_os), INT (N), INT (D), INT (nvp), INT (out_flip),
       FLOAT (g));
  g_autofree float *got_z = take_at (rig, zs, 2), *got_log = take (rig, logs),
                   *got_du = take_at (rig, dus, 4), *got_do = take (rig, d_os);
  nf_test_close_float ("affine step", got_z, z, (gsize)M * D, TOLERANCE);
  nf_test_close_float ("log-determinant", got_log, log_det, M, TOLERANCE);
  nf_test_close_float ("affine step, du", got_du, du, (gsize)M * D, TOLERANCE);
  nf_test_close_float ("affine step, do", got_do, d_o, (gsize)M * width, TOLERANCE);
}

static void
test_affine (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (flow_features); i++)
    for (int bits = 0; bits < 8; bits++)
      check_affine (&rig, flow_features[i], bits & 1, bits >> 1 & 1, bits >> 2);
}

/* An orthonormal matrix (D, D): a reflection. */
static double *
reflection (int D)
{
  g_autofree double *v = numbers (21, D, 1);
  double *W = g_new (double, D *D);
  const double square = dot (v, v, D);
  for (int i = 0; i < D; i++)
    for (int j = 0; j < D; j++)
      W[i * D + j] = (double)(float)((i == j) - 2 * v[i] * v[j] / square);
  return W;
}

static void
check_affine_inverse (Rig *rig, int D, int nvp, int guided, int has_basis)
{
  const int B = 3, N = 4, n = 2, width = nvp ? 2 * D : D, steps = 32;
  const double w_scale = 0.5, w_shift = 0.25;
  g_autofree double *u = numbers (1, (gsize)B * N * D, 0.5), *o = numbers (2, 2 * (gsize)B * width, 0.4),
                    *basis = reflection (D), *want = g_memdup2 (u, sizeof (double) * B * N * D);
  for (int b = 0; b < B; b++)
    for (int i = 0; i < D; i++)
      {
        const double *c = o + b * width, *v = o + (B + b) * width;
        double mu = c[width - D + i], alpha = nvp ? c[i] : 0;
        if (guided)
          {
            mu += w_shift * (mu - v[width - D + i]);
            alpha += nvp ? w_scale * (alpha - v[i]) : 0;
          }
        want[((gsize)b * N + n) * D + i] = u[((gsize)b * N + n) * D + i] * exp (alpha) + mu;
      }
  for (int snap = 0; snap < 2; snap++)
    {
      Memory *us = give_at (rig, 3, u, (gsize)B * N * D), *os = give (rig, o, 2 * (gsize)B * width),
             *W = give (rig, basis, D * D);
      RUN (rig, "nf_affine_inverse", SIZES (B, 1, 1), ONE_EACH, BUFFER (us), LONG (3), BUFFER (os), INT (B),
           INT (N), INT (n), INT (D), INT (nvp), FLOAT (w_scale), FLOAT (w_shift), INT (guided),
           INT (snap ? steps : -1), BUFFER (W), INT (has_basis));
      g_autofree float *got = take_at (rig, us, 3);
      if (!snap)
        nf_test_close_float ("inverse step", got, want, (gsize)B * N * D, TOLERANCE);
      else
        for (int b = 0; b < B; b++)
          for (int j = 0; j < D; j++)
            {
              /* in the samples' own basis: at a point of the lattice, the nearest or nearly so */
              double y = 0, target = 0;
              for (int i = 0; i < D; i++)
                {
                  const gsize at = ((gsize)b * N + n) * D + i;
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
test_affine_inverse (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (guint i = 0; i < G_N_ELEMENTS (flow_features); i++)
    for (int bits = 0; bits < 8; bits++)
      check_affine_inverse (&rig, flow_features[i], bits & 1, bits >> 1 & 1, bits >> 2);
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
  const int B = 2, N = 4, D = FEATURES;
  g_autofree double *x = numbers (1, (gsize)B * N * D, 1), *scale = numbers (2, (gsize)N * D, 1),
                    *want = g_new (double, B *N *D);
  for (int flip = 0; flip < 2; flip++)
    for (int scaled = 0; scaled < 2; scaled++)
      {
        for (int b = 0; b < B; b++)
          for (int n = 0; n < N; n++)
            for (int i = 0; i < D; i++)
              {
                const int m = flip ? N - 1 - n : n;
                want[(b * N + n) * D + i] = x[(b * N + m) * D + i] * (scaled ? scale[m * D + i] : 1);
              }
        Memory *in = give_at (&rig, 1, x, (gsize)B * N * D), *out = room (&rig, 2 + (gsize)B * N * D),
               *s = give_at (&rig, 3, scale, (gsize)N * D);
        RUN (&rig, "nf_reorder", SIZES (B * N, 1, 1), ONE_EACH, BUFFER (in), LONG (1), BUFFER (out), LONG (2),
             INT (N), INT (D), INT (flip), BUFFER (s), LONG (3), INT (scaled));
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
       INT (tile0), INT (tiles_x), INT (side), INT (D), INT (1));
  RUN (&rig, "nf_grid", SIZES (side * side, tiles, 1), ONE_EACH, BUFFER (back), LONG (3), BUFFER (grid),
       INT (tile0), INT (tiles_x), INT (side), INT (D), INT (0));
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
       LONG (4), INT (B), INT (N), INT (d), INT (1));
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
          dpos[(gsize)(N - 1 - t) * d + i] += h[at];
        }
  g_autofree float *got = take_at (&rig, hs, 1), *got_E = take_at (&rig, dEs, 3),
                   *got_pos = take_at (&rig, dposs, 4);
  nf_test_close_float ("class embedding", got, want, n, TOLERANCE);
  nf_test_close_float ("its gradient", got_E, dE, n_E, TOLERANCE);
  nf_test_close_float ("gradient of positions", got_pos, dpos, (gsize)N * d, TOLERANCE);
}

/* Pixels */

typedef struct
{
  int width, height, planes, p, side, yuv;
  cl_ulong4 at;
  cl_int4 stride, step;
  gsize bytes;
} Layout;

/* Planes one after the other with odd strides; samples of an interleaved picture are 4 apart. */
static void
layout_init (Layout *l, int planes, int yuv, gboolean interleaved)
{
  *l = (Layout){ .width = 13, .height = 10, .planes = planes, .p = 4, .side = 2, .yuv = yuv };
  for (int i = 0; i < planes; i++)
    {
      const int w = yuv && i ? (l->width + 1) / 2 : l->width,
                rows = yuv && i ? (l->height + 1) / 2 : l->height;
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
            h = l->yuv && plane ? (l->height + 1) / 2 : l->height;
  *byte = l->at.s[plane] + (gsize)MIN (y, h - 1) * l->stride.s[plane]
          + (gsize)MIN (x, w - 1) * l->step.s[plane];
  return x < w && y < h;
}

static void
check_pixels (Rig *rig, int planes, int yuv, gboolean interleaved, int mode, gboolean has_basis)
{
  Layout l;
  layout_init (&l, planes, yuv, interleaved);
  const int D = yuv ? l.p * l.p * 3 / 2 : planes * l.p * l.p, N = l.side * l.side;
  const int tiles_x = (int)divide_up (l.width, l.p * l.side),
            tiles = tiles_x * (int)divide_up (l.height, l.p * l.side);
  const int steps = mode == 0 || mode == 3 ? 0 : 32;
  const gsize n = (gsize)tiles * N * D, words = divide_up (l.bytes, 4);
  g_autofree guint8 *frame = g_malloc0 (words * 4);
  g_autoptr (GRand) rand = g_rand_new_with_seed (5);
  for (gsize i = 0; i < words * 4; i++)
    frame[i] = (guint8)g_rand_int_range (rand, 0, 256);
  g_autofree double *basis = reflection (D);
  Memory *bytes = room (rig, words), *x = room (rig, 3 + n), *W = give (rig, basis, (gsize)D * D),
         *back = room (rig, words);
  const cl_uint2 seed = { { 1, 2 } }, stream = { { 3, 4 } };
  const double std = 0.05;
  g_autofree float *raw = g_new (float, words);
  memcpy (raw, frame, words * 4);
  put (rig, bytes, 0, raw, words);
  RUN (rig, "nf_pixels_to_tokens", SIZES (N, tiles, 1), ONE_EACH, BUFFER (bytes), VALUE (l.at),
       VALUE (l.stride), VALUE (l.step), INT (l.width), INT (l.height), LONG (0), INT (0), INT (tiles_x),
       INT (l.p), INT (l.side), INT (yuv), INT (mode), INT (steps), FLOAT (std), VALUE (seed), VALUE (stream),
       BUFFER (W), INT (has_basis), BUFFER (x), LONG (3), INT (D));
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
  if (mode)
    {
      assert_true (fabs (sum / n) < 5 * sqrt (variance / n));
      assert_true (fabs (squares / n / variance - 1) < 5 * sqrt (2.0 / n));
    }
  if (mode == 3)
    return;
  RUN (rig, "nf_tokens_to_pixels", SIZES (N, tiles, 1), ONE_EACH, BUFFER (x), LONG (3), BUFFER (back),
       VALUE (l.at), VALUE (l.stride), VALUE (l.step), INT (l.width), INT (l.height), INT (0), INT (tiles_x),
       INT (l.p), INT (l.side), INT (yuv), INT (steps), BUFFER (W), INT (has_basis), INT (D));
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
}

static void
test_pixels (void **state)
{
  g_auto (Rig) rig;
  rig_init (&rig, *state, HEAD_DIM);
  for (int mode = 0; mode < 4; mode++)
    for (int has_basis = 0; has_basis < 2; has_basis++)
      {
        check_pixels (&rig, 3, 1, FALSE, mode, has_basis);
        check_pixels (&rig, 3, 0, TRUE, mode, has_basis);
        check_pixels (&rig, 1, 0, FALSE, mode, has_basis);
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
  RUN (&rig, "nf_adamw", SIZES (divide_up (n, (size_t)64 * rig.VW), 1, 1), ONE_EACH, BUFFER (t), BUFFER (g),
       BUFFER (ms), BUFFER (vs), BUFFER (a), LONG (n), FLOAT (clip), FLOAT (lr), FLOAT (beta1), FLOAT (beta2),
       FLOAT (fix1), FLOAT (fix2), FLOAT (eps), FLOAT (decay), FLOAT (ema));
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
main (void)
{
  static Setting settings[] = { { "cpu", 16 }, { "cpu", 8 }, { "cpu", 4 }, { "gpu", 16 } };
  static const struct
  {
    const char *name;
    CMUnitTestFunction run;
  } tests[] = {
    { "exp, erf, gelu", test_math },
    { "pack", test_pack },
    { "matmul", test_matmul },
    { "matmul in batches", test_matmul_batches },
    { "matmul transposed", test_matmul_tn },
    { "column sums", test_column_sums },
    { "layer norm", test_layernorm },
    { "attention", test_attention },
    { "attention backward", test_attention_backward },
    { "head sizes", test_head_sizes },
    { "affine", test_affine },
    { "affine inverse", test_affine_inverse },
    { "prior", test_prior },
    { "reorder", test_reorder },
    { "grid", test_grid },
    { "class and position", test_class_and_position },
    { "pixels", test_pixels },
    { "adamw", test_adamw },
    { "sums and denoise", test_sums_and_denoise },
  };
  struct CMUnitTest all[G_N_ELEMENTS (settings) * G_N_ELEMENTS (tests)];
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  gsize n = 0;
  for (guint s = 0; s < G_N_ELEMENTS (settings); s++)
    for (guint t = 0; t < G_N_ELEMENTS (tests); t++)
      {
        char *name = g_strdup_printf ("%s, %s kernels, vectors of %u", tests[t].name, settings[s].variant,
                                      settings[s].vector_width);
        g_ptr_array_add (names, name);
        all[n++] = (struct CMUnitTest){ name, tests[t].run, NULL, NULL, &settings[s] };
      }
  return cmocka_run_group_tests_name ("kernels", all, NULL, NULL);
}
