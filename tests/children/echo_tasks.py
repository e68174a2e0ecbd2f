"""A package that knows anchorbench and that anchorbench does not know."""

import numpy as np

from anchorbench.task import Examples, Group, Task, TaskConfig, Token, register


class EchoConfig(TaskConfig):
    length: int = 4


@register
class Echo(Task):
    """The last token."""

    name = "echo"
    paper = "none"
    Config = EchoConfig
    description = "The last token."
    seq_len = property(lambda self: self.config.length)
    vocabulary = property(lambda self: tuple(Token(str(i), f"number {i}") for i in range(10)))
    groups = property(lambda self: (Group("echo", "trained"),))
    chance = 0.1

    def generate(self, rng, split, n):
        tokens = 2 * rng.integers(5, size=(n, self.seq_len)) + (split == "iid")
        none = np.full(n, -1)
        return Examples(tokens=tokens, label=tokens[:, -1], group=none + 1, key=tokens[:, -1], position=none + self.seq_len)

    def parse(self, tokens, parser):
        iid = tokens[:, -1] % 2
        none = np.full(len(tokens), -1)
        parser.require(((tokens >= 0) & (tokens < 10) & (tokens % 2 == iid[:, None])).all(1), "it mixes odd and even")
        return parser.answers(label=tokens[:, -1], group=none + 1, key=tokens[:, -1], position=none + self.seq_len, split=iid)
