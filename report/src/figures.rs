//! Charts as inline SVG. Coordinates have one decimal, so that the same numbers
//! draw the same bytes; colours come from the page's style.

use std::fmt::Write as _;

use domain::study::experiment::DriftMethod;
use domain::study::results::{Cell, DriftScore, ModelTraining, Results};
use domain::study::stone::View;

use crate::format::{self, significant};

mod svg;

use svg::{line, open, text};

const WIDTH: f64 = 720.0;
/// The left end of the axis; the names of the rows stand left of it.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 80.0;
const LINE: f64 = 30.0;
/// The distance of the two marks of a row from its middle.
const OFFSET: f64 = 5.5;

/// A mark for a mean, with a bar for its ±.
struct Mark {
    class: &'static str,
    mean: f64,
    std: Option<f64>,
    filled: bool,
}

/// Table I of one view, with a ring for the paper and a dot for this study. Cells that
/// repeat a training of an earlier row are drawn too, as the paper prints them.
pub fn table_1(results: &Results, view: View) -> String {
    let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.view == view).collect();
    let bottom = TOP + LINE * cells.len() as f64;
    let mut svg = open(WIDTH, bottom + 50.0, &format!("Accuracy of each cell of Table I, view {view}"));
    legend(&mut svg, results.comparable);
    for percent in (0..=100).step_by(20) {
        let x = at(f64::from(percent), 100.0);
        line(&mut svg, "grid", [x, TOP, x, bottom]);
        text(&mut svg, "tick", "middle", x, bottom + 18.0, &percent.to_string());
    }
    let chance = at(results.chance, 100.0);
    line(&mut svg, "chance", [chance, TOP, chance, bottom]);
    text(&mut svg, "tick", "middle", chance, TOP - 6.0, "chance");
    text(&mut svg, "tick", "middle", (LEFT + RIGHT) / 2.0, bottom + 40.0, "accuracy (%)");
    for (index, cell) in cells.into_iter().enumerate() {
        let y = TOP + LINE * (index as f64 + 0.5);
        if cell.step == 1 && index > 0 {
            line(&mut svg, "rule", [0.0, y - LINE / 2.0, RIGHT, y - LINE / 2.0]);
        }
        text(&mut svg, "name", "start", 0.0, y + 4.0, &cell.training);
        text(&mut svg, "id", "end", LEFT - 12.0, y + 4.0, &cell.id);
        let paper = Mark { class: "paper", mean: cell.paper_mean, std: Some(cell.paper_std), filled: false };
        mark(&mut svg, &paper, y - OFFSET, 100.0);
        if let Some(mean) = cell.mean {
            mark(&mut svg, &Mark { class: "ours", mean, std: cell.std, filled: true }, y + OFFSET, 100.0);
        }
    }
    svg + "</svg>"
}

/// One drift score from 0 to 1, with a band for what chance alone gives, a ring for the
/// paper, and a dot with its interval for this study.
pub fn drift(score: &DriftScore) -> String {
    let (width, height) = (220.0, 22.0);
    let x = |value: f64| 6.0 + value.clamp(0.0, 1.0) * (width - 12.0);
    let label = format!("{} drift of {}: {}", score.property, score.view, format::score(score.score()));
    let mut svg = open(width, height, &label);
    line(&mut svg, "grid", [x(0.0), 11.0, x(1.0), 11.0]);
    if score.method == DriftMethod::Ks {
        let [low, median, high] = score.ks_null.map(x);
        let _ = write!(
            svg,
            r#"<rect class="null" x="{low:.1}" y="5" width="{:.1}" height="12" rx="3"/>"#,
            (high - low).max(0.0)
        );
        line(&mut svg, "median", [median, 5.0, median, 17.0]);
    }
    let _ = write!(svg, r#"<circle class="paper ring" cx="{:.1}" cy="11" r="4.5"/>"#, x(score.paper));
    if let Some([low, high]) = score.interval {
        line(&mut svg, "ours bar", [x(low), 11.0, x(high), 11.0]);
    }
    if let Some(score) = score.score() {
        let _ = write!(svg, r#"<circle class="ours dot" cx="{:.1}" cy="11" r="4.5"/>"#, x(score));
    }
    svg + "</svg>"
}

/// The loss of a training over its steps, from 0 to its largest point.
pub fn loss(training: &ModelTraining) -> String {
    let (width, height, left, bottom) = (272.0, 112.0, 40.0, 92.0);
    let label = format!("Loss of {} of {} over {} steps", training.stage, training.model(), training.steps);
    let mut svg = open(width, height, &label);
    let largest = training.curve.mean.iter().copied().fold(0.0, f32::max);
    for (y, loss) in [(8.0, largest), (bottom, 0.0)] {
        line(&mut svg, "grid", [left, y, width - 6.0, y]);
        text(&mut svg, "tick", "end", left - 5.0, y + 4.0, &significant(f64::from(loss)));
    }
    text(&mut svg, "tick", "start", left, height - 4.0, "0");
    text(&mut svg, "tick", "end", width - 6.0, height - 4.0, &format!("{} steps", training.steps));
    let share = |mean: f32| if largest > 0.0 { f64::from(mean / largest) } else { 0.0 };
    let at_step = |(point, mean): (usize, &f32)| {
        let steps = f64::from(training.steps.min((point as u32 + 1).saturating_mul(training.curve.every)));
        let x = left + (width - 6.0 - left) * steps / f64::from(training.steps.max(1));
        [x, bottom - (bottom - 8.0) * share(*mean)]
    };
    let path: Vec<[f64; 2]> = training.curve.mean.iter().enumerate().map(at_step).collect();
    let points: Vec<String> = path.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(svg, r#"<polyline class="ours loss" points="{}"/>"#, points.join(" "));
    if let Some([x, y]) = path.last() {
        let _ = write!(svg, r#"<circle class="ours dot" cx="{x:.1}" cy="{y:.1}" r="2.5"/>"#);
    }
    svg + "</svg>"
}

fn legend(svg: &mut String, comparable: bool) {
    let _ = write!(svg, r#"<circle class="paper ring" cx="{:.1}" cy="12" r="4.5"/>"#, LEFT + 5.0);
    text(svg, "name", "start", LEFT + 15.0, 16.0, "paper, mean ±");
    let _ = write!(svg, r#"<circle class="ours dot" cx="{:.1}" cy="12" r="4.5"/>"#, LEFT + 185.0);
    text(svg, "name", "start", LEFT + 195.0, 16.0, "this run, mean ±");
    if !comparable {
        text(svg, "warn", "start", LEFT, 44.0, "STAND-IN: not comparable with the paper");
    }
}

/// The x coordinate of a value on an axis from 0 to `end`.
fn at(value: f64, end: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * value.clamp(0.0, end) / end
}

fn mark(svg: &mut String, mark: &Mark, y: f64, end: f64) {
    if let Some(std) = mark.std {
        line(svg, &format!("{} bar", mark.class), [at(mark.mean - std, end), y, at(mark.mean + std, end), y]);
    }
    let shape = if mark.filled { "dot" } else { "ring" };
    let x = at(mark.mean, end);
    let _ = write!(svg, r#"<circle class="{} {shape}" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#, mark.class);
}
