#!/usr/bin/env python3
"""Writes golden files of tiny random models: what model.py computes for them in double precision.

Usage: make_golden.py [--pth] [--list] CASE...|--all OUT_DIR
"""
import argparse
import json
import pathlib
import zlib

import packages  # says what to install, before it is looked for

import torch
from torch import nn

import golden
from model import Config, Flow, RMSNorm, patchify

STARFLOW = dict(
    family="starflow",
    num_blocks=3,
    layers_per_block=[1, 1, 2],
    channels=64,
    head_dim=32,
    patch_size=1,
    txt_size=5,
    txt_dim=12,
    rope=True,
    sos=True,
    use_softplus=True,
    use_final_norm=True,
    soft_clip=4,
    cond_top_only=True,
    seq_order="L2R",
)
VIDEO = STARFLOW | dict(temporal_causal=2, shallow_block_local=True, conditional_denoiser=True, denoiser_window=3)
GEMMA = dict(norm_type="rms_norm", use_bias=False)

CASES = {
    # 25 tokens of 12 features, width 60, three heads of 20
    "tarflow_odd": dict(
        batch=2, family="tarflow", in_channels=3, img_size=10, patch_size=2, channels=60, num_blocks=3, layers_per_block=2,
        head_dim=20, expansion=3, num_classes=3,
    ),
    # 9 tokens, volume-preserving with classes
    "tarflow_vp_class": dict(
        batch=3, family="tarflow", in_channels=1, img_size=12, patch_size=4, channels=48, num_blocks=2, layers_per_block=1,
        head_dim=16, nvp=False, num_classes=4,
    ),
    # patch 1, one head, 49 tokens of one feature
    "tarflow_pixels": dict(
        batch=1, family="tarflow", in_channels=1, img_size=7, patch_size=1, channels=48, num_blocks=2, layers_per_block=2,
        head_dim=48,
    ),
    # text in front of every block, right to left, not square
    "starflow_text_all": STARFLOW | dict(batch=2, in_channels=4, img_size=8, hw=[6, 10], cond_top_only=False, seq_order="R2L"),
    # no text: RoPE of two axes; heads of 16; 3×5 tokens of 48 features; an even number of blocks
    "starflow_plain": STARFLOW
    | dict(batch=2, in_channels=3, img_size=16, patch_size=4, hw=[12, 20], txt_size=0, txt_dim=0, channels=48, head_dim=16,
           num_blocks=4, layers_per_block=[1, 1, 1, 2]),
    # grouped queries with RoPE in pairs, LayerNorm and biases; heads of 48 that are wider than the model
    "starflow_gqa_pairs": STARFLOW
    | dict(batch=2, in_channels=4, img_size=6, channels=72, num_heads=4, num_kv_heads=2, head_dim=48),
    # one key head for all, gated MLP with biases and another expansion, half-split RoPE
    "starflow_mqa_gated": STARFLOW
    | dict(batch=1, in_channels=5, img_size=6, channels=40, num_heads=3, num_kv_heads=1, use_swiglu=True, expansion=3,
           norm_type="rms_norm", hf_style_rope=True),
    # post-norm without qk-norm; plain MLP without biases
    "starflow_post_norm": STARFLOW | GEMMA | dict(batch=2, in_channels=4, img_size=8, patch_size=2, use_post_norm=True),
    # qk-norm without post-norm; LayerNorm; a scaled grid
    "starflow_qk_norm": STARFLOW | dict(batch=2, in_channels=4, img_size=6, hw=[4, 8], use_qk_norm=True, pt_seq_len=32),
    # sos with an exponential scale and a narrow clip, no final norm, R2L with text, an even number of blocks
    "starflow_sos_exp": STARFLOW
    | dict(batch=2, in_channels=4, img_size=5, use_softplus=False, soft_clip=1.5, use_final_norm=False, seq_order="R2L",
           num_blocks=2, layers_per_block=[2, 2]),
    # shifted output with softplus, no clip, text everywhere
    "starflow_shift_softplus": STARFLOW
    | dict(batch=1, in_channels=3, img_size=10, patch_size=2, sos=False, soft_clip=0, cond_top_only=False),
    # classes as one-hot text of length 1
    "starflow_class": STARFLOW | dict(batch=3, in_channels=4, img_size=8, patch_size=2, txt_size=1, txt_dim=7, one_hot=True),
    # video with half-split RoPE, RMSNorm and gated MLP; window 1; a deep block of another width; patch 2
    "starflow_v_halves": VIDEO
    | GEMMA
    | dict(batch=1, in_channels=3, img_size=4, patch_size=2, hw=[4, 6], frames=6, hf_style_rope=True, use_swiglu=True,
           use_qk_norm=True, top_block_channels=96, learnable_self_denoiser=True, denoiser_window=1),
    # text in front of frame-local blocks too; no look-ahead, no text for the denoiser; an even number of blocks
    "starflow_v_strict": VIDEO
    | dict(batch=2, in_channels=4, img_size=3, frames=5, num_blocks=2, layers_per_block=[1, 2], cond_top_only=False,
           temporal_causal=1, learnable_self_denoiser=True, conditional_denoiser=False, denoiser_window=2),
    # shallow blocks see all frames before; R2L inside frames; shifted output
    "starflow_v_global": VIDEO
    | dict(batch=1, in_channels=4, img_size=4, hw=[3, 5], frames=4, shallow_block_local=False, seq_order="R2L", sos=False,
           use_softplus=False),
    # the same with text for all, and a block without layers
    "starflow_v_text": VIDEO
    | dict(batch=2, in_channels=2, img_size=2, hw=[2, 3], frames=3, shallow_block_local=False, num_blocks=4,
           layers_per_block=[1, 0, 1, 1], channels=32, txt_size=3, txt_dim=6, cond_top_only=False),
    # text before each frame of frame-local blocks, the first of which has no layers
    "starflow_v_local_text": VIDEO
    | dict(batch=2, in_channels=2, img_size=2, hw=[2, 3], frames=3, layers_per_block=[0, 1, 1], channels=32, txt_size=3,
           txt_dim=6, cond_top_only=False),
    # blocks see the whole video, every other one backwards; so does the denoiser
    "starflow_v_whole": VIDEO
    | dict(batch=1, in_channels=2, img_size=2, hw=[2, 3], frames=3, temporal_causal=0, shallow_block_local=False, num_blocks=3,
           layers_per_block=[1, 1, 1], channels=20, head_dim=20, txt_size=3, txt_dim=6, learnable_self_denoiser=True),
    # an image whose denoiser sees all of it and text; two axes and a third one of text
    "starflow_denoiser": STARFLOW
    | dict(batch=2, in_channels=3, img_size=2, hw=[2, 3], num_blocks=2, layers_per_block=[1, 1], channels=20, head_dim=20,
           txt_size=3, txt_dim=6, learnable_self_denoiser=True, conditional_denoiser=True),
    # heads of 16, whose angles are all of text: rows and columns turn nothing
    "starflow_narrow_heads": STARFLOW
    | dict(batch=2, in_channels=3, img_size=2, hw=[2, 3], num_blocks=2, layers_per_block=[1, 1], channels=16, head_dim=16,
           txt_size=3, txt_dim=6),
    # a look-ahead beyond the window: part of the text does not see the first frame
    "starflow_v_ahead": VIDEO
    | dict(batch=1, in_channels=2, img_size=2, hw=[1, 2], frames=5, num_blocks=2, layers_per_block=[1, 1], channels=20,
           head_dim=20, txt_size=3, txt_dim=6, temporal_causal=4, learnable_self_denoiser=True, denoiser_window=1),
    # one block alone, reversed; as many channels as rows and columns, so that a shape may be that of tokens and of frames
    "starflow_v_single": VIDEO
    | dict(batch=1, in_channels=4, img_size=4, frames=3, num_blocks=1, layers_per_block=[1], channels=32, txt_size=0, txt_dim=0,
           conditional_denoiser=False),
    # more frames than any window; no text at all
    "starflow_v_long": VIDEO
    | dict(batch=1, in_channels=2, img_size=3, hw=[2, 3], frames=9, txt_size=0, txt_dim=0, head_dim=48, channels=48,
           learnable_self_denoiser=True, denoiser_window=4),
}


# A model whose inverse explodes is no measure for another implementation.
LARGEST = 100.0
# Nor is what would be 0 but for rounding, or a mean of numbers that cancel.
SMALLEST, CANCELLED = 1e-9, 0.03


def randomize(flow, generator):
    """Weights with which everything matters and nothing explodes."""
    normal = lambda t, std, mean=0.0: t.copy_(mean + std * torch.randn(t.shape, generator=generator))
    # Without a final norm or a clip the scale is exponential in what goes through the residual stream.
    bounded = flow.config.use_final_norm or flow.config.soft_clip
    gain = {"proj_in": 1.0, "proj_out": 0.3} if bounded else {"proj_in": 0.4, "proj_out": 0.1}
    with torch.no_grad():
        for name, module in flow.named_modules():
            if isinstance(module, nn.Linear):
                normal(module.weight, gain.get(name.rpartition(".")[2], 1.0) * module.in_features**-0.5)
                if module.bias is not None:
                    normal(module.bias, 0.1)
            elif isinstance(module, nn.LayerNorm):
                normal(module.weight, 0.1, 1.0)
                normal(module.bias, 0.1)
            elif isinstance(module, RMSNorm):
                normal(module.weight, 0.1)
        for name, parameter in flow.named_parameters():
            if name.endswith(("pos_embed", "class_embed", "sos_embed")):
                normal(parameter, 0.3)
        if not flow.config.nvp:
            flow.var.copy_(0.5 + torch.rand(flow.var.shape, generator=generator))


def make_inputs(config, batch, one_hot, generator):
    randn = lambda *shape: torch.randn(*shape, generator=generator)
    frames = (config.frames,) if config.frames else ()
    shape = (batch, *frames, config.in_channels, *config.hw)
    if not config.starflow:
        side = config.img_size // config.patch_size
        inputs = {"input.x": torch.rand(shape, generator=generator) * 2 - 1, "sample.noise": randn(batch, side**2, config.features)}
        if config.num_classes:
            inputs["input.y"] = torch.randint(config.num_classes, (batch,), generator=generator)
        return inputs
    inputs = {"input.x": randn(*shape), "sample.noise": randn(*shape)}
    if config.txt_size:
        if one_hot:
            text = torch.eye(config.txt_dim)[torch.randperm(config.txt_dim, generator=generator)[:batch]][:, None]
            null = torch.zeros_like(text)
        else:
            text, null = randn(batch, config.txt_size, config.txt_dim), randn(1, config.txt_size, config.txt_dim).expand(batch, -1, -1)
        inputs |= {"input.text": text, "sample.text_with_null": torch.cat([text, null])}
    return inputs


def wanted(config):
    """Names beyond forward.* and grad.*."""
    if not config.starflow:
        names = ["denoise.score.x", "sample.plain"]
        if config.num_classes:
            names += ["sample.cfg1.5_ab", "sample.cfg2_a", "sample.cfg1_b_annealed", "sample.cfg0.5_ab_annealed"]
        else:
            names += ["sample.temp0.7_guid1_ab", "sample.temp1.3_guid0.5_b_annealed", "sample.temp0.3_guid0.2_a"]
        return names
    names = ["denoise.score.sigma0.3", "sample.sequential"]
    if config.txt_size:
        names += ["sample.sequential_cfg1.5", "sample.sequential_cfg4"]
    if config.frames > 1 and config.temporal_causal:
        names += ["continue.from_first_frame"]
    if config.learnable_self_denoiser:
        names += ["denoise.learned.x_sigma0.3_to0", "denoise.train.sigma0.5.target"]
    return names


def check_inverse(flow, expected):
    """What was decoded without guidance encodes to the noise it came from."""
    sample = expected["sample.sequential" if flow.config.starflow else "sample.plain"]
    text = expected["input.text"].double() if "input.text" in expected else None
    with torch.no_grad():
        z = flow(sample, text, expected.get("input.y"))[0][-1]
    noise = expected["sample.noise"].double()
    if flow.config.starflow:
        noise = patchify(flow.config, noise)
    else:
        noise, z = noise * flow.var.sqrt(), z.flatten(1, 2)
    difference = (z - noise).abs().max()
    if not difference < 1e-9:
        raise ArithmeticError(f"a decoded sample encodes to something else than its noise: {difference:.2e}")


def make(case, folder, pth, quiet=False):
    options = dict(CASES[case])
    batch, one_hot = options.pop("batch"), options.pop("one_hot", False)
    config = Config(**options)
    noise_std = 0.1
    generator = torch.Generator().manual_seed(zlib.crc32(case.encode()))
    flow = Flow(config)
    randomize(flow, generator)
    state = {name: t.clone() for name, t in flow.state_dict().items()} | golden.buffers(flow)
    stored = options if not config.starflow else options | {"hw": list(config.hw), "frames": config.frames}
    metadata = {"config": json.dumps(stored)}
    golden.save(folder / f"{case}.weights.safetensors", state, metadata, narrow=False)
    if pth:
        torch.save(state, folder / f"{case}.pth")
    inputs = make_inputs(config, batch, one_hot, generator)
    expected = inputs | golden.Expected(flow.double(), inputs, noise_std).compute(wanted(config))
    check_inverse(flow, expected)
    # the gradient of a single number is a sum over all tokens, which may cancel
    tells = lambda name, t: t.double().norm() > SMALLEST and not (".grad." in name and t.numel() == 1)
    expected = {name: t for name, t in expected.items() if name in inputs or tells(name, t)}
    apart = sum(t.abs().mean() for name, t in expected.items() if name.startswith("forward.logdet"))
    if abs(expected.get("forward.loss_logdet", apart)) < CANCELLED * apart:
        del expected["forward.loss_logdet"]
    metadata |= {"precision": "computed in float64 from float32 weights by tests/compare/model.py"}
    if not config.starflow:
        metadata |= {"denoise_noise_std": str(noise_std)}
    golden.save(folder / f"{case}.expected.safetensors", expected, metadata)
    largest = torch.stack([t.abs().max().double() for t in expected.values()]).max()
    if not largest < LARGEST:
        raise ArithmeticError(f"{case}: values up to {largest:.3g} tell little; other weights are needed")
    if not quiet:
        print(f"{case}: {len(state)} weights, {len(expected)} values, values up to {largest:.3g}, loss {expected['forward.loss']:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--list", action="store_true", help="names of the cases, and stop")
    parser.add_argument("--pth", action="store_true", help="PyTorch checkpoints beside the weights")
    parser.add_argument("names", nargs="*", metavar="CASE... OUT_DIR")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return
    if not options.names or (options.all and len(options.names) != 1):
        parser.error("give cases, or --all, and the folder to write to")
    *cases, folder = options.names
    unknown = [case for case in cases if case not in CASES]
    if unknown or not (cases or options.all):
        parser.error(f"unknown case {unknown[0]}" if unknown else "give a case, or --all")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES if options.all else cases:
        make(case, folder, options.pth)


if __name__ == "__main__":
    main()
