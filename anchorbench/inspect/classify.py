"""Classifies how a model solves a task from its answers."""

from anchorbench.inspect.open_model import open_one
from anchorbench.task import Task
from anchorbench.verdict import Behaviour, EvalSet


def classify(model: object, task: Task, n: int = 1000, seed: int = 0) -> Behaviour:
    """Measures the behaviour of `model` on `n` fresh examples per split, and the verdict that follows from it.

    `model` is a run or checkpoint folder, a Hub id, a Hugging Face causal LM, a TransformerBridge, or a stack of one. A run trained
    on the task's variant is evaluated on its own held-out groups where these rotate over seeds; for other models pass
    `task.for_seed(seed)`. Raises ValueError with one sentence if the model cannot be opened or does not fit the task's vocabulary
    or length, or if n is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; allowed: at least 1")
    opened, task = open_one(model, task)
    eval_set = EvalSet.of(task, n, seed)
    return eval_set.behaviour(opened.answers(eval_set.tokens)[0])
