"""MinAtar (Young and Tian 2019): five Atari games in miniature, bool [10, 10, channels].

`MinAtar/Breakout-v0`, and Asterix, Freeway, Seaquest, SpaceInvaders. Its published settings are the defaults: sticky
actions with probability 0.1 and difficulty ramping; -v0 has all six actions, as published, -v1 the game's own.
"""

from minatar.gym import register_envs

register_envs()
