"""PruneBlocks and LowRank: stages that remove or add layers."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.surgery.factors import matrix_of
from tfopt.surgery.residual import residual_blocks, without_blocks

L = keras.layers
X = np.random.default_rng(0).normal(size=(96, 8, 8, 4)).astype("float32")
Y = X.mean(axis=(1, 2)).argmax(axis=1).astype("int32")


def residual(api=keras, blocks=3, nested=False):
    """Blocks of which each adds less to its shortcut than the one before: 1, 0.1, 0.01, ..."""
    layers = api.layers
    api.utils.set_random_seed(0)

    def block(x, number):
        y = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"first_{number}")(x)
        y = layers.Conv2D(8, 3, padding="same", name=f"second_{number}")(y)
        return layers.ReLU(name=f"after_{number}")(layers.Add(name=f"add_{number}")([x, y]))

    inputs = api.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 1, activation="relu", name="stem")(inputs)
    if nested:
        inner = api.Input((8, 8, 8))
        y = inner
        for number in range(blocks):
            y = block(y, number)
        x = api.Model(inner, y, name="body")(x)
    else:
        for number in range(blocks):
            x = block(x, number)
    outputs = layers.Dense(4, "softmax", name="head")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = api.Model(inputs, outputs, name="residual")
    flat = {layer.name: layer for _, layer, _ in bridge.flat_layers(model)}
    for number in range(blocks):
        kernel, bias = flat[f"second_{number}"].get_weights()
        flat[f"second_{number}"].set_weights([kernel * 0.1**number, bias])
    model.compile(api.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def by_hand(model, blocks):
    """The outputs of `residual` with only the given blocks, in float64."""
    flat = {layer.name: [np.asarray(w, np.float64) for w in layer.weights] for _, layer, _ in bridge.flat_layers(model)}

    def conv(x, name):
        kernel, bias = flat[name]
        size = kernel.shape[0] // 2
        padded = np.pad(x, ((0, 0), (size, size), (size, size), (0, 0)))
        parts = [
            padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
            for i in range(kernel.shape[0])
            for j in range(kernel.shape[1])
        ]
        return sum(parts) + bias

    x = np.maximum(conv(X[:8].astype(np.float64), "stem"), 0)
    for number in blocks:
        x = np.maximum(x + conv(np.maximum(conv(x, f"first_{number}"), 0), f"second_{number}"), 0)
    logits = x.mean(axis=(1, 2)) @ flat["head"][0] + flat["head"][1]
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("api", ["keras", "tf_keras"])
def test_the_blocks_that_matter_least_go(api, nested):
    api = keras if api == "keras" else keras_compat.tf_keras()
    model = residual(api, nested=nested)
    weights = model.get_weights()
    stage, notes = tfopt.PruneBlocks(final_ratio=0.5).chosen(model, X)
    assert stage.blocks == ("add_2", "add_1") and "outputs change by" in notes[0]
    wrapped = stage.apply(model, steps=6)
    stage.calibrate(wrapped, X)
    small = stage.strip(wrapped)
    assert isinstance(small, api.Model)
    np.testing.assert_allclose(small.predict(X[:8], verbose=0), by_hand(model, [0]), rtol=1e-4)
    names = [layer.name for _, layer, _ in bridge.flat_layers(small)]
    assert "second_0" in names and not {"add_1", "first_2"} & set(names)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert bridge.is_compiled(small)
    small.fit(X, Y, verbose=0)


def test_what_is_left_is_trained_and_goes_through_the_other_stages(tmp_path):
    stage, _ = tfopt.PruneBlocks(final_ratio=0.5).chosen(residual(), X)
    wrapped = stage.apply(residual(), steps=6)
    before = wrapped.get_layer("stem").get_weights()[0]
    wrapped.fit(X, Y, verbose=0)
    small = stage.strip(wrapped)
    assert not np.array_equal(before, small.get_layer("stem").get_weights()[0])
    small.save(tmp_path / "small.keras")
    again = tfopt.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), wrapped.predict(X, verbose=0), atol=1e-6)
    lite = tfopt.export_tflite(small, tmp_path / "small.tflite", representative_data=X)
    assert lite.macs() == 64 * (4 * 8 + 2 * 9 * 8 * 8) + 8 * 4


def test_projections_stay_and_operations_are_additions_too():
    inputs = keras.Input((8, 8, 4))
    short = L.Conv2D(16, 1, strides=2, name="project")(inputs)
    y = L.Conv2D(16, 3, strides=2, padding="same", name="first")(inputs)
    y = L.BatchNormalization(name="norm")(L.Conv2D(16, 3, padding="same", name="second")(y))
    x = short + y
    x = x + L.Dense(16, name="wide")(L.LayerNormalization(name="ln")(x))
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    flat = bridge.to_tf_keras(model)
    first, second = residual_blocks(flat)
    assert set(first.layers) - {first.name} == {"first", "second", "norm"}
    assert set(second.layers) - {second.name} == {"wide", "ln"}
    small = bridge.to_keras(without_blocks(flat, [first, second]), like=model, resized=True)
    kernel, bias = model.get_layer("project").get_weights()
    np.testing.assert_allclose(
        small.predict(X, verbose=0), (X[:, ::2, ::2] @ kernel[0, 0] + bias).mean(axis=(1, 2)), rtol=1e-4, atol=1e-5
    )


def test_branches_that_others_read_are_no_blocks():
    inputs = keras.Input((8,))
    y = L.Dense(8, name="branch")(inputs)
    shared = L.Dense(8, name="shared")
    model = keras.Model(inputs, [L.Add()([inputs, y]), y, L.Add()([inputs, shared(inputs)]), shared(inputs)])
    assert residual_blocks(bridge.to_tf_keras(model)) == []
    plain = keras.Model(inputs, L.Add()([inputs, L.ReLU()(inputs)]))
    assert residual_blocks(bridge.to_tf_keras(plain)) == []
    with pytest.raises(ModelError, match="has no residual block"):
        tfopt.PruneBlocks().chosen(plain, X[:, 0, 0, :].repeat(2, axis=1))


def test_errors_of_blocks():
    model = residual()
    with pytest.raises(DataError, match=r"stage, notes = stage\.chosen"):
        tfopt.PruneBlocks().apply(model, steps=4)
    with pytest.raises(RecipeError, match=r"final_ratio=0\.005 cannot be reached: without the 3 blocks of 3"):
        tfopt.PruneBlocks(final_ratio=0.005).chosen(model, X)
    with pytest.raises(RecipeError, match=r"has no residual block nothing\. Its blocks end in: add_0, add_1, add_2"):
        tfopt.PruneBlocks(blocks=("nothing",)).apply(model, steps=4)
    kept, _ = tfopt.PruneBlocks(final_ratio=0.8, layers=(("second_2", False),)).chosen(model, X)
    assert kept.blocks == ("add_1",)
    found = kept.decisions(bridge.to_tf_keras(model))
    assert found["first_1"].does == "goes with add_1" and found["first_2"].why == "kept by a rule"
    assert found["first_0"].why == "stays"
    free = tfopt.PruneBlocks().decisions(bridge.to_tf_keras(model))
    assert free["first_0"].does == "may go with add_0"
    assert found["head"].why == "in no residual block"


def low_rank(api=keras):
    layers = api.layers
    api.utils.set_random_seed(0)
    words = api.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(40, 16, name="table")(words)
    x = layers.Conv1D(24, 3, padding="same", strides=2, activation="relu", name="conv")(x)
    x = layers.LSTM(12, name="lstm")(x)
    x = layers.Dense(32, "relu", name="wide")(x)
    model = api.Model(words, layers.Dense(3, "softmax", name="head")(x), name="texts")
    rng = np.random.default_rng(0)
    for name, rows, columns in (("table", 40, 16), ("conv", 48, 24), ("lstm", 24, 48), ("wide", 12, 32)):
        layer = model.get_layer(name)
        kernel, *rest = layer.get_weights()
        product = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, columns)) / np.sqrt(3 * rows)
        layer.set_weights([product.reshape(kernel.shape), *rest])
    model.compile(api.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


WORDS = np.random.default_rng(1).integers(0, 40, (64, 6)).astype("int32")


@pytest.mark.parametrize("api", ["keras", "tf_keras"])
def test_kernels_of_low_rank_are_factored_exactly(api, tmp_path):
    api = keras if api == "keras" else keras_compat.tf_keras()
    model, stage = low_rank(api), tfopt.LowRank(energy=0.999999, round_to=1)
    wrapped = stage.apply(model, steps=4)
    factors = {layer.name for layer in wrapped.layers if layer.name.endswith("_factor")}
    assert factors == {"table_factor", "conv_factor", "lstm_factor", "wide_factor"}
    assert wrapped.get_layer("table").output_dim == 3 and wrapped.get_layer("conv_factor").filters == 3
    expected = model.predict(WORDS, verbose=0)
    np.testing.assert_allclose(wrapped.predict(WORDS, verbose=0), expected, atol=1e-5)
    small = stage.strip(wrapped)
    np.testing.assert_allclose(small.predict(WORDS, verbose=0), expected, atol=1e-5)
    assert isinstance(small, api.Model) and small.count_params() < 0.6 * model.count_params()
    small.save(tmp_path / "small.keras")
    again = tfopt.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(again.predict(WORDS, verbose=0), expected, atol=1e-5)
    small.fit(WORDS, WORDS[:, 0] % 3, verbose=0)


def test_the_factors_are_the_best_of_their_rank():
    """Eckart and Young 1936: the squared error is the sum of the squared singular values that are left out."""
    rng = np.random.default_rng(0)
    layer = L.Dense(20, name="dense")
    layer.build((None, 30))
    kernel = rng.normal(size=(30, 20))
    layer.set_weights([kernel, np.zeros(20)])
    matrix = matrix_of(layer)
    sizes = np.sqrt(np.linalg.eigvalsh(kernel.T @ kernel)[::-1])
    for rank in (1, 5, 19):
        first, second = matrix.split(rank)
        assert first.shape == (30, rank) and second.shape == (rank, 20)
        error = np.square(np.float32(kernel) - first @ second).sum()
        assert error == pytest.approx((sizes[rank:] ** 2).sum(), rel=1e-5)
        assert matrix.energy_of(rank) == pytest.approx((sizes[:rank] ** 2).sum() / (sizes**2).sum(), rel=1e-5)
        assert matrix.rank_for(matrix.energy_of(rank)) == rank
    assert matrix.break_even == 11  # 11 (30 + 20) = 550 < 600 < 12 (30 + 20)


def test_where_it_does_not_pay_it_is_refused_with_its_numbers():
    full = keras.Sequential([keras.Input((30,)), L.Dense(20, name="dense")])
    said = r"does not pay for .*dense \(30 x 20 -> rank 20, 167% of the numbers, 100\.0%"
    with pytest.raises(RecipeError, match=said):
        tfopt.LowRank(energy=1.0).apply(full, steps=4)
    with pytest.raises(RecipeError, match="no layer has a kernel that can be factored"):
        tfopt.LowRank().apply(keras.Sequential([keras.Input((8, 8, 3)), L.DepthwiseConv2D(3)]), steps=4)
    with pytest.raises(RecipeError, match=r"The rule for wide sets 0\.5; expected False, or a rank"):
        tfopt.LowRank(layers=(("wide", 0.5),)).apply(low_rank(), steps=4)


def test_rules_and_decisions_of_ranks():
    stage = tfopt.LowRank(rank=2, round_to=1, layers=(("table", False), ("wide", 4)))
    wrapped = stage.apply(low_rank(), steps=4)
    assert stage.summary(wrapped)[1].startswith("lstm: 24 x 48 -> rank 2")
    assert wrapped.get_layer("wide_factor").units == 4 and wrapped.get_layer("conv_factor").filters == 2
    found = stage.decisions(bridge.to_tf_keras(low_rank()))
    assert found["wide"].does.startswith("12 x 32 -> rank 4, 46% of the numbers") and not found["table"].does
    assert found["head"].does.startswith("32 x 3 -> rank 2, 73%")
    assert (
        "head (32 x 3 -> rank 2"
        in tfopt.LowRank(rank=2, saving=0.5).decisions(bridge.to_tf_keras(low_rank()))["head"].why
    )


@pytest.mark.minutes
def test_recipes_with_both_resume_and_export(tmp_path):
    model = residual()
    stages = (
        tfopt.PruneBlocks(final_ratio=0.6, epochs=1, min_steps=0),
        tfopt.LowRank(rank=4, round_to=1, epochs=1, min_steps=0),
        tfopt.Quantize(epochs=1),
    )
    recipe = tfopt.Recipe(stages=stages, max_drop=None)
    assert not tfopt.check(model, recipe).problems
    whole = tfopt.optimize(model, recipe, ((X, Y), (X, Y)), quiet=True)
    assert not whole.recipe.stages[0].blocks and whole.report.rows[-1].macs < whole.report.rows[0].macs / 2
    path = tmp_path / "run.ckpt"
    from tfopt.run.optimize import _Run

    before, keep = _Run._keep, []

    class StopError(Exception):
        pass

    def stop(run):
        before(run)
        keep.append(1)
        if len(keep) == 2:
            raise StopError

    _Run._keep = stop
    try:
        with pytest.raises(StopError):
            tfopt.optimize(model, recipe, ((X, Y), (X, Y)), quiet=True, checkpoint=path)
    finally:
        _Run._keep = before
    resumed = tfopt.optimize(model, recipe, ((X, Y), (X, Y)), quiet=True, checkpoint=path)
    assert resumed.lite.data == whole.lite.data
    assert [row.step for row in resumed.report.rows] == [row.step for row in whole.report.rows]


def test_two_towers_are_no_residual_block():
    a, b = keras.Input((12,)), keras.Input((12,))
    fused = keras.Model([a, b], L.Add()([L.Dense(16)(L.Dense(64, "relu")(a)), L.Dense(16)(b)]))
    plain = keras.Model([a, b], L.Add()([L.Dense(12)(L.Dense(64, "relu")(a)), b]))
    for model in (fused, plain):
        assert residual_blocks(bridge.to_tf_keras(model)) == []


def test_an_addition_that_is_called_twice_is_no_block_and_others_may_go():
    inputs = keras.Input((8,))
    shared = L.Add(name="shared")
    x = shared([inputs, L.Dense(8, name="f")(inputs)])
    x = shared([x, L.Dense(8, name="g")(x)])
    x = L.Add(name="own")([x, L.Dense(8, name="h")(x)])
    (block,) = residual_blocks(bridge.to_tf_keras(keras.Model(inputs, x)))
    assert block.name == "own"


def test_blocks_that_cannot_go_together_are_not_chosen_together():
    s = keras.Input((8,))
    first = L.Add(name="a1")([L.Dense(8, name="c")(s), L.Dense(8, name="f2")(L.Dense(64, name="f1")(s))])
    second = L.Add(name="a2")([first, L.Dense(8, name="g2")(L.Dense(64, name="g1")(s))])
    model = keras.Model(s, second)
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    with pytest.raises(RecipeError, match="cannot be reached"):
        tfopt.PruneBlocks(final_ratio=0.05).chosen(model, x)


@pytest.mark.parametrize("stage", [tfopt.LowRank, tfopt.PruneBlocks, tfopt.PruneChannels])
def test_a_second_try_may_have_a_lower_target(stage):
    gentler = stage(retry="lower").gentler(1e-3)
    targets = {tfopt.LowRank: ("energy", 0.975), tfopt.PruneBlocks: ("final_ratio", 0.875)}
    name, target = targets.get(stage, ("final_ratio", 0.75))
    assert gentler.retry == "never" and getattr(gentler, name) == pytest.approx(target)


def test_outputs_and_kernels_that_are_not_finite_are_refused():
    model = residual()
    head = model.get_layer("head")
    head.set_weights([head.get_weights()[0] * np.nan, head.get_weights()[1]])
    with pytest.raises(ModelError, match="hold NaN or infinity on these inputs"):
        tfopt.PruneBlocks().chosen(model, X)
    with pytest.raises(ModelError, match="The kernel of 'head' holds NaN"):
        tfopt.LowRank().apply(model, steps=1)
    with pytest.raises(RecipeError, match=r"The rule \('first_1', 0\.5\) has no effect: PruneBlocks expects False"):
        tfopt.PruneBlocks(layers=(("first_1", 0.5),)).chosen(residual(), X)


def test_factors_have_the_policy_of_their_layer_and_factored_layers_stay():
    model = keras.Sequential(
        [keras.Input((32,)), L.Dense(32, "relu", name="a", dtype="mixed_float16"), L.Dense(32, name="o")]
    )
    stage = tfopt.LowRank(rank=8)
    small = stage.strip(stage.apply(model, steps=1))
    assert small.get_layer("a_factor").dtype_policy.name == "mixed_float16"
    assert small.get_layer("o_factor").dtype_policy.name == "float32"
    with pytest.raises(RecipeError, match="does not pay"):
        tfopt.LowRank(rank=8).apply(small, steps=1)


def test_layers_that_start_from_given_states_stay_whole():
    i, j = keras.Input((7, 8)), keras.Input((5, 8))
    _, h, c = L.LSTM(9, return_state=True, name="enc")(i)
    model = keras.Model([i, j], L.Dense(10, name="out")(L.LSTM(9, name="dec")(j, initial_state=[h, c])))
    wrapped = tfopt.LowRank(rank=2, saving=0).apply(model, steps=1)
    names = {layer.name for layer in wrapped.layers}
    assert "enc_factor" in names and "dec_factor" not in names


def test_dropout_of_channels_returns_in_its_own_keras():
    inputs = keras.Input((8, 8, 8))
    y = L.SpatialDropout2D(0.2)(L.Conv2D(8, 3, padding="same")(inputs))
    x = L.Add(name="at")([inputs, y])
    x = L.Add(name="end")([x, L.Conv2D(8, 1)(L.SpatialDropout2D(0.2)(x))])
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    stage = tfopt.PruneBlocks(blocks=("end",))
    small = stage.strip(stage.apply(model, steps=1))
    assert type(small) is type(model) and len(small.layers) < len(model.layers)


def test_a_teacher_teaches_what_is_left():
    recipe = tfopt.Recipe(stages=(tfopt.PruneBlocks(final_ratio=0.6, epochs=1, min_steps=0),), max_drop=None)
    result = tfopt.optimize(residual(), recipe, ((X, Y), (X, Y)), teacher=residual(), quiet=True)
    assert any("distilled from" in note for row in result.report.rows for note in row.notes)


def test_widths_of_files_do_not_stop_later_stages_in_the_dry_run():
    stages = (
        tfopt.PruneChannels(final_ratio=0.7, measure="bytes", epochs=1, min_steps=0),
        tfopt.LowRank(layers=(("wide", 8), ("*", False)), epochs=1, min_steps=0, saving=0.1),
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), L.Flatten(), L.Dense(64, "relu", name="wide"), L.Dense(4, "softmax", name="head")]
    )
    assert not tfopt.check(model, tfopt.Recipe(stages=stages)).problems


def test_the_block_that_reaches_the_target_and_changes_least_is_next():
    """Blocks of 64, 4 and 32 units: without a and b 0.32 of the MACs are left, enough for 0.35; c changes far more."""
    inputs = keras.Input((8,))
    x, sizes = inputs, {"a": (64, 0.01), "b": (4, 0.1), "c": (32, 3.0)}
    for name, (units, scale) in sizes.items():
        drawn = keras.initializers.RandomNormal(stddev=scale / units, seed=0)
        down = L.Dense(8, name=f"{name}2", kernel_initializer=drawn)
        x = L.Add(name=name)([x, down(L.Dense(units, name=f"{name}1")(x))])
    model, samples = keras.Model(inputs, x), X[:, 0].reshape(-1, 8)
    stage, notes = tfopt.PruneBlocks(final_ratio=0.35).chosen(model, samples)
    assert set(stage.blocks) == {"a", "b"} and "without a and b" in notes[1]
    largest, _ = tfopt.PruneBlocks(final_ratio=0.7, score_samples=0).chosen(model, samples)
    assert largest.blocks == ("c",)  # alone enough, and the least that is


def test_rules_without_effect_on_blocks_and_ranks():
    with pytest.raises(RecipeError, match=r"The rule .* has no effect"):
        tfopt.PruneBlocks(layers=(("head", False),)).chosen(residual(), X)
    with pytest.raises(RecipeError, match="The rank that a rule gives does not pay: wide"):
        tfopt.LowRank(layers=(("wide", 12),)).apply(low_rank(), steps=1)
    model = keras.Sequential([keras.Input((8, 8, 3)), L.DepthwiseConv2D(3, name="deep"), L.Flatten(), L.Dense(90)])
    with pytest.raises(RecipeError, match="has no kernel to factor"):
        tfopt.LowRank(layers=(("deep", 2),)).apply(model, steps=1)


@pytest.mark.minutes
def test_an_interrupted_export_goes_on_with_the_chosen_bits(tmp_path):
    """The bits that a budget chooses are those that the weights were trained for."""
    recipe = tfopt.Recipe(stages=(tfopt.Quantize(epochs=1, max_drop=0.5),), max_drop=None)
    whole = tfopt.optimize(residual(), recipe, ((X, Y), (X, Y)), quiet=True)
    from tfopt.run.optimize import _Run

    before = _Run._export

    def stop(*args):
        raise KeyboardInterrupt

    _Run._export = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            tfopt.optimize(residual(), recipe, ((X, Y), (X, Y)), quiet=True, checkpoint=tmp_path / "run")
    finally:
        _Run._export = before
    resumed = tfopt.optimize(residual(), recipe, ((X, Y), (X, Y)), quiet=True, checkpoint=tmp_path / "run")
    assert resumed.lite.data == whole.lite.data and "int4" in whole.report.rows[-1].step
    assert resumed.recipe.stages == whole.recipe.stages == recipe.stages


def test_parallel_branches_of_a_transformer_are_two_blocks():
    """x + attention(norm(x)) + mlp(norm(x)): the normalization stays as long as a branch reads it."""
    inputs = keras.Input((6, 8))
    x = L.Dense(8, name="stem")(inputs)
    norm = L.LayerNormalization(name="norm")(x)
    attended = L.MultiHeadAttention(2, 4, name="attention")(norm, norm)
    wide = L.Dense(8, name="down")(L.Dense(16, activation="relu", name="up")(norm))
    model = keras.Model(inputs, L.Dense(3, name="head")(x + attended + wide))
    flat = bridge.to_tf_keras(model)
    first, second = residual_blocks(flat)
    assert set(first.layers) == {"attention", first.name} and set(second.layers) == {"up", "down", second.name}
    x = X[:8, :6, :, :].mean(axis=2).repeat(2, axis=2)
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    stem, head = (
        lambda values, kernel=kernel, bias=bias: values @ kernel + bias
        for kernel, bias in (weights["stem"], weights["head"])
    )
    hidden = stem(x)
    normed = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-3)
    left = np.maximum(normed @ weights["up"][0] + weights["up"][1], 0) @ weights["down"][0] + weights["down"][1]
    for blocks, expected in (([first], head(hidden + left)), ([first, second], head(hidden))):
        small = bridge.to_keras(without_blocks(flat, blocks), like=model, resized=True)
        np.testing.assert_allclose(small.predict(x, verbose=0), expected, rtol=1e-3, atol=1e-4)
