"""The end of a study: choose, score on test, and lay down what is needed to use and to believe the winner."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from search.engine import Engine, Trial
from search.records import BASELINES, METRICS, SUBMISSION
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS, CONFIG, read_json, replace_file, write_json

PREDICTIONS = "predictions.parquet"  # beside what `trainables.saved` writes


def finish(engine: Engine) -> dict[str, Any]:
    """Scores the chosen trial and each baseline, writes `best/`, and returns the summary.

    The chosen trial has the best tune score among those at full fidelity. A model is scored on valid and test
    once: what an earlier session wrote for the same trial stands.
    """
    best = engine.journal.directory / "best"
    known = {baseline.name for baseline in engine.spec.space.baselines}
    if strange := [trial.baseline for trial in engine.trials if trial.baseline and trial.baseline not in known]:
        raise UserError(
            f"A trial's recipe must be one of its family, but the journal of {engine.journal.directory} names "
            f"{strange[0]!r}. Restore the study's directory from a copy, or begin a new study."
        )
    entries: dict[str, dict[str, Any]] = {}
    for trial in engine.best():
        if trial.baseline:
            entries[trial.baseline] = _score(engine, trial, best / BASELINES / trial.baseline)
    winner = next(iter(engine.best()), None)
    if winner is None:
        return {"best": None, "baselines": entries, "against_baselines": {}}
    chosen = _score(engine, winner, best)
    _submit(engine, winner, best)
    return {"best": chosen, "baselines": entries, "against_baselines": _compare(best, entries, chosen["trial"])}


def _compare(best: Path, baselines: dict[str, dict[str, Any]], chosen: int) -> dict[str, dict[str, Any]]:
    """How much better the chosen model does on test than each baseline, from the stored predictions."""
    from trainables.scoring import difference

    predictions = pd.read_parquet(best / PREDICTIONS)
    return {
        name: difference(predictions, pd.read_parquet(best / BASELINES / name / PREDICTIONS), "test")
        for name, row in baselines.items()
        if row["trial"] != chosen
    }


def _score(engine: Engine, trial: Trial, folder: Path) -> dict[str, Any]:
    """Writes one model's folder, `metrics.json` last, so that its presence means that all is there."""
    # Here and not above: Torch takes seconds to import, and most errors come before anything is scored.
    from trainables import data, heap, loop, saved
    from trainables.evaluate import predict
    from trainables.footprint import footprint
    from trainables.scoring import summarise

    metrics = folder / METRICS
    config = engine.spec.config(trial.params, trial.baseline, trial.seed)
    if stored := _stored(folder, trial.number, config):
        return stored
    for file in (metrics, folder / CONFIG):  # nobody is to take new weights with what is written of old ones
        file.unlink(missing_ok=True)
    checkpoint_folder = engine.journal.folder(trial.number)
    weights = checkpoint_folder / BEST_WEIGHTS
    if engine.journal.mirror:
        engine.journal.mirror.fetch_weights(checkpoint_folder)
    again: float | None = None
    if not weights.exists():
        # Lost with the machine that had them, or deleted. Training again gives the same ones on the same kind of core;
        # on another, or on a GPU, it may not.
        shutil.rmtree(checkpoint_folder, ignore_errors=True)
        heap.keep_freed()
        inputs = data.trial_data(config.data, config.features, data.choose_device())
        for report in loop.train(config, inputs, checkpoint_folder):
            again = report.score
    predictions = predict(config, weights, ("tune", "valid", "test"))
    saved.save(folder, config, weights)
    dataset = data.load(config.data)
    size = footprint(config, data.input_shape(dataset, config.features), len(dataset.split.classes))
    replace_file(folder / PREDICTIONS, lambda path: predictions.to_parquet(path, index=False))
    published = next((b for b in engine.spec.space.baselines if b.name == trial.baseline), None)
    record: dict[str, Any] = {
        "trial": trial.number,
        "baseline": trial.baseline,
        "origin": trial.origin,
        "score": trial.score,
        "best_epoch": trial.best_epoch,
        "epochs": trial.epoch,
        "trainable_parameters": size.trainable_parameters,
        "training_seconds": round(_training_seconds(engine, trial.number), 3),
        "prediction_ms": round(1000 * saved.seconds_per_clip(saved.load(folder), dataset), 3),
        "params": trial.params,
        "changes": list(published.changes) if published else [],
        "splits": summarise(predictions),
    }
    if again is not None and again != trial.score:
        record["score_again"] = again
    if published:
        # Of the published corpus: not to be compared with scores on another.
        record["published"] = {
            "accuracy": published.published_accuracy,
            "balanced_accuracy": published.published_balanced_accuracy,
            "epochs": published.epochs,
        }
    write_json(metrics, record)
    return record


def _submit(engine: Engine, winner: Trial, folder: Path) -> None:
    """Writes `submission.csv`, the chosen model's answer for each unlabelled clip, where the corpus has any."""
    from trainables import data, saved
    from trainables.evaluate import predict

    config = engine.spec.config(winner.params, winner.baseline, winner.seed)
    if len(data.load(config.data).split.unlabelled):
        answers = predict(config, folder / saved.WEIGHTS, ("unlabelled",))[["name", "predicted"]]
        answers = answers.rename(columns={"name": "id", "predicted": "label"}).sort_values("id")
        replace_file(folder / SUBMISSION, lambda path: answers.to_csv(path, index=False))


def _training_seconds(engine: Engine, number: int) -> float:
    """The time that a trial's epochs took."""
    rows = engine.journal.rows
    return sum(float(row["epoch_seconds"]) for row in rows if row["event"] == "epoch" and row["trial"] == number)


def _stored(folder: Path, number: int, config: TrialConfig) -> dict[str, Any] | None:
    """What was written for a trial before; None where it is of another trial, not whole, or of an older format."""
    from trainables import saved

    if not (saved.whole(folder, config) and (folder / PREDICTIONS).exists() and (folder / METRICS).exists()):
        return None
    try:
        stored: dict[str, Any] = read_json(folder / METRICS)
        record = read_json(folder / CONFIG)
        elsewhere = record["config"]["data"]["corpus"] != config.data.corpus
    except (KeyError, TypeError, ValueError):
        return None
    if stored.get("trial") != number:
        return None
    if elsewhere:  # the same corpus, which was moved
        record["config"]["data"]["corpus"] = config.data.corpus
        write_json(folder / CONFIG, record)
    return stored
