"""The charts of the report, as Vega-Lite specifications that the page fills with data, and the runtime that draws them there."""

from functools import cache
from typing import Any

import altair as alt

from anchorbench import palette

NONE = palette.Look(palette.SOFT, "#a6a9ad", ".", "circle", "-", (1, 0))
"""The look of runs without a verdict."""
IN_TRAINING, NO_VERDICT = "in training", "no verdict"
LOOKS = {**palette.VERDICTS, IN_TRAINING: NONE, NO_VERDICT: NONE}
TRAJECTORIES = {
    "seen": "Training examples answered right",
    "iid": "Trained pairs, unseen key and position",
    "held": "Held-out answers that compose",
    "loss": "Training loss",
}
"""Field of a trajectory -> its title."""

WORDS = "split(datum.label, ' ')"
"""One word per line."""
FIT = alt.AutoSizeParams(type="fit-x", contains="padding")


@cache
def runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package vl-convert-python."""
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle  # its type stub lacks a default
    return bundle()


def charts(*, dark: bool) -> dict[str, Any]:
    """Name -> specification for light or dark pages, with the data sources `cells`, `points`, `answers` and `attention`."""
    found = {"phase": _phase(dark), "answers": _answers(dark), "attention": _attention(dark)}
    found |= {f"trajectory-{field}": _trajectory(field, dark) for field in TRAJECTORIES}
    return {name: chart.configure(**_config(dark)).to_dict() for name, chart in found.items()}


def _colors(dark: bool) -> list[str]:
    return [look.dark if dark else look.color for look in LOOKS.values()]


def _verdict(dark: bool, **options: Any) -> alt.Color:
    return alt.Color("verdict:N", scale=alt.Scale(domain=list(LOOKS), range=_colors(dark)), legend=None, **options)


def _phase(dark: bool) -> Any:
    """One cell per place: colour and marker for the most frequent verdict, paler where runs disagree; the share as text."""
    cells = alt.Chart(alt.NamedData("cells")).encode(
        x=alt.X("x:O", sort=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("y:O", sort=None),
        tooltip=[alt.Tooltip("x:N"), alt.Tooltip("y:N"), alt.Tooltip("runs:Q"), alt.Tooltip("words:N", title="verdicts")],
    )
    rectangles = cells.mark_rect(stroke=_background(dark), strokeWidth=2, cursor="pointer").encode(
        color=_verdict(dark),
        opacity=alt.Opacity("agreement:Q", scale=alt.Scale(domain=[0, 1], range=[0.08, 0.42]), legend=None),
    )
    shapes = [look.shape for look in LOOKS.values()]
    markers = cells.mark_point(filled=True, size=45, opacity=1, yOffset=-10, cursor="pointer").encode(
        color=_verdict(dark), shape=alt.Shape("verdict:N", scale=alt.Scale(domain=list(LOOKS), range=shapes), legend=None)
    )
    shares = cells.mark_text(yOffset=8, cursor="pointer").encode(text="label:N")
    return (rectangles + markers + shares).properties(width="container", height=alt.Step(46), autosize=FIT)


def _trajectory(field: str, dark: bool) -> Any:
    dashes = [list(look.dash) for look in LOOKS.values()]
    scale = alt.Scale() if field == "loss" else alt.Scale(domain=[0, 1])
    lines = (
        alt.Chart(alt.NamedData("points"), title=TRAJECTORIES[field])
        .mark_line(strokeWidth=1.6, strokeOpacity=0.8)
        .encode(
            x=alt.X("step:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(title="step", tickCount=4, format="~s")),
            y=alt.Y(f"{field}:Q", scale=scale, axis=alt.Axis(title=None, tickCount=5)),
            color=_verdict(dark),
            strokeDash=alt.StrokeDash("verdict:N", scale=alt.Scale(domain=list(LOOKS), range=dashes), legend=None),
            detail="run:N",
            tooltip=["run:N", "verdict:N"],
        )
    )
    return lines.properties(width="container", height=150, autosize=FIT)


def _answers(dark: bool) -> Any:
    kinds = {"composed": "inferential", "as the exception": "symmetric", "other": "underfit"}
    colors = [LOOKS[verdict].dark if dark else LOOKS[verdict].color for verdict in kinds.values()]
    bars = alt.Chart(alt.NamedData("answers")).encode(
        x=alt.X(
            "share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title="share of held-out answers", format="%", tickCount=5)
        ),
        y=alt.Y("what:N", sort=None, axis=alt.Axis(title=None, labelLimit=220)),
        tooltip=[alt.Tooltip("what:N", title="answer"), alt.Tooltip("share:Q", format=".1%")],
    )
    filled = bars.mark_bar(height=13).encode(
        color=alt.Color("kind:N", scale=alt.Scale(domain=list(kinds), range=colors), legend=None)
    )
    return (filled + bars.mark_text(align="left", dx=4).encode(text=alt.Text("share:Q", format=".0%"))).properties(
        width="container", height=alt.Step(21), autosize=FIT
    )


def _attention(dark: bool) -> Any:
    """One heat map per layer: which reader attends where, averaged over sequences and the runs shown."""
    cells = alt.Chart().encode(
        x=alt.X("source:N", sort=None, axis=alt.Axis(title="reads from", labelAngle=0, labelExpr=WORDS)),
        y=alt.Y("reader:N", sort=None, axis=alt.Axis(title=None)),
    )
    ends = [_background(dark), "#6fb1ff" if dark else "#2b62b0"]
    heat = cells.mark_rect().encode(
        color=alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], range=ends, interpolate="rgb"), legend=None)
    )
    words = cells.mark_text().encode(
        text=alt.Text("share:Q", format=".2f"),
        color=alt.condition("datum.share > 0.6", alt.value("#16181a" if dark else "#ffffff"), alt.value(_text(dark))),
    )
    layered = (heat + words).properties(width=alt.Step(78), height=alt.Step(30))
    return layered.facet(column=alt.Column("layer:N", sort=None, title=None), data=alt.NamedData("attention"))


def _background(dark: bool) -> str:
    return "#16181a" if dark else "#ffffff"


def _text(dark: bool) -> str:
    return "#ececec" if dark else palette.TEXT


def _config(dark: bool) -> dict[str, Any]:
    text, soft, line = _text(dark), "#a6a9ad" if dark else palette.SOFT, "#3a3d41" if dark else palette.FAINT
    return {
        "background": _background(dark),
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft,
            "titleColor": text,
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
        },
        "title": {"color": text, "fontSize": 13, "anchor": "start", "fontWeight": "normal"},
        "header": {"labelColor": text, "labelFontSize": 12},
        "text": {"color": text, "fontSize": 12},
    }
