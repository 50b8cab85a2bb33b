"""Bidirectional LSTM on frames of the waveform."""

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
    name="blstm",
    title="bidirectional LSTM",
    network="recurrent",
    settings={
        **TRAINING_SETTINGS,
        "bidirectional": "yes",
        "convention": "torch",
        "normalise": "peak",
        "excerpt": "first",
    },
    params=(*RECURRENT, *TRAINING),
    default={**RECURRENT_DEFAULT, "width_1": 96, "width_2": 96},
    baselines=(
        Baseline(
            name="blstm-2022",
            source=DERHAK_LEE,
            corpus="nsynth",
            task="family",
            trainable_parameters=588_618,
            epochs=30,
            published_accuracy=0.5510,
            params={**RECIPE_2022, "width_1": 128, "width_2": 128},
            settings=SETTINGS_2022,
        ),
        Baseline(
            name="blstm-2018",
            source=NAGARAJA_LI,
            corpus="nsynth",
            task="family",
            trainable_parameters=1_090_058,
            epochs=20,
            published_accuracy=0.63696,
            # The published network reads the output at the last step, where the backward direction has
            # seen one frame only.
            params={**RECIPE_2018, "readout": "last"},
            settings=SETTINGS_2018,
        ),
        Baseline(
            name="blstm-2022-source",
            source=DERHAK_LEE,
            corpus="nsynth",
            task="source",
            trainable_parameters=629_251,
            epochs=30,
            published_accuracy=0.6628,
            params={**RECIPE_2022, "width_1": 128, "width_2": 128, "dense_1": 256},
            settings=SETTINGS_2022,
        ),
    ),
)
