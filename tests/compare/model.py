"""TARFlow, STARFlow and STARFlow-V in PyTorch: one transformer with switches, written from the formulas.

For comparisons in development only; neither the library nor its tests need it. Parameters have the official names, so official
state_dicts load as they are.

TARFlow: Zhai et al. 2024, arXiv 2412.06329. STARFlow: Gu et al. 2025, arXiv 2506.06276. STARFlow-V: arXiv 2511.20462.

Letters: B batch, N tokens of one image or video, D features of a token, d width, H heads, e features of a head, L text tokens,
F frames, h and w rows and columns of a frame's tokens.
"""
import dataclasses
import json
import math

import torch
import torch.nn.functional as nnf
from torch import nn

THETA = 10000.0
# Angles of the axis of text and frames, whatever the head's width.
THIRD_AXIS = 8
# softplus(0 + SOFTPLUS_ONE) = 1
SOFTPLUS_ONE = math.log(math.e - 1)
DENOISER_LAYERS = 8
# The learned denoiser's output is the score times sigma^2 over this, for every sigma it was trained with.
DENOISER_SCALE = 0.3


@dataclasses.dataclass
class Config:
    """Members of `__metadata__.config`, with the official names."""

    family: str
    in_channels: int
    img_size: int
    patch_size: int
    channels: int
    num_blocks: int
    layers_per_block: list
    head_dim: int = 64
    expansion: int = 4
    # TARFlow
    nvp: bool = True
    num_classes: int = 0
    # STARFlow
    txt_size: int = 0
    txt_dim: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    top_block_channels: int = 0
    pt_seq_len: int = 0
    rope: bool = False
    hf_style_rope: bool = False
    sos: bool = False
    use_softplus: bool = False
    soft_clip: float = 0
    use_final_norm: bool = False
    use_swiglu: bool = False
    use_qk_norm: bool = False
    use_post_norm: bool = False
    use_bias: bool = True
    norm_type: str = "layer_norm"
    cond_top_only: bool = False
    seq_order: str = "R2L"
    # STARFlow-V
    temporal_causal: int = 0
    shallow_block_local: bool = False
    learnable_self_denoiser: bool = False
    conditional_denoiser: bool = False
    denoiser_window: int | None = None
    # of the files: rows and columns of the image, frames of the video (0: an image)
    hw: tuple = ()
    frames: int = 0

    def __post_init__(self):
        if isinstance(self.layers_per_block, int):
            self.layers_per_block = [self.layers_per_block] * self.num_blocks
        self.hw = tuple(self.hw) or (self.img_size, self.img_size)

    @classmethod
    def from_json(cls, text):
        return cls(**json.loads(text))

    @property
    def starflow(self):
        return self.family == "starflow"

    @property
    def features(self):
        return self.in_channels * self.patch_size**2

    @property
    def side(self):
        """What rows and columns of tokens are scaled to in RoPE."""
        return self.pt_seq_len or self.img_size // self.patch_size

    def width(self, block):
        deep = block == self.num_blocks - 1
        return self.top_block_channels if deep and self.top_block_channels else self.channels

    def has_text(self, block):
        return self.txt_size > 0 and (block == self.num_blocks - 1 or not self.cond_top_only)

    def flips(self, block):
        if not self.starflow:
            return block % 2 == 1
        return (block + (self.seq_order == "L2R")) % 2 == 1


# Tokens


def patchify(config, x):
    """(B, C, S, S) to (B, h, w, D), (B, F, C, S, S) to (B, F, h, w, D). TARFlow's features have the channel slowest."""
    p = config.patch_size
    x = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))  # ... C h p w p
    *lead, c, row, i, col, j = range(x.dim())
    order = (c, i, j) if not config.starflow else (i, j, c)
    return x.permute(*lead, row, col, *order).flatten(-3)


def unpatchify(config, tokens):
    """The inverse of patchify()."""
    p, C = config.patch_size, config.in_channels
    shape = (C, p, p) if not config.starflow else (p, p, C)
    x = tokens.unflatten(-1, shape)
    *lead, row, col, a, b, e = range(x.dim())
    c, i, j = (a, b, e) if not config.starflow else (e, a, b)
    return x.permute(*lead, c, row, i, col, j).flatten(-2).flatten(-3, -2)


# Rotary positions


def rope_angles(config, L, grid):
    """Angles (L + F h w, e/2) of text tokens, then of a grid (F, h, w) in raster order; F = 0 is an image."""
    F, h, w = grid
    half = config.head_dim // 2
    third = THIRD_AXIS if config.txt_size or config.frames else 0
    side = (half - third) // 2
    S = config.side
    frame, row, col = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (max(F, 1), h, w)), indexing="ij"
    )
    scale = S / math.sqrt(h * w)
    image = torch.stack([row * scale, col * scale, frame], -1).flatten(0, -2)
    text = torch.zeros(L, 3, dtype=torch.float64)
    text[:, 2] = torch.arange(L, dtype=torch.float64) / max(L, 1) * S
    position = torch.cat([text, image])
    parts = []
    for axis, n in enumerate((side, side, third)):
        if n:
            parts.append(position[:, axis, None] * THETA ** (-torch.arange(n, dtype=torch.float64) / n))
    return torch.cat(parts, -1)


class Rope:
    """Cosines and sines of one sequence, and how a head's features are paired."""

    def __init__(self, angles, halves, dtype):
        self.cos, self.sin, self.halves = angles.cos().to(dtype), angles.sin().to(dtype), halves

    def rotate(self, x, start):
        """x (B, H, T, e) stands at positions start, start + 1, ..."""
        cos, sin = self.cos[start : start + x.shape[2]], self.sin[start : start + x.shape[2]]
        if self.halves:
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    def buffers(self):
        """As the official state_dict has them: one value for each feature, (positions, e)."""
        spread = (lambda t: torch.cat([t, t], -1)) if self.halves else (lambda t: t.repeat_interleave(2, -1))
        return spread(self.cos), spread(self.sin)


# The transformer


class RMSNorm(nn.Module):
    """Scaled by 1 + weight."""

    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)
        return y.to(x.dtype)


def make_norm(config, d):
    return RMSNorm(d) if config.norm_type == "rms_norm" else nn.LayerNorm(d)


class Cache:
    """Keys and values of one layer, already rotated."""

    def __init__(self):
        self.k = self.v = None
        self.used = 0

    def append(self, k, v, capacity):
        B, H, T, e = k.shape
        if self.k is None:
            self.k, self.v = k.new_empty(B, H, capacity, e), k.new_empty(B, H, capacity, e)
        self.k[:, :, self.used : self.used + T] = k
        self.v[:, :, self.used : self.used + T] = v
        self.used += T
        return self.k[:, :, : self.used], self.v[:, :, : self.used]


class Attention(nn.Module):
    def __init__(self, config, d):
        super().__init__()
        self.e = config.head_dim
        self.heads = config.num_heads or d // self.e
        self.kv_heads = config.num_kv_heads or self.heads
        self.norm = make_norm(config, d)
        self.qkv = nn.Linear(d, (self.heads + 2 * self.kv_heads) * self.e, bias=config.use_bias)
        self.proj = nn.Linear(self.heads * self.e, d, bias=config.use_bias)
        self.query_norm = RMSNorm(self.e) if config.use_qk_norm else None
        self.key_norm = RMSNorm(self.e) if config.use_qk_norm else None
        self.post_norm = RMSNorm(d) if config.use_post_norm else None

    def forward(self, x, rope=None, mask=None, causal=True, temperature=1.0, cache=None, capacity=0):
        B, T, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(B, T, -1, self.e).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rope is not None:
            start = cache.used if cache is not None else 0
            q, k = rope.rotate(q, start), rope.rotate(k, start)
        if cache is not None:
            k, v = cache.append(k, v, capacity)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        # A single token sees all that was cached, and itself.
        y = nnf.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None and T > 1, scale=self.e**-0.5 / temperature
        )
        y = self.proj(y.transpose(1, 2).reshape(B, T, -1))
        return y if self.post_norm is None else self.post_norm(y)


class MLP(nn.Module):
    def __init__(self, config, d):
        super().__init__()
        wide, bias = config.expansion * d, config.use_bias
        self.norm = make_norm(config, d)
        self.gated = config.use_swiglu
        if self.gated:
            self.gate_proj = nn.Linear(d, wide, bias=bias)
            self.up_proj = nn.Linear(d, wide, bias=bias)
            self.down_proj = nn.Linear(wide, d, bias=bias)
        else:
            self.main = nn.Sequential(nn.Linear(d, wide, bias=bias), nn.GELU(), nn.Linear(wide, d, bias=bias))
        self.post_norm = RMSNorm(d) if config.use_post_norm else None

    def forward(self, x):
        x = self.norm(x)
        if self.gated:
            y = self.down_proj(nnf.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        else:
            y = self.main(x)
        return y if self.post_norm is None else self.post_norm(y)


class Layer(nn.Module):
    def __init__(self, config, d):
        super().__init__()
        self.attention = Attention(config, d)
        self.mlp = MLP(config, d)

    def forward(self, x, **how):
        x = x + self.attention(x, **how)
        return x + self.mlp(x)


class Transformer(nn.Module):
    """Tokens in, numbers for each token out, behind a prefix of text."""

    def __init__(self, config, d, layers, outputs, text):
        super().__init__()
        self.proj_in = nn.Linear(config.features, d)
        self.proj_out = nn.Linear(d, outputs)
        self.proj_txt = nn.Linear(config.txt_dim, d) if text else None
        self.attn_blocks = nn.ModuleList(Layer(config, d) for _ in range(layers))
        self.final_norm = RMSNorm(d) if config.use_final_norm else None

    def run(self, tokens, text=None, offset=None, **how):
        """tokens (B, T, D) behind text (B, L, txt_dim); offset is added to the projected tokens."""
        x = self.proj_in(tokens)
        if offset is not None:
            x = x + offset
        if text is not None:
            x = torch.cat([self.proj_txt(text), x], 1)
        caches = how.pop("caches", None)
        for i, layer in enumerate(self.attn_blocks):
            x = layer(x, cache=caches[i] if caches else None, **how)
        x = x[:, x.shape[1] - tokens.shape[1] :]
        return self.proj_out(x if self.final_norm is None else self.final_norm(x))


# Flow blocks


@dataclasses.dataclass
class Branch:
    """One of the networks that a guided decode combines: conditional or not."""

    text: torch.Tensor = None
    embedding: torch.Tensor = None
    temperature: float = 1.0

    def offset(self, position, start, stop):
        """What is added to projected tokens start .. stop - 1; position (N, d) or None."""
        if position is None:
            return self.embedding
        position = position[start:stop]
        return position if self.embedding is None else position + self.embedding


@dataclasses.dataclass
class Guidance:
    """Weight, and for TARFlow what is guided ("a" log-scale, "b" shift) and whether the weight grows along the sequence."""

    weight: float
    what: str = "ab"
    annealed: bool = False


class Block(Transformer):
    """One autoregressive affine step: z = (u - mu) / sigma, mu and sigma of a token being functions of those before it."""

    def __init__(self, config, index):
        d = config.width(index)
        text = config.starflow and config.has_text(index)
        super().__init__(config, d, config.layers_per_block[index], config.features * (1 + config.nvp), text)
        self.config, self.flip = config, config.flips(index)
        self.rope_cache = {}
        self.sos_embed = nn.Parameter(torch.randn(1, 1, config.features)) if config.sos else None
        tokens = (config.img_size // config.patch_size) ** 2
        self.pos_embed = None if config.rope else nn.Parameter(0.01 * torch.randn(tokens, d))
        self.class_embed = nn.Parameter(0.01 * torch.randn(config.num_classes, 1, d)) if config.num_classes else None

    def rope(self, L, grid):
        if not self.config.rope:
            return None
        key = (L, grid, self.proj_in.weight.dtype)
        if key not in self.rope_cache:
            self.rope_cache[key] = Rope(rope_angles(self.config, L, grid), self.config.hf_style_rope, key[2])
        return self.rope_cache[key]

    def ordered(self, x):
        """Tokens (B, [F,] h w, ...) in the block's order and back: frames keep theirs."""
        return x.flip(-2) if self.flip else x

    def position(self):
        return None if self.pos_embed is None else self.ordered(self.pos_embed)

    def split(self, o):
        """Shift and log-scale, or scale, of the network's outputs, in the affine step's precision."""
        o = o if o.dtype == torch.float64 else o.float()
        if self.config.soft_clip:
            o = self.config.soft_clip * torch.tanh(o / self.config.soft_clip)
        if not self.config.nvp:
            return o, torch.zeros_like(o)
        a, mu = o.chunk(2, -1)
        return mu, (nnf.softplus(a + SOFTPLUS_ONE).log() if self.config.use_softplus else a)

    def forward(self, u, branch, grid):
        """u (B, N, D) in the block's order: z and the log-scale's negative, elementwise."""
        sos = self.sos_embed is not None
        tokens = torch.cat([self.sos_embed.expand(u.shape[0], -1, -1), u[:, :-1]], 1) if sos else u
        L = branch.text.shape[1] if branch.text is not None else 0
        offset = branch.offset(self.position(), 0, u.shape[1])
        o = self.run(tokens, branch.text, offset, rope=self.rope(L, grid), temperature=branch.temperature)
        if not sos:
            o = torch.cat([torch.zeros_like(o[:, :1]), o[:, :-1]], 1)
        mu, a = self.split(o)
        return (u - mu) * torch.exp(-a), -a

    def guide(self, guidance, outputs, i, N):
        """Shift and log-scale of token i from those of the conditional and the unconditional branch."""
        (mu, a), *rest = outputs
        if not rest:
            return mu, a
        mu_u, a_u = rest[0]
        w = guidance.weight
        if self.config.starflow:
            s = torch.exp(2 * (a - a_u).clamp(max=0))
            k = 1 + w - w * s
            return mu + w * s / k * (mu - mu_u), a - 0.5 * k.log()
        if guidance.annealed:
            w *= i / (N - 1)
        return (
            mu + w * (mu - mu_u) if "b" in guidance.what else mu,
            a + w * (a - a_u) if "a" in guidance.what else a,
        )

    def inverse(self, z, branches, grid, guidance=None, prefix=None):
        """z (B, N, D) to u, token after token with cached keys and values; prefix (B, P, D) are u's first tokens."""
        B, N, _ = z.shape
        # The network reads sos, if there is one, then u; what it says of token i stands at the last input before u_i.
        sos = int(self.sos_embed is not None)
        u, fed, done = z.clone(), 0, 1 - sos
        if prefix is not None:
            done = prefix.shape[1]
            u[:, :done] = prefix
        dtype = self.proj_in.weight.dtype
        position = self.position()
        caches = [[Cache() for _ in self.attn_blocks] for _ in branches]
        for i in range(done, N):
            tokens = u[:, max(fed - sos, 0) : i].to(dtype)
            if sos and fed == 0:
                tokens = torch.cat([self.sos_embed.expand(B, -1, -1), tokens], 1)
            outputs = []
            for branch, cache in zip(branches, caches):
                L = branch.text.shape[1] if branch.text is not None else 0
                o = self.run(
                    tokens,
                    branch.text if fed == 0 else None,
                    branch.offset(position, fed, i + sos),
                    rope=self.rope(L, grid),
                    temperature=branch.temperature,
                    caches=cache,
                    capacity=L + N,
                )
                outputs.append(self.split(o[:, -1]))
            mu, a = self.guide(guidance, outputs, i, N)
            u[:, i] = u[:, i] * torch.exp(a) + mu
            fed = i + sos
        return u


class Identity(nn.Module):
    """A block without layers."""

    proj_txt = class_embed = None

    def ordered(self, x):
        return x

    def forward(self, u, branch, grid):
        return u, torch.zeros_like(u)

    def inverse(self, z, branches, grid, guidance=None, prefix=None):
        return z


class Flow(nn.Module):
    """The whole: blocks[0] is at the data, blocks[-1], the deep one, at the prior."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            Block(config, i) if layers else Identity() for i, layers in enumerate(config.layers_per_block)
        )
        self.learnable_self_denoiser = None
        if config.learnable_self_denoiser:
            self.learnable_self_denoiser = Transformer(
                config, config.channels, DENOISER_LAYERS, config.features, config.conditional_denoiser and config.txt_size > 0
            )
        # The prior's variance: 1 but for volume-preserving TARFlow.
        self.register_buffer("var", torch.ones((config.img_size // config.patch_size) ** 2, config.features))

    # Shapes: between blocks a video is (B, F, h, w, D), an image (B, h, w, D).

    def grid(self, tokens):
        return (tokens.shape[1] if tokens.dim() == 5 else 0, *tokens.shape[-3:-1])

    def is_local(self, block, grid):
        """Whether frames are the block's batch."""
        return grid[0] > 0 and self.config.shallow_block_local and block < self.config.num_blocks - 1

    def turns_all(self, i, grid):
        """Whether block i's order is that of the whole video backwards, not of each frame."""
        return grid[0] > 0 and not self.config.temporal_causal and not self.is_local(i, grid)

    def to_block(self, i, tokens):
        """(batch, N, D) in block i's order."""
        if self.turns_all(i, self.grid(tokens)):
            return self.blocks[i].ordered(tokens.flatten(1, -2))
        u = self.blocks[i].ordered(tokens.flatten(-3, -2))
        return u.flatten(0, 1) if self.is_local(i, self.grid(tokens)) else u.flatten(1, -2)

    def from_block(self, i, u, like):
        if self.turns_all(i, self.grid(like)):
            return self.blocks[i].ordered(u).view(like.shape)
        u = u.view(*like.shape[:-3], -1, u.shape[-1])
        return self.blocks[i].ordered(u).view(like.shape)

    def block_grid(self, i, grid):
        return (0, *grid[1:]) if self.is_local(i, grid) else grid

    def branch(self, i, grid, text, y, temperature=1.0):
        """What block i is conditioned on; y are classes, -1 being none of them."""
        block, embedding = self.blocks[i], None
        if block.class_embed is not None:
            none = block.class_embed.mean(0, keepdim=True)
            embedding = none if y is None else torch.where((y < 0)[:, None, None], none, block.class_embed[y])
        if block.proj_txt is None:
            text = None
        elif self.is_local(i, grid):
            text = text.repeat_interleave(grid[0], 0)
        return Branch(text, embedding, temperature)

    def forward(self, x, text=None, y=None):
        """Pixels or latents to (outputs, logdets): outputs[0] are the tokens, outputs[i + 1] is behind block i; logdets
        are elementwise, in the blocks' orders."""
        tokens = patchify(self.config, x)
        grid = self.grid(tokens)
        outputs, logdets = [tokens], []
        for i, block in enumerate(self.blocks):
            z, logdet = block(self.to_block(i, tokens), self.branch(i, grid, text, y), self.block_grid(i, grid))
            tokens = self.from_block(i, z, tokens)
            outputs.append(tokens)
            logdets.append(logdet)
        return outputs, logdets

    def loss(self, outputs, logdets):
        return 0.5 * outputs[-1].square().mean() - sum(logdet.mean() for logdet in logdets)

    def context(self, x, text=None):
        """What each block reads of first frames x (B, P, C, H, W) if it sees more than one frame, else None: what a
        continuation needs."""
        tokens = patchify(self.config, x)
        grid = self.grid(tokens)
        read = []
        for i, block in enumerate(self.blocks):
            u = self.to_block(i, tokens)
            read.append(None if self.is_local(i, grid) else u)
            z, _ = block(u, self.branch(i, grid, text, None), self.block_grid(i, grid))
            tokens = self.from_block(i, z, tokens)
        return read

    def inverse(self, tokens, text=None, y=None, guidance=None, null_text=None, temperature=1.0, first_frames=None):
        """Latent tokens (B, [F,] h, w, D) to pixels or latents, sequentially. The unguided branch has the null text, no class and
        attention temperature. first_frames (B, P, C, H, W) are context that is kept."""
        grid = self.grid(tokens)
        read = [None] * len(self.blocks) if first_frames is None else self.context(first_frames, text)
        for i in reversed(range(len(self.blocks))):
            block = self.blocks[i]
            branches = [self.branch(i, grid, text, y)]
            if guidance and (not self.config.starflow or block.proj_txt is not None):
                branches.append(self.branch(i, grid, null_text, None, temperature))
            u = block.inverse(self.to_block(i, tokens), branches, self.block_grid(i, grid), guidance, read[i])
            tokens = self.from_block(i, u, tokens)
        return unpatchify(self.config, tokens)

    def score(self, x, text=None, y=None):
        """Gradient of log p, all of x's elements summed."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            outputs, logdets = self(x, text, y)
            loss = self.loss(outputs, logdets) * x.numel()
        return -torch.autograd.grad(loss, x)[0]

    def denoiser_output(self, x, text=None):
        """The learned denoiser on noisy images or frames x."""
        config, tokens = self.config, patchify(self.config, x)
        F, h, w = self.grid(tokens)
        text = text if config.conditional_denoiser and config.txt_size else None
        L = text.shape[1] if text is not None else 0
        rope = Rope(rope_angles(config, L, (F, h, w)), config.hf_style_rope, tokens.dtype) if config.rope else None
        mask = None
        if config.temporal_causal and F:
            mask = denoiser_mask(L, F, h * w, config.temporal_causal - 1, config.denoiser_window)
        o = self.learnable_self_denoiser.run(tokens.flatten(1, -2), text, rope=rope, causal=False, mask=mask)
        return unpatchify(config, o.view(tokens.shape))


def denoiser_mask(L, F, n, ahead, window):
    """Who sees whom, (L + F n, L + F n): a frame sees `ahead` later ones and, counted back from the last of these, `window`
    earlier ones (None: all); all see the text; the text sees what frame 0 would, and what is before that as if it were frames
    before frame 0."""
    frame = torch.div(torch.arange(-L, F * n), n, rounding_mode="floor")
    is_text = torch.arange(L + F * n) < L
    seen = frame[None] <= frame.clamp(min=0)[:, None] + ahead
    if window is not None:
        seen &= frame[None] >= frame[:, None] + ahead - window
    return seen | is_text[None]
