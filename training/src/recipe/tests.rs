//! Tests of reading and refusing recipes.

use std::path::Path;

use super::*;

const LORA: &str = r#"name = "r8"
method = "lora"

[data]
source = "rows.jsonl"
drop_empty = ["response"]

[lora]
rank = 8
alpha = 16
targets = ["q_proj", "v_proj"]

[training]
epochs = 2
learning_rate = 2e-4
"#;

const FULL: &str = r#"name = "tiny"
method = "full"
[data]
dataset = "world"
split = [0.9, 0.1, 0.0]
max_length = 128
[model]
tokenizer = "tok"
hidden_size = 128
intermediate_size = 256
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 128
[training]
max_steps = 10
learning_rate = 1e-3
"#;

fn parse(text: &str) -> Result<Recipe, TrainingError> {
    Recipe::parse(text, Path::new("dir/recipe.toml"))
}

/// The message for a recipe in which one text is replaced by another.
fn refused(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in the recipe");
    parse(&text.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn fills_in_defaults() {
    let recipe = parse(LORA).unwrap();
    assert_eq!((recipe.data.shuffle_seed, recipe.data.max_length, recipe.data.loss), (42, 1024, Loss::Completion));
    assert_eq!(recipe.data.split, SplitFractions { train: 0.8, validation: 0.1, test: 0.1 });
    let lora = recipe.lora.as_ref().unwrap();
    assert_eq!((lora.scale(), lora.init, lora.dropout), (2.0, LoraInit::Kaiming, 0.0));
    assert_eq!(lora.targets, Targets::Modules(vec!["q_proj".into(), "v_proj".into()]));
    assert_eq!((recipe.training.adam_beta2, recipe.training.schedule), (0.999, ScheduleKind::Cosine));
    assert_eq!(recipe.path("rows.jsonl"), Path::new("dir/rows.jsonl"));
    let full = parse(FULL).unwrap();
    let model = full.model.unwrap();
    assert_eq!((model.head_width(), model.kv_heads(), model.tie_word_embeddings), (32, 2, true));
    assert_eq!(model.config_json(500, Some(0), Some(1))["vocab_size"], 500);
}

#[test]
fn hash_ignores_form_and_sees_content() {
    let hash = parse(LORA).unwrap().hash();
    let same = LORA.replace("rank = 8\nalpha = 16", "# a comment\nalpha = 16.0\nrank = 8\ndropout = 0.0");
    assert_eq!(parse(&same).unwrap().hash(), hash);
    assert_eq!(Recipe::parse(LORA, Path::new("elsewhere/x.toml")).unwrap().hash(), hash);
    assert_ne!(parse(&LORA.replace("rank = 8", "rank = 9")).unwrap().hash(), hash);
}

#[test]
fn survives_serialisation() {
    for text in [LORA, FULL, &LORA.replace("[\"q_proj\", \"v_proj\"]", "\"all-linear\"")] {
        let recipe = parse(text).unwrap();
        let again = parse(&toml::to_string(&recipe).unwrap()).unwrap();
        assert_eq!(again, recipe);
    }
}

#[test]
fn unknown_keys_are_placed_and_corrected() {
    let message = refused(LORA, "rank = 8", "rnak = 8");
    assert!(message.starts_with("dir/recipe.toml:9:1: unknown field `rnak`"), "{message}");
    assert!(message.ends_with("did you mean `rank`?"), "{message}");
    let message = refused(LORA, "learning_rate", "learnign_rate");
    assert!(message.starts_with("dir/recipe.toml:15:1:") && message.contains("`learning_rate`?"), "{message}");
    let message = refused(LORA, "\"lora\"", "\"lorra\"");
    assert!(message.starts_with("dir/recipe.toml:2:10:") && message.contains("did you mean `lora`?"), "{message}");
    let message = refused(LORA, "[lora]", "[lroa]");
    assert!(message.starts_with("dir/recipe.toml:8:") && message.contains("did you mean `lora`?"), "{message}");
}

#[test]
fn syntax_and_types_are_placed() {
    assert!(refused(LORA, "rank = 8", "rank = ").starts_with("dir/recipe.toml:9:"));
    assert!(refused(LORA, "rank = 8", "rank = \"8\"").starts_with("dir/recipe.toml:9:8:"));
    assert!(refused(LORA, "rank = 8", "rank = -8").starts_with("dir/recipe.toml:9:8:"));
    assert!(refused(LORA, "[\"q_proj\", \"v_proj\"]", "3").contains("\"all-linear\", a list of module names"));
    assert!(refused(LORA, "[\"q_proj\", \"v_proj\"]", "\"all-liner\"").contains("did you mean \"all-linear\"?"));
    assert!(refused(LORA, "learning_rate = 2e-4", "").contains("missing field `learning_rate`"));
}

#[test]
fn impossible_values_are_placed() {
    let cases = [
        (LORA, "rank = 8", "rank = 0", "9:1: lora.rank: is 0"),
        (LORA, "alpha = 16", "alpha = 0", "10:1: lora.alpha: is 0"),
        (LORA, "alpha = 16", "alpha = 16\ndropout = 1.0", "11:1: lora.dropout: is 1"),
        (LORA, "[\"q_proj\", \"v_proj\"]", "[]", "11:1: lora.targets: names no module"),
        (LORA, "epochs = 2", "batch_size = 1", "13:2: training: has neither epochs nor max_steps"),
        (LORA, "epochs = 2", "epochs = 0", "14:1: training.epochs: is 0"),
        (
            LORA,
            "[training]",
            "[quantization]\nblock_size = 48\n[training]",
            "14:1: quantization.block_size: block_size is 48",
        ),
        (
            LORA,
            "epochs = 2",
            "epochs = 2\nearly_stopping_patience = 2",
            "15:1: training.early_stopping_patience: needs",
        ),
        (LORA, "epochs = 2", "epochs = 2\nsave_total_limit = 0", "15:1: training.save_total_limit: is 0"),
        (LORA, "[\"q_proj\", \"v_proj\"]", "[\"q_porj\"]", "11:1: lora.targets: \"q_porj\" matches no module"),
        (LORA, "[\"q_proj\", \"v_proj\"]", "\"all-liner\"", "11:1: lora.targets: \"all-liner\" matches no module"),
        (LORA, "epochs = 2", "max_steps = 0", "14:1: training.max_steps: is 0"),
        (LORA, "epochs = 2", "epochs = 2\nbatch_size = 0", "15:1: training.batch_size: is 0"),
        (LORA, "learning_rate = 2e-4", "learning_rate = nan", "15:1: training.learning_rate: is NaN"),
        (LORA, "epochs = 2", "epochs = 2\nwarmup_ratio = 1.5", "15:1: training.warmup_ratio: is 1.5"),
        (LORA, "source = \"rows.jsonl\"", "", "4:2: data: has neither source"),
        (LORA, "drop_empty", "dataset = \"x\"\ndrop_empty", "6:1: data.dataset: and data.source exclude"),
        (LORA, "drop_empty", "split = [0.8, 0.1, 0.2]\ndrop_empty", "6:1: data.split: [0.8, 0.1, 0.2] sums to"),
        (LORA, "drop_empty", "max_length = 1\ndrop_empty", "6:1: data.max_length: is 1"),
        (LORA, "name = \"r8\"", "name = \"../x\"", "1:1: name: is \"../x\""),
        (LORA, "method = \"lora\"", "method = \"full\"", "8:2: lora: has no meaning"),
        (FULL, "method = \"full\"", "method = \"lora\"", "2:1: method: is \"lora\", but there is no [lora]"),
        (FULL, "method", "base = \"x\"\nmethod", "2:1: base: and [model] exclude"),
        (FULL, "num_key_value_heads = 2", "num_key_value_heads = 3", "13:1: model.num_key_value_heads: is 3"),
        (FULL, "hidden_size = 128", "hidden_size = 130", "12:1: model.num_attention_heads: is 4"),
        (FULL, "max_length = 128", "max_length = 129", "6:1: data.max_length: is 129"),
    ];
    for (text, from, to, expected) in cases {
        let message = refused(text, from, to);
        assert!(message.starts_with(&format!("dir/recipe.toml:{expected}")), "{to}: {message}");
    }
}

#[test]
fn what_is_asked_for_otherwise_is_what_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    std::fs::write(&path, LORA.replace("rank = 8", "rank = 0")).unwrap();
    let load = |key: &str, value: toml::Value| Recipe::load_with(&path, &[(key.to_owned(), value)]);
    let recipe = load("lora.rank", 3.into()).unwrap();
    assert_eq!(recipe.lora.as_ref().unwrap().rank, 3);
    let error = recipe.problem("lora.rank", "is 3; expected at most 2").to_string();
    assert!(error.ends_with("r.toml: with lora.rank = 3: expected at most 2"), "{error}");
    let error = load("lora.alpha", 4.into()).unwrap_err().to_string();
    assert!(error.contains("r.toml:") && error.contains("lora.rank: is 0") && !error.contains("with"), "{error}");
    std::fs::write(&path, LORA).unwrap();
    let error = load("training.loss_scale", 1e300.into()).unwrap_err().to_string();
    assert!(error.contains("with training.loss_scale = 1e300: training.loss_scale: is 1e300; expected"), "{error}");
}

#[test]
fn steps_follow_epochs_and_limits() {
    let mut options = parse(LORA).unwrap().training;
    options.gradient_accumulation_steps = 4;
    assert_eq!((options.steps_per_epoch(10), options.total_steps(10)), (3, 6));
    options.max_steps = Some(5);
    assert_eq!(options.total_steps(10), 5);
    options.epochs = None;
    assert_eq!(options.total_steps(10), 5);
    options.warmup_ratio = 0.03;
    assert_eq!((options.warmup_steps(100), options.warmup_steps(0)), (3, 0));
}

#[test]
fn every_recipe_in_the_folder_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let recipe = Recipe::load(&path).unwrap();
        assert_eq!(Some(recipe.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        crate::data::Template::load(&recipe.data.template, &recipe.folder).unwrap();
        seen += 1;
    }
    assert!(seen >= 17, "{seen}");
}

#[test]
fn what_changes_no_result_names_no_other_run() {
    let with = |line: &str| parse(&LORA.replace("epochs = 2", &format!("epochs = 2\n{line}"))).unwrap().hash();
    let plain = parse(LORA).unwrap().hash();
    let same = [
        "sharding = \"fsdp\"",
        "gradient_checkpointing = \"layer\"",
        "gradient_checkpointing = 3",
        "paged_optimizer = true",
    ];
    for line in same {
        assert_eq!(with(line), plain, "{line}");
    }
    for line in ["precision = \"bf16\"", "neftune_noise_alpha = 5.0", "group_by_length = true"] {
        assert_ne!(with(line), plain, "{line}");
    }
    assert!(refused(LORA, "epochs = 2", "epochs = 2\ngradient_checkpointing = \"lear\"").contains("\"lean\""));
}
