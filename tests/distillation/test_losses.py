"""All distillation losses against float64 NumPy and SciPy formulas written from the papers."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import tensorflow as tf

from tfopt.base import keras_compat
from tfopt.distillation.losses import (
    DIST,
    DKD,
    FSP,
    L2,
    L2SP,
    LOSSES,
    PKT,
    RKD,
    VID,
    AttentionTransfer,
    BoundedRegression,
    ChannelWise,
    FitNets,
    Hinton,
    LossInputs,
    MultilabelKD,
    RegressionKD,
    SimilarityPreserving,
    StandardizedKD,
    TeacherFree,
)
from tfopt.distillation.losses.loss import Loss
from tfopt.errors import ModelError, RecipeError

BATCH, CLASSES = 4, 5
PAIR, PAIRS = (("a", "x"),), (("a", "x"), ("b", "y"))
SHAPES = {"a": (4, 6, 2), "b": (2, 3, 4)}, {"x": (3, 3, 3), "y": (3, 2, 4)}  # of the student, of the teacher
SMALL = {"a": (2, 2, 3)}, {"x": (7,)}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The inputs of a loss in float64; `weights` are those of its connectors."""

    student: Any
    teacher: Any
    labels: Any
    mine: dict[str, Any]
    yours: dict[str, Any]
    parameters: list[tuple[Any, Any]]
    weights: tuple[Any, ...] = ()


def draw(shapes=SHAPES, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    mine, yours = ({name: rng.normal(size=(batch, *shape)) for name, shape in side.items()} for side in shapes)
    return Numbers(
        student=2 * rng.normal(size=(batch, CLASSES)),
        teacher=3 * rng.normal(size=(batch, CLASSES)),
        labels=np.eye(CLASSES)[rng.integers(CLASSES, size=batch)],
        mine=mine,
        yours=yours,
        parameters=[(rng.normal(size=shape), rng.normal(size=shape)) for shape in ((3, 2), (2,), (2, 2, 1))],
    )


# The references. Each takes the numbers and the config, and returns (batch,) or ().


def tempered(z, temperature):
    return scipy.special.softmax(z / temperature, axis=-1)


def hinton(n, temperature=4.0):
    p, q = tempered(n.teacher, temperature), tempered(n.student, temperature)
    return temperature**2 * scipy.special.rel_entr(p, q).sum(-1)


def dkd(n, temperature=4.0, target_weight=1.0, nontarget_weight=8.0):
    terms = []
    for t, s, label in zip(n.teacher, n.student, n.labels.argmax(-1), strict=True):
        p, q = tempered(t, temperature), tempered(s, temperature)
        target = scipy.stats.entropy([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        nontarget = scipy.stats.entropy(np.delete(p, label), np.delete(q, label))  # normalizes both
        terms.append(temperature**2 * (target_weight * target + nontarget_weight * nontarget))
    return np.array(terms)


def dist(n, temperature=4.0, inter_weight=2.0, intra_weight=2.0):
    p, q = tempered(n.teacher, temperature), tempered(n.student, temperature)
    inter, intra = (
        np.mean([1 - scipy.stats.pearsonr(*rows).statistic for rows in zip(a, b, strict=True)])
        for a, b in ((p, q), (p.T, q.T))
    )
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def standardized(n, temperature=2.0):
    t, s = (scipy.stats.zscore(z, axis=-1, ddof=0) for z in (n.teacher, n.student))
    return temperature**2 * scipy.stats.entropy(tempered(t, temperature), tempered(s, temperature), axis=-1)


def multilabel(n, temperature=4.0):
    p, q = (scipy.special.expit(z / temperature) for z in (n.teacher, n.student))
    return temperature**2 * np.mean(scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q), axis=-1)


def regression(n, huber=None):
    errors = n.student - n.teacher
    return np.mean(errors**2 if huber is None else scipy.special.huber(huber, errors), axis=-1)


def bounded(n, margin=0.0):
    student, teacher = (np.mean((z - n.labels) ** 2, axis=-1) for z in (n.student, n.teacher))
    return np.array([s if s + margin > t else 0 for s, t in zip(student, teacher, strict=True)])


def teacher_free(n, correct=0.99, temperature=20.0):
    virtual = np.where(n.labels == 1, correct, (1 - correct) / (CLASSES - 1)) ** (1 / temperature)
    return temperature**2 * scipy.stats.entropy(virtual, tempered(n.student, temperature), axis=-1)


def l2(n):
    return sum(np.linalg.norm(now) ** 2 for now, _ in n.parameters if now.ndim > 1) / 2


def l2_sp(n):
    return sum(np.linalg.norm(now - start) ** 2 for now, start in n.parameters) / 2


def area(x, axis, size):
    """Resize to `size` points through the least common multiple of both sizes."""
    old = x.shape[axis]
    fine = np.repeat(x, math.lcm(old, size) // old, axis=axis)
    return np.mean(np.reshape(fine, (*x.shape[:axis], size, -1, *x.shape[axis + 1 :])), axis=axis + 1)


def alike(s, t):
    for axis in range(1, s.ndim - 1):
        size = min(s.shape[axis], t.shape[axis])
        s, t = area(s, axis, size), area(t, axis, size)
    return s, t


def of_pairs(n, layers):
    return [(n.mine[a], n.yours[b]) for a, b in layers]


def connected(s, t, weights):
    """The student's features at the teacher's width; consumes the `weights` that it uses."""
    if s.shape[-1] == t.shape[-1]:
        return s
    kernel, bias = next(weights), next(weights)
    return s @ kernel + bias


def fitnets(n, layers, two_stage=0.0):
    del two_stage
    weights, terms = iter(n.weights), []
    for s, t in of_pairs(n, layers):
        s, t = alike(s, t)
        terms.append(0.5 * ((connected(s, t, weights) - t) ** 2).reshape(BATCH, -1).mean(-1))
    return sum(terms)


def attention(n, layers):
    terms = []
    for pair in of_pairs(n, layers):
        maps = alike(*((x**2).sum(-1)[..., None] for x in pair))
        s, t = (m.reshape(BATCH, -1) / np.linalg.norm(m.reshape(BATCH, -1), axis=1)[:, None] for m in maps)
        terms.append(((s - t) ** 2).mean(-1))
    return sum(terms)


def of_positions(s, t, temperature):
    """The KL of each channel's distribution over the positions."""
    p, q = (scipy.special.softmax(z.reshape(len(z), -1, z.shape[-1]) / temperature, axis=1) for z in (t, s))
    return temperature**2 * scipy.special.rel_entr(p, q).sum(1).mean(-1)


def channel_wise(n, layers, temperature=4.0):
    weights, terms = iter(n.weights), []
    for s, t in of_pairs(n, layers):
        s, t = alike(s, t)
        terms.append(of_positions(s if s.shape[-1] == t.shape[-1] else s @ next(weights), t, temperature))
    return sum(terms)


def similarity(n, layers):
    terms = []
    for pair in of_pairs(n, layers):
        flat = (x.reshape(BATCH, -1) for x in pair)
        s, t = (f @ f.T / np.linalg.norm(f @ f.T, axis=1, keepdims=True) for f in flat)
        terms.append(np.linalg.norm(s - t, "fro") ** 2 / BATCH**2)
    return sum(terms)


def rkd(n, layers, distance_weight=25.0, angle_weight=50.0):
    value = 0.0
    for pair in of_pairs(n, layers):
        flat = [x.reshape(BATCH, -1) for x in pair]
        s, t = (scipy.spatial.distance.pdist(f) for f in flat)
        pairs = 2 * scipy.special.huber(1, s / s.mean() - t / t.mean()).sum() / BATCH**2
        triples = 0.0
        for i, j, k in itertools.permutations(range(BATCH), 3):  # two different ones at i; the others differ by 0
            s, t = (1 - scipy.spatial.distance.cosine(f[j] - f[i], f[k] - f[i]) for f in flat)
            triples += scipy.special.huber(1, s - t) / BATCH**3
        value += distance_weight * pairs + angle_weight * triples
    return value


def fsp(n, layers):
    weights = iter(n.weights)
    ends = [(connected(s, t, weights), t) for s, t in of_pairs(n, layers)]
    terms = []
    for one, other in itertools.pairwise(ends):
        s, t = (
            np.einsum("bhwi,bhwj->bij", *both) / np.prod(both[0].shape[1:3])
            for both in (alike(one[side], other[side]) for side in (0, 1))
        )
        terms.append(((s - t) ** 2).sum((1, 2)))
    return sum(terms)


def pkt(n, layers):
    value = 0.0
    for s, t in of_pairs(n, layers):
        kernels = [1 - scipy.spatial.distance.cdist(f, f, "cosine") / 2 for f in (g.reshape(BATCH, -1) for g in (s, t))]
        for i in range(BATCH):
            q, p = (np.delete(kernel[i], i) for kernel in kernels)
            value += scipy.stats.entropy(p, q) / BATCH  # normalizes both
    return value


def vid(n, layers, depth=3, initial_variance=5.0):
    del initial_variance
    weights, terms = iter(n.weights), []
    for s, t in of_pairs(n, layers):
        mean, t = alike(s, t)
        for position in range(depth):
            mean = mean @ next(weights)
            mean = mean if position == depth - 1 else np.maximum(mean, 0)
        variance = np.log1p(np.exp(next(weights)[0])) + 1e-5
        likelihood = scipy.stats.norm.logpdf(t, mean, np.sqrt(variance)) + 0.5 * np.log(2 * np.pi)
        terms.append(-likelihood.reshape(BATCH, -1).mean(-1))
    return sum(terms)


# Changes that leave the losses unchanged.


def change(**changes):
    """Return a function of Numbers that changes these fields; for `mine`, the features of all layers."""

    def changed(n):
        return dataclasses.replace(n, **{
            name: {key: function(x) for key, x in n.mine.items()} if name == "mine" else function(getattr(n, name))
            for name, function in changes.items()
        })  # fmt: skip

    return changed


def shifted(z):
    return z + np.linspace(-200, 100, len(z))[:, None]


def stretched(z):
    return z * np.linspace(0.5, 5, len(z)).reshape(-1, *(1,) * (z.ndim - 1))


def rotated(x):
    size = x[0].size
    turn = scipy.stats.ortho_group.rvs(size, random_state=size)
    return (x.reshape(len(x), -1) @ turn).reshape(x.shape)


def mixed(x):
    """The channels rotated."""
    return x @ scipy.stats.ortho_group.rvs(x.shape[-1], random_state=1)


def reversed_batch(n):
    mine, yours = ({name: x[::-1] for name, x in side.items()} for side in (n.mine, n.yours))
    return dataclasses.replace(n, mine=mine, yours=yours)


def mirrored(n):
    """Left and right swapped everywhere."""
    mine, yours = ({name: x[:, :, ::-1] for name, x in side.items()} for side in (n.mine, n.yours))
    return dataclasses.replace(n, mine=mine, yours=yours)


def both_shifted(n):
    return change(student=lambda z: z + 3, teacher=lambda z: z + 3)(n)


def all_negative(n):
    return change(student=np.negative, teacher=np.negative, labels=np.negative)(n)


SHIFT = change(student=shifted)
SCALE = change(mine=lambda x: 7 * x)
FREE_BIASES = change(parameters=lambda ps: [(now + (now.ndim == 1), start) for now, start in ps])
ALL_SHIFTED = change(parameters=lambda ps: [(now + 1, start + 1) for now, start in ps])


def flat(n):
    """All numbers in a row."""
    arrays = [n.student, n.teacher, *n.mine.values(), *n.yours.values(), *itertools.chain(*n.parameters)]
    return np.concatenate([array.ravel() for array in arrays])


@dataclasses.dataclass(frozen=True)
class Row:
    """A loss in the table.

    `changes`: none of them changes the loss. `zero`: the loss is 0 if student and teacher are equal. `bad`: invalid
    configs. `shapes`: of the features.
    """

    reference: Callable[..., Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    changes: tuple[Callable[[Numbers], Numbers], ...] = ()
    zero: bool = True
    bad: tuple[dict[str, Any], ...] = ()
    shapes: tuple[dict[str, Any], dict[str, Any]] = SHAPES


TEMPERATURES = ({"temperature": 0}, {"temperature": -1.0}, {"temperature": float("inf")})
NO_LAYERS = ({"layers": ()}, {"layers": (("a",),)}, {"layers": ("a", "x")})
TABLE = {
    Hinton: Row(hinton, {"temperature": 3.0}, (SHIFT, change(teacher=shifted)), bad=TEMPERATURES),
    DKD: Row(dkd, {"temperature": 2.0, "target_weight": 0.7, "nontarget_weight": 3.0}, (SHIFT,),
             bad=(*TEMPERATURES, {"target_weight": -1})),
    DIST: Row(dist, {"temperature": 2.0, "inter_weight": 0.7, "intra_weight": 3.0}, (SHIFT,),
              bad=(*TEMPERATURES, {"intra_weight": -1})),
    StandardizedKD: Row(standardized, {"temperature": 1.5},
                        (SHIFT, change(student=stretched), change(teacher=lambda z: shifted(stretched(z)))),
                        bad=TEMPERATURES),
    MultilabelKD: Row(multilabel, {"temperature": 3.0}, (change(student=np.negative, teacher=np.negative),),
                      bad=TEMPERATURES),
    RegressionKD: Row(regression, {"huber": 1.7}, (both_shifted,), bad=({"huber": 0}, {"huber": -1})),
    BoundedRegression: Row(bounded, {"margin": 6.0}, (all_negative,), zero=False, bad=({"margin": -1},)),
    TeacherFree: Row(teacher_free, {"correct": 0.9, "temperature": 3.0}, (SHIFT, change(teacher=np.negative)),
                     zero=False, bad=(*TEMPERATURES, {"correct": 0}, {"correct": 1})),
    L2: Row(l2, {}, (FREE_BIASES,), zero=False),
    L2SP: Row(l2_sp, {}, (ALL_SHIFTED,)),
    FitNets: Row(fitnets, {"layers": PAIRS, "two_stage": 0.25}, (mirrored,),
                 bad=(*NO_LAYERS, {"two_stage": 1}, {"two_stage": -0.1})),
    AttentionTransfer: Row(attention, {"layers": PAIRS}, (SCALE, change(mine=stretched), change(mine=mixed), mirrored),
                           bad=NO_LAYERS),
    ChannelWise: Row(channel_wise, {"layers": PAIRS, "temperature": 2.0}, (mirrored,),
                     bad=(*TEMPERATURES, *NO_LAYERS[1:])),
    SimilarityPreserving: Row(similarity, {"layers": PAIR}, (SCALE, change(mine=rotated), reversed_batch),
                              bad=NO_LAYERS, shapes=SMALL),
    RKD: Row(rkd, {"layers": PAIR, "distance_weight": 3.0, "angle_weight": 2.0},
             (SCALE, change(mine=rotated), change(mine=lambda x: x + 1), reversed_batch),
             bad=(*NO_LAYERS, {"angle_weight": -1}), shapes=SMALL),
    FSP: Row(fsp, {"layers": PAIRS}, (mirrored,), bad=(*NO_LAYERS, {"layers": PAIR})),
    PKT: Row(pkt, {"layers": PAIR}, (SCALE, change(mine=stretched), change(mine=rotated), reversed_batch),
             bad=NO_LAYERS, shapes=SMALL),
    VID: Row(vid, {"layers": PAIRS, "depth": 2}, (mirrored,), zero=False,
             bad=(*NO_LAYERS, {"depth": 0}, {"initial_variance": 0})),
}  # fmt: skip


def connect(loss, n, api=None):
    shapes = ({name: x.shape[1:] for name, x in side.items()} for side in (n.mine, n.yours))
    return loss.connectors((api or keras_compat.tf_keras()).layers, *shapes)


def loss_inputs(n, dtype="float32"):
    def tensors(values):
        return {name: tf.constant(x, dtype) for name, x in values.items()}

    return LossInputs(
        student=tf.constant(n.student, dtype),
        teacher=tf.constant(n.teacher, dtype),
        labels=tf.constant(n.labels, dtype),
        student_features=tensors(n.mine),
        teacher_features=tensors(n.yours),
        parameters=[(tf.Variable(now, dtype=dtype), start.astype("float32")) for now, start in n.parameters],
    )


def expected(loss, n, connectors):
    """The reference in float64, with the connectors' own weights."""
    config = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss) if field.name != "weight"}
    weights = tuple(np.array(w, "float64") for layer in connectors for w in layer.get_weights())
    return TABLE[type(loss)].reference(dataclasses.replace(n, weights=weights), **config)


def with_gradients(loss, n, connectors=None, dtype="float32"):
    """The loss, and the gradients of its sum for everything that trains."""
    connectors = connect(loss, n) if connectors is None else connectors
    inputs = loss_inputs(n, dtype)
    with tf.GradientTape() as tape:
        watched = [inputs.student, *inputs.student_features.values()]
        tape.watch(watched)
        value = loss(inputs, connectors)
        summed = tf.reduce_sum(value)
    watched += [now for now, _ in inputs.parameters] + [w for layer in connectors for w in layer.trainable_weights]
    return value.numpy(), [g.numpy() for g in tape.gradient(summed, watched, unconnected_gradients="zero")]


def all_losses(function):
    return pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.label)(function)


def made(kind, **changes):
    return kind(**{**TABLE[kind].config, **changes})


def test_labels_differ_and_the_table_is_complete():
    assert len({kind.label for kind in LOSSES}) == len(LOSSES)
    assert set(TABLE) == set(LOSSES)


@pytest.mark.parametrize("api", [keras, keras_compat.tf_keras()], ids=["keras", "tf_keras"])
@all_losses
def test_value_is_that_of_the_paper(kind, api):
    loss, n = made(kind), draw(TABLE[kind].shapes)
    connectors = connect(loss, n, api)
    value = loss(loss_inputs(n), connectors)
    wanted = expected(loss, n, connectors)
    assert value.dtype == tf.float32
    assert value.shape == np.shape(wanted)
    np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=1e-6)


@all_losses
def test_default_config(kind):
    """The defaults are the constants of the papers, which the references state."""
    loss, n = kind(**{key: value for key, value in TABLE[kind].config.items() if key == "layers"}), draw()
    connectors = connect(loss, n)
    value = loss(loss_inputs(n), connectors)
    config = {"layers": loss.pairs} if loss.pairs else {}
    weights = tuple(np.array(w, "float64") for layer in connectors for w in layer.get_weights())
    wanted = TABLE[kind].reference(dataclasses.replace(n, weights=weights), **config)
    np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=1e-6)


@all_losses
def test_gradient_is_that_of_finite_differences(kind):
    loss, n = made(kind), draw(TABLE[kind].shapes)
    connectors = connect(loss, n)
    _, gradients = with_gradients(loss, n, connectors)
    weights = [np.array(w, "float64") for layer in connectors for w in layer.get_weights()]
    n = dataclasses.replace(n, weights=weights)
    trained = [n.student, *n.mine.values(), *(now for now, _ in n.parameters), *weights]
    assert len(gradients) == len(trained)
    assert any(np.abs(gradient).max() > 1e-4 for gradient in gradients)
    config = {**TABLE[kind].config}
    for values, gradient in zip(trained, gradients, strict=True):
        for place in np.random.default_rng(1).choice(values.size, min(values.size, 30), replace=False):
            index = np.unravel_index(place, values.shape)
            before, around = values[index], []
            for step in (1e-5, -1e-5):
                values[index] = before + step
                around.append(np.sum(TABLE[kind].reference(n, **config)))
            values[index] = before
            slope = (around[0] - around[1]) / 2e-5
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-3, atol=1e-4 * np.abs(gradient).max() + 1e-7)


@pytest.mark.parametrize("kind", [kind for kind, row in TABLE.items() if row.zero], ids=lambda kind: kind.label)
def test_equal_student_and_teacher_cost_nothing(kind):
    loss, n = made(kind), draw()
    assert np.max(loss(loss_inputs(n), connect(loss, n))) > 1e-3
    twins = dataclasses.replace(
        n, student=n.teacher, mine={a: n.yours[b] for a, b in PAIRS}, parameters=[(p, p) for _, p in n.parameters]
    )
    value, gradients = with_gradients(loss, twins)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [pytest.param(kind, changed, id=kind.label) for kind, row in TABLE.items() for changed in row.changes],
)
def test_invariance(kind, changed):
    loss, n = made(kind), draw(TABLE[kind].shapes)
    connectors = connect(loss, n)
    before, after = (loss(loss_inputs(numbers), connectors).numpy() for numbers in (n, changed(n)))
    assert not np.array_equal(flat(n), flat(changed(n)))
    np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-5)


@all_losses
def test_half_precision_is_computed_in_full(kind):
    """Values whose squares overflow float16."""

    def rounded(x, factor):
        return np.float64(np.float16(factor * x))

    n = draw(TABLE[kind].shapes)
    n = dataclasses.replace(
        n,
        student=rounded(n.student, 10),
        teacher=rounded(n.teacher, 10),
        mine={name: rounded(x, 300) for name, x in n.mine.items()},
        yours={name: rounded(x, 300) for name, x in n.yours.items()},
        parameters=[(rounded(now, 300), start) for now, start in n.parameters],
    )
    loss = made(kind)
    connectors = connect(loss, n)
    value, gradients = with_gradients(loss, n, connectors, "float16")
    np.testing.assert_allclose(value, expected(loss, n, connectors), rtol=2e-3, atol=1e-4)
    assert value.dtype == np.float32
    if kind not in (FitNets, FSP, VID, ChannelWise, L2, L2SP, RegressionKD):  # whose gradients grow with the features
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def opposite(x):
    """One value per row, 1 or -1, so that the cosines are exact."""
    return np.eye(1, x[0].size).reshape(x[:1].shape) * np.array([1, -1, 1, -1]).reshape(-1, *(1,) * (x.ndim - 1))


def at_extremes():
    n = draw(SHAPES, seed=2)
    signs = [np.sign(z) * 1e4 for z in (n.student, n.teacher)]
    huge = {name: np.sign(x) * 1e4 for name, x in n.mine.items()}
    return {
        "opposite": dataclasses.replace(n, student=signs[0], teacher=-signs[0], mine=huge),
        "huge student": dataclasses.replace(n, student=signs[0], mine=huge),
        "huge teacher": dataclasses.replace(n, teacher=signs[1], yours={k: 1e4 * x for k, x in n.yours.items()}),
        "one sure": dataclasses.replace(n, student=1e4 * n.labels, teacher=-1e4 * n.labels),
        "zero": dataclasses.replace(
            n, student=0 * n.student, teacher=0 * n.teacher, mine={k: 0 * x for k, x in n.mine.items()}
        ),
        "zero both": dataclasses.replace(
            n, mine={k: 0 * x for k, x in n.mine.items()}, yours={k: 0 * x for k, x in n.yours.items()}
        ),
        "constant": dataclasses.replace(
            n,
            student=0 * n.student + 0.1,
            teacher=0 * n.teacher + 1e4 / 3,
            mine={k: 0 * x + 0.1 for k, x in n.mine.items()},
        ),
        "equal rows": dataclasses.replace(
            n,
            student=n.student[:1].repeat(BATCH, 0),
            teacher=n.teacher[:1].repeat(BATCH, 0),
            mine={k: x[:1].repeat(BATCH, 0) for k, x in n.mine.items()},
            yours={k: x[:1].repeat(BATCH, 0) for k, x in n.yours.items()},
        ),
        "two equal rows": dataclasses.replace(
            n, student=n.student[[0, 0, 1, 2]], mine={k: x[[0, 0, 1, 2]] for k, x in n.mine.items()}
        ),
        "opposite rows": dataclasses.replace(n, mine={k: opposite(x) for k, x in n.mine.items()}),
        "one sample": draw(batch=1),
    }


@all_losses
def test_extremes_stay_finite(kind):
    loss = made(kind)
    for name, n in at_extremes().items():
        value, gradients = with_gradients(loss, n)
        assert np.isfinite(value).all(), name
        assert all(np.isfinite(gradient).all() for gradient in gradients), name
        if name in ("constant", "zero", "zero both", "equal rows", "two equal rows"):  # with no direction
            assert all(np.abs(gradient).max() < 1e4 for gradient in gradients), name


@pytest.mark.parametrize("kind", [StandardizedKD, DIST], ids=lambda kind: kind.label)
def test_rounding_errors_have_no_direction(kind):
    """Equal logits whose float32 mean differs from them: the standard deviation consists of rounding errors."""
    teacher = tf.constant(np.random.default_rng(0).normal(size=(9, 7)), tf.float32)
    student = tf.constant(np.linspace(0.1, 0.9, 9)[:, None].repeat(7, axis=1), tf.float32)
    assert np.any(tf.reduce_mean(student, axis=-1) != student[:, 0])
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = kind(temperature=1)(LossInputs(student, teacher), [])
    z = scipy.stats.zscore(np.array(teacher, "float64"), axis=-1)
    divergence = np.log(7) - scipy.stats.entropy(tempered(z, 1), axis=-1)  # from the uniform distribution
    np.testing.assert_allclose(value, divergence if kind is StandardizedKD else 4.0, rtol=1e-5)
    assert not np.any(tape.gradient(value, student))


@all_losses
def test_in_a_graph_with_free_sizes(kind):
    loss, n = made(kind), draw(TABLE[kind].shapes)
    connectors = connect(loss, n)
    plain = loss(loss_inputs(n), connectors)

    def free(values):
        return {name: tf.TensorSpec((None, *(None,) * (x.ndim - 2), x.shape[-1])) for name, x in values.items()}

    logits = tf.TensorSpec((None, CLASSES))

    @tf.function(input_signature=(logits, logits, logits, free(n.mine), free(n.yours)))
    def compiled(student, teacher, labels, mine, yours):
        return loss(LossInputs(student, teacher, labels, mine, yours, given.parameters), connectors)

    given = loss_inputs(n)
    parts = given.student, given.teacher, given.labels, given.student_features, given.teacher_features
    np.testing.assert_allclose(compiled(*parts), plain, rtol=1e-5)


@all_losses
def test_config_is_data(kind):
    loss = made(kind, weight=0.3)
    assert kind(**json.loads(json.dumps(dataclasses.asdict(loss)))) == loss
    for bad in (*TABLE[kind].bad, {"weight": -1}, {"weight": float("nan")}, {"unknown": 1}):
        with pytest.raises(RecipeError, match=next(iter(bad))):
            made(kind, **bad)


@pytest.mark.parametrize(("kind", "mine", "yours", "why"), [
    (FitNets, (4, 4, 8), (8,), "number of axes"),
    (VID, (4, 8), (4, 4, 8), "number of axes"),
    (FitNets, (), (), "channels"),
    (FitNets, (4, 4, None), (4, 4, 8), "fixed"),
    (AttentionTransfer, (8,), (8,), "spatial|height"),
    (AttentionTransfer, (4, 4, 8), (4, 8), "number of axes"),
    (FSP, (8,), (8,), "height"),
])  # fmt: skip
def test_shapes_that_no_connector_bridges(kind, mine, yours, why):
    loss = kind(layers=(("a", "x"), ("a", "x")))
    with pytest.raises(ModelError, match=why) as caught:
        loss.connectors(keras.layers, {"a": mine}, {"x": yours})
    assert str(mine) in str(caught.value)
    assert str(yours) in str(caught.value)


def test_flow_between_unlike_axes():
    shapes = {"a": (4, 4, 8), "b": (4, 8)}
    with pytest.raises(ModelError, match=r"\(4, 4, 8\).*\(4, 8\)"):
        FSP(layers=(("a", "a"), ("b", "b"))).connectors(keras.layers, shapes, shapes)


@pytest.mark.parametrize("kind", [FitNets, FSP, VID], ids=lambda kind: kind.label)
def test_connectors_start_equal_and_have_their_names(kind):
    for api in (keras, keras_compat.tf_keras()):
        loss, n = kind(layers=PAIRS), draw()
        first, second = connect(loss, n, api), connect(loss, n, api)
        assert len({layer.name for layer in first}) == len(first)
        assert [layer.name for layer in first] == [layer.name for layer in second]
        assert all(layer.name.startswith((f"{kind.label}_0", f"{kind.label}_1")) for layer in first)
        assert np.array_equal(loss(loss_inputs(n), first), loss(loss_inputs(n), second))


def test_connectors_compute_in_float32_under_a_half_precision_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        connectors = [layer for kind in (FitNets, FSP, VID) for layer in connect(kind(layers=PAIRS), draw(), keras)]
    finally:
        keras.config.set_dtype_policy(before)
    assert {layer.compute_dtype for layer in connectors} == {"float32"}


def test_the_variance_starts_as_configured():
    loss, n = VID(layers=PAIR, initial_variance=3.0), draw()
    *_, variance = connect(loss, n)
    loss(loss_inputs(n), connect(loss, n))
    raw = variance(tf.ones((1, 1))).numpy()
    np.testing.assert_allclose(np.log1p(np.exp(raw)) + 1e-5, np.full((1, 3), 3.0), rtol=1e-5)


def test_the_variance_does_not_vanish():
    loss, n = VID(layers=PAIR), draw()
    connectors = connect(loss, n)
    connectors[-1](tf.ones((1, 1)))
    connectors[-1].set_weights([np.full((1, 3), -200.0)])
    value, gradients = with_gradients(loss, n, connectors)
    np.testing.assert_allclose(value, expected(loss, n, connectors), rtol=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_weights_of_the_papers():
    """Of the loss term, and of the loss on the labels next to it."""
    others = {Hinton: (0.9, 0.1), MultilabelKD: (0.9, 0.1), StandardizedKD: (9, 0.1), TeacherFree: (0.1, 0.9),
              BoundedRegression: (0.5, 1), L2: (1e-4, 1), L2SP: (0.1, 1), AttentionTransfer: (1000, 1),
              SimilarityPreserving: (3000, 1), ChannelWise: (3, 1)}  # fmt: skip
    for kind in LOSSES:
        layers = {"layers": PAIRS} if "layers" in TABLE[kind].config else {}
        assert (kind(**layers).weight, kind.alpha) == others.get(kind, (1, 1)), kind.label


def test_hint_phase():
    assert FitNets(layers=PAIR).hint_phase == 0
    assert FitNets(layers=PAIR, two_stage=0.4).hint_phase == 0.4
    assert Hinton().hint_phase == 0


def three_classes(teacher, student):
    """Logits with these probabilities, label 0."""
    return LossInputs(tf.math.log([student]), tf.math.log([teacher]), tf.constant([[1.0, 0.0, 0.0]]))


def test_hinton_by_hand():
    """1/2 log(1/2 / 1/4) + 1/4 log(1/4 / 1/4) + 1/4 log(1/4 / 1/2) = 1/4 log 2 at T = 1.

    At T = 2 the roots count: (4, 1, 1)/6 and (1, 1, 4)/6 are the distributions of (16, 1, 1) and (1, 1, 16), so
    4 (4/6 log 4 + 1/6 log(1/4)) = 4 x 1/2 log 4.
    """
    by_hand = three_classes([0.5, 0.25, 0.25], [0.25, 0.25, 0.5])
    np.testing.assert_allclose(Hinton(temperature=1)(by_hand, []), [0.25 * math.log(2)], rtol=1e-6)
    by_hand = three_classes([16.0, 1.0, 1.0], [1.0, 1.0, 16.0])
    np.testing.assert_allclose(Hinton(temperature=2)(by_hand, []), [2 * math.log(4)], rtol=1e-6)


def test_dkd_by_hand():
    """Label against others: (1/2, 1/2) and (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3).

    Among the others: (1/2, 1/2) and (1/3, 2/3): 1/2 log(3/2) + 1/2 log(3/4) = 1/2 log(9/8).
    """
    by_hand = three_classes([0.5, 0.25, 0.25], [0.25, 0.25, 0.5])
    target, nontarget = 0.5 * math.log(4 / 3), 0.5 * math.log(9 / 8)
    np.testing.assert_allclose(DKD(temperature=1)(by_hand, []), [target + 8 * nontarget], rtol=1e-6)
    np.testing.assert_allclose(DKD(temperature=1, nontarget_weight=0)(by_hand, []), [target], rtol=1e-6)


def test_dkd_splits_the_divergence():
    n = draw()
    p = (tempered(n.teacher, 3.0) * n.labels).sum(-1)
    target = DKD(temperature=3, nontarget_weight=0)(loss_inputs(n), []).numpy()
    nontarget = DKD(temperature=3, target_weight=0, nontarget_weight=1)(loss_inputs(n), []).numpy()
    np.testing.assert_allclose(target + (1 - p) * nontarget, Hinton(temperature=3)(loss_inputs(n), []), rtol=1e-5)


def test_dist_sees_relations_only():
    """Probabilities moved toward uniform: all by the same amount, or each sample by its own (inter-class only)."""
    n = draw()
    q = tempered(n.student, 1.0)
    shares = np.linspace(0.2, 0.9, BATCH)[:, None]
    for loss, share in ((DIST(temperature=1), 0.3), (DIST(temperature=1, intra_weight=0), shares)):
        drawn = dataclasses.replace(n, student=np.log(share * q + (1 - share) / CLASSES))
        np.testing.assert_allclose(loss(loss_inputs(drawn), []), loss(loss_inputs(n), []), rtol=1e-4)
    assert abs(DIST(temperature=1)(loss_inputs(drawn), []) - DIST(temperature=1)(loss_inputs(n), [])) > 1e-3


def test_label_smoothing_is_a_teacher_made_by_hand():
    n, epsilon = draw(), 0.2
    log_q = scipy.special.log_softmax(n.student, axis=-1)
    plain, smoothed = (-(t * log_q).sum(-1) for t in (n.labels, (1 - epsilon) * n.labels + epsilon / CLASSES))
    term = TeacherFree(temperature=1, correct=1 / CLASSES)(loss_inputs(n), [])
    np.testing.assert_allclose((1 - epsilon) * plain + epsilon * (term + np.log(CLASSES)), smoothed, rtol=1e-5)


@pytest.mark.parametrize("kind", [DKD, TeacherFree], ids=lambda kind: kind.label)
def test_one_class_is_not_enough(kind):
    one = tf.zeros((3, 1))
    with pytest.raises(ModelError, match=r"at least two.*\(3, 1\)"):
        kind()(LossInputs(one, one, one), [])


def test_regression_is_the_plain_square_by_default_and_bounded_by_the_teacher():
    values = LossInputs(tf.constant([[1.0], [3.0]]), tf.constant([[2.0], [2.5]]), tf.constant([[0.0], [1.0]]))
    assert RegressionKD()(values, []).numpy().tolist() == [1.0, 0.25]
    assert BoundedRegression()(values, []).numpy().tolist() == [0.0, 4.0]  # 1 < 4 already; 4 > 2.25 not yet
    assert BoundedRegression(margin=3.5)(values, []).numpy().tolist() == [1.0, 4.0]


@pytest.mark.parametrize("api", [keras, keras_compat.tf_keras()], ids=["keras", "tf_keras"])
def test_parameters_may_be_variables_of_either_keras(api):
    layer = api.layers.Dense(2)
    layer.build((None, 3))
    start = [np.array(w) for w in layer.get_weights()]
    given = LossInputs(None, parameters=list(zip(layer.trainable_variables, start, strict=True)))
    assert L2SP()(given, []) == 0
    np.testing.assert_allclose(L2()(given, []), (start[0] ** 2).sum() / 2, rtol=1e-6)
    assert L2()(LossInputs(None), []) == 0


def test_a_loss_without_a_label_has_its_name():
    class LogitL1(Loss):
        def __call__(self, loss_inputs, connectors):
            return 0.0

    class Labeled(Loss):
        label = "mine"

    assert LogitL1.label == "logit_l1" and Labeled.label == "mine"
    assert not Loss.label


# Channels over positions


def test_channels_are_compared_over_the_positions():
    """Two classes on three pixels, T = 1, by hand: p = (1/6, 1/3, 1/2) and (1, 1, 1) / 3, q = p backward."""
    teacher = np.log([[[1, 1], [2, 1], [3, 1]]])
    value = ChannelWise(temperature=1)(LossInputs(teacher[:, ::-1].copy(), teacher), [])
    by_hand = (1 / 6 * math.log(1 / 3) + 1 / 2 * math.log(3)) / 2
    np.testing.assert_allclose(value, [by_hand], rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (2, 3, 2, 3), (4, 4, 1)])
def test_responses_of_any_number_of_axes_are_compared_by_channel(shape):
    rng = np.random.default_rng(0)
    student, teacher = (3 * rng.normal(size=(BATCH, *shape)) for _ in range(2))
    value = ChannelWise(temperature=2.5)(LossInputs(student, teacher), [])
    np.testing.assert_allclose(value, of_positions(student, teacher, 2.5), rtol=2e-5)
    shifts = rng.normal(size=(BATCH, *(1,) * (len(shape) - 1), shape[-1]))
    shifted_value = ChannelWise(temperature=2.5)(LossInputs(student + shifts, teacher), [])
    np.testing.assert_allclose(shifted_value, value, rtol=1e-4)


def test_responses_without_positions_have_no_channels_to_compare():
    with pytest.raises(ModelError, match=r"without any\. Use Hinton"):
        ChannelWise()(LossInputs(tf.zeros((4, 3)), tf.zeros((4, 3))), [])
    assert ChannelWise().task == "classification" and ChannelWise(layers=PAIR).task is None
