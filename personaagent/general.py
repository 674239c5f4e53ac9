"""Requests that everybody could make, with neutral answers: a persona must not make the model worse at them.

They were written for this project. None of the answers depends on who asks, so what a persona takes away from their
likelihood is harm.
"""

from __future__ import annotations

from personaagent.types import user_key

__all__ = ["GENERAL", "general_for"]

# Neighbours are of different kinds, so that a few in a row are a fair mixture.
GENERAL: tuple[tuple[str, str], ...] = (
    ("What is the capital of Australia?", "The capital of Australia is Canberra."),
    ("What is 17 times 6?", "17 times 6 is 102."),
    ("How do I boil an egg hard?", "Put the egg in boiling water for ten minutes, then cool it under cold water."),
    ("What does the word 'reluctant' mean?", "Reluctant means unwilling or hesitant to do something."),
    ("Hello! How are you today?", "Hello! I'm doing well, thank you. How can I help you?"),
    ("How many days does a leap year have?", "A leap year has 366 days."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet."),
    ("What is 15 percent of 200?", "15 percent of 200 is 30."),
    (
        "How do I change a light bulb?",
        "Switch off the power, let the old bulb cool, unscrew it and screw in the new one.",
    ),
    ("What is an island?", "An island is a piece of land that is surrounded by water."),
    ("Thank you for your help!", "You're welcome! Let me know if you need anything else."),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius, which is 32 degrees Fahrenheit."),
    ("Which planet is closest to the sun?", "Mercury is the planet closest to the sun."),
    ("How many minutes are there in three hours?", "Three hours have 180 minutes."),
    (
        "How do I remove a file from a folder on my computer?",
        "Select the file and press the Delete key, or move it to the bin.",
    ),
    ("What is a synonym of 'quick'?", "A synonym of 'quick' is 'fast'."),
    ("Can you help me with a question?", "Of course. What would you like to know?"),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("In which continent is Egypt?", "Egypt is in Africa."),
    ("What is the square root of 81?", "The square root of 81 is 9."),
    (
        "How do I get a coffee stain out of a shirt?",
        "Rinse it with cold water, rub in a little soap and wash the shirt as usual.",
    ),
    (
        "What is photosynthesis?",
        "Photosynthesis is how plants use sunlight to make sugar from water and carbon dioxide.",
    ),
    ("Good night!", "Good night! Sleep well."),
    ("What is the plural of 'child'?", "The plural of 'child' is 'children'."),
    ("Which ocean lies between Europe and North America?", "The Atlantic Ocean lies between Europe and North America."),
    ("What is half of 250?", "Half of 250 is 125."),
    (
        "How do I back up my photos?",
        "Copy them to an external drive or to a cloud service, and check that they open there.",
    ),
    ("What does a thermometer measure?", "A thermometer measures temperature."),
    ("What can you do?", "I can answer questions, explain things, and help with writing and planning."),
    ("Translate 'good morning' into French.", "'Good morning' in French is 'bonjour'."),
)


def general_for(user: str, count: int) -> tuple[tuple[str, str], ...]:
    """The same requests for the same user, and others for other users, so that together they cover the whole set.

    Args:
        user: whose persona is measured.
        count: how many; at most all of them.
    """
    first = int(user_key(user)[:8], 16) % len(GENERAL)
    return tuple(GENERAL[(first + i) % len(GENERAL)] for i in range(min(max(count, 0), len(GENERAL))))
