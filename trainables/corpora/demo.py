"""The demo corpus: single notes of invented instruments, made by the project itself, in NSynth's layout.

It has to behave like the real thing: the instruments of one family differ so much that a classifier which
knows the notes of some fails on others. An instrument is a :class:`Voice`, drawn once around the habits of its
:class:`Family` and bent by its source; a note is that voice at one pitch and velocity: an oscillator (additive,
modal, FM, plucked string or filtered noise), body filter, envelope, effects. All draws are seeded.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from trainables.corpora import generated
from trainables.corpora.generated import Progress

VERSION = 1  # part of the cache's name: raise it with any change of what is written
SEED = 20_170_405  # the day NSynth appeared (Engel et al. 2017, arXiv:1704.01279)
SAMPLE_RATE_HZ = 16_000
CLIP_SECONDS = 1.0
GATE_SECONDS = 0.8  # the key is released here
MAX_HARMONICS = 40
PITCHES, VELOCITIES = 6, (40, 75, 110)  # an instrument plays each of its pitches at two velocities
TRAIN_INSTRUMENTS, HELD_OUT_INSTRUMENTS = 6, 3  # per family; valid and test share the held-out ones
SPLITS = ("train", "valid", "test")
SOURCES = ("acoustic", "electronic", "synthetic")  # the position is NSynth's integer

Samples = NDArray[np.float64]
SECONDS: Samples = np.arange(round(CLIP_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
FREQUENCIES_HZ: Samples = np.arange(len(SECONDS) // 2 + 1) / CLIP_SECONDS
OCTAVES: Samples = np.log2(np.maximum(20, FREQUENCIES_HZ))


@dataclass(frozen=True)
class Family:
    """What the instruments of a family have in common: the centres their voices are drawn around."""

    name: str
    sources: str  # initials; instruments take them in turn
    engines: str  # names in ENGINES, drawn with equal odds
    low_pitch: int  # MIDI
    high_pitch: int
    attack_ms: float  # time constant
    decay_seconds: float  # time constant
    sustain: float  # level the decay ends at, 0 for a struck or plucked sound
    tilt_db: float  # per octave of harmonic number
    even_db: float  # even harmonics against odd ones
    noise_db: float  # breath, bow or hammer against tone
    vibrato_cents: float
    formants_hz: tuple[float, ...]


# fmt: off
FAMILIES = (  # the position is NSynth's integer
    #      name         sources engines             pitches attack decay sust tilt even noise vib formants
    Family("bass",       "aes", "pluck fm additive",    28, 46,  10, .45, .15, -8,  -2, -45,  2, (120, 500)),
    Family("brass",      "ae",  "additive additive fm", 46, 68,  50, .50, .70, -5,   0, -38,  8, (500, 1400)),
    Family("flute",      "as",  "additive breath",      68, 92,  60, .80, .85, -13, -4, -20, 20, (900,)),
    Family("guitar",     "ae",  "pluck pluck additive", 40, 64,   4, .30, .02, -6,   0, -42,  2, (220, 900)),
    Family("keyboard",   "aes", "additive fm modal",    40, 82,   4, .65, .08, -8,   0, -45,  1, (400, 1800)),
    Family("mallet",     "ase", "modal modal fm",       66, 96,   2, .13, .00, -9,  -4, -36,  1, (1500,)),
    Family("organ",      "ase", "additive",             36, 72,  12, 2.0, .97, -7,   2, -40,  2, ()),
    Family("reed",       "as",  "additive additive fm", 52, 76,  30, .80, .85, -4, -14, -32,  7, (900, 2200)),
    Family("string",     "as",  "additive breath",      48, 84, 180, 1.5, .95, -5,   0, -28, 26, (300, 2600)),
    Family("synth_lead", "s",   "additive fm",          50, 84,   8, .30, .60, -4,   0, -50, 12, (2500,)),
    Family("vocal",      "ase", "additive breath",      46, 70,  80, 1.2, .90, -9,   0, -26, 50, (600, 1100)),
)
# fmt: on


@dataclass(frozen=True)
class Voice:
    """One instrument's timbre; units as in :class:`Family`."""

    engine: str
    pitches: tuple[int, ...]
    attack_seconds: float
    decay_seconds: float
    sustain: float
    release_seconds: float
    tilt_db: float
    even_db: float
    noise_db: float
    vibrato_cents: float
    vibrato_hz: float
    formants: tuple[tuple[float, float, float], ...]  # (centre in Hz, gain in dB, width in octaves)
    damping: float  # how much faster high harmonics die, per second and harmonic
    stretch: float  # modal partials lie at k ** stretch
    ratio: float  # FM: modulator to carrier
    index: float  # FM: modulation index, radians
    cutoff: float  # low-pass, in harmonics of the note
    drive: float  # saturation; well below 1 hardly any
    chorus: float  # level of a wavering, delayed copy
    tremolo: float  # depth, 0..1
    hiss_db: float  # against full scale
    wander: float  # how much its notes differ from each other


@dataclass(frozen=True)
class Note:
    """One row of ``examples.json`` before it is written."""

    split: str
    family: int
    source: int
    instrument: int  # counted over the corpus
    name: str  # the instrument's, as ``instrument_str``
    pitch: int
    velocity: int

    @property
    def key(self) -> str:
        """NSynth's ``note_str``, which is also the file's stem."""
        return f"{self.name}-{self.pitch:03d}-{self.velocity:03d}"

    @property
    def path(self) -> Path:
        """The WAV file, relative to the corpus."""
        return Path(f"nsynth-{self.split}") / "audio" / f"{self.key}.wav"


def generate(root: Path, progress: Progress | None = None) -> Path:
    """Writes the corpus to ``root``, all or nothing, and returns ``root``; a complete one is left as it is.

    ``progress`` is called as ``(what, notes done, notes in all)``.

    Raises:
        FileExistsError: ``root`` holds something else.
    """
    notes = list(_plan())

    def write(draft: Path) -> None:
        for folder in {(draft / note.path).parent for note, _ in notes}:
            folder.mkdir(parents=True)
        for done, (note, voice) in enumerate(notes, start=1):
            soundfile.write(draft / note.path, _render(note, voice), SAMPLE_RATE_HZ, subtype="PCM_16")
            if progress:
                progress("demo corpus", done, len(notes))
        _write_labels(draft, [note for note, _ in notes])

    files = [*(note.path for note, _ in notes), *(Path(f"nsynth-{split}/examples.json") for split in SPLITS)]
    return generated.write_whole(root, files, write)


def cached(progress: Progress | None = None) -> Path:
    """The corpus in the user's cache (``$ETUDE_CACHE`` or ``~/.cache/etude``), generated at the first call."""
    return generated.cached(f"demo-v{VERSION}", generate, progress)


def _plan() -> Iterator[tuple[Note, Voice]]:
    """Every note with its instrument's voice, in a fixed order; needs no audio."""
    instruments = itertools.count()
    for index, family in enumerate(FAMILIES):
        held_out = 0 if family.name == "synth_lead" else HELD_OUT_INSTRUMENTS  # as in NSynth
        for position in range(TRAIN_INSTRUMENTS + held_out):
            number, turn = divmod(position, len(family.sources))
            source = "aes".index(family.sources[turn])
            name = f"{family.name}_{SOURCES[source]}_{number:03d}"
            instrument = next(instruments)
            rng = np.random.default_rng([SEED, instrument])
            voice = _draw_voice(family, SOURCES[source], rng)
            for split, pitch, velocity in _draw_notes(voice, position >= TRAIN_INSTRUMENTS, rng):
                yield Note(split, index, source, instrument, name, pitch, velocity), voice


def _draw_notes(voice: Voice, held_out: bool, rng: np.random.Generator) -> Iterator[tuple[str, int, int]]:
    """Split, pitch and velocity of an instrument's notes; held-out ones go to valid and test, 7 to 5."""
    splits = iter(rng.permutation(["valid"] * 7 + ["test"] * 5) if held_out else ["train"] * 12)
    for pitch in voice.pitches:
        for velocity in rng.choice(VELOCITIES, size=2, replace=False):
            yield str(next(splits)), pitch, int(velocity)


def _draw_voice(family: Family, source: str, rng: np.random.Generator) -> Voice:
    """One instrument of a family: traits drawn around the family's, wide enough to overlap others'."""

    def about(centre: float, octaves: float) -> float:
        return float(centre * 2 ** (octaves * rng.standard_normal()))

    def near(centre: float, deviation: float) -> float:
        return float(centre + deviation * rng.standard_normal())

    acoustic, electronic, synthetic = (source == name for name in SOURCES)
    span = (family.high_pitch - family.low_pitch) * rng.uniform(0.45, 0.8)
    bottom = rng.uniform(family.low_pitch, family.high_pitch - span)
    steps = np.linspace(bottom, bottom + span, PITCHES)
    formants = tuple(
        (about(hz, 0.35), float(rng.uniform(4, 18)), about(0.35, 0.4))
        for hz in (*family.formants_hz, rng.uniform(200, 4000))
    )
    return Voice(
        engine=str(rng.choice(family.engines.split())),
        pitches=tuple(round(step) for step in steps),
        attack_seconds=about(family.attack_ms / 1000, 0.8),
        decay_seconds=about(family.decay_seconds, 0.7),
        sustain=float(np.clip(near(family.sustain, 0.12), 0, 1)),
        release_seconds=about(0.02 if synthetic else 0.06, 0.8),
        tilt_db=near(family.tilt_db, 2.5),
        even_db=near(family.even_db, 4),
        noise_db=near(family.noise_db, 6) + (4 if acoustic else -4),
        vibrato_cents=about(family.vibrato_cents, 0.8),
        vibrato_hz=about(5.2, 0.25),
        formants=formants,
        damping=about(0.5 if family.sustain < 0.3 else 0.05, 0.8),
        stretch=near(1.25, 0.2),
        ratio=float(rng.choice([0.5, 1, 1, 2, 3, 3.5])),
        index=about(1.8, 0.6),
        cutoff=about(10 if synthetic else 24, 0.8),
        drive=about(1.5, 0.8) if electronic else about(0.15, 0.8),
        chorus=float(rng.uniform(0, 0.8)) if not acoustic else 0.0,
        tremolo=float(rng.uniform(0, 0.4)) if electronic else 0.0,
        hiss_db=near(-52 if acoustic else -50 if electronic else -64, 6),
        wander=1.0 if acoustic else 0.6,
    )


def _render(note: Note, voice: Voice) -> NDArray[np.int16]:
    """The note's samples, 16-bit, ``CLIP_SECONDS`` long."""
    rng = np.random.default_rng([SEED, note.instrument, note.pitch, note.velocity])
    voice = _vary(voice, note.velocity, rng)
    hz = 440 * 2 ** ((note.pitch - 69 + 0.06 * rng.standard_normal()) / 12)
    octaves = voice.vibrato_cents / 1200 * np.minimum(1, SECONDS / 0.25)  # players let the note settle first
    bend = octaves * np.sin(2 * np.pi * (voice.vibrato_hz * SECONDS + rng.uniform()))
    cycles = rng.uniform() + np.cumsum(hz * np.exp2(bend)) / SAMPLE_RATE_HZ
    sound = _unit_rms(ENGINES[voice.engine](voice, hz, cycles, rng))
    sound += _gain(voice.noise_db) * rng.standard_normal(len(SECONDS))
    sound = _body(sound, voice, hz) * _envelope(voice, rng)
    sound = _effects(sound / np.abs(sound).max(), voice, rng)
    sound *= 0.9 * (note.velocity / 127) / np.abs(sound).max()
    sound += _gain(voice.hiss_db) * rng.standard_normal(len(SECONDS))
    return np.round(32767 * np.clip(sound, -1, 1)).astype(np.int16)


def _vary(voice: Voice, velocity: int, rng: np.random.Generator) -> Voice:
    """The voice as this note has it: harder notes are brighter, and no two are alike."""
    hard = (velocity - 75) / 35
    draws = voice.wander * rng.standard_normal(6)
    return replace(
        voice,
        tilt_db=voice.tilt_db + 1.2 * hard + 1.0 * draws[0],
        noise_db=voice.noise_db - 1.5 * hard + 3 * draws[1],
        attack_seconds=voice.attack_seconds * 2 ** (0.4 * draws[2] - 0.2 * hard),
        decay_seconds=voice.decay_seconds * 2 ** (0.3 * draws[3]),
        even_db=voice.even_db + 2 * draws[4],
        index=voice.index * 2 ** (0.3 * hard + 0.2 * draws[5]),
    )


def _additive(voice: Voice, hz: float, cycles: Samples, rng: np.random.Generator) -> Samples:
    """Harmonics below Nyquist; those of higher number die faster.

    ``g**k sin(k x)`` follows from its two predecessors, so one sine and one cosine serve all harmonics.
    """
    count = int(np.clip(SAMPLE_RATE_HZ / 2 // hz, 1, MAX_HARMONICS))
    levels = _gain(_harmonic_levels_db(voice, np.arange(1, count + 1)) + 2.5 * rng.standard_normal(count))
    fade = np.exp(-voice.damping * SECONDS)
    turn, back = 2 * fade * np.cos(2 * np.pi * cycles), fade * fade
    before, now = np.zeros_like(cycles), fade * np.sin(2 * np.pi * cycles)
    total = np.zeros_like(cycles)
    for level in levels:
        total += level * now
        before *= -back
        before += turn * now
        before, now = now, before
    return total


def _modal(voice: Voice, hz: float, cycles: Samples, rng: np.random.Generator) -> Samples:
    """A struck bar or bell: a few stretched partials, high ones short."""
    number = np.arange(1, 8)
    ratios = number**voice.stretch * (1 + 0.01 * rng.standard_normal(7))
    levels = _gain(_harmonic_levels_db(voice, number) + 3 * rng.standard_normal(7))
    total = np.zeros_like(cycles)
    for k, ratio, level in zip(number, ratios, levels, strict=True):
        if ratio * hz < SAMPLE_RATE_HZ / 2:
            fade = np.exp(-4 * voice.damping * (k - 1) * SECONDS)
            total += level * fade * np.sin(2 * np.pi * ratio * cycles)
    return total


def _fm(voice: Voice, hz: float, cycles: Samples, rng: np.random.Generator) -> Samples:
    """Two-operator frequency modulation (Chowning 1973) whose index falls as a decaying note darkens."""
    index = voice.index * (0.3 + 0.7 * np.exp(-4 * voice.damping * SECONDS))
    modulator = index * np.sin(2 * np.pi * voice.ratio * (cycles + rng.uniform()))
    return np.asarray(np.sin(2 * np.pi * cycles + modulator))


def _pluck(voice: Voice, hz: float, cycles: Samples, rng: np.random.Generator) -> Samples:
    """A plucked string (Karplus and Strong 1983), one period at a time, read at the pitch's exact speed."""
    blend = float(np.clip(-0.06 * voice.tilt_db * rng.uniform(0.7, 1.3), 0.08, 0.5))  # also the loop's delay
    period = max(2, round(SAMPLE_RATE_HZ / hz - blend))
    loops = np.empty((int(cycles[-1] - cycles[0]) + 3, period))
    loops[:2] = rng.standard_normal(period)
    loops[:2] -= loops[0].mean()
    for now in range(2, len(loops)):
        shifted = np.concatenate((loops[now - 2, -1:], loops[now - 1, :-1]))
        loops[now] = (1 - blend) * loops[now - 1] + blend * shifted
    samples = (cycles - cycles[0]) * (period + blend)
    return np.asarray(np.interp(samples, np.arange(loops.size), loops.ravel()))


def _breath(voice: Voice, hz: float, cycles: Samples, rng: np.random.Generator) -> Samples:
    """Noise that a tube lets through near its harmonics, over a weaker steady tone."""
    spectrum = np.fft.rfft(rng.standard_normal(len(cycles)))
    harmonic = FREQUENCIES_HZ / hz
    comb = np.cos(np.pi * harmonic) ** 40 * (harmonic > 0.5)
    levels = _gain(_harmonic_levels_db(voice, np.maximum(1, np.round(harmonic))))
    air = _unit_rms(np.fft.irfft(spectrum * comb * levels, len(cycles)))
    return air + rng.uniform(0.3, 1.0) * _unit_rms(_additive(voice, hz, cycles, rng))


ENGINES = {"additive": _additive, "modal": _modal, "fm": _fm, "pluck": _pluck, "breath": _breath}


def _harmonic_levels_db(voice: Voice, number: NDArray[np.int_] | Samples) -> Samples:
    return np.asarray(voice.tilt_db * np.log2(number) + voice.even_db * (number % 2 == 0), dtype=np.float64)


def _gain(db: float | Samples) -> Samples:
    return np.asarray(np.exp(np.log(10) / 20 * db))


def _unit_rms(sound: Samples) -> Samples:
    return np.asarray(sound / np.sqrt(np.mean(sound**2)))


def _body(sound: Samples, voice: Voice, hz: float) -> Samples:
    """Formants, which stay where they are, and a low-pass, which follows the note."""
    gain_db = np.zeros_like(FREQUENCIES_HZ)
    for centre_hz, db, width in voice.formants:
        gain_db += db * np.exp(-0.5 * ((OCTAVES - np.log2(centre_hz)) / width) ** 2)
    low_pass = 1 / np.sqrt(1 + (FREQUENCIES_HZ / (voice.cutoff * hz)) ** 4)
    return np.asarray(np.fft.irfft(np.fft.rfft(sound) * low_pass * _gain(gain_db), len(sound)))


def _envelope(voice: Voice, rng: np.random.Generator) -> Samples:
    """Attack, decay to the sustained level, release when the key goes up."""
    gate = GATE_SECONDS + 0.03 * rng.standard_normal()
    rise = 1 - np.exp(-SECONDS / voice.attack_seconds)
    fall = voice.sustain + (1 - voice.sustain) * np.exp(-SECONDS / voice.decay_seconds)
    release = np.exp(-np.maximum(0, SECONDS - gate) / voice.release_seconds)
    return np.asarray(rise * fall * release)


def _effects(sound: Samples, voice: Voice, rng: np.random.Generator) -> Samples:
    """What an amplifier or a synthesiser adds: a wavering copy, tremolo and saturation."""
    if voice.chorus:
        delay = 0.012 + 0.003 * np.sin(2 * np.pi * (0.9 * SECONDS + rng.uniform()))
        sound = sound + voice.chorus * np.interp(SECONDS - delay, SECONDS, sound, left=0.0)
    if voice.tremolo:
        sound = sound * (1 - voice.tremolo * np.sin(np.pi * (6 * SECONDS + rng.uniform())) ** 2)
    return np.asarray(np.tanh(voice.drive * sound))


def _write_labels(root: Path, notes: list[Note]) -> None:
    """``examples.json`` of each split."""
    for split in SPLITS:
        rows = {note.key: _row(number, note) for number, note in enumerate(notes) if note.split == split}
        (root / f"nsynth-{split}/examples.json").write_text(json.dumps(rows, indent=1))


def _row(number: int, note: Note) -> dict[str, object]:
    return {  # NSynth's 13 fields
        "note": number,
        "note_str": note.key,
        "instrument": note.instrument,
        "instrument_str": note.name,
        "pitch": note.pitch,
        "velocity": note.velocity,
        "sample_rate": SAMPLE_RATE_HZ,
        "qualities": [0] * 10,
        "qualities_str": [],
        "instrument_family": note.family,
        "instrument_family_str": FAMILIES[note.family].name,
        "instrument_source": note.source,
        "instrument_source_str": SOURCES[note.source],
    }
