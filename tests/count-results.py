#!/usr/bin/env python3
# normflow: counts cmocka's cases in a log of `meson test`. SPDX-License-Identifier: LGPL-2.1-or-later
"""count-results.py TESTLOG.JSON STATUS: last line "N passed, N failed"; STATUS is the exit status of `meson test`.

cmocka announces how many cases an executable has and each case that starts. One that neither passed nor was
skipped has failed, whether it says so, crashed, ran out of time or was never reached.
"""
import json
import re
import sys

ANNOUNCED = re.compile(r"\[=+\] .*?Running (\d+) test\(s\)\.")


def count_cases(text):
    """Passed and skipped cases, names of started ones that are neither, and how many were announced."""
    announced = passed = skipped = 0
    unfinished, running = [], None
    for line in text.splitlines():
        if found := ANNOUNCED.search(line):
            announced += int(found[1])
        elif found := re.search(r"\[ RUN +\] (.*)", line):
            if running is not None:
                unfinished.append(running)
            running = found[1].strip()
        elif running is not None and (found := re.search(r"\[ +(OK|SKIPPED) +\] (.*)", line)):
            if found[2].strip() == running:
                passed += found[1] == "OK"
                skipped += found[1] == "SKIPPED"
                running = None
    if running is not None:
        unfinished.append(running)
    return passed, skipped, unfinished, announced


def main():
    passed, skipped, failures = 0, 0, []
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        tests = [json.loads(line) for line in log if line.strip()]
    for test in tests:
        name, result = test["name"], test["result"]
        good, left_out, unfinished, announced = count_cases(test.get("stdout") or "")
        bad = [f"{name}: {case}" for case in unfinished]
        unreached = announced - good - left_out - len(unfinished)
        bad += [f"{name}: a case that was not reached"] * max(unreached, 0)
        if result not in ("OK", "SKIP", "EXPECTEDFAIL"):
            bad = bad or [f"{name}: {result}"]
        elif announced == 0:
            good, left_out = int(result != "SKIP"), int(result == "SKIP")
        passed += good
        skipped += left_out
        failures += bad
    if int(sys.argv[2]) != 0 and not failures:
        failures.append(f"meson test ended with status {sys.argv[2]}")
    for failure in failures:
        print("FAILED", failure)
    if skipped:
        print(skipped, "skipped")
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures or passed == 0 else 0


sys.exit(main())
