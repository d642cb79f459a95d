"""Find and load a published sequence classifier, whole or as a PEFT adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification

from lightning_rlhf.models import loading
from lightning_rlhf.models.lora import SCORE, WEIGHTS_FILE


class ClassifierFiles(NamedTuple):
    """Where a classifier's parts are."""

    name: str  # as it was given
    model: str  # folder or hub id of the whole model, or of the adapter's base
    adapter: Path | None  # folder of a PEFT adapter
    tokenizer: str  # folder or hub id
    config: Any  # of the whole model

    @classmethod
    def find(cls, name_or_path: str) -> ClassifierFiles:
        """Find a classifier by its folder or hub id.

        Raises:
            FileNotFoundError: there is no such model.
        """
        adapter = loading.adapter_folder(name_or_path)
        if adapter is None:
            model = loading.resolve(name_or_path)
            return cls(name_or_path, model, None, model, AutoConfig.from_pretrained(model))
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        model = loading.resolve(settings["base_model_name_or_path"])
        own = (adapter / "tokenizer_config.json").is_file()
        config = AutoConfig.from_pretrained(model, num_labels=_outputs(adapter))
        return cls(name_or_path, model, adapter, str(adapter) if own else model, config)

    @property
    def context_length(self) -> int | None:
        """Number of tokens that it can read; None if its config names none."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def output(self, label: str | None) -> int:
        """Find the index of an output by its label.

        Raises:
            ValueError: it has several and no label is given, or none has this label.
        """
        names = {str(self.config.id2label[i]): i for i in range(self.config.num_labels)}
        if label is None and self.config.num_labels == 1:
            return 0
        if label is None:
            raise ValueError(
                f"{self.name} has {self.config.num_labels} outputs: give label=, one of "
                f"{', '.join(names)}"
            )
        if label not in names:
            raise ValueError(f"{self.name} has no output {label!r}: give one of {', '.join(names)}")
        return names[label]

    def check_head(self) -> None:
        """Check that its weights hold the head, which transformers would draw at random.

        Raises:
            ValueError: they do not.
        """
        if self.adapter is not None:
            if _outputs(self.adapter) == 0:
                self._refuse_head()
            return
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(self.config)
        base = f"{model.base_model_prefix}."
        head = [name for name, _ in model.named_parameters() if not name.startswith(base)]
        there = loading.tensor_names(self.model)
        if there is not None and not there & set(head):
            self._refuse_head()

    def load(self, quantization: loading.Quantization | None, device: torch.device) -> Any:
        """Load its weights on a device.

        Raises:
            ValueError: its head is not among them.
        """
        kwargs: dict[str, Any] = {"dtype": loading.torch_dtype("auto"), "config": self.config}
        if quantization == "nf4":
            kwargs["quantization_config"] = loading.nf4_config(kwargs["dtype"])
        if device.type != "cpu":
            kwargs["device_map"] = {"": device}
        model, info = AutoModelForSequenceClassification.from_pretrained(
            self.model, output_loading_info=True, **kwargs
        )
        if self.adapter is not None:
            model = PeftModel.from_pretrained(model, str(self.adapter))
        elif info["missing_keys"]:
            self._refuse_head()
        loading.guard_4bit_on_cpu(model)
        return model.eval()

    def _refuse_head(self) -> None:
        raise ValueError(
            f"{self.name} holds no weights of a classification head, so its scores would be "
            "random: give a model trained as a sequence classifier"
        )


def _outputs(adapter: Path) -> int:
    """Count the outputs of an adapter's head; 0 without one."""
    with safe_open(adapter / WEIGHTS_FILE, "pt") as file:
        return int(file.get_slice(SCORE).get_shape()[0]) if SCORE in file.keys() else 0  # noqa: SIM118
