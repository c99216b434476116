//! Mutations of seeds, the same every time.

use harness_test_support::model::Numbers;

/// Longest mutation.
const LONGEST: usize = 1 << 16;
/// Numbers at the borders of types.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 127, 255, 65_535, 1 << 24, (1 << 31) - 1, 1 << 32, 1 << 47, i64::MAX as u64, u64::MAX];
/// The same and others as text.
const TEXTS: [&str; 18] = [
    "0",
    "-1",
    "1",
    "2.5",
    "1e5",
    "-1e38",
    "1e400",
    "-0.0",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\"x\"",
    "[[[[[[[[",
];
/// Marks of the formats.
const MARKS: [&str; 24] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "{% for i in range(9) %}",
    "{% endfor %}",
    "|",
    "*",
    "**",
    "(",
    ")",
    "!function a.b",
    "&a ",
    "*a",
    "- ",
    ": ",
    "\n",
    "\r\n\r\n",
    "\\ud800",
    "\u{0}",
    "\u{1b}[2J",
    "../",
    "é🙂",
];

/// An endless row of mutations.
pub(crate) struct Mutator {
    seeds: Vec<Vec<u8>>,
    numbers: Numbers,
}

impl Mutator {
    /// Mutations of seeds of which there is at least one.
    pub(crate) fn new(target: &str, seeds: Vec<Vec<u8>>) -> Self {
        Self { seeds, numbers: Numbers::new(1, target) }
    }

    /// A number below a limit; 0 if the limit is.
    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.numbers.bits() % limit as u64) as usize }
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Begin and end of a part, mostly a short one.
    fn part(&mut self, len: usize) -> (usize, usize) {
        let begin = self.below(len + 1);
        let most = if self.below(4) == 0 { len } else { 16 };
        (begin, (begin + self.below(most + 1)).min(len))
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(10) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.numbers.bits() as u8,
            2 => {
                let number = self.one_of(&NUMBERS).to_le_bytes();
                let width = self.one_of(&[1, 2, 4, 8]).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => {
                let (begin, end) = self.part(bytes.len());
                bytes.drain(begin..end);
            }
            4 => {
                let (begin, end) = self.part(bytes.len());
                let copy = bytes[begin..end].repeat(self.one_of(&[1, 1, 2, 40]));
                bytes.splice(at..at, copy);
            }
            5 => {
                let mark = self.one_of(&MARKS).repeat(self.one_of(&[1, 1, 1, 300]));
                bytes.splice(at..at, mark.bytes());
            }
            6 => {
                let other = self.below(self.seeds.len());
                let from = self.below(self.seeds[other].len());
                bytes.truncate(at);
                bytes.extend_from_slice(&self.seeds[other][from..]);
            }
            7 => bytes.truncate(at),
            // A value of a text becomes another one.
            _ => {
                let is_value = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._\"".contains(byte);
                let begin = at + bytes[at..].iter().position(is_value).unwrap_or(0);
                let len = bytes[begin..].iter().take_while(|byte| is_value(byte)).count();
                let text = self.one_of(&TEXTS);
                bytes.splice(begin..begin + len, text.bytes());
            }
        }
        bytes.truncate(LONGEST);
    }
}

impl Iterator for Mutator {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let seed = self.below(self.seeds.len());
        let mut bytes = self.seeds[seed].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut bytes);
        }
        Some(bytes)
    }
}
