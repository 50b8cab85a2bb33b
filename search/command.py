"""What the command line asks for, from top to bottom: settle the study, describe or run it, say what came out."""

import json

from rich.console import RenderableType

from search import comparison, options, versions
from search.mirror import address_of
from search.options import Options
from search.progress import Terminal, bar
from search.run import FAILED, FINISHED, INTERRUPTED
from search.study import StudySpec
from trainables.corpora.giveaways import giveaways

_CODES = {"finished": FINISHED, "failed": FAILED, "interrupted": INTERRUPTED}


def run(given: Options, terminal: Terminal) -> int:
    """Settles the study, then describes or runs it; the exit code."""
    versions.check()
    if comparison.asked(given):
        return compare(given, terminal)
    with bar(terminal) as progress:
        spec, directory, corpus = options.settle(given, progress)
    say_corpus(corpus, terminal, dry_run=given.dry_run)
    say_restrictions(given, spec, terminal)
    if given.dry_run:
        from search.preflight import describe_plan, plan

        with terminal.busy("Building and timing baselines and corners of the space …"):
            found = plan(spec, corpus, given, directory)
        print_result(given, found, terminal, describe_plan(found))
        return FINISHED
    terminal.say(f"Study {directory.name} in {address_of(directory.parent)}")
    from search.session import run_session
    from search.summary import describe

    summary = run_session(given, spec, directory, corpus, terminal)
    print_result(given, summary, terminal, describe(summary, corpus.split))
    return _CODES[summary["state"]]


def compare(given: Options, terminal: Terminal) -> int:
    """Settles a study of each family, then describes or runs them all; the exit code."""
    with bar(terminal) as progress:
        root, settled, studies = comparison.settle(given, progress)
    say_corpus(studies[0][3], terminal, dry_run=given.dry_run)
    for own, spec, _, _ in studies:
        say_restrictions(own, spec, terminal)
    if given.dry_run:
        from search.preflight import describe_plans, plan

        plans = []
        for number, (own, spec, directory, corpus) in enumerate(studies, start=1):
            with terminal.busy(f"Building and timing {spec.space.title}, {number} of {len(studies)} …"):
                plans.append(plan(spec, corpus, own, directory))
        print_result(given, plans, terminal, describe_plans(plans))
        return FINISHED
    terminal.say(f"Comparison {root.name} of {len(studies)} families in {address_of(root.parent)}")
    board = comparison.run(root, settled, studies, terminal)
    print_result(given, board, terminal, comparison.describe_leaderboard(board))
    return _CODES[board["state"]]


def say_corpus(corpus: options.Corpus, terminal: Terminal, *, dry_run: bool) -> None:
    """One line on the data, and one for each thing that the user should know about it."""
    parts = ", ".join(f"{name} {row['clips']} in {row['groups']}" for name, row in corpus.split.summary.items())
    classes = f"{len(corpus.split.classes)} classes of {corpus.data.task}"
    terminal.say(f"{corpus.data.corpus}: {classes}; clips in groups (instruments, artists or single clips): {parts}")
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
        for note in (*corpus.store.notes, *giveaways(corpus.store, corpus.split)):
            terminal.say(note)
    for notice in corpus.split.notices:
        terminal.say(notice)
    if dry_run:  # a study says it at its end, beside its scores
        for doubt in corpus.split.doubts():
            terminal.say(doubt)


def say_restrictions(given: Options, spec: StudySpec, terminal: Terminal) -> None:
    """A line where a study tries less than its space holds without having been told."""
    own = [wish for wish in spec.fixed if wish not in given.fix]
    if own and not given.resume:
        terminal.say(
            f"No GPU here, so {spec.space.name} is restricted to {', '.join(own)}, its published recipes too; "
            f"--fix picture_size=… takes other sizes."
        )


def print_result(given: Options, found: object, terminal: Terminal, words: RenderableType) -> None:
    """The result as one JSON object on standard output, or as words."""
    if given.json:
        print(json.dumps(found, ensure_ascii=False), file=terminal.out)
    else:
        terminal.show(words)
