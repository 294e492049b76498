"""The commands, as a shell sees them: JSON, exit status, files, one-line errors."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

KEYS = {
    "verdict", "result", "objective", "lower_bound", "certificate", "optimum", "margin", "kkt_residual", "polished",
    "s", "log_t", "steps", "rejected", "balance_drift", "missing_neuron", "neurons",
}  # fmt: skip


@pytest.fixture
def shell(tmp_path, xla_cache):
    """A command in a process of its own, as a user starts it."""

    def call(*arguments):
        environment = os.environ | {"XDG_CACHE_HOME": xla_cache, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", "from gflow.cli import program; program()"]
        command += map(str, arguments)
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


@pytest.fixture
def gflow(tmp_path, monkeypatch, xla_cache):
    """The same command inside this process, which saves the import and shares what is compiled."""
    from gflow.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", xla_cache)

    def call(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(a) for a in arguments])
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

    return call


def strict(text):
    """One JSON object, no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def write_csv(path, X, labels, header=None):
    names = header or [f"x{j}" for j in range(X.shape[1])] + ["label"]
    lines = [",".join(names)] + [",".join([*map(str, row), str(label)]) for row, label in zip(X, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def test_run_writes_what_it_says(shell, tmp_path):
    done = shell(
        "run", "orthogonal-separable:n=8,d=2", "--width", 10, "--json", "--out", "flow.npz", "--plot", "flow.png"
    )
    assert done.returncode == 0, done.stderr
    summary = strict(done.stdout)
    assert set(summary) >= KEYS and summary["verdict"] == "GLOBAL" and summary["polished"]
    assert summary["certificate"] == pytest.approx(1.0, abs=1e-9)
    assert all(set(x) == {"sign", "mass", "direction", "mask", "sliding"} for x in summary["neurons"])
    assert sum(x["mass"] for x in summary["neurons"]) == pytest.approx(summary["objective"], rel=1e-9)
    with np.load(tmp_path / "flow.npz") as flow:
        k = len(flow["s"])
        assert flow["W1"].shape == (k, 2, 10) and flow["w2"].shape == (k, 10) and flow["margins"].shape == (k, 8)
        assert flow["log_t"].shape == flow["loss"].shape == (k,)
        assert flow["s"][-1] == pytest.approx(summary["s"])
    assert (tmp_path / "flow.png").stat().st_size > 10_000


def test_solve_with_weight_decay(gflow, tmp_path):
    (tmp_path / "one.csv").write_text("a,b,y\n0.6,-0.8,1.5\n")
    done = gflow("solve", "one.csv", "--beta", "0.2", "--loss", "squared", "--json")
    assert done.returncode == 0, done.stderr
    summary = strict(done.stdout)
    assert summary["primal"] == pytest.approx(0.5 * 0.2**2 + 0.2 * 1.3, rel=1e-12)
    assert summary["result"] == "successful" and summary["complete"] and summary["lower_bound"] == summary["dual"]
    assert summary["alpha"] == pytest.approx([0.2], rel=1e-6)
    for arguments, message in (
        (["--beta", "-1"], "--beta must be a positive number"),
        (["--loss", "exponential"], "give --beta too"),
        (["--beta", "1", "--loss", "hinge"], "--loss must be one of"),
    ):
        done = gflow("solve", "one.csv", *arguments)
        assert done.returncode == 2 and message in done.stderr
    done = gflow("sweep", "xor", "--loss", "hinge", "--inits", "2", "--out", "x.zarr")
    assert done.returncode == 2 and "--loss must be one of logistic, exponential" in done.stderr
    assert not (tmp_path / "x.zarr").exists()


def test_points_from_data_to_verdict(gflow, tmp_path):
    # least norm and weight decay on one sample, |x| = 1: 1/2 |theta|^2 = 1.5; v = 1.5 - beta
    (tmp_path / "one.csv").write_text("a,b,y\n0.6,-0.8,1.5\n")
    done = gflow("solve", "one.csv", "--loss", "squared", "--json")
    assert strict(done.stdout)["primal"] == pytest.approx(1.5, rel=1e-12)
    common = ("run", "one.csv", "--loss", "squared", "--width", "4", "--scale", "1e-9")
    done = gflow(*common, "--json")
    summary = strict(done.stdout)
    assert done.returncode == 0 and summary["verdict"] == "GLOBAL" and summary["result"] == "stationary"
    assert summary["objective"] == pytest.approx(summary["optimum"], rel=1e-6) and summary["loss"] < 1e-15
    summary = strict(gflow(*common, "--optimizer", "momentum:lr=0.1", "--steps", "2000", "--json").stdout)
    assert summary["verdict"] == "GLOBAL" and summary["optimum"] == pytest.approx(1.5) and summary["loss"] < 1e-15
    for arguments, message in (
        (("--optimizer", "adam:x=3"), "it takes lr=NUMBER"),
        (("--optimizer", "newton"), "--optimizer must be one of sgd"),
        (("--optimizer", "sgd", "--until-s", "1"), "leave --until-s out"),
        (("--optimizer", "sgd:batch=2"), "a batch has between 1 and n = 1"),
        (("--optimizer", "sgd", "--steps", "0"), "steps must be at least 1"),
        (("--init", "symmetric", "--width", "3"), "an even width"),
        (("--init", "dominated:ratio=0.5"), "at least 1"),
        (("--weight-decay", "-1"), "the weight decay must be at least 0"),
    ):
        done = gflow(*common, *arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
    done = gflow("sweep", "one.csv", "--loss", "squared", "--weight-decay", "0.2", "--inits", "3", "--width", "40",
                 "--init", "symmetric", "--out", "p.zarr", "--json")  # fmt: skip
    (limit,) = strict(done.stdout)["limits"]
    assert limit["objective"] == pytest.approx(0.5 * 0.2**2 + 0.2 * 1.3, rel=1e-9) and limit["verdict"] == "GLOBAL"
    assert strict(gflow("verify", "p.zarr", "--json").stdout)["whole"]


def test_leaky_points(gflow, tmp_path):
    # one neuron of slope 1/2 below 0 fits 1 and -1/2: least norm 1; with decay 1/4 it is 0.8, see test_leaky.py
    (tmp_path / "leaky.csv").write_text("x,y\n1,1\n-1,-0.5\n")
    common = ("leaky.csv", "--loss", "squared", "--activation", "leaky-relu:0.5", "--json")
    assert strict(gflow("solve", *common).stdout)["primal"] == pytest.approx(1.0, rel=1e-9)
    assert strict(gflow("solve", *common, "--beta", 0.25).stdout)["primal"] == pytest.approx(0.225, rel=1e-9)
    decay = ("--weight-decay", 0.25)
    summary = strict(gflow("run", *common, *decay, "--width", 4).stdout)
    assert summary["verdict"] == "GLOBAL" and summary["result"] == "stationary"
    assert summary["objective"] == pytest.approx(0.225, rel=1e-6)
    assert summary["certificate"] == pytest.approx(1, abs=1e-6)


def test_fixed_gates(gflow):
    common = ("run", "xor", "--width", 20, "--activation", "gated-relu")
    summary = strict(gflow(*common, "--json").stdout)
    # four gates, one per quadrant: v_k = r (+-1, +-1)/sqrt 2, and 2 sqrt 2 by |X^T D_k lambda| = |(1, 1)| alpha = 1
    assert summary["verdict"] == "GLOBAL" and summary["gates"] == 4 and summary["polished"]
    assert summary["objective"] == pytest.approx(2 * np.sqrt(2), rel=1e-9)
    assert "optimal among networks with these gates" in " ".join(gflow(*common).stdout.split())
    for arguments, message in (
        ((*common, "--loss", "squared"), "needs --weight-decay"),
        ((*common, "--optimizer", "adam"), "leave --optimizer out"),
        (("run", "orthogonal-classes", "--activation", "gated-relu"), "label values"),
    ):
        done = gflow(*arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)


def test_a_frozen_output_layer(gflow):
    common = ("run", "orthogonal-separable:n=8,d=2", "--width", 10, "--scale", 0.1, "--freeze-output")
    summary = strict(gflow(*common, "--json").stdout)
    # the function is the max-margin one, and no first layer is better for this second one
    assert summary["verdict"] == "GLOBAL" and summary["polished"] and summary["result"] == "margin_reached"
    assert summary["objective"] == pytest.approx(summary["optimum"], rel=1e-6)
    assert summary["frozen"]["certificate"] == pytest.approx(1, abs=1e-9)
    assert summary["frozen"]["objective"] > 5 * summary["objective"]  # w2 is small, so W1 is long
    shown = " ".join(gflow(*common).stdout.split())
    assert "proved: optimal among first layers for this second layer" in shown and "whose layers are both free" in shown
    for arguments, message in (
        ((*common, "--loss", "squared"), "give --until-s or --until-t"),
        ((*common, "--optimizer", "adam"), "leave --freeze-output out"),
        (("run", "orthogonal-classes", "--freeze-output"), "for two classes"),
    ):
        done = gflow(*arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)


def test_run_until_a_time(gflow, tmp_path):
    done = gflow("run", "xor", "--width", 2, "--until-s", 2, "--json")
    assert strict(done.stdout)["s"] == 2.0 and strict(done.stdout)["result"] == "horizon_reached"
    np.savez(tmp_path / "w.npz", W1=np.array([[0.5, 0.0], [0.2, 1.0]]), w2=np.array([1.0, -0.3]))
    done = gflow("run", "xor", "--weights", "w.npz", "--until-t", 3, "--out", "f.npz", "--json")
    assert strict(done.stdout)["log_t"] == pytest.approx(np.log(3), rel=1e-6)
    with np.load(tmp_path / "f.npz") as flow:
        np.testing.assert_allclose(flow["W1"][0], [[0.5, 0.0], [0.2, 1.0]])


def test_certify_a_given_network(gflow, tmp_path):
    X = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, -1.0], [-2.0, 0.5]])
    write_csv(tmp_path / "a.csv", X, ["cat", "cat", "ant", "ant"])
    V = np.array([[0.5, -0.6], [0.75, -0.4]])
    np.savez(tmp_path / "w.npz", W1=V * 3, w2=np.array([3.0, -3.0]))
    done = gflow("certify", "a.csv", "w.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert "ant -> -1, cat -> +1" in done.stderr
    summary = strict(done.stdout)
    assert set(summary) >= KEYS
    # |a| = 3 against |w| = 2.7 and 2.16: unbalanced, so the objective is above P* and the KKT point beside it is not
    assert summary["verdict"] == "NOT_GLOBAL"
    assert summary["kkt_point"]["verdict"] == "GLOBAL" and summary["kkt_point"]["objective"] == pytest.approx(
        1.6224981, abs=1e-6
    )


def test_sweep_report_and_continue(gflow, tmp_path):
    first = gflow("sweep", "orthogonal-separable:n=8,d=2", "--inits", 6, "--width", 8, "--out", "s.zarr", "--json")
    assert first.returncode == 0, first.stderr
    summary = strict(first.stdout)
    assert set(summary) >= {"inits", "verdicts", "limits", "seconds", "flows_per_second", "store"}
    assert summary["inits"] == 6 and sum(summary["verdicts"].values()) == 6
    assert set(summary["limits"][0]) >= {"objective", "certificate", "verdict", "count"}
    assert sum(x["count"] for x in summary["limits"]) == 6
    assert (tmp_path / "s.zarr.png").exists()
    import xarray as xr

    attributes = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).attrs
    assert {"versions", "device", "dtype", "command", "seed"} <= set(attributes)
    assert attributes["seconds"] == summary["seconds"] > 0
    again = gflow("sweep", "orthogonal-separable:n=8,d=2", "--inits", 6, "--width", 8, "--out", "s.zarr", "--json")
    assert "continuing" in again.stderr and strict(again.stdout)["limits"] == summary["limits"]
    other = gflow("sweep", "xor", "--inits", 6, "--width", 8, "--out", "s.zarr")
    assert other.returncode == 2 and "another problem" in other.stderr and other.stderr.count("\n") == 1
    shown = gflow("report", "s.zarr")
    assert shown.returncode == 0 and "6 of 6 initialisations" in shown.stdout


def test_data_lists_and_prints(gflow, tmp_path):
    listing = gflow("data").stdout
    for name in (
        "orthogonal-separable",
        "gaussian",
        "xor",
        "spike-free",
        "teacher",
        "iris",
        "wine",
        "breast-cancer",
        "digits",
    ):
        assert name in listing
    printed = gflow("data", "iris")
    (tmp_path / "iris.csv").write_text(printed.stdout)
    from gflow.cli.data import built_in, from_csv

    read, _ = from_csv(tmp_path / "iris.csv")
    np.testing.assert_array_equal(read.X, built_in("iris").X)
    np.testing.assert_array_equal(read.y, built_in("iris").y)


def test_classes_are_counted_and_real_labels_questioned(tmp_path):
    from gflow.cli.data import from_csv

    X = np.arange(8.0).reshape(4, 2) + 1
    write_csv(tmp_path / "stray.csv", X, [0, 1, 1, 2])
    _, (counts,) = from_csv(tmp_path / "stray.csv")
    assert "0 (1), 1 (2), 2 (1)" in counts
    write_csv(tmp_path / "real.csv", X, [0.5, 1.25, 1.25, 2.0])
    assert any("--loss squared" in note for note in from_csv(tmp_path / "real.csv")[1])


X3 = np.array([[1.0, 2.0], [3.0, -1.0], [-1.0, 0.5]])


def bad_files(path):
    write_csv(path / "good.csv", X3, [1, -1, 1])
    write_csv(path / "nan.csv", np.array([[1.0, np.nan], [0.0, 1.0]]), [1, -1])
    write_csv(path / "inf.csv", np.array([[1.0, np.inf], [0.0, 1.0]]), [1, -1])
    write_csv(path / "one.csv", X3, ["a", "a", "a"])
    write_csv(path / "three.csv", X3, ["a", "b", "c"])
    write_csv(path / "many.csv", np.arange(42.0).reshape(21, 2) + 1, [f"c{k}" for k in range(21)])
    (path / "ragged.csv").write_text("x,y,label\n1,2,1\n1,1\n")
    (path / "empty.csv").write_text("")
    (path / "header.csv").write_text("x,y,label\n")
    (path / "noheader.csv").write_text("1,2,1\n3,4,-1\n")
    (path / "text.csv").write_text("x,y,label\n1,red,1\n2,3,-1\n")
    (path / "front.csv").write_text("label,x,y\na,1,2\nb,2,3\n")
    (path / "broken.npz").write_text("not a zip")
    np.savez(path / "flat.npz", X=np.ones(3), y=np.ones(3))
    np.savez(path / "noy.npz", X=np.ones((3, 2)))
    np.savez(path / "w.npz", W1=np.ones((3, 4)), w2=np.ones(4))
    np.savez(path / "w_shape.npz", W1=np.ones((2, 4)), w2=np.ones(3))
    np.savez(path / "w_nan.npz", W1=np.full((2, 4), np.nan), w2=np.ones(4))
    np.savez(path / "w_complex.npz", W1=np.ones((2, 4)) * 1j, w2=np.ones(4))
    np.save(path / "w.npy", np.ones((2, 4)))
    np.savez(path / "data.npz", X=X3, y=[1, -1, 1])
    np.savez(path / "huge.npz", X=X3 * 1e150, y=[1, -1, 1])
    (path / "unlabelled.csv").write_text("x,y,label\n1,2,a\n1,1,\n2,1,b\n")
    (path / "semicolon.csv").write_text("x;y;label\n1;2;1\n1;1;-1\n")
    (path / "folder.png").mkdir()
    (path / "mine").mkdir()
    (path / "mine" / "x").write_text("x")


BAD = {
    "nan": ("run nan.csv", "nan.csv, line 2: column 'x1' is nan"),
    "inf": ("run inf.csv", "inf"),
    "one label": ("run one.csv", "two classes"),
    "three labels": ("solve three.csv --beta 0.1", "3 label values"),
    "too many labels": ("run many.csv", "more than 20"),
    "unbalanced classes": ("run orthogonal-classes --init independent", "no law for vector output"),
    "classes with decay": ("run orthogonal-classes --weight-decay 0.1", "without weight decay"),
    "ragged": ("run ragged.csv", "line 3"),
    "empty": ("run empty.csv", "no data"),
    "header only": ("run header.csv", "no data"),
    "no header": ("run noheader.csv", "header"),
    "text": ("run text.csv", "'red'"),
    "no file": ("run missing.csv", "cannot read"),
    "broken npz": ("run broken.npz", "not an .npz archive"),
    "flat X": ("run flat.npz", "X must be"),
    "no y": ("run noy.npz", "no array 'y'"),
    "weights of other d": ("certify good.csv w.npz", "W1 has 3 rows"),
    "weights of other d, run": ("run good.csv --weights w.npz", "W1 has 3 rows"),
    "weights of two widths": ("certify good.csv w_shape.npz", "W1 must be"),
    "weights nan": ("certify good.csv w_nan.npz", "finite"),
    "width 0": ("sweep good.csv --width 0 --out s.zarr", "width"),
    "scale 0": ("sweep good.csv --scale 0 --out s.zarr", "scale"),
    "scale -1": ("run good.csv --scale -1", "scale"),
    "inits 0": ("sweep good.csv --inits 0 --out s.zarr", "inits"),
    "float32": ("sweep good.csv --dtype float16 --out s.zarr", "float64"),
    "unknown loss": ("run good.csv --loss hinge", "hinge"),
    "options of a file": ("run good.csv:label=y", "the label is the last column"),
    "data seed of a file": ("sweep good.csv --data-seed 0..2 --out s.zarr", "is a file"),
    "label in front": ("run front.csv", "if it is the label"),
    "unknown data": ("run moons", "no data set 'moons'"),
    "unknown parameter": ("run gaussian:q=3", "no parameter 'q'"),
    "parameter text": ("run gaussian:n=ten", "whole number"),
    "spike-free n > d": ("run spike-free:n=9,d=3", "n <= d"),
    "both horizons": ("run good.csv --until-s 1 --until-t 1", "not both"),
    "negative horizon": ("run good.csv --until-s -1", "positive"),
    "plot suffix": ("run good.csv --plot a.txt", "must end in"),
    "no folder": ("sweep good.csv --out nowhere/s.zarr", "does not exist"),
    "foreign store": ("sweep good.csv --out mine", "name a folder that does not exist yet"),
    "no store": ("report nothing.zarr", "no store"),
    "complex weights": ("certify good.csv w_complex.npz", "real"),
    "npy weights": ("certify good.csv w.npy", "not an .npz archive"),
    "numbers out of range": ("run huge.npz", "rescale"),
    "empty label": ("run unlabelled.csv", "line 3"),
    "semicolons": ("run semicolon.csv", "commas"),
    "index -1": ("run good.csv --index -1", "numbered from 0"),
    "index 2^32": ("run good.csv --index 4294967296", "numbered from 0"),
    "seed -1": ("sweep good.csv --seed -1 --out s.zarr", "--seed"),
    "scale 1e300": ("run good.csv --scale 1e300", "scale"),
    "plot is a folder": ("run good.csv --plot folder.png", "folder"),
    "out is the data": ("run data.npz --out data.npz", "overwritten"),
    "out is a file": ("sweep good.csv --out good.csv", "is a file"),
    "out is empty": ("sweep good.csv --out .", "name of a store"),
    "parameter twice": ("run gaussian:n=3,n=4", "given twice"),
    "no parameter after colon": ("run gaussian:", "whole number"),
    "file as built-in": ("data good.csv", "is a file"),
    "other kind of file": ("run w.npy", ".csv"),
    "q_min of points": ("sweep good.csv --loss squared --q-min 1e5 --out s.zarr", "losses of margins"),
    "q_min and a horizon": ("run good.csv --q-min 1e5 --until-s 3", "leave --until-s out"),
    "q_min of a descent": ("run good.csv --q-min 1e5 --optimizer sgd", "leave --q-min out"),
    "q_min of fixed gates": ("run good.csv --q-min 1e5 --activation gated-relu", "leave --q-min out"),
    "q_min of three classes": ("run iris:0,1,2 --q-min 1e5", "one output"),
    "q_min 10": ("sweep good.csv --q-min 10 --out s.zarr", "between 1000 and 1e"),
    "processes -1": ("sweep good.csv --limit-processes -1 --out s.zarr", "--limit-processes"),
    "devices and a scheduler": ("sweep good.csv --devices 1 --scheduler tcp://x:1 --out s.zarr", "this machine"),
    "weight decay -1": ("run good.csv --weight-decay -1", "--weight-decay"),
    "unknown option": ("run good.csv --speed 3", "--speed"),
}


def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys, monkeypatch):
    # in one process: the errors come before anything is compiled
    from gflow.cli import main

    bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for name, (command, message) in BAD.items():
        assert main(command.split()) == 2, name
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if not line.startswith(("labels:", "warning:"))]
        assert len(errors) == 1 and errors[0].startswith("gflow: error: "), (name, captured.err)
        assert message in errors[0], (name, errors)
        assert captured.out == "", name
        assert sorted(tmp_path.rglob("*")) == before, f"{name} wrote something"


def test_one_label_as_numbers_is_a_problem(gflow, tmp_path):
    write_csv(tmp_path / "one.csv", np.array([[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]]), [1, 1, 1])
    done = gflow("run", "one.csv", "--width", 8, "--json")
    assert done.returncode == 0 and strict(done.stdout)["verdict"] == "GLOBAL"


def test_rows_that_can_never_be_separated_are_named(gflow, tmp_path):
    write_csv(tmp_path / "a.csv", np.array([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]), [1, 1, -1])
    done = gflow("run", "a.csv", "--width", 8, "--json")
    assert done.returncode == 0, done.stderr
    assert "row 1 is all zeros" in done.stderr and "rows 2 and 3 are equal" in done.stderr
    assert strict(done.stdout)["verdict"] == "UNFITTED"


@pytest.fixture
def ended_flow(monkeypatch):
    """A flow of case A that has ended at margins of 1e8, as if it had been integrated."""
    import jax.numpy as jnp

    import gflow as library

    V = 1e4 * np.array([[0.5, -0.6], [0.75, -0.4]])
    size = np.linalg.norm(V, axis=0) ** 0.5 * 100

    def flow_to(problem, network, q_min, *, watch, saves, max_steps):
        network = library.TwoLayer(
            jnp.asarray(V / np.linalg.norm(V, axis=0) * size)[None], jnp.asarray(size * np.array([1.0, -1.0]))[None]
        )
        q = problem.margins(network.at(-1))[None]
        watch(library.far.Underway(90.0, float(q.min()), 0.0, 103, 12))
        one, none = jnp.ones(1), jnp.asarray(0)
        return library.Flow(
            network, 90 * one, 1e8 * one, q, problem.multipliers(q[0])[None], 0 * one, library.RESULTS.margin_reached,
            jnp.asarray(103), none, none, None,
        )  # fmt: skip

    monkeypatch.setattr(library, "flow_to", flow_to)


def test_an_interrupt_during_the_proof_ends_with_the_limit(gflow, ended_flow, monkeypatch, tmp_path):
    import _thread

    import cases

    import gflow as library
    from gflow import deadline

    def hang(*_, **__):
        deadline.tell(1.5, 10.0)
        _thread.interrupt_main()
        time.sleep(30)

    write_csv(tmp_path / "a.csv", cases.A_X, ["b" if y > 0 else "a" for y in cases.A_y])
    common = ("run", "a.csv", "--width", 2)
    summary = strict(gflow(*common, "--json").stdout)
    assert summary["verdict"] == "GLOBAL" and summary["loss"] == 0 and summary["q_min"] > 1e3
    summary = strict(gflow(*common, "--proof-seconds", 0, "--json").stdout)
    assert summary["polished"] and summary["lower_bound"] <= summary["objective"] * (1 + 1e-6)
    monkeypatch.setattr(library, "certify", hang)
    done = gflow(*common, "--json")
    assert done.returncode == 130
    summary = strict(done.stdout)
    assert summary["verdict"] == "INCONCLUSIVE" and summary["polished"] and summary["lower_bound"] == 1.5
    assert summary["certificate"] == pytest.approx(summary["objective"] / 1.5)
    assert "limit (margin_reached): settled, P = 1.62249" in done.stderr and "store" not in done.stderr
    done = gflow(*common)
    assert done.returncode == 130 and done.stdout.startswith("limit (margin_reached): settled, P = 1.62249")
    assert gflow(*common, "--proof-seconds", -1).returncode == 2


def test_neurons_of_a_point_are_those_that_live(gflow, tmp_path):
    (tmp_path / "one.csv").write_text("a,b,y\n0.6,-0.8,1.5\n")
    summary = strict(gflow("run", "one.csv", "--loss", "squared", "--width", 4, "--scale", "1e-9", "--json").stdout)
    assert 0 < len(summary["neurons"]) < 4 and all(sum(x["mask"]) for x in summary["neurons"])
