//! A run store that was damaged, or is shared.

use std::fs;

use super::world;

const CALL: [&str; 2] = ["run", "base"];

#[test]
fn a_torn_segment_costs_its_last_record_only() {
    let world = world();
    let whole = world.run(&CALL).expect(0);
    let segment = world.segments().pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 10]).unwrap();
    let outcome = world.run(&CALL).expect(0).says(&["store of base", "1 request,"]);
    assert_eq!(outcome.stdout, whole.stdout);
    world.run(&CALL).expect(0).says(&["all 60 responses are stored"]);
}

#[test]
fn a_changed_record_is_noticed_and_asked_again() {
    let world = world();
    let whole = world.run(&CALL).expect(0);
    let segment = world.segments().pop().unwrap();
    let text = fs::read_to_string(&segment).unwrap();
    let (number, line) = text.lines().enumerate().find(|(_, line)| line.contains("\"logprob\":-")).unwrap();
    let changed = line.replacen("\"logprob\":-", "\"logprob\":-1", 1);
    fs::write(&segment, text.replacen(line, &changed, 1)).unwrap();
    let place = format!("{}", number + 1);
    let outcome = world.run(&CALL).expect(0).says(&["store of base", &place, "1 request,"]);
    assert_eq!(outcome.stdout, whole.stdout);
}

#[test]
fn garbage_between_records_is_passed_over() {
    let world = world();
    let whole = world.run(&CALL).expect(0);
    let segment = world.segments().pop().unwrap();
    let text = fs::read(&segment).unwrap();
    fs::write(&segment, [b"\xff\xfe no record\n\n{}\n", &text[..]].concat()).unwrap();
    let outcome = world.run(&CALL).expect(0).says(&["store of base", "all 60 responses are stored"]);
    assert_eq!(outcome.stdout, whole.stdout);
}

#[test]
fn from_store_says_what_a_damage_took() {
    let world = world();
    world.run(&["compare", "base", "a4"]).expect(0);
    let segment = world.segments().pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() / 2]).unwrap();
    let call = ["compare", "base", "a4", "--from-store"];
    world.run(&call).expect(2).says(&["of 60 responses", "are not stored", "run without --from-store"]);
}

#[test]
fn two_processes_share_a_store() {
    let alone = world().run(&["compare", "base", "a4", "a8"]).expect(0);
    let world = world();
    let call = ["compare", "base", "a4", "a8"];
    let (first, second) = (world.start("first", &call), world.start("second", &call));
    let (first, second) = (world.finish("first", first).expect(0), world.finish("second", second).expect(0));
    assert_eq!(first.stdout, alone.stdout);
    assert_eq!(second.stdout, alone.stdout);
    let from_store = world.run(&["compare", "base", "a4", "a8", "--from-store"]).expect(0);
    assert_eq!(from_store.stdout, alone.stdout);
    assert!(!from_store.stderr.contains("store of"), "no record is damaged: {}", from_store.stderr);
}

#[test]
fn another_model_of_the_same_name_gets_answers_of_its_own() {
    let world = world();
    let first = world.run(&CALL).expect(0);
    world.copy("models/other", "models/base");
    let second = world.run(&CALL).expect(0).says(&["60 requests"]);
    assert_ne!(first.stdout, second.stdout);
    assert_eq!(world.stored(), 120);
}

/// Every byte of the store was appended in its order, so a run that is killed at any moment leaves a beginning of it.
#[test]
fn a_run_resumes_from_a_hundred_random_points() {
    let world = world();
    let call = ["run", "base", "--out", "samples"];
    let files =
        ["samples/samples_toy_choice.jsonl", "samples/samples_toy_answer.jsonl", "samples/samples_toy_text.jsonl"];
    let results = |stdout: String| (stdout, files.map(|file| world.bytes(file)));
    let whole = results(world.run(&call).expect(0).stdout);
    let segment = world.segments().pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    // A fixed linear congruential generator (Knuth): the points are the same in every run.
    let mut state = 20_261_122u64;
    for point in 0..100 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let cut = (state >> 33) as usize % bytes.len();
        world.segments().iter().for_each(|path| fs::remove_file(path).unwrap());
        fs::write(&segment, &bytes[..cut]).unwrap();
        let found = results(world.run(&call).expect(0).stdout);
        assert!(found == whole, "point {point}, after {cut} bytes");
        assert!(world.stored() >= 60, "point {point}: nothing is missing");
    }
}

#[test]
fn a_changed_template_is_another_model() {
    let world = world();
    world.run(&CALL).expect(0).says(&["60 requests"]);
    world.run(&CALL).expect(0).says(&["all 60 responses are stored"]);
    world
        .write("models/base/chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    world.run(&CALL).expect(0).says(&["60 requests"]);
    assert_eq!(world.stored(), 120);
}

#[test]
fn a_changed_adapter_is_another_model() {
    let world = world();
    let call = ["run", "a4"];
    let first = world.run(&call).expect(0);
    world.copy("adapters/a8", "adapters/a4");
    let second = world.run(&call).expect(0).says(&["60 requests"]);
    assert_ne!(first.stdout, second.stdout);
}
