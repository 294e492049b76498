"""Certificate: what is proved about a network, and with what. Source: docs/mathematics.md, "The certificate"."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Float

from gflow._types import VERDICT
from gflow.network import TwoLayer


class Certificate(eqx.Module):
    """What is proved about a network.

    `objective`: P(theta). `lower_bound`: proved, P* >= lower_bound at every width. `c` = P(theta) B(p) >= 1, an upper
    bound of P(theta)/P*; infinite where the data are not fitted. `exact`: B(p) was maximised over all faces; otherwise
    c = P(theta)/lower_bound from bounds that hold for all directions (Gram, semidefinite). `p` (n,): the weights used;
    of a point alpha_n = -l'(q_n).
    `missing_neuron` (d,): a direction with |lambda^T (X u)_+| P(theta) > 1, whose absence keeps the network from the
    optimum; None if none was found, and for networks whose multipliers are guesses, unless they are NOT_GLOBAL.
    `better`: a feasible network (q_min = 1) with a lower objective, the proof of NOT_GLOBAL, or None. `optimum`: P*
    where it is proved to a relative gap of 1e-6 (by this certificate or by the solved program), else None.
    """

    verdict: VERDICT = eqx.field(static=True)
    objective: float
    lower_bound: float
    c: float
    p: Float[np.ndarray, " n"]
    missing_neuron: Float[np.ndarray, " d"] | None
    better: TwoLayer | None
    optimum: float | None
    exact: bool = eqx.field(static=True)
