"""Masked language modelling on IMDB's reviews (Maas et al. 2011) alone, with a mini encoder.

    python -m karpjax.prepare --format=text --from=DIR --name=imdb_packed --pack --length=128 \\
        --vocabulary=8192 --lowercase --without=DIR/test.jsonl
                                              # DIR has train.jsonl, unsup.jsonl, test.jsonl
    python -m karpjax.train --config=configs/imdb_mlm.py --workdir=runs/imdb_mlm

imdb_sentiment.py starts from it. No test review is read: those that stand among the unlabelled ones
(270) are left out. The study from here to sentiment: experiments/imdb.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="masked_text",
        steps=3000,                                          # about one pass
        model=dict(name="masked_lm", layers=4, width=256, heads=4),
        data=dict(name="imdb_packed", train="train[:98%]+unsup[:98%]",
                  validation="train[98%:]+unsup[98%:]", test="", batch_size=64),
        mask_rate=0.3, replace=False,                        # true: BERT's 80/10/10
        optimizer=dict(name="adamw", weight_decay=0.01, clip=1.0, b2=0.98, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=200)),
        log_every=20, eval_every=500, save_every=250,
        best="min validation/mlm",
    )
