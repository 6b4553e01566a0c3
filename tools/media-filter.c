/* normflow: filters of libav. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-libav.h"
#include "nf-error.h"

#include <string.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>

struct _NfMediaFilter
{
  char *filters;
  NfPixelLayout layout;
  guint width;
  guint height;
  AVFilterGraph *graph;
  AVFilterContext *source;
  AVFilterContext *sink;
  AVFrame *in;
  AVFrame *out;
  struct SwsContext *sws;
  gint64 count;
};

void
nf_media_filter_free (NfMediaFilter *self)
{
  if (!self)
    return;
  avfilter_graph_free (&self->graph);
  av_frame_free (&self->in);
  av_frame_free (&self->out);
  sws_freeContext (self->sws);
  g_free (self->filters);
  g_free (self);
}

NfMediaFilter *
nf_media_filter_new (const char *filters, NfPixelLayout layout, guint width, guint height, GError **error)
{
  g_autoptr (NfMediaFilter) self = g_new0 (NfMediaFilter, 1);
  g_autofree char *source = NULL, *chain = NULL;
  AVFilterInOut *inputs = NULL, *outputs = NULL;
  const char *pixels = av_get_pix_fmt_name (nf_libav_format (layout));
  int status;

  nf_libav_init ();
  self->filters = g_strdup (filters);
  self->layout = layout;
  self->width = width;
  self->height = height;
  self->graph = avfilter_graph_alloc ();
  self->in = nf_libav_frame_new (nf_libav_format (layout), width, height);
  self->out = av_frame_alloc ();
  if (!self->graph || !self->in || !self->out)
    {
      nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), filters, "filter");
      return NULL;
    }
  self->graph->nb_threads = 1;
  source = g_strdup_printf ("buffer=video_size=%ux%u:pix_fmt=%s:time_base=1/25 [in]; [in] ", width, height,
                            pixels);
  chain = g_strconcat (source, filters, ", format=", pixels, ", buffersink", NULL);
  status = avfilter_graph_parse2 (self->graph, chain, &inputs, &outputs);
  avfilter_inout_free (&inputs);
  avfilter_inout_free (&outputs);
  if (status >= 0)
    status = avfilter_graph_config (self->graph, NULL);
  if (status < 0)
    {
      nf_libav_fail (error, NF_ERROR_UNSUPPORTED, status, filters, "libavfilter refuses the filter");
      return NULL;
    }
  for (guint i = 0; i < self->graph->nb_filters; i++)
    {
      AVFilterContext *filter = self->graph->filters[i];

      if (!strcmp (filter->filter->name, "buffer"))
        self->source = filter;
      else if (!strcmp (filter->filter->name, "buffersink"))
        self->sink = filter;
    }
  return g_steal_pointer (&self);
}

NfPicture *
nf_media_filter_run (NfMediaFilter *self, const NfFrame *frame, GError **error)
{
  g_autoptr (NfPicture) picture = NULL;
  guint8 *data[4];
  int stride[4], status;

  if (frame->width != self->width || frame->height != self->height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: a frame of %ux%u in a filter for %ux%u",
                   self->filters, frame->width, frame->height, self->width, self->height);
      return NULL;
    }
  if (!nf_libav_fill (self->in, self->layout, frame, &self->sws, self->filters, error))
    return NULL;
  self->in->pts = self->count++;
  status = av_buffersrc_add_frame_flags (self->source, self->in, AV_BUFFERSRC_FLAG_KEEP_REF);
  if (status >= 0)
    status = av_buffersink_get_frame (self->sink, self->out);
  if (status < 0)
    {
      nf_libav_fail (error, NF_ERROR_UNSUPPORTED, status, self->filters, "the filter gave no frame");
      return NULL;
    }
  picture = nf_picture_new (self->layout, self->width, self->height);
  nf_libav_planes (self->layout, &picture->frame, data, stride);
  av_image_copy (data, stride, (const guint8 **)self->out->data, self->out->linesize,
                 nf_libav_format (self->layout), (int)self->width, (int)self->height);
  av_frame_unref (self->out);
  return g_steal_pointer (&picture);
}
