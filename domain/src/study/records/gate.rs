//! What the gate of the generators measures and the limits that it draws, as the records of
//! training and sampling hold them.
//!
//! Limits follow from what real pictures measure: the range of their values, widened on
//! either side by its own width, and at least by a floor. Any real picture so lies within
//! the limits, and those of the others are wide enough for it unless it stands as far from
//! all of them as they are spread. With one picture there is no range, and the floors decide.

use serde::{Deserialize, Serialize};

use crate::study::results::Fault;

/// Least factor by which areas and contrasts may lie beyond those of the reals.
const FACTOR: f64 = 2.0;

/// Least distance by which the offset from the middle may, in shares of the frame's sides.
const OFFSET: f64 = 0.05;

/// Least share of the frame's edge by which what the object covers of it may.
const EDGE: f64 = 0.02;

/// Least number of grey levels by which the background may.
const BACKGROUND: f64 = 8.0;

/// What a picture is like, as far as the gate looks at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traits {
    /// Share of the frame that the object covers, 0 to 1. The object is the largest
    /// part that is brighter than Otsu's threshold, with its holes filled.
    pub area: f64,
    /// Parts that are brighter than that and at least a quarter as large as the largest.
    pub parts: u32,
    /// Distance of the object's centre of mass from the middle of the frame, each
    /// coordinate as a share of the side along it.
    pub offset: f64,
    /// Share of the frame's outermost pixels that belong to the object, 0 to 1.
    pub edge: f64,
    /// Mean grey level of what is not the object, 0 to 255.
    pub background: f64,
    /// By how many grey levels the object's mean is above that of the background.
    pub contrast: f64,
}

/// Within which limits a picture passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Least and largest area.
    pub area: [f64; 2],
    /// Most parts.
    pub parts: u32,
    /// Largest offset.
    pub offset: f64,
    /// Largest share of the edge.
    pub edge: f64,
    /// Brightest background.
    pub background: f64,
    /// Least contrast.
    pub contrast: f64,
}

impl Limits {
    /// Those that follow from real pictures; none from none.
    pub fn of(reals: &[Traits]) -> Option<Self> {
        let range = |of: fn(&Traits) -> f64| {
            let values = || reals.iter().map(of);
            Some([values().reduce(f64::min)?, values().reduce(f64::max)?])
        };
        let above = |[low, high]: [f64; 2], floor: f64| high + f64::max(high - low, floor);
        let times = |[low, high]: [f64; 2]| if low > 0.0 { f64::max(high / low, FACTOR) } else { f64::INFINITY };
        let (area, contrast) = (range(|real| real.area)?, range(|real| real.contrast)?);
        Some(Self {
            area: [area[0] / times(area), f64::min(area[1] * times(area), 1.0)],
            parts: above(range(|real| f64::from(real.parts))?, 0.0) as u32,
            offset: above(range(|real| real.offset)?, OFFSET),
            edge: above(range(|real| real.edge)?, EDGE),
            background: above(range(|real| real.background)?, BACKGROUND),
            contrast: contrast[0] / times(contrast),
        })
    }

    /// What is wrong with a picture of these traits; nothing if it passes.
    pub fn faults(&self, picture: &Traits) -> Vec<Fault> {
        let [least, most] = self.area;
        let found = [
            (Fault::Empty, picture.area == 0.0 || picture.contrast < self.contrast),
            (Fault::Size, picture.area < least || picture.area > most),
            (Fault::Several, picture.parts > self.parts),
            (Fault::OffCentre, picture.offset > self.offset || picture.edge > self.edge),
            (Fault::Background, picture.background > self.background),
        ];
        found.into_iter().filter(|(_, found)| *found).map(|(fault, _)| fault).collect()
    }
}
