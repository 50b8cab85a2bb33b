"""A worker that trains nothing: what is left is what Ray and the driver take."""

from pathlib import Path
from typing import Any

import numpy as np
from ray import tune


class IdleWorker(tune.Trainable):
    """In place of `TrialWorker`: reports made-up epochs at once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._epoch = new_config["reported"]
        self._height = float(np.random.default_rng(int(Path(new_config["folder"]).name)).random())
        return True

    def step(self) -> dict[str, Any]:
        self._epoch += 1
        score = self._height * self._epoch / (1 + self._epoch)
        return {
            "reports": [
                {
                    "epoch": self._epoch,
                    "score": score,
                    "best_epoch": self._epoch,
                    "tune_balanced_accuracy": score,
                    "failure": None,
                    "ended": False,
                    "epoch_seconds": 0.0,
                }
            ]
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""
