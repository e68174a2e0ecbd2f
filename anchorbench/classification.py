"""Names how a model solves a task, from what it answers."""

from pathlib import Path

from anchorbench.hub import open_model
from anchorbench.store import Run, read_run
from anchorbench.task import Task
from anchorbench.verdict import Behaviour, EvalSet


def classify(model: object, task: Task, n: int = 1000, seed: int = 0) -> Behaviour:
    """The behaviour of `model` on `n` fresh examples a split, and the verdict that follows from it.

    `model` is a run or checkpoint folder, a Hub id, a Hugging Face causal LM, a TransformerBridge, or a stack of one. A run of the
    task's variant is asked about what it held out itself, where that rotates over seeds; for other models pass
    `task.for_seed(seed)`. Raises ValueError with one sentence if the model cannot be opened or does not fit the task's vocabulary
    or length, or if n is below 1.
    """
    if isinstance(model, str | Path) and (Path(model) / "digests.json").exists():
        model = read_run(Path(model))
    if isinstance(model, Run) and (model.result.task, model.result.variant) == (task.name, task.variant):
        task = model.recipe.load_task()  # conflict-control: the pair that this member holds out, not another
    if n < 1:
        raise ValueError(f"n is {n}; allowed: at least 1")
    eval_set = EvalSet.of(task, n, seed)
    return eval_set.behaviour(open_model(model).answers(eval_set.tokens))
