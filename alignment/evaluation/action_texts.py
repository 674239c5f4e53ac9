"""The words of the made-up task set of actions: how each kind of request is put, and the things that are named in it.

These are of the world that is measured on; those of the world that is tuned on stand in `action_texts_develop`. In each there
is a part to learn from and a part held out. No wording, place, subject or ingredient stands in two of the four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["HELD_OUT", "KINDS", "LEARNED", "PEOPLE", "Vocabulary"]

# What requests are about. In the first four the right tool depends on who asks, in the next three what is asked of the tool
# and what of its result is wanted; no tool is right for the last.
KINDS = ("journey", "outing", "dinner", "subject", "temperature", "headlines", "cooking", "plain")


@dataclass(frozen=True)
class Vocabulary:
    """One part of one world.

    Args:
        requests: wordings by kind, with `{place}`, `{date}`, `{subject}` and `{ingredient}`.
        plain: requests for which no tool is right, with their answers.
        places: invented ones.
        subjects: with what one says of it who looks nothing up.
        ingredients: with what one would make of it without looking anything up.
        months: in which dates are.
    """

    requests: Mapping[str, tuple[str, ...]]
    plain: tuple[tuple[str, str], ...]
    places: tuple[str, ...]
    subjects: tuple[tuple[str, str], ...]
    ingredients: tuple[tuple[str, str], ...]
    months: tuple[str, ...]


PEOPLE = (
    *("agnes", "bruno", "carla", "dario", "edith", "felix"),
    *("greta", "hamid", "ilona", "jonas", "kavya", "lorenz"),
)

LEARNED = Vocabulary(
    requests={
        "journey": (
            "I have to be in {place} on {date}. How do I get there?",
            "How can I reach {place} on {date}?",
            "Please plan my way to {place} for {date}.",
            "I want to travel to {place} on {date}, what are my options?",
            "What is the best way of getting to {place} on {date}?",
        ),
        "outing": (
            "Would {date} be a good day for a walk around {place}?",
            "I am thinking of a bicycle tour near {place} on {date}. Good idea?",
            "Can we go hiking in {place} on {date}?",
            "Is it worth spending {date} outdoors in {place}?",
            "Should I take the children to the lake at {place} on {date}?",
        ),
        "dinner": (
            "What should we have for dinner on {date}? We have {ingredient} in the house.",
            "Help me with supper on {date}, something with {ingredient}.",
            "I need a plan for dinner on {date}, preferably {ingredient}.",
            "What do we eat on the evening of {date}? I bought {ingredient}.",
            "Dinner on {date}: what can be done with {ingredient}?",
        ),
        "subject": (
            "What should I know about {subject}?",
            "Tell me something about {subject}.",
            "What is the matter with {subject}?",
            "Can you fill me in on {subject}?",
            "I keep hearing about {subject}. What is it?",
        ),
        "temperature": (
            "How warm will it be in {place} on {date}?",
            "What is the temperature in {place} on {date}?",
            "Give me the weather in {place} for {date}.",
            "Do I need a coat in {place} on {date}?",
            "What does the forecast say for {place} on {date}?",
        ),
        "headlines": (
            "What is in the news about {subject}?",
            "Show me reports on {subject}.",
            "Any headlines on {subject}?",
            "What do the papers write about {subject}?",
            "Look for articles about {subject}.",
        ),
        "cooking": (
            "Find me a recipe with {ingredient}.",
            "Which recipes are there for {ingredient}?",
            "I would like to cook {ingredient}, look up how.",
            "Search the recipes for {ingredient}.",
            "Do you have a recipe that uses {ingredient}?",
        ),
    },
    plain=(
        ("What is 15 percent of 80?", "12"),
        ("How do you spell the plural of knife?", "knives"),
        ("Thank you, that was helpful.", "You are welcome."),
        ("Write a short birthday wish for my sister.", "Happy birthday, dear sister!"),
        ("What is another word for quick?", "fast"),
        ("How many minutes are there in three hours?", "180"),
        ("Translate good morning into French.", "bonjour"),
        ("Shorten this: I would be very grateful if you could call me.", "Please call me."),
        ("Which is larger, two thirds or three quarters?", "three quarters"),
        ("Give me a rhyme for moon.", "June"),
    ),
    places=(
        "Aldermoor",
        "Brenholt",
        "Castrel",
        "Dunmere",
        "Elsby",
        "Farnwick",
        "Gravesund",
        "Hallenau",
        "Isbrook",
        "Jarnwick",
    ),
    subjects=(
        ("heat pumps", "A heat pump brings warmth from outside into the house."),
        ("electric buses", "Electric buses run on batteries and are quiet."),
        ("school lunches", "School lunches are meals that schools serve at noon."),
        ("coral reefs", "Coral reefs are built by small animals in warm seas."),
        ("rent caps", "A rent cap limits what a landlord may charge."),
        ("wind farms", "A wind farm is a group of turbines that make power."),
        ("bee hives", "A bee hive is the home of a colony of bees."),
        ("night shifts", "A night shift is work done while others sleep."),
        ("water meters", "A water meter counts how much water a house uses."),
        ("river ferries", "A river ferry carries people across where no bridge is."),
    ),
    ingredients=(
        ("leeks", "A leek soup with bread."),
        ("lentils", "Lentils with carrots and vinegar."),
        ("pumpkin", "Baked pumpkin with rosemary."),
        ("spinach", "Pasta with spinach and garlic."),
        ("potatoes", "Potatoes from the oven with a dip."),
        ("mushrooms", "Mushrooms on toast."),
        ("chickpeas", "Chickpeas with tomato and cumin."),
        ("fennel", "A fennel salad with orange."),
        ("beetroot", "Beetroot with horseradish."),
        ("cabbage", "Fried cabbage with noodles."),
    ),
    months=("March", "April", "May"),
)

HELD_OUT = Vocabulary(
    requests={
        "journey": (
            "My aunt in {place} expects me on {date}; sort out the trip for me.",
            "There is a conference in {place} on {date}. What do I take to get there?",
            "Get me to {place} by the evening of {date}.",
            "I am invited to a wedding in {place} on {date} and need a connection.",
            "Could you look at how one travels to {place} on {date}?",
            "Work sends me to {place} on {date}. How shall I go?",
        ),
        "outing": (
            "We would love a picnic in {place} on {date}. Does that work?",
            "Is {date} the right day for climbing at {place}?",
            "I might go swimming at {place} on {date}, what do you think?",
            "Could {date} suit for a day in the hills above {place}?",
            "Friends propose a boat trip at {place} on {date}. Shall I say yes?",
            "Planning a run along the river in {place} for {date}. Any objections?",
        ),
        "dinner": (
            "Suggest an evening meal for {date}; I still have {ingredient}.",
            "What goes on the table on the night of {date}? Maybe {ingredient}?",
            "We will be hungry on {date}. Think of a meal around {ingredient}.",
            "Plan what I serve on {date}, using up the {ingredient}.",
        ),
        "subject": (
            "My neighbour talks of nothing but {subject}. What is going on there?",
            "Bring me up to speed on {subject}.",
            "Explain to me what people say about {subject}.",
            "I have a meeting on {subject}. What matters?",
        ),
        "temperature": (
            "Will I freeze in {place} on {date}?",
            "How hot does it get at {place} on {date}?",
            "Check the degrees for {place}, {date}.",
            "What sort of weather awaits me in {place} on {date}?",
        ),
        "headlines": (
            "Has anything been published on {subject}?",
            "Check the press for {subject}.",
            "Let me read what journalists report on {subject}.",
            "Are there news items concerning {subject}?",
        ),
        "cooking": (
            "Look up dishes made from {ingredient}.",
            "How do people prepare {ingredient}? Check the cookbook.",
            "I want instructions for a dish with {ingredient}.",
            "Pick something from the cookbook with {ingredient}.",
        ),
    },
    plain=(
        ("Add 48 and 27 for me.", "75"),
        ("How is the past tense of bring written?", "brought"),
        ("You are a great help, bye for now!", "Goodbye!"),
        ("Put together one sentence to congratulate a colleague.", "Congratulations, well done!"),
        ("What is the opposite of narrow?", "wide"),
        ("How many days do four weeks have?", "28"),
        ("Say thank you in Spanish.", "gracias"),
        ("Make this politer: give me the file.", "Could you please give me the file?"),
        ("Is 91 a prime number?", "no"),
        ("Which letter follows after Q?", "R"),
        ("Name a synonym of happy.", "glad"),
        ("What is half of 250?", "125"),
    ),
    places=(
        *("Kelmora", "Lindmar", "Morvena", "Norfeld", "Ostrel", "Pelwick"),
        *("Quarley", "Ravensey", "Solbach", "Tolvane", "Uldrey", "Varnholt"),
    ),
    subjects=(
        ("solar roofs", "A solar roof makes power from daylight."),
        ("night trains", "A night train has beds and arrives in the morning."),
        ("urban foxes", "Urban foxes live in towns and eat what they find."),
        ("paper bags", "Paper bags replace plastic ones in shops."),
        ("glaciers", "A glacier is a river of ice that moves slowly."),
        ("speed cameras", "A speed camera photographs cars that go too fast."),
        ("food banks", "A food bank gives food to people in need."),
        ("tidal power", "Tidal power is made from the rise and fall of the sea."),
        ("public libraries", "A public library lends books to everybody."),
        ("cargo bikes", "A cargo bike carries loads instead of a van."),
        ("street trees", "Street trees give shade and cool the air."),
        ("oat milk", "Oat milk is a drink made of oats and water."),
    ),
    ingredients=(
        ("aubergines", "Aubergines baked with tomato."),
        ("white beans", "White beans with sage."),
        ("kohlrabi", "Kohlrabi sticks with a sauce."),
        ("asparagus", "Asparagus with butter."),
        ("broccoli", "Broccoli with almonds."),
        ("parsnips", "Parsnips roasted with honey."),
        ("peppers", "Peppers filled with rice."),
        ("courgettes", "Grilled courgettes with mint."),
        ("celeriac", "Mashed celeriac."),
        ("radishes", "Radishes on bread."),
        ("sweetcorn", "Sweetcorn fritters."),
        ("artichokes", "Artichokes with lemon."),
    ),
    months=("June", "July", "August"),
)
