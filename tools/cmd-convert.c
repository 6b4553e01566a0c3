/* normflow convert: a model file, checked and written anew. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "latents.h"

#include "nf-weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>

typedef struct
{
  char *input;
  const char *output;
  char *config;
  char *state;
  char **settings;
  char *layout;
  char *noise;
  double noise_std;
  char *dtype;
  char *mean; /* another model */
} Convert;

static void
convert_clear (Convert *convert)
{
  g_free (convert->config);
  g_free (convert->state);
  g_strfreev (convert->settings);
  g_free (convert->layout);
  g_free (convert->noise);
  g_free (convert->dtype);
  g_free (convert->input);
  g_free (convert->mean);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Convert, convert_clear)

/* The file NAME, or that of the model which is called so. */
static char *
find_file (const char *name)
{
  char *path = g_file_test (name, G_FILE_TEST_EXISTS) ? NULL : nf_model_find (name, NULL);
  return path ? path : g_strdup (name);
}

static NfTensorFile *
open_input (const Convert *convert, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open_state (convert->input, convert->state, error);
  if (file && nf_latents_is_file (file))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: holds latents of a video, not a model",
                   convert->input);
      return NULL;
    }
  return g_steal_pointer (&file);
}

/* What options say, as members of the configuration. (transfer full) */
static char **
get_settings (const Convert *convert)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  char number[G_ASCII_DTOSTR_BUF_SIZE];
  if (convert->settings)
    g_strv_builder_addv (builder, (const char **)convert->settings);
  if (convert->layout)
    {
      g_autofree char *layout = g_strconcat ("pixel_layout=", convert->layout, NULL);
      g_strv_builder_add (builder, layout);
      g_strv_builder_add (builder, strcmp (convert->layout, "gray") == 0 ? "in_channels=1" : "in_channels=3");
    }
  if (convert->noise)
    {
      g_autofree char *noise = g_strconcat ("noise_type=", convert->noise, NULL);
      g_strv_builder_add (builder, noise);
      if (strcmp (convert->noise, "uniform") == 0) /* it has no deviation */
        g_strv_builder_add (builder, "noise_std=0");
    }
  if (convert->noise_std != NF_NOT_GIVEN)
    {
      g_autofree char *std
          = g_strconcat ("noise_std=", g_ascii_dtostr (number, sizeof number, convert->noise_std), NULL);
      g_strv_builder_add (builder, std);
    }
  return g_strv_builder_end (builder);
}

/* Casting */

static gboolean
is_float (NfDtype dtype)
{
  return dtype == NF_DTYPE_F32 || dtype == NF_DTYPE_F64 || dtype == NF_DTYPE_F16 || dtype == NF_DTYPE_BF16;
}

/* To nearest, ties to even. NaN keeps a bit of its fraction. */
static guint16
bf16_from_float (float value)
{
  guint32 bits;

  memcpy (&bits, &value, sizeof bits);
  if (isnan (value))
    return (guint16)(bits >> 16 | 0x40);
  return (guint16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* LOST gets the first value that is finite but not in DTYPE, 0 if there is none. */
static guint8 *
cast (const NfTensor *tensor, NfDtype dtype, float *lost)
{
  const gsize n = tensor->n_elements;
  g_autofree float *values = g_try_new (float, MAX (n, 1));
  guint8 *data = g_try_malloc (MAX (n * nf_dtype_size (dtype), 1));

  if (!values || !data)
    {
      g_free (data);
      return NULL;
    }
  nf_tensor_to_float (tensor, values);
  if (dtype == NF_DTYPE_F16)
    nf_half_from_float (values, (guint16 *)(gpointer)data, n);
  else if (dtype == NF_DTYPE_BF16)
    for (gsize i = 0; i < n; i++)
      ((guint16 *)(gpointer)data)[i] = bf16_from_float (values[i]);
  else
    memcpy (data, values, n * sizeof *values);
  const guint16 infinity = dtype == NF_DTYPE_F16 ? 0x7c00 : 0x7f80;
  *lost = 0;
  for (gsize i = 0; dtype != NF_DTYPE_F32 && i < n && *lost == 0; i++)
    if (isfinite (values[i]) && (((guint16 *)(gpointer)data)[i] & infinity) == infinity)
      *lost = values[i];
  /* Files are little-endian. */
  if (G_BYTE_ORDER == G_BIG_ENDIAN)
    for (gsize i = 0, size = nf_dtype_size (dtype); i < n * size; i += size)
      for (gsize j = 0; j < size / 2; j++)
        {
          guint8 byte = data[i + j];

          data[i + j] = data[i + size - 1 - j];
          data[i + size - 1 - j] = byte;
        }
  return data;
}

/* Whether the configuration wants positions that FILE does not have: with zeros in their place the model is
 * what it was, and training can go on from there. */
static gboolean
lacks_positions (NfTensorFile *file, const NfConfig *config, const char *name)
{
  return config->frame_positions && !nf_tensor_file_lookup (file, name);
}

/* The other model; --state takes one of its sets of weights, too, where it has several. */
static NfTensorFile *
open_other (const Convert *convert, GError **error)
{
  GError *local = NULL;
  NfTensorFile *file = nf_tensor_file_open (convert->mean, &local);
  if (!file && convert->state && g_error_matches (local, NF_ERROR, NF_ERROR_ARGUMENT))
    {
      g_clear_error (&local);
      file = nf_tensor_file_open_state (convert->mean, convert->state, &local);
    }
  if (local)
    g_propagate_error (error, local);
  return file;
}

/* The other model's own, or what says that of INPUT. */
static NfConfig *
get_other_config (const Convert *convert, NfTensorFile *input, NfTensorFile *other, GError **error)
{
  g_autofree char *own = nf_checkpoint_find_config (other);
  if (own)
    return nf_checkpoint_config (other, NULL, NULL, error);
  g_autofree char *source = convert->config ? g_strdup (convert->config) : nf_checkpoint_find_config (input);
  g_auto (GStrv) settings = get_settings (convert);
  return nf_checkpoint_config (other, source, (const char *const *)settings, error);
}

/* The means of all numbers of TENSORS, those of INPUT, and of those of the other model, of the same shapes,
 * into DATA. */
static gboolean
average (const Convert *convert, NfTensorFile *input, const NfConfig *config, NfTensor *tensors, guint n,
         GPtrArray *data, GError **error)
{
  const char *other = convert->mean;
  g_autoptr (NfTensorFile) file = open_other (convert, error);
  g_autoptr (NfConfig) theirs = file ? get_other_config (convert, input, file, error) : NULL;
  if (!theirs)
    return FALSE;
  if (!nf_config_equal (config, theirs))
    {
      g_autofree char *is = nf_config_to_json (theirs), *wanted = nf_config_to_json (config);
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s is of another configuration, there is no mean of both: %s, not %s", other, is, wanted);
      return FALSE;
    }
  for (guint i = 0; i < n; i++)
    {
      const NfTensor *tensor = nf_tensor_file_lookup (file, tensors[i].name);
      if (!is_float (tensors[i].dtype) || (!tensor && nf_checkpoint_is_idle (config, tensors[i].name)))
        continue;
      if (!tensor || !is_float (tensor->dtype) || tensor->n_elements != tensors[i].n_elements)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s has no tensor %s of that size", other,
                       tensors[i].name);
          return FALSE;
        }
      const gsize count = MAX (tensor->n_elements, 1);
      g_autofree float *a = g_try_new (float, count), *b = g_try_new (float, count);
      if (!a || !b)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for tensor %s", other,
                       tensors[i].name);
          return FALSE;
        }
      nf_tensor_to_float (&tensors[i], a);
      nf_tensor_to_float (tensor, b);
      for (gsize j = 0; j < tensor->n_elements; j++)
        a[j] = a[j] / 2 + b[j] / 2;
      tensors[i].dtype = NF_DTYPE_F32;
      tensors[i].data = (const guint8 *)a;
      g_ptr_array_add (data, g_steal_pointer (&a));
    }
  return TRUE;
}

static gboolean
write_model (const Convert *convert, NfTensorFile *file, const NfConfig *config, const char *path,
             GError **error)
{
  static const NfDtype dtypes[] = { NF_DTYPE_F32, NF_DTYPE_F16, NF_DTYPE_BF16 };
  guint n = nf_tensor_file_count (file);
  g_autoptr (GHashTable) metadata = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, NULL);
  g_autoptr (GPtrArray) data = g_ptr_array_new_with_free_func (g_free);
  g_autofree NfTensor *tensors = g_new (NfTensor, n + 1);
  g_autofree char *positions = g_strdup_printf ("blocks.%u.frame_embed", config->n_blocks - 1),
                  *json = nf_config_to_json (config);
  GHashTableIter iter;
  gpointer key, value;

  g_hash_table_iter_init (&iter, nf_tensor_file_get_all_metadata (file));
  while (g_hash_table_iter_next (&iter, &key, &value))
    g_hash_table_insert (metadata, key, value);
  g_hash_table_insert (metadata, (gpointer) "config", json);

  for (guint i = 0; i < n; i++)
    tensors[i] = *nf_tensor_file_get (file, i);
  if (lacks_positions (file, config, positions))
    {
      const guint N = nf_config_tokens (config), d = nf_config_width (config, config->n_blocks - 1);
      g_ptr_array_add (data, g_new0 (float, (gsize)N *d));
      tensors[n++] = (NfTensor){ .name = positions,
                                 .dtype = NF_DTYPE_F32,
                                 .n_dims = 2,
                                 .dims = { N, d },
                                 .n_elements = (guint64)N * d,
                                 .data = g_ptr_array_index (data, 0) };
    }
  if (convert->mean && !average (convert, file, config, tensors, n, data, error))
    return FALSE;
  for (guint i = 0; i < n; i++)
    {
      guint8 *bytes;
      float lost;

      for (guint j = 0; convert->dtype && is_float (tensors[i].dtype) && j < G_N_ELEMENTS (dtypes); j++)
        if (g_ascii_strcasecmp (convert->dtype, nf_dtype_name (dtypes[j])) == 0
            && tensors[i].dtype != dtypes[j])
          {
            bytes = cast (&tensors[i], dtypes[j], &lost);
            if (!bytes)
              {
                g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for tensor %s",
                             convert->input, tensors[i].name);
                return FALSE;
              }
            g_ptr_array_add (data, bytes);
            if (lost != 0 && !nf_checkpoint_is_idle (config, tensors[i].name))
              {
                g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                             "%s: tensor %s holds %g, which is too large for --dtype %s; take %s",
                             convert->input, tensors[i].name, (double)lost, convert->dtype,
                             dtypes[j] == NF_DTYPE_F16 ? "bf16 or f32" : "f32");
                return FALSE;
              }
            tensors[i].dtype = dtypes[j];
            tensors[i].data = bytes;
            break;
          }
    }
  return nf_tensor_file_write (path, tensors, n, metadata, error);
}

/* Whether options say a deviation of Gaussian noise, and none else. Training leaves one beside noise that has
 * none. */
static gboolean
check_noise (const Convert *convert, const NfConfig *config, GError **error)
{
  gboolean told = convert->noise_std != NF_NOT_GIVEN;
  for (guint i = 0; convert->settings && convert->settings[i]; i++)
    told = told || g_str_has_prefix (convert->settings[i], "noise_std=");
  if (told && config->noise_std > 0 && config->noise != NF_NOISE_GAUSSIAN)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                 "%s %g: goes with Gaussian noise, and that of %s is uniform; --noise gaussian says "
                 "otherwise",
                 convert->noise_std != NF_NOT_GIVEN ? "--noise-std" : "noise_std", config->noise_std,
                 convert->input);
  else if ((convert->noise || convert->noise_std != NF_NOT_GIVEN) && config->noise == NF_NOISE_GAUSSIAN
           && config->noise_std == 0)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                 "%s: Gaussian noise needs a standard deviation above 0: --noise-std", convert->input);
  else
    return TRUE;
  return FALSE;
}

/* The weights at PATH are held against CONFIG itself: read from the file, what it leaves at a default would
 * be what their shapes say. */
static gboolean
check_weights (const char *path, const NfConfig *config, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  g_autoptr (NfWeights) weights = file ? nf_weights_open (file, config, error) : NULL;
  return weights != NULL;
}

/* What was written is read again as a model would be, before it gets its name: weights that do not belong to
 * the configuration, or that the type cannot hold, are refused here. */
static gboolean
convert_file (const Convert *convert, char **digest, gboolean *guessed, GError **error)
{
  g_autoptr (NfTensorFile) file = NULL;
  g_autoptr (NfConfig) config = NULL;
  g_autofree char *temporary = NULL;
  g_auto (GStrv) settings = get_settings (convert);
  GError *local = NULL;
  gboolean written;

  if (!nf_check_output (convert->output, convert->input, error)
      || !nf_check_output (convert->output, convert->config, error)
      || !nf_check_output (convert->output, convert->mean, error))
    return FALSE;
  file = open_input (convert, error);
  config = file ? nf_checkpoint_config (file, convert->config, (const char *const *)settings, error) : NULL;
  temporary
      = config && check_noise (convert, config, error) ? nf_temporary_name (convert->output, error) : NULL;
  if (!temporary)
    return FALSE;
  written = write_model (convert, file, config, temporary, &local);
  if (written && check_weights (temporary, config, &local))
    *digest = nf_model_digest_of_file (temporary, &local);
  *guessed = config->layout != NF_PIXELS_LATENT
             && !nf_checkpoint_says_noise (file, convert->config, (const char *const *)settings);
  if (*digest && nf_publish (temporary, convert->output, &local))
    return TRUE;
  g_unlink (temporary);
  /* What cannot be written is the output, what cannot be read again was wrong in the input. */
  nf_error_rename (local, temporary, written && !*digest ? convert->input : convert->output);
  g_propagate_error (error, local);
  return FALSE;
}

int
nf_cmd_convert (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_auto (Convert) convert = { .noise_std = NF_NOT_GIVEN };
  g_autoptr (GError) error = NULL;
  g_autofree char *digest = NULL, *mean = NULL;
  NfPixelLayout layout;
  gboolean guessed = FALSE;
  const GOptionEntry entries[] = {
    { "config", 'c', 0, G_OPTION_ARG_FILENAME, &convert.config,
      "Configuration: the YAML of the training, JSON, or a model file that has one (default: the one in IN)",
      "FILE" },
    { "set", 's', 0, G_OPTION_ARG_STRING_ARRAY, &convert.settings,
      "A member of the configuration, overriding what --config and IN say", "NAME=VALUE" },
    { "state", 0, 0, G_OPTION_ARG_STRING, &convert.state,
      "Which of the checkpoint's sets of weights, if it has several, such as model or ema", "NAME" },
    { "pixel-layout", 0, 0, G_OPTION_ARG_STRING, &convert.layout,
      "Pixel layout, instead of the configuration's", "rgb|gray|yuv420" },
    { "noise", 0, 0, G_OPTION_ARG_STRING, &convert.noise,
      "Noise that the model was trained with, instead of the configuration's", "uniform|gaussian" },
    { "noise-std", 0, 0, G_OPTION_ARG_DOUBLE, &convert.noise_std,
      "Standard deviation of Gaussian noise, on the [-1, 1] scale", "STD" },
    { "dtype", 't', 0, G_OPTION_ARG_STRING, &convert.dtype,
      "Type of the weights in OUT (default: as they are)", "f32|f16|bf16" },
    { "mean", 0, 0, G_OPTION_ARG_FILENAME, &mean,
      "Take the mean of its weights and those of another model of the same configuration, such as an earlier "
      "one of its training",
      "MODEL" },
    { NULL }
  };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, 0, "IN OUT.safetensors",
          "Checks a model's weights against its configuration and writes both to one file.",
          "IN is a model, or a PyTorch checkpoint of TARFlow, STARFlow or STARFlow-V. The configuration is\n"
          "what --set, --config (else IN, else IN with the ending .yaml or .json) and the weights' shapes\n"
          "say; what is still open then is asked for by name. Rounding to f16 or bf16 makes another model,\n"
          "with another digest. Where --set frame_positions=true gives the model positions that it lacks,\n"
          "they are zeros.",
          2, 2))
    return NF_EXIT_USAGE;
  if (convert.layout && !nf_pixel_layout_from_name (convert.layout, &layout))
    return nf_command_wrong_choice (&command, "--pixel-layout", convert.layout, nf_layout_choices ());
  if (convert.noise && strcmp (convert.noise, "uniform") != 0 && strcmp (convert.noise, "gaussian") != 0)
    return nf_command_wrong_choice (&command, "--noise", convert.noise, "uniform, gaussian");
  if (convert.noise_std != NF_NOT_GIVEN && !(convert.noise_std >= 0 && convert.noise_std <= 2))
    return nf_command_usage (&command, "--noise-std %g is out of range: 0 to 2", convert.noise_std);
  if (convert.noise_std > 0 && g_strcmp0 (convert.noise, "uniform") == 0)
    return nf_command_usage (
        &command, "--noise-std %g goes with Gaussian noise, and --noise uniform has none", convert.noise_std);
  if (convert.dtype && g_ascii_strcasecmp (convert.dtype, "f32") != 0
      && g_ascii_strcasecmp (convert.dtype, "f16") != 0 && g_ascii_strcasecmp (convert.dtype, "bf16") != 0)
    return nf_command_wrong_choice (&command, "--dtype", convert.dtype, "f32, f16, bf16");
  if (!nf_check_ending (argv[2], "safetensors", &error))
    return nf_command_usage (&command, "%s", error->message);

  convert.input = find_file (argv[1]);
  convert.output = argv[2];
  if (mean)
    convert.mean = find_file (mean);
  if (!convert_file (&convert, &digest, &guessed, &error))
    return nf_command_fail (&command, error);
  if (guessed && !command.quiet)
    nf_progress_note (
        command.progress,
        "normflow convert: note: nothing says what noise %s was trained with, so it is taken for "
        "uniform, of 8-bit samples; --noise gaussian --noise-std STD says another",
        convert.input);
  if (!command.quiet)
    printf ("%s, digest %s\n", convert.output, digest);
  return 0;
}
