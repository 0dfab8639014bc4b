"""Pretrained weights on pictures of your own: a folder of train/CLASS/*.jpg and test/CLASS/*.jpg.

    python -m karpjax.convert --from=resnet50.pth --arch=resnet50 --to=runs/resnet50
                                                              # once: a published file
    python -m karpjax.train --config=configs/finetune_imagefolder.py \\
        --config.init_from=runs/resnet50 --config.data.dir=DIR --workdir=runs/mine

Architecture, mean and std are those of the weights, and the head is reinitialised for your classes.
The recipe is the usual one: RandomResizedCrop(224) and flips, SGD of rate 0.01 and momentum 0.9,
cross-entropy. The loss is logged every 100 batches. The accuracy is that at the end, on the middle
224 x 224 of 256 x 256. (Crops are taken from the middle square of a picture, not from all of it.)
The best choices for a few hundred pictures, beside a linear probe: experiments/finetune.

    --config.frozen_statistics=True        # for few pictures: BatchNorm keeps its statistics
    --config.optimizer.clip=1.0 --config.optimizer.learning_rate=0.002
                                           # with it: unclipped, some seeds diverged
    --config.optimizer.freeze='("(?!head/).*",)'
                                           # with it: the backbone frozen, a linear probe
    --config.optimizer.lr_scale='(("head/.*",10.0),)'    # the head learns ten times as fast
    --config.data.validation='train[80%:]' --config.data.train='train[:80%]'
    --config=configs/finetune_imagefolder.py:resnet50    # a ResNet: init_from may be its file

A vision transformer by LoRA (karpjax/models/layers/transformer.py):
--config=configs/finetune_imagefolder.py:lora
"""
import karpjax
from karpjax.weights.archs import find_arch


def get_config(arch=""):
    model, recipe = {}, {}
    optimizer = dict(name="sgd", learning_rate=0.01, momentum=0.9, freeze=())
    if arch == "lora":
        model = dict(lora=8)
        optimizer = dict(name="adamw", learning_rate=1e-3, weight_decay=0.0,
                         freeze=("(?!head)(?!.*lora_).*",))
    elif arch:
        known = find_arch(arch)
        if known.shapes:
            raise karpjax.UserError(f"finetune_imagefolder.py:{arch}: the sizes of a {arch} stand "
                                    "in its file; make a checkpoint of it with python -m "
                                    "karpjax.convert --from=FILE, and give that in "
                                    "config.init_from")
        model, recipe = dict(known.model), known.recipe
    return karpjax.config(
        task="classify",
        steps=500,
        model=model,
        data=dict(dir="", train="train", validation="", test="test", batch_size=32,
                  resize=(256, 256), crop=224, **recipe),
        augment=[dict(name="random_resized_crop", size=224), dict(name="flip")],
        init_from="",
        init_skip=(),
        frozen_statistics=False,
        optimizer={**optimizer, "lr_scale": (), "clip": 0.0},
        log_every=100, eval_every=100, save_every=100,
        best="",
    )
