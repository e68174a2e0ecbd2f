"""`anchorbench reproduce`: runs claims, writes their results to a ledger and shows it."""

import inspect
import subprocess
import time
from pathlib import Path

from rich.console import Console

from anchorbench.claim import Claim, claims, parse_scale
from anchorbench.files import require_place, visible
from anchorbench.show import ledger


def reproduce(name: str, scale: str, out: Path, runs: Path) -> None:
    """Runs the claim of this name, or, for `all`, every claim whose result at this scale is missing, damaged or stale; what claims
    train is kept in `runs`/CLAIM/SCALE-VERSION.

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
            commit = rule_commit(claim, out)
            findings = claim(claim.scales[at], runs / each / f"{at}-{claim.version}").run()
        except ValueError as problem:
            if name != "all":
                raise
            failed.append(f"{each}: {problem}")
            continue
        entry = ledger.Entry.of(claim, at, findings, time.process_time() - start, commit)
        ledger.write_entry(out, entry)
        figure, words = next(iter(entry.measures.values())), claim.measures[next(iter(entry.measures))]
        console.print(f"  {entry.verdict}: {ledger.in_words(figure)}, {words}", soft_wrap=True)
    for problem in ledger.render(out):
        console.print(f"left out: {visible(problem)}", soft_wrap=True)
    console.print(f"ledger: {visible(out / 'README.md')}, {visible(out / 'index.html')}", soft_wrap=True)
    if failed:
        raise ValueError("; ".join(failed))


def rule_commit(claim: type[Claim], out: Path) -> str:
    """Short hash of the last commit that touched the claim's file; empty where it is in no clone.

    Raises ValueError if the file has changes that are not committed and the ledger is in the same clone: there, rules come first.
    """
    file = Path(inspect.getfile(claim)).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        clone, changed = git("rev-parse", "--show-toplevel"), git("status", "--porcelain", "--", str(file))
        if changed and out.resolve().is_relative_to(clone):
            raise ValueError(f"{file.name} has changes that are not committed; allowed: to commit the rule first, or another --out")
        return git("log", "-1", "--format=%h", "--", str(file)) + (", with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
