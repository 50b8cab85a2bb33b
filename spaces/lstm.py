"""LSTM on frames of the waveform."""

from spaces.domains import Baseline, Space
from spaces.shared import (
    DERHAK_LEE,
    NAGARAJA_LI,
    RECIPE_2018,
    RECIPE_2022,
    RECURRENT,
    RECURRENT_DEFAULT,
    SETTINGS_2018,
    SETTINGS_2022,
    TRAINING,
    TRAINING_SETTINGS,
)

SPACE = Space(
    name="lstm",
    title="LSTM",
    network="recurrent",
    settings={
        **TRAINING_SETTINGS,
        "bidirectional": "no",
        "convention": "torch",
        "normalise": "peak",
        "excerpt": "first",
    },
    params=(*RECURRENT, *TRAINING),
    default={**RECURRENT_DEFAULT, "width_1": 128, "width_2": 128},
    baselines=(
        Baseline(
            name="lstm-2022",
            source=DERHAK_LEE,
            corpus="nsynth",
            task="family",
            trainable_parameters=850_762,
            epochs=30,
            published_accuracy=0.5522,
            params={**RECIPE_2022, "width_1": 256, "width_2": 256},
            settings=SETTINGS_2022,
        ),
        Baseline(
            name="lstm-2018",
            source=NAGARAJA_LI,
            corpus="nsynth",
            task="family",
            trainable_parameters=413_962,
            epochs=20,
            published_accuracy=0.64844,
            params={**RECIPE_2018, "readout": "final"},
            settings=SETTINGS_2018,
        ),
    ),
)
