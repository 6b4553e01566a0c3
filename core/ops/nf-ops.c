/* normflow: operations on device tensors. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-ops.h"
#include "nf-command-list.h"
#include "nf-ops-profile.h"
#include "kernels/launch.h"

#include <string.h>

typedef enum
{
  KERNEL_MATMUL,
  KERNEL_COLUMN_SUMS,
  KERNEL_NORM,
  KERNEL_NORM_BACKWARD,
  KERNEL_HEADS,
  KERNEL_HEADS_BACKWARD,
  KERNEL_APPEND,
  KERNEL_ATTENTION,
  KERNEL_ATTENTION_BACKWARD,
  KERNEL_GATE,
  KERNEL_GATE_BACKWARD,
  KERNEL_PACK,
  KERNEL_MAKE_LEFT,   /* exists where products do not read floats */
  KERNEL_PACK_LEFT,   /* with AMX */
  KERNEL_PACK_HALVES, /* where gradients are of bfloat16, on a CPU */
  KERNEL_AFFINE,
  KERNEL_AFFINE_BACKWARD,
  KERNEL_AFFINE_INVERSE,
  KERNEL_FORESEE,
  KERNEL_RECALL,
  KERNEL_SETTLE,
  KERNEL_SHIFT_IN,
  KERNEL_SHIFT_IN_BACKWARD,
  KERNEL_PRIOR,
  KERNEL_REORDER,
  KERNEL_GRID,
  KERNEL_DENOISE,
  KERNEL_CLASS_EMBED,
  KERNEL_CLASS_EMBED_BACKWARD,
  KERNEL_POSITION_BACKWARD,
  KERNEL_PIXELS_TO_TOKENS,
  KERNEL_TOKENS_TO_PIXELS,
  KERNEL_ADAMW,
  KERNEL_SUM_SQUARES,
  N_KERNELS,
} Kernel;

static const char *const kernel_names[N_KERNELS] = {
  [KERNEL_MATMUL] = "nf_matmul",
  [KERNEL_COLUMN_SUMS] = "nf_column_sums",
  [KERNEL_NORM] = "nf_norm",
  [KERNEL_NORM_BACKWARD] = "nf_norm_backward",
  [KERNEL_HEADS] = "nf_heads",
  [KERNEL_HEADS_BACKWARD] = "nf_heads_backward",
  [KERNEL_APPEND] = "nf_append",
  [KERNEL_ATTENTION] = "nf_attention",
  [KERNEL_ATTENTION_BACKWARD] = "nf_attention_backward",
  [KERNEL_GATE] = "nf_gate",
  [KERNEL_GATE_BACKWARD] = "nf_gate_backward",
  [KERNEL_PACK] = "nf_pack",
  [KERNEL_MAKE_LEFT] = "nf_make_left",
  [KERNEL_PACK_LEFT] = "nf_pack_left",
  [KERNEL_PACK_HALVES] = "nf_pack_halves",
  [KERNEL_AFFINE] = "nf_affine",
  [KERNEL_AFFINE_BACKWARD] = "nf_affine_backward",
  [KERNEL_AFFINE_INVERSE] = "nf_affine_inverse",
  [KERNEL_FORESEE] = "nf_foresee",
  [KERNEL_RECALL] = "nf_recall",
  [KERNEL_SETTLE] = "nf_settle",
  [KERNEL_SHIFT_IN] = "nf_shift_in",
  [KERNEL_SHIFT_IN_BACKWARD] = "nf_shift_in_backward",
  [KERNEL_PRIOR] = "nf_prior",
  [KERNEL_REORDER] = "nf_reorder",
  [KERNEL_GRID] = "nf_grid",
  [KERNEL_DENOISE] = "nf_denoise",
  [KERNEL_CLASS_EMBED] = "nf_class_embed",
  [KERNEL_CLASS_EMBED_BACKWARD] = "nf_class_embed_backward",
  [KERNEL_POSITION_BACKWARD] = "nf_position_backward",
  [KERNEL_PIXELS_TO_TOKENS] = "nf_pixels_to_tokens",
  [KERNEL_TOKENS_TO_PIXELS] = "nf_tokens_to_pixels",
  [KERNEL_ADAMW] = "nf_adamw",
  [KERNEL_SUM_SQUARES] = "nf_sum_squares",
};

/* Those that a command list may hold; from NF_LIST_COLUMN_SUMS on only one of gradients. */
static const NfListed kernel_commands[N_KERNELS] = {
  [KERNEL_MATMUL] = NF_LIST_MATMUL,
  [KERNEL_NORM] = NF_LIST_NORM,
  [KERNEL_HEADS] = NF_LIST_HEADS,
  [KERNEL_APPEND] = NF_LIST_APPEND,
  [KERNEL_ATTENTION] = NF_LIST_ATTENTION,
  [KERNEL_GATE] = NF_LIST_GATE,
  [KERNEL_PACK] = NF_LIST_PACK,
  [KERNEL_MAKE_LEFT] = NF_LIST_MAKE_LEFT,
  [KERNEL_AFFINE] = NF_LIST_AFFINE,
  [KERNEL_AFFINE_INVERSE] = NF_LIST_AFFINE_INVERSE,
  [KERNEL_FORESEE] = NF_LIST_FORESEE,
  [KERNEL_RECALL] = NF_LIST_RECALL,
  [KERNEL_SETTLE] = NF_LIST_SETTLE,
  [KERNEL_SHIFT_IN] = NF_LIST_SHIFT_IN,
  [KERNEL_PRIOR] = NF_LIST_PRIOR,
  [KERNEL_REORDER] = NF_LIST_REORDER,
  [KERNEL_GRID] = NF_LIST_GRID,
  [KERNEL_DENOISE] = NF_LIST_DENOISE,
  [KERNEL_CLASS_EMBED] = NF_LIST_CLASS_EMBED,
  [KERNEL_PIXELS_TO_TOKENS] = NF_LIST_PIXELS_TO_TOKENS,
  [KERNEL_TOKENS_TO_PIXELS] = NF_LIST_TOKENS_TO_PIXELS,
  [KERNEL_COLUMN_SUMS] = NF_LIST_COLUMN_SUMS,
  [KERNEL_NORM_BACKWARD] = NF_LIST_NORM_BACKWARD,
  [KERNEL_HEADS_BACKWARD] = NF_LIST_HEADS_BACKWARD,
  [KERNEL_ATTENTION_BACKWARD] = NF_LIST_ATTENTION_BACKWARD,
  [KERNEL_GATE_BACKWARD] = NF_LIST_GATE_BACKWARD,
  [KERNEL_PACK_LEFT] = NF_LIST_PACK_LEFT,
  [KERNEL_PACK_HALVES] = NF_LIST_PACK_HALVES,
  [KERNEL_AFFINE_BACKWARD] = NF_LIST_AFFINE_BACKWARD,
  [KERNEL_SHIFT_IN_BACKWARD] = NF_LIST_SHIFT_IN_BACKWARD,
  [KERNEL_CLASS_EMBED_BACKWARD] = NF_LIST_CLASS_EMBED_BACKWARD,
  [KERNEL_POSITION_BACKWARD] = NF_LIST_POSITION_BACKWARD,
  [KERNEL_ADAMW] = NF_LIST_ADAMW,
  [KERNEL_SUM_SQUARES] = NF_LIST_SUM_SQUARES,
};

struct _NfOps
{
  NfDevice *device;
  cl_command_queue queue;
  NfCommandList *list;          /* what is not enqueued yet; NULL where each launch is one */
  gboolean list_of_gradients;   /* it may hold all commands */
  gsize work;                   /* of products in it, multiply-adds */
  cl_event pace;                /* behind what was enqueued before the last nf_ops_pace(), or NULL */
  cl_kernel kernels[N_KERNELS]; /* NULL as long as they were not launched, but by lists */
  cl_uint n_arguments[N_KERNELS];
  gboolean gpu;       /* the GPU variant of the kernels */
  guint vector_width; /* VW of common.cl */
  guint panel;        /* NR of common.cl */
  guint row_tile;     /* MR of common.cl */
  guint query_tile;   /* QT of attention_cpu.cl, SIDE of attention_gpu.cl */
  guint head_dim;
  guint features;  /* of a token, as it is compiled for: tokens of nearly the same size are one case */
  guint depth;     /* NF_DEPTH of common.cl */
  guint planes;    /* NF_PLANES, likewise */
  guint values;    /* in an element of a packed matrix: a float, two bfloat16 or four integers */
  gboolean bf16;   /* two */
  gboolean rounds; /* so is what they are multiplied by */
  gboolean madd;   /* four, and two integers are what they are multiplied by */
  gboolean amx;    /* the matrix unit multiplies; integers where rows are more than NF_FEW_ROWS */
  gboolean attends_by_amx; /* attention is in bfloat16, by it */
  gboolean half_keys;      /* keys and values are bfloat16, for multiply-adds: NF_HALF_KEYS of append.cl */
  NfBuffer *panels; /* operands of a product as it reads them: of nf_ops_matmul_tn(), rows on the left */
  GError *failure;
  NfOpsProfile *profile; /* or NULL */
  gboolean by_columns;   /* the next launch's items are shared out by columns */
  char detail[64];       /* what a profile says of the next launch besides the kernel's name */
};

/* Where a command's event goes: nowhere without a profile. */
static cl_event *
note (NfOps *ops, const char *what, const char *detail)
{
  return ops->profile ? nf_ops_profile_note (ops->profile, what, detail) : NULL;
}

/* Launching */

#define BUFFER(b)                                                                                            \
  {                                                                                                          \
    sizeof (cl_mem), (b) ? &(b)->mem : NULL, TRUE, (b)                                                       \
  }
#define VIEW(v)                                                                                              \
  BUFFER ((v).buffer),                                                                                       \
  {                                                                                                          \
    .size = sizeof (cl_ulong), .value = &(cl_ulong) { (v).at }                                               \
  }
#define LONG(x)                                                                                              \
  {                                                                                                          \
    .size = sizeof (cl_ulong), .value = &(cl_ulong) { (x) }                                                  \
  }
#define INT(x)                                                                                               \
  {                                                                                                          \
    .size = sizeof (cl_int), .value = &(cl_int) { (cl_int) (x) }                                             \
  }
#define FLOAT(x)                                                                                             \
  {                                                                                                          \
    .size = sizeof (cl_float), .value = &(cl_float) { (x) }                                                  \
  }
#define VALUE(x)                                                                                             \
  {                                                                                                          \
    .size = sizeof (x), .value = &(x)                                                                        \
  }

/* TRUE if commands go into a list. A profile wants each for itself. */
static gboolean
lists (NfOps *ops)
{
  return ops->list && !ops->profile;
}

/* Enqueues the list: before everything that does not go into it. */
static void
enqueue_list (NfOps *ops)
{
  const cl_int status = ops->list ? nf_command_list_flush (ops->list) : CL_SUCCESS;
  if (status != CL_SUCCESS && !ops->failure)
    nf_cl_error (&ops->failure, status, "cannot run a command list");
  ops->work = 0;
}

/* Waits for the queue. */
static cl_int
wait_for_all (NfOps *ops)
{
  enqueue_list (ops);
  const cl_int status = clFinish (ops->queue);
  g_clear_pointer (&ops->pace, clReleaseEvent);
  if (ops->list)
    nf_command_list_retire (ops->list);
  return status;
}

/* TRUE if COUNT rows of so many floats go into the list. Else what is in it is enqueued. */
static gboolean
lists_rows (NfOps *ops, gsize floats, guint count)
{
  if (lists (ops) && nf_command_list_takes_rows (floats, count))
    return TRUE;
  enqueue_list (ops);
  return FALSE;
}

static gboolean need_kernel (NfOps *ops, Kernel kernel, GError **error);

/* TRUE if a launch goes into the list. */
static gboolean
lists_kernel (NfOps *ops, Kernel kernel, const size_t global[3])
{
  return lists (ops) && kernel_commands[kernel] && nf_command_list_takes (global)
         && (ops->list_of_gradients || kernel_commands[kernel] < NF_LIST_COLUMN_SUMS);
}

static void
launch (NfOps *ops, Kernel kernel, const size_t global[3], const size_t local[3], const NfArgument *arguments,
        guint n)
{
  if (ops->failure || global[0] == 0 || global[1] == 0 || global[2] == 0)
    return;
  if (lists_kernel (ops, kernel, global))
    {
      const cl_int added
          = nf_command_list_add (ops->list, kernel_commands[kernel], global, ops->by_columns, arguments, n);
      if (added != CL_SUCCESS)
        nf_cl_error (&ops->failure, added, "cannot run the kernel %s", kernel_names[kernel]);
      return;
    }
  enqueue_list (ops);
  if (ops->failure || !need_kernel (ops, kernel, &ops->failure))
    return;
  /* a driver may crash on arguments that do not fit */
  g_assert (n == ops->n_arguments[kernel]);
  cl_int status = CL_SUCCESS;
  for (guint i = 0; i < n && status == CL_SUCCESS; i++)
    status = clSetKernelArg (ops->kernels[kernel], i, arguments[i].size, arguments[i].value);
  if (status == CL_SUCCESS)
    status = clEnqueueNDRangeKernel (ops->queue, ops->kernels[kernel], 3, NULL, global, local, 0, NULL,
                                     note (ops, kernel_names[kernel], ops->detail));
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "cannot run the kernel %s", kernel_names[kernel]);
}

#define LAUNCH(ops, kernel, global, local, ...)                                                              \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    const NfArgument arguments_[] = { __VA_ARGS__ };                                                         \
    launch (ops, kernel, global, local, arguments_, G_N_ELEMENTS (arguments_));                              \
  }                                                                                                          \
  G_STMT_END

/* Kernels of independent work-items: groups of one on a CPU (another size would be another compilation), as
 * many as divide evenly on a GPU. */
#define LAUNCH_ITEMS(ops, kernel, x, y, ...)                                                                 \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    const size_t items_[3] = { (x), (y), 1 };                                                                \
    const size_t group_[3] = { even_group (ops, items_[0]), 1, 1 };                                          \
    LAUNCH (ops, kernel, items_, group_, __VA_ARGS__);                                                       \
  }                                                                                                          \
  G_STMT_END

/* Kernels of the GPU variant whose work-groups have NF_GROUP items along x and LINES along y, whatever the
 * device. */
#define LAUNCH_GROUPS(ops, kernel, x, y, lines, ...)                                                         \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    const size_t items_[3] = { (size_t)divide_up (x, NF_GROUP) * NF_GROUP, (size_t)(y) * (lines), 1 };       \
    const size_t group_[3] = { NF_GROUP, lines, 1 };                                                         \
    LAUNCH (ops, kernel, items_, group_, __VA_ARGS__);                                                       \
  }                                                                                                          \
  G_STMT_END

static size_t
even_group (NfOps *ops, size_t items)
{
  size_t group = 1;

  if (nf_device_get_info (ops->device)->is_gpu)
    while (group < NF_GROUP && items % (2 * group) == 0)
      group *= 2;
  return group;
}

static guint
divide_up (guint a, guint b)
{
  return (a + b - 1) / b;
}

/* Making */

/* Three programs, so that models share what they can. */
#define N_PARTS 3

/* What makes products by the matrix unit, or NULL. */
static const char *
get_amx_file (NfOps *ops)
{
  return !ops->amx ? NULL : ops->madd ? "matmul_amx_int8.cl" : "matmul_amx.cl";
}

static cl_program
get_part (NfOps *ops, guint part, GError **error)
{
  g_autofree char *head = g_strdup_printf ("-DDH=%u", ops->head_dim),
                  *token = g_strdup_printf ("-DD_MAX=%u", ops->features);
  const struct
  {
    const char *files[10], *options;
  } parts[N_PARTS] = {
    { { ops->gpu ? "rows_gpu.cl" : "rows_cpu.cl", "pack.cl", "gate.cl", "optimizer.cl", "matmul.cl",
        ops->gpu ? "mma.cl" : "matmul_cpu.cl",
        ops->gpu   ? "matmul_gpu.cl"
        : ops->amx ? "amx.cl"
                   : NULL,
        get_amx_file (ops) },
      "" },
    { { "append.cl", "heads.cl", ops->gpu ? "rows_gpu.cl" : "attention_cpu.cl",
        ops->gpu              ? "mma.cl"
        : ops->attends_by_amx ? "amx.cl"
                              : NULL,
        ops->gpu              ? "attention_mma.cl"
        : ops->attends_by_amx ? "attention_amx.cl"
                              : NULL,
        ops->gpu ? "attention_gpu.cl" : NULL },
      head },
    { { "flow.cl", "pixels.cl" }, token },
  };
  return nf_device_get_program (ops->device, parts[part].files, parts[part].options, error);
}

/* What a list may hold is one program; that of gradients takes longer to compile. */
static cl_program
get_list_program (NfOps *ops, gboolean gradients, GError **error)
{
  g_autofree char *options
      = g_strdup_printf ("-DDH=%u -DD_MAX=%u -DNF_LIST=%d", ops->head_dim, ops->features, gradients ? 2 : 1);
  const char *files[17] = { "rows_cpu.cl", "matmul.cl", "matmul_cpu.cl",    "pack.cl", "gate.cl",
                            "append.cl",   "heads.cl",  "attention_cpu.cl", "flow.cl", "pixels.cl" };
  guint n = g_strv_length ((GStrv)files);
  if (ops->amx)
    {
      files[n++] = "amx.cl";
      files[n++] = get_amx_file (ops);
    }
  if (ops->attends_by_amx)
    files[n++] = "attention_amx.cl";
  if (gradients)
    files[n++] = "optimizer.cl";
  files[n++] = "listed.h";
  files[n] = "list.cl";
  return nf_device_get_program (ops->device, files, options, error);
}

/* Another list, in whose place there may be one. NULL in it if the device takes none. */
static gboolean
make_list (NfOps *ops, gboolean gradients, GError **error)
{
  g_autoptr (GError) failure = NULL;
  cl_program program = get_list_program (ops, gradients, error);
  if (!program)
    return FALSE;
  g_clear_pointer (&ops->list, nf_command_list_free);
  ops->list = nf_command_list_new (ops->device, program, ops->queue, &failure);
  ops->list_of_gradients = gradients;
  if (!failure)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&failure));
  return FALSE;
}

/* Not all are in each form. */
static gboolean
exists (NfOps *ops, Kernel kernel)
{
  switch (kernel)
    {
    case KERNEL_MAKE_LEFT:
      return ops->rounds || ops->amx || ops->madd;
    case KERNEL_PACK_LEFT:
      return ops->amx && !ops->madd;
    case KERNEL_PACK_HALVES:
      return nf_ops_gradients_read_left (ops);
    default:
      return TRUE;
    }
}

/* Compiles what KERNEL is in, if it was not compiled yet. */
static gboolean
need_kernel (NfOps *ops, Kernel kernel, GError **error)
{
  cl_int status = CL_INVALID_KERNEL_NAME;
  if (ops->kernels[kernel])
    return TRUE;
  for (guint part = 0; part < N_PARTS && status == CL_INVALID_KERNEL_NAME; part++)
    {
      cl_program program = get_part (ops, part, error);
      if (!program)
        return FALSE;
      ops->kernels[kernel] = clCreateKernel (program, kernel_names[kernel], &status);
    }
  if (status == CL_SUCCESS)
    status = clGetKernelInfo (ops->kernels[kernel], CL_KERNEL_NUM_ARGS, sizeof (cl_uint),
                              &ops->n_arguments[kernel], NULL);
  if (status == CL_SUCCESS)
    return TRUE;
  g_clear_pointer (&ops->kernels[kernel], clReleaseKernel);
  return nf_cl_error (error, status, "cannot create the kernel %s", kernel_names[kernel]);
}

/* How products are cut, as common.cl says it of the same forms. */
static void
set_form (NfOps *ops)
{
  static const struct
  {
    guint planes, row_tile, depth;
  } of_amx[] = { { 3, NF_ROWS_OF_AMX, 32 },
                 { 2, NF_ROWS_OF_AMX, 16 },
                 { 1, NF_ROWS_OF_AMX, 16 },
                 { 1, NF_ROWS_OF_AMX_INT8, 16 } }; /* by what it multiplies */
  enum
  {
    FLOATS,
    FLOATS_BY_BF16,
    BF16,
    INTEGERS
  } factors
      = ops->madd     ? INTEGERS
        : ops->rounds ? BF16
        : ops->bf16   ? FLOATS_BY_BF16
                      : FLOATS;
  ops->planes = ops->amx ? of_amx[factors].planes : 1;
  ops->row_tile = ops->amx                  ? of_amx[factors].row_tile
                  : ops->vector_width == 16 ? NF_ROWS_OF_16
                                            : NF_ROWS_OF_8;
  ops->depth = ops->amx ? of_amx[factors].depth : 1;
}

NfOps *
nf_ops_new (NfDevice *device, guint head_dim, guint features, GError **error)
{
  g_autoptr (NfOps) ops = g_new0 (NfOps, 1);
  ops->device = g_object_ref (device);
  ops->gpu = nf_device_uses_gpu_kernels (device);
  ops->vector_width = nf_device_get_vector_width (device);
  ops->panel = 2 * ops->vector_width;
  ops->values = nf_device_values_per_word (device);
  ops->bf16 = nf_device_uses_bf16 (device);
  ops->rounds = nf_device_rounds_to_bf16 (device);
  ops->madd = nf_device_get_int8 (device) != NF_INT8_FMA;
  ops->amx = nf_device_uses_amx (device);
  set_form (ops);
  ops->attends_by_amx = ops->amx && ops->rounds;
  ops->half_keys = !ops->gpu && (ops->rounds || ops->values == 4) && !ops->attends_by_amx;
  ops->query_tile = ops->gpu                  ? NF_QUERIES_OF_GPU
                    : ops->attends_by_amx     ? NF_ROWS_OF_AMX
                    : ops->vector_width == 16 ? NF_ROWS_OF_16
                                              : NF_ROWS_OF_8;
  ops->head_dim = head_dim;

  ops->features = divide_up (features, 64) * 64;
  ops->queue = nf_device_new_queue (device, error);
  if (!ops->queue)
    return NULL;
  if (nf_device_launches_lists (device) && !make_list (ops, FALSE, error))
    return NULL;
  for (guint i = 0; !ops->list && i < N_KERNELS; i++)
    if (exists (ops, i) && !need_kernel (ops, i, error))
      return NULL;
  return g_steal_pointer (&ops);
}

gboolean
nf_ops_list_gradients (NfOps *ops, GError **error)
{
  return !ops->list || ops->list_of_gradients || (nf_ops_finish (ops, error) && make_list (ops, TRUE, error));
}

/* Another queue, with or without notes of times. */
static gboolean
renew_queue (NfOps *ops, gboolean profile, GError **error)
{
  cl_int status;
  if (!nf_ops_finish (ops, error))
    return FALSE;
  cl_command_queue queue
      = clCreateCommandQueue (nf_device_get_context (ops->device), nf_device_get_id (ops->device),
                              profile ? CL_QUEUE_PROFILING_ENABLE : 0, &status);
  if (status != CL_SUCCESS)
    return nf_cl_error (error, status, "cannot create a command queue on %s",
                        nf_device_get_info (ops->device)->name);
  clReleaseCommandQueue (ops->queue);
  ops->queue = queue;
  if (ops->list)
    nf_command_list_set_queue (ops->list, queue);
  return TRUE;
}

gboolean
nf_ops_start_profile (NfOps *ops, GError **error)
{
  g_assert (!ops->profile);
  if (!renew_queue (ops, TRUE, error))
    return FALSE;
  ops->profile = nf_ops_profile_new ();
  return TRUE;
}

GPtrArray *
nf_ops_end_profile (NfOps *ops, GError **error)
{
  g_assert (ops->profile);
  if (!nf_ops_finish (ops, error))
    return NULL;
  g_autoptr (GPtrArray) times = nf_ops_profile_end (g_steal_pointer (&ops->profile));
  return renew_queue (ops, FALSE, error) ? g_steal_pointer (&times) : NULL;
}

void
nf_ops_free (NfOps *ops)
{
  g_clear_pointer (&ops->profile, nf_ops_profile_free);
  if (ops->queue)
    wait_for_all (ops);
  g_clear_pointer (&ops->list, nf_command_list_free);
  if (ops->queue)
    clReleaseCommandQueue (ops->queue);
  for (guint i = 0; i < N_KERNELS; i++)
    if (ops->kernels[i])
      clReleaseKernel (ops->kernels[i]);
  g_clear_pointer (&ops->panels, nf_buffer_free);
  g_clear_error (&ops->failure);
  g_clear_object (&ops->device);
  g_free (ops);
}

NfDevice *
nf_ops_get_device (NfOps *ops)
{
  return ops->device;
}

/* Memory */

NfBuffer *
nf_ops_alloc (NfOps *ops, gsize floats)
{
  if (ops->failure)
    return NULL;

  g_autoptr (NfBuffer) buffer
      = nf_buffer_new (ops->device, (floats + NF_PADDING) * sizeof (float), &ops->failure);
  if (buffer && !buffer->memory)
    nf_ops_fill (ops, nf_view (buffer, 0), 0.0f, floats + NF_PADDING);
  return ops->failure ? NULL : g_steal_pointer (&buffer);
}

GArray *
nf_ops_arrange_basis (const float *W, guint D)
{
  const guint parts = divide_up (D, NF_BASIS_PART), row = parts * NF_BASIS_PART;
  GArray *floats = g_array_new (FALSE, TRUE, sizeof (float));
  g_array_set_size (floats, 2 * D * row + 2 * parts);
  float *rows = (float *)floats->data, *columns = rows + (gsize)D * row, *ranges = columns + (gsize)D * row;

  for (guint part = 0; part < parts; part++)
    ranges[2 * part] = (float)D;
  for (guint i = 0; i < D; i++)
    for (guint j = 0; j < D; j++)
      {
        const float value = W[(gsize)i * D + j];
        rows[(gsize)i * row + j] = columns[(gsize)j * row + i] = value;
        /* of both matrices */
        for (guint k = 0; value != 0 && k < 2; k++)
          {
            float *range = ranges + 2 * ((k ? i : j) / NF_BASIS_PART);
            range[0] = MIN (range[0], (float)(k ? j : i));
            range[1] = MAX (range[1], (float)((k ? j : i) + 1));
          }
      }
  for (guint part = 1; part < parts; part++)
    ranges[2 * part + 1] = MAX (ranges[2 * part + 1], ranges[2 * part - 1]);
  for (guint part = parts - 1; part > 0; part--)
    ranges[2 * part - 2] = MIN (ranges[2 * part - 2], ranges[2 * part]);
  return floats;
}

NfBuffer *
nf_ops_new_basis (NfOps *ops, const float *W, guint D)
{
  g_autoptr (GArray) floats = nf_ops_arrange_basis (W, D);
  NfBuffer *basis = nf_ops_alloc (ops, floats->len);

  if (basis)
    nf_ops_write (ops, nf_view (basis, 0), floats->data, floats->len * sizeof (float));
  return basis;
}

/* Moves the kept failure to ERROR. The queue is usable again afterwards. */
static gboolean
report (NfOps *ops, GError **error)
{
  if (!ops->failure)
    return TRUE;
  g_propagate_error (error, g_steal_pointer (&ops->failure));
  return FALSE;
}

gboolean
nf_ops_finish (NfOps *ops, GError **error)
{
  cl_int status = wait_for_all (ops);
  if (status != CL_SUCCESS && !ops->failure)
    nf_cl_error (&ops->failure, status, "the device %s failed", nf_device_get_info (ops->device)->name);
  return report (ops, error);
}

void
nf_ops_pace (NfOps *ops)
{
  cl_event pace = NULL;
  enqueue_list (ops);
  if (ops->failure)
    return;
  cl_int status = clEnqueueMarkerWithWaitList (ops->queue, 0, NULL, &pace);
  if (status == CL_SUCCESS)
    status = clFlush (ops->queue);
  if (status == CL_SUCCESS && ops->pace)
    status = clWaitForEvents (1, &ops->pace);
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "the device %s failed", nf_device_get_info (ops->device)->name);
  g_clear_pointer (&ops->pace, clReleaseEvent);
  ops->pace = pace;
}

void
nf_ops_write (NfOps *ops, NfView to, const void *from, gsize bytes)
{
  if (ops->failure || bytes == 0)
    return;
  enqueue_list (ops);
  cl_int status = clEnqueueWriteBuffer (ops->queue, to.buffer->mem, CL_TRUE, to.at * sizeof (float), bytes,
                                        from, 0, NULL, note (ops, "write", ""));
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "cannot upload %" G_GSIZE_FORMAT " bytes", bytes);
}

static void
read_view (NfOps *ops, NfView from, void *to, gsize bytes, cl_bool wait)
{
  if (ops->failure || bytes == 0)
    return;
  enqueue_list (ops);
  cl_int status = clEnqueueReadBuffer (ops->queue, from.buffer->mem, wait, from.at * sizeof (float), bytes,
                                       to, 0, NULL, note (ops, "read", ""));
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "cannot download %" G_GSIZE_FORMAT " bytes", bytes);
}

gboolean
nf_ops_read (NfOps *ops, NfView from, void *to, gsize bytes, GError **error)
{
  read_view (ops, from, to, bytes, CL_TRUE);
  /* reads that were enqueued before must not outlast the caller's memory */
  return ops->failure ? nf_ops_finish (ops, error) : TRUE;
}

void
nf_ops_read_later (NfOps *ops, NfView from, void *to, gsize bytes)
{
  read_view (ops, from, to, bytes, CL_FALSE);
}

void
nf_ops_copy (NfOps *ops, NfView from, NfView to, gsize floats)
{
  if (ops->failure || floats == 0)
    return;
  cl_int status
      = lists_rows (ops, floats, 1)
            ? nf_command_list_copy (ops->list, from.buffer, from.at, 0, to.buffer, to.at, 0, floats, 1)
            : clEnqueueCopyBuffer (ops->queue, from.buffer->mem, to.buffer->mem, from.at * sizeof (float),
                                   to.at * sizeof (float), floats * sizeof (float), 0, NULL,
                                   note (ops, "copy", ""));
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "cannot copy %" G_GSIZE_FORMAT " floats on the device", floats);
}

void
nf_ops_copy_rows (NfOps *ops, NfView from, gsize from_step, NfView to, gsize to_step, gsize floats,
                  guint count)
{
  if (ops->failure || floats == 0 || count == 0)
    return;
  const size_t size = sizeof (float), from_origin[3] = { from.at * size, 0, 0 },
               to_origin[3] = { to.at * size, 0, 0 }, region[3] = { floats * size, count, 1 };
  g_assert (count == 1 || (from_step >= floats && to_step >= floats));
  cl_int status = lists_rows (ops, floats, count)
                      ? nf_command_list_copy (ops->list, from.buffer, from.at, from_step, to.buffer, to.at,
                                              to_step, floats, count)
                      : clEnqueueCopyBufferRect (ops->queue, from.buffer->mem, to.buffer->mem, from_origin,
                                                 to_origin, region, from_step * size, 0, to_step * size, 0, 0,
                                                 NULL, note (ops, "copy", ""));
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "cannot copy %u rows of %" G_GSIZE_FORMAT " floats on the device",
                 count, floats);
}

void
nf_ops_fill (NfOps *ops, NfView x, float value, gsize floats)
{
  if (ops->failure || floats == 0)
    return;
  cl_int status
      = lists_rows (ops, floats, 1)
            ? nf_command_list_fill (ops->list, x.buffer, x.at, value, floats)
            : clEnqueueFillBuffer (ops->queue, x.buffer->mem, &value, sizeof value, x.at * sizeof (float),
                                   floats * sizeof (float), 0, NULL, note (ops, "fill", ""));
  if (status != CL_SUCCESS)
    nf_cl_error (&ops->failure, status, "cannot fill %" G_GSIZE_FORMAT " floats on the device", floats);
}

/* Products */

/* TRUE if packed matrices are of integers: then the scale of a column stands before its values. */
static gboolean
has_scales (NfOps *ops)
{
  return ops->values == 4;
}

/* Elements that K values of a column take. */
static guint
count_elements (NfOps *ops, guint K)
{
  return divide_up (divide_up (K, ops->values), ops->depth) * ops->depth + has_scales (ops);
}

/* Words that K values of a row take on the left of a product; of integers the last is the row's scale. */
static guint
count_left (NfOps *ops, guint K)
{
  return ops->madd  ? (ops->amx ? divide_up (K, NF_STEP_BYTES) * (NF_STEP_BYTES / 2) : divide_up (K, 2)) + 1
         : ops->amx ? divide_up (K, NF_STEP_VALUES) * (NF_STEP_VALUES / 2) * ops->planes
         : ops->rounds ? count_elements (ops, K)
                       : K;
}

gsize
nf_ops_packed_size (NfOps *ops, guint N, guint K, gboolean transposed)
{
  const guint columns = transposed ? N : K, rows = transposed ? K : N;
  return (gsize)divide_up (columns, ops->panel) * ops->panel * count_elements (ops, rows);
}

/* Memory for so many elements of operands, good for what is enqueued next. */
static gboolean
need_panels (NfOps *ops, gsize elements)
{
  if (ops->panels && ops->panels->size >= elements * sizeof (float))
    return TRUE;
  /* what is enqueued may still use it */
  if (ops->panels)
    wait_for_all (ops);
  g_clear_pointer (&ops->panels, nf_buffer_free);
  ops->panels = nf_ops_alloc (ops, elements);
  return ops->panels != NULL;
}

static void
pack (NfOps *ops, NfView X, guint ld, NfView panels, guint rows, guint columns, guint width,
      gboolean transposed)
{
  if (ops->profile)
    g_snprintf (ops->detail, sizeof ops->detail, "%u×%u by %u%s", rows, columns, width,
                transposed ? ", transposed" : "");
  /* a scale is that of a whole column */
  if (ops->gpu)
    LAUNCH_GROUPS (ops, KERNEL_PACK, divide_up (columns, width) * width,
                   has_scales (ops) ? 1 : count_elements (ops, rows), 1, VIEW (X), INT (ld), VIEW (panels),
                   INT (rows), INT (columns), INT (width), INT (transposed));
  else
    LAUNCH_ITEMS (ops, KERNEL_PACK, has_scales (ops) ? 1 : divide_up (rows, NF_PACK_ROWS),
                  divide_up (columns, width), VIEW (X), INT (ld), VIEW (panels), INT (rows), INT (columns),
                  INT (width), INT (transposed));
  *ops->detail = '\0';
}

/* The same of left rows of a product, ld words apart. */
static void
pack_halves (NfOps *ops, NfView X, guint ld, NfView panels, guint rows, guint columns, guint width)
{
  LAUNCH_ITEMS (ops, KERNEL_PACK_HALVES, divide_up (rows, NF_PACK_ROWS), divide_up (columns, width), VIEW (X),
                INT (ld), VIEW (panels), INT (rows), INT (columns), INT (width));
}

void
nf_ops_pack (NfOps *ops, NfView W, NfView packed, guint N, guint K, gboolean transposed)
{
  pack (ops, W, K, packed, transposed ? K : N, transposed ? N : K, ops->panel, transposed);
}

#define MOST_TILES 12        /* of rows, without AMX */
#define MOST_LEFT (1u << 18) /* words of A that stay in the second-level cache while a panel is read */

#define ROWS_OF_EACH 256

/* By the matrix unit a core that has so many rows of its own reads all weights in less time than it
 * multiplies them, and what it wrote is in its own cache when it reads it. */
static gboolean
has_rows_for_each (NfOps *ops, guint M)
{
  return ops->amx && M >= ROWS_OF_EACH * nf_device_count_cores (ops->device);
}

/* Words of A that are best read once for each panel; what fewer rows meet comes and goes faster. */
static guint
get_most_left (NfOps *ops, guint M)
{
  return ops->amx && !has_rows_for_each (ops, M) ? MOST_LEFT / 2 : MOST_LEFT;
}

/* TRUE if rows stay in the second-level cache, and so meet each panel once. */
static gboolean
goes_by_columns (NfOps *ops, guint M, guint K)
{
  return !has_rows_for_each (ops, M) && (gsize)M * count_left (ops, K) <= get_most_left (ops, M);
}

/* Row tiles of one work-item: enough work to pay for starting it, enough work-items to share evenly. */
static guint
choose_tiles (NfOps *ops, guint M, guint panels, guint K)
{
  const guint units = nf_device_count_cores (ops->device), row_tiles = divide_up (M, ops->row_tile);
  const guint most
      = ops->amx ? CLAMP (get_most_left (ops, M) / (ops->row_tile * K), 1, NF_MOST_TILES) : MOST_TILES;
  const guint tiles = CLAMP (row_tiles * panels / (8 * units), 1, most);
  return has_rows_for_each (ops, M) ? MIN (tiles, row_tiles / units) : tiles;
}

#define MOST_OF_ONE 16 /* panels of a row, and of two rows */
#define MOST_OF_TWO 2
#define MOST_AMX_PANELS 8

/* TRUE if a product of integers is made by few rows' own instructions. */
static gboolean
takes_few_rows (NfOps *ops, const NfMatmul *t)
{
  return ops->madd && t->M <= NF_FEW_ROWS && !(t->flags & (NF_MATMUL_SAVE | NF_MATMUL_GELU_SLOPE));
}

/* Panels of a work-item. Where rows are so few that what it adds to one of them would wait for what it added
 * before: as many as leave two work-items for each core, but where A comes in panels itself. What one begins
 * with is as long as some panels. By the matrix unit a tile is finished while the next is multiplied, except
 * for a work-item's last: integers gain by it from three rows on, others where rows are more than one tile.
 */
static guint
choose_panels (NfOps *ops, const NfMatmul *t, guint panels, guint row_groups)
{
  const guint M = t->M;
  const guint units = nf_device_count_cores (ops->device);
  guint most = 1;
  if (ops->amx && M > (ops->madd ? NF_FEW_ROWS : ops->row_tile))
    return CLAMP (panels * row_groups / (4 * units), 1, MIN (panels, MOST_AMX_PANELS));
  if (takes_few_rows (ops, t)
      || (!ops->gpu && !ops->amx && M <= NF_FEW_ROWS && !(t->flags & NF_MATMUL_PANELS)))
    most = M == 1 ? MOST_OF_ONE : MOST_OF_TWO;
  return CLAMP (panels / (2 * units), 1, most);
}

/* Multiply-adds after which a list ends, some milliseconds: the device's other queues come to their turn. */
#define MOST_WORK ((gsize)1 << 30)

/* A device writes where it is told, without a word. */
static void
check_room (NfView view, guint rows, guint step, gsize words)
{
  g_assert (!view.buffer || rows == 0
            || (view.at + (gsize)(rows - 1) * step + words) * sizeof (float) <= view.buffer->size);
}

static void
check_operands (NfOps *ops, const NfMatmul *t)
{
  const gboolean left = t->flags & NF_MATMUL_LEFT;
  const gsize row = left ? count_left (ops, t->N) : t->N;
  g_assert (!left || nf_ops_writes_parts_left (ops));
  if (!(t->flags & NF_MATMUL_PANELS))
    check_room (t->A, t->M, t->lda, t->flags & NF_MATMUL_ROUND ? t->K : count_left (ops, t->K));
  check_room (t->C, t->M, t->ldc, row);
  if (t->flags & NF_MATMUL_RESIDUAL)
    check_room (t->R, MIN (t->M, t->r_mod), t->ldr, t->N);
  if (t->flags & (NF_MATMUL_SAVE | NF_MATMUL_GELU_SLOPE))
    check_room (t->P, t->M, left && nf_ops_gradients_read_left (ops) ? t->ldc : t->N, row);
}

/* As nf_ops_matmul(); A and lda count words as the product reads them. The GPU variant splits K among PARTS.
 */
static void
multiply (NfOps *ops, const NfMatmul *t, guint parts)
{
  check_operands (ops, t);
  const guint panels = divide_up (t->N, ops->panel);
  const guint row_tiles = divide_up (t->M, ops->row_tile);
  const guint tiles = choose_tiles (ops, t->M, panels, count_left (ops, t->K));
  const size_t cpu_global[3]
      = { divide_up (panels, choose_panels (ops, t, panels, divide_up (row_tiles, tiles))),
          divide_up (row_tiles, tiles), 1 },
      cpu_local[3] = { 1, 1, 1 };
  const size_t gpu_global[3] = { (size_t)divide_up (t->N, NF_TILE_N) * NF_GROUP_X,
                                 (size_t)divide_up (t->M, NF_TILE_M) * NF_GROUP_Y, parts },
               gpu_local[3] = { NF_GROUP_X, NF_GROUP_Y, 1 };

  ops->by_columns = goes_by_columns (ops, t->M, t->K);
  if (ops->profile)
    g_snprintf (ops->detail, sizeof ops->detail, "%u×%u×%u%s", t->M, t->N, t->K,
                t->flags & NF_MATMUL_GELU ? ", GELU" : "");
  LAUNCH (ops, KERNEL_MATMUL, ops->gpu ? gpu_global : cpu_global, ops->gpu ? gpu_local : cpu_local,
          VIEW (t->A), INT (t->lda), VIEW (t->B), VIEW (t->bias), VIEW (t->R), INT (t->ldr),
          INT (MAX (t->r_mod, 1)), VIEW (t->C), INT (t->ldc), VIEW (t->P), INT (t->M), INT (t->N),
          INT (ops->amx || !ops->rounds ? t->K : count_elements (ops, t->K)), INT (t->flags), INT (tiles),
          INT (t->ldb));
  ops->by_columns = FALSE;
  ops->work += (gsize)t->M * t->N * t->K;
  if (ops->work >= MOST_WORK)
    enqueue_list (ops);
  *ops->detail = '\0';
}

/* From one row of so many words to the next: rows a power of two apart would fight for the same cache lines.
 */
#define ROW_GAP 16

static guint
get_row_step (guint words)
{
  return divide_up (words, 2 * ROW_GAP) * 2 * ROW_GAP + ROW_GAP;
}

guint
nf_ops_left_step (NfOps *ops, guint N)
{
  /* no value is without its neighbour in a word or in a step of a product */
  return (ops->rounds || !ops->gpu) && N % NF_STEP_VALUES == 0 && N >= 64 ? get_row_step (count_left (ops, N))
                                                                          : 0;
}

gboolean
nf_ops_writes_parts_left (NfOps *ops)
{
  return !ops->madd;
}

guint
nf_ops_row_step (NfOps *ops, guint N, gboolean left)
{
  return left ? nf_ops_left_step (ops, N) : N;
}

guint
nf_ops_row_size (NfOps *ops, guint N)
{
  return MAX (N, nf_ops_left_step (ops, N));
}

gboolean
nf_ops_takes_rows (NfOps *ops)
{
  return ops->amx && !ops->madd;
}

void
nf_ops_matmul (NfOps *ops, const NfMatmul *t)
{
  g_assert (t->ldb == 0 || nf_ops_takes_rows (ops));
  if ((!ops->rounds && !ops->amx && !ops->madd) || t->flags & NF_MATMUL_LEFT_A)
    {
      multiply (ops, t, 1);
      return;
    }
  NfMatmul product = *t;
  const guint words = count_left (ops, t->K);
  if (takes_few_rows (ops, t))
    {
      const guint items = divide_up (t->N, ops->panel);
      product.flags |= NF_MATMUL_ROUND;
      product.ldb = get_row_step (words);
      if (!need_panels (ops, (gsize)items * t->M * product.ldb))
        return;
      product.P = nf_view (ops->panels, 0);
      multiply (ops, &product, 1);
      return;
    }
  product.lda = get_row_step (words);
  if (!need_panels (ops, (gsize)t->M * product.lda))
    return;
  product.A = nf_view (ops->panels, 0);
  if (ops->gpu)
    LAUNCH_GROUPS (ops, KERNEL_MAKE_LEFT, words, t->M, 1, VIEW (t->A), INT (t->lda), BUFFER (ops->panels),
                   INT (product.lda), INT (t->K));
  else
    LAUNCH_ITEMS (ops, KERNEL_MAKE_LEFT, t->M, 1, VIEW (t->A), INT (t->lda), BUFFER (ops->panels),
                  INT (product.lda), INT (t->K));
  multiply (ops, &product, 1);
}

#define PART_ELEMENTS 64 /* of the inner dimension, at least */

/* Parts that the inner dimension of gradients of weights is split into: their few tiles would leave most of a
 * GPU idle. */
static guint
choose_parts (NfOps *ops, guint M, guint N, guint K)
{
  const guint groups = divide_up (M, NF_TILE_M) * divide_up (N, NF_TILE_N);
  const guint units = nf_device_get_info (ops->device)->compute_units;
  return ops->gpu ? MAX (MIN (2 * units / groups, K / PART_ELEMENTS), 1) : 1;
}

static void sum_columns (NfOps *ops, NfView x, guint ldx, gboolean left, NfView s, guint M, guint N,
                         gboolean accumulate, guint parts);

gboolean
nf_ops_gradients_read_left (NfOps *ops)
{
  return ops->bf16 && ops->rounds && !ops->gpu;
}

/* An operand of nf_ops_matmul_tn() into panels. */
static void
pack_operand (NfOps *ops, NfView x, guint ldx, gboolean left, NfView panels, guint M, guint columns,
              guint width)
{
  if (left)
    pack_halves (ops, x, ldx, panels, M, columns, width);
  else
    pack (ops, x, ldx, panels, M, columns, width, FALSE);
}

void
nf_ops_matmul_tn (NfOps *ops, NfView A, guint lda, gboolean a_left, NfView X, guint ldx, gboolean x_left,
                  NfView C, guint M, guint N, guint K)
{
  /* else neither operand is a matrix that products keep */
  g_assert (ops->rounds == ops->bf16 && !has_scales (ops));
  g_assert (nf_ops_gradients_read_left (ops) || !(a_left || x_left));
  /* splitting floats costs less than packing them, rounding them again for each group of rows does not */
  const gboolean as_it_is = ops->amx && !ops->bf16;
  const guint elements = count_elements (ops, M), step = ops->amx ? get_row_step (count_left (ops, M)) : 0;
  const gsize left
      = ops->amx ? (gsize)N * step : (gsize)elements * divide_up (N, ops->row_tile) * ops->row_tile,
      right = as_it_is ? 0 : (gsize)elements * divide_up (K, ops->panel) * ops->panel;
  const guint parts = choose_parts (ops, N, K, elements);
  const gsize sums = parts > 1 ? (gsize)parts * N * K : 0;

  if (!need_panels (ops, left + right + sums))
    return;
  if (ops->amx)
    LAUNCH_ITEMS (ops, KERNEL_PACK_LEFT, divide_up (M, NF_STEP_VALUES),
                  divide_up (N, NF_LEFT_BLOCKS * ops->vector_width), VIEW (A), INT (lda),
                  BUFFER (ops->panels), INT (step), INT (M), INT (N), INT (a_left));
  else
    pack_operand (ops, A, lda, a_left, nf_view (ops->panels, 0), M, N, ops->row_tile);
  if (!as_it_is)
    pack_operand (ops, X, ldx, x_left, nf_view (ops->panels, left), M, K, ops->panel);
  const NfView part = nf_view (ops->panels, left + right);
  const NfMatmul product = {
    .A = nf_view (ops->panels, 0),
    .lda = step,
    .B = as_it_is ? X : nf_view (ops->panels, left),
    .ldb = as_it_is ? ldx : 0,
    .C = parts > 1 ? part : C,
    .ldc = K,
    .M = N,
    .N = K,
    .K = M,
    .flags = (parts > 1 ? 0 : NF_MATMUL_ACCUMULATE) | (ops->amx ? 0 : NF_MATMUL_PANELS),
  };
  multiply (ops, &product, parts);
  if (parts > 1)
    sum_columns (ops, part, N * K, FALSE, C, parts, N * K, TRUE, 1);
}

/* Rows */

/* One row a work-item on a CPU, a work-group on a GPU. */
#define LAUNCH_ROWS(ops, kernel, rows, ...)                                                                  \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    const size_t group_[3] = { (ops)->gpu ? NF_GROUP : 1, 1, 1 };                                            \
    const size_t global_[3] = { (size_t)(rows)*group_[0], 1, 1 };                                            \
    LAUNCH (ops, kernel, global_, group_, __VA_ARGS__);                                                      \
  }                                                                                                          \
  G_STMT_END

#define SUM_PART_ROWS 64 /* of a part, at least */

/* With several PARTS, of the GPU variant, each has its share of the rows and a row of s. */
static void
sum_columns (NfOps *ops, NfView x, guint ldx, gboolean left, NfView s, guint M, guint N, gboolean accumulate,
             guint parts)
{
  const guint vectors = divide_up (N, ops->vector_width);
  if (ops->gpu)
    LAUNCH_GROUPS (ops, KERNEL_COLUMN_SUMS, N, parts, NF_SUM_LINES, VIEW (x), INT (ldx), VIEW (s), INT (M),
                   INT (N), INT (accumulate));
  else
    LAUNCH_ROWS (
        ops, KERNEL_COLUMN_SUMS,
        MAX (divide_up (vectors, NF_SUM_VECTORS), MIN (vectors, 4 * nf_device_count_cores (ops->device))),
        VIEW (x), INT (ldx), VIEW (s), INT (M), INT (N), INT (accumulate), INT (left));
}

static void
column_sums (NfOps *ops, NfView x, guint ldx, gboolean left, NfView s, guint M, guint N, gboolean accumulate)
{
  const guint groups = divide_up (N, NF_GROUP), units = nf_device_get_info (ops->device)->compute_units;
  const guint parts = ops->gpu ? MIN (4 * units / groups, M / SUM_PART_ROWS) : 1;
  if (parts <= 1)
    {
      sum_columns (ops, x, ldx, left, s, M, N, accumulate, 1);
      return;
    }
  if (!need_panels (ops, (gsize)parts * N))
    return;
  const NfView part = nf_view (ops->panels, 0);
  sum_columns (ops, x, ldx, left, part, M, N, FALSE, parts);
  sum_columns (ops, part, N, FALSE, s, parts, N, accumulate, 1);
}

void
nf_ops_column_sums (NfOps *ops, NfView x, guint ldx, gboolean left, NfView s, guint M, guint N)
{
  g_assert (!left || nf_ops_gradients_read_left (ops));
  column_sums (ops, x, ldx, left, s, M, N, TRUE);
}

void
nf_ops_norm (NfOps *ops, NfNormKind kind, NfView x, NfView w, NfView b, NfView R, NfView y, gboolean left,
             guint M, guint d)
{
  const guint step = nf_ops_row_step (ops, d, left);
  g_assert (step > 0);
  check_room (y, M, step, left ? count_left (ops, d) : d);
  LAUNCH_ROWS (ops, KERNEL_NORM, M, VIEW (x), VIEW (w), LONG (b.at), VIEW (R), INT (R.buffer != NULL),
               VIEW (y), INT (left ? step : 0), INT (kind == NF_NORM_RMS), INT (d));
}

void
nf_ops_norm_backward (NfOps *ops, NfNormKind kind, NfView x, NfView w, NfView dy, NfView dyc, NfView dx,
                      gboolean accumulate, guint M, guint d)
{
  LAUNCH_ROWS (ops, KERNEL_NORM_BACKWARD, M, VIEW (x), VIEW (w), VIEW (dy), VIEW (dyc), VIEW (dx),
               INT (accumulate), INT (kind == NF_NORM_RMS), INT (d));
}

/* Heads */

void
nf_ops_heads (NfOps *ops, const NfHeads *h)
{
  const gboolean normed = h->q_norm.buffer != NULL, rotated = h->table.buffer != NULL;
  const gboolean in_place = h->from.buffer == h->to.buffer && h->from.at == h->to.at;
  const guint heads = h->H + (in_place ? 1 : 2) * h->Hkv;

  g_assert (normed == (h->k_norm.buffer != NULL) && (!rotated || ops->head_dim % 2 == 0));
  if (in_place && !normed && !rotated)
    return;
  LAUNCH_ITEMS (ops, KERNEL_HEADS, h->B * h->count, ops->gpu ? heads : 1, VIEW (h->from), VIEW (h->to),
                VIEW (h->q_norm), VIEW (h->k_norm), INT (normed), VIEW (h->table), INT (rotated),
                INT (h->half_split), LONG (h->row), LONG (h->batch), INT (h->position0), INT (h->count),
                INT (h->H), INT (h->Hkv), INT (heads));
}

void
nf_ops_heads_backward (NfOps *ops, const NfHeads *h, NfView dqkv, NfBuffer *scratch, NfView dq_norm,
                       NfView dk_norm)
{
  const gboolean normed = h->q_norm.buffer != NULL, rotated = h->table.buffer != NULL;
  const guint DH = ops->head_dim, heads = h->H + h->Hkv;

  g_assert (normed == (h->k_norm.buffer != NULL) && (!rotated || DH % 2 == 0));
  if (!normed && !rotated)
    return;
  LAUNCH_ITEMS (ops, KERNEL_HEADS_BACKWARD, h->B * h->count, ops->gpu ? heads : 1, VIEW (h->from),
                VIEW (dqkv), VIEW (h->q_norm), VIEW (h->k_norm), INT (normed), VIEW (h->table), INT (rotated),
                INT (h->half_split), LONG (h->row), LONG (h->batch), INT (h->position0), INT (h->count),
                INT (h->H), INT (h->Hkv), BUFFER (scratch));
  if (!normed || !(dq_norm.buffer || dk_norm.buffer))
    return;
  /* over rows into the first of them, then over heads */
  const NfView sums = nf_view (scratch, 0);
  column_sums (ops, sums, heads * DH, FALSE, sums, h->B * h->count, heads * DH, FALSE);
  if (dq_norm.buffer)
    column_sums (ops, sums, DH, FALSE, dq_norm, h->H, DH, TRUE);
  if (dk_norm.buffer)
    column_sums (ops, nf_view_add (sums, (gsize)h->H * DH), DH, FALSE, dk_norm, h->Hkv, DH, TRUE);
}

/* Attention */

/* Blocks of keys for N tokens: an even number, so that a block of a whole panel is always there. */
static guint
count_key_blocks (NfOps *ops, guint N)
{
  return 2 * divide_up (N, ops->panel);
}

/* DHP of append.cl */
static guint
padded_features (NfOps *ops)
{
  return ops->attends_by_amx ? divide_up (ops->head_dim, 32) * 32 : ops->head_dim;
}

/* NF_KEYS of append.cl, of all heads of B samples */
static gsize
blocks_size (NfOps *ops, guint B, guint H, guint N)
{
  const gsize blocks = (gsize)B * H * count_key_blocks (ops, N) / (ops->half_keys ? 2 : 1);
  return blocks * padded_features (ops) * ops->vector_width;
}

/* NF_VALUE of append.cl: floats, or words, of a head's value that are not among its keys */
static gsize
value_size (NfOps *ops)
{
  return ops->attends_by_amx ? 0
         : ops->half_keys    ? divide_up (ops->head_dim, 2 * ops->vector_width) * ops->vector_width
                             : ops->head_dim;
}

gsize
nf_ops_keys_size (NfOps *ops, guint B, guint H, guint N)
{
  const gsize tokens = (gsize)count_key_blocks (ops, N) * ops->vector_width;
  return blocks_size (ops, B, H, N) + B * H * tokens * value_size (ops);
}

gsize
nf_ops_key_bytes (NfOps *ops)
{
  const gsize element = ops->attends_by_amx || ops->half_keys ? 2 : sizeof (float);
  return 2 * element * padded_features (ops);
}

static void
append (NfOps *ops, NfView src, guint row, gsize batch, NfBuffer *keys, guint n0, guint count, guint capacity,
        guint B, guint H, guint flags)
{
  const guint rows = ops->attends_by_amx || ops->half_keys ? ops->panel : ops->vector_width, /* of a block */
      blocks = count ? (n0 + count - 1) / rows - n0 / rows + 1 : 0;
  const size_t global[3] = { ops->gpu ? count : blocks, H, B }, local[3] = { 1, 1, 1 };
  LAUNCH (ops, KERNEL_APPEND, global, local, VIEW (src), INT (row), LONG (batch), VIEW (nf_view (keys, 0)),
          INT (n0), INT (count), INT (count_key_blocks (ops, capacity)), INT (H), INT (flags));
}

void
nf_ops_append (NfOps *ops, NfView src, guint row, gsize batch, gboolean left, NfBuffer *keys, guint n0,
               guint count, guint capacity, guint B, guint H)
{
  append (ops, src, row, batch, keys, n0, count, capacity, B, H, NF_VALUES_TOO | (left ? NF_FROM_LEFT : 0));
}

/* MASK as nf_sight() of append.cl reads it. */
static cl_int8
kernel_mask (const NfMask *mask, guint n_keys)
{
  const gboolean causal = mask->kind == NF_MASK_CAUSAL, framed = !causal || mask->window > 0;

  g_assert (!framed || mask->frame > 0);
  g_assert (causal || mask->ahead > 0);
  return (cl_int8){ { causal, (cl_int)mask->prefix, framed ? (cl_int)mask->frame : 0,
                      causal ? 0 : (cl_int)mask->ahead - 1, (cl_int)mask->window, (cl_int)n_keys } };
}

gboolean
nf_ops_attention_writes_left (NfOps *ops)
{
  /* planes go out in whole steps of a product; three of them take attention longer than nf_make_left takes */
  return ops->rounds || (!ops->gpu && !ops->amx && !ops->madd)
         || (ops->planes == 2 && ops->head_dim % NF_STEP_VALUES == 0);
}

gboolean
nf_ops_attention_reads_left (NfOps *ops)
{
  /* a head's features fill words, and whole steps of a product */
  return ops->attends_by_amx && ops->head_dim % NF_STEP_VALUES == 0;
}

void
nf_ops_attention (NfOps *ops, const NfAttention *a)
{
  const guint Hkv = a->Hkv ? a->Hkv : a->H, n_keys = a->n_keys ? a->n_keys : a->q0 + a->Nq,
              step = a->left ? nf_ops_left_step (ops, a->H * ops->head_dim) : a->out_row;
  const gsize out_batch = a->left ? (gsize)a->Nq * step : a->out_batch;
  const cl_int8 mask = kernel_mask (&a->mask, n_keys);
  const size_t group[3] = { ops->gpu ? NF_GROUP : 1, 1, 1 };
  g_assert (!a->left || nf_ops_attention_writes_left (ops));
  const size_t global[3] = { divide_up (a->Nq, ops->query_tile) * group[0], a->H, a->B };

  g_assert (a->H % Hkv == 0 && a->q0 + a->Nq <= n_keys && n_keys <= a->capacity);
  LAUNCH (ops, KERNEL_ATTENTION, global, group, VIEW (a->Q), INT (a->q_row), LONG (a->q_batch),
          VIEW (nf_view (a->keys, 0)), INT (count_key_blocks (ops, a->capacity)), VIEW (a->out), INT (step),
          LONG (out_batch), INT ((a->left ? NF_LEAVES_LEFT : 0) | (a->q_left ? NF_READS_LEFT : 0)),
          BUFFER (a->stats), INT (a->stats != NULL), INT (a->q0), INT (a->Nq), FLOAT (a->scale),
          FLOAT (a->scale2), INT (a->split), INT (a->H), INT (Hkv), VALUE (mask));
}

/* only the kernel of multiply-adds meets keys and values in blocks */
static gboolean
backward_meets_blocks (NfOps *ops)
{
  return !ops->attends_by_amx && !ops->gpu;
}

gsize
nf_ops_backward_keys_size (NfOps *ops, guint B, guint H, guint N)
{
  return backward_meets_blocks (ops) ? blocks_size (ops, B, H, N) : 0;
}

void
nf_ops_attention_backward (NfOps *ops, const NfAttentionBackward *a)
{
  const guint Hkv = a->Hkv ? a->Hkv : a->H;
  const cl_int8 mask = kernel_mask (&a->mask, a->N);
  const size_t group[3] = { ops->gpu ? NF_GROUP : 1, 1, 1 };
  const size_t tiles = 2 * divide_up (a->N, ops->query_tile);
  const size_t global[3] = { ops->gpu ? tiles * NF_GROUP : Hkv, ops->gpu ? Hkv : a->B, ops->gpu ? a->B : 1 };

  g_assert (a->H % Hkv == 0);
  if (backward_meets_blocks (ops))
    {
      const guint row = (a->H + 2 * Hkv) * ops->head_dim;
      const NfView keys = nf_view_add (a->qkv, (gsize)a->H * ops->head_dim);
      const NfView values = nf_view_add (keys, (gsize)Hkv * ops->head_dim);
      append (ops, keys, row, (gsize)a->N * row, a->keys, 0, a->N, a->N, a->B, Hkv, 0);
      append (ops, values, row, (gsize)a->N * row, a->values, 0, a->N, a->N, a->B, Hkv, 0);
    }
  LAUNCH (ops, KERNEL_ATTENTION_BACKWARD, global, group, VIEW (a->qkv), BUFFER (a->keys), BUFFER (a->values),
          INT (count_key_blocks (ops, a->N)), VIEW (a->out), VIEW (a->dout), BUFFER (a->stats),
          VIEW (a->dqkv), INT (a->N), INT (a->H), INT (Hkv), VALUE (mask), FLOAT (a->scale));
}

/* The gate */

#define GATE_VECTORS 64 /* of a work-item on a CPU */

void
nf_ops_gate (NfOps *ops, NfView gate, NfView up, NfView hidden, gboolean left, guint M, guint width)
{
  const gsize n = (gsize)M * width;
  const gsize vectors = ops->gpu ? 1 : GATE_VECTORS, part = vectors * ops->vector_width;
  g_assert (!left || nf_ops_writes_parts_left (ops));
  LAUNCH_ITEMS (ops, KERNEL_GATE, (n + part - 1) / part, 1, VIEW (gate), VIEW (up), VIEW (hidden),
                INT (left ? nf_ops_left_step (ops, width) : 0), INT (width), LONG (n), INT (vectors));
}

void
nf_ops_gate_backward (NfOps *ops, NfView gate, NfView up, NfView dhidden, NfView dgate, NfView dup, gsize n)
{
  const gsize vectors = ops->gpu ? 1 : GATE_VECTORS, part = vectors * ops->vector_width;
  LAUNCH_ITEMS (ops, KERNEL_GATE_BACKWARD, (n + part - 1) / part, 1, VIEW (gate), VIEW (up), VIEW (dhidden),
                VIEW (dgate), VIEW (dup), LONG (n), INT (vectors));
}

/* The flow */

static void
check_affine (const NfAffine *a)
{
  g_assert (a->frame > 0 && a->N % a->frame == 0);
  g_assert (a->S + (a->shift ? 1 : 0) >= a->prefix + a->N + a->N / a->frame * a->extra);
  g_assert (!a->shift || !a->extra);
}

void
nf_ops_affine (NfOps *ops, const NfAffine *a, NfView u, NfBuffer *o, NfView z, NfBuffer *log_det,
               NfView log_scales, gboolean flip, gboolean out_flip, gboolean accumulate)
{
  const NfMissed none = { 0 }, *missed = a->missed ? a->missed : &none;
  NfBuffer *basis = a->snapped ? a->snapped->basis : NULL;
  check_affine (a);
  LAUNCH_ITEMS (ops, KERNEL_AFFINE, a->B * a->N, 1, VIEW (u), BUFFER (o), VIEW (z), BUFFER (log_det),
                VIEW (log_scales), INT (log_scales.buffer != NULL), INT (a->N), INT (a->D), INT (a->S),
                INT (a->prefix), INT (a->extra), INT (a->frame), INT (a->shift), INT (a->scale),
                FLOAT (a->soft_clip), FLOAT (a->most), FLOAT (a->per_unit_out), FLOAT (a->per_unit_in),
                INT (flip), INT (out_flip), INT (accumulate), BUFFER (missed->counts),
                INT (missed->counts != NULL), INT (a->snapped ? a->snapped->steps : -1), BUFFER (basis),
                INT (basis != NULL), BUFFER (missed->list), INT (missed->room), INT (missed->first_sample),
                INT (missed->block));
}

void
nf_ops_affine_backward (NfOps *ops, const NfAffine *a, NfView u, NfBuffer *o, NfView dz, NfView du,
                        NfBuffer *d_o, gboolean out_flip, float g)
{
  check_affine (a);
  LAUNCH_ITEMS (ops, KERNEL_AFFINE_BACKWARD, (size_t)a->B * MAX (a->S, a->prefix + a->N), 1, VIEW (u),
                BUFFER (o), VIEW (dz), VIEW (du), BUFFER (d_o), INT (a->N), INT (a->D), INT (a->S),
                INT (a->prefix), INT (a->extra), INT (a->frame), INT (a->shift), INT (a->scale),
                FLOAT (a->soft_clip), FLOAT (a->most), INT (out_flip), FLOAT (g));
}

void
nf_ops_prior (NfOps *ops, NfView z, NfBuffer *dz, NfBuffer *half_square, float g, guint M, guint D)
{
  LAUNCH_ITEMS (ops, KERNEL_PRIOR, M, 1, VIEW (z), BUFFER (dz), INT (dz != NULL), BUFFER (half_square),
                FLOAT (g), INT (D));
}

void
nf_ops_affine_inverse (NfOps *ops, const NfAffine *a, const NfInverse *i, NfView z, NfView x, NfBuffer *o,
                       const NfTokens *tokens)
{
  const cl_float4 weights = { { i->w_scale0, i->w_scale_step, i->w_shift0, i->w_shift_step } };

  g_assert (i->n0 + i->count <= a->N && a->D == tokens->D);
  LAUNCH_ITEMS (ops, KERNEL_AFFINE_INVERSE, a->B * i->count, 1, VIEW (z), VIEW (x), BUFFER (o), INT (a->B),
                INT (a->N), INT (a->D), INT (i->n0), INT (i->count), INT (i->o_rows), INT (i->o_first),
                INT (a->scale), FLOAT (a->soft_clip), FLOAT (a->most), FLOAT (a->per_unit_in),
                INT (i->guidance), VALUE (weights), INT (i->keep_first), INT (i->snap ? tokens->steps : -1),
                BUFFER (tokens->basis), INT (tokens->basis != NULL), BUFFER (i->changes),
                INT (i->changes != NULL), BUFFER (i->sigmas), INT (i->sigmas != NULL),
                VIEW (i->corrected.words), INT (i->corrected.N), INT (i->corrected.first));
}

void
nf_ops_foresee (NfOps *ops, NfView z, NfView x, NfView weights, guint B, guint N, guint D, guint n0,
                guint count)
{
  g_assert (n0 > 0 && n0 + count <= N);
  LAUNCH_ITEMS (ops, KERNEL_FORESEE, B, 1, VIEW (z), VIEW (x), VIEW (weights), INT (N), INT (D), INT (n0),
                INT (count));
}

void
nf_ops_recall (NfOps *ops, NfView z, NfView x, const NfRecall *recall, guint B, guint N, guint D, guint n0,
               guint count)
{
  g_assert (n0 > 0 && n0 + count <= N);
  LAUNCH_ITEMS (ops, KERNEL_RECALL, B, 1, VIEW (z), VIEW (x), BUFFER (recall->z), BUFFER (recall->x),
                BUFFER (recall->sigmas), VIEW (recall->slopes), INT (recall->slopes.buffer != NULL), INT (N),
                INT (D), INT (n0), INT (count));
}

void
nf_ops_settle (NfOps *ops, NfView x, NfBuffer *before, NfView slopes, NfView places, const NfTokens *tokens,
               NfBuffer *changes, guint B, guint N, guint n0, guint count)
{
  g_assert (n0 + count <= N);
  LAUNCH_ITEMS (ops, KERNEL_SETTLE, B, 1, VIEW (x), BUFFER (before), VIEW (slopes),
                INT (slopes.buffer != NULL), VIEW (places), INT (places.buffer != NULL),
                BUFFER (tokens->basis), INT (tokens->basis != NULL), BUFFER (changes), INT (N),
                INT (tokens->D), INT (n0), INT (count));
}

void
nf_ops_shift_in (NfOps *ops, NfView u, NfView sos, NfView to, guint n0, guint count, guint B, guint N,
                 guint D)
{
  g_assert (n0 + count <= N);
  LAUNCH_ITEMS (ops, KERNEL_SHIFT_IN, B * count, 1, VIEW (u), VIEW (sos), VIEW (to), INT (n0), INT (count),
                INT (N), INT (D));
}

void
nf_ops_shift_in_backward (NfOps *ops, NfView dto, NfView du, NfView dsos, guint B, guint N, guint D)
{
  LAUNCH_ITEMS (ops, KERNEL_SHIFT_IN_BACKWARD, divide_up (D, ops->vector_width), N, VIEW (dto), VIEW (du),
                VIEW (dsos), INT (dsos.buffer != NULL), INT (B), INT (N), INT (D));
}

void
nf_ops_reorder (NfOps *ops, NfView from, NfView to, guint B, guint N, guint D, gboolean flip, guint frame,
                NfView scale)
{
  g_assert (frame > 0 && N % frame == 0);
  LAUNCH_ITEMS (ops, KERNEL_REORDER, B * N, 1, VIEW (from), VIEW (to), INT (N), INT (D), INT (flip),
                INT (frame), VIEW (scale), INT (scale.buffer != NULL));
}

void
nf_ops_denoise (NfOps *ops, NfView y, NfView grad, NfView x, float k, gsize n)
{
  const gsize vectors = (n + ops->vector_width - 1) / ops->vector_width;
  LAUNCH_ITEMS (ops, KERNEL_DENOISE, vectors, 1, VIEW (y), VIEW (grad), VIEW (x), FLOAT (k));
}

void
nf_ops_class_embed (NfOps *ops, NfView h, NfView E, NfBuffer *labels, guint B, guint N, guint d,
                    guint classes)
{
  LAUNCH_ITEMS (ops, KERNEL_CLASS_EMBED, B * N, 1, VIEW (h), VIEW (E), BUFFER (labels), INT (N), INT (d),
                INT (classes));
}

void
nf_ops_class_embed_backward (NfOps *ops, NfView dh, NfView dE, NfBuffer *labels, guint B, guint N, guint d,
                             guint classes)
{
  LAUNCH_ITEMS (ops, KERNEL_CLASS_EMBED_BACKWARD, d, classes, VIEW (dh), VIEW (dE), BUFFER (labels), INT (B),
                INT (N), INT (d), INT (classes));
}

void
nf_ops_position_backward (NfOps *ops, NfView dh, NfView dpos, guint B, guint N, guint d, gboolean flip,
                          guint frame)
{
  g_assert (frame > 0 && N % frame == 0);
  LAUNCH_ITEMS (ops, KERNEL_POSITION_BACKWARD, d, N, VIEW (dh), VIEW (dpos), INT (B), INT (N), INT (d),
                INT (flip), INT (frame));
}

/* Pixels */

/* Where planes are, as kernels read it. */
typedef struct
{
  cl_ulong4 at;
  cl_int4 stride, step;
} KernelPlanes;

static KernelPlanes
kernel_planes (const NfPlanes *f)
{
  return (KernelPlanes){ .at = { { f->at[0], f->at[1], f->at[2] } },
                         .stride = { { f->stride[0], f->stride[1], f->stride[2] } },
                         .step = { { f->step[0], f->step[1], f->step[2] } } };
}

void
nf_ops_pixels_to_tokens (NfOps *ops, const NfPlanes *f, const NfTokens *t, guint tile0, guint tiles,
                         NfDequantise mode, float std, guint64 seed, guint64 stream, NfBuffer *noise,
                         NfView x)
{
  const KernelPlanes planes = kernel_planes (f);
  const cl_uint2 seed2 = { { (cl_uint)seed, (cl_uint)(seed >> 32) } },
                 stream2 = { { (cl_uint)stream, (cl_uint)(stream >> 32) } };
  LAUNCH_ITEMS (ops, KERNEL_PIXELS_TO_TOKENS, t->rows * t->columns, tiles, BUFFER (f->bytes),
                VALUE (planes.at), VALUE (planes.stride), VALUE (planes.step), INT (f->width),
                INT (f->height), INT (f->chroma_height), LONG (f->tile_bytes), INT (tile0), INT (f->tiles_x),
                INT (t->p), INT (t->columns), INT (t->rows), INT (t->yuv), INT (t->interleaved), INT (mode),
                INT (t->steps), FLOAT (std), VALUE (seed2), VALUE (stream2), BUFFER (t->basis),
                INT (t->basis != NULL), VIEW (x), INT (t->D), BUFFER (noise));
}

void
nf_ops_tokens_to_pixels (NfOps *ops, NfView x, const NfPlanes *f, const NfTokens *t, guint tile0, guint tiles,
                         NfBuffer *noise)
{
  const KernelPlanes planes = kernel_planes (f);
  LAUNCH_ITEMS (ops, KERNEL_TOKENS_TO_PIXELS, t->rows * t->columns, tiles, VIEW (x), BUFFER (f->bytes),
                VALUE (planes.at), VALUE (planes.stride), VALUE (planes.step), INT (f->width),
                INT (f->height), INT (f->chroma_height), INT (tile0), INT (f->tiles_x), INT (t->p),
                INT (t->columns), INT (t->rows), INT (t->yuv), INT (t->interleaved), INT (t->steps),
                BUFFER (t->basis), INT (t->basis != NULL), INT (t->D), BUFFER (noise), INT (noise != NULL),
                VIEW (nf_view (f->bytes, f->odd)));
}

void
nf_ops_grid (NfOps *ops, NfView tokens, NfBuffer *grid, guint tile0, guint tiles, guint tiles_x,
             const NfTokens *t, gboolean to_grid)
{
  LAUNCH_ITEMS (ops, KERNEL_GRID, t->rows * t->columns, tiles, VIEW (tokens), BUFFER (grid), INT (tile0),
                INT (tiles_x), INT (t->columns), INT (t->rows), INT (t->D), INT (to_grid));
}

/* Training */

void
nf_ops_adamw (NfOps *ops, const NfAdamW *a)
{
  const gsize part = NF_ADAMW_VECTORS * ops->vector_width;
  LAUNCH_ITEMS (ops, KERNEL_ADAMW, (a->n + part - 1) / part, 1, BUFFER (a->theta), BUFFER (a->grad),
                BUFFER (a->m), BUFFER (a->v), BUFFER (a->average), LONG (a->n), FLOAT (a->clip),
                FLOAT (a->lr), FLOAT (a->beta1), FLOAT (a->beta2), FLOAT (a->fix1), FLOAT (a->fix2),
                FLOAT (a->eps), FLOAT (a->decay), FLOAT (a->ema));
}

#define SUM_PART 16384

guint
nf_ops_sum_parts (gsize n)
{
  return (guint)((n + SUM_PART - 1) / SUM_PART);
}

void
nf_ops_sum_squares (NfOps *ops, NfView x, gsize n, NfBuffer *partial)
{
  LAUNCH_ITEMS (ops, KERNEL_SUM_SQUARES, nf_ops_sum_parts (n), 1, VIEW (x), LONG (n), LONG (SUM_PART),
                BUFFER (partial));
}
