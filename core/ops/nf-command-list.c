/* normflow: many launches as one. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-command-list.h"

#include <string.h>

/* Of list.cl */
#define MOST_MEMBERS 128
#define COMMANDS ((MOST_MEMBERS + 1) * 8) /* words before the first command */
#define HEAD 4                            /* words of a command before its arguments */
#define MOST_ITEMS ((1 << 20) - 1)
#define COPY_PART 4096

#define WORDS 16384 /* of a list */
#define MOST_HELD 128
#define N_PLACES (4 * MOST_HELD)
#define PLACE_SHIFT 23 /* a hash of 32 bits to one of 512 places */
#define N_LISTS 4      /* that may be on their way */

typedef struct
{
  NfBuffer *buffer;
  cl_event done;          /* NULL if it is not on its way */
  cl_mem held[MOST_HELD]; /* what its commands use */
  guint n_held;
} List;

struct _NfCommandList
{
  cl_kernel kernel;
  cl_command_queue queue;
  size_t members;
  List lists[N_LISTS];
  guint current;
  guint word; /* of the current list; COMMANDS if it is empty, 0 if it is not to be written yet */
  cl_mem places[N_PLACES]; /* what the current list holds, by address */
};

/* Waits for LIST, and holds nothing for it any more. */
static cl_int
retire (List *list)
{
  cl_int status = CL_SUCCESS;
  if (list->done)
    {
      status = clWaitForEvents (1, &list->done);
      clReleaseEvent (list->done);
      list->done = NULL;
    }
  while (list->n_held > 0)
    clReleaseMemObject (list->held[--list->n_held]);
  return status;
}

/* The current list becomes an empty one. */
static cl_int
begin (NfCommandList *self)
{
  List *list = &self->lists[self->current];
  const cl_int status = retire (list);
  memset (list->buffer->memory, 0, COMMANDS * sizeof (guint64));
  memset (self->places, 0, sizeof self->places);
  self->word = COMMANDS;
  return status;
}

static cl_int
run (NfCommandList *self)
{
  List *list = &self->lists[self->current];
  const size_t local = 1;
  ((guint64 *)list->buffer->memory)[self->word] = NF_LIST_END;
  cl_int status = clSetKernelArg (self->kernel, 0, sizeof (cl_mem), &list->buffer->mem);
  if (status == CL_SUCCESS)
    status = clEnqueueNDRangeKernel (self->queue, self->kernel, 1, NULL, &self->members, &local, 0, NULL,
                                     &list->done);
  self->current = (self->current + 1) % N_LISTS;
  self->word = 0;
  return status;
}

cl_int
nf_command_list_flush (NfCommandList *self)
{
  return self->word > COMMANDS ? run (self) : CL_SUCCESS;
}

void
nf_command_list_retire (NfCommandList *self)
{
  for (guint i = 0; i < N_LISTS; i++)
    if (i != self->current || self->word == 0)
      retire (&self->lists[i]);
}

NfCommandList *
nf_command_list_new (NfDevice *device, cl_program program, cl_command_queue queue, GError **error)
{
  g_autoptr (NfCommandList) self = g_new0 (NfCommandList, 1);
  cl_int status;

  self->queue = queue;
  self->members = CLAMP (nf_device_count_cores (device), 1, MOST_MEMBERS);
  for (guint i = 0; i < N_LISTS; i++)
    {
      self->lists[i].buffer = nf_buffer_new (device, WORDS * sizeof (guint64), error);
      if (!self->lists[i].buffer)
        return NULL;
    }
  self->kernel = clCreateKernel (program, "nf_list", &status);
  /* an empty one tells whether device and host mean the same by an address */
  if (status == CL_SUCCESS)
    status = begin (self);
  const guint64 *words = self->lists[self->current].buffer->memory;
  if (status == CL_SUCCESS)
    status = run (self);
  if (status == CL_SUCCESS)
    status = clFinish (queue);
  if (status != CL_SUCCESS)
    {
      nf_cl_error (error, status, "cannot run an empty command list");
      return NULL;
    }
  return words[0] == (guintptr)words ? g_steal_pointer (&self) : NULL;
}

void
nf_command_list_set_queue (NfCommandList *self, cl_command_queue queue)
{
  self->queue = queue;
}

void
nf_command_list_free (NfCommandList *self)
{
  for (guint i = 0; i < N_LISTS; i++)
    {
      retire (&self->lists[i]);
      g_clear_pointer (&self->lists[i].buffer, nf_buffer_free);
    }
  if (self->kernel)
    clReleaseKernel (self->kernel);
  g_free (self);
}

/* The current list keeps MEM until it has run. */
static cl_int
hold (NfCommandList *self, cl_mem mem)
{
  List *list = &self->lists[self->current];
  guint place = (guint32)((guintptr)mem >> 4) * 2654435761u >> PLACE_SHIFT;
  while (self->places[place] && self->places[place] != mem)
    place = (place + 1) % N_PLACES;
  if (self->places[place])
    return CL_SUCCESS;
  const cl_int status = clRetainMemObject (mem);
  if (status != CL_SUCCESS)
    return status;
  self->places[place] = mem;
  list->held[list->n_held++] = mem;
  return CL_SUCCESS;
}

/* Of each command's arguments, as nf_run_item() of list.cl reads them. */
static const guint8 argument_words[] = {
  [NF_LIST_COPY] = 7,
  [NF_LIST_FILL] = 4,
  [NF_LIST_MATMUL] = 22,
  [NF_LIST_NORM] = 13,
  [NF_LIST_HEADS] = 20,
  [NF_LIST_APPEND] = 11,
  [NF_LIST_ATTENTION] = 25,
  [NF_LIST_GATE] = 10,
  [NF_LIST_PACK] = 9,
  [NF_LIST_MAKE_LEFT] = 6,
  [NF_LIST_AFFINE] = 33,
  [NF_LIST_AFFINE_INVERSE] = 31,
  [NF_LIST_FORESEE] = 10,
  [NF_LIST_RECALL] = 14,
  [NF_LIST_SETTLE] = 16,
  [NF_LIST_SHIFT_IN] = 10,
  [NF_LIST_PRIOR] = 7,
  [NF_LIST_REORDER] = 11,
  [NF_LIST_GRID] = 9,
  [NF_LIST_DENOISE] = 7,
  [NF_LIST_CLASS_EMBED] = 8,
  [NF_LIST_PIXELS_TO_TOKENS] = 31,
  [NF_LIST_TOKENS_TO_PIXELS] = 29,
  [NF_LIST_COLUMN_SUMS] = 9,
  [NF_LIST_NORM_BACKWARD] = 13,
  [NF_LIST_HEADS_BACKWARD] = 20,
  [NF_LIST_ATTENTION_BACKWARD] = 20,
  [NF_LIST_GATE_BACKWARD] = 12,
  [NF_LIST_PACK_LEFT] = 8,
  [NF_LIST_PACK_HALVES] = 8,
  [NF_LIST_AFFINE_BACKWARD] = 20,
  [NF_LIST_SHIFT_IN_BACKWARD] = 10,
  [NF_LIST_CLASS_EMBED_BACKWARD] = 9,
  [NF_LIST_POSITION_BACKWARD] = 9,
  [NF_LIST_ADAMW] = 15,
  [NF_LIST_SUM_SQUARES] = 5,
};

gboolean
nf_command_list_takes (const gsize items[3])
{
  return items[0] <= MOST_ITEMS && items[1] <= MOST_ITEMS / items[0]
         && items[2] <= MOST_ITEMS / (items[0] * items[1]);
}

cl_int
nf_command_list_add (NfCommandList *self, NfListed command, const gsize items[3], gboolean by_columns,
                     const NfArgument *arguments, guint n)
{
  guint words = HEAD, buffers = 0;
  cl_int status = CL_SUCCESS;
  for (guint i = 0; i < n; i++)
    {
      words += (arguments[i].size + sizeof (guint64) - 1) / sizeof (guint64);
      buffers += arguments[i].is_buffer;
    }
  if (self->word > 0
      && (self->word + words >= WORDS || self->lists[self->current].n_held + buffers > MOST_HELD))
    status = run (self);
  if (status == CL_SUCCESS && self->word == 0)
    status = begin (self);
  if (status != CL_SUCCESS)
    return status;

  /* a kernel would read what is not there */
  g_assert (words - HEAD == argument_words[command]);
  guint64 *to = (guint64 *)self->lists[self->current].buffer->memory + self->word;
  to[0] = command | (guint64)words << 32;
  to[1] = items[0] | (guint64)items[1] << 32;
  to[2] = items[2] | (guint64)by_columns << 32;
  to[3] = 0;
  to += HEAD;
  for (guint i = 0; i < n && status == CL_SUCCESS; i++)
    {
      const NfArgument *argument = &arguments[i];
      if (argument->is_buffer)
        {
          *to++ = argument->buffer ? (guintptr)argument->buffer->memory : 0;
          if (argument->buffer)
            status = hold (self, argument->buffer->mem);
          continue;
        }
      const guint whole = (argument->size + sizeof *to - 1) / sizeof *to;
      to[whole - 1] = 0;
      memcpy (to, argument->value, argument->size);
      to += whole;
    }
  if (status == CL_SUCCESS)
    self->word += words;
  return status;
}

static gsize
count_parts (gsize floats)
{
  return (floats + COPY_PART - 1) / COPY_PART;
}

gboolean
nf_command_list_takes_rows (gsize floats, guint count)
{
  return nf_command_list_takes ((const gsize[3]){ count_parts (floats), count, 1 });
}

#define BUFFER(b)                                                                                            \
  {                                                                                                          \
    .size = sizeof (cl_mem), .is_buffer = TRUE, .buffer = (b)                                                \
  }
#define VALUE(x)                                                                                             \
  {                                                                                                          \
    .size = sizeof (x), .value = &(x)                                                                        \
  }

cl_int
nf_command_list_copy (NfCommandList *self, const NfBuffer *from, gsize from_at, gsize from_step,
                      const NfBuffer *to, gsize to_at, gsize to_step, gsize floats, guint count)
{
  const gsize items[3] = { count_parts (floats), count, 1 };
  const NfArgument arguments[] = { BUFFER (from), VALUE (from_at), VALUE (from_step), BUFFER (to),
                                   VALUE (to_at), VALUE (to_step), VALUE (floats) };
  return nf_command_list_add (self, NF_LIST_COPY, items, FALSE, arguments, G_N_ELEMENTS (arguments));
}

cl_int
nf_command_list_fill (NfCommandList *self, const NfBuffer *x, gsize at, float value, gsize floats)
{
  const gsize items[3] = { count_parts (floats), 1, 1 };
  const NfArgument arguments[] = { BUFFER (x), VALUE (at), VALUE (value), VALUE (floats) };
  return nf_command_list_add (self, NF_LIST_FILL, items, FALSE, arguments, G_N_ELEMENTS (arguments));
}
