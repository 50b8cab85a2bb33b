"""The main command with the family of these tests for one more: python -m tests.faults.driver SECONDS TRACE OPTIONS…"""

import sys
from pathlib import Path

import spaces
from search import run
from tests.faults import family


def main() -> None:
    """Takes its own two arguments off the command line and leaves the rest to search/run.py."""
    _, seconds, trace, *options = sys.argv
    known, load = spaces.names, spaces.load
    made = family.space(float(seconds), Path(trace))
    spaces.names = lambda: (*known(), family.NAME)
    spaces.load = lambda name: made if name == family.NAME else load(name)
    sys.argv = ["search/run.py", *options]
    run.main()


if __name__ == "__main__":
    main()
