/* normflow: JSON from outside. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>
#include "nf-config.h"

/* Not installed. Bytes of the mark that some editors put before UTF-8 with which TEXT begins: 3 or 0. */
gsize nf_json_measure_mark (const char *text, gsize length);

/* The object in the LENGTH bytes of TEXT (valid as long as PARSER), or NULL with
 * %NF_ERROR_FORMAT. Stricter than json-glib alone: nesting is bounded, because parsers recurse; nothing but
 * JSON passes; no object has two members of one name. WHAT says in messages what it is, e.g.
 * "model.safetensors: the header". */
JsonObject *nf_json_parse_object (JsonParser *parser, const char *text, gsize length, const char *what,
                                  GError **error);

/* nf_config_from_json() of an object that was parsed. */
NfConfig *nf_config_from_object (JsonObject *object, const char *origin, GError **error);

/* Whether an object that names no family has members of STARFlow constructors. */
gboolean nf_config_looks_like_starflow (JsonObject *object);
