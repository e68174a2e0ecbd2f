"""A worker: trains stacks of a plan, one at a time, beside any number of others on the same output folder."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from anchorbench.sweeps.failures import failures, has_failed
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.lock import is_held
from anchorbench.sweeps.plan import Plan, read_plan
from anchorbench.sweeps.recut import ask, parts
from anchorbench.sweeps.runner import Progress, train_stack, warner
from anchorbench.train.execution import Execution


@dataclass
class Worked:
    """What a worker did."""

    finished: list[int] = field(default_factory=list)
    """Numbers of the stacks that are finished."""
    taken: list[int] = field(default_factory=list)
    """Those that another process is training."""
    failed: dict[int, str] = field(default_factory=dict)
    """Those that failed here -> reason."""


class Worker:
    """Trains the stacks of the plan in an output folder."""

    def __init__(
        self,
        out: Path,
        report: Callable[[int, Progress], None] = lambda stack, progress: None,
        how: Execution | None = None,
        attempt: int | None = None,
        folder: SweepFolder | None = None,
    ) -> None:
        """`report` is called with the number of the stack in training; `attempt` is that of a coordinator, see `StackLock`;
        `folder` is that of the plan, if it is open already.

        Steps to keep are the plan's. Raises ValueError with one sentence without a plan.
        """
        self._plan: Plan = read_plan(out)
        self._sweep = self._plan.sweep()
        self._folder = folder or SweepFolder(out, self._sweep)
        self._how = replace(how or Execution(), keep_steps=self._plan.cut.keep_steps)
        self._report, self._attempt = report, attempt
        self.stacks = len(self._plan.stacks)

    def train(self, number: int) -> Worked:
        """Trains one stack. Raises ValueError if there is no such stack."""
        worked = Worked()
        self._train(number, worked)
        self._complete()
        return worked

    def train_free(self, worked: Worked | None = None) -> Worked:
        """Trains all stacks that are neither finished nor in training, nor failed elsewhere meanwhile, until none is left; then
        halves of those in training, as long as their owners give them.

        Goes on after what was `worked` before, if given.
        """
        worked, before = worked or Worked(), set(failures(self._folder.out))
        trained = True
        while trained or (worked.taken and ask(self._folder.out)):
            trained, worked.taken = False, []
            for number, stack in enumerate(self._plan.stacks):
                if number in worked.finished or number in worked.failed or self._folder.has(stack.runs, self._how.keep_steps):
                    continue
                if stack.name not in before and has_failed(self._folder.out, stack.name):
                    continue
                if self._attempt is None and is_held(self._folder.out / "locks" / stack.name):  # told before its recipes are made
                    worked.taken.append(number)
                    continue
                trained |= self._train(number, worked)
        self._complete()
        return worked

    def _finished(self) -> set[int]:
        """The stacks all of whose runs are there."""
        done, _ = self._folder.ids(self._how.keep_steps)
        return {number for number, stack in enumerate(self._plan.stacks) if done.issuperset(stack.runs)}

    def _train(self, number: int, worked: Worked) -> bool:
        """Whether any of the stack was trained here."""
        stack = self._plan.recipes(number, self._sweep)
        self._folder.require_free([recipe.run_id for recipe in stack])

        def report(progress: Progress) -> None:
            self._report(number, progress)

        every = [
            train_stack(part, checkpoint, self._folder, report, self._how, warner(report), self._attempt)
            for part, checkpoint in parts(stack, self._folder)
        ]
        if failures := [trained.failure for trained in every if trained.failure is not None]:
            worked.failed[number] = failures[0]
        elif any(trained.busy for trained in every):
            worked.taken.append(number)
        else:
            worked.finished.append(number)
        return any(trained.worked for trained in every)

    def _complete(self) -> None:
        """Writes the tables and cleans up if this was the last stack."""
        if len(self._finished()) == self.stacks:
            done, _ = self._folder.ids()
            self._folder.finish(done, [] if self._folder.by_stack else self._folder.finished(self._sweep.runs())[0])
