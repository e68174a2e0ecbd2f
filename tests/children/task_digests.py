"""Prints the digest of some examples of every task."""

import json

from every_task import TASKS, digest, get

print(json.dumps([digest(get(*task).sample(split, 200, 3)) for task in TASKS for split in get(*task).splits]))
