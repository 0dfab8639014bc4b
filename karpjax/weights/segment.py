"""FCN and DeepLabV3: the names of torchvision's fcn_resnet50 and deeplabv3_resnet50."""
from karpjax.weights import resnet
from karpjax.weights.fcos import behind
from karpjax.weights.names import CONV, NORM

# Pascal VOC's, in the order of its numbers.
VOC = ["background", *"""aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog
horse motorbike person pottedplant sheep sofa train tvmonitor""".split()]


def plain(ours: str, theirs: str) -> list:
    """Return the rows of a plain head."""
    return [(f"{ours}/conv",      f"{theirs}.0", CONV),
            (f"{ours}/conv_norm", f"{theirs}.1", NORM),
            (f"{ours}/logits",    f"{theirs}.4", CONV)]


BACKBONE = behind("backbone", "backbone", resnet.TORCHVISION)
AUXILIARY = plain("auxiliary_head", "aux_classifier")
FCN = [*BACKBONE, *plain("head", "classifier"), *AUXILIARY]
DEEPLAB = [
    *BACKBONE,
    ("head/point",       "classifier.0.convs.0.0",   CONV),
    ("head/point_norm",  "classifier.0.convs.0.1",   NORM),
    *[row for i in (0, 1, 2) for row in (
        (f"head/reach{i}",      f"classifier.0.convs.{i + 1}.0", CONV),
        (f"head/reach{i}_norm", f"classifier.0.convs.{i + 1}.1", NORM))],
    ("head/whole",       "classifier.0.convs.4.1",   CONV),
    ("head/whole_norm",  "classifier.0.convs.4.2",   NORM),
    ("head/join",        "classifier.0.project.0",   CONV),
    ("head/join_norm",   "classifier.0.project.1",   NORM),
    ("head/conv",        "classifier.1",             CONV),
    ("head/conv_norm",   "classifier.2",             NORM),
    ("head/logits",      "classifier.4",             CONV),
    *AUXILIARY,
]
