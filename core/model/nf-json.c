/* normflow: JSON from outside. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-json.h"

#include <string.h>

#define MAX_DEPTH 16
#define MAX_WHOLE "9223372036854775807" /* G_MAXINT64: the parser wraps what is above it around */

/* Each skips what it is named after and returns the place behind it, or NULL if there is none. */

/* \uXXXX, of which *UNIT is the number. */
static const char *
skip_unit (const char *at, const char *end, guint *unit)
{
  *unit = 0;
  if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
    return NULL;
  for (guint i = 2; i < 6; i++)
    {
      const gint digit = g_ascii_xdigit_value (at[i]);
      if (digit < 0)
        return NULL;
      *unit = *unit << 4 | (guint)digit;
    }
  return at + 6;
}

/* The parser would read octal numbers as bytes and halves of surrogate pairs as letters, which no text holds,
 * and end a string at a NUL. */
static const char *
skip_escape (const char *at, const char *end, gboolean *nul)
{
  guint unit, low;
  if (end - at < 2)
    return NULL;
  if (at[1] != 'u')
    return strchr ("\"\\/bfnrt", at[1]) && at[1] ? at + 2 : NULL;
  at = skip_unit (at, end, &unit);
  if (at && unit >= 0xd800 && unit < 0xdc00)
    {
      at = skip_unit (at, end, &low);
      return at && low >= 0xdc00 && low < 0xe000 ? at : NULL;
    }
  *nul = at && unit == 0;
  return unit > 0 && (unit < 0xdc00 || unit >= 0xe000) ? at : NULL;
}

static const char *
skip_string (const char *at, const char *end, gboolean *nul)
{
  at++;
  while (at && at < end)
    if (*at == '"')
      return at + 1;
    else if ((guchar)*at < 0x20)
      return NULL;
    else
      at = *at == '\\' ? skip_escape (at, end, nul) : at + 1;
  return NULL;
}

static const char *
skip_digits (const char *at, const char *end)
{
  const char *start = at;
  while (at < end && g_ascii_isdigit (*at))
    at++;
  return at > start ? at : NULL;
}

static const char *
skip_number (const char *at, const char *end)
{
  if (*at == '-')
    at++;
  const char *digits = at;
  if (!(at = skip_digits (at, end)) || (*digits == '0' && at - digits > 1))
    return NULL;
  const gboolean whole = at == end || (*at != '.' && *at != 'e' && *at != 'E');
  if (whole)
    {
      const gssize n = at - digits, most = sizeof MAX_WHOLE - 1;
      return n < most || (n == most && memcmp (digits, MAX_WHOLE, most) <= 0) ? at : NULL;
    }
  if (*at == '.' && !(at = skip_digits (at + 1, end)))
    return NULL;
  if (at < end && (*at == 'e' || *at == 'E'))
    {
      at++;
      if (at < end && (*at == '+' || *at == '-'))
        at++;
      at = skip_digits (at, end);
    }
  return at;
}

static const char *
skip_literal (const char *at, const char *end)
{
  static const char *const literals[] = { "true", "false", "null" };
  for (guint i = 0; i < G_N_ELEMENTS (literals); i++)
    {
      const gsize length = strlen (literals[i]);
      if ((gsize)(end - at) >= length && strncmp (at, literals[i], length) == 0)
        return at + length;
    }
  return NULL;
}

/* What the parser would take or do though it should not: endless nesting, comments, assignments, other
 * number bases, numbers that wrap around, several values. Returns NULL if there is nothing of it. */
static const char *
find_problem (const char *text, gsize length)
{
  const char *at = text, *end = text + length;
  guint depth = 0;
  gboolean started = FALSE, nul = FALSE;

  while (at && at < end)
    {
      const char c = *at;
      if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
        {
          at++;
          continue;
        }
      if (started ? depth == 0 : c != '{')
        return started ? "something follows after its end" : "it is not an object";
      started = TRUE;
      if (c == '{' || c == '[')
        {
          if (++depth > MAX_DEPTH)
            return "it is nested too deeply";
          at++;
        }
      else if (c == '}' || c == ']')
        {
          depth--;
          at++;
        }
      else if (c == ',' || c == ':')
        at++;
      else if (c == '"')
        at = skip_string (at, end, &nul);
      else if (c == '-' || g_ascii_isdigit (c))
        at = skip_number (at, end);
      else
        at = skip_literal (at, end);
    }
  if (nul)
    return "it has a string with a NUL in it (\\u0000), which is not read";
  if (!at)
    return "it has a number, a string or a word that JSON does not know";
  return depth > 0 || !started ? "it has no end" : NULL;
}

typedef struct
{
  GHashTable *sizes; /* object that is being read -> its number of members */
  char *name;        /* the first that came twice */
} Twins;

static void
on_member (JsonParser *parser, JsonObject *object, const char *name, gpointer data)
{
  Twins *twins = data;
  const guint size = json_object_get_size (object);
  if (GPOINTER_TO_UINT (g_hash_table_lookup (twins->sizes, object)) == size && !twins->name)
    twins->name = nf_shorten (name);
  g_hash_table_insert (twins->sizes, object, GUINT_TO_POINTER (size));
}

static void
on_object_end (JsonParser *parser, JsonObject *object, gpointer data)
{
  g_hash_table_remove (((Twins *)data)->sizes, object);
}

/* Parses, and tells the first member that its object has already, which the parser would replace. */
static gboolean
parse (JsonParser *parser, const char *text, gsize length, char **twin, GError **error)
{
  g_autoptr (GHashTable) sizes = g_hash_table_new (NULL, NULL);
  Twins twins = { .sizes = sizes };
  const gulong member = g_signal_connect (parser, "object-member", G_CALLBACK (on_member), &twins);
  const gulong object_end = g_signal_connect (parser, "object-end", G_CALLBACK (on_object_end), &twins);
  const gboolean parsed = json_parser_load_from_data (parser, text, (gssize)length, error);
  g_signal_handler_disconnect (parser, member);
  g_signal_handler_disconnect (parser, object_end);
  *twin = twins.name;
  return parsed;
}

gsize
nf_json_measure_mark (const char *text, gsize length)
{
  static const char mark[] = { '\xef', '\xbb', '\xbf' };
  return length >= sizeof mark && memcmp (text, mark, sizeof mark) == 0 ? sizeof mark : 0;
}

JsonObject *
nf_json_parse_object (JsonParser *parser, const char *text, gsize length, const char *what, GError **error)
{
  g_autoptr (GError) wrong = NULL;
  g_autofree char *twin = NULL;
  if (!g_utf8_validate_len (text, length, NULL))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is not UTF-8 text", what);
      return NULL;
    }
  const char *problem = find_problem (text, length);
  if (!problem && !parse (parser, text, length, &twin, &wrong))
    problem = wrong->message;
  if (problem)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is not a JSON object: %s", what, problem);
      return NULL;
    }
  if (twin)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s has \"%s\" twice", what, twin);
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
