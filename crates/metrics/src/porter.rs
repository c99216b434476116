//! The Porter stemmer (Porter 1980) with the extensions of nltk, which rouge-score uses.

/// The stem of a word, lower-cased, by nltk's `PorterStemmer` in its default mode `NLTK_EXTENSIONS`.
///
/// It differs from the original algorithm in a list of irregular forms, in words of one and two letters, in `-ies` and
/// `-ied`, in `y` after a consonant, and in the suffixes `-alli`, `-bli`, `-fulli` and `-logi`.
pub fn porter_stem(word: &str) -> String {
    let lower = word.to_lowercase();
    if let Some(stem) = irregular(&lower) {
        return stem.to_owned();
    }
    let mut word: Vec<char> = lower.chars().collect();
    if word.len() <= 2 {
        return lower;
    }
    plural(&mut word);
    past_and_gerund(&mut word);
    final_y(&mut word);
    double_suffix(&mut word);
    full_and_ness(&mut word);
    residual_suffix(&mut word);
    final_e(&mut word);
    double_l(&mut word);
    word.into_iter().collect()
}

fn irregular(word: &str) -> Option<&'static str> {
    Some(match word {
        "sky" | "skies" => "sky",
        "dying" => "die",
        "lying" => "lie",
        "tying" => "tie",
        "news" => "news",
        "innings" | "inning" => "inning",
        "outings" | "outing" => "outing",
        "cannings" | "canning" => "canning",
        "howe" => "howe",
        "proceed" => "proceed",
        "exceed" => "exceed",
        "succeed" => "succeed",
        _ => return None,
    })
}

/// Whether the letter is a consonant: not a vowel, nor a `y` after a consonant.
fn is_consonant(word: &[char], i: usize) -> bool {
    match word[i] {
        'a' | 'e' | 'i' | 'o' | 'u' => false,
        'y' => {
            // Each further y before it turns the answer over.
            let run = word[..i].iter().rev().take_while(|&&c| c == 'y').count();
            let first = i - run;
            let before = first > 0 && is_consonant(word, first - 1);
            before == (run % 2 == 1)
        }
        _ => true,
    }
}

/// Number of vowel-consonant sequences: m in `[C](VC)ᵐ[V]`.
fn measure(stem: &[char]) -> usize {
    (1..stem.len()).filter(|&i| is_consonant(stem, i) && !is_consonant(stem, i - 1)).count()
}

fn contains_vowel(stem: &[char]) -> bool {
    (0..stem.len()).any(|i| !is_consonant(stem, i))
}

fn ends_in_double_consonant(word: &[char]) -> bool {
    let n = word.len();
    n >= 2 && word[n - 1] == word[n - 2] && is_consonant(word, n - 1)
}

/// Whether the word ends consonant, vowel, consonant other than w, x, y; or is a vowel and a consonant.
fn ends_in_cvc(word: &[char]) -> bool {
    let n = word.len();
    if n == 2 {
        return !is_consonant(word, 0) && is_consonant(word, 1);
    }
    n >= 3
        && is_consonant(word, n - 3)
        && !is_consonant(word, n - 2)
        && is_consonant(word, n - 1)
        && !matches!(word[n - 1], 'w' | 'x' | 'y')
}

/// Length of the word without the suffix, if it has it.
fn without(word: &[char], suffix: &str) -> Option<usize> {
    let length = word.len().checked_sub(suffix.len())?;
    word[length..].iter().copied().eq(suffix.chars()).then_some(length)
}

fn replace(word: &mut Vec<char>, stem: usize, suffix: &str) {
    word.truncate(stem);
    word.extend(suffix.chars());
}

/// Applies the first rule whose suffix the word has, if the condition holds for its stem.
fn first_rule(word: &mut Vec<char>, rules: &[(&str, &str)], condition: impl Fn(&[char]) -> bool) {
    for (suffix, replacement) in rules {
        if let Some(stem) = without(word, suffix) {
            if condition(&word[..stem]) {
                replace(word, stem, replacement);
            }
            return;
        }
    }
}

/// Step 1a.
fn plural(word: &mut Vec<char>) {
    if word.len() == 4 && without(word, "ies").is_some() {
        replace(word, 1, "ie");
        return;
    }
    first_rule(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true);
}

/// Step 1b.
fn past_and_gerund(word: &mut Vec<char>) {
    if let Some(stem) = without(word, "ied") {
        replace(word, stem, if stem == 1 { "ie" } else { "i" });
        return;
    }
    if let Some(stem) = without(word, "eed") {
        if measure(&word[..stem]) > 0 {
            replace(word, stem, "ee");
        }
        return;
    }
    let stem =
        ["ed", "ing"].iter().filter_map(|suffix| without(word, suffix)).find(|&stem| contains_vowel(&word[..stem]));
    let Some(stem) = stem else { return };
    word.truncate(stem);
    for (suffix, replacement) in [("at", "ate"), ("bl", "ble"), ("iz", "ize")] {
        if let Some(stem) = without(word, suffix) {
            replace(word, stem, replacement);
            return;
        }
    }
    if ends_in_double_consonant(word) {
        if !matches!(word.last(), Some('l' | 's' | 'z')) {
            word.pop();
        }
    } else if measure(word) == 1 && ends_in_cvc(word) {
        word.push('e');
    }
}

/// Step 1c.
fn final_y(word: &mut [char]) {
    let stem = word.len() - 1;
    if word[stem] == 'y' && stem > 1 && is_consonant(word, stem - 1) {
        word[stem] = 'i';
    }
}

/// Step 2.
fn double_suffix(word: &mut Vec<char>) {
    const RULES: [(&str, &str); 21] = [
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),
        ("alli", "al"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),
    ];
    if let Some(stem) = without(word, "alli")
        && measure(&word[..stem]) > 0
    {
        replace(word, stem, "al");
        return double_suffix(word);
    }
    if let Some(stem) = without(word, "logi") {
        // The l counts as part of the stem, so that short stems such as geo- are shortened too.
        if measure(&word[..=stem]) > 0 {
            replace(word, stem, "log");
        }
        return;
    }
    first_rule(word, &RULES, |stem| measure(stem) > 0);
}

/// Step 3.
fn full_and_ness(word: &mut Vec<char>) {
    const RULES: [(&str, &str); 7] =
        [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];
    first_rule(word, &RULES, |stem| measure(stem) > 0);
}

/// Step 4.
fn residual_suffix(word: &mut Vec<char>) {
    const SUFFIXES: [&str; 19] = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate",
        "iti", "ous", "ive", "ize",
    ];
    for suffix in SUFFIXES {
        if let Some(stem) = without(word, suffix) {
            let before = &word[..stem];
            if measure(before) > 1 && (suffix != "ion" || matches!(before.last(), Some('s' | 't'))) {
                word.truncate(stem);
            }
            return;
        }
    }
}

/// Step 5a.
fn final_e(word: &mut Vec<char>) {
    let Some(stem) = without(word, "e") else { return };
    let before = &word[..stem];
    let m = measure(before);
    if m > 1 || (m == 1 && !ends_in_cvc(before)) {
        word.truncate(stem);
    }
}

/// Step 5b.
fn double_l(word: &mut Vec<char>) {
    if without(word, "ll").is_some() && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_stems() {
        for (word, stem) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "tie"),
            ("dies", "die"),
            ("spied", "spi"),
            ("died", "die"),
            ("agreed", "agre"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("relational", "relat"),
            ("geology", "geolog"),
            ("hopefully", "hope"),
            ("generalization", "gener"),
            ("controlling", "control"),
            ("skies", "sky"),
            ("news", "news"),
            ("Proceed", "proceed"),
            ("is", "is"),
        ] {
            assert_eq!(porter_stem(word), stem, "{word}");
        }
    }

    #[test]
    fn any_word_has_a_stem() {
        for word in ["", "s", "e", "ing", "eed", "ied", "yyyyyyyyyy", "ion", "ll", "é", "日本語日本", "sss"] {
            assert!(porter_stem(word).len() <= word.len() + 1);
        }
    }
}
