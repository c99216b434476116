//! Names of the files that a GGUF model is split into.

/// The name of one part, `MODEL-00001-of-00003.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    stem: String,
    /// Number of this part, from 0.
    pub index: usize,
    /// Number of parts.
    pub count: usize,
}

impl SplitName {
    /// Reads a file's name; `None` if it is not the name of a part.
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let read = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<usize>().ok().filter(|_| digits)
        };
        let (number, count) = (read(number)?, read(count)?);
        (1..=count).contains(&number).then(|| Self { stem: stem.to_owned(), index: number - 1, count })
    }

    /// The name of the part with this number, from 0.
    pub fn part(&self, index: usize) -> String {
        format!("{}-{:05}-of-{:05}.gguf", self.stem, index + 1, self.count)
    }

    /// The names of all parts.
    pub fn parts(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(|index| self.part(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_read_and_written() {
        let name = SplitName::parse("a-b-of-c-00002-of-00003.gguf").unwrap();
        assert_eq!((name.index, name.count), (1, 3));
        assert_eq!(name.parts().collect::<Vec<_>>()[2], "a-b-of-c-00003-of-00003.gguf");
        for other in [
            "model.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
            "m-1-of-2.gguf",
            "00001-of-00002.bin",
            "m-000001-of-999999.gguf",
        ] {
            assert_eq!(SplitName::parse(other), None, "{other}");
        }
    }
}
