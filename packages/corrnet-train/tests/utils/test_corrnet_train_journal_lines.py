import contextlib

import pytest

from corrnet_train.utils.errors import InputError
from corrnet_train.utils.journal_lines import parsed_lines, sealed_line, unsealed, whole_lines

VALUE = {"key": "Zo\u00eb \udc80", "probabilities": [0.1, 1e-9, 1.0], "none": None, "label": 3}


def test_a_value_comes_back_as_it_was(tmp_path):
    path = tmp_path / "lines"
    path.write_text(sealed_line(VALUE) + sealed_line([]) + sealed_line(VALUE)[:-1])
    lines = whole_lines(path)
    assert parsed_lines(lines, unsealed, path=path, remedy="") == [VALUE, []]
    assert whole_lines(tmp_path / "none") == []


def test_no_flipped_bit_changes_a_value():
    line = sealed_line(VALUE).encode()[:-1]
    for place in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[place // 8] ^= 1 << place % 8
        with contextlib.suppress(ValueError, TypeError):
            assert unsealed(bytes(flipped)) == VALUE


@pytest.mark.parametrize("damage", [b"", b"null", b"5", b"\xff\xfe", b"[1, {}]", b"\0" * 30])
def test_a_damaged_line_is_named_with_its_file(tmp_path, damage):
    path = tmp_path / "lines"
    path.write_bytes(sealed_line(1).encode() + damage + b"\n" + sealed_line(2).encode())
    with pytest.raises(InputError, match=r"^line 2 of .*lines is damaged \(.*\): begin anew$"):
        parsed_lines(whole_lines(path), unsealed, path=path, remedy="begin anew")
