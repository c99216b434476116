//! Python's idea of digits: `\d` and `int()` take the decimal digits of every script.

/// The value of a decimal digit of any script.
fn digit(c: char) -> Option<u32> {
    if let Some(value) = c.to_digit(10) {
        return Some(value);
    }
    let code = u32::from(c);
    if !c.is_numeric() {
        return None;
    }
    // The mathematical digits are five runs of ten without a gap.
    if (0x1d7ce..=0x1d7ff).contains(&code) {
        return Some((code - 0x1d7ce) % 10);
    }
    // All other runs of ten begin at a code point that ends in 0 or 6.
    let low = code & 0xf;
    let starts_at_zero = char::from_u32(code & !0xf).is_some_and(char::is_numeric);
    match low {
        0..=9 if starts_at_zero => Some(low),
        6..=15 if !starts_at_zero => Some(low - 6),
        _ => None,
    }
}

/// `int(text)` for a text of digits; what does not fit is the largest number.
pub(super) fn int(text: &str) -> Option<u64> {
    let mut value: u64 = 0;
    for c in text.chars() {
        value = value.saturating_mul(10).saturating_add(u64::from(digit(c)?));
    }
    (!text.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_all_scripts_count() {
        assert_eq!(int("٣"), Some(3));
        assert_eq!(int("７0"), Some(70));
        assert_eq!(int("९"), Some(9));
        assert_eq!(int("𝟗𝟘"), Some(90));
        assert_eq!(int("x"), None);
        assert_eq!(int(""), None);
        assert_eq!(int(&"9".repeat(30)), Some(u64::MAX));
    }
}
