"""The main command: searches one family's space on one corpus, or several families', one after the other.

    python search/run.py --space blstm --data nsynth:PATH

From top to bottom: read the command line, settle the study, describe or run it, say what came out.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from search import comparison, forks, options, versions
from search.mirror import address_of
from search.options import HERE, Options
from search.progress import Terminal, bar, printable
from search.study import StudySpec
from trainables.errors import UserError

FINISHED, USER_ERROR, FAILED, INTERRUPTED = 0, 1, 2, 130
_CODES = {"finished": FINISHED, "failed": FAILED, "interrupted": INTERRUPTED}


def main() -> None:
    """Runs the command line and exits with 0 finished, 1 user error, 2 failed, 130 interrupted."""
    # Ended by a termination as by Ctrl-C, wherever it comes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ray asks for the token wherever it starts, but shows it only where told, and reads this when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        terminal = Terminal.open(progress_on_stderr="--json" in sys.argv)
    except OSError:
        sys.exit(FAILED)  # no standard output to speak to
    try:
        given = options.parse(sys.argv[1:])
        code = FINISHED
        if given:
            with forks.server() if given.address in (None, HERE) and not given.dry_run else contextlib.nullcontext():
                code = run(given, terminal)
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
    sys.exit(code)


def run(given: Options, terminal: Terminal) -> int:
    """Settles the study, then describes or runs it; the exit code."""
    versions.check()
    if comparison.asked(given):
        return compare(given, terminal)
    with bar(terminal) as progress:
        spec, directory, corpus = options.settle(given, progress)
    say_corpus(corpus, terminal)
    say_restrictions(given, spec, terminal)
    if given.dry_run:
        from search.preflight import describe_plan, plan

        with terminal.console.status("Building and timing baselines and corners of the space …"):
            found = plan(spec, corpus, given, directory)
        print_result(given, found, terminal, describe_plan(found))
        return FINISHED
    terminal.say(f"Study {directory.name} in {address_of(directory.parent)}")
    from search.session import run_session
    from search.summary import describe

    summary = run_session(given, spec, directory, corpus, terminal)
    print_result(given, summary, terminal, describe(summary, list(corpus.split.classes)))
    return _CODES[summary["state"]]


def compare(given: Options, terminal: Terminal) -> int:
    """Settles a study of each family, then describes or runs them all; the exit code."""
    with bar(terminal) as progress:
        root, settled, studies = comparison.settle(given, progress)
    say_corpus(studies[0][3], terminal)
    for own, spec, _, _ in studies:
        say_restrictions(own, spec, terminal)
    if given.dry_run:
        from search.preflight import describe_plans, plan

        plans = []
        for own, spec, directory, corpus in studies:
            with terminal.console.status(f"Building and timing {spec.space.title} …"):
                plans.append(plan(spec, corpus, own, directory))
        print_result(given, plans, terminal, describe_plans(plans))
        return FINISHED
    terminal.say(f"Comparison {root.name} of {len(studies)} families in {address_of(root.parent)}")
    board = comparison.run(root, settled, studies, terminal)
    print_result(given, board, terminal, comparison.describe_leaderboard(board))
    return _CODES[board["state"]]


def say_corpus(corpus: options.Corpus, terminal: Terminal) -> None:
    """One line on the data, and one for each thing that the user should know about it."""
    parts = ", ".join(f"{name} {row['clips']} of {row['groups']}" for name, row in corpus.split.summary.items())
    classes = f"{len(corpus.split.classes)} classes of {corpus.data.task}"
    terminal.say(f"{corpus.data.corpus}: {classes}; clips of groups (instruments, artists, …): {parts}")
    if corpus.store is None:
        terminal.say("The audio is not decoded yet; unusable recordings will be left out when it is.")
    else:
        lists = {"left out": corpus.store.quarantine, "repaired": corpus.store.repairs}
        found = [
            f"{rows[['split', 'path']].drop_duplicates().shape[0]} {what}" for what, rows in lists.items() if len(rows)
        ]
        if found:
            terminal.say(
                f"Recordings: {', '.join(found)}; quarantine.csv and repairs.csv say why ({corpus.store.root})."
            )
        for note in corpus.store.notes:
            terminal.say(note)
    for notice in corpus.split.notices:
        terminal.say(notice)


def say_restrictions(given: Options, spec: StudySpec, terminal: Terminal) -> None:
    """A line where a study tries less than its space holds without having been told."""
    own = [wish for wish in spec.fixed if wish not in given.fix]
    if own and not given.resume:
        terminal.say(
            f"No GPU here, so {spec.space.name} is restricted to {', '.join(own)}, its published recipes too; "
            f"--fix picture_size=… takes other sizes."
        )


def print_result(given: Options, found: object, terminal: Terminal, words: object) -> None:
    """The result as one JSON object on standard output, or as words."""
    if given.json:
        print(json.dumps(found, ensure_ascii=False), file=terminal.out)
    else:
        terminal.console.print(words)


def say_error(text: str, code: int = USER_ERROR) -> int:
    """An error in a sentence or two; the traceback only for those who ask."""
    if "--debug" in sys.argv:
        traceback.print_exc()
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
