#!/usr/bin/env bash
# torch 2.15.0 (about 3 GB to download)
# Expected: clamp(0, 1) has the gradient of the identity for values in [0, 1], the bounds included, however it is written.
# Seen:     at a value equal to a bound the gradient is 0 with bounds that are numbers, 0.5 with bounds that are tensors (minimum, maximum
#           too), 1 written as torch.where. Behind a clamp an attack cannot move the exact zeros and ones of which images are full.
# Ours:     cluster/evaluation/masking.py (pixels_without_gradient) flags networks that do this; attacks of ours clamp outside the gradient.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.2.6
"$work/env/bin/python" - <<'PY'
import sys

import torch

zero, one = torch.tensor(0.0), torch.tensor(1.0)
WAYS = {
    "numbers": lambda x: x.clamp(0, 1),
    "tensors": lambda x: x.clamp(zero, one),
    "minimum of maximum": lambda x: torch.minimum(torch.maximum(x, zero), one),
    "where": lambda x: torch.where(x < 0, zero, torch.where(x > 1, one, x)),
}
found = {}
for name, way in WAYS.items():
    x = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    way(x).sum().backward()
    found[name] = x.grad.tolist()
    print(f"{name:20} {found[name]}")
expected = {
    "numbers": [0.0, 1.0, 0.0],
    "tensors": [0.5, 1.0, 0.5],
    "minimum of maximum": [0.5, 1.0, 0.5],
    "where": [1.0, 1.0, 1.0],
}
sys.exit(found != expected)
PY
