"""Kernels in files made up of a few tensors: which one is found, by name, by content and by order."""

import numpy as np
import pytest

from tfopt.errors import PromiseError
from tfopt.stages.kernels.table import Kernel
from tfopt.tflite.prove.kernels import (
    FileKernel,
    _Candidate,
    explained,
    find_kernels,
    locate,
    match_kernels,
    rows_of,
    same_places,
)
from tfopt.tflite.read import Op, Tensor, Weight

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(6, 4))  # inputs, outputs


def weight(name, values, *, axis=0, scales=(), points=None, order=0, index=None, quantized_axis=None):
    """A tensor of the file with these real values, read by the operator `order`."""
    real = np.asarray(values, np.float32)
    index = order if index is None else index
    points = (0,) * len(scales) if points is None else points
    tensor = Tensor(index, name, real.shape, "float32", tuple(scales), points, quantized_axis, True, real.size)
    readers = (Op(order, "FULLY_CONNECTED", (index,), (100 + order,)),)
    return Weight(tensor, "FULLY_CONNECTED", real, real, axis, readers=readers)


class File:
    def __init__(self, *weights, gives=None):
        self._weights, self._gives = list(weights), gives or {}

    def weights(self):
        return self._weights

    def tensors(self):
        results = [op.outputs[0] for one in self._weights for op in one.readers]
        made = [
            Tensor(index, self._gives.get(index, "result"), (), "float32", (), (), None, False, 0) for index in results
        ]
        return [one.tensor for one in self._weights] + made


def owner(kind, **attributes):
    return type(kind, (), attributes)()


def kernel(values, kind="Dense", *, name="kernel", axis=-1, attribute="kernel", **attributes):
    return Kernel(name, np.asarray(values, np.float32), 0, axis, owner(kind, **attributes), attribute)


def found(file, wanted, layer="dense"):
    """The place of one kernel."""
    return locate(file, {(layer, wanted.name): wanted})[layer, wanted.name]


def names(place):
    """The tensors of each place that stores the kernel."""
    return [one.name for one in place.everywhere]


# Which tensor


def test_the_outermost_layer_of_a_name_is_meant():
    inner, outer = weight("net/block/dense/kernel", VALUES.T), weight("net/dense/kernel", VALUES.T, order=1)
    assert names(found(File(inner, outer), kernel(VALUES))) == ["net/dense/kernel"]
    assert names(found(File(inner), kernel(VALUES))) == ["net/block/dense/kernel"]


def test_a_name_counts_only_if_the_content_agrees():
    other = weight("net/dense/kernel", RNG.normal(size=(4, 6)))
    assert names(found(File(other, weight("x", VALUES.T, order=1)), kernel(VALUES))) == ["x"]
    with pytest.raises(
        PromiseError, match=r"The kernel of layer 'dense' was not found .*best match 0\.\d\d, needed 0\.9\)"
    ):
        found(File(other), kernel(VALUES))
    with pytest.raises(PromiseError, match=r"best match 0\.00, needed 0\.9\)"):
        found(File(weight("net/dense/kernel", VALUES)), kernel(VALUES))  # of another shape


def test_the_best_match_of_all_is_reported():
    rng = np.random.default_rng(11)
    near, far = VALUES.T.copy(), rng.normal(size=(4, 6))
    near[0] = rng.normal(size=6)
    with pytest.raises(PromiseError) as caught:
        found(File(weight("net/dense/kernel", near), weight("net/dense/k", far, order=1)), kernel(VALUES))
    model = VALUES.T.astype(np.float32).astype(float)

    def share(values):
        stored = values.astype(np.float32).astype(float)
        along = (stored * model).sum(axis=1) / np.square(model).sum(axis=1)
        return 1 - np.square(stored - along[:, None] * model).sum() / np.square(stored).sum()

    assert share(far) + 0.1 < share(near) < 0.85 and f"(best match {share(near):.2f}, needed 0.9)" in str(caught.value)


def test_the_result_of_the_reader_bears_the_name_too():
    file = File(weight("arith.constant", VALUES.T), weight("other", VALUES.T, order=1), gives={101: "net/dense/MatMul"})
    assert names(found(file, kernel(VALUES))) == ["other"]


def test_names_of_fused_layers_are_joined():
    fused = weight("net/relu/Relu;net/dense/MatMul", VALUES.T, order=1)
    assert names(found(File(weight("x", VALUES.T), fused), kernel(VALUES))) == [fused.tensor.name]


def test_inner_layers_decide_between_kernels_of_one_layer():
    key, query = (
        weight(f"net/attention/{name}/einsum", VALUES.T, order=order) for order, name in enumerate(("key", "query"))
    )
    file = File(key, query)
    assert names(found(file, kernel(VALUES, name="query/kernel"), "attention")) == ["net/attention/query/einsum"]
    assert names(found(file, kernel(VALUES, name="key/kernel"), "attention")) == ["net/attention/key/einsum"]
    # A number may follow the name; a longer name is another one.
    near = weight("net/attention/query_dense2x/einsum_1", VALUES.T)
    file = File(weight("net/attention/query.x/einsum", VALUES.T), weight("net/attention/query_1/e", VALUES.T, order=1))
    assert names(found(file, kernel(VALUES, name="query/kernel"), "attention")) == ["net/attention/query_1/e"]
    assert names(found(File(near), kernel(VALUES, name="query/kernel"), "attention")) == [near.tensor.name]


def test_all_inner_names_count():
    weights = [
        weight(f"net/stack/{a}/{b}/kernel", VALUES.T, order=order)
        for order, (a, b) in enumerate([("left", "up"), ("left", "down"), ("right", "up"), ("right", "down")])
    ]
    place = found(File(*weights), kernel(VALUES, name="right/down/kernel"), "stack")
    assert names(place) == ["net/stack/right/down/kernel"]


def test_numbers_that_agree_better_decide_before_the_order():
    scaled = VALUES * [1, 2, 3, 4]  # any factor per channel is allowed, but one factor for all fits better
    file = File(weight("net/dense/a", scaled.T), weight("net/dense/b", 5 * VALUES.T, order=1))
    assert found(file, kernel(VALUES)).parts[0].tensor.name == "net/dense/b"
    assert names(found(file, kernel(VALUES))) == ["net/dense/b", "net/dense/a"]  # both are forms of it
    assert names(found(file, kernel(scaled))) == ["net/dense/a", "net/dense/b"]


def test_inner_names_decide_before_numbers():
    scaled = weight("net/attention/query/e", (VALUES * [1, 2, 3, 4]).T, order=1)
    plain = weight("net/attention/key/e", VALUES.T)
    place = found(File(plain, scaled), kernel(VALUES, name="query/kernel"), "attention")
    assert names(place) == ["net/attention/query/e"]


def nearly(share):
    """`VALUES` with an error at right angles in each channel, such that the kernel explains this share of it."""
    error = RNG.normal(size=VALUES.shape)
    error -= VALUES * (error * VALUES).sum(axis=0) / np.square(VALUES).sum(axis=0)
    error *= np.sqrt((1 - share) / share * np.square(VALUES).sum(axis=0) / np.square(error).sum(axis=0))
    return (VALUES + error).T


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ((1.0, 0.9995), [0, 1]),
        ((1.0, 0.9975), [0]),
        ((0.95, 0.9495), [0, 1]),
        ((0.95, 0.93), [0]),
        ((0.93, 0.95), [1]),
        ((0.9004, 0.8999), [0]),  # a copy must be alike itself
        ((0.901, 0.9005), [0, 1]),
        ((1.0, 1.0, 0.91), [0, 1]),
    ],
)
def test_copies_fit_as_well_as_the_best(shares, kept):
    file = File(*(weight(f"net/dense/{number}", nearly(share), order=number) for number, share in enumerate(shares)))
    assert sorted(names(found(file, kernel(VALUES)))) == [f"net/dense/{number}" for number in kept]


def test_without_names_there_are_no_copies():
    file = File(weight("x", VALUES.T), weight("y", VALUES.T, order=1))
    assert names(found(file, kernel(VALUES))) == ["x"]


@pytest.mark.parametrize(("share", "passes"), [(0.905, True), (0.895, False)])
def test_how_much_a_kernel_must_explain(share, passes):
    file = File(weight("net/dense/kernel", nearly(share)))
    if passes:
        assert found(file, kernel(VALUES))
        return
    with pytest.raises(PromiseError, match=r"best match 0\.[89]\d, needed"):
        found(file, kernel(VALUES))


def test_differences_of_shares_below_a_thousandth_do_not_decide():
    first, second = weight("x", nearly(0.9998)), weight("y", VALUES.T, order=1)
    assert names(found(File(first, second), kernel(VALUES))) == ["x"]
    assert names(found(File(weight("x", nearly(0.997)), second), kernel(VALUES))) == ["y"]


def test_equal_kernels_go_by_the_order_of_layers_and_operators():
    late, early = weight("x", VALUES.T, order=5), weight("y", VALUES.T, order=2)
    wanted = {
        ("first", "kernel"): kernel(VALUES),
        ("second", "kernel"): kernel(VALUES),
        ("third", "kernel"): kernel(VALUES),
    }
    places = locate(File(late, early), wanted)
    assert [place.name for place in places.values()] == ["y", "x", "y"]  # those that nobody has come first
    assert all(place.copies == () for place in places.values())


def test_the_first_reader_is_the_order_of_a_weight():
    early, late = weight("x", VALUES.T, order=3), weight("y", VALUES.T, order=5)
    readers = (*early.readers, Op(9, "FULLY_CONNECTED", (3,), (103,)))
    early = Weight(early.tensor, early.op_name, early.values, early.dequantized, 0, readers=readers)
    assert names(found(File(late, early), kernel(VALUES))) == ["x"]


def test_a_share_decides_before_names_and_factors():
    """A weight that the kernel explains whole, with a factor and sign per channel, against one of like numbers."""
    whole = weight("net/attention/key/e", (VALUES * [1, -2, 3, -4]).T, order=1)
    similar = weight("net/attention/query/e", nearly(0.95))
    place = found(File(similar, whole), kernel(VALUES, name="query/kernel"), "attention")
    assert names(place) == ["net/attention/key/e"]
    assert names(found(File(similar, whole), kernel(VALUES), "attention")) == ["net/attention/key/e"]


def test_a_copy_is_taken_too():
    same = [weight(f"net/first/{number}", VALUES.T, order=number) for number in range(2)]
    wanted = {("first", "kernel"): kernel(VALUES), ("second", "kernel"): kernel(VALUES)}
    places = locate(File(*same, weight("x", VALUES.T, order=2)), wanted)
    assert names(places["first", "kernel"]) == ["net/first/0", "net/first/1"]
    assert names(places["second", "kernel"]) == ["x"]


# In which form


def test_a_product_has_its_outputs_on_either_of_the_last_axes():
    for stored, axis in ((VALUES.T, 0), (VALUES, 1), (VALUES[None], 2), (VALUES.T[None], 1)):
        place = found(File(weight("net/dense/kernel", stored, axis=None)), kernel(VALUES))
        assert place.axes[0] % np.ndim(stored) == axis
        np.testing.assert_allclose(place.values.reshape(4, 6), VALUES.T.astype("f"))
        np.testing.assert_array_equal(place.wanted[0], VALUES.T.astype("f"))


def test_a_symmetric_kernel_fits_on_both_axes():
    symmetric = VALUES @ VALUES.T
    assert found(File(weight("net/dense/kernel", symmetric, axis=None)), kernel(symmetric)).axes == (-1,)


def test_the_axis_of_the_operator_holds():
    square = RNG.normal(size=(4, 4))
    assert found(File(weight("net/dense/kernel", square.T, axis=0)), kernel(square)).axes == (0,)
    assert found(File(weight("net/dense/kernel", square, axis=1)), kernel(square)).axes == (1,)
    with pytest.raises(PromiseError):
        found(File(weight("net/dense/kernel", square, axis=0)), kernel(square))


def test_a_vector_has_one_axis():
    line = RNG.normal(size=(1, 5))
    assert found(File(weight("net/dense/kernel", line[0], axis=None)), kernel(line)).axes == (-1,)


def parts_of(stored, axis=0):
    return [weight(f"net/dense/{number}", one, order=number, axis=axis) for number, one in enumerate(stored)]


@pytest.mark.parametrize(
    ("kind", "attributes", "blocks"),
    [("LSTMCell", {}, 4), ("GRUCell", {}, 3), ("Conv2D", {"groups": 2}, 2), ("Conv2D", {"groups": 6}, 6)],
)
def test_gates_and_groups_may_be_stored_apart(kind, attributes, blocks):
    values = RNG.normal(size=(3, 5, 12))
    stored = np.split(values, blocks, axis=-1)
    place = found(File(*parts_of(np.moveaxis(one, -1, 0) for one in stored)), kernel(values, kind, **attributes))
    assert [part.tensor.name for part in place.parts] == [f"net/dense/{number}" for number in range(blocks)]
    np.testing.assert_allclose(place.values, np.moveaxis(values, -1, 0).astype("f"))
    assert place.name == ", ".join(f"net/dense/{number}" for number in range(blocks))


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Dense", {}),
        ("Conv2D", {"groups": 1}),
        ("Conv2D", {"groups": 3}),
        ("Conv2D", {"groups": "two"}),
        ("Conv2D", {"groups": None}),
    ],
)
def test_other_kernels_are_stored_in_one(kind, attributes):
    values = RNG.normal(size=(6, 4))
    with pytest.raises(PromiseError):
        found(File(*parts_of(np.split(values.T, 2))), kernel(values, kind, **attributes))
    assert found(File(*parts_of([values.T])), kernel(values, kind, **attributes))


def test_all_parts_must_be_there():
    stored = np.split(VALUES.T, 4)
    with pytest.raises(PromiseError, match=r"best match 0\.00"):
        found(File(*parts_of([one[:, :5] for one in stored])), kernel(VALUES, "LSTMCell"))
    stored[2] = RNG.normal(size=(1, 6))
    with pytest.raises(PromiseError, match=r"best match 0\.\d\d"):
        found(File(*parts_of(stored)), kernel(VALUES, "LSTMCell"))


def test_a_part_with_fewer_copies_repeats_its_last():
    left, right = VALUES[:, :2].T, VALUES[:, 2:].T
    file = File(*parts_of([left, right, 3 * left, 2 * left]))
    place = found(file, kernel(VALUES, "Conv2D", groups=2))
    numbers = [[part.tensor.name[-1] for part in one.parts] for one in place.everywhere]
    assert numbers == [["0", "1"], ["2", "1"], ["3", "1"]]
    for one, factor in zip(place.everywhere, (1, 3, 2), strict=True):
        np.testing.assert_allclose(one.values, np.concatenate([factor * left, right]).astype("f"), rtol=1e-6)
        np.testing.assert_array_equal(np.concatenate(one.wanted), VALUES.T.astype("f"))


def test_parts_with_two_and_three_places():
    left, right = VALUES[:, :2].T, VALUES[:, 2:].T
    place = found(File(*parts_of([left, right, 3 * left, 2 * left, 5 * right])), kernel(VALUES, "Conv2D", groups=2))
    numbers = [[part.tensor.name[-1] for part in one.parts] for one in place.everywhere]
    assert numbers == [["0", "1"], ["2", "4"], ["3", "4"]]


def test_products_over_any_axes():
    values = RNG.normal(size=(2, 3, 5))
    for rows in (values.reshape(2, 15), values.reshape(6, 5), values.reshape(2, 15).T, values.reshape(6, 5).T):
        for kind in ("EinsumDense", "Custom"):
            np.testing.assert_allclose(found(File(*parts_of([rows])), kernel(values, kind)).values, rows.astype("f"))
    for kind, axis in (("Conv2D", -1), ("Conv2DTranspose", -2), ("Embedding", -1)):
        with pytest.raises(PromiseError):
            found(File(*parts_of([values.reshape(2, 15)])), kernel(values, kind, axis=axis))
    for row in (values.reshape(1, 30), values.reshape(30, 1)):
        with pytest.raises(PromiseError):
            found(File(*parts_of([row])), kernel(values, "EinsumDense"))


def test_depthwise_kernels_have_channels_times_multiplier():
    values = RNG.normal(size=(3, 3, 4, 2))
    wanted = kernel(values, "DepthwiseConv2D", name="depthwise_kernel", attribute="depthwise_kernel", axis=-2, groups=4)
    expected = [values[:, :, channel, copy].ravel() for channel in range(4) for copy in range(2)]
    np.testing.assert_allclose(rows_of(wanted), np.array(expected, "f"))
    place = found(File(*parts_of([values.reshape(1, 3, 3, 8)], axis=3)), wanted)
    np.testing.assert_allclose(place.values.reshape(8, 9), np.array(expected, "f"))
    with pytest.raises(PromiseError):
        found(File(*parts_of(np.split(np.array(expected), 4))), wanted)


def test_depthwise_kernels_of_one_dimension():
    values = RNG.normal(size=(5, 4, 2))
    wanted = kernel(values, "DepthwiseConv1D", name="depthwise_kernel", attribute="depthwise_kernel", axis=-2)
    expected = [values[:, channel, copy] for channel in range(4) for copy in range(2)]
    np.testing.assert_allclose(rows_of(wanted), np.array(expected, "f"))


def test_transposed_kernels_have_outputs_on_the_second_to_last_axis():
    values = RNG.normal(size=(3, 3, 5, 2))
    rows = rows_of(kernel(values, "Conv2DTranspose", axis=-2))
    np.testing.assert_allclose(rows, [values[:, :, out].ravel() for out in range(5)], rtol=1e-6)


# What is stored


def test_values_without_their_zero_points():
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.int8)

    def held(points, axis, quantized_axis):
        tensor = Tensor(0, "t", (2, 3), "int8", (0.5,) * len(points), points, quantized_axis, True, 6)
        return FileKernel((Weight(tensor, "GATHER", stored, stored.astype("f"), 1),), (axis,)).values

    np.testing.assert_array_equal(held((), 0, None), stored)
    np.testing.assert_array_equal(held((0,), 1, None), stored.T)
    np.testing.assert_array_equal(held((3,), 0, None), stored.astype(int) - 3)
    np.testing.assert_array_equal(held((1, 0, -128), 0, 1), [[0, 2, 131], [3, 5, 134]])
    np.testing.assert_array_equal(held((0, 4), 0, 0), [[1, 2, 3], [0, 1, 2]])
    assert held((0,), 0, None).dtype == np.int8


def test_the_steps_of_the_file_may_be_rounding():
    """An error of each weight of 1.3: 1.69 of its square of 2.69, of which a third of a squared step is allowed."""
    signs = np.where(np.indices((64, 32)).sum(axis=0) % 2, 1.0, -1.0)  # at right angles to a kernel of ones
    values = np.ones((64, 32))
    for scales, passes in (
        ((2.0,), False),
        ((2.5,), True),
        ((2.0,) * 31 + (2.5,), False),
        ((2.5,) * 32, True),
        ((2.0, 2.5), True),
    ):
        stored = weight("net/dense/kernel", (values + 1.3 * signs).T, scales=scales, quantized_axis=0)
        if passes:  # 2.5^2 / 3 is more than 1.69
            assert found(File(stored), kernel(values))
            continue
        with pytest.raises(PromiseError):  # 1.69 - 4 / 3 is 0.13 of 2.69, more than a tenth
            found(File(stored), kernel(values))


@pytest.mark.parametrize(
    ("scales", "steps"),
    [
        ((), [0.5 * 2**-11, 0.25 * 2**-11, 0]),  # the relative error of float16
        ((0.3,), [0.3] * 3),
        ((0.1, 0.2, 0.3), [0.1, 0.2, 0.3]),
        ((0.1, 0.4), [0.4] * 3),  # along the other axis
        ((0.1, 0.4, 0.2, 0.3), [0.4] * 3),
    ],
)
def test_steps_of_channels(scales, steps):
    stored = weight("x", [[0.5, -0.1], [0.1, -0.25], [0, 0]], scales=scales)
    found = _Candidate(stored, 0, 0, "").steps
    np.testing.assert_allclose(found, steps, rtol=1e-6)
    assert found.dtype == np.float64 and found.shape == (3,)


def test_float16_may_be_rounding():
    values = np.ones((64, 4), np.float32)
    signs = np.where(np.indices((64, 4)).sum(axis=0) % 2, 1.0, -1.0)
    for size, passes in ((2**-12, True), (0.4, False)):
        file = File(weight("net/dense/kernel", (values + size * signs).T))
        if passes:
            assert found(file, kernel(values))
        else:
            with pytest.raises(PromiseError, match=r"best match 0\.86"):  # 1 / 1.16
                found(file, kernel(values))


@pytest.mark.parametrize("rows", [511, 512, 513, 1500])
def test_all_channels_count(rows):
    wanted = np.ones((rows, 4), np.float32)
    stored = wanted.copy()
    stored[-1] = [1, -1, 1, -1]  # at right angles: nothing of it is explained
    share, cosine = explained(stored, wanted, np.zeros(rows))
    assert share == pytest.approx(1 - 1 / rows, rel=1e-9) and cosine == pytest.approx((rows - 1) / rows, rel=1e-9)
    steps = np.zeros(rows)
    steps[-1] = np.sqrt(3)  # a third of the squared step is 1, which is its whole square
    assert explained(stored, wanted, steps)[0] == 1
    steps[:] = np.sqrt(3)
    steps[-1] = 0
    assert explained(stored, wanted, steps)[0] == pytest.approx(1 - 1 / rows, rel=1e-9)


def test_a_kernel_of_zeros_explains_nothing():
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert explained(ones, zeros, np.zeros(2)) == (0, 0)
    assert explained(zeros, ones, np.zeros(2)) == (1, 1)
    assert explained(-ones, ones, np.zeros(2)) == (1, 1)  # of either sign
    assert explained(ones, ones / 8, np.zeros(2)) == (1, 1)  # of any size


# Several kernels, and other files


class Dense:
    """A layer with one kernel."""

    def __init__(self, name, values):
        self.name, self.kernel = name, np.asarray(values, np.float32)
        self.weights = [self.kernel]


def test_kernels_of_layers():
    layers = [Dense("a", VALUES), Dense("b", RNG.normal(size=(6, 4)))]
    file = File(*(weight(f"net/{one.name}/kernel", one.kernel.T, order=order) for order, one in enumerate(layers)))
    assert set(find_kernels(file, layers)) == {("a", "kernel"), ("b", "kernel")}
    assert set(find_kernels(file, layers, {("b", "kernel")})) == {("b", "kernel")}
    assert find_kernels(file, layers, ()) == {}
    assert {name: one.tensor.name for name, one in match_kernels(file, layers).items()} == {
        "a": "net/a/kernel", "b": "net/b/kernel",
    }  # fmt: skip


def test_places_in_a_file_of_the_same_tensors():
    file = File(weight("net/dense/0", VALUES.T), weight("net/dense/1", 2 * VALUES.T, order=1))
    places = locate(file, {("dense", "kernel"): kernel(VALUES)})
    other = File(weight("", 7 * VALUES.T, order=1), weight("", 5 * VALUES.T))
    again = same_places(places, other)["dense", "kernel"]
    for place, before, factor in zip(again.everywhere, places["dense", "kernel"].everywhere, (5, 7), strict=True):
        assert place.axes == before.axes and place.wanted[0] is before.wanted[0]
        np.testing.assert_allclose(place.values, (factor * VALUES.T).astype("f"), rtol=1e-6)
