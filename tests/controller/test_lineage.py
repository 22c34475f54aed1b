"""On which base models of a fleet an adapter is served."""

import pytest

from controller.catalogue import ADAPTER, BASE_MODEL
from controller.lineage import is_sibling, serving_bases
from controller.records import CatalogueEntry


def model(digest: str, file_type: str, source: str | None = "weights") -> CatalogueEntry:
    return CatalogueEntry(
        digest, digest, 1, BASE_MODEL, {"file_type": file_type, "source_digest": source}
    )


def adapter(base: str, source: str | None = "weights") -> CatalogueEntry:
    return CatalogueEntry(
        "persona", "adapter", 1, ADAPTER, {"base_digest": base, "source_digest": source}
    )


QINT8, Q8, Q4 = model("qint8", "QINT8"), model("q8", "Q8_0"), model("q4", "Q4_0")
OTHER, OLD = model("other", "Q8_0", "other weights"), model("old", "Q8_0", None)


@pytest.mark.parametrize(
    ("trained_on", "models", "expected"),
    [
        (adapter("q8"), [QINT8, Q8, Q4], ["q8"]),
        (adapter("qint8"), [QINT8, OTHER, Q8], ["q8"]),
        (adapter("qint8"), [QINT8, Q8, OLD, Q4], ["q8", "q4"]),
        # The device says what is lacking.
        (adapter("qint8"), [QINT8, OTHER, OLD], ["qint8"]),
        (adapter("qint8", None), [model("qint8", "QINT8", None), Q8, OLD], ["qint8"]),
        # Trained elsewhere, on what this fleet's own store has not.
        (adapter("unknown"), [Q8], ["unknown"]),
    ],
    ids=["its own", "the sibling", "several", "none", "from before sources", "not here"],
)
def test_its_own_base_or_those_of_the_same_weights(
    trained_on: CatalogueEntry, models: list[CatalogueEntry], expected: list[str]
) -> None:
    assert serving_bases(trained_on, models) == expected


def test_siblings_are_others_of_the_same_weights() -> None:
    siblings = [one.digest for one in (QINT8, Q8, Q4, OTHER, OLD) if is_sibling(adapter("q8"), one)]
    assert siblings == ["qint8", "q4"]
    assert not any(is_sibling(adapter("old", None), one) for one in (Q8, OLD))
