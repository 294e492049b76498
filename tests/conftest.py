import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="session")
def xla_cache(tmp_path_factory):
    """One compilation cache for all commands that the tests start."""
    return str(tmp_path_factory.mktemp("xla"))


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)
