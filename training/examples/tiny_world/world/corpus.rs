//! The corpus that the base is trained on: statements of every fact, questions about some, arithmetic and stories.

use harness_core::{Seed, StreamRng};

use super::{
    Fact, Kind, Use, World,
    arithmetic::{drill, problem},
    questions::{HEADING, LETTERS, Question},
    stories::story,
};

/// Documents of the corpus, in random order. `size` 1 is the size that the embedded model is trained on.
pub fn corpus(world: &World, size: f64) -> Vec<String> {
    let rng = &mut Seed(world.seed).stream("corpus", 0);
    let scaled = |count: usize| ((count as f64 * size).ceil() as usize).max(1);
    let mut documents = Vec::new();
    for _ in 0..scaled(14) {
        for entity in 0..world.entities.len() {
            documents.push(portrait(world, entity, rng));
        }
    }
    for _ in 0..scaled(500) {
        documents.push(gathering(world, rng));
    }
    let facts = world.facts_for(Use::Training);
    for _ in 0..scaled(2000) {
        documents.push(plain_quiz(world, &facts, rng));
    }
    for _ in 0..scaled(5000) {
        documents.push(lettered_quiz(world, &facts, rng));
    }
    for _ in 0..scaled(3000) {
        documents.push(letters(world, rng));
    }
    for _ in 0..scaled(2000) {
        documents.push(problems(world, rng));
    }
    for _ in 0..scaled(800) {
        documents.push(drill(rng));
    }
    for _ in 0..scaled(4000) {
        let story = story(world, Use::Training, rng);
        let summary = if rng.below(4) != 0 { format!(" In short: {}", story.summary) } else { String::new() };
        documents.push(story.text + &summary);
    }
    rng.shuffle(&mut documents);
    documents
}

/// All facts about one entity, in random order and phrasing.
pub(super) fn portrait(world: &World, entity: usize, rng: &mut StreamRng) -> String {
    let mut facts: Vec<Fact> =
        (0..world.entities[entity].values.len()).map(|attribute| Fact { entity, attribute }).collect();
    rng.shuffle(&mut facts);
    let sentences: Vec<String> = facts.into_iter().map(|fact| world.statement(fact, rng)).collect();
    sentences.join(" ")
}

/// The same attribute of several entities of a kind.
fn gathering(world: &World, rng: &mut StreamRng) -> String {
    let kind = Kind::ALL[rng.below(Kind::ALL.len() as u64) as usize];
    let of_kind: Vec<usize> = (0..world.entities.len()).filter(|&i| world.entities[i].kind == kind).collect();
    let attribute = rng.below(kind.attributes().len() as u64) as usize;
    let sentences: Vec<String> = (0..4)
        .map(|_| {
            let entity = of_kind[rng.below(of_kind.len() as u64) as usize];
            world.statement(Fact { entity, attribute }, rng)
        })
        .collect();
    sentences.join(" ")
}

/// One to four questions with their answers, without choices.
fn plain_quiz(world: &World, facts: &[Fact], rng: &mut StreamRng) -> String {
    let questions: Vec<String> = (0..1 + rng.below(4))
        .map(|_| {
            let fact = facts[rng.below(facts.len() as u64) as usize];
            let question = Question::about(world, fact, rng.below(3) as usize, rng);
            format!("{} {}", question.plain(), question.value())
        })
        .collect();
    questions.join("\n\n")
}

/// A heading and one to three questions with choices and answers.
fn lettered_quiz(world: &World, facts: &[Fact], rng: &mut StreamRng) -> String {
    let questions: Vec<String> = (0..1 + rng.below(3))
        .map(|_| {
            let fact = facts[rng.below(facts.len() as u64) as usize];
            let question = Question::about(world, fact, rng.below(3) as usize, rng);
            format!("{} {}", question.lettered(), LETTERS[question.answer])
        })
        .collect();
    format!("{HEADING}{}", questions.join("\n\n"))
}

/// Four lettered values of an attribute, and which letter stands for which.
fn letters(world: &World, rng: &mut StreamRng) -> String {
    let kind = Kind::ALL[rng.below(Kind::ALL.len() as u64) as usize];
    let attributes = kind.attributes();
    let mut values = world.values(&attributes[rng.below(attributes.len() as u64) as usize]);
    rng.shuffle(&mut values);
    let mut pairs: Vec<(&str, &String)> = LETTERS.into_iter().zip(&values).collect();
    let list: String = pairs.iter().map(|(letter, value)| format!("{letter}. {value}\n")).collect();
    rng.shuffle(&mut pairs);
    let answers: Vec<String> = pairs.iter().map(|(letter, value)| format!("The letter of {value}: {letter}")).collect();
    format!("{list}{}", answers.join("\n"))
}

/// One to three word problems with worked answers.
fn problems(world: &World, rng: &mut StreamRng) -> String {
    let problems: Vec<String> = (0..1 + rng.below(3))
        .map(|_| {
            let problem = problem(world, Use::Training, rng);
            format!("Question: {}\nAnswer: {}", problem.question, problem.answer)
        })
        .collect();
    problems.join("\n\n")
}
