"""Where compiled programs are kept."""

import jax
import pytest

import gflow


@pytest.fixture(autouse=True)
def as_before():
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_is_made_and_used(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    assert gflow.cache(folder) == str(folder) and folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "named"))
    assert gflow.cache() == str(tmp_path / "named")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert gflow.cache() == str(tmp_path / "xdg" / "gflow" / "xla")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert gflow.cache() == str(tmp_path / "home" / ".cache" / "gflow" / "xla")


def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match=r"file/x cannot be written .* until cache\(folder\) names"):
        assert gflow.cache(tmp_path / "file" / "x") is None
    assert jax.config.jax_compilation_cache_dir is None


def test_an_address_is_left_to_jax():
    assert gflow.cache("gs://bucket/programs") == "gs://bucket/programs"
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/programs"
