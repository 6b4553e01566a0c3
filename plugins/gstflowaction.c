/* normflow: GStreamer plugin, actions: from keys and the mouse, and on buffers. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "gstflowaction.h"

#include <gst/video/navigation.h>
#include <math.h>
#include <string.h>

#include "gstflowengine.h"

#define GST_CAT_DEFAULT gst_flow_debug

#define MAX_ACTION 65535
#define MAX_ENTRIES 256
#define MAX_UNKNOWN 256 /* keys that are warned of */

/* The meta */

void
gst_flow_action_meta_attach (GstBuffer *buffer, guint action, guint64 frame_index)
{
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, GST_FLOW_ACTION_META_NAME);
  if (meta)
    gst_structure_set (gst_custom_meta_get_structure (meta), "action", G_TYPE_INT, (gint)action,
                       "frame-index", G_TYPE_UINT64, frame_index, NULL);
}

/* Actions */

void
gst_flow_action_forget (GstFlowAction *action)
{
  action->number = -1;
  g_clear_pointer (&action->controls, g_array_unref);
}

void
gst_flow_action_set_number (GstFlowAction *action, gint number)
{
  gst_flow_action_forget (action);
  action->number = number;
}

void
gst_flow_action_set_controls (GstFlowAction *action, const float *values, guint n)
{
  gst_flow_action_forget (action);
  action->controls = g_array_new (FALSE, TRUE, sizeof (float));
  if (n > 0)
    g_array_append_vals (action->controls, values, n);
}

void
gst_flow_action_make_controls (GstFlowAction *action, guint n)
{
  const gint number = action->number;
  if (action->controls || number < 0 || number >= (gint)n)
    return;
  gst_flow_action_set_controls (action, NULL, 0);
  g_array_set_size (action->controls, n);
  if (number > 0)
    g_array_index (action->controls, float, number) = 1;
}

void
gst_flow_action_reserve_controls (GstFlowAction *action, guint n)
{
  if (action->controls && action->controls->len < n)
    g_array_set_size (action->controls, n);
}

void
gst_flow_action_set_control (GstFlowAction *action, guint i, float value)
{
  if (!action->controls)
    gst_flow_action_set_controls (action, NULL, 0);
  if (i >= action->controls->len)
    gst_flow_action_reserve_controls (action, i + 1);
  g_array_index (action->controls, float, i) = value;
}

gboolean
gst_flow_action_is_known (const GstFlowAction *action)
{
  return action->number != -1 || action->controls;
}

gboolean
gst_flow_action_fits (const GstFlowAction *action, guint n)
{
  return action->controls ? action->controls->len == n : action->number >= 0 && action->number < (gint)n;
}

gboolean
gst_flow_action_set_value (GstFlowAction *action, const GValue *value)
{
  const guint n = GST_VALUE_HOLDS_ARRAY (value) ? gst_value_array_get_size (value) : 0;
  g_autoptr (GArray) controls = g_array_new (FALSE, TRUE, sizeof (float));
  gst_flow_action_forget (action);
  for (guint i = 0; i < n; i++)
    {
      g_auto (GValue) element = G_VALUE_INIT;
      g_value_init (&element, G_TYPE_DOUBLE);
      if (!g_value_transform (gst_value_array_get_value (value, i), &element))
        return FALSE;
      const float number = (float)g_value_get_double (&element);
      if (!isfinite (number))
        return FALSE;
      g_array_append_val (controls, number);
    }
  if (n > 0)
    action->controls = g_steal_pointer (&controls);
  return n > 0;
}

void
gst_flow_action_get_value (const GstFlowAction *action, GValue *value)
{
  for (guint i = 0; action->controls && i < action->controls->len; i++)
    {
      GValue number = G_VALUE_INIT;
      g_value_init (&number, G_TYPE_DOUBLE);
      g_value_set_double (&number, (double)g_array_index (action->controls, float, i));
      gst_value_array_append_and_take_value (value, &number);
    }
}

void
gst_flow_action_read (GstFlowAction *action, GstBuffer *buffer)
{
  GstCustomMeta *meta = gst_buffer_get_custom_meta (buffer, GST_FLOW_ACTION_META_NAME);
  const GstStructure *structure = meta ? gst_custom_meta_get_structure (meta) : NULL;
  const GValue *controls = structure ? gst_structure_get_value (structure, "controls") : NULL;
  gint number;
  gst_flow_action_forget (action);
  if (controls && gst_flow_action_set_value (action, controls))
    return;
  /* none that are numbers, which is told where they are wanted */
  if (controls)
    gst_flow_action_set_controls (action, NULL, 0);
  else if (structure && gst_structure_get_int (structure, "action", &number))
    gst_flow_action_set_number (action, number);
}

void
gst_flow_action_attach (const GstFlowAction *action, GstBuffer *buffer, guint64 frame_index)
{
  if (!action->controls)
    {
      if (action->number >= 0)
        gst_flow_action_meta_attach (buffer, (guint)action->number, frame_index);
      return;
    }
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, GST_FLOW_ACTION_META_NAME);
  g_auto (GValue) array = G_VALUE_INIT;
  if (!meta)
    return;
  g_value_init (&array, GST_TYPE_ARRAY);
  gst_flow_action_get_value (action, &array);
  gst_structure_set (gst_custom_meta_get_structure (meta), "frame-index", G_TYPE_UINT64, frame_index, NULL);
  gst_structure_set_value (gst_custom_meta_get_structure (meta), "controls", &array);
}

void
gst_flow_action_to_vector (GstElement *element, const GstFlowAction *action, float *vector, guint n,
                           gboolean *warned)
{
  memset (vector, 0, n * sizeof *vector);
  if (!gst_flow_action_is_known (action) || n == 0)
    return;
  const gboolean fits = gst_flow_action_fits (action, n);
  if (fits && action->controls)
    memcpy (vector, action->controls->data, n * sizeof *vector);
  else if (fits)
    vector[action->number] = 1;
  else if (!*warned)
    {
      *warned = TRUE;
      if (action->controls)
        GST_ELEMENT_WARNING (element, RESOURCE, SETTINGS,
                             ("%u controls%s: the model takes %u; they are taken as unknown",
                              action->controls->len, action->controls->len ? "" : " that are finite numbers",
                              n),
                             (NULL));
      else
        GST_ELEMENT_WARNING (
            element, RESOURCE, SETTINGS,
            ("Action %d: the model knows 0 to %u; it is taken as unknown", action->number, n - 1), (NULL));
    }
}

/* Files */

struct _GstFlowActionFile
{
  GArray *values; /* guint, or float, n_controls of each frame */
  guint n_controls;
};

GstFlowActionFile *
gst_flow_action_file_read (const char *path, GError **error)
{
  guint n_controls = 0;
  GArray *values = nf_actions_has_controls (path) ? nf_actions_read_controls (path, &n_controls, error)
                                                  : nf_actions_read (path, 0, error);
  if (!values)
    return NULL;
  GstFlowActionFile *file = g_new (GstFlowActionFile, 1);
  *file = (GstFlowActionFile){ values, n_controls };
  return file;
}

void
gst_flow_action_file_free (GstFlowActionFile *file)
{
  if (!file)
    return;
  g_array_unref (file->values);
  g_free (file);
}

gboolean
gst_flow_action_file_get (const GstFlowActionFile *file, guint64 frame, GstFlowAction *action)
{
  const guint n = file->n_controls;
  gst_flow_action_forget (action);
  if (frame >= file->values->len / MAX (n, 1))
    return FALSE;
  if (n > 0)
    gst_flow_action_set_controls (action, &g_array_index (file->values, float, frame *n), n);
  else if (g_array_index (file->values, guint, frame) != NF_ACTIONS_UNKNOWN)
    gst_flow_action_set_number (action, (gint)g_array_index (file->values, guint, frame));
  return TRUE;
}

/* The map */

typedef struct
{
  char **names;
  guint n_names;
  guint action;
} Entry;

struct _GstFlowActionMap
{
  GArray *entries;
};

static void
entry_clear (gpointer data)
{
  g_strfreev (((Entry *)data)->names);
}

static gboolean
parse_entry (const char *text, guint n_actions, Entry *entry, GError **error)
{
  const guint most = n_actions > 0 ? n_actions - 1 : MAX_ACTION;
  const char *equals = strrchr (text, '=');
  guint64 action;
  if (!equals)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "\"%s\" is not a key and its action, such as Up=1",
                   text);
      return FALSE;
    }
  g_autofree char *number = g_strstrip (g_strdup (equals + 1));
  if (!g_ascii_string_to_unsigned (number, 10, 0, most, &action, NULL))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "\"%s\": the action must be a number of 0 to %u", text,
                   most);
      return FALSE;
    }
  g_autofree char *keys = g_strndup (text, equals - text);
  g_auto (GStrv) names = g_strsplit (keys, "+", -1);
  for (guint i = 0; names[i]; i++)
    if (!*g_strstrip (names[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "\"%s\" lacks the name of a key", text);
        return FALSE;
      }
  entry->n_names = g_strv_length (names);
  if (entry->n_names == 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "\"%s\" lacks the name of a key", text);
      return FALSE;
    }
  entry->names = g_steal_pointer (&names);
  entry->action = (guint)action;
  return TRUE;
}

GstFlowActionMap *
gst_flow_action_map_parse (const char *text, guint n_actions, GError **error)
{
  g_autoptr (GstFlowActionMap) map = g_new0 (GstFlowActionMap, 1);
  g_auto (GStrv) parts = g_strsplit (text, ",", MAX_ENTRIES + 1);
  map->entries = g_array_new (FALSE, FALSE, sizeof (Entry));
  g_array_set_clear_func (map->entries, entry_clear);
  if (g_strv_length (parts) > MAX_ENTRIES)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "an action map of more than %d keys", MAX_ENTRIES);
      return NULL;
    }
  for (guint i = 0; parts[i]; i++)
    {
      Entry entry;
      g_strstrip (parts[i]);
      /* An empty map is a map; a comma may stand at the end. */
      if (!*parts[i] && !parts[i + 1])
        break;
      if (!parse_entry (parts[i], n_actions, &entry, error))
        {
          g_prefix_error (error, "the action map \"%s\": ", text);
          return NULL;
        }
      g_array_append_val (map->entries, entry);
    }
  return g_steal_pointer (&map);
}

void
gst_flow_action_map_free (GstFlowActionMap *map)
{
  if (!map)
    return;
  g_array_unref (map->entries);
  g_free (map);
}

static gboolean
map_has (const GstFlowActionMap *map, const char *name)
{
  for (guint i = 0; map && i < map->entries->len; i++)
    {
      const Entry *entry = &g_array_index (map->entries, Entry, i);
      for (guint j = 0; j < entry->n_names; j++)
        if (g_ascii_strcasecmp (entry->names[j], name) == 0)
          return TRUE;
    }
  return FALSE;
}

/* The input */

typedef struct
{
  char *name;
  gboolean released;
  gboolean taken; /* by a frame */
} Held;

static void
held_free (gpointer data)
{
  g_free (((Held *)data)->name);
  g_free (data);
}

void
gst_flow_action_input_init (GstFlowActionInput *input)
{
  *input = (GstFlowActionInput){ .held = g_ptr_array_new_with_free_func (held_free),
                                 .unknown = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL) };
  g_mutex_init (&input->lock);
}

void
gst_flow_action_input_clear (GstFlowActionInput *input)
{
  g_clear_pointer (&input->map, gst_flow_action_map_free);
  g_clear_pointer (&input->held, g_ptr_array_unref);
  g_clear_pointer (&input->unknown, g_hash_table_unref);
  g_mutex_clear (&input->lock);
}

void
gst_flow_action_input_set_map (GstFlowActionInput *input, GstFlowActionMap *map)
{
  g_mutex_lock (&input->lock);
  g_clear_pointer (&input->map, gst_flow_action_map_free);
  input->map = map;
  g_ptr_array_set_size (input->held, 0);
  g_hash_table_remove_all (input->unknown);
  input->has_pointer = FALSE;
  g_mutex_unlock (&input->lock);
}

/* The place of NAME among what is down, -1 if it is not. */
static gint
find_held (const GstFlowActionInput *input, const char *name)
{
  for (guint i = 0; i < input->held->len; i++)
    if (g_ascii_strcasecmp (((Held *)g_ptr_array_index (input->held, i))->name, name) == 0)
      return (gint)i;
  return -1;
}

static gboolean
press (GstFlowActionInput *input, const char *name, gboolean released)
{
  if (!map_has (input->map, name))
    return FALSE;
  const gint at = find_held (input, name);
  /* A key that repeats by itself is pressed once. */
  if (at >= 0 && !((Held *)g_ptr_array_index (input->held, at))->released && !released)
    return TRUE;
  if (at >= 0)
    g_ptr_array_remove_index (input->held, at);
  Held *held = g_new0 (Held, 1);
  held->name = g_strdup (name);
  held->released = released;
  g_ptr_array_add (input->held, held);
  return TRUE;
}

static gboolean
release (GstFlowActionInput *input, const char *name)
{
  const gint at = find_held (input, name);
  if (at < 0)
    return FALSE;
  Held *held = g_ptr_array_index (input->held, at);
  /* one that went down and up between two frames still counts for the next */
  held->released = TRUE;
  if (held->taken)
    g_ptr_array_remove_index (input->held, at);
  return TRUE;
}

static gboolean
move (GstFlowActionInput *input, double x, double y)
{
  gboolean wanted = FALSE;
  if (input->has_pointer)
    {
      const double dx = x - input->pointer_x, dy = y - input->pointer_y;
      if (dx != 0)
        wanted |= press (input, dx < 0 ? "MoveLeft" : "MoveRight", TRUE);
      if (dy != 0)
        wanted |= press (input, dy < 0 ? "MoveUp" : "MoveDown", TRUE);
    }
  input->has_pointer = TRUE;
  input->pointer_x = x;
  input->pointer_y = y;
  return wanted;
}

static gboolean
handle (GstFlowActionInput *input, GstEvent *event)
{
  const char *key;
  double x, y, dx, dy;
  gint button;
  switch (gst_navigation_event_get_type (event))
    {
    case GST_NAVIGATION_EVENT_KEY_PRESS:
      return gst_navigation_event_parse_key_event (event, &key) && key && press (input, key, FALSE);
    case GST_NAVIGATION_EVENT_KEY_RELEASE:
      return gst_navigation_event_parse_key_event (event, &key) && key && release (input, key);
    case GST_NAVIGATION_EVENT_MOUSE_BUTTON_PRESS:
    case GST_NAVIGATION_EVENT_MOUSE_BUTTON_RELEASE:
      {
        if (!gst_navigation_event_parse_mouse_button_event (event, &button, &x, &y))
          return FALSE;
        g_autofree char *name = g_strdup_printf ("Button%d", button);
        if (gst_navigation_event_get_type (event) == GST_NAVIGATION_EVENT_MOUSE_BUTTON_RELEASE)
          return release (input, name);
        /* windows of X send the wheel as buttons */
        static const char *const wheel[] = { "ScrollUp", "ScrollDown", "ScrollLeft", "ScrollRight" };
        const gboolean scrolled = button >= 4 && button - 4 < (gint)G_N_ELEMENTS (wheel)
                                  && press (input, wheel[button - 4], TRUE);
        return press (input, name, FALSE) || scrolled;
      }
    case GST_NAVIGATION_EVENT_MOUSE_MOVE:
      return gst_navigation_event_parse_mouse_move_event (event, &x, &y) && move (input, x, y);
    case GST_NAVIGATION_EVENT_MOUSE_SCROLL:
      if (!gst_navigation_event_parse_mouse_scroll_event (event, &x, &y, &dx, &dy))
        return FALSE;
      if (dy != 0)
        return press (input, dy > 0 ? "ScrollUp" : "ScrollDown", TRUE);
      return dx != 0 && press (input, dx < 0 ? "ScrollLeft" : "ScrollRight", TRUE);
    default:
      return FALSE;
    }
}

/* The name of the key that EVENT presses, if the map has other keys but not this one, and nobody was told. */
static const char *
find_unknown (GstFlowActionInput *input, GstEvent *event)
{
  const char *key;
  if (gst_navigation_event_get_type (event) != GST_NAVIGATION_EVENT_KEY_PRESS
      || !gst_navigation_event_parse_key_event (event, &key) || !key || !input->map
      || input->map->entries->len == 0 || map_has (input->map, key)
      || g_hash_table_size (input->unknown) >= MAX_UNKNOWN)
    return NULL;
  return g_hash_table_add (input->unknown, g_strdup (key)) ? key : NULL;
}

gboolean
gst_flow_action_input_event (GstFlowActionInput *input, GstElement *element, GstEvent *event)
{
  g_mutex_lock (&input->lock);
  const gboolean wanted = handle (input, event);
  const char *unknown = find_unknown (input, event);
  g_mutex_unlock (&input->lock);
  if (unknown)
    GST_ELEMENT_WARNING (element, RESOURCE, SETTINGS,
                         ("The key %s has no action; the property action-map says which have", unknown),
                         (NULL));
  return wanted;
}

/* If all keys of ENTRY are down, the place of the one that was pressed last, else -1. */
static gint
match (const GstFlowActionInput *input, const Entry *entry)
{
  gint last = -1;
  for (guint i = 0; i < entry->n_names; i++)
    {
      const gint at = find_held (input, entry->names[i]);
      if (at < 0)
        return -1;
      last = MAX (last, at);
    }
  return last;
}

gint
gst_flow_action_input_take (GstFlowActionInput *input)
{
  const Entry *best = NULL;
  gint best_last = -1;

  g_mutex_lock (&input->lock);
  for (guint i = 0; input->map && i < input->map->entries->len; i++)
    {
      const Entry *entry = &g_array_index (input->map->entries, Entry, i);
      const gint last = match (input, entry);
      if (last < 0 || (best && entry->n_names < best->n_names)
          || (best && entry->n_names == best->n_names && last <= best_last))
        continue;
      best = entry;
      best_last = last;
    }
  const gint action = best ? (gint)best->action : -1;
  for (guint i = input->held->len; i-- > 0;)
    {
      Held *held = g_ptr_array_index (input->held, i);
      held->taken = TRUE;
      if (held->released)
        g_ptr_array_remove_index (input->held, i);
    }
  g_mutex_unlock (&input->lock);
  return action;
}

gboolean
gst_flow_action_input_get_pointer (GstFlowActionInput *input, double *x, double *y)
{
  g_mutex_lock (&input->lock);
  const gboolean has = input->has_pointer;
  *x = input->pointer_x;
  *y = input->pointer_y;
  g_mutex_unlock (&input->lock);
  return has;
}
