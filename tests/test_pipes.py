"""What commands say into a pipe, of unfinished stores and of a cache that cannot be written."""

import contextlib
import io
import json
import warnings

import jax
import numpy as np
import pytest

from gflow import store
from gflow.cli.environment import configure, plain_warnings
from gflow.cli.main import main
from gflow.cli.spec import read_spec
from gflow.records import wilson


@pytest.fixture
def command(tmp_path, monkeypatch, xla_cache, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", xla_cache)

    def call(*arguments):
        status = main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return call


def begun(path):
    """A store of xor without a row."""
    spec = read_spec("xor", {"inits": 70, "width": "4", "bias": True})
    (problem,), _ = spec.problems()
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    store.create(path, X, y, spec.values, inits=70, width=4, attributes={"seed": 0})


def test_an_unfinished_store_is_unfinished_and_not_damaged(command, tmp_path):
    begun("s.zarr")
    status, out, _ = command("verify", "s.zarr")
    assert status == 1 and "unfinished: 0 of 70 rows are done" in out and "NOT WHOLE" not in out
    (onward,) = [line for line in out.splitlines() if "this goes on: " in line]
    words = onward.partition("this goes on: ")[2].split()
    assert words[:3] == ["gflow", "sweep", "xor"] and words[-2:] == ["--out", "s.zarr"]
    assert {"--bias", "--inits", "70", "--width", "4"} <= set(words)
    found = json.loads(command("verify", "s.zarr", "--json")[1])
    assert found["sound"] and not found["whole"]
    (tmp_path / "s.zarr" / "X" / "c" / "0" / "0").write_bytes(b"")
    status, out, _ = command("verify", "s.zarr")
    assert status == 1 and "NOT WHOLE" in out and "goes on" not in out


def test_nothing_is_drawn_of_a_store_without_rows(command, tmp_path):
    begun("s.zarr")
    before = sorted(tmp_path.iterdir())
    for more in ((), ("--out", "page"), ("--json",)):
        status, out, err = command("report", "s.zarr", *more)
        assert status == 2 and not out and "none of the 70 rows" in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_table_in_a_pipe_is_not_wrapped(command):
    # six coordinates with nine digits are 60 columns, the rest of a row 30 more
    status, out, _ = command("solve", "gaussian:n=6,d=6")
    rows = [line for line in out.splitlines() if line.startswith((" + ", " - "))]
    assert status == 0 and rows and max(map(len, rows)) > 80
    assert all(row.count("(") == row.count(")") == 1 and row.count(",") == 5 for row in rows)


@pytest.mark.parametrize("total", [1, 2, 7, 10, 64, 256, 1000])
def test_a_share_of_none_or_of_all_is_bounded_by_it_exactly(total):
    assert wilson(0, total)["low"] == 0.0 and wilson(total, total)["high"] == 1.0


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"])
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys, name):
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore
    (tmp_path / "file").write_text("no folder")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "file" / "cache"))
    try:
        configure()
        assert jax.config.jax_compilation_cache_dir is None  # pyright: ignore
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "cannot be written" in err and name in err
        monkeypatch.setenv(name, str(tmp_path / "new"))
        configure()
        assert str(jax.config.jax_compilation_cache_dir).startswith(str(tmp_path / "new"))  # pyright: ignore
        assert not capsys.readouterr().err
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_warning_is_one_line_and_said_once():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), plain_warnings():
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("two\nlines", stacklevel=1)
    assert said.getvalue() == "warning: two lines\n"


@pytest.mark.parametrize(
    "content", ['data = "xor"  # \u00e9'.encode("latin-1"), 'data = "xor"'.encode("utf-16"), b"a = " + b"[" * 20000]
)
def test_a_sweep_file_that_is_no_text_is_one_line(tmp_path, content, capsys):
    (tmp_path / "spec.toml").write_bytes(content)
    assert main(["sweep", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "a.zarr")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "gflow: error" in line]
    assert "spec.toml" in line
