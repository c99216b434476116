//! SentencePiece's compiled normalisation: a trie (a double array, as darts-clone writes it) from texts to where their
//! replacements begin. The library that reads it follows the trie without a look at its length.

/// Checks that no text leads out of the trie, nor out of the replacements.
///
/// # Errors
/// What is wrong.
pub(super) fn check(map: &[u8]) -> Result<(), String> {
    let broken = |what: &str| Err(format!("{what}; the file is broken"));
    let Some((&size, rest)) = map.split_first_chunk() else { return broken("it has no length") };
    let size = u32::from_le_bytes(size) as usize / 4 * 4;
    let Some((trie, replacements)) = rest.split_at_checked(size) else {
        return Err(format!("a trie of {size} bytes, of which {} are there; the file is broken", rest.len()));
    };
    let Ok(replacements) = std::str::from_utf8(replacements) else { return broken("replacements that are no UTF-8") };
    let units: Vec<u32> = trie.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let Some(&root) = units.first() else { return broken("an empty trie") };

    let mut seen = vec![false; units.len()];
    let mut bases = vec![offset(root)];
    while let Some(base) = bases.pop() {
        match seen.get_mut(base) {
            Some(seen) if *seen => continue,
            Some(seen) => *seen = true,
            None => return broken("a trie that leads beyond its end"),
        }
        for letter in 1..=255 {
            let at = base ^ letter as usize;
            let Some(&unit) = units.get(at) else { return broken("a trie that leads beyond its end") };
            // The highest bit marks a value, which no letter equals.
            if unit & (1 << 31 | 0xff) != letter {
                continue;
            }
            let next = at ^ offset(unit);
            bases.push(next);
            let leaf = unit >> 8 & 1 == 1;
            let value = units.get(next).map(|unit| (unit & !(1 << 31)) as usize);
            if leaf && !value.is_some_and(|value| replacements.is_char_boundary(value)) {
                return broken("a replacement that begins beyond the last one or within a letter");
            }
        }
    }
    Ok(())
}

/// What leads from a unit to its children.
fn offset(unit: u32) -> usize {
    (unit as usize >> 10) << ((unit & (1 << 9)) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie in which `a` becomes what begins at a byte of `xé`.
    fn map(value: u32, units: usize) -> Vec<u8> {
        let mut trie = vec![0u32; units];
        trie[0] = 1 << 10;
        // Child `a` of base 1, whose own base is 2 beyond.
        trie[1 ^ 97] = 97 | 1 << 8 | (1 ^ 97 ^ 2) << 10;
        trie[2] = value | 1 << 31;
        let units: Vec<u8> = trie.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(units.len() as u32).to_le_bytes(), units.as_slice(), "x\0é\0".as_bytes()].concat()
    }

    #[test]
    fn maps_that_lead_nowhere_are_refused() {
        for (value, right) in [(0, true), (2, true), (3, false), (5, true), (6, false), (1 << 30, false)] {
            assert_eq!(check(&map(value, 256)).is_ok(), right, "{value}");
        }
        assert!(check(&map(0, 200)).unwrap_err().contains("beyond its end"));
        assert!(check(&map(0, 256)[..100]).unwrap_err().contains("a trie of 1024 bytes, of which 96 are there"));
        assert!(check(&[0; 4]).unwrap_err().contains("empty"));
    }

    #[test]
    fn what_passes_is_read_by_the_library() {
        use tokenizers::{NormalizedString, Normalizer, normalizers::Precompiled};
        let normalizer = Precompiled::from(&map(2, 256)).unwrap();
        let mut text = NormalizedString::from("banana");
        normalizer.normalize(&mut text).unwrap();
        assert_eq!(text.get(), "bénéné");
    }
}
