"""The toy tasks learn, and their parts equal references made by hand."""
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj

from karpjax.core.errors import UserError
from karpjax.run.experiment import assemble
from karpjax.run.loop import fit
from karpjax.tasks.classify import mean_of_views


def config_file(name):
    return kj.load_config(name)[0]


# ----------------------------------------------------------------------------------------- learning

@pytest.mark.full
def test_reinforce_solves_cartpole(tmp_path):
    summary = fit(config_file("reinforce_cartpole"), tmp_path, mesh=mesh_of(1))
    assert summary["eval/return"] >= 195


# -------------------------------------------------------------------------------------------- parts

def airbench(**overrides):
    config, task_file = config_of("airbench", **overrides)
    return assemble(config, task_file, mesh_of(1))


def test_training_pictures_of_another_size_than_evaluation():
    config, task_file = config_of("vit", augment=[dict(name="random_resized_crop", size=16)])
    with pytest.raises(UserError, match=r"config.data.crop \(or resize\) and the last size in "
                                           r"config.augment.*\(17, 16\)"):
        assemble(config, task_file, mesh_of(1))


@pytest.mark.full
def test_airbench_starts_from_the_data():
    """The first layer whitens: 2x2 patches of the training images come out uncorrelated and of one
    size."""
    exp = airbench()
    rows = exp.task.source.first(512)
    images = exp.task.source.preprocess(rows)["image"]
    variables = exp.fresh_state().variables
    _, features = exp.task.model.apply(variables, jnp.asarray(images), features=True)
    whitened = features["whiten"] - variables["params"]["whiten"]["bias"]
    y = np.asarray(whitened).reshape(-1, 24)[:, :12]
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(12), atol=0.01)
    assert list(features) == ["whiten", "group0", "group1", "group2", "pooled"]
    kernel = np.asarray(variables["params"]["group1"]["conv0"]["kernel"])  # (3, 3, 4, 8)
    assert (kernel[1, 1, :, :4] == np.eye(4)).all() and kernel[..., :4].sum() == 4
    assert (kernel[..., 4:] != 0).all()


def test_views_of_an_image():
    """Six views of a linear network weigh 1/4 (as it is), 1/4 mirrored, and 1/8 for each that is
    moved."""
    images = jax.random.normal(jax.random.key(0), (2, 4, 5, 1))

    def predict(images):
        return images.reshape(2, -1)

    def mirror(x):
        return x[:, :, ::-1]

    still = (images + mirror(images)) / 2
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    np.testing.assert_allclose(mean_of_views(predict, images, predict(images), "mirror"),
                               predict(still), atol=1e-6)
    moved = sum(x + mirror(x) for x in (padded[:, :4, :5], padded[:, 2:, 2:])) / 8
    np.testing.assert_allclose(mean_of_views(predict, images, predict(images), "mirror_translate"),
                               predict(still / 2 + moved), atol=1e-6)


@pytest.mark.full
def test_evaluation_with_views(tmp_path):
    config, task_file = config_of("airbench", steps=3, eval_every=3)
    summary = fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert {"test/accuracy", "test/accuracy_tta"} <= set(summary)
    config.tta = "mirrored"
    with pytest.raises(kj.UserError, match="config.tta"):
        assemble(config, task_file, mesh_of(1))
