#!/usr/bin/env bash
# torch 2.15.0 (about 3 GB to download)
# Expected: torch.utils.flop_counter.FlopCounterMode counts what an attack computes: torch.autograd.grad of a loss by the images counts as
#           loss.backward() does.
# Seen:     it raises RuntimeError ("A leaf node was passed to _will_engine_execute_node ...") as soon as the images that the gradient is
#           asked for enter a module themselves, with display=False too, whether or not weights require gradients. backward() counts, and so
#           does autograd.grad when the images are scaled before they enter. The counter also keeps sums per module, and asks autograd about
#           every leaf that a module is given.
# Ours:     cluster/frontier/cost.py (Arithmetic) counts with the same table of operations (flop_registry) and without modules.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.2.6
"$work/env/bin/python" - <<'PY'
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))


def counted(way, *, scaled=False):
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    try:
        with FlopCounterMode(display=False) as counter:
            loss = network(2 * x - 1 if scaled else x).logsumexp(1).sum()
            way(loss, x)
    except RuntimeError as error:
        return f"RuntimeError: {str(error)[:58]}"
    return counter.get_total_flops()


network.requires_grad_(False)
found = {
    "backward": counted(lambda loss, x: loss.backward()),
    "autograd.grad": counted(lambda loss, x: torch.autograd.grad(loss, x)),
    "autograd.grad, images scaled first": counted(lambda loss, x: torch.autograd.grad(loss, x), scaled=True),
}
for name, value in found.items():
    print(f"{name:36} {value}")
expected = {
    "backward": 42624,
    "autograd.grad": "RuntimeError: A leaf node was passed to _will_engine_execute_node but we",
    "autograd.grad, images scaled first": 42624,
}
sys.exit(found != expected)
PY
