"""A user's file is what it was when the run began: kept by content with what it imports, whatever becomes of the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sparring.trainers import code, keeping, user
from tests.conftest import Command
from tests.helpers import small_flags

FLAGS = [f for f in small_flags(max_steps=20) if "network" not in f] + ["--team=local", "--no-report", "--quiet"]
ATTACKS = ["--attacks=clean,fgsm", "--examples=64", "--masking=0", "--json"]
NET = """
from torch import nn
from {neighbour} import head
def net(config):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), head(config.classes))
def ready():
    from {neighbour} import head  # later, and once more
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), head(10))
"""
HEAD = """
from torch import nn
class Head(nn.Linear):
    pass
def head(classes):
    return Head(32, classes)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A network whose head is defined in the file beside it."""
    (tmp_path / "own.py").write_text(NET.format(neighbour="blocks_"))
    (tmp_path / "blocks_.py").write_text(HEAD)
    return tmp_path / "own.py"


def clean(done: object) -> float:
    return float(json.loads(done.stdout)["clean_accuracy"])  # type: ignore[attr-defined]


def test_an_edited_network_changes_no_finished_run(own: Path, sparring: Command) -> None:
    """RobustBench/robustbench#108: right weights under other code."""
    assert sparring("train", "at", *FLAGS, f"--network={own}:net", "--name=r").returncode == 0
    before = sparring("evaluate", "runs/r", *ATTACKS)
    assert before.returncode == 0, before.stderr
    own.write_text(own.read_text().replace("ReLU", "Sigmoid"))
    after = sparring("evaluate", "runs/r", *ATTACKS)
    assert clean(after) == clean(before)
    assert f"{own} has changed since it was kept (sha256 " in after.stderr
    report = Path(json.loads(before.stdout)["report"])
    assert sparring("verify", report.parent).returncode == 0
    assert sparring("publish", "runs/r", "--as=m", "--quiet").returncode == 0
    own.unlink()
    (own.parent / "blocks_.py").unlink()
    shutil.move("runs", "moved")
    assert clean(sparring("evaluate", "moved/r", *ATTACKS)) == clean(before)
    assert clean(sparring("evaluate", "models/m", *ATTACKS)) == clean(before)
    env = json.loads(Path("moved/r/env.json").read_text())
    assert [c["file"] for c in env["code"]] == [str(own)]
    assert (Path("moved/r") / env["code"][0]["kept"]).is_file()


def test_a_run_goes_on_with_the_file_that_it_began_with(own: Path, sparring: Command) -> None:
    args = ("train", "at", *FLAGS, f"--network={own}:net", "--name=r", "--checkpoint.every=5")
    assert sparring(*args).returncode == 0
    whole = Path("runs/r/checkpoints/step-000020/MANIFEST.json").read_bytes()
    shutil.rmtree("runs/r/checkpoints/step-000020")
    own.write_text(own.read_text().replace("ReLU", "Sigmoid"))
    done = sparring("resume", "runs/r")
    assert done.returncode == 0, done.stderr
    assert f"{own} has changed since it was kept" in done.stderr
    assert Path("runs/r/checkpoints/step-000020/MANIFEST.json").read_bytes() == whole
    asked_again = sparring(*args, "--resume-if-exists")
    assert asked_again.returncode == 2
    assert "network: own.py:net (" in asked_again.stderr


def test_an_altered_copy_is_refused(own: Path, sparring: Command) -> None:
    assert sparring("train", "at", *FLAGS, f"--network={own}:net", "--name=r").returncode == 0
    kept = next(Path("runs/r/code").glob("*/own.py"))
    kept.write_text(kept.read_text() + "\n")
    with pytest.raises(ValueError, match=r"the kept copy of .*own\.py, is altered"):
        keeping.know(Path("runs/r"))
    done = sparring("evaluate", "runs/r", *ATTACKS)
    assert done.returncode in (2, 5)
    assert "is altered" in done.stderr


@pytest.mark.soak
def test_two_files_train_and_are_evaluated_by_workers(own: Path, sparring: Command, ray_session: str) -> None:
    """ray-project/ray#4479, #1161, #40046: the network's file imports the file beside it."""
    trained = sparring("train", "mat", *[f for f in FLAGS if "team" not in f], f"--network={own}:net", "--name=r")
    assert trained.returncode == 0, trained.stderr
    alone = sparring("evaluate", f"{own}:ready", *ATTACKS, "--threat=linf:0.1", "--name=alone")
    assert alone.returncode == 0, alone.stderr
    workers = sparring("evaluate", f"{own}:ready", *ATTACKS, "--threat=linf:0.1", "--workers=2", "--name=workers")
    assert workers.returncode == 0, workers.stderr
    for done in (trained, alone, workers):
        assert "blocks_" not in done.stderr


def test_neighbours_of_one_name_are_two(tmp_path: Path) -> None:
    """Two folders with a ``parts`` each: every file has its own, now and when it imports later."""
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder / "parts").mkdir(parents=True)
        (tmp_path / folder / "parts" / "__init__.py").write_text("from .deep import value\n")
        (tmp_path / folder / "parts" / "deep.py").write_text(f"value = {value}\n")
        (tmp_path / folder / "net.py").write_text(
            "import parts\ndef now():\n    return parts.value\ndef later():\n    import parts.deep\n    return parts.deep.value\n"
        )
    for name in ("now", "later"):
        assert [user.function(f"{tmp_path / f}/net.py:{name}")() for f in "ab"] == [1, 2]
    assert sorted(code.read(tmp_path / "a" / "net.py").files) == ["net.py", "parts/__init__.py", "parts/deep.py"]


def test_data_beside_a_file_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("7")
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\ndef read():\n    return (Path(__file__).parent / 'x.txt').read_text()\n"
    )
    assert user.function(user.kept(f"{tmp_path}/own.py:read"))() == "7"


def test_installed_packages_are_not_copied(tmp_path: Path) -> None:
    """A folder ``torch/`` of data beside the file is not the package; ``json.py`` is not Python's."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "json.py").write_text("raise SystemExit")
    (tmp_path / "own.py").write_text(
        "import json\nimport torch\ndef f():\n    return json.dumps(torch.zeros(1).tolist())\n"
    )
    assert sorted(code.read(tmp_path / "own.py").files) == ["own.py"]
    assert user.function(f"{tmp_path}/own.py:f")() == "[0.0]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys\nsys.exit(3)\n", "ends the process (exit 3)"),
        ("def net(c):\n    raise SystemExit(4)\n", "ends the process (exit 4)"),
        ("def net(c)\n", "own.py is not Python: "),
        ("def net(c):\n    return 1\n", "expected a torch.nn.Module"),
    ],
)
def test_a_file_that_ends_the_process_is_named(text: str, words: str, tmp_path: Path, sparring: Command) -> None:
    (tmp_path / "own.py").write_text(text)
    done = sparring("train", "at", *FLAGS, "--network=own.py:net")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "own.py" in done.stderr


def test_what_a_users_file_prints_is_not_the_answer(own: Path, sparring: Command) -> None:
    """Standard output of --json is one JSON object, whatever the user's code prints: imported, called, in every pass."""
    own.write_text(
        "print('imported')\n"
        "from torch import nn\n"
        "class Loud(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear(64, 10)\n        print('made')\n"
        "    def forward(self, x):\n        print('passed')\n        return self.linear(x.flatten(1))\n"
        "def net(config=None):\n    return Loud()\n"
    )
    done = sparring("evaluate", f"{own}:net", *ATTACKS, "--threat=linf:0.1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 64
    for word in ("imported", "made", "passed"):
        assert word in done.stderr


def test_equal_files_in_two_folders_read_their_own_data(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
        (tmp_path / folder / "own.py").write_text(
            "from pathlib import Path\ndef read():\n    return (Path(__file__).parent / 'x.txt').read_text()\n"
        )
    assert [user.function(f"{tmp_path / f}/own.py:read")() for f in "ab"] == ["a", "b"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("x.flatten(1)[:, :1] > -1", "answers NaN or infinity to 16 of 16 images, first to image 0"),
        ("x.flatten(1).sum(1, keepdim=True) > 23", " of block 0, first to image "),
    ],
)
def test_answers_that_are_no_numbers_are_refused(bad: str, words: str, tmp_path: Path, sparring: Command) -> None:
    """A network that says NaN to all images, or to some that only the evaluation meets; alone and on workers' side alike."""
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        f"        return torch.where({bad}, torch.nan, self.linear(x.flatten(1)))\n"
        "def net():\n    return Net()\n"
    )
    done = sparring(
        "evaluate", "own.py:net", "--attacks=clean", "--threat=linf:0.1", "--examples=first:120", "--block=60"
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    asked = ("--attacks=clean", "--threat=linf:0.1", "--examples=first:120", "--block=60", "--nan-is-wrong", "--json")
    done = sparring("evaluate", "own.py:net", *asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clean_accuracy"] < 0.5


def test_files_as_other_tools_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte-order mark, Windows' line ends, another declared encoding; a folder ``code/`` of the user's own."""
    folder = tmp_path / "code" / "nets"
    folder.mkdir(parents=True)
    for name, content in {
        "bom": b"\xef\xbb\xbfdef f():\r\n    return 'x'\r\n",
        "latin": "# -*- coding: latin-1 -*-\ndef f():\n    return 'x'  # \xfc\n".encode("latin-1"),
    }.items():
        (folder / f"{name}.py").write_bytes(content)
        kept = user.kept(f"{folder / name}.py:f")
        assert user.function(kept)() == "x"
        keeping.keep(user.codes([kept]), tmp_path / name)
        assert [c.main for c in keeping.know(tmp_path / name)] == [f"{name}.py"]
    monkeypatch.chdir(tmp_path)
    assert user.function("code/nets/bom.py:f")() == "x"


def test_a_file_named_like_the_library_that_it_imports(tmp_path: Path) -> None:
    (tmp_path / "PIL.py").write_text("from PIL import Image\ndef f():\n    return Image.new('L', (2, 3)).size\n")
    assert user.function(f"{tmp_path}/PIL.py:f")() == (2, 3)


def test_somebody_elses_home_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("def f():\n    return 1\n")
    kept = user.codes([f"{tmp_path}/own.py:f"])

    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refused)
    assert keeping.changed(kept) == []


def test_a_trial_that_takes_over_keeps_its_code(own: Path, tmp_path: Path, sparring: Command) -> None:
    from sparring.cluster.search.trial import take_over

    flags = [*FLAGS, f"--network={own}:net", "--checkpoint.every=10"]
    for name in ("donor", "path"):
        assert sparring("train", "at", *flags, f"--name={name}").returncode == 0
    take_over(tmp_path / "runs" / "path", tmp_path / "runs" / "donor", 10, {"optim.lr": 0.01})
    assert list((tmp_path / "runs" / "path" / "code").glob("*/own.py"))
