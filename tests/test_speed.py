"""The speed benchmarks at tiny sizes: they run, and what they fit and count means what they say."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))
import speed_gpu
import speed_scaling


def test_exponents_are_fitted_to_the_last_doublings():
    sizes = [10, 20, 40, 80, 160]
    assert speed_scaling.exponent(sizes, [1e9, *(s**1.5 for s in sizes[1:])]) == pytest.approx(1.5)


def test_a_step_is_timed_and_its_memory_counted():
    row = speed_scaling.step_cost(6, 2, 4, lanes=3, count=2, repeats=1, after=1)
    assert (row["n"], row["d"], row["m"]) == (6, 2, 4) and np.isfinite(row["us_per_step"]) and row["us_per_step"] > 0
    # at least the state of a lane, at most what a page of arrays would be
    assert 2 < speed_scaling.memory(6, 2, 4, lanes=3)["arrays_of_n_m"] < 400


def test_without_a_gpu_nothing_is_claimed(capsys):
    if speed_gpu.jax.devices()[0].platform != "cpu":
        pytest.skip("there is one")
    speed_gpu.main(anyway=False)
    assert "no GPU here: nothing was measured" in capsys.readouterr().out


def test_ceilings_are_those_of_the_arrays():
    found = speed_gpu.ceilings("float32", size=64, length=2**12)
    assert found["flops"] > 0 and found["bytes_per_s"] > 0
