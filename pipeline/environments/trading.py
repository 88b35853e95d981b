"""Trading one instrument on its closing prices, on gym-anytrading: `Trading/Stocks-v0` and `Trading/Forex-v0`.

gym-anytrading brings the price data, the episode's bookkeeping and the rendering. What is observed, earned and paid is
this module's, as the library's own observation lacks the position, its prices are raw, its rewards come only when a
position is closed and know no costs, and its fees say nothing of a user's broker.

Time runs in rows, a row a bar. At row t the closes up to and with t are known; the action chooses the position that is
held from that close to the next, and is filled at that close. The reward of the step is the log of what equity is
multiplied by over it, costs included, so an episode's return is the log of the equity that it ends with, of 1 that it
began with. A position that is open at the end is counted at the last close, without the cost of closing it.

A period is what is earned on its rows: that from `begin` to `end` begins with the decision at the row before it, and
sees closes before that. So periods that meet share no row that is earned on, and of the later one nothing is seen in
the earlier one. The end of a period truncates the episode and does not terminate it: the market goes on, with the
position in it, and that the data ends there says nothing of what it is worth.
"""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
from gym_anytrading import datasets
from gym_anytrading.envs import TradingEnv
from gymnasium import spaces
from numpy.typing import NDArray

from pipeline.environments import price_data
from pipeline.experiment.config import UsageError

_BARS_A_SECOND = 10
_DRAWN_BARS = 120
_SHIPPED = Path(datasets.__file__).parent / "data"


class Market(TradingEnv):  # type: ignore[misc]
    """One instrument, of which nothing or all of the equity's worth is held; or, with `short`, owed or held.

    Actions: 0 sells (nothing is held; with `short` the equity's worth is owed), 1 buys. Each trades what is missing to
    that position, at `cost` a unit: to turn from owing to holding trades two units. What is owed is kept at the
    equity's worth from bar to bar, which is counted as free.

    Observations: float32 [window + 1], the last `window` log returns, oldest first, over their root mean square (which
    nothing later enters), and the position held: 0 or 1, with `short` -1 or 1 and 0 before the first step.

    Args:
      csv: a file with a column Close, and others at will; see `price_data.read`.
      window: log returns that are observed.
      begin: of the period, as a share of the rows.
      end: of the period, likewise.
      cost: share of what is traded that is lost: 0.001 is ten basis points.
      episode: steps of an episode that begins anywhere in the period; 0 plays the period from its beginning to its end.
      short: whether selling goes on to owe the instrument.
      reward_scale: rewards are multiplied by it; 1 makes a return the log of equity.
      render_mode: "human" shows the whole period, by gym-anytrading; "rgb_array" draws the newest bars.

    Raises:
      UsageError: an argument cannot be, or the file cannot be traded on.
    """

    metadata = {"render_modes": [*TradingEnv.metadata["render_modes"], "rgb_array"], "render_fps": _BARS_A_SECOND}

    def __init__(
        self,
        csv: str,
        window: int = 30,
        begin: float = 0.0,
        end: float = 1.0,
        cost: float = 0.001,
        episode: int = 0,
        short: bool = False,
        reward_scale: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        _refuse(
            ("window", window, "an integer from 1", _is_integer(window) and window >= 1),
            ("episode", episode, "an integer from 0", _is_integer(episode) and episode >= 0),
            ("begin", begin, "a share of the rows, from 0 to 1", 0.0 <= begin <= 1.0),
            ("end", end, f"above begin={begin} and at most 1", begin < end <= 1.0),
            ("cost", cost, "a share of what is traded, from 0 to below 1", 0.0 <= cost < 1.0),
            ("reward_scale", reward_scale, "positive and finite", 0.0 < reward_scale < float("inf")),
        )
        closes = price_data.read(csv)
        first, stop = round(begin * len(closes)), round(end * len(closes))
        start = max(first - 1, window)
        if stop - 1 - start < max(1, episode):
            raise UsageError(
                f"{csv} has {len(closes)} rows: from begin={begin} to end={end} they are {max(0, stop - 1 - start)} "
                f"steps after a window={window}, and at least {max(1, episode)} are wanted (environment.kwargs)"
            )
        context = start - window
        self.rows = (start + 1, stop)
        """The rows of the file that are earned on, counted from 0: the first one, and the one after the last."""
        self.cost = cost
        self._exposures = (-1.0, 1.0) if short else (0.0, 1.0)
        self._exposure = 0.0
        self._held: list[float] = []  # over each bar of the episode
        self._period = (window, stop - 1 - context)  # its first and last tick, in gym-anytrading's words
        self._episode = episode
        self._reward_scale = reward_scale
        self._log_cost = math.log1p(-cost)
        super().__init__(pd.DataFrame({"Close": closes[context:stop]}), window, render_mode)
        if short and (self.prices[1:] >= 2.0 * self.prices[:-1]).any():
            raise UsageError(f"{csv}: a close doubles within a row, which ruins who owes it: set short=false")
        self.observation_space = spaces.Box(-np.inf, np.inf, (window + 1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, without a position."""
        gymnasium.Env.reset(self, seed=seed)
        self._start_tick, self._end_tick = self._period
        if self._episode:
            self._start_tick = int(self.np_random.integers(self._start_tick, self._end_tick - self._episode + 1))
            self._end_tick = self._start_tick + self._episode
        self._exposure = 0.0
        self._held = []
        observation, info = super().reset(options=options)
        self._position_history = self._start_tick * [None] + [self._position]  # the drawing counts ticks from row 0
        return observation, info

    def render(self, mode: str = "human") -> NDArray[np.uint8] | None:
        """Draws what has been seen and held; see `price_chart.chart`."""
        if self.render_mode != "rgb_array":
            super().render(mode)
            return None
        from pipeline.environments.price_chart import chart  # drawing is not every process's

        now = self._current_tick
        first = max(0, now - _DRAWN_BARS)
        held = [0.0] * max(0, now - first - len(self._held)) + self._held[-(now - first) :]
        title = f"equity {self._total_profit:.4f}   close {self.prices[now]:.6g}"
        return chart(self.prices[first : now + 1], held, title)

    def get_action_meanings(self) -> list[str]:
        """The actions' names."""
        return ["sell", "buy"]

    def _process_data(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        prices = self.df["Close"].to_numpy(np.float64)
        return prices, np.diff(np.log(prices))[:, np.newaxis]

    def _get_observation(self) -> NDArray[np.float32]:
        # The return at index i is that of the bar which ends at tick i + 1.
        returns = self.signal_features[self._current_tick - self.window_size : self._current_tick, 0]
        scale = math.sqrt(returns @ returns / self.window_size)
        observation = np.zeros(self.window_size + 1, np.float32)
        if scale > 0.0:
            observation[:-1] = returns / scale
        observation[-1] = self._exposure
        return observation

    def _calculate_reward(self, action: int) -> float:
        exposure = self._exposures[action]
        traded = abs(exposure - self._exposure)
        self._exposure = exposure
        self._held.append(exposure)
        change = self.prices[self._current_tick] / self.prices[self._current_tick - 1] - 1.0
        self._log_growth = math.log1p(exposure * change) + traded * self._log_cost
        return self._reward_scale * self._log_growth

    def _update_profit(self, action: int) -> None:
        self._total_profit *= math.exp(self._log_growth)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse(*checks: tuple[str, Any, str, bool]) -> None:
    for name, value, wanted, is_right in checks:
        if not is_right:
            raise UsageError(f"environment.kwargs.{name}={value!r} has to be {wanted}")


gymnasium.register(
    "Trading/Stocks-v0",
    entry_point=f"{__name__}:{Market.__name__}",
    kwargs={"csv": str(_SHIPPED / "STOCKS_GOOGL.csv")},
)
gymnasium.register(
    "Trading/Forex-v0",
    entry_point=f"{__name__}:{Market.__name__}",
    kwargs={"csv": str(_SHIPPED / "FOREX_EURUSD_1H_ASK.csv"), "window": 24, "cost": 0.0001, "short": True},
)
