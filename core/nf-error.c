/* normflow: errors. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-error-private.h"

#include <string.h>

/* hyphens, not minus signs */
/* clang-format off */
G_DEFINE_QUARK (nf-error-quark, nf_error)
/* clang-format on */

gboolean
nf_is_word (const char *text)
{
  return text && *text && strspn (text, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen (text);
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
