//! Text of SVG and HTML, with everything that was not written here escaped.

use std::fmt::Write;

/// Text as it may stand between tags and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters mean nothing in a page.
            character if character.is_control() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// A picture while it is drawn.
#[derive(Debug, Default)]
pub(super) struct Svg {
    text: String,
}

/// Which end of a text stands at its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Middle,
    End,
}

impl Svg {
    /// The picture as an element, with a title and a description for those who do not see it.
    pub(super) fn finish(self, id: &str, size: (f64, f64), words: (&str, &str)) -> String {
        let (title, description) = (escape(words.0), escape(words.1));
        let (width, height) = size;
        format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
             <title id=\"{id}-t\">{title}</title>\n<desc id=\"{id}-d\">{description}</desc>\n{}</svg>\n",
            self.text
        )
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        self.text.write_fmt(element).expect("a String takes everything");
        self.text.push('\n');
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            "<path class=\"{class}\" d=\"M{} {}L{} {}\"/>",
            short(x1),
            short(y1),
            short(x2),
            short(y2)
        ));
    }

    /// A line through points, broken where there is none; a point alone becomes a dot.
    pub(super) fn path(&mut self, class: &str, name: &str, points: &[Option<(f64, f64)>]) {
        let mut data = String::new();
        let mut pen_down = false;
        for (at, point) in points.iter().enumerate() {
            let Some((x, y)) = point else {
                pen_down = false;
                continue;
            };
            let command = if pen_down { 'L' } else { 'M' };
            let place = format!("{} {}", short(*x), short(*y));
            data.push(command);
            data.push_str(&place);
            let alone = !pen_down && points.get(at + 1).is_none_or(Option::is_none);
            if alone {
                // A round cap makes it visible.
                data.push('L');
                data.push_str(&place);
            }
            pen_down = true;
        }
        self.put(format_args!(
            "<path class=\"{class}\" data-n=\"{}\" d=\"{data}\"/>",
            escape(name)
        ));
    }

    /// Words.
    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, words: &str) {
        let (x, y) = at;
        let anchor = match anchor {
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            short(x),
            short(y),
            escape(words)
        ));
    }
}

/// A coordinate with one decimal: a tenth of a pixel is less than anybody sees.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_becomes_markup() {
        assert_eq!(
            escape("<b a=\"1\" c='2'>&\u{7}"),
            "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;\u{fffd}"
        );
        let mut svg = Svg::default();
        svg.text("t", (1.0, 2.0), Anchor::End, "</text><script>");
        svg.path("l", "\"><script>", &[Some((1.0, 2.0))]);
        let text = svg.finish("p", (10.0, 20.0), ("<t>", "<d>"));
        assert!(
            !text.contains("<script") && !text.contains("<t>") && !text.contains("<d>"),
            "{text}"
        );
    }

    #[test]
    fn a_line_breaks_where_there_is_no_point() {
        let mut svg = Svg::default();
        let points = [Some((0.0, 1.0)), Some((1.04, 2.25)), None, Some((3.0, 4.0)), None];
        svg.path("l", "x", &points);
        assert!(svg.text.contains("d=\"M0 1L1 2.2M3 4L3 4\""), "{}", svg.text);
    }
}
