/* normflow: what tests of kernels share. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Every kernel is held against plain loops in double precision, in both variants and every vector width.
 * Buffers end where the address space does: 64 floats after the last value, as promised in nf-ops.h, lies a
 * page that cannot be read, and those 64 are NaN and must stay so. */
#pragma once

#include "nf-test.h"

#include "nf-device-private.h"
#include "nf-ops.h"
#include "kernels/launch.h"

#include <sys/mman.h>
#include <unistd.h>

#define PADDING 64
#define HEAD_DIM 20 /* no whole vectors */
#define FEATURES 27
#define PRODUCT_TOLERANCE 1e-6
#define SPLIT_TOLERANCE 1e-5      /* where a float is the sum of two bfloat16 */
#define SHORT_GELU_TOLERANCE 3e-4 /* for bfloat16, of values around 1/10 */
#define TOLERANCE 3e-6

typedef struct
{
  const char *variant;
  guint vector_width;
  const char *by; /* what makes products, NULL: fma() of floats */
  enum
  {
    HALVED, /* of bfloat16 */
    WHOLE,  /* of floats */
    MIXED,  /* of floats by bfloat16 */
    BYTES   /* of floats by integers of eight bits */
  } operands;
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
  gboolean gpu, bf16, rounds, amx;   /* B is of bfloat16, A, too; by the matrix unit */
  gboolean bytes, madd;              /* B is of integers, A, too */
  gboolean coarse, mma;              /* attention with operands of a few bits; by tensor cores */
  gboolean half_keys;                /* only its keys and values are bfloat16 */
  int VW, NR, MR, QT, depth, planes; /* of common.cl */
  GPtrArray *memory;
} Rig;

static inline void
memory_free (Memory *memory)
{
  clReleaseMemObject (memory->mem);
  munmap (memory->map, memory->map_size);
  g_free (memory);
}

static inline void
rig_clear (Rig *rig)
{
  clFinish (rig->queue);
  g_clear_pointer (&rig->memory, g_ptr_array_unref);
  clReleaseCommandQueue (rig->queue);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Rig, rig_clear)

/* A device whose CPU kernels make products by instructions for them; where it has none, the test is skipped.
 */
static inline NfDevice *
open_form (const Setting *setting)
{
  g_autoptr (GError) error = NULL;
  static const char *const products[] = { [HALVED] = "precision=bf16,bf16",
                                          [WHOLE] = "f32",
                                          [MIXED] = "precision=bf16-weights,bf16",
                                          [BYTES] = "precision=int8-weights,int8" };
  g_autofree char *spec = g_strdup_printf ("cpu,vectors=%u,%s=%s", setting->vector_width,
                                           products[setting->operands], setting->by);
  NfDevice *device = nf_device_open (spec, &error);
  if (!device && g_error_matches (error, NF_ERROR, NF_ERROR_NO_DEVICE))
    {
      print_message ("[  SKIPPED ] %s\n", error->message);
      skip ();
    }
  nf_test_ok (device, error);
  return device;
}

static inline void
rig_init (Rig *rig, const Setting *setting, guint head_dim)
{
  g_autoptr (GError) error = NULL;
  const gboolean gpu = strcmp (setting->variant, "gpu") == 0;
  const gboolean amx = g_strcmp0 (setting->by, "amx") == 0, dot = g_strcmp0 (setting->by, "dot") == 0,
                 mma = g_strcmp0 (setting->by, "mma") == 0, vnni = g_strcmp0 (setting->by, "vnni") == 0,
                 bytes_by_amx = amx && setting->operands == BYTES,
                 madd = bytes_by_amx || vnni || g_strcmp0 (setting->by, "madd") == 0;
  const gboolean bf16 = setting->by && (setting->operands == HALVED || setting->operands == MIXED),
                 rounds = bf16 && setting->operands == HALVED,
                 bytes = setting->by && setting->operands == BYTES;
  static const char *const units[] = { [HALVED] = " -DNF_BF16_AMX=1",
                                       [WHOLE] = " -DNF_F32_AMX=1",
                                       [MIXED] = " -DNF_WEIGHTS_AMX=1",
                                       [BYTES] = " -DNF_INT8_MADD=1 -DNF_INT8_AMX=1" };
  const char *const files[][9] = {
    { gpu ? "rows_gpu.cl" : "rows_cpu.cl", "pack.cl", "gate.cl", "optimizer.cl", "matmul.cl",
      gpu ? "mma.cl" : "matmul_cpu.cl",
      gpu   ? "matmul_gpu.cl"
      : amx ? "amx.cl"
            : NULL,
      bytes_by_amx ? "matmul_amx_int8.cl"
      : amx        ? "matmul_amx.cl"
                   : NULL },
    { "append.cl", "heads.cl", gpu ? "rows_gpu.cl" : "attention_cpu.cl",
      gpu             ? "mma.cl"
      : amx && rounds ? "amx.cl"
                      : NULL,
      gpu             ? "attention_mma.cl"
      : amx && rounds ? "attention_amx.cl"
                      : NULL,
      gpu ? "attention_gpu.cl" : NULL },
    { "flow.cl", "pixels.cl" },
  };

  g_autofree char *plain = g_strdup_printf ("%s,f32=fma", setting->variant);
  *rig = (Rig){ .device = amx || dot || madd ? open_form (setting) : nf_test_device (plain),
                .gpu = gpu,
                .amx = amx,
                .coarse = (amx || mma) && rounds,
                .mma = mma,
                .VW = setting->vector_width,
                .bf16 = bf16,
                .rounds = rounds,
                .bytes = bytes,
                .madd = madd,
                .half_keys = !gpu && (bytes || (rounds && !amx)) };
  rig->NR = 2 * rig->VW;
  rig->MR = bytes_by_amx    ? NF_ROWS_OF_AMX_INT8
            : amx           ? NF_ROWS_OF_AMX
            : rig->VW == 16 ? NF_ROWS_OF_16
                            : NF_ROWS_OF_8;
  rig->QT = amx && rounds ? NF_ROWS_OF_AMX : rig->VW == 16 ? NF_ROWS_OF_16 : NF_ROWS_OF_8;
  rig->depth = !amx ? 1 : bf16 || bytes ? 16 : 32;
  rig->planes = !amx || rounds || bytes ? 1 : bf16 ? 2 : 3;
  /* the last definition of VW counts, without a warning */
  for (guint i = 0; i < G_N_ELEMENTS (files); i++)
    {
      /* only attention is compiled for one size of heads */
      g_autofree char *options = g_strdup_printf ("-w -DVW=%d -DDH=%u -DD_MAX=%d%s%s%s", rig->VW,
                                                  i == 1 ? head_dim : HEAD_DIM, MAX (FEATURES, 48),
                                                  bf16    ? " -DNF_BF16=1"
                                                  : bytes ? " -DNF_INT8_WEIGHTS=1"
                                                          : "",
                                                  bf16 && !rounds ? " -DNF_BF16_WEIGHTS=1" : "",
                                                  amx           ? units[setting->operands]
                                                  : vnni        ? " -DNF_INT8_MADD=1 -DNF_INT8_VNNI=1"
                                                  : madd        ? " -DNF_INT8_MADD=1"
                                                  : dot         ? " -DNF_BF16_DOT=1"
                                                  : mma && bf16 ? " -DNF_BF16_MMA=1"
                                                  : mma         ? " -DNF_F32_MMA=1"
                                                                : "");
      rig->programs[i] = nf_device_get_program (rig->device, files[i], options, &error);
      nf_test_ok (rig->programs[i], error);
    }
  rig->queue = nf_device_new_queue (rig->device, &error);
  nf_test_ok (rig->queue, error);
  rig->memory = g_ptr_array_new_with_free_func ((GDestroyNotify)memory_free);
}

static inline guint32
nan_bits (void)
{
  return 0x7fc05a5a;
}

/* N floats, NaN, then the padding, then nothing. */
static inline Memory *
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
  for (gsize i = 0; i < bytes / sizeof bits; i++)
    memcpy (memory->host + i, &bits, sizeof bits);
  memory->mem = clCreateBuffer (nf_device_get_context (rig->device), CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR,
                                bytes, memory->host, &status);
  assert_int_equal (status, CL_SUCCESS);
  g_ptr_array_add (rig->memory, memory);
  return memory;
}

static inline void
put (Rig *rig, Memory *memory, gsize at, const float *values, gsize n)
{
  assert_true (at + n <= memory->n);
  assert_int_equal (clEnqueueWriteBuffer (rig->queue, memory->mem, CL_TRUE, at * sizeof (float),
                                          n * sizeof (float), values, 0, NULL, NULL),
                    CL_SUCCESS);
}

/* Values at AT in a buffer, that the places before must not change is seen by take(). */
static inline Memory *
give_at (Rig *rig, gsize at, const double *values, gsize n)
{
  Memory *memory = room (rig, at + n);
  g_autofree float *single = nf_test_to_float (values, n);
  put (rig, memory, at, single, n);
  return memory;
}

static inline Memory *
give (Rig *rig, const double *values, gsize n)
{
  return give_at (rig, 0, values, n);
}

static inline void
check_untouched (const char *what, const float *values, gsize n)
{
  const guint32 bits = nan_bits ();
  for (gsize i = 0; i < n; i++)
    if (memcmp (values + i, &bits, sizeof bits) != 0)
      fail_msg ("%s: value %" G_GSIZE_FORMAT " was written", what, i);
}

/* N values from AT on; what lies before and after must be as it was. */
static inline float *
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

static inline float *
take (Rig *rig, const Memory *memory)
{
  return take_at (rig, memory, 0);
}

/* To bfloat16, ties to even. */
static inline guint16
to_half (float value)
{
  guint32 bits;
  memcpy (&bits, &value, sizeof bits);
  return (guint16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float
from_half (guint16 half)
{
  const guint32 bits = (guint32)half << 16;
  float value;
  memcpy (&value, &bits, sizeof value);
  return value;
}

/* What a product has on its left is floats as they are. */
static inline gboolean
reads_floats (const Rig *rig)
{
  return !rig->gpu && !rig->rounds && rig->planes == 1;
}

/* Words of a row of N values on the left of a product, of one plane. */
static inline guint
left_width (const Rig *rig, guint N)
{
  return reads_floats (rig) ? N : N / 2;
}

/* M rows of WIDTH values, STEP words apart from AT on, are FLOATS as a product reads them; between rows
 * nothing was written.
 */
static inline void
check_left (Rig *rig, const char *what, const Memory *memory, gsize at, guint step, const float *floats,
            guint M, guint width)
{
  g_autofree float *words = take_at (rig, memory, at);
  for (guint m = 0; m < M; m++)
    {
      const float *row = words + (gsize)m * step;
      const guint16 *got = (const guint16 *)row;
      for (guint i = 0; i < width; i++)
        {
          const float value = floats[(gsize)m * width + i];
          if (reads_floats (rig))
            assert_true ((double)row[i] == (double)value);
          else if (got[i] != to_half (value))
            fail_msg ("%s, row %u, value %u: %04x for %g, not %04x", what, m, i, got[i], (double)value,
                      to_half (value));
        }
      if (m + 1 < M)
        check_untouched (what, row + left_width (rig, width), step - left_width (rig, width));
    }
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

static inline void
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

static inline size_t
divide_up (size_t a, size_t b)
{
  return (a + b - 1) / b;
}

/* Numbers as kernels see them, SPREAD times [-1, 1). */
static inline double *
numbers (guint32 seed, gsize n, double spread)
{
  double *x = nf_test_random (seed, n);
  for (gsize i = 0; i < n; i++)
    x[i] = (double)(float)(x[i] * spread);
  return x;
}

static inline double
gelu (double x)
{
  return 0.5 * x * erfc (-x * M_SQRT1_2);
}

static inline double
gelu_slope (double x)
{
  return 0.5 * erfc (-x * M_SQRT1_2) + x * exp (-0.5 * x * x) / sqrt (2 * M_PI);
}

/* The nearest bfloat16, ties to even. */
static inline guint32
to_bf16 (double x)
{
  const float single = (float)x;
  guint32 bits;
  memcpy (&bits, &single, sizeof bits);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline double
round_to_bf16 (double x)
{
  const guint32 bits = to_bf16 (x) << 16;
  float single;
  memcpy (&single, &bits, sizeof single);
  return (double)single;
}

/* N values, STEP apart, become integers times a power of two. The largest is MOST of these, so that kernels
 * find that very power. */
static inline void
round_to_integers (double *x, int n, gsize step, double most)
{
  int largest = 0;
  for (int i = 0; i < n; i++)
    if (fabs (x[i * step]) > fabs (x[largest * step]))
      largest = i;
  const double unit = exp2 (ceil (log2 (fabs (x[largest * step]) / most)));
  for (int i = 0; i < n; i++)
    x[i * step] = i == largest ? copysign (most * unit, x[i * step]) : rint (x[i * step] / unit) * unit;
}

/* What a product with elements of the rig makes of its right operand (rows, columns), and of the left one,
 * whose rows are ld apart. */
static inline void
round_right (const Rig *rig, double *x, int rows, int columns)
{
  for (gsize i = 0; rig->bf16 && i < (gsize)rows * columns; i++)
    x[i] = round_to_bf16 (x[i]);
  for (int j = 0; rig->bytes && j < columns; j++)
    round_to_integers (x + j, rows, columns, 127);
}
static inline void
round_left (const Rig *rig, double *x, int rows, int columns, int ld)
{
  for (int m = 0; rig->madd && m < rows; m++)
    round_to_integers (x + (gsize)m * ld, columns, 1, 32767);
  for (gsize i = 0; i < (gsize)rows * ld && (rig->rounds || rig->planes == 2); i++)
    {
      const double first = round_to_bf16 (x[i]);
      x[i] = first + (rig->planes == 2 ? round_to_bf16 (x[i] - first) : 0);
    }
}

/* Elements of K values, see nf_element in common.cl. */
static inline int
elements (const Rig *rig, int K)
{
  const int values = rig->bytes ? 4 : rig->bf16 ? 2 : 1;
  return (int)divide_up (divide_up (K, values), rig->depth) * rig->depth + rig->bytes;
}

/* Words of K values of a row on the left of a product. */
static inline int
left_words (const Rig *rig, int K)
{
  return rig->madd     ? (rig->amx ? (K + 63) / 64 * 32 : (K + 1) / 2) + 1
         : rig->amx    ? (K + 31) / 32 * 16 * rig->planes
         : rig->rounds ? elements (rig, K)
                       : K;
}

/* Value J of a row on the left of a product: a float, a bfloat16, or the sum of two or three. */
static inline float
read_left (const Rig *rig, const float *words, int j)
{
  const guint16 *halves = (const guint16 *)words;
  double sum = 0;
  if (reads_floats (rig))
    return words[j];
  for (int p = 0; p < rig->planes; p++)
    sum += (double)from_half (halves[rig->planes > 1 ? (j / 32 * rig->planes + p) * 32 + j % 32 : j]);
  return (float)sum;
}

static inline double
dot (const double *a, const double *b, int n)
{
  double sum = 0;
  for (int i = 0; i < n; i++)
    sum += a[i] * b[i];
  return sum;
}

/* An orthonormal matrix (D, D): a reflection. */
static inline double *
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

static inline Memory *
give_basis (Rig *rig, const double *W, int D)
{
  g_autofree float *single = nf_test_to_float (W, (gsize)D * D);
  g_autoptr (GArray) floats = nf_ops_arrange_basis (single, D);
  Memory *memory = room (rig, floats->len);
  put (rig, memory, 0, (const float *)floats->data, floats->len);
  return memory;
}

/* TRUE if NORMFLOW_DEVICE names a GPU with NVIDIA's tensor cores. */
static inline gboolean
find_mma (void)
{
  g_autoptr (NfDevice) device = nf_device_open (",f32=mma", NULL);
  return device != NULL;
}

typedef struct
{
  const char *name;
  CMUnitTestFunction run;
  enum
  {
    FLOATS,
    PRODUCTS,  /* again with other elements and instructions */
    GRADIENTS, /* likewise, but not with integers, by which nothing is trained */
    ATTENTION, /* again with the matrix unit, with tensor cores, and with keys and values in bfloat16 */
    PLANES     /* only where the matrix unit multiplies floats */
  } kind;
} KernelTest;

/* Runs N_TESTS TESTS in all settings that are of their kind. An argument is a pattern of the cases to run:
 * test-kernels-attention 'attention*gpu*'. */
static inline int
run_kernel_tests (const char *group, const KernelTest *tests, guint n_tests, int argc, char **argv)
{
  static Setting settings[] = { { "cpu", 16 },
                                { "cpu", 8 },
                                { "cpu", 4 },
                                { "gpu", 16 },
                                { "cpu", 16, "fma" },
                                { "cpu", 16, "dot" },
                                { "cpu", 16, "amx" },
                                { "cpu", 8, "fma" },
                                { "gpu", 16, "fma" },
                                { "cpu", 16, "amx", WHOLE },
                                { "cpu", 16, "amx", MIXED },
                                { "cpu", 16, "fma", MIXED },
                                { "cpu", 8, "fma", MIXED },
                                { "cpu", 4, "fma", MIXED },
                                { "gpu", 16, "fma", MIXED },
                                { "gpu", 16, "mma" },
                                { "gpu", 16, "mma", WHOLE },
                                { "gpu", 16, "mma", MIXED },
                                { "cpu", 16, "amx", BYTES },
                                { "cpu", 16, "vnni", BYTES },
                                { "cpu", 16, "madd", BYTES },
                                { "cpu", 8, "madd", BYTES },
                                { "cpu", 16, "fma", BYTES },
                                { "cpu", 8, "fma", BYTES },
                                { "cpu", 4, "fma", BYTES },
                                { "gpu", 16, "fma", BYTES } };
  static const char *const words[] = { [HALVED] = ", bfloat16 by ",
                                       [WHOLE] = ", floats by ",
                                       [MIXED] = ", floats and bfloat16 by ",
                                       [BYTES] = ", floats and bytes by " };
  const gboolean has_mma = find_mma ();
  g_autofree struct CMUnitTest *all = g_new (struct CMUnitTest, G_N_ELEMENTS (settings) * n_tests);
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  gsize n = 0;
  for (guint s = 0; s < G_N_ELEMENTS (settings); s++)
    for (guint t = 0; t < n_tests; t++)
      {
        const char *form = settings[s].by;
        const gboolean amx = g_strcmp0 (form, "amx") == 0, mma = g_strcmp0 (form, "mma") == 0,
                       halved = settings[s].operands == HALVED, mixed = settings[s].operands == MIXED,
                       half_keys = g_strcmp0 (form, "dot") == 0
                                   || (g_strcmp0 (form, "fma") == 0 && !mixed
                                       && strcmp (settings[s].variant, "cpu") == 0);
        if (mma && !has_mma)
          continue;
        if (settings[s].operands == BYTES && tests[t].kind == GRADIENTS)
          continue;
        if (tests[t].kind == PLANES
                ? !amx || halved || settings[s].operands == BYTES
                : form && tests[t].kind != PRODUCTS && tests[t].kind != GRADIENTS
                      && !(tests[t].kind == ATTENTION && ((amx && halved) || (mma && !mixed) || half_keys)))
          continue;
        char *name = g_strdup_printf (
            "%s, %s kernels, vectors of %u%s%s", tests[t].name, settings[s].variant, settings[s].vector_width,
            settings[s].by ? words[settings[s].operands] : "", settings[s].by ? settings[s].by : "");
        g_ptr_array_add (names, name);
        all[n++] = (struct CMUnitTest){ name, tests[t].run, NULL, NULL, &settings[s] };
      }
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return _cmocka_run_group_tests (group, all, n, NULL, NULL);
}
