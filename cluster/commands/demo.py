"""``sparring demo``: two peers train each other on a few real images, next to one network alone for the same cost, and a plain one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.cluster import terminal
from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.frontier import cost
from sparring.cluster.reports.report import report as make_report
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

INTRODUCTION = """Sparring demo: two small networks learn to read handwritten digits while under attack, from 71 of them, so that
they overfit. In every step each of them invents adversarial examples, Ray carries these and the soft labels to the
other, and both learn. For comparison a third network of the same size is trained under attack alone, for as much
arithmetic as the two together, and a fourth plainly. All on CPU, in a minute or two."""
EPOCHS = 100
FEW: dict[str, Any] = {"data.fraction": 0.05, "batch_size": 32, "epochs": EPOCHS, "checkpoint.every": 20}
MUTUAL = {"method.alpha": 1.0}  # the weight of the others' examples and soft labels, three times the recipe's
OTHER_SEEDS = "+2.9 points [+1.7, +4.0] over ten other seeds"  # benchmarks/results/few_digits_again.json
ALONE = "alone, same cost"
ATTACK, THREAT = "scaled-pgd-20", "linf:0.15"  # right for networks whose logits differ in scale


def demo(*, runs_dir: Path, quiet: bool = False) -> dict[str, Any]:
    """Train MAT with two peers over Ray, one network alone and a plain one, attack all, return the table's numbers."""
    say: Callable[[str], None] = (
        (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    )
    say(INTRODUCTION + "\n")
    small: dict[str, Any] = {
        **FEW,
        "device": "cpu",
        "placement.cpus_per_agent": 0.5,
    }  # also where there is one core, or one GPU
    how = Circumstances(quiet=quiet)
    started = time.perf_counter()
    mutual = launch.train(recipe("mat-digits").replace({**small, **MUTUAL}), runs_dir=runs_dir, how=how)
    ratio = cost.counted(recipe("mat-digits")) / cost.counted(recipe("at-digits"))
    longer = {**small, "team": "local", "epochs": round(ratio * EPOCHS)}
    alone = launch.train(recipe("at-digits").replace(longer), runs_dir=runs_dir, how=how)
    plain = launch.train(recipe("clean-digits").replace({**small, "team": "local"}), runs_dir=runs_dir, how=how)
    seconds = time.perf_counter() - started
    say(f"\nattacking the test images ({ATTACK}, {THREAT}) ...")
    agents: dict[str, Any] = {}
    for run, label in ((mutual, "{} (mutual)"), (alone, ALONE), (plain, "plain training")):
        # attacks and blocks of the report, so that both say the same of the same networks
        asked: dict[str, Any] = {"attacks": ["clean", "fgsm", ATTACK], "threats": [THREAT], "block": 256}
        report = evaluate_run(RunFolder(run.path), checkpoint="last", **asked)
        agents |= {label.format(name): result for name, result in report["agents"].items()}
    return {
        "report": make_report([mutual.path], checkpoint="last", say=say)["report"],
        "run": str(mutual.path),
        "alone": str(alone.path),
        "plain": str(plain.path),
        "epochs": {"mutual": EPOCHS, "alone": longer["epochs"], "plain": EPOCHS},
        "seconds": round(seconds, 1),
        "attack": ATTACK,
        "agents": agents,
    }


def show(result: dict[str, Any]) -> None:
    """The table and what to do next."""
    rows = []
    for name, r in result["agents"].items():
        robust = next(iter(r["threats"].values()))
        clean = terminal.with_interval(r["clean_accuracy"], r["clean_ci95"])
        rows.append([name, clean, terminal.with_interval(robust["robust_accuracy"], robust["ci95"])])
    n = next(iter(result["agents"].values()))["n"]
    print()
    terminal.table(["network", "clean [95 %]", "robust, eps 0.15 [95 %]"], rows)
    run = os.path.relpath(result["run"])
    print()
    terminal.paragraph(brought(result))
    print()
    terminal.paragraph(
        f"robust: right on the image and after fgsm and {ATTACK}; {n} test images at the last checkpoint, as in the report; training took "
        f"{result['seconds']:.0f} s; run folder: {run}"
    )
    print(
        f"report: {os.path.relpath(result['report'])}\nnext: {terminal.command()} evaluate {run} --checkpoint last --attacks clean,fgsm,pgd-100 --threat linf:0.1 --threat l2:1"
    )


def brought(result: dict[str, Any]) -> str:
    """What training each other brought over one network for the same cost, in a sentence."""
    robust = {name: next(iter(r["threats"].values())) for name, r in result["agents"].items()}
    peers = [r["robust_accuracy"] for name, r in robust.items() if name.endswith("(mutual)")]
    alone, (low, high) = robust[ALONE]["robust_accuracy"], robust[ALONE]["ci95"]
    difference = fmean(peers) - alone
    beyond = "beyond" if not low <= fmean(peers) <= high else "within"
    return (
        f"One network alone had as much arithmetic as the two peers together ({result['epochs']['alone']} epochs for {result['epochs']['mutual']}). The peers' mean "
        f"is {100 * difference:+.1f} points from it, {beyond} its interval; {OTHER_SEEDS}. With all digits training alone is better: docs/results.md"
    )
