"""``reverie reproduce NAME``: the papers' experiments, each from data to table, ours beside theirs."""

from collections.abc import Sequence

from ..dispatch import Entry, run_group

EXPERIMENTS = {
    "ball-tracking": Entry(
        "reverie.scripts.reproduce.ball_tracking",
        "thesis ch. 3: filters and smoothers on a thrown ball, with figures",
        "1 min",
        "ball-tracking",
    ),
    "kvae-bouncing-ball": Entry(
        "reverie.scripts.reproduce.kvae_bouncing_ball",
        "KVAE on the box: imputation and generation, parity, ablations",
        "2 h",
        "kvae-bouncing-ball",
    ),
    "kvae-gravity": Entry(
        "reverie.scripts.reproduce.kvae_gravity",
        "the same in a box with gravity: imputation, generation, pictures",
        "2 h",
        "kvae-gravity",
    ),
    "kvae-polygon": Entry(
        "reverie.scripts.reproduce.kvae_polygon",
        "the same in a polygon: imputation, generation, pictures",
        "2 h",
        "kvae-polygon",
    ),
    "kvae-pong": Entry(
        "reverie.scripts.reproduce.kvae_pong",
        "the same in pong: imputation, generation, pictures",
        "2 h",
        "kvae-pong",
    ),
    "kvae-pendulum": Entry(
        "reverie.scripts.reproduce.kvae_pendulum",
        "KVAE on the damped pendulum: ELBO, R² of angle and velocity",
        "1 h",
        "kvae-pendulum",
    ),
    "pendulum-table": Entry(
        "reverie.scripts.reproduce.pendulum_table",
        "eight deep state-space models on the damped pendulum, one budget: bounds, R², prediction",
        "2 h",
        "pendulum-table",
    ),
    "bouncing-ball-table": Entry(
        "reverie.scripts.reproduce.bouncing_ball_table",
        "nine models on the box, one budget: imputation, bounds, R², prediction",
        "hours",
        "bouncing-ball-table",
    ),
    "aesmc-lgssm": Entry(
        "reverie.scripts.reproduce.aesmc_lgssm",
        "particle bounds of model and proposal beside exact evidence",
        "20 min",
        "aesmc-lgssm",
    ),
    "bound-gaps": Entry(
        "reverie.scripts.reproduce.bound_gaps",
        "twelve models where the evidence is exact: what each bound leaves open, by particles",
        "30 min",
        "bound-gaps",
    ),
    "air-digits": Entry(
        "reverie.scripts.reproduce.air_digits",
        "AIR on still digits: count accuracy, restarts with a digit per step",
        "2 h",
        "air-digits",
    ),
    "discrete-gradients": Entry(
        "reverie.scripts.reproduce.discrete_gradients",
        "estimators for discrete variables: bias, variance, cost, final loss",
        "30 min",
        "discrete-gradients",
    ),
    "polyphonic-music": Entry(
        "reverie.scripts.reproduce.polyphonic_music",
        "SRNN, VRNN and GRU on pianorolls (needs --data DIR)",
        "7 h",
        "polyphonic-music",
        on_gpu=(
            *("--d-dim", "300", "--z-dim", "100", "--dropout", "0"),
            *("--units", "500", "--training.epochs", "50", "--training.learning-rate", "1e-3"),
            *("--training.decay-after", "20", "--training.kl-warmup", "0.4"),
        ),
    ),
    "moving-agents": Entry(
        "reverie.scripts.reproduce.moving_agents",
        "VRNN with IWAE, AESMC and alternating bounds on a half hidden walk",
        "5 h",
        "moving-agents",
        on_gpu=(
            *("--particles", "10", "20", "40", "--train-sequences", "4000", "--test-sequences", "1000"),
            *("--training.epochs", "80", "--training.batch-size", "25", "--model.channels", "32", "64", "128"),
        ),
    ),
    "speech": Entry(
        "reverie.scripts.reproduce.speech",
        "SRNN on waveforms at --data DIR; synthetic hums without it",
        "1 min",
        "speech",
    ),
    "plan-pendulum": Entry(
        "reverie.scripts.reproduce.plan_pendulum",
        "swing-up from pixels with the pretrained model, 20 seeds",
        "20 min",
        "plan-pendulum",
    ),
    "plan-bouncing-ball": Entry(
        "reverie.scripts.reproduce.plan_bouncing_ball",
        "bring the ball to a goal by thrust: LQG and CEM, 20 seeds",
        "20 min",
        "plan-bouncing-ball",
    ),
    "gtm-sm-ladder": Entry(
        "reverie.scripts.reproduce.gtm_sm_ladder",
        "first rungs for a spatial memory: a 4x4 maze, a turning camera",
        "10 min",
        "gtm-sm-ladder",
    ),
    "gtm-sm-image-navigation": Entry(
        "reverie.scripts.reproduce.gtm_sm_image_navigation",
        "GTM-SM on photographs: 256 steps memorised, 1,000 predicted",
        "2 h",
        "gtm-sm-image-navigation",
    ),
    "gtm-sm-obstacles": Entry(
        "reverie.scripts.reproduce.gtm_sm_obstacles",
        "the same with obstacles nobody tells of: position error with landmarks and without",
        "30 min",
        "gtm-sm-obstacles",
    ),
    "gtm-sm-rotation": Entry(
        "reverie.scripts.reproduce.gtm_sm_rotation",
        "turning in a room: the part of the turn that was never seen, beside copies",
        "1 h",
        "gtm-sm-rotation",
        on_gpu=("--preset", "full"),
    ),
    "gtm-sm-walking": Entry(
        "reverie.scripts.reproduce.gtm_sm_walking",
        "walking in a room: pose and frames over 150 predicted steps",
        "2 h",
        "gtm-sm-walking",
        on_gpu=("--preset", "full"),
    ),
    "gtm-sm-rooms": Entry(
        "reverie.scripts.reproduce.gtm_sm_rooms",
        "the same model through several rooms, over 300 predicted steps",
        "20 min",
        "gtm-sm-rooms",
        on_gpu=("--preset", "full"),
    ),
    "gtm-sm-navigate": Entry(
        "reverie.scripts.reproduce.gtm_sm_navigate",
        "explore a new map, then go where a picture was taken: success and path lengths",
        "30 min",
        "gtm-sm-navigate",
        on_gpu=("--walking", "runs/gtm-sm-walking-full"),
    ),
    "apdr-balls": Entry(
        "reverie.scripts.reproduce.apdr_balls",
        "APDR counts and follows balls that enter, leave and hide each other",
        "2 h",
        "apdr-balls",
    ),
    "apdr-digits": Entry(
        "reverie.scripts.reproduce.apdr_digits",
        "the same on two handwritten digits that glide for ten frames",
        "5 h",
        "apdr-digits",
        on_gpu=("--training.epochs", "40"),
    ),
    "sb3": Entry(
        "reverie.scripts.reproduce.sb3",
        "stable-baselines3's PPO on three tasks from stacked frames, three seeds",
        "3 h",
        "sb3",
    ),
}


def main(argv: Sequence[str]) -> int:
    """List the experiments, run one by name, or run those that have no result (``--missing``)."""
    return run_group("reproduce", "experiment", EXPERIMENTS, argv)
