//! The canvas that pictures are brought to (ALGORITHM 1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::knob::{Knob, Reading};
use super::range::{Checked, SIDE_MAX, size};

/// The canvas on which all pictures of A are pasted (ALGORITHM 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pad {
    /// The canvas's size.
    pub target: Canvas,
    /// Where on the canvas the picture is placed.
    pub anchor: Anchor,
    /// The colour of the canvas around the picture.
    pub fill: Fill,
    /// What happens to a picture that is larger than the canvas.
    pub oversize: Oversize,
}

impl Default for Pad {
    fn default() -> Self {
        Self { target: Canvas::Size([4288, 2848]), anchor: Anchor::Center, fill: Fill::Black, oversize: Oversize::Fit }
    }
}

impl Pad {
    pub(super) fn check(&self) -> Checked {
        size("pad.target", self.target.nominal(), 8..=SIDE_MAX)
    }
}

/// The knobs of [`Pad`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::reading(
        "pad.target",
        Reading {
            section: "Fig. 2; V-A",
            paper: "the canvas is 2848×4288 pixels in the figure and 2448×4288 in the text",
            alternatives: "[4288, 2448]; auto_max; a rule like aspect:4/3",
            reason: "4288×2848 is a native frame of 12-megapixel cameras, and 2448 differs from it by one digit",
            allows: |it| match &it.pad.target {
                Canvas::Size(size) => [[4288, 2848], [4288, 2448]].contains(size),
                Canvas::Rule(_) => true,
            },
        },
    )
    .whole(8, SIDE_MAX),
    Knob::reading(
        "pad.anchor",
        Reading {
            section: "V-A",
            paper: "pictures are padded to one size; where on the canvas they stand is not said",
            alternatives: "top_left",
            reason: "the paper's heat maps show objects in the middle",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "pad.fill",
        Reading {
            section: "V-A",
            paper: "the background of the pictures is dark; the colour of the padding is not said",
            alternatives: "border_median; a colour",
            reason: "black is what padding without a colour gives",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "pad.oversize",
        Reading {
            section: "V-A",
            paper: "all pictures are brought to one size by padding; larger ones are not mentioned",
            alternatives: "crop",
            reason: "no part of a stone is lost",
            allows: |_| true,
        },
    ),
];

/// A place on the canvas; see [`Pad::anchor`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The middle.
    #[default]
    Center,
    /// The upper left corner.
    TopLeft,
}

/// What happens to a picture that is larger than the canvas; see [`Pad::oversize`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Oversize {
    /// The picture is scaled down until it fits, with its proportions.
    #[default]
    Fit,
    /// The parts beyond the canvas, which depend on the anchor, are cut off.
    Crop,
}

/// A canvas size; see [`Pad::target`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected [width, height], \"auto_max\" or for instance \"aspect:4/3\"")]
pub enum Canvas {
    /// Width and height in pixels.
    Size([u32; 2]),
    /// A size that follows from the model's pictures by a rule.
    Rule(CanvasRule),
}

/// A rule for the canvas size: `auto_max` or, for instance, `aspect:4/3`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum CanvasRule {
    /// The largest width and the largest height of the pictures.
    AutoMax,
    /// The smallest size with that ratio of width to height that holds all pictures.
    Aspect([u32; 2]),
}

impl TryFrom<String> for CanvasRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let aspect = || {
            let (width, height) = text.strip_prefix("aspect:")?.split_once('/')?;
            let aspect = [width.parse().ok()?, height.parse().ok()?];
            aspect.iter().all(|side: &u32| (1..=1000).contains(side)).then_some(CanvasRule::Aspect(aspect))
        };
        match text.as_str() {
            "auto_max" => Ok(CanvasRule::AutoMax),
            _ => aspect().ok_or_else(|| format!("{text:?}: expected [width, height], \"auto_max\" or \"aspect:4/3\"")),
        }
    }
}

impl From<CanvasRule> for String {
    fn from(rule: CanvasRule) -> String {
        match rule {
            CanvasRule::AutoMax => "auto_max".to_owned(),
            CanvasRule::Aspect([width, height]) => format!("aspect:{width}/{height}"),
        }
    }
}

impl Canvas {
    /// Width and height of the canvas for pictures of these sizes.
    pub fn size(&self, pictures: &[[u32; 2]]) -> [u32; 2] {
        let largest = [0, 1].map(|side| pictures.iter().map(|size| size[side]).max().unwrap_or(1).max(1));
        match self {
            Canvas::Size(size) => *size,
            Canvas::Rule(CanvasRule::AutoMax) => largest,
            Canvas::Rule(CanvasRule::Aspect([wide, high])) => {
                let ratio = f64::from(*wide) / f64::from(*high);
                let [width, height] = largest.map(f64::from);
                [width.max(height * ratio), height.max(width / ratio)].map(|side| side.round() as u32)
            }
        }
    }

    /// Width and height of the canvas for pictures of the paper's size, for planning.
    pub fn nominal(&self) -> [u32; 2] {
        self.size(&[[4288, 2848]])
    }
}

impl From<[u32; 2]> for Canvas {
    fn from(size: [u32; 2]) -> Self {
        Canvas::Size(size)
    }
}

/// Colour of the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// Zero in every channel.
    Black,
    /// The median of the picture's border, per channel.
    BorderMedian,
    /// This red, green and blue.
    Rgb([u8; 3]),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canvas_is_a_size_or_follows_from_the_pictures() {
        let size = |target: &str| {
            let pad: Pad = serde_json::from_str(&format!(r#"{{"target": {target}}}"#)).unwrap();
            assert_eq!(serde_json::to_value(&pad).unwrap()["target"].to_string(), target);
            pad.target.size(&[[4000, 2848], [4288, 2000]])
        };
        assert_eq!(size("[100,50]"), [100, 50]);
        assert_eq!(size(r#""auto_max""#), [4288, 2848]);
        assert_eq!(size(r#""aspect:4/3""#), [4288, 3216]);
        assert_eq!(size(r#""aspect:2/1""#), [5696, 2848]);
        let error = serde_json::from_str::<Pad>(r#"{"target": "aspect:0/3"}"#).unwrap_err().to_string();
        assert!(error.contains(r#"expected [width, height], "auto_max" or"#), "{error}");
    }
}
