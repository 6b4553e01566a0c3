#!/usr/bin/env python3
"""Trains one model twice from the same weights on the same batches, here and in PyTorch, and compares the losses of every step.

Usage: train_curve.py [--steps 200] [--build BUILD_DIR] VIDEO

Tiles are cut from frames of VIDEO (by ffmpeg) and have noise of 8-bit steps; what the library adds itself is switched off, so that both see
the same numbers. PyTorch takes the learning rate that the library reports. Exit status 1 unless the curves agree within --tolerance: the
mean of the last 20 losses, and every loss in units of the largest.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import packages  # says what to install, before it is looked for

import numpy
import torch

import golden
from library import Library, TrainOptions
from model import Config, Flow

MODELS = {
    "classes": dict(
        family="tarflow", in_channels=3, img_size=16, patch_size=4, channels=128, num_blocks=4, layers_per_block=2, num_classes=2,
    ),
    "plain": dict(
        family="tarflow", in_channels=3, img_size=32, patch_size=4, channels=64, num_blocks=2, layers_per_block=2,
    ),
}
NOISE = 6  # standard deviation in 8-bit steps
TAIL = 20


def read_frames(video, count, side):
    """(F, side, side, 3) 8-bit samples"""
    command = ["ffmpeg", "-loglevel", "error", "-i", video, "-frames:v", str(count)]
    command += ["-vf", f"scale={side}:{side}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return numpy.frombuffer(data, numpy.uint8).reshape(-1, side, side, 3)


def make_batches(frames, config, steps, batch, rng):
    """(tiles (B, C, S, S), labels) of each step. The class says whether a tile is upside down."""
    side = config.img_size
    for _ in range(steps):
        tiles = numpy.empty((batch, 3, side, side), numpy.uint8)
        labels = rng.integers(0, 2, batch).astype(numpy.int32) if config.num_classes else None
        for b in range(batch):
            frame = frames[rng.integers(len(frames))]
            y, x = rng.integers(0, frame.shape[0] - side + 1, 2)
            tile = frame[y : y + side, x : x + side].astype(numpy.float64)
            if labels is not None and labels[b]:
                tile = tile[::-1]
            noisy = tile + NOISE * rng.standard_normal(tile.shape)
            tiles[b] = numpy.clip(numpy.rint(noisy), 0, 255).transpose(2, 0, 1)
        yield tiles, labels


def compare(name, options):
    """Largest difference of any loss, and difference of the tails' means, both relative."""
    config = Config(**MODELS[name])
    torch.manual_seed(1)
    flow = Flow(config)
    for block in flow.blocks:
        torch.nn.init.zeros_(block.proj_out.weight)
    # 8-bit value k is 2 k/255 - 1, and noise of deviation 0 is none
    metadata = {"config": json.dumps(MODELS[name] | {"noise_type": "gaussian", "noise_std": 0})}
    settings = TrainOptions(
        steps=options.steps, warmup=options.steps // 10, lr=options.lr, lr_min=1e-6, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=1e-4,
        clip=0, ema=0, seed=0,
    )
    optimizer = torch.optim.AdamW(flow.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=1e-4)
    frames = read_frames(options.video, 64, 96)
    rng = numpy.random.default_rng(1)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "initial.safetensors"
        golden.save(path, flow.state_dict(), metadata, narrow=False)
        with Library(options.build).trainer(path, settings, options.device) as step:
            for tiles, labels in make_batches(frames, config, options.steps, options.batch, rng):
                report = step(tiles, labels)
                if report.skipped:
                    raise RuntimeError(f"step {report.step} was skipped")
                ours.append(report.loss)
                optimizer.param_groups[0]["lr"] = report.lr
                x = torch.from_numpy(tiles).float() * (2 / 255) - 1
                y = torch.from_numpy(labels).long() if labels is not None else None
                optimizer.zero_grad()
                loss = flow.loss(*flow(x, y=y))
                loss.backward()
                optimizer.step()
                theirs.append(loss.item())
    ours, theirs = numpy.array(ours), numpy.array(theirs)
    scale = numpy.abs(theirs).max()
    worst = numpy.abs(ours - theirs).max() / scale
    tail, wanted = ours[-TAIL:].mean(), theirs[-TAIL:].mean()
    print(f"{name}: {sum(p.numel() for p in flow.parameters())} parameters, {options.steps} steps of {options.batch} tiles")
    for i in sorted({0, 1, options.steps // 10, options.steps // 4, options.steps // 2, options.steps - 1}):
        print(f"  step {i + 1:4}: normflow {ours[i]:11.7f}  PyTorch {theirs[i]:11.7f}")
    print(f"  last {TAIL}: {tail:.5f} and {wanted:.5f}, {abs(tail - wanted) / abs(wanted):.1e} apart; at most {worst:.1e} in any step", flush=True)
    return max(worst, abs(tail - wanted) / abs(wanted))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--tolerance", type=float, default=0.005)
    parser.add_argument("--device", help="OpenCL device (default: what normflow would take)")
    parser.add_argument("--build", default="build", help="build folder of the repository (default: build)")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("video")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other take long on a busy machine
    differences = [compare(name, options) for name in options.models.split(",")]
    sys.exit(0 if max(differences) <= options.tolerance else 1)


main()
