#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The regression guard of speed: check-shares.py REFERENCE < what `normflow bench --json` printed, once or more.

REFERENCE has shares of the machine's limit, not times, by kind of limit ("f32" and "f32 by amx", or what multiplies
fewer bits there: "bf16 by amx", "bf16 by dot", "bf16-weights by amx", "int8-weights by madd") and measurement: about the
medians of a quiet machine of the kind that has the least. Of repeated measurements the median counts, of a
model's work, whose two cores wait for each other where others use them, the second best; without those above 1 of the
multiply-adds, whose limit was disturbed. Fails if one is below two thirds of its reference, or missing, or if there
is no report of float32. Kinds that the reference does not know, and fewer bits without instructions for them, whose limit
is another, are not compared."""
import json
import statistics
import sys

BY_MEMORY = ("layernorm", "step")  # what stays in a cache can have more than all of what is measured
OF_MODELS = ("encode", "step", "train")


def read_reports(text):
    decoder, at, reports = json.JSONDecoder(), 0, []
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        report, at = decoder.raw_decode(text, at)
        reports.append(report)
    return reports


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        reference = json.load(file)
    shares, kinds = {}, set()
    for report in read_reports(sys.stdin.read()):
        precision, by = report["device"]["precision"], report["limits"]["by"]
        if precision != "f32" and by is None:
            continue
        kind = f"{precision} by {by}" if by else precision
        kinds.add(kind)
        for result in report["results"]:
            name = f'{result["what"]} {result["size"]}'
            if result["share"] is not None and (result["share"] <= 1 or result["what"] in BY_MEMORY):
                shares.setdefault((kind, name), []).append(result["share"])
    failed = not shares or "f32" not in kinds
    for kind in sorted(kinds):
        if kind not in reference:
            print(f"{sys.argv[1]} has no shares for {kind}")
        for name, share in reference.get(kind, {}).items():
            got, measured = None, sorted(shares.get((kind, name), []))
            if measured:
                got = measured[-2:][0] if name.split()[0] in OF_MODELS else statistics.median(measured)
            bad = got is None or got < share * 2 / 3
            failed = failed or bad
            print(f'{"FELL" if bad else "ok":4} {kind:11} {name:42} '
                  f'{"missing" if got is None else f"{got:.3f}"} (reference {share:.3f})')
    sys.exit(1 if failed else 0)


main()
