"""Parallel processing of clip tables."""

import os

from spectrnn.data.clips import Clip
from spectrnn.data.parallel import parallel_map


def test_relative_paths_follow_a_change_of_folder(monkeypatch, tmp_path):
    clips = [Clip("clip.wav", "a")] * 300  # of which several processes get a part
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        (tmp_path / name / "clip.wav").touch()
        results = parallel_map(lambda chunk: [os.path.abspath(clip.path) for clip in chunk], clips, "reading")
        assert {path for chunk in results for path in chunk} == {str(tmp_path / name / "clip.wav")}
