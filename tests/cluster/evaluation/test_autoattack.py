"""AutoAttack per block: the flags of its authors' code called directly, however many workers, however often killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn

from sparring.cluster.evaluation import verify, workers
from sparring.cluster.evaluation.attacking import Attacking, Job, jobs_of
from sparring.cluster.evaluation.block import evaluate_block, read
from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.evaluation.named_attacks import Block, comparable
from sparring.cluster.evaluation.subjects import pixels
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig, Threat
from tests.helpers import CLONE, TinyNet, shorten_autoattack, small

THREAT = Threat("linf", 0.12)
OPTIONS: dict[str, Any] = {"attacks": ["clean", "pgd-5", "square-50"], "threats": ["linf:0.12"], "block": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = small("at", team="local", max_steps=60, network="small_cnn:width=8", checkpoint__every=60)
    return RunFolder(launch.train(config, runs_dir=tmp_path_factory.mktemp("runs"), how=Circumstances(quiet=True)).path)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["short", "as-published"])
def test_flags_are_those_of_the_authors_code_called_on_the_block(
    whole: bool, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        shorten_autoattack(monkeypatch)
    model, _ = load_agent(folder)
    split = load_test(DataConfig(), 8)
    x, y = split.pixels(), split.all_labels()
    block = Block(x, y, 3, seed=7)
    both = ["autoattack", "autoattack-reference"]
    outcome = evaluate_block(model, block, attacks=both, threat=THREAT)
    direct = AutoAttack(
        model.eval(), norm="Linf", eps=THREAT.eps, seed=block.seed_for("autoattack"), version="standard"
    )
    adv, _ = direct.run_standard_evaluation(x, y, batch_size=len(x))
    with torch.no_grad():
        expected = (model(x).argmax(1) == y) & (model(adv).argmax(1) != y)
    for name in both:
        assert torch.equal(outcome.broken[name], expected), name
    assert 0 < int(expected.sum()) < len(y)


@pytest.mark.soak
def test_the_caller_is_not_disturbed(folder: RunFolder) -> None:
    model, _ = load_agent(folder)
    model.train()
    split = load_test(DataConfig(), 8)
    torch.manual_seed(5)
    before = (torch.get_rng_state().clone(), [m.training for m in model.modules()], sys.gettrace())
    weights = [p.detach().clone() for p in model.parameters()]

    def trace(frame: Any, event: str, arg: Any) -> None:
        return None

    sys.settrace(trace)
    try:
        evaluate_model(model, split, attacks=["square-20", "autoattack", "autoattack-reference"], threats=[THREAT])
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert [m.training for m in model.modules()] == before[1]
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.soak
def test_few_classes_run_the_supported_subset_and_say_so() -> None:
    for classes in (2, 3, 4):
        model = TinyNet(classes=classes).eval()
        x = torch.rand(6, 1, 8, 8)
        with torch.no_grad():
            y = model(x).argmax(1)
        outcome = evaluate_block(model, Block(x, y, 0, 0), attacks=["autoattack"], threat=Threat("linf", 0.3))
        assert outcome.broken["autoattack"].shape == (6,)
        assert not comparable("autoattack", classes)
    assert comparable("autoattack", 10)


def columns(run: RunFolder, name: str) -> list[bytes]:
    files = sorted((run.path / "evaluation" / name / "blocks").rglob("*.parquet"))
    assert files
    return [f.read_bytes() for f in files]


def test_any_number_of_workers_gives_the_same_files(folder: RunFolder, ray_session: str) -> None:
    reports = {w: evaluate_run(folder, examples=64, name=f"w{w}", workers=w, **OPTIONS) for w in (0, 1, 3)}
    first = columns(folder, "w0")
    assert len(first) == 4
    for w, report in reports.items():
        assert columns(folder, f"w{w}") == first
        assert report["agents"] == reports[0]["agents"]
        assert report["blocks"] == reports[0]["blocks"]
        assert verify.evaluation(folder.path / "evaluation" / f"w{w}").problems == []


def test_a_dead_workers_block_is_done_again(
    folder: RunFolder, ray_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Any] = []
    real = workers.Pool.__init__

    def spy(pool: Any, *args: Any) -> None:
        real(pool, *args)
        import ray

        ray.kill(pool.workers[0])
        killed.append(pool.workers[0])

    monkeypatch.setattr(workers.Pool, "__init__", spy)
    evaluate_run(folder, examples=64, name="killed", workers=2, **OPTIONS)
    assert killed
    monkeypatch.undo()
    evaluate_run(folder, examples=64, name="whole", **OPTIONS)
    assert columns(folder, "killed") == columns(folder, "whole")


def test_a_silent_workers_block_is_done_again(
    folder: RunFolder, ray_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in mid-block, alive to Ray, which would wait for it for good."""
    monkeypatch.setattr(workers, "PULSE", 0.01)
    monkeypatch.setattr(workers, "SILENT", 3.0)
    stopped: list[int] = []
    heard = workers.Signs._heard

    def stop_one(self: Any, worker: Any, question: Any) -> None:
        heard(self, worker, question)
        if not stopped:
            stopped.append(self._places[worker].pid)
            os.kill(stopped[0], signal.SIGSTOP)

    monkeypatch.setattr(workers.Signs, "_heard", stop_one)
    evaluate_run(folder, examples=64, name="silent", workers=2, **OPTIONS)
    assert stopped
    assert not Path(f"/proc/{stopped[0]}").exists()
    monkeypatch.undo()
    evaluate_run(folder, examples=64, name="undisturbed", **OPTIONS)
    assert columns(folder, "silent") == columns(folder, "undisturbed")


@pytest.mark.soak
def test_a_killed_driver_goes_on_from_the_finished_blocks(folder: RunFolder) -> None:
    """kill -9 three times, in mid-evaluation; the last start finds what is done and ends with the same files."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from sparring.cluster.runs.folder import RunFolder; "
        "from sparring.cluster.evaluation.evaluation import evaluate_run; evaluate_run(RunFolder(Path(sys.argv[2])), examples=64, name='often', "
        "attacks=['clean', 'pgd-5', 'square-50'], threats=['linf:0.12'], block=16)"
    )
    target = folder.path / "evaluation" / "often"
    for n in (1, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", code, str(CLONE), str(folder.path)])
        while len(list(target.rglob("*.parquet"))) < n and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (target / "report.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in target.rglob("*.parquet")}
    said: list[str] = []
    evaluate_run(folder, examples=64, name="often", progress=said.append, **OPTIONS)
    assert said[0] == f"going on: {len(kept)} of 4 blocks are done"
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())
    evaluate_run(folder, examples=64, name="never", **OPTIONS)
    assert columns(folder, "often") == columns(folder, "never")


def test_an_unfinished_evaluation_without_a_name_goes_on_only_with_the_same_settings(folder: RunFolder) -> None:
    evaluate_run(folder, examples=32, **OPTIONS)
    newest = max((int(p.name), p) for p in (folder.path / "evaluation").iterdir() if p.name.isdigit())[1]
    (newest / "report.json").unlink()
    other = evaluate_run(folder, examples=16, **OPTIONS)
    assert Path(other["report"]).parent != newest
    again = evaluate_run(folder, examples=32, **OPTIONS)
    assert Path(again["report"]).parent == newest


def test_witnesses_break_what_they_say(folder: RunFolder) -> None:
    """Every broken example has one, in the ball and in the box, misclassified; most survive rounding to 8 bits."""
    evaluate_run(folder, examples=64, name="seen", **OPTIONS)
    model, _ = load_agent(folder)
    split = load_test(DataConfig(), 64)
    x, y = split.pixels(), split.all_labels()
    kinds = []
    for job in jobs_of(folder.path / "evaluation" / "seen", ["model"], [THREAT], 64, 16):
        table = read(job.path)
        assert table["label"].tolist() == y[job.start : job.stop].tolist()
        broken = table["broken:pgd-5"] | table["broken:square-50"]
        for i in range(len(broken)):
            assert (table["witness"][i] is not None) == bool(broken[i])
            if not broken[i]:
                continue
            kinds.append(table["witness_type"][i])
            raw = torch.frombuffer(bytearray(table["witness"][i]), dtype=getattr(torch, kinds[-1]))
            adv = (raw / 255 if kinds[-1] == "uint8" else raw).view(1, 1, 8, 8)
            clean = x[job.start + i]
            assert (adv - clean).abs().max() <= 0.12 + 1e-6
            assert table["distance"][i] == pytest.approx((adv - clean).abs().max().item(), abs=1e-6)
            z = model(adv)[0]
            assert z.argmax() != y[job.start + i]
            assert table["margin"][i] > 0
            assert table[f"broken:{table['witness_attack'][i]}"][i]
    assert kinds.count("uint8") > kinds.count("float32") > -1


def test_transfer_from_another_network(folder: RunFolder) -> None:
    """On itself it is pgd-20 in all but the draw; on a foreign network it is weaker."""
    report = evaluate_run(
        folder, attacks=["pgd-20", f"transfer:{folder.path}"], threats=["linf:0.12"], examples=64, name="transfer"
    )
    each = report["agents"]["model"]["threats"]["linf:0.12"]["attacks"]
    assert each[f"transfer:{folder.path}"] == pytest.approx(each["pgd-20"], abs=0.05)


def test_a_model_that_kills_its_worker_is_named(
    folder: RunFolder, ray_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "DEATHS", 2)  # one spare worker is enough here
    from sparring.cluster.errors import Infrastructure

    split = load_test(DataConfig(), 16)
    job = Job(folder.path / "x.parquet", 0, 16, 0, "deadly", THREAT)
    attacking = Attacking({"deadly": Deadly()}, {}, ("fgsm",), seed=0)
    with pytest.raises(Infrastructure, match=r"2 workers died over block 0 of deadly .* use --workers 0"):
        workers.run(attacking, [job], lambda j: pixels(split, j.start, j.stop), lambda *_: None, workers=1)


class Deadly(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os._exit(1)
