"""What the arbiter decides, case by case; and what holds of all that it can see."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.memory.arbiter import (
    MB,
    Act,
    Decision,
    Job,
    Model,
    Observation,
    Phase,
    Policy,
    decide,
    waits_for,
)
from agent.memory.budget import Budget, Claim, needed_bytes
from agent.memory.forecast import Forecast, Part

BASE = "sha256:" + "b" * 64
POLICY = Policy(floor_bytes=200 * MB)
GRANTS = (Act.START_JOB, Act.RESUME_JOB, Act.LOAD_MODEL)


def claim(
    owner: str, work_mb: int, rest_mb: int = 0, weights_mb: int = 0, base: str = BASE
) -> Claim:
    parts = (Part("runtime", rest_mb * MB), Part("workspace", work_mb * MB))
    return Claim(owner, base, Forecast(parts, 0, weights_mb * MB))


TRAINING = claim("the training job persona", 300, 150, weights_mb=1000)
SERVED = claim("the served model", 250, weights_mb=1000)
OTHER = claim("the served model", 250, weights_mb=1000, base="sha256:" + "c" * 64)


def seen(usable_mb: int = 3000, **fields: object) -> Observation:
    """A board with so much for workers, and half of it available."""
    plain = Observation(Budget(usable_mb * MB, 0, 0), available_bytes=2000 * MB)
    return replace(plain, **fields)  # type: ignore[arg-type]


def act(observation: Observation) -> Act | None:
    decision = decide(observation, POLICY)
    return decision.act if decision else None


def running(yields: bool = True) -> Job:
    return Job(TRAINING, Phase.RUNNING, yields)


WAITING, SUSPENDED = Job(TRAINING, Phase.WAITING), Job(TRAINING, Phase.SUSPENDED)
RESTED = replace(SUSPENDED, rested=True)
HOT = "The board is hot."
BUSY = Model(SERVED, busy=True)
QUIET, IDLE = Model(SERVED, False, 31.0), Model(SERVED, False, 901.0)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        # Both fit on the pages of one base, 1,700 MB; of two bases they take 2,700 MB.
        (seen(job=WAITING), Act.START_JOB),
        (seen(job=WAITING, model=BUSY), Act.START_JOB),
        (seen(1700, job=running(), wanted=SERVED), Act.LOAD_MODEL),
        (seen(1700, job=running(), model=BUSY), None),
        # They do not: the job makes room, in place if that is enough.
        (seen(1699, job=running(), wanted=SERVED), Act.SUSPEND_JOB),
        (seen(1699, job=SUSPENDED, wanted=SERVED), Act.LOAD_MODEL),
        (seen(1399, job=running(), wanted=OTHER), Act.STOP_JOB),
        (seen(1399, job=SUSPENDED, wanted=OTHER), Act.STOP_JOB),
        (seen(1399, job=WAITING, wanted=OTHER), Act.LOAD_MODEL),
        # For a model that nobody asked for no job makes room, nor waits.
        (seen(1700, job=running(), wanted=SERVED, is_asked=False), Act.LOAD_MODEL),
        (seen(1699, job=running(), wanted=SERVED, is_asked=False), Act.REFUSE_MODEL),
        (seen(1699, job=WAITING, wanted=SERVED, is_asked=False), Act.REFUSE_MODEL),
        (seen(1399, job=SUSPENDED, wanted=OTHER, is_asked=False), Act.REFUSE_MODEL),
        (seen(wanted=SERVED, is_asked=False), Act.LOAD_MODEL),
        # A job that holds its memory is not asked.
        (seen(1699, job=running(yields=False), wanted=SERVED), Act.REFUSE_MODEL),
        (seen(1699, job=Job(TRAINING, Phase.WAITING, False), model=QUIET), Act.UNLOAD_MODEL),
        # Nothing makes room for what is larger than the board.
        (seen(1000, job=running(), wanted=SERVED), Act.REFUSE_MODEL),
        # The other model goes first, unless it answers.
        (seen(model=QUIET, wanted=OTHER), Act.UNLOAD_MODEL),
        (seen(model=BUSY, wanted=OTHER), Act.REFUSE_MODEL),
        # The job goes on when the model was quiet; where both do not fit, without it.
        (seen(1699, job=SUSPENDED, model=BUSY), None),
        (seen(1699, job=SUSPENDED, model=Model(SERVED, False, 29.0)), None),
        (seen(1699, job=SUSPENDED, model=QUIET), Act.UNLOAD_MODEL),
        (seen(1699, job=SUSPENDED), Act.RESUME_JOB),
        (seen(job=SUSPENDED, model=QUIET), Act.RESUME_JOB),
        # What the board has become too small for is refused.
        (seen(1449, job=WAITING), Act.REFUSE_JOB),
        (seen(1449, job=SUSPENDED), Act.STOP_JOB),
        # The floor: first what nobody uses, then the job.
        (seen(available_bytes=199 * MB, job=running(), model=QUIET), Act.UNLOAD_MODEL),
        (seen(available_bytes=199 * MB, job=running(), model=BUSY), Act.SUSPEND_JOB),
        (seen(available_bytes=199 * MB, job=SUSPENDED, model=BUSY), Act.STOP_JOB),
        (seen(available_bytes=199 * MB, job=running()), Act.STOP_JOB),
        (seen(available_bytes=199 * MB, job=WAITING), None),
        (seen(available_bytes=199 * MB, wanted=SERVED), Act.REFUSE_MODEL),
        (seen(available_bytes=200 * MB, job=running()), None),
        # A model that fits by the forecast, but not in what there is.
        (seen(available_bytes=449 * MB, job=running(), wanted=SERVED), Act.SUSPEND_JOB),
        (seen(available_bytes=449 * MB, job=SUSPENDED, wanted=SERVED), Act.STOP_JOB),
        (seen(available_bytes=449 * MB, wanted=SERVED), Act.REFUSE_MODEL),
        (seen(available_bytes=450 * MB, wanted=SERVED), Act.LOAD_MODEL),
        # Neither start nor resumption may lead below it.
        (seen(available_bytes=649 * MB, job=WAITING), None),
        (seen(available_bytes=650 * MB, job=WAITING), Act.START_JOB),
        (seen(available_bytes=499 * MB, job=SUSPENDED), None),
        (seen(available_bytes=500 * MB, job=SUSPENDED), Act.RESUME_JOB),
        # Pressure stops no job that has the board for itself: it reads its own weights again.
        (seen(pressure_percent=90.0, job=running()), None),
        (seen(pressure_percent=41.0, job=running(), model=QUIET), Act.UNLOAD_MODEL),
        (seen(pressure_percent=41.0, job=running(), model=BUSY), Act.SUSPEND_JOB),
        (seen(pressure_percent=40.0, job=running(), model=BUSY), None),
        # A rest suspends whatever runs, whoever else wants something, and nothing is begun in it.
        (seen(rest=HOT, job=running()), Act.SUSPEND_JOB),
        (seen(rest=HOT, job=running(yields=False)), Act.SUSPEND_JOB),
        (seen(rest=HOT, job=running(), model=QUIET, pressure_percent=90.0), Act.SUSPEND_JOB),
        (seen(rest=HOT, job=running(), wanted=SERVED), Act.SUSPEND_JOB),
        (seen(rest=HOT, job=WAITING), None),
        (seen(rest=HOT, job=SUSPENDED), None),
        (seen(1699, rest=HOT, job=RESTED, model=QUIET), None),
        (seen(rest=HOT), None),
        # Serving goes on: a request is loaded beside it, or in its place.
        (seen(1699, rest=HOT, job=RESTED, wanted=SERVED), Act.LOAD_MODEL),
        (seen(1399, rest=HOT, job=RESTED, wanted=OTHER), Act.STOP_JOB),
        (seen(1399, rest=HOT, job=replace(RESTED, yields=False), wanted=OTHER), Act.REFUSE_MODEL),
        (seen(rest=HOT, job=RESTED, model=IDLE), Act.UNLOAD_MODEL),
        (seen(available_bytes=199 * MB, rest=HOT, job=RESTED), Act.STOP_JOB),
        # Afterwards one that made room for nobody goes on beside a model that answers.
        (seen(job=RESTED), Act.RESUME_JOB),
        (seen(job=RESTED, model=BUSY), Act.RESUME_JOB),
        (seen(1699, job=RESTED, model=BUSY), None),
        (seen(1699, job=RESTED, model=QUIET), Act.UNLOAD_MODEL),
        # A model that nobody asks goes after a quarter of an hour.
        (seen(model=IDLE), Act.UNLOAD_MODEL),
        (seen(model=QUIET), None),
        (seen(), None),
    ],
)
def test_cases(observation: Observation, expected: Act | None) -> None:
    assert act(observation) is expected


def test_a_decision_says_why_with_its_numbers() -> None:
    decision = decide(seen(1699, job=running(), wanted=SERVED), POLICY)
    assert decision == Decision(
        Act.SUSPEND_JOB,
        "A request wants the served model. It needs 250 MB beside the training job persona; "
        "249 MB are free.",
    )
    refused = decide(seen(1000, job=running(False), wanted=OTHER), POLICY)
    assert refused is not None
    assert refused.reason == (
        "It needs 1,250 MB beside the training job persona; -450 MB are free."
    )
    assert decide(seen(rest=HOT, job=running()), POLICY) == Decision(Act.SUSPEND_JOB, HOT)
    assert decide(seen(job=RESTED), POLICY) == Decision(
        Act.RESUME_JOB, "What it rested for is over. It needs 1,450 MB; 3,000 MB are free."
    )
    assert decide(seen(job=replace(WAITING, rested=True)), POLICY) == Decision(
        Act.START_JOB, "What it rested for is over. It needs 1,450 MB; 3,000 MB are free."
    )
    assert waits_for(seen(rest=HOT, job=WAITING), POLICY) == HOT
    assert waits_for(seen(available_bytes=649 * MB, job=WAITING), POLICY) == (
        "Waits for memory: it needs 450 MB, and 649 MB are available."
    )


claims = st.builds(
    claim,
    st.just("x"),
    st.integers(0, 1500),
    st.integers(0, 300),
    st.integers(0, 2500),
    st.sampled_from([BASE, "sha256:" + "c" * 64]),
)
observations = st.builds(
    Observation,
    budget=st.builds(Budget, st.integers(0, 6000).map(MB.__mul__), st.just(0), st.just(0)),
    available_bytes=st.integers(0, 6000).map(MB.__mul__),
    pressure_percent=st.none() | st.floats(0, 100),
    job=st.none()
    | st.builds(Job, claims, st.sampled_from(Phase), st.booleans())
    | st.builds(Job, claims, st.just(Phase.SUSPENDED), st.booleans(), st.just(True)),
    model=st.none() | st.builds(Model, claims, st.booleans(), st.floats(0, 2000)),
    wanted=st.none() | claims,
    rest=st.sampled_from(["", HOT]),
)


def after(observation: Observation, decision: Decision) -> Observation:
    """As if it had been carried out, and nothing else had happened."""
    job = observation.job
    match decision.act:
        case Act.LOAD_MODEL:
            assert observation.wanted is not None
            return replace(observation, wanted=None, model=Model(observation.wanted, True))
        case Act.REFUSE_MODEL:
            return replace(observation, wanted=None)
        case Act.UNLOAD_MODEL:
            return replace(observation, model=None)
        case Act.REFUSE_JOB:
            return replace(observation, job=None)
    assert job is not None
    phase = {
        Act.START_JOB: Phase.RUNNING,
        Act.RESUME_JOB: Phase.RUNNING,
        Act.SUSPEND_JOB: Phase.SUSPENDED,
        Act.STOP_JOB: Phase.WAITING,
    }[decision.act]
    rested = phase is Phase.SUSPENDED and bool(observation.rest)
    return replace(observation, job=replace(job, phase=phase, rested=rested))


def course(observation: Observation) -> Iterator[tuple[Observation, Decision, Observation]]:
    """All decisions until there is none; in a world that stands still there must be an end."""
    for _ in range(8):
        decision = decide(observation, POLICY)
        if decision is None:
            return
        then = after(observation, decision)
        yield observation, decision, then
        observation = then
    raise AssertionError(f"no end: {observation}")


def held(observation: Observation) -> list[Claim]:
    job = list(observation.job.held) if observation.job else []
    return job + ([observation.model.claim] if observation.model else [])


@settings(max_examples=600)
@given(observations)
def test_always(start: Observation) -> None:
    for before, decision, then in course(start):
        is_short = before.available_bytes < POLICY.floor_bytes
        if decision.act in GRANTS:
            assert not is_short
            assert needed_bytes(held(then)) <= then.budget.usable_bytes
        if decision.act is Act.UNLOAD_MODEL:
            assert before.model is not None
            assert not before.model.busy
        if decision.act in (Act.SUSPEND_JOB, Act.STOP_JOB):
            assert before.job is not None
            assert before.job.phase is not Phase.WAITING
            pressed = (before.pressure_percent or 0) > POLICY.most_pressure_percent
            too_large = not before.budget.fits(before.job.claim)
            assert before.job.yields or is_short or pressed or too_large or before.rest
        if before.rest:
            assert decision.act not in (Act.START_JOB, Act.RESUME_JOB)
        assert decision.reason.endswith(".")


@settings(max_examples=300)
@given(observations)
def test_a_request_is_granted_where_the_board_can(start: Observation) -> None:
    """What fits alone is loaded in the end, whatever the job holds, if it yields."""
    calm = replace(start, available_bytes=6000 * MB, pressure_percent=None)
    acts = [decision.act for _, decision, _ in course(calm)]
    if calm.wanted is None or (calm.model and calm.model.busy):
        return
    if calm.budget.fits(calm.wanted) and (calm.job is None or calm.job.yields):
        assert Act.LOAD_MODEL in acts
    if not calm.budget.fits(calm.wanted):
        assert Act.REFUSE_MODEL in acts


@settings(max_examples=300)
@given(observations)
def test_no_job_computes_in_a_rest(start: Observation) -> None:
    hot = replace(start, rest=HOT)
    *_, last = [hot, *(then for _, _, then in course(hot))]
    assert last.job is None or last.job.phase is not Phase.RUNNING


@settings(max_examples=300)
@given(observations)
def test_a_rest_keeps_no_request_waiting(start: Observation) -> None:
    """What is loaded without a rest is loaded in one."""
    if start.wanted is None or start.job is None or start.job.phase is Phase.RUNNING:
        return
    for seen in (replace(start, rest=""), replace(start, rest=HOT)):
        acts = [decision.act for _, decision, _ in course(seen)]
        if not seen.rest:
            loaded = Act.LOAD_MODEL in acts
        else:
            assert (Act.LOAD_MODEL in acts) == loaded


@settings(max_examples=300)
@given(observations)
def test_a_job_goes_on_when_the_board_is_left_to_it(start: Observation) -> None:
    quiet = replace(start.model, busy=False, quiet_s=1e6) if start.model else None
    calm = replace(
        start, available_bytes=6000 * MB, pressure_percent=None, model=quiet, wanted=None, rest=""
    )
    *_, last = [calm, *(then for _, _, then in course(calm))]
    if calm.job is not None and calm.budget.fits(calm.job.claim):
        assert last.job is not None
        assert last.job.phase is Phase.RUNNING
