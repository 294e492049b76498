"""Files and names that a user might give by mistake, each made of a good one by a few random changes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

TOKENS = (
    b"", b",", b"\n", b"\r\n", b";", b"\t", b'"', b"#", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"nan", b"inf",
    b"1e400", b"-1", b"0", b"1_000", b"1,5", b"=", b"[", b"]", b"..", b":", b"label", b"1e-320", b"9" * 30, b"[[[[",
    b"\xf0\x9f\x98\x80",
)  # fmt: skip

CSV = b"a,b,label\n1,2,cat\n0.5,-1,dog\n-2,1e3,cat\n3,4,dog\n"
TOML = (
    b'data = "gaussian:n=4,d=2"\nwidth = [2, 3]\nscale = 1e-3\nloss = ["logistic", "squared"]\ninits = 3\nbias = true\n'
)
NAMES = (b"gaussian:n=4,d=2,seed=0", b"digits:3,8", b"iris:0,1,2", b"xor", b"spike-free:n=3,d=4")
LAWS = (b"gaussian", b"dominated:ratio=2", b"independent", b"sphere")


def npz(**arrays) -> bytes:
    """The bytes of an .npz of these arrays."""
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


X, Y = np.array([[1.0, 2.0], [0.5, -1.0], [-2.0, 1.0]]), np.array([1, -1, 1])
ARRAYS = (
    np.ones((2, 3)), np.ones(3), np.ones((3, 2)), np.array([1, 0, 1]), np.array([True, False, True]),
    np.ones((3, 2)) * 1j,
    np.array(["a", "b", "a"]), np.full((3, 2), np.nan), np.zeros((0, 2)), np.array(1.0), np.array([1e308] * 3),
    np.ones((3, 2), np.float16), np.ones((1, 3, 2)), np.array([[1], [2]], dtype=np.uint8), np.zeros((3, 0)),
    np.array(["2020-01-01", "2020-01-02", "2020-01-03"], dtype="datetime64[D]"), np.array([{}, 1, "a"], dtype=object),
)  # fmt: skip


def mangled(rng: np.random.Generator, good: bytes) -> bytes:
    """`good` after one to four changes: bytes removed, repeated, moved, or tokens put in."""
    held = bytearray(good)
    for _ in range(rng.integers(1, 5)):
        at, to = sorted(rng.integers(0, len(held) + 1, 2).tolist())
        change = rng.integers(4)
        if change == 0:
            del held[at : min(to, at + 20)]
        elif change == 1:
            held[at:at] = held[at:to]
        elif change == 2:
            held[at:at] = TOKENS[rng.integers(len(TOKENS))]
        elif len(held):
            held[at % len(held)] = int(rng.integers(256))
    return bytes(held)


def trial(seed: int, folder: Path) -> str | None:
    """Give one of them to the function of the command line that reads it; what it raised, unless it took it or refused
    it as an error of the user in words."""
    from gflow.cli.inputs import InputError, checked, read_problem, read_weights
    from gflow.cli.named import initial_law
    from gflow.cli.spec import read_spec

    rng = np.random.default_rng(seed)
    kind = ("csv", "npz", "toml", "name", "law", "weights")[seed % 6]
    path = folder / f"{kind}{seed % 6}.{'npz' if kind == 'weights' else kind}"
    loss = ("logistic", "squared")[int(rng.integers(2))]
    some = lambda: ARRAYS[rng.integers(len(ARRAYS))]  # noqa: E731
    try:
        if kind == "csv":
            path.write_bytes(mangled(rng, CSV))
            read_problem(str(path), loss, True, bool(rng.integers(2)), "float64", index_column=bool(rng.integers(2)))
        elif kind == "npz":
            held = npz(X=some(), y=some()) if rng.integers(2) else mangled(rng, npz(X=X, y=Y))
            path.write_bytes(held)
            read_problem(str(path), loss, False, bool(rng.integers(2)), "float64", classes=bool(rng.integers(2)))
        elif kind == "toml":
            path.write_bytes(mangled(rng, TOML))
            spec = read_spec(str(path), {})
            spec.problems()
            next(spec.cells())
        elif kind == "name":
            name = mangled(rng, NAMES[rng.integers(len(NAMES))]).decode("utf-8", "surrogateescape")
            read_problem(name, loss, False, False, "float64", classes=True)
        elif kind == "law":
            initial_law(mangled(rng, LAWS[rng.integers(len(LAWS))]).decode("utf-8", "surrogateescape"), 1e-3)
        else:
            import gflow

            second = ("w2", "W2")[int(rng.integers(2))]
            held = (
                npz(**{"W1": some(), second: some()}) if rng.integers(2) else mangled(rng, npz(W1=X.T, w2=np.ones(3)))
            )
            path.write_bytes(held)
            labels = Y if rng.integers(3) else np.where(np.eye(3) > 0, 1.0, -1.0)
            read_weights(path, checked(gflow.Problem, X, labels))
    except InputError as error:
        return None if str(error).strip() else f"seed {seed}, {kind}: an error without words"
    except Exception as error:
        return f"seed {seed}, {kind}: {type(error).__name__}: {error}"
    return None
