#!/usr/bin/env python3
"""Times encoding, sequential decoding and a training step beside `normflow bench --json`, and prints the ratios.

Usage: bench.py [--sizes tiny,64x64p4-512] [--batches 1,8] [--what encode,decode,train] [--rounds 3] [--precision PRECISION] [--device cuda] [--compile] NORMFLOW

PyTorch runs eagerly, with --compile also by torch.compile(), layer by layer, and the better counts; in float32 and in bfloat16 (autocast), with as many threads as the device has compute units, or on a GPU; the better of the two
counts, or, with --precision f32 or bf16, that one, against normflow in the same (in other precisions, which PyTorch has not, against the better). Each round measures one after the other, so that a machine that is busy meanwhile is so for both; of the rounds' ratios the
median is printed. A ratio of 2 means that normflow takes half the time.
"""
import argparse
import contextlib
import json
import re
import statistics
import subprocess
import time

import packages  # says what to install, before it is looked for

import torch

from model import Config, Flow, patchify

BUDGET, LEAST = 6.0, 3  # seconds, and runs, of a measurement


def parse_size(name):
    """Names as of `normflow bench --sizes`: 64x64p4-512, 64x64p4-512-4x4 with blocks and layers, 64x64p4-480-4x4h48 with a head's values."""
    match = re.fullmatch(r"(\d+)x\1p(\d+)-(\d+)(?:-(\d+)x(\d+))?(?:h(\d+))?", "16x16p4-64-2x2" if name == "tiny" else name)
    if not match:
        raise SystemExit(f"--sizes takes tiny and names such as 64x64p4-512 and 64x64p4-512-4x4, not {name}")
    side, patch, width, blocks, layers = (int(number or 4) for number in match.groups()[:5])
    return dict(img_size=side, patch_size=patch, channels=width, num_blocks=blocks, layers_per_block=layers, head_dim=int(match[6] or 64))


def median_time(run, device):
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3 if device == "cuda" else 1):
        run()  # allocates
    wait()
    times, end = [], time.perf_counter() + BUDGET
    while len(times) < LEAST or (time.perf_counter() < end and len(times) < 31):
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_peer(size, what, batch, half, device, compiled):
    config = Config(family="tarflow", in_channels=3, **parse_size(size))
    torch.manual_seed(0)
    flow = Flow(config).to(device)
    for block in flow.blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.01)
    x = torch.rand(batch, 3, config.img_size, config.img_size, device=device) * 2 - 1
    if compiled:
        for block in flow.blocks:
            for layer in block.attn_blocks:  # and not the loop over tokens, which would be unrolled
                layer.compile()
    cast = (lambda: torch.autocast(device, torch.bfloat16)) if half else contextlib.nullcontext
    if what == "train":
        optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)

        def run():
            optimizer.zero_grad()
            with cast():
                loss = flow.loss(*flow(x))
            loss.backward()
            optimizer.step()

    else:
        z = torch.randn_like(patchify(config, x))

        def run():
            with torch.no_grad(), cast():
                flow(x) if what == "encode" else flow.inverse(z)

    return median_time(run, device)


def time_normflow(command, size, what, batch, precision, device):
    said = [f"--precision={precision}"] if precision else []
    if device == "cuda":
        said.append("--device=gpu")
    done = subprocess.run(
        [command, "bench", "--quiet", "--json", f"--sizes={size}", f"--batch={batch}", *said, what], stdout=subprocess.PIPE, check=True
    )
    report = json.loads(done.stdout)
    if device == "cpu":
        torch.set_num_threads(report["device"]["compute_units"])
    (result,) = (r for r in report["results"] if r["what"] == what)
    return result["seconds"], result["share"], report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="tiny,64x64p4-512")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--what", default="encode,decode,train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("f32", "bf16", "bf16-weights", "int8-weights"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="PyTorch's best of eager and torch.compile()")
    parser.add_argument("normflow")
    options = parser.parse_args()
    dtypes = [options.precision] if options.precision in ("f32", "bf16") else ["f32", "bf16"]
    first = True
    for size in options.sizes.split(","):
        for batch in map(int, options.batches.split(",")):
            for what in options.what.split(","):
                rounds = []
                for _ in range(options.rounds):
                    seconds, share, report = time_normflow(options.normflow, size, what, batch, options.precision, options.device)
                    ways = [(dtype, compiled) for dtype in dtypes for compiled in ([False, True] if options.compile else [False])]
                    peers = {way: time_peer(size, what, batch, way[0] == "bf16", options.device, way[1]) for way in ways}
                    best = min(peers, key=peers.get)
                    rounds.append((peers[best] / seconds, seconds, share, peers[best], best[0] + (" compiled" if best[1] else "")))
                if first:
                    threads = f" with {torch.get_num_threads()} threads" if options.device == "cpu" else ""
                    print(f"{report['device']['name']}, PyTorch {torch.__version__}{threads}\n")
                    print(f"{'':8}{'size':20}{'batch':>6}{'normflow':>12}{'of limit':>10}{'PyTorch':>12}{'':6}{'ratio':>8}")
                    first = False
                ratio, seconds, share, peer, dtype = sorted(rounds)[len(rounds) // 2]
                print(f"{what:8}{size:20}{batch:6}{seconds * 1e3:9.2f} ms{share:10.0%}{peer * 1e3:9.2f} ms {dtype:5}{ratio:8.2f}", flush=True)


main()
