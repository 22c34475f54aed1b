"""A wrong recipe is refused at once, with the field and what it may be."""

import pytest

from agent.training import recipe as recipes
from agent.training.failures import TrainingFailure
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2
from tests.agent.training.driver import recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"accumulation": 0}, "accumulation is 0; it must be at least 1"),
        ({"sequence_length": 1}, "from 2 to the base model's 2048"),
        ({"sequence_length": 2049}, "sequence_length is 2049; it must be from 2 to"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"warmup_fraction": 1.5}, "warmup_fraction is 1.5; it must be from 0 to 1"),
        ({"gradient_clip": -1.0}, "gradient_clip is -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"schedule": job_pb2.SCHEDULE_UNSPECIFIED}, "constant, linear or cosine"),
        ({"schedule": 77}, "schedule is 77"),
        ({"lora_rank": 0}, "lora.rank is 0; it must be from 1 to 128"),
        ({"lora_rank": 129}, "lora.rank is 129"),
        ({"lora_alpha": 0.0}, "lora.alpha is 0.0"),
        ({"lora_dropout": 1.0}, "lora.dropout is 1.0; it must be from 0 to below 1"),
        ({"lora_targets": []}, "lora.targets is empty; it must be one or more of q_proj"),
        ({"lora_targets": ["q_proj", "lm_head"]}, "lora.targets is lm_head"),
    ],
)
def test_refused(base: BaseModel, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingFailure) as caught:
        recipes.check(recipe(**changes), base)
    assert message in caught.value.message
    assert caught.value.cause == job_pb2.CAUSE_BAD_SPEC


def test_accepted(base: BaseModel) -> None:
    recipes.check(recipe(), base)
    recipes.check(recipe(warmup_fraction=1.0, gradient_clip=0.0, sequence_length=2048), base)
