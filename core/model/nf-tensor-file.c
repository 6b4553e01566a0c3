/* normflow: files of named tensors. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What begins like a PyTorch checkpoint is read as one, everything else as safetensors. That format: eight
 * bytes, the length of the header, little-endian; the header, a JSON object of name -> { dtype, shape,
 * data_offsets } and "__metadata__" -> strings; then the data. */
#include "nf-tensor-file.h"
#include "nf-error-private.h"
#include "nf-half.h"
#include "nf-json.h"
#include "nf-torch-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Some 80000 tensors. JSON takes a hundred times its length in memory. */
#define MAX_HEADER ((guint64)8 << 20)
#define METADATA "__metadata__"

struct _NfTensorFile
{
  GObject parent_instance;

  char *path;
  int fd;
  struct stat opened; /* what it was then */
  GMappedFile *mapping;
  GArray *tensors;      /* of NfTensor */
  GPtrArray *copies;    /* bytes of tensors that do not lie in the mapping */
  GHashTable *index;    /* name -> 1 + place */
  GHashTable *metadata; /* string -> string */
};

G_DEFINE_FINAL_TYPE (NfTensorFile, nf_tensor_file, G_TYPE_OBJECT)

static const struct
{
  const char *name;
  gsize size;
} dtypes[] = {
  [NF_DTYPE_F32] = { "F32", 4 },   [NF_DTYPE_F64] = { "F64", 8 },   [NF_DTYPE_F16] = { "F16", 2 },
  [NF_DTYPE_BF16] = { "BF16", 2 }, [NF_DTYPE_I64] = { "I64", 8 },   [NF_DTYPE_I32] = { "I32", 4 },
  [NF_DTYPE_U8] = { "U8", 1 },     [NF_DTYPE_BOOL] = { "BOOL", 1 },
};

gsize
nf_dtype_size (NfDtype dtype)
{
  g_return_val_if_fail ((guint)dtype < G_N_ELEMENTS (dtypes), 0);
  return dtypes[dtype].size;
}

const char *
nf_dtype_name (NfDtype dtype)
{
  g_return_val_if_fail ((guint)dtype < G_N_ELEMENTS (dtypes), NULL);
  return dtypes[dtype].name;
}

char *
nf_shape_to_text (guint n_dims, const guint64 *dims)
{
  g_return_val_if_fail (n_dims == 0 || dims, NULL);
  GString *text = g_string_new ("(");
  for (guint i = 0; i < n_dims; i++)
    g_string_append_printf (text, "%s%" G_GUINT64_FORMAT, i ? ", " : "", dims[i]);
  g_string_append_c (text, ')');
  return g_string_free (text, FALSE);
}

static void
tensor_clear (gpointer data)
{
  g_free (((NfTensor *)data)->name);
}

static void
nf_tensor_file_finalize (GObject *object)
{
  NfTensorFile *self = NF_TENSOR_FILE (object);

  g_clear_pointer (&self->mapping, g_mapped_file_unref);
  if (self->fd >= 0)
    close (self->fd);
  g_hash_table_unref (self->index);
  g_hash_table_unref (self->metadata);
  g_array_unref (self->tensors);
  g_ptr_array_unref (self->copies);
  g_free (self->path);
  G_OBJECT_CLASS (nf_tensor_file_parent_class)->finalize (object);
}

static void
nf_tensor_file_class_init (NfTensorFileClass *class)
{
  G_OBJECT_CLASS (class)->finalize = nf_tensor_file_finalize;
}

static void
nf_tensor_file_init (NfTensorFile *self)
{
  self->fd = -1;
  self->tensors = g_array_new (FALSE, FALSE, sizeof (NfTensor));
  g_array_set_clear_func (self->tensors, tensor_clear);
  self->copies = g_ptr_array_new_with_free_func (g_free);
  self->index = g_hash_table_new (g_str_hash, g_str_equal);
  self->metadata = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
}

/* Reading */

#define damaged(self, error, ...) nf_error_malformed (error, (self)->path, __VA_ARGS__)

static gboolean
read_metadata (NfTensorFile *self, JsonNode *node, GError **error)
{
  if (!JSON_NODE_HOLDS_OBJECT (node))
    return damaged (self, error, METADATA " is not an object of strings");
  JsonObjectIter iter;
  const char *key;
  JsonNode *value;
  json_object_iter_init (&iter, json_node_get_object (node));
  while (json_object_iter_next (&iter, &key, &value))
    {
      if (!JSON_NODE_HOLDS_VALUE (value) || json_node_get_value_type (value) != G_TYPE_STRING)
        {
          g_autofree char *shown = nf_shorten (key);
          return damaged (self, error, METADATA " member \"%s\" is not a string", shown);
        }
      g_hash_table_insert (self->metadata, g_strdup (key), json_node_dup_string (value));
    }
  return TRUE;
}

/* The whole number at place I of ARRAY, if it is one and not negative. */
static gboolean
read_number (JsonArray *array, guint i, guint64 *number)
{
  JsonNode *node = json_array_get_element (array, i);
  if (!JSON_NODE_HOLDS_VALUE (node) || json_node_get_value_type (node) != G_TYPE_INT64
      || json_node_get_int (node) < 0)
    return FALSE;
  *number = (guint64)json_node_get_int (node);
  return TRUE;
}

static JsonArray *
get_array (JsonObject *object, const char *member)
{
  JsonNode *node = json_object_get_member (object, member);
  return node && JSON_NODE_HOLDS_ARRAY (node) ? json_node_get_array (node) : NULL;
}

/* The product of its dimensions, if it can be. */
static gboolean
count_elements (const NfTensor *tensor, guint64 *n)
{
  *n = 1;
  for (guint i = 0; i < tensor->n_dims; i++)
    if (tensor->dims[i] > G_MAXINT64 || !g_uint64_checked_mul (n, *n, tensor->dims[i]))
      return FALSE;
  return TRUE;
}

static gboolean
read_tensor (NfTensorFile *self, const char *name, JsonNode *node, const guint8 *data, guint64 data_size,
             GError **error)
{
  NfTensor tensor = { 0 };
  g_autofree char *shown = nf_shorten (name);
  if (!JSON_NODE_HOLDS_OBJECT (node))
    return damaged (self, error, "tensor %s is not described by an object", shown);
  JsonObject *object = json_node_get_object (node);
  JsonNode *dtype = json_object_get_member (object, "dtype");
  JsonArray *shape = get_array (object, "shape"), *offsets = get_array (object, "data_offsets");
  if (!dtype || !JSON_NODE_HOLDS_VALUE (dtype) || json_node_get_value_type (dtype) != G_TYPE_STRING || !shape
      || !offsets || json_array_get_length (offsets) != 2)
    return damaged (self, error, "tensor %s lacks a dtype, a shape or its data_offsets", shown);

  guint type = 0;
  while (type < G_N_ELEMENTS (dtypes) && strcmp (dtypes[type].name, json_node_get_string (dtype)) != 0)
    type++;
  if (type == G_N_ELEMENTS (dtypes))
    {
      g_autofree char *unknown = nf_shorten (json_node_get_string (dtype));
      return damaged (self, error, "tensor %s has the unknown dtype %s", shown, unknown);
    }
  tensor.dtype = (NfDtype)type;
  tensor.n_dims = json_array_get_length (shape);
  if (tensor.n_dims > NF_TENSOR_MAX_DIMS)
    return damaged (self, error, "tensor %s has %u dimensions, at most %d are possible", shown, tensor.n_dims,
                    NF_TENSOR_MAX_DIMS);
  gboolean possible = TRUE;
  for (guint i = 0; i < tensor.n_dims && possible; i++)
    possible = read_number (shape, i, &tensor.dims[i]);
  if (!possible || !count_elements (&tensor, &tensor.n_elements))
    return damaged (self, error, "tensor %s has an impossible shape", shown);

  guint64 begin, end, bytes;
  if (!read_number (offsets, 0, &begin) || !read_number (offsets, 1, &end) || begin > end || end > data_size)
    return damaged (self, error,
                    "tensor %s claims bytes outside the %" G_GUINT64_FORMAT
                    " that the file holds; is it truncated?",
                    shown, data_size);
  if (!g_uint64_checked_mul (&bytes, tensor.n_elements, dtypes[type].size) || bytes != end - begin)
    return damaged (self, error, "tensor %s has a shape that does not fit its %" G_GUINT64_FORMAT " bytes",
                    shown, end - begin);
  tensor.data = data + begin;
  tensor.name = g_strdup (name);
  g_array_append_val (self->tensors, tensor); /* which takes the name */
  // cppcheck-suppress memleak
  return TRUE;
}

static int
compare_places (gconstpointer a, gconstpointer b)
{
  const NfTensor *x = *(const NfTensor *const *)a, *y = *(const NfTensor *const *)b;
  if (x->data != y->data)
    return x->data < y->data ? -1 : 1;
  return (x->n_elements > y->n_elements) - (x->n_elements < y->n_elements);
}

/* Tensors must cover the data without holes or overlaps: nothing hides in a file, and no byte serves twice.
 */
static gboolean
check_cover (NfTensorFile *self, const guint8 *data, guint64 size, GError **error)
{
  g_autoptr (GPtrArray) order = g_ptr_array_new ();
  const guint8 *at = data;

  for (guint i = 0; i < self->tensors->len; i++)
    g_ptr_array_add (order, &g_array_index (self->tensors, NfTensor, i));
  g_ptr_array_sort (order, compare_places);
  for (guint i = 0; i < order->len; i++)
    {
      const NfTensor *tensor = order->pdata[i];
      if (tensor->data != at)
        {
          g_autofree char *shown = nf_shorten (tensor->name);
          return damaged (self, error, "the bytes of tensor %s %s", shown,
                          tensor->data < at ? "overlap with another's" : "come after a hole");
        }
      at += tensor->n_elements * dtypes[tensor->dtype].size;
    }
  if (at != data + size)
    return damaged (self, error, "%" G_GUINT64_FORMAT " bytes at its end belong to no tensor",
                    (guint64)(data + size - at));
  return TRUE;
}

/* What begins as JSON does: no length of a header that the file has room for. */
static gboolean
refuse_json (NfTensorFile *self, const guint8 *contents, guint64 size, GError **error)
{
  if (g_strstr_len ((const char *)contents, (gssize)MIN (size, MAX_HEADER), "\"weight_map\""))
    return damaged (self, error,
                    "it is the index of a checkpoint in several files, which are not read: load them all and "
                    "save their tensors in one, with torch.save() or safetensors");
  return damaged (self, error, "it is JSON and holds no weights");
}

static gboolean
parse_safetensors (NfTensorFile *self, const guint8 *contents, guint64 size, GError **error)
{
  guint64 header;

  if (size < sizeof header)
    return damaged (self, error, "it has %" G_GUINT64_FORMAT " bytes and is no safetensors file", size);
  memcpy (&header, contents, sizeof header);
  header = GUINT64_FROM_LE (header);
  if (header > size - sizeof header && contents[0] == '{')
    return refuse_json (self, contents, size, error);
  if (header < 2 || header > MAX_HEADER || header > size - sizeof header)
    return damaged (
        self, error,
        "it claims a header of %" G_GUINT64_FORMAT " bytes; it is no safetensors file, or truncated", header);

  const guint8 *data = contents + sizeof header + header;
  const guint64 data_size = size - sizeof header - header;
  g_autofree char *what = g_strdup_printf ("%s: the header", self->path);
  g_autoptr (JsonParser) parser = json_parser_new_immutable ();
  JsonObject *object
      = nf_json_parse_object (parser, (const char *)contents + sizeof header, header, what, error);
  if (!object)
    return FALSE;

  JsonObjectIter iter;
  const char *name;
  JsonNode *node;
  json_object_iter_init_ordered (&iter, object);
  while (json_object_iter_next_ordered (&iter, &name, &node))
    if (strcmp (name, METADATA) == 0 ? !read_metadata (self, node, error)
                                     : !read_tensor (self, name, node, data, data_size, error))
      return FALSE;
  return check_cover (self, data, data_size, error);
}

static gboolean
parse (NfTensorFile *self, const char *state, GError **error)
{
  const guint8 *contents = (const guint8 *)g_mapped_file_get_contents (self->mapping);
  const gsize size = g_mapped_file_get_length (self->mapping);
  const gboolean torch = nf_torch_file_is (contents, size);

  if (torch ? !nf_torch_file_read (contents, size, self->path, state, self->tensors, self->copies, error)
            : !parse_safetensors (self, contents, size, error))
    return FALSE;
  if (state && !torch)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: it is no PyTorch checkpoint, there is no \"%s\" to choose", self->path, state);
      return FALSE;
    }
  for (guint i = 0; i < self->tensors->len; i++)
    g_hash_table_insert (self->index, g_array_index (self->tensors, NfTensor, i).name,
                         GUINT_TO_POINTER (i + 1));
  return TRUE;
}

NfTensorFile *
nf_tensor_file_open (const char *path, GError **error)
{
  return nf_tensor_file_open_state (path, NULL, error);
}

NfTensorFile *
nf_tensor_file_open_state (const char *path, const char *state, GError **error)
{
  g_return_val_if_fail (path, NULL);
  g_autoptr (GError) problem = NULL;
  g_autoptr (NfTensorFile) self = g_object_new (NF_TYPE_TENSOR_FILE, NULL);
  self->path = g_strdup (path);
  /* a pipe would keep us waiting */
  self->fd = g_open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
  if (self->fd < 0 || fstat (self->fd, &self->opened) != 0)
    {
      g_set_error (error, NF_ERROR, errno == ENOENT || errno == ENOTDIR ? NF_ERROR_NOT_FOUND : NF_ERROR_READ,
                   "cannot open %s: %s", path, g_strerror (errno));
      return NULL;
    }
  if (!S_ISREG (self->opened.st_mode))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "cannot read %s: it is not a regular file", path);
      return NULL;
    }
  self->mapping = g_mapped_file_new_from_fd (self->fd, FALSE, &problem);
  if (!self->mapping)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "cannot read %s: %s", path, problem->message);
      return NULL;
    }
  return parse (self, state, error) ? g_steal_pointer (&self) : NULL;
}

gboolean
nf_tensor_file_check_unchanged (NfTensorFile *self, GError **error)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self), FALSE);
  struct stat now;
  if (fstat (self->fd, &now) == 0 && now.st_size == self->opened.st_size
      && now.st_mtim.tv_sec == self->opened.st_mtim.tv_sec
      && now.st_mtim.tv_nsec == self->opened.st_mtim.tv_nsec)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_DATA,
               "%s was written into after it had been opened, so what it holds is not what was read: load it "
               "again, and replace such files by renaming",
               self->path);
  return FALSE;
}

const char *
nf_tensor_file_get_path (NfTensorFile *self)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self), NULL);
  return self->path;
}

const char *
nf_tensor_file_get_metadata (NfTensorFile *self, const char *key)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self) && key, NULL);
  return g_hash_table_lookup (self->metadata, key);
}

GHashTable *
nf_tensor_file_get_all_metadata (NfTensorFile *self)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self), NULL);
  return self->metadata;
}

guint
nf_tensor_file_count (NfTensorFile *self)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self), 0);
  return self->tensors->len;
}

const NfTensor *
nf_tensor_file_get (NfTensorFile *self, guint i)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self) && i < self->tensors->len, NULL);
  return &g_array_index (self->tensors, NfTensor, i);
}

const NfTensor *
nf_tensor_file_lookup (NfTensorFile *self, const char *name)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self) && name, NULL);
  const guint place = GPOINTER_TO_UINT (g_hash_table_lookup (self->index, name));
  return place ? nf_tensor_file_get (self, place - 1) : NULL;
}

/* Converting */

static double
get_element (const NfTensor *tensor, guint64 i)
{
  const guint8 *at = tensor->data + i * dtypes[tensor->dtype].size;
  guint64 u64 = 0;
  guint32 u32 = 0;
  guint16 u16 = 0;
  double f64;
  float f32;

  switch (tensor->dtype)
    {
    case NF_DTYPE_F32:
      memcpy (&u32, at, sizeof u32);
      u32 = GUINT32_FROM_LE (u32);
      memcpy (&f32, &u32, sizeof f32);
      return (double)f32;
    case NF_DTYPE_F64:
      memcpy (&u64, at, sizeof u64);
      u64 = GUINT64_FROM_LE (u64);
      memcpy (&f64, &u64, sizeof f64);
      return f64;
    case NF_DTYPE_F16:
      memcpy (&u16, at, sizeof u16);
      u16 = GUINT16_FROM_LE (u16);
      nf_half_to_float (&u16, &f32, 1);
      return (double)f32;
    case NF_DTYPE_BF16:
      memcpy (&u16, at, sizeof u16);
      u32 = (guint32)GUINT16_FROM_LE (u16) << 16;
      memcpy (&f32, &u32, sizeof f32);
      return (double)f32;
    case NF_DTYPE_I64:
      memcpy (&u64, at, sizeof u64);
      return (double)(gint64)GUINT64_FROM_LE (u64);
    case NF_DTYPE_I32:
      memcpy (&u32, at, sizeof u32);
      return (double)(gint32)GUINT32_FROM_LE (u32);
    case NF_DTYPE_U8:
      return *at;
    case NF_DTYPE_BOOL:
      return *at != 0;
    }
  g_return_val_if_reached (0);
}

void
nf_tensor_to_float (const NfTensor *tensor, float *out)
{
  g_return_if_fail (tensor && (out || tensor->n_elements == 0));
  if (tensor->dtype == NF_DTYPE_F32 && G_BYTE_ORDER == G_LITTLE_ENDIAN)
    memcpy (out, tensor->data, tensor->n_elements * sizeof *out);
  else
    for (guint64 i = 0; i < tensor->n_elements; i++)
      out[i] = (float)get_element (tensor, i);
}

void
nf_tensor_to_double (const NfTensor *tensor, double *out)
{
  g_return_if_fail (tensor && (out || tensor->n_elements == 0));
  for (guint64 i = 0; i < tensor->n_elements; i++)
    out[i] = get_element (tensor, i);
}

/* N bytes at OFFSET. */
static gboolean
read_at (NfTensorFile *self, char *bytes, gsize n, gsize offset, GError **error)
{
  for (gsize done = 0; done < n;)
    {
      const gssize got = pread (self->fd, bytes + done, n - done, (off_t)(offset + done));
      if (got < 0 && errno == EINTR)
        continue;
      if (got <= 0)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_READ, "cannot read %s: %s", self->path,
                       got < 0 ? g_strerror (errno) : "it was cut short after it had been opened");
          return FALSE;
        }
      done += (gsize)got;
    }
  return TRUE;
}

gboolean
nf_tensor_file_read (NfTensorFile *self, const NfTensor *tensor, guint64 first, gsize n, float *out,
                     GError **error)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (self) && tensor && (out || n == 0), FALSE);
  g_return_val_if_fail (n <= tensor->n_elements && first <= tensor->n_elements - n, FALSE);
  const gsize size = nf_dtype_size (tensor->dtype);
  const char *contents = g_mapped_file_get_contents (self->mapping);
  const gsize length = g_mapped_file_get_length (self->mapping);
  NfTensor part = *tensor;

  part.n_elements = n;
  part.data += first * size;
  if ((const char *)part.data < contents || (const char *)part.data >= contents + length)
    {
      nf_tensor_to_float (&part, out);
      return TRUE;
    }
  g_autofree char *bytes = g_malloc (n * size);
  if (!read_at (self, bytes, n * size, (gsize)((const char *)part.data - contents), error))
    return FALSE;
  part.data = (const guint8 *)bytes;
  nf_tensor_to_float (&part, out);
  return nf_tensor_file_check_unchanged (self, error);
}

/* Writing */

static int
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp ((*(const NfTensor *const *)a)->name, (*(const NfTensor *const *)b)->name);
}

static void
add_metadata (JsonBuilder *builder, GHashTable *metadata)
{
  g_autoptr (GList) keys = g_list_sort (g_hash_table_get_keys (metadata), (GCompareFunc)strcmp);

  json_builder_set_member_name (builder, METADATA);
  json_builder_begin_object (builder);
  for (GList *i = keys; i; i = i->next)
    {
      json_builder_set_member_name (builder, i->data);
      json_builder_add_string_value (builder, g_hash_table_lookup (metadata, i->data));
    }
  json_builder_end_object (builder);
}

/* Header of the tensors in ORDER, padded so that the data are aligned. */
static GString *
make_header (GPtrArray *order, GHashTable *metadata)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  guint64 at = 0;

  json_builder_begin_object (builder);
  if (metadata && g_hash_table_size (metadata) > 0)
    add_metadata (builder, metadata);
  for (guint i = 0; i < order->len; i++)
    {
      const NfTensor *tensor = order->pdata[i];
      json_builder_set_member_name (builder, tensor->name);
      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "dtype");
      json_builder_add_string_value (builder, dtypes[tensor->dtype].name);
      json_builder_set_member_name (builder, "shape");
      json_builder_begin_array (builder);
      for (guint j = 0; j < tensor->n_dims; j++)
        json_builder_add_int_value (builder, (gint64)tensor->dims[j]);
      json_builder_end_array (builder);
      json_builder_set_member_name (builder, "data_offsets");
      json_builder_begin_array (builder);
      json_builder_add_int_value (builder, (gint64)at);
      at += tensor->n_elements * dtypes[tensor->dtype].size;
      json_builder_add_int_value (builder, (gint64)at);
      json_builder_end_array (builder);
      json_builder_end_object (builder);
    }
  json_builder_end_object (builder);

  g_autoptr (JsonNode) root = json_builder_get_root (builder);
  g_autofree char *json = json_to_string (root, FALSE);
  GString *header = g_string_new (json);
  while (header->len % 8 != 0)
    g_string_append_c (header, ' ');
  return header;
}

static gboolean
write_all (int fd, const void *data, gsize size)
{
  const guint8 *at = data;
  while (size > 0)
    {
      const gssize written = write (fd, at, MIN (size, (gsize)1 << 30));
      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        return FALSE;
      at += written;
      size -= (gsize)written;
    }
  return TRUE;
}

static gboolean
write_contents (int fd, const GString *header, GPtrArray *order)
{
  const guint64 length = GUINT64_TO_LE ((guint64)header->len);

  if (!write_all (fd, &length, sizeof length) || !write_all (fd, header->str, header->len))
    return FALSE;
  for (guint i = 0; i < order->len; i++)
    {
      const NfTensor *tensor = order->pdata[i];
      if (!write_all (fd, tensor->data, tensor->n_elements * dtypes[tensor->dtype].size))
        return FALSE;
    }
  return fsync (fd) == 0;
}

/* Headers are UTF-8; what is not could not be read again. */
static gboolean
check_text (const char *text, const char *path, GError **error)
{
  if (g_utf8_validate (text, -1, NULL))
    return TRUE;
  g_autofree char *shown = g_utf8_make_valid (text, -1);
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "cannot write %s: \"%s\" is not UTF-8, as names and metadata must be", path, shown);
  return FALSE;
}

static gboolean
check_metadata (GHashTable *metadata, const char *path, GError **error)
{
  GHashTableIter iter;
  gpointer key, value;
  if (!metadata)
    return TRUE;
  g_hash_table_iter_init (&iter, metadata);
  while (g_hash_table_iter_next (&iter, &key, &value))
    if (!check_text (key, path, error) || !check_text (value, path, error))
      return FALSE;
  return TRUE;
}

/* What a reader would refuse is not written. */
static gboolean
check_shape (const NfTensor *tensor, const char *path, GError **error)
{
  guint64 n, bytes;
  if (tensor->n_dims > NF_TENSOR_MAX_DIMS)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                 "cannot write %s: tensor %s has %u dimensions, at most %d are possible", path, tensor->name,
                 tensor->n_dims, NF_TENSOR_MAX_DIMS);
  else if (!count_elements (tensor, &n) || !g_uint64_checked_mul (&bytes, n, dtypes[tensor->dtype].size)
           || bytes > G_MAXINT64)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "cannot write %s: tensor %s has an impossible shape",
                 path, tensor->name);
  else if (n != tensor->n_elements)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                 "cannot write %s: tensor %s has %" G_GUINT64_FORMAT
                 " elements, but its dimensions make %" G_GUINT64_FORMAT,
                 path, tensor->name, tensor->n_elements, n);
  else
    return TRUE;
  return FALSE;
}

gboolean
nf_tensor_file_write (const char *path, const NfTensor *tensors, guint n, GHashTable *metadata,
                      GError **error)
{
  g_return_val_if_fail (path && (tensors || n == 0), FALSE);
  g_autoptr (GPtrArray) order = g_ptr_array_new ();
  if (!check_metadata (metadata, path, error))
    return FALSE;
  for (guint i = 0; i < n; i++)
    {
      if (!check_text (tensors[i].name, path, error) || !check_shape (&tensors[i], path, error))
        return FALSE;
      g_ptr_array_add (order, (gpointer)&tensors[i]);
    }
  g_ptr_array_sort (order, compare_names);
  for (guint i = 0; i < n; i++)
    {
      const char *name = ((const NfTensor *)order->pdata[i])->name;
      if (strcmp (name, METADATA) != 0
          && (i == 0 || strcmp (name, ((const NfTensor *)order->pdata[i - 1])->name) != 0))
        continue;
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "cannot write %s: the name \"%s\" is taken; each tensor needs one of its own", path, name);
      return FALSE;
    }
  g_autoptr (GString) header = make_header (order, metadata);

  g_autofree char *temporary = g_strconcat (path, ".XXXXXX", NULL);
  const int fd = g_mkstemp_full (temporary, O_WRONLY | O_CLOEXEC, 0666);
  if (fd < 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "cannot write %s: %s", path, g_strerror (errno));
      return FALSE;
    }
  gboolean written = write_contents (fd, header, order);
  int problem = errno;
  if (close (fd) != 0 && written)
    {
      written = FALSE;
      problem = errno;
    }
  if (written && g_rename (temporary, path) != 0)
    {
      written = FALSE;
      problem = errno;
    }
  if (written)
    return TRUE;
  g_unlink (temporary);
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "cannot write %s: %s", path, g_strerror (problem));
  return FALSE;
}
