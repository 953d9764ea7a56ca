"""Evaluations and training intervals re-checked: what is whole passes, every tampering is named."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sparring.agents.checkpoint import sha256
from sparring.cluster.errors import UsageError
from sparring.cluster.evaluation import certify, verify
from sparring.cluster.evaluation.attacking import Job
from sparring.cluster.evaluation.block import evaluate_block, to_parquet
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.evaluation.named_attacks import Block
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent, subject
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig, Threat
from tests.conftest import Command
from tests.helpers import small

N, SIZE = 64, 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two peers with an evaluation of one."""
    config = small(
        "mat", team="local", max_steps=40, network="small_cnn:width=8", checkpoint__every=10, checkpoint__keep=3
    )
    run = launch.train(config, runs_dir=tmp_path_factory.mktemp("runs"), name="run", how=Circumstances(quiet=True))
    options: dict[str, Any] = {"threats": ["linf:0.12", "l2:0.8"], "examples": N, "block": SIZE, "name": "e"}
    evaluate_run(RunFolder(run.path), attacks=["clean", "fgsm", "pgd-5"], agents=["peer0"], **options)
    return run.path


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "run"))


def test_a_whole_evaluation_passes(source: Path) -> None:
    verdict = verify.evaluation(source / "evaluation" / "e")
    assert verdict.problems == []
    assert verdict.rows == 2 * N
    assert verdict.witnesses > 20


def rewrite(path: Path, change: Callable[[dict[str, list[Any]]], None], *, seal: bool = True) -> None:
    """Change a block's columns; with ``seal`` the report's sha256 is forged too."""
    columns = pq.read_table(path).to_pydict()
    schema = pq.read_schema(path)
    change(columns)
    pq.write_table(pa.table(columns, schema=schema), path)
    evaluation = path.parents[3]
    if seal:
        report = json.loads((evaluation / "report.json").read_text())
        report["blocks"][str(path.relative_to(evaluation))] = sha256(path)
        (evaluation / "report.json").write_text(json.dumps(report))


def with_witness(columns: dict[str, list[Any]], rng: random.Random) -> int:
    return rng.choice([i for i, w in enumerate(columns["witness"]) if w is not None])


def pixel_out_of_the_ball(columns: dict[str, list[Any]], rng: random.Random) -> None:
    i = with_witness(columns, rng)
    raw = torch.frombuffer(bytearray(columns["witness"][i]), dtype=getattr(torch, columns["witness_type"][i])).clone()
    far = 255 if columns["witness_type"][i] == "uint8" else 1.0
    raw[:] = torch.where(raw < far / 2, far, 0).to(raw.dtype)
    columns["witness"][i] = raw.numpy().tobytes()


def another_label(columns: dict[str, list[Any]], rng: random.Random) -> None:
    i = rng.randrange(len(columns["label"]))
    columns["label"][i] = (columns["label"][i] + 1) % 10


def hidden_success(columns: dict[str, list[Any]], rng: random.Random) -> None:
    i = with_witness(columns, rng)
    for name in columns:
        if name.startswith("broken:"):
            columns[name][i] = False


def hidden_success_and_witness(columns: dict[str, list[Any]], rng: random.Random) -> None:
    i = with_witness(columns, rng)
    hidden_success(columns, rng)
    for name in columns:
        if name.startswith("broken:"):
            columns[name][i] = False
    columns["witness"][i] = columns["witness_type"][i] = columns["witness_attack"][i] = None


def invented_success(columns: dict[str, list[Any]], rng: random.Random) -> None:
    i = rng.choice([i for i, w in enumerate(columns["witness"]) if w is None])
    columns["broken:fgsm"][i] = True


def missing_row(columns: dict[str, list[Any]], rng: random.Random) -> None:
    i = rng.randrange(len(columns["label"]))
    for name in columns:
        del columns[name][i]


def correct_witness(columns: dict[str, list[Any]], rng: random.Random) -> None:
    """The clean image of another example of the block is no adversarial example of this one."""
    i = with_witness(columns, rng)
    columns["witness"][i] = bytes(64)
    columns["witness_type"][i] = "uint8"


ROWS = [
    pixel_out_of_the_ball,
    another_label,
    hidden_success,
    hidden_success_and_witness,
    invented_success,
    missing_row,
    correct_witness,
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ROWS)
def test_altered_rows_are_named(kind: Callable[..., None], seed: int, copy: Path) -> None:
    """35 tamperings with rows, the sha256 in the report forged along."""
    rng = random.Random(seed)
    files = sorted((copy / "evaluation" / "e" / "blocks").rglob("*.parquet"))
    path = rng.choice([f for f in files if any(w is not None for w in pq.read_table(f)["witness"].to_pylist())])
    rewrite(path, lambda columns: kind(columns, rng))
    problems = verify.evaluation(copy / "evaluation" / "e").problems
    assert problems
    assert any(path.name in p or p.startswith("report.json: ") for p in problems), problems


def edit(path: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


OTHERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "weights": (
        lambda run, e: flip(next(run.glob("checkpoints/step-*/agents/peer0/model.safetensors")), all_of=run),
        "peer0: no weights",
    ),
    "eps-in-settings": (
        lambda run, e: edit(e / "settings.json", lambda s: s["eps"].__setitem__(0, 0.2)),
        "settings.json: threats",
    ),
    "smaller-eps": (lambda run, e: smaller(e), "is not within linf:0.05"),
    "seed": (lambda run, e: edit(e / "report.json", lambda r: r.update(seed=9)), "report.json: seed is 9"),
    "block-size": (lambda run, e: edit(e / "report.json", lambda r: r.update(block=8)), "report.json: block is 8"),
    "accuracy": (
        lambda run, e: edit(e / "report.json", lambda r: r["agents"]["peer0"].update(robust_accuracy=0.99)),
        "robust_accuracy of peer0 is 0.99",
    ),
    "interval": (
        lambda run, e: edit(e / "report.json", lambda r: r["agents"]["peer0"].update(ci95=[0.1, 0.2])),
        "ci95 of peer0",
    ),
    "attack-table": (
        lambda run, e: edit(
            e / "report.json", lambda r: r["agents"]["peer0"]["threats"]["linf:0.12"]["attacks"].update(fgsm=0.9)
        ),
        "threats of peer0",
    ),
    "n": (lambda run, e: edit(e / "report.json", lambda r: r["agents"]["peer0"].update(n=999)), "n of peer0 is 999"),
    "missing-block": (lambda run, e: sorted(e.rglob("*.parquet"))[3].unlink(), "block-0003.parquet is missing"),
    "cut-block": (lambda run, e: cut(sorted(e.rglob("*.parquet"))[2]), "is altered"),
    "unlisted-block": (lambda run, e: edit(e / "report.json", lambda r: r["blocks"].popitem()), "does not list block"),
    "extra-agent": (lambda run, e: edit(e / "report.json", lambda r: r["agents"].pop("peer0")), "no entry of peer0"),
    "other-data": (
        lambda run, e: edit(e / "settings.json", lambda s: s["data"].update(sha256="0" * 64)),
        "the test images are not those",
    ),
    "unsealed-row": (
        lambda run, e: rewrite(sorted(e.rglob("*.parquet"))[0], lambda c: c["margin"].__setitem__(0, 3.0), seal=False),
        "is altered",
    ),
}


def flip(path: Path, *, all_of: Path) -> None:
    for file in all_of.glob(f"checkpoints/step-*/agents/*/{path.name}"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(bytes(content))


def smaller(e: Path) -> None:
    """The evaluation claims a smaller radius throughout."""
    for name in ("linf-0.12",):
        (e / "blocks" / "peer0" / name).rename(e / "blocks" / "peer0" / "linf-0.05")
    edit(e / "settings.json", lambda s: (s["eps"].__setitem__(0, 0.05), s["threats"].__setitem__(0, "linf:0.05")))
    text = (e / "report.json").read_text().replace("linf-0.12", "linf-0.05").replace("linf:0.12", "linf:0.05")
    (e / "report.json").write_text(text)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("kind", OTHERS)
def test_altered_files_are_named(kind: str, copy: Path) -> None:
    change, expected = OTHERS[kind]
    change(copy, copy / "evaluation" / "e")
    problems = verify.evaluation(copy / "evaluation" / "e").problems
    assert any(expected in p for p in problems), problems


def test_not_an_evaluation(copy: Path) -> None:
    with pytest.raises(UsageError, match="is not a finished evaluation"):
        verify.evaluation(copy)


def test_ten_thousand_witnesses_take_less_than_ten_seconds(source: Path, tmp_path: Path) -> None:
    """Copies of a real evaluation's blocks; whole blocks are checked at once. Of a core's time, which other tests do not change."""
    model, _ = load_agent(RunFolder(source), "peer0")
    split = load_test(DataConfig(), 360)
    threat = Threat("linf", 0.3)
    outcome = evaluate_block(model, Block(split.pixels(), split.all_labels(), 0, 0), attacks=["fgsm"], threat=threat)
    each = sum(w is not None for w in outcome.witness)
    rounds = -(-10_000 // each)
    path = tmp_path / "block.parquet"
    path.write_bytes(to_parquet(outcome, 0))
    verdict, started = verify.Verdict(), time.process_time()
    for _ in range(rounds):
        assert verify._rows(Job(path, 0, 360, 0, "peer0", threat), model, split, ["fgsm"], verdict) == []
    assert verdict.witnesses >= 10_000
    assert time.process_time() - started < 10


# Intervals of training ---------------------------------------------------------------------------------------------------


def test_an_interval_is_trained_again_to_the_same_bytes(source: Path) -> None:
    folder = RunFolder(source)
    for wanted in ("20:30", "30:40"):
        verdict, interval = certify.run(folder, wanted)
        assert verdict.problems == []
        assert f"{interval[0]}:{interval[1]}" == wanted  # type: ignore[index]
    assert certify.choose(folder, "random", 1) in ((20, 30), (30, 40))
    with pytest.raises(UsageError, match="kept are: 20:30, 30:40"):
        certify.run(folder, "0:10")


def last(run: Path) -> Path:
    return run / "checkpoints" / "step-000040"


def reseal(step: Path) -> None:
    """Forge the sha256 of a checkpoint's files in its manifest, and of the manifest in COMMITTED."""
    manifest = json.loads((step / "MANIFEST.json").read_text())
    manifest["files"] = {name: sha256(step / name) for name in manifest["files"]}
    (step / "MANIFEST.json").write_text(json.dumps(manifest))
    (step / "COMMITTED").write_text(sha256(step / "MANIFEST.json") + "\n")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def config(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new, 1))


def forged(run: Path, name: str) -> None:
    damage(last(run) / "agents" / "peer1" / name)
    reseal(last(run))


def metrics(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["t"] == 35:
            change(line)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (lambda r: damage(last(r) / "agents/peer0/model.safetensors"), "peer0/model.safetensors is altered"),
    "momenta": (lambda r: damage(last(r) / "agents/peer1/optim.safetensors"), "peer1/optim.safetensors is altered"),
    "state": (lambda r: damage(last(r) / "agents/peer0/state.json"), "peer0/state.json is altered"),
    "missing": (lambda r: (last(r) / "agents/peer0/state.json").unlink(), "peer0/state.json is missing"),
    "manifest": (lambda r: damage(last(r) / "MANIFEST.json"), "MANIFEST.json is altered"),
    "no-manifest": (lambda r: (last(r) / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
    "committed": (lambda r: (last(r) / "COMMITTED").write_text("0" * 64), "MANIFEST.json is altered"),
    "forged-weights": (lambda r: forged(r, "model.safetensors"), "peer1/model.safetensors is not what training"),
    "forged-momenta": (lambda r: forged(r, "optim.safetensors"), "peer1/optim.safetensors is not what training"),
    "seed": (lambda r: config(r, "\nseed: 0", "\nseed: 1"), "config.yaml is not the configuration of step"),
    "eps": (lambda r: config(r, "eps: 0.15", "eps: 0.14"), "config.yaml is not the configuration of step"),
    "lr": (lambda r: config(r, "lr: 0.1", "lr: 0.2"), "config.yaml is not the configuration of step"),
    "alpha": (lambda r: config(r, "alpha: 0.3", "alpha: 0.4"), "config.yaml is not the configuration of step"),
    "batch": (lambda r: config(r, "batch_size: 32", "batch_size: 16"), "config.yaml is not the configuration of step"),
    "network": (lambda r: config(r, "width=8", "width=9"), "config.yaml is not the configuration of step"),
    "not-yaml": (lambda r: (r / "config.yaml").write_text("{"), "config.yaml cannot be read"),
    "chain": (lambda r: chained(r), "the chain is broken"),
    "best": (
        lambda r: edit(r / "checkpoints/best.json", lambda b: b["peer0"].update(value=1.0)),
        "best.json is not what",
    ),
    "loss": (lambda r: metrics(r, lambda m: m["values"].update(hard=0.0)), "metrics.jsonl: step 35 of"),
    "no-loss": (lambda r: metrics(r, lambda m: m["values"].pop("lr")), "metrics.jsonl: step 35 of"),
    "other-steps": (lambda r: swapped(r), "is not what training"),
}


def chained(run: Path) -> None:
    """An earlier checkpoint is exchanged and sealed again, so that it is whole by itself."""
    step = run / "checkpoints" / "step-000030"
    damage(step / "agents/peer0/model.safetensors")
    reseal(step)


def swapped(run: Path) -> None:
    """Both peers of the last checkpoint exchanged, and sealed again."""
    agents = last(run) / "agents"
    (agents / "peer0").rename(agents / "x")
    (agents / "peer1").rename(agents / "peer0")
    (agents / "x").rename(agents / "peer1")
    reseal(last(run))


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_with_a_run_is_named(kind: str, copy: Path) -> None:
    change, expected = TAMPERED[kind]
    change(copy)
    verdict, _ = certify.run(RunFolder(copy.resolve()), "30:40")
    assert any(expected in p for p in verdict.problems), verdict.problems


def test_commands(copy: Path, sparring: Command) -> None:
    done = sparring("verify", copy / "evaluation" / "e")
    assert done.returncode == 0, done.stderr
    assert "witnesses" in done.stdout
    done = sparring("verify", copy, "--interval", "random", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["interval"] in ([20, 30], [30, 40])
    damage(copy / "checkpoints/step-000040/agents/peer0/model.safetensors")
    done = sparring("verify", copy)
    assert done.returncode == 5
    assert "model.safetensors is altered" in done.stdout
    assert sparring("verify", copy / "nowhere").returncode == 2


def test_an_ensemble_is_one_network_attacked_end_to_end(copy: Path, sparring: Command) -> None:
    done = sparring("evaluate", f"ensemble:{copy}", "--attacks=clean,pgd-5", "--examples=64", "--name=both", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["agents"]) == {"ensemble"}
    assert verify.evaluation(copy / "evaluation" / "both").problems == []
    both = subject(RunFolder(copy), "ensemble")
    model: Any = both.model
    assert set(both.record["members"]) == {"peer0", "peer1"}
    split = load_test(DataConfig(), 8)
    x = split.pixels().requires_grad_()
    each = torch.stack([m(x).softmax(1) for m in model.members])
    torch.testing.assert_close(model(x).exp(), each.mean(0))
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    apart = model.decide(x)[1]
    assert ((apart >= 0) & (apart < 1)).all()
    detector = json.loads((copy / "evaluation" / "both" / "report.json").read_bytes())["agents"]["ensemble"]["detector"]
    assert set(detector["auroc"]) == {"one", "all", "adaptive"}
    assert detector["n"] == 64
    flip(copy / "checkpoints" / "x" / "model.safetensors", all_of=copy)
    assert any("ensemble: no weights" in p for p in verify.evaluation(copy / "evaluation" / "both").problems)
