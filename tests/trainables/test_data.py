"""A corpus as the networks see it: the same tensors whether they are kept or computed for every batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables import corpora, data, shelf
from trainables.config import DataConfig
from trainables.corpora.splits import SPLITS
from trainables.errors import UserError
from trainables.features.picture import Picture
from trainables.features.waveform import Waveform

CPU = torch.device("cpu")
HOW = Waveform(seconds=0.2, pool=4, frame_ms=30, normalise="peak")
SHAPE = (6, 120)


def force_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_free_memory", lambda device: 0)


def resident(part: data.Part) -> bool:
    """Whether two fetches of one clip need the store only once: a resident tensor does not change with it."""
    return part.fetch.__closure__ is not None and any(
        isinstance(cell.cell_contents, torch.Tensor) for cell in part.fetch.__closure__
    )


@pytest.mark.parametrize("chunk", [512, 5])
@pytest.mark.parametrize("name", SPLITS)
def test_resident_and_streamed_inputs_are_equal(
    corpus_config: DataConfig, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int
) -> None:
    monkeypatch.setattr(data, "_CHUNK_BYTES", 4 * 3_200 * chunk)
    dataset = data.load(corpus_config)
    kept = data.part(dataset, name, HOW, CPU)
    force_streaming(monkeypatch)
    streamed = data.part(dataset, name, HOW, CPU)
    assert resident(kept) and not resident(streamed)
    assert torch.equal(kept.labels, streamed.labels)
    positions = torch.arange(len(kept.labels))
    for batch in (positions, positions.flip(0), positions[::2], positions[[0, 0]]):
        left, right = kept.fetch(batch), streamed.fetch(batch)
        assert left.shape == (len(batch), *SHAPE)
        assert left.dtype == right.dtype == torch.float32
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", SPLITS)
def test_inputs_are_the_frames_of_the_splits_clips(corpus_config: DataConfig, name: str) -> None:
    dataset = data.load(corpus_config)
    part, clips, rate_hz = data.part(dataset, name, HOW, CPU), dataset.store.clips, dataset.store.sample_rate_hz
    rows = dataset.split.rows[name]
    inputs = part.fetch(torch.arange(len(rows)))
    for position, row in enumerate(rows):
        start = clips["offset"][row]
        samples = np.array(dataset.store.samples[start : start + int(0.2 * rate_hz)], dtype=np.float32) / 2**15
        expected = HOW.prepare(torch.from_numpy(samples)[None], rate_hz)[0]
        torch.testing.assert_close(inputs[position], expected)
        assert dataset.split.classes[part.labels[position]] == clips["family"][row]


def test_segments_are_cut_from_each_clip_and_scored_together(corpus_config: DataConfig) -> None:
    """The clips last a quarter of a second: two and a half tenths, of which the half is left out."""
    dataset = data.load(corpus_config)
    how = replace(HOW, seconds=0.1, excerpt="segments")
    part, rows = data.part(dataset, "tune", how, CPU), dataset.split.rows["tune"]
    assert part.clips is not None
    assert part.clips.tolist() == [n for n in range(len(rows)) for _ in range(2)]
    assert part.labels.tolist() == [dataset.split.labels[row] for row in rows for _ in range(2)]
    inputs = part.fetch(torch.arange(len(part.labels)))
    waveforms = dataset.store.waveforms(rows, 0.2).reshape(-1, 1_600)
    torch.testing.assert_close(inputs, how.prepare(torch.from_numpy(waveforms), 16_000))


def test_a_clip_shorter_than_a_segment_gives_one(corpus_config: DataConfig) -> None:
    dataset = data.load(corpus_config)
    part = data.part(dataset, "tune", replace(HOW, seconds=1, excerpt="segments"), CPU)
    assert part.clips is not None
    assert part.clips.tolist() == list(range(9))


def test_whole_clips_are_as_long_as_the_longest(corpus_config: DataConfig) -> None:
    dataset = data.load(corpus_config)
    how = replace(HOW, excerpt="whole", frame_ms=0, pool=1)
    assert dataset.store.clip_seconds == 0.25
    assert data.input_shape(dataset, how) == (1, 4_000)
    assert data.part(dataset, "test", how, CPU).fetch(torch.arange(2)).shape == (2, 1, 4_000)


@pytest.mark.parametrize(("shape", "batch"), [((100, 160), 512), ((3, 512, 512), 21), ((1, 10**9), 1)])
def test_scoring_takes_as_many_examples_as_fit_64_mb(shape: tuple[int, ...], batch: int) -> None:
    assert data.evaluation_batch(shape) == batch


def test_pictures_of_all_colours_are_prepared_once(
    corpus_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = data.load(corpus_config)
    monkeypatch.setattr(shelf, "cache_folder", lambda: tmp_path)
    how = Picture(
        excerpt="first",
        seconds=0.2,
        frame_samples=256,
        hop_samples=128,
        frequency="mel",
        log=True,
        colour="none",
        size=8,
    )
    some = torch.arange(3)
    grey = data.part(dataset, "tune", how, CPU, shared=True).fetch(some)
    coloured = replace(how, colour="viridis")
    found = data.part(dataset, "tune", coloured, CPU, shared=True).fetch(some)
    assert len(list((tmp_path / "prepared").glob("*.npy"))) == 1
    assert grey.shape == (3, 1, 8, 8)
    assert torch.equal(found, data.part(dataset, "tune", coloured, CPU).fetch(some))
    data.part(dataset, "tune", replace(how, log=False), CPU, shared=True)
    assert len(list((tmp_path / "prepared").glob("*.npy"))) == 2
    with pytest.raises(UserError, match="colour"):
        data.part(dataset, "tune", replace(how, colour="no such map"), CPU, shared=True).fetch(some)


@pytest.mark.parametrize(("spare", "kept"), [(0, True), (-1, False)])
def test_inputs_stay_if_they_fit_in_a_quarter_of_the_free_memory(
    corpus_config: DataConfig, monkeypatch: pytest.MonkeyPatch, spare: int, kept: bool
) -> None:
    dataset = data.load(corpus_config)
    needed = 4 * len(dataset.split.rows["test"]) * SHAPE[0] * SHAPE[1]
    monkeypatch.setattr(data, "_free_memory", lambda device: 4 * (needed + spare))
    assert resident(data.part(dataset, "test", HOW, CPU)) == kept


@pytest.mark.parametrize(("spare", "kept"), [(0, {"train": True, "tune": True}), (-1, {"train": False, "tune": True})])
def test_inputs_of_a_trial_stay_if_half_of_what_training_leaves_holds_them(
    corpus_config: DataConfig, spare: int, kept: dict[str, bool]
) -> None:
    largest = 4 * 27 * SHAPE[0] * SHAPE[1]
    found = data.trial_data(corpus_config, HOW, CPU, 2 * (largest + spare))
    assert {name: resident(part) for name, part in found.parts.items()} == kept


def test_trials_with_less_or_more_room_share_inputs_where_the_same_stay(corpus_config: DataConfig) -> None:
    roomy = data.trial_data(corpus_config, HOW, CPU, 10**9)
    assert data.trial_data(corpus_config, HOW, CPU, 10**8) is roomy
    cramped = data.trial_data(corpus_config, HOW, CPU, 0)
    assert not any(resident(part) for part in cramped.parts.values())
    positions = torch.arange(27)
    assert torch.equal(cramped.parts["train"].fetch(positions), roomy.parts["train"].fetch(positions))
    assert [key[-1] for key in data._kept] == [()], "never both at a time"


def test_inputs_of_another_trial_are_let_go(corpus_config: DataConfig) -> None:
    first = data.trial_data(corpus_config, HOW, CPU)
    data.release(replace(corpus_config), replace(HOW))
    assert data.trial_data(corpus_config, HOW, CPU) is first
    data.release(corpus_config, replace(HOW, pool=2))
    assert not data._kept


def test_free_memory_is_what_the_machine_has_to_give() -> None:
    total = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line))
    assert 2**20 < data._free_memory(CPU) < 1024 * total


def test_a_trial_gets_train_and_tune_and_never_valid_or_test(corpus_config: DataConfig) -> None:
    found = data.trial_data(corpus_config, HOW, CPU)
    assert set(found.parts) == {"train", "tune"}
    assert (found.input_shape, found.n_classes, found.device) == (SHAPE, 3, CPU)
    assert {name: len(part.labels) for name, part in found.parts.items()} == {"train": 27, "tune": 9}


def test_equal_trials_share_their_inputs_and_others_do_not(corpus_config: DataConfig) -> None:
    first = data.trial_data(corpus_config, HOW, CPU)
    assert data.trial_data(replace(corpus_config), replace(HOW), CPU) is first
    plain = data.trial_data(corpus_config, replace(HOW, normalise="none"), CPU)
    position = torch.tensor([0])
    assert not torch.equal(plain.parts["train"].fetch(position), first.parts["train"].fetch(position))
    assert first.parts["train"].fetch(position).abs().max() <= 1


def test_the_split_follows_the_seed_of_the_configuration(corpus_config: DataConfig) -> None:
    tuned = set()
    for seed in range(6):
        split = data.load(replace(corpus_config, split_seed=seed)).split
        tuned.add(frozenset(split.groups[split.rows["tune"]]))
    assert len(tuned) > 1


def test_the_corpus_is_looked_through_once_for_all_trials(
    corpus_config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load(corpus_config)
    monkeypatch.setattr(corpora, "open_corpus", None)
    assert data.load(replace(corpus_config)) is first


def test_a_corpus_that_changed_is_refused(corpus_config: DataConfig) -> None:
    with pytest.raises(UserError, match=r"has changed since it began .*was ffffffffffff\)"):
        data.load(replace(corpus_config, digest="f" * 64))


def test_an_unknown_corpus_is_refused() -> None:
    with pytest.raises(UserError, match="must be one of demo, "):
        corpora.open_corpus("librispeech")


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert data.choose_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.choose_device().type == "cuda"


def test_shared_inputs_are_prepared_once_for_all_processes(
    corpus_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = data.trial_data(corpus_config, HOW, CPU)
    data._kept.clear()  # as another process
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    prepare, calls = Waveform.prepare, []
    monkeypatch.setattr(Waveform, "prepare", lambda *given: calls.append(1) or prepare(*given))
    for _ in range(2):
        found = data.trial_data(corpus_config, HOW, CPU, shared=True)
        for name, part in found.parts.items():
            assert resident(part) and torch.equal(part.labels, own.parts[name].labels)
            positions = torch.arange(len(part.labels))
            assert torch.equal(part.fetch(positions), own.parts[name].fetch(positions))
        data._kept.clear()
    assert len(calls) == 2, "one for each split"
    for other in (replace(HOW, pool=2), replace(HOW, seconds=0.3), replace(HOW, excerpt="segments")):
        before = len(calls)
        data.trial_data(corpus_config, other, CPU, shared=True)
        assert len(calls) == before + 2


def test_another_split_has_inputs_of_its_own(
    corpus_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = data.load(corpus_config)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    rows = dict(dataset.split.rows)
    other = replace(dataset, split=replace(dataset.split, rows={**rows, "train": rows["train"][::-1]}))
    last = torch.tensor([len(rows["train"]) - 1])
    first = data.part(dataset, "train", HOW, CPU, shared=True).fetch(last)
    assert torch.equal(data.part(other, "train", HOW, CPU, shared=True).fetch(torch.tensor([0])), first)


def test_no_room_for_shared_inputs_means_computing_them_for_every_batch(
    corpus_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    found = data.trial_data(corpus_config, HOW, CPU, 0, shared=True)
    assert not any(resident(part) for part in found.parts.values())
    assert not list(tmp_path.rglob("*.npy"))
