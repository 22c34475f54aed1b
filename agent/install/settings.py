"""The first agent.toml of a device: what its board's profile recommends, for a person to change."""

from jetson.profiles import Profile

_OTHER = "# Settings of nanofleet-agent: all are in docs/agent.md, and have defaults.\n"
_BOARD = """\
# Settings of nanofleet-agent for {name}; all of them are in docs/agent.md.
# {fits}
# llama.cpp, when it is built elsewhere for this board:
#   CMAKE_ARGS="{cmake_args}"

[memory]
most_mib = {memory_budget_mib}

[training]
threads = {training_threads}  # it computes in {data_type}, unless measured otherwise

[inference]
threads = {inference_threads}
context_length = {context_length}
engine = "{engine}"
"""
_FITS = {
    "both": "A model of 1B parameters in Q8_0 trains and answers here at once.",
    "serving": "A model of 1B parameters in Q8_0 answers here; to train one, take a smaller base.",
}


def settings(profile: Profile | None) -> str:
    """The file's text; without a profile a file in which everything is yet to be written."""
    if profile is None:
        return _OTHER
    return _BOARD.format(
        name=profile.name,
        fits=_FITS[profile.fits_1b],
        cmake_args=profile.cmake_args,
        memory_budget_mib=profile.memory_budget_mib,
        training_threads=profile.training_threads,
        inference_threads=profile.inference_threads,
        data_type=profile.data_type,
        context_length=profile.context_length,
        engine=profile.engine,
    )
