/* normflow: half precision for storage. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * nf_half_from_float:
 * @in: (array length=n): floats
 * @out: (array length=n) (out caller-allocates): IEEE 754 binary16, host byte order
 * @n: how many
 *
 * Rounds to nearest, ties to even, in integer arithmetic: the same bits on every machine. Values from 65520
 * on become infinite, values under 2^-25 zero, NaN stays NaN.
 */
void nf_half_from_float (const float *in, guint16 *out, gsize n);

/**
 * nf_half_to_float:
 * @in: (array length=n): IEEE 754 binary16, host byte order
 * @out: (array length=n) (out caller-allocates): the same values
 * @n: how many
 *
 * Exact: every half is a float.
 */
void nf_half_to_float (const guint16 *in, float *out, gsize n);

G_END_DECLS
