"""Recipes: types, overrides, files."""

import dataclasses

import pytest

from tfdeit.augmentation.recipe import RECIPES as AUGMENTATIONS
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_holds_all_of_a_recipe(name, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPES[name].to_toml())
    assert TrainRecipe.from_toml(file) == RECIPES[name] == find_recipe(file)


def test_the_pretraining_augments_as_the_published_recipes():
    for name, other in (("deit_pretrain", "deit"), ("deit3_pretrain", "deit3")):
        for field in dataclasses.fields(AUGMENTATIONS[other]):
            expected = getattr(AUGMENTATIONS[other], field.name)
            assert getattr(RECIPES[name], field.name) == expected, field.name


def test_facebooks_learning_rates():
    assert RECIPES["deit_pretrain"].peak_lr == pytest.approx(1e-3)
    assert RECIPES["deit_finetune_384"].peak_lr == pytest.approx(5e-6)
    assert RECIPES["deit3_pretrain"].peak_lr == pytest.approx(4e-3)


def test_override():
    recipe = TrainRecipe().override("lr=1e-4", "epochs=3", "auto_augment=none", "scale=[0.5, 1]", "jit=false")
    recipe = recipe.override("distillation=hard", "image_size=384", "clip=1")
    assert recipe.differences(TrainRecipe()) == [
        "scale=(0.08, 1.0), not (0.5, 1.0)",
        "auto_augment='rand-m9-mstd0.5-inc1', not None",
        "image_size=None, not 384",
        "epochs=300, not 3",
        "distillation='none', not 'hard'",
        "lr=0.0005, not 0.0001",
        "clip=0.0, not 1.0",
        "jit=True, not False",
    ]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("learning_rate=1", "Received: 'learning_rate'"),
        ("epoch=1", "Did you mean 'epochs'?"),
        ("epochs", "Expected FIELD=VALUE"),
        ("epochs=many", "Expected epochs to be int. Received: epochs='many'"),
        ("epochs=1.5", "Expected epochs to be int"),
        ("epochs=0", "Expected epochs to be above 0"),
        ("lr=NaN", "Expected lr to be float"),
        ("lr=true", "Expected lr to be float"),
        ("scale=[1]", "Expected scale to be"),
        ("distillation=harder", "'none' or 'hard' or 'soft'"),
        ("ema=1", r"in \[0, 1\)"),
        ("accumulation=3", "divide batch_size=1024"),
        ("jit=1", "true or false"),
    ],
)
def test_what_cannot_be(assignment, message):
    with pytest.raises(ValueError, match=message):
        TrainRecipe().override(assignment)


def test_unknown_names_and_bad_files(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'finetune'"):
        find_recipe("fintune")
    (tmp_path / "bad.toml").write_text("lr = ")
    with pytest.raises(ValueError, match="Expected TOML"):
        find_recipe(tmp_path / "bad.toml")
