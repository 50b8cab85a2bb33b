"""Trains a model again from its `config.json` alone and compares the scores.

python -m trainables.retrain studies/NAME [FOLDER]
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS, CONFIG, STATE, replace_file, write_json


def retrain(config_file: Path, folder: Path) -> dict[str, Any]:
    """Trains the configuration into `folder`, which is a model then; returns the scores per split.

    Raises UserError where there is no whole configuration, and where the corpus is another by now.
    """
    record = _record(config_file)
    _say(f"Loading Torch and the corpus {record['data']['corpus']} …")
    # Imported here, because it takes seconds, in which something should stand on the screen.
    import torch

    from trainables import data, evaluate, heap, loop, saved, scoring
    from trainables.config import TrialConfig

    saved.check_kinds(config_file, record)
    try:
        config = TrialConfig.from_json(record)
    except saved.WRONG_VALUES as error:
        raise _not_whole(config_file, error) from error
    torch.set_num_threads(config.threads)
    inputs = data.trial_data(config.data, config.features, data.choose_device())
    heap.keep_freed()
    _say(f"Training {config.family} for at most {config.training.max_epochs} epochs …")
    epochs = range(1, config.training.max_epochs + 1)
    for (report,) in loop.train_by_save(config, inputs, folder, rungs=epochs):  # one by one, for who watches
        if report.failure:
            raise UserError(f"A model must train without diverging, but {report.failure}. Give another {CONFIG}.")
        _say(f"epoch {report.epoch}/{config.training.max_epochs}  tune {report.tune_balanced_accuracy:.4f}")
    _say("Scoring tune, valid and test …")
    predictions = evaluate.predict(config, folder / BEST_WEIGHTS, ("tune", "valid", "test"))
    found = scoring.summarise(predictions)
    saved.save(folder, config, folder / BEST_WEIGHTS)
    replace_file(folder / "predictions.parquet", lambda path: predictions.to_parquet(path, index=False))
    write_json(folder / "metrics.json", {"splits": found})
    for name in (STATE, BEST_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    return found


def _record(config_file: Path) -> dict[str, Any]:
    """The configuration as it is written in a study; raises UserError."""
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        record: dict[str, Any] = content["config"]
        if not isinstance(record["data"]["corpus"], str):
            raise TypeError("its corpus is no text")
    except OSError as error:
        raise UserError(f"{config_file} cannot be read ({error.strerror}). Check the file.") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _not_whole(config_file, error) from error
    return record


def _not_whole(file: Path, error: Exception) -> UserError:
    if file.name == "metrics.json":
        return UserError(f"A model's {CONFIG} is needed, but {file} holds its scores. Give the {CONFIG} beside it.")
    return UserError(
        f"A study's {CONFIG} must be whole, but {file} is not ({type(error).__name__}: {error}). Give the {CONFIG} of "
        f"a study's best/ folder."
    )


def find_config(place: Path) -> Path:
    """The `config.json` of a study, of a model's folder in it, or the file itself; raises UserError."""
    if place.is_file():
        return place
    for file in (place / CONFIG, place / "best" / CONFIG):
        if file.is_file():
            return file
    needed = f"The folder of a finished study, its best/ folder or a {CONFIG} is needed"
    if not place.exists():
        raise UserError(f"{needed}, but {place} does not exist. Check the path.")
    if (place / "study.json").is_file():
        raise UserError(f"{needed}, but the study in {place} has no best/{CONFIG} yet. Finish it with --resume.")
    if studies := sorted(file.parents[1].name for file in place.glob(f"*/best/{CONFIG}")):
        raise UserError(f"{needed}, but {place} holds several studies. Give one of them: {', '.join(studies)}.")
    raise UserError(f"{needed}, but {place} holds none. Check the path.")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path), required=False)
def _command(model: Path, folder: Path | None) -> None:
    """Train a study's model again from its config.json alone and compare the scores.

    MODEL is the folder of a finished study, its best/ folder, that of a published recipe in it
    (best/baselines/NAME), or a config.json. The new model is written to FOLDER, which must be new or empty; without
    one to a temporary folder.
    """
    config_file = find_config(model)
    new = folder is None or not os.path.lexists(folder)
    target = _new_folder(folder)
    try:
        found = retrain(config_file, target)
    except BaseException as error:
        if folder is None:
            shutil.rmtree(target, ignore_errors=True)
        elif new:  # what was trained stays
            with contextlib.suppress(OSError):
                target.rmdir()
        if isinstance(error, OSError) and _lies_in(target, error.filename):
            raise UserError(
                f"The new model must be written to {target}, but {error.strerror or error}. Put that right or name "
                f"another folder."
            ) from error
        raise
    stored = _stored(config_file.with_name("metrics.json"))
    for name, row in found.items():
        was = f"  (was {stored[name]:.6f})" if name in stored else ""
        _say(f"{name:6} balanced accuracy {row['balanced_accuracy']:.6f}{was}  accuracy {row['accuracy']:.6f}")
    _say(f"The model lies in {target}.")


def _say(text: str) -> None:
    """A line; a reader that has gone stops nothing."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lies_in(folder: Path, name: object) -> bool:
    """Whether a file that an error names, if it names one, is of a folder; one that is not named may be."""
    return name is None or Path(str(name)).absolute().is_relative_to(folder.absolute())


def _new_folder(folder: Path | None) -> Path:
    """The folder for the new model, made now, before it takes minutes to train it; raises UserError."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="etude-retrain-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except FileExistsError:
        empty = False
    except OSError as error:
        raise UserError(
            f"The folder for the new model must be new or empty, but {folder} cannot be made ({error.strerror}). Name "
            f"another."
        ) from error
    if not empty:
        raise UserError(f"The folder for the new model must be new or empty, but {folder} is not. Name another.")
    return folder


def _stored(metrics: Path) -> dict[str, float]:
    """The balanced accuracies before, where they lie beside the configuration."""
    try:
        splits = json.loads(metrics.read_text(encoding="utf-8"))["splits"]
        return {name: float(row["balanced_accuracy"]) for name, row in splits.items()}
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return {}


def main() -> None:
    """Runs the command line; exits with 1 after an error, with 130 when interrupted."""
    try:
        _command.main(sys.argv[1:], prog_name="python -m trainables.retrain", standalone_mode=False)
    except click.ClickException as error:
        sys.exit(f"Error: {error.format_message()} (--help says what is expected)")
    except UserError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        sys.exit(f"Error: {error.filename or 'A file'} cannot be used ({error.strerror or error}). Check it.")
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)


if __name__ == "__main__":
    main()
