"""A task whose loss is over pairs of examples: micro-batches and devices would make it another."""
import karpjax as kj

TASK = """
from flax import linen as nn
import jax, jax.numpy as jnp, numpy as np, optax
import karpjax as kj


def build(config):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype(np.float32)
    source = kj.sources.arrays({"x": x, "label": (np.arange(64) % 4).astype(np.int32)},
                               batch_size=16)
    start = nn.initializers.zeros if config.zeros else nn.initializers.lecun_normal()

    class Embedding(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(5, kernel_init=start)(x)

    def contrastive(z, label):
        return optax.softmax_cross_entropy_with_integer_labels(z @ z.T, jnp.arange(len(z)))

    def triplet(z, label):
        distance = ((z[:, None] - z) ** 2).sum(-1)                                      # (B, B)
        same = label[:, None] == label
        hardest = (jnp.where(same, distance, 0).max(1), jnp.where(same, 1e9, distance).min(1))
        return nn.relu(0.2 + hardest[0] - hardest[1])                                   # (B,)

    def consecutive(z, label):
        pairs = z.reshape(-1, 2, z.shape[-1])
        return jnp.repeat(((pairs[:, 0] - pairs[:, 1]) ** 2).sum(-1), 2)

    def spread(z, label):
        return (z.mean(-1) - z.mean()) ** 2

    def by_hand(z, label):
        return jnp.full(len(z), (z ** 2 * (label == 0)[:, None]).sum() / (label == 0).sum())

    def square(z, label):
        return (z ** 2).sum(-1)

    functions = dict(contrastive=contrastive, triplet=triplet, consecutive=consecutive,
                     spread=spread, by_hand=by_hand, square=square)

    def loss(params, model_state, batch, key):
        z, model_state = kj.apply(net, params, model_state, batch["x"], key)
        if config.draws:
            z += jax.random.normal(key, z.shape)
        means = {name: kj.mean(f(z, batch["label"]), batch["weight"])
                 for name, f in functions.items()}
        losses = {name: means[name] for name in config.losses}
        return losses, {f"{name}_metric": means[name] for name in config.metrics}, model_state

    net = Embedding()
    evaluate = (lambda variables, batch: {}) if config.draws else None
    return kj.Task(net, source, loss, inputs="x", evaluate=evaluate,
                   whole_batch=config.whole_batch)
"""
OVER_PAIRS = ("contrastive", "triplet", "consecutive", "spread", "by_hand")


def pairs_config(*losses: str, **values):
    """Return (config, task file) of the task with some of its functions as losses.

    metrics      those that are metrics
    zeros        whether the network's only layer starts at 0, where all embeddings are equal
    draws        whether the loss draws from its key
    """
    own = dict(losses=losses, metrics=(), zeros=False, draws=False, whole_batch=True)
    config = kj.config(steps=2, dispatch="step", optimizer=dict(name="sgd", learning_rate=0.1),
                       **{**own, **values})
    return config, {"path": "pairs.py", "text": TASK}
