"""Made tests/data/goldens/rlax.npz: rlax's losses and advantages on random input.

tests/test_advantages.py and tests/test_policy_losses.py compare ours with it.

    pip install rlax==0.1.9 && python tests/data/goldens/make_rlax.py
"""
import json
import pathlib
import platform

import numpy as np

TARGET = pathlib.Path(__file__).parent / "rlax.npz"
E, T, A = 5, 12, 3
DISCOUNT, TRACE, CLIP = 0.97, 0.9, 0.2


def main():
    import jax
    import jax.numpy as jnp
    import rlax
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)
    x = {"logits": normal(E, T, A), "action": rng.integers(A, size=(E, T)).astype(np.int32),
         "advantage": normal(E, T), "reward": normal(E, T), "value": normal(E, T + 1),
         "terminated": rng.random((E, T)) < 0.2, "log_ratio": normal(E, T) / 4}

    def flat(name):
        return x[name].reshape(E * T, *x[name].shape[2:])

    def gae(reward, discount, value):
        return rlax.truncated_generalized_advantage_estimation(reward, discount, TRACE, value)
    ones, ratio = jnp.ones(E * T), jnp.exp(flat("log_ratio"))
    y = {"policy_gradient": rlax.policy_gradient_loss(flat("logits"), flat("action"),
                                                      flat("advantage"), ones),
         "entropy": rlax.entropy_loss(flat("logits"), ones),
         "clipped": rlax.clipped_surrogate_pg_loss(ratio, flat("advantage"), CLIP),
         "gae": jax.vmap(gae)(x["reward"], DISCOUNT * (1 - x["terminated"]), x["value"])}
    versions = {"python": platform.python_version(), "jax": jax.__version__, "rlax": "0.1.9",
                "numpy": np.__version__}
    np.savez_compressed(TARGET, **x, **{f"rlax/{name}": np.asarray(value)
                                        for name, value in y.items()},
                        versions=json.dumps(versions), discount=DISCOUNT, trace=TRACE, clip=CLIP)


if __name__ == "__main__":
    main()
