"""The claims of docs/results.md: what is said, its target, and how its figure is read from benchmarks/results.

A claim names the lines it rests on by a regular expression, how they become one figure, and the files of gflow/ whose
change makes the figure one of older code. `results_page.py` makes the page; it takes nothing else from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]

FLOW = ("gflow/flow", "gflow/box.py", "gflow/inclusion.py")
LIMIT = (*FLOW, "gflow/limit.py", "gflow/patterns.py", "gflow/programs", "gflow/convex/subsampled.py")
CONVEX = ("gflow/convex",)
PROOF = ("gflow/certificate.py", "gflow/convex/oracle.py", "gflow/convex/faces.py", "gflow/convex/semidefinite.py")
POINT = (*FLOW, "gflow/points.py", "gflow/point_certificate.py")
SWEEP = (*LIMIT, *PROOF, "gflow/sweep.py", "gflow/records.py")
STORE = (*SWEEP, "gflow/store.py", "gflow/cli/sweeps.py")
DESCENT = ("gflow/descend.py",)
VECTOR = (*FLOW, "gflow/vector")


@dataclass(frozen=True)
class Claim:
    """One line of the page. `lines`: those whose `claim` this expression matches; `reached`: None without target."""

    text: str
    target: str
    lines: str
    measures: tuple[str, ...]
    shown: Callable[[list[Line]], str] = lambda lines: ", ".join(number(x["measured"]) for x in lines)
    reached: Callable[[list[Line]], bool | None] = lambda lines: _met(lines)


@dataclass(frozen=True)
class Table:
    """The claims of one file of results. `peers`: its other lines follow, each with what `figure` reads from it."""

    title: str
    file: str
    command: str
    claims: tuple[Claim, ...]
    peers: Callable[[Line], str] | None = None


def number(value: Any) -> str:
    """A figure with three digits; strings, counts and truth as they are."""
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _met(lines: list[Line]) -> bool | None:
    known = [bool(line["met"]) for line in lines if line.get("met") is not None]
    return all(known) if known else None


def _each(key: str, scale: float = 1.0, unit: str = "") -> Callable[[list[Line]], str]:
    """The figure `key` of `measured` (or of the line) of every line, side by side."""
    return lambda lines: ", ".join(number(_at(line, key) * scale) for line in lines) + unit


def _at(line: Line, key: str) -> Any:
    measured = line.get("measured")
    return measured[key] if isinstance(measured, dict) and key in measured else line[key]


def _worst(key: str, target: float, least: bool = False) -> Callable[[list[Line]], bool]:
    """Is `key` within the target on every line?"""
    return lambda lines: all(_at(x, key) >= target if least else _at(x, key) <= target for x in lines)


def _seconds(line: Line) -> str:
    """Seconds to each level that was reached, for one flow and for programs."""
    if "skipped" in line:
        return str(line["skipped"])
    times = {level: t["all"] if isinstance(t, dict) else t for level, t in line["seconds_to"].items()}
    reached = ", ".join(f"{level}: {number(t)} s" for level, t in times.items() if t is not None) or "no level"
    return f"{reached}; best {line['best']:.1e}" if line.get("best") is not None else reached


def _rate(line: Line) -> str:
    if "flows_per_s" not in line:
        return number(line.get("measured"))
    reached = f" ({line['reached']:,} of {line['of']:,} arrive)" if "reached" in line else ""
    return f"{number(float(line['flows_per_s']))} flows/s{reached}"


def _steps_per_s(lines: list[Line]) -> str:
    return ", ".join(f"{number(x['steps_per_s'])} steps/s" if "steps_per_s" in x else "no memory" for x in lines)


def _verdict(lines: list[Line]) -> str:
    line = lines[0]
    objective = "no margin" if line["objective"] == float("inf") else f"P = {line['objective']:.5g}"
    return f"{line['measured']}: {objective}, P* ≥ {line['lower_bound']:.5g}"


def _ratio(key: str, target: float, seconds: float) -> Callable[[list[Line]], bool]:
    return lambda lines: all(_at(x, key) <= target and _at(x, "certificate_s") <= seconds for x in lines)


END_TO_END = Table(
    "The whole path, on data whose answer is known", "end_to_end", "python benchmarks/end_to_end.py",
    (
        Claim("case A (4 samples, P* = 1.6225), integration alone to q_min = 1e6: P*, relative", "≤ 1e-6",
              r"case A by integration alone, q_min 1e\+06: P\*.*", LIMIT),
        Claim("the same: both directions", "≤ 1e-6", r"case A by integration alone, q_min 1e\+06: directions", FLOW),
        Claim("the same: c − 1", "≤ 1e-6", r"case A by integration alone, q_min 1e\+06: c - 1", (*FLOW, *PROOF)),
        Claim("the same to q_min = 2e6: P*, both directions, c − 1", "≤ 1e-6", r"case A.*2e\+06.*", (*FLOW, *PROOF)),
        Claim("case A, limit solved for: P*, relative", "≤ 1e-10", "case A, limit solved for.*", LIMIT),
        Claim("case C (one neuron, closed form), scaled and physical clock", "≤ 1e-8", "case C on .*", FLOW),
        Claim("clock law d(log q)/ds = 4 margin, relative", "≤ 1e-2", "clock law.*", FLOW),
        Claim("balance drift over a flow, gaussian (10,5), balanced and unbalanced start", "≤ 1e-9",
              "balance drift.*", FLOW),
        Claim("largest relative rise of the loss, both starts (negative: it falls at every saved time)", "≤ 1e-12",
              "largest relative rise.*", FLOW),
        Claim("one flow against its row in a batch, margins, relative", "≤ 1e-9", "one flow against its row.*", FLOW),
        Claim("weak duality, 1,000 random networks: 1 − min c", "≤ 1e-9", "weak duality.*", PROOF),
        Claim("loss and margins against plain sums, n = 1 to 20", "≤ 1e-12", "loss and margins.*",
              ("gflow/problem.py", "gflow/network.py", "gflow/losses.py")),
        Claim("`gflow sweep iris --standardize --bias --inits 256`", "256 rows with a verdict",
              "gflow sweep iris.*", SWEEP, lambda x: f"{x[0]['verdicts']['GLOBAL']} GLOBAL, {x[0]['seconds']:.0f} s"),
        Claim("`gflow sweep orthogonal-separable:n=20,d=2,seed=0 --inits 256`", "256 rows with a verdict",
              "gflow sweep orthogonal.*", SWEEP,
              lambda x: f"{x[0]['verdicts']['GLOBAL']} GLOBAL, {x[0]['seconds']:.0f} s"),
        Claim("`gflow run` on 1,000 samples in 20 columns, `--proof-seconds 10`: seconds from the limit, which is "
              "printed first, to the end", "≤ 15", "gflow run on 1,000 samples.*",
              (*PROOF, "gflow/deadline.py", "gflow/cli")),
    ),
)  # fmt: skip

INTEGRATOR = Table(
    "The integrator", "bench_flow", "python benchmarks/bench_flow.py",
    (
        Claim("least-norm velocity at 10,000 random kinks, degenerate ones included, against all faces of the box",
              "≤ 1e-12", "least-norm velocity.*", ("gflow/box.py", "gflow/inclusion.py")),
        *(Claim(f"error against the tolerance, 1e-3 to 1e-9, gaussian ({n}), through {events} events of the "
                "event-driven reference", "error ~ rtol^0.8, steps^−4", rf"error at s = \d+, gaussian \({n}\).*", FLOW,
                lambda x: "error ~ rtol^{error ~ rtol^:.2f}, steps^−{error ~ steps^-:.1f}".format(**x[0]["measured"]))
          for n, events in (("10,5", 194), ("20,2", 87), ("40,3", 283))),
        Claim("attempted steps to s = 20, gaussian (10,5), m = 50, margins to 4 digits", "≤ 450",
              "attempted steps at 4-digit.*", FLOW),
        Claim("the same to 5 digits", "≤ 700", "attempted steps at 5-digit.*", FLOW),
        *(Claim(f"attempted steps of plain Tsit5 by hand (rtol 1e-5, atol {atol}) over Filippov's, {data}, at the same "
                "rtol, at the same error", target,
                rf"attempted steps, plain Tsit5 by hand \(rtol 1e-5, atol {atol}\).*, {pattern}", FLOW)
          for data, pattern, target in (("gaussian (10,5)", r"gaussian \(10,5\)", "≥ 50"),
                                        ("orthogonally separable (20,2)", r"orthogonally.*", "≥ 0.667"),
                                        ("gaussian (20,2)", r"gaussian \(20,2\)", "–"))
          for atol in ("1e-07", "1e-05")),
        Claim("attempted steps of plain Tsit5 in physical time to t = 1,000, budget 20,000: gaussian (10,5), "
              "orthogonally separable (20,2), gaussian (20,2)", "–", ".*in physical time to t = 1,000.*", FLOW),
        *(Claim(f"wall time of plain Tsit5 (atol {atol}) over Filippov's, batch of 256, gaussian (10,5), at the same "
                "rtol, at the same error", "≥ 30", rf"wall time.*atol {atol}\).*", FLOW)
          for atol in ("1e-07", "1e-05")),
        Claim("a step over a plain Tsit5 step by hand, per lane, batch of 1,024, gaussian (10,5)", "≤ 2",
              r"step of Filippov.*gaussian \(10,5\)", FLOW),
        Claim("the same, orthogonally separable (20,2)", "≤ 2", r"step of Filippov.*orthogonally.*", FLOW),
        Claim("dense kinks: steps at n m = 40,000 over steps at n m = 5,000, both to q_min = 100", "well below 8",
              "dense kinks.*", FLOW),
        Claim("XOR, fitted fraction of 4,096 starts, m = 4, 8, 12, in standard deviations from the exact law",
              "within 3, all predicted", "XOR, m = .*", FLOW, _each("deviations")),
        Claim("share with the same limit at rtol 1e-3 and 1e-8, 1,000 starts of gaussian (10,5)", "≥ 0.99",
              "same limit at rtol.*", LIMIT),
        Claim("of six such starts with another limit: share that a relative nudge of 1e-3, 1e-2 of the first weights "
              "moves at rtol 1e-8", "1 at 1e-3", "of 6 whose limit differs.*", LIMIT),
        Claim("other limit at q_min = 1e3, 1e4 than at 1e5, of 127 flows of gaussian (10,5) that fit", "–",
              r"gaussian \(10,5\): other limit at q_min = 10{3,4} than.*", LIMIT),
        Claim("the same of 128 flows of orthogonally separable (20,2)", "–",
              r"orthogonally.*: other limit at q_min = 10{3,4} than.*", LIMIT),
    ),
)  # fmt: skip

MODELS = Table(
    "Other losses, outputs, and descent", "bench_models", "python benchmarks/bench_models.py",
    (
        Claim("case D (squared loss, two orthogonal samples) from weights of 1e-30: both groups, and ½|θ|² = 1.3416408",
              "≤ 1e-8", "case D.*", POINT, lambda x: f"{_each('off')(x)}, {_each('norm_off')(x)}",
              lambda x: _worst("off", 1e-8)(x) and _worst("norm_off", 1e-8)(x)),
        Claim("least norm over all faces, 100 sets of (10,2) to (40,3), a quarter on integer grids: worst gap",
              "≤ 1e-9", "least norm.*", CONVEX,
              lambda x: "{measured:.3g} ({solved} solved, {infeasible} proved infeasible)".format(**x[0])),
        Claim("penalised optimum against CVXPY with Clarabel at 1e-11, 100 random problems, β from 0.01 to 3, relative",
              "≤ 1e-7", "penalised optimum.*", CONVEX),
        Claim("`descend` over a hand-written optax loop (SGD, 256 lanes, 2,000 steps), time", "≤ 1.1",
              "descend / hand.*", ("gflow/descend.py",)),
        *(Claim(f"{name}, gaussian (10,5), m = 50, 8 first weights of scale 1e-2: median q_min, P/P*, KKT residual",
                "–", "where flow and optimisers end.*", measures,
                lambda x, name=name: "{q_min:.3g}, {P_over_optimum:.4g}, {kkt_residual:.1g}".format(
                    **x[0]["measured"][name]))
          for name, measures in (("flow", LIMIT), ("SGD", DESCENT), ("SGD, batches of 4", DESCENT),
                                 ("momentum", DESCENT), ("Adam", DESCENT), ("normalised SGD", DESCENT))),
        Claim("K = 3 outputs, orthogonally separable classes (12,4), 20 fresh draws: GLOBAL among those with a live "
              "neuron for each class", "all", "orthogonally separable classes, K = 3.*", VECTOR,
              reached=lambda x: len(set(x[0]["measured"].split(" of "))) == 1),
        Claim("P* of gaussian (10,3), K = 3, 20 draws, over all faces: worst gap", "≤ 1e-9",
              r"P\* of gaussian \(10,3\).*", (*CONVEX, "gflow/vector"),
              reached=lambda x: x[0]["measured"] <= 1e-9 and x[0]["solved"] == x[0]["of"]),
        *(Claim(f"penalised optima as β → 0, {data}: 1 − margin / largest margin at β = 1e-2, 1e-6, 1e-12", "–",
                f"path beta -> 0.*{pattern}.*", CONVEX, lambda x: ", ".join(map(number, x[0]["measured"])))
          for data, pattern in (("orthogonally separable (20,2)", "orthogonally"), ("gaussian (10,5)", "gaussian"))),
        *(Claim(f"{data}, m = 50, first weights of scale 1e-3: {who}", "–", f"{pattern}: {who}.*", measures,
                _verdict)
          for data, pattern in (("iris 0, 1 (100,5)", "iris 0, 1"), ("iris, 3 classes (150,5)", "iris, 3 classes"),
                                ("wine, 3 classes (178,14)", "wine, 3 classes"),
                                ("breast-cancer (569,31)", "breast-cancer"),
                                ("digits 3, 5, 8 (539,64)", "digits 3, 5, 8"))
          for who, measures in (("flow", (*LIMIT, *PROOF, "gflow/vector")), ("Adam", (*PROOF, *DESCENT)))),
    ),
)  # fmt: skip

CONVEX_SIDE = Table(
    "The convex side", "bench_convex", "python benchmarks/bench_convex.py",
    (
        *(Claim(f"gaussian ({n}), random labels: certified gap, and time of Clarabel alone over gflow's",
                f"gap ≤ 1e-9{times and f', ≥ {times}'}", rf"max-margin, gaussian \({n}\), random.*", CONVEX,
                lambda x: f"{_each('gap')(x)}, {_each('times_faster')(x)}",
                lambda x, t=times: _worst("gap", 1e-9)(x) and (not t or _worst("times_faster", t, True)(x)))
          for n, times in (("20,2", 1), ("40,3", 5), ("100,2", ""), ("100,3", 30))),
        Claim("gaussian (60,5), 494 sampled masks: gap over them", "≤ 1e-9", r"max-margin, gaussian \(60,5\).*", CONVEX,
              _each("gap"), _worst("gap", 1e-9)),
        Claim("256 fresh seeds of gaussian (20,2), (20,3): worst gap", "≤ 1e-9", "256 fresh seeds.*", CONVEX,
              _each("worst_gap"), _worst("worst_gap", 1e-9)),
        Claim("100 sets with grids, duplicates, antipodal or collinear rows, deficient rank: worst gap",
              "≤ 1e-9, or proved infeasible", "100 data sets.*", CONVEX,
              lambda x: f"{_each('worst_gap')(x)} ({x[0]['measured']['feasible']} are feasible)",
              _worst("worst_gap", 1e-9)),
        Claim("batches of 64, gaussian (20,2): time of Clarabel over gflow's", "≥ 5", r"batch of 64.*\(20,2\)", CONVEX,
              _each("times_faster"), _worst("times_faster", 5, True)),
        Claim("batches of 64, gaussian (20,3): the same", "≥ 5", r"batch of 64.*\(20,3\)", CONVEX,
              _each("times_faster"), _worst("times_faster", 5, True)),
        *(Claim(f"gaussian ({n}), random labels: gap, seconds with compilation and faces", f"≤ 1e-8, {s} s",
                rf"large program, gaussian \({n}\).*", CONVEX,
                lambda x: f"{_each('gap')(x)}, {_each('first_call_s')(x)} s",
                lambda x, s=s: _worst("gap", 1e-8)(x) and _worst("first_call_s", s)(x))
          for n, s in (("60,4", 10), ("200,2", 3), ("500,2", 60))),
        *(Claim(f"weight decay {b}, squared loss, n = 500, d = 20, 200 sampled masks: gap, time of Clarabel over "
                "gflow's", "≤ 1e-6, ≥ 10", f"weight decay {b}, squared loss.*", CONVEX,
                lambda x: f"{_each('gap')(x)}, {_each('times_faster')(x)}",
                lambda x: _worst("gap", 1e-6)(x) and _worst("times_faster", 10, True)(x))
          for b in ("10", "1", "0.1")),
        Claim("weight decay 1e-3 to 3 on 120 small programs, three losses: median gap, share within 1e-9",
              "all ≤ 1e-9", "weight decay, 120.*", CONVEX,
              lambda x: f"{_each('median')(x)}, {_each('share_below_target')(x)}",
              _worst("share_below_target", 1.0, True)),
        *(Claim(f"{data}, faces not enumerated: objective / lower bound", f"≤ {ratio}",
                rf"any dimension, {pattern}", (*LIMIT, *PROOF, *CONVEX), _each("ratio"), _worst("ratio", bound))
          for data, pattern, ratio, bound in (
              ("orthogonally separable (50,30), (200,50)", "orthogonally.*", "1.000001", 1.000001),
              ("gaussian (30,60)", r"gaussian \(30,60\)", "1.05", 1.05),
              ("gaussian (40,20)", r"gaussian \(40,20\)", "1.2", 1.2))),
        Claim("1,000 flows on gaussian (10,5), m = 50: worst KKT residual of the limits of those that fit", "≤ 1e-8",
              "1000 flows.*", LIMIT, lambda x: f"{_each('fitted_worst')(x)} ({x[0]['measured']['fitted']} fit)",
              _worst("fitted_worst", 1e-8)),
    ),
)  # fmt: skip

PAPER = Table(
    "Claims of the paper", "bench_paper", "python benchmarks/bench_paper.py",
    (
        Claim("limits of flows on 10 draws of gaussian (10,5), m = 50, found again from their multipliers: worst error",
              "≤ 1e-8", "limits of flows on 10 draws.*", LIMIT,
              lambda x: f"{number(x[0]['measured'])} ({x[0]['limits']} limits)"),
        Claim("dual feasible if and only if optimal: share of the limits on 40 draws of gaussian (10,5)", "1",
              "dual feasible iff.*", (*LIMIT, *PROOF),
              lambda x: "{measured:.3g} ({feasible} feasible, {infeasible} not)".format(**x[0])),
        Claim("orthogonally separable (20,2), (200,2), (50,10), (200,50), m = 2 and 20: GLOBAL among runs with a live "
              "neuron for each class", "all", r"orthogonally separable \(\d+,\d+\), m = .*", (*LIMIT, *PROOF),
              lambda x: f"{sum(a['alive_global'] for a in x)} of {sum(a['alive'] for a in x)}"),
        Claim("gaussian (n,5), m = 50, n = 3, 5, 8, 10, 15: share of flows that fit whose limit is not global", "–",
              r"gaussian \(\d+,5\), m = 50: fitted.*", (*LIMIT, *PROOF)),
    ),
)  # fmt: skip

SWEEPS = Table(
    "Sweeps", "bench_sweep", "python benchmarks/bench_sweep.py",
    (
        Claim("100,000 initialisations of gaussian (10,5), m = 20, to certified limits in one command: flows/s, peak "
              "memory, and of the first tenth", "memory flat", "100000 initialisations of gaussian.*", STORE,
              lambda x: "{flows_per_s:.0f} flows/s, {peak_MB:,.0f} MB, {peak_MB_first_tenth:,.0f} MB".format(
                  **x[0]["measured"])),
        Claim("the same killed with SIGKILL three times and resumed, against the store that was not", "equal",
              "100000 initialisations, killed.*", STORE),
        Claim("two Dask workers, one killed mid-sweep, 2,000 initialisations, against one process", "equal",
              "two Dask workers.*", (*STORE, "gflow/cluster.py")),
        *(Claim(f"{what}, refilled lanes over vmapped batches of 512 without limits, gaussian (10,5), {widths}", "≥ 3",
                f"{what}, lanes refilled.*, {widths}, 512 each", SWEEP, lambda x: f"{x[0]['measured']:.5g}")
          for what in ("certified limits", "flows alone") for widths in ("all widths mixed", "one width each")),
        Claim("part of the steps that lanes made while work was queued, 4,096 flows of gaussian (10,5), 512 lanes: "
              "m = 4, 8, 16, 32, 64", "≥ 0.9", "lanes busy.*", ("gflow/flow", "gflow/sweep.py")),
        Claim("XOR of the corners of a square with bias, widths 1 to 5, 200 starts each: seconds of the grid in one "
              "command, compilation included, over those of a loop of descent", "≤ 1, fitted within 3 sigma",
              "XOR of corners.*", SWEEP),
        Claim("XOR over m = 2 to 16, 10,000 starts each: largest deviation of the fitted fraction from the exact law, "
              "in standard deviations", "≤ 3", "XOR, m = 2..16.*", STORE),
    ),
)  # fmt: skip

START = Table(
    "From a cold shell", "speed_start", "python benchmarks/speed_start.py",
    (
        Claim("`gflow run orthogonal-separable:n=20,d=2`, nothing compiled, seconds", "≤ 25", ".*empty compilation.*",
              ("gflow",)),
        Claim("the same with what an earlier run compiled, seconds", "≤ 10", ".*warm compilation.*", ("gflow",)),
    ),
)  # fmt: skip

BATCH = Table(
    "1,000 flows at once, m = 50", "speed_batch", "python benchmarks/speed_batch.py",
    (
        *(Claim(f"certified limits, {data}{far}, flows/s on {machine}", target,
                rf"{before}{pattern}: certified limits of 1000 initialisations, gflow\.sweep{end}", SWEEP)
          for data, pattern, target in (("orthogonally separable (20,2)", r"orthogonally separable \(20,2\)", "≥ 200"),
                                        ("gaussian (10,5)", r"gaussian \(10,5\)", "≥ 100"))
          for far, end, before, machine in (("", "", "", "two cores"),
                                            (" to q_min = 1e5", " to q_min = 1e5", "", "two cores"),
                                            ("", "", "two cores of the H200's machine.*: ", "two slower cores"))),
    ),
    _rate,
)  # fmt: skip

ONE_FLOW = Table(
    "One flow to a KKT residual, one thread", "speed_one_flow", "python benchmarks/speed_one_flow.py --budget 12",
    (
        Claim("orthogonally separable (20,2), m = 50: gflow, flow and exact limit",
              "1e-8 in less time than SciPy BDF on log L",
              r"orthogonally separable \(20,2\): (gflow, flow and limit|SciPy BDF on log L)", LIMIT,
              lambda x: " | ".join(map(_seconds, x)),
              lambda x: x[0]["seconds_to"]["1e-08"] < x[1]["seconds_to"]["1e-08"]),
        *(Claim(f"{data}, m = 50: gflow, flow and exact limit", "reaches 1e-8", rf"{pattern}: gflow, flow and limit",
                LIMIT,
                lambda x: _seconds(x[0]), lambda x: x[0]["seconds_to"].get("1e-08") is not None)
          for data, pattern in (("gaussian (10,5)", r"gaussian \(10,5\)"), ("iris (100,5)", r"iris \(100,5\)"))),
        Claim("gaussian (20,2), m = 50: the flow does not fit, which gflow proves", "a verdict",
              r"gaussian \(20,2\): gflow, flow and limit", LIMIT, lambda x: str(x[0]["verdict"]),
              lambda x: x[0]["verdict"] == "UNFITTED"),
    ),
    _seconds,
)  # fmt: skip

PROGRAMS = Table(
    "Convex programs to a proved gap, one thread", "speed_convex", "python benchmarks/speed_convex.py", (), _seconds
)

SCALING = Table(
    "How cost and memory grow", "speed_scaling", "python benchmarks/speed_scaling.py",
    (
        Claim("memory of a lane in a sweep, in arrays of n × m: (20,2) m = 50, (10,5) m = 50, (80,10) m = 100, "
              "(200,50) m = 200", "< 40", "memory of a lane.*", SWEEP),
        Claim("the same of `Stepper` called by hand, which holds the lanes before and after a call", "< 40",
              "memory of a lane.*", FLOW, _each("advance_arrays_of_n_m"), _worst("advance_arrays_of_n_m", 40)),
        *(Claim(f"a step of a lane as {v} is doubled from n d m = 1e5 on, after {after} steps: exponent", "≤ 1",
                rf"a step of a lane as {v} is doubled from .*after {after} steps", FLOW)
          for after in (0, 128) for v in "ndm"),
        *(Claim(f"the same below n d m = 1e5, {v} doubled: exponent", "≤ 1",
                f"a step of a lane as {v} is doubled, gaussian data", FLOW) for v in "ndm"),
        Claim("a step of a lane as lanes grow, 256 to 102,400, gaussian (10,5), m = 50: microseconds", "flat",
              r"\d+ lanes, gaussian.*", FLOW, _each("us_per_step"),
              lambda x: max(a["us_per_step"] for a in x) <= 1.25 * min(a["us_per_step"] for a in x)),
        Claim("1, 2, 4, 8 host devices on two cores, 2,000 certified flows of gaussian (10,5): flows/s", "–",
              r"\d+ host devices.*", SWEEP,
              lambda x: ", ".join(number(a["measured"]) for a in sorted(x, key=lambda a: int(a["claim"].split()[0])))),
        Claim("the same: different sums of the objectives", "1", "the same objectives.*", SWEEP),
    ),
)  # fmt: skip

GPU = Table(
    "One NVIDIA H200, gaussian (10,5), m = 50, rtol 1e-3", "speed_gpu_gpu", "python benchmarks/speed_gpu.py",
    (
        Claim("a thousand, ten thousand, a hundred thousand, a million lanes in float64", "–",
              r"NVIDIA H200, float64: \d+ lanes", FLOW, _steps_per_s),
        Claim("memory per lane, in arrays of n × m (1,000 to 100,000 lanes)", "≤ 40",
              r"NVIDIA H200, float64: 10{3,5} lanes",
              FLOW, _each("arrays_of_n_m"), _worst("arrays_of_n_m", 40)),
        Claim("share of the measured bandwidth, 100,000 lanes, by the compiler's count", "≥ 0.2",
              "NVIDIA H200, float64: 100000 lanes", FLOW, _each("share_of_bandwidth"),
              _worst("share_of_bandwidth", 0.2, True)),
        Claim("certified flows, limits found by 15 processes beside the GPU, flows/s", "≥ 20,000",
              "NVIDIA H200, flows in float64: certified flows, lanes that change places", SWEEP),
        Claim("certified flows to q_min = 1e5, with compilation, flows/s", "≥ 20,000",
              ".*certified flows to q_min = 1e5.*", SWEEP),
        Claim("flows without limits to q_min = 1e3, 1e5, flows/s", "–", ".*flows without limits, to q_min.*", FLOW),
        Claim("float32: flows of 256 that end within 528 steps", "256", "NVIDIA H200, float32: 256 flows.*", FLOW,
              reached=lambda x: x[0]["measured"] == x[0]["of"]),
        Claim("`tests/test_gpu.py`", "5 pass", r"NVIDIA H200, tests/test_gpu\.py", ("gflow",)),
    ),
)  # fmt: skip

STATEMENTS = Table(
    "What is said about small nasty problems, against rational numbers", "fuzz_statements",
    "python -m benchmarks.fuzz_statements N",
    (
        Claim("false statements among verdicts, bounds and better networks of random problems", "0 of 100,000",
              "no statement is false", ("gflow",), lambda x: f"{x[0]['measured']} of {x[0]['tries']:,}",
              lambda x: x[0]["measured"] == 0 and x[0]["tries"] >= 100_000),
    ),
)  # fmt: skip

INPUT = Table(
    "Broken files and names", "fuzz_input", "python -m benchmarks.fuzz_input N",
    (
        Claim("mangled .csv, .npz, .toml, names and weights that end in anything but one line: found, of", "0",
              "broken files and names.*", ("gflow/cli", "gflow/labels.py", "gflow/problem.py"),
              lambda x: f"{x[0]['measured']} of {x[0]['tries']:,}"),
    ),
)  # fmt: skip

INFINITY = (*LIMIT, "gflow/at_infinity.py")

LIMITS = Table(
    "Limits at q_min = infinity", "bench_limits", "python benchmarks/bench_limits.py",
    (
        *(Claim(f"gaussian (10,5), m = 50, 128 starts, flows at rtol {rtol}: settled limits of the 127 flows that fit",
                "127", f".*flows at rtol {rtol}: settled.*", INFINITY) for rtol in ("0.001", "1e-06")),
        Claim("the same: GLOBAL at 1e-3, the default, and at 1e-6", "within 1", ".*GLOBAL by default and.*", INFINITY),
        Claim("the same: rows with another limit at 1e-3 than at 1e-6", "≤ 1", ".*rows whose limit differs.*",
              INFINITY),
        *(Claim(f"24 flows of gaussian (10,5), all but a fitting set of neurons lowered by e^-{by} in mass: settled, "
                "and of these other than at tolerances of 1e-3 and 1e-4", "24, 0",
                rf"all but a fitting set of neurons lowered by e\^-{by}: settled.*", INFINITY) for by in (60, 400)),
        *(Claim(f"the same, e^-{by}: most steps at tolerances 0.1 and 0.01", "≤ 120",
                rf"all but a fitting set of neurons lowered by e\^-{by}: most steps.*", INFINITY) for by in (60, 400)),
        Claim("100 settled ends of gaussian (10,5) moved by 1e-4 in direction, small neurons lifted to a share of "
              "1e-3: go elsewhere", "0", ".*settled ends, moved by.*", INFINITY),
        *(Claim(f"{name}: settled; largest KKT residual or slackness; seconds a flow from q_min = 1e3, two or three "
                "looks, one core, without compilation", target, rf"{pattern}.*, m = \d+: .*", INFINITY,
                reached=lambda x: all(a["met"] for a in x if a.get("target") is not None))
          for name, pattern, target in (
              ("gaussian (10,5), m = 50", r"gaussian:n=10,d=5", "all; ≤ 1e-9; ≤ 0.02"),
              ("gaussian (30,60), m = 50", r"gaussian:n=30,d=60", "all; ≤ 1e-9; ≤ 0.1"),
              ("gaussian (40,20), m = 50", r"gaussian:n=40,d=20", "all; ≤ 1e-9"),
              ("teacher (100,5), m = 50", r"teacher:n=100", "all; ≤ 1e-9"),
              ("digits 3 and 8, m = 50", r"digits:first=3,second=8", "all; ≤ 1e-9"))),
    ),
)  # fmt: skip

BRUTE_FORCE = Table(
    "Settled limits against brute force", "brute_force", "python benchmarks/brute_force.py DATA --inits N --record",
    (
        Claim("limits that an integration by small steps to log q_min = 1,000 comes to as well, by data set", "all",
              "settled limits of .*", INFINITY,
              lambda x: "; ".join(f"{a['claim'].split(' of ')[1].split(', m')[0]}: {a['measured']} of "
                                  f"{a['target'].split()[-1]}" for a in x)),
    ),
)  # fmt: skip

TABLES = (
    STATEMENTS, INPUT, END_TO_END, LIMITS, BRUTE_FORCE, INTEGRATOR, MODELS, CONVEX_SIDE, PAPER, SWEEPS, START, BATCH,
    ONE_FLOW, PROGRAMS, SCALING, GPU,
)  # fmt: skip
