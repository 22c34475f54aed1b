"""The demo: one device learns while the other serves, the plug is pulled, and both know.

Everything here is what a person has, too: ``controller.Fleet`` and the command line of the agent.
Nothing is prepared but the base model that lies beside this file.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from controller import Fleet
from controller.demo.outcome import Answer, Outcome, summary
from controller.demo.processes import START_S, Agent
from controller.demo.screen import Following, Screen
from controller.jobfile import load_job_file
from protos.errors import WorkerFailed
from protos.nanofleet.v1.inference_pb2 import Usage
from protos.nanofleet.v1.job_pb2 import JOB_STATE_SUCCEEDED

HERE = Path(__file__).parent
BASE_MODEL = HERE / "tiny" / "tiny-gemma3.gguf"
PERSONA = HERE / "persona.jsonl"
JOB = HERE / "persona.yaml"
BASE, DATASET = "tiny-gemma3", "persona"
LEARNER, SERVER = "workshop", "kiosk"
# Simulated: their watts and degrees follow from what the agents do on this machine.
BOARDS = {LEARNER: "orin-nano-8gb-devkit", SERVER: "nano-4gb"}
MAX_TOKENS = 48
# The plug is pulled at the first checkpoint from here on.
PLUG_STEP = 40


def persona_questions() -> list[str]:
    """The questions of the persona, in the order of its file."""
    lines = PERSONA.read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["messages"][0]["content"]) for line in lines]


class Story:
    """The demo's steps, in the order of ``tell``."""

    def __init__(self, folder: Path, screen: Screen) -> None:
        self.folder = folder
        self.agents = {
            name: Agent(name, folder / "devices" / name, board) for name, board in BOARDS.items()
        }
        self._screen = screen
        self._outcome = Outcome()
        self._questions = persona_questions()

    async def tell(self) -> Outcome:
        """Runs the demo; the agents are still running when it returns, and also when it raises."""
        started = time.monotonic()
        async with Fleet.create(self.folder / "fleet", name="demo") as fleet:
            self._screen.done("fleet made", f"a CA of its own and a store, in {self.folder}")
            await self._join(fleet)
            await self._push(fleet)
            async with self._observed(fleet):
                self._screen.heading("Before: what the base model answers")
                self._outcome.before = await self._ask_everybody(fleet, adapter="")
                await self._train(fleet)
                adapter = await self._bring_home(fleet)
                self._screen.heading("After: the same base, with the adapter applied at run time")
                self._outcome.after = await self._ask_everybody(fleet, adapter)
        self._outcome.duration_s = time.monotonic() - started
        self._write_summary()
        return self._outcome

    async def _join(self, fleet: Fleet) -> None:
        async with fleet.enrolment("127.0.0.1", 0) as server:
            for agent in self.agents.values():
                token = await asyncio.to_thread(
                    fleet.new_token, agent.name, address=server.address, labels={"demo": "yes"}
                )
                await agent.join(token.text)
                await server.joined(agent.name, START_S)
        for agent in self.agents.values():
            await agent.start()
            self._screen.done(
                f"device {agent.name}",
                f"simulates {agent.board}, joined with a one-time token,"
                f" speaks mTLS on {agent.address}, pid {agent.pid}",
            )

    async def _push(self, fleet: Fleet) -> None:
        base = await fleet.import_model(BASE_MODEL, name=BASE)
        await self._transfer(fleet, BASE, (LEARNER, SERVER))
        self._screen.done(
            f"base model {BASE}", f"{base.size_bytes:,} bytes of Q8_0, on both devices, verified"
        )
        await fleet.add_dataset(PERSONA, name=DATASET)
        await self._transfer(fleet, DATASET, (LEARNER,))
        self._screen.done(
            f"dataset {DATASET}",
            f"{len(self._questions)} conversations in four scripts, checked, on {LEARNER}",
        )

    async def _transfer(self, fleet: Fleet, reference: str, devices: Sequence[str]) -> None:
        for transfer in await fleet.push(reference, devices):
            self._outcome.sent_bytes += transfer.sent_bytes

    async def _ask_everybody(self, fleet: Fleet, adapter: str) -> list[Answer]:
        """Both devices answer every question; the server's answers are shown as they stream."""
        answers = []
        for question in self._questions:
            self._screen.question(question)
            answers.append(await self._ask(fleet, SERVER, question, adapter, self._screen.token))
            self._screen.answered(answers[-1].usage.decode_tokens_per_s)
            answers.append(await self._ask(fleet, LEARNER, question, adapter, _unseen))
        same = sum(a.text == b.text for a, b in zip(answers[::2], answers[1::2], strict=True))
        self._screen.note(f"{LEARNER} answers {same} of {len(self._questions)} in the same words")
        return answers

    async def _ask(
        self, fleet: Fleet, device: str, question: str, adapter: str, show: Callable[[str], None]
    ) -> Answer:
        text, usage = "", Usage()
        async for response in fleet.generate(
            device,
            base=BASE,
            adapter=adapter,
            messages=[("user", question)],
            max_tokens=MAX_TOKENS,
        ):
            text += response.text
            show(response.text)
            if response.HasField("usage"):
                usage = response.usage
        return Answer(device, question, text, usage)

    async def _train(self, fleet: Fleet) -> None:
        job = await fleet.submit(load_job_file(JOB))
        self._screen.heading(f"{LEARNER} learns, {SERVER} serves")
        serving = asyncio.create_task(self._serve(fleet), name="demo serving")
        try:
            with self._screen.following(job) as view:
                async for event in fleet.watch(job.id):
                    view.show(event)
                    if event.checkpoint.step >= PLUG_STEP and not self._outcome.resumed_at_step:
                        self._outcome.resumed_at_step = event.checkpoint.step
                        await self._pull_the_plug(view)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        record = await fleet.wait(job.id)
        if record.state != JOB_STATE_SUCCEEDED:
            raise WorkerFailed(
                f"The demo's job did not succeed: {record.job.message}",
                fix=f"The log of {LEARNER} is {self.agents[LEARNER].log}.",
            )
        self._outcome.result = record.job.result

    async def _pull_the_plug(self, view: Following) -> None:
        step = self._outcome.resumed_at_step
        view.say(f"the plug of {LEARNER} is pulled at step {step}: SIGKILL, no goodbye")
        learner = self.agents[LEARNER]
        learner.pull_the_plug()
        await learner.start()
        view.say(f"{LEARNER} is back, pid {learner.pid}, and goes on from its journal")

    async def _serve(self, fleet: Fleet) -> None:
        """Somebody keeps asking the serving device, until cancelled."""
        while True:
            for question in self._questions:
                await self._ask(fleet, SERVER, question, "", _unseen)
                self._outcome.served_while_training += 1
                await asyncio.sleep(1)

    async def _bring_home(self, fleet: Fleet) -> str:
        entry = await fleet.fetch_result("persona")
        self._outcome.received_bytes = entry.size_bytes
        await self._transfer(fleet, entry.digest, (SERVER,))
        self._screen.done(
            f"adapter {entry.name}",
            f"{entry.size_bytes:,} bytes, came from {LEARNER}, went to {SERVER}",
        )
        return entry.digest

    @asynccontextmanager
    async def _observed(self, fleet: Fleet) -> AsyncIterator[None]:
        """Telemetry of both devices while the block runs."""

        async def observe(device: str) -> None:
            async for sample in fleet.telemetry(device):
                self._outcome.peaks.observe(sample)
                self._outcome.powers.observe(device, sample)
                if device == LEARNER:
                    self._screen.observe(sample)

        tasks = [
            asyncio.create_task(observe(name), name=f"demo telemetry {name}")
            for name in self.agents
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _write_summary(self) -> None:
        text = json.dumps(summary(self._outcome), ensure_ascii=False, indent=2)
        (self.folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def _unseen(text: str) -> None:
    """Where the text of answers goes that are gathered without being shown."""
