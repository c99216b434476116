//! `harness data`, and plans of the recipes that ship with the program.

use harness_test_support::{World, tasks, workspace_root};
use serde_json::json;

use super::world;

#[test]
fn prepared_data_are_kept_and_damage_is_named() {
    let world = world();
    let call = ["data", "prepare", "r4", "--json"];
    let first = world.run(&call).expect(0).json();
    assert_eq!((&first["reused"], &first["rows"]["source"]), (&false.into(), &first["rows"]["source"]));
    assert_eq!(world.run(&call).expect(0).json()["reused"], true);
    let folder = first["folder"].as_str().expect("a folder").to_owned();
    let file = format!("{folder}/train.bin");
    let mut bytes = world.bytes(&file);
    bytes[50] ^= 1;
    world.write(&file, bytes);
    // Training says so as well, and trains on what it made again.
    let outcome = world.run(&["train", "r4", "--max-steps", "2", "--out", "mine"]).expect(0);
    outcome.says(&["train.bin is damaged", "preparing it again"]);
    assert_eq!(world.run(&call).expect(0).json()["reused"], true);
}

#[test]
fn prepared_sets_can_be_removed() {
    let world = world();
    let set = |more: &[&str]| world.run(&[&["data", "prepare", "r4", "--json"], more].concat()).expect(0).json();
    let first = set(&[]);
    assert_ne!(set(&["--set", "data.max_length=100"])["folder"], first["folder"]);
    let prune = |more: &[&str]| world.run(&[&["data", "prune", "--json"], more].concat()).expect(0).json();
    let number = |object: &serde_json::Value| (object["removed"].as_array().map(Vec::len), object["kept"].as_u64());
    assert_eq!(number(&prune(&[])), (Some(0), Some(2)), "both are new");
    assert_eq!(number(&prune(&["--days", "0", "--dry-run"])), (Some(2), Some(0)));
    assert_eq!(set(&[])["reused"], true);
    assert_eq!(number(&prune(&["--days", "0"])), (Some(2), Some(0)));
    assert_eq!(set(&[])["reused"], false);
}

#[test]
fn what_became_of_rows_is_said() {
    let world = world();
    // Half of the rows are short; of the others nothing but the prompt fits.
    let mut rows = tasks::instruction_rows(60);
    rows[30..].fill(json!({"instruction": "Say 1.", "response": "1"}));
    world.write("data/instructions.jsonl", tasks::lines(&rows));
    world.replace("recipes/r4.toml", "max_length = 256", "max_length = 60\npadding = \"longest\"");
    let said = world.run(&["data", "prepare", "r4"]).expect(0).stdout;
    for part in ["dropped as empty", "of them labels", "at max_length = 60", "left out without a label", "made now"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    world.replace("recipes/r4.toml", "padding = \"longest\"", "padding = \"longest\"\npacking = true");
    world.run(&["data", "prepare", "r4"]).expect(2).says(&["data.padding", "data.packing", "exclude"]);
}

/// Rows of the data sets that the recipes name.
fn data_sets(world: &World) {
    let lines =
        |row: &dyn Fn(usize) -> serde_json::Value| (0..40).map(|i| row(i).to_string() + "\n").collect::<String>();
    let dolly =
        |i| json!({"instruction": format!("Say {i}."), "context": "", "response": format!("{i}"), "category": "x"});
    world.write("data/dolly/train.jsonl", lines(&dolly));
    let orca = |i| json!({"system_prompt": "Be brief.", "question": format!("{i}?"), "response": format!("{i}!")});
    world.write("data/openorca/train.jsonl", lines(&orca));
    world.write("data/imdb/train.jsonl", lines(&|i| json!({"text": format!("Film {i}."), "label": i % 2})));
}

/// The configuration of Llama-2-7B, without weights.
fn shape(world: &World) {
    let shape = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "bos_token_id": 1,
        "eos_token_id": 2
    });
    world.write("shapes/llama-2-7b/config.json", shape.to_string());
}

#[test]
fn a_plan_over_ranks_is_that_of_each() {
    let world = world();
    data_sets(&world);
    shape(&world);
    let recipe = "name = \"full\"\nmethod = \"full\"\n[data]\ndataset = \"dolly\"\ntemplate = \"instruction\"\n\
                  max_length = 512\n[training]\nepochs = 1\nbatch_size = 4\ngradient_accumulation_steps = 8\n\
                  learning_rate = 1e-5";
    world.write("full.toml", recipe);
    let bytes = |ranks: &str, sharding: &str| {
        let call = ["train", "full.toml", "--base", "shapes/llama-2-7b", "--data-dir", "data", "--dry-run", "--json"];
        let json = world.run(&[&call[..], &["--nproc", ranks, "--sharding", sharding]].concat()).expect(0).json();
        assert_eq!(json["outline"]["trainable_parameters"], 6_738_415_616u64);
        json["outline"]["memory_bytes"].as_u64().expect("bytes")
    };
    let (all, outer) = (6_738_415_616, (2 * 32000 + 1) * 4096);
    let one = bytes("1", "fsdp");
    assert_eq!(one, bytes("1", "none"));
    // Half of the sum of gradients; half of values, gradients and two moments, beside what is whole.
    assert_eq!(bytes("2", "none"), one + 2 * all);
    assert_eq!(bytes("2", "fsdp"), one - 8 * all + 8 * outer + 16 * (all - outer) / 32);
}

#[test]
fn every_recipe_has_a_plan_over_a_shape() {
    let world = world();
    data_sets(&world);
    shape(&world);
    let mut planned = 0;
    for entry in std::fs::read_dir(workspace_root().join("training/recipes")).expect("recipes") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // One recipe makes its model from scratch, on data that are made first.
        if path.extension().is_none_or(|end| end != "toml") || name == "tiny" {
            continue;
        }
        let recipe = path.to_string_lossy().into_owned();
        let call = ["train", &recipe, "--base", "shapes/llama-2-7b", "--data-dir", "data", "--dry-run", "--json"];
        let outline = world.run(&call).expect(0).json()["outline"].clone();
        assert_eq!(outline["parameters"], 6_738_415_616u64, "{name}");
        let trained = outline["trainable_parameters"].as_u64().expect("a number");
        match name.as_str() {
            "lora_qv_r8_dolly" => assert_eq!(trained, 4_194_304),
            "qlora_r8_dolly" => assert_eq!(trained, 19_988_480),
            "qlora_r32_dolly" => assert_eq!(trained, 79_953_920),
            _ => assert!(trained > 0, "{name}"),
        }
        planned += 1;
    }
    assert!(planned >= 15, "{planned}");
    let recipe = workspace_root().join("training/recipes/lora_qv_r8_dolly.toml").to_string_lossy().into_owned();
    let call = ["train", &recipe, "--base", "shapes/llama-2-7b", "--data-dir", "data", "--dry-run"];
    let outcome = world.run(&call).expect(0);
    assert!(outcome.stdout.contains("4,194,304 of 6,738,415,616"), "{}", outcome.stdout);
    // Two states of 4 bytes a trained parameter.
    let paged = [&call[..], &["--device", "cuda", "--set", "training.paged_optimizer=true"]].concat();
    let outcome = world.run(&paged).expect(0);
    assert!(outcome.stdout.contains("MiB, beside 32 MiB of host memory, by formula"), "{}", outcome.stdout);
}

#[test]
fn sentiment_is_measured_by_class() {
    let world = world();
    data_sets(&world);
    let rows: String =
        (0..24).map(|i| json!({"text": format!("Film {i} was so so."), "label": i % 2}).to_string() + "\n").collect();
    world.write("data/imdb/test.jsonl", rows);
    let object = world.run(&["run", "base", "--tasks", "imdb", "--data-dir", "data", "--json"]).expect(0).json();
    let text = object.to_string();
    for metric in ["\"acc\"", "\"precision\"", "\"recall\"", "\"f1\""] {
        assert!(text.contains(metric), "{metric} in {text}");
    }
    let shown = world.run(&["tasks", "show", "imdb", "--doc", "0", "--data-dir", "data"]).expect(0).stdout;
    assert!(shown.contains("Review: Film 0 was so so.") && shown.contains("Sentiment:"), "{shown}");
}
