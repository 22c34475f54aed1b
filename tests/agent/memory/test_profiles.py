"""What a board's profile says of a 1B model is what the forecast says."""

import pytest

from agent.memory.budget import Claim, needed_bytes
from agent.memory.forecast import inference_forecast
from jetson.profiles import Profile, load
from tests.agent.memory.models import ALL, DIGEST, forecast_of, gemma_3_1b, recipe

MIB = 1 << 20


@pytest.mark.parametrize("profile", load(), ids=lambda profile: profile.name)
def test_it_fits_as_the_profile_says(profile: Profile) -> None:
    """The recipe's defaults in float32, beside the model that is served: the most that a board is
    asked for."""
    base = gemma_3_1b()
    server = Claim("", DIGEST, inference_forecast(base, profile.context_length, profile.engine))
    trainer = Claim("", DIGEST, forecast_of(base, recipe(targets=ALL)))
    budget_bytes = profile.memory_budget_mib * MIB
    fits_both = needed_bytes([server, trainer]) <= budget_bytes
    fits_trainer = needed_bytes([trainer]) <= budget_bytes
    fits_server = needed_bytes([server]) <= budget_bytes
    assert fits_server
    assert fits_both == fits_trainer == (profile.fits_1b == "both")
