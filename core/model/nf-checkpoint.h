/* normflow: the configuration that weights belong to. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-config.h"
#include "nf-tensor-file.h"

G_BEGIN_DECLS

/**
 * nf_checkpoint_config:
 * @file: a model's weights
 * @path: (nullable): a file that says their configuration: JSON, the YAML of an official training run, or a
 * safetensors file with "config" in its `__metadata__`
 * @settings: (nullable) (array zero-terminated=1): members in addition, each "NAME=VALUE", VALUE as in JSON
 * or a bare word
 * @error: return location
 *
 * Puts a configuration together: @settings come first, then @path, or without it the file's own metadata, or
 * without these a file beside it of its name but with the ending ".yaml" or ".json"; what all of them leave
 * open the tensors' shapes say, and the names that official training gives its files (the noise of a
 * TARFlow). What then is still open is asked for by name. That the configuration and the weights agree is
 * checked where the weights are read.
 *
 * Returns: (transfer full): the configuration, or NULL with %NF_ERROR_CONFIG (what is missing, or
 * impossible), %NF_ERROR_ARGUMENT (a setting is not NAME=VALUE), %NF_ERROR_NOT_FOUND, %NF_ERROR_READ,
 * %NF_ERROR_FORMAT, %NF_ERROR_UNSUPPORTED (members that are not known or not implemented here) or
 * %NF_ERROR_NO_MEMORY.
 */
NfConfig *nf_checkpoint_config (NfTensorFile *file, const char *path, const char *const *settings,
                                GError **error);

/**
 * nf_checkpoint_says_noise:
 * @path: (nullable): as of nf_checkpoint_config(), as is @settings
 *
 * Returns: whether what nf_checkpoint_config() goes by says what noise the weights were trained with, or is a
 * configuration that leaves it at its default; FALSE too if that would fail. Where nothing does it is taken
 * for uniform noise of 8-bit samples.
 */
gboolean nf_checkpoint_says_noise (NfTensorFile *file, const char *path, const char *const *settings);

/**
 * nf_checkpoint_find_config: Returns: (transfer full) (nullable): the file that says the configuration of
 * @file where nobody names another: itself, or one of its name beside it; NULL if there is none.
 */
char *nf_checkpoint_find_config (NfTensorFile *file);

/**
 * nf_checkpoint_is_idle: Returns: whether the tensor @name of the official state_dict says nothing, so that
 * files may lack it: causal masks, and in STARFlow zeros where rotations once were.
 */
gboolean nf_checkpoint_is_idle (const NfConfig *config, const char *name);

G_END_DECLS
