"""Predictions of a trained model, and the numbers made of them, against scikit-learn and by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from trainables import checkpoint, data, evaluate, loop, scoring
from trainables.config import DataConfig, TrialConfig
from trainables.files import BEST_WEIGHTS

CLASSES = ("bass", "organ", "reed")  # those of the tiny corpus


def table(true: list[str], predicted: list[str], group: list[str], split: str = "test") -> pd.DataFrame:
    """Predictions that are sure of themselves, as `predict` gives them."""
    frame = pd.DataFrame(
        {"name": range(len(true)), "split": split, "group": group, "true": true, "predicted": predicted}
    )
    return frame.assign(**{f"p_{name}": np.where(frame["predicted"] == name, 0.9, 0.05) for name in CLASSES})


def random_table(seed: int, clips: int = 60, classes: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, clips)
    chances = rng.dirichlet(np.ones(3), clips) + 0.3 * np.eye(3)[true]
    chances /= chances.sum(axis=1, keepdims=True)
    names = np.array(CLASSES, dtype=object)
    return pd.DataFrame(
        {
            "name": [f"clip {n}" for n in range(clips)],
            "split": "tune",
            "group": [f"{names[label]} {rng.integers(4)}" for label in true],
            "true": names[true],
            "predicted": names[chances.argmax(1)],
            **{f"p_{name}": chances[:, n] for n, name in enumerate(CLASSES)},
        }
    )


# --- summaries ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(("seed", "classes"), [(0, 3), (1, 3), (2, 2), (3, 2)])
def test_scores_agree_with_scikit_learn(seed: int, classes: int) -> None:
    """Also where a class of the model does not occur in the split."""
    predictions = random_table(seed, classes=classes)
    true, predicted = predictions["true"], predictions["predicted"]
    found = scoring.summarise(predictions)["tune"]
    chances = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    f1 = sklearn_metrics.f1_score(true, predicted, labels=sorted(set(true)), average="macro", zero_division=0)
    assert found["clips"] == 60
    assert found["groups"] == len(set(predictions["group"]))
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(true, predicted))
    assert found["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(true, predicted))
    assert found["macro_f1"] == pytest.approx(f1)
    assert found["cross_entropy"] == pytest.approx(sklearn_metrics.log_loss(true, chances, labels=list(CLASSES)))
    low, high = found["balanced_accuracy_interval"]
    assert low <= found["balanced_accuracy"] <= high
    assert 0.05 < high - low < 0.6


def test_splits_are_summarised_apart_in_their_order() -> None:
    valid, test = random_table(0).assign(split="valid"), random_table(1).assign(split="test")
    both = scoring.summarise(pd.concat([valid, test], ignore_index=True))
    assert list(both) == ["valid", "test"]
    assert both == {**scoring.summarise(valid), **scoring.summarise(test)}


def test_a_chance_of_zero_for_the_truth_costs_much_but_not_infinitely_much() -> None:
    predictions = table(["bass"], ["organ"], ["a"]).assign(p_bass=0.0)
    assert 80 < scoring.summarise(predictions)["test"]["cross_entropy"] < 90


# --- intervals ---------------------------------------------------------------------------------


def test_the_interval_by_hand() -> None:
    """Bass has one instrument all right and one all wrong, reed one all right: 0.5, 0.75, 1 by 1 : 2 : 1."""
    true = ["bass"] * 6 + ["reed"] * 2
    predicted = ["bass"] * 3 + ["organ"] * 3 + ["reed"] * 2
    groups = ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    found = scoring.summarise(table(true, predicted, groups))["test"]
    assert found["balanced_accuracy"] == 0.75
    assert found["balanced_accuracy_interval"] == [0.5, 1.0]


def test_the_interval_by_instrument_is_wider_than_one_by_clip() -> None:
    """Ten instruments a class with ten clips each, all of an instrument right or all wrong.

    Then 100 clips a class say as much as 10, and the interval is wider by the root of 10, about 3.2.
    """
    true = [name for name in CLASSES for _ in range(100)]
    groups = [f"{name} {n // 10}" for name in CLASSES for n in range(100)]
    right = [int(group[-1]) < 6 for group in groups]
    predicted = [t if ok else CLASSES[CLASSES.index(t) - 1] for t, ok in zip(true, right, strict=True)]
    by_group = table(true, predicted, groups)
    by_clip = by_group.assign(group=[str(n) for n in range(300)])
    widths = []
    for predictions in (by_group, by_clip):
        low, high = scoring.summarise(predictions)["test"]["balanced_accuracy_interval"]
        assert low < 0.6 < high
        widths.append(high - low)
    assert 2.6 < widths[0] / widths[1] < 3.8
    # The binomial standard error of 10 instruments in each of 3 classes, times 2 · 1.96.
    assert widths[0] == pytest.approx(2 * 1.96 * (0.6 * 0.4 / 30) ** 0.5, rel=0.1)


def test_the_interval_depends_on_the_seed_alone() -> None:
    predictions = random_table(5)
    first, again, other = (scoring.summarise(predictions, seed)["tune"] for seed in (0, 0, 1))
    assert first == again
    assert other["balanced_accuracy_interval"] != first["balanced_accuracy_interval"]
    shuffled = predictions.sample(frac=1, random_state=0)
    assert scoring.summarise(shuffled)["tune"]["balanced_accuracy_interval"] == first["balanced_accuracy_interval"]


def test_perfect_predictions_have_an_interval_without_width_and_a_single_instrument_has_some() -> None:
    perfect = table(["bass", "reed"] * 5, ["bass", "reed"] * 5, [f"g{n % 4}" for n in range(10)])
    assert scoring.summarise(perfect)["test"]["balanced_accuracy_interval"] == [1.0, 1.0]
    single = table(["bass"] * 4, ["bass", "bass", "bass", "organ"], ["a"] * 4)
    low, high = scoring.summarise(single)["test"]["balanced_accuracy_interval"]
    assert low < 0.75 < high


def test_a_class_with_a_single_clip_leaves_no_interval() -> None:
    """Resampling one clip of one class gives that clip, and an interval without width would promise too much."""
    one = table(["bass", "organ", "organ"], ["bass", "organ", "organ"], ["a", "b", "c"])
    other = table(["bass", "organ", "organ"], ["organ", "organ", "organ"], ["a", "b", "c"])
    assert scoring.summarise(one)["test"]["balanced_accuracy_interval"] is None
    assert scoring.difference(one, other, "test") == {"difference": 0.5, "interval": None, "groups": 3}


def test_groups_with_clips_of_several_classes_are_drawn_from_among_all_of_them() -> None:
    """Speakers who say all words: each is missing in about (1 - 1/6)^6 = 0.33 of the resamples, whatever they say most.

    Those that speak one of the other words alone are drawn among themselves, so that no word is ever missing.
    """
    speakers = [f"s{n}" for n in range(6)]
    groups, true = [], []
    for n, speaker in enumerate(speakers):
        for word in range(3):
            repeats = 4 if word == n % 3 else 2
            groups += [speaker] * repeats
            true += [word] * repeats
    groups += ["t0"] * 4 + ["t1"] * 4
    true += [3] * 8
    names = np.array(groups)
    drawn = [set(names[rows]) for rows in scoring.resamples(np.array(true), names, seed=0)]
    for speaker in speakers:
        assert 0.29 < np.mean([speaker not in found for found in drawn]) < 0.38
    assert all({"t0", "t1"} & found for found in drawn)
    assert 0.45 < np.mean([{"t0", "t1"} <= found for found in drawn]) < 0.55


def test_no_resample_lacks_a_class_that_one_clip_joins_to_another() -> None:
    """A has one group, in which a clip of B stands; drawn from among all, a third of the resamples would have no A."""
    true = np.array([0] * 6 + [1] + [1] * 60)
    groups = np.array(["a"] * 7 + [f"b{n // 6}" for n in range(60)])
    assert all(set(true[rows]) == {0, 1} for rows in scoring.resamples(true, groups, seed=0))


def test_an_interval_knows_how_much_speakers_differ() -> None:
    """Five of ten speakers are always understood, five never, each saying two words, most of them the one."""
    true = ["bass", "organ", "organ"] * 5 + ["bass", "bass", "organ"] * 5
    groups = [f"s{n}" for n in range(10) for _ in range(3)]
    right = [n in (0, 1, 2, 3, 4) for n in range(10) for _ in range(3)]
    said = [t if r else {"bass": "organ", "organ": "bass"}[t] for t, r in zip(true, right, strict=True)]
    low, high = scoring.summarise(table(true, said, groups))["test"]["balanced_accuracy_interval"]
    assert low < 0.25
    assert high > 0.75


def test_the_difference_of_two_models_is_paired() -> None:
    """Both right on the same 60 clips, one also on 12 more: its lead is certain though either score is not."""
    true = [name for name in CLASSES for _ in range(30)]
    groups = [f"{name} {n // 5}" for name in CLASSES for n in range(30)]
    wrong = [CLASSES[CLASSES.index(t) - 1] for t in true]
    order = [n % 30 for n in range(90)]
    weak = table(true, [t if n % 5 < 3 else w for t, w, n in zip(true, wrong, order, strict=True)], groups)
    strong = table(true, [t if n % 5 < 4 else w for t, w, n in zip(true, wrong, order, strict=True)], groups)
    found = scoring.difference(strong, weak, "test")
    assert found["difference"] == pytest.approx(0.2)
    assert found["groups"] == 18
    low, high = found["interval"]
    assert 0.05 < low < 0.2 < high < 0.4
    back = scoring.difference(weak, strong, "test")
    assert back["interval"] == pytest.approx([-high, -low])
    assert scoring.difference(weak, weak, "test")["interval"] == [0.0, 0.0]
    shuffled = scoring.difference(strong, weak.sample(frac=1, random_state=1), "test")
    assert shuffled == found, "clips are matched by name"


# --- predictions -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [512, 5])
def test_predictions_of_a_model(
    corpus_config: DataConfig,
    tiny_config: Callable[..., TrialConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    """Name by name those of the model itself, dropout off, whatever the batches."""
    monkeypatch.setattr(data, "evaluation_batch", lambda shape: batch)
    config = tiny_config(data=corpus_config, dropout=0.5)
    dataset, rate_hz = data.load(corpus_config), 16_000
    model = loop.build(replace(config, seed=99), config.features.shape(rate_hz, 0.25), 3)
    checkpoint.save_weights(tmp_path, model.state_dict())
    found = evaluate.predict(config, tmp_path / BEST_WEIGHTS, ("valid", "test"))
    assert list(found.columns) == ["name", "split", "group", "true", "predicted", "p_bass", "p_organ", "p_reed"]
    clips = dataset.store.clips[dataset.store.clips["split"] != "train"].set_index("name")
    assert found["split"].tolist() == ["valid"] * 12 + ["test"] * 12
    assert set(found["name"]) == set(clips.index) and len(found) == len(clips)
    chances = found[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    for number, row in enumerate(found.itertuples()):
        clip = clips.loc[row.name]
        assert (row.split, row.group, row.true) == (clip["split"], clip["group"], clip["family"])
        assert row.predicted == CLASSES[chances[number].argmax()]
        position = np.flatnonzero(dataset.store.clips["name"] == row.name)
        waveform = dataset.store.waveforms(position, config.features.seconds)
        inputs = config.features.prepare(torch.from_numpy(waveform), rate_hz)
        with torch.no_grad():
            expected = model.eval()(inputs).softmax(1)[0].numpy()
        np.testing.assert_allclose(chances[number], expected, rtol=1e-4)


def test_predictions_give_the_score_that_training_reported(
    corpus_config: DataConfig, tiny_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    config = tiny_config(data=corpus_config, dropout=0.2)
    inputs = data.trial_data(config.data, config.features, torch.device("cpu"))
    *_, last = loop.train(config, inputs, tmp_path)
    found = scoring.summarise(evaluate.predict(config, tmp_path / BEST_WEIGHTS, ("tune",)))["tune"]
    assert found["balanced_accuracy"] == pytest.approx(last.score)
    assert found["clips"] == len(inputs.parts["tune"].labels)


def test_probabilities_of_segments_are_averaged_per_clip(
    corpus_config: DataConfig, tiny_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    config = tiny_config(data=corpus_config)
    config = replace(config, features=replace(config.features, seconds=0.1, excerpt="segments"))
    inputs = data.trial_data(config.data, config.features, torch.device("cpu"))
    *_, last = loop.train(config, inputs, tmp_path)
    found = evaluate.predict(config, tmp_path / BEST_WEIGHTS, ("tune",))
    assert len(found) == 9
    model = loop.build(config, inputs.input_shape, 3)
    checkpoint.load_weights(tmp_path / BEST_WEIGHTS, model)
    with torch.no_grad():
        chances = model.eval()(inputs.parts["tune"].fetch(torch.arange(18))).softmax(1)
    expected = chances.reshape(9, 2, 3).mean(1).numpy()
    np.testing.assert_allclose(found[[f"p_{name}" for name in CLASSES]].to_numpy(), expected, rtol=1e-4)
    assert scoring.summarise(found)["tune"]["balanced_accuracy"] == pytest.approx(last.score)
