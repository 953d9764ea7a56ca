"""The commands that look at trained networks: evaluate, report, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from cluster.output import Out, Output, answer, say


def evaluate(
    run: Positional[Path],
    *,
    attacks: str = "clean,pgd-20",
    threat: UseAppendAction[tuple[str, ...]] = (),
    agent: UseAppendAction[tuple[str, ...]] = (),
    checkpoint: Literal["best", "last"] = "best",
    examples: int | None = None,
    name: str | None = None,
    cross: bool = False,
    corruption_root: Annotated[Path | None, arg(name="data.corruption-root")] = None,
    workers: int = 0,
    block: int = 64,
    masking: int = 256,
    output: Out = Output(),
) -> None:
    """Attack a run's networks on the test images.

    Args:
        run: The run's folder.
        attacks: Comma-separated: clean, fgsm, pgd-K, pgd-KxR, margin-pgd-K, square-Q, autoattack, transfer:RUN.
        threat: NORM:EPS such as linf:8/255 or l2:0.5; repeat for a curve or several norms. Default: the run's own.
        agent: Role to evaluate; repeat for several. Default: the method's products.
        checkpoint: Best on the held-out images, or last.
        examples: First so many test images only.
        name: Name of the evaluation's folder.
        corruption_root: Folder of .npy files per corruption, as CIFAR-10-C; adds the accuracy under each.
        workers: Ray actors that attack at the same time; 0: this process. The numbers do not depend on it.
        block: Examples per block; part of what a number depends on.
        masking: Examples on which signs of masked gradients are looked for; 0: none.
        cross: Also every agent on the examples crafted on every other (PGD-20, first threat).
    """
    from cluster import display
    from cluster.evaluation import evaluate_run
    from cluster.run_folder import RunFolder

    report = evaluate_run(
        RunFolder.open(run),
        attacks=attacks.split(","),
        threats=threat,
        agents=agent,
        checkpoint=checkpoint,
        examples=examples,
        name=name,
        cross=cross,
        corruption_root=corruption_root,
        workers=workers,
        block=block,
        masking=masking,
        progress=say(output),
    )
    answer(output, report, display.evaluation)


def report(
    runs: Positional[tuple[Path, ...]],
    *,
    examples: int | None = None,
    checkpoint: Literal["best", "last"] = "best",
    out: Path | None = None,
    output: Out = Output(),
) -> None:
    """Make report.html of a run; of several, one page side by side.

    Args:
        runs: Run folders.
        examples: Test images used. Default: as many as about a minute allows.
        checkpoint: Best on the held-out images, or last.
        out: Page for several runs. Default: report.html in this folder.
    """
    from cluster import reporting

    result = reporting.report(runs, examples=examples, checkpoint=checkpoint, out=out, say=say(output))
    answer(output, result, lambda r: print(f"report: {r['report']}"))


def verify(path: Positional[Path], *, interval: str | None = None, output: Out = Output()) -> None:
    """Check an evaluation's witnesses without attacking, or a run's chain; --interval trains a part of it again.

    Args:
        path: An evaluation's folder, or a run's.
        interval: random, or A:B of two neighbouring checkpoints.
    """
    from cluster import certify

    result = certify.verify(path, interval)
    answer(output, result, certify.show)
    if result["problems"]:
        raise SystemExit(5)
