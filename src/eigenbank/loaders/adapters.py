"""LoRAs as sliders: loaded through diffusers' own adapters while an edit is attached, and gone without a trace after it."""

import itertools
import re
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils import is_peft_available
from torch import Tensor, nn

from eigenbank.diffusers_compat import forget_adapters
from eigenbank.progress import quietly, without_advice
from eigenbank.registry.loras import lora_file
from eigenbank.registry.sets.direction_set import Lora
from eigenbank.schemas.errors import MatchError, SteerError

_PREFIX = "eigenbank_"
_numbers = itertools.count()
_PARTS = re.compile(r"[._](lora|lokr)[._].*$|\.(alpha|dora_scale)$")
"""What follows a layer's name in a LoRA's tensors."""
_PAIRS = (
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lokr_w1_b", "lokr_w1_a"),
    ("lokr_w2_b", "lokr_w2_a"),
)
"""The tensors of PEFT's adapters of which the product counts: `(r, in)`, then `(out, r)`."""

_before: "weakref.WeakKeyDictionary[nn.Module, tuple[bool, list[tuple[nn.Parameter, bool]]]]" = (
    weakref.WeakKeyDictionary()
)
"""What a component was before the first LoRA of an edit: whether it had adapters, and which weights are trained."""


@dataclass
class LoraTerm:
    """A LoRA of an edit, and the adapter's weight now: `scale` times `factor`, negative where its label is against it."""

    key: str
    lora: Lora
    scale: float
    polarity: float = 1.0
    factor: float = 1.0
    _name: str = field(default_factory=lambda: f"{_PREFIX}{next(_numbers)}")
    _owner: Any = None
    _layers: list[Any] = field(default_factory=list)

    def attach(self, owner: Any) -> None:
        """Load it into a pipeline, beside whatever adapters it has. Raises SteerError, MatchError, SourceError or HubError."""
        if not hasattr(owner, "load_lora_weights"):
            message = (
                f"a {type(owner).__name__} takes no LoRAs: {self.key!r} cannot be used with it. Nothing was changed"
            )
            raise SteerError(message)
        if not is_peft_available():
            message = f"{self.key!r} is a LoRA, which needs peft: pip install 'eigenbank[text]'. Nothing was changed"
            raise SteerError(message)
        _check_acting(owner, self.key)
        file = str(lora_file(self.lora.record))
        for part in _components(owner):
            trained = [(each, each.requires_grad) for each in part.parameters()]
            _before.setdefault(part, (bool(getattr(part, "peft_config", None)), trained))
        active = {layer: list(layer.active_adapters) for part in _components(owner) for layer in _adapters(part)}
        self._owner = owner
        try:
            self._load(owner, file)
        except BaseException:
            self.remove()
            for layer, names in active.items():
                layer.set_adapter(names)
            raise
        if self.lora.random is not None:
            _randomise(self._layers, self._name, self.lora.random)
        for layer in {*active, *self._layers}:  # loading one makes it the only one that acts
            layer.set_adapter([*active.get(layer, ()), *([self._name] if layer in self._layers else ())])
        self.refresh()

    def _load(self, owner: Any, file: str) -> None:
        what = f"{self.lora.full_id} ({self.lora.record.origin})"
        try:
            # They would tell of other adapters, and of a text encoder that has none in the file: what counts is checked.
            with quietly(), without_advice(UserWarning):
                said = owner.lora_state_dict(file, use_safetensors=True)
                owner.load_lora_weights(file, adapter_name=self._name, use_safetensors=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # diffusers, PEFT and transformers raise whatever the file makes them
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = " ".join(lines[:2])[:300] or type(error).__name__
            message = f"{what} does not fit this {type(owner).__name__}: {reason}. Nothing was changed"
            raise MatchError(message) from error
        self._layers = [layer for part in _components(owner) for layer in _adapted(part, self._name)]
        tensors = said[0] if isinstance(said, tuple) else said
        broken = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
        if broken is not None:
            message = f"{what} holds values that are no numbers, in {broken}. Nothing was changed"
            raise MatchError(message)
        expected = len({_PARTS.sub("", name) for name in tensors if _PARTS.search(name)})
        if len(self._layers) < expected or not expected:
            message = (
                f"{what} changes {expected} layers, of which this {type(owner).__name__} has {len(self._layers)}: it is for another "
                "kind of model, or names its layers in a way that diffusers does not read. Nothing was changed"
            )
            raise MatchError(message)

    def refresh(self) -> None:
        """Give the adapter its weight."""
        for layer in self._layers:
            layer.set_scale(self._name, self.polarity * self.scale * self.factor)

    def switched_off(self) -> bool:
        """Whether somebody else has taken the adapter out, or out of those that act, or fused it, since it was attached."""
        if self._owner is None:
            return False
        layers = [layer for part in _components(self._owner) for layer in _adapted(part, self._name)]
        return not layers or any(
            layer.disable_adapters or layer.merged or self._name not in layer.active_adapters for layer in layers
        )

    def remove(self) -> None:
        """Take it out of the pipeline, which is what it was. Harmless when it is not there."""
        owner, self._owner, self._layers = self._owner, None, []
        if owner is None:
            return
        for part in _components(owner):
            for layer in _adapted(part, self._name):
                layer.set_adapter([each for each in layer.active_adapters if each != self._name])
                layer.delete_adapter(self._name)
            getattr(part, "peft_config", {}).pop(self._name, None)
            if part in _before and not any(name.startswith(_PREFIX) for name in getattr(part, "peft_config", {})):
                had_adapters, trained = _before.pop(part)
                _unwrap(part)
                if not had_adapters and not getattr(
                    part, "peft_config", None
                ):  # somebody may have loaded their own meanwhile
                    forget_adapters(part)
                for each, before in trained:
                    each.requires_grad_(before)


def _check_acting(owner: Any, key: str) -> None:
    """Raise SteerError where the pipeline's own adapters are in a state in which another would not act, or change them."""
    layers = [layer for part in _components(owner) for layer in _adapters(part)]
    if any(layer.disable_adapters for layer in layers):
        message = f"the pipeline's LoRAs are disabled: {key!r} would not act. enable_lora() first. Nothing was changed"
        raise SteerError(message)
    if any(layer.merged for layer in layers):
        message = (
            f"a LoRA is fused into the pipeline, and would be taken out by loading {key!r}. Call unfuse_lora() first, or "
            "unload_lora_weights() to keep it fused. Nothing was changed"
        )
        raise SteerError(message)


def _components(owner: Any) -> list[nn.Module]:
    return [part for part in owner.components.values() if isinstance(part, nn.Module)]


def _adapters(part: nn.Module) -> list[Any]:
    """The layers of PEFT in a component."""
    return [layer for layer in part.modules() if hasattr(layer, "adapter_layer_names")]


def _adapted(part: nn.Module, name: str) -> list[Any]:
    """Those of them that have the adapter."""
    return [layer for layer in _adapters(part) if any(name in getattr(layer, own) for own in layer.adapter_layer_names)]


def _unwrap(part: nn.Module) -> None:
    """Put layers that PEFT wrapped, and that have no adapter any more, back in their places."""
    for path, layer in list(part.named_modules()):
        own = getattr(layer, "adapter_layer_names", None)
        if own is not None and not any(len(getattr(layer, each)) for each in own):
            parent, _, name = path.rpartition(".")
            setattr(part.get_submodule(parent), name, layer.get_base_layer())


def _randomise(layers: list[Any], name: str, seed: int) -> None:
    """Put random tensors as long in place of an adapter's: of two that are multiplied, the product is as long. DoRA's magnitudes stay."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(tensor: Tensor) -> None:
        made = torch.randn(tensor.shape, generator=generator).to(tensor)
        tensor.copy_(made * (tensor.norm() / made.norm()))

    with torch.no_grad():
        for layer in layers:
            modules = vars(layer)["_modules"]
            held = {own: modules[own][name] for own in layer.adapter_layer_names if name in modules.get(own, ())}
            held.pop("lora_magnitude_vector", None)
            weights = {own: getattr(each, "weight", each) for own, each in held.items()}
            pairs = [(weights[down], weights[up]) for down, up in _PAIRS if down in weights]
            lengths = [_product(*pair) for pair in pairs]
            for weight in weights.values():
                redraw(weight)
            for (down, up), length in zip(pairs, lengths, strict=True):
                up.mul_(length / _product(down, up).clamp_min(1e-30))
            for each in held.values():
                if getattr(each, "bias", None) is not None:
                    redraw(each.bias)


def _product(down: Tensor, up: Tensor) -> Tensor:
    """The Frobenius norm of up · down, for `down` `(r, in, …)` and `up` `(out, r, …)`."""
    down, up = down.float().flatten(1), up.float().flatten(1)
    return ((up.mT @ up) * (down @ down.mT)).sum().clamp_min(0).sqrt()
