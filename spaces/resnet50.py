"""ResNet-50 (He et al. 2016, arXiv:1512.03385) with a new head, on spectrogram pictures."""

from spaces.domains import Baseline, Space
from spaces.shared import (
    PRETRAINED,
    PRETRAINED_DEFAULT,
    PRETRAINED_GENRE,
    PRETRAINED_SETTINGS,
    PRETRAINED_SETTINGS_GENRE,
    TRAINING,
    TRAINING_SETTINGS,
    URBAITIS_PAYELI,
)

SPACE = Space(
    name="resnet50",
    title="ResNet-50 with a new head",
    network="pretrained",
    settings={**TRAINING_SETTINGS, **PRETRAINED_SETTINGS, "architecture": "resnet50"},
    params=(*PRETRAINED, *TRAINING),
    default=PRETRAINED_DEFAULT,
    baselines=(
        Baseline(
            name="resnet50-genre",
            source=URBAITIS_PAYELI,
            corpus="gtzan",
            task="genre",
            trainable_parameters=1_222_218,
            epochs=20,  # at most; the authors' run ended by itself after 16
            published_accuracy=None,
            # Without dropout: of the three only "the VGG models later added dropout layers".
            params={**PRETRAINED_GENRE, "dropout": 0.0},
            settings=PRETRAINED_SETTINGS_GENRE,
            published_balanced_accuracy=0.50488,
        ),
    ),
)
