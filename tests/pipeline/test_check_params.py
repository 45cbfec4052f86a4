"""What DVC's writer leaves alone and what it rewrites."""

import pytest

from check_params import rewritten

TEXT = "engine: {batch_size: 1} # images\nrows:\n  a: {start: b, schedule: {learning_rate: 0.1}}\n  c: x y\n"


def test_a_mapping_in_braces_and_its_comment_stay():
    assert rewritten(TEXT, "engine.batch_size=2") == [("engine: {batch_size: 1} # images", "engine: {batch_size: 2} # images")]


@pytest.mark.parametrize("line", ["d: [1, 2]", "d: {" + ", ".join(f"key_number_{i}: value_{i}" for i in range(6)) + "}"])
def test_lists_and_wide_mappings_do_not(line):
    assert len(rewritten(f"{line}\n{TEXT}", "engine.batch_size=2")) > 1
