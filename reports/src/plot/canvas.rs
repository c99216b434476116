//! Where plots are drawn: an SVG or PNG file that appears whole or not at all.

use std::{fs, path::Path, sync::OnceLock};

use harness_core::{atomic_replace, temporary};
use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

use crate::{ReportError, file::write};

/// Name under which the embedded font is registered.
pub(super) const FONT: &str = "sans-serif";

/// Colours that people with colour-vision deficiencies can tell apart (Okabe and Ito 2008).
pub(super) const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

/// What a drawing function returns; the reason as text.
pub(super) type Drawn = Result<(), String>;

/// A function that draws on any backend.
pub(super) trait Drawing {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn;
}

/// Draws as the text of an SVG file; the reason where that fails.
pub(super) fn draw_svg(size: (u32, u32), drawing: &impl Drawing) -> Result<String, String> {
    if !font_is_registered() {
        return Err("the embedded font cannot be read".into());
    }
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    drawing.draw(&area)?;
    area.present().map_err(|error| error.to_string())?;
    drop(area);
    Ok(text)
}

/// Draws to a file, SVG or PNG by its extension.
pub(super) fn draw_file(path: &Path, size: (u32, u32), drawing: &impl Drawing) -> Result<(), ReportError> {
    let failed = |reason: String| ReportError::Plot { path: path.to_owned(), reason };
    if !font_is_registered() {
        return Err(failed("the embedded font cannot be read".into()));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => write(path, draw_svg(size, drawing).map_err(failed)?.as_bytes()),
        Some("png") => {
            let written = |source| ReportError::Write { path: path.to_owned(), source };
            // The encoder goes by the extension, and reports failures to write as text: an unwritable folder is found out
            // here, with its cause.
            let temporary = temporary(path).map_err(written)?.with_extension("png");
            fs::File::create(&temporary).map_err(written)?;
            let draw = || {
                let area = BitMapBackend::new(&temporary, size).into_drawing_area();
                drawing.draw(&area)?;
                area.present().map_err(|error| error.to_string())
            };
            if let Err(reason) = draw() {
                // Best effort: the first error is the one to report.
                let _ = fs::remove_file(&temporary);
                return Err(failed(reason));
            }
            atomic_replace(&temporary, path).map_err(written)
        }
        _ => Err(ReportError::Extension { path: path.to_owned() }),
    }
}

fn font_is_registered() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok())
}

/// A tick label: up to four significant digits, with an exponent for very small and very large numbers.
pub(super) fn tick(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The range of some numbers, widened by a twentieth, and where they are all equal by something visible.
pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| value.is_finite()) {
        low = low.min(value);
        high = high.max(value);
    }
    if low > high {
        return None;
    }
    let margin = if high > low { 0.05 * (high - low) } else { 0.1 * low.abs().max(1e-6) };
    Some(low - margin..high + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let ticks = [0.0, 1e-4, 0.25, 1500.0, 2.0, -0.5, 2.5e-5].map(tick);
        assert_eq!(ticks, ["0", "1e-4", "0.25", "1500", "2", "-0.5", "2.5e-5"]);
    }

    #[test]
    fn ranges_are_never_empty() {
        assert_eq!(range([f64::NAN].into_iter()), None);
        let one = range([0.0].into_iter()).unwrap();
        assert!(one.start < 0.0 && one.end > 0.0);
    }
}
