/* normflow: what tests of the core share. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <glib/gstdio.h>

#include "fatal.h"
#include "normflow.h"
#include "reference/nf-reference.h"

#define nf_test_ok(condition, error)                                                                         \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    if (!(condition))                                                                                        \
      fail_msg ("%s: %s", #condition, (error) ? (error)->message : "no error was given");                    \
  }                                                                                                          \
  G_STMT_END

/* A file beside the tests' sources. */
static inline char *
nf_test_file (const char *directory, const char *name)
{
  const char *source = g_getenv ("G_TEST_SRCDIR");
  g_autofree char *here = source ? g_strdup (source) : g_path_get_dirname (__FILE__);
  return g_build_filename (here, directory, name, NULL);
}

/* The device that NORMFLOW_DEVICE names, else a CPU, with kernels in this FORM: "cpu", "gpu", perhaps with
 * ",vectors=4". Opened once a process. */
static inline NfDevice *
nf_test_device (const char *form)
{
  static GHashTable *devices;
  g_autoptr (GError) error = NULL;
  if (!devices)
    devices = g_hash_table_new (g_str_hash, g_str_equal);
  NfDevice *device = g_hash_table_lookup (devices, form);
  if (device)
    return device;
  const char *named = g_getenv ("NORMFLOW_DEVICE");
  g_autofree char *name = g_strndup (named ? named : "cpu", strcspn (named ? named : "cpu", ","));
  g_autofree char *spec = g_strdup_printf ("%s,kernels=%s", name, form);
  device = nf_device_open (spec, &error);
  nf_test_ok (device, error);
  g_hash_table_insert (devices, g_strdup (form), device);
  return device;
}

/* Progress that takes as many milliseconds as DATA says, once. */
static inline void
nf_test_linger (const char *phase, double fraction, gpointer data)
{
  guint *ms = data;
  (void)phase;
  (void)fraction;
  g_usleep (*ms * 1000);
  *ms = 0;
}

/* Of all tensors of FILE, whose data they share. (transfer full) */
static inline NfTensor *
nf_test_tensors (NfTensorFile *file)
{
  const guint n = nf_tensor_file_count (file);
  NfTensor *tensors = g_new (NfTensor, n);
  for (guint i = 0; i < n; i++)
    tensors[i] = *nf_tensor_file_get (file, i);
  return tensors;
}

/* A name of its own in the directory for temporary files; the test removes the file. */
static inline char *
nf_test_temporary (const char *suffix)
{
  static guint n;
  g_autofree char *name = g_strdup_printf ("normflow-test-%08x-%u%s", g_random_int (), n++, suffix);
  return g_build_filename (g_get_tmp_dir (), name, NULL);
}

/* A folder with all in it, or a file. */
static inline void
nf_test_remove (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *child = g_build_filename (path, name, NULL);
      nf_test_remove (child);
    }
  g_remove (path);
}

/* The reference's model on a device, through a file. */
static inline NfModel *
nf_test_model (NfReference *reference, const char *kernels)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  nf_test_ok (nf_reference_write (reference, path, &error), error);
  NfModel *model = nf_model_load (path, nf_test_device (kernels), NULL, NULL, NULL, &error);
  g_unlink (path);
  nf_test_ok (model, error);
  return model;
}

static inline NfSession *
nf_test_session (NfModel *model)
{
  g_autoptr (GError) error = NULL;
  NfSession *session = nf_session_new (model, &error);
  nf_test_ok (session, error);
  return session;
}

static inline float *
nf_test_to_float (const double *in, gsize n)
{
  float *out = g_new (float, n);
  for (gsize i = 0; i < n; i++)
    out[i] = (float)in[i];
  return out;
}

static inline double *
nf_test_to_double (const float *in, gsize n)
{
  double *out = g_new (double, n);
  for (gsize i = 0; i < n; i++)
    out[i] = (double)in[i];
  return out;
}

/* N numbers in [-1, 1), exact in single precision. */
static inline double *
nf_test_random (guint32 seed, gsize n)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed (seed);
  double *out = g_new (double, n);
  for (gsize i = 0; i < n; i++)
    out[i] = (double)(float)g_rand_double_range (rand, -1, 1);
  return out;
}

/* Fails unless ‖a-b‖/‖b‖ is at most TOLERANCE. */
static inline void
nf_test_close (const char *what, const double *a, const double *b, gsize n, double tolerance)
{
  const double error = nf_reference_error (a, b, n);
  if (!(error <= tolerance))
    fail_msg ("%s: the relative error is %.3g, more than %.3g", what, error, tolerance);
}

static inline void
nf_test_close_float (const char *what, const float *a, const double *b, gsize n, double tolerance)
{
  g_autofree double *exact = nf_test_to_double (a, n);
  nf_test_close (what, exact, b, n, tolerance);
}

/* log |det A|, A (n, n), by elimination with pivots; A is overwritten. */
static inline double
nf_test_log_determinant (double *A, gsize n)
{
  double sum = 0;
  for (gsize k = 0; k < n; k++)
    {
      gsize pivot = k;
      for (gsize i = k + 1; i < n; i++)
        if (fabs (A[i * n + k]) > fabs (A[pivot * n + k]))
          pivot = i;
      for (gsize j = 0; j < n; j++)
        {
          const double swap = A[k * n + j];
          A[k * n + j] = A[pivot * n + j];
          A[pivot * n + j] = swap;
        }
      sum += log (fabs (A[k * n + k]));
      for (gsize i = k + 1; i < n; i++)
        {
          const double factor = A[i * n + k] / A[k * n + k];
          for (gsize j = k; j < n; j++)
            A[i * n + j] -= factor * A[k * n + j];
        }
    }
  return sum;
}
