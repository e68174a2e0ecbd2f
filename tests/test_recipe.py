"""A recipe's name, its checks, and the papers' settings, number by number."""

import json
import math
import re
from typing import Any

import pytest
import yaml
from conftest import WiderRecipe
from hypothesis import given
from hypothesis import strategies as st

from anchorbench.model.gpt import ModelConfig
from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe, parse_recipe
from anchorbench.tasks.composite import Composite
from anchorbench.train.optimizers.adamw import AdamW

BASE = Recipe(variant="heldout-both")
OTHER: dict[str, Any] = {
    "precision": "bf16",
    "task": "identity",
    "variant": "conflict",
    "task_config": {"vocab_size": 201},
    "model.n_layer": 3,
    "model.n_head": 2,
    "model.d_model": 96,
    "model.d_head": 32,
    "model.d_ff": 128,
    "model.norm": "post",
    "model.activation": "relu",
    "model.bias": False,
    "model.unembed_bias": True,
    "model.query_norm_only": True,
    "init.gamma": 0.50001,
    "init.embedding": 0.5,
    "init.qk": 0.5,
    "init.vo": 0.5,
    "init.mlp": 0.5,
    "init.fan": "d_model",
    "init.depth_scale": False,
    "init.unembed_bias": "uniform",
    "optimizer.lr": 2e-3,
    "optimizer.weight_decay": 0.1,
    "optimizer.decay": "coupled",
    "optimizer.decay_from": 7,
    "optimizer.decay_until": 900,
    "optimizer.decay_embeddings": False,
    "optimizer.beta1": 0.8,
    "optimizer.beta2": 0.99,
    "optimizer.eps": 1e-7,
    "optimizer.schedule": "linear",
    "optimizer.warmup": 100,
    "optimizer.start": 0.1,
    "optimizer.end": 0.1,
    "optimizer.clip": 2.0,
    "model.kind": "rms-norm",
    "optimizer.kind": "sgd",
    "estimator": "svrg",
    "penalties": ["l1"],
    "noise": "dropout",
    "growth": ["split"],
    "batch": 64,
    "steps": 1801,
    "stop": "settled",
    "data_size": 99_999,
    "seed": 1,
    "init_seed": 1,
    "data_seed": 1,
    "order_seed": 1,
    "noise_seed": 1,
}
"""Every field of a recipe, with another value than BASE's."""


def fields_of(content: dict[str, Any], where: str = "") -> set[str]:
    """The dotted paths of a recipe's plain data; the task's configuration is one field."""
    paths: set[str] = set()
    for name, value in content.items():
        inner = isinstance(value, dict) and name != "task_config"
        paths |= fields_of(value, f"{where}{name}.") if inner else {where + name}
    return paths


def changed(field: str) -> Recipe:
    fields = {field: OTHER[field]}
    return BASE.override(fields | {"variant": None} if field == "task" else fields)


def test_the_table_above_names_every_field() -> None:
    assert OTHER.keys() | {"init.kind"} == fields_of(BASE.model_dump(mode="json"))


def test_every_field_changes_the_run_id() -> None:
    ids = {field: changed(field).run_id for field in OTHER} | {"": BASE.run_id}
    assert len(set(ids.values())) == len(OTHER) + 1
    assert all(re.fullmatch("[0-9a-f]{16}", run_id) for run_id in ids.values())


IDS = {
    "the defaults": (Recipe(), "f0c40ada25250591"),
    "laptop": (PRESETS["laptop"], "bd138134478f60a1"),
    "paper-neurips": (PRESETS["paper-neurips"], "5224cdf9126a8947"),
    "paper-pami": (PRESETS["paper-pami"], "451748756acaf34c"),
    "another task": (changed("task"), "c9ae22524a291419"),
    "another vocabulary": (changed("task_config"), "0e2dbff922cbe244"),
    "a seed for the data": (changed("data_seed"), "3a832f4759e30378"),
    "a nested field": (changed("optimizer.decay_until"), "dfe7c8f8373103af"),
    "a pair that rotates over seeds": (Recipe(variant="conflict-control", seed=3), "72b1caa0c3c1e090"),
}


@pytest.mark.parametrize("name", IDS)
def test_run_ids_last(name: str) -> None:
    """Folders of earlier versions are found by these. If a default was changed on purpose, raise `recipe.SCHEMA`."""
    recipe, run_id = IDS[name]
    assert recipe.run_id == run_id


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ({"variant": "heldout-both"}, Recipe()),
        ({"task_config": {"vocab_size": 120}}, Recipe()),
        ({"task_config": {"offsets": {"1": 5, "2": 1, "3": -2, "4": -8}}}, Recipe()),
        ({"seed": 3, "init_seed": 3, "order_seed": 3}, Recipe(seed=3)),
        ({"optimizer": {"lr": 0.001, "decay_until": None}}, Recipe()),
        ({"variant": "conflict", "task_config": {"exceptions": [{"pair": [3, 4], "offset": -6}]}}, Recipe(variant="conflict")),
    ],
)
def test_other_words_for_one_training_have_one_run_id(words: dict[str, Any], recipe: Recipe) -> None:
    assert parse_recipe(words).canonical() == recipe.canonical()
    assert parse_recipe(words).run_id == recipe.run_id


class WiderConfig(Composite.Config):
    later = Composite.Config.later | {"wrap"}
    wrap: bool = False


@pytest.mark.parametrize("name", IDS)
def test_a_new_field_that_does_nothing_changes_no_run_id(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, run_id = IDS[name]
    monkeypatch.setattr(Composite, "Config", WiderConfig)
    wider = WiderRecipe.model_validate(recipe.model_dump())
    assert wider.run_id == run_id
    assert wider.override({"seed": 4}).run_id != run_id
    assert WiderRecipe.model_validate(recipe.model_dump() | {"jitter": 0.1}).run_id != run_id
    assert WiderRecipe.model_validate({**recipe.model_dump(), "optimizer": {"lookahead": 5}}).run_id != run_id


def test_the_tasks_version_changes_the_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Composite, "version", Composite.version + 1)
    assert BASE.override({}).run_id != BASE.run_id


@pytest.mark.parametrize("field", OTHER)
def test_equal_recipes_have_equal_run_ids_through_json_and_yaml(field: str) -> None:
    recipe = changed(field)
    content = recipe.model_dump(mode="json")
    backwards = dict(reversed(content.items()))
    for copy in (
        parse_recipe(backwards),
        Recipe.model_validate_json(json.dumps(content)),
        parse_recipe(yaml.safe_load(yaml.safe_dump(content))),
    ):
        assert copy == recipe
        assert copy.run_id == recipe.run_id


def test_whole_numbers_may_be_written_either_way() -> None:
    assert BASE.override({"optimizer.clip": 1, "init.gamma": 1}).run_id == BASE.override({"init.gamma": 1.0}).run_id


def test_a_task_configuration_survives_json() -> None:
    recipe = Recipe(task_config={"offsets": {1: 5, 2: 1}, "held_out": ((1, 2),)})
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert again.run_id == recipe.run_id
    assert again.load_task().fingerprint == recipe.load_task().fingerprint


FIELDS = sorted(OTHER.keys() - {"optimizer.kind"})
"""All but a kind, which has other fields."""


@given(st.sampled_from(FIELDS), st.sampled_from(FIELDS))
def test_overrides_change_nothing_else(first: str, second: str) -> None:
    if "task" in (first, second):
        return
    both = BASE.override({first: OTHER[first], second: OTHER[second]}) if compatible(first, second) else changed(first)
    content, base = both.model_dump(mode="json"), BASE.model_dump(mode="json")
    different = {path for path in FIELDS if at(content, path) != at(base, path)}
    assert different == ({first, second} if compatible(first, second) else {first})
    assert BASE.override({}) == BASE


def compatible(first: str, second: str) -> bool:
    return {first, second} not in (
        {"model.norm", "model.query_norm_only"},
        *({"precision", autograd} for autograd in ("model.kind", "noise")),
        {"growth", "estimator"},
    )


def at(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = content[name]
    return content


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"optimiser.lr": 1.0}, "a recipe has no field 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ({"seed.first": 1}, "a recipe has no field 'seed.first'"),
        ({"gamma": 0.5}, "unknown field 'gamma'; did you mean 'init.gamma'?"),
        ({"stepz": 1}, "unknown field 'stepz'; did you mean 'steps'?"),
        ({"optimizr.lr": 1}, "a recipe has no field 'optimizr.lr'; did you mean 'optimizer.lr'?"),
        (
            {"optimizer.momentum": 0.9},
            "unknown field 'optimizer.momentum'; allowed for " + " or ".join(["sgd", "grafted-sgd", "muon", "normalized-sgd"]),
        ),
        ({"optimizer.qqq": 0.9}, "unknown field 'optimizer.qqq'"),
        ({"init.gamma": math.nan}, "init.gamma is nan; input should be a finite number"),
        ({"init.gamma": math.inf}, "init.gamma is inf; input should be a finite number"),
        ({"init.gamma": "big"}, "init.gamma is 'big'; input should be a valid number"),
        ({"init.qk": -400.0}, "init.qk is -400.0; input should be greater than or equal to -10"),
        ({"optimizer.lr": math.nan}, "optimizer.lr is nan; input should be a finite number"),
        ({"optimizer.lr": 0.0}, "optimizer.lr is 0.0; input should be greater than 0"),
        ({"optimizer.weight_decay": -0.1}, "optimizer.weight_decay is -0.1; input should be greater than or equal to 0"),
        ({"optimizer.weight_decay": math.inf}, "optimizer.weight_decay is inf; input should be a finite number"),
        ({"optimizer.clip": 0}, "optimizer.clip.most is 0; input should be greater than 0"),
        ({"optimizer.beta2": 1}, "optimizer.beta2 is 1; input should be less than 1"),
        ({"optimizer.warmup": 1801}, "warmup is 1801 steps; allowed: at most steps, 1800"),
        ({"steps": 0}, "steps is 0; input should be greater than or equal to 1"),
        ({"steps": 199}, "warmup is 200 steps; allowed: at most steps, 199"),
        ({"steps": 1000.5}, "steps is 1000.5; input should be a valid integer"),
        ({"batch": 0}, "batch is 0; input should be greater than or equal to 1"),
        ({"data_size": 0}, "data_size is 0; input should be greater than or equal to 1"),
        ({"seed": -1}, "seed is -1; input should be greater than or equal to 0"),
        ({"model.n_layer": 0}, "model.n_layer is 0; input should be greater than or equal to 1"),
        ({"model.norm": "both"}, "model.norm is 'both'; input should be 'pre' or 'post'"),
        ({"task_config": 3}, "task_config is 3; input should be a valid dictionary"),
    ],
)
def test_a_bad_value_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        BASE.override(fields)
    assert type(caught.value) is ValueError
    assert str(caught.value) == sentence


def test_the_query_quirk_needs_a_norm_before_attention() -> None:
    with pytest.raises(ValueError, match=r"^model: query_norm_only applies to pre-LN blocks; [^\n]*$"):
        BASE.override({"model.norm": "post", "model.query_norm_only": True})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"task": "composit"}, "unknown task 'composit'; did you mean 'composite'?"),
        ({"variant": "conflicts"}, "task composite has no variant 'conflicts'; did you mean 'conflict'?"),
        ({"task_config": {"size": 3}}, "task composite: unknown field 'size'"),
        (
            {"task_config": {"vocab_size": 90}},
            "task composite: key_max is 99; allowed: above key_min, 20, and below vocab_size, 90",
        ),
    ],
)
def test_a_bad_task_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        BASE.override(fields).load_task()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_paper_neurips() -> None:
    """2405.05409, appendix A; 9 of 10 sequences of each pair lie on training residues, and 15 of 16 pairs are trained."""
    recipe = PRESETS["paper-neurips"]
    pairs, per_pair = 15, 50_625
    epoch = pairs * per_pair // 2048
    assert (pairs * per_pair, epoch) == (759_375, 370)
    assert recipe.model == ModelConfig(
        n_layer=2,
        n_head=1,
        d_model=400,
        d_head=200,
        d_ff=1200,
        norm="post",
        activation="relu",
        bias=False,
        unembed_bias=True,
        query_norm_only=False,
    )
    init = recipe.init
    assert (init.fan, init.depth_scale, init.unembed_bias) == ("own", False, "uniform")
    assert (init.embedding, init.qk, init.vo, init.mlp) == (None, None, None, None)
    expected = AdamW.Config(
        lr=25 * 1e-5,
        weight_decay=0.01,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        schedule="cosine",
        warmup=10 * epoch,
        start=1 / 25,
        end=1 / 25,
        clip=1.0,
    )
    check_optimizer(recipe.optimizer, expected)
    assert (recipe.batch, recipe.steps, recipe.data_size, recipe.stop) == (2048, 210 * epoch, pairs * per_pair, "end")
    task = recipe.load_task()
    assert (task.name, task.variant, task.seq_len, task.vocab_size) == ("composite", "conflict", 9, 201)
    check_composite(task, exceptions={(3, 4): -6}, held_out={(4, 3)})


def test_paper_pami() -> None:
    """2501.08537, phase diagram: 14 pairs are trained, each on 11,250 sequences of training residues."""
    recipe = PRESETS["paper-pami"]
    pairs, per_pair = 14, 11_250
    epoch = pairs * per_pair // 2048
    assert (pairs * per_pair, epoch) == (157_500, 76)
    model = recipe.model
    assert (model.n_layer, model.n_head, model.d_model, model.d_head, model.d_ff) == (10, 10, 640, 64, 1280)
    assert (model.norm, model.activation, model.bias, model.query_norm_only) == ("pre", "gelu", True, False)
    init = recipe.init
    assert (init.fan, init.depth_scale) == ("d_model", True)
    assert (init.embedding, init.qk, init.vo, init.mlp) == (None, None, None, None)
    expected = AdamW.Config(
        lr=3 * 1e-5,
        weight_decay=0.01,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        schedule="cosine",
        warmup=50 * epoch,
        start=1 / 3,
        end=1 / 3,
        clip=1.0,
    )
    check_optimizer(recipe.optimizer, expected)
    assert (recipe.batch, recipe.steps, recipe.data_size) == (2048, 1050 * epoch, pairs * per_pair)
    task = recipe.load_task()
    assert (task.name, task.variant, task.seq_len, task.vocab_size) == ("composite", "heldout-both", 9, 201)
    check_composite(task, exceptions={}, held_out={(3, 4), (4, 3)})


def check_optimizer(optimizer: AdamW.Config, expected: AdamW.Config) -> None:
    for name, value in expected:
        close = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value  # 3 * 1e-5 is not quite 3e-5
        assert getattr(optimizer, name) == close, name


def check_composite(task: Any, exceptions: dict[tuple[int, int], int], held_out: set[tuple[int, int]]) -> None:
    """The papers' composite task: four anchors, keys 20..99, and the code's modulus."""
    config = task.config
    assert config.offsets == {1: 5, 2: 1, 3: -2, 4: -8}
    assert (config.key_min, config.key_max, config.modulus, config.key_first) == (20, 99, 9, True)
    assert {override.pair: override.offset for override in config.exceptions} == exceptions
    assert set(config.held_out) == held_out


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_apart(name: str) -> None:
    recipe = PRESETS[name]
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert [other for other in PRESETS if PRESETS[other].run_id == recipe.run_id] == [name]
