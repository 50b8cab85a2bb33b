"""A space made to fit a corpus and a user's wishes."""

from pathlib import Path

import pytest

import spaces
from search import adapt
from spaces.domains import Choice, Float, Int, Space
from tests.search.conftest import SPACE
from trainables.errors import UserError


def domain(space: Space, name: str) -> object:
    return next(param.domain for param in space.params if param.name == name)


@pytest.mark.parametrize(("clip_seconds", "high"), [(0.25, 1), (1.4, 1), (2.0, 2), (3.6, 4), (4.0, 4), (30.0, 4)])
def test_no_more_seconds_than_the_corpus_has(clip_seconds: float, high: int) -> None:
    assert domain(adapt.fitted(spaces.load("blstm"), clip_seconds), "seconds") == Int(1, high)


@pytest.mark.parametrize("family", ["lstm", "blstm", "cnn1d"])
def test_published_recipes_look_at_the_beginning_of_long_clips_too(family: str) -> None:
    """They are exact on any corpus; only what is sampled follows the corpus."""
    space = adapt.fitted(spaces.load(family), 30.0)
    assert space.settings["excerpt"] == "segments"
    assert [baseline.settings["excerpt"] for baseline in space.baselines] == ["first"] * len(space.baselines)


@pytest.mark.parametrize(("clip_seconds", "excerpt"), [(4.0, "first"), (7.9, "first"), (8.0, "segments")])
def test_long_clips_are_cut_into_segments(clip_seconds: float, excerpt: str) -> None:
    assert adapt.fitted(spaces.load("blstm"), clip_seconds).settings["excerpt"] == excerpt


def test_a_space_without_seconds_stays_as_it_is() -> None:
    assert adapt.fitted(SPACE, 1.0) == SPACE


def test_values_and_ranges() -> None:
    assert domain(adapt.fixed(SPACE, ("kind=b",)), "kind") == Choice(("b",))
    assert domain(adapt.fixed(SPACE, ("x=0.25,0.5",)), "x") == Choice((0.25, 0.5))
    assert domain(adapt.fixed(SPACE, ("x=0.25..0.5",)), "x") == Float(0.25, 0.5)
    blstm = adapt.fixed(spaces.load("blstm"), ("width_1=64..128", "batch_size=64, 128"))
    assert domain(blstm, "width_1") == Int(64, 128, step=32)
    assert domain(blstm, "batch_size") == Choice((64, 128))


@pytest.mark.parametrize(
    ("family", "wish", "expected"),
    [
        ("cnn2d", "picture_size=33..100", Choice((48, 64, 96))),
        ("cnn2d", "mixup=0", Choice((0.0,))),
        ("cnn2d", "mixup=0..0.3", Choice((0.0, 0.2))),
        ("cnn2d", "rotation=5.0", Choice((5,))),
        ("lstm", "seconds=1.0", Choice((1,))),
        ("lstm", "seconds=2.0..3", Int(2, 3)),
        ("lstm", "learning_rate=1e-3..0.01", Float(1e-3, 0.01, log=True)),
    ],
)
def test_numbers_are_meant_as_the_range_has_them(family: str, wish: str, expected: object) -> None:
    found = domain(adapt.fixed(spaces.load(family), (wish,)), wish.partition("=")[0])
    assert repr(found) == repr(expected)


def test_published_recipes_and_the_default_move_and_say_so() -> None:
    moved = adapt.fixed(SPACE, ("x=0.5..0.6", "kind=b"))
    assert moved.default == {"x": 0.6, "kind": "b", "y": 0.5}
    baseline = moved.baselines[0]
    assert baseline.params == {"x": 0.5, "kind": "b", "y": 0.0}
    assert baseline.changes == ("x 0.25 → 0.5", "kind a → b")
    assert baseline.trainable_parameters is None
    assert moved.why_outside(baseline.params) is None
    assert Space.from_json(moved.to_json()) == moved


def test_a_whole_number_is_the_real_one_that_a_recipe_has() -> None:
    space = spaces.load("lstm")
    kept = adapt.fixed(space, ("dropout=0",))
    recipe, same = (next(b for b in found.baselines if b.name == "lstm-2018") for found in (space, kept))
    assert recipe.params["dropout"] == 0.0 and same == recipe
    with pytest.raises(UserError, match=r"range of layers, .* asks for inf"):
        adapt.fixed(space, ("layers=1e999",))


def test_what_fits_already_stays_exact() -> None:
    kept = adapt.fixed(SPACE, ("x=0.2..0.8",))
    assert kept.baselines == SPACE.baselines
    assert kept.default == SPACE.default


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("z=1", r"one of kind, x, y, not 'z'"),
        ("kidn=b", r"Did you mean kind\?"),
        ("", "one of kind, x, y"),
        ("x=2", r"range of x, 0 … 1, but 'x=2' asks for 2"),
        ("x=a", r"asks for 'a'"),
        ("x=0.5..0.2", "LOW..HIGH with two numbers in this order"),
        ("x=0.5..2", "range of x, 0 … 1, but 'x=0.5..2' leaves it"),
        ("kind=a..b", "LOW..HIGH with two numbers"),
        ("x=0.1..", "LOW..HIGH with two numbers"),
        ("x=1_0", "asks for '1_0'"),
        ("picture_size=64", "picture_size belongs to cnn2d, googlenet, resnet50, vgg16"),
        ("x=", "asks for ''"),
        ("kind=c", r"range of kind, a \| b"),
    ],
)
def test_wishes_that_cannot_be(wish: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapt.fixed(SPACE, (wish,))


# --- initial weights ---------------------------------------------------------------------------


def test_families_without_a_pretrained_network_stay_as_they_are() -> None:
    assert adapt.weighted(SPACE, "") is SPACE


@pytest.mark.parametrize("family", ["vgg16", "googlenet", "resnet50"])
def test_without_weights_a_network_trains_from_scratch_and_its_recipes_say_so(family: str) -> None:
    """A frozen body of random weights would be neither the published recipe nor training from scratch."""
    space = adapt.weighted(spaces.load(family), "none")
    assert space.settings["weights_file"] == ""
    assert domain(space, "frozen_stages") == Choice((0,))
    for baseline in space.baselines:
        assert baseline.params["frozen_stages"] == 0
        assert baseline.params["body_rate_factor"] == 1.0, "nothing was learnt before that should change slowly"
        assert baseline.changes == ("frozen_stages 5 → 0", "weights ImageNet → random")
        assert space.why_outside(baseline.params) is None
    assert space.why_outside(space.default) is None
    assert space.default["body_rate_factor"] == 1.0
    for wish, words in (("frozen_stages=2", "frozen_stages must be 0"), ("body_rate_factor=0.1", "factor must be 1,")):
        with pytest.raises(UserError, match=f"--weights none trains from scratch, so .*{words}"):
            adapt.weighted(adapt.fixed(spaces.load(family), (wish,)), "none")


def test_a_weights_file_is_named_with_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    torch = pytest.importorskip("torch")
    path = tmp_path / "resnet.pth"
    torch.save(models.resnet50(weights=None).state_dict(), path)
    space = adapt.weighted(spaces.load("resnet50"), str(path))
    assert space.settings["weights_file"] == str(path)
    assert len(str(space.settings["weights_digest"])) >= 12
    (recipe,) = space.baselines
    assert recipe.changes == ("weights ImageNet → resnet.pth",)
    monkeypatch.setattr("trainables.weights.is_imagenet", lambda digest, architecture: True)
    assert adapt.weighted(spaces.load("resnet50"), str(path)).baselines == spaces.load("resnet50").baselines
    with pytest.raises(UserError, match="vgg16"):
        adapt.weighted(spaces.load("vgg16"), str(path))
