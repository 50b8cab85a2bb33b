"""Writes the report of one or several studies.

python -m analysis studies/NAME [STUDY …] [--output FOLDER]
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.predict import run
from trainables.corpora.wording import counted
from trainables.files import from_home

if TYPE_CHECKING:
    from analysis.report import Listen


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("locations", metavar="STUDY...", nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the report: new, empty or an earlier report.  [default: STUDY/report; report, where STUDY "
    "is an address or there are several]",
)
def _command(locations: tuple[str, ...], output: Path | None) -> None:
    """Write the report of studies: one page with every figure and table, and all of them as files.

    STUDY is the folder of a study or of a comparison of families, or an address such as s3://bucket/studies/NAME. A
    study may still be running.
    """
    if output is None:
        alone = len(locations) == 1 and "://" not in locations[0]
        output = from_home(locations[0]) / "report" if alone else Path("report")
    click.echo(f"Reading {', '.join(locations)} …", err=True)
    # Imported here, because pandas and matplotlib take a second, in which something should stand on the screen.
    from analysis import report
    from analysis.load import load_studies

    studies = load_studies(*locations)
    output = output.absolute()
    report.check_free(output)
    started = time.perf_counter()
    with _progress() as listen:
        page = report.write(studies, output, listen)
    what = f"{counted(len(studies.studies), 'study', 'studies')}, {counted(len(studies.trials), 'trial', 'trials')}"
    click.echo(f"{what}; {time.perf_counter() - started:.0f} s.")
    click.echo(f"The report is {page}")


@contextmanager
def _progress() -> Iterator["Listen"]:
    """What is being drawn: one line that changes on a terminal, a line per chapter elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("Drawing …") as status:
            yield lambda title: status.update(title[: console.width - 6].replace("[", "\\["))
        return
    chapters: list[str] = []

    def listen(title: str) -> None:
        chapter = title.partition(": ")[0]
        if chapter not in chapters[-1:]:
            chapters.append(chapter)
            console.print(chapter, markup=False, highlight=False)

    yield listen


def main() -> None:
    """Runs the command line of `python -m analysis`."""
    run(_command, "analysis")


if __name__ == "__main__":
    main()
