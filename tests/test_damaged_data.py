"""Damaged and hostile data: tokenizers, names of classes, files of weights and of prepared sets.

Each is refused in one line, or kept right.
"""
import errno
import json
import os
import zipfile

import numpy as np
from PIL import Image
import pytest
from test_durable_data import IMAGES, flip, make, source_of

import karpjax as kj
from karpjax import UserError
from karpjax.core import files
from karpjax.core.errors import Outage
from karpjax.datasets import content, tokenizer
from karpjax.datasets.formats import prepare
from karpjax.datasets.tfds import read_record


# --------------------------------------------------------------------- tokenizers and their tokens

TOKENIZER = tokenizer.train_tokenizer(["some texts to learn from"], 270)


def with_ids(**changes) -> str:
    """Return the tokenizer with other ids of tokens; None: without the token."""
    values = json.loads(TOKENIZER)
    vocabulary = {**values["model"]["vocab"], **changes}
    values["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i is not None}
    return json.dumps(values)


@pytest.mark.parametrize("changes, says", [
    ({"z": 70_000}, "found 70000 for 'z'"), ({"z": 5}, "found 5 for .*'z'"),
    ({"~": None}, "has 269 tokens, expected their ids to be 0 to 268")])
def test_ids_are_those_of_the_vocabulary(changes, says, monkeypatch):
    json = with_ids(**changes)
    with pytest.raises(UserError, match=says):
        tokenizer.vocabulary_of(json)
    # The mutant believes the file.
    monkeypatch.setattr(tokenizer, "check_ids", lambda tokenizer: tokenizer.get_vocab_size())
    assert tokenizer.vocabulary_of(json).size in (269, 270)


def write_texts(tmp_path, **options):
    (tmp_path / "raw").mkdir(exist_ok=True)
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(12)]
    (tmp_path / "raw" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare("text", tmp_path / "raw", "texts", str(tmp_path / "sets"), length=8, vocabulary=270,
            **options)
    return tmp_path / "sets" / "texts" / "1.0.0"


def texts(tmp_path):
    data = dict(name="texts", data_dir=str(tmp_path / "sets"), train="train", batch_size=4)
    return kj.sources.text(kj.config(data=data).data)


def test_the_stored_fingerprint_is_compared(tmp_path):
    """A tokenizer that has changed is refused, also if the set has lost its manifest."""
    folder = write_texts(tmp_path)
    fingerprint = texts(tmp_path).vocabulary.fingerprint
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["fingerprint"] == fingerprint
    metadata["tokenizer"] = metadata["tokenizer"].replace("NFC", "NFD")
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="metadata.json has .* bytes|content of metadata.json"):
        texts(tmp_path)
    (folder / content.MANIFEST).unlink()
    with pytest.raises(UserError, match=f"its fingerprint is .*, expected {fingerprint[:12]}"):
        texts(tmp_path)
    del metadata["fingerprint"]  # as of an older karpjax
    (folder / "metadata.json").write_text(json.dumps(metadata))
    assert texts(tmp_path).vocabulary.fingerprint != fingerprint


def test_metadata_without_a_manifest(tmp_path):
    folder = write_texts(tmp_path)
    (folder / content.MANIFEST).unlink()
    (folder / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="'texts': its metadata cannot be read .JSONDecodeError"):
        texts(tmp_path)


def test_tokens_beyond_the_vocabulary(tmp_path, monkeypatch):
    """Rows of an older karpjax may hold ids that 16 bits cut."""
    monkeypatch.setattr(tokenizer.Vocabulary, "framed", lambda self, ids, n: np.full(n, 4464))
    write_texts(tmp_path)
    with pytest.raises(UserError, match="expected tokens of 0 to 269, found 4464 to 4464"):
        texts(tmp_path)


# -------------------------------------------------------------------------------- names of classes

@pytest.mark.parametrize("names", [
    ["a", "a "], ["a\nb", "c"], ["", "b"], ["a", "a"], ["a", "\x85b"], ["a", "\udcff"],
    ["a\u2028b", "c"], ["\ta", "c"]], ids=repr)
def test_names_that_a_set_could_not_keep(names, tmp_path):
    with pytest.raises(UserError, match="a class has the name|have the name") as error:
        make(tmp_path, classes=names)
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "sets").exists()


def test_names_of_folders_and_labels(tmp_path):
    for name in ("a", "a "):
        (tmp_path / "raw" / "train" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "raw" / "train" / name / "0.png")
    with pytest.raises(UserError, match="a class has the name 'a '; expected text of one line"):
        prepare("imagefolder", tmp_path / "raw", "mine", str(tmp_path / "sets"))
    for label in ("one\ntwo", " one", ["one"]):
        rows = [{"text": "x", "label": label}, {"text": "y", "label": "two"}]
        (tmp_path / "raw" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(UserError, match="a class has the name|expected a label of text"):
            prepare("text", tmp_path / "raw", "mine", str(tmp_path / "sets"), length=8,
                    vocabulary=270)


def test_names_that_are_kept(tmp_path):
    # Joiners belong to the words of some scripts.
    names = ["black cat", "m\u00ed\u200cn\u200d\U0001f408"]
    make(tmp_path, classes=names)
    assert source_of(tmp_path).spec["names"] == names


def test_a_label_of_a_billion(tmp_path):
    with pytest.raises(UserError, match="expected labels below 100000, found 1000000000"):
        make(tmp_path, labels=np.array([0, 10 ** 9] * 4))


# ----------------------------------------------------------------- hostile and damaged files

def head_of(shape: str, descr: str = "<f4") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize("data", [
    head_of("(1000000000000,)"), head_of("(-1,)"), head_of("(True,)"), head_of("3"),
    head_of("(4,)", "O"), b"\x93NUMPY\x09\x09", b"", b"text", head_of("__import__('os')")],
    ids=["4 TB", "negative", "bool", "no tuple", "objects", "version", "empty", "text", "code"])
def test_npz_that_promises_what_it_has_not(data, tmp_path):
    """Both readers, of data and of weights, are one, and NumPy allocates nothing."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", data)
    for read in (files.read_arrays, lambda path: prepare("npz", path, "a", str(tmp_path / "b"))):
        with pytest.raises(UserError, match="not a whole .npz file of plain arrays") as error:
            read(tmp_path / "a.npz")
        assert "\n" not in str(error.value)


WEIGHTS = {"vit.embeddings.patch_embeddings.projection.weight": (192, 3, 4, 4),
           "vit.embeddings.position_embeddings": (1, 5, 192),
           "vit.encoder.layer.0.layernorm_before.weight": (192,)}


@pytest.mark.parametrize("changes, says", [
    ({"vit.embeddings.position_embeddings": (5,)}, "have other axes"),
    ({"vit.embeddings.position_embeddings": (1, 4, 192)}, "expected those of a square"),
    ({"vit.embeddings.patch_embeddings.projection.weight": ()}, "have other axes"),
    ({"vit.embeddings.patch_embeddings.projection.weight": (192, 3, 0, 0)}, "expected numbers"),
    ({"vit.encoder.layer.999999999.layernorm_before.weight": (192,)}, "but lacks block1"),
    ({"a\nb": (2,)}, "expected printable names")])
def test_weights_of_odd_shapes_and_names(changes, says, tmp_path):
    from karpjax.run.published import published
    arrays = {name: np.zeros(shape, np.float32) for name, shape in {**WEIGHTS, **changes}.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=says) as error:
        published(tmp_path / "a.npz", "vit", tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json", "metadata.json",
                                  content.MANIFEST])
@pytest.mark.parametrize("damage", ["a bit", "cut", "gone", "not JSON"])
def test_damaged_files_of_a_set(file, damage, tmp_path):
    make(tmp_path)
    path = tmp_path / "sets" / "mine" / "1.0.0" / file
    {"a bit": flip, "cut": lambda path: path.write_bytes(path.read_bytes()[:-2] or b"{"),
     "gone": os.remove, "not JSON": lambda path: path.write_text("{")}[damage](path)
    if (file, damage) == (content.MANIFEST, "gone"):
        assert source_of(tmp_path).spec["content"]  # as prepared by an older karpjax
        return
    with pytest.raises(UserError, match="data set 'mine' in .* is damaged: ") as error:
        source_of(tmp_path)
    assert "\n" not in str(error.value)
    path.parent.joinpath(content.MANIFEST).unlink(missing_ok=True)
    try:
        source_of(tmp_path)
    except UserError as without:
        assert "\n" not in str(without)


def test_an_outage_is_no_damage_of_a_record():
    class Rows:
        def __getitem__(self, i):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(Outage, match="record 3: the storage failed .*start the same command"):
        read_record(Rows(), 3, "mine/train")
