#!/usr/bin/env python3
"""Sizes of the published models: parameters, and the memory that they and a decode's keys and values take.

Usage: published.py
       published.py NAME OUT.pth     a checkpoint of this shape with random weights, to try commands on (--dtype f32|f16|bf16)

Counted from model.py on PyTorch's meta device, which holds shapes and no numbers. docs/checkpoints.md has the table.
"""
import argparse

import packages  # says what to install, before it is looked for

import torch

import golden
from model import Config, Flow

TARFLOW = dict(family="tarflow", in_channels=3, num_blocks=8, layers_per_block=8)
STARFLOW = dict(
    family="starflow", patch_size=1, channels=3072, num_blocks=6, layers_per_block=[2, 2, 2, 2, 2, 24], rope=True, sos=True,
    seq_order="L2R", use_softplus=True, cond_top_only=True, use_final_norm=True, soft_clip=4, txt_dim=2048,
)

# From the official READMEs and configurations.
PUBLISHED = {
    "imagenet64": TARFLOW | dict(img_size=64, patch_size=2, channels=768),
    "imagenet64-classes": TARFLOW | dict(img_size=64, patch_size=2, channels=768, num_classes=1000),
    "imagenet128-classes": TARFLOW | dict(img_size=128, patch_size=4, channels=1024, num_classes=1000),
    "afhq256": TARFLOW | dict(img_size=256, patch_size=8, channels=768, num_classes=3),
    "starflow-3b": STARFLOW | dict(in_channels=4, img_size=32, txt_size=128),
    "starflow-v-7b": STARFLOW
    | dict(
        in_channels=48, img_size=40, txt_size=256, top_block_channels=4096, pt_seq_len=32, temporal_causal=2, shallow_block_local=True,
        learnable_self_denoiser=True, conditional_denoiser=True, denoiser_window=10, hw=[30, 53], frames=21,
    ),
}


def count(config):
    with torch.device("meta"):
        flow = Flow(config)
    return sum(p.numel() for p in flow.parameters())


def cache_floats(config):
    """Keys and values of one sample in the block where they are most."""
    p = config.patch_size
    tokens = config.hw[0] // p * (config.hw[1] // p)

    def of_block(i):
        local = config.shallow_block_local and i + 1 < config.num_blocks
        rows = tokens * (1 if local else max(config.frames, 1)) + (config.txt_size if config.starflow and config.has_text(i) else 0)
        return 2 * rows * config.width(i) * config.layers_per_block[i]

    return max(of_block(i) for i in range(config.num_blocks))


def write(config, path, dtype):
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # the largest fit the memory of a small machine in half precision only
    flow = Flow(config)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith("proj_out.weight"):
                parameter.copy_(0.1 * torch.randn(parameter.shape) / parameter.shape[1] ** 0.5)
    state = flow.state_dict() | golden.buffers(flow)
    torch.save({name: t.to(dtype) for name, t in state.items()}, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="f32")
    parser.add_argument("name", nargs="?", choices=list(PUBLISHED))
    parser.add_argument("path", nargs="?")
    options = parser.parse_args()
    if options.name:
        if not options.path:
            parser.error("give the file to write")
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
        write(Config(**PUBLISHED[options.name]), options.path, dtype)
        return
    print(f"{'model':20} {'parameters':>14} {'f32 GiB':>8} {'f16 GiB':>8} {'keys and values of a sample, f32 GiB':>38}")
    for name, members in PUBLISHED.items():
        config = Config(**members)
        n, cache = count(config), cache_floats(config)
        print(f"{name:20} {n:14,} {4 * n / 2**30:8.2f} {2 * n / 2**30:8.2f} {4 * cache / 2**30:38.2f}")


main()
