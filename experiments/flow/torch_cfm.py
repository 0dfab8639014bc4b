"""torchcfm's U-Net in PyTorch, for so many seconds: the peer of run.py.

    pip install torch torchcfm
    python torch_cfm.py INPUTS.npz OUTPUTS.npz SECONDS

It is torchcfm's conditional MNIST example (its examples/images/conditional_mnist.ipynb): 32
channels, one residual block a level, Adam of rate 2e-4, batches of 128, no moving average.
INPUTS has image (N, H, W, 1) of bytes, label (N,), wanted (n,). OUTPUTS gets samples (n, H, W, 1)
by 39 steps of Euler, as many evaluations as ours, with the steps that were trained.
"""
import os
import sys
import time

import numpy as np
import torch
import torchcfm
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.models.unet import UNetModel

BATCH, EVALUATIONS, AT_ONCE = 128, 39, 250


def main(inputs: str, outputs: str, seconds: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    with np.load(inputs) as stored:
        image = torch.from_numpy(stored["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
        label, wanted = (torch.from_numpy(stored[name].astype(np.int64))
                         for name in ("label", "wanted"))
    shape = image.shape[1:]
    model = UNetModel(dim=tuple(shape), num_channels=32, num_res_blocks=1,
                      num_classes=int(label.max()) + 1, class_cond=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    matcher = ConditionalFlowMatcher(sigma=0.0)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < float(seconds):
        for rows in torch.randperm(len(image)).split(BATCH):
            x1 = image[rows]
            t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
            loss = ((model(t, xt, label[rows]) - ut) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if time.perf_counter() - started > float(seconds):
                break
    trained = time.perf_counter() - started
    model.eval()
    made, started = [], time.perf_counter()
    with torch.no_grad():
        for classes in wanted.split(AT_ONCE):
            x = torch.randn(len(classes), *shape)
            for i in range(EVALUATIONS):
                x = x + model(torch.full((len(classes),), i / EVALUATIONS), x,
                              classes) / EVALUATIONS
            made.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    parameters = sum(p.numel() for p in model.parameters())
    np.savez(outputs, samples=torch.cat(made).permute(0, 2, 3, 1).numpy(), steps=steps,
             loss=loss.item(), train_s=trained, sampling_s=time.perf_counter() - started,
             parameters=parameters, torch=torch.__version__,
             torchcfm=getattr(torchcfm, "__version__", "1"))


if __name__ == "__main__":
    main(*sys.argv[1:])
