"""Nothing that is said about small nasty problems is false; benchmarks/fuzz_statements.py tries many more."""

import cases
import numpy as np
import pytest
import statements
from statements import KINDS, VERDICT, Trial, masks, refuted, trial

import gflow

SEEDS = {kind: [seed for seed in range(200) if trial(seed).kind == kind][:4] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_no_statement_is_refuted(kind):
    assert [line for seed in SEEDS[kind] for line in refuted(seed)] == []


def test_all_masks_of_a_plane_arrangement_are_found_exactly():
    assert len(masks(np.array([[1.0, 0.0], [0.0, 1.0]]))) == 4
    # between two rows that differ by the last bit there is a cell; on every ray the rows that vanish there are off
    close = masks(np.array([[1.0, 0.0], [1.0, 2.0**-52]]))
    assert {tuple(row) for row in close} == {(True, True), (False, False), (True, False), (False, True)}
    assert len(masks(np.zeros((3, 2)))) == 1


@pytest.mark.parametrize("share", [0.99, 0.5])
def test_a_false_bound_is_seen(share):
    # the certificate of case A with its bound raised above the optimum, or with c below P/P*
    root = np.sqrt([np.linalg.norm(cases.A_PLUS), np.linalg.norm(cases.A_MINUS)])
    W1, w2 = np.stack([cases.A_PLUS, cases.A_MINUS], axis=1) / root, root * [1, -1]
    t = Trial("margin", cases.A_X, cases.A_y, W1, w2)
    true = gflow.certify(gflow.Problem(t.X, t.y), statements._network(t))
    assert statements._directions(t, true, 0.0, []) == []

    class False_:
        verdict, objective, better = VERDICT.GLOBAL, true.objective, None
        lower_bound, c = true.lower_bound / share, share

    assert len(statements._directions(t, False_, 0.0, [])) >= 2
