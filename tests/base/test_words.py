"""Numbers and errors in sentences."""

import pytest

from tfopt.base.words import reason_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{{function_node __wrapped__ResourceGather_device_/job:localhost/replica:0/task:0/device:CPU:0}} "
            "indices[0,1] = 7 is not in [0, 5) [Op:ResourceGather] name: ",
            "indices[0,1] = 7 is not in [0, 5)",
        ),
        ("Graph execution error:\n\nmore", "more"),
        ("Exception encountered when calling layer 'a' (type B).\n\n{{node c}} why\n\nCall arguments:", "why"),
        ("Graph execution error:", "Graph execution error:"),
        ("{{node a/b}}\n  the cause", "the cause"),
        ("", "ValueError"),
        ("plain {braces} and [brackets]", "plain {braces} and [brackets]"),
    ],
)
def test_the_reason_is_the_first_line_without_names_of_functions(text, expected):
    assert reason_of(ValueError(text)) == expected
