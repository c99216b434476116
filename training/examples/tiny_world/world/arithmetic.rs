//! Word problems of two or three steps, with worked answers in the form of GSM8K.

use harness_core::{Hasher, StreamRng};

use super::{Use, World, between, pick};

const GOODS: [&str; 10] =
    ["apples", "shells", "nails", "eggs", "stones", "buttons", "coins", "nuts", "cups", "ribbons"];

/// A problem and its worked answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The question.
    pub question: String,
    /// A line of working for each step, then `#### ` and the number.
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

/// A problem with any numbers: two or three steps.
fn any_problem(world: &World, rng: &mut StreamRng) -> Problem {
    let people: Vec<&str> = world.people.iter().map(String::as_str).collect();
    let (name, goods) = (pick(rng, &people), pick(rng, &GOODS));
    let other = loop {
        let other = pick(rng, &people);
        if other != name {
            break other;
        }
    };
    let (mut question, mut numbers, mut have, mut steps);
    if rng.below(3) == 0 {
        let (bags, each) = (between(rng, 2, 6), between(rng, 2, 9));
        have = bags * each;
        question = format!("{name} has {bags} bags with {each} {goods} in each bag.");
        numbers = format!("{bags}*{each}");
        steps = vec![format!("{bags} * {each} = {have}")];
    } else {
        let (first, more) = (between(rng, 2, 30), between(rng, 2, 20));
        have = first + more;
        question = format!("{name} has {first} {goods} and buys {more} more.");
        numbers = format!("{first}+{more}");
        steps = vec![format!("{first} + {more} = {have}")];
    }
    for _ in 0..1 + rng.below(2) {
        let before = have;
        if rng.below(2) == 0 && have > 2 {
            let given = between(rng, 1, (have - 1).min(20));
            have -= given;
            question.push_str(&format!(" {name} gives {given} {goods} to {other}."));
            numbers.push_str(&format!("-{given}"));
            steps.push(format!("{before} - {given} = {have}"));
        } else {
            let found = between(rng, 2, 20);
            have += found;
            question.push_str(&format!(" Then {name} finds {found} {goods}."));
            numbers.push_str(&format!("+{found}"));
            steps.push(format!("{before} + {found} = {have}"));
        }
    }
    question.push_str(&format!(" How many {goods} does {name} have now?"));
    let mut answer = format!("First {}.\n", steps[0]);
    for step in &steps[1..] {
        answer.push_str(&format!("Then {step}.\n"));
    }
    answer.push_str(&format!("#### {have}"));
    Problem { question, answer, numbers }
}

/// A few single steps, each right: the tables the problems are made of.
pub fn drill(rng: &mut StreamRng) -> String {
    let steps: Vec<String> = (0..8)
        .map(|_| match rng.below(3) {
            0 => {
                let (a, b) = (between(rng, 2, 60), between(rng, 2, 20));
                format!("{a} + {b} = {}.", a + b)
            }
            1 => {
                let (taken, rest) = (between(rng, 1, 20), between(rng, 1, 60));
                format!("{} - {taken} = {rest}.", rest + taken)
            }
            _ => {
                let (a, b) = (between(rng, 2, 6), between(rng, 2, 9));
                format!("{a} * {b} = {}.", a * b)
            }
        })
        .collect();
    steps.join("\n")
}
