//! `harness chat` with piped input.

use super::world;

const CALL: [&str; 4] = ["chat", "base", "--max-new-tokens", "5"];

#[test]
fn answers_every_line() {
    let world = world();
    let outcome = world.run_with_input(&CALL, "Hello\n\nAnd now?\n").expect(0);
    assert_eq!(outcome.stdout.lines().count(), 2, "{:?}", outcome.stdout);
    let first = world.run(&["generate", "base", "-p", "Hello", "--chat", "--max-new-tokens", "5"]).expect(0).stdout;
    assert_eq!(outcome.stdout.lines().next(), first.lines().next());
}

#[test]
fn remembers_until_reset() {
    let world = world();
    let lines = |input: &str| -> Vec<String> {
        world.run_with_input(&CALL, input).expect(0).stdout.lines().map(str::to_owned).collect()
    };
    let reset = lines("Hello\n/reset\nHello\n");
    assert_eq!((reset.len(), &reset[0]), (2, &reset[1]));
    let both = lines("Hello\nHello\n");
    assert_ne!(both[0], both[1], "the second answer knows the first");
}

#[test]
fn ends_at_exit() {
    let outcome = world().run_with_input(&CALL, "Hello\n/exit\nHello\n").expect(0);
    assert_eq!(outcome.stdout.lines().count(), 1, "{:?}", outcome.stdout);
}

#[test]
fn a_system_message_changes_the_answer() {
    let world = world();
    let plain = world.run_with_input(&CALL, "Hello\n").expect(0).stdout;
    let system = world.run_with_input(&[&CALL[..], &["--system", "You are a pirate."]].concat(), "Hello\n").expect(0);
    assert_ne!(plain, system.stdout);
}
