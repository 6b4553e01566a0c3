/* normflow: half precision for storage. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-half.h"

#include <string.h>

static guint16
half_of (float value)
{
  guint32 bits;
  memcpy (&bits, &value, sizeof bits);
  guint16 sign = (bits >> 16) & 0x8000;
  guint32 magnitude = bits & 0x7fffffff;

  if (magnitude > 0x7f800000) /* NaN: keep it quiet, and the top of its payload */
    return sign | 0x7e00 | ((magnitude >> 13) & 0x1ff);
  if (magnitude >= 0x477ff000) /* 65520, halfway between the largest half and the next power of two */
    return sign | 0x7c00;
  if (magnitude >= 0x38800000) /* 2^-14: normal; a carry out of the mantissa rightly enters the exponent */
    {
      guint32 rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
      return sign | ((rounded - 0x38000000) >> 13);
    }
  if (magnitude < 0x33000000) /* under 2^-25, half the smallest subnormal */
    return sign;

  guint32 mantissa = (magnitude & 0x7fffff) | 0x800000;
  guint32 shift = 126 - (magnitude >> 23);
  guint32 kept = mantissa >> shift;
  guint32 rest = mantissa & ((1u << shift) - 1);
  guint32 tie = 1u << (shift - 1);
  if (rest > tie || (rest == tie && (kept & 1)))
    kept++;
  return sign | kept;
}

static float
float_of (guint16 half)
{
  guint32 sign = (guint32)(half & 0x8000) << 16;
  guint32 exponent = (half >> 10) & 0x1f;
  guint32 mantissa = half & 0x3ff;
  guint32 bits;

  if (exponent == 0x1f)
    bits = sign | 0x7f800000 | (mantissa << 13);
  else if (exponent != 0)
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  else
    {
      float value = (float)mantissa * 0x1p-24f;
      return sign ? -value : value;
    }
  float value;
  memcpy (&value, &bits, sizeof value);
  return value;
}

void
nf_half_from_float (const float *in, guint16 *out, gsize n)
{
  g_return_if_fail (n == 0 || (in && out));
  for (gsize i = 0; i < n; i++)
    out[i] = half_of (in[i]);
}

void
nf_half_to_float (const guint16 *in, float *out, gsize n)
{
  g_return_if_fail (n == 0 || (in && out));
  for (gsize i = 0; i < n; i++)
    out[i] = float_of (in[i]);
}
