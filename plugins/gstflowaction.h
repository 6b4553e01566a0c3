/* normflow: GStreamer plugin, actions: from keys and the mouse, and on buffers. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#pragma once

#include <gst/gst.h>
#include <normflow.h>

G_BEGIN_DECLS

/* A GstCustomMeta without tags. Fields: action (int), or controls (GstValueArray of double) in its place;
 * frame-index (guint64). What happens between this frame and the next. */
#define GST_FLOW_ACTION_META_NAME "GstFlowActionMeta"

void gst_flow_action_meta_attach (GstBuffer *buffer, guint action, guint64 frame_index);

/**
 * GstFlowAction:
 * @number: of a discrete action, -1 if unknown
 * @controls: (nullable) (element-type float): continuous controls in its place
 *
 * What was done at a frame. A member of a structure; begins with gst_flow_action_forget() on zeros.
 */
typedef struct
{
  gint number;
  GArray *controls;
} GstFlowAction;

void gst_flow_action_forget (GstFlowAction *action);
void gst_flow_action_set_number (GstFlowAction *action, gint number);
void gst_flow_action_set_controls (GstFlowAction *action, const float *values, guint n);

/* An action's number becomes what it means to a model of N controls: that control at 1, and 0 that all rest.
 * Controls, and what the model does not have, stay as they are. */
void gst_flow_action_make_controls (GstFlowAction *action, guint n);

/* If there are controls, but fewer than N, zeros follow them. */
void gst_flow_action_reserve_controls (GstFlowAction *action, guint n);

/* Control I becomes VALUE; those before it that there were not are 0. */
void gst_flow_action_set_control (GstFlowAction *action, guint i, float value);
gboolean gst_flow_action_is_known (const GstFlowAction *action);

/* Whether a model that takes N values takes ACTION. */
gboolean gst_flow_action_fits (const GstFlowAction *action, guint n);

/* What BUFFER's meta tells; unknown if it has none, or what it has is no action. */
void gst_flow_action_read (GstFlowAction *action, GstBuffer *buffer);
void gst_flow_action_attach (const GstFlowAction *action, GstBuffer *buffer, guint64 frame_index);

/* VECTOR (n) becomes ACTION as a model is told of it: one-hot, or the controls, or zeros for what is unknown.
 * If the model has no such action, or another number of controls, zeros too, with a warning in the name of
 * ELEMENT the first time (WARNED). */
void gst_flow_action_to_vector (GstElement *element, const GstFlowAction *action, float *vector, guint n,
                                gboolean *warned);

/* The numbers in VALUE, a GstValueArray of doubles, are those of ACTION; FALSE, and none, if there are none.
 */
gboolean gst_flow_action_set_value (GstFlowAction *action, const GValue *value);

/* Appends the numbers of ACTION to VALUE, which holds a GstValueArray. */
void gst_flow_action_get_value (const GstFlowAction *action, GValue *value);

/**
 * GstFlowActionFile:
 *
 * What was done in a recorded video, of each of its frames from 0 (nf-actions.h).
 */
typedef struct _GstFlowActionFile GstFlowActionFile;

/* NULL with NF_ERROR_NOT_FOUND, NF_ERROR_READ or NF_ERROR_FORMAT. */
GstFlowActionFile *gst_flow_action_file_read (const char *path, GError **error);
void gst_flow_action_file_free (GstFlowActionFile *file);

/* ACTION becomes that of FRAME, unknown if the file says so; FALSE, and unknown, behind the last one. */
gboolean gst_flow_action_file_get (const GstFlowActionFile *file, guint64 frame, GstFlowAction *action);

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

/* Where the pointer is; FALSE before it has moved. */
gboolean gst_flow_action_input_get_pointer (GstFlowActionInput *input, double *x, double *y);

G_END_DECLS
