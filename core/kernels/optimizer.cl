/* AdamW (Loshchilov & Hutter 2019) on flat arrays. SPDX-License-Identifier: LGPL-2.1-or-later */

/* One step; every array is padded to whole vectors. clip multiplies the gradient; fix1, fix2 = 1/(1 - beta^t). ema < 0: no average.
 * Global size (n / (64 VW), rounded up). */
NF_KERNEL void
nf_adamw (NF_ITEM __global float *theta, __global const float *grad, __global float *m, __global float *v, __global float *average, ulong n,
          float clip, float lr, float beta1, float beta2, float fix1, float fix2, float eps, float decay, float ema)
{
  const size_t first = get_global_id (0) * (NF_ADAMW_VECTORS * VW), end = min ((ulong)first + NF_ADAMW_VECTORS * VW, n);
  for (size_t i = first; i < end; i += VW)
    {
      const floatv g = nf_loadv (grad + i) * clip;
      const floatv m1 = fma ((floatv)(1.0f - beta1), g - nf_loadv (m + i), nf_loadv (m + i));
      const floatv v1 = fma ((floatv)(1.0f - beta2), g * g - nf_loadv (v + i), nf_loadv (v + i));
      const floatv t = nf_loadv (theta + i) * (1.0f - lr * decay) - lr * (m1 * fix1) / (sqrt (v1 * fix2) + eps);
      nf_storev (m1, m + i);
      nf_storev (v1, v + i);
      nf_storev (t, theta + i);
      if (ema >= 0.0f)
        {
          const floatv a = nf_loadv (average + i);
          nf_storev (fma ((floatv)(1.0f - ema), t - a, a), average + i);
        }
    }
}

/* partial[i] = sum of squares of `count` values from i·count on; not finite if one of them is not. Global size (parts). */
NF_KERNEL void
nf_sum_squares (NF_ITEM __global const float *x, ulong x_at, ulong n, ulong count, __global float *partial)
{
  const size_t first = get_global_id (0) * count, end = min ((ulong)(first + count), n);
  floatv sum = 0.0f;
  x += x_at;
  for (size_t i = first; i < end; i += VW)
    {
      const floatv v = nf_load_head (x + i, (int)min ((ulong)(end - i), (ulong)VW));
      sum = fma (v, v, sum);
    }
  partial[get_global_id (0)] = nf_sumv (sum);
}
