"""Rounds a saved model's linear layers to 8-bit integers, in the format vLLM loads them from (compressed-tensors, W8A8).

On processors without matrix units for bfloat16, 8-bit products are what makes prompts quick. Weights get one scale per
output channel; activations are scaled per token while the model runs, so no calibration data is needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["quantise"]

BITS = 8


def quantise(folder: Path) -> None:
    """Replace the weights of every `*_proj` layer in `folder/model.safetensors` by int8 ones, and say so in config.json.

    Embeddings, norms and the output layer stay as they are.

    Args:
        folder: of a model saved by transformers in one file.

    Raises:
        OSError: a file is missing or cannot be written.
    """
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors: dict[str, Any] = {}
    for name, tensor in load_file(file).items():
        if name.endswith("_proj.weight"):
            tensors[name], tensors[f"{name}_scale"] = _rounded(tensor)
        else:
            tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = _scheme()
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _rounded(weight: Any) -> tuple[Any, Any]:
    """(out, in) weights as int8, and their (out, 1) float32 scales: weight is about int8 * scale."""
    import torch

    values = weight.float()
    top = 2 ** (BITS - 1) - 1
    scale = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / top
    return torch.clamp(torch.round(values / scale), -top, top).to(torch.int8), scale


def _scheme() -> dict[str, Any]:
    numbers = {"num_bits": BITS, "type": "int", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**numbers, "strategy": "channel", "dynamic": False},
                "input_activations": {**numbers, "strategy": "token", "dynamic": True},
            }
        },
    }
