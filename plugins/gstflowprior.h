/* normflow: GStreamer plugin, frames drawn from the prior. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "gstflowaction.h"
#include "gstflowengine.h"
#include "gstflowlatent.h"

G_BEGIN_DECLS

/**
 * GstFlowPrior:
 *
 * Draws latents, frame after frame: of a model of videos with what follows them, the action that led to the
 * frame and its number since the last key frame. A member of an element's own structure, with the properties
 * `seed`, `temperature`, `action`, `action-map`, `key-int-max`, `controls`, `control-0` to `control-7`,
 * `pointer`, `qos` and `record-actions`.
 */
typedef struct
{
  GstElement *element;
  GstFlowActionInput input;

  /* under the element's object lock */
  gint64 wanted_seed; /* -1: a random one */
  gint64 seed;        /* in use, -1 if not started */
  double temperature;
  guint key_int_max;
  gint action;
  GstFlowAction controls; /* in its place, unknown for none */
  gboolean single;        /* they were set one by one: those that were not are 0 */
  gboolean pointer;       /* the first two of them are where it is */
  char *action_map;
  char *record_actions;
  gboolean started;
  guint n_actions; /* of the model in use, 0 for any */
  gboolean qos;
  double proportion;     /* as sinks told last */
  GstClockTime earliest; /* running time before which a frame would be late; none if unknown */
  guint64 n_drawn, n_left_out;
  GQueue keys; /* GstFlowKeyRequest, in the order of their coming */

  /* of the streaming thread */
  GstFlowLatentInfo info;
  guint32 index;             /* of the next frame, since the last key frame */
  guint32 run;               /* frames drawn since then, or since the last real one */
  guint32 mark;              /* of the frame before it */
  GstFlowAction last_action; /* of the frame before it */
  float *vector, *latents;
  float *nothing;        /* controls of zeros */
  GstClockTimeDiff late; /* of the frame that was found to be */
  gboolean warned;
  NfActionsWriter *record; /* or NULL */
  guint recorded_controls; /* of each of its lines, 0 for an action */
  gboolean recorded;       /* there are lines */
} GstFlowPrior;

/* Controls that have a property each: GstController drives numbers, not arrays of them. */
#define GST_FLOW_PRIOR_CONTROLS 8

enum
{
  GST_FLOW_PRIOR_PROP_SEED = GST_FLOW_ENGINE_PROP_LAST,
  GST_FLOW_PRIOR_PROP_TEMPERATURE,
  GST_FLOW_PRIOR_PROP_ACTION,
  GST_FLOW_PRIOR_PROP_ACTION_MAP,
  GST_FLOW_PRIOR_PROP_KEY_INT_MAX,
  GST_FLOW_PRIOR_PROP_CONTROLS,
  GST_FLOW_PRIOR_PROP_POINTER,
  GST_FLOW_PRIOR_PROP_QOS,
  GST_FLOW_PRIOR_PROP_RECORD_ACTIONS,
  GST_FLOW_PRIOR_PROP_CONTROL_0,
  GST_FLOW_PRIOR_PROP_LAST = GST_FLOW_PRIOR_PROP_CONTROL_0 + GST_FLOW_PRIOR_CONTROLS,
};

void gst_flow_prior_init (GstFlowPrior *prior, gpointer element);
void gst_flow_prior_clear (GstFlowPrior *prior);

/* In class_init, set_property and get_property, as those of the engine. */
void gst_flow_prior_install_properties (GObjectClass *class);
gboolean gst_flow_prior_set_property (GstFlowPrior *prior, guint id, const GValue *value);
gboolean gst_flow_prior_get_property (GstFlowPrior *prior, guint id, GValue *value);

/* Takes up seed, map and file, begins with a key frame. N_ACTIONS: of the model, 0 for any. FALSE with an
 * error message posted. */
gboolean gst_flow_prior_start (GstFlowPrior *prior, guint n_actions);
void gst_flow_prior_stop (GstFlowPrior *prior);

/* INFO is what CAPS say of latents, drawn or real, by ENGINE's model. FALSE if there is none, or with an
 * error message posted. */
gboolean gst_flow_prior_read_caps (GstFlowEngine *engine, const GstCaps *caps, GstFlowLatentInfo *info);
void gst_flow_prior_set_info (GstFlowPrior *prior, const GstFlowLatentInfo *info);

/* prior->last_action becomes that of this moment: controls, or of keys, else the property. */
void gst_flow_prior_take_action (GstFlowPrior *prior);

/* A frame goes on at PTS: prior->last_action, that of its moment, is recorded, if it is to be. */
void gst_flow_prior_record (GstFlowPrior *prior, GstClockTime pts);

/* Frame NUMBER of the seed, as a buffer with flags, offsets and its action, but without times. NULL with an
 * error message posted. */
GstBuffer *gst_flow_prior_draw (GstFlowPrior *prior, guint64 number);

/* EVENT (transfer full) goes to PAD before the next buffer, once what must go before it has gone. */
void gst_flow_prior_send_before_buffer (GstPad *pad, GstEvent *event);

/* Downstream wants a key frame: EVENT is its upstream force-key-unit. */
void gst_flow_prior_note_key_unit (GstFlowPrior *prior, GstEvent *event);

/* The next frame to be drawn, at PTS of SEGMENT, is a key frame if one is wanted by then. Before it PAD says
 * so downstream. */
void gst_flow_prior_answer_key_units (GstFlowPrior *prior, GstPad *pad, const GstSegment *segment,
                                      GstClockTime pts);

/* Another has made the frame at PTS of SEGMENT, and key frames that are wanted by then. All of them are
 * forgotten with SEGMENT NULL. */
void gst_flow_prior_forget_key_units (GstFlowPrior *prior, const GstSegment *segment, GstClockTime pts);

/* What a QoS event says: frames before its time would be late. And forgetting it, after a flush. */
void gst_flow_prior_note_qos (GstFlowPrior *prior, GstEvent *event);
void gst_flow_prior_forget_qos (GstFlowPrior *prior);

/* Whether a frame at PTS of SEGMENT would be late. Then nothing is to be drawn for times from there up to
 * *UNTIL, or what follows the segment. A world goes on with its next frame at the next time. */
gboolean gst_flow_prior_is_late (GstFlowPrior *prior, const GstSegment *segment, GstClockTime pts,
                                 GstClockTime *until);

/* After that: N frames from PTS on, of DURATION together, are left out. They are counted, and one QoS message
 * says so. */
void gst_flow_prior_leave_out (GstFlowPrior *prior, const GstSegment *segment, gboolean live,
                               GstClockTime pts, GstClockTime duration, guint64 n);

/* Properties that are controlled, of the element and of the one it is part of, take the values of the stream
 * time that PTS of SEGMENT is; outside the segment they keep theirs. */
void gst_flow_prior_sync (GstFlowPrior *prior, const GstSegment *segment, GstClockTime pts);

G_END_DECLS
