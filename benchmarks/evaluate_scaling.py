"""AutoAttack over workers on digits: time of two warm workers against one, the same files, and one unsharded call.

python benchmarks/evaluate_scaling.py [--examples 256] [--rounds 3] [--save]

One adversarially trained network; every round evaluates all blocks anew on a pool of one and a pool of two workers that have
done a block before. A pool of three and a driver killed -9 three times write the same files. Afterwards the whole digits
test split, in blocks, next to ONE call of the authors' code.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import CLONE, circumstances, save
from pyautoattack import AutoAttack

from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation.attacking import Attacking, Job, jobs_of, read_all
from sparring.cluster.evaluation.attacking import run as attack_here
from sparring.cluster.evaluation.block import BROKEN
from sparring.cluster.evaluation.subjects import pixels
from sparring.cluster.evaluation.workers import Pool
from sparring.cluster.machines import session
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig, Threat

THREAT = Threat("linf", 0.15)
BLOCK = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the network's training instead of the recipe's")
    parser.add_argument("--attack", default="autoattack")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/evaluate_scaling.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        changes = {"team": "local", "checkpoint.every": 10**6, **({"epochs": args.epochs} if args.epochs else {})}
        run = launch.train(
            recipe("at").replace(changes), runs_dir=Path(folder), name="at", how=Circumstances(quiet=True)
        )
        model, _ = load_agent(RunFolder(run.path), checkpoint="last")
        record = {**scaling(model, args, Path(folder), run.path), **unsharded(model, args)}
    record = {**circumstances(seed=0), "n": args.rounds, "attack": args.attack, **record}
    print(save("evaluate_scaling", record) if args.save else json.dumps(record))


def scaling(model: Any, args: argparse.Namespace, folder: Path, run: Path) -> dict[str, Any]:
    """Seconds per round on one and on two workers, interleaved; whether all files are equal, also on three and after kills."""
    split = load_test(DataConfig(), args.examples)
    attacking = Attacking({"model": model}, {}, (args.attack,), seed=0)

    def images(job: Job) -> Any:
        return pixels(split, job.start, job.stop)

    def done(*_: Any) -> None:
        """Nobody watches."""

    seconds: dict[int, list[float]] = {1: [], 2: []}
    contents: set[tuple[bytes, ...]] = set()
    session.start(num_cpus=4, object_store_memory=256 * 2**20)
    pools = {w: Pool(attacking, w, {}) for w in seconds}
    for r in range(args.rounds + 1):
        for w, pool in pools.items():
            jobs = jobs_of(folder / f"{r}-{w}", ["model"], [THREAT], args.examples, BLOCK)
            jobs = jobs if r else jobs[: 2 * w]  # a first round that only warms the workers
            started = time.perf_counter()
            pool.run(jobs, images, done)
            if r:
                seconds[w].append(time.perf_counter() - started)
                contents.add(tuple(job.path.read_bytes() for job in jobs))
    for pool in pools.values():
        pool.close()
    three = jobs_of(folder / "three", ["model"], [THREAT], args.examples, BLOCK)
    pool = Pool(attacking, 3, {})
    pool.run(three, images, done)
    pool.close()
    contents.add(tuple(job.path.read_bytes() for job in three))
    files, kills = killed(run, args)
    contents.add(files)
    ratios = [two / one for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "examples": args.examples,
        "seconds": {str(w): statistics.median(s) for w, s in seconds.items()},
        "samples": ratios,
        "ratio": statistics.median(ratios),
        "kills": kills,
        "identical_files": len(contents) == 1,
    }


def killed(run: Path, args: argparse.Namespace) -> tuple[tuple[bytes, ...], int]:
    """The files of an evaluation whose driver is killed -9 after one, two and three blocks, and started again each time.

    Also how many of the kills came before the end.
    """
    evaluate = (
        f"from sparring.cluster.evaluation.evaluation import evaluate_run; evaluate_run(RunFolder(Path({str(run)!r})), name='killed', "
        f"attacks=['clean', {args.attack!r}], threats=['{THREAT}'], examples={args.examples}, block={BLOCK}, checkpoint='last', masking=0)"
    )
    code = f"import sys; sys.path.insert(0, {str(CLONE)!r}); from pathlib import Path; from sparring.cluster.runs.folder import RunFolder; {evaluate}"
    place = run / "evaluation" / "killed"
    kills = 0
    for blocks in (1, 2, 3, None):
        process = subprocess.Popen([sys.executable, "-c", code])
        while blocks and len(list(place.rglob("*.parquet"))) < blocks and process.poll() is None:
            time.sleep(0.01)
        if blocks:
            process.kill()
        ended = process.wait()
        kills += ended == -signal.SIGKILL
        if ended == 0 or (place / "report.json").exists():
            break  # it was done before the signal came
        if not blocks or ended != -signal.SIGKILL:
            sys.exit(f"the evaluation ended with {ended}")
    jobs = jobs_of(place, ["model"], [THREAT], args.examples, BLOCK)
    return tuple(job.path.read_bytes() for job in jobs), kills


def unsharded(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Robust accuracy on the whole test split: in blocks, and by one call of the authors' code."""
    split = load_test(DataConfig(), None if args.attack == "autoattack" else 32)
    with tempfile.TemporaryDirectory() as folder:
        jobs = jobs_of(Path(folder), ["model"], [THREAT], len(split), 64)
        attacking = Attacking({"model": model}, {}, (args.attack,), seed=0)
        attack_here(attacking, jobs, lambda job: pixels(split, job.start, job.stop), lambda *_: None)
        columns = read_all(jobs)
    clean = columns["clean_prediction"] == columns["label"]
    blocks = float((clean & ~columns[f"{BROKEN}{args.attack}"]).double().mean())
    if args.attack != "autoattack":
        return {"blocks_robust": blocks}
    x, y = pixels(split, 0, len(split))
    once = AutoAttack(model, norm="Linf", eps=THREAT.eps, seed=0, version="standard")
    adv, _ = once.run_standard_evaluation(x, y, batch_size=len(x))
    with torch.no_grad():
        whole = float((model(adv).argmax(1) == y).double().mean())
    return {"blocks_robust": blocks, "one_call_robust": whole, "test_images": len(y)}


if __name__ == "__main__":
    main()
