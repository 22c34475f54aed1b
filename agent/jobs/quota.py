"""How much a job may write into the journal, which shares the card with the models.

Progress is thinned by its step: all of the first 4,096 steps, every second one up to 8,192, every
fourth up to 16,384, and so on, and the last. A million steps leave 20,000 events, and their curve
has the same detail everywhere on a logarithmic scale. What is thinned never gets a number, so there
is no gap; the job's newest progress is kept with the job itself, whatever its step.

Everything but transitions counts towards MOST_EVENTS. A job that reaches it says so once, and then
goes on without further events of that kind; its worker's log on the device has the rest.
"""

from protos.nanofleet.v1.job_pb2 import TrainProgress

EVERY_STEP_UP_TO = 4096
MOST_EVENTS = 50_000
MOST_LINE_CHARACTERS = 4096

REACHED = (
    f"This job has {MOST_EVENTS:,} events: from here on only changes of its state become events. "
    "Its newest progress is in `job show`, and its worker's log on the device."
)


def is_kept(progress: TrainProgress) -> bool:
    """Whether a step's progress becomes an event."""
    stride = 1
    while progress.step >= EVERY_STEP_UP_TO * stride:
        stride *= 2
    return progress.step % stride == 0 or progress.step == progress.total_steps


def line(text: str) -> str:
    """A line of the log, cut where somebody prints a tensor."""
    if len(text) <= MOST_LINE_CHARACTERS:
        return text
    return f"{text[:MOST_LINE_CHARACTERS]} … ({len(text):,} characters)"
