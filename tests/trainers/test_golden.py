"""Every array file in tests/golden through its adapter (see tests/reference), and that the adapters can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import CLONE
from tests.reference import FAMILIES, check
from tests.reference.common import load

GOLDEN = CLONE / "tests" / "golden"
FILES = sorted(p.name for p in GOLDEN.iterdir())
SLOW = {"peeraid_arch_f64.npz"}  # whole networks in float64


@pytest.mark.parametrize("name", [pytest.param(f, marks=pytest.mark.soak) if f in SLOW else f for f in FILES])
def test_equal_to_the_recorded_arrays(name: str) -> None:
    check(GOLDEN / name)


ALTERED = {  # one recorded array of each kind: a loss, an iterate, a gradient, a momentum, a statistic, a temperature
    "mtard_base_ard_a1_t30.npz": "loss",
    "mtard_base_iad1_after.npz": "student_after__bn1.running_mean",
    "mtard_base_rslad_c10.npz": "grad__fc.weight",
    "mtard_base_sat.npz": "student_inputs",
    "mtard_base_trades_8over255.npz": "attack_grads",
    "mtard_attack_tiny.npz": "train__x_steps",
    "mtard_bmtard_logits.npz": "oscillate__out__temp_nat_next",
    "mtard_logits_c10.npz": "out32__grad_student_nat",
    "mtard_train_tiny_bmtard.npz": "final_momentum__conv1.weight",
    "peeraid_attacks_f64.npz": "pgd_k20/adv",
    "peeraid_base_adaad_c10.npz": "after/student/bn2.running_var",
    "peeraid_base_lbgat6.npz": "grad_teacher/conv1.weight",
    "peeraid_step_c10_f32.npz": "step2/loss_peer",
    "peeraid_step_c10_f64.npz": "step2/attack_x",
    "peeraid_swa_f64.npz": "epoch3/swa/bn1.running_var",
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_array_is_noticed(name: str, tmp_path: Path) -> None:
    """The last element of one array is off by 1e-3."""
    arrays = load(GOLDEN / name)
    altered = np.array(arrays[ALTERED[name]], copy=True)
    altered.reshape(-1)[-1] += 1e-3
    np.savez(tmp_path / name, **{**arrays, ALTERED[name]: altered})
    with pytest.raises(AssertionError):
        check(tmp_path / name)


def test_make_golden_fails_on_a_file_that_it_does_not_know(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "mtard_schedule.json", tmp_path)
    np.savez(tmp_path / "peeraid_new_thing.npz", x=np.zeros(1))
    command = [sys.executable, "-m", "tests.reference", str(tmp_path)]
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 of 2 files match" in done.stdout
    assert "FAIL  peeraid_new_thing.npz" in done.stdout
    assert len(FAMILIES) == 14
