"""Hooks of mkdocs: the reference pages, generated from the code, and whatever of the repository lies outside docs/.

Files outside docs/ that a page links to, and those of INCLUDED, join the site under their paths in the repository. A page
called index.html beside a README.md, which needs that name itself, is called page.html there.
"""

import json
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.cli
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
INCLUDED = ("CONTRIBUTING.md", "CHANGELOG.md", "tasks/README.md", "leaderboard/README.md", "leaderboard/table.md")
LINK = re.compile(r"(\[[^\]]*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
"""A link to a file: its text, its target, and the place on that page. A link to a folder without README.md becomes its text."""
FIELDS = re.compile(r"<!-- fields of (\S+) -->")
"""Where a page wants a table of the fields of a pydantic model."""
ALSO = (
    "anchorbench.sweeps.make.Runs",
    "anchorbench.sweeps.run_folder.Run",
    "anchorbench.sweeps.runner.Sweep",
    "anchorbench.recipe.Recipe",
    "anchorbench.verdict.Behaviour",
    "anchorbench.verdict.Share",
    "anchorbench.probes.list_probes",
    "anchorbench.probes.run_probe",
    "anchorbench.probes.score.Score",
    "anchorbench.hub.datasets.build",
    "anchorbench.hub.datasets.verify",
    "anchorbench.hub.models.export",
)
"""Objects of the Python reference besides the public names and the probes."""


def on_config(config: MkDocsConfig) -> None:
    """Adds the pages about clusters to the navigation, where there are any."""
    pages = sorted((ROOT / "docs" / "cluster").glob("*.md"))
    if pages and config.nav is not None:
        config.nav.insert(2, {"On a cluster": [str(page.relative_to(ROOT / "docs")) for page in pages]})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and the files outside docs/."""
    for uri, content in (("python", python_page()), ("cli", cli_page()), ("recipe", recipe_page())):
        files.append(File.generated(config, f"reference/{uri}.md", content=content))
    todo, seen = [*INCLUDED, *(f"docs/{file.src_uri}" for file in files.documentation_pages())], set[str]()
    while todo:
        path = todo.pop()
        if path in seen or not (ROOT / path).is_file():
            continue
        seen.add(path)
        if files.get_file_from_path(uri_of(path)) is None:
            files.append(File.generated(config, uri_of(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            todo += [target_of(path, link) for _, link, _ in LINK.findall((ROOT / path).read_text())]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links between files of the repository links between pages of the site, and fills in the tables of fields."""
    here = page.file.src_uri
    path = f"docs/{here}" if (ROOT / "docs" / here).exists() else here

    def moved(link: re.Match[str]) -> str:
        text, target, place = link[1], target_of(path, link[2]), link[3] or ""
        if (ROOT / target).is_dir():
            return text[1:-1]
        return f"{text}({os.path.relpath(uri_of(target), Path(here).parent)}{place})" if (ROOT / target).is_file() else link[0]

    return FIELDS.sub(lambda model: "\n".join(fields_table(pkgutil.resolve_name(model[1]))), LINK.sub(moved, markdown))


def target_of(path: str, link: str) -> str:
    """The path in the repository of what the file `path` links to; of a folder, its README.md if there is one."""
    target = os.path.normpath(Path(path).parent / link)
    return f"{target}/README.md" if (ROOT / target / "README.md").exists() else target


def uri_of(path: str) -> str:
    """The place on the site of a file of the repository."""
    return re.sub(r"/index\.html$", "/page.html", path.removeprefix("docs/"))


def python_page() -> str:
    """Every public name, every probe, and what else is used from Python."""
    import anchorbench
    from anchorbench.probes import list_probes

    def entry(thing: Any, heading: str) -> str:
        return f"::: {thing.__module__}.{thing.__qualname__}\n    options: {{heading: {heading}, toc_label: {heading}}}\n"

    own = [probe for probe in list_probes(on_request=True).values() if probe.__module__.startswith("anchorbench.")]
    lines = [
        "# Python",
        "What `import anchorbench` offers, then the objects that these return, and the probes. Everything is typed, and bad",
        "input raises a `ValueError` with one sentence.\n",
        "## Public names\n",
        *(entry(getattr(anchorbench, name), f"anchorbench.{name}") for name in anchorbench.__all__),
        "## Results, recipes and files\n",
        *(entry(pkgutil.resolve_name(place), place) for place in ALSO),
        "## Probes\n",
        *(entry(probe, f"anchorbench.probes.{probe.__name__}") for probe in own),
    ]
    return "\n".join(lines)


def cli_page() -> str:
    """Every command with its arguments and options, as `--help` gives them."""
    from anchorbench.cli.main import app

    command = typer.main.get_command(app)
    context = typer.Context(command, **command.context_settings)
    page = typer.cli.get_docs_for_click(obj=command, ctx=context, name="anchorbench", title="Command line")
    page = re.sub(r"^Example: (.+)$", r"Example: `\1`", page, flags=re.MULTILINE)
    page = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", page)  # their sections follow; here, typer cuts sentences short
    return page.replace("anchorbench probe one [OPTIONS] NAME", "anchorbench probe NAME [OPTIONS]").replace(
        "probe one", "probe NAME"
    )


def recipe_page() -> str:
    """Every field of a recipe and of its default parts, and what the presets change."""
    from anchorbench.parts import REGISTRIES, changes
    from anchorbench.presets import AXES, PRESETS
    from anchorbench.recipe import Recipe

    lines = [RECIPE, *fields_table(Recipe)]
    for field in ("model", "init", "optimizer"):
        config = type(getattr(Recipe(), field))
        lines += [f"\n## {field}: {config().kind}\n", *fields_table(config)]
    lines += ["\n## Presets", "What each preset changes, and the axes that `anchorbench run --preset NAME` sweeps over."]
    for name, preset in PRESETS.items():
        lines += [f"\n### {name}\n", f"```yaml\n{yaml.safe_dump(changes(preset) | {'axes': AXES[name]}, sort_keys=False)}```"]
    words = ", ".join(f"`{word}`" for word in REGISTRIES)
    return "\n".join(lines).replace("PARTS", words)


RECIPE = """# Recipe fields

A recipe is a complete description of one run. A file for `anchorbench sweep` holds the fields that differ from a preset, and axes:

```yaml
preset: laptop
task: composite
variant: conflict
optimizer: {lr: 0.002, schedule: linear}
axes: {init.gamma: [0.5, 0.7], model.n_layer: [2, 3], seed: 4}
```

In axes and on the command line a field is named by its dotted path (`--axis optimizer.lr=0.001,0.002`). A number for `seed`, or
another seed, means that many seeds. A part (PARTS) has a `kind`, the default one if it is left out; [all kinds and their
fields](../parts.md). An unknown field is refused with the one that was probably meant.

## The recipe
"""


def fields_table(model: Any) -> Iterator[str]:
    """One row per field: type with bounds, default, meaning."""
    from anchorbench.leaderboard.schema import type_in_words
    from anchorbench.parts import Config

    yield "| field | allowed | default | meaning |\n|---|---|---|---|"
    properties = model.model_json_schema()["properties"]
    for name, field in (each for each in model.model_fields.items() if each[0] != "kind"):
        default = field.get_default(call_default_factory=True)
        part = default if isinstance(default, Config) else None
        allowed = type_in_words(properties[name]) if part is None else "a part"
        usual = "required" if field.is_required() else f"`{json.dumps(default) if part is None else part.kind}`"
        cells = (f"`{name}`", allowed, usual, " ".join((field.description or "").split()))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
