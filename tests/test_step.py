"""The step by itself: what it computes, in a notebook's five lines and beyond."""
from guarantees.harness import mesh_of, named, run
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import karpjax as kj
from karpjax.core import settings
from karpjax.core.optimizer import make_optimizer


def regression(params, model_state, batch, key):
    error = (batch["x"] @ params["w"] - batch["y"]) ** 2                              # (B,)
    return {"square": kj.mean(error, batch.get("weight"))}, {}, model_state


def data(n=32):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.array([1.0, -2.0, 3.0], np.float32)}


def state_of(optimizer, **options):
    return kj.TrainState.create({"params": {"w": jnp.zeros(3)}}, optimizer, jax.random.key(0),
                                **options)


def test_own_loop_in_five_lines():
    optimizer = optax.adam(0.1)
    step = jax.jit(kj.make_train_step(regression, optimizer), donate_argnums=0)
    state = kj.TrainState.create({"params": {"w": jnp.zeros(3)}}, optimizer, jax.random.key(0))
    for _ in range(300):
        state, metrics = step(state, data())
    np.testing.assert_allclose(state.params["w"], [1, -2, 3], atol=1e-2)
    assert set(metrics) == {"loss", "square", "grad_norm", "skipped", "skipped_in_a_row"}


def test_one_all_reduce_for_the_gradient():
    """Without batch statistics the program of 8 devices has all-reduces and no other collective."""
    config, task_file = config_of("masked_text")
    config.data.batch_size = 16
    config.dispatch = "step"
    from karpjax.core import sharding
    from karpjax.run.experiment import assemble
    from karpjax.run.programs import make_programs
    mesh = mesh_of(8)
    experiment = assemble(config, task_file, mesh)
    arrays = sharding.put(experiment.source.arrays, sharding.replicated(mesh))
    text = make_programs(experiment).lower(experiment.abstract, arrays, 1).compile().as_text()
    assert " all-reduce(" in text
    assert not any(f" {op}(" in text
                   for op in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"))


def test_ema():
    """At first the decay is less, so that nothing is left of the weights of the start."""
    step = jax.jit(kj.make_train_step(regression, optax.sgd(0.1), ema_decay=0.2))
    state = state_of(optax.sgd(0.1), ema=True)
    average = np.zeros(3)
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        state, _ = step(state, data())
        average = decay * average + (1 - decay) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], average, rtol=1e-5)
    assert state.eval_variables["params"] is state.ema


def centred(params, model_state, batch, key):
    """Return the loss of a model that keeps a mean, as BatchNorm does, and how often it moved."""
    statistics = model_state["batch_stats"]
    output = batch["x"] @ params["w"]                                                 # (B,)
    new = {"mean": 0.9 * statistics["mean"] + 0.1 * output.mean(), "moved": statistics["moved"] + 1}
    square = kj.mean((output - batch["y"]) ** 2)
    return {"square": square}, {}, {"batch_stats": new}


def test_statistics_are_averaged_as_the_parameters_are():
    """Evaluation sees both averages: with the statistics of other weights, a network is another."""
    variables = {"params": {"w": jnp.zeros(3)},
                 "batch_stats": {"mean": jnp.float32(0), "moved": jnp.int32(0)}}
    state = kj.TrainState.create(variables, optax.sgd(0.1), jax.random.key(0), ema=True)
    step = jax.jit(kj.make_train_step(centred, optax.sgd(0.1), ema_decay=0.2))
    average = 0.0
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        state, _ = step(state, data())
        average = decay * average + (1 - decay) * state.model_state["batch_stats"]["mean"]
    seen = state.eval_variables["batch_stats"]
    np.testing.assert_allclose(seen["mean"], average, rtol=1e-5)
    assert seen["mean"] != state.model_state["batch_stats"]["mean"]
    assert seen["moved"] == state.model_state["batch_stats"]["moved"] == 4


def test_bf16_computes_in_bf16_and_keeps_fp32():
    seen = []

    def loss(params, model_state, batch, key):
        seen.append((params["w"].dtype, batch["x"].dtype))
        return regression(params, model_state, batch, key)
    step = kj.make_train_step(loss, optax.sgd(0.1), precision="bf16")
    state, _ = jax.jit(step)(state_of(optax.sgd(0.1)), data())
    assert seen[-1] == (jnp.bfloat16, jnp.float32) and state.params["w"].dtype == jnp.float32
    metrics = run(*config_of("digits", precision="bf16", steps=12), mesh_of(1)).metrics
    full = run(*config_of("digits", steps=12), mesh_of(1)).metrics
    np.testing.assert_allclose(metrics["loss"], full["loss"], rtol=0.05)
    assert not np.array_equal(metrics["loss"], full["loss"])


def test_dropout_differs_by_step_and_example():
    """Keys are fresh: without learning, the same batch (overfit repeats it) gives another loss at
    each step."""
    config, task_file = config_of("masked_text", overfit=True)
    config.optimizer = {"name": "sgd", "learning_rate": 0.0}
    losses = run(config, task_file, mesh_of(1), steps=4).metrics["loss"]
    assert len(set(losses.tolist())) == 4
    config.model.dropout = 0.0
    losses = run(config, task_file, mesh_of(1), steps=4).metrics["loss"]
    assert len(set(losses.tolist())) == 1


def test_overfit_goes_to_zero():
    config, task_file = config_of("poly", overfit=True)
    config.optimizer.learning_rate = 0.03
    losses = run(config, task_file, mesh_of(1), steps=60).metrics["loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_mean_ignores_what_has_no_weight():
    total, count = kj.mean(jnp.array([1.0, jnp.nan, jnp.inf]), jnp.array([1.0, 0.0, 0.0]))
    assert (total, count) == (1.0, 1.0)
    total, count = kj.mean(jnp.ones((2, 3)), jnp.array([1.0, 0.5]))
    assert (total, count) == (4.5, 4.5)
    assert np.isnan(kj.mean(jnp.array([1.0]), jnp.array([jnp.nan]))[0])
    with pytest.raises(kj.UserError, match="leading axes"):
        kj.mean(jnp.ones(3), jnp.ones(4))


# --------------------------------------------------------------------------------------- optimizers

PARAMS = {"stem": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "norm": {"scale": jnp.ones(4)},
          "head": {"kernel": jnp.ones((4, 2))}}


def updated(gradient=0.0, steps=100, **options):
    """Return the parameters after one update with a constant gradient."""
    config = settings.config(optimizer=options if "groups" in options
                             else {"learning_rate": 0.1, **options})
    optimizer, _ = make_optimizer(config.optimizer, steps, PARAMS)
    grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    return named(optax.apply_updates(PARAMS, updates))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_weight_decay_skips_norms_and_biases(name):
    params = updated(name=name, weight_decay=0.5)
    for leaf in ("stem/bias", "norm/scale"):
        assert (params[leaf] == 1).all()
    for leaf in ("stem/kernel", "head/kernel"):
        np.testing.assert_allclose(params[leaf], 1 - 0.1 * 0.5, rtol=1e-6)


def test_weight_decay_of_muon():
    """Muon decays every kernel and no bias.

    optax's own leaves kernels of four axes to Adam and to another key.
    """
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
              "head": {"kernel": jnp.ones((4, 2))}}
    config = settings.config(optimizer={"name": "muon", "learning_rate": 0.1, "weight_decay": 0.5})
    optimizer, _ = make_optimizer(config.optimizer, 10, params)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params),
                                  optimizer.init(params), params)
    after = named(optax.apply_updates(params, updates))
    assert (after["conv/bias"] == 1).all()
    for leaf in ("conv/kernel", "head/kernel"):
        np.testing.assert_allclose(after[leaf], 1 - 0.1 * 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", ["prodigy", "schedule_free_adamw"])
def test_optimizers_that_would_do_something_else(name):
    with pytest.raises(kj.UserError, match="use "):
        updated(name=name, weight_decay=0.1)


def test_learning_rates_by_name():
    params = updated(1.0, name="sgd", lr_scale=[["head/.*", 10.0], ["stem/.*s", 0.0]])
    assert (params["stem/bias"] == 1).all()
    np.testing.assert_allclose(params["head/kernel"], 0.0, atol=1e-6)
    np.testing.assert_allclose(params["stem/kernel"], 0.9)


def test_frozen_parameters_have_no_state_and_no_share_in_the_clip_norm():
    params = updated(1.0, name="sgd", freeze=["stem/.*"], clip=1.0, lr_scale=[["head/.*", 1.0]])
    assert (params["stem/kernel"] == 1).all() and (params["stem/bias"] == 1).all()
    # 12 trained ones of gradient 1
    np.testing.assert_allclose(params["head/kernel"], 1 - 0.1 / np.sqrt(12), rtol=1e-5)
    optimizer, _ = make_optimizer({"name": "adam", "learning_rate": 0.1, "freeze": ["stem/.*"]},
                                  10, PARAMS)
    assert not [n for n in named(optimizer.init(PARAMS)) if "stem" in n]


def test_frozen_parameters_cost_no_gradient():
    """A step without the gradient of the first two convolutions is that much cheaper.

    The others' gradients are as before.
    """
    config, task_file = config_of("poly")
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    free = run(config, task_file, mesh_of(1), steps=1)
    config.optimizer.freeze = ["conv[01]/.*", "norm[01]/.*"]
    held = run(config, task_file, mesh_of(1), steps=1)
    assert held.flops < 0.75 * free.flops
    assert held.metrics["grad_norm"] < free.metrics["grad_norm"]
    np.testing.assert_allclose(held.state["params/head/kernel"], free.state["params/head/kernel"],
                               rtol=1e-5)


def test_groups_have_optimizers_of_their_own():
    params = updated(1.0, groups=[["head/.*", {"name": "sgd", "learning_rate": 0.5}],
                                  [".*", {"name": "sgd", "learning_rate": 0.1, "weight_decay": 1.0,
                                          "decay_all": True}]],
                     freeze=["norm/.*"])
    np.testing.assert_allclose(params["head/kernel"], 0.5)
    np.testing.assert_allclose(params["stem/bias"], 1 - 0.1 * 2)  # decays too
    assert (params["norm/scale"] == 1).all()


@pytest.mark.parametrize("groups, message", [
    ([["head/.*", {"name": "sgd", "learning_rate": 0.1}]],
     "no pattern matches norm/scale, stem/bias"),
    ([["heads/.*", {"name": "sgd", "learning_rate": 0.1}],
      [".*", {"name": "sgd", "learning_rate": 0.1}]], r"groups\[0\]"),
    ([[".*", {"name": "sdg", "learning_rate": 0.1}]], r"groups\[0\].name.*did you mean 'sgd'"),
    ([[".*", {"name": "sgd"}]], r"groups\[0\].learning_rate")])
def test_bad_groups(groups, message):
    with pytest.raises(kj.UserError, match=message):
        make_optimizer({"groups": groups}, 10, PARAMS)
    with pytest.raises(kj.UserError, match="name"):
        make_optimizer({"groups": groups, "name": "sgd"}, 10, PARAMS)


def test_filter_muon_turns_filters_and_keeps_their_size():
    """The update is nearly orthogonal, of the learning rate's size.

    Before it the norm is set to sqrt(outputs).
    """
    params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 16))}
    grads = {"kernel": 1e-6 * jax.random.normal(jax.random.key(1), (3, 3, 4, 16))}
    optimizer, _ = make_optimizer({"name": "filter_muon", "learning_rate": 0.1, "ns_steps": 10},
                                  10, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    kernel, matrix = params["kernel"], grads["kernel"].reshape(36, 16)
    turned = (kernel + updates["kernel"] - kernel * 4 / jnp.linalg.norm(kernel)).reshape(36, 16)
    u, _, v = jnp.linalg.svd(matrix, full_matrices=False)
    values = jnp.linalg.svd(turned / -0.1, compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3  # Newton-Schulz: about 1
    assert jnp.sum(turned * (u @ v)) < -0.95 * 0.1 * 16 * 0.85                        # downhill


@pytest.mark.full
def test_muon_by_name_learns():
    config, task_file = config_of("poly")
    config.optimizer = {"name": "muon", "learning_rate": 0.05, "weight_decay": 0.01}
    losses = run(config, task_file, mesh_of(2), steps=30).metrics["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_schedule_takes_its_length_from_the_run():
    _, schedule = make_optimizer({"name": "sgd", "learning_rate": {
        "name": "warmup_cosine_decay_schedule", "init_value": 0.0, "peak_value": 1.0,
        "warmup_steps": 10}}, 100, PARAMS)
    assert [round(float(schedule(s)), 3) for s in (0, 5, 10, 55, 100)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_a_rate_that_falls_at_given_steps():
    """JSON makes texts of the steps, which are numbers for optax."""
    _, schedule = make_optimizer({"name": "sgd", "learning_rate": {
        "name": "piecewise_constant_schedule", "init_value": 1.0,
        "boundaries_and_scales": {"30": 0.1, "60": 0.5}}}, 100, PARAMS)
    assert [round(float(schedule(s)), 3) for s in (0, 29, 31, 61)] == [1.0, 1.0, 0.1, 0.05]


@pytest.mark.parametrize("options, message", [
    ({"name": "adamm"}, "did you mean 'adam"),
    ({"name": "adamw", "epss": 1}, "no such argument; did you mean 'eps"),
    ({"name": "sgd", "freeze": ["steam/.*"]}, "matches no parameter"),
    ({"name": "sgd", "freeze": ["*bias"]}, "expected a regular expression .*nothing to repeat"),
    ({"name": "sgd", "lr_scale": [["x", 1.0]]}, "matches no"),
    ({"name": "sgd", "learning_rate": "fast"}, "expected a number or a dict"),
    ({"name": "sgd", "learning_rate": {"name": "cosine"}}, "optax has no 'cosine'"),
    ({"name": "sgd", "learning_rate": {"name": "warmup_cosine_decay_schedule", "init_value": 0.0,
                                       "peak_value": 1.0,
                                       "warmup_steps": 200}}, "positive decay_steps"),
    ({"name": "sgd", "learning_rate": {"name": "exponential_decay", "init_value": 1.0}},
     "optax.exponential_decay with .* missing 1 required .*'decay_rate'; .* add a key"),
    ({"name": "sgd", "learning_rate": {"name": "adam", "learning_rate": 1.0}},
     "learning_rate: optax.adam with .*Expected a callable"),
    ({"name": "lbfgs"}, "config.optimizer: optax.lbfgs with no keys: .* missing 3 required "
                        ".*'value', 'grad', and 'value_fn'; it gets these keys, learning rates of "
                        "each step, gradients and parameters: add a key, or use another name$"),
    ({"name": "momo"}, "optax.momo with no keys: .*'value'"),
    ({"name": "dpsgd"}, "optax.dpsgd with no keys: .*'l2_norm_clip'"),
    # it would take the rows of a kernel for examples
    ({"name": "dpsgd", "l2_norm_clip": 1.0, "noise_multiplier": 1.0, "seed": 0}, "optax.dpsgd"),
    ({"name": "rprop"}, "optax.rprop with no keys: .*function"),
    ({"name": "scale_by_schedule"}, "optax.scale_by_schedule is no optimizer"),  # it climbs
    ({"name": "add_decayed_weights"}, "optax.add_decayed_weights is no optimizer"),
    ({"name": "global_norm"}, "optax.global_norm is no optimizer; use adamw, sgd, lion"),
    ({"name": "Schedule"}, "optax has no 'Schedule'")])
def test_bad_options(options, message):
    with pytest.raises(kj.UserError, match=message):
        make_optimizer({"learning_rate": 0.1, **options}, 100, PARAMS)
