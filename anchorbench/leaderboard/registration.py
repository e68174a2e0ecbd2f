"""Register, then reveal: the seeds of an entry follow from a registered recipe and from a value that did not exist before.

A registration names the recipe in canonical form and the beacon that will decide its seeds, before that beacon exists: by default
a round of drand's quicknet, a public source of randomness (https://docs.drand.love), one day ahead. Once the beacon is out,

    seed = H(digest of the registration, beacon, task, member)

so nobody can try several draws of seeds for one recipe, or several recipes in private. The order of events is shown by the
repository's history: this module checks that the files agree.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator

from anchorbench.files import MAX_YAML_BYTES, Plain, parse_yaml, read_bytes, visible
from anchorbench.leaderboard.names import Sentence, name_key
from anchorbench.leaderboard.submission import SubmittedRecipe, canonical, training_digest
from anchorbench.leaderboard.suite import SEEDS, SuiteTask
from anchorbench.parts import changes
from anchorbench.task import first_sentence

CHAIN = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
"""Hash of drand's quicknet chain."""
GENESIS, PERIOD = 1_692_803_367, 3
"""Unix time of the first round of drand's quicknet, and seconds between rounds."""
AHEAD = timedelta(days=1)
"""How far ahead of the registration its beacon is, by default."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Model = TypeVar("Model", bound=Plain)


def minute(time: datetime) -> str:
    """A time as the files give it: to the minute, UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


class _Timed(Plain):
    @field_validator("time", check_fields=False)
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value


Minute = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}Z$")]


class Beacon(_Timed):
    """A public value that nobody could know or choose when the recipe was registered."""

    name: Sentence
    """As announced in the registration."""
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{16,128}$")]
    """The value: lower-case hexadecimal digits."""
    time: Minute
    """When it came out, UTC."""
    source: Sentence
    """Where anyone can look it up."""


class Registration(_Timed):
    """A recipe announced before its seeds exist."""

    recipe: SubmittedRecipe
    """In canonical form: three significant digits, without fields that have no effect."""
    beacon: Sentence
    """The beacon that will decide the seeds, which does not exist yet."""
    time: Minute
    """When it was registered, UTC."""
    digest: Digest
    """What identifies the way of training, and enters the seeds: recipes that train alike have the same digest."""

    def to_yaml(self) -> bytes:
        """The file's content."""
        fields = changes(self.recipe)
        recipe = {field: fields.pop(field) for field in ("name", "authors", "description", "track") if field in fields} | fields
        content = {"recipe": recipe, "beacon": self.beacon, "time": self.time, "digest": self.digest}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).encode()


def seeds_of(digest: str, beacon: str, task: SuiteTask, members: int = SEEDS) -> tuple[int, ...]:
    """The task's seeds, from the registration's digest and the beacon's value.

    Member i holds out pair i modulo the number of pairs, in every entry: pairs differ more than recipes do.
    """
    drawn = (hashlib.sha256(f"{digest} {beacon} {task.words} {i}".encode()).digest() for i in range(members))
    return tuple(
        int.from_bytes(draw[:8], "big") % (2**31 // task.pairs) * task.pairs + i % task.pairs for i, draw in enumerate(drawn)
    )


def register(recipe: SubmittedRecipe, beacon: str | None, now: datetime) -> Registration:
    """The registration of a recipe at time `now`; the default beacon is the round of drand's quicknet one day later."""
    if beacon is None:
        beacon = f"drand quicknet, round {drand_round(now + AHEAD)}"
    content = {"recipe": canonical(recipe), "beacon": beacon, "time": minute(now), "digest": training_digest(recipe)}
    return _validated(Registration, content, "the registration")


def drand_round(time: datetime) -> int:
    """Number of the first round of drand's quicknet at or after `time`."""
    return -(-(int(time.timestamp()) - GENESIS) // PERIOD) + 1


def read_registration(path: Path) -> Registration:
    """Reads and validates a registration. Raises ValueError with one sentence that names the file."""
    registration = _validated(Registration, parse_yaml(read_bytes(path, most=MAX_YAML_BYTES), str(path)), str(path))
    try:
        require_canonical(registration.recipe, registration.digest)
    except ValueError as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    return registration


def require_canonical(recipe: SubmittedRecipe, digest: str) -> None:
    """Requires a recipe in canonical form with this digest. Raises ValueError with one sentence."""
    ours, theirs = canonical(recipe).training, recipe.training
    if ours != theirs:
        field = next(field for field in {**ours, **theirs} if ours.get(field) != theirs.get(field))
        words = f"recipe.{field} is {theirs.get(field, 'the default')}; in canonical form it is {ours.get(field, 'left out')}"
        raise ValueError(visible(words, 300))
    if digest != training_digest(recipe):
        raise ValueError(f"the registration is {digest[:16]}...; the recipe gives {training_digest(recipe)[:16]}...")


def read_beacon(path: Path) -> Beacon:
    """Reads a beacon file. Raises ValueError with one sentence that names the file."""
    return _validated(Beacon, parse_yaml(read_bytes(path, most=MAX_YAML_BYTES), str(path)), str(path))


def require_later(registration: Registration, beacon: Beacon) -> None:
    """Requires the beacon that the registration announced, of a later minute. Raises ValueError with one sentence."""
    if beacon.name != registration.beacon:
        raise ValueError(f"the beacon is {beacon.name!r}; the registration announced {registration.beacon!r}")
    if beacon.time <= registration.time:
        raise ValueError(f"the beacon is of {beacon.time}; allowed: a minute after the registration, {registration.time}")
    if found := re.fullmatch(r"drand quicknet, round (\d{1,12})", beacon.name):
        out = minute(datetime.fromtimestamp(GENESIS + PERIOD * (int(found[1]) - 1), UTC))
        if beacon.time != out:
            raise ValueError(f"the beacon is of {beacon.time}; {beacon.name} came out at {out}")


class Registry:
    """All registrations and beacons of a board, by digest and by name; of what is refused, the reasons."""

    def __init__(self, board: Path) -> None:
        """Reads the files of `board/registrations` and `board/beacons`. What they are called decides nothing: of two registrations
        of one training the earlier counts, and of two values of one beacon none.
        """
        self.registrations: dict[str, Registration] = {}
        self.beacons: dict[str, Beacon] = {}
        self.refused: list[str] = []
        beacons = self._read(board / "beacons", read_beacon)
        for path, beacon in beacons:
            if all(other.value == beacon.value for _, other in beacons if other.name == beacon.name):
                self.beacons[beacon.name] = beacon
            else:
                self.refused.append(f"{path}: the beacon {beacon.name!r} is recorded with several values")
        names: set[str] = set()
        found = self._read(board / "registrations", read_registration)
        for path, registration in sorted(found, key=lambda each: (each[1].time, each[1].beacon, each[1].digest)):
            known = self.registrations.get(registration.digest)
            if known is not None:
                self.refused.append(f"{path}: trains like {known.recipe.name!r}, registered {known.time}")
            elif (name := name_key(registration.recipe.name)) in names:
                self.refused.append(f"{path}: the name {registration.recipe.name!r} is registered twice")
            else:
                self.registrations[registration.digest] = registration
                names.add(name)

    def _read(self, folder: Path, read: Callable[[Path], Model]) -> list[tuple[Path, Model]]:
        found: list[tuple[Path, Model]] = []
        for path in sorted(folder.glob("*.yaml")):
            try:
                found.append((path, read(path)))
            except ValueError as refusal:
                self.refused.append(str(refusal))
        return found


def _validated(kind: type[Model], content: Any, name: str) -> Model:
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a mapping; allowed: the fields {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ValueError(visible(f"{name}: {first_sentence(error)}", 300)) from None
