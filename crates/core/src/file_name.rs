//! Names as names of files.

use std::borrow::Cow;

use crate::{Digest, is_hidden};

/// Most bytes of a name in a file's name: a prefix, a time, an extension and what makes a temporary file of it fit beside
/// it into the 255 bytes of file systems.
const LONGEST: usize = 180;

/// What stands between the beginning of a name that is too long and the digest of the whole name.
const CUT: &str = "%~";

/// A name (of a task, a model, a candidate) as a part of a file's name, which stays in the folder it is put into.
///
/// Ordinary names are as they are. Bytes of characters that part folders, mean something to a shell or to Windows, or
/// are [hidden](is_hidden), are written `%2F`; so is `%` before what looks like that. A leading dot and a dot or space at
/// the end are written so too. [`name_of_file_part`] gives the name back. Of a name of more than 180 bytes its beginning
/// stays, and its digest follows `%~`: two names never share a file.
pub fn file_part(name: &str) -> Cow<'_, str> {
    let mut part = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let rest = &name[at + c.len_utf8()..];
        let odd = match c {
            '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*' | '\n' | '\t' => true,
            '.' => at == 0 || rest.is_empty(),
            ' ' => rest.is_empty(),
            '%' => escaped(rest).is_some() || rest.starts_with('~'),
            c => is_hidden(c),
        };
        if odd {
            let mut bytes = [0; 4];
            part.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        } else {
            part.push(c);
        }
    }
    if part.len() <= LONGEST {
        return if part == name { Cow::Borrowed(name) } else { Cow::Owned(part) };
    }
    let digest = Digest::of(name).short();
    let mut end = LONGEST - CUT.len() - digest.len();
    // Neither a character nor an escape is cut in two.
    while !part.is_char_boundary(end) || part[..end].rfind('%').is_some_and(|at| end - at < 3) {
        end -= 1;
    }
    Cow::Owned(format!("{}{CUT}{digest}", &part[..end]))
}

/// A name as the whole name of a file or folder, with an extension or without: as [`file_part`], and no name of a device
/// of Windows (`con`, `lpt1`) either.
pub fn file_name(name: &str) -> Cow<'_, str> {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = |device: &str| stem.strip_prefix(device).is_some_and(|n| matches!(n.as_bytes(), [b'1'..=b'9']));
    let device = matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt");
    match (device, name.chars().next()) {
        (true, Some(first)) => Cow::Owned(format!("%{:02X}{}", u32::from(first), file_part(&name[1..]))),
        (_, None) => Cow::Borrowed("%~"),
        _ => file_part(name),
    }
}

/// The name that [`file_part`] or [`file_name`] has written; `None` if it was too long to be written whole.
pub fn name_of_file_part(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '%' if after.starts_with('~') => return (after.len() == 1 && bytes.is_empty()).then(String::new),
            '%' if let Some(byte) = escaped(after) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
                rest = after;
            }
        }
    }
    Some(String::from_utf8(bytes).unwrap_or_else(|_| part.to_owned()))
}

/// The byte that two hexadecimal digits after a `%` stand for.
fn escaped(rest: &str) -> Option<u8> {
    let digits = rest.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    #[test]
    fn ordinary_names_stay() {
        for name in
            ["mmlu_college_biology", "Qwen2.5-0.5B (chat)", "r8, r32", "10 % more", "été 漢", "a..b", "x=1&y", "50%"]
        {
            assert!(matches!(file_part(name), Cow::Borrowed(same) if same == name), "{name}");
            assert_eq!(file_name(name), name);
        }
    }

    /// Every name keeps to its folder, is told apart from all others, and can be read back.
    #[test]
    fn odd_names_are_mapped_and_read_back() {
        let names = [
            "..",
            ".",
            "...",
            "../x",
            "/etc/x",
            "a/b",
            "a%2Fb",
            "a%252Fb",
            "%",
            "%%2f",
            "%~",
            "a%~b",
            "C:\\x",
            "a\\b",
            "x\0y",
            "x\ny",
            ".hidden",
            "x.",
            "x ",
            " x",
            "CON",
            "con.txt",
            "Lpt9",
            "com",
            "a\u{202e}b",
            "%/",
            "é/漢|",
            "%4",
            "%2/",
            "~",
            "a?b*c",
            "nul\u{1b}",
            "",
        ];
        for map in [file_part, file_name] {
            let parts: BTreeSet<String> = names.iter().map(|name| map(name).to_lowercase()).collect();
            assert_eq!(parts.len(), names.len());
        }
        for name in names {
            assert_eq!(name_of_file_part(&file_part(name)).as_deref(), Some(name), "{name:?}");
            let file = file_name(name);
            assert_eq!(name_of_file_part(&file).as_deref(), Some(name), "{name:?}");
            assert_eq!(Path::new("out").join(&*file).parent(), Some(Path::new("out")), "{file}");
            assert!(!file.chars().any(|c| c.is_control()) && !file.is_empty(), "{file}");
        }
        assert_eq!(file_name("aux"), "%61ux");
    }

    #[test]
    fn long_names_are_cut_and_told_apart() {
        for long in ["x".repeat(181), "/".repeat(100), "漢".repeat(400), format!("{}%2F", "y".repeat(178))] {
            let (one, other) = (format!("{long}a"), format!("{long}b"));
            let part = file_part(&one);
            assert!(part.len() <= LONGEST && part.contains(CUT), "{part}");
            assert_ne!(part, file_part(&other));
            assert_eq!(name_of_file_part(&part), None);
            // No name can be given another's file.
            assert_ne!(file_part(&part), part);
            let bare = part.split_once(CUT).unwrap().0;
            assert!(one.starts_with(&name_of_file_part(bare).unwrap()), "{bare}");
        }
        assert_eq!(file_part(&"x".repeat(180)).len(), 180);
    }
}
