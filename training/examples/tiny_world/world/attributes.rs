//! What can be said and asked of the entities of the world.

/// The kinds of entity; also the subjects of the multiple-choice questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// People.
    Person,
    /// Towns.
    Town,
    /// Species of animals.
    Animal,
    /// Tools.
    Thing,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Person, Self::Town, Self::Animal, Self::Thing];

    /// The name of the subject.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Person => "people",
            Self::Town => "towns",
            Self::Animal => "animals",
            Self::Thing => "tools",
        }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::Person => 60,
            Self::Town => 20,
            Self::Animal | Self::Thing => 30,
        }
    }

    /// What can be said of them.
    pub fn attributes(self) -> &'static [Attribute] {
        match self {
            Self::Person => &PERSON,
            Self::Town => &TOWN,
            Self::Animal => &ANIMAL,
            Self::Thing => &THING,
        }
    }
}

/// Where the values of an attribute come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Words.
    Words(&'static [&'static str]),
    /// The towns of the world.
    Towns,
    /// The rivers of the world.
    Rivers,
}

/// One attribute: its values, and the phrases in which `{e}` is the entity and `{v}` the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Where the values come from.
    pub values: Values,
    /// Sentences that state the value.
    pub statements: &'static [&'static str],
    /// Questions whose answer is the value.
    pub questions: &'static [&'static str],
}

const COLOURS: Values = Values::Words(&["red", "blue", "green", "yellow", "white", "black", "brown", "purple"]);

const PERSON: [Attribute; 5] = [
    Attribute {
        values: Values::Towns,
        statements: &[
            "{e} lives in {v}.",
            "The home of {e} is in {v}.",
            "{e} has a house in {v}.",
            "In {v} lives {e}.",
        ],
        questions: &["Where does {e} live?", "In which town is the home of {e}?", "Which town does {e} live in?"],
    },
    Attribute {
        values: Values::Words(&[
            "baker", "miller", "potter", "weaver", "smith", "fisher", "tailor", "teacher", "doctor", "painter",
        ]),
        statements: &[
            "{e} is a {v}.",
            "{e} works as a {v}.",
            "The work of {e} is that of a {v}.",
            "{e} is known as a good {v}.",
        ],
        questions: &["What is the work of {e}?", "What does {e} work as?", "Which work does {e} do?"],
    },
    Attribute {
        values: Values::Words(&["dog", "cat", "goat", "hen", "pony", "rabbit", "parrot", "turtle"]),
        statements: &[
            "{e} has a {v}.",
            "{e} keeps a {v} at home.",
            "The pet of {e} is a {v}.",
            "{e} goes for a walk with a {v}.",
        ],
        questions: &["Which pet does {e} have?", "What is the pet of {e}?", "Which pet does {e} keep at home?"],
    },
    Attribute {
        values: COLOURS,
        statements: &[
            "{e} likes the colour {v}.",
            "The favourite colour of {e} is {v}.",
            "{e} always wears {v}.",
            "The door of {e} is painted {v}.",
        ],
        questions: &[
            "What is the favourite colour of {e}?",
            "Which colour does {e} like?",
            "Which colour does {e} wear?",
        ],
    },
    Attribute {
        values: Values::Words(&["bread", "soup", "cheese", "fish", "rice", "plums", "honey", "cake", "beans", "pears"]),
        statements: &[
            "{e} likes to eat {v}.",
            "The favourite food of {e} is {v}.",
            "Every day {e} eats {v}.",
            "{e} is fond of {v}.",
        ],
        questions: &[
            "What is the favourite food of {e}?",
            "What does {e} like to eat?",
            "Which food does {e} eat every day?",
        ],
    },
];

const TOWN: [Attribute; 4] = [
    Attribute {
        values: Values::Words(&["north", "south", "east", "west", "middle"]),
        statements: &[
            "{e} lies in the {v} of the land.",
            "{e} is a town in the {v}.",
            "To reach {e}, travel to the {v}.",
            "In the {v} of the land lies {e}.",
        ],
        questions: &[
            "In which part of the land does {e} lie?",
            "In which part of the land is {e}?",
            "Where in the land does {e} lie?",
        ],
    },
    Attribute {
        values: Values::Words(&[
            "salt", "wool", "glass", "paper", "rope", "candles", "wine", "tiles", "butter", "boats",
        ]),
        statements: &[
            "{e} sells {v}.",
            "{e} is known for its {v}.",
            "The people of {e} make {v}.",
            "Traders come to {e} for {v}.",
        ],
        questions: &["What is {e} known for?", "What do the people of {e} make?", "What does {e} sell?"],
    },
    Attribute {
        values: Values::Words(&["tower", "bridge", "mill", "lighthouse", "fountain", "clock", "castle", "garden"]),
        statements: &[
            "In {e} there is a famous {v}.",
            "{e} has an old {v}.",
            "Visitors of {e} go to see the {v}.",
            "The pride of {e} is its {v}.",
        ],
        questions: &[
            "What do visitors of {e} go to see?",
            "What is the pride of {e}?",
            "Which famous sight is there in {e}?",
        ],
    },
    Attribute {
        values: Values::Rivers,
        statements: &[
            "{e} lies on the river {v}.",
            "The river {v} flows through {e}.",
            "The river of {e} is the {v}.",
            "The people of {e} fish in the {v}.",
        ],
        questions: &[
            "On which river does {e} lie?",
            "Which river flows through {e}?",
            "What is the river of {e} called?",
        ],
    },
];

const ANIMAL: [Attribute; 4] = [
    Attribute {
        values: Values::Words(&["forest", "desert", "river", "mountains", "swamp", "meadow"]),
        statements: &[
            "{e} lives in the {v}.",
            "The home of {e} is the {v}.",
            "{e} is at home in the {v}.",
            "In the {v} you may meet {e}.",
        ],
        questions: &["Where does {e} live?", "Where is {e} at home?", "Where may you meet {e}?"],
    },
    Attribute {
        values: Values::Words(&["leaves", "seeds", "fish", "insects", "berries", "roots", "grass", "mice"]),
        statements: &[
            "{e} eats {v}.",
            "The food of {e} is {v}.",
            "{e} looks for {v} at night.",
            "{e} feeds its young with {v}.",
        ],
        questions: &["What does {e} eat?", "What is the food of {e}?", "What does {e} look for at night?"],
    },
    Attribute {
        values: COLOURS,
        statements: &["{e} is {v}.", "The coat of {e} is {v}.", "{e} has a {v} coat.", "The colour of {e} is {v}."],
        questions: &["What is the colour of {e}?", "Which colour has {e}?", "Which colour is the coat of {e}?"],
    },
    Attribute {
        values: Values::Words(&["two", "four", "six", "eight", "ten"]),
        statements: &[
            "{e} has {v} legs.",
            "{e} walks on {v} legs.",
            "The legs of {e} are {v} in number.",
            "{e} runs on its {v} legs.",
        ],
        questions: &[
            "How many legs does {e} have?",
            "On how many legs does {e} walk?",
            "What is the number of legs of {e}?",
        ],
    },
];

const THING: [Attribute; 3] = [
    Attribute {
        values: Values::Words(&["wood", "iron", "glass", "clay", "leather", "stone"]),
        statements: &[
            "{e} is made of {v}.",
            "To make {e} you need {v}.",
            "{e} is a tool of {v}.",
            "People make {e} out of {v}.",
        ],
        questions: &["What is {e} made of?", "What do you need to make {e}?", "Out of what do people make {e}?"],
    },
    Attribute {
        values: Values::Words(&[
            "cutting", "digging", "cooking", "sewing", "writing", "painting", "washing", "fishing",
        ]),
        statements: &[
            "{e} is used for {v}.",
            "{e} is a tool for {v}.",
            "People take {e} for {v}.",
            "For {v} you need {e}.",
        ],
        questions: &["What is {e} used for?", "What is {e} a tool for?", "For what do people take {e}?"],
    },
    Attribute {
        values: Values::Words(&["kitchen", "barn", "workshop", "cellar", "school", "attic"]),
        statements: &[
            "{e} is kept in the {v}.",
            "You find {e} in the {v}.",
            "The place of {e} is the {v}.",
            "In the {v} there is {e}.",
        ],
        questions: &["Where is {e} kept?", "Where do you find {e}?", "What is the place of {e}?"],
    },
];
