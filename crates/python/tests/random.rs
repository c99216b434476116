//! CPython's generator against draws made by CPython 3.11.

use harness_python::PythonRandom;
use harness_test_support::vectors;
use serde_json::{Value, json};

fn answer(input: &Value) -> Option<Value> {
    let mut rng = match &input["seed"] {
        Value::String(text) => PythonRandom::from_text(text),
        seed => PythonRandom::from_int(seed.as_i64()?),
    };
    let size = |name: &str| input[name].as_u64().map(|n| n as usize);
    let op = input["op"].as_str()?;
    Some(match op.split(['(', ' ']).next()? {
        "random" => {
            let count: usize = op.split('x').next_back()?.parse().ok()?;
            json!((0..count).map(|_| rng.random()).collect::<Vec<_>>())
        }
        "getrandbits" => {
            let mut draws: Vec<u64> = (0..4).map(|_| rng.getrandbits(32)).collect();
            draws.extend([rng.getrandbits(53), rng.getrandbits(7)]);
            json!(draws)
        }
        "sample" => json!((0..3).map(|_| rng.sample(size("n").unwrap(), size("k").unwrap())).collect::<Vec<_>>()),
        "choices" => json!((0..2).map(|_| rng.choices(size("n").unwrap(), size("n").unwrap())).collect::<Vec<_>>()),
        "shuffle" => {
            let mut items: Vec<usize> = (0..size("n")?).collect();
            rng.shuffle(&mut items);
            json!(items)
        }
        "randrange" => {
            let (a, b) = (rng.below(10), 1 + rng.below(6));
            let uniform = 2.0 * rng.random();
            let letter = ["a", "b", "c", "d", "e"][rng.below(5)];
            json!([a, b, uniform, letter])
        }
        _ => return None,
    })
}

#[test]
fn draws_equal_cpython() {
    let Some(cases) = vectors("python_random") else { return };
    for case in cases {
        let found = answer(&case.input).unwrap_or_else(|| panic!("{}: unknown operation {}", case.id, case.input));
        assert_eq!(found, case.expected, "{} {}", case.id, case.input);
    }
}
