/* normflow: options that make the configuration of a model. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>
#include <normflow.h>

G_BEGIN_DECLS

/* What single options say; -1, NF_NOT_GIVEN and NULL: nothing. */
typedef struct
{
  char *config;
  char *layout;
  char *basis;
  char *noise;
  char *family;
  char *size;
  char *layers;
  int patch;
  int width;
  int top_width;
  int blocks;
  int head_dim;
  int frames;
  int denoiser;
  gboolean vp;
  double noise_std;
  JsonObject *members; /* of CONFIG, or NULL */
} NfTrainShape;

void nf_train_shape_clear (NfTrainShape *shape);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfTrainShape, nf_train_shape_clear)

/* Whether any of them was. */
gboolean nf_train_shape_given (const NfTrainShape *shape);

/* What single options go over: the defaults, or what --config says, whose MEMBERS are then not NULL. */
gboolean nf_train_read_config (NfConfig *config, NfTrainShape *shape, GError **error);

/* Single options over the configuration. */
gboolean nf_train_make_config (NfConfig *config, const NfTrainShape *shape, GError **error);

G_END_DECLS
