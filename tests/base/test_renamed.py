"""Old names of arguments and fields."""

import dataclasses
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from tfopt.base.config import config
from tfopt.base.renamed import renamed_arguments, renamed_methods
from tfopt.errors import RecipeError


@config
class Tea:
    minutes: int = 3
    renamed: ClassVar[dict[str, str]] = {"time": "minutes"}


@config
class Mint(Tea):
    leaves: int = 5


@config
class Tray:
    tea: Tea


def test_a_field_under_its_old_name():
    for kind in (Tea, Mint):
        with pytest.warns(DeprecationWarning) as caught:
            made = kind(time=7)
        (warned,) = caught
        name = kind.__name__
        assert (
            str(warned.message)
            == f"{name}(time=...) is now {name}(minutes=...); the old name will be removed in 0.3.0."
        )
        assert Path(warned.filename) == Path(__file__)  # the warning points at the caller
        assert made == kind(minutes=7)
        assert "time" not in {field.name for field in dataclasses.fields(made)}
    with pytest.warns(DeprecationWarning, match="Tea.time is now Tea.minutes") as caught:
        assert Tea(minutes=4).time == 4
    assert Path(caught[0].filename) == Path(__file__)


def test_a_config_within_a_config_is_read_under_old_names():
    with pytest.warns(DeprecationWarning, match="minutes"):
        assert Tray(tea={"time": 2}).tea == Tea(minutes=2)


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataclasses.replace(Mint(minutes=1), leaves=2) == Mint(minutes=1, leaves=2)
        assert dataclasses.asdict(Tea(minutes=1)) == {"minutes": 1}
        assert Tray(tea={"minutes": 2}).tea.minutes == 2


def test_both_names_are_an_error():
    with pytest.raises(RecipeError, match=r"Tea got both minutes and time, its old name\. Leave out time\."):
        Tea(minutes=1, time=1)
    with pytest.raises(RecipeError, match=r"Tea.minutes = 'x'"), pytest.warns(DeprecationWarning):
        Tea(time="x")
    with pytest.raises(RecipeError, match="hour"):
        Tea(hour=1)


@renamed_arguments(time="minutes")
def brew(leaf, *, minutes=3):
    return leaf, minutes


def test_an_argument_under_its_old_name():
    with pytest.warns(DeprecationWarning, match=r"brew\(time=...\) is now brew\(minutes=...\)") as caught:
        assert brew("mint", time=9) == ("mint", 9)
    assert Path(caught[0].filename) == Path(__file__)
    with pytest.raises(RecipeError, match="brew got both minutes and time"):
        brew("mint", time=9, minutes=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert brew("mint", minutes=2) == ("mint", 2)
        assert brew("mint") == ("mint", 3)


@renamed_methods(stirred="stir")
class Cup:
    def stir(self, times, *, spoon="small"):
        return times, spoon


class Mug(Cup):
    def stir(self, times, *, spoon="large"):
        return times, spoon


def test_a_method_under_its_old_name():
    for cup, spoon in ((Cup(), "small"), (Mug(), "large")):
        name = type(cup).__name__
        with pytest.warns(DeprecationWarning, match=f"{name}.stirred is now {name}.stir; the old name") as caught:
            assert cup.stirred(2) == (2, spoon)
        assert Path(caught[0].filename) == Path(__file__)
        assert cup.stirred(2, spoon="wooden") == (2, "wooden")
