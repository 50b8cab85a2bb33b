"""A model as a study leaves it: a folder of safetensors and JSON that is all one needs to use it.

    model.safetensors      the weights of the best epoch
    config.json            the configuration, the classes, what the inputs were made of, the layers
    features.safetensors   of models on hand-crafted vectors: the scaling and projection fitted on training clips
    seen.safetensors       which recordings it was trained and chosen by, for whoever scores it on others

Nothing is unpickled, and no module is imported that a file names, unless it is one of the project's own.
"""

import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainables import checkpoint, data, loop, seen
from trainables.config import TrialConfig
from trainables.corpora.audio import FULL_SCALE, RATES_HZ, BadAudio, Decoded, Samples, convert, decode, read_file
from trainables.corpora.importer import cores
from trainables.corpora.splits import Rows
from trainables.errors import UserError
from trainables.evaluate import averaged
from trainables.features import EXCERPTS, KINDS, Features, excerpt_seconds, vector
from trainables.features.descriptors import BadClip
from trainables.features.picture import Picture
from trainables.features.vector import Fitted, Vector
from trainables.features.waveform import Waveform
from trainables.files import CONFIG, read_json, replace_file, write_json
from trainables.layers import layers
from trainables.retrain import find_config

WEIGHTS, FEATURES = "model.safetensors", "features.safetensors"
NOT_FINITE = "not finite: the model's answer holds NaN"
_KEYS = ("config", "classes", "sample_rate_hz", "clip_seconds", "input_shape", "layers")

# What wrong values in a `config.json` raise somewhere.
WRONG_VALUES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)

_MAX_FILE_BYTES = 2**30  # read at once; an hour and a half of stereo as CDs have it
_MIN_SECONDS = 0.01
_NOISE_SECONDS = 0.2
_MAX_SAMPLES = 2**28  # of an excerpt: four hours at 16 kHz, a gigabyte
_MAX_PIXELS = 2048  # a picture's height and width
_MAX_FRAMES = 2**15  # of a picture's transform, and its bins: matrices as wide and as high shrink them
_MIN_SHARE = 0.1  # of a corpus of clicks, whose longest clip is hardly longer than that

Chances = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A trained network and what makes its inputs of recordings.

    `sample_rate_hz` is that of its corpus and `clip_seconds` the corpus' longest clip: of longer recordings the
    beginning is taken. `fitted` is None unless its inputs are vectors. `layers` are the records of `config.json`.
    """

    folder: Path
    config: TrialConfig
    classes: tuple[str, ...]
    sample_rate_hz: int
    clip_seconds: float
    input_shape: tuple[int, ...]
    layers: tuple[dict[str, Any], ...]
    network: nn.Module
    fitted: Fitted | None
    device: torch.device

    def read(self, path: Path) -> Decoded:
        """A sound file as the importer would decode it; raises BadAudio, which says why it cannot be used.

        Links are followed: whoever names a file here means what it leads to.
        """
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError for a circle of links
            raise BadAudio("cannot be read: a circle of links") from error
        content = read_file(target, (), max_bytes=_MAX_FILE_BYTES)
        mp3 = path.name.lower().endswith(".mp3")
        return self._long_enough(
            decode(content, sample_rate_hz=self.sample_rate_hz, max_seconds=self.clip_seconds, mp3=mp3)
        )

    def convert(self, waveform: npt.NDArray[Any], sample_rate_hz: int) -> Decoded:
        """A waveform `(samples,)` or `(samples, channels)`, int16 or float in [-1, 1], decoded in the same way."""
        frames = waveform[:, None] if waveform.ndim == 1 else waveform
        if frames.dtype != np.int16:
            assert np.issubdtype(frames.dtype, np.floating), "a waveform is int16 or floating"
            if not np.isfinite(frames).all():
                raise BadAudio("not finite: it holds NaN or infinite samples")
            frames = frames.astype(np.float32)
        if not frames.size:
            raise BadAudio("no samples: it is empty")
        found = convert(frames, sample_rate_hz, sample_rate_hz=self.sample_rate_hz, max_seconds=self.clip_seconds)
        return self._long_enough(found)

    def _long_enough(self, decoded: Decoded) -> Decoded:
        least = math.ceil(min(_MIN_SECONDS, _MIN_SHARE * self.clip_seconds) * self.sample_rate_hz)
        if len(decoded.samples) < least:
            raise BadAudio(f"too short: {len(decoded.samples)} samples at {self.sample_rate_hz} Hz, at least {least}")
        return decoded

    def probabilities(self, waveform: npt.NDArray[Any], sample_rate_hz: int) -> Chances:
        """The classes' probabilities `(classes,)` for a recording of any rate, length and channels; see `convert`."""
        found: Chances = self.chances([self.convert(waveform, sample_rate_hz).samples])[0]
        return found

    def chances(self, clips: Sequence[Samples]) -> Chances:
        """Probabilities `(clips, classes)` of clips at `sample_rate_hz`, none longer than `clip_seconds`.

        Raises BadAudio where one of them cannot be described, or has an answer that is not finite.
        """
        found, numbers = [], []
        with torch.inference_mode():
            for inputs, of_clips in self._inputs(clips):
                found.append(loop.forward(self.network, inputs).softmax(1))
                numbers.append(of_clips)
            chances: Chances = averaged(torch.cat(found), torch.cat(numbers), len(clips)).cpu().numpy()
        if not np.isfinite(chances).all():
            raise BadAudio(NOT_FINITE)
        return chances

    def chances_of_vectors(self, values: npt.NDArray[np.float32]) -> Chances:
        """Probabilities `(clips, classes)` of descriptors `(clips, names)`, as `vector.table` has them.

        They are NaN where an answer is not finite.
        """
        with torch.inference_mode():
            parts = [loop.forward(self.network, inputs).softmax(1) for inputs in self._scaled(values)]
            chances: Chances = torch.cat(parts).cpu().numpy()
        return chances

    def _inputs(self, clips: Sequence[Samples]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs `(examples, *input_shape)` in batches, and the number of the clip that each example is of."""
        how = self.config.features
        if isinstance(how, Vector):
            values = np.stack([self._described(clip) for clip in clips])
            numbers = torch.arange(len(clips), device=self.device)
            batches = list(self._scaled(values))
            yield from zip(batches, numbers.split([len(batch) for batch in batches]), strict=True)
            return
        size = round(excerpt_seconds(how, self.clip_seconds) * self.sample_rate_hz)
        of_clips, starts = data.places(np.array([len(clip) for clip in clips]), size, how)
        together = min(data.waveforms_at_once(size), data.evaluation_batch(self.input_shape))
        for first in range(0, len(of_clips), together):
            some = slice(first, first + together)
            waveforms = torch.from_numpy(_excerpts(clips, of_clips[some], starts[some], size)).to(self.device)
            kept = how.prepare(waveforms, self.sample_rate_hz)
            yield how.present(kept), torch.from_numpy(of_clips[some]).to(self.device)

    def _described(self, clip: Samples) -> npt.NDArray[np.float32]:
        try:
            return vector.of_clip(clip, self.sample_rate_hz, self.clip_seconds)
        except BadClip as error:
            raise BadAudio(f"no descriptors: {error.args[1]}") from error

    def _scaled(self, values: npt.NDArray[np.float32]) -> Iterator[Tensor]:
        how = self.config.features
        assert isinstance(how, Vector) and self.fitted is not None
        inputs = torch.from_numpy(self.fitted.apply(values[:, how.columns(vector.names(self.clip_seconds))]))
        for batch in inputs.split(data.evaluation_batch(self.input_shape)):
            yield batch.to(self.device)


def _excerpts(clips: Sequence[Samples], numbers: Rows, starts: Rows, size: int) -> npt.NDArray[np.float32]:
    """Excerpts `(examples, size)` in [-1, 1), with zeros after a clip's end, as `Store.waveforms` has them."""
    waves = np.zeros((len(numbers), size), dtype=np.float32)
    for wave, number, start in zip(waves, numbers, starts, strict=True):
        piece = clips[number][start : start + size]
        np.multiply(piece, np.float32(1 / FULL_SCALE), out=wave[: len(piece)])
    return waves


def save(folder: Path, config: TrialConfig, weights: Path) -> None:
    """Writes the files of a model whose corpus is at hand and whose weights lie in a file."""
    dataset = data.load(config.data)
    shape, classes = data.input_shape(dataset, config.features), dataset.split.classes
    if weights != folder / WEIGHTS:
        replace_file(folder / WEIGHTS, lambda path: shutil.copyfile(weights, path))
    if isinstance(config.features, Vector):
        data.fitted(dataset, config.features).save(folder / FEATURES)
    seen.save(folder, dataset.store, np.concatenate([dataset.rows("train"), dataset.rows("tune")]))
    record = {
        "config": config.to_json(),
        "classes": list(classes),
        "sample_rate_hz": dataset.store.sample_rate_hz,
        "clip_seconds": dataset.store.clip_seconds,
        "input_shape": list(shape),
        "layers": [asdict(layer) for layer in layers(config, shape, len(classes))],
    }
    write_json(folder / CONFIG, record)


def seconds_per_clip(model: SavedModel, dataset: data.Dataset, clips: int = 20) -> float:
    """The median time to answer a clip by itself, features included: what someone with one recording waits for.

    All models are given the same clips of the test split, or of training where that is empty. A batch would be faster,
    but then features that were computed for another model count for nothing in one and for everything in the other.
    """
    store = dataset.store
    samples = store.samples.view(np.ndarray)
    rows = dataset.rows("test") if len(dataset.rows("test")) else dataset.rows("train")
    places = store.clips[["offset", "samples"]].iloc[[rows[0], *rows[:clips]]]  # the first pays for what is made once
    taken = []
    for offset, length in places.itertuples(index=False):
        started = time.perf_counter()
        with suppress(BadAudio):
            model.chances([samples[offset : offset + length]])
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[1:]))


def whole(folder: Path, config: TrialConfig) -> bool:
    """Whether a folder holds all that `save` writes for a configuration; older studies wrote less."""
    files = [WEIGHTS, CONFIG, *([FEATURES] if isinstance(config.features, Vector) else [])]
    if not all((folder / name).is_file() for name in files):
        return False
    try:
        record = read_json(folder / CONFIG)
    except ValueError:
        return False
    return isinstance(record, dict) and all(key in record for key in _KEYS)


def load(place: Path, device: torch.device | None = None) -> SavedModel:
    """The model in its folder, or the chosen one of a study, by default on the GPU where there is one.

    Needs no corpus. From then on Torch works with as many threads as in training. Raises UserError for what is
    missing, damaged or of another format.
    """
    file = find_config(place)
    record = _record(file)
    device = device or data.choose_device()
    try:
        config = TrialConfig.from_json(record["config"])
        found = SavedModel(
            folder=file.parent,
            config=config,
            classes=_texts(record["classes"]),
            sample_rate_hz=int(record["sample_rate_hz"]),
            clip_seconds=float(record["clip_seconds"]),
            input_shape=tuple(int(size) for size in record["input_shape"]),
            layers=tuple(record["layers"]),
            network=_network(file.with_name(WEIGHTS), config, record).to(device).eval(),
            fitted=_fitted(file.with_name(FEATURES)) if isinstance(config.features, Vector) else None,
            device=device,
        )
        _check(found)
        # As in training: on busy cores several threads took 27 times as long for one clip after the other.
        torch.set_num_threads(max(1, min(config.threads, cores())))
        _try_out(found)
    except WRONG_VALUES as error:
        raise _not_whole(file, f"{type(error).__name__}: {error}") from error
    return found


def _try_out(found: SavedModel) -> None:
    """Classifies a short noise: what `config.json` says may be of the right form and still make no sense."""
    samples = math.ceil(min(_NOISE_SECONDS, found.clip_seconds) * found.sample_rate_hz)
    noise = np.random.default_rng(0).integers(-3000, 3000, samples).astype(np.int16)
    with np.errstate(all="ignore"), suppress(BadAudio):  # a verdict on the noise, which a recording may get too
        found.chances([noise])


def _record(file: Path) -> dict[str, Any]:
    """What `config.json` holds, checked for what is not to be tried out; raises UserError."""
    try:
        record = read_json(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}). Check the file.") from error
    except (ValueError, RecursionError) as error:
        raise _not_whole(file, str(error)) from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise _not_whole(file, "it holds no configuration")
    config = record["config"]
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise UserError(
            f"A model's {CONFIG} must say what its inputs are made of, but {file} lacks {', '.join(missing)}: it comes "
            f"from an older version. Finish its study again with search/run.py --resume, which adds that."
        )
    check_kinds(file, config)
    return record


def check_kinds(file: Path, config: dict[str, Any]) -> None:
    """Raises UserError unless a model's network and features are of kinds that the project has.

    Whoever can write a config.json must not decide what is imported.
    """
    network, how = str(config.get("network")), config.get("features")
    if not network.isidentifier() and network not in sys.modules:
        raise UserError(
            f"A model's network must be one of the project's own, but that of {file} is {network!r}. "
            f"In Python, import its module yourself and then load the model."
        )
    if not isinstance(how, dict) or how.get("kind") not in KINDS:
        raise _not_whole(file, f"its features are {how!r:.100}")


def _network(weights: Path, config: TrialConfig, record: dict[str, Any]) -> nn.Module:
    if not weights.is_file():
        raise UserError(f"A model's folder must hold {WEIGHTS}, but {weights.parent} does not. Give the whole folder.")
    plain, shape, classes = loop.without_initial_weights(config), tuple(record["input_shape"]), len(record["classes"])
    try:
        # Before anything is allocated: a line of JSON can ask for more memory than there is.
        with torch.device("meta"):
            wanted = {
                name: tuple(value.shape) for name, value in loop.build(plain, shape, classes).state_dict().items()
            }
        _check_shapes(weights, wanted)
        network = loop.build(plain, shape, classes)
        checkpoint.load_weights(weights, network)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _not_whole(weights, (str(error).splitlines() or [type(error).__name__])[0]) from error
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise _not_whole(weights, "some of its numbers are NaN or infinite")
    return network


def _check_shapes(weights: Path, wanted: dict[str, tuple[int, ...]]) -> None:
    """Raises UserError where a file's weights, of which only the names and shapes are read, are not those `wanted`."""
    with safe_open(weights, "np") as content:
        held = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    for name in sorted({*wanted, *held}):
        if held.get(name) != wanted.get(name):
            raise _not_whole(
                weights,
                f"{name} is {held.get(name, 'missing')}, where {CONFIG} makes it {wanted.get(name, 'no part')}",
            )


def _fitted(file: Path) -> Fitted:
    if not file.is_file():
        raise UserError(f"A model on features needs {FEATURES}, but {file.parent} lacks it. Give the whole folder.")
    try:
        return Fitted.load(file)
    except (OSError, ValueError) as error:
        raise _not_whole(file, str(error)) from error


def _check(found: SavedModel) -> None:
    """Raises ValueError where the parts of a model do not fit each other."""
    how = found.config.features
    if found.sample_rate_hz not in RATES_HZ or not 0 < found.clip_seconds <= 3600:
        raise ValueError(f"clips of {found.clip_seconds} s at {found.sample_rate_hz} Hz")
    _check_features(how, found.sample_rate_hz, found.clip_seconds)
    if found.fitted is None:
        wanted = how.shape(found.sample_rate_hz, found.clip_seconds)
    else:
        wanted = (found.fitted.kept,)
        columns = how.shape(found.sample_rate_hz, found.clip_seconds)
        if found.fitted.mean.shape != columns:
            raise ValueError(f"{FEATURES} scales {len(found.fitted.mean)} columns of {columns[0]}")
    if wanted != found.input_shape:
        raise ValueError(f"inputs of shape {found.input_shape}, where its features have {wanted}")


def _check_features(how: Features, sample_rate_hz: int, clip_seconds: float) -> None:
    """Raises ValueError where inputs would take absurd amounts of memory, or excerpts are of no known kind."""
    rate_hz = sample_rate_hz
    if isinstance(how, Waveform) and how.resample_hz:
        rate_hz = max(rate_hz, how.resample_hz)
    samples = excerpt_seconds(how, clip_seconds) * rate_hz if not isinstance(how, Vector) else 1
    if how.excerpt not in EXCERPTS or rate_hz not in RATES_HZ or not 1 <= samples <= _MAX_SAMPLES:
        raise ValueError(f"excerpts {how.excerpt!r} of {how.seconds} s at {rate_hz} Hz")
    if isinstance(how, Picture):
        frames = samples / how.hop_samples
        if not (0 < how.size <= _MAX_PIXELS and max(frames, how.frame_samples / 2) <= _MAX_FRAMES):
            raise ValueError(f"pictures of {how.size} pixels, every {how.hop_samples} of {how.frame_samples} samples")


def _texts(values: Any) -> tuple[str, ...]:
    texts = tuple(values)
    if len(set(texts)) < max(2, len(texts)) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its classes are no list of different names")
    return texts


def _not_whole(file: Path, reason: str) -> UserError:
    return UserError(
        f"A model's files must be whole, but {file} is not ({reason}). Restore the folder from a copy, or give the "
        f"best/ folder of a study."
    )
