/* normflow: files of named tensors. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>
#include "nf-error.h"

G_BEGIN_DECLS

/** NF_TENSOR_MAX_DIMS: most dimensions of a tensor. */
#define NF_TENSOR_MAX_DIMS 8

/**
 * NfDtype: element types. Conversions to float round to nearest.
 */
typedef enum
{
  NF_DTYPE_F32,
  NF_DTYPE_F64,
  NF_DTYPE_F16,
  NF_DTYPE_BF16,
  NF_DTYPE_I64,
  NF_DTYPE_I32,
  NF_DTYPE_U8,
  NF_DTYPE_BOOL,
} NfDtype;

/** nf_dtype_size: Returns: bytes of one element. */
gsize nf_dtype_size (NfDtype dtype);

/** nf_dtype_name: Returns: (transfer none): safetensors' name, e.g. "F32". */
const char *nf_dtype_name (NfDtype dtype);

/** nf_shape_to_text: Returns: (transfer full): sizes @dims, outermost first, for people, e.g. "(3, 4)". */
char *nf_shape_to_text (guint n_dims, const guint64 *dims);

/**
 * NfTensor:
 * @name: name in the file
 * @dtype: element type
 * @n_dims: number of dimensions, 0 for a scalar
 * @dims: sizes, outermost first
 * @n_elements: product of @dims
 * @data: little-endian elements, row-major; owned by the file (its mapping), may be unaligned
 */
typedef struct
{
  char *name;
  NfDtype dtype;
  guint n_dims;
  guint64 dims[NF_TENSOR_MAX_DIMS];
  guint64 n_elements;
  const guint8 *data;
} NfTensor;

/**
 * NfTensorFile:
 *
 * A memory-mapped, fully checked file of tensors: safetensors, or a PyTorch checkpoint. Immutable, may be
 * shared by threads.
 */
#define NF_TYPE_TENSOR_FILE (nf_tensor_file_get_type ())
G_DECLARE_FINAL_TYPE (NfTensorFile, nf_tensor_file, NF, TENSOR_FILE, GObject)

/**
 * nf_tensor_file_open:
 * @path: file
 * @error: return location
 *
 * Of a safetensors file it checks the header's length against the file, the JSON, each dtype, shape product,
 * byte range, that ranges do not overlap and cover the data exactly.
 *
 * Of a checkpoint that torch.save() wrote (either container) it reads the pickle without running anything of
 * it: what is not needed to build tensors, dictionaries, lists, numbers and strings is an error that names
 * it. Every storage must be in the file with the size it claims, every tensor inside of its storage. The
 * weights are the checkpoint itself or the only dictionary of tensors inside of it; what DataParallel, FSDP
 * and compiling add to names is taken away.
 *
 * Nothing is allocated in proportion to claimed sizes.
 *
 * Returns: (transfer full): the file, or NULL with %NF_ERROR_NOT_FOUND, %NF_ERROR_READ, %NF_ERROR_FORMAT,
 * %NF_ERROR_NO_MEMORY, or %NF_ERROR_ARGUMENT if a checkpoint holds several sets of weights, by name.
 */
NfTensorFile *nf_tensor_file_open (const char *path, GError **error);

/**
 * nf_tensor_file_open_state:
 * @path: file
 * @state: (nullable): which of a PyTorch checkpoint's sets of weights, such as "model" or "trainer.ema"; "."
 * is the checkpoint itself
 * @error: return location
 *
 * Returns: (transfer full): the file as from nf_tensor_file_open(), or NULL with its errors;
 * %NF_ERROR_ARGUMENT if there is no such set, or the file is no checkpoint.
 */
NfTensorFile *nf_tensor_file_open_state (const char *path, const char *state, GError **error);

/**
 * nf_tensor_file_check_unchanged:
 *
 * Tensors lie in the file, which is mapped: it may be replaced by renaming or removed while it is open, but
 * not written into. Where it is cut short, reading tensors' data ends the process; nf_tensor_file_read()
 * does not.
 *
 * Returns: FALSE with %NF_ERROR_DATA if the file's size or time of change is not what it was at opening.
 */
gboolean nf_tensor_file_check_unchanged (NfTensorFile *self, GError **error);

/** nf_tensor_file_get_path: Returns: (transfer none): what it was opened by. */
const char *nf_tensor_file_get_path (NfTensorFile *self);

/** nf_tensor_file_get_metadata: Returns: (transfer none) (nullable): the string under @key in `__metadata__`.
 */
const char *nf_tensor_file_get_metadata (NfTensorFile *self, const char *key);

/** nf_tensor_file_get_all_metadata: Returns: (transfer none) (element-type utf8 utf8): `__metadata__`. */
GHashTable *nf_tensor_file_get_all_metadata (NfTensorFile *self);

/** nf_tensor_file_count: Returns: number of tensors. */
guint nf_tensor_file_count (NfTensorFile *self);

/** nf_tensor_file_get: Returns: (transfer none): tensor @i, 0 to nf_tensor_file_count() - 1, in the order of
 * the file's header; good as long as the file is. */
const NfTensor *nf_tensor_file_get (NfTensorFile *self, guint i);

/** nf_tensor_file_lookup: Returns: (transfer none) (nullable): the tensor called @name. */
const NfTensor *nf_tensor_file_lookup (NfTensorFile *self, const char *name);

/**
 * nf_tensor_file_read:
 * @tensor: one of the file's
 * @first: its first element that is wanted, in the order of memory
 * @n: how many are; with @first no more than the tensor has
 * @out: (out caller-allocates) (array length=n): they, as floats
 *
 * For those who read a large file little by little, while others might write into it: goes by the file and
 * not by the mapping, so that one that was cut short is an error and not the end of the process.
 *
 * Returns: FALSE with %NF_ERROR_READ, or as nf_tensor_file_check_unchanged().
 */
gboolean nf_tensor_file_read (NfTensorFile *self, const NfTensor *tensor, guint64 first, gsize n, float *out,
                              GError **error);

/** nf_tensor_to_float: Writes all elements, converted, to @out (out caller-allocates) (n_elements floats).
 * Reads the mapping, see nf_tensor_file_check_unchanged(). */
void nf_tensor_to_float (const NfTensor *tensor, float *out);

/** nf_tensor_to_double: The same in double. */
void nf_tensor_to_double (const NfTensor *tensor, double *out);

/**
 * nf_tensor_file_write:
 * @path: file, replaced atomically (written beside it, flushed, renamed)
 * @tensors: (array length=n): names, dtypes, dims and data
 * @metadata: (nullable) (element-type utf8 utf8): strings for `__metadata__`
 *
 * Names are written sorted, so equal content gives equal bytes.
 *
 * Returns: FALSE with %NF_ERROR_WRITE, or, before anything is written, %NF_ERROR_ARGUMENT if two have one
 * name, one is `__metadata__`, a name or string is not UTF-8, n_elements is not the product of dims, or there
 * are more than %NF_TENSOR_MAX_DIMS of these. What is at @path is then what it was.
 */
gboolean nf_tensor_file_write (const char *path, const NfTensor *tensors, guint n, GHashTable *metadata,
                               GError **error);

G_END_DECLS
