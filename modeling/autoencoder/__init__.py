"""The FLUX autoencoder: sizes, layers, the whole, decoding in tiles, and the weights' file."""

from modeling.autoencoder.model import MIN_TILE, AutoEncoder, check_tile, load_ae
from modeling.autoencoder.params import AutoEncoderParams

__all__ = ["MIN_TILE", "AutoEncoder", "AutoEncoderParams", "check_tile", "load_ae"]
