"""Mean-difference probes and activation steering: the names that the README's example needs. Everything else is imported from its part."""

__version__ = "0.1.0"

from importlib import import_module

_PLACES = {
    "auroc": "method.detection",
    "extract": "method.activations",
    "find_blocks": "method.residual_stream",
    "generate": "method.steering",
    "labelled_texts": "method.texts",
    "load_concept": "machine.concepts",
    "load_model": "machine.models",
    "load_preset": "machine.presets",
    "mean_difference": "method.directions",
    "project": "method.directions",
    "separation": "method.detection",
    "steer": "method.steering",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> object:
    "One of the names, imported when it is asked for: some bring PyTorch and transformers with them, which takes five seconds."
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
