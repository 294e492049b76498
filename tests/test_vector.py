"""Vector output: the flow, the dual's maximum, the program, exact limits and certificates with K outputs."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow import datasets
from gflow.descend import gradient
from gflow.vector.oracle import vector_maximum

CLASSES = datasets.orthogonal_classes(n=12, d=4, k=3, seed=1)


def network_of(seed, d, m, K, scale=1e-2):
    rng = np.random.default_rng(seed)
    W, V = scale * rng.standard_normal((d, m)), rng.standard_normal((m, K))
    V = V / np.linalg.norm(V, axis=1, keepdims=True) * np.linalg.norm(W, axis=0)[:, None]
    return gflow.VectorTwoLayer(jnp.asarray(W), jnp.asarray(V))


def gaussian_classes(n, d, K, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), datasets.one_vs_rest(np.append(np.arange(K), rng.integers(0, K, n - K)))


def test_one_output_is_the_scalar_flow():
    # fixed steps: an adaptive controller measures an error over all coordinates, of which vector output has more
    data = datasets.gaussian(n=10, d=5)
    scalar, vector = gflow.Problem(data.X, data.y), gflow.Problem(data.X, data.y[:, None])
    network = gflow.Gaussian(1e-2)(gflow.key_of(0, 0), scalar, 20)
    twin = gflow.VectorTwoLayer(network.W1, network.w2[:, None])
    steps = {"until_s": 12.0, "saves": 1, "controller": diffrax.StepTo(jnp.linspace(0, 12, 241))}
    one, other = gflow.solve_flow(scalar, network, **steps), gflow.solve_flow(vector, twin, **steps)
    np.testing.assert_allclose(other.margins[..., 0], one.margins, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(other.final.W1, one.final.W1, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(other.lam[..., 0], one.lam, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(other.log_t, one.log_t, rtol=1e-12)
    lam = one.lam[-1]
    residuals = scalar.kkt_residual(one.final, lam), vector.kkt_residual(other.final, lam[:, None])
    assert residuals[0] == pytest.approx(float(residuals[1]), rel=1e-12)


def test_one_output_has_the_scalar_limit_and_certificate():
    data = datasets.gaussian(n=10, d=5)
    scalar, vector = gflow.Problem(data.X, data.y), gflow.Problem(data.X, data.y[:, None])
    network = gflow.Gaussian(1e-3)(gflow.key_of(0, 1), scalar, 20)
    twin = gflow.VectorTwoLayer(network.W1, network.w2[:, None])
    limits = [
        gflow.find_limit(problem, gflow.solve_flow(problem, start, saves=1))
        for problem, start in ((scalar, network), (vector, twin))
    ]
    assert all(limit.polished for limit in limits)
    assert limits[1].objective == pytest.approx(limits[0].objective, rel=1e-12)
    known = gflow.faces(data.X)
    certificates = [
        gflow.certify(p, limit, known_faces=known) for p, limit in zip((scalar, vector), limits, strict=True)
    ]
    assert certificates[1].c == pytest.approx(certificates[0].c, rel=1e-11)
    assert certificates[1].verdict == certificates[0].verdict == gflow.VERDICT.NOT_GLOBAL
    assert certificates[1].optimum == pytest.approx(certificates[0].optimum, rel=1e-9)


def test_disjoint_supports_are_separate_problems():
    parts = [datasets.gaussian(n=6, d=3, seed=s) for s in (0, 1)]
    X = np.zeros((12, 6))
    Y, scale = np.zeros((12, 2)), 0.3
    W, A, ends, optima = np.zeros((6, 16)), np.zeros((16, 2)), [], []
    for k, data in enumerate(parts):
        rows, own = slice(6 * k, 6 * k + 6), slice(3 * k, 3 * k + 3)
        X[rows, own], Y[rows, k] = data.X, data.y
        problem = gflow.Problem(data.X, data.y)
        network = gflow.Gaussian(scale)(gflow.key_of(0, k), problem, 8)
        W[own, 8 * k : 8 * k + 8], A[8 * k : 8 * k + 8, k] = network.W1, network.w2
        tight = gflow.PIController(1e-8)
        ends.append(gflow.solve_flow(problem, network, until_t=20.0, saves=1, controller=tight))
        optima.append(gflow.solve_max_margin(problem).primal)
    vector = gflow.Problem(X, Y)
    flow = gflow.solve_flow(
        vector, gflow.VectorTwoLayer(jnp.asarray(W), jnp.asarray(A)), until_t=20.0, saves=1, controller=tight
    )
    for k, end in enumerate(ends):
        np.testing.assert_allclose(flow.margins[-1, 6 * k : 6 * k + 6, k], end.margins[-1], rtol=1e-5, atol=1e-9)
    assert np.all(np.asarray(flow.margins[-1])[Y == 0] == 1e30)
    assert flow.loss[-1] == pytest.approx(float(sum(end.loss[-1] for end in ends)), rel=1e-5)
    solved = gflow.solve_vector_max_margin(vector, rtol=1e-9)
    assert solved.primal == pytest.approx(sum(optima), rel=1e-8)
    assert solved.gap <= 1e-8


def euler(X, Y, W, A, until, h):
    """Explicit steps of the flow of the logistic loss on the clock s, sigma'(0) = 0: chatters where it slides."""
    for _ in range(round(until / h)):
        Z = X @ W
        H = np.maximum(Z, 0)
        weight = 1 / (1 + np.exp(Y * (H @ A)))
        Lam = Y * weight / weight.sum()
        W, A = W + h * (X.T @ ((Z > 0) * (Lam @ A.T))), A + h * (H.T @ Lam)
    return Y * (np.maximum(X @ W, 0) @ A)


def test_the_flow_is_that_of_small_steps():
    X, Y = gaussian_classes(10, 3, 3, seed=3)
    problem, start = gflow.Problem(X, Y), network_of(4, 3, 8, 3, scale=0.1)
    flow = gflow.solve_flow(problem, start, until_s=20.0, saves=8, kinks=200)
    reference = euler(X, Y, np.asarray(start.W1), np.asarray(start.W2), 20.0, 2e-4)
    kinds = np.asarray(flow.kinks.kind)
    assert np.sum(kinds == gflow.KINK.STARTED_SLIDING) >= 3 and np.sum(kinds == gflow.KINK.CROSSED) >= 10
    np.testing.assert_allclose(flow.margins[-1], reference, atol=5e-3 * np.abs(reference).max())
    assert float(flow.balance_drift) < 1e-12
    assert np.all(np.diff(flow.loss) < 0)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25)
def test_gradient_equals_automatic_differentiation(seed):
    X, Y = gaussian_classes(6, 3, 3, seed)
    problem, network = gflow.Problem(X, Y), network_of(seed, 3, 5, 3, scale=1.0)

    def loss(net):
        return jnp.sum(jnp.log1p(jnp.exp(-Y * (jnp.maximum(X @ net.W1, 0) @ net.W2))))

    exact, own = jax.grad(loss)(network), gradient(problem, network)
    np.testing.assert_allclose(own.W1, exact.W1, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own.W2, exact.W2, rtol=1e-9, atol=1e-12)
    # the least-norm velocity off the kinks is minus the gradient over S
    q = problem.margins(network)
    lam = problem.multipliers(q)
    dW, dA = problem.velocity(network, problem.least_norm_gradients(network, lam, 1e-12), lam)
    S = jnp.exp(problem.log_S(q))
    np.testing.assert_allclose(S * dW, -exact.W1, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(S * dA, -exact.W2, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 2**31 - 1), K=st.integers(1, 4))
@settings(max_examples=25)
def test_the_maximum_is_that_of_a_fine_grid(seed, K):
    rng = np.random.default_rng(seed)
    X, Lam = rng.standard_normal((7, 2)), rng.standard_normal((7, K))
    bound = vector_maximum(X, Lam, gflow.faces(X))
    angle = np.linspace(0, 2 * np.pi, 20001)
    values = np.linalg.norm(np.maximum(np.stack([np.cos(angle), np.sin(angle)], 1) @ X.T, 0) @ Lam, axis=1)
    assert values.max() <= bound.upper
    assert bound.lower <= bound.upper <= bound.lower * (1 + 1e-9)
    # a maximum on a ray, where the slope jumps, is missed by half a step of the grid
    assert bound.upper <= values.max() + 2e-4 * np.sum(np.linalg.norm(Lam, axis=1) * np.linalg.norm(X, axis=1))
    # what holds in any dimension holds here
    sampled = gflow.faces(X, samples=50, sampled=True)
    assert vector_maximum(X, Lam, sampled).upper >= values.max() * (1 - 1e-12)


def test_program_against_cvxpy_over_a_grid_of_directions():
    cp = pytest.importorskip("cvxpy")
    X, Y = gaussian_classes(6, 2, 3, seed=5)
    solved = gflow.solve_vector_max_margin(gflow.Problem(X, Y))
    assert solved.gap <= 1e-9
    angle = np.linspace(0, 2 * np.pi, 721)[:-1]
    H = np.maximum(X @ np.stack([np.cos(angle), np.sin(angle)]), 0)
    B = cp.Variable((720, 3))
    grid = cp.Problem(cp.Minimize(cp.sum(cp.norm(B, 2, axis=1))), [cp.multiply(Y, H @ B) >= 1])
    grid.solve(solver=cp.CLARABEL)
    assert solved.dual <= grid.value * (1 + 1e-8)
    assert grid.value == pytest.approx(solved.primal, rel=1e-3)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=15)
def test_weak_duality(seed):
    problem, network = gflow.Problem(CLASSES.X, CLASSES.y), network_of(seed, 4, 6, 3, scale=1.0)
    best = gflow.solve_vector_max_margin(problem, FACES)
    proof = gflow.certify(problem, network, known_faces=FACES, optimum=best)
    assert proof.lower_bound <= best.primal * (1 + 1e-12)
    if np.isfinite(proof.objective):
        assert proof.c >= 1 - 1e-9
        assert proof.verdict != gflow.VERDICT.GLOBAL


FACES = gflow.faces(CLASSES.X)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_orthogonally_separable_classes_are_global(index):
    problem = gflow.Problem(CLASSES.X, CLASSES.y)
    network = gflow.Gaussian(1e-3)(gflow.key_of(0, index), problem, 20)
    flow = gflow.solve_flow(problem, network, saves=1)
    limit = gflow.find_limit(problem, flow)
    proof = gflow.certify(problem, limit, known_faces=FACES)
    assert limit.polished and limit.kkt_residual <= 1e-12
    assert proof.verdict == gflow.VERDICT.GLOBAL
    assert proof.c == pytest.approx(1, abs=1e-9)
    # one neuron per class, up to a rotation among those of a class
    masks = {tuple(mask) for mask in limit.masks.T}
    assert masks == {tuple(column > 0) for column in CLASSES.y.T}


def test_a_worse_limit_is_not_global():
    # the zero output of one neuron too few: two neurons cannot do what three do
    problem = gflow.Problem(CLASSES.X, CLASSES.y)
    best = gflow.solve_vector_max_margin(problem, FACES)
    heavier = gflow.VectorTwoLayer(
        jnp.concatenate([best.network.W1, 0.1 * jnp.ones((4, 1))], axis=1),
        jnp.concatenate([best.network.W2, jnp.zeros((1, 3))]),
    )
    proof = gflow.certify(problem, heavier, known_faces=FACES)
    assert proof.verdict == gflow.VERDICT.NOT_GLOBAL
    assert float(problem.objective(proof.better)) == pytest.approx(best.primal, rel=1e-6)


def test_what_is_refused():
    X, Y = CLASSES.X, CLASSES.y
    problem, network = gflow.Problem(X, Y), network_of(0, 4, 5, 3)
    with pytest.raises(ValueError, match="start balanced"):
        gflow.solve_flow(problem, gflow.VectorTwoLayer(2 * network.W1, network.W2), until_s=1.0)
    with pytest.raises(ValueError, match="labels \\(n, K\\) go with"):
        gflow.solve_flow(problem, gflow.TwoLayer(network.W1, network.W2[:, 0]), until_s=1.0)
    with pytest.raises(ValueError, match="solve_vector_max_margin"):
        gflow.solve_max_margin(problem)
    with pytest.raises(ValueError, match="weight decay"):
        gflow.Problem(X, Y, weight_decay=0.1)
    with pytest.raises(ValueError, match="no law for vector output"):
        gflow.Independent(0.1)(gflow.key_of(0, 0), problem, 4)
    with pytest.raises(ValueError, match=r"labels \(n, K\) must be"):
        gflow.Problem(X, 2 * Y)


def test_commands_take_classes(tmp_path, capsys):
    import json

    from gflow.cli import main

    data = tmp_path / "classes.csv"
    rows = [",".join([*map(repr, x.tolist()), "abc"[np.argmax(y)]]) for x, y in zip(CLASSES.X, CLASSES.y, strict=True)]
    data.write_text("\n".join(["x1,x2,x3,x4,kind", *rows]))
    assert main(["run", str(data), "--width", "20", "--json", "--out", str(tmp_path / "flow.npz")]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["verdict"] == "GLOBAL" and np.shape(run["p"]) == (12, 3)
    assert {int(np.argmax(neuron["output"])) for neuron in run["neurons"]} == {0, 1, 2}
    saved = np.load(tmp_path / "flow.npz")
    np.savez(tmp_path / "w.npz", W1=saved["W1"][-1], W2=saved["W2"][-1])
    assert main(["certify", str(data), str(tmp_path / "w.npz"), "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert given["verdict"] == "NOT_GLOBAL" and 1 < given["certificate"] < 1.1
    assert given["kkt_point"]["verdict"] == "GLOBAL"
    assert given["kkt_point"]["objective"] == pytest.approx(run["objective"], rel=1e-9)
    assert main(["solve", str(data), "--json"]) == 0
    solved = json.loads(capsys.readouterr().out)
    assert solved["primal"] == pytest.approx(run["objective"], rel=1e-8) and solved["gap"] <= 1e-8
    assert np.shape(solved["alpha"]) == (12, 3) and len(solved["neurons"][0]["output"]) == 3
    assert main(["solve", str(data), "--beta", "0.1"]) == 2 and "keep two classes" in capsys.readouterr().err


def test_sweeps_take_classes(tmp_path, capsys):
    import json

    from gflow.cli import main

    out, page = tmp_path / "classes.zarr", tmp_path / "page"
    sweep = ["sweep", "orthogonal-classes:n=12,d=4,k=3,seed=1", "--width", "20", "--inits", "6", "--out", str(out)]
    assert main([*sweep, "--json"]) == 0
    swept = json.loads(capsys.readouterr().out)
    best = gflow.solve_vector_max_margin(gflow.Problem(CLASSES.X, CLASSES.y), FACES).primal
    proved = [limit for limit in swept["limits"] if limit["verdict"] == "GLOBAL"]
    assert swept["verdicts"]["GLOBAL"] >= 4 and swept["verdicts"]["NOT_GLOBAL"] == 0
    assert all(limit["objective"] == pytest.approx(best, rel=1e-6) for limit in proved)
    # a row is a network of the store, and the flow that run would make
    row = gflow.store.open_store(out).isel(init=proved[0]["example"])
    K = int(row["neurons"])
    network = gflow.VectorTwoLayer(jnp.asarray(row["W1"].values[:K].T), jnp.asarray(row["w2"].values[:K]))
    assert float(gflow.Problem(CLASSES.X, CLASSES.y).objective(network)) == pytest.approx(best, rel=1e-6)
    assert main(["verify", str(out), "--json"]) == 0 and json.loads(capsys.readouterr().out)["wrong"] == []
    assert main(["report", str(out), "--out", str(page), "--json"]) == 0
    assert "output 0: 4" in (page / "index.html").read_text()
    assert main([*sweep[:-1], str(tmp_path / "no.zarr"), "--init", "independent"]) == 2
    assert "start balanced" in capsys.readouterr().err


def test_programs_at_any_scale_and_without_a_solution():
    X, Y = gaussian_classes(6, 2, 3, seed=5)
    known = gflow.solve_vector_max_margin(gflow.Problem(X, Y))
    for scale in (1e-8, 1e10):
        solved = gflow.solve_vector_max_margin(gflow.Problem(scale * X, Y))
        assert solved.gap <= 1e-9
        assert scale * solved.primal == pytest.approx(known.primal, rel=1e-8)
    # one row with two labels; a row of zeros
    for X, Y in (([[1.0, 0.0], [1.0, 0.0]], [[1, 1], [-1, 1]]), ([[0.0, 0.0], [1.0, 0.0]], [[1, 1], [-1, 1]])):
        solved = gflow.solve_vector_max_margin(gflow.Problem(X, Y), rounds=3)
        assert solved.result == gflow.RESULTS.infeasible and solved.network is None


def test_an_svd_that_fails_costs_a_step_only(monkeypatch):
    def fails(*arguments, **options):
        raise np.linalg.LinAlgError("SVD did not converge in Linear Least Squares")

    problem = gflow.Problem(CLASSES.X, CLASSES.y)
    best = gflow.solve_vector_max_margin(problem, FACES)
    monkeypatch.setattr(np.linalg, "lstsq", fails)
    solved = gflow.solve_vector_max_margin(problem, FACES, rounds=4)
    assert solved.dual <= best.primal * (1 + 1e-12) and best.dual <= solved.primal * (1 + 1e-12)
