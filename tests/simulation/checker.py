"""What a history and the store at its end have to be like, whatever happened in between.

    lost          what was acknowledged or seen is there in every later read, unless the user may have been forgotten since,
                  or the interaction deleted
    resurrected   after a receipt nothing is seen or stored of work that began before the forgetting; after a deletion nothing
                  of the interaction that was asked for before it, nor in the store's files
    refused       what was definitely refused is never seen
    invented      what is seen was asked for by somebody, before
    crossed       nobody sees another user's text
    doubled       nothing is there twice; persona versions have no gap, and each number one text
    went back     a truth, response, persona or profile that was acknowledged or seen is not replaced by an earlier one
    receipt       it is given when nothing from before is left in the store and its files, and the audit log knows of it
    listing       users are listed with what is stored of them, and forgotten ones are not

A call that failed without saying whether it had an effect may have one at any later time, at most once. One that says under
which incarnation its work began must not have one after the receipt, whatever happened to it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from actors.milvus import rows as milvus_rows
from personaagent.types import user_key
from tests.simulation.history import FAIL, OK, History, Op
from tests.simulation.world import World

__all__ = ["check"]

Item = tuple[str, str]  # kind and name: what can be there or not
OF_ROWS = frozenset(
    {"row", "has response", "response of", "has truth", "truth of"}
)  # kinds that an interaction's id names


@dataclass
class _User:
    """What the history says of one user."""

    name: str
    forgets: list[Op] = field(default_factory=list)  # that may have had an effect
    deletes: list[Op] = field(default_factory=list)  # that may have had one
    attempts: defaultdict[Item, list[Op]] = field(default_factory=lambda: defaultdict(list))
    evidence: defaultdict[Item, list[tuple[float, float, Any]]] = field(default_factory=lambda: defaultdict(list))

    def excused(self, known: float, read: Op) -> bool:
        """Whether the user may have been forgotten between what was known from a call invoked then, and a read."""
        return any(f.invoked < read.ended and f.lasts > known for f in self.forgets)

    def deleted(self, item: Item, known: float, read: Op) -> bool:
        """Whether the interaction that an item is of may have been deleted in between."""
        kind, name = item
        return kind in OF_ROWS and any(
            name in d.asked["ids"] and d.invoked < read.ended and d.lasts > known for d in self.deletes
        )

    def receipts(self, before: float) -> list[Op]:
        return [f for f in self.forgets if f.outcome == OK and f.ended <= before]

    def later(self, attempt: Op, receipt: Op) -> bool:
        """Whether an attempt may have an effect after a receipt."""
        if attempt.fenced:
            return attempt.began > receipt.invoked
        return attempt.lasts > receipt.invoked


def check(world: World, history: History) -> list[str]:
    """Everything that is wrong; empty if nothing is."""
    return _Check(world, history).run()


class _Check:
    def __init__(self, world: World, history: History) -> None:
        self.world, self.ops = world, history.ops
        self.found: list[str] = []
        names = {op.user for op in self.ops if op.user} | {"ann", "bob", "eve"}
        self.users = {name: _User(name) for name in sorted(names)}
        self.reads: list[tuple[Op, _User, Any, Any, Any]] = []
        self.audit: defaultdict[tuple[str, str, str], list[tuple[float, Any]]] = defaultdict(list)
        for t, entry in world.audit:
            self.audit[entry.by, entry.user_key, entry.action].append((t, entry))
        end = world.kernel.now
        self.end = Op(len(self.ops), "store", "look", "", {}, end, end, end, OK)

    def run(self) -> list[str]:
        for op in self.ops:
            self._attempted(op)
        for op in sorted(self.ops, key=lambda op: op.ended):  # evidence comes from what ended before a read was invoked
            if op.outcome == OK:
                self._acknowledged(op)
                self._seen(op)
        self.reads.sort(key=lambda read: read[0].invoked)
        for op, user, rows, personas, profile in self.reads:
            self._read(op, user, rows, personas, profile)
        for op in self.ops:
            if op.kind == "forget" and op.outcome == OK:
                self._receipt(op)
            if op.kind == "users" and op.outcome == OK:
                self._listing(op)
            if op.kind in ("append", "feedback", "commit_persona", "commit_profile", "delete") and op.outcome == OK:
                self._logged(op)
            if op.kind == "forget" and op.outcome == FAIL and op.asked.get("left"):
                self.wrong("receipt", op, f"the store still has {op.asked['left'][:3]}")
        self._counts()
        self._store()
        return list(dict.fromkeys(self.found))

    def wrong(self, what: str, op: Op, why: str) -> None:
        self.found.append(f"{what}: {why}; by {op}")

    # What was asked, and what was acknowledged

    def _attempted(self, op: Op) -> None:
        if op.kind == "forget" and op.outcome != FAIL:
            self.users[op.user].forgets.append(op)
        if op.kind == "delete" and op.outcome != FAIL:
            self.users[op.user].deletes.append(op)
        for name, (_, response, truth) in op.asked.get("rows", {}).items():
            user = self._owner(op, name)
            user.attempts["row", name].append(op)
            if response is not None:
                user.attempts["response", response].append(op)
            if truth is not None:
                user.attempts["truth", truth].append(op)
        if op.kind == "feedback":
            self.users[op.user].attempts["truth", op.asked["truth"]].append(op)
        if op.kind == "commit_persona":
            self.users[op.user].attempts["persona", op.asked["text"]].append(op)
        if op.kind == "commit_profile":
            self.users[op.user].attempts["fact", op.asked["text"]].append(op)
        if op.kind == "restore":
            for _, text in op.asked["personas"]:
                self.users[op.user].attempts["persona", text].append(op)
            for text in op.asked["profile"][1]:
                self.users[op.user].attempts["fact", text].append(op)

    def _owner(self, op: Op, row: str) -> _User:
        return self.users[op.asked["users"][row] if "users" in op.asked else op.user]

    def _acknowledged(self, op: Op) -> None:
        if op.kind == "import" and op.value["refused"]:
            return  # which ones is not said
        for name, (_, response, truth) in op.asked.get("rows", {}).items():
            user = self._owner(op, name)
            self._known(user, ("row", name), op, None)
            if response is not None:
                self._known(user, ("has response", name), op, None)
            if truth is not None:
                self._known(user, ("has truth", name), op, None)
        user = self.users.get(op.user)
        if user is None:
            return
        if op.kind == "feedback":
            name, truth = op.asked["id"], op.asked["truth"]
            self._known(user, ("row", name), op, None)
            self._known(user, ("has truth", name), op, None)
            self._known(user, ("truth of", name), op, truth)
            if op.value[name][2] != truth:
                self.wrong("went back", op, f"the answer has truth {op.value[name][2]}")
        if op.kind == "commit_persona":
            number, text = op.value
            if (number, text) != ((op.asked["expected"] or 0) + 1, op.asked["text"]):
                self.wrong("doubled", op, "the answer is another persona")
            self._known(user, ("persona", str(number)), op, text)
        if op.kind == "commit_profile":
            version, facts = op.value
            if (version, facts) != (op.asked["expected"] + 1, (op.asked["text"],)):
                self.wrong("doubled", op, "the answer is another profile")
            self._known(user, ("profile", ""), op, (version, facts))
        if op.kind == "restore":
            for number, text in op.asked["personas"]:
                self._known(user, ("persona", str(number)), op, text)
            if op.asked["profile"][0]:
                self._known(user, ("profile", ""), op, op.asked["profile"])

    def _known(self, user: _User, item: Item, op: Op, value: Any) -> None:
        user.evidence[item].append((op.ended, op.invoked, value))

    # What was seen

    def _seen(self, op: Op) -> None:
        rows = personas = profile = None
        if op.kind in ("latest", "recall", "interactions"):
            rows = op.value
        elif op.kind == "export":
            rows, personas, profile = op.value
        elif op.kind == "personas":
            personas = op.value
        elif op.kind == "profile":
            profile = op.value
        else:
            return
        user = self.users[op.user]
        self.reads.append((op, user, rows, personas, profile))
        for name, (_, response, truth) in (rows or {}).items():
            self._known(user, ("row", name), op, None)
            if response is not None:
                self._known(user, ("has response", name), op, None)
                self._known(user, ("response of", name), op, response)
            if truth is not None:
                self._known(user, ("has truth", name), op, None)
                self._known(user, ("truth of", name), op, truth)
        for number, text in personas or ():
            self._known(user, ("persona", str(number)), op, text)
        if profile is not None and profile[0]:
            self._known(user, ("profile", ""), op, profile)

    def _held(self, user: _User, item: Item, read: Op) -> Iterator[Any]:
        """What a read has to agree with: values known before it, unless the user may have been forgotten since."""
        for ended, invoked, value in user.evidence[item]:
            if ended <= read.invoked and not user.excused(invoked, read) and not user.deleted(item, invoked, read):
                yield value

    def _read(self, op: Op, user: _User, rows: Any, personas: Any, profile: Any) -> None:
        if rows is not None:
            self._read_rows(op, user, rows)
        if personas is not None:
            self._read_personas(op, user, personas)
        if profile is not None:
            self._read_profile(op, user, profile)

    def _read_rows(self, op: Op, user: _User, rows: Any) -> None:
        asked = op.asked.get("ids")
        for kind, name in list(user.evidence):
            wanted = kind == "row" and name not in rows and (asked is None or name in asked)
            if wanted and any(True for _ in self._held(user, (kind, name), op)):
                self.wrong("lost", op, f"interaction {name} is not there")
        for name, (owner, response, truth) in rows.items():
            if owner != user.name:
                self.wrong("crossed", op, f"interaction {name} is {owner}'s")
            self._justified(op, user, ("row", name), name)
            if response is None:
                if any(True for _ in self._held(user, ("has response", name), op)):
                    self.wrong("lost", op, f"the response of {name} is gone")
            else:
                self._justified(op, user, ("response", response), name)
                if any(v != response for v in self._held(user, ("response of", name), op)):
                    self.wrong("went back", op, f"the response of {name} is another one")
            if truth is None:
                if any(True for _ in self._held(user, ("has truth", name), op)):
                    self.wrong("lost", op, f"the truth of {name} is gone")
            else:
                self._justified(op, user, ("truth", truth), name)
                self._newest(op, user, name, truth)

    def _newest(self, op: Op, user: _User, name: str, truth: str) -> None:
        """The truth seen must not have been replaced by a later one that was acknowledged or seen before."""
        writers = user.attempts["truth", truth]
        if not writers:
            return
        over = max(w.lasts for w in writers)
        for other in self._held(user, ("truth of", name), op):
            others = user.attempts["truth", other]
            if other != truth and others and min(o.invoked for o in others) >= over:
                self.wrong("went back", op, f"the truth of {name} is {truth}, after {other} was known")

    def _read_personas(self, op: Op, user: _User, personas: Any) -> None:
        if [number for number, _ in personas] != list(range(1, len(personas) + 1)):
            self.wrong("doubled", op, f"persona versions are {[n for n, _ in personas]}")
        stored = dict(personas)
        for _, text in personas:
            if text.split()[0] != user.name:
                self.wrong("crossed", op, f"persona {text}")
            self._justified(op, user, ("persona", text), text)
        for kind, number in list(user.evidence):
            if kind == "persona":
                for text in self._held(user, (kind, number), op):
                    if stored.get(int(number)) is None:
                        self.wrong("lost", op, f"persona version {number} ({text}) is not there")
                    elif stored[int(number)] != text:
                        self.wrong("went back", op, f"persona {number} is {stored[int(number)]}, was {text}")

    def _read_profile(self, op: Op, user: _User, profile: Any) -> None:
        version, facts = profile
        for text in facts:
            if text.split()[0] != user.name:
                self.wrong("crossed", op, f"fact {text}")
            self._justified(op, user, ("fact", text), text)
        for known, texts in self._held(user, ("profile", ""), op):
            if version < known:
                self.wrong("lost" if not version else "went back", op, f"profile {version} after {known} was known")
            elif version == known and facts != texts:
                self.wrong("went back", op, f"profile {version} says {facts}, said {texts}")

    def _justified(self, read: Op, user: _User, item: Item, name: str) -> None:
        """Whether somebody asked for what is seen, was not refused, and not before the user was forgotten."""
        asked = [a for a in user.attempts[item] if a.invoked <= read.ended]
        if not asked:
            what = "doubled" if name.endswith(" again") else "invented"
            self.wrong(what, read, f"{item[0]} {name}")
            return
        possible = [a for a in asked if a.outcome != FAIL]
        if not possible:
            self.wrong("refused", read, f"{item[0]} {name} is there, though {asked[-1]}")
            return
        for receipt in user.receipts(read.invoked):
            if not any(user.later(a, receipt) for a in possible):
                self.wrong("resurrected", read, f"{item[0]} {name} of {possible[-1]} after {receipt}")
        gone = [d for d in user.deletes if d.outcome == OK and d.ended <= read.invoked and name in d.asked["ids"]]
        for done in gone if item[0] in ("row", "response", "truth") else ():
            if not any(a.lasts > done.invoked for a in possible):
                self.wrong("resurrected", read, f"{item[0]} {name} of {possible[-1]} after {done}")

    # Receipts and listings

    def _receipt(self, op: Op) -> None:
        if op.value["left"] or op.value["remaining"]:
            self.wrong("receipt", op, f"the store still has {op.value['left'][:3]}")
        key = user_key(op.user)
        told = [
            e
            for t, e in self.world.audit
            if t <= op.ended and e.user_key == key and e.action in ("forget", "forgotten")
        ]
        for action in ("forget", "forgotten"):
            if not any(e.action == action and e.details.get("audit_id") == op.value["audit_id"] for e in told):
                self.wrong("receipt", op, f"the audit log has no entry {action}")

    def _logged(self, op: Op) -> None:
        """What changed something is in the audit log before anybody hears of it."""
        if op.kind == "append" and op.value.startswith("added=0") and "updated=0" in op.value:
            return
        if op.kind == "delete" and not op.value:
            return
        action, key = op.kind.removeprefix("commit_"), user_key(op.user)
        if not any(op.invoked <= t <= op.ended for t, _ in self.audit[op.client, key, action]):
            self.wrong("receipt", op, f"the audit log has no entry {action}")

    def _listing(self, op: Op) -> None:
        for name in op.value:
            user = self.users.get(name)
            if user is None:
                self.wrong("invented", op, f"user {name}")
                continue
            for receipt in user.receipts(op.invoked):
                if not self._alive(user, receipt):
                    self.wrong("resurrected", op, f"user {name} is listed after {receipt}")

    def _alive(self, user: _User, receipt: Op) -> bool:
        return any(a.outcome != FAIL and user.later(a, receipt) for some in user.attempts.values() for a in some)

    def _counts(self) -> None:
        """The last listing comes after the last exports, when nothing else was under way."""
        if not self.ops or self.ops[-1].kind != "users" or self.ops[-1].outcome != OK:
            return
        listed = self.ops[-1].value
        for name, user in self.users.items():
            exports = [read for read in self.reads if read[1] is user and read[0].kind == "export"]
            if not exports or exports[-1][0].number < len(self.ops) - 5:
                continue
            _, _, rows, personas, profile = exports[-1]
            stored = (len(rows), personas[-1][0] if personas else None)
            if rows or personas or profile[0]:
                if listed.get(name) != stored:
                    self.wrong("listing", self.ops[-1], f"{name} has {stored}, listed is {listed.get(name)}")
            elif name in listed:
                self.wrong("listing", self.ops[-1], f"{name} has nothing and is listed")

    # The store itself

    def _store(self) -> None:
        for name, user in self.users.items():
            key = user_key(name)
            raw = list(self.world.raw(key))
            parts = {s.pk: s.entity["body"] for s in raw if s.entity is not None}
            receipts = user.receipts(self.end.ended)
            for stored in raw:
                for receipt in receipts:
                    if stored.written < receipt.invoked:
                        self.wrong(
                            "receipt", receipt, f"{stored.pk[32:]} of {stored.written:.2f} s is in the store's files"
                        )
                    elif not self._alive(user, receipt):
                        self.wrong("resurrected", receipt, f"{stored.pk[32:]} by {stored.by} was stored afterwards")
                self._entity(user, stored.entity, parts)

    def _entity(self, user: _User, entity: Any, parts: dict[str, str]) -> None:
        kind = entity.get("kind", "episode")
        if kind not in ("episode", "persona", "profile"):
            return
        try:
            content = json.loads(milvus_rows.join_body(entity, parts.get))
        except Exception as e:  # noqa: BLE001 - whatever it is, the text cannot be read
            if not self.world.lite:  # in files there may be rows of which the parts are gone
                self.wrong("lost", self.end, f"a text cannot be read: {e}")
            return
        if kind == "episode":
            self._justified(self.end, user, ("row", content["id"]), content["id"])
            if content["truth"] is not None:
                self._justified(self.end, user, ("truth", content["truth"]), content["id"])
            if content["response"] is not None:
                self._justified(self.end, user, ("response", content["response"]), content["id"])
        elif kind == "persona":
            self._justified(self.end, user, ("persona", content["persona"]["text"]), content["persona"]["text"])
        else:
            for fact in content["profile"]["facts"]:
                self._justified(self.end, user, ("fact", fact["text"]), fact["text"])
