"""TF-Hub modules and SavedModels as trainable, compressible Keras models."""

from tfopt.models.hub.handle import folder_of
from tfopt.models.hub.inside import native_if_possible, with_native_layers
from tfopt.models.hub.layer import saved_model_layer
from tfopt.models.hub.module import HubModule, hub_layer, open_hub

__all__ = [
    "HubModule",
    "folder_of",
    "hub_layer",
    "native_if_possible",
    "open_hub",
    "saved_model_layer",
    "with_native_layers",
]
