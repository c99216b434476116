//! `harness.toml`: what is wrong in it is named with its place.

use super::{snapshot, world};

/// Runs with an experiment made of the usual one and a change.
fn wrong(change: impl Fn(&str) -> String) -> String {
    let world = world();
    world.write("harness.toml", change(&world.read("harness.toml")));
    let call = ["models", "show", "base"];
    let outcome = world.run(&call).expect(2);
    world.hide_path(&outcome.transcript(&call))
}

#[test]
fn files_that_are_wrong() {
    let cases = [
        wrong(|text| text.replace("resamples", "resample")),
        wrong(|text| text.replace("[models.a4]\nadapter", "[models.a4]\nadaptor")),
        wrong(|text| text.replace("resamples = 200", "resamples = \"many\"")),
        wrong(|text| format!("{text}correction = \"holmes\"\n")),
        wrong(|text| format!("{text}[models\n")),
        wrong(|text| text.replace("path = \"models/base\"", "path = \"models/base\"\ngguf = \"base.gguf\"")),
        wrong(|text| text.replace("path = \"models/base\"\n", "")),
        wrong(|text| {
            text.replace("base = \"base\"\n[suites", "[suites")
                .replace("recipe = \"recipes/r4.toml\"", "adapter = \"adapters/a4\"")
        }),
        wrong(|text| text.replace("suite = \"toy\"", "suite = \"toys\"")),
    ];
    snapshot("wrong_experiments", &cases.join("\n"));
}

#[test]
fn a_missing_file_that_was_named() {
    let world = world();
    world.run(&["models", "list", "--experiment", "other.toml"]).expect(2).says(&["other.toml"]);
}

#[test]
fn models_that_are_based_on_each_other() {
    let world = world();
    world.write(
        "harness.toml",
        "[models.a]\nadapter = \"adapters/a4\"\nbase = \"b\"\n[models.b]\nadapter = \"adapters/a8\"\nbase = \"a\"\n",
    );
    world.run(&["models", "show", "a"]).expect(2).says(&["a -> b -> a"]);
}

#[test]
fn an_adapter_on_an_adapter_is_refused() {
    let world = world();
    world.replace(
        "harness.toml",
        "adapter = \"adapters/a8\"\nbase = \"base\"",
        "adapter = \"adapters/a8\"\nbase = \"a4\"",
    );
    world.run(&["generate", "a8", "-p", "x"]).expect(2).says(&["adapters/a8", "a4", "expected a whole model"]);
}

#[test]
fn a_base_that_is_not_there() {
    let world = world();
    world.replace(
        "harness.toml",
        "adapter = \"adapters/a8\"\nbase = \"base\"",
        "adapter = \"adapters/a8\"\nbase = \"bas\"",
    );
    world.run(&["generate", "a8", "-p", "x"]).expect(2).says(&["\"bas\"", "\"base\""]);
}

#[test]
fn settings_that_cannot_be_are_refused_before_anything_is_computed() {
    for (key, value) in [("confidence", "1.5"), ("alpha", "0.0"), ("margin", "-0.1")] {
        let world = world();
        world.replace("harness.toml", "resamples = 200", &format!("resamples = 200\n{key} = {value}"));
        let outcome = world.run(&["compare", "base", "a4"]).expect(2);
        assert!(outcome.stderr.contains(key), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("evaluate"), "{}", outcome.stderr);
    }
}

#[test]
fn found_in_a_folder_above() {
    let world = world();
    std::fs::create_dir(world.path("below")).unwrap();
    let mut command = world.command(&["run", "base", "-t", "toy_choice", "-L", "2"]);
    let output = command.current_dir(world.path("below")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(world.path(".harness/store").is_dir(), "the store lies beside the experiment");
}

#[test]
fn harness_home_moves_the_store() {
    let world = world();
    let mut command = world.command(&["run", "base", "-t", "toy_choice", "-L", "2"]);
    let output = command.env("HARNESS_HOME", world.path("elsewhere")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(world.path("elsewhere/store").is_dir() && !world.path(".harness").exists());
}
