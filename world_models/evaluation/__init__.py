"""Evaluation of world models through the protocol alone: what they predict, fill in, know, and know about knowing.

    open_loop       error of frames and of the true state against the horizon
    calibration     coverage, CRPS and PIT of the probed true state against the horizon, from samples
    imputation      error on missing frames: smoothed, filtered, generated
    tracking        counts, MOTA, IDF1 and identity switches of tracks beside true ones
    following       tracks of a model with objects, and how far ahead it predicts them
    probe           the linear map from beliefs to the true state
    frame_metrics   MSE, Hamming, PSNR, SSIM

Every evaluator reads windows (`len(data)`, `data[indices]` -> arrays, as `Dataset.windows` gives them) in chunks, so
memory does not grow with the data, and reports progress to `on_progress(done, total)`.
"""

from .calibration import Calibration, calibration, coverage, crps, pit
from .following import follow, position_errors
from .frame_metrics import hamming, mse, psnr, ssim
from .imputation import consecutive_masks, impute, per_sequence_masks, random_masks, still_baseline
from .open_loop import open_loop
from .probe import LinearProbe, fit_probe, probe_scores, r_squared, state_targets
from .sweep import bound, elbo_terms
from .tracking import Tracks, tracking_metrics

__all__ = [
    "Calibration",
    "LinearProbe",
    "Tracks",
    "bound",
    "calibration",
    "consecutive_masks",
    "coverage",
    "crps",
    "elbo_terms",
    "fit_probe",
    "follow",
    "hamming",
    "impute",
    "mse",
    "open_loop",
    "per_sequence_masks",
    "pit",
    "position_errors",
    "probe_scores",
    "psnr",
    "r_squared",
    "random_masks",
    "ssim",
    "state_targets",
    "still_baseline",
    "tracking_metrics",
]
