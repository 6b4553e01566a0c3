/* Matrix products on a CPU's matrix unit. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What nf_matmul of matmul_cpu.cl does with a panel where the CPU has AMX: tiles of MR = 32 rows × NR = 32 columns of C. K, of words, is a multiple of
 * NF_DEPTH, the words of a step.
 *
 *   - A part of a panel, NF_PART steps of k, is multiplied with all rows before the next: it stays in the first-level cache, and C waits in `kept`.
 *     Chains of sums go on where they stopped, so parts change no result.
 *   - What follows a product (nf_finish) is vector arithmetic and writing. It is done for one tile while the matrix unit is busy with the next.
 *   - The next panel, which the same thread will most likely read, comes to the second-level cache meanwhile. A single tile of rows leaves no time
 *     for it. */

#define NF_MOST_TILES 16 /* `tiles` of nf_matmul at most */
#define NF_PART 16 /* 32 KiB */
#define NF_LINES (NF_DEPTH * NR / 16) /* cache lines of a step */

static void
nf_rows (const NfMatmul *t, __global const nf_element *panel, int m0, int end, int n0)
{
  float kept[NF_MOST_TILES][MR * NR] __attribute__ ((aligned (64)));
  const int count = (end - m0 + MR - 1) / MR, steps = t->K / NF_DEPTH, tail = end - m0 - (count - 1) * MR;
  const int parts = count > 1 ? (steps + NF_PART - 1) / NF_PART : 1, ahead_lines = count > 1 ? (NF_LINES + count - 1) / count : 0;
  const ulong lda = 4 * (ulong)t->lda;
  __global const nf_element *ahead = panel + (size_t)t->K * NR;
  int configured = 0;
  for (int part = 0, first = 0; part < parts; part++)
    {
      const int last = steps * (part + 1) / parts;
      const bool ends = part == parts - 1;
      /* in the last part one more turn finishes the last tile */
      for (int i = 0; i < count + ends; i++)
        {
          const bool multiply = i < count;
          const int m = m0 + i * MR, rows = i == count - 1 ? tail : MR, turns = multiply ? last - first : 1;
          const bool lower = rows > NF_TILE_ROWS;
          float *c = kept[parts > 1 ? i : i % 2];
          const float *done = kept[parts > 1 ? max (i - 1, 0) : (i + 1) % 2];
          __global const nf_element *a0 = t->A + (size_t)m * t->lda + first * NF_DEPTH, *a1 = a0 + NF_TILE_ROWS * (size_t)t->lda;
          __global const nf_element *b = panel + (size_t)first * NF_DEPTH * NR;
          const int vectors = 2 * (i == count ? tail : MR), each = (2 * MR + turns - 1) / turns;
          int finished = ends && i > 0 ? 0 : vectors;
          if (multiply && configured != rows)
            {
              nf_amx_configure (min (rows, NF_TILE_ROWS), rows - NF_TILE_ROWS);
              configured = rows;
            }
          if (multiply && part == 0)
            nf_amx_zero ();
          else if (multiply)
            nf_amx_load (c, lower);
          for (int k = 0; k < turns; k++, a0 += NF_DEPTH, a1 += NF_DEPTH, b += NF_DEPTH * NR)
            {
              if (multiply)
                for (int line = 0; line < ahead_lines; line++, ahead += 16)
                  NF_PREFETCH_FAR (ahead);
              if (multiply && lower)
                nf_amx_multiply (a0, a1, lda, b);
              else if (multiply)
                nf_amx_multiply_upper (a0, lda, b);
              for (const int until = min (finished + each, vectors); finished < until; finished++)
                nf_finish (t, nf_loadv (done + finished * VW), m - MR + finished / 2, n0 + finished % 2 * VW);
            }
          if (multiply)
            nf_amx_store (c, lower);
        }
      first = last;
    }
  nf_amx_release ();
}
