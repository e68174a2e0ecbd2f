"""Learning rate and weight decay of a member at a step."""

from anchorbench.parts import OptimizerConfig, decays, schedules


def learning_rate(optimizer: OptimizerConfig, step: int, steps: int) -> float:
    """The rate at `step`, counted from 1: linear warm-up to the peak, then the schedule until `steps`."""
    if step <= optimizer.warmup:
        return optimizer.lr * (optimizer.start + (1 - optimizer.start) * step / optimizer.warmup)
    schedule = schedules[optimizer.schedule.kind](optimizer.schedule)
    return optimizer.lr * schedule.factor(step - optimizer.warmup, steps - optimizer.warmup, optimizer.end)


def shrinkage(optimizer: OptimizerConfig, rate: float) -> float:
    """The share of the weights that decay removes in a step of gradient descent at this rate, while it acts."""
    into_gradient, from_weights = decays[optimizer.decay.kind](optimizer.decay).amounts(optimizer.weight_decay, rate)
    return from_weights + rate * into_gradient


def decay_amounts(optimizer: OptimizerConfig, step: int, rate: float) -> tuple[float, float]:
    """What decay adds to the gradient per unit of weight, and the share of the weights it removes, at `step` with rate `rate`."""
    inside = optimizer.decay_from < step and (optimizer.decay_until is None or step <= optimizer.decay_until)
    decay = decays[optimizer.decay.kind](optimizer.decay)
    return decay.amounts(optimizer.weight_decay, rate) if inside else (0.0, 0.0)
