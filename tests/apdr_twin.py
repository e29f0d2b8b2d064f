"""A slow, obvious twin of APDR's densities: one sequence, one path of discrete choices, one object at a time.

A path says for each step which of the objects stay (in the order of their births) and how many are new. Continuous
variables are at their posterior's means. The twin reads the model's networks, and nothing of its bookkeeping.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from reverie.world_models.objects.attention import boxes_of, read, where_of, windows_of
from reverie.world_models.objects.steps import Drawn
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import softplus


@dataclass
class Thing:
    number: int
    what: torch.Tensor
    where: torch.Tensor
    last_what: torch.Tensor
    expected: torch.Tensor
    velocity: torch.Tensor
    cov: torch.Tensor  # (4, 2, 2) of true place and velocity
    memory: torch.Tensor


def first_cov(motion):
    return torch.diag_embed(torch.stack([torch.ones(4).double(), motion.variances[3]], -1))


def moved_on(motion, thing, action, turn):
    """p(where) of the next step, its mean velocity and covariance: a textbook's Kalman filter for each number."""
    means, stds, velocities, covs = [], [], [], []
    push = motion.push(thing.what).reshape(4, len(action)) @ action
    for k in range(4):
        r, q_place, q_speed = motion.variances[:3, k]
        zero, rho = torch.zeros_like(r), motion.inertia[k]
        H = torch.eye(2).double()[:1]
        F = torch.stack([torch.stack([torch.ones_like(rho), rho]), torch.stack([zero, rho])])
        Q = torch.stack([torch.stack([q_speed + q_place, q_speed]), torch.stack([q_speed, q_speed])])
        mean, P = torch.stack([thing.expected[k], thing.velocity[k]]), thing.cov[k]
        S = H @ P @ H.T + r
        gain = P @ H.T / S
        mean = mean + (gain * (thing.where[k] - mean[0])).squeeze(-1)
        P = (torch.eye(2).double() - gain @ H) @ P
        mean, P = F @ mean + push[k] + turn[k], F @ P @ F.T + Q
        means.append(mean[0].clamp(-1.5, 1.5) if k >= 2 else mean[0])
        velocities.append(mean[1])
        stds.append((P[0, 0] + r).sqrt())
        covs.append(P)
    return Normal(torch.stack(means), torch.stack(stds)), torch.stack(velocities), torch.stack(covs)


def looked_at(config, frame, window):
    """A glimpse; the part that is of the frame is what is seen of an image of ones."""
    if config.sees_edge:
        frame = torch.cat([frame, torch.ones_like(frame[:1])])
    return read(frame, window, config.glimpse_size)


def std_of(raw, start):
    return softplus(raw + math.log(math.exp(start) - 1)) + 0.01


def moved_by(shift, sides):
    return torch.cat([shift[:2], sides * shift[2:].tanh()])


def window(config, where):
    return windows_of(where, config.smallest, config.largest)


def share_inside(config, where):
    left, top, right, bottom = boxes_of(window(config, where), (50, 50)).tolist()
    across, down = min(right, 50) - max(left, 0), min(bottom, 50) - max(top, 0)
    return max(across, 0) * max(down, 0) / ((right - left) * (bottom - top))


def paths(num_slots, steps):
    """Every path of choices."""

    def grow(count, left):
        if left == 0:
            yield ()
            return
        for stays in itertools.product((False, True), repeat=count):
            for new in range(num_slots - sum(stays) + 1):
                for rest in grow(sum(stays) + new, left - 1):
                    yield ((stays, new), *rest)

    return list(grow(0, steps))


def trace(path):
    """The numbers of the objects that are there after each step."""
    there, born, found = [], 0, []
    for stays, new in path:
        there = [number for number, stay in zip(there, stays, strict=True) if stay]
        there = there + list(range(born, born + new))
        born += new
        found.append(tuple(there))
    return tuple(found)


def explained(model, kept):
    """The picture of objects."""
    if not kept:
        return model.renderer.background
    what, where = (torch.stack([getattr(thing, name) for thing in kept]) for name in ("what", "where"))
    return model.renderer(torch.ones(len(kept)).double(), what, where).mean


def weigh(model, frames, actions, path):
    """log q of the discrete choices, and the log-weight, of one path; frames (T, C, H, W), actions (T, A)."""
    config, size = model.config, model.config.glimpse_size
    d, n_slots = config.what_dim, config.num_slots
    things, born, context, began = [], 0, model.first_context, False
    log_q_discrete, log_weight = torch.zeros(()).double(), torch.zeros(()).double()
    for frame, action, (stays, new) in zip(frames, actions, path, strict=True):
        kept, hidden, before = [], model.propagation.start(context), torch.zeros(5).double()
        number_expected = torch.zeros(()).double()
        for thing, stay in zip(things, stays, strict=True):
            elsewhere = thing.where - thing.expected
            inputs = torch.cat([thing.what, thing.where, elsewhere, thing.velocity, action])
            memory = model.transition.cell(inputs, thing.memory)
            out = model.transition.head(memory)
            p_what = Normal(thing.what + out[1 : 1 + d], std_of(out[1 + d : 1 + 2 * d], 0.2))
            turn = torch.zeros(4).double()
            if config.motion == "steered":
                turn[2:] = out[1 + 2 * d :].tanh()
            p_where, velocity, cov = moved_on(model.transition.motion, thing, action, turn)
            gone = config.ends_outside is not None and share_inside(config, p_where.mean) <= config.ends_outside
            p_stay = Bernoulli(logits=torch.tensor(-40.0).double() if gone else out[0])
            number_expected = number_expected + p_stay.probs

            around = thing.where if config.propagate_around == "last" else p_where.mean
            expected = window(config, around)
            wide = torch.cat([config.margin * expected[:2], expected[2:]])
            left = frame - explained(model, kept) if config.attends == "remainder" else frame
            glimpse = looked_at(config, left, wide)
            if config.glimpse_mask:
                glimpse = glimpse * model.propagation.mask(thing.what).sigmoid().reshape(size, size)
            look = model.encoder(glimpse)
            hidden = model.propagation.cell(torch.cat([look, thing.what, before]), hidden)
            out = model.propagation.head(hidden)
            q_stay = Bernoulli(logits=p_stay.logits + out[0])
            q_where = Normal(around + moved_by(out[1:5], expected[:2]), std_of(out[5:], 0.05))
            where, answer = q_where.mean, torch.tensor(float(stay)).double()
            log_q_discrete = log_q_discrete + q_stay.log_prob(answer)
            log_weight = log_weight + p_stay.log_prob(answer) - q_stay.log_prob(answer)
            before = torch.cat([where - around, torch.ones(1).double()]) * answer
            if stay:
                look = model.encoder(looked_at(config, frame, window(config, where)))
                out = model.propagation.what_head(torch.cat([hidden, look, p_what.mean, thing.what]))
                mean = p_what.mean + out[:d]
                if config.appearance == "gated":
                    keep, drop, leave = (1 / (1 + (-gate).exp()) for gate in out[2 * d :].split(d))
                    mean = keep * thing.what + (1 - drop) * out[:d] + (1 - leave) * p_what.mean
                q_what = Normal(mean, std_of(out[d : 2 * d], 0.2))
                what = q_what.mean
                for p, q, z in ((p_what, q_what, what), (p_where, q_where, where)):
                    log_weight = log_weight + (p.log_prob(z) - q.log_prob(z)).sum()
                kept.append(Thing(thing.number, what, where, thing.what, p_where.mean, velocity, cov, memory))

        room = n_slots - len(kept)
        scores = torch.arange(room + 1).double() * math.log(config.ratio)
        if config.discovery_prior == "learned":
            scores = model.discovery_prior.scores(torch.stack([number_expected, torch.tensor(float(began)).double()]))
            scores = scores[: room + 1] + 10.0 * began * (torch.arange(room + 1) == 0)
        log_weight, began = log_weight + scores[new] - scores.exp().sum().log(), True
        presence, wheres = torch.zeros(n_slots).double(), torch.zeros(n_slots, 4).double()
        for slot, thing in enumerate(kept):
            presence[slot], wheres[slot] = 1.0, thing.where
        zero = torch.zeros(()).double()
        drawn = Drawn(presence, presence > 0, torch.zeros(n_slots, d).double(), wheres, zero, zero, zero, zero, hidden)
        maps = model.discovery.glance(frame, model.renderer.background)
        places, facts = model.discovery._places(drawn, maps)
        hidden, before = model.discovery.start(hidden), torch.zeros(5).double()
        for i in range(min(new + 1, room)):
            first = torch.cat([torch.full((2,), config.first_window, dtype=torch.float64), places[i]])
            look = model.encoder(looked_at(config, frame, first))
            hidden = model.discovery.cell(torch.cat([look, facts[i], before]), hidden)
            out = model.discovery.head(hidden)
            q_more, answer = Bernoulli(logits=out[0]), torch.tensor(float(i < new)).double()
            log_q_discrete = log_q_discrete + q_more.log_prob(answer)
            log_weight = log_weight - q_more.log_prob(answer)
            if i == new:
                break
            around = where_of(first, config.smallest, config.largest)
            q_where = Normal(around + moved_by(out[1:5], first[:2]), std_of(out[5:], 0.1))
            where = q_where.mean
            look = model.encoder(looked_at(config, frame, window(config, where)))
            out = model.discovery.what_head(torch.cat([hidden, look]))
            q_what = Normal(out[:d], std_of(out[d:], 0.5))
            what = q_what.mean
            p_where = Normal(model.discovery_prior.where_mean, std_of(model.discovery_prior.where_raw_std, 0.7))
            for p, q, z in ((Normal(zero, 1.0), q_what, what), (p_where, q_where, where)):
                log_weight = log_weight + (p.log_prob(z) - q.log_prob(z)).sum()
            before = torch.cat([where, torch.ones(1).double()])
            still, cov = torch.zeros_like(where), first_cov(model.transition.motion)
            kept.append(Thing(born + i, what, where, what, where, still, cov, model.transition.first_memory))
        born += new
        things = kept

        if things:
            stacked = [torch.stack([getattr(thing, name) for thing in things]) for name in ("what", "where")]
            picture = model.renderer(torch.ones(len(things)).double(), *stacked)
            summary = model.embedding(torch.cat(stacked, -1)).tanh().sum(0)
        else:
            picture = Normal(model.renderer.background, config.frame_std)
            summary = torch.zeros(config.units).double()
        log_weight = log_weight + picture.log_prob(frame).sum()
        context = model.context_cell(summary, context)
    return log_q_discrete, log_weight
