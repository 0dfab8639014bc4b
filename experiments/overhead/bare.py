"""The digits CNN's train step as one writes it by hand, for comparison with karpjax's shared step.

Nothing of karpjax is in it but the network. The numbers are those of configs/digits_cnn.py.
"""
import jax
import jax.numpy as jnp
import optax

from karpjax.models.cnn import CNN

model = CNN(classes=10, width=32, dropout=0.2)
schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warmup_steps=50, decay_steps=1000)


def kernels(params):
    """Return where weight decay applies: not on norms and biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


optimizer = optax.chain(optax.clip_by_global_norm(1.0),
                        optax.adamw(schedule, weight_decay=0.01, mask=kernels))


def init(key) -> dict:
    key, init_key = jax.random.split(key)
    variables = model.init(init_key, jnp.zeros((1, 8, 8, 1)))
    return {**variables, "opt_state": optimizer.init(variables["params"]), "key": key,
            "step": jnp.int32(0)}


def loss_fn(params, batch_stats, batch, key):
    logits, updated = model.apply({"params": params, "batch_stats": batch_stats}, batch["image"],
                                  train=True,
                                  rngs={"dropout": key}, mutable=["batch_stats"])  # (B, 10)
    targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], 10), 0.1)  # (B, 10)
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    accuracy = (logits.argmax(-1) == batch["label"]).mean()
    return loss, (accuracy, updated["batch_stats"])


def train_step(state: dict, batch: dict) -> tuple[dict, dict]:
    key = jax.random.fold_in(state["key"], state["step"])
    (loss, (accuracy, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state["params"], state["batch_stats"], batch, key)
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    state = {**state, "params": optax.apply_updates(state["params"], updates),
             "batch_stats": batch_stats,
             "opt_state": opt_state, "step": state["step"] + 1}
    return state, {"loss": loss, "accuracy": accuracy}
