"""The networks and prompts that all workers of the study share, without PyTorch."""
import numpy as np

# GPT-2's form: prompts of 32 tokens, samples of 128 by temperature 1 and top-k 50
GPT = dict(layers=4, width=256, heads=4, vocabulary=8192, prompt=32, new=128)
CASES = {"one text": dict(GPT, batch=1), "16 texts": dict(GPT, batch=16)}
QUICK = {"quick": dict(layers=2, width=16, heads=2, vocabulary=40, prompt=4, new=8, batch=2)}
TOP_K = 50


def context(case: dict) -> int:
    """Return the length of a prompt and its continuation."""
    return case["prompt"] + case["new"]


def prompts(case: dict) -> np.ndarray:
    """Return (B, P) random tokens. The last id is the end token, which no prompt holds."""
    rng = np.random.default_rng(1)
    return rng.integers(0, case["vocabulary"] - 1, (case["batch"], case["prompt"]), np.int32)


def model_of(case: dict):
    """Return karpjax's network."""
    import karpjax as kj
    return kj.models.make_model(
        dict(name="causal_lm", layers=case["layers"], width=case["width"], heads=case["heads"],
             context=context(case), **kj.models.GPT2), vocabulary=case["vocabulary"])
