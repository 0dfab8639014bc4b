"""Scores of translations against references, by sacrebleu.

Post 2018, "A call for clarity in reporting BLEU scores".

    BLEU       cased, on the tokens of mteval-v13a (Papineni et al. 2002)
    BLEU_lc    the same of lowercased text
    chrF       chrF2, on characters (Popovic 2015)

All three count over the whole set: a mean of sentence scores is another number, as is a score of
text that is still in tokens. A published score of another signature stands beside, never in a row.
"""
from karpjax.core.errors import UserError

RESAMPLES = 1000  # of the bootstrap (Koehn 2004); sacrebleu draws from a fixed seed


def scores(hypotheses: list[str], references: list[str]) -> tuple[dict, dict, list[str]]:
    """Return ({name: score}, its 95 % interval, {"BLEU_low": ..., "BLEU_high": ...}, signatures).

    One reference a hypothesis, in the same order.
    """
    values, interval, signatures = {}, {}, []
    for name, metric in metrics().items():
        score = metric.corpus_score(hypotheses, [references], n_bootstrap=RESAMPLES)
        low, high = float(score._mean - score._ci), float(score._mean + score._ci)
        values[name] = float(score.score)
        interval |= {f"{name}_low": low, f"{name}_high": high}
        signatures.append(f"{name} {score.score:.2f} ({low:.2f} to {high:.2f})  "
                          f"{metric.get_signature()}")
    return values, interval, signatures


def metrics() -> dict:
    """Return sacrebleu's metrics by our names."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UserError('scores of translations need the package sacrebleu; '
                        'pip install "karpjax[translate]"') from error

    class Floats(CHRF):
        # Its bootstrap cannot average numbers of two kinds: numpy's, and the 0.0 of a resample
        # without a match, as a model makes at first.
        def _compute_f_score(self, statistics):
            return float(super()._compute_f_score(statistics))
    return {"BLEU": BLEU(), "BLEU_lc": BLEU(lowercase=True), "chrF": Floats()}
