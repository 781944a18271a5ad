"""What a step of a model of a billion parameters sends and keeps."""

from pathlib import Path

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks import _picture
from benchmarks._suite import Found

PANELS = {
    "sent_a_batch_part": "sent by a device,\neach part of the batch (GB)",
    "state_bytes": "state on a device (GB)",
}
GIGA = 1e9


def draw(found: Found, path: Path) -> None:
    """Gigabytes over devices, a line for each kind of step."""
    rows = found["modelled"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    devices = sorted({row["devices"] for row in rows})
    with _picture.figure(path, 10, 4.4) as figure:
        for axes, (key, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for k, kind in enumerate(kinds):
                mine = [row[key] / GIGA for row in rows if row["kind"] == kind]
                axes.plot(
                    devices,
                    mine,
                    ("-", "--")[k % 2],  # equal lines lie on one another
                    marker=_picture.MARKERS[k],
                    color=_picture.COLOURS[k],
                    label=kind,
                )
            axes.set(xscale="log", xlabel="devices", ylabel=label)
            if key == "state_bytes":
                axes.set(yscale="log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axes.yaxis.set_minor_formatter(NullFormatter())
            else:
                axes.set_ylim(bottom=0)
            axes.set_xticks(devices, [f"{n:,}" for n in devices])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(_picture.plain))
            _picture.tidy(axes)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=2, loc="outside upper center", frameon=False)
        figure.supxlabel("10⁹ parameters in float32, momentum", fontsize=10)
