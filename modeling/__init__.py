"""The model: contexts, attention, decoding, flow sampling, the autoencoder and BAGEL itself."""

import warnings

with warnings.catch_warnings():
    # transformers imports it first of all, and in a notebook without ipywidgets it warns of that.
    warnings.simplefilter("ignore")
    import tqdm.auto  # noqa: F401
