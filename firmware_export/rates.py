"""Instructions that kernels take: rows by what a layer does, for each family of cores.

Measured by `python benchmarks/rates.py`, which prints this table, with zig's clang 0.17.1 at -O2. A row has
the instructions of each number of `workload.Work`: a call, a multiply-accumulate, an output, a run of the
inner loop, a weight that meets padding, an input that is summed, a position of a window. The figure behind a
row is the largest error on the layers that were measured.

An element of the observation and the action ("edge"), or of what another layer writes, is from above.
"""

from collections.abc import Mapping

Row = tuple[float, float, float, float, float, float, float]


def rates_of(core: str) -> Mapping[str, Row]:
    """Return the row of each kind of work on `core`, one of `board.CORES`."""
    return _RATES[_SAME_CODE.get(core, core)]


# Cores for which the compiler makes the same code, or nearly so.
_SAME_CODE = {
    "cortex-m0": "cortex-m0plus",
    "cortex-m3": "cortex-m4",
    "cortex-m7": "cortex-m4",
    "cortex-m33": "cortex-m4",
    "rv32imc": "rv32imac",
}
_RATES: Mapping[str, Mapping[str, Row]] = {
    "cortex-m0plus": {
        "conv w2 s16": (239, 9.41, 98, 245, 0, 0, 609),  # 0%
        "conv w2 s8": (86.9, 4.32, 80.6, 156, 142, 0.797, 473),  # 0%
        "conv w3 s16": (447, 8.37, 103, 245, 0, 0, 665),  # 1%
        "conv w3 s8": (186, 3.95, 82, 163, 164, 0.663, 499),  # 1%
        "conv w4 s16": (228, 8.41, 97.8, 235, 0, 0, 606),  # 0%
        "conv w4 s8": (332, 4.22, 80, 135, 141, 0.128, 486),  # 1%
        "conv w8 s16": (0, 7.25, 112, 147, 0, 0, 203),  # 0%
        "conv w8 s8": (0, 6, 111, 80.2, 9.62, 0, 228),  # 4%
        "dense w2 s16": (109, 9, 79.2, 503, 0, 5.96, 0),  # 0%
        "dense w2 s8": (0, 4.16, 75.4, 238, 0, 4.77, 0),  # 1%
        "dense w3 s16": (115, 8, 77.5, 623, 0, 5.95, 0),  # 0%
        "dense w3 s8": (0, 3.88, 68.8, 330, 0, 4.46, 0),  # 2%
        "dense w4 s16": (111, 8, 79.2, 509, 0, 5.96, 0),  # 0%
        "dense w4 s8": (0, 4.22, 76.9, 226, 0, 5.07, 0),  # 2%
        "dense w8 s16": (74.9, 7.25, 121, 60.6, 0, 0, 0),  # 0%
        "dense w8 s8": (62.9, 6, 78.5, 39.3, 0, 0, 0),  # 1%
        "depthwise s16": (0, 8.18, 109, 102, 0, 0, 141),  # 2%
        "depthwise s8": (143, 8.65, 116, 101, 27.5, 0, 139),  # 2%
        "table s16": (27, 0, 20.5, 0, 0, 0, 0),  # 0%
        "table s8": (23, 0, 6.5, 0, 0, 0, 0),  # 0%
        "edge": (0, 0, 155, 0, 0, 0, 0),
        "other": (0, 0, 155, 0, 0, 0, 0),
    },
    "cortex-m4": {
        "conv w2 s16": (232, 4.32, 68, 200, 0, 0.0249, 423),  # 1%
        "conv w2 s8": (0, 1.78, 43.3, 168, 127, 1.27, 388),  # 0%
        "conv w3 s16": (541, 3.79, 76.7, 215, 0, 0, 473),  # 1%
        "conv w3 s8": (62.8, 1.74, 43.6, 170, 138, 0.969, 417),  # 1%
        "conv w4 s16": (165, 3.75, 67.6, 211, 0, 0, 425),  # 1%
        "conv w4 s8": (197, 2.06, 41.2, 134, 123, 0, 427),  # 3%
        "conv w8 s16": (0, 3.75, 80.2, 118, 0, 0, 159),  # 1%
        "conv w8 s8": (0, 3.63, 70.8, 68.1, 7.53, 0, 174),  # 4%
        "dense w2 s16": (72.1, 4.06, 56.4, 359, 0, 3.96, 0),  # 0%
        "dense w2 s8": (0, 1.74, 41.4, 194, 0, 4.38, 0),  # 2%
        "dense w3 s16": (57, 3.54, 57.1, 456, 0, 4.31, 0),  # 0%
        "dense w3 s8": (0, 1.74, 33.2, 280, 0, 3.96, 0),  # 4%
        "dense w4 s16": (78.4, 3.5, 57.4, 360, 0, 3.88, 0),  # 0%
        "dense w4 s8": (0, 2.06, 43.4, 162, 0, 4.86, 0),  # 4%
        "dense w8 s16": (59.5, 3.75, 88.7, 44.3, 0, 0, 0),  # 1%
        "dense w8 s8": (44.5, 3.63, 51.4, 25.7, 0, 0, 0),  # 0%
        "depthwise s16": (81.9, 10.5, 105, 36.3, 0, 0, 121),  # 1%
        "depthwise s8": (665, 14, 126, 0, 19.1, 0, 63.1),  # 9%
        "table s16": (13, 0, 13, 0, 0, 0, 0),  # 0%
        "table s8": (15, 0, 5.5, 0, 0, 0, 0),  # 0%
        "edge": (0, 0, 110, 0, 0, 0, 0),
        "other": (0, 0, 110, 0, 0, 0, 0),
    },
    "cortex-m55": {
        "conv w2 s16": (0, 1.11, 68, 214, 0, 0, 392),  # 2%
        "conv w2 s8": (177, 0.563, 44.9, 130, 107, 0, 348),  # 2%
        "conv w3 s16": (58.4, 0.947, 72.9, 226, 0, 0, 439),  # 3%
        "conv w3 s8": (296, 0.596, 45.9, 131, 121, 0, 373),  # 2%
        "conv w4 s16": (0, 0.989, 68.1, 213, 0, 0, 392),  # 2%
        "conv w4 s8": (526, 0.853, 43.5, 102, 109, 0, 356),  # 3%
        "conv w8 s16": (14.8, 0.366, 79.7, 85, 0, 0, 161),  # 1%
        "conv w8 s8": (0, 0.177, 69, 50.2, 1.13, 0, 185),  # 6%
        "dense w2 s16": (89.9, 1.06, 58.4, 364, 0, 0.649, 0),  # 2%
        "dense w2 s8": (0, 0.553, 38.2, 190, 0, 0.989, 0),  # 3%
        "dense w3 s16": (98.5, 0.9, 55.7, 436, 0, 0.511, 0),  # 2%
        "dense w3 s8": (0, 0.596, 35, 235, 0, 0.853, 0),  # 4%
        "dense w4 s16": (85.1, 0.932, 58.3, 364, 0, 0.751, 0),  # 2%
        "dense w4 s8": (0, 0.853, 39.4, 175, 0, 1.25, 0),  # 5%
        "dense w8 s16": (60.1, 0.366, 75.9, 37.9, 0, 0, 0),  # 1%
        "dense w8 s8": (53.6, 0.177, 48.5, 24.3, 0, 0, 0),  # 2%
        "depthwise s16": (7.87, 8.98, 110, 39.3, 0, 0, 111),  # 0%
        "depthwise s8": (0, 0.707, 71.1, 80.1, 18.3, 0, 104),  # 2%
        "table s16": (18, 0, 11.2, 0, 0, 0, 0),  # 0%
        "table s8": (17, 0, 4.25, 0, 0, 0, 0),  # 0%
        "edge": (0, 0, 105, 0, 0, 0, 0),
        "other": (0, 0, 105, 0, 0, 0, 0),
    },
    "rv32imac": {
        "conv w2 s16": (353, 6.29, 97.3, 187, 0, 1.24, 536),  # 1%
        "conv w2 s8": (144, 3.03, 53.4, 121, 124, 0.849, 368),  # 0%
        "conv w3 s16": (412, 5.51, 102, 220, 0, 0, 598),  # 1%
        "conv w3 s8": (222, 2.7, 54.5, 136, 149, 0.658, 390),  # 1%
        "conv w4 s16": (353, 5.79, 97.4, 190, 0, 1.23, 537),  # 1%
        "conv w4 s8": (355, 2.88, 53.5, 111, 124, 0.884, 358),  # 1%
        "conv w8 s16": (63.2, 5.5, 107, 80.1, 0, 0, 131),  # 0%
        "conv w8 s8": (0, 5.5, 87.8, 41.5, 8.41, 0, 150),  # 3%
        "dense w2 s16": (115, 5.75, 77, 460, 0, 9, 0),  # 0%
        "dense w2 s8": (0, 2.77, 47.7, 196, 0, 5.39, 0),  # 1%
        "dense w3 s16": (116, 5, 77, 567, 0, 9, 0),  # 0%
        "dense w3 s8": (0, 2.54, 42.1, 279, 0, 5.08, 0),  # 2%
        "dense w4 s16": (117, 5.25, 77, 461, 0, 9, 0),  # 0%
        "dense w4 s8": (0, 2.84, 48.8, 179, 0, 5.61, 0),  # 2%
        "dense w8 s16": (86.8, 5.5, 94.8, 47.4, 0, 0, 0),  # 0%
        "dense w8 s8": (70, 5.5, 48.8, 24.4, 0, 0, 0),  # 0%
        "depthwise s16": (56.1, 12, 120, 9.2, 0, 0, 87),  # 0%
        "depthwise s8": (0, 4.31, 88.3, 58.1, 16.8, 0, 85.2),  # 2%
        "table s16": (4, 0, 16, 0, 0, 0, 0),  # 0%
        "table s8": (3, 0, 7, 0, 0, 0, 0),  # 0%
        "edge": (0, 0, 125, 0, 0, 0, 0),
        "other": (0, 0, 125, 0, 0, 0, 0),
    },
}
