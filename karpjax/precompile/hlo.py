"""What the text of a compiled program says: how often its parts run, the compiler's cycles, the collectives and their bytes.

The text is computations, one under the other: each below those it calls, the entry last. A loop is an instruction that calls a
body and a condition, which stand there once however often they run: turns() counts that.
"""
import math
import re

COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) .*\{$")                     # its head; instructions are indented
CALLED = re.compile(r"\b(?:calls|to_apply|condition|body|branch_computations|\w+_computation)=(\{[^}]*\}|%?[\w.-]+)")
WHILE = re.compile(r" while\(.*?condition=%?([\w.-]+)")
KNOWN = re.compile(r'"known_trip_count":{"n":"(\d+)"}')                  # the CPU's compiler says it; the TPU's does not
BELOW = re.compile(r"ROOT .* compare\(.*?%?([\w.-]+)\), direction=LT")
COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
                        r".*?channel_id=(\d+)")
ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")              # f32[3,3,64], pred[]


def computations(hlo: str) -> dict[str, list[str]]:
    """{name: its instructions, a line each}, in the text's order."""
    found, name = {}, ""
    for line in hlo.splitlines():
        if match := COMPUTATION.match(line):
            name = match[1]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def turns(hlo: str) -> dict[str, float]:
    """{computation: how often one run of the program runs it}; nan where that cannot be read.

    A loop that says `counter < N` turns N times: scan's, fori_loop's and the compiler's own count up from 0 by one. A loop by
    hand that starts later or takes larger steps turns less often. Of a conditional every branch counts.
    """
    parts = computations(hlo)
    found = {name: 0.0 for name in parts}
    *_, entry = parts
    found[entry] = 1.0
    for caller, lines in reversed(parts.items()):                           # callers come first
        for line in lines:
            loop = WHILE.search(line)
            known = KNOWN.search(line)
            each = found[caller] * (float(known[1]) if known else limit(parts[loop[1]]) if loop else 1)
            for names in CALLED.findall(line):
                for called in re.findall(r"[\w.-]+", names):
                    found[called] += each
    return found


def limit(condition: list[str]) -> float:
    """N of a condition `counter < N`, nan of any other."""
    bound = next((match[1] for line in condition if (match := BELOW.search(line))), None)
    constant = re.compile(rf"\s*%?{re.escape(bound)} = .* constant\((\d+)\)") if bound else None
    return next((float(match[1]) for line in condition if constant and (match := constant.match(line))), math.nan)


def cycles(hlo: str) -> float:
    """The TPU compiler's estimate of a chip's own work in one run; collectives have none. nan: a loop's turns are not known."""
    times = turns(hlo)
    return sum(times[name] * int(each) for name, lines in computations(hlo).items() for line in lines
               for each in re.findall(r'"estimated_cycles":"(\d+)"', line))


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """{kind: (number, bytes of the results on a chip)} in one run; in a loop whose turns are not known, of one turn.

    The TPU spreads one all-gather over fusions that each hold a copy of it, of one channel. A reduce-scatter is a fusion of
    that name round an all-reduce: its bytes are those before it scatters.
    """
    times, seen = turns(hlo), {}
    for name, lines in computations(hlo).items():
        often = 1 if math.isnan(times[name]) else round(times[name])
        for match in filter(None, map(COLLECTIVE.search, lines)):
            result, kind, channel = match.groups()
            kind = "reduce-scatter" if "all-reduce-scatter" in name else kind
            arrays = [(int(bits or 8), *map(int, filter(None, shape.split(",")))) for bits, shape in ARRAY.findall(result)]
            seen[kind, channel, str(arrays)] = often, often * sum(map(math.prod, arrays)) // 8
    sizes = {kind: [size for key, size in seen.items() if key[0] == kind] for kind in sorted({key[0] for key in seen})}
    return {kind: tuple(map(sum, zip(*each))) for kind, each in sizes.items()}
