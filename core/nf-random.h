/* normflow: counter-based random numbers. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * nf_random_u32x4:
 * @seed: key
 * @stream: which sequence (frame, step, ...)
 * @counter: place in the sequence
 * @out: (out caller-allocates): four independent 32-bit values
 *
 * Philox4x32-10 (Salmon et al. 2011): a pure function in integers, the same on every machine and in every
 * order.
 */
void nf_random_u32x4 (guint64 seed, guint64 stream, guint64 counter, guint32 out[4]);

/** nf_random_uniform: Returns: a double in [0, 1) from 32 bits of (seed, stream, counter). */
double nf_random_uniform (guint64 seed, guint64 stream, guint64 counter);

/**
 * nf_random_normal:
 * @out: (out caller-allocates): @n values of a normal distribution with standard deviation @temperature:
 * element i depends on (seed, stream, i) alone
 *
 * The integers go through a table-free inverse of the normal distribution function (Wichura 1988, AS 241) in
 * double precision with basic arithmetic only (no libm), so that the floats too are the same on every
 * machine. Used for latents of the prior.
 */
void nf_random_normal (guint64 seed, guint64 stream, gsize n, double temperature, float *out);

G_END_DECLS
