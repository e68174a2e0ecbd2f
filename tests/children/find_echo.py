"""Finds the task of echo_tasks.py by its entry point, and asks it."""

import sys

import anchorbench

assert "echo_tasks" not in sys.modules
assert ("echo", "default") in anchorbench.list_tasks()
task = anchorbench.load_task("echo", length=6)
examples = task.sample("iid", 20, 1)
answers = task.answer(examples.tokens).require_valid()
assert (answers.label == examples.label).all()
assert (answers.split == 1).all()
print("found", task.seq_len)
