import io

import pytest

from pipeline.cli.check import tick_lines

TICKS = [("data found", True, "5 images"), ("every image decodes", False, "1 found:\n  a.png\nto do: remove it")]


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "signs"), [(Terminal("utf-8"), "✓✗"), (Terminal("ascii"), "oF"), (io.StringIO(), "oF")]
)
def test_ticks_are_words_where_a_sign_cannot_be_shown(stream, signs):
    lines = [line.plain for line in tick_lines(TICKS, stream)]
    assert "".join(line[0] for line in lines) == signs
    assert lines[1].splitlines()[-1].strip() == "to do: remove it"
