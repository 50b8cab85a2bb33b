"""Parameters that several families share, and the reports that the published recipes are of.

One name means one distribution in every family.
"""

from dataclasses import replace

from spaces.domains import Choice, Float, Int, Param, Value

DERHAK_LEE = "Derhak and Lee 2022, CSCI 635 Introduction to Machine Learning, project 2"
NAGARAJA_LI = "Nagaraja and Li 2018, Learning NSynth with LSTM and BLSTM"
JAMAL_KARDA_SARDE = "Jamal, Karda and Sarde, a report on two convolutional networks for NSynth"
URBAITIS_PAYELI = "Urbaitis and Payeli, Project 3: Neural Networks"

# How every family is trained. Weight decay has a switch because zero, which all published recipes use,
# cannot lie on a logarithmic scale. With KL the smoothing is never zero: against one-hot targets the
# KL divergence is cross-entropy.
TRAINING = (
    Param("learning_rate", Float(1e-4, 3e-2, log=True)),
    Param("optimiser", Choice(("adam", "sgd"))),
    Param("momentum", Float(0.0, 0.99), when={"optimiser": ("sgd",)}),
    Param("batch_size", Choice((16, 32, 64, 128, 256, 512, 1024))),
    Param("loss", Choice(("ce", "hinge", "kl"))),
    Param("label_smoothing", Float(0.0, 0.3), when={"loss": ("ce",)}),
    Param("kl_smoothing", Float(0.02, 0.3), when={"loss": ("kl",)}),
    Param("decay", Choice(("off", "on"))),
    Param("weight_decay", Float(1e-6, 1e-2, log=True), when={"decay": ("on",)}),
    Param("plateau", Choice(("off", "on"))),
    Param("early_end", Choice(("off", "on"))),
    Param("patience", Int(3, 12), when={"early_end": ("on",)}),
)

# Settings of training that are not searched: the norm to which gradients are clipped (0: not clipped), and the
# published reduce-on-plateau rule (Urbaitis and Payeli: times 0.1 once more than 3 epochs in a row brought no better
# score).
TRAINING_SETTINGS: dict[str, Value] = {
    "clip_norm": 1.0,
    "adam_epsilon": 1e-8,
    "plateau_factor": 0.1,
    "plateau_patience": 3,
}

# The waveform as a sequence of frames. The frame's length is given in time, so that the number of steps
# (1000 · seconds / frame_ms, at most 400) does not explode with small pooling factors, as it would where the
# frame counts pooled samples: at 16 kHz a frame holds 16 · frame_ms / pool of them. Each waveform is scaled to a
# peak of 1, which no report does: without it quiet notes hardly move an LSTM.
SECONDS = Param("seconds", Int(1, 4))
POOL = Param("pool", Choice((1, 2, 4, 8, 16)))
FRAMES = (SECONDS, POOL, Param("frame_ms", Int(10, 80, step=10)))

# The waveform as it is, for networks without frames: resampled, then pooled. Two kilohertz keep the fundamental of
# most notes and little else; they are what Jamal, Karda and Sarde fed their networks.
WAVEFORM = (
    SECONDS,
    Param("resample_hz", Choice((2000, 4000, 8000, 16000))),
    POOL,
    Param("pool_kind", Choice(("mean", "max")), when={"pool": (2, 4, 8, 16)}),
)
WAVEFORM_SETTINGS: dict[str, Value] = {"excerpt": "first", "normalise": "peak", "resampling": "soxr"}

# Spectrograms as pictures, and what is done to them in training. A hop is never longer than a frame. Small pictures
# are what a machine without a GPU can train on, 512 pixels what Urbaitis and Payeli had: fix the sizes for such a
# machine.
# One colour channel holds all that a colour map does; the maps are there because networks pretrained on photographs
# may take them better.
PICTURE = (
    Param("excerpt", Choice(("first", "segments", "whole"))),
    replace(SECONDS, when={"excerpt": ("first", "segments")}),
    Param("picture_size", Choice((32, 48, 64, 96, 128, 224, 512))),
    Param("frame_samples", Choice((512, 1024, 2048, 4096))),
    Param("hop_samples", Choice((128, 256, 512))),
    Param("frequency", Choice(("mel", "linear"))),
    Param("log_scale", Choice(("yes", "no"))),
    Param("colour", Choice(("none", "magma", "viridis", "coolwarm"))),
    Param("rotation", Choice((0, 5, 15))),
    Param("time_mask", Choice((0.0, 0.1, 0.25))),
    Param("frequency_mask", Choice((0.0, 0.1, 0.25))),
)

# Two examples mixed: the parameter of the Beta distribution.
MIXUP = Param("mixup", Choice((0.0, 0.2, 0.4)))

# Of feed-forward networks.
BATCH_NORM = Param("batch_norm", Choice(("off", "on")))
DROPOUT = Param("dropout", Float(0.0, 0.6))

# Stacks of convolutions. Channels grow logarithmically, since their cost is quadratic. What they find is averaged
# (mean), or its largest value taken (max), over time or the picture; "none" keeps every place and flattens.
_CHANNELS = Int(8, 256, log=True)
CONVOLUTIONS = (
    Param("conv_layers", Int(2, 5)),
    Param("channels_1", _CHANNELS),
    Param("channels_2", _CHANNELS),
    Param("channels_3", _CHANNELS, when={"conv_layers": (3, 4, 5)}),
    Param("channels_4", _CHANNELS, when={"conv_layers": (4, 5)}),
    Param("channels_5", _CHANNELS, when={"conv_layers": (5,)}),
)
GLOBAL_POOL = Param("global_pool", Choice(("mean", "max", "none")))

# Dense layers with relu between a feed-forward network's body and its logits.
_HEAD = Int(16, 512, log=True)
HEAD = (
    Param("head_layers", Int(0, 4)),
    Param("head_1", _HEAD, when={"head_layers": (1, 2, 3, 4)}),
    Param("head_2", _HEAD, when={"head_layers": (2, 3, 4)}),
    Param("head_3", _HEAD, when={"head_layers": (3, 4)}),
    Param("head_4", _HEAD, when={"head_layers": (4,)}),
)

# torchvision's networks. The stages are the network's own five, counted from the input; a body frozen as a whole
# has no learning rate. `weights_file` "" starts from random weights; the study puts in what was asked for.
PRETRAINED = (
    *PICTURE,
    MIXUP,
    Param("frozen_stages", Int(0, 5)),
    Param("body_rate_factor", Float(0.01, 1.0, log=True), when={"frozen_stages": (0, 1, 2, 3, 4)}),
    *HEAD,
    DROPOUT,
)
PRETRAINED_SETTINGS: dict[str, Value] = {"weights_file": "", "weights_digest": "", "imagenet_normalise": "yes"}


# A stack of recurrent layers with a dense head. `width_N` counts units per direction; `dropout` acts between
# recurrent layers and after the first dense layer, where Derhak and Lee have it, or before the output where there is
# none. Of the readouts, "final" and "last" are the same in one direction; a name has one domain all the same.
_WIDTH = Int(32, 256, step=32)
RECURRENT = (
    *FRAMES,
    Param("layers", Int(1, 3)),
    Param("width_1", _WIDTH),
    Param("width_2", _WIDTH, when={"layers": (2, 3)}),
    Param("width_3", _WIDTH, when={"layers": (3,)}),
    Param("readout", Choice(("final", "last", "mean"))),
    Param("dense_layers", Int(0, 2)),
    Param("dense_1", _WIDTH, when={"dense_layers": (1, 2)}),
    Param("dense_2", _WIDTH, when={"dense_layers": (2,)}),
    DROPOUT,
)

# A sound beginning to train from.
TRAINING_DEFAULT: dict[str, Value] = {
    "learning_rate": 1e-3,
    "optimiser": "adam",
    "batch_size": 32,
    "loss": "ce",
    "label_smoothing": 0.05,
    "decay": "off",
    "plateau": "off",
    "early_end": "off",
}

# The same for each kind of network: found by hand in a few tries, none of them on test.
RECURRENT_DEFAULT: dict[str, Value] = {
    "seconds": 1,
    "pool": 2,
    "frame_ms": 40,
    "layers": 2,
    "readout": "mean",
    "dense_layers": 1,
    "dense_1": 64,
    "dropout": 0.2,
    **TRAINING_DEFAULT,
    "learning_rate": 3e-3,
    "batch_size": 64,
}

# One small grey picture of a whole clip, which two cores train on.
PICTURE_DEFAULT: dict[str, Value] = {
    "excerpt": "whole",
    "picture_size": 64,
    "frame_samples": 1024,
    "hop_samples": 256,
    "frequency": "mel",
    "log_scale": "yes",
    "colour": "none",
    "rotation": 0,
    "time_mask": 0.1,
    "frequency_mask": 0.1,
    "mixup": 0.0,
}
PRETRAINED_DEFAULT: dict[str, Value] = {
    **PICTURE_DEFAULT,
    "frozen_stages": 2,
    "body_rate_factor": 0.1,
    "head_layers": 1,
    "head_1": 128,
    "dropout": 0.2,
    **TRAINING_DEFAULT,
}

# What all authors but Urbaitis and Payeli left as it was: Adam, cross-entropy, no decay, no schedule.
PLAIN_TRAINING: dict[str, Value] = {
    "optimiser": "adam",
    "loss": "ce",
    "label_smoothing": 0.0,
    "decay": "off",
    "plateau": "off",
    "early_end": "off",
}

# Derhak and Lee (Keras): the first second, average-pooled, shaped (steps, 20). The report does not give the
# pooling factor; 16 makes 50 steps of 20 ms and lets the whole corpus fit the authors' memory, which was
# their reason for pooling.
RECIPE_2022: dict[str, Value] = {
    **PLAIN_TRAINING,
    "seconds": 1,
    "pool": 16,
    "frame_ms": 20,
    "layers": 2,
    "readout": "final",
    "dense_layers": 2,
    "dense_1": 128,
    "dense_2": 64,
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "batch_size": 1024,
}
# Keras' Adam has an epsilon of 1e-7.
SETTINGS_2022: dict[str, Value] = {
    "convention": "keras",
    "adam_epsilon": 1e-7,
    "clip_norm": 0.0,
    "normalise": "none",
    "excerpt": "first",
}

# Reports 001 and 004 (PyTorch, 2018): the first second as 100 steps of 160 samples, no dense layers.
RECIPE_2018: dict[str, Value] = {
    **PLAIN_TRAINING,
    "seconds": 1,
    "pool": 1,
    "frame_ms": 10,
    "layers": 3,
    "width_1": 128,
    "width_2": 128,
    "width_3": 128,
    "dense_layers": 0,
    "dropout": 0.0,
    "learning_rate": 8e-4,
    "batch_size": 32,
}
SETTINGS_2018: dict[str, Value] = {"clip_norm": 0.0, "normalise": "none", "excerpt": "first"}

# Urbaitis and Payeli (PyTorch Lightning). Pictures of whole clips, frame 2048, hop 512, decibels, linear frequency,
# 512 pixels high and wide. The report names no colour map: magma is librosa's for values of one sign, such as decibels
# below the loudest point. Clips are not segmented; nothing else is done to pictures unless a recipe says so.
PICTURES_GENRE: dict[str, Value] = {
    "excerpt": "whole",
    "picture_size": 512,
    "frame_samples": 2048,
    "hop_samples": 512,
    "frequency": "linear",
    "log_scale": "yes",
    "colour": "magma",
    "rotation": 0,
    "time_mask": 0.0,
    "frequency_mask": 0.0,
    "mixup": 0.0,
}
# Adam with a rate of 0.001, times 0.1 after 3 epochs without better scores, and an end after 5. The report gives no
# batch size; 32 is what most examples have. It watches validation accuracy for the end and does not say what for the
# rate; here both follow the balanced accuracy on tune, as everything does.
TRAINING_GENRE: dict[str, Value] = {
    **PLAIN_TRAINING,
    "learning_rate": 1e-3,
    "batch_size": 32,
    "plateau": "on",
    "early_end": "on",
    "patience": 5,
}
# Four dense layers that halve from 512 on, before the output.
HEAD_GENRE: dict[str, Value] = {"head_layers": 4, "head_1": 512, "head_2": 256, "head_3": 128, "head_4": 64}
# The convolutions are frozen and the head is new, the same for the three of them ("all 3 had the same layers added").
# Batch normalisation is frozen with them, statistics included: whether the authors' was, the report does not say.
# Pictures are turned bilinearly, where torchvision's RandomRotation takes the nearest pixel unless told otherwise.
PRETRAINED_GENRE: dict[str, Value] = {**PICTURES_GENRE, "frozen_stages": 5, **HEAD_GENRE, **TRAINING_GENRE}
# Gradients were not clipped, and pictures not normalised as those of ImageNet were (ToTensor only).
SETTINGS_GENRE: dict[str, Value] = {"clip_norm": 0.0}
PRETRAINED_SETTINGS_GENRE: dict[str, Value] = {**SETTINGS_GENRE, "imagenet_normalise": "no"}
