"""The ledger of claims: one JSON file per claim and scale, from which the Markdown table and the page are made.

What is read is checked: form, and that the verdict follows from the measures by the claim's own rule. A result of another version,
rule or other settings of a claim is stale: it is named, and its verdict is not shown.
"""

import base64
import html
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

import anchorbench
from anchorbench import palette
from anchorbench.claim import POWER, SCALES, Claim, Findings, Measure, Panel, Scale, Text, Verdict, claims, power
from anchorbench.files import Plain, read_json, visible, write_atomically
from anchorbench.machine import this_machine
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.show.html import write_page
from anchorbench.task import first_sentence, load_task

MAX_BYTES = 2**20
TFLOPS = 10.0
"""Speed for estimating the cost of paper scale, in TFLOP/s: roughly what a recent GPU sustains on small models in fp32."""


MOST_TICKS = 8
"""On a logarithmic axis, where they would overlap."""


class Entry(Plain):
    """The result of a claim, with everything needed to show it and to detect that it is stale."""

    claim: Text
    scale: Scale
    version: int = Field(ge=1, le=1_000_000)
    """Version of the claim."""
    statement: Text
    rule: Text
    settings: dict[str, Any]
    verdict: Verdict
    measures: Annotated[dict[str, Measure], Field(max_length=100)]
    panels: Annotated[list[Panel], Field(max_length=4)]
    passes: int = Field(ge=0, le=10**15)
    seconds: float = Field(ge=0, le=1e9)
    """CPU time of all threads, so that other load on the machine does not count."""
    earlier: float = Field(default=0.0, ge=0, le=1e9)
    """Seconds that runs which were there already, of an interrupted call, had taken to train: longer on a busy machine."""
    made_by: dict[str, Text]
    """Versions of anchorbench and libraries, and the CPU."""
    rule_commit: Text = ""
    """The last commit, before the run, of the file that holds the claim's experiment and rule; empty outside a clone."""
    data: Annotated[dict[str, Text], Field(max_length=200)] = {}
    """Task and variant -> fingerprint of the data."""
    gradient: Text = ""
    """The gradient paths that trained its runs; empty if the claim trains no recipes."""

    @classmethod
    def of(cls, claim: type[Claim], scale: Scale, findings: Findings, seconds: float, rule_commit: str = "") -> "Entry":
        """An entry from the findings of a run."""
        measures = {name: rounded(findings.measures[name]) for name in claim.measures}  # the first is the claim's figure
        machine = this_machine("fp32", gpu=False, gradient="backprop").model_dump()
        made_by = {"anchorbench": anchorbench.__version__} | {
            name: str(machine[name]) for name in ("torch", "numpy", "python", "system", "cpu", "threads")
        }
        return cls(
            claim=claim.name,
            scale=scale,
            version=claim.version,
            statement=claim.statement,
            rule=claim.rule,
            settings=claim.scales[scale].model_dump(mode="json"),
            verdict=claim.judge(measures),
            measures=measures,
            panels=list(findings.panels),
            passes=findings.passes,
            seconds=round(seconds, 1),
            earlier=round(findings.earlier, 1),
            made_by=made_by,
            rule_commit=rule_commit,
            data=dict(findings.data),
            gradient=findings.gradient,
        )

    @property
    def stale(self) -> str:
        """Why this result does not belong to the current version of the claim; empty if it does."""
        claim = claims[self.claim]
        if self.version != claim.version:
            return f"it is of version {self.version} of the claim, which is now at {claim.version}"
        if self.rule != claim.rule or self.statement != claim.statement:
            return "claim or rule were worded differently"
        now = claim.scales[self.scale].model_dump(mode="json")
        changed = [name for name in {**now, **self.settings} if self.settings.get(name) != now.get(name)]
        if changed:
            return f"its settings differ in {', '.join(map(str, changed))}"
        if self.measures.keys() != claim.measures.keys():
            return "it has other measures"
        others = [name for name, fingerprint in self.data.items() if _fingerprint(name) != fingerprint]
        return f"the data of {', '.join(others)} have changed" if others else ""


def _fingerprint(name: str) -> str | None:
    """That of `task/variant` as it is now; None if there is none."""
    task, _, variant = name.partition("/")
    try:
        return load_task(task, variant).fingerprint
    except ValueError:
        return None


def place(folder: Path, claim: str, scale: Scale) -> Path:
    """The file of a claim's result."""
    return folder / f"{claim}.{scale}.json"


def write_entry(folder: Path, entry: Entry) -> Path:
    """Writes the entry to its file in the ledger."""
    path = place(folder, entry.claim, entry.scale)
    write_atomically(path, (json.dumps(entry.model_dump(mode="json"), indent=1) + "\n").encode())
    return path


def read_entry(path: Path) -> Entry:
    """Reads and checks an entry. Raises ValueError with one sentence that names the file."""
    content = read_json(path, most=MAX_BYTES)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; allowed: the result of a claim")
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {visible(first_sentence(error), 300)}") from None
    try:
        claim = claims[entry.claim]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if path.name != place(path.parent, entry.claim, entry.scale).name:
        raise ValueError(f"{path} holds claim {entry.claim} at {entry.scale} scale; allowed there: the claim that its name says")
    if not entry.stale and entry.verdict != (verdict := claim.judge(entry.measures)):
        raise ValueError(f"{path}: the verdict is {entry.verdict!r}; by the claim's rule its measures give {verdict!r}")
    return entry


def current(folder: Path, claim: str, scale: Scale) -> bool:
    """Whether the ledger has a current result of the claim."""
    try:
        return not read_entry(place(folder, claim, scale)).stale
    except ValueError:
        return False


@dataclass(frozen=True)
class Row:
    """A claim at one scale, as shown."""

    claim: type[Claim]
    scale: Scale
    entry: Entry | None
    """None if there is no result, or none that counts."""
    status: str
    """The verdict, or why there is none."""

    @property
    def command(self) -> str:
        """What runs it, if there is no result."""
        scale = "" if self.scale == SCALES[0] else f" --scale {self.scale}"
        return "" if self.entry else f"anchorbench reproduce {self.claim.name}{scale}"

    @property
    def figure(self) -> str:
        """The claim's figure with its interval."""
        return "" if self.entry is None else in_words(self.entry.measures[next(iter(self.claim.measures))])

    @property
    def meaning(self) -> str:
        """What the figure is."""
        return next(iter(self.claim.measures.values()))

    @property
    def reading(self) -> str:
        """Our interpretation of the result; empty at other scales."""
        return self.claim.reading if self.entry and self.scale == SCALES[0] else ""

    @property
    def took(self) -> str:
        """Processor time and passes."""
        if self.entry is None:
            return ""
        earlier = f" and {self.entry.earlier:,.0f} s in an earlier call" if self.entry.earlier else ""
        return f"{self.entry.seconds:,.0f} CPU s{earlier}, {short(self.entry.passes)} passes"

    @property
    def origin(self) -> str:
        """Where its rule is, and what it was trained on and by."""
        if self.entry is None:
            return ""
        entry = self.entry
        parts = (
            f"rule of commit {entry.rule_commit}" if entry.rule_commit else "",
            "data " + ", ".join(f"{name} {fingerprint}" for name, fingerprint in entry.data.items()) if entry.data else "",
            f"trained by {entry.gradient}" if entry.gradient else "",
        )
        return "; ".join(part for part in parts if part)

    @property
    def power(self) -> str:
        """The smallest effect that this number of units can show."""
        n = self.claim.scales[self.scale].seeds
        return (
            f"{n} seeds: a true mean {power(n):.2f} standard deviations (between seeds) away from the rule's bound is detected with"
            f" {POWER:.0%} probability; measures with n = 1 are exact"
        )


def cost(claim: type[Claim]) -> str:
    """What the claim takes at paper scale, by the matmuls of its recipes; empty if it trains none."""
    settings = claim.scales["paper"]
    recipes = claim.recipes(settings)
    if not recipes:
        return ""
    flop = 2 * settings.seeds * sum(recipe.steps * recipe.macs_per_step() for recipe in recipes)  # a MAC is two
    hours = flop / (TFLOPS * 1e12) / 3600
    runs = settings.seeds * len(recipes)
    return f"{runs:,} runs, {number(flop / 1e15)} PFLOP in matmuls, {number(hours)} GPU-hours at {TFLOPS:g} TFLOP/s"


def rows(folder: Path) -> tuple[list[Row], list[str]]:
    """Every claim at laptop scale, and at paper scale where there is a file; and one sentence per rejected file."""
    found: list[Row] = []
    problems: list[str] = []
    for claim in sorted(claims.all.values(), key=lambda claim: claim.name):
        for scale in SCALES:
            path = place(folder, claim.name, scale)
            if not path.exists():
                if scale == SCALES[0]:
                    found.append(Row(claim, scale, None, "not run yet"))
                continue
            try:
                entry = read_entry(path)
            except ValueError as refusal:
                problems.append(str(refusal))
                found.append(Row(claim, scale, None, "its file is damaged"))
                continue
            found.append(
                Row(claim, scale, None, f"stale, for {entry.stale}") if entry.stale else Row(claim, scale, entry, entry.verdict)
            )
    known = {place(folder, claim, scale).name for claim in claims.all for scale in SCALES}
    problems += [f"{path} belongs to no known claim" for path in sorted(folder.glob("*.json")) if path.name not in known]
    return found, problems


# ------------------------------------------------------------------------------------------------ words


def rounded(measure: Measure) -> Measure:
    """To 6 digits: the last ones differ between machines."""
    return Measure(n=measure.n, **{end: float(f"{getattr(measure, end):.6g}") for end in ("value", "low", "high")})


def number(value: float) -> str:
    """Three digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 4)}f}"
    return f"{value:.1e}"


def in_words(measure: Measure) -> str:
    """Value, interval and n, to two digits of the interval's half-width."""
    if measure.n == 1:
        return f"{number(measure.value)} (exact)"
    half = (measure.high - measure.low) / 2
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
    value, low, high = (f"{end:.{digits}f}" if digits < 6 else number(end) for end in (measure.value, measure.low, measure.high))
    return f"{value} ({low} to {high}; n = {measure.n})"


def short(count: int) -> str:
    """A large number."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{word}"
    return str(count)


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(settings, separators=(", ", ": "))


# ------------------------------------------------------------------------------------------------ Markdown

INTRODUCTION = """\
# The ledger of claims

Published claims about training, each tested in a small setting of its own. Experiment, measures and decision rule were written
before the run, and the rule is a function of the measures alone. A verdict is about the claim in that setting, at that scale:

- **replicates**: every interval that the rule asks for lies on the claimed side.
- **does not replicate**: one of them lies on the other side.
- **cannot be told at this scale**: neither. More seeds or a larger scale may tell.

Intervals are 95% t-intervals over seeds. A claim with several parts needs all of them: a false "replicates" is rarer than 2.5%,
a false "does not replicate" may be as frequent as 2.5% per part. `anchorbench reproduce` writes this file and the page of plots,
[index.html](index.html); `anchorbench reproduce all --out my-ledger` tests every claim again.
"""

OUT_OF_SCOPE = {
    "Mamba composes and fails on symmetric tasks (2509.17514)": "A state-space model with a scan and its backward pass, and"
    " interventions on its convolution; its tasks, full-symmetry and inverse-matching, are here.",
    "Sharing weights across layers lets two-hop facts be composed (2405.15071)": "A task of 2,000 entities with 200 relations, and"
    " up to 1.5 million steps in batches of 512, days on a GPU; models of kind layer-sharing are here.",
    "An identity task makes two-hop facts composable (2509.24653)": "The same task of facts, with its zero-hop examples.",
    "Small initial weights help language models of 0.05 to 2.4 billion parameters (2505.23013; 2606.17945)": "Pretraining on"
    " billions of tokens of text, which this package does not read.",
    "They help on COGS, PrOntoQA and SlimPajama with GPT-2, and in image generation (2405.05409; 2501.08537)": "Those data sets,"
    " and models of 100 million parameters; scan, addition and ontology are here.",
    "A buffer of several copies carries a chain of steps (2405.15302)": "Models that differ in whether they match edges that they"
    " never saw: on the board those that fit chain-search match nearly all of them at every gamma. Our claim chain-matching asks"
    " when they do.",
}
"""Claims of the papers and their follow-ups that are not tried -> what it would take."""


def markdown(shown: Sequence[Row]) -> str:
    """The ledger as a table, one section per claim, and what is not tried."""
    lines = [INTRODUCTION, "| claim | verdict | figure (95% interval) | scale | took |", "|---|---|---|---|---|"]
    for row in shown:
        link = f"[{row.claim.name}](#{row.claim.name})"
        status = f"**{row.status}**" if row.entry else f"{_cell(row.status)}: `{row.command}`"
        figure = f"{row.figure}: {_cell(row.meaning)}" if row.entry else ""
        lines.append(f"| {link} | {status} | {figure} | {row.scale} | {row.took} |")
    sections = dict.fromkeys(row.claim for row in shown)
    for claim in sections:
        lines += [
            "",
            f"## {claim.name}",
            "",
            f"**{_escape(claim.statement)}** {_escape(claim.paper)}.",
            "",
            _escape(claim.ground),
            "",
        ]
        lines += [f"*Rule.* {_escape(claim.rule)}", ""]
        if claim.published:
            lines += [f"*Published.* {_escape(claim.published)}", ""]
        if takes := cost(claim):
            lines += [f"*Paper scale takes* {takes}: `anchorbench reproduce {claim.name} --scale paper`.", ""]
        for row in shown:
            if row.claim is not claim:
                continue
            lines += [f"*{row.scale.capitalize()} scale: {_escape(row.status)}.* {row.power}.", ""]
            if row.origin:
                lines += [f"*From* {_escape(row.origin)}.", ""]
            if row.reading:
                lines += [f"*Reading, after the run.* {_escape(row.reading)}", ""]
            if row.entry is not None:
                lines += ["| measure | value | what it is |", "|---|---:|---|"]
                lines += [
                    f"| `{name}` | {in_words(row.entry.measures[name])} | {_cell(meaning)} |"
                    for name, meaning in claim.measures.items()
                ]
                lines.append("")
    lines += ["", "## Not tried", "", "| claim | what it would take |", "|---|---|"]
    lines += [f"| {_cell(claim)} | {_cell(takes)} |" for claim, takes in OUT_OF_SCOPE.items()]
    return "\n".join(lines).rstrip("\n") + "\n"


def _escape(text: str) -> str:
    """Escapes text that Markdown would interpret."""
    return html.escape(text, quote=False).replace("*", "\\*").replace("_", "\\_")


def _cell(text: str) -> str:
    return _escape(text).replace("|", "\\|")


# ------------------------------------------------------------------------------------------------ page


@dataclass(frozen=True)
class Section:
    """A row with its picture."""

    row: Row
    picture: str
    """PNG in base 64; empty if there is no result."""
    measures: list[tuple[str, str, str]]
    """Name, value in words, meaning."""
    settings: str
    cost: str
    """What the claim would cost at paper scale."""


def page(shown: Sequence[Row], out: Path) -> Path:
    """The ledger as one self-contained HTML file."""
    sections: list[Section] = []
    for row in shown:
        if row.entry is None:
            sections.append(Section(row, "", [], "", cost(row.claim)))
            continue
        measures = [(name, in_words(row.entry.measures[name]), meaning) for name, meaning in row.claim.measures.items()]
        settings = settings_in_words(row.entry.settings)
        sections.append(Section(row, picture(row.entry.panels), measures, settings, cost(row.claim)))
    return write_page("ledger.html", out, sections=sections, out_of_scope=OUT_OF_SCOPE)


def picture(panels: Sequence[Panel]) -> str:
    """The panels side by side, as base64 PNG in 64 colours, which takes a quarter of the bytes."""
    from PIL import Image

    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, Image.open(draw(panels, Path(folder) / "panels.png")) as image:
        image.convert("RGB").quantize(64).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


@plain_matplotlib()
def draw(panels: Sequence[Panel], path: Path) -> Path:
    """Draws the panels side by side to a PDF, SVG or PNG file, by its suffix."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if panel.log_x:
            axes.set_xscale("log")
            places = panel.curves[0].x
            axes.set_xticks(places[:: -(-len(places) // MOST_TICKS)])
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.locator_params(axis="x", nbins=6)
        if panel.level is not None:
            axes.axhline(panel.level, color="#999999", lw=0.8)
        for curve, color in zip(panel.curves, palette.CYCLE * 2, strict=False):
            marker = "o" if len(curve.x) <= 20 and not curve.dashed else ""
            axes.plot(
                curve.x, curve.y, color=color, lw=1.6, ls="--" if curve.dashed else "-", marker=marker, ms=3.5, label=curve.label
            )
            if curve.low:
                axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, lw=0)
        axes.set_title(panel.title, fontsize=10)
        axes.set(xlabel=panel.x, ylabel=panel.y)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    return save(figure, path, dpi=110)


def render(folder: Path) -> list[str]:
    """Writes README.md and index.html of the ledger in `folder`; returns one sentence per file that was left out."""
    shown, problems = rows(folder)
    write_atomically(folder / "README.md", markdown(shown).encode())
    page(shown, folder / "index.html")
    return problems
