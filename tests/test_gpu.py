"""On a GPU the flows end where they end on the CPU. Skipped where there is none."""

import jax
import numpy as np
import pytest

import gflow
from gflow import datasets

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")

DATA = datasets.gaussian(10, 5)
INITS, CHUNK = 200, 256


def rows(devices=None, **options):
    problem = gflow.Problem(DATA.X, DATA.y)
    swept = gflow.sweep(problem, gflow.Gaussian(1e-3), 20, INITS, devices=devices, chunk=CHUNK, **options)
    return gflow.Records.joined(swept)


@pytest.fixture(scope="module")
def on_gpu():
    return rows()


@pytest.fixture(scope="module")
def on_cpu():
    return rows(jax.devices("cpu")[:1])


def test_limits_are_those_of_the_cpu(on_gpu, on_cpu):
    # a flow that passes close to a saddle leaves it on the side that rounding names
    same = (on_gpu.verdict == on_cpu.verdict) & np.isclose(on_gpu.objective, on_cpu.objective, rtol=1e-9)
    assert np.mean(same) >= 0.98
    assert np.mean(np.abs(on_gpu.steps - on_cpu.steps) <= 0.05 * on_cpu.steps) >= 0.9


def test_limits_are_exact_and_in_float64(on_gpu):
    settled = on_gpu.verdict != gflow.VERDICT.UNFITTED
    assert on_gpu.objective.dtype == np.float64 and np.mean(on_gpu.polished[settled]) >= 0.98
    assert np.max(on_gpu.kkt_residual[on_gpu.polished]) <= 1e-8


def test_other_lanes_change_nothing(on_gpu):
    swept = gflow.sweep(gflow.Problem(DATA.X, DATA.y), gflow.Gaussian(1e-3), 20, range(150, 50, -1), chunk=CHUNK)
    some = gflow.Records.joined(swept)
    for name, column in some.columns().items():
        np.testing.assert_array_equal(column, on_gpu.columns()[name][some.index], err_msg=name)


def test_flows_in_float32_end_at_the_same_limits(on_gpu):
    single = rows(dtype="float32")
    assert np.mean(np.isclose(single.objective, on_gpu.objective, rtol=1e-9, equal_nan=True)) >= 0.95


def test_a_flow_its_limit_and_its_proof():
    rng = np.random.default_rng(0)
    positive = np.abs(rng.standard_normal((6, 3))) @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    problem = gflow.Problem(np.concatenate([positive, -positive]), np.repeat([1.0, -1.0], 6))
    network = gflow.Gaussian(1e-3)(gflow.key_of(0, 0), problem, 20)
    limit = gflow.find_limit(problem, gflow.solve_flow(problem, network))
    assert limit.polished and gflow.certify(problem, limit).verdict == gflow.VERDICT.GLOBAL
