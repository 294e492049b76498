"""Refilled lanes: a row is a function of its own initialisation, whatever the batch, its order and its devices."""

import itertools
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import maps
from gflow.checking import recheck
from gflow.flow import pool, station
from gflow.flow.lanes import Lane
from gflow.flow.modes import rounding
from gflow.legs import EARLY_RTOL
from gflow.network import host_network
from gflow.onward import LARGE
from gflow.patterns import on_hyperplanes
from gflow.sweep import Flows, chunk_for, sweep_grid

A = gflow.Problem(cases.A_X, cases.A_y)
LAW = gflow.Gaussian(1e-3)
INITS = 21


FAR = 1e5


def rows(indices=INITS, **options):
    return gflow.Records.joined(gflow.sweep(A, LAW, 6, indices, **({"rows": 5, "chunk": 4, "chunks": 1} | options)))


@pytest.fixture(scope="module")
def whole():
    return rows()


def assert_same(a, b):
    for name, column in a.columns().items():
        np.testing.assert_array_equal(column, b.columns()[name], err_msg=name)


def test_more_lanes_change_nothing(whole):
    assert_same(rows(chunks=3), whole)


class Counted(pool.Leg):
    """Its steps only note in every lane how many of its chunk are under way, and what most of them cost."""

    def _stepped(self, count, lanes):
        effort = jax.vmap(self.stepper.effort)(lanes)
        return lanes._replace(
            target=lanes.target + count,
            steps=jnp.full_like(lanes.steps, jnp.sum(lanes.running)),
            rejected=jnp.full_like(lanes.steps, jnp.max(effort)),
        )


class Effort(NamedTuple):
    """A stepper whose lanes have their effort in `controller`."""

    def effort(self, lane):
        return jnp.where(lane.running, lane.controller, 0)


def test_lanes_that_need_alike_many_stages_share_a_chunk(rng):
    effort = rng.permutation(np.arange(1, 13)).reshape(3, 4)
    running = effort > 5  # seven of twelve
    result_of = lambda on: gflow.RESULTS.where(on, gflow.RESULTS.successful, gflow.RESULTS.margin_reached)  # noqa: E731
    result = jax.vmap(jax.vmap(result_of))(jnp.asarray(running))
    zero, none = jnp.zeros((3, 4)), jnp.zeros((3, 4), int)
    lanes = Lane(None, None, zero, zero, None, None, jnp.asarray(effort), zero, none, none, none, result)
    after = Counted(Effort(), None)._advanced(lanes, jnp.asarray(7))
    np.testing.assert_array_equal(after.controller, effort)  # every lane is back in its place
    np.testing.assert_array_equal(after.target, 7)
    # the five that have ended fill the first chunk, and one place of the second
    np.testing.assert_array_equal(after.steps[running & (effort <= 8)], 3)
    np.testing.assert_array_equal(after.steps[effort > 8], 4)
    np.testing.assert_array_equal(after.rejected[running], np.where(effort <= 8, 8, 12)[running])
    assert np.sum(np.asarray(after.steps) == 0) == 4


def test_short_turns_and_the_last_flows_change_nothing(whole, monkeypatch):
    monkeypatch.setattr(sys.modules["gflow.sweep"], "STEPS", 3)  # flows end in turns of their own
    assert_same(rows(chunks=3), whole)


def test_programs_that_are_dropped_change_nothing(whole, monkeypatch, tmp_path):
    dropped = []

    def clear(clear=jax.clear_caches):
        dropped.append(clear())
        if len(dropped) == 2:  # at the start, and at a harvest
            (tmp_path / "allowed").write_text("100\n")

    monkeypatch.setattr(jax, "clear_caches", clear)
    (tmp_path / "allowed").write_text("10\n")
    (tmp_path / "present").write_text("a map\n" * 9)
    monkeypatch.setattr(maps, "ALLOWED", tmp_path / "allowed")
    monkeypatch.setattr(maps, "PRESENT", tmp_path / "present")
    monkeypatch.setattr(sys.modules["gflow.sweep"], "LOOK", 1)
    some = rows(6)  # all programs of a limit are compiled again
    for name, column in some.columns().items():
        np.testing.assert_array_equal(column, whole.columns()[name][:6], err_msg=name)
    assert len(dropped) == 2
    assert not maps.make_room() and len(maps.PRESENT.read_text().splitlines()) == 9
    monkeypatch.setattr(maps, "PRESENT", tmp_path / "absent")
    assert not maps.crowded(0.0)


def test_order_and_neighbours_change_nothing(whole):
    assert_same(rows(np.arange(INITS)[::-1]), whole)
    alone = rows([17])
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(alone.columns()[name][0], column[17], err_msg=name)


def test_groups_come_whole_and_once(whole):
    groups = list(gflow.sweep(A, LAW, 6, INITS, rows=5, chunk=4, chunks=1))
    assert sorted(len(g) for g in groups) == [1, 5, 5, 5, 5]
    for group in groups:
        np.testing.assert_array_equal(np.diff(group.index), 1)
    assert sorted(i for g in groups for i in g.index) == list(range(INITS))


def test_devices_change_nothing(whole, tmp_path):
    # three of eight forced host devices, one of them twice: each compiles for itself, eight would take a minute
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(cases.__file__)!r})
import jax; jax.config.update("jax_enable_x64", True); jax.config.update("jax_num_cpu_devices", 8)
import cases, numpy as np, gflow
assert len(jax.devices()) == 8
problem = gflow.Problem(cases.A_X, cases.A_y)
options = dict(rows=5, chunk=4, devices=[*jax.devices()[5:], jax.devices()[6]])
records = gflow.Records.joined(gflow.sweep(problem, gflow.Gaussian(1e-3), 6, {INITS}, **options))
np.savez(sys.argv[1], **records.columns())
"""
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), "JAX_LOG_COMPILES": "1"}
    out = tmp_path / "eight.npz"
    command = [sys.executable, "-c", code, out]
    said = subprocess.run(command, check=True, env=environment, stderr=subprocess.PIPE, text=True).stderr
    assert_same(gflow.Records(**np.load(out)), whole)
    assert said.count("Finished XLA compilation of jit(_turn)") == 3  # one each, not every pool or turn


def test_rows_that_wait_come_without_the_others_of_their_group(whole):
    parts = list(gflow.sweep(A, LAW, 6, INITS, rows=INITS, chunk=4, chunks=1, wait=0.0))
    assert len(parts) > 1 and len({i for part in parts for i in part.index}) == sum(map(len, parts)) == INITS
    assert_same(gflow.Records.joined(parts), whole)


def test_lanes_of_one_cell_take_up_the_work_of_the_next(whole):
    """Cells of one program share lanes, those of another problem have their own; no row depends on the others."""
    other = gflow.Problem(-cases.A_X, cases.A_y)
    cells = [(A, LAW, 6, np.arange(INITS)), (A, gflow.Gaussian(1e-2), 5, np.arange(6)), (other, LAW, 6, np.arange(6))]
    turns: list[tuple[int, int]] = []
    options = {"inits": INITS, "rows": 5, "chunk": 4, "chunks": 1, "devices": jax.devices()[:1]}
    found: dict[int, list] = {}
    for k, records in sweep_grid([Flows(*c) for c in cells], watch=lambda *t: turns.append(t), **options):
        found.setdefault(k, []).append(records)
    found = {k: gflow.Records.joined(records) for k, records in found.items()}
    assert_same(found[0], whole)
    for k in (1, 2):
        problem, law, width, indices = cells[k]
        assert_same(
            found[k], gflow.Records.joined(gflow.sweep(problem, law, width, indices, rows=5, chunk=4, chunks=1))
        )
        assert found[k].W1.shape[1] == width
    assert all(busy == lanes for busy, lanes in turns[: (INITS + 6) // 4])


def test_flows_that_two_devices_end_at_once_are_not_lost(whole, monkeypatch):
    """Between taking them from its lanes and putting them into the next queue a device holds them alone."""
    take = station.Lanes.take

    def slow(lanes, with_flows):
        taken = take(lanes, with_flows)
        time.sleep(0.1)
        return taken

    monkeypatch.setattr(station.Lanes, "take", slow)
    assert_same(rows(), whole)
    assert len(rows(8, seconds_per_flow=1e-9)) == 8


def test_a_flow_whose_seconds_are_used_up_says_so():
    some = rows(8, seconds_per_flow=1e-9)
    assert {gflow.result_name(code) for code in some.result} == {"max_seconds_reached"}
    assert np.all(some.verdict == gflow.VERDICT.INCONCLUSIVE) and not some.polished.any()
    for options in ({"seconds_per_flow": 0.0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            next(gflow.sweep(A, LAW, 6, 4, **options))


def test_neurons_that_are_zero_change_nothing():
    """Nor do they count in the norm of errors, or the more of them the less accurate the flow."""
    for activation in (gflow.ReLU(), gflow.LeakyReLU(0.2)):
        problem = gflow.Problem(cases.A_X, cases.A_y, activation=activation)
        network = LAW(gflow.key_of(0, 1), problem, 6)
        flows = [gflow.solve_flow(problem, n, saves=1) for n in (network, network.resized(40))]
        assert int(flows[0].steps) == int(flows[1].steps) and flows[0].result == flows[1].result
        final = flows[1].final
        np.testing.assert_allclose(final.resized(6).W1, flows[0].final.W1, rtol=1e-6, atol=1e-9)
        assert not np.any(final.W1[:, 6:]) and not np.any(final.w2[6:])


def test_refill_is_counted():
    busy = []
    watched = {"watch": lambda *turn: busy.append(turn), "devices": jax.devices()[:1]}
    list(gflow.sweep(A, LAW, 6, INITS, rows=5, chunk=4, chunks=1, **watched))
    assert {lanes for _, lanes in busy} == {4}
    # full until the queue is empty
    assert all(b == 4 for b, _ in busy[: INITS // 4]) and 1 <= busy[-1][0] <= 4


def test_a_lane_that_is_nan_ends_alone(whole):
    class Broken(gflow.Gaussian):
        def __call__(self, key, problem, width):
            network = super().__call__(key, problem, width)
            bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(gflow.key_of(0, 3)))
            return gflow.TwoLayer(jnp.where(bad, jnp.nan, network.W1), network.w2)

    alone = gflow.solve_flow(A, Broken(1e-3)(gflow.key_of(0, 3), A, 6), saves=1)
    assert gflow.result_name(alone.result) == "nonfinite" and int(alone.steps) <= 1
    records = gflow.Records.joined(gflow.sweep(A, Broken(1e-3), 6, INITS, rows=5, chunk=4, chunks=1))
    assert gflow.result_name(records.result[3]) == "nonfinite"
    assert records.verdict[3] == gflow.VERDICT.INCONCLUSIVE and np.isnan(records.objective[3])
    others = np.delete(np.arange(INITS), 3)
    for name, column in records.columns().items():
        np.testing.assert_array_equal(column[others], whole.columns()[name][others], err_msg=name)


def test_a_sweep_that_is_left_stops():
    several = gflow.sweep(A, LAW, 6, 64, rows=2, chunk=4, chunks=1)
    next(several)
    several.close()
    own = lambda: [t for t in threading.enumerate() if t.name.startswith("gflow device")]  # noqa: E731
    for thread in own():
        thread.join(60)
    assert not own()


def test_too_little_memory_halves_the_lanes(whole, monkeypatch):
    turn, calls = pool._turn, []

    def small(leg, lanes, fresh, stopped, *more):
        calls.append(len(stopped))
        if len(stopped) > 1 and len(calls) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes")
        return turn(leg, lanes, fresh, stopped, *more)

    monkeypatch.setattr(pool, "_turn", small)
    with pytest.warns(UserWarning, match="out of memory"):
        assert_same(rows(chunks=3, devices=jax.devices()[:1]), whole)
    assert calls[:3] == [3, 3, 3] and set(calls[3:]) == {1}
    monkeypatch.setattr(pool, "_turn", lambda *_: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("INTERNAL: bad")))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        rows()


def test_lanes_are_chosen_from_the_memory():
    class Device:
        platform = "gpu"

        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit} if self.limit else None

    sizes = [chunk_for(Device(2.0**k), A, 50, 10**7) for k in range(10, 40)]
    assert sizes[0] == 1 and sizes[-1] == 131072 and sizes == sorted(sizes)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert chunk_for(Device(None), A, 50, 10**7) == chunk_for(jax.devices()[0], A, 50, 10**7) == 64
    # no more lanes than flows, and in long sweeps several flows for every lane
    assert [chunk_for(Device(2.0**40), A, 50, inits) for inits in (1, 100, 10**5, 10**6)] == [1, 128, 16384, 32768]


def test_limits_found_in_another_process_are_the_same(whole):
    assert_same(rows(processes=1), whole)


def test_a_process_that_is_killed_is_reported():
    groups = gflow.sweep(A, LAW, 6, 200, rows=5, chunk=4, chunks=1, processes=1)
    next(groups)
    (child,) = multiprocessing.active_children()
    child.kill()
    with pytest.raises(RuntimeError, match="ended from outside"):
        list(groups)


def test_flows_in_float32_end_at_the_same_limits(whole):
    # margins of 1,000 have no digits to spare: rounding must neither stop a flow nor shrink its steps to nothing
    single = rows(dtype="float32")
    assert single.objective.dtype == np.float64 and np.max(single.steps) < 2_000
    assert {gflow.result_name(code) for code in single.result} <= {"margin_reached", "kkt_reached", "unfitted"}
    np.testing.assert_array_equal(single.verdict, whole.verdict)
    np.testing.assert_allclose(single.objective, whole.objective, rtol=1e-12)


def test_neurons_of_a_float32_flow_are_put_onto_their_hyperplanes(rng):
    X = rng.standard_normal((5, 3))
    problem = gflow.Problem(X, np.ones(5))
    W1 = rng.standard_normal((3, 4))
    W1[:, 0] -= X[1] * (X[1] @ W1[:, 0]) / (X[1] @ X[1])  # on one hyperplane
    W1[:, 1] = np.cross(X[2], X[3])  # on two
    W1[:, 2] *= 1e-20
    W1[:, 3] = 0.0
    single = np.asarray(np.asarray(W1, np.float32), float)
    band = rounding(np.float32)
    network = on_hyperplanes(problem, host_network(single, np.ones(4)), band)
    angles = np.abs(X @ network.W1[:, :2]) / np.linalg.norm(network.W1[:, :2], axis=0)
    np.testing.assert_allclose(network.W1, single, rtol=1e-6, atol=1e-6)
    placed, before = ([1, 2, 3], [0, 1, 1]), np.abs(X @ single[:, :2])
    assert np.max(angles[placed]) < 1e-14 and np.max(before[placed]) > 1e-9
    assert np.sum(angles < 1e-6) == 3
    np.testing.assert_array_equal(network.W1[:, 2:], single[:, 2:])
    # one near all of three hyperplanes that meet at 0 alone has no place on them
    flat = gflow.Problem(np.eye(3)[[0, 1, 2]] + 1e-9, np.ones(3))
    narrow = host_network(np.ones((3, 1)), np.ones(1))
    np.testing.assert_array_equal(on_hyperplanes(flat, narrow, 10.0).W1, narrow.W1)


def test_rows_are_checked_by_finer_flows(whole):
    said = {name: getattr(whole, name).copy() for name in ("verdict", "result", "objective")}
    cell, options = Flows(A, LAW, 6, np.arange(0)), {"rows": 5, "chunk": 4, "chunks": 1}
    found = recheck([cell], [said], 0.5, **options)
    assert found["rows"] == found["agree"] == math.ceil(INITS / 2) and not found["apart"]
    assert found["fraction"] == found["high"] == 1 and 0.6 < found["low"] < 1
    said["objective"][3] *= 1.01
    said["verdict"][4] = -1  # pending: left out
    found = recheck([cell], [said], 1.0, **options)
    assert found["rows"] == INITS - 1 and [x["index"] for x in found["apart"]] == [3]
    assert found["apart"][0]["finer"] == pytest.approx(whole.objective[3], rel=1e-9)


def test_flows_go_on_to_large_margins():
    """Against the same steps by diffrax, one flow at a time."""
    far = rows(q_min=FAR)
    stop = gflow.MarginTarget(LARGE), gflow.KKTTarget(), gflow.Unfitted()
    first = {"stop": stop, "controller": gflow.PIController(EARLY_RTOL), "saves": 1}
    reached = [i for i in range(INITS) if gflow.result_name(far.result[i]) == "margin_reached"]
    assert len(reached) > INITS / 2
    for i in reached[:5]:
        network = LAW(gflow.key_of(0, i), A, 6)
        flow = gflow.solve_flow(A, network, **first)
        other = gflow.onward(A, flow, q_min=FAR, rtol=1e-2)
        if i == reached[0]:  # the lane itself, with its path and what is seen on the way
            seen = []
            whole = gflow.flow_to(A, network, FAR, saves=5, watch=seen.append)
            assert whole.result == gflow.RESULTS.margin_reached and int(whole.steps) == far.steps[i]
            assert whole.s.shape == (5,) and whole.s[0] == 0 and np.all(np.diff(whole.s) > 0)
            np.testing.assert_allclose(whole.network.at(0).W1, network.W1, rtol=1e-12)
            assert float(whole.s[-1]) == pytest.approx(far.s[i], rel=1e-6)
            # multipliers at 1e5 are those of the weights, not of one sample
            assert float(A.kkt_residual(whole.final, whole.lam[-1])) < 1e-2
            assert seen[-1].steps == whole.steps and seen[-1].q_min == pytest.approx(float(whole.margins[-1].min()))
            assert seen[-1].s == whole.s[-1] and all(a.events <= b.events for a, b in itertools.pairwise(seen))
        assert far.s[i] == pytest.approx(float(other.s[-1]), abs=1.0)  # each ends with the step that passes q_min
        assert far.log_t[i] > 0.99 * FAR  # l(q) = exp(-q) falls like 1/t
        assert far.objective[i] == pytest.approx(gflow.find_limit(A, other).objective, rel=1e-9)
    # lanes, chunks, turns and order change nothing here either
    assert_same(rows(np.arange(INITS)[::-1], q_min=FAR, chunks=3), far)


def test_margins_that_cannot_be_asked_for():
    classes = gflow.Problem(np.eye(3), np.where(np.eye(3) > 0, 1.0, -1.0))
    squared = gflow.Problem(cases.A_X, cases.A_y, loss=gflow.Squared())
    for problem, options, why in [
        (A, {"q_min": 100.0}, "between 1000 and 1e"), (A, {"q_min": 1e12}, "between 1000 and 1e"),
        (A, {"q_min": FAR, "dtype": "float32"}, "too few digits"), (classes, {"q_min": FAR}, "one output"),
        (squared, {"q_min": FAR}, "losses of margins"), (A, {"q_min": FAR, "until": 3.0}, "leave until out"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=why):
            next(gflow.sweep(problem, LAW, 6, 4, **options))
