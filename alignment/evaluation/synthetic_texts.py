"""The words of made-up users: what there is to choose, how a request is put, how a bundle of attributes is written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTEXTS", "DOMAINS", "FORMS", "FRAMES", "RATING_FRAMES", "Attribute", "Domain", "article", "render"]

FORMS = ("prose", "list", "keys")  # one user's options are all written in one of these


@dataclass(frozen=True)
class Attribute:
    """What a level is called in prose, in a list and as a value; adjectives stand `before` the noun in prose."""

    key: str
    prose: tuple[str, ...]
    listed: tuple[str, ...]
    values: tuple[str, ...]
    before: bool


@dataclass(frozen=True)
class Domain:
    """Something that comes as bundles of attributes. Moods of a day matter only where it is `everyday`."""

    noun: str
    plural: str
    attributes: tuple[Attribute, ...]
    requests: tuple[str, ...]
    everyday: bool = False

    @property
    def bundles(self) -> int:
        """How many different bundles there are."""
        total = 1
        for attribute in self.attributes:
            total *= len(attribute.values)
        return total


def render(domain: Domain, levels: tuple[int, ...], form: str) -> str:
    """A bundle as text in one of `FORMS`."""
    pairs = list(zip(domain.attributes, levels, strict=True))
    if form == "keys":
        return "; ".join(f"{a.key}: {a.values[at]}" for a, at in pairs)
    if form == "list":
        return ", ".join(a.listed[at] for a, at in pairs)
    before = ", ".join(a.prose[at] for a, at in pairs if a.before)
    after = [a.prose[at] for a, at in pairs if not a.before]
    tail = " and ".join(filter(None, (", ".join(after[:-1]), after[-1]))) if after else ""
    text = " ".join(part for part in (before, domain.noun, tail) if part)
    return f"{article(text)} {text}"


def article(text: str) -> str:
    """The indefinite article that goes before it."""
    return "an" if text[0] in "aeiou" else "a"


def _attribute(key: str, levels: str, before: bool = False) -> Attribute:
    """Levels are parted by "/", each `prose|listed|value`; what is left out is as what stands before it."""
    rows = [level.split("|") for level in levels.split(" / ")]
    prose, listed, values = zip(*((*row, *[row[-1]] * (3 - len(row))) for row in rows), strict=True)
    return Attribute(key, prose, listed, values, before)


# Equal keys with equal values are one preference, whatever they are found in: who is thrifty is so with everything.
_PRICE = _attribute("price", "cheap|cheap|low / moderately priced|mid-priced|medium / expensive|expensive|high", True)
_COLOUR = _attribute("colour", "blue / red / black / green", True)
_AGE = _attribute("condition", "brand-new|new / second-hand|used", True)

DOMAINS = (
    Domain(
        "flat",
        "flats",
        (
            _PRICE,
            _attribute("street", "quiet|quiet street|quiet / lively|lively street|lively", True),
            _attribute("rooms", "with one room|1 room|1 / with two rooms|2 rooms|2 / with four rooms|4 rooms|4"),
            _attribute(
                "floor",
                "on the ground floor|ground floor|ground / on the third floor|third floor|third / under the roof|top floor|top",
            ),
            _attribute(
                "near",
                "near the park|near the park|park / near the station|near the station|station / by the river|river",
            ),
            _attribute("outside", "with a balcony|balcony|balcony / without a balcony|no balcony|none"),
        ),
        ("We are moving in spring. Which flat should we see first?", "Which of these flats would I rather live in?"),
    ),
    Domain(
        "phone",
        "phones",
        (
            _PRICE,
            _COLOUR,
            _attribute("screen", "with a small screen|small screen|small / with a large screen|large screen|large"),
            _attribute(
                "battery",
                "with a one-day battery|lasts one day|one day / with a three-day battery|lasts three days|three days",
            ),
            _attribute(
                "camera",
                "with a plain camera|plain camera|plain / with a first-rate camera|first-rate camera|first-rate",
            ),
            _attribute("repair", "that can be repaired|repairable|easy / that is glued shut|glued shut|impossible"),
        ),
        ("My old phone broke. Which should replace it?", "Find me a phone to carry around every day."),
    ),
    Domain(
        "holiday",
        "holidays",
        (
            _PRICE,
            _attribute(
                "place", "in the mountains|mountains / at the seaside|seaside / in a big city|big city / on a farm|farm"
            ),
            _attribute("stay", "in a hotel|hotel / in a tent|tent / in a rented cottage|cottage"),
            _attribute("travel", "reached by train|by train|train / reached by plane|by plane|plane"),
            _attribute("length", "for a long weekend|long weekend|3 days / for two weeks|two weeks|14 days"),
            _attribute("company", "in a guided group|guided group|group / on my own terms|no group|individual"),
        ),
        ("I have some leave in June. Where shall I go?", "Book one of these trips for me."),
    ),
    Domain(
        "bicycle",
        "bicycles",
        (
            _PRICE,
            _AGE,
            _COLOUR,
            _attribute("frame", "with a steel frame|steel frame|steel / with a carbon frame|carbon frame|carbon"),
            _attribute(
                "gears", "with hub gears|hub gears|hub / with a derailleur|derailleur / without gears|single speed"
            ),
            _attribute("motor", "with a motor|electric motor|yes / without a motor|no motor|no"),
        ),
        ("I want to cycle to work. Which bicycle should I get?", "Choose a bicycle that I will enjoy riding."),
    ),
    Domain(
        "car",
        "cars",
        (
            _PRICE,
            _AGE,
            _COLOUR,
            _attribute("fuel", "that runs on petrol|petrol / that runs on diesel|diesel / that is electric|electric"),
            _attribute(
                "seats", "with two seats|two seats|2 / with five seats|five seats|5 / with seven seats|seven seats|7"
            ),
            _attribute("gearbox", "with a manual gearbox|manual / with an automatic gearbox|automatic"),
        ),
        ("Our lease runs out. Which car comes next?", "Which car would I be happiest with?"),
    ),
    Domain(
        "job",
        "jobs",
        (
            _attribute(
                "pay",
                "poorly paid|modest pay|modest / decently paid|decent pay|decent / very well paid|top pay|top",
                True,
            ),
            _attribute("hours", "part-time / full-time", True),
            _attribute("place", "at home|from home|home / in an office|office / out in the field|field work|field"),
            _attribute("team", "in a tiny team|tiny team|tiny / in a big company|big company|big"),
            _attribute("contract", "with a permanent contract|permanent / with a one-year contract|one year"),
            _attribute(
                "people", "with customers all day|customers|many / with hardly any people around|hardly any people|few"
            ),
        ),
        ("Two recruiters called. Which offer fits me?", "Which position should I apply for?"),
    ),
    Domain(
        "sofa",
        "sofas",
        (
            _PRICE,
            _COLOUR,
            _attribute(
                "size",
                "for two people|two-seater|2 / for three people|three-seater|3 / for a whole family|corner sofa|corner",
            ),
            _attribute("cover", "in leather|leather / in linen|linen / in velvet|velvet"),
            _attribute("feel", "that is firm|firm / that is soft|soft"),
        ),
        ("The living room is empty. Which sofa goes there?", "Which sofa would I fall asleep on?"),
    ),
    Domain(
        "course",
        "courses",
        (
            _PRICE,
            _attribute(
                "subject",
                "on painting|painting / on programming|programming / on gardening|gardening / on singing|singing",
            ),
            _attribute(
                "time",
                "in the morning|mornings|morning / in the evening|evenings|evening / on Saturdays|Saturdays|Saturday",
            ),
            _attribute("where", "held online|online / held in a classroom|classroom"),
            _attribute("group", "with a handful of people|small group|small / with a full hall|large group|large"),
        ),
        ("I would like to learn something new. Which course?", "Sign me up for a course this term."),
    ),
    Domain(
        "meal",
        "meals",
        (
            _PRICE,
            _attribute("main", "with fish|fish / with beans|beans / with beef|beef / with cheese|cheese"),
            _attribute("side", "with rice|rice / with potatoes|potatoes / with salad|salad"),
            _attribute("taste", "mild / spicy", True),
            _attribute("served", "served hot|hot / served cold|cold"),
            _attribute("portion", "in a small portion|small portion|small / in a large portion|large portion|large"),
        ),
        ("What shall I eat?", "Order something to eat for me."),
        everyday=True,
    ),
    Domain(
        "outing",
        "outings",
        (
            _PRICE,
            _attribute(
                "kind", "to a museum|museum / to a concert|concert / to a match|football match / to a garden|garden"
            ),
            _attribute("way", "on foot|walking / by tram|tram / by taxi|taxi"),
            _attribute("time", "in the morning|mornings|morning / in the evening|evenings|evening"),
            _attribute("crowd", "with few people|hardly anybody there|few / with a big crowd|big crowd|big"),
            _attribute(
                "after",
                "with a drink afterwards|drink afterwards|drink / with nothing planned afterwards|nothing planned|nothing",
            ),
        ),
        ("Where shall we go?", "Plan me a few hours out of the house."),
        everyday=True,
    ),
    Domain(
        "outfit",
        "outfits",
        (
            _COLOUR,
            _attribute("style", "elegant / sporty / plain", True),
            _attribute("fabric", "made of wool|wool / made of cotton|cotton / made of linen|linen"),
            _attribute("shoes", "with boots|boots / with sandals|sandals / with trainers|trainers"),
            _attribute("fit", "that sits loosely|loose fit|loose / that sits tightly|tight fit|tight"),
        ),
        ("What shall I wear?", "Lay something out for me to put on."),
        everyday=True,
    ),
)

FRAMES = (
    "Which of these {plural} suits me best?",
    "Pick {a} {noun} for me, please.",
    "I cannot make up my mind between these {plural}. What do you say?",
    "If you were me, which {noun} would you take?",
    "Time to decide on {a} {noun}.",
    "Tell me which {noun} I should go for.",
    "Here are some {plural}; choose the one I will like most.",
)
RATING_FRAMES = (
    "How would you rate this {noun} from 1 to 5: {text}?",
    "From 1 to 5, how much would you like this {noun}: {text}?",
    "This {noun} is on offer: {text}. How many points of 5 do you give it?",
)

# Pairs of opposite situations, each in several wordings.
CONTEXTS = (
    (
        ("It is an ordinary weekday.", "It is Tuesday, a working day.", "Work starts again tomorrow."),
        ("It is the weekend.", "Saturday at last.", "Nobody works today, it is Sunday."),
    ),
    (
        ("I am on my own.", "Nobody else will be there, just me.", "This is for me alone."),
        ("I have guests.", "Friends of mine are coming along.", "My parents are visiting."),
    ),
    (
        ("It is a hot day.", "The sun is burning outside.", "We have a heat wave."),
        ("It is freezing cold.", "There is snow outside.", "An icy wind is blowing."),
    ),
    (
        ("I am in a hurry.", "There is hardly any time.", "It has to be quick."),
        ("There is plenty of time.", "I am at leisure today.", "No need to rush."),
    ),
)
