"""The models of images: shapes, intermediate features, and the published parameter counts.

Nothing is trained.
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.envs import grid_nav
from karpjax.envs.spaces import Discrete
from karpjax.models.efficientnet_lite import MBConv
from karpjax.models.resnet import Bottleneck


def shapes_of(options: dict, classes: int, size: int, dtype=jnp.float32, **kwargs):
    """Return (variables, output) as shapes. Nothing is computed."""
    model = kj.models.make_model(options, classes=classes)
    x = jax.ShapeDtypeStruct((2, size, size, 3), dtype)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), variables["params"])
    variables = {**variables, "params": params}
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, **kwargs), variables, x)


@pytest.mark.parametrize("options, classes, size, count", [
    (dict(name="resnet_cifar", depth=20), 10, 32, 269_722),        # the paper: 0.27 million
    (dict(name="resnet_cifar", depth=56), 10, 32, 853_018),        # 0.85
    (dict(name="resnet_cifar", depth=110), 10, 32, 1_727_962),     # 1.7
    (dict(name="resnet", depth=18), 1000, 224, 11_689_512),        # torchvision's, these three
    (dict(name="resnet", depth=34), 1000, 224, 21_797_672),
    (dict(name="resnet", depth=50), 1000, 224, 25_557_032),
    (dict(name="efficientnet_lite0"), 1000, 224, 4_652_008),
], ids=lambda value: "".join(map(str, value.values())) if isinstance(value, dict) else None)
def test_parameter_counts(options, classes, size, count):
    model = kj.models.make_model(options, classes=classes)
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"])) == count
    assert logits.shape == (2, classes)


@pytest.mark.parametrize("options, size, expected", [
    (dict(name="resnet_cifar"), 32,
     dict(stem=(32, 16), stage1=(32, 16), stage2=(16, 32), stage3=(8, 64), pooled=(64,))),
    (dict(name="resnet", depth=18), 64,
     dict(stem=(16, 64), stage1=(16, 64), stage2=(8, 128), stage3=(4, 256), stage4=(2, 512),
          pooled=(512,))),
    (dict(name="resnet"), 64, dict(stem=(16, 64), stage1=(16, 256), stage2=(8, 512),
                                   stage3=(4, 1024), stage4=(2, 2048),
                                   pooled=(2048,))),
    (dict(name="efficientnet_lite0"), 64,
     dict(stem=(32, 32), stage1=(32, 16), stage2=(16, 24), stage3=(8, 40), stage4=(4, 80),
          stage5=(4, 112), stage6=(2, 192), stage7=(2, 320), pooled=(1280,))),
], ids=["cifar", "18", "50", "lite0"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features(options, size, expected, dtype):
    """Features have the stated (pixels, channels), all in the dtype of the parameters, as the
    step's precision requires."""
    _, (logits, features) = shapes_of(options, 7, size, dtype, features=True)
    assert {name: (*x.shape[2:3], x.shape[-1]) if x.ndim > 2 else x.shape[1:]
            for name, x in features.items()} == expected
    assert logits.shape == (2, 7)
    assert {x.dtype for x in [logits, *features.values()]} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", ["resnet_cifar", "resnet", "efficientnet_lite0"])
def test_training_updates_the_statistics(name):
    variables, (_, updated) = shapes_of(dict(name=name), 7, 32, train=True, mutable=["batch_stats"],
                                        rngs={"dropout": jax.random.key(0)})
    assert jax.tree.map(jnp.shape,
                        updated["batch_stats"]) == jax.tree.map(jnp.shape, variables["batch_stats"])


def test_zero_init_makes_a_block_the_identity():
    block, x = Bottleneck(width=8, stride=1, zero_init=True), jnp.ones((2, 4, 4, 32))
    y, _ = jax.jit(lambda x: block.init_with_output(jax.random.key(1), x, False))(x)
    np.testing.assert_array_equal(y, x)


def test_drop_connect_drops_whole_examples():
    def block(drop):
        return MBConv(kernel=3, stride=1, expansion=1, width=8, drop=drop)

    def train(drop):
        def applied(v):
            return block(drop).apply(v, x, True, mutable=["batch_stats"],
                                     rngs={"dropout": jax.random.key(2)})
        return jax.jit(applied)(variables)[0]

    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 8))
    variables = jax.jit(block(0.0).init, static_argnums=2)(jax.random.key(1), x, False)
    y, whole = train(0.5), train(0.0)
    dropped = np.array([np.array_equal(a, b) for a, b in zip(x, y, strict=True)])
    assert 16 < dropped.sum() < 48
    np.testing.assert_allclose(y[~dropped], (x + 2 * (whole - x))[~dropped], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options, expected", [
    (dict(name="resnet_cifar", depth=21), "expected 6n + 2, as in 20, 32, 44"),
    (dict(name="resnet", depth=20), "expected one of 18, 34, 50, 101, 152"),
    (dict(name="resnet", deep=20), "did you mean 'depth'?")])
def test_a_depth_that_is_none(options, expected):
    with pytest.raises(kj.UserError, match=r"config\.model\.deep|config\.model\.depth") as refused:
        shapes_of(options, 7, 32)
    assert expected in str(refused.value)


@pytest.mark.full
def test_value_propagation_can_plan():
    """With weights set by hand, the best of the four moves is the first step of a shortest path."""
    env = grid_nav.GridNav(size=6, masked=True)
    options = dict(name="value_propagation", sweeps=36, agent=1, width=3)
    model = kj.models.make_model(options, actions=env.actions, obs_shape=(6, 6, 3))
    states, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 64))
    # Entering a wall costs and the goal pays, a step costs 1, and the goal, where the task ends,
    # takes over no value.
    reading = jnp.array([[-1000.0, 0, 0], [0, 0, 0], [100.0, 0, -200]])  # of wall, agent, goal
    params = {"cell": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)},
              "reading": {"kernel": reading, "bias": jnp.array([0.0, 1.0, 100.0])},
              "sharpness": jnp.ones(()),
              "value": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
    logits, values = model.apply({"params": params}, obs)  # (64, 4), (64,)
    np.testing.assert_array_equal(values, logits.max(-1))
    distances = np.asarray(jax.vmap(grid_nav.shortest_path)(states["walls"], states["goal"]))
    for move, distance, agent, steps in zip(logits.argmax(-1), distances,
                                            np.asarray(states["agent"]), states["shortest"],
                                            strict=True):
        row, column = agent + grid_nav.MOVES[move]
        assert distance[row, column] == steps - 1


@pytest.mark.full
def test_value_propagation_looks_as_far_as_it_sweeps():
    """The same parameters serve a bigger map.

    A cell that no way of so many steps enters changes nothing.
    """
    model = kj.models.make_model(dict(name="value_propagation", sweeps=2, agent=0),
                                 actions=Discrete(4), obs_shape=(9, 12, 3))
    x = jax.random.normal(jax.random.key(0), (9, 12, 3)).at[..., 0].set(0.0).at[1, 1, 0].set(1.0)
    params = model.init(jax.random.key(1), x[:4, :4])
    ways, _ = model.apply(params, x)
    np.testing.assert_array_equal(
        ways, model.apply(params, x.at[5:, :, 1].add(1.0).at[:, 5:, 1].add(1.0))[0])
    assert not np.allclose(ways, model.apply(params, x.at[1:3, 1:3, 1].add(1.0))[0])


def test_value_propagation_of_other_actions():
    with pytest.raises(UserError,
                       match="up, down, left, right, found observations .4,. and Discrete"):
        model = kj.models.make_model(dict(name="value_propagation", agent=0), actions=Discrete(2),
                                     obs_shape=(4,))
        model.init(jax.random.key(0), jnp.zeros((1, 4)))


@pytest.mark.parametrize("options, given, says", [
    (dict(name="mae"), dict(classes=10), "name: mae has no field 'classes'.* one of .*cnn.*vit$"),
    (dict(name="cnn"), {}, "model.classes is missing, which cnn needs"),
    (dict(name="value_propagation"), dict(actions=Discrete(4), obs_shape=(6, 6, 3)),
     "model.agent is missing"),
    (dict(name="cnn", widht=3), dict(classes=10), "did you mean 'width'")])
def test_options_that_do_not_fit(options, given, says):
    with pytest.raises(UserError, match=says):
        kj.models.make_model(options, **given)


@pytest.mark.parametrize("options, given, shape, says", [
    (dict(name="airbench"), dict(classes=10), (8, 8, 1), "at least 25 x 25 pixels, found 8 x 8"),
    (dict(name="board"), dict(actions=Discrete(2), obs_shape=(4,)), (4,), "found .*4,"),
    (dict(name="actor_critic", torso="conv"), dict(actions=Discrete(2), obs_shape=(4,)), (4,),
     "torso = 'conv': expected images"),
    (dict(name="value_propagation", agent=3), dict(actions=Discrete(4), obs_shape=(6, 6, 3)),
     (6, 6, 3), "agent: expected a channel of the maps, 0 to 2, found 3")])
def test_inputs_that_a_model_cannot_read(options, given, shape, says):
    model = kj.models.make_model(options, **given)
    with pytest.raises(UserError, match=says):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, *shape)))


@pytest.mark.parametrize("name, key, value, least", [
    ("cnn", "width", 0, 1), ("cnn", "width", -1, 1), ("cnn", "width", 8.0, 1),
    ("cnn", "width", "8", 1), ("vit", "patch", 0, 1), ("vit", "layers", -1, 0),
    ("vit", "lora", -1, 0), ("airbench", "widths", (0, 8, 8), 1),
    ("airbench", "widths", 8, 1)])
def test_sizes_that_are_none(name, key, value, least):
    """Flax would divide by them."""
    with pytest.raises(kj.UserError) as refused:
        kj.models.make_model({"name": name, key: value}, classes=7)
    assert str(refused.value) == (f"config.model.{key} = {value!r}: expected whole numbers of at "
                                  f"least {least}")


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_a_dropout_that_is_no_share(share):
    """Flax takes 1.5 for a chance, and every activation is 0."""
    with pytest.raises(kj.UserError, match=f"config.model.dropout = {share}: expected a share"):
        kj.models.make_model(dict(name="cnn", dropout=share), classes=7)
