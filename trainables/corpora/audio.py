"""One sound file's bytes to mono int16 samples at one rate, or the reason why not.

Damage is never passed over in silence: libsndfile reads a WAV file that was cut short without a word, so the
header's promises are checked here first.
"""

import hashlib
import io
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

MAX_FILE_BYTES = 64 * 2**20
MAX_CHANNELS = 16
RATES_HZ = range(1_000, 400_001)
MARGIN_SECONDS = 0.1  # read beyond the cut, so that a resampler's edge does not fall inside the clip
FULL_SCALE = 32_768.0

# What a file must begin with. libsndfile would also try to find MP3 frames in arbitrary bytes, so those are
# accepted only where the file's name says so too.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b".snd")
MP3_TAG = b"ID3"
MP3_TAG_HEADER_BYTES = 10
MP3_FRAMES_SEARCHED_BYTES = 200  # the encoder's own header stands in the first frame, behind its side information
OGG_PAGE = b"OggS"
OGG_LAST_PAGE = 4  # a flag
UNKNOWN_LENGTH = 0xFFFF_FFFF
PCM = 1

Samples = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float64]


class BadAudio(Exception):  # noqa: N818 - a verdict on one file, not a failure of the program
    """This file cannot be used; the message is the reason, its kind before the first colon."""


@dataclass(frozen=True)
class Decoded:
    """`samples` is mono, shape `(samples,)`; `repairs` says in words what was changed to get there.

    `cut` is true where the file goes on behind them.
    """

    samples: Samples
    repairs: tuple[str, ...] = ()
    cut: bool = False

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that depend on the samples alone."""
        return samples_digest(self.samples)


@dataclass(frozen=True)
class WavHeader:
    """The fields of a WAV header that decide how its samples are read; `start` and `size` in bytes."""

    encoding: int
    channels: int
    rate_hz: int
    bits: int
    start: int
    size: int


def samples_digest(samples: Samples) -> str:
    """Return 16 hexadecimal digits for `samples`: equal digests mean equal waveforms."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<i2").data).hexdigest()[:16]


def decode(data: bytes, *, sample_rate_hz: int, max_seconds: float, mp3: bool = False) -> Decoded:
    """Return the first `max_seconds` of a sound file's bytes as mono int16 at `sample_rate_hz`.

    Several channels become their mean, another rate is resampled, values beyond full scale are clipped; each
    is named in `repairs`. With `mp3` the file may also be one. Raises BadAudio for what is empty, damaged, silent,
    not finite or not audio.
    """
    if not data:
        raise BadAudio("empty file")
    if not data.startswith(MAGIC) and not (mp3 and begins_as_mp3(data)):
        raise BadAudio(f"not audio: the file begins with {data[:8]!r}")
    check_lengths(data)
    frames, rate_hz, repairs = read_frames(data, max_seconds)
    if not len(frames):
        raise BadAudio("no samples: the file holds a header only")
    converted = convert(frames, rate_hz, sample_rate_hz=sample_rate_hz, max_seconds=max_seconds)
    return Decoded(converted.samples, repairs + converted.repairs, converted.cut)


def convert(
    frames: npt.NDArray[np.int16] | npt.NDArray[np.float32],
    rate_hz: int,
    *,
    sample_rate_hz: int,
    max_seconds: float,
) -> Decoded:
    """Return frames `(frames, channels)`, int16 or finite float32, as `decode` does; raises BadAudio for silence."""
    limit = round(max_seconds * sample_rate_hz)
    cut = len(frames) * sample_rate_hz > limit * rate_hz
    frames = frames[: _frames_wanted(max_seconds, rate_hz)]
    repairs: tuple[str, ...] = ()
    if frames.dtype == np.int16 and frames.shape[1] == 1 and rate_hz == sample_rate_hz:
        samples: Samples = frames[:limit, 0].astype(np.int16)  # a view would keep the whole file in memory
    else:
        samples, repairs = _convert(frames, rate_hz, sample_rate_hz, limit)
    if not samples.any():
        raise BadAudio("silent: every sample is zero")
    return Decoded(samples, repairs, cut)


def begins_as_mp3(data: bytes) -> bool:
    """Whether `data` begins with an ID3 tag or the mark of an MPEG audio frame of layer III."""
    return data.startswith(MP3_TAG) or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2)


def check_size(size: int, most: int = MAX_FILE_BYTES) -> None:
    """Raise BadAudio for a file of more bytes than are ever read into memory."""
    if size > most:
        raise BadAudio(f"too large: {size:,} bytes, where at most {most:,} are read; cut it, or store it as FLAC")


def check_lengths(data: bytes) -> None:
    """Raise BadAudio where a header promises more bytes than `data` holds."""
    if data.startswith((b"RIFF", b"RIFX")):
        wav_header(data)
    elif data.startswith(b"FORM") and len(data) >= 8:
        _check_held("AIFF header", struct.unpack_from(">I", data, 4)[0], len(data) - 8)
    elif data.startswith(b".snd") and len(data) >= 12:
        start, size = struct.unpack_from(">II", data, 4)
        if size != UNKNOWN_LENGTH:
            _check_held("AU header", size, len(data) - start)
    elif data.startswith(OGG_PAGE):
        _check_ogg(data)
    elif begins_as_mp3(data):
        _check_mp3(data)


def _check_ogg(data: bytes) -> None:
    """The last page of an Ogg file bears a flag, and its length follows from the table behind its header."""
    page = data.rfind(OGG_PAGE)
    if len(data) < page + 27 or not data[page + 5] & OGG_LAST_PAGE:
        raise BadAudio("truncated: the file ends before its last page")
    segments = data[page + 27 : page + 27 + data[page + 26]]
    _check_held("last page", 27 + data[page + 26] + sum(segments), len(data) - page)


def _check_mp3(data: bytes) -> None:
    """Most encoders leave the stream's bytes in its first frame (Xing's header); without it nobody can tell."""
    start = 0
    if data.startswith(MP3_TAG) and len(data) >= MP3_TAG_HEADER_BYTES:
        size = 0
        for seven_bits in data[6:MP3_TAG_HEADER_BYTES]:
            size = size << 7 | seven_bits & 0x7F
        start = MP3_TAG_HEADER_BYTES + size
        _check_held("ID3 tag", start, len(data))
    first = data[start : start + MP3_FRAMES_SEARCHED_BYTES]
    found = max(first.find(b"Xing"), first.find(b"Info"))
    if found >= 0 and len(first) >= found + 16:
        flags, frames, size = struct.unpack_from(">III", first, found + 4)
        if flags & 2:
            _check_held("MP3 header", size if flags & 1 else frames, len(data) - start)


def wav_header(data: bytes) -> WavHeader:
    """Read the header of a RIFF (or big-endian RIFX) WAV file.

    Raises BadAudio where chunks are missing, or promise more than there is.
    """
    order = "<" if data.startswith(b"RIFF") else ">"
    if len(data) < 12 or data[8:12] != b"WAVE":
        raise BadAudio("not audio: a RIFF file that is not WAVE")
    layout: tuple[int, ...] | None = None
    position = 12
    while position + 8 <= len(data):
        chunk, size = struct.unpack_from(f"{order}4sI", data, position)
        position += 8
        if chunk == b"fmt " and size >= 16 and position + 16 <= len(data):
            layout = struct.unpack_from(f"{order}HHIIHH", data, position)
        if chunk == b"data":
            break
        position += size + size % 2
    else:
        raise BadAudio("truncated: the file ends before its audio")
    if size == UNKNOWN_LENGTH:
        raise BadAudio("truncated: the header gives no length, so nobody can tell whether the audio is whole")
    _check_held("data chunk", size, len(data) - position)
    # A missing pad byte after an odd last chunk harms nothing.
    _check_held("RIFF header", struct.unpack_from(f"{order}I", data, 4)[0], len(data) - 7)
    if layout is None:
        raise BadAudio("not audio: a WAV file without a format")
    encoding, channels, rate_hz, _, _, bits = layout
    return WavHeader(encoding, channels, rate_hz, bits, position, size)


def _check_held(where: str, promised: int, held: int) -> None:
    if promised > held:
        raise BadAudio(f"truncated: the {where} promises {promised:,} bytes, the file holds {max(held, 0):,}")


def read_frames(
    data: bytes, max_seconds: float
) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.float32], int, tuple[str, ...]]:
    """Return frames `(frames, channels)` up to just beyond `max_seconds`, their rate in Hz, and repairs.

    16-bit PCM comes as int16, everything else as float32. Plain 16-bit WAV files, nearly all there are, are
    read without libsndfile: three times as fast, and free of the interpreter lock for longer.
    """
    if data.startswith(b"RIFF"):
        header = wav_header(data)
        if (header.encoding, header.bits) == (PCM, 16):
            _check_shape(header.channels, header.rate_hz)
            count = min(header.size // (2 * header.channels), _frames_wanted(max_seconds, header.rate_hz))
            flat = np.frombuffer(data, "<i2", count * header.channels, header.start)
            return flat.reshape(count, header.channels), header.rate_hz, ()
    return _read_with_libsndfile(data, max_seconds)


class _Bytes(io.BytesIO):
    """Bytes in which a damaged header may ask for a place before the beginning, as in a real file."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _read_with_libsndfile(
    data: bytes, max_seconds: float
) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.float32], int, tuple[str, ...]]:
    try:
        with soundfile.SoundFile(_Bytes(data)) as file:
            _check_shape(file.channels, file.samplerate)
            wanted = min(file.frames, _frames_wanted(max_seconds, file.samplerate))
            kind = "int16" if file.subtype == "PCM_16" else "float32"
            frames = file.read(wanted, dtype=kind, always_2d=True)
            rate_hz, subtype = file.samplerate, file.subtype
    except soundfile.SoundFileError as error:
        raise BadAudio(f"not audio: {_first_line(error)}") from error
    if len(frames) < wanted:
        raise BadAudio(f"truncated: the header promises {wanted:,} frames, {len(frames):,} can be read")
    if not np.isfinite(frames).all():
        raise BadAudio("not finite: the file holds NaN or infinite samples")
    exact = subtype in ("PCM_16", "PCM_S8", "PCM_U8")
    return frames, rate_hz, () if exact else (f"{subtype} converted to 16 bits",)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _frames_wanted(max_seconds: float, rate_hz: int) -> int:
    return int((max_seconds + MARGIN_SECONDS) * rate_hz)


def _check_shape(channels: int, rate_hz: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise BadAudio(f"odd header: {channels} channels, where 1 to {MAX_CHANNELS} are understood")
    if rate_hz not in RATES_HZ:
        raise BadAudio(f"odd header: {rate_hz} Hz, where {RATES_HZ[0]} to {RATES_HZ[-1]} Hz are understood")


def _convert(
    frames: npt.NDArray[np.int16] | npt.NDArray[np.float32], rate_hz: int, to_hz: int, limit: int
) -> tuple[Samples, tuple[str, ...]]:
    repairs = []
    scale = 1.0 if frames.dtype == np.int16 else FULL_SCALE
    mono: Floats = frames.mean(axis=1, dtype=np.float64) * scale
    if frames.shape[1] > 1:
        repairs.append(f"{frames.shape[1]} channels mixed to mono")
    if rate_hz != to_hz:
        mono = soxr.resample(mono, rate_hz, to_hz)
        repairs.append(f"resampled from {rate_hz} Hz")
    mono = np.rint(mono[:limit])
    clipped = int(np.count_nonzero(np.abs(mono) > FULL_SCALE))
    if clipped:
        repairs.append(f"{clipped} samples beyond full scale clipped")
    return np.clip(mono, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16), tuple(repairs)


def read_file(path: Path, inside: Iterable[Path], max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of the regular file `path`; a link counts only if it ends in a folder of `inside`.

    `inside` holds resolved folders. Raises BadAudio where there is no such file, or it must not be read.
    """
    try:
        target = path
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = path.resolve(strict=True)
            if not any(target.is_relative_to(folder) for folder in inside):
                raise BadAudio("link: it leads out of the corpus, and is never followed")
            mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise BadAudio(f"not a file: it is {kind}")
        with target.open("rb", buffering=0) as file:
            check_size(os.fstat(file.fileno()).st_size, max_bytes)
            return file.read()
    except FileNotFoundError as error:
        raise BadAudio("no such file") from error
    except (OSError, RuntimeError) as error:  # resolve() raises RuntimeError for a circle of links
        reason = error.strerror if isinstance(error, OSError) else _first_line(error)
        raise BadAudio(f"cannot be read: {reason}") from error
