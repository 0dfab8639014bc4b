"""The tasks that G1 to G9 are proven on: a new task joins every guarantee by one entry here.

Each entry is a config that trains in seconds on any mesh of up to 8 devices, with all that makes a
guarantee hard: dropout, BatchNorm, augmentation, masks, unfinished episodes. The pairs of guarantee
and task are listed in pairs.json, which a test compares.
"""
import dataclasses
import os
import pathlib

import karpjax

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"
CADENCE = dict(steps=12, log_every=1, eval_every=6, save_every=3, keep=2)


@dataclasses.dataclass
class Entry:
    """A config made tiny.

    file      in configs/
    small     overrides that make it tiny, {"model.width": 8}. {data} is the folder of what
              tests/stand_ins.py made
    exact     overrides under which a batch, its micro-batches and its per-device parts give one
              result: no dropout and no statistics across examples (G4, G5). None if the model
              cannot do without
    argument  of the file's get_config
    """
    file: str
    small: dict
    exact: dict | None
    argument: str = ""


TINY_TEXT = {"model.width": 32, "model.layers": 1, "model.heads": 2, "data.batch_size": 16}
TINY_BACKBONE = dict(name="resnet_cifar", depth=8)
TINY_ROLLOUT = {"data.minibatches": 2, "steps_per_dispatch": 4, "data.eval_episodes": 20}
TINY_GAME = {**TINY_ROLLOUT, "data.num_envs": 16, "data.epochs": 2,
             "data.pool.size": 2, "data.pool.every": 1,
             "optimizer.learning_rate.init_value": 1e-4}
TINY_SCENES = {"data.batch_size": 16, "data.validation": 45, "data.test": 45,
               "optimizer.learning_rate.peak_value": 1e-4}
TINY_PICTURES = {"data.dir": "{data}/pictures", "data.batch_size": 16, "data.resize": (12, 12),
                 "data.crop": 8, "data.validation": "train[:30]"}

TASKS = {
    # The first evaluation is the worst: of steps 6, 9 and 12 only `best` keeps step 6 (G2).
    "digits": Entry("digits_cnn.py", {
        "model.width": 4, "data.batch_size": 16, "ema_decay": 0.9,
        "best": "min validation/accuracy"}, None),
    "digits_host": Entry("digits_cnn.py", {
        "model.width": 4, "data.batch_size": 16, "data.on_device": "no"}, None),
    "poly": Entry("poly.py", {"model.width": 4, "data.batch_size": 16}, None),
    # Its best checkpoint is chosen by a metric that is no mean.
    "metric": Entry("metric_example.py", {"model.width": 4, "data.batch_size": 16}, None),
    "airbench": Entry("cifar10_airbench.py", {
        "model.widths": (4, 8, 8), "data.batch_size": 16,
        "augment": [dict(name="alternating_flip"), dict(name="pad_crop", pixels=2, mode="reflect"),
                    dict(name="cutmix", alpha=1.0)],
        # For means over 16 images. Its own rates are for sums over 2,000.
        "optimizer.groups": [
            ["group.*/kernel", dict(name="filter_muon", learning_rate=0.01)],
            [".*", dict(name="sgd", learning_rate=0.01, momentum=0.85, nesterov=True)]]}, None),
    # A document a row. Some are short, so that rows, micro-batches and devices have unequal numbers
    # of masked tokens.
    "masked_text": Entry("imdb_mlm.py", {
        **TINY_TEXT, "model.dropout": 0.1, "data.name": "imdb", "data.train": "train",
        "data.test": "test", "data.validation": "train[:50]"}, {"model.dropout": 0.0}),
    # Documents that share rows: segments, positions that begin again. Nearly all is to be masked
    # but the special tokens, of which a row has few or many: unequal numbers again.
    "packed_text": Entry("imdb_mlm.py", {**TINY_TEXT, "mask_rate": 0.95}, {}),
    # Each token predicts the next: of documents that share rows, and of windows of one long text.
    "causal_text": Entry("gpt_bpe.py", {**TINY_TEXT, "model.dropout": 0.1},
                         {"model.dropout": 0.0}),
    "causal_windows": Entry("gpt_shakespeare.py", {**TINY_TEXT, "data.length": 256}, {}),
    # Its best checkpoint is that of the highest BLEU, of translations that the model makes. Pairs
    # of many lengths share rows: micro-batches and devices have unequal numbers of tokens.
    "translate": Entry("translate_multi30k.py", {**TINY_TEXT, "model.dropout": 0.1, "beams": 2},
                       {"model.dropout": 0.0}),
    # Pictures with no, few or many objects, a pyramid, and a score over the whole split that is no
    # mean. 45 pictures: no batch divides them. Of a ResNet's millions of activations some would be
    # so near ReLU's kink that rounding moves them across, and a gradient jumps.
    "detect": Entry("detect_scenes.py", {
        **TINY_SCENES, "model.backbone": dict(name="vit", patch=16, width=16, layers=1, heads=2),
        "model.width": 32, "model.depth": 1, "model.strides": (8, 16),
        "data.size": (48, 48), "data.objects": 4,
        "augment": [dict(name="scale_jitter", size=(48, 48), scale=(0.8, 1.2))]}, {}),
    # On a ResNet, but trained on few pixels.
    "segment": Entry("segment_scenes.py", {
        **TINY_SCENES, "model.backbone": TINY_BACKBONE, "model.width": 32,
        "augment": [dict(name="scale_jitter", size=(24, 24), scale=(0.8, 1.2))]},
        {"frozen_statistics": True}),
    # Noise, times and dropped classes are keyed. Gates begin at 0, and open within a few steps.
    "flow": Entry("flow_digits.py", {
        "model.width": 16, "model.layers": 1, "model.heads": 2, "model.dropout": 0.1,
        "data.batch_size": 16}, {"model.dropout": 0.0}),
    "classify_text": Entry("imdb_sentiment.py", {**TINY_TEXT, "model.drop_path": 0.1},
                           {"model.dropout": 0.0, "model.drop_path": 0.0}),
    "masked_image": Entry("cifar10_mae.py", {
        "model.patch": 8, "model.width": 16, "model.layers": 1, "model.decoder_width": 8,
        "model.decoder_layers": 1, "data.batch_size": 16}, {}),
    "vit": Entry("cifar10_vit.py", {
        "model.patch": 8, "model.width": 16, "model.layers": 2, "model.dropout": 0.1,
        "data.batch_size": 16}, {"model.dropout": 0.0, "model.drop_path": 0.0}),
    # Another project's file, for another number of classes, under BatchNorm. A small rate and
    # little momentum: a sum of gradients that cancel keeps the rounding of each.
    "finetune": Entry("finetune_imagefolder.py", {
        **TINY_PICTURES, "model.depth": 8, "init_from": "{data}/resnet8.npz",
        "optimizer.learning_rate": 1e-3, "optimizer.momentum": 0.5,
        "augment": [dict(name="random_resized_crop", size=8), dict(name="flip")]},
        {"frozen_statistics": True}, argument="resnet20_cifar"),
    # LoRA on a checkpoint that was made of another project's file.
    "lora": Entry("finetune_imagefolder.py", {
        **TINY_PICTURES, "init_from": "{data}/vit",
        "augment": [dict(name="random_resized_crop", size=8)]}, {}, argument="lora"),
    "reinforce": Entry("reinforce_cartpole.py", {
        **TINY_ROLLOUT, "model.width": 16, "data.num_envs": 16, "data.num_steps": 32,
        "env.max_steps": 20, "baseline": True, "optimizer.learning_rate.init_value": 1e-3}, {}),
    # Episodes of 20 steps that are terminated, and rollouts of 8: most of them end in the middle of
    # an episode.
    "a2c": Entry("a2c_cartpole.py", {
        "model.width": 16, "data.num_envs": 16, "env.max_steps": 20, "steps_per_dispatch": 4,
        "data.eval_episodes": 20}, {}),
    # Gaussian actions, truncation, observations and rewards normalised: the source's state is the
    # network's input. Wide enough that fsdp splits the parameters. A short horizon: advantages are
    # small differences of returns, and of returns of -20 rounding leaves 1e-6.
    "ppo": Entry("ppo_reacher.py", {
        **TINY_ROLLOUT, "model.width": 32, "value_clip": 0.2, "discount": 0.5, "gae_lambda": 0.5,
        "data.num_steps": 16, "data.normalize": ("obs", "reward"), "data.epochs": 2,
        "env.max_steps": 10, "optimizer.learning_rate.init_value": 1e-4}, {}),
    # A game against itself and a pool, whose snapshots are in the source's state: other rollouts,
    # other opponents. Its game is the smallest there is, as compiling Pgx's takes twice the time:
    # those are alphazero's.
    "self_play": Entry("../tests/nim.py", {**TINY_GAME, "data.num_steps": 16}, {}),
    "alphazero": Entry("tic_tac_toe.py", {
        **TINY_GAME, "model.width": 16, "data.num_steps": 8, "simulations": 4}, {}),
    "imitate": Entry("connect_four_supervised.py", {
        "model.width": 8, "data.file": "{data}/games.npz", "data.batch_size": 16,
        "steps_per_dispatch": 4, "optimizer.learning_rate.init_value": 1e-3}, {}),
}


def config_of(name: str, exact: bool = False, **overrides):
    """Return (config, task file) of a task, as `karpjax.load_config` does.

    overrides  by path, as mesh={"data": 1} or **{"optimizer.clip": 0.5}
    """
    entry = TASKS[name]
    changes = {**CADENCE, **entry.small, **((entry.exact or {}) if exact else {}), **overrides}
    changes = {key: with_data(value) for key, value in changes.items()}
    config, task_file = karpjax.load_config(f"{CONFIGS / entry.file}:{entry.argument}", changes)
    with config.unlocked():
        # Adam divides by the size of a gradient: where that is rounding noise, so is the update,
        # and no two orders of summation agree. A larger epsilon keeps noise noise.
        if "adam" in config.optimizer.get("name", ""):
            config.optimizer.eps = 1e-3
        if "warmup_steps" in str(config.optimizer.get("learning_rate", "")):
            config.optimizer.learning_rate.warmup_steps = 2
    return config, {**task_file, "path": f"configs/{entry.file}"}


def with_data(value):
    """Replace {data} in a text by the folder of what tests/stand_ins.py made."""
    return value.replace("{data}", os.environ["TFDS_DATA_DIR"]) if isinstance(value, str) else value
