/* Command lists on a CPU: many launches as one. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A launch costs some microseconds, and a step of decoding is forty of them that take less. So the host writes kernels and their arguments one after
 * the other into memory that it shares with the device (nf-command-list.c), and launches what reads them: a work-item for each core, a member. The items
 * of a command are shared out among members, each of which takes those of its own share from the front, again and again the same: so what it reads, as
 * weights, is in its own core's cache. Who has none left takes from the back of another's share. Nobody begins a command before all items of the one
 * before are done.
 *
 * Members need not run at the same time: each could do all of it alone. One waits for another only if that is in the middle of an item.
 *
 * Compiled with -DNF_LIST=1 behind all files whose kernels a list may hold, and listed.h; with -DNF_LIST=2 it may hold those of gradients, too. */

#pragma OPENCL EXTENSION cl_khr_int64_base_atomics : enable

/* Before the first command each member has a cache line for its share; then come commands. As in nf-command-list.c. */
#define NF_MOST_MEMBERS 128
#define NF_LINE 8 /* ulongs */
#define NF_COMMANDS ((NF_MOST_MEMBERS + 1) * NF_LINE)
#define NF_SHARE(member) (((member) + 1) * NF_LINE)

/* Of a command: its number and how many words it has, its items along x and y, along z and in which order, how many are done, arguments. */
#define NF_NUMBER(command) ((uint)(command)[0] & 0xffff)
#define NF_LENGTH(command) ((uint)((command)[0] >> 32))
#define NF_BY_COLUMNS(command) ((uint)((command)[2] >> 32)) /* x changes last */
#define NF_DONE 3
#define NF_ARGUMENTS 4

/* A share: which command it is of, its first item and the one behind its last. */
#define NF_SHARE_BITS 20
#define NF_SHARE_OF(word, first, end) ((ulong)(word) << 2 * NF_SHARE_BITS | (ulong)(first) << NF_SHARE_BITS | (ulong)(end))
#define NF_SHARE_WORD(share) ((int)((share) >> 2 * NF_SHARE_BITS))
#define NF_SHARE_FIRST(share) ((int)((share) >> NF_SHARE_BITS) & ((1 << NF_SHARE_BITS) - 1))
#define NF_SHARE_END(share) ((int)(share) & ((1 << NF_SHARE_BITS) - 1))

/* How often one looks whether all is done before it looks into others' shares, since what is short is done sooner, and how often before it gives its
 * core away. */
#define NF_PATIENCE 40
#define NF_LONG_WAIT 400

#ifdef __x86_64__
/* stores are seen in their order, and loads done in theirs */
#define NF_ORDER __asm__ volatile ("" : : : "memory")
#define NF_WAIT __asm__ volatile ("pause" : : : "memory")
#else
#define NF_ORDER __atomic_thread_fence (__ATOMIC_SEQ_CST)
#define NF_WAIT NF_ORDER
#endif

/* Where there are more threads than cores the one that is waited for may wait for this core; elsewhere than here the system gives it away in its time. */
#if defined(__x86_64__) && defined(__linux__)
#define NF_YIELD                                                                                                       \
  do                                                                                                                   \
    {                                                                                                                  \
      long sched_yield_ = 24;                                                                                          \
      __asm__ volatile ("syscall" : "+a"(sched_yield_) : : "rcx", "r11", "memory");                                   \
    }                                                                                                                  \
  while (0)
#else
#define NF_YIELD NF_WAIT
#endif

static inline ulong
nf_look (volatile __global const ulong *at)
{
  const ulong value = *at;
  NF_ORDER;
  return value;
}

/* The next item of a member's share of the `all` items of the command at `word`, or the last; -1 if none is left. */
static inline int
nf_take (volatile __global ulong *words, int word, int all, int member, int members, bool last)
{
  volatile __global ulong *share = words + NF_SHARE (member);
  for (ulong seen = nf_look (share);;)
    {
      const bool begun = NF_SHARE_WORD (seen) == word;
      if (NF_SHARE_WORD (seen) > word)
        return -1;
      const int first = begun ? NF_SHARE_FIRST (seen) : (int)((long)all * member / members),
                end = begun ? NF_SHARE_END (seen) : (int)((long)all * (member + 1) / members);
      if (first == end)
        return -1;
      const ulong left = last ? NF_SHARE_OF (word, first, end - 1) : NF_SHARE_OF (word, first + 1, end);
      const ulong found = atom_cmpxchg (share, seen, left);
      if (found == seen)
        return last ? end - 1 : first;
      seen = found;
    }
}

#define NF_COPY_PART 4096 /* floats of an item, as in nf-command-list.c */

/* `count` rows of `floats` floats. Global size (parts of a row, rows). */
NF_KERNEL void
nf_copy_rows (NF_ITEM __global const float *from, ulong from_at, ulong from_step, __global float *to, ulong to_at, ulong to_step, ulong floats)
{
  const size_t first = get_global_id (0) * NF_COPY_PART, end = min ((ulong)first + NF_COPY_PART, floats);
  from += from_at + get_global_id (1) * from_step;
  to += to_at + get_global_id (1) * to_step;
  size_t i = first;
  for (; i + VW <= end; i += VW)
    nf_storev (nf_loadv (from + i), to + i);
  for (; i < end; i++)
    to[i] = from[i];
}

/* Global size (parts of `floats`). */
NF_KERNEL void
nf_fill (NF_ITEM __global float *x, ulong at, float value, ulong floats)
{
  const size_t first = get_global_id (0) * NF_COPY_PART, end = min ((ulong)first + NF_COPY_PART, floats);
  for (size_t i = first; i < end; i++)
    x[at + i] = value;
}

/* Arguments of a command, as they lie in the list: each fills whole words. */
#define NF_LONG(i) a[i]
#define NF_INT(i) ((int)a[i])
#define NF_FLOAT(i) as_float ((uint)a[i])
#define NF_FLOATS(i) ((__global float *)a[i])
#define NF_VIEW(i) NF_FLOATS (i), NF_LONG ((i) + 1)
#define NF_WORDS(i) ((__global uint *)a[i])
#define NF_BYTES(i) ((__global uchar *)a[i])
#define NF_INT2(i) as_uint2 (a[i])
#define NF_INT4(i) as_int4 (vload2 (0, a + (i)))
#define NF_INT8(i) as_int8 (vload4 (0, a + (i)))

static inline void
nf_run_item (uint command, uint3 item, uint3 items, __global const ulong *a)
{
  switch (command)
    {
    case NF_LIST_COPY:
      nf_copy_rows (item, items, NF_VIEW (0), NF_LONG (2), NF_VIEW (3), NF_LONG (5), NF_LONG (6));
      break;
    case NF_LIST_FILL:
      nf_fill (item, items, NF_VIEW (0), NF_FLOAT (2), NF_LONG (3));
      break;
    case NF_LIST_MATMUL:
      nf_matmul (item, items, (__global const nf_left_element *)a[0], NF_LONG (1), NF_INT (2), (__global const nf_element *)a[3], NF_LONG (4), NF_VIEW (5),
                 NF_VIEW (7), NF_INT (9), NF_INT (10), NF_VIEW (11), NF_INT (13), NF_VIEW (14), NF_INT (16), NF_INT (17), NF_INT (18), NF_INT (19),
                 NF_INT (20), NF_INT (21));
      break;
    case NF_LIST_NORM:
      nf_norm (item, items, NF_VIEW (0), NF_VIEW (2), NF_LONG (4), NF_VIEW (5), NF_INT (7), NF_VIEW (8), NF_INT (10), NF_INT (11), NF_INT (12));
      break;
    case NF_LIST_HEADS:
      nf_heads (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_VIEW (6), NF_INT (8), NF_VIEW (9), NF_INT (11), NF_INT (12), NF_LONG (13),
                NF_LONG (14), NF_INT (15), NF_INT (16), NF_INT (17), NF_INT (18), NF_INT (19));
      break;
    case NF_LIST_APPEND:
      nf_append (item, items, NF_VIEW (0), NF_INT (2), NF_LONG (3), NF_VIEW (4), NF_INT (6), NF_INT (7), NF_INT (8), NF_INT (9),
                 NF_INT (10));
      break;
    case NF_LIST_ATTENTION:
      nf_attention (item, items, NF_VIEW (0), NF_INT (2), NF_LONG (3), NF_VIEW (4), NF_INT (6), NF_VIEW (7), NF_INT (9), NF_LONG (10), NF_INT (11),
                    NF_FLOATS (12), NF_INT (13), NF_INT (14), NF_INT (15), NF_FLOAT (16), NF_FLOAT (17), NF_INT (18), NF_INT (19), NF_INT (20), NF_INT8 (21));
      break;
    case NF_LIST_GATE:
      nf_gate (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_INT (6), NF_INT (7), NF_LONG (8), NF_INT (9));
      break;
    case NF_LIST_PACK:
      nf_pack (item, items, NF_VIEW (0), NF_INT (2), (__global nf_element *)a[3], NF_LONG (4), NF_INT (5), NF_INT (6), NF_INT (7), NF_INT (8));
      break;
#if NF_AMX || (NF_BF16 && !NF_BF16_WEIGHTS) || NF_INT8_MADD
    case NF_LIST_MAKE_LEFT:
      nf_make_left (item, items, NF_VIEW (0), NF_INT (2), NF_WORDS (3), NF_INT (4), NF_INT (5));
      break;
#endif
    case NF_LIST_AFFINE:
      nf_affine (item, items, NF_VIEW (0), NF_FLOATS (2), NF_VIEW (3), NF_FLOATS (5), NF_VIEW (6), NF_INT (8), NF_INT (9), NF_INT (10), NF_INT (11),
                 NF_INT (12), NF_INT (13), NF_INT (14), NF_INT (15), NF_INT (16), NF_FLOAT (17), NF_FLOAT (18), NF_FLOAT (19), NF_FLOAT (20), NF_INT (21),
                 NF_INT (22), NF_INT (23), NF_FLOATS (24), NF_INT (25), NF_INT (26), NF_FLOATS (27), NF_INT (28), NF_FLOATS (29),
                 NF_INT (30), NF_INT (31), NF_INT (32));
      break;
    case NF_LIST_AFFINE_INVERSE:
      nf_affine_inverse (item, items, NF_VIEW (0), NF_VIEW (2), NF_FLOATS (4), NF_INT (5), NF_INT (6), NF_INT (7), NF_INT (8), NF_INT (9), NF_INT (10),
                         NF_INT (11), NF_INT (12), NF_FLOAT (13), NF_FLOAT (14), NF_FLOAT (15), NF_INT (16), as_float4 (NF_INT4 (17)), NF_INT (19),
                         NF_INT (20), NF_FLOATS (21), NF_INT (22), NF_FLOATS (23), NF_INT (24), NF_FLOATS (25), NF_INT (26), NF_VIEW (27),
                         NF_INT (29), NF_INT (30));
      break;
    case NF_LIST_FORESEE:
      nf_foresee (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_INT (6), NF_INT (7), NF_INT (8), NF_INT (9));
      break;
    case NF_LIST_RECALL:
      nf_recall (item, items, NF_VIEW (0), NF_VIEW (2), NF_FLOATS (4), NF_FLOATS (5), NF_FLOATS (6), NF_VIEW (7), NF_INT (9), NF_INT (10), NF_INT (11),
                 NF_INT (12), NF_INT (13));
      break;
    case NF_LIST_SETTLE:
      nf_settle (item, items, NF_VIEW (0), NF_FLOATS (2), NF_VIEW (3), NF_INT (5), NF_VIEW (6), NF_INT (8), NF_FLOATS (9), NF_INT (10), NF_FLOATS (11),
                 NF_INT (12), NF_INT (13), NF_INT (14), NF_INT (15));
      break;
    case NF_LIST_SHIFT_IN:
      nf_shift_in (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_INT (6), NF_INT (7), NF_INT (8), NF_INT (9));
      break;
    case NF_LIST_PRIOR:
      nf_prior (item, items, NF_VIEW (0), NF_FLOATS (2), NF_INT (3), NF_FLOATS (4), NF_FLOAT (5), NF_INT (6));
      break;
    case NF_LIST_REORDER:
      nf_reorder (item, items, NF_VIEW (0), NF_VIEW (2), NF_INT (4), NF_INT (5), NF_INT (6), NF_INT (7), NF_VIEW (8), NF_INT (10));
      break;
    case NF_LIST_GRID:
      nf_grid (item, items, NF_VIEW (0), NF_FLOATS (2), NF_INT (3), NF_INT (4), NF_INT (5), NF_INT (6), NF_INT (7), NF_INT (8));
      break;
    case NF_LIST_DENOISE:
      nf_denoise (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_FLOAT (6));
      break;
    case NF_LIST_CLASS_EMBED:
      nf_class_embed (item, items, NF_VIEW (0), NF_VIEW (2), (__global const int *)a[4], NF_INT (5), NF_INT (6), NF_INT (7));
      break;
    case NF_LIST_PIXELS_TO_TOKENS:
      nf_pixels_to_tokens (item, items, NF_BYTES (0), vload4 (0, a + 1), NF_INT4 (5), NF_INT4 (7), NF_INT (9), NF_INT (10), NF_INT (11), NF_LONG (12),
                           NF_INT (13), NF_INT (14), NF_INT (15), NF_INT (16), NF_INT (17), NF_INT (18), NF_INT (19), NF_INT (20), NF_INT (21),
                           NF_FLOAT (22), NF_INT2 (23), NF_INT2 (24), NF_FLOATS (25), NF_INT (26), NF_VIEW (27), NF_INT (29), NF_FLOATS (30));
      break;
    case NF_LIST_TOKENS_TO_PIXELS:
      nf_tokens_to_pixels (item, items, NF_VIEW (0), NF_BYTES (2), vload4 (0, a + 3), NF_INT4 (7), NF_INT4 (9), NF_INT (11), NF_INT (12), NF_INT (13),
                           NF_INT (14), NF_INT (15), NF_INT (16), NF_INT (17), NF_INT (18), NF_INT (19), NF_INT (20), NF_INT (21), NF_FLOATS (22),
                           NF_INT (23), NF_INT (24), NF_FLOATS (25), NF_INT (26), NF_WORDS (27), NF_LONG (28));
      break;
#if NF_LIST > 1
    case NF_LIST_COLUMN_SUMS:
      nf_column_sums (item, items, NF_VIEW (0), NF_INT (2), NF_VIEW (3), NF_INT (5), NF_INT (6), NF_INT (7), NF_INT (8));
      break;
    case NF_LIST_NORM_BACKWARD:
      nf_norm_backward (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_VIEW (6), NF_VIEW (8), NF_INT (10), NF_INT (11), NF_INT (12));
      break;
    case NF_LIST_HEADS_BACKWARD:
      nf_heads_backward (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_VIEW (6), NF_INT (8), NF_VIEW (9), NF_INT (11), NF_INT (12),
                         NF_LONG (13), NF_LONG (14), NF_INT (15), NF_INT (16), NF_INT (17), NF_INT (18), NF_FLOATS (19));
      break;
    case NF_LIST_ATTENTION_BACKWARD:
      nf_attention_backward (item, items, NF_VIEW (0), NF_FLOATS (2), NF_FLOATS (3), NF_INT (4), NF_VIEW (5), NF_VIEW (7), NF_FLOATS (9), NF_VIEW (10),
                             NF_INT (12), NF_INT (13), NF_INT (14), NF_INT8 (15), NF_FLOAT (19));
      break;
    case NF_LIST_GATE_BACKWARD:
      nf_gate_backward (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_VIEW (6), NF_VIEW (8), NF_LONG (10), NF_INT (11));
      break;
#if NF_AMX && !NF_INT8_AMX
    case NF_LIST_PACK_LEFT:
      nf_pack_left (item, items, NF_VIEW (0), NF_INT (2), NF_WORDS (3), NF_INT (4), NF_INT (5), NF_INT (6), NF_INT (7));
      break;
#endif
#if NF_BF16 && !NF_BF16_WEIGHTS
    case NF_LIST_PACK_HALVES:
      nf_pack_halves (item, items, NF_WORDS (0), NF_LONG (1), NF_INT (2), (__global nf_element *)a[3], NF_LONG (4), NF_INT (5), NF_INT (6), NF_INT (7));
      break;
#endif
    case NF_LIST_AFFINE_BACKWARD:
      nf_affine_backward (item, items, NF_VIEW (0), NF_FLOATS (2), NF_VIEW (3), NF_VIEW (5), NF_FLOATS (7), NF_INT (8), NF_INT (9), NF_INT (10),
                          NF_INT (11), NF_INT (12), NF_INT (13), NF_INT (14), NF_INT (15), NF_FLOAT (16), NF_FLOAT (17), NF_INT (18), NF_FLOAT (19));
      break;
    case NF_LIST_SHIFT_IN_BACKWARD:
      nf_shift_in_backward (item, items, NF_VIEW (0), NF_VIEW (2), NF_VIEW (4), NF_INT (6), NF_INT (7), NF_INT (8), NF_INT (9));
      break;
    case NF_LIST_CLASS_EMBED_BACKWARD:
      nf_class_embed_backward (item, items, NF_VIEW (0), NF_VIEW (2), (__global const int *)a[4], NF_INT (5), NF_INT (6), NF_INT (7), NF_INT (8));
      break;
    case NF_LIST_POSITION_BACKWARD:
      nf_position_backward (item, items, NF_VIEW (0), NF_VIEW (2), NF_INT (4), NF_INT (5), NF_INT (6), NF_INT (7), NF_INT (8));
      break;
    case NF_LIST_ADAMW:
      nf_adamw (item, items, NF_FLOATS (0), NF_FLOATS (1), NF_FLOATS (2), NF_FLOATS (3), NF_FLOATS (4), NF_LONG (5), NF_FLOAT (6), NF_FLOAT (7),
                NF_FLOAT (8), NF_FLOAT (9), NF_FLOAT (10), NF_FLOAT (11), NF_FLOAT (12), NF_FLOAT (13), NF_FLOAT (14));
      break;
    case NF_LIST_SUM_SQUARES:
      nf_sum_squares (item, items, NF_VIEW (0), NF_LONG (2), NF_LONG (3), NF_FLOATS (4));
      break;
#endif
    }
}

/* Item i of a command. */
static inline void
nf_run (__global const ulong *command, int i)
{
  const uint3 items = (uint3)((uint)command[1], (uint)(command[1] >> 32), (uint)command[2]);
  const uint fast = NF_BY_COLUMNS (command) ? items.y * items.z : items.x, slow = i / fast, inside = i % fast;
  const uint3 item = NF_BY_COLUMNS (command) ? (uint3)(slow, inside % items.y, inside / items.y) : (uint3)(inside, slow % items.y, slow / items.y);
  nf_run_item (NF_NUMBER (command), item, items, command + NF_ARGUMENTS);
}

#undef get_global_id
#undef get_global_size

/* Runs the list at `words`, and says there at which address it found it. Global size (members). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_list (__global ulong *words)
{
  const int member = get_global_id (0), members = get_global_size (0);
  words[0] = (ulong)words;
  for (int word = NF_COMMANDS; NF_NUMBER (words + word) != NF_LIST_END; word += NF_LENGTH (words + word))
    {
      __global ulong *command = words + word;
      volatile __global ulong *done = command + NF_DONE;
      const int all = (int)((uint)command[1] * (command[1] >> 32) * (uint)command[2]);
      int looks = 0, ran = 0; /* not counted as done yet */
      while (nf_look (done) < all)
        {
          int item = nf_take (words, word, all, member, members, false);
          if (item < 0 && ran > 0)
            {
              atom_add (done, (ulong)ran);
              ran = 0;
              continue;
            }
          if (item < 0 && ++looks % NF_PATIENCE == 0)
            {
              for (int other = 1; other < members && item < 0; other++)
                item = nf_take (words, word, all, (member + other) % members, members, true);
              if (item >= 0) /* where there was one there may be more */
                looks = NF_PATIENCE - 1;
            }
          if (item < 0 && looks < NF_LONG_WAIT)
            NF_WAIT;
          else if (item < 0)
            NF_YIELD;
          else
            {
              nf_run (command, item);
              ran++;
            }
        }
    }
}
