"""What is said, and kept for whoever looks later: why a run stopped, what of a schedule never happens, which cores count."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import ray

from sparring.cluster.evaluation.attacking import Attacking
from sparring.cluster.evaluation.workers import Pool, share_of
from sparring.cluster.machines.cores import usable
from sparring.trainers.config import OptimConfig
from sparring.trainers.optim import never
from tests.conftest import Command
from tests.helpers import small_flags
from tests.hosts import wait_for

FLAGS = [*small_flags(max_steps=6), "--team=local", "--no-report"]


def test_why_a_run_stopped_stands_in_its_folder(sparring: Command) -> None:
    """awslabs/graphstorm#1194, Learning-and-Intelligent-Systems/predicators#580."""
    done = sparring("train", "at", *FLAGS, "--optim.lr=1e9", "--name=r")
    assert done.returncode == 7
    said = done.stderr.strip().splitlines()[-1].removeprefix("sparring: ")
    last = (Path("runs") / "r" / "log.txt").read_text().splitlines()[-1]
    assert last.partition(" ended: ")[2] == " ".join(said.split())
    ended = json.loads(Path("runs/r/env.json").read_text())["ended"]
    assert "training stopped itself" in ended["what"]
    assert ended["step"] < 6


def test_a_run_that_went_on_forgets_why_it_had_stopped(sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.cluster.training.monitors import Monitors

    real = Monitors.step

    def stopping(self: Monitors, t: int, metrics: object) -> object:
        if t == 3:
            os.kill(os.getpid(), 2)
        return real(self, t, metrics)  # type: ignore[arg-type]

    monkeypatch.setattr(Monitors, "step", stopping)
    assert sparring("train", "at", *FLAGS, "--name=r").returncode == 130
    assert "stopped after step" in json.loads(Path("runs/r/env.json").read_text())["ended"]["what"]
    monkeypatch.setattr(Monitors, "step", real)
    assert sparring("resume", "runs/r").returncode == 0
    assert "ended" not in json.loads(Path("runs/r/env.json").read_text())


@pytest.mark.parametrize(
    ("options", "epochs", "words"),
    [
        ({"schedule": "multistep", "milestones": (15, 18)}, 5, "no drop of the learning rate falls into 5 epochs"),
        ({"schedule": "multistep", "milestones": (3, 18)}, 5, r"drops at [18] do not fall into 5 epochs"),
        ({"schedule": "multistep", "milestones": (3, 4)}, 5, None),
        (
            {"schedule": "multistep", "min_lr": 0.01},
            5,
            "does not end at optim.min_lr = 0.01; optim.schedule is multistep",
        ),
        ({"schedule": "linear", "min_lr": 0.01}, 5, None),
        ({"warmup": 6.0}, 5, "warm-up does not end within 5 epochs"),
        ({"swa": True, "swa_start": 5}, 5, "no weight enters the average (SWA)"),
        ({"awp": 0.01, "awp_warmup": 5}, 5, "weights are never perturbed (AWP)"),
    ],
)
def test_schedules_that_never_fire(options: dict[str, object], epochs: int, words: str | None) -> None:
    """yaodongyu/TRADES#11, IDEA-Research/detrex#214: the length was changed, the epochs of the drops were not."""
    said = never(OptimConfig(**options), epochs)  # type: ignore[arg-type]
    assert len(said) == (words is not None)
    assert words is None or words in said[0]


def test_they_are_said_at_the_start(sparring: Command) -> None:
    flags = ["--optim.schedule=multistep", "--optim.milestones", "15", "18"]
    done = sparring("train", "at", *FLAGS, *flags)
    assert done.returncode == 0, done.stderr
    assert "note, model: no drop of the learning rate falls into 0.1" in done.stderr


def test_cores_are_those_that_this_process_may_use(tmp_path: Path, sparring: Command) -> None:
    """ray-project/ray#34846, verl-project/verl#1009, ArcInstitute/cell-eval#235."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable() == 1
        cores = [c for c in json.loads(sparring("doctor", "--json").stdout)["checks"] if c["name"] == "cores"]
        assert cores[0]["text"].startswith("1 ")
    finally:
        os.sched_setaffinity(0, before)
    own = next(li for li in Path("/proc/self/cgroup").read_text().splitlines() if li.startswith("0::"))
    group = tmp_path / own.removeprefix("0::").lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text("50000 100000\n")
    assert usable(tmp_path) == 1
    (group / "cpu.max").write_text("max 100000\n")
    assert usable(tmp_path) == len(before)


def test_workers_of_an_evaluation_ask_for_the_cores_that_their_threads_use(ray_session: str) -> None:
    """So that they spread by capacity, and W of them never start W times this process's threads."""
    assert [share_of(8, w, at_most=3) for w in (1, 2, 3, 4, 8, 16)] == [
        (3, 3),
        (3, 3),
        (2, 2),
        (2, 2),
        (1, 1),
        (1, 0.5),
    ]
    assert share_of(2, 3, at_most=2) == (1, 0.66)
    present = ray.cluster_resources()["CPU"]
    pool = Pool(Attacking({}, {}, (), 0), 2, {})
    try:
        threads = ray.get([w.threads.remote() for w in pool.workers])
        assert threads == [1, 1]  # as many as this process has
        wait_for(lambda: ray.available_resources().get("CPU", 0) == present - 2, seconds=20)
    finally:
        pool.close()


def test_a_report_leaves_the_runs_curves_to_the_run(sparring: Command) -> None:
    """A second file of events in the folder would hide what the run writes later from TensorBoard's reader."""
    assert sparring("train", "at", *FLAGS, "--name=r", "--quiet").returncode == 0
    board = Path("runs/r/tensorboard")
    before = sorted(p.name for p in board.iterdir())
    assert sparring("report", "runs/r", "--examples=8").returncode == 0
    assert sorted(p.name for p in board.iterdir()) == [*before, "report"]
    assert len(list((board / "report").iterdir())) == 1


def test_a_strange_folder_hides_no_run(sparring: Command) -> None:
    """facebookresearch/fairseq#4133, hydra-ecosystem/hydra#2103: another tool's config.yaml in the folder of runs."""
    assert sparring("train", "at", *FLAGS, "--name=r", "--quiet").returncode == 0
    for name, text in (("hydra", "lr: 0.1\n"), ("list", "- 1\n"), ("broken", "a: [\n"), ("bytes", "\x00")):
        (Path("runs") / name).mkdir()
        (Path("runs") / name / "config.yaml").write_text(text)
    done = sparring("runs")
    assert done.returncode == 0, done.stderr
    assert "runs/r" in done.stdout
    assert done.stdout.count("its config.yaml is no run's") == 4


@pytest.mark.soak
def test_a_finished_search_goes_on_with_more_trials(sparring: Command, ray_session: str) -> None:
    """ray-project/ray#20886, #42221, #14779."""
    flags = [f for f in FLAGS if f != "--no-report"]
    search = ("tune", "at", *flags, "--search.optim.lr=uniform(0.01, 0.1)", "--scheduler=fifo", "--name=s", "--quiet")
    first = sparring(*search, "--trials=1", "--json")
    assert first.returncode == 0, first.stderr
    more = sparring(*search, "--trials=2", "--resume", "--json")
    assert more.returncode == 0, more.stderr
    before, after = (json.loads(done.stdout)["trials"] for done in (first, more))
    assert len(after) == 2
    assert after[0] == before[0]
    fewer = sparring(*search, "--trials=1", "--resume")
    assert fewer.returncode == 2
    assert "trials: 2 -> 1" in fewer.stderr


@pytest.mark.soak
def test_swapped_teachers_are_named(sparring: Command) -> None:
    """goldblum/AdversariallyRobustDistillation#6, #8, zhaoshiji123/MTARD#8."""
    train = ["--team=local", "--no-report", "--quiet", "--network=small_cnn:width=8", "--checkpoint.every=1000"]
    assert sparring("train", "at", *train, "--epochs=15", "--name=robust").returncode == 0
    assert sparring("train", "clean", *train, "--epochs=15", "--name=clean").returncode == 0
    given = {"clean-teacher": "clean", "robust-teacher": "robust"}

    def flags(**roles: str) -> list[str]:
        return [f"--agents.{role}.init=runs/{roles.get(role.replace('-', '_'), run)}" for role, run in given.items()]

    right = sparring("train", "mtard", *FLAGS, *flags(), "--name=a")
    assert right.returncode == 0, right.stderr
    assert "are they swapped?" not in right.stderr
    assert "under scaled-pgd-10, linf:0.15" in right.stderr
    swapped = sparring("train", "mtard", *FLAGS, *flags(clean_teacher="robust", robust_teacher="clean"), "--name=b")
    assert "WARNING: robust_teacher holds under scaled-pgd-10, linf:0.15 on " in swapped.stderr
    assert "are they swapped?" in swapped.stderr
    kept = json.loads(Path("runs/b/env.json").read_text())["teachers"]
    assert kept["robust_teacher"]["attacked_accuracy"] < kept["clean_teacher"]["attacked_accuracy"]
