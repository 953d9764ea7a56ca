"""Arrays recorded from the authors' published code, run through the public losses, attacks, schedules and ``Agent``.

``check(path)`` chooses the adapter by the file's name. ``make golden DIR=...`` does so for a whole folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.reference import architectures, mtard, peeraid, steps
from tests.reference.common import listening

Adapter = Callable[[Path], None]

FAMILIES: dict[str, Adapter] = {
    r"mtard_logits_c\d+\.npz": mtard.eccv_on_logits,
    r"mtard_bmtard_logits\.npz": mtard.balanced_on_logits,
    r"mtard_attack_tiny\.npz": mtard.attacks_on_a_tiny_net,
    r"mtard_train_tiny_\w+\.npz": mtard.whole_steps,
    r"mtard_schedule\.json": mtard.schedules,
    r"mtard_eval_attacks_tiny\.npz": mtard.evaluation_attacks,
    r"mtard_base_\w+\.npz": steps.mtard_baseline,
    r"peeraid_step_\w+\.npz": peeraid.two_steps,
    r"peeraid_attacks_f64\.npz": peeraid.attacks_alone,
    r"peeraid_swa_f64\.npz": peeraid.weight_averaging,
    r"peeraid_mainrun_f64\.npz": peeraid.whole_run,
    r"peeraid_arch_f64\.npz": architectures.logits,
    r"peeraid_base_\w+\.npz": steps.peeraid_baseline,
    r"peeraid_refcurve_\w+\.npz": peeraid.training_curve,
}


BOTH = (  # these look at every pass of a network, as which it runs unchanged, and once more at what comes out of a run's own form
    mtard.attacks_on_a_tiny_net,
    mtard.whole_steps,
    steps.mtard_baseline,
    peeraid.two_steps,
    steps.peeraid_baseline,
)


def check(path: Path) -> None:
    """Compare one file.

    Raises:
        AssertionError: something differs; says what.
        LookupError: no family has this name.
    """
    for pattern, adapter in FAMILIES.items():
        if re.fullmatch(pattern, path.name):
            adapter(path)
            if adapter in BOTH:
                with listening(False):
                    adapter(path)
            return
    raise LookupError(f"{path.name} belongs to no known family of reference arrays")
