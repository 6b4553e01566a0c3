/* normflow: PyTorch's checkpoints. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-torch-file.h"
#include "nf-archive.h"
#include "nf-error-private.h"
#include "nf-json.h"
#include "nf-pickle.h"

#include <string.h>

#define MAX_NAME 255      /* of a tensor */
#define MAX_ALIASES 256   /* sets of weights beyond which their further names do not count */
#define MAX_STATE_DEPTH 3 /* dictionaries, lists and tuples that weights may be in */
#define ITSELF "."        /* the name of the checkpoint among its own states */

/* In the legacy form, what its second pickle holds. */
#define LEGACY_PROTOCOL 1001
static const guint8 legacy_magic[] = { 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19 };

typedef struct
{
  const guint8 *data;
  gsize size;
  const char *path;
  NfPickle *pickle;
  GHashTable *storages; /* NfPickleStorage -> its bytes */
  GArray *tensors;
  GPtrArray *copies;
  guint64 copied; /* bytes */
  GError **error;
} Reader;

#define FAIL(reader, ...) nf_error_malformed ((reader)->error, (reader)->path, __VA_ARGS__)

gboolean
nf_torch_file_is (const guint8 *data, gsize size)
{
  /* No safetensors file: as the length of its header these bytes would be too large. */
  return size >= 4
         && (memcmp (data, "PK\3\4", 4) == 0
             || (data[0] == 0x80 && data[1] >= 2 && data[1] <= 5 && (data[2] == 0x8a || data[2] == 0x95)));
}

static gboolean
claim_storage (Reader *r, NfPickleStorage *storage, const guint8 *at, guint64 bytes)
{
  if (storage->n * nf_dtype_size (storage->dtype) != bytes)
    {
      g_autofree char *key = nf_shorten (storage->key);
      return FAIL (r,
                   "storage %s claims %" G_GUINT64_FORMAT " elements of type %s, but has %" G_GUINT64_FORMAT
                   " bytes",
                   key, storage->n, nf_dtype_name (storage->dtype), bytes);
    }
  g_hash_table_insert (r->storages, storage, (gpointer)at);
  return TRUE;
}

/* ZIP */

/* The folder that everything is in: the one of data.pkl. */
static char *
find_folder (const Reader *r, const NfArchive *archive)
{
  g_autofree char *folder = NULL;
  for (guint i = 0; i < archive->members->len; i++)
    {
      const char *name = g_array_index (archive->members, NfArchiveMember, i).name,
                 *slash = strchr (name, '/');
      if (!slash || strcmp (slash, "/data.pkl") != 0)
        continue;
      if (folder)
        {
          FAIL (r, "it is a ZIP archive with several data.pkl");
          return NULL;
        }
      folder = g_strndup (name, (gsize)(slash - name));
    }
  if (!folder)
    FAIL (r, "it is a ZIP archive without data.pkl, no PyTorch checkpoint");
  return g_steal_pointer (&folder);
}

static const NfArchiveMember *
find_member (const NfArchive *archive, const char *folder, const char *name)
{
  g_autofree char *full = g_strconcat (folder, "/", name, NULL);
  return nf_archive_lookup (archive, full);
}

static gboolean
read_zip (Reader *r)
{
  g_autoptr (NfArchive) archive = nf_archive_read (r->data, r->size, r->path, r->error);
  g_autofree char *folder = archive ? find_folder (r, archive) : NULL;
  if (!folder)
    return FALSE;
  if (find_member (archive, folder, "constants.pkl"))
    return FAIL (r, "it is a TorchScript program; of one, save the state_dict() with torch.save()");
  const NfArchiveMember *order = find_member (archive, folder, "byteorder");
  if (order && (order->size != 6 || memcmp (r->data + order->at, "little", 6) != 0))
    return FAIL (r, "its byte order is not little-endian");

  const NfArchiveMember *member = find_member (archive, folder, "data.pkl");
  r->pickle = nf_pickle_read (r->data + member->at, member->size, r->path, r->error);
  if (!r->pickle)
    return FALSE;
  if (r->pickle->length != member->size)
    return FAIL (r, "something follows after the end of its pickle");
  for (guint i = 0; i < r->pickle->storages->len; i++)
    {
      NfPickleStorage *storage = r->pickle->storages->pdata[i];
      g_autofree char *name = g_strconcat ("data/", storage->key, NULL), *shown = nf_shorten (storage->key);
      member = find_member (archive, folder, name);
      if (!member)
        return FAIL (r, "it lacks its storage %s", shown);
      if (!claim_storage (r, storage, r->data + member->at, member->size))
        return FALSE;
    }
  return TRUE;
}

/* Legacy: the pickles of a magic number, the version, facts of the machine, the object, and the list of its
 * storages' keys; then for each of these its number of elements in eight bytes, and the elements */

static NfPickle *
next_pickle (Reader *r, gsize *at)
{
  NfPickle *pickle = nf_pickle_read (r->data + *at, r->size - *at, r->path, r->error);
  if (pickle)
    *at += pickle->length;
  return pickle;
}

static gboolean
read_legacy_head (Reader *r, gsize *at)
{
  g_autoptr (NfPickle) magic = next_pickle (r, at);
  g_autoptr (NfPickle) version = magic ? next_pickle (r, at) : NULL;
  g_autoptr (NfPickle) machine = version ? next_pickle (r, at) : NULL;
  if (!machine)
    return FALSE;
  gsize n = 0;
  const guint8 *digits
      = magic->root->type == NF_PICKLE_LONG ? g_bytes_get_data (magic->root->digits, &n) : (const guint8 *)"";
  if (n != sizeof legacy_magic || memcmp (digits, legacy_magic, n) != 0)
    return FAIL (r, "it is a pickle, but no PyTorch checkpoint");
  if (version->root->type != NF_PICKLE_INT || version->root->integer != LEGACY_PROTOCOL)
    return FAIL (r, "it is a PyTorch checkpoint of another version than %d", LEGACY_PROTOCOL);
  const NfPickleValue *little = nf_pickle_lookup (machine->root, "little_endian");
  if (!little || little->type != NF_PICKLE_BOOL || !little->integer)
    return FAIL (r, "its byte order is not little-endian");
  return TRUE;
}

static gboolean
read_legacy_storages (Reader *r, const NfPickleValue *keys, gsize at)
{
  if (keys->type != NF_PICKLE_LIST)
    return FAIL (r, "the list of its storages is missing");
  g_autoptr (GHashTable) named = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint i = 0; i < r->pickle->storages->len; i++)
    {
      NfPickleStorage *storage = r->pickle->storages->pdata[i];
      g_hash_table_insert (named, (gpointer)storage->key, storage);
    }
  for (guint i = 0; i < keys->items->len; i++)
    {
      const NfPickleValue *key = keys->items->pdata[i];
      NfPickleStorage *storage
          = key->type == NF_PICKLE_STRING ? g_hash_table_lookup (named, key->text) : NULL;
      if (!storage)
        return FAIL (r, "it lists a storage that it does not use, or lists one twice");
      g_hash_table_remove (named, key->text);

      g_autofree char *shown = nf_shorten (key->text);
      guint64 n;
      if (r->size - at < sizeof n)
        return FAIL (r, "storage %s is missing; is it truncated?", shown);
      memcpy (&n, r->data + at, sizeof n);
      at += sizeof n;
      const guint64 left = r->size - at, bytes = storage->n * nf_dtype_size (storage->dtype);
      if (GUINT64_FROM_LE (n) != storage->n || bytes > left)
        return FAIL (r,
                     "storage %s claims %" G_GUINT64_FORMAT " elements of type %s, but %" G_GUINT64_FORMAT
                     " bytes are left",
                     shown, GUINT64_FROM_LE (n), nf_dtype_name (storage->dtype), left);
      if (!claim_storage (r, storage, r->data + at, bytes))
        return FALSE;
      at += bytes;
    }
  if (g_hash_table_size (named) > 0)
    return FAIL (r, "it lacks %u of its storages", g_hash_table_size (named));
  return at == r->size || FAIL (r, "%" G_GSIZE_FORMAT " bytes at its end belong to no storage", r->size - at);
}

static gboolean
read_legacy (Reader *r)
{
  gsize at = 0;
  if (!read_legacy_head (r, &at))
    return FALSE;
  r->pickle = next_pickle (r, &at);
  g_autoptr (NfPickle) keys = r->pickle ? next_pickle (r, &at) : NULL;
  return keys && read_legacy_storages (r, keys->root, at);
}

/* Weights */

typedef struct
{
  char *name;
  const NfPickleValue *dict;
  gboolean dotted; /* it has names like those of a module's parameters */
} State;

static void
state_clear (gpointer data)
{
  g_free (((State *)data)->name);
}

static void
add_state_name (GArray *states, const char *name, const NfPickleValue *dict, gboolean dotted)
{
  const State state = { .name = g_strdup (name), .dict = dict, .dotted = dotted };
  g_array_append_val (states, state); /* which takes the name */
  // cppcheck-suppress memleak
}

/* What a dictionary was found to be. */
typedef enum
{
  KIND_OTHER = 1,
  KIND_PLAIN,
  KIND_DOTTED
} Kind;

static void find_states (const NfPickleValue *value, const char *name, guint depth, GHashTable *seen,
                         GArray *states);

/* What VALUE at KEY of what is called NAME holds. */
static void
find_inner_states (const NfPickleValue *value, const char *name, const char *key, guint depth,
                   GHashTable *seen, GArray *states)
{
  g_autofree char *inner = depth == 0 ? g_strdup (key) : g_strconcat (name, ".", key, NULL);
  if (depth < MAX_STATE_DEPTH && strlen (key) <= MAX_NAME)
    find_states (value, inner, depth + 1, seen, states);
}

/* Adds to STATES every dictionary of tensors from VALUE on, in lists and tuples, too, under each name that it
 * has. SEEN, of Kinds, bounds the work where values are shared: none is walked through twice. */
static void
find_states (const NfPickleValue *value, const char *name, guint depth, GHashTable *seen, GArray *states)
{
  const Kind known = GPOINTER_TO_UINT (g_hash_table_lookup (seen, value));
  if ((known == KIND_PLAIN || known == KIND_DOTTED) && states->len < MAX_ALIASES)
    add_state_name (states, name, value, known == KIND_DOTTED);
  const gboolean list = value->type == NF_PICKLE_LIST || value->type == NF_PICKLE_TUPLE;
  if ((value->type != NF_PICKLE_DICT && !list) || known)
    return;
  g_hash_table_insert (seen, (gpointer)value, GUINT_TO_POINTER (KIND_OTHER));
  for (guint i = 0; list && i < value->items->len; i++)
    {
      g_autofree char *key = g_strdup_printf ("%u", i);
      find_inner_states (value->items->pdata[i], name, key, depth, seen, states);
    }
  if (list)
    return;
  gboolean any = FALSE, dotted = FALSE;
  for (guint i = 0; i < value->items->len; i += 2)
    {
      const NfPickleValue *key = value->items->pdata[i], *item = value->items->pdata[i + 1];
      if (key->type != NF_PICKLE_STRING)
        continue;
      if (item->type == NF_PICKLE_TENSOR)
        {
          any = TRUE;
          dotted = dotted || strchr (key->text, '.');
        }
      else
        find_inner_states (item, name, key->text, depth, seen, states);
    }
  if (!any)
    return;
  g_hash_table_insert (seen, (gpointer)value, GUINT_TO_POINTER (dotted ? KIND_DOTTED : KIND_PLAIN));
  add_state_name (states, name, value, dotted);
}

/* The dictionary of weights that STATE names, or the only one. */
static const NfPickleValue *
choose_state (const Reader *r, const char *state)
{
  g_autoptr (GHashTable) seen = g_hash_table_new (NULL, NULL);
  g_autoptr (GArray) states = g_array_new (FALSE, FALSE, sizeof (State));
  g_array_set_clear_func (states, state_clear);
  find_states (r->pickle->root, ITSELF, 0, seen, states);
  if (states->len == 0)
    {
      FAIL (r,
            "it holds no weights, which are a dictionary of names and tensors in at most %d dictionaries, "
            "lists and tuples",
            MAX_STATE_DEPTH);
      return NULL;
    }

  /* A trainer's step counters and random states are tensors too, but have no names like
   * "blocks.0.proj_in.weight". */
  gboolean dotted = FALSE;
  for (guint i = 0; i < states->len; i++)
    dotted = dotted || g_array_index (states, State, i).dotted;
  const NfPickleValue *found = NULL;
  guint n = 0;
  g_autoptr (GString) names = g_string_new (NULL);
  for (guint i = 0; i < states->len; i++)
    {
      const State *one = &g_array_index (states, State, i);
      if (state ? strcmp (one->name, state) == 0 : one->dotted == dotted)
        {
          n += found != one->dict;
          found = one->dict;
        }
      g_autofree char *shown = nf_shorten (one->name);
      if (one->dotted == dotted && names->len < 512)
        g_string_append_printf (names, "%s\"%s\"", names->len ? ", " : "", shown);
    }
  if (n == 1)
    return found;
  if (state)
    g_set_error (r->error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: it holds no weights called \"%s\", only %s",
                 r->path, state, names->str);
  else
    g_set_error (r->error, NF_ERROR, NF_ERROR_ARGUMENT,
                 "%s: it holds several sets of weights, %s; take one with: normflow convert --state NAME",
                 r->path, names->str);
  return NULL;
}

/* The name that the parameter has in a bare module. */
static char *
strip_name (const char *name)
{
  static const char *const wrappers[]
      = { "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module." };
  g_autoptr (GString) text = g_string_new (NULL);
  gboolean start = TRUE; /* of a component */
  for (const char *at = name; *at;)
    {
      gsize skip = 0;
      for (guint i = 0; start && i < G_N_ELEMENTS (wrappers); i++)
        if (g_str_has_prefix (at, wrappers[i]))
          skip = strlen (wrappers[i]);
      if (skip == 0)
        {
          start = *at == '.';
          g_string_append_c (text, *at++);
        }
      at += skip;
    }
  return g_string_free (g_steal_pointer (&text), FALSE);
}

static gboolean
is_contiguous (const NfPickleTensor *tensor)
{
  guint64 stride = 1;
  for (guint i = tensor->n_dims; i > 0; i--)
    {
      if (tensor->dims[i - 1] != 1 && tensor->strides[i - 1] != stride)
        return FALSE;
      stride *= tensor->dims[i - 1];
    }
  return TRUE;
}

/* The elements row by row. */
static const guint8 *
gather (Reader *r, const NfPickleTensor *tensor, const guint8 *from, const char *name)
{
  const gsize size = nf_dtype_size (tensor->storage->dtype);
  guint64 index[NF_TENSOR_MAX_DIMS] = { 0 };

  /* Copies have no more bytes in all than the file: any number of tensors can share a storage, and strides of
   * 0 or that overlap make any size of it. */
  if (tensor->n_elements > (r->size - r->copied) / size)
    {
      FAIL (r,
            "its tensors that are not row by row, %s among them, have more bytes than it has; are they "
            "expanded (strides of 0)? Save them contiguous",
            name);
      return NULL;
    }
  r->copied += tensor->n_elements * size;
  guint8 *to = g_try_malloc (tensor->n_elements * size), *out = to;
  if (!to)
    {
      g_set_error (r->error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for tensor %s", r->path, name);
      return NULL;
    }
  g_ptr_array_add (r->copies, to);
  for (guint64 n = tensor->n_elements, at = 0; n > 0; n--)
    {
      memcpy (out, from + at * size, size);
      out += size;
      for (guint i = tensor->n_dims; i > 0; i--)
        {
          at += tensor->strides[i - 1];
          if (++index[i - 1] < tensor->dims[i - 1])
            break;
          at -= tensor->strides[i - 1] * tensor->dims[i - 1];
          index[i - 1] = 0;
        }
    }
  return to;
}

/* Names are attributes of modules with dots between them. */
static gboolean
is_name (const char *text)
{
  gsize n = 0;
  while (g_ascii_isprint (text[n]))
    n++;
  return n > 0 && n <= MAX_NAME && !text[n];
}

static gboolean
is_below (const NfPickleValue *key, const char *owner)
{
  return key->type == NF_PICKLE_STRING && g_str_has_prefix (key->text, owner);
}

/* Whether STATE is one of ema-pytorch: an average beside the model that it is of. */
static gboolean
is_averaged (const NfPickleValue *state)
{
  for (guint i = 0; i < state->items->len; i += 2)
    if (is_below (state->items->pdata[i], "ema_model."))
      return TRUE;
  return FALSE;
}

/* A tensor of a state, NULL if item I is none. What whoever averages counts beside the module ("n_averaged"
 * of torch.optim.swa_utils.AveragedModel, "step" and "initted" of ema-pytorch) is none of its weights, nor
 * is, beside an average (AVERAGED), what it is of. */
static const NfPickleTensor *
get_weight (const NfPickleValue *state, guint i, gboolean averaged)
{
  static const char *const counters[] = { "n_averaged", "step", "initted", NULL };
  const NfPickleValue *key = state->items->pdata[i], *value = state->items->pdata[i + 1];
  if (key->type != NF_PICKLE_STRING || value->type != NF_PICKLE_TENSOR
      || (value->tensor->n_elements == 1 && g_strv_contains (counters, key->text))
      || (averaged && is_below (key, "online_model.")))
    return NULL;
  return value->tensor;
}

/* The length of what NAME has before its block, or before its last component if it is of none. */
static gsize
owner_of (const char *name)
{
  const char *block = g_str_has_prefix (name, "blocks.") ? name : strstr (name, ".blocks."),
             *dot = strrchr (name, '.');
  if (block)
    return block == name ? 0 : (gsize)(block - name) + 1;
  return dot ? (gsize)(dot - name) + 1 : 0;
}

/* The length of the components, with their dots, that all names begin with where the flow is an attribute of
 * what was saved ("model.blocks.0.…", "net.flow.blocks.0.…"), else 0. */
static gsize
find_owner (const NfPickleValue *state, gboolean averaged)
{
  g_autofree char *first = NULL;
  gsize length = 0;
  for (guint i = 0; i < state->items->len; i += 2)
    if (get_weight (state, i, averaged))
      {
        g_autofree char *name = strip_name (((const NfPickleValue *)state->items->pdata[i])->text);
        gsize common = 0, owner = owner_of (name);
        if (!first)
          {
            first = g_steal_pointer (&name);
            length = owner;
            continue;
          }
        for (gsize j = 0; j < MIN (length, owner) && name[j] == first[j]; j++)
          if (name[j] == '.')
            common = j + 1;
        length = common;
      }
  return length;
}

static gboolean
add_tensor (Reader *r, const char *key, gsize owner, const NfPickleTensor *from, GHashTable *names)
{
  g_autofree char *whole = strip_name (key), *name = g_strdup (whole + owner), *shown = nf_shorten (name);
  const guint8 *storage = g_hash_table_lookup (r->storages, from->storage);
  NfTensor tensor = { .dtype = from->storage->dtype,
                      .n_dims = from->n_dims,
                      .n_elements = from->n_elements,
                      .data = storage + from->offset * nf_dtype_size (from->storage->dtype) };

  if (!is_name (name))
    return FAIL (r, "a tensor has an impossible name, \"%s\"", shown);
  if (!g_hash_table_add (names, g_strdup (name)))
    return FAIL (r, "it holds tensor %s twice", shown);
  if (from->mark)
    {
      g_autofree char *mark = nf_shorten (from->mark);
      return FAIL (
          r,
          "tensor %s is marked \"%s\": its elements are not stored as they are, which is not read. Save "
          "tensor%s.clone() in its place",
          name, mark,
          strcmp (mark, "neg") == 0    ? ".resolve_neg()"
          : strcmp (mark, "conj") == 0 ? ".resolve_conj()"
                                       : "");
    }
  memcpy (tensor.dims, from->dims, sizeof tensor.dims);
  if (from->n_elements > 0 && !is_contiguous (from))
    tensor.data = gather (r, from, tensor.data, name);
  if (!tensor.data)
    return FALSE;
  tensor.name = g_steal_pointer (&name);
  g_array_append_val (r->tensors, tensor);
  return TRUE;
}

static gboolean
add_state (Reader *r, const NfPickleValue *state)
{
  g_autoptr (GHashTable) names = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  const gboolean averaged = is_averaged (state);
  const gsize owner = find_owner (state, averaged);
  for (guint i = 0; i < state->items->len; i += 2)
    {
      const NfPickleTensor *tensor = get_weight (state, i, averaged);
      const NfPickleValue *key = state->items->pdata[i];
      if (tensor && !add_tensor (r, key->text, owner, tensor, names))
        return FALSE;
    }
  return TRUE;
}

gboolean
nf_torch_file_read (const guint8 *data, gsize size, const char *path, const char *state, GArray *tensors,
                    GPtrArray *copies, GError **error)
{
  g_autoptr (GHashTable) storages = g_hash_table_new (NULL, NULL);
  Reader reader = { .data = data,
                    .size = size,
                    .path = path,
                    .storages = storages,
                    .tensors = tensors,
                    .copies = copies,
                    .error = error };
  const gboolean read = data[0] == 'P' ? read_zip (&reader) : read_legacy (&reader);
  g_autoptr (NfPickle) pickle = reader.pickle;
  const NfPickleValue *weights = read ? choose_state (&reader, state) : NULL;
  return weights && add_state (&reader, weights);
}
