//! Python's syntax of regular expressions in that of fancy-regex.

/// Rewrites the syntax in which Python differs: `$` and `\Z`, `\w` and `\s`, brackets inside of classes, braces that
/// are no quantifier, escapes of letters' neighbours, comments.
pub fn translate_python_regex(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let multi_line = has_flag(&chars, 'm');
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut i = 0;
    let mut class_start = None;
    while i < chars.len() {
        let c = chars[i];
        if c == '\\' {
            i += escape_sequence(&chars[i..], class_start.is_some(), &mut out);
            continue;
        }
        if let Some(start) = class_start {
            match c {
                ']' if i > start => {
                    class_start = None;
                    out.push(']');
                }
                '[' | ']' | '&' | '~' => {
                    out.push('\\');
                    out.push(c);
                }
                '-' if chars.get(i + 1) == Some(&'-') => out.push_str("\\-"),
                _ => out.push(c),
            }
            i += 1;
            continue;
        }
        match c {
            '[' => {
                out.push('[');
                if chars.get(i + 1) == Some(&'^') {
                    out.push('^');
                    i += 1;
                }
                class_start = Some(i + 1);
            }
            '$' if !multi_line => out.push_str("(?=\\n?\\z)"),
            '{' => match quantifier(&chars[i..]) {
                Some((text, length)) => {
                    out.push_str(&text);
                    i += length;
                    continue;
                }
                None => out.push_str("\\{"),
            },
            '}' => out.push_str("\\}"),
            '(' if chars[i..].starts_with(&['(', '?', '#']) => {
                i += chars[i..].iter().position(|&c| c == ')').unwrap_or(chars.len() - i - 1);
            }
            '(' if chars[i..].starts_with(&['(', '?']) => {
                out.push_str("(?");
                i += 2;
                // Flags without a counterpart: a (ASCII), L, u (the default).
                while i < chars.len() && (chars[i].is_ascii_lowercase() || chars[i] == 'L') {
                    if !matches!(chars[i], 'a' | 'L' | 'u') || chars.get(i.wrapping_sub(1)) == Some(&'<') {
                        out.push(chars[i]);
                    }
                    i += 1;
                }
                continue;
            }
            _ => out.push(c),
        }
        i += 1;
    }
    out
}

/// Whether a global or scoped inline flag is set anywhere.
fn has_flag(chars: &[char], flag: char) -> bool {
    chars.windows(2).enumerate().any(|(i, pair)| {
        pair == ['(', '?']
            && chars[i + 2..].iter().take_while(|c| c.is_ascii_alphabetic()).any(|&c| c == flag)
            && chars[i + 2..].iter().find(|c| !c.is_ascii_alphabetic()).is_some_and(|&c| matches!(c, ')' | ':' | '-'))
    })
}

/// A quantifier in braces with its length in characters; `{,n}` is written with its 0.
fn quantifier(chars: &[char]) -> Option<(String, usize)> {
    let end = chars.iter().position(|&c| c == '}')?;
    let body: String = chars[1..end].iter().collect();
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let text = match body.split_once(',') {
        None if !body.is_empty() && digits(&body) => format!("{{{body}}}"),
        Some((low, high)) if digits(low) && digits(high) && (!low.is_empty() || !high.is_empty()) => {
            format!("{{{},{high}}}", if low.is_empty() { "0" } else { low })
        }
        _ => return None,
    };
    Some((text, end + 1))
}

/// Writes one escape sequence; returns its length in characters.
fn escape_sequence(chars: &[char], in_class: bool, out: &mut String) -> usize {
    let Some(&c) = chars.get(1) else {
        out.push('\\');
        return 1;
    };
    let hex = |digits: usize| -> Option<String> {
        let code: String = chars.get(2..2 + digits)?.iter().collect();
        code.chars().all(|c| c.is_ascii_hexdigit()).then_some(code)
    };
    match c {
        'Z' => out.push_str("\\z"),
        'w' if in_class => out.push_str("\\p{L}\\p{N}_"),
        'w' => out.push_str("[\\p{L}\\p{N}_]"),
        'W' => out.push_str("[^\\p{L}\\p{N}_]"),
        's' if in_class => out.push_str("\\s\\x1c-\\x1f"),
        's' => out.push_str("[\\s\\x1c-\\x1f]"),
        'S' => out.push_str("[^\\s\\x1c-\\x1f]"),
        'b' if in_class => out.push_str("\\x08"),
        '0' => out.push_str("\\x00"),
        'u' | 'U' => {
            let digits = if c == 'u' { 4 } else { 8 };
            match hex(digits) {
                Some(code) => {
                    out.push_str(&format!("\\x{{{code}}}"));
                    return 2 + digits;
                }
                None => out.push_str("\\u"),
            }
        }
        c if c.is_ascii_alphanumeric() => {
            out.push('\\');
            out.push(c);
        }
        c if c.is_ascii_punctuation()
            && !matches!(c, '<' | '>' | '\'' | '"' | '`' | '_' | '/' | '@' | '!' | '%' | ',' | ':' | ';' | '=') =>
        {
            out.push('\\');
            out.push(c);
        }
        c => out.push(c),
    }
    2
}
