#!/usr/bin/env python3
"""Checks model.py against golden files, in double precision.

Usage: check_golden.py FOLDER [CASE...]
"""
import pathlib
import sys

import packages  # says what to install, before it is looked for

import golden

# What float32 storage of the expected values allows.
TOLERANCE = 1e-6


def check(folder, case):
    """Number of values outside the tolerance."""
    flow = golden.load_flow(folder / f"{case}.weights.safetensors")
    expected, metadata = golden.load(folder / f"{case}.expected.safetensors")
    expected_of = golden.Expected(flow, expected, float(metadata.get("denoise_noise_std", 0.05)))
    computed = expected_of.compute(expected.keys())
    worst, checked, wrong = {}, 0, 0
    for name, want in expected.items():
        if name in golden.INPUTS:
            continue
        if name not in computed:
            print(f"{case}: {name} is not computed")
            wrong += 1
            continue
        have, want = computed[name].detach().double(), want.double()
        if have.shape != want.shape:
            print(f"{case}: {name} is {tuple(have.shape)}, expected {tuple(want.shape)}")
            wrong += 1
            continue
        checked += 1
        error = float((have - want).norm() / want.norm().clamp(min=1e-30))
        group = name.split(".")[0]
        worst[group] = max(worst.get(group, (0, "")), (error, name))
        if not error <= TOLERANCE:
            print(f"{case}: {name} differs by {error:.2e}")
            wrong += 1
    text = ", ".join(f"{group} {error:.1e}" for group, (error, _) in worst.items())
    print(f"{case}: {checked} values, {wrong} wrong; largest relative differences: {text}")
    return wrong


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    names = sys.argv[2:] or golden.cases(folder)
    if not names:
        sys.exit(f"{folder}: no golden files")
    sys.exit(1 if sum([check(folder, name) for name in names]) else 0)


main()
