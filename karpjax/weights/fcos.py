"""FCOS: torchvision's names, with any backbone that has names of its own.

The published file of fcos_resnet50_fpn has an output for each of COCO's ids, 0 to 90, of which
eleven are no class. Those are left out, so that classes have the numbers that `prepare
--format=coco` gives them.
"""
import math

import numpy as np

from karpjax.weights.names import CONV, NORM, parts_of

IDS, GAPS = 91, (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
# By id; two words are joined by "_" here.
COCO = [name.replace("_", " ") for name in """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange
broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop
mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors
teddy_bear hair_drier toothbrush""".split()]


def behind(ours: str, theirs: str, table: list) -> list:
    """Return a network's rows behind prefixes of ours and theirs, without its head."""
    rows = []
    for our, their, layout in table:
        parts = tuple(f"{theirs}.{part}" if part else theirs for part in parts_of(their))
        if our != "head":
            rows.append((f"{ours}/{our}" if our else ours, parts, layout))
    return rows


def head(ours: str, theirs: str) -> list:
    """Return the rows of a head's convolutions: theirs stand in one list with norms and ReLUs."""
    rows = []
    for i in range(4):
        rows += [(f"{ours}/conv{i}", f"{theirs}.conv.{3 * i}", CONV),
                 (f"{ours}/norm{i}", f"{theirs}.conv.{3 * i + 1}", NORM)]
    return rows


def table(backbone: list, strides) -> list:
    """Return the rows of a detector on a backbone, whose rows these are, with a pyramid's strides.
    """
    rows = behind("backbone", "backbone.body", backbone)
    for i, stride in enumerate(strides):
        rows += [(f"pyramid/inner{stride}", f"backbone.fpn.inner_blocks.{i}.0", CONV),
                 (f"pyramid/layer{stride}", f"backbone.fpn.layer_blocks.{i}.0", CONV),
                 (f"pyramid/extra{stride}",
                  f"backbone.fpn.extra_blocks.p{int(math.log2(stride))}", CONV)]
    return [*rows,
            *head("class_head", "head.classification_head"),
            ("class_head/class",      "head.classification_head.cls_logits",  CONV),
            *head("side_head", "head.regression_head"),
            ("side_head/sides",       "head.regression_head.bbox_reg",        CONV),
            ("side_head/centerness",  "head.regression_head.bbox_ctrness",    CONV)]


def without_gaps(theirs: dict) -> tuple[dict, list[str]]:
    """Return a file's arrays without outputs for ids that are no class, and a line about them."""
    names = [f"head.classification_head.cls_logits.{leaf}" for leaf in ("weight", "bias")]
    if any(len(theirs.get(name, ())) != IDS for name in names):
        return theirs, []
    kept = {name: np.delete(theirs[name], GAPS, axis=0) for name in names}
    return {**theirs, **kept}, [f"{IDS - len(GAPS)} classes of COCO's {IDS} ids, without the "
                                f"{len(GAPS)} that have no name"]
