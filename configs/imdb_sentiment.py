"""Sentiment of IMDB's reviews, from scratch or from imdb_mlm.py's weights.

    python -m karpjax.prepare --format=text --from=DIR --name=imdb --length=256 \\
        --tokenizer=runs/imdb_mlm/tokenizer.json
    python -m karpjax.train --config=configs/imdb_sentiment.py --workdir=runs/scratch
    python -m karpjax.train --config=configs/imdb_sentiment.py --workdir=runs/tuned \\
        --config.init_from=runs/imdb_mlm --config.optimizer.layer_decay=0.9

    --config.data.train='train[:1%]'                         # fewer labels
    --config.optimizer.freeze='("(?!head/).*",)'             # a linear probe

Results, beside other models: experiments/imdb.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="classify_text",
        steps=1200,
        model=dict(name="text_classifier", layers=4, width=256, heads=4, dropout=0.1),
        data=dict(name="imdb", train="train[:90%]", validation="train[90%:]", test="test",
                  batch_size=32),
        init_from="",
        init_skip=("head/.*",),                   # the pretrained encoder has no such head
        optimizer=dict(name="adamw", weight_decay=0.01, clip=1.0, b2=0.98, layer_decay=1.0,
                       freeze=(), learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=5e-4,
            warmup_steps=100)),
        log_every=20, eval_every=200, save_every=200,
        best="max validation/accuracy",
    )
