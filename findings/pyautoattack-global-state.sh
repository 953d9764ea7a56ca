#!/usr/bin/env bash
# pyautoattack 0.2.0, torch 2.15.0 (about 3 GB to download)
# Expected: an attack leaves the process as it found it: a trace function (coverage, a debugger) stays, and with a seed of its own the
#           global random state is not touched.
# Seen:     after run_standard_evaluation the trace function is gone, and torch's global generator stands where the attack left it.
# Ours:     cluster/evaluation/named_attacks.py (undisturbed) gives both back.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.2.6 pyautoattack==0.2.0
"$work/env/bin/python" - <<'PY'
import sys

import torch
from pyautoattack import AutoAttack

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
x = torch.rand(2, 1, 8, 8)
y = model(x).argmax(1)


def trace(frame, event, argument):
    return None


sys.settrace(trace)
before = torch.get_rng_state()
attack = AutoAttack(model, norm="Linf", eps=0.01, seed=3, version="standard", device="cpu")
attack.attacks_to_run = ["apgd-ce"]
attack.run_standard_evaluation(x, y, batch_size=2)
kept = sys.gettrace() is trace
sys.settrace(None)
same = torch.equal(before, torch.get_rng_state())
print("trace function kept:", kept)
print("global random state kept:", same)
sys.exit(kept or same)
PY
