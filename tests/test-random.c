/* normflow: counter-based random numbers. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#define MANY 1000000

/* The vectors that come with Random123 (Salmon et al. 2011), philox4x32 with ten rounds. */
static void
test_known_answers (void **state)
{
  static const struct
  {
    guint64 counter, stream, seed;
    guint32 out[4];
  } vectors[] = {
    { 0, 0, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
    { G_MAXUINT64, G_MAXUINT64, G_MAXUINT64, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
    { 0x85a308d3243f6a88,
      0x0370734413198a2e,
      0x299f31d0a4093822,
      { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
  };
  for (guint i = 0; i < G_N_ELEMENTS (vectors); i++)
    {
      guint32 out[4];
      nf_random_u32x4 (vectors[i].seed, vectors[i].stream, vectors[i].counter, out);
      assert_memory_equal (out, vectors[i].out, sizeof out);
    }
}

/* Every bit of the arguments matters. */
static void
test_arguments (void **state)
{
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);
  for (guint i = 0; i < 3 * 64; i++)
    {
      const guint64 bit = G_GUINT64_CONSTANT (1) << i % 64;
      guint32 out[4];
      nf_random_u32x4 (i / 64 == 0 ? bit : 0, i / 64 == 1 ? bit : 0, i / 64 == 2 ? bit : 0, out);
      assert_true (g_hash_table_add (seen, g_memdup2 (out, sizeof (gint64))));
    }
}

static void
test_uniform (void **state)
{
  double sum = 0, squares = 0;
  for (guint i = 0; i < MANY; i++)
    {
      const double u = nf_random_uniform (1, 2, i);
      assert_true (u >= 0 && u < 1);
      sum += u;
      squares += u * u;
    }
  /* five standard errors */
  assert_true (fabs (sum / MANY - 0.5) < 5 * sqrt (1.0 / 12 / MANY));
  assert_true (fabs (squares / MANY - 1.0 / 3) < 5 * sqrt (4.0 / 45 / MANY));
  guint32 out[4];
  nf_random_u32x4 (1, 2, 77, out);
  assert_true (nf_random_uniform (1, 2, 77) == out[0] / 4294967296.0);
}

/* The same bits on every machine: computed once from the definition with 120 bits of precision. */
static void
test_normal_bits (void **state)
{
  static const struct
  {
    guint64 seed, stream;
    guint32 bits[8];
  } golden[] = {
    { 0,
      0,
      { 0xbe82fa50, 0x3f2153b7, 0x3ff51846, 0x3f01cc4f, 0xc0042d25, 0xbf89bcdd, 0x3f4c1d40, 0x3e87dc28 } },
    { 0x123456789abcdef0,
      0xfedcba9876543210,
      { 0x3e27dec3, 0xbfb5944d, 0xbf9a6cda, 0x3e2d2552, 0x3eb1632f, 0xbf4b0ef0, 0xbee35083, 0x3f78b3c3 } },
  };
  for (guint i = 0; i < G_N_ELEMENTS (golden); i++)
    {
      float out[8];
      guint32 bits[8];
      nf_random_normal (golden[i].seed, golden[i].stream, 8, 1, out);
      memcpy (bits, out, sizeof bits);
      for (guint j = 0; j < 8; j++)
        assert_int_equal (bits[j], golden[i].bits[j]);
    }
}

/* Through the distribution function of the C library come back the integers that the values were made of. */
static void
test_normal_inverse (void **state)
{
  g_autofree float *out = g_new (float, MANY);
  nf_random_normal (3, 4, MANY, 1, out);
  for (guint i = 0; i < MANY; i++)
    {
      guint32 words[4];
      nf_random_u32x4 (3, 4, i / 2, words);
      const double p = (words[i % 2 * 2] + (words[i % 2 * 2 + 1] + 0.5) / 4294967296.0) / 4294967296.0;
      const double x = (double)out[i];
      /* relative to the smaller tail; a float's rounding moves it by x² 2^-24 */
      const double tail = p < 0.5 ? p : 1 - p, back = 0.5 * erfc (fabs (x) * sqrt (0.5));
      if (!((x < 0) == (p < 0.5)) || !(fabs (back - tail) <= tail * (1 + x * x) * 3e-7))
        fail_msg ("value %u is %.9g with a tail of %.9g, not %.9g", i, x, back, tail);
    }
}

static void
test_normal_moments (void **state)
{
  double m[4] = { 0 }, beyond[4] = { 0 }, neighbours = 0;
  g_autofree float *out = g_new (float, MANY);
  nf_random_normal (5, 6, MANY, 1, out);
  for (guint i = 0; i < MANY; i++)
    {
      const double x = (double)out[i];
      double power = 1;
      for (guint k = 0; k < 4; k++)
        m[k] += power *= x;
      for (guint k = 0; k < 4; k++)
        beyond[k] += fabs (x) > k + 1;
      if (i > 0)
        neighbours += x * (double)out[i - 1];
    }
  /* five standard errors: the variance of x^k is E x^2k - (E x^k)² */
  const double expected[4] = { 0, 1, 0, 3 }, variance[4] = { 1, 2, 15, 96 };
  for (guint k = 0; k < 4; k++)
    assert_true (fabs (m[k] / MANY - expected[k]) < 5 * sqrt (variance[k] / MANY));
  for (guint k = 0; k < 4; k++)
    {
      const double p = erfc ((k + 1) * sqrt (0.5));
      assert_true (fabs (beyond[k] / MANY - p) < 5 * sqrt (p * (1 - p) / MANY));
    }
  assert_true (fabs (neighbours / MANY) < 5 / sqrt (MANY));
}

/* Element i is the same whatever n is, and nothing is written behind element n. */
static void
test_normal_places (void **state)
{
  float all[101], some[101];
  nf_random_normal (7, 8, 101, 0.7, all);
  for (gsize n = 0; n < 101; n++)
    {
      for (guint i = 0; i < 101; i++)
        some[i] = 99;
      nf_random_normal (7, 8, n, 0.7, some);
      assert_memory_equal (some, all, n * sizeof *all);
      for (gsize i = n; i < 101; i++)
        assert_true (some[i] == 99);
    }
}

static void
test_temperature (void **state)
{
  float plain[64], warm[64];
  nf_random_normal (9, 10, 64, 1, plain);
  nf_random_normal (9, 10, 64, 0.5, warm);
  for (guint i = 0; i < 64; i++)
    assert_true (warm[i] == plain[i] / 2);
  nf_random_normal (9, 10, 64, 0, warm);
  for (guint i = 0; i < 64; i++)
    assert_true (warm[i] == 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_known_answers),  cmocka_unit_test (test_arguments),
    cmocka_unit_test (test_uniform),        cmocka_unit_test (test_normal_bits),
    cmocka_unit_test (test_normal_inverse), cmocka_unit_test (test_normal_moments),
    cmocka_unit_test (test_normal_places),  cmocka_unit_test (test_temperature),
  };
  return cmocka_run_group_tests_name ("random", tests, NULL, NULL);
}
