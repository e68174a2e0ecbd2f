"""The leaderboard's page: as text, and in a real browser where one is found."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
from pages import Structure, Watched

from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.entry import Entry
from anchorbench.leaderboard.page import markdown_table, render
from anchorbench.leaderboard.statistics import statistics_of
from anchorbench.leaderboard.suite import LAPTOP_SUITE
from anchorbench.show.html import MAX_PAGE_BYTES
from anchorbench.task import load_task

GAMMAS = {0.5: 2, 0.6: 5, 0.7: 8, 0.8: 7}
"""Gamma -> inferential members of each task's 8."""


def gamma_entries() -> list[Entry]:
    return [hostile.honest_entry(f"gamma {g}", inferential=k, init={"gamma": g}) for g, k in GAMMAS.items()]


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    marked = [
        hostile.honest_entry(text, description=text, inferential=k % 9, data_size=50_000 + 1000 * k)
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
            assert re.fullmatch(r"#entry-[0-9a-f]{12}|data:,", attributes["href"] or "")
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
    lines = markdown_table(hostile.board_of(hostile.honest_entry("a|b <i>_c_</i>", inferential=5))).splitlines()
    assert (lines[0].startswith("Track laptop. Score: the share of"), lines[1]) == (True, "")
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[4])[1:-1]]
    # Five of 8 members compose all, the others a tenth. In conflict-control members are averaged by pair, (3 x .55 + 2) / 5; the
    # underfit one of chain-search knows half.
    score = (4 * 5.3 / 8 + (3 * 0.55 + 2) / 5 + 5.7 / 8) / 6
    assert cells[:3] == ["1", r"a\|b &lt;i&gt;\_c\_&lt;/i&gt;", f"{score:.0%}"]
    assert cells[4:6] == ["62%", "12%"]
    assert cells[8:10] == ["registered", "0"]
    # 6 tasks x (8 x 2.5 + 28 / 8) s of 48 x 12.5 s.
    assert cells[-1] == f"{6 * (20 + 3.5) / 600:.2f}"
    assert len(cells) == lines[2].count("|") - 1 == lines[3].count("|") - 1
    assert lines[-6:] == [f"| {task.name} | 5 | 0 | 2 | 1 |" for task in LAPTOP_SUITE]


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


def test_it_shows_every_entry_in_order(shown: Watched, entries: list[Entry]) -> None:
    names = shown.column(1)
    assert sorted(names) == sorted(entry.recipe.name for entry in entries if entry.recipe.track == "laptop")
    scores = [int(score.partition("%")[0]) for score in shown.column(2)]
    assert scores == sorted(scores, reverse=True)
    assert shown.tab.title() == "anchorbench leaderboard"


def test_a_click_on_a_header_sorts_both_ways(shown: Watched) -> None:
    header = shown.header("Recipe")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    names = shown.column(1)
    assert names == sorted(names, key=str.lower)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert shown.column(1) == sorted(names, key=str.lower, reverse=True)
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
    assert sorted(shown.column(1)) == ["gamma 0.5", "gamma 0.6", "gamma 0.7", "gamma 0.8"]
    assert shown.tab.locator("output").first.text_content() == "4 of 16"
    shown.tab.keyboard.press("Tab")
    shown.tab.keyboard.press("Tab")  # the second header
    shown.tab.keyboard.press("Enter")
    assert shown.column(1) == ["gamma 0.5", "gamma 0.6", "gamma 0.7", "gamma 0.8"]
    shown.tab.keyboard.press("Space")
    assert shown.column(1) == ["gamma 0.8", "gamma 0.7", "gamma 0.6", "gamma 0.5"]


def test_the_filter_reads_descriptions_and_takes_markup_as_text(shown: Watched) -> None:
    shown.tab.locator("input").first.fill("by hand 0.7")
    assert shown.column(1) == ["gamma 0.7"]
    shown.tab.locator("input").first.fill("<script>document")
    assert shown.column(1) == ["<script>document.title='owned'</script>"]
    shown.tab.locator("input").first.fill("no such recipe")
    assert shown.column(1) == []
    shown.tab.locator("input").first.fill("")
    assert len(shown.column(1)) == 16


def opened(shown: Watched) -> list[str]:
    return shown.tab.locator("details[open] summary bdi").all_text_contents()


def test_a_click_opens_an_entry(shown: Watched) -> None:
    assert opened(shown) == []
    shown.tab.locator("table.board a", has_text="gamma 0.7").click()
    shown.tab.wait_for_function("document.querySelector('details[open]')")
    assert opened(shown) == ["gamma 0.7"]
    details = shown.tab.locator("details[open]")
    # By hand: gamma 0.7 is two thirds of the way from 0.5 to 0.8, and all of its members infer.
    ring = details.locator("circle.marked")
    assert (float(ring.get_attribute("cx")), float(ring.get_attribute("cy"))) == (round(70 + 410 * 2 / 3, 1), 20)
    assert details.locator("pre").is_visible()
    assert "gamma: 0.7" in details.locator("pre").inner_text()
    assert details.locator("circle:has(title)").count() == 48  # the members
    figure = details.locator("figure")  # all are inferential: one is shown
    assert figure.count() == 1
    assert figure.locator("text").all_text_contents() == flow_words()
    # By hand: even attention of 9 positions to all before, 45 links a layer; only the last reader of layer 2 answers.
    assert figure.locator("svg:not(.key) path").count() == 90
    assert figure.locator("g.idle path").count() == 36
    assert details.locator("summary").evaluate("element => element === document.activeElement")


def flow_words() -> list[str]:
    """The tokens of the sequence that is held out and has its key nearest the middle, found one by one."""
    sequences = load_task("composite", "heldout-both").sample("ood", 200, 0).tokens.tolist()
    off = [abs(min(i for i, token in enumerate(sequence) if token in (1, 2, 3, 4)) - 1 - 2.5) for sequence in sequences]
    return [f"a{token}" if token <= 4 else str(token) for token in sequences[off.index(min(off))]]


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(browser: Any, page: Path, scheme: str) -> None:
    """The contrast of text and of what is drawn beside it, by WCAG 2: at least 4.5 and 3."""
    watched = Watched(browser, page, color_scheme=scheme)
    watched.tab.locator("details").first.locator("summary").click()

    def luminance(selector: str, of: str) -> float:
        color = watched.tab.locator(selector).first.evaluate(f"element => getComputedStyle(element).{of}")
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: float, b: float) -> float:
        return (max(a, b) + 0.05) / (min(a, b) + 0.05)

    back, panel = luminance("body", "backgroundColor"), luminance("details", "backgroundColor")
    for selector in ("body", "table.board a", "caption", ".note"):
        assert contrast(luminance(selector, "color"), back) >= 4.5, selector
    for verdict in ("inferential", "memorizing", "underfit"):
        assert contrast(luminance(f"details circle.{verdict}", "fill"), panel) >= 3, verdict
    assert (back < 0.5) == (scheme == "dark")
    watched.context.close()


def test_a_phone_needs_no_sideways_scrolling(browser: Any, page: Path) -> None:
    watched = Watched(browser, page, viewport={"width": 360, "height": 740})
    watched.tab.locator("details").nth(2).locator("summary").click()
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert watched.header("Score").is_visible()
    assert not watched.header("95% interval").is_visible()  # the figure; the numbers stand beside the score
    assert watched.tab.locator("table.board .range").first.is_visible()
    assert watched.is_quiet()
    watched.context.close()


def test_without_javascript_it_is_a_plain_table(browser: Any, page: Path, entries: list[Entry]) -> None:
    watched = Watched(browser, page, java_script_enabled=False)
    rows = watched.tab.locator("table.board").first.locator("tbody tr")
    assert rows.count() == sum(entry.recipe.track == "laptop" for entry in entries)
    assert watched.tab.locator("th button").count() == 0
    assert not watched.tab.locator("input").first.is_visible()
    watched.tab.locator("summary", has_text="gamma 0.7").click()
    assert watched.tab.locator("pre", has_text="gamma: 0.7").is_visible()
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
