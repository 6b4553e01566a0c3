/* normflow: GStreamer plugin, scores on buffers and on the bus. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowscore.h"

#include <string.h>

/* The meta */

gboolean
gst_flow_score_meta_is (const GstMeta *meta)
{
  return gst_meta_info_is_custom (meta->info)
         && gst_custom_meta_has_name ((GstCustomMeta *)meta, GST_FLOW_SCORE_META_NAME);
}

void
gst_flow_score_meta_attach (GstBuffer *buffer, const NfScore *score, const char *digest, guint64 frame_index,
                            GstBuffer *map, const NfGrid *grid)
{
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, GST_FLOW_SCORE_META_NAME);
  if (meta)
    {
      GstStructure *fields = gst_custom_meta_get_structure (meta);
      gst_structure_set (fields, "bits-per-dim", G_TYPE_DOUBLE, score->bits_per_dim, "log-likelihood",
                         G_TYPE_DOUBLE, score->log_likelihood, "log-prior", G_TYPE_DOUBLE, score->log_prior,
                         "log-det", G_TYPE_DOUBLE, score->log_det, "num-dims", G_TYPE_INT64,
                         (gint64)score->num_dims, "model-digest", G_TYPE_STRING, digest, "frame-index",
                         G_TYPE_UINT64, frame_index, NULL);
      if (map)
        gst_structure_set (fields, "score-map", GST_TYPE_BUFFER, map, "map-width", G_TYPE_INT,
                           (gint)grid->grid_width, "map-height", G_TYPE_INT, (gint)grid->grid_height, NULL);
    }
  gst_clear_buffer (&map);
}

/* Messages */

typedef struct
{
  GstSegment segment;
  GstClockTime begin, end, last, stream_time; /* none if frames have no times */
  GstClockTime running_time;                  /* of the frame that came first */
  gboolean open;                              /* the duration of the last one is not known */
  guint frames;
  guint64 frame_index;
  NfScore sum;
} Interval;

/* The frame that was compared with the threshold last. */
typedef struct
{
  double score, threshold;
  GstClockTime pts, stream_time, running_time;
  guint64 frame_index;
} Compared;

struct _GstFlowScorer
{
  Interval interval; /* frames is 0 if none is begun */
  double *ring;      /* bits per dimension of the latest frames */
  guint size, used, next;
  gboolean anomaly;
  Compared last;
};

GstFlowScorer *
gst_flow_scorer_new (void)
{
  return g_new0 (GstFlowScorer, 1);
}

void
gst_flow_scorer_free (GstFlowScorer *scorer)
{
  g_free (scorer->ring);
  g_free (scorer);
}

static void
set_anomaly (GstFlowScorer *scorer, GstElement *element, gboolean anomaly)
{
  const Compared *last = &scorer->last;
  if (anomaly == scorer->anomaly)
    return;
  scorer->anomaly = anomaly;
  GstStructure *structure = gst_structure_new (
      "flow-anomaly", "state", G_TYPE_STRING, anomaly ? "enter" : "leave", "score", G_TYPE_DOUBLE,
      last->score, "threshold", G_TYPE_DOUBLE, last->threshold, "timestamp", G_TYPE_UINT64, last->pts,
      "stream-time", G_TYPE_UINT64, last->stream_time, "running-time", G_TYPE_UINT64, last->running_time,
      "frame-index", G_TYPE_UINT64, last->frame_index, NULL);
  gst_element_post_message (element, gst_message_new_element (GST_OBJECT (element), structure));
}

void
gst_flow_scorer_reset (GstFlowScorer *scorer, GstElement *element)
{
  scorer->interval.frames = 0;
  scorer->used = scorer->next = 0;
  set_anomaly (scorer, element, FALSE);
}

void
gst_flow_scorer_finish (GstFlowScorer *scorer, GstElement *element)
{
  const Interval *interval = &scorer->interval;
  const guint n = interval->frames;
  if (n == 0)
    return;
  const GstClockTime duration = interval->open ? GST_CLOCK_TIME_NONE : interval->end - interval->begin;
  GstStructure *structure = gst_structure_new (
      "flow-score", "timestamp", G_TYPE_UINT64, interval->begin, "stream-time", G_TYPE_UINT64,
      interval->stream_time, "running-time", G_TYPE_UINT64, interval->running_time, "duration", G_TYPE_UINT64,
      duration, "frames", G_TYPE_UINT, n, "frame-index", G_TYPE_UINT64, interval->frame_index, "bits-per-dim",
      G_TYPE_DOUBLE, interval->sum.bits_per_dim / n, "log-likelihood", G_TYPE_DOUBLE,
      interval->sum.log_likelihood / n, "log-prior", G_TYPE_DOUBLE, interval->sum.log_prior / n, "log-det",
      G_TYPE_DOUBLE, interval->sum.log_det / n, "num-dims", G_TYPE_INT64, (gint64)interval->sum.num_dims,
      NULL);
  gst_element_post_message (element, gst_message_new_element (GST_OBJECT (element), structure));
  scorer->interval.frames = 0;
}

/* Another segment, or a jump against the direction of this one, ends what was summed up so far; and so does a
 * frame at PTS, for DURATION, that lies a LENGTH past its beginning: behind a gap, or at the end of what
 * frames without a duration have left open. */
static void
close_interval (GstFlowScorer *scorer, GstElement *element, GstClockTime length, const GstSegment *segment,
                GstClockTime pts, GstClockTime duration)
{
  Interval *interval = &scorer->interval;
  const GstSegment *before = &interval->segment;
  const gboolean backwards = segment->rate < 0;
  const GstClockTime end = GST_CLOCK_TIME_IS_VALID (duration) ? pts + duration : pts;
  if (before->rate != segment->rate || before->base != segment->base || before->start != segment->start
      || before->time != segment->time || (backwards ? pts > interval->last : pts < interval->last))
    gst_flow_scorer_finish (scorer, element);
  else if (backwards ? end <= interval->end && interval->end - end >= length
                     : pts - interval->begin >= length)
    {
      if (interval->open && !backwards)
        {
          interval->end = pts;
          interval->open = FALSE;
        }
      gst_flow_scorer_finish (scorer, element);
    }
}

static void
sum_up (GstFlowScorer *scorer, GstElement *element, GstClockTime length, const GstSegment *segment,
        GstClockTime pts, GstClockTime duration, guint64 frame_index, const NfScore *score)
{
  Interval *interval = &scorer->interval;
  const gboolean timed = GST_CLOCK_TIME_IS_VALID (pts);
  if (interval->frames > 0 && timed)
    close_interval (scorer, element, length, segment, pts, duration);
  if (interval->frames == 0)
    *interval = (Interval){ .segment = *segment,
                            .begin = pts,
                            .end = pts,
                            .running_time = gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts) };
  interval->open = !timed || !GST_CLOCK_TIME_IS_VALID (duration);
  if (timed)
    {
      interval->last = pts;
      interval->begin = MIN (interval->begin, pts);
      interval->end = MAX (interval->end, interval->open ? pts : pts + duration);
    }
  interval->stream_time = gst_segment_to_stream_time (segment, GST_FORMAT_TIME, interval->begin);
  interval->frames++;
  interval->frame_index = frame_index;
  interval->sum.bits_per_dim += score->bits_per_dim;
  interval->sum.log_likelihood += score->log_likelihood;
  interval->sum.log_prior += score->log_prior;
  interval->sum.log_det += score->log_det;
  interval->sum.num_dims = score->num_dims;
  if (length == 0 || !timed || (!interval->open && interval->end - interval->begin >= length))
    gst_flow_scorer_finish (scorer, element);
}

/* The mean of the latest WINDOW frames with this one. */
static double
smooth (GstFlowScorer *scorer, guint window, double value)
{
  if (scorer->size != window)
    {
      g_free (scorer->ring);
      scorer->ring = g_new0 (double, window);
      scorer->size = window;
      scorer->used = scorer->next = 0;
    }
  scorer->ring[scorer->next] = value;
  scorer->next = (scorer->next + 1) % window;
  scorer->used = MIN (scorer->used + 1, window);
  double sum = 0;
  for (guint i = 0; i < scorer->used; i++)
    sum += scorer->ring[i];
  return sum / scorer->used;
}

void
gst_flow_scorer_add (GstFlowScorer *scorer, GstElement *element, const GstFlowScoreSettings *settings,
                     const GstSegment *segment, GstClockTime pts, GstClockTime duration, guint64 frame_index,
                     const NfScore *score)
{
  if (settings->post_messages)
    sum_up (scorer, element, settings->interval, segment, pts, duration, frame_index, score);
  else
    scorer->interval.frames = 0;

  const double smoothed = smooth (scorer, settings->window, score->bits_per_dim);
  scorer->last = (Compared){ smoothed,
                             settings->threshold,
                             pts,
                             gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts),
                             gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts),
                             frame_index };
  set_anomaly (scorer, element,
               scorer->anomaly ? smoothed >= settings->threshold - settings->hysteresis
                               : smoothed > settings->threshold);
}
