"""Complete recipes to start from, and the axes to sweep over with each."""

from typing import Any

from anchorbench.model.gpt import ModelConfig
from anchorbench.model.initializers.rate import Rate
from anchorbench.recipe import Recipe
from anchorbench.train.optimizers.adamw import AdamW

_NEURIPS_STEPS_PER_EPOCH, _PAMI_STEPS_PER_EPOCH = 370, 76

PRESETS: dict[str, Recipe] = {
    # The phase diagram of 2501.08537 on a laptop: without weight decay the boundary lies well inside the range of good fit.
    "laptop": Recipe(optimizer=AdamW.Config(weight_decay=0.0), steps=2500),
    # 2405.05409, appendix A: 759,375 training sequences, 210 epochs, warm-up of 10 epochs from 1e-5 to 2.5e-4 and cosine back.
    "paper-neurips": Recipe(
        variant="conflict",
        task_config={"vocab_size": 201},
        model=ModelConfig(
            n_layer=2, n_head=1, d_model=400, d_head=200, d_ff=1200, norm="post", activation="relu", bias=False, unembed_bias=True
        ),
        init=Rate.Config(gamma=0.5, fan="own", depth_scale=False, unembed_bias="uniform"),
        optimizer=AdamW.Config(lr=2.5e-4, weight_decay=0.01, warmup=10 * _NEURIPS_STEPS_PER_EPOCH, start=0.04, end=0.04),
        batch=2048,
        steps=210 * _NEURIPS_STEPS_PER_EPOCH,
        data_size=759_375,
    ),
    # 2501.08537, phase diagram over gamma and weight decay: 157,500 training sequences, 1050 epochs, both mirrored pairs held out.
    "paper-pami": Recipe(
        variant="heldout-both",
        task_config={"vocab_size": 201},
        model=ModelConfig(n_layer=10, n_head=10, d_model=640, d_head=64, d_ff=1280, norm="pre", activation="gelu"),
        init=Rate.Config(gamma=0.5, fan="d_model", depth_scale=True),
        optimizer=AdamW.Config(lr=3e-5, weight_decay=0.01, warmup=50 * _PAMI_STEPS_PER_EPOCH, start=1 / 3, end=1 / 3),
        batch=2048,
        steps=1050 * _PAMI_STEPS_PER_EPOCH,
        data_size=157_500,
    ),
}

AXES: dict[str, dict[str, tuple[Any, ...]]] = {
    "laptop": {"init.gamma": (0.34, 0.4, 0.5, 0.6, 0.7), "seed": (0, 1, 2, 3)},
    "paper-neurips": {"model.n_layer": (2, 3, 4, 5, 6, 7), "init.gamma": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "seed": (0, 1, 2)},
    "paper-pami": {
        "optimizer.weight_decay": (0.0, 0.01, 0.1, 1.0),
        "init.gamma": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
        "seed": (0, 1, 2),
    },
}
"""The axes that each preset sweeps over; those of the papers, for their presets."""
