"""GPT-2 small (Radford et al. 2019), 124 million parameters, for 64 chips of a TPU v5e.

    python -m karpjax.prepare --format=text --from=DIR --name=web_packed --pack --length=1024 \\
        --vocabulary=50304
    python -m karpjax.precompile --config=configs/gpt_124m_pod.py --topology=v5e:8x8
                                                                              # first: does it fit?
    python -m karpjax.launch tpu --name=gpt2 --type=v5litepod-64 --zone=ZONE \\
        --version=v2-alpha-tpuv5-lite --queued \\
        --config=configs/gpt_124m_pod.py --workdir=gs://BUCKET/runs/gpt_124m

Batch, steps and rates are those with which nanoGPT reproduces GPT-2 (its config/train_gpt2.py:
half a million tokens a step, 600,000 steps, 2.85 nats on OpenWebText in 4 days of 8 A100). With
another tokenizer nats are another number: compare bits_per_byte. It has not been trained here: only
that it compiles and fits is known (tests/guarantees/test_g8_tpu.py, and the command above).
"""
import karpjax


def get_config():
    return karpjax.config(
        task="causal_text",
        steps=600_000,
        # 50,304 tokens rather than 50,257: a multiple of 128 fills the TPU's tiles. No dropout, as
        # every token is seen at most a few times.
        model=dict(name="causal_lm", layers=12, width=768, heads=12, context=1024, remat=True,
                   **karpjax.models.GPT2),
        data=dict(name="web_packed", train="train[:99%]", validation="train[99%:]", test="",
                  batch_size=512),                           # 8 rows a chip
        precision="bf16",
        optimizer=dict(name="adamw", weight_decay=0.1, clip=1.0, b2=0.95, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=6e-4,
            warmup_steps=2000, end_value=6e-5)),
        log_every=50, eval_every=5000, save_every=1000,
        best="min validation/bits_per_byte",
        hang_timeout=900,
    )
