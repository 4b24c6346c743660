"""Hostile templates, and patterns of the errors that they must raise."""

from __future__ import annotations

# Python's words that no rendered text may contain
LEAK = r"<(class|function|module|built-in|bound|code|frame)|uid=|root:|object at"
OUT_OF_TIME = r"took more than [\d.]+ seconds"
OUT_OF_MEMORY = r"needs more than \d+ MB of memory|took more than [\d.]+ seconds"
# every known way out of sandboxes to Python's internals
INSIDES = [
    "''.__class__.__mro__[1].__subclasses__()",
    "''['__class__']",
    "''|attr('__class__')|attr('__mro__')",
    "''|attr('_' ~ '_class_' ~ '_')|attr('mro')()",
    "()|map(attribute='__class__')|list|first|attr('x')",
    "[1]|map(attribute='__class__.__mro__')|list|first|first",
    "[1]|map('attr', '__class__')|list|first|attr('mro')()",
    "[1]|groupby('__class__')|first|first|attr('mro')()",
    "[1]|sort(attribute='__class__.__mro__')|map('attr','__class__')|first|attr('x')()",
    "cycler.__init__.__globals__",
    "lipsum.__globals__['os'].popen('id').read()",
    "lipsum|attr('__globals__')|attr('get')('os')",
    "namespace.__init__.__globals__",
    "joiner.__init__.__globals__.os",
    "range.__class__.__base__",
    "dict.__base__.__subclasses__()",
    "self.__init__.__globals__",
    "self._TemplateReference__context.parent",
    "(1).real.__class__",
    "'{0.__class__}'.format(1)",
    "'{0.__class__.__mro__}'|format",
    "'{a.__init__}'.format_map({'a': cycler})",
    "'{0.__class__.__mro__}'.format('')|attr('x')",
    "('{0.__cl' ~ 'ass__}').format(1)",
    "''.format.__self__",
    "''|attr('format')('{0.__class__}')",
    "['{0.__class__}'.format]|map('string')|first|attr('__func__')",
    "dict(a=''.format).a('{0.__class__.__init__.__globals__}', cycler)",
    "(lipsum|attr('__code__')).co_consts",
    "cycler(1).reset.__func__",
    "(range(3)|batch(1))|attr('gi_frame')",
    "(range(3)|batch(1)).gi_frame.f_builtins",
    "[]|attr('append')|attr('__self__')|attr('__class__')",
    "loop.__init__",
    "messages[0].__class__",
    "{}.__getitem__.__self__",
    "1|attr('denominator')|attr('__class__')",
    "None.__class__",
    "true.__class__.__bases__",
]
# templates that would change their inputs, or read files
CHANGES = [
    "{{ row.update(a=1) }}",
    "{{ messages.append(1) }}",
    "{{ [].append(1) }}",
    "{% set x = {} %}{{ x.setdefault('a', 1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.name }}",
    "{% extends '/etc/passwd' %}",
    "{% from 'x' import y %}",
]
_SQUARES = "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}"
# templates that never finish, many in a single C call that no signal interrupts
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) if range(99999)|sum < 0 %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 9 ** (9 ** 9) }}",
    _SQUARES + "{{ n.x % 7 }}",
    "{% set s = '(' * 2000000 %}{% for i in range(99999) %}{% set x = (s ~ i)|urlize %}{% endfor %}",
    "{{ ('a ' * 3000000)|wordwrap(1)|wordwrap(2)|wordwrap(1)|wordwrap(2)|length }}"
    "{% for i in range(9999) %}{{ ('a ' * 999999)|title|length }}{% endfor %}",
    "{% for i in range(99999) %}{% if (range(99999)|list|sort)[0] %}{% endif %}{% endfor %}",
    "{% for x in [0] recursive %}{% for i in range(99999) %}{{ loop.cycle(1)|string|length }}{% endfor %}"
    "{% if loop.depth < 900 %}{{ loop([0]) }}{% endif %}{% endfor %}",
]
GREEDY = [
    "{{ 'a' * 10 ** 10 }}",
    "{{ 'a' | center(9999999999) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ 'a'.ljust(9999999999) }}",
    "{{ '%s' % ('a' * 999999999) }}",
    "{{ ('a' * 9999999, ) * 9999 | join }}{{ (['a' * 9999999] * 999) | join }}",
    "{{ ([1] * 9999999999) | length }}",
    "{{ 'a' | indent(9999999999, true) }}",
    "{{ ('ab' * 9999999) | replace('a', 'b' * 999) | length }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
    "{{ lipsum(n=99999, min=999, max=9999) | length }}",
    "{{ range(99999) | map('string') | join('a' * 99999) | length }}",
    "{{ 'x'.zfill(9999999999) }}",
    "{{ ('a\t' * 99999).expandtabs(9999999) | length }}",
    "{{ ('a' * 99999999) | tojson | length }}{{ ('é' * 99999999) | urlencode | length }}",
]
# texts that are too long, and templates beyond the limits of Python or the sandbox
OTHERS = [
    ("{{ 'a' * 20000000 }}", "20000000 characters"),
    ("{{ range(10 ** 9) | length }}", "Range too big|too many items"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "infinite recursion"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "infinite recursion|nested|memory"),
    ("{% for a in [1] %}" * 60 + "{% endfor %}" * 60, "nested"),
    ("{{ " + "not " * 20000 + "1 }}", "infinite recursion|nested|memory"),
    ("{{ '{:{}'.format(1) }}", "unmatched|expected"),
    ("{{ 10 ** 5000 }}", "4300|digits|5000 characters"),
]
