"""What is proved about a network that is given, or that an optimiser reached: no flow leads to its limit."""

from __future__ import annotations

from gflow.cli.inputs import announce, checked
from gflow.cli.progress import say


def descended(problem, network, optimizer: str, steps: int, key, notes, json: bool) -> None:
    """The network that an optimiser reaches, certified as it is."""
    import jax

    import gflow
    from gflow.cli import output
    from gflow.cli.named import optimizer as named

    rule, options = named(optimizer)
    key = jax.random.fold_in(key, 1)
    announce(notes)
    say(f"descending {steps} steps")
    descent = checked(gflow.descend, problem, network, rule, steps, key=key, **options)
    summary = of_network(problem, descent.final)
    summary |= {"result": gflow.result_name(descent.result), "steps": steps, "optimizer": optimizer}
    summary["loss"] = problem.loss_value(descent.margins[-1])
    output.emit(summary, json, output.print_run)


def of_network(problem, network) -> dict:
    """What is known of a network as it is: no flow led to it, or none that has reached its limit."""
    import gflow
    from gflow.cli import output

    given = checked(gflow.limit_of_network, problem, network, polish=False)
    summary = output.limit_summary(problem, given, gflow.certify(problem, network))
    summary |= {"result": "given", "s": None, "log_t": None, "steps": 0, "rejected": 0}
    summary |= {"balance_drift": None, "repelled": None}
    if problem.directional:
        # of the network as it is given; the neurons listed are merged and balanced
        lam, unit = problem.multipliers(problem.margins(network)), network.normalised()
        summary |= {"margin": problem.normalised_margin(unit), "kkt_residual": problem.kkt_residual(unit, lam, 1e-9)}
    # a trained network is never exactly a KKT point: the one with its patterns is reported beside it
    point = gflow.limit_of_network(problem, network, settled=2.0)
    summary["kkt_point"] = None
    if point.polished and (problem.directional or problem.weight_decay is not None):
        exact = gflow.certify(problem, point)
        if exact.verdict == gflow.VERDICT.GLOBAL and summary["optimum"] is not None:
            summary["optimum"] = min(summary["optimum"], exact.objective)
        summary["kkt_point"] = {"objective": exact.objective, "certificate": exact.c, "verdict": exact.verdict.name}
    return summary
