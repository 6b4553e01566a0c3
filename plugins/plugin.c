/* normflow: GStreamer plugin. SPDX-License-Identifier: LGPL-2.1-or-later */
#include <gst/gst.h>

#include "gstflowdecode.h"
#include "gstflowdenoise.h"
#include "gstflowencode.h"
#include "gstflowengine.h"
#include "gstflowsample.h"
#include "gstflowscore.h"

GST_DEBUG_CATEGORY (gst_flow_debug);

/* Runs when the registry is made, too: nothing here may look for a device. */
static gboolean
plugin_init (GstPlugin *plugin)
{
  GST_DEBUG_CATEGORY_INIT (gst_flow_debug, "flow", 0, "normalizing flows");
  gboolean done = gst_flow_score_meta_register ();
  done &= GST_ELEMENT_REGISTER (flowencode, plugin);
  done &= GST_ELEMENT_REGISTER (flowdecode, plugin);
  done &= GST_ELEMENT_REGISTER (flowsample, plugin);
  done &= GST_ELEMENT_REGISTER (flowdenoise, plugin);
  return done;
}

GST_PLUGIN_DEFINE (GST_VERSION_MAJOR, GST_VERSION_MINOR, normflow, "Normalizing flows for video, on OpenCL",
                   plugin_init, VERSION, "LGPL", PACKAGE, "normflow")
