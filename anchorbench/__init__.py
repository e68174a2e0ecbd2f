"""anchorbench: did this transformer solve the task by inferring the rule, or by memorizing the table?"""

from anchorbench.task import Answers, Examples, Task, list_tasks, load_task

__all__ = ["Answers", "Examples", "Task", "list_tasks", "load_task"]
__version__ = "0.1.0"
