/* normflow: what drafts of pictures go by. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-hints.h"

#include "nf-device-private.h"
#include "nf-tensor-file.h"

#include <math.h>
#include <string.h>

#define RIDGE 3e-3     /* times the mean square of what is known, of slopes */
#define RIDGE_FAR 3e-2 /* and of the guess, which has few rows a picture, over the number of pictures */
#define KIND "normflow_hints"
#define FORMAT "1"

/* Sums of xxᵀ (P, P), its lower half, and of xyᵀ (P, D). */
typedef struct
{
  gsize P;
  double *squares, *products;
} Sums;

struct _NfHints
{
  guint T, D;
  Sums *slopes, *guess; /* T of each; NULL if they were read */
  float *weights;       /* (T, 3 D + 1, D) */
};

static Sums *
new_sums (guint T, gsize P, gsize D)
{
  Sums *sums = g_new0 (Sums, T);
  for (guint t = 0; t < T; t++)
    sums[t] = (Sums){ P, g_new0 (double, P *P), g_new0 (double, P *D) };
  return sums;
}

static void
free_sums (Sums *sums, guint T)
{
  for (guint t = 0; sums && t < T; t++)
    {
      g_free (sums[t].squares);
      g_free (sums[t].products);
    }
  g_free (sums);
}

NfHints *
nf_hints_new (guint T, guint D)
{
  NfHints *hints = g_new0 (NfHints, 1);
  hints->T = T;
  hints->D = D;
  hints->slopes = new_sums (T, D, D);
  hints->guess = new_sums (T, 2 * (gsize)D + 1, D);
  hints->weights = g_new0 (float, T *NF_HINTS_FLOATS (D));
  return hints;
}

void
nf_hints_free (NfHints *hints)
{
  free_sums (hints->slopes, hints->T);
  free_sums (hints->guess, hints->T);
  g_free (hints->weights);
  g_free (hints);
}

static void
add_row (Sums *sums, const double *x, const float *y, gsize D)
{
  const gsize P = sums->P;
  for (gsize i = 0; i < P; i++)
    {
      for (gsize j = 0; j <= i; j++)
        sums->squares[i * P + j] += x[i] * x[j];
      for (gsize j = 0; j < D; j++)
        sums->products[i * D + j] += x[i] * (double)y[j];
    }
}

void
nf_hints_add_answer (NfHints *hints, guint t, const float *moved, const float *answer)
{
  g_autofree double *x = g_new (double, hints->D);
  g_return_if_fail (hints->slopes && t < hints->T);
  for (guint d = 0; d < hints->D; d++)
    x[d] = (double)moved[d];
  add_row (&hints->slopes[t], x, answer, hints->D);
}

void
nf_hints_add_token (NfHints *hints, guint t, const float *before, const float *z, const float *x)
{
  const gsize D = hints->D;
  g_autofree double *from = g_new (double, 2 * D + 1);
  g_return_if_fail (hints->guess && t < hints->T);
  for (gsize d = 0; d < D; d++)
    {
      from[d] = (double)before[d];
      from[D + d] = (double)z[d];
    }
  from[2 * D] = 1;
  add_row (&hints->guess[t], from, x, D);
}

/* W (P, D) with the least |xW - y|² + ridge |W|², by Cholesky's decomposition. */
static void
solve (const Sums *sums, gsize D, double ridge, float *W)
{
  const gsize P = sums->P;
  g_autofree double *squares = g_memdup2 (sums->squares, P * P * sizeof *squares),
                    *products = g_memdup2 (sums->products, P * D * sizeof *products);
  double mean = 0;
  for (gsize i = 0; i < P; i++)
    mean += squares[i * P + i] / (double)P;
  for (gsize i = 0; i < P; i++)
    {
      double *row = squares + i * P;
      row[i] += ridge * mean + G_MINDOUBLE;
      for (gsize j = 0; j <= i; j++)
        {
          const double *other = squares + j * P;
          double s = row[j];
          for (gsize k = 0; k < j; k++)
            s -= row[k] * other[k];
          row[j] = j < i ? s / other[j] : sqrt (MAX (s, G_MINDOUBLE));
        }
      for (gsize d = 0; d < D; d++)
        {
          double s = products[i * D + d];
          for (gsize k = 0; k < i; k++)
            s -= row[k] * products[k * D + d];
          products[i * D + d] = s / row[i];
        }
    }
  for (gsize i = P; i-- > 0;)
    for (gsize d = 0; d < D; d++)
      {
        double s = products[i * D + d];
        for (gsize k = i + 1; k < P; k++)
          s -= squares[k * P + i] * products[k * D + d];
        products[i * D + d] = s / squares[i * P + i];
        W[i * D + d] = (float)products[i * D + d];
      }
}

void
nf_hints_fit (NfHints *hints, guint pictures)
{
  const gsize D = hints->D;
  g_return_if_fail (hints->slopes && pictures > 0);
  for (guint t = 0; t < hints->T; t++)
    {
      float *weights = hints->weights + t * NF_HINTS_FLOATS (D);
      solve (&hints->slopes[t], D, RIDGE, weights);
      solve (&hints->guess[t], D, RIDGE_FAR / pictures, weights + D * D);
      /* pictures of nothing can leave no numbers: better no hint then */
      for (gsize i = 0; i < NF_HINTS_FLOATS (D); i++)
        if (!isfinite (weights[i]))
          weights[i] = 0;
    }
}

const float *
nf_hints_get (NfHints *hints)
{
  return hints->weights;
}

/* Files */

/* Slopes and guess lie side by side on the device, each by itself in a file. */
static void
split (const NfHints *hints, float *slopes, float *guess)
{
  const gsize D = hints->D, all = NF_HINTS_FLOATS (D);
  for (gsize t = 0; t < hints->T; t++)
    {
      memcpy (slopes + t * D * D, hints->weights + t * all, D * D * sizeof *slopes);
      memcpy (guess + t * (all - D * D), hints->weights + t * all + D * D, (all - D * D) * sizeof *guess);
    }
}

static void
join (NfHints *hints, const float *slopes, const float *guess)
{
  const gsize D = hints->D, all = NF_HINTS_FLOATS (D);
  for (gsize t = 0; t < hints->T; t++)
    {
      memcpy (hints->weights + t * all, slopes + t * D * D, D * D * sizeof *slopes);
      memcpy (hints->weights + t * all + D * D, guess + t * (all - D * D), (all - D * D) * sizeof *guess);
    }
}

gboolean
nf_hints_write (NfHints *hints, const char *path, const char *digest, GError **error)
{
  const gsize T = hints->T, D = hints->D;
  g_autofree float *slopes = g_new (float, T *D *D), *guess = g_new (float, T *(2 * D + 1) * D);
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  const NfTensor tensors[] = { { .name = (char *)"slopes",
                                 .dtype = NF_DTYPE_F32,
                                 .n_dims = 3,
                                 .dims = { T, D, D },
                                 .n_elements = T * D * D,
                                 .data = (const guint8 *)slopes },
                               { .name = (char *)"guess",
                                 .dtype = NF_DTYPE_F32,
                                 .n_dims = 3,
                                 .dims = { T, 2 * D + 1, D },
                                 .n_elements = T * (2 * D + 1) * D,
                                 .data = (const guint8 *)guess } };
  split (hints, slopes, guess);
  g_hash_table_insert (metadata, (gpointer) "format", (gpointer) "normflow hints");
  g_hash_table_insert (metadata, (gpointer)KIND, (gpointer)FORMAT);
  g_hash_table_insert (metadata, (gpointer) "model_digest", (gpointer)digest);
  return nf_tensor_file_write (path, tensors, G_N_ELEMENTS (tensors), metadata, error);
}

/* The tensor NAME of T matrices of ROWS by D. */
static float *
read_tensor (NfTensorFile *file, const char *name, guint T, guint rows, guint D, GError **error)
{
  const NfTensor *tensor = nf_tensor_file_lookup (file, name);
  if (!tensor || tensor->n_dims != 3 || tensor->dims[0] != T || tensor->dims[1] != rows
      || tensor->dims[2] != D)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: the tensor \"%s\" must have the shape (%u, %u, %u)",
                   nf_tensor_file_get_path (file), name, T, rows, D);
      return NULL;
    }
  g_autofree float *values = g_new (float, tensor->n_elements);
  nf_tensor_to_float (tensor, values);
  for (guint64 i = 0; i < tensor->n_elements; i++)
    if (!isfinite (values[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: a value of \"%s\" is %g, not a finite number",
                     nf_tensor_file_get_path (file), name, (double)values[i]);
        return NULL;
      }
  return g_steal_pointer (&values);
}

NfHints *
nf_hints_read (const char *path, const char *digest, guint T, guint D, GError **error)
{
  if (!g_file_test (path, G_FILE_TEST_EXISTS))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "%s: there is no such file", path);
      return NULL;
    }
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  if (!file)
    return NULL;
  if (g_strcmp0 (nf_tensor_file_get_metadata (file, KIND), FORMAT) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: is no file of hints (\"%s\" is not \"%s\")", path,
                   KIND, FORMAT);
      return NULL;
    }
  if (g_strcmp0 (nf_tensor_file_get_metadata (file, "model_digest"), digest) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: these are hints of another model", path);
      return NULL;
    }
  g_autofree float *slopes = read_tensor (file, "slopes", T, D, D, error),
                   *guess = slopes ? read_tensor (file, "guess", T, 2 * D + 1, D, error) : NULL;
  if (!guess)
    return NULL;
  NfHints *hints = g_new0 (NfHints, 1);
  hints->T = T;
  hints->D = D;
  hints->weights = g_new (float, T *NF_HINTS_FLOATS (D));
  join (hints, slopes, guess);
  return hints;
}

char *
nf_hints_path_beside (const char *model)
{
  static const char extension[] = ".safetensors";
  const gsize length
      = g_str_has_suffix (model, extension) ? strlen (model) - strlen (extension) : strlen (model);
  return g_strdup_printf ("%.*s.hints%s", (int)length, model, extension);
}

char *
nf_hints_path_cached (const char *digest)
{
  g_autofree char *folder = nf_cache_folder ("hints");
  g_autofree char *name = g_strconcat (digest, ".hints.safetensors", NULL);
  return folder ? g_build_filename (folder, name, NULL) : NULL;
}
