"""Class probabilities for new recordings, from a model's folder alone.

python -m analysis.predict MODEL FILE_OR_DIR …
"""

import csv
import io
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from search.progress import ProgressBar, Terminal, printable
from trainables.corpora.audio import BadAudio
from trainables.corpora.listing import printable as utf8
from trainables.corpora.tree import SUFFIXES
from trainables.errors import UserError
from trainables.outputs import check_output, write_output
from trainables.retrain import find_config

if TYPE_CHECKING:  # Torch takes seconds to import
    from trainables.saved import SavedModel

FORMATS = ("table", "csv", "json")
INTERRUPTED = 130

_PATIENCE_SECONDS = 2.0
_FIRST_CLASSES = 3  # that a table has room for where not all do

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recording:
    """A file to be classified: `name` as it is shown, `inside` its path within the folder that was named."""

    path: Path
    name: str
    inside: str


@dataclass(frozen=True)
class Prediction:
    """The probabilities of the classes for a recording, and what had to be changed in it."""

    recording: Recording
    probabilities: tuple[float, ...]
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """What could not be classified, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """All that came out, in the order of the recordings. `identities` names each found file for a submission."""

    classes: tuple[str, ...]
    rows: tuple[Prediction, ...]
    skipped: tuple[Skipped, ...]
    identities: dict[Path, str]

    def label(self, row: Prediction) -> str:
        """The most probable class."""
        return self.classes[row.probabilities.index(max(row.probabilities))]


def find(places: Sequence[Path]) -> tuple[list[Recording], list[Skipped]]:
    """The recordings in files and folders, none twice, and the places where there is none.

    Of a folder that is all below it that is called like audio, in the order of the paths; hidden files and folders
    are passed over, and links to folders are not followed. A file that is named itself may be called anything.
    """
    found: dict[Path, Recording] = {}
    skipped = []
    for place in places:
        if not place.is_dir():
            found.setdefault(_absolute(place), Recording(place, utf8(str(place)), utf8(str(place))))
            continue
        problems: list[OSError] = []
        inside = sorted(_audio(place, problems))
        for file in inside:
            recording = Recording(file, utf8(str(file)), utf8(file.relative_to(place).as_posix()))
            found.setdefault(_absolute(file), recording)
        skipped += [Skipped(utf8(str(e.filename)), f"cannot be read: {e.strerror}") for e in problems]
        if not inside and not problems:
            skipped.append(Skipped(utf8(str(place)), f"no audio: a folder without {', '.join(SUFFIXES)}"))
    return list(found.values()), skipped


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - unlike resolve() it takes two links for two files


def _audio(folder: Path, problems: list[OSError]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=problems.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(place, name)


def identities(recordings: Sequence[Recording]) -> dict[Path, str]:
    """A different name for each: the file's without its ending or, where several share that, its path.

    The path is that within the folder that was named, without the ending and then with it, or else as it was found.
    """
    choices = {
        recording.path: (
            Path(recording.inside).stem,
            str(Path(recording.inside).with_suffix("")),
            recording.inside,
            recording.name,
            utf8(str(_absolute(recording.path))),
        )
        for recording in recordings
    }
    level = dict.fromkeys(choices, 0)
    while True:
        taken = {path: names[level[path]] for path, names in choices.items()}
        count = Counter(taken.values())
        again = [path for path, name in taken.items() if count[name] > 1 and level[path] < len(choices[path]) - 1]
        if not again:
            return taken
        for path in again:
            level[path] += 1


def predict(model: "SavedModel", places: Sequence[Path], progress: Progress = lambda *_: None) -> Predictions:
    """The class probabilities of all recordings in files and folders; see `find`."""
    recordings, skipped = find(places)
    rows = []
    for done, recording in enumerate(recordings):
        progress("classifying", done, len(recordings))
        try:
            decoded = model.read(recording.path)
            chances = model.chances([decoded.samples])[0]
        except BadAudio as error:
            skipped.append(Skipped(recording.name, str(error)))
            continue
        cut = (f"cut to the first {model.clip_seconds:g} s",) if decoded.cut else ()
        # Seven digits are what single precision holds.
        numbers = tuple(float(f"{chance:.7g}") for chance in chances)
        rows.append(Prediction(recording, numbers, decoded.repairs + cut))
    return Predictions(model.classes, tuple(rows), tuple(skipped), identities(recordings))


def as_csv(found: Predictions) -> str:
    """A line per recording: `file`, `predicted`, and `p_CLASS` for each class."""
    lines = [["file", "predicted", *(f"p_{name}" for name in found.classes)]]
    lines += [[row.recording.name, found.label(row), *map(repr, row.probabilities)] for row in found.rows]
    return _csv(lines)


def as_json(found: Predictions) -> str:
    """One object: `classes`, `predictions` with their `probabilities` and `repairs`, and what was `skipped`."""
    record = {
        "classes": list(found.classes),
        "predictions": [
            {
                "file": row.recording.name,
                "predicted": found.label(row),
                "probabilities": dict(zip(found.classes, row.probabilities, strict=True)),
                "repairs": list(row.repairs),
            }
            for row in found.rows
        ],
        "skipped": [{"file": skipped.name, "reason": skipped.reason} for skipped in found.skipped],
    }
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def as_table(found: Predictions, width: int | None = None) -> str:
    """Columns for people: every class, or where that is wider than `width` the most probable ones by name."""
    if not found.rows:
        return ""
    names = [printable(name) for name in found.classes]
    files = [printable(row.recording.name) for row in found.rows]
    labels = [printable(found.label(row)) for row in found.rows]
    numbers = [[f"{chance:.3f}" for chance in row.probabilities] for row in found.rows]
    text = _aligned([["file", "predicted", *names], *map(_joined, files, labels, numbers)])
    if width is None or max(map(len, text.splitlines())) <= width:
        return text
    short = [
        ", ".join(f"{names[n]} {row.probabilities[n]:.3f}" for n in _most_probable(row.probabilities))
        for row in found.rows
    ]
    return _aligned([["file", "most probable"], *([file, words] for file, words in zip(files, short, strict=True))])


def _joined(file: str, label: str, numbers: list[str]) -> list[str]:
    return [file, label, *numbers]


def _most_probable(probabilities: Sequence[float]) -> list[int]:
    return sorted(range(len(probabilities)), key=lambda n: (-probabilities[n], n))[:_FIRST_CLASSES]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = 2  # the columns that hold words
    lines = (
        "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def submission(found: Predictions) -> str:
    """The lines `id,label` that competitions want, by id."""
    rows = sorted((found.identities[row.recording.path], found.label(row)) for row in found.rows)
    return _csv([["id", "label"], *map(list, rows)])


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_text(file: Path, text: str) -> None:
    """Writes a file as a whole; raises UserError where that is not possible."""
    write_output(file, lambda path: path.write_text(text, encoding="utf-8"))


def put(text: str) -> None:
    """Writes a result to standard output: exactly, or on a terminal without what would control it.

    Raises UserError where that is not possible, and BrokenPipeError where nobody reads it any more.
    """
    if sys.stdout is None:
        raise UserError("A result needs somewhere to go, but standard output is closed. Redirect it to a file.")
    if sys.stdout.isatty():
        text = printable_lines(text)
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_output()
        raise UserError(f"Standard output cannot be written ({error.strerror or error}). Redirect it.") from error


def printable_lines(text: str) -> str:
    """The text without control characters other than the ends of lines."""
    return "\n".join(map(printable, text.split("\n")))


def places_of_model(model: Path) -> tuple[Path, ...]:
    """The folders in which no result may lie: the model's, and the one that was named; raises UserError."""
    return (find_config(model).parent, *([model] if model.is_dir() else []))


@contextmanager
def patient_bar() -> Iterator[Progress]:
    """A progress bar on standard error for what takes more than two seconds."""
    bar = ProgressBar(Terminal(sys.stderr, Console(stderr=True, highlight=False)))
    started = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        if time.monotonic() - started > _PATIENCE_SECONDS:
            bar(stage, done, total)

    try:
        yield show
    finally:
        bar.close()


def say(text: str) -> None:
    """One line on standard error, whatever characters it holds."""
    print(printable(text), file=sys.stderr)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("places", metavar="FILE_OR_DIR...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(FORMATS), help="How to write it [by --output's ending, or table].")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write to a file instead.")
@click.option(
    "--submission", "answers", metavar="FILE", type=click.Path(path_type=Path), help="Also write a file id,label."
)
def _command(model: Path, places: tuple[Path, ...], form: str | None, output: Path | None, answers: Path | None) -> int:
    """Say how probable each class is for recordings of any rate, length and number of channels.

    MODEL is the folder of a finished study, its best/ folder, or that of a published recipe in it
    (best/baselines/NAME). In folders all wav, flac, ogg, mp3, aiff and au files are taken, however deep. What cannot be
    used is named with the reason and left out; the exit code is 1 where nothing is left.
    """
    form = form or _by_ending(output)
    _check_outputs(model, places, output, answers)
    from trainables.saved import load

    loaded = load(model)
    with patient_bar() as progress:
        found = predict(loaded, places, progress)
    for skipped in found.skipped:
        say(f"Left out: {skipped.name}: {skipped.reason}")
    cut = sum("cut to" in repair for row in found.rows for repair in row.repairs)
    if cut:
        longer, whose = ("recording is", "its") if cut == 1 else ("recordings are", "their")
        say(f"{cut:,} {longer} longer than any in training; {whose} first {loaded.clip_seconds:.3g} s count.")
    if answers is not None and found.rows:
        write_text(answers, submission(found))
    width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
    text = {"csv": as_csv, "json": as_json}[form](found) if form != "table" else as_table(found, width)
    if output is not None:
        write_text(output, text)
    else:
        put(text)
    if not found.rows:
        say("Error: Nothing could be classified.")
    return 0 if found.rows else 1


def _check_outputs(model: Path, places: Sequence[Path], output: Path | None, answers: Path | None) -> None:
    """Raises UserError where a result would replace the model, a recording or the other result."""
    outputs = [file for file in (output, answers) if file is not None]
    recordings = [one.path for one in find(places)[0]] if any(map(os.path.exists, outputs)) else []
    for number, file in enumerate(outputs):
        check_output(file, places_of_model(model), [*recordings, *outputs[:number]])


def _by_ending(output: Path | None) -> str:
    ending = output.suffix.lower().removeprefix(".") if output else ""
    return ending if ending in FORMATS else "table"


def run(command: click.Command, module: str) -> None:
    """Runs a command line; exits with 1 after an error, with 130 when interrupted."""
    code: Any = 0
    try:
        code = command.main(sys.argv[1:], prog_name=f"python -m {module}", standalone_mode=False)
    except click.ClickException as error:
        sys.exit(f"Error: {error.format_message()} (--help says what is expected)")
    except UserError as error:
        sys.exit(f"Error: {printable(str(error))}")
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _give_up_output()
        sys.exit(1)
    except OSError as error:
        _give_up_output()
        what = printable(str(error.filename)) if error.filename else "What comes out"
        sys.exit(f"Error: {what} cannot be read or written ({error.strerror or error}). Check the disk.")
    sys.exit(code if isinstance(code, int) else 0)


def _give_up_output() -> None:
    """What could not be written must not be tried once more, with a complaint, when Python closes the output."""
    with suppress(AttributeError, ValueError):  # there is none, or it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Runs the command line of `python -m analysis.predict`."""
    run(_command, "analysis.predict")


if __name__ == "__main__":
    main()
