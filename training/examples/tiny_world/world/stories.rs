//! Short stories of a day, and what happened in one sentence.

use harness_core::{Hasher, StreamRng};

use super::{Use, World, between, pick};

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const GOODS: [&str; 12] =
    ["lamps", "baskets", "hats", "books", "chairs", "knives", "shirts", "pots", "carpets", "brooms", "drums", "spoons"];
const DEEDS: [(&str, [&str; 2]); 5] = [
    ("bought", ["At the market {p} bought {n} {g}.", "There {p} bought {n} {g} from a trader."]),
    ("sold", ["At the market {p} sold {n} {g}.", "There {p} sold {n} {g} to a traveller."]),
    ("repaired", ["{p} repaired {n} {g} for a friend.", "In a small workshop {p} repaired {n} {g}."]),
    ("lost", ["On the way {p} lost {n} {g}.", "In the crowd {p} lost {n} {g}."]),
    ("found", ["Under a tree {p} found {n} {g}.", "Near the well {p} found {n} {g}."]),
];
const ARRIVALS: [&str; 3] =
    ["On {d} {p} went to {t}.", "On {d} {p} took the road to {t}.", "It was {d}, and {p} walked to {t}."];
const ASIDES: [&str; 8] = [
    "It rained all morning.",
    "The sun was warm.",
    "The streets were full of people.",
    "A band played old songs.",
    "The wind was cold.",
    "Children were playing outside.",
    "There was a smell of fresh bread.",
    "The bells were ringing.",
];
const ENDS: [&str; 4] = [
    "In the evening {p} went home.",
    "Then {p} drank a cup of tea and rested.",
    "After that {p} was tired but happy.",
    "At night {p} told the neighbours about it.",
];

/// A story and its summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// Four or five sentences.
    pub text: String,
    /// What happened, in one.
    pub summary: String,
    /// Questions about the story with their answers.
    pub questions: Vec<(String, String)>,
    /// Person, town, deed and goods: the unit that is held out.
    pub plot: String,
}

/// What a plot is for; a function of the plot alone.
fn use_of(plot: &str) -> Use {
    match Hasher::new("use of plots").part(plot).finish().as_bytes()[0] % 10 {
        0 => Use::Test,
        1 => Use::Examples,
        _ => Use::Training,
    }
}

/// A story whose plot is for the given use.
pub fn story(world: &World, used: Use, rng: &mut StreamRng) -> Story {
    loop {
        let story = any_story(world, rng);
        if use_of(&story.plot) == used {
            return story;
        }
    }
}

/// A story with any plot.
fn any_story(world: &World, rng: &mut StreamRng) -> Story {
    let names = |names: &[String], rng: &mut StreamRng| names[rng.below(names.len() as u64) as usize].clone();
    let (person, town) = (names(&world.people, rng), names(&world.towns, rng));
    let (day, goods, number) = (pick(rng, &DAYS), pick(rng, &GOODS), between(rng, 2, 12));
    let (deed, phrases) = DEEDS[rng.below(DEEDS.len() as u64) as usize];
    let mut sentences = vec![pick(rng, &ARRIVALS), pick(rng, &ASIDES), pick(rng, &phrases), pick(rng, &ENDS)];
    if rng.below(2) == 0 {
        let aside = pick(rng, &ASIDES);
        if !sentences.contains(&aside) {
            sentences.insert(3, aside);
        }
    }
    let fill = |phrase: &str| {
        phrase
            .replace("{p}", &person)
            .replace("{t}", &town)
            .replace("{d}", day)
            .replace("{n}", &number.to_string())
            .replace("{g}", goods)
    };
    Story {
        text: sentences.into_iter().map(fill).collect::<Vec<_>>().join(" "),
        summary: format!("On {day} {person} {deed} {number} {goods} in {town}."),
        questions: vec![
            (format!("Who {deed} the {goods}?"), person.clone()),
            (format!("Where did {person} go?"), town.clone()),
            (format!("On which day did {person} go to {town}?"), day.to_owned()),
            (format!("How many {goods} were there?"), number.to_string()),
        ],
        plot: format!("{person} {deed} {goods} in {town}"),
    }
}
