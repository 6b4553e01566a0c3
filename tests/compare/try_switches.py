#!/usr/bin/env python3
"""Tries random combinations of switches: each must agree with model.py, or be refused by name.

Usage: try_switches.py [--count N] [--seed S] [--kernels cpu,gpu] NORMFLOW

Each case is a tiny random model. What model.py computes of it in double precision is compared by `normflow verify` in each form of the
kernels. "refused" says the command's own words. Exit status 1 if a combination differs, or fails in another way.
"""
import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import packages  # says what to install, before it is looked for

import make_golden


def tarflow(pick):
    head_dim = pick([8, 16, 20, 32, 40, 64])
    return dict(
        family="tarflow",
        in_channels=pick([1, 3]),
        patch_size=(patch := pick([1, 2, 4])),
        img_size=patch * pick([1, 2, 3, 4, 5]),
        channels=head_dim * pick([1, 2, 3]),
        head_dim=head_dim,
        expansion=pick([1, 2, 4]),
        num_blocks=pick([1, 2, 3]),
        layers_per_block=pick([1, 2]),
        num_classes=pick([0, 0, 2, 5]),
        nvp=pick([True, True, False]),
    )


def starflow(pick):
    head_dim = pick([20, 24, 32, 48, 64])
    heads = pick([1, 2, 3])
    video, text, rms = pick([False, True]), pick([False, True]), pick([False, True])
    blocks = pick([1, 2, 3, 4])
    grouped = pick([False, False, True])
    rope = video or pick([True, True, False])
    config = dict(
        family="starflow",
        in_channels=pick([1, 2, 3, 4, 5]),
        patch_size=(patch := pick([1, 1, 2])),
        img_size=(side := patch * pick([1, 2, 3, 4])),
        hw=(side, side) if not rope or pick([False, True]) else (patch * pick([1, 2, 3]), patch * pick([1, 3, 5])),
        channels=head_dim * heads,
        head_dim=head_dim,
        expansion=pick([2, 3, 4]),
        num_blocks=blocks,
        layers_per_block=[pick([1, 1, 1, 2, 2, 0]) for _ in range(blocks - 1)] + [pick([1, 2])],
        rope=rope,
        hf_style_rope=rope and pick([False, True]),
        sos=pick([False, True]),
        use_softplus=pick([False, True]),
        soft_clip=pick([0, 2, 4]),
        use_final_norm=pick([False, True]),
        use_swiglu=pick([False, True]),
        use_qk_norm=pick([False, True]),
        use_post_norm=pick([False, True]),
        use_bias=pick([False, True]),
        norm_type="rms_norm" if rms else "layer_norm",
        seq_order=pick(["L2R", "R2L"]),
        pt_seq_len=pick([0, 0, 7]) if rope else 0,
    )
    if grouped:
        config |= dict(num_heads=pick([2, 4]), num_kv_heads=pick([1, 2]))
    elif pick([False, True]):
        config |= dict(top_block_channels=head_dim * pick([1, 2, 4]))
    if text:
        config |= dict(txt_size=pick([1, 3, 6]), txt_dim=pick([1, 7, 12]), cond_top_only=pick([False, True]))
    if video:
        config |= dict(
            frames=pick([1, 2, 4, 5]),
            temporal_causal=pick([0, 1, 2, 3]),
            shallow_block_local=pick([False, True, True]),
        )
    if pick([False, True]):
        config |= dict(
            learnable_self_denoiser=True,
            denoiser_window=pick([None, 0, 1, 2, 3, 9]),
            conditional_denoiser=text and pick([False, True]),
        )
    return config


def run(command, **environment):
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | environment, timeout=600)
    return done.returncode, done.stdout, done.stderr.strip()


def judge(normflow, folder, case, kernels):
    """One word and why."""
    status, out, errors = run(
        [normflow, "verify", "--quiet", folder / f"{case}.weights.safetensors", folder / f"{case}.expected.safetensors"],
        NORMFLOW_KERNELS=kernels,
    )
    if status == 0:
        return "agrees", out.strip().splitlines()[-1]
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    # of a quantity that is refused there is no number, but a reason
    differing = [line for line in failed if not (line.endswith(" inf") and errors)]
    if differing:
        return "DIFFERS", "; ".join(differing[:3])
    refused = failed or "not supported" in errors or "impossible" in errors
    return ("refused" if refused else "FAILED"), (errors or f"exit status {status}").replace(str(folder), "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; each has its own")
    parser.add_argument("--kernels", default="cpu,gpu")
    parser.add_argument("--keep", type=pathlib.Path, help="folder to leave the files of what differs in")
    parser.add_argument("normflow")
    options = parser.parse_args()
    bad = 0
    for seed in range(options.seed, options.seed + options.count):
        rng = random.Random(seed)
        config = (starflow if rng.random() < 0.75 else tarflow)(rng.choice)
        case = f"switches{seed}"
        make_golden.CASES[case] = config | {"batch": rng.choice([1, 2])}
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.keep or pathlib.Path(temporary)
            try:
                make_golden.make(case, folder, False, quiet=True)
            except ArithmeticError as error:
                print(f"{seed}: skipped, {error}")
                continue
            verdicts = {kernels: judge(options.normflow, folder, case, kernels) for kernels in options.kernels.split(",")}
        good = all(word in ("agrees", "refused") for word, _ in verdicts.values())
        bad += not good
        told = " | ".join(f"{kernels} {word}: {why}" for kernels, (word, why) in verdicts.items())
        print(f"{seed}: {config['family']} {told}", flush=True)
        if not good:
            print("   ", config, flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
