"""Topics of the public set: requests with words that suit them, questions with options, fixed texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A request of one sentence, and four words that a good answer is likely to use."""

    request: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question with the options for its answer."""

    request: str
    options: tuple[str, ...]


def _topics(table: str) -> tuple[Topic, ...]:
    rows = [line.split(" | ") for line in table.strip().splitlines()]
    return tuple(Topic(request, tuple(words.split())) for request, words in rows)


TOPICS = _topics("""
Explain how bread is made at home. | flour oven dough yeast
Describe a walk along a river in autumn. | leaves bridge mist path
Give advice to someone who starts to learn the piano. | scales teacher patience hands
Explain why leaves are green. | light plants chlorophyll sun
Write about the first morning of a holiday by the sea. | waves sand breakfast window
Describe the work of a lighthouse keeper. | lamp ships storm stairs
Explain how a bicycle stays upright. | wheels balance speed rider
Tell a new neighbour about the market in the town square. | cheese stalls Saturday flowers
Describe how to plant a small tree. | roots water soil spade
Explain what a library offers to children. | books stories quiet shelves
Write about a cat that visits three houses every day. | milk garden door sleep
Explain how to prepare for a long train journey. | ticket luggage book sandwich
Describe the night sky as seen from a mountain hut. | stars moon silence valley
Give reasons to keep a diary. | memory pen thoughts evening
Explain how rain forms. | clouds vapour drops air
Describe a workshop where violins are built. | wood varnish strings tools
Write about a football match that nobody won. | goal referee crowd rain
Explain how to make a good cup of tea. | kettle pot leaves minutes
Describe the sounds of a city at dawn. | birds traffic footsteps bells
Give tips for a tidy desk. | drawer paper cable lamp
Explain how bees find their way home. | hive sun dance scent
Write about an old clock that runs backwards. | hands attic hour grandmother
Describe a small museum of maps. | paper borders sailors glass
Explain why we have seasons. | earth tilt sun summer
Write to a friend about a new job in a bakery. | early ovens customers rolls
Describe how to pitch a tent in the wind. | pegs ropes ground poles
Explain what makes a good team. | trust goals listening time
Write about a letter that arrived forty years late. | stamp postman envelope answer
Explain how a canal lock works. | gates level boat water
Describe the life of a street musician. | coins guitar corner songs
Give advice for a first night under the stars. | blanket torch fire cold
Explain how to care for a wooden table. | oil cloth scratches polish
Write about a village where it snows in July. | mayor children coats bell
Describe a desert after a rare rainfall. | flowers sand colour puddles
Explain why sleep matters. | brain rest body health
Describe how to draw a simple portrait. | pencil eyes shadow outline
Write about two brothers who run a ferry. | river rope passengers winter
Explain how a compass works. | needle north magnet field
Describe a kitchen on the day of a feast. | steam pots spices laughter
Give tips for speaking in front of people. | voice notes breath audience
Explain how cheese ages. | cellar salt rind milk
Write about a robot that learns to garden. | seeds weeds rain patience
Describe the view from the top of a crane. | roofs harbour wind people
Explain how to choose a pair of walking shoes. | size soles socks shop
Write about a school on a ship. | captain lessons ocean deck
Describe how glass is blown. | furnace pipe breath sand
Explain what a volcano is. | lava ash mountain crater
Give reasons to take the stairs. | heart legs floors lift
Write about a shop that sells only buttons. | colours boxes thread counter
Describe a rehearsal of an amateur theatre. | stage lines costume nerves
Explain how to read a weather map. | pressure fronts arrows wind
Write about a dog that is afraid of puddles. | boots rain leash park
Describe the last day of harvest. | wheat tractor dust supper
Explain how an echo arises. | sound wall waves distance
Give advice on writing a thank-you note. | kind short name gift
Write about an island with a single road. | cars goats harbour sheep
Describe how a newspaper was printed long ago. | ink letters press paper
Explain why the sea is salty. | rivers rocks minerals water
Write about a chess game between strangers. | queen bench pawn smile
Describe a greenhouse in the middle of winter. | frost tomatoes glass warmth
""")  # fmt: skip

QUESTIONS = (
    Question("Is a tomato larger than a pumpkin?", ("yes", "no", "sometimes")),
    Question("Which of these is a metal?", ("copper", "cotton", "amber")),
    Question("Which of these animals can fly?", ("swallow", "badger", "trout")),
    Question("Is it colder at the top of a mountain than at its foot?", ("usually", "never", "unknown")),
    Question("Which of these is used to write?", ("pencil", "ladle", "pillow")),
    Question("Would you rather travel by train or by ship?", ("train", "ship", "neither")),
    Question("Which season comes after spring?", ("summer", "autumn", "winter")),
    Question("Which of these is the smallest?", ("ant", "horse", "whale")),
    Question("Do fish breathe with lungs?", ("true", "false", "unsure")),
    Question("Which of these grows on a tree?", ("apple", "potato", "carrot")),
    Question("What should one wear in heavy rain?", ("raincoat", "sandals", "sunglasses")),
    Question("Which of these instruments has strings?", ("cello", "trumpet", "drum")),
)

EXACT_TEXTS = (
    "The parcel has arrived.", "All lights are green.", "Nothing to report today.", "Seven ships left the harbour.",
    "I have read the rules.", "Tea will be served at four.", "The bridge is closed on Monday.", "Please wait outside.",
    "Snow is expected tonight.", "The key is under the mat.", "Every seat is taken.", "We meet again in spring.",
    "The lift is out of order.", "Supper is ready.", "The last bus leaves at ten.", "Mind the step.",
    "Two lamps are missing.", "The garden is open to all.", "Rain stopped the game.", "The answer is seven.",
)  # fmt: skip

OPENINGS = (
    "Well then", "To begin with", "Let me think", "Here is my answer", "Once upon a time", "In short", "As it happens",
    "Dear reader", "Good question", "First of all",
)  # fmt: skip

ENDINGS = (
    "That is all for now.", "I hope this helps.", "Ask me again tomorrow.", "This is my final word.", "And so it ends.",
    "Thank you for reading.", "Nothing more needs to be said.", "May it serve you well.",
)  # fmt: skip

PHRASES = (
    "on the other hand", "as a matter of fact", "in the long run", "little by little", "at the same time",
    "more or less", "for the time being", "in other words", "by and large", "time and again",
)  # fmt: skip

COMMON_WORDS = (
    "very", "good", "also", "many", "then", "always", "because", "just", "really", "however", "important", "you",
)  # fmt: skip

PARAGRAPH_WORDS = ("Tomorrow", "Sometimes", "Still", "Nobody", "Perhaps", "Later", "Meanwhile", "Yesterday")
