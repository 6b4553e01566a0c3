/* normflow verify: a model's numbers against expected ones. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "nf-device-private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Largest relative errors that pass. */
typedef struct
{
  double tokens; /* what the flow makes of tokens, block by block */
  double sums;   /* log-scales, log-determinants, losses */
  double others; /* samples, gradients, denoised ones */
} Tolerances;

static const Tolerances of_floats = { 1e-5, 1e-5, 1e-4 };

/* In bfloat16 values have eight bits: errors of the official cases are up to 0.0044, 0.029 (sums that nearly
 * cancel) and 0.086 (guided samples). */
static const Tolerances of_bf16 = { 1e-2, 5e-2, 1e-1 };

/* Integers of eight bits are multiples of 1/127 of the largest weight: 0.011, 0.05 and 0.13. */
static const Tolerances of_int8 = { 3e-2, 1e-1, 2e-1 };

#define DEFAULT_SIGMA 0.05
#define SIGMA_KEY "denoise_noise_std"
#define MAX_BATCH 65536

/* Everything expected, and what was computed so far: quantities come in groups that one call computes. */
typedef struct
{
  NfSession *session;
  NfConfig *config; /* of the model, for samples of the size of input.x */
  NfTensorFile *file;
  double tolerance;      /* 0: each quantity's own */
  const Tolerances *own; /* of the device's precision */
  gboolean trainable;    /* whether it has gradients of parameters */
  NfDecodeMethod method;

  gsize N, D; /* tokens of a sample, all frames of it */
  guint frames;
  guint B;      /* samples of input.x */
  float *x;     /* tokens; NULL if there is no input.x */
  gint *labels; /* NULL if there is no input.y */
  guint n_labels;
  float *noise; /* tokens of sample.noise; NULL if there is none */
  guint n_noise;
  float *text, *null_text; /* NULL if there is none */
  guint n_text, n_null_text;
  double sigma;

  float *z, *blocks, *log_det, *log_scales;
  float *grad_x, *gradients;
  double loss;
  float *learned; /* the denoiser's output */
  float *target, *denoiser_gradients;
  double trained_sigma, denoiser_loss; /* what these two are of */

  guint passed, failed, skipped;
} Verify;

static void
verify_clear (Verify *self)
{
  g_clear_object (&self->session);
  g_clear_object (&self->file);
  g_clear_pointer (&self->config, nf_config_free);
  g_free (self->text);
  g_free (self->null_text);
  g_free (self->log_scales);
  g_free (self->learned);
  g_free (self->target);
  g_free (self->denoiser_gradients);
  g_free (self->x);
  g_free (self->labels);
  g_free (self->noise);
  g_free (self->z);
  g_free (self->blocks);
  g_free (self->log_det);
  g_free (self->grad_x);
  g_free (self->gradients);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Verify, verify_clear)

/* Tensors of the file */

static char *
describe (const NfTensor *tensor)
{
  g_autofree char *shape = nf_shape_to_text (tensor->n_dims, tensor->dims);
  return g_strdup_printf ("%s %s", nf_dtype_name (tensor->dtype), shape);
}

static gboolean
has_shape (const NfTensor *tensor, guint n_dims, const guint64 *dims)
{
  return tensor->n_dims == n_dims && memcmp (tensor->dims, dims, n_dims * sizeof *dims) == 0;
}

/* TRUE if it is of tokens of COUNT samples: (count, N, D), or with rows and columns, and frames, spelt out.
 */
static gboolean
is_tokens (const Verify *self, const NfTensor *tensor, guint64 count)
{
  const guint64 h = nf_config_rows (self->config) / self->config->patch_size,
                w = nf_config_columns (self->config) / self->config->patch_size, T = self->frames;
  return has_shape (tensor, 3, (const guint64[]){ count, self->N, self->D })
         || (self->config->frames ? has_shape (tensor, 4, (const guint64[]){ count, T, h * w, self->D })
                                        || has_shape (tensor, 5, (const guint64[]){ count, T, h, w, self->D })
                                  : has_shape (tensor, 4, (const guint64[]){ count, h, w, self->D }));
}

/* Chroma planes that are smaller than luma have no such form. */
static gboolean
is_images (const Verify *self, const NfTensor *tensor, guint64 count)
{
  const guint64 C = self->config->channels, h = nf_config_rows (self->config),
                w = nf_config_columns (self->config);
  if (self->config->layout == NF_PIXELS_YUV420)
    return FALSE;
  return self->config->frames ? has_shape (tensor, 5, (const guint64[]){ count, self->frames, C, h, w })
                              : has_shape (tensor, 4, (const guint64[]){ count, C, h, w });
}

static gboolean
is_float (const NfTensor *tensor)
{
  return tensor->dtype == NF_DTYPE_F32 || tensor->dtype == NF_DTYPE_F64;
}

/* Samples as tokens, from a tensor of tokens or images. */
static float *
read_samples (const Verify *self, const NfTensor *tensor, guint *count, GError **error)
{
  const guint64 B = tensor->n_dims ? tensor->dims[0] : 0;
  const gboolean images = is_images (self, tensor, B);
  if (!is_float (tensor) || B < 1 || B > MAX_BATCH || (!images && !is_tokens (self, tensor, B)))
    {
      g_autofree char *is = describe (tensor);
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "%s: %s is %s; this model needs F32 or F64 (B, %" G_GSIZE_FORMAT ", %" G_GSIZE_FORMAT
                   ")%s",
                   nf_tensor_file_get_path (self->file), tensor->name, is, self->N, self->D,
                   self->config->layout == NF_PIXELS_YUV420 ? "" : " or images of its size");
      return NULL;
    }
  float *tokens = g_new (float, tensor->n_elements);
  nf_tensor_to_float (tensor, tokens);
  for (guint64 i = 0; i < tensor->n_elements; i++)
    if (!isfinite (tokens[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: %s holds %g at element %" G_GUINT64_FORMAT,
                     nf_tensor_file_get_path (self->file), tensor->name, (double)tokens[i], i);
        g_free (tokens);
        return NULL;
      }
  if (images)
    {
      g_autofree float *pixels = g_steal_pointer (&tokens);
      tokens = g_new (float, tensor->n_elements);
      nf_patchify (self->config, pixels, (guint)B * self->frames, tokens);
    }
  *count = (guint)B;
  return tokens;
}

static gboolean
read_labels (Verify *self, GError **error)
{
  const NfTensor *tensor = nf_tensor_file_lookup (self->file, "input.y");
  if (!tensor)
    return TRUE;
  const char *path = nf_tensor_file_get_path (self->file);
  if ((tensor->dtype != NF_DTYPE_I64 && tensor->dtype != NF_DTYPE_I32) || tensor->n_dims != 1
      || tensor->n_elements < 1 || tensor->n_elements > MAX_BATCH)
    {
      g_autofree char *is = describe (tensor);
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: input.y is %s; classes are I64 (B)", path, is);
      return FALSE;
    }
  self->n_labels = (guint)tensor->n_elements;
  self->labels = g_new (gint, self->n_labels);
  g_autofree double *values = g_new (double, self->n_labels);
  nf_tensor_to_double (tensor, values);
  for (guint i = 0; i < self->n_labels; i++)
    {
      if (values[i] < -1 || values[i] >= nf_config_classes (self->config))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                       "%s: input.y holds class %.0f, the model has %u classes (-1 is none)", path, values[i],
                       nf_config_classes (self->config));
          return FALSE;
        }
      self->labels[i] = (gint)values[i];
    }
  return TRUE;
}

/* As many labels as samples. */
static gboolean
check_count (const Verify *self, const char *name, guint count, GError **error)
{
  if (!self->labels || self->n_labels == count)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: input.y names classes of %u samples, but %s holds %u",
               nf_tensor_file_get_path (self->file), self->n_labels, name, count);
  return FALSE;
}

/* A number without sign, infinity or hexadecimal digits; END is behind it. */
static gboolean
parse_number (const char *text, const char **end, double *value)
{
  char *stop;
  if (!g_ascii_isdigit (*text) && *text != '.')
    return FALSE;
  if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
    return FALSE;
  *value = g_ascii_strtod (text, &stop);
  *end = stop;
  return stop > text && isfinite (*value);
}

/* Samples may have another size than the configuration's: that of input.x, or else of sample.noise. */
static gboolean
read_size (Verify *self, const NfTensor *like, GError **error)
{
  const guint frames = self->config->frames ? 1 : 0;
  self->frames = nf_config_frames (self->config);
  if (self->config->family == NF_FAMILY_TARFLOW || !like || like->n_dims != 4 + frames)
    return TRUE;
  const guint64 *size = like->dims + like->n_dims - 2;
  if (size[0] < 1 || size[0] > 4096 || size[1] < 1 || size[1] > 4096 || like->dims[1] < 1
      || like->dims[1] > 65536)
    {
      g_autofree char *is = describe (like);
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: %s is %s, which is no size of samples",
                   nf_tensor_file_get_path (self->file), like->name, is);
      return FALSE;
    }
  self->config->rows = (guint)size[0];
  self->config->columns = (guint)size[1];
  if (frames)
    self->config->frames = self->frames = (guint)like->dims[1];
  return nf_session_set_size (self->session, self->config->rows, self->config->columns, self->config->frames,
                              error);
}

/* Text features NAME, (n, txt_size, txt_dim). */
static gboolean
read_text (Verify *self, const char *name, float **text, guint *n, GError **error)
{
  if (!nf_tensor_file_lookup (self->file, name))
    return TRUE;
  *text = nf_text_read (self->file, name, self->config, n, error);
  return *text != NULL;
}

static gboolean
read_inputs (Verify *self, GError **error)
{
  const NfTensor *x = nf_tensor_file_lookup (self->file, "input.x"),
                 *noise = nf_tensor_file_lookup (self->file, "sample.noise");
  const char *sigma = nf_tensor_file_get_metadata (self->file, SIGMA_KEY), *end;

  if (!read_size (self, x ? x : noise, error)
      || !read_text (self, "input.text", &self->text, &self->n_text, error)
      || !read_text (self, "sample.text_with_null", &self->null_text, &self->n_null_text, error))
    return FALSE;
  self->N = (gsize)nf_config_tokens (self->config) * self->frames;
  self->D = nf_config_features (self->config);
  self->sigma = DEFAULT_SIGMA;
  if (sigma && (!parse_number (sigma, &end, &self->sigma) || *end))
    {
      g_autofree char *shown = nf_shorten (sigma);
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: " SIGMA_KEY " \"%s\" in __metadata__ is not a number",
                   nf_tensor_file_get_path (self->file), shown);
      return FALSE;
    }
  if (!read_labels (self, error))
    return FALSE;
  if (x)
    {
      self->x = read_samples (self, x, &self->B, error);
      if (!self->x || !check_count (self, "input.x", self->B, error))
        return FALSE;
    }
  if (noise)
    {
      self->noise = read_samples (self, noise, &self->n_noise, error);
      if (!self->noise || !check_count (self, "sample.noise", self->n_noise, error))
        return FALSE;
    }
  return TRUE;
}

/* What a name asks for */

typedef enum
{
  WHAT_UNKNOWN,
  WHAT_INPUT,
  WHAT_Z,
  WHAT_PATCHES,
  WHAT_BLOCK,
  WHAT_LOG_DET,
  WHAT_LOG_SCALES,
  WHAT_LOSS,
  WHAT_LOSS_Z,
  WHAT_LOSS_LOG_DET,
  WHAT_GRADIENT_X,
  WHAT_GRADIENT,
  WHAT_DENOISE,
  WHAT_LEARNED,
  WHAT_LEARNED_STEP,
  WHAT_TARGET,
  WHAT_DENOISER_LOSS,
  WHAT_DENOISER_GRADIENT,
  WHAT_SAMPLE,
  WHAT_CONTINUE,
} What;

typedef struct
{
  What what;
  guint block;
  gsize offset, n; /* of a parameter */
  double sigma, sigma_next;
  NfDecodeOptions options;
} Quantity;

/* Parts of a sample's name in any order, each at most once: cfgW or guidW, tempT, what is guided (a, b, ab),
 * annealed. */
static gboolean
parse_sample (const char *name, NfDecodeOptions *options)
{
  g_auto (GStrv) parts = g_strsplit (name, "_", -1);
  gboolean guidance = FALSE, temperature = FALSE;

  *options = (NfDecodeOptions){ 0 };
  if (strcmp (name, "plain") == 0 || strcmp (name, "sequential") == 0)
    return TRUE;
  for (guint i = strcmp (parts[0], "sequential") == 0 ? 1 : 0; parts[i]; i++)
    {
      const char *part = parts[i], *end = part;
      if (g_str_has_prefix (part, "cfg") || g_str_has_prefix (part, "guid"))
        {
          part += *part == 'c' ? strlen ("cfg") : strlen ("guid");
          if (guidance || !parse_number (part, &end, &options->guidance) || *end)
            return FALSE;
          guidance = TRUE;
        }
      else if (g_str_has_prefix (part, "temp"))
        {
          part += strlen ("temp");
          if (temperature || !parse_number (part, &end, &options->attention_temperature) || *end
              || options->attention_temperature <= 0)
            return FALSE;
          temperature = TRUE;
        }
      else if (strcmp (part, "annealed") == 0 && !options->annealed)
        options->annealed = TRUE;
      else if (*part && strlen (part) == strspn (part, "ab") && !options->guide)
        options->guide
            = (strchr (part, 'a') ? NF_GUIDE_SCALE : 0) | (strchr (part, 'b') ? NF_GUIDE_SHIFT : 0);
      else
        return FALSE;
    }
  return guidance || temperature;
}

/* What follows "denoise.": of the learned denoiser. */
static gboolean
identify_learned (const Verify *self, const char *name, Quantity *quantity)
{
  static const char *const learned = "learned.x_sigma", *const train = "train.sigma";
  const char *end;
  if (strcmp (name, "learned.output") == 0)
    {
      quantity->what = WHAT_LEARNED;
      return TRUE;
    }
  if (g_str_has_prefix (name, learned))
    {
      quantity->what = WHAT_LEARNED_STEP;
      return parse_number (name + strlen (learned), &end, &quantity->sigma) && g_str_has_prefix (end, "_to")
             && parse_number (end + strlen ("_to"), &end, &quantity->sigma_next) && !*end;
    }
  if (!g_str_has_prefix (name, train))
    return FALSE;
  /* the number ends at the last dot that leaves one */
  const char *const tails[] = { ".target", ".loss", ".grad." };
  for (guint i = 0; i < G_N_ELEMENTS (tails); i++)
    {
      const char *tail = strstr (name, tails[i]);
      if (!tail)
        continue;
      g_autofree char *number = g_strndup (name + strlen (train), (gsize)(tail - name) - strlen (train));
      if (!parse_number (number, &end, &quantity->sigma) || *end)
        continue;
      tail += strlen (tails[i]);
      quantity->what = i == 0 ? WHAT_TARGET : i == 1 ? WHAT_DENOISER_LOSS : WHAT_DENOISER_GRADIENT;
      return i < 2 ? !*tail
                   : nf_model_get_parameter (nf_session_get_model (self->session), tail, &quantity->offset,
                                             &quantity->n);
    }
  return FALSE;
}

static gboolean
parse_block (const char *text, guint low, guint high, guint *block)
{
  guint64 value;
  if (!g_ascii_string_to_unsigned (text, 10, low, high, &value, NULL))
    return FALSE;
  *block = (guint)value;
  return TRUE;
}

static Quantity
identify (const Verify *self, const char *name)
{
  static const struct
  {
    const char *name;
    What what;
  } plain[] = {
    { "input.x", WHAT_INPUT },
    { "input.y", WHAT_INPUT },
    { "input.text", WHAT_INPUT },
    { "sample.noise", WHAT_INPUT },
    { "sample.text_with_null", WHAT_INPUT },
    { "forward.z", WHAT_Z },
    { "forward.output0", WHAT_PATCHES },
    { "forward.loss", WHAT_LOSS },
    { "forward.loss_z", WHAT_LOSS_Z },
    { "forward.loss_logdet", WHAT_LOSS_LOG_DET },
    { "forward.logdet_mean", WHAT_LOG_DET },
    { "grad.x", WHAT_GRADIENT_X },
    { "denoise.score.x", WHAT_DENOISE },
    { "continue.from_first_frame", WHAT_CONTINUE },
  };
  Quantity quantity = { .sigma = self->sigma };
  const char *end;

  for (guint i = 0; i < G_N_ELEMENTS (plain); i++)
    if (strcmp (name, plain[i].name) == 0)
      quantity.what = plain[i].what;
  if (quantity.what != WHAT_UNKNOWN)
    return quantity;

  const guint last = self->config->n_blocks - 1;
  if (g_str_has_prefix (name, "forward.block"))
    {
      if (parse_block (name + strlen ("forward.block"), 0, last, &quantity.block))
        quantity.what = WHAT_BLOCK;
    }
  else if (g_str_has_prefix (name, "forward.output"))
    {
      if (parse_block (name + strlen ("forward.output"), 1, last + 1, &quantity.block))
        {
          quantity.what = WHAT_BLOCK;
          quantity.block--;
        }
    }
  else if (g_str_has_prefix (name, "forward.logdet"))
    {
      if (parse_block (name + strlen ("forward.logdet"), 0, last, &quantity.block))
        quantity.what = WHAT_LOG_SCALES;
    }
  else if (g_str_has_prefix (name, "denoise.score.sigma"))
    {
      if (parse_number (name + strlen ("denoise.score.sigma"), &end, &quantity.sigma) && !*end)
        quantity.what = WHAT_DENOISE;
    }
  else if (g_str_has_prefix (name, "denoise."))
    {
      if (!identify_learned (self, name + strlen ("denoise."), &quantity))
        quantity.what = WHAT_UNKNOWN;
    }
  else if (g_str_has_prefix (name, "grad."))
    {
      if (nf_model_get_parameter (nf_session_get_model (self->session), name + strlen ("grad."),
                                  &quantity.offset, &quantity.n))
        quantity.what = WHAT_GRADIENT;
    }
  else if (g_str_has_prefix (name, "sample."))
    {
      if (parse_sample (name + strlen ("sample."), &quantity.options))
        quantity.what = WHAT_SAMPLE;
    }
  return quantity;
}

/* Computing */

/* The text of the samples, and what guidance sets against it. */
static gboolean
set_text (Verify *self, gboolean guided, GError **error)
{
  if (!self->config->txt_size)
    return TRUE;
  if (!guided || !self->null_text)
    {
      if (self->text)
        return nf_session_set_text (self->session, self->text, NULL, self->n_text, error);
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "%s: what is computed with text cannot be without input.text, which is missing",
                   nf_tensor_file_get_path (self->file));
      return FALSE;
    }
  if (self->n_null_text % 2 != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "%s: sample.text_with_null has %u rows; half of them are without caption",
                   nf_tensor_file_get_path (self->file), self->n_null_text);
      return FALSE;
    }
  const guint B = self->n_null_text / 2;
  return nf_session_set_text (self->session, self->null_text,
                              self->null_text + (gsize)B * self->config->txt_size * self->config->txt_dim, B,
                              error);
}

static gboolean
compute_forward (Verify *self, GError **error)
{
  const gsize n = (gsize)self->B * self->N * self->D, T = self->config->n_blocks;
  if (self->z)
    return TRUE;
  g_autofree float *z = g_try_new (float, n), *blocks = g_try_new (float, n *T),
                   *scales = g_try_new (float, n *T), *log_det = g_try_new (float, self->B * self->N);
  if (!z || !blocks || !scales || !log_det)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " latents", n);
      return FALSE;
    }
  const NfTrace trace = { .blocks = blocks, .log_scales = scales, .log_det = log_det };
  if (!set_text (self, FALSE, error)
      || !nf_session_encode_traced (self->session, self->x, self->B, self->labels, z, &trace, error))
    return FALSE;
  self->z = g_steal_pointer (&z);
  self->blocks = g_steal_pointer (&blocks);
  self->log_scales = g_steal_pointer (&scales);
  self->log_det = g_steal_pointer (&log_det);
  return TRUE;
}

static gboolean
compute_learned (Verify *self, GError **error)
{
  if (self->learned)
    return TRUE;
  g_autofree float *said = g_new (float, self->B * self->N * self->D);
  if (!set_text (self, FALSE, error)
      || !nf_session_predict_noise (self->session, self->x, self->B, said, error))
    return FALSE;
  self->learned = g_steal_pointer (&said);
  return TRUE;
}

static gboolean
compute_denoiser_gradients (Verify *self, double sigma, GError **error)
{
  if (self->target && self->trained_sigma == sigma)
    return TRUE;
  g_autofree float *target = g_new (float, self->B * self->N * self->D),
                   *gradients
                   = g_new (float, nf_model_count_parameters (nf_session_get_model (self->session)));
  if (!set_text (self, FALSE, error)
      || !nf_session_denoiser_gradients (self->session, self->x, self->B, sigma, target, &self->denoiser_loss,
                                         gradients, error))
    return FALSE;
  g_free (self->target);
  g_free (self->denoiser_gradients);
  self->target = g_steal_pointer (&target);
  self->denoiser_gradients = g_steal_pointer (&gradients);
  self->trained_sigma = sigma;
  return TRUE;
}

/* The loss and the gradient of x; those of parameters, too, if there are such, an error if PARAMETRIC and
 * there are none. */
static gboolean
compute_gradients (Verify *self, gboolean parametric, GError **error)
{
  const gsize n = (gsize)self->B * self->N * self->D;
  const guint64 parameters
      = self->trainable || parametric ? nf_model_count_parameters (nf_session_get_model (self->session)) : 0;
  if (self->gradients || (self->grad_x && !parametric))
    return TRUE;
  g_autofree float *grad_x = g_try_new (float, n),
                   *gradients = parameters ? g_try_new (float, parameters) : NULL;
  if (!grad_x || (parameters && !gradients))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GUINT64_FORMAT " gradients",
                   parameters);
      return FALSE;
    }
  if (!set_text (self, FALSE, error))
    return FALSE;
  if (!nf_session_gradients (self->session, self->x, self->B, self->labels, &self->loss, grad_x, gradients,
                             error))
    return FALSE;
  g_free (self->grad_x);
  self->grad_x = g_steal_pointer (&grad_x);
  self->gradients = g_steal_pointer (&gradients);
  return TRUE;
}

/* ‖a-b‖/‖b‖; infinite if a number is not finite. */
static double
relative_error (const double *a, const double *b, gsize n)
{
  double difference = 0, size = 0;
  for (gsize i = 0; i < n; i++)
    {
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      size += b[i] * b[i];
    }
  const double error = difference == 0 ? 0 : sqrt (difference / size);
  return isnan (error) ? (double)INFINITY : error;
}

static gboolean
refuse_shape (const Verify *self, const NfTensor *tensor, const char *wanted, GError **error)
{
  g_autofree char *is = describe (tensor);
  g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: %s is %s, not F32 or F64 %s",
               nf_tensor_file_get_path (self->file), tensor->name, is, wanted);
  return FALSE;
}

static gboolean
compare (const Verify *self, const NfTensor *tensor, const double *values, gsize n, double *relative,
         GError **error)
{
  if (!is_float (tensor) || tensor->n_elements != n)
    {
      g_autofree char *wanted = g_strdup_printf ("of %" G_GSIZE_FORMAT " elements", n);
      return refuse_shape (self, tensor, wanted, error);
    }
  g_autofree double *expected = g_try_new (double, n);
  if (!expected)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " numbers", n);
      return FALSE;
    }
  nf_tensor_to_double (tensor, expected);
  *relative = relative_error (values, expected, n);
  return TRUE;
}

static gboolean
compare_floats (const Verify *self, const NfTensor *tensor, const float *values, gsize n, double *relative,
                GError **error)
{
  g_autofree double *wide = g_try_new (double, n);
  if (!wide)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " numbers", n);
      return FALSE;
    }
  for (gsize i = 0; i < n; i++)
    wide[i] = (double)values[i];
  return compare (self, tensor, wide, n, relative, error);
}

/* TOKENS of COUNT samples, where images may be expected. */
static gboolean
compare_samples (const Verify *self, const NfTensor *tensor, const float *tokens, guint count,
                 double *relative, GError **error)
{
  const gsize n = (gsize)count * self->N * self->D;
  /* a shape may be both: files of STARFlow then have images */
  if (is_images (self, tensor, count))
    {
      g_autofree float *images = g_new (float, n);
      nf_unpatchify (self->config, tokens, count * self->frames, images);
      return compare_floats (self, tensor, images, n, relative, error);
    }
  if (!is_tokens (self, tensor, count))
    return refuse_shape (self, tensor, "tokens or images of its samples", error);
  return compare_floats (self, tensor, tokens, n, relative, error);
}

static gboolean
compare_tokens (const Verify *self, const NfTensor *tensor, const float *tokens, double *relative,
                GError **error)
{
  if (!is_tokens (self, tensor, self->B))
    return refuse_shape (self, tensor, "(B, N, D) of input.x", error);
  return compare_floats (self, tensor, tokens, tensor->n_elements, relative, error);
}

static gboolean
compare_log_det (const Verify *self, const NfTensor *tensor, double *relative, GError **error)
{
  if (!has_shape (tensor, 1, (const guint64[]){ self->B }))
    return refuse_shape (self, tensor, "(B) of input.x", error);
  g_autofree double *means = g_new0 (double, self->B);
  for (gsize i = 0; i < self->B * self->N; i++)
    means[i / self->N] += (double)self->log_det[i] / (double)(self->N * self->D);
  return compare (self, tensor, means, self->B, relative, error);
}

static gboolean
check_denoise (Verify *self, const NfTensor *tensor, double sigma, double *relative, GError **error)
{
  g_autofree float *x = g_new (float, (gsize)self->B * self->N * self->D);
  return set_text (self, FALSE, error)
         && nf_session_denoise (self->session, self->x, self->B, self->labels, sigma, x, error)
         && compare_samples (self, tensor, x, self->B, relative, error);
}

static gboolean
check_learned_step (Verify *self, const NfTensor *tensor, const Quantity *quantity, double *relative,
                    GError **error)
{
  g_autofree float *y = g_new (float, (gsize)self->B * self->N * self->D);
  return set_text (self, FALSE, error)
         && nf_session_denoise_learned (self->session, self->x, self->B, quantity->sigma,
                                        quantity->sigma_next, y, error)
         && compare_samples (self, tensor, y, self->B, relative, error);
}

static gboolean
check_sample (Verify *self, const NfTensor *tensor, const NfDecodeOptions *wanted, double *relative,
              GError **error)
{
  g_autofree float *x = g_new (float, (gsize)self->n_noise * self->N * self->D);
  NfDecodeOptions options = *wanted;
  options.method = self->method;
  return set_text (self, options.guidance != 0, error)
         && nf_session_decode (self->session, self->noise, self->n_noise, self->labels, &options, x, error)
         && compare_samples (self, tensor, x, self->n_noise, relative, error);
}

static gboolean
check_continue (Verify *self, const NfTensor *tensor, double *relative, GError **error)
{
  g_autofree float *y = g_new (float, (gsize)self->n_noise * self->N * self->D);
  const NfDecodeOptions options = { .method = self->method };
  if (self->B != self->n_noise)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: input.x holds %u samples, sample.noise %u",
                   nf_tensor_file_get_path (self->file), self->B, self->n_noise);
      return FALSE;
    }
  return set_text (self, FALSE, error)
         && nf_session_continue (self->session, self->x, self->B, 1, self->noise, &options, y, error)
         && compare_samples (self, tensor, y, self->B, relative, error);
}

/* The loss in its parts: half the mean square of z, and minus the mean log-determinant. */
static gboolean
check_loss_part (Verify *self, const NfTensor *tensor, gboolean of_z, double *relative, GError **error)
{
  const gsize n = (gsize)self->B * self->N;
  double sum = 0;
  if (!compute_forward (self, error))
    return FALSE;
  for (gsize i = 0; of_z && i < n * self->D; i++)
    sum += 0.5 * (double)self->z[i] * (double)self->z[i];
  for (gsize i = 0; !of_z && i < n; i++)
    sum -= (double)self->log_det[i];
  sum /= (double)(n * self->D);
  return compare (self, tensor, &sum, 1, relative, error);
}

/* Root of the mean square. */
static double
typical (const NfTensor *tensor)
{
  g_autofree double *values = g_try_new (double, tensor->n_elements);
  double sum = 0;
  if (!values || !is_float (tensor) || tensor->n_elements == 0)
    return 0;
  nf_tensor_to_double (tensor, values);
  for (gsize i = 0; i < tensor->n_elements; i++)
    sum += values[i] * values[i];
  return sqrt (sum / (double)tensor->n_elements);
}

/* A gradient that is far smaller than the others of its block is a sum that nearly cancels. What is rounded
 * to bfloat16 on the way leaves errors of the size of what was added up, which a tenth of the block's largest
 * gradient stands for. */
static double
share_of_block (const Verify *self, const NfTensor *tensor)
{
  const char *block = g_str_has_prefix (tensor->name, "grad.blocks.") ? tensor->name + 12 : NULL;
  const char *end = block ? strchr (block, '.') : NULL;
  const double own = typical (tensor);
  double largest = 0;
  for (guint i = 0; end && i < nf_tensor_file_count (self->file); i++)
    {
      const NfTensor *other = nf_tensor_file_get (self->file, i);
      if (strncmp (other->name, tensor->name, (gsize)(end + 1 - tensor->name)) == 0)
        largest = MAX (largest, typical (other));
    }
  return own < largest / 10 ? own / (largest / 10) : 1;
}

static gboolean
check_quantity (Verify *self, const NfTensor *tensor, const Quantity *quantity, double *relative,
                GError **error)
{
  const gboolean samples = quantity->what == WHAT_SAMPLE || quantity->what == WHAT_CONTINUE;
  const char *needs = samples && !self->noise ? "sample.noise" : "input.x";
  const gsize all = (gsize)self->B * self->N * self->D;
  if ((samples && !self->noise) || (quantity->what != WHAT_SAMPLE && !self->x))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: %s cannot be computed without %s, which is missing",
                   nf_tensor_file_get_path (self->file), tensor->name, needs);
      return FALSE;
    }
  switch (quantity->what)
    {
    case WHAT_Z:
      return compute_forward (self, error)
             && compare_samples (self, tensor, self->z, self->B, relative, error);
    case WHAT_PATCHES:
      return compare_tokens (self, tensor, self->x, relative, error);
    case WHAT_LOG_SCALES:
      return compute_forward (self, error)
             && compare_tokens (self, tensor, self->log_scales + quantity->block * all, relative, error);
    case WHAT_LOSS_Z:
    case WHAT_LOSS_LOG_DET:
      return check_loss_part (self, tensor, quantity->what == WHAT_LOSS_Z, relative, error);
    case WHAT_LEARNED:
      return compute_learned (self, error)
             && compare_samples (self, tensor, self->learned, self->B, relative, error);
    case WHAT_LEARNED_STEP:
      return check_learned_step (self, tensor, quantity, relative, error);
    case WHAT_TARGET:
      return compute_denoiser_gradients (self, quantity->sigma, error)
             && compare_samples (self, tensor, self->target, self->B, relative, error);
    case WHAT_DENOISER_LOSS:
      return compute_denoiser_gradients (self, quantity->sigma, error)
             && compare (self, tensor, &self->denoiser_loss, 1, relative, error);
    case WHAT_DENOISER_GRADIENT:
      return compute_denoiser_gradients (self, quantity->sigma, error)
             && compare_floats (self, tensor, self->denoiser_gradients + quantity->offset, quantity->n,
                                relative, error);
    case WHAT_CONTINUE:
      return check_continue (self, tensor, relative, error);
    case WHAT_BLOCK:
      return compute_forward (self, error)
             && compare_tokens (self, tensor, self->blocks + quantity->block * all, relative, error);
    case WHAT_LOG_DET:
      return compute_forward (self, error) && compare_log_det (self, tensor, relative, error);
    case WHAT_LOSS:
      return compute_gradients (self, FALSE, error)
             && compare (self, tensor, &self->loss, 1, relative, error);
    case WHAT_GRADIENT_X:
      return compute_gradients (self, FALSE, error)
             && compare_samples (self, tensor, self->grad_x, self->B, relative, error);
    case WHAT_GRADIENT:
      if (!compute_gradients (self, TRUE, error)
          || !compare_floats (self, tensor, self->gradients + quantity->offset, quantity->n, relative, error))
        return FALSE;
      if (self->own != &of_floats)
        *relative *= share_of_block (self, tensor);
      return TRUE;
    case WHAT_DENOISE:
      return check_denoise (self, tensor, quantity->sigma, relative, error);
    case WHAT_SAMPLE:
      return check_sample (self, tensor, &quantity->options, relative, error);
    case WHAT_UNKNOWN:
    case WHAT_INPUT:
    default:
      g_assert_not_reached ();
    }
}

static double
get_tolerance (const Verify *self, const Quantity *quantity)
{
  if (self->tolerance > 0)
    return self->tolerance;
  switch (quantity->what)
    {
    case WHAT_Z:
    case WHAT_PATCHES:
    case WHAT_BLOCK:
      return self->own->tokens;
    case WHAT_LOG_DET:
    case WHAT_LOG_SCALES:
    case WHAT_LOSS:
    case WHAT_LOSS_Z:
    case WHAT_LOSS_LOG_DET:
      return self->own->sums;
    default:
      return self->own->others;
    }
}

/* Gradients, where the precision has none, for REASON: said once. */
static gboolean
is_skipped (const Verify *self, NfCommand *command, const GError *reason)
{
  if (!g_error_matches (reason, NF_ERROR, NF_ERROR_UNSUPPORTED) || self->trainable)
    return FALSE;
  if (self->skipped == 0)
    nf_progress_note (command->progress, "normflow verify: skipped: %s", reason->message);
  return TRUE;
}

/* A line for each tensor of the file. */
static gboolean
check_all (Verify *self, NfCommand *command, GError **error)
{
  for (guint i = 0; i < nf_tensor_file_count (self->file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (self->file, i);
      const Quantity quantity = identify (self, tensor->name);
      g_autofree char *name = g_strescape (tensor->name, NULL);
      g_autoptr (GError) reason = NULL;
      double relative = (double)INFINITY;

      if (quantity.what == WHAT_INPUT)
        continue;
      if (!nf_command_go_on (command, error))
        return FALSE;
      nf_progress_update (command->progress, "%s", name);
      if (quantity.what == WHAT_UNKNOWN)
        {
          nf_progress_clear (command->progress);
          printf ("unknown %s\n", name);
          continue;
        }
      if (!check_quantity (self, tensor, &quantity, &relative, &reason))
        {
          if (is_skipped (self, command, reason))
            {
              nf_progress_clear (command->progress);
              printf ("skip %s\n", name);
              self->skipped++;
              continue;
            }
          /* What is wrong with one quantity does not hinder the others; a device that fails does. */
          if (!g_error_matches (reason, NF_ERROR, NF_ERROR_DATA)
              && !g_error_matches (reason, NF_ERROR, NF_ERROR_ARGUMENT)
              && !g_error_matches (reason, NF_ERROR, NF_ERROR_UNSUPPORTED))
            {
              g_propagate_error (error, g_steal_pointer (&reason));
              return FALSE;
            }
          nf_progress_note (command->progress, "normflow verify: %s", reason->message);
        }
      const gboolean pass = relative <= get_tolerance (self, &quantity);
      nf_progress_clear (command->progress);
      printf ("%s %s %.3g\n", pass ? "pass" : "FAIL", name, relative);
      fflush (stdout);
      self->passed += pass;
      self->failed += !pass;
    }
  return TRUE;
}

/* The configuration of WEIGHTS, a file or a model's name: what PATH and SETTINGS (nullable) say, or else they
 * themselves, or else what is EXPECTED of them. */
static NfConfig *
get_config (const char *weights, const char *path, char **settings, NfTensorFile *expected, GError **error)
{
  g_autofree char *name = nf_model_find (weights, error);
  g_autoptr (NfTensorFile) file = name ? nf_tensor_file_open (name, error) : NULL;
  g_autofree char *own = file ? nf_checkpoint_find_config (file) : NULL;
  if (!path && !own && nf_tensor_file_get_metadata (expected, "config"))
    path = nf_tensor_file_get_path (expected);
  return file ? nf_checkpoint_config (file, path, (const char *const *)settings, error) : NULL;
}

int
nf_cmd_verify (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_auto (Verify) verify = { 0 };
  g_autofree char *tolerance = NULL, *method = NULL, *config = NULL;
  g_auto (GStrv) settings = NULL;
  g_autoptr (GError) error = NULL;
  const char *end = "";
  const GOptionEntry entries[] = {
    { "config", 'c', 0, G_OPTION_ARG_FILENAME, &config,
      "Configuration of WEIGHTS: the YAML of the training, JSON, or a model file that has one (default: the "
      "one in WEIGHTS, else in EXPECTED)",
      "FILE" },
    { "set", 's', 0, G_OPTION_ARG_STRING_ARRAY, &settings,
      "A member of the configuration, overriding what --config and the files say", "NAME=VALUE" },
    { "tolerance", 't', 0, G_OPTION_ARG_STRING, &tolerance,
      "Largest relative error ‖a−b‖/‖b‖ that passes (default: 1e-5 for forward.*, 1e-4 for others; with "
      "--precision bf16 or bf16-weights 0.01 for tokens, 0.05 for log-determinants and losses, 0.1 for "
      "others; "
      "with int8-weights 0.03, 0.1 and 0.2)",
      "T" },
    { "method", 0, 0, G_OPTION_ARG_STRING, &method,
      "How samples are decoded: auto (default), sequential, jacobi or draft", "METHOD" },
    { NULL }
  };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_DEVICE, "WEIGHTS EXPECTED.safetensors",
          "Recomputes every quantity of EXPECTED with the model WEIGHTS and compares.",
          "Prints a line for each: pass or FAIL, its name, its relative error; \"unknown\" and its name if\n"
          "normflow does not know how to compute it, \"skip\" if the precision has no gradients. Exits\n"
          "with 0 only if none failed and at least one passed.",
          2, 2))
    return NF_EXIT_USAGE;
  if (tolerance && (!parse_number (tolerance, &end, &verify.tolerance) || *end || verify.tolerance <= 0))
    return nf_command_usage (&command, "--tolerance \"%s\" is not a number above 0", tolerance);

  if (!nf_decode_method_from_name (method ? method : "auto", &verify.method))
    return nf_command_wrong_choice (&command, "--method", method, nf_method_choices ());

  verify.file = nf_tensor_file_open (argv[2], &error);
  if (!verify.file)
    return nf_command_fail (&command, error);
  command.model = g_strdup (argv[1]);
  command.config = get_config (argv[1], config, settings, verify.file, &error);
  verify.session = command.config ? nf_command_open (&command, &error) : NULL;
  if (!verify.session)
    return nf_command_fail (&command, error);
  verify.config = nf_config_copy (nf_model_get_config (nf_session_get_model (verify.session)));
  NfDevice *device = nf_model_get_device (nf_session_get_model (verify.session));
  const char *precision = nf_device_get_precision (device);
  verify.own = nf_device_uses_bf16 (device)              ? &of_bf16
               : nf_device_values_per_word (device) == 1 ? &of_floats
                                                         : &of_int8;
  verify.trainable = nf_device_has_gradients (device);
  if (!command.quiet && verify.tolerance > 0)
    fprintf (stderr, "in %s; relative errors that pass: %g\n", precision, verify.tolerance);
  else if (!command.quiet)
    fprintf (stderr,
             "in %s; relative errors that pass: %g (tokens), %g (log-determinants, losses), %g (others)\n",
             precision, verify.own->tokens, verify.own->sums, verify.own->others);
  if (!read_inputs (&verify, &error) || !check_all (&verify, &command, &error))
    return nf_command_fail (&command, error);

  nf_progress_clear (command.progress);
  printf ("%u passed, %u failed", verify.passed, verify.failed);
  if (verify.skipped)
    printf (", %u skipped", verify.skipped);
  putchar ('\n');
  if (fflush (stdout) != 0 || ferror (stdout))
    {
      g_set_error (&error, NF_ERROR, NF_ERROR_WRITE, "the lines cannot be written to the standard output");
      return nf_command_fail (&command, error);
    }
  if (verify.passed == 0 && verify.failed == 0)
    fprintf (stderr, "normflow verify: %s holds nothing that normflow can compute\n", argv[2]);
  return verify.failed == 0 && verify.passed > 0 ? 0 : NF_EXIT_FAILED;
}
