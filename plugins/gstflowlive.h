/* normflow: GStreamer plugin, times of frames and waiting for them. SPDX-License-Identifier:
 * LGPL-2.1-or-later
 */
#pragma once

#include <gst/base/gstbasesrc.h>

G_BEGIN_DECLS

/**
 * GstFlowTimes:
 *
 * When frames begin: FIRST at BASE, and the n-th after it n FPS_D/FPS_N seconds later, rounded down to
 * nanoseconds: durations that are added up would drift from that. Zero-initialised, without a rate.
 */
typedef struct
{
  GstClockTime base;
  guint64 first;
  gint fps_n, fps_d;
} GstFlowTimes;

/* FRAME begins at BASE, and others are counted from it; the rate stays. */
void gst_flow_times_begin (GstFlowTimes *times, guint64 frame, GstClockTime base);

/* A new rate counts from NEXT, which begins when it would have; without one before nothing else changes. */
void gst_flow_times_set_rate (GstFlowTimes *times, guint64 next, gint fps_n, gint fps_d);

/* When FRAME begins, which is not before FIRST; without a rate at BASE. */
GstClockTime gst_flow_times_get (const GstFlowTimes *times, guint64 frame);

/* Where a stream of MOST frames ends that has sent SENT, of which NEXT is the next; none without a rate, or
 * if MOST is below 0, which means endless. */
GstClockTime gst_flow_times_get_end (const GstFlowTimes *times, guint64 next, guint64 sent, gint most);

/* The first frame that begins at TIME or later, which is not before BASE; FIRST without a rate. */
guint64 gst_flow_times_frame_from (const GstFlowTimes *times, GstClockTime time);

/* The frame that is shown at TIME, which is not before BASE: the last that begins by then; FIRST without a
 * rate. */
guint64 gst_flow_times_frame_at (const GstFlowTimes *times, GstClockTime time);

/**
 * GstFlowLive:
 *
 * Who reads an action when a frame's time has come has to wait for that time itself. A member of an element's
 * own structure, zero-initialised; under the element's object lock.
 */
typedef struct
{
  GstClockID id; /* of the wait, NULL if there is none */
  GCond resumed;
  gboolean unlocked, paused;
  gboolean interrupted; /* the wait was unlocked */
} GstFlowLive;

/* Waits until ELEMENT's clock says the running time RUNNING, and as long as it is paused; without a clock or
 * time at once. GST_FLOW_FLUSHING if it was unlocked. */
GstFlowReturn gst_flow_live_wait (GstFlowLive *live, GstElement *element, GstClockTime running);

/* The same until a frame of SRC at PTS is due, if SRC is live. */
GstFlowReturn gst_flow_live_wait_for_frame (GstFlowLive *live, GstBaseSrc *src, GstClockTime pts);

/* The running time at which the first frame of SRC is due: if SRC is live the present one, since the clock
 * has run for as long as everything took to begin. GstBaseSrc would add that to times of buffers, unknown to
 * SRC, if it were to wait for them; but sinks speak in QoS events of the times that buffers have. */
GstClockTime gst_flow_live_begin (GstBaseSrc *src);

/* For what takes long without waiting: whether it is to end, too. */
gboolean gst_flow_live_is_unlocked (GstFlowLive *live, GstElement *element);

/* Ends the wait, and keeps others from beginning until UNLOCKED is FALSE again. */
void gst_flow_live_set_unlocked (GstFlowLive *live, GstElement *element, gboolean unlocked);

/* Time stands still for the wait until PAUSED is FALSE again. GstBaseSrc unlocks what waits in its stead. */
void gst_flow_live_set_paused (GstFlowLive *live, GstElement *element, gboolean paused);

G_END_DECLS
