"""Names of models: every base, with each adapter that it serves."""

import pytest

from controller.catalogue import ADAPTER, BASE_MODEL, DATASET
from controller.gateway import models
from controller.records import CatalogueEntry
from protos.errors import InvalidRequest, NotFound


def base(name: str, file_type: str = "Q8_0", source: str | None = None) -> CatalogueEntry:
    told = {"file_type": file_type, "source_digest": source}
    return CatalogueEntry(name, f"sha256:{name}", 1, BASE_MODEL, told)


def adapter(name: str, trained_on: str, source: str | None = None) -> CatalogueEntry:
    told = {"base_digest": f"sha256:{trained_on}", "source_digest": source}
    return CatalogueEntry(name, f"sha256:{name}", 1, ADAPTER, told)


FLEET = (
    base("gemma", source="g"),
    base("gemma-q4", "Q4_0", "g"),
    base("gemma-qint8", "QINT8", "g"),
    base("qwen"),
    base(""),
    adapter("persona", "gemma-qint8", "g"),
    adapter("tone", "qwen"),
    adapter("lost", "elsewhere"),
    CatalogueEntry("data", "sha256:data", 1, DATASET),
)
ALL = ["gemma", "gemma:persona", "gemma-q4", "gemma-q4:persona", "qwen", "qwen:tone"]


def test_bases_that_can_be_served_each_with_its_adapters() -> None:
    found = models.every(FLEET)
    assert list(found) == ALL
    assert all(model.id == name for name, model in found.items())


def test_a_name_may_say_who_answers() -> None:
    model, selector = models.named(models.every(FLEET), "gemma:persona@site=lab,mem>=3Gi")
    assert (model.base_digest, model.adapter_digest) == ("sha256:gemma", "sha256:persona")
    assert [term.text for term in selector.terms] == ["site=lab", "mem>=3Gi"]
    assert not models.named(models.every(FLEET), "gemma")[1].terms
    with pytest.raises(InvalidRequest, match="selector"):
        models.named(models.every(FLEET), "gemma@site is lab")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gema", "Did you mean gemma"),
        ("tone", "Did you mean qwen:tone?"),
        ("gpt-4o", "There is gemma, gemma:persona"),
        ("", "There is gemma"),
    ],
)
def test_a_wrong_name_is_told_near_ones(name: str, said: str) -> None:
    with pytest.raises(NotFound, match="no model") as caught:
        models.named(models.every(FLEET), name)
    assert said in caught.value.fix
    assert caught.value.field == "model"


def test_an_empty_fleet_says_how_to_fill_it() -> None:
    with pytest.raises(NotFound, match="nanofleet model import"):
        models.named({}, "gemma")


def test_some_can_be_offered_alone() -> None:
    found = models.every(FLEET)
    assert list(models.only(found, ["qwen:tone", "gemma"])) == ["qwen:tone", "gemma"]
    assert list(models.only(found, [])) == ALL
    with pytest.raises(NotFound, match="'gemm'"):
        models.only(found, ["qwen", "gemm"])


def test_other_weights_have_another_fingerprint() -> None:
    assert len({model.fingerprint for model in models.every(FLEET).values()}) == len(ALL)
