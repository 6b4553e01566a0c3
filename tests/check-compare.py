#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether each program of tests/compare says in one line what to install where nothing is: check-compare.py."""
import os
import pathlib
import subprocess
import sys

folder = pathlib.Path(__file__).resolve().parent / "compare"
bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
wrong = []
for program in sorted(path for path in folder.glob("*.py") if path.read_text(encoding="utf-8").startswith("#!")):
    # -S: none of the packages that may be installed
    run = subprocess.run([sys.executable, "-S", "-B", program], env=bare, capture_output=True, text=True)
    if run.returncode != 1 or run.stderr.count("\n") != 1 or "pip install torch" not in run.stderr:
        wrong.append(f"{program.name}: exit status {run.returncode} and {run.stderr.splitlines()[-1:]}")
print("\n".join(wrong))
sys.exit(1 if wrong else 0)
