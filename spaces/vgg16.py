"""VGG-16 (Simonyan and Zisserman 2015, arXiv:1409.1556) with a new head, on spectrogram pictures."""

from spaces.domains import Baseline, Space, Value
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

# "Adding the ReLU and dropout at each layer"; the rate is the one that the report gives for its own network.
_RECIPE: dict[str, Value] = {**PRETRAINED_GENRE, "dropout": 0.5}

SPACE = Space(
    name="vgg16",
    title="VGG-16 with a new head",
    network="pretrained",
    settings={**TRAINING_SETTINGS, **PRETRAINED_SETTINGS, "architecture": "vgg16"},
    params=(*PRETRAINED, *TRAINING),
    default=PRETRAINED_DEFAULT,
    baselines=(
        Baseline(
            name="vgg16-genre",
            source=URBAITIS_PAYELI,
            corpus="gtzan",
            task="genre",
            trainable_parameters=13_018_698,
            epochs=20,
            published_accuracy=0.76,
            params=_RECIPE,
            settings=PRETRAINED_SETTINGS_GENRE,
        ),
        Baseline(
            name="vgg16-genre-rotated",
            source=URBAITIS_PAYELI,
            corpus="gtzan",
            task="genre",
            trainable_parameters=13_018_698,
            epochs=20,
            published_accuracy=0.6993,
            params={**_RECIPE, "rotation": 15},
            settings=PRETRAINED_SETTINGS_GENRE,
        ),
    ),
)
