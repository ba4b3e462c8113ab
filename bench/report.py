"""Prints what a run of the benchmarks measured: ns per operation, and the ratio to the named baseline of the same run.

    python bench/report.py build/bench.json
"""
import json
import sys

HEAD = ("benchmark", "ns/op", "of baseline", "ns", "ratio", "real code")
NOTE = """\
ns/op: the best round. ratio: to the baseline's best, measured in turns with it; below 1 is faster than the baseline.
real code: ns of the kernel's or the module's own code, compiled in user space and recorded on another machine."""


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def line(name, info, baseline=None):
    return (name, number(info.get("ns")), info.get("baseline", "") if baseline is None else baseline,
            number(info.get("baseline_ns")), number(info.get("ratio")), number(info.get("recorded_ns")))


def rows(run):
    """One row per benchmark; one more for each part and each rate."""
    for bench in run["benchmarks"]:
        info = bench["extra_info"]
        yield line(bench["name"].removeprefix("test_"), info)
        for name, part in info.get("parts", {}).items():
            yield line("  " + name, part, "")
        rates = [f"{name.removesuffix('_per_s').replace('_', ' ')}/s {info[name]:,.0f}"
                 for name in info if name.endswith("_per_s")]
        if rates:
            yield ("  " + ", ".join(rates),)


def group(bench):
    return bench["fullname"].split("::")[0].rsplit("/", 1)[-1].removeprefix("test_bench_").removesuffix(".py")


def report(run):
    """The tables as text, one per suite."""
    suites = {}
    for bench in run["benchmarks"]:
        suites.setdefault(group(bench), []).append(bench)
    out = []
    for suite, benches in suites.items():
        table = [HEAD, *rows({"benchmarks": benches})]
        full = [row for row in table if len(row) == len(HEAD)]
        wide = [max(len(row[i]) for row in full) for i in range(len(HEAD))]
        out.append(f"== {suite}")
        for row in table:
            if len(row) != len(HEAD):
                out.append(row[0])
                continue
            cells = [text.ljust(n) if i in (0, 2) else text.rjust(n) for i, (text, n) in enumerate(zip(row, wide))]
            out.append("  ".join(cells).rstrip())
        out.append("")
    return "\n".join([*out, NOTE])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        with open(sys.argv[1]) as file:
            print(report(json.load(file)))
    except (OSError, ValueError) as error:
        print(f"error: {sys.argv[1]}: {error}; run `make bench` first", file=sys.stderr)
        sys.exit(2)
