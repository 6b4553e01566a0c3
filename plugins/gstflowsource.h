/* normflow: GStreamer plugin, flowsample as a source. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/base/gstpushsrc.h>

G_BEGIN_DECLS

/* Not registered: what flowsample is made of while it has no sink pad. */
#define GST_TYPE_FLOW_SOURCE (gst_flow_source_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowSource, gst_flow_source, GST, FLOW_SOURCE, GstPushSrc)

/* Whether EVENT, a seek, is one that SOURCE does not refuse. */
gboolean gst_flow_source_can_seek (GstElement *source, GstEvent *event);

G_END_DECLS
