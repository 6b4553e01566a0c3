/* normflow: JSON from outside. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-json.h"

#define MAX_DEPTH 16

static gboolean
is_shallow (const char *text, gsize length)
{
  guint depth = 0;
  gboolean in_string = FALSE;

  for (gsize i = 0; i < length; i++)
    if (in_string)
      {
        if (text[i] == '\\')
          i++;
        else if (text[i] == '"')
          in_string = FALSE;
      }
    else if (text[i] == '"')
      in_string = TRUE;
    else if ((text[i] == '{' || text[i] == '[') && ++depth > MAX_DEPTH)
      return FALSE;
    else if ((text[i] == '}' || text[i] == ']') && depth > 0)
      depth--;
  return TRUE;
}

JsonObject *
nf_json_parse_object (JsonParser *parser, const char *text, gsize length, const char *what, GError **error)
{
  g_autoptr (GError) problem = NULL;
  if (!g_utf8_validate_len (text, length, NULL))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is not UTF-8 text", what);
      return NULL;
    }
  if (!is_shallow (text, length))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is nested deeper than %d levels", what, MAX_DEPTH);
      return NULL;
    }
  if (!json_parser_load_from_data (parser, text, (gssize)length, &problem))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is not JSON: %s", what, problem->message);
      return NULL;
    }
  JsonNode *root = json_parser_get_root (parser);
  if (!root || !JSON_NODE_HOLDS_OBJECT (root))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is not a JSON object", what);
      return NULL;
    }
  return json_node_get_object (root);
}
