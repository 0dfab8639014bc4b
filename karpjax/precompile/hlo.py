"""The text of a compiled program (HLO): how often its parts run, its cycles, and its collectives.

The text is computations, one under the other: each below those it calls, the entry last. A loop
is an instruction that calls a body and a condition, which are there once however often they run:
turns() counts that.
"""
import math
import re

COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) .*\{$")      # its head; instructions are indented
CALLED = re.compile(r"\b(?:calls|to_apply|condition|body|branch_computations|\w+_computation)="
                    r"(\{[^}]*\}|%?[\w.-]+)")
WHILE = re.compile(r" while\(.*?condition=%?([\w.-]+)")
KNOWN = re.compile(r'"known_trip_count":{"n":"(\d+)"}')   # in the CPU's text, not in the TPU's
BELOW = re.compile(r"ROOT .* compare\(.*?%?([\w.-]+)\), direction=LT")
COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|"
                        r"collective-permute)(?:-start)?\(.*?channel_id=(\d+)")
ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")              # f32[3,3,64], pred[]


def computations(hlo: str) -> dict[str, list[str]]:
    """Return {name: its instructions, a line each}, in the text's order."""
    parts, name = {}, ""
    for line in hlo.splitlines():
        if match := COMPUTATION.match(line):
            name = match[1]
            parts[name] = []
        elif name:
            parts[name].append(line)
    return parts


def turns(hlo: str) -> dict[str, float]:
    """Return {computation: how often one run of the program runs it}, nan if not known.

    A loop with the condition `counter < N` turns N times: those of scan, of fori_loop and of the
    compiler count up from 0 by one. A loop by hand that starts later or takes larger steps turns
    less often. Every branch of a conditional counts.
    """
    parts = computations(hlo)
    times = {name: 0.0 for name in parts}
    *_, entry = parts
    times[entry] = 1.0
    for caller, lines in reversed(parts.items()):                           # callers come first
        for line in lines:
            each = times[caller] * turns_of(line, parts)
            for names in CALLED.findall(line):
                for called in re.findall(r"[\w.-]+", names):
                    times[called] += each
    return times


def turns_of(line: str, parts: dict[str, list[str]]) -> float:
    """Return how often an instruction runs what it calls, nan if not known."""
    if known := KNOWN.search(line):
        return float(known[1])
    loop = WHILE.search(line)
    return limit(parts[loop[1]]) if loop else 1.0


def limit(condition: list[str]) -> float:
    """Return N of a condition `counter < N`, nan of any other."""
    bounds = [match[1] for match in map(BELOW.search, condition) if match]
    if not bounds:
        return math.nan
    constant = re.compile(rf"\s*%?{re.escape(bounds[0])} = .* constant\((\d+)\)")
    return next((float(match[1]) for match in map(constant.match, condition) if match), math.nan)


def cycles(hlo: str) -> float:
    """Return the TPU compiler's estimate of a chip's own work in one run, without collectives.

    nan: the turns of a loop are not known.
    """
    times = turns(hlo)
    return sum(times[name] * int(each)
               for name, lines in computations(hlo).items() for line in lines
               for each in re.findall(r'"estimated_cycles":"(\d+)"', line))


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Return {kind: (number, bytes of the results on a chip)} of one run.

    A loop whose turns are not known counts as one turn. The TPU spreads one all-gather over fusions
    that each hold a copy of it, of one channel. A reduce-scatter is a fusion of that name round an
    all-reduce: its bytes are those before it scatters.
    """
    times = turns(hlo)
    seen = {}
    for name, lines in computations(hlo).items():
        often = 1 if math.isnan(times[name]) else round(times[name])
        for match in filter(None, map(COLLECTIVE.search, lines)):
            result, kind, channel = match.groups()
            kind = "reduce-scatter" if "all-reduce-scatter" in name else kind
            arrays = [(int(bits or 8), *map(int, filter(None, shape.split(","))))
                      for bits, shape in ARRAY.findall(result)]
            seen[kind, channel, str(arrays)] = often, often * sum(map(math.prod, arrays)) // 8
    totals = {}
    for kind in sorted({key[0] for key in seen}):
        pairs = [pair for key, pair in seen.items() if key[0] == kind]
        totals[kind] = sum(number for number, _ in pairs), sum(size for _, size in pairs)
    return totals
