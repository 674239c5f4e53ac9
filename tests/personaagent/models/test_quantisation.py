from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from personaagent.models.quantisation import quantise

LAYER = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {
        LAYER: torch.randn(24, 16) * torch.logspace(-3, 2, 24)[:, None],  # channels of very different size
        "model.layers.0.self_attn.q_proj.weight": torch.zeros(8, 16),
        "model.embed_tokens.weight": torch.randn(10, 16),
        "model.norm.weight": torch.ones(16),
    }
    save_file({name: t.to(torch.bfloat16) for name, t in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"hidden_size": 16}')
    return tmp_path


def test_every_channel_keeps_its_values_to_half_a_step(folder: Path) -> None:
    before = load_file(folder / "model.safetensors")
    quantise(folder)
    after = load_file(folder / "model.safetensors")
    weight, scale = after[LAYER], after[f"{LAYER}_scale"]
    assert (weight.dtype, scale.shape) == (torch.int8, (24, 1))
    assert ((weight.float() * scale - before[LAYER].float()).abs() <= scale * 0.5001).all()
    zeros = "model.layers.0.self_attn.q_proj.weight"
    assert (after[zeros].float() * after[f"{zeros}_scale"]).abs().max() == 0
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(after[name], before[name])


def test_the_configuration_says_how(folder: Path) -> None:
    quantise(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_size"] == 16
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "lm_head" in config["quantization_config"]["ignore"]


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):
        quantise(tmp_path)
