/* normflow: GStreamer plugin, actions: from keys and the mouse, and on buffers. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#pragma once

#include <gst/gst.h>
#include <normflow.h>

G_BEGIN_DECLS

/* A GstCustomMeta without tags. Fields: action (int), frame-index (guint64). What happens between this frame
 * and the next. */
#define GST_FLOW_ACTION_META_NAME "GstFlowActionMeta"

void gst_flow_action_meta_attach (GstBuffer *buffer, guint action, guint64 frame_index);

/* The action of BUFFER, -1 if it tells none. */
gint gst_flow_action_meta_get (GstBuffer *buffer);

/* VECTOR (n) becomes ACTION as a model is told of it: one-hot, or zeros for -1, which is unknown. If it has
 * no such action, zeros too, with a warning in the name of ELEMENT the first time (WARNED). */
void gst_flow_action_to_vector (GstElement *element, gint action, float *vector, guint n, gboolean *warned);

/**
 * GstFlowActionMap:
 *
 * Which keys are which actions: "Up=1,Down=2,w=1,w+a=5". Names are those of navigation events (X11's
 * keysyms), in either case, and for the mouse Button1 to Button9, ScrollUp, ScrollDown, ScrollLeft,
 * ScrollRight, and MoveUp, MoveDown, MoveLeft, MoveRight while the pointer moves. Of names joined by + all
 * must be down. The entry with the most names wins, then the one whose key was pressed last.
 */
typedef struct _GstFlowActionMap GstFlowActionMap;

/* N_ACTIONS: above which an action is refused; 0: any. NULL with NF_ERROR_ARGUMENT that says which entry is
 * wrong. */
GstFlowActionMap *gst_flow_action_map_parse (const char *text, guint n_actions, GError **error);
void gst_flow_action_map_free (GstFlowActionMap *map);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (GstFlowActionMap, gst_flow_action_map_free)

/**
 * GstFlowActionInput:
 *
 * What is held down. Events and readers may be on different threads.
 */
typedef struct
{
  GMutex lock;
  GstFlowActionMap *map;
  GPtrArray *held; /* of what is down, or was since the last reading; in the order of pressing */
  gboolean has_pointer;
  double pointer_x, pointer_y;
  GHashTable *unknown; /* keys that were warned of */
} GstFlowActionInput;

void gst_flow_action_input_init (GstFlowActionInput *input);
void gst_flow_action_input_clear (GstFlowActionInput *input);

/* MAP is taken; NULL is an empty one. Forgets what was down. */
void gst_flow_action_input_set_map (GstFlowActionInput *input, GstFlowActionMap *map);

/* A navigation event came. What is not in the map is ignored; of a key, unless the map is empty, with a
 * warning in the name of ELEMENT the first time. FALSE: nobody here wants it. */
gboolean gst_flow_action_input_event (GstFlowActionInput *input, GstElement *element, GstEvent *event);

/* The action of this moment, -1 if no key of the map is down. A key counts at least once, even if it was
 * already released. */
gint gst_flow_action_input_take (GstFlowActionInput *input);

G_END_DECLS
