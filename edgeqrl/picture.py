"""A network as an SVG picture: a box for each layer, under it what the layer gives to others."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any
from unicodedata import east_asian_width

from edgeqrl.errors import UsageError
from edgeqrl.inspect import LayerFacts, NetworkFacts, TensorFacts
from edgeqrl.layered import Drawing, lay_out

MAX_LAYERS = 500

# Colour and name of each family; an operator that is in none is drawn with the last.
_FAMILIES: dict[str, tuple[str, str]] = {
    "linear": ("#cfe2f8", "weights"),
    "pooling": ("#d3ecd0", "pooling and sums"),
    "function": ("#fdebbf", "functions by element"),
    "pairs": ("#f9d8c4", "two tensors by element"),
    "softmax": ("#e6d5f2", "softmax and arg-max"),
    "movement": ("#e4e6ea", "moves values"),
    "other": ("#ffffff", "other"),
}
_MEMBERS = {
    "linear": "FULLY_CONNECTED CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV CONV_3D BATCH_MATMUL "
    "UNIDIRECTIONAL_SEQUENCE_LSTM SVDF",
    "pooling": "MAX_POOL_2D AVERAGE_POOL_2D L2_POOL_2D MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD CUMSUM",
    "function": "TANH LOGISTIC RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU ELU GELU HARD_SWISH EXP LOG "
    "ABS NEG SQRT RSQRT SQUARE SIN COS SIGN FLOOR CEIL ROUND QUANTIZE DEQUANTIZE CAST",
    "pairs": "ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE PRELU POW ADD_N FLOOR_DIV FLOOR_MOD",
    "softmax": "SOFTMAX LOG_SOFTMAX ARG_MAX ARG_MIN TOPK_V2",
    "movement": "RESHAPE SQUEEZE EXPAND_DIMS CONCATENATION SPLIT SPLIT_V SLICE STRIDED_SLICE PAD PADV2 "
    "MIRROR_PAD TRANSPOSE PACK UNPACK GATHER GATHER_ND TILE BROADCAST_TO REVERSE_V2 DEPTH_TO_SPACE "
    "SPACE_TO_DEPTH RESIZE_NEAREST_NEIGHBOR SHAPE",
}
_FAMILY_OF = {name: family for family, names in _MEMBERS.items() for name in names.split()}

_FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
_MARGIN, _GAP_X, _GAP_Y = 28.0, 26.0, 34.0
_BOLD, _PLAIN = 8.4, 6.7  # widest usual width of a character, at 12 and 11 pixels
_LINE, _PADDING, _TAG_HEIGHT = 16.0, 9.0, 18.0
_NAME_WIDTH = 28  # characters


@dataclass(frozen=True)
class _Node:
    title: str
    lines: tuple[str, ...]
    tags: tuple[str, ...]  # what it gives to others
    hover: str
    family: str = ""  # empty: an input or output of the network

    @property
    def width(self) -> float:
        texts = [
            *(_PLAIN * text_width(text) for text in (*self.lines, *self.tags)),
            _BOLD * text_width(self.title),
        ]
        return max(texts) + 2 * _PADDING

    @property
    def box_height(self) -> float:
        return _LINE * (1 + len(self.lines)) + _PADDING

    @property
    def height(self) -> float:
        return self.box_height + _TAG_HEIGHT * len(self.tags)


def draw(facts: NetworkFacts, title: str) -> str:
    """Return the picture as an SVG document; raises UsageError for more layers than anyone could read."""
    if len(facts.layers) > MAX_LAYERS:
        raise UsageError(
            f"A picture of {len(facts.layers):,} layers could not be read: --svg draws up to {MAX_LAYERS}."
        )
    nodes, edges = _graph(facts)
    drawing = lay_out([(node.width, node.height) for node in nodes], edges, gap=(_GAP_X, _GAP_Y))
    legend = [family for family in _FAMILIES if any(node.family == family for node in nodes)]
    header = _summary(facts)
    top = _MARGIN + 46.0
    legend_width = sum(40.0 + _PLAIN * len(_FAMILIES[family][1]) for family in legend)
    around = max(_BOLD * 1.15 * text_width(title), _PLAIN * len(header), legend_width)
    width = max(drawing.width, around) + 2 * _MARGIN
    height = top + drawing.height + 2 * _MARGIN + 18.0
    shift = (width - drawing.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#5a6472"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        _text(_MARGIN, _MARGIN + 8, title, size=15, weight="bold", anchor="start"),
        _text(_MARGIN, _MARGIN + 27, header, fill="#4a5260", anchor="start"),
        f'<g transform="translate({shift:.1f},{top:.1f})">',
        *_edges(nodes, edges, drawing),
        *(line for node, place in zip(nodes, drawing.places, strict=True) for line in _box(node, place)),
        "</g>",
        *_legend(legend, top + drawing.height + _MARGIN),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def text_width(text: str) -> int:
    """Count the columns that a text takes: two for what East Asian scripts write wide."""
    return len(text) + sum(east_asian_width(character) in "WF" for character in text)


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` columns, the middle left out where it is wider."""
    if text_width(text) <= width:
        return text
    head = _prefix(text, max(width - 1, 1) // 2)
    tail = _prefix(text[::-1], max(width - 1, 1) - text_width(head))[::-1]
    return f"{head}…{tail}"


def layer_name(name: str) -> str:
    """Return the first of the names that a converter joined for what it fused into one layer."""
    return name.split(";")[0]


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as people write it: 84x84x4."""
    return "x".join(str(size) for size in shape) or "scalar"


def _graph(facts: NetworkFacts) -> tuple[list[_Node], list[tuple[int, int]]]:
    """Return inputs, layers and outputs as nodes, and who reads whom."""
    nodes: list[_Node] = []
    edges: list[tuple[int, int]] = []
    writer: dict[str, int] = {}
    for name in facts.inputs:
        writer[name] = len(nodes)
        nodes.append(_Node("input", (_short(name),), (_tag(facts.tensors.get(name)),), name))
    for layer in facts.layers:
        edges += [(writer[name], len(nodes)) for name in dict.fromkeys(layer.inputs) if name in writer]
        writer.update(dict.fromkeys(layer.outputs, len(nodes)))
        nodes.append(_layer_node(facts, layer))
    for name in dict.fromkeys(facts.outputs):
        if name in writer:
            edges.append((writer[name], len(nodes)))
        nodes.append(_Node("output", (_short(name),), (), name))
    return nodes, edges


def _layer_node(facts: NetworkFacts, layer: LayerFacts) -> _Node:
    costs = [f"{layer.macs:,} MACs"] if layer.macs else []
    costs += [f"{layer.weight_bytes:,} B weights"] if layer.weight_bytes else []
    lines = [_short(layer.name), *([", ".join(costs)] if costs else [])]
    tags = tuple(_tag(facts.tensors.get(name)) for name in layer.outputs)
    return _Node(layer.operator, tuple(lines), tags, layer.name, _FAMILY_OF.get(layer.operator, "other"))


def _tag(tensor: TensorFacts | None) -> str:
    if tensor is None:
        return "constant"
    text = f"{tensor.dtype} {shape_text(tensor.shape)}"
    if tensor.scale is None:
        return text
    return f"{text}, scale {tensor.scale:.4g}, zero {tensor.zero_point}"


def _summary(facts: NetworkFacts) -> str:
    if not facts.supported:
        return f"{len(facts.layers)} operators, {facts.weight_bytes:,} B of constants; edgeqrl cannot run it"
    return (
        f"{len(facts.layers)} layers, {facts.macs:,} MACs, {facts.weight_bytes:,} B of weights, "
        f"arena {facts.arena_bytes:,} B"
    )


def _box(node: _Node, place: tuple[float, float]) -> list[str]:
    middle, top = place
    left = middle - node.width / 2
    fill = _FAMILIES[node.family][0] if node.family else "#f7f8fa"
    radius = 4 if node.family else 14
    lines = [
        f"<g><title>{escape(node.hover)}</title>",
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{node.width:.1f}" height="{node.box_height:.1f}" '
        f'rx="{radius}" fill="{fill}" stroke="#5a6472"/>',
        _text(middle, top + _LINE, node.title, size=12, weight="bold"),
    ]
    for i, text in enumerate(node.lines):
        lines.append(_text(middle, top + _LINE * (i + 2), text, fill="#3c434f"))
    for i, text in enumerate(node.tags):
        y = top + node.box_height + _TAG_HEIGHT * i
        width = _PLAIN * text_width(text) + _PADDING
        lines.append(
            f'<rect x="{middle - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_TAG_HEIGHT:.1f}" '
            'rx="3" fill="#ffffff" stroke="#b4bbc6"/>'
        )
        lines.append(_text(middle, y + 13, text, fill="#20242c"))
    return [*lines, "</g>"]


def _edges(nodes: list[_Node], edges: list[tuple[int, int]], drawing: Drawing) -> list[str]:
    entries: dict[int, list[int]] = {}
    for i, (_, target) in enumerate(edges):
        entries.setdefault(target, []).append(i)
    lines = []
    for target, ways in entries.items():
        # Arrows enter side by side, in the order in which they come.
        ways.sort(key=lambda i: (drawing.bends[i] or (drawing.places[edges[i][0]],))[-1][0])
        step = min(24.0, 0.6 * nodes[target].width / len(ways))
        for position, i in enumerate(ways):
            source = edges[i][0]
            x, y = drawing.places[source]
            end_x, end_y = drawing.places[target]
            end_x += step * (position - (len(ways) - 1) / 2)
            points = [(x, y + nodes[source].height), *drawing.bends[i], (end_x, end_y - 1.0)]
            lines.append(
                f'<path d="{_curve(points)}" fill="none" stroke="#5a6472" marker-end="url(#arrow)"/>'
            )
    return lines


def _curve(points: list[tuple[float, float]]) -> str:
    """Return a path through the points that is upright in each of them."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x, y), (next_x, next_y) in pairwise(points):
        bend = max((next_y - y) / 2, 0.0)
        path += f" C{x:.1f},{y + bend:.1f} {next_x:.1f},{next_y - bend:.1f} {next_x:.1f},{next_y:.1f}"
    return path


def _legend(families: list[str], y: float) -> list[str]:
    lines, x = [], _MARGIN
    for family in families:
        colour, text = _FAMILIES[family]
        lines.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="14" height="14" rx="3" fill="{colour}" stroke="#5a6472"/>'
        )
        lines.append(_text(x + 20, y + 11, text, fill="#4a5260", anchor="start"))
        x += 40.0 + _PLAIN * text_width(text)
    return lines


def _text(x: float, y: float, text: str, *, anchor: str = "middle", **style: Any) -> str:
    names = {"size": "font-size", "weight": "font-weight", "fill": "fill"}
    styles = "".join(f' {names[key]}="{value}"' for key, value in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{styles}>{escape(text)}</text>'


def _prefix(text: str, width: int) -> str:
    """Return as much of the beginning as fits `width` columns."""
    kept = text[:width]
    while text_width(kept) > width:
        kept = kept[:-1]
    return kept


def _short(name: str) -> str:
    return shortened(layer_name(name), _NAME_WIDTH)
