//! Word problems of two steps, with worked answers in the form of GSM8K.

use harness_core::{Hasher, StreamRng};

use super::{Use, World, between, pick};

const GOODS: [&str; 10] =
    ["apples", "shells", "nails", "eggs", "stones", "buttons", "coins", "nuts", "cups", "ribbons"];

/// A problem and its worked answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The question.
    pub question: String,
    /// Two lines of working, then `#### ` and the number.
    pub answer: String,
    /// The operations and numbers: the unit that is held out.
    pub numbers: String,
}

/// What the numbers of a problem are for; a function of the operations and numbers alone.
fn use_of(numbers: &str) -> Use {
    match Hasher::new("use of numbers").part(numbers).finish().as_bytes()[0] % 10 {
        0 => Use::Test,
        1 => Use::Examples,
        _ => Use::Training,
    }
}

/// A problem whose numbers are for the given use.
pub fn problem(world: &World, used: Use, rng: &mut StreamRng) -> Problem {
    loop {
        let problem = any_problem(world, rng);
        if use_of(&problem.numbers) == used {
            return problem;
        }
    }
}

/// A problem with any numbers.
fn any_problem(world: &World, rng: &mut StreamRng) -> Problem {
    let people: Vec<&str> = world.people.iter().map(String::as_str).collect();
    let (name, goods) = (pick(rng, &people), pick(rng, &GOODS));
    let other = loop {
        let other = pick(rng, &people);
        if other != name {
            break other;
        }
    };
    let (a, b) = (between(rng, 2, 12), between(rng, 2, 12));
    match rng.below(4) {
        0 => {
            let (first, c) = (a + b, between(rng, 2, 12));
            let total = first + c;
            Problem {
                question: format!(
                    "{name} has {a} {goods}. {other} brings {b} {goods}. Then {name} finds {c} more. How many {goods} \
                     are there now?"
                ),
                answer: worked(&format!("{a} + {b} = {first}"), &format!("{first} + {c} = {total}"), total),
                numbers: format!("{a}+{b}+{c}"),
            }
        }
        1 => {
            let first = a + b;
            let c = between(rng, 1, first - 1);
            let left = first - c;
            Problem {
                question: format!(
                    "{name} has {a} {goods} and buys {b} more. {name} gives {c} {goods} to {other}. How many {goods} \
                     does {name} have left?"
                ),
                answer: worked(&format!("{a} + {b} = {first}"), &format!("{first} - {c} = {left}"), left),
                numbers: format!("{a}+{b}-{c}"),
            }
        }
        2 => {
            let a = a + b;
            let first = a - b;
            let c = between(rng, 2, 12);
            let total = first + c;
            Problem {
                question: format!(
                    "There are {a} {goods} in a box. {name} takes {b} {goods} out. {other} puts {c} {goods} in. How many \
                     {goods} are in the box?"
                ),
                answer: worked(&format!("{a} - {b} = {first}"), &format!("{first} + {c} = {total}"), total),
                numbers: format!("{a}-{b}+{c}"),
            }
        }
        _ => {
            let (a, b) = (between(rng, 2, 6), between(rng, 2, 6));
            let first = a * b;
            let c = between(rng, 1, first - 1);
            let left = first - c;
            Problem {
                question: format!(
                    "{name} has {a} bags with {b} {goods} in each bag. {name} sells {c} {goods} to {other}. How many \
                     {goods} does {name} have left?"
                ),
                answer: worked(&format!("{a} * {b} = {first}"), &format!("{first} - {c} = {left}"), left),
                numbers: format!("{a}*{b}-{c}"),
            }
        }
    }
}

/// Two steps and the result.
fn worked(first: &str, second: &str, result: u32) -> String {
    format!("First {first}.\nThen {second}.\n#### {result}")
}

/// A few single steps, each right: the tables the problems are made of.
pub fn drill(rng: &mut StreamRng) -> String {
    let steps: Vec<String> = (0..8)
        .map(|_| match rng.below(3) {
            0 => {
                let (a, b) = (between(rng, 2, 24), between(rng, 2, 12));
                format!("{a} + {b} = {}.", a + b)
            }
            1 => {
                let b = between(rng, 1, 24);
                let rest = between(rng, 1, 22);
                format!("{} - {b} = {rest}.", rest + b)
            }
            _ => {
                let (a, b) = (between(rng, 2, 6), between(rng, 2, 6));
                format!("{a} * {b} = {}.", a * b)
            }
        })
        .collect();
    steps.join("\n")
}
