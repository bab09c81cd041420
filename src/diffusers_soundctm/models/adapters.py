"""LoRA adapters of a SoundCTM network: diffusers' own methods, extended to the parameters of s and ω."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders import PeftAdapterMixin


class CTMAdapterMixin(PeftAdapterMixin):
    """Extends diffusers' LoRA methods to adapters that turn a teacher into a SoundCTM.

    Such an adapter also has values v of the parameters that the teacher lacks, whose names start with one of
    `_new_parameters`. They follow the adapter's weight w as the low-rank updates do: the network uses
    Σ w·v + (1 − Σ w)·v_0, where the sum is over the active adapters and v_0 is the value without adapters.
    """

    _new_parameters: tuple[str, ...] = ()
    _values_without_adapters: dict[str, torch.Tensor] | None = None
    _values_of_adapters: dict[str, dict[str, torch.Tensor]] = {}  # noqa: RUF012 (replaced with the first adapter)
    _adapter_weights: dict[str, float] = {}  # noqa: RUF012

    if TYPE_CHECKING:  # of the diffusers class
        config: Any
        get_submodule: Any
        modules: Any
        named_modules: Any
        named_parameters: Any
        parameters: Any
        peft_config: dict[str, Any]
        requires_grad_: Any
        state_dict: Any

    @property
    def new_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that the teacher does not have, by name."""
        return {name: value for name, value in self.named_parameters() if name.startswith(self._new_parameters)}

    def set_new_parameters(self, adapter_name: str, values: Mapping[str, torch.Tensor]) -> None:
        """Set an adapter's values of `new_parameters`, which are in effect while the adapter is active."""
        if self._values_without_adapters is None:
            self._values_without_adapters = {name: value.clone() for name, value in self._current_values().items()}
            self._values_of_adapters, self._adapter_weights = {}, {}
        self._values_of_adapters[adapter_name] = dict(values)
        self.update_new_parameters()

    def update_new_parameters(self) -> None:
        """Recompute `new_parameters` from the adapters that are active or fused."""
        if self._values_without_adapters is None:
            return
        names = [name for name in self._effective_adapters() if name in self._values_of_adapters]
        weights = [self._adapter_weights.get(name, 1.0) for name in names]
        for key, parameter in self._current_values().items():
            values = [self._values_without_adapters[key], *(self._values_of_adapters[name][key] for name in names)]
            factors = [1 - sum(weights), *weights]
            parameter.copy_(
                sum(w * v.to(parameter.device, torch.float32) for w, v in zip(factors, values, strict=True))
            )

    def set_adapters(self, adapter_names: list[str] | str, weights: Any = None) -> None:
        """Activate adapters with weights, as diffusers does.

        Args:
            adapter_names: One or several names.
            weights: One weight, or one per adapter. A weight is a number, or a dictionary of blocks and numbers:
                `{"down": 0.5, "mid": 1, "up": {"block_0": [0.2, 0.8]}}` for a UNet, or names of modules such as
                `{"transformer_blocks.0": 0.5}` for a transformer. Other blocks, and the parameters of s and ω, have
                weight 1 then.

        Raises:
            ValueError: An adapter or a block does not exist, or the numbers of names and weights differ.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = list(weights) if isinstance(weights, (list, tuple)) else [weights] * len(names)
        weights = [1.0 if weight is None else weight for weight in weights]
        super().set_adapters(names, [self._expand_blocks(weight) for weight in weights])
        if self._values_without_adapters is not None:
            numbers = [1.0 if isinstance(weight, dict) else float(weight) for weight in weights]
            self._adapter_weights.update(zip(names, numbers, strict=True))
        self.update_new_parameters()

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        super().set_adapter(adapter_name)
        self.update_new_parameters()

    def disable_lora(self) -> None:
        super().disable_lora()
        self.update_new_parameters()

    def enable_lora(self) -> None:
        super().enable_lora()
        self.update_new_parameters()

    def disable_adapters(self) -> None:
        super().disable_adapters()
        self.update_new_parameters()

    def enable_adapters(self) -> None:
        super().enable_adapters()
        self.update_new_parameters()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        super().delete_adapters(adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._values_of_adapters.pop(name, None)
            self._adapter_weights.pop(name, None)
        self.update_new_parameters()

    def fuse_lora(
        self, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: list[str] | None = None
    ) -> None:
        active = self._effective_adapters()
        super().fuse_lora(lora_scale, safe_fusing=safe_fusing, adapter_names=adapter_names)
        if self._values_without_adapters is not None:  # as in the low-rank updates, the scale stays after `unfuse_lora`
            self._adapter_weights.update({name: lora_scale * self._adapter_weights.get(name, 1.0) for name in active})
        self.update_new_parameters()

    def unfuse_lora(self) -> None:
        super().unfuse_lora()
        self.update_new_parameters()

    def unload_lora(self) -> None:
        """Remove all adapters. What was fused stays in the weights, and in the parameters of s and ω."""
        fused = any(layer.merged for layer in self._lora_layers())
        super().unload_lora()
        if self._values_without_adapters is not None:
            if not fused:
                self.update_new_parameters()
            self._values_without_adapters, self._values_of_adapters, self._adapter_weights = None, {}, {}

    def _expand_blocks(self, weight: float | dict[str, Any]) -> float | dict[str, float]:
        """Turn a weight per block into a weight per prefix of a module's name."""
        if not isinstance(weight, dict):
            return weight
        names = [name for name, _ in self.named_modules()]
        unknown = [block for block in weight if not any(f"{name}.".startswith(f"{block}.") for name in names)]
        if unknown:
            raise ValueError(f"`weights` has {unknown}, which are no modules of this {type(self).__name__}.")
        return {f"{block}.": value for block, value in weight.items()}  # with the dot, 1 does not match 11

    def _current_values(self) -> dict[str, torch.Tensor]:
        return {name: parameter.data for name, parameter in self.new_parameters.items()}

    def _lora_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.modules() if isinstance(module, BaseTunerLayer)]

    def _effective_adapters(self) -> list[str]:
        """Names of the adapters that are fused, or else active and enabled."""
        for layer in self._lora_layers():
            return [] if layer.disable_adapters else list(layer.merged_adapters or layer.active_adapters)
        return []
