//! `harness generate`.

use super::world;

#[test]
fn prints_the_completion_only() {
    let world = world();
    let call = ["generate", "base", "--prompt", "Anna has", "--max-new-tokens", "8"];
    let outcome = world.run(&call).expect(0);
    assert!(outcome.stdout.trim().len() > 1 && outcome.stdout.ends_with('\n'), "{:?}", outcome.stdout);
    assert!(!outcome.stdout.contains("Anna has"), "{:?}", outcome.stdout);
    assert_eq!(world.run(&call).expect(0).stdout, outcome.stdout, "greedy is always the same");
}

#[test]
fn json_holds_tokens_and_log_probabilities() {
    let world = world();
    let call = ["generate", "base", "-p", "Anna has", "--max-new-tokens", "8"];
    let text = world.run(&call).expect(0).stdout;
    let object = world.run(&[&call[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(object["model"], "base");
    let completion = &object["completions"][0];
    assert_eq!(completion["prompt"], "Anna has");
    let output = &completion["response"]["output"];
    assert_eq!(output["text"].as_str().unwrap(), text.strip_suffix('\n').unwrap());
    let logprobs = output["token_logprobs"].as_array().unwrap();
    assert_eq!((output["token_ids"].as_array().unwrap().len(), logprobs.len()), (8, 8));
    assert!(logprobs.iter().all(|p| p.as_f64().unwrap() < 0.0));
}

#[test]
fn prompts_from_standard_input_give_a_line_each() {
    let world = world();
    let call = ["generate", "base", "-p", "-", "--max-new-tokens", "6"];
    let outcome = world.run_with_input(&call, "Anna has\nBen gives\nThe end\n").expect(0);
    assert_eq!(outcome.stdout.lines().count(), 3, "{:?}", outcome.stdout);
    for (line, prompt) in outcome.stdout.lines().zip(["Anna has", "Ben gives", "The end"]) {
        let alone = world.run(&["generate", "base", "-p", prompt, "--max-new-tokens", "6"]).expect(0).stdout;
        assert_eq!(line, alone.trim_end_matches('\n').replace('\n', "\\n"), "{prompt}");
    }
    let one = world.run_with_input(&call, "Anna has\n").expect(0);
    assert_eq!(one.stdout.lines().next(), outcome.stdout.lines().next());
    let object = world.run_with_input(&[&call[..], &["--json"]].concat(), "Anna has\nBen gives\n").expect(0).json();
    assert_eq!(object["completions"].as_array().unwrap().len(), 2);
    world.run_with_input(&call, "").expect(2).says(&["no prompts on standard input"]);
}

#[test]
fn ends_at_a_stop_string_and_leaves_it_out() {
    let world = world();
    let call = ["generate", "base", "-p", "Anna has", "--max-new-tokens", "24"];
    let text = world.run(&call).expect(0).stdout;
    let text = text.trim_end_matches('\n');
    let middle: String = text.chars().skip(6).take(3).collect();
    let outcome = world.run(&[&call[..], &["--stop", &middle]].concat()).expect(0);
    assert_eq!(outcome.stdout.trim_end_matches('\n'), &text[..text.find(&middle).unwrap()]);
    let twice = world.run(&[&call[..], &["--stop", "never said", "--stop", &middle]].concat()).expect(0);
    assert_eq!(twice.stdout, outcome.stdout);
}

#[test]
fn sampling_depends_on_the_seed_only() {
    let world = world();
    let sample = |seed: &str| {
        let call = ["generate", "base", "-p", "Anna", "--temperature", "1.5", "--seed", seed, "--max-new-tokens", "16"];
        world.run(&call).expect(0).stdout
    };
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
    let call = ["generate", "base", "-p", "Anna", "--temperature", "1.5", "--top-k", "1", "--max-new-tokens", "16"];
    let greedy = ["generate", "base", "-p", "Anna", "--max-new-tokens", "16"];
    assert_eq!(world.run(&call).expect(0).stdout, world.run(&greedy).expect(0).stdout, "top-k 1 is greedy");
}

#[test]
fn the_chat_template_wraps_the_prompt() {
    let world = world();
    let call =
        ["generate", "base", "-p", "Hello", "--chat", "--system", "Be brief.", "--json", "--max-new-tokens", "2"];
    let object = world.run(&call).expect(0).json();
    assert_eq!(object["completions"][0]["rendered"], "<system> Be brief.\n<user> Hello\n<assistant> ");
    world.run(&["generate", "base", "-p", "Hello", "--system", "x"]).expect(2).says(&["--chat"]);
}

#[test]
fn a_model_without_a_chat_template_cannot_chat() {
    let world = world();
    world.replace("models/base/tokenizer_config.json", "\"chat_template\"", "\"no_template\"");
    world.run(&["generate", "base", "-p", "Hello", "--chat"]).expect(2).says(&["chat template"]);
    world.run(&["chat", "base"]).expect(2).says(&["base has no chat template", "harness generate"]);
}

#[test]
fn adapters_change_what_is_said() {
    let world = world();
    let say = |model: &str| world.run(&["generate", model, "-p", "Anna", "--max-new-tokens", "24"]).expect(0).stdout;
    assert_eq!(say("base"), say("zero"));
    assert_ne!(say("base"), say("a8"));
    assert_eq!(say("a8"), say("a8"));
}
