"""Numbers of bytes as people write them."""

import re

__all__ = ["as_size", "parse_size"]

_FORM = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?) ?(?:([kmgt])?(i)?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return a number of bytes: `1048576`, `500MB` (1000 to a step), `2GiB`, `1.5 gib` (1024 to a step).

    Raises:
        ValueError: If the text is something else; the message says what a size is.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 2GiB, 500MB or 1048576")
    number, prefix, is_binary = found.groups()
    return int(float(number) * (1024 if is_binary else 1000) ** ("kmgt".index(prefix.lower()) + 1 if prefix else 0))


def as_size(count: int) -> str:
    """Return a number of bytes in its largest binary unit, with two decimals."""
    if count < 1024:
        return f"{count} bytes"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.2f} {unit}"
    return f"{amount / 1024:.2f} TiB"
