/* normflow: models that are loaded and shared, and their memory. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "nf-test.h"

#include "random-model.h"

#define TELLS_EVERY (G_USEC_PER_SEC / 10)

typedef struct
{
  char *told; /* phases, and how often */
  double before;
  gint64 time;      /* of the last call, monotonic */
  const char *stop; /* the phase in whose middle it is cancelled */
  GCancellable *cancellable;
} Loading;

static void
on_loading (const char *phase, double fraction, gpointer data)
{
  Loading *loading = data;
  g_autofree char *told = loading->told;
  assert_true (fraction >= 0 && fraction <= 1);
  assert_true (fraction == 0 || fraction > loading->before);
  const gint64 now = g_get_monotonic_time ();
  if (fraction > 0 && fraction < 1 && now - loading->time < TELLS_EVERY / 2)
    fail_msg ("told of %g of \"%s\" %g ms after the last time", fraction, phase,
              1e-3 * (double)(now - loading->time));
  loading->before = fraction;
  loading->told = g_strconcat (told ? told : "", *phase == 'l' ? "l" : "b", NULL);
  if (loading->stop && strcmp (phase, loading->stop) == 0)
    {
      if (fraction > 0)
        g_cancellable_cancel (loading->cancellable);
      else
        g_usleep (TELLS_EVERY); /* until it is told of what comes next */
    }
  loading->time = now;
}

/* Devices that compute differently have weights of their own, others share them. */
static void
test_shared (void **state)
{
  static const char *const specs[]
      = { "cpu,kernels=cpu,vectors=8,precision=f32,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=f32",
          "cpu,kernels=gpu,precision=f32,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=bf16,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=int8-weights,int8=fma,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=int8-weights,launch=each" };
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  g_autoptr (GPtrArray) models = g_ptr_array_new_with_free_func (g_object_unref);
  random_model_write (path, &config, nf_test_device ("cpu"), 21);
  for (guint i = 0; i < G_N_ELEMENTS (specs); i++)
    {
      g_autoptr (NfDevice) device = nf_device_open (specs[i], &error),
                           again = nf_device_open (specs[i], &error);
      nf_test_ok (device && again, error);
      g_ptr_array_add (models, nf_model_load (path, device, NULL, NULL, NULL, &error));
      nf_test_ok (models->pdata[i], error);
      g_autoptr (NfModel) same = nf_model_load (path, again, NULL, NULL, NULL, &error);
      assert_ptr_equal (same, models->pdata[i]);
      for (guint j = 0; j < i; j++)
        {
          NfDevice *other = nf_model_get_device (models->pdata[j]);
          const gboolean alike
              = g_str_equal (nf_device_get_kernels (device), nf_device_get_kernels (other))
                && g_str_equal (nf_device_get_precision (device), nf_device_get_precision (other))
                && g_strcmp0 (nf_device_get_int8_form (device), nf_device_get_int8_form (other)) == 0
                && g_str_equal (nf_device_get_launch (device), nf_device_get_launch (other));
          assert_int_equal (models->pdata[i] == models->pdata[j], alike);
        }
    }
  g_unlink (path);
}

/* Loads a model of NOTE under "training". */
static NfModel *
load_noted (const char *path, const char *note)
{
  g_autoptr (GError) error = NULL;
  NfModel *model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  assert_string_equal (nf_model_get_path (model), path);
  assert_string_equal (nf_model_get_metadata (model, "training"), note);
  return model;
}

/* A file elsewhere, or another one there, is a model of its own, of whatever weights. */
static void
test_shared_files (void **state)
{
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors"), *copy = nf_test_temporary (".safetensors"),
                  *folder = g_path_get_dirname (path), *name = g_path_get_basename (path),
                  *roundabout = g_build_filename (folder, ".", name, NULL);
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  random_model_write (copy, &config, nf_test_device ("cpu"), 21);
  g_autoptr (NfModel) source
      = nf_model_load_unshared (copy, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (source, error);
  g_hash_table_insert (metadata, (gpointer) "training", (gpointer) "a");
  nf_test_ok (nf_model_save (source, path, metadata, &error), error);
  nf_test_ok (nf_model_save (source, copy, metadata, &error), error);
  g_autoptr (NfModel) model = load_noted (path, "a");
  g_autoptr (NfModel) again = load_noted (path, "a");
  g_autoptr (NfModel) elsewhere = load_noted (copy, "a");
  g_autoptr (NfModel) same = nf_model_load (roundabout, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (same, error);
  assert_ptr_equal (again, model);
  assert_ptr_equal (same, model);
  assert_ptr_not_equal (elsewhere, model);
  g_unlink (copy);
  assert_int_equal (symlink (path, copy), 0);
  g_autoptr (NfModel) linked = load_noted (copy, "a");
  assert_ptr_not_equal (linked, model);

  /* as it was, and with other notes */
  nf_test_ok (nf_model_save (source, path, metadata, &error), error);
  g_autoptr (NfModel) rewritten = load_noted (path, "a");
  assert_ptr_equal (rewritten, model);
  g_hash_table_insert (metadata, (gpointer) "training", (gpointer) "b");
  nf_test_ok (nf_model_save (source, path, metadata, &error), error);
  g_autoptr (NfModel) other = load_noted (path, "b");
  g_autoptr (NfModel) other_again = load_noted (path, "b");
  assert_ptr_not_equal (other, model);
  assert_ptr_equal (other_again, other);
  g_unlink (path);
  g_unlink (copy);
}

/* A model's file may be replaced while it is loaded. Written into, nothing more is read of it. */
static void
test_changed_file (void **state)
{
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  const gsize n = 8 * 8 * 3 / 2;
  NfDevice *device = nf_test_device ("cpu");
  g_autofree float *x = g_new0 (float, n), *gradient = g_new (float, n);
  g_autofree char *path = nf_test_temporary (".safetensors"), *copy = nf_test_temporary (".safetensors"),
                  *other = nf_test_temporary (".safetensors"), *old = NULL, *new = NULL;
  gsize size = 0, new_size = 0;
  double loss;
  g_autoptr (GError) error = NULL;
  random_model_write (path, &config, device, 31);
  random_model_write (other, &config, device, 32);
  nf_test_ok (g_file_get_contents (path, &old, &size, &error), error);
  nf_test_ok (g_file_get_contents (other, &new, &new_size, &error), error);
  assert_int_equal (size, new_size);

  for (guint cut = 0; cut < 2; cut++)
    {
      nf_test_ok (g_file_set_contents (path, old, (gssize)size, &error), error);
      g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error);
      nf_test_ok (model, error);
      g_autoptr (NfSession) session = nf_test_session (model);
      g_usleep (20000); /* the time of a change is no finer than the kernel's clock */
      FILE *file = g_fopen (path, cut ? "w" : "r+");
      assert_non_null (file);
      if (!cut)
        assert_int_equal (fwrite (new, 1, size, file), size);
      fclose (file);
      assert_false (nf_session_gradients (session, x, 1, NULL, &loss, gradient, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      assert_non_null (strstr (error->message, path));
      assert_non_null (strstr (error->message, "renaming"));
      g_clear_error (&error);
      assert_false (nf_model_save (model, copy, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      g_clear_error (&error);

      /* whoever loads the same from the file, sound again, is not given it; that file may go */
      nf_test_ok (g_file_set_contents (path, old, (gssize)size, &error), error);
      g_autoptr (NfModel) sound = nf_model_load (path, device, NULL, NULL, NULL, &error);
      nf_test_ok (sound, error);
      assert_ptr_not_equal (sound, model);
      assert_int_equal (g_rename (other, path), 0);
      nf_test_ok (g_file_set_contents (other, new, (gssize)size, &error), error);
      g_autoptr (NfSession) again = nf_test_session (sound);
      nf_test_ok (nf_session_gradients (again, x, 1, NULL, &loss, gradient, NULL, &error), error);
      g_unlink (path);
      nf_test_ok (nf_model_save (sound, copy, NULL, &error), error);
    }
  g_unlink (path);
  g_unlink (copy);
  g_unlink (other);
}

/* Loading is told of as it goes on, and ends where it is cancelled. */
static void
test_loading_tells (void **state)
{
  static const char *const stops[] = { "load", "build", NULL };
  const NfConfig config = { .channels = 3,
                            .img_size = 16,
                            .patch_size = 4,
                            .width = 64,
                            .n_blocks = 3,
                            .n_layers = 4,
                            .nvp = TRUE,
                            .head_dim = 32,
                            .expansion = 4 };
  g_autoptr (GError) none = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &none);
  nf_test_ok (device, none);
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_model_write (path, &config, device, 5);
  for (guint i = 0; i < G_N_ELEMENTS (stops); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GCancellable) cancellable = g_cancellable_new ();
      Loading loading = { .stop = stops[i], .cancellable = cancellable };
      g_autoptr (NfModel) model = nf_model_load (path, device, on_loading, &loading, cancellable, &error);
      g_autofree char *told = loading.told;
      const gsize loads = strspn (told, "l"), builds = strlen (told + loads);
      assert_int_equal (strspn (told + loads, "b"), builds);
      assert_true (loads >= 1);
      if (stops[i])
        {
          assert_null (model);
          assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED));
          assert_true (loading.before > 0 && loading.before < 0.6);
          assert_int_equal (builds > 0, i > 0);
          continue;
        }
      nf_test_ok (model, error);
      assert_true (builds >= 2 && loading.before == 1);
    }
  g_unlink (path);
}

/* A loaded model takes its matrices once, packed; gradients and training take more, and the numbers stay. */
static void
test_memory (void **state)
{
  g_autoptr (GError) error = NULL;
  const double share = strstr (*state, "int8") ? 0.45 : strstr (*state, "bf16") ? 0.7 : 1.2;
  const gboolean trains = !strstr (*state, "weights");
  g_autoptr (NfDevice) device = nf_device_open (*state, &error);
  nf_test_ok (device, error);
  const NfConfig config = { .channels = 3,
                            .img_size = 16,
                            .patch_size = 4,
                            .width = 128,
                            .n_blocks = 2,
                            .n_layers = 3,
                            .nvp = TRUE,
                            .head_dim = 32,
                            .expansion = 4 };
  g_autofree char *path = nf_test_temporary (".safetensors"), *copy = nf_test_temporary (".safetensors");
  random_model_write (path, &config, device, 5);
  const guint64 before = nf_device_get_allocated (device);
  g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  const double n = (double)nf_model_count_parameters (model) * sizeof (float),
               loaded = (double)(nf_device_get_allocated (device) - before);
  if (loaded > share * n)
    fail_msg ("%.0f bytes for %.0f of parameters", loaded, n);

  g_autofree char *digest = nf_model_digest_of_file (path, &error);
  assert_string_equal (nf_model_get_digest (model), digest);
  const NfTrainOptions options = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
  g_autoptr (NfTrainer) trainer = nf_trainer_new (model, &options, &error);
  g_unlink (path);
  if (!trains)
    {
      assert_null (trainer);
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
      assert_non_null (strstr (error->message, nf_device_get_precision (device)));
      return;
    }
  nf_test_ok (trainer, error);
  assert_true ((double)(nf_device_get_allocated (device) - before) > 5 * n);
  nf_test_ok (nf_trainer_save_model (trainer, copy, NULL, &error), error);
  g_autofree char *again = nf_model_digest_of_file (copy, &error);
  assert_string_equal (again, digest);
  g_unlink (copy);
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    { "memory, f32", test_memory, NULL, NULL, (void *)"cpu" },
    { "memory, bfloat16", test_memory, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "memory, weights in bfloat16", test_memory, NULL, NULL, (void *)"cpu,precision=bf16-weights" },
    { "memory, weights in integers", test_memory, NULL, NULL, (void *)"cpu,precision=int8-weights" },
    cmocka_unit_test (test_loading_tells),
    cmocka_unit_test (test_shared),
    cmocka_unit_test (test_shared_files),
    cmocka_unit_test (test_changed_file),
  };
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests_name ("session-loading", tests, NULL, NULL);
}
