/* normflow: every kernel against plain loops in double precision. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Both variants, every vector width. Buffers end where the address space does: 64 floats after the last
 * value, as promised in nf-ops.h, lies a page that cannot be read, and those 64 are NaN and must stay so. */
#include "nf-test.h"
#include "nf-device-private.h"
#include "nf-ops.h"
#include "kernels/launch.h"

#include <float.h>
#include <math.h>
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

/* A device whose CPU kernels make products by instructions for them; where it has none, the test is skipped.
 */
static NfDevice *
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

static void
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

static Memory *
give_words (Rig *rig, const gint32 *words, gsize n)
{
  Memory *memory = room (rig, n);
  put (rig, memory, 0, (const float *)(gconstpointer)words, n);
  return memory;
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

/* To bfloat16, ties to even. */
static guint16
to_half (float value)
{
  guint32 bits;
  memcpy (&bits, &value, sizeof bits);
  return (guint16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float
from_half (guint16 half)
{
  const guint32 bits = (guint32)half << 16;
  float value;
  memcpy (&value, &bits, sizeof value);
  return value;
}

/* What a product has on its left is floats as they are. */
static gboolean
reads_floats (const Rig *rig)
{
  return !rig->gpu && !rig->rounds && rig->planes == 1;
}

/* Words of a row of N values on the left of a product, of one plane. */
static guint
left_width (const Rig *rig, guint N)
{
  return reads_floats (rig) ? N : N / 2;
}

/* M rows of WIDTH values, STEP words apart from AT on, are FLOATS as a product reads them; between rows
 * nothing was written.
 */
static void
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

/* The nearest bfloat16, ties to even. */
static guint32
to_bf16 (double x)
{
  const float single = (float)x;
  guint32 bits;
  memcpy (&bits, &single, sizeof bits);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static double
round_to_bf16 (double x)
{
  const guint32 bits = to_bf16 (x) << 16;
  float single;
  memcpy (&single, &bits, sizeof single);
  return (double)single;
}

/* N values, STEP apart, become integers times a power of two. The largest is MOST of these, so that kernels
 * find that very power. */
static void
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
static void
round_right (const Rig *rig, double *x, int rows, int columns)
{
  for (gsize i = 0; rig->bf16 && i < (gsize)rows * columns; i++)
    x[i] = round_to_bf16 (x[i]);
  for (int j = 0; rig->bytes && j < columns; j++)
    round_to_integers (x + j, rows, columns, 127);
}
static void
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
static int
elements (const Rig *rig, int K)
{
  const int values = rig->bytes ? 4 : rig->bf16 ? 2 : 1;
  return (int)divide_up (divide_up (K, values), rig->depth) * rig->depth + rig->bytes;
}

/* Words of K values of a row on the left of a product. */
static int
left_words (const Rig *rig, int K)
{
  return rig->madd     ? (rig->amx ? (K + 63) / 64 * 32 : (K + 1) / 2) + 1
         : rig->amx    ? (K + 31) / 32 * 16 * rig->planes
         : rig->rounds ? elements (rig, K)
                       : K;
}

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

/* Products */

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

/* Value J of a row on the left of a product: a float, a bfloat16, or the sum of two or three. */
static float
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
        Memory *in = give_at (&rig, 1, x, (gsize)M * ldx - 3),
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
      Memory *x = give_at (&rig, 1, X, (gsize)M * ldx - 3), *left = room (&rig, 7 + (gsize)M * ld);
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

static double
dot (const double *a, const double *b, int n)
{
  double sum = 0;
  for (int i = 0; i < n; i++)
    sum += a[i] * b[i];
  return sum;
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

/* The flow */

static const int flow_features[] = { 1, 12, FEATURES };

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

static Memory *
give_basis (Rig *rig, const double *W, int D)
{
  g_autofree float *single = nf_test_to_float (W, (gsize)D * D);
  g_autoptr (GArray) floats = nf_ops_arrange_basis (single, D);
  Memory *memory = room (rig, floats->len);
  put (rig, memory, 0, (const float *)floats->data, floats->len);
  return memory;
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

/* TRUE if NORMFLOW_DEVICE names a GPU with NVIDIA's tensor cores. */
static gboolean
find_mma (void)
{
  g_autoptr (NfDevice) device = nf_device_open (",f32=mma", NULL);
  return device != NULL;
}

/* An argument is a pattern of the cases to run: test-kernels 'attention*gpu*'. */
int
main (int argc, char **argv)
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
  static const struct
  {
    const char *name;
    CMUnitTestFunction run;
    enum
    {
      FLOATS,
      PRODUCTS,  /* again with other elements and instructions */
      ATTENTION, /* again with the matrix unit, with tensor cores, and with keys and values in bfloat16 */
      PLANES     /* only where the matrix unit multiplies floats */
    } kind;
  } tests[] = {
    { "exp, gelu", test_math, PRODUCTS },
    { "pack", test_pack, PRODUCTS },
    { "matmul", test_matmul, PRODUCTS },
    { "matmul in batches", test_matmul_batches, PRODUCTS },
    { "matmul, whole tiles", test_matmul_whole, PRODUCTS },
    { "matmul, left", test_matmul_left, PRODUCTS },
    { "matmul, accuracy", test_matmul_accuracy, PRODUCTS },
    { "matmul, special values", test_matmul_special, PRODUCTS },
    { "matmul, scales", test_matmul_scales, PRODUCTS },
    { "matmul, integers", test_matmul_integers, PRODUCTS },
    { "matmul transposed", test_matmul_tn, PRODUCTS },
    { "column sums", test_column_sums },
    { "gradients of left rows", test_left_gradients, PRODUCTS },
    { "norms", test_norm },
    { "norms of integers", test_norm_of_integers, PRODUCTS },
    { "heads", test_heads },
    { "gate", test_gate },
    { "attention", test_attention, ATTENTION },
    { "attention of left rows", test_attention_of_left, ATTENTION },
    { "attention backward", test_attention_backward, ATTENTION },
    { "attention in planes", test_attention_planes, PLANES },
    { "attention masks", test_attention_masks, ATTENTION },
    { "head sizes", test_head_sizes, ATTENTION },
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
    { "pixels", test_pixels },
    { "adamw", test_adamw },
    { "sums and denoise", test_sums_and_denoise },
  };
  static const char *const words[] = { [HALVED] = ", bfloat16 by ",
                                       [WHOLE] = ", floats by ",
                                       [MIXED] = ", floats and bfloat16 by ",
                                       [BYTES] = ", floats and bytes by " };
  const gboolean has_mma = find_mma ();
  struct CMUnitTest all[G_N_ELEMENTS (settings) * G_N_ELEMENTS (tests)];
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  gsize n = 0;
  for (guint s = 0; s < G_N_ELEMENTS (settings); s++)
    for (guint t = 0; t < G_N_ELEMENTS (tests); t++)
      {
        const char *form = settings[s].by;
        const gboolean amx = g_strcmp0 (form, "amx") == 0, mma = g_strcmp0 (form, "mma") == 0,
                       halved = settings[s].operands == HALVED, mixed = settings[s].operands == MIXED,
                       half_keys = g_strcmp0 (form, "dot") == 0
                                   || (g_strcmp0 (form, "fma") == 0 && !mixed
                                       && strcmp (settings[s].variant, "cpu") == 0);
        if (mma && !has_mma)
          continue;
        if (settings[s].operands == BYTES && tests[t].run == test_matmul_tn) /* of training */
          continue;
        if (tests[t].kind == PLANES
                ? !amx || halved || settings[s].operands == BYTES
                : form && tests[t].kind != PRODUCTS
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
  return _cmocka_run_group_tests ("kernels", all, n, NULL, NULL);
}
