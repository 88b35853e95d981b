"""Datasets of Minari: whole episodes, written in its HDF5 layout and read by Minari itself.

Minari's own writer stores images as JPEG, which changes them. Here they are PNG in the same place: what reads an image
there tells the format by its bytes.
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pipeline.datasets.datasets import Columns, Dataset, Selection, frames
from pipeline.datasets.stored_frames import EpisodePart
from pipeline.environments import suite_of
from pipeline.environments.interfaces.action_spaces import inward, outward
from pipeline.environments.lanes.leaves import from_leaves
from pipeline.environments.lanes.spaces import first_action, leaf_readers, specs_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.replay.frames import FrameLayout
from pipeline.runtime.installation import how_to_install

_DATA, _METADATA, _MAIN = "data", "metadata.json", "main_data.hdf5"
_IDENTITY = re.compile(r"[-\w]+-v\d+")
_MOST_CHANNELS = 4
_MASK = "action_mask"


def package() -> Any:
    """The package minari.

    Raises:
      UsageError: it is not installed, or something that it needs; says how to install it.
    """
    try:
        import h5py  # noqa: F401  # these take a while: after the command line has been checked
        import minari
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Minari's datasets need {how_to_install('minari')}; or take --format=tfrecord ({error})"
        ) from None
    return minari


class Spaces(NamedTuple):
    """What an environment takes and gives."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]

    def storable(self) -> "Spaces":
        """As Minari's storage can have them: an image of one channel without the axis for it.

        Raises:
          UsageError: an image has more channels than PNG has.
        """
        return Spaces(_storable(self.observation), self.action)


def _storable(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        if bad := [key for key in space.spaces if "/" in key]:
            raise UsageError(f"Minari cannot store an observation's part named {bad[0]!r}: take --format=tfrecord")
        return spaces.Dict({key: _storable(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_storable(part) for part in space.spaces])
    if isinstance(space, spaces.Box) and _is_image(space) and len(space.shape) == 3:
        if space.shape[-1] == 1:
            return spaces.Box(0, 255, space.shape[:-1], np.uint8)
        if space.shape[-1] > _MOST_CHANNELS:
            raise UsageError(
                f"Minari stores images of at most {_MOST_CHANNELS} channels, and these have {space.shape[-1]}: take "
                "--format=tfrecord"
            )
    return space


def _is_image(space: spaces.Space[Any]) -> bool:
    from minari.dataset.minari_storage import is_image_space  # what its reader goes by

    return bool(is_image_space(space))


def write(
    folder: Path,
    layout: FrameLayout,
    selection: Selection,
    interface: Spaces,
    config: EnvironmentConfig,
    named: Mapping[str, str],
) -> None:
    """Writes a dataset into an empty folder.

    Args:
      folder: to write into.
      layout: of the frames.
      selection: whole episodes.
      interface: of the environment.
      config: the environment.
      named: further entries of Minari's metadata, `dataset_id` among them.

    Raises:
      UsageError: Minari is missing, or cannot store such observations.
    """
    package()
    from minari.dataset.minari_storage import MinariStorage

    interface = interface.storable()
    (folder / _DATA).mkdir()
    storage = MinariStorage.new(folder / _DATA, *interface, env_spec=_env_spec(config), data_format="hdf5")
    storage.update_metadata({**named, "minari_version": metadata.version("minari")})
    _write_episodes(folder / _DATA / _MAIN, layout, selection.taken, interface)
    storage.update_metadata(
        {
            "total_episodes": len(selection.taken),
            "total_steps": selection.steps,
            "dataset_size": float(storage.get_size()),
        }
    )


def identity(folder: Path) -> str:
    """Minari's name of a dataset that is written into a folder; it finds one by its name if that is the folder's."""
    if _IDENTITY.fullmatch(folder.name):
        return folder.name
    return re.sub(r"[^-\w]", "-", folder.name) + "-v0"


def _env_spec(config: EnvironmentConfig) -> Any:
    """Gymnasium's own description of the environment; None where it would not make the same one."""
    is_plain = not config.import_path and config.engine == "gymnasium" and not config.frame_skip
    is_plain = is_plain and not config.discretize
    if not is_plain or suite_of(config.id) or config.id not in gymnasium.registry:
        return None
    spec = gymnasium.spec(config.id)
    limit = config.max_episode_steps or spec.max_episode_steps
    return dataclasses.replace(spec, kwargs={**spec.kwargs, **config.kwargs}, max_episode_steps=limit)


def _write_episodes(path: Path, layout: FrameLayout, episodes: Iterable[EpisodePart], interface: Spaces) -> None:
    import h5py

    with h5py.File(path, "w", track_order=True) as file:
        for number, part in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"], group.attrs["total_steps"] = number, len(part.steps)
            for name, values in _columns(layout, part, interface).items():
                _write(group, name, values, interface.observation if name == "observations" else None)


def _columns(layout: FrameLayout, part: EpisodePart, interface: Spaces) -> dict[str, Any]:
    leaves = {name: part.frames[layout.leaf_field(name)] for name in layout.specs.leaves()}
    truncations = np.zeros(len(part.steps), np.bool_)
    truncations[-1] = part.truncated
    infos = {"gradient_steps": part.frames["gradient_steps"]}
    if layout.specs.masked:
        infos[_MASK] = part.frames["mask"]
    return {
        "observations": from_leaves(interface.observation, leaves),
        "actions": _as_given(interface.action, part.steps["action"].astype(np.int64)),
        "rewards": part.steps["reward"],
        "terminations": part.steps["terminated"],
        "truncations": truncations,
        "infos": infos,
    }


def _write(group: Any, name: str, values: Any, space: Any) -> None:
    """Writes an array, or a group of those that a Dict, a Tuple or infos have; images each for itself."""
    if isinstance(values, (dict, tuple)):
        parts = values.items() if isinstance(values, dict) else ((f"_index_{i}", part) for i, part in enumerate(values))
        below = group.create_group(name)
        own = list(space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces) if space else []
        for number, (key, part) in enumerate(parts):
            _write(below, key, part, own[number] if own else None)
    elif space is not None and _is_image(space):
        import h5py

        images = group.create_dataset(name, (len(values),), h5py.vlen_dtype(np.uint8))
        for index, image in enumerate(values.reshape(-1, *space.shape)):
            images[index] = _png(image)
    else:
        group.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))


def _png(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return np.frombuffer(stream.getvalue(), np.uint8)


def find(folder: Path) -> Dataset | None:
    """The dataset in a folder of Minari's; None if there is no metadata of one.

    Raises:
      UsageError: Minari is missing or cannot read it, or its actions or observations are of no supported kind.
    """
    data = next((path for path in (folder / _DATA, folder) if (path / _METADATA).is_file()), None)
    if data is None:
        return None
    minari = package()
    try:
        stored = minari.MinariDataset(data)
        specs = specs_of(stored.observation_space, stored.action_space, masked=_has_masks(stored))
    except UsageError as error:
        raise UsageError(f"{folder}: {error}") from None
    except Exception as error:  # whatever Minari makes of it
        raise UsageError(f"{folder} cannot be read by Minari: {type(error).__name__}: {_one_line(error)}") from None

    def read(layout: FrameLayout) -> Iterator[NDArray[np.void]]:
        return _read(folder, stored, layout)

    def verify(layout: FrameLayout) -> None:
        for _ in read(layout):  # its files have no checksums
            pass

    return Dataset(specs, stored.total_steps, read, verify, has_whole_episodes=True)


def _has_masks(stored: Any) -> bool:
    first = next(iter(stored), None)
    return first is not None and _MASK in (first.infos or {})


def _read(folder: Path, stored: Any, layout: FrameLayout) -> Iterator[NDArray[np.void]]:
    readers = leaf_readers(stored.observation_space)
    try:
        for episode in stored:
            infos = episode.infos or {}
            versions = infos.get("gradient_steps")
            yield frames(
                layout,
                Columns(
                    {name: read(episode.observations) for name, read in readers.items()},
                    infos.get(_MASK),
                    _from_zero(stored.action_space, layout.specs.action_sizes, episode.actions, len(episode)),
                    episode.rewards,
                    episode.terminations,
                    None if versions is None or len(versions) != len(episode) + 1 else versions[:-1],
                ),
            )
    except Exception as error:  # whatever its file has
        raise UsageError(f"{folder} cannot be learned from: {_one_line(error)}") from None


def _as_given(space: Any, actions: NDArray[np.int64]) -> Any:
    """Actions [T] or [T, D] from 0 as the space has them."""
    return actions + first_action(space) if actions.ndim == 1 else outward(space, actions)


def _from_zero(space: Any, sizes: tuple[int, ...], actions: Any, steps: int) -> NDArray[Any]:
    """The inverse of `_as_given`."""
    return inward(space, actions, steps) if sizes else np.asarray(actions) - first_action(space)


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
