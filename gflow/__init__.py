"""gflow: gradient flow of two-layer ReLU networks, integrated to its limit and certified by convex duality.

    problem = gflow.Problem(X, y, loss=gflow.Logistic())
    network = gflow.Gaussian(scale=1e-3)(jax.random.key(0), problem, width=50)
    flow = gflow.solve_flow(problem, network)
    limit = gflow.find_limit(problem, flow)
    cert = gflow.certify(problem, limit)

Certificates need float64: jax.config.update("jax_enable_x64", True). Source: arXiv 2110.06488.
"""

from gflow._types import RESULTS, VERDICT, Scope, result_name
from gflow.activations import LeakyReLU, ReLU
from gflow.along import Along, along
from gflow.at_infinity import find_limit
from gflow.certificate import certify
from gflow.compiled import cache
from gflow.convex.arrangements import Arrangement, arrangement, gate_masks
from gflow.convex.column_generation import MaxMargin, solve_max_margin
from gflow.convex.exposed import distance_from_exposed_face, exposed_points
from gflow.convex.faces import Faces, faces
from gflow.convex.gated import Gated, solve_gated
from gflow.convex.min_norm import MinNorm, solve_min_norm
from gflow.convex.penalized import Penalized, solve_penalized
from gflow.descend import Descent, descend
from gflow.far import flow_to
from gflow.fates import FATE, fates
from gflow.flow.charts import BalancedPolar, Cartesian, FrozenOutput, Hyperbolic
from gflow.flow.chebyshev import Chebyshev
from gflow.flow.clocks import PhysicalClock, ScaledClock
from gflow.flow.controller import PIController
from gflow.flow.filippov import Filippov
from gflow.flow.kinks import KINK, Kinks
from gflow.flow.lanes import Stepper
from gflow.flow.solve import Flow, solve_flow
from gflow.flow.stop import KKTTarget, MarginTarget, Stationary, Unfitted
from gflow.frozen import FrozenLimit, frozen_limit
from gflow.gated_limit import GatedLimit, gated, gated_limit
from gflow.initializers import Dominated, Gaussian, Independent, Sphere, Symmetric, Unbalanced, key_of
from gflow.limit import Limit, limit_of_network
from gflow.losses import Exponential, Linear, Logistic, Squared
from gflow.network import TwoLayer, VectorTwoLayer, network_of_torch
from gflow.onward import onward
from gflow.problem import Problem
from gflow.programs.base import Certificate
from gflow.records import Records
from gflow.summary import sweep_summary
from gflow.sweep import sweep
from gflow.vector.program import VectorMaxMargin, solve_vector_max_margin

__version__ = "0.1.0"

__all__ = [
    "FATE",
    "KINK",
    "RESULTS",
    "VERDICT",
    "Along",
    "Arrangement",
    "BalancedPolar",
    "Cartesian",
    "Certificate",
    "Chebyshev",
    "Descent",
    "Dominated",
    "Exponential",
    "Faces",
    "Filippov",
    "Flow",
    "FrozenLimit",
    "FrozenOutput",
    "Gated",
    "GatedLimit",
    "Gaussian",
    "Hyperbolic",
    "Independent",
    "KKTTarget",
    "Kinks",
    "LeakyReLU",
    "Limit",
    "Linear",
    "Logistic",
    "MarginTarget",
    "MaxMargin",
    "MinNorm",
    "PIController",
    "Penalized",
    "PhysicalClock",
    "Problem",
    "ReLU",
    "Records",
    "ScaledClock",
    "Scope",
    "Sphere",
    "Squared",
    "Stationary",
    "Stepper",
    "Symmetric",
    "TwoLayer",
    "Unbalanced",
    "Unfitted",
    "VectorMaxMargin",
    "VectorTwoLayer",
    "along",
    "arrangement",
    "cache",
    "certify",
    "descend",
    "distance_from_exposed_face",
    "exposed_points",
    "faces",
    "fates",
    "find_limit",
    "flow_to",
    "frozen_limit",
    "gate_masks",
    "gated",
    "gated_limit",
    "key_of",
    "limit_of_network",
    "network_of_torch",
    "onward",
    "result_name",
    "solve_flow",
    "solve_gated",
    "solve_max_margin",
    "solve_min_norm",
    "solve_penalized",
    "solve_vector_max_margin",
    "sweep",
    "sweep_summary",
]
