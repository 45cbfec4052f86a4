"""Direct labels beside points without overlaps."""

import math

from matplotlib.font_manager import FontProperties
from matplotlib.transforms import Bbox

from dbq.report.drawing import FAINT, INK

# label distances from the point [pt] and directions [degrees], in the order of preference
_DISTANCES = (6, 13, 22, 33, 46, 60, 76, 94, 114, 136, 160)
_DIRECTIONS = (0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202, 67, 113, 247, 293)
_POINT = 4.5  # half the size of a marker [pt]


def place(axes, points: list[tuple[float, float]], texts: list[str], size: float = 8.0) -> list[Bbox]:
    """Write each text beside its point, each at the nearest place where it covers no point, no other text and stays inside the axes.

    points are in data units. The layout and the limits of the axes must be final. A text that is far from its point gets a thin line.
    Returns the boxes of the texts in pixels.
    """
    renderer = axes.figure.canvas.get_renderer()
    pixel = axes.figure.dpi / 72
    centres = [tuple(axes.transData.transform(point)) for point in points]
    markers = [Bbox.from_extents(x - r, y - r, x + r, y + r) for x, y in centres for r in [_POINT * pixel]]
    frame, font = axes.get_window_extent(renderer), FontProperties(size=size)
    boxes: dict[int, Bbox] = {}
    lines: list[tuple] = []
    for index in sorted(range(len(points)), key=lambda i: -_crowd(centres, i, 60 * pixel)):
        width, height, _ = renderer.get_text_width_height_descent(texts[index], font, ismath=False)
        others = [*boxes.values(), *(marker for i, marker in enumerate(markers) if i != index)]
        best = None
        for distance in _DISTANCES:
            for direction in _DIRECTIONS:
                box = _beside(centres[index], width + 2 * pixel, height, distance * pixel, direction)
                end = _nearest(box, centres[index])
                penalty = sum(_shared(box, other) for other in others) + _outside(box, frame)
                if distance > _DISTANCES[1]:
                    penalty += 20 * sum(_crosses(centres[index], end, other) for other in others)
                penalty += 20 * sum(_crosses(*line, box) for line in lines)
                if best is None or penalty < best[0]:
                    best = penalty, box, end, distance
            if best[0] == 0:
                break
        _, box, end, distance = best
        boxes[index] = box
        x, y = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        offset = (x - centres[index][0]) / pixel, (y - centres[index][1]) / pixel
        axes.annotate(
            texts[index], points[index], offset, textcoords="offset points", ha="center", va="center", fontsize=size, color=INK, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
        )  # fmt: skip
        if distance > _DISTANCES[1]:
            lines.append((centres[index], end))
            reach = (end[0] - centres[index][0]) / pixel, (end[1] - centres[index][1]) / pixel
            arrow = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", points[index], reach, textcoords="offset points", arrowprops=arrow, zorder=2)
    return [boxes[index] for index in range(len(points))]


def _crowd(centres, index: int, radius: float) -> int:
    return sum(math.dist(centres[index], other) < radius for other in centres)


def _beside(centre, width: float, height: float, distance: float, direction: float) -> Bbox:
    """The box whose nearest side is `distance` away from the centre in that direction."""
    across, up = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    x = centre[0] + across * distance + width / 2 * _sign(across)
    y = centre[1] + up * distance + height / 2 * _sign(up)
    return Bbox.from_extents(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _sign(value: float) -> int:
    return 0 if abs(value) < 0.2 else int(math.copysign(1, value))


def _nearest(box: Bbox, point) -> tuple[float, float]:
    return min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)


def _shared(one: Bbox, other: Bbox) -> float:
    """Area [px^2] that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: Bbox, frame: Bbox) -> float:
    return box.width * box.height - _shared(box, frame)


def _crosses(start, end, box: Bbox) -> bool:
    """Whether a line runs through a box; its first steps belong to the point itself."""
    return any(box.contains(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in (0.3, 0.5, 0.7, 0.85))
