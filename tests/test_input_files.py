"""Files that commands read: what is taken, what is refused, and in which words."""

import numpy as np
import pytest
from mangled import trial

from gflow.cli import data as reader
from gflow.cli.commands import run_command, sweep_command
from gflow.cli.inputs import InputError, read_problem
from gflow.cli.spec import read_spec

ROWS = [("0", "0.5", "1.25", "cat"), ("1", "-1", "0.75", "dog"), ("2", "2", "3", "cat"), ("3", "0", "-4", "dog")]


def written(folder, text, encoding="utf-8", name="data.csv"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def csv(header, rows=ROWS, separator=","):
    return "\n".join(separator.join(row) for row in [header, *rows]) + "\n"


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1"])
def test_the_index_of_pandas_is_no_feature(tmp_path, name):
    path = written(tmp_path, csv([name, "a", "b", "label"]))
    with pytest.raises(ValueError, match="--index-column leaves it out"):
        reader.load(str(path))
    data, notes = reader.load(str(path), index_column=True)
    np.testing.assert_array_equal(data.X, [[0.5, 1.25], [-1, 0.75], [2, 3], [0, -4]])
    np.testing.assert_array_equal(data.y, [-1, 1, -1, 1])
    assert data.features == ("a", "b") and any("left out" in note for note in notes)


def test_a_first_column_that_counts_is_questioned_and_kept(tmp_path):
    for name in ("id", "a"):
        path = written(tmp_path, csv([name, "b", "c", "label"]))
        data, notes = reader.load(str(path))
        assert data.X.shape == (4, 3) and any("--index-column" in note for note in notes)
    data, notes = reader.load(
        str(written(tmp_path, csv(["b", "a", "c", "label"], [(r[1], r[0], *r[2:]) for r in ROWS])))
    )
    assert not any("--index-column" in note for note in notes)


def test_a_mark_at_the_beginning_and_windows_lines_are_taken(tmp_path):
    plain, _ = reader.load(str(written(tmp_path, csv(["a", "b", "c", "label"]))))
    other, _ = reader.load(str(written(tmp_path, csv(["a", "b", "c", "label"]).replace("\n", "\r\n"), "utf-8-sig")))
    np.testing.assert_array_equal(plain.X, other.X)


REFUSED = {
    "tabs": (csv(["a", "b", "c", "label"], separator="\t"), "utf-8", r"tabs .* sep='\\t'"),
    "semicolons": (csv(["a", "b", "c", "label"], separator=";"), "utf-8", "semicolons .* sep=';'"),
    "comment": ("# by hand\n" + csv(["a", "b", "c", "label"]), "utf-8", "line 1 is a comment"),
    "late comment": (csv(["a", "b", "c", "label"]) + "# end\n", "utf-8", "line 6 is a comment"),
    "UTF-16": (csv(["a", "b", "c", "label"]), "utf-16", "UTF-16.* iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": (csv(["a", "b", "c", "label"]), "utf-16-le", "UTF-16"),
    "latin-1": (csv(["größe", "b", "c", "label"]), "latin-1", "0xf6 in line 1 .* Latin-1 .* iconv"),
    "spreadsheet": ("PK\x03\x04 and more", "latin-1", "spreadsheet"),
    "decimal comma": ('a,b,label\n"1,5",2,x\n1,2,y\n', "utf-8", "decimal comma"),
    "no name of the label": ("a,b,\n1,2,x\n2,1,y\n", "utf-8", "the last column has no name"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_with_what_to_do(tmp_path, name):
    text, encoding, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        reader.load(str(written(tmp_path, text, encoding)))


def test_the_option_is_for_files_with_an_index(tmp_path):
    for argument in ("iris", str(tmp_path / "data.npz")):
        with pytest.raises(ValueError, match="leave --index-column out"):
            reader.load(argument, index_column=True)
    with pytest.raises(ValueError, match="leave --index-column out"):
        reader.load(str(written(tmp_path, "a,label\n1,x\n2,y\n")), index_column=True)


def test_columns_of_very_different_sizes_are_named(tmp_path):
    path = written(tmp_path, "a,b,label\n1,3e8,x\n-2,1e8,y\n0.5,-2e8,x\n")
    _, notes = read_problem(str(path), "logistic", True, False, "float64")
    (line,) = [note for note in notes if "--standardize" in note]
    assert "'b' is of size 2.2e+08" in line and "'a' of 1.3" in line
    for arguments in ((str(path), "logistic", True, True, "float64"), ("iris", "logistic", True, False, "float64")):
        assert not any("--standardize" in note for note in read_problem(*arguments)[1])


def test_a_store_repeats_the_index_and_the_steps(tmp_path):
    path = written(tmp_path, csv(["", "a", "b", "label"]))
    spec = read_spec(str(path), {"index_column": True, "max_steps": 50})
    assert next(spec.cells()).problem.shape == (4, 2)
    for command in (sweep_command(spec.values, "s.zarr")[0], run_command(spec.values, {}, 3)):
        assert "--index-column" in command and "--max-steps 50" in command
    file = tmp_path / "s.toml"
    file.write_text(f'data = "{path}"\nindex_column = true\n')
    assert next(read_spec(str(file), {}).cells()).problem.shape == (4, 2)
    with pytest.raises(InputError, match=r"no \.csv file"):
        next(read_spec("iris", {"index_column": True}).cells())


def test_data_beyond_the_memory_are_refused():
    with pytest.raises(InputError, match="too large for the memory"):
        read_problem("gaussian:n=4,d=299999999999999", "logistic", False, False, "float64")


def test_mangled_files_and_names_end_in_words(tmp_path, recwarn):
    faults = [fault for fault in (trial(seed, tmp_path) for seed in range(1200)) if fault]
    assert not faults
