"""Proofs that are cut: brackets hold whenever they end, and what is interrupted ends at once."""

import _thread
import itertools
import math
import threading
import time

import cases
import numpy as np
import pytest

import gflow
from gflow import datasets, deadline
from gflow.cli import work
from gflow.datasets import one_vs_rest

DATA = datasets.gaussian(n=10, d=3)
PROBLEM = gflow.Problem(DATA.X, DATA.y)
LABELS = np.where(DATA.y > 0, 1.5, -0.5)
CLASSES = gflow.Problem(DATA.X, one_vs_rest(np.arange(10) % 3))
MASKS = np.array(list(itertools.product((False, True), repeat=3)))

PROGRAMS = {
    "max-margin": lambda **o: gflow.solve_max_margin(PROBLEM, **o),
    "least norm": lambda **o: gflow.solve_min_norm(gflow.Problem(DATA.X, LABELS, gflow.Squared()), **o),
    "weight decay": lambda **o: gflow.solve_penalized(PROBLEM, 0.1, **o),
    "classes": lambda **o: gflow.solve_vector_max_margin(CLASSES, **o),
    "gates": lambda **o: gflow.solve_gated(gflow.Problem(np.eye(3), np.ones(3)), 0.1, MASKS, **o),
}


@pytest.fixture
def looks(monkeypatch):
    """A clock on which a second passes with every look at it."""
    seconds = itertools.count()
    monkeypatch.setattr(deadline.time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_is_cut_has_a_bracket_of_the_optimum(name, looks):
    solve = PROGRAMS[name]
    whole, told = solve(), []
    for budget in (0, 3, 10, 30, 100):
        with deadline.within(watch=lambda *bracket: told.append(bracket)):
            found = solve(budget=budget)
        lower = getattr(found, "lower_bound", found.dual)
        assert lower <= whole.primal * (1 + 1e-9) and found.primal >= whole.dual * (1 - 1e-9)
        assert found.gap <= 1 + 1e-12
    assert all(lower <= whole.primal * (1 + 1e-9) and upper >= whole.dual * (1 - 1e-9) for lower, upper in told)


def test_faces_that_take_too_long_are_sampled(looks):
    with deadline.within(2):
        found = gflow.faces(DATA.X)
    assert not found.complete and gflow.faces(DATA.X).complete


def test_a_certificate_says_no_more_than_is_proved_by_then(looks):
    optimum = gflow.solve_max_margin(PROBLEM)
    assert optimum.network is not None
    long = gflow.TwoLayer(1.3 * optimum.network.W1, 1.1 * optimum.network.w2)
    for budget in (0, 5, 50, None):
        for network, right in ((optimum.network, "GLOBAL"), (long, "NOT_GLOBAL")):
            proof = gflow.certify(PROBLEM, network, budget=budget)
            assert proof.verdict.name in (right, "INCONCLUSIVE") and proof.lower_bound <= optimum.primal * (1 + 1e-9)
            assert budget is not None or proof.verdict.name == right
    with pytest.raises(ValueError, match="a number of seconds"):
        gflow.certify(PROBLEM, long, budget=-1)


def test_deadlines_only_come_earlier():
    assert deadline.left() == math.inf and not deadline.passed()
    told = []
    with deadline.within(100, watch=lambda *bracket: told.append(bracket)):
        with deadline.within(share=0.5):
            assert 49 < deadline.left() <= 50
            with deadline.within(1000):
                assert deadline.left() <= 50
        assert 99 < deadline.left() <= 100
        with deadline.scaled(2.0), deadline.scaled(0.25):
            deadline.tell(1.0, 4.0)
        with deadline.aside():
            deadline.tell(7.0, 8.0)
        with deadline.within(0), pytest.raises(deadline.OutOfTime):
            deadline.require_time()
    assert told == [(0.5, 2.0)] and deadline.left() == math.inf


def test_a_program_of_scaled_data_tells_of_the_data_as_they_are():
    told = []
    scaled = gflow.Problem(1e6 * DATA.X, DATA.y)
    with deadline.within(watch=lambda *bracket: told.append(bracket)):
        found = gflow.solve_max_margin(scaled)
    assert told and all(lower <= found.primal * (1 + 1e-9) for lower, _ in told)
    assert told[-1][0] == pytest.approx(found.dual, rel=1e-6)


def test_work_ends_at_once_when_it_is_interrupted(capfd):
    threading.Timer(0.5, _thread.interrupt_main).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work.Work().do("sleeping", lambda: time.sleep(30))
    assert time.monotonic() - begun < 10


def test_work_that_does_not_heed_its_deadline_is_left_alone(monkeypatch):
    monkeypatch.setattr(work, "GRACE", 0.1)
    monkeypatch.setattr(work, "left_alone", [])
    with pytest.raises(work.Late):
        work.Work().do("sleeping", lambda: time.sleep(5), most=0.1)
    assert len(work.left_alone) == 1
    with pytest.raises(ZeroDivisionError):
        work.Work().do("dividing", lambda: 1 / 0)
    assert work.Work().do("adding", lambda: 1 + 1) == 2


def test_long_work_says_what_it_is_doing(monkeypatch, capfd):
    monkeypatch.setattr(work, "FIRST", 0.0)
    here = work.Work()

    def prove():
        here.bracket(1.0, math.inf)
        here.bracket(0.5, 3.0)
        time.sleep(0.6)

    here.do("proving", prove)
    assert "proving: 1 <= P* <= 3, " in capfd.readouterr().err


def test_a_limit_at_large_margins_has_the_multipliers_of_its_weights():
    """Where no exact limit is named, p of margins of 1e5 is one sample's."""
    problem = gflow.Problem(cases.A_X, cases.A_y)
    flow = gflow.flow_to(problem, gflow.Gaussian(1e-3)(gflow.key_of(0, 0), problem, 6), 1e5)
    own = gflow.limit_of_network(problem, flow.final, polish=False)
    assert float(own.kkt_residual) < 1e-3 and float(own.slackness) < 0.1
    p = np.abs(np.asarray(own.lam)) / np.abs(np.asarray(own.lam)).sum()
    exact = np.abs(np.asarray(gflow.find_limit(problem, flow).lam))
    np.testing.assert_allclose(p, exact / exact.sum(), atol=1e-2)
