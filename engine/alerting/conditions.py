"""What a rule wants to hold, in one line for people."""

from __future__ import annotations

from engine.config import Rule


def condition(rule: Rule) -> str:
    """Return what a rule wants to hold, in one line."""
    number = _number(rule)
    if rule.group_by is not None:
        groups = f"by ({', '.join(rule.group_by)})" if rule.group_by else "over all series"
        number = f"{rule.group_aggregate} {groups} of {number}"
    if rule.scale != 1.0:
        number = f"{number} x {rule.scale:g}"
    if rule.compare_with is not None:
        usual = f"the {rule.compare_by} of the same hour of {rule.compare_past} past {rule.compare_with}"
        number = f"{rule.compare_as} of {number} to {usual}"
    if rule.forecast is not None:
        number = f"{number} in {rule.forecast.text}"
    level = f"{rule.threshold:g}" if rule.upper is None else f"{rule.threshold:g}..{rule.upper:g}"
    waiting = f" for {rule.for_.text}" if rule.for_ else ""
    return f"{number} {rule.op} {level}{waiting}{', confirmed' if rule.confirm else ''}"


def _number(rule: Rule) -> str:
    def one(metric: str, match: dict[str, str], where: str) -> str:
        parts = [f'{name}="{value}"' for name, value in match.items()]
        chosen = f"{metric}{{{','.join([*parts, *([where] if where else [])])}}}" if parts or where else metric
        if rule.aggregate == "last":
            return chosen
        return f"{rule.aggregate}({chosen}" + (")" if rule.aggregate == "age" else f" over {rule.over.text})")

    above = one(rule.metric, rule.match, rule.where)
    if rule.divide_by is None:
        return above
    match = rule.match if rule.divide_match is None else rule.divide_match
    below = one(rule.divide_by, match, rule.where if rule.divide_where is None else rule.divide_where)
    return f"{above} / {below}"
