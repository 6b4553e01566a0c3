/* normflow: a flow's weights on a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-model-private.h"
#include "nf-weights.h"

#include <math.h>
#include <string.h>

struct _NfModel
{
  GObject parent_instance;

  NfDevice *device;
  NfTensorFile *file; /* what it was loaded from, or NULL */
  char *digest;       /* NULL after training changed it; atomic */
  GSList *digests;    /* that it had before: somebody may hold them */
  char *key;          /* in the table of shared models, or NULL */
  gboolean shared;    /* it was handed out more than once; under the table's lock */
  double load_seconds;
  guint64 generation; /* how often weights or variance changed */

  NfWeights *weights; /* theta of it is freed once it is on the device; what is in a file stays there */
  NfSampleShape shape;
  NfBlocks *blocks;
  NfTokens tokens;

  NfOps *ops;           /* of the model's own, under the lock */
  NfBuffer *theta;      /* all parameters, or those that are no matrices */
  gboolean whole;       /* all */
  NfBuffer *forward;    /* packed */
  NfBuffer *backward;   /* packed, NULL until needed */
  NfBuffer *ordered;    /* positions of blocks whose sequence has others than are stored */
  NfBuffer *deviation;  /* (N, D), or NULL: it was never other than 1 */
  NfBuffer *precision;  /* (N, D): one over it */
  float *log_deviation; /* (N): sums over D of its logarithm */
  gboolean deviates;    /* it is not all 1 */
  GMutex lock;
};

G_DEFINE_FINAL_TYPE (NfModel, nf_model, G_TYPE_OBJECT)

/* Models that this process has loaded, so that elements share their memory: content, how the device computes
 * and where the file is -> weak reference. */
static GMutex shared_lock;
static GHashTable *shared_models;

static void
weak_free (gpointer data)
{
  g_weak_ref_clear (data);
  g_free (data);
}

/* Whether there is a MODEL whose file still holds it, and that says of itself what FILE does. */
static gboolean
is_same (NfModel *model, NfTensorFile *file)
{
  if (!model || !nf_tensor_file_check_unchanged (model->file, NULL))
    return FALSE;
  GHashTable *metadata = nf_tensor_file_get_all_metadata (model->file),
             *other = nf_tensor_file_get_all_metadata (file);
  GHashTableIter iter;
  gpointer key, value;
  g_hash_table_iter_init (&iter, metadata);
  while (g_hash_table_iter_next (&iter, &key, &value))
    if (g_strcmp0 (value, g_hash_table_lookup (other, key)) != 0)
      return FALSE;
  return g_hash_table_size (metadata) == g_hash_table_size (other);
}

static NfModel *
find_shared (const char *key, NfTensorFile *file)
{
  g_mutex_lock (&shared_lock);
  GWeakRef *weak = shared_models ? g_hash_table_lookup (shared_models, key) : NULL;
  g_autoptr (NfModel) model = weak ? g_weak_ref_get (weak) : NULL;
  const gboolean same = is_same (model, file);
  if (same)
    model->shared = TRUE;
  g_mutex_unlock (&shared_lock);
  return same ? g_steal_pointer (&model) : NULL;
}

/* SELF, or the same model that another thread was quicker with. Takes SELF. */
static NfModel *
share (NfModel *self, const char *key)
{
  /* given up only after the lock */
  g_autoptr (NfModel) other = NULL;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&shared_lock);
  if (!shared_models)
    shared_models = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, weak_free);
  GWeakRef *weak = g_hash_table_lookup (shared_models, key);
  other = weak ? g_weak_ref_get (weak) : NULL;
  if (is_same (other, self->file))
    {
      other->shared = TRUE;
      g_clear_pointer (&locker, g_mutex_locker_free);
      g_object_unref (self);
      return g_steal_pointer (&other);
    }
  weak = g_new0 (GWeakRef, 1);
  g_weak_ref_init (weak, self);
  g_hash_table_insert (shared_models, g_strdup (key), weak);
  self->key = g_strdup (key);
  return self;
}

gboolean
nf_model_make_private (NfModel *self, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&shared_lock);
  if (self->shared)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          "%s was loaded more than once and is shared with all who did, who would see it change: train "
          "one of nf_model_load_unshared()",
          nf_tensor_file_get_path (self->file));
      return FALSE;
    }
  if (!self->key)
    return TRUE;
  GWeakRef *weak = g_hash_table_lookup (shared_models, self->key);
  g_autoptr (NfModel) listed = weak ? g_weak_ref_get (weak) : NULL;
  if (listed == self)
    g_hash_table_remove (shared_models, self->key);
  g_clear_pointer (&self->key, g_free);
  return TRUE;
}

static void
nf_model_dispose (GObject *object)
{
  NfModel *self = NF_MODEL (object);

  if (self->key)
    {
      g_mutex_lock (&shared_lock);
      GWeakRef *weak = g_hash_table_lookup (shared_models, self->key);
      NfModel *listed = weak ? g_weak_ref_get (weak) : NULL;
      /* dead already, or replaced by a later load */
      if (weak && !listed)
        g_hash_table_remove (shared_models, self->key);
      g_mutex_unlock (&shared_lock);
      g_clear_object (&listed);
      g_clear_pointer (&self->key, g_free);
    }
  G_OBJECT_CLASS (nf_model_parent_class)->dispose (object);
}

static void
nf_model_finalize (GObject *object)
{
  NfModel *self = NF_MODEL (object);

  g_clear_pointer (&self->ops, nf_ops_free);
  g_clear_pointer (&self->theta, nf_buffer_free);
  g_clear_pointer (&self->forward, nf_buffer_free);
  g_clear_pointer (&self->backward, nf_buffer_free);
  g_clear_pointer (&self->ordered, nf_buffer_free);
  g_clear_pointer (&self->deviation, nf_buffer_free);
  g_clear_pointer (&self->precision, nf_buffer_free);
  g_free (self->log_deviation);
  g_clear_pointer (&self->tokens.basis, nf_buffer_free);
  g_clear_pointer (&self->blocks, nf_blocks_free);
  g_clear_pointer (&self->weights, nf_weights_free);
  g_clear_object (&self->file);
  g_clear_object (&self->device);
  g_free (self->digest);
  g_slist_free_full (self->digests, g_free);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (nf_model_parent_class)->finalize (object);
}

static void
nf_model_class_init (NfModelClass *class)
{
  G_OBJECT_CLASS (class)->dispose = nf_model_dispose;
  G_OBJECT_CLASS (class)->finalize = nf_model_finalize;
}

static void
nf_model_init (NfModel *self)
{
  g_mutex_init (&self->lock);
}

/* Structure */

static const NfConfig *
get_config (NfModel *self)
{
  return self->weights->config;
}

void
nf_model_repack (NfModel *self, NfOps *ops)
{
  g_return_if_fail (self->whole);
  nf_blocks_pack (self->blocks, ops, TRUE, NULL, NULL);
  nf_blocks_order_positions (self->blocks, ops, get_config (self));
  self->generation++;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&self->lock);
  if (self->digest)
    self->digests = g_slist_prepend (self->digests, self->digest);
  g_atomic_pointer_set (&self->digest, NULL);
}

/* Who is told of loading, and may stop it. */
typedef struct
{
  NfProgressFunc progress;
  gpointer data;
  GCancellable *cancellable;
  double told; /* of the phase; it is told of its beginning, its end, and of steps of TOLD between */
  gint64 time; /* of that, monotonic */
} Listener;

#define TOLD 0.05

static gboolean
tell (Listener *listener, const char *phase, double fraction, GError **error)
{
  const gint64 now = g_get_monotonic_time ();
  if (fraction <= 0 || fraction >= 1
      || (fraction - listener->told >= TOLD && now - listener->time >= NF_PROGRESS_INTERVAL))
    {
      listener->told = fraction;
      listener->time = now;
      if (listener->progress)
        listener->progress (phase, fraction, listener->data);
    }
  if (!g_cancellable_is_cancelled (listener->cancellable))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_CANCELLED, "loading the model was cancelled");
  return FALSE;
}

static gboolean
tell_of_loading (double fraction, gpointer data, GError **error)
{
  return tell (data, "load", fraction, error);
}

/* A matrix on its way from the file to the packed ones. */
typedef struct
{
  NfModel *model;
  Listener *listener; /* NULL: nobody is */
  gsize done, all;    /* values */
  float *host;
  NfBuffer *staged;
  GError *error;
} Staging;

static NfView
stage (const NfLinear *layer, gpointer data)
{
  Staging *staging = data;
  const NfWeights *weights = staging->model->weights;
  const NfParameter *parameter = nf_parameters_find (weights->parameters, layer->w.at);
  staging->done += parameter->n;
  if (staging->error || !nf_weights_get (weights, parameter, staging->host, &staging->error)
      || (staging->listener
          && !tell (staging->listener, "build", (double)staging->done / (double)staging->all,
                    &staging->error)))
    return nf_view (NULL, 0);
  nf_ops_write (staging->model->ops, nf_view (staging->staged, 0), staging->host,
                parameter->n * sizeof (float));
  return nf_view (staging->staged, 0);
}

/* Packs all matrices of a model that has them on its device, or in its file alone. */
static gboolean
pack (NfModel *self, gboolean forward, Listener *listener, GError **error)
{
  const GArray *list = self->weights->parameters->list;
  gsize largest = 0;
  if (self->whole)
    {
      nf_blocks_pack (self->blocks, self->ops, forward, NULL, NULL);
      return nf_ops_finish (self->ops, error);
    }
  for (guint i = 0; i < list->len; i++)
    if (g_array_index (list, NfParameter, i).matrix)
      largest = MAX (largest, g_array_index (list, NfParameter, i).n);
  g_autofree float *host = g_try_new (float, largest);
  g_autoptr (NfBuffer) staged = nf_ops_alloc (self->ops, largest);
  Staging staging = {
    .model = self, .listener = listener, .all = self->weights->parameters->n, .host = host, .staged = staged
  };
  if (!staged)
    return nf_ops_finish (self->ops, error);
  if (!host)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                   "no memory for a matrix of %" G_GSIZE_FORMAT " values", largest);
      return FALSE;
    }
  nf_blocks_pack (self->blocks, self->ops, forward, stage, &staging);
  if (staging.error)
    {
      nf_ops_finish (self->ops, NULL);
      g_propagate_error (error, staging.error);
      return FALSE;
    }
  return nf_ops_finish (self->ops, error);
}

gboolean
nf_model_need_backward (NfModel *self, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&self->lock);
  if (self->backward)
    return TRUE;

  g_autoptr (NfBuffer) backward
      = nf_ops_alloc (self->ops, nf_blocks_packed_floats (self->blocks, self->ops, TRUE));
  if (!backward)
    return nf_ops_finish (self->ops, error);
  nf_blocks_place (self->blocks, self->ops, backward, TRUE);
  if (!pack (self, FALSE, NULL, error))
    {
      nf_blocks_place (self->blocks, self->ops, NULL, TRUE);
      return FALSE;
    }
  self->backward = g_steal_pointer (&backward);
  return TRUE;
}

gboolean
nf_model_check_gradients (NfModel *self, GError **error)
{
  if (nf_device_has_gradients (self->device))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
               "with products in %s there are no gradients of parameters, so nothing is trained; take f32 or "
               "bf16 (option --precision, suffix ,precision= or NORMFLOW_PRECISION)",
               nf_device_get_precision (self->device));
  return FALSE;
}

gboolean
nf_model_need_theta (NfModel *self, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&self->lock);
  const gsize n = self->weights->parameters->n;
  if (self->whole)
    return TRUE;
  g_autofree float *theta = nf_weights_get_all (self->weights, error);
  if (!theta)
    return FALSE;
  g_autoptr (NfBuffer) all = nf_ops_alloc (self->ops, n);
  if (all)
    nf_ops_write (self->ops, nf_view (all, 0), theta, n * sizeof *theta);
  if (!nf_ops_finish (self->ops, error))
    return FALSE;
  /* views of the parameters stay what they are */
  const NfBuffer small = *self->theta;
  *self->theta = *all;
  *all = small;
  self->whole = TRUE;
  return TRUE;
}

void
nf_model_fill_basis (const NfConfig *config, float *basis)
{
  const guint D = nf_config_features (config);

  memset (basis, 0, (gsize)D * D * sizeof *basis);
  for (guint at = 0; at < D;)
    {
      const guint side
          = config->layout == NF_PIXELS_YUV420 && at > 0 ? config->patch_size / 2 : config->patch_size;
      for (guint u = 0; u < side * side; u++)
        for (guint i = 0; i < side * side; i++)
          {
            const guint frequency[2] = { u / side, u % side }, place[2] = { i / side, i % side };
            double value = 1;
            for (guint a = 0; a < 2; a++)
              value *= sqrt ((frequency[a] ? 2.0 : 1.0) / side)
                       * cos (G_PI * (2 * place[a] + 1) * frequency[a] / (2.0 * side));
            basis[(gsize)(at + u) * D + at + i] = (float)value;
          }
      at += side * side;
    }
}

void
nf_model_set_variance (NfModel *self, NfOps *ops, const float *variance)
{
  const gsize D = self->shape.D, N = self->shape.frame, n = N * D;
  g_autofree float *deviation = g_new (float, n), *precision = g_new (float, n);

  self->generation++;
  self->deviates = FALSE;
  memset (self->log_deviation, 0, N * sizeof *self->log_deviation);
  for (gsize i = 0; i < n; i++)
    {
      deviation[i] = nf_model_deviation (variance[i]);
      precision[i] = 1.0f / deviation[i];
      self->log_deviation[i / D] += logf (deviation[i]);
      self->deviates = self->deviates || deviation[i] != 1.0f;
    }
  if (variance != self->weights->variance)
    memcpy (nf_weights_need_variance (self->weights), variance, n * sizeof *variance);
  if (!self->deviation)
    self->deviation = nf_ops_alloc (ops, n);
  if (!self->precision)
    self->precision = nf_ops_alloc (ops, n);
  nf_ops_write (ops, nf_view (self->deviation, 0), deviation, n * sizeof *deviation);
  nf_ops_write (ops, nf_view (self->precision, 0), precision, n * sizeof *precision);
}

/* Parameters to where theta has place for them. */
static gboolean
upload (NfModel *self, GError **error)
{
  const NfWeights *weights = self->weights;
  const NfParameters *parameters = weights->parameters;
  if (self->whole)
    {
      nf_ops_write (self->ops, nf_view (self->theta, 0), weights->theta, parameters->n * sizeof (float));
      return nf_ops_finish (self->ops, error);
    }
  g_autofree float *kept = g_new (float, parameters->n_kept);
  for (guint i = 0; i < parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (parameters->list, NfParameter, i);
      if (!parameter->matrix && !nf_weights_get (weights, parameter, kept + parameter->at, error))
        return FALSE;
    }
  nf_ops_write (self->ops, nf_view (self->theta, 0), kept, parameters->n_kept * sizeof *kept);
  return nf_ops_finish (self->ops, error);
}

/* Whether a buffer of DEVICE holds the packed matrices of WEIGHTS, which take BYTES in its precision. */
static gboolean
check_room (const NfWeights *weights, NfDevice *device, guint64 bytes, GError **error)
{
  static const struct
  {
    guint per_word;
    const char *advice;
  } smaller[] = { { 2, "there is room for them in bf16, bf16-weights or int8-weights" },
                  { 4, "there is room for them in int8-weights" } };
  const NfDeviceInfo *info = nf_device_get_info (device);
  const guint per_word = nf_device_values_per_word (device);
  const char *advice = NULL;
  if (bytes <= info->max_alloc)
    return TRUE;
  /* a new model is to be trained, which these are not for */
  for (guint i = 0; weights->file && i < G_N_ELEMENTS (smaller) && !advice; i++)
    if (bytes / smaller[i].per_word * per_word <= info->max_alloc)
      advice = smaller[i].advice;
  g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
               "%s: its weights take %" G_GUINT64_FORMAT " bytes in %s, and %s takes no buffer of more than "
               "%" G_GUINT64_FORMAT "; %s%s",
               weights->file ? nf_tensor_file_get_path (weights->file) : "new model", bytes,
               nf_device_get_precision (device), info->name, info->max_alloc,
               advice ? advice : "take a device with more memory",
               advice ? " (option --precision, suffix ,precision= or NORMFLOW_PRECISION)" : "");
  return FALSE;
}

/* The bytes of packed matrices, without what pads them. */
static guint64
count_bytes (const NfWeights *weights, NfDevice *device)
{
  const NfParameters *parameters = weights->parameters;
  return (parameters->n - parameters->n_kept) / nf_device_values_per_word (device) * sizeof (float);
}

/* Puts WEIGHTS, which it takes, on DEVICE. LISTENER may be NULL. */
static NfModel *
build (NfWeights *weights, NfDevice *device, Listener *listener, GError **error)
{
  g_autoptr (NfModel) self = g_object_new (NF_TYPE_MODEL, NULL);
  const NfConfig *config = weights->config;
  const guint D = nf_config_features (config), N = nf_config_tokens (config);

  self->weights = weights;
  self->device = g_object_ref (device);
  self->shape = (NfSampleShape){
    .N = N * nf_config_frames (config), .frame = N, .D = D, .n_classes = config->n_classes
  };
  self->tokens
      = (NfTokens){ .p = config->patch_size,
                    .columns = nf_config_columns (config) / config->patch_size,
                    .rows = nf_config_rows (config) / config->patch_size,
                    .interleaved = config->family == NF_FAMILY_STARFLOW && config->layout != NF_PIXELS_YUV420
                                       ? config->channels
                                       : 0,
                    .yuv = config->layout == NF_PIXELS_YUV420,
                    .D = D,
                    .steps = config->noise == NF_NOISE_UNIFORM ? NF_LATTICE : 0 };
  self->ops = nf_ops_new (device, config->head_dim, D, error);
  if (!self->ops)
    return NULL;

  const NfParameters *parameters = weights->parameters;
  self->whole = weights->theta != NULL;
  self->theta = nf_ops_alloc (self->ops, self->whole ? parameters->n : parameters->n_kept);
  self->ordered = nf_ops_alloc (self->ops, nf_blocks_ordered_floats (config));
  self->log_deviation = g_new0 (float, N);
  if (config->basis == NF_BASIS_DCT)
    {
      g_autofree float *basis = g_new0 (float, (gsize)D *D);
      nf_model_fill_basis (config, basis);
      self->tokens.basis = nf_ops_new_basis (self->ops, basis, D);
    }
  self->blocks = nf_blocks_new (config, parameters, self->theta, self->ordered);
  nf_blocks_round (self->blocks, nf_device_values_per_word (device) > 1);
  const gsize packed = nf_blocks_packed_floats (self->blocks, self->ops, FALSE);
  if (!check_room (weights, device, packed * sizeof (float), error))
    return NULL;
  self->forward = nf_ops_alloc (self->ops, packed);
  if (!self->theta || !self->ordered || !self->forward)
    {
      nf_ops_finish (self->ops, error);
      return NULL;
    }
  nf_blocks_place (self->blocks, self->ops, self->forward, FALSE);
  if (!upload (self, error))
    return NULL;
  if (weights->variance)
    nf_model_set_variance (self, self->ops, weights->variance);
  nf_blocks_order_positions (self->blocks, self->ops, config);
  if (!pack (self, TRUE, listener, error))
    return NULL;
  g_clear_pointer (&weights->theta, g_free);
  return g_steal_pointer (&self);
}

/* Finding and loading */

char *
nf_model_find (const char *name, GError **error)
{
  if (!name || !*name)
    name = NF_MODEL_DEFAULT;
  if (strchr (name, G_DIR_SEPARATOR) || g_file_test (name, G_FILE_TEST_IS_REGULAR))
    {
      if (g_file_test (name, G_FILE_TEST_EXISTS))
        return g_strdup (name);
      g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "there is no model file %s", name);
      return NULL;
    }

  const char *path = g_getenv ("NORMFLOW_MODEL_PATH");
  g_autofree char *all = path && *path ? g_strconcat (path, G_SEARCHPATH_SEPARATOR_S, NF_MODELS_DIR, NULL)
                                       : g_strdup (NF_MODELS_DIR);
  g_auto (GStrv) folders = g_strsplit (all, G_SEARCHPATH_SEPARATOR_S, -1);
  const gboolean ends = g_str_has_suffix (name, ".safetensors") || g_str_has_suffix (name, ".pth")
                        || g_str_has_suffix (name, ".pt");
  g_autofree char *base = ends ? g_strdup (name) : g_strconcat (name, ".safetensors", NULL);
  for (char **folder = folders; *folder; folder++)
    {
      g_autofree char *file = **folder ? g_build_filename (*folder, base, NULL) : NULL;
      if (file && g_file_test (file, G_FILE_TEST_IS_REGULAR))
        return g_steal_pointer (&file);
    }
  if (g_file_test (name, G_FILE_TEST_EXISTS))
    g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND,
                 "%s is not a regular file, and there is no model of that name in %s", name, all);
  else
    g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND,
                 ends ? "there is no model file %s, nor one of that name in %s"
                      : "there is no model %s in %s; give a file, or add its folder to NORMFLOW_MODEL_PATH",
                 base, all);
  return NULL;
}

static NfModel *
load (const char *name, const NfConfig *config, NfDevice *device, gboolean shared, NfProgressFunc progress,
      gpointer data, GCancellable *cancellable, GError **error)
{
  const gint64 start = g_get_monotonic_time ();
  const double built = nf_device_get_build_seconds (device);

  Listener listener = { .progress = progress, .data = data, .cancellable = cancellable };
  if (!tell (&listener, "load", 0, error))
    return NULL;
  g_autofree char *path = nf_model_find (name, error);
  g_autoptr (NfTensorFile) file = path ? nf_tensor_file_open (path, error) : NULL;
  g_autoptr (NfWeights) weights = file ? nf_weights_open (file, config, error) : NULL;
  if (!weights || !check_room (weights, device, count_bytes (weights, device), error))
    return NULL;
  g_autofree char *digest = nf_weights_digest (weights, tell_of_loading, &listener, error);
  if (!digest)
    return NULL;
  /* where it is: models are told by their path, and hints lie beside it */
  g_autofree char *computing = nf_device_describe_computing (device),
                  *place = g_canonicalize_filename (path, NULL),
                  *key = g_strdup_printf ("%s %s %s", digest, computing, place);
  NfModel *other = shared ? find_shared (key, file) : NULL;
  if (other)
    return other;
  if (!tell (&listener, "build", 0, error))
    return NULL;

  g_autoptr (NfModel) self = build (g_steal_pointer (&weights), device, &listener, error);
  if (!self || !tell (&listener, "build", 1, error))
    return NULL;
  self->file = g_steal_pointer (&file);
  self->digest = g_steal_pointer (&digest);
  self->load_seconds = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC
                       - (nf_device_get_build_seconds (device) - built);
  return shared ? share (g_steal_pointer (&self), key) : g_steal_pointer (&self);
}

NfModel *
nf_model_load (const char *name, NfDevice *device, NfProgressFunc progress, gpointer data,
               GCancellable *cancellable, GError **error)
{
  g_return_val_if_fail (NF_IS_DEVICE (device), NULL);
  return load (name, NULL, device, TRUE, progress, data, cancellable, error);
}

NfModel *
nf_model_load_configured (const char *name, const NfConfig *config, NfDevice *device, NfProgressFunc progress,
                          gpointer data, GCancellable *cancellable, GError **error)
{
  g_return_val_if_fail (NF_IS_DEVICE (device), NULL);
  return load (name, config, device, TRUE, progress, data, cancellable, error);
}

NfModel *
nf_model_load_unshared (const char *name, NfDevice *device, NfProgressFunc progress, gpointer data,
                        GCancellable *cancellable, GError **error)
{
  g_return_val_if_fail (NF_IS_DEVICE (device), NULL);
  return load (name, NULL, device, FALSE, progress, data, cancellable, error);
}

NfModel *
nf_model_new (const NfConfig *config, NfDevice *device, guint64 seed, GError **error)
{
  g_return_val_if_fail (config && NF_IS_DEVICE (device), NULL);
  if (!nf_config_check (config, "new model", error))
    return NULL;
  g_autoptr (NfWeights) weights = nf_weights_new (config);
  if (!weights->theta)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " parameters",
                   weights->parameters->n);
      return NULL;
    }
  nf_parameters_initialise (weights->parameters, seed, weights->theta);
  return build (g_steal_pointer (&weights), device, NULL, error);
}

/* The parameters as they are on the device, under the lock; free with g_free(). */
static float *
download (NfModel *self, GError **error)
{
  const gsize n = self->weights->parameters->n;
  if (!self->whole)
    return nf_weights_get_all (self->weights, error);
  g_autofree float *theta = g_try_new (float, n);
  if (!theta)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " parameters", n);
      return NULL;
    }
  return nf_ops_read (self->ops, nf_view (self->theta, 0), theta, n * sizeof *theta, error)
             ? g_steal_pointer (&theta)
             : NULL;
}

gboolean
nf_model_write (NfModel *self, const float *theta, const char *path, GHashTable *metadata, GError **error)
{
  NfWeights weights = *self->weights;
  weights.theta = (float *)theta;
  return nf_weights_write (&weights, path, metadata, error);
}

gboolean
nf_model_save (NfModel *self, const char *path, GHashTable *metadata, GError **error)
{
  g_return_val_if_fail (NF_IS_MODEL (self) && path, FALSE);
  g_mutex_lock (&self->lock);
  g_autofree float *theta = download (self, error);
  g_mutex_unlock (&self->lock);
  return theta && nf_model_write (self, theta, path, metadata, error);
}

/* Asking */

const NfSampleShape *
nf_model_get_shape (NfModel *self)
{
  return &self->shape;
}

guint
nf_model_count_blocks (NfModel *self)
{
  return self->blocks->T;
}

const NfFlowBlock *
nf_model_get_block (NfModel *self, guint t)
{
  return &self->blocks->flow[t];
}

const NfFlowBlock *
nf_model_get_denoiser (NfModel *self)
{
  return self->blocks->denoiser;
}

const NfTokens *
nf_model_get_tokens (NfModel *self)
{
  return &self->tokens;
}

NfView
nf_model_get_deviations (NfModel *self)
{
  return nf_view (self->deviates ? self->deviation : NULL, 0);
}

NfView
nf_model_get_precisions (NfModel *self)
{
  return nf_view (self->deviates ? self->precision : NULL, 0);
}

const float *
nf_model_get_log_deviations (NfModel *self)
{
  return self->log_deviation;
}

const NfParameters *
nf_model_get_parameters (NfModel *self)
{
  return self->weights->parameters;
}

NfBuffer *
nf_model_get_theta (NfModel *self)
{
  return self->theta;
}

const float *
nf_model_get_variance (NfModel *self)
{
  return nf_weights_need_variance (self->weights);
}

guint64
nf_model_get_generation (NfModel *self)
{
  return self->generation;
}

gboolean
nf_model_refuse_computed (NfModel *self, const char *what, GError **error)
{
  const char *path = nf_model_get_path (self);
  g_set_error (error, NF_ERROR, NF_ERROR_DATA,
               "%s are not finite: the weights of %s are damaged, or what it was given is far from all "
               "that it has learned",
               what, path ? path : "the model");
  return FALSE;
}

NfOps *
nf_model_new_ops (NfModel *self, GError **error)
{
  return nf_ops_new (self->device, get_config (self)->head_dim, self->shape.D, error);
}

const NfConfig *
nf_model_get_config (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), NULL);
  return get_config (self);
}

NfDevice *
nf_model_get_device (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), NULL);
  return self->device;
}

const char *
nf_model_get_path (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), NULL);
  return self->file ? nf_tensor_file_get_path (self->file) : NULL;
}

const char *
nf_model_get_metadata (NfModel *self, const char *key)
{
  g_return_val_if_fail (NF_IS_MODEL (self), NULL);
  return self->file ? nf_tensor_file_get_metadata (self->file, key) : NULL;
}

const char *
nf_model_get_digest (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), NULL);
  const char *known = g_atomic_pointer_get (&self->digest);
  if (known)
    return known;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&self->lock);
  if (!self->digest)
    {
      g_autoptr (GError) error = NULL;
      g_autofree float *theta = download (self, &error);
      if (!theta)
        {
          g_warning ("cannot read the model's parameters back: %s", error->message);
          return "";
        }
      NfWeights weights = *self->weights;
      weights.theta = theta;
      g_atomic_pointer_set (&self->digest, nf_weights_digest (&weights, NULL, NULL, NULL));
    }
  return self->digest;
}

char *
nf_model_digest_of_file (const char *path, GError **error)
{
  g_return_val_if_fail (path, NULL);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  g_autoptr (NfWeights) weights = file ? nf_weights_open (file, NULL, error) : NULL;
  return weights ? nf_weights_digest (weights, NULL, NULL, error) : NULL;
}

guint64
nf_model_count_parameters (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), 0);
  return self->weights->parameters->n;
}

gboolean
nf_model_get_parameter (NfModel *self, const char *name, gsize *offset, gsize *n_elements)
{
  g_return_val_if_fail (NF_IS_MODEL (self) && name, FALSE);
  const NfParameter *parameter = nf_parameters_lookup (self->weights->parameters, name);
  if (!parameter)
    return FALSE;
  *offset = parameter->listed;
  *n_elements = parameter->n;
  return TRUE;
}

double
nf_model_get_flops (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), 0);
  const NfConfig *config = get_config (self);
  const double all = self->shape.N, frame = self->shape.frame;
  double flops = 0;
  for (guint t = 0; t < self->blocks->T; t++)
    {
      const NfFlowBlock *block = &self->blocks->flow[t];
      const NfTransformerShape *shape = &block->transformer.shape;
      const double N = config->shallow_local && t + 1 < self->blocks->T ? frame : all, d = shape->d,
                   inner = (double)shape->H * shape->head_dim, keys = (double)shape->Hkv * shape->head_dim;
      const double layer
          = N * d * (2 * inner + 2 * keys + (shape->gated ? 3.0 : 2.0) * shape->hidden) + inner * N * (N + 1);
      flops += 2 * (all / N) * (N * d * (block->in.n_in + block->out.n_out) + shape->K * layer);
    }
  return flops;
}

double
nf_model_get_load_seconds (NfModel *self)
{
  g_return_val_if_fail (NF_IS_MODEL (self), 0);
  return self->load_seconds;
}
