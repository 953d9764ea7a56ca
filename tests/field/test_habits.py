"""Names, folders and files as people mistype and have them; what a person waits for, and reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from rich.console import Console
from torch import nn

from sparring.agents import robustness
from sparring.agents.spec import Facts
from sparring.cluster import terminal
from sparring.cluster.config.environment import cpu
from sparring.cluster.config.measuring import measure, per_image, per_step
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.settings import Placement
from sparring.cluster.errors import Interrupted
from sparring.cluster.evaluation import evaluation
from sparring.cluster.evaluation.direct import canonical
from sparring.cluster.machines import placement, session
from sparring.cluster.machines.fitting import Node
from sparring.cluster.pretraining import pretrain
from sparring.cluster.runs import listing
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.team import assemble
from sparring.cluster.training import launch, plan, progress
from sparring.cluster.training.job import Circumstances
from sparring.cluster.training.live import LiveView
from sparring.serve import catalogue
from sparring.trainers.types import Metrics
from tests.conftest import Command
from tests.helpers import CLONE, small, small_flags

LOCAL = ["--team=local", "--no-report"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(
            ("CLEAN", "clean"),
            ("pgd20", "pgd-20"),
            ("PGD-20", "pgd-20"),
            ("pgd_20x5", "pgd-20x5"),
            ("aa", "autoattack"),
        ),
        *(("Square5000", "square-5000"), ("scaled_pgd20", "scaled-pgd-20"), ("transfer:runs/A", "transfer:runs/A")),
    ],
)
def test_attacks_as_people_write_them(written: str, meant: str) -> None:
    assert canonical(f" {written} ") == meant


def test_radii_as_people_write_them(sparring: Command) -> None:
    assert terminal.radius("linf:0.0313725") == "linf:8/255"
    assert terminal.radius("linf:0.15") == "linf:0.15"
    assert terminal.radius("l2:0.5019608") == "l2:0.5019608"
    assert sparring("train", "at", *small_flags(max_steps=1), *LOCAL, "--name=r").returncode == 0
    done = sparring("evaluate", "r", "--attacks=FGSM,clean", "--threat=linf:8/255", "--examples=8", "--masking=0")
    assert "linf:8/255" in done.stdout
    assert "0.0313" not in done.stdout


REFUSED: list[tuple[list[str], int, str]] = [
    (["--runs-dir=/proc/x"], 2, "--runs-dir /proc/x cannot be written (No such file or directory); choose another"),
    (
        [f"--name={'a' * 200}"],
        2,
        f"--name '{'a' * 40}'... (200 characters; 128 at most) is not allowed; use letters, digits",
    ),
    (["--network=small_cnn:width=1e3"], 2, "width = 1000.0 is not allowed; expected a whole number of 1 or more"),
    (["--data.cache=/proc/cache"], 4, "decoded images cannot be kept in /proc/cache"),
]


@pytest.mark.parametrize(("flags", "code", "words"), REFUSED, ids=[r[0][0][:12] for r in REFUSED])
def test_what_is_refused_in_one_sentence(flags: list[str], code: int, words: str, sparring: Command) -> None:
    done = sparring("train", "at", *small_flags(max_steps=1), *LOCAL, *flags)
    assert done.returncode == code
    assert words in done.stderr
    assert "Errno" not in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# Title\n\n- [x] a: b: c\n", "is not plain YAML (line 3); expected a run's config.yaml, or what"),
        ("", "must hold a mapping of settings, seen nothing; expected"),
        ("just words", "must hold a mapping of settings, seen str"),
        (None, "cannot be read (Is a directory); expected a run's config.yaml"),
    ],
    ids=["a page", "empty", "words", "a folder"],
)
def test_files_that_are_no_configuration(content: str | None, words: str, sparring: Command, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.mkdir() if content is None else path.write_text(content)
    done = sparring("train", "-c", "given")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2  # that it loads, and the sentence


def test_a_pickled_file_says_what_to_write(sparring: Command, tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "whole.pt")
    done = sparring("evaluate", "whole.pt", "--network=small_cnn", "--threat=linf:0.1")
    assert done.returncode == 5
    assert "torch.save(model.state_dict(), 'weights.pt')" in done.stderr
    assert "\x1b" not in done.stderr


def test_verify_of_nothing(sparring: Command, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = sparring("verify", "folder")
    assert done.returncode == 2
    assert "folder is neither an evaluation (no settings.json) nor a run (no config.yaml)" in done.stderr


def test_sockets_fit_below_a_long_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path may have 107 bytes in Linux; TMPDIR of a batch system is often long."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: "/scratch/" + "j" * 61)
    assert session._short_folder() == {"_temp_dir": "/tmp/ray"}
    asked: dict[str, Any] = {}

    def started(**options: Any) -> SimpleNamespace:
        asked.update(options)
        return SimpleNamespace(address_info={"address": "nowhere:1"})

    monkeypatch.setattr(ray, "init", started)
    session.start()
    assert asked["_temp_dir"] == "/tmp/ray"
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: "/tmp")
    assert session._short_folder() == {}


def test_agents_share_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three agents of a distillation on a laptop of two cores."""
    monkeypatch.setattr(placement, "usable", lambda: 2)
    wanted, said = placement.on_one_machine(Placement(), 3)
    assert wanted.cpus_per_agent == 0.66
    assert said == "3 agents share this machine's 2 cores (0.66 each)"
    assert placement.on_one_machine(Placement(), 2) == (Placement(), None)
    asked = Placement(cpus_per_agent=2)
    assert placement.on_one_machine(asked, 3) == (asked, None)  # what is asked for is not changed


class _Reached(Exception):
    """What is looked at lies behind."""


def test_training_and_pretraining_share_a_small_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to where Ray would be started."""

    def reached(*args: Any) -> None:
        raise _Reached

    monkeypatch.setattr(session, "brings_its_own", lambda address: True)
    monkeypatch.setattr(session, "connected", reached)
    monkeypatch.setattr(placement, "usable", lambda: 1)
    monkeypatch.setattr(placement, "this_machine", lambda: Node("here", {"CPU": 1.0}, {}))
    with pytest.raises(_Reached), assemble.team_of(small("mat", placement__cpus_per_agent=1.0), quiet=False):
        pass
    assert "2 agents share this machine's 1 core (0.5 each)" in capsys.readouterr().err
    with pytest.raises(_Reached):
        pretrain.pretrain(small("at", placement__cpus_per_agent=1.0), workers=2, runs_dir=tmp_path)
    assert "2 agents share this machine's 1 core (0.5 each)" in capsys.readouterr().err


def test_only_code_is_shipped() -> None:
    """ray-project/ray#38566, #45602, komikndr/raylight#23: a large file beside the code, and no cluster takes it."""
    shipped = session.shipped()
    beside = {path.name for path in CLONE.iterdir()} - set(session.OURS)
    assert {f"/{name}" for name in beside} <= set(shipped["excludes"])
    files, size = session.shipped_size()
    assert 100 < files < 500
    assert size < 5 * 2**20


def test_looking_costs_a_tenth_of_training() -> None:
    """Counted in passes, so that what a run decides does not depend on the speed of a machine."""
    config = recipe("mat-cifar10-resnet18")
    by = config.measure
    spent = config.checkpoint.every * per_step(config)
    assert by.images is not None
    assert 0.09 * spent < by.images * per_image(by, config) <= 0.1 * spent
    assert config.replace({"max_steps": 2, "batch_size": 4}).measure.images == 32
    assert config.replace({"checkpoint.looking": 0}).measure.images is None
    assert measure(config, config.threats) == by
    assert small().checkpoint.going_on(small(checkpoint__looking=0.0).checkpoint).looking == 0  # as it was begun


def test_networks_are_compared_on_so_many_images_and_not_before_training(
    monkeypatch: pytest.MonkeyPatch, sparring: Command
) -> None:
    """Never at step 0; from the first checkpoint on, on what the budget allows, which is said."""
    seen: list[int] = []
    real = robustness.correct

    def counted(model: nn.Module, split: Any, *rest: Any) -> Any:
        seen.append(len(split))
        return real(model, split, *rest)

    monkeypatch.setattr(robustness, "correct", counted)
    monkeypatch.setattr(progress, "SLOW", 0.0)  # else only what takes long is said
    done = sparring(
        "train", "at", *small_flags(max_steps=10, checkpoint__every=5), "--team=local", "--name=r", "--no-report"
    )
    assert done.returncode == 0, done.stderr
    lines = Path("runs/r/validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["t"] for line in lines] == [5, 10]
    assert set(seen) == {32}
    assert "comparing networks on 32 held-out images at most" in done.stderr


def test_the_report_of_a_short_run_is_short(sparring: Command) -> None:
    done = sparring("train", "mat", *small_flags(max_steps=2), "--team=local", "--name=r")
    assert done.returncode == 0, done.stderr
    assert "report: 2 agents, 4 of 364 test images" in done.stderr
    report = json.loads(Path("runs/r/report.json").read_text())
    assert report["n"] == 4
    assert len(report["agents"]["peer0"]["curve"]) == 2
    assert Path("runs/r/report.html").is_file()


@pytest.mark.parametrize("command", [["train", "at", "--dry-run"], ["report", "runs/none"]])
def test_a_line_within_a_second(command: list[str], tmp_path: Path) -> None:
    """Of a core's time, which other tests do not change."""
    process = subprocess.Popen(
        [sys.executable, str(CLONE / "sparring.py"), *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == f"sparring {command[0]}: loading\n"
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 1.5
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        *((command, 0) for command in (["runs"], ["recipes"], ["methods"], ["fsck", "runs/r"], ["evaluate", "--help"])),
        *((["serve", flag], 2) for flag in ("--port=70000", "--predictors=0", "--threads=0", "--gpus=-1", "--batch=0")),
    ],
)
def test_lists_and_wrong_flags_need_neither_torch_nor_ray(command: list[str], status: int, tmp_path: Path) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "config.yaml").write_text("method: {name: at}\n")
    code = (
        "import sys, time; sys.argv = sys.argv[1:]; import sparring\n"
        "code = sparring.main()\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'imported'\n"
        "assert time.process_time() < 2\n"  # its own, whatever other children of this process end meanwhile
        "raise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sparring", *command],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CLONE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr


def test_the_table_of_recipes_is_that_of_the_recipes() -> None:
    assert json.loads(listing.TABLE.read_text()) == {
        "methods": list(listing.methods()),
        "recipes": listing.listed(),
    }


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_view_fits(width: int) -> None:
    """As many columns as there is room for, none of them cut; where an agent's time goes stands below when it has no column."""
    with open(os.devnull, "w") as nowhere:
        view = LiveView(Console(file=nowhere, width=width, force_terminal=True), total=44000)
        values = {"hard": 2.123, "own_sample": 0.01843, "peer_sample": 0.02007, "robust_accuracy": 0.43, "total": 2.8}
        seconds = {"craft": 0.6, "answer": 0.1, "predict": 0.1, "learn": 0.1, "exchange": 0.05, "idle": 0.05}
        metrics = {f"peer{i}": Metrics(values, 10, seconds) for i in range(2)}
        shown = view.render(9, metrics, epoch="epoch 1/200", per_second=1234, eta="3h20m")
        view.close()
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(shown)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in ("agent", "loss", "robust acc", "43.0%", "images/s", "craft 60%", "step 10/44000", "eta 3h20m"):
        assert part in text
    assert "…" not in text
    assert ("peer sample" in text) == (width > 60)


def test_a_dry_run_names_its_device_and_starts_no_ray(tmp_path: Path) -> None:
    command = [sys.executable, str(CLONE / "sparring.py"), "train", "mat", "--peers=5", "--dry-run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    low, high = plan["seconds_one_process"]
    assert 0 < low < high
    assert "the cluster gets" not in plan["text"]
    assert plan["activation_bytes_per_agent"] > 0
    assert plan["device"].endswith("1 thread")
    assert cpu()
    assert cpu() in plan["device"]
    cores = len(os.sched_getaffinity(0))
    if cores < 5:
        assert f"5 agents share this machine's {cores} core" in plan["text"]
        assert plan["agents"]["peer4"]["bundle"] == {"CPU": int(100 * cores / 5) / 100}


def test_a_dry_run_tells_a_steps_overhead_from_what_its_images_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 1 s and 0.1 s an image: from one size of batch alone nobody knows which it is."""

    def measured(probe: RunConfig) -> plan.Probe:
        return plan.Probe(probe.batch_size, {}, {"model": facts}, 1 + 0.1 * probe.batch_size, kept=0)

    facts = Facts(
        steps_per_epoch=1, total_steps=1, data_sha256="", classes=10, parameters=1, device="cpu", host="here", pid=1
    )
    monkeypatch.setattr(plan, "_measure", measured)
    said = plan.dry_run(small("at", team="local", batch_size=64, max_steps=100))
    low, high = said["seconds_one_process"]
    assert low < 100 * 7.4 < high
    assert high < 2 * 100 * 7.4


def test_a_dry_run_says_what_a_cluster_would_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_bundles", lambda config: ({}, None))  # no cluster is there to be asked
    count, size = session.shipped_size()
    said = plan.dry_run(small("at", address="10.0.0.1:6379"))["text"]
    assert f"the cluster gets our code ({count} files, {size / 2**20:.1f} MiB) and the files that the run names" in said
    assert 100 < count < 1000


@pytest.mark.parametrize(
    ("command", "begins"),
    [
        (["evaluate", "r"], "sparring.cluster.evaluation.evaluation.evaluate_target"),
        (["resume", "r"], "sparring.cluster.training.launch.go_on"),
        (["pretrain", "at", *small_flags()], "sparring.cluster.pretraining.pretrain.pretrain"),
    ],
)
def test_a_time_budget_is_that_of_what_it_was_given_to(
    command: list[str], begins: str, sparring: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal after it reaches what runs, which then stops as after Ctrl-C."""
    launch.train(small("at", team="local", max_steps=1), runs_dir=tmp_path, name="r", how=Circumstances(quiet=True))
    came: list[int] = []

    def endless(*_: Any, **__: Any) -> None:
        assert signal.sigtimedwait({signal.SIGTERM}, 20), "no signal came"
        came.append(signal.SIGTERM)
        raise Interrupted("stopped")

    monkeypatch.setattr(begins, endless)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        done = sparring(*command, "--time-budget=0.1")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert (done.returncode, came) == (130, [signal.SIGTERM])
    assert "the time budget of 0.1 s is used up" in done.stderr


def test_an_evaluation_goes_on_under_any_spelling_of_its_attacks(tmp_path: Path) -> None:
    """``PGD3`` and ``pgd-3`` are one setting, and written down as one."""
    run = launch.train(
        small("at", team="local", max_steps=1), runs_dir=tmp_path, name="r", how=Circumstances(quiet=True)
    )
    report = evaluation.evaluate_run(RunFolder(run.path), attacks=["CLEAN", "PGD3"], examples=64, masking=0)
    (written,) = run.path.glob("evaluation/*/settings.json")
    assert json.loads(written.read_text())["attacks"] == ["clean", "pgd-3"]
    assert report["n"] == 64


@pytest.mark.soak
def test_a_time_budget_stops_what_can_go_on(sparring: Command) -> None:
    flags = [*small_flags(max_steps=4000), "--checkpoint.every=100", *LOCAL, "--name=r"]
    done = sparring("train", "at", *flags, "--time-budget=12")
    assert done.returncode == 130
    assert "the time budget of 12 s is used up" in done.stderr
    assert "sparring resume runs/r" in done.stderr


def test_the_headline_of_a_card_is_the_threat_trained_for() -> None:
    seen = {"robust_accuracy": 0.4, "ci95": [0.3, 0.5], "attacks": {}}
    measured = {
        "clean_accuracy": 0.9, "robust_accuracy": 0.1, "ci95": [0.05, 0.2], "n": 100, "attacks": ["pgd-20"], "flags": [],
        "threats": {"linf:0.15": seen, "l2:2": {**seen, "robust_accuracy": 0.1}},
    }  # fmt: skip
    shown = catalogue.robustness({"threats": ["linf:0.15"], "evaluations": [measured]})
    assert shown is not None
    assert (shown["robust_accuracy"], shown["threats"]) == (0.4, ["linf:0.15"])
    union = catalogue.robustness({"threats": [], "evaluations": [measured]})
    assert union is not None
    assert (union["robust_accuracy"], union["threats"]) == (0.1, ["linf:0.15", "l2:2"])
