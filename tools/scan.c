/* normflow: scoring the frames of a file. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

guint64
nf_scan_holdout_start (double holdout, guint64 n_frames)
{
  guint64 held = (guint64)ceil (holdout * (double)n_frames - 1e-9);

  return n_frames > 1 ? n_frames - MIN (held, n_frames - 1) : 0;
}

GHashTable *
nf_scan_held_pictures (const GPtrArray *paths, double holdout)
{
  GHashTable *held = g_hash_table_new (g_str_hash, g_str_equal);
  g_autoptr (GHashTable) folders
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
  GHashTableIter iter;
  gpointer value;

  for (guint i = 0; i < paths->len; i++)
    {
      g_autofree char *folder = g_path_get_dirname (paths->pdata[i]);
      GPtrArray *pictures = g_hash_table_lookup (folders, folder);
      if (!pictures)
        {
          pictures = g_ptr_array_new ();
          g_hash_table_insert (folders, g_steal_pointer (&folder), pictures);
        }
      g_ptr_array_add (pictures, paths->pdata[i]);
    }
  g_hash_table_iter_init (&iter, folders);
  while (g_hash_table_iter_next (&iter, NULL, &value))
    {
      const GPtrArray *pictures = value;
      const guint first = pictures->len > 1 ? (guint)nf_scan_holdout_start (holdout, pictures->len) : 1;

      for (guint i = first; i < pictures->len; i++)
        g_hash_table_add (held, pictures->pdata[i]);
    }
  return held;
}

static guint64
frames_of (NfMediaReader *reader, const NfScan *scan, guint64 first)
{
  guint64 n = nf_media_reader_get_info (reader)->n_frames;

  n = n > first ? (n - first + scan->every - 1) / scan->every : 0;
  return scan->frames && (n == 0 || n > scan->frames) ? scan->frames : n;
}

/* Where STREAM's window begins that frame FIRST comes into, had it begun with frame 0. */
static guint64
window_start (NfStream *stream, const NfConfig *config, guint64 first)
{
  const guint context = nf_stream_get_context (stream), step = config->frames - context;

  return first < context ? 0 : (first - context) / step * step;
}

/* One file at work. */
typedef struct
{
  NfSession *session;
  const NfScan *scan;
  const char *path;
  GArray *actions;  /* of guint: what happens between a frame and the next, */
  GArray *controls; /* or of float, action_dim a frame; NULL both without any */
  float *action;    /* action_dim numbers, of one frame */
  GArray *latents;  /* of float, of one frame */
  GArray *map;      /* likewise */
} Work;

static void
work_clear (Work *work)
{
  g_clear_pointer (&work->actions, g_array_unref);
  g_clear_pointer (&work->controls, g_array_unref);
  g_clear_pointer (&work->action, g_free);
  g_clear_pointer (&work->latents, g_array_unref);
  g_clear_pointer (&work->map, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Work, work_clear)

/* From the file beside the video. Actions stay numbers: vectors of them are as wide as the model says, and
 * the file may be long. */
static gboolean
read_actions (Work *work, guint action_dim, GError **error)
{
  g_autofree char *beside = g_strconcat (work->path, NF_ACTIONS_SUFFIX, NULL);
  if (action_dim == 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "--actions: the model knows none (action_dim is 0)");
      return FALSE;
    }
  work->action = g_new0 (float, action_dim);
  if (nf_actions_has_controls (beside))
    {
      guint n;
      work->controls = nf_actions_read_controls (beside, &n, error);
      if (!work->controls || n == action_dim)
        return work->controls != NULL;
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s has %u controls a frame, the model takes %u", beside,
                   n, action_dim);
      return FALSE;
    }
  work->actions = nf_actions_read (beside, action_dim, error);
  return work->actions != NULL;
}

/* Of the frame before number INDEX. */
static gboolean
find_action (Work *work, const NfConfig *config, guint64 index, const float **action, GError **error)
{
  const guint action_dim = config->action_dim;
  *action = NULL;
  if ((!work->actions && !work->controls) || index == 0)
    return TRUE;
  if (index > (work->actions ? work->actions->len : work->controls->len / action_dim))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s%s ends before frame %" G_GUINT64_FORMAT " of the video", work->path, NF_ACTIONS_SUFFIX,
                   index - 1);
      return FALSE;
    }
  memset (work->action, 0, action_dim * sizeof *work->action);
  const guint number = work->actions ? g_array_index (work->actions, guint, index - 1) : NF_ACTIONS_UNKNOWN;
  if (number != NF_ACTIONS_UNKNOWN && (number > 0 || !config->controls)) /* controls rest at 0 */
    work->action[number] = 1;
  if (work->controls)
    memcpy (work->action, &g_array_index (work->controls, float, (gsize)(index - 1) * action_dim),
            action_dim * sizeof *work->action);
  *action = work->action;
  return TRUE;
}

/* Names the option by which frames of another size than the stream's can be encoded, where that is what is
 * WRONG with PICTURE. */
static void
offer_scale (const NfScan *scan, const NfConfig *config, const NfPicture *picture, GError *wrong)
{
  if (!scan->stream || !scan->may_scale || scan->scale
      || !g_error_matches (wrong, NF_ERROR, NF_ERROR_ARGUMENT)
      || (picture->frame.width == nf_config_columns (config)
          && picture->frame.height == nf_config_rows (config)))
    return;
  char *offer = g_strconcat (wrong->message, " (--scale does it)", NULL);
  g_free (wrong->message);
  wrong->message = offer;
}

/* FRAME's picture is encoded, the DONE-th of its file. */
static gboolean
score_frame (Work *work, guint64 done, NfScanFrame *frame, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (work->session));
  const NfScan *scan = work->scan;
  const NfPicture *picture = frame->picture;
  const gint64 start = g_get_monotonic_time ();
  GError *local = NULL;

  if (!nf_grid_init (&frame->grid, config, picture->frame.width, picture->frame.height, error)
      || !find_action (work, config, picture->index, &frame->action, error))
    return FALSE;
  g_array_set_size (work->latents, (guint)nf_grid_latents (&frame->grid));
  g_array_set_size (work->map, frame->grid.grid_width * frame->grid.grid_height);
  float *latents = (float *)(gpointer)work->latents->data, *map = (float *)(gpointer)work->map->data;
  if (scan->stream && scan->key_int_max && done % scan->key_int_max == 0)
    nf_stream_reset (scan->stream);
  if (scan->stream
          ? !nf_stream_encode (scan->stream, &picture->frame, frame->action, latents, &frame->score, map,
                               &local)
          : !nf_session_encode_frame (work->session, &picture->frame, latents, &frame->score, map, &local))
    {
      offer_scale (scan, config, picture, local);
      g_propagate_error (error, local);
      g_prefix_error (error, "%s, frame %" G_GUINT64_FORMAT ": ", work->path, picture->index);
      return FALSE;
    }
  frame->seconds = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
  frame->latents = latents;
  frame->map = map;
  if (scan->stream)
    nf_stream_get_corrections (scan->stream, &frame->corrections);
  else
    nf_session_get_corrections (work->session, &frame->corrections);
  return TRUE;
}

gboolean
nf_scan_file (NfSession *session, const char *path, const NfScan *scan, NfProgress *progress, NfScanFunc func,
              gpointer data, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, config->layout, error);
  g_autofree char *name = g_path_get_basename (path);
  g_auto (Work) work = { .session = session, .scan = scan, .path = path };
  NfScanFrame frame = { .reader = reader };
  guint64 first = 0, done = 0, total;
  double bits = 0;
  gint64 started = g_get_monotonic_time ();

  if (!reader)
    return FALSE;
  if (scan->actions && !read_actions (&work, config->action_dim, error))
    return FALSE;
  work.latents = g_array_new (FALSE, FALSE, sizeof (float));
  work.map = g_array_new (FALSE, FALSE, sizeof (float));
  if (scan->holdout > 0)
    {
      if (!nf_media_reader_index (reader, error))
        return FALSE;
      first = nf_scan_holdout_start (scan->holdout, nf_media_reader_get_info (reader)->n_frames);
      if (!nf_media_reader_seek (reader, scan->stream ? window_start (scan->stream, config, first) : first,
                                 error))
        return FALSE;
    }
  total = frames_of (reader, scan, first);
  if (scan->stream)
    nf_stream_reset (scan->stream);

  while (!scan->frames || done < scan->frames)
    {
      g_autoptr (GError) local = NULL;
      g_autoptr (NfPicture) picture = nf_media_reader_next (reader, &local);

      if (local)
        {
          g_propagate_error (error, g_steal_pointer (&local));
          return FALSE;
        }
      if (!picture)
        break;
      frame.between = picture->index < first || (picture->index - first) % scan->every != 0;
      if (frame.between && !scan->stream)
        continue;
      if (scan->scale)
        {
          NfPicture *scaled
              = nf_picture_scale (picture, nf_config_columns (config), nf_config_rows (config), error);
          if (!scaled)
            return FALSE;
          nf_picture_unref (picture);
          picture = scaled;
        }
      frame.picture = picture;
      if ((scan->score && !score_frame (&work, done, &frame, error)) || !func (&frame, data, error))
        return FALSE;
      if (frame.between)
        continue;
      bits += frame.score.bits_per_dim;
      done++;
      if (nf_progress_due (progress))
        {
          g_autofree char *of = total ? g_strdup_printf (" of %" G_GUINT64_FORMAT, total) : g_strdup ("");
          g_autofree char *score
              = scan->score ? g_strdup_printf (", %.4f bits/dim", bits / (double)done) : g_strdup ("");

          nf_progress_update (
              progress, "%s: frame %" G_GUINT64_FORMAT "%s%s, %.2f frames/s", name, done, of, score,
              (double)done * G_USEC_PER_SEC / (double)MAX (g_get_monotonic_time () - started, 1));
        }
    }
  if (!done)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: no frame to work on", path);
      return FALSE;
    }
  g_autofree char *damage = nf_media_reader_describe_damage (reader);
  if (damage)
    nf_progress_note (progress, "%s: %s", path, damage);
  return TRUE;
}

static int
compare_doubles (gconstpointer a, gconstpointer b)
{
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

double *
nf_scan_sorted (const double *values, guint n)
{
  double *sorted = g_memdup2 (values, n * sizeof *values);

  qsort (sorted, n, sizeof *sorted, compare_doubles);
  return sorted;
}

double
nf_scan_quantile (const double *sorted, guint n, double q)
{
  double at = CLAMP (q, 0, 1) * (n - 1);
  guint i = (guint)at;

  return i + 1 < n ? sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}
