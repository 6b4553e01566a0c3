/* normflow convert: a model file, checked and written anew. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "latents.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>

#define MAX_CONFIG (1 << 20)

typedef struct
{
  const char *input;
  const char *output;
  char *config;
  char *layout;
  char *noise;
  double noise_std;
  char *dtype;
} Convert;

static void
convert_clear (Convert *convert)
{
  g_free (convert->config);
  g_free (convert->layout);
  g_free (convert->noise);
  g_free (convert->dtype);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Convert, convert_clear)

/* torch.save writes a zip archive of pickles, older versions a bare pickle. */
static gboolean
is_pytorch (const char *path)
{
  guint8 start[4] = { 0 };
  FILE *file = g_fopen (path, "rbe");
  gsize n;

  if (!file)
    return FALSE;
  n = fread (start, 1, sizeof start, file);
  fclose (file);
  return n == sizeof start
         && (memcmp (start, "PK\3\4", 4) == 0 || (start[0] == 0x80 && start[1] >= 2 && start[1] <= 5));
}

static NfTensorFile *
open_input (const char *path, GError **error)
{
  g_autoptr (NfTensorFile) file = NULL;

  if (is_pytorch (path))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: is a PyTorch checkpoint, which this version does not read; in Python, "
                   "safetensors.torch.save_file (torch.load (\"IN.pth\", weights_only=True), "
                   "\"IN.safetensors\") makes a file that normflow convert --config takes",
                   path);
      return NULL;
    }
  file = nf_tensor_file_open (path, error);
  if (file && nf_latents_is_file (file))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: holds latents of a video, not a model", path);
      return NULL;
    }
  return g_steal_pointer (&file);
}

/* The file's configuration, or --config's, with what other options say. */
static NfConfig *
make_config (const Convert *convert, NfTensorFile *file, GError **error)
{
  const char *json = nf_tensor_file_get_metadata (file, "config");
  const char *origin = convert->input;
  g_autofree char *text = NULL;
  g_autoptr (NfConfig) config = NULL;

  if (convert->config)
    {
      g_autoptr (GError) local = NULL;
      GStatBuf status;

      origin = convert->config;
      if (g_stat (convert->config, &status) == 0
          && (!S_ISREG (status.st_mode) || status.st_size > MAX_CONFIG))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "--config %s: is not a small JSON file",
                       convert->config);
          return NULL;
        }
      if (!g_file_get_contents (convert->config, &text, NULL, &local))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_READ, "--config: %s", local->message);
          return NULL;
        }
      json = text;
    }
  if (!json)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s: says nothing of its configuration; give it with --config FILE, a JSON object such as "
                   "{\"in_channels\": 3, \"img_size\": 64, \"patch_size\": 2, \"channels\": 512, "
                   "\"num_blocks\": 8, \"layers_per_block\": 4}",
                   convert->input);
      return NULL;
    }
  config = nf_config_from_json (json, origin, error);
  if (!config)
    return NULL;
  if (convert->layout)
    {
      nf_pixel_layout_from_name (convert->layout, &config->layout);
      config->channels = config->layout == NF_PIXELS_GRAY ? 1 : 3;
    }
  if (convert->noise)
    config->noise = strcmp (convert->noise, "uniform") == 0 ? NF_NOISE_UNIFORM : NF_NOISE_GAUSSIAN;
  if (!isnan (convert->noise_std))
    config->noise_std = convert->noise_std;
  return nf_config_check (config, origin, error) ? g_steal_pointer (&config) : NULL;
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

static guint8 *
cast (const NfTensor *tensor, NfDtype dtype)
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

static gboolean
write_model (const Convert *convert, NfTensorFile *file, const NfConfig *config, const char *path,
             GError **error)
{
  static const NfDtype dtypes[] = { NF_DTYPE_F32, NF_DTYPE_F16, NF_DTYPE_BF16 };
  const guint n = nf_tensor_file_count (file);
  g_autoptr (GHashTable) metadata = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, NULL);
  g_autoptr (GPtrArray) data = g_ptr_array_new_with_free_func (g_free);
  g_autofree NfTensor *tensors = g_new (NfTensor, n);
  g_autofree char *json = nf_config_to_json (config);
  GHashTableIter iter;
  gpointer key, value;

  g_hash_table_iter_init (&iter, nf_tensor_file_get_all_metadata (file));
  while (g_hash_table_iter_next (&iter, &key, &value))
    g_hash_table_insert (metadata, key, value);
  g_hash_table_insert (metadata, (gpointer) "config", json);

  for (guint i = 0; i < n; i++)
    {
      guint8 *bytes;

      tensors[i] = *nf_tensor_file_get (file, i);
      for (guint j = 0; convert->dtype && is_float (tensors[i].dtype) && j < G_N_ELEMENTS (dtypes); j++)
        if (g_ascii_strcasecmp (convert->dtype, nf_dtype_name (dtypes[j])) == 0
            && tensors[i].dtype != dtypes[j])
          {
            bytes = cast (&tensors[i], dtypes[j]);
            if (!bytes)
              {
                g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for tensor %s",
                             convert->input, tensors[i].name);
                return FALSE;
              }
            g_ptr_array_add (data, bytes);
            tensors[i].dtype = dtypes[j];
            tensors[i].data = bytes;
            break;
          }
    }
  return nf_tensor_file_write (path, tensors, n, metadata, error);
}

/* What was written is read again as a model would be, before it gets its name: weights that do not belong to
 * the configuration, or that the type cannot hold, are refused here. */
static gboolean
convert_file (const Convert *convert, char **digest, GError **error)
{
  g_autoptr (NfTensorFile) file = NULL;
  g_autoptr (NfConfig) config = NULL;
  g_autofree char *temporary = NULL;
  GError *local = NULL;

  if (!nf_check_output (convert->output, convert->input, error))
    return FALSE;
  file = open_input (convert->input, error);
  config = file ? make_config (convert, file, error) : NULL;
  temporary = config ? nf_temporary_name (convert->output, error) : NULL;
  if (!temporary)
    return FALSE;
  if (write_model (convert, file, config, temporary, &local))
    *digest = nf_model_digest_of_file (temporary, &local);
  if (*digest && nf_publish (temporary, convert->output, &local))
    return TRUE;
  g_unlink (temporary);
  nf_error_rename (local, temporary, convert->input);
  g_propagate_error (error, local);
  return FALSE;
}

int
nf_cmd_convert (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_auto (Convert) convert = { .noise_std = NAN };
  g_autoptr (GError) error = NULL;
  g_autofree char *digest = NULL;
  NfPixelLayout layout;
  const GOptionEntry entries[]
      = { { "config", 'c', 0, G_OPTION_ARG_FILENAME, &convert.config,
            "Configuration of the model (default: the one in IN)", "FILE.json" },
          { "pixel-layout", 0, 0, G_OPTION_ARG_STRING, &convert.layout, "Instead of the configuration's",
            "rgb|gray|yuv420" },
          { "noise", 0, 0, G_OPTION_ARG_STRING, &convert.noise,
            "Noise that the model was trained with, instead of the configuration's", "uniform|gaussian" },
          { "noise-std", 0, 0, G_OPTION_ARG_DOUBLE, &convert.noise_std,
            "Its standard deviation if Gaussian, on the [-1, 1] scale", "STD" },
          { "dtype", 't', 0, G_OPTION_ARG_STRING, &convert.dtype,
            "Type of the weights in OUT (default: as they are)", "f32|f16|bf16" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, 0, "IN.safetensors OUT.safetensors",
          "Checks a model's weights against its configuration and writes both to one file.",
          "Weights under the official names become a model that every command loads. Rounding\n"
          "to f16 or bf16 makes another model, with another digest.",
          2, 2))
    return NF_EXIT_USAGE;
  if (convert.layout && !nf_pixel_layout_from_name (convert.layout, &layout))
    return nf_command_usage (&command, "--pixel-layout \"%s\" is none of rgb, gray, yuv420", convert.layout);
  if (convert.noise && strcmp (convert.noise, "uniform") != 0 && strcmp (convert.noise, "gaussian") != 0)
    return nf_command_usage (&command, "--noise \"%s\" is none of uniform, gaussian", convert.noise);
  if (!isnan (convert.noise_std) && !(convert.noise_std >= 0 && convert.noise_std <= 2))
    return nf_command_usage (&command, "--noise-std %g is out of range: 0 to 2", convert.noise_std);
  if (convert.dtype && g_ascii_strcasecmp (convert.dtype, "f32") != 0
      && g_ascii_strcasecmp (convert.dtype, "f16") != 0 && g_ascii_strcasecmp (convert.dtype, "bf16") != 0)
    return nf_command_usage (&command, "--dtype \"%s\" is none of f32, f16, bf16", convert.dtype);

  convert.input = argv[1];
  convert.output = argv[2];
  if (!convert_file (&convert, &digest, &error))
    return nf_command_fail (&command, error);
  if (!command.quiet)
    printf ("%s, digest %s\n", convert.output, digest);
  return 0;
}
