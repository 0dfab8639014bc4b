"""A restored run inside another run's loss, and a run whose task restores another one."""
import pathlib
import shutil

from guarantees.harness import mesh_of
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.core.task_file import module_from_text
from karpjax.run import loop
from karpjax.run.evaluator import make_evaluator

TEACHER = pathlib.Path(__file__).parent / "data" / "checkpoint_v2"  # of the digits, 0 to 16
STUDENT = '''
from flax import linen as nn
import karpjax as kj
import numpy as np
import optax


def get_config():
    return kj.config(steps=1, eval_every=1, save_every=1, teacher="teacher", model=dict(classes=10),
                     data=dict(batch_size=8), optimizer=dict(name="sgd", learning_rate=0.1))


class Linear(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images, train: bool = False):
        return nn.Dense(self.classes)(images.reshape(len(images), -1))


def build(config):
    teacher = kj.restore(config.teacher)
    rows = {"image": np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1), np.uint8)}
    source = kj.sources.arrays(rows, batch_size=8, splits={"validation": rows}, preprocess=scaled)
    model = Linear(**config.model)

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], key)  # (B, C)
        target = nn.softmax(teacher.apply(batch["image"]))                               # (B, C)
        xent = optax.softmax_cross_entropy(logits, target)                               # (B,)
        return {"xent": kj.mean(xent, batch["weight"])}, {}, model_state
    return kj.Task(model, source, loss)


def scaled(batch):
    return {**batch, "image": (batch["image"].astype("float32") - 4.88) / 6.02}
'''
IMAGES = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1) % 17


def student(workdir, text: str = STUDENT, devices: int = 1, **values) -> dict:
    """Train a student for one step and return its summary."""
    config = module_from_text("student.py", text).get_config()
    config.update_from_flattened_dict(values)
    return loop.fit(config, workdir, task_file={"path": "student.py", "text": text},
                    mesh=mesh_of(devices))


@pytest.fixture(scope="module")
def teacher():
    return kj.restore(TEACHER)


# ----------------------------------------------------------------------------- inputs, raw and not

def accuracy_in_a_loss(teacher, outputs) -> float:
    """Return the accuracy of outputs(preprocessed images), computed by a loss on two devices."""
    def loss(params, model_state, batch, key):
        right = (outputs(batch["image"]).argmax(-1) == batch["label"]).astype("float32")     # (B,)
        return {"right": kj.mean(right, batch["weight"])}, {}, model_state
    task = kj.Task(teacher.model, teacher.task.source, loss)
    return make_evaluator(task, mesh_of(2))(teacher.variables, "validation")["right"]


def test_a_teacher_is_as_good_inside_a_loss(teacher):
    assert accuracy_in_a_loss(teacher, teacher.apply) == pytest.approx(0.99)
    assert teacher.metrics["validation/accuracy"] == 0.99
    with pytest.raises(UserError, match="'image' of uint8, found float32.*call run.apply"):
        accuracy_in_a_loss(teacher, teacher.predict)


def test_normalised_twice_is_another_accuracy(teacher):
    """The mutant: predict without its check."""
    def unchecked(images):
        return teacher.task.outputs(teacher.variables, images)
    assert accuracy_in_a_loss(teacher, unchecked) < 0.5


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_floats_are_not_what_the_data_set_stores(teacher, kind):
    for method in (teacher.predict, teacher.features, teacher.encoded):
        with pytest.raises(UserError, match=f"'image' of uint8, found {kind.__name__}: pixels"):
            method(IMAGES.astype(kind))


def test_stored_pixels_are_not_preprocessed(teacher):
    with pytest.raises(UserError, match="preprocessed 'image' of float32, found uint8; for inputs"):
        teacher.apply(IMAGES)


def test_apply_is_predict_after_preprocessing(teacher):
    prepared = (IMAGES.astype(np.float32) - 4.88) / 6.02
    np.testing.assert_allclose(teacher.apply(prepared), teacher.predict(IMAGES), atol=1e-4)
    logits, features = teacher.apply(prepared, features=True)
    np.testing.assert_allclose(features["pooled"], teacher.features(IMAGES)["pooled"], atol=1e-4)
    np.testing.assert_array_equal(teacher.predict(IMAGES.astype(np.int64)),
                                  teacher.predict(IMAGES))


# ------------------------------------------------------------------------- a run that needs another

@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Return a folder where a student learned from runs/teacher, a path from that folder."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(TEACHER, folder / "teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        student("student", devices=2)
    return folder


def test_a_student_learns_what_its_teacher_says(taught, monkeypatch, teacher):
    monkeypatch.chdir(taught)
    run = kj.restore("student")
    prepared = run.task.source.preprocess(run.task.source.data["validation"])["image"]
    log_p, q = run.apply(prepared), np.asarray(teacher.apply(prepared), np.float64)
    log_p = np.asarray(log_p, np.float64)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    q = np.exp(q) / np.exp(q).sum(-1, keepdims=True)
    assert run.metrics["validation/loss"] == pytest.approx(-(q * log_p).sum(-1).mean(), rel=1e-5)


def test_a_student_needs_no_teacher_elsewhere(taught, tmp_path, monkeypatch):
    monkeypatch.chdir(taught)
    expected = kj.restore("student").predict(IMAGES)
    shutil.copytree(taught / "student", tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    run = kj.restore("student")
    np.testing.assert_array_equal(run.predict(IMAGES), expected)
    with pytest.raises(UserError, match="student: this needs the run that its task restores, "
                                        f"'teacher', which is not here: put it at {tmp_path}"):
        make_evaluator(run.task, mesh_of(1))(run.variables, "validation")


def test_training_needs_its_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path}/teacher: no checkpoint here"):
        student("student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("line, message", [
    ("import my_layers", "its task file imports what is not here (No module named 'my_layers')"),
    ("open('codes.npy')", "its task file reads 'codes.npy', which is not here; put it there")])
def test_what_else_is_missing(taught, tmp_path, monkeypatch, line, message):
    """A task file may need more than its text: each is named, and the fix."""
    from test_restore import edit_meta
    monkeypatch.chdir(taught)
    shutil.copytree("student", tmp_path / "student")

    def needy(meta):
        text = f"{meta['task']['text']}\n{line}\n"
        return {**meta, "task": {**meta["task"], "text": text}}
    edit_meta(tmp_path / "student", 1, needy)
    with pytest.raises(UserError) as error:
        kj.restore(tmp_path / "student")
    assert message in str(error.value) and str(tmp_path / "student") in str(error.value)
