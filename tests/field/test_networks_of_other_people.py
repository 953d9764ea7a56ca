"""Networks that other people wrote, under every command and by one kind of name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparring as api
from sparring.agents import networks
from sparring.agents.carried import pack, unpack
from sparring.agents.networks import NetworkConfig
from sparring.cluster.errors import UsageError
from sparring.cluster.evaluation import attacking
from sparring.cluster.evaluation import workers as evaluation_workers
from sparring.cluster.models.resolve import resolve, single
from tests.conftest import Command
from tests.helpers import small_flags

NETS = """
from collections import OrderedDict
import torch
from torch import nn
from torch.nn.utils import parametrizations

class Plain(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(config.channels * config.height * config.width, config.classes)
    def forward(self, x):
        return {"logits": self.layer(x.flatten(1))}

def without(width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def named(config=None):
    assert config is not None
    return without()

def constrained(config):
    return nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(64, 10)))

def local(config):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)
        def forward(self, x):
            return self.layer(x.flatten(1))
    return Inside()

class Wrong(nn.Module):
    def forward(self, x):
        flat = x.flatten(1)
        return flat @ flat

class Tenth(Plain):
    calls = 0
    def forward(self, x):
        if self.training:
            Tenth.calls += 1
            if Tenth.calls > 5:
                raise KeyError("a name")
        return self.layer(x.flatten(1))

class Attacked(Plain):
    def forward(self, x):
        if x.requires_grad and not self.training:
            raise KeyError("under attack")
        return self.layer(x.flatten(1))
"""
QUICK = ["--attacks=clean,fgsm", "--threat=linf:0.1", "--examples=32", "--masking=0", "--block=8"]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def blocks(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("name", ["Plain", "without", "named", "constrained", "local"])
def test_a_function_is_called_in_one_way_and_travels_as_weights(name: str, nets: Path) -> None:
    """With the configuration if it asks for one. Parametrised modules cannot be pickled (torch 2.15 raises), classes of a file of
    somebody else's only where that file is: what travels are the file and the weights."""
    _, subject, target = single(f"{nets}:{name}")
    x = torch.rand(4, 1, 8, 8)
    there = unpack(pack(subject.model))
    assert torch.equal(there(x), subject.model(x))
    assert there is not subject.model
    assert target.path.parent.name == "evaluated"
    assert not target.path.exists()  # a name alone leaves nothing behind


def test_every_command_by_one_name(nets: Path, sparring: Command, ray_session: str) -> None:
    """Trained, evaluated by 0, 1 and 2 workers, verified, exported, published, loaded and attacked: the same logits."""
    flags = [*small_flags(max_steps=4, network=f"{nets}:Plain"), "--team=local", "--name=r", "--no-report"]
    assert sparring("train", "mat", *flags).returncode == 0
    net = "runs/r@peer0"
    for workers in (0, 1, 2):
        done = sparring("evaluate", net, *QUICK, f"--workers={workers}", f"--name=w{workers}")
        assert done.returncode == 0, done.stderr
    evaluation = Path("runs/r/evaluation")
    assert blocks(evaluation / "w0") == blocks(evaluation / "w1") == blocks(evaluation / "w2") != {}
    assert sparring("verify", "runs/r/evaluation/w2").returncode == 0
    assert sparring("export", net, "--out=exported").returncode == 0
    assert sparring("publish", net, "--as=own").returncode == 0
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    model = api.load(net)
    expected = model(x)
    from sparring.agents.checkpoint import load_model

    for same in (api.load("own"), api.load("models/own/1"), api.load("r@peer0"), load_model(Path("exported"))):
        assert torch.equal(same(x), expected)
    assert (api.attack(model, x, y, eps=0.1, steps=2) - x).abs().max() <= 0.1 + 1e-6
    done = sparring("train", "at", *flags, "--name=second", f"--agents.model.init={net}", "--max-steps=1", "--json")
    assert done.returncode == 0, done.stderr
    done = sparring("evaluate", "own", "--attacks=fgsm", f"--attacks=clean,transfer:{nets}:without", "--examples=8")
    assert done.returncode == 0, done.stderr


def test_a_network_from_elsewhere_is_published_and_exported(nets: Path, sparring: Command) -> None:
    name = f"{nets}:without"
    done = sparring("evaluate", name, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)["clean_accuracy"]
    done = sparring("publish", name, "--as=theirs", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)["card"]
    assert [e["clean_accuracy"] for e in card["evaluations"]] == [seen]
    assert card["training"]["elsewhere"]["spec"].endswith("nets.py:without")
    assert sparring("export", name, "--out=out").returncode == 0
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(api.load("theirs")(x), api.load(name)(x))


def test_a_name_that_means_nothing_says_what_is_there(sparring: Command) -> None:
    assert sparring("train", "at", *small_flags(max_steps=1), "--team=local", "--name=r", "--no-report").returncode == 0
    assert sparring("publish", "r", "--as=m").returncode == 0
    for command in (["evaluate"], ["export"], ["publish", "--as=x"], ["train", "at", "--agents.model.init"]):
        asked = [*command[:-1], f"{command[-1]}=nothing"] if command[0] == "train" else [*command, "nothing"]
        done = sparring(*asked)
        assert done.returncode == 2, command
        assert "nothing is not a run, model or file of weights: here are models/m, runs/r." in done.stderr, command
    with pytest.raises(UsageError, match=r"models/m, runs/r"):
        api.load("nothing")
    with pytest.raises(UsageError, match="names an agent, and --agent"):
        resolve("r@model", agents=["other"])
    Path("models/r").mkdir(parents=True)
    assert sparring("publish", "r", "--as=r").returncode == 0
    with pytest.raises(UsageError, match="r is a model and a run; write models/r or runs/r"):
        api.load("r")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_an_error_in_a_users_network_has_its_place(command: str, nets: Path, sparring: Command) -> None:
    asked = (
        ["train", "at", *small_flags(), "--team=local", f"--network={nets}:Wrong"]
        if command == "train"
        else ["evaluate", f"{nets}:Wrong", *QUICK]
    )
    done = sparring(*asked)
    line = NETS.splitlines().index("        return flat @ flat") + 1
    assert done.returncode == 2
    assert f"{nets}, line {line}: RuntimeError: " in done.stderr
    assert "it was given images [" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_one_of_several_agents_is_the_one_that_is_told(
    nets: Path, sparring: Command, ray_session: str
) -> None:
    """Agents that exchange directly and wait for it have lost a peer, which would be a reason to begin again."""
    flags = [*small_flags(), "--agents.peer1.network", f"{nets}:Tenth", "--exchange=direct", "--name=r"]
    done = sparring("train", "mat", *flags)
    line = NETS.splitlines().index('                raise KeyError("a name")') + 1
    assert done.returncode == 2, done.stderr
    assert f"{nets}, line {line}: KeyError: 'a name'" in done.stderr
    assert "lost: " not in Path("runs/r/log.txt").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ("train", "at", "--team=local"),
        ("train", "at", "--team=ray"),
        pytest.param(("pretrain", "at"), marks=pytest.mark.soak),
        pytest.param(("pretrain", "at", "--workers=2"), marks=pytest.mark.soak),
        pytest.param(("pretrain", "at", "--workers=2", "--max-failures=0"), marks=pytest.mark.soak),
    ],
    ids=" ".join,
)
def test_a_users_error_ends_every_engine_at_once(
    command: tuple[str, ...], nets: Path, sparring: Command, ray_session: str
) -> None:
    """A restart would meet it again."""
    done = sparring(*command, *small_flags(network=f"{nets}:Tenth"), "--name=r")
    line = NETS.splitlines().index('                raise KeyError("a name")') + 1
    assert done.returncode == 2, done.stderr
    assert f"{nets}, line {line}: KeyError: 'a name'" in done.stderr
    assert "restarts" not in done.stderr


def test_an_error_under_attack_has_its_place(nets: Path, sparring: Command, ray_session: str) -> None:
    """In another process, where an agent attacks itself."""
    done = sparring("train", "at", *small_flags(network=f"{nets}:Attacked"), "--name=r")
    line = NETS.splitlines().index('            raise KeyError("under attack")') + 1
    assert done.returncode == 2, done.stderr
    assert f"{nets}, line {line}: KeyError: 'under attack'" in done.stderr


TIMM: list[tuple[str, int, str | None]] = [
    ("timm:vit_tiny_patch16_224", 32, None),
    ("timm:vit_tiny_patch16_224", 8, None),
    ("timm:vit_tiny_patch16_224,patch_size=2", 8, None),
    ("timm:swin_tiny_patch4_window7_224", 32, None),
    ("timm:convnext_atto", 32, None),
    ("timm:convnext_atto", 8, None),
    ("timm:resnet18", 8, None),
    ("timm:vgg11", 8, "timm:vgg11 does not take images of 8x8 .* the smallest square images that it takes are 32x32"),
]


@pytest.mark.parametrize(("spec", "side", "words"), TIMM)
def test_networks_of_timm_on_small_images(spec: str, side: int, words: str | None) -> None:
    """vturrisi/solo-learn#324 (Swin on CIFAR), lightly-ai/lightly-train#29 (96 pixels), LAMDA-CL/LAMDA-PILOT#35 (ViT on CIFAR-100)."""
    pytest.importorskip("timm")
    config = NetworkConfig(spec, 3, side, side, 10, (0.5,) * 3, (0.25,) * 3)
    if words is not None:
        with pytest.raises(ValueError, match=words):
            networks.build(config, 0)
        return
    model = networks.build(config, 0).eval()
    x = torch.rand(2, 3, side, side)
    assert model(x).shape == (2, 10)
    assert torch.equal(networks.build(config, 0).eval()(x), model(x))  # the same way each time
    assert torch.equal(unpack(pack(model))(x), model(x))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("small_cnn:width=1e3", "width = 1000.0 is not allowed; expected a whole number of 1 or more"),
        ("small_cnn:width=True", "width = True is not allowed"),
        ("wrn-70-16:swish=1", "swish = 1 is not allowed; expected True or False"),
        ("timm:vit_tiny_patch16_224,no_such=3", "timm:vit_tiny_patch16_224 does not take images of 8x8"),
    ],
)
def test_options_of_the_wrong_kind(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        networks.build(NetworkConfig(spec, 1, 8, 8, 10, (0.0,), (1.0,)), 0)


def test_workers_that_a_caller_asks_for_are_those_that_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    asked: dict[str, Any] = {"attacks": "fgsm", "threats": "linf:0.1", "examples": 300}
    alone = api.evaluate(model, "digits", **asked)
    numbers: list[int] = []

    def here(*args: Any, workers: int) -> None:
        numbers.append(workers)
        attacking.run(*args)

    monkeypatch.setattr(evaluation_workers, "run", here)
    assert api.evaluate(model, "digits", workers=2, **asked) == alone
    assert api.evaluate(model, "digits", workers=9, **asked) == alone
    assert numbers == [2, 3]  # blocks of 128: three


@pytest.mark.soak
def test_evaluate_with_workers_from_python(ray_session: str) -> None:
    """A module of the caller's own has no name; it travels as it is, and the numbers are the same."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    asked: dict[str, Any] = {"attacks": "fgsm", "threats": "linf:0.1", "examples": 130}
    assert api.evaluate(model, "digits", workers=2, **asked) == api.evaluate(model, "digits", **asked)
