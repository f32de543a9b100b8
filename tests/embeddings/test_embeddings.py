"""Files of embeddings, search, and the choice of clips, on toy vectors."""

import numpy as np
import pytest
import torch

from spectrnn.embeddings.search import most_similar
from spectrnn.embeddings.selection import choose
from spectrnn.embeddings.table import format_of, open_embeddings, write_embeddings
from spectrnn.errors import UserError
from spectrnn.inference.tasks import Embedding
from spectrnn.model.task import MultiLabel, SingleLabel


@pytest.fixture(params=["npz", "parquet"])
def path(request, tmp_path):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"e.{request.param}"


def write(path, vectors):
    rows = [(f"ä/{row // 2}.wav", Embedding(row * 0.5, row * 0.5 + 1, vector)) for row, vector in enumerate(vectors)]
    write_embeddings(path, format_of(path, "out"), iter(rows), len(rows), "abc")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_keeps_its_rows(path, dtype):
    vectors = np.random.default_rng(0).standard_normal((9000, 5)).astype(dtype)
    write(path, vectors)
    opened = open_embeddings(path)
    blocks = list(opened.blocks())
    assert len(blocks) > 1
    assert blocks[0].dtype == dtype
    np.testing.assert_array_equal(np.concatenate(blocks), vectors)
    assert (opened.model, opened.paths[8999]) == ("abc", "ä/4499.wav")
    np.testing.assert_array_equal(opened.starts, np.arange(9000) * 0.5)
    np.testing.assert_allclose(opened.norms, np.linalg.norm(vectors.astype(float), axis=1), rtol=1e-3)


def test_numpy_reads_the_columns(tmp_path):
    write(tmp_path / "e.npz", np.eye(3, dtype=np.float32))
    with np.load(tmp_path / "e.npz") as columns:
        assert sorted(columns) == ["end", "model", "norm", "path", "start", "vector"]
        assert columns["path"].tolist() == ["ä/0.wav", "ä/0.wav", "ä/1.wav"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"text"])
def test_other_files_are_rejected(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a file of spectrnn embed"):
        open_embeddings(path)


def test_search_equals_brute_force(path):
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((5000, 7)).astype(np.float32)
    vectors[17] = 0
    query = generator.standard_normal(7).astype(np.float32)
    write(path, vectors)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    cosines = np.divide(vectors @ query, norms, out=np.zeros(5000, np.float32), where=norms > 0)
    order = np.argsort(-cosines, kind="stable")[:6]
    matches = most_similar(open_embeddings(path), query, 6)
    assert [match.start for match in matches] == [row * 0.5 for row in order]
    np.testing.assert_allclose([match.similarity for match in matches], cosines[order], atol=1e-6)
    assert len(most_similar(open_embeddings(path), query, 9999)) == 5000


def test_choice_is_uncertain_and_diverse():
    vectors = np.array([[1, 0], [2, 0], [0, 1], [-1, 0], [0, 3]], np.float32)
    # The first is the most uncertain; a copy in another length adds nothing; squared distances are 2, 4 and 2.
    assert choose(vectors, np.array([1.0, 0.9, 0.5, 0.2, 0.4]), 3) == [0, 2, 3]
    assert choose(vectors, np.array([1.0, 0.9, 0.3, 0.2, 0.1]), 2) == [0, 3]
    assert sorted(choose(vectors, np.zeros(5), 9)) == [0, 1, 2, 3, 4]


def test_uncertainty_of_exclusive_classes_is_that_of_the_margin():
    task = SingleLabel(3, 0.0, "none")
    probabilities = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.7, 0.1]])
    torch.testing.assert_close(task.uncertainty(probabilities), torch.tensor([1.0, 0.0, 0.5]))


def test_uncertainty_of_several_classes_is_the_distance_to_thresholds():
    task = MultiLabel(2, 0.0, 0.0, "none", False)
    task.thresholds = torch.tensor([0.5, 0.2])
    probabilities = torch.tensor([[0.5, 0.9], [1.0, 0.0], [0.25, 0.1], [0.0, 0.6]])
    torch.testing.assert_close(task.uncertainty(probabilities), torch.tensor([1.0, 0.0, 0.5, 0.5]))
