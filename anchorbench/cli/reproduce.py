"""`anchorbench reproduce`: runs claims, writes their results to a ledger and shows it."""

import time
from pathlib import Path

from rich.console import Console

from anchorbench.claim import claims, parse_scale
from anchorbench.files import require_place, visible
from anchorbench.show import ledger


def reproduce(name: str, scale: str, out: Path) -> None:
    """Runs the claim of this name, or, for `all`, every claim whose result at this scale is missing, damaged or stale.

    Raises ValueError with one sentence for an unknown name or scale, a folder that cannot be written, and, after all others have
    run, for claims that could not be run.
    """
    at = parse_scale(scale)
    chosen = list(claims.all) if name == "all" else [claims[name].name]
    out.mkdir(parents=True, exist_ok=True)
    require_place(out / "README.md", "--out")
    console = Console(markup=False, highlight=False)
    failed: list[str] = []
    for each in chosen:
        claim = claims[each]
        if name == "all" and ledger.current(out, each, at):
            console.print(f"{each}: its result at {at} scale is up to date", soft_wrap=True)
            continue
        console.print(
            f"{each}: {claim.statement}" + (f" About {claim.seconds:g} s of processor time." if at == "laptop" else ""),
            soft_wrap=True,
        )
        start = time.process_time()
        try:
            findings = claim(claim.scales[at]).run()
        except ValueError as problem:
            if name != "all":
                raise
            failed.append(f"{each}: {problem}")
            continue
        entry = ledger.Entry.of(claim, at, findings, time.process_time() - start)
        ledger.write_entry(out, entry)
        figure, words = next(iter(entry.measures.values())), claim.measures[next(iter(entry.measures))]
        console.print(f"  {entry.verdict}: {ledger.in_words(figure)}, {words}", soft_wrap=True)
    for problem in ledger.render(out):
        console.print(f"left out: {visible(problem)}", soft_wrap=True)
    console.print(f"ledger: {visible(out / 'README.md')}, {visible(out / 'index.html')}", soft_wrap=True)
    if failed:
        raise ValueError("; ".join(failed))
