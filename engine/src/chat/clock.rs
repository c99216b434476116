//! Dates for templates, without a clock of its own.

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

    /// C's `strftime` for the fields that templates use; others are copied as they are.
    pub fn strftime(self, format: &str) -> String {
        let (year, month, day) = self.date();
        let (hour, minute, second) =
            (self.second_of_day / 3_600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let month_name = MONTHS[month as usize - 1];
        let day_name = DAYS[self.days.rem_euclid(7) as usize];
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('Y') => out.push_str(&year.to_string()),
                Some('y') => out.push_str(&format!("{:02}", year.rem_euclid(100))),
                Some('m') => out.push_str(&format!("{month:02}")),
                Some('d') => out.push_str(&format!("{day:02}")),
                Some('e') => out.push_str(&format!("{day:2}")),
                Some('B') => out.push_str(month_name),
                Some('b' | 'h') => out.push_str(&month_name[..3]),
                Some('A') => out.push_str(day_name),
                Some('a') => out.push_str(&day_name[..3]),
                Some('H') => out.push_str(&format!("{hour:02}")),
                Some('I') => out.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('M') => out.push_str(&format!("{minute:02}")),
                Some('S') => out.push_str(&format!("{second:02}")),
                Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
                Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
                Some('-') => match chars.next() {
                    Some('d') => out.push_str(&day.to_string()),
                    Some('m') => out.push_str(&month.to_string()),
                    Some('H') => out.push_str(&hour.to_string()),
                    other => out.extend("%-".chars().chain(other)),
                },
                Some('%') => out.push('%'),
                other => out.extend(std::iter::once('%').chain(other)),
            }
        }
        out
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
            assert_eq!(CivilTime::from_unix(seconds).strftime("%Y-%m-%d %A %H:%M:%S"), expected);
        }
        let time = CivilTime::from_unix(1_721_952_000 + 13 * 3_600);
        assert_eq!(time.strftime("%d %b %Y, %-d %B %y %I %p %% %Q"), "26 Jul 2024, 26 July 24 01 PM % %Q");
    }
}
