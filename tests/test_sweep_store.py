"""The sweep and its store: rows, resumption, refusals, faults."""

import cases
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import gflow
import gflow.verification
from gflow import store
from gflow.records import distinct_limits

A = gflow.Problem(cases.A_X, cases.A_y)
LAW = gflow.Gaussian(1e-3)
SPEC = {"data": "case A", "width": 6}
SMALL = {"rows": 4, "chunk": 4}


@pytest.fixture(scope="module")
def records():
    return list(gflow.sweep(A, LAW, 6, 10, **SMALL))


def make(path, inits=10, spec=SPEC, y=cases.A_y):
    store.create(path, cases.A_X, y, spec, inits=inits, width=6, attributes={"seed": 0})


def test_rows_are_certified_limits(records):
    assert [len(r) for r in records] == [4, 4, 2]
    verdict = np.concatenate([r.verdict for r in records])
    objective = np.concatenate([r.objective for r in records])
    fitted = np.isfinite(objective)
    assert set(verdict[fitted]) == {gflow.VERDICT.GLOBAL}
    np.testing.assert_allclose(objective[fitted], cases.A_OPTIMUM, rtol=1e-9)
    # with six neurons a class can lack a live neuron of its sign: that is UNFITTED, not an error
    assert set(verdict[~fitted]) <= {gflow.VERDICT.UNFITTED}
    for r in records:
        for i in np.flatnonzero(np.isfinite(r.objective)):
            K = r.neurons[i]
            network = gflow.TwoLayer(jnp.asarray(r.W1[i, :K].T), jnp.asarray(r.w2[i, :K]))
            assert float(A.objective(network)) == pytest.approx(r.objective[i], rel=1e-12)
            assert np.all(np.isnan(r.W1[i, K:]))


def test_a_row_does_not_depend_on_the_other_rows(records):
    alone = next(gflow.sweep(A, LAW, 6, [7], **SMALL))
    whole = records[1]
    for name, column in alone.columns().items():
        np.testing.assert_array_equal(column[0], whole.columns()[name][3], err_msg=name)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_store_may_be_a_url(tmp_path, records, kind):
    path = f"file://{tmp_path}/with%20space.zarr" if kind == "file" else f"memory://{tmp_path}.zarr"
    make(path)
    for r in records[:2]:
        store.append(path, r)
    make(path)  # continued
    with store.writing(path):
        np.testing.assert_array_equal(store.pending(path), [8, 9])
    store.append(path, records[2])
    assert gflow.verification.verify(path, sample=2)["whole"]
    assert (tmp_path / "with space.zarr").is_dir() == (kind == "file")
    with pytest.raises(ValueError, match="another problem"):
        make(path, y=-np.asarray(cases.A_y))


def test_store_holds_what_was_written(tmp_path, records):
    path = tmp_path / "a.zarr"
    make(path)
    assert len(store.pending(path)) == 10
    for r in records[:2]:
        store.append(path, r)
    np.testing.assert_array_equal(store.pending(path), [8, 9])
    make(path)  # the same sweep again: continue
    store.append(path, records[2])
    dataset = xr.open_zarr(path, consolidated=False)
    for name, column in records[1].columns().items():
        if name != "index":
            np.testing.assert_array_equal(dataset[name].values[4:8], column, err_msg=name)
    assert len(store.pending(path)) == 0
    assert dataset.verdict.attrs["flag_meanings"].split()[1:] == [v.name for v in gflow.VERDICT]
    np.testing.assert_array_equal(dataset.X, cases.A_X)


def test_other_problems_and_settings_are_refused(tmp_path):
    path = tmp_path / "a.zarr"
    make(path)
    with pytest.raises(ValueError, match="another problem"):
        make(path, y=-cases.A_y)
    with pytest.raises(ValueError, match="width 6, not 7"):
        make(path, spec={**SPEC, "width": 7})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not a"):
        make(tmp_path / "notes")
    assert (tmp_path / "notes" / "x.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="no store"):
        make(tmp_path / "file")


def test_a_lane_that_fails_does_not_kill_its_block():
    # a step budget of 3: nothing is fitted, nothing is proved, every row says so
    r = next(gflow.sweep(A, LAW, 6, 4, **SMALL, max_steps=3))
    assert {gflow.result_name(code) for code in r.result} == {"max_steps_reached"}
    assert not np.any(r.verdict == gflow.VERDICT.GLOBAL)
    assert not r.polished.any()


def test_zero_initialisations_yield_nothing():
    assert list(gflow.sweep(A, LAW, 6, 0)) == []


def test_distinct_limits():
    G, N, U = gflow.VERDICT.GLOBAL, gflow.VERDICT.NOT_GLOBAL, gflow.VERDICT.UNFITTED
    objective = np.array([2.0, 1.0, np.inf, 1.0 + 1e-9, 2.0 + 1e-3, np.inf, 1.0])
    limits = distinct_limits(objective, np.ones(7), np.array([N, G, U, G, N, U, G]))
    assert [(x["count"], x["verdict"], x["example"]) for x in limits] == [
        (3, "GLOBAL", 1), (2, "UNFITTED", 2), (1, "NOT_GLOBAL", 0), (1, "NOT_GLOBAL", 4),
    ]  # fmt: skip
