/* normflow: a slow TARFlow in double precision. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-reference.h"
#include "nf-tensor-file.h"

#include <math.h>
#include <string.h>

#define NORM_EPS 1e-5

/* Parameters */

static void
parameter_free (gpointer data)
{
  NfReferenceParameter *parameter = data;
  g_free (parameter->name);
  g_free (parameter->value);
  g_free (parameter->gradient);
  g_free (parameter);
}

/* Takes NAME; sizes of 0 are no dimensions. */
static void
add (NfReference *self, char *name, guint64 d0, guint64 d1, guint64 d2)
{
  NfReferenceParameter *parameter = g_new0 (NfReferenceParameter, 1);
  parameter->name = name;
  parameter->n_dims = d2 ? 3 : d1 ? 2 : 1;
  parameter->dims[0] = d0;
  parameter->dims[1] = d1;
  parameter->dims[2] = d2;
  parameter->n = d0 * MAX (d1, 1) * MAX (d2, 1);
  parameter->value = g_new0 (double, parameter->n);
  parameter->gradient = g_new0 (double, parameter->n);
  g_ptr_array_add (self->parameters, parameter);
  g_hash_table_insert (self->index, name, parameter);
}

static void
add_pair (NfReference *self, const char *prefix, guint n_out, guint n_in)
{
  add (self, g_strconcat (prefix, ".weight", NULL), n_out, n_in, 0);
  add (self, g_strconcat (prefix, ".bias", NULL), n_out, 0, 0);
}

NfReference *
nf_reference_new (const NfConfig *config)
{
  NfReference *self = g_new0 (NfReference, 1);
  self->config = nf_config_copy (config);
  self->N = nf_config_tokens (config);
  self->D = nf_config_features (config);
  self->d = config->width;
  self->H = config->width / config->head_dim;
  self->hidden = config->expansion * config->width;
  self->T = config->n_blocks;
  self->K = config->n_layers;
  self->parameters = g_ptr_array_new_with_free_func (parameter_free);
  self->index = g_hash_table_new (g_str_hash, g_str_equal);
  self->variance = g_new (double, (gsize)self->N * self->D);
  for (gsize i = 0; i < (gsize)self->N * self->D; i++)
    self->variance[i] = 1;

  for (guint t = 0; t < self->T; t++)
    {
      const struct
      {
        const char *name;
        guint n_out, n_in;
      } parts[] = { { "attention.norm", self->d, 0 },        { "attention.qkv", 3 * self->d, self->d },
                    { "attention.proj", self->d, self->d },  { "mlp.norm", self->d, 0 },
                    { "mlp.main.0", self->hidden, self->d }, { "mlp.main.2", self->d, self->hidden } };
      g_autofree char *in = g_strdup_printf ("blocks.%u.proj_in", t),
                      *out = g_strdup_printf ("blocks.%u.proj_out", t);
      add_pair (self, in, self->d, self->D);
      add (self, g_strdup_printf ("blocks.%u.pos_embed", t), self->N, self->d, 0);
      if (config->n_classes > 0)
        add (self, g_strdup_printf ("blocks.%u.class_embed", t), config->n_classes, 1, self->d);
      for (guint k = 0; k < self->K; k++)
        for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
          {
            g_autofree char *name = g_strdup_printf ("blocks.%u.attn_blocks.%u.%s", t, k, parts[i].name);
            add_pair (self, name, parts[i].n_out, parts[i].n_in);
          }
      add_pair (self, out, config->nvp ? 2 * self->D : self->D, self->d);
    }
  return self;
}

void
nf_reference_free (NfReference *self)
{
  g_hash_table_unref (self->index);
  g_ptr_array_unref (self->parameters);
  nf_config_free (self->config);
  g_free (self->variance);
  g_free (self);
}

NfReferenceParameter *
nf_reference_parameter (NfReference *self, const char *name)
{
  NfReferenceParameter *parameter = g_hash_table_lookup (self->index, name);
  if (!parameter)
    g_error ("the reference has no parameter %s", name);
  return parameter;
}

void
nf_reference_fill (NfReference *self, NfReferenceLookup lookup, gpointer data)
{
  for (guint i = 0; i < self->parameters->len; i++)
    {
      NfReferenceParameter *parameter = self->parameters->pdata[i];
      const double *values = lookup (parameter->name, parameter->n, data);
      if (values)
        memcpy (parameter->value, values, parameter->n * sizeof *values);
    }
  const gsize n = (gsize)self->N * self->D;
  const double *variance = lookup ("var", n, data);
  if (variance)
    memcpy (self->variance, variance, n * sizeof *variance);
}

typedef struct
{
  NfTensorFile *file;
  double *values;
  GError *error;
} Reading;

static const double *
lookup_tensor (const char *name, gsize n, gpointer data)
{
  Reading *reading = data;
  const NfTensor *tensor = nf_tensor_file_lookup (reading->file, name);
  if (!tensor || tensor->n_elements != n)
    {
      if (!reading->error)
        g_set_error (&reading->error, NF_ERROR, NF_ERROR_CONFIG, "%s: %s is missing or has another size",
                     nf_tensor_file_get_path (reading->file), name);
      return NULL;
    }
  reading->values = g_renew (double, reading->values, n);
  nf_tensor_to_double (tensor, reading->values);
  return reading->values;
}

gboolean
nf_reference_read (NfReference *self, const char *path, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  Reading reading = { file, NULL, NULL };
  if (!file)
    return FALSE;
  nf_reference_fill (self, lookup_tensor, &reading);
  g_free (reading.values);
  if (reading.error)
    g_propagate_error (error, reading.error);
  return !reading.error;
}

void
nf_reference_randomise (NfReference *self, guint64 seed, double scale)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed ((guint32)seed);
  for (guint i = 0; i < self->parameters->len; i++)
    {
      NfReferenceParameter *parameter = self->parameters->pdata[i];
      const gboolean norm = strstr (parameter->name, "norm.") != NULL;
      const double middle = norm && g_str_has_suffix (parameter->name, ".weight") ? 1 : 0;
      double spread = parameter->n_dims == 2 ? sqrt (3.0 / (double)parameter->dims[1]) : 0.2;
      if (strstr (parameter->name, "proj_out"))
        spread = parameter->n_dims == 2 ? scale * sqrt (3.0 / (double)parameter->dims[1]) : 0.5 * scale;
      else if (strstr (parameter->name, "_embed"))
        spread = 0.5;
      for (gsize j = 0; j < parameter->n; j++)
        parameter->value[j] = (double)(float)(middle + spread * g_rand_double_range (rand, -1, 1));
    }
  if (!self->config->nvp)
    for (gsize i = 0; i < (gsize)self->N * self->D; i++)
      self->variance[i] = (double)(float)g_rand_double_range (rand, 0.5, 2);
}

gboolean
nf_reference_write (NfReference *self, const char *path, GError **error)
{
  const guint n = self->parameters->len;
  g_autoptr (GPtrArray) owned = g_ptr_array_new_with_free_func (g_free);
  g_autofree NfTensor *tensors = g_new0 (NfTensor, n + 1);

  for (guint i = 0; i <= n; i++)
    {
      const NfReferenceParameter *parameter = i < n ? self->parameters->pdata[i] : NULL;
      const gsize count = parameter ? parameter->n : (gsize)self->N * self->D;
      float *values = g_new (float, count);
      for (gsize j = 0; j < count; j++)
        values[j] = (float)(parameter ? parameter->value[j] : self->variance[j]);
      g_ptr_array_add (owned, values);
      tensors[i] = (NfTensor){ .name = parameter ? parameter->name : (char *)"var",
                               .dtype = NF_DTYPE_F32,
                               .n_dims = parameter ? parameter->n_dims : 2,
                               .dims = { self->N, self->D },
                               .n_elements = count,
                               .data = (const guint8 *)values };
      if (parameter)
        memcpy (tensors[i].dims, parameter->dims, sizeof parameter->dims);
    }
  g_autoptr (GHashTable) metadata = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, g_free);
  g_hash_table_insert (metadata, (gpointer) "config", nf_config_to_json (self->config));
  return nf_tensor_file_write (path, tensors, n + 1, metadata, error);
}

/* Layers, forward and backward. Backward functions add to what they are given. */

typedef struct
{
  const NfReferenceParameter *w, *b;
} Pair;

/* y = W x + b; W (n_out, n_in). */
static void
linear (Pair layer, const double *x, double *y)
{
  const gsize n_out = layer.w->dims[0], n_in = layer.w->dims[1];
  for (gsize i = 0; i < n_out; i++)
    {
      const double *w = layer.w->value + i * n_in;
      double sum = layer.b->value[i];
      for (gsize j = 0; j < n_in; j++)
        sum += w[j] * x[j];
      y[i] = sum;
    }
}

static void
linear_backward (Pair layer, const double *x, const double *dy, double *dx)
{
  const gsize n_out = layer.w->dims[0], n_in = layer.w->dims[1];
  for (gsize i = 0; i < n_out; i++)
    {
      const double *w = layer.w->value + i * n_in;
      double *dw = layer.w->gradient + i * n_in;
      layer.b->gradient[i] += dy[i];
      for (gsize j = 0; j < n_in; j++)
        {
          dw[j] += dy[i] * x[j];
          dx[j] += dy[i] * w[j];
        }
    }
}

/* Mean of x and 1/sqrt(its variance + eps). */
static void
norm_moments (const double *x, gsize n, double *mean, double *scale)
{
  double sum = 0, square = 0;
  for (gsize i = 0; i < n; i++)
    sum += x[i];
  *mean = sum / (double)n;
  for (gsize i = 0; i < n; i++)
    square += (x[i] - *mean) * (x[i] - *mean);
  *scale = 1 / sqrt (square / (double)n + NORM_EPS);
}

static void
norm (Pair layer, const double *x, double *y)
{
  double mean, scale;
  norm_moments (x, layer.w->n, &mean, &scale);
  for (gsize i = 0; i < layer.w->n; i++)
    y[i] = (x[i] - mean) * scale * layer.w->value[i] + layer.b->value[i];
}

static void
norm_backward (Pair layer, const double *x, const double *dy, double *dx)
{
  const gsize n = layer.w->n;
  double mean, scale, sum = 0, along = 0;
  norm_moments (x, n, &mean, &scale);
  for (gsize i = 0; i < n; i++)
    {
      const double unit = (x[i] - mean) * scale, d = dy[i] * layer.w->value[i];
      layer.w->gradient[i] += dy[i] * unit;
      layer.b->gradient[i] += dy[i];
      sum += d;
      along += d * unit;
    }
  for (gsize i = 0; i < n; i++)
    {
      const double unit = (x[i] - mean) * scale, d = dy[i] * layer.w->value[i];
      dx[i] += scale * (d - sum / (double)n - unit * along / (double)n);
    }
}

static double
gelu (double x)
{
  return 0.5 * x * erfc (-x * G_SQRT2 / 2);
}

static double
gelu_slope (double x)
{
  return 0.5 * erfc (-x * G_SQRT2 / 2) + x * exp (-0.5 * x * x) / sqrt (2 * G_PI);
}

/* The network of a block: what it computes for the tokens of one sample, in block order. */

typedef struct
{
  Pair attention_norm, qkv, proj, mlp_norm, fc1, fc2;
  double *in;          /* (N, d) */
  double *normed1;     /* (N, d) */
  double *heads;       /* (N, 3d): queries, keys, values */
  double *weights;     /* (H, N, N): softmax */
  double *mixed;       /* (N, d) */
  double *middle;      /* (N, d) */
  double *normed2;     /* (N, d) */
  double *before_gelu; /* (N, hidden) */
  double *after_gelu;  /* (N, hidden) */
} Layer;

typedef struct
{
  const NfReference *reference;
  gboolean flip;
  Pair in, out;
  const NfReferenceParameter *position, *classes; /* classes: NULL if there are none */
  Layer *layers;                                  /* K */
  double *last;                                   /* (N, d) */
  double *o;                                      /* (N, 2D) or (N, D) */
  gsize n_out;
} Network;

static Pair
find_pair (const NfReference *self, guint t, int k, const char *name)
{
  g_autofree char *prefix = k < 0 ? g_strdup_printf ("blocks.%u.%s", t, name)
                                  : g_strdup_printf ("blocks.%u.attn_blocks.%d.%s", t, k, name);
  g_autofree char *weight = g_strconcat (prefix, ".weight", NULL),
                  *bias = g_strconcat (prefix, ".bias", NULL);
  return (Pair){ g_hash_table_lookup (self->index, weight), g_hash_table_lookup (self->index, bias) };
}

static Network *
network_new (const NfReference *self, guint t)
{
  const gsize N = self->N, d = self->d;
  g_autofree char *position = g_strdup_printf ("blocks.%u.pos_embed", t),
                  *classes = g_strdup_printf ("blocks.%u.class_embed", t);
  Network *net = g_new0 (Network, 1);

  net->reference = self;
  net->flip = t % 2 == 1;
  net->in = find_pair (self, t, -1, "proj_in");
  net->out = find_pair (self, t, -1, "proj_out");
  net->position = g_hash_table_lookup (self->index, position);
  net->classes = g_hash_table_lookup (self->index, classes);
  net->n_out = net->out.b->n;
  net->last = g_new0 (double, N *d);
  net->o = g_new0 (double, N * net->n_out);
  net->layers = g_new0 (Layer, self->K);
  for (guint k = 0; k < self->K; k++)
    net->layers[k] = (Layer){
      .attention_norm = find_pair (self, t, (int)k, "attention.norm"),
      .qkv = find_pair (self, t, (int)k, "attention.qkv"),
      .proj = find_pair (self, t, (int)k, "attention.proj"),
      .mlp_norm = find_pair (self, t, (int)k, "mlp.norm"),
      .fc1 = find_pair (self, t, (int)k, "mlp.main.0"),
      .fc2 = find_pair (self, t, (int)k, "mlp.main.2"),
      .in = g_new0 (double, N *d),
      .normed1 = g_new0 (double, N *d),
      .heads = g_new0 (double, 3 * N * d),
      .weights = g_new0 (double, self->H *N *N),
      .mixed = g_new0 (double, N *d),
      .middle = g_new0 (double, N *d),
      .normed2 = g_new0 (double, N *d),
      .before_gelu = g_new0 (double, N * self->hidden),
      .after_gelu = g_new0 (double, N * self->hidden),
    };
  return net;
}

static void
network_free (Network *net)
{
  for (guint k = 0; k < net->reference->K; k++)
    {
      Layer *layer = &net->layers[k];
      double *arrays[] = { layer->in,     layer->normed1, layer->heads,       layer->weights,   layer->mixed,
                           layer->middle, layer->normed2, layer->before_gelu, layer->after_gelu };
      for (guint i = 0; i < G_N_ELEMENTS (arrays); i++)
        g_free (arrays[i]);
    }
  g_free (net->layers);
  g_free (net->last);
  g_free (net->o);
  g_free (net);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Network, network_free)

/* Where token n of the block's order lies in the image. */
static gsize
place (const Network *net, gsize n)
{
  return net->flip ? net->reference->N - 1 - n : n;
}

/* Attention of token n to itself and all before it. */
static void
attend (const NfReference *self, Layer *layer, gsize n, double temperature)
{
  const gsize N = self->N, d = self->d, size = self->config->head_dim;
  for (gsize h = 0; h < self->H; h++)
    {
      const double *query = layer->heads + n * 3 * d + h * size;
      double *weights = layer->weights + (h * N + n) * N, highest = -INFINITY, sum = 0;
      for (gsize m = 0; m <= n; m++)
        {
          const double *key = layer->heads + m * 3 * d + d + h * size;
          double product = 0;
          for (gsize i = 0; i < size; i++)
            product += query[i] * key[i];
          weights[m] = product / sqrt ((double)size) / temperature;
          highest = MAX (highest, weights[m]);
        }
      for (gsize m = 0; m <= n; m++)
        sum += weights[m] = exp (weights[m] - highest);
      for (gsize i = 0; i < size; i++)
        layer->mixed[n * d + h * size + i] = 0;
      for (gsize m = 0; m <= n; m++)
        {
          const double *value = layer->heads + m * 3 * d + 2 * d + h * size;
          weights[m] /= sum;
          for (gsize i = 0; i < size; i++)
            layer->mixed[n * d + h * size + i] += weights[m] * value[i];
        }
    }
}

/* Token n (its D features U) goes through; net->o[n] says alpha and mu of token n + 1. All tokens before it
 * must have gone through with the same label and temperature. */
static void
network_token (Network *net, gsize n, const double *u, gint label, double temperature)
{
  const NfReference *self = net->reference;
  const gsize d = self->d, hidden = self->hidden;
  double *h = self->K > 0 ? net->layers[0].in + n * d : net->last + n * d;

  linear (net->in, u, h);
  for (gsize i = 0; i < d; i++)
    h[i] += net->position->value[place (net, n) * d + i];
  if (net->classes)
    {
      const gsize n_classes = net->classes->dims[0];
      for (gsize c = 0; c < n_classes; c++)
        for (gsize i = 0; i < d; i++)
          if (label < 0)
            h[i] += net->classes->value[c * d + i] / (double)n_classes;
          else if (c == (gsize)label)
            h[i] += net->classes->value[c * d + i];
    }
  for (guint k = 0; k < self->K; k++)
    {
      Layer *layer = &net->layers[k];
      double *in = layer->in + n * d, *middle = layer->middle + n * d,
             *out = k + 1 < self->K ? net->layers[k + 1].in + n * d : net->last + n * d;
      norm (layer->attention_norm, in, layer->normed1 + n * d);
      linear (layer->qkv, layer->normed1 + n * d, layer->heads + n * 3 * d);
      attend (self, layer, n, temperature);
      linear (layer->proj, layer->mixed + n * d, middle);
      for (gsize i = 0; i < d; i++)
        middle[i] += in[i];
      norm (layer->mlp_norm, middle, layer->normed2 + n * d);
      linear (layer->fc1, layer->normed2 + n * d, layer->before_gelu + n * hidden);
      for (gsize i = 0; i < hidden; i++)
        layer->after_gelu[n * hidden + i] = gelu (layer->before_gelu[n * hidden + i]);
      linear (layer->fc2, layer->after_gelu + n * hidden, out);
      for (gsize i = 0; i < d; i++)
        out[i] += middle[i];
    }
  linear (net->out, net->last + n * d, net->o + n * net->n_out);
}

/* What the network says of token n's feature f, and what becomes of it. */
static double
raw_alpha_of (const Network *net, gsize n, gsize f)
{
  return n > 0 && net->reference->config->nvp ? net->o[(n - 1) * net->n_out + f] : 0;
}

static double
limit (const Network *net, double alpha)
{
  const double most = net->reference->config->max_log_scale;
  return most > 0 ? fmax (fmin (alpha, most), NF_LEAST_LOG_SCALE) : alpha;
}

static double
alpha_of (const Network *net, gsize n, gsize f)
{
  return limit (net, raw_alpha_of (net, n, f));
}

static double
mu_of (const Network *net, gsize n, gsize f)
{
  const gsize at = net->reference->config->nvp ? net->reference->D + f : f;
  return n > 0 ? net->o[(n - 1) * net->n_out + at] : 0;
}

/* z and what is added to log_det (N), of the tokens u of one sample, in the image's order. */
static void
network_forward (Network *net, const double *u, gint label, double *z, double *log_det)
{
  const gsize N = net->reference->N, D = net->reference->D;
  for (gsize n = 0; n < N; n++)
    {
      const gsize at = place (net, n);
      network_token (net, n, u + at * D, label, 1);
      for (gsize f = 0; f < D; f++)
        {
          const double alpha = alpha_of (net, n, f);
          z[at * D + f] = (u[at * D + f] - mu_of (net, n, f)) * exp (-alpha);
          log_det[at] -= alpha;
        }
    }
}

/* Attention backward: dmixed (N, d) into dheads (N, 3d). */
static void
attend_backward (const NfReference *self, const Layer *layer, const double *dmixed, double *dheads)
{
  const gsize N = self->N, d = self->d, size = self->config->head_dim;
  g_autofree double *dweights = g_new (double, N);
  for (gsize h = 0; h < self->H; h++)
    for (gsize n = 0; n < N; n++)
      {
        const double *weights = layer->weights + (h * N + n) * N, *dm = dmixed + n * d + h * size;
        const double *query = layer->heads + n * 3 * d + h * size;
        double *dquery = dheads + n * 3 * d + h * size, mean = 0;
        for (gsize m = 0; m <= n; m++)
          {
            const double *value = layer->heads + m * 3 * d + 2 * d + h * size;
            double *dvalue = dheads + m * 3 * d + 2 * d + h * size;
            dweights[m] = 0;
            for (gsize i = 0; i < size; i++)
              {
                dweights[m] += dm[i] * value[i];
                dvalue[i] += dm[i] * weights[m];
              }
            mean += dweights[m] * weights[m];
          }
        for (gsize m = 0; m <= n; m++)
          {
            const double *key = layer->heads + m * 3 * d + d + h * size;
            double *dkey = dheads + m * 3 * d + d + h * size;
            const double slope = weights[m] * (dweights[m] - mean) / sqrt ((double)size);
            for (gsize i = 0; i < size; i++)
              {
                dquery[i] += slope * key[i];
                dkey[i] += slope * query[i];
              }
          }
      }
}

/* Backward through layer: DOUT (N, d) becomes the gradient of its input. */
static void
layer_backward (const NfReference *self, const Layer *layer, double *dout)
{
  const gsize N = self->N, d = self->d, hidden = self->hidden;
  g_autofree double *dhidden = g_new (double, hidden), *dnormed = g_new (double, d),
                    *dmixed = g_new0 (double, N *d), *dheads = g_new0 (double, 3 * N * d);

  /* the residual connection keeps dout as it is; what comes through the branch is added */
  for (gsize n = 0; n < N; n++)
    {
      memset (dhidden, 0, hidden * sizeof *dhidden);
      memset (dnormed, 0, d * sizeof *dnormed);
      linear_backward (layer->fc2, layer->after_gelu + n * hidden, dout + n * d, dhidden);
      for (gsize i = 0; i < hidden; i++)
        dhidden[i] *= gelu_slope (layer->before_gelu[n * hidden + i]);
      linear_backward (layer->fc1, layer->normed2 + n * d, dhidden, dnormed);
      norm_backward (layer->mlp_norm, layer->middle + n * d, dnormed, dout + n * d);
      linear_backward (layer->proj, layer->mixed + n * d, dout + n * d, dmixed + n * d);
    }
  attend_backward (self, layer, dmixed, dheads);
  for (gsize n = 0; n < N; n++)
    {
      memset (dnormed, 0, d * sizeof *dnormed);
      linear_backward (layer->qkv, layer->normed1 + n * d, dheads + n * 3 * d, dnormed);
      norm_backward (layer->attention_norm, layer->in + n * d, dnormed, dout + n * d);
    }
}

/* du (N, D), overwritten, of dz, for a loss that also holds -g times the log-determinant; after
 * network_forward() of the same u. */
static void
network_backward (Network *net, const double *u, gint label, const double *dz, double g, double *du)
{
  const NfReference *self = net->reference;
  const gsize N = self->N, D = self->D, d = self->d;
  const gboolean nvp = self->config->nvp;
  g_autofree double *d_o = g_new0 (double, N * net->n_out), *dh = g_new0 (double, N *d);

  for (gsize n = 0; n < N; n++)
    for (gsize f = 0; f < D; f++)
      {
        const gsize at = place (net, n) * D + f;
        const double alpha = alpha_of (net, n, f), scale = exp (-alpha);
        du[at] = dz[at] * scale;
        if (n == 0)
          continue;
        d_o[(n - 1) * net->n_out + (nvp ? D + f : f)] = -dz[at] * scale;
        if (nvp && alpha == raw_alpha_of (net, n, f))
          d_o[(n - 1) * net->n_out + f] = -dz[at] * (u[at] - mu_of (net, n, f)) * scale + g;
      }
  for (gsize n = 0; n < N; n++)
    linear_backward (net->out, net->last + n * d, d_o + n * net->n_out, dh + n * d);
  for (guint k = self->K; k-- > 0;)
    layer_backward (self, &net->layers[k], dh);
  for (gsize n = 0; n < N; n++)
    {
      const gsize at = place (net, n);
      linear_backward (net->in, u + at * D, dh + n * d, du + at * D);
      for (gsize i = 0; i < d; i++)
        net->position->gradient[at * d + i] += dh[n * d + i];
      for (gsize c = 0; net->classes && c < net->classes->dims[0]; c++)
        for (gsize i = 0; i < d; i++)
          if (label < 0)
            net->classes->gradient[c * d + i] += dh[n * d + i] / (double)net->classes->dims[0];
          else if (c == (gsize)label)
            net->classes->gradient[c * d + i] += dh[n * d + i];
    }
}

/* The flow */

void
nf_reference_encode (NfReference *self, const double *x, guint B, const gint *labels, double *z,
                     double *blocks, double *log_det)
{
  const gsize N = self->N, n = N * self->D;
  g_autofree double *u = g_new (double, n), *own = g_new (double, N);

  if (z != x)
    memcpy (z, x, B * n * sizeof *z);
  if (log_det)
    memset (log_det, 0, B * N * sizeof *log_det);
  for (guint t = 0; t < self->T; t++)
    {
      g_autoptr (Network) net = network_new (self, t);
      for (guint b = 0; b < B; b++)
        {
          memcpy (u, z + b * n, n * sizeof *u);
          network_forward (net, u, labels ? labels[b] : -1, z + b * n, log_det ? log_det + b * N : own);
        }
      if (blocks)
        memcpy (blocks + t * B * n, z, B * n * sizeof *z);
    }
}

void
nf_reference_decode (NfReference *self, const double *z, guint B, const gint *labels,
                     const NfDecodeOptions *options, double *x)
{
  const NfDecodeOptions plain = { 0 }, *o = options ? options : &plain;
  const gsize N = self->N, D = self->D;
  const guint guide = o->guide ? o->guide : NF_GUIDE_SCALE | NF_GUIDE_SHIFT;
  const double temperature = o->attention_temperature > 0 ? o->attention_temperature : 1;

  for (gsize i = 0; i < B * N * D; i++)
    x[i] = z[i] * sqrt (self->variance[i % (N * D)]);
  for (guint t = self->T; t-- > 0;)
    {
      g_autoptr (Network) net = network_new (self, t);
      g_autoptr (Network) unguided = network_new (self, t);
      for (guint b = 0; b < B; b++)
        for (gsize n = 0; n + 1 < N; n++)
          {
            const double *token = x + (b * N + place (net, n)) * D;
            double *next = x + (b * N + place (net, n + 1)) * D;
            const double w = o->guidance * (o->annealed ? (double)(n + 1) / (double)(N - 1) : 1);
            network_token (net, n, token, labels ? labels[b] : -1, 1);
            if (o->guidance != 0)
              network_token (unguided, n, token, -1, temperature);
            for (gsize f = 0; f < D; f++)
              {
                double alpha = raw_alpha_of (net, n + 1, f), mu = mu_of (net, n + 1, f);
                if (o->guidance != 0 && guide & NF_GUIDE_SCALE)
                  alpha += w * (alpha - raw_alpha_of (unguided, n + 1, f));
                if (o->guidance != 0 && guide & NF_GUIDE_SHIFT)
                  mu += w * (mu - mu_of (unguided, n + 1, f));
                next[f] = next[f] * exp (limit (net, alpha)) + mu;
              }
          }
    }
}

/* L = g (sum of z²/2 - sum of the log-determinants) and its gradients. */
static double
scaled_gradients (NfReference *self, const double *x, guint B, const gint *labels, double g, double *grad_x)
{
  const gsize N = self->N, n = N * self->D;
  g_autofree double *dz = g_new (double, n), *du = g_new (double, n), *log_det = g_new0 (double, N),
                    *values = g_new (double, (self->T + 1) * n);
  g_autoptr (GPtrArray) nets = g_ptr_array_new_with_free_func ((GDestroyNotify)network_free);
  double sum = 0;

  for (guint i = 0; i < self->parameters->len; i++)
    {
      NfReferenceParameter *parameter = self->parameters->pdata[i];
      memset (parameter->gradient, 0, parameter->n * sizeof (double));
    }
  for (guint t = 0; t < self->T; t++)
    g_ptr_array_add (nets, network_new (self, t));
  for (guint b = 0; b < B; b++)
    {
      const gint label = labels ? labels[b] : -1;
      const double *z = values + self->T * n;
      memcpy (values, x + b * n, n * sizeof *values);
      for (guint t = 0; t < self->T; t++)
        network_forward (nets->pdata[t], values + t * n, label, values + (t + 1) * n, log_det);
      for (gsize i = 0; i < n; i++)
        {
          sum += 0.5 * z[i] * z[i];
          dz[i] = g * z[i];
        }
      for (guint t = self->T; t-- > 0;)
        {
          network_backward (nets->pdata[t], values + t * n, label, dz, g, du);
          memcpy (dz, du, n * sizeof *dz);
        }
      if (grad_x)
        memcpy (grad_x + b * n, dz, n * sizeof *dz);
    }
  for (gsize i = 0; i < N; i++)
    sum -= log_det[i];
  return g * sum;
}

double
nf_reference_gradients (NfReference *self, const double *x, guint B, const gint *labels, double *grad_x)
{
  return scaled_gradients (self, x, B, labels, 1.0 / ((double)B * self->N * self->D), grad_x);
}

void
nf_reference_denoise (NfReference *self, const double *y, guint B, const gint *labels, double sigma,
                      double *x)
{
  const gsize n = (gsize)B * self->N * self->D;
  g_autofree double *gradient = g_new (double, n);
  scaled_gradients (self, y, B, labels, 1, gradient);
  for (gsize i = 0; i < n; i++)
    x[i] = y[i] - sigma * sigma * gradient[i];
}

/* Place of element i of the tokens among those of the images. */
static gsize
pixel_of (const NfReference *self, gsize i)
{
  const gsize S = self->config->img_size, p = self->config->patch_size, C = self->config->channels;
  const gsize f = i % self->D, n = i / self->D % self->N, b = i / self->D / self->N;
  const gsize c = f / (p * p), y = n / (S / p) * p + f / p % p, x = n % (S / p) * p + f % p;
  return ((b * C + c) * S + y) * S + x;
}

void
nf_reference_patchify (const NfReference *self, const double *images, guint B, double *tokens)
{
  for (gsize i = 0; i < (gsize)B * self->N * self->D; i++)
    tokens[i] = images[pixel_of (self, i)];
}

void
nf_reference_unpatchify (const NfReference *self, const double *tokens, guint B, double *images)
{
  for (gsize i = 0; i < (gsize)B * self->N * self->D; i++)
    images[pixel_of (self, i)] = tokens[i];
}

double
nf_reference_error (const double *a, const double *b, gsize n)
{
  double difference = 0, size = 0;
  for (gsize i = 0; i < n; i++)
    {
      if (!isfinite (a[i]) || !isfinite (b[i]))
        return (double)INFINITY;
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      size += b[i] * b[i];
    }
  return difference == 0 ? 0 : sqrt (difference / size);
}
