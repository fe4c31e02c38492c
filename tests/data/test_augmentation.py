"""Each augmentation against SciPy, or by hand in float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tfopt.data import Augmentation, load_data
from tfopt.data.augmentation import COLUMNS, TRANSFORMATIONS
from tfopt.data.batches import view_inputs
from tfopt.data.sound_augmentation import SoundAugmentation
from tfopt.errors import DataError

IMAGES = np.random.default_rng(0).uniform(-2, 3, (6, 8, 11, 3)).astype(np.float32)
SAME = {column: value for columns in TRANSFORMATIONS.values() for column, value in columns.items()}


def applied(augment, images=IMAGES, **columns):
    """Return `images` with the same change for all."""
    row = {**dict.fromkeys(COLUMNS, 0), **SAME, **columns}
    drawn = np.tile(np.array([row[name] for name in COLUMNS], np.float32), (len(images), 1))
    return augment.apply(tf.constant(images), tf.constant(drawn)).numpy()


def resampled(image, matrix):
    """Return `image` read at `matrix` @ (row, column) around the center, linearly, by SciPy."""
    center = (np.array(image.shape[:2]) - 1) / 2
    channels = [
        ndimage.affine_transform(channel.astype(np.float64), matrix, center - matrix @ center, order=1, mode="nearest")
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize(("angle", "size"), [(20, 1), (-35, 1), (0, 1.25), (0, 0.8), (15, 0.9)])
def test_rotation_and_zoom(angle, size):
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / size
    expected = np.stack([resampled(image, matrix) for image in IMAGES])
    found = applied(Augmentation(rotation=40, zoom=0.3), angle=angle, size=size)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_quarter_turn():
    square = IMAGES[:, :, :8]
    np.testing.assert_allclose(
        applied(Augmentation(rotation=90), square, angle=90), np.rot90(square, axes=(1, 2)), atol=1e-4
    )


def test_brightness_and_contrast():
    images = IMAGES.astype(np.float64)
    axes = (1, 2, 3)
    low, high, mean = (find(images, axis=axes, keepdims=True) for find in (np.min, np.max, np.mean))
    expected = np.clip((images - mean) * 0.5 + mean + 0.25 * (high - low), low, high)
    found = applied(Augmentation(brightness=0.5, contrast=0.5), brightness=0.25, contrast=0.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cutout_fills_a_square_with_the_mean_of_each_channel():
    found = applied(Augmentation(cutout=0.5), cut=4, cut_down=1, cut_right=10)
    expected = IMAGES.copy()
    expected[:, 0:3, 8:11] = IMAGES.astype(np.float64).mean(axis=(1, 2), keepdims=True)  # 4 around 1: -1..2
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_no_value_outside_the_image_and_not_two_images_alike(name):
    augment = Augmentation(**{name: True if name.endswith("flip") else 0.4 if name != "rotation" else 30})
    drawn = augment.draw(len(IMAGES), IMAGES.shape[1:], 3)
    found = augment.apply(tf.constant(IMAGES), tf.constant(drawn)).numpy()
    assert (found != IMAGES).any()
    assert (found.min(axis=(1, 2, 3)) >= IMAGES.min(axis=(1, 2, 3)) - 1e-5).all()
    assert (found.max(axis=(1, 2, 3)) <= IMAGES.max(axis=(1, 2, 3)) + 1e-5).all()
    columns = [COLUMNS.index(column) for column in TRANSFORMATIONS[name] if column != "cut"] or [
        COLUMNS.index("cut_down")
    ]
    assert len(np.unique(drawn[:, columns])) > 1
    others = [COLUMNS.index(column) for column in SAME if column not in TRANSFORMATIONS[name]]
    np.testing.assert_array_equal(drawn[:, others], np.tile([SAME[COLUMNS[i]] for i in others], (len(IMAGES), 1)))


def test_at_once_changes_so_many_of_each_image():
    usual = Augmentation.of_strength(1.0)
    augment = Augmentation(**{**usual.transformations, "horizontal_flip": False}, at_once=2)
    drawn = augment.draw(200, (64, 64, 3), 0)
    changed = {
        name: np.any([drawn[:, COLUMNS.index(column)] != same for column, same in columns.items()], axis=0)
        for name, columns in TRANSFORMATIONS.items()
    }
    number = np.sum(list(changed.values()), axis=0)
    assert number.max() == 2 and (number == 2).mean() > 0.95  # a shift of 0 pixels happens
    for name in set(TRANSFORMATIONS) - {"horizontal_flip", "vertical_flip"}:
        assert 0.2 < changed[name].mean() < 0.47  # 2 of 6 are a third: 4 standard deviations


def test_strength():
    assert Augmentation.of_strength(0).transformations == {}
    half = Augmentation.of_strength(0.5)
    assert half.transformations == pytest.approx(
        {"horizontal_flip": True, "shift": 0.1, "rotation": 15, "zoom": 0.15, "brightness": 0.2, "contrast": 0.3,
         "cutout": 0.25}
    )  # fmt: skip


def test_a_sample_changes_in_the_same_way_in_batches_and_in_views():
    """The answers of a teacher to a view belong to what the student sees."""
    data = load_data((IMAGES, np.arange(6)))
    augment = Augmentation.of_strength(0.7)
    view = np.concatenate(list(view_inputs(data.train, 1, 4, seed=5, augment=augment)))
    batches = data.batches("train", 2, shuffle=True, seed=5, augment=augment)
    for _ in batches:
        pass
    second = np.concatenate([x for x, _ in batches.as_numpy_iterator()])
    for image in second:
        assert np.abs(view - image).max(axis=(1, 2, 3)).min() < 1e-5


@pytest.mark.parametrize(
    "setting",
    [{"zoom": 1.0}, {"cutout": -0.1}, {"rotation": 200}, {"brightness": 1.5}, {"contrast": -1}, {"at_once": 0}],
)
def test_bad_settings(setting):
    with pytest.raises(DataError, match=f"Expected {next(iter(setting))}"):
        Augmentation(**setting)


# Images whose two channels are the row and the column of each pixel, and masks with the number of the pixel: after a
# change, the numbers tell which pixel went where.
ROWS, COLUMNS_OF = np.mgrid[:9, :12].astype(np.float32)
PLACES = np.tile(np.stack([ROWS, COLUMNS_OF], axis=-1), (40, 1, 1, 1))
NUMBERS = np.tile((ROWS * 12 + COLUMNS_OF).astype(np.int32), (40, 1, 1))
FLIPS = {"horizontal_flip": True, "vertical_flip": True}
MOVES = {
    "flips": FLIPS,
    "shift": {"shift": 0.4},
    "rotation": {"rotation": 60},
    "zoom": {"zoom": 0.5},
    "all": {**FLIPS, "shift": 0.3, "rotation": 60, "zoom": 0.4, "brightness": 0.3, "contrast": 0.5, "cutout": 0.4},
}


@pytest.mark.parametrize("settings", MOVES.values(), ids=MOVES)
def test_masks_follow_their_images(settings):
    geometry = {name: value for name, value in settings.items() if name not in ("brightness", "contrast", "cutout")}
    drawn = Augmentation(**settings).draw(40, PLACES.shape[1:], 3)
    moved = Augmentation(**geometry).apply(tf.constant(PLACES), drawn).numpy()  # the same moves, colors unchanged
    masks = Augmentation(**settings).apply_to_masks(tf.constant(NUMBERS), drawn).numpy()
    assert masks.dtype == np.int32
    inside = np.abs(moved - np.round(moved)).max(axis=-1) < 0.49  # between two pixels either is the nearest
    assert inside.mean() > 0.8 and (masks != NUMBERS).any(axis=(1, 2)).mean() > 0.6
    found = np.stack(np.divmod(masks, 12), axis=-1)
    np.testing.assert_array_equal(found[inside], np.round(moved)[inside])


def test_masks_flip_and_shift_by_hand():
    mask = np.array([[[0, 1, 2], [3, 4, 5]]], np.int32)
    row = {**dict.fromkeys(COLUMNS, 0), **SAME}

    def moved(augment, **columns):
        drawn = np.array([[{**row, **columns}[name] for name in COLUMNS]], np.float32)
        return augment.apply_to_masks(tf.constant(mask), drawn).numpy()[0].tolist()

    assert moved(Augmentation(horizontal_flip=True), mirrored=1) == [[2, 1, 0], [5, 4, 3]]
    assert moved(Augmentation(vertical_flip=True), upside_down=1) == [[3, 4, 5], [0, 1, 2]]
    assert moved(Augmentation(shift=0.5), right=1, down=1) == [[0, 0, 1], [0, 0, 1]]
    assert moved(Augmentation(brightness=0.5, contrast=0.5, cutout=0.9), cut=2, brightness=0.5) == mask[0].tolist()


def test_one_hot_masks_move_like_class_numbers():
    augment = Augmentation(horizontal_flip=True, rotation=40, zoom=0.3, shift=0.2)
    classes = NUMBERS % 5
    drawn = augment.draw(40, PLACES.shape[1:], 1)
    numbers = augment.apply_to_masks(tf.constant(classes), drawn).numpy()
    one_hot = augment.apply_to_masks(tf.constant(np.eye(5, dtype=np.float32)[classes]), drawn).numpy()
    np.testing.assert_array_equal(one_hot, np.eye(5)[numbers])


def test_batches_move_masks_as_a_function_of_seed_epoch_and_sample():
    data = load_data((PLACES, NUMBERS % 4), task="segmentation", validation=0.2)
    augment = Augmentation(horizontal_flip=True, vertical_flip=True, shift=0.3)

    def epochs(size, seed=5):
        batches = data.batches("train", size, shuffle=True, seed=seed, augment=augment)
        return [[np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True)] for _ in range(2)]

    (x, y), (x_next, _) = epochs(4)
    np.testing.assert_array_equal((x[..., 0] * 12 + x[..., 1]) % 4, y)  # whole pixels: exact
    np.testing.assert_array_equal(epochs(7)[0][1], y)
    assert (x != x_next).any() and (epochs(4, seed=6)[0][0] != x).any()


def test_masks_of_another_size_are_not_augmented():
    data = load_data((PLACES, NUMBERS[:, ::3, ::3] % 4), task="segmentation")
    with pytest.raises(DataError, match=r"Expected masks in the size of their images \(9, 12\)"):
        data.batches("train", 4, augment=Augmentation(shift=0.1))


@pytest.mark.parametrize(
    ("labels", "task", "came"),
    [
        (np.random.default_rng(0).normal(size=(20, 8, 8, 1)), None, r"values of shape \(8, 8, 1\)"),
        (np.arange(20 * 8 * 8 * 2).reshape(20, 8, 8, 2) % 7 % 2, "multilabel", r"values of shape \(8, 8, 2\)"),
        (np.zeros(20, int), "reconstruction", "the inputs themselves"),
    ],
)
def test_targets_that_would_have_to_move_are_not_augmented(labels, task, came):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    data = load_data((pixels, labels), task=task)
    with pytest.raises(DataError, match=f"do not move with their inputs, got {came} as targets; leave augment out"):
        data.batches("train", 4, augment=Augmentation(shift=0.1))


def test_sounds_have_no_masks():
    with pytest.raises(DataError, match="Expected labels without places for SoundAugmentation"):
        SoundAugmentation(shift=0.1).apply_to_masks(NUMBERS, None)
