"""The saved picture of a run's loss, `loss.png`, by matplotlib. The page draws its own, live."""

from __future__ import annotations

from engine.contract.rundir import Run, records


def draw(run: Run) -> None:
    """Training loss, raw and smoothed, and held-out loss, over steps; nothing before the first point."""
    points = [record for record in records(run.metrics_path) if record.get("kind") == "metrics"]
    train, held = _series(points, "train/loss"), _series(points, "eval/loss")
    if not train:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, values = zip(*train, strict=True)
    axes.plot(steps, values, color="#4466aa", alpha=0.3, linewidth=1, label="training loss")
    axes.plot(steps, smoothed(values), color="#4466aa", linewidth=1.8, label="training loss, smoothed")
    if held:
        axes.plot(*zip(*held, strict=True), "o:", color="#bb5533", markersize=4, label="held-out loss")
    axes.set(xlabel="step", ylabel="loss", title=run.id)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    partial = run.picture_path.with_suffix(".partial.png")
    figure.savefig(partial)
    partial.replace(run.picture_path)


def smoothed(values: tuple[float, ...], weight: float = 0.8) -> list[float]:
    """Exponential moving average, corrected for its start at zero as Adam corrects its moments (Kingma & Ba, 2015)."""
    found, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        found.append(mean / (1 - weight**count))
    return found


def _series(points: list[dict], name: str) -> list[tuple[int, float]]:
    """(step, value) by step; a later point for the same step wins, as after a recovery."""
    found = {point["step"]: point["values"][name] for point in points if point["values"].get(name) is not None}
    return sorted(found.items())
