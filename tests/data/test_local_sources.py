"""The sources for your own recordings: a folder per class, and manifests in three formats."""

import codecs
import errno
import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from spectrnn.data.audio import EXTENSIONS
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.scan import summarize
from spectrnn.errors import FileErrors, UserError

Build = Callable[..., DataSource]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def summary(clips: list[Clip], root: Path) -> list[tuple[str, str, str | None]]:
    return [(Path(clip.path).relative_to(root).as_posix(), clip.label, clip.split) for clip in clips]


# Folder per class


def test_folder_names_are_labels(source: Build, tmp_path: Path):
    touch(tmp_path, "cat/b.wav", "cat/deep/er/a.FLAC", "dog/c.mp3", "dog/notes.txt", "stray.wav")
    assert summary(source("folder", root=tmp_path).clips(), tmp_path) == [
        ("cat/b.wav", "cat", None),
        ("cat/deep/er/a.FLAC", "cat", None),
        ("dog/c.mp3", "dog", None),
    ]


def test_every_audio_extension_is_found(source: Build, tmp_path: Path):
    touch(tmp_path, "b/x.wav", *(f"a/x{extension}" for extension in EXTENSIONS))
    assert len(source("folder", root=tmp_path).clips()) == 1 + len(EXTENSIONS)


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("val", "val"), ("valid", "val"), ("validation", "val"), ("dev", "val"), ("Test", "test")],
)
def test_top_level_folders_may_be_splits(source: Build, tmp_path: Path, name: str, split: str):
    touch(tmp_path, f"{name}/cat/deep/1.wav", f"{name}/dog/2.wav")
    clips = source("folder", root=tmp_path).clips()
    assert summary(clips, tmp_path) == [(f"{name}/cat/deep/1.wav", "cat", split), (f"{name}/dog/2.wav", "dog", split)]


def test_top_level_folders_are_labels_unless_all_are_splits(
    source: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, "train/1.wav", "bus/2.wav", "test/3.wav")
    clips = source("folder", root=tmp_path).clips()
    assert [(clip.label, clip.split) for clip in clips] == [("bus", None), ("test", None), ("train", None)]
    assert caplog.messages == [f"data.root={tmp_path}: not all of its folders are splits, so each is a class"]


def test_hidden_files_and_folders_are_ignored(source: Build, tmp_path: Path):
    touch(tmp_path, "cat/1.wav", "cat/._1.wav", "cat/.ipynb_checkpoints/2.wav", ".cache/3.wav", "dog/4.wav")
    (tmp_path / "cat" / "folder.wav").mkdir()
    clips = source("folder", root=tmp_path).clips()
    assert summary(clips, tmp_path) == [("cat/1.wav", "cat", None), ("dog/4.wav", "dog", None)]


def test_root_may_be_in_a_hidden_folder(source: Build, tmp_path: Path):
    touch(tmp_path / ".data", "cat/1.wav", "dog/2.wav")
    assert len(source("folder", root=tmp_path / ".data").clips()) == 2


@pytest.mark.parametrize(
    ("pattern", "groups"), [("^([^/]+)/", ["ann", "bob", "ann"]), ("_([0-9]+)", ["1", "2", "1"]), (None, [None] * 3)]
)
def test_group_is_the_first_group_of_the_pattern(source: Build, tmp_path: Path, pattern: str | None, groups: list[str]):
    touch(tmp_path, "cat/ann/x_1.wav", "cat/bob/x_2.wav", "dog/ann/x_1.wav")
    assert [clip.group for clip in source("folder", root=tmp_path, group=pattern).clips()] == groups


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(unclosed", r"is not a regular expression \(.*\)"),
        ("no_group", "contains no group; put it in parentheses"),
        ("(nowhere)", r"does not match 1_no_group.wav"),
        ("cat/(1)", r"does not match 1_no_group.wav"),
    ],
)
def test_invalid_group_pattern_is_reported(source: Build, tmp_path: Path, pattern: str, message: str):
    touch(tmp_path, "cat/1_no_group.wav", "dog/1.wav")
    with pytest.raises(UserError, match=rf"^data\.group={re.escape(pattern)}: {message}$"):
        source("folder", root=tmp_path, group=pattern).clips()


@pytest.mark.parametrize("name", ["none", "file.wav"])
def test_missing_root_is_reported(source: Build, tmp_path: Path, name: str):
    touch(tmp_path, "file.wav")
    with pytest.raises(UserError, match=rf"^data.root={re.escape(str(tmp_path / name))}: no such folder$"):
        source("folder", root=tmp_path / name).clips()


def test_class_folders_without_audio_are_left_out(source: Build, tmp_path: Path):
    touch(tmp_path, "cat/1.wav", "dog/deep/2.wav", "eel/readme.txt", "fox/deep/3.mid")
    (tmp_path / "gnu").mkdir()
    built = source("folder", root=tmp_path)
    assert [clip.label for clip in built.clips()] == ["cat", "dog"]
    assert summarize(built.ignored) == {
        "empty class": f"3 class folders without audio were ignored: {tmp_path}/eel, {tmp_path}/fox, {tmp_path}/gnu",
        "other kind": f"2 files of other kinds were ignored: 1 .txt, 1 .mid (such as {tmp_path}/eel/readme.txt)",
    }


def test_a_second_class_folder_with_audio_is_needed(source: Build, tmp_path: Path):
    touch(tmp_path, "cat/1.wav", "dog/readme.txt")
    problem = "contains fewer than two class folders with audio; 1 class folder without audio was ignored"
    with pytest.raises(UserError, match=rf"^data.root={re.escape(str(tmp_path))}: {problem}: .*/dog; 1 file "):
        source("folder", root=tmp_path).clips()


def test_files_outside_class_folders_are_reported(source: Build, tmp_path: Path):
    touch(tmp_path, "train/cat/1.wav", "train/2.wav", "test/dog/3.wav", "4.wav")
    built = source("folder", root=tmp_path)
    assert len(built.clips()) == 2
    assert [Path(item.path).name for item in built.ignored if item.kind == "no class"] == ["4.wav", "2.wav"]


def test_files_of_macos_and_windows_are_no_class(source: Build, tmp_path: Path):
    touch(tmp_path, "cat/1.wav", "cat/Thumbs.db", "dog/2.wav", "dog/desktop.ini", "__MACOSX/cat/._1.wav", ".DS_Store")
    built = source("folder", root=tmp_path)
    assert [clip.label for clip in built.clips()] == ["cat", "dog"]
    assert built.ignored == []


def test_a_root_that_cannot_be_read_is_reported(source: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=rf"^data.root={re.escape(str(tmp_path))}: permission denied$"):
        source("folder", root=tmp_path).clips()


@pytest.mark.parametrize("names", [[], ["1.wav", "2.wav"], ["train/1.wav", "test/2.wav"], [".git/1.wav"]])
def test_root_without_class_folders_is_reported(source: Build, tmp_path: Path, names: list[str]):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=r"^data.root=.*: contains no folders; one folder per class is expected$"):
        source("folder", root=tmp_path).clips()


# Manifests

ROWS = [
    {"path": "a.wav", "label": "cat", "split": "train", "fold": "1", "group": "ann", "start": "0.5", "end": "1.25"},
    {"path": "deep/b.wav", "label": "dog, big", "split": "Dev", "fold": "", "group": "", "start": "", "end": ""},
    {"path": "deep/b.wav", "label": "7", "split": "", "fold": "2", "group": "0", "start": "0", "end": "3"},
]


def expected(root: Path) -> list[Clip]:
    return [
        Clip(str(root / "a.wav"), "cat", "train", "1", "ann", 0.5, 1.25),
        Clip(str(root / "deep" / "b.wav"), "dog, big", "val", None, None, 0.0, None),
        Clip(str(root / "deep" / "b.wav"), "7", None, "2", "0", 0.0, 3.0),
    ]


def table(delimiter: str) -> str:
    quoted = [[f'"{value}"' if "," in value else value for value in row.values()] for row in ROWS]
    return "\n".join(delimiter.join(row) for row in [list(ROWS[0]), *quoted]) + "\n"


def json_lines() -> str:
    numbers = [row | {"start": 0.5, "end": 1.25, "fold": 1} if row is ROWS[0] else row for row in ROWS]
    numbers[1] = {"path": "deep/b.wav", "label": "dog, big", "split": "dev", "start": None}
    numbers[2] = numbers[2] | {"label": 7, "group": 0}
    return "\n\n".join(json.dumps(row) for row in numbers)


@pytest.fixture
def manifest(source: Build, tmp_path: Path) -> Callable[..., list[Clip]]:
    """Writes a manifest next to a.wav and deep/b.wav, and reads it: `manifest(text, "tsv")` -> clips."""

    def read(content: str | bytes, extension: str = "csv") -> list[Clip]:
        touch(tmp_path, "a.wav", "deep/b.wav")
        path = tmp_path / f"table.{extension}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return source("manifest", path=path).clips()

    return read


@pytest.mark.parametrize(
    ("content", "extension"),
    [
        (table(","), "csv"),
        (table(","), "CSV"),
        (table("\t"), "tsv"),
        (table(",").replace("\n", "\r\n"), "csv"),
        (table(",").replace("\n", "\n\n"), "csv"),
        (table(",").replace("cat,", " cat ,"), "csv"),
        (table(",").replace("path,", "path,note,").replace("wav,", "wav,fine,"), "csv"),
        (json_lines(), "jsonl"),
    ],
    ids=["csv", "CSV", "tsv", "crlf", "blank lines", "spaces", "another column", "jsonl"],
)
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_manifest_is_read(manifest: Callable, tmp_path: Path, content: str, extension: str, start: str):
    assert manifest(start + content, extension) == expected(tmp_path)


def test_path_and_label_are_sufficient(manifest: Callable, tmp_path: Path):
    assert manifest("label,path\ncat,a.wav\n") == [Clip(str(tmp_path / "a.wav"), "cat")]
    assert manifest('{"path": "a.wav", "label": "cat"}', "jsonl") == [Clip(str(tmp_path / "a.wav"), "cat")]


def test_paths_are_relative_to_the_manifest_or_absolute(source: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["lists/a.wav", "b.wav", "other/c.wav"]
    touch(tmp_path, *names)
    rows = f"path,label\na.wav,x\n../b.wav,x\n{tmp_path}/other/c.wav,x\n"
    (tmp_path / "lists" / "table.csv").write_text(rows)
    monkeypatch.chdir(tmp_path / "other")
    clips = source("manifest", path="../lists/table.csv").clips()
    assert [Path(clip.path).resolve().relative_to(tmp_path).as_posix() for clip in clips] == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,label\na.wav,cat\n", r"table.csv: no column path \(found: x, label\); data.columns={path: NAME} names it$"),
        ("x;y\na.wav;cat\n", r"table.csv: no column path and no column label \(found: x, y\)"),
        ("wav,file,label\na.wav,b.wav,cat\n", r"table.csv: columns wav and file may each be the path; data.columns="),
        ("path,category,target\na.wav,cat,1\n", r"columns category and target may each be the label; data.columns="),
        ("path,label,label\na.wav,cat,dog\n", r"table.csv: has 2 columns label$"),
        ("path,label\na.wav,dog, big\n", r"table.csv, line 2: 'big' is in no column; quote values that contain ','$"),
        ("", r"table.csv: no column path and no column label"),
        ("path,label\n", r"table.csv: contains no clips"),
        ("path,label\n,cat\n", r"table.csv, line 2: path is empty"),
        ("path,label\na.wav,cat\nb.wav,cat\n", r"table.csv, line 3: no such file: .*/b.wav"),
        ("path,label\ndeep,cat\n", r"table.csv, line 2: no such file: .*/deep"),
        ("path,label,split\na.wav,cat,tst\n", r"table.csv, line 2: split 'tst' is not one of train, val, test"),
        ("path,label,start\na.wav,cat,soon\n", r"table.csv, line 2: start 'soon' is not a time in seconds"),
        ("path,label,start\na.wav,cat,-1\n", r"table.csv, line 2: start '-1' is not a time in seconds"),
        ("path,label,end\na.wav,cat,inf\n", r"table.csv, line 2: end 'inf' is not a time in seconds"),
        ("path,label,end\na.wav,cat,nan\n", r"table.csv, line 2: end 'nan' is not a time in seconds"),
        ('path,label,end\na.wav,cat,"0,5"\n', r"table.csv, line 2: end '0,5' is not a time in seconds"),
        ("path,label,start,end\na.wav,cat,2,1\n", r"table.csv, line 2: end 1.0 is not after start 2.0"),
        ("path,label,end\na.wav,cat,0\n", r"table.csv, line 2: end 0.0 is not after start 0.0"),
        (b"path,label\na.wav,caf\x81\n", r"table.csv: is neither UTF-8 nor cp1252 \(.*\); save it as UTF-8$"),
        pytest.param("path,label\na.wav," + 200_000 * "x", r"table.csv: field larger than", id="long"),
    ],
)
def test_invalid_table_is_reported(manifest: Callable, content: str | bytes, message: str):
    with pytest.raises(UserError, match=message) as error:
        manifest(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "a.wav", "label": "cat"}\n\n{"path": "a.wav"', r"table.jsonl, line 3: "),
        ('{"path": "a.wav", "label": "cat"}\n{"path": "a.wav"}', r"table.jsonl, line 2: no column label"),
        ('["a.wav", "cat"]', r"table.jsonl, line 1: is not a JSON object with path and label$"),
        ("\n", r"table.jsonl: contains no clips"),
        pytest.param("[" * 100_000, r"table.jsonl, line 1: is not valid JSON: ", id="nested"),
        pytest.param('{"start": ' + "9" * 5000, r"table.jsonl, line 1: is not valid JSON: ", id="digits"),
        ('{"path": "a\\u0000.wav", "label": "cat"}', r"table.jsonl, line 1: no such file"),
    ],
)
def test_invalid_json_lines_are_reported(manifest: Callable, content: str, message: str):
    with pytest.raises(UserError, match=message) as error:
        manifest(content, "jsonl")
    assert "\n" not in str(error.value)


def test_all_missing_files_are_reported_with_their_lines(manifest: Callable, tmp_path: Path):
    with pytest.raises(UserError) as error:
        manifest("path,label\na.wav,cat\nx.wav,cat\n\nx.wav,dog\ndeep,cat\n../y.wav,cat\n")
    table = tmp_path / "table.csv"
    assert str(error.value).splitlines() == [
        f"{table}, line 3: no such file: {tmp_path / 'x.wav'}",
        f"{table}, line 6: no such file: {tmp_path / 'deep'}",
        f"{table}, line 7: no such file: {tmp_path.parent / 'y.wav'}",
        f"  {FileErrors.REMEDY}",
    ]
    with pytest.raises(UserError) as error:
        manifest("path,label\n" + "".join(f"{number}.wav,cat\n" for number in range(1000)))
    lines = str(error.value).splitlines()
    assert (len(lines), lines[0], lines[-2]) == (
        11,
        f"{table}, line 2: no such file: {tmp_path / '0.wav'}",
        "... and 991 more files",
    )
    assert isinstance(error.value, FileErrors)
    error.value.list_in(tmp_path / "all.txt")
    assert f"\n... and 991 more files; all are listed in {tmp_path / 'all.txt'}\n" in str(error.value)
    listed = (tmp_path / "all.txt").read_text().splitlines()
    assert (len(listed), listed[-1]) == (1000, f"{table}, line 1001: no such file: {tmp_path / '999.wav'}")


def test_files_outside_the_folder_of_the_manifest_are_reported(
    source: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, "lists/a.wav", "lists/b.wav", "c.wav", "lists2/d.wav")
    rows = ["a.wav", "x/../b.wav", f"{tmp_path}/lists/a.wav", "../c.wav", "../c.wav"]
    (tmp_path / "lists" / "x").mkdir()
    (tmp_path / "lists" / "inside.csv").write_text("path,label\n" + "".join(f"{row},x\n" for row in rows[:3]))
    assert len(source("manifest", path=tmp_path / "lists" / "inside.csv").clips()) == 3
    assert caplog.messages == []
    rows.append(str(tmp_path / "lists2" / "d.wav"))
    (tmp_path / "lists" / "table.csv").write_text("path,label\n" + "".join(f"{row},x\n" for row in rows))
    assert len(source("manifest", path=tmp_path / "lists" / "table.csv").clips()) == 6
    assert caplog.messages == [
        f"{tmp_path}/lists/table.csv: 2 of its 4 files are outside its folder: "
        f"{tmp_path}/c.wav (line 5), {tmp_path}/lists2/d.wav (line 7)"
    ]


def test_missing_manifest_and_unsupported_format_are_reported(source: Build, manifest: Callable, tmp_path: Path):
    with pytest.raises(UserError, match=r"^data.path=.*/none.csv: no such file$"):
        source("manifest", path=tmp_path / "none.csv").clips()
    with pytest.raises(
        UserError, match=r"^data.path=.*/table.xlsx: the name should end in .csv, .tsv, .txt or .jsonl$"
    ):
        manifest(b"PK", "xlsx")


# Tables of spreadsheets and other tools


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("extension", ["csv", "tsv", "txt"])
def test_separator_is_recognised(manifest: Callable, tmp_path: Path, separator: str, extension: str):
    content = table(separator)
    assert manifest(content, extension) == expected(tmp_path)
    assert manifest(f"sep={separator}\r\n{content}", extension) == expected(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-8", b"", None),
        ("utf-8", codecs.BOM_UTF8, None),
        ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "utf-16"),
        ("utf-16-le", b"", "utf-16-le"),
        ("utf-16-be", b"", "utf-16-be"),
        ("cp1252", b"", "cp1252"),
    ],
)
@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_encoding_is_recognised(
    manifest: Callable, caplog: pytest.LogCaptureFixture, encoding: str, mark: bytes, name: str | None, extension: str
):
    caplog.set_level("INFO")
    content = "path;label\r\na.wav;Kohlmäise\r\n".replace(";", ",")
    if extension == "jsonl":
        content = '{"path": "a.wav", "label": "Kohlmäise"}\n'
    assert [clip.label for clip in manifest(mark + content.encode(encoding), extension)] == ["Kohlmäise"]
    said = [message.partition(": read with ")[2] for message in caplog.messages]
    assert said == ([f"encoding {name}"] if name else [])


def test_a_late_byte_decides_the_encoding(manifest: Callable):
    rows = "a.wav,cat\n" * 200_000  # of two blocks
    clips = manifest(f"path,label\n{rows}".encode() + "a.wav,Bär\n".encode("cp1252"))
    assert (len(clips), clips[-1].label) == (200_001, "Bär")


def test_excel_tables_are_read(manifest: Callable, tmp_path: Path):
    content = """;;;;
path;label;;start;end;;
a.wav;cat;note;0,5;1,25;;
;;;;;;
"deep/b.wav";"dog; big";;;"1.5"
""".replace("\n", "\r\n")
    assert manifest(content) == [
        Clip(str(tmp_path / "a.wav"), "cat", start=0.5, end=1.25),
        Clip(str(tmp_path / "deep" / "b.wav"), "dog; big", end=1.5),
    ]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("filename,species,begin_time,end_time", "path: filename, label: species, start: begin_time, end: end_time"),
        ("File Name,Class,onset,offset", "path: File Name, label: Class, start: onset, end: offset"),
        ("audio_filepath,primary_label,offset,duration", "path: audio_filepath, label: primary_label, start: offset"),
        ("Begin File,Species,Begin Time (s),End Time (s)", "path: Begin File, label: Species, start: Begin Time (s)"),
    ],
)
def test_usual_columns_are_recognised(
    manifest: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str, columns: str
):
    caplog.set_level("INFO")
    end = 1.0 if "duration" in header else 1.5
    assert manifest(f"{header}\na.wav,cat,0.5,{end}\n") == [Clip(str(tmp_path / "a.wav"), "cat", start=0.5, end=1.5)]
    assert caplog.messages[0].startswith(f"{tmp_path}/table.csv: read with columns {{{columns}")
    row = dict(zip(header.split(","), ["a.wav", "cat", 0.5, end], strict=True))
    assert manifest(json.dumps(row), "jsonl") == [Clip(str(tmp_path / "a.wav"), "cat", start=0.5, end=1.5)]


def test_the_plain_names_come_first(manifest: Callable, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    (clip,) = manifest("path,label,filename,species,duration,speaker\na.wav,cat,x,y,3,ann\n")
    assert (clip.label, clip.end, clip.group) == ("cat", None, "ann")
    assert [message.partition(" with ")[2] for message in caplog.messages] == ["columns {group: speaker}"]


def test_columns_are_chosen_by_the_option(source: Build, tmp_path: Path):
    touch(tmp_path, "a.wav")
    path = tmp_path / "table.csv"
    path.write_text("file,wav,category,target,speaker,set\nb.wav,a.wav,cat,1,ann,dev\n")
    columns = {"path": "wav", "label": "category", "group": None, "split": "set"}
    assert source("manifest", path=path, columns=columns).clips() == [Clip(str(tmp_path / "a.wav"), "cat", "val")]
    with pytest.raises(
        UserError, match=r"^data.columns={path: audio}: .*/table.csv has no such column \(found: file, "
    ):
        source("manifest", path=path, columns={"path": "audio"}).clips()
    with pytest.raises(UserError, match=r"^data.columns=.*'path', 'label'"):
        source("manifest", path=path, columns={"file": "wav"})


def test_paths_of_other_systems_are_found(manifest: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    name = unicodedata.normalize("NFD", "Mésange.wav")
    touch(tmp_path, "deep/" + name)
    rows = ["deep\\b.wav", unicodedata.normalize("NFC", f"deep/{name}"), "a.wav"]
    clips = manifest("path,label\n" + "".join(f"{row},cat\n" for row in rows))
    assert [clip.path for clip in clips] == [str(tmp_path / "deep" / file) for file in ("b.wav", name)] + [
        str(tmp_path / "a.wav")
    ]
    assert caplog.messages == [f"{tmp_path}/table.csv: 2 paths are as another system writes them, such as {rows[0]}"]
    touch(tmp_path, "deep\\b.wav")  # a valid name here
    assert manifest("path,label\ndeep\\b.wav,cat\n")[0].path == str(tmp_path / "deep\\b.wav")


def test_unreadable_files_and_broken_links_are_named_as_such(
    manifest: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "link.wav").symlink_to("gone.wav")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "a.wav" not in str(path) and access(path, mode))
    with pytest.raises(UserError) as error:
        manifest("path,label\na.wav,cat\nlink.wav,cat\n")
    assert str(error.value).splitlines() == [
        f"{tmp_path}/table.csv, line 2: permission denied: {tmp_path}/a.wav",
        f"{tmp_path}/table.csv, line 3: broken link: {tmp_path}/link.wav",
        f"  {FileErrors.REMEDY}",
    ]
