"""Parameters that several families share. One name means one distribution in every family."""

from spaces.domains import Choice, Float, Int, Param, Value

# How every family is trained. Weight decay has a switch because zero, which all published recipes use,
# cannot lie on a logarithmic scale. With KL the smoothing is never zero: against one-hot targets the
# KL divergence is cross-entropy.
TRAINING = (
    Param("learning_rate", Float(1e-4, 3e-2, log=True)),
    Param("optimiser", Choice(("adam", "sgd"))),
    Param("momentum", Float(0.0, 0.99), when={"optimiser": ("sgd",)}),
    Param("batch_size", Choice((32, 64, 128, 256, 512, 1024))),
    Param("loss", Choice(("ce", "hinge", "kl"))),
    Param("label_smoothing", Float(0.0, 0.3), when={"loss": ("ce",)}),
    Param("kl_smoothing", Float(0.02, 0.3), when={"loss": ("kl",)}),
    Param("decay", Choice(("off", "on"))),
    Param("weight_decay", Float(1e-6, 1e-2, log=True), when={"decay": ("on",)}),
    Param("plateau", Choice(("off", "on"))),
)

# Settings of training that are not searched: the norm to which gradients are clipped (0: not clipped), and the
# published reduce-on-plateau rule (report 003: times 0.1 once more than 3 epochs in a row brought no better score).
TRAINING_SETTINGS: dict[str, Value] = {
    "clip_norm": 1.0,
    "adam_epsilon": 1e-8,
    "plateau_factor": 0.1,
    "plateau_patience": 3,
}

# The waveform as a sequence of frames. The frame's length is given in time, so that the number of steps
# (1000 · seconds / frame_ms, at most 400) does not explode with small pooling factors, as it would where the
# frame counts pooled samples: at 16 kHz a frame holds 16 · frame_ms / pool of them. Each waveform is scaled to a
# peak of 1, which none of the reports does: without it quiet notes hardly move an LSTM.
FRAMES = (
    Param("seconds", Int(1, 4)),
    Param("pool", Choice((1, 2, 4, 8, 16))),
    Param("frame_ms", Int(10, 80, step=10)),
)


# A stack of recurrent layers with a dense head. `width_N` counts units per direction; `dropout` acts between
# recurrent layers and after the first dense layer, where report 000 has it, or before the output where there is
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
    Param("dropout", Float(0.0, 0.6)),
)

# A sound beginning: found by hand in a few tries, none of them on test.
RECURRENT_DEFAULT: dict[str, Value] = {
    "seconds": 1,
    "pool": 2,
    "frame_ms": 40,
    "layers": 2,
    "readout": "mean",
    "dense_layers": 1,
    "dense_1": 64,
    "dropout": 0.2,
    "learning_rate": 3e-3,
    "optimiser": "adam",
    "batch_size": 64,
    "loss": "ce",
    "label_smoothing": 0.05,
    "decay": "off",
    "plateau": "off",
}

# What both groups of authors left as it was: Adam, cross-entropy, no decay, no schedule.
PLAIN_TRAINING: dict[str, Value] = {
    "optimiser": "adam",
    "loss": "ce",
    "label_smoothing": 0.0,
    "decay": "off",
    "plateau": "off",
}

# Report 000 (Keras, 2022): the first second, average-pooled, shaped (steps, 20). The report does not give the
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
SETTINGS_2022: dict[str, Value] = {"convention": "keras", "adam_epsilon": 1e-7, "clip_norm": 0.0, "normalise": "none"}

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
SETTINGS_2018: dict[str, Value] = {"clip_norm": 0.0, "normalise": "none"}
