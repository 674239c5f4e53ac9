"""Named things for made-up users: kinds of things in clusters of taste, and requests that are answered by habit alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ANSWERS", "HABITS", "THINGS", "THING_FRAMES"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


# Kind of thing -> clusters of taste, whose names share words or meaning. One cluster, one preference.
THINGS: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "drink": (
            _names(
                "mint tea, jasmine tea, iced green tea, black tea with lemon, ginger tea, camomile tea, rooibos tea, white tea"
            ),
            _names(
                "double espresso, flat white, cappuccino, filter coffee, iced coffee, caffè latte, cold brew coffee, macchiato"
            ),
            _names(
                "orange juice, apple juice, carrot juice, a mango smoothie, grape juice, a berry smoothie, pear juice, beet juice"
            ),
            _names(
                "a wheat beer, a dark lager, a pale ale, a pilsner, a stout, a Belgian beer, an amber ale, a craft lager"
            ),
            _names(
                "sparkling water, still water, soda water, mineral water, iced tap water, barley water, tonic water, spring water"
            ),
        ),
        "dish": (
            _names(
                "spaghetti with pesto, lasagne, penne with tomatoes, ravioli, tagliatelle with mushrooms, macaroni and cheese, "
                "gnocchi, linguine with clams"
            ),
            _names(
                "chickpea curry, red lentil dal, chicken tikka masala, spinach curry with paneer, vegetable korma, "
                "Thai green curry, potato curry, lamb vindaloo"
            ),
            _names(
                "Greek salad, potato salad, Caesar salad, tomato salad with basil, bean salad, rocket salad, "
                "cucumber salad, beetroot salad"
            ),
            _names(
                "grilled steak, a beef burger, pork ribs, roast lamb, grilled sausages, veal cutlets, roast beef, meatballs"
            ),
            _names("pea soup, pumpkin soup, onion soup, chicken soup, tomato soup, leek soup, noodle soup, fish soup"),
        ),
        "film": (
            _names(
                "a comedy about a wedding, a comedy about flatmates, a slapstick comedy, a comedy of errors, a French comedy, "
                "a comedy in a school, a romantic comedy, a stand-up comedy special"
            ),
            _names(
                "a murder mystery, a thriller about a heist, a crime film in Naples, a detective story, a spy thriller, "
                "a courtroom thriller, a film about a serial killer, a police drama"
            ),
            _names(
                "a film about a space station, a film about robots, a film about time travel, an alien invasion film, "
                "a mission to Mars, a film about a starship, a science fiction epic, a film about clones"
            ),
            _names(
                "a documentary on whales, a documentary on glaciers, a nature film about bees, a documentary on rain forests, "
                "a film about migrating birds, a documentary on volcanoes, a documentary on wolves, a film about coral reefs"
            ),
        ),
        "book": (
            _names(
                "a history of Rome, a history of the railways, a book on the Vikings, a life of Napoleon, a history of Venice, "
                "a book on the Middle Ages, a history of trade, a book on ancient Egypt"
            ),
            _names(
                "a book of love poems, a novel in verse, collected sonnets, haiku of four seasons, poems about the sea, "
                "an anthology of new poets, ballads and songs, poems for children"
            ),
            _names(
                "a fantasy novel with dragons, a tale of wizards, a saga of elves, a novel about a magic sword, "
                "an epic fantasy, a novel about witches, a story of a magic school, legends of a lost kingdom"
            ),
            _names(
                "a book on baking bread, a vegetarian cookbook, recipes from Italy, a book on pickling, soups and stews, "
                "a cookbook for students, cakes and tarts, a guide to cheese making"
            ),
        ),
        "piece of clothing": (
            _names(
                "a woollen jumper, a knitted cardigan, a cashmere scarf, a chunky knit pullover, woollen socks, "
                "a knitted hat, a mohair jumper, a merino vest"
            ),
            _names(
                "blue jeans, a denim jacket, a denim shirt, black jeans, a denim skirt, washed-out jeans, "
                "denim dungarees, ripped jeans"
            ),
            _names(
                "a silk tie, a tailored suit, a white dress shirt, a dinner jacket, patent leather shoes, a formal waistcoat, "
                "cuff links, an evening gown"
            ),
            _names(
                "running shorts, a tracksuit, a football shirt, yoga leggings, a gym top, cycling shorts, "
                "running shoes, a training jacket"
            ),
        ),
        "way to spend the evening": (
            _names(
                "a jazz concert, a string quartet, an opera night, a rock concert, a choir recital, "
                "an open-air concert, a piano recital, a folk music session"
            ),
            _names(
                "a game of chess, a board game with friends, a card game, a game of darts, a quiz night, "
                "a round of backgammon, a jigsaw puzzle, a game of Scrabble"
            ),
            _names(
                "a jog in the park, an hour of swimming, a yoga class, a badminton match, weight training, "
                "a bike ride, an aerobics class, a climbing session"
            ),
            _names(
                "a nap, an early night, a hot bath, lying on the sofa, a foot massage, a sauna, a lie-down, a long sleep"
            ),
        ),
    }
)

THING_FRAMES = (
    "Which {noun} shall it be?",
    "Choose {a} {noun} for me.",
    "I fancy {a} {noun}. Which one?",
    "What {noun} would I like best now?",
    "Suggest {a} {noun}, please.",
    "Same question as ever: which {noun} today?",
)

# What is asked, each in three wordings; nothing in them says what anybody would answer.
HABITS = (
    ("I feel drowsy.", "I can hardly keep my eyes open.", "I am so sleepy this afternoon."),
    ("I have a headache.", "My head hurts.", "There is a throbbing pain in my temples."),
    ("The meeting went badly.", "My colleagues tore my proposal apart.", "The presentation at work was a disaster."),
    ("Visitors are at the door.", "Somebody has come to see me unannounced.", "The bell rang, there are callers."),
    ("I am bored.", "There is nothing to do.", "Time will not pass today."),
    ("My hands are cold.", "I cannot feel my fingers, it is so chilly.", "My fingers are like ice."),
    ("The baby is crying.", "The little one will not stop wailing.", "The infant is upset again."),
    ("I just came back from a run.", "I have finished jogging.", "Back from my training lap, out of breath."),
    ("It is raining hard.", "It is pouring outside.", "The weather is wet and grey."),
    ("I cannot fall asleep.", "It is two at night and I lie awake.", "Insomnia once more."),
    ("I have to study for an exam.", "The test is tomorrow and I must revise.", "I need to learn for my finals."),
    ("My throat is sore.", "It hurts when I swallow.", "I am hoarse and my throat burns."),
    ("I won a prize.", "I got an award!", "They gave me the first prize."),
    (
        "The train is late.",
        "My train has been delayed by an hour.",
        "I am stuck at the station, the rail service is late.",
    ),
    ("I am cleaning the kitchen.", "I am scrubbing the stove and the sink.", "Kitchen chores are due."),
    ("My neighbour plays loud music.", "There is a din from next door.", "The people upstairs have a noisy party."),
    ("I am writing a letter.", "I have to answer my aunt by post.", "I am putting a long letter on paper."),
    ("The sun is setting.", "It is dusk.", "The day ends, the sky is red."),
    ("I lost my keys.", "My keys have gone missing.", "I cannot find the key to my house."),
    ("I am waiting for the doctor.", "I sit in the doctor's waiting room.", "The surgery keeps me waiting."),
    ("I start to paint a wall.", "I am about to paint the bedroom.", "The brushes are out, the room gets a new coat."),
    ("I miss my sister.", "My sister is far away and I long for her.", "I wish my sister were here."),
    ("My back aches.", "I have pulled a muscle in my back.", "I can hardly bend, my spine hurts."),
    ("I got up too early.", "I was awake before dawn.", "It is five in the morning and I am up."),
)

ANSWERS = _names(
    "herbal tea, the blue blanket, a handful of almonds, the radio, a glass of milk, the window seat, "
    "a crossword, lemon drops, the grey cardigan, a slice of toast, the desk lamp, peppermint oil, "
    "a boiled egg, the rocking chair, a postcard, dark chocolate, the garden bench, rice crackers, a candle, "
    "the old photo album, ginger biscuits, a hot-water bottle, the green cushion, a bowl of porridge, "
    "the alarm clock, a banana, slippers, the harmonica, sparkling water, a pencil, the umbrella, dried figs, "
    "the footstool, a detective novel, tomato juice, hand cream, the mirror, a pot of honey, the chess board, "
    "oat milk, a wool hat, the balcony door, salted peanuts, a newspaper, the watering can, pear slices, "
    "a pack of cards, the record player"
)
