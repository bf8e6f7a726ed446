"""How often the verdict's betting test errs, and how many episodes it needs, by simulation.

    python benchmarks/verdict.py [--quick] [--json] [--plots DIR] [--page FILE]

Everything is in units of the margin: a true mean drop of 1 is exactly the limit. The exit code is 1 if,
under the stated assumption, any error rate is above alpha by more than four standard errors. Seeded: a run
repeats itself.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr, ndtri
from verdict_pages import draw_plots, fill_page, tables
from verdict_worlds import OUTSIDE, WORLDS, World, generator, normal_noise

from edgeqrl.validate.betting import SHARES, STAKES

Array = NDArray[np.float64]
ALPHA = 0.05  # of the error rates; PASS and FAIL each
FIRST_ALPHA = 0.025  # the first judgement's, for episodes needed
MOST = 2000
FIXED = 300
LOOKS = (100, 200, 300, 500, 700, 1000, 1500, MOST)  # of the tests that are for a fixed n
LONG = 10_000
BLOCK = 64  # episodes between two looks of `edgeqrl validate`
CHUNK = 500  # replications at a time

SPREADS = (0, 1, 2, 3, 5, 7, 10, 14, 20)
WORST_LOSSES = (20, 40, 100, 300)
DROPS = (0.0, 0.25, 0.5)
FAILING_DROPS = (1.5, 2.0, 3.0)


def betting_times(
    gains: Array, alpha: float, stakes: Array = STAKES, shares: Array = SHARES
) -> NDArray[np.int64]:
    """Return after how many of the gains [R, N] each row's wealth first reached 1/alpha; N + 1 is never.

    As `betting.first_at(betting.log_wealth(row), alpha)`, for all rows at once.
    """
    wealth = np.zeros_like(gains)
    won = np.maximum(gains, -1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for stake, share in zip(stakes, shares, strict=True):
            wealth += share * np.cumprod(1.0 + stake * won, axis=1)
        reached = ~(wealth < 1.0 / alpha)  # wealth may overflow, long after it was reached
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, gains.shape[1] + 1)


def pass_times(drops: Array, worst_loss: float, alpha: float, limit: float = 1.0) -> NDArray[np.int64]:
    return betting_times((limit - drops) / (worst_loss - limit), alpha)


def fail_times(drops: Array, least: float, alpha: float, limit: float = 1.0) -> NDArray[np.int64]:
    return betting_times((drops - limit) / (limit - least), alpha)


def t_passes(drops: Array, alpha: float) -> NDArray[np.bool_]:
    """Return which rows [R, n] a one-sided t-test calls better than the limit; equal values by their mean."""
    n = drops.shape[1]
    needed = stats.t.ppf(1 - alpha, n - 1) * drops.std(axis=1, ddof=1)
    return np.asarray((1.0 - drops.mean(axis=1)) * np.sqrt(n) > needed)


def bca_passes(drops: Array, counts: Array, alphas: tuple[float, ...]) -> list[NDArray[np.bool_]]:
    """Return for each alpha for which rows [R, n] the BCa interval's upper end is below the limit.

    `counts` [B, n] says how often each resample has each value. As scipy.stats.bootstrap, with resamples
    that the rows share: the end is below the limit if enough resampled means are.
    """
    n = drops.shape[1]
    mean = drops.sum(axis=1, keepdims=True) / n
    resampled = drops @ counts.T / n
    below_mean = ((resampled < mean).mean(axis=1) + (resampled <= mean).mean(axis=1)) / 2
    below_limit = (resampled < 1.0).mean(axis=1)
    apart = drops - mean
    found = []
    for alpha in alphas:
        with np.errstate(divide="ignore", invalid="ignore"):
            skew = (apart**3).sum(axis=1) / (6 * (apart**2).sum(axis=1) ** 1.5)
            shifted = ndtri(below_mean) + ndtri(1 - alpha)
            level = ndtr(ndtri(below_mean) + shifted / (1 - skew * shifted))
        level = np.where(np.isfinite(level), level, 1 - alpha)  # percentile where BCa is undefined
        found.append(np.where(np.ptp(drops, axis=1) == 0.0, mean[:, 0] < 1.0, below_limit >= level))
    return found


def resample_counts(num_resamples: int) -> dict[int, Array]:
    """Return for each look `counts` [num_resamples, n] of `bca_passes`."""
    rng = generator("resamples")
    found = {}
    for n in LOOKS:
        drawn = rng.integers(n, size=(num_resamples, n)) + n * np.arange(num_resamples)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=num_resamples * n)
        found[n] = counted.reshape(num_resamples, n).astype(np.float64)
    return found


def fixed_rates(drops: Array, counts: dict[int, Array]) -> dict[str, float]:
    """Return how often the tests that are meant for a fixed n say PASS."""
    share = ALPHA / len(LOOKS)
    t_test = [t_passes(drops[:, :n], ALPHA) for n in LOOKS]
    t_each = [t_passes(drops[:, :n], share) for n in LOOKS]
    bca, bca_each = zip(*(bca_passes(drops[:, :n], counts[n], (ALPHA, share)) for n in LOOKS), strict=True)
    at = LOOKS.index(FIXED)
    found = {
        f"t_{FIXED}": t_test[at],
        f"t_{MOST}": t_test[-1],
        "t_peeking": np.any(t_test, axis=0),
        "t_bonferroni": np.any(t_each, axis=0),
        f"bca_{FIXED}": bca[at],
        f"bca_{MOST}": bca[-1],
        "bca_peeking": np.any(bca, axis=0),
        "bca_bonferroni": np.any(bca_each, axis=0),
    }
    return {name: float(passed.mean()) for name, passed in found.items()}


def in_chunks(replications: int) -> Iterator[int]:
    while replications > 0:
        yield min(CHUNK, replications)
        replications -= CHUNK


def times(
    world: World, purpose: str, replications: int, n: int, judged: Callable[[Array], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the times that `judged` finds in fresh noise [R, n] of this world."""
    rng = generator(f"{world.name}, {purpose}")
    return np.concatenate([judged(world.noise(rng, (rows, n))) for rows in in_chunks(replications)])


def judge(
    found: Callable[[Array, float, float], NDArray[np.int64]], drop: float, edge: float
) -> Callable[[Array], NDArray[np.int64]]:
    """Return what judges noise about a mean drop; an edge below 0 turns the noise round."""
    return lambda noise: found(drop + np.sign(edge) * noise, edge, ALPHA)


def type_one(sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return the error rates at a true mean of exactly the limit (and just below, for FAIL)."""
    counts = resample_counts(sizes["resamples"])
    reps = sizes["type_one"]
    rows = []
    for world in WORLDS:
        worst = world.worst_loss
        passed = times(world, "PASS", reps, MOST, judge(pass_times, 1, worst))
        failed = times(world, "FAIL", reps, MOST, judge(fail_times, 1, -worst))
        below = times(world, "below", reps, MOST, judge(fail_times, 0.95, -worst))
        row: dict[str, Any] = {"world": world.name, "worst_loss": worst, "replications": reps}
        for name, found in (("pass", passed), ("fail", failed), ("fail_just_below", below)):
            for n in (FIXED, MOST):
                row[f"{name}_{n}"] = float((found <= n).mean())
        wilson = stats.binomtest(int((passed <= MOST).sum()), reps).proportion_ci(method="wilson")
        row["pass_interval"] = [float(wilson.low), float(wilson.high)]
        rng = generator(f"{world.name}, fixed")
        row |= fixed_rates(1 + world.noise(rng, (sizes["fixed"], MOST)), counts)
        rows.append(row)
    return rows


def long_runs(replications: int) -> list[dict[str, Any]]:
    """Return wrong PASSes with five times the episodes, where they are likeliest or latest."""
    rows = []
    for world in WORLDS:
        if world.is_run_long:
            worst = world.worst_loss
            found = times(world, "long", replications, LONG, judge(pass_times, 1, worst))
            rows.append(
                {
                    "world": world.name,
                    "episodes": LONG,
                    "replications": replications,
                    "pass": float((found <= LONG).mean()),
                }
            )
    return rows


def outside(sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return what the tests say where the assumption is broken: PASS there is an error of 100 %."""
    counts = resample_counts(sizes["resamples"])
    rows = []
    for world in OUTSIDE:
        rng = generator(world.name)
        drops = world.noise(rng, (sizes["fixed"], MOST))  # their means are their own
        beyond = drops > world.worst_loss
        seen = np.where(beyond.any(axis=1), beyond.argmax(axis=1) + 1, MOST + 1)
        passed = pass_times(drops, world.worst_loss, ALPHA)
        failed = np.minimum(seen, fail_times(drops, -world.worst_loss, ALPHA))
        fixed = {f"t_{FIXED}": t_passes(drops[:, :FIXED], ALPHA)}
        fixed |= {f"bca_{n}": bca_passes(drops[:, :n], counts[n], (ALPHA,))[0] for n in (FIXED, MOST)}
        rows.append(
            {
                "world": world.name,
                "worst_loss": world.worst_loss,
                "mean": world.mean,
                "pass": float(((passed < failed) & (passed <= MOST)).mean()),
                "fail": float(((failed <= passed) & (failed <= MOST)).mean()),
            }
            | {name: float(passes.mean()) for name, passes in fixed.items()}
        )
    return rows


def t_test_episodes(spread: float, drop: float, alpha: float, power: float = 0.9) -> int | None:
    """Return the fewest episodes with which a t-test of a fixed n says PASS with this chance."""
    if spread == 0:
        return 2

    def reaches(n: int) -> bool:
        away = (1 - drop) * np.sqrt(n) / spread
        return bool(stats.nct.sf(stats.t.ppf(1 - alpha, n - 1), n - 1, away) >= power)

    low, high = 2, 2**17
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low


def summary(found: NDArray[np.int64]) -> dict[str, Any]:
    """Return quantiles of the episodes needed (None: more than the most) and the power at some n."""
    quantiles = {
        name: int(at) if (at := np.quantile(found, q, method="inverted_cdf")) <= MOST else None
        for name, q in (("median", 0.5), ("ninety", 0.9))
    }
    return quantiles | {f"power_{n}": float((found <= n).mean()) for n in (FIXED, 1000, MOST)}


def power(replications: int) -> list[dict[str, Any]]:
    """Return the episodes until PASS (or FAIL, for drops above 1), with normal drops, at the first alpha."""
    noise = generator("power").normal(size=(replications, MOST))
    rows = []
    for spread in SPREADS:
        for worst in WORST_LOSSES:
            for drop in DROPS + FAILING_DROPS:
                drops = drop + normal_noise(noise, spread, worst - drop)
                found = pass_times if drop < 1 else fail_times
                edge = worst if drop < 1 else -worst
                row: dict[str, Any] = {"spread": spread, "worst_loss": worst, "drop": drop}
                row |= summary(found(drops, edge, FIRST_ALPHA))
                if drop < 1:
                    row["t_test_ninety"] = t_test_episodes(spread, drop, FIRST_ALPHA)
                    row[f"t_test_power_{FIXED}"] = t_test_power(spread, drop)
                rows.append(row)
    return rows


def t_test_power(spread: float, drop: float) -> float:
    if spread == 0:
        return 1.0
    critical = stats.t.ppf(1 - FIRST_ALPHA, FIXED - 1)
    return float(stats.nct.sf(critical, FIXED - 1, (1 - drop) * np.sqrt(FIXED) / spread))


def agrapa_times(gains: Array, alpha: float) -> NDArray[np.int64]:
    """As `betting_times`, for one stake that is learnt from the gains so far (aGRAPA)."""
    rows, n = gains.shape
    total, squares, log = np.zeros(rows), np.full(rows, 0.25**2), np.zeros(rows)
    found = np.full(rows, n + 1)
    for at in range(n):
        gain = gains[:, at]
        stake = np.clip(total / squares, 0.0, 0.95)
        log += np.log1p(stake * np.maximum(gain, -1.0))
        found[(log >= -np.log(alpha)) & (found > n)] = at + 1
        total += gain
        squares += gain**2
    return found


def shares_of(num_stakes: int, exponent: float) -> Array:
    weights = 1.0 / np.arange(1, num_stakes + 1) ** exponent
    return np.asarray(weights / weights.sum())


def alternatives(replications: int) -> list[dict[str, Any]]:
    """Return the mean episodes (at most MOST) of other ways to bet, relative to ours, over many tasks."""
    finer = 2.0 ** (-np.arange(16) / 2)
    fixed = {
        "16 stakes, half as far apart": (finer, shares_of(16, 2)),
        "6 stakes": (STAKES[:6], shares_of(6, 2)),
        "equal shares": (STAKES, shares_of(8, 0)),
        "shares 1/j": (STAKES, shares_of(8, 1)),
        "shares 1/j³": (STAKES, shares_of(8, 3)),
        "the largest stake alone": (STAKES[:1], np.ones(1)),
    }
    noise = generator("alternatives").normal(size=(replications, MOST))
    ratios: dict[str, list[float]] = {}
    for spread in (0, 1, 3, 5, 7, 10):
        for worst in WORST_LOSSES:
            for drop in DROPS:
                drops = drop + normal_noise(noise, spread, worst - drop)
                gains = (1 - drops) / (worst - 1)
                best = min(1.0, gains.mean() / (gains**2).mean())  # to second order; no one knows it
                found = {
                    name: betting_times(gains, FIRST_ALPHA, stakes, shares)
                    for name, (stakes, shares) in fixed.items()
                }
                found["a learning stake (aGRAPA)"] = agrapa_times(gains, FIRST_ALPHA)
                found["the best stake, known beforehand"] = betting_times(
                    gains, FIRST_ALPHA, np.array([best]), np.ones(1)
                )
                ours = betting_times(gains, FIRST_ALPHA)
                if np.median(ours) > MOST:
                    continue
                for name, episodes in found.items():
                    ratio = np.minimum(episodes, MOST).mean() / np.minimum(ours, MOST).mean()
                    ratios.setdefault(name, []).append(float(ratio))
    return [
        {"name": name, "mean": float(np.exp(np.log(r).mean())), "best": min(r), "worst": max(r)}
        for name, r in ratios.items()
    ]


def criteria(
    rng: np.random.Generator, shape: tuple[int, int], at_limit: frozenset[str], is_joint: bool
) -> tuple[Array, Array, Array]:
    """Return paired quantities of the three criteria, each with a mean of exactly its limit or harmless."""
    uniforms = [rng.random(shape)] * 3 if is_joint else [rng.random(shape) for _ in range(3)]
    floor = 1e-12
    drops = normal_noise(ndtri(np.maximum(uniforms[0], floor)), 3, 39) + ("return" in at_limit)
    if "failures" in at_limit:  # float fails in 2 % of the episodes, the quantized policy in 3 % more or less
        fails = uniforms[1] > 0.97
        failures = fails.astype(np.float64) - (rng.random(shape) > 0.98)
    else:
        failures = np.zeros(shape)
    rate = 0.05 + 0.1 * rng.random(shape)
    excess = 0.07 if "chatter" in at_limit else 0.0  # 0.1 + 0.07 - 1.5 * 0.1 = 0.02
    chatter = rate + excess * 2 * uniforms[2] - 1.5 * rate
    return drops, failures, chatter


def whole_verdict(sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return how often the verdict over three criteria errs, and the episodes that it takes."""
    every = frozenset(("return", "failures", "chatter"))
    cases = [(f"{name} at its limit", frozenset((name,)), False) for name in sorted(every)]
    cases += [
        ("all at their limits", every, False),
        ("all at their limits, in the same episodes", every, True),
    ]
    cases += [("none at its limit", frozenset(), False)]
    limits = ((1.0, -40.0, 40.0), (0.01, -1.0, 1.0), (0.02, -1.5, 1.0))
    rows = []
    for name, at_limit, is_joint in cases:
        rng = generator(f"verdict, {name}")
        alpha = ALPHA if at_limit else FIRST_ALPHA
        passed, failed = [], []
        for chunk in in_chunks(sizes["type_one"]):
            quantities = criteria(rng, (chunk, MOST), at_limit, is_joint)
            pairs = list(zip(quantities, limits, strict=True))
            passed.append(np.max([pass_times(v, high, alpha, at) for v, (at, _, high) in pairs], axis=0))
            failed.append(np.min([fail_times(v, low, alpha / 3, at) for v, (at, low, _) in pairs], axis=0))
        looks = [np.minimum(-(-np.concatenate(found) // BLOCK) * BLOCK, MOST) for found in (passed, failed)]
        is_fail = (looks[1] <= looks[0]) & (np.concatenate(failed) <= MOST)
        is_pass = ~is_fail & (np.concatenate(passed) <= MOST)
        row: dict[str, Any] = {"case": name, "alpha": alpha, "is_null": bool(at_limit)}
        row |= {"pass": float(is_pass.mean()), "fail": float(is_fail.mean())}
        rows.append(row | {"median_episodes": int(np.median(np.minimum(*looks)))})
    return rows


def too_often(result: dict[str, Any]) -> list[str]:
    """Return the error rates under the assumption that are above alpha by more than four standard errors."""
    short = [
        (row["world"], row[key], row["replications"])
        for row in result["type_one"]
        for key in (f"pass_{MOST}", f"fail_{MOST}", f"fail_just_below_{MOST}")
    ]
    long = [(f"{row['world']}, {LONG} episodes", row["pass"], row["replications"]) for row in result["long"]]
    joint = [
        (row["case"], row[key], result["sizes"]["type_one"])
        for row in result["verdict"]
        for key in ("pass", "fail")
        if row["is_null"]
    ]
    return [
        f"{name}: {rate:.4f}"
        for name, rate, replications in short + long + joint
        if rate > ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / replications)
    ]


def simulate(is_quick: bool) -> dict[str, Any]:
    sizes = {
        "type_one": 5000,
        "fixed": 2000,
        "resamples": 2000,
        "long": 2000,
        "power": 1000,
        "alternatives": 400,
    }
    if is_quick:
        sizes = {
            "type_one": 500,
            "fixed": 200,
            "resamples": 400,
            "long": 200,
            "power": 100,
            "alternatives": 20,
        }
    return {
        "alpha": ALPHA,
        "first_alpha": FIRST_ALPHA,
        "most_episodes": MOST,
        "fixed_episodes": FIXED,
        "looks": list(LOOKS),
        "sizes": sizes,
        "type_one": type_one(sizes),
        "long": long_runs(sizes["long"]),
        "outside": outside(sizes),
        "power": power(sizes["power"]),
        "alternatives": alternatives(sizes["alternatives"]),
        "verdict": whole_verdict(sizes),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the replications")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="write the pictures, as SVG, to this folder"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the tables into this page, at its markers"
    )
    options = parser.parse_args()
    result = simulate(options.quick)
    found = tables(result)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n\n".join(found.values()))
    if options.plots:
        draw_plots(result, options.plots)
    if options.page:
        fill_page(options.page, found)
    wrong = too_often(result)
    for line in wrong:
        sys.stderr.write(f"above alpha: {line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
