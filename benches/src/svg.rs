//! Bar charts as SVG: a sheet of small panels, one per scenario, one bar per proxy.

use std::fmt::Write;

/// One small chart. Bars share the panel's scale, which begins at zero.
#[derive(Debug)]
pub(crate) struct Panel {
    /// Its title.
    pub(crate) title: String,
    /// What the bars measure.
    pub(crate) unit: String,
    /// Label and value of each bar.
    pub(crate) bars: Vec<(String, f64)>,
}

const PANEL_WIDTH: usize = 300;
const BAR_HEIGHT: usize = 22;
const HEAD: usize = 46;
const COLUMNS: usize = 3;
const LABEL_WIDTH: f64 = 66.0;
/// Room for the value that is written behind the longest bar.
const VALUE_WIDTH: f64 = 66.0;

/// All panels on one sheet under a title.
pub(crate) fn sheet(title: &str, panels: &[Panel]) -> String {
    let rows_of_bars = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    let panel_height = HEAD + rows_of_bars * BAR_HEIGHT + 18;
    let columns = panels.len().clamp(1, COLUMNS);
    let (width, height) = (columns * PANEL_WIDTH + 20, 44 + panels.len().div_ceil(columns) * panel_height);
    // Writing to a String cannot fail.
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"Helvetica, Arial, sans-serif\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"14\" y=\"28\" font-size=\"17\" font-weight=\"bold\" fill=\"#222222\">{}</text>\n",
        escape(title)
    );
    for (index, panel) in panels.iter().enumerate() {
        let (x, y) = (14 + index % columns * PANEL_WIDTH, 44 + index / columns * panel_height);
        draw(&mut out, panel, x, y);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, x: usize, y: usize) {
    let _ = writeln!(
        out,
        "<g transform=\"translate({x},{y})\">\
         <text y=\"18\" font-size=\"13\" font-weight=\"bold\" fill=\"#222222\">{}</text>\
         <text y=\"34\" font-size=\"11\" fill=\"#666666\">{}</text>",
        escape(&panel.title),
        escape(&panel.unit)
    );
    let most = panel.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let room = PANEL_WIDTH as f64 - LABEL_WIDTH - VALUE_WIDTH - 14.0;
    for (index, (label, value)) in panel.bars.iter().enumerate() {
        let top = HEAD + index * BAR_HEIGHT;
        let length = (value.max(0.0) / most * room).max(1.0);
        let _ = writeln!(
            out,
            "<text x=\"0\" y=\"{text}\" font-size=\"12\" fill=\"#222222\">{label}</text>\
             <rect x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{length:.1}\" height=\"16\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{after:.1}\" y=\"{text}\" font-size=\"12\" fill=\"#222222\">{value}</text>",
            text = top + 13,
            label = escape(label),
            colour = colour(label),
            after = LABEL_WIDTH + length + 5.0,
            value = short(*value),
        );
    }
    out.push_str("</g>\n");
}

/// One colour per proxy, told apart by colour-blind eyes too.
fn colour(label: &str) -> &'static str {
    match label {
        "outrider" => "#d55e00",
        "envoy" => "#0072b2",
        "haproxy" => "#999999",
        _ => "#009e73",
    }
}

/// Three significant digits or so.
fn short(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.1}k", value / 1_000.0)
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_shows_every_bar_and_escapes_text() {
        let bars = vec![("outrider".to_owned(), 10.0), ("envoy".to_owned(), 80.0)];
        let svg = sheet("CPU < all", &[Panel { title: "h2 -> h1".into(), unit: "us".into(), bars }]);
        assert!(svg.contains("CPU &lt; all") && svg.contains("h2 -&gt; h1"));
        assert!(svg.contains(">10.0<") && svg.contains(">80.0<"));
        assert_eq!(svg.matches("<rect").count(), 3);
    }

    #[test]
    fn values_are_short() {
        assert_eq!([0.5, 12.34, 345.6, 43_210.0].map(short), ["0.50", "12.3", "346", "43.2k"]);
    }
}
