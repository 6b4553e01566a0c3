/* 8-bit frames into tokens and back. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A frame is up to three planes in one buffer, each with an offset, bytes between rows and bytes between samples; so I420, NV12, RGB, BGRx and
 * GBR are one case. Feature order of a token: planes one after the other, each row-major, (p, p) or, chroma of yuv420, (p/2, p/2); interleaved, the
 * planes' samples of one place are neighbours. A tile has rows × columns patches. */

typedef struct
{
  int plane[VW], x[VW], y[VW]; /* in the plane's own samples */
  int last_x[VW], last_y[VW];  /* of the frame */
} NfSamples;

/* Of whole numbers from 0 up to 2^20. */
static inline intv
nf_divide (intv a, intv b)
{
  return NF_CAT (convert_int, VW) ((NF_CAT (convert_float, VW) (a) + 0.5f) / NF_CAT (convert_float, VW) (b));
}

/* Where features f .. f+VW-1 of token n of the tile at (tile_x, tile_y) lie in a frame of width × height, with chroma_height rows of chroma. planes: how many
 * are interleaved, 0 for one after the other. Not all lanes need be features. */
static inline NfSamples
nf_locate (int f, int n, int tile_x, int tile_y, int p, int columns, int rows, int yuv, int planes, int width, int height, int chroma_height)
{
  const intv feature = f + NF_LANES, chroma = yuv ? feature >= p * p : (intv)(0);
  const intv side = select ((intv)(p), (intv)(p / 2), chroma), inside = select (feature, feature - p * p, chroma), area = side * side;
  const intv quotient = planes ? nf_divide (feature, (intv)(planes)) : nf_divide (inside, area);
  const intv plane = planes ? feature - quotient * planes : yuv ? select ((intv)(0), quotient + 1, chroma) : quotient;
  const intv place = planes ? quotient : inside - quotient * area, row = nf_divide (place, side);
  NfSamples s;
  nf_storev (nf_as_uintv (plane), (uint *)s.plane);
  nf_storev (nf_as_uintv ((tile_x * columns + n % columns) * side + place - row * side), (uint *)s.x);
  nf_storev (nf_as_uintv ((tile_y * rows + n / columns) * side + row), (uint *)s.y);
  nf_storev (nf_as_uintv (select ((intv)(width), (intv)((width + 1) / 2), chroma) - 1), (uint *)s.last_x);
  nf_storev (nf_as_uintv (select ((intv)(height), (intv)(chroma_height), chroma) - 1), (uint *)s.last_y);
  return s;
}

/* Where the frame has sample (x, y) of plane c. */
static inline ulong
nf_byte (int c, int x, int y, ulong4 at, int4 stride, int4 step)
{
  const int row = c == 0 ? stride.x : c == 1 ? stride.y : stride.z, next = c == 0 ? step.x : c == 1 ? step.y : step.z;
  return (c == 0 ? at.x : c == 1 ? at.y : at.z) + (ulong)y * row + (ulong)x * next;
}

/* Philox4x32-10 (Salmon et al. 2011), of each lane: the first two of four random words of (seed, stream, counter), as nf_random_u32x4() makes them on the
 * host. */
static inline void
nf_philox (uint2 seed, uintv stream_x, uint stream_y, uintv counter_x, uintv counter_y, uintv words[2])
{
  uintv x = counter_x, y = counter_y, z = stream_x, w = stream_y;
  for (int round = 0; round < 10; round++)
    {
      const uintv h0 = mul_hi ((uintv)(0xD2511F53u), x), l0 = 0xD2511F53u * x;
      const uintv h1 = mul_hi ((uintv)(0xCD9E8D57u), z), l1 = 0xCD9E8D57u * z;
      x = h1 ^ y ^ seed.x;
      y = l1;
      z = h0 ^ w ^ seed.y;
      w = l0;
      seed += (uint2)(0x9E3779B9u, 0xBB67AE85u);
    }
  words[0] = x;
  words[1] = y;
}

#define NF_DEQUANTISE_NONE 0     /* 2k/255 - 1 */
#define NF_DEQUANTISE_LATTICE 1  /* a fixed point of the lattice in the bin, by place */
#define NF_DEQUANTISE_UNIFORM 2  /* anywhere in the bin, by seed and step */
#define NF_DEQUANTISE_GAUSSIAN 3 /* 2k/255 - 1 + std × normal, by seed and step */
#define NF_DEQUANTISE_GIVEN 4    /* 2k/255 - 1 + noise[n, f], on the lattice that nf_snap() has for negative steps */

/* width, height of plane 0, chroma_height of the others of yuv; plane i at at[i], stride[i], step[i]. Tiles from tile0 on, tiles_x in a row of the frame; if
 * tile_bytes is not 0, tiles are frames of their own, tile_bytes apart. Samples past the edge repeat the last. Global size (N, tiles). */
NF_KERNEL void
nf_pixels_to_tokens (NF_ITEM __global const uchar *frame, ulong4 at, int4 stride, int4 step, int width, int height, int chroma_height, ulong tile_bytes,
                     int tile0, int tiles_x, int p, int columns, int rows, int yuv, int planes, int mode, int steps, float std, uint2 seed, uint2 stream,
                     __global const float *basis, int has_basis, __global float *x, ulong x_at, int D, __global const float *noise)
{
  const int n = get_global_id (0), tile = tile0 + get_global_id (1);
  const ulong base = tile_bytes * tile;
  const int tile_x = tile_bytes ? 0 : tile % tiles_x, tile_y = tile_bytes ? 0 : tile / tiles_x;
  float y[D_MAX];
  x += x_at + ((size_t)get_global_id (1) * rows * columns + n) * D;
  for (int f = 0; f < D; f += VW)
    {
      const NfSamples s = nf_locate (f, n, tile_x, tile_y, p, columns, rows, yuv, planes, width, height, chroma_height);
      float samples[VW];
      uintv words[2];
      for (int i = 0; i < VW; i++)
        samples[i] = f + i < D ? frame[base + nf_byte (s.plane[i], min (s.x[i], s.last_x[i]), min (s.y[i], s.last_y[i]), at, stride, step)] : 0.0f;
      const floatv k = nf_loadv (samples);
      if (mode == NF_DEQUANTISE_LATTICE)
        nf_philox ((uint2)(0, 0), nf_loadv ((const uint *)s.plane), 0, nf_loadv ((const uint *)s.x),
                   nf_loadv ((const uint *)s.y), words);
      else if (mode == NF_DEQUANTISE_UNIFORM || mode == NF_DEQUANTISE_GAUSSIAN)
        nf_philox (seed, (uintv)(stream.x), stream.y, nf_as_uintv (n * D + f + NF_LANES), (uintv)((uint)tile), words);
      floatv v = k * (2.0f / 255.0f) - 1.0f;
      if (mode == NF_DEQUANTISE_LATTICE)
        {
          const intv most = nf_as_intv (words[0] >> 16), place = most - nf_divide (most, (intv)(steps)) * steps;
          v = (k + (NF_CAT (convert_float, VW) (place) + 0.5f) / steps) / 128.0f - 1.0f;
        }
      else if (mode == NF_DEQUANTISE_UNIFORM)
        v = (k + NF_CAT (convert_float, VW) (words[0] >> 8) * (1.0f / 16777216.0f)) / 128.0f - 1.0f;
      else if (mode == NF_DEQUANTISE_GAUSSIAN)
        {
          const floatv u1 = (NF_CAT (convert_float, VW) (words[0] >> 8) + 0.5f) * (1.0f / 16777216.0f),
                       u2 = NF_CAT (convert_float, VW) (words[1] >> 8) * (1.0f / 16777216.0f);
          v = fma ((floatv)(std), sqrt (-2.0f * log (u1)) * cospi (2.0f * u2), v);
        }
      else if (mode == NF_DEQUANTISE_GIVEN)
        v = nf_snap (v + nf_load_head (noise + n * D + f, D - f), steps);
      if (has_basis)
        nf_storev (v, y + f);
      else
        nf_store_head (v, x + f, D - f);
    }
  if (has_basis)
    nf_to_basis (basis, y, x, D);
}

/* The inverse: floor for uniform noise (steps > 0), nearest otherwise, less the noise that is known to be in x, if any; samples outside the
 * frame are dropped. If one within it is no finite number, which bytes cannot say, odd[odd_at] becomes 1: all who write it write the same. Global size
 * (N, tiles). */
NF_KERNEL void
nf_tokens_to_pixels (NF_ITEM __global const float *x, ulong x_at, __global uchar *frame, ulong4 at, int4 stride, int4 step, int width, int height, int chroma_height,
                     int tile0, int tiles_x, int p, int columns, int rows, int yuv, int planes, int steps, __global const float *basis, int has_basis,
                     int D, __global const float *noise, int has_noise, __global uint *odd, ulong odd_at)
{
  const int n = get_global_id (0), tile = tile0 + get_global_id (1);
  float y[D_MAX];
  x += x_at + ((size_t)get_global_id (1) * rows * columns + n) * D;
  if (has_basis)
    nf_from_basis (basis, x, y, D);
  else
    for (int f = 0; f < D; f++)
      y[f] = x[f];
  for (int f = 0; f < D; f += VW)
    {
      const NfSamples s = nf_locate (f, n, tile % tiles_x, tile / tiles_x, p, columns, rows, yuv, planes, width, height, chroma_height);
      floatv v = nf_loadv (y + f);
      if (has_noise)
        v -= nf_load_head (noise + n * D + f, D - f);
      v = steps > 0 ? floor ((v + 1.0f) * 128.0f) : rint ((v + 1.0f) * 127.5f);
      float values[VW];
      nf_storev (v, values);
      for (int i = 0; i < min (VW, D - f); i++)
        if (s.x[i] <= s.last_x[i] && s.y[i] <= s.last_y[i])
          {
            frame[nf_byte (s.plane[i], s.x[i], s.y[i], at, stride, step)] = (uchar)clamp (values[i], 0.0f, 255.0f);
            if (!isfinite (values[i]))
              odd[odd_at] = 1;
          }
    }
}
