"""An inference worker that opens a model, and answers what is no report, or nothing."""

import os
import signal

from agent.workers.channel import attach
from protos.nanofleet.v1.inference_pb2 import GenerateResponse
from protos.nanofleet.v1.worker_pb2 import (
    GenerationChunk,
    InferenceCommand,
    InferenceReport,
    ModelOpened,
)

NO_MESSAGE = b"\xff\xff\xff"


def main() -> None:
    commands, reports = attach(None, InferenceCommand)
    while (command := commands.read()) is not None:
        match command.WhichOneof("command"):
            case "open":
                reports.write(InferenceReport(opened=ModelOpened(context_length=64)))
            case "start" if command.start.request.prompt == "open":
                reports.write(InferenceReport(opened=ModelOpened()))
            case "start" if command.start.request.prompt == "hang":
                signal.pause()
            case "start":
                chunk = GenerationChunk(
                    request_id=command.start.request_id, response=GenerateResponse(text="Once")
                )
                reports.write(InferenceReport(chunk=chunk))
                descriptor = reports._descriptor
                os.write(descriptor, len(NO_MESSAGE).to_bytes(4, "big") + NO_MESSAGE)
                while True:  # it would not end by itself
                    signal.pause()


if __name__ == "__main__":
    main()
