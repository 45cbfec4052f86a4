"""What params.yaml may look like as a file."""

import pytest

from dbq import settings
from dbq.errors import DbqError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "empty"),
        ("- 1", "not a mapping"),
        ("a: [1", "not valid YAML"),
        ("a:\n\tb: 1", "line 2.*not valid YAML"),
        ("a: 1\nb: 2\na: 3", "lines 1 and 3: the key a stands twice"),
        ("a: {b: 1, b: 2}", "the key b stands twice"),
        ("a: &x 1\nb: *x", "line 1: anchors"),
        ("a: !!python/object:os.system x", "line 1: anchors, aliases and tags"),
        ("a: \x00", "not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
    ],
)
def test_what_yaml_would_accept_silently_is_an_error(tmp_path, text, names):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(DbqError, match=names) as caught:
        settings.read(tmp_path / "params.yaml")
    assert "params.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DbqError, match="no such file"):
        settings.read(tmp_path / "params.yaml")
    (tmp_path / "latin.yaml").write_bytes("profile: ä".encode("latin-1"))
    with pytest.raises(DbqError, match="not UTF-8"):
        settings.read(tmp_path / "latin.yaml")
    with pytest.raises(DbqError, match=str(tmp_path)):
        settings.read(tmp_path)
    (tmp_path / "large.yaml").write_text("a: 1\n" * 300_000)
    with pytest.raises(DbqError, match="1,000,000 bytes"):
        settings.read(tmp_path / "large.yaml")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(DbqError, match="not valid JSON"):
        settings.read(tmp_path / "torn.json")
