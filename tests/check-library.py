#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether tests/compare/library.py says the same of the library as its headers: check-library.py.

ctypes believes what it is told: a member or an argument that was added in C alone makes nonsense of a comparison,
which needs PyTorch and so is seldom run. Needs neither PyTorch nor the library."""
import ctypes
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tests" / "compare"))

import library  # noqa: E402

TYPES = {"guint64": ctypes.c_uint64, "guint": ctypes.c_uint, "double": ctypes.c_double, "gboolean": ctypes.c_int}
CALLS = {  # what library.py gives them, before the GError **
    "nf_device_open": ["const char *"],
    "nf_model_load": ["const char *", "NfDevice *", "NfProgressFunc ", "gpointer ", "GCancellable *"],
    "nf_trainer_new": ["NfModel *", "const NfTrainOptions *"],
    "nf_trainer_step": ["NfTrainer *", "const NfTrainBatch *", "NfTrainReport *"],
}


def read_members(header, name):
    """[(name, ctypes type)] of a structure that a header defines."""
    body = re.search(r"typedef struct\n\{\n([^}]*)\} %s;" % name, header).group(1)
    members = []
    for kind, pointer, member in re.findall(r"^ +(?:const )?(\w+) (\*?)(\w+);", body, re.MULTILINE):
        members.append((member, ctypes.c_void_p if pointer else TYPES[kind]))
    if len(members) != body.count(";"):
        raise ValueError(f"{name} has members that this script cannot read")
    return members


def main():
    header = "\n".join(path.read_text(encoding="utf-8") for path in sorted((root / "core").glob("*/*.h")))
    wrong = []
    for ours in (library.TrainOptions, library.TrainBatch, library.TrainReport):
        name = ours.__doc__
        members = read_members(header, name)
        if members != ours._fields_:
            wrong.append(f"{name} is {[member for member, _ in members]}, library.py has {[field for field, _ in ours._fields_]}")
    for name, wanted in CALLS.items():
        arguments = re.search(r"\b%s \(([^)]*)\);" % name, header).group(1).split(",")
        kinds = [re.sub(r"\w+$", "", " ".join(argument.split())) for argument in arguments]
        if kinds != wanted + ["GError **"]:
            wrong.append(f"{name}() takes {kinds}, library.py gives it {wanted}")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


main()
