/* normflow: official training configurations. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>
#include "nf-error.h"

/* Not installed. The members of a configuration, as in `__metadata__.config`, that the LENGTH bytes of YAML
 * say, which are the arguments of an official training run; ORIGIN says in messages where they are from.
 * Arguments that only matter in training are passed over, those that we do not know are an error that names
 * them. */
JsonObject *nf_recipe_read (const char *yaml, gsize length, const char *origin, GError **error);
