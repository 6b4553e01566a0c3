/* normflow: errors. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-error.h"

G_DEFINE_QUARK (nf-error-quark, nf_error)
