"""Opening an environment for collection: registered or from a module, ours or anybody's, single or vectorised."""

import difflib
import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from .adapting import ADAPTED, is_frame


def open_fitting(
    env_id: str, env_kwargs: dict[str, Any], max_steps: int | None, view: dict[str, Any] | None
) -> tuple[str, dict[str, Any], Callable, gym.Env]:
    """(id, arguments, num_envs -> vector environment, one environment), in the form that datasets have.

    An environment that observes no frames or takes other actions is opened through ``adapting.adapted``; so is any for
    which a ``view``, arguments of that, was asked.
    """
    if env_id != ADAPTED:
        make_vector, single = open_environment(env_id, env_kwargs, max_steps)
        if not view and is_fitting(single.observation_space, single.action_space):
            return env_id, env_kwargs, make_vector, single
        single.close()
        inner = env_kwargs if max_steps is None else env_kwargs | {"max_episode_steps": max_steps}
        env_id, env_kwargs = ADAPTED, {"env": env_id, "env_kwargs": inner}
    env_kwargs = env_kwargs | (view or {})
    return env_id, env_kwargs, *open_environment(env_id, env_kwargs, max_steps)


def open_environment(env_id: str, env_kwargs: dict[str, Any], max_steps: int | None) -> tuple[Callable, gym.Env]:
    """(num_envs -> vector environment, one environment to look at)."""
    kwargs = dict(env_kwargs) if max_steps is None else env_kwargs | {"max_episode_steps": max_steps}
    try:
        single = gym.make(env_id, disable_env_checker=True, **kwargs)
    except ModuleNotFoundError as error:
        raise ValueError(f"found environment {env_id!r}, but a module cannot be imported: {error}") from error
    except TypeError as error:
        raise ValueError(f"{env_id} does not take the arguments {env_kwargs}: {error}") from error
    except gym.error.Error as error:
        if not isinstance(error, gym.error.UnregisteredEnv) and type(error) is not gym.error.Error:
            raise  # a plain Error is a malformed id; anything else is the environment's own
        near = difflib.get_close_matches(env_id, list(gym.registry), n=4, cutoff=0.4)
        raise ValueError(
            f"found environment {env_id!r}, which is not registered. "
            f"Nearest: {', '.join(near) or 'none'}. Expected an id that `reverie envs` lists, another registered one, "
            "or module:id, where importing the module registers the id."
        ) from error
    # A vector environment of ours takes one seed per environment; Gymnasium's own ones do not.
    if single.spec.vector_entry_point is not None and hasattr(single.unwrapped, "dynamics"):
        return lambda num: gym.make_vec(env_id, num, vectorization_mode="vector_entry_point", **kwargs), single
    return (
        lambda num: gym.vector.SyncVectorEnv([lambda: gym.make(env_id, disable_env_checker=True, **kwargs)] * num),
        single,
    )


def is_fitting(observation: spaces.Space, action: spaces.Space) -> bool:
    """Whether frames are uint8 images and actions a Box of [-1, 1] or a Discrete space from 0."""
    try:
        check_spaces("", observation, action)
    except ValueError:
        return False
    return True


def check_spaces(name: str, observation: spaces.Space, action: spaces.Space) -> None:
    """Raise ValueError unless frames are uint8 images and actions a Box of [-1, 1] or a Discrete space from 0."""
    if not is_frame(observation):
        raise ValueError(
            f"{name} observes {observation}, expected images: a Box of uint8 with shape (H, W, C), channels last. "
            "Wrap it in gymnasium.wrappers.AddRenderObservation, or give the option that makes it observe pixels; "
            "move the channels of (C, H, W) to the end with gymnasium.wrappers.TransformObservation."
        )
    box = isinstance(action, spaces.Box) and action.dtype.kind == "f"
    unit = box and (action.low == -1).all() and (action.high == 1).all()
    if not unit and not (isinstance(action, spaces.Discrete) and action.start == 0):
        raise ValueError(
            f"{name} takes actions in {action}, expected a float Box of [-1, 1] or a Discrete space from 0. "
            "Wrap it in gymnasium.wrappers.RescaleAction(env, -1, 1)."
        )


def time_limit(env: gym.Env, max_steps: int | None) -> int:
    """The caller's limit, or the registered one; ValueError where there is neither."""
    limit = max_steps if max_steps is not None else env.spec.max_episode_steps
    layer = env
    while limit is None and isinstance(layer, gym.Wrapper):  # registered without, but made of one that has a limit
        limit = layer._max_episode_steps if isinstance(layer, gym.wrappers.TimeLimit) else None
        layer = layer.env
    if limit is None:
        raise ValueError(
            f"{env.spec.id} is registered without a time limit, so an episode may never end. Give max_steps."
        )
    return limit


def as_json(what: str, record: dict[str, Any]) -> dict[str, Any]:
    """`record` as the manifest will give it back (tuples become lists), so that a resumption compares equal.

    Raises:
        ValueError: JSON cannot hold it; `what` names it.
    """
    try:
        return json.loads(json.dumps(record, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"found {what} {record}, expected values that JSON can hold, for the manifest records them: {error}"
        ) from error
