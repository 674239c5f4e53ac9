"""What made-up histories are made of: subjects of talk, small talk, requests, documents, and the same request in many languages.

Written for this project. `serve.bench.recall_histories` puts them together.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "DOCUMENTS",
    "LANGUAGES",
    "REQUESTS",
    "SMALL_TALK",
    "SUBJECTS",
    "WHENS",
    "Language",
    "RequestText",
    "Subject",
]


class Subject(NamedTuple):
    """Something people tell of themselves: ways to tell it (`{v}`), to ask for it (`{who}`), to talk about it without telling."""

    told: tuple[str, ...]
    asked: tuple[str, ...]
    talk: tuple[str, ...]
    values: tuple[str, ...]


class RequestText(NamedTuple):
    """A thing that people ask to choose for them, and what they want."""

    thing: str
    other: str  # another word for it
    wanted: tuple[str, ...]


class Language(NamedTuple):
    """A request in one language: two ways to ask, with `{thing}` and `{when}`, and what fills them."""

    name: str
    script: str
    asked: tuple[str, str]
    things: tuple[str, ...]
    whens: tuple[str, ...]
    truths: tuple[str, ...]


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        ("We finally brought the puppy home, and {v} has already chewed one of my slippers.",
         "Can you believe it, {v} dug up half of the flower bed while I was on the phone?",
         "The vet says {v} is healthy, just a little overweight for such short legs."),
        ("What is {who}'s dog called?", "Which name did {who} give the pet?"),
        ("Does yours also bark at the postman?", "Dogs are so much work, but I would not want to miss it.",
         "I met such a nice dog in the park, the owner would not tell me what it is called."),
        ("Biscuit", "Moss", "Pepper", "Falafel", "Otto", "Juno", "Waffles", "Bramble"),
    ),
    Subject(
        ("I signed the papers on Monday: from next month I will be working at {v}.",
         "The people at {v} called back, and I said yes before they had finished the sentence.",
         "My desk at {v} looks out over the river, so I get nothing done."),
        ("Who is {who}'s new employer?", "Where did {who} get a job?"),
        ("Looking for work is a job of its own.", "How did the interview go, were they friendly?",
         "A new colleague started today, she used to be at the harbour office."),
        ("the city archive", "a bicycle workshop", "the tram company", "a seed bank", "the observatory",
         "a children's theatre", "the water board", "a map publisher"),
    ),
    Subject(
        ("No more peanuts for me: the test came back and it is {v} that gives me the rash.",
         "I had to leave the restaurant early, there was {v} in the sauce and my throat closed up.",
         "Even a trace of {v} and my eyes swell, so I read every label twice."),
        ("What is {who} allergic to?", "Which ingredient does {who} have to avoid?"),
        ("Do you still get hay fever in spring?", "The allergy season is awful this year.",
         "I made a cake without anything that anybody could be allergic to, and it tasted of nothing."),
        ("sesame", "celery", "mustard", "lupin", "shellfish", "kiwi", "buckwheat", "hazelnut"),
    ),
    Subject(
        ("Tickets are booked, I fly to {v} on the ninth and stay for two weeks.",
         "I am still dreaming of the market in {v}, the light there in the evening was unreal.",
         "We got lost in {v} on the first day and found the best soup of the whole trip."),
        ("Where did {who} travel?", "Which city did {who} visit on holiday?"),
        ("I need a holiday so badly.", "Are you going away this summer, or staying at home?",
         "Packing is the part of travelling I like least."),
        ("Lisbon", "Tbilisi", "Oaxaca", "Hanoi", "Marrakesh", "Bergen", "Kyoto", "Valparaiso"),
    ),
    Subject(
        ("After three lessons my fingers hurt, but the {v} is starting to sound like one.",
         "My neighbour knocked on the wall again, so I practise the {v} in the cellar now.",
         "I sold my old camera and bought a second-hand {v} instead."),
        ("What instrument does {who} play?", "Which instrument is {who} learning?"),
        ("Music in the morning makes the day better.", "Did you hear the concert on the radio?",
         "My cousin's band is looking for somebody who plays anything at all."),
        ("cello", "accordion", "oboe", "banjo", "harp", "clarinet", "mandolin", "double bass"),
    ),
    Subject(
        ("My sister had the baby on Sunday, they named her {v} after our grandmother.",
         "I held little {v} for an hour and she slept through all of it.",
         "The photo on my phone is {v} with her first tooth."),
        ("What is the name of {who}'s niece?", "How did {who}'s sister call her daughter?"),
        ("Babies cry so much more than one thinks.", "Does your sister get any sleep?",
         "Family dinners are loud since there are children again."),
        ("Ottilie", "Nour", "Saskia", "Imogen", "Leonie", "Tamsin", "Yara", "Philippa"),
    ),
    Subject(
        ("I could not put it down: {v} kept me awake until three.",
         "You have to borrow my copy of {v}, the last chapter broke my heart.",
         "Our reading circle picked {v} and for once everybody agreed."),
        ("What book did {who} enjoy?", "Which novel does {who} recommend?"),
        ("I have not read anything in weeks.", "The library extended its opening hours.",
         "Do you read on paper or on a screen?"),
        ("The Salt Road", "A House of Bees", "Winter Cartography", "The Quiet Ferry", "Nine Lanterns",
         "The Glass Orchard", "Letters to a Lighthouse", "Small Hours"),
    ),
    Subject(
        ("The doctor put my {v} in plaster and says six weeks, if I behave.",
         "I slipped on the wet stairs and heard the crack in my {v} before I felt it.",
         "Physiotherapy for the {v} starts tomorrow, wish me luck."),
        ("What did {who} break?", "Which part of the body did {who} injure?"),
        ("Take care on the ice, everybody is falling.", "Are you feeling any better today?",
         "Hospitals make me nervous, even as a visitor."),
        ("wrist", "ankle", "collarbone", "elbow", "little toe", "shoulder", "kneecap", "thumb"),
    ),
    Subject(
        ("Guess who came third in the {v}, out of two hundred people!",
         "I have trained since January, and on Saturday the {v} is finally on.",
         "My legs are jelly after the {v}, but I finished."),
        ("What race did {who} take part in?", "Which sports event did {who} compete in?"),
        ("I should really do more sport.", "Running in the rain is strangely nice.",
         "The gym raised its prices again."),
        ("harbour swim", "night marathon", "mountain relay", "gravel ride", "stair climb", "orienteering cup",
         "rowing regatta", "ice triathlon"),
    ),
    Subject(
        ("For the kitchen we settled on {v} in the end, two coats, and it looks wonderful.",
         "There is still {v} in my hair from rolling the ceiling.",
         "My mother thinks {v} walls are too much, but she will get used to it."),
        ("What colour did {who} paint the room?", "Which shade did {who} pick for the walls?"),
        ("Renovating never ends, does it?", "Do you know a good painter?",
         "I painted a picture of the harbour, it is not very good."),
        ("sage green", "terracotta", "midnight blue", "mustard yellow", "dusty pink", "charcoal", "peach", "ivory"),
    ),
    Subject(
        ("They towed it this morning, so I am driving my uncle's {v} until mine is fixed.",
         "I said I would never own one, and now there is a {v} in front of the house.",
         "The {v} started at the first turn of the key, in minus twelve degrees."),
        ("What vehicle does {who} drive?", "Which car did {who} get?"),
        ("Parking in this town is hopeless.", "The bus was late again, forty minutes.",
         "Petrol has become so expensive."),
        ("rusty pickup", "yellow camper", "tiny convertible", "electric hatchback", "old tractor", "delivery van",
         "red station wagon", "three-wheeler"),
    ),
    Subject(
        ("On Thursdays I go to the evening class now, we do {v} until ten.",
         "I did not think that I had patience for {v}, but it calms me down.",
         "My first attempt at {v} looks like an accident, I am still proud."),
        ("What hobby did {who} take up?", "What does {who} do in the evening class?"),
        ("Evenings are so long in winter.", "You always find something new to try.",
         "I never have time for anything after work."),
        ("bookbinding", "wood carving", "pottery", "calligraphy", "weaving", "glass blowing", "fencing", "origami"),
    ),
    Subject(
        ("I proposed the {v} for grandfather's birthday and everybody voted for it.",
         "He cried a little when he unwrapped the {v}, and he never cries.",
         "The {v} arrived with a dent, but they sent another one before the party."),
        ("What present did {who} give the grandfather?", "What did {who} buy for the birthday?"),
        ("Birthdays come faster every year.", "What do you give somebody who has everything?",
         "The party was lovely, we danced until midnight."),
        ("telescope", "rocking chair", "record player", "chess set", "wool blanket", "barometer", "fishing rod",
         "pocket watch"),
    ),
    Subject(
        ("On my plate every Sunday as a child: {v}, and I still cannot say no to it.",
         "If you want to make me happy, cook {v}, nothing else comes close.",
         "I ordered {v} again, the waiter did not even bring the menu."),
        ("What is {who}'s favourite food?", "Which dish does {who} like best?"),
        ("I am starving, shall we order something?", "The new restaurant is always full.",
         "My oven broke right before the guests came."),
        ("mushroom dumplings", "lentil stew", "fried sardines", "potato pancakes", "pumpkin curry", "stuffed peppers",
         "onion tart", "beef noodles"),
    ),
    Subject(
        ("We signed for the flat, so from May I live right beside {v}.",
         "I hear the bells of {v} from my new bed, every quarter of an hour.",
         "The movers could not find it, I had to wave at them from {v}."),
        ("Where did {who} move to?", "What is near {who}'s new home?"),
        ("Rents are ridiculous.", "Boxes everywhere, I cannot find a single spoon.",
         "Good neighbours are worth more than a balcony."),
        ("the botanical garden", "the old brewery", "the fish market", "the railway bridge", "the cathedral",
         "the football ground", "the paper mill", "the castle hill"),
    ),
    Subject(
        ("My thesis is about {v}, and nobody at dinner ever asks a second question.",
         "The professor accepted it: I will write on {v}.",
         "Two hundred pages on {v}, and my aunt asks when I study something real."),
        ("What is {who} researching at the university?", "What subject does {who} study?"),
        ("Exams are over at last.", "The lecture hall is freezing again.",
         "My brother dropped out and has never been happier."),
        ("moss on roofs", "medieval tolls", "whale songs", "bridge corrosion", "sleep in bees", "dialects of the coast",
         "river ice", "forged stamps"),
    ),
    Subject(
        ("The waiting list was long, but from Monday on I help at {v} twice a week.",
         "Somebody has to do it, so I spend my Saturdays at {v}.",
         "At {v} they gave me a badge and a very ugly vest."),
        ("Where does {who} volunteer?", "Which charity does {who} help?"),
        ("It is good to do something for others.", "I gave some old coats away.",
         "Weekends are too short for everything."),
        ("the animal shelter", "the soup kitchen", "the repair café", "the lifeboat station", "the night shelter",
         "the toy library", "the hospice", "the bird rescue"),
    ),
    Subject(
        ("I am more afraid of {v} than of anything, I had to leave the cinema.",
         "Whenever there are {v}, my hands get wet and I cannot move.",
         "My therapist wants me to look at pictures of {v}, I said maybe."),
        ("What is {who} scared of?", "Which phobia does {who} have?"),
        ("That film gave me nightmares.", "I jumped when the door slammed.",
         "Courage is doing it anyway, they say."),
        ("escalators", "moths", "clowns", "geese", "lifts", "masks", "balloons", "deep water"),
    ),
    Subject(
        ("The lawyer says that the {v} is mine, my great-aunt put it into her will.",
         "I did not know what to do with the {v} she left me, it fills half the hall.",
         "They weighed the {v} at the auction house and went very quiet."),
        ("What did {who} inherit?", "What was left to {who} by a relative?"),
        ("Old houses are full of surprises.", "Funerals bring the whole family together.",
         "I found letters in the attic, in a hand that nobody can read."),
        ("grand piano", "stamp collection", "silver samovar", "vineyard", "grandfather clock", "tapestry",
         "sailing boat", "coin cabinet"),
    ),
    Subject(
        ("On the first of the month I gave up {v}, and I am unbearable.",
         "Day twelve without {v}, and I dream about it.",
         "I had exactly one slip, at the wedding, otherwise no {v} since spring."),
        ("What did {who} quit?", "Which habit did {who} stop?"),
        ("Good intentions never last until February.", "I sleep so badly at the moment.",
         "You look rested, what is your secret?"),
        ("smoking", "coffee", "sugar", "social media", "biting my nails", "beer", "online shopping", "late snacks"),
    ),
    Subject(
        ("The two of them were so nervous, but {v} was the perfect place to get married.",
         "It poured all day, and still the ceremony at {v} was the loveliest I have seen.",
         "I gave the toast at {v} and forgot half of it."),
        ("Where was the wedding that {who} attended?", "At what place did the couple marry whose guest {who} was?"),
        ("Weddings always make me cry.", "I have nothing to wear.",
         "They have been together since school."),
        ("a lighthouse", "the town swimming pool", "a lemon grove", "an old hangar", "the zoo", "a river barge",
         "the city library", "a barn"),
    ),
    Subject(
        ("In the garden the {v} are up already, I counted forty this morning.",
         "Slugs ate everything except for the {v}, so it is {v} for dinner again.",
         "I won a ribbon at the village show for my {v}."),
        ("What does {who} grow?", "Which vegetables did {who} plant?"),
        ("It has not rained for three weeks.", "The soil here is nothing but stones.",
         "I killed another houseplant."),
        ("leeks", "radishes", "artichokes", "beetroots", "broad beans", "parsnips", "gourds", "turnips"),
    ),
    Subject(
        ("The appointment at the embassy went well, my {v} is good enough, they said.",
         "I repeat {v} verbs under the shower, my flatmates are learning with me.",
         "Half a year of {v}, and I can finally argue with my mother-in-law."),
        ("What language is {who} learning?", "Which language does {who} speak by now?"),
        ("Grammar was never my strength.", "My accent makes everybody laugh.",
         "She answered in five languages, I understood two."),
        ("Finnish", "Swahili", "Georgian", "Portuguese", "Welsh", "Korean", "Basque", "Turkish"),
    ),
    Subject(
        ("At the airport they took my {v} out of the bag and would not give it back.",
         "I left my {v} on the train, between the second and the third stop.",
         "Whoever finds a {v} in the park: it is mine, and I miss it."),
        ("What did {who} lose?", "Which thing of {who}'s went missing?"),
        ("I keep forgetting things lately.", "The lost property office is a sad place.",
         "Check your pockets first, that is where it always is."),
        ("green umbrella", "penknife", "left glove", "notebook", "silver earring", "thermos flask", "house key",
         "straw hat"),
    ),
)  # fmt: skip

SMALL_TALK: tuple[str, ...] = (
    "Hey, good to hear from you! How have you been?",
    "Not bad, a bit tired. And you?",
    "That sounds wonderful, I am so happy for you!",
    "Oh no, I am sorry to hear that.",
    "Haha, that is so typical of you.",
    "Really? Tell me more!",
    "I know exactly what you mean.",
    "We should meet again soon, it has been far too long.",
    "What are you up to at the weekend?",
    "Thanks, that means a lot to me.",
    "Let me know how it goes, will you?",
    "The weather has been strange all week.",
    "I will send you a picture later.",
    "You always know what to say.",
    "It was a long day, I will go to bed early.",
    "Did I tell you what happened yesterday? I will tell you when we meet.",
    "By the way, my mother sends her regards.",
    "Good luck, I keep my fingers crossed!",
    "I was thinking of you this morning.",
    "Sorry for answering so late, it was a busy week.",
    "That is a good idea, why did I not think of it?",
    "Take your time, there is no hurry.",
    "I have to run, talk to you tomorrow!",
    "How exciting, when does it start?",
    "I am proud of you, you know that?",
    "It is nothing special, but I like it.",
    "You will get used to it, everybody does.",
    "Did you manage to sleep at all?",
    "I have news, but you have to keep it to yourself for now.",
    "Same here, some days are just like that.",
)

REQUESTS: tuple[RequestText, ...] = (
    RequestText("tea", "hot drink of leaves", ("mint tea", "black tea with milk", "green tea", "rooibos")),
    RequestText("wine", "bottle", ("a dry red", "a light white", "a rosé", "no wine at all")),
    RequestText("music", "playlist", ("piano jazz", "old soul", "string quartets", "silence")),
    RequestText("film", "movie", ("a western", "a documentary", "a comedy", "a silent classic")),
    RequestText("shoes", "footwear", ("trail shoes", "brown boots", "sandals", "white trainers")),
    RequestText("jacket", "coat", ("the blue parka", "a denim jacket", "a raincoat", "the wool cape")),
    RequestText("seat", "place", ("an aisle seat", "a window seat", "the last row", "near the door")),
    RequestText("hotel", "place to stay", ("a small guesthouse", "a business hotel", "a hostel", "a cabin")),
    RequestText("bread", "loaf", ("rye bread", "a baguette", "sourdough", "crispbread")),
    RequestText("cheese", "dairy board", ("goat cheese", "an old gouda", "blue cheese", "feta")),
    RequestText("game", "pastime", ("chess", "a card game", "charades", "a crossword")),
    RequestText("gift", "present", ("a book", "flowers", "a voucher", "homemade jam")),
    RequestText("route", "way", ("along the river", "the motorway", "through the forest", "the shortest one")),
    RequestText("lamp", "light", ("the dim floor lamp", "candles", "the bright desk lamp", "fairy lights")),
    RequestText("pillow", "cushion", ("the flat one", "a feather pillow", "a neck roll", "none")),
    RequestText("soup", "broth", ("tomato soup", "miso", "pea soup", "chicken broth")),
)

WHENS: tuple[tuple[str, str], ...] = (
    ("for a rainy evening at home", "when it pours at night and I stay in"),
    ("when my parents visit", "with mum and dad as guests"),
    ("before an exam", "right ahead of a test"),
    ("on a long train journey", "for hours on the railway"),
    ("after the gym", "when I have just worked out"),
    ("for a business dinner", "at a meal with clients"),
    ("on a camping weekend", "out in the tent for two days"),
    ("for a child's birthday", "at a kid's party"),
    ("on a hot summer day", "when it is boiling outside"),
    ("when I have a cold", "while my nose is running"),
)

DOCUMENTS: tuple[str, ...] = (
    "The northern depot opens at six and closes at eleven at night. Deliveries are accepted until nine; after that the gate is"
    " locked and only the night porter can open it. Forklifts must be charged in the marked bay.",
    "Employees may take up to thirty days of leave a year. Requests go to the team lead at least four weeks ahead. Unused days"
    " lapse at the end of March unless the works council agrees otherwise.",
    "The warranty covers faults of material for three years from the date of purchase. It does not cover wear, water damage or"
    " repairs by unauthorised workshops. The receipt must be shown.",
    "Travel is reimbursed in second class. Taxis are paid only between ten at night and six in the morning, or with heavy"
    " luggage. Receipts are uploaded within ten days of the return.",
    "The server room is cooled to nineteen degrees. If the temperature rises above twenty-six an alarm is sent to the duty"
    " phone. Doors must never be wedged open, not even during maintenance.",
    "New suppliers are checked for their certificates, their finances and their record of deliveries. The check is repeated"
    " every two years, or earlier after two late deliveries in a row.",
    "In case of fire leave the building by the nearest exit and gather at the car park. Lifts must not be used. Floor wardens"
    " report missing persons to the fire brigade.",
    "The canteen serves lunch from half past eleven to two. Guests need a voucher from the front desk. Allergens are listed on"
    " the board beside the till and on the intranet.",
    "Invoices above five thousand are signed by two people, one of them from finance. Payment is made within thirty days of"
    " receipt, or within ten with a discount of two per cent.",
    "Passwords have at least fourteen characters and are changed only when there is a reason to. A second factor is needed from"
    " outside of the office network. Lost tokens are reported at once.",
    "Samples are kept at minus eighty degrees and logged with date, origin and the initials of whoever stored them. A sample"
    " without a label is discarded after a week.",
    "The library lends laptops for three days. They can be extended once if nobody has reserved them. Damage is reported at the"
    " desk and paid for by the borrower.",
)

LANGUAGES: tuple[Language, ...] = (
    Language(
        "German", "Latin", ("Welchen {thing} soll ich {when} nehmen?", "Bitte empfiehl mir einen {thing} {when}."),
        ("Tee", "Wein", "Käse", "Mantel", "Film", "Kuchen", "Koffer", "Tisch", "Rucksack", "Füller"),
        ("zum Frühstück", "im Büro", "nach dem Sport", "auf der Zugfahrt", "für die Großmutter", "bei Regen",
         "am Geburtstag", "im Gebirge"),
        ("den schwarzen", "den süßen", "den größten", "den aus Österreich"),
    ),
    Language(
        "Russian", "Cyrillic", ("Какой {thing} мне выбрать {when}?", "Посоветуй, пожалуйста, {thing} {when}."),
        ("чай", "сыр", "хлеб", "фильм", "торт", "поезд", "подарок", "костюм", "роман", "чемодан"),
        ("на завтрак", "для бабушки", "после тренировки", "в дорогу", "на день рождения", "в дождливый вечер",
         "для офиса", "на дачу"),
        ("чёрный", "самый дешёвый", "с лимоном", "из деревни"),
    ),
    Language(
        "Greek", "Greek", ("Ποιο {thing} να διαλέξω {when};", "Πρότεινέ μου ένα {thing} {when}."),
        ("τσάι", "κρασί", "τυρί", "βιβλίο", "παλτό", "τραγούδι", "γλυκό", "δώρο", "ποδήλατο", "ξενοδοχείο"),
        ("για πρωινό", "για τη γιαγιά", "μετά το γυμναστήριο", "στο τρένο", "για τα γενέθλια", "όταν βρέχει",
         "στο γραφείο", "στο βουνό"),
        ("το μαύρο", "το γλυκό", "το πιο φθηνό", "με λεμόνι"),
    ),
    Language(
        "Arabic", "Arabic", ("أي {thing} أختار {when}؟", "انصحني من فضلك ب{thing} {when}."),
        ("شاي", "خبز", "جبن", "كتاب", "معطف", "فيلم", "عطر", "فندق", "قطار", "كعك"),
        ("للفطور", "للجدة", "بعد الرياضة", "في السفر", "لعيد الميلاد", "عندما تمطر", "في المكتب", "في الجبل"),
        ("الأسود", "الحلو", "الأرخص", "مع الليمون"),
    ),
    Language(
        "Hebrew", "Hebrew", ("איזה {thing} לבחור {when}?", "תמליץ לי בבקשה על {thing} {when}."),
        ("תה", "יין", "לחם", "ספר", "מעיל", "סרט", "בושם", "מלון", "תיק", "שיר"),
        ("לארוחת הבוקר", "לסבתא", "אחרי האימון", "לנסיעה ברכבת", "ליום ההולדת", "כשיורד גשם", "במשרד", "בהרים"),
        ("השחור", "המתוק", "הזול ביותר", "עם לימון"),
    ),
    Language(
        "Hindi", "Devanagari", ("{when} कौन सा {thing} चुनूँ?", "मुझे {when} कोई अच्छा {thing} बताइए।"),
        ("पेय", "पनीर", "कोट", "गीत", "होटल", "उपहार", "जूता", "उपन्यास", "थैला", "केक"),
        ("नाश्ते के लिए", "दादी के लिए", "व्यायाम के बाद", "रेलयात्रा में", "जन्मदिन पर", "बारिश की शाम को", "दफ़्तर में",
         "पहाड़ों में"),
        ("काला वाला", "सबसे सस्ता", "मीठा वाला", "नींबू के साथ"),
    ),
    Language(
        "Thai", "Thai", ("{when}ควรเลือก{thing}แบบไหนดี", "ช่วยแนะนำ{thing}สำหรับ{when}หน่อยครับ"),
        ("ชา", "ไวน์", "ขนมปัง", "หนังสือ", "เสื้อกันหนาว", "ภาพยนตร์", "น้ำหอม", "โรงแรม", "กระเป๋า", "เพลง"),
        ("มื้อเช้า", "คุณยาย", "หลังออกกำลังกาย", "ตอนนั่งรถไฟ", "วันเกิด", "วันที่ฝนตก", "ที่ทำงาน", "บนภูเขา"),
        ("สีดำ", "แบบหวาน", "ถูกที่สุด", "ใส่มะนาว"),
    ),
    Language(
        "Chinese", "Han", ("{when}应该选什么{thing}？", "请给我推荐适合{when}的{thing}。"),
        ("茶", "红酒", "面包", "小说", "大衣", "电影", "香水", "酒店", "背包", "歌曲"),
        ("早餐", "奶奶", "运动以后", "坐火车", "过生日", "下雨的晚上", "办公室", "爬山"),
        ("黑色的", "甜的", "最便宜的", "加柠檬的"),
    ),
    Language(
        "Japanese", "Kana", ("{when}にはどの{thing}がいいですか？", "{when}におすすめの{thing}を教えてください。"),
        ("お茶", "ワイン", "パン", "小説", "コート", "映画", "香水", "ホテル", "かばん", "曲"),
        ("朝ごはん", "おばあさん", "運動のあと", "電車の旅", "誕生日", "雨の夜", "会社", "山登り"),
        ("黒いもの", "甘いもの", "一番安いもの", "レモン入り"),
    ),
    Language(
        "Korean", "Hangul", ("{when}에는 어떤 {thing} 고르면 좋을까요?", "{when}에 어울리는 {thing} 추천해 주세요."),
        ("녹차를", "와인을", "빵을", "소설을", "외투를", "영화를", "향수를", "호텔을", "가방을", "노래를"),
        ("아침 식사", "할머니 선물", "운동 뒤", "기차 여행", "생일", "비 오는 저녁", "사무실", "등산"),
        ("검은 것", "달콤한 것", "가장 싼 것", "레몬을 넣은 것"),
    ),
)  # fmt: skip
