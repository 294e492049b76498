"""What a process did before changes no result: memory that nobody wrote, and denormal numbers switched off."""

import cases
import flushing
import jax
import numpy as np
import pytest

import gflow
from gflow.convex.newton import Patterns
from gflow.convex.nonnegative import nonnegative
from gflow.limit import limit_of_network
from gflow.network import host_network
from gflow.patterns import explaining

KNOWN = gflow.faces(cases.A_X)
MARGIN = gflow.Problem(cases.A_X, cases.A_y)
LEAKY = gflow.Problem(cases.A_X, cases.A_y, activation=gflow.LeakyReLU(0.1))
SQUARED = gflow.Problem(cases.A_X, [1.0, 2.0, -1.0, 0.5], gflow.Squared())
DECAY = gflow.Problem(cases.A_X, cases.A_y, weight_decay=0.1)


def test_least_squares_without_rows_have_the_solution_zero():
    for _ in range(100):  # SciPy's own answer is what lies in memory that numbers have just left
        left = [np.full(n, 1.5) for n in (4, 4, 8, 16)]
        del left
        np.testing.assert_array_equal(nonnegative(np.zeros((0, 4)), np.zeros(0)), np.zeros(4))


@pytest.mark.parametrize("size", [0.0, 5e-324, 1e-310, 1e-200, 1e150])
def test_multipliers_explain_weights_of_any_size_alike_and_weights_of_no_size_not_at_all(size):
    V = np.stack([cases.A_PLUS, cases.A_MINUS], axis=1)
    masks = (V.T @ cases.A_X.T > 0).T
    patterns = Patterns(np.array([1.0, -1.0]), masks, np.zeros((4, 2), bool))
    with np.errstate(under="ignore"):
        alpha = explaining(MARGIN, patterns, V * size)
    if size < 2e-308:
        assert alpha is None
    else:
        np.testing.assert_allclose(alpha * cases.A_OPTIMUM, cases.A_ALPHA, atol=1e-6)


def networks():
    """Two neurons whose weights are anything between 1e-322 and 1e300, per neuron, entry or layer."""
    rng = np.random.default_rng(42)
    V = np.stack([cases.A_PLUS, cases.A_MINUS], axis=1)
    root = np.sqrt(np.linalg.norm(V, axis=0))
    for k in range(15):
        powers = lambda *shape: 10.0 ** np.where(rng.random(shape) < 0.5, 0.0, rng.uniform(-322, 150, shape))  # noqa: E731
        W1, w2 = (V / root) * powers(*((2,) if k % 2 else (2, 2))), root * [1, -1] * powers(2)
        factor = 10.0 ** rng.uniform(-150, 150) if k % 3 else 1.0
        yield host_network(W1 * factor, w2 / factor)


CALLS = {
    "certify": lambda net: gflow.certify(MARGIN, net, known_faces=KNOWN),
    "certify leaky": lambda net: gflow.certify(LEAKY, net, known_faces=KNOWN),
    "certify squared": lambda net: gflow.certify(SQUARED, net, known_faces=KNOWN),
    "certify decay": lambda net: gflow.certify(DECAY, net, known_faces=KNOWN),
    "limit": lambda net: limit_of_network(MARGIN, net, settled=2.0),
    "limit's certificate": lambda net: gflow.certify(
        MARGIN, limit_of_network(MARGIN, net, settled=2.0), known_faces=KNOWN
    ),
    "point": lambda net: limit_of_network(DECAY, net),
    "frozen": lambda net: gflow.frozen_limit(MARGIN, net, KNOWN),
    "gated": lambda net: gflow.gated_limit(gflow.gated(MARGIN, net), net),
    "fates": lambda net: gflow.fates(MARGIN, net),
}


def answer(call, network):
    try:
        found = call(network)
    except ValueError as refused:
        return str(refused), []
    said = {name: getattr(found, name, None) for name in ("verdict", "polished", "stuck", "optimal", "exact")}
    return said, [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


@pytest.mark.skipif(not flushing.available(), reason="needs an x86-64 processor that runs what a test writes")
@pytest.mark.parametrize("name", CALLS)
def test_results_are_the_same_where_denormal_numbers_are_zero(name):
    for network in networks():
        with flushing.flushed(False):
            said, numbers = answer(CALLS[name], network)
        with flushing.flushed():
            said_flushed, flushed = answer(CALLS[name], network)
        assert said == said_flushed and len(numbers) == len(flushed)
        for a, b in zip(numbers, flushed, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-280)
