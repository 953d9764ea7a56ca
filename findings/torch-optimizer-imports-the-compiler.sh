#!/usr/bin/env bash
# torch 2.15.0 (about 3 GB to download)
# Expected: a process that makes an optimiser and steps it, and compiles nothing, does not load torch.compile's machinery.
# Seen:     making any torch.optim.Optimizer imports torch._dynamo (more than 500 modules, above 50 MiB), so every actor of a fleet pays for
#           it; the functional forms beneath (torch.optim.sgd.sgd, torch.optim.adamw.adamw), fused or not, do not.
# Ours:     trainers/optimisers.py steps by the functional forms, to the same bits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.2.6
"$work/env/bin/python" - <<'PY'
import sys

import torch
from torch.optim import sgd


def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20


def state(what):
    loaded = "torch._dynamo" in sys.modules
    print(f"{what}: torch._dynamo {'loaded' if loaded else 'not loaded'}, {len(sys.modules)} modules, {held():.0f} MiB")
    return loaded, len(sys.modules), held()


layer = torch.nn.Linear(8, 8)
layer(torch.ones(2, 8)).sum().backward()
parameters = list(layer.parameters())
with torch.no_grad():
    settings = dict(weight_decay=0.0, momentum=0.9, lr=0.1, dampening=0.0, nesterov=False, maximize=False)
    sgd.sgd(parameters, [p.grad for p in parameters], [None, None], fused=True, **settings)
functional = state("after a step by torch.optim.sgd.sgd")
torch.optim.SGD(parameters, lr=0.1)
made = state("after making torch.optim.SGD      ")
sys.exit(not (not functional[0] and made[0] and made[1] > functional[1] + 500 and made[2] > functional[2] + 50))
PY
