#!/usr/bin/env python3
"""Holds model.py against the official code on random combinations of switches.

Usage: check_official.py [--count N] [--seed S] [--long NORMFLOW] FOLDER

FOLDER is a checkout of apple/ml-starflow or apple/ml-tarflow. Both sides compute in double precision: tokens, log-determinants, decoding
with and without guidance, what the denoiser says. Combinations that official code cannot build or run are counted. Exit status 1 if one
that it can differs. --long instead compares videos of several windows that `normflow sample` draws from tests/golden's starflow_v with the
official ones, at temperature 0.
"""
import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

import packages  # says what to install, before it is looked for

import torch

import golden
import make_golden
import try_switches
from model import THETA, THIRD_AXIS, Config, Flow, Guidance, patchify, unpatchify

TOLERANCE = 1e-9
# The same of what normflow computes in single precision.
SINGLE = 1e-4
# Where decoding explodes it measures nothing.
LARGEST = make_golden.LARGEST


def apart(ours, official):
    return float((ours - official).norm() / official.norm().clamp(min=1e-30))


def starflow_case(pick):
    """As official constructors take it."""
    config = try_switches.starflow(pick) | {"expansion": 4, "rope": True}
    video = config.get("frames", 0) > 0
    # three axes of positions only with text
    if video and "txt_size" not in config:
        config |= dict(txt_size=pick([1, 3, 6]), txt_dim=pick([1, 7, 12]))
    config["cond_top_only"] = "txt_size" in config and (config.get("cond_top_only", False) or config.get("shallow_block_local", False))
    if config.get("temporal_causal"):
        config["temporal_causal"] = pick([1, 2, 3, 4, 6])
        config["seq_order"] = "L2R"
    if video and config["shallow_block_local"]:
        config["layers_per_block"] = [max(1, layers) for layers in config["layers_per_block"]]
    return config


def starflow_model(official, config):
    ours = ("family", "hw", "frames")
    model = official.Model(**{name: value for name, value in config.items() if name not in ours})
    for rope in (model.feat_rope, model.feat_rope_gen):
        powers = lambda n: THETA ** (-torch.arange(n, dtype=torch.float64) / n)
        rope.freqs = powers(len(rope.freqs))
        if hasattr(rope, "freqs2"):
            rope.freqs2 = powers(THIRD_AXIS)
    return model


def compare_starflow(model, flow, inputs):
    config = flow.config
    x, noise, text, both = (
        inputs[name].double() if name in inputs else None
        for name in ("input.x", "sample.noise", "input.text", "sample.text_with_null")
    )
    tokens = patchify(config, noise)
    outputs, logdets = flow(x, text)
    z, _, _, theirs = model(x, text)
    yield "tokens", apart(unpatchify(config, outputs[-1]), z)
    for i, (ours, official) in enumerate(zip(logdets, theirs)):
        if official.dim() > 1:  # else a block without layers
            yield f"logdet{i}", apart(ours.flatten(), official.flatten())
    if config.learnable_self_denoiser:
        yield "denoiser", apart(flow.denoiser_output(x, text), model(x, text, denoiser=True))
    official = model(noise, text, reverse=True)
    decodes = official.abs().max() < LARGEST
    if decodes:
        yield "decoded", apart(flow.inverse(tokens, text), official)
    # one of local blocks is not guided, nor its text doubled, in official code
    if decodes and both is not None and (config.cond_top_only or not config.frames):
        official = model(noise, both, reverse=True, guidance=1.5)
        text, null = both.chunk(2)
        if official.abs().max() < LARGEST:
            yield "guided", apart(flow.inverse(tokens, text, null_text=null, guidance=Guidance(1.5)), official)


def tarflow_case(pick):
    return try_switches.tarflow(pick) | {"expansion": 4, "head_dim": 64, "channels": 64 * pick([1, 2, 3])}


def tarflow_model(official, config):
    return official.Model(**{name: value for name, value in config.items() if name not in ("family", "expansion", "head_dim")})


def compare_tarflow(model, flow, inputs):
    x, noise, y = inputs["input.x"].double(), inputs["sample.noise"].double(), inputs.get("input.y")
    side = flow.config.img_size // flow.config.patch_size
    tokens = (noise * flow.var.sqrt()).unflatten(1, (side, side))
    outputs, logdets = flow(x, y=y)
    z, _, official = model(x, y)
    yield "tokens", apart(outputs[-1].flatten(1, 2), z)
    if flow.config.nvp:
        yield "logdet", apart(sum(logdet.mean((1, 2)) for logdet in logdets), official)
    for weight, what, annealed, temperature in ((0, "ab", False, 1), (1.5, "ab", False, 0.7), (2, "a", True, 1.3), (1, "b", False, 1)):
        guidance = Guidance(weight, what, annealed) if weight else None
        # without classes the unguided branch is told by its temperature
        if weight and y is None and temperature == 1:
            continue
        official = model.reverse(noise, y, weight, what, temperature, annealed)
        if official.abs().max() < LARGEST:
            yield f"decoded, guidance {weight} {what}", apart(
                flow.inverse(tokens, y=y, guidance=guidance, temperature=temperature), official
            )


def compare_long(official, normflow):
    """Pairs of what was compared and how far it is apart."""
    case = pathlib.Path(__file__).parent.parent / "golden" / "starflow_v"
    weights, expected = (f"{case}.{part}.safetensors" for part in ("weights", "expected"))
    flow = golden.load_flow(weights)
    config = flow.config
    names = [name for name in Config.__dataclass_fields__ if name not in ("family", "hw", "frames")]
    options = {name: getattr(config, name) for name in names if getattr(config, name) != Config.__dataclass_fields__[name].default}
    model = starflow_model(official, options | {"local_attn_window": config.frames})
    model.load_state_dict({name: t for name, t in flow.state_dict().items() if name != "var"}, strict=False)
    model = model.double().eval()
    text, null = (t[:1] for t in golden.load(expected)[0]["sample.text_with_null"].chunk(2))
    # official Jacobi asks all processes whether it is done
    torch.distributed.all_reduce = lambda *unused, **options: None
    with tempfile.TemporaryDirectory() as folder:
        captions, output = f"{folder}/text.safetensors", f"{folder}/out.safetensors"
        golden.save(captions, {"text": text.to(torch.float32), "null_text": null.to(torch.float32)}, {})
        for frames, context, weight in ((12, 2, 0), (11, 3, 1.5), (7, 4, 0), (6, 1, 4)):
            noise = torch.zeros(1, frames, config.in_channels, *config.hw, dtype=torch.float64)
            both = torch.cat([text, null]) if weight else text
            how = dict(jacobi=True, jacobi_th=0, jacobi_max_iter=100, jacobi_block_size=8, context_length=context, guidance=weight)
            with torch.no_grad():
                theirs = model(noise, both.double(), reverse=True, **how)
            arguments = f"--frames {frames} --context {context} --guidance {weight} --temperature 0 --denoise none".split()
            subprocess.run([normflow, "sample", "-q", "-m", weights, "--text", captions, *arguments, output], check=True)
            yield f"{frames} frames, context {context}, guidance {weight}", apart(golden.load(output)[0]["samples"].double(), theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; each has its own")
    parser.add_argument("--long", metavar="NORMFLOW", help="compare long videos that this command draws")
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    packages.need("einops", "tqdm")
    sys.path.insert(0, str(options.folder))
    import transformer_flow as official

    starflow = hasattr(official, "NonCausalBlock")
    make_case, make_model, compare = (
        (starflow_case, starflow_model, compare_starflow) if starflow else (tarflow_case, tarflow_model, compare_tarflow)
    )
    # official code takes what it affects in single precision
    torch.Tensor.float = torch.Tensor.double
    if options.long:
        torch.set_default_dtype(torch.float64)
        found = list(compare_long(official, options.long))
        for name, value in found:
            print(f"{name}: {value:.1e} apart")
        sys.exit(0 if all(value < SINGLE for _, value in found) else 1)
    compared = bad = 0
    worst, impossible = 0.0, []
    for seed in range(options.seed, options.seed + options.count):
        rng = random.Random(seed)
        config = make_case(rng.choice)
        torch.set_default_dtype(torch.float32)
        flow = Flow(Config(**config))
        generator = torch.Generator().manual_seed(seed)
        make_golden.randomize(flow, generator)
        inputs = make_golden.make_inputs(flow.config, rng.choice([1, 2]), False, generator)
        torch.set_default_dtype(torch.float64)
        try:
            model = make_model(official, config)
            state = {name: t for name, t in flow.state_dict().items() if name != "var" or not starflow}
            lost = model.load_state_dict(state, strict=False)
            lost = lost.unexpected_keys + [name for name in lost.missing_keys if name != "var" and not golden.BUFFERS.search(name)]
            if lost:
                raise SystemExit(f"{seed}: parameters that only one side has: {', '.join(lost)}")
            with torch.no_grad():
                found = list(compare(model.double().eval(), flow.double(), inputs))
        except (AssertionError, AttributeError) as error:
            impossible.append(f"{seed}: {error}")
            continue
        compared += 1
        worst = max(worst, *(value for _, value in found))
        wrong = [f"{name} {value:.1e}" for name, value in found if not value < TOLERANCE]
        bad += bool(wrong)
        if wrong:
            print(f"{seed}: {', '.join(wrong)}\n    {config}", flush=True)
    print(f"{compared} compared, {bad} differ, the largest relative difference is {worst:.1e}; "
          f"official code cannot build or run {len(impossible)}")
    for line in impossible[:5]:
        print("   ", line)
    sys.exit(1 if bad else 0)


main()
