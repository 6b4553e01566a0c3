/* 8-bit frames into tokens and back. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A frame is up to three planes in one buffer, each with an offset, bytes between rows and bytes between samples; so I420, NV12, RGB, BGRx and
 * GBR are one case. Feature order of a token: planes one after the other, each row-major, (p, p) or, chroma of yuv420, (p/2, p/2); interleaved, the
 * planes' samples of one place are neighbours. A tile has rows × columns patches. */

typedef struct
{
  int plane, x, y; /* in the plane's own samples */
} NfSample;

/* Where feature f of token n of the tile at (tile_x, tile_y) lies. planes: how many are interleaved, 0 for one after the other. */
static inline NfSample
nf_locate (int f, int n, int tile_x, int tile_y, int p, int columns, int rows, int yuv, int planes)
{
  NfSample s = { 0, 0, 0 };
  int ps = p;
  if (yuv && f >= p * p)
    {
      ps = p / 2;
      f -= p * p;
      s.plane = 1 + f / (ps * ps);
    }
  else if (planes)
    {
      s.plane = f % planes;
      f /= planes;
    }
  else if (!yuv)
    s.plane = f / (p * p);
  f %= ps * ps;
  s.x = (tile_x * columns + n % columns) * ps + f % ps;
  s.y = (tile_y * rows + n / columns) * ps + f / ps;
  return s;
}

#define NF_DEQUANTISE_NONE 0     /* 2k/255 - 1 */
#define NF_DEQUANTISE_LATTICE 1  /* a fixed point of the lattice in the bin, by place */
#define NF_DEQUANTISE_UNIFORM 2  /* anywhere in the bin, by seed and step */
#define NF_DEQUANTISE_GAUSSIAN 3 /* 2k/255 - 1 + std × normal, by seed and step */
#define NF_DEQUANTISE_GIVEN 4    /* 2k/255 - 1 + noise[n, f], on the lattice that nf_snap() has for negative steps */

/* width, height of plane 0; plane i at at[i], stride[i], step[i]. Tiles from tile0 on, tiles_x in a row of the frame; if tile_bytes is not 0, tiles
 * are frames of their own, tile_bytes apart. Samples past the edge repeat the last. Global size (N, tiles). */
NF_KERNEL void
nf_pixels_to_tokens (NF_ITEM __global const uchar *frame, ulong4 at, int4 stride, int4 step, int width, int height, ulong tile_bytes,
                     int tile0, int tiles_x, int p, int columns, int rows, int yuv, int planes, int mode, int steps, float std, uint2 seed, uint2 stream,
                     __global const float *basis, int has_basis, __global float *x, ulong x_at, int D, __global const float *noise)
{
  const int n = get_global_id (0), tile = tile0 + get_global_id (1);
  const ulong base = tile_bytes * tile;
  const int tile_x = tile_bytes ? 0 : tile % tiles_x, tile_y = tile_bytes ? 0 : tile / tiles_x;
  float y[D_MAX];
  x += x_at + ((size_t)get_global_id (1) * rows * columns + n) * D;
  for (int f = 0; f < D; f++)
    {
      const NfSample s = nf_locate (f, n, tile_x, tile_y, p, columns, rows, yuv, planes);
      const int chroma = yuv && s.plane > 0;
      const int sx = min (s.x, (chroma ? (width + 1) / 2 : width) - 1);
      const int sy = min (s.y, (chroma ? (height + 1) / 2 : height) - 1);
      const ulong a = s.plane == 0 ? at.x : s.plane == 1 ? at.y : at.z;
      const int row = s.plane == 0 ? stride.x : s.plane == 1 ? stride.y : stride.z;
      const int next = s.plane == 0 ? step.x : s.plane == 1 ? step.y : step.z;
      const float k = frame[base + a + (ulong)sy * row + (ulong)sx * next];
      float v;
      if (mode == NF_DEQUANTISE_LATTICE)
        {
          const uint4 r = nf_philox ((uint2)(0, 0), (uint2)(s.plane, 0), (uint2)(s.x, s.y));
          v = (k + ((r.x >> 16) % (uint)steps + 0.5f) / steps) / 128.0f - 1.0f;
        }
      else if (mode == NF_DEQUANTISE_UNIFORM)
        {
          const uint4 r = nf_philox (seed, stream, (uint2)(n * D + f, tile));
          v = (k + (r.x >> 8) * (1.0f / 16777216.0f)) / 128.0f - 1.0f;
        }
      else
        {
          v = k * (2.0f / 255.0f) - 1.0f;
          if (mode == NF_DEQUANTISE_GAUSSIAN)
            {
              const uint4 r = nf_philox (seed, stream, (uint2)(n * D + f, tile));
              const float u1 = ((r.x >> 8) + 0.5f) * (1.0f / 16777216.0f), u2 = (r.y >> 8) * (1.0f / 16777216.0f);
              v = fma (std, sqrt (-2.0f * log (u1)) * cospi (2.0f * u2), v);
            }
          else if (mode == NF_DEQUANTISE_GIVEN)
            v = nf_snap (v + noise[n * D + f], steps);
        }
      y[f] = v;
    }
  if (has_basis)
    nf_to_basis (basis, y, x, D);
  else
    for (int f = 0; f < D; f++)
      x[f] = y[f];
}

/* The inverse: floor for uniform noise (steps > 0), nearest otherwise, less the noise that is known to be in x, if any; samples outside the
 * frame are dropped. Global size (N, tiles). */
NF_KERNEL void
nf_tokens_to_pixels (NF_ITEM __global const float *x, ulong x_at, __global uchar *frame, ulong4 at, int4 stride, int4 step, int width, int height,
                     int tile0, int tiles_x, int p, int columns, int rows, int yuv, int planes, int steps, __global const float *basis, int has_basis,
                     int D, __global const float *noise, int has_noise)
{
  const int n = get_global_id (0), tile = tile0 + get_global_id (1);
  float y[D_MAX];
  x += x_at + ((size_t)get_global_id (1) * rows * columns + n) * D;
  if (has_basis)
    nf_from_basis (basis, x, y, D);
  else
    for (int f = 0; f < D; f++)
      y[f] = x[f];
  for (int f = 0; f < D; f++)
    {
      const NfSample s = nf_locate (f, n, tile % tiles_x, tile / tiles_x, p, columns, rows, yuv, planes);
      const int chroma = yuv && s.plane > 0;
      if (s.x >= (chroma ? (width + 1) / 2 : width) || s.y >= (chroma ? (height + 1) / 2 : height))
        continue;
      const ulong a = s.plane == 0 ? at.x : s.plane == 1 ? at.y : at.z;
      const int row = s.plane == 0 ? stride.x : s.plane == 1 ? stride.y : stride.z;
      const int next = s.plane == 0 ? step.x : s.plane == 1 ? step.y : step.z;
      const float v = has_noise ? y[f] - noise[n * D + f] : y[f];
      const float k = steps > 0 ? floor ((v + 1.0f) * 128.0f) : rint ((v + 1.0f) * 127.5f);
      frame[a + (ulong)s.y * row + (ulong)s.x * next] = (uchar)clamp (k, 0.0f, 255.0f);
    }
}
