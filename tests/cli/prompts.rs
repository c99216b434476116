//! Which tokenizer and chat template prompt a model, and which date and variables its chats get.

use harness_test_support::World;
use serde_json::Value;

use super::world;

/// Writes the base's tokenizer into the folder of an adapter, with another chat template.
fn own_texts(world: &World, template: &str) {
    world.copy("models/base/tokenizer.json", "adapters/a8/tokenizer.json");
    world.copy("models/base/tokenizer_config.json", "adapters/a8/tokenizer_config.json");
    world.write("adapters/a8/chat_template.jinja", template);
}

/// The prompt of a chat as a model is given it.
fn rendered(world: &World, model: &str, further: &[&str]) -> String {
    let call = ["generate", model, "-p", "Hello", "--chat", "--json", "--max-new-tokens", "1"];
    let object = world.run(&[&call[..], further].concat()).expect(0).json();
    object["completions"][0]["rendered"].as_str().unwrap().to_owned()
}

/// Sets keys of `[models.base]`.
fn set(world: &World, keys: &str) {
    world.replace("harness.toml", "path = \"models/base\"\n", &format!("path = \"models/base\"\n{keys}\n"));
}

/// Gives the base another chat template.
fn template(world: &World, template: &str) {
    let mut config: Value = serde_json::from_str(&world.read("models/base/tokenizer_config.json")).unwrap();
    config["chat_template"] = template.into();
    world.write("models/base/tokenizer_config.json", config.to_string());
}

/// The caveats of a report of this kind.
fn caveats(object: &Value, kind: &str) -> Vec<Value> {
    let all = object["caveats"].as_array().unwrap_or_else(|| panic!("no caveats in {object}"));
    all.iter().filter(|caveat| caveat["kind"] == kind || caveat["caveat"]["kind"] == kind).cloned().collect()
}

const RUN: [&str; 6] = ["run", "a8", "--tasks", "toy_answer", "--apply-chat-template", "--json"];

#[test]
fn an_adapters_own_template_counts_before_the_bases() {
    let world = world();
    own_texts(&world, "<<{{ messages[0].content }}>>");
    assert_eq!(rendered(&world, "a8", &[]), "<<Hello>>");
    assert_eq!(rendered(&world, "a4", &[]), "<user> Hello\n<assistant> ", "the other adapter has none");
    assert_eq!(rendered(&world, "a8", &["--tokenizer", "base"]), "<user> Hello\n<assistant> ");
    let object = world.run(&RUN).expect(0).json();
    let found = caveats(&object, "own_texts");
    assert_eq!((found.len(), &found[0]["what"][0]), (1, &Value::from("chat template")), "{found:?}");
    let object = world.run(&[&RUN[..], &["--tokenizer", "base"]].concat()).expect(0).json();
    assert!(caveats(&object, "own_texts").is_empty());
    let found = caveats(&object, "trained_otherwise");
    assert!(found[0]["how"][0].as_str().unwrap().contains("chat template of its own, which is not used"), "{found:?}");
    let shown = world.run(&["models", "show", "a8", "--json"]).expect(0).json();
    assert_eq!(shown["chat_template"], "its own");
    world.replace("harness.toml", "adapter = \"adapters/a8\"\n", "adapter = \"adapters/a8\"\ntokenizer = \"base\"\n");
    assert_eq!(rendered(&world, "a8", &[]), "<user> Hello\n<assistant> ");
    assert_eq!(rendered(&world, "a8", &["--tokenizer", "adapters/a8"]), "<<Hello>>");
    let shown = world.run(&["models", "show", "a8", "--json"]).expect(0).json();
    assert_eq!(shown["chat_template"], "the base's, not its own");
}

#[test]
fn adapters_with_other_tokens_share_the_weights_only() {
    let world = world();
    own_texts(&world, "{{ messages[0].content }}");
    // The merge of "He" away, which changes the tokens of every text that holds it.
    let mut file: Value = serde_json::from_str(&world.read("adapters/a8/tokenizer.json")).unwrap();
    file["model"]["merges"] = Value::Array(vec![]);
    world.write("adapters/a8/tokenizer.json", file.to_string());
    let tokens = |model: &str, further: &[&str]| {
        let call = ["generate", model, "-p", "the theme", "--json", "--max-new-tokens", "1"];
        let object = world.run(&[&call[..], further].concat()).expect(0).json();
        object["completions"][0]["response"]["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens("a8", &[]), 9, "a byte a token");
    assert!(tokens("a4", &[]) < 9);
    assert_eq!(tokens("a8", &["--tokenizer", "base"]), tokens("a4", &[]));
    let compared = world.run(&["compare", "base", "a8", "--tasks", "toy_answer", "--json"]).expect(0).stdout;
    assert!(compared.contains("own_texts"), "{compared}");
}

#[test]
fn more_tokens_than_the_embedding_knows_are_refused() {
    let world = world();
    own_texts(&world, "{{ messages[0].content }}");
    let tokens = serde_json::from_str::<Value>(&world.read("models/base/tokenizer.json")).unwrap();
    let count = tokens["model"]["vocab"].as_object().unwrap().len();
    let mut config: Value = serde_json::from_str(&world.read("adapters/a8/tokenizer_config.json")).unwrap();
    config["additional_special_tokens"] = serde_json::json!(["<tool>"]);
    world.write("adapters/a8/tokenizer_config.json", config.to_string());
    let call = ["generate", "a8", "-p", "Hello", "--max-new-tokens", "1"];
    let (id, rows) = (format!("token id {count}"), format!("{count} rows"));
    world.run(&call).expect(2).says(&["adapters/a8", &id, &rows, "--tokenizer base"]);
    world.run(&[&call[..], &["--tokenizer", "base"]].concat()).expect(0);
}

const TODAY: &str = "[{{ strftime_now('%d %b %Y') }}] {{ messages[-1].content }}";

#[test]
fn templates_are_told_a_date_that_stays() {
    let world = world();
    template(&world, TODAY);
    assert_eq!(rendered(&world, "base", &["--date", "2025-01-30"]), "[30 Jan 2025] Hello");
    world.run(&["generate", "base", "-p", "x", "--date", "2025-02-30"]).expect(2).says(&["--date", "no such day"]);
    assert!(!world.path(".harness/date").exists(), "a look keeps nothing");

    let call = ["run", "base", "--tasks", "toy_answer", "--apply-chat-template", "--out", "out"];
    world.run(&call).expect(0);
    let day = world.read(".harness/date");
    let manifest: Value = serde_json::from_str(&world.read("out/manifest.json")).unwrap();
    assert_eq!(manifest["manifest"]["models"][0]["identity"]["extra"]["date"], day.trim());
    let stored = world.stored();
    world.write(".harness/date", "2024-02-29\n");
    assert_eq!(rendered(&world, "base", &[]), "[29 Feb 2024] Hello");
    world.run(&call).expect(0);
    assert_eq!(world.stored(), 2 * stored, "another day, other prompts");
    world.run(&call).expect(0).says(&["are stored"]);
    world.write(".harness/date", "soon\n");
    world.run(&call).expect(2).says(&["date", "\"soon\""]);
    set(&world, "date = 2024-02-29");
    world.run(&call).expect(0).says(&["are stored"]);
}

#[test]
fn a_date_is_no_matter_where_no_template_tells_it() {
    let world = world();
    let call = ["run", "base", "--tasks", "toy_answer", "--apply-chat-template"];
    world.run(&call).expect(0);
    assert!(!world.path(".harness/date").exists());
    world.run(&[&call[..], &["--date", "2025-01-30"]].concat()).expect(0).says(&["are stored"]);
    template(&world, "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}");
    assert_eq!(rendered(&world, "base", &[]), "2024", "such a template has a date of its own");
    assert_eq!(rendered(&world, "base", &["--date", "2025-01-30"]), "2025");
}

const THINKS: &str = "{{ messages[-1].content }}{% if enable_thinking is defined and enable_thinking is false %}\
                      <no>{% endif %}{{ effort | default('') }}{% for tag in tags or [] %}-{{ tag + 1 }}{% endfor %}";

#[test]
fn variables_reach_the_template_with_their_types() {
    let world = world();
    template(&world, THINKS);
    let with = |arguments: &[&str]| {
        let flags: Vec<&str> = arguments.iter().flat_map(|argument| ["--chat-template-kwargs", *argument]).collect();
        rendered(&world, "base", &flags)
    };
    assert_eq!(with(&[]), "Hello");
    assert_eq!(with(&[r#"{"enable_thinking": false, "tags": [1, 2]}"#]), "Hello<no>-2-3");
    assert_eq!(with(&["enable_thinking=false", "effort=low"]), "Hello<no>low");
    assert_eq!(with(&["enable_thinking=0"]), "Hello", "0 is not false");
    for (argument, says) in [
        ("messages=[]", "every chat template already receives messages"),
        ("enable_thinkng=false", "does not use \"enable_thinkng\""),
        ("enable_thinking", "NAME=VALUE"),
    ] {
        let call = ["generate", "base", "-p", "x", "--chat-template-kwargs", argument];
        world.run(&call).expect(2).says(&["chat", says]);
    }
    let run = ["run", "base", "--tasks", "toy_answer", "--apply-chat-template", "--json"];
    world.run(&run).expect(0);
    set(&world, "chat_template_kwargs = { enable_thinking = false }");
    assert_eq!(rendered(&world, "base", &[]), "Hello<no>");
    assert_eq!(rendered(&world, "a4", &[]), "Hello<no>", "an adapter is asked as its base");
    assert_eq!(rendered(&world, "base", &["--chat-template-kwargs", "enable_thinking=true"]), "Hello");
    let stored = world.stored();
    world.run(&run).expect(0);
    assert!(world.stored() > stored, "another identity");
    world.replace("harness.toml", "enable_thinking", "add_generation_prompt");
    world.run(&["models", "list"]).expect(2).says(&["harness.toml:", "already receives add_generation_prompt"]);
}

#[test]
fn templates_have_names() {
    let world = world();
    let list = r#"[{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]"#;
    let mut config: Value = serde_json::from_str(&world.read("models/base/tokenizer_config.json")).unwrap();
    config["chat_template"] = serde_json::from_str(list).unwrap();
    world.write("models/base/tokenizer_config.json", config.to_string());
    assert_eq!(rendered(&world, "base", &[]), "one");
    set(&world, "chat_template = \"tool_use\"");
    assert_eq!(rendered(&world, "base", &[]), "two");
    world.write("models/base/additional_chat_templates/tool_use.jinja", "three");
    assert_eq!(rendered(&world, "base", &[]), "three", "files go before the configuration");
}

#[test]
fn lost_system_messages_and_cut_prompts_are_told() {
    let world = world();
    template(&world, "{{ messages[-1].content }}");
    let generate = |further: &[&str]| {
        let call = ["generate", "base", "-p", "Hello Hello Hello", "--json", "--max-new-tokens", "500"];
        let object = world.run(&[&call[..], further].concat()).expect(0).json();
        let caveats = object["completions"][0]["caveats"].as_array().unwrap().clone();
        caveats.iter().map(|caveat| caveat.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = generate(&["--chat", "--system", "Be brief."]);
    assert!(told[0].contains("does not show the system message"), "{told:?}");
    set(&world, "max_length = 502");
    let told = generate(&[]);
    assert!(told[0].contains("of the prompt were cut"), "{told:?}");
    let chat = ["chat", "base", "--max-new-tokens", "500", "--json"];
    let said = world.run_with_input(&chat, "Hello Hello Hello\n").expect(0).json();
    assert!(said["caveats"][0].as_str().unwrap().contains("were cut"), "{said}");

    let run = ["run", "base", "--tasks", "toy_choice", "--limit", "3", "--apply-chat-template", "--json"];
    let object = world.run(&[&run[..], &["--system-instruction", "Be brief."]].concat()).expect(0).json();
    let found = caveats(&object, "system_hidden");
    assert_eq!(found[0]["shares"][0]["count"], found[0]["shares"][0]["of"], "{found:?}");
    let refuses =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}";
    template(&world, refuses);
    let object = world.run(&[&run[..], &["--system-instruction", "Be brief."]].concat()).expect(0).json();
    assert_eq!(caveats(&object, "system_left_out").len(), 1);
    assert!(caveats(&object, "system_hidden").is_empty());
    let call = ["generate", "base", "-p", "x", "--chat", "--system", "Be brief."];
    world.run(&call).expect(2).says(&["no system"]);
}

#[test]
fn a_bos_that_the_tokenizer_cannot_add_is_refused() {
    let world = world();
    set(&world, "add_bos = true");
    world.run(&["generate", "base", "-p", "x"]).expect(2).says(&["add_bos = true", "tokenizer.json"]);
}
