"""One example per command, shown at the end of its help and in the reference."""

import typer

EXAMPLES = {
    "run": "run --gamma 0.4,0.7 --seeds 8 --norm pre,post --out norms",
    "classify": "classify norms/runs/0a1b2c3d4e5f6071 --figures probes.pdf",
    "check": "check norms/runs/0a1b2c3d4e5f6071 --steps 200",
    "export": "export norms/runs/0a1b2c3d4e5f6071 checkpoint",
    "push": "push norms/runs/0a1b2c3d4e5f6071 OWNER/NAME --dry-run",
    "rates": "rates grafted/runs/0a1b2c3d4e5f6071 rates.json --step 500",
    "tasks": "tasks composite-conflict",
    "parts": "parts schedule cosine",
    "new": "new optimizer my-optimizer",
    "report": "report norms --x init.gamma --y model.norm",
    "watch": "watch norms --port 8080",
    "reproduce": "reproduce frequency-principle --out my-ledger",
    "ways": "ways anchorbench-out/ways --out my-tables",
    "sweep plan": "sweep plan recipes/weight-decay.yaml --axis seed=0,1",
    "sweep work": "sweep work anchorbench-out/weight-decay --stack 3",
    "sweep status": "sweep status anchorbench-out/weight-decay",
    "sweep check": "sweep check anchorbench-out/weight-decay --sample 100",
    "sweep reindex": "sweep reindex anchorbench-out/weight-decay",
    "sweep run": "sweep run recipes/weight-decay.yaml --figures pdf,svg --track tensorboard",
    "sweep locate": "sweep locate recipe.yaml --low 0.4 --high 0.8 --width 0.02",
    "probe one": "probe patching norms/runs/0a1b2c3d4e5f6071 --figures patching.pdf",
    "probe list": "probe list",
    "probe validate": "probe validate --quick --json found.json",
    "probe fit": "probe fit norms decays --out weights.json",
    "data build": "data build composite --out data --size 20000",
    "data verify": "data verify data",
    "data push": "data push data OWNER/NAME --dry-run",
    "bench data": "bench data",
    "bench train": "bench train --small --json speed.json",
    "bench scale": "bench scale --json scale.json",
    "bench store": "bench store --runs 100,1000,5000",
    "bench gpu": "bench gpu --json gpu.json",
    "leaderboard register": "leaderboard register recipe.yaml --name mine",
    "leaderboard run": "leaderboard run leaderboard/registrations/mine.yaml --beacon beacon.yaml --out mine",
    "leaderboard validate": "leaderboard validate mine/entry.json",
    "leaderboard verify": "leaderboard verify mine/entry.json --fresh",
    "leaderboard render": "leaderboard render --board leaderboard",
    "leaderboard export": "leaderboard export mine/entry.json --dataset OWNER/NAME --out hub",
    "leaderboard schema": "leaderboard schema --out leaderboard",
    "leaderboard study": "leaderboard study --out study --json suite-study.json --figure suite-study.png",
}
"""Name of a command, with its group -> its example."""


def add_examples(app: typer.Typer, group: str = "") -> None:
    """Gives every command of the app, and of its groups, its example."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        if f"{group}{name}" in EXAMPLES:
            command.epilog = f"Example: anchorbench {EXAMPLES[f'{group}{name}']}"
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            add_examples(inner.typer_instance, f"{inner.name} ")
