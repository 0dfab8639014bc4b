"""A user's task, written for karpjax 0.1: a policy gradient tells large numbers from small."""
from flax import linen as nn
import jax
import jax.numpy as jnp
import karpjax as kj
from karpjax import advantages, distributions
from karpjax.agent import entropy_bonus
import karpjax.envs.host  # noqa: F401
from karpjax.envs.spaces import MultiDiscrete
import karpjax.loop
from karpjax.restore import restore
from karpjax.sources import moments
import numpy as np

CHOICES = MultiDiscrete((2, 2))


def get_config():
    return kj.config(steps=80, log_every=4, eval_every=40, save_every=40, best="max eval/reward",
                     data=dict(num_envs=8, length=16, fed=False), trace=0.0,
                     optimizer=dict(name="adam", learning_rate=0.1))


class Policy(nn.Module):
    @nn.compact
    def __call__(self, obs, train: bool = False):
        outputs = nn.Dense(distributions.size(CHOICES), name="policy")(obs)
        return outputs, nn.Dense(1, name="value")(obs)[..., 0]


class Numbers(kj.sources.Source):
    chunk, n, splits, lends, described = 2, 128, ("eval",), ("moments",), {"kind": "numbers"}
    example = {"obs": np.zeros((1, 3), np.float32)}

    def __init__(self, act, config):
        self.act, self.trace = act, config.trace
        self.batch_size, self.length = config.data.num_envs, config.data.length

    def init(self, key):
        return {"key": jax.random.key_data(key), "moments": moments.start((3,))}

    def drawn(self, arrays, key):
        return 5 + 2 * jax.random.normal(key, (self.batch_size, self.length, 3))

    def begin(self, arrays, source_state, variables):
        draw_key, act_key, key = jax.random.split(jax.random.wrap_key_data(source_state["key"]), 3)
        obs, known = self.drawn(arrays, draw_key), source_state["moments"]
        seen = moments.normalize(known, obs)
        policy, value = self.act(variables, seen)
        action, over = policy.sample(act_key), jnp.ones(value.shape, bool)
        reward = (action == (obs[..., :2] > 5)).mean(-1)
        gain = advantages.gae(reward, value, value, over, over, discount=0.9, trace=self.trace)
        ctx = {"obs": seen, "action": action, "target": gain + value,
               "gain": advantages.normalized(gain), "weight": jnp.ones_like(gain)}
        return {"key": jax.random.key_data(key), "moments": moments.merged(known, obs)}, ctx

    def batch(self, arrays, ctx, i):
        size = self.length // self.chunk
        return {name: jax.lax.dynamic_slice_in_dim(x, i * size, size, 1) for name, x in ctx.items()}

    def prepare(self, batch):
        return {**batch, "obs": jnp.asarray(batch["obs"], jnp.float32)}

    def eval_batches(self, split):
        rows = np.arange(self.batch_size, dtype=np.uint32)
        yield {"obs": np.random.default_rng(0).normal(5, 2, (len(rows), 3)), "index": rows,
               "weight": np.ones(len(rows), np.float32)}


class Fed(Numbers):
    host_fed, chunk = True, 1

    def __init__(self, act, config):
        super().__init__(act, config)
        shape = (self.batch_size, self.length, 3)
        self.arrays = {"obs": jax.ShapeDtypeStruct(shape, np.float32)}

    def feed(self, step, seed):
        rng = np.random.default_rng((seed, step))
        return {"obs": rng.normal(5, 2, self.arrays["obs"].shape).astype(np.float32)}

    def drawn(self, arrays, key):
        return arrays["obs"]


def build(config):
    model = Policy()

    def act(variables, obs):
        outputs, value = kj.apply(model, variables["params"], {}, obs)[0]
        policy = distributions.of(CHOICES, outputs)
        assert isinstance(policy, distributions.Several)
        return policy, value

    def loss(params, model_state, batch, key):
        policy, value = act({"params": params}, batch["obs"])
        gain = batch["gain"] * policy.log_prob(batch["action"])
        losses = {"policy": kj.mean(-gain, batch["weight"]),
                  "value": kj.mean((value - batch["target"]) ** 2, batch["weight"]),
                  "bonus": entropy_bonus(policy, 0.01, batch["weight"])}
        return losses, {}, model_state

    def predict(variables, obs):
        return act(variables, moments.normalize(variables["source"]["moments"], obs))[0].mode()

    def evaluate(variables, batch):
        right = predict(variables, batch["obs"]) == (batch["obs"][..., :2] > 5)
        return {"reward": kj.mean(right.mean(-1), batch["weight"])}

    def show(variables, batch):
        return {"predictions.txt": f"predictions {predict(variables, batch['obs'])}\n"}

    source = (Fed if config.data.fed else Numbers)(act, config)
    return kj.Task(model, source, loss, evaluate=evaluate, predict=predict, inputs="obs", show=show,
                   start=lambda: {"policy/bias": np.array([1, -1, 1, -1], np.float32)})


def main(workdir, fed=False, **options):
    config = get_config()
    config.data.fed = fed
    record = {"path": "old_task.py", "text": open(__file__).read()}
    return karpjax.loop.train(config, workdir, record=record, **options), restore(workdir)
