"""Text files of Windows and others, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leanconv.core.errors import DataError
from leanconv.data.text import json_of, label_names, lines_of, read_bytes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_names_in_any_encoding_with_any_ends(encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    data = (mark + end.join(["katze", "", " hund ", "bär\u2028x", ""])).encode(encoding)
    assert label_names(data, "l.txt") == ("katze", "hund", "bär\u2028x")
    assert json_of((mark + json.dumps({"ä": 1})).encode(encoding), "x.json") == {"ä": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xe4\xf6\n", "not a text file in UTF-8; save it as UTF-8 text, one name a line"),
        (b"\xff\xfe", "not a text file"), (b"cat\0dog", "not a text file"), (b"\xef\xbb\xbf\r\n", "contains no name"),
        (b"", "contains no name"), (b'["cat",\n"dog"]', "looks like JSON"), (b"\x89PNG\r\n\x1a\n\0\0", "not a text file"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_names(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"l.txt: {message}"):
        label_names(data, "l.txt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not complete JSON .line 1"), (b'{"a": 1,}', "not complete JSON .line 1"), (b"[" * 100_000, "nested too deep"),
        (b"1" * 5000, "not complete JSON"), (b"\xff", "not a text file"), (b"", "not complete JSON"),
    ],
)  # fmt: skip
def test_what_is_no_json(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        json_of(data, "x.json")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="; look again") as caught:
            read_bytes(path, "look again")
        assert "\n" not in str(caught.value)
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(DataError, match="5 bytes are more than 4"):
        read_bytes(tmp_path / "large", "drop it", 4)
    assert lines_of(b"a\n", "x") == ["a", ""]
