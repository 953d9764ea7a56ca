"""The command as a user runs it: what it prints, its exit codes, and errors that say what to do."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sparring.cluster.commands import cli
from sparring.cluster.commands.asking import decimals
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from tests.conftest import Command
from tests.helpers import CLONE, PATIENCE, small_flags, started

REAL = CLONE.parent / "shared" / "data"
LOCAL = [*small_flags(max_steps=6), "--team=local"]


def test_a_run_from_train_to_evaluate(sparring: Command, tmp_path: Path) -> None:
    done = sparring("train", "mat", *LOCAL, "--peers=3", "--attack.eps", "38/255", "--json", "--name", "a")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"] == str(tmp_path / "runs" / "a")
    assert set(result["agents"]) == {"peer0", "peer1", "peer2"}
    assert set(result["agents"]["peer0"]) == {"clean", "robust"}
    assert "batch_size: 128 -> 32" in done.stderr  # what differs from the recipe
    assert "step 6/6, means of " in done.stderr
    assert "\n  peer2  hard " in done.stderr
    run = tmp_path / "runs" / "a"
    assert "eps: 0.14901960784313725" in (run / "config.yaml").read_text()
    env = json.loads((run / "env.json").read_text())
    assert env["versions"]["torch"]
    assert env["agents"]["peer0"]["steps_per_epoch"] == 41
    assert any((run / "tensorboard").iterdir())

    done = sparring(
        "evaluate",
        "runs/a",
        "--attacks=clean,fgsm,pgd-2",
        "--threat=linf:4/255",
        "--threat=l2:0.5",
        "--threat=l1:2",
        "--examples=30",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"clean_accuracy", "robust_accuracy", "ci95", "n", "threats"} <= set(report)
    assert list(report["agents"]["peer2"]["threats"]) == ["linf:0.0156863", "l2:0.5", "l1:2"]
    table = sparring("evaluate", "runs/a", "--attacks=fgsm", "--agent=peer1", "--examples=30", "--quiet")
    assert "peer1" in table.stdout
    assert "peer0" not in table.stdout
    assert table.stderr == ""

    assert "runs/a" in sparring("runs").stdout
    again = sparring("train", "mat", *LOCAL, "--name=a")
    assert again.returncode == 3
    assert "is never overwritten" in again.stderr
    assert "sparring resume runs/a" in again.stderr
    same = ("--peers=3", "--attack.eps", "38/255", "--name=a", "--resume-if-exists")
    assert sparring("train", "mat", *LOCAL, *same).returncode == 0
    assert sparring("fsck", "runs/a").returncode == 0
    next(run.glob("checkpoints/step-000006/agents/peer1/model.safetensors")).unlink()
    bad = sparring("fsck", "runs/a")
    assert bad.returncode == 5
    assert "step-000006/agents/peer1/model.safetensors is missing" in bad.stdout
    assert sparring("evaluate", "runs/a", "--agent=peer1", "--checkpoint=last").returncode == 5


MISTAKES = [
    (["trian"], 2, ["command 'trian' is unknown", "Did you mean 'train'?"]),
    (["train", "matt"], 2, ["'matt' is unknown", "Did you mean 'mat'?"]),
    (["train", "rslad"], 2, ["teacher does not learn and needs trained weights", "--agents.teacher.init RUN"]),
    (["train"], 2, ["train needs a recipe or a method first"]),
    (["train", "--epochs=2", "mat"], 2, ["comes first, before --epochs=2"]),
    (["train", "mat", "--method.temprature=2"], 2, ["--method.temprature", "--method.temperature"]),
    (["train", "mat", "--attack.eps=8"], 2, ["eps = 8 exceeds the pixel range", "8/255"]),
    (["train", "mat", "--peers=x"], 2, ["--peers 'x' is not allowed"]),
    (["train", "at", "--peers=2"], 2, ["method.peers is not a setting"]),
    (["train", "mat", "--network=smal_cnn"], 2, ["Did you mean 'small_cnn'?"]),
    (["train", "mat", "--team=local", "--data.name=digit"], 2, ["data.name = 'digit' is unknown", "digits"]),
    (["train", "mat", "--resume-if-exists"], 2, ["--resume-if-exists needs --name"]),
    (["train", "mat", "--team=local", "--name=../x"], 2, ["--name '../x' is not allowed"]),
    (["train", "-c", "none.yaml"], 2, ["none.yaml does not exist"]),
    (["resume", "runs/none"], 2, ["is not a run", "sparring runs"]),
    (["evaluate", "runs/none"], 2, ["is not a run", "here is no run or model"]),
    (["fsck", "runs/none"], 2, ["is not a run"]),
]


@pytest.mark.parametrize(("args", "code", "words"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_mistakes(args: list[str], code: int, words: list[str], sparring: Command, tmp_path: Path) -> None:
    """A sentence, the right exit code, no traceback, and nothing left on disk."""
    done = sparring(*args)
    assert done.returncode == code
    said = " ".join((done.stderr + done.stdout).replace("│", " ").split())
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("runs/*"))


def test_nan_stops_with_7_and_keeps_the_last_good_step(sparring: Command, tmp_path: Path) -> None:
    done = sparring(
        "train",
        "mat",
        *LOCAL,
        "--max-steps=60",
        "--optim.lr=1e30",
        "--optim.warmup=100",
        "--checkpoint.every=1",
        "--name=a",
    )
    assert done.returncode == 7, done.stderr
    assert "training stopped itself: peer" in done.stderr
    assert "step" in done.stderr
    assert "--optim.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert sparring("fsck", "runs/a").returncode == 0
    assert "step-0000" in done.stderr


def test_too_few_cpus_on_this_machine_is_said_before_anything_starts(tmp_path: Path) -> None:
    """Within ten seconds of a core's time, which other tests on this machine do not change: it waits for nothing."""
    cores = len(os.sched_getaffinity(0))
    asked = ["train", "mat", f"--placement.cpus-per-agent={cores}", "--max-steps=2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(CLONE / "sparring.py"), *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 6
    assert f"2 agents need {cores} CPU each" in done.stderr
    assert f"this machine: {cores} CPU" in done.stderr
    assert "--placement.cpus-per-agent" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_too_few_gpus(sparring: Command, ray_session: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = sparring("train", "mat", "--placement.gpus-per-agent=1", "--max-steps=2")
    assert done.returncode == 6
    assert "2 agents need 1 CPU, 1 GPU each" in done.stderr
    assert time.monotonic() - started < 10
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "sent", [signal.SIGTERM, *(pytest.param(s, marks=pytest.mark.soak) for s in (signal.SIGINT, signal.SIGUSR1))]
)
def test_signals_finish_the_step_save_and_exit_130(sent: int, tmp_path: Path) -> None:
    process = start(tmp_path, "--team=local", "--max-steps=5000")
    wait_for_step(tmp_path)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    assert "finishing this step and saving" in stderr
    assert "which is saved; continue with: sparring resume" in stderr
    saved = max(int(p.parent.name[5:]) for p in (tmp_path / "runs/a").glob("checkpoints/step-*/COMMITTED"))
    lines = (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["t"] == saved - 1  # no step was lost
    assert not (tmp_path / "runs/a/run.lock").exists()


@pytest.mark.soak
def test_ctrl_c_in_a_terminal_reaches_no_actor(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole process group, Ray's processes included; the step still ends and is saved."""
    process = start(tmp_path, "--max-steps=5000")
    wait_for_step(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    assert "which is saved" in stderr
    assert "lost" not in stderr


@pytest.mark.soak
def test_a_signal_during_start_up_exits_130_and_loses_nothing(sparring: Command, tmp_path: Path) -> None:
    """Three runs at a time, as they take long to start; each gets the signal so many seconds after its folder appears."""
    moments = {("local", 0.3): tmp_path / "1", ("ray", 0.3): tmp_path / "2", ("ray", 4.0): tmp_path / "3"}

    def signalled(case: tuple[str, float]) -> tuple[int, str]:
        (team, seconds), folder = case, moments[case]
        folder.mkdir()
        process = start(folder, f"--team={team}", "--max-steps=3000")
        while not (folder / "runs" / "a").exists():
            time.sleep(0.005)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=PATIENCE)
        return process.returncode, stderr

    with ThreadPoolExecutor() as pool:
        for returncode, stderr in pool.map(signalled, moments):
            assert returncode == 130, stderr
            assert "Traceback" not in stderr
    for folder in moments.values():
        assert (folder / "runs" / "a").is_dir()
        assert sparring("runs", f"--runs-dir={folder / 'runs'}").returncode == 0


@pytest.mark.soak
def test_resume_if_exists_refuses_another_run(sparring: Command) -> None:
    assert sparring("train", "mat", *LOCAL, "--name=a").returncode == 0
    done = sparring("train", "mat", *LOCAL, "--name=a", "--resume-if-exists", "--attack.eps=0.1", "--seed=3")
    assert done.returncode == 2
    assert "attack.eps: 0.15 -> 0.1; seed: 0 -> 3" in done.stderr
    again = sparring("train", "mat", *LOCAL, "--name=a", "--resume-if-exists", "--call-timeout=50")
    assert again.returncode == 0, again.stderr  # how it is carried out may differ


def test_a_run_that_goes_on_keeps_its_measure(sparring: Command, tmp_path: Path) -> None:
    """Asked for again by the default measure, a run that was begun by pgd goes on so and says it; margin-pgd is another run."""
    assert sparring("train", "at", *LOCAL, "--name=a", "--checkpoint.attack=pgd").returncode == 0
    path = tmp_path / "runs" / "a" / "config.yaml"
    path.write_text(path.read_text().replace("  attack: pgd\n", ""))
    done = sparring("train", "at", *LOCAL, "--name=a", "--resume-if-exists")
    assert done.returncode == 0, done.stderr
    assert "a goes on by pgd-2, as it was begun" in done.stderr
    assert "is complete already" in done.stderr
    done = sparring("train", "at", *LOCAL, "--name=a", "--resume-if-exists", "--checkpoint.attack=margin-pgd")
    assert "checkpoint.attack: pgd -> margin-pgd" in done.stderr


def test_a_file_without_a_measure_says_what_it_means(sparring: Command, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: at\n")
    said = "compared by pgd-2, as run.yaml names no other measure"
    assert said in sparring("train", "-c", "run.yaml", *LOCAL, "--dry-run").stderr
    assert said not in sparring("train", "-c", "run.yaml", *LOCAL, "--dry-run", "--checkpoint.attack=scaled-pgd").stderr
    assert said not in sparring("train", "at", *LOCAL, "--dry-run").stderr


@pytest.mark.soak
def test_nan_on_ray_too(sparring: Command, pooled: None) -> None:
    flags = [*small_flags(max_steps=60, checkpoint__every=1), "--optim.lr=1e30", "--optim.warmup=100"]
    done = sparring("train", "mat", *flags, "--name=a")
    assert done.returncode == 7, done.stderr
    assert "training stopped itself: peer" in done.stderr


@pytest.mark.soak
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "--team=local", "--max-steps=5000")
    wait_for_step(tmp_path)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert "stopped at once" in stderr


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CLONE / "sparring.py"), "train", "mat", *small_flags(), "--name=a", *flags]
    return started(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def wait_for_step(folder: Path, more_than: int = 2) -> None:
    path = folder / "runs" / "a" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines()[:-1] if path.exists() else []
        if lines and json.loads(lines[-1])["t"] > more_than:
            return
        time.sleep(0.02)
    raise AssertionError("training did not start")


@pytest.mark.soak
def test_agents_of_one_run_may_differ(sparring: Command, tmp_path: Path) -> None:
    own = ["--agents.peer1.network=small_cnn:width=6", "--agents.peer1.optim.lr=0.05"]
    done = sparring("train", "mat", *LOCAL, *own, "--name=a")
    assert done.returncode == 0, done.stderr
    assert "agents.peer1.network: None -> small_cnn:width=6" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()]
    assert [line["values"]["lr"] for line in lines[:2]] == [0.1, 0.05]
    log = (tmp_path / "runs/a/log.txt").read_text()
    assert "peer0: 1,702 parameters" in log
    assert "peer1: 3,628 parameters" in log
    started = sparring(
        "train", "at", *LOCAL, "--agents.model.init=runs/a@peer1", "--max-steps=1", "--optim.lr=1e-12", "--name=b"
    )
    assert started.returncode == 0, started.stderr
    states = [
        load_agent(RunFolder(tmp_path / "runs" / r), a)[0].state_dict() for r, a in (("a", "peer1"), ("b", "model"))
    ]
    assert torch.allclose(states[0]["fc.weight"], states[1]["fc.weight"], atol=1e-9)
    assert sparring("resume", "runs/a").returncode == 0
    wrong = sparring("train", "mat", *LOCAL, "--agents.peer0.init=runs/a")
    assert wrong.returncode == 2
    assert "has 2 products; name one (runs/a@AGENT): peer0, peer1, or ensemble" in wrong.stderr
    other = sparring(
        "train", "at", *LOCAL, "--agents.model.init=runs/a@peer1", "--agents.model.network=small_cnn:width=4"
    )
    assert other.returncode == 2
    assert "are of small_cnn:width=6 for 1 channels and 10 classes; the run wants small_cnn:width=4" in other.stderr
    typo = sparring("train", "mat", *LOCAL, "--agents.peer2.network=small_cnn")
    assert typo.returncode == 2


@pytest.mark.soak
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real images in {REAL}")
def test_mat_on_cifar10_with_resnet18(sparring: Command, real_cache: Path) -> None:
    """The recipe's plan, and two real steps of batch 8."""
    where = [f"--data.root={REAL}", f"--data.cache={real_cache}", "--team=local"]
    fresh = not real_cache.exists()
    plan = sparring("train", "mat-cifar10-resnet18", *where, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "peer1: 11,173,962 parameters" in plan.stdout
    assert "76600 steps" in plan.stdout  # 200 epochs of 49,000 images
    assert ("decoding cifar10 train, once: 50,000 of 50,000 images" in plan.stderr) == fresh
    done = sparring(
        "train",
        "mat-cifar10-resnet18",
        *where,
        "--batch-size=8",
        "--max-steps=2",
        "--data.validation=0.0002",
        "--no-report",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["agents"]) == {"peer0", "peer1"}


def test_the_example_network(sparring: Command) -> None:
    done = sparring("train", "mat", *LOCAL, f"--network={CLONE / 'examples' / 'own_network.py'}:mlp", "--name=a")
    assert done.returncode == 0, done.stderr
    assert "report: runs/a/report.html" in done.stdout


def test_own_network_and_own_data_from_files(sparring: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward((x if x.mean() < 0.4 else 1 - x).flatten(1))\n"
        "def net(config):\n"
        "    return Net(config.channels * config.height * config.width, config.classes)\n"
    )
    (tmp_path / "images.py").write_text(
        "import numpy as np\n"
        "def make():\n"
        "    x = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)\n"
        "    return x[:50], np.arange(50) % 4, x[50:], np.arange(10) % 4\n"
    )
    done = sparring("train", "mat", *LOCAL, "--network=net.py:net", "--data.name=images.py:make", "--name=a")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("(its forward cannot be traced or has hooks, and runs as it is, slower) on") == 2
    assert sparring("evaluate", "runs/a", "--attacks=fgsm").returncode == 0
    kept = [c["file"] for c in json.loads((tmp_path / "runs/a/env.json").read_text())["code"]]
    assert sorted(kept) == [f"{tmp_path}/images.py", f"{tmp_path}/net.py"]


def test_dry_run_of_lanes_on_ray(ray_session: str, sparring: Command) -> None:
    """One process measures the step; the bundles are those of the lanes."""
    done = sparring(
        "train", "mat", "--lanes=2", "--dry-run", "--json", "--placement.cpus-per-agent=0.5", "--device=cpu"
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["agents"]["peer1"]["bundle"] == {"CPU": 0.5}
    assert plan["config"]["lanes"] == 2


def test_dry_run(sparring: Command, tmp_path: Path) -> None:
    done = sparring("train", "mat", "--team=local", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["steps"] == 440
    assert plan["exchange_bytes_per_step"]["peer0"] == 128 * (64 + 2 * 10) * 4
    assert not (tmp_path / "runs").exists()
    text = sparring("train", "mat", "--team=local", "--dry-run").stdout
    assert "peer1: 53,362 parameters" in text
    assert "440 steps" in text
    absent = sparring("train", "mat", "--team=local", "--dry-run", "--data.name=cifar10")
    assert absent.returncode == 4
    assert "nothing is downloaded here" in absent.stderr
    assert not any(tmp_path.iterdir())


def test_lists(sparring: Command) -> None:
    assert "no runs here; make one with: " in sparring("runs").stdout
    assert "Mutual adversarial training" in sparring("methods").stdout
    assert "mat-digits" in sparring("recipes").stdout
    assert sparring("recipes", "mat-digits").stdout.startswith("recipe: mat-digits\nmethod:\n  name: mat\n")


def test_doctor(sparring: Command) -> None:
    done = sparring("doctor")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert {line.split()[0] for line in lines} <= {"ok", "warn", "fix"}
    for name in ("python", "torch", "ray", "cuda", "disk", "ray port", "token"):
        assert any(name in line for line in lines)


@pytest.mark.parametrize("args", [["--help"], *([c, "--help"] for c in cli.COMMANDS)], ids=" ".join)
def test_help_is_quick_and_costs_no_torch(args: list[str]) -> None:
    """Half a second of a core; on a slower or busy one four times what importing the parser's own libraries takes beside it.

    Of pairs, since a short command finds a quiet moment sooner than a long one; typeguard is what tyro imports at its first question.
    """
    clock = "import sys, time; start = time.process_time(); {}; print(time.process_time() - start, file=sys.stderr); "
    help_ = (
        "sys.path.insert(0, sys.argv[1]); from sparring.cluster.commands.main import main; code = main(sys.argv[2:])"
    )
    codes = [
        clock.format("import tyro, typeguard, yaml"),
        clock.format(help_) + "assert not {'torch', 'ray'} & set(sys.modules); sys.exit(code)",
    ]
    least = float("inf")
    for _ in range(6):  # other tests take turns with it: the best pair counts
        took = []
        for code in codes:
            done = subprocess.run(
                [sys.executable, "-c", code, str(CLONE), *args], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            took.append(float(done.stderr.splitlines()[-1]))
        assert "usage" in done.stdout
        libraries, whole = took
        least = min(least, whole / max(0.5, 4 * libraries))
        if least < 1:
            break
    assert least < 1, f"{least:.2f} of what it may take"


def test_version(sparring: Command) -> None:
    told = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["version"]
    assert sparring("--version").stdout == f"sparring {told}\n"


def test_a_reader_that_has_seen_enough() -> None:
    """Nobody reads on: no traceback, however early that is."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(CLONE / "sparring.py"), "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_train_help_names_the_methods_own_flags(sparring: Command) -> None:
    assert "--method.temperature" in sparring("train", "mat", "--help").stdout
    assert "--method.temperature" not in sparring("train", "at", "--help").stdout


def test_fractions() -> None:
    given = [
        "2024/11",
        "--attack.eps",
        "8/255",
        "--attack.eps=8/255",
        "--threat",
        "linf:8/255",
        "--x",
        "1/0",
        "--y=a/b",
    ]
    expected = [*given[:2], repr(8 / 255), f"--attack.eps={8 / 255!r}", *given[4:]]
    assert decimals(given) == expected
