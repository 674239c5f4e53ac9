"""Requests that everybody could make, with neutral answers: a persona must not make the model worse at them.

They were written for this project. None of the answers depends on who asks. Each has a wrong answer of the same form beside it:
a persona that shows a user's manner makes any neutral sentence less likely, the right one and the wrong one alike, and that
is no harm. Harm is where the right answer loses against the wrong one.
"""

from __future__ import annotations

from typing import NamedTuple

from personaagent.types import user_key

__all__ = ["GENERAL", "General", "general_for"]


class General(NamedTuple):
    """A request, its answer, and what would be no answer to it."""

    query: str
    answer: str
    wrong: str


# Neighbours are of different kinds, so that a few in a row are a fair mixture.
GENERAL: tuple[General, ...] = (
    General(
        "What is the capital of Australia?",
        "The capital of Australia is Canberra.",
        "The capital of Australia is Sydney.",
    ),
    General(
        "What is 17 times 6?",
        "17 times 6 is 102.",
        "17 times 6 is 112.",
    ),
    General(
        "How do I boil an egg hard?",
        "Put the egg in boiling water for ten minutes, then cool it under cold water.",
        "Put the egg in cold water for ten seconds, then heat it under a warm towel.",
    ),
    General(
        "What does the word 'reluctant' mean?",
        "Reluctant means unwilling or hesitant to do something.",
        "Reluctant means eager or delighted to do something.",
    ),
    General(
        "Hello! How are you today?",
        "Hello! I'm doing well, thank you. How can I help you?",
        "Goodbye! It was raining all night, thank you. When did the train leave?",
    ),
    General(
        "How many days does a leap year have?",
        "A leap year has 366 days.",
        "A leap year has 356 days.",
    ),
    General(
        "Who wrote Romeo and Juliet?",
        "William Shakespeare wrote Romeo and Juliet.",
        "Charles Dickens wrote Romeo and Juliet.",
    ),
    General(
        "What is 15 percent of 200?",
        "15 percent of 200 is 30.",
        "15 percent of 200 is 45.",
    ),
    General(
        "How do I change a light bulb?",
        "Switch off the power, let the old bulb cool, unscrew it and screw in the new one.",
        "Switch on the power, let the old bulb burn, pull at it and hammer in the new one.",
    ),
    General(
        "What is an island?",
        "An island is a piece of land that is surrounded by water.",
        "An island is a piece of water that is surrounded by land.",
    ),
    General(
        "Thank you for your help!",
        "You're welcome! Let me know if you need anything else.",
        "I'm sorry! Your letter about the boat was never delivered.",
    ),
    General(
        "At what temperature does water freeze?",
        "Water freezes at 0 degrees Celsius, which is 32 degrees Fahrenheit.",
        "Water freezes at 10 degrees Celsius, which is 50 degrees Fahrenheit.",
    ),
    General(
        "Which planet is closest to the sun?",
        "Mercury is the planet closest to the sun.",
        "Neptune is the planet closest to the sun.",
    ),
    General(
        "How many minutes are there in three hours?",
        "Three hours have 180 minutes.",
        "Three hours have 300 minutes.",
    ),
    General(
        "How do I remove a file from a folder on my computer?",
        "Select the file and press the Delete key, or move it to the bin.",
        "Open the window and press the doorbell, or carry it to the garden.",
    ),
    General(
        "What is a synonym of 'quick'?",
        "A synonym of 'quick' is 'fast'.",
        "A synonym of 'quick' is 'slow'.",
    ),
    General(
        "Can you help me with a question?",
        "Of course. What would you like to know?",
        "In the evening. Who would drive to the station?",
    ),
    General(
        "How many legs does a spider have?",
        "A spider has eight legs.",
        "A spider has five legs.",
    ),
    General(
        "In which continent is Egypt?",
        "Egypt is in Africa.",
        "Egypt is in Europe.",
    ),
    General(
        "What is the square root of 81?",
        "The square root of 81 is 9.",
        "The square root of 81 is 7.",
    ),
    General(
        "How do I get a coffee stain out of a shirt?",
        "Rinse it with cold water, rub in a little soap and wash the shirt as usual.",
        "Dry it with hot sand, rub in a little coffee and burn the shirt as usual.",
    ),
    General(
        "What is photosynthesis?",
        "Photosynthesis is how plants use sunlight to make sugar from water and carbon dioxide.",
        "Photosynthesis is how fish use moonlight to make salt from iron and wool.",
    ),
    General(
        "Good night!",
        "Good night! Sleep well.",
        "Good morning! Get up now.",
    ),
    General(
        "What is the plural of 'child'?",
        "The plural of 'child' is 'children'.",
        "The plural of 'child' is 'childs'.",
    ),
    General(
        "Which ocean lies between Europe and North America?",
        "The Atlantic Ocean lies between Europe and North America.",
        "The Indian Ocean lies between Europe and North America.",
    ),
    General(
        "What is half of 250?",
        "Half of 250 is 125.",
        "Half of 250 is 150.",
    ),
    General(
        "How do I back up my photos?",
        "Copy them to an external drive or to a cloud service, and check that they open there.",
        "Throw them from an open window or into a deep river, and check that they sink there.",
    ),
    General(
        "What does a thermometer measure?",
        "A thermometer measures temperature.",
        "A thermometer measures distance.",
    ),
    General(
        "What can you do?",
        "I can answer questions, explain things, and help with writing and planning.",
        "I can bake shoes, paint rivers, and go with trains and umbrellas.",
    ),
    General(
        "Translate 'good morning' into French.",
        "'Good morning' in French is 'bonjour'.",
        "'Good morning' in French is 'merci'.",
    ),
)


def general_for(user: str, count: int) -> tuple[General, ...]:
    """The same requests for the same user, and others for other users, so that together they cover the whole set.

    Args:
        user: whose persona is measured.
        count: how many; at most all of them.
    """
    first = int(user_key(user)[:8], 16) % len(GENERAL)
    return tuple(GENERAL[(first + i) % len(GENERAL)] for i in range(min(max(count, 0), len(GENERAL))))
