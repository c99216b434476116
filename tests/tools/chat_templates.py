"""What transformers renders for the idioms of chat templates.

    python chat_templates.py > crates/engine/tests/fixtures/chat_templates.json      (recorded with transformers 5.24, Jinja 3.1)

A case is the template's text and what it gives for MESSAGES and VARIABLES, or null where it fails.
"""

import json

from transformers import __version__
from transformers.utils.chat_template_utils import render_jinja_template

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi <b> & 'you' \"é\" "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes", "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": [1.0, None, True, "ü"]}}}]},
    {"role": "tool", "content": "3"},
    {"role": "user", "content": "Bye"},
]
VARIABLES = {"bos_token": "<s>", "enable_thinking": False, "number": 7, "share": 0.5, "names": ["b", "a", "c"],
             "table": {"z": 1, "y": {"x": "w"}}, "none": None, "text": "a,b,,c  d\n", "big": 12345678901234567890, "whole": 3.0}
TEMPLATES = [
    "{% for k, v in table|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in table.items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ table.keys()|list }} {{ table.values()|list }}",
    "{{ table.get('z') }} {{ table.get('q', 'none') }} {{ table['q'] is defined }}",
    "{% for k, v in table|dictsort %}{{ k }} {% endfor %}",
    "{{ table | tojson }}",
    "{{ table | tojson(indent=2) }}",
    "{{ table | tojson(2) }}",
    "{{ table | tojson(ensure_ascii=True) }}",
    "{{ messages[1].content | tojson }} {{ messages[1].content | tojson(ensure_ascii=True) }}",
    "{{ messages[2].tool_calls | tojson(separators=(',', ':')) }}",
    "{{ messages[2].tool_calls[0].function.arguments | tojson(sort_keys=true) }}",
    "{{ messages[2].tool_calls[0].function.arguments | string }}",
    "{{ messages[2].tool_calls[0] }}",
    "{{ names }} {{ names | join(', ') }} {{ names | sort }} {{ names | length }}",
    "{{ names[::-1] }} {{ names[1:] }} {{ names[-1] }} {{ names[:-1] }}",
    "{{ text.split(',') }} {{ text.split() }} {{ text.split(',', 1) }}",
    "{{ text.rsplit(',', 1) }} {{ text.splitlines() }} {{ text.strip() | length }}",
    "{{ text.replace(',', ';') }}|{{ text.upper() }}|{{ text.title() }}|{{ 'abc'.capitalize() }}",
    "{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}",
    "{{ messages[2].content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}",
    "{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('c', 'x')) }} {{ 'b' in 'abc' }} {{ 'abc'.find('c') }} {{ 'abca'.count('a') }}",
    "{{ '%s is %d' | format('a', 3) }} {{ '%05.2f' | format(share) }}",
    "{{ '{} {}'.format('a', 1) }}",
    "{{ number / 2 }} {{ number // 2 }} {{ number % 4 }} {{ number ** 2 }} {{ -number // 2 }} {{ share * 2 }}",
    "{{ whole }} {{ big }} {{ 1e20 }} {{ 1 == 1.0 }} {{ 10 / 5 }} {{ number | float }} {{ '3' | int + 1 }}",
    "{{ true }} {{ none }} {{ None }} {{ False }} {{ [true, none] }} {{ enable_thinking }}",
    "{{ undefined_thing }}|{{ undefined_thing is defined }}|{{ undefined_thing | default('x') }}|{{ none | default('y', true) }}",
    "{{ undefined_thing.attribute }}",
    "{{ messages[0].nothing is defined }} {{ messages[0]['nothing'] is none }} {{ messages[0].nothing }}|",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ loop_messages | length }}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'tool' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m.role }} {% endfor %}",
    "{% macro turn(m, end='|') %}{{ m.role }}{{ end }}{% endmacro %}{{ turn(messages[0]) }}{{ turn(messages[1], end='!') }}",
    "{%- macro outer() -%}{{ caller() }}{%- endmacro -%}{% call outer() %}in{% endcall %}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }}",
    "{{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | join('+') }}",
    "{{ (messages | selectattr('role', '==', 'user') | list)[-1].content }}",
    "{{ messages | map(attribute='role') | unique | list }} {{ names | first }} {{ names | last }}",
    "{{ messages[1].content is string }} {{ messages is sequence }} {{ table is mapping }} {{ number is number }} {{ names is iterable }}",
    "{{ messages[1].content | trim }}|{{ messages[1].content | length }}|{{ messages[1].content | e }}",
    "{{ messages[1].content | upper }}|{{ 'a b' | title }}|{{ 'x' * 3 }}|{{ 'ab' ~ 1 ~ none }}",
    "{{ 'a' 'b' }}",
    "{{ range(3) | list }} {{ range(1, 6, 2) | list }}",
    "{{ dict(a=1, b='c') }}",
    "{{ names + ['d'] }} {{ {'a': 1} }} {{ ('a', 1) }} {{ [] }} {{ {} }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set block %}\n  text {{ number }}\n{% endset %}[{{ block }}]",
    "{% filter upper %}abc{% endfilter %}",
    "  {% if true %}\n  x\n  {% endif %}\n y\n",
    "{{- ' a ' -}}  \n {%- if true -%}  b  {%- endif +%}  \n c",
    "{# note #}\nafter\n{#- note -#}\n end",
    "{% raw %}{{ x }}{% endraw %}",
    "{{ 'it''s' }}",
    "{{ \"a\\tb\\\\n\\u00e9\\x41\" }}",
    "{{ 1 if number > 5 else 2 }} {{ 'x' if none }}|{{ not number }} {{ number is odd }} {{ number is divisibleby 7 }}",
    "{{ number > 5 and share < 1 or none }} {{ none or 'b' }} {{ 0 or '' or 'c' }}",
    "{{ 5 < number <= 7 }}",
    "{{ messages[0].role in ['system', 'developer'] }} {{ 'role' in messages[0] }} {{ 'x' not in table }}",
    "{{ share | round(1) }} {{ 2.5 | round }} {{ 7 | string | length }} {{ -3 | abs }}",
    "{{ names | sum(start='') if false else [1, 2] | sum }} {{ [3, 1] | max }} {{ [3, 1] | min }}",
    "{{ names | reverse | list }} {{ 'abc' | reverse }} {{ names | batch(2) | list }}",
    "{{ text | replace(',', '') }} {{ 'a\\nb' | indent(2) }} {{ 'a\\nb' | indent(2, true) }}",
    "{{ 'abcdef' | truncate(5) }} {{ 'a b c' | wordcount }} {{ '<a>' | striptags }}",
    "{{ messages[1:] | tojson }}",
    "{{ messages[2].tool_calls[0].function.arguments.items() | list }}",
    "{{ names.index('c') }}",
    "{{ names.append('z') }}",
    "{{ table.update({'a': 1}) }}",
    "{{ 'a-b'.partition('-') }}",
    "{{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'aB'.swapcase() }} {{ 'a'.zfill(3) }} {{ 'a'.ljust(3) }}|",
    "{{ 'x,y'.join(['a', 'b']) }} {{ 'prefix-a'.removeprefix('prefix-') }} {{ 'é'.encode('utf-8') | length }}",
    "{{ messages | groupby('role') | length }}",
    "{{ raise_exception('wrong') }}",
    "{{ lipsum() | length > 0 }}",
    "{{ cycler('a', 'b').next() }} {% set j = joiner(', ') %}{{ j() }}a{{ j() }}b",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}",
    "{% for x in names recursive %}{{ x }}{{ loop.cycle('o', 'e') }}{{ loop.previtem | default('-') }}{{ loop.nextitem | default('-') }}{{ loop.revindex }}{{ loop.depth }} {% endfor %}",
    "{% with a = 1 %}{{ a }}{% endwith %}{% do names %}",
    "{{ bos_token + 'x' }}{{ bos_token + 1 | string }}",
    "{{ 'a' + 1 }}",
    "{{ names | tojson | length }} {{ share | tojson }} {{ whole | tojson }} {{ big | tojson }} {{ '\\u2028/' | tojson }}",
    "{{ messages[0] | items | list }}",
    "{{ number | int // 2 }} {{ '%.3f' % share }} {{ '%s' % 'a' }}",
    "{{ 'a' < 'b' }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }} {{ none is none }} {{ none == false }}",
    "{{ messages[-1]['content'][:2] }} {{ 'hello'[1:-1] }} {{ 'hello'[::-1] }}",
]


def main():
    cases = []
    for source in TEMPLATES:
        try:
            text = render_jinja_template([MESSAGES], chat_template=source, **VARIABLES)[0][0]
        except Exception:
            text = None
        cases.append([source, text])
    print(json.dumps({"transformers": __version__, "messages": MESSAGES, "variables": VARIABLES}, ensure_ascii=False)[:-1], end="")
    print(', "cases": [')
    print(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases))
    print("]}")


if __name__ == "__main__":
    main()
