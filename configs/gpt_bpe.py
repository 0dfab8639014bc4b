"""A small GPT on tokens of IMDB's reviews (Maas et al. 2011), many of which share a row.

    python -m karpjax.prepare --format=text --from=DIR --name=imdb_packed --pack --length=128 \\
        --vocabulary=8192 --lowercase --without=DIR/test.jsonl
                                              # DIR has train.jsonl, unsup.jsonl, test.jsonl
    python -m karpjax.train --config=configs/gpt_bpe.py --workdir=runs/gpt_bpe
    karpjax generate --workdir=runs/gpt_bpe --prompt="this film" --top_p=0.9

The set is imdb_mlm.py's. A token sees its own review alone, and the last of a review predicts no
other. Compare runs of other tokenizers by bits_per_byte, not by nats a token. Not measured yet.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="causal_text",
        steps=3000,                                          # about one pass
        model=dict(name="causal_lm", layers=4, width=256, heads=4, dropout=0.0),
        data=dict(name="imdb_packed", train="train[:98%]+unsup[:98%]",
                  validation="train[98%:]+unsup[98%:]", test="", batch_size=64),
        optimizer=dict(name="adamw", weight_decay=0.1, clip=1.0, b2=0.98, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=200)),
        log_every=20, eval_every=500, save_every=250,
        best="min validation/bits_per_byte",
    )
