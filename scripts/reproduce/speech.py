"""Waveforms: the SRNN's four variants on 200 samples a step (Fraccaro et al. 2016, §5; thesis §5.4).

`--data` names a folder of WAV files, such as TIMIT or Blizzard, which are not free: no figure is claimed for them.
Without it the experiment runs on hums that it synthesises, which shows that the machinery works and nothing else.
Measures are test ELBOs of recordings in nats, per step of 200 samples of the standardised waveform; a recording is cut
into windows of `--length` steps, each of which starts afresh. A finished run is used again, with the same recordings
and length only.

The paper's sizes: `--model.d-dim 1024 --model.summary-units 1024 --model.z-dim 256 --model.units 1024` (2048 units of d
and a for Blizzard), rate 1e-3 (3e-4), batches of 64 (128), KL weight from .2.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from reverie.world_models import SRNNConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..results import result_path, write_result
from ..speech import SAMPLES, read_speech, synthesise
from .pieces import whole_command, without_places
from .training_runs import fingerprint, train_run, use_device

VARIANTS = {
    "srnn-smooth-res": {"inference": "smoothing", "residual": True},
    "srnn-smooth": {"inference": "smoothing", "residual": False},
    "srnn-filt-res": {"inference": "filtering", "residual": True},
    "srnn-filt": {"inference": "filtering", "residual": False},
}
HUMS, SECONDS = 40, 2.0  # synthetic recordings and their length


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce speech`."""

    data: Path | None = None
    """Folder of WAV files; by default hums are synthesised."""
    models: tuple[str, ...] = ("srnn-smooth-res",)
    """Variants, of srnn-smooth-res, srnn-smooth, srnn-filt-res and srnn-filt."""
    length: int = 40
    """Steps in a window; 40 are half a second at 16 kHz."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    out: Path = Path("runs/speech")
    """Folder of the runs, and of the hums."""
    json: Path = result_path("speech")
    """Where the result goes."""
    model: SRNNConfig = field(
        default_factory=lambda: SRNNConfig(
            network="mlp", hidden=(128,), likelihood="gaussian", frame_std="learned", initial_std=1.0,
            activation="leaky", z_dim=32, units=128, d_dim=128, summary_units=128, inputs="frames",
        )
    )  # fmt: skip
    """Sizes of the SRNN."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=20, batch_size=16, learning_rate=1e-3, schedule="constant", clip_norm=10.0, kl_start=0.2,
            kl_warmup=0.4, validate_epochs=1, keep_best=True,
        )
    )  # fmt: skip
    """How to train."""

    def __post_init__(self) -> None:
        if not self.models or (unknown := sorted(set(self.models) - set(VARIANTS))):
            raise ValueError(f"--models takes some of {', '.join(VARIANTS)}, found {', '.join(unknown) or 'none'}")


def main(args: Args) -> None:
    """Run `reverie reproduce speech`."""
    from reverie.world_models import Spaces
    from reverie.world_models import evaluation as ev
    from reverie.world_models.bounds import elbo
    from reverie.world_models.checkpoints import load
    from reverie.world_models.training import seeded

    use_device(args.device)
    start, folder, kind = time.perf_counter(), args.data, "speech"
    if folder is None:
        folder, kind = args.out / "hums", "synthetic"
        if not folder.is_dir():
            synthesise(folder, HUMS, SECONDS, seed=0)
    parts = read_speech(folder, args.length)
    metrics: dict[str, float] = {}
    facts = {"length": args.length, **{name: fingerprint(parts[name].arrays) for name in ("train", "validation")}}
    for name in args.models:
        run = train_run(
            args.out / kind / name, "srnn", asdict(replace(args.model, **VARIANTS[name])), parts["train"],
            args.training, Spaces((SAMPLES,), 1), validation=parts["validation"], label=f"{kind} {name}",
            extra={"data": facts},
        )  # fmt: skip
        model, generator = load(run, args.device), seeded(0, 0, 0, args.device)
        _, per_step = ev.bound(lambda batch, m=model, g=generator: elbo(m, batch, generator=g), model, parts["test"])
        metrics[f"elbo_per_step/{kind}/{name}"] = per_step
    ui.table(("test bound, nats per step", "value"), list(metrics.items()), title=str(folder))
    write_result(
        args.json, name="speech", command=whole_command(sys.argv[1:]), config=without_places(asdict(args)),
        metrics=metrics, seconds=time.perf_counter() - start, device=args.device,
    )  # fmt: skip
    ui.say(f"wrote {args.json}")
