//! Plots: axes with units, lines, and a legend that switches them.

use std::fmt::Write;

use super::axis::{Axis, Tick};
use super::svg::{Anchor, Svg, escape};

/// Room for the words of the axes: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (86.0, 12.0, 22.0, 48.0);

/// Words of an axis that would come closer than this are left out.
const WORDS_APART: f64 = 16.0;

/// An axis, its ticks, and what it measures, with the unit.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub(super) axis: Axis,
    pub(super) ticks: Vec<Tick>,
    pub(super) label: String,
}

impl Scale {
    pub(super) fn new(axis: Axis, label: &str) -> Self {
        Self { axis, ticks: axis.ticks(), label: label.to_owned() }
    }
}

/// One line: a colour by class, a name, and values of both axes.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) class: String,
    pub(super) name: String,
    pub(super) points: Vec<Option<(f64, f64)>>,
}

/// A plot.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    /// Unique in its page.
    pub(super) id: String,
    pub(super) title: String,
    /// What it shows, for those who do not see it.
    pub(super) description: String,
    pub(super) size: (f64, f64),
    pub(super) x: Scale,
    pub(super) y: Scale,
    /// What a place on the x axis is called when it is pointed at: `percentile` or `time`.
    pub(super) kind: &'static str,
    pub(super) lines: Vec<Line>,
    /// Values of the y axis that are marked across, with their words.
    pub(super) levels: Vec<(f64, String)>,
}

/// The rectangle of the lines.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame {
    fn x(&self, place: f64) -> f64 {
        self.left + place * (self.right - self.left)
    }

    fn y(&self, place: f64) -> f64 {
        self.bottom - place * (self.bottom - self.top)
    }
}

impl Plot {
    /// The plot as a figure of a page.
    pub(super) fn figure(&self) -> String {
        let (left, top, right, bottom) = MARGIN;
        let (width, height) = self.size;
        let frame = Frame { left, top, right: width - right, bottom: height - bottom };
        let mut svg = Svg::default();
        self.draw_x(&mut svg, frame);
        self.draw_y(&mut svg, frame);
        for line in &self.lines {
            let place =
                |(x, y): (f64, f64)| (frame.x(self.x.axis.place(x)), frame.y(self.y.axis.place(y)));
            let points: Vec<_> = line.points.iter().map(|point| point.map(place)).collect();
            svg.path(&format!("l {}", line.class), &line.name, &points);
        }
        self.draw_levels(&mut svg, frame);
        let picture = svg.finish(&self.id, self.size, (&self.title, &self.description));
        let ends = |axis: Axis| {
            let (low, high, log) = axis.ends();
            format!("{low},{high},{}", u8::from(log))
        };
        format!(
            "<figure id=\"{}\" class=\"{}\" data-kind=\"{}\" data-x=\"{}\" data-y=\"{}\" \
             data-frame=\"{},{},{},{}\">\n<figcaption>{}</figcaption>\n{picture}{}</figure>\n",
            self.id,
            if width > 800.0 { "full" } else { "half" },
            self.kind,
            ends(self.x.axis),
            ends(self.y.axis),
            frame.left,
            frame.top,
            frame.right,
            frame.bottom,
            escape(&self.title),
            self.legend()
        )
    }

    fn draw_x(&self, svg: &mut Svg, frame: Frame) {
        let mut free_from = f64::MIN;
        for (value, words) in &self.x.ticks {
            let x = frame.x(self.x.axis.place(*value));
            svg.line("g", (x, frame.top), (x, frame.bottom));
            let half = words.len() as f64 * 3.8;
            if x - half > free_from {
                svg.text("t", (x, frame.bottom + 18.0), Anchor::Middle, words);
                free_from = x + half + 6.0;
            }
        }
        svg.line("a", (frame.left, frame.bottom), (frame.right, frame.bottom));
        let middle = f64::midpoint(frame.left, frame.right);
        svg.text("u", (middle, frame.bottom + 40.0), Anchor::Middle, &self.x.label);
    }

    fn draw_y(&self, svg: &mut Svg, frame: Frame) {
        let mut free_below = f64::MAX;
        for (value, words) in &self.y.ticks {
            let y = frame.y(self.y.axis.place(*value));
            svg.line("g", (frame.left, y), (frame.right, y));
            if !words.is_empty() && free_below - y > WORDS_APART {
                svg.text("t", (frame.left - 8.0, y + 4.0), Anchor::End, words);
                free_below = y;
            }
        }
        // Turned by its class, round the origin that a translation gives it.
        let middle = f64::midpoint(frame.top, frame.bottom);
        svg.text("u v", (-middle, 12.0), Anchor::Middle, &self.y.label);
    }

    fn draw_levels(&self, svg: &mut Svg, frame: Frame) {
        for (value, words) in &self.levels {
            let y = frame.y(self.y.axis.place(*value));
            svg.line("f", (frame.left, y), (frame.right, y));
            svg.text("w", (frame.right - 4.0, y - 6.0), Anchor::End, words);
        }
    }

    /// Buttons that switch lines off and on.
    fn legend(&self) -> String {
        let mut text = String::from("<div class=\"legend\">\n");
        for (at, line) in self.lines.iter().enumerate() {
            let (class, name) = (&line.class, escape(&line.name));
            writeln!(
                text,
                "<button type=\"button\" aria-pressed=\"true\" data-l=\"{at}\">\
                 <svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"k {class}\" d=\"M1 4L23 4\"/>\
                 </svg>{name}</button>"
            )
            .expect("a String takes everything");
        }
        text + "</div>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(name: &str) -> Plot {
        Plot {
            id: "p1".to_owned(),
            title: "A <title>".to_owned(),
            description: "what it shows".to_owned(),
            size: (600.0, 300.0),
            x: Scale::new(Axis::from_zero(10.0), "Time (s)"),
            y: Scale::new(Axis::from_zero(100.0), "Latency (us)"),
            kind: "time",
            lines: vec![Line {
                class: "c0".to_owned(),
                name: name.to_owned(),
                points: vec![Some((0.0, 0.0)), Some((10.0, 100.0))],
            }],
            levels: vec![(50.0, "floor".to_owned())],
        }
    }

    #[test]
    fn a_plot_has_units_words_and_a_line_from_corner_to_corner() {
        let text = plot("whole").figure();
        for part in [
            ">Time (s)<",
            ">Latency (us)<",
            ">floor<",
            "d=\"M86 252L578 12\"",
            "aria-labelledby=\"p1-t p1-d\"",
            "<desc id=\"p1-d\">what it shows</desc>",
            "data-y=\"0,100,0\"",
            "A &lt;title&gt;",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn names_are_escaped_wherever_they_stand() {
        let text = plot("\"><img onerror=x>").figure();
        assert!(!text.contains("<img") && text.matches("&lt;img").count() == 2, "{text}");
    }

    #[test]
    fn words_never_overlap() {
        let mut crowded = plot("whole");
        crowded.x.ticks =
            (0_u8..100).map(|at| (f64::from(at) / 10.0, "1,000".to_owned())).collect();
        assert!(crowded.figure().matches(">1,000<").count() < 20);
    }
}
