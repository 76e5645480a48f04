//! Bars as SVG, drawn by hand: a label, a bar to the median, a whisker from the first quartile to the third, and a tick
//! where a limit is.

use std::fmt::Write as _;

/// Bars of several comparisons below each other, on one scale.
#[derive(Debug)]
pub struct Chart {
    /// Above all.
    pub title: String,
    /// What the numbers are; a line each, with semicolons between.
    pub unit: String,
    /// From top to bottom.
    pub groups: Vec<Group>,
    /// Else the longest bar decides, and there are no lines.
    pub axis: Option<Axis>,
}

/// A scale that does not depend on the longest bar, from 0 on: what is longer is drawn with a gap.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Where it ends.
    pub end: f64,
    /// From line to line.
    pub step: f64,
}

/// Bars that belong together.
#[derive(Debug)]
pub struct Group {
    /// Above them.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug)]
pub struct Bar {
    /// On its left.
    pub label: String,
    /// On its right.
    pub text: String,
    /// Where it ends.
    pub value: f64,
    /// Ends of the whisker.
    pub spread: (f64, f64),
    /// Where the tick is.
    pub limit: Option<f64>,
    /// How it is coloured.
    pub role: Role,
}

/// What a bar is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What all is compared with.
    Peer,
    /// Ours.
    Ours,
    /// For comparison only.
    Context,
}

impl Role {
    /// Legible on white and on black.
    fn colour(self) -> &'static str {
        match self {
            Self::Peer => "#8a8a8a",
            Self::Ours => "#2a8f82",
            Self::Context => "#b9a26a",
        }
    }
}

// In user units, which are pixels at the usual zoom.
const WIDTH: f64 = 760.0;
const BARS_LEFT: f64 = 210.0;
const BARS_WIDTH: f64 = 400.0;
const BAR: f64 = 14.0;
const LINE: f64 = 20.0;
const MARGIN: f64 = 12.0;

impl Chart {
    /// The SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        let lines = 1
            + self.unit.split("; ").count()
            + usize::from(self.axis.is_some())
            + self
                .groups
                .iter()
                .map(|group| 1 + group.bars.len())
                .sum::<usize>();
        let height = 2.0 * MARGIN + lines as f64 * LINE;
        let mut out = String::new();
        _ = writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
        );
        _ = writeln!(out, "<title>{}</title>", escaped(&self.title));
        // By the reader's colour scheme, and on a ground of its own: the page around it may be of the other.
        out.push_str(
            "<style>text{font:13px sans-serif;fill:#222}.head{font-weight:bold}.line{stroke:#222}.ground{fill:#fff}\
             @media(prefers-color-scheme:dark){text{fill:#ddd}.line{stroke:#ddd}.ground{fill:#0d1117}}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
        );
        let mut y = MARGIN + LINE / 2.0;
        text(&mut out, MARGIN, y, "head", "start", &self.title);
        let end = self.axis.map_or_else(|| self.largest(), |axis| axis.end);
        let scale = BARS_WIDTH / end;
        if let Some(axis) = self.axis {
            y += LINE;
            axis.number(&mut out, y, scale);
        }
        for group in &self.groups {
            y += LINE;
            text(&mut out, MARGIN, y, "head", "start", &group.title);
            if let Some(axis) = self.axis {
                let bottom = y + LINE * (group.bars.len() as f64 + 0.4);
                axis.rule(&mut out, (y + LINE * 0.5, bottom), scale);
            }
            for bar in &group.bars {
                y += LINE;
                bar.draw(&mut out, y, (scale, end));
            }
        }
        for sentence in self.unit.split("; ") {
            y += LINE;
            text(&mut out, BARS_LEFT, y, "", "start", sentence);
        }
        out.push_str("</svg>\n");
        out
    }

    fn largest(&self) -> f64 {
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let ends = bars.flat_map(|bar| [bar.value, bar.spread.1, bar.limit.unwrap_or(0.0)]);
        ends.filter(|end| end.is_finite())
            .fold(f64::MIN_POSITIVE, f64::max)
    }
}

impl Axis {
    fn values(self) -> impl Iterator<Item = f64> {
        let count = (self.end / self.step).round() as usize;
        (0..=count).map(move |number| number as f64 * self.step)
    }

    fn number(self, out: &mut String, y: f64, scale: f64) {
        for value in self.values().filter(|value| value.fract() == 0.0) {
            let x = BARS_LEFT + value * scale;
            text(out, x, y, "", "middle", &format!("{value}x"));
        }
    }

    /// Thin lines behind the bars of a group, and a thicker one at 1, with which all is compared.
    fn rule(self, out: &mut String, (top, bottom): (f64, f64), scale: f64) {
        for value in self.values() {
            let x = BARS_LEFT + value * scale;
            let width = if value == 1.0 { 1.0 } else { 0.25 };
            line(out, (x, top), (x, bottom), width);
        }
    }
}

impl Bar {
    fn draw(&self, out: &mut String, y: f64, (scale, axis_end): (f64, f64)) {
        let at = |value: f64| BARS_LEFT + value.clamp(0.0, axis_end) * scale;
        text(out, BARS_LEFT - 8.0, y, "", "end", &self.label);
        let mut end = BARS_LEFT;
        if self.value.is_finite() {
            let (top, width) = (y - BAR / 2.0, at(self.value) - BARS_LEFT);
            let colour = self.role.colour();
            _ = writeln!(
                out,
                r#"<rect x="{BARS_LEFT}" y="{top:.1}" width="{width:.1}" height="{BAR}" fill="{colour}"/>"#
            );
            end = at(self.value.max(self.spread.1));
            if self.value > axis_end {
                // The gap shows what is behind the chart, whatever its colour.
                let gap = end - 3.0 * BAR;
                _ = writeln!(
                    out,
                    r#"<path d="M{:.1} {y0:.1}l8 0l-5 {BAR}l-8 0z" class="ground"/>"#,
                    gap,
                    y0 = top
                );
            } else {
                line(out, (at(self.spread.0), y), (end, y), 1.0);
            }
        }
        if let Some(limit) = self.limit {
            let x = at(limit);
            line(out, (x, y - BAR * 0.7), (x, y + BAR * 0.7), 2.0);
            // The number stands behind both, so that the tick does not cross it.
            end = end.max(x);
        }
        text(out, end + 6.0, y, "", "start", &self.text);
    }
}

fn text(out: &mut String, x: f64, y: f64, class: &str, anchor: &str, content: &str) {
    let content = escaped(content);
    _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{:.1}" class="{class}" text-anchor="{anchor}">{content}</text>"#,
        y + 4.5
    );
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), width: f64) {
    _ = writeln!(
        out,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" class="line" stroke-width="{width}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width_and_others_are_in_proportion() {
        let bar = |value: f64| Bar {
            label: "a < b".to_owned(),
            text: String::new(),
            value,
            spread: (value, value),
            limit: None,
            role: Role::Ours,
        };
        let svg = Chart {
            title: String::new(),
            unit: String::new(),
            groups: vec![Group {
                title: String::new(),
                bars: vec![bar(4.0), bar(1.0), bar(f64::NAN)],
            }],
            axis: None,
        }
        .svg();
        assert!(svg.contains(r#"width="400.0""#) && svg.contains(r#"width="100.0""#));
        assert_eq!(svg.matches("<rect x").count(), 2);
        assert!(svg.contains("a &lt; b"));
    }

    #[test]
    fn each_line_of_the_chart_lies_within_it() {
        let svg = Chart {
            title: String::new(),
            unit: "one; two; three".to_owned(),
            groups: vec![Group {
                title: String::new(),
                bars: Vec::new(),
            }],
            axis: Some(Axis {
                end: 4.0,
                step: 1.0,
            }),
        }
        .svg();
        let lines = svg
            .lines()
            .filter_map(|line| line.split_once(" y=\"")?.1.split_once('"'));
        let lowest = lines
            .filter_map(|(y, _)| y.parse::<f64>().ok())
            .fold(0.0, f64::max);
        let height = svg.split_once("height=\"").expect("a height").1;
        let height: f64 = height
            .split_once('"')
            .expect("its end")
            .0
            .parse()
            .expect("a number");
        assert!(
            svg.contains(">three</text>") && lowest < height,
            "{lowest} of {height}"
        );
    }

    #[test]
    fn what_is_longer_than_the_axis_is_cut_and_marked() {
        let bar = |value: f64| Bar {
            label: String::new(),
            text: format!("{value}x"),
            value,
            spread: (value, value),
            limit: None,
            role: Role::Context,
        };
        let svg = Chart {
            title: String::new(),
            unit: String::new(),
            groups: vec![Group {
                title: String::new(),
                bars: vec![bar(1.0), bar(30.0)],
            }],
            axis: Some(Axis {
                end: 4.0,
                step: 1.0,
            }),
        }
        .svg();
        assert!(svg.contains(r#"width="400.0""#) && svg.contains(r#"width="100.0""#));
        assert_eq!(svg.matches("<path").count(), 1);
        assert!(svg.contains("30x"));
    }
}
