"""Detection and segmentation: what is learned from, what is scored, what a user gets back."""
from guarantees.harness import differences, mesh_of, named
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
import pytest

import karpjax as kj
from karpjax.core import metric
from karpjax.core.errors import UserError
from karpjax.core.task_file import build_task, load_task_module
from karpjax.run.evaluator import make_evaluator
from karpjax.sources import augment
from karpjax.sources.letterbox import VOID, fitted, letterbox, letterbox_mask
from karpjax.sources.scenes import scenes
from karpjax.tasks.detect import in_originals
from karpjax.tasks.segment import mean_iou, scores

SCENES = dict(name="scenes", train=64, validation=20, test=20, batch_size=16, size=(64, 64),
              objects=5)


def task_of(name: str, **overrides):
    """Return a task of the registry, and fresh variables."""
    config, _ = config_of(name, **overrides)
    task = build_task(config, load_task_module(name)[0])
    return task, task.init(jax.random.key(0))


# ------------------------------------------------------------------------------------------- scenes

@pytest.mark.full
def test_scenes_are_functions_of_their_numbers():
    """A scene has exact boxes, and its mask has each digit's pixels in its box and nowhere else."""
    source = scenes(SCENES, masks=True)
    boxes = scenes(SCENES)
    raw = source.rows("test", range(20))
    seen, there = source.preprocess(raw), boxes.preprocess(raw)
    np.testing.assert_array_equal(seen["image"], there["image"])
    mask = np.asarray(seen["mask"])
    assert there["valid"].sum() > 20 and (np.asarray(there["valid"]).sum(1) == 0).any()
    for i in range(20):
        inked = np.zeros((64, 64), bool)
        for (x1, y1, x2, y2), label, valid in zip(*(np.asarray(there[name][i]) for name in (
                "boxes", "labels", "valid")), strict=True):
            if valid:
                inside = mask[i, int(y1):int(y2), int(x1):int(x2)] == label
                assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()
                inked[int(y1):int(y2), int(x1):int(x2)] |= inside
        np.testing.assert_array_equal(mask[i] != 10, inked)
    again = scenes(SCENES).preprocess(raw)
    np.testing.assert_array_equal(again["image"], there["image"])
    other = source.preprocess(source.rows("validation", range(20)))
    assert np.abs(np.asarray(other["image"]) - np.asarray(seen["image"])).max() > 0.5


@pytest.mark.parametrize("change, says", [
    (dict(objects=10), "config.data.objects = 10: expected 1 to 9, the cells of 21 pixels"),
    (dict(size=64), r"config.data.size: expected \(H, W\), found 64"),
    (dict(sizes=1), "config.data.*sizes")])
def test_scenes_refuse(change, says):
    with pytest.raises(UserError, match=says):
        scenes({**SCENES, **change})


# ---------------------------------------------------------------------------------------- letterbox

@pytest.mark.parametrize("size", [(40, 60), (60, 40), (128, 256), (7, 50), (64, 80)])
def test_a_letterbox_is_undone(size):
    """A box that is drawn in a picture lies where the scales say, and goes back to its place."""
    image = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = box = np.array([size[1] // 5, size[0] // 4, size[1] // 2, size[0] * 3 // 4])
    image[y1:y2, x1:x2] = 255
    boxed, scale = letterbox(image, (64, 80), np.array([9, 8, 7], np.uint8))
    H, W = fitted(size, (64, 80))
    assert (boxed[H:] == [9, 8, 7]).all() and (boxed[:, W:] == [9, 8, 7]).all()
    assert max(H / 64, W / 80) == 1 and abs(W / H - size[1] / size[0]) < 0.2 * size[1] / size[0]
    rows, columns = (boxed[:H, :W, 0] > 127).any(1), (boxed[:H, :W, 0] > 127).any(0)
    found = [columns.argmax(), rows.argmax(), W - columns[::-1].argmax(), H - rows[::-1].argmax()]
    np.testing.assert_allclose(found, box * np.tile(scale, 2), atol=1.01)
    rows = {"boxes": np.float32([[box * np.tile(scale, 2)]]).reshape(1, 1, 4), "scale": scale[None],
            "labels": np.array([[3]]), "valid": np.ones((1, 1)), "crowd": np.zeros((1, 1))}
    np.testing.assert_allclose(in_originals(rows, scale[None])[0]["boxes"][0], box, rtol=1e-5)


def test_masks_are_scaled_by_the_nearest():
    """Between classes 0 and 4 lie no classes 1 to 3. The margin has no class."""
    mask = np.zeros((30, 30), np.uint8)
    mask[:, 15:] = 4
    scaled = letterbox_mask(mask, (64, 80))
    assert set(np.unique(scaled)) == {0, 4, VOID} and (scaled[:, 64:] == VOID).all()
    between = np.asarray(Image.fromarray(mask).resize((64, 64), Image.Resampling.BILINEAR))
    assert {1, 2, 3} & set(np.unique(between))                                     # the mutant


@pytest.mark.parametrize("name", ["flip", "pad_crop", "mixup"])
def test_augmentations_that_move_the_picture_alone_are_refused(name):
    with pytest.raises(UserError, match=f"config.augment: {name} moves the picture alone"):
        augment.check_moves([dict(name=name)])


# ------------------------------------------------------------------------------------- segmentation

@pytest.mark.full
def test_void_is_no_class():
    """Pixels without a class change neither the loss nor a score, whatever is predicted there."""
    task, variables = task_of("segment")
    batch = task.source.preprocess(jax.tree.map(
        jnp.asarray, next(task.source.eval_batches("validation"))))
    mask = jnp.where(batch["mask"] == 3, VOID, batch["mask"])
    junk = jnp.where(batch["mask"] == 3, VOID - 1, batch["mask"])
    voids, other = (jax.jit(task.evaluate)(variables, {**batch, "mask": m}) for m in (mask, junk))
    whole = jax.jit(task.evaluate)(variables, batch)
    n = float(((batch["mask"] != 3) * batch["weight"][:, None, None]).sum())
    assert float(voids["loss"][1]) == n < float(whole["loss"][1])
    np.testing.assert_array_equal(voids["confusion"].array, other["confusion"].array)
    np.testing.assert_allclose(voids["loss"][0], other["loss"][0], rtol=1e-6)
    expected = np.asarray(whole["confusion"].array).copy()
    assert expected[3].sum() > 0
    expected[3] = 0
    np.testing.assert_array_equal(voids["confusion"].array, expected)


def test_scores_by_hand():
    """A class that is in no truth is nan and not in the mean, even where it is predicted."""
    confusion = np.array([[6, 2, 0], [1, 3, 4], [0, 0, 0]])
    found = scores(confusion, ["a", "b", "c"])
    assert found["IoU_by_class"]["a"] == 6 / 9 and found["IoU_by_class"]["b"] == 3 / 10
    assert np.isnan(found["IoU_by_class"]["c"])
    assert found["mIoU"] == pytest.approx((6 / 9 + 3 / 10) / 2)
    assert found["pixel_accuracy"] == 9 / 16
    value, there = mean_iou(jnp.asarray(np.stack([confusion, 0 * confusion])))
    np.testing.assert_allclose(value, [(6 / 9 + 3 / 10) / 2, 0], rtol=1e-6)
    np.testing.assert_array_equal(there, [True, False])


@pytest.mark.full
def test_the_score_of_a_split_is_that_of_all_its_pixels():
    """It is of one confusion matrix, and another number than the mean over pictures."""
    task, variables = task_of("segment")
    metrics = make_evaluator(task, mesh_of(1))(variables, "validation")
    rows = task.source.preprocess(task.source.rows("validation", range(45)))
    predicted = np.asarray(jax.jit(task.predict)(variables, rows["image"]).argmax(-1))
    truth, K = np.asarray(rows["mask"]), 11
    cells = np.bincount(truth.ravel() * K + predicted.ravel(), minlength=K * K).reshape(K, K)
    expected = scores(cells, task.source.class_names)
    for name in ("mIoU", "pixel_accuracy"):
        assert metrics[name] == expected[name]
    assert metrics["mIoU_of_pictures"] > 2 * metrics["mIoU"] > 0


def test_forty_million_pixels_in_one_count():
    """A batch counts in 32 bits and a split in 64. Floats would stop at 2^24, 16.8 million."""
    n = 40_000_000
    pixels = jnp.zeros(n, jnp.int32)
    counts = jax.jit(lambda x: metric.confusion(x, x, jnp.ones(n), 2))(pixels)
    assert counts.array.tolist() == [[n, 0], [0, 0]]
    split = None
    for _ in range(60):
        split = metric.added(split, counts)
    assert split.array.tolist() == [[60 * n, 0], [0, 0]] and 60 * n > 2**31
    assert jax.jit(lambda x: jnp.zeros(2).at[x].add(1.0))(pixels)[0] == 2**24     # the mutant


def test_segments_are_as_large_as_the_picture(tmp_path):
    """Predicted at the size of the letterbox, given back at that of the picture."""
    task, variables = task_of("segment")
    files = []
    for i, size in enumerate([(30, 64), (100, 80), (64, 64)]):
        files.append(tmp_path / f"{i}.png")
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(files[-1])
    found = task.methods["segment"](variables, files)
    assert [each.shape for each in found] == [(30, 64), (100, 80), (64, 64)]
    images, _, _ = task.source.letterbox(files[2:])
    prepared = task.source.preprocess({"image": jnp.asarray(images)})
    logits = task.predict(variables, prepared["image"])
    np.testing.assert_array_equal(found[2], logits.argmax(-1)[0])
    # The margin of the first is below its 30 rows, and is no part of what is scaled back.
    images, _, _ = task.source.letterbox(files[:1])
    prepared = task.source.preprocess({"image": jnp.asarray(images)})
    logits = task.predict(variables, prepared["image"])
    np.testing.assert_array_equal(found[0], logits[0, :30].argmax(-1))


# ---------------------------------------------------------------------------------------- detection

@pytest.mark.full
def test_padded_rows_have_no_detections():
    """The last batch is padded with copies: the truth and what is found have a row a picture."""
    task, variables = task_of("detect")
    measured = make_evaluator(task, mesh_of(1)).measure(variables, "validation")
    assert measured.rows["found"]["boxes"].shape == (45, 100, 4)
    assert measured.rows["truth"]["boxes"].shape == (45, 4, 4)
    rows = task.source.preprocess(task.source.rows("validation", range(45)))
    np.testing.assert_array_equal(measured.rows["truth"]["labels"], rows["labels"])


def test_detections_are_in_the_pictures_own_pixels(tmp_path):
    """The same scene, in a picture of twice the size, has boxes of twice the size."""
    task, variables = task_of("detect", **{"score": 0.0})
    scene = task.source.pixels(task.source.preprocess(task.source.rows("test", [0]))["image"])[0]
    twice = np.rint(255 * scene).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    once, _ = letterbox(twice, scene.shape[:2], 0)           # what the network sees of both
    for name, picture in (("once", once), ("twice", twice)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    once, twice = task.methods["detect"](
        variables, [tmp_path / "once.png", tmp_path / "twice.png"], score=0.0)
    assert len(once["boxes"]) > 10 and once["names"][0] in map(str, range(10))
    np.testing.assert_allclose(twice["boxes"], 2 * once["boxes"], rtol=1e-6)
    np.testing.assert_array_equal(twice["scores"], once["scores"])
    assert task.methods["detect"](variables, [tmp_path / "once.png"], score=1.0)[0]["names"] == []


def test_scores_are_in_the_pictures_own_pixels():
    """A detection of 20 x 20 in a picture of half the size is one of 40 x 40, of medium size.

    The mutants divide neither, or one of truth and detections.
    """
    config, _ = config_of("detect")
    task = build_task(config, load_task_module("detect")[0])
    right, wrong = [10, 10, 30, 30], [40, 40, 60, 60]
    rows = {"found": {"boxes": np.float32([[wrong, right]]), "scores": np.float32([[0.9, 0.5]]),
                      "labels": np.array([[3, 3]])},
            "truth": {"boxes": np.float32([[right]]), "labels": np.array([[3]]),
                      "valid": np.ones((1, 1)), "crowd": np.zeros((1, 1)),
                      "area": np.float32([[1600]]), "scale": np.float32([[0.5, 0.5]])}}
    metrics = task.summarize({}, rows)
    assert metrics["AP"] == metrics["AP_medium"] == pytest.approx(0.5)
    whole = {"found": rows["found"], "truth": {**rows["truth"], "scale": np.ones((1, 2))}}
    assert task.summarize({}, whole)["AP_medium"] == pytest.approx(1)


@pytest.mark.full
def test_a_micro_batch_without_objects():
    """Its losses are divided by the whole batch's objects, as one big batch's are."""
    config, _ = config_of("detect", exact=True)
    task = build_task(config, load_task_module("detect")[0])
    batch = {**task.source.preprocess(task.source.rows("train", range(16))),
             "weight": np.ones(16, np.float32)}
    batch["valid"] = np.array(batch["valid"])
    batch["valid"][::4] = 0                      # the first of four micro-batches: every fourth row
    after, sgd = {}, optax.sgd(0.1)
    for k in (1, 4):
        state = kj.TrainState.create(task.init(jax.random.key(0)), sgd, jax.random.key(1))
        step = jax.jit(kj.make_train_step(task.loss, sgd, accumulate=k))
        after[k] = step(state, batch)
    assert differences(named(after[4][0].params), named(after[1][0].params)) == []
    for name in ("class", "box", "centerness"):
        assert np.isfinite(after[1][1][name]) and after[1][1][name] > 0
        np.testing.assert_allclose(after[4][1][name], after[1][1][name], rtol=1e-5)


# ------------------------------------------------------------------------------------------- models

def made(**options):
    """Return the shapes of a model's outputs."""
    model = kj.models.make_model(options, classes=3)
    return jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0),
                          jnp.zeros((1, 64, 64, 3)))


BACKBONE = dict(name="resnet_cifar", depth=8)


@pytest.mark.parametrize("options, says", [
    (dict(name="fcn", backbone=BACKBONE), "expected a resnet for FCN, found CifarResNet"),
    (dict(name="fcos", backbone=BACKBONE, width=40), "config.model.width = 40: expected a mul"),
    (dict(name="fcos", backbone=BACKBONE, width=32, strides=(4, 16)),
     r"config.model.strides = \(4, 16\): expected each twice the one before"),
    (dict(name="semantic_fpn", backbone=BACKBONE, width=32, strides=(3, 6)),
     "config.model.strides"),
    (dict(name="fcos", backbone="resnet"), "config.model.backbone: expected a dict as of"),
    (dict(name="fcos", backbone=dict(**BACKBONE, classes=7)), "without classes"),
    (dict(name="fcos", backbone=dict(name="cnn")), "expected a network of images with maps")])
def test_bad_models(options, says):
    with pytest.raises(UserError, match=says):
        made(**options)


@pytest.mark.parametrize("size", [(50, 70), (33, 64)])
def test_sizes_that_strides_do_not_divide(size):
    """Each pixel has its logits, and each location of the detector its place in the grid."""
    for name, strides in (("semantic_fpn", (2, 4, 8)), ("fcos", (4, 8))):
        model = kj.models.make_model(dict(name=name, backbone=BACKBONE, width=32, strides=strides),
                                     classes=3)
        outputs, _ = jax.eval_shape(lambda key, x, model=model: model.init_with_output(key, x),
                                    jax.random.key(0), jnp.zeros((1, *size, 3)))
        if name == "fcos":
            assert outputs["sides"].shape == (1, len(model.grid(*size).points), 4)
        else:
            assert outputs.shape == (1, *size, 3)


def test_the_auxiliary_loss_stays_with_frozen_statistics():
    model = dict(name="fcn", backbone=dict(name="resnet", depth=18, dilated=0), auxiliary=True)
    for frozen in (False, True):
        config, _ = config_of("segment", frozen_statistics=frozen)
        with config.unlocked():
            config.model = model
        task = build_task(config, load_task_module("segment")[0])
        batch = jax.eval_shape(lambda t=task: {
            **t.source.preprocess(t.source.rows("train", range(2))), "weight": jnp.ones(2)})
        variables = jax.eval_shape(task.init, jax.random.key(0))
        losses, _, _ = jax.eval_shape(task.loss, variables["params"],
                                      {"batch_stats": variables["batch_stats"]}, batch,
                                      jax.random.key(1))
        assert set(losses) == {"xent", "auxiliary"}
