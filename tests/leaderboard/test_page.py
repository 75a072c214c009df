"""The board's page in a real browser, opened from a folder as a reader would.

Skipped without chromium: scripts/setup.py --dev installs it where it may.
"""

import csv
import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_records import sha, share, write

from midalign.analyze.pairs import MEASURES, pair_table
from midalign.analyze.report import add_metadata, write_analysis
from midalign.errors import MidalignError, RecordError
from midalign.leaderboard.build import build_board
from midalign.leaderboard.page.data import section_data
from midalign.leaderboard.page.models import parameters_in_name, size_bucket
from midalign.leaderboard.page.write import script_json, write_page
from midalign.record.outputs import SavedOutput, pack_outputs

BASE = "<script>window.hit=1</script> 1.5B"
RECIPE = "$x^{2$ [red] a|b & `c` _d_ מודל <img src=x onerror=window.hit=1>"
ARM = '=SUM("1") [/red] $\\alpha$'
SCORES = {
    "baseline": {"en": 80, "es": 60, "de": 30, "sw": 10, "fr": 40},
    "aligned": {"en": 78, "es": 60, "de": 40, "sw": 20, "fr": 37},
    ARM: {"en": 70, "es": 50, "de": 45, "sw": 15, "fr": 35},
}
VIEWS = ("overview", "task", "model", "compare")


def counts(scores):
    return {code: share(100, right) for code, right in scores.items()}


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    results = folder / "results"
    write(results, "base", "base", counts(dict.fromkeys(SCORES["baseline"], 5)), base=BASE)
    for arm, scores in SCORES.items():
        name = "arm" if arm == ARM else arm
        write(results, name, arm, counts(scores), seed=1, base=BASE, recipe=RECIPE, cut_off=3)
    other = {"base": "org/other-270m", "recipe": "second", "limit": 50, "training_dtype": "bfloat16"}
    other["settings"] = {"learning_rate": 0.002, "system_instruction": BASE}
    write(results, "other", "baseline", counts(SCORES["aligned"]), seed=1, **other)
    return folder, build_board(results, folder)


@pytest.fixture(scope="module")
def board(sections):
    return sections[0]


@pytest.fixture(scope="module")
def index(board):
    return read_script(board / "page" / "data" / "index.js")


def read_script(path: Path):
    text = path.read_text("utf-8").removeprefix("midalign.receive(").removesuffix(");\n")
    return json.loads(f"[{text}]")[1]


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser ({', '.join(names)}): apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, board) -> Iterator:
    """A page that fails its test for an error, a message on the console or a request outside the folder."""
    problems = []
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    shown = context.new_page()
    shown.on("console", lambda message: problems.append(message.text))
    shown.on("pageerror", lambda error: problems.append(str(error)))

    def check_request(request):
        url = urlparse(request.url)
        inside = url.scheme == "file" and unquote(url.path).startswith(str(board))
        if not inside and url.scheme not in ("data", "blob"):
            problems.append(f"request to {request.url}")

    shown.on("request", check_request)
    yield shown
    context.close()
    assert not problems


def show(page, board: Path, state: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"file://{board}/index.html#{state}")
    page.wait_for_selector("main[data-drawn]")


def state_of(view: str, index) -> str:
    section = next(one for one in index["sections"] if len(one["rows"]) > 1)
    return {
        "overview": "",
        "task": f"view=task&task={section['slug']}",
        "model": f"view=model&model={section['rows'][-1]}",
        "compare": f"view=compare&task={section['slug']}",
    }[view]


def column(page, key: str) -> list[str]:
    """The texts of a column of the first table."""
    return page.evaluate(
        """key => {
          const table = document.querySelector("table");
          const heads = [...table.querySelectorAll("thead button")].map(button => button.dataset.sort);
          return [...table.tBodies[0].rows].map(row => row.cells[heads.indexOf(key)].textContent);
        }""",
        key,
    )


@pytest.mark.parametrize("view", VIEWS)
def test_views_have_no_accessibility_violation(page, board, index, view):
    from axe_playwright_python.sync_playwright import Axe

    # Axe would fetch style sheets, which the page forbids. They are part of the document.
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    options = {"preload": False, "runOnly": {"type": "tag", "values": tags}}
    for theme in ("light", "dark"):
        show(page, board, f"{state_of(view, index)}&theme={theme}")
        page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
        violations = Axe().run(page, options=options).response["violations"]
        assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations], theme
    assert page.evaluate("window.hit") is None


@pytest.mark.parametrize("view", VIEWS)
def test_views_fit_a_phone_and_their_links_lead_somewhere(page, board, index, view):
    page.set_viewport_size({"width": 360, "height": 740})
    show(page, board, state_of(view, index))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    links = set(page.eval_on_selector_all("a", "nodes => nodes.map(node => node.href)"))
    assert len(links) > 4
    for link in links:
        url = urlparse(link)
        assert Path(unquote(url.path)).is_file(), link
        if "view=" in url.fragment:
            page.goto(link)
            page.wait_for_function("location.hash.includes(document.querySelector('main').dataset.drawn)")
            assert page.locator("h2").inner_text() not in ("", "No such model")
            assert page.locator("[role=alert]").count() == 0


def test_the_overview_of_four_tasks_fits_1280_pixels(chromium, tmp_path):
    """With names as long as those of the committed board, and the longest mark of trust."""
    tasks = [("midalign_mini_slot", None), ("midalign_slot", 100), ("midalign_slot_xsid", 30)]
    for number, (group, limit) in enumerate([*tasks, ("midalign_mini_slot", 100)]):
        for arm in ("baseline", "aligned-tatoeba"):
            options = {"base": "gemma-3-270m", "recipe": "massive-gemma", "dtype": "bfloat16"}
            options |= {"group": group, "limit": limit}
            write(tmp_path / "results", f"{arm}-{number}", arm, counts(SCORES["aligned"]), seed=1, **options)
    build_board(tmp_path / "results", tmp_path)
    shown = chromium.new_page(viewport={"width": 1280, "height": 900})
    show(shown, tmp_path)
    assert set(column(shown, "trust")) == {"self-reported"}
    assert shown.locator("thead .number").count() == 4 + 5
    scrolled = shown.locator(".scroll").first
    assert scrolled.evaluate("node => node.scrollWidth <= node.clientWidth")
    box = shown.locator("thead th").last.bounding_box()
    assert box["x"] + box["width"] <= 1280
    assert shown.evaluate("document.documentElement.scrollWidth") <= 1280
    shown.close()


def test_sorting_keeps_missing_cells_last_and_is_in_the_address(page, board, index):
    show(page, board)
    task = next(one["id"] for one in index["tasks"] if "test" in one["title"] and "50" not in one["title"])
    button = page.locator(f'[data-sort="{task}"]')
    button.click()
    down = column(page, task)
    numbers = [float(text) for text in down if text != "–"]
    assert numbers == sorted(numbers, reverse=True)
    assert down[-1] == "–"
    assert page.locator('th[aria-sort="descending"]').count() == 1
    button.press("Enter")
    up = column(page, task)
    assert [float(text) for text in up if text != "–"] == numbers[::-1]
    assert up[-1] == "–"
    assert f"sort={task}&order=up" in page.url
    show(page, board, urlparse(page.url).fragment)
    assert column(page, task) == up


def test_filters_choose_rows_tasks_and_languages(page, board, index):
    show(page, board)
    everything = column(page, "model")
    assert len(everything) == 5
    page.select_option("#choice-base", BASE)
    assert len(column(page, "model")) == 4
    page.fill("#search", "aligned")
    assert page.evaluate("document.activeElement.id") == "search"
    assert [text.endswith("aligned") for text in column(page, "model")] == [True]
    page.fill("#search", "")
    page.select_option("#choice-role", "aligned")
    section = next(one for one in index["sections"] if one["base"] == BASE)
    means = dict(zip(column(page, "model"), column(page, section["task"]), strict=True))
    expected = {arm: f"{(scores['de'] + scores['sw']) / 2:.1f}" for arm, scores in SCORES.items()}
    assert means == {BASE: "5.0", **{f"{RECIPE}: {arm}": mean for arm, mean in expected.items()}}
    page.select_option("#choice-size", "1B to 4B")
    assert "role=aligned" in page.url
    assert "size=" in page.url


def test_the_page_is_usable_by_keyboard_alone(page, board):
    show(page, board)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.sort || ''"))
    assert {"theme", "search", "choice-family", "choice-base", "complete", "rank", "model"} <= seen
    page.focus('tbody a[href*="view=model"]')
    page.keyboard.press("Enter")
    page.wait_for_selector('main[data-drawn="model"]')
    assert page.evaluate("document.activeElement.tagName") == "H2"


def test_rank_is_the_mean_share_of_models_beaten(page, board):
    show(page, board)
    scores = [0.5, None, 0.7, 0.5, 0.1]
    rates = page.evaluate("scores => midalign.winRates(scores)", scores)
    # 0.5 beats 0.1, ties with the other 0.5 and loses to 0.7: 1.5 of three rivals.
    assert rates == pytest.approx([0.5, None, 1, 0.5, 0])
    assert column(page, "rank") == ["1", "2", "3", "4", "4"]
    # The other base's only task has one model, so it decides nothing.
    assert column(page, "points")[:4] == ["100.0", "66.7", "33.3", "0.0"]


def test_two_models_side_by_side_show_the_computed_difference(page, board, sections, index):
    part = next(one for one in sections[1] if len(one.models) == 4)
    labels = [model.label for model in part.models]
    summary = next(one for one in index["sections"] if one["slug"] == part.slug)
    keys = dict(zip(labels, summary["rows"], strict=True))
    pairs = [*part.differences, *part.other_pairs]
    assert len(pairs) == 6
    for number, pair in enumerate(pairs):
        change = pair.means["slot_f1"]["aligned"]
        bounds = [f"{100 * value:+.1f}" for value in (change.value, change.low, change.high)]
        names, sign = (pair.model, pair.baseline), 1
        if number % 2:  # the other way round: the sign turns, and so do the bounds
            names, sign, bounds = names[::-1], -1, [bounds[0], bounds[2], bounds[1]]
        a, b = (keys[name] for name in names)
        show(page, board, f"view=compare&task={part.slug}&a={a}&b={b}")
        cell = page.locator("table").first.locator("tr", has_text="aligned").last.locator("td").last
        texts = cell.inner_text().replace("−", "-").strip("]").replace("[", ",").split(",")
        assert list(map(float, texts)) == pytest.approx([float(bound) * sign for bound in bounds]), names


def test_downloads_hold_the_table_and_the_chart(page, board, index):
    def download(kind: str) -> bytes:
        with page.expect_download() as saved:
            page.locator(f"[data-download={kind}]").first.click()
        return Path(saved.value.path()).read_bytes()

    show(page, board)
    page.fill("#search", "sum(")
    (row,) = csv.DictReader(io.StringIO(download("csv").decode()))
    assert row["Model"] == f"{RECIPE}: {ARM}"
    assert row["Base"] == BASE
    (entry,) = json.loads(download("json"))
    assert entry["Model"] == row["Model"]
    assert isinstance(entry["Rank"], int)
    tex = download("tex").decode()
    assert r"\$x\textasciicircum{}\{2\$ [red] a\textbar{}b \& `c` \_d\_" in tex
    assert r"\textbackslash{}alpha\$" in tex
    show(page, board, state_of("task", index))
    chart = ElementTree.fromstring(download("svg"))
    assert chart.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [node for node in chart.iter() if "script" in node.tag.lower()]
    assert "Swahili" in "".join(chart.itertext())
    assert download("png").startswith(b"\x89PNG")


def test_csv_cells_cannot_be_formulas(page, board):
    show(page, board)
    cells = page.evaluate("['=1+1', '@x', -1.5, 'a,\"b\"', null].map(midalign.escapes.csv)")
    assert cells == ["'=1+1", "'@x", "-1.5", '"a,""b"""', ""]


def test_the_model_view_has_languages_origin_and_cost(page, board, index):
    show(page, board, state_of("model", index))
    page.locator("summary").first.click()
    text = page.locator("main").inner_text()
    for expected in ("Swahili (sw)", "aligned.json", "Recipe digest", "tokens", "hf float32", "not recorded"):
        assert expected in text


def test_the_model_view_has_the_recipe_of_an_adapter(page, board, index):
    (model,) = (one for one in index["models"] if one["recipe"] == "second")
    show(page, board, f"view=model&model={model['id']}")
    page.locator("summary", has_text="Hyperparameters: baseline").click()
    text = page.locator("main").inner_text()
    assert '"learning_rate": 0.002' in text
    assert BASE in text
    assert page.evaluate("window.hit") is None


HOSTILE = "</script><img src=x onerror=window.hit=1> \u202e"


def test_the_model_view_has_sample_outputs_as_text(chromium, tmp_path):
    results = tmp_path / "results"
    for group in ("midalign_mini_slot", "midalign_slot_xsid"):
        path = write(results, group, "baseline", counts(SCORES["baseline"]), group=group, recipe="r", seed=1)
        outputs = [
            SavedOutput(
                task=f"{group}_{code}", doc_id=doc_id, output=text, input=f"in {doc_id}", gold=HOSTILE
            )
            for code in ("en", "es", "de", "sw", "fr", "hi")
            for doc_id, text in ((7, "later"), (3, "שלום <b>"), (5, "later"))
        ]
        old = SavedOutput(task=f"{group}_en", doc_id=0, output="without input")
        path.with_suffix(".outputs.jsonl.zst").write_bytes(pack_outputs([old, *outputs]))
        path.with_suffix(".private-outputs.jsonl.zst").write_bytes(b"secret")
    parts = build_board(results, tmp_path)
    shown = chromium.new_page()
    index = read_script(tmp_path / "page" / "data" / "index.js")
    show(shown, tmp_path, f"view=model&model={index['models'][0]['id']}")
    shown.locator("summary", has_text="Sample outputs").click()
    rows = shown.locator(".samples tbody tr")
    # Two languages per role. The mini benchmark has no Swahili.
    assert [text.split("\t")[0] for text in rows.all_inner_texts()] == [
        "English (en)",
        "Spanish (es)",
        "German (de)",
        "French (fr)",
    ]
    assert rows.first.locator("td").all_inner_texts() == [
        "in 3",
        HOSTILE.replace("\u202e", "\ufffd"),
        "שלום <b>",
    ]
    directions = rows.first.locator("td div").evaluate_all(
        "all => all.map(n => getComputedStyle(n).direction)"
    )
    assert directions == ["ltr", "ltr", "rtl"]
    assert "from mini (Apache-2.0)" in shown.locator(".samples caption").inner_text()
    assert shown.evaluate("window.hit") is None
    shown.close()
    # xSID's licence lets nobody publish excerpts under another licence, even if a file has them.
    assert {part.section.group: [len(one) for one in section_data(part)["samples"]] for part in parts} == {
        "midalign_mini_slot": [4],
        "midalign_slot_xsid": [0],
    }
    (results / "midalign_mini_slot.outputs.jsonl.zst").write_bytes(b"text")
    with pytest.raises(RecordError, match=r"mini_slot\.outputs\.jsonl\.zst is not zstd-compressed text"):
        section_data(next(part for part in parts if part.section.group == "midalign_mini_slot"))


def test_the_theme_button_switches_and_print_is_light(page, board):
    show(page, board)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(colour) == "rgb(15, 19, 24)"
    assert "theme=dark" in page.url
    page.emulate_media(media="print")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()


@settings(max_examples=50)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_script_data_are_json_without_markup(value):
    text = script_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


@pytest.mark.parametrize(
    ("name", "parameters", "bucket"),
    [
        ("google/gemma-3-270m", 270e6, "under 1B"),
        ("Llama-3.2-1B-Instruct", 1e9, "1B to 4B"),
        ("aya-expanse-8b", 8e9, "4B to 10B"),
        ("Qwen2.5-72B", 72e9, "40B and more"),
        ("mini", None, "unknown"),
        ("v2mb", None, "unknown"),
    ],
)
def test_size_is_what_the_name_states(name, parameters, bucket):
    assert parameters_in_name(name) == parameters
    assert size_bucket(parameters) == bucket


def test_layer_curves_and_reference_rows_come_from_the_folder(tmp_path, sections, board):
    codes, digests = ["en", "de", "sw"], (sha(BASE), None, "tokenizer")
    matrices = {
        layer: {name: np.full((3, 3), layer / 10, np.float32) for name in MEASURES} for layer in (0, 2, 4)
    }
    table = add_metadata(
        pair_table(matrices, codes), "model", digests, {code: ["text"] * 9 for code in codes}
    )
    write_analysis(tmp_path / "analysis" / "model", table, {})
    scores = {code: 0.25 for code in ("de", "en", "es", "fr", "sw")}
    known = {"group": "midalign_mini_slot", "version": 1, "split": "test", "scores": scores}
    old = known | {"version": 2, "scores": dict.fromkeys(scores, 0.9)}
    rows = [{"title": "always none", "groups": [old, known]}]
    (tmp_path / "references.json").write_text(json.dumps({"references": rows}))
    write_page(sections[1], tmp_path)
    index = read_script(tmp_path / "page" / "data" / "index.js")
    (analysis,) = index["analyses"]
    assert dict(analysis["curves"]["margin"]) == pytest.approx({0: 0, 2: 0.2, 4: 0.4})
    assert [one["analyses"] for one in index["sections"]] == [
        [0] if one["base"] == BASE else [] for one in index["sections"]
    ]
    (reference,) = index["references"]
    assert [cell["scores"] for cell in reference["cells"].values()] == [[0.25] * 5] * 2

    (tmp_path / "references.json").write_text('{"references": [{"title": 1, "groups": []}]}')
    with pytest.raises(MidalignError, match=r"references\.0\.title.*trivial_answers\.py --output"):
        write_page(sections[1], tmp_path)


def test_a_model_with_labels_of_all_languages_is_the_upper_bound(chromium, tmp_path):
    every = {"supervised": sorted(SCORES["aligned"]), "aligned": [], "unseen": []}
    results, group = tmp_path / "results", "midalign_mini_slot"
    trained = {"recipe": "r", "seed": 1, "training_dtype": "float32", "roles": every}
    write(results, "labels", "all-labels", counts(dict.fromkeys(SCORES["aligned"], 90)), **trained)
    write(
        results, "other", "baseline", counts(SCORES["baseline"]), recipe="r", seed=1, training_dtype="float32"
    )
    # Roles without a manifest do not say which task was trained on, and neither do labels of another task.
    write(results, "told", "told", counts(SCORES["aligned"]), roles=every)
    path = write(results, "elsewhere", "elsewhere", counts(SCORES["aligned"]), **trained)
    text = path.read_text()
    path.write_text(text.replace(f'"task": "{group}"', '"task": "midalign_slot"'))
    assert path.read_text() != text
    parts = build_board(results, tmp_path)
    bounds = {
        row.label: bound
        for part in parts
        for row, bound in zip(part.section.rows, section_data(part)["bounds"], strict=True)
    }
    assert bounds == {"baseline": False, "all-labels": True, "told": False, "elsewhere": False}
    shown = chromium.new_page()
    show(shown, tmp_path)
    row = shown.locator("tr.reference")
    assert row.locator("th").inner_text() == "supervised upper bound: r: all-labels"
    index = read_script(tmp_path / "page" / "data" / "index.js")
    ranks = dict(zip(column(shown, "model"), column(shown, "rank"), strict=True))
    assert ranks.pop("supervised upper bound: r: all-labels") == "–"
    assert "r: all-labels" not in ranks
    assert set(column(shown, index["tasks"][0]["id"])) >= {"90.0"}
    row.locator("a").click()
    shown.wait_for_selector('main[data-drawn="model"]')
    assert "Supervised upper bound" in shown.locator("main").inner_text()
    shown.close()


def test_a_page_of_somebody_else_is_kept(tmp_path, board):
    (tmp_path / "index.html").write_text("<!doctype html>my page")
    with pytest.raises(MidalignError, match="was not written by midalign"):
        build_board(board / "results", tmp_path)
    assert (tmp_path / "index.html").read_text() == "<!doctype html>my page"
