/* normflow: the names, shapes and places of a model's parameters. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "nf-parameters.h"
#include "nf-random.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

/* The table */

static void
parameter_clear (gpointer data)
{
  g_free (((NfParameter *)data)->name);
}

static void add (NfParameters *self, NfParameterKind kind, guint fan_in, guint64 d0, guint64 d1, guint64 d2,
                 const char *format, ...) G_GNUC_PRINTF (7, 8);

/* d1, d2 of 0 are no dimensions. */
static void
add (NfParameters *self, NfParameterKind kind, guint fan_in, guint64 d0, guint64 d1, guint64 d2,
     const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  NfParameter parameter = {
    .name = g_strdup_vprintf (format, arguments), .kind = kind, .fan_in = fan_in, .dims = { d0, d1, d2 }
  };
  va_end (arguments);

  parameter.n_dims = d2 ? 3 : d1 ? 2 : 1;
  parameter.n = d0 * (d1 ? d1 : 1) * (d2 ? d2 : 1);
  parameter.listed = self->n;
  self->n += parameter.n;
  g_array_append_val (self->list, parameter);
  g_hash_table_insert (self->index, parameter.name, GUINT_TO_POINTER (self->list->len));
}

/* The last one added is a matrix. */
static void
mark_matrix (NfParameters *self)
{
  g_array_index (self->list, NfParameter, self->list->len - 1).matrix = TRUE;
}

static void add_linear (NfParameters *self, gboolean bias, guint n_out, guint n_in, const char *format, ...)
    G_GNUC_PRINTF (5, 6);

static void
add_linear (NfParameters *self, gboolean bias, guint n_out, guint n_in, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *name = g_strdup_vprintf (format, arguments);
  va_end (arguments);

  add (self, NF_PARAMETER_WEIGHT, n_in, n_out, n_in, 0, "%s.weight", name);
  mark_matrix (self);
  if (bias)
    add (self, NF_PARAMETER_BIAS, n_in, n_out, 0, 0, "%s.bias", name);
}

/* LayerNorm has weight 1 and bias 0; RMSNorm scales by 1 + weight. */
static void
add_norm (NfParameters *self, gboolean rms, guint d, const char *prefix, const char *name)
{
  add (self, rms ? NF_PARAMETER_ZERO : NF_PARAMETER_ONE, 0, d, 0, 0, "%s.%s.weight", prefix, name);
  if (!rms)
    add (self, NF_PARAMETER_ZERO, 0, d, 0, 0, "%s.%s.bias", prefix, name);
}

static void
add_layer (NfParameters *self, const NfConfig *config, const char *block, guint l, guint d)
{
  g_autofree char *prefix = g_strdup_printf ("%s.attn_blocks.%u", block, l);
  const gboolean bias = !config->no_bias;
  const guint dh = config->head_dim, H = config->n_heads ? config->n_heads : d / dh,
              Hkv = config->n_kv_heads ? config->n_kv_heads : H, hidden = config->expansion * d;

  add_norm (self, config->rms_norm, d, prefix, "attention.norm");
  add_linear (self, bias, (H + 2 * Hkv) * dh, d, "%s.attention.qkv", prefix);
  add_linear (self, bias, d, H * dh, "%s.attention.proj", prefix);
  if (config->qk_norm)
    {
      add_norm (self, TRUE, dh, prefix, "attention.query_norm");
      add_norm (self, TRUE, dh, prefix, "attention.key_norm");
    }
  if (config->post_norm)
    add_norm (self, TRUE, d, prefix, "attention.post_norm");
  add_norm (self, config->rms_norm, d, prefix, "mlp.norm");
  if (config->post_norm)
    add_norm (self, TRUE, d, prefix, "mlp.post_norm");
  if (config->gated)
    {
      add_linear (self, bias, hidden, d, "%s.mlp.gate_proj", prefix);
      add_linear (self, bias, hidden, d, "%s.mlp.up_proj", prefix);
      add_linear (self, bias, d, hidden, "%s.mlp.down_proj", prefix);
    }
  else
    {
      add_linear (self, bias, hidden, d, "%s.mlp.main.0", prefix);
      add_linear (self, bias, d, hidden, "%s.mlp.main.2", prefix);
    }
}

/* The layers, and the product that begins as 0 so that a flow starts as the identity but for its shift. */
static void
add_transformer (NfParameters *self, const NfConfig *config, const char *block, guint K, guint d, guint n_out)
{
  for (guint l = 0; l < K; l++)
    add_layer (self, config, block, l, d);
  if (config->final_norm)
    add_norm (self, TRUE, d, block, "final_norm");
  add (self, NF_PARAMETER_ZERO, 0, n_out, d, 0, "%s.proj_out.weight", block);
  mark_matrix (self);
  add (self, NF_PARAMETER_BIAS, d, n_out, 0, 0, "%s.proj_out.bias", block);
}

static void
add_block (NfParameters *self, const NfConfig *config, guint t)
{
  g_autofree char *block = g_strdup_printf ("blocks.%u", t);
  const guint D = nf_config_features (config), d = nf_config_width (config, t);

  if (config->sos)
    add (self, NF_PARAMETER_NORMAL, 0, 1, 1, D, "%s.sos_embed", block);
  add_linear (self, TRUE, d, D, "%s.proj_in", block);
  if (!config->rope)
    add (self, NF_PARAMETER_EMBEDDING, 0, nf_config_tokens (config), d, 0, "%s.pos_embed", block);
  if (config->frame_positions && t + 1 == config->n_blocks)
    add (self, NF_PARAMETER_EMBEDDING, 0, nf_config_tokens (config), d, 0, "%s.frame_embed", block);
  if (config->n_classes > 0)
    add (self, NF_PARAMETER_EMBEDDING, 0, config->n_classes, 1, d, "%s.class_embed", block);
  if (nf_config_has_text (config, t))
    add_linear (self, TRUE, d, config->txt_dim, "%s.proj_txt", block);
  if (config->action_dim && t + 1 == config->n_blocks)
    add_linear (self, TRUE, d, config->action_dim, "%s.proj_action", block);
  add_transformer (self, config, block, nf_config_layers (config, t), d, config->nvp ? 2 * D : D);
}

/* Gives each parameter its place: matrices behind all others. */
static void
place (NfParameters *self)
{
  gsize at = 0;
  for (guint matrix = 0; matrix < 2; matrix++)
    {
      for (guint i = 0; i < self->list->len; i++)
        {
          NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
          if (parameter->matrix != (gboolean)matrix)
            continue;
          parameter->at = at;
          at += parameter->n;
        }
      if (!matrix)
        self->n_kept = at;
    }
}

NfParameters *
nf_parameters_new (const NfConfig *config)
{
  NfParameters *self = g_new0 (NfParameters, 1);
  const guint D = nf_config_features (config), d = config->width;

  self->list = g_array_new (FALSE, FALSE, sizeof (NfParameter));
  g_array_set_clear_func (self->list, parameter_clear);
  self->index = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint t = 0; t < config->n_blocks; t++)
    if (!nf_config_is_identity (config, t))
      add_block (self, config, t);
  if (config->denoiser_layers)
    {
      add_linear (self, TRUE, d, D, NF_DENOISER ".proj_in");
      if (config->denoiser_text && config->txt_size)
        add_linear (self, TRUE, d, config->txt_dim, NF_DENOISER ".proj_txt");
      add_transformer (self, config, NF_DENOISER, config->denoiser_layers, d, D);
    }
  place (self);
  return self;
}

void
nf_parameters_free (NfParameters *self)
{
  g_hash_table_unref (self->index);
  g_array_unref (self->list);
  g_free (self);
}

const NfParameter *
nf_parameters_lookup (const NfParameters *self, const char *name)
{
  const guint place = GPOINTER_TO_UINT (g_hash_table_lookup (self->index, name));
  return place ? &g_array_index (self->list, NfParameter, place - 1) : NULL;
}

const NfParameter *
nf_parameters_find (const NfParameters *self, gsize at)
{
  for (guint i = 0; i < self->list->len; i++)
    if (g_array_index (self->list, NfParameter, i).at == at)
      return &g_array_index (self->list, NfParameter, i);
  g_return_val_if_reached (NULL);
}

void
nf_parameters_list (const NfParameters *self, const float *theta, float *listed)
{
  for (guint i = 0; i < self->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
      memcpy (listed + parameter->listed, theta + parameter->at, parameter->n * sizeof *listed);
    }
}

void
nf_parameters_unlist (const NfParameters *self, const float *listed, float *theta)
{
  for (guint i = 0; i < self->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
      memcpy (theta + parameter->at, listed + parameter->listed, parameter->n * sizeof *listed);
    }
}

void
nf_parameters_initialise (const NfParameters *self, guint64 seed, float *theta)
{
  for (guint i = 0; i < self->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
      float *out = theta + parameter->at;
      const double bound = parameter->fan_in ? 1 / sqrt (parameter->fan_in) : 0;
      switch (parameter->kind)
        {
        case NF_PARAMETER_WEIGHT:
        case NF_PARAMETER_BIAS:
          for (gsize j = 0; j < parameter->n; j++)
            out[j] = (float)(bound * (2 * nf_random_uniform (seed, i, j) - 1));
          break;
        case NF_PARAMETER_EMBEDDING:
        case NF_PARAMETER_NORMAL:
          nf_random_normal (seed, i, parameter->n, parameter->kind == NF_PARAMETER_NORMAL ? 1 : 0.01, out);
          break;
        case NF_PARAMETER_ZERO:
        case NF_PARAMETER_ONE:
          for (gsize j = 0; j < parameter->n; j++)
            out[j] = parameter->kind == NF_PARAMETER_ONE ? 1.0f : 0.0f;
          break;
        }
    }
}
