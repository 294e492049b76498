"""The sweep and its store: rows, resumption, refusals, faults."""

import cases
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr

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
    found = list(gflow.sweep(A, LAW, 6, 10, **SMALL))  # in the order in which they are complete
    return sorted(found, key=lambda r: r.index[0])


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


def test_rows_are_written_as_they_come(tmp_path, records, rng):
    """A chunk that is written row by row has the bytes of one that is written at once; other rows stay pending."""
    whole, path = gflow.Records.joined(records), tmp_path / "a.zarr"
    make(tmp_path / "b.zarr")
    store.append(tmp_path / "b.zarr", whole)
    make(path)
    order = rng.permutation(10)
    for done, some in ((3, order[:3]), (8, order[3:8]), (10, order[8:])):
        store.append(path, gflow.Records(**{name: column[some] for name, column in whole.columns().items()}))
        assert len(store.pending(path)) == 10 - done
        assert gflow.verification.verify(path, sample=2)["sound"]
    chunks = lambda root: {p.relative_to(root): p.read_bytes() for p in root.rglob("c/**/*") if p.is_file()}  # noqa: E731
    assert chunks(path) == chunks(tmp_path / "b.zarr")


def test_rows_that_used_up_their_seconds_are_tried_again(tmp_path, records):
    path, whole = tmp_path / "a.zarr", gflow.Records.joined(records)
    make(path)
    code = int(np.asarray(gflow.RESULTS.max_seconds_reached._value))
    slow = whole.columns() | {"result": np.where(np.arange(10) % 4 == 1, code, whole.result)}
    store.append(path, gflow.Records(**slow))
    (wrong, *_) = gflow.verification.verify(path, sample=10)["wrong"]
    assert wrong["index"] == 1 and "stopped on its way" in wrong["what"]
    assert store.forget_result(path, code) == 3
    np.testing.assert_array_equal(store.pending(path), [1, 5, 9])


def test_an_interrupted_layout_leaves_nothing(tmp_path, records, monkeypatch):
    written = xr.Dataset.to_zarr

    def interrupted(self, *arguments, **options):
        written(self[["verdict", "X"]], *arguments, **options | {"encoding": {}})
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_zarr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []
    # a URL has no folder beside its place: what is there is refused, not continued
    with pytest.raises(KeyboardInterrupt):
        make(f"memory://{tmp_path}/half.zarr")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"lacks W1, .*layout was interrupted"):
        make(f"memory://{tmp_path}/half.zarr")
    (tmp_path / "a.zarr").mkdir()  # an empty folder is a place for a store
    make(tmp_path / "a.zarr")
    store.append(tmp_path / "a.zarr", gflow.Records.joined(records))
    assert len(store.pending(tmp_path / "a.zarr")) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def grid(path, records):
    """Widths 6 and 8, the first of them done."""
    options = {"inits": 10, "width": 8, "axes": {"width": [6, 8]}, "attributes": {"seed": 0}}
    store.create(path, cases.A_X, cases.A_y, SPEC | {"width": [6, 8]}, **options)
    store.append(path, gflow.Records.joined(records), {"width": 0})


def test_a_damaged_chunk_of_a_narrow_width_is_written_again(tmp_path, records):
    path = tmp_path / "a.zarr"
    grid(path, records)
    chunk = path / "W1" / "c" / "0" / "0" / "0" / "0"
    before = chunk.read_bytes()
    for damage in (before[:-5], b""):
        chunk.write_bytes(damage)
        assert gflow.verification.verify(path)["damaged"] == ["W1/c/0/0/0/0"]
        assert store.forget(path, ["W1/c/0/0/0/0"]) == 10
        store.append(path, gflow.Records.joined(records), {"width": 0})
        assert chunk.read_bytes() == before


def test_chunks_that_are_gone_and_edited_axes_are_found(tmp_path, records):
    path = tmp_path / "a.zarr"
    grid(path, records)
    assert gflow.verification.verify(path)["damaged"] == []  # nothing is missed where nothing was computed
    for name in ("slackness", "loss", "w2"):
        next(p for p in (path / name).rglob("*") if p.is_file() and p.name != "zarr.json").unlink()
    assert gflow.verification.verify(path)["damaged"] == ["loss/c/0/0", "slackness/c/0/0", "w2/c/0/0/0"]
    group = zarr.open_group(path, mode="r+")
    group["width"][0] = 7
    assert gflow.verification.verify(path)["changed"]


@pytest.mark.parametrize(
    "column, value, what",
    [
        ("verdict", gflow.VERDICT.UNFITTED, "recomputed"),
        ("certificate", np.inf, "c inf"),
        ("lower_bound", 2.0, "lower bound 2"),
        ("objective", np.inf, "without a limit"),
    ],
)
def test_every_part_of_a_proof_is_recomputed(tmp_path, records, column, value, what):
    path, joined = tmp_path / "a.zarr", gflow.Records.joined(records)
    make(path)
    store.append(path, joined)
    fitted = int(np.flatnonzero(joined.verdict == gflow.VERDICT.GLOBAL)[0])
    assert gflow.verification.verify(path, sample=10)["wrong"] == []
    zarr.open_group(path, mode="r+")[column][fitted] = value
    (wrong,) = gflow.verification.verify(path, sample=10)["wrong"]
    assert wrong["index"] == fitted and what in wrong["what"]


def test_weights_that_fit_are_not_unfitted(tmp_path, records):
    path, joined = tmp_path / "a.zarr", gflow.Records.joined(records)
    make(path)
    store.append(path, joined)
    fitted = int(np.flatnonzero(joined.verdict == gflow.VERDICT.GLOBAL)[0])
    group = zarr.open_group(path, mode="r+")
    group["objective"][fitted], group["verdict"][fitted] = np.inf, int(gflow.VERDICT.UNFITTED)
    (wrong,) = gflow.verification.verify(path, sample=10)["wrong"]
    assert "its weights have objective 1.6" in wrong["what"]


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
    assert np.all(r.verdict == gflow.VERDICT.INCONCLUSIVE)
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
