"""The mazes drawn by MiniWorld (Chevalier-Boisvert et al. 2023), beside our own ray caster: same view, same depth.

Every free cell is a MiniWorld room, open to its free neighbours, with our textures. MiniWorld's z is our −y, its
directions are our headings. Surfaces are lit evenly and there is no fog. The module imports MiniWorld, and with it
OpenGL, when the renderer is made, which is at the first picture; the whole process shares one, because MiniWorld gives
no graphics memory back.
"""

import contextlib
import ctypes.util
import io
import math
import os
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
from gymnasium.error import DependencyNotInstalled

from .raycaster import EYE, WALL_HEIGHT
from .textures import SIDE, texture

_MOST_LISTS = 256  # compiled mazes kept on the graphics side
_SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) steps across a room's edges, in MiniWorld's order
_LIBRARIES = {"GL": "libGL.so.1", "GLU": "libGLU.so.1", "EGL": "libEGL.so.1"}
_SLICES = 24  # of a cylinder or sphere
_REMEDY = (
    "renderer is 'miniworld', which cannot be used here: {reason}. Expected 'raycast', which needs no graphics "
    'library; or install MiniWorld, pip install "reverie[maze-gl]", and OpenGL with EGL, on Debian apt-get install '
    "libegl1 libgl1 libglu1-mesa libfontconfig1"
)


@cache
def check_installed() -> None:
    """Find MiniWorld and OpenGL without starting them, so that the process can still be forked.

    Raises:
        DependencyNotInstalled: one of them is not there; the message says what to install.
    """
    for name in ("pyglet", "miniworld"):
        if find_spec(name) is None:
            raise DependencyNotInstalled(_REMEDY.format(reason=f"ModuleNotFoundError: no module named {name!r}"))
    if not sys.platform.startswith("linux"):
        return  # libraries have other names there: the first picture tells
    for name, file in _LIBRARIES.items():
        try:
            ctypes.cdll.LoadLibrary(file)
        except OSError as error:
            if ctypes.util.find_library(name) is None:  # which is where pyglet looks
                raise DependencyNotInstalled(_REMEDY.format(reason=f"OSError: {error}")) from error


@cache
def shared_renderer() -> "MiniWorldRenderer":
    """The renderer of this process.

    Raises:
        DependencyNotInstalled: MiniWorld or OpenGL is not there; the message says what to install.
    """
    return MiniWorldRenderer()


class MiniWorldRenderer:
    """Draws poses in layouts through MiniWorld, one picture after the other; see ``shared_renderer``."""

    def __init__(self) -> None:
        os.environ.setdefault("PYGLET_HEADLESS", "true")  # has to be there before pyglet is imported
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # MiniWorld prints how many samples it falls back to
                self._world = _make_world()
        except Exception as error:  # pyglet's errors are many, and depend on what is missing
            raise DependencyNotInstalled(_REMEDY.format(reason=f"{type(error).__name__}: {error}")) from error
        self._process = os.getpid()

    def render(
        self,
        poses: np.ndarray,
        slots: np.ndarray,
        layouts,
        present: np.ndarray,
        size: int,
        *,
        fov: float,
        depth: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``raycaster.render``, without fog.

        Raises:
            RuntimeError: in a forked process, which cannot use the graphics library of its parent.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "renderer 'miniworld' was made before this process was forked, and its graphics library does not "
                "survive that; start workers with context='spawn'"
            )
        frames = np.empty((len(poses), size, size, 3), dtype=np.uint8)
        depths = np.empty((len(poses), size, size) if depth else (0, size, size), dtype=np.float32)
        for n, pose in enumerate(poses):  # OpenGL draws one after the other
            self._world.show(layouts, int(slots[n]), present[n])
            self._world.look(pose, fov)
            frames[n] = self._world.picture(size)
            if depth:
                depths[n] = self._world.depths(size)
        return frames, depths


def _make_world():
    from miniworld.entity import Entity
    from miniworld.miniworld import MiniWorldEnv, Room
    from miniworld.opengl import FrameBuffer
    from pyglet import gl

    class Cell(Room):
        """A free cell, whose walls have a texture each."""

        def __init__(self, row: int, column: int, layouts, slot: int) -> None:
            walls = layouts.walls[slot]
            east, west, near, far = column + 1, column, -row, -row - 1
            super().__init__(
                np.array([[east, near], [east, far], [west, far], [west, near]]),
                wall_height=WALL_HEIGHT,
                floor_tex=_texture_name(int(layouts.floors[slot, row, column])),
                ceil_tex=_texture_name(int(layouts.ceilings[slot, row, column])),
                wall_tex=_texture_name(0),
            )
            self._textures = []
            for edge, (down, right) in enumerate(_SIDES):
                behind = int(walls[row + down, column + right])
                if behind:
                    self._textures.append(_texture_name(behind - 1))
                else:
                    self.add_portal(edge, start_pos=0, end_pos=1)

        def _render(self) -> None:
            from miniworld.opengl import Texture

            vertices, self.wall_verts = self.wall_verts, np.zeros((0, 3))
            super()._render()  # floor and ceiling
            self.wall_verts = vertices
            for wall, name in enumerate(self._textures):
                Texture.get(name).bind()
                gl.glBegin(gl.GL_QUADS)
                for i in range(4 * wall, 4 * wall + 4):
                    gl.glNormal3f(*self.wall_norms[i])
                    gl.glTexCoord2f(*self.wall_texcs[i])
                    gl.glVertex3f(*vertices[i])
                gl.glEnd()

    class Thing(Entity):
        """A pillar, box or sphere."""

        def __init__(self, fields: np.ndarray) -> None:
            super().__init__()
            x, y, self.radius, self.height, self.shape, colour = (float(value) for value in fields)
            self.pos, self.dir = np.array([x, 0.0, -y]), 0.0
            self.colour = [(int(colour) >> shift & 255) / 255.0 for shift in (0, 8, 16)]

        def render(self) -> None:
            gl.glDisable(gl.GL_TEXTURE_2D)
            gl.glColor3f(*self.colour)
            gl.glPushMatrix()
            gl.glTranslatef(*self.pos)
            quadric = gl.gluNewQuadric()
            if self.shape == 2:
                gl.glTranslatef(0.0, self.radius, 0.0)
                gl.gluSphere(quadric, self.radius, _SLICES, _SLICES)
            else:  # along z, which is turned upwards; a box is a cylinder of four slices
                gl.glRotatef(-90.0, 1.0, 0.0, 0.0)
                box = self.shape == 1
                gl.glRotatef(45.0 if box else 0.0, 0.0, 0.0, 1.0)
                gl.gluCylinder(quadric, self.radius, self.radius, self.height, 4 if box else _SLICES, 1)
            gl.gluDeleteQuadric(quadric)
            gl.glPopMatrix()
            gl.glColor3f(1.0, 1.0, 1.0)
            gl.glEnable(gl.GL_TEXTURE_2D)

    class World(MiniWorldEnv):
        """MiniWorld with a compiled list of drawing commands per maze."""

        def __init__(self) -> None:
            _load_textures()
            self._lists: dict[tuple, int] = {}
            self._current = 0
            self._buffers: dict[int, FrameBuffer] = {}
            super().__init__(obs_width=64, obs_height=64, window_width=64, window_height=64)

        def _gen_world(self) -> None:
            self.add_rect_room(
                min_x=0, max_x=1, min_z=0, max_z=1, wall_tex=_texture_name(0), floor_tex=_texture_name(0)
            )
            self.place_agent(pos=np.array([0.5, 0.0, 0.5]), dir=0.0)

        def show(self, layouts, slot: int, present: np.ndarray) -> None:
            """Switch to a maze and the objects in it."""
            self.shadow_window.switch_to()
            while gl.glGetError():
                pass  # what others (a pygame window, say) left behind would be taken for ours
            key = (layouts.key, slot)
            if key not in self._lists:
                if len(self._lists) >= _MOST_LISTS:
                    gl.glDeleteLists(self._lists.pop(next(iter(self._lists))), 1)
                self._lists[key] = self._compile(layouts, slot)
            self._current = self._lists[key]
            self.entities = [Thing(fields) for fields in layouts.objects[slot][present]]

        def _compile(self, layouts, slot: int) -> int:
            number = gl.glGenLists(1)
            cells = [Cell(row, column, layouts, slot) for row, column in np.argwhere(layouts.walls[slot] == 0)]
            for cell in cells:
                cell._gen_static_data(self.params, None)
            gl.glNewList(number, gl.GL_COMPILE)
            gl.glDisable(gl.GL_LIGHTING)
            gl.glEnable(gl.GL_TEXTURE_2D)
            for cell in cells:
                cell._render()
            gl.glEndList()
            return number

        def look(self, pose: np.ndarray, fov: float) -> None:
            """Put the camera at x, y and heading."""
            agent = self.agent
            agent.pos, agent.dir = np.array([pose[0], 0.0, -pose[1]]), float(pose[2])
            agent.cam_height, agent.cam_fwd_disp, agent.cam_pitch, agent.cam_angle = EYE, 0.0, 0.0, 0.0
            agent.cam_fov_y = math.degrees(fov)

        def picture(self, size: int) -> np.ndarray:
            """What the camera sees, uint8 ``(size, size, 3)``."""
            if size not in self._buffers:
                with contextlib.redirect_stdout(io.StringIO()):
                    self._buffers[size] = FrameBuffer(size, size, 8)
            return self.render_obs(self._buffers[size])

        def depths(self, size: int) -> np.ndarray:
            """Depths of the last picture of this size, float32 ``(size, size)``; of one sample somewhere in a pixel."""
            return self._buffers[size].get_depth_map(0.04, 100.0)[..., 0]  # MiniWorld's own near and far planes

        def _render_world(self, frame_buffer: FrameBuffer, render_agent: bool) -> np.ndarray:
            if self._current:
                gl.glCallList(self._current)
                gl.glDisable(gl.GL_CULL_FACE)
                for thing in self.entities:
                    thing.render()
                gl.glEnable(gl.GL_CULL_FACE)
            return frame_buffer.resolve()

    return World()


def _texture_name(number: int) -> str:
    return f"reverie_{number}"


def _load_textures() -> None:
    """Put our textures where MiniWorld looks for its own."""
    import pyglet
    from miniworld.miniworld import TEX_DENSITY
    from miniworld.opengl import Texture

    from .textures import NUM_TEXTURES

    for number in range(NUM_TEXTURES):
        name = _texture_name(number)
        picture = pyglet.image.ImageData(SIDE, SIDE, "RGB", texture(number).tobytes(), pitch=-3 * SIDE)
        ours = Texture(picture.get_mipmapped_texture(), name)
        ours.width = ours.height = TEX_DENSITY  # one repetition per metre
        Texture.tex_paths[name], Texture.tex_cache[name] = [name], ours
