//! Made-up names.

use std::collections::BTreeSet;

use harness_core::StreamRng;

const ONSETS: [&str; 18] =
    ["b", "br", "d", "dr", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "tr", "v"];
const VOWELS: [&str; 6] = ["a", "e", "i", "o", "u", "ai"];
const PERSON_ENDS: [&str; 8] = ["la", "na", "ro", "ko", "mi", "ta", "ven", "lin"];
const TOWN_ENDS: [&str; 6] = ["burg", "ford", "holm", "wick", "mor", "stad"];
const RIVER_ENDS: [&str; 3] = ["wen", "ola", "ess"];
const ANIMAL_ENDS: [&str; 6] = ["lk", "bbit", "nx", "mur", "rax", "pod"];
const THING_ENDS: [&str; 6] = ["mmel", "zet", "ck", "nder", "sp", "ttle"];

/// What a name is for; each has endings of its own, so that names of different kinds look different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A person, capitalised.
    Person,
    /// A town, capitalised.
    Town,
    /// A river, capitalised.
    River,
    /// A species of animal.
    Animal,
    /// A tool.
    Thing,
}

/// Draws `count` names that are different from all in `taken`, and adds them to it.
pub fn draw(rng: &mut StreamRng, style: Style, count: usize, taken: &mut BTreeSet<String>) -> Vec<String> {
    let ends: &[&str] = match style {
        Style::Person => &PERSON_ENDS,
        Style::Town => &TOWN_ENDS,
        Style::River => &RIVER_ENDS,
        Style::Animal => &ANIMAL_ENDS,
        Style::Thing => &THING_ENDS,
    };
    let mut names = Vec::new();
    while names.len() < count {
        let mut name = format!("{}{}{}", pick(rng, &ONSETS), pick(rng, &VOWELS), pick(rng, ends));
        if matches!(style, Style::Person | Style::Town | Style::River) {
            name = capitalised(&name);
        }
        if taken.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

/// One of the items, uniformly.
pub fn pick<'a, T: ?Sized>(rng: &mut StreamRng, items: &[&'a T]) -> &'a T {
    items[rng.below(items.len() as u64) as usize]
}

/// A number of the range, both ends included.
pub fn between(rng: &mut StreamRng, low: u32, high: u32) -> u32 {
    low + rng.below(u64::from(high - low) + 1) as u32
}

/// The text with its first letter in upper case.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
