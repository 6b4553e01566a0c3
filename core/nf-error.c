/* normflow: errors. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-error.h"

/* hyphens, not minus signs */
/* clang-format off */
G_DEFINE_QUARK (nf-error-quark, nf_error)
