"""Libraries that jloss can do without: a missing one names the extra."""

import pytest

from jloss._optional import optional


@pytest.mark.parametrize(
    ("module", "extra", "message"),
    [
        ("nowhere.deep", "plot", r'^this needs nowhere: pip install "jloss\[plot\]"$'),
        ("mpmath.nowhere", "check", r'^a check needs mpmath: pip install "jloss\[check\]"$'),
    ],
)
def test_a_missing_library_names_its_use_and_the_extra(module, extra, message):
    with pytest.raises(ImportError, match=message):
        optional(module, extra)


def test_a_library_that_is_there_is_imported():
    assert optional("os.path", "all").join("a", "b") == "a/b"
