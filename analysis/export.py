"""A model's network as an ONNX file, checked against the original.

python -m analysis.export MODEL FILE.onnx
"""

from pathlib import Path

import click

from analysis.predict import places_of_model, put, run
from trainables.errors import UserError
from trainables.outputs import check_output


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE.onnx", type=click.Path(path_type=Path))
def _command(model: Path, file: Path) -> None:
    """Write a model's network as ONNX: from prepared features to the probabilities of the classes.

    MODEL is the folder of a finished study, its best/ folder, or that of a published recipe in it
    (best/baselines/NAME). The file is compared with the original on random inputs before it takes its place. Classes,
    sample rate and what the features are stand in its metadata as JSON.
    """
    if file.suffix.lower() != ".onnx":
        raise UserError(f"The file to write must end in .onnx, but is {file}. Name another.")
    check_output(file, places_of_model(model))
    from trainables.export import TOLERANCE, export, load_on_cpu

    loaded = load_on_cpu(model)
    difference = export(loaded, file)
    shape = ", ".join(map(str, loaded.input_shape))
    put(
        f"{file}: features (batch, {shape}) to probabilities (batch, {len(loaded.classes)})\n"
        f"The features are those that config.json names; trainables.saved makes them of a recording.\n"
        f"The largest difference to the original on random inputs is {difference:.1e} (at most {TOLERANCE:g}).\n"
    )


def main() -> None:
    """Runs the command line of `python -m analysis.export`."""
    run(_command, "analysis.export")


if __name__ == "__main__":
    main()
