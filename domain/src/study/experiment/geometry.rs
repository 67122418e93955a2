//! The sizes at which SinDDM looks at a picture (ALGORITHM 2.1).

/// The reference's rule for the short side of the coarsest scale, in pixels: by the aspect of
/// the picture, within limits.
const COARSEST_AREA: f64 = 3110.0;
const COARSEST_MIN: f64 = 42.0;
const COARSEST_MAX: f64 = 55.0;

/// The scales of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// Width and height of each scale in pixels, coarsest first.
    pub sizes: Vec<[u32; 2]>,
    /// Factor between neighbouring scales.
    pub factor: f64,
}

impl Geometry {
    /// Scales about `nominal` apart, from the size of the finest down to a short side of about
    /// `coarsest`; without that, the reference's rule decides.
    pub fn new(finest: [u32; 2], nominal: f64, coarsest: Option<u32>) -> Self {
        let [width, height] = finest.map(f64::from);
        let (short, long) = (width.min(height), width.max(height));
        let by_rule = || (COARSEST_AREA * short / long).sqrt().round_ties_even().clamp(COARSEST_MIN, COARSEST_MAX);
        let coarsest = coarsest.map_or_else(by_rule, f64::from);
        let steps = ((short / coarsest).ln() / nominal.ln()).round_ties_even().max(0.0);
        let factor = if steps > 0.0 { (short / coarsest).powf(1.0 / steps) } else { nominal };
        let size = |step: u32| {
            let shrink = factor.powi(steps as i32 - step as i32);
            [width, height].map(|side| (side / shrink).round_ties_even().max(1.0) as u32)
        };
        Self { sizes: (0..=steps as u32).map(size).collect(), factor }
    }
}
