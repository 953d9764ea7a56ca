"""push, pull and hf: with the real huggingface_hub, against a stand-in of the Hub on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sparring.agents import model_folder
from sparring.agents.checkpoint import sha256, to_json
from sparring.cluster.commands import api
from sparring.cluster.errors import BrokenCheckpoint
from sparring.serve import versions
from sparring.trainers import trusting
from tests.cluster.sharing.standin import TOKEN, Hub, running
from tests.conftest import Command
from tests.helpers import CLONE, begin_anew, bytes_of, small_flags

library: Any = pytest.importorskip("huggingface_hub")
ROBUST, PLAIN = (CLONE / "serve" / "demo" / name / "1" for name in ("digits-robust", "digits-plain"))
NET = "hf:me/robust"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, a token for it, and a home of the test's own."""
    from huggingface_hub import constants

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with running() as there:
        _use(there.url, monkeypatch)
        yield there


def _use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def push(sparring: Command, net: object = ROBUST, to: str = NET, *flags: str) -> dict[str, Any]:
    done = sparring("push", net, to, "--json", *flags)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def logits(net: str | Path) -> torch.Tensor:
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: torch.Tensor = api.load(net)(x)
    return out


def test_pushed_and_pulled(hub: Hub, sparring: Command) -> None:
    told = push(sparring, ROBUST, NET, "--message=first", "--license=mit")
    assert told["net"] == f"{NET}@{hub.repositories['me/robust'].branches['main']}"
    assert set(told["files"]) == {
        "MANIFEST.json",
        "card.json",
        "model.safetensors",
        "state.json",
        "README.md",
        "config.json",
    }
    assert hub.repositories["me/robust"].messages[-1] == "first"
    assert json.loads(hub.files("me/robust")["card.json"])["license"] == "mit"
    done = sparring("pull", NET, "--as=mine", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "models/mine/1"
    for name in ("MANIFEST.json", "model.safetensors", "state.json"):
        assert told["files"][name] == sha256(Path("models/mine/1", name)) == sha256(ROBUST / name)
    card = model_folder.card(Path("models/mine/1"))
    assert card["hub"] == {"repository": "me/robust", "commit": told["commit"]}
    assert card["evaluations"][0]["robust_accuracy"] == model_folder.card(ROBUST)["evaluations"][0]["robust_accuracy"]
    expected = logits(ROBUST)
    assert torch.equal(logits("mine"), expected)
    assert torch.equal(logits(NET), expected)
    assert sorted(p.name for p in Path("models/mine/1").iterdir()) == [
        "MANIFEST.json",
        "card.json",
        "model.safetensors",
        "state.json",
    ]
    assert sparring("pull", told["net"], "--as=mine").returncode == 0
    assert [p.name for p in sorted(Path("models/mine").iterdir())] == ["1", "2"]
    assert TOKEN not in done.stdout + done.stderr


def test_the_page_and_the_configuration(hub: Hub, sparring: Command) -> None:
    push(sparring)
    files = hub.files("me/robust")
    page = library.ModelCard(files["README.md"].decode())
    data = page.data
    assert (data.license, data.library_name, data.pipeline_tag, data.datasets) == (
        "other",
        "sparring",
        "image-classification",
        ["digits"],
    )
    assert data.tags == ["adversarial-robustness", "sparring", "at", "linf-0.15"]
    robust = [r for r in data.eval_results if r.metric_name.startswith("robust")]
    assert [r.metric_value for r in robust] == [model_folder.card(ROBUST)["evaluations"][0]["robust_accuracy"]]
    for text in (
        "| linf:0.15 | **worst of these** | **78.85 %** | 74.36 to 82.73 % | 364 |",
        "The license of the weights was not stated",
        'sparring.load("hf:me/robust")',
    ):
        assert text in page.text
    config = json.loads(files["config.json"])
    assert config["architecture"] == "small_cnn:width=24"
    assert config["num_classes"] == 10
    assert config["id2label"]["3"] == "3"
    assert len(config["mean"]) == 1
    push(sparring, ROBUST, NET, "--license=cc-by-4.0", "--revision=next", "--private")
    assert b"license: cc-by-4.0" in hub.files("me/robust", "next")["README.md"]
    assert hub.files("me/robust")["README.md"] == files["README.md"]


def test_a_network_that_is_not_published(hub: Hub, sparring: Command) -> None:
    flags = [*small_flags(max_steps=1), "--team=local", "--name=r", "--no-report"]
    assert sparring("train", "mat", *flags).returncode == 0
    several = sparring("push", "r", NET)
    assert several.returncode == 2
    assert "name one" in several.stderr
    push(sparring, "r@peer0", NET, "--private")
    assert hub.repositories["me/robust"].private
    assert not Path("models").exists()
    card = json.loads(hub.files("me/robust")["card.json"])
    assert (card["data"]["root"], card["data"]["cache"]) == ("", "")
    assert str(Path.cwd()) not in json.dumps(card)
    assert torch.equal(logits(NET), logits("r@peer0"))
    assert "Not measured." in hub.files("me/robust")["README.md"].decode()
    push(sparring, "ensemble:r", "hf:me/both")
    assert torch.equal(logits("hf:me/both"), logits("ensemble:r"))
    init = sparring("train", "at", "--agents.model.init=hf:me/both")
    assert init.returncode == 2
    assert "is an ensemble of several networks; a role takes one" in init.stderr


@pytest.mark.soak
def test_timm_loads_a_network_of_its_own(hub: Hub, sparring: Command) -> None:
    timm: Any = pytest.importorskip("timm")
    flags = [*small_flags(max_steps=1, network="timm:resnet10t"), "--team=local", "--name=r", "--no-report"]
    assert sparring("train", "at", *flags).returncode == 0
    assert "timm.safetensors" in push(sparring, "r", "hf:me/of-timm")["files"]
    ours = api.load("hf:me/of-timm")
    theirs = timm.create_model("hf-hub:me/of-timm", pretrained=True, cache_dir="there").eval()
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs((x - ours.mean) / ours.std))


def test_an_evaluation_names_the_commit(hub: Hub, sparring: Command) -> None:
    told = push(sparring)
    done = sparring("evaluate", NET, "--attacks=clean,fgsm", "--examples=32", "--masking=0", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["hub"] == told["net"]
    assert report["n"] == 32
    assert json.loads(Path(report["report"]).read_text())["hub"] == told["net"]


def test_a_moved_branch_changes_no_run(hub: Hub, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = push(sparring)["net"]
    flags = [f for f in small_flags(max_steps=2) if not f.startswith("--network")]
    begin = ["train", "at", *flags, "--team=local", "--no-report", f"--agents.model.init={NET}"]
    assert sparring(*begin, "--name=a").returncode == 0
    kept = yaml.safe_load(Path("runs/a/config.yaml").read_text())
    assert kept["agents"]["model"]["init"] == first
    push(sparring, PLAIN)
    moved = sparring(*begin, "--name=b")
    assert moved.returncode == 0, moved.stderr
    assert bytes_of(Path("runs/b"))["manifest"] != bytes_of(Path("runs/a"))["manifest"]
    again = ("train", "-c", "runs/a/config.yaml", "--no-report")
    shutil.rmtree(Path("home/.cache/sparring/hub"))  # another machine
    done = sparring(*again, "--name=c")
    assert done.returncode == 0, done.stderr
    assert bytes_of(Path("runs/c")) == bytes_of(Path("runs/a"))
    continued = sparring(*begin, "--name=a", "--resume-if-exists")
    assert continued.returncode == 0, continued.stderr
    assert "complete already" in continued.stderr
    _use("http://127.0.0.1:9", monkeypatch)  # nobody listens: a commit that is here needs no network
    assert sparring(*again, "--name=d").returncode == 0


def _damage(files: dict[str, bytes], what: str) -> None:
    manifest, card = json.loads(files["MANIFEST.json"]), json.loads(files["card.json"])
    if what == "bytes":
        files["model.safetensors"] = files["model.safetensors"][:-1] + b"!"
    elif what in ("../x", "model.pkl", "code/0123456789abcdef/../../x.py"):
        manifest["files"][what] = "0" * 64
        files |= {"MANIFEST.json": to_json(manifest), what: b""}
    elif what == "path":  # a function of a file that lies here, called with what the card says
        card["data"]["name"] = f"{CLONE / 'examples' / 'own_network.py'}:mlp"
        files["card.json"] = to_json(card)
    elif what == "name":
        files["card.json"] = to_json({**card, "name": "../../x"})
    elif what == "missing":
        del files["state.json"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("bytes", "model.safetensors is altered"),
        ("../x", "lists '../x'"),
        ("model.pkl", "lists 'model.pkl', which is no file of a model"),
        ("code/0123456789abcdef/../../x.py", "which is no file of"),
        ("path", "a file that does not come with it"),
        ("name", "model name '../../x' is not allowed"),
        ("missing", "holds no model that sparring published"),
    ],
)
def test_what_is_not_whole_does_not_appear(what: str, words: str, hub: Hub, sparring: Command) -> None:
    push(sparring)
    _damage(hub.files("me/robust"), what)
    for command in (("pull", NET, "--as=mine"), ("evaluate", NET, "--examples=8")):
        done = sparring(*command)
        assert done.returncode in (2, 5), done.stderr
        assert words in done.stderr
    assert not Path("models").exists() or not any(Path("models").iterdir())
    assert not list(Path("home/.cache/sparring").rglob("hub/*/*/*"))


def test_only_listed_files_are_asked_for(hub: Hub, sparring: Command) -> None:
    push(sparring)
    hub.files("me/robust")["pytorch_model.bin"] = b"a pickle"
    hub.asked.clear()
    assert sparring("pull", NET, "--as=mine").returncode == 0
    assert {a.rpartition("/")[2] for a in hub.asked if "/resolve/" in a} == {
        *("MANIFEST.json", "card.json", "model.safetensors", "state.json")
    }


def test_what_the_hub_refuses(hub: Hub, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    push(sparring)

    def refused(*command: object) -> str:
        done = sparring(*command)
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert "there is no such repository, or you may not see it" in refused("pull", "hf:me/none")
    assert "has no such revision" in refused("pull", f"{NET}@none")
    assert "expected hf:USER/NAME" in refused("pull", "me/robust")
    assert "expected hf:USER/NAME" in refused("push", ROBUST, "hf:robust")
    assert "--revision v2" in refused("push", ROBUST, f"{NET}@v2")
    assert "model name 'No' is not allowed" in refused("pull", NET, "--as=No")
    hub.repositories["me/robust"].commit("empty", dict.fromkeys(["MANIFEST.json", "card.json"], b""))
    hub.files("me/robust", "empty").pop("MANIFEST.json")
    assert "holds no model that sparring published" in refused("evaluate", f"{NET}@empty")
    hub.read_only = True
    assert "your token may not do this" in refused("push", ROBUST, NET)
    monkeypatch.setenv("HF_TOKEN", "another")
    assert "log in: hf auth login" in refused("push", ROBUST, NET)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(library.constants, "HF_TOKEN_PATH", "nowhere")
    assert "log in first: hf auth login" in refused("push", ROBUST, NET)


def test_without_a_network(hub: Hub, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    net = push(sparring)["net"]
    expected = logits(NET)
    _use("http://127.0.0.1:9", monkeypatch)
    for command in (("pull", NET), ("push", ROBUST, NET), ("evaluate", NET)):
        done = sparring(*command)
        assert done.returncode == 2
        assert "the Hub cannot be reached" in done.stderr
    assert torch.equal(logits(net), expected)


OWN = """
from pathlib import Path

from torch import nn

Path("ran").touch()


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def with_code(hub: Hub, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model with a file of its author's, pushed; its name, as seen by a process that has never seen the file."""
    Path("own.py").write_text(OWN)
    assert sparring("publish", "own.py:net", "--as=m").returncode == 0
    push(sparring, "m", "hf:me/own")
    for path in ("own.py", "ran"):
        Path(path).unlink()
    shutil.rmtree("models")
    begin_anew(monkeypatch)
    return "hf:me/own"


@pytest.mark.parametrize("pulled", [False, True])
def test_code_of_strangers_runs_only_where_it_is_trusted(pulled: bool, with_code: str, sparring: Command) -> None:
    net = with_code
    if pulled:
        assert sparring("pull", net).returncode == 0
        net = "models/own"
    refused = sparring("evaluate", net, "--threat=linf:0.1", "--attacks=clean", "--examples=16")
    assert refused.returncode == 2
    assert "own.py (1 file, sha256 " in refused.stderr
    sha = refused.stderr.partition("--trust-code ")[2][:64]
    place = Path(refused.stderr.partition("Read it in ")[2].partition(";")[0])
    assert (place / "own.py").read_text() == OWN
    start = [f for f in small_flags(max_steps=1) if not f.startswith("--network")]
    begin = ["train", "at", *start, "--team=local", "--no-report", f"--agents.model.init={net}"]
    for command in (["publish", net, "--as=x"], ["export", net], [*begin, "--name=a"], ["push", net, "hf:me/x"]):
        done = sparring(*command)
        if command[0] != "push":  # which only copies
            assert done.returncode == 2, done.stderr
            assert sha in done.stderr
    with pytest.raises(trusting.Untrusted):
        api.load(net)
    wrong = sparring("evaluate", net, "--trust-code", "0" * 64, "--threat=linf:0.1")
    assert wrong.returncode == 2
    assert "expected the sha256 of the code" in sparring("evaluate", net, "--trust-code", "x").stderr
    assert not Path("ran").exists()
    done = sparring(*begin, "--name=a", "--trust-code", sha)
    assert done.returncode == 0, done.stderr
    assert Path("ran").exists()


def test_nor_by_the_path_of_a_file_in_it(with_code: str, sparring: Command) -> None:
    """Actors get code from the driver, which therefore looks at it, whichever way the weights are named."""
    assert sparring("pull", with_code, "--as=theirs").returncode == 0
    start = [f for f in small_flags(max_steps=1) if not f.startswith("--network")]
    for place in ("models/theirs/1/model.safetensors", "models/theirs/1"):
        done = sparring("train", "at", *start, "--team=local", "--no-report", f"--agents.model.init={place}")
        assert done.returncode == 2, done.stderr
        assert "--trust-code " in done.stderr
    assert not Path("ran").exists()


def test_a_cascade_with_such_code_is_somebody_elses_too(
    with_code: str, sparring: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sparring("pull", with_code, "--as=theirs").returncode == 0
    sha = sparring("evaluate", "theirs", "--threat=linf:0.1").stderr.partition("--trust-code ")[2][:64]
    trusting.admit([sha])
    done = sparring("publish", str(ROBUST), "--as=both", "--large=theirs")
    assert done.returncode == 0, done.stderr
    theirs = trusting.came_from(Path("models/theirs/1"))
    assert theirs is not None
    assert trusting.came_from(Path("models/both/1")) == theirs
    begin_anew(monkeypatch)
    Path("ran").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="which serve never runs"):
        versions.load(Path("models/both/1"), torch.device("cpu"))
    assert not Path("ran").exists()


def test_a_run_begun_with_trusted_code_goes_on(
    with_code: str, sparring: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = sparring("evaluate", with_code, "--threat=linf:0.1").stderr.partition("--trust-code ")[2][:64]
    start = [f for f in small_flags(max_steps=1) if not f.startswith("--network")]
    begin = ["train", "at", *start, "--no-report", "--team=local", f"--agents.model.init={with_code}", "--name=a"]
    assert sparring(*begin, f"--trust-code={sha}").returncode == 0
    begin_anew(monkeypatch)
    shutil.rmtree("runs/a/checkpoints")
    shutil.rmtree("home/.cache/sparring/hub")  # it is fetched again
    done = sparring("resume", "runs/a")
    assert done.returncode == 0, done.stderr
    assert "trust_code" not in Path("runs/a/config.yaml").read_text()


def test_python_trusts_by_sha256(with_code: str) -> None:
    with pytest.raises(trusting.Untrusted) as refused:
        logits(with_code)
    api.trust_code(str(refused.value).partition("--trust-code ")[2][:64])
    assert logits(with_code).shape == (4, 10)


def test_serve_never_runs_it(with_code: str, sparring: Command) -> None:
    assert sparring("pull", with_code).returncode == 0
    with pytest.raises(ValueError, match="which serve never runs"):
        versions.load(Path("models/own/1"), torch.device("cpu"))
    done = sparring("serve", f"x={with_code}", "--host-by=local")
    assert done.returncode == 2
    assert "serve never runs it" in done.stderr
    assert not Path("ran").exists()


def test_it_needs_the_library(hub: Hub, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "huggingface_hub":
            raise ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for command in (("pull", NET), ("push", ROBUST, NET), ("evaluate", NET)):
        assert "needs huggingface_hub; run: pip install 'sparring[hub]'" in sparring(*command).stderr


def test_a_broken_model_is_not_pushed(hub: Hub, sparring: Command) -> None:
    assert sparring("publish", ROBUST, "--as=m").returncode == 0
    Path("models/m/1/model.safetensors").write_bytes(b"")
    done = sparring("push", "m", NET)
    assert done.returncode == BrokenCheckpoint.code
    assert "altered" in done.stderr
    assert not hub.repositories
