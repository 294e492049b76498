"""Every notebook runs from nothing, imports gflow and little else, and shows the figures that it is committed with."""

import ast
import os
import pathlib
import sys

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks need the extra: pip install '.[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="the notebooks need the extra: pip install '.[notebooks]'")

FOLDER = pathlib.Path(__file__).parent
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
ALLOWED = {"jax", "optax", "gflow", "matplotlib", "scipy"}
LONGEST = 25
"""Lines of a cell: what is longer belongs into gflow."""


def images(notebook) -> int:
    """PNG figures among the outputs."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return sum("image/png" in out.get("data", {}) for out in outputs)


def test_there_are_notebooks():
    assert [name[:2] for name in NAMES] == ["00", "10", "20", "30", "40", "50", "60", "70"]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_thin(name):
    for cell in nbformat.read(FOLDER / name, as_version=4).cells:
        if cell.cell_type != "code" or cell.source.startswith("%%bash"):
            continue
        lines = [line for line in cell.source.splitlines() if not line.startswith(("!", "%"))]
        assert len(lines) <= LONGEST
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.names[0].name if isinstance(node, ast.Import) else node.module
                assert str(module).partition(".")[0] in ALLOWED


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, tmp_path, tmp_path_factory, monkeypatch):
    shared = tmp_path_factory.getbasetemp().parent / "xla"  # what one notebook compiled the next one need not
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(shared))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    committed = nbformat.read(FOLDER / name, as_version=4)
    fresh = nbformat.read(FOLDER / name, as_version=4)
    client = nbclient.NotebookClient(
        fresh, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises at the first cell that does
    assert images(fresh) == images(committed) > 0
