"""What the profile of params.yaml makes of its presets: every data set, float network and row with all its values, or why it isn't run.

`plan(read("params.yaml"))` resolves and checks the whole file, in a tenth of a second, and reports all faults at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from dbq.errors import DbqError
from dbq.settings.entries import (
    ActivationSettings,
    CostSettings,
    DatasetSettings,
    EngineSettings,
    ExternalWeights,
    HardwareSettings,
    OverheadSettings,
    PolicySettings,
    Row,
    Start,
    TrainingSettings,
)
from dbq.settings.presets import chain, changed, lookup, preset
from dbq.settings.quantizers import METHODS
from dbq.settings.source import KEY, KEY_RULE
from dbq.settings.values import Faults, Settings, parse

SECTIONS = (
    "profile", "datasets", "profiles", "sources", "starts", "external_weights", "schedules", "quantizers", "policies", "activations",
    "defaults", "rows", "cost", "engine", "hardware", "overhead",
)  # fmt: skip
PROFILE_KEYS = ("extends", "datasets", "schedules", "weights", "rows", "overhead")
START_KEYS = ("network", "dataset", "schedule", "seed")
ROW_KEYS = ("extends", "start", "quantizer", "schedule", "activations", "policy", "activation_bits", "judged")


@dataclass(frozen=True)
class Planned:
    """settings: a DatasetSettings, Start or Row. reason: why it isn't run, or None."""

    key: str
    settings: Settings
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that a profile means. The mappings keep the order of params.yaml."""

    profile: str
    datasets: dict[str, Planned]
    starts: dict[str, Planned]
    rows: dict[str, Planned]
    cost: CostSettings
    engine: EngineSettings
    hardware: HardwareSettings
    overhead: OverheadSettings

    def row(self, key: str) -> Row:
        """A row that the profile runs; raises DbqError with the reason for any other."""
        return self._running(self.rows, key, "rows")

    def start(self, key: str) -> Start:
        return self._running(self.starts, key, "starts")

    def training(self, key: str) -> Row | Start:
        """The row or the start of this key."""
        return self.start(key) if key in self.starts else self.row(key)

    def _running(self, section: dict[str, Planned], key: str, name: str):
        planned = lookup(section, key, name, name.removesuffix("s"))
        if planned.reason:
            raise DbqError(
                f"{name}.{key}: not run in the profile {self.profile}: {planned.reason}", "choose another profile or another key"
            )
        return planned.settings


def plan(params: dict, profile: str | None = None, at_hand: Callable[[DatasetSettings], str | None] | None = None) -> Plan:
    """Resolve params.yaml for a profile (default: the one that it names).

    at_hand(settings) gives a line for a data set that can't be had on this machine: its float networks and rows are left out then.
    Raises Faults with every fault of the file, whichever profile it belongs to.
    """
    resolver = _Resolver(params)
    chosen = profile or params.get("profile")
    made = resolver.attempt(lambda: resolver.plan(chosen, at_hand))
    for other in resolver.profiles if not resolver.errors else ():
        if other != chosen:
            resolver.attempt(lambda other=other: resolver.plan(other, None))
    if resolver.errors:
        raise Faults(list({str(error): error for error in resolver.errors}.values()))
    return made


@dataclass
class _Resolver:
    params: dict
    errors: list[DbqError] = field(default_factory=list)

    def __post_init__(self):
        self.attempt(lambda: _check_keys(self.params, SECTIONS, "params.yaml"))
        for name in SECTIONS[1:]:
            if not isinstance(self.params.get(name), dict):
                problem = "not a mapping" if name in self.params else "missing"
                self.errors.append(DbqError(f"params.yaml: {name}: {problem}", "restore the section: `git diff params.yaml` shows it"))
        if self.errors:
            raise Faults(self.errors)
        self.profiles = list(self.params["profiles"])

    def attempt(self, action: Callable):
        """action(), or None where it fails: the fault is kept."""
        try:
            return action()
        except Faults as faults:
            self.errors += faults.errors
        except DbqError as error:
            self.errors.append(error)
        return None

    def plan(self, profile: str, at_hand) -> Plan:
        self.name = profile
        self.entry = self.profile(profile)
        _check_keys(self.entry, PROFILE_KEYS, f"profiles.{profile}")
        datasets = {name: self.attempt(lambda name=name: self.dataset(name, at_hand)) for name in self._keys("datasets")}
        self.planned_datasets = {name: made for name, made in datasets.items() if made}
        self.planned_starts: dict[str, Planned] = {}
        for key in self._keys("starts"):
            if made := self.attempt(lambda key=key: self.start(key)):
                self.planned_starts[key] = made
        rows = {key: self.attempt(lambda key=key: self.row(key)) for key in self._keys("rows")}
        rows = {key: made for key, made in rows.items() if made}
        needed = {made.settings.start for made in rows.values() if made.reason is None}
        for key, made in self.planned_starts.items():
            if key not in needed and made.reason is None:
                self.planned_starts[key] = Planned(key, made.settings, f"no row of the profile {profile} begins from it")
        used = {made.settings.dataset for made in self.planned_starts.values() if made.reason is None}
        for name, made in self.planned_datasets.items():
            if name not in used and made.reason is None:
                self.planned_datasets[name] = Planned(name, made.settings, f"no row of the profile {profile} learns it")
        overhead = changed(self.params["overhead"], self.entry.get("overhead", {}))
        groups = (
            (CostSettings, self.params["cost"], "cost"), (EngineSettings, self.params["engine"], "engine"),
            (HardwareSettings, self.params["hardware"], "hardware"), (OverheadSettings, overhead, "overhead"),
        )  # fmt: skip
        parsed = [self.attempt(lambda group=group: parse(*group)) for group in groups]
        return Plan(profile, self.planned_datasets, self.planned_starts, rows, *parsed)

    def _keys(self, section: str) -> list[str]:
        """The keys of a section that may name files and stages; the others are faults."""
        good = []
        for key in self.params[section]:
            if section == "rows" and key in self.params["starts"]:
                self.errors.append(DbqError(f"rows.{key}: a start has this key, too", "call one of them otherwise"))
            elif isinstance(key, str) and KEY.fullmatch(key):
                good.append(key)
            else:
                self.errors.append(DbqError(f"{section}: the key {str(key)[:100]!r} can't name a stage", KEY_RULE))
        return good

    def profile(self, name) -> dict:
        """A profile with the keys of those that it extends; its rows replace theirs."""
        links = chain(self.params["profiles"], name, "profile", "profile")
        entry: dict = {}
        for _, keys in links:
            entry = {**changed(entry, keys), **({"rows": keys["rows"]} if "rows" in keys else {})}
        for key in ("datasets", "schedules", "rows"):
            if not isinstance(entry.get(key), dict):
                raise DbqError(f"profiles.{name}.{key}: missing, or not a mapping", "see the other profiles")
        for schedule in entry["schedules"]:
            lookup(self.params["schedules"], schedule, f"profiles.{name}.schedules", "schedule")
        for dataset in entry["datasets"]:
            lookup(self.params["datasets"], dataset, f"profiles.{name}.datasets", "data set")
        for start, weights in (entry.get("weights") or {}).items():
            lookup(self.params["starts"], start, f"profiles.{name}.weights", "start")
            lookup(self.params["external_weights"], weights, f"profiles.{name}.weights.{start}", "external_weights")
        return entry

    def dataset(self, name: str, at_hand) -> Planned:
        where = f"profiles.{self.name}.datasets.{name}"
        entry = self.entry["datasets"].get(name)
        if not isinstance(entry, dict) or "source" not in entry:
            raise DbqError(f"{where}: no source", "write {source: NAME, ..} with a key of `sources`")
        keys = changed(preset(self.params["sources"], entry["source"], where, "source"), entry)
        settings = parse(DatasetSettings, keys, where)
        return Planned(name, settings, at_hand(settings) if at_hand else None)

    def start(self, key: str) -> Planned | None:
        where = f"starts.{key}"
        entry = self._entry("starts", key, START_KEYS)
        weights = (self.entry.get("weights") or {}).get(key)
        lookup(self.params["datasets"], entry.get("dataset"), f"{where}.dataset", "data set")
        if entry["dataset"] not in self.planned_datasets:
            return None  # the data set's own fault says it
        data = self.planned_datasets[entry["dataset"]]
        values = {
            "key": key, "profile": self.name, "network": entry.get("network"), "dataset": entry["dataset"],
            "dataset_settings": data.settings, "training": self.schedule(entry.get("schedule", "float"), where, {}),
            "seed": entry.get("seed", 0),
            "weights": parse(ExternalWeights, self.params["external_weights"][weights], f"external_weights.{weights}") if weights else None,
        }  # fmt: skip
        made = parse(Start, values, where)
        if made.weights and made.weights.network != made.network:
            raise DbqError(f"profiles.{self.name}.weights.{key}: {weights} holds a {made.weights.network}", f"name a {made.network}'s")
        return Planned(key, made, data.reason)

    def row(self, key: str) -> Planned | None:
        where = f"rows.{key}"
        links = chain(self.params["rows"], key, where, "row")
        given: dict = {}
        for name, entry in links:
            _check_keys(entry, ROW_KEYS, f"rows.{name}")
            for part, value in entry.items():  # a mapping changes what a name has chosen
                given[part] = {"extends": given[part], **value} if isinstance(value, dict) and isinstance(given.get(part), str) else (
                    changed(given[part], value) if isinstance(value, dict) and part in given else value
                )  # fmt: skip
        start = lookup(self.params["starts"], given.get("start"), f"{where}.start", "start")
        if given["start"] not in self.planned_starts:
            return None  # the start's own fault says it
        begun = self.planned_starts[given["start"]]
        seeds, changes = self.seeds(key)
        quantizer = self.quantizer(given.get("quantizer"), key, where)
        policy = given.get("policy", quantizer.pop("policy", self.params["defaults"].get("policy", "standard")))
        quantizer.pop("policy", None)
        method = quantizer.pop("method", None)
        if method not in METHODS:
            raise DbqError(f"{where}.quantizer: unknown method {method!r}", f"choose one of {', '.join(METHODS)}")
        made = parse(METHODS[method], quantizer, f"{where}.quantizer")
        defaults = self.params["defaults"]
        activations = changed(self.params["activations"], given.get("activations", {}))
        values = {
            "key": key, "profile": self.name, "start": given["start"], "network": start.get("network"), "dataset": start.get("dataset"),
            "dataset_settings": begun.settings.dataset_settings, "method": method, "quantizer": made, "weight_bits": made.weight_bits,
            "branches": made.branches, "activation_bits": given.get("activation_bits", defaults.get("activation_bits", 8)),
            "activations": parse(ActivationSettings, activations, f"{where}.activations"),
            "policy": parse(PolicySettings, self._preset_or_changes("policies", policy, "standard", where, "policy"), f"{where}.policy"),
            "training": self.schedule(given.get("schedule", defaults.get("schedule", "finetune")), where, changes),
            "seeds": list(range(seeds)), "judged": given.get("judged", defaults.get("judged", "test")),
            "compared_with": links[-2][0] if len(links) > 1 else None,
        }  # fmt: skip
        reason = begun.reason or (None if seeds else f"profiles.{self.name}.rows gives it no seed")
        return Planned(key, parse(Row, values, where), reason)

    def seeds(self, key: str) -> tuple[int, dict]:
        """How many seeds the profile gives a row, and what it changes in the row's schedule."""
        where = f"profiles.{self.name}.rows"
        for pattern, value in self.entry["rows"].items():
            if fnmatchcase(key, str(pattern)):
                changes = dict(value) if isinstance(value, dict) else {"seeds": value}
                seeds = changes.pop("seeds", 1)
                if not isinstance(seeds, int) or isinstance(seeds, bool) or not 0 <= seeds <= 1000:
                    raise DbqError(f"{where}.{pattern}: {seeds!r} seeds", "give a whole number from 0 to 1000")
                return seeds, changes
        return 0, {}

    def quantizer(self, chosen, key: str, where: str) -> dict:
        presets = self.params["quantizers"]
        if chosen is None or (isinstance(chosen, dict) and "extends" not in chosen):
            fits = [name for name in presets if key == name or key.endswith(f"-{name}")]
            if not fits:
                raise DbqError(f"{where}: no quantizer, and the key ends with no preset's name", f"add one of {', '.join(presets)}")
            chosen = max(fits, key=len) if chosen is None else {"extends": max(fits, key=len), **chosen}
        return self._preset_or_changes("quantizers", chosen, None, where, "quantizer")

    def schedule(self, chosen, where: str, of_profile: dict) -> TrainingSettings:
        """The keys of a schedule with what the profile changes in it and in what it extends, then in the row, then what the row changes."""
        name, changes = (chosen, {}) if isinstance(chosen, str) else (chosen.get("extends", self.params["defaults"]["schedule"]), chosen)
        keys: dict = {}
        for link, own in chain(self.params["schedules"], name, f"{where}.schedule", "schedule"):
            keys = {**keys, **own, **self.entry["schedules"].get(link, {})}
        keys = {**keys, **of_profile, **{key: value for key, value in changes.items() if key != "extends"}}
        return parse(TrainingSettings, keys, f"{where}.schedule")

    def _preset_or_changes(self, section: str, chosen, default, where: str, kind: str) -> dict:
        if isinstance(chosen, str):
            return preset(self.params[section], chosen, f"{where}.{kind}", kind)
        if not isinstance(chosen, dict):
            raise DbqError(f"{where}.{kind}: {chosen!r}", f"name a key of `{section}`, or change keys of it")
        base = preset(self.params[section], chosen.get("extends", default), f"{where}.{kind}", kind)
        return changed(base, {key: value for key, value in chosen.items() if key != "extends"})

    def _entry(self, section: str, key: str, keys: tuple[str, ...]) -> dict:
        entry = self.params[section][key]
        if not isinstance(entry, dict):
            raise DbqError(f"{section}.{key}: {entry!r} is not a mapping", "write key: value pairs")
        _check_keys(entry, keys, f"{section}.{key}")
        return entry


def _check_keys(entry: dict, known: tuple[str, ...], where: str) -> None:
    if unknown := [str(name) for name in entry if name not in known]:
        raise DbqError(f"{where}: unknown key {', '.join(unknown)}", f"known keys are {', '.join(known)}")
