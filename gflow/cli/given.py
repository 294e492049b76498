"""What is proved about a network that is given, or that an optimiser reached: no flow leads to its limit."""

from __future__ import annotations

from gflow.cli.inputs import announce, checked
from gflow.cli.progress import say
from gflow.cli.work import Interrupted, Late, Work


def descended(problem, network, optimizer: str, steps: int, key, notes, json: bool, seconds: float) -> None:
    """The network that an optimiser reaches, certified as it is."""
    import jax

    import gflow
    from gflow.cli.named import optimizer as named

    rule, options = named(optimizer)
    key = jax.random.fold_in(key, 1)
    announce(notes)
    work = Work()
    try:
        descend = lambda: checked(gflow.descend, problem, network, rule, steps, key=key, **options)  # noqa: E731
        descent = work.do(f"descending {steps} steps", descend)
    except KeyboardInterrupt:
        say(f"gflow: interrupted while {work.doing}")
        raise Interrupted from None
    facts = {"result": gflow.result_name(descent.result), "steps": steps, "optimizer": optimizer}
    certified(problem, descent.final, facts | {"loss": problem.loss_value(descent.margins[-1])}, seconds, json)


def certified(problem, network, facts: dict, seconds: float, json: bool) -> None:
    """What is proved in `seconds` about a network as it is: no flow led to it, or none that has reached its limit.

    Printed with the `facts` that are known of it. Raises Interrupted after Ctrl-C.
    """
    import gflow
    from gflow import deadline
    from gflow.cli import output
    from gflow.cli.ended import proved

    work = Work()
    given = checked(gflow.limit_of_network, problem, network, polish=False)
    certificate, known, interrupted = proved(work, problem, network, given, seconds)
    summary = output.limit_summary(problem, given, certificate)
    summary |= {"result": "given", "q_min": None, "s": None, "log_t": None, "steps": 0, "rejected": 0}
    summary |= {"balance_drift": None, "repelled": None, "kkt_point": None}
    if problem.directional:
        # of the network as it is given; the neurons listed are merged and balanced
        q = problem.margins(network)
        lam, unit = problem.multipliers(q), network.normalised()
        summary |= {"margin": problem.normalised_margin(unit), "kkt_residual": problem.kkt_residual(unit, lam, 1e-9)}
        summary |= {"q_min": q.min(), "loss": problem.loss_value(q)}

    def nearby():
        # a trained network is never exactly a KKT point: the one with its patterns is reported beside it
        with deadline.within(seconds):
            point = gflow.limit_of_network(problem, network, settled=2.0)
            fits = point.polished and (problem.directional or problem.weight_decay is not None)
            return gflow.certify(problem, point, known_faces=known) if fits else None

    try:
        exact = None if interrupted else work.do("the KKT point with these patterns", nearby, most=seconds)
    except Late:
        exact = None
    except KeyboardInterrupt:
        exact, interrupted = None, True
    if exact is not None:
        if exact.verdict == gflow.VERDICT.GLOBAL and summary["optimum"] is not None:
            summary["optimum"] = min(summary["optimum"], exact.objective)
        summary["kkt_point"] = {"objective": exact.objective, "certificate": exact.c, "verdict": exact.verdict.name}
    output.emit(summary | facts, json, output.print_run)
    if interrupted:
        raise Interrupted
