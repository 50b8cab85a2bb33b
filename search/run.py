"""The main command: searches one family's space on one corpus, or several families', one after the other.

    python search/run.py --space blstm --data nsynth:PATH

What it does is in `search.command`; this is how it begins and ends.
"""

import atexit
import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from search import forks

FINISHED, USER_ERROR, FAILED, INTERRUPTED = 0, 1, 2, 130


def main() -> None:
    """Runs the command line and exits with 0 finished, 1 user error, 2 failed, 130 interrupted."""
    # Ended by a termination as by Ctrl-C, wherever it comes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ray asks for the token wherever it starts, but shows it only where told, and reads this when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    elsewhere = any(given.startswith(("--address", "--dry-run", "--help")) for given in sys.argv[1:])
    try:
        # Begun first of all: it imports Torch on one core while the command imports what it needs on another.
        with contextlib.nullcontext() if elsewhere else forks.server():
            code = _run()
    except KeyboardInterrupt:
        code = say_error("Interrupted.", INTERRUPTED)
    sys.exit(code)


def _run() -> int:
    """Reads the command line and does what it asks for; the exit code."""
    import click

    from search import command, options
    from search.progress import Terminal
    from trainables.errors import UserError

    try:
        terminal = Terminal.open(progress_on_stderr="--json" in sys.argv)
    except OSError:
        return FAILED  # no standard output to speak to
    try:
        given = options.parse(sys.argv[1:])
        code = FINISHED
        if given:
            here = given.address == options.HERE and not given.dry_run
            with forks.server() if here else contextlib.nullcontext():
                code = command.run(given, terminal)
    except click.ClickException as error:
        code = say_error(f"{error.format_message()} (--help lists all options)")
    except UserError as error:
        code = say_error(str(error))
    except (KeyboardInterrupt, click.Abort):
        code = say_error("Interrupted.", INTERRUPTED)
    except Exception as error:
        code = say_error(f"Unexpected {type(error).__name__}: {error} (--debug shows where).", FAILED)
    with contextlib.suppress(OSError):  # whoever read the output may have gone
        terminal.console.file.flush()
        terminal.out.flush()
    return code


def say_error(text: str, code: int = USER_ERROR) -> int:
    """An error in a sentence or two; the traceback only for those who ask."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    from search.progress import printable

    text = printable(text)
    print(f"Error: {text}" if code != INTERRUPTED else text, file=sys.stderr)
    return code


def leave(code: int) -> NoReturn:
    """Ends the process at once; taking apart what was imported, Torch and Ray above all, takes a second."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream:  # a closed one is None
                stream.flush()
    os._exit(code)


if __name__ == "__main__":
    # Run as a script, Python looks for modules in this folder first; the packages are installed.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent.resolve()]
    try:
        main()
    except SystemExit as ended:
        leave(int(ended.code or 0))
