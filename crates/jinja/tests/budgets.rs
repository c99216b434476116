//! No template takes more than its budget, and a template within it renders as minijinja renders it.

use std::time::{Duration, Instant};

use harness_core::Limits;
use harness_jinja::{Jinja, environment};
use minijinja::{Environment, Error, Output, State, Value, context, syntax::SyntaxConfig};

fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    minijinja::escape_formatter(out, state, value)
}

fn jinja(limits: Limits) -> Jinja {
    let methods = minijinja_contrib::pycompat::unknown_method_callback;
    Jinja::new(environment(), SyntaxConfig::default(), print, methods, limits)
}

fn render(source: &str, values: Value) -> Result<String, String> {
    let template = jinja(Limits::default()).compile(source).map_err(|error| error.to_string())?;
    template.render(values).map_err(|error| error.to_string())
}

#[test]
fn templates_that_would_take_all_memory_or_time_end_with_the_limit() {
    let chain = |part: &str, times: usize| format!("{{{{ x{} }}}}", part.repeat(times));
    let templates = [
        ("doubled", "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}".into()),
        ("added", "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}".into()),
        ("in a macro", "{% macro m(s, n) %}{% if n %}{{ m(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ m('ab', 60) }}".into()),
        ("captured", "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}".into()),
        ("raw text", format!("{{% for a in range(100000) %}}{{% for b in range(100) %}}{}{{% endfor %}}{{% endfor %}}", "x".repeat(50_000))),
        ("raw text, captured", format!("{{% set t %}}{{% for a in range(100000) %}}{}{{% endfor %}}{{% endset %}}", "x".repeat(50_000))),
        ("shared lists", "{% set ns = namespace(l=['ab']) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}".into()),
        ("added lists", "{% set ns = namespace(l=['ab']) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|join }}".into()),
        ("multiplied lists", "{{ ([1] * 90000000)|list|length }}".into()),
        ("a namespace in itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".into()),
        ("a namespace in a list of itself", "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns == ns }}".into()),
        ("replaced", "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}".into()),
        ("replaced by a method", "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}".into()),
        ("joined", "{{ range(100000)|join('b' * 1000000) }}".into()),
        ("joined by a method", "{{ ('b' * 1000000).join(range(100000)|map('string')|list) }}".into()),
        ("indented", "{{ ('a\n' * 200000)|indent(2000000) }}".into()),
        ("indented by name", "{{ ('a\n' * 200000)|indent(width=2000000) }}".into()),
        ("indented in a map", "{{ (['a\nb'] * 100000)|map('indent', 1000000)|list|length }}".into()),
        ("JSON", "{{ [1, 2]|tojson(indent=9000000000) }}".into()),
        ("formatted", "{{ '%999999999999d'|format(3) }}".into()),
        ("formatted by a number", "{{ '%*d'|format(999999999999, 3) }}".into()),
        ("formatted by a method", "{{ '{:>9999999999}'.format(3) }}".into()),
        ("formatted again and again", "{{ ('{0}' * 1000000).format('a' * 1000000) }}".into()),
        ("batches", "{{ [1]|batch(9000000000000, 1)|list|length }}".into()),
        ("slices", "{{ [1]|slice(9000000000000)|list|length }}".into()),
        ("summed texts", "{{ (['ab' * 1000] * 1000000)|sum }}".into()),
        ("long comparisons", "{% set a = 'x' * 60000000 %}{% set b = 'x' * 60000000 %}{% for i in range(100000) %}{% set c = (a == b) %}{{ c }}{% endfor %}".into()),
        ("attributes", chain(".a", 100_000)),
        ("filters", chain("|upper", 100_000)),
        ("sums", chain(" + 1", 200_000)),
        ("concatenations", chain(" ~ 1", 200_000)),
        ("subscripts", chain("[0]", 100_000)),
        ("calls", chain("()", 100_000)),
        ("tests", chain(" is none", 100_000)),
        ("conditions", chain(" if 1", 100_000)),
        ("comparisons", chain(" == 1", 100_000)),
        ("ands", chain(" and 1", 100_000)),
        ("nots", format!("{{{{ {}x }}}}", "not ".repeat(100_000))),
        ("signs", format!("{{{{ {}1 }}}}", "-".repeat(100_000))),
        ("brackets", format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000))),
        ("branches", format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(100_000))),
        ("nested conditions", format!("{}{}", "{% if 1 %}".repeat(100_000), "{% endif %}".repeat(100_000))),
        ("a long source", "x".repeat(5 << 20)),
        ("loops", "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}".into()),
        ("recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into()),
    ];
    for (name, source) in templates {
        let source: String = source;
        let begin = Instant::now();
        let result = render(&source, context! { x => 1 });
        let took = begin.elapsed();
        let error = result.err().unwrap_or_else(|| panic!("{name}: rendered"));
        assert!(
            ["limit", "fuel", "too large", "recursion", "is not"].iter().any(|word| error.contains(word)),
            "{name}: {error}"
        );
        assert!(took < Duration::from_secs(60), "{name}: {took:?}");
    }
}

#[test]
fn within_the_budget_nothing_changes() {
    let templates = [
        "{{ a }} {{ b ~ a }} {{ l + l }} {{ l * 2 }} {{ a * 3 }} {{ l[1:] }} {{ {'k': l} }} {{ (1, 2) }}",
        "{% for x in l if x != 2 recursive %}{{ loop.index }}{{ x }}{% if loop.last %}!{% endif %}{% else %}none{% endfor %}",
        "{% for x in [] %}{% else %}none{% endfor %}{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
        "{% macro m(p, q=3) %}[{{ p }}{{ q }}{{ caller() if caller }}]{% endmacro %}{{ m(1) }}{% call m(2, q=4) %}c{% endcall %}",
        "{% set ns = namespace(n=0) %}{% for x in l %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
        "{% set t %}cap{{ a }}{% endset %}{{ t|upper }}{% filter lower %}LOUD{{ a }}{% endfilter %}",
        "{% with p = l, q = a %}{{ p }}{{ q }}{% endwith %}{% set x, y = (1, 2) %}{{ y }}{{ x }}",
        "{% if a and l or missing %}yes{% elif a %}no{% else %}never{% endif %}{{ 'x' if l else 'y' }}{{ 1 < 2 < 3 }}",
        "{{ l|join('-') }} {{ a|replace('b', 'c') }} {{ l|tojson(indent=2) }} {{ '%05.1f|%s'|format(2.25, a) }} {{ a|indent(3, true) }}",
        "{{ l|batch(2, 0)|list }} {{ l|slice(2)|list }} {{ l|sum }} {{ l|map('string')|join }} {{ l|select('odd')|list }}",
        "{{ a.replace('a', 'b').upper() }} {{ ','.join(['p', 'q']) }} {{ '{:>5}|{}'.format(1, a) }} {{ d.items()|list }}",
        "{% block one %}in a block {{ a }}{% endblock %}{% raw %}{{ raw }}{% endraw %}\n",
        "{% for row in rows recursive %}{{ row.n }}{% if row.c %}({{ loop(row.c) }}){% endif %}{% endfor %}",
        "{{ missing is defined }} {{ l is sequence }} {{ 2 in l }} {{ missing|default('d') }} {{ l|length }}",
    ];
    let rows = vec![context! { n => 1, c => vec![context! { n => 2, c => Vec::<i32>::new() }] }];
    let values =
        || context! { a => "ab\ncd", b => 1.5, l => vec![1, 2, 3], d => context! { k => 1 }, rows => rows.clone() };
    let mut plain = Environment::new();
    plain.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    plain.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    for source in templates {
        let expected = plain.render_str(source, values()).unwrap_or_else(|error| panic!("{source}: {error:#}"));
        assert_eq!(render(source, values()).as_deref(), Ok(expected.as_str()), "{source}");
    }
}

#[test]
fn errors_name_the_line() {
    let jinja = jinja(Limits::default());
    let error = jinja.compile("one\n{{ a b }}\n").unwrap_err();
    assert_eq!(error.line(), Some(2), "{error}");
    let template = jinja.compile("one\ntwo {{ 1 // 0 }}\n").unwrap();
    let error = template.render(context! {}).unwrap_err();
    assert_eq!((error.line(), error.range().is_some()), (Some(2), true), "{error}");
    let error = jinja.compile(&format!("one\n{{{{ x{} }}}}", ".a".repeat(1000))).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    assert_eq!(jinja.compile("{% set a = 1 %}{{ a }}{{ b }}{{ c.d }}").unwrap().undeclared(), ["b", "c"]);
}

#[test]
fn limits_can_be_set() {
    let limits = Limits { template_bytes: 400, ..Limits::default() };
    let template = jinja(limits).compile("{% for i in 'abcdefghi' %}0123456789{% endfor %}").unwrap();
    assert_eq!(template.render(context! {}).unwrap().len(), 90);
    let template = jinja(limits)
        .compile("{% for i in 'abcdefghi' %}{% for j in 'abcdefghi' %}0123456789{% endfor %}{% endfor %}")
        .unwrap();
    assert!(template.render(context! {}).unwrap_err().to_string().contains("limit"));
}

#[test]
fn filters_of_others_are_reckoned_too() {
    let mut environment = environment();
    let sub = |text: String, _pattern: String, to: String| text.chars().map(|_| to.as_str()).collect::<String>();
    harness_jinja::add_multiplying_filter(&mut environment, "regex_replace", Value::from_function(sub));
    let methods = minijinja_contrib::pycompat::unknown_method_callback;
    let jinja = Jinja::new(environment, SyntaxConfig::default(), print, methods, Limits::default());
    let render = |source: &str| jinja.compile(source).unwrap().render(context! {});
    assert_eq!(render("{{ 'abc'|regex_replace('.', 'xy') }}").unwrap(), "xyxyxy");
    let error = render("{{ ('a' * 1000000)|regex_replace('.', 'b' * 1000) }}").unwrap_err();
    assert!(error.to_string().contains("limit"), "{error}");
}
