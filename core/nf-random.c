/* normflow: counter-based random numbers. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-random.h"

#include <math.h>
#include <string.h>

#define ROUNDS 10

void
nf_random_u32x4 (guint64 seed, guint64 stream, guint64 counter, guint32 out[4])
{
  guint32 c[4] = { (guint32)counter, (guint32)(counter >> 32), (guint32)stream, (guint32)(stream >> 32) };
  guint32 k[2] = { (guint32)seed, (guint32)(seed >> 32) };

  for (guint round = 0; round < ROUNDS; round++)
    {
      const guint64 a = (guint64)0xD2511F53u * c[0], b = (guint64)0xCD9E8D57u * c[2];
      const guint32 next[4]
          = { (guint32)(b >> 32) ^ c[1] ^ k[0], (guint32)b, (guint32)(a >> 32) ^ c[3] ^ k[1], (guint32)a };
      memcpy (c, next, sizeof c);
      k[0] += 0x9E3779B9u;
      k[1] += 0xBB67AE85u;
    }
  memcpy (out, c, sizeof c);
}

double
nf_random_uniform (guint64 seed, guint64 stream, guint64 counter)
{
  guint32 words[4];

  nf_random_u32x4 (seed, stream, counter, words);
  return words[0] * (1.0 / 4294967296.0);
}

/* The natural logarithm from basic arithmetic, so that every machine agrees: x = m 2^e with m in [sqrt(1/2),
 * sqrt(2)), and log m = 2 artanh((m - 1)/(m + 1)) by its series. */
static double
portable_log (double x)
{
  guint64 bits;
  memcpy (&bits, &x, sizeof bits);
  int exponent = (int)(bits >> 52) - 1023;
  bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  memcpy (&x, &bits, sizeof x);
  if (x > G_SQRT2)
    {
      x *= 0.5;
      exponent++;
    }
  const double s = (x - 1) / (x + 1), s2 = s * s;
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2)
    sum = sum * s2 + 1.0 / k;
  return 2 * s * sum + exponent * G_LN2;
}

static double
polynomial (const double *c, gsize n, double x)
{
  double sum = 0;
  for (gsize i = 0; i < n; i++)
    sum = sum * x + c[i];
  return sum;
}

/* The inverse of the normal distribution function, p in (0, 1): Wichura's rational approximations (Applied
 * Statistics 37, 1988, AS 241, PPND16), relative error about 1e-16. */
static double
inverse_normal (double p)
{
  static const double a[] = { 2.5090809287301226727e+3, 3.3430575583588128105e+4, 6.7265770927008700853e+4,
                              4.5921953931549871457e+4, 1.3731693765509461125e+4, 1.9715909503065514427e+3,
                              1.3314166789178437745e+2, 3.3871328727963666080e+0 };
  static const double b[] = { 5.2264952788528545610e+3, 2.8729085735721942674e+4,
                              3.9307895800092710610e+4, 2.1213794301586595867e+4,
                              5.3941960214247511077e+3, 6.8718700749205790830e+2,
                              4.2313330701600911252e+1, 1.0 };
  static const double c[] = { 7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
                              1.27045825245236838258e+0, 3.64784832476320460504e+0, 5.76949722146069140550e+0,
                              4.63033784615654529590e+0, 1.42343711074968357734e+0 };
  static const double d[] = { 1.05075007164441684324e-9, 5.47593808499534494600e-4,
                              1.51986665636164571966e-2, 1.48103976427480074590e-1,
                              6.89767334985100004550e-1, 1.67638483018380384940e+0,
                              2.05319162663775882187e+0, 1.0 };
  static const double e[] = { 2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
                              2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e+0,
                              5.46378491116411436990e+0, 6.65790464350110377720e+0 };
  static const double f[] = { 2.04426310338993978564e-15, 1.42151175831644588870e-7,
                              1.84631831751005468180e-5,  7.86869131145613259100e-4,
                              1.48753612908506148525e-2,  1.36929880922735805310e-1,
                              5.99832206555887937690e-1,  1.0 };
  const double q = p - 0.5;
  if (q >= -0.425 && q <= 0.425)
    {
      const double r = 0.180625 - q * q;
      return q * polynomial (a, 8, r) / polynomial (b, 8, r);
    }
  const double r = sqrt (-portable_log (q < 0 ? p : 1 - p));
  const double x = r <= 5 ? polynomial (c, 8, r - 1.6) / polynomial (d, 8, r - 1.6)
                          : polynomial (e, 8, r - 5) / polynomial (f, 8, r - 5);
  return q < 0 ? -x : x;
}

void
nf_random_normal (guint64 seed, guint64 stream, gsize n, double temperature, float *out)
{
  for (gsize i = 0; i < n; i += 2)
    {
      guint32 words[4];
      nf_random_u32x4 (seed, stream, i / 2, words);
      for (gsize j = 0; j < 2 && i + j < n; j++)
        {
          /* 52 bits and a half: never 0, never 1 */
          const guint64 bits = ((guint64)words[2 * j] << 20) | (words[2 * j + 1] >> 12);
          out[i + j] = (float)(temperature * inverse_normal (((double)bits + 0.5) / 4503599627370496.0));
        }
    }
}
