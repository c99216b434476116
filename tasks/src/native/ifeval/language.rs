//! In which language a text is, by rule.
//!
//! IFEval's own program asks a trained classifier that draws random numbers. Here the script decides, and where several
//! of IFEval's 30 languages share a script, their commonest small words and their own letters do.

/// A language of a shared script: its code, common small words, letters of its own.
type Profile = (&'static str, &'static [&'static str], &'static str);

const LATIN: [Profile; 10] = [
    (
        "en",
        &[
            "the", "and", "of", "to", "is", "in", "that", "it", "for", "you", "with", "are", "this", "was", "i", "on",
            "be", "have", "not",
        ],
        "",
    ),
    (
        "es",
        &[
            "el", "los", "las", "y", "que", "en", "un", "una", "es", "con", "por", "para", "del", "se", "su", "como",
            "más", "pero", "muy",
        ],
        "ñ¿¡",
    ),
    (
        "pt",
        &[
            "os", "e", "que", "em", "um", "uma", "não", "com", "para", "por", "do", "da", "dos", "das", "é", "ao",
            "mais", "você", "são",
        ],
        "ãõ",
    ),
    (
        "fr",
        &[
            "le", "les", "et", "des", "une", "est", "dans", "pour", "que", "qui", "sur", "pas", "avec", "du", "au",
            "ce", "vous", "nous", "je",
        ],
        "èêœù",
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "nicht", "ein", "eine", "zu", "mit", "auf", "den", "von", "für", "ich",
            "sie", "es", "dem", "auch",
        ],
        "ßü",
    ),
    (
        "it",
        &[
            "il", "di", "che", "è", "per", "un", "una", "con", "non", "sono", "della", "del", "gli", "nel", "più",
            "anche", "ma", "alla", "si",
        ],
        "ìò",
    ),
    (
        "pl",
        &[
            "i", "w", "na", "się", "nie", "do", "to", "jest", "że", "z", "o", "jak", "ale", "po", "dla", "są", "od",
            "tak", "przez",
        ],
        "ąćęłńśźż",
    ),
    (
        "vi",
        &[
            "và", "của", "là", "có", "không", "cho", "được", "một", "những", "với", "trong", "các", "này", "người",
            "bạn", "tôi", "để", "khi", "đó",
        ],
        "ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    ),
    (
        "sw",
        &[
            "na", "ya", "wa", "kwa", "ni", "katika", "za", "la", "kuwa", "cha", "hii", "hiyo", "pia", "au", "sana",
            "yake", "lakini", "kama", "watu",
        ],
        "",
    ),
    (
        "fi",
        &[
            "ja", "on", "ei", "että", "se", "hän", "oli", "mutta", "kun", "niin", "myös", "ovat", "joka", "tai",
            "olla", "minä", "sinä", "kanssa", "hyvä",
        ],
        "",
    ),
];

const CYRILLIC: [Profile; 3] = [
    (
        "ru",
        &["и", "в", "не", "на", "что", "с", "по", "это", "как", "для", "но", "я", "вы", "от", "из", "также", "или"],
        "ыэё",
    ),
    (
        "uk",
        &["і", "в", "не", "на", "що", "з", "та", "це", "як", "для", "але", "є", "від", "у", "також", "або", "ви"],
        "іїєґ",
    ),
    (
        "bg",
        &["и", "в", "не", "на", "че", "с", "за", "от", "да", "се", "е", "са", "това", "като", "по", "или", "към"],
        "ъ",
    ),
];

const ARABIC: [Profile; 3] = [
    ("ar", &["في", "من", "على", "إلى", "أن", "هذا", "هذه", "التي", "الذي", "مع", "عن", "كان", "لا"], "ةىإأ"),
    ("fa", &["در", "از", "به", "که", "این", "را", "با", "است", "برای", "آن", "می", "خود", "های"], "پچژگک"),
    ("ur", &["کے", "کی", "میں", "ہے", "اور", "سے", "کا", "کو", "یہ", "ہیں", "نے", "پر", "نہیں"], "ٹڈڑںےہ"),
];

const DEVANAGARI: [Profile; 3] = [
    ("hi", &["है", "के", "में", "की", "और", "का", "से", "को", "हैं", "यह", "कि", "पर", "नहीं", "एक", "भी"], ""),
    ("mr", &["आहे", "आणि", "या", "ही", "हे", "आहेत", "नाही", "तो", "मध्ये", "च्या", "साठी", "होते", "एक", "पण"], "ळ"),
    ("ne", &["छ", "र", "मा", "को", "लागि", "हो", "छन्", "यो", "पनि", "गर्न", "भने", "एक", "तर", "हरू"], ""),
];

/// Scripts of one language each, with the range of their letters.
const SCRIPTS: [(&str, char, char); 11] = [
    ("he", '\u{590}', '\u{5ff}'),
    ("bn", '\u{980}', '\u{9ff}'),
    ("pa", '\u{a00}', '\u{a7f}'),
    ("gu", '\u{a80}', '\u{aff}'),
    ("ta", '\u{b80}', '\u{bff}'),
    ("te", '\u{c00}', '\u{c7f}'),
    ("kn", '\u{c80}', '\u{cff}'),
    ("ml", '\u{d00}', '\u{d7f}'),
    ("th", '\u{e00}', '\u{e7f}'),
    ("ja", '\u{3040}', '\u{30ff}'),
    ("ko", '\u{ac00}', '\u{d7a3}'),
];

/// The ISO 639-1 code of a text's language; `None` where the text has no letters.
pub(super) fn of(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    let count = |from: char, to: char| text.chars().filter(|c| (from..=to).contains(c) && c.is_alphabetic()).count();
    let mut shares: Vec<(usize, &'static str)> = SCRIPTS.map(|(code, from, to)| (count(from, to), code)).to_vec();
    let chinese = count('\u{4e00}', '\u{9fff}');
    // Japanese writes Chinese letters beside its own.
    match shares.iter_mut().find(|(own, code)| *code == "ja" && 8 * *own >= chinese.max(1)) {
        Some(japanese) => japanese.0 += chinese,
        None => shares.push((chinese, "zh")),
    }
    let latin = count('a', 'z') + count('\u{df}', '\u{24f}') + count('\u{1e00}', '\u{1eff}');
    shares.push((latin, "latin"));
    shares.push((count('\u{400}', '\u{52f}'), "cyrillic"));
    shares.push((count('\u{600}', '\u{6ff}'), "arabic"));
    shares.push((count('\u{900}', '\u{97f}'), "devanagari"));
    let (most, script) = shares.into_iter().max_by_key(|(count, _)| *count)?;
    if most == 0 {
        return None;
    }
    Some(match script {
        "latin" => likeliest(&text, &LATIN),
        "cyrillic" => likeliest(&text, &CYRILLIC),
        "arabic" => likeliest(&text, &ARABIC),
        "devanagari" => likeliest(&text, &DEVANAGARI),
        code => code,
    })
}

/// The language with the most common words and own letters; the first where there are none.
fn likeliest(text: &str, profiles: &[Profile]) -> &'static str {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_ascii_punctuation()).collect();
    let score = |(_, common, own): &Profile| {
        let letters = text.chars().filter(|c| own.contains(*c)).count();
        words.iter().filter(|word| common.contains(word)).count() + letters
    };
    let mut best = (0, profiles[0].0);
    for profile in profiles {
        let score = score(profile);
        if score > best.0 {
            best = (score, profile.0);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_each_language_are_recognised() {
        for (code, text) in [
            ("en", "THE CAT SAT ON THE MAT AND WAS HAPPY."),
            ("es", "El gato está en la casa con su amigo y una pelota."),
            ("pt", "O gato não está em casa, mas você pode ver uma bola."),
            ("fr", "Le chat est dans la maison avec une balle et des amis."),
            ("de", "Die Katze ist nicht im Haus, und der Hund ist auf dem Dach."),
            ("it", "Il gatto è nella casa con una palla che non è della nonna."),
            ("pl", "Kot jest w domu i nie wie, że pies się śmieje."),
            ("vi", "Con mèo không có trong nhà và những người bạn của tôi."),
            ("sw", "Paka yuko katika nyumba na mpira wa rafiki yake."),
            ("fi", "Kissa on talossa ja koira ei ole, mutta se on hyvä."),
            ("ru", "Кошка сидит в доме, и это не мышь."),
            ("uk", "Кішка сидить у домі, і це не миша."),
            ("bg", "Котката е в къщата и това не е мишка."),
            ("ar", "القطة في البيت مع الكرة التي على الأرض"),
            ("fa", "گربه در خانه است و این را به من گفت"),
            ("ur", "بلی گھر میں ہے اور یہ کتا نہیں ہے"),
            ("hi", "बिल्ली घर में है और यह कुत्ता नहीं है"),
            ("mr", "मांजर घरात आहे आणि तो कुत्रा नाही"),
            ("ne", "बिरालो घरमा छ र यो कुकुर पनि हो"),
            ("bn", "বিড়াল ঘরে আছে"),
            ("th", "แมวอยู่ในบ้าน"),
            ("ta", "பூனை வீட்டில் உள்ளது"),
            ("te", "పిల్లి ఇంట్లో ఉంది"),
            ("ko", "고양이가 집에 있다"),
            ("he", "החתול בבית"),
            ("kn", "ಬೆಕ್ಕು ಮನೆಯಲ್ಲಿದೆ"),
            ("gu", "બિલાડી ઘરમાં છે"),
            ("pa", "ਬਿੱਲੀ ਘਰ ਵਿੱਚ ਹੈ"),
            ("ml", "പൂച്ച വീട്ടിലുണ്ട്"),
            ("ja", "猫は家にいます"),
            ("zh", "猫在家里"),
        ] {
            assert_eq!(of(text), Some(code), "{text}");
        }
        assert_eq!(of("12 + 3 = 15!"), None);
        assert_eq!(of("OK"), Some("en"));
    }
}
