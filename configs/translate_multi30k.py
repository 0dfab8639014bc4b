"""English to German: captions of photographs, Multi30k (Elliott et al. 2016), 29,000 pairs.

    python -m karpjax.prepare --format=pairs --from=DIR --name=multi30k_en_de --languages=en,de \\
        --length=64 --vocabulary=8192 --pack                  # DIR has train.en, train.de, ...
    python -m karpjax.train --config=configs/translate_multi30k.py --workdir=runs/multi30k
    python -m karpjax.evaluate --workdir=runs/multi30k --which=best --split=test_2017_flickr

    configs/translate_multi30k.py:marian     Marian's blocks, to compare with PyTorch's

Without test_2018_flickr in DIR: with it --length must be 84, and rows are longer.

The encoder and decoder have 4 layers of 128, as Transformer-tiny of Wu et al. 2021 ("Good for
misconceived reasons"), whose published 41.02 is BLEU of tokenised lowercased text: ours stand
beside it, never in a row with it. Validation translates greedily, the test with 5 beams. The best
checkpoint is that of the highest validation BLEU, which is another than that of the lowest nats.
Results: experiments/multi30k. Not measured yet.
"""
import karpjax


FORMS = {"": {}, "marian": karpjax.models.MARIAN}


def get_config(form: str = ""):
    if form not in FORMS:
        raise karpjax.UserError(f"translate_multi30k.py:{form}: expected marian, or none")
    return karpjax.config(
        task="translate",
        steps=8000,                            # a row has 3 or 4 pairs: some 35 passes
        model=dict(name="seq2seq", layers=4, width=128, heads=4, dropout=0.3, **FORMS[form]),
        data=dict(name="multi30k_en_de", train="train", validation="val",
                  test="test_2016_flickr", batch_size=40),
        label_smoothing=0.1, beams=5, length_penalty=1.0,
        optimizer=dict(name="adamw", weight_decay=0.01, clip=1.0, b2=0.98, freeze=(),
                       learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=3e-3,
            warmup_steps=500)),
        log_every=20, eval_every=1000, save_every=500,
        best="max validation/BLEU",
    )
