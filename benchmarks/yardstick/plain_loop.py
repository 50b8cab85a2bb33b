"""The floor: a plain loop over the configurations, a process per slot, each with its share of the list."""

import sys

from jobs import Job, in_slots


def main() -> None:
    """Starts the slots, or works one off."""
    job = Job.read(sys.argv[1])
    if len(sys.argv) == 2:
        in_slots(__file__, job)
        return
    from trials import train

    for number in range(int(sys.argv[2]), len(job.points), job.slots):
        for _ in train(job, number):
            pass


if __name__ == "__main__":
    main()
