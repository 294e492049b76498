"""Imports run downwards only, and `import gflow` needs the core libraries alone."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent / "gflow"

# module -> what it may import from gflow; each line sees only what stands above it
ALLOWED = {
    "_types": set(),
    "maps": set(),
    "activations": {"_types"},
    "gates": {"activations"},
    "losses": {"_types"},
    "datasets": {"_types"},
    "network": {"_types", "activations"},
    "box": set(),
    "lines": {"_types", "activations"},
    "inclusion": {"_types", "activations", "box", "lines"},
    "problem": {"_types", "losses", "activations", "network", "inclusion", "lines"},
    "initializers": {"network", "problem"},
    "fates": {"_types", "network", "problem"},
    "descend": {"_types", "network", "problem"},
    "flow.boost": {"network"},
    "flow.charts": {"_types", "activations", "flow.boost", "network"},
    "flow.clocks": set(),
    "flow.modes": {"activations", "box"},
    "flow.flagged": set(),
    "flow.row_space": {"flow.charts", "network", "problem"},
    "flow.vector_chart": {"flow.boost", "flow.charts", "network"},
    "flow.field": {
        "_types", "flow.charts", "flow.clocks", "flow.modes", "flow.row_space", "flow.traced", "lines", "network",
        "problem",
    },
    "flow.parabola": set(),
    "flow.pull": set(),
    "flow.events": {"flow.modes", "flow.parabola"},
    "flow.path": {"activations", "flow.charts", "flow.events", "flow.modes", "flow.pull", "network"},
    "flow.crossings": {
        "activations", "flow.charts", "flow.field", "flow.flagged", "flow.modes", "flow.parabola", "flow.path",
        "flow.pull",
        "network",
    },
    "flow.departure": {"activations", "box", "flow.modes", "network"},
    "flow.start": {
        "box", "flow.crossings", "flow.departure", "flow.field", "flow.modes", "inclusion", "lines", "network",
    },
    "flow.tip": {
        "activations", "flow.charts", "flow.crossings", "flow.departure", "flow.field", "flow.flagged", "flow.modes",
        "network",
    },
    "flow.kinks": {"flow.crossings", "flow.modes"},
    "flow.chebyshev": set(),
    "flow.tied": {"flow.traced", "problem"},
    "flow.implicit": {"box", "flow.field", "flow.modes", "flow.tied", "flow.traced"},
    "flow.traced": set(),
    "flow.filippov": {
        "flow.chebyshev", "flow.clocks", "flow.crossings", "flow.field", "flow.implicit", "flow.kinks", "flow.modes",
        "flow.start", "flow.tip", "flow.traced",
        "network",
    },
    "flow.controller": {"flow.field"},
    "flow.stop": {"_types", "flow.field"},
    "flow.solve": {
        "_types", "flow.charts", "flow.chebyshev", "flow.clocks", "flow.controller", "flow.field", "flow.filippov",
        "flow.kinks", "flow.modes", "flow.row_space", "flow.start", "flow.stop", "flow.vector_chart", "network",
        "problem",
    },
    "flow.lanes": {
        "_types", "flow.charts", "flow.clocks", "flow.controller", "flow.field", "flow.filippov", "flow.implicit",
        "flow.row_space", "flow.solve", "flow.stop", "network", "problem",
    },
    "flow.pool": {"_types", "fates", "flow.lanes", "flow.modes", "network"},
    "flow.refill": {"_types", "flow.lanes", "flow.pool", "network"},
    "convex.accurate": set(),
    "convex.general_position": set(),
    "convex.arrangements": {"convex.general_position"},
    "convex.faces": {"convex.arrangements", "convex.general_position"},
    "convex.oracle": {"_types", "convex.faces"},
    "convex.threads": set(),
    "convex.newton": {"convex.threads"},
    "convex.leaky": {"convex.faces"},
    "convex.master": {"convex.leaky", "convex.threads"},
    "convex.semidefinite": {"convex.threads"},
    "convex.polish": {"convex.newton", "convex.threads"},
    "convex.ascent": {"box", "convex.leaky"},
    "convex.candidates": {"convex.ascent", "convex.faces", "convex.leaky", "convex.polish"},
    "convex.column_generation": {
        "_types", "convex.accurate", "convex.arrangements", "convex.candidates", "convex.faces", "convex.leaky",
        "convex.master",
        "convex.oracle", "convex.polish", "convex.semidefinite", "network", "problem",
    },
    "convex.exposed": {"convex.candidates", "convex.faces", "convex.oracle", "network", "problem"},
    "convex.interior_point": {"losses"},
    "convex.gated": {"_types", "convex.oracle", "convex.threads", "losses", "problem"},
    "convex.min_norm": {
        "_types", "convex.arrangements", "convex.candidates", "convex.faces", "convex.leaky", "convex.master",
        "convex.newton", "convex.oracle", "convex.polish", "convex.semidefinite", "convex.threads", "network",
        "problem",
    },
    "convex.reduced": {"convex.interior_point", "convex.newton", "convex.threads"},
    "convex.penalized": {
        "_types", "convex.arrangements", "convex.candidates", "convex.faces", "convex.interior_point", "convex.leaky",
        "convex.newton", "convex.oracle", "convex.polish", "convex.reduced", "convex.semidefinite", "losses", "network",
        "problem",
    },
    "convex.subsampled": {"convex.master", "convex.newton", "convex.threads"},
    "patterns": {"_types", "convex.arrangements", "convex.newton", "network", "problem"},
    "programs": {"_types", "convex.newton", "convex.subsampled", "inclusion", "network", "patterns", "problem"},
    "points": {
        "convex.ascent", "convex.interior_point", "convex.oracle", "convex.reduced", "network", "patterns", "problem",
        "programs",
    },
    "frozen": {
        "convex.ascent", "convex.faces", "convex.leaky", "convex.newton", "convex.oracle", "network", "patterns",
        "problem", "programs",
    },
    "gated_limit": {
        "_types", "convex.gated", "convex.newton", "convex.oracle", "gates", "network", "problem", "programs",
    },
    "vector.kkt": set(),
    "vector.subsampled": {"convex.threads", "vector.kkt"},
    "vector.local": {"vector.kkt", "vector.subsampled"},
    "vector.limit": {
        "_types", "convex.oracle", "inclusion", "network", "problem", "programs", "vector.kkt", "vector.local",
        "vector.subsampled",
    },
    "vector.oracle": {"convex.faces", "convex.oracle", "convex.semidefinite"},
    "vector.program": {
        "_types", "convex.column_generation", "convex.faces", "convex.oracle", "network", "problem", "vector.kkt",
        "vector.oracle",
    },
    "limit": {
        "_types", "convex.ascent", "convex.leaky", "convex.newton", "convex.oracle", "flow.solve", "network",
        "patterns", "points", "problem", "programs", "vector.limit",
    },
    "onward": {
        "convex.newton", "convex.oracle", "flow.controller", "flow.filippov", "flow.implicit", "flow.solve",
        "flow.stop", "network", "patterns", "problem", "programs",
    },
    "proof": {"_types", "network"},
    "point_certificate": {
        "_types", "convex.arrangements", "convex.faces", "convex.leaky", "convex.min_norm", "convex.oracle",
        "convex.penalized", "convex.semidefinite", "network", "problem", "programs", "proof",
    },
    "vector.certificate": {
        "_types", "convex.faces", "convex.oracle", "network", "problem", "programs", "proof", "vector.oracle",
        "vector.program",
    },
    "optimum": {
        "convex.column_generation", "convex.faces", "convex.min_norm", "convex.penalized", "problem", "vector.program",
    },
    "certificate": {
        "_types", "convex.column_generation", "convex.faces", "convex.leaky", "convex.newton", "optimum",
        "convex.oracle", "convex.semidefinite", "network", "patterns", "point_certificate", "problem", "programs",
        "proof", "vector.certificate", "vector.program",
    },
    "records": {
        "_types", "certificate", "convex.faces", "optimum", "fates", "flow.modes", "flow.pool", "limit", "network",
        "patterns", "problem", "programs", "proof",
    },
    "elsewhere": {"flow.pool", "records"},
    "sweep": {
        "convex.faces", "optimum", "convex.oracle", "elsewhere", "flow.charts", "flow.controller", "flow.filippov",
        "flow.implicit", "flow.lanes", "flow.refill", "flow.solve", "flow.stop", "flow.vector_chart", "initializers",
        "maps", "network", "onward", "problem", "records",
    },
    "far": {"_types", "flow.controller", "flow.solve", "flow.stop", "network", "onward", "problem", "sweep"},
    "summary": {"_types", "records"},
    "store": {"_types", "records"},
    "verification": {
        "_types", "activations", "certificate", "convex.faces", "optimum", "limit", "losses", "network",
        "problem", "store",
    },
    "cluster": {"activations", "initializers", "problem", "records", "sweep"},
    "along": {"convex.faces", "convex.oracle", "flow.solve", "network", "problem"},
    "plots.style": set(),
    "plots.directions": {"plots.style"},
    "plots.flows": {"plots.directions", "plots.style"},
    "plots.geometry": {"plots.directions", "plots.style"},
    "plots.progress": {"plots.style"},
    "plots.animation": {"plots.directions", "plots.geometry", "plots.style"},
    "plots.sweeps": {"_types", "plots.directions", "plots.style"},
    "formats": set(),
    "report.svg": set(),
    "report.overview": {"plots.style", "plots.sweeps", "report.svg"},
    "report.flows": {
        "_types", "along", "certificate", "convex.faces", "far", "optimum", "flow.controller", "flow.solve",
        "initializers",
        "limit", "plots.directions", "plots.flows", "plots.geometry", "plots.style", "problem", "programs", "proof",
        "report.overview", "report.svg", "sweep",
    },
    "report.page": {"formats"},
}  # fmt: skip
FREE = {
    "",
    "__main__",
    "cli",
    "cli.main",
    "cli.commands",
    "cli.data",
    "cli.gated",
    "cli.given",
    "cli.inputs",
    "cli.output",
    "cli.options",
    "cli.named",
    "cli.progress",
    "cli.provenance",
    "cli.reports",
    "cli.spec",
    "cli.sweeps",
    "cli.tables",
    "flow",
    "convex",
    "vector",
    "plots",
    "report",
}  # nothing below imports these
CORE = {"jax", "numpy", "diffrax", "equinox", "optax", "jaxtyping", "optimistix", "lineax", "scipy"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gflow"):
            base = node.module.removeprefix("gflow").removeprefix(".")
            for alias in node.names:
                submodule = f"{base}.{alias.name}".removeprefix(".")
                is_module = (ROOT / (submodule.replace(".", "/") + ".py")).exists()
                yield submodule if is_module else base
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("gflow").removeprefix(".")
                for alias in node.names
                if alias.name.startswith("gflow")
            )


def test_imports_run_downwards():
    seen = set()
    for name, tree in modules():
        seen.add(name)
        if name in FREE:
            continue
        assert name in ALLOWED, f"{name} is new: give it a line in ALLOWED"
        assert set(imported(tree)) <= ALLOWED[name], f"{name} imports {set(imported(tree)) - ALLOWED[name]}"
    assert seen == set(ALLOWED) | FREE


def test_flow_and_convex_never_see_each_other():
    for name, tree in modules():
        other = {"flow": "convex", "convex": "flow"}.get(name.split(".")[0])
        assert other is None or not any(target.split(".")[0] == other for target in imported(tree))


def test_import_gflow_is_light():
    # scikit-learn, xarray, zarr, typer, rich and matplotlib must only be imported where they are used
    code = "import sys, gflow; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert CORE - {"optax"} <= loaded | {"scipy"}
    assert not loaded & {"sklearn", "xarray", "zarr", "typer", "rich", "matplotlib", "cvxpy", "pandas"}


def test_files_stay_small():
    lines = {name: (ROOT / (name.replace(".", "/") + ".py")) for name in ALLOWED}
    lengths = sorted(len(path.read_text().splitlines()) for path in lines.values())
    assert lengths[-1] <= 400
    assert lengths[len(lengths) // 2] < 200
