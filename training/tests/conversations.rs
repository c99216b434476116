//! Conversations as training texts: the chat template of the base, whose turns the loss counts, and TRL's losses on pairs.

use std::{fs, path::Path};

use harness_decoder::Projection;
use harness_engine::{ChatTemplate, ModelFiles, TextTokenizer};
use harness_store::{DataLocator, FileHashes};
use harness_training::{
    Recipe,
    backend::{CpuBackend, Memory},
    data::{Batch, PreparedSet, Sample},
    lora::LoraSpec,
    model::{MicroStep, Model, Trainable},
};
use serde_json::{Value, json};

fn tiny() -> ModelFiles {
    ModelFiles::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny")).expect("the embedded model")
}

/// The prepared set of some rows; `extra` are further lines of `[data]` and further tables.
fn prepare(rows: &[Value], template: &str, extra: &str, files: &ModelFiles) -> Result<PreparedSet, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(folder.join("rows.jsonl"), lines).expect("a file");
    let text = format!(
        "name = \"t\"\nmethod = \"lora\"\n[data]\nsource = \"rows.jsonl\"\ntemplate = \"{template}\"\nsplit = [1.0, 0.0, 0.0]\n\
         {extra}\n[lora]\nrank = 2\nalpha = 4\n[training]\nmax_steps = 1\nlearning_rate = 1e-3\n"
    );
    fs::write(folder.join("t.toml"), text).expect("a file");
    let recipe = Recipe::load(folder.join("t.toml")).expect("a recipe");
    let recipe = recipe.resolve(Some("tiny"), &DataLocator::default()).expect("everything is there");
    let hashes = FileHashes::open(folder);
    let set = recipe.prepared_set(&files.tokenizer, files.chat_template.as_ref(), &hashes);
    set.map_err(|error| error.to_string())
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn samples(set: &PreparedSet) -> Vec<Sample> {
    (0..set.train.len()).map(|i| set.train.get(i).into_owned()).collect()
}

/// What the loss counts of a sample, run by run.
fn counted(sample: &Sample, tokenizer: &TextTokenizer) -> Vec<String> {
    let mut runs: Vec<Vec<u32>> = vec![vec![]];
    for (i, &token) in sample.tokens.iter().enumerate() {
        match sample.counts(i) {
            true => runs.last_mut().expect("one").push(token),
            false => runs.push(vec![]),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs.iter().map(|run| tokenizer.decode(run, false).expect("text")).collect()
}

fn text(sample: &Sample, tokenizer: &TextTokenizer) -> String {
    tokenizer.decode(&sample.tokens, false).expect("text")
}

/// Rows, and what TRL 1.16 makes of them with the embedded model: the tokens of prompt, chosen and rejected answer, and the
/// loss with beta = 0.3 of an adapter whose elements are 0.05 sin(0.7 i + k), for the k-th matrix by name.
fn pairs() -> Vec<(&'static str, Value, [Vec<u32>; 3], f64)> {
    let (user, assistant, system) =
        (|t| message("user", t), |t| message("assistant", t), |t: &str| message("system", t));
    let tokens =
        |prompt: &[u32], chosen: &[u32], rejected: &[u32]| [prompt.to_vec(), chosen.to_vec(), rejected.to_vec()];
    let explicit = json!({"prompt": [user("Which animal lives in the barn?")],
        "chosen": [assistant("The cow lives in the barn.")], "rejected": [assistant("No.")]});
    let prefixed = json!({"prompt": explicit["prompt"],
        "chosen": [user("Which animal lives in the barn?"), assistant("The cow lives in the barn.")],
        "rejected": [user("Which animal lives in the barn?"), assistant("No.")]});
    let implicit = json!({"chosen": [system("Be brief."), user("What is 2 + 3?"), assistant("5")],
        "rejected": [system("Be brief."), user("What is 2 + 3?"), assistant("It is six, I think.")]});
    let column = json!({"system": "Be brief.", "chosen": [user("What is 2 + 3?"), assistant("5")],
        "rejected": [user("What is 2 + 3?"), assistant("It is six, I think.")]});
    let turns = json!({"prompt": [user("Hello"), assistant("Hi there."), user("Name a colour.")],
        "chosen": [assistant("Red")], "rejected": [assistant("Redder than red")]});
    let feedback = json!({"prompt": "Tell a story.", "score_chosen": 7.5,
        "chosen": [user("Tell a story."), assistant("Tom had a red ball. He was happy.")],
        "rejected": [user("Tell a story."), assistant("No story today.")]});
    let bare = json!({"prompt": "Tell a story.", "chosen": [assistant("Tom had a red ball. He was happy.")],
        "rejected": [assistant("No story today.")]});
    let texts = json!({"prompt": "### Instruction:\nName a colour.\n\n### Response:\n", "chosen": "Blue",
        "rejected": "Blueish, or so"});
    let shared = json!({"chosen": "### Instruction:\nName an animal.\n\n### Response:\nA cat",
        "rejected": "### Instruction:\nName an animal.\n\n### Response:\nA cow"});
    const INSTRUCTION: [u32; 13] = [0, 305, 4, 222, 42, 263, 85, 448, 68, 284, 291, 27, 200];
    const RESPONSE: [u32; 12] = [200, 200, 305, 4, 222, 51, 261, 81, 328, 70, 27, 200];
    let asked = |said: &[u32]| [&INSTRUCTION[..], said, &RESPONSE].concat();
    let barn = tokens(
        &asked(&[406, 1308, 74, 78, 676, 974, 345, 269, 770, 32]),
        &[262, 279, 287, 974, 345, 269, 770, 15, 1, 200, 200],
        &[47, 80, 15, 1, 200, 200],
    );
    let sum = tokens(
        &[&[0, 35, 70, 1080, 70, 71, 15, 200, 200], &asked(&[352, 316, 304, 335, 324, 32])[1..]].concat(),
        &[22, 1, 200, 200],
        &[499, 316, 733, 13, 222, 42, 260, 73, 265, 76, 15, 1, 200, 200],
    );
    let colour = &asked(&[47, 66, 401, 264, 455, 15])[1..];
    let hello = tokens(
        &[&asked(&[41, 460, 80]), &[41, 74, 1083, 15, 1, 200, 200][..], colour].concat(),
        &[51, 369, 1, 200, 200],
        &[51, 369, 977, 260, 281, 79, 636, 1, 200, 200],
    );
    let story = tokens(
        &asked(&[53, 460, 264, 456, 270, 90, 15]),
        &[1362, 78, 308, 69, 264, 636, 367, 333, 15, 325, 70, 377, 701, 15, 1, 200, 200],
        &[47, 80, 456, 270, 90, 311, 356, 15, 1, 200, 200],
    );
    let blue = tokens(
        &asked(&[47, 66, 401, 264, 455, 15]),
        &[35, 500, 70, 1],
        &[35, 500, 70, 301, 73, 13, 267, 83, 283, 80, 1],
    );
    let animal =
        tokens(&[&asked(&[47, 66, 401, 1308, 1308, 74, 78, 676, 15]), &[34][..]].concat(), &[734, 1], &[279, 287, 1]);
    vec![
        ("messages with a prompt", explicit, barn.clone(), 0.950_681_7),
        ("a prompt that is repeated", prefixed, barn, 0.950_681_7),
        ("messages without a prompt", implicit, sum.clone(), 0.652_279_1),
        ("a system column", column, sum, 0.652_279_1),
        ("a prompt of several turns", turns, hello, 0.769_881_8),
        ("UltraFeedback", feedback, story.clone(), 0.964_319_3),
        ("a text as prompt of messages", bare, story, 0.964_319_3),
        ("texts", texts, blue, 0.679_537_4),
        ("texts without a prompt", shared, animal, 0.745_655_8),
    ]
}

#[test]
fn pairs_have_the_tokens_and_losses_of_trl() {
    let files = tiny();
    let spec = LoraSpec::new(2, 4.0, vec![Projection::Q, Projection::Down]);
    let backend = CpuBackend::new();
    let trainable = Trainable::Lora(spec);
    let made = Model::new(backend.clone(), &files.config, &files.weights, &trainable, 512, harness_core::Seed(1));
    let (model, mut store) = made.expect("a model");
    let mut params = store.layout().params().to_vec();
    params.sort_by(|a, b| a.name.cmp(&b.name));
    for (k, param) in params.iter().enumerate() {
        let values: Vec<f32> = (0..param.len()).map(|i| (0.05 * (0.7 * i as f64 + k as f64).sin()) as f32).collect();
        store.set(&backend, param, &values).unwrap();
    }
    let reference = backend.zeros(store.len()).unwrap();
    let step = MicroStep { scale: 1.0, dropout: None, noise: None };
    for (name, row, [prompt, chosen, rejected], expected) in pairs() {
        let set = prepare(std::slice::from_ref(&row), "preference", "strip = false\n[dpo]", &files).expect(name);
        let samples = samples(&set);
        let whole = |answer: &Vec<u32>| (prompt.len(), [prompt.clone(), answer.clone()].concat());
        let found: Vec<(usize, Vec<u32>)> = samples.iter().map(|s| (s.loss_from, s.tokens.clone())).collect();
        assert_eq!(found, [whole(&chosen), whole(&rejected)], "{name}");
        let loss =
            model.preference(&Batch::of(&samples), &store.values, &reference, 0.3, &step, None).expect("weights");
        assert!((loss - expected).abs() < 2e-5, "{name}: {loss} {expected}");
        let again = prepare(&[row], "model", "[dpo]", &files);
        match name.starts_with("texts") {
            true => assert!(again.unwrap_err().contains("needs messages")),
            false => assert_eq!(self::samples(&again.expect(name)), samples, "{name}"),
        }
    }
}

fn talk() -> Vec<Value> {
    vec![
        message("system", "S."),
        message("user", "One?"),
        message("assistant", "Yes."),
        message("user", "Two?"),
        message("assistant", "No."),
        message("user", "Three?"),
    ]
}

#[test]
fn the_loss_counts_the_turns_of_the_assistant() {
    let mut files = tiny();
    let row = || json!({"messages": talk(), "note": "x"});
    let expected = ["Yes.</s>\n\n", "No.</s>\n\n"];
    let set = prepare(&[row()], "model", "", &files).unwrap();
    let plain = samples(&set);
    assert_eq!(counted(&plain[0], &files.tokenizer), expected);
    // One BOS and one end, which the template has written, and nothing after the last counted token.
    assert_eq!(
        text(&plain[0], &files.tokenizer),
        "<s>S.\n\n### Instruction:\nOne?\n\n### Response:\nYes.</s>\n\n### Instruction:\nTwo?\n\n### Response:\nNo.</s>\n\n"
    );
    let remarks: Vec<&String> = set.rows.remarks.keys().collect();
    assert_eq!(remarks, ["column \"note\" is not used", "turns after the assistant's last one are left out"]);
    assert_eq!(set.rows.rendered, 1);

    // ShareGPT's form, messages of a prompt and its completion, parts of a text, a list as text.
    let shared = json!({"conversations": talk()[..5].iter().map(|m| {
        let from = match m["role"].as_str() { Some("user") => "human", Some("assistant") => "gpt", _ => "system" };
        json!({"from": from, "value": m["content"]})
    }).collect::<Vec<_>>()});
    let as_text = json!({"messages": Value::from(talk()).to_string()});
    let mut parts = talk();
    parts[1]["content"] = json!([{"type": "text", "text": "On"}, {"type": "text", "text": "e?"}]);
    for row in [shared, as_text, json!({"messages": parts}), json!({"system": "S.", "messages": &talk()[1..]})] {
        assert_eq!(samples(&prepare(std::slice::from_ref(&row), "model", "", &files).unwrap()), plain, "{row}");
    }
    let split = json!({"prompt": &talk()[..4], "completion": [talk()[4]]});
    let split = &samples(&prepare(&[split], "model", "", &files).unwrap())[0];
    assert_eq!((counted(split, &files.tokenizer), &split.tokens), (vec![expected[1].to_owned()], &plain[0].tokens));

    // A template that marks what is generated says it itself.
    let source = files.chat_template.as_ref().unwrap().source().to_owned();
    let marked = source.replace(
        "{{ message['content'] }}{{ eos_token }}\n\n",
        "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}{{ '\n\n' }}",
    );
    files.chat_template = Some(ChatTemplate::new(&marked).unwrap());
    let set = prepare(&[row()], "model", "", &files).unwrap();
    let marked = &samples(&set)[0];
    assert_eq!(counted(marked, &files.tokenizer), ["Yes.</s>", "No.</s>"]);
    assert!(plain[0].tokens.starts_with(&marked.tokens), "nothing follows what is counted last");
}

#[test]
fn weight_and_train_say_which_turns_count() {
    let mut files = tiny();
    let row = |field: &str, value: Value| {
        let mut talk = talk();
        talk[2][field] = value;
        json!({"messages": talk})
    };
    for template in ["model", "chat"] {
        let of =
            |row: Value| prepare(&[row], template, "", &files).map(|set| counted(&samples(&set)[0], &files.tokenizer));
        let both = of(json!({"messages": talk()})).unwrap();
        assert_eq!(both.len(), 2, "{both:?}");
        for left_out in [
            row("weight", json!(0)),
            row("weight", json!(0.0)),
            row("train", json!(false)),
            row("training", json!(false)),
        ] {
            assert_eq!(of(left_out).unwrap(), both[1..], "{template}");
        }
        for kept in [row("weight", json!(1)), row("train", json!(true)), row("weight", Value::Null)] {
            assert_eq!(of(kept).unwrap(), both, "{template}");
        }
        let refused = |row: Value| of(row).unwrap_err();
        assert!(refused(row("weight", json!(0.5))).contains("turn 3 of \"messages\": \"weight\" is neither 0 nor 1"));
        assert!(refused(row("train_detail", json!([{"begin_offset": 0}]))).contains("\"train_detail\" is neither"));
        let mut user = talk();
        user[1]["weight"] = json!(1);
        assert!(refused(json!({"messages": user})).contains("asks for a loss on what the user says"));
        let mut nothing = talk();
        (nothing[2]["weight"], nothing[4]["weight"]) = (json!(0), json!(0));
        assert!(refused(json!({"messages": nothing})).contains("nothing that the loss counts"));
    }
    let source = "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                  {% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    files.chat_template = Some(ChatTemplate::new(source).unwrap());
    let set = prepare(&[row("weight", json!(0))], "model", "", &files).unwrap();
    assert_eq!(counted(&samples(&set)[0], &files.tokenizer), ["No.</s>"]);
}

#[test]
fn what_a_template_does_not_show_is_refused_or_named() {
    let mut files = tiny();
    let refused = |row: Value, template: &str, files: &ModelFiles| prepare(&[row], template, "", files).unwrap_err();
    let with = |message: Value| {
        let mut talk = talk();
        talk.insert(3, message);
        json!({"messages": talk})
    };
    let call = json!([{"type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]);
    let calling = || with(json!({"role": "assistant", "content": null, "tool_calls": call}));
    let reasoning = || with(json!({"role": "assistant", "content": "So.", "reasoning_content": "Hm."}));
    let tool = || with(json!({"role": "tool", "content": "3", "tool_call_id": "x"}));
    let function = || {
        json!({"conversations": [{"from": "human", "value": "Add."},
        {"from": "function_call", "value": "{\"name\": \"add\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "1"}, {"from": "gpt", "value": "It is 1."}]})
    };
    for (row, says) in [
        (calling(), "turn 4 of \"messages\": the chat template does not show the assistant's \"tool_calls\""),
        (reasoning(), "the chat template does not show the assistant's \"reasoning_content\""),
        (with(message("critic", "x")), "\"role\" is \"critic\"; expected system, developer"),
        (with(json!({"role": "user", "content": 3})), "\"content\" is a number, not text"),
        (with(json!({"role": "user", "content": [{"type": "image_url"}]})), "a part of type \"image_url\""),
        (with(json!({"role": "user"})), "has no text under \"content\""),
        (function(), "does not show the assistant's \"tool_calls\""),
    ] {
        let error = refused(row, "model", &files);
        assert!(error.contains(says) && error.contains("rows.jsonl: line 1: "), "{error}");
    }
    for (row, template, says) in [
        (calling(), "chat", "no text for the assistant's \"tool_calls\""),
        (reasoning(), "chat", "no text for the assistant's \"reasoning_content\""),
        (tool(), "chat", "\"role\" is \"tool\", for which the template has no text"),
        (with(message("developer", "x")), "chat", "\"role\" is \"developer\""),
        (function(), "sharegpt", "\"from\" is \"function_call\""),
    ] {
        let error = refused(row, template, &files);
        assert!(error.contains(says), "{error}");
    }
    let mut named = talk();
    named[1]["name"] = json!("Ann");
    for template in ["model", "chat"] {
        let set = prepare(&[json!({"messages": named})], template, "", &files).unwrap();
        assert_eq!(set.rows.remarks["field \"name\" of messages is not used"], 1);
    }

    // A template that shows calls and tools.
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for call in m.tool_calls or [] %}\
                  {{ call.function | tojson }}{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    files.chat_template = Some(ChatTemplate::new(source).unwrap());
    let set = prepare(&[function(), calling(), tool()], "model", "", &files).unwrap();
    let runs: Vec<Vec<String>> = samples(&set).iter().map(|sample| counted(sample, &files.tokenizer)).collect();
    let called = "{\"name\": \"add\", \"arguments\": {\"a\": 1}}";
    assert!(runs.contains(&vec![called.to_owned(), "It is 1.</s>".to_owned()]), "{runs:?}");
    assert_eq!(set.rows.remarks["field \"tool_call_id\" of messages is not used"], 1);

    // One that drops roles it does not know, one that looks at what comes after, one that refuses.
    for (source, says) in [
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}",
            "does not show what the system says",
        ),
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if loop.last %}!{% endif %}{% endfor %}",
            "turn 3 of \"messages\": the chat template renders earlier messages differently",
        ),
        (
            "{{ raise_exception('Roles must alternate') }}",
            "refuses the conversation: chat template: Roles must alternate",
        ),
    ] {
        files.chat_template = Some(ChatTemplate::new(source).unwrap());
        let error = refused(json!({"messages": talk()}), "model", &files);
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn bases_without_a_template_have_chatml() {
    let files = ModelFiles { chat_template: None, ..tiny() };
    let row = || json!({"messages": &talk()[1..5]});
    let set = prepare(&[row()], "model", "", &files).unwrap();
    let sample = &samples(&set)[0];
    // The tokenizer has no token for ChatML's end, so that the one it has is added.
    let chatml = "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n\
                  <|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n</s>";
    assert_eq!(text(sample, &files.tokenizer), chatml);
    assert_eq!(counted(sample, &files.tokenizer), ["Yes.<|im_end|>\n", "No.<|im_end|>\n</s>"]);
}

#[test]
fn variables_reach_the_chat_template() {
    let mut files = tiny();
    let source = "{% if brief %}!{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    files.chat_template = Some(ChatTemplate::new(source).unwrap());
    let row = || json!({"messages": &talk()[1..3]});
    let with = |template: &str, kwargs: &str| {
        let extra = format!("chat_template_kwargs = {kwargs}");
        prepare(&[row()], template, &extra, &files).map(|set| text(&samples(&set)[0], &files.tokenizer))
    };
    assert!(with("model", "{ brief = true }").unwrap().starts_with("!user: One?"));
    assert!(with("model", "{ brief = false }").unwrap().starts_with("user: One?"));
    assert!(
        with("model", "{ enable_thinking = false }")
            .unwrap_err()
            .contains("names \"enable_thinking\", which the chat template does not use")
    );
    assert!(with("chat", "{ brief = true }").unwrap_err().contains("data.chat_template_kwargs: has no effect"));
    let source = "{% for m in messages %}{{ m.role }} {{ strftime_now('%d.%m.%y') }}: {{ m.content }}\n{% endfor %}";
    files.chat_template = Some(ChatTemplate::new(source).unwrap());
    let on = |date: &str| {
        let set = prepare(&[row()], "model", date, &files);
        set.map(|set| text(&samples(&set)[0], &files.tokenizer))
    };
    assert!(on("date = \"2025-01-30\"").unwrap().starts_with("user 30.01.25: One?"));
    assert!(on("").unwrap_err().contains("data.date: is missing"));
    assert!(on("date = \"2025-02-30\"").unwrap_err().contains("there is no such day"));
}

#[test]
fn a_text_that_ends_itself_gets_no_second_end() {
    let mut files = tiny();
    let config = r#"{"bos_token": "<s>", "eos_token": "<|im_end|>"}"#;
    let json = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny/tokenizer.json")).unwrap();
    files.tokenizer = TextTokenizer::from_json(&json, Some(config)).unwrap();
    let set = prepare(&[json!({"messages": &talk()[1..3]})], "chat", "", &files).unwrap();
    assert!(text(&samples(&set)[0], &files.tokenizer).ends_with("Yes.<|im_end|>\n"));
}

#[test]
fn unusable_rows_are_left_out_where_the_recipe_says_so() {
    let files = tiny();
    let pair = |chosen: Value| json!({"prompt": "P", "chosen": chosen, "rejected": "R"});
    let rows = [
        pair(json!("A")),
        pair(Value::Null),
        pair(json!(["A"])),
        pair(json!([message("assistant", "A")])),
        pair(json!({"text": "A"})),
        pair(Value::Null),
        pair(json!("R")),
        pair(json!("")),
        json!({"prompt": "P", "rejected": "R"}),
    ];
    let error = prepare(&rows, "preference", "[dpo]", &files).unwrap_err();
    for part in
        ["rows.jsonl: line 2: column \"chosen\" is null", "6 of 9 rows are unusable", "data.unusable_rows = \"drop\""]
    {
        assert!(error.contains(part), "{error}");
    }
    let set = prepare(&rows, "preference", "unusable_rows = \"drop\"\n[dpo]", &files).unwrap();
    assert_eq!(set.train.len(), 6, "three pairs");
    let counts: Vec<(&str, usize)> =
        set.rows.unusable.iter().map(|(reason, n)| (reason.split(',').next().unwrap(), *n)).collect();
    let expected = [
        ("column \"chosen\" holds a list", 1),
        ("column \"chosen\" holds an object", 1),
        ("column \"chosen\" is null", 2),
        ("column \"rejected\" holds no messages", 1),
        ("no column \"chosen\"", 1),
    ];
    assert_eq!(counts, expected);
    let remarks: Vec<&String> = set.rows.remarks.keys().collect();
    assert_eq!(remarks, ["both answers are the same", "the completion is empty"]);
    let none = prepare(&rows[1..6], "preference", "unusable_rows = \"drop\"\n[dpo]", &files).unwrap_err();
    assert!(none.contains("5 as unusable (2: column \"chosen\" is null") && none.contains("none is left"), "{none}");
    let empty = prepare(&rows, "preference", "drop_empty = [\"chosen\"]\n[dpo]", &files).unwrap_err();
    assert!(empty.contains("no column \"chosen\" (data.drop_empty)"), "{empty}");
    let empty = prepare(&rows[..2], "preference", "drop_empty = [\"chosen\"]\n[dpo]", &files).unwrap();
    assert_eq!((empty.rows.dropped_empty, empty.rows.train), (1, 1));
}
