import pytest

from dnnamo.sizes import as_size, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("17", 17),
        ("17b", 17),
        ("2k", None),
        ("2kB", 2000),
        ("2KiB", 2048),
        (" 500 MB ", 500_000_000),
        ("1.5gib", 3 << 29),
        ("3TiB", 3 << 40),
        ("1,5GiB", None),
        ("-1", None),
        ("", None),
        ("GiB", None),
        ("1e9", None),
        ("inf", None),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(text, count):
    if count is None:
        with pytest.raises(ValueError, match="write 2GiB, 500MB or 1048576"):
            parse_size(text)
    else:
        assert parse_size(text) == count


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.00 KiB"), (1095216660, "1.02 GiB"), (5 << 50, "5120.00 TiB")],
)
def test_bytes_are_told_in_their_largest_unit(count, text):
    assert as_size(count) == text
