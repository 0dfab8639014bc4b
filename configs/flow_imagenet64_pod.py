"""DiT-B (Peebles & Xie 2023) on ImageNet at 64 x 64, by flow matching, for 16 chips of a TPU v5e.

    karpjax precompile --config=configs/flow_imagenet64_pod.py --topology=v5e:4x4
                                                                              # first: does it fit?
    karpjax launch tpu --name=dit --type=v5litepod-16 --zone=ZONE --version=v2-alpha-tpuv5-lite \\
        --queued --config=configs/flow_imagenet64_pod.py --workdir=gs://BUCKET/runs/dit

12 layers, 768 wide, on patches of 4 x 4: 256 tokens and 130 million parameters. The network gives
the picture, as in JiT (Li & He 2025, arXiv:2511.13720), which needs no autoencoder. It has not been
trained here: only that it compiles and fits is known (tests/guarantees/test_g8_tpu.py).
"""
import karpjax


def get_config():
    return karpjax.config(
        task="flow",
        steps=400_000,
        model=dict(name="dit", patch=4, layers=12, width=768, heads=12, remat=True),
        # TFDS's downsampled ImageNet has no labels; the whole one is scaled as it is read
        data=dict(name="imagenet2012", train="train[:99%]", validation="train[99%:]", test="",
                  resize=(64, 64), batch_size=1024,                          # 64 pictures a chip
                  mean=[127.5], std=[127.5]),
        augment=[dict(name="flip")],
        target="picture",
        no_class=0.1,
        times=(0.0, 1.0),
        # of samples of the test pictures' classes, by other networks: tasks/flow_scores.py
        scores=dict(features="", inception="", judge="", samples=1, steps=20, guidance=1.0,
                    method="heun"),
        precision="bf16",
        optimizer=dict(name="adamw", weight_decay=0.0, b2=0.99, clip=1.0, learning_rate=dict(
            name="linear_schedule", init_value=0.0, end_value=4e-4, transition_steps=5000)),
        ema_decay=0.9999,
        log_every=50, eval_every=5000, save_every=2000,
        best="",
        hang_timeout=900,
    )
