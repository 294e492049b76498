import os
import pathlib

import jax
import numpy as np
import pytest
from hypothesis import settings

from gflow import maps

if jax.__version__.startswith("0.10."):  # elsewhere XLA may not know the flag, and then it aborts
    # compiles in a third of the time, and runs a fifth slower: right for tests, which compile most of the time
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    )

os.environ["GFLOW_PROOF_SECONDS"] = "inf"  # what is proved must not depend on how busy the machine is
jax.config.update("jax_enable_x64", True)
settings.register_profile("any speed", deadline=None)  # a first example compiles, and machines are busy
settings.load_profile("any speed")


@pytest.fixture(scope="session", autouse=True)
def xla_cache(tmp_path_factory, worker_id):
    """One compilation cache for all tests of a run and all commands that they start: a new one, or the folder that
    GFLOW_TEST_XLA_CACHE names, with which a second run compiles nothing."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "xla"
    folder = pathlib.Path(os.environ.get("GFLOW_TEST_XLA_CACHE", folder))
    jax.config.update("jax_compilation_cache_dir", str(folder / "gflow" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return str(folder)


@pytest.fixture(autouse=True)
def compiled_programs_are_dropped():
    """Before a worker has too many of them: what is needed again comes from the cache of the run."""
    yield
    maps.make_room()


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


def pytest_terminal_summary(terminalreporter, config):
    """Tests run in random order (pytest-randomly), their random numbers seeded with the same seed: which one it was."""
    seed = getattr(config.option, "randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"order and random numbers: -p randomly --randomly-seed={seed}")
