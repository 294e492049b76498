"""The page of a sweep: what it says, that it needs nothing from outside, and how it behaves in a browser."""

import contextlib
import dataclasses
import fcntl
import html.parser
import io
import itertools
import json
import re
import shlex
import shutil

import cases
import numpy as np
import pytest

import gflow
from gflow import plots, store

NASTY = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)> \"'&amp; $_{\\frac"
G, N, U = gflow.VERDICT.GLOBAL, gflow.VERDICT.NOT_GLOBAL, gflow.VERDICT.UNFITTED


@pytest.fixture(scope="module", autouse=True)
def cache(xla_cache):
    """What the command compiles goes where that of the tests is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", xla_cache)
        yield


@pytest.fixture(scope="module")
def records():
    """Ten rows without a sweep: seven at the optimum of case A, where initialisations 0 to 6 end, and three made up."""
    columns = {field.name: np.zeros(10) for field in dataclasses.fields(gflow.records.Records)}
    columns |= {"index": np.arange(10), "W1": np.full((10, 6, 2), np.nan), "w2": np.full((10, 6), np.nan)}
    columns["verdict"][7:] = N, N, U
    columns["objective"][:] = [cases.A_OPTIMUM] * 7 + [2.0, 3.25, np.inf]
    columns["certificate"] = columns["objective"] / cases.A_OPTIMUM
    columns["polished"] = np.isfinite(columns["objective"])
    return gflow.records.Records(**columns)


def report(*arguments):
    """(exit status, stdout, stderr) of `gflow report`."""
    from gflow.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["report", *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def written(tmp_path_factory, worker_id, records):
    """(page, summary) of a store whose texts are hostile; written once for all workers, as a flow is compiled."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "report"
    folder.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = folder.with_suffix(".json")
        if not said.exists():
            said.write_text(write(folder, records))
    return folder / "page" / "index.html", json.loads(said.read_text())


def write(folder, records):
    attributes = {"seed": 0, "device": NASTY, "versions": {"gflow": NASTY}, "command": NASTY}
    spec = {"data": NASTY, "width": 6}
    path = folder / "a.zarr"
    store.create(path, cases.A_X, cases.A_y, spec, inits=10, width=6, attributes=attributes)
    store.append(path, records, seconds=2.5)
    status, out, err = report(path, "--out", folder / "page", "--flows", 1, "--json")
    assert status == 0, err
    assert err.count("integrating flow") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["a.zarr", "page"]
    assert [p.name for p in (folder / "page").iterdir()] == ["index.html"]
    return out


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the texts of the cells of every table, row by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.within, self.cell = [], [], False, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tbody":
            self.tables.append([])
            self.within = True
        elif tag == "tr" and self.within:
            self.tables[-1].append([])
        self.cell = [] if tag == "td" else self.cell

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)

    def handle_endtag(self, tag):
        if tag == "td" and self.cell is not None:
            self.tables[-1][-1].append("".join(self.cell).strip())
            self.cell = None
        self.within &= tag != "tbody"


def test_nothing_comes_from_outside_and_everything_is_escaped(written):
    text = written[0].read_text(encoding="utf-8")
    tags = Reader(text).tags
    links = [v for _, attributes in tags for k, v in attributes.items() if k in ("href", "src", "xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert [tag for tag, _ in tags].count("script") == 1 and "img" not in {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "&lt;script&gt;document.title" in text
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link[0] == "#"} <= set(ids)
    headings = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(headings))
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")


def test_the_table_says_what_the_summary_says(written):
    page, summary = written
    text = page.read_text(encoding="utf-8")
    (rows,) = Reader(text).tables
    assert len(rows) == len(summary["limits"]) >= 4
    for row, limit in zip(rows, summary["limits"], strict=True):
        count, objective, c, verdict, example, command = row
        assert (int(count), verdict, int(example)) == (limit["count"], limit["verdict"], limit["example"])
        if limit["objective"] is None:  # JSON knows no infinity
            assert (objective, c) == ("not fitted", "-")
        else:
            assert float(objective) == pytest.approx(limit["objective"], rel=1e-8)
            assert float(c) == pytest.approx(limit["certificate"], rel=1e-8)
        words = shlex.split(command)
        assert words[:3] == ["gflow", "run", NASTY] and words[-2:] == ["--index", str(limit["example"])]
    assert "<dd>4</dd>" in text  # 10 flows in 2.5 s
    assert 'class="warning"' not in text  # the flow that was integrated again ended where the store says
    assert text.count("<figure>") == 2 + 4 and "touches them at the neurons" in text


NAMED = pytest.mark.filterwarnings("ignore:The data type")  # zarr's, of an axis of names
LAWS = ["gaussian", NASTY]


@pytest.fixture(scope="module")
def grid(tmp_path_factory, records):
    """(page, summary) of a grid of which one cell is not done."""
    folder = tmp_path_factory.mktemp("grid")
    path, axes = folder / "grid.zarr", {"law": LAWS, "width": [4, 6]}
    spec = {"data": "case A", **axes}
    store.create(path, cases.A_X, cases.A_y, spec, inits=10, width=6, axes=axes, attributes={})
    for at in range(3):
        store.append(path, records, {"law": at // 2, "width": at % 2})
    status, out, err = report(path, "--out", folder / "page", "--flows", 0, "--json")
    assert status == 0, err
    return folder / "page" / "index.html", json.loads(out)


@NAMED
def test_a_grid_over_losses_keeps_the_loss_of_its_limits(tmp_path, records):
    path, axes = tmp_path / "losses.zarr", {"loss": ["logistic", "exponential"]}
    store.create(path, cases.A_X, cases.A_y, {"data": "case A", **axes}, inits=10, width=6, axes=axes, attributes={})
    found = dataclasses.replace(records, loss=np.arange(10.0))
    store.append(path, found, {"loss": 1})
    rows = store.open_store(path)
    assert rows["loss"].values.tolist() == axes["loss"]
    np.testing.assert_array_equal(rows["loss_of_limit"].sel(loss="exponential"), np.arange(10.0))
    status, out, err = report(path, "--json")
    assert status == 0 and [cell["loss"] for cell in json.loads(out)["cells"]] == axes["loss"], err


@NAMED
def test_a_grid_has_its_cells_and_its_diagram(grid):
    text, summary = grid[0].read_text(encoding="utf-8"), grid[1]
    reader = Reader(text)
    cells, limits = reader.tables
    assert [row[:3] for row in cells] == [[law, str(m), str(10 * (k < 3))] for k, (law, m) in enumerate(
        (law, m) for law in LAWS for m in (4, 6)
    )]  # fmt: skip
    for row, cell in zip(cells[:3], summary["cells"], strict=False):
        assert float(row[3]) == pytest.approx(cell["global"]["fraction"], abs=1e-4)
        assert row[6] == f"{cell['fitted']['low']:.4f} to {cell['fitted']['high']:.4f}"
    assert cells[3][3:] == ["-"] * 4 and len(limits) == len(summary["limits"])
    tips = [attributes["data-tip"] for _, attributes in reader.tags if "data-tip" in attributes]
    assert len(tips) == 4 and sum("nothing done yet" in tip for tip in tips) == 1
    assert "not finished" in text and "<img" not in text


def test_the_points_of_a_curve_tell_their_numbers(tmp_path, records):
    path, spec = tmp_path / "widths.zarr", {"data": "case A", "width": [4, 6]}
    store.create(path, cases.A_X, cases.A_y, spec, inits=10, width=6, axes={"width": [4, 6]}, attributes={})
    store.append(path, records, {"width": 1})
    status, _, err = report(path, "--out", tmp_path / "page", "--flows", 0)
    assert status == 0, err
    tags = Reader((tmp_path / "page" / "index.html").read_text(encoding="utf-8")).tags
    tips = [attributes["data-tip"] for _, attributes in tags if "data-tip" in attributes]
    assert len(tips) == 2 and all(tip.startswith("width 6: ") and tip.endswith(" of 10") for tip in tips)


def parsed(command):
    """The parameters of a command line, as the program itself reads them."""
    import typer

    from gflow.cli.main import app

    name, *words = shlex.split(command)[1:]
    return typer.main.get_command(app).commands[name].make_context(name, words).params


@pytest.mark.parametrize(
    "data, flags",
    [
        ("xor", {}),
        ("gaussian:n=6,d=2", {"width": "2,4", "scale": "1e-7,0.1", "law": "sphere,dominated:ratio=3"}),
        ("gaussian:n=6,d=2", {"data_seed": "1..3", "scale": "1e-3,1"}),
        ("gaussian:n=6,d=2", {"data_seed": "5", "bias": True, "standardize": True, "dtype": "float32", "seed": 7}),
        ("gaussian:n=6,d=2", {"loss": "squared", "weight_decay": 0.25, "inits": 9}),
        ("gaussian:n=6,d=2", {"q_min": 1e5, "width": "3,4", "max_steps": 70}),
    ],
)  # fmt: skip
def test_commands_mean_the_same_sweep(tmp_path, monkeypatch, data, flags):
    from gflow.cli.commands import SWITCHES, run_command, sweep_command
    from gflow.cli.spec import DEFAULTS, OPTIONAL, read_spec

    def again(command):
        given = parsed(command)
        chosen = {name: given[name] or None if name in SWITCHES else given[name] for name in (*DEFAULTS, *OPTIONAL)}
        return read_spec(given["data"], chosen).values

    values = read_spec(data, flags).values
    command, toml = sweep_command(values, "my store.zarr")
    assert again(command) == values and toml == "" and parsed(command)["out"] == "my store.zarr"
    # an axis of one value is written as a file
    values["width"] = [8]
    monkeypatch.chdir(tmp_path)
    command, toml = sweep_command(values, "s.zarr")
    (tmp_path / "spec.toml").write_text(toml)
    assert again(command) == values
    cell = {name: value[-1] for name, value in values.items() if isinstance(value, list)}
    one = parsed(run_command(values, cell, 3))
    assert one["index"] == 3 and one["width"] == 8 and one["seed"] == values["seed"]
    assert one["q_min"] == values.get("q_min") and one["max_steps"] == values.get("max_steps", 100_000)
    for name, key in (("scale", "scale"), ("init", "law"), ("loss", "loss")):
        assert one[name] == cell.get(key, values[key])
    seed = cell.get("data_seed", values["data_seed"])
    assert one["data"] == (data if seed is None else f"{data},seed={seed}")


def test_folders_that_cannot_hold_a_page(tmp_path, records):
    path = tmp_path / "a.zarr"
    store.create(path, cases.A_X, cases.A_y, {"data": "case A"}, inits=10, width=6, attributes={"seed": 0})
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "index.html").mkdir(parents=True)
    for arguments, message in (
        ((path, "--out", tmp_path / "file"), "is a file"),
        ((path, "--out", tmp_path / "missing" / "page"), "does not exist"),
        ((path, "--out", tmp_path / "folder"), "is a folder"),
        ((path, "--out", path / "page"), "in the store"),
        ((path, "--out", tmp_path / "page", "--flows", -1), "0 or more"),
        ((path, "--flows", 2), "--out"),
        ((tmp_path / "no.zarr", "--out", tmp_path / "page"), "no store"),
    ):
        status, out, err = report(*arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and not out, err
    assert not (tmp_path / "page").exists() and (tmp_path / "file").read_text() == "mine"
    status, _, err = report(path, "--out", tmp_path / "page")  # no row is done yet
    assert status == 2 and "nothing to report" in err and not (tmp_path / "page").exists()


def test_a_loss_that_is_not_known_is_said_in_one_line(tmp_path, records):
    path, spec = tmp_path / "a.zarr", {"data": "case A", "loss": "huber"}
    store.create(path, cases.A_X, cases.A_y, spec, inits=10, width=6, attributes={"seed": 0})
    store.append(path, records)
    status, out, err = report(path, "--out", tmp_path / "page")
    assert status == 2 and not out and err.count("\n") == 1, err
    assert "'huber'" in err and "logistic" in err and "version that wrote it" in err
    assert not (tmp_path / "page").exists()
    assert report(path)[0] == 0


def test_objectives_are_all_counted():
    objective = np.array([1.0, 1.0, 1.5, np.inf, 2.0])
    _, (ax,) = plots.panels(1)
    plots.objective_histogram(ax, objective, np.array([G, G, N, U, N]))
    heights = {bars.patches[0].get_label().split(" ")[0]: sum(p.get_height() for p in bars) for bars in ax.containers}
    assert heights == {"GLOBAL": 2, "NOT_GLOBAL": 2}
    assert "objective" in ax.get_xlabel() and ax.get_ylabel() and ax.get_xscale() == "linear"
    assert any("UNFITTED (1)" in text.get_text() for text in ax.get_legend().get_texts())
    _, (ax,) = plots.panels(1)
    plots.objective_histogram(ax, [1.0, 1e6], np.array([G, gflow.VERDICT.INCONCLUSIVE]))
    assert ax.get_xscale() == "log" and sum(p.get_height() for bars in ax.containers for p in bars) == 2
    _, (ax,) = plots.panels(1)
    plots.objective_histogram(ax, [1.0, 2.0, 3.0], np.array([G, N, N]), optimum=1.0 - 1e-9)
    # no bar below the optimum: the first begins there, and holds the limit that is proved to be it
    assert min(bar.get_x() for bar in ax.patches) == pytest.approx(1.0 - 1e-9, abs=1e-12)
    assert ax.lines[0].get_xdata()[0] == 1.0 - 1e-9
    _, (ax,) = plots.panels(1)
    plots.objective_histogram(ax, [3.0, 3.0], np.array([G, G]))
    assert ax.get_xlim()[0] < 3 < ax.get_xlim()[1]
    _, (ax,) = plots.panels(1)
    plots.objective_histogram(ax, [np.inf], np.array([U]))
    assert "no initialisation" in ax.texts[0].get_text()


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("the page is not opened: pip install playwright (it is in gflow-relu[test])")
    if program is None:
        pytest.skip("the page is not opened: install chromium or google-chrome (e.g. apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, file, **options):
    """The page in a context of its own without a network; what it asked for and complained of must be nothing."""
    context = browser.new_context(**options)
    context.set_offline(True)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] and said == []
    context.close()


def test_tables_sort_and_filter(browser, written):
    with opened(browser, written[0], viewport={"width": 1200, "height": 900}) as page:
        assert page.title() == f"{NASTY}: gflow report"
        column = lambda k: page.locator(f"#limits-table tbody tr:visible td:nth-child({k})").all_inner_texts()  # noqa: E731
        head = page.get_by_role("button", name="objective P")
        head.click()
        cell = page.locator("#limits-table th", has=head)
        assert cell.get_attribute("aria-sort") == "ascending"
        numbers = [float("inf") if text == "not fitted" else float(text) for text in column(2)]
        assert numbers == sorted(numbers) and len(set(numbers)) >= 4
        head.focus()
        page.keyboard.press("Enter")
        assert cell.get_attribute("aria-sort") == "descending"
        assert [text for text in column(2) if text != "not fitted"] == [f"{v:.9g}" for v in numbers[::-1] if v < np.inf]
        page.get_by_role("button", name="verdict").click()
        assert column(4) == sorted(column(4)) and page.locator("th[aria-sort]").count() == 1
        page.get_by_label("verdict", exact=True).select_option("NOT_GLOBAL")
        assert set(column(4)) == {"NOT_GLOBAL"} and len(column(4)) == 2
        assert page.locator("output").inner_text().startswith("2 of ")
        page.get_by_label("verdict", exact=True).select_option("")
        assert len(column(4)) == len(written[1]["limits"])


def test_on_a_telephone_rows_are_cards_that_sort_and_filter(browser, written):
    with opened(browser, written[0], viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("[...document.querySelectorAll('.scroll')].every((e) => e.scrollWidth <= e.clientWidth)")
        cards = page.get_by_role("table", name="Limits whose").get_by_role("row")
        heights = [card.bounding_box()["height"] for card in cards.all()[1:]]
        assert len(heights) == len(written[1]["limits"]) and min(heights) > 60
        names = "(e) => getComputedStyle(e, '::before').content"
        assert page.locator("#limits-table td").nth(1).evaluate(names).startswith('"P')
        page.get_by_role("button", name="certificate c").click()
        c = [cell.inner_text() for cell in page.locator("#limits-table tbody td:nth-child(3)").all()]
        assert c == sorted(c, key=lambda text: float("inf") if text == "-" else float(text))
        page.get_by_label("verdict", exact=True).select_option("UNFITTED")
        assert page.locator("#limits-table tbody tr:visible").count() == 1


def test_figures_tell_their_numbers(browser, written):
    with opened(browser, written[0], viewport={"width": 1200, "height": 900}) as page:
        tip = page.locator("#tip")
        assert tip.is_hidden()
        for figure in page.locator("figure").all():
            parts = figure.locator("[data-tip]")
            assert parts.count() > 0 and figure.locator("[tabindex='0']").count() == 1
        bar = page.locator(".part").first
        bar.scroll_into_view_if_needed()
        bar.hover()
        assert tip.is_visible() and tip.inner_text() == bar.get_attribute("data-tip")
        assert re.match(r"(NOT_)?GLOBAL: \d+ with log10 c from", tip.inner_text())
        page.mouse.move(1, 1)
        assert tip.is_hidden()
        rings = page.locator("svg[aria-label^='Margins'] .ring")
        rings.first.scroll_into_view_if_needed()
        rings.first.focus()
        assert "q_min" in tip.inner_text()
        page.keyboard.press("ArrowRight")
        assert tip.is_visible() and tip.inner_text() == rings.nth(1).get_attribute("data-tip")
        assert rings.nth(1).get_attribute("tabindex") == "0" and rings.first.get_attribute("tabindex") == "-1"
        page.keyboard.press("Escape")
        assert tip.is_hidden()


@NAMED
def test_cells_tell_their_numbers(browser, grid):
    with opened(browser, grid[0], viewport={"width": 900, "height": 700}) as page:
        for cell in page.locator(".part").all():
            cell.scroll_into_view_if_needed()
            cell.hover()
            assert page.locator("#tip").inner_text() == cell.get_attribute("data-tip")


COLOURS = """() => {
    const of = (element, what) => getComputedStyle(element)[what];
    const texts = [...document.querySelectorAll("figure svg text")].map((text) => of(text, "fill"));
    const lines = [...document.querySelectorAll("figure svg g[clip-path], figure svg path")].length;
    const soft = [...document.querySelectorAll("figcaption, dt, caption, td, th button, a, summary")];
    return {
        paper: of(document.body, "backgroundColor"), ink: of(document.body, "color"),
        texts, lines, soft: soft.map((element) => of(element, "color")),
    };
}"""


def contrast(one, other):
    """Contrast of two rgb() colours, by the formula of WCAG 2."""

    def luminance(colour):
        channel = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_either_mode_and_on_a_telephone(browser, written, scheme):
    with opened(browser, written[0], viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        seen = page.evaluate(COLOURS)
        assert (contrast(seen["paper"], "rgb(255, 255, 255)") < 1.1) == (scheme == "light")
        assert contrast(seen["paper"], seen["ink"]) >= 10
        assert len(seen["texts"]) > 50 and min(contrast(seen["paper"], c) for c in seen["texts"]) >= 7
        assert min(contrast(seen["paper"], c) for c in seen["soft"]) >= 4.5
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        widths = page.evaluate(
            "[...document.querySelectorAll('figure svg')].map((s) => s.getBoundingClientRect().width)"
        )
        assert len(widths) == 6 and 300 <= min(widths) <= max(widths) <= 390
