/* normflow: GStreamer plugin, how flowdecode decodes. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "gstflowengine.h"

G_BEGIN_DECLS

/**
 * GstFlowGuide:
 *
 * What guidance acts on: #NfGuide as a type of its own.
 */
#define GST_TYPE_FLOW_GUIDE (gst_flow_guide_get_type ())
GType gst_flow_guide_get_type (void);

/**
 * GstFlowDecodeMethod:
 *
 * How latents become pixels: #NfDecodeMethod as a type of its own.
 */
#define GST_TYPE_FLOW_DECODE_METHOD (gst_flow_decode_method_get_type ())
GType gst_flow_decode_method_get_type (void);

/**
 * GstFlowGuess:
 *
 * Where Jacobi's iteration starts: #NfGuess as a type of its own.
 */
#define GST_TYPE_FLOW_GUESS (gst_flow_guess_get_type ())
GType gst_flow_guess_get_type (void);

/**
 * GstFlowStreamDenoise:
 *
 * What is shown of drawn frames: #NfDenoise as a type of its own.
 */
#define GST_TYPE_FLOW_STREAM_DENOISE (gst_flow_stream_denoise_get_type ())
GType gst_flow_stream_denoise_get_type (void);

/**
 * GstFlowDecoding:
 * @options: of the library
 * @label: the class, -1 for none
 * @keep_up: a frame is ended early rather than late
 *
 * What a frame is decoded by. Two are the same if their bytes are.
 */
typedef struct
{
  NfDecodeOptions options;
  gint label;
  gboolean keep_up;
} GstFlowDecoding;

#define GST_FLOW_MOST_BUDGET_MS 1e6 /* in options, if there is one */

/**
 * GstFlowSettings:
 *
 * Which decoding is wanted: the properties `class`, `guidance`, `guide`, `annealed`, `attention-temperature`,
 * `method`, `window`, `guess`, `tolerance`, `blocks`, `max-sweeps`, `budget-ms`, `keep-up` and `denoise`. A
 * member of an element's own structure.
 */
typedef struct
{
  GstFlowEngine *engine;

  /* under the element's object lock */
  GstFlowDecoding wanted;
  char *blocks;           /* as they were set, */
  GError *unclear_blocks; /* and what is wrong with them, if anything */
  guint refused_id;       /* the property of which a value was refused last, */
  char *refused;          /* and what the warning said; NULL once it was set well */
} GstFlowSettings;

enum
{
  GST_FLOW_SETTINGS_PROP_CLASS = GST_FLOW_ENGINE_PROP_LAST,
  GST_FLOW_SETTINGS_PROP_GUIDANCE,
  GST_FLOW_SETTINGS_PROP_GUIDE,
  GST_FLOW_SETTINGS_PROP_ANNEALED,
  GST_FLOW_SETTINGS_PROP_ATTENTION_TEMPERATURE,
  GST_FLOW_SETTINGS_PROP_METHOD,
  GST_FLOW_SETTINGS_PROP_WINDOW,
  GST_FLOW_SETTINGS_PROP_GUESS,
  GST_FLOW_SETTINGS_PROP_TOLERANCE,
  GST_FLOW_SETTINGS_PROP_BLOCKS,
  GST_FLOW_SETTINGS_PROP_MAX_SWEEPS,
  GST_FLOW_SETTINGS_PROP_BUDGET_MS,
  GST_FLOW_SETTINGS_PROP_KEEP_UP,
  GST_FLOW_SETTINGS_PROP_DENOISE,
  GST_FLOW_SETTINGS_PROP_LAST, /* the first of the element's own */
};

/* In init and finalize. ENGINE: of the same element. */
void gst_flow_settings_init (GstFlowSettings *settings, GstFlowEngine *engine);
void gst_flow_settings_clear (GstFlowSettings *settings);

/* In class_init, set_property and get_property, as those of the engine. */
void gst_flow_settings_install_properties (GObjectClass *class);
gboolean gst_flow_settings_set_property (GstFlowSettings *settings, guint id, const GValue *value);
gboolean gst_flow_settings_get_property (GstFlowSettings *settings, guint id, GValue *value);

/* On the way to PAUSED. FALSE with an error message posted: what was set says nothing. */
gboolean gst_flow_settings_start (GstFlowSettings *settings);

/* FALSE, with %NF_ERROR_ARGUMENT: LABEL is a class, and the model is one of videos. */
gboolean gst_flow_refuse_class_of_videos (gint label, GError **error);

G_END_DECLS
