"""The embedded model's likelihoods by transformers in float32: one text at a time, without batches and without any cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Reference:
    """A converted model with its 8-bit weights multiplied out; its activations are not rounded."""

    def __init__(self, folder: Path) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
        del config.quantization_config
        self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        saved = load_file(folder / "model.safetensors")
        weights = {n: t.float() * saved.get(f"{n}_scale", 1.0) for n, t in saved.items() if not n.endswith("_scale")}
        left = self._model.load_state_dict(weights, strict=False)
        assert (set(left.missing_keys) <= {"lm_head.weight"}, left.unexpected_keys) == (True, [])
        self._model.tie_weights()

    def save(self, folder: Path) -> None:
        """For another engine to compute the same."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def likelihood(self, messages: list[dict[str, Any]], answer: str) -> tuple[float, int]:
        """log p(answer | messages) with the end of turn, in nats, and its tokens."""
        torch = self._torch
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before = self._tokenizer.encode(text, add_special_tokens=False)
        after = [*self._tokenizer.encode(answer, add_special_tokens=False), self._tokenizer.eos_token_id]
        with torch.no_grad():
            logits = self._model(torch.tensor([before + after])).logits[0]
        rows = torch.log_softmax(logits[len(before) - 1 : -1], dim=-1)
        return float(rows[torch.arange(len(after)), torch.tensor(after)].sum()), len(after)
