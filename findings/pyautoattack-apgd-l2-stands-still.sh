#!/usr/bin/env bash
# pyautoattack 0.2.0, torch 2.15.0 (about 3 GB to download)
# Expected: APGD under l2 steps along the gradient whatever its length: a network and the same network with its logits multiplied by a
#           constant have the same decisions, and the attack finds as much on both while there is a gradient.
# Seen:     the gradient is divided by its length plus 1e-12. Where logits lie far apart the cross entropy's gradients are there and shorter
#           than that, and apgd-ce leaves far more examples right; under linf, where signs count, nearly as many as before.
# Ours:     cluster/evaluation/masking.py (zero_gradients) flags this under l2.
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
linear = torch.nn.Linear(64, 10).double()


def network(factor):
    return lambda x: factor * linear(x.double().flatten(1))  # in float64, where no gradient vanishes by rounding


x = torch.rand(64, 1, 8, 8)
logits = network(1.0)(x).detach()
y = logits.argmax(1)
top = logits.topk(2, dim=1).values
gap = float((top[:, 0] - top[:, 1]).median())


def share_left(norm, eps, factor):
    attack = AutoAttack(network(factor), norm=norm, eps=eps, seed=0, version="standard", device="cpu")
    attack.attacks_to_run = ["apgd-ce"]
    adv, _ = attack.run_standard_evaluation(x, y, batch_size=64)
    return float((network(factor)(adv).argmax(1) == y).double().mean())


found = {}
for norm, eps in (("L2", 0.6), ("Linf", 0.1)):
    for wanted in (5.0, 40.0):
        z = network(wanted / gap)
        g = x.clone().requires_grad_(True)
        largest = torch.autograd.grad(torch.nn.functional.cross_entropy(z(g), y, reduction="sum"), g)[0].flatten(1).abs().amax(1)
        found[norm, wanted] = share_left(norm, eps, wanted / gap)
        print(f"{norm:4} median gap {wanted:4g}: {found[norm, wanted]:.2f} left; without any gradient {float((largest == 0).double().mean()):.2f}")
stands_still = found["L2", 40.0] > found["L2", 5.0] + 0.2
signs_count = found["Linf", 40.0] < found["Linf", 5.0] + 0.2
sys.exit(not (stands_still and signs_count))
PY
