/* normflow: errors. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-error-private.h"

#include <string.h>

#define MAX_SHOWN 64

/* hyphens, not minus signs */
/* clang-format off */
G_DEFINE_QUARK (nf-error-quark, nf_error)
/* clang-format on */

gboolean
nf_is_word (const char *text)
{
  const gsize length = text ? strnlen (text, MAX_SHOWN + 1) : 0;
  return length > 0 && length <= MAX_SHOWN
         && strspn (text, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

char *
nf_shorten (const char *text)
{
  g_autofree char *valid = g_utf8_make_valid (text, (gssize)strnlen (text, MAX_SHOWN));
  GString *shown = g_string_new (NULL);
  for (const char *c = valid; *c; c = g_utf8_next_char (c))
    {
      const gunichar letter = g_utf8_get_char (c);
      g_string_append_unichar (shown, g_unichar_iscntrl (letter) ? '?' : letter);
    }
  return g_string_free (shown, FALSE);
}

gboolean
nf_error_malformed (GError **error, const char *what, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *text = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: %s", what, text);
  return FALSE;
}
