"""What TF-MOT's wrappers forget of the layer inside: its mask, its training flag, its mask for the next layer."""

from typing import Any


class KeepsCallContract:
    """Mixin for a Keras `Wrapper` that calls `self.layer.call`: masks pass as if the layer stood there itself."""

    layer: Any

    def adopt_call_contract(self) -> None:
        """To be called once `self.layer` is set."""
        self.supports_masking = self.layer.supports_masking
        # Keras hands the mask to any call with **kwargs, also to that of a layer which does not take it.
        self._call_spec.expects_mask_arg = self.layer._expects_mask_arg  # type: ignore[attr-defined]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, mask)
