#!/usr/bin/env bash
# pyautoattack 0.2.0, torch 2.15.0 (about 3 GB to download)
# Expected: Square under l2 and l1 attacks images of any height and width, as it does under linf.
# Seen:     28 rows and 20 columns: an error of shapes, while the same images transposed are attacked; fewer than 5 rows: a division by
#           zero. The first pattern is laid in squares of a fifth of the height, starting where the height leaves half of the rest.
# Ours:     cluster/evaluation/named_attacks.py (squares_laid): transposed where that helps, else left out with a note.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.2.6 pyautoattack==0.2.0
"$work/env/bin/python" - <<'PY'
import sys

import torch
from pyautoattack.square import SquareAttack

changed = False
for norm, eps in (("Linf", 0.1), ("L2", 0.5), ("L1", 5.0)):
    for height, width in ((28, 20), (20, 28), (4, 4), (28, 28)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(height * width, 10)).eval()
        x = torch.rand(4, 1, height, width)
        y = model(x).argmax(1)
        attack = SquareAttack(model, norm=norm, eps=eps, n_queries=5, seed=0, verbose=False, device="cpu")
        try:
            attack.perturb(x, y)
            seen = "attacked"
        except Exception as error:
            seen = type(error).__name__
        print(f"{norm} {height}x{width}: {seen}")
        wanted = "attacked"
        if norm != "Linf":
            wanted = {(28, 20): "RuntimeError", (4, 4): "ZeroDivisionError"}.get((height, width), "attacked")
        changed |= seen != wanted
sys.exit(changed)
PY
