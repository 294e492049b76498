"""Imports run downwards only, and `import gflow` needs the core libraries alone."""

import ast
import graphlib
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent / "gflow"

# stage after stage: a module imports from its own line and from those above it, and never in a circle
ORDER = """
_types deadline maps compiled formats parts labels
activations gates losses datasets
network
box lines rays inclusion
problem
initializers fates descend
flow
convex
patterns
programs points frozen gated_limit vector
limit at_infinity onward
optimum point_certificate certificate
records legs elsewhere gathering sweep far
summary store verification checking cluster along
plots
report
cli __main__
"""
STAGE = {name: k for k, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}
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
    graph = {name: set(imported(tree)) - {"", name} for name, tree in modules() if name}
    assert {name.split(".")[0] for name in graph} == set(STAGE), "a new stage: give it a place in ORDER"
    for name, targets in graph.items():
        later = {t for t in targets if STAGE[t.split(".")[0]] > STAGE[name.split(".")[0]]}
        assert not later, f"{name} imports {later}, which come after it"
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


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
    lengths = sorted(len(path.read_text().splitlines()) for path in ROOT.rglob("*.py") if path.name != "__init__.py")
    assert lengths[-1] <= 400
    assert lengths[len(lengths) // 2] < 200
