//! `harness train`.

use std::path::Path;

use serde_json::Value;

use super::{snapshot, world};
use harness_test_support::World;

/// The run's folder, which is all that is printed.
fn trained(world: &World, call: &[&str]) -> String {
    let folder = world.run(call).expect(0).stdout.trim().to_owned();
    assert!(Path::new(&folder).is_absolute() || world.path(&folder).is_dir(), "{folder}");
    folder
}

#[test]
fn writes_an_adapter_with_its_lineage() {
    let world = world();
    let folder = trained(&world, &["train", "r4"]);
    for file in
        ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "training.json", "data/train.jsonl"]
    {
        assert!(world.path(&folder).join(file).is_file(), "{file}");
    }
    let config: Value = serde_json::from_str(&world.read(&format!("{folder}/adapter_config.json"))).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["peft_type"]), (&4.into(), &8.into(), &"LORA".into()));
    let manifest: Value = serde_json::from_str(&world.read(&format!("{folder}/training.json"))).unwrap();
    for key in ["run", "recipe", "recipe_hash", "data", "base", "tokenizer_hash", "summary"] {
        assert!(!manifest[key].is_null(), "{key} in {manifest}");
    }
    // It can be used as a model, by name and by path.
    world.run(&["generate", "r4", "-p", "x", "--max-new-tokens", "2"]).expect(0);
    world.run(&["generate", &folder, "-p", "x", "--max-new-tokens", "2"]).expect(0);
}

#[test]
fn draws_loss_perplexity_and_learning_rate() {
    let world = world();
    let folder = world.path(trained(&world, &["train", "r4"]));
    let pictures = |end: &str| {
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|e| e == end)).count()
    };
    assert!(pictures("svg") > 0, "SVG plots in {}", folder.display());
    assert!(pictures("png") > 0, "PNG plots in {}", folder.display());
}

#[test]
fn is_done_once() {
    let world = world();
    trained(&world, &["train", "r4"]);
    world.run(&["train", "r4"]).expect(0).says(&["already exists", "--force"]);
    let object = world.run(&["train", "r4", "--json"]).expect(0).json();
    assert_eq!(object["trained"], false);
    world.run(&["train", "r4", "--resume"]).expect(0).says(&["already exists"]);
}

#[test]
fn gives_the_same_bytes_every_time() {
    let world = world();
    let folder = trained(&world, &["train", "r4"]);
    let weights = format!("{folder}/adapter_model.safetensors");
    let first = world.bytes(&weights);
    assert_eq!(trained(&world, &["train", "r4", "--force"]), folder);
    assert_eq!(world.bytes(&weights), first);
    let mut command = world.command(&["train", "r4", "--force"]);
    assert!(command.env("RAYON_NUM_THREADS", "1").output().unwrap().status.success());
    assert!(world.bytes(&weights) == first, "with one thread");
}

#[test]
fn dry_run_writes_nothing() {
    let world = world();
    let outcome = world.run(&["train", "r4", "--dry-run"]).expect(0);
    snapshot("train_dry_run", &world.hide_path(&outcome.stdout));
    assert!(!world.path(".harness/models").exists());
    let object = world.run(&["train", "r4", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(object["estimate"]["steps"], 6);
    // Rank 4 on q, k, v, o, gate, up and down of two blocks of width 32, 64 within, 16 for keys and values.
    let per_block = 4 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 64) + (64 + 32));
    assert_eq!(object["estimate"]["trainable_parameters"], 2 * per_block);
}

#[test]
fn estimates_time_and_memory() {
    let outcome = world().run(&["train", "r4", "--dry-run"]).expect(0);
    for word in ["tokens", "updates", "trainable parameters", "memory", "time"] {
        assert!(outcome.stdout.contains(word), "{word}:\n{}", outcome.stdout);
    }
}

#[test]
fn a_recipe_file_and_a_place_of_ones_own() {
    let world = world();
    let call = ["train", "recipes/r4.toml", "--base", "other", "--out", "mine", "--max-steps", "2"];
    trained(&world, &call);
    let metrics = world.read("mine/metrics.jsonl");
    assert!(metrics.contains("\"step\":2") && !metrics.contains("\"step\":3"), "{metrics}");
    let config: Value = serde_json::from_str(&world.read("mine/adapter_config.json")).unwrap();
    assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("models/other"), "{config}");
}

#[test]
fn resume_needs_a_checkpoint() {
    world().run(&["train", "r4", "--resume"]).expect(2).says(&["--resume", "contains no checkpoint"]);
}

#[test]
fn a_changed_recipe_is_another_run() {
    let world = world();
    let first = trained(&world, &["train", "r4"]);
    world.replace("recipes/r4.toml", "max_steps = 6", "max_steps = 4");
    let second = trained(&world, &["train", "r4"]);
    assert_ne!(first, second);
}

#[test]
fn recipes_that_are_wrong() {
    let change = |from: &str, to: &str| {
        let world = world();
        world.replace("recipes/r4.toml", from, to);
        let call = ["train", "r4", "--dry-run"];
        let outcome = world.run(&call).expect(2);
        assert!(!world.path(".harness/models").exists());
        world.hide_path(&outcome.transcript(&call))
    };
    let cases = [
        change("max_steps", "max_step"),
        change("rank = 4", "rank = 0"),
        change("rank = 4", "rank = \"four\""),
        change("method = \"lora\"", "method = \"qlora\""),
        change("learning_rate = 1e-3", "learning_rate = -1.0"),
        change("learning_rate = 1e-3\n", ""),
        change("max_steps = 6\n", ""),
        change("max_length = 256", "max_length = 4096"),
        change("template = \"instruction\"", "template = \"instructions\""),
        change("../data/instructions.jsonl", "../data/nothing.jsonl"),
        change("[lora]\nrank = 4\nalpha = 8\n", ""),
        change("max_length = 256", "max_length = 256\ndrop_empty = [\"answer\"]"),
        change("[lora]", "[lora]\ntargets = [\"q_projj\"]"),
        change("[training]", "[training"),
    ];
    snapshot("wrong_recipes", &cases.join("\n"));
    let world = world();
    world.run(&["train", "recipes/none.toml"]).expect(2).says(&["recipes/none.toml"]);
}

#[test]
fn a_grid_is_trained_and_reported() {
    let world = world();
    world.replace("recipes/r4.toml", "batch_size = 2", "batch_size = 1\ngradient_accumulation_steps = 2");
    let grid = "recipes = [\"recipes/r4.toml\"]\nbases = [\"base\"]\nmax_steps = 2\n[set]\n\"lora.rank\" = [2, 16]\n";
    world.write("grid.toml", grid);
    let call = ["train", "--matrix", "grid.toml", "--out", "grid", "--quiet"];
    let object = world.run(&[&call[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(object["runs"], serde_json::json!(["r4-rank_2", "r4-rank_16"]));
    let before = world.bytes("grid/r4-rank_2/training.json");
    world.run(&call).expect(0);
    assert!(before == world.bytes("grid/r4-rank_2/training.json"), "what is done is not done again");

    let outcome = world.run(&["report", "training", "grid", "--out", "report"]).expect(0);
    let rows: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("| r4-rank_")).collect();
    assert!(rows.len() == 2 && rows[0].starts_with("| r4-rank_2 "), "{}", outcome.stdout);
    for head in ["Loss", "Eval loss", "Perplexity", "Epoch, s", "Samples/s", "Tokens/s", "Peak memory", "Speed-up"] {
        assert!(outcome.stdout.contains(head), "{head}:\n{}", outcome.stdout);
    }
    for file in ["training.md", "training.csv", "training.tex", "training.json", "loss.svg", "loss.png"] {
        assert!(world.path("report").join(file).is_file(), "{file}");
    }
    let csv = world.read("report/training.csv");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    world.run(&["report", "training", "grid", "--baseline", "r4-rank_3"]).expect(2).says(&["did you mean"]);
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let world = world();
    trained(&world, &["train", "r4", "--max-steps", "2", "--out", "mine"]);
    let another = ["train", "r4", "--max-steps", "2", "--out", "mine", "--set", "lora.rank=2"];
    world.run(&another).expect(2).says(&["--out mine", "contains the result of another run (r4)", "--force"]);
    world.write("mine/notes.txt", "mine");
    world.run(&[&another[..], &["--force"]].concat()).expect(2).says(&["notes.txt", "not written by a training run"]);
    assert_eq!(world.read("mine/notes.txt"), "mine");
    std::fs::remove_file(world.path("mine/notes.txt")).unwrap();
    world.run(&[&another[..], &["--force"]].concat()).expect(0);
}

#[test]
fn a_grid_is_outlined_before_it_is_run() {
    let world = world();
    world.replace("recipes/r4.toml", "batch_size = 2", "batch_size = 1\ngradient_accumulation_steps = 2");
    world.write("grid.toml", "recipes = [\"recipes/r4.toml\"]\nbases = [\"none\"]\nranks = [1, 2]\n");
    let call = ["train", "--matrix", "grid.toml", "--out", "grid", "--base", "base", "--dry-run"];
    let said = world.run(&call).expect(0).stdout;
    assert!(said.contains("| r4-2 ") && said.contains("Trained parameters"), "{said}");
    let plans = world.run(&[&call[..], &["--json"]].concat()).expect(0).json()["plans"].clone();
    assert_eq!((&plans["r4-1"]["ranks"], &plans["r4-2"]["ranks"]), (&1.into(), &2.into()));
    assert!(!world.path("grid").exists());
    world.replace("grid.toml", "[1, 2]", "[1, 3]");
    world.run(&["train", "--matrix", "grid.toml", "--base", "base"]).expect(2).says(&["multiple of the 3 ranks"]);
    world.write("grid.toml", "recipes = [\"recipes/r4.toml\"]\nset = { \"lora.rank\" = [0] }\n");
    world.run(&["train", "--matrix", "grid.toml", "--base", "base"]).expect(2).says(&["lora.rank", "at least 1"]);
    assert!(!world.path("grid").exists());
}

#[test]
fn updates_left_out_are_told() {
    let world = world();
    let scale = ["--set", "training.precision=fp16", "--set", "training.loss_scale=1e28"];
    let outcome = world.run(&[&["train", "r4", "--out", "runs/half"], &scale[..]].concat()).expect(0);
    outcome.says(&["step 1: update skipped: the gradients overflow half precision", "6 updates skipped"]);
    assert!(world.run(&["report", "training", "runs"]).expect(0).stdout.contains("| Skipped |"));
    let stop = ["--set", "training.early_stopping_patience=1", "--set", "training.early_stopping_threshold=9.0"];
    let call = [&["train", "r4", "--out", "runs/early"], &stop[..]].concat();
    world.run(&call).expect(0).says(&["stopped early of 6"]);
}

#[test]
fn keys_of_a_recipe_can_be_set() {
    let world = world();
    let set = |text: &str| world.run(&["train", "r4", "--dry-run", "--json", "--set", text]);
    let estimate = set("lora.rank=2").expect(0).json();
    assert_eq!(estimate["run"]["recipe"]["lora"]["rank"], 2);
    assert_eq!(set("training.schedule=constant").expect(0).json()["run"]["recipe"]["training"]["schedule"], "constant");
    let refused = |text: &str| world.run(&["train", "r4", "--dry-run", "--set", text]).expect(2);
    refused("lora.rank=0").says(&["recipes/r4.toml", "lora.rank = 0", "at least 1"]);
    refused("lora.rnak=2").says(&["rnak", "did you mean"]);
    refused("rank").says(&["--set rank", "KEY=VALUE"]);
}

#[test]
fn a_paged_optimizer_is_the_same_run() {
    let world = world();
    let paged = world.run(&["train", "r4", "--set", "training.paged_optimizer=true"]).expect(0);
    let paged = paged.says(&["training.paged_optimizer has no effect on the processor"]);
    let again = world.run(&["train", "r4"]).expect(0).says(&["already exists"]);
    assert_eq!(paged.stdout, again.stdout);
}

#[test]
fn preferences_are_trained_on() {
    let world = world();
    let rows: Vec<Value> = (0..40)
        .map(|i| serde_json::json!({"prompt": format!("Say {i}:"), "chosen": " yes", "rejected": " no, never"}))
        .collect();
    world.write("data/pairs.jsonl", harness_test_support::tasks::lines(&rows));
    world.replace("recipes/r4.toml", "../data/instructions.jsonl", "../data/pairs.jsonl");
    world.replace("recipes/r4.toml", "template = \"instruction\"", "template = \"preference\"");
    world.replace("recipes/r4.toml", "[lora]", "[dpo]\nbeta = 0.5\n[lora]");
    world.replace("recipes/r4.toml", "learning_rate = 1e-3", "learning_rate = 2e-2");
    let folder = trained(&world, &["train", "r4"]);
    let lines = world.read(&format!("{folder}/metrics.jsonl"));
    let losses: Vec<f64> =
        lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["eval_loss"].as_f64()).collect();
    // The first one is below ln 2 already, which is the loss of the base.
    assert!(losses[0] < std::f64::consts::LN_2 && losses[2] < losses[0], "{losses:?}");
    world.run(&["generate", &folder, "-p", "Say 3:", "--max-new-tokens", "2"]).expect(0);
    world.replace("recipes/r4.toml", "template = \"preference\"", "template = \"plain\"");
    world.run(&["train", "r4", "--dry-run"]).expect(2);
}

#[test]
fn a_base_that_training_does_not_know_is_refused_before_anything_is_read() {
    let world = world();
    let mut config: Value = serde_json::from_str(&world.read("models/base/config.json")).unwrap();
    config["model_type"] = "mixtral".into();
    config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    world.write("models/moe/config.json", config.to_string());
    world.write("data/instructions.jsonl", "no JSON");
    let all =
        world.read("recipes/r4.toml").replace("\"lora\"", "\"full\"").replace("[lora]\nrank = 4\nalpha = 8\n", "");
    world.write("recipes/all.toml", all);
    world.write("grid.toml", "recipes = [\"recipes/all.toml\"]\nbases = [\"models/moe\"]\n");
    let refused = |call: &[&str]| {
        let outcome = world.run(call).expect(2);
        outcome.says(&[
            "training all parameters of models with a mixture of experts is not supported",
            "architecture mixtral",
        ]);
        assert!(!world.path(".harness/models").exists() && !world.path(".harness/prepared").exists());
    };
    // The shape alone, for which a plan is made by formula.
    let train = ["train", "recipes/all.toml", "--base", "models/moe"];
    refused(&[&train[..], &["--dry-run"]].concat());
    refused(&["train", "--matrix", "grid.toml", "--dry-run"]);
    // A whole model, whose weights nothing looks at.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        world.write(&format!("models/moe/{file}"), world.read(&format!("models/base/{file}")));
    }
    world.write("models/moe/model.safetensors", "no weights");
    refused(&train);
    refused(&[&train[..], &["--dry-run"]].concat());
    refused(&["train", "--matrix", "grid.toml"]);
    let section =
        "\n[models.moe]\npath = \"models/moe\"\n[models.of_moe]\nrecipe = \"recipes/all.toml\"\nbase = \"moe\"\n";
    world.write("harness.toml", world.read("harness.toml") + section);
    // Not even the other candidate is trained.
    refused(&["compare", "base", "r4", "of_moe", "--tasks", "toy_choice"]);
}

#[test]
fn what_is_no_text_is_not_trained_on() {
    let world = world();
    let rows = |response: Value| {
        let mut rows: Vec<Value> = (0..39)
            .map(|i| serde_json::json!({"instruction": format!("Say {i}."), "response": format!("{i}"), "source": "x"}))
            .collect();
        rows.insert(6, serde_json::json!({"instruction": "Say it.", "response": response}));
        harness_test_support::tasks::lines(&rows)
    };
    for (response, found) in [
        (Value::Null, "is null"),
        (serde_json::json!(["a", "b"]), "holds a list"),
        (serde_json::json!({"text": "a"}), "holds an object"),
    ] {
        // An empty line is no row, but counts as a line.
        world.write("data/instructions.jsonl", format!("\n{}", rows(response)));
        let says = format!("instructions.jsonl: line 8: column \"response\" {found}");
        for call in [&["train", "r4"][..], &["train", "r4", "--dry-run"], &["data", "prepare", "r4"]] {
            world.run(call).expect(2).says(&[&says, "1 of 40 rows is unusable", "data.unusable_rows = \"drop\""]);
        }
    }
    assert!(!world.path(".harness/models").exists());
    world.replace("recipes/r4.toml", "[lora]", "unusable_rows = \"drop\"\n[lora]");
    world.write("data/instructions.jsonl", rows(Value::Null));
    let reason =
        "column \"response\" is null, and template <instruction> prints it in completion, where text is needed";
    let left_out = format!("1 row left out: {reason}");
    let said = world.run(&["data", "prepare", "r4"]).expect(0).stdout;
    assert!(said.contains(&left_out) && said.contains("39 rows: column \"source\" is not used"), "{said}");
    let outcome = world.run(&["train", "r4"]).expect(0);
    let folder = outcome.says(&[&format!("data: {left_out}")]).stdout.trim().to_owned();
    let record: Value = serde_json::from_str(&world.read(&format!("{folder}/training.json"))).unwrap();
    assert_eq!((&record["rows"]["unusable"][reason], &record["rows"]["source"]), (&1.into(), &40.into()));
    assert!(!world.read(&format!("{folder}/data/train.jsonl")).contains("None"));
}
