/* normflow: a flow's weights on a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-config.h"
#include "nf-device.h"
#include "nf-tensor-file.h"

G_BEGIN_DECLS

/**
 * NfModel:
 *
 * A configuration and its parameters on one device, packed for the kernels. Immutable but for training, so
 * that any number of sessions on any threads may share it; a model that an #NfTrainer holds must not be used
 * elsewhere meanwhile. Afterwards sessions go on with what it became; streams first begin anew, by
 * nf_stream_reset(), since what they remember of frames is of the weights before.
 */
#define NF_TYPE_MODEL (nf_model_get_type ())
G_DECLARE_FINAL_TYPE (NfModel, nf_model, NF, MODEL, GObject)

/**
 * NfProgressFunc:
 * @phase: "load" and "build" of a model, "decode" of a session; static string
 * @fraction: done, 0 to 1
 * @data: the caller's
 *
 * Called on the working thread, which is the caller's of what it tells of, at most ten times a second but for
 * the beginning and the end of a phase.
 */
typedef void (*NfProgressFunc) (const char *phase, double fraction, gpointer data);

/** NF_MODEL_DEFAULT: name of the bundled model that is meant where none is named. */
#define NF_MODEL_DEFAULT "normflow-yuv420-32"

/** NF_MODEL_NOISY: name of the bundled model of noisy pictures, for removing noise. */
#define NF_MODEL_NOISY "normflow-yuv420-32-noisy"

/**
 * nf_model_find:
 * @name: (nullable): a path, or a bare name; NULL or "" is the bundled default model
 *
 * A bare name (no '/') that is not a file is looked for as NAME.safetensors, or as it is if it ends in
 * .safetensors, .pth or .pt, in `$NORMFLOW_MODEL_PATH` (colon-separated) and then where models are installed.
 *
 * Returns: (transfer full): a path, or NULL with %NF_ERROR_NOT_FOUND naming the places tried.
 */
char *nf_model_find (const char *name, GError **error);

/**
 * nf_model_load:
 * @name: (nullable): as for nf_model_find()
 * @device: where to keep the weights
 * @progress: (nullable) (scope call): told of loading and building
 * @data: for @progress
 * @cancellable: (nullable): stops early with %NF_ERROR_CANCELLED
 *
 * Reads and checks weights, uploads and packs them, and builds every kernel that sessions will need. A file
 * with the same content and metadata on a device that computes in the same way is shared within the process:
 * loading twice costs memory once. A copy of it elsewhere, or a link to it, is another model: models are told
 * by their paths, beside which their hints lie.
 * On the device matrices lie in the order of products only; gradients, training and nf_model_save() read them
 * again, so the file stays open. It may be replaced by renaming only, as everything here does: once it was
 * written into, what would read it fails with %NF_ERROR_DATA, and where it was cut short meanwhile the
 * process may end. Any thread.
 *
 * Returns: (transfer full): the model, or NULL with %NF_ERROR_NOT_FOUND, %NF_ERROR_READ, %NF_ERROR_FORMAT,
 * %NF_ERROR_CONFIG (weights missing, surplus or of the wrong shape, by name; no or an impossible
 * configuration), %NF_ERROR_UNSUPPORTED (a configuration or variance that is not implemented here),
 * %NF_ERROR_ARGUMENT (a checkpoint with several sets of weights), %NF_ERROR_DATA (NaN or infinite weights;
 * the file was written into meanwhile), %NF_ERROR_CANCELLED, device errors.
 */
NfModel *nf_model_load (const char *name, NfDevice *device, NfProgressFunc progress, gpointer data,
                        GCancellable *cancellable, GError **error);

/** nf_model_load_unshared: The same, of which the caller alone has a copy: one that can be trained whoever
 * else has loaded that file, or will. Returns: (transfer full): as nf_model_load() does. */
NfModel *nf_model_load_unshared (const char *name, NfDevice *device, NfProgressFunc progress, gpointer data,
                                 GCancellable *cancellable, GError **error);

/**
 * nf_model_load_configured:
 * @config: (nullable): that of the weights, such as nf_checkpoint_config() makes (copied), possible as
 * nf_config_check() says; NULL: what the file says of itself
 *
 * The same as nf_model_load(), of weights that do not say their configuration, or another one.
 *
 * Returns: (transfer full): as nf_model_load() does.
 */
NfModel *nf_model_load_configured (const char *name, const NfConfig *config, NfDevice *device,
                                   NfProgressFunc progress, gpointer data, GCancellable *cancellable,
                                   GError **error);

/**
 * nf_model_new:
 * @config: configuration (copied)
 * @device: where to keep the weights
 * @seed: seed of the initial weights, drawn as the official code does (Linear: uniform ±1/sqrt(fan-in),
 * proj_out.weight 0, pos_embed and class_embed 0.01 × normal)
 *
 * Returns: (transfer full): a fresh, unshared model, or NULL with %NF_ERROR_CONFIG (as nf_config_check()) or
 * device errors.
 */
NfModel *nf_model_new (const NfConfig *config, NfDevice *device, guint64 seed, GError **error);

/**
 * nf_model_save:
 * @path: safetensors file, replaced atomically; parameters under the official names, `config` and @metadata
 * in `__metadata__`
 * @metadata: (nullable) (element-type utf8 utf8): more strings, UTF-8; a `config` of them is not written
 *
 * Reads the parameters back from the device, or from the file that they were loaded from.
 *
 * Returns: FALSE with %NF_ERROR_WRITE, %NF_ERROR_ARGUMENT (@metadata is not UTF-8), %NF_ERROR_DATA (the file
 * that it was loaded from was written into since) or device errors; what is at @path is then what it was.
 */
gboolean nf_model_save (NfModel *self, const char *path, GHashTable *metadata, GError **error);

/** nf_model_get_config: Returns: (transfer none): the configuration; good as long as the model is. */
const NfConfig *nf_model_get_config (NfModel *self);

/** nf_model_get_device: Returns: (transfer none): where the weights are; of a shared model the one that was
 * given when it was first loaded. */
NfDevice *nf_model_get_device (NfModel *self);

/** nf_model_get_path: Returns: (transfer none) (nullable): file it was loaded from, NULL for one of
 * nf_model_new(). */
const char *nf_model_get_path (NfModel *self);

/**
 * nf_model_get_digest:
 *
 * Returns: (transfer none): 64 hexadecimal digits, SHA-256 over configuration and parameters: equal for equal
 * models in whatever file; "", with a warning, if the parameters cannot be read back. Good as long as the
 * model is, though training may change what it says. Any thread.
 */
const char *nf_model_get_digest (NfModel *self);

/**
 * nf_model_digest_of_file:
 * @path: a model file
 *
 * Returns: (transfer full): the digest that the model would have once loaded, without any device; NULL with
 * the errors of nf_model_load(), of devices none but %NF_ERROR_NO_MEMORY.
 */
char *nf_model_digest_of_file (const char *path, GError **error);

/** nf_model_get_metadata: Returns: (transfer none) (nullable): the string under @key in `__metadata__` of the
 * file that it was loaded from, e.g. "training". */
const char *nf_model_get_metadata (NfModel *self, const char *key);

/** nf_model_count_parameters: Returns: number of trainable values. */
guint64 nf_model_count_parameters (NfModel *self);

/**
 * nf_model_get_parameter:
 * @name: official name, e.g. `blocks.0.proj_in.weight`
 * @offset: (out): where it starts in the flat array of nf_session_gradients()
 * @n_elements: (out): its number of values
 *
 * Returns: FALSE if the model has no such parameter; nothing is written then.
 */
gboolean nf_model_get_parameter (NfModel *self, const char *name, gsize *offset, gsize *n_elements);

/** nf_model_get_flops: Returns: floating-point operations (multiply-adds × 2) of encoding one sample, an
 * image or all frames of a video, of the configuration's size; text and the learned denoiser are not counted.
 */
double nf_model_get_flops (NfModel *self);

/** nf_model_get_load_seconds: Returns: seconds nf_model_load() took, without kernel builds, of a shared model
 * when it was first loaded; 0 for one of nf_model_new(). */
double nf_model_get_load_seconds (NfModel *self);

G_END_DECLS
