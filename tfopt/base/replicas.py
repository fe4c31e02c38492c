"""The replicas of tf.distribute that compute one step together."""

from collections.abc import Callable
from typing import Any

from tfopt.base.overrides import Overrides, override_attributes, override_in_thread


def number_of_replicas() -> int:
    """Return the number of replicas that share a batch, over all machines."""
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def override_in_replica(overrides: Overrides) -> Any:
    """Return `override_attributes(overrides)`, for this replica alone where threads of this process are others."""
    import tensorflow as tf

    several = _in_replica() and len(tf.distribute.get_strategy().extended.worker_devices) > 1
    return override_in_thread(overrides) if several else override_attributes(overrides)


def once_for_all(change: Callable[[], None]) -> None:
    """Run `change` in the cross-replica context, where a variable is one."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        change()
    else:
        context.merge_call(lambda strategy: change())


def assign_in_each(variable: Any, value: Any) -> None:
    """Set a variable, in any context, to a value that all replicas compute alike."""
    import tensorflow as tf

    if not _in_replica():
        variable.assign(value)
        return

    def update(strategy: Any, shared: Any, values: Any) -> None:
        strategy.extended.update(shared, lambda own, new: own.assign(new), args=(values,))

    tf.distribute.get_replica_context().merge_call(update, args=(variable, value))


def _in_replica() -> bool:
    """Return whether this is the step of a replica of a strategy."""
    import tensorflow as tf

    return bool(tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context())
