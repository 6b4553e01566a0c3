/* normflow: errors. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-error.h"

/* Not installed. Sets %NF_ERROR_FORMAT "WHAT: text"; returns FALSE. */
gboolean nf_error_malformed (GError **error, const char *what, const char *format, ...) G_GNUC_PRINTF (3, 4);
