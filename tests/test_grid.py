"""Grids: what a command line or a .toml file means, Wilson intervals, the phase diagram, tables of limits."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

import gflow
from gflow import plots, summary
from gflow.cli import tables
from gflow.cli.inputs import InputError
from gflow.cli.spec import read_spec
from gflow.records import distinct_limits, wilson


def test_flags_and_files_mean_the_same(tmp_path):
    flags = {"width": "2..4", "scale": "1e-3,1e-2", "law": "gaussian", "inits": 7, "data_seed": "1,5"}
    by_flags = read_spec("gaussian:n=6,d=2", flags)
    file = tmp_path / "sweep.toml"
    file.write_text(
        'data = "gaussian:n=6,d=2"\nwidth = [2, 3, 4]\nscale = [1e-3, 1e-2]\ninits = 7\ndata_seed = [1, 5]\n'
    )
    by_file = read_spec(str(file), {})
    assert by_file.values == by_flags.values
    assert list(by_flags.axes) == ["data_seed", "width", "scale"] and by_flags.width == 4
    cells = list(by_flags.cells())
    assert len(cells) == 12 and cells[0].where == {"data_seed": 0, "width": 0, "scale": 0}
    assert [c.width for c in cells[:4]] == [2, 2, 3, 3] and cells[1].law.scale == 1e-2
    for seed, cell in ((1, cells[0]), (5, cells[-1])):
        np.testing.assert_array_equal(cell.problem.X, gflow.datasets.gaussian(n=6, d=2, seed=seed).X)
    # a flag wins over the file
    assert read_spec(str(file), {"width": "9"}).values["width"] == 9


@pytest.mark.parametrize(
    "content, message",
    [
        ("width = 4", "needs data"),
        ('data = "xor"\nwdith = 4', "wdith"),
        ('data = "xor"\nwidth = "4"', "width must be int"),
        ('data = "xor"\nwidth = [4, 4]', "must differ"),
        ('data = "xor"\ninits = [4, 8]', "inits must be int"),
        ('data = "xor"\nlaw = "uniform"', "--law"),
        ("data = xor", "cannot be read"),
    ],
)
def test_files_that_make_no_sense(tmp_path, content, message):
    file = tmp_path / "sweep.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        read_spec(str(file), {})


def test_a_range_that_holds_no_number():
    with pytest.raises(InputError, match=r"--width: 5..2 holds no number"):
        read_spec("xor", {"width": "5..2"})


@pytest.mark.parametrize("count, total", [(0, 10), (10, 10), (3, 17), (5000, 10_000)])
def test_wilson_agrees_with_scipy(count, total):
    ours, theirs = wilson(count, total), binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert ours["fraction"] == count / total
    np.testing.assert_allclose([ours["low"], ours["high"]], [theirs.low, theirs.high], atol=1e-12)
    assert wilson(0, 0)["fraction"] is None


def cell(width, scale, count):
    verdicts = {v.name: 0 for v in gflow.VERDICT} | {"GLOBAL": count, "UNFITTED": 10 - count}
    return {"width": width, "scale": scale, "done": 10, "verdicts": verdicts, "global": wilson(count, 10)} | {
        "fitted": wilson(count, 10)
    }


def test_phase_diagrams_show_every_cell():
    widths, scales = [2, 4, 8], [0.1, 1.0]
    cells = [cell(w, s, w) for w in widths for s in scales]
    figure = plots.phase_diagram({"axes": {"width": widths, "scale": scales}, "cells": cells})
    image = figure.axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(image, [[0.2, 0.4, 0.8]] * 2)  # scale upwards, width to the right
    assert figure.axes[0].get_xlabel() == "width $m$" and "scale" in figure.axes[0].get_ylabel()
    curve = plots.phase_diagram({"axes": {"width": widths}, "cells": [cell(w, 1.0, w) for w in widths]})
    line = curve.axes[0].containers[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.4, 0.8])


def test_flows_under_way_are_one_line_of_the_table():
    G, N = gflow.VERDICT.GLOBAL, gflow.VERDICT.INCONCLUSIVE
    found = distinct_limits([1.0, 3.1, 3.0, 1.0], [1, 2, 2, 1], np.array([G, N, N, G]), [1, 0, 0, 1])
    assert [(x["count"], x["objective"], x["polished"], x["example"]) for x in found] == [
        (2, 1.0, True, 0),
        (2, 3.0, False, 2),
    ]
    from rich.console import Console

    text = io.StringIO()
    found_of = {
        "axes": {},
        "limits": found,
        "done": 4,
        "inits": 4,
        "verdicts": summary.verdict_counts([G, N, N, G]),
        "predicted": 1,
        "farther": True,
        "used_up": {"max_seconds_reached": 2},
        "settled": 1,
        "unsettled": {"not_followed": 2, "border": 1},
    }
    tables.print_sweep(Console(file=text, width=120), found_of)
    assert "3 and more, under way" in text.getvalue()
    assert "named; without --q-min flows are followed to their limits" in text.getvalue()
    assert "1 flows were followed to their limits" in text.getvalue()
    assert "1 not settled (border): the flow comes to a KKT point on the border" in text.getvalue()
    tables.print_sweep(Console(file=text, width=120), found_of | {"farther": False})
    assert "could be named\n" in text.getvalue()


@pytest.mark.parametrize(
    ("asked", "farther"),
    [
        ({"loss": "logistic", "q_min": 1e5}, True),
        ({"loss": "logistic", "q_min": 1e8}, True),
        ({"loss": ["logistic", "squared"]}, False),
        ({}, False),
    ],
)
def test_sweeps_that_could_go_farther_are_told_so(asked, farther):
    assert summary._farther(SimpleNamespace(attrs={"spec": json.dumps(asked)})) is farther
