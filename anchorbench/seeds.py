"""Named random streams: each use of a run's seed draws from its own generator."""

import numpy as np


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for one use of a run's seed: streams and adjacent seeds are independent."""
    entropy = np.random.SeedSequence([seed, int.from_bytes(stream.encode(), "big")])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))
