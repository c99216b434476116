//! Dates for templates, without a clock of its own.

use std::fmt;

/// A date and time without a zone, as `strftime_now` writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    days: i64,
    second_of_day: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

impl CivilTime {
    /// The time this many seconds after 1970-01-01T00:00:00.
    pub fn from_unix(seconds: i64) -> Self {
        Self { days: seconds.div_euclid(86_400), second_of_day: seconds.rem_euclid(86_400) }
    }

    /// Year, month (1 to 12) and day (1 to 31) in the Gregorian calendar.
    pub fn date(self) -> (i64, u32, u32) {
        // Years are counted from 1 March, in eras of 400 years (146,097 days), so that the leap day comes last.
        let shifted = self.days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        (era * 400 + year_of_era + i64::from(month <= 2), month as u32, day as u32)
    }

    /// The beginning of a day written as `2025-01-30`.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn parse_date(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: expected a day as 2025-01-30");
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [year, month, day] = parts[..] else { return Err(wrong()) };
        let number = |part: &str, digits: usize| {
            let whole = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
            whole.then(|| part.parse::<i64>().ok()).flatten().ok_or_else(wrong)
        };
        let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
        // A day counts as one if the calendar gives it back: no 30 February.
        let near = (year - 1970) * 365 + year / 4 - year / 100 + year / 400 - 477 + (month - 1) * 30 + day;
        (near - 40..near + 40)
            .map(|days| Self { days, second_of_day: 0 })
            .find(|time| time.date() == (year, month as u32, day as u32))
            .ok_or_else(|| format!("{text:?}: there is no such day"))
    }

    /// C's `strftime` in the C locale; what C does not know is copied as it is.
    ///
    /// # Errors
    /// Names a field that C knows and that is not written here.
    pub fn strftime(self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let (flag, field) = match chars.next() {
                Some(flag @ ('-' | '_' | '0' | '^' | '#')) => (Some(flag), chars.next()),
                field => (None, field),
            };
            let Some(name) = field else {
                out.extend(std::iter::once('%').chain(flag));
                break;
            };
            let text = self.field(name)?;
            match (flag, text) {
                (None, Some(text)) => out.push_str(&text),
                (Some('-'), Some(text)) => {
                    let last = text.char_indices().next_back().map_or(0, |(at, _)| at);
                    out.push_str(text[..last].trim_start_matches(['0', ' ']));
                    out.push_str(&text[last..]);
                }
                (Some(flag), Some(_)) => {
                    return Err(format!("strftime: the flag {flag} of %{flag}{name} is not supported"));
                }
                (flag, None) => out.extend(std::iter::once('%').chain(flag).chain([name])),
            }
        }
        Ok(out)
    }

    /// One field of a format; `None` where C has no such field.
    fn field(self, name: char) -> Result<Option<String>, String> {
        let (year, month, day) = self.date();
        let (hour, minute, second) =
            (self.second_of_day / 3_600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let month_name = MONTHS[month as usize - 1];
        let weekday = (self.days + 4).rem_euclid(7);
        let day_name = DAYS[self.days.rem_euclid(7) as usize];
        let first = |other: &Self| other.date().0 == year;
        let day_of_year = (0..366).take_while(|&back| first(&Self { days: self.days - back, ..self })).count();
        let hour12 = (hour + 11) % 12 + 1;
        let half = if hour < 12 { "AM" } else { "PM" };
        let clock = format!("{hour:02}:{minute:02}:{second:02}");
        Ok(Some(match name {
            'Y' => year.to_string(),
            'C' => format!("{:02}", year.div_euclid(100)),
            'y' => format!("{:02}", year.rem_euclid(100)),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'j' => format!("{day_of_year:03}"),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => day_name.to_owned(),
            'a' => day_name[..3].to_owned(),
            'w' => weekday.to_string(),
            'u' => ((weekday + 6) % 7 + 1).to_string(),
            'U' => format!("{:02}", (day_of_year as i64 + 6 - weekday) / 7),
            'W' => format!("{:02}", (day_of_year as i64 + 6 - (weekday + 6) % 7) / 7),
            'H' => format!("{hour:02}"),
            'I' => format!("{hour12:02}"),
            'k' => format!("{hour:2}"),
            'l' => format!("{hour12:2}"),
            'p' => half.to_owned(),
            'P' => half.to_lowercase(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'f' => "000000".to_owned(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'D' | 'x' => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            'T' | 'X' => clock,
            'R' => format!("{hour:02}:{minute:02}"),
            'r' => format!("{hour12:02}:{minute:02}:{second:02} {half}"),
            'c' => format!("{} {} {day:2} {clock} {year}", &day_name[..3], &month_name[..3]),
            // A time without a zone has none to write.
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            'G' | 'g' | 'V' | 's' | 'E' | 'O' => return Err(format!("strftime: %{name} is not supported")),
            _ => return Ok(None),
        }))
    }
}

/// The day, as `2025-01-30`.
impl fmt::Display for CivilTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_dates() {
        let cases = [
            (0, "1970-01-01 Thursday 00:00:00"),
            (951_782_400, "2000-02-29 Tuesday 00:00:00"),
            (1_721_952_000 + 3_723, "2024-07-26 Friday 01:02:03"),
            (-1, "1969-12-31 Wednesday 23:59:59"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(CivilTime::from_unix(seconds).strftime("%Y-%m-%d %A %H:%M:%S").unwrap(), expected);
        }
        let time = CivilTime::from_unix(1_721_952_000 + 13 * 3_600);
        assert_eq!(time.strftime("%d %b %Y, %-d %B %y %I %p %% %Q").unwrap(), "26 Jul 2024, 26 July 24 01 PM % %Q");
    }

    /// Seconds and what CPython's `strftime` gives with glibc.
    const PYTHON: [(i64, &str); 5] = [
        (
            0,
            "19| 1|001|4|4|00|00|01/01/70|Thu Jan  1 00:00:00 1970|00:00|12:00:00 AM| 0|12|am|000000||1|1|1|0|12|1|Jan|01/01/70|00:00:00|%",
        ),
        (
            951_829_205,
            "20|29|060|2|2|09|09|02/29/00|Tue Feb 29 13:00:05 2000|13:00|01:00:05 PM|13| 1|pm|000000||29|2|60|13|1|29|Feb|02/29/00|13:00:05|%",
        ),
        (
            1_738_195_200,
            "20|30|030|4|4|04|04|01/30/25|Thu Jan 30 00:00:00 2025|00:00|12:00:00 AM| 0|12|am|000000||30|1|30|0|12|30|Jan|01/30/25|00:00:00|%",
        ),
        (
            1_735_603_199,
            "20|30|365|1|1|52|53|12/30/24|Mon Dec 30 23:59:59 2024|23:59|11:59:59 PM|23|11|pm|000000||30|12|365|23|11|30|Dec|12/30/24|23:59:59|%",
        ),
        (
            1_704_067_200,
            "20| 1|001|1|1|00|01|01/01/24|Mon Jan  1 00:00:00 2024|00:00|12:00:00 AM| 0|12|am|000000||1|1|1|0|12|1|Jan|01/01/24|00:00:00|%",
        ),
    ];

    #[test]
    fn writes_what_python_writes() {
        let format = "%C|%e|%j|%u|%w|%U|%W|%D|%c|%R|%r|%k|%l|%P|%f|%Z|%-d|%-m|%-j|%-H|%-I|%-e|%h|%x|%X|%";
        for (seconds, expected) in PYTHON {
            assert_eq!(CivilTime::from_unix(seconds).strftime(format).unwrap(), expected);
        }
        assert!(CivilTime::from_unix(0).strftime("%V").unwrap_err().contains("%V"));
        assert!(CivilTime::from_unix(0).strftime("%^a").unwrap_err().contains("%^a"));
    }

    #[test]
    fn days_are_read() {
        for day in ["2025-01-30", "2000-02-29", "1970-01-01", "2399-12-31", "0001-01-01", "1600-03-01"] {
            assert_eq!(CivilTime::parse_date(day).unwrap().to_string(), day);
        }
        for wrong in ["2025-02-30", "1900-02-29", "30.1.2025", "2025-1-30", "2025-13-01", "", "2025-00-10"] {
            assert!(CivilTime::parse_date(wrong).is_err(), "{wrong}");
        }
    }
}
