"""A client that leaves while its model is being loaded."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.memory.budget import Budget
from agent.memory.claims import Claims
from agent.memory.residents import Residents
from agent.serving.adapters import Adapters
from agent.serving.host import HostMeans, ModelHost
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from jetson.memory import read_memory
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_BASE_MODEL


async def test_a_load_that_is_given_up_leaves_no_pin(tmp_path: Path, tiny_base: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts", reserve_bytes=0)
    base = store.add_file(tiny_base, ARTIFACT_KIND_BASE_MODEL).digest
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    memory = read_memory()
    assert memory is not None
    (tmp_path / "workers").mkdir()
    host = ModelHost(
        HostMeans(
            store=store,
            launcher=Launcher(tmp_path / "workers", "boot-1"),
            adapters=Adapters(store, tmp_path / "adapters"),
            log=tmp_path / "log",
            context_length=64,
            threads=1,
            residents=Residents(Claims(Budget.measured(memory, 1 << 20))),
        )
    )
    for turns in range(1, 5):
        loading = asyncio.create_task(host.load(base))
        for _ in range(turns):
            await asyncio.sleep(0)
        loading.cancel()
        await asyncio.wait([loading])
        await asyncio.to_thread(int)  # behind whatever the load has left under way
        found = store.stat(base)
        assert found is not None
        assert found.pins == ()
        assert host.loaded() is None
