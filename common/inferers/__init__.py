from .fnet_inferer import FNetInferer
