"""The documentation is true: its code runs, its commands succeed, the site builds. `python -m pytest docs -n 2`."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

if jax.__version__.startswith("0.10."):  # as in tests/conftest.py: compiles in a third of the time
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    )
os.environ["MPLBACKEND"] = "Agg"

import gflow
from gflow import datasets, plots
from gflow.cli.main import main

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^(`{3,})([\w-]*)[^\n]*\n(.*?)^\1[ ]*$", re.DOTALL | re.MULTILINE)
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers", "latex2mathml")


def blocks(page):
    """(line, language, code) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(3)].count("\n") + 1, m.group(2), m.group(3)) for m in FENCE.finditer(text)]


def where(name):
    """The path of a public name in the reference: a function may have the name of its module."""
    return f"gflow.{name}.{name}" if importlib.util.find_spec(f"gflow.{name}") else f"gflow.{name}"


def runnable(page):
    return [block for block in blocks(page) if block[1] in ("python", "bash", "console")]


@pytest.fixture
def place(tmp_path, tmp_path_factory, worker_id, monkeypatch):
    """An empty folder to run in, float64, and one compilation cache for all pages and commands."""
    base = tmp_path_factory.getbasetemp()
    cache = (base if worker_id == "master" else base.parent) / "xla"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    settings = {
        "jax_enable_x64": True,
        "jax_compilation_cache_dir": str(cache / "gflow" / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    yield tmp_path
    for name, value in settings.items():  # a page may have changed them
        jax.config.update(name, value)


def run(code, page, line, names):
    """Python as it stands, with the line numbers of its page."""
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def commands(code):
    """The commands of a shell block: `gflow ...` and nothing else, with or without a prompt."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            assert words[0] == "gflow", f"only gflow is run here, put {line!r} into a text block"
            yield words[1:]


def test_readme_runs(place):
    """Its section "In Python", whose blocks are indented."""
    names, lines = {"__name__": "__main__"}, (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("## In Python") + 1
    stop = next(k for k in range(start, len(lines)) if lines[k].startswith("## "))
    code = "\n".join(line[4:] if line.startswith("    ") else "" for line in lines[start:stop])
    assert code.count("gflow.") > 5
    run(code, ROOT / "README.md", start + 1, names)
    assert names["cert"].verdict == gflow.VERDICT.GLOBAL


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_page_runs(page, place):
    names = {"__name__": "__main__"}
    for line, language, code in runnable(page):
        if language == "python":
            run(code, page, line, names)
        else:
            for arguments in commands(code):
                assert main(arguments) == 0, f"{page.name}, line {line}: gflow {shlex.join(arguments)}"


def test_every_block_has_a_language():
    bare = [f"{page.name}:{line}" for page in PAGES for line, language, _ in blocks(page) if not language]
    assert not bare, bare


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert sorted(named) == sorted([*map(where, gflow.__all__), "gflow.datasets", "gflow.plots"])


def test_names_of_headings_that_docstrings_cite():
    """What the source cites of the mathematics is a heading there, and nothing that only its authors have."""
    headings = set(re.findall(r"^#+ (.+)$", (DOCS / "mathematics.md").read_text(encoding="utf-8"), re.MULTILINE))
    cited = set()
    for file in (ROOT / "gflow").rglob("*.py"):
        text = " ".join(file.read_text(encoding="utf-8").split())
        assert not re.search(r"theory[,:] \"", text, re.IGNORECASE), file
        for names in re.findall(r'docs/mathematics\.md, ("[^"]+"(?: and "[^"]+")*)', text):
            cited |= set(re.findall(r'"([^"]+)"', names))
    assert len(cited) > 5 and cited <= headings, cited - headings


def test_site(tmp_path):
    """It builds without a warning, describes every public name, and loads nothing from elsewhere."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the site needs {', '.join(missing)}: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of the theme, about its own future
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (tmp_path / "reference").glob("*.html"))
    wanted = list(map(where, gflow.__all__))
    wanted += [f"gflow.datasets.{name}" for name in datasets.__all__]
    wanted += [f"gflow.plots.{name}" for name in plots.__all__ if callable(getattr(plots, name))]
    assert not [name for name in wanted if f'id="{name}"' not in reference]
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|preload)"[^>]+href="(?:https?:)?//', text), page
        assert 'class="arithmatex"' not in text, page  # every formula has become MathML
