/* normflow: GStreamer plugin. SPDX-License-Identifier: LGPL-2.1-or-later */
#include <gst/gst.h>

#include "gstflowaction.h"
#include "gstflowdecode.h"
#include "gstflowdenoise.h"
#include "gstflowencode.h"
#include "gstflowengine.h"
#include "gstflowsample.h"
#include "gstflowscore.h"
#include "gstflowtestsrc.h"
#include "gstflowworld.h"

GST_DEBUG_CATEGORY (gst_flow_debug);

/* Without tags, so that it survives elements which change the picture. */
static gboolean
register_meta (const char *name)
{
  const char *no_tags[] = { NULL };
  return gst_meta_get_info (name) || gst_meta_register_custom (name, no_tags, NULL, NULL, NULL);
}

/* Runs when the registry is made, too: nothing here may look for a device. */
static gboolean
plugin_init (GstPlugin *plugin)
{
  GST_DEBUG_CATEGORY_INIT (gst_flow_debug, "flow", 0, "normalizing flows");
  gboolean done = register_meta (GST_FLOW_SCORE_META_NAME);
  done &= register_meta (GST_FLOW_ACTION_META_NAME);
  done &= register_meta (GST_FLOW_WORLD_META_NAME);
  done &= GST_ELEMENT_REGISTER (flowencode, plugin);
  done &= GST_ELEMENT_REGISTER (flowdecode, plugin);
  done &= GST_ELEMENT_REGISTER (flowsample, plugin);
  done &= GST_ELEMENT_REGISTER (flowdenoise, plugin);
  done &= GST_ELEMENT_REGISTER (flowtestsrc, plugin);
  return done;
}

GST_PLUGIN_DEFINE (GST_VERSION_MAJOR, GST_VERSION_MINOR, normflow, "Normalizing flows for video, on OpenCL",
                   plugin_init, VERSION, "LGPL", PACKAGE, "Unknown package origin")
