"""The slow, obvious twin of native.kernels.univariate: one series, one object for each thing that is remembered."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

DAY_NS = 86_400_000_000_000
HOUR_NS = DAY_NS // 24
PLACE_NS = DAY_NS // 144
#: A Monday's first hour, since 1970.
MONDAY = -3 * 24


def single(number: float) -> float:
    """What a number is after it was stored in four bytes."""
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def brief(number: float) -> float:
    """What a number is after it was stored in the upper two of these four bytes."""
    bits = (int(np.float32(number).view(np.uint32)) + 0x8000) >> 16 << 16
    return float(np.uint32(bits).view(np.float32))


def between(number: float, most: float) -> float:
    return max(-most, min(most, number))


@dataclass
class Predictor:
    window: int
    mean: float = 0.0
    scale: float = 0.0


@dataclass
class Feature:
    window: int
    centre_window: int
    average: float = 0.0
    centre: float = 0.0
    spread: float = 0.0
    top: float = 0.0
    usual: float = 0.0
    unsure: float = 0.0


@dataclass
class Week:
    """What is known of the hours of the week, and how well the day and the week have predicted them."""

    hours: dict[int, float] = field(default_factory=dict)
    left: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=lambda: [0.0, 0.0])
    errors: list[float] = field(default_factory=lambda: [0.0, 0.0])
    compared: int = 0
    used: bool = False
    changed: bool = False
    days: int = 0

    def leave(self, hour: int) -> None:
        if not self.left:
            return
        total = 0.0
        for one in self.left:
            total = single(total + one)
        mean, self.left = total / len(self.left), []
        place = (hour - MONDAY) % 168
        learned = mean
        if place in self.hours:
            self.compared += 1
            for which, number in enumerate((mean, mean - self.hours[place])):
                error = abs(number - self.levels[which]) - self.errors[which]
                self.errors[which] = single(self.errors[which] + max(1 / 336, 1 / self.compared) * error)
                move = max(1 / 48, 1 / self.compared) * (number - self.levels[which])
                self.levels[which] = single(self.levels[which] + move)
            move = mean - self.hours[place]
            if self.compared > 72:
                move = between(move, 3.0 * self.errors[1])
            learned = self.hours[place] + max(1 / 4, 1 / (2 + self.compared / 168)) * move
        self.hours[place] = brief(learned if abs(learned) > 1e-30 else 1e-30)

    def end_day(self) -> None:
        self.days += 1
        daily, weekly = self.errors
        if (weekly > 0.9 * daily) if self.used else (self.compared >= 72 and weekly < 0.75 * daily):
            self.used, self.changed, self.days = not self.used, True, 5


@dataclass
class Story:
    """What one series has been through."""

    count: float = 0
    predictors: list[Predictor] = field(default_factory=lambda: [Predictor(n) for n in (1, 3, 10, 30, 100, 1000)])
    features: list[Feature] = field(
        default_factory=lambda: [
            Feature(1, 1500), Feature(3, 1500), Feature(15, 150), Feature(20, 0),
            Feature(200, 1500), Feature(120, 1500), Feature(20, 1500),
        ]
    )  # fmt: skip
    strange: float = 0.0
    step: float = 0.0
    origin: float = 0.0
    previous: float = 0.0
    newest: int = 0
    days: int = 0
    alarm_ns: int = 0
    loudness: float = 0.0
    rises: int = 0
    is_counter: bool = False
    season: int = 0
    profile: dict[int, tuple[float, int]] = field(default_factory=dict)
    week: Week = field(default_factory=Week)
    here: list[float] = field(default_factory=list)
    waiting: tuple[int, float] | None = None

    def advance(self, time: int, value: float) -> tuple[float, int]:
        """Live through one sample; return its score and the number of the feature it is an alarm for, else 0."""
        if not math.isfinite(value):
            return 0.0, 0
        if self.count == 0:
            self.previous, self.newest = value, time
        time = max(time, self.newest)
        previous = self.previous
        judged = self._judged(time, value)
        if self.count == 0:
            self.origin = 0.0 if self.is_counter else judged
        before, self.newest, self.previous = self.newest, time, value
        x = between(judged - self.origin, 1e30)
        count = self.count = min(self.count + 1, 1e7)
        if count > 1 and time // PLACE_NS != before // PLACE_NS:
            self._leave_place(before // PLACE_NS % 144)
        if count > 1 and time // HOUR_NS != before // HOUR_NS:
            self.week.leave(before // HOUR_NS)
        plain = x - self._expected(time, x)
        if self.season > 0:
            self.week.left.append(plain)
        left = plain
        if self.week.used:
            left -= self.week.hours.get((time // HOUR_NS - MONDAY) % 168, 0.0) + self.week.levels[1]
        if self.season == 1:
            for predictor in self.predictors:
                predictor.mean = single(plain)
            self.count = min(count, 50)
        if self.season == 1 or self.week.changed:
            self.features[6].average = self.features[6].centre = single(left)
            self.features[6].window = 3 if self.week.used else 20
            self.season, self.week.changed = 2, False
        self._predict(x, plain, count)
        score = 0.5 * self.strange / (self.strange + 4.0)
        if count > 1 and time // DAY_NS != before // DAY_NS:
            self._end_day()
        change = abs(x) if self.is_counter else min(abs(value - previous), 1e30)
        distances = self._measure([x, x, x, change, change, self._activity(change, count), left], count)
        zs = []
        for feature, distance in zip(self.features, distances, strict=True):
            above = math.log(distance + 0.05 * feature.spread + 1e-30) - feature.usual
            zs.append(max(-20.0, min(20.0, above / max(feature.unsure, 0.02))))
        strength = math.log(sum(math.exp(z) for z in zs) / 7)
        bar = self.loudness * 4.5 * math.exp(-(time - self.alarm_ns) / DAY_NS)
        if self.days == 0 or strength < 0.95 or strength < bar:
            return score, 0
        self.loudness, self.alarm_ns = single(strength), time
        return 1.0 - 0.5 * math.exp((0.95 - strength) / 4.0), 1 + zs.index(max(zs))

    def _judged(self, time: int, value: float) -> float:
        if self.count and value < self.previous:
            if self.is_counter and value > 0.5 * self.previous:
                self._restart(counter=False)
            if not self.is_counter:
                self.rises = -1
        elif self.count and value > self.previous and self.rises >= 0 and not self.is_counter:
            self.rises += 1
            if self.rises >= 64:
                self._restart(counter=True)
        if not self.is_counter:
            return value
        gained = value - self.previous if value >= self.previous else value
        return gained / max((time - self.newest) * 1e-9, 1e-3)

    def _restart(self, *, counter: bool) -> None:
        fresh = Story(previous=self.previous if counter else 0.0, newest=self.newest if counter else 0)
        self.__dict__.update(fresh.__dict__)
        self.is_counter = counter

    def _learn_waiting(self) -> None:
        assert self.waiting is not None
        place, mean = self.waiting
        self.waiting = None
        if place not in self.profile:
            self.profile[place] = (mean, 1)
            return
        value, visits = self.profile[place]
        move = mean - value
        if self.season > 0:
            move = between(move, 3.0 * self.predictors[-1].scale)
        self.profile[place] = (single(value + max(1 / (visits + 1), 1 / 21) * move), min(visits + 1, 255))

    def _leave_place(self, place: int) -> None:
        if self.waiting is not None:
            self._learn_waiting()
        if self.here:
            total = 0.0
            for one in self.here:
                total = single(total + one)
            self.waiting = (place, single(total / len(self.here)))
        self.here = []

    def _expected(self, time: int, x: float) -> float:
        where = (time % DAY_NS) / PLACE_NS - 0.5
        left, share = math.floor(where) % 144, where - math.floor(where)
        right = (left + 1) % 144
        if self.waiting is not None and self.waiting[0] != left:
            self._learn_waiting()
        self.here.append(x)
        if self.season == 0:
            return 0.0
        known = [(w, self.profile[p][0]) for w, p in ((1 - share, left), (share, right)) if p in self.profile and w > 0]
        if known:
            return sum(w * value for w, value in known) / sum(w for w, _ in known)
        if self.waiting is not None:
            return self.waiting[1]
        for back in range(144):
            if (left - back) % 144 in self.profile:
                return self.profile[(left - back) % 144][0]
        return x

    def _predict(self, x: float, plain: float, count: float) -> None:
        squares = 0.0
        tiny = 1e-7 * abs(x) + 1e-30
        for predictor in self.predictors:
            error, scale = plain - predictor.mean, predictor.scale
            size = abs(error)
            if scale > tiny:
                squares += min(size / scale, 1e4) ** 2
                if count > 20:
                    size, error = min(size, 4.0 * scale), between(error, 3.0 * scale)
            elif size > tiny:
                squares += 9.0
            predictor.scale = single(scale + max(1 / 10000, 1 / count) * (size - scale))
            predictor.mean = single(predictor.mean + max(1 / predictor.window, 1 / count) * error)
        self.strange = single(self.strange + 0.4 * (math.sqrt(squares / 6) - self.strange))

    def _activity(self, change: float, count: float) -> float:
        step = self.step
        capped = min(change, 3.0 * step) if count > 20 else change
        self.step = single(step + max(1 / 2000, 1 / count) * (capped - step))
        return min(change, 2.0 * step) / step if step > 0 else 0.0

    def _end_day(self) -> None:
        for number, feature in enumerate(self.features):
            days = self.week.days if number == 6 else self.days
            top = math.log(feature.top + 0.05 * feature.spread + 1e-30)
            if days == 0:
                feature.usual, feature.unsure = single(top), 0.25
            else:
                move, unsure = top - feature.usual, feature.unsure
                feature.usual = single(feature.usual + max(1 / 20, 1 / (days + 1)) * move)
                counted = min(abs(move), 3.0 * unsure)
                feature.unsure = single(unsure + max(1 / 20, 1 / (days + 4)) * (counted - unsure))
            feature.top = 0.0
        self.days += 1
        self.week.end_day()
        self.season = max(self.season, 1)

    def _measure(self, seen: list[float], count: float) -> list[float]:
        distances = []
        for feature, number in zip(self.features, seen, strict=True):
            exact = feature.average + max(1 / feature.window, 1 / count) * (number - feature.average)
            feature.average = single(exact)
            distance = exact
            if feature.centre_window:
                if count == 1:
                    feature.centre = single(exact)
                off = exact - feature.centre
                distance = abs(off)
                move = between(off, 4.0 * feature.spread)
                feature.centre = single(feature.centre + max(1 / feature.centre_window, 1 / count) * move)
            counted = min(distance, 6.0 * feature.spread) if count > 20 else distance
            spread = feature.spread + max(1 / 5000, 1 / count) * (counted - feature.spread)
            feature.spread = single(spread)
            feature.top = max(feature.top, single(distance))
            distances.append(distance)
        return distances
