"""What label values stand for: the rule of `Problem` and of the command line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow import datasets
from gflow.cli.data import from_npz

X = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, -1.0], [-2.0, 0.5]])

KINDS = st.one_of(
    st.lists(st.integers(-9, 9), min_size=1, max_size=8, unique=True),
    st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=1, max_size=8,
             unique=True),
    st.just([False, True]),
)  # fmt: skip


@settings(max_examples=100)
@given(KINDS, st.randoms(use_true_random=False))
def test_labels_are_one_vs_rest_in_sorted_order(tmp_path_factory, values, random):
    labels = [*values, *random.choices(values, k=5)]
    random.shuffle(labels)
    rows = np.arange(1.0, 2 * len(labels) + 1).reshape(-1, 2)
    if set(values) <= {-1, 1} and bool not in map(type, values):
        expected, classes = [float(v) for v in labels], (-1, 1)
    elif len(values) == 1:
        with pytest.raises(ValueError, match="two classes are needed"):
            gflow.Problem(rows, labels)
        return
    elif len(values) == 2:
        classes = tuple(sorted(values))
        expected = [1.0 if v == classes[1] else -1.0 for v in labels]
    else:
        classes = tuple(sorted(values))
        expected = [[1.0 if v == kind else -1.0 for kind in classes] for v in labels]
    problem = gflow.Problem(rows, labels)
    assert problem.y.tolist() == expected and problem.classes == classes
    path = tmp_path_factory.mktemp("labels") / "data.npz"
    np.savez(path, X=rows, y=np.asarray(labels))
    read, _ = from_npz(path)
    assert read.y.tolist() == expected
    as_objects = gflow.Problem(rows, np.array(labels, object))
    assert as_objects.y.tolist() == expected


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(4), "one-hot"),
        ([[0], [1], [1], [0]], "y.ravel()"),
        (np.zeros((4, 2)), "nothing is asked"),
        ([[1, 2], [1, 1], [-1, 1], [1, 1]], "pass classes as"),
        ([0, 0, 0, 0], "all labels are 0"),
        (["a", "", "b", "a"], "a label is empty"),
        (np.array(["a", None, "b", "a"], object), "several kinds"),
        ([0, np.nan, 1, 1], "not finite"),
        ([1j, 1, 1, -1], "labels must be numbers"),
        (np.array(["2020-01-01"] * 4, "M8[D]"), "labels must be numbers"),
    ],
)
def test_labels_that_say_nothing_are_refused(y, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        gflow.Problem(X, y)


def test_real_labels():
    assert gflow.Problem(X, [0, 1, 1, 0], gflow.Squared()).y.tolist() == [0, 1, 1, 0]
    assert gflow.Problem(X, [0, 1, 1, 0], gflow.Squared()).classes == ()
    with pytest.raises(ValueError, match="Squared takes numbers as labels"):
        gflow.Problem(X, ["a", "b", "c", "c"], gflow.Squared())
    with pytest.warns(UserWarning, match=r"loss=gflow.Squared\(\)"):
        assert gflow.Problem(X, [0.1, 0.2, 0.3, 0.1]).outputs == 3
    with pytest.raises(ValueError, match="21 label values"):
        gflow.Problem(np.ones((21, 1)), np.arange(21.0))


def test_classes_may_be_given_and_go_along_with_gates():
    data = datasets.iris()
    problem = gflow.Problem(data.X, data.y, classes=data.labels)
    assert problem.classes == data.labels
    network = gflow.Gaussian(1.0)(gflow.key_of(0, 0), problem, 3)
    assert gflow.gated(problem, network).classes == data.labels
