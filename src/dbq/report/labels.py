"""Direct labels beside points without overlaps."""

import math

from matplotlib.font_manager import FontProperties
from matplotlib.transforms import Bbox

from dbq.report.drawing import FAINT, INK

# label distances from the point [pt] and directions [degrees], in the order of preference
_DISTANCES = (6, 13, 22, 33, 46, 60, 76, 94, 114, 136, 160)
_DIRECTIONS = (0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202, 67, 113, 247, 293)
_POINT = 4.5  # half the size of a marker [pt]


def place(axes, points: list[tuple[float, float]], texts: list[str], size: float = 8.0, others=()) -> list[Bbox]:
    """Write each text beside its point, each at the nearest place where it covers no point, no other text and stays inside the axes.

    points, and others that have no text, are in data units. The layout and the limits of the axes must be final. A text that is far from
    its point gets a thin line. Returns the boxes of the texts in pixels.
    """
    renderer, pixel, font = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72, FontProperties(size=size)
    centres = [tuple(axes.transData.transform(point)) for point in (*points, *others)]
    markers = [Bbox.from_extents(x - r, y - r, x + r, y + r) for x, y in centres for r in [_POINT * pixel]]
    crowd = [sum(math.dist(one, other) < 60 * pixel for other in centres) for one in centres]
    frame, boxes, lines = axes.get_window_extent(renderer), {}, []
    for index in sorted(range(len(points)), key=lambda i: -crowd[i]):
        centre = centres[index]
        width, height, _ = renderer.get_text_width_height_descent(texts[index], font, ismath=False)
        taken = [*boxes.values(), *(marker for i, marker in enumerate(markers) if i != index)]
        best = None
        for distance, direction in ((distance, direction) for distance in _DISTANCES for direction in _DIRECTIONS):
            box = _beside(centre, width + 2 * pixel, height, distance * pixel, math.radians(direction))
            end = min(max(centre[0], box.x0), box.x1), min(max(centre[1], box.y0), box.y1)
            penalty = sum(_shared(box, other) for other in taken) + box.width * box.height - _shared(box, frame)
            penalty += 20 * sum(_crosses(*line, box) for line in lines)
            if distance > _DISTANCES[1]:
                penalty += 20 * sum(_crosses(centre, end, other) for other in taken)
            if best is None or penalty < best[0]:
                best = penalty, box, end, distance
            if penalty == 0:
                break
        _, boxes[index], end, distance = best
        middle = (boxes[index].x0 + boxes[index].x1) / 2, (boxes[index].y0 + boxes[index].y1) / 2
        offset, reach = (((x - centre[0]) / pixel, (y - centre[1]) / pixel) for x, y in (middle, end))
        axes.annotate(
            texts[index], points[index], offset, textcoords="offset points", ha="center", va="center", fontsize=size, color=INK, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
        )  # fmt: skip
        if distance > _DISTANCES[1]:
            lines.append((centre, end))
            arrow = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", points[index], reach, textcoords="offset points", arrowprops=arrow, zorder=2)
    return [boxes[index] for index in range(len(points))]


def _beside(centre, width: float, height: float, distance: float, direction: float) -> Bbox:
    """The box whose nearest side is `distance` away from the centre in that direction [radians]."""
    corner = []
    for middle, size, along in zip(centre, (width, height), (math.cos(direction), math.sin(direction)), strict=True):
        side = 0 if abs(along) < 0.2 else math.copysign(1, along)
        corner.append(middle + along * distance + side * size / 2 - size / 2)
    return Bbox.from_bounds(*corner, width, height)


def _shared(one: Bbox, other: Bbox) -> float:
    """Area [px^2] that two boxes share."""
    common = Bbox.intersection(one, other)
    return common.width * common.height if common else 0.0


def _crosses(start, end, box: Bbox) -> bool:
    """Whether a line runs through a box; its first steps belong to the point itself."""
    return any(box.contains(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in (0.3, 0.5, 0.7, 0.85))
