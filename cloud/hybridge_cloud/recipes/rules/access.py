"""Rules of accessControl: who may do what over IPC."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hybridge_cloud.recipes.document import Entry, Items, Node, Table, Text
from hybridge_cloud.recipes.recipe import Recipe
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity

PUBLISHING = {
    "aws.greengrass.ipc.pubsub": ("PublishToTopic", "SubscribeToTopic"),
    "aws.greengrass.ipc.mqttproxy": ("PublishToIoTCore", "SubscribeToIoTCore"),
}
_PREFIX = "aws.greengrass#"
NOT_ON_LITE = (
    "PauseComponent", "ResumeComponent", "PutComponentMetric", "GetSecretValue", "GetThingShadow", "UpdateThingShadow",
    "DeleteThingShadow", "ListNamedShadowsForThing", "ListComponents", "GetComponentDetails", "DeferComponentUpdate",
    "SubscribeToComponentUpdates",
)  # fmt: skip
_USES_IPC = re.compile(r"\bawsiot(?:sdk)?\b|greengrasscoreipc|AWS_GG_NUCLEUS_DOMAIN_SOCKET")
_TOPIC_KEY = re.compile(r"(?i)(?:^|[a-z_-])topics?(?:name|prefix|filter)?$")


def _policies(recipe: Recipe) -> Iterator[tuple[str, Entry, Table]]:
    """Service, entry and mapping of every policy."""
    for service in recipe.access.entries if recipe.access is not None else ():
        for entry in service.value.entries if isinstance(service.value, Table) else ():
            if isinstance(entry.value, Table):
                yield service.key, entry, entry.value


def _words(node: Node | None) -> tuple[Text, ...]:
    return tuple(item for item in node.values if isinstance(item, Text)) if isinstance(node, Items) else ()


def _list(policy: Table, key: str) -> tuple[Text, ...]:
    found = policy.find(key)
    return _words(found.value) if found is not None else ()


def wide(recipe: Recipe) -> Iterator[Hit]:
    for _, entry, policy in _policies(recipe):
        for key in ("operations", "resources"):
            for word in _list(policy, key):
                if word.value.strip("/#+") in ("*", "") and word.value:
                    yield Hit(word.line, f"{key} of {entry.key[:60]!r} hold {word.value!r}")


def incomplete(recipe: Recipe) -> Iterator[Hit]:
    for service in recipe.access.entries if recipe.access is not None else ():
        if not isinstance(service.value, Table):
            yield Hit(service.line, f"{service.key[:60]!r} holds no policies by name")
            continue
        for entry in service.value.entries:
            for key in ("operations", "resources"):
                if not isinstance(entry.value, Table) or not _list(entry.value, key):
                    yield Hit(entry.line, f"the policy {entry.key[:60]!r} has no list of {key}")


def operation(recipe: Recipe) -> Iterator[Hit]:
    for service, _, policy in _policies(recipe):
        for word in _list(policy, "operations"):
            known = PUBLISHING.get(service)
            if word.value == "*":
                continue
            if not word.value.startswith(_PREFIX) or (known and word.value.removeprefix(_PREFIX) not in known):
                yield Hit(word.line, f"{service} has no operation {word.value[:60]!r}")


def on_lite(recipe: Recipe) -> Iterator[Hit]:
    for _, _, policy in _policies(recipe):
        for word in _list(policy, "operations"):
            if word.value.removeprefix(_PREFIX) in NOT_ON_LITE:
                yield Hit(word.line, f"nucleus lite answers {word.value.removeprefix(_PREFIX)} with ServiceError")


def policy_name(recipe: Recipe) -> Iterator[Hit]:
    for _, entry, _ in _policies(recipe):
        if recipe.name and recipe.name not in entry.key:
            yield Hit(entry.line, f"the policy {entry.key[:80]!r} does not carry the component's name")


def missing(recipe: Recipe) -> Iterator[Hit]:
    if recipe.access is not None:
        return
    for shell in recipe.shells:
        found = _USES_IPC.search(shell.text.value)
        if found:
            line = recipe.line_of(shell.text, found.start(), len(found[0]))
            yield Hit(line, f"the {shell.step or 'Setenv'} text uses IPC ({found[0]}), and there is no accessControl")
            return
    for path, text in recipe.configured():
        if _TOPIC_KEY.search(path[-1]):
            yield Hit(text.line, f"the configuration has {'/'.join(path)[:60]!r}, and there is no accessControl")
            return


_LITE, _BOTH = Nucleus.LITE, Nucleus.BOTH
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES = (
    Rule("access-wide", _BOTH, _WARNING, "Whoever takes this component over may do it to every topic of the device.",
         "Name the operations and the topics it needs; a * within a topic is fine.", wide),
    Rule("access-incomplete", _BOTH, _ERROR, "A policy without operations and resources allows nothing.",
         "Write both as lists.", incomplete),
    Rule("access-operation", _BOTH, _ERROR, "An operation that does not exist allows nothing.",
         "Write operations as aws.greengrass#NAME, such as aws.greengrass#PublishToTopic.", operation),
    Rule("access-not-on-lite", _LITE, _WARNING, "Nucleus lite does not have this operation.",
         "Have the code go on without it, and say so in a comment.", on_lite),
    Rule("access-policy-name", _BOTH, _WARNING, 
         "Names of policies are unique on a device, or one takes another's place.",
         "Name policies COMPONENT:SERVICE:NUMBER.", policy_name),
    Rule("access-missing", _BOTH, _WARNING, "Without accessControl every publication and subscription is refused.",
         "Write accessControl in DefaultConfiguration, for the operations and topics it needs.", missing),
)  # fmt: skip
