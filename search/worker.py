"""The Ray trainable, without what it takes to train: the search needs the one and can do without the other."""

from typing import Any

from ray import tune


def taken(cpus: int, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes, as Tune wants it. Here because workers import whatever it lies in: 0.1 s for the search."""
    return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": config["gpus"]}])


class TrialWorker(tune.Trainable):
    """A long-lived worker process; what it does is in `search.trial`, which imports Torch."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begins the first trial of this process."""
        from search.trial import Trials

        self._trials = Trials(config["memory_bytes"])
        self._trials.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another trial in the same process."""
        self._trials.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next epochs; see `Trials.step`."""
        return self._trials.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: every epoch is saved in the study directory before it is reported."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""
