"""Statistics of a stored replay, and their table. No TensorFlow."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.dimensions import allows, begins, choice_names, outside
from pipeline.datasets.stored_frames import EpisodePart, Lane, episode_parts, is_padding, is_step
from pipeline.replay.frames import FIRST, LAST, FrameLayout

_PERCENTILES = (0, 5, 50, 95, 100)
_MOST_ACTIONS = 18
_BAR = 30

Numbers = NDArray[np.float64]


class Findings(NamedTuple):
    """Statistics of a stored replay."""

    distributions: dict[str, Numbers]
    """Of episodes, transitions or items, by name; in the order of the table."""
    actions: NDArray[np.int64]
    """[actions]: how often each was taken; of several dimensions their choices, one dimension after the other."""
    sizes: tuple[int, ...]
    """Of the dimensions of an action; empty where it is one number."""
    episodes: dict[str, tuple[int, int]]
    """Episodes and their steps, by how they ended or why they are not whole."""
    steps: int
    """Stored transitions: frames in which a step was taken."""
    ends: int
    """Stored frames with an episode's last observation: nothing is learned from them."""
    duplicates: int
    """Transitions that are equal to an earlier one: same observation, action, reward, end and next observation."""
    faults: dict[str, int]
    """Numbers of faulty frames, by what is wrong with them."""


def findings(
    lanes: Sequence[Lane], layout: FrameLayout, gradient_steps: int | None, items: Mapping[str, Iterable[float]]
) -> Findings:
    """Computes the statistics from every stored frame.

    Args:
      lanes: of the replay.
      layout: of its frames.
      gradient_steps: of the learner whose weights acted: ages go up to them. None of experience of other runs.
      items: further distributions, by name: what is known of items.
    """
    episodes = [part for lane in lanes for part in episode_parts(lane)]
    steps = np.concatenate([part.steps for part in episodes]) if episodes else layout.empty(0)
    whole = [part for part in episodes if not part.cut]
    distributions: dict[str, Any] = {
        "episode return": [part.steps["reward"].sum(dtype=np.float64) for part in whole],
        "episode length": [len(part.steps) for part in whole],
        "reward": steps["reward"],
    }
    if gradient_steps is not None:  # a learner that was restarted may have gone back
        newest = max(gradient_steps, int(steps["gradient_steps"].max(initial=0)))
        distributions["age in gradient steps"] = newest - steps["gradient_steps"]
    distributions |= items
    endings: dict[str, list[int]] = {}
    for part in episodes:
        ending = part.cut or ("truncated" if part.truncated else "terminated")
        endings.setdefault(ending, []).append(len(part.steps))
    sizes = layout.specs.action_sizes
    actions = (steps["action"] + begins(sizes) if sizes else steps["action"])[~outside(steps["action"], layout.specs)]
    return Findings(
        distributions={name: np.asarray(values, np.float64) for name, values in distributions.items()},
        actions=np.bincount(actions.ravel(), minlength=layout.specs.num_actions),
        sizes=sizes,
        episodes={name: (len(lengths), sum(lengths)) for name, lengths in sorted(endings.items())},
        steps=len(steps),
        ends=sum(int(np.count_nonzero(_is_end(lane))) for lane in lanes),
        duplicates=duplicates(episodes, layout),
        faults={name: count for name, count in faults(lanes, layout).items() if count},
    )


def duplicates(episodes: Iterable[EpisodePart], layout: FrameLayout) -> int:
    """Counts transitions equal to an earlier one in everything but recurrent state and weight version."""
    told = [name for name, _ in layout.fields() if name.startswith(layout.leaf_field("")) or name == "mask"]
    seen, steps = set[bytes](), 0
    for part in episodes:
        observations = [b"".join(frame[name].tobytes() for name in told) for frame in part.frames]
        for frame, before, after in zip(part.steps, observations, observations[1:], strict=False):
            done = b"".join(frame[name].tobytes() for name in ("action", "reward", "terminated"))
            seen.add(hashlib.blake2b(before + done + after, digest_size=16).digest())
            steps += 1
    return steps - len(seen)


def faults(lanes: Iterable[Lane], layout: FrameLayout) -> dict[str, int]:
    """Counts stored frames with NaN or infinite numbers, invalid actions, or a step type that does not follow."""
    found: Counter[str] = Counter()
    floats = [layout.leaf_field(name) for name, spec in layout.specs.leaves().items() if spec.dtype == "float32"]
    for lane in lanes:
        frames = lane.frames[lane.stored & ~is_padding(lane.frames)]
        steps = lane.frames[is_step(lane)]
        for name in floats:
            bad = ~np.isfinite(frames[name].reshape(len(frames), -1)).all(axis=1)
            found["observation not finite"] += int(np.count_nonzero(bad))
        found["reward not finite"] += int(np.count_nonzero(~np.isfinite(steps["reward"])))
        wrong = outside(steps["action"], layout.specs)
        found["action that does not exist"] += int(np.count_nonzero(wrong))
        if layout.specs.masked:
            there = steps[~wrong]
            allowed = allows(there["mask"], there["action"], layout.specs.action_sizes)
            found["action that its mask forbids"] += int(np.count_nonzero(~allowed))
        follows = lane.stored[:-1] & ~is_padding(lane.frames)[:-1] & ~is_padding(lane.frames)[1:]
        ends, begins = lane.frames["step_type"][:-1] == LAST, lane.frames["step_type"][1:] == FIRST
        found["episode that begins within another"] += int(np.count_nonzero(follows & (ends != begins)))
    return dict(found)


def _is_end(lane: Lane) -> NDArray[np.bool_]:
    ends: NDArray[np.bool_] = lane.stored & (lane.frames["step_type"] == LAST) & ~is_padding(lane.frames)
    return ends


def table(found: Findings) -> str:
    """The findings as text for a terminal."""
    return "\n".join([*_episodes(found), "", *_distributions(found), "", *_actions(found), "", *_checks(found)])


def rows(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A title with names and values below it."""
    return [title, *(f"  {name:<56} {value}" for name, value in pairs)]


def share(part: int, whole: int) -> str:
    """A number, and its percentage of another."""
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"


def _episodes(found: Findings) -> list[str]:
    episodes = ((name, f"{count:,} of {steps:,} steps") for name, (count, steps) in found.episodes.items())
    return rows("episodes", episodes)


def _distributions(found: Findings) -> list[str]:
    titles = ("mean", "least", "5 %", "median", "95 %", "most", "of")
    lines = [f"{'distributions':<32}" + "".join(f"{title:>12}" for title in titles)]
    for name, values in found.distributions.items():
        finite = values[np.isfinite(values)]
        numbers = [finite.mean(), *np.percentile(finite, _PERCENTILES)] if len(finite) else []
        cells = "".join(f"{number:>12,.6g}" for number in numbers) if numbers else f"{'':>72}"
        lines.append(f"  {name:<30}{cells}{len(values):>12,}")
    return lines


def _actions(found: Findings) -> Iterator[str]:
    total = int(found.actions.sum()) // max(1, len(found.sizes))
    yield "actions, each dimension by itself" if found.sizes else "actions"
    names = choice_names(found.sizes) or [str(action) for action in range(len(found.actions))]
    for name, count in list(zip(names, found.actions.tolist(), strict=True))[:_MOST_ACTIONS]:
        bar = "#" * round(_BAR * count / total) if total else ""
        yield f"  {name:<6}{share(count, total):>20}  {bar}".rstrip()
    if len(found.actions) > _MOST_ACTIONS:
        rest = int(found.actions[_MOST_ACTIONS:].sum())
        yield f"  {len(found.actions) - _MOST_ACTIONS} others: " + (f"{rest:,}" if found.sizes else share(rest, total))


def _checks(found: Findings) -> list[str]:
    wrong = [(name, f"{count:,} frames") for name, count in found.faults.items()] or [("none", "")]
    return [
        *rows("duplicates", [("steps equal to one before", share(found.duplicates, found.steps))]),
        "",
        *(line.rstrip() for line in rows("faults", wrong)),
    ]
