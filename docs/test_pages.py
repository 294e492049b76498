"""Pages that are made by scripts are up to date, links lead somewhere, and terms stand once. Nothing is compiled."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = sorted(DOCS.rglob("*.md"))
GENERATED = {"gallery.md"} | {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}


def loaded(path):
    """The module in this file, which is no package's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_results_are_what_the_lines_make():
    results = loaded(ROOT / "benchmarks" / "results_page.py")
    kept = (DOCS / "results.md").read_text(encoding="utf-8")
    hint = "write it anew: python benchmarks/results_page.py"
    assert results.without_marks(kept) == results.page(marks=False), hint
    if results.history():  # a shallow clone does not know which files have changed since
        assert kept == results.page(), hint


def test_every_claim_with_a_target_says_whether_it_is_reached():
    tables = loaded(ROOT / "benchmarks" / "claims.py").TABLES
    results = loaded(ROOT / "benchmarks" / "results_page.py")
    for table in tables:
        for claim in table.claims:
            found = [line for line in results.lines_of(table) if re.fullmatch(claim.lines, line["claim"])]
            assert claim.target == "–" or claim.reached(found) is not None, claim.text
            assert claim.measures and all((ROOT / path).exists() for path in claim.measures), claim.text


def test_a_line_without_its_commit_is_marked():
    results = loaded(ROOT / "benchmarks" / "results_page.py")
    row = {"device": "cpu x2 x86_64", "recorded": {"commit": "0" * 12, "date": "2026-11-24"}}
    assert "no commit" in results._date(row) and results._older(row, ("gflow",))
    assert results._date({**row, "date": "2026-11-30"}) == "2026-11-30"
    assert results._older({**row, "commit": None, "recorded": {}}, ("gflow",))


def test_command_line_is_what_the_commands_say():
    page = loaded(DOCS / "command_line.py").page()
    kept = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert kept == page, "write it anew: python docs/command_line.py"


def test_command_line_has_every_option(capsys):
    """Against the help that each command prints itself."""
    from gflow.cli.main import app, main

    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert list(sections) == names
    for name in names:
        main([name, "--help"])
        printed = set(re.findall(r"^\s+(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
        written = set(re.findall(r"`(--[\w-]+)", sections[name]))
        assert printed <= written, (name, printed - written)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if re.match(r"https?:", target):
            continue
        there = (page.parent / target).resolve()
        made = there.is_relative_to(DOCS) and there.relative_to(DOCS).as_posix() in GENERATED
        assert made or there.exists(), f"{page.relative_to(DOCS)}: {target}"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:", 1)[1]
    listed = re.findall(r"(\S+\.md)\s*$", nav, re.MULTILINE)
    assert sorted(listed) == sorted([p.relative_to(DOCS).as_posix() for p in PAGES] + ["gallery.md"])


def test_terms_stand_once():
    rows = re.findall(r"^\| (`[^|]+?) \|", (DOCS / "terms.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) > 30 and [n for n in set(names) if names.count(n) > 1] in ([], ["result"])


def test_verdicts_and_results_are_among_the_terms():
    from gflow import RESULTS, VERDICT

    text = (DOCS / "terms.md").read_text(encoding="utf-8")
    assert not [verdict.name for verdict in VERDICT if f"`{verdict.name}`" not in text]
    for name in ("margin_reached", "kkt_reached", "unfitted", "stationary", "horizon_reached"):
        assert hasattr(RESULTS, name) and f"`{name}`" in text
