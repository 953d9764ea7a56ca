"""PeerAiD's claim on digits: the peer is good on the student's adversarial examples and has no robustness of its own.

python benchmarks/peeraid_matrix.py [--steps 300] [--save]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import circumstances, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/peeraid_matrix.json")
    args = parser.parse_args()
    config = recipe("peeraid").replace({"team": "local", "max_steps": args.steps})
    with tempfile.TemporaryDirectory() as folder:
        run = launch.train(config, runs_dir=Path(folder), name="run", how=Circumstances(quiet=True))
        report = evaluate_run(
            RunFolder(run.path), attacks=["clean", "pgd-20"], agents=["peer", "student"], checkpoint="last", cross=True
        )
    cross = report["cross"]
    record = {
        **circumstances(seed=config.seed),
        "n": report["agents"]["student"]["n"],
        "steps": args.steps,
        "attack": f"{cross['attack']}, {cross['threat']}",
        "agents": cross["agents"],
        "clean": [report["agents"][a]["clean_accuracy"] for a in cross["agents"]],
        "accuracy": cross["accuracy"],
    }
    print(save("peeraid_matrix", record) if args.save else json.dumps(record))


if __name__ == "__main__":
    main()
