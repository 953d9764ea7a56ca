"""What the site has besides the pages of docs/, for MkDocs (mkdocs.yml): ``make site``.

README.md -> index.md | a file outside docs/ that a page links to -> a page at its own path, code as code
commands.md, api.md, gallery.md: made here, from the commands, ``sparring.__all__`` and the pictures that pages show
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

import sparring  # noqa: E402
from sparring.cluster.commands.cli import COMMANDS  # noqa: E402

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)([^)]*\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sbatch": "bash", "": "docker"}
WIDTH = 80  # columns of a help: what a page shows beside its two lists
RETURNED: dict[str, list[str] | None] = {  # what functions give back; of a configuration, what a script needs
    "cluster.config.run_config.RunConfig": ["method", "threats", "replace", "to_dict"],
    "cluster.runs.run.Run": None,
    "cluster.evaluation.results.Result": None,
    "cluster.search.results.Searched": None,
}

_origins: dict[str, Path] = {}  # page of the site -> the file that it is made of


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/."""
    _origins.clear()
    _origins.update({f.src_uri: Path(config.docs_dir, f.src_uri) for f in files.documentation_pages()})
    pages = dict(_origins)
    waiting = [*pages.values(), *(CLONE / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
    while waiting:
        file = waiting.pop()
        if place(file) not in pages:
            pages[place(file)] = _origins[place(file)] = file
            files.append(File.generated(config, place(file), content=content(file)))
        if file.suffix == ".md":
            waiting += [f for f in linked(file) if place(f) not in pages and f.suffix not in (".png", ".svg")]
    for name, text in (("commands.md", commands()), ("api.md", api()), ("gallery.md", gallery(pages))):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages of the site."""
    origin = _origins.get(page.file.src_uri)
    return markdown if origin is None else relinked(markdown, origin)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name functions as Sphinx does, ``:func:`load```, which Markdown does not know."""
    return re.sub(r":\w+:(?=<code>)", "", html)


def place(file: Path) -> str:
    """Where a file of the repository stands among the site's pages and pictures."""
    name = file.relative_to(CLONE).as_posix().removeprefix("docs/")
    if name == "README.md":
        return "index.md"
    return name if file.suffix in (".md", ".png", ".svg") else f"{name}.md"


def linked(page: Path) -> list[Path]:
    """Files of the repository to which a page links."""
    targets = [(page.parent / match[2]).resolve() for match in LINK.finditer(page.read_text())]
    return [t for t in targets if t.is_file() and t.is_relative_to(CLONE)]


def relinked(markdown: str, origin: Path) -> str:
    """A page's links as they are in the site; one that leads nowhere stays, so that MkDocs names it."""

    def there(match: re.Match[str]) -> str:
        target = (origin.parent / match[2]).resolve()
        if not target.is_file() or not target.is_relative_to(CLONE):
            return match[0]
        return match[1] + os.path.relpath(place(target), Path(place(origin)).parent) + match[3]

    return LINK.sub(there, markdown)


def content(file: Path) -> str:
    """A file outside docs/ as a page."""
    text = file.read_text()
    if file.suffix == ".md":
        return text
    if file.suffix == ".ipynb":
        return "\n\n".join(cell(c["cell_type"], "".join(c["source"])) for c in json.loads(text)["cells"])
    name = file.relative_to(CLONE).as_posix()
    return f"# {name}\n\n{fenced(text, LANGUAGES.get(file.suffix, 'text'))}"


def cell(kind: str, source: str) -> str:
    """A cell of a notebook."""
    return source if kind == "markdown" else fenced(source, "python")


def fenced(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````\n"


def commands() -> str:
    """The help of every command, as it prints it."""
    asked = [[], *([name] for name in COMMANDS), ["train", "mat"]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        helps = list(pool.map(help_of, asked))
    sections = [
        f"## {' '.join(['sparring', *args])}\n\n{fenced(text, 'text')}" for args, text in zip(asked, helps, strict=True)
    ]
    intro = "What each command says with `--help`. The last one shows the settings of a run, which other methods have too.\n"
    return "\n".join(["# Commands\n", intro, *sections])


def help_of(args: list[str]) -> str:
    """What ``sparring ARGS --help`` prints on a terminal of WIDTH columns."""
    command = [sys.executable, str(CLONE / "sparring.py"), *args, "--help"]
    env = {**os.environ, "COLUMNS": str(WIDTH)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return "\n".join(wrapped(line) for line in done.stdout.splitlines())


def wrapped(line: str) -> str:
    """A line of at most WIDTH columns; what a command is said to do stays beside its name."""
    name = re.match(r"  \S+ +", line)
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * (name.end() if name else 0))


def api() -> str:
    """The docstrings of what ``import sparring`` offers, of what its functions give back and of what they raise."""
    offered = [entry(f"sparring.{name}", home(name)) for name in sparring.__all__ if name != "errors"]
    given = [entry(path.rpartition(".")[2], f"sparring.{path}", only) for path, only in RETURNED.items()]
    raised = entry("sparring.errors", home("errors"))
    return "\n".join(
        ["# Python API\n\n## Functions\n", *offered, "## What they return\n", *given, "## What they raise\n", raised]
    )


def home(name: str) -> str:
    """The path at which the definition of a name is found without running anything."""
    offered = getattr(sparring, name)
    return offered.__name__ if name == "errors" else f"{offered.__module__}.{name}"


def entry(shown: str, path: str, only: list[str] | None = None) -> str:
    """A section that mkdocstrings fills, with all members or some."""
    label = shown.removeprefix("sparring.")
    options = {"heading": shown, "toc_label": label, "heading_level": 3, "members": only}
    lines = "".join(f"        {key}: {json.dumps(value)}\n" for key, value in options.items())
    return f"[](){{ #{shown} }}\n\n::: {path}\n    options:\n{lines}"


def gallery(pages: dict[str, Path]) -> str:
    """Every picture that a page shows, once, with a link to it."""
    shown: dict[str, str] = {}
    for name, file in sorted(pages.items()):
        text = relinked(file.read_text(), file) if file.suffix == ".md" else ""
        for words, picture in re.findall(r"!\[([^\]]+)\]\((\S+)\)", text):
            shown.setdefault(picture, f"## {words}\n\n[![{words}]({picture})]({name})\n")
    return "\n".join(["# Gallery\n\nPictures of these pages; each leads to where it is explained.\n", *shown.values()])
