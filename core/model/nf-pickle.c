/* normflow: pickles of tensors. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The opcodes are those that Python's pickle protocols 2 to 5 write for plain data (Python's documentation of
 * pickletools), the names those that PyTorch writes for tensors. */
#include "nf-pickle.h"
#include "nf-error-private.h"
#include "nf-json.h"

#include <string.h>

#define MAX_SIZE ((gsize)16 << 20) /* of one pickle; a model of 1000 tensors takes 200 KiB */
#define MAX_VALUES ((guint)1 << 19)
#define MAX_HEIGHT ((guint)1 << 17) /* of the stack */
#define MAX_DEPTH 32
#define MAX_NAME 128 /* of a global */
#define MAX_DIGITS 64

typedef enum
{
  GLOBAL_ORDERED_DICT,
  GLOBAL_SIZE,
  GLOBAL_TENSOR,
  GLOBAL_PARAMETER,
  GLOBAL_OF_TYPE,
  GLOBAL_TYPE,
  GLOBAL_STORAGE,
} GlobalKind;

static const struct
{
  const char *module, *name;
  GlobalKind kind;
  NfDtype dtype;
} globals[] = {
  { "collections", "OrderedDict", GLOBAL_ORDERED_DICT, 0 },
  { "torch", "Size", GLOBAL_SIZE, 0 },
  { "torch._utils", "_rebuild_tensor", GLOBAL_TENSOR, 0 },
  { "torch._utils", "_rebuild_tensor_v2", GLOBAL_TENSOR, 0 },
  { "torch._utils", "_rebuild_parameter", GLOBAL_PARAMETER, 0 },
  { "torch._utils", "_rebuild_parameter_with_state", GLOBAL_PARAMETER, 0 },
  { "torch._tensor", "_rebuild_from_type_v2", GLOBAL_OF_TYPE, 0 },
  { "torch", "Tensor", GLOBAL_TYPE, 0 },
  { "torch.nn.parameter", "Parameter", GLOBAL_TYPE, 0 },
  { "torch.nn.parameter", "Buffer", GLOBAL_TYPE, 0 },
  { "torch", "FloatStorage", GLOBAL_STORAGE, NF_DTYPE_F32 },
  { "torch", "DoubleStorage", GLOBAL_STORAGE, NF_DTYPE_F64 },
  { "torch", "HalfStorage", GLOBAL_STORAGE, NF_DTYPE_F16 },
  { "torch", "BFloat16Storage", GLOBAL_STORAGE, NF_DTYPE_BF16 },
  { "torch", "LongStorage", GLOBAL_STORAGE, NF_DTYPE_I64 },
  { "torch", "IntStorage", GLOBAL_STORAGE, NF_DTYPE_I32 },
  { "torch", "ByteStorage", GLOBAL_STORAGE, NF_DTYPE_U8 },
  { "torch", "BoolStorage", GLOBAL_STORAGE, NF_DTYPE_BOOL },
};

/* How PyTorch makes tensors that are not read, and what to save instead. */
static const struct
{
  const char *module, *name, *what, *instead;
} other_tensors[] = {
  { "torch._utils", "_rebuild_sparse_tensor", "a sparse tensor", "tensor.to_dense()" },
  { "torch._utils", "_rebuild_qtensor", "a quantised tensor", "tensor.dequantize()" },
  { "torch._utils", "_rebuild_nested_tensor", "a nested tensor", "tensors of their own" },
  { "torch._utils", "_rebuild_tensor_v3", "a tensor of float8 or another rare type", "tensor.float()" },
  { "torch._utils", "_rebuild_meta_tensor_no_storage", "a tensor of the device meta, without values",
    "one that has some" },
  { "torch", "CharStorage", "a tensor of int8", "tensor.float()" },
  { "torch", "ShortStorage", "a tensor of int16", "tensor.float()" },
  { "torch", "ComplexFloatStorage", "a tensor of complex64", "torch.view_as_real(tensor)" },
  { "torch", "ComplexDoubleStorage", "a tensor of complex128", "torch.view_as_real(tensor)" },
};

/* Names, for messages, of opcodes that plain data do not need. */
static const struct
{
  guint8 code;
  const char *name;
} refused[] = {
  { '2', "DUP" },
  { 'I', "INT" },
  { 'L', "LONG" },
  { 0x8b, "LONG4" },
  { 'F', "FLOAT" },
  { 'S', "STRING" },
  { 'T', "BINSTRING" },
  { 'U', "SHORT_BINSTRING" },
  { 'V', "UNICODE" },
  { 'B', "BINBYTES" },
  { 'C', "SHORT_BINBYTES" },
  { 0x8e, "BINBYTES8" },
  { 0x96, "BYTEARRAY8" },
  { 0x97, "NEXT_BUFFER" },
  { 0x98, "READONLY_BUFFER" },
  { 0x8f, "EMPTY_SET" },
  { 0x90, "ADDITEMS" },
  { 0x91, "FROZENSET" },
  { 'd', "DICT" },
  { 'l', "LIST" },
  { 'g', "GET" },
  { 'p', "PUT" },
  { 'P', "PERSID" },
  { 'i', "INST" },
  { 'o', "OBJ" },
  { 0x81, "NEWOBJ" },
  { 0x92, "NEWOBJ_EX" },
  { 0x82, "EXT1" },
  { 0x83, "EXT2" },
  { 0x84, "EXT4" },
};

typedef struct
{
  const guint8 *data, *at, *end;
  const char *what;
  GPtrArray *stack;  /* of NfPickleValue */
  GArray *marks;     /* of guint: heights of the stack */
  GPtrArray *memo;   /* of NfPickleValue, or NULL */
  GHashTable *named; /* a storage's key -> its value */
  NfPickle *pickle;
  gboolean begun; /* with a PROTO, as protocols from 2 on do */
  GError **error;
} Machine;

static void
value_free (gpointer data)
{
  NfPickleValue *value = data;
  if (value->type == NF_PICKLE_LONG)
    g_bytes_unref (value->digits);
  else if (value->type == NF_PICKLE_TENSOR)
    g_free (value->tensor);
  else if (value->type == NF_PICKLE_TUPLE || value->type == NF_PICKLE_LIST || value->type == NF_PICKLE_DICT)
    g_ptr_array_unref (value->items);
  g_free (value);
}

void
nf_pickle_free (NfPickle *pickle)
{
  g_ptr_array_unref (pickle->storages);
  g_ptr_array_unref (pickle->values);
  g_string_chunk_free (pickle->texts);
  g_free (pickle);
}

#define FAIL(machine, ...) nf_error_malformed ((machine)->error, (machine)->what, __VA_ARGS__)

static gsize
place (const Machine *m)
{
  return (gsize)(m->at - m->data);
}

/* The stack */

static NfPickleValue *
new_value (Machine *m, NfPickleType type)
{
  if (m->pickle->values->len == MAX_VALUES)
    {
      FAIL (m, "the pickle builds more than %u values", MAX_VALUES);
      return NULL;
    }
  NfPickleValue *value = g_new0 (NfPickleValue, 1);
  value->type = type;
  if (type == NF_PICKLE_TUPLE || type == NF_PICKLE_LIST || type == NF_PICKLE_DICT)
    value->items = g_ptr_array_new ();
  g_ptr_array_add (m->pickle->values, value);
  return value;
}

static gboolean
push (Machine *m, NfPickleValue *value)
{
  if (!value)
    return FALSE;
  if (m->stack->len == MAX_HEIGHT)
    return FAIL (m, "the pickle piles up more than %u values", MAX_HEIGHT);
  g_ptr_array_add (m->stack, value);
  return TRUE;
}

static gboolean
push_integer (Machine *m, NfPickleType type, gint64 integer)
{
  NfPickleValue *value = new_value (m, type);
  if (value)
    value->integer = integer;
  return push (m, value);
}

static guint
floor_of (const Machine *m)
{
  return m->marks->len ? g_array_index (m->marks, guint, m->marks->len - 1) : 0;
}

/* The topmost value, which stays; not one below the last mark. */
static NfPickleValue *
top (Machine *m)
{
  if (m->stack->len > floor_of (m))
    return m->stack->pdata[m->stack->len - 1];
  FAIL (m, "the pickle takes a value that is not there, before byte %" G_GSIZE_FORMAT, place (m));
  return NULL;
}

static NfPickleValue *
pop (Machine *m)
{
  NfPickleValue *value = top (m);
  if (value)
    g_ptr_array_set_size (m->stack, (gint)m->stack->len - 1);
  return value;
}

/* Takes the last mark away and says where it was. */
static gboolean
pop_mark (Machine *m, guint *height)
{
  if (m->marks->len == 0)
    return FAIL (m, "the pickle lacks a mark, before byte %" G_GSIZE_FORMAT, place (m));
  *height = floor_of (m);
  g_array_set_size (m->marks, m->marks->len - 1);
  return TRUE;
}

/* Puts ITEM in HOLDER. What another value holds does not change any more, so that no value can come to hold
 * itself. */
static gboolean
hold (Machine *m, NfPickleValue *holder, NfPickleValue *item)
{
  item->held = TRUE;
  if (holder->held)
    return FAIL (m,
                 "a list or dictionary changes after it became part of another, before byte %" G_GSIZE_FORMAT,
                 place (m));
  if (item->depth >= MAX_DEPTH)
    return FAIL (m, "its values are nested more than %d deep", MAX_DEPTH);
  holder->depth = MAX (holder->depth, item->depth + 1);
  g_ptr_array_add (holder->items, item);
  return TRUE;
}

/* Moves what lies above HEIGHT into HOLDER. */
static gboolean
hold_above (Machine *m, NfPickleValue *holder, guint height)
{
  for (guint i = height; i < m->stack->len; i++)
    if (!hold (m, holder, m->stack->pdata[i]))
      return FALSE;
  g_ptr_array_set_size (m->stack, (gint)height);
  return TRUE;
}

static gboolean
push_tuple (Machine *m, guint height)
{
  NfPickleValue *tuple = new_value (m, NF_PICKLE_TUPLE);
  return tuple && hold_above (m, tuple, height) && push (m, tuple);
}

/* Of the topmost N values, none below the last mark. */
static gboolean
push_tuple_of (Machine *m, guint n)
{
  if (m->stack->len - floor_of (m) >= n)
    return push_tuple (m, m->stack->len - n);
  return FAIL (m, "the pickle takes a value that is not there, before byte %" G_GSIZE_FORMAT, place (m));
}

/* Adds what lies above HEIGHT to the value below, which must be of TYPE. */
static gboolean
extend (Machine *m, NfPickleType type, guint height)
{
  if (height <= floor_of (m) || height > m->stack->len)
    return FAIL (m, "the pickle takes a value that is not there, before byte %" G_GSIZE_FORMAT, place (m));
  NfPickleValue *holder = m->stack->pdata[height - 1];
  if (holder->type != type)
    return FAIL (m, "the pickle adds to what is no %s, before byte %" G_GSIZE_FORMAT,
                 type == NF_PICKLE_DICT ? "dictionary" : "list", place (m));
  if (type == NF_PICKLE_DICT)
    {
      if ((m->stack->len - height) % 2 != 0)
        return FAIL (m, "a dictionary gets a key without a value, before byte %" G_GSIZE_FORMAT, place (m));
      for (guint i = height; i < m->stack->len; i += 2)
        {
          const NfPickleValue *key = m->stack->pdata[i];
          if (key->type != NF_PICKLE_STRING && key->type != NF_PICKLE_INT)
            return FAIL (m,
                         "a dictionary has a key that is neither a string nor a whole number, before byte "
                         "%" G_GSIZE_FORMAT,
                         place (m));
        }
    }
  return hold_above (m, holder, height);
}

/* Operands */

static const guint8 *
take (Machine *m, guint64 n)
{
  if ((guint64)(m->end - m->at) < n)
    {
      if ((gsize)(m->end - m->data) == MAX_SIZE)
        FAIL (m, "the pickle has more than %" G_GSIZE_FORMAT " bytes", MAX_SIZE);
      else
        FAIL (m, "the pickle ends in the middle; is it truncated?");
      return NULL;
    }
  const guint8 *data = m->at;
  m->at += n;
  return data;
}

/* N little-endian bytes. */
static gboolean
take_number (Machine *m, guint n, guint64 *number)
{
  const guint8 *data = take (m, n);
  *number = 0;
  for (guint i = n; data && i > 0; i--)
    *number = *number << 8 | data[i - 1];
  return data != NULL;
}

static gboolean
push_string (Machine *m, guint size_bytes)
{
  guint64 length;
  const guint8 *data = take_number (m, size_bytes, &length) ? take (m, length) : NULL;
  if (!data)
    return FALSE;
  if (!g_utf8_validate_len ((const char *)data, length, NULL))
    return FAIL (m, "a string is not UTF-8, before byte %" G_GSIZE_FORMAT, place (m));
  NfPickleValue *value = new_value (m, NF_PICKLE_STRING);
  if (value)
    value->text = g_string_chunk_insert_len (m->pickle->texts, (const char *)data, (gssize)length);
  return push (m, value);
}

static gboolean
push_long (Machine *m)
{
  guint64 n, number = 0;
  const guint8 *data = take_number (m, 1, &n) ? take (m, n) : NULL;
  if (!data)
    return FALSE;
  if (n > MAX_DIGITS)
    return FAIL (m, "a number has %" G_GUINT64_FORMAT " bytes", n);
  if (n > sizeof number)
    {
      NfPickleValue *value = new_value (m, NF_PICKLE_LONG);
      if (value)
        value->digits = g_bytes_new (data, n);
      return push (m, value);
    }
  for (guint i = 0; i < sizeof number; i++)
    {
      const guint8 sign = n > 0 && data[n - 1] & 0x80 ? 0xff : 0;
      number |= (guint64)(i < n ? data[i] : sign) << (8 * i);
    }
  return push_integer (m, NF_PICKLE_INT, (gint64)number);
}

static gboolean
push_float (Machine *m)
{
  const guint8 *data = take (m, 8);
  NfPickleValue *value = data ? new_value (m, NF_PICKLE_FLOAT) : NULL;
  guint64 bits = 0;
  for (guint i = 0; value && i < 8; i++)
    bits = bits << 8 | data[i];
  if (value)
    memcpy (&value->real, &bits, sizeof bits);
  return push (m, value);
}

/* The memo */

static gboolean
memorise (Machine *m, guint64 i)
{
  NfPickleValue *value = top (m);
  if (!value)
    return FALSE;
  if (i >= MAX_VALUES)
    return FAIL (m, "the pickle remembers a value as its %" G_GUINT64_FORMAT "th, at most %u are possible", i,
                 MAX_VALUES);
  if (i >= m->memo->len)
    g_ptr_array_set_size (m->memo, (gint)i + 1);
  m->memo->pdata[i] = value;
  return TRUE;
}

static gboolean
recall (Machine *m, guint64 i)
{
  if (i >= m->memo->len || !m->memo->pdata[i])
    return FAIL (m, "the pickle recalls value %" G_GUINT64_FORMAT ", which it never remembered", i);
  return push (m, m->memo->pdata[i]);
}

/* Names and what is made with them */

/* The name that what is being built is to have, for messages; empty if it has none. (transfer full) */
static char *
name_at_hand (const Machine *m)
{
  for (guint i = m->stack->len; i-- > 0;)
    {
      const NfPickleValue *value = m->stack->pdata[i];
      /* that is what its elements are called on the way */
      if (value->type != NF_PICKLE_STRING || strcmp (value->text, "storage") == 0)
        continue;
      g_autofree char *shown = nf_shorten (value->text);
      return g_strdup_printf (" for \"%s\"", shown);
    }
  return g_strdup ("");
}

static gboolean
push_global (Machine *m, const char *module, const char *name)
{
  for (guint i = 0; i < G_N_ELEMENTS (globals); i++)
    if (strcmp (globals[i].module, module) == 0 && strcmp (globals[i].name, name) == 0)
      {
        NfPickleValue *value = new_value (m, NF_PICKLE_GLOBAL);
        if (value)
          value->global = i;
        return push (m, value);
      }
  for (guint i = 0; i < G_N_ELEMENTS (other_tensors); i++)
    if (strcmp (module, other_tensors[i].module) == 0 && strcmp (other_tensors[i].name, name) == 0)
      {
        g_autofree char *whose = name_at_hand (m);
        return FAIL (m,
                     "the pickle asks for %s.%s%s, before byte %" G_GSIZE_FORMAT
                     ", which makes %s; such are not read, save %s in its place",
                     module, name, whose, place (m), other_tensors[i].what, other_tensors[i].instead);
      }
  g_autofree char *shown_module = nf_shorten (module), *shown_name = nf_shorten (name);
  return FAIL (m,
               "the pickle asks for %s.%s, before byte %" G_GSIZE_FORMAT
               "; weights need no such thing, and nothing of it was run. Save them alone: "
               "torch.save(model.state_dict(), FILE)",
               shown_module, shown_name, place (m));
}

/* The text up to the next end of line. */
static char *
take_line (Machine *m)
{
  const guint8 *end = memchr (m->at, '\n', MIN ((gsize)(m->end - m->at), MAX_NAME + 1));
  if (!end)
    {
      FAIL (m, "a name has no end, after byte %" G_GSIZE_FORMAT, place (m));
      return NULL;
    }
  char *line = g_strndup ((const char *)m->at, (gsize)(end - m->at));
  m->at = end + 1;
  return line;
}

static gboolean
global_of_lines (Machine *m)
{
  g_autofree char *module = take_line (m), *name = module ? take_line (m) : NULL;
  return name && push_global (m, module, name);
}

static gboolean
global_of_stack (Machine *m)
{
  const NfPickleValue *name = pop (m), *module = name ? pop (m) : NULL;
  if (!module)
    return FALSE;
  if (name->type != NF_PICKLE_STRING || module->type != NF_PICKLE_STRING)
    return FAIL (m, "a name is not a string, before byte %" G_GSIZE_FORMAT, place (m));
  return push_global (m, module->text, name->text);
}

static gboolean
is_global (const NfPickleValue *value, GlobalKind kind)
{
  return value->type == NF_PICKLE_GLOBAL && globals[value->global].kind == kind;
}

/* Item I of the tuple if it is of TYPE. */
static NfPickleValue *
item (const NfPickleValue *tuple, guint i, NfPickleType type)
{
  if (tuple->type != NF_PICKLE_TUPLE || i >= tuple->items->len)
    return NULL;
  NfPickleValue *value = tuple->items->pdata[i];
  return value->type == type ? value : NULL;
}

/* ("storage", its type, key, device, number of elements[, None]) becomes a storage, the same for the same
 * key. */
static gboolean
storage_of_stack (Machine *m)
{
  const NfPickleValue *id = pop (m);
  if (!id)
    return FALSE;
  const NfPickleValue *word = item (id, 0, NF_PICKLE_STRING), *type = item (id, 1, NF_PICKLE_GLOBAL),
                      *key = item (id, 2, NF_PICKLE_STRING), *device = item (id, 3, NF_PICKLE_STRING),
                      *n = item (id, 4, NF_PICKLE_INT);
  if (!word || strcmp (word->text, "storage") != 0 || !type || !is_global (type, GLOBAL_STORAGE) || !key
      || !device || !n)
    return FAIL (m, "the pickle refers to something else than a storage, before byte %" G_GSIZE_FORMAT,
                 place (m));
  const NfDtype dtype = globals[type->global].dtype;
  g_autofree char *shown = nf_shorten (key->text);
  if (id->items->len > 6 || (id->items->len == 6 && !item (id, 5, NF_PICKLE_NONE)))
    return FAIL (m, "storage %s is a view of another, which only PyTorch before 0.4 wrote", shown);
  if (n->integer < 0 || n->integer > G_MAXINT64 / (gint64)nf_dtype_size (dtype))
    return FAIL (m, "storage %s claims %" G_GINT64_FORMAT " elements", shown, n->integer);

  NfPickleValue *value = g_hash_table_lookup (m->named, key->text);
  if (value)
    {
      if (value->storage->dtype != dtype || value->storage->n != (guint64)n->integer)
        return FAIL (m, "storage %s is described twice, differently", shown);
      return push (m, value);
    }
  value = new_value (m, NF_PICKLE_STORAGE);
  if (!value)
    return FALSE;
  value->storage = g_new (NfPickleStorage, 1);
  *value->storage = (NfPickleStorage){ .key = key->text, .dtype = dtype, .n = (guint64)n->integer };
  g_ptr_array_add (m->pickle->storages, value->storage);
  g_hash_table_insert (m->named, (gpointer)key->text, value);
  return push (m, value);
}

/* The whole numbers of a tuple, none negative. */
static gboolean
read_sizes (const NfPickleValue *tuple, guint n, guint64 *sizes)
{
  for (guint i = 0; i < n; i++)
    {
      const NfPickleValue *value = item (tuple, i, NF_PICKLE_INT);
      if (!value || value->integer < 0)
        return FALSE;
      sizes[i] = (guint64)value->integer;
    }
  return TRUE;
}

/* The first entry of a tensor's METADATA, a dictionary or None, that is not false; NULL if there is none. */
static const char *
find_mark (Machine *m, const NfPickleValue *metadata)
{
  for (guint i = 0; metadata->type == NF_PICKLE_DICT && i < metadata->items->len; i += 2)
    {
      const NfPickleValue *key = metadata->items->pdata[i], *value = metadata->items->pdata[i + 1];
      const gboolean number = value->type == NF_PICKLE_BOOL || value->type == NF_PICKLE_INT;
      if (value->type == NF_PICKLE_NONE || (number && value->integer == 0))
        continue;
      if (key->type == NF_PICKLE_STRING)
        return key->text;
      g_autofree char *text = g_strdup_printf ("%" G_GINT64_FORMAT, key->integer);
      return g_string_chunk_insert (m->pickle->texts, text);
    }
  return NULL;
}

/* (storage, offset, dims, strides[, whether it has gradients, hooks[, metadata]]) */
static gboolean
push_tensor (Machine *m, const NfPickleValue *arguments)
{
  const NfPickleValue *storage = item (arguments, 0, NF_PICKLE_STORAGE),
                      *offset = item (arguments, 1, NF_PICKLE_INT),
                      *dims = item (arguments, 2, NF_PICKLE_TUPLE),
                      *strides = item (arguments, 3, NF_PICKLE_TUPLE);
  if (!storage || !offset || offset->integer < 0 || !dims || !strides
      || dims->items->len != strides->items->len)
    return FAIL (m,
                 "a tensor is not made of a storage, offset, shape and strides, before byte %" G_GSIZE_FORMAT,
                 place (m));
  const NfPickleValue *metadata = arguments->items->len > 6 ? arguments->items->pdata[6] : NULL;
  if (metadata && metadata->type != NF_PICKLE_DICT && metadata->type != NF_PICKLE_NONE)
    return FAIL (m, "a tensor's metadata is no dictionary, before byte %" G_GSIZE_FORMAT, place (m));
  g_autofree char *key = nf_shorten (storage->storage->key);
  NfPickleTensor tensor = { .storage = storage->storage,
                            .offset = (guint64)offset->integer,
                            .n_dims = dims->items->len,
                            .n_elements = 1,
                            .mark = metadata ? find_mark (m, metadata) : NULL };
  if (tensor.n_dims > NF_TENSOR_MAX_DIMS)
    return FAIL (m, "a tensor of storage %s has %u dimensions, at most %d are possible", key, tensor.n_dims,
                 NF_TENSOR_MAX_DIMS);
  if (!read_sizes (dims, tensor.n_dims, tensor.dims) || !read_sizes (strides, tensor.n_dims, tensor.strides))
    return FAIL (m, "a tensor of storage %s has an impossible shape", key);

  gboolean fits = TRUE;
  guint64 last = tensor.offset;
  for (guint i = 0; i < tensor.n_dims; i++)
    fits = fits && g_uint64_checked_mul (&tensor.n_elements, tensor.n_elements, tensor.dims[i]);
  for (guint i = 0; fits && tensor.n_elements > 0 && i < tensor.n_dims; i++)
    {
      guint64 reach;
      fits = g_uint64_checked_mul (&reach, tensor.dims[i] - 1, tensor.strides[i])
             && g_uint64_checked_add (&last, last, reach);
    }
  /* It may have more elements than its storage, which strides of 0 repeat: who copies them bounds how many.
   */
  const guint64 n = tensor.storage->n;
  if (!fits || (tensor.n_elements > 0 ? last >= n : tensor.offset > n))
    return FAIL (m, "a tensor reaches beyond the %" G_GUINT64_FORMAT " elements of its storage %s", n, key);

  NfPickleValue *value = new_value (m, NF_PICKLE_TENSOR);
  if (value)
    value->tensor = g_memdup2 (&tensor, sizeof tensor);
  return push (m, value);
}

static gboolean
make (Machine *m, const NfPickleValue *function, const NfPickleValue *arguments)
{
  const GlobalKind kind = globals[function->global].kind;
  NfPickleValue *first = arguments->items->len ? arguments->items->pdata[0] : NULL;

  if (kind == GLOBAL_ORDERED_DICT && !first)
    return push (m, new_value (m, NF_PICKLE_DICT));
  if (kind == GLOBAL_SIZE && arguments->items->len == 1 && first->type == NF_PICKLE_TUPLE)
    return push (m, first);
  if (kind == GLOBAL_TENSOR)
    return push_tensor (m, arguments);
  if (kind == GLOBAL_PARAMETER && first && first->type == NF_PICKLE_TENSOR)
    return push (m, first);
  /* (function, type, its arguments, state) */
  if (kind == GLOBAL_OF_TYPE && first
      && (is_global (first, GLOBAL_TENSOR) || is_global (first, GLOBAL_PARAMETER)))
    {
      const NfPickleValue *type = item (arguments, 1, NF_PICKLE_GLOBAL),
                          *inner = item (arguments, 2, NF_PICKLE_TUPLE);
      if (type && is_global (type, GLOBAL_TYPE) && inner)
        return make (m, first, inner);
    }
  return FAIL (m, "%s.%s is used in a way that weights need not, before byte %" G_GSIZE_FORMAT,
               globals[function->global].module, globals[function->global].name, place (m));
}

static gboolean
reduce (Machine *m)
{
  const NfPickleValue *arguments = pop (m), *function = arguments ? pop (m) : NULL;
  if (!function)
    return FALSE;
  if (function->type != NF_PICKLE_GLOBAL || arguments->type != NF_PICKLE_TUPLE)
    return FAIL (m, "the pickle calls what is no function, before byte %" G_GSIZE_FORMAT, place (m));
  return make (m, function, arguments);
}

/* An ordered dictionary of a module's state carries its versions as an attribute, which says nothing to us.
 */
static gboolean
build (Machine *m)
{
  const NfPickleValue *state = pop (m), *object = state ? top (m) : NULL;
  if (!object)
    return FALSE;
  if (object->type != NF_PICKLE_DICT || state->type != NF_PICKLE_DICT)
    return FAIL (m, "the pickle gives attributes to what is no dictionary, before byte %" G_GSIZE_FORMAT,
                 place (m));
  return TRUE;
}

/* The machine */

static gboolean
refuse (Machine *m, guint8 code)
{
  const char *name = NULL;
  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    if (refused[i].code == code)
      name = refused[i].name;
  if (!m->begun)
    return FAIL (
        m,
        "the pickle uses opcode 0x%02x before it says its protocol, as only protocols 0 and 1 do; known "
        "are 2 to 5: save it anew, without pickle_protocol",
        code);
  return FAIL (
      m, "the pickle uses opcode %s%s0x%02x%s, before byte %" G_GSIZE_FORMAT "; weights need no such thing",
      name ? name : "", name ? " (" : "", code, name ? ")" : "", place (m));
}

/* Everything but STOP. */
static gboolean
step (Machine *m, guint8 code)
{
  guint64 number = 0;
  guint height = 0;

  switch (code)
    {
    case 0x80: /* PROTO */
      if (!take_number (m, 1, &number))
        return FALSE;
      m->begun = TRUE;
      return (number >= 2 && number <= 5)
             || FAIL (m, "the pickle is of protocol %u, known are 2 to 5", (guint)number);
    case 0x95: /* FRAME: a hint for readers of streams */
      return take (m, 8) != NULL;
    case '(': /* MARK */
      if (m->marks->len == MAX_HEIGHT)
        return FAIL (m, "the pickle piles up more than %u marks", MAX_HEIGHT);
      g_array_append_val (m->marks, m->stack->len);
      return TRUE;
    case '0': /* POP */
      return pop (m) != NULL;
    case '1': /* POP_MARK */
      if (!pop_mark (m, &height))
        return FALSE;
      g_ptr_array_set_size (m->stack, (gint)height);
      return TRUE;

    case 'N': /* NONE */
      return push (m, new_value (m, NF_PICKLE_NONE));
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
      return push_integer (m, NF_PICKLE_BOOL, code == 0x88);
    case 'K': /* BININT1 */
    case 'M': /* BININT2 */
      return take_number (m, code == 'K' ? 1 : 2, &number) && push_integer (m, NF_PICKLE_INT, (gint64)number);
    case 'J': /* BININT */
      return take_number (m, 4, &number) && push_integer (m, NF_PICKLE_INT, (gint32)(guint32)number);
    case 0x8a: /* LONG1 */
      return push_long (m);
    case 'G': /* BINFLOAT */
      return push_float (m);
    case 0x8c: /* SHORT_BINUNICODE */
      return push_string (m, 1);
    case 'X': /* BINUNICODE */
      return push_string (m, 4);
    case 0x8d: /* BINUNICODE8 */
      return push_string (m, 8);

    case ')': /* EMPTY_TUPLE */
      return push_tuple_of (m, 0);
    case 0x85: /* TUPLE1 */
    case 0x86: /* TUPLE2 */
    case 0x87: /* TUPLE3 */
      return push_tuple_of (m, code - 0x84u);
    case 't': /* TUPLE */
      return pop_mark (m, &height) && push_tuple (m, height);
    case ']': /* EMPTY_LIST */
      return push (m, new_value (m, NF_PICKLE_LIST));
    case 'a': /* APPEND */
      return extend (m, NF_PICKLE_LIST, m->stack->len - MIN (m->stack->len, 1));
    case 'e': /* APPENDS */
      return pop_mark (m, &height) && extend (m, NF_PICKLE_LIST, height);
    case '}': /* EMPTY_DICT */
      return push (m, new_value (m, NF_PICKLE_DICT));
    case 's': /* SETITEM */
      return extend (m, NF_PICKLE_DICT, m->stack->len - MIN (m->stack->len, 2));
    case 'u': /* SETITEMS */
      return pop_mark (m, &height) && extend (m, NF_PICKLE_DICT, height);

    case 'q': /* BINPUT */
    case 'r': /* LONG_BINPUT */
      return take_number (m, code == 'q' ? 1 : 4, &number) && memorise (m, number);
    case 0x94: /* MEMOIZE */
      return memorise (m, m->memo->len);
    case 'h': /* BINGET */
    case 'j': /* LONG_BINGET */
      return take_number (m, code == 'h' ? 1 : 4, &number) && recall (m, number);

    case 'c': /* GLOBAL */
      return global_of_lines (m);
    case 0x93: /* STACK_GLOBAL */
      return global_of_stack (m);
    case 'R': /* REDUCE */
      return reduce (m);
    case 'b': /* BUILD */
      return build (m);
    case 'Q': /* BINPERSID */
      return storage_of_stack (m);
    default:
      return refuse (m, code);
    }
}

static gboolean
run (Machine *m)
{
  for (;;)
    {
      const guint8 *code = take (m, 1);
      if (!code)
        return FALSE;
      if (*code == '.')
        break;
      if (!step (m, *code))
        return FALSE;
    }
  if (m->stack->len != 1 || m->marks->len != 0)
    return FAIL (m, "the pickle leaves %u values and %u marks, not one value", m->stack->len, m->marks->len);
  m->pickle->root = m->stack->pdata[0];
  m->pickle->length = place (m);
  return TRUE;
}

NfPickle *
nf_pickle_read (const guint8 *data, gsize size, const char *what, GError **error)
{
  g_autoptr (NfPickle) pickle = g_new0 (NfPickle, 1);
  pickle->storages = g_ptr_array_new_with_free_func (g_free);
  pickle->values = g_ptr_array_new_with_free_func (value_free);
  pickle->texts = g_string_chunk_new (4096);

  g_autoptr (GPtrArray) stack = g_ptr_array_new (), memo = g_ptr_array_new ();
  g_autoptr (GArray) marks = g_array_new (FALSE, FALSE, sizeof (guint));
  g_autoptr (GHashTable) named = g_hash_table_new (g_str_hash, g_str_equal);
  Machine machine = { .data = data,
                      .at = data,
                      .end = data + MIN (size, MAX_SIZE),
                      .what = what,
                      .stack = stack,
                      .marks = marks,
                      .memo = memo,
                      .named = named,
                      .pickle = pickle,
                      .error = error };
  return run (&machine) ? g_steal_pointer (&pickle) : NULL;
}

const NfPickleValue *
nf_pickle_lookup (const NfPickleValue *dict, const char *key)
{
  for (guint i = 0; dict->type == NF_PICKLE_DICT && i < dict->items->len; i += 2)
    {
      const NfPickleValue *name = dict->items->pdata[i];
      if (name->type == NF_PICKLE_STRING && strcmp (name->text, key) == 0)
        return dict->items->pdata[i + 1];
    }
  return NULL;
}
