"""Action edges: how a network's integer outputs become the action. `decode.py` says what each computes."""

from dataclasses import dataclass
from math import prod

import numpy as np

from edgeqrl.network.draws import NORMAL_LIMIT, SQUASH_BITS

Table = tuple[int, ...]


@dataclass(frozen=True)
class ArgmaxEdge:
    """One discrete action: start + index of the largest output, the lowest index on a tie."""

    num_actions: int
    start: int = 0
    is_masked: bool = False  # the step takes a mask of allowed actions

    def __post_init__(self) -> None:
        if not 1 <= self.num_actions <= 32767:
            raise ValueError(f"num_actions is out of range: {self.num_actions}")


@dataclass(frozen=True)
class AffineEdge:
    """Continuous actions: float32(clamp(q * gain + offset, low, high) * 2**-fraction_bits), each int32."""

    gain: tuple[int, ...]  # one an action
    offset: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    fraction_bits: tuple[int, ...]
    shape: tuple[int, ...]  # of the action
    dtype: str = "int8"  # or "int16": of the output that is read

    def __post_init__(self) -> None:
        fields = (self.gain, self.offset, self.low, self.high, self.fraction_bits)
        if {len(field) for field in fields} != {int(np.prod(self.shape, dtype=np.int64))}:
            raise ValueError("one gain, offset, low, high and fraction_bits per action")
        ends = limits(self.dtype)
        for gain, offset, low, high, bits in zip(*fields, strict=True):
            if max(abs(gain * end + offset) for end in ends) >= 2**31:
                raise ValueError("the affine action could overflow int32")
            if not (-(2**31) < low <= high < 2**31 and -60 <= bits <= 60):
                raise ValueError("action bounds must fit int32, low <= high")


@dataclass(frozen=True)
class MultiDiscreteEdge:
    """Discrete actions, each from a segment of the output: its argmax, or drawn by its softmax."""

    counts: tuple[int, ...]  # classes of each action
    starts: tuple[int, ...]
    is_masked: bool = False  # the step takes the masks of all actions, one after another
    exp_low: Table = ()  # draws.exp_tables: given where actions are drawn
    exp_high: Table = ()  # for int16
    shape: tuple[int, ...] | None = None  # of the action: () of a single one, None is (len(counts),)

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.starts) or min(self.counts) < 1:
            raise ValueError("a multi-discrete action has one count and start a number")
        if sum(self.counts) > 32767:
            raise ValueError(f"a multi-discrete action has too many classes: {sum(self.counts)}")
        if self.shape is not None and prod(self.shape) != len(self.counts):
            raise ValueError("the shape of a multi-discrete action does not fit its counts")
        _require_tables(self.exp_low, self.exp_high)


@dataclass(frozen=True)
class MultiBinaryEdge:
    """Several 0/1 actions: 1 where the output is above its threshold, or drawn by its logistic."""

    thresholds: tuple[int, ...]  # the output's zero point, where it is a logit
    exp_low: Table = ()  # as of MultiDiscreteEdge
    exp_high: Table = ()
    shape: tuple[int, ...] | None = None  # of the action; None is (size,)

    def __post_init__(self) -> None:
        if not self.thresholds or not all(-32768 <= t <= 32767 for t in self.thresholds):
            raise ValueError("a multi-binary action has a threshold in int16 for each number")
        if self.shape is not None and prod(self.shape) != self.size:
            raise ValueError("the shape of a multi-binary action does not fit its size")
        _require_tables(self.exp_low, self.exp_high)

    @property
    def size(self) -> int:
        """Count the numbers of the action."""
        return len(self.thresholds)


@dataclass(frozen=True)
class LogStd:
    """The second output as a standard deviation, relative to the greatest: exp of q_high - clamp(q)."""

    exp_low: Table
    exp_high: Table  # for int16
    q_low: int
    q_high: int
    dtype: str = "int8"

    def __post_init__(self) -> None:
        lowest, highest = limits(self.dtype)
        if not (lowest <= self.q_low <= self.q_high <= highest and self.exp_low):
            raise ValueError("log_std has a range within its dtype, and a table")
        _require_tables(self.exp_low, self.exp_high)
        if bool(self.exp_high) != (self.dtype == "int16"):
            raise ValueError("log_std has a second table for int16 alone")


@dataclass(frozen=True)
class GaussianEdge:
    """Continuous actions that are drawn. All numbers are int32, one an action.

    u      = (q * gain + offset + std * z) * 2**-bits, std times what `log_std` says where it is given
    action = float32(clamp(u, low, high) * 2**-out_bits)                             or, squashed,
             float32(clamp(tanh(u) * out_gain + out_offset, low, high) * 2**-out_bits)
    """

    gain: tuple[int, ...]
    offset: tuple[int, ...]
    std: tuple[int, ...]  # negative: -z counts
    bits: tuple[int, ...]  # fraction bits of u; without squash equal to out_bits
    out_gain: tuple[int, ...]  # 0 without squash, as out_offset
    out_offset: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    out_bits: tuple[int, ...]
    shape: tuple[int, ...]  # of the action
    is_squashed: bool = False
    log_std: LogStd | None = None  # how the network's second output is read
    dtype: str = "int8"  # of the first output

    def __post_init__(self) -> None:
        if {len(column) for column in self.columns} != {int(np.prod(self.shape, dtype=np.int64))}:
            raise ValueError("a Gaussian action has one number of each kind per action")
        ends = limits(self.dtype)
        for gain, offset, std, bits, out_gain, out_offset, low, high, out_bits in zip(
            *self.columns, strict=True
        ):
            spread = max(abs(gain * end + offset) for end in ends) + int(abs(std) * NORMAL_LIMIT) + 1
            if spread >= 2**31 or abs(out_gain) + abs(out_offset) >= 2**31 or abs(out_gain) >= 2**30:
                raise ValueError("the Gaussian action could overflow int32")
            if not (-(2**31) < low <= high < 2**31 and -60 <= out_bits <= 60):
                raise ValueError("action bounds must fit int32, low <= high")
            if self.is_squashed and not SQUASH_BITS <= bits <= SQUASH_BITS + 7:
                raise ValueError("a squashed action has 20 to 27 fraction bits")
            if not self.is_squashed and (bits != out_bits or out_gain or out_offset):
                raise ValueError("only a squashed action has another scale behind it")

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """Return the numbers in the order in which a row has them."""
        means = (self.gain, self.offset, self.std, self.bits)
        return (*means, self.out_gain, self.out_offset, self.low, self.high, self.out_bits)


ActionEdge = ArgmaxEdge | AffineEdge | MultiDiscreteEdge | MultiBinaryEdge | GaussianEdge


def limits(dtype: str) -> tuple[int, int]:
    """Return the least and the greatest value of "int8" or "int16"."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def is_stochastic(action: ActionEdge) -> bool:
    """Tell whether actions are drawn."""
    if isinstance(action, MultiDiscreteEdge | MultiBinaryEdge):
        return bool(action.exp_low)
    return isinstance(action, GaussianEdge)


def is_integer(action: ActionEdge) -> bool:
    """Tell whether actions are int32, not float32."""
    return not isinstance(action, AffineEdge | GaussianEdge)


def num_outputs(action: ActionEdge) -> int:
    """Count the elements of the network's first output that an action edge reads."""
    if isinstance(action, ArgmaxEdge):
        return action.num_actions
    if isinstance(action, MultiDiscreteEdge):
        return sum(action.counts)
    return action.size if isinstance(action, MultiBinaryEdge) else len(action.gain)


def num_heads(action: ActionEdge) -> int:
    """Count the network outputs that an action edge reads: 2 where log_std is one."""
    return 2 if isinstance(action, GaussianEdge) and action.log_std is not None else 1


def num_masks(action: ActionEdge) -> int:
    """Count the mask bytes of a step; 0 where the policy takes none."""
    if isinstance(action, ArgmaxEdge | MultiDiscreteEdge) and action.is_masked:
        return num_outputs(action)
    return 0


def action_shape(action: ActionEdge) -> tuple[int, ...]:
    """Return the shape of one action: () for one discrete action."""
    if isinstance(action, ArgmaxEdge):
        return ()
    if action.shape is not None:
        return action.shape
    assert isinstance(action, MultiDiscreteEdge | MultiBinaryEdge)
    return (len(action.counts),) if isinstance(action, MultiDiscreteEdge) else (action.size,)


def single_choice(action: ActionEdge) -> range | None:
    """Return the actions to choose from where the action is one discrete number, argmax or drawn."""
    if isinstance(action, ArgmaxEdge):
        return range(action.start, action.start + action.num_actions)
    if isinstance(action, MultiDiscreteEdge) and action.shape == ():
        return range(action.starts[0], action.starts[0] + action.counts[0])
    return None


def action_size(action: ActionEdge) -> int:
    """Count the numbers of one action, 4 bytes each."""
    return int(np.prod(action_shape(action), dtype=np.int64))


def _require_tables(low: Table, high: Table) -> None:
    for table in (low, high):
        if table and (len(table) != 256 or min(table) < 0 or max(table) >= 2**32):
            raise ValueError("a table of exponentials has 256 words")
    if low and not (low[0] >= 2**31 and (not high or high[0] >= 2**31)):
        raise ValueError("a table of exponentials begins with one")
