"""What the models of `keras.applications` were trained with, recognized by their structure.

Counts of layers and the first convolution identify an architecture at any width and input size. Later families hold
their preprocessing themselves (EfficientNet, ConvNeXt, MobileNetV3) and need no entry.
"""

from collections import Counter
from typing import Any

from tfopt.graph.types import Graph, is_layer

# Convolutions, depthwise and separable convolutions and batch normalizations without the classifier, and kernel size,
# stride and bias of the first convolution: architecture and preprocessing.
_KNOWN = {
    (13, 0, 0, 0, 3, 1, True): ("VGG16", "caffe"),
    (16, 0, 0, 0, 3, 1, True): ("VGG19", "caffe"),
    (53, 0, 0, 53, 7, 2, True): ("ResNet50", "caffe"),
    (104, 0, 0, 104, 7, 2, True): ("ResNet101", "caffe"),
    (155, 0, 0, 155, 7, 2, True): ("ResNet152", "caffe"),
    (53, 0, 0, 49, 7, 2, True): ("ResNet50V2", "symmetric"),
    (104, 0, 0, 100, 7, 2, True): ("ResNet101V2", "symmetric"),
    (155, 0, 0, 151, 7, 2, True): ("ResNet152V2", "symmetric"),
    (94, 0, 0, 94, 3, 2, False): ("InceptionV3", "symmetric"),
    (244, 0, 0, 204, 3, 2, False): ("InceptionResNetV2", "symmetric"),
    (6, 0, 34, 40, 3, 2, False): ("Xception", "symmetric"),
    (14, 13, 0, 27, 3, 2, False): ("MobileNet", "symmetric"),
}


def known_architecture(graph: Graph) -> tuple[str, str] | None:
    """Return name and preprocessing of the architecture of `graph`, without regard to its classifier, or None."""
    layers = [call.leaf.layer for call in graph.calls if is_layer(call.leaf.layer)]
    convolutions = [layer for layer in layers if getattr(layer, "kernel_size", None) is not None]
    if not convolutions:
        return None
    first = (convolutions[0].kernel_size[0], convolutions[0].strides[0], convolutions[0].use_bias)
    counts = Counter(type(layer).__name__ for layer in layers)
    others = [counts[kind] for kind in ("DepthwiseConv2D", "SeparableConv2D", "BatchNormalization")]
    for classifiers in (0, 1):  # a 1x1 convolution at the end may be the classifier
        if classifiers and not _is_pointwise(convolutions[-1]):
            break
        if found := _KNOWN.get((counts["Conv2D"] - classifiers, *others, *first)):
            return found
    return None


def _is_pointwise(layer: Any) -> bool:
    return type(layer).__name__ == "Conv2D" and set(layer.kernel_size) == {1}
