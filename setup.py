"""pip install -e . , or with extras: pip install -e ".[test]"; see README.md."""
import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+)"',
                    (here / "karpjax" / "__init__.py").read_text()).group(1)

# libtpu has no wheel for every machine; the test that compiles for a TPU without one says so when
# it is missing.
linux = "platform_system == 'Linux' and platform_machine == 'x86_64'"
extras = {
    "gpu": ["jax[cuda12]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
    "gcs": ["gcsfs"],                              # workdirs and checkpoints on gs://
    "precompile": [f"libtpu; {linux}"],            # compile for a TPU slice on any Linux machine
    "images": ["pillow"],                          # decode image features of TFDS sets
    "text": ["tokenizers>=0.19"],                  # sets of texts; older lack encode_special_tokens
    "convert": ["safetensors"],                    # weights of other projects
    "translate": ["sacrebleu", "sentencepiece"],   # scores, and Marian's tokens
    "detect": ["faster-coco-eval", "pillow"],      # average precision, pictures
    "gymnax": ["gymnax>=1.0", "six"],              # six: gymnax imports it and does not say so
    "brax": ["brax"],
    # games of two players, and a search; older mctx breaks on jax 0.10
    "pgx": ["pgx", "mctx>=0.0.71"],
    # pygame-ce: its pictures, as it asks itself; never pygame beside it
    "gymnasium": ["gymnasium>=1.0", "pygame-ce"],
    # with pygame-ce: in the same folder as pygame, whichever comes last wins
    "highway": ["highway-env>=1.12"],
    "atari": ["gymnasium>=1.0", "ale-py", "opencv-python-headless"],
    "notebook": ["nbclient", "ipykernel"],
}
also = ("precompile", "images", "text", "convert", "translate", "detect", "notebook", "gymnasium",
        "pgx")
extras["test"] = ["pytest", "pytest-xdist", "beartype", "tensorboardX", "ruff",
                  "import-linter>=2.6", "build", "setuptools>=70.1",   # builds wheels itself
                  *(requirement for name in also for requirement in extras[name])]
# accelerators, and environments that hold jax back
apart = ("gpu", "tpu", "gymnax", "brax")
extras["all"] = sorted({requirement for name,
                        extra in extras.items() if name not in apart for requirement in extra})

setup(
    name="karpjax",
    version=version,
    description="CNNs, masked models and policies in JAX, trained by one shared data-parallel step",
    long_description=(here / "README.md").read_text() if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["karpjax", "karpjax.*"]), "karpjax.configs"],
    # its only copy stands at the top; a wheel has it as karpjax/configs
    package_dir={"karpjax.configs": "configs"},
    package_data={"karpjax": ["data/*"]},
    entry_points={"console_scripts": ["karpjax = karpjax.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10", "flax>=0.12", "optax>=0.2.8", "orbax-checkpoint>=0.12", "ml-collections>=1.1",
                      "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "importlib-resources",                     # TFDS needs it and does not say so
        "jaxtyping", "tqdm", "matplotlib",
    ],
    extras_require=extras,
)
