#!/usr/bin/env python3
"""Checks what `normflow sample` draws at temperature 0, where latents are zeros, against model.py: guidance, text, continuation, and
how noise is taken out.

Usage: check_samples.py [--folder tests/golden] NORMFLOW
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import packages  # says what to install, before it is looked for

import torch
from safetensors.torch import save_file

import golden
from model import Guidance, patchify

NOISE = 0.3
TOLERANCE = 1e-4


def draw(normflow, model, arguments, folder):
    out = folder / "samples.safetensors"
    subprocess.run([normflow, "sample", "--quiet", "--model", model, "--temperature", "0", "--count", "2", *arguments, out], check=True)
    return golden.load(out)[0]["samples"].double()


def convert(normflow, weights, noise, model):
    said = ["--set=noise_type=gaussian", f"--set=noise_std={noise}", "--set=pixel_layout=latent"]
    subprocess.run([normflow, "convert", "--quiet", *said, weights, model], check=True)


def cases(flow, folder):
    """Names, arguments, what inverse() gets, how noise leaves; the model has noise but where frames are given, which get some, too."""
    config = flow.config
    text = null = None
    said = []
    if config.txt_size:
        text, null = torch.randn(2, config.txt_size, config.txt_dim), torch.randn(1, config.txt_size, config.txt_dim)
        save_file({"text": text, "null_text": null}, folder / "text.safetensors")
        said = [f"--text={folder / 'text.safetensors'}"]
        text, null = text.double(), null.double().expand(2, -1, -1)
    how = dict(text=text)
    for denoise in ("none", "score") + (("learned",) if config.learnable_self_denoiser else ()):
        yield denoise, [*said, f"--denoise={denoise}"], how, denoise
    if config.txt_size:
        guided = dict(text=text, null_text=null, guidance=Guidance(2.0))
        yield "guided", [*said, "--guidance=2", "--denoise=none"], guided, "none"
    if config.temporal_causal and config.frames:
        given = torch.randn(2, 2, config.in_channels, *(config.hw or (config.img_size,) * 2))
        save_file({"given": given}, folder / "given.safetensors")
        yield "given", [*said, f"--given={folder / 'given.safetensors'}"], dict(text=text, first_frames=given.double()), "given"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("tests/golden"))
    parser.add_argument("normflow")
    options = parser.parse_args()
    torch.manual_seed(1)
    wrong = 0
    for case in golden.cases(options.folder):
        flow = golden.load_flow(options.folder / f"{case}.weights.safetensors")
        config = flow.config
        if not config.starflow:
            continue
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            model = folder / "model.safetensors"
            rows, columns = config.hw or (config.img_size,) * 2
            shape = (2, *((config.frames,) if config.frames else ()), config.in_channels, rows, columns)
            for name, arguments, how, denoise in cases(flow, folder):
                convert(options.normflow, options.folder / f"{case}.weights.safetensors", 0 if denoise == "given" else NOISE, model)
                samples = draw(options.normflow, model, arguments, folder)
                with torch.no_grad():
                    want = flow.inverse(torch.zeros_like(patchify(config, torch.zeros(shape, dtype=torch.double))), **how)
                    if denoise == "score":
                        want = want + NOISE**2 * flow.score(want, how["text"])
                    elif denoise == "learned":
                        want = want - 0.3 * flow.denoiser_output(want, how["text"])
                error = float((samples - want).norm() / want.norm())
                print(f"{case}, {name}: {error:.1e}")
                wrong += not error <= TOLERANCE
    print(f"{wrong} wrong")
    sys.exit(1 if wrong else 0)


main()
