"""Flow matching: the loss by hand, its keys, samples on any devices, scores, refusals."""
import functools
import gc
import pathlib
import weakref

from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
from matplotlib.image import imread
import numpy as np
import pytest

import karpjax as kj
from karpjax import generate as generate_command
from karpjax.core.task_file import build_task, load_task_module
from karpjax.generation import pictures
from karpjax.generation.pictures import Sampler, table, to_bytes
from karpjax.run.evaluator import make_evaluator
from karpjax.tasks import flow

DIGITS = pathlib.Path(__file__).parent / "data" / "checkpoint_v2"  # a classifier of the digits


def task_of(**changes):
    """Return the task and its variables, whose network returns 0 everywhere."""
    config, _ = config_of("flow", **changes)
    task = build_task(config, load_task_module("flow")[0])
    return task, task.init(jax.random.key(0))


def evaluated(task, variables):
    batch = task.source.preprocess({**task.source.rows("validation", range(32)),
                                    "index": np.arange(32, dtype=np.uint32),
                                    "weight": np.ones(32, np.float32)})
    losses, _, _ = jax.jit(task.loss)(variables["params"], {}, batch, None)
    return batch, float(losses["flow"][0] / losses["flow"][1])


@pytest.mark.parametrize("target", ["picture", "velocity"])
def test_the_loss_of_a_network_that_returns_0(target):
    """Its error is x1 - x0 as a velocity; as a picture, (x1 - z) / (1 - t), but for late times."""
    task, variables = task_of(target=target)
    batch, found = evaluated(task, variables)
    x1 = np.asarray(batch["image"])
    assert -1 <= x1.min() < -0.9 and 0.9 < x1.max() <= 1
    noisy = [flow.add_noise((0.0, 1.0), {"image": image}, jax.random.fold_in(jax.random.key(0), i))
             for i, image in enumerate(x1)]
    x0, t = (np.stack([each[name] for each in noisy]) for name in ("noise", "t"))
    time = t[:, None, None, None]
    z = (1 - time) * x0 + time * x1
    np.testing.assert_allclose((x1 - z) / (1 - time), x1 - x0, atol=1e-4)   # the same velocity
    wanted = x1 - x0 if target == "velocity" else (x1 - z) / np.maximum(1 - time, 0.05)
    off = wanted if target == "velocity" else wanted + z / np.maximum(1 - time, 0.05)
    assert found == pytest.approx((off**2).mean(), rel=1e-5)


def test_noise_is_each_examples_own():
    """Times and noise are drawn an example, not a batch."""
    task, _ = task_of()
    source = task.source
    arrays = source.arrays
    state, chunk = source.advance(arrays, source.init(jax.random.key(0)), {})
    batch = source.batch(arrays, chunk, 0)
    assert len(np.unique(batch["t"])) == len(batch["t"]) == 16
    assert batch["noise"].shape == batch["image"].shape == (16, 8, 8, 1)
    assert not np.array_equal(batch["noise"][0], batch["noise"][1])


def test_classes_are_dropped_in_training_alone():
    task, _ = task_of(**{"no_class": 0.5, "data.batch_size": 64})
    source = task.source
    _, chunk = source.advance(source.arrays, source.init(jax.random.key(0)), {})
    labels = np.concatenate([source.batch(source.arrays, chunk, i)["label"]
                             for i in range(source.steps_per_chunk)])
    assert 0.3 < (labels == 10).mean() < 0.7 and labels.max() == 10
    assert source.rows("validation", range(32))["label"].max() < 10


def moved(variables):
    """Return variables of a network that returns more than 0."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return jax.tree.unflatten(tree, [leaf + 0.2 * jax.random.normal(key, leaf.shape)
                                     for leaf, key in zip(leaves, keys, strict=True)])


def test_a_sample_is_the_same_in_any_company():
    """Of three pictures, of 70 among other classes, and drawn two at a time in another order."""
    task, variables = task_of()
    generate, variables = task.methods["generate"], moved(variables)
    few = generate(variables, n=3, label=4, steps=3)
    labels = np.arange(70) % 10
    labels[:3] = 4
    many = generate(variables, n=70, label=labels, steps=3)
    assert few.shape == (3, 8, 8, 1) and few.dtype == np.uint8
    np.testing.assert_array_equal(few, many[:3])
    assert not np.array_equal(many[64:], generate(variables, n=6, label=labels[64:], steps=3))
    sampler, some = generate.__self__, np.array([66, 1], np.uint32)
    drawn = jax.jit(functools.partial(sampler.draw, steps=3))(
        variables, jax.random.key(0), some, labels[some].astype(np.int32))
    assert np.abs(to_bytes(np.asarray(drawn)).astype(int) - many[some]).max() <= 1
    assert not np.array_equal(few, generate(variables, n=3, label=5, steps=3))
    assert not np.array_equal(few, generate(variables, n=3, label=4, steps=3, seed=1))
    assert not np.array_equal(few, generate(variables, n=3, label=4, steps=3, guidance=3.0))


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("steps", [5, 100])
def test_a_perfect_network_arrives(method, steps):
    """Samples of one that knows the picture are that picture, without a rest of noise."""
    picture = jnp.linspace(-1, 1, 64).reshape(8, 8, 1)

    def velocity(variables, x, t, label):
        return flow.towards(picture, x, t)
    sampler = Sampler(velocity, (8, 8, 1), classes=10, knows_none=True)
    made = sampler.draw({}, jax.random.key(0), jnp.arange(4), jnp.zeros(4, int), steps=steps,
                        method=method)
    np.testing.assert_allclose(made, jnp.broadcast_to(picture, made.shape), atol=1e-4)


def test_dropout_is_off_in_samples():
    task, variables = task_of(**{"model.dropout": 0.9})
    generate, variables = task.methods["generate"], moved(variables)
    without, _ = task_of(**{"model.dropout": 0.0})
    np.testing.assert_array_equal(generate(variables, n=2, steps=2),
                                  without.methods["generate"](variables, n=2, steps=2))


def test_pictures_to_look_at():
    """Samples, their path from noise on, and at each one's right the training picture nearest."""
    task, variables = task_of()
    shown = task.show(moved(variables), {})
    n, steps = 10 * pictures.EACH, pictures.SHOWN["steps"]
    labels = np.repeat(np.arange(10), pictures.EACH)
    made = task.methods["generate"](moved(variables), n, labels, guidance=2.0)
    np.testing.assert_array_equal(shown["samples.png"], table(made, pictures.EACH))
    frames = shown["trajectory.gif"]
    np.testing.assert_array_equal(frames[steps // 2], shown["samples.png"])
    assert len(frames) == steps + 2 and not np.array_equal(frames[0], frames[-1])
    pairs = untabled(shown["nearest.png"], pictures.EACH, 8, 16)[..., 0]             # (n, 8, 16)
    np.testing.assert_array_equal(pairs[..., :8], made[..., 0])
    data = to_bytes(np.asarray(task.source.preprocess(
        {"image": task.source.rows("train", range(1297))["image"]})["image"]))[..., 0]
    assert all((data == right).all((1, 2)).any() for right in pairs[..., 8:])


def untabled(shown, columns: int, H: int, W: int) -> np.ndarray:
    """Return the pictures of a table (N, H, W, 3), of bytes."""
    side = (shown.shape[1] + pictures.GAP) // columns               # of a picture and its gap
    times = (side - pictures.GAP) // W
    rows = (shown.shape[0] + pictures.GAP) // (H * times + pictures.GAP)
    corners = [(r * (H * times + pictures.GAP), c * side) for r in range(rows)
               for c in range(columns)]
    return np.stack([(shown[y:y + H * times:times, x:x + W * times:times] * 255).round()
                     for y, x in corners])


def test_the_nearest_training_picture():
    """Of two noisy copies, in other blocks of the data, it is the original."""
    task, _ = task_of()
    some = [5, pictures.BLOCK + 40]
    original = np.asarray(task.source.preprocess(
        {"image": task.source.rows("train", some)["image"]})["image"])
    noisy = original + 0.05 * np.random.default_rng(0).standard_normal(original.shape)
    np.testing.assert_array_equal(pictures.nearest_training(task.source, noisy), original)


def test_a_sampler_is_not_kept():
    task, variables = task_of()
    sampler = task.methods["generate"].__self__
    sampler.generate(variables, n=1, steps=1)
    gone = weakref.ref(sampler)
    del task, sampler
    gc.collect()
    assert gone() is None


def test_the_command(tmp_path, capsys):
    config, task_file = config_of("flow", steps=3)
    kj.fit(config, tmp_path / "run", task_file=task_file)
    capsys.readouterr()
    given = [f"--workdir={tmp_path / 'run'}", "--steps=2"]
    generate_command.main([*given, "--n=5", "--label=3", f"--to={tmp_path / 'five.png'}"])
    assert capsys.readouterr().out == f"5 pictures: {tmp_path / 'five.png'}\n"
    made = kj.restore(tmp_path / "run").generate(n=5, label=3, steps=2)
    shown = (imread(tmp_path / "five.png")[..., :3] * 255).round()
    np.testing.assert_array_equal(shown, (table(made, 3) * 255).round())
    for wrong, said in ([], "--to=... is missing"), ([f"--to={tmp_path}/x.jpg"], "NAME.png"), \
            ([f"--to={tmp_path}/no/x.png"], "no folder"), \
            ([f"--to={tmp_path}/x.png", "--label=10"], "expected a class from 0 to 9"), \
            ([f"--to={tmp_path}/x.png", "--n=0"], "at least one picture"), \
            ([f"--to={tmp_path}/x.png", "--prompt=three"], "--prompt: .* makes pictures"):
        with pytest.raises(kj.UserError, match=said):
            generate_command.main([*given, *wrong])
    assert not (tmp_path / "x.png").exists()


SCORES = {"features": str(DIGITS), "judge": str(DIGITS), "steps": 3, "samples": 2}


def test_scores_on_any_mesh():
    """Of samples on 1 and on 8 devices, in a split that no batch divides."""
    task, variables = task_of(scores=SCORES)
    variables = moved(variables)
    one, eight = (make_evaluator(task, mesh_of(n)).measure(variables, "test") for n in (1, 8))
    count = len(one.rows["made"]["data"])
    assert one.rows["made"]["pictures"].shape == (count, 2, 8, 8, 1) and count % 16
    off = np.abs(one.rows["made"]["pictures"].astype(int) - eight.rows["made"]["pictures"])
    assert off.max() <= 1 and (off > 0).mean() < 1e-3      # of 16 grey levels, at a rounding
    assert {"FD", "precision", "recall", "distance_to_training", "class_agreement"} <= \
        set(one.metrics)
    # On 2 cores no pixel differs, and FD is the same to the bit. One in 1000 that rounds otherwise
    # changes it by 6e-5 of its 105. An FD of 0.03 changes by as much as 1 %, 3e-4.
    assert eight.metrics["FD"] == pytest.approx(one.metrics["FD"], rel=1e-4)
    for name, value in one.metrics.items():
        assert eight.metrics[name] == pytest.approx(value, rel=0.01, abs=0.01), name
    assert one.tables == eight.tables
    assert len(one.tables["scored"].pop("extractor")) == 12
    assert one.tables["scored"].pop("judge") == eight.tables["scored"]["extractor"]
    assert one.tables["scored"] == {"samples": 2 * count, "reference": 1297,
                                    "compared": 2 * count, "features": 32}
    assert "FD" not in make_evaluator(task, mesh_of(1))(variables, "validation")
    # of the same pictures all is the same, wherever they were made
    again = task.summarize(one.totals, one.rows)
    assert all(one.metrics[name] == value for name, value in again.items() if name != "scored")


def test_weights_of_other_networks_are_no_constants():
    """An evaluation's program would hold them once more, and be compiled with them inside."""
    task, variables = task_of(scores=SCORES)
    scored = task.summarize.__self__
    batch = task.source.preprocess({**task.source.rows("test", range(2)),
                                    "index": np.arange(2), "weight": np.ones(2)})
    own = constants(task.evaluate["test"], variables, batch)      # its sines of positions
    pictures = np.zeros((2, 8, 8, 1), np.uint8)
    for network in (scored.extractor, scored.judge):
        weights = sum(leaf.size for leaf in jax.tree.leaves(network.variables))
        assert own < weights / 4 and constants(network.program, network.variables, pictures) == 0
        inside = functools.partial(network.program, network.variables)          # as it was once
        assert constants(inside, pictures) >= weights


def constants(function, *args) -> int:
    """Return the numbers that a function's program holds beside its arguments."""
    return sum(np.size(each) for each in jax.make_jaxpr(function)(*args).consts)


def test_data_itself_scores_best():
    """Training pictures in place of samples: no distance, and nearer than the data ever is."""
    task, variables = task_of(scores={**SCORES, "samples": 1})
    scored = task.summarize.__self__
    n = 200
    seen, data = (scored.source.rows(split, range(n)) for split in ("train", "test"))
    made = {"pictures": seen["image"][:, None], "data": data["image"], "label": seen["label"]}
    copies = scored.summarize({}, {"made": made})
    assert copies["distance_to_training"] == 0 and copies["precision"] > 0.8
    noise = np.random.default_rng(0).integers(0, 17, (n, 1, 8, 8, 1)).astype(np.uint8)
    far = scored.summarize({}, {"made": {**made, "pictures": noise}})
    assert far["FD"] > 10 * copies["FD"] > 0 and far["precision"] < 0.3
    assert far["distance_to_training"] > 1.5
    assert copies["class_agreement"] > 0.8 > 0.3 > far["class_agreement"]


def test_bytes_and_tables():
    """Clipped, then rounded; ten pictures of 2 x 3 in rows of five, enlarged to about 512."""
    np.testing.assert_array_equal(to_bytes(np.array([-3, -1, 0, 0.004, 1, 2])),
                                  [0, 0, 128, 128, 255, 255])
    ten = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 1), np.uint8)
    shown, gap = table(ten, 5), pictures.GAP
    assert shown.shape == (2 * 2 * 34 + gap, 5 * 3 * 34 + 4 * gap, 3)
    np.testing.assert_array_equal(untabled(shown, 5, 2, 3), ten.repeat(3, -1))
    assert shown[68:68 + gap].min() == 1 == shown[:, 102:102 + gap].min()
    last = untabled(table(ten, 4), 4, 2, 3)
    assert len(last) == 12 and last[10:].min() == 255


@pytest.mark.parametrize("arguments, said", [
    (dict(label=10), "label = 10: expected a class from 0 to 9"),
    (dict(n=3, label=[1, 2]), "one for each of 3 pictures"),
    (dict(n=0), "n = 0: expected at least one picture"),
    (dict(guidance=2.0), "guidance = 2.0: expected a label"),
    (dict(steps=0), "steps = 0: expected a whole number of at least 1"),
    (dict(label=[[1], [1, 2]]), "expected a class"),
    (dict(label=1, guidance=2.0, interval=(0.9, 0.1)), "interval = .*a later one"),
    (dict(method="rk4"), "rk4")])
def test_refused_samples(arguments, said):
    task, variables = task_of()
    with pytest.raises(kj.UserError, match=said):
        task.methods["generate"](variables, **arguments)


def test_guidance_of_a_run_that_knows_all_classes():
    task, variables = task_of(no_class=0.0)
    for arguments in (dict(label=1, guidance=2.0), dict()):
        with pytest.raises(kj.UserError, match="config.no_class above 0"):
            task.methods["generate"](variables, **arguments)
    with pytest.raises(kj.UserError, match="config.no_class above 0"):
        task_of(no_class=0.0, scores={**SCORES, "guidance": 2.0})


def test_a_network_that_has_diverged():
    task, variables = task_of()
    with pytest.raises(kj.UserError, match="not finite"):
        task.methods["generate"](jax.tree.map(lambda leaf: leaf * np.nan, variables), steps=2)


@pytest.mark.parametrize("changes, said", [
    ({"target": "noise"}, "config.target"),
    ({"no_class": 1.0}, "config.no_class: expected a share"),
    ({"times": (0.0,)}, "config.times: expected the mean and deviation"),
    ({"augment": [dict(name="mixup", alpha=0.2)]}, "mixup and cutmix mix pictures"),
    ({"model.patch": 3}, "config.model.patch = 3"),
    ({"times": 5}, "config.times: expected the mean and deviation"),
    ({"data.mean": [4.88], "data.std": [6.02]}, "expected pictures in -1 to 1, found -0.8"),
    ({"scores": {"judge": "x"}}, "config.scores: expected one of features .*, found neither"),
    ({"scores": {"extractor": "x"}}, "config.scores.*extractor"),
    ({"scores": {**SCORES, "inception": "x.npz"}}, "found features and inception"),
    ({"scores": {"inception": "x.npz"}}, "of 0 to 255 with 1 or 3 .*found 0 to 16 with 1"),
    ({"scores": {**SCORES, "samples": 0}}, "config.scores.samples = 0"),
    ({"scores": {**SCORES, "steps": 2.5}}, "config.scores.steps = 2.5"),
    ({"scores": {**SCORES, "method": "rk4"}}, "config.scores.method"),
    ({"scores": SCORES, "data.crop": 6}, "expected whole pictures of uint8"),
    ({"scores": SCORES, "data.channels": 3}, "is of pictures")])
def test_refused_configs(changes, said):
    with pytest.raises(kj.UserError, match=said):
        task_of(**changes)
