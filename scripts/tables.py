"""The tables of README and docs: which keys of which result go where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Table:
    """One table: which keys of which result go where.

    ``pattern`` is a metric key with ``{row}`` and, where the table has several columns, ``{column}`` in it. Without
    ``{column}`` the columns are ours and the references. Rows and columns stand in the order given, or as found.
    """

    result: str
    pattern: str
    corner: str
    rows: Mapping[str, str] = field(default_factory=dict)  # part of the key -> label
    columns: Mapping[str, str] = field(default_factory=dict)
    references: Sequence[str] = ()
    beside: Sequence[str] = ()  # sources among our own metrics: their name is the last part of the key
    apart: bool = False  # a reference is a method of its own: its row bears its name alone
    digits: int = 3  # significant digits


SHARES = {f"{tenth / 10:.1f}": f"{tenth / 10:.1f}" for tenth in range(1, 11)}
RUNS = {str(n): str(n) for n in range(1, 16, 2)}
PLANNING = {"normalised_return": "normalised return", "return": "return", "plan_ms": "ms per plan"}
TRAINING = {"epoch_seconds": "s per epoch", "minutes_to_paper": "min to the paper's curve", "peak_mib": "peak MiB"}
TASKS = {"smooth": "smoothing", "filter": "filtering", "generate": "generating"}

TRUTH = {"sin": "sin of the angle", "cos": "cos", "velocity": "angular velocity"}
NETWORKS = {"kvae-cnn": "KVAE, convolutions", "kvae-mlp": "KVAE, MLP", "dvbf": "DVBF", "dkf": "DKF"}
FAMILY = NETWORKS | {
    "dmm": "DMM",
    "vrnn": "VRNN",
    "srnn": "SRNN",
    "vae-rnn": "VAE-RNN",
    "rssm": "RSSM",
}


BOUNDS = {
    "is": "importance sampling",
    "smc": "sequential Monte Carlo",
    "alt": "alternating",
    "one-step": "importance sampling, one step",
}
BALLS = FAMILY | {"kvae": "KVAE", "ae-rnn": "AE-RNN", "code-rnn": "RNN on the codes of a VAE"}
PLACES = {"x": "x", "y": "y", "vx": "velocity in x", "vy": "in y"}
BOUND = {
    "elbo": "ELBO",
    "elbo_per_frame": "ELBO a frame",
    "iwae-100": "IWAE, 100 particles",
    "iwae-100_per_frame": "IWAE a frame",
    "reconstruction": "reconstruction",
    "kl": "divergence",
    "parameters": "parameters",
    "seconds": "s of training",
}
DENSITIES = BALLS | {"storn": "STORN", "vae": "VAE", "gru": "GRU"}
GAPS = {name: name.upper() for name in ("elbo", "iwae-10", "iwae-100", "fivo-10", "fivo-100")}
TRACKING = {
    "count_accuracy": "frames with the right count",
    "idf1": "IDF1",
    "mota": "MOTA",
    "motp": "distance of matched centres, pixels",
    "id_switches_per_sequence": "identities switched, per sequence",
    "mse": "squared error of a pixel, filtered",
    "restarts_ok": "share of starts with count .95, IDF1 .9",
}
METHODS = {"iwae": "IWAE", "aesmc": "AESMC", "alt": "alternating"}
MUSIC = {name: name for name in ("JSB", "Piano-midi", "Nottingham", "MuseData")}
UPDATES = {"seconds_per_update": "s per update", "frames_per_s": "frames/s"}
PARTICLE_BOUNDS = {"iwae": "IWAE", "fivo": "FIVO"}
THOUSAND = {str(count): str(count) for count in (1, 10, 100, 1000)}
SB3_TASKS = {"pendulum": "swing-up", "ball-to-goal": "ball to goal", "image-navigation": "image navigation"}


def _box(key: str, corner: str, columns: Mapping[str, str], *references: str, rows: Mapping[str, str] = TASKS) -> Table:
    return Table("kvae-bouncing-ball", key, corner, rows, columns, references=references, digits=2)


def _frames(name: str, rows: Mapping[str, str]) -> Table:
    return Table(f"gtm-sm-{name}", "psnr/{row}", "PSNR, dB", rows, beside=("copy", "vae"))


TABLES = {
    "ball-random": replace(_box("hamming/{row}/random/{column}", "share missing", SHARES, "paper"), beside=("oracle",)),
    "ball-consecutive": replace(
        _box("hamming/{row}/consecutive/{column}", "frames missing", RUNS, "paper"), beside=("oracle",)
    ),
    "parity-random": _box("parity/hamming/{row}/random/{column}", "share missing", SHARES, "public-code"),
    "parity-consecutive": _box("parity/hamming/{row}/consecutive/{column}", "frames missing", RUNS, "public-code"),
    "ablation-random": _box("ablation/{row}/hamming/smooth/random/{column}", "share missing", SHARES, rows={}),
    "ablation-consecutive": _box("ablation/{row}/hamming/smooth/consecutive/{column}", "frames missing", RUNS, rows={}),
    **{
        f"{world}-{kind}": Table(
            f"kvae-{world}", f"hamming/{{row}}/{kind}/{{column}}", corner, TASKS, columns, digits=2
        )
        for world in ("gravity", "polygon", "pong")
        for kind, corner, columns in (("random", "share missing", SHARES), ("consecutive", "frames missing", RUNS))
    },
    "pendulum-r2": Table(
        "kvae-pendulum", "r2/{column}/smooth/{row}", "R², smoothed", NETWORKS, TRUTH, ("dvbf", "dkf"), apart=True
    ),
    "pendulum-r2-filter": Table("kvae-pendulum", "r2/{column}/filter/{row}", "R², filtered", NETWORKS, TRUTH),
    "pendulum-r2-open-loop": Table(
        "kvae-pendulum", "r2/velocity/open-loop/{column}/{row}", "R² of the velocity, steps ahead", NETWORKS
    ),
    "pendulum-elbo": Table(
        "kvae-pendulum",
        "elbo-gaussian/{row}",
        "test ELBO, Gaussian pixels, nats",
        NETWORKS,
        references=("paper",),
        digits=4,
    ),
    "models-bounds": Table(
        "pendulum-table",
        "{column}/{row}",
        "damped pendulum, nats a sequence",
        FAMILY,
        BOUND,
        digits=4,
    ),
    "models-gaps": Table(
        "pendulum-table",
        "gap/elbo/kvae-cnn/{row}",
        "ELBO of the KVAE (convolutions) above that of",
        FAMILY,
        references=("paper",),
        digits=4,
    ),
    "models-ranks": Table("pendulum-table", "rank/elbo/{row}", "rank by ELBO", FAMILY, references=("paper",), digits=1),
    "models-r2-smooth": Table("pendulum-table", "r2/{column}/smooth/{row}", "R², smoothed", FAMILY, TRUTH),
    "models-r2-filter": Table("pendulum-table", "r2/{column}/filter/{row}", "R², filtered", FAMILY, TRUTH),
    "models-ahead": Table(
        "pendulum-table", "r2/velocity/open-loop/{column}/{row}", "R² of the velocity, steps ahead", FAMILY
    ),
    "models-pixels": Table(
        "pendulum-table", "mse/open-loop/{column}/{row}", "squared error of a pixel, steps ahead", FAMILY
    ),
    "models-coverage": Table(
        "pendulum-table", "coverage-90/velocity/open-loop/{column}/{row}", "inside 90 % interval, steps ahead", FAMILY
    ),
    "models-planning": Table(
        "pendulum-table", "{column}/{row}", "swing-up by CEM", FAMILY, {"normalised_return": "normalised return"}
    ),
    "ball-models-bounds": Table(
        "bouncing-ball-table", "{column}/{row}", "bouncing ball, nats a sequence", BALLS, BOUND, digits=4
    ),
    **{
        f"ball-models-{task}": Table(
            "bouncing-ball-table",
            f"hamming/{task}/consecutive/{{column}}/{{row}}",
            f"{label}, frames missing",
            BALLS,
            RUNS,
            references=("paper",),
            digits=2,
        )
        for task, label in (("smooth", "smoothing"), ("filter", "filtering"))
    },
    "ball-models-r2-smooth": Table("bouncing-ball-table", "r2/{column}/smooth/{row}", "R², smoothed", BALLS, PLACES),
    "ball-models-r2": Table("bouncing-ball-table", "r2/{column}/filter/{row}", "R², filtered", BALLS, PLACES),
    "ball-models-coverage": Table(
        "bouncing-ball-table", "coverage-90/x/open-loop/{column}/{row}", "x inside 90 % interval, steps ahead", BALLS
    ),
    "ball-models-ahead": Table(
        "bouncing-ball-table", "mse/open-loop/{column}/{row}", "squared error of a pixel, steps ahead", BALLS
    ),
    "plan-pendulum": Table("plan-pendulum", "{column}/{row}", "swing-up", columns=PLANNING),
    "plan-bouncing-ball": Table("plan-bouncing-ball", "{column}/{row}", "ball to goal", columns=PLANNING),
    "sb3": Table("sb3", "return/{row}/{column}", "mean return", SB3_TASKS, {"ppo": "PPO", "random": "random actions"}),
    "sb3-curve": Table("sb3", "curve/{row}/{column}", "return after % of the run", SB3_TASKS),
    "ball-tracking": Table("ball-tracking", "rmse_m/air/{row}/{column}", "error in m, ball in air"),
    "ball-tracking-coverage": Table("ball-tracking", "coverage_95/air/{row}/{column}", "inside the 95 % region"),
    "gtm-recall": Table(
        "gtm-sm-image-navigation",
        "{column}/{row}",
        "steps predicted",
        columns={"recall": "right place", "coverage": "share of steps whose place was seen"},
    ),
    "gtm-frames": Table(
        "gtm-sm-image-navigation",
        "psnr/{row}",
        "PSNR, dB",
        {
            "first32": "first 32 steps",
            "last32": "last 32 of 256 steps",
            "vae": "the same frames, encoded and decoded",
            "oracle": "the last view of the true place",
        },
    ),
    "gtm-no-memory": Table(
        "gtm-sm-image-navigation",
        "psnr/no-memory/{row}",
        "PSNR without a spatial memory, dB",
        {"lstm": "LSTM", "gru": "GRU", "vae-rnn": "VAE-RNN"},
    ),
    "gtm-still": Table(
        "gtm-sm-image-navigation",
        "psnr/{row}",
        "PSNR of one frame for all steps, dB",
        {"last-frame": "the last one seen", "mean-colour": "the mean colour of those seen"},
    ),
    "gtm-ladder": Table(
        "gtm-sm-ladder",
        "{column}/{row}",
        "rung",
        columns={"recall": "right place", "r2": "R² of the place", "psnr": "PSNR, dB"},
    ),
    "gtm-obstacles": Table(
        "gtm-sm-obstacles",
        "{column}/{row}",
        "obstacles",
        {"landmark": "with landmarks", "transition": "without"},
        {"position_error": "distance, cells", "within_half": "at most half a cell"},
    ),
    "gtm-navigate": Table(
        "gtm-sm-navigate",
        "{column}/{row}/2d",
        "2D, obstacles",
        {
            "memory": "plans in memory",
            "greedy": "straight at it",
            "random": "random",
            "true-map": "plans on the true map",
        },
        {"success": "arrives", "path_ratio": "steps over the shortest", "coverage": "explored before"},
    ),
    "gtm-navigate-3d": Table(
        "gtm-sm-navigate",
        "{column}/{row}/3d",
        "3D, rooms",
        {
            "memory": "plans in memory",
            "greedy": "straight at it",
            "random": "random",
            "true-map": "plans on the true map",
        },
        {"success": "arrives", "path_ratio": "steps over the shortest, estimated", "coverage": "explored before"},
    ),
    "gtm-navigate-anywhere": Table(
        "gtm-sm-navigate",
        "{column}/{row}/anywhere/3d",
        "3D, rooms, goal anywhere",
        {
            "memory": "plans in memory",
            "greedy": "straight at it",
            "random": "random",
            "true-map": "plans on the true map",
        },
        {"success": "arrives"},
    ),
    "gtm-rotation": _frames("rotation", {"unseen": "the part never seen", "turn": "the turn after it"}),
    "gtm-walking": _frames("walking", {"first32": "first 32 steps", "last32": "last 32 of 150 steps"}),
    "gtm-rooms": _frames("rooms", {"first32": "first 32 steps", "last32": "last 32 of 300 steps"}),
    **{
        f"gtm-{name}-pose": Table(
            f"gtm-sm-{name}",
            "{column}/{row}",
            "steps predicted",
            columns={"position_error": "distance, share of the room", "heading_error_deg": "heading, degrees"},
        )
        for name in ("walking", "rooms")
    },
    "apdr-balls": Table(
        "apdr-balls",
        "{row}",
        "up to 3 balls, 40 frames",
        TRACKING,
        beside=("greedy", "air", "components", "seen"),
    ),
    "apdr-digits": Table(
        "apdr-digits",
        "{row}",
        "up to 2 digits, 10 frames",
        TRACKING,
        references=("SQAIR, released checkpoint",),
        beside=("greedy", "air", "components"),
    ),
    "air-digits": Table(
        "air-digits",
        "{column}/{row}",
        "up to 2 digits, one frame",
        {
            "vimco": "VIMCO",
            "nvil": "NVIL",
            "concrete": "relaxed",
            "remainder": "VIMCO, steps see what is left",
            "always-one": '"one", always',
        },
        {
            "count_accuracy": "frames with the right count",
            "one_to_one": "with an object on each digit",
            "restarts_ok": "share of starts with .9 of both",
        },
    ),
    **{
        f"apdr-{name}-ahead": Table(
            f"apdr-{name}",
            "position/{row}",
            f"pixels off (of {size}), frames ahead",
            {h: h for h in horizons},
            beside=("coasting", "still"),
        )
        for name, size, horizons in (("balls", 32, ("1", "5", "10")), ("digits", 50, ("1", "3", "5")))
    },
    **{
        f"apdr-{name}-alive": Table(
            f"apdr-{name}",
            "alive/{row}",
            f"share of {name} still there, frames ahead",
            {h: h for h in horizons},
            beside=("true",),
        )
        for name, horizons in (("balls", ("1", "5", "10")), ("digits", ("1", "3", "5")))
    },
    "apdr-digits-number": Table(
        "apdr-digits",
        "{column}/most-{row}",
        "sequences of so many digits",
        {"0": "0", "1": "1", "2": "2"},
        {"count_accuracy": "frames with the right count", "idf1": "IDF1"},
    ),
    "aesmc-toy": Table(
        "aesmc-lgssm",
        "{column}/proposal-error/{row}",
        "one Gaussian, particles",
        columns={"toy": "distance of the learned proposal from the optimum"},
    ),
    "aesmc-snr-proposal": Table("aesmc-lgssm", "snr/phi/{row}/{column}", "proposal's gradient, particles", BOUNDS),
    "aesmc-snr-model": Table("aesmc-lgssm", "snr/theta/{row}/{column}", "model's gradient, particles", BOUNDS),
    "aesmc-model": Table("aesmc-lgssm", "gap/model/{row}/{column}", "nats below the optimum, particles", BOUNDS),
    "aesmc-joint": Table("aesmc-lgssm", "gap/joint/{row}/{column}", "nats below the optimum, particles", BOUNDS),
    "aesmc-proposal": Table(
        "aesmc-lgssm", "proposal-error/{row}/{column}", "proposal's distance from its optimum, particles", BOUNDS
    ),
    "aesmc-targets": Table(
        "aesmc-lgssm",
        "{column}/{row}",
        "ten particles",
        {"smoothing-targets": "smoothing targets", "filtering-targets": "filtering targets"},
        {"smc-std": "standard deviation of the estimate, nats"},
    ),
    "aesmc-gaps": Table(
        "aesmc-lgssm",
        "gap/linear-gaussian/optimal/{row}/{column}",
        "nats below the evidence, particles",
        BOUNDS,
    ),
    "bound-gaps": Table(
        "bound-gaps", "gap/{column}/{row}", "nats below the evidence", {"exact": "the process itself"} | DENSITIES, GAPS
    ),
    "moving-agents": Table("moving-agents", "bound/{column}/{row}", "test, nats, particles", METHODS),
    "moving-agents-gaps": Table(
        "moving-agents",
        "gap/iwae-{row}/{column}",
        "more than by IWAE, nats, particles",
        {name: label for name, label in METHODS.items() if name != "iwae"},
        references=("paper",),
    ),
    "music": Table(
        "polyphonic-music",
        "{row}",
        "test, nats per step",
        MUSIC,
        references=("SRNN", "TSBN", "NASMC", "STORN", "RNN-NADE", "RNN"),
    ),
    "music-models": Table(
        "polyphonic-music",
        "{column}/{row}",
        "test, nats per step",
        {
            "srnn-smooth-res": "SRNN, smoothing, residual",
            "srnn-smooth": "SRNN, smoothing",
            "srnn-filt-res": "SRNN, filtering, residual",
            "srnn-filt": "SRNN, filtering",
            "vrnn": "VRNN",
            "gru": "GRU",
        },
        MUSIC,
    ),
    "discrete-toys": Table(
        "discrete-gradients",
        "{column}/{row}",
        "three bits",
        columns={"bias": "bias", "bias-errors": "largest bias, standard errors", "variance": "variance"},
    ),
    "discrete-one-bit": Table(
        "discrete-gradients",
        "{column}/one-bit/0.499/{row}",
        "one bit, target .499",
        columns={"bias-errors": "bias, standard errors", "variance": "variance", "theta": "theta after 3,000 steps"},
        references=("public code",),
    ),
    "discrete-losses": Table(
        "discrete-gradients",
        "final-loss/{column}/{row}",
        "loss after training",
        columns={"hundred-bits": "hundred bits, 2,000 steps", "cosine": "four-way cosine, 500 steps"},
    ),
    "discrete-vae": Table(
        "discrete-gradients",
        "{column}/{row}",
        "VAE on digits",
        columns={
            "final-loss/vae": "minus the bound, nats",
            "final-loss/vae-bound-100": "of 100 samples",
            "variance/vae": "variance of the gradient",
            "cost/vae": "ms per update",
        },
    ),
    "kalman": Table("bench-kalman", "frames_per_s/{row}/{column}", "frames/s"),
    "kalman-ratio": Table("bench-kalman", "ratio/{column}/{row}", "times as fast as"),
    "kalman-gradient": Table("bench-kalman", "grad_ratio/{column}/{row}", "value and gradient, times as fast as"),
    "memory": Table(
        "bench-memory",
        "{column}/{row}/reverie",
        "entries",
        columns={"writes_per_s": "writes/s", "reads_per_s": "reads/s", "recall": "recall"},
    ),
    "memory-tree": Table(
        "bench-memory",
        "{column}/{row}/scipy",
        "kd-tree of scipy, entries",
        columns={"build_s": "s to build", "reads_per_s": "reads/s"},
    ),
    "envs": Table(
        "bench-envs", "{column}/{row}", "frames/s", columns={"single": "single", "vector": "vectorised", "peer": "peer"}
    ),
    "planners": Table("bench-planners", "plans_per_s/{row}", "plans/s"),
    "models-frames": Table("bench-models", "{column}/frames/{row}", "32 x 20 frames of 32x32", columns=UPDATES),
    "models-notes": Table(
        "bench-models",
        "{column}/notes/{row}",
        "20 x 100 vectors of 88 bits",
        {"dmm": "DMM", "pyro-dmm": "DMM, Pyro", "lgssm": "linear-Gaussian"},
        UPDATES,
    ),
    "models-particles": Table("bench-models", "seconds/{row}/{column}", "s, particles", PARTICLE_BOUNDS, THOUSAND),
    "models-particles-memory": Table(
        "bench-models", "peak_mib/{row}/{column}", "MiB, particles", PARTICLE_BOUNDS, THOUSAND
    ),
    "apdr-cost": Table(
        "bench-models",
        "{column}/apdr/{row}",
        "APDR with",
        columns={"seconds": "s per update", "peak_mib": "MiB"},
    ),
    "train": Table(
        "bench-train", "{column}/{row}", "training", columns=TRAINING, references=("public TensorFlow code",)
    ),
}
