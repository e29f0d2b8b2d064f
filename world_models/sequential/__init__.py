"""What deep state-space models share: one base class, emissions, layers and the backward summary of a sequence."""

from .backward import BackwardSummary
from .chain import posterior_chain
from .config import FrameConfig, SequentialConfig
from .emission import Emission, frame_encoder
from .layers import ACTIVATIONS, GaussianHead, Hidden, LSTMRecurrence, Recurrence
from .model import Glimpse, LatentState, SequentialModel, gaussian_kl, gaussian_log_prob

__all__ = [
    "ACTIVATIONS",
    "BackwardSummary",
    "Emission",
    "FrameConfig",
    "GaussianHead",
    "Glimpse",
    "Hidden",
    "LSTMRecurrence",
    "LatentState",
    "Recurrence",
    "SequentialConfig",
    "SequentialModel",
    "frame_encoder",
    "gaussian_kl",
    "gaussian_log_prob",
    "posterior_chain",
]
