/* normflow: GStreamer plugin, the model behind an element. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowengine.h"
#include "gstflowlatent.h"

#include <stdlib.h>
#include <string.h>

#define GST_CAT_DEFAULT gst_flow_debug

#define RECENT 64              /* frames that latency and percentiles look back on */
#define LATENCY_HEADROOM 1.05  /* reported over measured */
#define LATENCY_TOLERANCE 0.25 /* a change that is worth reporting */

/* Errors */

static void
find_code (const GError *error, GQuark *domain, gint *code)
{
  static const struct
  {
    NfError error;
    GQuark (*domain) (void);
    gint code;
  } codes[] = {
    { NF_ERROR_NO_DEVICE, gst_library_error_quark, GST_LIBRARY_ERROR_INIT },
    { NF_ERROR_DEVICE, gst_library_error_quark, GST_LIBRARY_ERROR_FAILED },
    { NF_ERROR_BUILD, gst_library_error_quark, GST_LIBRARY_ERROR_FAILED },
    { NF_ERROR_NO_MEMORY, gst_resource_error_quark, GST_RESOURCE_ERROR_NO_SPACE_LEFT },
    { NF_ERROR_NOT_FOUND, gst_resource_error_quark, GST_RESOURCE_ERROR_NOT_FOUND },
    { NF_ERROR_READ, gst_resource_error_quark, GST_RESOURCE_ERROR_OPEN_READ },
    { NF_ERROR_WRITE, gst_resource_error_quark, GST_RESOURCE_ERROR_OPEN_WRITE },
    { NF_ERROR_FORMAT, gst_stream_error_quark, GST_STREAM_ERROR_WRONG_TYPE },
    { NF_ERROR_CONFIG, gst_stream_error_quark, GST_STREAM_ERROR_WRONG_TYPE },
    { NF_ERROR_UNSUPPORTED, gst_stream_error_quark, GST_STREAM_ERROR_NOT_IMPLEMENTED },
    { NF_ERROR_ARGUMENT, gst_resource_error_quark, GST_RESOURCE_ERROR_SETTINGS },
    { NF_ERROR_DATA, gst_stream_error_quark, GST_STREAM_ERROR_DECODE },
  };

  *domain = GST_LIBRARY_ERROR;
  *code = GST_LIBRARY_ERROR_FAILED;
  for (guint i = 0; error->domain == NF_ERROR && i < G_N_ELEMENTS (codes); i++)
    if ((gint)codes[i].error == error->code)
      {
        *domain = codes[i].domain ();
        *code = codes[i].code;
      }
}

GstFlowReturn
gst_flow_post_error_at (GstElement *element, const GError *error, const char *file, const char *function,
                        gint line)
{
  if (g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED))
    return GST_FLOW_FLUSHING;

  GQuark domain;
  gint code;
  find_code (error, &domain, &code);
  /* A build log follows the first line: that is for the curious. */
  const char *end = strchr (error->message, '\n');
  char *text = end ? g_strndup (error->message, end - error->message) : g_strdup (error->message);
  gst_element_message_full (element, GST_MESSAGE_ERROR, domain, code, text,
                            end ? g_strdup (error->message) : NULL, file, function, line);
  return GST_FLOW_ERROR;
}

/* Properties */

#define MODEL_BLURB                                                                                          \
  "A file, or a name to look up in NORMFLOW_MODEL_PATH and among the installed models; unset is "
#define DEVICE_BLURB                                                                                         \
  "OpenCL device: auto, cpu, gpu, PLATFORM:DEVICE or part of a name; unset is the environment variable "     \
  "NORMFLOW_DEVICE, else auto"
#define PRECISION_BLURB                                                                                      \
  "Precision of matrix products: f32, bf16 (half the weights, faster where the CPU has instructions for "    \
  "it), bf16-weights (the same weights, but what they multiply is not rounded), int8-weights (a quarter of " \
  "the weights, for what waits for memory), auto (the faster of f32 and bf16); unset is the environment "    \
  "variable NORMFLOW_PRECISION, else "
#define SAME_PRECISION ". Latents decode to the same bytes only in the precision that encoded them"
#define TEXT_BLURB                                                                                           \
  "File (safetensors or .pth) with text features that the model is to see: a tensor \"text\" (1, tokens, "   \
  "features), and \"null_text\" for guidance; unset is no text, or no class"
#define SAME_TEXT ". Latents decode to the same bytes only with the text that encoded them"

/* What differs by the work that an element does. */
typedef struct
{
  const char *model, *device, *precision, *text;
} Blurbs;

static Blurbs
choose_blurbs (gint work)
{
  switch (work)
    {
    case NF_SESSION_ENCODE:
      return (Blurbs){ MODEL_BLURB NF_MODEL_DEFAULT, DEVICE_BLURB, PRECISION_BLURB "f32" SAME_PRECISION,
                       TEXT_BLURB SAME_TEXT };
    case NF_SESSION_DECODE:
      return (Blurbs){ MODEL_BLURB NF_MODEL_DEFAULT, DEVICE_BLURB,
                       PRECISION_BLURB "what the latents were made in, else f32" SAME_PRECISION,
                       TEXT_BLURB SAME_TEXT };
    case NF_SESSION_DENOISE:
      return (Blurbs){ MODEL_BLURB NF_MODEL_NOISY, DEVICE_BLURB, PRECISION_BLURB "f32", TEXT_BLURB };
    default:
      return (Blurbs){ MODEL_BLURB NF_MODEL_DEFAULT,
                       "Has no effect, since drawing needs no device: it is there as in the other elements",
                       "What the caps of drawn latents say, for flowdecode to work in: f32, bf16, "
                       "bf16-weights or int8-weights; unset and auto are nothing",
                       NULL };
    }
}

void
gst_flow_engine_install_properties (GObjectClass *class, gint work)
{
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_FLOW_PARAM_MUTABLE_READY;
  const Blurbs blurbs = choose_blurbs (work);
  g_object_class_install_property (class, GST_FLOW_ENGINE_PROP_MODEL,
                                   g_param_spec_string ("model", "Model", blurbs.model, NULL, flags));
  g_object_class_install_property (class, GST_FLOW_ENGINE_PROP_DEVICE,
                                   g_param_spec_string ("device", "Device", blurbs.device, NULL, flags));
  g_object_class_install_property (
      class, GST_FLOW_ENGINE_PROP_PRECISION,
      g_param_spec_string ("precision", "Precision", blurbs.precision, NULL, flags));
  g_object_class_install_property (
      class, GST_FLOW_ENGINE_PROP_STATS,
      g_param_spec_boxed (
          "stats", "Statistics",
          "Frames, times in milliseconds, device memory in bytes since the state READY was reached",
          GST_TYPE_STRUCTURE, G_PARAM_READABLE | G_PARAM_STATIC_STRINGS));
  if (blurbs.text)
    g_object_class_install_property (class, GST_FLOW_ENGINE_PROP_TEXT,
                                     g_param_spec_string ("text", "Text features", blurbs.text, NULL, flags));
}

gboolean
gst_flow_is_started (GstElement *element)
{
  GST_OBJECT_LOCK (element);
  const gboolean started = MAX (GST_STATE (element), GST_STATE_NEXT (element)) > GST_STATE_READY;
  GST_OBJECT_UNLOCK (element);
  return started;
}

gboolean
gst_flow_can_set (gpointer element, const GValue *value, GParamSpec *pspec)
{
  g_auto (GValue) present = G_VALUE_INIT;
  if (!(pspec->flags & GST_PARAM_MUTABLE_READY))
    return TRUE;
  g_value_init (&present, pspec->value_type);
  g_object_get_property (element, pspec->name, &present);
  if (g_param_values_cmp (pspec, value, &present) == 0)
    return FALSE;
  if (gst_flow_is_started (element))
    {
      g_autofree char *kept = g_strdup_value_contents (&present);
      GST_ELEMENT_WARNING (
          element, RESOURCE, SETTINGS,
          ("The property %s can only change in the states NULL and READY: it stays %s", pspec->name, kept),
          (NULL));
      return FALSE;
    }
  g_object_notify_by_pspec (element, pspec); /* which waits for set_property to end */
  return TRUE;
}

static int
compare_doubles (const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Seconds that 95 % of the latest frames stayed under. */
static double
percentile_95 (GstFlowEngine *engine)
{
  const guint n = MIN (engine->frames, RECENT);
  if (n == 0)
    return 0;
  double sorted[RECENT];
  memcpy (sorted, engine->recent, n * sizeof *sorted);
  qsort (sorted, n, sizeof *sorted, compare_doubles);
  return sorted[(n * 95 + 99) / 100 - 1];
}

/* Whether the model that is open is the one that properties ask for. */
static gboolean
is_current (GstFlowEngine *engine)
{
  if (gst_flow_is_started (engine->element))
    return TRUE;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return !engine->stale;
}

static GstStructure *
get_stats (GstFlowEngine *engine)
{
  const gboolean current = is_current (engine);
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  const NfSessionStats *session = &engine->session_stats;
  const double span = (double)(engine->last_time - engine->first_time) / G_USEC_PER_SEC;
  const guint64 n = engine->frames;

  GstStructure *stats = gst_structure_new (
      "flow-stats", "frames", G_TYPE_UINT64, n, "dropped", G_TYPE_UINT64, engine->dropped, "avg-ms",
      G_TYPE_DOUBLE, n ? 1e3 * engine->total / n : 0, "last-ms", G_TYPE_DOUBLE,
      n ? 1e3 * engine->recent[(n - 1) % RECENT] : 0, "p95-ms", G_TYPE_DOUBLE, 1e3 * percentile_95 (engine),
      "fps", G_TYPE_DOUBLE, span > 0 ? n / span : 0, "upload-ms", G_TYPE_DOUBLE,
      1e3 * session->upload_seconds, "kernel-ms", G_TYPE_DOUBLE, 1e3 * session->kernel_seconds, "download-ms",
      G_TYPE_DOUBLE, 1e3 * session->download_seconds, "device-bytes", G_TYPE_UINT64, session->device_bytes,
      NULL);
  if (!current)
    return stats;
  if (engine->path)
    gst_structure_set (stats, "model-path", G_TYPE_STRING, engine->path, NULL);
  if (engine->digest)
    gst_structure_set (stats, "model-digest", G_TYPE_STRING, engine->digest, NULL);
  if (engine->model)
    {
      NfDevice *device = nf_model_get_device (engine->model);
      gst_structure_set (stats, "device-name", G_TYPE_STRING, nf_device_get_info (device)->name, "precision",
                         G_TYPE_STRING, nf_device_get_precision (device), "model-load-ms", G_TYPE_DOUBLE,
                         1e3 * nf_model_get_load_seconds (engine->model), "kernel-build-ms", G_TYPE_DOUBLE,
                         1e3 * nf_device_get_build_seconds (device), NULL);
    }
  return stats;
}

/* Where the string of a property is kept, NULL if it is none of ours. */
static char **
find_string (GstFlowEngine *engine, guint id)
{
  switch (id)
    {
    case GST_FLOW_ENGINE_PROP_MODEL:
      return &engine->model_name;
    case GST_FLOW_ENGINE_PROP_DEVICE:
      return &engine->device_spec;
    case GST_FLOW_ENGINE_PROP_PRECISION:
      return &engine->precision;
    case GST_FLOW_ENGINE_PROP_TEXT:
      return &engine->text;
    default:
      return NULL;
    }
}

gboolean
gst_flow_engine_set_property (GstFlowEngine *engine, guint id, const GValue *value)
{
  char **string = find_string (engine, id);
  if (!string)
    return FALSE;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  g_free (*string);
  *string = g_value_dup_string (value);
  engine->stale = TRUE;
  return TRUE;
}

gboolean
gst_flow_engine_get_property (GstFlowEngine *engine, guint id, GValue *value)
{
  switch (id)
    {
    case GST_FLOW_ENGINE_PROP_MODEL:
    case GST_FLOW_ENGINE_PROP_DEVICE:
    case GST_FLOW_ENGINE_PROP_PRECISION:
    case GST_FLOW_ENGINE_PROP_TEXT:
      g_mutex_lock (&engine->lock);
      g_value_set_string (value, *find_string (engine, id));
      g_mutex_unlock (&engine->lock);
      return TRUE;
    case GST_FLOW_ENGINE_PROP_STATS:
      g_value_take_boxed (value, get_stats (engine));
      return TRUE;
    default:
      return FALSE;
    }
}

/* Loading */

void
gst_flow_engine_post_progress (GstFlowEngine *engine, GstProgressType type, const char *phase, gint percent,
                               const char *text)
{
  g_autofree char *code = g_strdup_printf ("flow-%s", phase);
  GstMessage *message = gst_message_new_progress (GST_OBJECT (engine->element), type, code, text);
  gst_structure_set (gst_message_writable_structure (message), "percent", G_TYPE_INT, percent, NULL);
  gst_element_post_message (engine->element, message);
}

static const char *
phase_text (const char *phase)
{
  return g_str_equal (phase, "build") ? "Compiling kernels" : "Loading the model";
}

/* On the loading thread. Phases arrive one after the other; the model has been read and checked once another
 * than "load" begins. */
static void
on_progress (const char *phase, double fraction, gpointer data)
{
  GstFlowEngine *engine = data;
  const gint percent = CLAMP (fraction, 0, 1) * 100;

  if (g_strcmp0 (engine->phase, phase) == 0)
    {
      gst_flow_engine_post_progress (engine, GST_PROGRESS_TYPE_CONTINUE, phase, percent, phase_text (phase));
      return;
    }
  if (engine->phase)
    {
      gst_flow_engine_post_progress (engine, GST_PROGRESS_TYPE_COMPLETE, engine->phase, 100,
                                     phase_text (engine->phase));
      g_mutex_lock (&engine->lock);
      engine->checked = TRUE;
      g_cond_broadcast (&engine->changed);
      g_mutex_unlock (&engine->lock);
    }
  engine->phase = phase;
  gst_flow_engine_post_progress (engine, GST_PROGRESS_TYPE_START, phase, percent, phase_text (phase));
}

/* Ends the current phase and the loading itself. ERROR is NULL on success. */
static void
end_loading (GstFlowEngine *engine, const GError *error)
{
  const char *phase = engine->phase;
  if (!error)
    gst_flow_engine_post_progress (engine, GST_PROGRESS_TYPE_COMPLETE, phase, 100, phase_text (phase));
  else if (g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED))
    gst_flow_engine_post_progress (engine, GST_PROGRESS_TYPE_CANCELED, phase, 0, "Loading was cancelled");
  else
    {
      gst_flow_engine_post_progress (engine, GST_PROGRESS_TYPE_ERROR, phase, 0, error->message);
      gst_flow_post_error (engine->element, error);
    }
  g_mutex_lock (&engine->lock);
  engine->loading = FALSE;
  engine->failed = error != NULL;
  g_cond_broadcast (&engine->changed);
  g_mutex_unlock (&engine->lock);
}

/* Under the lock. */
static void
read_stats (GstFlowEngine *engine)
{
  if (engine->session)
    nf_session_get_stats (engine->session, &engine->session_stats);
  if (engine->stream)
    nf_stream_get_stats (engine->stream, &engine->session_stats);
}

/* Under the lock: of the device. */
static char *
dup_spec (GstFlowEngine *engine)
{
  g_autofree char *spec = g_strconcat (engine->device_spec ? engine->device_spec : "",
                                       engine->precision ? ",precision=" : NULL, engine->precision, NULL);
  return engine->stated ? nf_device_prefer (spec, engine->stated, engine->stated_arithmetic)
                        : g_steal_pointer (&spec);
}

static gpointer
load_thread (gpointer data)
{
  GstFlowEngine *engine = data;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfStream) stream = NULL;

  g_mutex_lock (&engine->lock);
  g_autofree char *path = g_strdup (engine->path), *text = g_strdup (engine->text);
  g_autofree char *spec = dup_spec (engine);
  g_mutex_unlock (&engine->lock);

  g_autoptr (NfDevice) device = nf_device_open (spec, &error);
  if (device)
    model = nf_model_load (path, device, on_progress, engine, engine->load_cancellable, &error);
  if (model && g_cancellable_is_cancelled (engine->load_cancellable))
    g_set_error (&error, NF_ERROR, NF_ERROR_CANCELLED, "loading the model was cancelled");
  else if (model && nf_model_get_config (model)->frames)
    {
      stream = nf_stream_new (model, &error);
      if (stream && (!text || nf_stream_load_text (stream, text, &error)))
        {
          nf_stream_set_cancellable (stream, engine->load_cancellable);
          nf_stream_prepare (stream, &error);
        }
    }
  else if (model)
    {
      session = nf_session_new (model, &error);
      if (session && (!text || nf_session_load_text (session, text, &error)))
        {
          nf_session_set_cancellable (session, engine->load_cancellable);
          nf_session_prepare (session, engine->work, &error);
        }
    }
  if (!error)
    {
      GST_INFO_OBJECT (engine->element, "model %s (%.16s) on %s", path, nf_model_get_digest (model),
                       nf_device_get_info (nf_model_get_device (model))->name);
      g_mutex_lock (&engine->lock);
      g_free (engine->digest);
      engine->digest = g_strdup (nf_model_get_digest (model));
      g_free (engine->text_digest);
      engine->text_digest
          = g_strdup (stream ? nf_stream_get_text_digest (stream) : nf_session_get_text_digest (session));
      engine->model = g_steal_pointer (&model);
      engine->session = g_steal_pointer (&session);
      engine->stream = g_steal_pointer (&stream);
      read_stats (engine);
      g_mutex_unlock (&engine->lock);
    }
  end_loading (engine, error);
  return NULL;
}

static NfConfig *
read_config (const char *path, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  return file ? nf_checkpoint_config (file, NULL, NULL, error) : NULL;
}

/* Of an element without a device, which would say so. */
static gboolean
check_precision (GstFlowEngine *engine, GError **error)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  const char *name = engine->precision;
  if (!name || g_str_equal (name, "auto") || gst_flow_find_precision (name))
    return TRUE;
  g_autofree char *known = g_strjoinv (", ", (char **)nf_device_precisions ());
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "precision \"%s\" is not one of: %s, auto", name, known);
  return FALSE;
}

/* What needs no device: where the model is, and what it is like. */
static gboolean
read_model (GstFlowEngine *engine, GError **error)
{
  g_autoptr (NfConfig) config = NULL;
  g_autofree char *digest = NULL;

  g_mutex_lock (&engine->lock);
  g_autofree char *name = g_strdup (engine->model_name);
  g_mutex_unlock (&engine->lock);
  if (!name && engine->work == NF_SESSION_DENOISE)
    name = g_strdup (NF_MODEL_NOISY);

  if (engine->work == GST_FLOW_ENGINE_NO_WORK && !check_precision (engine, error))
    return FALSE;
  g_autofree char *path = nf_model_find (name, error);
  if (path)
    config = read_config (path, error);
  if (!config)
    return FALSE;
  if (engine->work == NF_SESSION_DENOISE && config->frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "flowdenoise needs a model of images, but %s is one of videos", path);
      return FALSE;
    }
  if (engine->work == GST_FLOW_ENGINE_NO_WORK)
    {
      digest = nf_model_digest_of_file (path, error);
      if (!digest)
        return FALSE;
    }
  g_mutex_lock (&engine->lock);
  engine->path = g_steal_pointer (&path);
  engine->config = g_steal_pointer (&config);
  engine->digest = g_steal_pointer (&digest);
  g_mutex_unlock (&engine->lock);
  return TRUE;
}

/* Cancels loading if it goes on, and drops what it brought. */
static void
unload (GstFlowEngine *engine)
{
  g_mutex_lock (&engine->lock);
  if (engine->load_cancellable)
    g_cancellable_cancel (engine->load_cancellable);
  g_mutex_unlock (&engine->lock);
  if (engine->thread)
    g_thread_join (g_steal_pointer (&engine->thread));

  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  g_clear_object (&engine->load_cancellable);
  g_clear_object (&engine->session);
  g_clear_object (&engine->stream);
  g_clear_object (&engine->model);
}

static void
begin_loading (GstFlowEngine *engine)
{
  g_mutex_lock (&engine->lock);
  engine->failed = FALSE;
  engine->loading = TRUE;
  engine->phase = NULL;
  engine->load_cancellable = g_cancellable_new ();
  g_mutex_unlock (&engine->lock);
  on_progress ("load", 0, engine);
}

static void
engine_close (GstFlowEngine *engine)
{
  unload (engine);
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  engine->open = FALSE;
  g_clear_pointer (&engine->config, nf_config_free);
  g_clear_pointer (&engine->path, g_free);
  g_clear_pointer (&engine->digest, g_free);
  g_clear_pointer (&engine->text_digest, g_free);
}

static gboolean
engine_open (GstFlowEngine *engine)
{
  g_autoptr (GError) error = NULL;

  g_mutex_lock (&engine->lock);
  engine->open = TRUE;
  engine->stale = FALSE;
  engine->stated = NULL;
  g_clear_pointer (&engine->stated_arithmetic, g_free);
  engine->checked = FALSE;
  engine->frames = engine->dropped = 0;
  engine->first_time = engine->last_time = 0;
  engine->total = 0;
  engine->latency = 0;
  memset (&engine->session_stats, 0, sizeof engine->session_stats);
  g_mutex_unlock (&engine->lock);

  begin_loading (engine);
  if (!read_model (engine, &error) || engine->work == GST_FLOW_ENGINE_NO_WORK)
    end_loading (engine, error);
  else
    engine->thread = g_thread_new ("flow-load", load_thread, engine);

  g_mutex_lock (&engine->lock);
  while (engine->loading && !engine->checked)
    g_cond_wait (&engine->changed, &engine->lock);
  const gboolean failed = engine->failed;
  g_mutex_unlock (&engine->lock);
  if (failed)
    engine_close (engine);
  return !failed;
}

GstStateChangeReturn
gst_flow_engine_change_state (GstFlowEngine *engine, GstElementClass *parent_class, GstStateChange transition)
{
  switch (transition)
    {
    case GST_STATE_CHANGE_NULL_TO_READY:
      if (!engine_open (engine))
        return GST_STATE_CHANGE_FAILURE;
      break;
    case GST_STATE_CHANGE_READY_TO_PAUSED:
      {
        g_mutex_lock (&engine->lock);
        const gboolean reopen = engine->stale || engine->failed || !engine->open;
        g_mutex_unlock (&engine->lock);
        if (reopen)
          {
            engine_close (engine);
            if (!engine_open (engine))
              return GST_STATE_CHANGE_FAILURE;
          }
        gst_flow_engine_set_flushing (engine, FALSE);
        break;
      }
    case GST_STATE_CHANGE_PAUSED_TO_READY:
      /* Pads cannot be stopped before the streaming threads leave the session. */
      gst_flow_engine_set_flushing (engine, TRUE);
      break;
    default:
      break;
    }

  GstStateChangeReturn result = parent_class->change_state (engine->element, transition);
  if (transition == GST_STATE_CHANGE_PAUSED_TO_READY)
    {
      gst_flow_engine_accept_caps (engine);
      g_clear_pointer (&engine->format, gst_video_codec_state_unref);
      engine->unsettled = FALSE;
    }
  if (transition == GST_STATE_CHANGE_READY_TO_NULL
      || (transition == GST_STATE_CHANGE_NULL_TO_READY && result == GST_STATE_CHANGE_FAILURE))
    engine_close (engine);
  return result;
}

/* Use by streaming threads */

void
gst_flow_engine_set_flushing (GstFlowEngine *engine, gboolean flushing)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  engine->flushing = flushing;
  if (flushing)
    g_cancellable_cancel (engine->work_cancellable);
  else
    {
      g_object_unref (engine->work_cancellable);
      engine->work_cancellable = g_cancellable_new ();
    }
  g_cond_broadcast (&engine->changed);
}

GstFlowReturn
gst_flow_refuse_event (GstEventType type, gboolean flushing)
{
  if (flushing)
    return GST_FLOW_FLUSHING;
  return type == GST_EVENT_CAPS ? GST_FLOW_NOT_NEGOTIATED : GST_FLOW_ERROR;
}

static GstFlowReturn
take_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  GstFlowEngine *engine = pad->eventdata;
  const GstEventType type = GST_EVENT_TYPE (event);
  if (engine->take_event (pad, parent, event)
      && (type != GST_EVENT_CAPS || !engine->unsettled
          || engine->set_format (engine->element, engine->format)))
    return GST_FLOW_OK;
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return gst_flow_refuse_event (type, engine->flushing);
}

void
gst_flow_engine_watch_events (GstFlowEngine *engine, GstPad *pad, GstFlowSetFormat set_format)
{
  engine->set_format = set_format;
  engine->take_event = GST_PAD_EVENTFUNC (pad);
  gst_pad_set_event_full_function_full (pad, take_event, engine, NULL);
}

static GstFlowReturn
take_buffer (GstPad *pad, GstObject *parent, GstBuffer *buffer)
{
  GstFlowEngine *engine = pad->chaindata;
  const gboolean discont = engine->discont || GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_DISCONT);
  const gboolean gap
      = gst_buffer_get_size (buffer) == 0 && GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_GAP);
  if (!gap && engine->discont)
    {
      buffer = gst_buffer_make_writable (buffer);
      GST_BUFFER_FLAG_SET (buffer, GST_BUFFER_FLAG_DISCONT);
    }
  engine->discont = gap && discont;
  if (!gap)
    return engine->chain (pad, parent, buffer);
  /* upstream does not hear of events that go nowhere, either */
  if (GST_BUFFER_PTS_IS_VALID (buffer))
    gst_pad_send_event (pad, gst_event_new_gap (GST_BUFFER_PTS (buffer), GST_BUFFER_DURATION (buffer)));
  gst_buffer_unref (buffer);
  return GST_PAD_IS_FLUSHING (pad) ? GST_FLOW_FLUSHING : GST_FLOW_OK;
}

void
gst_flow_engine_watch_gaps (GstFlowEngine *engine, GstPad *pad)
{
  engine->chain = GST_PAD_CHAINFUNC (pad);
  gst_pad_set_chain_function_full (pad, take_buffer, engine, NULL);
}

gboolean
gst_flow_engine_note_format (GstFlowEngine *engine, GstVideoCodecState *format, gboolean done)
{
  engine->unsettled = !done;
  if (done && format != engine->format)
    {
      g_clear_pointer (&engine->format, gst_video_codec_state_unref);
      engine->format = gst_video_codec_state_ref (format);
    }
  return done;
}

GstFlowReturn
gst_flow_engine_wait (GstFlowEngine *engine, NfSession **session)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  while (engine->loading && !engine->flushing)
    g_cond_wait (&engine->changed, &engine->lock);
  if (engine->flushing)
    return GST_FLOW_FLUSHING;
  if (engine->failed || !engine->open)
    return GST_FLOW_ERROR;
  if (engine->session)
    nf_session_set_cancellable (engine->session, engine->work_cancellable);
  if (engine->stream)
    nf_stream_set_cancellable (engine->stream, engine->work_cancellable);
  if (session)
    *session = engine->session;
  return GST_FLOW_OK;
}

static const char *
find_precision (GstFlowEngine *engine)
{
  return engine->model ? nf_device_get_precision (nf_model_get_device (engine->model))
                       : gst_flow_find_precision (engine->precision);
}

const char *
gst_flow_engine_get_precision (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return find_precision (engine);
}

/* Under the lock. */
static const char *
find_arithmetic (GstFlowEngine *engine)
{
  return engine->model ? nf_device_get_arithmetic (nf_model_get_device (engine->model)) : "";
}

const char *
gst_flow_engine_get_arithmetic (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return find_arithmetic (engine);
}

GstFlowReturn
gst_flow_engine_take_precision (GstFlowEngine *engine, const char *precision, const char *arithmetic)
{
  g_autoptr (GError) error = NULL;
  g_mutex_lock (&engine->lock);
  const char *const present = find_precision (engine), *const present_arithmetic = find_arithmetic (engine);
  const char *wanted = present, *wanted_arithmetic = present_arithmetic;
  const gboolean known
      = engine->stated == precision && g_strcmp0 (engine->stated_arithmetic, arithmetic) == 0;
  engine->stated = precision;
  g_free (engine->stated_arithmetic);
  engine->stated_arithmetic = g_strdup (arithmetic);
  g_mutex_unlock (&engine->lock);
  if (known
      || (precision == present
          && (!*arithmetic
              || (precision && nf_device_arithmetic_agrees (precision, arithmetic, present_arithmetic)))))
    return GST_FLOW_OK;

  if (engine->work != GST_FLOW_ENGINE_NO_WORK)
    {
      g_mutex_lock (&engine->lock);
      g_autofree char *spec = dup_spec (engine);
      g_mutex_unlock (&engine->lock);
      g_autoptr (NfDevice) device = nf_device_open (spec, &error);
      if (!device)
        {
          g_mutex_lock (&engine->lock);
          engine->stated = NULL; /* the model is still in the one before */
          g_mutex_unlock (&engine->lock);
          return gst_flow_post_error (engine->element, error);
        }
      wanted = nf_device_get_precision (device);
      wanted_arithmetic = nf_device_get_arithmetic (device);
    }
  if (precision && wanted && wanted != precision)
    GST_ELEMENT_WARNING (
        engine->element, STREAM, DECODE,
        ("The latents were made in %s, but the property precision, device or the environment "
         "says %s, which may give other samples back; leave it unset",
         precision, wanted),
        (NULL));
  else if (precision && *arithmetic && *wanted_arithmetic
           && !nf_device_arithmetic_agrees (precision, arithmetic, wanted_arithmetic))
    GST_ELEMENT_WARNING (
        engine->element, STREAM, DECODE,
        ("The latents were made in %s by %s, but are decoded by %s, which may give other samples "
         "back; leave out what asks for that, or take a device that has %s (see: normflow devices)",
         precision, arithmetic, wanted_arithmetic, arithmetic),
        (NULL));
  if (wanted == present && g_str_equal (wanted_arithmetic, present_arithmetic))
    return GST_FLOW_OK;
  unload (engine);
  begin_loading (engine);
  engine->thread = g_thread_new ("flow-load", load_thread, engine);
  return gst_flow_engine_wait (engine, NULL);
}

NfStream *
gst_flow_engine_get_stream (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return engine->stream;
}

/* CAPS are refused; whether they are others than before. */
static gboolean
remember_refused (GstFlowEngine *engine, GstCaps *caps)
{
  const gboolean again = caps && engine->refused && gst_caps_is_equal (engine->refused, caps);
  gst_caps_replace (&engine->refused, caps);
  return !again;
}

void
gst_flow_engine_refuse_caps (GstFlowEngine *engine, GstCaps *caps, const GError *error)
{
  if (remember_refused (engine, caps))
    gst_flow_post_error (engine->element, error);
}

gboolean
gst_flow_is_wanted (GstPad *pad, GstCaps *caps)
{
  g_autoptr (GstCaps) wanted = gst_pad_peer_query_caps (pad, caps);
  return gst_caps_can_intersect (wanted, caps);
}

void
gst_flow_engine_refuse_output (GstFlowEngine *engine, GstCaps *caps, GstPad *pad, const GstCaps *made)
{
  g_autoptr (GstCaps) wanted = gst_pad_peer_query_caps (pad, NULL);
  g_autofree char *text = gst_flow_describe_unwanted (made, wanted);
  if (!GST_PAD_IS_FLUSHING (pad) && remember_refused (engine, caps))
    GST_ELEMENT_ERROR (engine->element, CORE, NEGOTIATION, ("%s", text),
                       ("%" GST_PTR_FORMAT " is wanted", wanted));
}

void
gst_flow_engine_accept_caps (GstFlowEngine *engine)
{
  gst_clear_caps (&engine->refused);
}

NfConfig *
gst_flow_engine_dup_config (GstFlowEngine *engine)
{
  const gboolean current = is_current (engine);
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return current && engine->config ? nf_config_copy (engine->config) : NULL;
}

char *
gst_flow_engine_dup_digest (GstFlowEngine *engine)
{
  const gboolean current = is_current (engine);
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return g_strdup (current ? engine->digest : NULL);
}

char *
gst_flow_engine_dup_text_digest (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return g_strdup (engine->text_digest);
}

char *
gst_flow_engine_describe (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  if (!engine->config)
    return g_strdup ("no model");
  return g_strdup_printf ("%s (%.16s, %s, tiles of %ux%u pixels, patches of %u)", engine->path,
                          engine->digest ? engine->digest : "not loaded yet",
                          nf_pixel_layout_name (engine->config->layout), nf_config_columns (engine->config),
                          nf_config_rows (engine->config), engine->config->patch_size);
}

gboolean
gst_flow_engine_count_frame (GstFlowEngine *engine, gint64 start)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  const gint64 now = g_get_monotonic_time ();
  const double seconds = (double)(now - start) / G_USEC_PER_SEC;

  if (engine->frames == 0)
    engine->first_time = start;
  engine->last_time = now;
  engine->recent[engine->frames++ % RECENT] = seconds;
  engine->total += seconds;
  read_stats (engine);

  const double wanted = LATENCY_HEADROOM * percentile_95 (engine) * GST_SECOND;
  if (ABS (wanted - engine->latency) <= LATENCY_TOLERANCE * engine->latency)
    return FALSE;
  engine->latency = wanted;
  return TRUE;
}

GstClockTime
gst_flow_engine_get_last (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  double seconds = 0;
  for (guint64 i = 1; i <= MIN (engine->frames, 2); i++)
    seconds = MAX (seconds, engine->recent[(engine->frames - i) % RECENT]);
  return (GstClockTime)(seconds * GST_SECOND);
}

void
gst_flow_engine_count_dropped (GstFlowEngine *engine, guint64 n)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  engine->dropped += n;
}

void
gst_flow_engine_get_counts (GstFlowEngine *engine, guint64 *frames, guint64 *dropped)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  *frames = engine->frames;
  *dropped = engine->dropped;
}

GstClockTime
gst_flow_engine_get_latency (GstFlowEngine *engine)
{
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&engine->lock);
  return engine->latency;
}

void
gst_flow_engine_init (GstFlowEngine *engine, gpointer element, gint work)
{
  engine->element = element;
  engine->work = work;
  g_mutex_init (&engine->lock);
  g_cond_init (&engine->changed);
  engine->work_cancellable = g_cancellable_new ();
  engine->recent = g_new0 (double, RECENT);
}

void
gst_flow_engine_clear (GstFlowEngine *engine)
{
  engine_close (engine);
  g_clear_object (&engine->work_cancellable);
  g_clear_pointer (&engine->recent, g_free);
  g_clear_pointer (&engine->model_name, g_free);
  g_clear_pointer (&engine->device_spec, g_free);
  g_clear_pointer (&engine->precision, g_free);
  g_clear_pointer (&engine->stated_arithmetic, g_free);
  g_clear_pointer (&engine->text, g_free);
  g_cond_clear (&engine->changed);
  g_mutex_clear (&engine->lock);
}
