import pytest

from dnnamo.selection import UnmatchedKeys, has_pattern, selected

NAMES = ["net.0.weight", "net.0.bias", "net.1.weight", "net.[1]", "Net"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (None, NAMES),
        ([], []),
        (["Net", "net.0.bias"], ["Net", "net.0.bias"]),
        (["*.weight"], ["net.0.weight", "net.1.weight"]),
        (["net.0.bias", "net.0.*"], ["net.0.bias", "net.0.weight"]),
        (["net.?.weight", "net.0.weight"], ["net.0.weight", "net.1.weight"]),
        (["net.[1]"], ["net.[1]"]),
        (["net.[1].*"], ["net.1.weight"]),
    ],
)
def test_keys_are_names_or_patterns(keys, expected):
    assert selected(iter(NAMES), keys) == expected


def test_every_key_that_matches_nothing_is_named():
    with pytest.raises(UnmatchedKeys, match=r"^'net.0.wieght' \(the nearest is 'net.0.weight'\), 'zzz'$"):
        selected(NAMES, ["net.0.wieght", "Net", "zzz"])


def test_what_may_be_a_pattern():
    assert [has_pattern([key]) for key in ("a.b", "a*", "a?", "a[0]")] == [False, True, True, True]
    assert not has_pattern([])
