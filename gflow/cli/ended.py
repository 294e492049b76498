"""`gflow run`: a flow, then its limit, which is printed, then what is proved about it in the proof's time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gflow.cli.inputs import checked
from gflow.cli.progress import say
from gflow.cli.work import Interrupted, Late, Work


def ended(problem, network, options: dict, *, fixed: bool, out, plot, seconds: float, json: bool) -> None:
    """Integrate, name the limit, prove and print. `options`: of `flow_to` if they say q_min, else of `solve_flow`;
    `fixed`: gates are those of the first weights. Raises Interrupted after Ctrl-C."""
    import gflow
    from gflow.cli import output
    from gflow.cli.gated import gated_summary, print_gated

    work = Work()
    if fixed:
        problem = gflow.gated(problem, network)
    flow = _flow(work, problem, network, options)
    if out:
        _write_trajectory(flow, out)
    if fixed:
        doing = "solving the program over these gates"
        summary = _heard(work, doing, lambda: gated_summary(problem, network, flow, seconds))
        return output.emit(summary, json, print_gated)
    follow = options.get("q_min") is None
    limit, frozen = _heard(work, "naming the limit", lambda: _limit(work, problem, flow, follow, seconds))
    say_or_print(output.limit_line(problem, limit, flow), json)
    # a frozen flow is not on its way to a KKT point of both layers: where it ends is judged as a given network is
    judged = limit.network if flow.frozen and not limit.stuck else limit
    certificate, known, interrupted = proved(work, problem, judged, limit, seconds)
    summary = output.limit_summary(problem, limit, certificate) | output.flow_summary(problem, network, flow)
    summary |= output.frozen_summary(flow, frozen)
    summary |= output.settled_summary(problem, limit)
    summary["loss"] = flow.loss[-1] if limit.loss is None else limit.loss
    if plot and not interrupted:
        _draw(problem, flow, limit, known, plot)
    output.emit(summary, json, output.print_run)
    if interrupted:
        raise Interrupted


def proved(work: Work, problem, judged, limit, seconds: float):
    """(certificate of `judged`, the faces of X, whether Ctrl-C ended it): in `seconds`, faces included; if so with the
    bracket by then, and None for the faces."""
    import gflow
    from gflow import deadline
    from gflow.cli import output

    def prove():
        with deadline.within(seconds, watch=work.bracket):
            known = gflow.faces(problem.X)
            return gflow.certify(problem, judged, known_faces=known), known

    try:
        return *work.do("proving", prove, most=seconds), False
    except Late:
        return output.unfinished(problem, limit, work.lower), None, False
    except KeyboardInterrupt:
        say("interrupted while proving: what is known by now")
        return output.unfinished(problem, limit, work.lower), None, True


def say_or_print(text: str, json: bool) -> None:
    """A line beside the one JSON object, or before the tables."""
    if json:
        say(text)
    else:
        print(text, flush=True)


def _heard(work: Work, doing: str, function):
    """work.do, which is told of when it is interrupted."""
    try:
        return work.do(doing, function)
    except KeyboardInterrupt:
        seen = f" ({work.seen})" if work.seen else ""
        say(f"gflow: interrupted while {work.doing}{seen}")
        raise Interrupted from None


def _flow(work: Work, problem, network, options: dict):
    import gflow

    if "q_min" in options:
        return _heard(work, "compiling", lambda: checked(gflow.flow_to, problem, network, watch=work.flow, **options))
    return _heard(work, "compiling and integrating", lambda: checked(gflow.solve_flow, problem, network, **options))


def _limit(work: Work, problem, flow, follow: bool, seconds: float):
    """(limit, what frozen_limit found or None), the latter with the faces of X, which have `seconds`."""
    import gflow
    from gflow import deadline
    from gflow.cli import output

    frozen = None
    if flow.frozen and problem.directional:
        with deadline.within(seconds):
            known = gflow.faces(problem.X)
        frozen = gflow.frozen_limit(problem, flow.final, known)
    if flow.frozen:
        return output.of_frozen(problem, flow.final, frozen), frozen
    return gflow.find_limit(problem, flow, follow=follow, watch=work.continuation), frozen


def _write_trajectory(flow, out: Path) -> None:
    weights = {name: getattr(flow.network, name) for name in ("W1", "w2", "W2") if hasattr(flow.network, name)}
    np.savez(out, s=flow.s, log_t=flow.log_t, loss=flow.loss, margins=flow.margins, **weights)
    say(f"wrote {out}")


def _draw(problem, flow, limit, known, plot: Path) -> None:
    import gflow
    from gflow import plots

    plots.save(plots.flow_figure(problem, flow, limit, gflow.along(problem, flow, known)), plot)
    say(f"wrote {plot}")
