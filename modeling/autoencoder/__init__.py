"""The FLUX autoencoder: its sizes, its layers, the whole, and the file its weights come from."""

from modeling.autoencoder.model import AutoEncoder, load_ae
from modeling.autoencoder.params import AutoEncoderParams

__all__ = ["AutoEncoder", "AutoEncoderParams", "load_ae"]
