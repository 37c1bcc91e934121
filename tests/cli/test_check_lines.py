import io

import pytest

from pipeline.cli.check import check_line

FINDINGS = [
    {"what": "data found", "ok": True, "said": "5 images"},
    {"what": "every image decodes", "ok": False, "said": "1 found:\n  a.png\nto do: remove it"},
]


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "signs"), [(Terminal("utf-8"), "✓✗"), (Terminal("ascii"), "oF"), (io.StringIO(), "oF")]
)
def test_signs_are_letters_on_a_stream_that_cannot_show_them(stream, signs):
    lines = [check_line(finding, stream).plain for finding in FINDINGS]
    assert "".join(line[0] for line in lines) == signs
    assert lines[1].splitlines()[-1].strip() == "to do: remove it"
