"""Harmless models with everything either Keras offers: layers, operations, settings, losses, metrics, optimizers."""

import inspect
from collections.abc import Iterator
from typing import Any

SHAPES = {
    "vector": (4,), "sequence": (6, 4), "image": (16, 16, 3), "video": (4, 8, 8, 2), "volumes": (3, 4, 4, 4, 2),
    "signal": (2048, 1), "wave": (2048,),
}  # fmt: skip
# Layers by their input, with the arguments that they need.
LAYERS: dict[str, dict[str, dict[str, Any]]] = {
    "vector": {
        "Activation": {"activation": "relu"}, "ActivityRegularization": {"l2": 0.1}, "AlphaDropout": {"rate": 0.1},
        "BatchNormalization": {}, "Dense": {"units": 3}, "Discretization": {"bin_boundaries": [0.0, 1.0]},
        "Dropout": {"rate": 0.1}, "ELU": {}, "EinsumDense": {"equation": "ab,bc->ac", "output_shape": 3}, "Flatten": {},
        "GaussianDropout": {"rate": 0.1}, "GaussianNoise": {"stddev": 0.1}, "GroupNormalization": {"groups": 2},
        "Identity": {}, "LayerNormalization": {}, "LeakyReLU": {}, "Masking": {}, "PReLU": {},
            "Permute": {"dims": (1,)},
        "Normalization": {"mean": 0.5, "variance": 2.0}, "RMSNormalization": {}, "ReLU": {"max_value": 6.0},
        "RepeatVector": {"n": 2}, "Rescaling": {"scale": 0.5}, "Reshape": {"target_shape": (2, 2)}, "Softmax": {},
        "ThresholdedReLU": {}, "UnitNormalization": {},
    },
    "sequence": {
        "AveragePooling1D": {"pool_size": 2}, "Conv1D": {"filters": 2, "kernel_size": 3},
            "Conv1DTranspose": {"filters": 2, "kernel_size": 3},
        "Cropping1D": {}, "DepthwiseConv1D": {"kernel_size": 3}, "GRU": {"units": 2}, "GlobalAveragePooling1D": {},
        "GlobalMaxPooling1D": {}, "LSTM": {"units": 2, "return_sequences": True},
        "LocallyConnected1D": {"filters": 2, "kernel_size": 3}, "MaxPooling1D": {}, "SimpleRNN": {"units": 2},
        "SeparableConv1D": {"filters": 2, "kernel_size": 3}, "SpatialDropout1D": {"rate": 0.1}, "UpSampling1D": {},
        "ZeroPadding1D": {}, "AdaptiveAveragePooling1D": {"output_size": 2}, "AdaptiveMaxPooling1D": {"output_size": 2},
    },
    "image": {
        "AveragePooling2D": {"pool_size": 2}, "CenterCrop": {"height": 4, "width": 4}, "Conv2D": {"filters": 2,
            "kernel_size": 3},
        "Conv2DTranspose": {"filters": 2, "kernel_size": 3}, "ConvLSTM1D": {"filters": 2, "kernel_size": 3},
        "Cropping2D": {}, "DepthwiseConv2D": {"kernel_size": 3}, "GlobalAveragePooling2D": {}, "GlobalMaxPooling2D": {},
        "LocallyConnected2D": {"filters": 2, "kernel_size": 3}, "MaxPooling2D": {}, "SpatialDropout2D": {"rate": 0.1},
        "SeparableConv2D": {"filters": 2, "kernel_size": 3}, "UpSampling2D": {}, "ZeroPadding2D": {},
        "AdaptiveAveragePooling2D": {"output_size": 2}, "AdaptiveMaxPooling2D": {"output_size": 2},
        "Resizing": {"height": 4, "width": 4}, "AugMix": {}, "AutoContrast": {}, "CutMix": {},
        "MixUp": {}, "RandAugment": {}, "RandomBrightness": {"factor": 0.1}, "RandomColorDegeneration": {"factor": 0.1},
        "RandomColorJitter": {}, "RandomContrast": {"factor": 0.1}, "RandomCrop": {"height": 4, "width": 4},
        "RandomElasticTransform": {}, "RandomErasing": {}, "RandomFlip": {}, "RandomGaussianBlur": {},
        "RandomGrayscale": {}, "RandomHeight": {"factor": 0.1}, "RandomHue": {"factor": 0.1}, "RandomInvert": {},
        "RandomPerspective": {}, "RandomPosterization": {"factor": 4}, "RandomRotation": {"factor": 0.1},
        "RandomSaturation": {"factor": 0.1}, "RandomSharpness": {"factor": 0.1}, "RandomShear": {},
        "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1}, "RandomWidth": {"factor": 0.1},
        "RandomZoom": {"height_factor": 0.1}, "Solarization": {}, "ContrastLimitedAdaptiveHistogramEqualization": {},
    },
    "video": {
        "AveragePooling3D": {"pool_size": 2}, "Conv3D": {"filters": 2, "kernel_size": 2},
            "Conv3DTranspose": {"filters": 2, "kernel_size": 2},
        "ConvLSTM2D": {"filters": 2, "kernel_size": 2}, "Cropping3D": {}, "GlobalAveragePooling3D": {},
        "GlobalMaxPooling3D": {}, "MaxPooling3D": {}, "SpatialDropout3D": {"rate": 0.1}, "UpSampling3D": {},
        "ZeroPadding3D": {}, "AdaptiveAveragePooling3D": {"output_size": 2}, "AdaptiveMaxPooling3D": {"output_size": 2},
    },
    "volumes": {"ConvLSTM3D": {"filters": 2, "kernel_size": 2}},
    "signal": {"STFTSpectrogram": {"mode": "log"}},
    "wave": {"MelSpectrogram": {}},
}  # fmt: skip
MERGING = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
# Built by functions below, because they take other layers, or inputs of other types.
COMPOSED = (
    "AdditiveAttention", "Attention", "Bidirectional", "CategoryEncoding", "ConvLSTM1DCell", "DenseFeatures", "Dot",
    "Embedding", "GRUCell", "GroupQueryAttention", "HashedCrossing", "Hashing", "IntegerLookup", "LSTMCell",
    "MultiHeadAttention", "Pipeline", "RNN", "ReversibleEmbedding", "SimpleRNNCell", "SpectralNormalization",
    "StackedRNNCells", "StringLookup", "TextVectorization", "TimeDistributed",
)  # fmt: skip
# They contain layers, so each gets a separate model.
_ALONE = ("AugMix", "RandAugment", "RandomColorJitter")
# Keras 3.15 cannot write or read these in `.h5` files, nor Equalization in any model ("part of a cycle").
_NOT_IN_HDF5 = (
    "Attention", "RandomBrightness", "RandomColorDegeneration", "RandomPosterization", "RandomSaturation",
    "RandomSharpness", "Solarization",
)  # fmt: skip
# Not layers to put into a model, or layers that contain a program.
ABSTRACT = ("AbstractRNNCell", "Equalization", "InputLayer", "InputSpec", "Layer", "MaxNumBoundingBoxes", "Wrapper")
REFUSED = ("FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper")


def classes(module: Any, base: type) -> list[str]:
    """The names of all classes below `base` in a module, without aliases."""
    found = {}
    for name in sorted(dir(module)):
        each = getattr(module, name)
        if inspect.isclass(each) and issubclass(each, base) and each is not base:
            found.setdefault(each, name if each.__name__ not in dir(module) else each.__name__)
    return sorted(found.values())


def layer_models(api: Any, form: str = ".keras") -> Iterator[tuple[str, Any]]:
    """A model for each kind of input, with all its layers side by side."""
    not_here = (*_ALONE, *(_NOT_IN_HDF5 if form == ".h5" and hasattr(api, "ops") else ()))
    for kind, layers in LAYERS.items():
        inputs = api.Input(SHAPES[kind])
        there = {n: settings for n, settings in layers.items() if hasattr(api.layers, n) and n not in not_here}
        yield (
            kind,
            api.Model(inputs, [getattr(api.layers, name)(**settings)(inputs) for name, settings in there.items()]),
        )
    inputs = [api.Input((4,)), api.Input((4,))]
    merged = [getattr(api.layers, name)()(inputs) for name in MERGING]
    yield "merging", api.Model(inputs, [*merged, api.layers.Dot(axes=1)(inputs)])
    yield from composed(api, not_here)


def operation_model(api: Any) -> tuple[Any, list[str]]:
    """Every operation on one or two tensors that the Keras can read back itself, and their names."""
    import tensorflow as tf

    if hasattr(api, "ops"):
        modules = {"": api.ops, "nn": api.ops.nn, "linalg": api.ops.linalg, "image": api.ops.image}
    else:
        names = ("math", "nn", "linalg", "image", "signal", "bitwise", "random", "strings")
        modules = {"": tf, **{name: getattr(tf, name) for name in names}}
    inputs = [api.Input((4,)), api.Input((4,))]
    found = [(name, output) for name, output in operations(modules, inputs) if _comes_back(api, inputs, output)]
    x, y = inputs
    by_hand = [x + y, x - 1.0, 2.0 * x, x / y, x**2.0, -x, abs(x), x[:, 1:3], x[:, None], x > y, x @ tf.ones((4, 2))]
    return api.Model(inputs, [output for _, output in found] + by_hand), [name for name, _ in found]


def _comes_back(api: Any, inputs: list[Any], output: Any) -> bool:
    try:
        api.Model.from_config(api.Model(inputs, output).get_config())
    except Exception:
        return False
    return True


def composed(api: Any, not_here: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    layers = api.layers
    inputs = api.Input((6, 4))
    cells = [layers.GRUCell(2), layers.SimpleRNNCell(2), layers.LSTMCell(2)]
    outputs = [
        layers.RNN(layers.LSTMCell(3))(inputs),
        layers.RNN(layers.StackedRNNCells(cells))(inputs),
        layers.Bidirectional(layers.LSTM(2), backward_layer=layers.LSTM(2, go_backwards=True))(inputs),
        layers.Bidirectional(layers.RNN(layers.GRUCell(2)))(inputs),
        layers.TimeDistributed(layers.Dense(2))(inputs),
        layers.TimeDistributed(api.Sequential([api.Input((4,)), layers.Dense(2)]))(inputs),
        layers.AdditiveAttention()([inputs, inputs]),
        layers.MultiHeadAttention(2, 2)(inputs, inputs),
    ]
    if hasattr(layers, "RMSNormalization"):  # the one in tf_keras 2.21 works only inside `tf.keras`
        outputs.append(layers.SpectralNormalization(layers.Dense(2))(inputs))
    if "Attention" not in not_here:
        outputs.append(layers.Attention()([inputs, inputs]))
    if hasattr(layers, "GroupQueryAttention"):
        outputs.append(layers.GroupQueryAttention(2, 4, 2)(inputs, inputs))
    yield "composed", api.Model(inputs, outputs)
    numbers = api.Input((4,), dtype="int32")
    outputs = [
        layers.Embedding(5, 3, mask_zero=True)(numbers), layers.CategoryEncoding(5)(numbers),
        layers.IntegerLookup(vocabulary=[3, 4])(numbers), layers.Hashing(3)(numbers),
    ]  # fmt: skip
    if "Attention" not in not_here:
        outputs.append(layers.HashedCrossing(3)((numbers[:, :1], numbers[:, 1:2])))
    if hasattr(layers, "ReversibleEmbedding"):
        outputs.append(layers.ReversibleEmbedding(5, 3)(numbers))
    yield "numbers", api.Model(numbers, outputs)
    words = api.Input((1,), dtype="string")
    outputs = [
        layers.StringLookup(vocabulary=["a", "b"])(words), layers.Hashing(3)(words),
        layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)(words),
        layers.TextVectorization(vocabulary=["a", "b"], split="character", output_mode="multi_hot")(words),
    ]  # fmt: skip
    yield "words", api.Model(words, outputs)
    for name in _ALONE:
        if hasattr(layers, name):
            yield name, api.Sequential([api.Input(SHAPES["image"]), getattr(layers, name)(**LAYERS["image"][name])])
    if hasattr(layers, "Pipeline"):
        inputs = api.Input((4,))
        yield "pipeline", api.Model(inputs, layers.Pipeline([layers.Rescaling(2.0), layers.Rescaling(0.5)])(inputs))
    nested = api.Sequential([api.Input((4,)), layers.Dense(3), layers.BatchNormalization()], name="inner")
    inputs = api.Input((4,))
    yield "nested", api.Model(inputs, api.Sequential([nested, layers.Dense(2)], name="outer")(inputs))


def settings_model(api: Any) -> Any:
    """Every activation, initializer, regularizer and constraint, by name and as an object."""
    inputs = api.Input((4,))
    outputs = []
    for key, module, base in (
        ("kernel_initializer", api.initializers, api.initializers.Initializer),
        ("kernel_regularizer", api.regularizers, api.regularizers.Regularizer),
        ("kernel_constraint", api.constraints, api.constraints.Constraint),
    ):
        for name in classes(module, base):
            given = {"Constant": {"value": 0.5}, "RadialConstraint": None, "STFT": None, "STFTInitializer": None}.get(
                name, {}
            )
            if given is not None:
                outputs.append(api.layers.Dense(4, **{key: getattr(module, name)(**given)})(inputs))
    outputs += [api.layers.Dense(2, activation=function)(inputs) for function in activations(api)]
    return api.Model(inputs, outputs)


def activations(api: Any) -> list[Any]:
    skipped = {"deserialize", "get", "serialize", "glu"}
    found = [(name, each) for name, each in vars(api.activations).items() if inspect.isfunction(each)]
    return [each for name, each in found if name not in skipped and not name.startswith("_")]


def metrics(api: Any) -> list[Any]:
    """Every metric; those that need them with arguments."""
    needed = {
        "BinaryIoU": {}, "FBetaScore": {}, "IoU": {"num_classes": 2, "target_class_ids": [0]},
            "MeanIoU": {"num_classes": 2},
        "MeanMetricWrapper": {"fn": api.losses.mean_squared_error}, "MeanRelativeError": {"normalizer": [1.0, 2.0]},
        "OneHotIoU": {"num_classes": 2, "target_class_ids": [0]}, "OneHotMeanIoU": {"num_classes": 2},
        "PrecisionAtRecall": {"recall": 0.5}, "RecallAtPrecision": {"precision": 0.5},
        "SensitivityAtSpecificity": {"specificity": 0.5}, "SpecificityAtSensitivity": {"sensitivity": 0.5},
    }  # fmt: skip
    plain = ("Mean", "MeanTensor", "Sum")  # of values, not labels
    names = [name for name in classes(api.metrics, api.metrics.Metric) if name not in plain]
    return [getattr(api.metrics, name)(**needed.get(name, {})) for name in names]


def losses(api: Any) -> list[Any]:
    return [getattr(api.losses, name)() for name in classes(api.losses, api.losses.Loss) if name != "CTC"]


def optimizers(api: Any) -> list[Any]:
    """Every optimizer, the first ones with a learning-rate schedule each."""
    schedules = api.optimizers.schedules
    rates = [
        schedules.CosineDecay(0.1, 10), schedules.CosineDecayRestarts(0.1, 10), schedules.ExponentialDecay(0.1, 10,
            0.5),
        schedules.InverseTimeDecay(0.1, 10, 0.5), schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3]),
        schedules.PolynomialDecay(0.1, 10),
    ]  # fmt: skip
    found = []
    for name in classes(api.optimizers, api.optimizers.Optimizer):
        if name in ("LossScaleOptimizer", "Muon", "MultiOptimizer", "TFOptimizer"):
            continue
        rate = rates.pop() if rates else 0.1
        found.append(getattr(api.optimizers, name)(learning_rate=rate))
    return found


# Functions that change how others are computed or differentiated, or that need replicas.
_NO_OPERATIONS = (
    "check_pinned", "compute_average_loss", "custom_gradient", "grad_pass_through", "recompute_grad",
    "scale_regularization_loss",
)  # fmt: skip


def operations(modules: dict[str, Any], inputs: list[Any]) -> list[tuple[str, Any]]:
    """The result of every function in `modules` that accepts one or two tensors and returns a tensor."""
    found = []
    for prefix, module in modules.items():
        for name in sorted(set(dir(module)) - set(_NO_OPERATIONS)):
            function = getattr(module, name)
            if name.startswith(("_", "set_")) or not callable(function) or inspect.isclass(function):
                continue
            for count in (1, 2):
                try:
                    output = function(*inputs[:count])
                except Exception:
                    continue
                if hasattr(output, "_keras_history"):
                    found.append((f"{prefix}.{name}/{count}", output))
                    break
    return found
