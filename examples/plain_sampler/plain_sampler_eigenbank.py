"""Makes `PlainSampler` steerable: says which object it knows, and how diffusers' names of layers are found in it.

Directions were built from the same weights in diffusers' layout, `blocks.I.attn1.to_q` and so on; here they are rows of
`mixers.I.fused`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigenbank.loaders.target import Target

NAMES = {"attn1.to_q": "fused", "attn1.to_k": "fused", "attn1.to_v": "fused", "attn1.to_out.0": "merge", "norm1": "pre"}


class PlainLoader:
    """The loader. Importing it does no work: torch and eigenbank are imported when an object is opened."""

    name = "plain-sampler"

    def knows(self, owner: Any) -> bool:
        """Whether it is a PlainSampler, of whatever copy of the module."""
        return type(owner).__name__ == "PlainSampler" and hasattr(owner, "net")

    def open(self, owner: Any) -> "Target":
        """The sampler's network under the names that direction sets use."""
        from torch import Tensor, nn

        from eigenbank.loaders.target import Target
        from eigenbank.schemas import HookPoint, Layer
        from eigenbank.schemas.recipe import Site

        class PlainTarget(Target):
            def module(self, denoiser: nn.Module, path: str) -> nn.Module:
                _, number, *rest = path.split(".", 2)
                inner = NAMES.get(rest[0], "") if rest else ""
                return super().module(denoiser, f"mixers.{number}.{inner}".rstrip("."))

            def parameter(self, denoiser: nn.Module, name: str) -> Tensor:
                path, _, own = name.rpartition(".")
                found = getattr(self.module(denoiser, path), own).detach()
                third = {"q": 0, "k": 1, "v": 2}.get(path[-1])
                return found if third is None or not path.endswith(("to_q", "to_k", "to_v")) else found.chunk(3)[third]

            def hook_point(self, denoiser: nn.Module, layer: Layer, site: Site) -> HookPoint:
                # A mixer reads the stream, norms it itself, and returns what is added to the stream.
                if site == "projection-input":
                    return HookPoint(modules=(f"{layer.name.rpartition('.')[0]}.norm1",), at="output")
                at: Any = "input" if site == "block-input" else "output"
                return HookPoint(modules=(layer.name,), at=at, argument="tokens")

        return PlainTarget(owner, {"net": owner.net})


LOADER = PlainLoader()
