"""The recordings behind a model's predictions: found in the store of their corpus, measured for figures, made playable.

Nothing is ever decoded here: a corpus that has no store on this machine is not at hand.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
import soxr

from trainables.corpora import GENERATED
from trainables.corpora.splits import split
from trainables.corpora.store import Store, find_store, load_store, stores_folder
from trainables.errors import UserError

PLAYED_SECONDS = 5.0  # so that a page with a hundred clips can still be sent by mail
FADE_SECONDS = 0.05
PEAK = 0.9
# MP3 drops the highest frequencies, without which a waveform that was limited hard has peaks of up to twice its height.
ATTEMPTS = 4
MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # MPEG-1, MPEG-2, MPEG-2.5

FRAME, HOP = 2048, 512
BANDS = 128
FLOOR_DB = -80.0

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sounds:
    """The recordings of one split: `rows` maps a clip's name to its row in the store."""

    store: Store
    rows: Mapping[str, int]

    @property
    def rate_hz(self) -> int:
        """The sample rate of all waveforms."""
        return self.store.sample_rate_hz

    def wave(self, name: str) -> Wave:
        """All samples of a clip, shape `(samples,)`, in [-1, 1)."""
        row = self.rows[name]
        seconds = int(self.store.clips["samples"].iloc[row]) / self.rate_hz
        samples: Wave = self.store.waveforms(np.array([row]), seconds)[0]
        return samples


def judged(predictions: pd.DataFrame, classes: tuple[str, ...], part: str) -> pd.DataFrame:
    """What a model made of each clip of a split, by name; clips without probabilities are left out.

    Columns: name, true, predicted, `p_true`, the likeliest other class as `other` with `p_other`, and `margin`, which
    is `p_true` less `p_other`. Where there is no other class, `other` is empty and its probability 0.
    """
    columns = [f"p_{name}" for name in classes]
    rows = predictions[predictions["split"].eq(part) & predictions["true"].isin(classes)].dropna(subset=columns)
    rows = rows.sort_values("name", kind="stable", ignore_index=True)
    chances = rows[columns].to_numpy(np.float64)
    every = np.arange(len(rows))
    true = pd.Index(classes).get_indexer(pd.Index(rows["true"]))
    others = chances.copy()
    others[every, true] = -1.0
    other = others.argmax(axis=1)
    p_true, p_other = chances[every, true], np.maximum(others[every, other], 0.0)
    named = np.array(classes, dtype=object)[other] if len(classes) > 1 else ""
    found = rows[["name", "true", "predicted"]]
    return found.assign(p_true=p_true, other=named, p_other=p_other, margin=p_true - p_other)


def corpus_name(data: Mapping[str, Any]) -> str:
    """A corpus in a word: the folder's or file's name, or that of the generated corpus."""
    kind, _, path = str(data["corpus"]).partition(":")
    return Path(path).name or kind


def open_sounds(data: Mapping[str, Any], part: str) -> Sounds:
    """The recordings of a split, `data` being the `DataConfig` of a model's configuration.

    Raises UserError where the corpus is not at hand: nowhere decoded, or another by now.
    """
    store = _stored(str(data["digest"]))
    if store is None:
        raise _absent(data)
    found = split(
        store.clips,
        task=data["task"],
        how=data["split"],
        keep_synth_lead=data["keep_synth_lead"],
        seed=data["split_seed"],
    )
    rows = found.rows[part]
    names = store.clips["name"].to_numpy(dtype=object)[rows]
    return Sounds(store, dict(zip(names.tolist(), rows.tolist(), strict=True)))


def _stored(digest: str) -> Store | None:
    """Any whole store with this content, wherever its files came from."""
    for root in sorted(stores_folder().glob(f"*-{digest[:16]}-*/")):
        try:
            store = load_store(root)
        except UserError:  # damaged, or of another format
            continue
        if store.digest == digest:
            return store
    return None


def _absent(data: Mapping[str, Any]) -> UserError:
    """Why there is no store with the content that the study had, and what to do."""
    corpus = str(data["corpus"])
    kind, _, path = corpus.partition(":")
    command = f'python -c "from trainables.corpora import open_corpus; open_corpus({corpus!r})"'
    if kind in GENERATED:  # to look for its files would generate them
        return UserError(
            f"Waveforms need the decoded corpus, but {corpus} as the study had it is not in the cache. {command} makes "
            f"it, unless the study used another version of it."
        )
    try:
        other = find_store(kind, Path(path))
    except (OSError, UserError) as error:
        return UserError(f"Waveforms need the corpus {corpus}, but it is not at hand. {error}")
    if other is not None:
        return UserError(
            f"Waveforms need the corpus as the study had it, but the content of {corpus} is another by now (digest "
            f"{other.digest[:12]}, was {data['digest'][:12]}). Restore the corpus."
        )
    return UserError(f"Waveforms need the decoded corpus, but {corpus} is not in the cache. {command} decodes it.")


def envelope(wave: Wave, rate_hz: int, bins: int) -> pd.DataFrame:
    """The lowest and the highest sample in each of at most `bins` equal stretches: `seconds` (start), `low`, `high`."""
    starts = _starts(len(wave), bins)
    return pd.DataFrame(
        {
            "seconds": starts / rate_hz,
            "low": np.minimum.reduceat(wave, starts),
            "high": np.maximum.reduceat(wave, starts),
        }
    )


def spectrogram(wave: Wave, rate_hz: int, columns: int) -> pd.DataFrame:
    """Decibels below the maximum, down to FLOOR_DB: a row per moment, a column per band, named by its centre in kHz.

    Power of frames of FRAME samples under a Hann window, one every HOP samples, zeros beyond both ends, the frame's
    middle being its moment; then its mean over neighbouring bins, to BANDS bands without the one at half the sample
    rate, and over neighbouring frames, to at most `columns`. The index holds `seconds`.
    """
    padded = np.pad(wave, FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window)[:, :-1]) ** 2
    bands = power.reshape(len(power), BANDS, -1).mean(axis=2)
    starts = _starts(len(bands), columns)
    means = np.add.reduceat(bands, starts) / np.diff([*starts, len(bands)])[:, None]
    decibels = 10 * np.log10(np.maximum(means / max(means.max(), 1e-30), 10 ** (FLOOR_DB / 10)))
    centres_khz = (np.arange(BANDS) + 0.5) * rate_hz / 2 / BANDS / 1000
    seconds = pd.Index(starts * HOP / rate_hz, name="seconds")
    return pd.DataFrame(decibels.round(1), index=seconds, columns=[f"{khz:.5f}" for khz in centres_khz])


def _starts(length: int, most: int) -> npt.NDArray[np.int64]:
    """Where equal stretches begin, at most so many, none of them empty."""
    count = min(length, most)
    return np.arange(count) * length // count


def encode(wave: Wave, rate_hz: int) -> tuple[bytes, str]:
    """A file that browsers play, and its media type: the first PLAYED_SECONDS, as loud as PEAK allows.

    MP3, or FLAC where the installed libsndfile cannot write MP3. Equal waveforms give equal bytes.
    """
    kept = round(PLAYED_SECONDS * rate_hz)
    sound = wave[:kept].astype(np.float32)
    if len(wave) > kept:
        fade = round(FADE_SECONDS * rate_hz)
        sound[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    wanted_hz = next((rate for rate in MP3_RATES_HZ if rate >= rate_hz), MP3_RATES_HZ[-1])
    if wanted_hz != rate_hz:
        sound = soxr.resample(sound, rate_hz, wanted_hz)
    kind = "MP3" if "MP3" in soundfile.available_formats() else "FLAC"
    level = PEAK / max(float(np.abs(sound).max(initial=0.0)), 1e-9)
    for _ in range(ATTEMPTS):
        file = io.BytesIO()
        soundfile.write(file, sound * np.float32(level), wanted_hz, format=kind)
        file.seek(0)
        heard = float(np.abs(soundfile.read(file)[0]).max(initial=0.0))
        if heard <= 1:
            break
        level *= PEAK / heard
    return file.getvalue(), "audio/mpeg" if kind == "MP3" else "audio/flac"
