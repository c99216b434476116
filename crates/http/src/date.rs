//! `Retry-After`: seconds or a date.

use std::time::{Duration, SystemTime};

/// The wait that a header asks for, as seconds or as an HTTP date; `None` if it is neither. A date in the past is no wait.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9)));
    }
    Some(http_date(value)?.duration_since(now).unwrap_or(Duration::ZERO))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, IMF-fixdate).
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
    let [day, month, year, time] = rest.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    let number = |text: &str, most: i64| text.parse::<i64>().ok().filter(|n| (0..=most).contains(n));
    let (day, year) = (number(day, 31)?, number(year, 9999)?);
    let (hour, minute, second) = (number(hour, 23)?, number(minute, 59)?, number(second, 60)?);
    // Days since 1970-01-01 in the Gregorian calendar, years beginning in March (Hinnant).
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = u64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 20);
        let wait = |text: &str| retry_after(text, now).map(|wait| wait.as_secs_f64());
        assert_eq!(wait("120"), Some(120.0));
        assert_eq!(wait("0.5"), Some(0.5));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(20.0));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:07 GMT"), Some(0.0));
        assert_eq!(wait("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800.0 - 784_111_757.0));
        for bad in ["", "-1", "soon", "Sun, 06 Foo 1994 08:49:37 GMT", "NaN"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }
}
