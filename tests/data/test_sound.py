"""Recordings as spectrograms: the references are tf.signal, tones whose band is known, and SciPy's WAV writer."""

import json
import struct
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.io import wavfile

import tfopt
from tfopt.data import load_data
from tfopt.data.augmentation import Augmentation
from tfopt.data.beside import stated_beside
from tfopt.data.for_model import data_for
from tfopt.data.recordings import read_recordings
from tfopt.data.spectrogram import log_mel, mel_weights
from tfopt.errors import DataError
from tfopt.inputs import Sound, SoundAugmentation
from tfopt.training.augmentation import choose_augmentation
from tfopt.training.settings import Training

RATE = 8000


def tone(frequency, seconds=0.3, rate=RATE, level=0.5):
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def recordings(tmp_path):
    """Twenty low and twenty high tones of 0.3 s."""
    for name, frequency in (("low", 400), ("high", 2000)):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for number in range(20):
            wave = (32767 * tone(frequency + 5 * number)).astype(np.int16)
            wavfile.write(tmp_path / "sounds" / name / f"{number}.wav", RATE, wave)
    return tmp_path / "sounds"


@pytest.mark.parametrize(("rate", "frame", "hop"), [(8000, 256, 128), (16000, 400, 160)])
def test_log_mel_is_that_of_tf_signal(rate, frame, hop):
    import tensorflow as tf

    waves = np.random.default_rng(0).uniform(-1, 1, (3, rate // 2)).astype(np.float32)
    size = {256: 256, 400: 512}[frame]
    spectrum = tf.abs(tf.signal.stft(waves, frame, hop, size)) ** 2
    weights = tf.signal.linear_to_mel_weight_matrix(40, size // 2 + 1, rate, 60.0, rate / 2)
    np.testing.assert_allclose(mel_weights(size // 2 + 1, rate, 40, 60.0, rate / 2), weights, atol=2e-5)
    wanted = tf.math.log(spectrum @ weights + 1e-6)
    made = log_mel(waves, rate=rate, frame=frame, hop=hop, mels=40, lowest=60.0, highest=rate / 2)
    np.testing.assert_allclose(made, wanted, atol=2e-3)
    sound = Sound(rate=rate, seconds=0.5, frame=frame / rate, hop=hop / rate, mels=40, features="mfcc")
    stored = sound.stored(waves)
    exact = sound.apply(stored)[..., 0]
    np.testing.assert_allclose(exact, tf.signal.mfccs_from_log_mel_spectrograms(wanted)[..., :13], atol=0.02)
    assert exact.shape[-1] == 13 and exact.dtype == np.float32


def test_a_tone_is_in_its_band():
    """Band m, counted from 0, is highest at corner m + 1 of the 34 that are equally spaced in mel."""
    sound = Sound(rate=RATE, seconds=0.3, mels=32, lowest=0.0)
    mels = np.linspace(0, 1127 * np.log(1 + 4000 / 700), 34)
    for band in (10, 20, 30):
        frequency = 700 * (np.exp(mels[band + 1] / 1127) - 1)
        features = sound.apply(sound.stored(tone(frequency)[None]))
        assert (features[0, :, :, 0].argmax(axis=1) == band).all()


def test_recordings_of_folders(recordings):
    data = load_data(recordings)
    assert data.class_names == ("high", "low") and data.train.inputs.dtype == np.int16
    assert data.preprocessing.rate == RATE and data.preprocessing.seconds == 0.304
    assert data.input_shape == (1 + (2432 - 256) // 128, 32, 1) == data.train.x().shape[1:]
    bands = data.test.x()[:, 8, :, 0].argmax(axis=1)
    assert (bands[data.test.y() == 0] > bands[data.test.y() == 1].max()).all()
    x, _ = next(iter(data.batches("train", 4)))
    assert x.shape == (4, *data.input_shape) and x.dtype == "float32"


def test_other_rates_channels_and_lengths_are_converted_and_told(recordings):
    """The same tone at 44.1 kHz, in two channels and longer is the same in the middle."""
    stereo = np.stack([tone(400, 1.0, 44100), tone(400, 1.0, 44100)], axis=1).astype(np.float32)
    wavfile.write(recordings / "low" / "0.wav", 44100, stereo)
    data = load_data(recordings)
    for said in ("1 recording of 40 resampled from 44,100 to 8,000 Hz", "channels of 1 recording of 40 averaged",
                 "1 recording of 40 longer than 0.304 s (the longest has 1 s)"):  # fmt: skip
        assert any(said in note for note in data.notes), data.notes
    sound = data.preprocessing
    other, same = sound.stored(np.array([recordings / "low" / "0.wav", recordings / "low" / "1.wav"], object)) / 32768
    assert np.abs(other).max() == pytest.approx(0.5, abs=0.02) and np.abs(same[:16]).max() == 0  # silence before it
    spectra = np.abs(np.fft.rfft([other, same])).argmax(axis=1) * RATE / len(other)
    np.testing.assert_allclose(spectra, [400, 405], atol=4)


def test_flac_is_read_as_wav(recordings):
    import soundfile

    before = load_data(recordings).fingerprint
    for file in recordings.rglob("*.wav"):
        soundfile.write(file.with_suffix(".flac"), *soundfile.read(file), subtype="PCM_16")
        file.unlink()
    assert load_data(recordings).fingerprint == before


def test_bad_recordings_are_named(recordings):
    (recordings / "low" / "3.wav").write_bytes(b"RIFF" + bytes(40))
    with pytest.raises(DataError, match=r"readable recording, got .*3\.wav"):
        load_data(recordings)
    wavfile.write(recordings / "low" / "3.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(DataError, match=r"sound in .*3\.wav"):
        load_data(recordings)
    wavfile.write(recordings / "low" / "3.wav", RATE, np.full(2400, np.nan, np.float32))
    with pytest.raises(DataError, match=r"finite samples, got NaN or infinity in .*3\.wav"):
        load_data(recordings)
    (recordings / "low" / "3.wav").write_text("text")
    with pytest.raises(DataError, match=r"readable recording"):
        load_data(recordings)
    with pytest.raises(DataError, match="folder of texts, got recordings"):
        load_data(recordings, preprocessing=tfopt.inputs.Text())
    with pytest.raises(DataError, match=r"floats in -1\.\.1"):
        load_data((np.full((20, 800), 2.0), np.arange(20) % 2), preprocessing=Sound(rate=RATE))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rate": 0}, "rate above 0"),
        ({"features": "mel"}, "log-mel"),
        ({"mels": 8}, "at most 8 coefficients"),
        ({"rate": 8000, "highest": 5000.0}, "within 0 and 4000 Hz"),
        ({"seconds": 0.01}, "at least one frame"),
        ({"rate": 8000, "hop": 1e-5}, r"a hop of 1 sample or more, at 8,000 Hz at least 0\.000125 s, got 1e-05 s"),
        ({"rate": 8000, "frame": 1e-4}, r"a frame of 2 samples or more, at 8,000 Hz at least 0\.00025 s"),
        ({"hop": float("inf")}, "hop above 0, got inf"),
        ({"mels": 32.5}, "mels as a whole number, got 32.5"),
    ],
)
def test_settings_are_checked(settings, problem):
    with pytest.raises(DataError, match=problem):
        Sound(**settings)


def test_a_hop_is_checked_with_the_rate_of_the_recordings(recordings):
    with pytest.raises(DataError, match=r"a hop of 1 sample or more, at 8,000 Hz"):
        load_data(recordings, preprocessing=Sound(hop=1e-5))


def bands_without_a_bin(rate, frame, mels, lowest):
    """Count triangles, in the mel scale of O'Shaughnessy, that have no frequency of the FFT inside."""
    mel = 2595 * np.log10(1 + np.arange(1, frame // 2 + 1) * rate / frame / 700)
    low, high = 2595 * np.log10(1 + np.array([lowest, rate / 2]) / 700)
    corners = low + (high - low) / (mels + 1) * np.arange(mels + 2)
    return sum(not ((a < mel) & (mel < b)).any() for a, b in zip(corners[:-2], corners[2:], strict=True))


def test_empty_bands_are_told(recordings):
    settings = {"frame": 0.016, "mels": 128}
    empty = bands_without_a_bin(RATE, 128, 128, 60.0)
    data = load_data(recordings, preprocessing=Sound(**settings))
    assert empty == (np.ptp(data.train.x(), axis=(0, 1, 3)) == 0).sum() == 29
    note = f"{empty} of 128 bands are narrower than the 62.5 Hz between two frequencies of a frame and always empty"
    assert any(each.startswith(note) for each in data.notes)
    for fine in (Sound(), Sound(frame=0.064, mels=40)):
        assert not any("always empty" in each for each in load_data(recordings, preprocessing=fine).notes)
    of_benchmark = Sound(rate=16000, seconds=1.0, frame=0.064, mels=128, lowest=20.0)
    assert bands_without_a_bin(16000, 1024, 128, 20.0) == 0
    assert not of_benchmark.notes([np.zeros((1, 16000))])


def test_a_result_feeds_other_recordings_alike(recordings, tmp_path):
    data = load_data(recordings)
    layers = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input(data.input_shape), *layers])
    result = tfopt.optimize(model, tfopt.FineTune(epochs=1), data, quiet=True)
    result.save(tmp_path / "result")
    assert stated_beside(tmp_path / "result") == data.preprocessing == result.lite.preprocessing
    assert json.loads((tmp_path / "result" / "data.json").read_text())["preprocessing"]["kind"] == "sound"
    for file in recordings.rglob("*.wav"):
        wavfile.write(file, 16000, tone(700, 0.1, 16000).astype(np.float32))
    assert load_data(recordings).preprocessing.rate == 16000
    fed = data_for(model, recordings, beside=[tmp_path / "result"], quiet=True)
    assert fed.preprocessing == data.preprocessing and fed.input_shape == data.input_shape


# Augmentation


def test_shift_and_noise():
    waves = np.tile((10000 * tone(400, 0.1)).astype(np.int16), (3, 1))
    moved = np.zeros((3, len(SoundAugmentation.columns)), np.float32)
    moved[:, 0] = 0, 0.25, -0.25
    changed = SoundAugmentation(shift=0.5).change_stored(waves, moved)
    np.testing.assert_array_equal(changed[0], waves[0])
    np.testing.assert_array_equal(changed[1], [*np.zeros(200), *waves[1, :600]])
    np.testing.assert_array_equal(changed[2], [*waves[2, 200:], *np.zeros(200)])
    noisy = np.zeros((3, len(SoundAugmentation.columns)), np.float32)
    noisy[:, 1], noisy[:, 2] = 0.1, (1, 2, 1)
    noise = SoundAugmentation(noise=0.5).change_stored(waves, noisy) - waves.astype(float)
    loudness = np.sqrt(np.mean(waves[0].astype(float) ** 2))
    np.testing.assert_allclose(noise.std(axis=1), 0.1 * loudness, rtol=0.1)
    np.testing.assert_array_equal(noise[0], noise[2])
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.15


def test_masks_are_the_mean():
    import tensorflow as tf

    x = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4, 1)
    drawn = np.zeros((2, 11), np.float32)
    drawn[0, 3:5] = 1, 2  # frames 1 and 2
    drawn[1, 9:11] = 3, 1  # band 3, by the second mask of its kind
    made = SoundAugmentation(time_mask=0.5).apply(tf.constant(x), tf.constant(drawn)).numpy()
    wanted = x.copy()
    wanted[0, 1:3], wanted[1, :, 3] = x[0].mean(), x[1].mean()
    np.testing.assert_allclose(made, wanted)


def test_draws_are_within_the_settings_and_depend_on_sample_and_view(recordings):
    augment = SoundAugmentation(shift=0.1, noise=0.2, time_mask=0.5, frequency_mask=0.25)
    drawn = augment.draw(1000, (40, 32, 1), 3)
    assert np.abs(drawn[:, 0]).max() <= 0.1 and 0.19 < drawn[:, 1].max() <= 0.2
    for first, size, most in ((3, 40, 20), (5, 40, 20), (7, 32, 8), (9, 32, 8)):
        start, width = drawn[:, first], drawn[:, first + 1]
        assert width.max() == most and start.min() == 0 and (start + width).max() == size
    np.testing.assert_array_equal(drawn, augment.draw(1000, (40, 32, 1), 3))
    data = load_data(recordings)
    batches = data.batches("train", 8, augment=augment, seed=1)
    first, second = (np.concatenate([x for x, _ in batches]) for _ in range(2))
    assert (first != second).any()
    again = np.concatenate([x for x, _ in data.batches("train", 8, augment=augment, seed=1)])
    np.testing.assert_array_equal(first, again)
    assert (first != data.train.x()).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("settings", [{"shift": 1.0}, {"noise": 2.0}, {"time_mask": -0.1}, {"frequency_mask": 1.0}])
def test_augmentation_is_checked(settings):
    with pytest.raises(DataError, match="Expected"):
        SoundAugmentation(**settings)


def test_training_chooses_what_is_for_recordings(recordings):
    """A judge that tells the tones by their band loses them under large masks of bands, not under shifts."""
    data = load_data(recordings)

    def judge(x):
        return np.eye(2)[(x.mean(axis=(1, 3)).argmax(axis=1) < 12).astype(int)]

    training = Training(shift=0.05, frequency_mask=0.9, horizontal_flip=True)
    chosen, notes = choose_augmentation(judge, training, data)
    assert isinstance(chosen, SoundAugmentation) and chosen.shift == 0.05 and chosen.frequency_mask < 0.9
    assert notes[0] == "no horizontal_flip: they are for other samples than these"
    assert any("recordings changed this way" in note for note in notes)
    assert choose_augmentation(judge, Training(rotation=5), data)[0] is None
    images = load_data((np.zeros((20, 4, 4, 3), np.uint8), np.arange(20) % 2))
    chosen, notes = choose_augmentation(lambda x: np.eye(2)[[0] * len(x)], Training(shift=0.3, noise=0.1), images)
    assert isinstance(chosen, Augmentation) and notes[0].startswith("no noise")


def test_recordings_in_memory_may_differ_in_length_between_parts():
    waves = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 2000))
    parts = ((waves, np.arange(20) % 2), (waves[:4, :1500], np.arange(4) % 2))
    data = load_data(parts, preprocessing=Sound(rate=8000, seconds=0.2))
    assert data.test.inputs.shape == (4, 1600) and any("20 recordings of 24 longer" in note for note in data.notes)


def float_wav(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, RATE, np.asarray(values, np.float32))


def test_floats_beyond_1_are_clipped_with_a_note_or_an_error(recordings):
    """1.4 times a sine of 400 Hz is beyond 1 where the sine is above 1/1.4; 20 of 2,400 samples are under 1 %."""
    few = tone(400)
    few[100:120] = [1.5, -2.0] * 10
    float_wav(recordings / "low" / "few.wav", few)
    float_wav(recordings / "high" / "none.wav", tone(400, level=1.0))
    data = load_data(recordings)
    assert "samples of 1 recording of 42 are beyond -1..1 and clipped, at most 1% of each" in data.notes
    stored = Sound(rate=RATE, seconds=0.3).stored(np.array([recordings / "low" / "few.wav"], object))
    assert set(stored[0, 100:120]) == {32767, -32768}
    loud = 1.4 * tone(400, level=1.0)
    float_wav(recordings / "low" / "loud.wav", loud)
    share = (np.abs(loud) > 1).mean()
    with pytest.raises(DataError, match=rf"{share:.2%} of those in .*loud.wav are outside, up to 1.4; at most 0.01"):
        load_data(recordings)


def test_recordings_of_integers_are_never_beyond_1(recordings):
    assert not any("clipped" in note for note in load_data(recordings).notes)


@pytest.mark.parametrize("features", ["log-mel", "mfcc"])
def test_the_lines_for_devices_compute_what_the_front_end_does(tmp_path, monkeypatch, features):
    page = (Path(__file__).parents[2] / "docs" / "sound.md").read_text(encoding="utf-8")
    lines = page.partition("## On the device")[2].partition("```python\n")[2].partition("\nwith wave")[0]
    sound = Sound(rate=RATE, seconds=0.5, mels=24, coefficients=13, lowest=100.0, features=features)
    (tmp_path / "saved_models" / "words").mkdir(parents=True)
    settings = json.dumps({"preprocessing": sound.to_dict()})
    (tmp_path / "saved_models" / "words" / "data.json").write_text(settings)
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(lines, made)
    samples = sound.stored(np.random.default_rng(0).uniform(-1, 1, (1, RATE // 2)).astype(np.float32))
    expected = sound.apply(samples)[0]
    assert expected.shape[1:] == ((13 if features == "mfcc" else 24), 1)
    np.testing.assert_allclose(made["features"](samples[0]), expected, atol=2e-3)


def wav(path, rate=8000, stated=None, samples=400):
    """Write 16-bit silence by hand, with another chunk before the data; `stated` is the size in the header."""
    data = bytes(2 * samples)
    size = len(data) if stated is None else stated
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, (2 * rate) % 2**32, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"LIST", 3) + b"abc\0" + struct.pack("<4sI", b"data", size) + data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) % 2**32) + body)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"rate": 999}, r"1,000 to 768,000 Hz, got 999 Hz in the header of .*3\.wav"),
        ({"rate": 768_001}, "got 768,001 Hz"),
        ({"stated": 802}, r"Expected 802 bytes of sound in .*3\.wav, as its header states, got 800: it is truncated"),
        ({"rate": 1000}, None),
        ({"rate": 768_000}, None),
        ({"stated": 2**32 - 1}, None),  # of a program that did not know
        ({"stated": 798}, None),
    ],
)
def test_headers_of_wav_files(tmp_path, header, problem):
    for number in range(10):
        wav(tmp_path / "ab"[number % 2] / f"{number}.wav")
    wav(tmp_path / "b" / "3.wav", **header)
    sound = Sound(rate=8000, seconds=0.05)
    if problem is None:
        assert load_data(tmp_path, preprocessing=sound).num_classes == 2
    else:
        with pytest.raises(DataError, match=problem):
            load_data(tmp_path, preprocessing=sound)


def test_a_missing_soundfile_is_named(tmp_path, monkeypatch):
    for number in range(10):
        wav(tmp_path / "ab"[number % 2] / f"{number}.wav")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(
        DataError, match=r"Cannot read the recording .*\.wav without soundfile \(.*pip install soundfile\."
    ):
        load_data(tmp_path)


def test_channels_are_averaged(tmp_path):
    left, right = (np.full(100, value, np.int16) for value in (8000, -2000))
    wavfile.write(tmp_path / "a.wav", RATE, np.stack([left, right], axis=1))
    np.testing.assert_array_equal(read_recordings([tmp_path / "a.wav"], RATE, 100), np.full((1, 100), 3000))
