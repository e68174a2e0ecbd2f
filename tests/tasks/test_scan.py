"""SCAN: the published counts and examples, and two independent readings of all its commands that agree."""

import numpy as np
import pytest
from scipy.stats import chisquare

from anchorbench import load_task
from anchorbench.task import SPLITS
from anchorbench.tasks.scan import commands, interpret

PUBLISHED = {  # variant -> training list and test list
    "addprim-jump": (14_670, 7_706),
    "addprim-turn-left": (21_890, 1_208),
    "length": (16_990, 3_920),
}
EXAMPLES = {  # from the paper and the data set's own description
    "jump": "JUMP",
    "jump left": "LTURN JUMP",
    "jump around right": "RTURN JUMP RTURN JUMP RTURN JUMP RTURN JUMP",
    "turn left twice": "LTURN LTURN",
    "jump thrice": "JUMP JUMP JUMP",
    "jump opposite left and walk thrice": "LTURN LTURN JUMP WALK WALK WALK",
    "jump opposite left after walk around left": "LTURN WALK LTURN WALK LTURN WALK LTURN WALK LTURN LTURN JUMP",
    "look around right": "RTURN LOOK RTURN LOOK RTURN LOOK RTURN LOOK",
    "turn around left": "LTURN LTURN LTURN LTURN",
    "turn opposite right": "RTURN RTURN",
    "run after turn left": "LTURN RUN",
}


def test_all_commands():
    pairs = commands()
    assert len(pairs) == len({words for words, _ in pairs}) == 20_910
    assert max(len(words) for words, _ in pairs) == 9
    assert max(len(actions) for _, actions in pairs) == 48
    for words, actions in pairs:
        assert interpret(words) == actions


@pytest.mark.parametrize("command", EXAMPLES)
def test_published_examples(command):
    expected = tuple(EXAMPLES[command].split())
    assert interpret(tuple(command.split())) == expected
    assert dict(commands())[tuple(command.split())] == expected


@pytest.mark.parametrize(
    "command",
    [
        *("", "turn", "turn twice", "jump jump", "jump twice twice", "left", "jump opposite", "jump and", "after jump"),
        *("walk and run and jump", "walk and run after jump", "jump left around", "jump opposite around left", "jump twice left"),
    ],
)
def test_what_is_no_command(command):
    assert interpret(tuple(command.split())) == ()


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_counts(variant):
    task = load_task("scan", variant, iid_share=0)
    assert task.splits == ("train", "ood")
    assert (len(task.pairs("train")), len(task.pairs("ood"))) == PUBLISHED[variant]
    trained, tested = {command for command, _ in task.pairs("train")}, {command for command, _ in task.pairs("ood")}
    assert len(trained) + len(tested) == 20_910
    assert not trained & tested
    with pytest.raises(ValueError, match="no split 'iid'"):
        task.sample("iid", 1, 0)


def test_published_counts_of_the_simple_split():
    task = load_task("scan", "simple")
    assert task.splits == ("train", "iid")
    assert (len(task.pairs("train")), len(task.pairs("iid"))) == (16_728, 4_182)
    assert len({*task.pairs("train"), *task.pairs("iid")}) == 20_910
    assert task.pairs("iid") != load_task("scan", "simple", split_seed=1).pairs("iid")


@pytest.mark.parametrize(("variant", "verb", "times"), [("addprim-jump", "jump", 1_467), ("addprim-turn-left", "turn left", 2_189)])
def test_the_lone_verb_is_a_tenth_of_the_training_list(variant, verb, times):
    trained = [command for command, _ in load_task("scan", variant, iid_share=0).pairs("train")]
    assert trained.count(verb) == times
    assert [command for command in set(trained) if f" {verb} " in f" {command} "] == [verb]
    assert all(f" {verb} " in f" {command} " and command != verb for command, _ in load_task("scan", variant).pairs("ood"))
    with_iid = [command for command, _ in load_task("scan", variant).pairs("train")]
    assert with_iid.count(verb) / len(with_iid) == pytest.approx(0.1, abs=1e-3)


def test_turn_around_left_is_trained_though_turn_left_is_not():
    trained = dict(load_task("scan", "addprim-turn-left", iid_share=0).pairs("train"))
    assert {"turn around left", "turn opposite left", "jump left", "turn right twice"} <= set(trained)
    assert "turn left twice" not in trained


def test_the_length_split_is_by_actions():
    task = load_task("scan", "length")
    lengths = {split: [len(actions.split()) for _, actions in task.pairs(split)] for split in SPLITS}
    assert max(lengths["train"]) <= 22
    assert max(lengths["iid"]) <= 22
    assert min(lengths["ood"]) == 24
    assert max(lengths["ood"]) == 48
    assert len(task.pairs("iid")) == 1_699


@pytest.mark.parametrize("variant", [*PUBLISHED, "simple"])
def test_splits_share_no_command(variant):
    task = load_task("scan", variant)
    seen = [{command for command, _ in task.pairs(split)} for split in task.splits]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 20_910


@pytest.mark.parametrize("variant", [*PUBLISHED, "simple"])
def test_greedy_decoding_of_prompts_gives_the_pairs(variant):
    """Appending each answer and dropping the first token runs through the whole action sequence."""
    task = load_task("scan", variant)
    words = [token.word for token in task.vocabulary]
    for split in task.splits:
        pairs, tokens = task.pairs(split), task.prompts(split)
        assert len(pairs) == len(tokens)
        rows = np.linspace(0, len(pairs) - 1, 150).astype(int)
        tokens, produced, running = tokens[rows], [[] for _ in rows], np.arange(len(rows))
        while len(running):
            answers = task.answer(tokens).require_valid()
            assert (answers.split == SPLITS.index(split)).all()
            for row, label in zip(running.tolist(), answers.label.tolist(), strict=True):
                produced[row].append(words[label])
            tokens = np.concatenate([tokens[:, 1:], answers.label[:, None]], axis=1)
            running, tokens = running[answers.label != 2], tokens[answers.label != 2]
        for row, actions in zip(rows.tolist(), produced, strict=True):
            command, expected = pairs[row]
            assert " ".join(actions) == f"{expected} END"
            assert task.text(task.prompts(split)[row : row + 1])[0].endswith(f"PAD {command} ->")


@pytest.mark.parametrize("variant", [*PUBLISHED, "simple"])
def test_every_step_of_every_command_is_equally_likely(variant):
    task = load_task("scan", variant)
    for split in task.splits:
        steps = np.array([len(actions.split()) + 1 for _, actions in task.pairs(split)])
        expected = np.array([(steps > done).sum() for done in range(steps.max())]) * (20_000 / steps.sum())
        tokens = task.sample(split, 20_000, 0).tokens
        counts = np.bincount(task.seq_len - 1 - (tokens == 1).argmax(1), minlength=len(expected))
        common = expected > 5
        assert counts.sum() == 20_000
        assert chisquare(counts[common], expected[common] / expected[common].sum() * counts[common].sum()).pvalue > 1e-6


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"iid_share": 0.95}, "less than or equal to 0.9"),
        ({"iid_share": 1e-5}, "0, or 0.001"),
        ({"iid_share": -0.1}, "greater"),
        ({"held_out": "walk"}, "'jump'"),
    ],
)
def test_impossible_configurations_are_refused(config, reason):
    with pytest.raises(ValueError, match=reason):
        load_task("scan", **config)
