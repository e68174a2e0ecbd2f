"""The leaderboard's page: as text, and in a real browser where one is found."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
import typer
from pages import Structure, Watched

from anchorbench import __version__
from anchorbench.cli.leaderboard import app
from anchorbench.leaderboard.board import Board, Line
from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.entry import VERDICTS, Entry
from anchorbench.leaderboard.page import in_words, markdown_table, render, stacked
from anchorbench.leaderboard.statistics import statistics_of
from anchorbench.show.html import MAX_PAGE_BYTES

ALL = 200
"""At least as many as a task has members."""
GAMMAS = {0.5: 2, 0.6: 5, 0.7: ALL, 0.8: 7}
"""Gamma -> inferential members of each task."""


def gamma_entries() -> list[Entry]:
    return [hostile.honest_entry(f"gamma {g}", inferential=k, init={"gamma": g}) for g, k in GAMMAS.items()]


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    marked = [
        hostile.honest_entry(text, description=text, inferential=k % 7, data_size=50_000 + 1000 * k)
        for k, text in enumerate(hostile.MARKUP)
    ]
    return [*gamma_entries(), *marked, hostile.honest_entry("gpu's own", track="gpu", model={"norm": "post"})]


@pytest.fixture(scope="module")
def page(entries: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(hostile.board_of(*entries), tmp_path_factory.mktemp("page") / "index.html")


# --- As text


def test_the_page_is_whole_light_and_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    found = Structure(text)
    assert found.open == []
    assert len(text.encode()) < MAX_PAGE_BYTES / 2
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\(|\bfetch\b|XMLHttpRequest|innerHTML|eval", text)
    for tag, attributes in found.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert not {name for name in attributes if name.startswith("on")} | ({"src", "style", "srcset"} & set(attributes))
        if "href" in attributes:
            assert re.fullmatch(r"#entry-[0-9a-f]{12}|#mark-[a-z]+|data:,", attributes["href"] or "")
    assert [tag for tag, _ in found.tags].count("script") == 1
    policy = next(
        attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert len({attributes["id"] for _, attributes in found.tags if "id" in attributes}) == text.count(' id="')


@pytest.mark.parametrize("text", hostile.MARKUP)
def test_text_that_looks_like_markup_is_shown_as_it_is(page: Path, text: str) -> None:
    shown = Structure(page.read_text()).text
    assert shown.count(text) >= 3  # in the table, in the entry's title, and as its description


def test_the_page_beside_hostile_entries_is_the_page_without_them(entries: list[Entry], tmp_path: Path) -> None:
    """As the command does it: each file is validated, and what is refused is left out."""
    entries = [entry for entry in entries if entry.recipe.name not in hostile.MARKUP]
    files = [entry.to_json() for entry in entries] + [make() for make, _ in hostile.ENTRIES.values()]
    accepted: list[Entry] = []
    refused = 0
    for file in files:
        try:
            accepted.append(validate_entry(file))
        except ValueError:
            refused += 1
    assert refused == len(hostile.ENTRIES) >= 40
    beside, alone = (
        render(hostile.board_of(*each), tmp_path / f"{len(each)}{name}.html") for name, each in (("a", accepted), ("b", entries))
    )
    assert beside.read_bytes() == alone.read_bytes()


def test_equal_entries_give_equal_bytes(entries: list[Entry], page: Path, tmp_path: Path) -> None:
    assert render(hostile.board_of(*entries[::-1]), tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_an_entry_without_attention_has_no_heading_for_it(tmp_path: Path) -> None:
    with_attention = hostile.honest_entry()
    without = with_attention.model_copy(update={"flows": ()})
    heading = "Attention of one run per verdict"
    assert heading in render(hostile.board_of(with_attention), tmp_path / "page.html").read_text()
    assert heading not in render(hostile.board_of(without), tmp_path / "page.html").read_text()


def test_too_many_entries_are_shown_without_attention(tmp_path: Path) -> None:
    """Twelve layers, four verdicts' worth of links: honest in form, and large. The limit is a quarter of the real one."""
    limit = MAX_PAGE_BYTES // 4
    deep = [
        hostile.honest_entry(f"deep {k}", data_size=50_000 + 1000 * k, model={"n_layer": 12, "d_head": 8, "d_ff": 64})
        for k in range(5)
    ]
    text = render(hostile.board_of(*deep), tmp_path / "page.html", most_bytes=limit).read_text()
    assert len(text.encode()) <= limit
    assert "Attention figures are left out" in text
    assert text.count("<details>") == 5
    few = render(hostile.board_of(*deep[:1]), tmp_path / "page.html", most_bytes=limit).read_text()
    assert "Attention figures are left out" not in few
    assert len(few) > limit / 5, "else all pictures would have fit"


def test_a_page_without_entries_says_so(tmp_path: Path) -> None:
    assert "No entries yet." in render(hostile.board_of(), tmp_path / "empty.html").read_text()


def test_a_page_that_would_be_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: at most 1000"):
        render(hostile.board_of(*gamma_entries()), tmp_path / "large.html", most_bytes=1000)
    assert not (tmp_path / "large.html").exists()


def test_entries_that_differ_in_gamma_alone_share_a_figure(tmp_path: Path) -> None:
    assert "Score over gamma" in render(hostile.board_of(*gamma_entries()), tmp_path / "a.html").read_text()
    assert "Score over gamma" not in render(hostile.board_of(*gamma_entries()[:2]), tmp_path / "b.html").read_text()
    others = [hostile.honest_entry(f"{g}", init={"gamma": g}, data_size=int(g * 100_000)) for g in GAMMAS]
    assert "Score over gamma" not in render(hostile.board_of(*others), tmp_path / "c.html").read_text()


def test_the_markdown_table_worked_by_hand() -> None:
    entry = hostile.honest_entry("a|b <i>_c_</i>", inferential=3)
    lines = markdown_table(hostile.board_of(entry)).splitlines()
    assert (lines[0].startswith("Track laptop. Score: the share of"), lines[1]) == (True, "")
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[4])[1:-1]]
    # Of each task's n members three compose all, the last is underfit, and the others compose as little as memorizing does.
    counts = [len(entry.rows_of(task)) for task in entry.suite]
    assert cells[:2] == ["1", r"a\|b &lt;i&gt;\_c\_&lt;/i&gt;"]
    assert cells[2] == f"{statistics_of(entry.recipe, entry.rows).score.value:.0%}"  # by hand in test_leaderboard.py
    assert cells[4:6] == ["44%", "+11"]  # on drawn tasks, and less than on the suite's composite task
    assert cells[6:8] == [f"{sum(3 / n for n in counts) / len(counts):.0%}", f"{len(counts) / sum(counts):.0%}"]
    assert cells[10:12] == ["0", "-"]
    # Member k of n takes 2.5 + k / 8 s; the reference takes 12.5 s for each.
    assert cells[-1] == f"{sum(n * (2.5 + (n - 1) / 16) for n in counts) / (12.5 * sum(counts)):.2f}"
    assert len(cells) == lines[2].count("|") - 1 == lines[3].count("|") - 1
    table = [f"| {task.name} | 3 | 0 | {n - 4} | 1 |" for task, n in zip(entry.suite, counts, strict=True)]
    assert lines[-len(counts) :] == table


@pytest.mark.parametrize("text", hostile.MARKUP)
def test_no_name_breaks_the_markdown_table(text: str) -> None:
    _, _, header, _, line, *_ = markdown_table(hostile.board_of(hostile.honest_entry(text))).splitlines()
    assert len(re.split(r"(?<!\\)\|", line)) == header.count("|") + 1
    assert "<" not in line
    assert not re.search(r"(?<!\\)[\[\]()`*_]", line)


# --- In a browser


@pytest.fixture
def shown(browser: Any, page: Path) -> Iterator[Watched]:
    watched = Watched(browser, page)
    yield watched
    assert watched.is_quiet(), (watched.said, watched.requests)
    watched.context.close()


def names(shown: Watched) -> list[str]:
    """The names of the entries that the first table shows, in its order."""
    rows = shown.tab.locator("table.board").first.locator("tbody tr:not([hidden])")
    return rows.locator("bdi").all_text_contents()


def test_it_shows_every_entry_in_order(shown: Watched, entries: list[Entry]) -> None:
    assert sorted(names(shown)) == sorted(entry.recipe.name for entry in entries if entry.recipe.track == "laptop")
    scores = [int(score.partition("%")[0]) for score in shown.column(2)]
    assert scores == sorted(scores, reverse=True)
    assert shown.tab.title() == "anchorbench leaderboard"


def test_a_click_on_a_header_sorts_both_ways(shown: Watched) -> None:
    header = shown.header("Recipe")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    found = names(shown)
    assert found == sorted(found, key=str.lower)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert names(shown) == sorted(found, key=str.lower, reverse=True)
    assert shown.header("Rank").get_attribute("aria-sort") is None


def test_numbers_sort_as_numbers(shown: Watched, entries: list[Entry]) -> None:
    shown.header("Score").locator("button").click()
    laptop = [statistics_of(entry.recipe, entry.rows).score.value for entry in entries if entry.recipe.track == "laptop"]
    assert [score.partition(" ")[0] for score in shown.column(2)] == [
        f"{100 * value:.0f}%" for value in sorted(laptop, reverse=True)
    ]
    shown.header("Score").locator("button").click()
    assert [score.partition(" ")[0] for score in shown.column(2)] == [f"{100 * value:.0f}%" for value in sorted(laptop)]


def test_what_is_only_reported_cannot_be_sorted_by(shown: Watched) -> None:
    assert shown.header("Time / reference (reported)").locator("button").count() == 0
    assert shown.header("Compute, TMACs").locator("button").count() == 1


def test_the_keyboard_sorts_and_filters(shown: Watched) -> None:
    shown.tab.keyboard.press("Tab")  # the filter
    shown.tab.keyboard.type("GAMMA")
    assert sorted(names(shown)) == ["gamma 0.5", "gamma 0.6", "gamma 0.7", "gamma 0.8"]
    assert shown.tab.locator("output").first.text_content() == "4 of 16"
    shown.tab.keyboard.press("Tab")
    shown.tab.keyboard.press("Tab")  # the second header
    shown.tab.keyboard.press("Enter")
    assert names(shown) == ["gamma 0.5", "gamma 0.6", "gamma 0.7", "gamma 0.8"]
    shown.tab.keyboard.press("Space")
    assert names(shown) == ["gamma 0.8", "gamma 0.7", "gamma 0.6", "gamma 0.5"]


def test_the_filter_reads_descriptions_and_takes_markup_as_text(shown: Watched) -> None:
    shown.tab.locator("input").first.fill("by hand 0.7")
    assert names(shown) == ["gamma 0.7"]
    shown.tab.locator("input").first.fill("<script>document")
    assert names(shown) == ["<script>document.title='owned'</script>"]
    shown.tab.locator("input").first.fill("no such recipe")
    assert names(shown) == []
    shown.tab.locator("input").first.fill("")
    assert len(names(shown)) == 16


def opened(shown: Watched) -> list[str]:
    return shown.tab.locator("details[open] summary bdi").all_text_contents()


def test_a_click_opens_an_entry(shown: Watched, entries: list[Entry]) -> None:
    assert opened(shown) == []
    shown.tab.locator("table.board a", has_text="gamma 0.7").click()
    shown.tab.wait_for_function("document.querySelector('details[open]')")
    assert opened(shown) == ["gamma 0.7"]
    details = shown.tab.locator("details[open]")
    # By hand: gamma 0.7 is two thirds of the way from 0.5 to 0.8, and all of its members infer.
    ring = details.locator("circle.marked")
    assert (float(ring.get_attribute("cx")), float(ring.get_attribute("cy"))) == (56 + 282 * 2 / 3, 10)
    assert details.locator("pre").is_visible()
    assert "gamma: 0.7" in details.locator("pre").inner_text()
    assert details.locator("use:has(title)").count() == len(entries[2].rows)
    figure = details.locator("figure")  # all are inferential: one is shown
    assert figure.count() == 1
    words = flow_words(entries[2])
    assert figure.locator("text").all_text_contents() == words
    # By hand: even attention of n positions to all before, n (n + 1) / 2 links per layer; only the last reader of layer 2 answers.
    links = len(words) * (len(words) + 1)
    assert figure.locator("svg:not(.key) path").count() == links
    assert figure.locator("g.idle path").count() == links // 2 - len(words)
    assert details.locator("summary").evaluate("element => element === document.activeElement")


def flow_words(entry: Entry) -> list[str]:
    """The tokens of the sequence that is held out and has its key nearest the middle, found one by one."""
    number = entry.flows[0].row
    task = entry.recipe.recipe(entry.task_of(number), entry.rows[number].seed).load_task()
    anchors = task.config.offsets
    sequences = task.sample("ood", 200, 0).tokens.tolist()
    keys = [min(at for at, token in enumerate(sequence) if token in anchors) - 1 for sequence in sequences]
    off = [abs(key - (task.seq_len - 4) / 2) for key in keys]
    return [f"a{token}" if token in anchors else str(token) for token in sequences[off.index(min(off))]]


def test_the_keyboard_opens_an_entry(shown: Watched) -> None:
    shown.tab.locator("table.board a", has_text="gamma 0.5").focus()
    shown.tab.keyboard.press("Enter")
    shown.tab.wait_for_function("document.querySelector('details[open]')")
    assert opened(shown) == ["gamma 0.5"]
    shown.tab.keyboard.press("Enter")  # the focus is on its title
    shown.tab.wait_for_function("!document.querySelector('details[open]')")


def test_an_address_with_an_entry_opens_it(browser: Any, page: Path, entries: list[Entry]) -> None:
    watched = Watched(browser, page)
    watched.tab.goto(f"{watched.address}#entry-{entries[1].digest[:12]}")
    watched.tab.reload()
    watched.tab.wait_for_function("document.querySelector('details[open]')")
    assert opened(watched) == ["gamma 0.6"]
    assert watched.said == []
    watched.context.close()


def test_marks_stand_with_what_their_runs_held_out(shown: Watched, entries: list[Entry]) -> None:
    entry = entries[0]
    held_out: dict[tuple[str, str], set[str]] = {}
    for row in entry.rows:
        task = next(task for task in entry.suite if (task.task, task.variant) == (row.task, row.variant))
        groups = entry.recipe.recipe(task, row.seed).load_task().groups
        names = [group.name for group in groups if group.role == "held_out"]
        held_out.setdefault((task.name, names[0] if names else ""), set()).add(str(row.seed))
    card = shown.tab.locator(f"#entry-{entry.digest[:12]}")
    found = card.evaluate(
        """card => [...card.querySelectorAll("tr:has(.lane)")].map(row => [
            row.parentNode.querySelector("b").textContent, row.cells[0].textContent,
            [...row.querySelectorAll("title")].map(title => title.textContent.match(/seed (\\d+)/)[1])])"""
    )
    assert sorted(sorted(seeds) for *_, seeds in found) == sorted(sorted(seeds) for seeds in held_out.values())
    assert any(words.endswith("\u21c4") for _, words, _ in found)
    for name, words, seeds in found:
        if words.endswith("\u21c4"):
            assert held_out[name, words.removesuffix(" \u21c4")] == set(seeds)


def test_no_mark_tells_by_colour_alone(shown: Watched) -> None:
    """Each verdict has an outline of its own, and every mark that of its class."""
    outlines = shown.tab.locator("defs path").evaluate_all("paths => paths.map(path => [path.id, path.getAttribute('d')])")
    assert len(dict(outlines)) == len(set(dict(outlines).values())) == len(VERDICTS)
    marks = shown.tab.locator("use").evaluate_all("uses => uses.map(use => [use.getAttribute('class'), use.getAttribute('href')])")
    assert {name for name, _ in marks} == {"inferential", "memorizing", "underfit"}  # the entries made by hand have no other
    assert all(href == f"#mark-{name}" for name, href in marks)


COLORS = """() => {
  const found = new Map();
  const opaque = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!color.endsWith(", 0)")) return color;
    }
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode()); ) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest("title, script")) continue;
    const { color, fill } = getComputedStyle(element);
    const back = opaque(element.closest("svg")?.parentElement || element);
    found.set(`${element.closest("svg") ? fill : color}|${back}`, node.textContent.trim().slice(0, 40));
  }
  for (const mark of document.querySelectorAll("use")) {
    found.set(`mark|${getComputedStyle(mark).fill}|${opaque(mark.closest("td"))}`, mark.getAttribute("class"));
    found.set(`mark|${getComputedStyle(mark).fill}|${getComputedStyle(mark.parentNode.querySelector(".band")).fill}`, "on band");
  }
  return [...found];
}"""
"""Each combination of colours in which text or a mark is shown, with an example."""


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_and_marks_have_contrast_in_light_and_dark(browser: Any, page: Path, scheme: str) -> None:
    """By WCAG 2: text at least 4.5, marks at least 3."""
    watched = Watched(browser, page, color_scheme=scheme)
    watched.tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    found = watched.tab.evaluate(COLORS)
    assert len(found) > 10
    for colors, example in found:
        *kind, one, other = colors.split("|")
        low, high = sorted((luminance(one), luminance(other)))
        assert (high + 0.05) / (low + 0.05) >= (3 if kind else 4.5), (colors, example)
    back = watched.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(back) < 0.5) == (scheme == "dark")
    watched.context.close()


LONG = {"one word": "W" * 60, "many words": "several words which go on and on until sixty letters are full"[:60]}


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, tmp_path: Path, width: int) -> None:
    """Name, score and its interval are on the screen, numbers and drawing; so is all of a card, in sizes that can be read."""
    long = [hostile.honest_entry(name, data_size=60_000 + len(key)) for key, name in LONG.items()]
    page = render(hostile.board_of(*gamma_entries(), *long), tmp_path / "page.html")
    watched = Watched(browser, page, viewport={"width": width, "height": 740})
    watched.tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= width
    inside = """elements => elements.filter(element => element.checkVisibility()).map(element => element.getBoundingClientRect())
        .map(box => [box.left, box.right, box.height])"""
    for selector in ("table.board a", "td.share b", "td.share .range", "td.share svg", ".lanes td", ".lanes th", "pre", "figure"):
        boxes = watched.tab.locator(selector).evaluate_all(inside)
        assert boxes, selector
        assert all(left >= 0 and right <= width and height > 0 for left, right, height in boxes), selector
    assert all(right - left >= 4 for left, right, _ in watched.tab.locator("use").evaluate_all(inside))  # of marks
    small = """elements => elements
        .map(element => parseFloat(getComputedStyle(element).fontSize) * (element.getScreenCTM?.().a || 1))"""
    assert min(watched.tab.locator("svg text, .lanes *, td.share *").evaluate_all(small)) >= 10
    assert watched.header("Score").is_visible()
    assert watched.is_quiet()
    watched.context.close()


def test_the_keyboard_reaches_all_and_shows_where_it_is(shown: Watched, entries: list[Entry]) -> None:
    """From the filter through headers and entries' links to the cards, each with an outline that nothing clips."""
    count = sum(entry.recipe.track == "laptop" for entry in entries)
    seen: list[str] = []
    focus = """() => {
      const element = document.activeElement, style = getComputedStyle(element), card = element.closest("details");
      const clipped = card && parseFloat(style.outlineOffset) + parseFloat(style.outlineWidth) > 0;
      return [element.tagName, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && !clipped];
    }"""
    buttons = shown.tab.locator("table.board").first.locator("th button").count()
    for _ in range(1 + buttons + 2 * count):
        shown.tab.keyboard.press("Tab")
        tag, outlined = shown.tab.evaluate(focus)
        assert outlined, tag
        seen.append(tag)
    assert seen == ["INPUT", *["BUTTON"] * buttons, *["A"] * count, *["SUMMARY"] * count]


def test_a_line_may_have_any_number_of_runs(tmp_path: Path) -> None:
    """Reproductions add runs to some tasks; nothing on the page counts on a suite's size."""
    entry = hostile.honest_entry("Uneven")
    more = [row.model_copy(update={"seed": row.seed + 1}) for row in entry.rows[: len(entry.rows) // 2]]
    rows = (*entry.rows[1:], *more, *more)
    line = Line(entry, ["Uneven"], rows, rank=1)
    text = render(Board({"laptop": [line]}, {"laptop": []}, []), tmp_path / "page.html").read_text()
    assert text.count("<use ") == len(rows)
    assert f"{len(rows)} runs pooled" in text


def test_it_tells_how_to_submit(page: Path) -> None:
    """The commands on the page are commands, with these options."""
    [part] = re.findall(r"How to submit(.*?)</section>", page.read_text(), re.DOTALL)
    commands = re.findall(r"<code>anchorbench leaderboard ([^<]+)</code>", part)
    known: Any = typer.main.get_command(app)
    assert [command.split()[0] for command in commands] == ["register", "run", "validate", "verify"]
    for command in commands:
        options = {option for parameter in known.commands[command.split()[0]].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z]+", command)) <= options, command


def test_it_tells_date_version_and_commits(tmp_path: Path) -> None:
    later = hostile.BEACON.model_copy(update={"time": "2026-12-24T18:00Z", "name": "more dice"})
    made = [
        hostile.honest_entry("a").model_copy(update={"git": "1" * 40}),
        hostile.honest_entry("b", beacon=later, data_size=60_000).model_copy(update={"git": "1" * 40}),
        hostile.honest_entry("c", data_size=70_000).model_copy(update={"git": "2" * 40 + "-dirty"}),
        hostile.honest_entry("d", data_size=80_000),
    ]
    text = render(hostile.board_of(*made), tmp_path / "page.html").read_text()
    assert f"Rendered by anchorbench {__version__}; the newest seeds were drawn at 2026-12-24T18:00Z." in text
    assert f"{'1' * 12} (2), " in text
    assert f"{'2' * 12}-dirty (1)" in text
    assert "an installed package (1)" in text


def test_words_for_what_is_held_out() -> None:
    assert in_words([], 1) == "unseen data"
    assert in_words(["(4,3)"], 16) == "(4,3)"
    assert in_words(["(3,4)", "(4,3)"], 16) == in_words(["(4,3)", "(3,4)"], 16) == "(3,4) \u21c4"
    assert in_words(["(3,4)", "(1,2)"], 16) == "(1,2), (3,4)"
    assert in_words([f"({n},{n})" for n in range(19)], 64) == "19 of 64 groups"


def test_marks_that_would_overlap_are_stacked() -> None:
    assert stacked([], 8) == []
    assert stacked([0, 20, 10], 8) == [0, 0, 0]
    assert stacked([5, 5, 5, 13, 12.5], 8) == [0, 1, 2, 0, 3]  # 12.5 would still overlap what is at 5


def test_without_javascript_it_is_a_plain_table(browser: Any, page: Path, entries: list[Entry]) -> None:
    watched = Watched(browser, page, java_script_enabled=False)
    rows = watched.tab.locator("table.board").first.locator("tbody tr")
    assert rows.count() == sum(entry.recipe.track == "laptop" for entry in entries)
    assert watched.tab.locator("th button").count() == 0
    assert not watched.tab.locator("input").first.is_visible()
    watched.tab.locator("table.board a", has_text="gamma 0.7").click()
    watched.tab.locator("pre", has_text="gamma: 0.7").wait_for(state="visible")
    watched.tab.locator("summary", has_text="gamma 0.6").click()
    assert watched.tab.locator("pre", has_text="gamma: 0.6").is_visible()
    assert watched.is_quiet()
    watched.context.close()


def test_the_policy_stops_a_script_that_would_slip_in(browser: Any, page: Path, tmp_path: Path) -> None:
    """If escaping failed once, the page's policy would still let nothing run."""
    slipped = tmp_path / "slipped.html"
    text = page.read_text()
    slipped.write_text(
        text.replace("<main>", "<main><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">")
    )
    watched = Watched(browser, slipped)
    assert watched.tab.title() == "anchorbench leaderboard"
    assert any("Content Security Policy" in said for said in watched.said)
    watched.context.close()
