/* normflow: JSON that the tool writes, and reads back. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>

G_BEGIN_DECLS

/* Members of the object that BUILDER is in; a number that is not finite is null, and so is a string that is
 * NULL. Whole numbers are at most the largest that JSON's readers hold. */
void nf_json_add_double (JsonBuilder *builder, const char *name, double value);
void nf_json_add_int (JsonBuilder *builder, const char *name, guint64 value);
void nf_json_add_bool (JsonBuilder *builder, const char *name, gboolean value);
void nf_json_add_string (JsonBuilder *builder, const char *name, const char *value);

/* All that was built. (transfer full) */
char *nf_json_text (JsonBuilder *builder, gboolean pretty);

/* The members of the JSON object TEXT; NULL if it is none. (transfer full) */
JsonObject *nf_json_members (const char *text);

G_END_DECLS
