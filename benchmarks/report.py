"""docs/performance.md and docs/performance.svg from docs/performance.json; no figure is typed by hand.

``python benchmarks/report.py`` makes them again, ``--check`` only says whether the page is the one of its result.
"""

# matplotlib's own types are partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).parent.parent / "docs"
_MIB: Final = 1024 * 1024
_CACHED: Final = "anykms, cached data key"
_BARE: Final = "bare Cobblestone"
Result = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """One thing that must hold, and what was measured.

    Attributes:
        what: in words.
        bound: the limit, with "at most" or "at least".
        found: what was measured.
        met: whether it holds.
    """

    what: str
    bound: str
    found: str
    met: bool


def _row(rows: Iterable[Result], **wanted: object) -> Result:
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def _most(
    what: str, found: float, bound: float, spelt: Callable[[float], str] = lambda x: f"{x:.2f}x"
) -> Claim:
    return Claim(what, f"at most {spelt(bound)}", spelt(found), found <= bound)


def _least(
    what: str, found: float, bound: float, spelt: Callable[[float], str] = lambda x: f"{x:.1f}x"
) -> Claim:
    return Claim(what, f"at least {spelt(bound)}", spelt(found), found >= bound)


def claims(result: Result) -> list[Claim]:
    """What the project promises of its speed, judged by the result."""
    found: list[Claim] = []
    messages, streams, memory = result["messages"], result["streams"], result["memory"]
    for way, raw in (("encrypt", 14.0), ("decrypt", 12.0)):
        ours = _row(messages, size=1024, way=way, subject=_CACHED)
        found += [
            _most(f"{way} 1 KiB, cached data key: of raw AESGCM", ours["x_raw"], raw),
            _most(f"{way} 1 KiB, cached data key: of bare Cobblestone", ours["x_bare"], 1.6),
        ]
        for name, times in (
            ("AWS Encryption SDK, unsigned, cached", 10.0),
            ("AWS Encryption SDK, default", 60.0),
        ):
            theirs = _row(messages, size=1024, way=way, subject=name)
            found.append(
                _least(f"{way} 1 KiB, cached data key: faster than {name}", theirs["x_cached"], times)
            )
    ours = _row(result["buffer"], subject=_CACHED)
    found += [
        _most("1 MiB into a buffer: of raw AESGCM", ours["x_raw"], 1.5),
        _most("1 MiB into a buffer: of bare Cobblestone", ours["x_bare"], 1.06),
    ]
    for way in ("encrypt", "decrypt"):
        stream = _row(streams, way=way, subject="anykms")
        percent = "{:.0%}".format
        found += [
            _least(f"{way} a 256 MiB stream: speed of bare Cobblestone", stream["of_bare"], 0.9, percent),
            _least(f"{way} a 256 MiB stream: speed of Tink's streaming", stream["of_tink"], 2.0),
        ]
    for way in ("encrypt", "decrypt"):
        sizes = {
            row["size"]: row["bytes"] for row in memory if row["subject"] == "anykms" and row["way"] == way
        }
        small, big = (sizes[size] / _MIB for size in sorted(sizes))
        mib = "{:.1f} MiB".format
        found += [
            _most(f"{way} a 256 MiB stream: peak memory over idle", small, 4.0, mib),
            _most(f"{way} a 4 GiB stream: peak memory over idle", big, 4.0, mib),
        ]
    rate = _row(result["rewraps"], subject="anykms, a header")["per_second"]
    found.append(_least("rewrap headers, keys in memory, one core", rate, 25_000, "{:,.0f}/s".format))
    for row in result["calls"]:
        if row["per_key"] > 1:
            what = f"calls to {row['way']} {row['messages']:,} messages, {row['per_key']:,} to a data key"
            found.append(
                Claim(what, f"at most {row['allowed']}", str(row["calls"]), row["calls"] <= row["allowed"])
            )
    return found


def _table(heads: list[str], rows: Iterable[list[str]], left: int = 1) -> list[str]:
    bars = ["---"] * left + ["---:"] * (len(heads) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (heads, bars, *rows)] + [""]


def _size(count: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count // unit} {name}"
    return f"{count} B"


def _time(us: float) -> str:
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


def _times(multiple: float) -> str:
    return f"{multiple:.2f}" if multiple < 10 else f"{multiple:.0f}"


def page(result: Result) -> str:
    """The page, from one result."""
    where, load = result["machine"], result["load"]
    judged = claims(result)
    unmet = [claim for claim in judged if not claim.met]
    names = list(result["unlike"])
    sizes = sorted({row["size"] for row in result["messages"]})
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    lines = [
        "# Performance",
        "",
        "What anykms costs over the ciphers underneath it, and beside the libraries that one would use instead.",
        "Ratios carry over from one machine to another; times do not.",
        "",
        f"{where['date']}, {where['cpu']}, {where['processors']} processors, {where['system']}, "
        f"Python {where['python']}, {packages}, {where['openssl']} inside cryptography. "
        f"Load average {load['before'][0]:.1f} before and {load['after'][0]:.1f} after the run, itself included.",
        "",
        f"{len(judged) - len(unmet)} of {len(judged)} promises hold in this run"
        + (".", ": " + "; ".join(claim.what for claim in unmet) + " did not.")[bool(unmet)],
        "",
        *_table(
            ["promise", "bound", "measured", "held"],
            ([c.what, c.bound, c.found, "yes" if c.met else "**no**"] for c in judged),
        ),
        "## Messages",
        "",
        "![Cost of a message as a multiple of raw AES-256-GCM, by size](performance.svg)",
        "",
    ]
    for way in ("encrypt", "decrypt"):
        by = {(row["size"], row["subject"]): row for row in result["messages"] if row["way"] == way}
        lines += [
            f"Multiples of raw AESGCM, to {way}:",
            "",
            *_table(
                [way, *map(_size, sizes)],
                ([name, *(_times(by[size, name]["x_raw"]) for size in sizes)] for name in names),
            ),
            f"Processor time of one message, to {way}:",
            "",
            *_table(
                [way, *map(_size, sizes)],
                ([name, *(_time(by[size, name]["us"]) for size in sizes)] for name in names),
            ),
        ]
    small = {
        row["subject"]: row for row in result["messages"] if (row["size"], row["way"]) == (1024, "encrypt")
    }
    lines += [
        "What is compared here is not alike:",
        "",
        *_table(
            ["subject", "what it is", "bytes more at 1 KiB"],
            ([name, what, str(small[name]["bytes_more"])] for name, what in result["unlike"].items()),
            left=2,
        ),
        "Large messages are dominated by what the system charges for memory that was never touched. "
        "`Keyring.encrypt_into` writes to memory that the caller has; 1 MiB, again and again into one buffer:",
        "",
        *_table(
            ["into a buffer", "processor time", "of raw AESGCM", "of bare Cobblestone"],
            (
                [r["subject"], _time(r["us"]), f"{r['x_raw']:.2f}", f"{r['x_bare']:.2f}"]
                for r in result["buffer"]
            ),
        ),
        "## Streams",
        "",
        "256 MiB from memory to a sink that keeps nothing, MB per second of processor time. Memory is the peak over "
        "what the process had before, in a process of its own, from a file where it decrypts.",
        "",
    ]
    streams, memory = result["streams"], result["memory"]
    lines += _table(
        ["stream", "what it is", "encrypt MB/s", "decrypt MB/s", "encrypt MiB", "decrypt MiB"],
        (
            [
                name,
                what,
                *(
                    f"{_row(streams, way=way, subject=name)['mb_per_second']:,.0f}"
                    for way in ("encrypt", "decrypt")
                ),
                *(
                    f"{_row(memory, way=way, subject=name, size=256 * _MIB)['bytes'] / _MIB:.1f}"
                    for way in ("encrypt", "decrypt")
                ),
            ]
            for name, what in result["streams_unlike"].items()
        ),
        left=2,
    )
    big = {row["way"]: row["bytes"] / _MIB for row in memory if row["size"] == 4096 * _MIB}
    tried = result["tampering"]
    lines += [
        f"Of 4 GiB anykms takes {big['encrypt']:.1f} MiB to encrypt and {big['decrypt']:.1f} MiB to decrypt.",
        "",
        "## A damaged file",
        "",
        f"A message of {_size(tried['size'])} in {tried['chunks']:,} chunks. One bit was flipped in every byte "
        "before the chunks, at every chunk's first byte and somewhere inside each: "
        f"{tried['flips_random_access']:,} files for random access, {tried['flips_streams']:,} for streams. It was cut "
        "at every chunk's edge, one byte after it, and somewhere inside each chunk: "
        f"{tried['cuts_random_access']:,} files for random access, {tried['cuts_streams']:,} for streams. Every flip "
        "and every cut was noticed. What came out before was compared with the plaintext: nothing of the damaged "
        "chunk, and nothing after it. No file that was cut told its length. "
        "Had one not been noticed, there would be no page.",
        "",
        "## Rewrap",
        "",
        "New recipients for a message, per second of processor time, wrapping keys in memory but for the last:",
        "",
        *_table(
            ["rewrap", "what it does", "per second"],
            ([r["subject"], r["what"], f"{r['per_second']:,.0f}"] for r in result["rewraps"]),
            left=2,
        ),
        "## The cache",
        "",
    ]
    for way in ("encrypt", "decrypt"):
        told = ", ".join(
            f"{_row(result['messages'], size=1024, way=way, subject=name)['x_cached']:.1f} times as long with a "
            + name.removeprefix("anykms, ")
            for name in ("anykms, key in memory", "anykms, key in a keystore")
        )
        lines.append(f"To {way} 1 KiB without a cache takes {told}; a cloud's key takes milliseconds.")
    lines += [
        "",
        "Calls of the provider, counted at its seam; `max_messages` of the cache is its policy, with 300 s to encrypt "
        "and the clients' 60 s to decrypt:",
        "",
        *_table(
            ["messages of one context", "messages to a data key", "calls", "the policy allows"],
            (
                [f"{r['way']} {r['messages']:,}", f"{r['per_key']:,}", str(r["calls"]), str(r["allowed"])]
                for r in result["calls"]
            ),
        ),
        "## Imports",
        "",
        *_table(
            ["statement", "processor time over bare Python, ms"],
            ([f"`{statement}`", f"{ms:.1f}"] for statement, ms in result["imports"].items()),
        ),
        "## How it was measured, and how to do it again",
        "",
        "    pip install -e '.[bench]'",
        "    python benchmarks/performance.py",
        "",
        "One command measures everything, writes `docs/performance.json`, and makes this page and its plot from it; "
        "`--out FOLDER` leaves these alone, `--quick` shows in a minute or two that it works. "
        "`python benchmarks/report.py` makes the page again from the result.",
        "",
        "All subjects of a table run in one process and take turns within each round, so that a machine that slows "
        "down hits all of them alike. A ratio is the median of the ratios of each round, a time the median of the "
        "rounds, in processor time of the process: other work on the machine does not count, but it cools caches. "
        "The garbage collector is off while a turn lasts. No network is used: the wrapping keys of anykms, Tink and "
        "the AWS Encryption SDK are in memory, where not said otherwise. Linux is needed for peak memory.",
        "",
    ]
    return "\n".join(lines)


def plot(result: Result, target: Path) -> None:
    """Cost of a message as a multiple of raw AESGCM against its size, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [name for name in result["unlike"] if name != "raw AESGCM"]
    colours = dict(zip(names, mpl.color_sequences["tab10"], strict=False))
    with mpl.rc_context({"svg.hashsalt": "anykms", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, way in ((left, "encrypt"), (right, "decrypt")):
            for name in names:
                points = sorted(
                    (row["size"], row["x_raw"])
                    for row in result["messages"]
                    if row["way"] == way and row["subject"] == name
                )
                axes.plot(
                    [size for size, _ in points],
                    [multiple for _, multiple in points],
                    color=colours[name],
                    label=name,
                    marker="o",
                    markersize=4,
                    linewidth=2.6 if name == _CACHED else 1.3,
                    linestyle="-" if name.startswith("anykms") else "--",
                )
            sizes = sorted({row["size"] for row in result["messages"]})
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(sizes, [_size(size) for size in sizes], rotation=40)
            axes.set_title(way)
            axes.grid(visible=True, alpha=0.3)
        left.set_ylabel("processor time, multiple of raw AES-256-GCM")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(target, metadata={"Date": None, "Title": "Cost of a message by size"})


def write(folder: Path) -> None:
    """Make page and plot from the result in the same folder."""
    result = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
    (folder / "performance.md").write_text(page(result), encoding="utf-8")
    plot(result, folder / "performance.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is another")
    if parser.parse_args().check:
        result = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))
        if (DOCS / "performance.md").read_text(encoding="utf-8") != page(result):
            sys.exit("docs/performance.md is not made from docs/performance.json: run benchmarks/report.py")
        return
    write(DOCS)


if __name__ == "__main__":
    main()
