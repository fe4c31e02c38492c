"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """Return `number` with a noun, in the plural unless it is 1: "1 sample", "1,200 samples"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
