"""Ontology: a plain reading of the text agrees, every number of hops is balanced, and no local cue gives the answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from anchorbench import load_task
from anchorbench.task import SPLITS

N = 30_000


@pytest.fixture(scope="module", params=["train", "iid", "ood"])
def sampled(request):
    task = load_task("ontology")
    return task, task.sample(request.param, N, 11)


def read(text):
    """Label and number of hops, from the words alone."""
    words = text.split()
    body, (entity, _, concept, again, claim, asked, query) = words[:-7], words[-7:]
    assert again == entity
    assert query == "?"
    links, facts = {}, {}
    for every, subject, verb, what in zip(*[iter(body)] * 4, strict=True):
        assert every == "every"
        (links if verb == "is_a" else facts)[subject] = what if verb == "is_a" else (verb, what)
    hops = 1
    while concept not in facts:
        concept, hops = links[concept], hops + 1
    verb, what = facts[concept]
    assert what == asked
    return "true" if verb == claim else "false", hops


def test_a_plain_reading_of_the_text_agrees(sampled):
    task, examples = sampled
    for i, text in enumerate(task.text(examples.tokens[:400])):
        label, hops = read(text)
        assert label == task.vocabulary[examples.label[i]].word
        assert f"{hops}-hop" == task.groups[examples.group[i]].name


def test_true_and_false_are_balanced_in_every_number_of_hops(sampled):
    task, examples = sampled
    for group in np.unique(examples.group):
        true = examples.label[examples.group == group]
        assert abs(true.mean() - 0.5) < 6 * 0.5 / np.sqrt(len(true))
    assert len(task.groups) == 5


def cues(tokens):
    """Everything short of a path: name -> [n], each a small number."""
    n = len(tokens)
    body, row = tokens[:, :-7].reshape(n, -1, 4), np.arange(n)
    verb = body[:, :, 2]
    yes, no = (verb == 4).argmax(1), (verb == 5).argmax(1)
    concept, claim = tokens[:, -5], tokens[:, -3]
    subjects, objects = body[:, :, 1], np.where(verb == 3, body[:, :, 3], -1)
    entity_sentence = (subjects == concept[:, None]).argmax(1)
    yes_holder, no_holder = subjects[row, yes], subjects[row, no]

    def occurs(concepts, where):
        return (where == concepts[:, None]).sum(1)

    found = {
        "the sign claimed": claim,
        "which sign stands first": yes < no,
        "the sign nearer to the entity's sentence": np.abs(yes - entity_sentence) < np.abs(no - entity_sentence),
        "the last sign": np.where(yes > no, 4, 5) == claim,
        "the first sign": np.where(yes < no, 4, 5) == claim,
        "the sign that stands last in the body": verb[:, -1],
        "how often the holders occur": 10 * occurs(yes_holder, subjects) + occurs(no_holder, subjects),
        "whether something is a holder": 10 * occurs(yes_holder, objects) + occurs(no_holder, objects),
        "whether something is the entity's concept": occurs(concept, objects),
        "the holder of greater id": yes_holder > no_holder,
        "the holder of nearer id": np.abs(yes_holder - concept) < np.abs(no_holder - concept),
        "the concept": concept,
        "the property": tokens[:, -2],
        "the entity": tokens[:, -7],
    }
    joint = found["whether something is the entity's concept"] + 2 * found["whether something is a holder"]
    return found | {
        "the shape around concept and holders": joint,
        "shape and claim": 1000 * (claim == 4) + joint,
        "order and claim": 10 * (claim == 4) + found["which sign stands first"],
        "nearness and claim": 10 * (claim == 4) + found["the sign nearer to the entity's sentence"],
        "nearer id and claim": 10 * (claim == 4) + found["the holder of nearer id"],
        "occurrences and claim": 1000 * (claim == 4) + found["how often the holders occur"],
    }


def test_no_local_cue_gives_the_answer_away(sampled):
    """Beyond one hop, where the entity's own concept holds the property, nothing short of a path says true or false."""
    task, examples = sampled
    hops = np.array(task.config.hops)[examples.group]
    for count in np.unique(hops[hops > 1]):
        here = examples[hops == count]
        for name, value in cues(here.tokens).items():
            values, which = np.unique(value, return_inverse=True)
            table = np.stack([np.bincount(which[here.label == label], minlength=len(values)) for label in (0, 1)])
            table = table[:, table.sum(0) > 20]
            if table.shape[1] > 1:
                assert chi2_contingency(table).pvalue > 1e-6, (count, name)


def test_swapping_the_signs_or_the_claim_flips_the_answer_and_the_order_does_not(sampled):
    task, examples = sampled
    tokens = examples.tokens[:2_000]
    before = task.answer(tokens).require_valid()
    body = tokens[:, :-7].reshape(len(tokens), -1, 4)
    swapped = body.copy()
    swapped[:, :, 2] = np.choose(np.clip(body[:, :, 2] - 3, 0, 2), [3, 5, 4])
    claimed = tokens.copy()
    claimed[:, -3] = 9 - claimed[:, -3]
    order = np.random.default_rng(0).permutation(body.shape[1])
    for changed, flips in ((swapped, True), (body[:, order], False)):
        after = task.answer(np.concatenate([changed.reshape(len(tokens), -1), tokens[:, -7:]], axis=1)).require_valid()
        np.testing.assert_array_equal(after.label == before.label, not flips)
        np.testing.assert_array_equal(after.group, before.group)
    np.testing.assert_array_equal(task.answer(claimed).require_valid().label, 1 - before.label)


def test_one_entity_in_the_other_chain_gives_the_other_answer(sampled):
    """The two chains are interchangeable: the distractor's concept at the same height has the opposite answer, as many hops on."""
    task, examples = sampled
    for row in examples.tokens[:200]:
        words = task.text(row[None])[0].split()
        links = {words[i + 1]: words[i + 3] for i in range(0, len(words) - 7, 4) if words[i + 2] == "is_a"}
        chains = []
        for head in set(links) - set(links.values()):
            chain = [head]
            while chain[-1] in links:
                chain.append(links[chain[-1]])
            chains.append(chain)
        (first, second), concept = chains, words[-5]
        other = second[first.index(concept)] if concept in first else first[second.index(concept)]
        ids = {token.word: i for i, token in enumerate(task.vocabulary)}
        swapped = row.copy()
        swapped[-5] = ids[other]
        before, after = task.answer(row[None]), task.answer(swapped[None]).require_valid()
        assert after.label[0] == 1 - before.label[0]
        assert after.group[0] == before.group[0]


@settings(max_examples=15, derandomize=True, database=None)
@given(
    hops=st.sets(st.integers(1, 16), min_size=2, max_size=6), modulus=st.integers(2, 16), cut=st.integers(1, 5), swap=st.booleans()
)
def test_other_hops_read_back(hops, modulus, cut, swap):
    ordered = sorted(hops, reverse=swap)
    cut = min(cut, len(ordered) - 1)
    task = load_task("ontology", trained_hops=ordered[:cut], held_out_hops=ordered[cut:], modulus=modulus)
    for split in task.splits:
        examples = task.sample(split, 200, 1)
        answers = task.answer(examples.tokens).require_valid()
        for field in ("label", "group", "key", "position"):
            np.testing.assert_array_equal(getattr(answers, field), getattr(examples, field))
        np.testing.assert_array_equal(answers.split, SPLITS.index(split))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"trained_hops": (1, 4)}, "name a number twice"),
        ({"trained_hops": ()}, "at least 1"),
        ({"held_out_hops": (17,)}, "less than or equal to 16"),
        ({"trained_hops": (0,)}, "greater than or equal to 1"),
        ({"modulus": 17}, "less than or equal to 16"),
    ],
)
def test_impossible_configurations_are_refused(config, reason):
    with pytest.raises(ValueError, match=reason):
        load_task("ontology", **config)
