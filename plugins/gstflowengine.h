/* normflow: GStreamer plugin, the model behind an element. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/gst.h>
#include <gst/video/video.h>
#include <normflow.h>

G_BEGIN_DECLS

/* As set_format of base classes of video, and under the same lock. */
typedef gboolean (*GstFlowSetFormat) (gpointer element, GstVideoCodecState *format);

/**
 * GstFlowEngine:
 *
 * What every element of the plugin has: the properties `model`, `device`, `precision` and `stats`, a model
 * loaded at NULL→READY with progress messages, and a session. A member of the element's own structure; the
 * element calls it at the places named below.
 *
 * NULL→READY reads and checks the model and opens the device, so that a missing or broken model fails the
 * state change. Kernels are compiled in the background from then on: going back to NULL cancels that, and the
 * first caps or frame wait for it.
 */
typedef struct
{
  GstElement *element;            /* which this is part of */
  GstPadEventFunction take_event; /* of the base class, see gst_flow_engine_watch_events() */
  GstPadChainFunction chain;      /* likewise, see gst_flow_engine_watch_gaps() */
  gboolean discont;               /* of the streaming thread: a gap began with a discontinuity */
  GstCaps *refused;               /* those that an error was posted of */
  GstFlowSetFormat set_format;    /* likewise, see gst_flow_engine_watch_events() */
  GstVideoCodecState *format;     /* with which it last succeeded; base classes keep that, too */
  gboolean unsettled;             /* it has failed since */
  gint work;                      /* an NfSessionWork, or GST_FLOW_ENGINE_NO_WORK */

  GMutex lock;
  GCond changed;

  /* the rest under the lock */
  char *model_name;
  char *device_spec;
  char *precision;
  char *text;              /* file of text features */
  gboolean stale;          /* properties changed since opening */
  const char *stated;      /* the precision that latents are in, one of nf_device_precisions(), or NULL */
  char *stated_arithmetic; /* and what multiplied, NULL or "" if that is not known */

  gboolean open;
  gboolean loading;
  gboolean checked; /* the model is known to be sound */
  gboolean failed;  /* an error was posted */
  gboolean flushing;
  GThread *thread;
  GCancellable *load_cancellable;
  GCancellable *work_cancellable; /* of frames; replaced after each flush */
  const char *phase;              /* of loading; used by one thread */

  char *path;
  NfConfig *config;
  char *digest;
  char *text_digest; /* of what the model sees of text; NULL if it sees none */
  NfModel *model;
  NfSession *session; /* one of the two: images, */
  NfStream *stream;   /* videos */

  guint64 frames;
  guint64 dropped;
  gint64 first_time, last_time; /* µs */
  double total;                 /* seconds in frames */
  double *recent;               /* seconds, ring of the latest frames */
  NfSessionStats session_stats;
  GstClockTime latency; /* as last reported */
} GstFlowEngine;

enum
{
  GST_FLOW_ENGINE_PROP_MODEL = 1,
  GST_FLOW_ENGINE_PROP_DEVICE,
  GST_FLOW_ENGINE_PROP_PRECISION,
  GST_FLOW_ENGINE_PROP_STATS,
  GST_FLOW_ENGINE_PROP_TEXT,
  GST_FLOW_ENGINE_PROP_LAST, /* the first of the element's own */
};

#define GST_FLOW_ENGINE_NO_WORK -1

/* Of a property that counts from the state PAUSED on, and changes in NULL and READY only. */
#define GST_FLOW_PARAM_MUTABLE_READY (GST_PARAM_MUTABLE_READY | G_PARAM_EXPLICIT_NOTIFY)

/**
 * gst_flow_can_set:
 * @element: whose set_property this is, before anything else in it
 *
 * Keeps properties that have %GST_FLOW_PARAM_MUTABLE_READY as they are above READY, and tells of those that
 * change.
 *
 * Returns: whether @value is to be taken; if not, the property has it already, or a warning was posted.
 */
gboolean gst_flow_can_set (gpointer element, const GValue *value, GParamSpec *pspec);

/** gst_flow_is_started: Returns: whether @element is in PAUSED or PLAYING, or on the way there or back. */
gboolean gst_flow_is_started (GstElement *element);

/* In class_init. WORK: as of gst_flow_engine_init(); those that have a session text can condition. */
void gst_flow_engine_install_properties (GObjectClass *class, gint work);

/* In init and finalize. WORK: the NfSessionWork that the element does, or GST_FLOW_ENGINE_NO_WORK for one
 * that only needs the model's configuration and digest and no device. */
void gst_flow_engine_init (GstFlowEngine *engine, gpointer element, gint work);
void gst_flow_engine_clear (GstFlowEngine *engine);

/* In set_property, after gst_flow_can_set(), and get_property; FALSE if the property is not the engine's. */
gboolean gst_flow_engine_set_property (GstFlowEngine *engine, guint id, const GValue *value);
gboolean gst_flow_engine_get_property (GstFlowEngine *engine, guint id, GValue *value);

/* Posts progress of PHASE, whose code is "flow-PHASE", with a field percent. */
void gst_flow_engine_post_progress (GstFlowEngine *engine, GstProgressType type, const char *phase,
                                    gint percent, const char *text);

/* Instead of the parent class's change_state, which it calls. */
GstStateChangeReturn gst_flow_engine_change_state (GstFlowEngine *engine, GstElementClass *parent_class,
                                                   GstStateChange transition);

/* Stops what a streaming thread does with the session, and allows it again: at FLUSH_START and FLUSH_STOP. */
void gst_flow_engine_set_flushing (GstFlowEngine *engine, gboolean flushing);

/* What a full event function says of an event of TYPE that was refused: what pads make of it themselves, but
 * GST_FLOW_FLUSHING where it was for that. */
GstFlowReturn gst_flow_refuse_event (GstEventType type, gboolean flushing);

/* In init, with the sink pad that a base class has set up. Of caps that are refused a pad makes "not
 * negotiated", of any other event an error, and the source posts one; where it is only that frames are
 * flushed, this makes it GST_FLOW_FLUSHING, and the event comes again before the next frame. Base classes of
 * video take no notice of caps that they had before, even if the element was half set up for others in
 * between that it refused: then SET_FORMAT sets it up once more. NULL: there is no such base class. */
void gst_flow_engine_watch_events (GstFlowEngine *engine, GstPad *pad, GstFlowSetFormat set_format);

/* The same, with the sink pad's chain function. Base classes take an empty buffer with the flag GAP for a
 * frame; this makes it the event that it stands for, and a DISCONT on it one of the next buffer. */
void gst_flow_engine_watch_gaps (GstFlowEngine *engine, GstPad *pad);

/* At the end of set_format, which was called with FORMAT: returns DONE, whether it succeeds. */
gboolean gst_flow_engine_note_format (GstFlowEngine *engine, GstVideoCodecState *format, gboolean done);

/**
 * gst_flow_engine_wait:
 *
 * Waits for loading to end. For streaming threads.
 *
 * Returns: %GST_FLOW_OK: the model is there (and the session, not owned, may be used by this thread until the
 * next state change; it is NULL for models of videos, which have a stream); %GST_FLOW_FLUSHING;
 * %GST_FLOW_ERROR: loading failed, an error was posted.
 */
GstFlowReturn gst_flow_engine_wait (GstFlowEngine *engine, NfSession **session);

/* After gst_flow_engine_wait(): the precision, one of nf_device_precisions(), that the element works in. One
 * without a device has what its property says; NULL is nothing. */
const char *gst_flow_engine_get_precision (GstFlowEngine *engine);

/* After gst_flow_engine_wait(): what multiplies in it, as nf_device_get_arithmetic() says; "" without a
 * device. */
const char *gst_flow_engine_get_arithmetic (GstFlowEngine *engine);

/**
 * gst_flow_engine_take_precision:
 * @precision: (nullable): one of nf_device_precisions(), in which the latents that come were made
 * @arithmetic: what multiplied, or ""
 *
 * Loads the model again in @precision and by @arithmetic, if it is in another one and neither properties nor
 * the environment say which; if they do, or the device does not have @arithmetic, a warning is posted. For
 * streaming threads, after gst_flow_engine_wait(); session and stream are others afterwards.
 *
 * Returns: as gst_flow_engine_wait() does.
 */
GstFlowReturn gst_flow_engine_take_precision (GstFlowEngine *engine, const char *precision,
                                              const char *arithmetic);

/* After gst_flow_engine_wait(): 16 hexadecimal digits that tell the text that the model sees from others,
 * NF_NO_TEXT if it was given none; NULL if it can see none. */
char *gst_flow_engine_dup_text_digest (GstFlowEngine *engine);

/* After gst_flow_engine_wait(): the stream of a model of videos, likewise, or NULL. */
NfStream *gst_flow_engine_get_stream (GstFlowEngine *engine);

/* Of a streaming thread. Caps that are refused come again with the next buffer: ERROR, which says why, is
 * posted once, unless others were accepted in between. */
void gst_flow_engine_refuse_caps (GstFlowEngine *engine, GstCaps *caps, const GError *error);
void gst_flow_engine_accept_caps (GstFlowEngine *engine);

/* Whether what follows the source pad PAD, if there is anything, takes CAPS, or lets them in to say itself
 * why it does not. */
gboolean gst_flow_is_wanted (GstPad *pad, GstCaps *caps);

/* As gst_flow_engine_refuse_caps(), where it is what follows PAD that takes none of MADE, which CAPS become.
 * Nothing is posted while PAD is flushed. CAPS are NULL of a source. */
void gst_flow_engine_refuse_output (GstFlowEngine *engine, GstCaps *caps, GstPad *pad, const GstCaps *made);

/* Copies, NULL if the element is in the state NULL, or in READY with properties that have changed since (what
 * they ask for is opened on the way to PAUSED), or (digest) if loading has not ended. */
NfConfig *gst_flow_engine_dup_config (GstFlowEngine *engine);
char *gst_flow_engine_dup_digest (GstFlowEngine *engine);

/* Text that names the model for messages. */
char *gst_flow_engine_describe (GstFlowEngine *engine);

/* Counts a frame that began at START (g_get_monotonic_time()). TRUE if gst_flow_engine_get_latency() has
 * changed, which it does by more than a quarter. */
gboolean gst_flow_engine_count_frame (GstFlowEngine *engine, gint64 start);
void gst_flow_engine_count_dropped (GstFlowEngine *engine, guint64 n);
void gst_flow_engine_get_counts (GstFlowEngine *engine, guint64 *frames, guint64 *dropped);
GstClockTime gst_flow_engine_get_latency (GstFlowEngine *engine);

/* What the slower of the last two frames took: unlike the latency it is short again as soon as frames are
 * fast. 0 before the first. */
GstClockTime gst_flow_engine_get_last (GstFlowEngine *engine);

/**
 * gst_flow_post_error:
 * @error: of the library
 *
 * Posts an error message on the element's behalf, domain and code by the kind of @error.
 *
 * Returns: %GST_FLOW_FLUSHING if @error only says that work was cancelled (then nothing is posted), else
 * %GST_FLOW_ERROR.
 */
#define gst_flow_post_error(element, error)                                                                  \
  gst_flow_post_error_at (GST_ELEMENT (element), error, __FILE__, GST_FUNCTION, __LINE__)
GstFlowReturn gst_flow_post_error_at (GstElement *element, const GError *error, const char *file,
                                      const char *function, gint line);

GST_DEBUG_CATEGORY_EXTERN (gst_flow_debug);

G_END_DECLS
