"""Text in any encoding and locale: what is UTF-8 is read, what is not is refused by name, and output is complete."""

import codecs
import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.cli.ls import listing
from pipeline.config.study_file import load_spec, stored_name, study_text, write_template
from pipeline.errors import SpecError
from pipeline.paths import read_text, write_text

STUDY = '# Größe und Maß\nname = "café"\n'
UTF_8 = {
    "plain": STUDY.encode(),
    "with a mark": codecs.BOM_UTF8 + STUDY.encode(),
    "with the line ends of Windows": STUDY.replace("\n", "\r\n").encode(),
    "with the line ends of old Macs": STUDY.replace("\n", "\r").encode(),
}
OTHERS = {
    "UTF-16": [
        STUDY.encode("utf-16"), codecs.BOM_UTF16_BE + STUDY.encode("utf-16-be"), STUDY.encode("utf-16-le"),
        STUDY.encode("utf-16-be"),
    ],
    "UTF-32": [STUDY.encode("utf-32"), codecs.BOM_UTF32_BE + STUDY.encode("utf-32-be")],
    "line 1 has the byte 0xf6.*Latin-1": [STUDY.encode("latin-1"), STUDY.encode("cp1252")],
    "line 2 has the byte 0xff": [b"# fine\n\xff\xff = 1\n"],
    "line 3 has a zero byte": [b'name = "a"\nseed = 1\n\0rest = 2\n'],
}  # fmt: skip


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("data", UTF_8.values(), ids=UTF_8)
def test_utf_8_is_read_however_its_lines_end_and_whether_it_has_a_mark(data, studies):
    (studies / "t.toml").write_bytes(data)
    assert study_text(studies / "t.toml") == STUDY
    assert stored_name("t") == "café"


@pytest.mark.parametrize(("what", "data"), [(what, data) for what, several in OTHERS.items() for data in several])
def test_other_encodings_are_refused_by_name(what, data, studies):
    (studies / "t.toml").write_bytes(data)
    for read in (load_spec, stored_name):
        with pytest.raises(SpecError, match=f"studies/t.toml: .*{what}"):
            read("t")


@settings(max_examples=50)
@given(st.text())
def test_whatever_text_is_written_is_read_again(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any text"
    write_text(path, text.replace("\r", ""))
    if "\0" not in text:
        assert read_text(path) == text.replace("\r", "").removeprefix("\ufeff")


@given(st.binary())
def test_whatever_bytes_a_study_file_has_it_is_valid_or_refused_as_a_study_file(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "t.toml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=r"t\.toml"):
        load_spec(path)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000, "a = 2026-13-45", "= 1", ""])
def test_whatever_is_wrong_in_a_study_file_is_an_error_of_that_file(text, studies):
    (studies / "t.toml").write_text(text)
    with pytest.raises(SpecError, match=r"studies/t\.toml"):
        load_spec("t")


def spoil(studies: Path) -> None:
    """Broken study files of all kinds."""
    for number, data in enumerate(data for several in OTHERS.values() for data in several):
        (studies / f"encoded{number}.toml").write_bytes(data)
    (studies / "folder.toml").mkdir()
    (studies / "dangling.toml").symlink_to("nowhere")
    (studies / "broken.toml").write_text("name = ")
    (studies / "empty.toml").touch()
    (studies / os.fsdecode(b"caf\xe9.toml")).write_text("name = ")


def test_one_bad_study_file_hides_none_of_the_others(studies, monkeypatch):
    write_template("good")
    spoil(studies)
    listed = {study["name"]: study["summary"] for study in listing()["studies"]}
    assert len(listed) == len(list(studies.iterdir()))
    assert listed.pop("good")
    assert listed.pop("empty") == ""
    assert [name for name, summary in listed.items() if ".toml" not in summary] == []
    assert "UTF-16" in listed["encoded0"]


def said(monkeypatch: pytest.MonkeyPatch, *words: str, stdout: object, stderr: object = None) -> int:
    """The exit code of a command in this process, with these streams."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["restora", *words])
        patched.setattr(sys, "stdout", stdout)
        patched.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as ended:
            main()
        for stream in {sys.stdout, sys.stderr} - {stdout, stderr}:
            stream.close()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "shift_jis"])
def test_output_is_complete_where_letters_cannot_be_shown(encoding, studies, monkeypatch):
    spoil(studies)
    (studies / "a.toml").write_text("# 雪 Größe ✓\nname = 'a'\n", encoding="utf-8")
    shown = "雪 Größe ✓".encode(encoding, errors="backslashreplace").decode(encoding)
    for words in (["ls"], ["ls", "--json"], ["check", "Größe 雪"], ["--help"], ["run", "--help"]):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
        code = said(monkeypatch, *words, stdout=out, stderr=err)
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode(encoding))
        assert (code, "Traceback" in texts[1]) == (3 if "check" in words else 0, False), texts[1]
        if words == ["ls"]:
            assert shown in texts[0]
            assert texts[0].count("\n") > len(list(studies.iterdir()))
        elif "--json" in words:
            assert json.loads(texts[0])["studies"][0]["summary"] == "雪 Größe ✓"
        elif "check" in words:
            assert "Größe 雪".encode(encoding, errors="backslashreplace").decode(encoding) in texts[1]


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["check", "none"]], ids=" ".join)
def test_a_stream_that_is_closed_or_that_nobody_reads_is_no_error(words, studies, monkeypatch):
    expected = 3 if "check" in words else 0
    assert said(monkeypatch, *words, stdout=None) == expected
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as pipe:
        assert said(monkeypatch, *words, stdout=pipe, stderr=io.TextIOWrapper(io.BytesIO())) == expected


@pytest.mark.parametrize("columns", ["0", "1", "7", "-3", "many"])
def test_a_terminal_of_any_width_gets_the_help_and_the_list(columns, studies, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    for words in (["--help"], ["run", "--help"], ["ls"]):
        out = io.TextIOWrapper(io.BytesIO(), "utf-8")
        assert said(monkeypatch, *words, stdout=out) == 0
        out.flush()
        assert len(out.buffer.getvalue()) > 100


@pytest.mark.parametrize(("umask", "rights"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664), (0o000, 0o666)])
def test_a_file_that_is_written_follows_the_umask(umask, rights, tmp_path):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == rights
