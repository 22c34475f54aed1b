"""What waits for a client that reads slowly."""

from agent.serving.generation import Generation, Results
from protos.errors import WorkerFailed
from protos.nanofleet.v1.inference_pb2 import (
    FINISH_REASON_STOP,
    Candidate,
    GenerateResponse,
    ScoreResponse,
    TokenLogprob,
)
from protos.transport import MAX_MESSAGE_BYTES


def piece(number: int, alternatives: int = 0) -> GenerateResponse:
    candidate = Candidate(token_id=number, logprob=-0.5, piece="और".encode())
    logprob = TokenLogprob(chosen=candidate, top=[candidate] * alternatives)
    return GenerateResponse(text="x", token_ids=[number], logprobs=[logprob])


async def test_pieces_are_merged_into_one() -> None:
    generation = Generation(1)
    for number in range(10):
        generation.add(piece(number))
    generation.add(GenerateResponse(finish_reason=FINISH_REASON_STOP))
    (whole,) = [response async for response in generation.responses()]
    assert whole.text == "x" * 10
    assert list(whole.token_ids) == [entry.chosen.token_id for entry in whole.logprobs]
    assert whole.finish_reason == FINISH_REASON_STOP


async def test_no_message_is_larger_than_one_may_be() -> None:
    generation = Generation(1)
    for number in range(9000):
        generation.add(piece(number, alternatives=20))
    generation.add(GenerateResponse(finish_reason=FINISH_REASON_STOP))
    responses = [response async for response in generation.responses()]
    assert max(response.ByteSize() for response in responses) < MAX_MESSAGE_BYTES
    tokens = [token for response in responses for token in response.token_ids]
    assert tokens == list(range(9000))


async def test_results_are_given_one_by_one_and_what_came_before_a_failure() -> None:
    results = Results[ScoreResponse](1, count=3)
    for index in range(2):
        results.add(ScoreResponse(index=index))
    assert not results.ended
    results.fail(WorkerFailed("It died."))
    seen = []
    try:
        async for response in results.responses():
            seen.append(response.index)
    except WorkerFailed:
        seen.append(-1)
    assert seen == [0, 1, -1]
