#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The regression guard of speed: check-shares.py REFERENCE < what `normflow bench --json` printed, once or more.

REFERENCE has shares of the machine's limit, not times, by precision and measurement, as cautious as the slowest
kind of machine wants them. Of repeated measurements the best counts. Fails if one is below two thirds of its
reference, or missing. What the reference does not know, like a precision without instructions for it, is only shown."""
import json
import sys


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
    best, dots = {}, {}
    for report in read_reports(sys.stdin.read()):
        precision = report["device"]["precision"]
        dots[precision] = report["limits"]["of"] == precision
        for result in report["results"]:
            name = f'{result["what"]} {result["size"]}'
            if result["share"] is not None:
                best[precision, name] = max(best.get((precision, name), 0), result["share"])
    failed = not best
    for precision, entries in reference.items():
        for name, share in entries.items():
            if precision in dots and not dots[precision]:
                continue  # no instructions: shares are of another limit
            got = best.get((precision, name))
            bad = got is None or got < share * 2 / 3
            failed = failed or bad
            print(f'{"FELL" if bad else "ok":4} {precision:4} {name:32} '
                  f'{"missing" if got is None else f"{got:.3f}"} (reference {share:.3f})')
    sys.exit(1 if failed else 0)


main()
