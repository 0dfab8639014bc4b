"""From pretraining to a classifier: weights that carry over, refusals, and pictures and texts to
look at."""
import json
import shutil

from command import command, done, refused
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
from matplotlib.image import imread
import numpy as np
import pytest

from karpjax import restore, UserError
from karpjax.core.optimizer import by_layer
from karpjax.datasets import text as corpora
from karpjax.datasets.write import write_dataset
from karpjax.explain.features import features, knn, vote
from karpjax.run.experiment import assemble
from karpjax.run.loop import fit
from karpjax.sources.text import EMBEDDED


def run(task: str, workdir, **overrides) -> dict:
    config, task_file = config_of(task, **{"steps": 6, **overrides})
    return fit(config, workdir, task_file=task_file, mesh=mesh_of(1))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return the folder of a masked_text and a masked_image run whose encoders fit the
    classifiers'."""
    folder = tmp_path_factory.mktemp("pretrained")
    run("masked_text", folder / "text")
    run("masked_image", folder / "image", **{"model.layers": 2, "model.heads": 4})
    return folder


@pytest.mark.full
@pytest.mark.parametrize("kind, task", [
    ("text", "classify_text"), pytest.param("image", "vit", marks=pytest.mark.full)])
def test_a_classifier_starts_from_the_encoder(kind, task, pretrained, tmp_path):
    """Every array of the encoder is the pretrained one. Only heads are missing or left over."""
    config, task_file = config_of(task, init_from=str(pretrained / kind), steps=6,
                                  **{"optimizer.learning_rate.peak_value": 0.0,
                                     "optimizer.weight_decay": 0.0})
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    before, after = (dict(jax.tree.leaves_with_path(restore(path).params))
                     for path in (pretrained / kind, tmp_path))
    shared = before.keys() & after.keys()
    assert {path[0].key for path in after.keys() - shared} == {"head"} and len(shared) >= 8
    for path in shared:
        np.testing.assert_array_equal(before[path], after[path])


@pytest.mark.full
def test_names_that_differ_are_listed(pretrained, tmp_path):
    with pytest.raises(UserError, match="missing.*head/bias.*"):
        run("vit", tmp_path / "run", init_from=str(pretrained / "image"),
            init_skip=("decoder.*", "mask"))
    assert not (tmp_path / "run").exists()


def reviews(folder, lowercase: bool) -> dict:
    """Write a set like imdb's stand-in, of the same size, with a tokenizer of its own."""
    (folder / "raw").mkdir(exist_ok=True)
    rows = [json.dumps({"text": text, "label": i % 2})
            for i, text in enumerate(EMBEDDED.read_text().split("\n\n")[:200])]
    for split in ("train", "test"):
        (folder / "raw" / f"{split}.jsonl").write_text("\n".join(rows))
    splits = corpora.import_texts(folder / "raw", length=32, vocabulary=300, lowercase=lowercase)
    write_dataset("reviews", splits, folder / "tfds", replace=True)
    return {"data.name": "reviews", "data.data_dir": str(folder / "tfds"), "data.validation": "",
            "data.test": ""}


@pytest.mark.full
def test_another_tokenizer_is_refused(pretrained, tmp_path):
    """Another tokenizer is refused at a start, a resume and a restore, with nothing written.

    The workdir holds the run's own.
    """
    data = reviews(tmp_path, lowercase=False)
    with pytest.raises(UserError,
                       match=r"trained on the tokens of another tokenizer .* tokenizer\.json"):
        run("classify_text", tmp_path / "a", init_from=str(pretrained / "text"), **data)
    assert not (tmp_path / "a").exists()
    run("classify_text", tmp_path / "b", best="", **data)
    kept = (tmp_path / "b" / "tokenizer.json").read_text()
    assert restore(tmp_path / "b").task.source.vocabulary.json == kept
    reviews(tmp_path, lowercase=True)
    for again in (lambda: run("classify_text", tmp_path / "b", best="", **data),
                  lambda: restore(tmp_path / "b")):
        with pytest.raises(UserError, match="another tokenizer"):
            again()
    assert (tmp_path / "b" / "tokenizer.json").read_text() == kept


@pytest.mark.full
def test_predicts_texts_where_the_data_is_not(tmp_path):
    """The tokenizer and the length of a row travel in the checkpoint."""
    run("classify_text", tmp_path / "run", best="", **reviews(tmp_path, lowercase=True))

    def predicted():
        trained = restore(tmp_path / "run")
        return trained.predict(trained.task.source.encode(["A fine film.", "A dull one."]))
    expected = predicted()
    shutil.rmtree(tmp_path / "tfds")
    assert expected.shape == (2, 2) and expected[0, 0] != expected[1, 0]
    np.testing.assert_array_equal(predicted(), expected)


@pytest.mark.full
def test_what_is_filled_in_does_not_see_padding(pretrained):
    """A text's logits are the same in a longer row."""
    trained = restore(pretrained / "text")
    tokens = trained.task.source.encode(["It was [MASK]."])
    n = int((tokens[0] != 0).sum())
    assert n < tokens.shape[1] and 1 in tokens
    np.testing.assert_allclose(trained.predict(tokens)[:, :n], trained.predict(tokens[:, :n]),
                               atol=1e-5)


@pytest.mark.full
def test_linear_probe_trains_the_head_alone(pretrained, tmp_path):
    run("vit", tmp_path, init_from=str(pretrained / "image"),
        **{"optimizer.freeze": ("(?!head/).*",)})
    before, after = restore(pretrained / "image").params, restore(tmp_path).params
    np.testing.assert_array_equal(before["block0"]["mlp"]["up"]["kernel"],
                                  after["block0"]["mlp"]["up"]["kernel"])
    assert np.abs(after["head"]["kernel"]).max() > 0


def test_layer_decay_by_hand():
    """With two blocks at decay 1/2, embeddings learn at an eighth, blocks at a quarter and a half,
    norm and head in full."""
    config, task_file = config_of("vit", **{"optimizer.layer_decay": 0.5})
    exp = assemble(config, task_file, mesh_of(1))
    factors = by_layer(0.5, exp.task.model.layer_of, exp.abstract.params, "layer_decay")
    assert sorted(set(factors.values())) == [1 / 8, 1 / 4, 1 / 2, 1]
    config.optimizer = dict(name="sgd", learning_rate=1.0, layer_decay=0.5)
    exp = assemble(config, task_file, mesh_of(1))
    params = exp.fresh_state().params
    updates, _ = exp.optimizer.update(jax.tree.map(jnp.ones_like, params),
                                      exp.optimizer.init(params), params)
    sizes = {name: {float(-u.min()), float(-u.max())} for name, u in updates.items()
             if not isinstance(u, dict)} | {
        name: {float(-leaf.min()) for leaf in jax.tree.leaves(u)} for name, u in updates.items()
        if isinstance(u, dict)}
    assert sizes == {"cls": {1 / 8}, "position": {1 / 8}, "patch": {1 / 8}, "block0": {1 / 4},
                     "block1": {1 / 2}, "norm": {1.0},
                     "head": {1.0}}


def test_layer_decay_needs_layers():
    config, task_file = config_of("poly", **{"optimizer.layer_decay": 0.5})
    with pytest.raises(UserError,
                       match="layer_decay = 0.5: this model has no layers"):
        assemble(config, task_file, mesh_of(1))


@pytest.mark.full
def test_a_person_can_look(pretrained):
    picture = imread(pretrained / "image" / "reconstructions.png")
    assert picture.shape[:2] == (8 * 32, 3 * 32)
    original, seen, made = np.split(picture[:32, :, :3], 3, axis=1)
    visible = np.abs(original - seen).max(-1) < 1e-6
    assert visible.mean() == pytest.approx(0.25, abs=0.02)
    assert np.abs(original - made)[visible].max() < 1e-6
    assert "[MASK]" in (pretrained / "text" / "predictions.txt").read_text()


# --------------------------------------------------------------------------------------- neighbours

def test_votes_by_hand():
    """One neighbour at similarity 1 outweighs two at 0.9 of another class: exp(1 / 0.07) > 2
    exp(0.9 / 0.07)."""
    known = jnp.array([[1.0, 0.0], [0.9, 0.19 ** 0.5], [0.9, 0.19 ** 0.5], [-1.0, 0.0]])
    labels, query = jnp.array([2, 1, 1, 0]), jnp.array([[1.0, 0.0]])
    assert vote(query, known, labels, 3, 3).tolist() == [2]
    assert vote(query, known, jnp.array([2, 1, 1, 1]), 3, 4).tolist() == [2]


@pytest.mark.full
def test_neighbours_of_themselves(pretrained):
    """The nearest neighbour of a training row is itself."""
    metrics = knn(pretrained / "image", "cifar10", "train[:100]", "train[:100]", k=1)
    assert metrics["train[:100]/knn_accuracy"] == 1.0 and metrics["rows"] == 100
    out = done(command("knn", f"--workdir={pretrained}/text", "--name=imdb", "--train=train[:100]",
                       "--on=train[:50]", "--k=1"))
    # a few paragraphs begin with the same 30 tokens
    assert json.loads(out)["train[:50]/knn_accuracy"] > 0.9
    unlabelled = command("knn", f"--workdir={pretrained}/text", "--name=imdb_packed",
                         "--train=train", "--on=train")
    refused(unlabelled, "without labels")


@pytest.mark.full
def test_neighbours_for_a_run_on_a_folder(pretrained):
    """A run that was trained on config.data.dir is compared on a set by name."""
    run = restore(pretrained / "image")
    expected, _, _ = features(run, pretrained, "cifar10", "train[:10]")
    with run.config.unlocked():
        run.config.data.update(name="", dir="pictures")
    vectors, _, classes = features(run, pretrained, "cifar10", "train[:10]")
    assert classes == 10 and np.array_equal(vectors, expected)
