/* normflow: damaged files, the same ones each time. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-test.h"

#define MUTATIONS 6000
#define MAX_SIZE 65536
#define SEEDS 3

typedef struct
{
  guint64 key, run, draws;
} Dice;

/* Files of a kind. */
typedef struct
{
  const char *suffix;
  guint64 key;                                    /* of the dice */
  GByteArray *(*make_seed) (guint which);         /* a good one of SEEDS */
  void (*damage) (GByteArray *bytes, Dice *dice); /* a copy of a good one */
  gboolean (*use) (const char *path);             /* whether it was accepted */
} Fuzz;

/* Less than N. */
static inline guint32
roll (Dice *dice, guint32 n)
{
  guint32 words[4];
  nf_random_u32x4 (dice->key, dice->run, dice->draws++, words);
  return (guint32)(((guint64)words[0] * n) >> 32);
}

/* Opens a file that may be damaged. Everything in it can be used, or it is refused with one error that names
 * it. */
static inline NfTensorFile *
open_damaged (const char *path, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  if (!file)
    {
      assert_non_null (*error);
      assert_true ((*error)->domain == NF_ERROR);
      assert_non_null (strstr ((*error)->message, path));
      assert_true (g_utf8_validate ((*error)->message, -1, NULL));
      return NULL;
    }
  assert_null (*error);
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      assert_in_range (tensor->n_elements, 0, MAX_SIZE);
      g_autofree float *f = g_new (float, tensor->n_elements + 1);
      g_autofree double *d = g_new (double, tensor->n_elements + 1);
      nf_tensor_to_float (tensor, f);
      nf_tensor_to_double (tensor, d);
      assert_ptr_equal (nf_tensor_file_lookup (file, tensor->name), tensor);
    }
  /* a model's weights, if it were one */
  g_autoptr (GError) problem = NULL;
  g_autofree char *digest = nf_model_digest_of_file (path, &problem);
  assert_true (digest || problem);
  return g_steal_pointer (&file);
}

static inline gboolean
use_bytes (const Fuzz *fuzz, const char *path, const GByteArray *bytes)
{
  g_autoptr (GError) error = NULL;
  g_unlink (path);
  nf_test_ok (g_file_set_contents_full (path, (const char *)bytes->data, (gssize)bytes->len,
                                        G_FILE_SET_CONTENTS_NONE, 0600, &error),
              error);
  return fuzz->use (path);
}

/* Good files are accepted, and MUTATIONS damaged ones do no harm. */
static inline void
fuzz_run (const Fuzz *fuzz)
{
  g_autofree char *path = nf_test_temporary (fuzz->suffix);
  g_autoptr (GPtrArray) seeds = g_ptr_array_new_with_free_func ((GDestroyNotify)g_byte_array_unref);
  guint accepted = 0;
  for (guint i = 0; i < SEEDS; i++)
    {
      g_ptr_array_add (seeds, fuzz->make_seed (i));
      assert_true (use_bytes (fuzz, path, seeds->pdata[i]));
    }
  for (guint run = 0; run < MUTATIONS; run++)
    {
      Dice dice = { .key = fuzz->key, .run = run };
      const GByteArray *seed = seeds->pdata[roll (&dice, seeds->len)];
      g_autoptr (GByteArray) bytes = g_byte_array_new ();
      g_byte_array_append (bytes, seed->data, seed->len);
      fuzz->damage (bytes, &dice);
      accepted += use_bytes (fuzz, path, bytes);
    }
  g_unlink (path);
  /* some do no harm: otherwise only one check would be tried */
  print_message ("%u of %d were accepted\n", accepted, MUTATIONS);
  assert_in_range (accepted, MUTATIONS / 100, MUTATIONS / 2);
}
