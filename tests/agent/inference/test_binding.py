import pytest

from agent.inference import binding
from protos.errors import WorkerFailed


def test_the_installed_binding_is_the_one_that_this_was_written_for() -> None:
    binding.start()
    binding.start()


def test_another_version_is_refused_with_the_command_that_helps() -> None:
    with pytest.raises(WorkerFailed, match=r"0\.4\.0 is installed.*pip install") as raised:
        binding.check_version("0.4.0")
    assert binding.PINNED in str(raised.value)


@pytest.mark.parametrize("calls", [{"llama_decode": 3}, {"llama_kv_self_clear": 1}])
def test_a_signature_that_moved_is_named(calls: dict[str, int]) -> None:
    with pytest.raises(WorkerFailed, match=next(iter(calls))):
        binding.check_calls(calls)


def test_the_log_explains_the_last_failure(capsys: pytest.CaptureFixture[str]) -> None:
    log = binding.LogTail()
    assert log.explanation() == "llama.cpp gave no reason."
    for level, text in [(2, "loading\n"), (4, "bad magic\n"), (5, "!\n"), (4, "bad magic\n")]:
        log.add(level, text)
    log.add(3, "a warning\n")
    assert log.explanation() == "llama.cpp says: bad magic; !."
    assert capsys.readouterr().err == "bad magic\n!\nbad magic\na warning\n"
    log.clear()
    assert log.explanation() == "llama.cpp gave no reason."
