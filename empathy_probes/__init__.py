"""Mean-difference probes and activation steering: the names that the README's example needs. Everything else is imported from its part."""

__version__ = "0.1.0"

from .machine.concepts import load_concept
from .machine.models import load_model
from .machine.presets import load_preset
from .method.activations import extract
from .method.detection import auroc, separation
from .method.directions import mean_difference, project
from .method.residual_stream import find_blocks
from .method.steering import generate, steer
from .method.texts import labelled_texts
