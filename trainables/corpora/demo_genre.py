"""The genre demo corpus: short pieces by invented artists, made by the project itself, listed in a table.

It has to behave like the real thing: what the artists of one genre share is how they play (tempo, metre, drum
pattern, harmony, who plays when), and what a recording shows first is how one artist sounds (instruments, mix,
room). So a classifier that knows some clips of an artist finds the others easily, and fails on new artists. All
draws are seeded.

    clips.csv      path,label,group: the file, its genre, its artist
    NAME.wav       6 s, 22,050 Hz, mono, 16 bits
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from trainables.corpora import generated
from trainables.corpora.generated import Progress

VERSION = 1  # part of the cache's name: raise it with any change of what is written
SEED = 20_020_701  # the month GTZAN appeared (Tzanetakis and Cook 2002, doi:10.1109/TSA.2002.800560)
SAMPLE_RATE_HZ = 22_050
CLIP_SECONDS = 6
ARTISTS, CLIPS = 15, 4  # artists of a genre, clips of an artist
TABLE = "clips.csv"

SAMPLES = CLIP_SECONDS * SAMPLE_RATE_HZ
ROOM_SAMPLES = SAMPLE_RATE_HZ  # the longest echo; 7 s in all are quick to transform
TABLE_SAMPLES = 4_096  # of one period of an oscillator
HARMONICS = 30

Sound = NDArray[np.float64]
SECONDS: Sound = np.arange(SAMPLES) / SAMPLE_RATE_HZ
FREQUENCIES_HZ: Sound = np.arange((SAMPLES + ROOM_SAMPLES) // 2 + 1) * SAMPLE_RATE_HZ / (SAMPLES + ROOM_SAMPLES)
OCTAVES: Sound = np.log2(np.maximum(20, FREQUENCIES_HZ) / 640)  # of the middle of what is heard

MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
DORIAN, PHRYGIAN = (0, 2, 3, 5, 7, 9, 10), (0, 1, 3, 5, 7, 8, 10)


@dataclass(frozen=True)
class Genre:
    """How a genre is played. A pattern is a bar in sixteenths (or twelfths): `x` loud, `o` soft, `.` nothing."""

    name: str
    bpm: float
    swing: float  # how much every second step comes late, in steps
    kick: str
    snare: str
    hat: str
    bass: str
    chords: str
    chord_steps: float  # how long a chord is held
    melody: float  # notes per step, on average
    scale: tuple[int, ...]
    progression: tuple[int, ...]  # degrees, one a bar
    seventh: bool
    drive: float
    brightness_db: float  # per octave
    wet: float  # echo against direct sound


# fmt: off
GENRES = (
    Genre("ballad", 74, .00, "x.......x.o.....", "....x.......x...", "x.x.x.x.x.x.x.x.", "x.......x.....o.",
          "x...............", 15, .16, MAJOR, (0, 4, 5, 3), False, .3, -0.5, .30),
    Genre("bossa", 132, .00, "x..ox..ox..ox..o", "x..x..x...x..x..", "xoxoxoxoxoxoxoxo", "x..xx..xx..xx..x",
          "x..x..x...x..x..", 1.5, .18, DORIAN, (0, 3, 6, 2), True, .2, -0.8, .20),
    Genre("disco", 121, .00, "x...x...x...x...", "....x.......x...", "..x...x...x...x.", "x.x.x.x.x.x.x.x.",
          "..x..xx...x..xx.", 1, .12, DORIAN, (0, 0, 3, 4), True, .5, 0.8, .18),
    Genre("hiphop", 92, .30, "x..o..x...x.....", "....x.......x..o", "x.xox.xxx.xox.xx", "x.....x...x.....",
          "x.......o.......", 6, .05, MINOR, (0, 0, 5, 4), True, .9, -0.9, .10),
    Genre("metal", 164, .00, "x.xxx.xxx.xxx.xx", "....x.......x...", "x...x...x...x...", "x.xxx.xxx.xxx.xx",
          "x.xxx.xxx.xxx.xx", 1, .14, PHRYGIAN, (0, 0, 1, 5), False, 3.0, 0.9, .12),
    Genre("reggae", 76, .15, "........x.......", "........x.......", "x.xox.xox.xox.xo", "x..x..x.x...x.x.",
          "..x...x...x...x.", .8, .07, MAJOR, (0, 3, 4, 3), False, .4, -0.6, .30),
    Genre("swing", 168, .33, "x...o...x...o...", "....o.......o..o", "x...x.o.x...x.o.", "x...x...x...x...",
          "......x.......x.", 2, .28, MAJOR, (1, 4, 0, 5), True, .3, 0.0, .20),
    Genre("techno", 133, .00, "x...x...x...x...", "............o...", "..x...x...x..ox.", "..xx..xx..xx..xx",
          "x..x..x.x..x..x.", 1, .03, MINOR, (0, 0, 0, 6), False, 1.0, 0.6, .25),
)
# fmt: on


@dataclass(frozen=True)
class Voice:
    """A pitched instrument: an oscillator with an envelope."""

    tilt_db: float  # per octave of harmonic number
    odd: float  # how far even harmonics are missing, 0 to 1
    bump_hz: float  # a resonance
    detune_cents: float  # of a second oscillator
    attack_seconds: float
    decay_seconds: float


@dataclass(frozen=True)
class Artist:
    """How one artist sounds; levels in dB, `habits` seeds what stays between clips: fills and favourite notes."""

    tempo: float
    bass: Voice
    chords: Voice
    melody: Voice
    kick_hz: float
    kick_seconds: float
    snare_hz: float
    snare_seconds: float
    snare_noise: float
    hat_seconds: float
    hat_edge: float  # 0 dull, 1 bright
    drums_db: float
    hat_db: float
    bass_db: float
    chords_db: float
    melody_db: float
    octave: int
    drive: float
    brightness_db: float
    presence_db: float
    presence_octave: float
    wet: float
    room_seconds: float
    hiss_db: float
    habits: int


@dataclass(frozen=True)
class Clip:
    """One row of the table."""

    genre: int
    artist: int
    number: int

    @property
    def group(self) -> str:
        """The artist's name."""
        return f"{GENRES[self.genre].name}-{self.artist:02d}"

    @property
    def path(self) -> Path:
        """The WAV file, relative to the corpus."""
        return Path(f"{self.group}-{self.number}.wav")


def generate(root: Path, progress: Progress | None = None) -> Path:
    """Writes the corpus to ``root``, all or nothing, and returns ``root``; a complete one is left as it is.

    ``progress`` is called as ``(what, clips done, clips in all)``.

    Raises:
        FileExistsError: ``root`` holds something else.
    """
    clips = list(_plan())

    def write(draft: Path) -> None:
        for done, clip in enumerate(clips, start=1):
            soundfile.write(draft / clip.path, _render(clip), SAMPLE_RATE_HZ, subtype="PCM_16")
            if progress:
                progress("demo corpus", done, len(clips))
        with (draft / TABLE).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("path", "label", "group"))
            table.writerows((clip.path, GENRES[clip.genre].name, clip.group) for clip in clips)

    return generated.write_whole(root, [*(clip.path for clip in clips), Path(TABLE)], write)


def cached(progress: Progress | None = None) -> Path:
    """The corpus' table in the user's cache (``$ETUDE_CACHE`` or ``~/.cache/etude``), generated at the first call."""
    return generated.cached(f"demo-genre-v{VERSION}", generate, progress) / TABLE


def _plan() -> Iterator[Clip]:
    for genre in range(len(GENRES)):
        for artist in range(ARTISTS):
            yield from (Clip(genre, artist, number) for number in range(CLIPS))


def _draw_artist(genre: Genre, rng: np.random.Generator) -> Artist:
    """One artist: traits around the genre's where it has any, and wide enough to overlap with others'."""

    def about(centre: float, octaves: float) -> float:
        return float(centre * 2 ** (octaves * rng.standard_normal()))

    def near(centre: float, deviation: float) -> float:
        return float(centre + deviation * rng.standard_normal())

    def voice(attack: float, decay: float) -> Voice:
        return Voice(
            near(-7, 3), float(rng.uniform(0, 1)), about(900, 1), about(6, 1), about(attack, 0.8), about(decay, 0.7)
        )

    return Artist(
        tempo=about(1, 0.1),
        bass=voice(0.008, 0.5),
        chords=voice(0.01, 0.8),
        melody=voice(0.02, 0.5),
        kick_hz=about(55, 0.3),
        kick_seconds=about(0.12, 0.5),
        snare_hz=about(190, 0.3),
        snare_seconds=about(0.1, 0.6),
        snare_noise=float(rng.uniform(0.3, 1)),
        hat_seconds=about(0.03, 0.8),
        hat_edge=float(rng.uniform(0, 1)),
        drums_db=near(0, 4),
        hat_db=near(-10, 5),
        bass_db=near(-3, 4),
        chords_db=near(-6, 4),
        melody_db=near(-6, 4),
        octave=int(rng.integers(-1, 2)),
        drive=about(genre.drive, 0.9),
        brightness_db=near(genre.brightness_db, 1.5),
        presence_db=near(0, 6),
        presence_octave=float(rng.uniform(-4, 4)),
        wet=about(genre.wet, 0.7),
        room_seconds=about(0.25, 0.7),
        hiss_db=near(-60, 6),
        habits=int(rng.integers(2**31)),
    )


def _render(clip: Clip) -> NDArray[np.int16]:
    """The clip's samples, 16-bit, ``CLIP_SECONDS`` long."""
    genre = GENRES[clip.genre]
    rng = np.random.default_rng([SEED, clip.genre, clip.artist, clip.number])
    artist = _vary(_draw_artist(genre, np.random.default_rng([SEED, clip.genre, clip.artist])), rng)
    mix = _mix(genre, artist, rng)
    mix = _room(mix / np.sqrt(np.mean(mix**2)), artist, rng)
    mix = np.tanh(artist.drive * mix / np.abs(mix).max() * 2)
    mix += _gain(artist.hiss_db) * rng.standard_normal(SAMPLES)
    loudest = float(rng.uniform(0.6, 0.95))
    return np.asarray(np.round(32_767 * loudest * mix / np.abs(mix).max()), dtype=np.int16)


def _vary(artist: Artist, rng: np.random.Generator) -> Artist:
    """The artist as this clip has them: no two recordings are mixed alike."""
    draws = rng.standard_normal(9)
    return replace(
        artist,
        tempo=artist.tempo * 2 ** (0.03 * draws[0]),
        drums_db=artist.drums_db + 2.5 * draws[1],
        hat_db=artist.hat_db + 2.5 * draws[2],
        bass_db=artist.bass_db + 2.5 * draws[3],
        chords_db=artist.chords_db + 2.5 * draws[4],
        melody_db=artist.melody_db + 2.5 * draws[5],
        brightness_db=artist.brightness_db + 0.8 * draws[6],
        presence_db=artist.presence_db + 3 * draws[7],
        wet=artist.wet * 2 ** (0.4 * draws[8]),
    )


def _mix(genre: Genre, artist: Artist, rng: np.random.Generator) -> Sound:
    """All players together, dry."""
    step_seconds = 60 / (genre.bpm * artist.tempo) / 4
    first = int(rng.integers(16 * len(genre.progression)))  # clips begin anywhere in the piece
    steps = range(first, first + int(CLIP_SECONDS / step_seconds) + 1)
    key = int(rng.integers(12))
    kit = {name: _pattern(pattern, artist, rng) for name, pattern in _patterns(genre).items()}
    mix = np.zeros(SAMPLES)

    def play(sound: Sound, step: int, level: float) -> None:
        start = int((step - first + genre.swing * (step % 2)) * step_seconds * SAMPLE_RATE_HZ)
        heard = sound[: max(0, SAMPLES - start)]
        mix[start : start + len(heard)] += level * heard

    drums = {"kick": _kick(artist), "snare": _snare(artist, rng), "hat": _hat(artist, rng)}
    levels_db = {"kick": artist.drums_db, "snare": artist.drums_db - 3, "hat": artist.drums_db + artist.hat_db}
    bass, chords, melody = (float(_gain(db)) for db in (artist.bass_db, artist.chords_db - 6, artist.melody_db))
    notes: dict[tuple[Voice, int, int], Sound] = {}

    def note(voice: Voice, pitch: int, steps_held: float) -> Sound:
        samples = int(steps_held * step_seconds * SAMPLE_RATE_HZ)
        if (voice, pitch, samples) not in notes:
            notes[voice, pitch, samples] = _note(voice, pitch, samples)
        return notes[voice, pitch, samples]

    degree = int(rng.integers(7))
    for step in steps:
        place, root = step % 16, genre.progression[step // 16 % len(genre.progression)]
        for name, sound in drums.items():
            if loud := kit[name][place]:
                play(sound, step, loud * float(_gain(levels_db[name] + rng.standard_normal())))
        if loud := kit["bass"][place]:
            fifth = 4 if rng.random() < 0.2 else 0
            play(note(artist.bass, _above(33, key + _semitones(genre, root + fifth)), 2), step, loud * bass)
        if loud := kit["chords"][place]:
            for third in range(4 if genre.seventh else 3):
                pitch = _above(55 + 6 * artist.octave, key + _semitones(genre, root + 2 * third))
                play(note(artist.chords, pitch, genre.chord_steps), step, loud * chords)
        if rng.random() < genre.melody * (1.5 if place % 2 == 0 else 0.5):
            degree += int(rng.integers(-2, 3))
            pitch = _above(67 + 12 * artist.octave, key + _semitones(genre, degree))
            play(note(artist.melody, pitch, float(rng.choice([1, 2, 4]))), step, melody)
    return mix


def _patterns(genre: Genre) -> dict[str, str]:
    return {
        "kick": genre.kick,
        "snare": genre.snare,
        "hat": genre.hat,
        "bass": genre.bass,
        "chords": genre.chords,
    }


def _pattern(pattern: str, artist: Artist, rng: np.random.Generator) -> Sound:
    """A pattern as loudness per step, with changes that the artist always makes and some of this clip."""
    loud = np.array([{"x": 1.0, "o": 0.5, ".": 0.0}[mark] for mark in pattern])
    for drawn, changes in ((np.random.default_rng([artist.habits, sum(map(ord, pattern))]), 2), (rng, 1)):
        for _ in range(changes):
            place = int(drawn.integers(16))
            loud[place] = drawn.choice([0.0, 0.5, 1.0])
    return loud


def _semitones(genre: Genre, degree: int) -> int:
    octave, place = divmod(degree, len(genre.scale))
    return 12 * octave + genre.scale[place]


def _above(lowest: int, pitch: int) -> int:
    """The MIDI number from `lowest` on that is `pitch` in some octave."""
    return lowest + (pitch - lowest) % 12


def _note(voice: Voice, pitch: int, samples: int) -> Sound:
    """One note: two detuned oscillators that read one period of the voice, and an envelope."""
    hz = 440 * 2 ** ((pitch - 69) / 12)
    number = np.arange(1, int(np.clip(SAMPLE_RATE_HZ / 2 // hz, 1, HARMONICS)) + 1)
    bump_db = 9 * np.exp(-0.5 * (np.log2(number * hz / voice.bump_hz) / 0.5) ** 2)
    levels = _gain(voice.tilt_db * np.log2(number) + bump_db) * np.where(number % 2, 1, 1 - voice.odd)
    spectrum = np.zeros(TABLE_SAMPLES // 2 + 1, dtype=complex)
    spectrum[1 : len(number) + 1] = -1j * levels * TABLE_SAMPLES / 2
    period = np.fft.irfft(spectrum)
    time = SECONDS[: min(samples, SAMPLES)]
    sound = np.zeros(len(time))
    for cents in (-voice.detune_cents / 2, voice.detune_cents / 2):
        places = (time * (hz * 2 ** (cents / 1200) * TABLE_SAMPLES)).astype(np.int64) % TABLE_SAMPLES
        sound += period[places]
    sound *= np.exp(-time / voice.decay_seconds) - np.exp(-time / min(voice.attack_seconds, voice.decay_seconds / 2))
    fade = min(len(sound), 200)
    sound[len(sound) - fade :] *= np.linspace(1, 0, fade)
    return np.asarray(sound / (np.abs(sound).max() + 1e-9))


def _kick(artist: Artist) -> Sound:
    time = SECONDS[: SAMPLE_RATE_HZ // 2]
    cycles = artist.kick_hz * (time + 0.06 * (1 - np.exp(-time / 0.02)))
    return np.asarray(np.sin(2 * np.pi * cycles) * np.exp(-time / artist.kick_seconds))


def _snare(artist: Artist, rng: np.random.Generator) -> Sound:
    time = SECONDS[: SAMPLE_RATE_HZ // 3]
    tone = (1 - artist.snare_noise) * np.sin(2 * np.pi * artist.snare_hz * time)
    noise = 0.5 * artist.snare_noise * rng.standard_normal(len(time))
    return np.asarray((tone + noise) * np.exp(-time / artist.snare_seconds))


def _hat(artist: Artist, rng: np.random.Generator) -> Sound:
    time = SECONDS[: SAMPLE_RATE_HZ // 4]
    noise = rng.standard_normal(len(time))
    edge = np.diff(noise, prepend=0.0)
    return np.asarray(((1 - artist.hat_edge) * noise + artist.hat_edge * edge) * np.exp(-time / artist.hat_seconds))


def _room(sound: Sound, artist: Artist, rng: np.random.Generator) -> Sound:
    """The room's echo and the equaliser."""
    echo = rng.standard_normal(ROOM_SAMPLES) * np.exp(-SECONDS[:ROOM_SAMPLES] / artist.room_seconds)
    echo *= artist.wet / np.sqrt(np.sum(echo**2))
    echo[0] += 1
    presence = artist.presence_db * np.exp(-0.5 * ((OCTAVES - artist.presence_octave) / 0.7) ** 2)
    gain = _gain(artist.brightness_db * OCTAVES + presence)
    size = SAMPLES + ROOM_SAMPLES
    heard = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(echo, size) * gain, size)[:SAMPLES]
    return np.asarray(heard)


def _gain(db: float | Sound) -> Sound:
    return np.asarray(np.exp(np.log(10) / 20 * db))
