"""Masked language modelling with an encoder of 1.07 billion parameters, for 256 chips of a TPU v5e.

    python -m karpjax.prepare --format=text --from=DIR --name=web_packed --pack --length=512 \\
        --vocabulary=32768
    python -m karpjax.precompile --config=configs/mlm_1b_v5e256.py --topology=v5e:16x16
                                                                              # first: does it fit?
    python -m karpjax.launch tpu --name=big --type=v5litepod-256 --zone=ZONE \\
        --version=v2-alpha-tpuv5-lite --queued \\
        --config=configs/mlm_1b_v5e256.py --workdir=gs://BUCKET/runs/mlm_1b

In fp32 parameters, gradients and Adam's moments are 17 GB: fsdp splits them over groups of 16
chips. Blocks are computed again in the backward pass (remat), so that a chip holds 8 rows of 512
tokens. It has not been trained: only that it compiles and fits is known
(tests/guarantees/test_g8_tpu.py, and the command above), and the rate is a guess.
"""
import karpjax

LAYERS, WIDTH = 20, 2048


def get_config():
    return karpjax.config(
        task="masked_text",
        steps=100_000,                                       # 105 billion tokens
        model=dict(name="masked_lm", layers=LAYERS, width=WIDTH, heads=16, remat=True),
        data=dict(name="web_packed", train="train[:99%]", validation="train[99%:]", test="",
                  batch_size=2048),
        mask_rate=0.3,
        precision="bf16",
        mesh=dict(data=-1, fsdp=16),
        optimizer=dict(name="adamw", weight_decay=0.01, clip=1.0, b2=0.98, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=4e-4,
            warmup_steps=3000)),
        log_every=50, eval_every=5000, save_every=1000,
        best="min validation/mlm",
        hang_timeout=900,
    )
