"""Trains a model again from its `config.json` alone and compares the scores.

    python -m trainables.retrain studies/NAME/best/config.json [FOLDER]

The new model is written to FOLDER (default: a temporary one).
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainables import data, loop
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.evaluate import predict, summarise
from trainables.files import WEIGHTS


def retrain(config_file: Path, folder: Path) -> dict[str, Any]:
    """Trains the configuration into `folder`; returns the scores per split, as in `metrics.json`."""
    config = TrialConfig.from_json(json.loads(config_file.read_text(encoding="utf-8"))["config"])
    inputs = data.trial_data(config.data, config.features, data.choose_device())
    for report in loop.train(config, inputs, folder):
        print(f"epoch {report.epoch}/{config.training.max_epochs}  tune {report.tune_balanced_accuracy:.4f}")
    return summarise(predict(config, folder / WEIGHTS, ("tune", "valid", "test")))


def main() -> None:
    """The command line."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(str(__doc__).strip())
    config_file = Path(sys.argv[1])
    if not config_file.is_file():
        sys.exit(f"Error: A config.json of a finished study is needed, but {config_file} is no file.")
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(tempfile.mkdtemp(prefix="etude-retrain-"))
    try:
        found = retrain(config_file, folder)
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        sys.exit(f"Error: {error}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(
            f"Error: A study's config.json must be whole, but {config_file} is not ({type(error).__name__}: {error})."
        )
    before = config_file.with_name("metrics.json")
    stored = json.loads(before.read_text(encoding="utf-8"))["splits"] if before.exists() else {}
    for name, row in found.items():
        was = f"  (was {stored[name]['balanced_accuracy']:.6f})" if name in stored else ""
        print(f"{name:6} balanced accuracy {row['balanced_accuracy']:.6f}{was}  accuracy {row['accuracy']:.6f}")
    print(f"The model lies in {folder}.")


if __name__ == "__main__":
    main()
