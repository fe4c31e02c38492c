"""Facts about operations of `keras.ops` and TensorFlow, one row for each kind, by their names in lower case."""


def _rows(value: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), value)


ALONE: dict[str, str] = {
    **_rows(
        "zero", "relu relu6 leakyrelu elu selu celu gelu silu swish hardsilu hardswish hardtanh tanh softsign mish"
    ),
    **_rows("zero", "tanhshrink softshrink hardshrink threshold sin tan erf expm1 log1p square sqrt abs absolute sign"),
    **_rows("zero", "negative neg floor ceil round cast identity stopgradient nantonum zeroslike linear"),
    **_rows("other", "sigmoid hardsigmoid logsigmoid softplus exp cos clip clipbyvalue oneslike isnan isfinite"),
    **_rows("other", "logicalnot squareplus"),
    **_rows("undefined", "log log2 log10 reciprocal rsqrt"),
}
"""Operations on each value by itself, and what they give for 0: "zero", "other" or "undefined"."""

TOGETHER: dict[str, str] = {
    **_rows("sum", "add addv2 subtract sub maximum minimum average squareddifference"),
    **_rows("product", "multiply mul"),
    **_rows("quotient", "divide div truedivide truediv realdiv divnonan dividenonan mod floordivide floordiv"),
    **_rows("power", "pow power"),
    **_rows("other", "where select selectv2 greater greaterequal less lessequal equal notequal logicaland logicalor"),
}
"""Operations that join tensors value by value, by how they treat zeros."""
