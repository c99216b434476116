//! A small synthetic world: who and what there is, and what is true of it.

mod arithmetic;
mod attributes;
mod corpus;
mod instructions;
mod names;
mod questions;
mod stories;
mod tasks;
mod tokenizer;

use std::collections::BTreeSet;

use harness_core::{Seed, StreamRng};

pub use attributes::{Attribute, Kind, Values};
pub use corpus::corpus;
pub use instructions::instructions;
pub use names::{between, capitalised, pick};
pub use tasks::tasks;
pub use tokenizer::{tokenizer_config, train_tokenizer};

/// Something with a name of which facts are true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// Its kind.
    pub kind: Kind,
    /// How it is spoken of within a sentence: `Torla`, `the velk`.
    pub name: String,
    /// For each attribute of its kind the value.
    pub values: Vec<String>,
}

/// An attribute of an entity: the unit that is held out. Facts are stated in the corpus, all of them; questions about
/// the facts of one use appear in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// Number of the entity.
    pub entity: usize,
    /// Number of the attribute among those of its kind.
    pub attribute: usize,
}

/// What questions about a fact are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Questions in the corpus and the instructions.
    Training,
    /// Examples in prompts of the tasks.
    Examples,
    /// Questions that are scored.
    Test,
}

/// The world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The seed it follows from.
    pub seed: u64,
    /// Everything there is.
    pub entities: Vec<Entity>,
    /// Names of the people.
    pub people: Vec<String>,
    /// Names of the towns.
    pub towns: Vec<String>,
    /// Every fact with its use.
    pub facts: Vec<(Fact, Use)>,
    rivers: Vec<String>,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        let rng = &mut Seed(seed).stream("world", 0);
        let mut taken = BTreeSet::new();
        let mut draw = |rng: &mut StreamRng, style, count| names::draw(rng, style, count, &mut taken);
        let people = draw(rng, names::Style::Person, Kind::Person.count());
        let towns = draw(rng, names::Style::Town, Kind::Town.count());
        let rivers = draw(rng, names::Style::River, 6);
        let animals = draw(rng, names::Style::Animal, Kind::Animal.count());
        let things = draw(rng, names::Style::Thing, Kind::Thing.count());
        let article = |names: Vec<String>| names.into_iter().map(|name| format!("the {name}")).collect();
        let mut world = Self { seed, entities: Vec::new(), people, towns, facts: Vec::new(), rivers };
        let named: [(Kind, Vec<String>); 4] = [
            (Kind::Person, world.people.clone()),
            (Kind::Town, world.towns.clone()),
            (Kind::Animal, article(animals)),
            (Kind::Thing, article(things)),
        ];
        for (kind, names) in named {
            let count = names.len();
            // Values are dealt out rather than drawn, so that each is the answer about equally often.
            let dealt: Vec<Vec<String>> = kind
                .attributes()
                .iter()
                .map(|attribute| {
                    let values = world.values(attribute);
                    let mut dealt: Vec<String> = (0..count).map(|i| values[i % values.len()].clone()).collect();
                    rng.shuffle(&mut dealt);
                    dealt
                })
                .collect();
            for (i, name) in names.into_iter().enumerate() {
                world.entities.push(Entity {
                    kind,
                    name,
                    values: dealt.iter().map(|column| column[i].clone()).collect(),
                });
            }
        }
        world.facts = world.deal_facts(&mut Seed(seed).stream("uses of facts", 0));
        world
    }

    /// Of every ten facts about an attribute, three for tests, one for examples and six for training.
    fn deal_facts(&self, rng: &mut StreamRng) -> Vec<(Fact, Use)> {
        let mut facts = Vec::new();
        for kind in Kind::ALL {
            for attribute in 0..kind.attributes().len() {
                let mut of_attribute: Vec<Fact> = (0..self.entities.len())
                    .filter(|&entity| self.entities[entity].kind == kind)
                    .map(|entity| Fact { entity, attribute })
                    .collect();
                rng.shuffle(&mut of_attribute);
                facts.extend(of_attribute.into_iter().enumerate().map(|(i, fact)| {
                    let used = match i % 10 {
                        0..3 => Use::Test,
                        3 => Use::Examples,
                        _ => Use::Training,
                    };
                    (fact, used)
                }));
            }
        }
        facts
    }

    /// The possible values of an attribute.
    pub fn values(&self, attribute: &Attribute) -> Vec<String> {
        match attribute.values {
            Values::Words(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            Values::Towns => self.towns.clone(),
            Values::Rivers => self.rivers.clone(),
        }
    }

    /// The facts of one use.
    pub fn facts_for(&self, used: Use) -> Vec<Fact> {
        self.facts.iter().filter(|(_, of)| *of == used).map(|(fact, _)| *fact).collect()
    }

    /// The entity of a fact.
    pub fn entity(&self, fact: Fact) -> &Entity {
        &self.entities[fact.entity]
    }

    /// The attribute of a fact.
    pub fn attribute(&self, fact: Fact) -> &'static Attribute {
        &self.entity(fact).kind.attributes()[fact.attribute]
    }

    /// The value of a fact.
    pub fn value(&self, fact: Fact) -> &str {
        &self.entity(fact).values[fact.attribute]
    }

    /// One of the sentences that state a fact.
    pub fn statement(&self, fact: Fact, rng: &mut StreamRng) -> String {
        let phrase = pick(rng, self.attribute(fact).statements);
        capitalised(&phrase.replace("{e}", &self.entity(fact).name).replace("{v}", self.value(fact)))
    }

    /// The question about a fact in phrasing `number` (modulo the number of phrasings).
    pub fn question(&self, fact: Fact, number: usize) -> String {
        let questions = self.attribute(fact).questions;
        questions[number % questions.len()].replace("{e}", &self.entity(fact).name)
    }
}
