"""A GGUF file from elsewhere trains and serves when its tensors and its tokenizer are supported."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from agent.training import graph
from agent.training.weights import MappedWeights
from artifacts import base_model, fitness
from artifacts.convert import convert_adapter
from artifacts.convert.check_text import CHECK_TEXTS
from protos.errors import InvalidRequest
from tests import llama
from tests.agent.training import foreign, reference
from tests.agent.training.foreign import Kind, Mix
from tests.agent.training.test_families import recipe
from tests.agent.training.test_graph import sample, trained_model
from tests.artifacts.convert import shapes

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def all_of(matrices: Kind, vectors: Kind = Kind.F32) -> Mix:
    return lambda name: matrices if _is_matrix(name) else vectors


def half_sized_ends(name: str) -> Kind:
    """As files for small boards have it: eight bits, and the embedding in sixteen."""
    if not _is_matrix(name):
        return Kind.F32
    return Kind.F16 if name in ("token_embd.weight", "output.weight") else Kind.Q8_0


def _is_matrix(name: str) -> bool:
    return "norm" not in name and not name.endswith(".bias")


MIXES: dict[str, Mix] = {
    "F16": all_of(Kind.F16),
    "BF16": all_of(Kind.BF16),
    "Q8_0": all_of(Kind.Q8_0),
    "Q4_0": all_of(Kind.Q4_0),
    "Q8_0, ends F16": half_sized_ends,
}


@pytest.fixture(scope="module", params=shapes.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.build(request.param, tmp_path_factory.mktemp("foreign") / request.param)


@pytest.mark.parametrize("name", MIXES)
def test_it_trains_and_serves(folder: Path, tmp_path: Path, name: str) -> None:
    file = foreign.write(folder, tmp_path / "foreign.gguf", MIXES[name])
    base = base_model.read(file)
    assert fitness.warnings(base) == []

    model = trained_model(base, recipe())
    stock = reference.stock_lora(folder, file, recipe(), model)
    tokens = sample().tokens
    loss, expected = (
        model.summed_loss(sample()),
        reference.summed_loss(stock, tokens, sample().labelled),
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for path, parameter in reference.parameters(stock).items():
        found, wanted = model.parameters[path].grad, parameter.grad
        assert found is not None, path
        assert wanted is not None, path
        assert (found - wanted).norm() <= 1e-5 * wanted.norm(), path

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    dequantised = reference.stock_model(folder, file)
    with llama.reference(file) as served:
        logits = served.logits(tokens.tolist())
        assert [served.tokens(text) for text in CHECK_TEXTS] == [
            tokenizer.encode(text).ids for text in CHECK_TEXTS
        ]
    assert shapes.divergence(shapes.logits(dequantised, tokens.tolist()), logits) < 1e-4


@pytest.mark.parametrize("vectors", [Kind.F16, Kind.BF16])
def test_norms_of_sixteen_bits_are_trained_on(folder: Path, tmp_path: Path, vectors: Kind) -> None:
    file = foreign.write(folder, tmp_path / "foreign.gguf", all_of(Kind.Q8_0, vectors))
    model = trained_model(base_model.read(file), recipe())
    stock = reference.stock_lora(folder, file, recipe(), model)
    expected = reference.summed_loss(stock, sample().tokens, sample().labelled)
    assert model.summed_loss(sample()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_adapter_of_pefts_fits_it(folder: Path, tmp_path: Path) -> None:
    """Also where the width of a head is not written, because it follows."""
    file = foreign.write(folder, tmp_path / "foreign.gguf", all_of(Kind.F32))
    adapted = shapes.write_adapter(shapes.load(folder), tmp_path / "peft")
    convert_adapter(tmp_path / "peft", file, tmp_path / "adapter.gguf")
    tokens = shapes.prompt()
    with llama.reference(file) as served:
        served.use_adapter(tmp_path / "adapter.gguf")
        found = served.logits(tokens)
    assert np.abs(found - shapes.logits(adapted, tokens)).max() < shapes.EXACT


def test_a_type_that_is_not_trained_on_is_served(tmp_path: Path) -> None:
    """Q5_0 stands for all of them, K-quants included: the gguf package can write it."""
    folder = shapes.build("llama", tmp_path / "llama")
    file = foreign.write(folder, tmp_path / "foreign.gguf", all_of(Kind.Q5_0))
    base = base_model.read(file)
    (warning,) = fitness.warnings(base)
    assert "It is served, and cannot be trained on: token_embd.weight has the type Q5_0" in warning
    with llama.reference(file) as served:
        logits = served.logits(shapes.prompt())
    assert shapes.divergence(shapes.logits(shapes.load(folder), shapes.prompt()), logits) < 1e-2
    with pytest.raises(InvalidRequest, match=r"weight has the type Q5_0.*Import it again as q8_0"):
        graph.build(base, MappedWeights(base, torch.float32), recipe())


def test_another_architecture_is_accepted_with_a_warning(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (warning,) = fitness.warnings(base_model.read(tmp_path / "mamba.gguf"))
    assert "architecture mamba" in warning
    assert "not trained" in warning
