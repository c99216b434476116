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

#[test]
fn the_experiment_may_name_another_template() {
    let world = world();
    let call = ["chat", "base", "--max-new-tokens", "5"];
    let own = world.run_with_input(&call, "Hello\n").expect(0).stdout;
    let experiment = world.read("harness.toml");
    let section = "path = \"models/base\"\n";
    world
        .write("harness.toml", experiment.replacen(section, &format!("{section}chat_template = \"other.jinja\"\n"), 1));
    world.write("other.jinja", "{% for message in messages %}<<{{ message.content }}>>{% endfor %}");
    let other = world.run_with_input(&call, "Hello\n").expect(0).stdout;
    assert_ne!(own, other);
    let plain = world.run(&["generate", "base", "-p", "<<Hello>>", "--max-new-tokens", "5"]).expect(0).stdout;
    assert_eq!(other, plain, "the template's text is what the model continues");
    world.write("other.jinja", "{% for message in messages %}");
    world.run_with_input(&call, "Hello\n").expect(2).says(&["other.jinja"]);
}
