/* normflow: GStreamer plugin, scores on buffers and on the bus. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/gst.h>
#include <normflow.h>

G_BEGIN_DECLS

/* A GstCustomMeta without tags, so that it survives elements which change the picture. Fields: bits-per-dim,
 * log-likelihood, log-prior, log-det (double; nats), num-dims (gint64), model-digest (string), frame-index
 * (guint64); on request score-map (GstBuffer of float32 bits per dimension of each token, row-major),
 * map-width, map-height (int). A reader takes the first one of a buffer. */
#define GST_FLOW_SCORE_META_NAME "GstFlowScoreMeta"

/* MAP is taken; NULL for none. */
void gst_flow_score_meta_attach (GstBuffer *buffer, const NfScore *score, const char *digest,
                                 guint64 frame_index, GstBuffer *map, const NfGrid *grid);

gboolean gst_flow_score_meta_is (const GstMeta *meta);

/**
 * GstFlowScoreSettings:
 * @post_messages: post `flow-score` at all
 * @interval: stretch of running time that one message sums up, 0 for a message per frame
 * @threshold: bits per dimension that, once exceeded, begin an anomaly
 * @hysteresis: how far under @threshold the score must fall to end it
 * @window: frames whose mean is compared
 */
typedef struct
{
  gboolean post_messages;
  GstClockTime interval;
  double threshold;
  double hysteresis;
  guint window;
} GstFlowScoreSettings;

#define GST_FLOW_SCORE_OFF G_MAXDOUBLE /* a threshold that is never exceeded */
#define GST_FLOW_SCORE_MAX_WINDOW 10000

/**
 * GstFlowScorer:
 *
 * Turns the scores of frames into messages. For one streaming thread.
 */
typedef struct _GstFlowScorer GstFlowScorer;

GstFlowScorer *gst_flow_scorer_new (void);
void gst_flow_scorer_free (GstFlowScorer *scorer);

/* Forgets the stream so far, and leaves an anomaly that is open: at the end of the stream, after a flush, and
 * when it stops. */
void gst_flow_scorer_reset (GstFlowScorer *scorer, GstElement *element);

/* A frame at PTS for DURATION (both may be none) in SEGMENT was scored. */
void gst_flow_scorer_add (GstFlowScorer *scorer, GstElement *element, const GstFlowScoreSettings *settings,
                          const GstSegment *segment, GstClockTime pts, GstClockTime duration,
                          guint64 frame_index, const NfScore *score);

/* Posts what an unfinished interval holds: at the end of the stream, and where it has a gap. */
void gst_flow_scorer_finish (GstFlowScorer *scorer, GstElement *element);

G_END_DECLS
