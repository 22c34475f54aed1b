"""Running the checks, and telling people what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.doctor.findings import Found, Level, Site, fail


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    remedy: str
    look: Callable[[Site], Found]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    level: Level
    finding: str
    # Empty when all is well.
    remedy: str


def examine(site: Site, checks: Sequence[Check]) -> list[Finding]:
    """Runs the checks, in order. A check that cannot look is itself a finding."""
    return [_finding(check, site) for check in checks]


def worst(findings: Sequence[Finding]) -> Level:
    return max((finding.level for finding in findings), default=Level.OK)


def report(findings: Sequence[Finding]) -> str:
    """For people: a line for each check, and below it what to do."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.name.lower():<4}  {finding.name:<{width}}  {finding.finding}")
        if finding.remedy:
            lines.append(f"{'':<{width + 8}}→ {finding.remedy}")
    return "\n".join(lines)


def _finding(check: Check, site: Site) -> Finding:
    try:
        found = check.look(site)
    except OSError as error:
        found = fail(f"cannot be checked: {error}")
    return Finding(
        check.name, found.level, found.text, "" if found.level is Level.OK else check.remedy
    )
