/* normflow: GStreamer plugin, flowsample behind real latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/base/gstaggregator.h>

G_BEGIN_DECLS

/* Not registered: what flowsample is made of once it has a sink pad. Passes latents through, and goes on by
 * itself. */
#define GST_TYPE_FLOW_SPLICE (gst_flow_splice_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowSplice, gst_flow_splice, GST, FLOW_SPLICE, GstAggregator)

G_END_DECLS
