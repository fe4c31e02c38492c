"""What several workers tell each other, here as threads whose sums are those of numpy."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tfopt.errors import TfoptError
from tfopt.training import distribution as distributions
from tfopt.training.cluster import Cluster
from tfopt.training.distribution import Distribution


class Together:
    """Sum arrays over workers, one thread per worker."""

    def __init__(self, workers):
        self.barrier, self.given, self.sent = threading.Barrier(workers, timeout=10), {}, []

    def sum_for(self, worker):
        def total(values):
            assert values.dtype == np.int32 and values.ndim == 1
            self.given[worker] = values
            self.barrier.wait()
            found = np.sum(list(self.given.values()), axis=0, dtype=np.int32)
            if worker == 0:
                self.sent.append(values.nbytes)
            self.barrier.wait()
            return found

        return total


def together(work, workers=3):
    """Return what `work` returns for each worker, and the sums they made."""
    shared, results = Together(workers), {}

    class Summing(Distribution):
        def _sum(self, values):
            return shared.sum_for(self.cluster.worker)(values)

    def one(worker):
        results[worker] = work(Summing(SimpleNamespace(num_replicas_in_sync=workers), Cluster(workers, worker)))

    threads = [threading.Thread(target=one, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, shared


@pytest.mark.parametrize("chunk", [4, 1024])
def test_the_checkpoint_of_the_chief_reaches_all_in_small_parts(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(distributions, "CHUNK", chunk)
    content = {"run.json": b"{}", "stage_1/state_0.npz": np.random.default_rng(0).bytes(1501), "empty": b""}
    for name, data in content.items():
        (tmp_path / "0" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "0" / name).write_bytes(data)
    _, shared = together(lambda one: one.copy_from_chief(tmp_path / str(one.cluster.worker)))
    for worker in ("1", "2"):
        found = {name: (tmp_path / worker / name).read_bytes() for name in content}
        assert found == content
    assert max(shared.sent) <= max(chunk, 3 * 4)  # a number of each worker
    total = sum(shared.sent) - 2 * 3 * 4  # without the length
    assert 1501 < total < 1501 + 700  # four bytes in four


def test_no_checkpoint_is_copied_to_nobody(tmp_path):
    together(lambda one: one.copy_from_chief(tmp_path / str(one.cluster.worker)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 1, 2**31 - 1, 2**31, 5 * 2**31 + 7])
def test_the_length_of_a_large_checkpoint_is_known_to_all(size):
    results, _ = together(lambda one: one._size_of_chief(size if one.is_chief else 99))
    assert set(results.values()) == {size}


def test_a_sum_takes_whole_numbers_of_32_bits():
    """With two replicas in one worker, see `tests/run/test_distributed.py`."""
    import tensorflow as tf

    cpu = tf.config.list_logical_devices("CPU")[0].name
    strategy = tf.distribute.OneDeviceStrategy(cpu)
    values = np.array([2**31 - 1, -(2**31), -5], np.int32)
    np.testing.assert_array_equal(distributions._sum_over(strategy, 1)(values), values)


def raised(error):
    with distributions._losing_workers():
        raise error


def test_a_lost_worker_is_said_with_the_cause():
    import tensorflow as tf

    errors = tf.errors
    lost = (
        errors.UnavailableError(None, None, "Collective ops is aborted by: peer is gone\nAdditional lines"),
        errors.InternalError(None, None, "Collective op CollReduce failed: no peer"),
        errors.InternalError(None, None, "The coordination service is away."),
    )
    for error in lost:
        first = error.message.splitlines()[0].rstrip(".")
        with pytest.raises(TfoptError, match=rf"^Another worker was lost.* TensorFlow says: {first}\.$"):
            raised(error)


def test_an_error_of_this_machine_is_not_said_of_another():
    import tensorflow as tf

    with pytest.raises(tf.errors.InternalError, match="cuDNN"):
        raised(tf.errors.InternalError(None, None, "cuDNN launch failure : input shape ([16,8])"))
