/* normflow: GStreamer plugin, how flowdecode decodes. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowsettings.h"

#define GST_CAT_DEFAULT gst_flow_debug

/* Types */

GType
gst_flow_guide_get_type (void)
{
  static gsize type;
  static const GFlagsValue values[] = {
    { NF_GUIDE_SCALE, "Log-scale", "scale" },
    { NF_GUIDE_SHIFT, "Shift", "shift" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_flags_register_static ("GstFlowGuide", values));
  return type;
}

GType
gst_flow_decode_method_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { NF_DECODE_AUTO, "Whichever proves fastest", "auto" },
    { NF_DECODE_SEQUENTIAL, "Token by token", "sequential" },
    { NF_DECODE_JACOBI, "Windows of tokens, iterated to their fixed point", "jacobi" },
    { NF_DECODE_DRAFT, "Drafts that encoding proves, wherever possible", "draft" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowDecodeMethod", values));
  return type;
}

GType
gst_flow_guess_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { NF_GUESS_LATENT, "The latents", "latent" },
    { NF_GUESS_ZEROS, "Zeros", "zeros" },
    { NF_GUESS_FRAME, "The frame before, with models of videos", "frame" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowGuess", values));
  return type;
}

GType
gst_flow_stream_denoise_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { NF_DENOISE_AUTO, "Learned if the model has a denoiser as wide as a token, else score", "auto" },
    { NF_DENOISE_LEARNED, "By the model's learned denoiser", "learned" },
    { NF_DENOISE_SCORE, "One exact step along the gradient of the likelihood", "score" },
    { NF_DENOISE_NONE, "As they were drawn", "none" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowStreamDenoise", values));
  return type;
}

/* Properties */

#define FLAGS                                                                                                \
  (G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE)

static void
install_sampling (GObjectClass *class)
{
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_CLASS,
      g_param_spec_int ("class", "Class", "Class to sample, for models of images with classes; -1 is none",
                        -1, G_MAXINT, -1, FLAGS));
  g_object_class_install_property (class, GST_FLOW_SETTINGS_PROP_GUIDANCE,
                                   g_param_spec_double ("guidance", "Guidance",
                                                        "Weight of guidance, for models of images; 0 is none",
                                                        0, 1e6, 0, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_GUIDE,
      g_param_spec_flags ("guide", "Guide", "What guidance acts on: scale, the log-scales, and shift",
                          GST_TYPE_FLOW_GUIDE, NF_GUIDE_SCALE | NF_GUIDE_SHIFT, FLAGS));
  g_object_class_install_property (class, GST_FLOW_SETTINGS_PROP_ANNEALED,
                                   g_param_spec_boolean ("annealed", "Annealed",
                                                         "Let guidance grow along the sequence of patches",
                                                         FALSE, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_ATTENTION_TEMPERATURE,
      g_param_spec_double (
          "attention-temperature", "Attention temperature",
          "What the unguided branch divides its attention logits by; with guidance and no class this "
          "guides unconditional models",
          1e-3, 1e6, 1, FLAGS));
}

static void
install_inversion (GObjectClass *class)
{
  g_object_class_install_property (class, GST_FLOW_SETTINGS_PROP_METHOD,
                                   g_param_spec_enum ("method", "Method",
                                                      "How latents become pixels; the result is the same",
                                                      GST_TYPE_FLOW_DECODE_METHOD, NF_DECODE_AUTO, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_WINDOW,
      g_param_spec_uint ("window", "Window",
                         "Tokens of a sweep of method jacobi; 0 is the most there is "
                         "memory for",
                         0, 65536, 0, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_GUESS,
      g_param_spec_enum ("guess", "Guess",
                         "Where sweeps start; frame is for models of videos, with others as latent",
                         GST_TYPE_FLOW_GUESS, NF_GUESS_LATENT, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_TOLERANCE,
      g_param_spec_double ("tolerance", "Tolerance",
                           "Change of a value between sweeps that counts as none; 0 gives the same bits as "
                           "token by token",
                           0, 1, 0, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_BLOCKS,
      g_param_spec_string ("blocks", "Blocks",
                           "In place of window, guess and tolerance those of each block of the flow, block 0 "
                           "first: WINDOW, WINDOW:GUESS or WINDOW:GUESS:TOLERANCE, separated by commas, such "
                           "as 16,1,32:zeros; 1 is token by token, 0 as method says",
                           NULL, FLAGS & ~GST_PARAM_CONTROLLABLE));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_MAX_SWEEPS,
      g_param_spec_uint ("max-sweeps", "Most sweeps",
                         "Sweeps after which a window is taken as it is; 0 is no limit", 0, G_MAXINT, 0,
                         FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_BUDGET_MS,
      g_param_spec_double ("budget-ms", "Budget",
                           "Milliseconds for a frame, after which windows of what is left of it are swept "
                           "once only; 0 is no limit",
                           0, GST_FLOW_MOST_BUDGET_MS, 0, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_KEEP_UP,
      g_param_spec_boolean ("keep-up", "Keep up",
                            "Rather end a frame early, as budget-ms does, than let it be late: its budget is "
                            "the time that sinks say is left (QoS)",
                            FALSE, FLAGS));
  g_object_class_install_property (
      class, GST_FLOW_SETTINGS_PROP_DENOISE,
      g_param_spec_enum ("denoise", "Denoise",
                         "What is shown of drawn frames, with a model that was trained with Gaussian noise; "
                         "frames that were encoded come back as they were",
                         GST_TYPE_FLOW_STREAM_DENOISE, NF_DENOISE_AUTO, FLAGS));
}

void
gst_flow_settings_install_properties (GObjectClass *class)
{
  install_sampling (class);
  install_inversion (class);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_GUIDE, 0);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_DECODE_METHOD, 0);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_GUESS, 0);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_STREAM_DENOISE, 0);
}

/* Setting them */

gboolean
gst_flow_refuse_class_of_videos (gint label, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "class %d: models of videos are decoded without, it must be -1", label);
  return FALSE;
}

/* Whether a model of CONFIG has what the property ID asks for in HOW. */
static gboolean
check_setting (guint id, const GstFlowDecoding *how, const NfConfig *config, GError **error)
{
  switch (id)
    {
    case GST_FLOW_SETTINGS_PROP_CLASS:
      if (config->frames && how->label >= 0)
        return gst_flow_refuse_class_of_videos (how->label, error);
      return nf_config_check_class (config, how->label, error);
    case GST_FLOW_SETTINGS_PROP_GUIDANCE:
      if (!config->frames || how->options.guidance == 0)
        return TRUE;
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "guidance %g: models of videos are decoded without, it must be 0", how->options.guidance);
      return FALSE;
    case GST_FLOW_SETTINGS_PROP_BLOCKS:
      return nf_decode_options_check (&how->options, config, error);
    default:
      return TRUE;
    }
}

/* FALSE with an error if VALUE says nothing. */
static gboolean
change_setting (GstFlowDecoding *how, guint id, const GValue *value, GError **error)
{
  switch (id)
    {
    case GST_FLOW_SETTINGS_PROP_CLASS:
      how->label = g_value_get_int (value);
      break;
    case GST_FLOW_SETTINGS_PROP_GUIDANCE:
      how->options.guidance = g_value_get_double (value);
      break;
    case GST_FLOW_SETTINGS_PROP_GUIDE:
      how->options.guide = g_value_get_flags (value);
      break;
    case GST_FLOW_SETTINGS_PROP_ANNEALED:
      how->options.annealed = g_value_get_boolean (value);
      break;
    case GST_FLOW_SETTINGS_PROP_ATTENTION_TEMPERATURE:
      how->options.attention_temperature = g_value_get_double (value);
      break;
    case GST_FLOW_SETTINGS_PROP_METHOD:
      how->options.method = g_value_get_enum (value);
      break;
    case GST_FLOW_SETTINGS_PROP_WINDOW:
      how->options.window = g_value_get_uint (value);
      break;
    case GST_FLOW_SETTINGS_PROP_GUESS:
      how->options.guess = g_value_get_enum (value);
      break;
    case GST_FLOW_SETTINGS_PROP_TOLERANCE:
      how->options.tolerance = g_value_get_double (value);
      break;
    case GST_FLOW_SETTINGS_PROP_BLOCKS:
      return nf_decode_options_set_blocks (&how->options, g_value_get_string (value), error);
    case GST_FLOW_SETTINGS_PROP_MAX_SWEEPS:
      how->options.max_sweeps = g_value_get_uint (value);
      break;
    case GST_FLOW_SETTINGS_PROP_BUDGET_MS:
      how->options.budget_ms = g_value_get_double (value);
      break;
    case GST_FLOW_SETTINGS_PROP_KEEP_UP:
      how->keep_up = g_value_get_boolean (value);
      break;
    case GST_FLOW_SETTINGS_PROP_DENOISE:
      how->options.denoise = g_value_get_enum (value);
      break;
    default:
      break;
    }
  return TRUE;
}

/* Of what is wrong nobody hears before the start, or the first frame, which then fails. Later it is a
 * warning, and one only of what a control source sets with each frame. */
static void
set_setting (GstFlowSettings *self, guint id, const GValue *value)
{
  GstElement *element = self->engine->element;
  const gboolean started = gst_flow_is_started (element);
  g_autoptr (NfConfig) config = started ? gst_flow_engine_dup_config (self->engine) : NULL;
  g_autoptr (GError) error = NULL;
  GST_OBJECT_LOCK (element);
  GstFlowDecoding how = self->wanted;
  if (change_setting (&how, id, value, &error) && config)
    check_setting (id, &how, config, &error);
  const gboolean refused = error && started, same = self->refused_id == id,
                 again = refused && same && g_strcmp0 (self->refused, error->message) == 0;
  if (refused || same)
    {
      self->refused_id = id;
      g_free (self->refused);
      self->refused = refused ? g_strdup (error->message) : NULL;
    }
  if (!refused)
    self->wanted = how;
  if (!refused && id == GST_FLOW_SETTINGS_PROP_BLOCKS)
    {
      g_free (self->blocks);
      self->blocks = g_value_dup_string (value);
      g_clear_error (&self->unclear_blocks);
      self->unclear_blocks = g_steal_pointer (&error);
    }
  GST_OBJECT_UNLOCK (element);
  if (refused && !again)
    GST_ELEMENT_WARNING (element, RESOURCE, SETTINGS,
                         ("%s; the %s kept", error->message,
                          id == GST_FLOW_SETTINGS_PROP_BLOCKS ? "ones before are" : "one before is"),
                         (NULL));
}

gboolean
gst_flow_settings_set_property (GstFlowSettings *settings, guint id, const GValue *value)
{
  if (id < GST_FLOW_SETTINGS_PROP_CLASS || id >= GST_FLOW_SETTINGS_PROP_LAST)
    return FALSE;
  set_setting (settings, id, value);
  return TRUE;
}

gboolean
gst_flow_settings_get_property (GstFlowSettings *settings, guint id, GValue *value)
{
  const GstFlowDecoding *how = &settings->wanted;
  gboolean done = TRUE;
  GST_OBJECT_LOCK (settings->engine->element);
  switch (id)
    {
    case GST_FLOW_SETTINGS_PROP_CLASS:
      g_value_set_int (value, how->label);
      break;
    case GST_FLOW_SETTINGS_PROP_GUIDANCE:
      g_value_set_double (value, how->options.guidance);
      break;
    case GST_FLOW_SETTINGS_PROP_GUIDE:
      g_value_set_flags (value, how->options.guide);
      break;
    case GST_FLOW_SETTINGS_PROP_ANNEALED:
      g_value_set_boolean (value, how->options.annealed);
      break;
    case GST_FLOW_SETTINGS_PROP_ATTENTION_TEMPERATURE:
      g_value_set_double (value, how->options.attention_temperature);
      break;
    case GST_FLOW_SETTINGS_PROP_METHOD:
      g_value_set_enum (value, how->options.method);
      break;
    case GST_FLOW_SETTINGS_PROP_WINDOW:
      g_value_set_uint (value, how->options.window);
      break;
    case GST_FLOW_SETTINGS_PROP_GUESS:
      g_value_set_enum (value, how->options.guess);
      break;
    case GST_FLOW_SETTINGS_PROP_TOLERANCE:
      g_value_set_double (value, how->options.tolerance);
      break;
    case GST_FLOW_SETTINGS_PROP_BLOCKS:
      g_value_set_string (value, settings->blocks);
      break;
    case GST_FLOW_SETTINGS_PROP_MAX_SWEEPS:
      g_value_set_uint (value, how->options.max_sweeps);
      break;
    case GST_FLOW_SETTINGS_PROP_BUDGET_MS:
      g_value_set_double (value, how->options.budget_ms);
      break;
    case GST_FLOW_SETTINGS_PROP_KEEP_UP:
      g_value_set_boolean (value, how->keep_up);
      break;
    case GST_FLOW_SETTINGS_PROP_DENOISE:
      g_value_set_enum (value, how->options.denoise);
      break;
    default:
      done = FALSE;
    }
  GST_OBJECT_UNLOCK (settings->engine->element);
  return done;
}

gboolean
gst_flow_settings_start (GstFlowSettings *settings)
{
  GstElement *element = settings->engine->element;
  GST_OBJECT_LOCK (element);
  g_autoptr (GError) error = settings->unclear_blocks ? g_error_copy (settings->unclear_blocks) : NULL;
  GST_OBJECT_UNLOCK (element);
  if (error)
    GST_ELEMENT_ERROR (element, RESOURCE, SETTINGS, ("%s", error->message), (NULL));
  return !error;
}

void
gst_flow_settings_init (GstFlowSettings *settings, GstFlowEngine *engine)
{
  settings->engine = engine;
  settings->wanted.label = -1;
  settings->wanted.options = (NfDecodeOptions){ .guide = NF_GUIDE_SCALE | NF_GUIDE_SHIFT,
                                                .attention_temperature = 1,
                                                .snap = TRUE };
}

void
gst_flow_settings_clear (GstFlowSettings *settings)
{
  g_free (settings->blocks);
  g_free (settings->refused);
  g_clear_error (&settings->unclear_blocks);
}
